"""Parallel worlds of a query: every variable under every set of interventions, with equal copies merged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Node", "ParallelWorlds"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Node(Generic[Value]):
    """A variable in all worlds in which it has the same parents.

    Attributes:
        variable: Its name.
        parents: Nodes of its parents, in their given order; for a rule, the node of the natural value.
        constant: Value to which it is set, or None.
        rule: Function of the natural value by which it is set, or None.
    """

    variable: str
    parents: tuple[int, ...] = ()
    constant: Value | None = None
    rule: Callable[..., Any] | None = None

    @property
    def is_set(self) -> bool:
        """Whether the value is set rather than computed by a mechanism."""
        return self.constant is not None or self.rule is not None


class ParallelWorlds(Generic[Value]):
    """Nodes of all worlds of a query.

    Copies of a variable with the same parent nodes are merged to one node, since they are the same function of the
    same arguments. Nodes are numbered with parents before children and worlds in the order of their creation. The
    world without interventions is the actual world.

    Args:
        parents: Parents of every variable, variables in topological order.

    References:
        Shpitser & Pearl (2008), Complete identification methods for the causal hierarchy, lemma 24 (copies merge if
        their parents are the same).

    Example:
        >>> worlds = ParallelWorlds({"X": [], "M": ["X"], "W": [], "Y": ["M", "W"]})
        >>> actual = worlds.world_of({})
        >>> other = worlds.world_of({"X": worlds.constant("X", 1, key=1)})
        >>> actual["W"] == other["W"], actual["Y"] == other["Y"]
        (True, False)
    """

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        self.parents = parents
        self.nodes: list[Node[Value]] = []
        self._known: dict[Hashable, int] = {}
        self._worlds: dict[Hashable, dict[str, int]] = {}

    def constant(self, variable: str, value: Value, *, key: Hashable) -> int:
        """Node of a variable that is set to a value; equal keys are equal values."""
        return self._add((variable, "constant", key), Node(variable, constant=value))

    def world_of(
        self, fixed: Mapping[str, int], rules: Mapping[str, Callable[..., Any]] | None = None
    ) -> Mapping[str, int]:
        """Node of every variable in the world with some interventions.

        Args:
            fixed: Nodes that replace variables: constants, or nodes of other worlds.
            rules: Functions of the natural value that replace variables.
        """
        rules = rules or {}
        key = frozenset(fixed.items()), frozenset((name, id(rule)) for name, rule in rules.items())
        world = self._worlds.get(key)
        if world is None:
            world = self._worlds[key] = dict(fixed)
            for variable, parents in self.parents.items():
                if variable in fixed:
                    continue
                number = world[variable] = self._function(variable, tuple(world[parent] for parent in parents))
                if variable in rules:
                    node = Node[Value](variable, (number,), rule=rules[variable])
                    world[variable] = self._add((variable, "rule", number, id(rules[variable])), node)
        return world

    @property
    def worlds(self) -> Iterable[Mapping[str, int]]:
        """Node of every variable, by world, in the order of their creation."""
        return self._worlds.values()

    def is_natural(self, world: Mapping[str, int], name: str) -> bool:
        """Whether the value of a variable in a world is computed by its mechanism there."""
        node = self.nodes[world[name]]
        return not node.is_set and node.parents == tuple(world[parent] for parent in self.parents[name])

    def natural(self, world: Mapping[str, int], name: str) -> int:
        """Node of the natural value of a variable in a world: its value if it were not set there."""
        return self._function(name, tuple(world[parent] for parent in self.parents[name]))

    def closure(self, nodes: Iterable[int], done: Collection[int] = ()) -> list[int]:
        """Nodes and their ancestors, without those in ``done``, parents first."""
        needed: set[int] = set()
        pending = list(nodes)
        while pending:
            number = pending.pop()
            if number in needed or number in done:
                continue
            needed.add(number)
            pending.extend(self.nodes[number].parents)
        return sorted(needed)

    def copies(self, nodes: Iterable[int]) -> dict[str, list[int]]:
        """Nodes that are not set, by variable."""
        by_variable: dict[str, list[int]] = {}
        for number in nodes:
            if not self.nodes[number].is_set:
                by_variable.setdefault(self.nodes[number].variable, []).append(number)
        return by_variable

    def repeated(self, nodes: Iterable[int]) -> set[str]:
        """Variables of which several nodes occur among the given ones."""
        return {variable for variable, numbers in self.copies(nodes).items() if len(numbers) > 1}

    def _function(self, variable: str, parents: tuple[int, ...]) -> int:
        return self._add((variable, parents), Node(variable, parents))

    def _add(self, key: Hashable, node: Node[Value]) -> int:
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return number
