"""Appendix E of the paper: two graphs, and the distributions and the order that their plans have to have."""

import itertools

import networkx as nx
import pytest

from mdcm.experiments import appendix
from mdcm.experiments.appendix import FIRST, SECOND, Published, differences, order, training_order
from mdcm.graph import ADMG
from mdcm.planning import DatasetSpec, plan

LAST = ["23", "24", "25", "26", "27"]
SEEN = [*LAST, *["14", "15", "16", "17", "18", "19", "22", "5", "6", "7", "8", "9", "10", "11"]]
TRIED = [*LAST, *["8", "10", "11", "14", "15", "16"]]
E1 = "variables that differ, E.1"
EQ53, EQ54 = (f"variables that differ, Eq. {number}, {' '.join(LAST)}" for number in (53, 54))


def fit_of(planned, variables):
    (hnode,) = (one for one in planned.hnodes if set(one.variables) == set(variables))
    (fit,) = hnode.fits
    return {*fit.variables, *fit.ancestors}, set(fit.parents)


def adversarial(graph, *datasets, **options):
    return plan(graph, datasets or None, objective="adversarial", **options)


def without(graph, *arrows):
    return ADMG(graph.nodes, [arrow for arrow in graph.directed if arrow not in arrows], graph.bidirected)


class TestFirst:
    def test_three_distributions(self):
        planned = adversarial(FIRST)
        assert fit_of(planned, "U") == ({"U"}, set())
        assert fit_of(planned, "ZV") == ({"Z", "V"}, {"X", "W"})
        assert fit_of(planned, "XYW") == ({"X", "Y", "W", "Z"}, {"U"})
        assert [sorted(one.variables) for one in planned.hnodes if one.level == 1] == [["W", "X", "Y"]]

    @pytest.mark.parametrize(("matched", "given"), [("ZV", "XW"), ("XYWZ", "U"), ("U", "")])
    def test_rule_2_makes_what_is_given_a_condition(self, matched, given):
        assert FIRST.rule2(list(matched), list(given))


class TestSecond:
    def test_equation_53(self):
        assert fit_of(adversarial(SECOND), LAST) == (set(SEEN), {"2", "12", "13", "28", "29", "4"})

    def test_equation_54_with_do_17(self):
        planned = adversarial(SECOND, DatasetSpec("seen"), DatasetSpec("trial", do=["17"]))
        assert fit_of(planned, LAST) == (set(TRIED), {"12", "28", "29", "5", "17"})

    @pytest.mark.parametrize(
        "trial",
        [
            DatasetSpec("trial", do={"17": [0]}),
            DatasetSpec("trial", columns=[name for name in SECOND.nodes if name != "28"], do=["17"]),
            DatasetSpec("trial", do=["12"]),
        ],
        ids=["one value", "without 28", "of another variable"],
    )
    def test_a_trial_that_cannot_teach_it_leaves_equation_53(self, trial):
        planned = adversarial(SECOND, DatasetSpec("seen", rows=10_000), trial)
        assert fit_of(planned, LAST)[0] == set(SEEN)

    @pytest.mark.parametrize(("matched", "do"), [(SEEN, ()), (TRIED, ("17",))])
    def test_rule_2_holds_and_for_nothing_that_leaves_out_one_variable(self, matched, do):
        def holds(variables):
            given = set().union(*(SECOND.parents(v) for v in variables)) - set(variables) - set(do)
            return SECOND.rule2(variables, sorted(given), x=do)

        assert holds(matched)
        # without one of the h-node's own the distribution would not teach it, so that only the others are left out
        assert not any(holds([v for v in matched if v != out]) for out in set(matched) - set(LAST))

    @pytest.mark.parametrize(
        "path", ["3 2 1", "14 8 11 10 16", "17 9 19", "23 14 15 27", "25 17 27"], ids=lambda path: path.split()[0]
    )
    def test_backdoor_paths_of_the_text_are_paths_within_an_h_node(self, path):
        names = path.split()
        assert all(pair in SECOND.directed for pair in itertools.pairwise(names[::-1]))
        hnode = next(one for one in adversarial(SECOND).hnodes if names[0] in one.variables)
        assert names[-1] in hnode.variables
        assert names[1] not in hnode.variables

    def test_order_of_the_observational_h_graph(self):
        arrows = {
            ("2", "1 3"), ("5 6 7 8 9 10 11", "14 15 16"), ("5 6 7 8 9 10 11", "17 18 19 20 21 22"),
            ("14 15 16", "23 24 25 26 27"), ("17 18 19 20 21 22", "23 24 25 26 27"),
        }  # fmt: skip
        assert training_order(adversarial(SECOND)) == order(arrows)

    def test_do_17_splits_the_h_node_and_orders_its_parts(self):
        planned = adversarial(SECOND, DatasetSpec("seen"), DatasetSpec("trial", do=["17"]))
        hnodes = {frozenset(one.variables) for one in planned.hnodes}
        assert {frozenset({"17", "18", "19"}), frozenset({"20", "21", "22"})} <= hnodes
        assert order([("20 21 22", "17 18 19")]) <= training_order(planned)


class TestCriteria:
    def test_all_are_reached(self):
        criteria = appendix.examples().criteria
        assert len(criteria) == 4
        assert all(criterion.met and criterion.judged and criterion.value == 0 for criterion in criteria)

    @pytest.mark.parametrize(
        ("name", "graph", "missed"),
        [
            ("FIRST", without(FIRST, ("Z", "Y")), [E1]),
            ("SECOND", without(SECOND, ("29", "26"), ("29", "28")), [EQ53, EQ54]),
            ("SECOND", without(SECOND, ("13", "19")), [EQ53]),
            ("SECOND", without(SECOND, ("2", "3")), ["arrows that differ"]),
        ],
    )
    def test_another_graph_misses_what_it_changes(self, name, graph, missed, monkeypatch):
        monkeypatch.setattr(appendix, name, graph)
        assert [criterion.quantity for criterion in appendix.examples().criteria if not criterion.met] == missed

    def test_plans_by_the_sets_as_printed_differ(self):
        """Their Algorithm 2 adds all parents, and all of the graph's middle is then one h-node."""
        planned = adversarial(SECOND, method="paper")
        published = Published("Eq. 53", " ".join(LAST), " ".join(SEEN), "2 12 13 28 29 4")
        assert differences(planned, published) == len(SEEN) + 6
        assert differences(adversarial(SECOND), published) == 0

    def test_a_variable_that_is_missing_and_one_too_many_are_two(self):
        planned = adversarial(FIRST)
        assert differences(planned, Published("", "X Y W", "X Y W V", "U")) == 2
        assert differences(planned, Published("", "X Y W", "X Y W Z", "U V")) == 1
        assert differences(planned, Published("", "X Y", "X Y", "U")) == 3

    def test_arrows_that_others_imply_are_left_out(self):
        edges = adversarial(SECOND).edges
        assert len(edges) == 6
        assert len(training_order(adversarial(SECOND))) == 5
        assert nx.is_directed_acyclic_graph(nx.DiGraph(edges))
