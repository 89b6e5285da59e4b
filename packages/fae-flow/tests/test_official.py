"""Official weights give the original's numbers (needs the shared cases), and are read key by key."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fae_core.errors import FAEError, InvalidFile
from fae_core.models.foreign import read_state_dict
from fae_core.testing import shared_folder
from fae_flow import FlowSampler, Jacobi, STARFlow
from fae_flow.official.checkpoint import constructor_arguments
from fae_flow.official.weights import _rename

ONE_PASS, SAMPLER = 5e-5, 2e-4


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    return torch.load(shared_folder("cases", "parity", "starflow_A.pt"), weights_only=True)


@pytest.fixture
def official(case) -> STARFlow:
    return STARFlow.from_official(case["state_dict"], case["config"], noise_std=case["inputs"]["noise_std"])


def _near(value: torch.Tensor, expected: torch.Tensor | float, tolerance: float) -> None:
    expected = torch.as_tensor(expected)
    assert value.shape == expected.shape
    assert (value - expected).abs().max() <= tolerance


def test_density_matches(case, official) -> None:
    inputs, outputs = case["inputs"], case["outputs"]
    trace = official.trace(inputs["x"], inputs["y"])
    noise, logdet = official(inputs["x"], inputs["y"])
    _near(noise, outputs["z"], ONE_PASS)
    for i, log_sigma in enumerate(trace.log_sigmas):
        _near(-log_sigma, outputs[f"logdet_{i}"], ONE_PASS)
    for i, state in enumerate(trace.states):
        _near(state, outputs[f"inter_{i}"].flatten(1, 2), ONE_PASS)
    total = sum(outputs[f"logdet_{i}"].sum((1, 2)) for i in range(3))
    torch.testing.assert_close(logdet, total, atol=1e-4, rtol=1e-5)


def test_loss_matches(case, official) -> None:
    inputs, outputs = case["inputs"], case["outputs"]
    settings = {"noise_std": 0.0, "regularization": 1e-4}  # the case's x carries its noise already
    model = STARFlow.from_official(case["state_dict"], case["config"], **settings)
    terms = model.loss(inputs["x"], inputs["y"])
    _near(terms["prior"], outputs["loss_z"], ONE_PASS)
    _near(terms["log_sigma"], outputs["loss_logdet"], ONE_PASS)
    _near(terms["prior"] + terms["log_sigma"], outputs["loss"], ONE_PASS)
    _near(terms["loss"], outputs["loss_reg1e-4"], ONE_PASS)
    _near(inputs["x_clean"] + inputs["noise_std"] * inputs["eps"], inputs["x"], 1e-6)


def test_gradients_match(case) -> None:
    inputs = case["inputs"]
    # The case differentiated the loss with the regulariser: its norms fit that one to 1e-6, the plain one only to 3e-4.
    model = STARFlow.from_official(case["state_dict"], case["config"], noise_std=0.0, regularization=1e-4)
    model.loss(inputs["x"], inputs["y"])["loss"].backward()
    # Norms travel through the importer's own renaming, as one-number tensors.
    norms = _rename({key: torch.tensor([norm]) for key, norm in case["grad_norms"].items()}, model.config)
    named = dict(model.named_parameters())
    assert norms.keys() == named.keys()
    for name, norm in norms.items():
        torch.testing.assert_close(named[name].grad.norm(), norm[0], atol=1e-6, rtol=1e-5)


def test_sampling_matches(case, official) -> None:
    inputs, outputs = case["inputs"], case["outputs"]
    y, null, z0 = inputs["y"], inputs["y_uncond"], inputs["z0"]
    _near(official.sample(y, noise=outputs["z"]), outputs["reverse_of_z"], SAMPLER)
    _near(official.sample(y, noise=z0), outputs["sample_w0"], SAMPLER)
    for w in inputs["guidance"]:
        _near(official.sample(y, noise=z0, guidance=1 + w, uncond=null), outputs[f"sample_w{w}"], SAMPLER)
    top = FlowSampler(official).trace(y, z0, guidance=1.7, uncond=null)[1]
    _near(top, outputs["sample_seq_top_w0.7"], SAMPLER)


def test_jacobi_matches(case, official) -> None:
    inputs, outputs = case["inputs"], case["outputs"]
    options = {"noise": inputs["z0"], "guidance": 1.7, "uncond": inputs["y_uncond"]}
    stretch = inputs["jacobi_block"]
    exact = official.sample(inputs["y"], jacobi=Jacobi(stretch, 0.0), **options)
    _near(exact, outputs["jacobi_exact_w0.7"], SAMPLER)
    loose = official.sample(inputs["y"], jacobi=Jacobi(stretch, 1e-3, per_sample=False), **options)
    _near(loose, outputs["jacobi_th1e-3_w0.7"], SAMPLER)


def test_denoising_matches(case, official) -> None:
    inputs, outputs = case["inputs"], case["outputs"]
    _near(official.denoise(outputs["sample_w0"], inputs["y"]), outputs["denoise_of_sample_w0"], SAMPLER)
    denoised = official.sample(inputs["y"], noise=inputs["z0"], denoise=True)
    _near(denoised, outputs["denoise_of_sample_w0"], SAMPLER)


# The rest needs no shared data: our own weights written in the original's layout.

ARGUMENTS = {
    "in_channels": 4,
    "img_size": 4,
    "patch_size": 1,
    "channels": 32,
    "num_blocks": 3,
    "layers_per_block": [1, 0, 1],
    "head_dim": 32,
    "rope": True,
    "sos": True,
    "txt_size": 1,
    "txt_dim": 4,
}
_BACK = (
    (".sos", ".sos_embed"),
    (".text.", ".proj_txt."),
    (".layers.", ".attn_blocks."),
    (".attention_norm.", ".attention.norm."),
    (".mlp_norm.", ".mlp.norm."),
    (".mlp.up.", ".mlp.main.0."),
    (".mlp.down.", ".mlp.main.2."),
    ("blocks.1.", "blocks.2."),  # an identity block in the middle has a number there
)


def _official_state(seed: int = 0) -> dict[str, torch.Tensor]:
    blank = {"denoise": False, "text_dim": 4, "text_tokens": 1, "width": 32, "head_dim": 32, "layers": (1, 0, 1)}
    from fae_core import LatentSpec
    from fae_flow import STARFlowConfig

    model = STARFlow(STARFlowConfig(**blank), LatentSpec(4, 4, 4, 32, "apple/ml-starflow"))
    state = {}
    random = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        for ours, theirs in _BACK:
            key = key.replace(ours, theirs)
        state[key] = torch.randn(value.shape, generator=random) * 0.1
        if key.endswith("sos_embed"):
            state[key] = state[key].view(1, 1, -1)
    return {
        **state,
        "var": torch.ones(16, 4),
        "blocks.0.attn_mask": torch.ones(17, 17),
        "feat_rope.freqs_cos": torch.ones(2),
    }


def test_identity_blocks_keep_their_number_there_and_their_direction_here() -> None:
    state, random = _official_state(), torch.get_rng_state()
    model = STARFlow.from_official(state, ARGUMENTS)
    assert torch.equal(torch.get_rng_state(), random)  # nothing is drawn that a file replaces
    assert [block.flip for block in model.blocks] == [False, False]
    assert [
        block.flip for block in STARFlow.from_official(_official_state(), {**ARGUMENTS, "seq_order": "L2R"}).blocks
    ] == [
        True,
        True,
    ]


def test_one_hot_labels_become_class_labels() -> None:
    state = _official_state()
    text, labels = STARFlow.from_official(state, ARGUMENTS), STARFlow.from_official(state, ARGUMENTS, classes=3)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    one_hot = torch.eye(4)[[2, 0]].unsqueeze(1)
    expected = text.sample(one_hot, noise=noise, guidance=2.0, uncond=torch.eye(4)[[3, 3]].unsqueeze(1))
    torch.testing.assert_close(labels.sample(torch.tensor([2, 0]), noise=noise, guidance=2.0), expected)
    with pytest.raises(InvalidFile, match="5 classes"):
        STARFlow.from_official(state, ARGUMENTS, classes=5)


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("change", [lambda tensor: None, lambda tensor: tensor[:-1], lambda tensor: tensor[..., None]])
def test_projections_of_labels_that_do_not_fit_are_one_line(part, change) -> None:
    state = _official_state()
    name = next(name for name in state if name.endswith(f"proj_txt.{part}"))
    state[name] = change(state[name])
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    for classes in (None, 3):
        with pytest.raises(
            InvalidFile, match=r"^the official checkpoint is of another model: .*(text|labels)"
        ) as raised:
            STARFlow.from_official(state, ARGUMENTS, classes=classes)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_pretrained_lm": "gemma2_2b"}, "use_pretrained_lm"),
        ({"learnable_self_denoiser": 1}, "video"),
        ({"use_swiglu": True}, "of another model"),
        ({"head_dim": 18}, "rotations"),
        ({"layers_per_block": 2}, "official STARFlow config: layers_per_block"),
        ({"patch_size": 0}, "official STARFlow config: patch_size"),
        ({"img_size": None}, "official STARFlow config: img_size"),
        ({"num_blocks": "3 blocks"}, "official STARFlow config: num_blocks"),
    ],
)
def test_what_cannot_be_imported_is_named(change, message) -> None:
    with pytest.raises(FAEError, match=message):
        STARFlow.from_official(_official_state(), {**ARGUMENTS, **change})


def test_missing_arguments_are_named() -> None:
    with pytest.raises(InvalidFile, match=r"img_size: .*patch_size: "):
        STARFlow.from_official({}, {k: v for k, v in ARGUMENTS.items() if k not in ("img_size", "patch_size")})


def test_the_released_yaml_is_understood() -> None:
    released = {
        "arguments": [
            {"img_size": 256},
            {"channel_size": 4},
            {"blocks": 6},
            {"layers_per_block": "2 2 2 2 2 24"},
            {"vae": "stabilityai/sd-vae-ft-ema"},
            {"txt_size": 128},
        ]
    }
    arguments = constructor_arguments(released, {"blocks.5.proj_txt.weight": torch.zeros(8, 2048)})
    assert arguments["img_size"] == 32
    assert arguments["in_channels"] == 4
    assert arguments["num_blocks"] == 6
    assert arguments["layers_per_block"] == [2, 2, 2, 2, 2, 24]
    assert arguments["txt_dim"] == 2048


def test_import_command_writes_a_model_that_loads(tmp_path) -> None:
    import yaml

    from fae_core.commands.groups import invoke
    from fae_core.models.load import load_generator

    state = _official_state()
    torch.save({"model": state}, tmp_path / "official.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**ARGUMENTS, "noise_std": 0.25}))
    out = tmp_path / "model"
    call = ["import", "starflow", str(tmp_path / "official.pth"), "--config", str(tmp_path / "config.yaml")]
    invoke([*call, "--out", str(out), "--classes", "3"])
    model = load_generator(out)
    assert model.config.noise_std == 0.25
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = STARFlow.from_official(state, ARGUMENTS, classes=3).sample(torch.tensor([1]), noise=noise)
    assert torch.equal(model.sample(torch.tensor([1]), noise=noise), expected)


def test_averaged_weights_are_imported_unless_another_section_is_named(tmp_path) -> None:
    import yaml

    from fae_core.commands.groups import invoke
    from fae_core.models.load import load_generator

    states = {"ema": _official_state(1), "model": _official_state(2)}
    torch.save(states, tmp_path / "official.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ARGUMENTS))
    call = ["import", "starflow", str(tmp_path / "official.pth"), "--config", str(tmp_path / "config.yaml")]
    for name, options in (("ema", []), ("model", ["--section", "model"])):
        invoke([*call, *options, "--out", str(tmp_path / name)])
        wanted = STARFlow.from_official(states[name], ARGUMENTS).state_dict()
        found = load_generator(tmp_path / name).state_dict()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_files_that_are_not_checkpoints_are_refused(tmp_path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"model": {"w": torch.zeros(1)}, "code": print}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    for name, message in (
        ("empty.pth", "not a readable"),
        ("code.pth", "nothing else is loaded"),
        ("none.pth", "no weights"),
    ):
        with pytest.raises(InvalidFile, match=message):
            read_state_dict(tmp_path / name)
    with pytest.raises(InvalidFile, match="does not exist"):
        read_state_dict(tmp_path / "absent.pth")
