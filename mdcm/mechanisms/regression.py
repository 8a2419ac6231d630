"""Linear regression in double precision whose answer is the same bits wherever the numbers lie in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["least_squares", "mean_and_spread"]

_FLOAT32_SMALLEST = 1e-6


def least_squares(matrix: Tensor, wanted: Tensor, *, ridge: float = 0.0, cutoff: float = 1e-6) -> Tensor:
    """Solution of ``matrix @ x = wanted`` by least squares, of the smallest norm among the best.

    Directions whose singular value is below ``cutoff`` of the largest one count as absent, so that columns that say
    the same share a slope instead of having huge ones of opposite sign.

    Args:
        matrix: ``[n, k]``, any float type.
        wanted: ``[n, m]``.
        ridge: Weight of the squared solution beside the squared error.
        cutoff: Relative size of the smallest singular value that counts.

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
    # copies of our own: numpy's products do not depend on where an array begins, as those of other libraries do
    a: NDArray[np.float64] = np.array(matrix.detach().cpu().numpy(), dtype=np.float64, order="C")
    b: NDArray[np.float64] = np.array(wanted.detach().cpu().numpy(), dtype=np.float64, order="C")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("least squares needs finite numbers")
    rows, columns = a.shape
    # the smaller of the two products has all singular values that are not zero, squared
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
    """Mean and standard deviation over rows in double precision, as float32; a spread is at least a millionth.

    Args:
        rows: ``[n]`` or ``[n, size]``.

    Example:
        >>> mean_and_spread(torch.tensor([1.0, 3.0, 5.0]))
        (tensor(3.), tensor(2.))
    """
    wide = rows.double()
    spread = wide.std(0, correction=min(1, len(wide) - 1)).clamp_min(_FLOAT32_SMALLEST)
    return wide.mean(0).float(), spread.float()
