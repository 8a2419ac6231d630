"""The two graphs of the paper's Appendix E: our plans, compared with those of the paper."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import networkx as nx

from mdcm.experiments.records import Findings, Result, hold
from mdcm.experiments.summaries import plan_picture
from mdcm.graph import ADMG
from mdcm.planning import DatasetSpec, Plan, plan
from mdcm.report.page import Table

__all__ = ["FIRST", "SECOND", "Published", "differences", "examples", "order", "training_order"]

# E.1: a graph of six variables that has the three fits of the text, whose figure is not in it
FIRST = ADMG.from_string("U -> X -> Z -> Y; W -> V; X <-> Y; Y <-> W; Z <-> V")
# E.2: the graph of the published code; its labels run to 29, where the paper speaks of 27 variables
SECOND = ADMG.from_string("""
1; 2; 3; 4; 5; 6; 7; 8; 9; 10; 11; 12; 13; 14; 15; 16; 17; 18; 19; 20; 21; 22; 23; 24; 25; 26; 27; 28; 29
1 -> 2 -> 3; 2 -> 5 -> 8 -> 14 -> 23 -> 26; 4 -> 7 -> 6 -> 9 -> 17 -> 25; 16 -> 10 -> 11 -> 8 -> 6
12 -> 15 -> 14; 13 -> 19 -> 22 -> 21 -> 20; 19 -> 9; 19 -> 18 -> 17 -> 20; 22 -> 18
24 -> 27 -> 23; 24 -> 23; 27 -> 15; 27 -> 17; 27 -> 25; 27 -> 26; 29 -> 28 -> 23; 29 -> 26
1 <-> 3; 5 <-> 6; 7 <-> 9 <-> 11; 8 <-> 10; 14 <-> 15 <-> 16; 17 <-> 18 <-> 19; 20 <-> 21 <-> 22
23 <-> 24 <-> 25; 26 <-> 27
""")
_TRIAL = DatasetSpec("do(17)", do=["17"])
_LAST = "23 24 25 26 27"


@dataclass(frozen=True)
class Published:
    """A distribution that the paper matches for an h-node: P(matched | do(given)).

    Attributes:
        where: Section or equation.
        trained: The h-node's variables.
        matched: These, and the variables that generate along with them.
        given: Their parents, set by intervention.
    """

    where: str
    trained: str
    matched: str
    given: str = ""


_FIRST_FITS = (
    Published("E.1", "U", "U"),
    Published("E.1", "Z V", "Z V", "X W"),
    Published("E.1", "X Y W", "X Y W Z", "U"),
)
_SEEN = Published("Eq. 53", _LAST, f"{_LAST} 14 15 16 17 18 19 22 5 6 7 8 9 10 11", "2 12 13 28 29 4")
_TRIED = Published("Eq. 54", _LAST, f"{_LAST} 8 10 11 14 15 16", "12 28 29 5 17")
# the h-graph of the observational data; h-nodes of a single variable that nothing orders are left out
_ORDER = (
    ("2", "1 3"),
    ("5 6 7 8 9 10 11", "14 15 16"),
    ("5 6 7 8 9 10 11", "17 18 19 20 21 22"),
    ("14 15 16", _LAST),
    ("17 18 19 20 21 22", _LAST),
)


def differences(planned: Plan, published: Published) -> int:
    """Number of variables in which the plan's fit of an h-node differs from the published distribution.

    Args:
        planned: A plan.
        published: The distribution of the paper.

    Returns:
        Number of variables that only one of the two matches or sets; all published variables if the plan has no such
        fit.

    Example:
        >>> differences(plan(FIRST, objective="adversarial"), Published("E.1", "X Y W", "X Y W Z", "U"))
        0
    """
    matched, given, trained = (set(names.split()) for names in (published.matched, published.given, published.trained))
    fits = (
        fit for hnode in planned.hnodes for fit in hnode.fits if set(hnode.variables) == set(fit.variables) == trained
    )
    fit = next(fits, None)
    if fit is None:
        return len(matched | given)
    return len(matched ^ {*fit.variables, *fit.ancestors}) + len(given ^ {*fit.parents})


def training_order(planned: Plan) -> set[tuple[frozenset[str], frozenset[str]]]:
    """Transitive reduction of the arrows between h-nodes, in O(h-nodes * arrows) by networkx.

    Example:
        >>> [(sorted(a), sorted(b)) for a, b in training_order(plan(FIRST, objective="adversarial"))]
        [(['V', 'Z'], ['W', 'X', 'Y'])]
    """
    hnodes = [frozenset(hnode.variables) for hnode in planned.hnodes]
    reduced = nx.transitive_reduction(nx.DiGraph(planned.edges))
    return {(hnodes[source], hnodes[target]) for source, target in reduced.edges}


def order(arrows: Collection[Sequence[str]]) -> set[tuple[frozenset[str], frozenset[str]]]:
    """Parse arrows between h-nodes, in the form of :func:`training_order`."""
    return {(frozenset(source.split()), frozenset(target.split())) for source, target in arrows}


def examples() -> Findings:
    """Plan both graphs, the second also with a data set under do(17), and compare with the paper.

    Example:
        >>> all(criterion.met for criterion in examples().criteria)
        True
    """
    first, second = (plan(graph, objective="adversarial") for graph in (FIRST, SECOND))
    both = plan(SECOND, [DatasetSpec("seen"), _TRIAL], objective="adversarial")
    compared = [*((first, fit) for fit in _FIRST_FITS), (second, _SEEN), (both, _TRIED)]
    counted = [(fit, differences(planned, fit)) for planned, fit in compared]
    arrows = training_order(second) ^ order(_ORDER)
    row = partial(Result, "complexity, Appendix E", "adversarial", None, "Plans of Appendix E")
    results = [row(f"variables that differ, {fit.where}, {fit.trained}", number) for fit, number in counted]
    results.append(row("variables that differ, E.1", sum(number for fit, number in counted if fit.where == "E.1")))
    results.append(row("arrows that differ", len(arrows)))
    names = ["variables that differ, E.1"]
    names += [f"variables that differ, {fit.where}, {fit.trained}" for fit in (_SEEN, _TRIED)]
    held = partial(hold, results, limits={"first": 0.0}, method="adversarial")
    return Findings(
        results=results,
        criteria=[*held(names, unit="variables"), *held(["arrows that differ"], unit="arrows")],
        tables=[_table(counted)],
        pictures=[plan_picture("Plan of Appendix E.2", second)],
        notes=[
            "Appendix E.2: the graph is that of the published code. With a data set under do(17) the h-node of 17 to "
            "22 falls apart into {17, 18, 19} and {20, 21, 22}, which the paper keeps together."
        ],
    )


def _table(counted: Sequence[tuple[Published, int]]) -> Table:
    return Table(
        "Distributions of Appendix E",
        ["trained", "in the paper", "matched", "given", "variables that differ"],
        [[fit.trained, fit.where, fit.matched, fit.given or "–", number] for fit, number in counted],
        "What an h-node is matched to: P(matched | do(given)). Eq. 54 has a data set under do(17) as well.",
    )
