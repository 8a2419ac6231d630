"""Exact likelihood of a c-component whose confounders have finitely many states.

The c-factor of a c-component C at a data row v is ``Q[C](v) = sum_u p(u) prod_{i in C} p_i(v_i | pa_i, u_i)``, where
u runs over the joint states of the confounders of C. The sum is a tensor contraction: every variable contributes one
factor over the states of its own confounders, and states are summed out one confounder at a time along a min-fill
order, rescaled row by row so that nothing underflows. There is no sampling noise and no bias.

References:
    Tian & Pearl (2002), c-factor decomposition of the joint distribution.
    Zhang, Tian & Bareinboim (2022), Theorem 2.4: finitely many states suffice for discrete variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mdcm.mechanisms.base import Mechanism, float_pixels
from mdcm.mechanisms.categorical import Categorical

__all__ = ["ComponentLikelihood", "ComponentRows", "MemberRows", "contract", "elimination_order", "largest_clique"]

_LETTERS = "abcdefghijklmnopqstuvwxyzABCDEFGHIJKLMNOPQSTUVWXYZ"
# below this, a state's share of a row counts as this much: the slope of a logarithm there would overflow float32
_TINY = 1e-35


def elimination_order(scopes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Min-fill order in which to sum out the indices that appear in ``scopes``.

    Args:
        scopes: For each factor, the indices that it depends on.

    Returns:
        Every index once; ties are broken by the smaller index, so the order is a function of the scopes alone.

    Complexity:
        O(n^2 d^2) for n indices with d neighbours; a c-component has few confounders.

    Example:
        >>> elimination_order([(0,), (0, 1), (1, 2), (2,)])
        (0, 1, 2)
    """
    neighbours: dict[int, set[int]] = {}
    for scope in scopes:
        for index in scope:
            neighbours.setdefault(index, set()).update(other for other in scope if other != index)

    def fill(index: int) -> int:
        around = sorted(neighbours[index])
        return sum(b not in neighbours[a] for i, a in enumerate(around) for b in around[i + 1 :])

    order = []
    while neighbours:
        best = min(neighbours, key=lambda index: (fill(index), len(neighbours[index]), index))
        around = neighbours.pop(best)
        for index in around:
            neighbours[index] |= around
            neighbours[index] -= {best, index}
        order.append(best)
    return tuple(order)


def largest_clique(scopes: Sequence[Sequence[int]]) -> int:
    """Most indices that meet in one step of :func:`elimination_order`, the one summed out included; 0 without any."""
    remaining = [set(scope) for scope in scopes if scope]
    largest = max((len(scope) for scope in remaining), default=0)
    for index in elimination_order(scopes):
        bucket = [scope for scope in remaining if index in scope]
        union = set().union(*bucket)
        largest = max(largest, len(union))
        remaining = [scope for scope in remaining if index not in scope]
        remaining.append(union - {index})
    return largest


def contract(
    factors: Sequence[tuple[tuple[int, ...], Tensor]], priors: Sequence[Tensor], order: Sequence[int]
) -> Tensor:
    """Log of ``sum_u prod_l prior_l(u_l) prod_f factor_f(u)`` for every row.

    Args:
        factors: Pairs of indices and a non-negative tensor ``[n, s_1, ..., s_d]`` with one axis per index.
        priors: Probabilities of the states of every index, ``[s]`` each.
        order: Elimination order over all indices.

    Returns:
        ``[n]``.

    Complexity:
        O(n S^w) time and memory for states S and largest clique w of the order.
    """
    pending = list(factors)
    logs = []
    for index in order:
        # the smallest operand last
        bucket = sorted((factor for factor in pending if index in factor[0]), key=lambda factor: -len(factor[0]))
        pending = [factor for factor in pending if index not in factor[0]]
        scope, values = bucket[0]
        for other_scope, other in bucket[1:-1]:
            joined = tuple(sorted({*scope, *other_scope}))
            values = _einsum((scope, other_scope), joined, values, other)
            scope = joined
        if len(bucket) > 1:
            other_scope, other = bucket[-1]
            # the prior joins the smallest operand, so that the last product is a batched matrix product
            other = other * priors[index].view(-1, *(1,) * (len(other_scope) - 1 - other_scope.index(index)))
            joined = tuple(sorted({*scope, *other_scope} - {index}))
            values = _einsum((scope, other_scope), joined, values, other)
        else:
            joined = tuple(i for i in scope if i != index)
            values = torch.tensordot(values, priors[index], dims=([1 + scope.index(index)], [0]))
        values = values.clamp_min(_TINY)
        if not joined:
            logs.append(values.log())
            continue
        scale = values.detach().flatten(1).amax(1)
        logs.append(scale.log())
        pending.append((joined, values / scale.view(-1, *(1,) * len(joined))))
    logs.extend(values.clamp_min(_TINY).log() for _, values in pending)
    return torch.stack(logs).sum(0) if len(logs) > 1 else logs[0]


def _einsum(scopes: tuple[tuple[int, ...], tuple[int, ...]], out: tuple[int, ...], a: Tensor, b: Tensor) -> Tensor:
    letter = {index: _LETTERS[i] for i, index in enumerate(sorted({*scopes[0], *scopes[1]}))}
    left, right, result = ("".join(letter[i] for i in scope) for scope in (*scopes, out))
    return torch.einsum(f"r{left},r{right}->r{result}", a, b)


@dataclass(frozen=True)
class MemberRows:
    """What one variable's factor needs to know of the rows.

    Attributes:
        parents: Values of the parents, one entry per configuration: ``[p]`` each.
        configs: Number of configurations p.
        config: Configuration of each row, int64 ``[n]``; the identity where configurations are not shared.
        value: Code of the variable itself, int64 ``[n]``.
    """

    parents: Mapping[str, Tensor]
    configs: int
    config: Tensor
    value: Tensor


@dataclass(frozen=True)
class ComponentRows:
    """Rows of a c-component and its parents, with equal rows merged where everything is discrete.

    Attributes:
        members: Each variable's own view of the rows.
        weight: Share of the data that each row stands for, float32 ``[n]``, sums to one.
        rows: Number of rows before merging.
    """

    members: Mapping[str, MemberRows]
    weight: Tensor
    rows: int

    @staticmethod
    def build(
        mechanisms: Mapping[str, Mechanism],
        values: Mapping[str, Tensor],
        weight: Tensor | None = None,
        *,
        share: bool = True,
    ) -> ComponentRows:
        """Find the distinct parent configurations and, where everything is discrete, the distinct rows.

        Args:
            mechanisms: Mechanisms of the members.
            values: Values of members and parents, ``n`` rows each.
            weight: Weight of each row, or None for equal weights.
            share: False evaluates every row on its own; for measurements.
        """
        count = len(values[next(iter(mechanisms))])
        weights = torch.ones(count, dtype=torch.float64) if weight is None else weight.double()
        tabular = share and all(isinstance(m, Categorical) and m.tabular for m in mechanisms.values())
        if tabular:
            names = sorted({*mechanisms, *(p.name for m in mechanisms.values() for p in m.parents)})
            table = np.stack([values[name].numpy() for name in names], 1)
            distinct, inverse = np.unique(table, axis=0, return_inverse=True)
            weights = torch.bincount(torch.from_numpy(inverse.reshape(-1)), weights=weights, minlength=len(distinct))
            values = {name: torch.from_numpy(distinct[:, i].copy()) for i, name in enumerate(names)}
        members = {}
        for name, mechanism in mechanisms.items():
            parents = {parent.name: values[parent.name] for parent in mechanism.parents}
            if share and isinstance(mechanism, Categorical) and mechanism.tabular:
                parents, config = _configurations(parents, len(weights))
            else:
                config = torch.arange(len(weights))
            configs = int(config.max()) + 1
            members[name] = MemberRows(parents, configs, config, values[name])
        return ComponentRows(members, (weights / weights.sum()).float(), count)

    def __len__(self) -> int:
        return len(self.weight)

    def select(self, rows: Tensor) -> ComponentRows:
        """The given rows, with only the configurations that they use."""
        members = {}
        for name, member in self.members.items():
            config, configs, parents = member.config[rows], member.configs, dict(member.parents)
            # reading all configurations once is cheaper than finding the used ones, unless most are unused
            if configs > len(rows):
                used, config = torch.unique(config, return_inverse=True)
                configs, parents = len(used), {parent: value[used] for parent, value in parents.items()}
            members[name] = MemberRows(parents, configs, config, member.value[rows])
        return ComponentRows(members, self.weight[rows], len(rows))


def _configurations(parents: Mapping[str, Tensor], rows: int) -> tuple[dict[str, Tensor], Tensor]:
    if not parents:
        return {}, torch.zeros(rows, dtype=torch.int64)
    table = np.stack([value.numpy() for value in parents.values()], 1)
    distinct, inverse = np.unique(table, axis=0, return_inverse=True)
    columns = {name: torch.from_numpy(distinct[:, i].copy()) for i, name in enumerate(parents)}
    return columns, torch.from_numpy(inverse.reshape(-1))


class ComponentLikelihood(nn.Module):
    """Log of the c-factor of a c-component at data rows, differentiable in all of its mechanisms and priors.

    Args:
        mechanisms: Mechanisms of the members, by name.
        latents: For each member, the indices of its confounders in ``priors``, in the order of the mechanism.
        priors: Logits of the prior over the states of each confounder.
    """

    def __init__(
        self,
        mechanisms: Mapping[str, Mechanism],
        latents: Mapping[str, Sequence[int]],
        priors: Sequence[nn.Parameter],
    ) -> None:
        super().__init__()
        self.mechanisms = dict(mechanisms)
        self.latents = {name: tuple(latents[name]) for name in mechanisms}
        self.priors = list(priors)
        self.order = elimination_order(list(self.latents.values()))
        # registered so that parameters() sees each of them once
        self._modules_seen = nn.ModuleList(mechanisms.values())
        self._priors_seen = nn.ParameterList(priors)

    def factor(self, name: str, rows: ComponentRows) -> tuple[Tensor, Tensor | None]:
        """One member's factor at each row, as the log of its largest entry and its entries divided by that.

        Returns:
            Log of the largest entry over the states, ``[n]``, and the entries ``[n, s_1, ..., s_d]`` in [0, 1]; None
            instead of these for a member without confounders, whose only entry is the largest.
        """
        mechanism, member = self.mechanisms[name], rows.members[name]
        if not isinstance(mechanism, Categorical):
            raise TypeError(f"{name!r} is not categorical")
        parents = {parent: float_pixels(value) for parent, value in member.parents.items()}
        table = mechanism.table(mechanism.context(parents, member.configs)).movedim(-1, 1).flatten(0, 1)
        slot = member.config * mechanism.levels + member.value
        if not self.latents[name]:
            return table.index_select(0, slot), None
        # scaled per table entry, not per row: far fewer exponentials, and no underflow at any logit; a constant for
        # the gradient, since the likelihood is the same whatever the scale
        top = table.detach().flatten(1).amax(1)
        scaled = (table - top.view(-1, *(1,) * len(self.latents[name]))).exp()
        return top.index_select(0, slot), scaled.index_select(0, slot)

    def forward(self, rows: ComponentRows) -> Tensor:
        """Log of the c-factor in nats at each row, ``[n]``."""
        parts = []
        factors = []
        for name, latents in self.latents.items():
            log_scale, values = self.factor(name, rows)
            parts.append(log_scale)
            if values is not None:
                factors.append((latents, values))
        if factors:
            parts.append(contract(factors, [prior.softmax(0) for prior in self.priors], self.order))
        return torch.stack(parts).sum(0)

    def loss(self, rows: ComponentRows) -> Tensor:
        """Negative mean log-likelihood per data row, a scalar; the rows' weights need not sum to one."""
        loss: Tensor = -(self(rows) * rows.weight).sum() / rows.weight.sum()
        return loss
