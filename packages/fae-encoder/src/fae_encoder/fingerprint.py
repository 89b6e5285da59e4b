"""Fingerprints of weights: equal weights have equal hashes, on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from fae_core.errors import FAEError


def fingerprint_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a state dict, in the order of the names.

    Halves count as the fp32 numbers that they become where a saved model is loaded.

    Raises:
        FAEError: for tensors on the meta device, which hold no numbers.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        if tensor.is_meta:
            raise FAEError(f"{name} is on the meta device and has no weights to fingerprint")
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1e".encode())
        # contiguous() also undoes channels_last, a memory layout that must not change the hash.
        flat = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format).reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def combine_fingerprints(*parts: str) -> str:
    """One hash of several, which depends on their order."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
