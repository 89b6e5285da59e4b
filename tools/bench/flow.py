"""How fast STARFlow samples: ours against another implementation, side by side in one process on one CPU thread or a
GPU.

    python tools/bench/flow.py                               # against full recomputation, the definition of sampling
    python tools/bench/flow.py --original CHECKOUT           # against a checkout of apple/ml-starflow
    python tools/bench/flow.py --model FOLDER                # our own ways of sampling, on a trained model
    python tools/bench/flow.py --compile                     # with the compiled step, and what compiling it took
    python tools/bench/flow.py --device cuda --batch 64      # with a captured step; wall seconds, the queue drained

Rounds are interleaved and the least time of each is kept (CPU seconds on the CPU), so that a busy machine hurts all
alike. Ours includes making the weights ready (`STARFlow.sample`); "kept" is a FlowSampler made once. Errors are largest
differences from the reference.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from device_time import now
from torch import Tensor

from fae_core import LatentSpec
from fae_flow import FlowSampler, Jacobi, STARFlow, STARFlowConfig
from fae_flow.sampling.guidance import guide

SIDE, CHANNELS, CLASSES = 8, 16, 10
Call = Callable[[float], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, help="checkout of apple/ml-starflow (it needs tqdm and einops)")
    parser.add_argument("--model", type=Path, help="trained STARFlow; its own sequential sampling is the reference")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 2, 6])
    parser.add_argument(
        "--top-only", action="store_true", help="condition, and therefore guidance, in the top block only"
    )
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exact", action="store_true", help="only the exact ways, which leaves time for more rounds")
    parser.add_argument("--compile", action="store_true", help="also the compiled step; prints what compiling it took")
    options = parser.parse_args()
    if options.original is not None and options.device != "cpu":
        parser.error("--original is compared on the CPU")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.model is not None:
        _report(_ways(STARFlow.from_pretrained(options.model, device=options.device), options), options)
    elif options.original is not None:
        model, original = _against_original(options)
        _report({"original": original, **_ways(model, options)}, options)
    else:
        model = _random_flow(options).to(options.device)
        _report({"recomputed": _recomputed(model, options.batch), **_ways(model, options)}, options)


def _report(ways: dict[str, Call], options: argparse.Namespace) -> None:
    """One table per guidance scale: seconds, ratio and largest error against the first way."""
    for scale in (1.0, options.guidance):
        seconds: dict[str, float] = dict.fromkeys(ways, float("inf"))
        results: dict[str, Tensor] = {}
        for _ in range(options.rounds):
            for name, call in ways.items():
                start = now(options.device)
                results[name] = call(scale)
                seconds[name] = min(seconds[name], now(options.device) - start)
        first = next(iter(ways))
        print(f"guidance {scale:g}\n  {'':22}{'s':>8}{'ratio':>8}{'max error':>12}{'rms error':>12}")
        for name in ways:
            difference = results[name] - results[first]
            relative = difference.norm() / results[first].norm()
            ratio = seconds[first] / seconds[name]
            print(f"  {name:22}{seconds[name]:8.3f}{ratio:8.2f}{difference.abs().max():12.2g}{relative:12.2g}")


def _ways(model: STARFlow, options: argparse.Namespace) -> dict[str, Call]:
    """Our ways of sampling one fixed batch of noise."""
    noise, condition = _noise(model, options.batch), _condition(model, options.batch)
    sampler = FlowSampler(model)
    half = FlowSampler(model, dtype=torch.bfloat16)

    def jacobi(stretch: int, tolerance: float) -> Call:
        return lambda scale: sampler.sample(condition, noise, guidance=scale, jacobi=Jacobi(stretch, tolerance))

    compiled = {"ours, compiled": _compiled(model, condition, noise, options.guidance)} if options.compile else {}
    exact = {
        "ours": lambda scale: model.sample(condition, noise=noise, guidance=scale, denoise=False),
        "ours, kept": lambda scale: sampler.sample(condition, noise, guidance=scale),
        **compiled,
        **_captured(model, condition, noise, options),
    }
    if options.exact:
        return exact
    return {
        **exact,
        "ours, bf16 weights": lambda scale: half.sample(condition, noise, guidance=scale),
        "jacobi 8, 1e-8": jacobi(8, 1e-8),
        "jacobi 16, 1e-4": jacobi(16, 1e-4),
        "jacobi 16, 1e-3": jacobi(16, 1e-3),
    }


def _compiled(model: STARFlow, condition: Tensor | None, noise: Tensor, guidance: float) -> Call:
    """A sampler with a compiled step, warm for both tables; prints the seconds that the warming took."""
    sampler = FlowSampler(model, compile=True)
    for scale in (1.0, guidance):
        start = time.perf_counter()
        sampler.sample(condition, noise, guidance=scale)
        print(f"compiling for guidance {scale:g}, its first call included: {time.perf_counter() - start:.0f} s")
    return lambda scale: sampler.sample(condition, noise, guidance=scale)


def _captured(model: STARFlow, condition: Tensor | None, noise: Tensor, options: argparse.Namespace) -> dict[str, Call]:
    """Samplers that replay a captured step, which only a GPU can."""
    if options.device != "cuda":
        return {}
    fp32, bf16 = (FlowSampler(model, dtype=dtype, cuda_graph=True) for dtype in (None, torch.bfloat16))
    return {
        "ours, captured": lambda scale: fp32.sample(condition, noise, guidance=scale),
        "ours, captured, bf16": lambda scale: bf16.sample(condition, noise, guidance=scale),
    }


def _noise(model: STARFlow, batch: int) -> Tensor:
    noise = torch.randn(batch, *model.spec.shape, generator=torch.Generator().manual_seed(1))
    return noise.to(next(model.parameters()).device)


def _condition(model: STARFlow, batch: int) -> Tensor | None:
    device = next(model.parameters()).device
    if model.config.text_dim:
        return torch.eye(model.config.text_dim, device=device)[:batch, None]
    return torch.arange(batch, device=device) % model.config.classes if model.config.classes else None


def _random_flow(options: argparse.Namespace) -> STARFlow:
    config = STARFlowConfig(
        width=options.width,
        layers=tuple(options.layers),
        head_dim=options.head_dim,
        classes=CLASSES,
        condition_top_only=options.top_only,
    )
    model = STARFlow(config, LatentSpec(CHANNELS, SIDE, SIDE, 64, "benchmark")).eval()
    _draw_weights(model)
    return model


def _recomputed(model: STARFlow, batch: int) -> Call:
    """Every token from a whole forward pass of its block, as the definition reads."""
    noise, labels = _noise(model, batch), _condition(model, batch)
    null = torch.full_like(labels, CLASSES)

    @torch.no_grad()
    def call(scale: float) -> Tensor:
        tokens = model.patchify(noise)
        for block in reversed(model.blocks):
            z = block.order(tokens)
            x = z.clone()
            for t in range(z.shape[1]):
                mean, log_sigma = parameters(block, x, labels)
                if scale != 1.0 and block.conditional:
                    mean, log_sigma = guide(mean, log_sigma, *parameters(block, x, null), scale)
                x[:, t] = z[:, t] * log_sigma[:, t].exp() + mean[:, t]
            tokens = block.order(x)
        return model.unpatchify(tokens, SIDE, SIDE)

    def parameters(block: torch.nn.Module, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        noise, log_sigma = block(x, condition, model.rope(SIDE, SIDE, condition))
        return x - noise * log_sigma.exp(), log_sigma

    return call


def _against_original(options: argparse.Namespace) -> tuple[STARFlow, Call]:
    """A random model of the original's own class, imported by ours; and its sequential sampling."""
    sys.path.insert(0, str(options.original))
    original_class = importlib.import_module("transformer_flow").Model
    arguments = {
        "in_channels": CHANNELS,
        "img_size": SIDE,
        "patch_size": 1,
        "channels": options.width,
        "num_blocks": len(options.layers),
        "layers_per_block": options.layers,
        "head_dim": options.head_dim,
        "rope": True,
        "sos": True,
        "txt_size": 1,
        "txt_dim": CLASSES + 1,
        "cond_top_only": options.top_only,
    }
    original = original_class(**arguments).eval()
    _draw_weights(original)
    model = STARFlow.from_official(original.state_dict(), arguments)
    noise, condition = _noise(model, options.batch), _condition(model, options.batch)

    @torch.no_grad()
    def call(scale: float) -> Tensor:
        text = condition if scale == 1.0 else torch.cat([condition, torch.zeros_like(condition)])
        return original(noise, text, reverse=True, guidance=scale - 1.0)

    return model, call


def _draw_weights(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02 if parameter.ndim > 1 else 0.1)


if __name__ == "__main__":
    main()
