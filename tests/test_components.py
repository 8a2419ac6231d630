"""C-components against repeated merging of overlapping sets."""

import itertools

import networkx as nx
import numpy as np
import oracles
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import admgs

from mdcm.graph import ADMG


@given(admgs(max_nodes=9, max_latents=3))
@settings(max_examples=200)
def test_c_components_agree_with_merging(graph):
    parts = graph.admg().c_components()
    assert {frozenset(part) for part in parts} == oracles.c_components(graph.mixed())
    assert sum(map(len, parts)) == len(graph.nodes)


@given(admgs(max_nodes=9))
def test_c_components_are_ordered_by_first_member_in_topological_order(graph):
    admg = graph.admg()
    place = {name: k for k, name in enumerate(admg.topological_order())}
    firsts = [min(place[name] for name in part) for part in admg.c_components()]
    assert firsts == sorted(firsts)


@given(admgs(max_nodes=9))
def test_c_components_under_do_are_those_of_the_cut_graph(graph):
    admg = graph.admg()
    targets = set(graph.nodes[::2])
    labels = admg._core.c_components([admg.index(name) for name in targets])
    together = {
        (a, b) for a, b in itertools.combinations(graph.nodes, 2) if labels[admg.index(a)] == labels[admg.index(b)]
    }
    parts = oracles.c_components(graph.mixed().without_into(targets))
    assert together == {(a, b) for a, b in itertools.combinations(graph.nodes, 2) for p in parts if {a, b} <= p}


@given(admgs(max_nodes=9, max_latents=2), st.data())
@settings(max_examples=200)
def test_c_components_of_a_part_do_not_depend_on_what_is_set_outside(graph, data):
    """Proposition D.6 of Rahman & Kocaoglu (2024)."""
    subset = st.lists(st.sampled_from(graph.nodes), unique=True)
    part, targets = set(data.draw(subset)), set(data.draw(subset))
    admg = graph.admg()

    def parts_under(do):
        """The c-components of the subgraph over the part in the graph whose edges into `do` are cut."""
        mixed = graph.mixed().without_into(do)
        within = frozenset(pair for pair in mixed.pairs if pair <= part)
        return oracles.c_components(oracles.Mixed(tuple(part), frozenset(), within))

    outside = admg.parents(part) - part
    assert parts_under(targets | outside) == parts_under(targets)
    # the compiled graph keeps each of them in one c-component, whatever is set outside
    labels = admg._core.c_components([admg.index(name) for name in targets | outside])
    for found in parts_under(targets | outside):
        assert len({labels[admg.index(name)] for name in found}) == 1


def test_c_components_of_figure_2():
    graph = ADMG.from_string("X1->Z1; Z3->Z1; Z1->Z2; Z1->X2; X1<->X2; Z1<->Z2; Z1<->Z3")
    assert graph.c_components() == [{"X1", "X2"}, {"Z1", "Z2", "Z3"}]


def test_c_components_of_a_large_graph_agree_with_networkx():
    rng = np.random.default_rng(0)
    n = 20_000
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, n, (n // 2, 2)).tolist() if pair[0] != pair[1]}
    names = [f"v{i}" for i in range(n)]
    graph = ADMG(names, bidirected=[(names[a], names[b]) for a, b in pairs])
    twin = nx.Graph(pairs)
    twin.add_nodes_from(range(n))
    expected = {frozenset(names[v] for v in part) for part in nx.connected_components(twin)}
    assert {frozenset(part) for part in graph.c_components()} == expected
