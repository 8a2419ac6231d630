"""Instruments, and the inequality that shows whether they are any."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.checking.sources import Outcome, columns_of, levels_of
from mdcm.checking.statistics import FEWEST_UNITS, excess_test, score_test
from mdcm.data import encode
from mdcm.edges import fresh_name
from mdcm.graph import ADMG

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Dataset
    from mdcm.schema import Schema

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["Instruments", "instrumental_test", "instruments"]


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


def instrumental_test(
    z: Codes, x: Codes, y: Codes, weights: Floats | None = None, groups: Codes | None = None
) -> dict[str, Any] | None:
    """Pearl's inequality for two values of the instrument: P(x, B | z) + P(x, not B | z') is at most 1.

    Were x set, y would be in B with a probability of at least the first term, and not with one of at least the second,
    whatever z. That the first exceeds the complement of the second is a comparison of two shares, which is exact. Of
    all levels and sets B the most extreme is taken, and its p multiplied by their number. If y has two levels, these
    are all the inequalities that Pearl gives.

    Args:
        z: Levels of the instrument, ``[n]``. Those of fewer than 30 rows, or groups, are left out.
        x: Levels of the cause.
        y: Levels of the outcome.
        weights: Of the rows, or None.
        groups: Numbers of groups, or None.

    Returns:
        Statistic, degrees of freedom, log p and effect; and where p is least: the level of x as ``cause``, two of z as
        ``first`` and ``second``, the levels of y that go with the first as ``inside``, and the ``sum`` of the two
        shares. None if fewer than two levels of z have rows enough, or y has one level.

    References:
        Pearl (1995), On the testability of causal models with latent and instrumental variables;
        Wang, Robins & Richardson (2017), On falsification of the binary instrumental variable model (two shares).
    """
    units = np.arange(len(z)) if groups is None else groups
    mass = np.ones(len(z)) if weights is None else weights
    rows = {int(level): np.flatnonzero(z == level) for level in np.unique(z)}
    rows = {level: own for level, own in rows.items() if len(np.unique(units[own])) >= FEWEST_UNITS}
    levels, causes = int(y.max()) + 1, np.unique(x).tolist()
    seen = len(np.unique(y))
    if len(rows) < 2 or seen < 2:
        return None
    cells = (int(x.max()) + 1) * levels
    shares = {
        level: np.bincount(x[own] * levels + y[own], mass[own], cells).reshape(-1, levels) / mass[own].sum()
        for level, own in rows.items()
    }
    nothing: dict[str, Any] = {"test": "fisher", "statistic": 0.0, "dof": 1.0, "log_p": 0.0, "effect": 0.0}
    tests: list[dict[str, Any]] = []
    for (first, own), (second, other) in itertools.combinations(rows.items(), 2):
        for cause in causes:
            # the set of which the sum of the two shares is largest
            inside = shares[first][cause] > shares[second][cause]
            hits = (x[own] == cause) & inside[y[own]]
            misses = (x[other] != cause) | inside[y[other]]
            total = float(np.maximum(shares[first][cause], shares[second][cause]).sum())
            if total <= 1:
                test = nothing
            elif weights is None and groups is None:
                test = excess_test(int(hits.sum()), len(hits), int(misses.sum()), len(misses))
            else:
                sides = [
                    (marked, mass[part], np.unique(units[part], return_inverse=True)[1])
                    for marked, part in ((hits, own), (misses, other))
                ]
                test = score_test(*sides)
            where = {"cause": cause, "first": first, "second": second, "inside": inside, "sum": total}
            tests.append(test | where)
    best = min(tests, key=lambda test: (test["log_p"], -test["sum"]))
    comparisons = len(causes) * math.comb(len(rows), 2) * (2**seen - 2)
    return best | {"log_p": min(0.0, best["log_p"] + math.log(comparisons))}


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
        cause, first, second = (found.pop(key) for key in ("cause", "first", "second"))
        inside, total = found.pop("inside"), found.pop("sum")
        detail = " + ".join(
            f"P({texts[x][cause]}, {_any_of(y, list(itertools.compress(texts[y], among)))} | {texts[z][level]})"
            for level, among in ((first, inside), (second, ~inside))
        )
        names = {"dataset": str(self._dataset.name), "x": x, "y": y, "given": (z,)}
        return Outcome({"kind": "instrument", **names, **found, "detail": f"{detail} = {total:.3f}"})


def _any_of(name: str, texts: Sequence[str]) -> str:
    """Several levels of a variable in text."""
    if len(texts) == 1:
        return texts[0]
    return f"{name} in {{{', '.join(text.removeprefix(f'{name}=') for text in texts)}}}"
