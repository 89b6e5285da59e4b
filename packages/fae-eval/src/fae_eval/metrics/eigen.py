"""Eigenvalues of symmetric matrices by torch's MKL, which takes half the time of numpy's OpenBLAS, or by the latter: some builds
of MKL give up on matrices of low rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors in columns. The lower triangle is read."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        values, vectors = (torch.from_numpy(found).to(matrix) for found in np.linalg.eigh(matrix.cpu().numpy()))
    return values, vectors


def symmetric_eigenvalues(matrix: Tensor) -> Tensor:
    """Ascending. The lower triangle is read."""
    try:
        return torch.linalg.eigvalsh(matrix)
    except torch.linalg.LinAlgError:
        return torch.from_numpy(np.linalg.eigvalsh(matrix.cpu().numpy())).to(matrix)
