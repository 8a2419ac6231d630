"""Rows of one fit, pooled over its data sets, and their layout as columns for a critic."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdcm.mechanisms.base import float_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded, Variable

__all__ = ["Layout", "PooledRows", "Reader"]

Reader = Callable[[Tensor], Tensor]


class Layout:
    """Columns of several variables side by side: one per level of a categorical one, numbers, features of an image.

    Args:
        variables: The variables; images come after all others.
        features: Number of features of every image, by name.

    Attributes:
        variables: The variables in the order of their columns.
        slices: Columns of each variable by name.
        width: Number of columns.
        tabular: Number of columns before those of images.

    Example:
        >>> from mdcm.data import Variable
        >>> layout = Layout([Variable("X", "categorical", levels=("a", "b")), Variable("T", "continuous")])
        >>> layout.pack({"X": torch.tensor([[0.0, 1.0]]), "T": torch.tensor([0.5])}).tolist()
        [[0.0, 1.0, 0.5]]
    """

    def __init__(self, variables: Sequence[Variable], features: Mapping[str, int] | None = None) -> None:
        self.variables = tuple(sorted(variables, key=lambda variable: variable.kind == "image"))
        self.slices: dict[str, slice] = {}
        self.tabular = start = 0
        for variable in self.variables:
            if variable.kind == "categorical":
                size = variable.num_levels
            elif variable.kind == "image":
                size = (features or {})[variable.name]
            else:
                size = variable.size or 1
            self.slices[variable.name] = slice(start, start + size)
            start += size
            if variable.kind != "image":
                self.tabular = start
        self.width = start

    @property
    def categorical(self) -> bool:
        """Whether all variables are categorical."""
        return all(variable.kind == "categorical" for variable in self.variables)

    def mask(self, names: Sequence[str]) -> Tensor:
        """Mask of the columns of some variables, bool ``[width]``."""
        mask = torch.zeros(self.width, dtype=torch.bool)
        for name in names:
            mask[self.slices[name]] = True
        return mask

    def pack(self, values: Mapping[str, Tensor], readers: Mapping[str, Reader] | None = None) -> Tensor:
        """Values as rows of columns.

        Args:
            values: One-hot floats ``[n, levels]`` or codes ``[n]``, numbers ``[n]`` or ``[n, size]``, images
                ``[n, c, h, w]`` by name.
            readers: Function from images to features, by name.

        Returns:
            ``[n, width]``.
        """
        parts = []
        for variable in self.variables:
            value = values[variable.name]
            if variable.kind == "image":
                value = (readers or {})[variable.name](value)
            elif variable.kind == "categorical" and value.dim() == 1:
                value = torch.nn.functional.one_hot(value, variable.num_levels).to(torch.get_default_dtype())
            parts.append(value[:, None] if value.dim() == 1 else value)
        return torch.cat(parts, 1)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Values of all variables other than images, views of ``[n, tabular]``."""
        values = {}
        for variable in self.variables:
            if variable.kind != "image":
                part = packed[:, self.slices[variable.name]]
                scalar = variable.kind != "categorical" and variable.size is None
                values[variable.name] = part[:, 0] if scalar else part
        return values


@dataclass(frozen=True)
class PooledRows:
    """Rows of the data sets of one fit; if everything is categorical, distinct rows in lexicographic order.

    Attributes:
        layout: Columns of each variable.
        packed: Values of all variables other than images, float32 ``[m, tabular]``.
        weight: Share of each row in the total weight, float64 ``[m]``, sums to one.
        rows: Number of rows before merging.
        images: For every image variable the arrays of the data sets.
        sources: Data set and row number of each row, int64 ``[m, 2]``; None without images.
        codes: Levels of the categorical variables by name, int64 ``[m]``.
        cumulative: Running sum of the weight, float64 ``[m]``.
    """

    layout: Layout
    packed: Tensor
    weight: Tensor
    rows: int
    images: Mapping[str, Sequence[NDArray[Any]]]
    sources: NDArray[np.int64] | None
    codes: Mapping[str, Tensor]
    cumulative: Tensor

    @staticmethod
    def build(
        layout: Layout,
        data: Sequence[Encoded],
        kept: Sequence[NDArray[np.bool_]],
        device: torch.device | None = None,
    ) -> PooledRows:
        """Pool data sets.

        The weight of a data set is its number of rows; within it rows have their own weights.

        Args:
            layout: The columns; every data set observes all of these variables.
            data: The data sets.
            kept: Mask of the rows to use, for each data set.
            device: Device of the values.
        """
        chosen = [np.flatnonzero(mask) for mask in kept]
        total = sum(len(rows) for rows in chosen)
        weights = []
        for encoded, rows in zip(data, chosen, strict=True):
            given = encoded.weights
            weight = np.ones(len(rows)) if given is None else np.asarray(given, dtype=np.float64)[rows]
            weights.append(weight * len(rows) / weight.sum() / total if len(rows) else weight)
        weight = np.concatenate(weights)
        names = [variable.name for variable in layout.variables if variable.kind != "image"]
        pooled = {
            name: np.concatenate([np.asarray(part[name])[rows] for part, rows in zip(data, chosen, strict=True)])
            for name in names
        }
        levels = {v.name: v.num_levels for v in layout.variables if v.kind == "categorical"}
        # sorted rows: a batch with one row from each of equal shares of the weight is then stratified, and its
        # frequencies are nearly those of the data
        if layout.categorical:
            codes = np.stack([pooled[name] for name in names], 1)
            distinct, inverse = np.unique(codes, axis=0, return_inverse=True)
            weight = np.bincount(inverse.reshape(-1), weights=weight, minlength=len(distinct)).astype(np.float64)
            pooled = {name: distinct[:, column] for column, name in enumerate(names)}
            order = np.arange(len(distinct))
        else:
            order = np.lexsort([pooled[name] for name in levels]) if levels else np.arange(total)
        packed = torch.zeros(len(order), layout.tabular, device=device)
        coded = {}
        for name in names:
            value = torch.from_numpy(np.ascontiguousarray(pooled[name][order])).to(device)
            part = packed[:, layout.slices[name]]
            if name in levels:
                coded[name] = value.long()
                part.scatter_(1, coded[name][:, None], 1.0)
            else:
                part.copy_(value.reshape(len(order), -1))
        images = {v.name: [encoded[v.name] for encoded in data] for v in layout.variables if v.kind == "image"}
        sources = None
        if images:
            sources = np.concatenate([np.stack([np.full_like(r, i), r], 1) for i, r in enumerate(chosen)])[order]
        ordered = torch.from_numpy(weight[order]).to(device)
        return PooledRows(layout, packed, ordered, total, images, sources, coded, ordered.cumsum(0))

    def __len__(self) -> int:
        return len(self.packed)

    def at(self, quantile: Tensor) -> Tensor:
        """Row at each quantile of the weight, int64 ``[n]``, for numbers in [0, 1)."""
        return torch.searchsorted(self.cumulative, quantile * self.cumulative[-1], right=True).clamp_max(len(self) - 1)

    @functools.cached_property
    def frequencies(self) -> Tensor:
        """Share of the weight with each level, in the columns of the layout, ``[tabular]``."""
        return self.weight.to(self.packed) @ self.packed

    def values(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Values of rows: the packed ones ``[n, tabular]``, and all of them by name, images as floats in [-1, 1]."""
        packed = self.packed[rows]
        values = self.layout.unpack(packed)
        for name, arrays in self.images.items():
            assert self.sources is not None
            sources = self.sources[rows.cpu().numpy()]
            pixels = np.empty((len(sources), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
            for number, array in enumerate(arrays):
                mask = sources[:, 0] == number
                pixels[mask] = array[sources[mask, 1]]
            values[name] = float_pixels(torch.from_numpy(pixels).to(packed.device))
        return packed, values

    def plain(self, rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Values of rows as mechanisms read them: codes of categorical variables, others as in :meth:`values`."""
        plain = {name: self.codes[name][rows] for name in names if name in self.codes}
        if len(plain) < len(names):
            _, values = self.values(rows)
            plain |= {name: values[name] for name in names if name not in plain}
        return plain

    def real(self, packed: Tensor, values: Mapping[str, Tensor], readers: Mapping[str, Reader]) -> Tensor:
        """Rows for a critic ``[n, width]`` from the result of :meth:`values`."""
        if not self.images:
            return packed
        return torch.cat([packed, *(readers[name](values[name]) for name in self.images)], 1)

    def cells(self) -> int:
        """Number of combinations of levels; all variables must be categorical."""
        return math.prod(variable.num_levels for variable in self.layout.variables)
