"""Sums of products of tables, computed one variable at a time and never through the full joint."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from mdcm.errors import MdcmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Factor", "aligned", "contract", "min_fill_order"]

Node = TypeVar("Node", bound=Hashable)

# 2^26 cells of float64 are 512 MB
_LARGEST = 1 << 26


class Factor(NamedTuple):
    """A non-negative table over some variables.

    Attributes:
        variables: Any hashable names, one per axis, each once.
        table: float64, one axis per variable.
    """

    variables: tuple[Hashable, ...]
    table: NDArray[np.float64]


def contract(
    factors: Iterable[Factor], keep: Sequence[Hashable], *, largest: int = _LARGEST
) -> tuple[NDArray[np.float64], float]:
    """Product of all factors, summed over every variable that is not kept.

    Args:
        factors: The factors; a variable must have the same size in all of them.
        keep: Variables of the result, in the order of its axes; each must occur in a factor.
        largest: Number of cells that no intermediate table may exceed.

    Returns:
        A table over ``keep`` whose largest entry is 1 (or 0, where all are), and the logarithm of the number by which
        it must be multiplied.

    Raises:
        MdcmError: If a table with more than ``largest`` cells would be needed.

    Complexity:
        Time and memory are linear in the sum of the tables' sizes along a min-fill elimination order.

    References:
        Dechter (1999), Bucket elimination: a unifying framework for reasoning.

    Example:
        >>> chain = [Factor(("a",), np.array([0.5, 0.5])), Factor(("a", "b"), np.array([[0.9, 0.1], [0.3, 0.7]]))]
        >>> table, scale = contract(chain, ["b"])
        >>> (table * math.exp(scale)).round(6).tolist()
        [0.6, 0.4]
    """
    pool = list(factors)
    sizes: dict[Hashable, int] = {}
    for factor in pool:
        for variable, size in zip(factor.variables, factor.table.shape, strict=True):
            if sizes.setdefault(variable, size) != size:
                raise ValueError(
                    f"variable {variable!r} has size {sizes[variable]} in one factor and {size} in another"
                )
    order = min_fill_order([factor.variables for factor in pool], keep, sizes)
    scale = 0.0
    for variable in order:
        touching = [factor for factor in pool if variable in factor.variables]
        pool = [factor for factor in pool if variable not in factor.variables]
        scope = tuple(dict.fromkeys(name for factor in touching for name in factor.variables if name != variable))
        # the eliminated variable last, where its sum is over adjacent cells
        table = _product(touching, (*scope, variable), sizes, largest).sum(axis=-1)
        table, logarithm = _rescaled(table)
        scale += logarithm
        pool.append(Factor(scope, table))
    table, logarithm = _rescaled(_product(pool, tuple(keep), sizes, largest))
    return table, scale + logarithm


def aligned(factor: Factor, scope: Sequence[Hashable]) -> NDArray[np.float64]:
    """View of a factor's table with one axis per variable in ``scope``, of size 1 where the factor has none.

    Args:
        factor: The factor; all its variables must be in ``scope``.
        scope: Variables in the order of the result's axes.
    """
    axis = {variable: place for place, variable in enumerate(scope)}
    order = sorted(range(len(factor.variables)), key=lambda place: axis[factor.variables[place]])
    shape = [1] * len(scope)
    for variable, size in zip(factor.variables, factor.table.shape, strict=True):
        shape[axis[variable]] = size
    return factor.table.transpose(order).reshape(shape)


def min_fill_order(scopes: Iterable[Sequence[Node]], keep: Collection[Node], sizes: Mapping[Node, int]) -> list[Node]:
    """Order of elimination that joins the fewest pairs of neighbours at every step.

    Args:
        scopes: The variables of every factor.
        keep: Variables that are not eliminated.
        sizes: Number of values by variable; of two equally good variables the one whose neighbours span the smaller
            table goes first.

    Complexity:
        O(n^2 + n w^4) for n variables with at most w neighbours each.

    References:
        Kjærulff (1990), Triangulation of graphs: algorithms giving small total state space.
    """
    neighbours: dict[Node, set[Node]] = {}
    for scope in scopes:
        for variable in scope:
            neighbours.setdefault(variable, set()).update(scope)
    for variable, around in neighbours.items():
        around.discard(variable)
    kept = set(keep)
    cost = {variable: _fill(variable, neighbours, sizes) for variable in neighbours if variable not in kept}
    order = []
    while cost:
        variable = min(cost, key=cost.__getitem__)
        del cost[variable]
        order.append(variable)
        around = neighbours.pop(variable)
        for other in around:
            neighbours[other] |= around
            neighbours[other] -= {other, variable}
        stale = around.union(*(neighbours[other] for other in around)) if around else set()
        for other in stale:
            if other in cost:
                cost[other] = _fill(other, neighbours, sizes)
    return order


def _fill(variable: Node, neighbours: Mapping[Node, set[Node]], sizes: Mapping[Node, int]) -> tuple[int, float]:
    around = neighbours[variable]
    joined = sum(len(neighbours[other] & around) for other in around)
    return len(around) * (len(around) - 1) - joined, sum(math.log(sizes[other]) for other in around)


def _product(
    factors: Sequence[Factor], scope: tuple[Hashable, ...], sizes: Mapping[Hashable, int], largest: int
) -> NDArray[np.float64]:
    cells = math.prod(sizes[variable] for variable in scope)
    if cells > largest:
        raise MdcmError(
            f"an exact answer needs a table over {len(scope)} variables at once with {cells:,} cells, "
            f"more than the {largest:,} that are allowed: the graph is too densely connected around them"
        )
    product = np.ones([sizes[variable] for variable in scope])
    for factor in factors:
        product *= aligned(factor, scope)
    return product


def _rescaled(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    # products of hundreds of probabilities leave the range of floats
    largest = float(table.max(initial=0.0))
    return (table / largest, math.log(largest)) if largest > 0 else (table, 0.0)
