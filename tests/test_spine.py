"""The whole line through the command line at its smallest: real photographs in, pictures of two generators out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fae_core import LatentSpec, LatentSpecMismatch, LatentStore, load_generator, load_tokenizer
from fae_core.cli.main import main
from fae_core.commands.groups import invoke
from fae_core.errors import FAEError
from fae_core.files import read_yaml
from fae_core.images import load_batch, open_images
from fae_core.random import SlotRandom
from fae_core.training import LiveLatents


def fae(line: str, **paths: Path) -> None:
    invoke([part.format(**paths) for part in line.split()])


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of every stage; the tests below look at what it left."""
    root = tmp_path_factory.mktemp("spine")
    brief = "--set training.checkpoint_every=1000 --set training.log_every=1"
    fae("crops photographs --out {r}/data --count 24 --held-out 16 --size 128", r=root)
    fae(
        "train autoencoder --data {r}/data/train --out {r}/autoencoder --preset feature-decoder-demo --steps 6 "
        "--set model.width=48 --set model.heads=2 --set model.depth=1 " + brief,
        r=root,
    )
    small = "--set model.width=48 --set model.heads=2 --set model.depth=1 --steps 4 "
    fae(
        "train pixel --stage noise --data {r}/data/train --encoder fae-lite0-demo --out {r}/noise "
        "--preset pixel-decoder-demo " + small + brief,
        r=root,
    )
    fae(
        "train pixel --stage finetune --data {r}/data/train --autoencoder {r}/autoencoder --init {r}/noise "
        "--out {r}/tokenizer --preset pixel-decoder-demo --steps 3 " + brief,
        r=root,
    )
    fae("encode --data {r}/data/train --model {r}/autoencoder --out {r}/latents --dtype float32", r=root)
    fae(
        "train diffusion --latents {r}/latents --out {r}/diffusion --preset lightningdit-tiny --steps 5 " + brief,
        r=root,
    )
    fae("train flow --latents {r}/latents --out {r}/flow --preset starflow-tiny --steps 5 " + brief, r=root)
    for generator in ("diffusion", "flow"):
        fae(
            f"sample --generator {{r}}/{generator} --decoder {{r}}/tokenizer "
            f"--out {{r}}/samples-{generator} --count 16",
            r=root,
        )
    return root


def test_every_stage_leaves_a_run_folder_with_its_model(line: Path) -> None:
    for stage in ("autoencoder", "noise", "tokenizer", "diffusion", "flow"):
        assert (line / stage / "config.yaml").is_file() and (line / stage / "metrics.jsonl").is_file()
        assert (line / stage / "model" / "config.json").is_file()
        assert len(list((line / stage / "checkpoints").glob("step-*"))) == 1


def test_latents_carry_the_tokenizers_spec_and_unit_statistics(line: Path) -> None:
    store, tokenizer = LatentStore(line / "latents"), load_tokenizer(line / "tokenizer")
    tokenizer.spec.require(store.spec)
    z, labels = store.read(range(len(store)))
    assert len(store) == 24 and sorted(set(np.asarray(labels).tolist())) == list(range(8))
    assert z.mean((0, 2, 3)).abs().max() < 0.05 and (z.std((0, 2, 3)) - 1).abs().max() < 0.05
    images = load_batch(open_images(str(line / "data" / "train")), [0, 1], 128)
    torch.testing.assert_close(tokenizer.encode(images), z[:2], atol=1e-3, rtol=0)


def test_latents_reload_with_the_core_alone(line: Path) -> None:
    program = (
        "import sys; from fae_core import LatentStore; s = LatentStore(sys.argv[1]); z, y = s.read([0, 5]); "
        "assert z.shape == (2, *s.spec.shape); "
        "assert not {m for m in sys.modules if m.split('.')[0] in ('fae_encoder', 'timm', 'transformers')}; "
        "print(s.spec.backbone)"
    )
    done = subprocess.run([sys.executable, "-c", program, line / "latents"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "timm/tf_efficientnet_lite0"


def test_two_generators_one_store_one_decoder(line: Path) -> None:
    decoder = load_tokenizer(line / "tokenizer")
    labels = torch.tensor([0, 3])
    for name in ("diffusion", "flow"):
        generator = load_generator(line / name, spec=decoder.spec)
        z = generator.sample(labels, random=SlotRandom(0, [0, 3]))
        images = decoder.decode(z)
        assert images.shape == (2, 3, 64, 64) and images.min() >= 0 and images.max() <= 1
        stored = [np.asarray(Image.open(line / f"samples-{name}" / "images" / f"{i:06d}.png")) for i in (0, 3)]
        ours = (images * 255).round().permute(0, 2, 3, 1).numpy()
        assert np.abs(ours - np.stack(stored)).max() <= 2


def test_samples_do_not_depend_on_the_batch_size_and_resume(line: Path, tmp_path: Path) -> None:
    common = "sample --generator {r}/flow --decoder {r}/tokenizer --out {o} --count 16 --batch-size 5"
    fae(common, r=line, o=tmp_path / "s")
    first = {p.name: p.read_bytes() for p in (tmp_path / "s" / "images").iterdir()}
    for name in first:
        ours, theirs = (
            np.asarray(Image.open(f)).astype(int)
            for f in (tmp_path / "s" / "images" / name, line / "samples-flow" / "images" / name)
        )
        assert np.abs(ours - theirs).max() <= 1
    for name in sorted(first)[3:7]:
        (tmp_path / "s" / "images" / name).unlink()
    fae(common + " --resume", r=line, o=tmp_path / "s")
    assert json.loads((tmp_path / "s" / "samples.json").read_text())["provenance"]["made_now"] == 4
    again = {p.name: p.read_bytes() for p in (tmp_path / "s" / "images").iterdir()}
    assert again.keys() == first.keys()


def test_checkpoints_are_generators_whose_convergence_is_measured(line: Path, tmp_path: Path) -> None:
    fae(
        "train diffusion --latents {r}/latents --out {o}/run --preset lightningdit-tiny --steps 6 "
        "--set training.log_every=1 "
        "--set training.checkpoint_every=2 --set training.keep_checkpoints=2 --set training.ema_decay=0.5",
        r=line,
        o=tmp_path,
    )
    steps = {int(path.name[5:]): path for path in (tmp_path / "run" / "checkpoints").iterdir()}
    last, exported = (load_generator(path).state_dict() for path in (steps[6], tmp_path / "run"))
    assert all(torch.equal(last[name], exported[name]) for name in exported)  # the averages, not the plain weights
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert all(torch.equal(tensor, last[name]) for name, tensor in load_generator(steps[6]).state_dict().items())
    finally:
        torch.set_default_dtype(torch.float32)
    assert any(not torch.equal(last[name], tensor) for name, tensor in load_generator(steps[4]).state_dict().items())
    fae("sample --generator {g} --decoder {r}/tokenizer --out {o}/s --count 9", g=steps[4], r=line, o=tmp_path)
    common = (
        "eval {what} --decoder {r}/tokenizer --reference {r}/data/train --extractor efficientnet-lite2@32 --size 64 "
    )
    fae(
        common + "--generator {o}/run --count 9 --no-cache --out {o}/results",
        what="convergence",
        r=line,
        o=tmp_path,
    )
    record = json.loads((tmp_path / "results" / "convergence.json").read_text())
    assert [row[1] for row in record["table"]["rows"]] == [4, 6]
    assert all(row[2] > 0 and row[3] == 9 and row[4] > 0 for row in record["table"]["rows"])
    # Drawn for the measurement or written and read again: the same pixels, so the same number.
    both = "--samples {o}/s --generator drawn={g} --count 9 --metrics fid --no-cache --out {o}/results"
    fae(common + both, what="generation", g=steps[4], r=line, o=tmp_path)
    written = json.loads((tmp_path / "results" / "generation.json").read_text())
    assert written["table"]["rows"][0][2] == record["table"]["rows"][0][4]
    drawn = ((record, "samples step 4"), (written, "samples s"), (written, "samples drawn"))
    assert len({found["provenance"][name]["hash"] for found, name in drawn}) == 1


def test_sample_container_is_adms(line: Path) -> None:
    with np.load(line / "samples-flow" / "samples.npz", allow_pickle=False) as container:
        assert container["arr_0"].shape == (16, 64, 64, 3) and container["arr_0"].dtype == np.uint8
        assert container["arr_1"].tolist() == [i % 8 for i in range(16)]
        last = np.asarray(Image.open(line / "samples-flow" / "images" / "000015.png"))
        assert np.array_equal(container["arr_0"][15], last)


def test_a_generator_of_another_space_is_refused(line: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    generator = load_generator(line / "diffusion")
    foreign = LatentSpec.from_dict({**generator.spec.to_dict(), "fingerprint": "somebody else's"})
    with pytest.raises(LatentSpecMismatch, match="fingerprint"):
        load_generator(line / "diffusion", spec=foreign)
    type(generator)(generator.config, foreign).save_pretrained(tmp_path / "foreign")
    with pytest.raises(SystemExit) as stop:
        arguments = f"sample --generator {tmp_path}/foreign --decoder {line}/tokenizer --out {tmp_path}/o --count 2"
        main(arguments.split())
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: latent spaces differ") and "fingerprint" in error


def test_training_on_a_store_of_another_space_is_refused(line: Path, tmp_path: Path) -> None:
    from fae_core.training import GeneratorTask

    generator = load_generator(line / "flow")
    other = type(generator)(generator.config, generator.spec.with_statistics([0.0] * 16, [2.0] * 16))
    with pytest.raises(LatentSpecMismatch, match="std"):
        GeneratorTask(other, LatentStore(line / "latents"))


def test_output_in_use_is_refused_and_kept(line: Path, capsys: pytest.CaptureFixture) -> None:
    before = (line / "flow" / "model" / "config.json").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(f"train flow --latents {line}/latents --out {line}/flow --preset starflow-tiny --steps 5".split())
    assert stop.value.code == 2 and "--overwrite" in capsys.readouterr().err
    assert (line / "flow" / "model" / "config.json").read_bytes() == before


def test_a_generator_shows_and_measures_what_it_makes_while_it_trains(line: Path, tmp_path: Path) -> None:
    """Straight from images, encoded in every step; previews are drawn from averaged weights and do not change the
    training."""
    arguments = (
        "train flow --data {r}/data/train --tokenizer {r}/tokenizer --preset starflow-tiny --steps 4 --batch-size 4 "
        "--set training.log_every=1 --out "
    )
    shown = (
        " --set training.preview_every=2 --set preview.decoder={r}/tokenizer --set preview.count=8 "
        "--set preview.measured=16 "
        "--set preview.reference={r}/data/held-out --set preview.extractor=efficientnet-lite2@64"
    )
    fae(arguments + "{t}/plain", r=line, t=tmp_path)
    fae(arguments + "{t}/shown" + shown, r=line, t=tmp_path)
    grids = sorted(path.name for path in (tmp_path / "shown" / "samples").iterdir())
    assert grids == ["step-00000002.png", "step-00000004.png"]
    rows = [json.loads(text) for text in (tmp_path / "shown" / "metrics.jsonl").read_text().splitlines()]
    distances = [row["preview_FD-efficientnet-lite2@64"] for row in rows if "preview_FD-efficientnet-lite2@64" in row]
    assert len(distances) == 2 and min(distances) > 0
    plain, shown_weights = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("plain", "shown"))
    assert plain == shown_weights


def test_live_latents_are_those_of_the_store(line: Path) -> None:
    live = LiveLatents(open_images(str(line / "data" / "train")), load_tokenizer(line / "tokenizer"))
    store = LatentStore(line / "latents")
    z, labels = live.read([3, 17, 5])
    stored, stored_labels = store.read([3, 17, 5])
    torch.testing.assert_close(z, stored, atol=1e-4, rtol=0)
    assert labels.tolist() == stored_labels.tolist()
    drawn, _ = live.read([3, 17, 5], SlotRandom(0, range(3)))
    from_store, _ = store.read([3, 17, 5], SlotRandom(0, range(3)))
    torch.testing.assert_close(drawn, from_store, atol=1e-3, rtol=0)
    store.spec.require(live.spec)


def test_live_latents_mirror_the_images_that_a_store_with_mirror_images_mirrors(line: Path, tmp_path: Path) -> None:
    fae(
        "encode --data {r}/data/train --model {r}/tokenizer --flip --dtype float32 --out {t}/latents",
        r=line,
        t=tmp_path,
    )
    live = LiveLatents(open_images(str(line / "data" / "train")), load_tokenizer(line / "tokenizer"), flip=True)
    store, plain = LatentStore(tmp_path / "latents"), LatentStore(line / "latents")
    places = list(range(12))
    drawn, _ = live.read(places, SlotRandom(0, places))
    torch.testing.assert_close(drawn, store.read(places, SlotRandom(0, places))[0], atol=1e-3, rtol=0)
    unlike = (drawn - plain.read(places, SlotRandom(0, places))[0]).abs().flatten(1).amax(1) > 0.01
    assert 0 < unlike.sum() < 12, "some images are mirrored, and some are not"
    torch.testing.assert_close(live.read(places)[0], plain.read(places)[0], atol=1e-4, rtol=0)


def test_flip_is_for_images_is_recorded_and_stays_when_training_goes_on(line: Path, tmp_path: Path) -> None:
    live = (
        "train diffusion --data {r}/data/train --tokenizer {r}/tokenizer --preset sit-tiny --batch-size 4 "
        "--set training.schedule_steps=9 --out {t}/x"
    )
    fae(live + " --flip --steps 1", r=line, t=tmp_path)
    assert read_yaml(tmp_path / "x" / "config.yaml")["flip"] is True
    with pytest.raises(FAEError, match="flip"):
        fae(live + " --resume --steps 2", r=line, t=tmp_path)
    fae(live + " --flip --resume --steps 2", r=line, t=tmp_path)
    fae(live + " --overwrite --steps 1", r=line, t=tmp_path)
    with pytest.raises(FAEError, match="flip: False then, True now"):
        fae(live + " --flip --resume --steps 2", r=line, t=tmp_path)
    for command in ("diffusion", "flow"):
        with pytest.raises(FAEError, match="--flip is for --data; a latent store has mirror images where"):
            fae(f"train {command} --latents {{r}}/latents --flip --out {{t}}/y", r=line, t=tmp_path)


def test_training_needs_latents_or_images_with_a_tokenizer(line: Path, tmp_path: Path) -> None:
    for wrong in ("", "--data {r}/data/train", "--latents {r}/latents --tokenizer {r}/tokenizer"):
        with pytest.raises(FAEError, match="either --latents STORE, or --data IMAGES with --tokenizer"):
            fae(f"train diffusion {wrong} --out {{t}}/x", r=line, t=tmp_path)
