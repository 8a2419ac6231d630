"""Linear regression in double precision that is reproducible to the bit, whatever the alignment of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["least_squares", "mean_and_spread"]

_MIN_SPREAD = 1e-6


def least_squares(matrix: Tensor, target: Tensor, *, ridge: float = 0.0, cutoff: float = 1e-6) -> Tensor:
    """Minimum-norm least-squares solution of ``matrix @ x = target``.

    Singular values below ``cutoff`` times the largest are treated as zero, so that collinear columns share a slope
    instead of having huge slopes of opposite sign.

    Args:
        matrix: ``[n, k]``, any float type.
        target: ``[n, m]``.
        ridge: Weight of the squared norm of the solution.
        cutoff: Smallest relative singular value that is not treated as zero.

    Returns:
        Float64 ``[k, m]``.

    Raises:
        ValueError: If a number is not finite.

    Complexity:
        O(n k min(n, k)).

    References:
        Golub & Van Loan (2013), Matrix computations, section 5.5 (rank-deficient least squares).

    Example:
        >>> solution = least_squares(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([[2.0], [4.0]]))
        >>> solution.squeeze(1).round(decimals=6).tolist()
        [1.0, 1.0]
    """
    # copies as numpy arrays: numpy's products do not depend on the alignment of memory, unlike those of other libraries
    a: NDArray[np.float64] = np.array(matrix.detach().cpu().numpy(), dtype=np.float64, order="C")
    b: NDArray[np.float64] = np.array(target.detach().cpu().numpy(), dtype=np.float64, order="C")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("least squares needs finite numbers")
    rows, columns = a.shape
    # the smaller Gram matrix has the squares of all nonzero singular values
    tall = rows >= columns
    values, vectors = np.linalg.eigh(a.T @ a if tall else a @ a.T)
    kept = values > cutoff**2 * max(float(values.max(initial=0.0)), np.finfo(np.float64).tiny)
    inverse = np.where(kept, 1 / np.where(kept, values + ridge, 1.0), 0.0)
    if tall:
        solution = vectors @ (inverse[:, None] * (vectors.T @ (a.T @ b)))
    else:
        solution = a.T @ (vectors @ (inverse[:, None] * (vectors.T @ b)))
    return torch.from_numpy(np.ascontiguousarray(solution))


def mean_and_spread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over rows, computed in double precision, as float32; the latter is at least 1e-6.

    Args:
        rows: ``[n]`` or ``[n, size]``.

    Example:
        >>> mean_and_spread(torch.tensor([1.0, 3.0, 5.0]))
        (tensor(3.), tensor(2.))
    """
    wide = rows.double()
    spread = wide.std(0, correction=min(1, len(wide) - 1)).clamp_min(_MIN_SPREAD)
    return wide.mean(0).float(), spread.float()
