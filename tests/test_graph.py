"""ADMG: construction, structure against plain sets, new graphs, and what bad input is told."""

import copy
import itertools
import pickle

import networkx as nx
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import admgs, node_sets

from mdcm.errors import GraphError
from mdcm.graph import ADMG, read_graph

FRONT_DOOR = "D -> I -> A; D <-> A"


@given(st.data())
def test_structure_agrees_with_plain_sets(data):
    graph = data.draw(admgs(max_nodes=8))
    (group,) = data.draw(node_sets(graph.nodes, 1))
    admg, plain = graph.admg(), graph.mixed()
    assert admg.parents(group) == plain.parents(group)
    assert admg.children(group) == {b for a, b in graph.directed if a in group}
    assert admg.siblings(group) == {v for pair in plain.pairs for v in pair if (pair - {v}) & group}
    assert admg.ancestors(group) == plain.ancestors(group)
    assert admg.descendants(group) == plain.descendants(group)
    assert len(admg) == len(graph.nodes)


@given(admgs(max_nodes=8))
def test_topological_order_takes_the_first_inserted_node_available(graph):
    plain = graph.mixed()
    done: list[str] = []
    while len(done) < len(graph.nodes):
        done.append(next(v for v in graph.nodes if v not in done and plain.parents([v]) <= set(done)))
    assert graph.admg().topological_order() == tuple(done)


@given(st.data())
def test_equality_ignores_order_and_sees_every_part(data):
    graph = data.draw(admgs(min_nodes=3))
    admg = graph.admg()
    shuffled = ADMG(
        data.draw(st.permutations(graph.nodes)),
        data.draw(st.permutations(graph.directed)),
        [pair[::-1] for pair in graph.bidirected],
        [(name, children[::-1]) for name, children in graph.latents],
    )
    assert shuffled == admg
    assert hash(shuffled) == hash(admg)
    assert ADMG((*graph.nodes, "extra"), graph.directed, graph.bidirected, dict(graph.latents)) != admg
    assert ADMG(graph.nodes, graph.directed, graph.bidirected, {**dict(graph.latents), "new": graph.nodes[:2]}) != admg


@given(admgs(max_nodes=7))
def test_copies_and_networkx_round_trip(graph):
    admg = graph.admg()
    assert pickle.loads(pickle.dumps(admg)) == admg
    assert copy.deepcopy(admg) == admg
    back = ADMG.from_networkx(admg.to_networkx())
    assert back == admg
    assert back.nodes == admg.nodes


@given(admgs(max_nodes=7))
def test_confounders_are_latents_then_pairs(graph):
    admg = graph.admg()
    assert [children for _, children in admg.confounders] == graph.confounders()
    names = [name for name, _ in admg.confounders]
    assert len({*names, *graph.nodes}) == len(names) + len(graph.nodes)
    assert names[: len(graph.latents)] == [name for name, _ in graph.latents]


def test_confounder_of_a_pair_avoids_taken_names():
    graph = ADMG(["A", "B", "U[A,B]"], bidirected=[("A", "B")])
    assert graph.confounders == (("U[A,B]'", ("A", "B")),)


# ---------------------------------------------------------------------- construction


def test_constructor_and_text_agree():
    graph = ADMG(["D", "I", "A", "B"], [("D", "I"), ("I", "A")], [("D", "A")], {"U": ["D", "A", "B"]})
    assert graph == ADMG.from_string(f"{FRONT_DOOR}; B; U [latent]; U -> D; U -> A; U -> B")
    assert graph.nodes == ("D", "I", "A", "B")
    assert graph.directed == (("D", "I"), ("I", "A"))
    assert graph.bidirected == (("D", "A"),)
    assert graph.latents == (("U", ("D", "A", "B")),)


def test_nodes_may_be_left_out():
    assert ADMG(directed=[("B", "A")], bidirected=[("C", "A")]).nodes == ("B", "A", "C")


def test_directed_edge_given_twice_counts_once():
    graph = ADMG(["A", "B"], [("A", "B"), ["A", "B"]])
    assert graph.directed == (("A", "B"),)


def test_latent_with_one_child_confounds_nothing():
    assert ADMG(["A", "B"], latents={"U": ["A"], "V": []}) == ADMG(["A", "B"])


def test_latent_with_parents_is_projected():
    graph = ADMG(["W", "A", "B", "C"], [("W", "U")], latents={"U": ["A", "B", "C"]})
    assert set(graph.directed) == {("W", "A"), ("W", "B"), ("W", "C")}
    assert graph.latents == (("U", ("A", "B", "C")),)


def test_latents_of_latents_are_projected_onto_the_first():
    graph = ADMG.from_string("V [latent] -> U [latent]; V -> A; U -> B; U -> C; D <-> U")
    assert graph.nodes == ("A", "B", "C", "D")
    assert graph.latents == (("V", ("A", "B", "C")), ("U[D,U]", ("B", "C", "D")))
    assert graph.directed == ()


def test_latent_between_variables_becomes_edges():
    assert ADMG.from_string("A -> U [latent] -> B") == ADMG.from_string("A -> B")


def test_representation_can_be_evaluated():
    graph = ADMG.from_string(FRONT_DOOR)
    assert repr(graph) == "ADMG.from_string('D -> I -> A; D <-> A')"
    assert str(graph) == FRONT_DOOR
    assert eval(repr(graph)) == graph
    large = ADMG([f"v{i}" for i in range(100)])
    assert repr(large) == "<ADMG: 100 nodes, 0 directed and 0 bidirected edges, 0 latents>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": ["A", "B", "A"]}, "the node 'A' is given twice"),
        ({"nodes": ["A", ""]}, "node 1 has an empty name"),
        ({"nodes": ["A", 3]}, "node 1 is 3: names are text"),
        ({"nodes": "AB"}, "nodes is the text 'AB'; give a list of names, or use ADMG.from_string"),
        ({"nodes": ["A", "B"], "directed": [("A", "A")]}, "the edge A -> A joins a node to itself"),
        ({"nodes": ["A", "B"], "bidirected": [("A", "B"), ("B", "B")]}, "the edge B <-> B joins a node to itself"),
        (
            {"nodes": ["age", "dose"], "directed": [("age", "dosis")]},
            "the edge age -> dosis names 'dosis', which is not a node; did you mean 'dose'?",
        ),
        ({"nodes": ["A"], "bidirected": [("A", "Q")]}, "the edge A <-> Q names 'Q', which is not a node"),
        ({"nodes": ["A", "B"], "directed": ["AB"]}, "directed edge 0 is 'AB': an edge is a pair of names"),
        ({"nodes": ["A", "B"], "directed": [("A", "B", "C")]}, "directed edge 0 is ('A', 'B', 'C'): an edge is a pair"),
        ({"nodes": ["A", "B"], "bidirected": [("A", "B"), ("B", "A")]}, "the bidirected edge B <-> A is given twice"),
        ({"nodes": ["A", "B"], "latents": {"A": ["B"]}}, "the node 'A' is given twice as a node and as a latent"),
        ({"nodes": ["A", "B"], "latents": {"U": ["A", "C"]}}, "the latent 'U' has the child 'C', which is not a node"),
        ({"nodes": ["A", "B"], "latents": {"U": "AB"}}, "the children of the latent 'U' are the text 'AB'"),
        ({"nodes": ["A", "B"], "latents": {"U": ["U", "A"]}}, "the latent 'U' is its own child"),
        ({"nodes": ["A"], "latents": [("U", ["A"]), ("U", [])]}, "the latent 'U' is given twice"),
        ({"nodes": ["A"], "latents": {"": ["A"]}}, "latent 0 has an empty name"),
        (
            {"nodes": ["A", "B"], "directed": [("A", "B"), ("B", "U")], "latents": {"U": ["A"]}},
            "the directed edges have a cycle: A -> B -> U -> A",
        ),
    ],
)
def test_bad_construction_says_what_is_wrong(arguments, message):
    with pytest.raises(GraphError) as caught:
        ADMG(**arguments)
    assert str(caught.value).startswith(message)


def test_cycle_is_evidence_of_the_error_with_its_place():
    with pytest.raises(GraphError) as caught:
        ADMG.from_string("X -> A -> B\nB -> C\n\nC -> A; C -> D")
    error = caught.value
    assert str(error) == "line 4, column 3: the directed edges have a cycle: A -> B -> C -> A"
    assert error.cycle == ("A", "B", "C", "A")
    assert error.edge == ("C", "A")
    assert (error.line, error.column) == (4, 3)


def test_long_cycle_is_shortened_in_the_message_only():
    names = [f"v{i}" for i in range(50)]
    with pytest.raises(GraphError, match=r"v7 -> \.\.\. \(50 nodes\) -> v0$") as caught:
        ADMG(names, [*itertools.pairwise(names), (names[-1], names[0])])
    assert caught.value.cycle == (*names, "v0")


@pytest.mark.parametrize(
    ("text", "message", "edge"),
    [
        ("A -> B\nB -> B", "line 2, column 3: the edge B -> B joins a node to itself", ("B", "B")),
        ("A <-> B; A; B <-> A", "line 1, column 15: the bidirected edge B <-> A is given twice", ("B", "A")),
    ],
)
def test_bad_edges_in_text_have_a_place(text, message, edge):
    with pytest.raises(GraphError) as caught:
        ADMG.from_string(text)
    assert str(caught.value).startswith(message)
    assert caught.value.edge == edge


def test_unknown_names_in_questions():
    graph = ADMG.from_string(FRONT_DOOR)
    for ask in (graph.parents, graph.ancestors, graph.modularity_set, graph.intervene, graph.latent_projection):
        with pytest.raises(GraphError, match="the graph has no node 'Q'"):
            ask(["D", "Q"])
    assert "D" in graph
    assert "Q" not in graph
    assert graph.index("I") == 1


# ---------------------------------------------------------------------- new graphs


@given(st.data())
def test_intervene_cuts_everything_that_points_into_the_targets(data):
    graph = data.draw(admgs())
    (targets,) = data.draw(node_sets(graph.nodes, 1))
    cut, plain = graph.admg().intervene(targets), graph.mixed().without_into(targets)
    assert set(cut.directed) == plain.directed
    assert {frozenset({a, b}) for a in cut.nodes for b in cut.siblings(a)} == plain.pairs
    assert cut.nodes == graph.nodes


@given(st.data())
@settings(max_examples=200)
def test_latent_projection_agrees_with_its_definition(data):
    graph = data.draw(admgs(min_nodes=2, max_nodes=7))
    (observed,) = data.draw(node_sets(graph.nodes, 1))
    expected = oracles.project(graph.mixed(), observed)
    for shared in (False, True):
        found = graph.admg().latent_projection(observed, shared=shared)
        assert found.nodes == expected.nodes
        assert set(found.directed) == expected.directed
        assert {frozenset({a, b}) for a in found.nodes for b in found.siblings(a)} == expected.pairs
        assert {name for name, _ in found.latents} >= {
            name for name, children in graph.latents if len(set(children) & observed) > 1
        }


@given(st.data())
def test_latent_projection_keeps_separations(data):
    graph = data.draw(admgs(min_nodes=3, max_nodes=8))
    x, y, z = data.draw(node_sets(graph.nodes, 3))
    admg = graph.admg()
    assert admg.latent_projection(x | y | z).m_separated(x, y, z) == admg.m_separated(x, y, z)


def test_latent_projection_can_share_a_hidden_cause():
    graph = ADMG.from_string("H -> A; H -> B; H -> C; A <-> H")
    pairs = graph.latent_projection(["A", "B", "C"])
    assert pairs.latents == ()
    assert {frozenset(pair) for pair in pairs.bidirected} == {frozenset(p) for p in ("AB", "AC", "BC")}
    shared = graph.latent_projection(["A", "B", "C"], shared=True)
    assert shared.bidirected == ()
    assert shared.latents == (("H", ("A", "B", "C")), ("U[H,A]", ("A", "B", "C")))


# ---------------------------------------------------------------------- networkx and files


def test_from_networkx_takes_hidden_nodes_in_several_ways():
    expected = ADMG(["X", "Y", "Z"], [("X", "Y")], latents={"U": ["X", "Y", "Z"]})
    edges = [("X", "Y"), ("U", "X"), ("U", "Y"), ("U", "Z")]
    plain = nx.DiGraph(edges)
    assert ADMG.from_networkx(plain, latents=["U"]) == expected
    for attribute in ({"latent": True}, {"latent": 1}, {"unobserved": "yes"}, {"observed": "no"}, {"observed": False}):
        marked = nx.DiGraph(edges)
        marked.nodes["U"].update(attribute)
        assert ADMG.from_networkx(marked) == expected


def test_from_networkx_takes_bidirected_edges_beside_directed_ones():
    graph = nx.MultiDiGraph([("X", "Y"), ("Y", "Z")])
    graph.add_edge("X", "Y", dir="both")
    assert ADMG.from_networkx(graph) == ADMG.from_string("X -> Y -> Z; X <-> Y")


def test_from_networkx_projects_hidden_nodes_with_parents():
    graph = nx.DiGraph([("X", "H"), ("H", "Y"), ("H", "Z")])
    expected = ADMG.from_string("H [latent]; X -> Y; X -> Z; H -> Y; H -> Z")
    assert ADMG.from_networkx(graph, latents=["H"]) == expected
    # a hidden node is a bidirected edge only as a root with two children
    graph.add_node("H", latent=True, bidirected=True)
    assert ADMG.from_networkx(graph) == expected


def test_from_networkx_names_nodes_by_their_text():
    assert ADMG.from_networkx(nx.path_graph(3, create_using=nx.DiGraph)).directed == (("0", "1"), ("1", "2"))


def marked(name, **attributes):
    graph = nx.DiGraph()
    graph.add_node(name, **attributes)
    return graph


@pytest.mark.parametrize(
    ("graph", "latents", "message"),
    [
        (nx.Graph([("A", "B")]), [], "the networkx graph is undirected"),
        (nx.DiGraph([("A", "B")]), ["C"], "the latent 'C' is not a node of the networkx graph"),
        (nx.DiGraph([(1, "1")]), [], "two nodes of the networkx graph have the same name as text"),
        (marked("A", latent="maybe"), [], "the node 'A': the attribute latent is 'maybe'; write yes or no"),
        (nx.DiGraph([("A", "B"), ("B", "A")]), [], "the directed edges have a cycle: A -> B -> A"),
    ],
)
def test_from_networkx_refuses(graph, latents, message):
    with pytest.raises(GraphError, match=message):
        ADMG.from_networkx(graph, latents)


def test_read_graph_names_the_file(tmp_path):
    good = tmp_path / "frontdoor.txt"
    good.write_text(FRONT_DOOR.replace("; ", "\n"), encoding="utf-8")
    assert read_graph(good) == ADMG.from_string(FRONT_DOOR)
    bad = tmp_path / "bad.txt"
    bad.write_text("A -> B\nB ->", encoding="utf-8")
    with pytest.raises(GraphError) as caught:
        read_graph(bad)
    assert str(caught.value) == f"{bad}: line 2, column 3: a name is missing after '->'"
    assert (caught.value.line, caught.value.column) == (2, 3)
    with pytest.raises(GraphError, match="cannot be read: No such file or directory"):
        read_graph(tmp_path / "missing.txt")
    bad.write_bytes(b"A -> \xff\xfe")
    with pytest.raises(GraphError, match="it is not UTF-8 text"):
        read_graph(bad)


def test_parse_or_read_takes_text_or_a_file(tmp_path):
    path = tmp_path / "graph"
    path.write_text(FRONT_DOOR, encoding="utf-8")
    assert ADMG.parse_or_read(str(path)) == ADMG.parse_or_read(FRONT_DOOR)
    assert ADMG.parse_or_read("X").nodes == ("X",)
    with pytest.raises(GraphError, match=r"there is no graph file 'frontdoor\.txt'"):
        ADMG.parse_or_read("frontdoor.txt")


# ---------------------------------------------------------------------- numbers instead of names


@given(admgs(max_latents=0))
@settings(max_examples=60)
def test_numbers_and_names_build_the_same_graph(graph):
    admg = graph.admg()
    place = {name: i for i, name in enumerate(graph.nodes)}

    def ends(pairs, dtype):
        return np.array([[place[pair[side]] for pair in pairs] for side in (0, 1)], dtype=dtype)

    for dtype in (np.int32, np.int64, np.uint8):
        twin = ADMG.from_edge_index(graph.nodes, ends(graph.directed, dtype), ends(graph.bidirected, dtype))
        assert twin == admg
        assert (twin.directed, twin.bidirected) == (admg.directed, admg.bidirected)
        assert twin.confounders == admg.confounders
        assert np.array_equal(twin.compiled.topological_order, admg.compiled.topological_order)


def test_numbers_name_nodes_and_are_checked():
    graph = ADMG.from_edge_index(3, np.array([[0, 0, 1], [1, 1, 2]]))
    assert graph.nodes == ("0", "1", "2")
    assert graph.directed == (("0", "1"), ("1", "2"))
    assert graph.bidirected == ()
    assert ADMG.from_edge_index(2, np.zeros((2, 0))).directed == ()
    order = graph.compiled.topological_order
    assert order.dtype == np.int32
    assert not order.flags.writeable
    for arguments, message in [
        (
            (2, np.array([0, 1])),
            r"directed must be an array of integers of the shape \[2, number of edges\], not",
        ),
        ((2, np.array([[0.0], [1.0]])), "directed must be an array of integers"),
        ((2, np.array([[0], [2]])), "directed edge 0 is 0 -> 2, but nodes are numbered from 0 to 1"),
        ((2, np.array([[0], [1]]), np.array([[-1], [1]])), "bidirected edge 0 is -1 <-> 1, but nodes"),
        ((2, np.array([[0, 1], [1, 0]])), "the directed edges have a cycle: 0 -> 1 -> 0"),
        ((["a", "a"], np.zeros((2, 0), dtype=int)), "the node 'a' is given twice"),
        ((2, np.array([[0], [1]]), np.array([[0, 1], [1, 0]])), "the bidirected edge 1 <-> 0 is given twice"),
    ]:
        with pytest.raises(GraphError, match=message):
            ADMG.from_edge_index(*arguments)
