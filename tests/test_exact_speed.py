"""Shortcuts of exact answers and of draws for several cases, against the long way."""

import itertools
import math

import numpy as np
import pytest
import torch
from exact_models import random_model

import mdcm
from mdcm.elimination import elimination, min_fill_order, min_size_order
from mdcm.mechanisms.base import check_finite
from mdcm.mechanisms.categorical import winners
from mdcm.sampling import densities, exact
from mdcm.sampling.messages import RowFactor, eliminate
from mdcm.sampling.worlds import Network, Units

GRAPH = mdcm.ADMG.from_string("A -> B -> C -> D; A -> D; B -> E; D -> E; A <-> D; B <-> E")
LEVELS = {"A": 2, "B": 3, "C": 2, "D": 4, "E": 3}


@pytest.fixture(scope="module")
def model():
    return random_model(GRAPH, LEVELS, 3, 0, spread=0.5)


class TestWinners:
    @pytest.mark.parametrize("columns", [1, 2, 3, 16, 17])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_argmax_with_the_first_of_equals(self, columns, dtype):
        generator = torch.Generator().manual_seed(columns)
        for scores in (
            torch.randn(500, columns, generator=generator, dtype=dtype),
            torch.randint(0, 3, (500, columns), generator=generator).to(dtype),
            torch.full((3, columns), -math.inf, dtype=dtype),
            torch.randn(0, columns, dtype=dtype),
        ):
            assert np.array_equal(winners(scores).numpy(), np.argmax(scores.numpy(), axis=1))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("impossible", [False, True])
def test_numbers_that_are_none_are_found_wherever_they_are(bad, impossible):
    variable = mdcm.data.Variable("Y", "continuous")
    for place in range(7):
        numbers = torch.zeros(7)
        assert check_finite(variable, numbers, impossible=impossible) is numbers
        numbers[place] = bad
        if impossible and bad == -math.inf:
            assert check_finite(variable, numbers, impossible=True) is numbers
            continue
        with pytest.raises(mdcm.MdcmError, match="not finite"):
            check_finite(variable, numbers, impossible=impossible)
    assert len(check_finite(variable, torch.zeros(0))) == 0


class TestElimination:
    @pytest.mark.parametrize("seed", range(20))
    def test_sums_without_tables_of_products_are_the_same(self, seed):
        rng = np.random.default_rng(seed)
        names = [f"v{k}" for k in range(6)]
        sizes = {name: int(rng.integers(1, 4)) for name in names}
        rows = int(rng.integers(1, 4))
        factors = []
        for name in names:
            scope = tuple(dict.fromkeys([name, *rng.choice(names, int(rng.integers(0, 3)))]))
            own = rows if rng.random() < 0.5 else 1
            factors.append(RowFactor(scope, torch.from_numpy(rng.random((own, *(sizes[one] for one in scope))))))
        keep = tuple(rng.choice(names, int(rng.integers(0, 3)), replace=False).tolist())
        order = elimination([factor.scope for factor in factors], keep, sizes)
        letters = {name: number for number, name in enumerate(names)}
        operands = []
        for scope, table in factors:
            operands += [table.expand(rows, *table.shape[1:]).numpy(), [9, *(letters[name] for name in scope)]]
        expected = np.einsum(*operands, [9, *(letters[name] for name in keep)])
        for draws in (False, True):
            found = eliminate(factors, order, sizes, rows=rows, draws=draws)
            scale = found.log_scale.exp().numpy().reshape(-1, *(1,) * len(keep))
            # a few dozen products and sums
            np.testing.assert_allclose(found.rest.numpy() * scale, expected, rtol=1e-13)

    @pytest.mark.parametrize("seed", range(20))
    def test_the_cheaper_order_is_taken(self, seed, monkeypatch):
        monkeypatch.setattr("mdcm.elimination._CHEAP", 0)
        mdcm.elimination._elimination.cache_clear()
        rng = np.random.default_rng(seed)
        names = list(range(8))
        sizes = {name: int(rng.integers(2, 6)) for name in names}
        scopes = [tuple(rng.choice(names, 3, replace=False).tolist()) for _ in range(8)]
        present = set(itertools.chain(*scopes))
        keep = tuple(list(present)[:1])
        costs = []
        for make in (min_fill_order, min_size_order):
            order = make(scopes, set(keep), sizes)
            assert sorted(order) == sorted(present - set(keep))
            pool, cost = [set(scope) for scope in scopes], 0
            for variable in order:
                union = set().union(*(scope for scope in pool if variable in scope))
                pool = [scope for scope in pool if variable not in scope] + [union - {variable}]
                cost += math.prod(sizes[name] for name in union)
            costs.append(cost)
        assert elimination(scopes, keep, sizes).cells == min(costs)
        mdcm.elimination._elimination.cache_clear()


class TestParts:
    @pytest.mark.parametrize("text", ["P(E | do(B), A)", "P(E, C | do(A, D))", "P(D | C, B)", "P(E[B=1] | B, E)"])
    @pytest.mark.parametrize("cells", [64, 100, 1_000])
    def test_rows_in_parts_are_those_of_one_computation(self, model, monkeypatch, text, cells):
        whole = model.query(text, allow_unidentifiable=True)
        monkeypatch.setattr(exact, "_LARGEST", cells)
        parted = model.query(text, allow_unidentifiable=True)
        if parted.exact:
            difference = np.abs(whole.table["probability"] - parted.table["probability"])
            assert difference.max() < 1e-14

    @pytest.mark.parametrize("rows", range(1, 40))
    def test_parts_are_alike_where_that_costs_little(self, rows):
        for most in range(1, 45):
            batch = exact._batch(rows, most)
            assert 1 <= batch <= min(rows, most)
            assert 2 * batch > min(rows, most)

    def test_tables_in_parts_and_kept_are_the_same(self, model, monkeypatch):
        expected = model.query("P(E | do(B), A)", allow_unidentifiable=True).table["probability"]
        for small, large, kept, most in ((0, 0, 1, 5), (0, 1 << 20, 1, 7), (1 << 15, 1 << 20, 40, 1 << 15)):
            bounds = {"_SMALL": small, "_LARGE": large, "_MOST_CACHED": kept, "_MOST_COMBINATIONS": most}
            for name, value in bounds.items():
                monkeypatch.setattr(densities, name, value)
            densities._tables.clear()
            found = model.query("P(E | do(B), A)", allow_unidentifiable=True).table["probability"]
            # networks see rows in other parts
            assert np.abs(found - expected).max() < 1e-6
            assert len(densities._tables) <= 1 or sum(t.numel() for _, t in densities._tables.values()) <= kept


def test_cases_together_are_the_cases_one_by_one(model):
    rows = torch.arange(300)
    values = torch.arange(3)
    network = Network(model.dcm)
    world = network.world({"B": values})
    together = Units(network, rows, 5, cases=3)
    together.compute(world.values())
    for case in range(3):
        alone = Network(model.dcm)
        one = alone.world({"B": values[case : case + 1]})
        units = Units(alone, rows, 5)
        units.compute(one.values())
        for name in GRAPH.nodes:
            found = together.values[world[name]].view(3, -1)[case]
            assert torch.equal(found, units.values[one[name]]), name
