"""MMDiT: its original's numbers, the paper's parameter counts, masks, and the generators' conformance suite."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile
from fae_core.models.presets import load_preset
from fae_core.random import SlotRandom
from fae_core.spec import LatentSpec
from fae_core.testing import GeneratorConformance, shared_folder
from fae_diffusion import MMDiT, MMDiTConfig, TextCondition, Transport

SMALL = {"width": 32, "depth": 2, "heads": 2, "text_width": 12}
SPEC = LatentSpec(4, 2, 4, (32, 64), "toy/backbone")


def prompts(count: int, length: int = 5, width: int = 12, seed: int = 0) -> TextCondition:
    random = torch.Generator().manual_seed(seed)
    return TextCondition(torch.randn(count, length, width, generator=random))


class OfLabels(MMDiT):
    """Reads class labels as fixed prompts, so that the conformance suite can call it."""

    def _check_condition(self, condition, batch, device):
        if isinstance(condition, torch.Tensor) and condition.ndim == 1:
            condition = prompts(3)[condition]
        return super()._check_condition(condition, batch, device)


class TestMMDiT(GeneratorConformance):
    sample_options: ClassVar[dict[str, object]] = {"steps": 4, "guidance": 2.0}

    def make(self, spec: LatentSpec) -> MMDiT:
        return OfLabels(MMDiTConfig(**SMALL), spec)

    def test_save_and_load_agree(self, generator, spec, tmp_path) -> None:
        generator.save_pretrained(tmp_path / "model")
        loaded = OfLabels.from_pretrained(tmp_path / "model", spec=spec)
        assert all(torch.equal(a, loaded.state_dict()[name]) for name, a in generator.state_dict().items())


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_normed_heads_are_trained_where_they_are_used(norm) -> None:
    """The last block's text has no queries: their norm, which checkpoints hold, stays, and processes do not wait."""
    TestMMDiT().test_the_loss_reaches_all_that_is_trained(OfLabels(MMDiTConfig(**SMALL, qk_norm=norm), SPEC), SPEC)


@pytest.fixture
def model() -> MMDiT:
    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig(**SMALL), SPEC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_the_original_s_numbers() -> None:
    stored = torch.load(shared_folder("cases", "parity", "repa_mmdit_A.pt"), weights_only=True)
    inputs, outputs = stored["inputs"], stored["outputs"]
    model = MMDiT.from_official(stored["state_dict"], stored["config"])
    x, t, context, noise = (inputs[name] for name in ("x", "t", "context", "noise"))
    with torch.no_grad():
        velocity, projected = model.with_projections(x, t, context)
        torch.testing.assert_close(model(x, t, context), outputs["forward"], atol=5e-5, rtol=0)
        torch.testing.assert_close(velocity, outputs["forward"], atol=5e-5, rtol=0)
        torch.testing.assert_close(projected[0], outputs["z_0"], atol=5e-5, rtol=0)
    transport = Transport()
    state = transport.coefficients(t, x).state(x, noise)
    losses = transport.loss(model(state, t, context), x, noise, t)["loss"]
    torch.testing.assert_close(losses, outputs["fm_loss_per_sample"], atol=5e-5, rtol=0)
    losses.mean().backward()
    ours = sorted(p.grad.norm().item() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(
        torch.tensor(ours), torch.tensor(sorted(stored["grad_norms"].values())), atol=1e-4, rtol=1e-3
    )


def count(name: str, **fields: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MMDiT.from_preset(name, **fields).parameters())


@pytest.mark.parametrize(
    ("name", "printed"), [("mmdit-256", 603_456_544), ("mmdit-384", 2_017_838_624)]
)  # printed as 603.46 M and 2017.84 M
def test_parameter_counts_of_the_paper(name: str, printed: int) -> None:
    """Appendix D's are met by SigLIP2's text width, or by 1024 and a learned table of positions for 128 text tokens."""
    assert count(f"{name}-siglip2") == printed
    table = 128 * load_preset(name)["model"]["width"]
    assert count(name, text_width=1024) + table == printed


def test_t5_xl_s_width_meets_table_3_and_not_appendix_d() -> None:
    assert load_preset("mmdit-256")["model"]["text_width"] == load_preset("mmdit-384")["model"]["text_width"] == 2048
    assert count("mmdit-256") == 604_374_048
    assert round(count("mmdit-256") / 1e6) == 604  # table 3; appendix D prints 603.46 M
    assert count("mmdit-384") == 2_019_214_880


@pytest.mark.parametrize("size", [256, 384])
def test_the_paper_s_text_model_reads_t5_xl_and_its_variant_siglip2(size: int) -> None:
    """Section 5.2 and table 3 name T5-XL; the variant differs in the text alone."""
    paper, variant = (load_preset(f"mmdit-{size}{end}") for end in ("", "-siglip2"))
    assert paper["model"]["text_encoder"] == {"name": "google/flan-t5-xl", "max_length": 128}
    name = f"google/siglip2-giant-opt-patch16-{size}"
    assert variant["model"]["text_encoder"] == {"name": name, "max_length": 64}
    text = {"text_width", "text_encoder", "null_length"}
    assert {k: v for k, v in paper["model"].items() if k not in text} == {
        k: v for k, v in variant["model"].items() if k not in text
    }
    assert (paper["training"], paper["spec"]) == (variant["training"], variant["spec"])


def test_the_former_name_of_the_t5_preset_names_the_present_one() -> None:
    for command in ("info mmdit-256-t5", "config mmdit-256-t5", "train diffusion --preset mmdit-256-t5 --out none"):
        with pytest.raises(FAEError, match="the preset mmdit-256-t5 is named mmdit-256 now"):
            invoke(command.split())
    with pytest.raises(FAEError, match="the preset mmdit-256-t5 is named mmdit-256 now"):
        MMDiT.from_preset("mmdit-256-t5")


def test_masked_tokens_do_not_matter(model: MMDiT) -> None:
    z, text = torch.randn(2, *SPEC.shape, generator=torch.Generator().manual_seed(1)), prompts(2)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    other = text.tokens.clone()
    other[1, 3:] = 7.0
    first, second = model(z, 0.4, (text.tokens, mask)), model(z, 0.4, TextCondition(other, mask))
    torch.testing.assert_close(first, second)
    alone = model(z[1:], 0.4, text.tokens[1:, :3])
    torch.testing.assert_close(first[1:], alone, atol=1e-5, rtol=1e-5)


def test_padding_does_not_matter(model: MMDiT) -> None:
    z, text = torch.randn(2, *SPEC.shape, generator=torch.Generator().manual_seed(1)), prompts(2)
    torch.testing.assert_close(model(z, 0.4, text), model(z, 0.4, text.padded(9)), atol=1e-5, rtol=1e-5)


def test_the_null_prompt_is_saved_with_the_model(model: MMDiT, tmp_path) -> None:
    before = model.sample(None, random=SlotRandom(0, [0]), steps=2)
    model.set_null(TextCondition(prompts(1, length=4, seed=9).tokens, torch.tensor([[True, True, False, False]])))
    after = model.sample(None, random=SlotRandom(0, [0]), steps=2)
    assert not torch.allclose(before, after)
    model.save_pretrained(tmp_path / "model")
    loaded = MMDiT.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.sample(None, random=SlotRandom(0, [0]), steps=2), after)
    with pytest.raises(FAEError, match="room for 8"):
        model.set_null(prompts(1, length=9))


def test_guidance_and_its_null_prompt_are_one_batched_call(model: MMDiT) -> None:
    rows = []
    model.register_forward_pre_hook(lambda module, inputs: rows.append((len(inputs[0]), len(inputs[2]))))
    model.sample(prompts(3), random=SlotRandom(0, range(3)), steps=2, guidance=3.0)
    assert rows == [(6, 6), (6, 6)]


def test_dropout_replaces_whole_prompts(model: MMDiT) -> None:
    text = prompts(64)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    model.train().loss(torch.zeros(64, *SPEC.shape), text, random=SlotRandom(0, range(64)))
    dropped = (seen[0].tokens[:, :5] != text.tokens).flatten(1).any(1)
    assert 0 < dropped.sum() < 20
    assert (seen[0].mask.sum(1) == torch.where(dropped, 1, 5)).all()


def test_other_grids_use_the_middle_of_the_position_table() -> None:
    model = MMDiT(MMDiTConfig(**SMALL, position_size=6), SPEC)
    assert torch.equal(model._crop((2, 4)), model.positions[2:4, 1:5].flatten(0, 1))
    assert model(torch.zeros(1, 4, 6, 5), 0.5, prompts(1)).shape == (1, 4, 6, 5)
    with pytest.raises(FAEError, match="exceeds the position table"):
        model(torch.zeros(1, 4, 7, 5), 0.5, prompts(1))
    with pytest.raises(FAEError, match="patches of 2 do not tile latents of 3x4"):
        MMDiT(MMDiTConfig(**{**SMALL, "patch_size": 2}), SPEC)(torch.zeros(1, 4, 3, 4), 0.5, prompts(1))


def test_text_of_another_width_is_refused(model: MMDiT) -> None:
    with pytest.raises(FAEError, match=r"\(2, L, 12\)"):
        model.sample(prompts(2, width=13), random=SlotRandom(0, range(2)))
    with pytest.raises(FAEError, match="names no text encoder"):
        model.sample(["a cat"], random=SlotRandom(0, [0]))


def test_checkpoints_of_other_options_are_refused() -> None:
    with pytest.raises(InvalidFile, match="lacks patch_embedding"):
        MMDiT.from_official({}, {})
    with pytest.raises(FAEError, match="did you mean depth"):
        MMDiT.from_official({}, {"detph": 3})


def test_the_import_command_reads_the_parity_checkpoint(tmp_path) -> None:
    stored = torch.load(shared_folder("cases", "parity", "repa_mmdit_A.pt"), weights_only=True)
    torch.save({"ema": stored["state_dict"]}, tmp_path / "repa.pt")
    (tmp_path / "config.yaml").write_text(json.dumps(stored["config"]))
    command = f"import mmdit {tmp_path}/repa.pt --out {tmp_path}/mmdit --config {tmp_path}/config.yaml"
    invoke(command.split())
    inputs = stored["inputs"]
    with torch.no_grad():
        velocity = MMDiT.from_pretrained(tmp_path / "mmdit")(inputs["x"], inputs["t"], inputs["context"])
    torch.testing.assert_close(velocity, stored["outputs"]["forward"], atol=5e-5, rtol=0)
