"""Claims about FAEEncoder: presets, what is trained, what is saved, and that changed weights are detected."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call

from fae_core import LatentSpec, SlotRandom, load_tokenizer
from fae_core.errors import FAEError, InvalidFile, LatentSpecMismatch, UnknownName
from fae_core.models.presets import load_preset, preset_files
from fae_core.models.rounding import compact_weights
from fae_encoder import FAEEncoder, FeatureNorm, Posterior, create_backbone

PRESETS = [name for name in preset_files() if load_preset(name)["model_type"] == "fae-encoder"]


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder() -> FAEEncoder:
    torch.manual_seed(0)
    return FAEEncoder.from_preset("fae-tiny").with_statistics([0.5] * 8, [2.0] * 8)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_on_meta_with_the_parameters_it_states(name: str) -> None:
    preset = load_preset(name)
    with torch.device("meta"):
        encoder = FAEEncoder.from_preset(name)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == preset["parameters"]
    assert encoder.spec.channels == preset["model"]["channels"]
    assert encoder.spec.backbone == preset["model"]["backbone"]["name"]


@pytest.mark.parametrize(
    ("name", "shape", "image", "seen"),
    [
        ("fae-dinov2-g-32", (32, 16, 16), 256, 224),
        ("fae-dinov2-g-reg-32", (32, 16, 16), 256, 224),
        ("fae-siglip2-g-opt-32", (32, 16, 16), 256, 256),
        ("fae-siglip2-g-opt-384-64", (64, 24, 24), 384, 384),
        ("fae-lite0-32", (32, 8, 8), 128, 128),
        ("fae-lite0-demo", (16, 8, 8), 64, 128),
    ],
)
def test_image_size_and_backbone_size_are_separate(name: str, shape: tuple, image: int, seen: int) -> None:
    with torch.device("meta"):
        encoder = FAEEncoder.from_preset(name)
    assert encoder.spec.shape == shape
    assert encoder.spec.image_size == image
    assert encoder.backbone.image_size == (seen, seen)
    assert encoder.read_size == (max(image, seen),) * 2


def test_encode_is_the_normalised_mean_or_a_reproducible_sample(encoder: FAEEncoder) -> None:
    posterior = encoder.posterior(images())
    z = encoder.encode(images())
    assert z.shape == (2, 8, 4, 4)
    torch.testing.assert_close(z, (posterior.mean.detach() - 0.5) / 2)
    token = encoder.adapt(encoder.features(images())).mean[1, :, 2, 3]
    torch.testing.assert_close(token, encoder.adapter(encoder.features(images()), (4, 4))[0][1, 2 * 4 + 3])
    sampled = encoder.encode(images(), sample=True, random=SlotRandom(1, [5, 6]))
    alone = encoder.encode(images()[1:], sample=True, random=SlotRandom(1, [6]))
    torch.testing.assert_close(sampled[1:], alone)
    assert (sampled - z).abs().mean() > 0.1
    for slots in ([5], [5, 6, 7]):
        with pytest.raises(FAEError, match=f"2 images for {len(slots)} random slots"):
            encoder.encode(images(), sample=True, random=SlotRandom(1, slots))


def test_only_the_adapter_learns(encoder: FAEEncoder) -> None:
    encoder.train()
    encoder.posterior(images()).kl().mean().backward()
    assert {n.split(".")[0] for n, p in encoder.named_parameters() if p.grad is not None} == {"adapter"}
    assert all(p.grad is not None for p in encoder.adapter.parameters())
    assert not encoder.backbone.training


def test_kl_is_that_of_gaussians() -> None:
    mean, std = torch.tensor([[[[1.0]]]]), 0.5
    posterior = Posterior(mean, torch.full_like(mean, 2 * math.log(std)))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(1.0, 0.5), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(posterior.kl().squeeze(), exact)
    assert Posterior(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)).kl().item() == 0.0


def test_feature_norm_standardises_what_it_measured_and_inverts(encoder: FAEEncoder) -> None:
    before = encoder.features(images(8))
    assert encoder.feature_norm.is_identity
    encoder.measure_features(images(8).split(3))
    after = encoder.features(images(8))
    torch.testing.assert_close(after.mean((0, 1)), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.std((0, 1), correction=0), torch.ones(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(encoder.feature_norm.inverse(after), before, atol=1e-5, rtol=1e-5)
    with pytest.raises(FAEError, match="std positive"):
        encoder.feature_norm.set_statistics(torch.zeros(64), torch.zeros(64))
    with pytest.raises(FAEError, match="at least one batch"):
        encoder.feature_norm.measure([])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_feature_norm_of_0_and_1_changes_no_bit(dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(26, dtype=torch.float64), torch.tensor([-0.0, 1e-7, math.inf, -math.inf, 0, 3e4])]).to(
        dtype
    )
    norm = FeatureNorm(4)
    assert norm(x.view(8, 4)).dtype == norm.inverse(x.view(8, 4)).dtype == dtype
    assert torch.equal(norm(x.view(8, 4)).flatten().view(torch.uint8), x.view(torch.uint8))
    assert torch.equal(norm.inverse(x.view(8, 4)).flatten(), x)


def test_feature_statistics_count_however_they_came() -> None:
    x, source = torch.randn(3, 4), FeatureNorm(4)
    average = torch.optim.swa_utils.AveragedModel(source, use_buffers=True)
    copied, called, loaded = (FeatureNorm(4) for _ in range(3))
    source.set_statistics(torch.arange(4.0), torch.full((4,), 2.0))
    average.update_parameters(source)
    loaded.load_state_dict(source.state_dict())
    for name, buffer in copied.named_buffers():  # as DistributedDataParallel does
        buffer.copy_(source.get_buffer(name))
    expected = (x - torch.arange(4.0)) / 2
    for result in (
        source(x),
        average(x),
        copied(x),
        loaded(x),
        functional_call(called, dict(source.named_buffers()), x),
    ):
        torch.testing.assert_close(result, expected)
    assert not copied.is_identity and not average.module.is_identity and called.is_identity


def test_a_spread_that_was_looked_at_without_gradients_has_them() -> None:
    logvar = torch.zeros(1, 1, 1, 1, requires_grad=True)
    posterior = Posterior(torch.zeros(1, 1, 1, 1), logvar)
    with torch.no_grad():
        assert posterior.std == 1
    posterior.sample(SlotRandom(0, [0])).square().backward()
    assert logvar.grad is not None and logvar.grad > 0


@pytest.mark.parametrize("include", ["auto", True])
def test_what_is_saved_encodes_the_same(encoder: FAEEncoder, tmp_path: Path, include) -> None:
    encoder.measure_features([images(4)])
    encoder.save_pretrained(tmp_path / "e", include_backbone=include)
    loaded = load_tokenizer(tmp_path / "e")
    assert torch.equal(loaded.encode(images()), encoder.encode(images()))
    assert loaded.spec == encoder.spec
    assert loaded.spec.fingerprint == loaded.fingerprint() != ""
    again = loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(FAEEncoder.from_pretrained(again).encode(images()), encoder.encode(images()))


def test_refetchable_backbones_are_named_and_checked_not_stored(tmp_path: Path) -> None:
    encoder = FAEEncoder.from_preset("fae-lite0-16")
    encoder.save_pretrained(tmp_path / "e")
    assert not any(name.startswith("backbone") for name in load_file(tmp_path / "e" / "model.safetensors"))
    x = torch.rand(1, 3, 128, 128)
    assert torch.equal(FAEEncoder.from_pretrained(tmp_path / "e").encode(x), encoder.encode(x))
    path = tmp_path / "e" / "config.json"
    path.write_text(path.read_text().replace('"weights": "pip"', '"weights": null'))
    with pytest.raises(InvalidFile, match="pass weights=PATH"):
        FAEEncoder.from_pretrained(tmp_path / "e")
    FAEEncoder.from_pretrained(tmp_path / "e", verify=False)
    assert torch.equal(FAEEncoder.from_pretrained(tmp_path / "e", weights="pip").encode(x), encoder.encode(x))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_loading_moves_no_generator_and_does_not_ask_for_the_default_dtype(
    tmp_path: Path, default: torch.dtype
) -> None:
    encoder = FAEEncoder.from_preset("fae-lite0-16")
    encoder.save_pretrained(tmp_path / "e")
    before = torch.get_rng_state()
    torch.set_default_dtype(default)
    try:
        loaded = FAEEncoder.from_pretrained(tmp_path / "e")
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == encoder.state_dict()[name].dtype and torch.equal(tensor, encoder.state_dict()[name]), (
            name
        )


@pytest.mark.parametrize("part", ["backbone.network", "adapter", "feature_norm"])
def test_changed_weights_are_noticed(encoder: FAEEncoder, tmp_path: Path, part: str) -> None:
    encoder.save_pretrained(tmp_path / "e")
    path = tmp_path / "e" / "model.safetensors"
    state = load_file(path)
    name = next(n for n in state if n.startswith(part))
    state[name] = state[name] + 1e-3
    save_file(state, path)
    with pytest.raises(InvalidFile, match=r"not those|do not match"):
        FAEEncoder.from_pretrained(tmp_path / "e")
    FAEEncoder.from_pretrained(tmp_path / "e", verify=False)


def test_damage_and_strangers_are_one_line_errors(encoder: FAEEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "e")
    weights = tmp_path / "e" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(InvalidFile, match="damaged"):
        FAEEncoder.from_pretrained(tmp_path / "e")
    state = load_file_bytes(whole)
    del state["adapter.out.bias"]
    save_file(state, weights)
    with pytest.raises(InvalidFile, match=r"lacks adapter\.out\.bias"):
        FAEEncoder.from_pretrained(tmp_path / "e")
    config = tmp_path / "e" / "config.json"
    config.write_text(json.dumps({"model_type": "sit", "config": {}}))
    with pytest.raises(InvalidFile, match="holds a 'sit' model"):
        FAEEncoder.from_pretrained(tmp_path / "e")


def load_file_bytes(data: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(data)


def test_a_whole_faes_folder_gives_its_encoder(encoder: FAEEncoder, tmp_path: Path) -> None:
    (tmp_path / "fae").mkdir()
    (tmp_path / "fae" / "config.json").write_text(json.dumps({"model_type": "fae", "config": {}}))
    encoder.save_pretrained(tmp_path / "fae" / "encoder")
    assert torch.equal(FAEEncoder.from_pretrained(tmp_path / "fae").encode(images()), encoder.encode(images()))


def test_a_foreign_spec_is_refused(encoder: FAEEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "e")
    with pytest.raises(LatentSpecMismatch, match="std"):
        FAEEncoder.from_pretrained(tmp_path / "e", spec=encoder.spec.with_statistics([0.5] * 8, [3.0] * 8))
    with pytest.raises(LatentSpecMismatch, match="height"):
        FAEEncoder.from_preset("fae-tiny", spec=LatentSpec(8, 8, 4, 64, "timm/test_vit", adapter="attention"))


def test_overrides_replace_single_fields() -> None:
    encoder = FAEEncoder.from_preset("fae-tiny", channels=4, adapter={"type": "linear"}, backbone={"image_size": 32})
    assert encoder.spec.shape == (4, 2, 2)
    assert encoder.spec.adapter == "linear"
    assert encoder.backbone.name == "timm/test_vit"
    with pytest.raises(InvalidFile, match="chanels"):
        FAEEncoder.from_preset("fae-tiny", chanels=4)
    with pytest.raises(UnknownName, match="did you mean fae-tiny"):
        FAEEncoder.from_preset("fae-tinny")


def test_half_precision_keeps_statistics_and_normalisation_exact(encoder: FAEEncoder, tmp_path: Path) -> None:
    encoder.measure_features([images(4)])
    z = encoder.encode(images())
    encoder.save_pretrained(tmp_path / "e")
    half = FAEEncoder.from_pretrained(tmp_path / "e", dtype=torch.bfloat16)
    assert half.adapter.out.weight.dtype == torch.bfloat16
    assert half.backbone.mean.dtype == half.feature_norm.std.dtype == torch.float32
    torch.testing.assert_close(half.encode(images()), z, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_saved_in_half_precision_is_loaded_and_checked(encoder: FAEEncoder, tmp_path: Path, dtype) -> None:
    encoder.to(dtype).save_pretrained(tmp_path / "e")
    half, whole = FAEEncoder.from_pretrained(tmp_path / "e", dtype=dtype), FAEEncoder.from_pretrained(tmp_path / "e")
    assert torch.equal(half.encode(images()), encoder.eval().encode(images()))
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    assert whole.fingerprint() == half.fingerprint() == whole.spec.fingerprint
    weights = tmp_path / "e" / "model.safetensors"
    state = load_file(weights)
    state["adapter.out.weight"][0, 0] += 1
    save_file(state, weights)
    with pytest.raises(InvalidFile, match="fingerprint"):
        FAEEncoder.from_pretrained(tmp_path / "e")


def test_rounding_changes_the_adapter_alone_and_the_fingerprint_with_it(encoder: FAEEncoder, tmp_path: Path) -> None:
    encoder.feature_norm.set_statistics(torch.linspace(-0.1, 0.1, 64), torch.full((64,), 0.7))
    before, old = {name: value.clone() for name, value in encoder.state_dict().items()}, encoder.stamp()
    encoder.round_parameters(torch.float16)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name].half().float() if name.startswith("adapter.") else before[name]), name
    assert encoder.spec.fingerprint not in ("", old.fingerprint)
    old.require(encoder.spec, ignore=("fingerprint",))
    weights = encoder.save_pretrained(tmp_path / "e") / "model.safetensors"
    whole = weights.stat().st_size
    compact_weights(weights, torch.float16)
    assert weights.stat().st_size < whole - 2 * 70_000  # two bytes for each of the adapter's 70,672 numbers
    loaded = FAEEncoder.from_pretrained(tmp_path / "e")  # compares both fingerprints
    assert loaded.spec == encoder.spec and torch.equal(loaded.encode(images()), encoder.eval().encode(images()))


def test_a_fingerprint_follows_choices_that_no_weight_shows() -> None:
    def made(adapter: dict | None = None, **backbone) -> FAEEncoder:
        torch.manual_seed(0)
        return FAEEncoder.from_preset("fae-tiny", backbone=backbone, adapter=adapter or {})

    encoders = {
        "plain": made(),
        "mean": made(mean=(0.1, 0.2, 0.3)),
        "std": made(std=(0.1, 0.2, 0.3)),
        "filter": made(interpolation="bilinear"),
        "layers": made(layers=(-2,)),
        "mean of layers": made(layers=(-2, -1), combine="mean"),
        "sum of layers": made(layers=(-2, -1), combine="sum"),
        "no final norm": made(final_norm=False),
        "heads": made({"heads": 2}),
        "activation": made({"activation": "relu"}),
        "rope": made({"rope": True}),
        "input norm": made({"input_norm": "layer"}),
    }
    assert len({encoder.fingerprint() for encoder in encoders.values()}) == len(encoders)
    assert made().fingerprint() == encoders["plain"].fingerprint()
    features = [
        encoders[name].features_fingerprint()
        for name in ("plain", "mean", "std", "filter", "layers", "mean of layers", "sum of layers")
    ]
    assert len(set(features)) == len(features)


def test_the_identity_adapter_on_averaged_layers_is_raev2(tmp_path: Path) -> None:
    """Latents are the mean of the layers, and a saved encoder gives the same ones; for one layer it is RAE."""
    torch.manual_seed(0)
    layers = {"layers": (-3, -2, -1), "combine": "mean"}
    encoder = FAEEncoder.from_preset("fae-tiny", backbone=layers, adapter={"type": "identity"}, channels=64)
    features = encoder.backbone(images())
    z = encoder.encode(images())
    assert z.shape[1] == encoder.backbone.dim == 64
    torch.testing.assert_close(z.flatten(2).transpose(1, 2), features)
    encoder.save_pretrained(tmp_path / "e")
    assert torch.equal(FAEEncoder.from_pretrained(tmp_path / "e").encode(images()), z)


def test_encoders_saved_before_the_filter_was_recorded_keep_their_fingerprint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = FAEEncoder.from_preset("fae-tiny", backbone={"mean": (0.1, 0.2, 0.3)}, adapter={"activation": "relu"})
    encoder.save_pretrained(tmp_path / "e")
    stored = json.loads((tmp_path / "e" / "config.json").read_text())
    for field in ("interpolation", "revision", "classifier"):
        stored["config"]["backbone"].pop(field)
    (tmp_path / "e" / "config.json").write_text(json.dumps(stored))
    loaded = FAEEncoder.from_pretrained(tmp_path / "e", verify=False)
    assert loaded.backbone.preprocess.interpolation == "bicubic"
    earlier = loaded.stamp().fingerprint
    assert earlier != encoder.spec.fingerprint
    loaded.save_pretrained(tmp_path / "again")
    assert FAEEncoder.from_pretrained(tmp_path / "again").stamp().fingerprint == earlier


def test_weights_without_a_classifier_come_back_from_a_saved_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = create_backbone("timm/test_vit", image_size=64).network.model.state_dict()
    torch.save(
        {"teacher": {f"backbone.{n}": v for n, v in whole.items() if not n.startswith("head.")}}, tmp_path / "w.pth"
    )
    encoder = FAEEncoder.from_preset("fae-tiny", weights=tmp_path / "w.pth", backbone={"name": "timm/test_vit"})
    assert not encoder.config.backbone.classifier
    encoder.save_pretrained(tmp_path / "e")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(FAEEncoder.from_pretrained(tmp_path / "e").encode(images), encoder.encode(images))
    # Of a file with some of them nothing is taken, though its numbers are not compared with the recorded.
    encoder.save_pretrained(tmp_path / "apart", include_backbone=False)
    kept = {n: v for n, v in whole.items() if not n.startswith("head.") and n != "norm.weight"}
    torch.save(kept, tmp_path / "part.pth")
    with pytest.raises(InvalidFile, match=r"norm\.weight"):
        FAEEncoder.from_pretrained(tmp_path / "apart", weights=tmp_path / "part.pth", verify=False)


def test_sizes_of_different_aspect_ratios_are_refused() -> None:
    with pytest.raises(FAEError, match="different aspect ratios"):
        FAEEncoder.from_preset("fae-tiny", image_size=(64, 32))
    wide = FAEEncoder.from_preset("fae-tiny", image_size=(64, 128), backbone={"image_size": (64, 128)})
    assert wide.encode(torch.rand(1, 3, 64, 128)).shape == (1, 8, 4, 8)
    with pytest.raises(FAEError, match="a revision is of weights='pretrained'"):
        create_backbone("timm/test_vit", revision="main")


@pytest.mark.parametrize(
    ("preset", "grid"),
    [
        ("fae-dinov2-g-32", 16),
        ("fae-dinov2-g-reg-32", 16),
        ("fae-siglip2-g-opt-32", 16),
        ("fae-siglip2-g-opt-384-64", 24),
    ],
)
def test_the_papers_backbones_can_be_narrower_and_shallower(preset: str, grid: int, tmp_path) -> None:
    sizes = {"width": 48, "depth": 2, "heads": 2}
    with pytest.raises(FAEError, match="has no pretrained weights for another width, depth or heads"):
        FAEEncoder.from_preset(preset, backbone=sizes)
    torch.manual_seed(0)
    encoder = FAEEncoder.from_preset(preset, weights=None, backbone=sizes).eval()
    model = encoder.backbone.network.model
    assert (model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads) == (48, 2, 2)
    assert (encoder.backbone.dim, encoder.backbone.grid) == (48, (grid, grid))
    encoder.save_pretrained(tmp_path / "encoder")
    again = FAEEncoder.from_pretrained(tmp_path / "encoder")
    assert {name: getattr(again.config.backbone, name) for name in sizes} == sizes
    images = torch.rand(1, 3, *encoder.read_size)
    assert torch.equal(again.encode(images), encoder.encode(images))


def test_a_number_of_heads_is_part_of_what_latents_depend_on() -> None:
    """No weight shows it."""

    def fingerprint(heads: int | None) -> str:
        torch.manual_seed(0)
        backbone = {"name": "timm/test_vit", "image_size": 64, "heads": heads}
        return FAEEncoder.from_preset("fae-tiny", weights=None, backbone=backbone).fingerprint()

    assert fingerprint(2) != fingerprint(4)


def test_sizes_of_a_backbone_are_for_timms_transformers() -> None:
    with pytest.raises(FAEError, match="change hf_config instead"):
        create_backbone_of("hf/somewhere")
    with pytest.raises(FAEError, match="timm could not build resnet18"):
        create_backbone_of("timm/resnet18")


def create_backbone_of(name: str) -> None:
    from fae_encoder.backbones import BackboneConfig, build_backbone

    build_backbone(BackboneConfig(name=name, width=48))
