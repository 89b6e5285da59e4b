"""Checkpoints of the original code: of SiT and LightningDiT, and of an MMDiT."""
