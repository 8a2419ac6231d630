"""The front door through a picture: the true model is exact, and the experiment finds what it should."""

import json

import numpy as np
import pandas as pd
import pytest

import mdcm
from mdcm.errors import CheckpointError
from mdcm.experiments import demo, door
from mdcm.experiments.command import run_experiment
from mdcm.experiments.digits import COLOURS
from mdcm.experiments.door import FrontDoor
from mdcm.metrics import tv_distance

ROWS = 200_000


@pytest.fixture(scope="module")
def scm():
    return FrontDoor(16)


@pytest.fixture(scope="module")
def exact(scm):
    return scm.exact()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(out):
    return demo.run(out, fast=True, seed=0)


def within(frequencies, probabilities, n, *, errors=4.5):
    """Whether shares of n rows agree with probabilities, so many standard errors each."""
    return (np.abs(frequencies - probabilities) <= errors * np.sqrt(probabilities * (1 - probabilities) / n)).all()


def shown_given_d(scm):
    """P(I | D): one row per value of D, one column per picture of the bank."""
    by_digit = np.stack([(scm.bank.digits == digit) / (scm.bank.digits == digit).sum() for digit in (0, 1)])
    return (1 - scm.flip) * by_digit + scm.flip * by_digit[::-1]


class TestTruth:
    def test_distributions_add_up(self, exact):
        assert exact.joint.sum() == pytest.approx(1)
        assert exact.do.sum(axis=1) == pytest.approx([1, 1])
        assert exact.conditional == pytest.approx(exact.joint / exact.joint.sum(axis=1, keepdims=True))

    def test_joint_agrees_with_a_sample(self, scm, exact):
        drawn = scm.sample(ROWS, seed=1)
        counts = drawn.table.value_counts(normalize=True).reindex([(d, a) for d in (0, 1) for a in range(3)])
        assert within(counts.to_numpy(), exact.joint.ravel(), ROWS)

    def test_pictures_agree_with_the_mechanism(self, scm):
        d = np.repeat([0, 1], 50_000)
        images = scm.sample_images(d, seed=2)
        place = {picture.tobytes(): i for i, picture in enumerate(scm.bank.images)}
        rows = np.array([place[picture.tobytes()] for picture in images])
        for value in (0, 1):
            # equal pictures occur where a shift and a colour of two digits coincide, so labels are compared, not rows
            mine = rows[d == value]
            flipped = (scm.bank.digits[mine] != value).mean()
            assert within(flipped, np.array(scm.flip), 50_000)
            shares = np.bincount(scm.bank.colours[mine], minlength=3) / 50_000
            assert within(shares, np.full(3, 1 / 3), 50_000)

    def test_naive_answer_is_far_off_and_points_the_other_way(self, exact):
        gap = np.abs(exact.conditional - exact.do).sum(axis=1) / 2
        assert (gap >= 0.15).all()
        effect = exact.do[1] - exact.do[0]
        assert np.abs(effect).sum() / 2 >= 0.15
        naive = exact.conditional[1] - exact.conditional[0]
        assert effect[0] < 0 < naive[0]
        assert effect[2] > 0 > naive[2]

    @pytest.mark.parametrize("resolution", [8, 32])
    def test_effect_hardly_depends_on_the_resolution(self, exact, resolution):
        other = FrontDoor(resolution).exact()
        assert np.abs(other.do - exact.do).max() < (0.05 if resolution == 8 else 0.002)

    def test_front_door_formula_gives_the_effect(self, scm, exact):
        # P(A | I, D) and P(D) from the joint with the confounder, by Bayes; nothing but observed variables after that
        outcomes = scm.outcome_probabilities(scm.bank.images)
        d1 = door._D1_GIVEN_STATE
        state_and_d = door._STATES * np.stack([1 - d1, d1])
        p_d = state_and_d.sum(axis=1)
        given_image_and_d = np.einsum("du,iua->ida", state_and_d / p_d[:, None], outcomes)
        shown = shown_given_d(scm)
        assert (shown > 0).all(), "every picture occurs with either D, so every P(A | I, D) is defined"
        plug_in = np.einsum("di,iea,e->da", shown, given_image_and_d, p_d)
        assert plug_in == pytest.approx(exact.do, abs=1e-12)

    def test_without_flips_the_formula_is_undefined(self):
        assert (shown_given_d(FrontDoor(8, flip=0.0)) == 0).any()

    def test_effect_of_d_is_the_average_effect_of_its_pictures(self, scm, exact):
        assert shown_given_d(scm) @ scm.do_image(scm.bank.images) == pytest.approx(exact.do, abs=1e-12)

    def test_outcome_probabilities_are_distributions_that_depend_on_everything(self, scm):
        outcomes = scm.outcome_probabilities(scm.bank.images[:100])
        assert outcomes.shape == (100, 4, 3)
        assert outcomes.sum(axis=-1) == pytest.approx(np.ones((100, 4)))
        assert (outcomes > 0).all()
        assert np.ptp(outcomes, axis=0).min() > 0.01
        assert np.ptp(outcomes, axis=1).min() > 0.001

    def test_sample_is_a_function_of_the_seed(self, scm):
        first, again, other = scm.sample(500, seed=3), scm.sample(500, seed=3), scm.sample(500, seed=4)
        assert first.table.equals(again.table)
        assert np.array_equal(first.images, again.images)
        assert not first.table.equals(other.table)
        assert first.images.dtype == np.uint8
        assert list(first.table.columns) == ["D", "A"]

    @pytest.mark.parametrize("flip", [-0.1, 1.5])
    def test_flip_is_a_probability(self, flip):
        with pytest.raises(ValueError, match=f"flip is a probability, not {flip}"):
            FrontDoor(8, flip=flip)


class TestRun:
    def test_distances_are_those_of_the_tables(self, result, exact):
        assert np.array(result.truth) == pytest.approx(exact.do)
        for name in ("model", "model_on_real", "naive"):
            table = np.array(getattr(result, name))
            assert table.sum(axis=1) == pytest.approx([1, 1])
            assert result.tvd[name] == pytest.approx(np.abs(table - exact.do).sum(axis=1) / 2)

    def test_naive_answer_is_the_conditional_of_the_data(self, result, exact):
        rows = result.rows * exact.joint.sum(axis=1)
        for d in (0, 1):
            assert within(np.array(result.naive[d]), exact.conditional[d], rows[d])

    def test_everything_is_written_and_the_model_answers_again(self, result, out):
        assert json.loads((out / "metrics.json").read_text()) == json.loads(result.to_json())
        assert (out / "digits.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (out / "plan.svg").read_text()
        model = mdcm.load(out / "model")
        drawn = model.draw_samples(result.draws, do={"D": 1}, seed=result.seed)
        counts = drawn.table["A"].value_counts(normalize=True).reindex(range(3), fill_value=0)
        assert counts.to_numpy() == pytest.approx(np.array(result.model[1]))

    def test_shares_of_a_judgement_add_up(self, result):
        for seen in result.judged:
            assert seen.intended + seen.flipped + seen.neither == pytest.approx(1)
            assert sum(seen.colours) == pytest.approx(1)

    def test_text_shows_every_answer(self, result):
        text = demo.render(result)
        for table in (result.truth, result.model, result.model_on_real, result.naive):
            assert all(f"{p:.3f}" in text for row in table for p in row)
        assert all(path in text for path in result.files.values())

    def test_other_files_are_not_overwritten(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "thesis.txt").write_text("years of work")
        with pytest.raises(CheckpointError, match="model"):
            demo.run(tmp_path, fast=True)
        assert [path.name for path in tmp_path.rglob("*")] == ["model", "thesis.txt"]

    def test_an_earlier_demo_is_replaced_only_if_somebody_says_so(self, result, out, tmp_path):
        def held():
            return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

        before = held()
        with pytest.raises(CheckpointError, match=r"holds a finished run: resume=True .*, force=True replaces it"):
            demo.run(out, fast=True)
        assert held() == before
        again = demo.run(out, fast=True, resume=True)
        assert again.model == result.model
        assert {path: held()[path] for path in before if path.parent.name == "model"} == {
            path: content for path, content in before.items() if path.parent.name == "model"
        }
        (tmp_path / "metrics.json").write_text("mine")
        with pytest.raises(CheckpointError, match=r"metrics\.json exists and would be replaced"):
            demo.run(tmp_path, fast=True)
        assert (tmp_path / "metrics.json").read_text() == "mine"
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("how", [{"force": True}, {"resume": True}])
    def test_a_run_of_something_else_is_never_replaced(self, how, tmp_path):
        table = pd.DataFrame({"X": [0, 1] * 20, "Y": [0, 1] * 20})
        mdcm.fit("X -> Y", table, config=mdcm.TrainConfig(max_steps=1), out=tmp_path / "model")
        weights = (tmp_path / "model" / "weights.safetensors").read_bytes()
        with pytest.raises(CheckpointError, match="holds a run of another graph, which is none of the demo"):
            demo.run(tmp_path, fast=True, **how)
        assert (tmp_path / "model" / "weights.safetensors").read_bytes() == weights


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return run_experiment("frontdoor", tmp_path_factory.mktemp("frontdoor"), fast=True)


def answers(record, method):
    """P(A | do(D)), one row per value of D."""
    values = {
        row["quantity"]: row["value"]
        for row in record["results"]
        if row["method"] == method and row["experiment"] == "frontdoor"
    }
    return [[values[f"P(A={a} | do(D={d}))"] for a in range(3)] for d in (0, 1)]


# a small generator that was trained for seconds
@pytest.mark.filterwarnings("ignore:a pretrained mechanism does not draw what the data hold")
class TestSideBySide:
    """The experiment: four ways of training on the same rows."""

    def test_all_methods_are_there(self, record):
        methods = ["auto", "adversarial", "joint", "joint-rep"]
        assert [row["method"] for row in record["results"] if row["quantity"] == "steps"] == methods
        tables = {table["title"]: table for table in record["tables"]}
        assert tables["Answers"]["columns"] == ["", "naive", *methods]
        assert answers(record, "exact") == FrontDoor(8).exact().do.tolist()

    def test_numbers_are_those_of_what_was_drawn(self, record):
        exact = FrontDoor(8).exact()
        for method in ("auto", "adversarial", "joint", "joint-rep"):
            values = {row["quantity"]: row["value"] for row in record["results"] if row["method"] == method}
            for d, answer in enumerate(answers(record, method)):
                assert values[f"P(A | do(D={d})) with its own"] == pytest.approx(tv_distance(exact.do[d], answer))
                for parts in (("digit D", "the other digit", "neither digit"), COLOURS):
                    assert sum(values[f"do(D={d}): {part}"] for part in parts) == pytest.approx(1)

    def test_without_flips_the_effect_is_not_determined(self, record):
        (criterion,) = [one for one in record["criteria"] if one["experiment"] == "frontdoor, without flips"]
        losses = {row["method"]: row["value"] for row in record["results"] if row["quantity"].startswith("loss of")}
        assert criterion["value"] == pytest.approx(losses["without one"] - losses["with a confounder"])
        # the picture tells D, so that what is seen and what is set are different questions
        exact = FrontDoor(8, flip=0.0).exact()
        assert min(tv_distance(exact.do[d], exact.conditional[d]) for d in (0, 1)) > 0.15
