"""Rows of the data sets that the fits of an h-node use, and the choice of held-out rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdcm.dcm import derived_seed

if TYPE_CHECKING:
    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.planning import Fit, HNode

__all__ = ["FitRows", "fit_rows", "held_out", "held_out_rows", "tensor"]

_MIN_HELD_OUT = 20


@dataclass(frozen=True)
class FitRows:
    """Training rows of one fit, its data sets concatenated.

    Attributes:
        variables: The fitted variables in topological order.
        values: Values of these and of their parents by name, ``n`` rows each.
        weight: Weight of every row, float64 ``[n]``, or None if all are equal.
        index: Index of every row among the rows of the h-node, int64 ``[n]``, ascending.
        unit: Group of every row, int64 ``[n]``, numbered as in the other fits of the h-node; None if all rows of the
            h-node are independent.
    """

    variables: tuple[str, ...]
    values: Mapping[str, Tensor]
    weight: Tensor | None
    index: Tensor
    unit: Tensor | None = None

    def mass(self, rows: Tensor | None = None) -> Tensor:
        """Weights of some rows, float64, ones if all are equal; None stands for all rows."""
        if self.weight is None:
            return torch.ones(len(self.index if rows is None else rows), dtype=torch.float64)
        return (self.weight if rows is None else self.weight[rows]).double()

    def local(self, rows: Tensor | None) -> Tensor | None:
        """Positions here of the given rows of the h-node; None stands for all rows."""
        if rows is None:
            return None
        if len(self.index) and int(self.index[-1]) == len(self.index) - 1:
            # the first rows of the h-node, so that index and position are equal
            return rows[rows < len(self.index)]
        return torch.isin(self.index, rows).nonzero().squeeze(1)


def fit_rows(dcm: DCM, hnode: HNode, data: Mapping[str, Encoded]) -> tuple[FitRows, ...]:
    """Rows of every fit of an h-node, in the order of the plan, with the needed columns only."""
    names = tuple(dict.fromkeys(name for fit in hnode.fits for name in fit.datasets))
    sizes = tuple(data[name].rows for name in names)
    start = dict(zip(names, np.cumsum([0, *sizes]).tolist(), strict=False))
    units = _units(sizes, tuple(data[name].groups for name in names))
    return tuple(_fit_rows(dcm, fit, data, start, units) for fit in hnode.fits)


def held_out_rows(
    hnode: HNode, data: Mapping[str, Encoded], share: float, seed: int
) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]] | None:
    """Choose held-out rows of the data sets of an h-node, whole groups at a time.

    Args:
        hnode: The h-node.
        data: Data sets by name.
        share: Held-out share of the groups of every data set; a row without a group is a group by itself.
        seed: Seed of the choice.

    Returns:
        Mask of the held-out rows of every data set, bool ``[n]``; None if there are too few rows, or a fit would have
        no training rows.
    """
    names = tuple(dict.fromkeys(name for fit in hnode.fits for name in fit.datasets))
    if share * sum(data[name].rows for name in names) < _MIN_HELD_OUT:
        return None
    masks = {}
    for index, name in enumerate(names):
        # the split of the first data set does not depend on further ones
        split_seed = seed if index == 0 else derived_seed(seed, "split", index)
        mask = held_out(data[name].rows, data[name].groups, share, split_seed)
        masks[name] = np.zeros(data[name].rows, np.bool_) if mask is None else mask
    # there must be rows to validate on, and training rows of every fit
    if not any(mask.any() for mask in masks.values()):
        return None
    return masks if all(any((~masks[name]).any() for name in fit.datasets) for fit in hnode.fits) else None


def _units(sizes: Sequence[int], groups: Sequence[np.ndarray[Any, Any] | None]) -> Tensor | None:
    """Group of every row of an h-node, numbered over its data sets; None if there are no groups."""
    if all(group is None for group in groups):
        return None
    units, first = [], 0
    for size, group in zip(sizes, groups, strict=True):
        numbers = np.arange(size) if group is None else np.unique(group, return_inverse=True)[1].reshape(-1)
        units.append(numbers + first)
        first += size
    return torch.from_numpy(np.concatenate(units))


def _fit_rows(
    dcm: DCM, fit: Fit, data: Mapping[str, Encoded], start: Mapping[str, int], units: Tensor | None
) -> FitRows:
    variables = tuple(node for node in dcm.order if node in fit.variables)
    needed = sorted({*variables, *(parent for node in variables for parent in dcm.parents(node))})
    parts = [data[name] for name in fit.datasets]
    values = {
        column: tensor(parts[0][column]) if len(parts) == 1 else torch.cat([tensor(part[column]) for part in parts])
        for column in needed
    }
    index = torch.cat([torch.arange(start[name], start[name] + data[name].rows) for name in fit.datasets])
    weight = None
    if any(part.weights is not None for part in parts):
        weights = [np.ones(part.rows) if part.weights is None else part.weights for part in parts]
        weight = torch.from_numpy(np.concatenate(weights))
    order = torch.argsort(index)
    if len(parts) > 1 and not bool((order == torch.arange(len(index))).all()):
        values, index = {name: value[order] for name, value in values.items()}, index[order]
        weight = None if weight is None else weight[order]
    return FitRows(variables, values, weight, index, None if units is None else units[index])


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """Tensor that shares the memory of an array, for reading only; a memory-mapped array stays on disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


def held_out(
    rows: int, groups: np.ndarray[Any, Any] | Sequence[int] | None, share: float, seed: int
) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Mask of the held-out rows of one data set, whole groups at a time; None if there are too few groups.

    Example:
        >>> int(held_out(100, None, 0.1, seed=0).sum())
        10
    """
    units = np.arange(rows) if groups is None else np.asarray(groups)
    names = np.unique(units)
    count = round(share * len(names))
    if count < 1 or len(names) - count < 1:
        return None
    picked = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(units, picked)
