"""DiT^DH: numbers of RAE's original, its options, what is refused, and the head as an option of the transformer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fae_core.cli.settings import resolve_settings
from fae_core.commands.groups import invoke
from fae_core.cost.measured import shorten
from fae_core.errors import FAEError, InvalidFile, UnknownName
from fae_core.latent_store import write_store
from fae_core.models.load import load_generator
from fae_core.models.presets import load_preset
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.testing import shared_folder, toy_latents
from fae_diffusion import LightningDiT, LightningDiTConfig, SiT, SiTConfig, integrate, time_grid
from fae_diffusion.guidance import Guidance
from fae_diffusion.integration import grid_of
from fae_diffusion.models.config import HeadConfig

SPEC = LatentSpec(6, 4, 4, 64, "toy/backbone")
SIZES = {"width": 32, "depth": 2, "heads": 2, "classes": 5, "time_embedding": "gaussian"}
HEAD = {"width": 64, "depth": 2, "heads": 4}
ORIGINAL = {
    "input_size": 4,
    "in_channels": 6,
    "hidden_size": [32, 64],
    "depth": [2, 2],
    "num_heads": [2, 4],
    "num_classes": 5,
}
FORWARD = {"atol": 5e-5, "rtol": 0}


def randomised(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(
                    torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3)
                )
    return model.eval()


def small(**fields: Any) -> LightningDiT:
    return randomised(LightningDiT(LightningDiTConfig(**{**SIZES, "head": HEAD, **fields}), SPEC))


def original_state(model: LightningDiT) -> dict[str, torch.Tensor]:
    """Our weights under the original's names, written out by hand from the parity README."""
    names = {
        "positions": "pos_embed",
        "head.patch_embedding.": "x_embedder.proj.",
        "patch_embedding.": "s_embedder.proj.",
        "head.projection.": "s_projector.",
        "time_embedding.frequencies": "t_embedder.W",
        "time_embedding.": "t_embedder.",
        "label_embedding.table.": "y_embedder.embedding_table.",
        "final.norm.": "final_layer.norm_final.",
        "final.modulation.": "final_layer.adaLN_modulation.1.",
        "final.linear.": "final_layer.linear.",
    }
    inside = {
        ".attention.": ".attn.",
        ".modulation.": ".adaLN_modulation.1.",
        ".mlp.gate_up.": ".mlp.w12.",
        ".mlp.up.": ".mlp.fc1.",
        ".mlp.down.": ".mlp.w3." if model.config.swiglu else ".mlp.fc2.",
    }
    state = {}
    for ours, tensor in model.state_dict().items():
        start = next((start for start in names if ours.startswith(start)), None)
        name = ours if start is None else names[start] + ours.removeprefix(start)
        for mine, theirs in inside.items():
            name = name.replace(mine, theirs)
        state[name] = tensor[..., None, None] if name.endswith("embedder.proj.weight") else tensor
    return state


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    return torch.load(shared_folder("cases", "parity", "rae_ditdh_A.pt"), weights_only=True)


@torch.no_grad()
def test_forward_is_the_original_s(case) -> None:
    model, inputs = LightningDiT.from_official(case["state_dict"], case["config"]), case["inputs"]
    for labels, key in (("y", "forward"), ("y_null", "forward_null")):
        ours = model(inputs["x"], inputs["t"], inputs[labels])
        torch.testing.assert_close(ours, case["outputs"][key], **FORWARD)


@torch.no_grad()
def test_guidance_of_all_channels_is_the_original_s(case) -> None:
    model, inputs = LightningDiT.from_official(case["state_dict"], case["config"]), case["inputs"]
    conditional, null = (model(inputs["x"], inputs["t"], inputs[key]) for key in ("y", "y_null"))
    ours = Guidance(scale=inputs["cfg_scale"]).combine(conditional, null, inputs["cfg_scale"])
    torch.testing.assert_close(torch.cat([ours, ours]), case["outputs"]["forward_with_cfg"], **FORWARD)


def test_everything_is_trained_but_the_position_table_and_the_frequencies_of_time(case) -> None:
    model = LightningDiT.from_official(case["state_dict"], case["config"])
    model(case["inputs"]["x"], case["inputs"]["t"], case["inputs"]["y"]).square().mean().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters()} - {"positions", "time_embedding.frequencies"}
    assert all(parameter.grad.norm() > 0 for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"swiglu": False}, {"use_swiglu": False}),
        ({"rms_norm": False}, {"use_rmsnorm": False}),
        ({"qk_norm": True}, {"use_qknorm": True}),
        ({"rope": False}, {"use_rope": False}),
        ({"position_table": False}, {"use_pos_embed": False}),
        ({"class_dropout": 0.0}, {"class_dropout_prob": 0.0}),
        ({"mlp_ratio": 2.5}, {"mlp_ratio": 2.5}),
        ({"head": {"width": 32, "depth": 1, "heads": 2}}, {"hidden_size": [32, 32], "depth": [2, 1], "num_heads": 2}),
        ({"head": {**HEAD, "depth": 0}}, {"depth": [2, 0], "patch_size": [1, 1], "input_size": [4, 4]}),
    ],
)
def test_every_option_of_the_original_is_read(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    model = small(**ours)
    read = LightningDiT.from_official(original_state(model), {**ORIGINAL, **theirs})
    z, t, labels = torch.randn(2, *SPEC.shape), torch.tensor([0.2, 0.9]), torch.tensor([1, 4])
    assert torch.equal(read(z, t, labels), model(z, t, labels))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"patch_size": 2}, InvalidFile, "runs with no other"),
        ({"patch_size": [1, 2]}, InvalidFile, "runs with no other"),
        ({"wo_shift": True}, InvalidFile, "do not run without shifts"),
        ({"hidden_size": 32}, InvalidFile, "hidden_size is a pair"),
        ({"patch_size": {"a": 1}}, InvalidFile, "patch_size is 1 in DiT"),
        ({"input_size": None}, InvalidFile, "arguments of the original ditdh: input_size"),
        ({"depth": [2, 3]}, InvalidFile, "lacks blocks.4"),
        ({"use_gembed": True}, UnknownName, "use_gembed"),
    ],
)
def test_what_the_original_cannot_have_is_refused(change: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        LightningDiT.from_official(original_state(small()), {**ORIGINAL, **change})


def test_another_rotation_of_the_head_is_refused() -> None:
    state = original_state(small()) | {"dec_feat_rope.freqs_cos": torch.ones(16, 16)}
    with pytest.raises(InvalidFile, match=r"dec_feat_rope\.freqs_cos is not the rotation"):
        LightningDiT.from_official(state, ORIGINAL)


def test_times_are_shifted_by_the_size_of_a_latent_and_sampling_ends_where_rae_s_does() -> None:
    wide = LatentSpec(96, 16, 16, 256, "toy/rae")
    head = LightningDiT(LightningDiTConfig(**SIZES, head=HEAD), wide)
    arguments = {**ORIGINAL, "input_size": 16, "in_channels": 96}
    model = LightningDiT.from_official(original_state(head), arguments)
    shift = math.sqrt(96 * 256 / 4096)
    assert (model.transport.shift, model.transport.time) == (shift, "logit_normal")
    assert LightningDiT.from_official(original_state(head), arguments, transport={"shift": 2.0}).transport.shift == 2.0
    noise = torch.randn(2, *wide.shape)
    # RAE's grid: 1 - linspace(0, 0.999, 50), then the shift.
    t = 1 - torch.linspace(0, 0.999, 50, dtype=torch.float64)
    times = shift * t / (1 + (shift - 1) * t)
    wanted = integrate(lambda z, t: model(z, t, torch.tensor([1, 2])), noise, times)
    with torch.no_grad():
        torch.testing.assert_close(model.sample([1, 2], noise=noise, sampling="rae"), wanted, atol=2e-4, rtol=0)


def test_autoguidance_by_name_needs_the_worse_model() -> None:
    model, weak = small(), small(depth=1)
    with pytest.raises(FAEError, match="rae-autoguidance guides by a worse model"):
        model.sample([1], random=SlotRandom(0, [0]), sampling="rae-autoguidance")
    by_name = model.sample([1], random=SlotRandom(0, [0]), sampling="rae-autoguidance", weak=weak)
    plain = model.sample([1], random=SlotRandom(0, [0]), steps=49, end=1e-3, guidance=1.42, weak=weak)
    assert torch.equal(by_name, plain)


def test_the_end_of_a_grid_is_shifted_with_it() -> None:
    model = small(transport={"shift": 3.0})
    grid = grid_of(model.config.sampling.model_copy(update={"steps": 4, "end": 0.1}), model.transport)
    torch.testing.assert_close(grid, time_grid(4, shift=3.0, end=0.25))  # 3 * 0.1 / (1 + 2 * 0.1)


def test_rae_s_own_lightningdit_is_read_too() -> None:
    """Gaussian time, our direction, patches as in LightningDiT."""
    fields = {**SIZES, "patch_size": 2}
    model = randomised(LightningDiT(LightningDiTConfig(**fields), SPEC))
    state = {name.replace("s_embedder", "x_embedder"): value for name, value in original_state(model).items()}
    state["x_embedder.proj.weight"] = model.patch_embedding.weight.unflatten(1, (6, 2, 2))
    config = {**ORIGINAL, "hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 2, "use_gembed": True}
    read = LightningDiT.from_official(state, config)
    z, t, labels = torch.randn(2, *SPEC.shape), torch.tensor([0.2, 0.9]), torch.tensor([1, 4])
    assert torch.equal(read(z, t, labels), model(z, t, labels))


def test_the_command_reads_a_checkpoint_and_names_a_wrong_one(tmp_path: Path) -> None:
    model = small()
    torch.save({"ema": original_state(model)}, tmp_path / "stage2_model.pt")
    sets = [word for key, value in ORIGINAL.items() for word in ("--set", f"{key}={value}")]
    invoke(["import", "ditdh", str(tmp_path / "stage2_model.pt"), "--out", str(tmp_path / "ditdh"), *sets])
    z, labels = torch.randn(2, *SPEC.shape), torch.tensor([1, 2])
    assert torch.equal(LightningDiT.from_pretrained(tmp_path / "ditdh")(z, 0.7, labels), model(z, 0.7, labels))
    torch.save({"pos_embed": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InvalidFile, match=r"other.pt is no DiT\^DH"):
        invoke(["import", "ditdh", str(tmp_path / "other.pt"), "--out", str(tmp_path / "other")])


def test_each_position_has_a_condition_of_its_own() -> None:
    """Attention off, a change of the blocks' view of one position changes the output there alone."""
    model = small()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.proj.weight.zero_()
    z, labels = torch.randn(1, *SPEC.shape), torch.tensor([1])
    before = model(z, 0.5, labels)
    with torch.no_grad():
        model.positions[0, 5] += 1
    changed = (model(z, 0.5, labels) - before).abs().amax((0, 1)).flatten()
    assert changed[5] > 1e-2 and (torch.cat([changed[:5], changed[6:]]) == 0).all()


def test_the_published_count_of_rae_s_largest_model() -> None:
    assert load_preset("ditdh-xl-rae")["parameters"] == 838_675_796  # printed as 839 M


def test_ditdh_xl_differs_from_lightningdit_xl_in_the_network_alone() -> None:
    ours, plain = load_preset("ditdh-xl"), load_preset("lightningdit-xl")
    head = {"time_embedding": "gaussian", "head": {"width": 2048, "depth": 2, "heads": 16}}
    assert ours["model"] == {**plain["model"], **head}
    assert (ours["training"], ours["spec"]) == (plain["training"], plain["spec"])


def test_sit_takes_a_head_too_and_trains_all_of_it() -> None:
    model = randomised(SiT(SiTConfig(**{**SIZES, "time_embedding": "sinusoids"}, head=HEAD), SPEC)).train()
    random = SlotRandom(0, range(3))
    model.loss(torch.randn(3, *SPEC.shape), torch.tensor([0, 1, 2]), random=random)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_recomputing_activations_and_removing_blocks_of_a_kind_keep_the_head_apart() -> None:
    plain, recomputed = small(), small(gradient_checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    z, labels = torch.randn(2, *SPEC.shape), torch.tensor([1, 2])
    torch.testing.assert_close(recomputed.train()(z, 0.3, labels), plain(z, 0.3, labels))
    for sizes in ({"head": HEAD}, {"depth": 4, "head": {**HEAD, "width": 32, "heads": 2}}):
        assert shorten(small(**sizes), 1)(z, 0.3, labels).isfinite().all()


def test_heads_that_do_not_divide_the_head_s_width_are_refused() -> None:
    with pytest.raises(ValueError, match="the head's width 64 is not a multiple of 3 heads"):
        LightningDiTConfig(**SIZES, head={**HEAD, "heads": 3})
    with pytest.raises(ValueError, match="multiple of 4, not 2"):
        LightningDiTConfig(**SIZES, head={**HEAD, "heads": 32})


def test_the_command_trains_it_on_latents_that_it_learns(tmp_path: Path) -> None:
    spec = LatentSpec(4, 2, 2, 32, "toy/backbone", fingerprint="toy")
    z, labels = toy_latents(spec, 48)
    write_store(tmp_path / "latents", spec, z, labels=labels.tolist(), classes=["a", "b", "c"])
    command = f"train diffusion --latents {tmp_path}/latents --out {tmp_path}/run --preset ditdh-tiny --device cpu"
    sets = (
        "--set model.width=32 --set model.head.width=48 --set training.log_every=50 --set training.learning_rate=0.003"
    )
    invoke([*command.split(), *sets.split(), "--steps", "200", "--batch-size", "24"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    model = load_generator(tmp_path / "run", spec=spec)
    assert model.config.head is not None and model.config.head.width == 48
    assert model.sample([0, 1], random=SlotRandom(0, range(2)), steps=2).shape == (2, *spec.shape)


def test_a_setting_on_the_command_line_gives_a_lightningdit_a_head() -> None:
    settings = resolve_settings("lightningdit-tiny", None, ["model.head.width=96", "model.head.heads=2"])
    assert LightningDiTConfig.model_validate(settings["model"]).head == HeadConfig(width=96, depth=2, heads=2)
