"""Arrow text: round trips, chains, places, and what a reader is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import admgs

from mdcm.errors import GraphError
from mdcm.formats import GraphRecord, format_arrows, parse_arrows
from mdcm.graph import ADMG

ODD_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.just("\n"), min_size=1).filter(
    lambda name: bool(name.strip())
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


def refusal(text):
    try:
        parse_arrows(text)
    except GraphError as error:
        return error
    return None


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
    assert record.directed_places == ((2, 3), (4, 5))
    assert record.bidirected_places == ((4, 14),)


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
        ("X -> Y\nA B", "line 2, column 3: an arrow (->, <- or <->) or ';' is missing between 'A' and 'B'"),
        ("A -- B", "line 1, column 3: unexpected '--'; edges are written ->, <- or <->"),
        ("A --> B", "line 1, column 3: unexpected '-->'; edges are written ->, <- or <->"),
        ("A, B -> C", "line 1, column 2: unexpected ','; separate statements by ';' or a new line"),
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
