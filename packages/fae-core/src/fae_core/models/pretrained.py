"""PretrainedModel: the base of every model that lives in a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fae_core.config import Config, ConfigT, parse_config
from fae_core.errors import InvalidFile
from fae_core.files import staged_folder
from fae_core.folders import LATENT_SPEC, MODEL_CONFIG, MODEL_WEIGHTS, README, RUN_MODEL
from fae_core.models.build import built
from fae_core.models.card import model_card
from fae_core.models.folder import checked_names, load_weights, read_config, require_unchanged, write_config
from fae_core.models.identity import model_checksum
from fae_core.models.presets import load_preset
from fae_core.models.sources import resolve_model_folder
from fae_core.spec import LatentSpec


class PretrainedModel(nn.Module, Generic[ConfigT]):
    """Mixin for every model that lives in a model folder.

    A subclass sets `model_type` and `config_class` and is constructed as `cls(config, spec)`; `spec` is the LatentSpec that
    it speaks, or None for parts that do not touch latents.
    """

    model_type: ClassVar[str]
    config_class: ClassVar[type[Config]]
    config: ConfigT
    spec: LatentSpec  # None in a part that touches no latents (`needs_spec`)
    needs_spec: ClassVar[bool] = True
    class_names: tuple[str, ...] | None = None  # of the labels that a generator was trained on; kept in config.json

    def __init__(self, config: ConfigT, spec: LatentSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.spec = spec  # pyright: ignore[reportAttributeAccessIssue]

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
        Raises InvalidFile where files are missing, damaged, or of another model.
        """
        folder = resolve_model_folder(source, revision=revision, token=token)
        config, own_spec = cls._read(folder)
        if spec is not None and own_spec is not None:
            spec.require(own_spec, context=str(source))
        model = built(f"{folder}/{MODEL_CONFIG}", lambda: cls(config, own_spec))
        model.class_names = checked_names(read_config(folder).get("class_names"), f"{folder}/{MODEL_CONFIG}")
        load_weights(model, folder / MODEL_WEIGHTS)
        require_unchanged(folder, model._saved_state(), own_spec)
        return model.to(device=device, dtype=dtype).eval()

    @classmethod
    def _read(cls, folder: Path) -> tuple[Any, LatentSpec | None]:
        """The configuration and the latent spec of a model of this class in `folder`. Raises InvalidFile."""
        stored = read_config(folder)
        if stored.get("model_type") != cls.model_type:
            raise InvalidFile(f"{folder} holds a {stored.get('model_type')!r} model, not {cls.model_type!r}")
        config = parse_config(cls.config_class, stored.get("config", {}), f"{folder}/{MODEL_CONFIG}")
        spec = LatentSpec.load(folder) if (folder / LATENT_SPEC).is_file() else None
        if spec is None and cls.needs_spec:
            raise InvalidFile(f"{folder} has no {LATENT_SPEC}")
        return config, spec

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
            folder = self.save_pretrained(Path(parent) / RUN_MODEL, card=card)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    def _write(self, folder: Path, card: str | None) -> None:
        state = self._saved_state()
        package = type(self).__module__.split(".")[0]
        checksum = model_checksum(state, self.spec)
        fields = self.config.model_dump(mode="json")
        write_config(folder, self.model_type, fields, package, checksum, self.class_names)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / MODEL_WEIGHTS)
        if self.spec is not None:
            self.spec.save(folder)
        (folder / README).write_text(model_card(self, card), encoding="utf-8")

    def _saved_state(self) -> dict[str, torch.Tensor]:
        """What goes into model.safetensors; a model with parts stored elsewhere overrides this."""
        return self.state_dict()
