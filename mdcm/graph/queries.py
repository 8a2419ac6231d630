"""Queries of a compiled graph by name: relatives, components, separation and the rules of the do-calculus."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from mdcm._core import Admg, ModularityClosure
from mdcm.errors import GraphError
from mdcm.graph.edges import Edge, fresh_name, name_pairs, suggestion

__all__ = ["GraphQueries", "Names"]

Names = str | Iterable[str]


class GraphQueries:
    """A compiled graph with names: the part of :class:`mdcm.ADMG` that answers queries.

    Attributes:
        nodes: Names of the observed variables, in insertion order.
        latents: Pairs (name, children) of the named latents, in insertion order.
    """

    __slots__ = (
        "_bidirected", "_closure", "_confounders", "_core", "_directed", "_ends", "_index", "latents", "nodes",
    )  # fmt: skip

    nodes: tuple[str, ...]
    latents: tuple[tuple[str, tuple[str, ...]], ...]
    _index: dict[str, int]
    _core: Admg
    # edges of a projection are stored as integers, tails and heads of both kinds, and named on request
    _directed: tuple[Edge, ...] | None
    _bidirected: tuple[Edge, ...] | None
    _ends: tuple[NDArray[np.int32], ...]
    _confounders: tuple[tuple[str, tuple[str, ...]], ...] | None
    _closure: ModularityClosure | None

    @property
    def compiled(self) -> Admg:
        """The compiled graph, whose methods take and return node indices, positions in :attr:`nodes`.

        Arrays of type int32 are passed without a copy; results are new arrays or read-only views.

        Example:
            >>> from mdcm import ADMG
            >>> ADMG.from_string("D -> I -> A; D <-> A").compiled.c_components()
            array([0, 1, 0], dtype=int32)
        """
        return self._core

    # ------------------------------------------------------------------ structure

    @property
    def directed(self) -> tuple[Edge, ...]:
        """Directed edges as pairs of names, in insertion order."""
        if self._directed is None:
            self._directed = name_pairs(self.nodes, *self._ends[:2])
        return self._directed

    @property
    def bidirected(self) -> tuple[Edge, ...]:
        """Bidirected edges as pairs of names, in insertion order, without the named latents."""
        if self._bidirected is None:
            self._bidirected = name_pairs(self.nodes, *self._ends[2:])
        return self._bidirected

    @property
    def confounders(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every hidden confounder as (name, children): the named latents, then one per bidirected edge.

        A bidirected edge's confounder is called ``U[A,B]``, with primes added if that name is taken. The order
        is the insertion order of the latents and of the bidirected edges.
        """
        if self._confounders is None:
            taken = {*self.nodes, *(name for name, _ in self.latents)}
            pairs = tuple((fresh_name(pair, taken), pair) for pair in self.bidirected)
            self._confounders = self.latents + pairs
        return self._confounders

    def index(self, name: str) -> int:
        """Position of a name in :attr:`nodes`.

        Args:
            name: The name.

        Returns:
            The position, from 0.

        Raises:
            GraphError: If there is no such node.
        """
        return self._indices(name)[0]

    def parents(self, names: Names) -> set[str]:
        """Parents of a node, or of any member of a set of nodes (members included where they are parents).

        Args:
            names: A name, or several.

        Returns:
            The names of the parents.
        """
        return {self.nodes[p] for v in self._indices(names) for p in self._core.parents(v).tolist()}

    def children(self, names: Names) -> set[str]:
        """Children of a node, or of any member of a set of nodes.

        Args:
            names: A name, or several.

        Returns:
            The names of the children.
        """
        return {self.nodes[c] for v in self._indices(names) for c in self._core.children(v).tolist()}

    def siblings(self, names: Names) -> set[str]:
        """Nodes that share a hidden confounder with a node, or with any member of a set of nodes.

        Args:
            names: A name, or several.

        Returns:
            The names of the siblings.
        """
        return {self.nodes[s] for v in self._indices(names) for s in self._core.siblings(v).tolist()}

    def ancestors(self, names: Names) -> set[str]:
        """Ancestors of the given nodes, these included.

        Args:
            names: A name, or several.

        Returns:
            The names of the ancestors.

        Complexity:
            O(nodes + edges among the ancestors).
        """
        return self._named(self._core.ancestors(self._indices(names)))

    def descendants(self, names: Names) -> set[str]:
        """Descendants of the given nodes, these included.

        Args:
            names: A name, or several.

        Returns:
            The names of the descendants.

        Complexity:
            O(nodes + edges among the descendants).
        """
        return self._named(self._core.descendants(self._indices(names)))

    def topological_order(self) -> tuple[str, ...]:
        """Topological order by Kahn's algorithm; insertion order breaks ties.

        Returns:
            The names in that order.
        """
        return tuple(self.nodes[v] for v in self._core.topological_order.tolist())

    def c_components(self) -> list[set[str]]:
        """Maximal sets of nodes that hidden confounders connect, also called districts.

        Returns:
            The sets, ordered by their first member in topological order.

        Complexity:
            O(nodes + bidirected edges + children of latents).

        References:
            Tian & Pearl (2002), A general identification condition for causal effects.

        Example:
            >>> from mdcm import ADMG
            >>> [sorted(part) for part in ADMG.from_string("D -> I -> A; D <-> A").c_components()]
            [['A', 'D'], ['I']]
        """
        labels = self._core.c_components().tolist()
        parts: list[set[str]] = [set() for _ in range(max(labels, default=-1) + 1)]
        for name, label in zip(self.nodes, labels, strict=True):
            parts[label].add(name)
        return parts

    # ------------------------------------------------------------------ separation and do-calculus

    def m_separated(self, x: Names, y: Names, given: Names = ()) -> bool:
        """Whether conditioning on ``given`` blocks every path between ``x`` and ``y``.

        Args:
            x: Names.
            y: Names, none of them in ``x``.
            given: Names, none of them in ``x`` or ``y``.

        Returns:
            True if the graph implies that x and y are independent given ``given``.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        Complexity:
            O(nodes + edges), one breadth-first search.

        References:
            Richardson (2003), Markov properties for acyclic directed mixed graphs, section 2.1.

        Example:
            >>> from mdcm import ADMG
            >>> ADMG.from_string("X -> Z <- Y").m_separated("X", "Y")
            True
        """
        # one set of all indices is cheaper than a search for the overlap, which is rare
        a, b, c = self._indices(x), self._indices(y), self._indices(given)
        if len({*a, *b, *c}) < len(a) + len(b) + len(c):
            self._refuse_overlap(x=a, y=b, given=c)
        return self._core.m_separated(a, b, c)

    def rule1(self, y: Names, z: Names, x: Names = (), w: Names = ()) -> bool:
        """Pearl's first rule: whether the graph implies P(y | do(x), z, w) = P(y | do(x), w).

        Args:
            y: Outcomes.
            z: Observations to drop.
            x: Variables intervened on.
            w: Further observations.

        Returns:
            True if the rule applies.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        References:
            Pearl (1995), Causal diagrams for empirical research, Theorem 3.
        """
        sets = self._disjoint(y=y, z=z, x=x, w=w)
        return self._core.rule1(sets["y"], sets["z"], sets["x"], sets["w"])

    def rule2(self, y: Names, z: Names, x: Names = (), w: Names = ()) -> bool:
        """Pearl's second rule: whether the graph implies P(y | do(x), do(z), w) = P(y | do(x), z, w).

        Args:
            y: Outcomes.
            z: Interventions to exchange for observations.
            x: Variables intervened on either way.
            w: Further observations.

        Returns:
            True if the rule applies.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        References:
            Pearl (1995), Causal diagrams for empirical research, Theorem 3.

        Example:
            >>> from mdcm import ADMG
            >>> graph = ADMG.from_string("D -> I -> A; D <-> A")
            >>> graph.rule2("I", "D"), graph.rule2("A", "D")
            (True, False)
        """
        sets = self._disjoint(y=y, z=z, x=x, w=w)
        return self._core.rule2(sets["y"], sets["z"], sets["x"], sets["w"])

    def rule3(self, y: Names, z: Names, x: Names = (), w: Names = ()) -> bool:
        """Pearl's third rule: whether the graph implies P(y | do(x), do(z), w) = P(y | do(x), w).

        Args:
            y: Outcomes.
            z: Interventions to drop.
            x: Variables intervened on either way.
            w: Observations.

        Returns:
            True if the rule applies.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        References:
            Pearl (1995), Causal diagrams for empirical research, Theorem 3.
        """
        sets = self._disjoint(y=y, z=z, x=x, w=w)
        return self._core.rule3(sets["y"], sets["z"], sets["x"], sets["w"])

    def modularity_set(self, names: Names, do: Names = ()) -> set[str]:
        """The smallest set A of ancestors with which S = names ∪ A satisfies rule 2 for its parents under do().

        Then P(S | Pa(S), do(I)) = P(S | do(Pa(S)), do(I)): mechanisms of S that match the left side, which data show,
        also match the right side. The set is unique, and contained in every other set that satisfies rule 2.

        Args:
            names: Variables whose mechanisms are to be trained; those in ``do`` have none and are left out.
            do: Variables intervened on in the data.

        Returns:
            The names in A.

        Raises:
            GraphError: If a name is unknown.

        Complexity:
            O(nodes + edges) at worst; only nodes that precede the last of ``names`` in topological order are visited.

        References:
            Rahman & Kocaoglu (2024), Modular Learning of Deep Causal Generative Models for High-dimensional Causal
            Inference, Definitions 4.4 and D.1.

        Example:
            >>> from mdcm import ADMG
            >>> ADMG.from_string("D -> I -> A; D <-> A").modularity_set(["D", "A"])
            {'I'}
        """
        if self._closure is None:
            # its scratch memory is as large as the graph, so all calls share one object
            self._closure = ModularityClosure(self._core)
        return self._named(self._closure.run(self._indices(names), self._indices(do)))

    # ------------------------------------------------------------------ names and numbers

    def _indices(self, names: Names) -> list[int]:
        index = self._index
        if isinstance(names, str):
            names = (names,)
        elif not isinstance(names, Collection):
            names = tuple(names)
        try:
            return [index[name] for name in names]
        except (KeyError, TypeError):
            unknown = next(name for name in names if not isinstance(name, str) or name not in index)
            raise GraphError(f"the graph has no node {unknown!r}{suggestion(unknown, self.nodes)}") from None

    def _named(self, indices: NDArray[np.int32]) -> set[str]:
        return {self.nodes[v] for v in indices.tolist()}

    def _disjoint(self, **sets: Names) -> dict[str, list[int]]:
        indices = {key: self._indices(names) for key, names in sets.items()}
        self._refuse_overlap(**indices)
        return indices

    def _refuse_overlap(self, **sets: list[int]) -> None:
        set_of: dict[int, str] = {}
        for key, indices in sets.items():
            for v in indices:
                if set_of.setdefault(v, key) != key:
                    raise GraphError(f"{self.nodes[v]!r} is in both {set_of[v]} and {key}; the sets must be disjoint")
