"""Evaluations as a program of its own, so that a test can start it under torchrun and compare with one process.

python shared_evaluation.py FOLDER OUT          # FOLDER/real, FOLDER/made: image folders; OUT: one file per process
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from conftest import PixelExtractor, TinyFAE

from fae_core.processes import processes
from fae_eval import evaluate, evaluate_reconstruction
from fae_eval.data import GeneratedSamples


class TinyGenerator:
    """Latents of one grey per class, a little noisy."""

    spec = TinyFAE.spec
    config = SimpleNamespace(classes=4)

    def sample(self, condition: torch.Tensor, *, random, contrast: float = 1.0) -> torch.Tensor:
        noise = random.normal(self.spec.shape, "noise")
        return contrast * (condition.view(-1, 1, 1, 1) / 4 - 0.4) + 0.1 * noise


def everything(folder: Path, cache: Path | None) -> dict:
    """What has to be the same whoever computes it."""
    extractor, fae = PixelExtractor(), TinyFAE()
    drawn = GeneratedSamples(TinyGenerator(), fae, 13, labels="random", seed=3)
    sets = {"made": folder / "made", "drawn": drawn, "few": torch.rand(3, 3, 16, 16, generator=torch.manual_seed(0))}
    metrics = ["fid", "sfid", "is", "pr", "kid"]
    made = evaluate(
        sets, folder / "real", extractor=extractor, metrics=metrics, batch_size=5, kernel_subsets=3, cache=cache, k=2
    )
    rebuilt = evaluate_reconstruction(
        fae, folder / "real", extractor=extractor, batch_size=5, picture=cache and cache / "r.png"
    )
    facts = {name: made.provenance[f"samples {name}"] for name in sets}
    return {
        "table": made.table,
        "warnings": made.warnings,
        "moments": {name: fact["moments"] for name, fact in facts.items()},
        "hashes": {name: fact["hash"] for name, fact in facts.items()},
        "reference": {k: v for k, v in made.provenance["reference"].items() if k != "cached"},
        "rebuilt": rebuilt.values,
        "pictured": rebuilt.provenance["images"]["hash"],
    }


if __name__ == "__main__":
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    with processes("cpu"):
        found = everything(folder, out)
    (out / f"process-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))
