"""Instruments, and the inequalities that show whether they are any."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.checking.sources import Outcome, columns_of, levels_of
from mdcm.checking.statistics import FEWEST_UNITS, effective_rows, excess_test, score_test, sum_test
from mdcm.data import encode
from mdcm.edges import fresh_name
from mdcm.graph import ADMG

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Dataset
    from mdcm.schema import Schema

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]
    Flags = NDArray[np.bool_]

__all__ = [
    "Inequality", "Instruments", "bonets_inequalities", "instrumental_test", "instruments", "pearls_inequalities",
]  # fmt: skip


def instruments(graph: ADMG) -> list[tuple[str, str, str]]:
    """Triples (z, x, y) in which z is an instrument for the effect of x on y, all of them hidden causes apart.

    Given x, z and y are dependent through a hidden cause of x and y, so that no independence is implied of them; and
    yet what y would be if x were set is independent of z.

    Args:
        graph: The graph, of observed variables alone.

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
    place = {name: k for k, name in enumerate(graph.nodes)}
    triples = []
    for component in graph.c_components():
        if len(component) < 2:
            continue
        for x in sorted(component, key=place.__getitem__):
            below = graph.descendants(x)
            outcomes = sorted((below & component) - {x}, key=place.__getitem__)
            causes = sorted((graph.parents(x) | graph.siblings(x)) - below, key=place.__getitem__)
            if not outcomes or not causes:
                continue
            # x as it comes by itself, apart from x as it is set: its own arrows belong to the latter
            natural = ADMG(
                graph.nodes, [edge for edge in graph.directed if edge[0] != x], graph.bidirected, dict(graph.latents)
            )
            for z, y in itertools.product(causes, outcomes):
                if z != y and natural.m_separated(z, y):
                    triples.append((z, x, y))
    return triples


@dataclass(frozen=True, eq=False)
class Inequality:
    """That events of x and y, one for each of several values of the instrument, have no more than so much in all.

    Attributes:
        events: The value of the instrument, and which levels of x and y the event holds, bool ``[causes, outcomes]``.
        sum: Sum of their shares.
        bound: What it cannot exceed.
        comparisons: Inequalities of its kind, of which this one is violated most.
    """

    events: tuple[tuple[int, Flags], ...]
    sum: float
    bound: int
    comparisons: int


def pearls_inequalities(shares: Mapping[int, Floats]) -> Iterator[Inequality]:
    """Of every two values of the instrument and level of x the sets B with the largest P(x, B | z) + P(x, not B | z').

    Were x set, y would be in B with a probability of at least the first term, and not with one of at least the second,
    whatever z: together they are at most 1. If y has two levels, these are all the inequalities that Pearl gives.

    Args:
        shares: P(x, y | z), ``[causes, outcomes]``, for each value z.

    References:
        Pearl (1995), On the testability of causal models with latent and instrumental variables.

    Example:
        >>> shares = {0: np.array([[0.9, 0.0], [0.1, 0.0]]), 1: np.array([[0.0, 0.9], [0.1, 0.0]])}
        >>> [round(one.sum, 3) for one in pearls_inequalities(shares)]
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
    """The same of three values of the instrument and two levels of x, whose events have at most 2 in all.

    P(x, B | z) + P(x, not B or x', B' | z') + P(x, not B or x', not B' | z'') is at most 2. Take a unit by what y would
    be were x or x' set. If y(x) is not in B, the first event does not happen, whatever x comes to be. If it is and
    y(x') is not in B', the second does not; if it is and y(x') is in B', the third does not. So no unit, had it each
    value of the instrument in turn, is in all three. For two levels of x and y and three values these inequalities and
    Pearl's are all that there is; of larger tables there is more.

    Args:
        shares: P(x, y | z), ``[causes, outcomes]``, for each value z.

    References:
        Bonet (2001), Instrumentality tests revisited, https://arxiv.org/abs/1301.2258 (two levels, three values; the
        proof here holds for any number).

    Example:
        >>> shares = {0: np.array([[0.0, 1.0], [0.0, 0.0]]), 1: np.array([[0.5, 0.0], [0.5, 0.0]])}
        >>> shares[2] = np.array([[0.5, 0.0], [0.0, 0.5]])
        >>> max(one.sum for one in pearls_inequalities(shares)), max(one.sum for one in bonets_inequalities(shares))
        (1.5, 3.0)
    """
    causes, sets = _counts(shares)
    comparisons = len(shares) * math.comb(len(shares) - 1, 2) * len(causes) * (len(causes) - 1) * sets**2
    for first in shares:
        for second, third in itertools.combinations([z for z in shares if z != first], 2):
            for cause, other in itertools.permutations(causes, 2):
                inside = shares[first][cause] > shares[second][cause] + shares[third][cause]
                parted = shares[second][other] > shares[third][other]
                events = {
                    first: _event(shares, (cause, inside)),
                    second: _event(shares, (cause, ~inside), (other, parted)),
                    third: _event(shares, (cause, ~inside), (other, ~parted)),
                }
                yield _inequality(shares, events, 2, comparisons)


def _counts(shares: Mapping[int, Floats]) -> tuple[list[int], int]:
    """Levels of x that occur, and sets of levels of y but the empty one and that of all."""
    total = np.sum(list(shares.values()), axis=0)
    return np.flatnonzero(total.sum(axis=1)).tolist(), 2 ** int((total.sum(axis=0) > 0).sum()) - 2


def _event(shares: Mapping[int, Floats], *parts: tuple[int, Flags]) -> Flags:
    """Levels of x, each with levels of y."""
    event = np.zeros(next(iter(shares.values())).shape, bool)
    for cause, among in parts:
        event[cause] = among
    return event


def _inequality(shares: Mapping[int, Floats], events: Mapping[int, Flags], bound: int, comparisons: int) -> Inequality:
    total = sum(float(shares[z][event].sum()) for z, event in events.items())
    return Inequality(tuple(events.items()), total, bound, comparisons)


def instrumental_test(
    z: Codes, x: Codes, y: Codes, weights: Floats | None = None, groups: Codes | None = None
) -> dict[str, Any] | None:
    """Pearl's inequalities for two values of the instrument, and where there are three, Bonet's for three.

    That the sum of two shares exceeds 1 is a comparison of two shares, which is exact; that of three is compared with 2
    by a score test. Of all levels and sets the most extreme is taken, and its p multiplied by their number; where both
    kinds are tested, each is given half of the level.

    Args:
        z: Levels of the instrument, ``[n]``. Those of fewer than 30 rows, or groups, are left out.
        x: Levels of the cause.
        y: Levels of the outcome.
        weights: Of the rows, or None.
        groups: Numbers of groups, or None.

    Returns:
        Statistic, degrees of freedom, log p and effect; and the :class:`Inequality` whose p is least as
        ``inequality``. None if fewer than two levels of z have rows enough, or y has one level.

    References:
        Pearl (1995), On the testability of causal models with latent and instrumental variables; Bonet (2001),
        Instrumentality tests revisited; Wang, Robins & Richardson (2017), On falsification of the binary instrumental
        variable model (two shares).
    """
    units = np.arange(len(z)) if groups is None else groups
    mass = np.ones(len(z)) if weights is None else weights
    rows = {int(level): np.flatnonzero(z == level) for level in np.unique(z)}
    rows = {level: own for level, own in rows.items() if len(np.unique(units[own])) >= FEWEST_UNITS}
    levels = int(y.max()) + 1
    if len(rows) < 2 or len(np.unique(y)) < 2:
        return None
    cells = (int(x.max()) + 1) * levels
    shares = {
        level: np.bincount(x[own] * levels + y[own], mass[own], cells).reshape(-1, levels) / mass[own].sum()
        for level, own in rows.items()
    }
    nothing: dict[str, Any] = {"test": "fisher", "statistic": 0.0, "dof": 1.0, "log_p": 0.0, "effect": 0.0}
    tests: list[dict[str, Any]] = []
    kinds = [found for found in (list(pearls_inequalities(shares)), list(bonets_inequalities(shares))) if found]
    for one in itertools.chain.from_iterable(kinds):
        test = nothing
        if one.sum > one.bound:
            hits = [event[x[rows[level]], y[rows[level]]] for level, event in one.events]
            sides = [
                (mass[rows[level]], np.unique(units[rows[level]], return_inverse=True)[1]) for level, _ in one.events
            ]
            test = _violation(hits, sides, plain=weights is None and groups is None)
        log_p = min(0.0, test["log_p"] + math.log(one.comparisons * len(kinds)))
        tests.append(test | {"log_p": log_p, "inequality": one})
    return min(tests, key=lambda test: (test["log_p"], test["inequality"].bound - test["inequality"].sum))


def _violation(hits: Sequence[Flags], sides: Sequence[tuple[Floats, Codes]], *, plain: bool) -> dict[str, Any]:
    """Whether the shares of some events have more in all than one less than their number."""
    if len(hits) > 2:
        return sum_test(
            [float(hit @ weights / weights.sum()) for hit, (weights, _) in zip(hits, sides, strict=True)],
            # rows of a group count as one
            [effective_rows(np.bincount(groups, weights).astype(np.float64)) for weights, groups in sides],
        )
    first, second = hits
    if plain:
        return excess_test(int(first.sum()), len(first), int((~second).sum()), len(second))
    return score_test((first, *sides[0]), (~second, *sides[1]))


class Instruments:
    """The instrumental inequalities that a graph implies of one dataset, one per triple of columns.

    The cause is categorical. An instrument or outcome that is a number is looked at by its quarters.

    Args:
        graph: The graph.
        dataset: The rows; of a graph without edges into what they set.
        schema: Kinds and levels.
        several: Whether there are others, so that this one has to be named.
    """

    def __init__(self, graph: ADMG, dataset: Dataset, schema: Schema, *, several: bool) -> None:
        self._dataset, self._schema = dataset, schema
        self._where = f" in {dataset.name}" if several else ""
        cut = graph.intervene(dataset.do).latent_projection(columns_of(dataset, schema), shared=True)
        if len(dataset.do) > 1:
            # how several were set together is the experimenter's choice
            latents = dict(cut.latents)
            name = fresh_name((dataset.do[0], dataset.do[1]), {*cut.nodes, *latents})
            cut = ADMG(cut.nodes, cut.directed, cut.bidirected, latents | {name: tuple(dataset.do)})
        self._triples = [
            (z, x, y)
            for z, x, y in instruments(cut)
            if schema[x].kind == "categorical" and schema[z].size is None and schema[y].size is None
        ]
        self.count = len(self._triples)

    def outcome(self, number: int) -> Outcome:
        """Of one of the ``count`` tests."""
        z, x, y = self._triples[number]
        variables = {name: self._schema[name] for name in (z, x, y)}
        values = encode(self._dataset, variables)
        codes, texts = {}, {}
        for name, variable in variables.items():
            (codes[name],), texts[name] = levels_of(variable, [values[name]])
        found = instrumental_test(codes[z], codes[x], codes[y], self._dataset.weights, self._dataset.groups)
        if found is None:
            return Outcome(untested=f"that {z} acts on {y} through {x} alone{self._where}")
        inequality = found.pop("inequality")
        terms = []
        for level, event in inequality.events:
            parts = [
                f"{texts[x][cause]}, {_any_of(y, list(itertools.compress(texts[y], event[cause])))}"
                for cause in np.flatnonzero(event.any(axis=1))
            ]
            terms.append(f"P({' or '.join(parts)} | {texts[z][level]})")
        detail = f"{' + '.join(terms)} = {inequality.sum:.3f} against at most {inequality.bound}"
        names = {"dataset": str(self._dataset.name), "x": x, "y": y, "given": (z,)}
        return Outcome({"kind": "instrument", **names, **found, "detail": detail})


def _any_of(name: str, texts: Sequence[str]) -> str:
    """Several levels of a variable in text."""
    if len(texts) == 1:
        return texts[0]
    return f"{name} in {{{', '.join(text.removeprefix(f'{name}=') for text in texts)}}}"
