"""Checkpoint files of other projects, read without unpickling."""

from __future__ import annotations

import logging
import re
from argparse import Namespace
from pathlib import Path

from torch import Tensor

from fae_core.errors import InvalidFile
from fae_core.models import foreign

log = logging.getLogger("fae")

# Where training scripts put a model's state dict inside a checkpoint, and self-distillation its two.
_SECTIONS = (*foreign.AVERAGED, "state_dict", "model", "teacher", "student")
# Prefixes that data parallelism, FSDP, recomputation and torch.compile add to names.
_WRAPPERS = re.compile(r"^module\.|(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
# Parts of a self-distillation (DINO, iBOT, DINOv2, DINOv3): the teacher is what is published and evaluated.
_ROLES = ("teacher", "model_ema", "student")
_BACKBONE = "backbone."
_LEFT_OUT = re.compile(r"(?:dino_head|ibot_head|head|gram_teacher|\w+_loss)\.")
# DINOv2 keeps its blocks in chunks for FSDP: blocks.<chunk>.<number>.
_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a torch checkpoint, under a backbone's own names.

    Wrappers are removed: prefixes of data parallelism, and the parts that DINO, iBOT, DINOv2 and DINOv3 save during
    training (the teacher's backbone is taken, or the student's if there is no teacher; what is left out is logged).

    Raises:
        InvalidFile: if the file is absent, damaged, would need unpickling, holds no tensors, or holds unknown tensors
            beside the backbone. The message is one line.
    """
    # Scripts keep their command line's arguments beside the weights.
    state = foreign.read_state_dict(path, sections=_SECTIONS, allowed=(Namespace,))
    state = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    role = next((role for role in _ROLES if any(name.startswith(f"{role}.") for name in state)), None)
    left_out: list[str] = []
    if role is not None:
        others = tuple(f"{other}." for other in _ROLES if other != role)
        left_out = [name for name in state if name.startswith(others) or _LEFT_OUT.match(name)]
        state = _inside(state, f"{role}.", left_out, path)
    if any(name.startswith(_BACKBONE) for name in state):
        heads = [name for name in state if _LEFT_OUT.match(name)]
        state = _inside(state, _BACKBONE, heads, path)
        left_out += heads
    if left_out:
        parts = ", ".join(sorted({name.split(".")[0] for name in left_out}))
        log.warning("%s: took the %s's backbone and left out %s", path, role or "checkpoint", parts)
    if "cls_token" in state:
        state = {_CHUNKED.sub(r"blocks.\1.", name): value for name, value in state.items()}
    return state


def cached_commit(repository: str) -> str | None:
    """The commit of a hub repository's main branch in the local cache, where a download puts it; None without one."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("model.safetensors", "config.json", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found).parent.name
    return None


def _inside(state: dict[str, Tensor], prefix: str, left_out: list[str], path: str | Path) -> dict[str, Tensor]:
    """The tensors below a prefix, without it. Raises InvalidFile for others that are not known to be left out."""
    unknown = sorted(name for name in state.keys() - set(left_out) if not name.startswith(prefix))
    if unknown:
        raise InvalidFile(f"{path} holds {unknown[0]} beside {prefix}*, which is not known; keep the backbone alone")
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
