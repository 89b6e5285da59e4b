"""What tools/bench/diffusion.py times our transformer against: the textbook, the original, and its products alone."""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.random import SlotRandom
from fae_diffusion import LightningDiT
from fae_diffusion.models.transformer import Block, ModulatedNorm, patchify, unpatchify


def plain_norm(x: Tensor, norm: ModulatedNorm, shift: Tensor | None, scale: Tensor) -> Tensor:
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * norm.weight
    x = x * (1 + scale[:, None])
    return x if shift is None else x + shift[:, None]


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cos.repeat_interleave(2, dim=-1) + half * sin.repeat_interleave(2, dim=-1)


def plain_block(block: Block, x: Tensor, c: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(F.silu(c)).chunk(6, dim=1)
    batch, tokens, width = x.shape
    attention = block.attention
    qkv = attention.qkv(plain_norm(x, block.norm1, shift1, scale1))
    q, k, v = qkv.view(batch, tokens, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    q, k = plain_rotation(q, cos, sin), plain_rotation(k, cos, sin)
    probabilities = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    x = x + gate1[:, None] * attention.proj((probabilities @ v).transpose(1, 2).reshape(batch, tokens, width))
    gate, up = block.mlp.gate_up(plain_norm(x, block.norm2, shift2, scale2)).chunk(2, dim=-1)
    return x + gate2[:, None] * block.mlp.down(F.silu(gate) * up)


def plain_forward(model: LightningDiT, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The same network, written plainly. LightningDiT's default options only."""
    x = model.patch_embedding(patchify(z, model.config.patch_size)) + model.positions
    c = model.time_embedding(t) + model.label_embedding(labels)
    cos, sin = model.rope()
    for block in model.blocks:
        x = plain_block(block, x, c, cos, sin)
    shift, scale = model.final.modulation(F.silu(c)).chunk(2, dim=1)
    x = model.final.linear(plain_norm(x, model.final.norm, shift, scale))
    return unpatchify(x, model.grid, model.config.patch_size)


def plain_step(model: LightningDiT, z: Tensor, labels: Tensor, random: SlotRandom) -> Tensor:
    t = random.uniform((), "time", z.device)
    noise = random.normal(z.shape[1:], "noise", z.device)
    x = (1 - t)[:, None, None, None] * z + t[:, None, None, None] * noise
    return (plain_forward(model, x, t, labels) - (noise - z)).square().mean()


def plain_sample(model: LightningDiT, noise: Tensor, labels: Tensor, steps: int, scale: float) -> Tensor:
    z, null = noise, torch.full_like(labels, model.config.classes)
    for i in range(steps):
        t = torch.full((len(z),), 1 - i / steps, device=z.device)
        conditional, unconditional = plain_forward(model, z, t, labels), plain_forward(model, z, t, null)
        z = z - (unconditional + scale * (conditional - unconditional)) / steps
    return z


def load_original(checkout: Path, model: LightningDiT) -> tuple[torch.nn.Module, dict]:
    """hustvl/LightningDiT's model with our model's options and random weights, and its constructor arguments."""
    _stand_in_for_fairscale()
    sys.path.insert(0, str(checkout))
    config, spec = model.config, model.spec
    arguments = {
        "input_size": spec.height,
        "patch_size": config.patch_size,
        "in_channels": spec.channels,
        "hidden_size": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "class_dropout_prob": config.class_dropout,
        "num_classes": config.classes,
        "learn_sigma": config.learn_sigma,
        "use_qknorm": config.qk_norm,
        "use_swiglu": config.swiglu,
        "use_rope": config.rope,
        "use_rmsnorm": config.rms_norm,
        "wo_shift": config.wo_shift,
    }
    original = importlib.import_module("models.lightningdit").LightningDiT(**arguments).eval()
    randomise(original)
    return original, arguments


def randomise(model: torch.nn.Module) -> None:
    """Away from the zeros of a fresh model, which hide whole branches."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))


def _stand_in_for_fairscale() -> None:
    """Its file of the RMSNorm also holds a language model, whose imports are not needed here."""
    try:
        importlib.import_module("fairscale")
    except ImportError:
        parent = "fairscale.nn.model_parallel"
        for name in ("fairscale", "fairscale.nn", parent, f"{parent}.initialize", f"{parent}.layers"):
            sys.modules[name] = types.ModuleType(name)
        for name in ("ColumnParallelLinear", "ParallelEmbedding", "RowParallelLinear"):
            setattr(sys.modules[f"{parent}.layers"], name, object)


def products_alone(model: LightningDiT, batch: int) -> Callable[[], None]:
    """The matrix products and the attention of a forward pass, written into memory that is there: nothing else is done.

    What an implementation with the same library in the same precision cannot avoid, within the scatter of the
    measurement.
    """
    config, tokens = model.config, model.grid[0] * model.grid[1]
    width, hidden, rows = config.width, config.mlp_hidden, batch * tokens
    packed = torch.randn(batch, tokens, 3, config.heads, width // config.heads)
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    condition, inner, patches = (
        torch.randn(batch, width),
        torch.randn(rows, hidden),
        torch.randn(rows, model.patch_embedding.in_features),
    )
    h = torch.randn(rows, width)

    def product(layer: torch.nn.Linear, x: Tensor, out: Tensor) -> None:
        torch.addmm(layer.bias, x, layer.weight.t(), out=out)

    outs: dict[tuple[int, int], Tensor] = {}

    def run() -> None:
        todo = [(model.patch_embedding, patches), (model.final.modulation, condition), (model.final.linear, h)]
        for block in model.blocks:
            up = block.mlp.gate_up if config.swiglu else block.mlp.up
            todo += [(block.modulation, condition), (block.attention.qkv, h), (block.attention.proj, h)]
            todo += [(up, h), (block.mlp.down, inner)]
            F.scaled_dot_product_attention(q, k, v)
        for layer, x in todo:
            shape = (len(x), layer.out_features)
            if shape not in outs:
                outs[shape] = torch.empty(shape)
            product(layer, x, outs[shape])

    return run
