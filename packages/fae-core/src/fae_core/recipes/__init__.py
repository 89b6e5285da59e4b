"""Experiments as lists of `fae` commands: the recipe, its steps, run in turn or in parallel, and the demo's."""
