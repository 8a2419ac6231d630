"""Independences that a graph implies, and whether data contradict them: against brute force, and at known rates."""

import importlib
import io
import itertools
import math
import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import random_admg
from oracles import Mixed, is_open, paths, subsets
from scipy import stats
from strategies import admgs

import mdcm
from mdcm.checking import check, implied_independences
from mdcm.checking.statistics import log_f_tail, log_gamma_tail, table_test
from mdcm.data import Dataset
from mdcm.errors import DataError, GraphError
from mdcm.graph import ADMG
from mdcm.scm import random_discrete


@dataclass(frozen=True)
class Case:
    """A true graph and rows of it."""

    graph: ADMG
    table: pd.DataFrame


def discrete_case(seed, rows):
    """Six to eight binary and ternary variables, one to three confounders, a random positive model."""
    graph, rng = _random_graph(seed)
    levels = {name: int(rng.integers(2, 4)) for name in graph.nodes}
    return Case(graph, random_discrete(graph, levels=levels, seed=seed).sample(rows, seed=seed))


def gaussian_case(seed, rows):
    """The same graphs; every variable is a sum of its parents and confounders, coefficients of size 0.3 to 1."""
    graph, rng = _random_graph(seed)
    hidden = {name: rng.normal(size=rows) for name, _ in graph.confounders}
    columns = {}
    for node in graph.topological_order():
        causes = [hidden[name] for name, children in graph.confounders if node in children]
        causes += [columns[parent] for parent in sorted(graph.parents(node))]
        columns[node] = rng.normal(size=rows)
        for cause in causes:
            columns[node] = columns[node] + rng.choice([-1, 1]) * rng.uniform(0.3, 1) * cause
    return Case(graph, pd.DataFrame({node: columns[node] for node in graph.nodes}))


CASES = {"discrete": discrete_case, "gaussian": gaussian_case}


def _random_graph(seed):
    rng = np.random.default_rng([seed, 77])
    size = int(rng.integers(6, 9))
    return random_admg(size, size + int(rng.integers(0, 4)), int(rng.integers(1, 4)), seed), rng


def deletions(graph):
    """Pairs and graphs without one edge or confounder, where the pair becomes separable."""
    without = [
        (edge, ADMG(graph.nodes, [other for other in graph.directed if other != edge], graph.bidirected))
        for edge in graph.directed
    ]
    without += [
        (pair, ADMG(graph.nodes, graph.directed, [other for other in graph.bidirected if other != pair]))
        for pair in graph.bidirected
    ]
    return [
        (frozenset(pair), wrong)
        for pair, wrong in without
        if frozenset(pair) in {frozenset({one.x, one.y}) for one in implied_independences(wrong)}
    ]


def wrong_cases(kind, count, rows, first_seed):
    """(pair, wrong graph, table) of one deletion each, for so many true graphs that have any."""
    seed = first_seed
    while count:
        seed += 1
        case = CASES[kind](seed, rows)
        choices = deletions(case.graph)
        if choices:
            count -= 1
            pair, wrong = choices[np.random.default_rng([seed, 78]).integers(len(choices))]
            yield pair, wrong, case.table


def ranks_first(row, pair):
    return frozenset({row["x"], row["y"]}) == pair


class TestImpliedIndependences:
    @settings(max_examples=300)
    @given(st.data(), admgs(min_nodes=2, max_nodes=6))
    def test_are_all_pairs_that_any_set_separates_and_no_member_can_be_left_out(self, data, drawn):
        columns = data.draw(st.sets(st.sampled_from(drawn.nodes), min_size=2))
        do = sorted(data.draw(st.sets(st.sampled_from(sorted(columns)), max_size=2)))
        cut = drawn.mixed().without_into(do)
        # targets may have been set in any combination, as if they had a common cause
        mixed = Mixed(cut.nodes, cut.directed, cut.pairs | ({frozenset(do)} if len(do) == 2 else frozenset()))
        found = {frozenset({one.x, one.y}): one for one in implied_independences(drawn.admg(), columns, do=do)}
        assert len(found) == len(list(implied_independences(drawn.admg(), columns, do=do)))
        for pair in map(frozenset, itertools.combinations(sorted(columns), 2)):
            all_paths = list(paths(mixed, *sorted(pair)))

            def separates(members, all_paths=all_paths):
                return not any(is_open(mixed, path, set(members)) for path in all_paths)

            if pair not in found:
                assert not any(separates(members) for members in subsets(columns - pair))
                continue
            members = set(found[pair].given)
            assert members <= columns - pair
            assert separates(members)
            assert not any(separates(members - {one}) for one in members)

    @given(admgs(min_nodes=2, max_nodes=8, max_latents=0, max_bidirected=0))
    def test_of_a_dag_are_pairs_given_parents_of_the_later(self, drawn):
        graph = drawn.admg()
        place = {name: k for k, name in enumerate(graph.topological_order())}
        found = list(implied_independences(graph))
        for one in found:
            assert place[one.x] < place[one.y]
            assert set(one.given) <= graph.parents(one.y)
        adjacent = {frozenset(edge) for edge in graph.directed}
        every = {frozenset(pair) for pair in itertools.combinations(graph.nodes, 2)}
        assert {frozenset({one.x, one.y}) for one in found} == every - adjacent

    def test_leave_out_an_inseparable_pair(self):
        graph = "X -> Z -> Y; X <-> Z; Z <-> Y"
        assert not list(implied_independences(ADMG.from_string(graph)))
        notes = check(graph, random_discrete(ADMG.from_string(graph), levels=2).sample(100)).notes
        assert notes == (
            (
                "no set of observed variables separates the pair X and Y without an edge, so the graph implies no "
                "independence of them"
            ),
            (
                "hidden causes can imply more, which is not tested: equalities of Verma's kind, and inequalities other "
                "than an instrument's"
            ),
        )

    def test_refuse_an_unknown_name(self):
        with pytest.raises(GraphError, match="no node 'Q'"):
            next(implied_independences(ADMG.from_string("X -> Y"), ["X", "Q"]))

    def test_come_one_by_one_from_a_large_graph(self):
        size = 3_000
        graph = ADMG([f"V{i}" for i in range(size)], [(f"V{(i - 1) // 2}", f"V{i}") for i in range(1, size)])
        began = time.process_time()
        some = list(itertools.islice(implied_independences(graph), 2_000))
        assert time.process_time() - began < 3
        assert all(len(one.given) <= 1 for one in some)


class TestTails:
    @pytest.mark.parametrize("shape", [1e-3, 0.5, 1.0, 2.3, 10.0, 100.0])
    @pytest.mark.parametrize("times", [0.01, 0.5, 0.99, 1.01, 1.5, 4.0])
    def test_gamma_agrees_with_scipy(self, shape, times):
        x = times * (shape + 1)
        assert log_gamma_tail(shape, x) == pytest.approx(stats.gamma.logsf(x, shape), rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("deviations", [-3.0, -0.1, 0.1, 5.0, 30.0])
    def test_gamma_agrees_with_scipy_where_the_shape_is_large(self, deviations):
        x = 1e4 + deviations * 1e2
        # lgamma of 10,000 leaves an error of some 1e-11
        assert log_gamma_tail(1e4, x) == pytest.approx(stats.gamma.logsf(x, 1e4), rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("upper", [1, 2, 4, 36])
    @pytest.mark.parametrize("lower", [5, 30, 20_000])
    @pytest.mark.parametrize("x", [1e-3, 0.9, 1.1, 2.0, 30.0])
    def test_f_agrees_with_scipy(self, upper, lower, x):
        expected = stats.f.logsf(x, upper, lower)
        # lgamma of 10,000 and more leaves an error of some 1e-11
        tolerance = 1e-9 if expected > -500 else 1e-7
        assert log_f_tail(x, upper, lower) == pytest.approx(expected, rel=tolerance, abs=1e-9)

    def test_do_not_underflow(self):
        # by the leading terms of the asymptotic series
        for dof, x in ((1, 1e5), (4, 1e6)):
            a, half = dof / 2, x / 2
            series = (a - 1) * math.log(half) - half - math.lgamma(a) + math.log1p((a - 1) / half)
            assert log_gamma_tail(a, half) == pytest.approx(series, rel=1e-9)
        assert -math.inf < log_f_tail(1e6, 1, 20_000) < -30_000
        assert log_gamma_tail(1.0, 0.0) == log_f_tail(0.0, 1, 2) == 0.0


class TestTables:
    def test_mean_and_variance_are_those_over_all_permutations(self):
        x = np.array([0, 0, 0, 1, 1, 2, 2])
        y = np.array([0, 1, 1, 1, 0, 0, 0])
        n, damping = len(x), math.sqrt(len(x)) / 2
        rows, columns = np.bincount(x), np.bincount(y)

        def direct(permuted):
            counts = np.zeros((3, 2))
            np.add.at(counts, (x, permuted), 1)
            weights = 1 / (rows + damping)[:, None] / (columns + damping)
            return n * float((weights * (counts - np.outer(rows, columns) / n) ** 2).sum())

        values = np.array([direct(np.array(order)) for order in itertools.permutations(y.tolist())])
        found = table_test(x, y, np.zeros(n, dtype=np.int64))
        assert found["dof"] == pytest.approx(2 * values.mean() ** 2 / values.var())
        assert found["statistic"] == pytest.approx(direct(y) * 2 * values.mean() / values.var())

    def test_agree_with_pearson_where_rows_are_many(self):
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 3, 200_000), rng.integers(0, 2, 200_000)
        found = table_test(x, y, np.zeros(len(x), dtype=np.int64))
        classical = stats.chi2_contingency(pd.crosstab(x, y), correction=False)
        assert found["dof"] == pytest.approx(2, rel=1e-3)
        assert math.exp(found["log_p"]) == pytest.approx(classical.pvalue, rel=0.02)

    def test_effect_is_conditional_mutual_information(self):
        truth = random_discrete(ADMG.from_string("Z -> X -> Y; Z -> Y"), levels=3, seed=1)
        (row,) = check("X <- Z -> Y", truth.sample(50_000, seed=0)).table.to_dict("records")
        joint = truth.exact(["Z", "X", "Y"]).to_numpy().reshape(3, 3, 3)
        split = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True) / joint.sum((1, 2), keepdims=True)
        # the standard error is about the root of 2 information / rows
        expected = float((joint * np.log(joint / split)).sum())
        assert row["effect"] == pytest.approx(expected, abs=4 * math.sqrt(2 * expected / 50_000))

    def test_rare_levels_and_small_strata_raise_no_alarm(self):
        alarms, small, count = 0, 0, 0
        for seed in range(60):
            graph = random_admg(7, 9, 2, seed)
            truth = random_discrete(graph, levels=5, seed=seed, concentration=0.15, smoothing=0.01)
            found = check(graph, truth.sample(1_000, seed=seed)).table
            alarms += bool(found["rejected"].any())
            small += int((found["p"] < 0.01).sum())
            count += len(found)
        assert alarms <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95)
        assert small <= count * 0.01 + 3 * math.sqrt(count * 0.01)


class TestRates:
    """A smaller version of bench/check.py."""

    @pytest.mark.parametrize(
        ("kind", "graphs"), [("discrete", 60), pytest.param("gaussian", 30, marks=pytest.mark.nightly)]
    )
    def test_true_graphs_are_rarely_rejected(self, kind, graphs):
        cases = (CASES[kind](seed, 2_000) for seed in range(graphs))
        tables = [check(case.graph, case.table).table for case in cases]
        alarms = sum(bool(table["rejected"].any()) for table in tables)
        assert alarms <= graphs * 0.05 + 3 * math.sqrt(graphs * 0.05 * 0.95)
        p = pd.concat(tables)["p"]
        for level in (0.01, 0.1, 0.5):
            # tests of one data set are dependent, hence the factor 2
            assert abs((p < level).mean() - level) < 2 * 3 * math.sqrt(level * (1 - level) / len(p))

    @pytest.mark.parametrize(("kind", "graphs", "rows"), [("discrete", 40, 20_000), ("gaussian", 15, 5_000)])
    def test_what_was_deleted_comes_first(self, kind, graphs, rows):
        first = 0
        for pair, wrong, table in wrong_cases(kind, graphs, rows, first_seed=1_000):
            first += ranks_first(check(wrong, table).table.iloc[0], pair)
        assert first >= 0.8 * graphs


def mixed_table(rows, seed=0):
    """Z -> X, Z -> Y, of several kinds, and Z -> D, a date."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    return pd.DataFrame(
        {
            "Z": z,
            "X": np.where(z + rng.normal(size=rows) > 0, "high", "low"),
            "Y": z + rng.normal(size=rows),
            "B": z + rng.normal(size=rows) > 0.5,
            "D": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.round(100 * z + 50 * rng.normal(size=rows)), unit="D"),
        }
    )


FORK = "Z -> X; Z -> Y; Z -> B; Z -> D"


class TestResiduals:
    def test_variables_of_all_kinds_are_tested(self):
        found = check(FORK, mixed_table(3_000))
        assert len(found.table) == 6
        assert set(found.table["test"]) == {"residuals"}
        assert found.rejected.empty
        assert found.notes == ()

    def test_a_dependence_of_any_kinds_is_seen(self):
        table = mixed_table(3_000)
        edges = ["X -> Y", "X -> B", "Y -> D"]
        rng = np.random.default_rng(1)
        table["Y"] += 0.3 * (table["X"] == "high")
        table["B"] = table["B"] ^ ((table["X"] == "high") & (rng.random(3_000) < 0.3))
        table["D"] += pd.to_timedelta(np.round(20 * table["Y"]), unit="D")
        graph = "; ".join([FORK, *edges])
        for edge in edges:
            wrong = "; ".join([FORK, *(other for other in edges if other != edge)])
            assert f"{check(wrong, table).table.iloc[0]['x']} -> {check(wrong, table).table.iloc[0]['y']}" == edge
        assert check(graph, table).rejected.empty

    def test_a_dependence_without_correlation_is_seen(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=2_000)
        table = pd.DataFrame({"X": x, "Y": x**2 + rng.normal(size=2_000)})
        assert len(check("X; Y", table).rejected) == 1

    def test_only_the_order_of_values_counts(self):
        case = gaussian_case(3, 1_000)
        warped = case.table.copy()
        warped["V0"], warped["V1"] = np.exp(warped["V0"]), warped["V1"] ** 3
        pd.testing.assert_frame_equal(check(case.graph, case.table).table, check(case.graph, warped).table)

    def test_effect_is_that_of_the_partial_correlation(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=20_000)
        table = pd.DataFrame({"X": x, "Y": 0.5 * x + rng.normal(size=20_000)})
        correlation = 0.5 / math.sqrt(1.25)
        (row,) = check("X; Y", table).table.to_dict("records")
        assert row["effect"] == pytest.approx(-math.log(1 - correlation**2) / 2, rel=0.06)
        assert row["log10_p"] < -500

    def test_what_others_determine_is_not_tested(self):
        rng = np.random.default_rng(0)
        z = rng.normal(size=500)
        found = check("Z -> X; Z -> Y", pd.DataFrame({"Z": z, "X": 2 * z, "Y": z + rng.normal(size=500)}))
        assert found.table.empty
        assert found.notes == ("too few rows, or too little variation, to test the independence X ⊥ Y | Z",)


class TestWeightsAndGroups:
    def test_repeated_rows_are_no_evidence(self):
        case = discrete_case(5, 400)
        repeated = np.repeat(np.arange(400), 10)
        once = check(case.graph, Dataset(case.table, groups=np.arange(400))).table
        grouped = check(case.graph, Dataset(case.table.iloc[repeated], groups=repeated)).table
        both = once.merge(grouped, on=["x", "y", "given"])
        assert len(both) == len(once)
        # coefficients count against rows, of which there are more
        assert np.allclose(both["statistic_x"], both["statistic_y"], rtol=0.1)

    def test_groups_keep_the_level(self):
        alarms = 0
        for seed in range(60):
            case = discrete_case(seed, 300)
            rows = np.repeat(np.arange(300), np.random.default_rng([seed, 79]).integers(1, 8, size=300))
            alarms += len(check(case.graph, Dataset(case.table.iloc[rows], groups=rows)).rejected) > 0
        assert alarms <= 60 * 0.05 + 3 * math.sqrt(60 * 0.05 * 0.95)

    def test_weights_undo_a_selection(self):
        graph = ADMG.from_string("X; Y")
        rng = np.random.default_rng([2, 2, 2])
        table = random_discrete(graph, levels=2, seed=0).sample(6_000, seed=1)
        chance = np.where((table["X"] == 0) & (table["Y"] == 0), 0.2, 1.0)
        seen = rng.random(6_000) < chance
        assert len(check(graph, table[seen]).rejected) == 1
        weights = 1 / chance[seen]
        assert check(graph, Dataset(table[seen], weights=weights)).rejected.empty
        scaled = check(graph, Dataset(table[seen], weights=7 * weights)).table
        pd.testing.assert_frame_equal(check(graph, Dataset(table[seen], weights=weights)).table, scaled)

    def test_few_groups_are_refused(self):
        case = discrete_case(5, 400)
        found = check(case.graph, Dataset(case.table, groups=np.arange(400) % 8))
        assert found.table.empty
        assert found.notes[-1].startswith("too few rows, or too little variation, to test the independences ")


class TestSeveralDatasets:
    GRAPH = ADMG.from_string("X -> Z -> Y; X <-> Y; W -> Y")

    def test_each_is_tested_under_its_own_intervention(self):
        truth = random_discrete(self.GRAPH, levels=3, seed=2)
        rng = np.random.default_rng([2, 2, 2])
        setting = rng.integers(0, 3, 3_000)
        observed = truth.sample(3_000, seed=0).drop(columns="W")
        # W was mostly set as X was: their dependence says nothing about the graph
        other = np.where(rng.random(3_000) < 0.8, setting, 0)
        trial = truth.sample(3_000, do={"X": setting, "W": other}, seed=1)
        found = check(
            self.GRAPH,
            [Dataset(observed, name="seen"), Dataset(trial, do=["X", "W"], name="trial")],
            level=0.001,
        )
        assert found.rejected.empty
        own = found.table[found.table["kind"] == "independence"]
        rows = {(row.dataset, row.x, row.y, row.given) for row in own.itertuples()}
        expected = {("trial", one.x, one.y, one.given) for one in implied_independences(self.GRAPH, do=["X", "W"])}
        assert rows == expected
        assert {frozenset(row[1:3]) for row in rows} == {frozenset("XY"), frozenset("ZW")}
        # to forget what was set is noticed
        wrong = check(self.GRAPH, [Dataset(trial, name="trial")])
        assert [*wrong.rejected[["x", "y"]].iloc[0]] == ["X", "W"]

    def test_hidden_variables_and_images_are_noted(self):
        truth = random_discrete(self.GRAPH, levels=2, seed=2)
        table = truth.sample(200, seed=0)
        images = np.zeros((200, 1, 2, 2), dtype=np.uint8)
        images[::2] = 9
        found = check(self.GRAPH, Dataset(table.drop(columns=["Z", "W"]), images={"W": images}))
        assert found.table.empty
        assert found.notes == (
            "images are not tested and count as hidden: 'W'",
            "variables without a column count as hidden: 'Z'",
        )
        assert str(found).startswith("nothing was tested: ")


class TestCheck:
    def test_is_the_same_for_rows_and_levels_in_another_order(self):
        case = discrete_case(4, 1_000)
        renamed = case.table.sample(frac=1, random_state=0).replace({0: "c", 1: "a", 2: "b"})
        pd.testing.assert_frame_equal(check(case.graph, case.table).table, check(case.graph, renamed).table)

    def test_adjusts_by_holm(self):
        _, wrong, table = next(wrong_cases("discrete", 1, 2_000, 1_000))
        found = check(wrong, table, level=0.01).table
        p = sorted(found["p"])
        for row in found.itertuples():
            steps = [min(1.0, p[k] * (len(p) - k)) for k in range(p.index(row.p) + 1)]
            assert row.adjusted_p == pytest.approx(max(steps))
            assert row.rejected == (max(steps) <= 0.01)
        assert found["rejected"].is_monotonic_decreasing

    def test_reports_in_sentences(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, 20_000)
        table = pd.DataFrame({"A": x, "B": x ^ (rng.random(20_000) < 0.2), "C": x ^ (rng.random(20_000) < 0.1)})
        found = check("A; B; C", table)
        lines = str(found).splitlines()
        assert lines[0] == "3 independences tested, 3 rejected at level 0.05, worst first:"
        assert lines[1].startswith("  1. by the graph, A is independent of C; the data contradict this (p = ")
        assert lines[1].endswith(" nats per row): perhaps an edge or a hidden common cause is missing between A and C")
        assert lines[-1] == "one missing edge can cause several rejections: correct the first, then check again"
        # too small for a number, not for its logarithm
        assert found.table["p"].iloc[0] == 0
        assert -5_000 < found.table["log10_p"].iloc[0] < -1_000
        assert found.to_json()["table"][0]["given"] == []
        assert (found.to_json()["tests"], found.to_json()["rejected"]) == (3, 3)

    def test_draws_pairs_where_they_are_too_many(self):
        rng = np.random.default_rng(0)
        names = [f"V{i}" for i in range(300)]
        table = pd.DataFrame(rng.integers(0, 2, (200, 300)), columns=names)
        graph = ADMG(names, [])
        found = check(graph, table, max_tests=50)
        assert len(found.table) == 50
        assert found.notes == ("50 tests (max_tests), of pairs drawn at random from 44,850",)
        again = check(graph, table, max_tests=50)
        pd.testing.assert_frame_equal(found.table, again.table)
        other = check(graph, table, max_tests=50, seed=1)
        assert not found.table["x"].equals(other.table["x"])

    def test_shows_on_a_terminal_how_far_it_is(self, monkeypatch):
        case, written = discrete_case(4, 300), io.StringIO()
        monkeypatch.setattr(written, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stderr", written)
        silent = check(case.graph, case.table)
        assert written.getvalue() == ""
        shown = check(case.graph, case.table, progress=True)
        assert "testing" in written.getvalue()
        pd.testing.assert_frame_equal(silent.table, shown.table)

    def test_refuses_what_makes_no_sense(self):
        table = pd.DataFrame({"X": [0, 1], "Y": [1, 0]})
        with pytest.raises(ValueError, match="level must lie between 0 and 1, not 1"):
            check("X; Y", table, level=1)
        with pytest.raises(ValueError, match="max_tests must be positive, not 0"):
            check("X; Y", table, max_tests=0)
        with pytest.raises(DataError, match="'Q' is not a node of the graph"):
            check("X; Y", Dataset({"X": [0, 1], "Q": [1, 0]}, do="Q"))

    def test_is_a_function_of_the_facade(self):
        assert mdcm.check is check
        # its package does not take its place when it is loaded later
        importlib.import_module("mdcm.checking.report")
        assert mdcm.check is check

    def test_takes_a_graph_as_it_is_as_text_or_from_networkx(self):
        case = discrete_case(4, 300)
        digraph = case.graph.to_networkx()
        own = check(case.graph, case.table).table
        for other in (case.graph.to_string(), digraph):
            again = check(other, case.table).table
            assert {frozenset({row.x, row.y, *row.given}) for row in again.itertuples()} == {
                frozenset({row.x, row.y, *row.given}) for row in own.itertuples()
            }
        with pytest.raises(GraphError, match="a graph must be an ADMG, its text or a networkx digraph, not dict"):
            check({"X": ["Y"]}, case.table)
