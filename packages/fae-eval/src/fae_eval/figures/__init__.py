"""Pictures of what a latent space keeps (patch similarity, patch matching, principal components), and charts as SVG."""

from fae_eval.figures.charts import Series, line_chart
from fae_eval.figures.matching import matching_picture
from fae_eval.figures.pca import pca_picture
from fae_eval.figures.similarity import similarity_picture

__all__ = ["Series", "line_chart", "matching_picture", "pca_picture", "similarity_picture"]
