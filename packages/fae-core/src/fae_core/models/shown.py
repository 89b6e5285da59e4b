"""How a model looks when it is printed: one line, or a small table in a notebook."""

from __future__ import annotations

from typing import Any

from torch import nn

from fae_core.display import html_table


class Shown(nn.Module):
    """A module whose repr is one line and not the tree of its parts, which `named_modules` still lists."""

    def __repr__(self) -> str:
        facts = model_facts(self)
        words = [f"{facts['parameters']:,} parameters", facts.get("latents"), facts.get("device")]
        return f"{type(self).__name__}({', '.join(filter(None, words))})"

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, model_facts(self))


def model_facts(model: nn.Module) -> dict[str, Any]:
    """What a model is: type, parameters, latent space, device.

    Args:
        model: With a `spec`, or None in its place.
    """
    parameters = list(model.parameters())
    total, trainable = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    facts: dict[str, Any] = {"type": getattr(model, "model_type", type(model).__name__), "parameters": total}
    if trainable != total:
        facts["trainable"] = trainable
    spec = getattr(model, "spec", None)
    if spec is not None:
        facts.update(spec.facts())
    if parameters and not parameters[0].is_meta:
        facts["device"] = f"{str(parameters[0].dtype).removeprefix('torch.')} on {parameters[0].device}"
    return facts
