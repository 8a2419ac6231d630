"""Answers by exact elimination in the model, with no error of drawing, where all that matters is discrete.

Every node of the question's worlds contributes its probability table, every confounder its prior, and all that is not
asked for is summed out. A variable that occurs in two worlds has one Gumbel noise in both; the joint distribution of
its two values is known in closed form, so that most counterfactuals are exact as well. What has no such form, or
needs a table that is too large, is left to be drawn.

References:
    Dechter (1999), Bucket elimination: a unifying framework for reasoning; Oberst & Sontag (2019), Counterfactual
    off-policy evaluation with Gumbel-max structural causal models; Moulton & Jiang (2018), Maximally consistent
    sampling and the Jaccard index of probability distributions (the probability that two races have one winner).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mdcm.dcm import one_thread
from mdcm.mechanisms import Categorical
from mdcm.sampling.messages import Order, RowFactor, eliminate, elimination_order
from mdcm.sampling.tables import Tables, scaled
from mdcm.sampling.worlds import Network

__all__ = ["Posterior", "common_noise", "event_probability", "posterior"]

# cells of one table, 32 MB
_LARGEST = 1 << 22
# cells of all tables of all rows, about a second's work
_MOST = 1 << 28
# logarithm of the smallest probability that is told from others: ratios of two must not overflow
_SMALLEST = -300.0


@dataclass(frozen=True)
class Posterior:
    """Exact distribution of targets given evidence, row by row.

    Attributes:
        table: Probability of every combination of the targets' levels, float64 ``[n, K_1, ..., K_t]``; each row sums
            to 1, or is 0 where the evidence is impossible.
        log_evidence: Logarithm of the probability (of continuous variables the density) of the evidence, ``[n]``.
    """

    table: Tensor
    log_evidence: Tensor


@torch.no_grad()
@one_thread()
def posterior(
    network: Network, targets: Sequence[int], evidence: Mapping[int, Tensor], rows: int = 1
) -> Posterior | None:
    """Exact distribution of nodes given the values of others; None where it cannot be had, or is too large.

    Args:
        network: Nodes of all worlds; what is set may be one value or one per row.
        targets: Nodes that are asked for.
        evidence: Value seen of each node, one row or one per row; as :func:`check_evidence` lets pass.
        rows: Number of rows.

    Complexity:
        O(n S^w) for n rows, S values and w variables that meet in one step; sizes are checked before anything is
        computed.

    Example:
        >>> import mdcm
        >>> table = {"D": [0, 1] * 50, "A": [0, 1, 1, 1] * 25}
        >>> model = mdcm.fit("D -> A", table, config=mdcm.TrainConfig(max_steps=5))
        >>> network = Network(model.dcm)
        >>> world = network.world({"D": torch.tensor([0])})
        >>> float(posterior(network, [world["A"]], {}).table.sum().round(decimals=9))
        1.0
    """
    closure = network.closure([*targets, *evidence])
    if any(network.nodes[number].rule is not None for number in closure):
        return None
    tables = Tables(network, evidence, rows)
    groups = _groups(tables, closure)
    if groups is None or not all(_is_summable(tables, number) for number in targets):
        return None
    keep = tuple(dict.fromkeys(("value", number) for number in targets if not tables.is_known(number)))
    scopes = [_scope(tables, group) for group in groups]
    order = elimination_order(scopes, keep, tables.sizes)
    shape = [tables.num_levels(number) for number in targets]
    largest = max(order.largest, math.prod(shape), *(_cells(tables, group) for group in groups))
    if largest > _LARGEST or order.cells * rows > _MOST:
        return None
    at_once = min(rows, _LARGEST // largest)
    parts = []
    for start in range(0, rows, at_once):
        part = Tables(network, evidence, min(at_once, rows - start), start=start)
        parts.append(_eliminated(part, groups, targets, order, shape))
    return Posterior(torch.cat([table for table, _ in parts]), torch.cat([log_total for _, log_total in parts]))


def event_probability(
    network: Network, event: Mapping[int, Tensor], evidence: Mapping[int, Tensor], rows: int = 1
) -> Posterior | None:
    """Probability of values given the values of other nodes, where a table of all levels would be too large.

    Args:
        network: Nodes of all worlds.
        event: Value of each node, one row or one per row.
        evidence: As for :func:`posterior`.
        rows: Number of rows.

    Returns:
        The probability in ``table``, ``[n]``.
    """
    if any(number in evidence or network.nodes[number].is_set for number in event):
        return None
    some = posterior(network, (), evidence, rows)
    both = posterior(network, (), {**evidence, **event}, rows)
    if some is None or both is None:
        return None
    possible = some.log_evidence > -math.inf
    share = torch.where(possible, both.log_evidence - some.log_evidence, torch.zeros_like(some.log_evidence)).exp()
    return Posterior(share.clamp_max(1.0), some.log_evidence)


def _groups(tables: Tables, closure: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Nodes that have one factor: the copies of a variable. None where a factor has no closed form."""
    copies: dict[str, list[int]] = {}
    for number in closure:
        node = tables.network.nodes[number]
        if not node.is_set:
            copies.setdefault(node.variable, []).append(number)
    for name, numbers in copies.items():
        mechanism = tables.dcm.mechanism(name)
        if not mechanism.has_density or not all(n in tables.evidence or _is_summable(tables, n) for n in numbers):
            return None
        # a race of exponential clocks, as it is run by this very function
        races = isinstance(mechanism, Categorical) and type(mechanism).forward is Categorical.forward
        if len(numbers) > 2 or (len(numbers) == 2 and not races):
            return None
    return list(map(tuple, copies.values()))


def _is_summable(tables: Tables, number: int) -> bool:
    return tables.dcm.schema[tables.network.nodes[number].variable].kind == "categorical"


def _scope(tables: Tables, group: tuple[int, ...]) -> tuple[Hashable, ...]:
    return tuple(dict.fromkeys(axis for number in group for axis in tables.scope(number)))


def _cells(tables: Tables, group: tuple[int, ...]) -> int:
    """Cells of what is computed for a factor, in each row."""
    if len(group) == 1:
        return tables.cells(group[0])
    levels = {("value", number): tables.num_levels(number) for number in group}
    sizes: dict[Hashable, int] = {axis: tables.sizes[axis] for axis in _scope(tables, group)} | levels
    return math.prod(sizes.values())


def _eliminated(
    tables: Tables, groups: Sequence[tuple[int, ...]], targets: Sequence[int], order: Order, shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Distribution of the targets, ``[n, K_1, ..., K_t]``, and the log probability of the evidence, ``[n]``."""
    pool: list[RowFactor] = []
    log_scale = torch.zeros(tables.rows, dtype=torch.float64)
    axes = dict.fromkeys(axis for group in groups for axis in _scope(tables, group))
    for group in groups:
        factor, scale = tables.factor(group[0]) if len(group) == 1 else _pair(tables, *group)
        pool.append(factor)
        log_scale = log_scale + scale
    priors = tables.dcm.priors
    for axis in axes:
        kind, index = cast("tuple[str, int]", axis)
        if kind == "state":
            pool.append(RowFactor((axis,), priors[index].double().softmax(0)[None]))
    found = eliminate(pool, order, tables.sizes, rows=tables.rows, draws=False)
    table = found.rest.expand(tables.rows, *found.rest.shape[1:])
    total = table.flatten(1).sum(1) if table.ndim > 1 else table
    safe = torch.where(total > 0, total, torch.ones_like(total))
    share = table / safe.view(-1, *(1,) * (table.ndim - 1))
    return _spread(tables, share, targets, order.keep, shape), total.log() + found.log_scale + log_scale


def _spread(
    tables: Tables, share: Tensor, targets: Sequence[int], keep: Sequence[Hashable], shape: Sequence[int]
) -> Tensor:
    """The distribution of distinct free nodes as one of the targets, of which some are known, or asked for twice."""
    if [("value", number) for number in targets] == list(keep):
        return share
    result = torch.zeros(tables.rows, *shape, dtype=torch.float64)
    row = torch.arange(tables.rows).view(-1, *(1,) * len(keep))
    places: list[Tensor] = []
    for number in targets:
        if tables.is_known(number):
            places.append(tables.known_value(number).view(-1, *(1,) * len(keep)).expand(share.shape))
        else:
            axis = keep.index(("value", number))
            levels = torch.arange(share.shape[1 + axis])
            places.append(levels.view(-1, *(1,) * (len(keep) - 1 - axis)).expand(share.shape))
    result[(row.expand(share.shape), *places)] = share
    return result


def _pair(tables: Tables, first: int, second: int) -> tuple[RowFactor, Tensor]:
    """Joint factor of the two copies of a variable, which have one noise."""
    (one_axes, one), (other_axes, other) = tables.levels(first), tables.levels(second)
    outer = tuple(dict.fromkeys((*one_axes, *other_axes)))
    both = common_noise(_aligned(one, one_axes, outer), _aligned(other, other_axes, outer))
    for place, number in ((-2, first), (-1, second)):
        if number in tables.evidence:
            seen = tables.known_value(number)
            both = both.expand(max(len(both), len(seen)), *both.shape[1:])
            index = seen.view(-1, *(1,) * (both.ndim - 1))
            size = [*both.shape]
            size[place] = 1
            both = both.gather(place, index.expand(size))
    levels = [("value", number) for number in (first, second) if number not in tables.evidence]
    both = both.reshape(*both.shape[:-2], *(tables.sizes[axis] for axis in levels))
    return scaled((*outer, *levels), both.log())


def _aligned(log_table: Tensor, axes: Sequence[Hashable], outer: Sequence[Hashable]) -> Tensor:
    """Table ``[n, ..., K]`` with one axis for each of ``outer``, of size 1 where it has none."""
    order = sorted(range(len(axes)), key=lambda place: outer.index(axes[place]))
    moved = log_table.permute(0, *(1 + place for place in order), log_table.ndim - 1)
    sizes = dict(zip((axes[place] for place in order), moved.shape[1:-1], strict=True))
    return moved.reshape(len(moved), *(sizes.get(axis, 1) for axis in outer), moved.shape[-1])


def common_noise(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Joint distribution of the winners of two Gumbel races that are run with the same noise.

    Level k wins a race when its clock E_k / p_k is the first, with E_k exponential and p the probabilities. Given the
    ratio r of the two winning times, all clocks are late enough with density D(r)^-2 for
    D(r) = sum_k max(p_k, q_k r), so that

        P(a, b) = p_a q_b (integral of D(r)^-2 dr from p_b / q_b to p_a / q_a) for a != b,
        P(a, a) = p_a / D(p_a / q_a).

    D is linear between the sorted ratios p_k / q_k, which makes the integral a finite sum.

    Args:
        log_p: Log probabilities of the levels in the first race, float64 ``[..., K]``.
        log_q: In the second race, of a shape that broadcasts with the first.

    Returns:
        Probabilities, float64 ``[..., K, K]``, the first race's winner on the last axis but one.

    Complexity:
        O(K^2) for each pair of distributions.

    Example:
        >>> common_noise(torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.5, 0.5]).double().log()).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    log_p, log_q = torch.broadcast_tensors(log_p.clamp_min(_SMALLEST), log_q.clamp_min(_SMALLEST))  # type: ignore[no-untyped-call]
    p, q = log_p.exp(), log_q.exp()
    ratio, order = (log_p - log_q).sort(dim=-1)
    ratio = ratio.exp()
    # below a ratio its level counts as p, beyond it as q times the ratio
    late_p = p.gather(-1, order)
    ahead = late_p.flip(-1).cumsum(-1).flip(-1) - late_p
    total = ahead + q.gather(-1, order).cumsum(-1) * ratio
    steps = ratio.diff(dim=-1) / (total[..., 1:] * total[..., :-1])
    integral = torch.cat([torch.zeros_like(total[..., :1]), steps.cumsum(-1)], -1)
    rank = order.argsort(-1)
    integral, total = integral.gather(-1, rank), total.gather(-1, rank)
    apart = (integral[..., :, None] - integral[..., None, :]).clamp_min(0)
    return p[..., :, None] * q[..., None, :] * apart + torch.diag_embed(p / total)
