"""The independences that a graph implies, one per pair of variables that can be separated."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mdcm.graph import ADMG

__all__ = ["Independence", "Separators", "implied_independences", "implies_nothing"]


@dataclass(frozen=True)
class Independence:
    """A statement that a graph implies: x and y are independent given the variables in ``given``.

    Attributes:
        x: Name of the variable that is earlier in topological order.
        y: Name of the later one.
        given: Names of the separating variables, in the order of the graph's nodes.

    Example:
        >>> str(Independence("X", "Y", ("Z",)))
        'X ⊥ Y | Z'
    """

    x: str
    y: str
    given: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.x} ⊥ {self.y}" + (f" | {', '.join(self.given)}" if self.given else "")


def implied_independences(
    graph: ADMG, columns: Collection[str] | None = None, *, do: Collection[str] = ()
) -> Iterator[Independence]:
    """One independence per pair of observed variables that the graph separates by observed variables.

    Of the pair, y is the later in topological order. The separating set is what remains of y's Markov blanket among
    the ancestors of the pair when only those members are kept that a path from x reaches first. No member can be
    left out of it. In a DAG whose variables are all observed it consists of parents of y, so the list implies, by the
    rules of compositional graphoids, the ordered Markov property and with it every independence of the graph. Two
    variables may have no edge and yet be inseparable, by an inducing path; the graph implies no independence of them.

    Args:
        graph: The graph.
        columns: Names of the observed variables; all of them by default.
        do: Variables set by intervention. Edges into them are removed. How several were set together is the
            experimenter's choice, so pairs among them are left out, and others are conditioned on where that matters.

    Yields:
        Independences, in the order of the later and then the earlier variable.

    Raises:
        GraphError: If a name is unknown.

    Complexity:
        O(nodes + edges) among the ancestors of each pair.

    References:
        Richardson (2003), Markov properties for acyclic directed mixed graphs, section 3;
        Sadeghi & Lauritzen (2014), Markov properties for mixed graphs (compositional graphoids);
        van der Zander, Liśkiewicz & Textor (2019), Separators and adjustment sets in causal graphs.

    Example:
        >>> [str(one) for one in implied_independences(ADMG.from_string("A -> B -> C; A -> D <- C; B <-> D"))]
        ['A ⊥ C | B']
        >>> [str(one) for one in implied_independences(ADMG.from_string("X -> Z -> Y; X <-> Y"), do=["X"])]
        ['X ⊥ Y | Z']
    """
    separators = Separators(graph, graph.nodes if columns is None else columns, do)
    for later in range(len(separators.columns)):
        for earlier in range(later):
            found = separators.independence(earlier, later)
            if found is not None:
                yield found


def implies_nothing(graph: ADMG, targets: Collection[str] = ()) -> bool:
    """Whether it is plain that a graph allows every distribution of its variables.

    It is if every variable is known to all later ones, in topological order: by arrows to them, or by one hidden cause
    that fixes how it answers its own causes. Then each can be any function of all before it. Where it is not plain, the
    graph usually implies something: an independence, an equality of Verma's kind or an inequality.

    Args:
        graph: The graph, of observed variables alone, without edges into the targets.
        targets: Variables whose distribution is set, in whatever way.

    References:
        Evans (2016), Graphs for margins of Bayesian networks.

    Example:
        >>> implies_nothing(ADMG.from_string("X -> Z -> Y; X <-> Y"))
        True
        >>> implies_nothing(ADMG.from_string("Z -> X -> Y; X <-> Y"))
        False
        >>> implies_nothing(ADMG.from_string("X <-> Y; Y <-> Z; Z <-> X"))
        False
    """
    order = graph.topological_order()
    shared: dict[str, list[set[str]]] = {name: [] for name in order}
    for _, children in graph.confounders:
        for child in children:
            shared[child].append(set(children))
    later = set(order)
    for name in order:
        later.discard(name)
        apart = later - graph.children(name)
        if name in targets:
            apart -= set(targets)
        if apart and not any(apart <= members for members in shared[name]):
            return False
    return True


class Separators:
    """Separating sets in the moral graph of a pair's ancestors, where confounders are hidden nodes.

    A set of ancestors m-separates a pair if and only if it cuts every path in that graph, and a pair that can be
    separated can be so by ancestors. The moral graph is never built: two nodes are neighbours if they belong to one
    family, which is a node with its parents and confounders.
    """

    def __init__(self, graph: ADMG, columns: Collection[str], do: Collection[str]) -> None:
        cut = graph.intervene(do)
        self.graph = graph
        observed = {graph.index(name) for name in columns}
        # in topological order, so that of two places the larger is the later variable
        self.columns = [v for v in map(graph.index, cut.topological_order()) if v in observed]
        self._observed = observed
        self._parents = [sorted(map(graph.index, cut.parents(name))) for name in graph.nodes]
        hidden = [children for _, children in cut.confounders]
        if len(do) > 1:
            hidden.append(tuple(do))
        n = len(graph.nodes)
        self._families: list[list[int]] = [[v, *parents] for v, parents in enumerate(self._parents)]
        # families that a node belongs to, by the node that each is named after
        self._member: list[list[int]] = [[v] for v in range(n)] + [[] for _ in hidden]
        for v, parents in enumerate(self._parents):
            for parent in parents:
                self._member[parent].append(v)
        for k, children in enumerate(hidden, start=n):
            for child in map(graph.index, children):
                self._families[child].append(k)
                self._member[k].append(child)

    def independence(self, earlier: int, later: int) -> Independence | None:
        """The pair at two places of ``columns``, or None if it is adjacent or cannot be separated."""
        x, y = self.columns[earlier], self.columns[later]
        if x in self._parents[y]:
            return None
        within = self._ancestors(x, y)
        blanket = self._reach(y, self._observed, within)
        if x in blanket:
            return None
        given = sorted(self._reach(x, blanket, within))
        nodes = self.graph.nodes
        return Independence(nodes[x], nodes[y], tuple(nodes[v] for v in given))

    def adjacent(self, earlier: int, later: int) -> bool:
        """Whether an edge or a confounder joins the pair."""
        x, y = self.columns[earlier], self.columns[later]
        n = len(self.graph.nodes)
        hidden = {u for u in self._families[y] if u >= n}
        return x in self._parents[y] or not hidden.isdisjoint(self._families[x])

    def _ancestors(self, x: int, y: int) -> set[int]:
        found, pending = {x, y}, [x, y]
        while pending:
            for parent in self._parents[pending.pop()]:
                if parent not in found:
                    found.add(parent)
                    pending.append(parent)
        return found

    def _reach(self, start: int, stops: Collection[int], within: set[int]) -> set[int]:
        """The stops that moral paths from the start reach first."""
        reached, seen, families, pending = set(), {start}, set(), [start]
        while pending:
            for family in self._member[pending.pop()]:
                if family not in within or family in families:
                    continue
                families.add(family)
                for v in self._families[family]:
                    if v in seen:
                        continue
                    seen.add(v)
                    if v in stops:
                        reached.add(v)
                    else:
                        pending.append(v)
        return reached
