"""Experiments on several targets show what was set together, not every combination of the values of each."""

import itertools

import numpy as np
import pandas as pd
import pytest

import mdcm
from mdcm import Dataset, DatasetSpec, NotIdentifiableError, PlanError, UntrainableError, identify, plan
from mdcm.data import Schema, to_spec
from mdcm.planning import Plan, check_datasets

# neither cause can be told from the confounders without setting both
GRAPH = "A -> Y; B -> Y; A <-> Y; B <-> Y; A <-> B"
CORNERS = [(0, 0), (1, 0), (0, 1)]
BRIEF = mdcm.TrainConfig(max_steps=5)


def trial(combinations, names=("A", "B"), each=60, name="trial"):
    rng = np.random.default_rng(0)
    rows = [combination for combination in combinations for _ in range(each)]
    table = pd.DataFrame(rows, columns=list(names)).assign(Y=rng.integers(0, 2, len(rows)))
    return Dataset(table, do=list(names), name=name)


def seen(rows=200):
    rng = np.random.default_rng(1)
    return Dataset(pd.DataFrame(rng.integers(0, 2, (rows, 3)), columns=["A", "B", "Y"]), name="seen")


def schema_of(*datasets):
    return Schema.infer(list(datasets))


class TestSpec:
    def test_of_all_combinations_nothing_is_noted(self):
        spec = DatasetSpec("d", do={"A": [0, 1], "B": [0, 1]}, combinations=itertools.product([0, 1], [1, 0]))
        assert spec.combinations is None
        assert spec == DatasetSpec("d", do={"A": [0, 1], "B": [0, 1]})

    @pytest.mark.parametrize(
        ("combinations", "message"),
        [
            ([(0,)], "has 1 values for 2 targets"),
            ([(0, 7)], "B=7, which do.B. does not list"),
            ([], "combinations is empty"),
        ],
    )
    def test_others_are_refused(self, combinations, message):
        with pytest.raises(PlanError, match=message):
            DatasetSpec("d", do={"A": [0, 1], "B": [0, 1]}, combinations=combinations)

    def test_a_plan_keeps_them(self):
        datasets = [DatasetSpec("seen"), DatasetSpec("d", do={"A": [0, 1], "B": [0, 1]}, combinations=CORNERS)]
        made = plan(GRAPH, datasets)
        assert Plan.from_json(made.to_json()).datasets == made.datasets

    @pytest.mark.parametrize(
        "convert",
        [lambda t: t, lambda t: t.astype(str), lambda t: t.astype({"A": "category", "B": float})],
        ids=["whole numbers", "text", "categories and floats"],
    )
    def test_is_read_from_the_rows(self, convert):
        made = trial(CORNERS)
        table = convert(made.table)
        dataset = Dataset(table, do=["B", "A"], name="trial")
        for spec in (to_spec(dataset, schema_of(dataset)), dataset.spec(["A", "B", "Y"])):
            assert {tuple(map(int, map(float, pair))) for pair in spec.combinations} == {(0, 0), (0, 1), (1, 0)}
            assert list(spec.do) == ["B", "A"]

    def test_of_numbers_and_dates_too(self):
        days = pd.to_datetime(["2020-01-01", "2020-01-01", "2020-03-01"] * 30)
        table = pd.DataFrame({"A": [0.5, 1.5, 0.5] * 30, "B": days, "Y": [0, 1, 1] * 30})
        dataset = Dataset(table, do=["A", "B"])
        schema = Schema.infer([dataset], {name: {"kind": "continuous"} for name in "AB"})
        spec = to_spec(dataset, schema)
        first, last = spec.do["B"]
        assert last - first == 60
        assert set(spec.combinations) == {(0.5, first), (1.5, first), (0.5, last)}

    def test_numbers_of_which_not_all_are_listed_stand_for_every_value(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"T": rng.normal(size=900), "A": [0, 1, 0] * 300, "B": [0, 0, 1] * 300})
        spec = Dataset(table.assign(Y=0.0), do=["T", "A", "B"]).spec(["T", "A", "B", "Y"])
        assert set(spec.combinations) == {(None, *pair) for pair in CORNERS}


class TestIdentified:
    @pytest.mark.parametrize("combinations", [CORNERS, [*CORNERS, (1, 1)]], ids=["three corners", "all"])
    def test_only_at_what_was_set_together(self, combinations):
        spec = DatasetSpec("trial", do={"A": [0, 1], "B": [0, 1]}, combinations=combinations)
        for a, b in itertools.product([0, 1], repeat=2):
            found = identify(GRAPH, f"P(Y | do(A={a}, B={b}))", datasets=[DatasetSpec("seen"), spec])
            assert bool(found.identifiable) is ((a, b) in combinations)
        whole = identify(GRAPH, "P(Y | do(A, B))", datasets=[DatasetSpec("seen"), spec])
        assert bool(whole.identifiable) is (len(combinations) == 4)
        if not whole.identifiable:
            assert "trial does not set all combinations of values of A, B that are needed" in whole.explain()

    def test_several_data_sets_may_complete_each_other(self):
        values = {"A": [0, 1], "B": [0, 1]}
        first = DatasetSpec("first", do=values, combinations=[(0, 0), (1, 1)])
        second = DatasetSpec("second", do={"B": [0, 1], "A": [0, 1]}, combinations=[(0, 1), (1, 0)])
        both = [DatasetSpec("seen"), first, second]
        assert identify(GRAPH, "P(Y | do(A, B))", datasets=both).identifiable
        # the same pairs twice do not
        again = DatasetSpec("second", do={"B": [0, 1], "A": [0, 1]}, combinations=[(0, 0), (1, 1)])
        assert not identify(GRAPH, "P(Y | do(A, B))", datasets=[DatasetSpec("seen"), first, again]).identifiable

    def test_every_pair_of_three_is_not_every_triple(self):
        """A half of the cube that holds all pairs of values of any two targets."""
        half = [cell for cell in itertools.product([0, 1], repeat=3) if sum(cell) % 2 == 0]
        spec = DatasetSpec("trial", do=dict.fromkeys("ABC", (0, 1)), combinations=half)
        graph = "A -> Y; B -> Y; C -> Y; A <-> Y; B <-> Y; C <-> Y; A <-> B; B <-> C; A -> V; B -> V; A <-> V; B <-> V"
        datasets = [DatasetSpec("seen"), spec]
        assert not identify(graph, "P(Y | do(A, B, C))", datasets=datasets).identifiable
        assert not identify(graph, "P(Y | do(A=1, B=1, C=1))", datasets=datasets).identifiable
        assert identify(graph, "P(Y | do(A=1, B=1, C=0))", datasets=datasets).identifiable
        # what depends on two of them alone was seen at all values of these
        assert identify(graph, "P(V | do(A, B))", datasets=datasets).identifiable

    def test_a_value_that_is_no_level_needs_its_own_combination(self):
        """Numbers: two doses of each drug, of which the high ones were never given together."""
        spec = DatasetSpec("trial", do={"A": [0.0, 1.5], "B": [0.0, 1.5]}, combinations=[(0, 0), (1.5, 0), (0, 1.5)])
        kinds = {"A": "continuous", "B": "continuous"}
        datasets = [DatasetSpec("seen"), spec]
        assert identify(GRAPH, "P(Y | do(A=1.5, B=0))", datasets=datasets, kinds=kinds).identifiable
        assert not identify(GRAPH, "P(Y | do(A=1.5, B=1.5))", datasets=datasets, kinds=kinds).identifiable


class TestFitted:
    def test_a_query_at_what_was_never_set_together_is_refused(self):
        model = mdcm.fit(GRAPH, [seen(), trial(CORNERS)], config=BRIEF)
        for text in ("P(Y=1 | do(A=1, B=1))", "E[Y | do(A=1, B=1)] - E[Y | do(A=0, B=0)]", "P(Y | do(A, B))"):
            with pytest.raises(NotIdentifiableError, match="combinations of values of A, B"):
                model.query(text)
        model.query("P(Y=1 | do(A=1, B=0))")
        with pytest.warns(UserWarning, match="not determined"):
            model.draw_samples(5, do={"A": 1, "B": 1})

    def test_a_mechanism_that_needs_all_of_them_is_not_taught(self):
        with pytest.raises(UntrainableError, match="not to every combination of values"):
            mdcm.fit("A -> Y; B -> Y", [Dataset(seen().table[["A", "B"]]), trial(CORNERS)], config=BRIEF)

    def test_a_plan_for_all_is_no_plan_for_some(self):
        values = {"A": [0, 1], "B": [0, 1]}
        made = plan(GRAPH, [DatasetSpec("seen"), DatasetSpec("trial", do=values, rows=120)])
        options = {"kinds": {}, "levels": {"A": [0, 1], "B": [0, 1]}}
        some = DatasetSpec("trial", do=values, combinations=CORNERS)
        turned = DatasetSpec("trial", do={"B": [0, 1], "A": [0, 1]}, combinations=[(b, a) for a, b in CORNERS])
        with pytest.raises(PlanError, match=r"every combination of these values .* has 3 combinations of them"):
            check_datasets(made, [DatasetSpec("seen"), some], **options)
        check_datasets(plan(GRAPH, [DatasetSpec("seen"), some]), [DatasetSpec("seen"), turned], **options)
        made = plan(GRAPH, [DatasetSpec("seen"), some])
        other = DatasetSpec("trial", do=values, combinations=[(1, 1), (1, 0), (0, 1)])
        with pytest.raises(PlanError, match="others"):
            check_datasets(made, [DatasetSpec("seen"), other], **options)
