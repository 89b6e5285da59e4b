"""The card of a bundle: how its parts were trained, what was measured, how to use it. Local paths are removed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fae_core.commands.running import recorded_place
from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json, read_yaml
from fae_core.folders import (
    ANY_CHECKPOINT,
    BUNDLE_PARTS,
    BUNDLE_RECORD,
    CHECKPOINT_STATE,
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_EXPORTS,
    checkpoint,
    checkpoint_step,
    kept_step,
)
from fae_core.models.bundles import is_bundle, read_bundle
from fae_core.models.card import front_matter
from fae_core.models.sources import locate_folder, run_of
from fae_core.redact import redact

_CLASSES = 20  # names that a card lists
_EARLIER = ("autoencoder", "init")  # settings of a training command that name the runs it starts from
_DIRECTORIES = re.compile(r"(?<![\w.~:/-])/(?:[^\s/'\",;)]+/)*")


def training_history(source: str | Path, part: str) -> list[dict[str, Any]]:
    """The commands that trained a model, first to last: those of the runs that it started from, then its own.

    Args:
        source: A run, its model, or one of its checkpoints; a bundle, or a folder in one, whose record says it. The
            history of any other folder is empty.
        part: "tokenizer" or "generator": what it is.

    Returns:
        Per run that still exists: command, data, seed, steps, batch_size; if a checkpoint is left, also seconds,
        device, threads and torch.
    """
    found: dict[object, dict[str, Any]] = {}
    _collect(source, part, found)
    return list(found.values())


def read_results(path: Path) -> dict[str, Any]:
    """Title, table, notes, command, date and device of a record of `fae eval`; raises InvalidFile for another file."""
    record = read_json(path)
    table = record.get("table")
    if not isinstance(table, dict) or not all(isinstance(table.get(key), list) for key in ("columns", "rows")):
        raise InvalidFile(f"{path} holds no results; give a .json that `fae eval` wrote")
    origin = record.get("provenance", {})
    facts = {"title": record.get("title", path.stem), "table": {key: table[key] for key in ("columns", "rows")}}
    facts |= {"notes": record.get("notes", [])}
    return public({**facts, **{key: origin[key] for key in ("command", "date", "device") if key in origin}})


def public(value: Any) -> Any:
    """A value with secrets and the directories of absolute paths removed from every string inside."""
    if isinstance(value, str):
        return _DIRECTORIES.sub("", redact(value))
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    return [public(item) for item in value] if isinstance(value, list | tuple) else value


def write_card(record: dict[str, Any], name: str) -> str:
    """The text of a bundle's README.md, in the hub's format.

    Args:
        record: The content of bundle.json.
        name: Of the bundle.
    """
    lines = [front_matter(["fae", "bundle", record["tokenizer"]["type"], record["generator"]["type"]])]
    lines += [f"# {name}", "", record["description"], "", f"    fae sample --model {name} --out SAMPLES", ""]
    lines += ["| part | type | package | parameters |", "|---|---|---|---|"]
    for part in BUNDLE_PARTS:
        model = record[part]
        lines.append(f"| {part} | {model['type']} | {model['package']} | {model['parameters']:,} |")
    names = record["generator"].get("class_names") or []
    if names:
        shown = ", ".join(names[:_CLASSES]) + (f" and {len(names) - _CLASSES} more" if len(names) > _CLASSES else "")
        lines += ["", f"Classes, for `--labels`: {' '.join(shown.split())}."]
    made = record["made"]
    lines += ["", f"Latents {record['latents']}, images of {record['images']} pixels. Weights are stored in "]
    lines[-1] += f"{record['dtype']}; packed {made['date']}, torch {made['torch']}."
    for part in BUNDLE_PARTS:
        for step in record[part]["training"]:
            facts = ", ".join(f"{key} {value}" for key, value in step.items() if key != "command")
            lines += ["", f"`{step.get('command')}`: {facts}."]
    lines += [text for note in record["notes"] for text in ("", note)]
    for result in record["measured"]:
        lines += ["", *_table(result)]
    return "\n".join(lines) + "\n"


def _collect(source: str | Path, part: str, found: dict[object, dict[str, Any]]) -> None:
    """Add the facts of a run to `found`, after those of the runs that it started from."""
    try:
        folder = locate_folder(source, [BUNDLE_RECORD], local_files_only=True)
    except FAEError:  # its run may still say how it was trained
        folder = Path(source)
    # A bundle, its tokenizer or generator, or a part of these.
    bundle = next((place for place in (folder, *folder.absolute().parents[:2]) if is_bundle(place)), None)
    if bundle is not None:
        found |= {(bundle, i): facts for i, facts in enumerate(read_bundle(bundle)[part].get("training", []))}
        return
    run = run_of(folder)
    if run is None or run in found:
        return
    settings = read_yaml(run / RUN_CONFIG)
    for key in _EARLIER:
        place = recorded_place(run, settings.get(key), f"--{key}")
        if place is not None:
            _collect(place, part, found)
    training = settings.get("training")
    training = training if isinstance(training, dict) else {}
    facts = {key: settings[key] for key in ("command", "data") if key in settings}
    facts |= {key: training[key] for key in ("seed", "steps", "batch_size") if key in training}
    states = sorted(run.glob(f"{RUN_CHECKPOINTS}/{ANY_CHECKPOINT}/{CHECKPOINT_STATE}"))
    steps = {RUN_CHECKPOINTS: checkpoint_step, RUN_EXPORTS: kept_step}
    step = steps.get(folder.parent.name, lambda _: None)(folder.name) if run != folder else None
    if step is not None:  # a model from the middle of a run
        facts, states = {**facts, "steps": step}, [p for p in states if p.parent.name == checkpoint(step)]
    found[run] = public({**facts, **(_facts_of(states[-1]) if states else {})})


def _facts_of(checkpoint: Path) -> dict[str, Any]:
    """Steps, seconds and machine of the training up to a checkpoint."""
    state = read_json(checkpoint)
    seconds = {"seconds": round(state["seconds"])} if isinstance(state.get("seconds"), int | float) else {}
    steps = {"steps": state["step"]} if isinstance(state.get("step"), int) else {}
    return {**steps, **seconds, **{key: state[key] for key in ("device", "threads", "torch") if key in state}}


def _table(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown for the results of one evaluation."""
    columns: Sequence[Any] = result["table"]["columns"]
    lines = [f"## {result['title']}", "", f"| {' | '.join(map(str, columns))} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in result["table"]["rows"]]
    origin = [f"`{result['command']}`"] if "command" in result else []
    origin += [str(result[key]) for key in ("date", "device") if key in result]
    return [*lines, "", *([", ".join(origin) + "."] if origin else []), *map(str, result["notes"])]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
