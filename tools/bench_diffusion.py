"""How much faster our diffusion transformer is than a plain one, on the same weights, in one process.

    python tools/bench_diffusion.py --preset lightningdit-b --batch 4
    python tools/bench_diffusion.py --preset lightningdit-xl --batch 32 --device cuda --precision bf16 --compile

The plain path is the textbook: fp32 weights, scores and probabilities written out, the rotation by rotate-half, norms and
modulation one operation each. It is checked against ours first. Times are CPU seconds on the CPU and wall seconds on a GPU,
the best of several, ours and plain in turn; compare ratios, not seconds. Guided sampling: plain makes two calls in every step,
as the textbook does; ours makes one batched call, and a plain one outside the guided interval.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fae_core.random import SlotRandom
from fae_diffusion import Guidance, LightningDiT
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


def seconds(function: Callable[[], object], device: str) -> float:
    """CPU seconds on the CPU, wall seconds with the queue drained on a GPU."""
    if device == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], plain: Callable[[], object], device: str, repeats: int) -> dict:
    """Best of `repeats` of each, in turn, after a warm-up."""
    best = {"ours": math.inf, "plain": math.inf}
    for repeat in range(repeats + 1):
        for kind, function in (("ours", ours), ("plain", plain)):
            taken = seconds(function, device)
            if repeat:
                best[kind] = min(best[kind], taken)
    row = {"what": name, "ours_s": round(best["ours"], 4), "plain_s": round(best["plain"], 4)}
    return {**row, "times_faster": round(best["plain"] / best["ours"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lightningdit-b")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; plain stays in fp32")
    parser.add_argument("--compile", action="store_true", help="compile our blocks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of guided sampling")
    arguments = parser.parse_args()
    device = arguments.device

    torch.manual_seed(0)
    plain = LightningDiT.from_preset(arguments.preset)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    plain = plain.to(device)
    model = LightningDiT(plain.config, plain.spec).to(device)
    model.load_state_dict(plain.state_dict())
    z = torch.randn(arguments.batch, *plain.spec.shape, device=device)
    t = torch.linspace(0.1, 0.9, arguments.batch, device=device)
    labels = torch.arange(arguments.batch, device=device)
    random = SlotRandom(0, range(arguments.batch))
    with torch.no_grad():
        difference = (model(z, t, labels) - plain_forward(plain, z, t, labels)).abs().max().item()
    print(json.dumps({"largest difference of the two forwards in fp32": difference}))

    if arguments.compile:
        for block in model.blocks:
            block.compile()
    bf16 = arguments.precision == "bf16"
    autocast = (lambda: torch.autocast(device, torch.bfloat16)) if bf16 else contextlib.nullcontext

    def train_ours() -> None:
        with autocast():
            loss = model.loss(z, labels, random=random)["loss"]
        loss.backward()

    rows = [
        compare(
            "training step",
            train_ours,
            lambda: plain_step(plain, z, labels, random).backward(),
            device,
            arguments.repeats,
        )
    ]
    model, plain = model.eval(), plain.eval()
    model.zero_grad(set_to_none=True)
    plain.zero_grad(set_to_none=True)
    inference = model.to(torch.bfloat16) if bf16 else model
    guidance = Guidance(scale=2.5, interval=(0.0, 0.7))
    with torch.inference_mode():
        rows.append(
            compare(
                "forward",
                lambda: inference(z, t, labels),
                lambda: plain_forward(plain, z, t, labels),
                device,
                arguments.repeats,
            )
        )
        rows.append(
            compare(
                f"guided sampling, {arguments.steps} Euler steps, guidance on t <= 0.7",
                lambda: inference.sample(
                    labels, noise=z, steps=arguments.steps, method="euler", shift=1.0, guidance=guidance
                ),
                lambda: plain_sample(plain, z, labels, arguments.steps, 2.5),
                device,
                arguments.repeats,
            )
        )
    setting = {**vars(arguments), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for row in rows:
        print(json.dumps(row))
    print(json.dumps({"setting": setting}))


if __name__ == "__main__":
    main()
