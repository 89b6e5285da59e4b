"""The latent store: an encoded data set on disk, written once by many processes, read by any generator.

    store/
      latent_spec.json                # the latent space, with the statistics that normalise it
      index.json                      # counts, sizes and SHA-256 of every shard
      labels.npy                      # one int64 per sample, where the data have labels
      shard-000000.safetensors ...    # raw posterior means (and standard deviations), names, captions

Reading order: format, statistics, writer, reader.
"""

from fae_core.latent_store.format import Plan, Sample
from fae_core.latent_store.reader import LatentStore
from fae_core.latent_store.writer import LatentStoreWriter, ShardWriter, write_store

__all__ = ["LatentStore", "LatentStoreWriter", "Plan", "Sample", "ShardWriter", "write_store"]
