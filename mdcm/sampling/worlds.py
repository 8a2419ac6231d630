"""Parallel worlds of a query to a model, and the values of their nodes by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdcm.graph.worlds import Node, ParallelWorlds
from mdcm.mechanisms import float_pixels
from mdcm.mechanisms.placement import abducted, drawn
from mdcm.sampling.settings import Setting

if TYPE_CHECKING:
    from mdcm.dcm import DCM
    from mdcm.mechanisms import Mechanism

__all__ = ["Network", "Units"]


class Network(ParallelWorlds[Tensor]):
    """Parallel worlds of a model; constants are one value or one per row.

    Args:
        dcm: The model.
    """

    def __init__(self, dcm: DCM) -> None:
        super().__init__({name: dcm.parents(name) for name in dcm.order})
        self.dcm = dcm

    def world(self, settings: Mapping[str, Setting]) -> Mapping[str, int]:
        """Node of every variable in the world with these settings; the actual world has none."""
        fixed, rules = {}, {}
        for name, setting in settings.items():
            if isinstance(setting, int):
                fixed[name] = setting
            elif isinstance(setting, Tensor):
                # an array with one value per row is identified by its id, since the node keeps it alive
                key = setting.numpy().tobytes() if len(setting) == 1 else id(setting)
                fixed[name] = self.constant(name, setting, key=key)
            else:
                rules[name] = setting
        return self.world_of(fixed, rules)


class Units:
    """Rows of the model: a state of every confounder and own noise of every variable, shared by all worlds.

    Args:
        network: The nodes.
        rows: Indices of the rows, int64 ``[n]``, by which noise is addressed.
        seed: Seed of the noise.
        noise: Own noise by variable and states by confounder, indexed by row, in place of drawn noise.
        cases: Number of cases, such as values that are set. The rows of the cases follow each other and have the same
            noise; with more than one case, constants with several values have one for each case.

    Attributes:
        values: Values of the computed nodes.
        states: States of the known confounders, by index.
        inferred: Variables that were observed or sampled from the posterior, whose noise is abducted.
    """

    def __init__(
        self,
        network: Network,
        rows: Tensor,
        seed: int,
        noise: Mapping[str, Tensor] | None = None,
        *,
        cases: int = 1,
    ) -> None:
        self.network = network
        self.dcm = network.dcm
        self.rows = rows
        self.seed = seed
        self.cases = cases
        self.values: dict[int, Tensor] = {}
        self.states: dict[int, Tensor] = {}
        self.inferred: set[str] = set()
        self._copies: dict[str, list[int]] = {}
        # values and states that are the same in several cases, by row
        self._common: dict[int, Tensor] = {}
        self._common_states: dict[int, Tensor] = {}
        self._noise = dict(noise or {})
        self._abducted_noise: dict[str, Tensor] = {}
        self._further: tuple[Tensor, int] | None = None
        self._settled: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return self.cases * len(self.rows)

    def in_all_cases(self, value: Tensor) -> Tensor:
        """Repeat values by row for all cases."""
        return value if self.cases == 1 else value.repeat(self.cases, *(1,) * (value.ndim - 1))

    def in_all_rows(self, value: Tensor) -> Tensor:
        """Expand one value, or one per case, to all rows; values by row are indexed by row."""
        if len(value) == 1:
            return value.expand(len(self), *value.shape[1:])
        if self.cases > 1:
            return value.repeat_interleave(len(self.rows), 0)
        # the last block is computed in full, beyond the requested rows
        return value[self.rows.clamp_max(len(value) - 1)]

    def continue_at(self, rows: Tensor, seed: int) -> None:
        """Draw noise not used so far at other rows, so that copies of a row differ."""
        self._settled = frozenset(self._copies)
        self._further = (rows, seed)

    def set_value(self, number: int, value: Tensor, *, inferred: bool = False) -> None:
        """Set the value of a node; the first value of a variable is its factual value."""
        self.values[number] = value
        node = self.network.nodes[number]
        if not node.is_set:
            self._copies.setdefault(node.variable, []).append(number)
            if inferred:
                self.inferred.add(node.variable)

    def has_copy(self, variable: str) -> bool:
        """Whether the variable has been computed in some world, which determines its noise."""
        return variable in self._copies

    def compute(self, nodes: Iterable[int]) -> None:
        """Compute nodes and their ancestors from the noise of the rows."""
        for number in self.network.closure(nodes, self.values):
            node = self.network.nodes[number]
            if node.is_set:
                self.set_value(number, self.setting(node))
                if self.cases > 1 and node.constant is not None and len(node.constant) == 1:
                    value = float_pixels(node.constant)
                    self._common[number] = value.expand(len(self.rows), *value.shape[1:])
            elif self.has_copy(node.variable):
                self.set_value(number, self._again(node))
            elif self.cases > 1 and self._is_common(node):
                states = [self._common_states[index] for index in self.dcm.latents[node.variable]]
                names = self.dcm.parents(node.variable)
                parents = {name: self._common[parent] for name, parent in zip(names, node.parents, strict=True)}
                value = drawn(self.mechanism(node), parents, states, self._fresh_noise(node.variable))
                self._common[number] = value
                self.set_value(number, self.in_all_cases(value))
            else:
                parents, noise = self.parents(node), self.own_noise(node.variable)
                self.set_value(number, drawn(self.mechanism(node), parents, self.latents(node.variable), noise))

    def _is_common(self, node: Node[Tensor]) -> bool:
        """Whether a node that is not yet computed has the same value in all cases."""
        for index in self.dcm.latents[node.variable]:
            self.state(index)
        return all(parent in self._common for parent in node.parents) and all(
            index in self._common_states for index in self.dcm.latents[node.variable]
        )

    def setting(self, node: Node[Tensor]) -> Tensor:
        """Value of a node that is set."""
        if node.rule is not None:
            value: Tensor = node.rule(self.values[node.parents[0]])
            return value
        assert node.constant is not None
        return float_pixels(self.in_all_rows(node.constant))

    def _again(self, node: Node[Tensor]) -> Tensor:
        """Value of a variable in a further world; rows whose parents are all equal keep the earlier value."""
        result: Tensor | None = None
        open_rows = torch.ones(len(self), dtype=torch.bool)
        for earlier in self._copies[node.variable]:
            same = open_rows.clone()
            for parent, other in zip(node.parents, self.network.nodes[earlier].parents, strict=True):
                if parent != other:
                    equal = self.values[parent] == self.values[other]
                    same &= equal.flatten(1).all(1) if equal.ndim > 1 else equal
            value = self.values[earlier]
            result = value if result is None else torch.where(_like(same, value), value, result)
            open_rows &= ~same
            if not bool(open_rows.any()):
                break
        assert result is not None
        if not bool(open_rows.any()):
            return result
        parents, latents = self.parents(node), self.latents(node.variable)
        noise = self.own_noise(node.variable)
        if self.dcm.schema[node.variable].kind != "image":
            # compute all rows together, so that the bits of a row do not depend on the other rows
            value = drawn(self.mechanism(node), parents, latents, noise)
            return torch.where(_like(open_rows, value), value, result)
        chosen = torch.nonzero(open_rows).squeeze(1)
        picked = {name: value[chosen] for name, value in parents.items()}
        value = drawn(self.mechanism(node), picked, [state[chosen] for state in latents], noise[chosen])
        return result.index_copy(0, chosen, value)

    def mechanism(self, node: Node[Tensor]) -> Mechanism:
        """Mechanism of a node's variable."""
        return self.dcm.mechanism(node.variable)

    def parents(self, node: Node[Tensor]) -> dict[str, Tensor]:
        """Values of a node's parents by name."""
        names = self.dcm.parents(node.variable)
        return {name: self.values[number] for name, number in zip(names, node.parents, strict=True)}

    def latents(self, variable: str) -> list[Tensor]:
        """State of every confounder of a variable, drawn from its prior unless already known."""
        return [self.state(index) for index in self.dcm.latents[variable]]

    def state(self, index: int) -> Tensor:
        """State of a confounder, by its index."""
        if index not in self.states:
            fixed = self._noise.get(self.dcm.confounders[index])
            rows, seed = self._further or (self.rows, self.seed)
            state = self._of_rows(fixed) if fixed is not None else self.dcm.confounder_states(index, rows, seed)
            self._common_states[index] = state
            self.states[index] = self.in_all_cases(state)
        return self.states[index]

    def own_noise(self, variable: str) -> Tensor:
        """Own noise of a variable: at its address, or abducted from its observed value."""
        if variable in self._abducted_noise:
            return self._abducted_noise[variable]
        noise = self.in_all_cases(self._fresh_noise(variable))
        if variable in self.inferred:
            first = self._copies[variable][0]
            node = self.network.nodes[first]
            noise = abducted(
                self.mechanism(node), self.parents(node), self.latents(variable), self.values[first], noise
            )
            self._abducted_noise[variable] = noise
        return noise

    def _fresh_noise(self, variable: str) -> Tensor:
        """Own noise of a variable at its address, by row."""
        if variable in self._noise:
            return self._of_rows(self._noise[variable])
        further = self._further if variable not in self._settled else None
        rows, seed = further or (self.rows, self.seed)
        return self.dcm.own_noise(variable, rows, seed)

    def _of_rows(self, values: Tensor) -> Tensor:
        return values[self.rows.clamp_max(len(values) - 1)]


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (value.ndim - 1))
