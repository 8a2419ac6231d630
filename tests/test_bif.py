"""BIF: the structure of Bayesian networks, and the plans of large ones with hidden nodes."""

import contextlib
import gzip
import random
import time

import networkx as nx
import oracles
import pytest
from graph_texts import EXAMPLES, SPRINKLER, message_of

import mdcm
from mdcm.errors import GraphError
from mdcm.graph import read_graph
from mdcm.graph.formats import (
    parse_bif,
    read_record,
)


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


def test_packed_bif_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("mdcm.graph.formats._MAX_BYTES", 1 << 20)
    (tmp_path / "a.bif.gz").write_bytes(gzip.compress(b" " * (1 << 21)))
    assert "larger than 1 MiB when unpacked" in message_of(read_graph, tmp_path / "a.bif.gz")
