"""What an answer rests on: effective rows against exact weights, positivity, and what is said of its lack."""

import itertools
import math

import numpy as np
import oracles
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdcm
from mdcm import ADMG, LowSupportError, _core
from mdcm.model.answering import Answering
from mdcm.query import parse
from mdcm.sampling import FEWEST_ROWS, MOST_UNSEEN
from mdcm.sampling.strata import Column, overlap
from mdcm.sampling.support import Support
from mdcm.scm import random_discrete
from tests.exact_models import model_of

QUICK = mdcm.TrainConfig(max_steps=60)
ROWS = 20_000
DRAWS = 2048


def attached(scm, rows=ROWS, seed=0):
    """The SCM as a model that knows rows of it."""
    model = model_of(scm)
    model.data = (mdcm.Dataset(scm.sample(rows, seed=seed), name="d1"),)
    return model


def exact_worth(asked, seen, rows):
    """``n (sum q)^2 / sum q^2 / p`` of exact distributions, and the standard error of its estimate from rows and draws.

    Q is estimated from draws, p from rows, so that 1 / n_eff = sum q^2 / n has the relative variance
    ``sum_c v_c^2 (1 / n_c + 4 (1 - q_c) / (q_c N))`` with v_c the share of cell c in the sum.
    """
    asked, seen = np.asarray(asked, dtype=float).ravel(), np.asarray(seen, dtype=float).ravel()
    kept = asked > 0
    asked, seen = asked[kept], seen[kept]
    parts = asked**2 / (rows * seen)
    share = parts / parts.sum()
    variance = (share**2 * (1 / (rows * seen) + 4 * (1 - asked) / (asked * DRAWS))).sum()
    worth = asked.sum() ** 2 / parts.sum()
    return worth, worth * math.sqrt(variance)


class TestEffectiveRows:
    """``(sum w)^2 / sum w^2`` with w = Q / P by the exact distributions of small SCMs."""

    def test_of_a_confounded_treatment(self):
        scm = random_discrete(ADMG.from_string("C -> X -> Y; C -> Y"), levels=3, seed=1)
        joint = scm.exact(["C", "X"]).to_numpy().reshape(3, 3)
        for x in range(3):
            expected, error = exact_worth(joint.sum(1), joint[:, x], ROWS)
            answer = attached(scm).query(f"P(Y=1 | do(X={x}))", 2000)
            assert answer.rows == pytest.approx(expected, abs=4 * error)
            assert (answer.unseen, answer.total) == (0.0, ROWS)

    def test_of_a_front_door(self):
        """Y given the mediator as under do(x) and the natural cause."""
        scm = random_discrete(ADMG.from_string("X -> M -> Y; X <-> Y"), levels=3, seed=4)
        joint = scm.exact(["X", "M"]).to_numpy().reshape(3, 3)
        for x in range(3):
            mediated = joint[x] / joint[x].sum()
            worths = [
                exact_worth([1.0], [joint[x].sum()], ROWS),
                exact_worth(np.outer(joint.sum(1), mediated), joint, ROWS),
            ]
            expected, error = min(worths)
            answer = attached(scm).query(f"P(Y=1 | do(X={x}))", 2000)
            assert answer.rows == pytest.approx(expected, abs=4 * error)

    def test_of_evidence(self):
        """What was seen selects rows of every conditional that it is part of."""
        scm = random_discrete(ADMG.from_string("A -> B -> C"), levels=2, seed=2)
        model = attached(scm)
        table = model.data[0].table
        joint = scm.exact(["A", "B"]).to_numpy().reshape(2, 2)
        expected, error = exact_worth(joint[:, 1] / joint[:, 1].sum(), joint[:, 1], ROWS)
        assert model.query("P(C=1 | B=1)", 2000).rows == pytest.approx(expected, abs=4 * error)
        assert model.query("P(C=1 | do(B=1))", 2000).rows == (table["B"] == 1).sum()

    def test_of_the_treated(self):
        scm = random_discrete(ADMG.from_string("C -> X -> Y; C -> Y"), levels=2, seed=3)
        joint = scm.exact(["C", "X"]).to_numpy().reshape(2, 2)
        expected, error = exact_worth(joint[:, 0] / joint[:, 0].sum(), joint[:, 1], ROWS)
        answer = attached(scm).query("P(Y[X=1]=1 | X=0)", 2000)
        assert answer.rows == pytest.approx(min(expected, ROWS * joint[:, 0].sum()), abs=4 * error)

    def test_what_nothing_is_set_above_rests_on_all_rows(self):
        scm = random_discrete(ADMG.from_string("C -> X -> Y; C -> Y; W"), levels=2, seed=3)
        model = attached(scm)
        for text in ("P(Y=1)", "P(C=1 | do(X=1))", "P(W=1 | do(X=0, C=1))"):
            answer = model.query(text, 500)
            assert (answer.rows, answer.unseen) == (ROWS, 0.0)

    def test_experiments_add_up(self):
        """Rows in which x was set tell as much of y as rows in which it came about."""
        scm = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=5)
        model = model_of(scm)
        seen, made = scm.sample(3000, seed=0), scm.sample(500, do={"X": 1}, seed=1)
        model.data = (mdcm.Dataset(seen, name="d1"), mdcm.Dataset(made, do="X", name="d2"))
        assert model.query("P(Y=1 | do(X=1))", 500).rows == (seen["X"] == 1).sum() + 500
        # the bow is answered from the experiment alone
        scm = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, seed=5)
        model = model_of(scm)
        model.data = (mdcm.Dataset(scm.sample(3000, seed=0), name="d1"), mdcm.Dataset(made, do="X", name="d2"))
        assert model.query("P(Y=1 | do(X=1))", 500, allow_unidentifiable=True).rows == 500

    def test_numbers_by_the_normal_propensity(self):
        """One shifted normal covariate, by a tree: near the worth by the exact ratio, from above."""
        rng = np.random.default_rng(0)
        draws, rows = rng.normal(size=DRAWS), rng.normal(0.5, 1.0, size=4000)
        column = Column("C", draws, rows, None, is_fixed=False)
        found = overlap([column], np.ones(DRAWS), np.ones(4000))
        # E w^2 = exp(0.25) for two unit normals half a standard deviation apart
        exact = 4000 * math.exp(-0.25)
        assert exact * 0.9 < found.rows < 4000 * 0.97
        assert found.unseen < 0.01


def front_door(mediator, rows=2000, seed=0, levels=2):
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, levels, rows)
    x = np.where(rng.random(rows) < 0.7, hidden, rng.integers(0, levels, rows))
    y = (rng.random(rows) < (0.2 + 0.6 * hidden / (levels - 1))).astype(int)
    return pd.DataFrame({"X": x, "M": mediator(x, rng), "Y": y})


class TestPositivity:
    @pytest.mark.parametrize(
        ("mediator", "levels"),
        [
            (lambda x, rng: x, 2),
            (lambda x, rng: 1 - x, 2),
            (lambda x, rng: x, 3),
            (lambda x, rng: np.where(x > 0, 1, 0), 3),
            (lambda x, rng: x + rng.normal(0, 0.01, len(x)), 2),
        ],
        ids=["copy", "opposite", "three levels", "merged levels", "number"],
    )
    def test_no_overlap_behind_the_front_door(self, mediator, levels):
        """The mediator under do(x) never occurs with another natural x: the answer would rest on nothing."""
        table = front_door(mediator, levels=levels)
        model = mdcm.fit("X -> M -> Y; X <-> Y", table, config=QUICK)
        for x in (0, 1):
            with pytest.raises(LowSupportError, match=r"M.* with .*X|X.* with .*M") as caught:
                model.query(f"P(Y=1 | do(X={x}))", 1000)
            mates = table["M"].round() == table.loc[table["X"] == x, "M"].round().iloc[0]
            # natural levels of x that do not occur with that mediator; the model's x is nearly that of the table
            share = 1 - table["X"].isin(table.loc[mates, "X"].unique()).mean()
            assert caught.value.unseen == pytest.approx(share, abs=4 * math.sqrt(0.25 / DRAWS) + 0.03)
            answer = model.query(f"P(Y=1 | do(X={x}))", 1000, allow_low_support=True)
            assert answer.unseen == caught.value.unseen > MOST_UNSEEN[1]

    def test_two_copies_in_a_row(self):
        table = front_door(lambda x, rng: x)
        table["N"] = table["M"]
        model = mdcm.fit("X -> M -> N -> Y; X <-> Y", table, config=QUICK)
        with pytest.raises(LowSupportError, match=r"N=1 with X=0|X=0 with N=1"):
            model.query("P(Y=1 | do(X=1))", 1000)

    def test_a_mediator_with_chance_of_its_own_is_answered(self):
        table = front_door(lambda x, rng: np.where(rng.random(len(x)) < 0.8, x, 1 - x))
        model = mdcm.fit("X -> M -> Y; X <-> Y", table, config=QUICK)
        answer = model.query("P(Y=1 | do(X=1))", 1000)
        assert answer.unseen == 0
        assert answer.rows > 500

    def test_sparse_cells_of_many_covariates_are_no_lack(self):
        """Ten covariates, a thousand combinations, 800 rows: hardly any combination occurs twice."""
        rng = np.random.default_rng(1)
        covariates = rng.integers(0, 2, (800, 10))
        chance = 1 / (1 + np.exp(-(covariates[:, :4].sum(1) - 2) * 0.7))
        treated = (rng.random(800) < chance).astype(int)
        outcome = (rng.random(800) < 0.2 + 0.3 * treated + 0.2 * covariates[:, 0]).astype(int)
        names = [f"C{k}" for k in range(10)]
        table = pd.DataFrame(covariates, columns=names).assign(T=treated, Y=outcome)
        graph = "; ".join([f"{name} -> T; {name} -> Y" for name in names] + ["T -> Y"])
        model = mdcm.fit(graph, table, config=QUICK)
        answer = model.query("E[Y | do(T=1)] - E[Y | do(T=0)]", 1000)
        assert answer.unseen <= MOST_UNSEEN[0]
        assert answer.rows > 200

    @pytest.mark.parametrize(
        "rule",
        [
            lambda c, d: c > 0,
            lambda c, d: (c > 0) ^ (d > 0),
            lambda c, d: (c > 0) | (d > 1),
        ],
        ids=["step", "either or", "corner"],
    )
    def test_a_treatment_that_the_covariates_decide(self, rule):
        rng = np.random.default_rng(2)
        c, d = rng.normal(size=(2, 1500))
        treated = rule(c, d).astype(int)
        table = pd.DataFrame({"C": c, "D": d, "T": treated, "Y": treated + c + d + rng.normal(size=1500)})
        model = mdcm.fit("C -> T; D -> T; T -> Y; C -> Y; D -> Y", table, config=QUICK)
        with pytest.raises(LowSupportError, match=r"C|D") as caught:
            model.query("E[Y | do(T=1)]", 1000)
        # a leaf of a tree that holds a row is not counted
        assert MOST_UNSEEN[1] < caught.value.unseen < 1 - treated.mean() + 0.05

    def test_queries_that_neither_set_nor_condition_are_answered(self):
        few = pd.DataFrame({"X": [0, 1] * 6, "Y": [0, 0, 1, 1] * 3})
        model = mdcm.fit("X -> Y", few, config=QUICK)
        assert model.query("P(Y)", 500).rows == 12

    def test_few_rows_are_a_warning(self):
        table = pd.DataFrame({"X": [0] * 300 + [1] * 30, "Y": [0, 1, 1] * 110})
        model = mdcm.fit("X -> Y", table, config=QUICK)
        assert model.query("P(Y=1 | do(X=0))", 500).rows == 300
        with pytest.warns(UserWarning, match=r"P\(Y=1 \| do\(X=1\)\): the answer rests on about 30 of 330 rows"):
            answer = model.query("P(Y=1 | do(X=1))", 500)
        assert answer.rows == 30 < FEWEST_ROWS
        # whoever allows it knows
        assert model.query("P(Y=1 | do(X=1))", 500, allow_low_support=True).rows == 30
        with pytest.warns(UserWarning, match="30 of 330"):
            model.query("P(Y=1 | X=1)", 500)


class TestFewRows:
    """A stratum that holds much of the weight and has no row is named, however few the rows of an arm are."""

    def model(self, rows, *, outcome=None, levels=(0, 1, 2), further=False):
        rng = np.random.default_rng(0)
        age, drug = rng.integers(0, 3, 6_000), rng.integers(0, 3, 6_000)
        chance = 0.2 + 0.2 * age + 0.1 * drug
        y = rng.random(6_000) < chance if outcome is None else chance + rng.normal(size=6_000)
        table = pd.DataFrame({"Drug": np.array(levels)[drug], "Age": age, "Y": y if outcome else y.astype(int)})
        graph = "Age -> Drug -> Y; Age -> Y"
        if further:
            table["Sex"] = rng.integers(0, 2, 6_000)
            graph += "; Sex -> Drug; Sex -> Y"
        last = table["Drug"] == levels[2]
        arm = table[last & (age != 0)][:rows]
        return mdcm.fit(graph, pd.concat([table[~last], arm]), config=QUICK)

    @pytest.mark.parametrize("rows", [12, 20])
    @pytest.mark.parametrize(
        ("text", "options"),
        [
            ("P(Y=1 | do(Drug=2))", {}),
            ("P(Y=1 | do(Drug='new drug'))", {"levels": ("none", "old drug", "new drug")}),
            ("E[Y | do(Drug=2)]", {"outcome": "number"}),
        ],
    )
    def test_a_stratum_that_chance_does_not_empty_is_refused(self, rows, text, options):
        model = self.model(rows, **options)
        with pytest.raises(LowSupportError, match=r"3\d% of the answer's weight .* with Age=0") as caught:
            model.query(text, 2_000)
        assert caught.value.rows <= rows

    @pytest.mark.parametrize("further", [False, True])
    def test_one_that_chance_may_empty_is_mentioned(self, further):
        model = self.model(6, further=further)
        with pytest.warns(UserWarning, match=r"rests on about \d of .*, none of them with Drug=2 with .*Age=0"):
            model.query("P(Y=1 | do(Drug=2))", 2_000)

    @given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 8))
    @settings(max_examples=200, deadline=None)
    def test_of_combinations_those_count_that_chance_hardly_empties(self, seed, size, kinds):
        rng = np.random.default_rng(seed)
        draws = rng.choice(kinds, p=rng.dirichlet(np.ones(kinds)), size=400)
        rows = rng.choice(kinds, p=rng.dirichlet(np.full(kinds, 0.5)), size=size)
        levels = tuple(f"level {k}" for k in range(kinds))
        result = overlap([Column("C", draws, rows, levels, is_fixed=False)], np.ones(400), np.ones(size))
        shares = np.bincount(draws, minlength=kinds) / 400
        certain = [
            k
            for k in range(kinds)
            if shares[k] > 0 and (rows != k).all() and (1 - shares[k]) ** size * (shares > 0).sum() <= 0.05
        ]
        if not (draws == draws[0]).all():
            assert result.unseen >= shares[certain].sum() - 1e-12
            assert result.unseen <= shares[~np.isin(np.arange(kinds), rows)].sum() + 1e-12


class TestEmptyConditions:
    # a brief training is off where no row is
    @pytest.mark.filterwarnings("ignore:.* standard errors apart")
    def test_an_event_that_is_impossible_under_do(self):
        """X -> Y -> S <- W with S = Y and W, Y = X: S = 1 cannot be where X is 0."""
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 2, (2, 1000))
        table = pd.DataFrame({"X": x, "Y": x, "W": w, "S": x & w})
        model = mdcm.fit("X -> Y -> S; W -> S", table, config=QUICK)
        for text in ("P(Y=1 | do(X=0), S=1)", "P(W | do(X=0), S=1)", "E[Y | do(X=0), S=1] - E[Y | do(X=1), S=1]"):
            with pytest.raises(LowSupportError, match=r"no row|probability zero|no row of the training data is"):
                model.query(text, 1000)
        with pytest.warns(UserWarning, match=r"X=0, S=1"):
            table = model.query("P(W | do(X), S)", 1000).table.set_index(["X", "S", "W"])["probability"]
        assert table.loc[0, 1].isna().all()
        assert table.loc[1].notna().all()
        assert table.loc[1, 1, 1] > 0.9

    @pytest.mark.parametrize("text", ["P(Y=1 | Z=1, W=1)", "P(Y=1 | do(Z=1), W=1)", "P(Y[Z=1]=1 | Z=0, W=1)"])
    def test_two_values_that_never_meet(self, text):
        rng = np.random.default_rng(0)
        z = rng.integers(0, 2, 900)
        w = np.where(z == 1, 0, rng.integers(0, 2, 900))
        y = (rng.random(900) < 0.3 + 0.3 * z).astype(int)
        model = mdcm.fit("Z -> Y; W -> Y; Z <-> W", pd.DataFrame({"Z": z, "W": w, "Y": y}), config=QUICK)
        with pytest.raises(LowSupportError, match=r"no row of the training data has .*Z=1 with W=1|W=1 with Z=1|zero"):
            model.query(text, 1000)

    def test_a_level_that_no_row_has(self):
        table = pd.DataFrame({"X": [0, 1] * 200, "Y": [0, 0, 1, 1] * 100})
        levels = {"X": {"levels": [0, 1, 2]}}
        with pytest.warns(UserWarning, match="2"):
            model = mdcm.fit("X -> Y", table, variables=levels, config=QUICK)
        with pytest.raises(LowSupportError, match=r"no row of the training data has X=2.*allow_low_support=True"):
            model.query("P(Y=1 | do(X=2))", 500)
        with pytest.warns(UserWarning, match=r"2 of 6|1 of 3 combinations are not answered \(NaN\)") as caught:
            found = model.query("P(Y | do(X))", 500).table.set_index(["X", "Y"])
        assert len(caught) == 1
        assert found.loc[2].isna().all().all()
        assert found.loc[[0, 1]].notna().all().all()
        with pytest.warns(UserWarning, match="X=2"):
            means = model.query("E[Y | do(X)]", 500).table.set_index("X")["mean"]
        assert means.isna().tolist() == [False, False, True]
        # what a difference does not need
        model.query("E[Y | do(X=1)] - E[Y | do(X=0)]", 500)
        assert model.query("P(Y | do(X))", 500, allow_low_support=True).table.notna().all().all()


class TestNumbers:
    @pytest.fixture(scope="class")
    @staticmethod
    def dose():
        rng = np.random.default_rng(0)
        t = np.where(rng.random(1500) < 0.5, rng.uniform(-5, -2, 1500), rng.uniform(3, 5, 1500))
        return mdcm.fit("T -> Y", pd.DataFrame({"T": t, "Y": t + rng.normal(size=1500)}), config=QUICK)

    @pytest.mark.parametrize("value", ["100", "-40", "12.5"])
    def test_far_outside_is_extrapolation(self, dose, value):
        with pytest.raises(LowSupportError, match=rf"no row of the training data has T={value} or within .* goes from"):
            dose.query(f"E[Y | do(T={value})]", 1000)

    @pytest.mark.parametrize("value", [-4.5, -2.5, 4.0, 5.5])
    def test_inside_and_at_the_edge_is_answered(self, dose, value):
        answer = dose.query(f"E[Y | do(T={value})]", 1000)
        assert answer.rows > FEWEST_ROWS

    def test_an_experiment_that_set_random_values(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=3000)
        trial = mdcm.Dataset({"X": x, "Y": 2 * x + rng.normal(size=3000)}, do="X", name="trial")
        seen = mdcm.Dataset({"X": x[:500] / 2, "Y": rng.normal(size=500)}, name="seen")
        model = mdcm.fit("X -> Y; X <-> Y", [seen, trial], config=QUICK)
        answer = model.query("E[Y | do(X=1)]", 1000)
        # rows within half a standard deviation of 1
        expected = 3000 * (0.5 * (math.erf(1.5 / math.sqrt(2)) - math.erf(0.5 / math.sqrt(2))))
        assert answer.rows == pytest.approx(expected, rel=0.15)

    def test_a_number_that_narrows_is_no_lack(self):
        """M is nearly decided by X: that M is narrow under do() leaves it where rows are."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=1500)
        m = x + rng.normal(0, 0.1, 1500)
        model = mdcm.fit("X -> M -> Y", pd.DataFrame({"X": x, "M": m, "Y": m + rng.normal(size=1500)}), config=QUICK)
        answer = model.query("E[Y | do(X=0.5)]", 1000)
        assert answer.unseen <= MOST_UNSEEN[0]
        assert answer.rows > FEWEST_ROWS

    def test_rows_of_a_far_outlier_do_not_widen_the_neighbourhood(self):
        rng = np.random.default_rng(0)
        column = Column("T", np.full(4, 50.0), np.append(rng.normal(size=999), 1e5), None, is_fixed=True)
        found = overlap([column], np.ones(4), np.ones(1000))
        assert (found.is_empty, found.rows) == (True, 0.0)


class TestStrata:
    def test_a_region_without_rows_is_named(self):
        rng = np.random.default_rng(0)
        draws, rows = rng.integers(0, 4, (2, DRAWS)), rng.integers(0, 4, (2, 3000))
        rows = rows[:, rows[0] != 2]
        columns = [Column(name, draws[k], rows[k], "abcd", is_fixed=False) for k, name in enumerate("AB")]
        found = overlap(columns, np.ones(DRAWS), np.ones(rows.shape[1]))
        assert found.unseen == pytest.approx((draws[0] == 2).mean())
        assert all("A=c" in text for text in found.missing)

    def test_by_chance_hardly_anything_is_without_rows(self):
        """Rows and draws of one distribution: whatever the number of columns, kinds and rows, nothing is missing."""
        rng = np.random.default_rng(0)
        for width, size in itertools.product((1, 4, 12), (25, 60, 400)):
            columns = []
            for k in range(width):
                if k % 2:
                    columns.append(Column(f"N{k}", rng.normal(size=DRAWS), rng.normal(size=size), None, is_fixed=False))
                else:
                    codes = rng.integers(0, 3, DRAWS), rng.integers(0, 3, size)
                    columns.append(Column(f"L{k}", *codes, "abc", is_fixed=False))
            found = overlap(columns, np.ones(DRAWS), np.ones(size))
            # the half of the rows that a tree is read off on may leave out a tenth of a leaf of ten
            assert found.unseen < 0.01
            assert 0.7 * size < found.rows <= size


class TestCases:
    """One computation for all values that are set and given says what one for each says."""

    @pytest.mark.parametrize("seed", range(12))
    @pytest.mark.parametrize(
        "text", ["P(Y | do(X))", "P(Y | do(X), C)", "P(Y | X, C)", "P(Y[X=1] | X, C)", "E[Y | do(X), C=0]"]
    )
    def test_as_one_by_one(self, monkeypatch, seed, text):
        # the last part of the cases is a smaller one
        monkeypatch.setattr("mdcm.model.answering.MOST_CASES", 3)
        graph = ADMG.from_string(
            [
                "C -> X -> Y; C -> Y; X -> M -> Y",
                "C -> X -> M -> Y; X <-> Y; C -> Y",
                "C -> X -> Y; C <-> Y; C -> M -> Y",
            ][seed % 3]
        )
        # few rows, so that some combinations have none and trees are grown
        model = attached(random_discrete(graph, levels=2 + seed % 4, seed=seed), rows=60 if seed % 2 else 4000)

        def asked():
            answering = Answering(model.dcm, parse(text), num_samples=500, seed=seed, support=model._support)
            answering.answer(model.identify(text), allow_low_support=True)
            return answering._bases

        together = asked()
        monkeypatch.setattr(Support, "bases", lambda *args: None)
        apart = asked()
        assert len(together) == len(apart) > 0
        for one, other in zip(together, apart, strict=True):
            assert (one.missing, one.is_empty, one.total) == (other.missing, other.is_empty, other.total)
            assert one.rows == pytest.approx(other.rows, rel=1e-9)
            assert one.unseen == pytest.approx(other.unseen, rel=1e-9)


class TestTrees:
    """The compiled growth of strata against an exhaustive search of every split."""

    @given(st.integers(0, 10_000))
    @settings(max_examples=60)
    def test_every_split_gains_as_much_as_the_best(self, seed):
        rng = np.random.default_rng(seed)
        columns = int(rng.integers(1, 4))
        sizes = rng.integers(1, 5, columns).astype(np.int32)
        ordered = rng.integers(0, 2, columns).astype(np.uint8)
        # uneven weights, so that no two splits gain the same
        share, counts = rng.dirichlet(np.ones(40)), rng.gamma(2.0, size=60)
        draw_bins, row_bins = (
            rng.integers(0, sizes, size=(count, columns)).astype(np.int32) for count in (len(share), len(counts))
        )
        limits = (int(rng.integers(1, 9)), float(rng.choice([0.5, 3.0])), 0.01)
        splits, of_draws, of_rows = _core.grow_strata(draw_bins, row_bins, share, counts, sizes, ordered, *limits)
        gains, leaves = oracles.grow_strata(draw_bins, row_bins, share, counts, sizes, ordered, *limits)
        assert len(splits) == len(gains) == len(leaves) - 1

        def divergence(groups):
            total = counts.sum()
            return sum(
                share[d].sum() * np.log(share[d].sum() * (total + 1) / (counts[r].sum() + 0.5))
                for d, r in groups
                if share[d].sum() > 0
            )

        own = [(np.flatnonzero(of_draws == k), np.flatnonzero(of_rows == k)) for k in range(len(leaves))]
        assert divergence(own) == pytest.approx(divergence(leaves), rel=1e-9, abs=1e-12)
        assert {tuple(d) for d, _ in own} == {tuple(np.sort(d)) for d, _ in leaves}
        # what is said of the splits is where draws and rows are
        for bins, found in ((draw_bins, of_draws), (row_bins, of_rows)):
            leaf = np.zeros(len(bins), dtype=int)
            for number, (split, column, stays) in enumerate(splits, 1):
                leaf[(leaf == split) & (stays[bins[:, column]] == 0)] = number
            assert (leaf == found).all()
