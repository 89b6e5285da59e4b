"""What encoding a data set would read, write and cost, for `fae encode --dry-run`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fae_core.cost.counted import count_pass
from fae_core.cost.table import H100_TFLOPS, UTILISATION
from fae_core.latent_store.format import DTYPES, default_shard_size
from fae_encoder.encoder import FAEEncoder

if TYPE_CHECKING:
    from fae_core.images import ImageSource
    from fae_encoder.store.config import EncodeConfig
    from fae_encoder.store.encode_dataset import LatentEncoder


def planned(
    encoder: LatentEncoder, source: ImageSource, out: Path, config: EncodeConfig, inputs: dict[str, str]
) -> dict[str, Any]:
    """The plan, as YAML and JSON can hold it.

    Args:
        encoder: On the meta device; it is changed.
        source: The images, none of which is read.
        out: Folder of the store.
        config: How to encode.
        inputs: What the command reads, by name.
    """
    spec = encoder.spec
    values = math.prod(spec.shape) * (2 if config.posterior == "distribution" else 1) * (2 if config.flips else 1)
    shard = config.shard_size or default_shard_size(values, config.dtype)
    plan = {
        "command": "fae encode",
        "settings": {
            **({"model": encoder.config.model_dump(mode="json")} if isinstance(encoder, FAEEncoder) else {}),
            "encode": config.model_dump(mode="json"),
        },
        "reads": {**inputs, "images": len(source)},
        "writes": {
            "folder": str(out),
            "latents": "x".join(map(str, spec.shape)),
            "shards": -(-len(source) // shard),
            "gb": float(f"{len(source) * values * DTYPES[config.dtype].itemsize / 1e9:.3g}"),
        },
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
    }
    if isinstance(encoder, FAEEncoder):
        _, forward, _ = count_pass(encoder.requires_grad_(False))
        flops = len(source) * forward * (2 if config.flips else 1)
        plan["time"] = {
            "gpu_hours": float(f"{flops / (H100_TFLOPS * 1e12 * UTILISATION) / 3600:.3g}"),
            "assumed": f"{UTILISATION:.0%} of {H100_TFLOPS:g} TFLOP/s (H100, dense bf16); reading images takes no time",
        }
    return plan
