"""What is said of draws and answers: not determined, hardly a row behind them, and what an error is the error of."""

import itertools
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import mdcm
from mdcm import CheckpointError, LowSupportError, NotIdentifiableError
from mdcm.sampling.counts import RowTable
from mdcm.storage.run_directory import read_run, write_run
from tests.command_line import fail, succeed

BRIEF = mdcm.TrainConfig(max_steps=20)


def confounded(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, 2, rows)
    x = np.where(rng.random(rows) < 0.8, hidden, 1 - hidden)
    m = np.where(rng.random(rows) < 0.8, x, 1 - x)
    y = (rng.random(rows) < 0.2 + 0.3 * m + 0.3 * hidden).astype(int)
    return pd.DataFrame({"X": x, "M": m, "Y": y})


@pytest.fixture(scope="module")
def bow():
    return mdcm.fit("X -> Y; X <-> Y", confounded()[["X", "Y"]], config=BRIEF)


@pytest.fixture(scope="module")
def door():
    return mdcm.fit("X -> M -> Y; X <-> Y", confounded(), config=BRIEF)


@pytest.fixture(scope="module")
def gap():
    """Nobody has X = 2, and hardly anybody X = 1."""
    table = pd.DataFrame({"X": [0] * 300 + [1] * 8, "Y": [0, 1, 1, 0] * 77})
    with pytest.warns(UserWarning, match="2"):
        return mdcm.fit("X -> Y", table, variables={"X": {"levels": [0, 1, 2]}}, config=BRIEF)


class TestDraws:
    @pytest.mark.parametrize(
        "draw",
        [
            lambda m, **more: m.draw_samples(20, do={"X": 1}, **more),
            lambda m, **more: m.draw_samples(20, do={"X": lambda x: 1 - x}, **more),
            lambda m, **more: m.draw_samples(20, do={"X": np.arange(20) % 2}, variables=["Y"], **more),
            lambda m, **more: m.counterfactual_samples(20, evidence={"X": 1, "Y": 0}, do={"X": 0}, **more),
            lambda m, **more: list(m.stream_samples(20, do={"X": 0}, **more)),
        ],
        ids=["do", "rule", "one per row", "counterfactual", "stream"],
    )
    def test_what_is_not_determined_is_said_once(self, bow, draw):
        with pytest.warns(
            UserWarning, match=r"not (shown to be )?determined by the graph and the data .*one fitted model"
        ) as caught:
            draw(bow)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        with pytest.raises(NotIdentifiableError):
            draw(bow, strict=True)

    def test_what_is_determined_is_drawn_in_silence(self, bow, door):
        for strict in (False, True):
            bow.draw_samples(20, strict=strict)
            bow.draw_samples(20, given={"X": 1}, strict=strict)
            bow.draw_samples(20, do={"Y": 1}, strict=strict)
            drawn = door.draw_samples(20, do={"X": 1}, strict=strict)
            assert drawn.unseen == drawn.support == 0
            assert 50 < drawn.rows < 600
        # a rule, where what it depends on is not confounded
        chain = mdcm.fit("X -> M", confounded()[["X", "M"]], config=BRIEF)
        chain.draw_samples(20, do={"X": lambda x: 1 - x}, strict=True)
        chain.counterfactual_samples(20, evidence={"X": 1}, do={"X": 0}, variables=["M"], strict=True)

    def test_says_which_variable_it_is(self):
        table = confounded().assign(W=[0, 1] * 300)
        model = mdcm.fit("X -> Y; X <-> Y; X -> M; W", table, config=BRIEF)
        with pytest.warns(UserWarning, match="by itself, this holds for Y$"):
            model.draw_samples(20, do={"X": 1})
        model.draw_samples(20, do={"X": 1}, variables=["X", "M", "W"], strict=True)

    def test_few_rows_are_said_and_none_too(self, gap):
        with pytest.warns(UserWarning, match="rests on about 8 of 308 rows"):
            assert gap.draw_samples(20, do={"X": 1}).rows == 8
        with pytest.warns(UserWarning, match="no row of the training data has X=2"):
            drawn = gap.draw_samples(20, do={"X": 2})
        assert (drawn.rows, drawn.unseen) == (0.0, 1.0)
        for x in (1, 2):
            with pytest.raises(LowSupportError, match=r"training data|8 of 308"):
                gap.draw_samples(20, do={"X": x}, strict=True)
        with pytest.warns(UserWarning, match="rests on"):
            gap.counterfactual_samples(20, evidence={"X": 0}, do={"X": 1})

    def test_from_the_shell(self, bow, gap, tmp_path):
        bow.save(tmp_path / "bow")
        gap.save(tmp_path / "gap")
        out = tmp_path / "s.csv"
        said = succeed("sample", tmp_path / "bow", "--do", "X=1", "--num-samples", 20, "--out", out).err
        assert said.count("not determined by the graph and the data") == 1
        assert "8 of 308 rows" in succeed("sample", tmp_path / "gap", "--do", "X=1", "--out", out).err
        asked = ("sample", tmp_path / "bow", "--evidence", "X=1", "--evidence", "Y=0", "--do", "X=0")
        said = succeed(*asked, "--num-samples", 20, "--out", out).err
        assert said.count("P(Y[X=0] | X=1, Y=0) is not determined by the graph and the data") == 1
        assert (
            "no row of the training data has X=2"
            in succeed("sample", tmp_path / "gap", "--evidence", "X=0", "--do", "X=2", "--out", out).err
        )
        # what is seen alone, and rows as they come, need no word
        for more in (("--given", "X=1"), ()):
            assert "determined" not in succeed("sample", tmp_path / "bow", *more, "--out", out).err
        out.unlink()
        fail(1, *asked, "--strict", "--out", out)
        for run, option in (("bow", "X=1"), ("gap", "X=2"), ("gap", "X=1")):
            fail(1, "sample", tmp_path / run, "--do", option, "--strict", "--out", out)
        assert not out.exists()


@pytest.fixture(scope="module")
def ternary():
    """X <-> Y with levels 0, 1, 2, seen as it came and with X set at random."""
    rng = np.random.default_rng(0)
    hidden, set_to = rng.integers(0, 3, 900), rng.integers(0, 3, 900)
    y = (rng.random(900) < 0.1 + 0.3 * hidden).astype(int)
    seen = mdcm.Dataset(pd.DataFrame({"X": hidden, "Y": y}), name="seen")
    trial = mdcm.Dataset(pd.DataFrame({"X": set_to, "Y": y}), do="X", name="trial")
    return mdcm.fit("X -> Y; X <-> Y", [seen, trial], config=BRIEF)


def next_level(x):
    return (x + 1) % 3


CALLS = itertools.count()


def random_level(x):
    """Another level the next time it is asked."""
    return next(CALLS) // 3 % 3


class TestRules:
    """A rule that reads the natural value asks a question of the third layer, which is judged by that very rule."""

    @pytest.mark.parametrize(
        "draw",
        [
            lambda m, **more: m.draw_samples(9, do={"X": next_level}, **more),
            lambda m, **more: m.draw_samples(9, do={"X": lambda x: [2, 2, 0][x]}, **more),
            lambda m, **more: list(m.stream_samples(9, do={"X": next_level}, variables=["Y"], **more)),
            lambda m, **more: m.counterfactual_samples(9, evidence={}, do={"X": next_level}, **more),
            lambda m, **more: m.counterfactual_samples(9, evidence={"Y": 1}, do={"X": next_level}, **more),
            lambda m, **more: m.counterfactual_samples(9, evidence={"X": 2}, do={"X": next_level}, **more),
            lambda m, **more: m.draw_samples(9, do={"X": random_level}, **more),
        ],
        ids=["shift", "two levels", "stream", "no evidence", "evidence", "evidence of X", "random"],
    )
    def test_one_that_is_not_determined_is_told(self, ternary, draw):
        with pytest.warns(UserWarning, match="determined by the graph and the data") as caught:
            draw(ternary)
        assert len(caught) == 1
        assert "set by a rule" in str(caught[0].message)
        with pytest.raises(NotIdentifiableError):
            draw(ternary, strict=True)

    @pytest.mark.parametrize(
        "rule",
        [
            lambda x: 1,
            lambda x: x,
            lambda x: {0: 0, 1: 1, 2: 2}[x],
        ],
        ids=["constant", "as it is", "as it is, in a roundabout way"],
    )
    def test_one_that_is_determined_is_drawn_in_silence(self, ternary, rule):
        assert ternary.identify("P(Y | do(X))", do={"X": rule}).identifiable
        ternary.draw_samples(9, do={"X": rule}, strict=True)
        ternary.counterfactual_samples(9, evidence={}, do={"X": rule}, strict=True)

    def test_as_query_says(self, ternary, bow):
        """Of two levels P(Y[X=1-x], X=x) follows from the experiment, of three it does not."""
        rng = np.random.default_rng(0)
        seen = mdcm.Dataset(confounded()[["X", "Y"]], name="seen")
        trial = mdcm.Dataset(confounded(seed=1)[["X", "Y"]].assign(X=rng.integers(0, 2, 600)), do="X", name="trial")
        binary = mdcm.fit("X -> Y; X <-> Y", [seen, trial], config=BRIEF)
        for model, rule in ((ternary, next_level), (binary, lambda x: 1 - x), (bow, lambda x: 1 - x)):
            is_known = bool(model.identify("P(Y | do(X))", do={"X": rule}).identifiable)
            assert is_known is (model is binary)
            for draw in (model.draw_samples, model.counterfactual_samples):
                more = {} if draw == model.draw_samples else {"evidence": {}}
                if is_known:
                    draw(9, do={"X": rule}, strict=True, **more)
                else:
                    with pytest.raises(NotIdentifiableError):
                        draw(9, do={"X": rule}, strict=True, **more)

    def test_two_rules_one_after_the_other(self):
        """The second one reads what the variable would be under the first."""
        table = confounded()
        chain = mdcm.fit("X -> M -> Y", table, config=BRIEF)
        chain.draw_samples(9, do={"X": lambda x: 1 - x, "M": lambda m: 1 - m}, strict=True)
        chain.counterfactual_samples(9, evidence={"X": 1}, do={"M": lambda m: 1 - m}, variables=["Y"], strict=True)
        hidden = mdcm.fit("X -> M -> Y; M <-> Y", table, config=BRIEF)
        hidden.draw_samples(9, do={"X": lambda x: 1 - x}, strict=True)
        with pytest.warns(UserWarning, match="X, M set by a rule is not"):
            hidden.draw_samples(9, do={"X": lambda x: 1 - x, "M": lambda m: 1 - m}, variables=["Y"])

    def test_values_row_by_row_are_judged_at_those_values(self):
        """An experiment at X = 1 alone."""
        seen = mdcm.Dataset(confounded()[["X", "Y"]], name="seen")
        trial = mdcm.Dataset(confounded(seed=1)[["X", "Y"]].assign(X=1), do="X", name="trial")
        model = mdcm.fit("X -> Y; X <-> Y", [seen, trial], config=BRIEF)
        model.draw_samples(4, do={"X": [1, 1, 1, 1]}, strict=True)
        for values in ([1, 0, 1, 1], np.array([0, 0, 1, 1])):
            with pytest.raises(NotIdentifiableError):
                model.draw_samples(4, do={"X": values}, strict=True)


class TestSaved:
    @pytest.mark.parametrize("text", ["P(Y | do(X=1))", "P(Y | do(X=2))", "P(Y=1 | X=1)", "P(Y | do(X))"])
    def test_a_loaded_model_says_the_same(self, gap, tmp_path, text):
        gap.save(tmp_path / "run")
        said = []
        for model in (gap, mdcm.load(tmp_path / "run")):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    answer = model.query(text, 500)
                    said.append((answer.rows, answer.unseen, [str(one.message) for one in caught]))
                except LowSupportError as error:
                    said.append(str(error))
        assert said[0] == said[1]

    def test_of_numbers_too_and_once_more(self, tmp_path):
        rng = np.random.default_rng(0)
        c = rng.normal(size=900)
        t = (rng.random(900) < 1 / (1 + np.exp(-c))).astype(int)
        table = pd.DataFrame({"C": c, "T": t, "Y": t + c + rng.normal(size=900)})
        model = mdcm.fit("C -> T; C -> Y; T -> Y", table, config=BRIEF, out=tmp_path / "run")
        loaded = mdcm.load(tmp_path / "run")
        loaded.save(tmp_path / "again")
        again = mdcm.load(tmp_path / "again")
        for text in ("E[Y | do(T=1)]", "E[Y | do(T=1, C=0.5)]"):
            assert len({one.query(text, 500).rows for one in (model, loaded, again)}) == 1
        with pytest.raises(LowSupportError, match="has C=90"):
            again.query("E[Y | do(C=90)]", 500)

    def test_what_is_kept_is_bounded(self):
        rng = np.random.default_rng(0)
        table = RowTable.of(("A", "B"), rng.integers(0, 500, (60_000, 2)).astype(np.int32))
        kept = table.thinned()
        assert len(kept.counts) < 21_000
        assert kept.counts.sum() == pytest.approx(60_000, rel=0.05)
        for column in range(2):
            assert set(kept.codes[:, column]) == set(table.codes[:, column])

    @pytest.mark.parametrize(
        ("key", "change"),
        [
            ("support.0.0.codes", lambda one: one + 7),
            ("support.0.0.codes", lambda one: one[:1]),
            ("support.0.0.counts", lambda one: one * torch.nan),
            ("support.0.0.counts", lambda one: one.float()),
            ("support.0.0.counts", lambda one: None),
        ],
        ids=["no level", "fewer", "not a number", "other type", "missing"],
    )
    def test_counts_that_do_not_fit_are_refused(self, door, tmp_path, key, change):
        door.save(tmp_path / "run")
        description, weights, history = read_run(tmp_path / "run")
        changed = change(weights.pop(key))
        weights |= {} if changed is None else {key: changed}
        kept = {name: value for name, value in description.items() if name not in {"format", "sha256"}}
        write_run(tmp_path / "run", kept, weights, history)
        with pytest.raises(CheckpointError, match="does not describe a model"):
            mdcm.load(tmp_path / "run")


class TestWords:
    def test_the_error_of_drawing_is_called_so(self, door):
        rng = np.random.default_rng(0)
        t = rng.normal(size=600)
        number = mdcm.fit("T -> Y", pd.DataFrame({"T": t, "Y": t + rng.normal(size=600)}), config=BRIEF)
        text = str(number.query("E[Y | do(T=0.5)]", 2000))
        assert re.search(r"^-?\d\.\d{4} \(± 0\.\d{4} from drawing\)$", text, re.MULTILINE)
        assert re.search(r"\(rests on about \d+ of 600 rows\)$", text)
        # what is summed has no such error
        assert re.search(r"^0\.\d{4} \(exact in the model\)$", str(door.query("P(Y=1 | do(X=1))")), re.MULTILINE)

    def test_what_is_not_determined_never_stands_alone(self, bow):
        number = str(bow.query("P(Y=1 | do(X=1))", 2000, allow_unidentifiable=True))
        assert re.search(r"not determined; one fitted model answers 0\.\d{4} \(", number)
        table = str(bow.query("P(Y | do(X))", 2000, allow_unidentifiable=True))
        assert "not determined; one fitted model answers:\n" in table

    def test_the_interval_stands_first(self):
        model = mdcm.fit("X -> M", confounded()[["X", "M"]], config=mdcm.TrainConfig(), ensemble=3)
        answer = model.query("P(M=1 | do(X=1))", 2000)
        assert re.search(r"0\.\d{4}, 90 % interval \[0\.\d{4}, \d\.\d{4}\] \(", str(answer))

    def test_a_model_far_from_the_frequencies_is_a_warning(self):
        """A model that was hardly trained, of 4,000 rows in which Y is nearly X."""
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, 4000)
        y = np.where(rng.random(4000) < 0.95, x, 1 - x)
        model = mdcm.fit("X -> Y", pd.DataFrame({"X": x, "Y": y}), config=mdcm.TrainConfig(max_steps=1))
        with pytest.warns(UserWarning, match="standard errors apart: one of them is wrong"):
            model.query("P(Y=1 | do(X=1))", 2000)

    def test_as_json(self, bow, door, tmp_path):
        bow.save(tmp_path / "bow")
        door.save(tmp_path / "door")
        asked = ("--num-samples", 500, "--json")
        content = json.loads(succeed("query", tmp_path / "door", "P(Y=1 | do(X=1))", *asked).out)
        assert (content["determined"], content["stderr_of"]) == (True, "drawing")
        assert content["rows"] > 50
        content = json.loads(succeed("query", tmp_path / "bow", "P(Y=1 | do(X=1))", "--anyway", *asked).out)
        assert content["determined"] is False

    def test_in_a_report(self, bow, gap, tmp_path):
        bow.save(tmp_path / "bow")
        gap.save(tmp_path / "gap")
        few = ("--num-samples", 200)
        succeed("report", tmp_path / "gap", "--query", "P(Y | do(X=2))", *few)
        page = (tmp_path / "gap" / "report.html").read_text()
        assert "no row of the training data has X=2" in page
        assert "--low-support answers all the same" in page
        succeed("report", tmp_path / "gap", "--query", "P(Y | do(X=2))", "--low-support", *few)
        page = (tmp_path / "gap" / "report.html").read_text()
        assert "Rests on about 0 of 308 rows, and 100% of its weight on none" in page
        succeed("report", tmp_path / "bow", "--query", "P(Y | do(X))", "--anyway", *few)
        assert "one fitted model answers this" in (tmp_path / "bow" / "report.html").read_text()
