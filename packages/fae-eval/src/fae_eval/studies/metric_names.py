"""The metrics of `fae eval generation` by name. torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence

from fae_core.errors import require_known

METRICS = ("frechet", "spatial", "inception_score", "precision_recall", "density_coverage", "kernel")
_ALIASES = {
    "fid": "frechet",
    "fd": "frechet",
    "sfid": "spatial",
    "is": "inception_score",
    "pr": "precision_recall",
    "dc": "density_coverage",
    "kid": "kernel",
}


def full_names(names: str | Sequence[str]) -> list[str]:
    """Full names of metrics, in the order of METRICS.

    Args:
        names: Of METRICS, or their short ones (fid, sfid, is, pr, dc, kid), in any case; one or several.

    Raises:
        UnknownName: One is neither.
    """
    names = [names] if isinstance(names, str) else names
    wanted = {_ALIASES.get(name.lower(), name.lower()) for name in names}
    require_known("metric", sorted(wanted), [*METRICS, *_ALIASES])
    return [name for name in METRICS if name in wanted]
