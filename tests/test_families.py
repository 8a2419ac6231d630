"""The generator of chains, diamonds and cones: their laws, and the exact truth against a plain sum over everything."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from mdcm.scm import random_discrete


@pytest.fixture(scope="module")
def families():
    path, before = Path(__file__).parents[1] / "bench" / "families.py", list(sys.path)
    spec = importlib.util.spec_from_file_location("bench_families", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        # scripts beside it have names of other packages
        sys.path[:] = before
    yield module
    del sys.modules[spec.name]


def drawn(families, name):
    """Number of variables, arrows and hidden causes as numbers, and the query."""
    asked = families.problem(name)
    number = {node: int(node[1:]) for node in asked.graph.nodes}
    arrows = {(number[a], number[b]) for a, b in asked.graph.directed}
    causes = [tuple(sorted(number[child] for child in children)) for _, children in asked.graph.confounders]
    assert len(set(causes)) == len(causes)
    assert all(len(pair) == 2 for pair in causes)
    return len(number), arrows, set(causes), asked.query


@pytest.mark.parametrize("n", [3, 17, 49, 99])
def test_a_chain(families, n):
    size, arrows, causes, query = drawn(families, f"chain:{n}")
    assert size == n
    assert arrows == {(i, i + 1) for i in range(n - 1)}
    assert causes == {(2 * k, 2 * k + 2) for k in range((n - 1) // 2)}
    assert query == f"P(V{n - 1} | do(V0))"


@pytest.mark.parametrize("n", [6, 8, 17, 65])
def test_a_diamond(families, n):
    size, arrows, causes, query = drawn(families, f"diamond:{n}")
    assert size == n
    after = {a: [b for x, b in sorted(arrows) if x == a] for a in range(n)}
    assert len(after[0]) == 4
    branches = []
    for first in after[0]:
        path = [0, first]
        while path[-1] != n - 1:
            (step,) = after[path[-1]]
            path.append(step)
        branches.append(path)
    # every other variable lies on one branch, and branches are equally long but for one variable
    assert sorted(v for path in branches for v in path[1:-1]) == list(range(1, n - 1))
    assert max(map(len, branches)) - min(map(len, branches)) <= 1
    assert causes == {(path[k], path[k + 2]) for path in branches for k in range(0, len(path) - 2, 2)}
    assert query == f"P(V{n - 1} | do(V0))"


@pytest.mark.parametrize("rows", [2, 3, 6, 9])
def test_a_cone(families, rows):
    n = rows * (rows + 1) // 2
    size, arrows, causes, query = drawn(families, f"cone:{n}")
    assert size == n
    place = {(row, column): row * (row + 1) // 2 + column for row in range(rows) for column in range(row + 1)}
    assert arrows == {
        (place[row + 1, column + step], place[row, column])
        for row, column in place
        if row + 1 < rows
        for step in (0, 1)
    }
    base = {(place[rows - 1, column], place[rows - 1, column + 1]) for column in range(rows - 1)}
    sides = {
        (place[row, side * row], place[row + 2, side * (row + 2)]) for side in (0, 1) for row in range(0, rows - 2, 2)
    }
    assert causes == base | sides
    assert query == f"P(V0 | do(V{n - 1}))"


@pytest.mark.parametrize("n", [4, 7, 20])
def test_a_cone_of_another_size_is_refused(families, n):
    with pytest.raises(ValueError, match="a cone has"):
        families.problem(f"cone:{n}")


def test_hidden_causes_have_ten_levels_and_variables_four(families):
    asked = families.problem("cone:6")
    truth = families.truth_of(asked, 0)
    assert all(len(prior) == 10 for prior in truth.priors.values())
    assert all(len(levels) == 4 for levels in truth.levels.values())


def summed(scm, asked):
    """P(effect | do(cause)) by a sum over all values of everything."""
    names = [*scm.priors, *asked.graph.nodes]
    sizes = [len(scm.priors[name]) if name in scm.priors else 4 for name in names]
    joint = np.ones(sizes)
    for name in names:
        if name in scm.priors:
            axes, table = (name,), scm.priors[name]
        elif name == asked.cause:
            continue
        else:
            axes, table = (*[axis for axis in scm.axes(name) if axis != name], name), scm.tables[name]
        order = sorted(range(len(axes)), key=lambda place: names.index(axes[place]))
        shape = [size if name in axes else 1 for name, size in zip(names, sizes, strict=True)]
        joint = joint * table.transpose(order).reshape(shape)
    kept = (names.index(asked.cause), names.index(asked.effect))
    found = joint.sum(tuple(axis for axis in range(len(names)) if axis not in kept))
    return found if kept[0] < kept[1] else found.T


@pytest.mark.parametrize(
    ("name", "largest"), [("chain:5", None), ("chain:5", 20), ("diamond:6", None), ("cone:6", None), ("cone:6", 100)]
)
def test_the_truth_is_the_sum_over_everything(families, monkeypatch, name, largest):
    asked = families.problem(name)
    scm = random_discrete(asked.graph, levels=4, latent_levels=2, seed=5, concentration=0.2, smoothing=0.02)
    if largest is not None:
        # states of some hidden causes are gone through one by one
        monkeypatch.setattr(families, "LARGEST", largest)
    found = families.effect_of(scm, asked)
    np.testing.assert_allclose(found, summed(scm, asked), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1)
    # setting the cause changes something, so that a transposed answer is seen
    assert max(np.abs(a - b).max() for a, b in itertools.combinations(found, 2)) > 1e-4
