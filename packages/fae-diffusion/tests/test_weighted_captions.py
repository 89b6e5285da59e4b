"""Several captions of an image, by weights: recorded, refused, and the same however a run is divided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_core.files import read_yaml
from fae_core.images.caption_choice import CaptionChoice
from fae_core.images.captions import join_captions
from fae_core.latent_store import LatentStore, write_store
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.training.order import SampleOrder
from fae_diffusion import MMDiT, MMDiTConfig
from fae_diffusion.text.cache import TextCache
from fae_diffusion.text.encoder import TextEncoder
from fae_diffusion.text.training import CaptionTask

pytest.importorskip("google.protobuf", reason="the extra fae-diffusion[text] is not installed")
SPEC = LatentSpec(4, 2, 2, 32, "toy/backbone", fingerprint="toy")
CORPUS = [
    f"a {kind} of the {thing}"
    for kind in ("photo", "painting")
    for thing in ["dog", "cat", "ship", "car", "tree", "house", "day", "night"]
]


@pytest.fixture(scope="module")
def t5(make_t5: Callable[..., Path]) -> Path:
    return make_t5()


def small_store(folder: Path, **texts: object) -> LatentStore:
    z = torch.randn(12, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    return write_store(folder, SPEC, z, **texts)


def weighted_run(t5: Path, folder: Path, *more: str) -> None:
    model = f"width=16 depth=1 heads=2 text_width=16 text_encoder.name={t5} text_encoder.max_length=24".split()
    sets = [word for field in model for word in ("--set", f"model.{field}")]
    command = f"train diffusion --preset mmdit-tiny --latents {folder}/latents --out {folder}/run --device cpu"
    invoke([*command.split(), *sets, "--steps", "20", "--batch-size", "4", *more])


def test_weights_of_captions_are_recorded_and_kept_when_a_run_goes_on(t5: Path, tmp_path: Path) -> None:
    small_store(tmp_path / "latents", captions=[join_captions([text, "a cat"], "") for text in CORPUS[:12]])
    weighted_run(t5, tmp_path, "--caption-weights", "0.25,0.75")
    assert read_yaml(tmp_path / "run" / "config.yaml")["caption_weights"] == [0.25, 0.75]
    assert len(TextCache(tmp_path / "latents.text")) == 1 + 12 + 1  # the null prompt, and each distinct caption once
    with pytest.raises(FAEError, match=r"caption_weights: \[0.25, 0.75\] then, None now"):
        weighted_run(t5, tmp_path, "--resume")


def test_wrong_weights_of_captions_are_refused_before_anything_is_embedded(t5: Path, tmp_path: Path) -> None:
    small_store(tmp_path / "latents", captions=[join_captions([text, "a cat"], "") for text in CORPUS[:12]])
    for weights, reason in (
        ("1", r"sample 0 has another number of captions \(2\) than there are weights \(1\)"),
        ("1,2,3", r"than there are weights \(3\)"),
        ("1,-1", "at least 0, not -1"),
        ("0,0", "need a sum above 0"),
    ):
        with pytest.raises(FAEError, match=reason):
            weighted_run(t5, tmp_path, "--caption-weights", weights)
    assert not (tmp_path / "latents.text").exists() and not (tmp_path / "run").exists()
    with pytest.raises(FAEError, match="--caption-weights is for models of text"):
        invoke(f"train diffusion --latents {tmp_path}/latents --out {tmp_path}/x --caption-weights 1".split())


def test_a_sample_s_caption_is_the_same_for_any_batch_process_and_start(t5: Path, tmp_path: Path) -> None:
    captions = [join_captions(CORPUS[i : i + 4], "") for i in range(12)]
    store = small_store(tmp_path / "latents", captions=captions)
    cache = TextCache.build(tmp_path / "cache", TextEncoder(str(t5), max_length=24), CORPUS[:15])
    choice = CaptionChoice([1, 2, 3, 4])

    def tokens(batch_size: int, steps: range, processes: int) -> dict[tuple[int, int], torch.Tensor]:
        config = MMDiTConfig(width=16, depth=1, heads=2, text_width=16)
        model = MMDiT(config, SPEC)
        task = CaptionTask(model, store, captions, cache, choice=choice, batch_size=batch_size)
        found, order, share = {}, SampleOrder(3, len(store)), batch_size // processes
        for step in steps:
            indices = order.batch(step, batch_size)
            for rank in range(processes):
                slots = range(rank * share, (rank + 1) * share)
                batch = task.load([indices[slot] for slot in slots], SlotRandom(3, slots, step))
                for slot, row, mask in zip(slots, batch["tokens"], batch["mask"], strict=True):
                    found[(step * batch_size + slot) // len(store), indices[slot]] = row[mask]
        return found

    whole = tokens(8, range(6), 1)  # four epochs of twelve
    assert len(whole) == 48
    for other in (tokens(8, range(6), 2), tokens(16, range(3), 4), tokens(8, range(3, 6), 1)):
        assert all(torch.equal(whole[key], other[key]) for key in other)
    wanted = choice.draw(captions, range(12), [2] * 12, 3)
    for index, caption in enumerate(wanted):
        embedded = cache.read([caption])
        assert torch.equal(whole[2, index], embedded.tokens[0][embedded.mask[0]])
