"""Seeds of separate uses, from one seed and their names. torch is not imported."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any mixture of numbers and names, the same on every machine.

    Args:
        parts: Numbers and names, whose order counts.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)
