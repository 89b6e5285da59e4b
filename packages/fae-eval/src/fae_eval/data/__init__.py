"""Image sets to measure: folders, parquet, .npz, arrays, streams, latent stores, generators; and ADM's containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_eval.data.adm import AdmStatistics as AdmStatistics
    from fae_eval.data.adm import read_adm_statistics as read_adm_statistics
    from fae_eval.data.adm import write_adm as write_adm
    from fae_eval.data.generated import GeneratedSamples as GeneratedSamples
    from fae_eval.data.samples import Samples as Samples
    from fae_eval.data.samples import open_samples as open_samples

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
