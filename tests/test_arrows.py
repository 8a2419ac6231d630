"""Arrow text: round trips, chains, lists, and error messages with line and column."""

import pytest
from graph_texts import ODD_NAMES, message_of, refusal
from hypothesis import given
from hypothesis import strategies as st
from strategies import admgs

from mdcm.errors import GraphError
from mdcm.graph import ADMG
from mdcm.graph.formats import (
    GraphRecord,
    format_arrows,
    parse_arrows,
)


@given(admgs(max_nodes=8), st.sampled_from(["; ", "\n", " ;\n"]))
def test_text_round_trip_keeps_graph_and_order(graph, separator):
    admg = graph.admg()
    back = ADMG.from_string(admg.to_string(separator))
    assert back == admg
    assert back.nodes == admg.nodes
    assert back.directed == admg.directed
    assert back.bidirected == admg.bidirected
    assert back.latents == admg.latents


@given(st.lists(ODD_NAMES, min_size=3, max_size=5, unique=True))
def test_text_round_trip_of_any_name(names):
    record = GraphRecord(tuple(names), ((names[0], names[1]),), ((names[2], names[0]),))
    back = parse_arrows(format_arrows(record))
    assert (back.nodes, back.directed, back.bidirected) == (record.nodes, record.directed, record.bidirected)


@given(st.text(alphabet='AB ->;<\n"[]latent,#\\', max_size=30))
def test_any_text_is_read_or_refused_with_its_place(text):
    error = refusal(text)
    if error is None:
        record = parse_arrows(text)
        assert parse_arrows(format_arrows(record)).directed == record.directed
    else:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1])
        assert str(error).startswith(f"line {error.line}, column {error.column}: ")


def test_chains_mix_arrows():
    record = parse_arrows("A -> B <- C <-> D -> E")
    assert record.nodes == ("A", "B", "C", "D", "E")
    assert record.directed == (("A", "B"), ("C", "B"), ("D", "E"))
    assert record.bidirected == (("C", "D"),)


def test_arrows_need_no_space_and_may_be_unicode():
    assert parse_arrows("A->B<->C").directed == parse_arrows("A → B ↔ C").directed == (("A", "B"),)
    assert parse_arrows("Größe←x-1").directed == (("x-1", "Größe"),)


def test_lines_comments_and_bare_names():
    record = parse_arrows("# the front-door graph\nD -> I  # pictures\n\n  I -> A;; D <-> A\nB\n")
    assert record.nodes == ("D", "I", "A", "B")
    assert record.directed_locations == ((2, 3), (4, 5))
    assert record.bidirected_locations == ((4, 14),)


def test_quoted_names():
    record = parse_arrows(r'"blood pressure" -> "a \"b\" \\ c"')
    assert record.directed == (("blood pressure", 'a "b" \\ c'),)


def test_latents_are_declared_where_they_are_named():
    record = parse_arrows("U [latent] -> A; U -> B; V [ latent ]")
    assert record.latents == ("U", "V")
    assert record.nodes == ("A", "B")
    assert record.directed == (("U", "A"), ("U", "B"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A ->", "line 1, column 3: a name is missing after '->'"),
        ("-> A", "line 1, column 1: a name is missing before '->'"),
        ("A ->\nB", "line 1, column 3: a name is missing after '->'"),
        ("A -> -> B", "line 1, column 6: a name is missing between '->' and '->'"),
        ("X -> Y\nA B", "line 2, column 3: an arrow (->, <- or <->), ',' or ';' is missing between 'A' and 'B'"),
        ("A -- B", "line 1, column 3: unexpected '--'; edges are written ->, <- or <->"),
        ("A --> B", "line 1, column 3: unexpected '-->'; edges are written ->, <- or <->"),
        ('"" -> A', "line 1, column 1: a name is empty"),
        ('A -> "  "', "line 1, column 6: a name is empty"),
        ('A -> "B', "line 1, column 6: a quoted name does not end on this line"),
        ("[latent] -> A", "line 1, column 1: [latent] must follow a name"),
        ("A [hidden] -> B", "line 1, column 3: unexpected '['"),
    ],
)
def test_bad_text_says_where_and_why(text, message):
    with pytest.raises(GraphError) as caught:
        parse_arrows(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        ("U -> A, B, C", "U -> A; U -> B; U -> C"),
        ("A, B -> C", "A; B; A -> C; B -> C"),
        ("A, B -> C, D <- E", "A; B; A -> C; A -> D; B -> C; B -> D; E -> C; E -> D"),
        ("A, B <-> C", "A; B; A <-> C; B <-> C"),
        ("A, B", "A; B"),
        ('"a, b", c -> d', '"a, b"; c; "a, b" -> d; c -> d'),
        ("U [latent]; U -> A, B; A -> B", "U [latent]; U -> A; U -> B; A -> B"),
        ("U [latent], V [latent] -> A, B", "U [latent]; V [latent]; U -> A; U -> B; V -> A; V -> B"),
        ("\ufeffX -> Y", "X -> Y"),
        ("X -> Y;\ufeffY -> Z", "X -> Y; Y -> Z"),
        ("\ufeffdag { X -> Y }", "X -> Y"),
        ("dag { X ->\ufeffY; \ufeff Y -> Z }", "X -> Y; Y -> Z"),
    ],
)
def test_lists_of_names_and_byte_order_marks(text, chains):
    assert ADMG.from_string(text) == ADMG.from_string(chains)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A, -> B", "line 1, column 4: a name is missing between ',' and '->'"),
        ("A -> B,", "line 1, column 7: a name is missing after ','"),
        (", A", "line 1, column 1: a name is missing before ','"),
        ("A,, B -> C", "line 1, column 3: a name is missing before ','"),
        ("U, V [latent] -> A", "line 1, column 6: [latent] after 'V' may be meant for 'U' too"),
        ("X -> Y, X", "line 1, column 3: the edge X -> X joins a node to itself"),
        (", ".join(f"a{i}" for i in range(1100)) + "->" + ", ".join(f"b{i}" for i in range(1100)), "line 1, column"),
    ],
)
def test_lists_that_are_wrong_say_where(text, message):
    assert message_of(ADMG.from_string, text).startswith(message)
