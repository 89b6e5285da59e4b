"""The README.md of a model folder."""

from __future__ import annotations

from torch import nn

from fae_core.redact import redact


def model_card(model: nn.Module, body: str | None) -> str:
    """A model card: front matter for the hub, class, parameters, latent space, how to load it. Secrets are redacted.

    Args:
        model: The model.
        body: The text after the title; None takes a default.
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
    about = (
        body or 'Part of FAE, after "One Layer Is Enough: Adapting Pretrained Visual Encoders for Image Generation".'
    )
    return redact(
        f"---\nlibrary_name: fae\ntags:\n- fae\n- {getattr(model, 'model_type', name)}\n---\n\n# {name}\n\n{about}\n\n"
        f"- parameters: {count:,}\n{space}\n```python\nfrom {package} import {name}\n\n"
        f'model = {name}.from_pretrained("PATH OR OWNER/NAME")\n```\n'
    )
