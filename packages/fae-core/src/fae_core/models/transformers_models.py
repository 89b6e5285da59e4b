"""Loading models, configs and processors with transformers, safely, for every package that reads its models.

Weights are read from safetensors alone. Code from the hub is never run. The implementation of attention that a stored
config names is dropped: transformers would download a kernel of that name from the hub and run it. transformers is an
extra of the packages that call this; their errors say what to install.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fae_core.commands.loading import loading
from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json

_INDEX = "model.safetensors.index.json"
_IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")


def read_config(source: str, what: str = "config", **hub: Any) -> Any:
    """The config of a model.

    Args:
        source: A folder or a hub repository.
        what: What the error message says is missing.
        hub: Options of transformers such as `revision` and `subfolder`.

    Raises:
        InvalidFile: Where transformers cannot read one.
    """
    from transformers import AutoConfig

    with reading(source, what):
        return _plain(AutoConfig.from_pretrained(source, trust_remote_code=False, **hub))


def make_config(fields: dict[str, Any], source: str) -> Any:
    """The config of stored fields, one of which is `model_type`. Raises InvalidFile, which names `source`."""
    from transformers import AutoConfig

    with reading(source, "config"):
        return _plain(AutoConfig.for_model(**fields))


def load_model(source: str, config: Any, loader: Any = None, **options: Any) -> tuple[nn.Module, list[str]]:
    """A model with stored weights.

    Args:
        source: A folder or a hub repository.
        config: From `read_config`.
        loader: A class of transformers; AutoModel by default.
        options: Of transformers, such as dtype, revision and subfolder.

    Returns:
        The model, and the names of the weights that were missing and are random now.

    Raises:
        InvalidFile: Where transformers cannot read one.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # missing weights are returned to the caller
    try:
        with loading(source), reading(source, "model with weights in safetensors"):
            _check_shards(source, {name: options[name] for name in ("revision", "subfolder") if name in options})
            model, report = (loader or AutoModel).from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    return model, sorted(report["missing_keys"])


def new_model(config: Any, source: str) -> nn.Module:
    """A model of a config with random weights. Raises InvalidFile, which names `source`."""
    from transformers import AutoModel

    with reading(source, "model"):
        return AutoModel.from_config(config, trust_remote_code=False)


def renamed_weights(
    model: Any, state: Mapping[str, Tensor], source: str, *, optional: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Weights under the names that this version of transformers has; they differ between its versions.

    Args:
        model: Of transformers, of the weights' sizes.
        state: Its weights, with names of any version.
        source: Names them in errors.
        optional: Names that may be missing.

    Returns:
        The weights by the model's own names, without those that are missing.

    Raises:
        InvalidFile: Weights are missing, unknown, or of another shape.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with reading(source, f"weights of a {type(model).__name__}"):
            loaded, report = type(model).from_pretrained(
                None, config=model.config, state_dict=dict(state), output_loading_info=True, dtype=torch.float32
            )
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
    missing = set(report["missing_keys"])
    for words, names in (
        ("lacks", missing - set(optional)),
        ("has unknown", report["unexpected_keys"]),
        ("has another shape for", (str(key[0]) for key in report["mismatched_keys"])),
    ):
        listed = sorted(names)
        if listed:
            raise InvalidFile(f"{source} is of another model than a {type(model).__name__}: {words} {listed[0]}")
    return {name: value for name, value in loaded.state_dict().items() if name not in missing}


def load_processor(source: str, loader: Any, what: str, **options: Any) -> Any:
    """A tokenizer or processor.

    Args:
        source: A folder or a hub repository.
        loader: A class of transformers.
        what: What the error message says is missing.
        options: Of transformers.

    Raises:
        InvalidFile: Where transformers cannot read one.
    """
    with reading(source, what):
        return loader.from_pretrained(source, trust_remote_code=False, **options)


@contextmanager
def reading(source: str, what: str) -> Iterator[None]:
    """Turn the many types of errors of transformers into one InvalidFile: `source` has no `what`."""
    try:
        yield
    except FAEError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidFile(f"{source} has no {what} that transformers can read: {reason}") from None


def _plain(config: Any) -> Any:
    """The config, without names of implementations in it and in nested configs."""
    for name in _IMPLEMENTATIONS:
        if hasattr(config, name):
            setattr(config, name, None)
    for inner in vars(config).values():
        if hasattr(inner, "to_diff_dict"):
            _plain(inner)
    return config


def _check_shards(source: str, hub: dict[str, Any]) -> None:
    """Raise InvalidFile where an index of safetensors names other files, which transformers would unpickle."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        source,
        _INDEX,
        **hub,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    shards = read_json(path).get("weight_map") if path is not None else {}
    wrong = [name for name in shards.values() if not str(name).endswith(".safetensors")] if shards else []
    if wrong:
        raise InvalidFile(f"{source}/{_INDEX} names {wrong[0]}, which is no safetensors file")
