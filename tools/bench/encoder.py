"""What the adapter costs beside its backbone: `encoder.encode(images)` against `encoder.backbone(images)`.

    python tools/bench/encoder.py                                        # DINOv2-g, random weights: 5 GB in fp32
    python tools/bench/encoder.py --preset fae-dinov2-b-32 --batch 4
    python tools/bench/encoder.py --device cuda --precision bf16 --batch 32

Both run in turn in one process, first one and then the other, on the same images: CPU seconds on the CPU, wall seconds
with the queue drained on a GPU. Ratios are those of the least and of the median times; every round is shown, so that a
busy machine can be seen. The steadiest ratio is that inside one call: all of `encode` over the time until its backbone
was done. The adapter is also timed alone, on kept features. FLOPs are counted on the meta device. Copies are tensors
that operators after the backbone wrote only to move or cast numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from typing import Any

import torch
from device_time import now, seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fae_encoder import FAEEncoder

_MOVES = ("copy_", "clone", "_to_copy", "cat", "contiguous", "repeat")


class Copies(TorchDispatchMode):
    """Bytes that operators wrote only to move or cast numbers, by operator and shape."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, float] = {}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        out = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__
        if name in _MOVES and isinstance(out, Tensor):
            key = f"{name} {tuple(out.shape)}"
            self.found[key] = self.found.get(key, 0.0) + out.nbytes / 1e6
        return out


def count_flops(preset: str) -> tuple[float, float]:
    """FLOPs of the backbone and of the whole encoder for one image."""
    with torch.device("meta"):
        encoder = FAEEncoder.from_preset(preset, weights=None)
        images = torch.empty(1, 3, *encoder.read_size)
        totals = []
        for function in (encoder.backbone, encoder.posterior):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                function(images)
            totals.append(float(counter.get_total_flops()))
    return totals[0], totals[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fae-dinov2-g-32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast, as `fae encode`")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = arguments.device

    backbone_flops, encoder_flops = count_flops(arguments.preset)
    torch.manual_seed(arguments.seed)
    encoder = FAEEncoder.from_preset(arguments.preset, weights=None).to(device).eval()
    images = torch.rand(arguments.batch, 3, *encoder.read_size, device=device)
    bf16 = torch.autocast(device, torch.bfloat16) if arguments.precision == "bf16" else contextlib.nullcontext()

    def bare() -> Tensor:
        return encoder.backbone(images)

    def whole() -> Tensor:
        return encoder.encode(images)

    def alone() -> Tensor:
        return encoder.spec.normalize(encoder.adapt(features).mode()).contiguous()

    with torch.no_grad(), bf16:
        features = encoder.features(images)  # also the warm-up of the backbone
        with Copies() as copies:
            alone()
        ended = 0.0

        def note(*_: object) -> None:
            nonlocal ended
            ended = now(device)

        rounds = []
        for number in range(arguments.repeats):
            taken = {"adapter": seconds(alone, device)}
            for name in ("backbone", "encode") if number % 2 == 0 else ("encode", "backbone"):
                if name == "backbone":
                    taken["backbone"] = seconds(bare, device)
                    continue
                hook = encoder.backbone.register_forward_hook(note)
                start = now(device)
                whole()
                taken["encode"], taken["backbone in encode"] = now(device) - start, ended - start
                hook.remove()
            rounds.append(taken)
            print(json.dumps({name: round(value, 4) for name, value in sorted(taken.items())}), flush=True)
    least = {name: min(taken[name] for taken in rounds) for name in rounds[0]}
    middle = {name: statistics.median(taken[name] for taken in rounds) for name in rounds[0]}
    inside = statistics.median(taken["encode"] / taken["backbone in encode"] for taken in rounds)
    report = {
        "least_s": {name: round(value, 4) for name, value in least.items()},
        "encode / backbone, least": round(least["encode"] / least["backbone"], 4),
        "encode / backbone, median": round(middle["encode"] / middle["backbone"], 4),
        "encode / backbone inside it, median": round(inside, 4),
        "1 + adapter alone / backbone, least": round(1 + least["adapter"] / least["backbone"], 4),
        "backbone_gflops": round(backbone_flops / 1e9, 2),
        "encode_gflops": round(encoder_flops / 1e9, 2),
        "flops": round(encoder_flops / backbone_flops, 4),
        "copies_mb": {name: round(size, 3) for name, size in copies.found.items()},
        "features_mb": round(features.nbytes / 1e6, 3),
        "setting": {**vars(arguments), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
