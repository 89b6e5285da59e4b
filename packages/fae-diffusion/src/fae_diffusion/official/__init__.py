"""The originals' checkpoints: SiT's and LightningDiT's, and an MMDiT's."""
