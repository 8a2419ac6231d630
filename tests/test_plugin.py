"""The plug-in estimate is right, or is absent and says why: conditions without a row, impossible conditions, sizes."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from identification_sweep import Case, exact_data, random_case

from mdcm import query as language
from mdcm.data import Dataset
from mdcm.data.levels import plain as plain_level
from mdcm.errors import DataError, MdcmError, QueryError
from mdcm.graph import ADMG
from mdcm.identification import identify, plugin
from mdcm.identification.plugin import _samples as samples
from mdcm.identification.tables import SourceTables, _small_gamma
from mdcm.planning import DatasetSpec
from mdcm.scm import DiscreteSCM, random_discrete

BACK_DOOR = "Z -> X -> Y; Z -> Y"
FRONT_DOOR = "X -> M -> Y; X <-> Y"
SELECTED = "X -> Y -> S; W -> S"


def with_zeros(graph: ADMG, levels: int, seed: int) -> DiscreteSCM:
    """A random model whose tables are full of zeros and ones."""
    rng = np.random.default_rng([seed, 5])
    model = random_discrete(graph, levels=levels, seed=seed, latent_levels=2)

    def sparse(table):
        cut = table * (rng.random(table.shape) < 0.6)
        certain = np.eye(table.shape[-1])[rng.integers(table.shape[-1], size=table.shape[:-1])]
        cut = np.where((rng.random(table.shape[:-1]) < 0.3)[..., None], certain, cut)
        total = cut.sum(axis=-1, keepdims=True)
        return np.where(total > 0, cut / np.where(total > 0, total, 1), certain)

    return DiscreteSCM(graph, {name: sparse(t) for name, t in model.tables.items()}, model.priors)


def truth_of(scm: DiscreteSCM, query: str, row: dict) -> float | None:
    """Exact answer to the query with the values of a row; None where its condition is impossible."""
    asked = language.parse(query).query
    values = {term: row[term.label] for term in (*asked.outcomes, *asked.do, *asked.given)}
    parts = {
        key: tuple(language.Term(t.variable, values[t], t.world) for t in getattr(asked, key))
        for key in ("outcomes", "do", "given")
    }
    try:
        return float(scm.answer(str(language.Query("P", **parts))))
    except QueryError:
        return None


def check_non_positive(case: Case, seed: int) -> tuple[int, int, int]:
    """Rows that are right, of what was seen, and absent; nothing else may be."""
    found = case.identify()
    if not found.identifiable:
        return 0, 0, 0
    scm = with_zeros(case.graph, case.levels, seed)
    estimate = found.estimand.estimate(exact_data(case, scm))
    exact, partly, absent = 0, 0, 0
    for labels, value, unseen in zip(estimate.values.index, estimate.values, estimate.unseen, strict=True):
        row = dict(zip(estimate.values.index.names, labels, strict=True))
        truth = truth_of(scm, case.query, row)
        if np.isnan(value):
            absent += 1
            assert estimate.notes, case
            continue
        if truth is None:
            check_undecided(case, scm, row)
            continue
        assert abs(value - truth) <= unseen + 1e-9, f"{case} {row}: {value} for {truth}, {unseen} unseen"
        exact, partly = exact + (unseen == 0), partly + (unseen > 0)
    return exact, partly, absent


def check_undecided(case: Case, scm: DiscreteSCM, row: dict) -> None:
    """An impossible condition may have a number only where the data do not show that it is impossible."""
    asked = language.parse(case.query).query
    condition = language.Query("P", asked.given, asked.do)
    found = identify(case.graph, str(condition), datasets=case.specs, levels=case.domains())
    if not found.identifiable:
        return
    estimate = found.estimand.estimate(exact_data(case, scm))
    place = tuple(row[name] for name in estimate.values.index.names)
    assert estimate.unseen.loc[place] > 0, f"{case} {row}: a number given what is impossible"


def sweep_non_positive(count: int, seed: int) -> tuple[int, int, int]:
    """Random questions about random models full of zeros."""
    total = np.zeros(3, dtype=int)
    kinds = ("effect", "conditional", "experiments", "partial", "counterfactual")
    for trial in range(count):
        rng = np.random.default_rng([seed, trial])
        try:
            total += check_non_positive(random_case(rng, kinds[trial % 5], largest=5), trial)
        except QueryError:
            # a condition that contradicts itself
            continue
    return tuple(total.tolist())


def test_estimands_are_right_or_absent_in_models_full_of_zeros():
    exact, partly, absent = sweep_non_positive(400, seed=3)
    assert exact > 300
    assert absent > 100
    assert partly > 0


def copied(rows: int = 2000) -> pd.DataFrame:
    """A front door behind which M is a copy of X: no effect, P(Y=1 | X) of 0.18 and 0.82."""
    rng = np.random.default_rng(0)
    u = rng.integers(2, size=rows)
    x, y = (np.where(rng.random(rows) < 0.9, u, 1 - u) for _ in range(2))
    return pd.DataFrame({"X": x, "M": x, "Y": y})


class TestWithoutOverlap:
    def test_a_mediator_that_copies_its_cause_gives_no_estimate(self):
        table = copied()
        with pytest.warns(
            UserWarning, match=r"no row has X=., M=., on which (49|5.) % of the weight rests; there is no"
        ):
            found = identify(FRONT_DOOR, "P(Y | do(X))").estimand.evaluate(table)
        assert found.isna().all()
        for query in ("P(Y=1 | do(X=0))", "E[Y | do(X=1)]", "E[Y | do(X=1)] - E[Y | do(X=0)]"):
            estimand = identify(FRONT_DOOR, query).estimand
            with pytest.raises(DataError, match="no row has"):
                estimand.evaluate(table)
            with pytest.raises(DataError, match="no row has"):
                estimand.evaluate_with_error(table)

    def test_an_arm_without_rows_in_a_stratum(self):
        scm = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=4)
        table = scm.sample(2000, seed=0)
        table = table[(table["Z"] == 1) | (table["X"] == 0)]
        assert (table["Z"] == 0).mean() > 0.2
        with pytest.warns(UserWarning, match=r"no row has Z=0, X=1, .* 2 of 4 rows of the answer, such as X=1, Y="):
            found = identify(BACK_DOOR, "P(Y | do(X))").estimand.evaluate(table)
        assert found.loc[1].isna().all()
        by_hand = sum((table["Z"] == z).mean() * table.query(f"X == 0 and Z == {z}")["Y"].mean() for z in (0, 1))
        assert found.loc[0, 1] == pytest.approx(by_hand, abs=1e-12)

    def test_a_little_that_is_not_seen_is_left_out_and_said(self):
        table = pd.DataFrame({"Z": [0] * 80 + [1] * 10, "X": [0, 1] * 40 + [0] * 10, "Y": [0, 0, 1, 1] * 20 + [1] * 10})
        estimand = identify(BACK_DOOR, "P(Y | do(X))").estimand
        with pytest.warns(UserWarning, match=r"no row has Z=1, X=1, on which 11 % of the weight rests; .* of the rest"):
            found, error = estimand.evaluate_with_error(table)
        assert found.groupby("X").sum().to_numpy() == pytest.approx([1, 1], abs=1e-12)
        assert found.loc[1, 1] == pytest.approx(0.5, abs=1e-12)
        # what is not seen is part of the error: a ninth, as a uniform distribution has it
        assert (error.loc[1] > 1 / 9 / np.sqrt(12)).all()
        one = identify(BACK_DOOR, "P(Y=1 | do(X=1))").estimand
        with pytest.warns(UserWarning, match="11 % of the weight"):
            assert float(one.evaluate(table).iloc[0]) == pytest.approx(0.5)

    def test_what_has_no_weight_need_not_be_seen(self):
        # with X=0 the mediator is 0, and M=0 is seen with every X
        table = pd.DataFrame({"X": [0, 0, 0, 0, 1, 1], "M": [0, 0, 0, 0, 0, 1], "Y": [0, 1, 0, 1, 1, 1]})
        found = identify(FRONT_DOOR, "P(Y=1 | do(X=0))").estimand.evaluate(table)
        assert float(found.iloc[0]) == pytest.approx(0.5 * 2 / 3 + 1 / 3)
        with pytest.raises(DataError, match="no row has X=0, M=1"):
            identify(FRONT_DOOR, "P(Y=1 | do(X=1))").estimand.evaluate(table)

    def test_a_ratio_is_that_of_the_values_at_which_it_is_one(self):
        # W2 and X are the same but where W1 is 2: each value of W2 shows one value of X alone
        graph = ADMG.from_string("W1 -> W2 -> X -> Y; W1 <-> X; W1 <-> Y")
        model = random_discrete(graph, levels=2, seed=1)
        tables = {**model.tables, "X": np.broadcast_to(np.eye(2)[:, None], model.tables["X"].shape)}
        scm = DiscreteSCM(graph, tables, model.priors)
        found = identify(graph, "P(Y | do(X))").estimand.evaluate(scm.exact(list(graph.nodes)))
        assert found.to_numpy() == pytest.approx(scm.answer("P(Y | do(X))").to_numpy(), abs=1e-12)

    def test_a_level_without_rows_is_named_and_the_others_are_answered(self):
        table = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=4).sample(500, seed=0)
        estimand = identify(BACK_DOOR, "P(Y | do(X))", levels={"X": (0, 1, 2)}).estimand
        with pytest.warns(UserWarning, match="no row has .*X=2, on which 100 % of the weight rests"):
            found = estimand.evaluate(table)
        assert found.loc[2].isna().all()
        expected = identify(BACK_DOOR, "P(Y | do(X))").estimand.evaluate(table)
        assert found.loc[[0, 1]].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-12)


class TestImpossibleConditions:
    """S=1 happens only with Y=1, and Y=1 only with X=1."""

    @pytest.fixture
    def scm(self):
        y = [[1.0, 0.0], [0.5, 0.5]]
        s = [[[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.2, 0.8]]]
        tables = {"X": [0.5, 0.5], "Y": y, "S": s, "W": [0.3, 0.7]}
        return DiscreteSCM(ADMG(["X", "Y", "S", "W"], [("X", "Y"), ("Y", "S"), ("W", "S")]), tables)

    def test_rows_are_absent_and_named(self, scm):
        estimand = identify(scm.graph, "P(Y | do(X), S=1)").estimand
        with pytest.warns(UserWarning, match=r"the condition S=1 has probability 0 under do\(X=0\)"):
            found = estimand.evaluate(scm.exact(list(scm.graph.nodes)))
        assert found.loc[0].isna().all()
        assert found.loc[1].to_numpy() == pytest.approx([0.0, 1.0])

    @pytest.mark.parametrize(
        "query",
        [
            "P(Y=1 | do(X=0), S=1)",
            "P(Y=0 | do(X=0), S=1)",
            "E[Y | do(X=1), S=1] - E[Y | do(X=0), S=1]",
            # of what has nothing to do with the condition
            "P(W=1 | do(X=0), S=1)",
            "P(W=1 | do(X=0), Y=1)",
            "P(W=1 | X=0, Y=1)",
            "P(W[Y=1]=1 | X=0, Y=1)",
            "P(W[X=1]=1 | X=0, S=1)",
        ],
    )
    def test_numbers_are_refused(self, scm, query):
        estimand = identify(scm.graph, query).estimand
        with pytest.raises(DataError, match=r"has probability 0|no row"):
            estimand.evaluate(scm.exact(list(scm.graph.nodes)))
        with pytest.raises(DataError, match=r"has probability 0|no row"):
            estimand.evaluate_with_error(scm.sample(500, seed=1))

    def test_the_model_itself_refuses_them(self, scm):
        with pytest.raises(QueryError, match="probability zero"):
            scm.exact("Y", do={"X": 0}, given={"S": 1})
        with pytest.raises(QueryError, match="probability zero"):
            scm.exact_counterfactual("Y", do={"X": 1}, evidence={"X": 0, "Y": 1})

    def test_rounding_is_no_probability(self):
        # 0.1 + 0.2 is more than 0.3, and so level 1 of one row would reach into level 2 of the other
        rows = [[0.1, 0.2, 0.7], [0.3, 0.0, 0.7]]
        scm = DiscreteSCM(ADMG.from_string("X -> Y"), {"X": [0.5, 0.5], "Y": rows})
        for condition in ("Y[X=0]=1, Y[X=1]=2", "Y[X=0]=2, Y[X=1]=0", "Y[X=1]=1, Y[X=0]=1"):
            with pytest.raises(QueryError, match="probability zero"):
                scm.answer(f"P(X=0 | {condition})")


# the condition or an outcome has a value, and elsewhere in the estimand its variable is summed over
ALSO_SUMMED = [
    ("X -> M -> Y; W -> Z -> Y; X <-> Y; X <-> Z; W <-> Y", "P(Y | do(X=1), Z=1)"),
    ("X -> M -> Y; W -> Z -> Y; X <-> Y; X <-> Z; W <-> Y", "P(Y=1 | do(X), Z=0)"),
    ("A -> E; B -> C; B -> D; C -> D; D -> E; A <-> B; A <-> C; B <-> C; B <-> E; C <-> E", "P(B=1 | do(D=1), E=0)"),
    ("A -> B; A -> D; A -> E; B -> D; C -> E; D -> F; E -> F; A <-> C; C <-> D; D <-> F", "P(E | do(C=1), F=1)"),
    ("A -> B; A -> D; A -> E; B -> D; C -> E; D -> F; E -> F; A <-> C; C <-> D; D <-> F", "P(E=1, F=0 | do(C=1))"),
    ("A -> C; A -> F; B -> D; B -> E; E -> F; A <-> B; A <-> C; A <-> D; B <-> F; C <-> D", "P(F=1, E=0 | do(B=1))"),
    (
        "A -> D; A -> E; A -> F; B -> C; B -> F; C -> E; D -> E; D -> F; E -> F; B <-> C; B <-> D; C <-> F",
        "P(B[C=1]=1, F[C=0]=0 | D=1)",
    ),
    (
        "A -> D; A -> E; A -> F; B -> C; B -> D; C -> D; D -> E; D -> F; E -> F; A <-> E; B <-> D; C <-> E; C <-> F",
        "P(F[C=1]=1 | A=1)",
    ),
    ("A -> B; A -> D; B -> C; B -> E; C -> D; D -> E; B <-> C; C <-> E", "P(E[C=1]=1, A[C=0]=0 | B=1)"),
]


@pytest.mark.parametrize(("text", "query"), ALSO_SUMMED)
@pytest.mark.parametrize("seed", range(2))
def test_a_constant_may_also_be_summed_over(text, query, seed):
    graph = ADMG.from_string(text)
    result = identify(graph, query)
    if not result.identifiable:
        pytest.fail(result.explain())
    scm = random_discrete(graph, levels=2, seed=seed)
    table = scm.exact(list(graph.nodes))
    truth = np.ravel(np.asarray(scm.answer(query)))
    # a few hundred products and sums
    np.testing.assert_allclose(np.ravel(np.asarray(result.estimand.evaluate(table))), truth, rtol=1e-9)


class TestErrors:
    def test_few_rows_that_agree_are_no_certainty(self):
        table = pd.DataFrame({"X": [0] * 50 + [1] * 3, "Y": [0, 1] * 25 + [1] * 3})
        for weights in (None, [2.0] * 53, "w"):
            rows = table.assign(w=3.0)
            found, error = identify("X -> Y", "P(Y | do(X))").estimand.evaluate_with_error(rows, weights)
            assert found[1, 1] == 1.0
            # of three rows and one spread over two levels
            assert error[1, 1] == pytest.approx(np.sqrt(3.5 * 0.5 / 16 / 5), rel=0.35)
            assert error[0, 1] == pytest.approx(0.5 / np.sqrt(50), rel=0.35)

    def test_rows_of_one_group_are_one(self):
        scm = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=1)
        table = scm.sample(200, seed=0)
        thrice = pd.concat([table] * 3).assign(patient=[*range(200)] * 3)
        estimand = identify("X -> Y", "P(Y | do(X=1))").estimand
        once = estimand.evaluate_with_error(table)[1].to_numpy()
        grouped = estimand.evaluate_with_error([Dataset(thrice, groups="patient")])[1].to_numpy()
        apart = estimand.evaluate_with_error([Dataset(thrice[["X", "Y"]])])[1].to_numpy()
        # standard deviations of 100 samples have a standard error of 7 %
        assert grouped == pytest.approx(once, rel=0.35)
        assert apart * np.sqrt(3) == pytest.approx(once, rel=0.35)

    def test_weights_may_be_the_name_of_a_column(self):
        table = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=4).sample(300, seed=0)
        table["w"] = np.arange(1, 301) % 3 + 1.0
        estimand = identify(BACK_DOOR, "P(Y | do(X))").estimand
        expected = estimand.evaluate(table, table["w"])
        assert expected.equals(estimand.evaluate(table, weights="w"))
        assert expected.equals(estimand.evaluate({frozenset(): table}, weights="w"))
        assert expected.equals(estimand.evaluate({frozenset(): table}, weights={frozenset(): "w"}))
        with pytest.raises(DataError, match="no column 'v'"):
            estimand.evaluate(table, weights="v")


class TestLevels:
    """Values are what a schema makes of them, whatever objects the table holds."""

    @pytest.mark.parametrize(
        "column",
        [
            pd.cut(pd.Series(np.arange(60) % 5), 3),
            pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])[np.arange(60) % 2]),
            pd.Series(pd.PeriodIndex(["2020-01", "2020-02"], freq="M")[np.arange(60) % 2]),
            pd.Series(np.arange(60) % 2 == 0),
            pd.Series([1, 1.0, 2] * 20, dtype=object),
        ],
        ids=["intervals", "dates", "periods", "booleans", "mixed numbers"],
    )
    def test_levels_of_all_sorts(self, column):
        rng = np.random.default_rng(1)
        table = pd.DataFrame({"X": column, "Y": rng.integers(2, size=60)})
        plain = table.assign(X=pd.factorize(column)[0])
        levels = identify("X -> Y", "P(Y | do(X))").estimand.evaluate(table).index.get_level_values("X").unique()
        assert len(levels) == plain["X"].nunique()
        for code, value in enumerate(column.drop_duplicates()):
            # with levels as the table has them, and as a schema writes them
            for known in (None, {"X": tuple(column.drop_duplicates())}, {"X": tuple(levels)}):
                asked = f"P(Y=1 | do(X='{plain_level(value)}'))"
                ours = identify("X -> Y", asked, levels=known).estimand.evaluate(table)
                theirs = identify("X -> Y", f"P(Y=1 | do(X={code}))").estimand.evaluate(plain)
                assert ours.to_numpy() == pytest.approx(theirs.to_numpy())


class TestSizes:
    def test_what_is_too_large_is_refused_before_anything_is_made(self):
        # a back-door set of 40 variables is one table
        names = [f"Z{k}" for k in range(40)]
        graph = ADMG([*names, "X", "Y"], [(z, v) for z in names for v in "XY"] + [("X", "Y")])
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.integers(2, size=(50, 42)), columns=[*names, "X", "Y"])
        estimand = identify(graph, "P(Y | do(X))").estimand
        for call in (estimand.evaluate, estimand.evaluate_with_error):
            with pytest.raises(MdcmError, match=r"a table of [\d,]+ cells"):
                call(table)

    def test_sums_are_pushed_through_products(self):
        # twenty mediators side by side: one by one they are small, together 2^20 cells for each level of the others
        names = [f"M{k}" for k in range(30)]
        graph = ADMG(
            ["X", *names, *(f"Y{k}" for k in range(30))],
            [("X", m) for m in names] + [(m, f"Y{k}") for k, m in enumerate(names)],
        )
        scm = random_discrete(graph, levels=2, seed=0)
        table = scm.sample(400, seed=0)
        asked = ", ".join(f"Y{k}=1" for k in range(30))
        found = identify(graph, f"P({asked} | do(X=1))").estimand.evaluate(table)
        arm = table[table["X"] == 1]
        by_hand = 1.0
        for k, m in enumerate(names):
            by_hand *= sum((arm[m] == v).mean() * (table[f"Y{k}"][table[m] == v] == 1).mean() for v in (0, 1))
        assert float(found.iloc[0]) == pytest.approx(by_hand, rel=1e-9)

    def test_exact_models_are_measured_as_well(self):
        names = [f"Z{k}" for k in range(40)]
        graph = ADMG([*names, "Y"], [(z, "Y") for z in names])
        with pytest.raises(MdcmError, match=r"a table of [\d,]+ cells"):
            random_discrete(graph, levels=2)

    def test_products_of_hundreds_of_probabilities_do_not_vanish(self):
        # a condition on 55 rare events has a probability below the smallest float, in either part of a ratio
        names = [f"V{k}" for k in range(55)]
        graph = ADMG(["X", *names, "Q"], [("X", v) for v in names])
        table = pd.DataFrame(dict.fromkeys(names, [0, 1] * 10) | {"X": [0, 1, 1, 0] * 5, "Q": 0, "w": [1e-6, 1] * 10})
        given = ", ".join(f"{v}=0" for v in names)
        found = identify(graph, f"P(X | do(Q=0), {given})").estimand.evaluate(table, "w")
        assert found.to_numpy() == pytest.approx([0.5, 0.5])


class TestWhatIsNotNeeded:
    def test_a_setting_that_changes_nothing_needs_no_column(self):
        table = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=0).sample(100, seed=0)
        expected = table["Y"].value_counts(normalize=True).sort_index().to_numpy()
        specs = [DatasetSpec("d", ["X", "Y"])]
        for graph in ("X -> Y -> S", "X -> Y; S -> T; S <-> T", "X -> H -> Y; Y -> S; X <-> Y"):
            for query in ("P(Y | do(S))", "P(Y | do(S=1))"):
                found = identify(graph, query, datasets=specs)
                assert found.identifiable, (graph, query)
                assert found.estimand.evaluate(table).to_numpy() == pytest.approx(expected)
        assert identify("X -> Y; S -> Y", "P(Y | do(S))", datasets=specs).identifiable is None

    def test_a_constant_needs_no_data_at_all(self):
        estimand = identify("X -> Y; W", "P(Y[X=1]=0, Y[X=1, W=0]=1)", experiments=[["X"]]).estimand
        table = pd.DataFrame({"Q": [1, 2]})
        for data in (table, {frozenset({"X"}): table}, {}, [Dataset(table)]):
            assert float(estimand.evaluate(data).iloc[0]) == 0.0
            assert [float(part.iloc[0]) for part in estimand.evaluate_with_error(data)] == [0.0, 0.0]


def test_numbers_of_one_query_agree_with_those_of_its_table():
    """A probability, its complement and the table of both are one estimate."""
    table = copied(300)
    table.loc[:40, "M"] = 1 - table.loc[:40, "X"]
    for query in ("P(Y={} | do(X=0))", "P(Y={} | do(X=1))"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = [float(identify(FRONT_DOOR, query.format(y)).estimand.evaluate(table).iloc[0]) for y in (0, 1)]
        assert sum(both) == pytest.approx(1, abs=1e-12)


def main() -> None:
    """The sweep by hand, larger: python tests/test_plugin.py COUNT SEED."""
    import sys

    count, seed = (int(one) for one in (sys.argv[1:] + ["4000", "0"][len(sys.argv) - 1 :]))
    print(dict(zip(("exact", "of what was seen", "absent"), sweep_non_positive(count, seed), strict=True)))


if __name__ == "__main__":
    main()


class TestSamples:
    """All bootstrap samples are evaluated at once, with an axis of their own."""

    @pytest.mark.parametrize(
        ("graph", "query", "experiments"),
        [
            (BACK_DOOR, "P(Y | do(X))", None),
            (FRONT_DOOR, "P(Y | do(X=1))", None),
            (SELECTED, "P(Y | do(X), S=1)", None),
            (FRONT_DOOR, "E[Y | do(X=1)] - E[Y | do(X=0)]", None),
            # a sum of signed formulas, a formula for every level, and cases by source
            ("X -> Y; X <-> Y", "P(Y[X=1] | X=0)", [["X"]]),
            ("X -> Y; X <-> Y", "P(Y[X=1] | X)", [["X"]]),
            ("X -> Y; X <-> Y", "P(Y | do(X))", [{"X": [0]}, {"X": [1]}]),
        ],
    )
    def test_are_those_that_are_evaluated_one_by_one(self, graph, query, experiments):
        rng = np.random.default_rng(3)
        graph = ADMG.from_string(graph)
        levels = {name: [0, 1] for name in graph.nodes}
        found = identify(graph, query, experiments=experiments, levels=levels)
        # few rows, so that some conditions have none
        table = pd.DataFrame(rng.integers(0, 2, (12, len(graph.nodes))), columns=graph.nodes)
        data = table
        if experiments is not None:
            specs = found.estimand._formulas[0].sources
            data = {name: table.assign(X=rng.integers(0, 2, 12)) for source in specs for name in source.names}
        estimand = found.estimand
        tables = estimand._tables(data, None).compressed(estimand._columns)
        (together,) = tables.resampled(4, 0, batch=4)
        values = samples(estimand._formulas, found.query, together)
        assert values.shape[0] == 4
        assert len(np.unique(values[:, 0])) > 1
        for k in range(4):
            alone = one_sample(together, k)
            np.testing.assert_allclose(samples(estimand._formulas, found.query, alone)[0], values[k], rtol=1e-12)

    def test_few_at_a_time_are_as_good(self, monkeypatch):
        """The law does not change: two standard errors from 400 samples each differ by chance alone."""
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.integers(0, 2, (60, 3)), columns=["Z", "X", "Y"])
        estimand = identify(BACK_DOOR, "P(Y=1 | do(X=1))").estimand
        together = estimand.estimate(table, replicates=400).stderr.iloc[0]
        monkeypatch.setattr(plugin, "_MOST_PER_BATCH", 1)
        alone = estimand.estimate(table, replicates=400, seed=1).stderr.iloc[0]
        # the error of a standard deviation of n numbers is about 1 / sqrt(2 n) of it
        assert abs(together / alone - 1) < 4 * np.sqrt(2 / (2 * 400))

    def test_weights_that_are_small_are_gamma_distributed(self):
        drawn = _small_gamma(np.random.default_rng(0), 0.25, 40_000)
        # mean and variance of a gamma distribution are its shape; the fourth central moment is 3 a (a + 2)
        assert abs(drawn.mean() - 0.25) < 4 * np.sqrt(0.25 / 40_000)
        assert abs(drawn.var() - 0.25) < 4 * np.sqrt((3 * 0.25 * 2.25 - 0.25**2) / 40_000)


def one_sample(tables, k):
    """The k-th of several samples, with the probabilities that were drawn for it."""
    alone = object.__new__(type(tables))
    parts = [replace(part, weights=part.weights[k : k + 1]) for part in tables._parts]
    drawn = {key: value[k : k + 1] for key, value in tables._drawn.items()}
    alone.__dict__ = {**tables.__dict__, "replicates": 1, "_parts": parts, "_drawn": drawn, "evaluated": {}}
    return alone


class TestWork:
    """An estimate beside an answer does not take longer than the answer."""

    def wide(self, levels):
        rng = np.random.default_rng(0)
        names = ["X", "Y", *(f"C{k}" for k in range(4))]
        table = pd.DataFrame({name: rng.integers(0, levels, 2000) for name in names})
        graph = " ; ".join([f"{c} -> X; {c} -> Y" for c in names[2:]]) + "; X -> Y"
        return identify(graph, "P(Y=1 | do(X=1))").estimand, table

    def test_has_fewer_samples_and_the_same_value(self, monkeypatch):
        estimand, table = self.wide(2)
        drawn = []
        resampled = SourceTables.resampled

        def counted(self, replicates, seed, at_once):
            drawn.append(replicates)
            return resampled(self, replicates, seed, at_once)

        monkeypatch.setattr(SourceTables, "resampled", counted)
        free = estimand.estimate(table, replicates=100)
        few = estimand.estimate(table, replicates=100, most_work=10_000)
        assert drawn[0] == 100
        assert 30 <= drawn[1] < 100
        assert few.values.equals(free.values)
        # of so many samples each
        error = free.stderr.iloc[0] * np.sqrt(sum(1 / (2 * (n - 1)) for n in drawn))
        assert few.stderr.iloc[0] == pytest.approx(free.stderr.iloc[0], abs=4 * error)

    def test_is_refused_in_words_before_anything_is_computed(self, monkeypatch):
        estimand, table = self.wide(6)
        module = sys.modules[type(estimand).__module__]
        monkeypatch.setattr(module, "estimate_of", lambda *args, **kwargs: pytest.fail("computed"))
        with pytest.raises(MdcmError, match=r"takes [\d,]+ numbers.*evaluate"):
            estimand.estimate(table, replicates=100, most_work=10_000)
