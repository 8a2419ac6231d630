"""Arrow text, dagitty, DOT, GML, GraphML and BIF: round trips, places, and what a reader is told."""

import contextlib
import gzip
import importlib.util
import random
import time
from pathlib import Path

import networkx as nx
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import admgs

import mdcm
from mdcm.errors import GraphError
from mdcm.graph import ADMG, read_graph
from mdcm.graph.formats import (
    GraphRecord,
    format_arrows,
    format_dagitty,
    format_dot,
    is_dot,
    parse_arrows,
    parse_bif,
    parse_dot,
    parse_gml,
    parse_graphml,
    read_record,
)
from mdcm.graph.formats.records import is_hidden

EXAMPLES = Path(importlib.util.find_spec("pgmpy").submodule_search_locations[0]) / "utils" / "example_models"
WRITERS = {"dag": ADMG.to_dagitty, "dot": ADMG.to_dot, "gml": ADMG.to_gml, "graphml": ADMG.to_graphml}
READERS = {"dag": parse_dot, "dot": parse_dot, "gml": parse_gml, "graphml": parse_graphml}

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


def refusal(text, parse=parse_arrows):
    try:
        parse(text)
    except GraphError as error:
        return error
    return None


def message_of(parse, *arguments):
    with pytest.raises(GraphError) as caught:
        parse(*arguments)
    return str(caught.value)


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


# ---------------------------------------------------------------------- dagitty and DOT


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
    assert record.directed_places[:3] == ((7, 11), (8, 11), (8, 11))
    assert record.bidirected_places == ((8, 31), (8, 31), (9, 11))


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


# ---------------------------------------------------------------------- GML and GraphML


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


# ---------------------------------------------------------------------- BIF


SPRINKLER = """network sprinkler {
}
variable rain { type discrete [ 2 ] { yes, no }; }
variable sprinkler { type discrete [ 2 ] { yes, no }; }
variable wet-grass { type discrete [ 2 ] { yes, no }; }
probability ( rain ) { table 0.2, 0.8; }
probability ( sprinkler | rain ) {
  (yes) 0.01, 0.99;
  (no) 0.4, 0.6;
}
probability ( wet-grass | sprinkler, rain ) {
  (yes, yes) 0.99, 0.01;
  (yes, no) 0.9, 0.1;
  (no, yes) 0.8, 0.2;
  (no, no) 0.0, 1.0;
}"""


@pytest.mark.parametrize(
    "text",
    [
        SPRINKLER,
        SPRINKLER.replace("}\nvariable", "} // a { comment\nvariable").replace("network", "/* }\n */ network"),
        SPRINKLER.replace("\n", " "),
        SPRINKLER.replace(" {", "\n{").replace("wet-grass", '"wet-grass"'),
    ],
    ids=["plain", "comments", "one line", "braces apart"],
)
def test_bif_structure(text):
    record = parse_bif(text)
    assert record.nodes == ("rain", "sprinkler", "wet-grass")
    assert record.directed == (("rain", "sprinkler"), ("sprinkler", "wet-grass"), ("rain", "wet-grass"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this BIF declares no variable"),
        ("network x {\n}\n", "this BIF declares no variable"),
        (
            SPRINKLER.partition("probability ( wet")[0],
            "line 5, column 10: the probabilities of 'wet-grass' are missing",
        ),
        (SPRINKLER.replace("variable rain", "var rain"), "line 3, column 1: 'var' is not a BIF keyword"),
        (SPRINKLER.replace("| rain", "| snow"), "line 7, column 27: 'snow' is not declared as a variable"),
        (
            SPRINKLER.replace("sprinkler, rain", "rain, rain"),
            "line 11, column 33: 'rain' is given twice as a parent of 'wet-grass'",
        ),
        (SPRINKLER + "variable rain { }", "line 16, column 11: the variable 'rain' is declared twice"),
        (SPRINKLER + "probability ( rain ) { }", "line 16, column 16: the probabilities of 'rain' are given twice"),
        (SPRINKLER[:-1], "line 11, column 45: this '{' is not closed"),
        (SPRINKLER.replace("{ table", '{ property "x; table'), "line 6, column 33: a quoted text does not end"),
        (SPRINKLER + "/* more", "line 16, column 2: a comment does not end"),
        (SPRINKLER.replace("( rain )", "( rain"), "line 6, column 20: ')' is expected or '|' after 'rain'"),
        (SPRINKLER.replace("rain )", '"" )', 1), "line 6, column 15: a name is empty"),
    ],
)
def test_bad_bif_says_why(text, message):
    assert message_of(parse_bif, text).startswith(message)


def test_bif_takes_any_name_in_quotes_and_braces_in_properties():
    text = SPRINKLER.replace("wet-grass", '"wet {grass}, \\"very\\""').replace(
        "rain { type", 'rain { property "position = {(1, 2)}; // no comment"; type'
    )
    record = parse_bif("\ufeffproperty author = {me};" + text)
    assert record.nodes == ("rain", "sprinkler", 'wet {grass}, "very"')
    assert parse_bif(SPRINKLER.replace("sprinkler", "Rain")).nodes == ("rain", "Rain", "wet-grass")


@pytest.mark.parametrize("name", ["asia", "child"])
def test_bif_is_read_as_pgmpy_does(name):
    readwrite = pytest.importorskip("pgmpy.readwrite")
    text = gzip.decompress((EXAMPLES / f"{name}.bif.gz").read_bytes()).decode()
    theirs, ours = readwrite.BIFReader(string=text), parse_bif(text)
    assert (set(theirs.variable_names), set(map(tuple, theirs.variable_edges))) == (set(ours.nodes), set(ours.directed))


@pytest.mark.parametrize(
    "text",
    [
        "{" * 10**5,
        "/*" * 10**5,
        "/" * 10**5,
        '"' * 10**5,
        "variable a {" + '"x' * 10**5,
        "variable a {" + "{}" * 10**5,
        "variable a/" + "/" * 10**5,
        "variable a {} probability (a | " + ", ".join(f"b{i}" for i in range(10**4)) + ") {",
        "property " + "x " * 10**5,
    ],
)
def test_bif_takes_linear_time(text):
    start = time.process_time()
    with contextlib.suppress(GraphError):
        parse_bif(text)
    assert time.process_time() - start < 2


def test_alarm_with_hidden_nodes_is_planned_from_bif():
    hide = ["HYPOVOLEMIA", "CATECHOL", "VENTLUNG", "SHUNT", "CO"]
    whole, graph = read_graph(EXAMPLES / "alarm.bif.gz"), read_graph(EXAMPLES / "alarm.bif.gz", hide=hide)
    assert (len(whole.nodes), len(whole.directed)) == (37, 46)
    assert graph.nodes == tuple(name for name in whole.nodes if name not in hide)
    full = mixed(whole)
    # through the five hidden nodes only: their own definition, on a graph small enough for it
    assert_projected(graph, full, hide)
    plan = mdcm.plan(graph, objective="adversarial")
    parts, edges = oracles.plan_adversarial(mixed(graph))
    assert {frozenset(h.variables) for h in plan.hnodes} == parts
    assert {tuple(frozenset(plan.hnodes[i].variables) for i in edge) for edge in plan.edges} == edges
    assert plan.largest == max(map(len, parts)) > 1


def test_link_with_hidden_nodes_is_planned_from_bif():
    record = read_record(EXAMPLES / "link.bif.gz")
    assert (len(record.nodes), len(record.directed)) == (724, 1125)
    parents = {b for _, b in record.directed}
    hide = [name for name in record.nodes if name in parents and name in {a for a, _ in record.directed}][::6]
    graph = read_graph(EXAMPLES / "link.bif.gz", hide=hide)
    assert len(graph.nodes) == 724 - len(hide) == 654
    full, shown = oracles.Mixed(record.nodes, frozenset(record.directed), frozenset()), mixed(graph)
    assert_projected(graph, full, hide)
    plan = mdcm.plan(graph, objective="adversarial")
    parts = [frozenset(h.variables) for h in plan.hnodes]
    assert sorted(name for part in parts for name in part) == sorted(graph.nodes)
    assert all(any(part <= whole for whole in parts) for part in oracles.c_components(shown))
    rng = random.Random(0)
    for j in [*rng.sample(range(len(parts)), 20), max(range(len(parts)), key=lambda k: len(parts[k]))]:
        needs = oracles.closure(shown, set(parts[j]), set())
        assert {i for i, k in plan.edges if k == j} == {i for i, part in enumerate(parts) if part & needs}


def mixed(graph):
    pairs = frozenset(frozenset({a, b}) for a in graph.nodes for b in graph.siblings(a))
    return oracles.Mixed(graph.nodes, frozenset(graph.directed), pairs)


def assert_projected(graph, full, hide):
    """The graph is the projection of ``full`` as far as edges by definition and sampled separations tell."""
    hidden = set(hide)
    children = {name: set() for name in full.nodes}
    for a, b in full.directed:
        children[a].add(b)

    def shown_below(name):
        """Observed nodes that a directed path reaches through hidden ones only."""
        found, pending = set(), [name]
        while pending:
            below = children[pending.pop()]
            found |= below - hidden
            pending += below & hidden
        return found

    assert set(graph.directed) == {(a, b) for a in graph.nodes for b in shown_below(a)}
    assert mixed(graph).pairs == {frozenset({a, b}) for u in hide for a in shown_below(u) for b in shown_below(u) - {a}}
    whole, rng = nx.DiGraph(sorted(full.directed)), random.Random(1)
    whole.add_nodes_from(full.nodes)
    answers = set()
    for _ in range(60):
        x = rng.choice(graph.nodes)
        y = rng.choice([name for name in graph.nodes if name != x])
        near = sorted((shown_below(x) | full.parents([x]) | full.parents([y])) - {x, y} - hidden)
        z = set(rng.sample(near, min(len(near), rng.randint(0, 3))))
        answers.add(graph.m_separated(x, y, given=z))
        assert graph.m_separated(x, y, given=z) == nx.is_d_separator(whole, {x}, {y}, z)
        assert graph.ancestors(x) == full.ancestors([x]) - hidden
    assert answers == {True, False}


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", ["txt", "admg", "dag", "dagitty", "dot", "gv", "gml", "graphml", "GML"])
def test_read_graph_goes_by_the_suffix_and_hides(tmp_path, suffix):
    graph = ADMG.from_string("Ω -> H -> B; H -> C; C <-> Ω; U [latent]; U -> B; U -> C; U -> Ω")
    write = {"dagitty": ADMG.to_dagitty, "gv": ADMG.to_dot, "GML": ADMG.to_gml, "txt": ADMG.to_dot, **WRITERS}
    path = tmp_path / f"graph.{suffix}"
    path.write_text(write.get(suffix, ADMG.to_string)(graph), encoding="utf-8")
    assert read_graph(path) == graph
    hidden = read_graph(path, hide="H")
    assert hidden == graph.latent_projection(["Ω", "B", "C"], shared=True)
    assert read_graph(path, hide=["H", "U"]) == hidden
    assert message_of(read_graph, path, ["HH"]) == f"{path}: the graph has no node 'HH' to hide; did you mean 'H'?"


def test_read_graph_reads_bif_packed_or_not(tmp_path):
    plain, packed = tmp_path / "net.bif", tmp_path / "net.BIF.gz"
    plain.write_text(SPRINKLER.replace("\n", "\r\n"), encoding="utf-8", newline="")
    packed.write_bytes(gzip.compress(SPRINKLER.encode()))
    family = ["sprinkler", "wet-grass"]
    expected = ADMG(family, [("sprinkler", "wet-grass")], latents={"rain": family})
    assert read_graph(plain, hide=["rain"]) == read_graph(packed, hide=["rain"]) == expected
    for data in (b"network", packed.read_bytes()[:-9]):
        packed.write_bytes(data)
        start = f"{packed}: the graph cannot be read: it is not a gzip file: "
        assert message_of(read_graph, packed).startswith(start)


def test_read_graph_says_file_line_and_column_of_any_format(tmp_path):
    for suffix, text, place in (("dag", "A -> B\nB --  C", (2, 3)), ("gml", "graph [\n(", (2, 1))):
        path = tmp_path / f"bad.{suffix}"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(GraphError) as caught:
            read_graph(path)
        assert str(caught.value).startswith(f"{path}: line {place[0]}, column {place[1]}: ")
        assert (caught.value.line, caught.value.column) == place


def test_dagitty_files_keep_their_bidirected_edges_and_positions():
    record = read_record(EXAMPLES / "M-bias.txt")
    assert record.bidirected == (("D", "Z"), ("E", "Z"))
    assert record.positions == {"D": (1.0, 1.0), "E": (-2.0, 1.0), "Z": (-0.5, 0.5)}
    graph = read_graph(EXAMPLES / "M-bias.txt")
    assert parse_dot(graph.to_dagitty(record.positions)).positions == record.positions


# ---------------------------------------------------------------------- what would be read as something else


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


@pytest.mark.parametrize("suffix", ["txt", "dag", "dot", "gml", "graphml", "bif"])
def test_byte_order_marks_of_files_and_texts_are_no_part_of_a_name(tmp_path, suffix):
    graph = ADMG.from_string("X -> Y -> Z")
    write = {"dagitty": ADMG.to_dagitty, **WRITERS}
    text = write[suffix](graph) if suffix in write else graph.to_string()
    if suffix == "bif":
        blocks = [
            f"variable {name} {{}} probability ({name}{given_}) {{}}"
            for name, given_ in [("X", ""), ("Y", " | X"), ("Z", " | Y")]
        ]
        text = " ".join(blocks)
    (tmp_path / f"g.{suffix}").write_text("\ufeff\ufeff" * (suffix not in {"gml", "graphml"}) + text, encoding="utf-8")
    assert read_graph(tmp_path / f"g.{suffix}") == graph
    reader = {**READERS, "bif": parse_bif, "txt": parse_arrows}[suffix]
    assert reader("\ufeff" + text).nodes == graph.nodes


def test_packed_bif_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("mdcm.graph.formats._MOST_BYTES", 1 << 20)
    (tmp_path / "a.bif.gz").write_bytes(gzip.compress(b" " * (1 << 21)))
    assert "larger than 1 MiB when unpacked" in message_of(read_graph, tmp_path / "a.bif.gz")
