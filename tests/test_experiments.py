"""The paper's experiments as commands: exact truths, honest criteria, and a report that needs nothing but itself."""

import functools
import gzip
import importlib.util
import itertools
import json
import math
import os
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import oracles
import pandas as pd
import pytest
from command_line import Result as CommandResult
from command_line import call, fail, succeed
from filelock import FileLock
from pages import Page, look
from scipy import optimize

from mdcm import ADMG
from mdcm.data import Dataset
from mdcm.experiments import asia, command, complexity, large, sachs, synthetic
from mdcm.experiments.discrete import DiscreteProblem, Size
from mdcm.experiments.estimates import Sample, answer_distance, estimation_errors, read_out
from mdcm.experiments.likelihoods import log_likelihood, maximum_likelihood
from mdcm.experiments.methods import RATES
from mdcm.experiments.page import verdict
from mdcm.experiments.records import (
    COST,
    METHODS,
    Criterion,
    ExperimentRequest,
    Findings,
    Result,
    hold,
    select,
    summary,
)
from mdcm.experiments.study import study
from mdcm.experiments.summaries import result_tables
from mdcm.metrics import sampling_floor
from mdcm.model import fit
from mdcm.report.charts import draw_chart
from mdcm.report.page import Chart, Line, Picture, number, pictures
from mdcm.scm import random_discrete
from mdcm.training.config import TrainConfig

SACHS = Path(__file__).parents[2] / "shared" / "data" / "sachs"
WITHOUT_TRAINING = {"complexity"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every experiment at its small size, run once for all workers, when first asked for."""
    path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # what every worker has a folder of its own in
        path = path.parent

    @functools.cache
    def run(name):
        made = path / f"{name}.json"
        with FileLock(path / f"{name}.lock"):
            if not made.exists():
                result = call("experiment", name, "--fast", "--out", path / name)
                assert result.code in {0, 1}, result.err
                made.write_text(json.dumps(asdict(result)))
        return path / name, CommandResult(**json.loads(made.read_text()))

    return run


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def results(folder, **fields):
    """Rows of a run that have these fields."""
    return select(map(Result.from_json, metrics(folder)["results"]), **fields)


# ---- records


class TestCriteria:
    @pytest.mark.parametrize(
        ("value", "limit", "relation", "met"),
        [(0.1, 0.1, "<=", True), (0.11, 0.1, "<=", False), (1.0, 1.0, ">=", True), (0.0, 1.0, ">=", False)],
    )
    def test_criterion_is_met_on_the_right_side_of_its_limit(self, value, limit, relation, met):
        assert Criterion("x", value, limit, relation).met is met

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("relation", ["<=", ">="])
    def test_what_could_not_be_measured_is_missed(self, value, relation):
        criterion = Criterion("x", value, 0.0, relation)
        assert not criterion.met
        assert criterion.to_json()["value"] is None

    def test_one_miss_among_the_judged_is_a_miss(self):
        assert verdict([Criterion("a", 0, 1), Criterion("b", 2, 1)]) == ("missed", "1 of 2 missed")

    def test_what_is_not_judged_does_not_count(self):
        assert verdict([Criterion("a", 0, 1), Criterion("b", 2, 1, judged=False)])[0] == "met"
        assert verdict([Criterion("b", 2, 1, judged=False)])[0] == "open"

    @pytest.mark.parametrize(
        ("value", "shown"),
        [(0.0, "0"), (0.00001, "1e-05"), (0.0123, "0.0123"), (22.55, "22.55"), (1234.5, "1,234"), (None, "–")],
    )
    def test_numbers_are_short_and_never_a_false_zero(self, value, shown):
        assert number(value) == shown


class TestResults:
    """Summaries of rows over seeds, and the limits that they are held to."""

    rows = tuple(
        Result("asia", "auto", seed, "Answers", "P(Y)", value, floor)
        for seed, (value, floor) in enumerate([(0.2, 0.1), (0.5, 0.5), (0.3, 0.2)])
    )

    @pytest.mark.parametrize("value", [0.25, math.nan, -math.inf])
    def test_rows_and_criteria_are_read_as_they_were_written(self, value):
        row = Result("asia, small", "auto", None, "Answers", "P(Y)", value, limit=0.5)
        criterion = Criterion("P(Y)", value, 0.5, note="seed 0", experiment="asia, small", method="auto", over="worst")
        for one in (row, criterion):
            written = json.loads(json.dumps(one.to_json(), allow_nan=False))
            again = type(one).from_json(written)
            assert again.to_json() == one.to_json()
            assert math.isfinite(again.value) == math.isfinite(value)
            assert again == one or not math.isfinite(value)

    def test_summaries_over_seeds(self):
        assert summary(self.rows, "first") == 0.2
        assert summary(self.rows, "mean") == pytest.approx(1 / 3)
        # the largest multiple of its own floor
        assert summary(self.rows, "worst") == 0.2
        assert summary(self.rows, "worst", ">=") == 0.2

    def test_limits_are_multiples_of_the_floor_and_conditions_are_named(self):
        first, average = hold(self.rows, ["P(Y)"], {"first": 1.5, "mean": 1.2}, floor="estimation floor")
        assert (first.what, average.what) == ("auto, P(Y)", "auto, P(Y), on average")
        assert (first.limit, average.limit) == pytest.approx((0.15, 0.12))
        assert first.note == "1.5 times the estimation floor; seed 0"
        assert average.note == "1.2 times the estimation floor; mean over 3 seeds, worst 0.2000"

    def test_a_single_seed_is_its_own_average(self):
        (only,) = hold(self.rows[1:2], ["P(Y)"], {"first": 1.5, "mean": 1.2}, floor="floor")
        assert (only.over, only.limit, only.met) == ("first", 0.75, True)
        (only,) = hold(self.rows[:1], ["P(Y)"], {"mean": 0.1})
        assert (only.over, only.limit, only.met) == ("first", 0.1, False)

    def test_without_results_there_is_no_criterion(self):
        assert hold(self.rows, ["P(Y)"], {"first": 1.0}, method="joint") == []

    def test_results_of_several_problems_are_one_criterion(self):
        rows = [
            Result(f"asia, {name}", "auto", 0, "Answers", "P(Y)", value) for name, value in (("a", 1.0), ("b", 2.0))
        ]
        (criterion,) = hold(rows, ["P(Y)"], {"worst": 1.5})
        assert (criterion.what, criterion.value, criterion.met) == ("auto, P(Y)", 2.0, False)


# ---- truths


def asia_joint(noise):
    """P of all eight variables of the published network by its definition, either with noise, as a dictionary."""
    p = {"asia": 0.01, "smoke": 0.5}
    tub, lung, bronc, xray = {0: 0.01, 1: 0.05}, {0: 0.01, 1: 0.1}, {0: 0.3, 1: 0.6}, {0: 0.05, 1: 0.98}
    dysp = {(0, 0): 0.1, (0, 1): 0.8, (1, 0): 0.7, (1, 1): 0.9}  # either, bronc

    def of(chance, value):
        return chance if value else 1 - chance

    def joint(a, t, s, c, b, e, x, d, do=()):
        either = 1 - noise if c or t else noise
        terms = {
            "asia": of(p["asia"], a), "tub": of(tub[a], t), "smoke": of(p["smoke"], s), "lung": of(lung[s], c),
            "bronc": of(bronc[s], b), "either": of(either, e), "xray": of(xray[e], x), "dysp": of(dysp[e, b], d),
        }  # fmt: skip
        return math.prod(value for name, value in terms.items() if name not in do)

    return joint


class TestAsia:
    @pytest.mark.parametrize("noise", [0.0, 0.02])
    def test_observed_distribution_is_that_of_the_network(self, noise):
        joint, truth = asia_joint(noise), asia.network(noise)
        found = truth.exact(["asia", "tub", "lung", "either", "xray", "dysp"])
        for (a, t, c, e, x, d), probability in zip(itertools.product((0, 1), repeat=6), found, strict=True):
            right = sum(joint(a, t, s, c, b, e, x, d) for s in (0, 1) for b in (0, 1))
            assert probability == pytest.approx(right, abs=1e-12)

    @pytest.mark.parametrize("cause", ["lung", "either"])
    def test_effects_are_those_of_the_network(self, cause):
        joint, place = asia_joint(0.02), {"lung": 3, "either": 5}[cause]
        for value, outcome in itertools.product((0, 1), repeat=2):
            right = sum(
                joint(*cell, do=(cause,))
                for cell in itertools.product((0, 1), repeat=8)
                if cell[place] == value and cell[7] == outcome
            )
            found = asia.network().exact("dysp", do={cause: ("no", "yes")[value]}).iloc[outcome]
            assert found == pytest.approx(right, abs=1e-12)

    def test_tables_are_those_that_pgmpy_ships(self):
        spec = importlib.util.find_spec("pgmpy")
        if spec is None:
            pytest.skip("pgmpy, which ships the network, is not installed")
        file = Path(spec.submodule_search_locations[0], "utils", "example_models", "asia.bif.gz")
        if not file.exists():
            pytest.skip("this version of pgmpy does not ship the network")
        text = gzip.decompress(file.read_bytes()).decode()
        blocks = dict(re.findall(r"probability \( (\w+)[^)]*\) \{(.*?)\}", text, re.DOTALL))
        numbers = {
            name: sorted(float(one) for one in re.findall(r"(?:table|\)) ([\d.]+),", block))
            for name, block in blocks.items()
        }
        truth = asia.network(0.0)
        for name in ("asia", "tub", "xray"):
            assert sorted(truth.tables[name][..., 1].ravel().tolist()) == pytest.approx(numbers[name])
        assert numbers["lung"] == [0.01, 0.1]
        assert numbers["bronc"] == [0.3, 0.6]
        assert numbers["dysp"] == [0.1, 0.7, 0.8, 0.9]

    def test_without_noise_one_combination_never_occurs(self):
        never = asia.network(0.0).exact(["lung", "either"])["yes", "no"]
        assert never == 0
        assert asia.network().exact(["lung", "either"])["yes", "no"] > 0


def by_definition(truth, do):
    """P of all variables under do(), summed over all states of the confounders, cell by cell."""
    nodes = truth.graph.nodes
    sizes = [len(truth.levels[name]) for name in nodes]
    latents = list(truth.priors)
    states = list(itertools.product(*(range(len(truth.priors[name])) for name in latents)))
    found = np.zeros(sizes)
    for cell in itertools.product(*map(range, sizes)):
        values = dict(zip(nodes, cell, strict=True))
        if any(values[name] != value for name, value in do.items()):
            continue
        for state in states:
            values.update(zip(latents, state, strict=True))
            weight = math.prod(truth.priors[name][values[name]] for name in latents)
            for name in nodes:
                if name not in do:
                    weight *= truth.tables[name][tuple(values[axis] for axis in truth.axes(name))]
            found[cell] += weight
    return found


class TestSynthetic:
    def test_graph_is_that_of_the_paper(self):
        graph = synthetic.seven_variables(2).graph
        assert {frozenset(pair) for pair in graph.bidirected} == {
            frozenset(pair) for pair in (("X0", "Y0"), ("X1", "X2"), ("X2", "Y1"))
        }
        assert graph.parents("W1") == {"X0", "X1", "X2"}
        assert len(graph.directed) == 7

    @pytest.mark.parametrize("do", [{}, {"X0": 1}])
    def test_exact_answers_are_sums_over_the_confounders(self, do):
        truth = synthetic.seven_variables(2)
        right = by_definition(truth, do)
        names = [name for name in truth.graph.nodes if name not in do]
        found = truth.exact(names, do=do or None).to_numpy().reshape([2] * len(names))
        taken = tuple(do.get(name, slice(None)) for name in truth.graph.nodes)
        np.testing.assert_allclose(found, right[taken], atol=1e-12)

    def test_data_sets_lack_what_the_paper_leaves_out(self):
        first, second = synthetic.problem("binary", Size(50, 1, 1)).draw(0)
        assert set(first.columns) == {"X0", "X1", "X2", "W1", "Y1"}
        assert set(second.columns) == {"X0", "X1", "X2", "W0", "W1", "Y0"}


class TestComplexity:
    def test_graphs_have_the_arcs_and_pairs_that_are_asked_for(self):
        graph = complexity.random_graph(15, 48, 5, seed=3)
        assert (len(graph.nodes), len(graph.directed), len(graph.bidirected)) == (15, 48, 5)

    def test_largest_c_component_is_that_of_the_definition(self):
        for seed in range(5):
            graph = complexity.random_graph(20, 30, 8, seed)
            pairs = frozenset(frozenset(pair) for pair in graph.bidirected)
            plain = oracles.Mixed(graph.nodes, frozenset(graph.directed), pairs)
            assert complexity.largest_component(graph) == max(map(len, oracles.c_components(plain)))

    def test_joint_training_holds_every_variable_likelihood_c_components_and_no_way_more(self, runs):
        folder, _ = runs("complexity")
        for nodes in complexity._FAST.nodes:
            problem = f"complexity, {nodes} variables"

            def largest(way, problem=problem):
                rows = results(folder, experiment=problem, method=way, quantity="mechanisms trained together")
                return [row.value for row in rows]

            assert largest("joint") == [nodes] * complexity._FAST.graphs
            assert largest("likelihood") == largest("largest c-component")
            for way in ("likelihood", "adversarial"):
                printed = largest("adversarial, sets as printed")
                assert all(a <= b for a, b in zip(largest(way), printed, strict=True))


class TestLikelihoods:
    def test_log_likelihood_is_that_of_the_joint_distribution(self):
        graph = ADMG.from_string("A -> B -> C -> D; A -> D; A <-> C; B <-> D; C <-> D; E; A -> E")
        truth = random_discrete(graph, levels=2, seed=4)
        joint = truth.exact(list(graph.nodes)).reset_index()
        found = log_likelihood(truth, joint[list(graph.nodes)])
        np.testing.assert_allclose(np.exp(found), joint["probability"], atol=1e-12)

    def test_without_confounders_the_best_fit_is_counting(self):
        truth = random_discrete(ADMG.from_string("X -> Y"), levels=3, seed=5)
        table = truth.sample(3_000, seed=0)
        best = maximum_likelihood(truth, table, smoothing=0)
        right = table.groupby("X")["Y"].value_counts(normalize=True).unstack().to_numpy()
        np.testing.assert_allclose(best.tables["Y"], right, atol=1e-12)

    def test_best_fit_is_more_probable_than_the_truth_and_any_step_from_it(self):
        truth = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=6)
        table = truth.sample(2_000, seed=0)
        best = maximum_likelihood(truth, table, smoothing=0, iterations=2_000, tolerance=1e-10)
        fitted = log_likelihood(best, table).mean()
        assert fitted > log_likelihood(truth, table).mean()
        again = maximum_likelihood(best, table, smoothing=0, iterations=1)
        # what one more iteration gains is below the tolerance of the last one
        assert -1e-12 <= log_likelihood(again, table).mean() - fitted < 1e-9


class TestLarge:
    def test_graphs_are_as_large_and_dense_as_said(self):
        graph = large.random_problem(30, seed=1).graph
        assert (len(graph.nodes), len(graph.directed), len(graph.bidirected)) == (30, 60, 10)
        assert max(len(graph.parents(node)) for node in graph.nodes) <= 4

    def test_a_model_without_edges_fails_both_criteria(self):
        truth = large.random_problem(12, seed=0)
        table, heldout = truth.sample(20_000, seed=1), truth.sample(20_000, seed=2)
        models = {"best": maximum_likelihood(truth, table), "none": large.independent(truth, table)}
        tvd = large.pair_distances(truth, models, 20_000, 200_000)
        loss = {name: -log_likelihood(one, heldout).mean() for name, one in models.items()}
        assert tvd["best"] <= large._TVD_LIMIT * tvd["floor"]
        assert tvd["none"] > 2 * large._TVD_LIMIT * tvd["floor"]
        assert loss["none"] - loss["best"] > large._NATS_LIMIT * 12

    def test_pairs_counted_in_draws_are_near_the_exact_ones(self):
        truth, other = large.random_problem(12, seed=0), large.random_problem(12, seed=1)
        found = large.pair_distances(truth, {"itself": truth}, 1_000, 50_000)
        assert found["itself"] == 0, "the same draws on both sides"
        pairs = [("V0", "V1"), ("V0", "V2")]
        shares = large._pair_shares(other, pairs, 100_000)
        for pair, share in zip(pairs, shares, strict=True):
            exact = other.exact(list(pair)).to_numpy()
            assert (np.abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / 100_000)).all()

    def test_run_compares_with_a_model_without_edges(self, runs):
        folder, _ = runs("large")
        (bare,) = results(folder, method="no edges", quantity="mean TVD of adjacent pairs")
        assert bare.value > large._TVD_LIMIT * bare.floor
        assert {row.method for row in results(folder, quantity="MB on top")} == {"adversarial", "joint"}


class TestFloors:
    def test_floor_of_a_single_variable_is_the_sampling_floor(self):
        truth = random_discrete(ADMG.from_string("X"), levels=4, seed=1)
        errors = estimation_errors(truth, ["P(X)"], [Sample("d1", ("X",), 4_000)], repeats=60)[:, 0]
        floor = sampling_floor(truth.exact("X"), 4_000)
        assert abs(errors.mean() - floor) < 4 * errors.std(ddof=1) / math.sqrt(len(errors))

    def test_four_times_the_rows_halve_the_floor(self):
        truth = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=2)
        few, many = (
            estimation_errors(truth, ["P(Y | do(X))"], [Sample("d1", ("X", "Z", "Y"), rows)], repeats=60)[:, 0]
            for rows in (4_000, 16_000)
        )
        spread = math.hypot(few.std(ddof=1), 2 * many.std(ddof=1)) / math.sqrt(60)
        assert abs(few.mean() - 2 * many.mean()) < 4 * spread

    def test_answer_distance_is_a_mean_over_conditions(self):
        right, found = np.array([0.5, 0.5, 1.0, 0.0]), np.array([0.4, 0.6, 0.7, 0.3])
        assert answer_distance(right, found) == pytest.approx((0.1 + 0.3) / 2)

    def test_sample_sets_its_targets_to_the_levels_named(self):
        truth = random_discrete(ADMG.from_string("X -> Y"), levels=3, seed=0)
        sample = Sample("d2", ("X", "Y"), 101, {"X": (0, 2)})
        counts = sample.draw(truth, seed=1).table["X"].value_counts()
        assert sorted(counts.index) == [0, 2]
        assert abs(counts[0] - counts[2]) == 1
        right = np.concatenate([truth.exact("Y", do={"X": level}) / 2 for level in (0, 2)])
        np.testing.assert_allclose(sample.exact(truth), right)

    def test_a_model_read_out_answers_as_the_model_does(self):
        truth = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=3)
        table = truth.sample(500, seed=0)
        model = fit(truth.graph, Dataset(table, name="d1"), config=TrainConfig(max_steps=30))
        exact = read_out(model.dcm).exact("Y", do={"X": 1})
        answer = model.query("P(Y | do(X=1))", 50_000).table
        gap = np.abs(answer["probability"].to_numpy() - exact.to_numpy())
        # both are exact sums over the same tables, whose logits are float32
        assert answer["stderr"].eq(0).all()
        assert (gap < 1e-6).all()


# ---- what is written


# trained for half a minute each even at their small size; test_mnist2.py and TestSynthetic have their parts
_LONG = {"mnist2", "synthetic"}


def named(*names):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.nightly) if name in _LONG else name for name in names]
    )


class TestRuns:
    @named(*command.NAMES)
    def test_metrics_are_complete(self, runs, name):
        found = metrics(runs(name)[0])
        for key in ("machine", "versions", "seeds", "settings", "stages", "criteria", "tables", "command", "started"):
            assert found[key], key
        assert found["format"] == 2
        assert (found["experiment"], found["size"]) == (name, "fast")
        assert {"python", "torch", "numpy", "mdcm"} <= set(found["versions"])
        assert found["seconds"] >= sum(found["stages"].values()) - 0.1
        assert bool(found["methods"]) == (name not in WITHOUT_TRAINING)

    @named(*command.NAMES)
    def test_criteria_are_judged_by_their_numbers_and_decide_the_exit_code(self, runs, name):
        folder, result = runs(name)
        found = metrics(folder)
        for criterion in found["criteria"]:
            value = math.nan if criterion["value"] is None else criterion["value"]
            limit = criterion["limit"]
            assert criterion["met"] == (value <= limit if criterion["relation"] == "<=" else value >= limit)
        met = all(criterion["met"] for criterion in found["criteria"] if criterion["judged"])
        assert found["met"] == met
        assert result.code == (0 if met else 1)
        for criterion in found["criteria"]:
            assert criterion["what"] in result.out

    @named(*command.NAMES)
    def test_criteria_summarise_results(self, runs, name):
        folder, _ = runs(name)
        for criterion in metrics(folder)["criteria"]:
            own = results(folder, quantity=criterion["quantity"], method=criterion["method"])
            own = [row for row in own if row.experiment.startswith(criterion["experiment"])]
            assert summary(own, criterion["over"], criterion["relation"]) == criterion["value"]
            assert all(row.limit is not None for row in own if row.experiment == criterion["experiment"])

    @named(*command.NAMES)
    def test_no_quantity_is_measured_twice(self, runs, name):
        rows = [(row.experiment, row.method, row.seed, row.group, row.quantity) for row in results(runs(name)[0])]
        assert len(rows) == len(set(rows))

    @named(*command.NAMES)
    def test_every_training_has_a_time(self, runs, name):
        for row in results(runs(name)[0], group=COST):
            assert row.seconds is not None
            assert row.seconds >= 0

    @named("asia", "sachs", "synthetic")
    def test_likelihood_reaches_its_floors_at_the_small_size(self, runs, name):
        criteria = [row for row in metrics(runs(name)[0])["criteria"] if row["what"].startswith("auto")]
        assert criteria
        assert all(row["met"] for row in criteria), [row for row in criteria if not row["met"]]

    @named("asia", "sachs", "synthetic")
    def test_all_methods_are_compared(self, runs, name):
        together = results(runs(name)[0], quantity="mechanisms trained together")
        methods = ["auto", "adversarial", "joint", "joint, equal time"]
        nodes = {"asia": 6, "sachs": 4, "synthetic": 7}[name]
        for problem in {row.experiment for row in together}:
            own = select(together, experiment=problem)
            assert [row.method for row in own] == methods
            assert [row.value for row in own[2:]] == [nodes, nodes]

    def test_output_goes_where_it_belongs(self, runs):
        folder, result = runs("complexity")
        assert result.err == f"wrote {folder / 'metrics.json'} and {folder / 'report.html'}\n"
        assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "report.html"]

    def test_json_is_what_is_in_the_file(self, tmp_path):
        result = succeed("experiment", "complexity", "--fast", "--json", "--out", tmp_path / "run")
        assert json.loads(result.out) == metrics(tmp_path / "run")

    def test_a_run_that_fails_leaves_the_former_one(self, tmp_path, monkeypatch):
        succeed("experiment", "complexity", "--fast", "--out", tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setattr(command, "render_page", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command.run_experiment("complexity", tmp_path, fast=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_missed_criterion_ends_with_one(self, tmp_path, monkeypatch):
        monkeypatch.setattr(complexity, "_SAFE_LIMIT", 1.0)
        result = call("experiment", "complexity", "--fast", "--out", tmp_path)
        assert result.code == 1
        assert "1 of 6 missed." in result.out
        assert "✗ missed" in (tmp_path / "report.html").read_text()


# joint methods are trained once more, within the time of "adversarial"
REPEATED = ("joint, equal time", "joint-rep, equal time")


@pytest.fixture(scope="module")
def found():
    truth = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, seed=0)
    samples = (Sample("d1", ("X", "Y"), 400), Sample("d2", ("X", "Y"), 300, {"X": (0, 1)}))
    limits = {"worst data set": 0.5, "all variables": 1e-9, "worst answer": 0.5, "time of a training": 300.0}
    size = Size(rows=400, steps=4, repeats=4, lengths=(5,))
    problem = DiscreteProblem("small, tiny", truth, samples, ("P(Y | do(X))",), size, limits)
    return study(problem, ExperimentRequest(seeds=(0, 1)))


class TestStudy:
    """What only a full run does, on a problem of two variables."""

    def test_every_method_is_tuned_over_the_same_rates(self, found):
        rates = select(found.results, quantity="learning rate, times the usual")
        assert {row.method for row in rates} == {*METHODS, *REPEATED}
        assert {row.value for row in rates} <= set(RATES)

    def test_every_method_has_a_curve_and_a_run_per_seed(self, found):
        (curves,) = (chart for chart in found.charts if chart.x_label == "seconds of training")
        assert [line.label for line in curves.lines] == list(METHODS)
        for line in curves.lines:
            assert all(math.isfinite(x) and 0 <= y <= 1 for x, y in zip(line.x, line.y, strict=True))
        runs = [(row.method, row.seed) for row in select(found.results, quantity="steps")]
        assert sorted(runs) == sorted(itertools.product([*METHODS, *REPEATED], (0, 1)))

    def test_full_run_judges_training_against_critics(self, found):
        criteria = {criterion.what: criterion for criterion in found.criteria}
        assert all(criterion.judged for criterion in criteria.values())
        assert not criteria["adversarial, all variables, tiny"].met
        assert criteria["adversarial, time of a training, on average, tiny"].met

    def test_averages_are_over_the_seeds(self, found):
        answers = [row.value for row in select(found.results, method="auto", quantity="P(Y | do(X))")]
        average = next(criterion for criterion in found.criteria if criterion.what.startswith("auto, P(Y | do(X)), on"))
        assert len(answers) == 2
        assert average.value == pytest.approx(np.mean(answers))

    def test_an_answer_is_compared_by_its_own_table(self, found):
        (table,) = (table for table in result_tables(found.results, {}) if table.title == "P(Y | do(X))")
        truth = [row[list(table.columns).index("truth")] for row in table.rows]
        assert sum(truth) == pytest.approx(2)
        assert table.rows[0][0] == "X=0, Y=0, tiny"

    def test_table_shows_means_and_ranges_over_seeds(self, found):
        (table,) = (table for table in result_tables(found.results, {}) if table.title == "Answers")
        values = [row.value for row in select(found.results, method="auto", quantity="P(Y | do(X))")]
        shown = f"{number(sum(values) / 2)} ({number(min(values))} to {number(max(values))})"
        assert table.rows[0][list(table.columns).index("auto")] == shown
        assert table.columns[-1] == "floor"


class TestBadUsage:
    def test_unknown_experiment_is_named_with_those_there_are(self, tmp_path):
        err = fail(2, "experiment", "asiaa", "--out", tmp_path)
        assert "did you mean 'asia'?" in err
        assert "complexity" in err

    def test_data_where_none_are_taken(self, tmp_path):
        assert "takes no --data" in fail(2, "experiment", "asia", "--data", tmp_path, "--out", tmp_path / "run")

    @pytest.mark.parametrize(("name", "size", "said"), [("asia", 16, "takes no"), ("frontdoor", 20, "8, 16, 32")])
    def test_resolution_that_is_not_offered(self, tmp_path, name, size, said):
        assert said in fail(2, "experiment", name, "--resolution", size, "--out", tmp_path / "run")

    @pytest.mark.parametrize(("name", "method"), [("asia", "likelihoood"), ("complexity", "auto")])
    def test_method_that_is_not_compared(self, tmp_path, name, method):
        assert "--method" in fail(2, "experiment", name, "--method", method, "--out", tmp_path / "run")

    def test_out_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        assert "file" in fail(2, "experiment", "complexity", "--out", tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"

    def test_matplotlib_is_missing(self, tmp_path, monkeypatch):
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
        done = call("experiment", "complexity", "--fast", "--out", tmp_path / "run")
        assert done.code in {0, 1}
        assert done.err.count("pip install 'mdcm[report]'") == 1
        html = (tmp_path / "run" / "report.html").read_text()
        assert "Charts are left out, because matplotlib is not installed" in html
        assert json.loads((tmp_path / "run" / "metrics.json").read_text())["charts"]


def cells(rows=120):
    """A table with all columns of the real one."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.normal(5, 1, rows).round(4) for name in ("pka", "mek", "erk", "akt")})
    flags = dict.fromkeys(sachs._CONDITIONS, 0)
    table = table.assign(**flags)
    table["cd3_cd28"] = (np.arange(rows) % 2 == 0).astype(int)
    table["b2camp"] = 1 - table["cd3_cd28"]
    return table


class TestSachsData:
    def write(self, folder, table):
        table.to_csv(folder / sachs.FILE, sep="\t", index=False)

    def test_levels_are_terciles_of_the_observed_cells(self, tmp_path):
        table = cells(300)
        self.write(tmp_path, table)
        observed, activated = sachs.read_cells(tmp_path)
        assert (len(observed), len(activated)) == (150, 150)
        for name in observed:
            assert np.bincount(observed[name], minlength=3).tolist() == [50, 50, 50]
        # order is all that terciles look at
        raw = table.loc[table["cd3_cd28"] == 1, "mek"].to_numpy()
        assert (np.diff(observed["Mek"].to_numpy()[np.argsort(raw)]) >= 0).all()

    def test_real_cells_are_counted_as_published(self):
        if not SACHS.is_dir():
            pytest.skip("the public data of Sachs et al. are not beside this checkout")
        observed, activated = sachs.read_cells(SACHS)
        assert (len(observed), len(activated)) == (853, 707)

    def test_real_cells_run_from_end_to_end(self, tmp_path):
        if not SACHS.is_dir():
            pytest.skip("the public data of Sachs et al. are not beside this checkout")
        result = call("experiment", "sachs", "--fast", "--method", "auto", "--data", SACHS, "--out", tmp_path)
        assert result.code in {0, 1}, result.err
        found = metrics(tmp_path)
        assert "853 cells" in found["notes"][0]
        assert "707 whose PKA" in found["notes"][0]
        # cells that have the top level anyway are among those set to it: what D1 has more of than D2, no model can fit
        observed, activated = sachs.read_cells(SACHS)
        excess = [
            max(0.0, ((observed["PKA"] == 2) & (observed["Mek"] == m)).mean() - (activated["Mek"] == m).mean())
            for m in range(3)
        ]
        (beyond,) = results(tmp_path, method="any model")
        assert beyond.value == pytest.approx(sum(excess), abs=1e-12)
        assert "P(PKA=2, Mek=2) = 0.110 in D1, P(Mek=2 | do(PKA=2)) = 0.003 in D2" in found["notes"][-1]

    @pytest.mark.parametrize("seed", range(6))
    def test_best_fit_is_the_likeliest_model_of_the_graph(self, seed):
        rng = np.random.default_rng(seed)
        shares = rng.dirichlet(np.ones(9) * 2)
        first = rng.choice(9, size=600, p=shares)
        observed = pd.DataFrame({"PKA": first // 3, "Mek": first % 3}).assign(
            Erk=rng.integers(0, 3, 600), Akt=rng.integers(0, 3, 600)
        )
        activated = pd.DataFrame({"Mek": rng.choice(3, size=500, p=rng.dirichlet(np.ones(3)))})
        had = np.bincount(observed["Mek"][observed["PKA"] == 2], minlength=3)
        shown = np.bincount(activated["Mek"], minlength=3)

        # the same likelihood as a function of P(2, m) and of what is added to it, by a solver that knows no EM
        def loss(logits):
            mass = np.exp(logits - np.logaddexp.reduce(logits))
            own, moved = mass[:3], mass[3:]
            return -(had @ np.log(own) + (600 - had.sum()) * np.log(moved.sum()) + shown @ np.log(own + moved)) / 600

        solved = optimize.minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-9, "maxiter": 5_000}).x
        mass = np.exp(solved - np.logaddexp.reduce(solved))
        found = sachs.best_fit(observed, activated).sum(axis=(1, 2))
        assert found == pytest.approx(mass[:3] + mass[3:], abs=2e-4)
        frequencies = shown / 500
        if (frequencies > had / 600).all():
            # no inequality is broken, so that frequencies are a model's
            assert found == pytest.approx(frequencies, abs=1e-9)

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda t: t.drop(columns="akt"), "column 'akt' is missing"),
            (lambda t: t.assign(mek=t["mek"].astype(object).where(t.index != 7, "much")), "'much' in row 7"),
            (lambda t: t.assign(erk=t["erk"].where(t.index != 3)), "row 3"),
            (lambda t: t.assign(erk=t["erk"].where(t.index != 3, np.inf)), "row 3"),
            (lambda t: t.assign(pma=2), "0 or 1"),
            (lambda t: t.assign(b2camp=0), "0 rows have b2camp = 1 alone"),
            (lambda t: t.assign(pka=1.0), "has no terciles"),
            (lambda t: t.iloc[:0], "0 rows"),
        ],
        ids=["column", "text", "nan", "infinite", "flag", "no rows", "constant", "empty table"],
    )
    def test_bad_table_is_refused_by_name(self, tmp_path, spoil, told):
        self.write(tmp_path, spoil(cells()))
        err = fail(2, "experiment", "sachs", "--fast", "--data", tmp_path, "--out", tmp_path / "run")
        assert told in err
        assert sachs.FILE in err

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01" * 40, b'a\tb\n"\n'], ids=["empty", "binary", "quote"])
    def test_file_that_is_no_table(self, tmp_path, content):
        (tmp_path / sachs.FILE).write_bytes(content)
        assert sachs.FILE in fail(2, "experiment", "sachs", "--data", tmp_path, "--out", tmp_path / "run")

    def test_directory_is_missing_a_file_or_empty(self, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "empty").mkdir()
        for name, told in (("nowhere", "does not exist"), ("file", "is a file"), ("empty", sachs.FILE)):
            assert told in fail(2, "experiment", "sachs", "--data", tmp_path / name, "--out", tmp_path / "run")


# ---- the page


class TestReport:
    @named(*command.NAMES)
    def test_page_is_whole_accessible_and_needs_nothing_else(self, runs, name):
        text = (runs(name)[0] / "report.html").read_text()
        page = Page(text)
        assert (page.faults, page.open) == ([], [])
        assert page.outside == []
        assert not re.search(r"https?://|@import|<script", text)
        assert len(text) < 1_000_000
        assert len(page.ids) == len(set(page.ids)), "identifiers are unique"
        targets = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
        targets |= set(re.findall(r'aria-labelledby="([^"]+)"', text))
        assert targets <= set(page.ids), "every reference has something to point to"
        assert page.of("html")[0]["lang"] == "en"
        assert len(page.of("h1")) == 1
        assert "prefers-color-scheme" in text
        found = metrics(runs(name)[0])
        assert len(page.of("figure")) == len(page.of("svg")) + len(page.of("img"))
        assert len(page.of("svg")) >= len(found["charts"]) + 1
        assert all(one["alt"] and one["src"].startswith("data:image/png") for one in page.of("img"))
        assert all(one.get("role") == "img" and one.get("aria-label") for one in page.of("svg"))
        assert len(page.of("table")) == len(found["tables"]) + 1
        assert all(one.get("scope") in {"row", "col"} for one in page.of("th"))

    @named(*command.NAMES)
    def test_page_says_what_was_measured_on_what(self, runs, name):
        folder, _ = runs(name)
        text, found = (folder / "report.html").read_text(), metrics(folder)
        for criterion in found["criteria"]:
            assert criterion["what"].replace("<", "&lt;") in text
        assert found["versions"]["torch"] in text
        assert found["command"] in text
        assert found["verdict"] in text

    def test_charts_take_their_colours_from_the_page(self):
        lines = [Line(f"<{k}>", [1, 2], [0.1 * (k + 1), 0.2]) for k in range(3)]
        svg = draw_chart(Chart("t", "x", "y", lines, 'says "this" & that', {"floor": 0.05}, log_y=True), "c9")
        for k in (1, 2, 3):
            assert f"var(--series-{k})" in svg
        assert not re.search(r"#0000[ab]\d", svg)
        assert 'aria-label="says &quot;this&quot; &amp; that"' in svg
        assert "<0>" not in svg

    def test_long_names_of_bars_lie_over_them_whole(self):
        names = [f"P(Y{k}, Colour, Thick | do(X1=1, X2={k}))" for k in range(4)]
        lines = [Line(label, names, [0.1, 0.2, 0.3, 0.4]) for label in ("auto", "joint")]

        def drawn(chosen):
            shown = [Line(line.label, chosen, list(line.y)) for line in lines]
            return draw_chart(Chart("t", "", "TVD", shown, "says", {"floor": 0.05}, kind="bars"), "c1")

        def size(svg):
            return [float(value) for value in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()]

        lying, standing = drawn(names), drawn(["a", "b", "c", "d"])
        assert all(name in lying for name in names)
        assert "rotate(-30" not in lying
        assert size(lying)[0] == size(standing)[0]
        # the more bars, the higher
        many = [Line(str(k), names * 2, [0.1] * 8) for k in range(5)]
        high = draw_chart(Chart("t", "", "TVD", many, "says", kind="bars"), "c1")
        assert size(high)[1] > 1.5 * size(standing)[1]

    def test_wide_drawings_have_a_row_of_their_own(self):
        shown = pictures([
            Picture(str(width), f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="9"></svg>', "says")
            for width in (300, 900)
        ])  # fmt: skip
        assert re.findall(r'<figure class="([^"]*)"><figcaption>(\d+)', shown) == [
            ("card drawing", "300"), ("card drawing wide", "900")
        ]  # fmt: skip

    def test_text_of_an_experiment_is_escaped(self, runs):
        found = metrics(runs("complexity")[0])
        nasty = '<b onclick="x">&'
        findings = Findings(notes=[nasty], criteria=[Criterion(nasty, 1, 2)])
        page = command.render_page({**found, "title": nasty}, findings)
        assert nasty not in page
        assert Page(page).faults == []

    def test_browser_shows_pictures_and_has_nothing_to_complain_about(self, runs, tmp_path):
        pictures = look(runs("complexity")[0] / "report.html", tmp_path)
        assert pictures == 3
