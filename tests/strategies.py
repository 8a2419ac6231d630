"""Hypothesis strategies: random mixed graphs with hidden confounders of two and more variables."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import strategies as st
from oracles import Mixed

from mdcm.graph import ADMG

NAMES = ("V3", "A", "x", "V10", "B", "Ω", "q", "V1", "C", "z2")


@dataclass(frozen=True)
class RandomGraph:
    """What a strategy drew: the raw parts, as the library takes them and as the oracles take them."""

    nodes: tuple[str, ...]
    directed: tuple[tuple[str, str], ...]
    bidirected: tuple[tuple[str, str], ...]
    latents: tuple[tuple[str, tuple[str, ...]], ...]

    def admg(self) -> ADMG:
        return ADMG(self.nodes, self.directed, self.bidirected, dict(self.latents))

    def mixed(self) -> Mixed:
        cliques = (pair for _, children in self.latents for pair in itertools.combinations(children, 2))
        pairs = frozenset(frozenset(pair) for pair in itertools.chain(self.bidirected, cliques))
        return Mixed(self.nodes, frozenset(self.directed), pairs)

    def confounders(self) -> list[tuple[str, ...]]:
        return [children for _, children in self.latents] + list(self.bidirected)


@st.composite
def admgs(
    draw: st.DrawFn, min_nodes: int = 1, max_nodes: int = 6, max_latents: int = 2, max_bidirected: int = 5
) -> RandomGraph:
    """Graphs whose nodes are inserted in another order than the topological one."""
    n = draw(st.integers(min_nodes, max_nodes))
    nodes = tuple(draw(st.permutations(NAMES))[:n])
    order = draw(st.permutations(nodes))
    slots = list(itertools.combinations(order, 2))
    directed = draw(st.lists(st.sampled_from(slots), unique=True, max_size=2 * n)) if slots else []
    bidirected = draw(st.lists(st.sampled_from(slots), unique=True, max_size=max_bidirected)) if slots else []
    turned = [pair[::-1] if draw(st.booleans()) else pair for pair in bidirected]
    latents = []
    if n >= 2:
        for k in range(draw(st.integers(0, max_latents))):
            children = draw(st.lists(st.sampled_from(nodes), unique=True, min_size=2, max_size=min(n, 4)))
            latents.append((f"L{k}", tuple(children)))
    return RandomGraph(nodes, tuple(directed), tuple(turned), tuple(latents))


@st.composite
def node_sets(draw: st.DrawFn, nodes: tuple[str, ...], count: int) -> list[set[str]]:
    """Disjoint sets of nodes; together they need not hold all."""
    labels = draw(st.lists(st.integers(0, count), min_size=len(nodes), max_size=len(nodes)))
    return [{v for v, label in zip(nodes, labels, strict=True) if label == k} for k in range(count)]
