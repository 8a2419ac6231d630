"""Instrumental variables and the inequalities that test them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.checking.sources import CheckOutcome, columns_of, levels_of
from mdcm.checking.statistics import FEWEST_UNITS, effective_rows, excess_test, score_test, sum_test
from mdcm.data import encode
from mdcm.graph import ADMG
from mdcm.graph.edges import fresh_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Dataset
    from mdcm.data.inference import Schema

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]
    Flags = NDArray[np.bool_]

__all__ = [
    "Inequality", "Instruments", "bonets_inequalities", "instrumental_test", "instruments", "pearls_inequalities",
]  # fmt: skip


def instruments(graph: ADMG) -> list[tuple[str, str, str]]:
    """Triples (z, x, y) in which z is an instrument for the effect of x on y.

    Given x, z and y are dependent through a hidden cause of x and y, so the graph implies no independence of them; but
    the potential outcome of y under do(x) is independent of z.

    Args:
        graph: The graph, of observed variables only.

    Returns:
        Names, in the order of the nodes.

    Complexity:
        One separation, O(nodes + edges), per triple of a parent or sibling of x and a descendant of its c-component.

    References:
        Pearl (1995), On the testability of causal models with latent and instrumental variables.

    Example:
        >>> instruments(ADMG.from_string("Z -> X -> Y; X <-> Y"))
        [('Z', 'X', 'Y')]
        >>> instruments(ADMG.from_string("Z -> X -> Y; X <-> Y; Z -> Y"))
        []
    """
    position = {name: k for k, name in enumerate(graph.nodes)}
    triples = []
    for component in graph.c_components():
        if len(component) < 2:
            continue
        for x in sorted(component, key=position.__getitem__):
            below = graph.descendants(x)
            outcomes = sorted((below & component) - {x}, key=position.__getitem__)
            causes = sorted((graph.parents(x) | graph.siblings(x)) - below, key=position.__getitem__)
            if not outcomes or not causes:
                continue
            # without the arrows out of x, which transmit the value set by do(x), x keeps its natural value
            natural = ADMG(
                graph.nodes, [edge for edge in graph.directed if edge[0] != x], graph.bidirected, dict(graph.latents)
            )
            for z, y in itertools.product(causes, outcomes):
                if z != y and natural.m_separated(z, y):
                    triples.append((z, x, y))
    return triples


@dataclass(frozen=True, eq=False)
class Inequality:
    """An upper bound on the sum of P(event | z) over values z of the instrument, each with its event of x and y.

    Attributes:
        events: Pairs of a value of the instrument and the event's levels of x and y, bool ``[causes, outcomes]``.
        sum: Sum of the observed shares of the events.
        bound: Upper bound of the sum.
        comparisons: Number of inequalities of this kind, among which this has the largest sum.
    """

    events: tuple[tuple[int, Flags], ...]
    sum: float
    bound: int
    comparisons: int


def pearls_inequalities(shares: Mapping[int, Floats]) -> Iterator[Inequality]:
    """For every two values of the instrument and level of x, the set B with the largest P(x, B | z) + P(x, not B | z').

    Under do(x), y is in B with a probability of at least the first term, and not in B with a probability of at least
    the second, for every z: their sum is at most 1. If y has two levels, these are all of Pearl's inequalities.

    Args:
        shares: P(x, y | z), ``[causes, outcomes]``, for each value z.

    References:
        Pearl (1995), On the testability of causal models with latent and instrumental variables.

    Example:
        >>> shares = {0: np.array([[0.9, 0.0], [0.1, 0.0]]), 1: np.array([[0.0, 0.9], [0.1, 0.0]])}
        >>> [round(inequality.sum, 3) for inequality in pearls_inequalities(shares)]
        [1.8, 0.1]
    """
    causes, sets = _counts(shares)
    comparisons = len(causes) * math.comb(len(shares), 2) * sets
    for first, second in itertools.combinations(shares, 2):
        for cause in causes:
            inside = shares[first][cause] > shares[second][cause]
            events = _event(shares, (cause, inside)), _event(shares, (cause, ~inside))
            yield _inequality(shares, dict(zip((first, second), events, strict=True)), 1, comparisons)


def bonets_inequalities(shares: Mapping[int, Floats]) -> Iterator[Inequality]:
    """The inequalities for three values of the instrument and two levels of x, with the bound 2.

    P(x, B | z) + P(x, not B or x', B' | z') + P(x, not B or x', not B' | z'') is at most 2. Consider the potential
    outcomes y(x) and y(x') of a unit. If y(x) is not in B, the first event cannot occur, for any x. If y(x) is in B and
    y(x') is not in B', the second cannot; if y(x) is in B and y(x') is in B', the third cannot. So no unit, given each
    value of the instrument in turn, is in all three events. For two levels of x and y and three values of z, these
    inequalities and Pearl's are complete; larger tables have more.

    Args:
        shares: P(x, y | z), ``[causes, outcomes]``, for each value z.

    References:
        Bonet (2001), Instrumentality tests revisited, https://arxiv.org/abs/1301.2258 (two levels, three values; the
        proof here holds for any number).

    Example:
        >>> shares = {0: np.array([[0.0, 1.0], [0.0, 0.0]]), 1: np.array([[0.5, 0.0], [0.5, 0.0]])}
        >>> shares[2] = np.array([[0.5, 0.0], [0.0, 0.5]])
        >>> [max(bound.sum for bound in bounds(shares)) for bounds in (pearls_inequalities, bonets_inequalities)]
        [1.5, 3.0]
    """
    causes, sets = _counts(shares)
    comparisons = len(shares) * math.comb(len(shares) - 1, 2) * len(causes) * (len(causes) - 1) * sets**2
    for first in shares:
        for second, third in itertools.combinations([z for z in shares if z != first], 2):
            for cause, other in itertools.permutations(causes, 2):
                inside = shares[first][cause] > shares[second][cause] + shares[third][cause]
                inside_other = shares[second][other] > shares[third][other]
                events = {
                    first: _event(shares, (cause, inside)),
                    second: _event(shares, (cause, ~inside), (other, inside_other)),
                    third: _event(shares, (cause, ~inside), (other, ~inside_other)),
                }
                yield _inequality(shares, events, 2, comparisons)


def _counts(shares: Mapping[int, Floats]) -> tuple[list[int], int]:
    """Levels of x that occur, and the number of sets of levels of y, without the empty and the full set."""
    total = np.sum(list(shares.values()), axis=0)
    return np.flatnonzero(total.sum(axis=1)).tolist(), 2 ** int((total.sum(axis=0) > 0).sum()) - 2


def _event(shares: Mapping[int, Floats], *parts: tuple[int, Flags]) -> Flags:
    """Mask of an event, as a union of parts: a level of x with a set of levels of y."""
    event = np.zeros(next(iter(shares.values())).shape, bool)
    for cause, outcomes in parts:
        event[cause] = outcomes
    return event


def _inequality(shares: Mapping[int, Floats], events: Mapping[int, Flags], bound: int, comparisons: int) -> Inequality:
    total = sum(float(shares[z][event].sum()) for z, event in events.items())
    return Inequality(tuple(events.items()), total, bound, comparisons)


def instrumental_test(
    z: Codes, x: Codes, y: Codes, weights: Floats | None = None, groups: Codes | None = None
) -> dict[str, Any] | None:
    """Test Pearl's inequalities for pairs of values of the instrument and, if it has three, Bonet's for triples.

    An exact comparison of two shares tests whether their sum exceeds 1; a score test compares a sum of three shares
    with 2. The smallest p over all levels and sets is multiplied by their number; if both kinds are tested, each gets
    half of the significance level.

    Args:
        z: Levels of the instrument, ``[n]``. Levels with fewer than 30 rows, or groups, are left out.
        x: Levels of the cause.
        y: Levels of the outcome.
        weights: Weights of the rows, or None.
        groups: Group of each row, or None.

    Returns:
        Statistic, degrees of freedom, log p and effect; and the :class:`Inequality` with the smallest p as
        ``inequality``. None if fewer than two levels of z have enough rows, or y is constant.

    References:
        Pearl (1995), On the testability of causal models with latent and instrumental variables; Bonet (2001),
        Instrumentality tests revisited; Wang, Robins & Richardson (2017), On falsification of the binary instrumental
        variable model (two shares).
    """
    units = np.arange(len(z)) if groups is None else groups
    mass = np.ones(len(z)) if weights is None else weights
    rows = {int(level): np.flatnonzero(z == level) for level in np.unique(z)}
    rows = {level: indices for level, indices in rows.items() if len(np.unique(units[indices])) >= FEWEST_UNITS}
    levels = int(y.max()) + 1
    if len(rows) < 2 or len(np.unique(y)) < 2:
        return None
    cells = (int(x.max()) + 1) * levels
    shares = {
        level: np.bincount(x[indices] * levels + y[indices], mass[indices], cells).reshape(-1, levels)
        / mass[indices].sum()
        for level, indices in rows.items()
    }
    satisfied: dict[str, Any] = {"test": "fisher", "statistic": 0.0, "dof": 1.0, "log_p": 0.0, "effect": 0.0}
    tests: list[dict[str, Any]] = []
    candidates = list(pearls_inequalities(shares)), list(bonets_inequalities(shares))
    kinds = [inequalities for inequalities in candidates if inequalities]
    for inequality in itertools.chain.from_iterable(kinds):
        test = satisfied
        if inequality.sum > inequality.bound:
            hits = [event[x[rows[level]], y[rows[level]]] for level, event in inequality.events]
            sides = [
                (mass[rows[level]], np.unique(units[rows[level]], return_inverse=True)[1])
                for level, _ in inequality.events
            ]
            test = _violation(hits, sides, plain=weights is None and groups is None)
        log_p = min(0.0, test["log_p"] + math.log(inequality.comparisons * len(kinds)))
        tests.append(test | {"log_p": log_p, "inequality": inequality})
    return min(tests, key=lambda test: (test["log_p"], test["inequality"].bound - test["inequality"].sum))


def _violation(hits: Sequence[Flags], sides: Sequence[tuple[Floats, Codes]], *, plain: bool) -> dict[str, Any]:
    """Test whether the shares of k events sum to more than k - 1."""
    if len(hits) > 2:
        return sum_test(
            [float(hit @ weights / weights.sum()) for hit, (weights, _) in zip(hits, sides, strict=True)],
            # a group counts as a single row
            [effective_rows(np.bincount(groups, weights).astype(np.float64)) for weights, groups in sides],
        )
    first, second = hits
    if plain:
        return excess_test(int(first.sum()), len(first), int((~second).sum()), len(second))
    return score_test((first, *sides[0]), (~second, *sides[1]))


class Instruments:
    """Instrumental inequalities that a graph implies for a dataset, for each triple of columns.

    The cause is categorical. A numeric instrument or outcome is divided at its quartiles.

    Args:
        graph: The graph.
        dataset: The rows; edges into its targets are removed from the graph.
        schema: Kinds and levels.
        several: Whether there are several datasets, so that messages name this dataset.
    """

    def __init__(self, graph: ADMG, dataset: Dataset, schema: Schema, *, several: bool) -> None:
        self._dataset, self._schema = dataset, schema
        self._where = f" in {dataset.name}" if several else ""
        cut = graph.intervene(dataset.do).latent_projection(columns_of(dataset, schema), shared=True)
        if len(dataset.do) > 1:
            # the experimenter chooses the joint distribution of several targets
            latents = dict(cut.latents)
            name = fresh_name((dataset.do[0], dataset.do[1]), {*cut.nodes, *latents})
            cut = ADMG(cut.nodes, cut.directed, cut.bidirected, latents | {name: tuple(dataset.do)})
        self._triples = [
            (z, x, y)
            for z, x, y in instruments(cut)
            if schema[x].kind == "categorical" and schema[z].size is None and schema[y].size is None
        ]
        self.count = len(self._triples)

    def outcome(self, number: int) -> CheckOutcome:
        """Run test ``number``, from 0 to ``count - 1``."""
        z, x, y = self._triples[number]
        variables = {name: self._schema[name] for name in (z, x, y)}
        values = encode(self._dataset, variables)
        codes, texts = {}, {}
        for name, variable in variables.items():
            (codes[name],), texts[name] = levels_of(variable, [values[name]])
        result = instrumental_test(codes[z], codes[x], codes[y], self._dataset.weights, self._dataset.groups)
        if result is None:
            return CheckOutcome(untested=f"that {z} acts on {y} only through {x}{self._where}")
        inequality = result.pop("inequality")
        terms = []
        for level, event in inequality.events:
            parts = [
                f"{texts[x][cause]}, {_any_of(y, list(itertools.compress(texts[y], event[cause])))}"
                for cause in np.flatnonzero(event.any(axis=1))
            ]
            terms.append(f"P({' or '.join(parts)} | {texts[z][level]})")
        detail = f"{' + '.join(terms)} = {inequality.sum:.3f} against at most {inequality.bound}"
        names = {"dataset": str(self._dataset.name), "x": x, "y": y, "given": (z,)}
        return CheckOutcome({"kind": "instrument", **names, **result, "detail": detail})


def _any_of(name: str, texts: Sequence[str]) -> str:
    """Text of the event that a variable is in a set of levels."""
    if len(texts) == 1:
        return texts[0]
    return f"{name} in {{{', '.join(text.removeprefix(f'{name}=') for text in texts)}}}"
