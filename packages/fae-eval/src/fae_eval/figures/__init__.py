"""Pictures of what a latent space keeps (patch similarity, patch matching, principal components), and charts as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fae_core.lazy import lazy_names

if TYPE_CHECKING:
    from fae_eval.figures.charts import Series as Series
    from fae_eval.figures.charts import line_chart as line_chart
    from fae_eval.figures.matching import matching_picture as matching_picture
    from fae_eval.figures.pca import pca_picture as pca_picture
    from fae_eval.figures.similarity import similarity_picture as similarity_picture

_names, __getattr__, __dir__ = lazy_names(__name__)
__all__ = [*_names]
