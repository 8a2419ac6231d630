"""Variable elimination in products of tables, with costs known in advance and without the full joint table."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

from mdcm.errors import MdcmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LARGEST",
    "Elimination",
    "Factor",
    "aligned",
    "check_size",
    "contract",
    "eliminate",
    "elimination",
    "min_fill_order",
    "min_size_order",
]

Node = TypeVar("Node", bound=Hashable)

# 2^26 cells of float64 are 512 MB
LARGEST = 1 << 26
# number of factors after which a product is rescaled
_OFTEN = 16
# cells of an order for which no cheaper one is sought
_CHEAP = 1 << 13
# cached elimination orders: many products have the same shape
_REMEMBERED = 512


class Factor(NamedTuple):
    """A non-negative table over some variables.

    Attributes:
        variables: Distinct hashable names, one per axis.
        table: float64, one axis per variable.
    """

    variables: tuple[Hashable, ...]
    table: NDArray[np.float64]


class Elimination(NamedTuple, Generic[Node]):
    """Order and cost of summing variables out of factors, computed without tables.

    Attributes:
        order: The variables in the order in which they are summed out.
        keep: Variables that remain.
        scopes: Variables of the remaining factors.
        largest: Cells of the largest intermediate table.
        cells: Cells of all intermediate tables.
    """

    order: tuple[Node, ...]
    keep: tuple[Node, ...]
    scopes: tuple[tuple[Node, ...], ...]
    largest: int
    cells: int


def elimination(scopes: Sequence[Sequence[Node]], keep: Iterable[Node], sizes: Mapping[Node, int]) -> Elimination[Node]:
    """Order and cost of summing all variables but some out of a product of factors.

    The order is that of minimal fill, or, if that is expensive and the other is cheaper, that of the smallest tables.

    Args:
        scopes: The variables of every factor.
        keep: Variables that remain.
        sizes: Number of values by variable.

    Example:
        >>> elimination([("a",), ("a", "b"), ("b", "c")], ["c"], {"a": 2, "b": 3, "c": 5}).order
        ('a', 'b')
    """
    pool, kept = tuple(map(tuple, scopes)), tuple(keep)
    names = dict.fromkeys([*(name for scope in pool for name in scope), *kept])
    return cast("Elimination[Node]", _elimination(pool, kept, tuple(sizes[name] for name in names)))


@lru_cache(_REMEMBERED)
def _elimination(
    scopes: tuple[tuple[Hashable, ...], ...], keep: tuple[Hashable, ...], shape: tuple[int, ...]
) -> Elimination[Hashable]:
    """Cached result; ``shape`` holds the sizes of the names in order of first occurrence."""
    names = dict.fromkeys([*(name for scope in scopes for name in scope), *keep])
    sizes = dict(zip(names, shape, strict=True))
    result = _costed(scopes, keep, sizes, min_fill_order(scopes, keep, sizes))
    if result.cells <= _CHEAP:
        return result
    other = _costed(scopes, keep, sizes, min_size_order(scopes, keep, sizes))
    return min(result, other, key=lambda candidate: candidate.cells)


def _costed(
    scopes: tuple[tuple[Hashable, ...], ...],
    keep: tuple[Hashable, ...],
    sizes: Mapping[Hashable, int],
    order: Sequence[Hashable],
) -> Elimination[Hashable]:
    pool = list(scopes)
    largest, cells = 1, 0
    for variable in order:
        touching = [scope for scope in pool if variable in scope]
        pool = [scope for scope in pool if variable not in scope]
        neighbours = _united(touching, variable)
        size = sizes[variable] * math.prod(sizes[name] for name in neighbours)
        largest, cells = max(largest, size), cells + size
        pool.append(neighbours)
    return Elimination(tuple(order), keep, tuple(pool), largest, cells)


def eliminate(
    factors: Sequence[Factor], variables: Collection[Hashable], *, largest: int = LARGEST
) -> tuple[list[Factor], float]:
    """Product of all factors summed over ``variables``, as a product of smaller factors.

    Args:
        factors: The factors; a variable must have the same size in all of them.
        variables: Variables to sum over; each must occur in a factor.
        largest: Largest allowed number of cells of an intermediate table.

    Returns:
        Factors and a log scale: the sum is their product times the exponential of the scale.

    Raises:
        MdcmError: If a table would have more than ``largest`` cells; checked before any computation.

    Complexity:
        Time and memory are linear in the sum of the tables' sizes along a min-fill elimination order.

    References:
        Dechter (1999), Bucket elimination: a unifying framework for reasoning.
    """
    sizes = _sizes(factors)
    # drop axes of size 1, since the number of axes of a table is limited
    pool = [_without(factor, {name for name in variables if sizes[name] == 1}) for factor in factors]
    summed = {name for name in variables if sizes[name] > 1}
    keep = [name for name, size in sizes.items() if size > 1 and name not in summed]
    steps = elimination([factor.variables for factor in pool], keep, sizes)
    check_size(steps.largest, largest)
    scale = 0.0
    for variable in steps.order:
        touching = [factor for factor in pool if variable in factor.variables]
        pool = [factor for factor in pool if variable not in factor.variables]
        scope = _united([factor.variables for factor in touching], variable)
        # the eliminated variable is the last axis, so that its sum is over adjacent cells
        product, shift = _product(touching, (*scope, variable), sizes)
        table, logarithm = _rescaled(product.sum(axis=-1))
        scale += shift + logarithm
        pool.append(Factor(scope, table))
    return pool, scale


def contract(
    factors: Iterable[Factor], keep: Sequence[Hashable], *, largest: int = LARGEST
) -> tuple[NDArray[np.float64], float]:
    """Product of all factors, summed over every variable that is not kept.

    Args:
        factors: The factors; a variable must have the same size in all of them.
        keep: Variables of the result, in the order of its axes; each must occur in a factor.
        largest: Largest allowed number of cells of a table, including the result.

    Returns:
        A table over ``keep`` whose largest entry is 1 (or 0, if all are), and the logarithm of its scale.

    Raises:
        MdcmError: If a table would have more than ``largest`` cells; checked before any computation.

    Complexity:
        That of :func:`eliminate`.

    Example:
        >>> chain = [Factor(("a",), np.array([0.5, 0.5])), Factor(("a", "b"), np.array([[0.9, 0.1], [0.3, 0.7]]))]
        >>> table, scale = contract(chain, ["b"])
        >>> (table * math.exp(scale)).round(6).tolist()
        [0.6, 0.4]
    """
    pool = list(factors)
    sizes = _sizes(pool)
    check_size(math.prod(sizes[name] for name in keep), largest)
    pool, scale = eliminate(pool, set(sizes).difference(keep), largest=largest)
    product, shift = _product(pool, tuple(keep), sizes)
    table, logarithm = _rescaled(product)
    return table, scale + shift + logarithm


def aligned(factor: Factor, scope: Sequence[Hashable]) -> NDArray[np.float64]:
    """View of a factor's table with one axis per variable in ``scope``, of size 1 if the factor lacks the variable.

    Args:
        factor: The factor; all its variables must be in ``scope``.
        scope: Variables in the order of the result's axes.
    """
    axis = {variable: index for index, variable in enumerate(scope)}
    order = sorted(range(len(factor.variables)), key=lambda index: axis[factor.variables[index]])
    shape = [1] * len(scope)
    for variable, size in zip(factor.variables, factor.table.shape, strict=True):
        shape[axis[variable]] = size
    return factor.table.transpose(order).reshape(shape)


def min_fill_order(scopes: Iterable[Sequence[Node]], keep: Collection[Node], sizes: Mapping[Node, int]) -> list[Node]:
    """Min-fill elimination order: every step adds the fewest edges between neighbours.

    Args:
        scopes: The variables of every factor.
        keep: Variables that are not eliminated.
        sizes: Number of values by variable; ties are broken by the smaller table over the neighbours.

    Complexity:
        O(n^2 + n w^4) for n variables with at most w neighbours each.

    References:
        Kjærulff (1990), Triangulation of graphs: algorithms giving small total state space.
    """

    def cost(variable: Node, neighbours: Mapping[Node, set[Node]]) -> tuple[int, int]:
        adjacent = neighbours[variable]
        joined = sum(len(neighbours[other] & adjacent) for other in adjacent)
        fill = len(adjacent) * (len(adjacent) - 1) - joined
        return fill, math.prod(sizes[other] for other in adjacent)

    return _greedy_order(scopes, keep, cost)


def min_size_order(scopes: Iterable[Sequence[Node]], keep: Collection[Node], sizes: Mapping[Node, int]) -> list[Node]:
    """Min-weight elimination order: every step makes the smallest table.

    Args:
        scopes: The variables of every factor.
        keep: Variables that are not eliminated.
        sizes: Number of values by variable.

    Complexity:
        O(n^2 + n w^3) for n variables with at most w neighbours each.

    References:
        Kjærulff (1990), Triangulation of graphs: algorithms giving small total state space.
    """

    def cost(variable: Node, neighbours: Mapping[Node, set[Node]]) -> int:
        return sizes[variable] * math.prod(sizes[other] for other in neighbours[variable])

    return _greedy_order(scopes, keep, cost)


def _greedy_order(
    scopes: Iterable[Sequence[Node]], keep: Collection[Node], cost: Callable[[Node, Mapping[Node, set[Node]]], Any]
) -> list[Node]:
    """Order in which every step eliminates a variable of least cost, by its neighbours; the first one of equals.

    Costs are integers, so that the order does not depend on that of a set.
    """
    neighbours: dict[Node, set[Node]] = {}
    for scope in scopes:
        for variable in scope:
            neighbours.setdefault(variable, set()).update(scope)
    for variable, adjacent in neighbours.items():
        adjacent.discard(variable)
    kept = set(keep)
    costs = {variable: cost(variable, neighbours) for variable in neighbours if variable not in kept}
    order = []
    while costs:
        variable = min(costs, key=costs.__getitem__)
        del costs[variable]
        order.append(variable)
        adjacent = neighbours.pop(variable)
        for other in adjacent:
            neighbours[other] |= adjacent
            neighbours[other] -= {other, variable}
        stale = adjacent.union(*(neighbours[other] for other in adjacent)) if adjacent else set()
        for other in stale:
            if other in costs:
                costs[other] = cost(other, neighbours)
    return order


def _sizes(factors: Sequence[Factor]) -> dict[Hashable, int]:
    sizes: dict[Hashable, int] = {}
    for factor in factors:
        for variable, size in zip(factor.variables, factor.table.shape, strict=True):
            if sizes.setdefault(variable, size) != size:
                raise ValueError(
                    f"variable {variable!r} has size {sizes[variable]} in one factor and {size} in another"
                )
    return sizes


def _without(factor: Factor, single: Collection[Hashable]) -> Factor:
    axes = [axis for axis, name in enumerate(factor.variables) if name not in single]
    if len(axes) == len(factor.variables):
        return factor
    shape = [factor.table.shape[axis] for axis in axes]
    return Factor(tuple(factor.variables[axis] for axis in axes), factor.table.reshape(shape))


def check_size(cells: int, largest: int = LARGEST) -> None:
    """Check the size of a table before it is allocated.

    Raises:
        MdcmError: If it has more than ``largest`` cells.
    """
    if cells > largest:
        shown = f"{cells:,}" if cells < 10**15 else f"10^{len(str(cells)) - 1}"
        raise MdcmError(
            f"an exact answer needs a table of {shown} cells at once, more than the {largest:,} that are allowed: too "
            "many variables depend on each other"
        )


def _united(scopes: Iterable[Sequence[Hashable]], without: Hashable) -> tuple[Hashable, ...]:
    return tuple(dict.fromkeys(name for scope in scopes for name in scope if name != without))


def _product(
    factors: Sequence[Factor], scope: tuple[Hashable, ...], sizes: Mapping[Hashable, int]
) -> tuple[NDArray[np.float64], float]:
    """The product and the logarithm of its scale."""
    shape = [sizes[variable] for variable in scope]
    if not factors:
        return np.ones(shape), 0.0
    scale = 0.0
    # products have the memory layout of the factors
    first, *others = factors
    product = aligned(first, scope)
    for number, factor in enumerate(others, 1):
        product = product * aligned(factor, scope)
        if number % _OFTEN == 0:
            product, logarithm = _rescaled(product)
            scale += logarithm
    return np.broadcast_to(product, shape), scale


def _rescaled(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    # products of hundreds of probabilities underflow
    largest = float(table.max(initial=0.0))
    return (table / largest, math.log(largest)) if largest > 0 else (table.copy(), 0.0)
