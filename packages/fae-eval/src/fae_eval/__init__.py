"""fae-eval: metrics, protocols, figures and reports that say exactly what they measured. Importing it is light."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fae_eval._version import __version__

if TYPE_CHECKING:
    from fae_eval.extractors import FeatureExtractor as FeatureExtractor
    from fae_eval.extractors import load_extractor as load_extractor
    from fae_eval.metrics import Moments as Moments
    from fae_eval.report import write_report as write_report
    from fae_eval.results import Result as Result
    from fae_eval.studies.generation import evaluate as evaluate
    from fae_eval.studies.reconstruction import evaluate_reconstruction as evaluate_reconstruction

_HOMES = {
    "FeatureExtractor": "fae_eval.extractors",
    "Moments": "fae_eval.metrics",
    "Result": "fae_eval.results",
    "evaluate": "fae_eval.studies.generation",
    "evaluate_reconstruction": "fae_eval.studies.reconstruction",
    "load_extractor": "fae_eval.extractors",
    "write_report": "fae_eval.report",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fae_eval' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
