"""Probability tables of the nodes of a network, sliced at known values, as factors for variable elimination."""

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

__all__ = ["NetworkTables", "scaled"]


class NetworkTables:
    """Tables of a network's nodes: P(value | parents, states of confounders), sliced at set and observed values.

    The axes are named ``("value", node)`` for the value of a node that is neither set nor observed, and
    ``("state", confounder)``. Set and observed values may differ by row.

    Args:
        network: Nodes of all worlds.
        evidence: Observed value of each node, one or one per row.
        rows: Number of rows.
        start: Index of the first row; values that differ by row may have more rows before and after.
        shared: Factors that are the same for all rows, by node; factors computed here are added.
    """

    def __init__(
        self,
        network: Network,
        evidence: Mapping[int, Tensor],
        rows: int = 1,
        *,
        start: int = 0,
        shared: dict[int, tuple[RowFactor, Tensor]] | None = None,
    ) -> None:
        self.network = network
        self.dcm = network.dcm
        self.evidence = evidence
        self.rows = rows
        self.start = start
        self._shared = {} if shared is None else shared
        self.sizes: dict[Hashable, int] = {}

    def scope(self, number: int) -> tuple[Hashable, ...]:
        """Axes of a node's table: free parents, confounders, and the node itself if not observed."""
        node = self.network.nodes[number]
        scope: list[Hashable] = [self._value_axis(parent) for parent in self._free(number)]
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
        """Cells per row in the computation of :meth:`factor`, with all levels even of an observed node."""
        variable = self.dcm.schema[self.network.nodes[number].variable]
        levels = variable.num_levels if number in self.evidence and variable.kind == "categorical" else 1
        return levels * math.prod(self.sizes[axis] for axis in self.scope(number))

    def _free(self, number: int) -> list[int]:
        return [parent for parent in self.network.nodes[number].parents if not self.is_known(parent)]

    def is_known(self, number: int) -> bool:
        """Whether a node is set to a value or observed."""
        return number in self.evidence or self.network.nodes[number].constant is not None

    def known_value(self, number: int) -> Tensor:
        """Set or observed value of a node, or its values in these rows."""
        value = self._known(number)
        if len(value) > 1:
            value = value[self.start : self.start + self.rows]
            if value.ndim == 1 and bool((value == value[0]).all()):
                value = value[:1]
        return float_pixels(value)

    def _known(self, number: int) -> Tensor:
        """Set or observed value of a node, or its values in all rows."""
        value = self.evidence[number] if number in self.evidence else self.network.nodes[number].constant
        assert value is not None
        return value

    def _rows(self, numbers: Iterable[int]) -> int:
        """Rows of a table that depends on nodes: 1 if it is the same for all rows."""
        return max([1, *(len(self.known_value(number)) for number in numbers if self.is_known(number))])

    def _parents(self, number: int, rows: int) -> tuple[dict[str, Tensor], list[int]]:
        """Every combination of values of the free parents in every row, and the sizes of those axes."""
        free = self._free(number)
        shape = [self.num_levels(parent) for parent in free]
        combinations = math.prod(shape)
        grid = torch.cartesian_prod(*map(torch.arange, shape)).reshape(combinations, -1) if free else None
        node = self.network.nodes[number]
        parents = {}
        for name, parent in zip(self.dcm.parents(node.variable), node.parents, strict=True):
            if parent in free:
                assert grid is not None
                parents[name] = grid[:, free.index(parent)].repeat(rows)
            else:
                value = self.known_value(parent)
                parents[name] = value.expand(rows, *value.shape[1:]).repeat_interleave(combinations, 0)
        return parents, shape

    def levels(self, number: int) -> tuple[tuple[Hashable, ...], Tensor]:
        """Log probability of every level of a node, observed or not.

        Returns:
            Axes without that of the levels, and the table, float64 ``[n or 1, ..., K]``.
        """
        node = self.network.nodes[number]
        rows = self._rows(node.parents)
        whole = self._sliced(number) if rows == 1 else None
        if whole is not None:
            axes = [self._value_axis(parent) for parent in self._free(number)]
            return (*axes, *(("state", index) for index in self.dcm.latents[node.variable])), whole[None]
        parents, shape = self._parents(number, rows)
        table = level_probabilities(self.dcm.mechanism(node.variable), parents, rows * math.prod(shape))
        axes = [self._value_axis(parent) for parent in self._free(number)]
        axes += [("state", index) for index in self.dcm.latents[node.variable]]
        return tuple(axes), table.reshape(rows, *shape, *table.shape[1:])

    def _sliced(self, number: int) -> Tensor | None:
        """Cached table of a node's mechanism, sliced at the known values of its parents, which all rows share."""
        node = self.network.nodes[number]
        mechanism = self.dcm.mechanism(node.variable)
        needed = math.prod([*map(self.num_levels, self._free(number)), *mechanism.latents])
        whole = whole_table(mechanism, needed)
        if whole is None:
            return None
        return whole[tuple(int(self.known_value(p)) if self.is_known(p) else slice(None) for p in node.parents)]

    def factor(self, number: int) -> tuple[RowFactor, Tensor]:
        """Factor of a node over unknown variables, and the log of its scale, ``[n or 1]``.

        The factor of an observed node is its probability or density.
        """
        if number not in self._shared:
            factor = self._factor(number)
            if not self._is_shared(number):
                return factor
            self._shared[number] = factor
        # record the sizes of its axes, also if it was computed by another object
        self.scope(number)
        return self._shared[number]

    def _is_shared(self, number: int) -> bool:
        """Whether the factor of a node is the same for all rows, including those before and after."""
        nodes = (number, *self.network.nodes[number].parents)
        return all(len(self._known(node)) == 1 for node in nodes if self.is_known(node))

    def _factor(self, number: int) -> tuple[RowFactor, Tensor]:
        scope = self.scope(number)
        node = self.network.nodes[number]
        if number not in self.evidence:
            return scaled(scope, self.levels(number)[1])
        rows = self._rows([number, *node.parents])
        whole = self._sliced(number) if rows == 1 else None
        if whole is not None:
            return scaled(scope, whole[None, ..., int(self.known_value(number))])
        parents, shape = self._parents(number, rows)
        value, combinations = self.known_value(number), math.prod(shape)
        if len(value) > 1:
            value = value.repeat_interleave(combinations, 0)
        table = value_density(self.dcm.mechanism(node.variable), parents, value, rows * combinations)
        return scaled(scope, table.reshape(rows, *(self.sizes[axis] for axis in scope)))


def scaled(scope: tuple[Hashable, ...], log_table: Tensor) -> tuple[RowFactor, Tensor]:
    """Factor from a table of logarithms, divided by its largest cell in each row, and the logarithm of that cell."""
    top = log_table.flatten(1).amax(1) if log_table.ndim > 1 else log_table
    top = torch.where(top.isfinite(), top, torch.zeros_like(top))
    return RowFactor(scope, (log_table - top.view(-1, *(1,) * len(scope))).exp()), top
