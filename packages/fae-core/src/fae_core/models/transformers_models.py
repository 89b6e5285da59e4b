"""transformers' loaders under the rules of this house, for every package that reads its models.

Weights come from safetensors alone. Code from the hub is never run, and nobody is asked whether it may. What a stored config names
as its implementation of attention is dropped: transformers would fetch a kernel of that name from the hub and run it.
transformers itself is an extra of the packages that call this; they say what to install.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fae_core.errors import FAEError, InvalidFile
from fae_core.files import read_json

_INDEX = "model.safetensors.index.json"
_IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")


def read_config(source: str, what: str = "config", **hub: Any) -> Any:
    """The config of a folder or hub repository. hub: such as `revision`. Raises InvalidFile, one line: `what` was sought."""
    from transformers import AutoConfig

    with reading(source, what):
        return _plain(AutoConfig.from_pretrained(source, trust_remote_code=False, **hub))


def make_config(fields: dict[str, Any], source: str) -> Any:
    """The config of stored fields, `model_type` among them. Raises InvalidFile, one line, that names `source`."""
    from transformers import AutoConfig

    with reading(source, "config"):
        return _plain(AutoConfig.for_model(**fields))


def load_model(source: str, config: Any, loader: Any = None, **options: Any) -> tuple[nn.Module, list[str]]:
    """A model with the weights of a folder or hub repository, and the names of those that were not there (random now).

    config: of `read_config`. loader: a class of transformers, by default AutoModel. options: such as dtype and revision.
    Raises InvalidFile, one line.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    loud = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is missing is for the caller to judge
    try:
        with reading(source, "model with weights in safetensors"):
            _check_shards(source, options.get("revision"))
            model, report = (loader or AutoModel).from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    finally:
        logging.set_verbosity(loud)
        logging.enable_progress_bar()
    return model, sorted(report["missing_keys"])


def new_model(config: Any, source: str) -> nn.Module:
    """A model of a config with random weights. Raises InvalidFile, one line, that names `source`."""
    from transformers import AutoModel

    with reading(source, "model"):
        return AutoModel.from_config(config, trust_remote_code=False)


def load_processor(source: str, loader: Any, what: str, **options: Any) -> Any:
    """A tokenizer or processor; loader: a class of transformers. Raises InvalidFile, one line."""
    with reading(source, what):
        return loader.from_pretrained(source, trust_remote_code=False, **options)


@contextmanager
def reading(source: str, what: str) -> Iterator[None]:
    """Turn what transformers raises, of many types, into one line."""
    try:
        yield
    except FAEError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidFile(f"{source} has no {what} that transformers can read: {reason}") from None


def _plain(config: Any) -> Any:
    """Without implementations, here and in the configs inside."""
    for name in _IMPLEMENTATIONS:
        if hasattr(config, name):
            setattr(config, name, None)
    for inner in vars(config).values():
        if hasattr(inner, "to_diff_dict"):
            _plain(inner)
    return config


def _check_shards(source: str, revision: str | None) -> None:
    """An index of safetensors may name other files, which transformers would read as what they are."""
    from transformers.utils import cached_file

    path = cached_file(
        source,
        _INDEX,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    shards = read_json(path).get("weight_map") if path is not None else {}
    wrong = [name for name in shards.values() if not str(name).endswith(".safetensors")] if shards else []
    if wrong:
        raise InvalidFile(f"{source}/{_INDEX} names {wrong[0]}, which is no safetensors file")
