"""Likelihood of a c-component whose confounders have finitely many states.

The c-factor of a c-component C at a data row v is ``Q[C](v) = sum_u p(u) prod_{i in C} p_i(v_i | pa_i, u_i)``, where
u runs over the joint states of the confounders of C. The sum is a tensor contraction: every variable contributes one
factor over the states of its own confounders, and states are summed out one confounder at a time along a min-fill
order, rescaled row by row so that nothing underflows. There is no sampling noise and no bias.

References:
    Tian & Pearl (2002), c-factor decomposition of the joint distribution.
    Zhang, Tian & Bareinboim (2022), Theorem 2.4: finitely many states suffice for discrete variables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdcm.elimination import Elimination, elimination
from mdcm.mechanisms.base import Mechanism, float_pixels
from mdcm.mechanisms.categorical import Categorical

__all__ = [
    "ComponentLikelihood",
    "ComponentRows",
    "MemberRows",
    "contract",
    "distinct_rows",
    "elimination_order",
    "largest_clique",
]

_LETTERS = "abcdefghijklmnopqstuvwxyzABCDEFGHIJKLMNOPQSTUVWXYZ"
# lower bound of a state's share of a row: the derivative of the logarithm below it would overflow float32
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
    return _elimination(scopes).order


def largest_clique(scopes: Sequence[Sequence[int]]) -> int:
    """Largest number of indices in one step of :func:`elimination_order`, including the one summed out; 0 for none."""
    return _elimination(scopes).largest.bit_length() - 1


def _elimination(scopes: Sequence[Sequence[int]]) -> Elimination[int]:
    indices = sorted({index for scope in scopes for index in scope})
    # in the order of the indices, and of equal sizes, so that ties are broken by the smaller one
    return elimination([*((index,) for index in indices), *map(sorted, scopes)], (), dict.fromkeys(indices, 2))


def contract(
    factors: Sequence[tuple[tuple[int, ...], Tensor]], priors: Sequence[Tensor], order: Sequence[int]
) -> Tensor:
    """Log of ``sum_u prod_l prior_l(u_l) prod_f factor_f(u)`` for every row.

    Args:
        factors: Pairs of indices and a non-negative tensor ``[n, s_1, ..., s_d]`` with one axis per index.
        priors: Probabilities of the states of every index, ``[s]`` each; or ``[g, s]``, one for each of g groups of
            n / g successive rows.
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
            other = _weighted(other, priors[index], other_scope.index(index))
            joined = tuple(sorted({*scope, *other_scope} - {index}))
            values = _einsum((scope, other_scope), joined, values, other)
        else:
            joined = tuple(i for i in scope if i != index)
            if priors[index].dim() == 1:
                values = torch.tensordot(values, priors[index], dims=([1 + scope.index(index)], [0]))
            else:
                values = _weighted(values, priors[index], scope.index(index)).sum(1 + scope.index(index))
        values = values.clamp_min(_TINY)
        if not joined:
            logs.append(values.log())
            continue
        scale = values.detach().flatten(1).amax(1)
        logs.append(scale.log())
        pending.append((joined, values / scale.view(-1, *(1,) * len(joined))))
    logs.extend(values.clamp_min(_TINY).log() for _, values in pending)
    return torch.stack(logs).sum(0) if len(logs) > 1 else logs[0]


def _weighted(values: Tensor, prior: Tensor, axis: int) -> Tensor:
    """A factor times the prior of the index at a position of its scope."""
    after = values.dim() - 2 - axis
    if prior.dim() == 1:
        return values * prior.view(-1, *(1,) * after)
    groups, states = prior.shape
    grouped = values.view(groups, len(values) // groups, *values.shape[1:])
    return (grouped * prior.view(groups, *(1,) * (1 + axis), states, *(1,) * after)).view_as(values)


def _einsum(scopes: tuple[tuple[int, ...], tuple[int, ...]], out: tuple[int, ...], a: Tensor, b: Tensor) -> Tensor:
    letter = {index: _LETTERS[i] for i, index in enumerate(sorted({*scopes[0], *scopes[1]}))}
    left, right, result = ("".join(letter[i] for i in scope) for scope in (*scopes, out))
    return torch.einsum(f"r{left},r{right}->r{result}", a, b)


@dataclass(frozen=True)
class MemberRows:
    """Rows as the factor of one variable reads them.

    Attributes:
        parents: Values of the parents, one entry per configuration: ``[p]`` each.
        configs: Number of configurations p.
        config: Configuration of each row, int64 ``[n]``; the identity if configurations are not shared.
        value: Code of the variable itself, int64 ``[n]``.
    """

    parents: Mapping[str, Tensor]
    configs: int
    config: Tensor
    value: Tensor


@dataclass(frozen=True)
class ComponentRows:
    """Rows of a c-component and its parents, with equal rows merged if everything is discrete.

    Attributes:
        members: The rows as each variable reads them.
        weight: Share of each row in the total weight, float32 ``[n]``, sums to one.
        rows: Number of rows before merging.
        total: Sum of the weights before normalisation.
        merged: Merged row of every row, int64; None if rows are not merged.
    """

    members: Mapping[str, MemberRows]
    weight: Tensor
    rows: int
    total: float = 1.0
    merged: Tensor | None = None

    @staticmethod
    def build(
        mechanisms: Mapping[str, Mechanism],
        values: Mapping[str, Tensor],
        weight: Tensor | None = None,
        *,
        share: bool = True,
    ) -> ComponentRows:
        """Find the distinct parent configurations and, if everything is discrete, the distinct rows.

        Args:
            mechanisms: Mechanisms of the members.
            values: Values of members and parents, ``n`` rows each.
            weight: Weight of each row, or None for equal weights.
            share: False for no sharing of configurations and rows, which benchmarks use.
        """
        count = len(values[next(iter(mechanisms))])
        weights = torch.ones(count, dtype=torch.float64) if weight is None else weight.double()
        tabular = share and all(isinstance(m, Categorical) and m.tabular for m in mechanisms.values())
        inverse = None
        if tabular:
            names = sorted({*mechanisms, *(p.name for m in mechanisms.values() for p in m.parents)})
            values, inverse = distinct_rows({name: values[name] for name in names}, count)
            distinct = len(values[names[0]])
            weights = torch.bincount(inverse, weights=weights, minlength=distinct)
        members = {}
        for name, mechanism in mechanisms.items():
            parents = {parent.name: values[parent.name] for parent in mechanism.parents}
            if share and isinstance(mechanism, Categorical) and mechanism.tabular:
                parents, config = distinct_rows(parents, len(weights))
            else:
                config = torch.arange(len(weights))
            configs = int(config.max()) + 1
            members[name] = MemberRows(parents, configs, config, values[name])
        total = weights.sum()
        return ComponentRows(members, (weights / total).float(), count, float(total), inverse)

    def __len__(self) -> int:
        return len(self.weight)

    def merged_rows(self) -> tuple[NDArray[np.int64], int]:
        """Merged row of every row, and the number of merged rows."""
        return (np.arange(self.rows) if self.merged is None else self.merged.numpy()), len(self)

    def to(self, device: torch.device) -> ComponentRows:
        """Copy of the rows on a device."""
        members = {
            name: MemberRows(
                {parent: value.to(device) for parent, value in member.parents.items()},
                member.configs,
                member.config.to(device),
                member.value.to(device),
            )
            for name, member in self.members.items()
        }
        return ComponentRows(members, self.weight.to(device), self.rows, self.total)

    def select(self, rows: Tensor) -> ComponentRows:
        """Some of the rows, with the configurations that they use."""
        members = {}
        for name, member in self.members.items():
            config, configs, parents = member.config[rows], member.configs, dict(member.parents)
            # reading all configurations once is cheaper than finding the used ones, unless most are unused
            if configs > len(rows):
                used, config = torch.unique(config, return_inverse=True)
                configs, parents = len(used), {parent: value[used] for parent, value in parents.items()}
            members[name] = MemberRows(parents, configs, config, member.value[rows])
        return ComponentRows(members, self.weight[rows], len(rows), self.total)


def distinct_rows(columns: Mapping[str, Tensor], rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """The distinct rows of a table of codes, in lexicographic order of the columns as given.

    Args:
        columns: Codes by name, int64 ``[rows]`` each; without columns all rows are equal.
        rows: Number of rows.

    Returns:
        Columns of the distinct rows, and the distinct row of each row, int64 ``[rows]``.

    Example:
        >>> columns, inverse = distinct_rows({"A": torch.tensor([1, 0, 1]), "B": torch.tensor([0, 2, 0])}, 3)
        >>> columns["B"].tolist(), inverse.tolist()
        ([2, 0], [1, 0, 1])
    """
    if not columns:
        return {}, torch.zeros(rows, dtype=torch.int64)
    arrays = [column.numpy() for column in columns.values()]
    sizes = [int(array.max(initial=0)) + 1 for array in arrays]
    if math.prod(sizes) < 2**62 and all(int(array.min(initial=0)) >= 0 for array in arrays):
        # one integer key per row sorts ten times as fast as a row of codes
        key = np.zeros(rows, dtype=np.int64)
        for array, size in zip(arrays, sizes, strict=True):
            key = key * size + array
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    else:
        _, first, inverse = np.unique(np.stack(arrays, 1), axis=0, return_index=True, return_inverse=True)
    distinct = {name: torch.from_numpy(array[first]) for name, array in zip(columns, arrays, strict=True)}
    return distinct, torch.from_numpy(inverse.reshape(-1))


class ComponentLikelihood(nn.Module):
    """Log of the c-factor of a c-component at data rows, differentiable in all of its mechanisms and priors.

    Rows with only some of the members have the c-factor of these members. With ``draws`` the exact sum over the states
    of confounders is replaced by a mean over joint states drawn from the priors, the same for all rows; its logarithm
    is biased low by O(1 / draws).

    Args:
        mechanisms: Mechanisms of the members, by name; every one has a density.
        latents: For each member, the indices of its confounders in ``priors``, in the order of the mechanism.
        priors: Logits of the prior over the states of each confounder.
        draws: Number of Monte-Carlo draws, or None for the exact sum.
    """

    def __init__(
        self,
        mechanisms: Mapping[str, Mechanism],
        latents: Mapping[str, Sequence[int]],
        priors: Sequence[nn.Parameter],
        draws: int | None = None,
    ) -> None:
        super().__init__()
        self.mechanisms = dict(mechanisms)
        self.latents = {name: tuple(latents[name]) for name in mechanisms}
        self.priors = list(priors)
        self.order = elimination_order(list(self.latents.values()))
        self.draws = draws
        self.generator = torch.Generator()
        self._orders = {tuple(self.latents): self.order}
        # registered so that parameters() yields each parameter once
        self._registered_mechanisms = nn.ModuleList(mechanisms.values())
        self._registered_priors = nn.ParameterList(priors)

    def _order_of(self, names: tuple[str, ...]) -> tuple[int, ...]:
        if names not in self._orders:
            self._orders[names] = elimination_order([self.latents[name] for name in names])
        return self._orders[names]

    def factor(self, name: str, rows: ComponentRows) -> tuple[Tensor, Tensor | None]:
        """Factor of one member at each row, as the log of its largest entry and all entries divided by that.

        Returns:
            Log of the largest entry over the states, ``[n]``, and the scaled entries ``[n, s_1, ..., s_d]`` in [0, 1];
            None instead of these for a member without confounders, which has only one entry.

        Raises:
            TypeError: If the member's mechanism has no density.
        """
        mechanism, member = self.mechanisms[name], rows.members[name]
        if not isinstance(mechanism, Categorical):
            if not mechanism.has_density:
                raise TypeError(f"the mechanism of {name!r} ({type(mechanism).__name__}) has no density")
            given = {parent: float_pixels(value[member.config]) for parent, value in member.parents.items()}
            entries = mechanism.log_table(given, float_pixels(member.value))
            if not self.latents[name]:
                return entries, None
            # densities are unbounded, so each row has its own scale
            top = entries.detach().flatten(1).amax(1)
            return top, (entries - top.view(-1, *(1,) * (entries.dim() - 1))).exp()
        parents = {parent: float_pixels(value) for parent, value in member.parents.items()}
        table = mechanism.table(parents, member.configs).movedim(-1, 1).flatten(0, 1)
        slot = member.config * mechanism.levels + member.value
        if not self.latents[name]:
            return table.index_select(0, slot), None
        # scaled per table entry, not per row: far fewer exponentials, and no underflow at any logit; a constant for
        # the gradient, since the likelihood is the same whatever the scale
        top = table.detach().flatten(1).amax(1)
        scaled = (table - top.view(-1, *(1,) * len(self.latents[name]))).exp()
        return top.index_select(0, slot), scaled.index_select(0, slot)

    def _at_states(self, name: str, member: MemberRows, states: Sequence[Tensor]) -> Tensor:
        """Log density of one member in each row at some joint states ``[k]`` of its confounders, ``[n, k]``."""
        mechanism, count = self.mechanisms[name], len(states[0]) if states else 1
        if isinstance(mechanism, Categorical):
            # once per configuration of the parents
            parents = {p: float_pixels(v).repeat_interleave(count, 0) for p, v in member.parents.items()}
            latents = [state.repeat(member.configs) for state in states]
            table = mechanism.logits(parents, latents, member.configs * count).log_softmax(-1)
            table = table.view(member.configs, count, -1).movedim(-1, 1).flatten(0, 1)
            return table.index_select(0, member.config * mechanism.levels + member.value)
        if not mechanism.has_density:
            raise TypeError(f"the mechanism of {name!r} ({type(mechanism).__name__}) has no density")
        parents = {p: float_pixels(v[member.config]).repeat_interleave(count, 0) for p, v in member.parents.items()}
        latents = [state.repeat(len(member.value)) for state in states]
        value = float_pixels(member.value).repeat_interleave(count, 0)
        return mechanism.log_prob(parents, latents, value).view(-1, count)

    def forward(self, rows: ComponentRows) -> Tensor:
        """Log of the c-factor of the rows' members in nats at each row, ``[n]``."""
        names = tuple(name for name in self.latents if name in rows.members)
        if self.draws is not None and any(self.latents[name] for name in names):
            return self._monte_carlo(names, rows)
        parts = []
        factors = []
        for name in names:
            log_scale, values = self.factor(name, rows)
            parts.append(log_scale)
            if values is not None:
                factors.append((self.latents[name], values))
        if factors:
            priors = [prior.softmax(0) for prior in self.priors]
            parts.append(contract(factors, priors, self._order_of(names)))
        return torch.stack(parts).sum(0)

    def _monte_carlo(self, names: Sequence[str], rows: ComponentRows) -> Tensor:
        assert self.draws is not None
        total = self.priors[0].new_zeros(self.draws)
        states: list[Tensor] = []
        for prior in self.priors:
            log_prior = prior.log_softmax(0)
            share = log_prior.detach().exp().cpu()
            drawn = torch.multinomial(share, self.draws, replacement=True, generator=self.generator).to(prior.device)
            # a weight of 1 whose gradient is that of the prior
            total = total + (log_prior - log_prior.detach())[drawn]
            states.append(drawn)
        parts: Tensor = total
        for name in names:
            latents = [states[index] for index in self.latents[name]]
            parts = parts + self._at_states(name, rows.members[name], latents)
        return parts.logsumexp(1) - math.log(self.draws)

    def loss(self, rows: ComponentRows) -> Tensor:
        """Negative mean log-likelihood per data row, a scalar; weights need not sum to one."""
        loss: Tensor = -(self(rows) * rows.weight).sum() / rows.weight.sum()
        return loss
