"""RAE's decoders: an import computes what another construction from the same weights does, and fits into an FAE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_fae import PAINT, TRAINING, Gradients
from torch import Tensor

from fae_core.commands.groups import invoke
from fae_core.errors import FAEError, InvalidFile
from fae_core.training import train
from fae_decoders import FAE, RAEDecoder, load_pixel_decoder
from fae_decoders.imports.official_rae import decoder_from_official
from fae_decoders.stages import PixelFinetuneConfig, PixelFinetuneTask

WIDTH, HIDDEN, DEPTH, HEADS, DIM, SIDE, PATCH = 24, 40, 2, 3, 64, 4, 16
CONFIG = {"decoder_hidden_size": WIDTH, "decoder_num_attention_heads": HEADS, "layer_norm_eps": 1e-6}


def official_state() -> dict[str, Tensor]:
    """Random weights under the original's names."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    def linear(name: str, inside: int, outside: int) -> dict[str, Tensor]:
        return {f"{name}.weight": random(outside, inside), f"{name}.bias": random(outside)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}

    state = {
        "decoder_pos_embed": random(1, SIDE * SIDE + 1, WIDTH),
        "trainable_cls_token": random(1, 1, WIDTH),
        **linear("decoder_embed", DIM, WIDTH),
        **norm("decoder_norm"),
        **linear("decoder_pred", WIDTH, 3 * PATCH**2),
    }
    for i in range(DEPTH):
        layer = f"decoder_layers.{i}"
        for name in ("query", "key", "value"):
            state |= linear(f"{layer}.attention.attention.{name}", WIDTH, WIDTH)
        state |= linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        state |= linear(f"{layer}.intermediate.dense", WIDTH, HIDDEN)
        state |= linear(f"{layer}.output.dense", HIDDEN, WIDTH)
        state |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")
    return state


def by_transformers(state: dict[str, Tensor], features: Tensor) -> Tensor:
    """Patch colours (B, N, 3 * patch^2) through transformers' own ViT-MAE layers."""
    mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae", reason="needs fae-encoder[transformers]")
    config = mae.ViTMAEConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
        attn_implementation="eager",
    )
    x = F.linear(features, state["decoder_embed.weight"], state["decoder_embed.bias"])
    x = torch.cat([state["trainable_cls_token"].expand(len(x), -1, -1), x], dim=1) + state["decoder_pos_embed"]
    for i in range(DEPTH):
        layer = mae.ViTMAELayer(config).eval()
        named = {name: state[f"decoder_layers.{i}.{their}"] for name, their in layer_names(layer).items()}
        layer.load_state_dict(named)
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    x = F.layer_norm(x, (WIDTH,), state["decoder_norm.weight"], state["decoder_norm.bias"], 1e-6)
    return F.linear(x, state["decoder_pred.weight"], state["decoder_pred.bias"])[:, 1:]


def layer_names(layer: torch.nn.Module) -> dict[str, str]:
    """transformers' present names of a layer's parameters -> those of RAE's time."""
    table = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    names = {}
    for name in layer.state_dict():
        part, kind = name.rsplit(".", 1)
        names[name] = f"{table.get(part, part)}.{kind}"
    return names


def write(folder: Path, state: dict) -> list[str]:
    torch.save(state, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return [
        "import",
        "rae",
        str(folder / "model.pt"),
        "--config",
        str(folder / "config.json"),
        "--out",
        str(folder / "out"),
    ]


@torch.no_grad()
@pytest.mark.parametrize("pixels", ["imagenet", "half"])
def test_an_import_paints_as_an_independent_construction(pixels: str, tmp_path: Path) -> None:
    state = official_state()
    invoke([*write(tmp_path, state), "--pixels", pixels])
    decoder = load_pixel_decoder(tmp_path / "out")
    assert isinstance(decoder, RAEDecoder) and decoder.config.image_size == SIDE * PATCH
    features = torch.randn(2, SIDE * SIDE, DIM, generator=torch.Generator().manual_seed(1))
    images = decoder(features)
    colours = by_transformers(state, features)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if pixels == "imagenet" else ([0.5] * 3, [0.5] * 3)
    # Patch 6 lies in row 1, column 2; within a patch the colours of one pixel lie together.
    for y, x in ((0, 0), (3, 11)):
        start = 3 * (y * PATCH + x)
        wanted = colours[:, 6, start : start + 3] * torch.tensor(std) + torch.tensor(mean)
        torch.testing.assert_close(images[:, :, PATCH + y, 2 * PATCH + x], wanted, atol=1e-5, rtol=1e-5)


def test_a_whole_raes_checkpoint_holds_the_same_decoder(tmp_path: Path) -> None:
    state = official_state()
    whole = {f"module.decoder.{name}": value for name, value in state.items()} | {"module.encoder.x": torch.zeros(1)}
    invoke(write(tmp_path, {"ema": whole, "model": {}}))
    found = load_pixel_decoder(tmp_path / "out").state_dict()
    wanted = decoder_from_official(state, CONFIG).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(v, found[k]) for k, v in wanted.items())


def test_without_a_stored_table_positions_are_maes() -> None:
    state = official_state() | {"decoder_embed.weight": torch.zeros(WIDTH, DIM)}
    del state["decoder_pos_embed"]
    position = decoder_from_official(state, CONFIG).position
    assert position.shape == (257, WIDTH) and not position[0].any()
    # Token 2 of row 1 on the 16x16 grid: sines of the column first, of the row in the second half.
    row = position[1 + 16 + 2]
    assert float(row[0]) == pytest.approx(torch.sin(torch.tensor(2.0)).item())
    assert float(row[WIDTH // 2]) == pytest.approx(torch.sin(torch.tensor(1.0)).item())


def test_it_finishes_an_fae(autoencoder_run: Path, tmp_path: Path) -> None:
    fae, decoder = FAE.from_pretrained(autoencoder_run), decoder_from_official(official_state(), CONFIG)
    task = PixelFinetuneTask(
        fae, decoder, Gradients(10), PixelFinetuneConfig(losses=PAINT, gradient_checkpointing=True)
    )
    run = train(task, TRAINING.model_copy(update={"steps": 3}), tmp_path / "fae", device="cpu")
    whole = FAE.from_pretrained(run)
    assert isinstance(whole.pixel_decoder, RAEDecoder) and whole.pixel_decoder.config.features is not None
    assert whole.reconstruct(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_other_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    state = official_state()
    with pytest.raises(InvalidFile, match="none of the released ones; pass its config"):
        decoder_from_official(state)
    with pytest.raises(InvalidFile, match="only 'gelu'"):
        decoder_from_official(state, {**CONFIG, "hidden_act": "relu"})
    with pytest.raises(InvalidFile, match="not one of RAE's decoders"):
        decoder_from_official({"weight": torch.zeros(1)}, CONFIG)
    extra = {**state, "decoder_layers.0.gate.weight": torch.zeros(1)}
    with pytest.raises(InvalidFile, match=r"has unknown blocks\.0\.gate\.weight"):
        decoder_from_official(extra, CONFIG)
    with pytest.raises(FAEError, match="expected features"):
        decoder_from_official(state, CONFIG)(torch.zeros(1, 3, DIM))
