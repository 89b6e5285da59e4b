"""Importing checkpoints: what is exact, what is refused, and the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile, OutputExists
from fae_core.layers import TimestepEmbedding
from fae_core.spec import LatentSpec
from fae_diffusion import LightningDiT, SiT
from fae_diffusion.official.checkpoint import read_checkpoint
from fae_diffusion.official.transformer import architecture, reverse_time

ARGUMENTS = {"input_size": 4, "in_channels": 3, "hidden_size": 32, "depth": 1, "num_heads": 2, "num_classes": 5}


def official_state(arguments: dict) -> dict[str, torch.Tensor]:
    """A checkpoint with the original LightningDiT's names and shapes, written out by hand from the parity README."""
    random = torch.Generator().manual_seed(0)
    width, patch, channels = arguments["hidden_size"], arguments.get("patch_size", 2), arguments["in_channels"]
    tokens = (arguments["input_size"] // patch) ** 2
    shapes = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "y_embedder.embedding_table.weight": (arguments["num_classes"] + 1, width),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.0.mlp.fc1.bias": (4 * width,),
        "blocks.0.mlp.fc2.weight": (width, 4 * width),
        "blocks.0.mlp.fc2.bias": (width,),
        "blocks.0.adaLN_modulation.1.weight": (6 * width, width),
        "blocks.0.adaLN_modulation.1.bias": (6 * width,),
        "final_layer.linear.weight": (patch * patch * channels * (2 if arguments.get("learn_sigma") else 1), width),
        "final_layer.linear.bias": (patch * patch * channels * (2 if arguments.get("learn_sigma") else 1),),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.adaLN_modulation.1.bias": (2 * width,),
    }
    return {name: 0.1 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


def test_reversing_time_in_the_weights_is_exact() -> None:
    torch.manual_seed(0)
    embedding = TimestepEmbedding(16).double()
    t = torch.linspace(0, 1, 9)
    before = embedding(1 - t)
    embedding.mlp[0].weight.data = reverse_time(embedding.mlp[0].weight.data)
    torch.testing.assert_close(embedding(t), before, atol=1e-5, rtol=0)  # the features are fp32
    torch.testing.assert_close(reverse_time(reverse_time(embedding.mlp[0].weight)), embedding.mlp[0].weight)


@torch.no_grad()
def test_repa_s_sit_has_our_time_and_leaves_its_projectors_out() -> None:
    """Its network is SiT's: as SiT's own checkpoint, the same weights run the other way."""
    state = official_state(ARGUMENTS)
    mine = SiT.from_official({**state, "projectors.0.0.weight": torch.zeros(8, 32)}, {**ARGUMENTS, "encoder_depth": 1})
    theirs = SiT.from_official(state, {**ARGUMENTS, "learn_sigma": False})
    z, labels = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 4])
    torch.testing.assert_close(mine(z, 0.3, labels), -theirs(z, 0.7, labels), atol=1e-5, rtol=0)
    assert mine.config == theirs.config


def test_repa_s_path_is_ours() -> None:
    state = {**official_state(ARGUMENTS), "projectors.0.0.weight": torch.zeros(8, 32)}
    for given, ours in (({}, "linear"), ({"path_type": "linear"}, "linear"), ({"path_type": "cosine"}, "gvp")):
        assert SiT.from_official(state, {**ARGUMENTS, **given}).transport.path == ours
    mine = SiT.from_official(state, {**ARGUMENTS, "path_type": "cosine"}, transport={"time": "logit_normal"})
    assert (mine.transport.path, mine.transport.time) == ("gvp", "logit_normal")
    t = torch.linspace(0, 1, 5)
    at = mine.transport.coefficients(t, torch.zeros(5))
    quarter = torch.pi / 2  # as REPA's loss.py has it
    torch.testing.assert_close(at.alpha, torch.cos(t * quarter))
    torch.testing.assert_close(at.d_sigma, quarter * torch.cos(t * quarter))
    for wrong in ("nonsense", None, ["linear"]):
        with pytest.raises(InvalidFile, match="path_type is linear or cosine in REPA's SiT, not") as raised:
            SiT.from_official(state, {**ARGUMENTS, "path_type": wrong})
        assert "\n" not in str(raised.value)


def test_wrappers_in_front_of_names_are_ignored() -> None:
    state, random = official_state(ARGUMENTS), torch.get_rng_state()
    plain = LightningDiT.from_official(state, ARGUMENTS)
    assert torch.equal(torch.get_rng_state(), random)  # nothing is drawn that a file replaces
    wrapped = LightningDiT.from_official({f"module._orig_mod.{k}": v for k, v in state.items()}, ARGUMENTS)
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 4])
    assert torch.equal(plain(z, 0.4, labels), wrapped(z, 0.4, labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra.weight": torch.zeros(1)}, "has unknown extra.weight"),
        ({"blocks.0.norm1.weight": torch.zeros(32)}, "has unknown blocks.0.norm1.weight"),
        ({"pos_embed": torch.zeros(1, 9, 32)}, "has another shape for positions"),
        ({"feat_rope.freqs_cos": torch.zeros(4, 16)}, "use_rope off"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        LightningDiT.from_official({**official_state(ARGUMENTS), **change}, ARGUMENTS)


def test_another_rotation_is_refused() -> None:
    state = official_state(ARGUMENTS)
    state |= {"feat_rope.freqs_cos": torch.ones(4, 16), "feat_rope.freqs_sin": torch.zeros(4, 16)}
    with pytest.raises(InvalidFile, match="not the rotation"):
        LightningDiT.from_official(state, {**ARGUMENTS, "use_rope": True})


@pytest.mark.parametrize("given", [None, "abc", [8, 8, 8], {"a": 1}, 1.5])
def test_wrong_sizes_of_latents_are_one_line(given: object) -> None:
    for name in ("input_size", "in_channels"):
        with pytest.raises(InvalidFile, match=f"^arguments of the original sit: {name}") as raised:
            SiT.from_official({}, {**ARGUMENTS, name: given})
        assert "\n" not in str(raised.value)


def test_unknown_arguments_and_foreign_specs_are_refused() -> None:
    with pytest.raises(FAEError, match=r"hidden_sise.*hidden_size"):
        SiT.from_official({}, {"hidden_sise": 3})
    with pytest.raises(InvalidFile, match="do not fit"):
        SiT.from_official({}, ARGUMENTS, spec=LatentSpec(3, 8, 8, 64, "toy/backbone"))


def test_the_average_is_preferred_and_sections_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    torch.save({"model": {"w": torch.zeros(2)}, "ema": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1.0)}, path)
    assert read_checkpoint(path)["w"].tolist() == [1.0, 1.0]
    assert read_checkpoint(path, "model")["w"].tolist() == [0.0, 0.0]
    with pytest.raises(InvalidFile, match="no section 'best'; it has ema, model"):
        read_checkpoint(path, "best")


class _Hostile:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("owned"),))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.zeros(1)}, "payload": _Hostile()}, tmp_path / "bad.pt")
    with pytest.raises(InvalidFile, match="nothing else is loaded"):
        read_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a checkpoint"])
def test_damaged_files_get_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("bad.pt", "bad.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidFile) as raised:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_the_command_writes_a_model_folder(tmp_path: Path) -> None:
    state = official_state({**ARGUMENTS, "learn_sigma": True})
    torch.save({"ema": state, "model": {k: torch.zeros_like(v) for k, v in state.items()}}, tmp_path / "sit.pt")
    sets = [word for k, v in ARGUMENTS.items() for word in ("--set", f"{k}={v}")]
    invoke(["import", "sit", str(tmp_path / "sit.pt"), "--out", str(tmp_path / "sit"), *sets])
    loaded = SiT.from_pretrained(tmp_path / "sit")
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = SiT.from_official(state, ARGUMENTS)(z, 0.7, torch.tensor([1, 2]))
    assert torch.equal(loaded(z, 0.7, torch.tensor([1, 2])), expected)
    with pytest.raises(OutputExists):
        invoke(["import", "sit", str(tmp_path / "sit.pt"), "--out", str(tmp_path / "sit"), *sets])


def test_the_command_takes_safetensors_statistics_and_our_own_fields(tmp_path: Path) -> None:
    save_file(official_state(ARGUMENTS), tmp_path / "dit.safetensors")
    torch.save({"mean": torch.ones(1, 3, 1, 1), "std": torch.full((1, 3, 1, 1), 2.0)}, tmp_path / "latents_stats.pt")
    (tmp_path / "arguments.yaml").write_text("\n".join(f"{k}: {v}" for k, v in ARGUMENTS.items()))
    command = f"import lightningdit {tmp_path}/dit.safetensors --out {tmp_path}/dit --config {tmp_path}/arguments.yaml"
    sets = "--set model.sampling.guidance.scale=6.7 --set model.transport.shift=2"
    invoke([*command.split(), "--statistics", f"{tmp_path}/latents_stats.pt", *sets.split()])
    model = LightningDiT.from_pretrained(tmp_path / "dit")
    assert model.spec.mean == (1.0,) * 3 and model.spec.std == (2.0,) * 3
    assert model.config.sampling.guidance.scale == 6.7 and model.config.transport.shift == 2.0


def test_sizes_have_the_original_names() -> None:
    assert architecture("sit", "SiT-XL/2") == {"depth": 28, "hidden_size": 1152, "num_heads": 16, "patch_size": 2}
    with pytest.raises(FAEError, match="did you mean"):
        architecture("sit", "XXL/2")
