"""Laws of fitting: what it finds, what it refuses, what is a function of what."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fitted import BRIEF, FRONT_DOOR, GaussianLine, front_door_table

import mdcm
from mdcm import (
    CheckpointError,
    DataError,
    Dataset,
    PlanError,
    TrainConfig,
    UntrainableError,
)
from mdcm.mechanisms import ImageGenerator
from mdcm.scm import DiscreteSCM
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives import critic_problem


@pytest.fixture(scope="module")
def table():
    return front_door_table()


class TestTraining:
    def test_is_a_function_of_the_seed(self, table):
        one, same_seed, other = (mdcm.fit(FRONT_DOOR, table, config=BRIEF, seed=seed) for seed in (4, 4, 5))
        weights, again = one.dcm.state_dict(), same_seed.dcm.state_dict()
        assert all(torch.equal(weights[name], again[name]) for name in weights)
        assert not all(torch.equal(tensor, other.dcm.state_dict()[name]) for name, tensor in weights.items())

    def test_finds_the_effect_through_the_front_door(self):
        """Against the exact answer, within the error of the plug-in estimator that knows the formula."""
        scm = DiscreteSCM(
            FRONT_DOOR,
            {
                "X": [[0.85, 0.15], [0.15, 0.85]],
                "Z": [[0.9, 0.1], [0.25, 0.75]],
                "Y": [[[0.8, 0.2], [0.3, 0.7]], [[0.65, 0.35], [0.05, 0.95]]],
            },
            {"U[X,Y]": [0.5, 0.5]},
        )
        rows = 8000
        truth = [float(scm.exact(["Y"], do={"X": x})[1]) for x in (0, 1)]
        estimates = np.array([front_door_formula(scm.sample(rows, seed=1000 + run)) for run in range(100)])
        error = np.sqrt(np.square(estimates - truth).mean(axis=0))

        model = mdcm.fit(FRONT_DOOR, scm.sample(rows, seed=0))
        data = scm.sample(rows, seed=0)
        for x in (0, 1):
            answer = model.query(f"P(Y=1 | do(X={x}))", 100_000)
            tolerance = 4 * math.hypot(error[x], answer.stderr)
            assert abs(answer.value - truth[x]) <= tolerance
            naive = data.loc[data["X"] == x, "Y"].mean()
            assert abs(naive - truth[x]) > 3 * tolerance

    def test_tells_who_asks(self, table):
        told = []

        class Listener:
            def start(self, hnode, steps):
                told.append(("start", hnode, steps))

            def step(self, hnode, step):
                told.append(("step", hnode, step))

            def finish(self, hnode):
                told.append(("finish", hnode))

        model = mdcm.fit(FRONT_DOOR, table, config=TrainConfig(max_steps=20), progress=Listener())
        for hnode in model.plan.hnodes:
            own = [event for event in told if event[1] == hnode.variables]
            assert (own[0][0], own[-1][0]) == ("start", "finish")
            steps = [event[2] for event in own[1:-1]]
            assert steps == sorted(steps)
            assert 0 < steps[-1] <= own[0][2]
        trained = [record for record in model.history if record["event"] == "trained"]
        assert [tuple(record["hnode"]) for record in trained] == [hnode.variables for hnode in model.plan.hnodes]
        assert all(1 <= record["steps"] <= 20 for record in trained)

    def test_says_nothing_unasked(self, table, capfd):
        mdcm.fit(FRONT_DOOR, table, config=BRIEF)
        assert capfd.readouterr() == ("", "")

    def test_with_images(self):
        """A picture among the variables: drawn as uint8, set by do(), the same in any block of rows."""
        rng = np.random.default_rng(0)
        pictures = rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
        data = pd.DataFrame({"D": rng.integers(0, 2, 60), "A": rng.integers(0, 3, 60)})
        config = TrainConfig(max_steps=2, batch_size=8, holdout=0)
        model = mdcm.fit("D -> I -> A; D <-> A", Dataset(data, images={"I": pictures}), config=config)
        whole = model.draw_samples(100, seed=1)
        assert whole.images["I"].dtype == np.uint8
        assert whole.images["I"].shape == (100, 1, 8, 8)
        assert list(whole.table) == ["D", "A"]
        part = model.draw_samples(10, seed=1)
        pd.testing.assert_frame_equal(part.table, whole.table.head(10), check_exact=True)
        np.testing.assert_array_equal(part.images["I"], whole.images["I"][:10])
        # one picture for all rows, or one for each; bytes, or the same as floats
        one = model.draw_samples(3, do={"I": pictures[0]})
        np.testing.assert_array_equal(one.images["I"], np.stack([pictures[0]] * 3))
        each = model.draw_samples(3, do={"I": pictures[:3] / 255.0})
        np.testing.assert_array_equal(each.images["I"], pictures[:3])
        again = model.draw_samples(100, do={"I": whole.images["I"]}, seed=1)
        assert (again.table["D"] == whole.table["D"]).all()
        answer = model.query("P(A | do(D=1))", 100, allow_low_support=True)
        assert answer.table["probability"].sum() == pytest.approx(1)
        assert 0 < answer.rows <= len(data)
        assert answer.unseen == 0

    def test_refuses_what_it_cannot_do(self, table, tmp_path):
        numbers = pd.DataFrame({"X": np.linspace(0, 1, 50), "Y": np.linspace(1, 3, 50) ** 2})
        other_plan = mdcm.plan("X -> Y", [mdcm.DatasetSpec("d1")])
        other_data = mdcm.plan(FRONT_DOOR, [mdcm.DatasetSpec("other")])
        experiment = mdcm.plan(FRONT_DOOR, [mdcm.DatasetSpec("d1", do=["Z"]), mdcm.DatasetSpec("d2")])
        (tmp_path / "letter.txt").write_text("dear reader")
        cases = [
            (PlanError, "there is no device 'tpu'", FRONT_DOOR, table, {"device": "tpu"}),
            (PlanError, "the plan is for another graph", FRONT_DOOR, table, {"plan": other_plan}),
            (PlanError, "a data set 'other', which is not among 'd1'", FRONT_DOOR, table, {"plan": other_data}),
            (PlanError, "the plan has do.Z. in data set 'd1', but", FRONT_DOOR, [table, table], {"plan": experiment}),
            (
                PlanError,
                "mechanisms: 'Yy' is not a node of the graph; did you mean 'Y'",
                FRONT_DOOR,
                table,
                {"mechanisms": {"Yy": GaussianLine}},
            ),
            (
                PlanError,
                "mechanisms: the factory of 'Z' returns a NoneType, not a Mechanism",
                FRONT_DOOR,
                table,
                {"mechanisms": {"Z": lambda *_: None}},
            ),
            (
                PlanError,
                "confounded variables without a density",
                "X -> Y; X <-> Y",
                numbers,
                {"mechanisms": {"X": GaussianLine, "Y": GaussianLine}},
            ),
            (PlanError, "objective is 'gan'", FRONT_DOOR, table, {"objective": "gan"}),
            (
                DataError,
                "variables: there is no variable 'Yy'; did you mean 'Y'",
                FRONT_DOOR,
                table,
                {"variables": {"Yy": {}}},
            ),
            (CheckpointError, "it holds 'letter.txt' and no model.json", FRONT_DOOR, table, {"out": tmp_path}),
            (CheckpointError, "is a file; give a directory", FRONT_DOOR, table, {"out": tmp_path / "letter.txt"}),
        ]
        for kind, message, graph, data, options in cases:
            with pytest.raises(kind, match=message):
                mdcm.fit(graph, data, config=BRIEF, **options)
        with pytest.raises(UntrainableError, match=r"no dataset can teach \{Y\}: d lacks the column Y") as caught:
            mdcm.plan("X -> Y", [mdcm.DatasetSpec("d", columns=["X"])])
        assert caught.value.missing == {"d": "the column Y"}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"max_steps": 0}, "max_steps must be a whole number from 1 to 1,000,000,000, not 0"),
            ({"batch_size": 2.5}, "batch_size must be a whole number"),
            ({"learning_rate": float("nan")}, "learning_rate must be a number above 0 and at most 10, not nan"),
            ({"holdout": 1.0}, r"holdout must be a number from 0 to below 1, not 1.0"),
        ],
    )
    def test_settings_out_of_range(self, settings, message):
        with pytest.raises(ValueError, match=message):
            TrainConfig(**settings)


def front_door_formula(data):
    """P(Y=1 | do(X=x)) for x = 0, 1 with shares of the rows in place of probabilities."""
    by_z = [(data.loc[data["X"] == x, "Z"] == 1).mean() for x in (0, 1)]
    given = data.groupby(["X", "Z"])["Y"].mean()
    share = data["X"].mean()
    adjusted = [(1 - share) * given[0, z] + share * given[1, z] for z in (0, 1)]
    return [(1 - p) * adjusted[0] + p * adjusted[1] for p in by_z]


WATCHED = {
    "likelihood": ({}, TrainConfig(max_steps=20, checks=4)),
    "alone": ({}, TrainConfig(max_steps=20, checks=4, batch_modules=False)),
    "critics": (
        {"objective": "adversarial"},
        TrainConfig(confounder_states=3, adversarial=AdversarialConfig(steps=8, checks=4, batch_size=16, hidden=8)),
    ),
}


class TestValidations:
    """``on_validation`` shows the model on the way, and changes nothing."""

    @pytest.mark.parametrize("kind", WATCHED)
    def test_the_training_is_the_same_bit_for_bit(self, kind, table):
        options, config = WATCHED[kind]
        shown = []
        plain = mdcm.fit(FRONT_DOOR, table, config=config, **options)
        watched = mdcm.fit(FRONT_DOOR, table, config=config, on_validation=shown.append, **options)
        weights = plain.dcm.state_dict()
        assert all(torch.equal(weights[name], one) for name, one in watched.dcm.state_dict().items())
        # once for every step at which a job was validated; h-nodes of a level may be one job or several
        checks = list(filter(is_validation, watched.history))
        steps = {(record["step"], level_of(watched, record["hnode"])) for record in checks}
        assert 4 <= len(steps) <= len(shown) <= len(checks)

    @pytest.mark.parametrize("kind", WATCHED)
    def test_the_models_shown_are_whole_and_stay(self, kind, table):
        options, config = WATCHED[kind]
        shown, joints = [], []

        def on_validation(model):
            shown.append(model)
            joints.append(model.query("P(X, Z, Y)").table["probability"].to_numpy())

        mdcm.fit(FRONT_DOOR, table, config=config, on_validation=on_validation, **options)
        assert not np.allclose(joints[0], joints[-1])
        for model, joint in zip(shown, joints, strict=True):
            assert np.array_equal(model.query("P(X, Z, Y)").table["probability"], joint)

    def test_of_the_last_level_it_is_the_best_so_far(self):
        rng = np.random.default_rng(0)
        data = pd.DataFrame({"X": rng.integers(0, 3, 400), "Y": rng.integers(0, 2, 400)})
        config = TrainConfig(
            adversarial=AdversarialConfig(steps=40, checks=10, batch_size=16, hidden=8), confounder_states=3
        )
        shown = []
        model = mdcm.fit("X <-> Y", data, config=config, objective="adversarial", on_validation=shown.append)
        last = shown[-1].dcm.state_dict()
        assert all(torch.equal(last[name], one) for name, one in model.dcm.state_dict().items())

    def test_another_process_cannot_call_back(self, table):
        with pytest.raises(PlanError, match="use engine='local'"):
            mdcm.fit(FRONT_DOOR, table, engine="ray", on_validation=print)


def is_validation(record):
    return record["event"] == "check" and "heldout" in record


def level_of(model, hnode):
    (index,) = [k for k, one in enumerate(model.plan.hnodes) if list(one.variables) == list(hnode)]
    return next(k for k, level in enumerate(model.plan.levels) if index in level)


class TestReaders:
    """What critics compare of an image."""

    CONFIG = TrainConfig(
        adversarial=AdversarialConfig(steps=2, checks=1, batch_size=8, hidden=8, encoder_steps=2), confounder_states=2
    )

    def data(self):
        rng = np.random.default_rng(0)
        table = {"D": rng.integers(0, 2, 200)}
        return Dataset(table, images={"I": rng.random((200, 1, 8, 8), dtype=np.float32)})

    def test_a_reader_is_asked_in_place_of_an_encoder(self):
        asked = []

        def brightness(images):
            asked.append(tuple(images.shape[1:]))
            return images.mean((1, 2, 3))[:, None]

        model = mdcm.fit(
            "D -> I; D <-> I", self.data(), objective="adversarial", config=self.CONFIG, readers={"I": brightness},
            mechanisms={"I": partial(ImageGenerator, width=8, channels=4)},
        )  # fmt: skip
        assert set(asked) == {(1, 8, 8)}
        assert [record["event"] for record in model.history].count("trained") == len(model.plan.hnodes)

    def test_an_image_by_itself_is_compared_by_pixels(self, monkeypatch):
        seen = []
        critics = critic_problem.Critics

        def watched(masks, **options):
            seen.append([int(mask.sum()) for mask in masks])
            return critics(masks, **options)

        monkeypatch.setattr(critic_problem, "Critics", watched)
        mdcm.fit(
            "D -> I", self.data(), objective="adversarial", config=self.CONFIG,
            mechanisms={"I": partial(ImageGenerator, width=8, channels=4)},
        )  # fmt: skip
        assert [64] in seen
