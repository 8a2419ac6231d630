"""Bayesian bootstrap: data sets with random row weights, which show the sampling error of what is fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mdcm.data import Encoded
from mdcm.dcm import derived_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["resampled"]


def resampled(data: Mapping[str, Encoded], seed: int) -> dict[str, Encoded]:
    """Data sets with weights of the Bayesian bootstrap, one per row, or per group of rows.

    Weights are independent exponential variables divided by their mean. Unlike the counts of the usual bootstrap, all
    are positive: rows stay in place, images are not copied, and a row is either held out or not.

    Args:
        data: Data sets by name; their own weights are multiplied.
        seed: Seed; the weights of a data set depend on it and on the name of the data set.

    Returns:
        Data sets that share their columns with the given ones.

    References:
        Rubin (1981), The Bayesian bootstrap.

    Example:
        >>> data = {"d1": Encoded("d1", {"X": np.array([0, 1, 1])}, rows=3)}
        >>> float(resampled(data, seed=0)["d1"].weights.mean())
        1.0
    """
    return {name: _weighted(encoded, derived_seed(seed, "weights", name)) for name, encoded in data.items()}


def _weighted(encoded: Encoded, seed: int) -> Encoded:
    generator = np.random.default_rng(seed)
    weights: NDArray[np.float64]
    if encoded.groups is None:
        weights = generator.exponential(size=encoded.rows)
    else:
        _, group = np.unique(encoded.groups, return_inverse=True)
        weights = generator.exponential(size=int(group.max()) + 1)[group]
    # a weight must be positive, and chance may draw exactly zero
    weights = np.maximum(weights, np.finfo(np.float32).tiny)
    weights = weights / weights.mean()
    if encoded.weights is not None:
        weights = weights * encoded.weights
    return Encoded(
        encoded.name, dict(encoded), rows=encoded.rows, do=encoded.do, weights=weights, groups=encoded.groups
    )
