"""Abduction: rows of the model given evidence, in one world or several.

If all ancestors of the evidence are categorical, conditioning is exact: the probability tables of the mechanisms are
contracted once, and values and confounder states are sampled from the posterior. Otherwise rows are weighted by the
likelihood of the evidence, with the confounder states summed out.

References:
    Pearl (2009), Causality, theorem 7.1.7 (abduction, action, prediction); Fung & Chang (1990), Weighting and
    integrating evidence for stochastic simulation in Bayesian networks; Casella & Robert (1996),
    Rao-Blackwellisation of sampling schemes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from mdcm import kernels
from mdcm.elimination import elimination
from mdcm.errors import QueryError
from mdcm.graph.worlds import Node
from mdcm.mechanisms import float_pixels
from mdcm.mechanisms.placement import log_density
from mdcm.sampling.densities import has_density, level_probabilities, value_density
from mdcm.sampling.messages import Eliminated, RowFactor, draw_index, eliminate
from mdcm.sampling.tables import NetworkTables
from mdcm.sampling.worlds import Network, Units

__all__ = ["Abduction", "EvidenceError", "check_evidence"]

# most cells of all tables of an exact posterior, 32 MB
_LARGEST = 1 << 22
# most cells per row of a table over a component's confounders
_ROW_LARGEST = 1 << 16
# most cells of all rows' tables at once
_ROW_CELLS = 1 << 23


class EvidenceError(QueryError):
    """Evidence that cannot be conditioned on.

    Attributes:
        node: Index of the node in its network.
    """

    def __init__(self, message: str, node: int) -> None:
        super().__init__(message)
        self.node = node


def check_evidence(network: Network, evidence: Collection[int], targets: Iterable[int]) -> None:
    """Check, before sampling, that evidence can be conditioned on.

    Args:
        network: Nodes of all worlds.
        evidence: Observed nodes.
        targets: Nodes that will be computed.

    Raises:
        EvidenceError: If a node is set; if its variable has no density and has confounders or unknown parents; if its
            mechanism must be inverted and cannot be; or if its variable is not categorical and takes part in another
            world in which its parents differ.
    """
    dcm = network.dcm
    repeated = network.repeated(network.closure([*evidence, *targets]))
    earlier: set[str] = set()
    for number in network.closure(evidence):
        node = network.nodes[number]
        variable, mechanism = dcm.schema[node.variable], dcm.mechanism(node.variable)
        known = all(parent in evidence or network.nodes[parent].constant is not None for parent in node.parents)
        fault = None
        if number not in evidence:
            pass
        elif node.is_set:
            fault = f"{node.variable!r} is set by do() and cannot be conditioned on as well"
        elif node.variable in earlier and variable.kind != "categorical":
            fault = (
                f"{node.variable!r} is {variable.kind} and takes part in two worlds in which its parents differ; "
                "it can be conditioned on in one of them"
            )
        elif not has_density(mechanism) and (not known or dcm.latents[node.variable]):
            fault = (
                f"{node.variable!r} is {variable.kind} and has no density, so it can be conditioned on only if all "
                "its parents are given or set and it has no confounder; to ask for its effect, set it: "
                f"do({node.variable}=...)"
            )
        elif node.variable in repeated and not mechanism.can_abduct:
            fault = (
                f"the mechanism of {node.variable!r} ({type(mechanism).__name__}) cannot be inverted, so its "
                "observed value does not determine its counterfactual value"
            )
        if fault is not None:
            raise EvidenceError(fault, number)
        if not node.is_set:
            earlier.add(node.variable)


class Abduction:
    """Posterior of a model's rows given evidence.

    Args:
        network: Nodes of all worlds.
        evidence: Observed value of each node, one row or one per case.
        targets: Nodes that will be computed from the rows.
        cases: Number of cases; see :class:`mdcm.sampling.worlds.Units`.

    Attributes:
        is_equal: Whether all rows of a case have the same weight.
        is_exact: Whether the posterior is known in closed form.

    Raises:
        EvidenceError: If evidence cannot be conditioned on.
    """

    def __init__(
        self, network: Network, evidence: Mapping[int, Tensor], targets: Iterable[int], *, cases: int = 1
    ) -> None:
        self.network = network
        self.cases = cases
        self.dcm = network.dcm
        self.evidence = {number: float_pixels(value) for number, value in evidence.items()}
        self.order = network.closure(evidence)
        self._component = _components(self.dcm.latents.values(), len(self.dcm.confounders))
        targets = list(targets)
        check_evidence(network, evidence, targets)
        self._repeated = network.repeated(network.closure([*evidence, *targets]))
        self._exact = self._contraction()
        self.is_exact = self._exact is not None
        base = set(self._base) if self.is_exact else set()
        remaining = [number for number in self.order if number not in base]
        # constant weights: all ancestors of the evidence are observed themselves, in one world only
        self.is_equal = not network.repeated(self.order) and all(
            number in self.evidence or network.nodes[number].constant is not None for number in remaining
        )
        # last node of every component on which rows are weighted: the first occurrence of an observed variable
        self._last: dict[int, int] = {}
        known_variables = {network.nodes[number].variable for number in base}
        for number in remaining:
            node = network.nodes[number]
            if number in self.evidence and node.variable not in known_variables:
                for index in self.dcm.latents[node.variable]:
                    self._last[self._component[index]] = number
            if not node.is_set:
                known_variables.add(node.variable)
        self._remaining = remaining
        self._closing_node = self._find_closing_nodes()
        self.is_equal = self.is_equal and not self._closing_node

    def _find_closing_nodes(self) -> dict[int, int]:
        """Node at which the states are sampled, for each component whose table would become too large."""
        closing: dict[int, int] = {}
        scopes: dict[int, list[tuple[Hashable, ...]]] = {}
        sizes: dict[Hashable, int] = {i: self.dcm.states[name] for i, name in enumerate(self.dcm.confounders)}
        for number in self._remaining:
            node = self.network.nodes[number]
            latents = self.dcm.latents[node.variable]
            if node.is_set or not latents:
                continue
            component = self._component[latents[0]]
            variable = self.dcm.schema[node.variable]
            scope: tuple[Hashable, ...] = latents
            if number not in self.evidence and variable.kind == "categorical":
                sizes["value", number] = variable.num_levels
                scope = (*latents, ("value", number))
            earlier = scopes.setdefault(component, [])
            if elimination([*earlier, scope], (), sizes).largest > _ROW_LARGEST:
                closing.setdefault(component, number)
            earlier.append(latents)
        return closing

    @torch.no_grad()
    def _contraction(self) -> Eliminated | None:
        """Contracted tables of the evidence in the first worlds, up to the first variable that occurs twice."""
        self._base: list[int] = []
        variables: dict[str, int] = {}
        for number in sorted(self.evidence):
            ancestors = self.network.closure([number], self._base)
            names = [
                self.network.nodes[number].variable for number in ancestors if not self.network.nodes[number].is_set
            ]
            if any(name in variables for name in names) or len(set(names)) < len(names):
                break
            variables.update(dict.fromkeys(names, number))
            self._base = sorted({*self._base, *ancestors})
        nodes = [number for number in self._base if not self.network.nodes[number].is_set]
        free = [number for number in nodes if number not in self.evidence]
        observed = [number for number in nodes if number in self.evidence]
        if not (
            observed
            and all(map(self._can_tabulate, free))
            and all(has_density(self.dcm.mechanism(self.network.nodes[number].variable)) for number in observed)
            and all(self.network.nodes[number].rule is None for number in self._base)
        ):
            return None
        tables = NetworkTables(self.network, self.evidence, self.cases)
        scopes = [tables.scope(number) for number in nodes]
        latents = sorted({index for number in nodes for index in self.dcm.latents[self.network.nodes[number].variable]})
        steps = elimination(scopes, (), tables.sizes)
        # sampling needs all tables
        if self.cases * max(steps.cells, *map(tables.cells, nodes)) > _LARGEST:
            return None
        pool, log_scale = [], torch.zeros(1, dtype=torch.float64)
        for number in nodes:
            factor, scale = tables.factor(number)
            pool.append(factor)
            log_scale = log_scale + scale
        for index in latents:
            pool.append(RowFactor((("state", index),), self.dcm.priors[index].double().softmax(0)[None]))
        eliminated = eliminate(pool, steps, tables.sizes, rows=self.cases)
        return Eliminated(eliminated.buckets, eliminated.rest, eliminated.log_scale + log_scale)

    def _can_tabulate(self, number: int) -> bool:
        name = self.network.nodes[number].variable
        mechanism = self.dcm.mechanism(name)
        return (
            self.dcm.schema[name].kind == "categorical"
            and has_density(mechanism)
            and (mechanism.can_abduct or name not in self._repeated)
        )

    @torch.no_grad()
    def __call__(self, rows: Tensor, seed: int) -> tuple[Units, Tensor]:
        """Sample rows given the evidence.

        Args:
            rows: Indices of the rows, int64 ``[n]``.
            seed: Seed of their noise.

        Returns:
            The rows of every case, with the values of the evidence and all its ancestors, and their log weights,
            float64 ``[cases * n]``.
        """
        units = Units(self.network, rows, seed, cases=self.cases)
        log_weight = torch.zeros(len(units), dtype=torch.float64)
        if self._exact is not None:
            log_weight += units.in_all_rows(self._exact.log_total)
            self._draw_exactly(units)
        if self._remaining:
            messages = self._messages(units)
            for number in self._remaining:
                self._step(number, units, messages, log_weight)
            for message in messages.values():
                message.close()
        return units, log_weight

    def _draw_exactly(self, units: Units) -> None:
        assert self._exact is not None
        chosen: dict[Hashable, Tensor] = {}

        def uniform(name: Hashable) -> Tensor:
            kind, index = cast("tuple[str, int]", name)
            return _state_uniform(units, index) if kind == "state" else _value_uniform(units, index)

        self._exact.draw(uniform, chosen, units.in_all_rows(torch.arange(self.cases)))
        for number in self._base:
            node = self.network.nodes[number]
            if node.is_set:
                units.set_value(number, units.setting(node))
            elif number in self.evidence:
                units.set_value(number, units.in_all_rows(self.evidence[number]), inferred=True)
            else:
                units.set_value(number, chosen["value", number], inferred=True)
        for name, state in chosen.items():
            kind, index = cast("tuple[str, int]", name)
            if kind == "state":
                units.states[index] = state

    def _messages(self, units: Units) -> dict[int, _Message]:
        members: dict[int, list[int]] = {}
        for index, component in enumerate(self._component):
            members.setdefault(component, []).append(index)
        return {component: _Message(units, indices) for component, indices in members.items()}

    def _step(self, number: int, units: Units, messages: Mapping[int, _Message], log_weight: Tensor) -> None:
        """Compute or condition on a node, with the likelihood of its value added to the weights."""
        node = self.network.nodes[number]
        observed = self._observed_value(units, number)
        latents = self.dcm.latents[node.variable]
        message = messages[self._component[latents[0]]] if latents and not node.is_set else None
        if node.is_set or units.has_copy(node.variable):
            # a set node has no noise, and the noise of a second copy is known
            if message is not None:
                message.close()
            units.compute([number])
            if observed is not None:
                value = units.values[number]
                log_weight[value != observed] = -math.inf
                units.values[number] = _expand(observed, len(units))
            return
        mechanism, parents, rows = self.dcm.mechanism(node.variable), units.parents(node), len(units)
        if message is not None:
            component = self._component[latents[0]]
            if number > self._last.get(component, -1) or number >= self._closing_node.get(component, number + 1):
                message.close()
        if message is None or message.closed:
            if observed is None:
                units.compute([number])
                return
            value = _expand(observed, rows)
            if has_density(mechanism):
                log_weight += log_density(mechanism, parents, units.latents(node.variable), value).double()
            units.set_value(number, value, inferred=True)
            return
        if observed is not None:
            log_weight += message.observe(latents, value_density(mechanism, parents, observed, rows))
            units.set_value(number, _expand(observed, rows), inferred=True)
        else:
            self._draw(number, node, units, message)

    def _observed_value(self, units: Units, number: int) -> Tensor | None:
        """Observed value of a node: None if not observed, one row if the same for all rows."""
        value = self.evidence.get(number)
        return value if value is None or len(value) == 1 else units.in_all_rows(value)

    def _draw(self, number: int, node: Node[Tensor], units: Units, message: _Message) -> None:
        """Sample an unobserved variable given the observed variables of its component so far."""
        latents, mechanism = self.dcm.latents[node.variable], self.dcm.mechanism(node.variable)
        needs_inverse = node.variable in self._repeated and not mechanism.can_abduct
        if self.dcm.schema[node.variable].kind != "categorical" or not has_density(mechanism) or needs_inverse:
            # given the states, the value is sampled as without evidence
            message.close()
            units.compute([number])
            return
        table = level_probabilities(mechanism, units.parents(node), len(units))
        value = message.draw_value(latents, table, _value_uniform(units, number))
        units.set_value(number, value, inferred=True)


class _Message:
    """Distribution of the confounders of a c-component given its observed variables, row by row.

    Args:
        units: The rows.
        indices: The confounders.
    """

    def __init__(self, units: Units, indices: list[int]) -> None:
        self.units = units
        self.closed = False
        self._indices = indices
        self._sizes: dict[Hashable, int] = {i: units.dcm.states[units.dcm.confounders[i]] for i in indices}
        self._factors: list[RowFactor] = []
        # states already sampled from an exact posterior have all their weight on one value
        for index in indices:
            if index in units.states:
                table = torch.nn.functional.one_hot(units.states[index], self._sizes[index]).double()
                self._factors.append(RowFactor((index,), table))
            else:
                self._factors.append(RowFactor((index,), units.dcm.priors[index].double().softmax(0)[None]))
        self._has_evidence = False

    def observe(self, latents: tuple[int, ...], log_table: Tensor) -> Tensor:
        """Condition on a value; return its log density given all earlier values, ``[n]``."""
        top = log_table.flatten(1).amax(1)
        top = torch.where(top.isfinite(), top, torch.zeros_like(top))
        table = (log_table - top.view(-1, *(1,) * len(latents))).exp()
        return self._condition(RowFactor(latents, table)) + top

    def draw_value(self, latents: tuple[int, ...], log_table: Tensor, uniform: Tensor) -> Tensor:
        """Sample a level given all earlier values, condition on it and return it, int64 ``[n]``."""
        table = log_table.exp()
        self._sizes["value"] = table.shape[-1]
        self._factors.append(RowFactor((*latents, "value"), table))
        shares = torch.cat([eliminated.rest.expand(count, -1) for eliminated, _, count in self._eliminated(("value",))])
        self._factors.pop()
        value = draw_index(shares, uniform)
        index = value.view(-1, *(1,) * (table.ndim - 1)).expand(*table.shape[:-1], 1)
        self._condition(RowFactor(latents, table.gather(-1, index).squeeze(-1)))
        return value

    def _condition(self, factor: RowFactor) -> Tensor:
        """Multiply the distribution of the states by a factor; return the logarithm of its mean."""
        self._has_evidence = True
        self._factors.append(factor)
        total = torch.cat([eliminated.log_total.expand(count) for eliminated, _, count in self._eliminated(())])
        share = torch.where(total.isfinite(), (-total).exp(), torch.zeros_like(total))
        self._factors[-1] = RowFactor(factor.scope, factor.table * share.view(-1, *(1,) * len(factor.scope)))
        return total

    def close(self) -> None:
        """Sample the states of the confounders, which are known from then on."""
        if self.closed:
            return
        self.closed = True
        if not self._has_evidence:
            # sampled from the prior on demand, as without evidence
            return
        uniform = {index: _state_uniform(self.units, index) for index in self._indices}
        parts: list[dict[Hashable, Tensor]] = []
        for eliminated, start, count in self._eliminated(()):
            chosen: dict[Hashable, Tensor] = {}
            part = slice(start, start + count)
            eliminated.draw(lambda index, part=part: uniform[cast("int", index)][part], chosen)  # type: ignore[misc]
            parts.append(chosen)
        for index in parts[0]:
            assert isinstance(index, int)
            if index not in self.units.states:
                self.units.states[index] = torch.cat([part[index] for part in parts])

    def _eliminated(self, keep: tuple[Hashable, ...]) -> Iterable[tuple[Eliminated, int, int]]:
        rows = len(self.units)
        steps = elimination([factor.scope for factor in self._factors], keep, self._sizes)
        kept = math.prod(self._sizes[name] for name in keep)
        size = max(1, _ROW_CELLS // max(steps.largest, kept))
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            factors = [
                RowFactor(scope, table if len(table) == 1 else table[start:stop]) for scope, table in self._factors
            ]
            yield eliminate(factors, steps, self._sizes, rows=stop - start), start, stop - start


def _state_uniform(units: Units, index: int) -> Tensor:
    """Numbers in [0, 1) from which the state of a confounder is sampled, as from the prior; float64 ``[n]``."""
    site = len(units.dcm.graph.nodes) + index
    noise = kernels.uniform_noise(units.seed, units.rows, site, kernels.STREAM_CONFOUNDER, 1)
    return units.in_all_cases(noise.squeeze(1))


def _value_uniform(units: Units, number: int) -> Tensor:
    """Numbers in [0, 1) from which the value of a node is sampled; float64 ``[n]``."""
    site = units.dcm.position[units.network.nodes[number].variable]
    noise = kernels.uniform_noise(units.seed, units.rows, site, kernels.STREAM_POSTERIOR, 1)
    return units.in_all_cases(noise.squeeze(1))


def _expand(value: Tensor, rows: int) -> Tensor:
    return value.expand(rows, *value.shape[1:])


def _components(latents: Iterable[tuple[int, ...]], count: int) -> list[int]:
    """Index of each confounder's connected component, where confounders of the same variable are connected."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for group in latents:
        for index in group[1:]:
            parent[root(index)] = root(group[0])
    return [root(index) for index in range(count)]
