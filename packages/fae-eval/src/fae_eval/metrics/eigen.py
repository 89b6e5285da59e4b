"""Eigenvalues of symmetric matrices.

torch's MKL takes half the time of numpy's OpenBLAS, but some builds of it fail on matrices of low rank; numpy then does
it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_NoConvergence = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage] (documented, but not in __all__)


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d,), ascending, and eigenvectors (d, d) in columns. Only the lower triangle of (d, d) is read."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except _NoConvergence:
        values, vectors = (torch.from_numpy(found).to(matrix) for found in np.linalg.eigh(matrix.cpu().numpy()))
    return values, vectors


def symmetric_eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues (d,), ascending. Only the lower triangle of (d, d) is read."""
    try:
        return torch.linalg.eigvalsh(matrix)
    except _NoConvergence:
        return torch.from_numpy(np.linalg.eigvalsh(matrix.cpu().numpy())).to(matrix)
