"""Sampling a flow: the blocks in reverse, token by token or in stretches."""
