"""fae-eval: metrics, protocols, figures and reports that say exactly what they measured. Importing it is light."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names
from fae_eval._version import __version__

if TYPE_CHECKING:
    from fae_eval.extractors import FeatureExtractor as FeatureExtractor
    from fae_eval.extractors import load_extractor as load_extractor
    from fae_eval.metrics import Moments as Moments
    from fae_eval.report import write_report as write_report
    from fae_eval.results import Result as Result
    from fae_eval.studies.generation import evaluate as evaluate
    from fae_eval.studies.reconstruction import evaluate_reconstruction as evaluate_reconstruction

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names, "__version__"]
