"""Experiments as lists of `fae` commands: the recipe, its steps run in turn or several at once, and the demo's."""
