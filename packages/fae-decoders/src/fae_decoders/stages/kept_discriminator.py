"""The discriminator that stage II takes over from stage Ib: its weights, LeCam's anchors and AdamW's moments.

The paper says no more of stage II than that the decoder is trained further on other features. The discriminator has
learned by then to tell the decoder's images from real ones; a new one would leave the decoder without an adversarial
loss for as long as it takes to learn that again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fae_core.config import parse_config
from fae_core.errors import InvalidFile
from fae_core.files import read_yaml
from fae_core.folders import RUN_CHECKPOINTS, RUN_CONFIG, RUN_EXPORTS, kept_step
from fae_core.models.checkpoints import damage, numbered, read_state, read_tensors
from fae_core.models.sources import run_of
from fae_decoders.losses.config import PixelLossConfig

WEIGHTS, MOMENTS = "weights/discriminator/", "optimizer/discriminator/"  # names in a checkpoint
# Settings that make another network, by the kind of discriminator.
_NETWORK = {
    "patchgan": ("discriminator_width",),
    "backbone": ("adversarial_backbone", "adversarial_backbone_weights", "adversarial_layers"),
}


def discriminator_of(init: str | Path, losses: PixelLossConfig) -> tuple[Path | None, str]:
    """The checkpoint whose discriminator stage II goes on with.

    Args:
        init: What the pixel decoder comes from: a run, its model/ or one of its exports, or a model of another origin.
        losses: Of stage II, with an adversarial term.

    Returns:
        The run's newest whole checkpoint, or that of an export's step; and "". Else None, and why there is none.

    Raises:
        InvalidFile: The run's settings cannot be read.
    """
    run = run_of(init)
    if run is None:
        return None, f"{init} is a model without the run that made it"
    settings = read_yaml(run / RUN_CONFIG)
    section: Any = next((settings[name] for name in ("noise", "finetune") if name in settings), {})
    earlier = parse_config(PixelLossConfig, section.get("losses", {}), f"{run}/{RUN_CONFIG}")
    for name in ("adversarial", *_NETWORK.get(losses.adversarial, ())):
        there, here = getattr(earlier, name), getattr(losses, name)
        if there != here:
            return None, f"that of {run} is another one ({name}: {there} there, {here} here)"
    checkpoint = _whole_checkpoint(run, kept_step(Path(init).name) if Path(init).parent.name == RUN_EXPORTS else None)
    if checkpoint is None:
        return None, f"{run} has no whole checkpoint"
    state = read_state(checkpoint)
    if state["step"] <= earlier.discriminator_start or not any(name.startswith(WEIGHTS) for name in state["tensors"]):
        return None, f"that of {run} had not begun to learn"
    return checkpoint, ""


def read_discriminator(checkpoint: Path) -> dict[str, Tensor]:
    """Weights, anchors and moments of a checkpoint's discriminator, by their names there, on the CPU.

    Raises:
        InvalidFile: The checkpoint cannot be read or has none.
    """
    found = read_tensors(checkpoint, (WEIGHTS, MOMENTS))
    if not found:
        raise InvalidFile(f"{checkpoint} has no discriminator")
    return found


def _whole_checkpoint(run: Path, step: int | None) -> Path | None:
    """The run's checkpoint of a step if it is whole, else the newest that is."""
    checkpoints = numbered(run / RUN_CHECKPOINTS)
    newest = [path for _, path in sorted(checkpoints.items(), reverse=True)]
    wanted = [checkpoints[step]] if step in checkpoints else []
    return next((path for path in [*wanted, *newest] if damage(path) is None), None)
