"""PretrainedModel: the base of every model that is saved to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Generic, Self, Unpack, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from fae_core.config import Config, ConfigT, parse_config
from fae_core.errors import FAEError, InvalidFile
from fae_core.files import staged_folder
from fae_core.folders import LATENT_SPEC, MODEL_CONFIG, MODEL_WEIGHTS, README, RUN_MODEL, weights_file
from fae_core.models.build import built, seeded, single_precision
from fae_core.models.card import Card, model_card
from fae_core.models.folder import load_weights, read_config, require_unchanged, write_config
from fae_core.models.identity import model_checksum
from fae_core.models.no_init import no_initial_weights
from fae_core.models.presets import load_preset
from fae_core.models.shown import Shown
from fae_core.models.sources import HubOptions, resolve_model_folder
from fae_core.models.stored import checked_names
from fae_core.spec import LatentSpec


class PretrainedModel(Shown, Generic[ConfigT]):
    """Base of every model that is saved to a model folder. A subclass sets `model_type` and `config_class`.

    Args:
        config: Of the class `config_class`.
        spec: The latent space that the model is for; None for a part that has no latents (`needs_spec` is False).
    """

    model_type: ClassVar[str]
    config_class: ClassVar[type[Config]]
    config: ConfigT
    spec: LatentSpec  # None in a part that has no latents (`needs_spec`)
    needs_spec: ClassVar[bool] = True
    model_parts: ClassVar[tuple[str, ...]] = ("",)  # folders inside a model's that hold files of it, "" for its own
    pipeline_tag: ClassVar[str | None] = None  # of the model card: the hub's name of the task
    class_names: tuple[str, ...] | None = None  # of the labels that a generator was trained on; kept in config.json

    def __init__(self, config: ConfigT, spec: LatentSpec | None = None) -> None:
        super().__init__()
        self.config = config
        self.spec = spec  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def from_preset(
        cls, name: str, *, spec: LatentSpec | None = None, seed: int | None = None, **overrides: Any
    ) -> Self:
        """A model of a preset, with random weights.

        Args:
            name: Of the preset.
            spec: The latent space that the model is for; None takes the preset's own `spec` section.
            seed: Fixes the initial weights; None draws them from torch's global generator.
            overrides: Fields of the config that replace the preset's.

        Raises:
            UnknownName: Where no preset of this model has the name.
            InvalidSettings: Where a field is unknown or out of range.
        """
        preset = load_preset(name, cls.model_type)
        config = cls._parse({**preset.get("model", {}), **overrides}, f"preset {name}")
        if spec is None and "spec" in preset:
            spec = LatentSpec.from_dict(preset["spec"], f"preset {name}")
        if seed is not None:
            return seeded(seed, lambda: cls(config, spec))
        return built(f"preset {name}", lambda: cls(config, spec))

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        spec: LatentSpec | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """A saved model, in eval mode. Of a hub repository only the files that are needed are fetched.

        Args:
            source: A model folder, a run folder, or "owner/name" on the hub.
            spec: The latent space that the model must be for; None accepts any.
            device: Of the parameters.
            dtype: Of the parameters; None: fp32, to which halves are widened, or fp64 where the model was saved so.
            hub: revision, token, cache_dir, local_files_only, subfolder and variant, see `HubOptions`.

        Raises:
            LatentSpecMismatch: Where the model is for another space than `spec`.
            InvalidFile: Where files are missing, damaged, or of another model.
            UnknownName: For an unknown option.
        """
        folder, variant = resolve_model_folder(source, parts=cls.model_parts, **hub), hub.get("variant")
        config, own_spec = cls._read(folder)
        if spec is not None and own_spec is not None:
            spec.require(own_spec, context=str(source))
        with single_precision, no_initial_weights():
            model = built(f"{folder}/{MODEL_CONFIG}", lambda: cls(config, own_spec))
        model.class_names = checked_names(read_config(folder).get("class_names"), f"{folder}/{MODEL_CONFIG}")
        load_weights(model, folder / weights_file(variant))
        require_unchanged(folder, model._saved_state(), own_spec, variant)
        return model.to(device=device, dtype=dtype).eval()

    @classmethod
    def _parse(cls, fields: dict[str, Any], where: str) -> ConfigT:
        """A validated configuration. A ClassVar cannot name ConfigT, so that the checker takes it from here."""
        return cast("ConfigT", parse_config(cls.config_class, fields, where))

    @classmethod
    def _read(cls, folder: Path) -> tuple[ConfigT, LatentSpec | None]:
        """The configuration and the latent spec of a model of this class in `folder`. Raises InvalidFile."""
        stored = read_config(folder)
        if stored.get("model_type") != cls.model_type:
            raise InvalidFile(f"{folder} holds a {stored.get('model_type')!r} model, not {cls.model_type!r}")
        config = cls._parse(stored.get("config", {}), f"{folder}/{MODEL_CONFIG}")
        spec = LatentSpec.load(folder) if (folder / LATENT_SPEC).is_file() else None
        if spec is None and cls.needs_spec:
            raise InvalidFile(f"{folder} has no {LATENT_SPEC}")
        return config, spec

    def dry_run(self, batch: int) -> Tensor:
        """The output of a forward pass, on the model's device; `fae info` counts and times it.

        Args:
            batch: Number of samples, of the model's own shapes.
        """
        raise NotImplementedError(f"{type(self).__name__} has no dry_run")

    def dry_input(self, *shape: int) -> Tensor:
        """Input for `dry_run`, on the model's device and in its dtype: random numbers, the same in every call."""
        reference = next(self.parameters())
        if reference.is_meta:
            return reference.new_empty(shape)
        generator = torch.Generator(reference.device).manual_seed(0)
        return torch.randn(shape, generator=generator, device=reference.device, dtype=reference.dtype)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False, card: Card | str | None = None) -> Path:
        """Write a model folder, whole or not at all.

        Args:
            folder: Where it is made.
            overwrite: Replace an older folder.
            card: The model card's text, or a `Card` with licence and data sets too; None takes a short default.

        Returns:
            The folder.

        Raises:
            OutputExists: Where the folder is not empty, without `overwrite`.
            FAEError: Where the weights are not those of a model of this config, as with adapters or quantised ones.
        """
        with staged_folder(folder, overwrite=overwrite) as staging:
            self._write(staging, card if isinstance(card, Card) else Card(text=card))
        return Path(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool = False,
        revision: str | None = None,
        create_pr: bool = False,
        token: str | None = None,
        card: Card | str | None = None,
    ) -> str:
        """Upload the model to a repository on the hub.

        Args:
            repo_id: "owner/name"; it is created where it does not exist.
            commit_message: Of the commit; None takes "Upload CLASS".
            private: Whether a new repository is private.
            revision: The branch that is committed to, made where it does not exist; None takes main.
            create_pr: Open a pull request instead of committing to the branch.
            token: For the hub; it is never written to disk.
            card: As in `save_pretrained`.

        Returns:
            The address of the commit, or of the pull request.
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / RUN_MODEL, card=card)
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                revision=revision,
                create_pr=create_pr,
            )
            return done.pr_url or done.commit_url

    def _write(self, folder: Path, card: Card) -> None:
        """Write every file of the model into a folder."""
        state = self._saved_state()
        self.require_own_weights()
        package = type(self).__module__.split(".")[0]
        checksum = model_checksum(state, self.spec)
        fields = self.config.model_dump(mode="json")
        write_config(folder, self.model_type, fields, package, checksum, **self._more_facts())
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / MODEL_WEIGHTS)
        if self.spec is not None:
            self.spec.save(folder)
        (folder / README).write_text(model_card(self, card), encoding="utf-8")

    def require_own_weights(self) -> None:
        """Check that a folder of this model could be loaded.

        Raises:
            FAEError: Where its weights are not those of a model of its config, as with adapters or quantised ones.
        """
        state = self._saved_state()
        try:
            with torch.device("meta"), no_initial_weights():
                own = type(self)(self.config, self.spec)._saved_state()
        except RuntimeError:  # a constructor that computes with numbers, which tensors on the meta device lack
            return
        strange = [
            name
            for name in sorted(own.keys() | state.keys())
            if name not in own
            or name not in state
            or own[name].shape != state[name].shape
            or type(state[name]) not in (Tensor, torch.nn.Parameter)  # such as a quantised one
        ]
        if strange:
            raise FAEError(
                f"{type(self).__name__} has other weights than a model of its config, such as {strange[0]}: merge the "
                "adapters first (merge_and_unload), or save them with peft; quantise after loading"
            )

    def _more_facts(self) -> dict[str, Any]:
        """What config.json holds beside type, config and checksum."""
        return {} if self.class_names is None else {"class_names": list(self.class_names)}

    def _saved_state(self) -> dict[str, torch.Tensor]:
        """The content of model.safetensors; a model with parts stored elsewhere overrides this."""
        return self.state_dict()
