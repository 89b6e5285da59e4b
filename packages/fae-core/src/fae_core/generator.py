"""The two protocols that make packages interchangeable, and how their implementations are found.

A Generator makes latents; a Tokenizer turns images into latents and back. Packages register classes under the entry-point
groups "fae.generators" and "fae.tokenizers", keyed by the `model_type` that stands in a model folder's config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fae_core.errors import CheckpointError, UnknownName
from fae_core.plugins import load_plugins
from fae_core.spec import LatentSpec

if TYPE_CHECKING:
    from torch import Tensor

    from fae_core.random import SlotRandom

CHECKPOINT_STATE = "state.json"  # what only a checkpoint's folder holds


@runtime_checkable
class Generator(Protocol):
    """Anything that learns and samples latents of one LatentSpec. Latents are normalised, (B, C, h, w).

    `condition` is what the model was built for: class labels (B,) int64, or text (see the package).
    """

    spec: LatentSpec

    def loss(self, z: Tensor, condition: Any, *, random: SlotRandom | None = None) -> dict[str, Tensor]:
        """Scalars to log, means over the batch; "loss" is the one to minimise. `random` fixes every draw."""
        ...

    def sample(
        self, condition: Any, *, noise: Tensor | None = None, random: SlotRandom | None = None, **options: Any
    ) -> Tensor:
        """Latents (B, C, h, w), one per condition. `noise` is the starting point; without it `random` draws one."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Images to latents; those that can also decode have `decode`. Images are (B, 3, H, W) in [0, 1]."""

    spec: LatentSpec

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents (B, C, h, w)."""
        ...


def load_generator(source: str | Path, *, spec: LatentSpec | None = None, **options: Any) -> Generator:
    """The generator in a model folder, a run folder, a checkpoint of a run (RUN/checkpoints/step-...) or a hub repository.

    spec: the latent space that the caller has; raises LatentSpecMismatch unless the generator was made for it.
    options: passed to the class's `from_pretrained` (device, dtype, revision, ...); a checkpoint takes device and dtype.
    Raises CheckpointError where there is no model, UnknownName where no installed package knows its type.
    """
    if (Path(source) / CHECKPOINT_STATE).is_file():
        from fae_core.training.restore import generator_in_checkpoint

        generator = generator_in_checkpoint(source, **options)
    else:
        generator = _load("fae.generators", "generator", source, options)
    if spec is not None:
        spec.require(generator.spec, context=f"generator {source}")
    return generator


def load_tokenizer(source: str | Path, **options: Any) -> Tokenizer:
    """The tokenizer in a model folder, a run folder or a hub repository; raises as `load_generator` does."""
    return _load("fae.tokenizers", "tokenizer", source, options)


def _load(group: str, kind: str, source: str | Path, options: dict[str, Any]) -> Any:
    from fae_core.hub import read_config, resolve_model_folder

    folder = resolve_model_folder(source, **{k: options[k] for k in ("revision", "token") if k in options})
    model_type = read_config(folder).get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{folder}/config.json does not say its model_type")
    known = load_plugins(group)
    if model_type not in known:
        raise UnknownName(f"{kind} type", model_type, known)
    return known[model_type].load().from_pretrained(folder, **options)
