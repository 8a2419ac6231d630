"""Graphs of other libraries: GML, GraphML, networkx and pgmpy."""

import networkx as nx
import pytest
from graph_texts import ODD_NAMES, READERS, WRITERS, message_of
from hypothesis import given
from hypothesis import strategies as st
from strategies import admgs

import mdcm
from mdcm.errors import GraphError
from mdcm.graph import ADMG
from mdcm.graph.formats import (
    parse_gml,
    parse_graphml,
)


@given(admgs(max_nodes=8), st.sampled_from(["gml", "graphml"]))
def test_gml_and_graphml_round_trips(graph, suffix):
    admg = graph.admg()
    back = ADMG._from_record(READERS[suffix](WRITERS[suffix](admg)))
    assert back == admg
    assert back.nodes == admg.nodes


@given(st.lists(ODD_NAMES, min_size=4, max_size=4, unique=True), st.sampled_from(["gml", "graphml"]))
def test_gml_and_graphml_round_trips_of_any_name(names, suffix):
    a, b, c, hidden = names
    graph = ADMG([a, b, c], [(a, b)], [(c, a)], {hidden: [a, b, c]})
    if suffix == "graphml" and any(letter in name for name in names for letter in "\ufffe\uffff"):
        assert "which XML cannot hold; rename it" in message_of(graph.to_graphml)
    else:
        assert ADMG._from_record(READERS[suffix](WRITERS[suffix](graph))) == graph


def test_gml_that_networkx_stumbles_over():
    with pytest.raises(GraphError, match="networkx cannot read this GML"):
        mdcm.graph.formats.parse_gml('NNN"NNN\n')


def test_gml_of_other_programs():
    text = """graph [ directed 1
      node [ id 0 label "Größe" ] node [ id 1 label "B" ] node [ id 2 label "U" observed "no" ]
      edge [ source 2 target 0 ] edge [ source 2 target 1 ] edge [ source 0 target 1 dir "both" ] ]"""
    record = parse_gml(text)
    assert (record.nodes, record.latents) == (("Größe", "B"), ("U",))
    assert (record.directed, record.bidirected) == ((("U", "Größe"), ("U", "B")), (("Größe", "B"),))


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_gml, "graph [\n  node ( ]", "line 2, column 8: networkx cannot read this GML: cannot tokenize"),
        (parse_gml, "graph [ node [ id 0 ] ]", "networkx cannot read this GML: node #0 has no 'label' attribute"),
        (parse_gml, "", "networkx cannot read this GML: input contains no graph"),
        (parse_gml, 'graph [ node [ id 0 label "A" ] ]', "the networkx graph is undirected; an ADMG needs a DiGraph"),
        (
            parse_gml,
            'graph [ directed 1 node [ id 0 label "A" latent "perhaps" ] ]',
            "the node 'A': the attribute latent is 'perhaps'; write yes or no",
        ),
        (parse_graphml, "<graphml>\n<graph", "line 2, column 1: this GraphML is not valid XML: unclosed token"),
        (parse_graphml, "<html/>", "networkx cannot read this GraphML: file not successfully read as graphml"),
    ],
)
def test_bad_gml_and_graphml_say_why(parse, text, message):
    assert message_of(parse, text).startswith(message)


def test_graphs_of_pgmpy_keep_what_is_hidden_and_bidirected():
    base = pytest.importorskip("pgmpy.base")
    expected = ADMG.from_string("U [latent]; U -> X; U -> Y; X -> Y")
    edges = [("U", "X"), ("U", "Y"), ("X", "Y")]
    assert ADMG.from_networkx(base.DAG(edges, latents={"U"})) == expected
    assert ADMG.from_networkx(base.DAG(edges, roles={"latents": {"U"}})) == expected
    # what is left of it in a plain digraph
    assert ADMG.from_networkx(nx.DiGraph(base.DAG(edges, latents={"U"}))) == expected
    mixed_graph = base.ADMG([("X", "Y"), ("Y", "Z")], [("X", "Z")])
    assert ADMG.from_networkx(mixed_graph) == ADMG.from_string("X -> Y -> Z; X <-> Z")
    pattern = base.PDAG([("X", "Y")], [("Y", "Z")])
    assert message_of(ADMG.from_networkx, pattern).startswith("the edge ('Y', 'Z') has no direction")


def test_graphs_of_networkx_keep_what_is_hidden_however_it_is_said():
    expected = ADMG.from_string("U [latent]; U -> X; U -> Y; X -> Y")
    edges = [("U", "X"), ("U", "Y"), ("X", "Y")]
    for attributes in ({"latent": 1}, {"roles": ["latents", "exposures"]}, {"unobserved": "yes"}, {"observed": 0}):
        graph = nx.DiGraph(edges)
        graph.nodes["U"].update(attributes)
        assert ADMG.from_networkx(graph) == expected, attributes

    class WithLatents(nx.DiGraph):
        latents = ("U",)

    assert ADMG.from_networkx(WithLatents(edges)) == expected
    graph = nx.MultiDiGraph([("X", "Y"), ("X", "Y")])
    graph.add_edge("X", "Y", type="bidirected")
    assert ADMG.from_networkx(graph) == ADMG.from_string("X -> Y; X <-> Y")
    graph.add_edge("X", "Z", type="undirected")
    assert message_of(ADMG.from_networkx, graph) == "the edge 'X' to 'Z' has no direction"
