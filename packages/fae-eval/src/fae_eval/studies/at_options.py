"""The Frechet distance of one generator's samples at several sampling options, all from the same noise.

What the studies of sampling share: the guidance search asks for one scale after another, the sampling grid for every
combination of some options.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fae_core.files import sha256_file
from fae_core.models.identity import earlier_identity, model_identity, named_identities
from fae_core.models.load import load_generator
from fae_core.models.sample_options import resolved_options
from fae_core.processes import Processes, processes
from fae_core.sampling.prompts import read_prompts
from fae_eval.data import GeneratedSamples, open_samples
from fae_eval.extractors import DEFAULT, FeatureExtractor, load_extractor
from fae_eval.results import FLOOR, Result
from fae_eval.studies.generation import evaluate, open_floor
from fae_eval.studies.reference import KeptReference
from fae_eval.tokenizers import load_image_tokenizer, name_of


class AtOptions:
    """A loaded generator and everything that its samples are measured with. Made by `open_at_options`.

    Attributes:
        model: the generator.
        identity: hashes and names of everything that decides a distance but the options; the same in all processes, as
            it is read from a record.
        group: the processes that measure together.
    """

    def __init__(
        self,
        model: Any,
        identity: dict[str, Any],
        group: Processes,
        drawn: dict[str, Any],
        measured: dict[str, Any],
        named: dict[str, Any],
    ) -> None:
        self.model, self.identity, self.group = model, identity, group
        self._drawn, self._measured, self._named = drawn, measured, named

    def settings(self, options: Mapping[str, Any]) -> str:
        """A hash of what decides samples beside weights and noise: options over the generator's own settings.

        Models that options name count by their content.
        """
        resolved = resolved_options(getattr(self.model, "config", None), options)
        resolved |= named_identities(self.model, options)
        return hashlib.sha256(json.dumps(resolved, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def earlier_generators(self) -> tuple[str | None, ...]:
        """What earlier versions recorded of the generator: a hash with its own settings of sampling in it."""
        return model_identity(self.model), earlier_identity(self.model), self._named["generator"]

    def content(self, images: Any) -> str:
        """A hash of real images as they are measured; their name where their content has none."""
        how = self._measured
        return _content(images, how["size"], how["limit"], None, how["decoder"])

    def measure(self, count: int, options: Mapping[str, Any]) -> Result:
        """The record of `evaluate` for `count` samples; sample i has the same noise and label at all options."""
        samples = GeneratedSamples(self.model, count=count, options=dict(options), **self._drawn)
        return evaluate(samples, metrics=("frechet",), **self._measured)

    def command(self, count: int, options: Mapping[str, Any]) -> str:
        """The `fae sample` command that draws `count` samples at some options."""
        return sample_command(options, count=count, **self._named)

    def measure_real(self, images: Any, count: int) -> Result:
        """The record of `evaluate` for at most `count` real images: the distance that so many samples can reach."""
        real = open_floor(images, count, **{name: self._measured[name] for name in ("size", "limit", "decoder")})
        return evaluate({FLOOR: real}, metrics=("frechet",), **self._measured)


@contextmanager
def open_at_options(
    generator: Any,
    decoder: Any,
    reference: Any,
    *,
    labels: str = "equal",
    prompts: str | Path | None = None,
    seed: int = 0,
    extractor: str | FeatureExtractor = DEFAULT,
    weights: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    survey: str | Path | None = None,
    device: str | None = None,
    **options: Any,
) -> Iterator[AtOptions]:
    """A generator with decoder, reference and extractor, loaded once.

    Args:
        generator: run, model or checkpoint folder, or hub id, or the object.
        decoder: folder or hub id of a tokenizer that decodes, or the tokenizer.
        reference: real images, as in `evaluate`.
        labels: classes of the samples, as in `fae sample`.
        prompts: file of prompts, for a generator of text.
        seed: of noise and random labels.
        extractor: as in `evaluate`.
        weights: of the extractor.
        size: side of a centre crop of all images, in pixels.
        limit: most images of the reference.
        survey: a report of `fae check` on the reference's images.
        device: of what is loaded; cuda where there is one.
        **options: as in `evaluate` (batch_size, cache, progress).

    Raises:
        FAEError: as `evaluate`.
    """
    texts = read_prompts(Path(prompts)) if prompts is not None else ()
    with processes(device) as group:
        network = load_extractor(extractor, weights=weights, device=group.device)
        tokenizer = load_image_tokenizer(decoder, group.device, needs_decode=True)
        model = load_generator(generator, device=group.device) if isinstance(generator, (str, Path)) else generator
        identity = None
        if group.is_main:
            identity = {
                "generator": model_identity(model, sampling=not _resolves(model)) or name_of(generator),
                "decoder": model_identity(tokenizer) or name_of(decoder),
                "reference": _content(reference, size, limit, survey, tokenizer),
                "extractor": f"{network.name} {network.fingerprint} {network.resize}",
                "labels": labels,
                "prompts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16] if texts else None,
                "seed": seed,
            }
        yield AtOptions(
            model,
            as_read_again(group.broadcast(identity)),
            group,
            {"decoder": tokenizer, "labels": labels, "prompts": texts, "seed": seed, "name": name_of(generator)},
            {
                "reference": KeptReference(reference),
                "decoder": tokenizer,
                "extractor": network,
                "size": size,
                "limit": limit,
                "survey": survey,
                "device": device,
                "label_sampling": labels,
                **options,
            },
            {
                "generator": name_of(generator),
                "decoder": name_of(decoder),
                "labels": labels,
                "prompts": None if prompts is None else str(prompts),
                "seed": seed,
            },
        )


def as_read_again(value: Any) -> Any:
    """A value as JSON gives it back, so that it equals what a record holds."""
    return json.loads(json.dumps(value))


def sample_command(
    options: Mapping[str, Any], *, count: int, generator: str, decoder: str, labels: str, prompts: str | None, seed: int
) -> str:
    """The `fae sample` command that draws what was measured.

    Args:
        options: of the generator's `sample`.
        count: of the samples.
        generator: its folder or hub id.
        decoder: the tokenizer's.
        labels: classes of the samples.
        prompts: file of prompts; None for a generator of classes.
        seed: of the noise.
    """
    parts = ["fae", "sample", "--generator", generator, "--decoder", decoder]
    parts += ["--count", str(count), "--labels", labels, "--seed", str(seed)]
    parts += [] if prompts is None else ["--prompts", prompts]
    given = dict(options)
    if "sampling" in given:
        parts += ["--sampling", str(given.pop("sampling"))]
    if isinstance(given.get("guidance"), int | float):
        parts += ["--guidance", f"{given.pop('guidance'):g}"]
    for key, value in _flat(given):
        parts += ["--set", f"{key}={json.dumps(value, separators=(',', ':'))}"]
    return " ".join(map(shlex.quote, [*parts, "--out"])) + " SAMPLES"


def _resolves(model: Any) -> bool:
    """Whether a generator's own settings of sampling are resolved with the options of each point."""
    return hasattr(getattr(model, "config", None), "sampling_settings")


def _flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """KEY, VALUE for --set, a key per level joined by dots."""
    found = []
    for name, value in settings.items():
        found += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
    return found


def _content(reference: Any, size: int | None, limit: int | None, survey: str | Path | None, decoder: Any) -> str:
    """A hash of the reference's content and preparation; its name where its content has none."""
    path = Path(reference) if isinstance(reference, (str, Path)) else None
    if path is not None and path.suffix == ".npz":
        return f"{sha256_file(path)} {size} {limit}"
    opened = open_samples(reference, size=size, limit=limit, survey=survey, decoder=decoder)
    return f"{opened.cache_key() or name_of(reference)} {size} {limit}"
