"""Making a bundle of a trained tokenizer and a generator of its latents: rounded, stored, and loaded as a check."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fae_core._version import __version__
from fae_core.bundle.card import public, read_results, training_history, write_card
from fae_core.errors import FAEError, require_known
from fae_core.files import require_new_folder, sha256_file, staged_folder, write_json
from fae_core.folders import BUNDLE_PARTS, BUNDLE_RECORD, GENERATOR, README, TOKENIZER
from fae_core.models.bundles import DTYPES, FORMAT_VERSION, OTHERS
from fae_core.models.load import load_decoder, load_generator, load_tokenizer
from fae_core.models.rounding import compact_weights, round_parameters
from fae_core.protocols import class_count, require_decoder
from fae_core.redact import redact_values
from fae_core.spec import LatentSpec


def make_bundle(
    tokenizer: str | Path,
    generator: str | Path,
    out: str | Path,
    *,
    dtype: str = "float16",
    description: str | None = None,
    notes: Sequence[str] = (),
    results: Sequence[Path] = (),
    overwrite: bool = False,
) -> Path:
    """Write the bundle of a tokenizer and a generator, whole or not at all.

    Rounding changes the tokenizer's fingerprint: latents that were encoded before belong to the given tokenizer, and
    those that the bundle encodes to the bundle. The per-channel statistics stay those that the generator was trained
    with. A backbone whose weights are stored in the encoder is not rounded: decoders identify its features by a hash.

    Args:
        tokenizer: A run folder, a model folder or a hub repository.
        generator: Likewise.
        out: The folder to make.
        dtype: Of the stored weights: float16, bfloat16 or float32.
        description: One sentence for the card; None takes a default.
        notes: Paragraphs for the card.
        results: Records of `fae eval`, whose tables go into the card.
        overwrite: Replace an older folder.

    Returns:
        The folder.

    Raises:
        LatentSpecMismatch: Where the generator is for other latents.
        OutputExists: Where the folder is not empty, without `overwrite`.
        FAEError: Where a part cannot be loaded, rounded or saved, or the tokenizer cannot decode.
    """
    require_known("dtype", [dtype], DTYPES)
    out = Path(out)
    inputs = (tokenizer, generator, *results)
    require_new_folder(out, overwrite=overwrite, inputs=inputs)
    measured = [read_results(Path(path)) for path in results]
    encoder, model = _load(tokenizer, generator)
    if dtype != "float32":
        if not hasattr(encoder, "round_parameters"):
            raise FAEError(f"a {type(encoder).__name__} cannot be rounded; use --dtype float32")
        encoder.round_parameters(getattr(torch, dtype))
        round_parameters(model, getattr(torch, dtype))
        model.spec = encoder.spec
    today = datetime.now(UTC).date().isoformat()
    record = {
        "format_version": FORMAT_VERSION,
        "description": public(description or f"A {model.model_type} on the latents of {encoder.spec.backbone}."),
        "tokenizer": _facts(encoder, tokenizer, TOKENIZER),
        "generator": _facts(model, generator, GENERATOR),
        **_space(encoder.spec),
        "dtype": dtype,
        "made": {"date": today, "torch": torch.__version__, "fae_core": __version__},
        "notes": public(list(notes)),
        "measured": measured,
    }
    with staged_folder(out, overwrite=overwrite, inputs=inputs) as staging:
        for part, saved in zip(BUNDLE_PARTS, (encoder, model), strict=True):
            saved.save_pretrained(staging / part)
        for path in sorted(staging.glob("**/*.safetensors")):
            compact_weights(path, getattr(torch, dtype))
        load_generator(staging / GENERATOR, spec=load_tokenizer(staging / TOKENIZER).spec)
        load_decoder(staging / TOKENIZER)
        record = redact_values(record)
        (staging / README).write_text(write_card(record, out.name), encoding="utf-8")
        write_json(staging / BUNDLE_RECORD, {**record, **listed_files(staging)}, seal=True)
    return out


def listed_files(folder: Path) -> dict[str, dict[str, str]]:
    """The record's lists of files in a bundle's folder, with their SHA-256: weights, and all others but the record."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / BUNDLE_RECORD)
    found = {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}
    weights = {name: digest for name, digest in found.items() if name.endswith(".safetensors")}
    return {"files": weights, OTHERS: {name: digest for name, digest in found.items() if name not in weights}}


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _load(tokenizer: str | Path, generator: str | Path) -> tuple[Any, Any]:
    """Both models, on the CPU; raises FAEError unless the tokenizer decodes and the generator is of its latents."""
    encoder: Any = load_tokenizer(tokenizer)
    require_decoder(encoder, tokenizer)
    model: Any = load_generator(generator, spec=encoder.spec)
    for part in (encoder, model):
        if not hasattr(part, "save_pretrained"):
            raise FAEError(f"a {type(part).__name__} has no save_pretrained and cannot be put into a bundle")
    return encoder, model


def _facts(model: Any, source: str | Path, part: str) -> dict[str, Any]:
    """Type, parameters, classes and training of a model. A frozen backbone of another project is not counted."""
    named = model.named_parameters()
    count = sum(p.numel() for name, p in named if not name.startswith(("backbone.", "encoder.backbone.")))
    classes = class_count(model)
    names = getattr(model, "class_names", None)
    package = type(model).__module__.split(".")[0].replace("_", "-")
    facts = {
        "type": model.model_type,
        "package": package,
        "parameters": count,
        **({} if classes is None else {"classes": classes}),
        **({} if names is None else {"class_names": list(names)}),
    }
    return {**facts, "training": training_history(source, part)}


def _space(spec: LatentSpec) -> dict[str, str]:
    """Sizes of latents and images, and the backbone."""
    return {
        "latents": "x".join(map(str, spec.shape)),
        "images": "x".join(map(str, spec.image_shape)),
        "backbone": spec.backbone,
    }
