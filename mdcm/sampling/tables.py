"""Probability tables of the nodes of a network at what is known, for sums over all that is not."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdcm.mechanisms import float_pixels
from mdcm.sampling.densities import level_probabilities, value_density, whole_table
from mdcm.sampling.messages import RowFactor

if TYPE_CHECKING:
    from mdcm.sampling.worlds import Network

__all__ = ["Tables", "scaled"]


class Tables:
    """Tables of a network's nodes: P(value | parents, states of confounders), sliced at what is set and seen.

    The axes are named ``("value", node)`` for the value of a node that is neither set nor seen, and
    ``("state", confounder)``. What is set or seen may differ from row to row.

    Args:
        network: Nodes of all worlds.
        evidence: Value seen of each node, one row or one per row.
        rows: Number of rows.
        start: Number of the first row; what differs from row to row has more, before and after.
    """

    def __init__(self, network: Network, evidence: Mapping[int, Tensor], rows: int = 1, *, start: int = 0) -> None:
        self.network = network
        self.dcm = network.dcm
        self.evidence = evidence
        self.rows = rows
        self.start = start
        self.sizes: dict[Hashable, int] = {}

    def scope(self, number: int) -> tuple[Hashable, ...]:
        """Axes of a node's table: free parents, confounders, and the node itself where it was not seen."""
        node = self.network.nodes[number]
        scope: list[Hashable] = [self._value_axis(one) for one in self._free(number)]
        for index in self.dcm.latents[node.variable]:
            self.sizes["state", index] = self.dcm.states[self.dcm.confounders[index]]
            scope.append(("state", index))
        return (*scope, self._value_axis(number)) if number not in self.evidence else tuple(scope)

    def num_levels(self, number: int) -> int:
        """Number of levels of a node's variable."""
        return self.dcm.schema[self.network.nodes[number].variable].num_levels

    def _value_axis(self, number: int) -> Hashable:
        axis = ("value", number)
        self.sizes[axis] = self.num_levels(number)
        return axis

    def cells(self, number: int) -> int:
        """Cells per row of what :meth:`factor` computes, which are those of all levels even where one was seen."""
        variable = self.dcm.schema[self.network.nodes[number].variable]
        levels = variable.num_levels if number in self.evidence and variable.kind == "categorical" else 1
        return levels * math.prod(self.sizes[axis] for axis in self.scope(number))

    def _free(self, number: int) -> list[int]:
        return [one for one in self.network.nodes[number].parents if not self.is_known(one)]

    def is_known(self, number: int) -> bool:
        """Whether a node is set to a value or was seen."""
        return number in self.evidence or self.network.nodes[number].constant is not None

    def known_value(self, number: int) -> Tensor:
        """What a node is set to or was seen to be, one row or one per row."""
        value = self.evidence[number] if number in self.evidence else self.network.nodes[number].constant
        assert value is not None
        if len(value) > 1:
            value = value[self.start : self.start + self.rows]
        return float_pixels(value)

    def _rows(self, numbers: Iterable[int]) -> int:
        """Rows of a table that depends on nodes: 1 where all rows have the same."""
        return max([1, *(len(self.known_value(one)) for one in numbers if self.is_known(one))])

    def _parents(self, number: int, rows: int) -> tuple[dict[str, Tensor], list[int]]:
        """Every combination of values of the free parents in every row, and the sizes of those axes."""
        free = self._free(number)
        shape = [self.num_levels(one) for one in free]
        each = math.prod(shape)
        grid = torch.cartesian_prod(*map(torch.arange, shape)).reshape(each, -1) if free else None
        node = self.network.nodes[number]
        parents = {}
        for name, one in zip(self.dcm.parents(node.variable), node.parents, strict=True):
            if one in free:
                assert grid is not None
                parents[name] = grid[:, free.index(one)].repeat(rows)
            else:
                value = self.known_value(one)
                parents[name] = value.expand(rows, *value.shape[1:]).repeat_interleave(each, 0)
        return parents, shape

    def levels(self, number: int) -> tuple[tuple[Hashable, ...], Tensor]:
        """Log probability of every level of a node, whether or not it was seen.

        Returns:
            Axes without that of the levels, and float64 ``[n or 1, ..., K]``.
        """
        node = self.network.nodes[number]
        rows = self._rows(node.parents)
        whole = self._sliced(number) if rows == 1 else None
        if whole is not None:
            axes = [self._value_axis(one) for one in self._free(number)]
            return (*axes, *(("state", index) for index in self.dcm.latents[node.variable])), whole[None]
        parents, shape = self._parents(number, rows)
        table = level_probabilities(self.dcm.mechanism(node.variable), parents, rows * math.prod(shape))
        axes = [self._value_axis(one) for one in self._free(number)]
        axes += [("state", index) for index in self.dcm.latents[node.variable]]
        return tuple(axes), table.reshape(rows, *shape, *table.shape[1:])

    def _sliced(self, number: int) -> Tensor | None:
        """The table that is kept of a node's mechanism, at known values of its parents that all rows have."""
        node = self.network.nodes[number]
        whole = whole_table(self.dcm.mechanism(node.variable))
        if whole is None:
            return None
        return whole[tuple(int(self.known_value(p)) if self.is_known(p) else slice(None) for p in node.parents)]

    def factor(self, number: int) -> tuple[RowFactor, Tensor]:
        """Table of a node over all that is not known, and the logarithm of what it must be multiplied by, ``[n or 1]``.

        Of what was seen it is the density, whatever its kind.
        """
        scope = self.scope(number)
        node = self.network.nodes[number]
        if number not in self.evidence:
            return scaled(scope, self.levels(number)[1])
        rows = self._rows([number, *node.parents])
        whole = self._sliced(number) if rows == 1 else None
        if whole is not None:
            return scaled(scope, whole[None, ..., int(self.known_value(number))])
        parents, shape = self._parents(number, rows)
        value, each = self.known_value(number), math.prod(shape)
        if len(value) > 1:
            value = value.repeat_interleave(each, 0)
        table = value_density(self.dcm.mechanism(node.variable), parents, value, rows * each)
        return scaled(scope, table.reshape(rows, *(self.sizes[axis] for axis in scope)))


def scaled(scope: tuple[Hashable, ...], log_table: Tensor) -> tuple[RowFactor, Tensor]:
    """Factor of a table in logarithms, divided by its largest cell in each row, and the logarithm of that."""
    top = log_table.flatten(1).amax(1) if log_table.ndim > 1 else log_table
    top = torch.where(top.isfinite(), top, torch.zeros_like(top))
    return RowFactor(scope, (log_table - top.view(-1, *(1,) * len(scope))).exp()), top
