"""Laws of a fitted model: of its draws and of its answers."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from fitted import BRIEF, FRONT_DOOR, GaussianLine, front_door, front_door_table, same, tangled
from scipy import stats

import mdcm
from mdcm import (
    DataError,
    Dataset,
    NotIdentifiableError,
    QueryError,
    TrainConfig,
)


@pytest.fixture(scope="module")
def table():
    return front_door_table()


@pytest.fixture(scope="module")
def model(table):
    return front_door(table)


@pytest.fixture(scope="module")
def tangle():
    return tangled()


@pytest.fixture(scope="module")
def mixed():
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"T": ["a", "b"] * 60, "N": rng.normal(size=120), "probability": [0, 1, 1] * 40})
    images = rng.integers(0, 256, (120, 1, 8, 8), dtype=np.uint8)
    return mdcm.fit(
        "T -> I; T -> N; T -> probability",
        Dataset(data, images={"I": images}),
        config=TrainConfig(max_steps=1, batch_size=2, holdout=0),
        mechanisms={"N": GaussianLine},
    )


@pytest.fixture(scope="module")
def rare():
    """B is 1 in one row of four hundred."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"A": rng.integers(0, 2, 4000), "B": (np.arange(4000) % 400 == 0).astype(int)})
    return mdcm.fit("A -> B", data, config=TrainConfig(max_steps=300))


class TestDraws:
    @pytest.mark.parametrize("do", [None, {"X": 1}], ids=["observing", "doing"])
    def test_row_i_is_the_same_however_many_are_drawn_and_whatever_was_asked_before(self, model, do):
        whole = model.draw_samples(9000, do=do, seed=7).table
        for number in (4097, 1, 4096, 100, 8999):
            model.draw_samples(13, seed=number)
            part = model.draw_samples(number, do=do, seed=7).table
            pd.testing.assert_frame_equal(part, whole.head(number), check_exact=True)

    def test_the_torch_seed_has_no_part_in_it(self, model):
        torch.manual_seed(0)
        one = model.draw_samples(50, seed=3)
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        same(one, model.draw_samples(50, seed=3))
        assert torch.equal(state, torch.random.get_rng_state())

    def test_seeds_make_other_rows(self, model):
        first, second = (model.draw_samples(200, seed=seed).table for seed in (0, 1))
        assert not first.equals(second)

    def test_fewer_variables_change_nothing_in_those_that_are_left(self, tangle):
        whole = tangle.draw_samples(500, seed=2).table
        for names in (["D"], ["G", "B"], ["E", "A", "D"]):
            part = tangle.draw_samples(500, variables=names, seed=2).table
            pd.testing.assert_frame_equal(part, whole[names], check_exact=True)

    def test_values_have_the_types_of_the_data(self, tangle):
        drawn = tangle.draw_samples(20).table
        assert list(drawn) == list(tangle.graph.nodes)
        assert drawn["A"].dtype == bool
        assert set(drawn["B"]) <= {"b0", "b1"}
        assert drawn["C"].dtype == float
        assert set(drawn["C"]) <= {0.0, 2.0}
        assert drawn["D"].dtype == pd.CategoricalDtype(["no", "yes"], ordered=True)

    def test_do_fixes_its_targets(self, tangle):
        drawn = tangle.draw_samples(100, do={"B": "b1", "A": False, "D": "yes"}).table
        assert set(drawn["B"]) == {"b1"}
        assert set(drawn["A"]) == {False}
        assert set(drawn["D"]) == {"yes"}

    @pytest.mark.parametrize("form", [list, tuple, np.array, pd.Series], ids=lambda form: form.__name__)
    def test_do_takes_one_value_per_row(self, model, form):
        values = np.random.default_rng(0).integers(0, 2, 5000).tolist()
        drawn = model.draw_samples(5000, do={"X": form(values)}, seed=4).table
        assert drawn["X"].tolist() == values
        for level in (0, 1):
            alone = model.draw_samples(5000, do={"X": level}, seed=4).table
            rows = drawn["X"] == level
            pd.testing.assert_frame_equal(drawn[rows], alone[rows], check_exact=True)

    def test_do_on_a_non_ancestor_changes_nothing(self, tangle):
        natural = tangle.draw_samples(300, seed=9).table
        changed = 0
        for name in tangle.graph.nodes:
            for level in tangle.schema[name].levels:
                drawn = tangle.draw_unjudged(300, do={name: level}, seed=9).table
                others = [node for node in tangle.graph.nodes if name not in tangle.graph.ancestors([node])]
                pd.testing.assert_frame_equal(drawn[others], natural[others], check_exact=True)
                children = tangle.graph.children([name])
                changed += any(not drawn[child].equals(natural[child]) for child in children)
        # and the equality above is not for want of effects
        assert changed >= 5

    def test_doing_what_happens_anyway_changes_nothing(self, tangle):
        natural = tangle.draw_samples(300, seed=9).table
        for names in (["B"], ["A", "C"], ["F", "D", "E"]):
            drawn = tangle.draw_samples(300, do={name: natural[name] for name in names}, seed=9).table
            pd.testing.assert_frame_equal(drawn, natural, check_exact=True)

    def test_draws_given_evidence_agree_with_it(self, model):
        given = {"Z": "high", "Y": 1}
        drawn = model.draw_samples(300, do={"X": 0}, given=given, seed=2)
        assert set(drawn.table["Z"]) == {"high"}
        assert set(drawn.table["Y"]) == {1}
        assert drawn.ess == len(drawn) == 300
        assert drawn.weights is None
        # in closed form, row i is the same however many are drawn
        pd.testing.assert_frame_equal(
            model.draw_samples(5000, do={"X": 0}, given=given, seed=2).table.head(300), drawn.table, check_exact=True
        )

    def test_numbers_of_rows(self, model):
        for number in (0, -3, 2.5, True, "10", None):
            with pytest.raises(QueryError, match="num_samples must be a whole number of at least 1"):
                model.draw_samples(number)
        assert len(model.draw_samples(np.int32(3))) == 3


@pytest.mark.usefixtures("by_drawing")
class TestQueries:
    def test_a_table_has_one_row_per_combination_and_sums_to_one(self, model):
        answer = model.query("P(Y | do(Z), X)", 2000)
        assert list(answer.table) == ["Z", "X", "Y", "probability", "stderr"]
        assert len(answer.table) == 2 * 2 * 3
        sums = answer.table.groupby(["Z", "X"])["probability"].sum()
        np.testing.assert_allclose(sums, 1.0, atol=1e-12)
        assert (answer.table["stderr"] > 0).all()
        assert (answer.value, answer.stderr) == (None, None)

    def test_probabilities_are_shares_of_the_draws(self, model):
        drawn = model.draw_samples(3000, do={"X": 1}, seed=5).table
        answer = model.query("P(Z=high, Y=2 | do(X=1))", 3000, seed=5)
        share = ((drawn["Z"] == "high") & (drawn["Y"] == 2)).mean()
        assert answer.value == share
        assert answer.ess == 3000

    def test_a_conditional_is_the_ratio_of_joint_and_marginal(self, model):
        conditional = model.query("P(Y=1 | do(X=0), Z=high)", 20_000)
        joint = model.query("P(Y=1, Z=high | do(X=0))", 20_000, seed=1)
        marginal = model.query("P(Z=high | do(X=0))", 20_000, seed=2)
        ratio = joint.value / marginal.value
        # by the delta method; the seeds differ, so the errors are independent
        error = ratio * math.hypot(joint.stderr / joint.value, marginal.stderr / marginal.value)
        assert abs(conditional.value - ratio) <= 4 * math.hypot(conditional.stderr, error)
        assert error < 0.02

    def test_an_expectation_is_the_sum_of_levels_times_probabilities(self, model):
        mean = model.query("E[Y | do(X=1)]", 5000, seed=3)
        shares = model.query("P(Y | do(X=1))", 5000, seed=3).table
        assert mean.value == pytest.approx((shares["Y"] * shares["probability"]).sum(), abs=1e-12)
        variance = (shares["Y"] ** 2 * shares["probability"]).sum() - mean.value**2
        # with a row a level above the mean and one a level below it
        assert mean.stderr == pytest.approx(math.sqrt((5000 * variance + 2) / 5002 / 5000), rel=1e-9)

    def test_a_difference_of_equal_rows_does_not_claim_certainty(self, model):
        # Z has no effect on X, so both sides agree in every row
        for rows in (10, 1000):
            answer = model.query("E[X | do(Z=high)] - E[X | do(Z=low)]", rows)
            assert answer.value == 0
            assert answer.stderr == pytest.approx(math.sqrt(2 / (rows + 2) / rows))

    def test_expectations_by_level_are_those_of_each_level(self, model):
        table = model.query("E[Y | do(X)]", 2000).table
        assert list(table) == ["X", "mean", "stderr"]
        for _, row in table.iterrows():
            alone = model.query(f"E[Y | do(X={int(row['X'])})]", 2000)
            assert (row["mean"], row["stderr"]) == (alone.value, pytest.approx(alone.stderr, rel=1e-12))

    def test_a_difference_has_a_smaller_error_than_its_terms_apart(self, model):
        paired = model.query("E[Y | do(X=1)] - E[Y | do(X=0)]", 5000)
        terms = [model.query(f"E[Y | do(X={level})]", 5000) for level in (1, 0)]
        assert paired.value == pytest.approx(terms[0].value - terms[1].value, abs=1e-12)
        assert 0 < paired.stderr < 0.8 * math.hypot(terms[0].stderr, terms[1].stderr)

    def test_sums_of_any_terms(self, model):
        text = "P(Y=1 | do(X=1)) - P(Y=1 | X=1) + P(Z=low)"
        parts = [model.query(part, 4000).value for part in ("P(Y=1 | do(X=1))", "P(Y=1 | X=1)", "P(Z=low)")]
        answer = model.query(text, 4000)
        assert answer.value == pytest.approx(parts[0] - parts[1] + parts[2], abs=1e-12)
        assert model.query("-P(Z=low)", 4000).value == -parts[2]

    @pytest.mark.parametrize(
        "text",
        ["P(Y=1 | do(X=1))", "P(Y=2 | X=0)", "E[Y | do(Z=high)]", "E[Y | do(X=1)] - E[Y | do(X=0)]"],
    )
    def test_standard_errors_are_those_of_the_answers(self, model, text):
        truth = model.query(text, 100_000, seed=10**6)
        runs = 40
        scores = []
        for seed in range(runs):
            answer = model.query(text, 400, seed=seed)
            scores.append((answer.value - truth.value) / math.hypot(answer.stderr, truth.stderr))
        # sums of squares and of values that a right error exceeds once in ten thousand times
        low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], runs)
        assert low < np.square(scores).sum() < high
        assert abs(np.sum(scores)) < stats.norm.ppf(1 - 5e-5) * math.sqrt(runs)

    def test_an_event_that_never_happened_is_not_claimed_to_be_impossible(self, model):
        # 12 combinations of levels, so that some do not occur
        rows = 10
        answer = model.query("P(X, Z, Y)", rows)
        assert (answer.table["probability"] == 0).any()
        for _, row in answer.table.iterrows():
            # the error of the share after one success and one failure more
            smooth = (row["probability"] * rows + 1) / (rows + 2)
            assert row["stderr"] == pytest.approx(math.sqrt(smooth * (1 - smooth) / rows), rel=1e-12)

    def test_says_how_the_answer_is_identified(self, model):
        answer = model.query("P(Y=1 | do(X=1))", 100)
        assert str(answer.identification) == str(model.identify("P(Y=1 | do(X=1))"))
        assert answer.note.startswith("identifiable: P(Y=1 | do(X=1)) = sum_{Z} P(Z | X=1)")
        assert str(answer).startswith("P(Y=1 | do(X=1))\n")

    def test_frequencies_stand_beside_the_answer(self, model, table):
        estimand = mdcm.identify(FRONT_DOOR, "P(Y | do(X))").estimand
        answer = model.query("P(Y | do(X))", 20_000)
        expected, errors = estimand.evaluate_with_error(table)
        beside = answer.plug_in
        assert beside["estimate"].to_numpy() == pytest.approx(expected.to_numpy())
        assert beside["stderr"].to_numpy() == pytest.approx(errors.to_numpy())
        gap = answer.table["probability"] - beside["estimate"]
        both = np.hypot(answer.table["stderr"], beside["stderr"])
        assert beside["difference"].to_numpy() == pytest.approx((gap / both).to_numpy())
        # the model smooths what the frequencies scatter, and was trained on them
        assert beside["difference"].abs().max() < 4
        assert "plug-in" in str(answer)
        difference = model.query("E[Y | do(X=1)] - E[Y | do(X=0)]", 2000)
        assert "frequencies in the data, by the estimand: " in str(difference)
        assert len(difference.plug_in) == 1

    def test_a_loaded_model_is_given_its_data_back(self, model, table, tmp_path):
        model.save(tmp_path / "run")
        loaded = mdcm.load(tmp_path / "run")
        assert loaded.query("P(Y=1 | do(X=1))", 100).plug_in is None
        with pytest.raises(DataError, match="these are not the data that the model was trained on"):
            loaded.attach(table.iloc[:-1])
        loaded.attach(table)
        pd.testing.assert_frame_equal(
            loaded.query("P(Y=1 | do(X=1))", 100).plug_in, model.query("P(Y=1 | do(X=1))", 100).plug_in
        )

    def test_what_is_not_determined_is_refused_unless_it_is_insisted_on(self, table):
        bow = mdcm.fit("X -> Y; X <-> Y; Z", table, config=BRIEF)
        with pytest.raises(NotIdentifiableError, match="an experiment that sets X to all values") as refused:
            bow.query("P(Y | do(X))", 100)
        assert refused.value.witness == mdcm.identify("X -> Y; X <-> Y", "P(Y | do(X))").witness
        assert refused.value.experiments == (("X",),)
        answer = bow.query("P(Y | do(X))", 100, allow_unidentifiable=True)
        assert answer.plug_in is None
        assert answer.identification.identifiable is False
        assert "not determined by the graph and the data (F' = {Y} inside F = {X, Y})" in str(answer)
        assert bow.query("P(Y | X)", 100).identification.identifiable

    def test_an_estimand_over_pictures_has_no_frequencies(self, mixed):
        answer = mixed.query("E[N | do(T=a)]", 100)
        assert answer.identification.identifiable
        assert answer.plug_in is None

    def test_numbers_of_draws(self, model):
        for number in (1, 0, 10.0, None):
            with pytest.raises(QueryError, match="num_samples must be a whole number of at least 2"):
                model.query("P(Y)", number)


class TestRefusals:
    """What a query cannot be about, with the place in its text."""

    @pytest.mark.parametrize(
        ("text", "message", "under"),
        [
            ("P(Y[X=2] | X=0)", "variable 'X' has no level 2; its levels are 0, 1", "2"),
            ("P(Y[X=1] | X=0, X[Z=low]=1)", "the conditions contradict each other", "X"),
            ("P(Y[Z=low] | Z=high, Z[Y=0]=low)", "the conditions contradict each other", "Z"),
            ("P(W | do(X=1))", "there is no variable 'W'; there are 'X', 'Z', 'Y'", "W"),
            ("P(Y | do(X=2))", "variable 'X' has no level 2; its levels are 0, 1", "2"),
            ("P(Y | do(X=1), Z=hihg)", "'hihg'.*did you mean 'high'", "hihg"),
            ("P(Y | do(X=1), X=0)", "do() and the condition contradict each other", "X"),
            ("P(Y | do(X=1), X=1)", "'X' is set by do() and cannot be conditioned on as well", "X"),
            ("P(Y | do(X=1)", "this '(' is never closed", "("),
            ("E[Z | do(X=1)]", "the levels of 'Z' are not numbers, so it has no expectation", "Z"),
        ],
    )
    def test_have_a_caret_under_the_place(self, model, text, message, under):
        with pytest.raises(QueryError) as caught:
            model.query(text, 100)
        assert_caret(caught.value, text, message, under)

    @pytest.mark.parametrize(
        ("text", "message", "under"),
        [
            ("P(I | do(T=a))", "'I' is an image; use draw_samples", "I"),
            ("P(T | do(I))", "'I' is an image; use draw_samples", "I"),
            ("P(N | do(T=a))", "'N' is continuous: ask for its expectation, or bin it", "N"),
            ("P(N=1 | do(T=a))", "'N' is continuous: ask for its expectation, or bin it", "N"),
            ("P(T | do(N))", "'N' is continuous: give it a value, or bin it", "N"),
            ("P(T | N=1)", "'N' is continuous and has no density, so it can be conditioned on only if", "N"),
            ("P(I[T=a] | T=b)", "'I' is an image; use draw_samples", "I"),
            ("P(probability[N=a] | T=b)", "variable 'N' is continuous: 'a' is not a number", "a"),
            ("P(probability | do(T=a))", "the answer has a column 'probability' of its own", "probability"),
        ],
    )
    def test_of_variables_without_levels(self, mixed, text, message, under):
        with pytest.raises(QueryError) as caught:
            mixed.query(text, 100)
        assert_caret(caught.value, text, message, under)

    def test_do_not_reach_what_can_be_asked(self, mixed):
        assert mixed.query("E[N | do(T=a)]", 100).stderr > 0
        assert mixed.query("P(T | do(N=0.5))", 100).table["probability"].sum() == 1
        assert mixed.query("E[probability | do(T=a)] - E[probability | do(T=b)]", 100).stderr is not None

    def test_of_do_and_given(self, model):
        cases = [
            (QueryError, "there is no variable 'Q'; the model has 'X', 'Z', 'Y'", {"do": {"Q": 1}}),
            (QueryError, "there is no variable 'Q'", {"given": {"Q": 1}}),
            (QueryError, "there is no variable 'Q'", {"variables": ["Y", "Q"]}),
            (QueryError, "'X' is set by do\\(\\) and cannot be conditioned on", {"do": {"X": 1}, "given": {"X": 0}}),
            (QueryError, "one value per row cannot be combined", {"do": {"X": [0, 1]}, "given": {"Y": 0}}),
            (DataError, "variable 'X' has no level 3; its levels are 0, 1", {"do": {"X": 3}}),
            (DataError, "variable 'X' has no level 'x'", {"do": {"X": ["x", 0]}}),
            (DataError, "variable 'Z' has no level 'hgih'.*did you mean 'high'", {"given": {"Z": "hgih"}}),
            (DataError, "3 values were given for 2 rows", {"do": {"X": [0, 1, 1]}}),
            (DataError, "the array of values is empty", {"do": {"X": []}}),
            (DataError, "a value, or one per row, is needed", {"do": {"X": np.zeros((2, 2))}}),
            (DataError, "a value, or one per row, is needed", {"do": {"X": [[0], [1]]}}),
        ]
        for kind, message, arguments in cases:
            with pytest.raises(kind, match=message):
                model.draw_samples(2, **arguments)
        assert model.draw_samples(1, do={"X": np.array(1)}).table["X"].item() == 1

    def test_of_images_that_do_not_fit(self, mixed):
        for value, message in [
            (np.zeros((1, 8, 9)), r"an array of shape \(1, 8, 8\) or \[n, ...\] is needed, not \(1, 8, 9\)"),
            (np.full((1, 8, 8), 1.5), r"pixels must be uint8, or floats in \[0, 1\]"),
            (np.zeros((1, 8, 8), dtype=np.int64), "pixels must be uint8"),
            ("cat.png", r"an array of shape \(1, 8, 8\)"),
        ]:
            with pytest.raises(DataError, match=message):
                mixed.draw_samples(2, do={"I": value})
        with pytest.raises(QueryError, match="'I' is image and has no density, so it can be conditioned on only if"):
            mixed.draw_samples(2, given={"I": np.zeros((1, 8, 8))})


def assert_caret(error, text, message, under):
    said, shown, caret = str(error).split("\n")
    assert re.search(message.replace("()", r"\(\)").replace("'('", r"'\('"), said), said
    assert shown == "  " + text
    start = caret.index("^") - 2
    assert text[start : start + caret.count("^")] == under
    assert (error.text, error.position, error.length) == (text, start, len(under))


@pytest.mark.usefixtures("by_drawing")
class TestLowSupport:
    def test_rare_evidence_costs_nothing_where_all_is_discrete(self, rare):
        with pytest.warns(UserWarning, match="rests on about 10 of 4,000 rows"):
            drawn = rare.draw_samples(500, given={"B": 1})
        assert len(drawn) == drawn.ess == 500
        assert set(drawn.table["B"]) == {1}

    def test_few_training_rows_are_a_warning_unless_allowed(self, rare):
        with pytest.warns(UserWarning, match=r"P\(A=1 \| B=1\): the answer rests on about \d+ of"):
            answer = rare.query("P(A=1 | B=1)", 500)
        few = (rare.data[0].table["B"] == 1).sum()
        assert 0.5 * few < answer.rows <= few
        assert rare.query("P(A=1 | B=1)", 500, allow_low_support=True).rows == answer.rows
        # rows as they come cannot rest on anything unseen
        assert rare.query("P(A=1)", 500).rows == len(rare.data[0])

    def test_is_not_known_without_the_data(self, rare):
        bare = mdcm.model.Model(
            rare.graph, rare.schema, rare.plan, rare.dcm, rare.config, seed=0, datasets=rare.datasets
        )
        answer = bare.query("P(A=1 | B=1)", 500)
        assert (answer.rows, answer.unseen, answer.basis) == (None, None, None)

    def test_a_few_rows_are_enough_for_whoever_asks_for_a_few(self, rare):
        assert len(rare.draw_samples(1, given={"B": 0})) == 1
