"""Training: how near the fits come to the truth, and the rules by which training splits, stops and repeats itself."""

import itertools
import re
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import (
    c_factor_at,
    c_factor_distance,
    confounded_chain,
    front_door,
    maximum_likelihood,
    mean_c_factor_distance,
    random_problem,
    read_out,
    sampled_c_factor_distance,
    seven_variables,
)

import mdcm
from mdcm.data import Dataset, Schema, Variable
from mdcm.dcm import DCM
from mdcm.errors import MdcmError, PlanError
from mdcm.graph import ADMG
from mdcm.mechanisms import Mechanism
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.text.limits import RANGES
from mdcm.training.config import TrainConfig
from mdcm.training.confounders import choose_states, needs_draws
from mdcm.training.objectives.likelihood import ComponentRows
from mdcm.training.objectives.problems import FULL_BATCH_ROWS, ComponentProblem
from mdcm.training.rows import FitRows, held_out

BRIEF = TrainConfig(max_steps=30, checks=3)
ALONE = TrainConfig(max_steps=30, checks=3, batch_modules=False)


def joint_distance(problem, model):
    names = list(problem.graph.nodes)
    return tv_distance(problem.truth.exact(names), read_out(model.dcm).exact(names))


def coins(rows=500, seed=0):
    """X -> Y with X <-> Y, binary."""
    rng = np.random.default_rng(seed)
    u, x = rng.random(rows) < 0.5, rng.random(rows)
    x = (x < np.where(u, 0.8, 0.2)).astype(int)
    y = (rng.random(rows) < 0.1 + 0.4 * x + 0.4 * u).astype(int)
    return pd.DataFrame({"X": x, "Y": y})


def trained(history):
    return {tuple(record["hnode"]): record for record in history if record["event"] == "trained"}


def checks(history, *hnode):
    return [record for record in history if record["event"] == "check" and record["hnode"] == list(hnode)]


def problem_of(graph, table, config=None, weight=None, states=2, members=None):
    graph = ADMG.from_string(graph)
    levels = {name: tuple(range(int(table[name].max()) + 1)) for name in graph.nodes}
    schema = Schema([Variable(name, "categorical", levels[name]) for name in graph.nodes])
    dcm = DCM(graph, schema, {name: states for name, _ in graph.confounders})
    values = {name: torch.tensor(table[name].to_numpy()) for name in graph.nodes}
    members = list(members or graph.nodes)
    fit = FitRows(tuple(members), values, weight, torch.arange(len(table)))
    return ComponentProblem(dcm, members, [fit], config or TrainConfig(), 0)


class TestQuality:
    """One seed each, with the bars that hold for the means over five; all of them: bench/run.py quality."""

    def test_confounded_chain(self):
        # the frequencies of the 20,000 rows themselves are at 0.061: strength is shared between cells
        problem = confounded_chain()
        model = mdcm.fit(problem.graph, problem.table, config=TrainConfig(confounder_states=8))
        assert joint_distance(problem, model) <= 1.15 * 0.039

    def test_front_door_chain(self):
        problem = front_door()
        model = mdcm.fit(problem.graph, problem.table)
        assert joint_distance(problem, model) <= 1.15 * 0.017
        truth, learned = problem.truth, read_out(model.dcm)
        for level in range(3):
            effect = tv_distance(truth.exact("Y", do={"X": level}), learned.exact("Y", do={"X": level}))
            assert effect < 0.03
            assert tv_distance(truth.exact("Y", do={"X": level}), truth.exact("Y", given={"X": level})) > 0.06

    def test_seven_variables_of_three_levels(self):
        problem = seven_variables()
        model = mdcm.fit(problem.graph, problem.table)
        assert joint_distance(problem, model) <= 0.04
        assert sampling_floor(problem.truth.exact(list(problem.graph.nodes)), 20_000) > 0.09

    def test_random_graph_is_learned_as_well_as_by_exact_maximum_likelihood(self):
        problem = random_problem(8, 14, 4, seed=0)
        model = mdcm.fit(problem.graph, problem.table)
        exact = maximum_likelihood(problem.graph, problem.table, tolerance=1e-6)
        ours, theirs = mean_c_factor_distance(problem.truth, [read_out(model.dcm), exact])
        assert ours <= theirs


class TestOracle:
    """What the fits are held against must itself be right."""

    def test_counting_is_the_maximum_where_nothing_is_confounded(self):
        problem = random_problem(4, 5, 0, seed=1, rows=2000)
        exact = maximum_likelihood(problem.graph, problem.table)
        for node in problem.graph.nodes:
            parents = list(exact.axes(node)[:-1])
            for values, part in problem.table.groupby(parents) if parents else [((), problem.table)]:
                shares = part[node].value_counts(normalize=True).reindex(range(3), fill_value=0)
                assert exact.tables[node][tuple(values)] == pytest.approx(shares.to_numpy(), abs=1e-12)

    def test_expectation_maximisation_reaches_frequencies_where_these_are_possible(self):
        # a confounder of nine states can represent every table of two ternary variables
        table = random_problem(2, 1, 1, seed=2, rows=3000).table
        fitted = maximum_likelihood(ADMG.from_string("V0; V1; V0 <-> V1"), table, states=9, tolerance=1e-10)
        shares = table.value_counts(normalize=True).sort_index()
        assert tv_distance(fitted.exact(["V0", "V1"]), shares) < 1e-4

    def test_no_other_model_is_likelier(self):
        problem = random_problem(4, 4, 3, seed=3, rows=1000)
        fitted = maximum_likelihood(problem.graph, problem.table, states=4, tolerance=1e-9)
        components = [sorted(c, key=problem.graph.index) for c in problem.graph.c_components()]

        def log_likelihood(model):
            return sum(np.log(c_factor_at(model, c, problem.table)).mean() for c in components)

        best = log_likelihood(fitted)
        assert best > log_likelihood(problem.truth)
        rng = np.random.default_rng(0)
        for _ in range(20):
            # along the simplex, in any direction
            tables = {
                name: (1 - 0.01) * t + 0.01 * rng.dirichlet(np.ones(3), t.shape[:-1])
                for name, t in fitted.tables.items()
            }
            assert log_likelihood(mdcm.scm.DiscreteSCM(problem.graph, tables, fitted.priors)) < best

    def test_distances_of_c_factors(self):
        problem, other = random_problem(5, 7, 3, seed=4, rows=10), random_problem(5, 7, 3, seed=5, rows=10)
        wrong = mdcm.scm.random_discrete(problem.graph, levels=3, seed=9)
        assert other.graph != problem.graph
        for component in problem.graph.c_components():
            names = sorted(component, key=problem.graph.index)
            exact = c_factor_distance(problem.truth, [problem.truth, wrong], component)
            drawn = sampled_c_factor_distance(problem.truth, [problem.truth, wrong], names)
            assert exact[0] == pytest.approx(0, abs=1e-12)
            assert drawn[0] == pytest.approx(0, abs=1e-12)
            # |Q' / Q - 1| / 2 is below 1.5 + 30 / 2 with smoothing 0.1; its mean over 50,000 rows is good to 2 %
            assert exact[1] == pytest.approx(drawn[1], rel=0.03)
            assert exact[1] > 0.05

    def test_a_c_factor_is_weighted_by_its_parents_not_by_their_joint(self):
        # I is between D and A: P(D, A, I) is not P(I) Q[D, A](I)
        graph = ADMG.from_string("D -> I -> A; D <-> A")
        truth, other = (mdcm.scm.random_discrete(graph, levels=2, seed=seed) for seed in (1, 2))
        expected = 0.0
        for i, d, a in itertools.product(range(2), repeat=3):
            q, wrong = (
                sum(p * m.tables["D"][u, d] * m.tables["A"][i, u, a] for u, p in enumerate(m.priors["U[D,A]"]))
                for m in (truth, other)
            )
            expected += truth.exact("I")[i] * abs(q - wrong) / 2
        assert c_factor_distance(truth, [other], ["D", "A"])[0] == pytest.approx(expected, abs=1e-12)


class TestSplit:
    @given(st.lists(st.integers(0, 30), min_size=40, max_size=120), st.floats(0.05, 0.6), st.integers(0, 2**62))
    @settings(max_examples=100)
    def test_groups_stay_whole(self, groups, share, seed):
        groups = np.array(groups)
        held = held_out(len(groups), groups, share, seed)
        names = np.unique(groups)
        wanted = round(share * len(names))
        if not 1 <= wanted < len(names):
            assert held is None
            return
        assert len(np.unique(groups[held])) == wanted
        assert not set(groups[held]) & set(groups[~held])
        assert np.array_equal(held, held_out(len(groups), groups, share, seed))

    def test_rows_without_groups(self):
        held = held_out(1000, None, 0.1, 0)
        assert held.sum() == 100
        assert not np.array_equal(held, held_out(1000, None, 0.1, 1))
        assert held_out(1000, None, 0.0, 0) is None
        assert held_out(1000, np.zeros(1000), 0.5, 0) is None

    def test_too_few_to_judge_by(self):
        for rows, judged in ((199, False), (200, True)):
            model = mdcm.fit("X -> Y", coins(rows), config=BRIEF)
            assert any("heldout" in look for look in checks(model.history, "Y")) == judged

    def test_training_and_judging_use_different_groups(self, monkeypatch):
        seen = {}

        def spy(name):
            original = getattr(ComponentProblem, name)

            def called(self, rows):
                seen.setdefault(name, []).append(rows)
                original(self, rows)

            monkeypatch.setattr(ComponentProblem, name, called)

        spy("train_on")
        spy("validate_on")
        patients = np.repeat(np.arange(50), 10)
        mdcm.fit("X -> Y; X <-> Y", Dataset(coins(), groups=patients), config=ALONE)
        # first without the held-out rows, then on all
        first, second = seen["train_on"][-2:]
        (judged,) = seen["validate_on"]
        assert second is None
        assert not set(patients[first]) & set(patients[judged])
        assert sorted([*first.tolist(), *judged.tolist()]) == list(range(500))
        assert len(set(patients[judged])) == 5


class TestStopping:
    NAMES = tuple(f"N{i}" for i in range(6))

    def noise(self, rows, seed=0):
        """A variable that depends on nothing, with six ternary parents to find patterns in."""
        rng = np.random.default_rng(seed)
        return pd.DataFrame({**{name: rng.integers(0, 3, rows) for name in self.NAMES}, "Y": rng.integers(0, 2, rows)})

    def fit(self, **settings):
        graph = "; ".join(f"{name} -> Y" for name in self.NAMES)
        return mdcm.fit(graph, self.noise(400), config=TrainConfig(**settings))

    def test_overfitting_is_noticed(self):
        stopped, blind = self.fit(), self.fit(holdout=0.0)
        record = trained(stopped.history)["Y",]
        assert record["steps"] < 100
        assert trained(blind.history)["Y",]["steps"] == 400
        looks = checks(stopped.history, "Y")
        judged = [look["heldout"] for look in looks if "heldout" in look]
        # it went on until the looks had been worse for a while, and went back
        assert record["heldout"] < judged[-1]
        assert looks[len(judged) - 1]["step"] < 400
        off = [np.abs(read_out(model.dcm).tables["Y"][..., 0] - 0.5).mean() for model in (stopped, blind)]
        assert off[0] < 0.15 < 0.35 < off[1]

    def test_refit_takes_as_many_steps_on_all_rows(self):
        model = self.fit(max_steps=60, checks=6)
        record = trained(model.history)["Y",]
        looks = checks(model.history, "Y")
        second = [look for look in looks if "heldout" not in look]
        assert second[-1]["step"] == record["steps"]
        assert "heldout" in looks[0]
        once = self.fit(max_steps=60, checks=6, refit=False)
        assert all("heldout" in look for look in checks(once.history, "Y"))
        assert trained(once.history)["Y",]["steps"] == record["steps"]


class _Clock:
    """A clock that is a second later at every look."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        self.now += 1
        return float(self.now)


class TestTime:
    def fit(self, monkeypatch, minutes, **settings):
        monkeypatch.setattr(time, "monotonic", _Clock().monotonic)
        return mdcm.fit("X -> Y; X <-> Y", coins(), config=TrainConfig(max_minutes=minutes, checks=3, **settings))

    def test_no_time_at_all_still_gives_a_model(self):
        model = mdcm.fit(
            "X -> Y; X <-> Y; Y -> Z", coins().assign(Z=[0, 1] * 250), config=TrainConfig(max_minutes=1e-9)
        )
        records = trained(model.history)
        assert {steps for steps in (record["steps"] for record in records.values())} == {1}
        assert len(model.draw_samples(10).table) == 10

    def test_out_of_time_before_the_refit_keeps_the_first_weights(self, monkeypatch):
        # the clock is looked at once per step: time is over in the first of two runs
        late = self.fit(monkeypatch, minutes=19.5 / 60, max_steps=30)
        record = trained(late.history)["X", "Y"]
        assert record["steps"] == 20
        assert checks(late.history, "X", "Y")[-1]["step"] == record["steps"]

    def test_out_of_time_in_the_refit_keeps_the_first_weights(self, monkeypatch):
        late = self.fit(monkeypatch, minutes=45.5 / 60, max_steps=30)
        first = self.fit(monkeypatch, minutes=1e6, max_steps=30, refit=False)
        both = self.fit(monkeypatch, minutes=1e6, max_steps=30)
        assert trained(late.history)["X", "Y"]["steps"] == trained(first.history)["X", "Y"]["steps"] == 30
        weights, kept, refitted = (model.dcm.state_dict() for model in (late, first, both))
        assert all(torch.equal(weights[name], kept[name]) for name in weights)
        assert not all(torch.equal(weights[name], refitted[name]) for name in weights)


class TestSeeds:
    @staticmethod
    def weights(seed, state=0):
        torch.manual_seed(state)
        # more than 4,000 distinct rows, so that batches are drawn
        rng = np.random.default_rng(0)
        table = pd.DataFrame({name: rng.integers(0, 8, 6000) for name in "ABCDE"})
        graph = "A -> E; B -> E; C -> E; D -> E; D <-> E"
        config = TrainConfig(max_steps=20, confounder_states=3)
        return mdcm.fit(graph, table, config=config, seed=seed).dcm.state_dict()

    def test_the_seed_fixes_every_bit_and_another_changes_them(self):
        first, again, other = self.weights(0), self.weights(0, state=99), self.weights(1)
        assert all(torch.equal(first[name], again[name]) for name in first)
        weights = [name for name in first if first[name].dim() == 2 and first[name].numel()]
        assert weights
        assert not any(torch.equal(first[name], other[name]) for name in weights)

    def test_training_leaves_the_global_state_alone(self):
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        mdcm.fit("X -> Y; X <-> Y", coins(), config=BRIEF)
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002

    def test_the_order_of_rows_does_not_matter_where_all_are_seen_at_once(self):
        table = coins()
        config = TrainConfig(max_steps=30, holdout=0.0)
        shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
        first, second = (
            mdcm.fit("X -> Y; X <-> Y", rows, config=config).dcm.state_dict() for rows in (table, shuffled)
        )
        assert all(torch.equal(first[name], second[name]) for name in first)


class TestWeights:
    def test_weights_count_like_repeated_rows(self):
        table = coins(300)
        times = np.where(table["X"] == 1, 3, 1)
        config = TrainConfig(holdout=0.0)
        weighted = mdcm.fit("X -> Y; X <-> Y", Dataset(table, weights=times.astype(float)), config=config)
        repeated = mdcm.fit(
            "X -> Y; X <-> Y", table.loc[table.index.repeat(times)].reset_index(drop=True), config=config
        )
        plain = mdcm.fit("X -> Y; X <-> Y", table, config=config)
        exact = [read_out(model.dcm).exact(["X", "Y"]) for model in (weighted, repeated, plain)]
        assert tv_distance(exact[0], exact[1]) < 0.003
        assert tv_distance(exact[0], exact[2]) > 0.1

    def test_batches_are_spread_evenly_over_the_weight(self, monkeypatch):
        rng = np.random.default_rng(1)
        table = pd.DataFrame({name: rng.integers(0, 9, 9000) for name in "ABCDE"})
        weight = torch.from_numpy(rng.uniform(0.1, 3, 9000))
        problem = problem_of("A -> E; B -> E; C -> E; D -> E; D <-> E", table, weight=weight, members=["D", "E"])
        problem.train_on(None)
        assert len(problem.parts[0]) > FULL_BATCH_ROWS
        drawn = []
        select = ComponentRows.select

        def spy(self, rows):
            drawn.append(rows)
            return select(self, rows)

        monkeypatch.setattr(ComponentRows, "select", spy)
        steps = 300
        for step in range(1, steps + 1):
            problem.loss(step)
        # one row from each of 1,000 equal shares of the weight: cumulated, never off by more than one row
        cumulated = problem.parts[0].weight.double().cumsum(0)
        for rows in drawn:
            counts = torch.bincount(rows, minlength=len(problem.parts[0])).double().cumsum(0)
            assert float((counts - 1000 * cumulated).abs().max()) < 1.001
        # and every row as often as its weight says: squared errors of 300 draws are those of independent ones or less
        total = torch.bincount(torch.cat(drawn), minlength=len(problem.parts[0])).double()
        share = 1000 * problem.parts[0].weight.double()
        error = ((total / steps - share) ** 2).sum() / (share * (1 - share).clamp_min(0) / steps).sum()
        assert 0.9 < float(error) < 1.1

    def test_few_distinct_rows_are_all_seen_at_every_step(self):
        problem = problem_of("X -> Y; X <-> Y", coins())
        problem.train_on(None)
        assert len(problem.parts[0]) == 4
        expected = problem.likelihood.loss(problem.parts[0])
        assert torch.equal(problem.loss(1), expected)
        assert torch.equal(problem.loss(2), expected)


class TestFailures:
    @pytest.mark.parametrize("holdout", [0.0, 0.1])
    def test_a_loss_that_is_not_finite_names_the_hnode_the_step_and_the_remedy(self, holdout, monkeypatch):
        # no rate that is allowed does so here
        monkeypatch.setitem(RANGES, "learning_rate", ("above", 0, 1e38))
        config = TrainConfig(learning_rate=1e38, max_steps=30, holdout=holdout)
        with pytest.raises(MdcmError) as caught:
            mdcm.fit("X -> Y; X <-> Y", coins(), config=config)
        message = (
            r"training of h-node \{X, Y\} \(likelihood: P\(X, Y\) from d1\) diverged: its (loss is (nan|inf)|weights "
            r"are no longer finite) at step "
        )
        assert re.fullmatch(message + r"\d+; try a learning rate below 1e\+38", str(caught.value))

    def test_an_infinite_gradient_of_a_finite_loss_is_noticed_too(self):
        class Square(Given):
            def conditional_loss(self, parents, value, generator):
                # the root's slope at zero is infinite
                return (self.mean - self.mean.detach()).abs().sum().sqrt().expand(len(value)) + 1.0

        table = pd.DataFrame({"T": np.linspace(0, 1, 300)})
        config = TrainConfig(max_steps=5)
        with pytest.raises(MdcmError, match=r"h-node .T. \(.*\) diverged: its weights are no longer finite at step 1"):
            mdcm.fit("T", table, mechanisms={"T": lambda v, p, s: Square(v, p, s)}, config=config)

    def test_a_confounded_variable_without_a_density_is_refused(self):
        table = pd.DataFrame({"T": np.linspace(0, 1, 300), "X": [0, 1] * 150})
        with pytest.raises(PlanError, match="categorical"):
            mdcm.fit("T -> X; T <-> X", table, mechanisms={"T": lambda v, p, s: Given(v, p, s)}, config=BRIEF)


class Given(Mechanism):
    """A user's own mechanism in a few lines: the mean of a variable."""

    noise_size = 0

    def __init__(self, variable, parents, latents):
        super().__init__(variable, parents, latents)
        self.mean = torch.nn.Parameter(torch.zeros(variable.shape or ()))

    def forward(self, parents, latents, noise):
        return self.mean.expand(len(noise), *self.mean.shape)

    def conditional_loss(self, parents, value, generator):
        return (value - self.mean).square().flatten(1).mean(1) if value.dim() > 1 else (value - self.mean).square()

    def config(self):
        return {"type": "given"}


class TestStates:
    @staticmethod
    def schema(levels):
        return Schema([Variable(name, "categorical", tuple(range(size))) for name, size in levels.items()])

    def chosen(self, text, levels, requested=None, configurations=None):
        graph = ADMG.from_string(text)
        sizes = {name: levels if isinstance(levels, int) else levels[name] for name in graph.nodes}
        configurations = configurations or dict.fromkeys(graph.nodes, 1)
        return choose_states(graph, self.schema(sizes), configurations, requested)

    def test_at_least_eight(self):
        assert self.chosen("A <-> B", 2) == {"U[A,B]": 8}

    def test_second_largest_number_of_levels(self):
        # X <-> Y with 20 levels each needs 20 states; with 20 and 3 levels, 3 would do
        assert self.chosen("A <-> B", 20) == {"U[A,B]": 20}
        assert self.chosen("A <-> B", {"A": 20, "B": 3}) == {"U[A,B]": 8}
        text = "L [latent]; L -> A; L -> B; L -> C"
        assert self.chosen(text, {"A": 30, "B": 12, "C": 9}) == {"L": 12}

    def test_never_more_than_256(self):
        assert self.chosen("A <-> B", 600) == {"U[A,B]": 256} == self.chosen("A <-> B", 256)

    def test_a_number_that_was_asked_for_is_taken(self):
        assert self.chosen("A <-> B; B <-> C", 20, requested=3) == {"U[A,B]": 3, "U[B,C]": 3}

    def test_cliques_of_confounders_lower_it(self):
        # 1,024 combinations of states in one step: 8 each of 3 confounders, 5 of 4, 4 of 5
        for children, states in ((3, 8), (4, 5), (5, 4)):
            star = "; ".join(f"H <-> A{i}" for i in range(children))
            assert set(self.chosen(star, 2).values()) == {states}
        # summing one of the six confounders of four variables out joins the other five's
        pairs = "; ".join(f"{a} <-> {b}" for a, b in itertools.combinations("ABCD", 2))
        assert set(self.chosen(pairs, 2).values()) == {4}
        many = "; ".join(f"H <-> A{i}" for i in range(13))
        assert set(self.chosen(many, 2).values()) == {2}
        assert not needs_draws(ADMG.from_string(many))
        # where even two states would be too many, joint states are drawn, and their number costs nothing
        assert set(self.chosen(f"{many}; H <-> A13; B <-> C", 2).values()) == {8}
        assert needs_draws(ADMG.from_string(f"{many}; H <-> A13; B <-> C")) == {"H", *(f"A{i}" for i in range(14))}
        chain = "; ".join(f"A{i} <-> A{i + 1}" for i in range(9))
        assert set(self.chosen(chain, 30).values()) == {30}

    def test_many_parent_configurations_lower_it(self):
        chosen = self.chosen("A <-> B; B <-> C", 2, configurations={"A": 1, "B": 1000, "C": 1})
        # 32,768 rows of logits: 5 x 5 x 1,000 fit, 6 x 6 x 1,000 do not
        assert set(chosen.values()) == {5}

    def test_one_component_does_not_lower_another(self):
        many = "; ".join(f"H <-> A{i}" for i in range(8))
        chosen = self.chosen(f"{many}; X <-> Y", 2)
        assert chosen["U[X,Y]"] == 8
        assert chosen["U[H,A0]"] < 8


class TestImageParents:
    """D -> I -> A with D <-> A: a small picture between cause and effect, read by a small network."""

    PRIOR = np.array([0.5, 0.5])
    FLIP = 0.2
    D = np.array([0.15, 0.85])
    A = np.array([[[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]], [[0.5, 0.4, 0.1], [0.05, 0.15, 0.8]]])

    def pictures(self, labels, rng):
        """8 x 8 in grey: a bright bar on the left for 0, on the right for 1, and noise everywhere."""
        images = rng.normal(90, 25, (len(labels), 1, 8, 8))
        for label, columns in ((0, slice(1, 3)), (1, slice(5, 7))):
            images[labels == label, :, :, columns] += 90
        return images.clip(0, 255).astype(np.uint8)

    def draw(self, rows, seed=0):
        rng = np.random.default_rng(seed)
        u = rng.random(rows) < self.PRIOR[1]
        d = (rng.random(rows) < self.D[u.astype(int)]).astype(int)
        label = np.where(rng.random(rows) < self.FLIP, 1 - d, d)
        p = self.A[label, u.astype(int)].cumsum(1)
        a = (rng.random(rows)[:, None] > p[:, :2]).sum(1)
        return Dataset({"D": d, "A": a}, images={"I": self.pictures(label, rng)})

    def test_the_effect_of_a_picture_is_recovered(self):
        data = self.draw(12_000)
        own = {"I": lambda variable, parents, latents: Given(variable, parents, latents)}
        model = mdcm.fit("D -> I -> A; D <-> A", data, mechanisms=own, config=TrainConfig(max_steps=300))
        rng = np.random.default_rng(5)
        for label in (0, 1):
            pictures = self.pictures(np.full(8192, label), rng)
            drawn = model.draw_samples(8192, do={"I": pictures}, variables=["A"]).table["A"]
            found = drawn.value_counts(normalize=True).reindex(range(3), fill_value=0).to_numpy()
            effect = self.PRIOR @ self.A[label]
            # what conditioning would give: P(u | label) is not P(u)
            shown = np.where(label == 1, self.D, 1 - self.D)
            seen = self.PRIOR * (self.FLIP + (1 - 2 * self.FLIP) * shown)
            naive = seen @ self.A[label] / seen.sum()
            assert tv_distance(effect, found) < 0.03
            assert tv_distance(effect, naive) > 0.09
