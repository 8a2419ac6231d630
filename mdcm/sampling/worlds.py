"""The variables of all worlds of a question that are not known to be equal, and their values row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdcm.mechanisms import float_pixels
from mdcm.sampling.places import abducted, drawn
from mdcm.sampling.settings import Rule, Setting

if TYPE_CHECKING:
    from mdcm.dcm import DCM
    from mdcm.mechanisms import Mechanism

__all__ = ["Network", "Node", "Units"]


@dataclass(frozen=True)
class Node:
    """A variable in the worlds in which its parents are the same.

    Attributes:
        variable: Its name.
        parents: Nodes of its parents, in the order of the mechanism; of the natural value for a rule.
        constant: What it is set to, one row or one per row, or None.
        rule: Function of the natural value by which it is set, or None.
    """

    variable: str
    parents: tuple[int, ...] = ()
    constant: Tensor | None = None
    rule: Rule | None = None

    @property
    def is_set(self) -> bool:
        """Whether no mechanism gives its value."""
        return self.constant is not None or self.rule is not None


class Network:
    """The nodes of all worlds of a question.

    Two variables of the same name whose parents are the same nodes are one node, since they are the same function of
    the same arguments. Nodes are numbered so that parents come before children, and worlds in the order in which they
    were asked for.

    Args:
        dcm: The model.
    """

    def __init__(self, dcm: DCM) -> None:
        self.dcm = dcm
        self.nodes: list[Node] = []
        self._known: dict[object, int] = {}
        self._worlds: dict[object, dict[str, int]] = {}

    def world(self, settings: Mapping[str, Setting]) -> Mapping[str, int]:
        """Node of every variable in the world in which ``settings`` hold; no settings for the actual world."""
        fixed = {
            name: setting if isinstance(setting, int) else self._constant(name, setting)
            for name, setting in settings.items()
            if isinstance(setting, int | Tensor)
        }
        rules = {name: one for name, one in settings.items() if not isinstance(one, int | Tensor)}
        key = frozenset(fixed.items()), frozenset((name, id(rule)) for name, rule in rules.items())
        world = self._worlds.get(key)
        if world is None:
            world = self._worlds[key] = dict(fixed)
            for variable in self.dcm.order:
                if variable in fixed:
                    continue
                parents = tuple(world[parent] for parent in self.dcm.parents(variable))
                world[variable] = self._add((variable, parents), Node(variable, parents))
                if variable in rules:
                    natural = world[variable]
                    node = Node(variable, (natural,), rule=rules[variable])
                    world[variable] = self._add((variable, natural, id(rules[variable])), node)
        return world

    @property
    def worlds(self) -> Iterable[Mapping[str, int]]:
        """Node of every variable, by world, in the order in which the worlds were asked for."""
        return self._worlds.values()

    def is_natural(self, world: Mapping[str, int], name: str) -> bool:
        """Whether a variable has, in a world, the value that its own mechanism gives it there."""
        node = self.nodes[world[name]]
        return not node.is_set and node.parents == tuple(world[parent] for parent in self.dcm.parents(name))

    def natural(self, world: Mapping[str, int], name: str) -> int:
        """Node of the value that a variable would have in a world, were it not set there."""
        parents = tuple(world[parent] for parent in self.dcm.parents(name))
        return self._add((name, parents), Node(name, parents))

    def _constant(self, name: str, value: Tensor) -> int:
        # an array per row is known by its identity, which the node keeps alive
        key = (name, value.numpy().tobytes()) if len(value) == 1 else (name, id(value), "rows")
        return self._add(key, Node(name, constant=value))

    def _add(self, key: object, node: Node) -> int:
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return number

    def closure(self, nodes: Iterable[int], done: Collection[int] = ()) -> list[int]:
        """Nodes and all that they depend on, without those in ``done``, parents first."""
        needed: set[int] = set()
        pending = list(nodes)
        while pending:
            number = pending.pop()
            if number in needed or number in done:
                continue
            needed.add(number)
            pending.extend(self.nodes[number].parents)
        return sorted(needed)


class Units:
    """Rows of the model: one state of every confounder and one own noise of every variable, whatever the world.

    Args:
        network: The nodes.
        rows: Numbers of the rows, int64 ``[n]``, at which noise is addressed.
        seed: Seed of the noise.
        noise: Own noise by variable and states by confounder that are given, addressed by row number.
        cases: Number of cases, such as values that are set: each has all the rows, with the same noise, and comes after
            the one before. With more than one, what is set to several values has one for each case.

    Attributes:
        values: Value of every node that was computed.
        states: State of every confounder that was drawn, by its index.
        inferred: Variables whose value was seen or drawn, so that their own noise follows from it.
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
        self._noise = dict(noise or {})
        self._own: dict[str, Tensor] = {}
        self._further: tuple[Tensor, int] | None = None
        self._settled: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return self.cases * len(self.rows)

    def in_all_cases(self, value: Tensor) -> Tensor:
        """What differs from row to row, for the rows of all cases."""
        return value if self.cases == 1 else value.repeat(self.cases, *(1,) * (value.ndim - 1))

    def in_all_rows(self, value: Tensor) -> Tensor:
        """What all rows of a case have in common, given once or case by case, for all rows; else by number of row."""
        if len(value) == 1:
            return value.expand(len(self), *value.shape[1:])
        if self.cases > 1:
            return value.repeat_interleave(len(self.rows), 0)
        # the last block is computed whole, beyond the rows that were asked for
        return value[self.rows.clamp_max(len(value) - 1)]

    def continue_at(self, rows: Tensor, seed: int) -> None:
        """Address all noise that has had no part in the rows so far by other rows, so that copies of a row differ."""
        self._settled = frozenset(self._copies)
        self._further = (rows, seed)

    def set_value(self, number: int, value: Tensor, *, inferred: bool = False) -> None:
        """Note the value of a node; the first one of a variable stands for its factual value."""
        self.values[number] = value
        node = self.network.nodes[number]
        if not node.is_set:
            self._copies.setdefault(node.variable, []).append(number)
            if inferred:
                self.inferred.add(node.variable)

    def has_copy(self, variable: str) -> bool:
        """Whether the variable has been computed in some world, which fixes its noise."""
        return variable in self._copies

    def compute(self, nodes: Iterable[int]) -> None:
        """Values of nodes and of what they depend on, from the rows' own noise."""
        for number in self.network.closure(nodes, self.values):
            node = self.network.nodes[number]
            if node.is_set:
                self.set_value(number, self.setting(node))
            elif self.has_copy(node.variable):
                self.set_value(number, self._again(node))
            else:
                parents, noise = self.parents(node), self.own_noise(node.variable)
                self.set_value(number, drawn(self.mechanism(node), parents, self.latents(node.variable), noise))

    def setting(self, node: Node) -> Tensor:
        """Value of a node that is set."""
        if node.rule is not None:
            return node.rule(self.values[node.parents[0]])
        assert node.constant is not None
        return float_pixels(self.in_all_rows(node.constant))

    def _again(self, node: Node) -> Tensor:
        """Value of a variable in a further world; where a parent differs in no way, the earlier value itself."""
        result: Tensor | None = None
        open_rows = torch.ones(len(self), dtype=torch.bool)
        for earlier in self._copies[node.variable]:
            before = self.network.nodes[earlier].parents
            same = open_rows.clone()
            for own, other in zip(node.parents, before, strict=True):
                if own != other:
                    same &= (
                        (self.values[own] == self.values[other]).flatten(1).all(1)
                        if (self.values[own].ndim > 1)
                        else self.values[own] == self.values[other]
                    )
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
            # all rows together: rows that differ in nothing else get the same bits in any mixture
            value = drawn(self.mechanism(node), parents, latents, noise)
            return torch.where(_like(open_rows, value), value, result)
        chosen = torch.nonzero(open_rows).squeeze(1)
        picked = {name: value[chosen] for name, value in parents.items()}
        value = drawn(self.mechanism(node), picked, [state[chosen] for state in latents], noise[chosen])
        return result.index_copy(0, chosen, value)

    def mechanism(self, node: Node) -> Mechanism:
        """Mechanism of a node's variable."""
        return self.dcm.mechanism(node.variable)

    def parents(self, node: Node) -> dict[str, Tensor]:
        """Values of a node's parents by name."""
        names = self.dcm.parents(node.variable)
        return {name: self.values[number] for name, number in zip(names, node.parents, strict=True)}

    def latents(self, variable: str) -> list[Tensor]:
        """State of every confounder of a variable, drawn from its prior where it has not been drawn yet."""
        return [self.state(index) for index in self.dcm.latents[variable]]

    def state(self, index: int) -> Tensor:
        """State of one confounder."""
        if index not in self.states:
            given = self._noise.get(self.dcm.confounders[index])
            rows, seed = self._further or (self.rows, self.seed)
            drawn = self._of_rows(given) if given is not None else self.dcm.confounder_states(index, rows, seed)
            self.states[index] = self.in_all_cases(drawn)
        return self.states[index]

    def own_noise(self, variable: str) -> Tensor:
        """Own noise of a variable: at its address, or in keeping with the value that was seen."""
        if variable in self._own:
            return self._own[variable]
        if variable in self._noise:
            found = self._of_rows(self._noise[variable])
        else:
            further = self._further if variable not in self._settled else None
            rows, seed = further or (self.rows, self.seed)
            found = self.dcm.own_noise(variable, rows, seed)
        found = self.in_all_cases(found)
        if variable in self.inferred:
            first = self._copies[variable][0]
            node = self.network.nodes[first]
            found = abducted(
                self.mechanism(node), self.parents(node), self.latents(variable), self.values[first], found
            )
            self._own[variable] = found
        return found

    def _of_rows(self, given: Tensor) -> Tensor:
        return given[self.rows.clamp_max(len(given) - 1)]


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (value.ndim - 1))


def copied(network: Network, nodes: Sequence[int]) -> set[str]:
    """Variables that occur in more than one world among nodes."""
    seen: set[str] = set()
    twice: set[str] = set()
    for number in nodes:
        node = network.nodes[number]
        if not node.is_set:
            (twice if node.variable in seen else seen).add(node.variable)
    return twice
