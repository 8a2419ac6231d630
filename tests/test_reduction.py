"""Queries that follow by sums over the levels of a variable, and rules that read the value it would have had."""

import itertools

import numpy as np
import pandas as pd
import pytest
from counterexamples import Available, two_models
from fitted import BRIEF
from identification_sweep import Case, error_of, random_graph
from test_plugin import check_non_positive

import mdcm
from mdcm import query as language
from mdcm.data import Dataset
from mdcm.errors import DataError, NotIdentifiableError, QueryError
from mdcm.graph import ADMG
from mdcm.identification import identify
from mdcm.planning import DatasetSpec
from mdcm.scm import DiscreteSCM, random_discrete

NAPKIN = "W1 -> W2 -> X -> Y; W1 <-> X; W1 <-> Y"
BOW = "X -> Y; X <-> Y"
FRONT_DOOR = "X -> M -> Y; X <-> Y"
BOTH = (DatasetSpec("d0"), DatasetSpec("e", None, ["X"]))
SEEN = (DatasetSpec("d0"),)


@pytest.mark.parametrize(
    ("graph", "query", "specs"),
    [
        (NAPKIN, "P(Y[X=1]=1 | X=0)", SEEN),
        (NAPKIN, "P(Y[X=1] | X)", SEEN),
        (NAPKIN, "P(X=0 | Y[X=1]=1)", SEEN),
        (BOW, "P(Y[X=1]=1 | X=0)", BOTH),
        (BOW, "P(Y[X=0], X=1)", BOTH),
        (BOW, "P(X | Y[X=0]=1)", BOTH),
        # by two variables at once
        ("X -> Y; Z -> Y; X <-> Y; Z <-> Y", "P(Y[X=1, Z=1]=1 | X=0, Z=0)", (*SEEN, *(
            DatasetSpec(f"e{k}", None, do) for k, do in enumerate((["X"], ["Z"], ["X", "Z"]))
        ))),
        # of a covariate's strata
        ("C -> X; C -> Y; X -> Y; X <-> Y", "P(Y[X=1]=1 | X=0, C=1)", BOTH),
    ],
)  # fmt: skip
def test_what_two_levels_determine(graph, query, specs):
    admg = ADMG.from_string(graph)
    case = Case("named", admg, query, specs, 2)
    assert identify(admg, query, datasets=specs).identifiable is False
    found = case.identify()
    assert found.identifiable
    for seed in range(3):
        assert error_of(case, found, seed) < 1e-12
    # three levels leave it open: two models that agree on all data differ
    assert not Case("named", admg, query, specs, 3).identify().identifiable


def test_three_levels_are_refused_rightly():
    available = [Available(), Available({"X": None})]
    asked = "P(Y[X=1]=1 | X=0)"
    assert two_models(ADMG.from_string(BOW), asked, available, levels={"X": 3, "Y": 2})
    assert not identify(BOW, asked, experiments=[["X"]], levels={"X": (0, 1, 2)}).identifiable


def test_differences_of_the_treated_and_their_text():
    found = identify(BOW, "E[Y[X=1] - Y[X=0] | X=1]", experiments=[["X"]], levels={"X": (0, 1)})
    scm = random_discrete(ADMG.from_string(BOW), levels=2, seed=3)
    data = {frozenset(): scm.exact(["X", "Y"]), frozenset({"X"}): scm.exact(["Y"], do=["X"])}
    assert found.estimand.evaluate(data) == pytest.approx(scm.answer("E[Y[X=1] - Y[X=0] | X=1]"), abs=1e-12)
    assert "[P(Y | do(X=0))] - [P(X=0) P(Y | X=0)]" in str(found)
    assert found.estimand.latex().count(r"\frac") == found.estimand.latex().count("/") + 1
    assert found.to_json()["estimand"]["formulas"][1]["numerator"][1]["sign"] == -1
    # and the experiment that would help is named where it is missing
    assert identify(BOW, "P(Y[X=1]=1 | X=0)", levels={"X": (0, 1)}).experiments == (("X",),)


def test_errors_and_further_levels():
    scm = random_discrete(ADMG.from_string(BOW), levels=2, seed=3)
    rows = {frozenset(): scm.sample(3000, seed=0)}
    rows[frozenset({"X"})] = pd.concat([scm.sample(1500, do={"X": x}, seed=x + 1) for x in (0, 1)])
    estimand = identify(BOW, "P(Y[X=1]=1 | X=0)", experiments=[["X"]], levels={"X": (0, 1)}).estimand
    value, error = estimand.evaluate_with_error(rows)
    assert 0 < float(error.iloc[0]) < 0.1
    assert abs(float(value.iloc[0]) - scm.answer("P(Y[X=1]=1 | X=0)")) < 4 * float(error.iloc[0])
    more = rows[frozenset()].copy()
    more.loc[more.index[0], "X"] = 2
    with pytest.raises(DataError, match="'X' has the level 2, but the query is identified only if"):
        estimand.evaluate({**rows, frozenset(): more})


def test_random_effects_on_the_untreated():
    """Whatever is found by subtraction is right, in positive models and in those full of zeros."""
    gained = 0
    for trial in range(300):
        rng = np.random.default_rng([11, trial])
        graph = random_graph(rng, 5)
        x, y, *others = rng.permutation(graph.nodes).tolist()
        given = f", {others[0]}=1" if others and trial % 3 == 0 else ""
        specs = (DatasetSpec("d0"), DatasetSpec("e", None, [x])) if trial % 2 else SEEN
        case = Case("named", graph, f"P({y}[{x}=1] | {x}=0{given})", specs, 2)
        found = case.identify()
        if not found.identifiable or identify(graph, case.query, datasets=specs).identifiable:
            continue
        gained += 1
        assert error_of(case, found, trial) < 1e-10, case
        check_non_positive(case, trial)
    assert gained > 5


def truth_of_rule(scm: DiscreteSCM, rule: dict, query: str) -> float:
    """P(outcomes, given) by P(given) had X been what the rule makes of it: summed over its natural value."""
    asked = language.parse(query).query

    def probability(terms) -> float:
        total = 0.0
        for natural, becomes in rule.items():
            events = [language.Term(t.variable, t.value, (language.Term("X", becomes),)) for t in terms]
            total += float(scm.answer(str(language.Query("P", (*events, language.Term("X", natural))))))
        return total

    bottom = probability(asked.given) if asked.given else 1.0
    return probability((*asked.outcomes, *asked.given)) / bottom


@pytest.mark.parametrize("rule", [{0: 1, 1: 2, 2: 0}, {0: 0, 1: 2, 2: 2}, {0: 1, 1: 1, 2: 1}], ids=str)
@pytest.mark.parametrize(
    ("graph", "query"),
    [
        ("X -> Y; Z -> Y", "P(Y=1 | do(X))"),
        ("Z -> X -> Y; Z -> Y", "P(Y=1 | do(X))"),
        ("Z -> X -> Y; Z -> Y", "P(Y=1 | do(X), Z=0)"),
        (FRONT_DOOR, "P(Y=1 | do(X))"),
        (FRONT_DOOR, "P(Y=1 | do(X), M=2)"),
    ],
)
def test_rules_that_are_determined(graph, query, rule):
    admg = ADMG.from_string(graph)
    levels = {name: (0, 1, 2) for name in admg.nodes}
    found = identify(admg, query, levels=levels, rules={"X": rule})
    assert found.identifiable
    scm = random_discrete(admg, levels=3, seed=5)
    value = float(found.estimand.evaluate(scm.exact(list(admg.nodes))).iloc[0])
    assert value == pytest.approx(truth_of_rule(scm, rule, query), abs=1e-12)


def test_a_rule_under_confounding_is_not_what_do_shows():
    """Two models that agree on both data sets and answer .90 and .10."""
    rule, levels = {0: 1, 1: 2, 2: 0}, {"X": (0, 1, 2), "Y": (0, 1)}
    found = identify(BOW, "P(Y=1 | do(X))", experiments=[["X"]], levels=levels, rules={"X": rule})
    assert not found.identifiable
    assert "with X set by a rule is not shown to be identifiable" in found.explain()
    available = [Available(), Available({"X": None})]
    assert two_models(ADMG.from_string(BOW), "P(Y[X=1]=1, X=0)", available, levels={"X": 3, "Y": 2})
    # a constant is plain do(), and a swap of two levels follows by subtraction
    constant = identify(
        BOW, "P(Y=1 | do(X))", experiments=[["X"]], levels=levels, rules={"X": dict.fromkeys(range(3), 2)}
    )
    assert str(constant.estimand) == "P(Y=1 | do(X=2))"
    two = {"X": (0, 1), "Y": (0, 1)}
    swapped = identify(BOW, "P(Y=1 | do(X))", experiments=[["X"]], levels=two, rules={"X": {0: 1, 1: 0}})
    scm = random_discrete(ADMG.from_string(BOW), levels=2, seed=2)
    data = {frozenset(): scm.exact(["X", "Y"]), frozenset({"X"}): scm.exact(["Y"], do=["X"])}
    value = float(swapped.estimand.evaluate(data).iloc[0])
    assert value == pytest.approx(truth_of_rule(scm, {0: 1, 1: 0}, "P(Y=1 | do(X))"), abs=1e-12)


def test_rules_one_after_the_other_and_beside_values():
    graph = ADMG.from_string("X -> W -> Y; X -> Y; C -> X; C -> Y")
    levels = {name: (0, 1) for name in graph.nodes}
    rules = {"X": {0: 1, 1: 0}, "W": {0: 1, 1: 0}}
    found = identify(graph, "P(Y=1 | do(X, W))", levels=levels, rules=rules)
    scm = random_discrete(graph, levels=2, seed=7)
    truth = 0.0
    for x, w in itertools.product((0, 1), repeat=2):
        truth += scm.answer(f"P(Y[X={1 - x}, W={1 - w}]=1, W[X={1 - x}]={w}, X={x})")
    exact = scm.exact(list(graph.nodes))
    assert float(found.estimand.evaluate(exact).iloc[0]) == pytest.approx(truth, abs=1e-12)
    # a value without a rule stands for every level
    table = identify(graph, "P(Y=1 | do(X, W))", levels=levels, rules={"X": rules["X"]}).estimand.evaluate(exact)
    for w in (0, 1):
        truth = sum(scm.answer(f"P(Y[X={1 - x}, W={w}]=1, X={x})") for x in (0, 1))
        assert float(table.xs(w, level="W").iloc[0]) == pytest.approx(truth, abs=1e-12)


def test_rules_that_are_not_known_must_be_determined_whatever_they_do():
    assert identify("X -> Y", "P(Y | do(X))", rules={"X": None}, kinds={"X": "continuous"}).identifiable
    front = identify(FRONT_DOOR, "P(Y | do(X))", rules={"X": None}, kinds=dict.fromkeys("XMY", "continuous"))
    assert front.identifiable
    assert "mixture by the rule of" in str(front)
    with pytest.raises(QueryError, match="the rule is not a table of levels"):
        front.estimand.evaluate(pd.DataFrame({"X": [0], "M": [0], "Y": [1]}))
    for graph in (BOW, NAPKIN):
        refused = identify(graph, "P(Y | do(X))", experiments=[["X"]], rules={"X": None}, kinds={"X": "continuous"})
        assert not refused.identifiable


def ternary_bow(rows: int = 900) -> list[Dataset]:
    scm = random_discrete(ADMG.from_string(BOW), levels={"X": 3, "Y": 2}, seed=1)
    tried = [scm.sample(rows // 3, do={"X": x}, seed=x + 1) for x in range(3)]
    return [Dataset(scm.sample(rows, seed=0)), Dataset(pd.concat(tried, ignore_index=True), do=["X"])]


def test_a_model_says_so_of_functions():
    model = mdcm.fit(BOW, ternary_bow(), config=BRIEF)
    with pytest.raises(NotIdentifiableError, match="set by a rule"):
        model.query("P(Y | do(X))", 100, do={"X": lambda x: (x + 1) % 3})
    # of a list every one, and a function that is not always the same is one of any sort
    with pytest.raises(NotIdentifiableError, match="set by a rule"):
        model.query("P(Y | do(X))", 100, do={"X": [0, lambda x: 2 - x]})
    rng = np.random.default_rng(0)
    with pytest.raises(NotIdentifiableError, match="set by a rule"):
        model.query("P(Y | do(X))", 100, do={"X": lambda _: int(rng.integers(3))})
    constant = model.query("P(Y | do(X))", 100, do={"X": lambda _: 1})
    assert str(constant.identification.estimand) == "P_{d2}(Y | do(X=1))"
    assert len(model.query("P(Y | do(X))", 100, do={"X": [0, 2]}).table) == 4
    allowed = model.query("P(Y | do(X))", 100, do={"X": lambda x: 2 - x}, allow_unidentifiable=True)
    assert "not shown to be determined" in allowed.note


def test_a_model_answers_values_that_an_experiment_set():
    table, tried = ternary_bow()
    at_one = Dataset(tried.table[tried.table["X"] == 1].reset_index(drop=True), do=["X"])
    model = mdcm.fit(BOW, [table, at_one], config=BRIEF)
    with pytest.raises(NotIdentifiableError):
        model.query("P(Y | do(X))", 100, do={"X": [0, 1]})
    assert len(model.query("P(Y | do(X))", 100, do={"X": [1]}).table) == 2
