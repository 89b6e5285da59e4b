"""The README.md of a model folder, in the hub's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fae_core.redact import redact

if TYPE_CHECKING:
    from torch import nn

LICENSE = "apache-2.0"  # of this repository, and by default of what is trained with it
_ABOUT = 'Part of FAE, after "One Layer Is Enough: Adapting Pretrained Visual Encoders for Image Generation".'


@dataclass(frozen=True)
class Card:
    """What a model card says beside what the model itself knows.

    Args:
        text: After the title; None takes a short default.
        license: The hub's name of the licence of the weights.
        datasets: Names on the hub of the data that the model was trained on.
        base_model: Name on the hub of the model that this one is derived from; None takes the backbone's.
    """

    text: str | None = None
    license: str = LICENSE
    datasets: Sequence[str] = ()
    base_model: str | None = None


def front_matter(tags: Sequence[str], license: str = LICENSE, **fields: Any) -> str:
    """The metadata that the hub reads at the start of a card, between lines of dashes.

    Args:
        tags: Each is written once.
        license: Of the weights.
        fields: Others, such as pipeline_tag, base_model and datasets; what is empty is left out.
    """
    import yaml

    chosen = {name: value for name, value in fields.items() if value}
    found = {"library_name": "fae", "license": license, **chosen, "tags": list(dict.fromkeys(tags))}
    return f"---\n{yaml.safe_dump(found, sort_keys=False, allow_unicode=True)}---\n"


def model_card(model: nn.Module, card: Card) -> str:
    """A model card: metadata for the hub, class, parameters, latent space, how to load it. Secrets are redacted.

    Args:
        model: The model.
        card: What it does not know itself.
    """
    count = sum(p.numel() for p in model.parameters())
    spec = getattr(model, "spec", None)
    space = (
        f"- latent space: {spec.channels}x{spec.height}x{spec.width} from `{spec.backbone}`, "
        f"images of {spec.image_shape[0]}x{spec.image_shape[1]}, fingerprint `{spec.fingerprint or 'none'}`\n"
        if spec is not None
        else ""
    )
    name, package = type(model).__name__, type(model).__module__.split(".")[0]
    metadata = front_matter(
        ["fae", getattr(model, "model_type", name)],
        card.license,
        pipeline_tag=getattr(model, "pipeline_tag", None),
        base_model=card.base_model or _backbone_on_hub(model),
        datasets=list(card.datasets),
    )
    return redact(
        f"{metadata}\n# {name}\n\n{card.text or _ABOUT}\n\n"
        f"- parameters: {count:,}\n{space}\n```python\nfrom {package} import {name}\n\n"
        f'model = {name}.from_pretrained("PATH OR OWNER/NAME")\n```\n'
    )


def _backbone_on_hub(model: nn.Module) -> str | None:
    """The hub's name of the backbone behind a model's latents or features; None where the hub has none."""
    known = getattr(model, "spec", None) or getattr(getattr(model, "config", None), "features", None)
    library, _, name = str(getattr(known, "backbone", "")).partition("/")
    if library == "timm":
        return f"timm/{name}"
    return name if library == "hf" and name.count("/") == 1 and not name.startswith((".", "/", "~")) else None
