"""Dagitty and DOT: round trips, statements, keywords, and error messages with line and column."""

import pytest
from graph_texts import ODD_NAMES, message_of, refusal
from hypothesis import given
from hypothesis import strategies as st
from strategies import admgs

from mdcm.errors import GraphError
from mdcm.graph import ADMG
from mdcm.graph.formats import (
    GraphRecord,
    format_dagitty,
    format_dot,
    is_dot,
    parse_dot,
)
from mdcm.graph.formats.records import is_hidden


@given(admgs(max_nodes=8), st.sampled_from([ADMG.to_dagitty, ADMG.to_dot]))
def test_dagitty_and_dot_round_trips_keep_graph_and_order(graph, write):
    admg = graph.admg()
    back = ADMG.from_string(write(admg))
    assert (back.nodes, back.directed, back.bidirected, back.latents) == (
        (admg.nodes, admg.directed, admg.bidirected, admg.latents)
    )


@given(
    st.lists(ODD_NAMES, min_size=4, max_size=6, unique=True),
    st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False)),
    st.sampled_from([format_dagitty, format_dot]),
)
def test_dagitty_and_dot_round_trips_of_any_name_and_position(names, position, write):
    a, b, c, hidden, *_ = names
    observed = tuple(name for name in names if name != hidden)
    positions = {a: position, hidden: position[::-1]}
    record = GraphRecord(observed, ((a, b), (hidden, c)), ((c, a),), (hidden,), positions=positions)
    back = parse_dot(write(record))
    assert (back.nodes, back.directed, back.bidirected) == (record.nodes, record.directed, record.bidirected)
    assert (back.latents, back.positions) == (record.latents, record.positions)


@given(
    st.lists(st.sampled_from([*'AB"[]{}=;,:+#<>/*\\\n ', "->", "<->", "--", "latent", "dag {", "node"]), max_size=20)
)
def test_any_dagitty_text_is_read_or_refused_with_its_place(parts):
    text = "dag {" + "".join(parts) + "}"
    error = refusal(text, parse_dot)
    if error is None:
        record = parse_dot(text)
        assert parse_dot(format_dagitty(record)).directed == record.directed
    else:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert str(error).startswith(f"line {error.line}, column {error.column}: ")


def test_dagitty_statements():
    record = parse_dot(
        """dag {
        bb="-3,-0.5,2,1.2"
        // exposure and outcome are no part of a graph
        D [outcome,pos="1.000,-1.5e1,0"]
        E [exposure, pos="-2,1"]; "blood pressure" [adjusted]
        U [latent] V [unobserved] W [l] X [u]
        E -> D [beta=0.5] # an effect
        D <- {U V} /* both */ <-> E
        E <-> D [pos="1.000,-1.000"] edge -> E
        1 -> ANXA2.11
        }
        """
    )
    assert record.nodes == ("D", "E", "blood pressure", "edge", "1", "ANXA2.11")
    assert record.latents == ("U", "V", "W", "X")
    assert record.directed == (("E", "D"), ("U", "D"), ("V", "D"), ("edge", "E"), ("1", "ANXA2.11"))
    assert record.bidirected == (("U", "E"), ("V", "E"), ("E", "D"))
    assert record.positions == {"D": (1.0, -15.0), "E": (-2.0, 1.0)}
    assert record.directed_locations[:3] == ((7, 11), (8, 11), (8, 11))
    assert record.bidirected_locations == ((8, 31), (8, 31), (9, 11))


def test_dagitty_text_is_recognised():
    front_door = ADMG.from_string("D -> I -> A; D <-> A")
    assert ADMG.from_string("dag { D -> I -> A D <-> A }") == front_door
    assert ADMG.from_string('\ufeff/* drawn */ # by hand\n strict DIGRAPH "a b" { D -> I -> A D <-> A }') == front_door
    assert ADMG.parse_or_read("dag { D }").nodes == ("D",)
    assert parse_dot("D -> I -> A D <-> A", bare=True).bidirected == (("D", "A"),)
    assert parse_dot("dag { D -> I }", bare=True).nodes == ("D", "I")
    assert not is_dot("dag -> {")
    assert not is_dot("/**//" * 5000)


def test_text_errors_name_the_place_in_dagitty_too():
    with pytest.raises(GraphError) as caught:
        ADMG.from_string("dag {\nA -> B\nB -> C -> A }")
    assert str(caught.value) == "line 3, column 8: the directed edges have a cycle: A -> B -> C -> A"


def test_dot_statements():
    record = parse_dot(
        r"""digraph "a graph" {
        graph [rankdir=LR, label=<a <b>bold</b> label>]; size="4,4"
        node [shape=box]
        A [label="say \"A\"", pos="3,4!"]
        "A":north -> B:s [dir=both, color="#ff0000"]
        B -> C [dir=back]
        subgraph cluster_0 { node [latent=true] edge [dir=both] U; V [observed=yes] V -> C }
        "x" + "y" -> {B; C} -> D [style=dashed]
        H [observed=no] K [LATENT=1] M [latent=false, style=dashed]
        -1.5 -> "back\\slash\n"
        subgraph { C } -> B [dir=forward]
        }"""
    )
    assert record.nodes == ("A", "B", "C", "V", "xy", "D", "M", "-1.5", "back\\slash\\n")
    assert record.latents == ("U", "H", "K")
    assert record.bidirected == (("A", "B"), ("V", "C"))
    assert record.directed[:5] == (("C", "B"), ("xy", "B"), ("xy", "C"), ("B", "D"), ("C", "D"))
    assert record.directed[5:] == (("-1.5", "back\\slash\\n"), ("C", "B"))
    assert record.positions == {"A": (3.0, 4.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected dag { ... } or digraph { ... }, not the end of the text"),
        ("A -> B", "line 1, column 1: expected dag { ... } or digraph { ... }, not 'A'"),
        ("dag [", "line 1, column 5: expected '{' after 'dag', not '['"),
        ("pdag { A }", "line 1, column 1: a pdag represents many causal graphs; give one of them, as dag { ... }"),
        ("mag { A }", "line 1, column 1: a mag represents many causal graphs"),
        ("dag { A -- B }", "line 1, column 9: '--' is an edge without a direction; a causal graph has ->, <- and <->"),
        ("dag { A @-> B }", "line 1, column 9: '@->' is an edge without a direction"),
        ("dag {\n\n A @-@ B }", "line 3, column 4: '@-@' is an edge without a direction"),
        ("graph { A -- B }", "line 1, column 11: '--' is an edge without a direction"),
        ("dag { A ->\n}", "line 1, column 9: a name is missing after '->'"),
        ("dag { A -> -> B }", "line 1, column 9: a name is missing after '->'"),
        ("dag { -> B }", "line 1, column 7: a name is missing before '->'"),
        ("dag { A [latent] -> B }", "line 1, column 18: a name is missing before '->'"),
        ("dag { A, B }", "line 1, column 8: unexpected ','; a statement begins with a name"),
        ("dag { A -> B", "line 1, column 5: this '{' is not closed"),
        ("dag { A [latent", "line 1, column 9: this '[' is not closed"),
        ("dag { A [=2] }", "line 1, column 10: unexpected '=' among attributes; write [key=value, flag]"),
        ("dag { A [pos=] }", "line 1, column 14: a value is missing after 'pos', before ']'"),
        ("dag { A } B", "line 1, column 11: unexpected 'B' after the closing '}'; a text holds one graph"),
        ("dag { {A B} [latent] }", "line 1, column 13: attributes follow a name or an edge, not a group"),
        ('dag { "" -> A }', "line 1, column 7: a name is empty"),
        ('dag { A -> "B }', "line 1, column 12: a quoted name does not end"),
        ("dag { A /* B }", "line 1, column 9: a comment does not end"),
        ("digraph { A [label=<B] }", "line 1, column 20: a value in <...> does not end"),
        ("dag { A → B }", "line 1, column 9: unexpected '→'; edges are written ->, <- or <->"),
        ("dag { A [latent=perhaps] }", "line 1, column 9: the attribute latent is 'perhaps'; write yes or no"),
        ("dag { A [latent, observed=yes] }", "line 1, column 9: the attributes latent and observed contradict each"),
        ('dag { A [pos="left"] }', "line 1, column 9: the position 'left' is not of the form \"x,y\""),
        ('dag { A [pos="1.2.3,1"] }', "line 1, column 9: the position '1.2.3,1' is not of the form"),
        ('dag { A [pos="1e999,1"] }', "line 1, column 9: the position '1e999,1' is not of the form"),
        (
            "dag { S [selected] }",
            "line 1, column 9: 'S' is marked as selected: data that depend on a selection have no",
        ),
        ("digraph { A -> B [dir=none] }", "line 1, column 13: the edge has dir=none; write dir=forward, dir=back, or"),
        ("dag { " + "{" * 101, "line 1, column 107: groups are nested more than 100 deep"),
    ],
)
def test_bad_dagitty_and_dot_say_where_and_why(text, message):
    assert message_of(parse_dot, text).startswith(message)


def test_positions_belong_to_known_nodes():
    graph = ADMG.from_string("U [latent]; U -> age; U -> dose")
    assert parse_dot(graph.to_dot({"U": (1, 2)})).positions == {"U": (1.0, 2.0)}
    assert message_of(graph.to_dagitty, {"dosis": (0, 0)}) == (
        "there is a position for 'dosis', which is not a node; did you mean 'dose'?"
    )


def test_hidden_attributes():
    for hidden in ({"latent": True}, {"latent": 1}, {"unobserved": "Yes"}, {"observed": "no"}, {"observed": False}):
        assert is_hidden(hidden) is True
    for observed in ({"latent": False}, {"latent": "0"}, {"observed": "TRUE", "latent": "no"}):
        assert is_hidden(observed) is False
    assert is_hidden({"style": "dashed", "hidden": True}) is None


@pytest.mark.parametrize(
    ("text", "latents"),
    [
        ("dag { Graph [latent]; Graph -> X; Graph -> Y; X -> Y }", ("Graph",)),
        ("dag { Node [latent] Node -> {X Y} }", ("Node",)),
        ("dag { NODE [unobserved]; EDGE [latent]; {NODE EDGE} -> {X Y} }", ("NODE", "EDGE")),
        ('dag { graph [latent,pos="0,1"]; graph -> {X Y} }', ("graph",)),
        ("dag { edge [latent]; edge -> {X Y} }", ("edge",)),
        ("dag { Subgraph [latent] Strict [latent] Subgraph -> Strict -> {X Y} }", ("Subgraph", "Strict")),
        ('digraph { "Graph" [latent]; "Graph" -> X; "Graph" -> Y }', ("Graph",)),
        ("dag { node [latent] U; U -> {X Y} }", ("U", "X", "Y")),
        ("digraph { NODE [latent=yes] U; NODE [latent=no] U -> {X Y} }", ("U",)),
    ],
)
def test_keywords_are_names_where_they_can_only_be_names(text, latents):
    assert parse_dot(text).latents == latents


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dag { node [latent]; node -> {X Y} }",
            "line 1, column 7: 'node [...]' sets defaults, and 'node' is a node as well",
        ),
        ("dag { node -> X\nnode [latent] }", "line 2, column 1: 'node [...]' sets defaults"),
        ("dag { A -> node; node [latent] A }", "line 1, column 18: 'node [...]' sets defaults"),
        ("digraph { Graph [latent]; Graph -> X }", "line 1, column 11: 'Graph' is a keyword of DOT"),
        ("digraph { X -> Edge }", "line 1, column 16: 'Edge' is a keyword of DOT"),
        ("digraph { node; X }", "line 1, column 11: 'node' is a keyword of DOT"),
    ],
)
def test_keywords_that_may_be_names_are_not_guessed(text, message):
    assert message_of(parse_dot, text).startswith(message)
