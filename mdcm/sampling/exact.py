"""Exact answers by variable elimination, without sampling error, if all relevant variables are discrete.

Every node of the query's worlds contributes its probability table and every confounder its prior; all variables except
the targets are summed out. A variable that occurs in two worlds has the same Gumbel noise in both; the joint
distribution of its two values has a closed form, so that most counterfactuals are exact as well. Queries without a
closed form, or whose tables are too large, are answered by sampling.

References:
    Dechter (1999), Bucket elimination: a unifying framework for reasoning; Oberst & Sontag (2019), Counterfactual
    off-policy evaluation with Gumbel-max structural causal models; Moulton & Jiang (2018), Maximally consistent
    sampling and the Jaccard index of probability distributions (the probability that two races have the same winner).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mdcm.dcm import one_thread
from mdcm.elimination import Elimination, elimination
from mdcm.mechanisms import Categorical
from mdcm.sampling.messages import RowFactor, eliminate
from mdcm.sampling.tables import NetworkTables, scaled
from mdcm.sampling.worlds import Network

__all__ = ["Posterior", "common_noise", "event_probability", "posterior"]

# most cells of a table, 32 MB
_LARGEST = 1 << 22
# most cells of all tables of all rows, about a second of computation
_MOST = 1 << 28
# logarithm at which probabilities are clamped, so that ratios do not overflow
_SMALLEST = -300.0


@dataclass(frozen=True)
class Posterior:
    """Exact distribution of targets given evidence, row by row.

    Attributes:
        table: Probability of every combination of the targets' levels, float64 ``[n, K_1, ..., K_t]``; each row sums
            to 1, or is 0 if the evidence is impossible.
        log_evidence: Log probability (log density, for continuous variables) of the evidence, ``[n]``.
    """

    table: Tensor
    log_evidence: Tensor


@torch.no_grad()
@one_thread()
def posterior(
    network: Network, targets: Sequence[int], evidence: Mapping[int, Tensor], rows: int = 1
) -> Posterior | None:
    """Exact distribution of nodes given the values of others; None if it has no closed form or is too large.

    Args:
        network: Nodes of all worlds, set to one value or one per row.
        targets: Nodes of which to compute the distribution.
        evidence: Observed value of each node, one or one per row, accepted by :func:`check_evidence`.
        rows: Number of rows.

    Complexity:
        O(n S^w) for n rows, S values and at most w variables in one table; sizes are checked before any computation.

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
    tables = NetworkTables(network, evidence, rows)
    groups = _groups(tables, closure)
    if groups is None or not all(_is_summable(tables, number) for number in targets):
        return None
    keep = tuple(dict.fromkeys(("value", number) for number in targets if not tables.is_known(number)))
    scopes = [_scope(tables, group) for group in groups]
    steps = elimination(scopes, keep, tables.sizes)
    shape = [tables.num_levels(number) for number in targets]
    largest = max(steps.largest, math.prod(shape), *(_cells(tables, group) for group in groups))
    if largest > _LARGEST or steps.cells * rows > _MOST:
        return None
    batch = _batch(rows, _LARGEST // largest)
    parts = []
    shared: dict[int, tuple[RowFactor, Tensor]] = {}
    for start in range(0, rows, batch):
        part = NetworkTables(network, evidence, min(batch, rows - start), start=start, shared=shared)
        parts.append(_eliminated(part, groups, targets, steps, shape))
    return Posterior(torch.cat([table for table, _ in parts]), torch.cat([log_total for _, log_total in parts]))


def _batch(rows: int, most: int) -> int:
    """Rows per batch: a divisor of ``rows`` if a large one exists, so that rows of an intervention stay together."""
    best = max(number for number in range(1, min(rows, most) + 1) if rows % number == 0)
    return best if 2 * best > min(rows, most) else min(rows, most)


def event_probability(
    network: Network, event: Mapping[int, Tensor], evidence: Mapping[int, Tensor], rows: int = 1
) -> Posterior | None:
    """Probability of values given the values of other nodes, without a table of all levels.

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
    condition = posterior(network, (), evidence, rows)
    joint = posterior(network, (), {**evidence, **event}, rows)
    if condition is None or joint is None:
        return None
    log_evidence = condition.log_evidence
    log_share = torch.where(log_evidence > -math.inf, joint.log_evidence - log_evidence, torch.zeros_like(log_evidence))
    return Posterior(log_share.exp().clamp_max(1.0), log_evidence)


def _groups(tables: NetworkTables, closure: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Nodes of every factor, which are all copies of a variable; None if a factor has no closed form."""
    copies = tables.network.copies(closure)
    for name, numbers in copies.items():
        mechanism = tables.dcm.mechanism(name)
        if not mechanism.has_density or not all(n in tables.evidence or _is_summable(tables, n) for n in numbers):
            return None
        # a mechanism with another forward does not sample by a Gumbel race
        races = isinstance(mechanism, Categorical) and type(mechanism).forward is Categorical.forward
        if len(numbers) > 2 or (len(numbers) == 2 and not races):
            return None
    return list(map(tuple, copies.values()))


def _is_summable(tables: NetworkTables, number: int) -> bool:
    return tables.dcm.schema[tables.network.nodes[number].variable].kind == "categorical"


def _scope(tables: NetworkTables, group: tuple[int, ...]) -> tuple[Hashable, ...]:
    return tuple(dict.fromkeys(axis for number in group for axis in tables.scope(number)))


def _cells(tables: NetworkTables, group: tuple[int, ...]) -> int:
    """Cells per row in the computation of a factor."""
    if len(group) == 1:
        return tables.cells(group[0])
    levels = {("value", number): tables.num_levels(number) for number in group}
    sizes: dict[Hashable, int] = {axis: tables.sizes[axis] for axis in _scope(tables, group)} | levels
    return math.prod(sizes.values())


def _eliminated(
    tables: NetworkTables,
    groups: Sequence[tuple[int, ...]],
    targets: Sequence[int],
    steps: Elimination[Hashable],
    shape: Sequence[int],
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
    eliminated = eliminate(pool, steps, tables.sizes, rows=tables.rows, draws=False)
    table = eliminated.rest.expand(tables.rows, *eliminated.rest.shape[1:])
    total = table.flatten(1).sum(1) if table.ndim > 1 else table
    safe = torch.where(total > 0, total, torch.ones_like(total))
    share = table / safe.view(-1, *(1,) * (table.ndim - 1))
    return _spread(tables, share, targets, steps.keep, shape), total.log() + eliminated.log_scale + log_scale


def _spread(
    tables: NetworkTables, share: Tensor, targets: Sequence[int], keep: Sequence[Hashable], shape: Sequence[int]
) -> Tensor:
    """Distribution of the targets, some of them known or repeated, from that of the distinct free nodes."""
    if [("value", number) for number in targets] == list(keep):
        return share
    result = torch.zeros(tables.rows, *shape, dtype=torch.float64)
    row = torch.arange(tables.rows).view(-1, *(1,) * len(keep))
    indices: list[Tensor] = []
    for number in targets:
        if tables.is_known(number):
            indices.append(tables.known_value(number).view(-1, *(1,) * len(keep)).expand(share.shape))
        else:
            axis = keep.index(("value", number))
            levels = torch.arange(share.shape[1 + axis])
            indices.append(levels.view(-1, *(1,) * (len(keep) - 1 - axis)).expand(share.shape))
    result[(row.expand(share.shape), *indices)] = share
    return result


def _pair(tables: NetworkTables, first: int, second: int) -> tuple[RowFactor, Tensor]:
    """Joint factor of the two copies of a variable, which share their noise."""
    (first_axes, log_p), (second_axes, log_q) = tables.levels(first), tables.levels(second)
    outer = tuple(dict.fromkeys((*first_axes, *second_axes)))
    joint = common_noise(_aligned(log_p, first_axes, outer), _aligned(log_q, second_axes, outer))
    for axis, number in ((-2, first), (-1, second)):
        if number in tables.evidence:
            observed = tables.known_value(number)
            joint = joint.expand(max(len(joint), len(observed)), *joint.shape[1:])
            index = observed.view(-1, *(1,) * (joint.ndim - 1))
            size = [*joint.shape]
            size[axis] = 1
            joint = joint.gather(axis, index.expand(size))
    levels = [("value", number) for number in (first, second) if number not in tables.evidence]
    joint = joint.reshape(*joint.shape[:-2], *(tables.sizes[level] for level in levels))
    return scaled((*outer, *levels), joint.log())


def _aligned(log_table: Tensor, axes: Sequence[Hashable], outer: Sequence[Hashable]) -> Tensor:
    """Table ``[n, ..., K]`` with one axis for each of ``outer``, of size 1 if it does not depend on it."""
    order = sorted(range(len(axes)), key=lambda position: outer.index(axes[position]))
    moved = log_table.permute(0, *(1 + position for position in order), log_table.ndim - 1)
    sizes = dict(zip((axes[position] for position in order), moved.shape[1:-1], strict=True))
    return moved.reshape(len(moved), *(sizes.get(axis, 1) for axis in outer), moved.shape[-1])


def common_noise(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Joint distribution of the winners of two Gumbel races with the same noise.

    Level k wins a race if its arrival time E_k / p_k is the smallest, with E_k exponential and p the probabilities.
    Given the ratio r of the two winning times, all other levels arrive later with density D(r)^-2 for
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
    # max(p_k, q_k r) is p_k below the ratio of level k and q_k r above it
    late_p = p.gather(-1, order)
    ahead = late_p.flip(-1).cumsum(-1).flip(-1) - late_p
    total = ahead + q.gather(-1, order).cumsum(-1) * ratio
    steps = ratio.diff(dim=-1) / (total[..., 1:] * total[..., :-1])
    integral = torch.cat([torch.zeros_like(total[..., :1]), steps.cumsum(-1)], -1)
    rank = order.argsort(-1)
    integral, total = integral.gather(-1, rank), total.gather(-1, rank)
    apart = (integral[..., :, None] - integral[..., None, :]).clamp_min(0)
    return p[..., :, None] * q[..., None, :] * apart + torch.diag_embed(p / total)
