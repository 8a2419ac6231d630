"""Conditional independences that a graph implies, for each separable pair of variables."""

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
        y: Name of the later variable.
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
    """Yield an independence for each pair of observed variables that observed variables separate in the graph.

    In each pair, y is later in topological order. The separating set consists of those members of y's Markov blanket
    among the ancestors of the pair that a path from x reaches first; it is minimal. In a DAG whose variables are all
    observed it consists of parents of y, so the list implies, by the rules of compositional graphoids, the ordered
    Markov property and with it every independence of the graph. Two variables without an edge may be inseparable, by
    an inducing path; the graph implies no independence of them.

    Args:
        graph: The graph.
        columns: Names of the observed variables; all of them by default.
        do: Variables set by intervention. Edges into them are removed. The experimenter chooses their joint
            distribution, so they count as dependent on each other, and pairs among them are left out.

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
        >>> list(map(str, implied_independences(ADMG.from_string("A -> B -> C; A -> D <- C; B <-> D"))))
        ['A ⊥ C | B']
        >>> list(map(str, implied_independences(ADMG.from_string("X -> Z -> Y; X <-> Y"), do=["X"])))
        ['X ⊥ Y | Z']
    """
    separators = Separators(graph, graph.nodes if columns is None else columns, do)
    for later in range(len(separators.columns)):
        for earlier in range(later):
            independence = separators.independence(earlier, later)
            if independence is not None:
                yield independence


def implies_nothing(graph: ADMG, targets: Collection[str] = ()) -> bool:
    """Whether a sufficient condition shows that a graph allows every distribution of its variables.

    The condition: every variable either has arrows to all later variables in topological order, or shares a single
    hidden cause with those to which it has no arrow, and this cause can determine how the variable responds to its
    parents. Then each variable can be any function of all earlier variables. If the condition fails, the graph usually
    implies a constraint: an independence, an equality of Verma's kind or an inequality.

    Args:
        graph: The graph, of observed variables only, without edges into the targets.
        targets: Variables whose distribution is set by an experiment.

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
        no_arrow = later - graph.children(name)
        if name in targets:
            no_arrow -= set(targets)
        if no_arrow and not any(no_arrow <= members for members in shared[name]):
            return False
    return True


class Separators:
    """Separating sets in the moral graph of a pair's ancestors, with confounders as hidden nodes.

    A set of ancestors m-separates a pair if and only if it blocks every path in that graph, and every separable pair
    is separated by some set of ancestors. The moral graph is never built: two nodes are neighbours if they belong to
    the same family, which is a node with its parents and confounders.
    """

    def __init__(self, graph: ADMG, columns: Collection[str], do: Collection[str]) -> None:
        cut = graph.intervene(do)
        self.graph = graph
        observed = {graph.index(name) for name in columns}
        # in topological order, so that the larger of two positions is the later variable
        self.columns = [v for v in map(graph.index, cut.topological_order()) if v in observed]
        self._observed = observed
        self._parents = [sorted(map(graph.index, cut.parents(name))) for name in graph.nodes]
        hidden = [children for _, children in cut.confounders]
        if len(do) > 1:
            hidden.append(tuple(do))
        n = len(graph.nodes)
        self._families: list[list[int]] = [[v, *parents] for v, parents in enumerate(self._parents)]
        # families to which a node belongs, each identified by the child
        self._families_of: list[list[int]] = [[v] for v in range(n)] + [[] for _ in hidden]
        for v, parents in enumerate(self._parents):
            for parent in parents:
                self._families_of[parent].append(v)
        for k, children in enumerate(hidden, start=n):
            for child in map(graph.index, children):
                self._families[child].append(k)
                self._families_of[k].append(child)

    def independence(self, earlier: int, later: int) -> Independence | None:
        """The independence of the pair at two positions of ``columns``; None if it is adjacent or inseparable."""
        x, y = self.columns[earlier], self.columns[later]
        if x in self._parents[y]:
            return None
        ancestors = self._ancestors(x, y)
        blanket = self._reach(y, self._observed, ancestors)
        if x in blanket:
            return None
        given = sorted(self._reach(x, blanket, ancestors))
        nodes = self.graph.nodes
        return Independence(nodes[x], nodes[y], tuple(nodes[v] for v in given))

    def adjacent(self, earlier: int, later: int) -> bool:
        """Whether an edge or a confounder joins the pair."""
        x, y = self.columns[earlier], self.columns[later]
        n = len(self.graph.nodes)
        hidden = {u for u in self._families[y] if u >= n}
        return x in self._parents[y] or not hidden.isdisjoint(self._families[x])

    def _ancestors(self, x: int, y: int) -> set[int]:
        ancestors, pending = {x, y}, [x, y]
        while pending:
            for parent in self._parents[pending.pop()]:
                if parent not in ancestors:
                    ancestors.add(parent)
                    pending.append(parent)
        return ancestors

    def _reach(self, start: int, stops: Collection[int], ancestors: set[int]) -> set[int]:
        """Members of ``stops`` that paths from ``start`` in the moral graph of ``ancestors`` reach first."""
        reached, seen, families, pending = set(), {start}, set(), [start]
        while pending:
            for family in self._families_of[pending.pop()]:
                if family not in ancestors or family in families:
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
