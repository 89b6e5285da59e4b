"""Model folders: config.json, model.safetensors, latent_spec.json, README.md; on disk, in a run folder or on the hub.

config.json holds `model_type` (the name under which a package registers the class), `package` and `version` (who wrote it),
`config` (the constructor's arguments) and `checksum` (of weights and spec, compared at loading), and for a generator of known
classes `class_names` by label. Weights are safetensors; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fae_core.errors import CheckpointError, field_reasons, first_line, is_unknown_name
from fae_core.files import read_json, staged_folder, write_json
from fae_core.integrity import model_checksum
from fae_core.limits import beyond
from fae_core.presets import load_preset
from fae_core.redact import redact
from fae_core.spec import FILE_NAME as SPEC_FILE
from fae_core.spec import LatentSpec

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RUN_MODEL_FOLDER = "model"  # where a run folder keeps its exported model


class ModelConfig(BaseModel):
    """Base of every model's configuration: frozen, typed, unknown keys and absurd numbers (see `limits`) refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        problem = beyond(dict(self))
        if problem is not None:
            raise ValueError(problem)
        return self


def parse_config(config_class: type[ModelConfig], fields: dict[str, Any], where: str) -> Any:
    """A validated config; raises CheckpointError, one line, naming each wrong field."""
    try:
        return config_class.model_validate(fields)
    except ValidationError as error:
        raise CheckpointError(f"{where}: {field_reasons(error.errors(), config_class)}") from None


def require_fields(config_class: type[ModelConfig], fields: dict[str, Any], where: str) -> None:
    """Raise CheckpointError for names that the class does not know, at any depth, while some values are still to be found out."""
    try:
        config_class.model_validate(fields)
    except ValidationError as error:
        unknown = [found for found in error.errors() if is_unknown_name(found)]
        if unknown:
            raise CheckpointError(f"{where}: {field_reasons(unknown, config_class)}") from None


def built(where: str, build: Callable[[], Any]) -> Any:
    """The model that `build()` makes of a configuration; CheckpointError where torch cannot make one of these sizes."""
    try:
        return build()
    except torch.OutOfMemoryError:  # a GPU's, which has a line of its own
        raise
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, TypeError) and "Overflow" not in str(error):  # torch's own complaint of a huge number
            raise
        raise CheckpointError(f"{where}: no model of these sizes can be made: {first_line(error)[:200]}") from error


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """What `built` makes with initial weights that are fixed by the seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return built("model settings", build)


class PretrainedModel(nn.Module):
    """Mixin for every model that lives in a model folder.

    A subclass sets `model_type` and `config_class` and is constructed as `cls(config, spec)`; `spec` is the LatentSpec that
    it speaks, or None for parts that do not touch latents.
    """

    model_type: ClassVar[str]
    config_class: ClassVar[type[ModelConfig]]
    needs_spec: ClassVar[bool] = True
    class_names: tuple[str, ...] | None = None  # of the labels that a generator was trained on; kept in config.json

    def __init__(self, config: ModelConfig, spec: LatentSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.spec = spec

    @classmethod
    def from_preset(cls, name: str, *, spec: LatentSpec | None = None, **overrides: Any) -> Self:
        """A model with fresh weights from a preset; `overrides` replace fields of its config.

        spec: the latent space it is for; a preset's own `spec` section is used where it is None.
        """
        preset = load_preset(name, cls.model_type)
        config = parse_config(cls.config_class, {**preset.get("model", {}), **overrides}, f"preset {name}")
        if spec is None and "spec" in preset:
            spec = LatentSpec.from_dict(preset["spec"], f"preset {name}")
        return built(f"preset {name}", lambda: cls(config, spec))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        spec: LatentSpec | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """The model in `source`: a model folder, a run folder, or "owner/name" on the hub. In eval mode.

        spec: raises LatentSpecMismatch unless the model speaks exactly this space.
        Raises CheckpointError where files are missing, damaged, or of another model.
        """
        folder = resolve_model_folder(source, revision=revision, token=token)
        stored = read_config(folder)
        if stored.get("model_type") != cls.model_type:
            raise CheckpointError(f"{folder} holds a {stored.get('model_type')!r} model, not {cls.model_type!r}")
        config = parse_config(cls.config_class, stored.get("config", {}), f"{folder}/{CONFIG_FILE}")
        own_spec = LatentSpec.load(folder) if (folder / SPEC_FILE).is_file() else None
        if own_spec is None and cls.needs_spec:
            raise CheckpointError(f"{folder} has no {SPEC_FILE}")
        if spec is not None and own_spec is not None:
            spec.require(own_spec, context=str(source))
        model = built(f"{folder}/{CONFIG_FILE}", lambda: cls(config, own_spec))
        model.class_names = checked_names(stored.get("class_names"), f"{folder}/{CONFIG_FILE}")
        load_weights(model, folder / WEIGHTS_FILE)
        require_unchanged(folder, model._saved_state(), own_spec)
        return model.to(device=device, dtype=dtype).eval()

    def dry_run(self, batch: int) -> Tensor:
        """A forward pass of `batch` samples of the model's own shapes, on its device; `fae info` counts and times what it takes."""
        raise NotImplementedError(f"{type(self).__name__} has no dry_run")

    def dry_input(self, *shape: int) -> Tensor:
        """Input for `dry_run` on the model's device and in its dtype: random numbers, the same in every call."""
        reference = next(self.parameters())
        if reference.is_meta:
            return reference.new_empty(shape)
        generator = torch.Generator(reference.device).manual_seed(0)
        return torch.randn(shape, generator=generator, device=reference.device, dtype=reference.dtype)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False, card: str | None = None) -> Path:
        """Write a model folder, whole or not at all. Raises OutputExists unless it is new, empty, or `overwrite`.

        card: text of the model card's body; a short default names the class, parameters and latent space.
        """
        with staged_folder(folder, overwrite=overwrite) as staging:
            self._write(staging, card)
        return Path(folder)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, token: str | None = None, card: str | None = None
    ) -> str:
        """Upload as a model repository; returns its address. The token is never written anywhere."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "model", card=card)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    def _write(self, folder: Path, card: str | None) -> None:
        state = self._saved_state()
        package = type(self).__module__.split(".")[0]
        checksum = model_checksum(state, self.spec)
        fields = self.config.model_dump(mode="json")
        write_config(folder, self.model_type, fields, package, checksum, self.class_names)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS_FILE)
        if self.spec is not None:
            self.spec.save(folder)
        (folder / "README.md").write_text(model_card(self, card), encoding="utf-8")

    def _saved_state(self) -> dict[str, torch.Tensor]:
        """What goes into model.safetensors; a model with parts stored elsewhere overrides this."""
        return self.state_dict()


def write_config(
    folder: Path,
    model_type: str,
    config: dict[str, Any],
    package: str,
    checksum: str,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write config.json, without secrets in addresses. checksum: the `model_checksum` of what lies beside it."""
    import importlib

    version = getattr(importlib.import_module(package), "__version__", None)
    stored = {"model_type": model_type, "package": package, "version": version, "config": config, "checksum": checksum}
    if class_names is not None:
        stored["class_names"] = list(class_names)
    write_json(folder / CONFIG_FILE, stored, verbatim=("class_names",))


def checked_names(names: Any, where: str) -> tuple[str, ...] | None:
    """Class names as a file has them. Raises CheckpointError where they are no list of texts."""
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CheckpointError(f"{where}: class_names must be a list of texts")
    return None if names is None else tuple(names)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict; raises CheckpointError where it is missing or malformed."""
    return read_json(folder / CONFIG_FILE)


def require_unchanged(folder: Path, state: Mapping[str, Tensor], spec: LatentSpec | None) -> None:
    """Raise CheckpointError unless loaded weights and spec are those that the folder was saved with. Folders of earlier versions
    have no checksum to compare with."""
    wanted = read_config(folder).get("checksum")
    if wanted is not None and wanted != model_checksum(state, spec):
        raise CheckpointError(
            f"{folder} is damaged, or was changed by hand: {WEIGHTS_FILE} or {SPEC_FILE} is not what was saved"
        )


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into `module`, every key accounted for. Raises CheckpointError otherwise."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    load_state(module, state, str(path))


def load_state(module: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """`load_state_dict` with a one-line CheckpointError that names the first keys that do not fit."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    problems = [
        f"{label} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for label, keys in (("lacks", missing), ("has unknown", extra), ("has another shape for", sorted(shapes)))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{where} is of another model: {'; '.join(problems)}")
    module.load_state_dict(state)


def resolve_model_folder(
    source: str | Path, *, part: str | None = None, revision: str | None = None, token: str | None = None
) -> Path:
    """The local model folder of `source`: a run folder stands for its exported model, a bundle for its `part`.

    part: "tokenizer" or "generator", where one of the two is wanted; None refuses bundles. Raises CheckpointError.
    """
    from fae_core.bundle.lookup import PARTS, bundle_part, is_bundle

    folder = locate_folder(source, revision=revision, token=token)
    if is_bundle(folder):
        if part is None:
            raise CheckpointError(f"{source} is a bundle; give {' or '.join(str(folder / name) for name in PARTS)}")
        return bundle_part(folder, part)
    for candidate in (folder, folder / RUN_MODEL_FOLDER):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    raise CheckpointError(f"{folder} holds no model ({CONFIG_FILE} is missing)")


def locate_folder(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The local folder of `source`: itself, else a bundle of that name, else what the hub has as "owner/name"."""
    from fae_core.bundle.lookup import bundle_folders

    folder, name = Path(source), str(source)
    if folder.is_dir():
        return folder
    if "/" not in name:
        if name in bundle_folders():
            return bundle_folders()[name]
        known = ", ".join(sorted(bundle_folders())) or "none"
        raise CheckpointError(f"{name} does not exist; models that installed packages carry: {known}")
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or name.endswith("/"):
        raise CheckpointError(f"{name} does not exist")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, token=token))
    except Exception as error:
        reason = first_line(error)
        raise CheckpointError(
            f"{name} is neither a local folder nor a model that the hub would give: {reason}"
        ) from None


def model_card(model: nn.Module, body: str | None) -> str:
    """A model card: front matter for the hub, what the model is, its latent space, how to load it. Without secrets."""
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
