"""Parallel worlds: copies of a variable are one node exactly if they are the same function of the same arguments."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mdcm.graph.worlds import ParallelWorlds

NAMES = ("A", "B", "C", "D", "E")


@st.composite
def parents(draw):
    """Parents of five variables in topological order."""
    return {
        name: [other for other in NAMES[:index] if draw(st.booleans())] for index, name in enumerate(NAMES)
    }  # fmt: skip


def term(graph, world, name, *, natural=False):
    """A variable's value in a world, written out as a term over functions and constants."""
    if name in world and not natural:
        return world[name]
    return name, tuple(term(graph, world, parent) for parent in graph[name])


@settings(max_examples=200, deadline=None)
@given(parents(), st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1), max_size=3), max_size=4))
def test_nodes_are_equal_exactly_if_their_terms_are(graph, interventions):
    worlds = ParallelWorlds(graph)
    numbers = {}
    for fixed in [{}, *interventions]:
        world = worlds.world_of({name: worlds.constant(name, value, key=value) for name, value in fixed.items()})
        written = {name: (name, "=", value) for name, value in fixed.items()}
        for name in NAMES:
            for number, natural in ((world[name], False), (worlds.natural(world, name), True)):
                assert numbers.setdefault(term(graph, written, name, natural=natural), number) == number
                assert worlds.is_natural(world, name) == (name not in fixed)
    assert len(set(numbers.values())) == len(numbers) == len(worlds.nodes)
    for number, node in enumerate(worlds.nodes):
        assert all(parent < number for parent in node.parents)
        assert node.is_set == (node.constant is not None)


@settings(max_examples=100, deadline=None)
@given(parents(), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_a_node_of_another_world_and_a_rule_replace_a_variable(graph, name, other):
    worlds = ParallelWorlds(graph)
    one = worlds.world_of({other: worlds.constant(other, 1, key=1)})
    nested = worlds.world_of({name: one[name]})
    assert nested[name] == one[name]

    def rule(value):
        return 1 - value

    ruled = worlds.world_of({}, {name: rule})
    node = worlds.nodes[ruled[name]]
    assert node.rule is rule
    assert node.parents == (worlds.world_of({})[name],)
    assert worlds.world_of({}, {name: rule}) is ruled
    # what is above the variable stays as it is in the actual world
    above = {name}
    for variable in reversed(NAMES):
        if variable in above:
            above.update(graph[variable])
    assert all(ruled[variable] == worlds.world_of({})[variable] for variable in above - {name})


def test_closure_and_copies():
    worlds = ParallelWorlds({"X": [], "M": ["X"], "W": [], "Y": ["M", "W"]})
    actual = worlds.world_of({})
    other = worlds.world_of({"X": worlds.constant("X", 1, key=1)})
    nodes = worlds.closure([actual["Y"], other["Y"]])
    assert nodes == sorted({*actual.values(), *other.values()})
    assert worlds.closure([actual["Y"]], done={actual["M"]}) == sorted([actual["W"], actual["Y"]])
    assert worlds.repeated(nodes) == {"M", "Y"}
    assert worlds.copies(nodes)["X"] == [actual["X"]]
