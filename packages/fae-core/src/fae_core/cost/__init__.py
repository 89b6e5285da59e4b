"""What training costs: counted without a run, measured in a short one, and the table of both."""

from fae_core.cost.counted import Cost, Estimate, estimate, measure_cost, require_room

__all__ = ["Cost", "Estimate", "estimate", "measure_cost", "require_room"]
