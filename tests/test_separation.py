"""M-separation and do-calculus against enumeration of paths in graphs that are cut by hand."""

import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import admgs, node_sets

from mdcm.errors import GraphError
from mdcm.graph import ADMG


@given(st.data())
@settings(max_examples=400)
def test_m_separated_agrees_with_path_enumeration(data):
    graph = data.draw(admgs(min_nodes=2))
    x, y, z = data.draw(node_sets(graph.nodes, 3))
    assert graph.admg().m_separated(x, y, z) == oracles.separated(graph.mixed(), x, y, z)


@given(st.data())
@settings(max_examples=150)
def test_m_separated_is_symmetric_and_ignores_the_order_of_nodes(data):
    graph = data.draw(admgs(min_nodes=2, max_nodes=9))
    x, y, z = data.draw(node_sets(graph.nodes, 3))
    admg = graph.admg()
    shuffled = ADMG(data.draw(st.permutations(graph.nodes)), graph.directed[::-1], graph.bidirected, admg.latents[::-1])
    assert admg.m_separated(x, y, z) == admg.m_separated(y, x, z) == shuffled.m_separated(x, y, z)


@given(st.data())
@settings(max_examples=200)
def test_rules_agree_with_path_enumeration(data):
    graph = data.draw(admgs(min_nodes=2, max_nodes=5))
    y, z, x, w = data.draw(node_sets(graph.nodes, 4))
    admg, plain = graph.admg(), graph.mixed()
    assert admg.rule1(y, z, x, w) == oracles.rule1(plain, y, z, x, w)
    assert admg.rule2(y, z, x, w) == oracles.rule2(plain, y, z, x, w)
    assert admg.rule3(y, z, x, w) == oracles.rule3(plain, y, z, x, w)


@pytest.mark.parametrize(
    ("text", "x", "y", "given", "expected"),
    [
        ("X -> Z <- Y", "X", "Y", [], True),
        ("X -> Z <- Y", "X", "Y", "Z", False),
        ("X -> Z <- Y; Z -> W", "X", "Y", "W", False),
        ("A <-> Z <-> B", "A", "B", "Z", False),
        ("X <-> Z -> Y", "X", "Y", "Z", True),
        ("X1; Y1", "X1", "Y1", [], True),
        ("X -> Y", [], "Y", "X", True),
        ("U [latent]; U -> A; U -> B; U -> C", "A", "C", "B", False),
    ],
)
def test_m_separated_textbook_cases(text, x, y, given, expected):
    assert ADMG.from_string(text).m_separated(x, y, given) is expected


def test_m_separated_refuses_overlapping_sets():
    graph = ADMG.from_string("X -> Y")
    with pytest.raises(GraphError, match="'X' is in both x and given; the sets must be disjoint"):
        graph.m_separated("X", "Y", ["X"])
    with pytest.raises(GraphError, match="'Y' is in both y and w"):
        graph.rule2("Y", "X", w="Y")


def test_m_separated_names_the_unknown_node():
    graph = ADMG.from_string("treatment -> outcome")
    with pytest.raises(GraphError, match="the graph has no node 'outcom'; did you mean 'outcome'"):
        graph.m_separated("treatment", "outcom")


def test_pearl_1995_figure_3_front_door_derivation():
    # the steps of the front-door derivation: rule 2 twice, rule 3 once
    graph = ADMG.from_string("X -> Z -> Y; X <-> Y")
    assert graph.rule2("Z", "X")
    assert graph.rule3("X", "Z")
    assert graph.rule2("Y", "Z", w="X")
    assert graph.rule2("Y", "Z", x="X")
    assert graph.rule3("Y", "X", x="Z")
    assert not graph.rule2("Y", "X")
    assert not graph.rule3("Y", "X")
