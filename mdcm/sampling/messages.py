"""Sums over products of tables, and sampling from them, with tables per row or common to all rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mdcm.elimination import Elimination

__all__ = ["Eliminated", "RowFactor", "draw_index", "eliminate"]


class RowFactor(NamedTuple):
    """Non-negative tables over some variables.

    Attributes:
        scope: Names of the axes.
        table: float64 ``[n, s_1, ..., s_d]``, or ``[1, s_1, ..., s_d]`` if it is the same for all rows.
    """

    scope: tuple[Hashable, ...]
    table: Tensor


@dataclass(frozen=True)
class Eliminated:
    """A product after summing out variables, with the intermediate tables from which to sample them.

    Attributes:
        buckets: Variables in the order of elimination, each with the product of the factors that contain it, the
            variable on the last axis.
        rest: Remaining product, axes in the order of the kept variables; ``[n or 1]`` if none is kept.
        log_scale: Logarithm of the factor by which ``rest`` must be multiplied, ``[n or 1]``.
    """

    buckets: tuple[tuple[Hashable, RowFactor], ...]
    rest: Tensor
    log_scale: Tensor

    @property
    def log_total(self) -> Tensor:
        """Logarithm of the sum of the whole product in each row, ``[n or 1]``."""
        total = self.rest.flatten(1).sum(1) if self.rest.ndim > 1 else self.rest
        return total.log() + self.log_scale

    def draw(
        self, uniform: Callable[[Hashable], Tensor], chosen: dict[Hashable, Tensor], rows: Tensor | None = None
    ) -> None:
        """Sample the variables that were summed out, in proportion to the product.

        Args:
            uniform: Numbers in [0, 1) by variable, float64 ``[n]``.
            chosen: Indices of the kept variables, int64 ``[n]``; sampled indices are added.
            rows: Row of the tables for each draw, int64 ``[n]``; row i for draw i by default.
        """
        for variable, (scope, table) in reversed(self.buckets):
            numbers = uniform(variable)
            if len(table) == 1:
                row = torch.zeros(len(numbers), dtype=torch.int64)
            else:
                row = torch.arange(len(numbers)) if rows is None else rows
            weights = table[(row, *(chosen[name] for name in scope[:-1]))]
            chosen[variable] = draw_index(weights, numbers)


def draw_index(weights: Tensor, uniform: Tensor) -> Tensor:
    """Index sampled in each row with probability in proportion to its weight, int64 ``[n]``.

    Args:
        weights: Non-negative, float64 ``[n, k]``.
        uniform: Numbers in [0, 1), float64 ``[n]``.
    """
    cumulative = weights.cumsum(1)
    index = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True).squeeze(1)
    # rounding may give an index beyond the last positive weight
    last = weights.shape[1] - 1 - (weights > 0).flip(1).to(torch.int8).argmax(1)
    return torch.minimum(index, last)


def eliminate(
    factors: Sequence[RowFactor],
    steps: Elimination[Hashable],
    sizes: Mapping[Hashable, int],
    *,
    rows: int = 1,
    draws: bool = True,
) -> Eliminated:
    """Sum variables out of a product, one at a time, with rescaling against underflow.

    Args:
        factors: The factors.
        steps: From :func:`mdcm.elimination.elimination`.
        sizes: Number of values of every variable.
        rows: Number of rows of the result.
        draws: Whether to keep the tables from which the variables are sampled.

    Complexity:
        O(n S^w) for n rows, S values and at most w variables in one table.

    References:
        Dechter (1999), Bucket elimination: a unifying framework for reasoning.
    """
    pool = list(factors)
    log_scale = torch.zeros(rows, dtype=torch.float64)
    buckets = []
    for variable in steps.order:
        touching = [factor for factor in pool if variable in factor.scope]
        pool = [factor for factor in pool if variable not in factor.scope]
        scope = tuple(dict.fromkeys(name for factor in touching for name in factor.scope if name != variable))
        if draws:
            product = _product(touching, (*scope, variable), sizes)
            buckets.append((variable, RowFactor((*scope, variable), product)))
            summed = product.sum(-1)
        else:
            summed = _summed(touching, scope, variable, sizes)
        table, scale = _rescaled(summed)
        log_scale = log_scale + scale
        pool.append(RowFactor(scope, table))
    rest, scale = _rescaled(_product(pool, steps.keep, sizes))
    return Eliminated(tuple(buckets), rest, log_scale + scale)


def _summed(
    factors: Sequence[RowFactor], scope: tuple[Hashable, ...], variable: Hashable, sizes: Mapping[Hashable, int]
) -> Tensor:
    """Sum of a product over a variable, without a table of the product: the largest factor is multiplied last."""
    *others, largest = sorted(factors, key=lambda factor: factor.table.numel())
    inner = [name for name in scope if any(name in factor.scope for factor in others)]
    product = _product(others, (*inner, variable), sizes)
    left, right = (
        _aligned(factor, (variable, *scope), sizes) for factor in (RowFactor((*inner, variable), product), largest)
    )
    # the variable is the second axis, after the rows
    total = left[:, 0] * right[:, 0]
    for index in range(1, sizes[variable]):
        total.addcmul_(left[:, index], right[:, index])
    return total.expand(-1, *(sizes[name] for name in scope))


def _aligned(factor: RowFactor, scope: Sequence[Hashable], sizes: Mapping[Hashable, int]) -> Tensor:
    """View of a factor's table with one axis for each of ``scope``, of size 1 if it lacks the variable."""
    order = sorted(range(len(factor.scope)), key=lambda axis: scope.index(factor.scope[axis]))
    table = factor.table.permute(0, *(axis + 1 for axis in order))
    present = set(factor.scope)
    return table.reshape(len(table), *(sizes[name] if name in present else 1 for name in scope))


def _product(factors: Sequence[RowFactor], scope: tuple[Hashable, ...], sizes: Mapping[Hashable, int]) -> Tensor:
    product = torch.ones((1,) * (len(scope) + 1), dtype=torch.float64)
    for factor in factors:
        product = product * _aligned(factor, scope, sizes)
    return product.expand(-1, *(sizes[name] for name in scope))


def _rescaled(table: Tensor) -> tuple[Tensor, Tensor]:
    largest = table.flatten(1).amax(1) if table.ndim > 1 else table
    safe = torch.where(largest > 0, largest, torch.ones_like(largest))
    return table / safe.view(-1, *(1,) * (table.ndim - 1)), safe.log()
