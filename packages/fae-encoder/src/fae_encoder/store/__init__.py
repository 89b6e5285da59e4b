"""Data sets of latents and of features: encoded, stored, and told apart by content."""
