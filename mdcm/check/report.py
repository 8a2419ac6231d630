"""Data against a graph: every independence that it implies tested, and what was found, worst first."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.check.independences import Separators
from mdcm.check.statistics import centred, covariance_test, products, regressed, table_test
from mdcm.data import Dataset, encode, validate
from mdcm.graph import ADMG
from mdcm.schema import Schema
from mdcm.variables import listing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.check.independences import Independence
    from mdcm.variables import Variable

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["Check", "check"]

COLUMNS = (
    "dataset", "x", "y", "given", "test", "statistic", "dof", "p", "log10_p", "adjusted_p", "effect", "rejected",
)  # fmt: skip

_SHOWN = 10
# fewer rows than this show nothing
_FEWEST_UNITS = 30
# a residual test keeps this many levels apart, and those this frequent; others are pooled
_MOST_LEVELS = 6
_RARE_LEVEL = 20
# rows per coefficient of a regression, and per product of residuals
_ROWS_PER_FEATURE = 20
_ROWS_PER_PRODUCT = 10
_MOST_RAMPS = 60
# what is left of a variable that others determine, of variance 1 before
_DETERMINED = 1e-8


@dataclass(frozen=True)
class Check:
    """What :func:`check` found.

    Attributes:
        table: One row per test, the smallest p first: the dataset, the pair x and y, the
            names ``given``, the test ("table" or "residuals"), its statistic and degrees of freedom, p and its
            decimal logarithm (which does not underflow), Holm's adjusted p, the effect (conditional mutual
            information in nats per row, less what chance adds to it), and whether the independence is rejected.
        level: The probability with which a true graph has any rejection is at most this.
        notes: Sentences on what could not be tested, and why.
    """

    table: pd.DataFrame
    level: float
    notes: tuple[str, ...] = ()

    @property
    def rejected(self) -> pd.DataFrame:
        """The rows of the table whose independence is rejected."""
        return self.table[self.table["rejected"]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: level, number of tests and of rejections, the table's rows and the notes."""
        rows = [{**row, "given": list(row["given"])} for row in self.table.to_dict("records")]
        return {
            "level": self.level,
            "tests": len(rows),
            "rejected": len(self.rejected),
            "table": rows,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        count, bad = len(self.table), self.rejected
        several = self.table["dataset"].nunique() > 1
        tests = f"{count:,} independence{'s' if count != 1 else ''} tested"
        if not count:
            lines = ["nothing to test: these data cannot contradict the independences that the graph implies"]
        elif bad.empty:
            least = self.table["adjusted_p"].min()
            lines = [f"{tests}, none rejected at level {self.level:g} (smallest adjusted p = {least:.2g})"]
        else:
            lines = [f"{tests}, {len(bad):,} rejected at level {self.level:g}, worst first:"]
            rows = bad.head(_SHOWN).to_dict("records")
            lines += [f"  {k}. {_sentence(row, show_dataset=several)}" for k, row in enumerate(rows, start=1)]
            if len(bad) > _SHOWN:
                lines.append(f"  ... and {len(bad) - _SHOWN:,} more")
            if len(bad) > 1:
                lines.append("one missing edge can break several: mend the first, then check again")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def check(
    graph: ADMG | str,
    data: pd.DataFrame | Mapping[str, Any] | Dataset | Sequence[Dataset | pd.DataFrame],
    *,
    level: float = 0.05,
    variables: Mapping[str, Variable | Mapping[str, Any]] | None = None,
    max_tests: int = 10_000,
    seed: int = 0,
) -> Check:
    """Tests the independences that a graph implies on data, with Holm's correction over all tests.

    That nothing is rejected does not prove the graph: others imply the same independences, and an edge too many is
    never noticed.

    Categorical pairs given categorical variables: the sum over strata of Pearson's statistic, rare levels weighted
    down, with the tail of a scaled χ² distribution of the same mean and variance given the margins; both are exact,
    so sparse strata do no harm. Others:
    a continuous variable is replaced by its normal scores, a categorical one by indicators of its levels, both are
    regressed on splines and indicators of ``given``, and the products of residuals (for continuous variables also of a
    wave of their ranks, which shows spread) have mean zero if the independence holds and the regressions can express
    the means. Weights and groups of rows go into the regressions
    and into the covariance of the products, so these pairs are always tested by residuals.

    Args:
        graph: The graph, or its text.
        data: One table or dataset, or several. One under do() is tested on the graph without edges into its targets.
            Variables without a column count as hidden; so do images, which are not tested.
        level: Probability of any rejection at all if the graph is right.
        variables: Kinds and levels that overrule what the columns show, as in :meth:`Schema.infer`.
        max_tests: How many independences are tested at most. Where there are more, pairs are drawn at random: a
            missing edge breaks the independences of descendants too, so that a sample finds a wrong graph without
            a guess about where.
        seed: Seed of that choice.

    Returns:
        The tests, worst first, which is by the logarithm of p. Where one edge is missing, its own pair usually comes
        first: information that only passes through it is smaller.

    Raises:
        DataError: If the data cannot be used.
        GraphError: If the text is no graph.
        ValueError: If level is not in (0, 1) or max_tests is not positive.

    Warns:
        UserWarning: About columns that are ignored or constant, and levels in one dataset only.

    Complexity:
        O(rows log rows) per test of categorical variables, O(rows · coefficients²) per test by residuals; memory of
        8 bytes per pair of columns.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure;
        Kazi-Aoual, Hitier, Sabatier & Lebreton (1995), Refined approximations to permutation tests for multivariate
        inference (mean and variance of the statistic of tables);
        Shah & Peters (2020), The hardness of conditional independence testing and the generalised covariance measure,
        https://doi.org/10.1214/19-AOS1857.

    Example:
        >>> from mdcm.scm import random_discrete
        >>> table = random_discrete(ADMG.from_string("X -> Z -> Y; X -> Y"), levels=2, seed=3).sample(2_000)
        >>> found = check("X -> Z -> Y", table)
        >>> found.rejected[["x", "y", "given"]].values.tolist()
        [['X', 'Y', ('Z',)]]
        >>> check("X -> Z -> Y; X -> Y", table).table.empty
        True
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if max_tests < 1:
        raise ValueError(f"max_tests must be positive, not {max_tests}")
    graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
    datasets = validate(data, graph.nodes, unobserved=graph.nodes)
    schema = Schema.infer(datasets, variables)
    parts = [_Part(graph, dataset, schema) for dataset in datasets]
    notes = _notes_on_columns(graph, schema)

    # pairs of all datasets under one numbering, in order unless they are too many
    ends = np.cumsum([part.num_pairs for part in parts])
    total = int(ends[-1])
    order: Sequence[int] | Codes = range(total)
    if total > max_tests:
        order = np.random.default_rng(seed).permutation(total)
    tests: list[dict[str, Any]] = []
    inseparable: list[str] = []
    without: list[str] = []
    for number in order:
        if len(tests) == max_tests:
            notes.append(f"{len(tests):,} tests, the most that were asked for, of pairs drawn at random from {total:,}")
            break
        k = int(np.searchsorted(ends, number, side="right"))
        part = parts[k]
        earlier, later = _pair(int(number) - int(ends[k]) + part.num_pairs)
        found = part.separators.independence(earlier, later)
        where = f" in {part.name}" if len(parts) > 1 else ""
        if found is None:
            if not part.separators.adjacent(earlier, later):
                inseparable.append(" and ".join(part.names(earlier, later)) + where)
            continue
        result = part.test(found)
        if result is None:
            without.append(f"{found}{where}")
            continue
        names = {"dataset": part.name, "x": found.x, "y": found.y, "given": found.given}
        tests.append({**names, **result})
    if inseparable:
        notes.append(
            f"no set of observed variables separates {_some(inseparable, 'pair')} without an edge, so the graph "
            "implies no independence of them"
        )
    if without:
        notes.append(f"too few rows, or too little variation, to test {_some(without, 'independence')}")
    return Check(_ranked(tests, level), level, tuple(notes))


def _notes_on_columns(graph: ADMG, schema: Schema) -> list[str]:
    notes = []
    images = [name for name in schema if schema[name].kind == "image"]
    if images:
        notes.append(f"images are not tested and count as hidden: {listing(images)}")
    hidden = [name for name in graph.nodes if name not in schema]
    if hidden:
        notes.append(f"variables without a column count as hidden: {listing(hidden)}")
    return notes


def _some(what: Sequence[str], noun: str, most: int = 3) -> str:
    more = f", ... ({len(what):,} in all)" if len(what) > most else ""
    return f"the {noun}{'s' if len(what) > 1 else ''} {'; '.join(what[:most])}{more}"


def _pair(number: int) -> tuple[int, int]:
    """The number-th pair (earlier, later) in the order (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    later = (1 + math.isqrt(8 * number + 1)) // 2
    return number - later * (later - 1) // 2, later


def _ranked(tests: list[dict[str, Any]], level: float) -> pd.DataFrame:
    """The tests with Holm's adjusted p, the strongest evidence first."""
    logs = np.array([test["log_p"] for test in tests])
    order = np.argsort(logs, kind="stable")
    # in logarithms, since p underflows; Holm's steps are monotone by the running maximum
    adjusted = np.empty(len(tests))
    steps = logs[order] + np.log(np.arange(len(tests), 0, -1))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 0.0) if len(tests) else 0.0
    rejected = adjusted <= math.log(level)
    for k, test in enumerate(tests):
        log_p = test.pop("log_p")
        test |= {"p": math.exp(log_p), "log10_p": log_p / math.log(10), "adjusted_p": math.exp(adjusted[k])}
        test["rejected"] = bool(rejected[k])
    tests.sort(key=lambda test: (test["log10_p"], -test["effect"]))
    table = pd.DataFrame(tests, columns=list(COLUMNS))
    return table.astype({"rejected": bool})


def _sentence(row: Mapping[Any, Any], *, show_dataset: bool) -> str:
    """One rejection in words."""
    x, y = row["x"], row["y"]
    given = f" given {', '.join(row['given'])}" if row["given"] else ""
    where = f"in {row['dataset']}, " if show_dataset else ""
    return (
        f"{where}the graph says {x} is independent of {y}{given}; the data say otherwise "
        f"(p = {_p_text(row['log10_p'])}, {row['effect']:.2g} nats per row): "
        f"perhaps an edge or a hidden common cause is missing between {x} and {y}"
    )


def _p_text(log10_p: float) -> str:
    """A probability in text, also where it is too small for a number."""
    if log10_p > -5:
        return f"{10**log10_p:.2g}"
    exponent = math.floor(log10_p)
    return f"{10 ** (log10_p - exponent):.1f}e{exponent}"


class _Part:
    """One dataset, its columns as the tests take them, and the separators of its graph."""

    def __init__(self, graph: ADMG, dataset: Dataset, schema: Schema) -> None:
        self.name = dataset.name or "d1"
        self.schema = schema
        self.weights = None if dataset.weights is None else dataset.weights / dataset.weights.mean()
        self.groups = dataset.groups
        kept = [name for name in dataset.columns if schema[name].kind != "image"]
        self.separators = Separators(graph, kept, dataset.do)
        self.num_pairs = len(kept) * (len(kept) - 1) // 2
        self._values = encode(dataset, {name: schema[name] for name in kept})
        self._scores: dict[str, Floats] = {}

    def names(self, earlier: int, later: int) -> tuple[str, str]:
        nodes, columns = self.separators.graph.nodes, self.separators.columns
        return nodes[columns[earlier]], nodes[columns[later]]

    def test(self, one: Independence) -> dict[str, Any] | None:
        """Statistic, degrees of freedom, log p and effect; None if the data cannot tell."""
        categorical = all(self.schema[name].kind == "categorical" for name in (one.x, one.y, *one.given))
        strata = self._strata(one.given) if categorical else None
        if strata is not None and self.weights is None and self.groups is None:
            return table_test(self._values[one.x], self._values[one.y], strata)
        return self._residual_test(one, strata)

    def _strata(self, given: Sequence[str]) -> Codes:
        """One number per combination of values."""
        strata = np.zeros(len(next(iter(self._values.values()))), dtype=np.int64)
        for name in given:
            strata = strata * self.schema[name].num_levels + self._values[name]
            # numbers stay below rows · levels
            strata = np.unique(strata, return_inverse=True)[1]
        return strata

    def _residual_test(self, one: Independence, strata: Codes | None) -> dict[str, Any] | None:
        columns = [self._contrasts(name) for name in (one.x, one.y)]
        units = len(columns[0]) if self.groups is None else int(self.groups.max()) + 1
        most = units // _ROWS_PER_FEATURE
        left: Callable[[Floats], Floats]
        if strata is not None and int(strata.max()) < most:
            fitted = int(strata.max()) + 1
            left = functools.partial(centred, strata=strata, weights=self.weights)
        else:
            features = self._features(one.given, most)
            if features is None:
                return None
            fitted = features.shape[1]
            left = functools.partial(regressed, features=features, weights=self.weights)
        residuals = [left(block) for block in columns]
        if any(not block.size or block.var() < _DETERMINED for block in residuals):
            return None
        for side, name in enumerate((one.x, one.y)):
            if self.schema[name].kind != "categorical":
                # a dependence of spread has no covariance; the wave of the residual's ranks shows it, and its mean is
                # a constant where noise is added, however the variable itself depends on what is given
                ranks = pd.Series(residuals[side][:, 0]).rank(pct=True).to_numpy()
                residuals[side] = np.hstack([residuals[side], left(np.cos(2 * np.pi * ranks)[:, None])])
        num_products = residuals[0].shape[1] * residuals[1].shape[1]
        if units < max(_FEWEST_UNITS, _ROWS_PER_PRODUCT * num_products):
            return None
        return covariance_test(residuals[0], residuals[1], fitted, self.weights, self.groups)

    def _normal_scores(self, name: str) -> Floats:
        if name not in self._scores:
            values = self._values[name]
            ranks = pd.Series(values).rank().to_numpy(dtype=np.float64)
            inverse = NormalDist().inv_cdf
            self._scores[name] = np.array([inverse(u) for u in ((ranks - 0.5) / len(ranks)).tolist()])
        return self._scores[name]

    def _indicators(self, name: str, *, pooled: bool) -> Floats:
        """One column per level but one: every level, or the frequent ones with the others pooled."""
        codes = self._values[name]
        counts = np.bincount(codes, minlength=self.schema[name].num_levels)
        least, most = (_RARE_LEVEL, _MOST_LEVELS) if pooled else (1, len(counts))
        kept = [int(level) for level in np.argsort(-counts, kind="stable") if counts[level] >= least][:most]
        if len(codes) - counts[kept].sum() < least:
            kept = kept[:-1]
        return np.asarray((codes[:, None] == np.array(kept, dtype=np.int64)).astype(np.float64))

    def _contrasts(self, name: str) -> Floats:
        """What of a variable is regressed on others: normal scores, or indicators of levels."""
        if self.schema[name].kind == "categorical":
            return self._indicators(name, pooled=True)
        return self._normal_scores(name)[:, None]

    def _features(self, given: Sequence[str], most: int) -> Floats | None:
        """Regressors ``[n, k]``: a constant, splines and indicators, and products of pairs where rows are enough."""
        n = len(next(iter(self._values.values())))
        knots = int(np.clip(round(n ** (1 / 3) / 2), 2, 9))
        single: list[Floats] = [np.ones((n, 1))]
        leading: list[Floats] = []
        for name in given:
            if self.schema[name].kind == "categorical":
                single.append(self._indicators(name, pooled=False))
                leading.append(single[-1])
                continue
            scores = self._normal_scores(name)
            places = [NormalDist().inv_cdf((k + 1) / (knots + 1)) for k in range(knots)]
            hinges = np.maximum(scores[:, None] - np.array(places), 0.0)
            single.append(np.hstack([scores[:, None], hinges]))
            leading.append(np.stack([scores, np.maximum(scores, 0.0)], axis=1))
        size = sum(block.shape[1] for block in single)
        if size > most:
            return None
        for i, first in enumerate(leading):
            for second in leading[:i]:
                size += first.shape[1] * second.shape[1]
                if size <= most:
                    single.append(products(first, second))
        if len(given) > 1 and size < most:
            # ramps in random directions: what no sum of functions of one or two variables is
            blocks = np.hstack(leading)
            ramps = min(most - size, _MOST_RAMPS)
            rng = np.random.default_rng(len(given))
            directions = rng.normal(size=(blocks.shape[1], ramps)) / math.sqrt(len(given))
            single.append(np.maximum(blocks @ directions + rng.normal(size=ramps), 0.0))
        return np.hstack(single)
