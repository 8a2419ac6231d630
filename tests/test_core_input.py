"""Arguments that are not a graph, a plan or a question: the compiled core answers in words and never crashes."""

import sys
from pathlib import Path

import numpy as np
import pytest

import mdcm
from mdcm import GraphError, _core

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import core_api

NONE = ((), (), (), ())


def chain(n: int = 3) -> _core.Admg:
    return _core.Admg(n, range(n - 1), range(1, n), (), (), np.zeros(1, np.int64), ())


def group(**changed: object) -> dict[str, object]:
    return {"targets": [], "columns": None, "domain": [], "boxes": [[]], "rows": -1} | changed


@pytest.mark.parametrize(
    ("offsets", "children"),
    [
        ([0, 2], [0, 1, 2]),  # children beyond the last offset
        ([0, 2], [0, 1, 7]),  # ... which are no nodes
        ([0], [0, 1]),
        ([], [2_000_000_000]),
        ([1, 3], [0, 1, 2]),  # children before the first offset
        ([0, 4], [0, 1, 2]),
        ([0, 2, 1, 3], [0, 1, 2]),
        ([0, -2], [0, 1]),
        ([0, 2, 2], [0, 1]),
        ([[0, 2]], [0, 1]),
    ],
)
def test_latent_offsets_must_tile_the_children(offsets, children):
    with pytest.raises(ValueError, match="latent"):
        _core.Admg(3, *NONE, np.array(offsets, np.int64), children)


@pytest.mark.parametrize("n", [-1, -5, 2**31 - 1, 2**26 + 1])
def test_a_graph_has_a_number_of_nodes_that_memory_holds(n):
    with pytest.raises(ValueError, match=r"negative|too large"):
        _core.Admg(n, *NONE, np.zeros(1, np.int64), ())


@pytest.mark.parametrize("nodes", [-5, -1, 2**26 + 1, True, 2.0, None])
def test_from_edge_index_refuses_what_is_not_a_number_of_nodes(nodes):
    with pytest.raises(GraphError, match="nodes must be"):
        mdcm.ADMG.from_edge_index(nodes, np.zeros((2, 0), np.int32))


def test_none_is_not_a_graph():
    with pytest.raises(TypeError):
        _core.ModularityClosure(None)
    with pytest.raises(TypeError):
        _core.HGraph(None, [], np.zeros(0, np.uint8), [group()])
    with pytest.raises(TypeError):
        _core.Identification(None, [], [], [[]], [])


@pytest.mark.parametrize(
    "nodes", [None, "01", 1.5, [1.5], ["a"], [None], np.array([0.0]), np.zeros((1, 1), np.int32), [2**70]]
)
def test_what_is_not_a_list_of_node_numbers(nodes):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        chain().ancestors(nodes)


@pytest.mark.parametrize("nodes", [[3], [-1], [2**31], np.array([2**40]), np.array([2**64 - 1], np.uint64)])
def test_node_numbers_outside_the_graph(nodes):
    with pytest.raises(IndexError):
        chain().descendants(nodes)


def test_node_numbers_where_memory_is_not_aligned():
    raw = np.zeros(9, np.uint8)[1:].view(np.int32)
    raw[:] = (2, 1)
    assert not raw.flags.aligned
    assert chain().ancestors(raw).tolist() == [0, 1, 2]


def test_a_list_that_is_emptied_while_it_is_read():
    assert chain().ancestors(core_api.Shrinking([2, 1])).tolist() == [0, 1, 2]
    assert _core.index_pairs({"a": 0}, [("a", "a")])[0].tolist() == [0]


@pytest.mark.parametrize(
    ("labels", "training", "message"),
    [
        ([0, 1, 2], [0, 0, 0, 0], "more ways of training than nodes"),
        ([0, 1, 1], [0, 0, 0], "a part has no node"),
        ([0, 0, 0], [0, 1], "a part has no node"),
        ([0, 1], [0, 0], "one part per node"),
        ([0, 1, 2], [0, 0, 9], "no such training"),
        ([0, 1, 2], [[0, 0, 0]], "one-dimensional"),
    ],
)
def test_parts_and_ways_of_training_match(labels, training, message):
    with pytest.raises((ValueError, IndexError), match=message):
        _core.HGraph(chain(), labels, np.array(training, np.uint8), [group()])


def test_a_c_component_is_not_split():
    graph = _core.Admg(3, (), (), [0], [2], np.zeros(1, np.int64), ())
    with pytest.raises(ValueError, match="a c-component lies in two parts"):
        _core.HGraph(graph, [0, 1, 2], np.zeros(3, np.uint8), [group()])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": [1, 0], "domain": [2, 2], "boxes": [[[], []]]}, "ascending"),
        ({"targets": [1, 1], "domain": [2, 2], "boxes": [[[], []]]}, "ascending"),
        ({"targets": [1], "domain": [], "boxes": [[[]]]}, "one number of levels"),
        ({"targets": [1], "domain": [-1], "boxes": [[[]]]}, "negative"),
        ({"targets": [1], "domain": [2], "boxes": [[]]}, "one list of levels"),
        ({"columns": np.ones(2, np.uint8)}, "one flag per node"),
        ({"columns": "all"}, "'columns'"),
        ({"domain": None}, "'domain'"),
        ({"boxes": [[["x"]]]}, "'boxes'"),
        ({"rows": "many"}, "'rows'"),
        ({"rows": -7}, "number of rows"),
    ],
)
def test_groups_of_data_sets(changed, message):
    with pytest.raises((ValueError, TypeError), match=message):
        _core.Identification(chain(), [group(**changed)], [], [[]], [(2, 0, False)])


@pytest.mark.parametrize("key", ["targets", "columns", "domain", "boxes", "rows"])
def test_a_group_needs_every_entry(key):
    partial = {name: value for name, value in group().items() if name != key}
    with pytest.raises(ValueError, match=f"needs an entry '{key}'"):
        _core.HGraph(chain(), [0, 1, 2], np.zeros(3, np.uint8), [partial])


@pytest.mark.parametrize(
    "worlds",
    [
        [[(1, -1, 0)]],  # itself
        [[(1, -1, 1)], [(1, -1, 0)]],
        [[], [(0, -1, 2)], [(0, -1, 3)], [(0, -1, 1)]],
    ],
)
def test_worlds_take_no_values_from_each_other_in_a_circle(worlds):
    with pytest.raises(ValueError, match="in a circle"):
        _core.Identification(chain(), [group()], [], worlds, [(2, 0, False)])


def test_worlds_set_a_node_once_and_to_a_value_of_its_own():
    with pytest.raises(ValueError, match="sets a node twice"):
        _core.Identification(chain(), [group()], [], [[(1, 1, -1), (1, 1, -1)]], [(2, 0, False)])
    with pytest.raises(ValueError, match="value of another node"):
        _core.Identification(chain(), [group()], [], [[(1, 0, -1)]], [(2, 0, False)])


@pytest.mark.parametrize("number", ["0", 1.0, None, [], -1, 2**31, 2**80])
def test_numbers_of_names_are_node_numbers(number):
    with pytest.raises((TypeError, IndexError, OverflowError)):
        _core.index_pairs({"a": number}, [("a", "a")])


def test_explaining_what_is_in_conflict_looks_at_no_node_that_was_not_prepared():
    # two values of Y at once, given a variable whose own factor is a simple one
    verdict = mdcm.identify("W -> Z; W -> Y; X -> Y", "P(Y[X=0], Y[X=1] | Z=0)")
    assert verdict.identifiable is False
    assert "two different values of" in verdict.explain()


def test_a_projection_into_too_many_pairs_is_refused_before_memory_is_taken():
    children = 20_000
    heads = range(1, children + 1)
    graph = _core.Admg(children + 1, np.zeros(children, np.int32), heads, (), (), np.zeros(1, np.int64), ())
    with pytest.raises(ValueError, match="too large"):
        graph.latent_projection(heads)
    assert len(graph.latent_projection(heads, shared=True)["latent_children"]) == children


def test_random_calls_of_every_entry_point_break_nothing():
    counts = core_api.run(600, seed=0)
    assert sorted(counts) == sorted(core_api.CALLS)
    # deep code is reached, and wrong arguments are refused
    assert all(values > 10 and errors > 1 for values, errors in counts.values())


def strata(**changed: object) -> object:
    """A call of the growth of strata, right but for what is changed."""
    arguments: dict[str, object] = {
        "draw_bins": np.array([[0, 1], [1, 0], [1, 1]], np.int32),
        "row_bins": np.array([[0, 0], [1, 1]], np.int32),
        "share": np.full(3, 1 / 3),
        "counts": np.array([5.0, 7.0]),
        "sizes": np.array([2, 2], np.int32),
        "ordered": np.zeros(2, np.uint8),
        "most": 4,
        "expected": 1.0,
        "least": 0.0,
    }
    return _core.grow_strata(**(arguments | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"draw_bins": np.array([[0, 2], [1, 0], [1, 1]], np.int32)}, IndexError, "bin 2 in a column of 2"),
        ({"row_bins": np.array([[0, -1], [1, 1]], np.int32)}, IndexError, "bin -1"),
        ({"draw_bins": np.zeros((3, 2), np.int64)}, TypeError, "int32"),
        ({"draw_bins": np.zeros((3, 2), np.int32, order="F")}, TypeError, "contiguous"),
        ({"draw_bins": np.zeros((3, 1), np.int32)}, ValueError, "fit each other"),
        ({"draw_bins": np.zeros(6, np.int32)}, ValueError, "2 axes"),
        ({"share": np.array([1.0, np.nan, 0.0])}, ValueError, "finite"),
        ({"counts": np.array([1.0, -1.0])}, ValueError, "not negative"),
        ({"counts": np.ones(3)}, ValueError, "fit each other"),
        ({"sizes": np.array([2, 0], np.int32)}, ValueError, "must have a bin"),
        ({"sizes": np.array([2, 2**30], np.int32)}, ValueError, "more than"),
        ({"sizes": np.zeros(0, np.int32)}, ValueError, "must be a column"),
        ({"ordered": np.zeros(3, np.uint8)}, ValueError, "fit each other"),
        ({"most": 0}, ValueError, "from 1 to"),
        ({"expected": float("inf")}, ValueError, "finite"),
        ({"share": None}, TypeError, "float64"),
    ],
)
def test_strata_are_grown_from_what_fits_together(changed, error, words):
    strata()
    with pytest.raises(error, match=words):
        strata(**changed)


def test_strata_of_nothing():
    """No draw or no row is one leaf."""
    none = np.zeros((0, 2), np.int32)
    splits, of_draws, of_rows = strata(draw_bins=none, share=np.zeros(0))
    assert (splits, len(of_draws), of_rows.tolist()) == ([], 0, [0, 0])
    splits, of_draws, of_rows = strata(row_bins=none, counts=np.zeros(0))
    assert (splits, of_draws.tolist(), len(of_rows)) == ([], [0, 0, 0], 0)
