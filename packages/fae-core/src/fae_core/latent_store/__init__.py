"""The latent store: an encoded data set on disk, written once by many processes, read by any generator.

    store/
      latent_spec.json                # the latent space, with the statistics that normalise it
      index.json                      # counts, sizes and SHA-256 of every shard
      labels.npy                      # one int64 per sample, where the data have labels
      shard-000000.safetensors ...    # raw posterior means (and standard deviations), names, captions

Reading order: format, shards, facts (without torch); statistics, shard_writer, writer, reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_core.latent_store.format import Plan as Plan
    from fae_core.latent_store.format import Sample as Sample
    from fae_core.latent_store.reader import LatentStore as LatentStore
    from fae_core.latent_store.shard_writer import ShardWriter as ShardWriter
    from fae_core.latent_store.writer import LatentStoreWriter as LatentStoreWriter
    from fae_core.latent_store.writer import write_store as write_store

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
