"""What a run was begun on and with, compared with what it is given when it is resumed. torch is not imported.

A command compares what files and options say before torch is imported (`require_begun_on`, `require_started_with`), the
loop everything once models are built.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fae_core.config import Config, merge, parse_config
from fae_core.errors import InvalidFile, InvalidSettings, LatentSpecMismatch
from fae_core.files import read_yaml
from fae_core.folders import RUN_ARGUMENTS, RUN_CONFIG, RUN_IDENTITY, RUN_MEASURED, RUN_MICRO_BATCH
from fae_core.images.identity import Identity, same_images
from fae_core.redact import redact_values
from fae_core.spec import LatentSpec

# Settings, in any section, that may differ between a run and its continuation: they do not change what is computed.
_FREE_ON_RESUME = {
    RUN_IDENTITY,  # compared by `require_same_identity`
    RUN_ARGUMENTS,
    RUN_MEASURED,
    "checkpoint_every",
    "keep_checkpoints",
    "keep_at",
    "log_every",
    "preview",
    "preview_every",
    "cache_gb",
    "loader_threads",
    "read_batch",
    "read_threads",
    "parallel",
    "accumulation",
    "max_skipped",
    "stall_limit",
    "track",
    "verify",
}

# Full names of settings that say where a run found what it learns from. A continuation may find the same elsewhere.
_PLACES = {
    "data",
    "split",
    "caption_template",
    "tokenizer",
    "features",
    "autoencoder",
    "init",
    "reference",
    "encoder.backbone.weights",
    "model.text_encoder.name",
    "vae.alignment.weights",
    *(
        f"{section}.losses.{network}_weights"
        for section in ("vae", "noise", "finetune")
        for network in ("lpips", "convnext", "perceptual_backbone", "adversarial_backbone")
    ),
}

_HF_CONFIG = "encoder.backbone.hf_config."  # earlier versions recorded its bookkeeping, too

GivenSection = tuple[type[Config], Mapping[str, Any]]


def require_begun_on(run: Path, **identity: Any) -> None:
    """Check that a run to resume was begun on the same data, of which other parts than these are not compared.

    Args:
        run: its folder; one without a record is none to compare.
        identity: parts of `Task.identity`, by name; None for one that is not given.

    Raises:
        FAEError: as `require_same_identity`.
    """
    before = _identity_in(_config(run))
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
    before = _identity_in(_config(run)) if resume else {}
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


def require_started_with(run: Path, plain: Mapping[str, Any], sections: Mapping[str, Config | GivenSection]) -> None:
    """Check that a run to resume was started with the same settings, as far as they are known before models are built.

    Args:
        run: its folder; one without a record is none to compare.
        plain: what config.yaml records as it is, by name, such as the command.
        sections: sections of the settings, by name: as parsed, of which what was set is compared; or the class and what
            is given of a section that is not complete. What is not given is taken from the record.

    Raises:
        FAEError: as `require_same_settings`.
    """
    before, now = _config(run), dict(plain)
    require_same_settings(run, before, now, partly=True)
    for name, section in sections.items():
        is_parsed = isinstance(section, Config)
        config_class, given = (type(section), section.model_dump(exclude_unset=True)) if is_parsed else section
        then = before.get(name)
        # What does not fit what was recorded, by an earlier version maybe, is told once all is known.
        with suppress(InvalidSettings):
            whole = merge(then if isinstance(then, dict) else {}, given)
            now[name] = parse_config(config_class, whole, f"{name} settings").model_dump(mode="json")
    require_same_settings(run, before, redact_values(now), partly=True)


def require_same_settings(run: Path, before: dict[str, Any], now: dict[str, Any], *, partly: bool = False) -> None:
    """Check that a resumed run has the settings that it was started with, but for those that may differ.

    Args:
        run: the run folder.
        before: what config.yaml records.
        now: what is given.
        partly: compare what `now` has alone.

    Raises:
        InvalidSettings: it was started with other settings.
        InvalidFile: it was started by a version that read images otherwise.
    """
    # Runs of earlier versions, and tasks without an identity, are compared by their paths.
    free = (_PLACES if _identity_in(before) else set()) | _free_length(now.get("training", {}))
    compared = {name: before[name] for name in now if name in before} if partly else before
    changed = _differences(compared, now, free)
    if changed:
        raise InvalidSettings(f"{run} was started with other settings ({'; '.join(changed)}); {_remedy(changed)}")
    _require_same_filter(run, before, now)


def _free_length(training: dict[str, Any]) -> set[str]:
    """Settings of the run's length, where they may differ: earlier steps do not depend on them."""
    if training.get("schedule_steps") is not None:
        return {"training.steps", "training.schedule_steps"}
    in_parts = any(0 < training.get(name, 0) < 1 for name in ("warmup_steps", "hold_steps"))
    return {"training.steps"} if training.get("schedule") == "constant" and not in_parts else set()


def _require_same_filter(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise InvalidFile where a run of an earlier version, which resized bicubically, would go on otherwise."""
    then, backbone = ((side.get("encoder") or {}).get("backbone") for side in (before, now))
    if not isinstance(then, dict) or not isinstance(backbone, dict) or "interpolation" in then:
        return
    if backbone.get("interpolation") not in (None, "bicubic"):
        raise InvalidFile(
            f"{run} was started when images were resized bicubically; resume it with "
            "--set encoder.backbone.interpolation=bicubic"
        )


def _remedy(changed: list[str]) -> str:
    """What to do about settings that differ."""
    if len(changed) == 1 and changed[0].startswith("training.steps:"):
        return "name the length of the learning rate's schedule, --set training.schedule_steps=N, to train on"
    if len(changed) == 1 and changed[0].startswith(f"{RUN_MICRO_BATCH}:"):
        return "a loss depends on it: keep --processes times training.accumulation, or use a new --out"
    return "use a new --out"


def _differences(before: dict[str, Any], now: dict[str, Any], free: set[str], prefix: str = "") -> list[str]:
    """Settings that differ, in words. One that an earlier version did not have is not compared.

    Args:
        before: what was recorded.
        now: what is given.
        free: full names of settings that may differ; a section of such a name, such as `autoencoder`, is no path.
        prefix: what the full names begin with here.
    """
    changed = []
    for key in sorted(before.keys() - _FREE_ON_RESUME):
        name, old, new = f"{prefix}{key}", before[key], json.loads(json.dumps(now.get(key)))
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _differences(old, new, free, f"{name}.")
        elif old != new and name not in free and not (prefix == _HF_CONFIG and key not in now):
            changed.append(f"{name}: {old!r} then, {new!r} now")
    return changed


def _identity_in(config: dict[str, Any]) -> dict[str, Any]:
    """What config.yaml says that a run was begun on; nothing in that of an earlier version."""
    known = config.get(RUN_IDENTITY)
    return known if isinstance(known, dict) else {}


def _config(run: Path) -> dict[str, Any]:
    """What config.yaml holds; nothing where there is none."""
    return read_yaml(run / RUN_CONFIG) if (run / RUN_CONFIG).is_file() else {}
