"""Rows of the data sets as the fits of an h-node see them, and which of them are held out."""

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

_FEWEST_HELD_OUT = 20


@dataclass(frozen=True)
class FitRows:
    """Rows that one fit is learned from, those of its data sets one after another.

    Attributes:
        variables: The fitted variables in topological order.
        values: Values of these and of their parents by name, ``n`` rows each.
        weight: Weight of every row, float64 ``[n]``, or None where all are equal.
        place: Number of every row among the rows of the h-node, int64 ``[n]``, ascending.
        unit: Number of the group of every row, int64 ``[n]``, the same in all fits of an h-node; None where every row
            of the h-node is independent of the others.
    """

    variables: tuple[str, ...]
    values: Mapping[str, Tensor]
    weight: Tensor | None
    place: Tensor
    unit: Tensor | None = None

    def mass(self, rows: Tensor | None = None) -> Tensor:
        """Weights of these rows, float64, ones where all are equal; None stands for all rows."""
        if self.weight is None:
            return torch.ones(len(self.place if rows is None else rows), dtype=torch.float64)
        return (self.weight if rows is None else self.weight[rows]).double()

    def local(self, rows: Tensor | None) -> Tensor | None:
        """Which of these rows are among the given rows of the h-node; None stands for all of them."""
        if rows is None:
            return None
        if len(self.place) and int(self.place[-1]) == len(self.place) - 1:
            # these are the first rows of the h-node, so that their numbers are their places
            return rows[rows < len(self.place)]
        return torch.isin(self.place, rows).nonzero().squeeze(1)


def fit_rows(dcm: DCM, hnode: HNode, data: Mapping[str, Encoded]) -> tuple[FitRows, ...]:
    """Rows of every fit of an h-node, in the order of the plan; nothing else of the data is gathered."""
    names = tuple(dict.fromkeys(name for fit in hnode.fits for name in fit.datasets))
    sizes = tuple(data[name].rows for name in names)
    start = dict(zip(names, np.cumsum([0, *sizes]).tolist(), strict=False))
    units = _units(sizes, tuple(data[name].groups for name in names))
    return tuple(_fit_rows(dcm, fit, data, start, units) for fit in hnode.fits)


def held_out_rows(
    hnode: HNode, data: Mapping[str, Encoded], share: float, seed: int
) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]] | None:
    """Which rows of the data sets of an h-node are held out, whole groups at a time.

    Args:
        hnode: The h-node.
        data: Data sets by name.
        share: Share of the groups of every data set that are held out; a row without a group is one of its own.
        seed: Seed of the choice.

    Returns:
        A mask of the rows of every data set, bool ``[n]``; None where there are too few rows to spare any, or some fit
        would be left without rows to learn from.
    """
    names = tuple(dict.fromkeys(name for fit in hnode.fits for name in fit.datasets))
    if share * sum(data[name].rows for name in names) < _FEWEST_HELD_OUT:
        return None
    masks = {}
    for index, name in enumerate(names):
        # the first data set's split is that of the h-node alone, whatever is added to it
        own = seed if index == 0 else derived_seed(seed, "split", index)
        mask = held_out(data[name].rows, data[name].groups, share, own)
        masks[name] = np.zeros(data[name].rows, np.bool_) if mask is None else mask
    # something must be left to validate on, and something of every fit to learn from
    if not any(mask.any() for mask in masks.values()):
        return None
    return masks if all(any((~masks[name]).any() for name in fit.datasets) for fit in hnode.fits) else None


def _units(sizes: Sequence[int], groups: Sequence[np.ndarray[Any, Any] | None]) -> Tensor | None:
    """Number of the group of every row of an h-node; None where there are no groups."""
    if all(one is None for one in groups):
        return None
    found, first = [], 0
    for size, own in zip(sizes, groups, strict=True):
        numbers = np.arange(size) if own is None else np.unique(own, return_inverse=True)[1].reshape(-1)
        found.append(numbers + first)
        first += size
    return torch.from_numpy(np.concatenate(found))


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
    place = torch.cat([torch.arange(start[name], start[name] + data[name].rows) for name in fit.datasets])
    weight = None
    if any(part.weights is not None for part in parts):
        weights = [np.ones(part.rows) if part.weights is None else part.weights for part in parts]
        weight = torch.from_numpy(np.concatenate(weights))
    order = torch.argsort(place)
    if len(parts) > 1 and not bool((order == torch.arange(len(place))).all()):
        values, place = {name: value[order] for name, value in values.items()}, place[order]
        weight = None if weight is None else weight[order]
    return FitRows(variables, values, weight, place, None if units is None else units[place])


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """View of an array that is only read; a memory-mapped one stays on disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


def held_out(
    rows: int, groups: np.ndarray[Any, Any] | Sequence[int] | None, share: float, seed: int
) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Mask of the held-out rows of one data set, whole groups at a time; None where no group can be spared.

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
