"""Image sets to measure: folders, parquet, .npz, arrays, streams, latent stores, generators; and ADM's containers."""

from fae_eval.data.adm import AdmStatistics, read_adm_statistics, write_adm
from fae_eval.data.generated import GeneratedSamples
from fae_eval.data.samples import Samples, open_samples

__all__ = ["AdmStatistics", "GeneratedSamples", "Samples", "open_samples", "read_adm_statistics", "write_adm"]
