"""What the three training stages minimise: vae (stage Ia), pixel (stages Ib and II) and the parts of pixel."""

from fae_decoders.losses.pixel import PixelLoss, PixelLossConfig
from fae_decoders.losses.vae import cosine_loss, feature_loss

__all__ = ["PixelLoss", "PixelLossConfig", "cosine_loss", "feature_loss"]
