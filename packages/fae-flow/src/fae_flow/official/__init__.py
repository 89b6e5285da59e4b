"""The original's checkpoints."""
