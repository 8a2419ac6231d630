"""Probabilities of a variable at every state of its confounders, for any kind of mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mdcm.mechanisms import Categorical, Mechanism
from mdcm.mechanisms.placement import log_density, tabulated

__all__ = ["has_density", "level_probabilities", "value_density", "whole_table"]

# most rows per call of a mechanism
_MOST_ROWS = 1 << 18
# most combinations of parents and states per pass of a network, so that its layers stay in the cache
_MOST_COMBINATIONS = 1 << 15
# largest tables, in combinations of parents and states, that are computed whole: always, or if much of them is needed
_SMALL, _LARGE = 1 << 15, 1 << 20
# most cells of all cached tables, 256 MB
_MOST_CACHED = 1 << 25
# inverse of the share of a large table from which on it is computed whole
_WORTHWHILE = 4
# cached tables by mechanism, with the weights from which they were computed, in order of last use
_tables: WeakKeyDictionary[Categorical, tuple[list[Tensor], Tensor]] = WeakKeyDictionary()


def has_density(mechanism: Mechanism) -> bool:
    """Whether :meth:`Mechanism.log_prob` is available."""
    return mechanism.has_density


def level_probabilities(mechanism: Mechanism, parents: Mapping[str, Tensor], rows: int) -> Tensor:
    """Log probability of every level at every combination of states, float64 ``[n, s_1, ..., s_d, K]``.

    Args:
        mechanism: Mechanism of a categorical variable, with a density.
        parents: Values of the parents, ``n`` rows each.
        rows: The number n.
    """
    whole = whole_table(mechanism, rows * math.prod(mechanism.latents))
    if whole is not None:
        index = torch.zeros(rows, dtype=torch.int64)
        for parent in mechanism.parents:
            index = index * parent.num_levels + parents[parent.name]
        return whole.flatten(0, len(mechanism.parents) - 1)[index] if mechanism.parents else whole[None][index]
    distinct, inverse = _distinct(mechanism, parents, rows)
    count = rows if inverse is None else len(next(iter(distinct.values()))) if distinct else 1
    if isinstance(mechanism, Categorical):
        table = _tabulated(mechanism, distinct, count)
    else:
        levels = mechanism.variable.num_levels
        table = _enumerated(mechanism, distinct, count, torch.arange(levels), levels)
    return table if inverse is None else table[inverse]


@torch.no_grad()
def whole_table(mechanism: Mechanism, needed: int) -> Tensor | None:
    """Log probabilities at all values of the parents and states, ``[p_1, ..., s_1, ..., K]``, cached.

    Args:
        mechanism: The mechanism.
        needed: Number of combinations of parents and states that are needed.

    Returns:
        The table; None if it is too large, absolutely or for the part that is needed, or a parent is not categorical.
    """
    if not isinstance(mechanism, Categorical) or not mechanism.tabular:
        return None
    if mechanism.combinations > (_LARGE if _WORTHWHILE * needed >= mechanism.combinations else _SMALL):
        return None
    weights = [*mechanism.parameters(), *mechanism.buffers()]
    cached = _tables.get(mechanism)
    if cached is None or not _are_equal(cached[0], weights):
        sizes = [parent.num_levels for parent in mechanism.parents]
        rows = math.prod(sizes)
        grid = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(rows, -1) if sizes else None
        parents = {} if grid is None else {p.name: grid[:, k] for k, p in enumerate(mechanism.parents)}
        table = _tabulated(mechanism, parents, rows)
        table = table.reshape(*sizes, *mechanism.latents, mechanism.levels)
        cached = [weight.detach().clone() for weight in weights], table
    _tables.pop(mechanism, None)
    _tables[mechanism] = cached
    while sum(table.numel() for _, table in _tables.values()) > _MOST_CACHED and len(_tables) > 1:
        del _tables[next(iter(_tables))]
    return cached[1]


def _tabulated(mechanism: Categorical, parents: Mapping[str, Tensor], rows: int) -> Tensor:
    """Log probability of every level at every row of parents and combination of states, float64."""
    table = torch.empty((rows, *mechanism.latents, mechanism.levels), dtype=torch.float64)
    for a, b in _spans(rows, math.prod(mechanism.latents), _MOST_COMBINATIONS):
        part = tabulated(mechanism, {name: value[a:b] for name, value in parents.items()}, b - a)
        # sums over the first axis are many times faster than over a short last one
        levels = part.movedim(-1, 0).double().contiguous()
        # in float32 the sum differs from 1 by up to a millionth
        table[a:b] = (levels - levels.exp().sum(0).log()).movedim(0, -1)
    return table


def _are_equal(cached: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    return len(cached) == len(weights) and all(
        tensor.shape == other.shape
        and tensor.dtype == other.dtype
        and tensor.device == other.device
        and torch.equal(tensor, other)
        for tensor, other in zip(cached, weights, strict=True)
    )


def value_density(mechanism: Mechanism, parents: Mapping[str, Tensor], value: Tensor, rows: int) -> Tensor:
    """Log density of a value at every combination of states, float64 ``[n, s_1, ..., s_d]``.

    Args:
        mechanism: Mechanism with a density.
        parents: Values of the parents, ``n`` rows each.
        value: Values of the variable, one row or ``n``.
        rows: The number n.
    """
    if mechanism.variable.kind == "categorical" and (isinstance(mechanism, Categorical) or len(value) > 1):
        table = level_probabilities(mechanism, parents, rows)
        index = value.expand(rows).view(-1, *(1,) * (table.ndim - 1)).expand(*table.shape[:-1], 1)
        return table.gather(-1, index).squeeze(-1)
    if len(value) == 1:
        distinct, inverse = _distinct(mechanism, parents, rows)
        count = rows if inverse is None else len(next(iter(distinct.values()))) if distinct else 1
        table = _enumerated(mechanism, distinct, count, value, 1).squeeze(-1)
        return table if inverse is None else table[inverse]
    parts = []
    for a, b in _spans(rows, math.prod(mechanism.latents)):
        part = {name: parent[a:b] for name, parent in parents.items()}
        parts.append(_over_states(mechanism, part, value[a:b], b - a))
    return torch.cat(parts)


def _distinct(
    mechanism: Mechanism, parents: Mapping[str, Tensor], rows: int
) -> tuple[Mapping[str, Tensor], Tensor | None]:
    """Distinct rows of categorical parents and the index of each row among them; all rows and None otherwise."""
    if not all(parent.kind == "categorical" for parent in mechanism.parents):
        return parents, None
    code = torch.zeros(rows, dtype=torch.int64)
    size = 1
    for parent in mechanism.parents:
        size *= parent.num_levels
        code = code * parent.num_levels + parents[parent.name]
    if size >= 1 << 62:
        return parents, None
    used, inverse = torch.unique(code, return_inverse=True)
    distinct = {}
    for parent in reversed(mechanism.parents):
        distinct[parent.name] = used % parent.num_levels
        used = used // parent.num_levels
    return distinct, inverse


def _enumerated(mechanism: Mechanism, parents: Mapping[str, Tensor], rows: int, values: Tensor, count: int) -> Tensor:
    """Log density of each of ``count`` values at every row and state, ``[n, s_1, ..., s_d, count]``."""
    parts = []
    for a, b in _spans(rows, count * math.prod(mechanism.latents)):
        repeated = {name: value[a:b].repeat_interleave(count, 0) for name, value in parents.items()}
        tiled = values.repeat(b - a, *(1,) * (values.ndim - 1))
        log_prob = _over_states(mechanism, repeated, tiled, (b - a) * count)
        parts.append(log_prob.reshape(b - a, count, *mechanism.latents).movedim(1, -1))
    return torch.cat(parts)


def _over_states(mechanism: Mechanism, parents: Mapping[str, Tensor], value: Tensor, rows: int) -> Tensor:
    """Log density of each row's value at every combination of states, ``[n, s_1, ..., s_d]``."""
    states = math.prod(mechanism.latents)
    grid = (
        torch.cartesian_prod(*map(torch.arange, mechanism.latents)).reshape(states, -1)
        if mechanism.latents
        else torch.zeros(1, 0, dtype=torch.int64)
    )
    repeated = {name: parent.repeat_interleave(states, 0) for name, parent in parents.items()}
    latents = [grid[:, axis].repeat(rows) for axis in range(len(mechanism.latents))]
    log_prob = log_density(mechanism, repeated, latents, value.repeat_interleave(states, 0))
    return log_prob.double().reshape(rows, *mechanism.latents)


def _spans(rows: int, cells: int, most: int = _MOST_ROWS) -> list[tuple[int, int]]:
    """Ranges of rows with at most ``most`` cells, of which every row has ``cells``."""
    size = max(1, most // max(cells, 1))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
