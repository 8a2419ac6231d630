"""Ensembles: weights of the Bayesian bootstrap, members, intervals and ranges of answers."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call
from hypothesis import given
from hypothesis import strategies as st
from learning import read_out

import mdcm
from mdcm.data import Encoded
from mdcm.dcm import derived_seed
from mdcm.model.answering import Answering
from mdcm.sampling.answers import student_interval, student_quantile
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.bootstrap import resampled

BRIEF = mdcm.TrainConfig(max_steps=60)
DOOR = mdcm.ADMG.from_string("X -> Z; Z -> Y; X <-> Y")
TRUTH = mdcm.scm.random_discrete(DOOR, levels=2, seed=3)
ASKED = "P(Y=1 | do(X=1))"


def encoded(rows=40, groups=None, weights=None, name="d1"):
    column = np.arange(rows) % 2
    return Encoded(name, {"X": column}, rows=rows, groups=groups, weights=weights)


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


class TestWeights:
    def test_their_moments_are_those_of_the_bayesian_bootstrap(self):
        rows = 20_000
        weights = resampled({"d1": encoded(rows)}, seed=0)["d1"].weights
        assert weights.mean() == pytest.approx(1, abs=1e-12)
        # the variance of a Dirichlet weight times n is (n - 1) / (n + 1); the fourth central moment of an exponential
        # variable is 9, so that of a variance of n of them the standard error is sqrt(8 / n)
        assert weights.var() == pytest.approx(1, abs=5 * math.sqrt(8 / rows))
        assert (weights > 0).all()

    def test_a_group_has_one_weight(self):
        groups = np.repeat(np.arange(10), 4)
        weights = resampled({"d1": encoded(groups=groups)}, seed=1)["d1"].weights
        assert all(len(set(weights[groups == group])) == 1 for group in range(10))
        assert len(set(weights)) == 10

    def test_own_weights_are_multiplied_and_columns_shared(self):
        own = np.linspace(1, 2, 40)
        one = encoded(weights=own)
        plain = resampled({"d1": encoded()}, seed=2)["d1"]
        both = resampled({"d1": one}, seed=2)["d1"]
        np.testing.assert_allclose(both.weights, plain.weights * own)
        assert both["X"] is one["X"]

    def test_they_depend_on_seed_and_data_set_alone(self):
        data = {"d1": encoded(), "d2": encoded(name="d2")}
        first, again, other = (resampled(data, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first["d1"].weights, again["d1"].weights)
        assert (first["d1"].weights != other["d1"].weights).all()
        assert (first["d1"].weights != first["d2"].weights).all()


class TestIntervals:
    @given(probability=st.floats(0.01, 0.99), degrees=st.integers(1, 60))
    def test_quantiles_are_those_of_scipy(self, probability, degrees):
        stats = pytest.importorskip("scipy.stats")
        expected = stats.t.ppf(probability, degrees)
        assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_errors_besides_widen_and_bounds_cut(self):
        members = [[0.01, 0.5], [0.03, 0.7]]
        low, high = student_interval([0.02, 0.6], members, [0.0, 0.0], 0.9, (0, 1))
        wider_low, wider_high = student_interval([0.02, 0.6], members, [0.0, 0.3], 0.9)
        assert low[0] == 0
        assert wider_low[0] < 0
        assert high[0] == wider_high[0]
        assert wider_low[1] < low[1]
        assert wider_high[1] > high[1]

    def test_they_cover_as_often_as_they_say(self):
        """Of a normal estimate whose ensemble is exact, which is where Student's t comes from."""
        generator = np.random.default_rng(0)
        trials, members = 4_000, 20
        estimate = generator.normal(size=trials)
        answers = estimate + generator.normal(size=(members, trials))
        low, high = student_interval(estimate, answers, np.zeros(trials), 0.9)
        covered = ((low <= 0) & (high >= 0)).mean()
        assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / trials))


@pytest.fixture(scope="module")
def model():
    return mdcm.fit(DOOR, TRUTH.sample(1_500, seed=0), config=mdcm.TrainConfig(max_steps=200), ensemble=8)


class TestMembers:
    def test_a_member_is_what_training_on_its_weights_gives(self, model):
        """Trained by hand: the rows as they are, with the weights and the seed of the member, alone."""
        from mdcm.training.ensemble_member import TrainingContext
        from mdcm.training.jobs import TrainingData
        from mdcm.training.scheduler import train

        data = {"d1": mdcm.data.encode(model.data[0], model.schema)}
        seed = derived_seed(model.seed, "member", 3)
        setup = TrainingContext(
            model.graph, model.schema, model.plan, model.config, None, dict(model.dcm.states), torch.device("cpu")
        )
        (alone,) = train(setup, [TrainingData(resampled(data, seed), seed)])
        # as a bank of one and one of eight round: what bench/batched.py allows after as many steps
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(value, model.members[3].state_dict()[key], rtol=0, atol=2e-2)

    def test_members_differ_and_repeat(self, model):
        again = mdcm.fit(DOOR, TRUTH.sample(1_500, seed=0), config=mdcm.TrainConfig(max_steps=200), ensemble=8)
        assert same(again.dcm, model.dcm)
        assert all(same(one, other) for one, other in zip(again.members, model.members, strict=True))
        assert not same(model.members[0], model.members[1])

    def test_the_model_is_the_one_without_an_ensemble(self, model):
        alone = mdcm.fit(DOOR, TRUTH.sample(1_500, seed=0), config=mdcm.TrainConfig(max_steps=200))
        assert same(alone.dcm, model.dcm)
        assert alone.members == ()

    def test_seeds_alone_leave_less_to_chance(self, model):
        other = mdcm.fit(
            DOOR, TRUTH.sample(1_500, seed=0), config=mdcm.TrainConfig(max_steps=200), ensemble=8, resample=False
        )
        widths = [one.query(ASKED, 20_000) for one in (model, other)]
        assert widths[1].high - widths[1].low < widths[0].high - widths[0].low

    def test_confounders_states_are_the_models(self, model):
        assert all(member.states == model.dcm.states for member in model.members)

    def test_an_ensemble_of_one_is_refused_and_data_are_needed(self, model, tmp_path):
        with pytest.raises(ValueError, match="at least 2 members and at most 10,000, not 1"):
            model.train_ensemble(1)
        model.save(tmp_path / "run")
        with pytest.raises(mdcm.DataError, match="attach"):
            mdcm.load(tmp_path / "run").train_ensemble(2)

    def test_images_flows_and_critics_have_ensembles_too(self):
        generator = np.random.default_rng(0)
        rows = 60
        images = generator.integers(0, 256, (rows, 1, 8, 8), dtype=np.uint8)
        table = pd.DataFrame({"D": generator.integers(0, 2, rows), "T": generator.normal(size=rows)})
        graph = "D -> I; D -> T; D <-> T"
        config = mdcm.TrainConfig(max_steps=4, adversarial=AdversarialConfig(batch_size=16))
        fitted = mdcm.fit(graph, mdcm.Dataset(table, images={"I": images}), config=config, ensemble=2)
        assert not same(*fitted.members)
        discrete = mdcm.fit(DOOR, TRUTH.sample(200, seed=1), config=config, objective="adversarial", ensemble=2)
        answer = discrete.query(ASKED, 1_000, allow_low_support=True)
        assert 0 <= answer.low < answer.high <= 1


def exact_answers(dcm):
    """P(X=1), P(Z=1 | do(X)) and P(Y=1 | do(Z)) of a front door, with no error of drawing."""
    model = read_out(dcm)
    asked = [("X", {}), *(("Z", {"X": x}) for x in (0, 1)), *(("Y", {"Z": z}) for z in (0, 1))]
    return np.array([model.exact([name], do=do)[1] for name, do in asked])


class TestTables:
    """Of many rows a member's table is their weighted frequencies."""

    @pytest.mark.parametrize(
        ("text", "levels", "concentration"),
        [("X -> Y", 2, 1.0), ("X -> Y", 4, 0.3), ("W -> Y; X -> Y", 3, 1.0)],
        ids=["two levels", "rare levels", "two parents"],
    )
    def test_members_are_the_frequencies_under_their_own_weights(self, text, levels, concentration):
        graph = mdcm.ADMG.from_string(text)
        truth = mdcm.scm.random_discrete(graph, levels=levels, seed=2, concentration=concentration, smoothing=0.02)
        model = mdcm.fit(graph, truth.sample(32_000, seed=2), ensemble=4)
        data = {"d1": mdcm.data.encode(model.data[0], model.schema)}
        for number, member in enumerate(model.members):
            weights = resampled(data, derived_seed(model.seed, "member", number))["d1"].weights
            tables = read_out(member).tables
            for node in graph.nodes:
                names = [*sorted(graph.parents([node]), key=graph.index), node]
                counts = np.zeros([levels] * len(names))
                np.add.at(counts, tuple(data["d1"][name] for name in names), weights)
                total = counts.sum(-1, keepdims=True)
                # half a pseudo-count of every condition, and float32
                bound = 0.5 / np.maximum(total, 0.5) + 1e-6
                assert (np.abs(tables[node] - counts / np.maximum(total, 1e-9)) <= bound)[total[..., 0] > 0].all()


class TestAnswers:
    def test_an_interval_holds_its_answer(self, model):
        table = model.query("P(Y | do(X))", 20_000).table
        assert list(table.columns) == ["X", "Y", "probability", "stderr", "low", "high"]
        assert (table["low"] < table["probability"]).all()
        assert (table["probability"] < table["high"]).all()

    def test_a_difference_has_one(self, model):
        answer = model.query("P(Y=1 | do(X=1)) - P(Y=1 | do(X=0))", 20_000)
        assert answer.low < answer.value < answer.high
        assert answer.level == 0.9
        assert "90 % interval [" in str(answer)

    def test_a_higher_level_is_wider(self, model):
        narrow, wide = (model.query(ASKED, 20_000, level=level) for level in (0.5, 0.99))
        assert wide.low < narrow.low
        assert narrow.high < wide.high

    def test_widths_shrink_with_the_rows(self):
        """As one over the square root of them: 64 times the rows, an eighth of the width."""
        members, widths = 16, []
        for rows in (500, 32_000):
            config = mdcm.TrainConfig(max_steps=200)
            fitted = mdcm.fit(DOOR, TRUTH.sample(rows, seed=5), config=config, ensemble=members)
            drawn = [exact_answers(one) for one in fitted.members]
            low, high = student_interval(exact_answers(fitted.dcm), drawn, np.zeros(5), 0.9)
            widths.append(high - low)
        # the logarithm of a standard deviation of 16 members has a standard error of sqrt(1 / 30), that of a ratio of
        # two of sqrt(2 / 30), and five answers that rest on different parameters are five of them: three standard
        # errors of their mean let pass no power of the rows farther than 1/12 from 1/2
        error = math.sqrt(2 / (2 * (members - 1)) / len(widths[0]))
        shrunk = np.log(widths[0] / widths[1]).mean()
        assert shrunk == pytest.approx(math.log(8), abs=3 * error)

    def test_what_is_not_determined_is_a_range_at_least_this_wide(self):
        bow = mdcm.ADMG.from_string("X -> Y; X <-> Y")
        data = mdcm.scm.random_discrete(bow, levels=2, seed=0).sample(500, seed=0)
        fitted = mdcm.fit(bow, data, config=BRIEF, ensemble=4)
        with pytest.raises(mdcm.NotIdentifiableError):
            fitted.query(ASKED)
        answer = fitted.query(ASKED, 5_000, allow_unidentifiable=True)
        alone = [Answering(one, mdcm.query.parse(ASKED), num_samples=5_000, seed=0) for one in fitted.members]
        values = [answer.value, *(one.answer(answer.identification).value for one in alone)]
        assert answer.level is None
        assert (answer.low, answer.high) == (min(values), max(values))
        assert "at least this wide: [" in str(answer)

    @pytest.mark.parametrize("level", [0, 1, -0.1, float("nan")])
    def test_a_level_is_a_probability(self, model, level):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            model.query(ASKED, level=level)

    def test_without_an_ensemble_there_is_no_interval(self, model):
        alone = mdcm.fit(DOOR, TRUTH.sample(200, seed=0), config=BRIEF)
        answer = alone.query(ASKED, 1_000, allow_low_support=True)
        assert (answer.low, answer.high, answer.level) == (None, None, None)
        assert "low" not in answer.table


class TestRuns:
    def test_saved_and_loaded(self, model, tmp_path):
        model.save(tmp_path / "run")
        loaded = mdcm.load(tmp_path / "run")
        assert all(same(one, other) for one, other in zip(loaded.members, model.members, strict=True))
        first, second = (one.query(ASKED, 5_000) for one in (model, loaded))
        assert (first.low, first.high) == (second.low, second.high)

    def test_resumed_after_the_model_and_within_the_ensemble(self, tmp_path, monkeypatch):
        data, config = TRUTH.sample(400, seed=0), mdcm.TrainConfig(max_steps=40, checkpoint_seconds=0)
        expected = mdcm.fit(DOOR, data, config=config, ensemble=3)
        out = tmp_path / "run"
        from mdcm.storage.checkpoints import Checkpoints

        write, written = Checkpoints.write, []

        def stop(self, header, tensors):
            write(self, header, tensors)
            if self.run.path.name == "ensemble":
                written.append(header)
                if len(written) == 7:
                    raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoints, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            mdcm.fit(DOOR, data, config=config, ensemble=3, out=out)
        assert mdcm.load(out).members == ()
        assert (out / "ensemble" / "checkpoints").is_dir()
        found = mdcm.fit(DOOR, data, config=config, ensemble=3, out=out, resume=True)
        assert all(same(one, other) for one, other in zip(found.members, expected.members, strict=True))
        assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "model.json", "weights.safetensors"]
        again = mdcm.fit(DOOR, data, config=config, ensemble=3, out=out, resume=True)
        assert all(same(one, other) for one, other in zip(again.members, expected.members, strict=True))

    def test_damaged_descriptions_are_refused(self, model, tmp_path):
        from mdcm.storage import run_directory as rundir

        model.save(tmp_path / "run")
        description, weights, history = rundir.read_run(tmp_path / "run")
        del weights["member.1.priors.0"]
        rundir.write_run(tmp_path / "run", description, weights, history)
        with pytest.raises(mdcm.CheckpointError, match="does not fit"):
            mdcm.load(tmp_path / "run")

    def test_from_the_command_line(self, tmp_path):
        TRUTH.sample(300, seed=0).to_csv(tmp_path / "data.csv", index=False)
        (tmp_path / "spec.yaml").write_text(
            "graph: 'X -> Z; Z -> Y; X <-> Y'\ndata:\n- {path: data.csv}\ntrain: {max_steps: 20, ensemble: 2}\n"
        )
        out = tmp_path / "run"
        assert call("train", tmp_path / "spec.yaml", "--out", out, "--ensemble", 3).code == 0
        assert len(mdcm.load(out).members) == 3
        done = call("query", out, ASKED, "--level", 0.8, "--num-samples", 1000, "--low-support", "--json")
        content = json.loads(done.out)
        assert content["level"] == 0.8
        assert content["low"] <= content["value"] <= content["high"]
        assert call("query", out, ASKED, "--level", 1).code == 2
        assert call("train", tmp_path / "spec.yaml", "--out", tmp_path / "other", "--ensemble", 1).code == 2
