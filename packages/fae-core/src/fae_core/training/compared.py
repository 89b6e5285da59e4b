"""What a run was begun on, compared with what it is given when it is resumed. torch is not imported.

A command compares what files say before torch is (`require_begun_on`), the loop everything once models are built.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fae_core.errors import InvalidFile, LatentSpecMismatch
from fae_core.files import read_yaml
from fae_core.folders import RUN_CONFIG, RUN_IDENTITY
from fae_core.images.identity import Identity, same_images
from fae_core.spec import LatentSpec


def require_begun_on(run: Path, **identity: Any) -> None:
    """Check that a run to resume was begun on the same data, of which other parts than these are not compared.

    Args:
        run: its folder; one without a record is none to compare.
        identity: parts of `Task.identity`, by name; None for one that is not given.

    Raises:
        FAEError: as `require_same_identity`.
    """
    before = _recorded(run)
    if before:
        now = comparable({name: one for name, one in identity.items() if one is not None}, run, resume=True)
        require_same_identity(run, {name: before[name] for name in identity if name in before}, now)


def comparable(identity: dict[str, Any], run: Path, *, resume: bool) -> dict[str, Any]:
    """What a task says that it learns from, as plain data in the form that the run to resume recorded.

    Args:
        identity: of `Task.identity`.
        run: the run folder.
        resume: whether the run may be there already.
    """
    before = _recorded(run) if resume else {}
    then = {name: text for name, text in before.items() if isinstance(text, str)}
    return {
        name: value.text(then.get(name)) if isinstance(value, Identity) else value for name, value in identity.items()
    }


def require_same_identity(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that a resumed run learns from what it was begun on.

    Args:
        run: the run folder.
        before: what config.yaml says.
        now: what it is given, as `comparable` has it.

    Raises:
        LatentSpecMismatch: the latents are of another space.
        InvalidFile: something else is another, or there on one side alone.
    """
    spaces = [side["latent_spec"] for side in (before, now) if "latent_spec" in side]
    if len(spaces) == 2 and any(isinstance(fields.get("mean"), str) for fields in spaces):  # `LatentSpec.summary`
        then, given = (json.loads(json.dumps(fields)) for fields in spaces)
        changed = {name: (then.get(name), given.get(name)) for name in given if then.get(name) != given[name]}
        if changed:
            raise LatentSpecMismatch(changed, f"{run} was started on the first and is given the second")
    elif len(spaces) == 2:
        then, given = (LatentSpec.from_dict(fields, f"{run}/{RUN_CONFIG}") for fields in spaces)
        then.require(given, context=f"{run} was started on the first and is given the second")
    for name in sorted((before.keys() | now.keys()) - {"latent_spec"}):
        sides = [side.get(name, "none") for side in (before, now)]
        then, given = (str(side)[:12] for side in sides)
        if sides[0] != sides[1] and not (all(isinstance(side, str) for side in sides) and same_images(*sides)):
            raise InvalidFile(
                f"{run} was started on other {name.replace('_', ' ')} (content {then} then, {given} now); resume it "
                "with what it was started on, wherever that lies now, or use a new --out"
            )


def _recorded(run: Path) -> dict[str, Any]:
    """What config.yaml says that a run was begun on; nothing where there is none, or an earlier version."""
    known = read_yaml(run / RUN_CONFIG).get(RUN_IDENTITY) if (run / RUN_CONFIG).is_file() else None
    return known if isinstance(known, dict) else {}
