"""Data sets of latents and of features: encoding, storage, and identity by content."""
