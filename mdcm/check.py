"""Whether data contradict a graph: the independences that it implies, each tested, the worst violation first.

One independence per pair of variables that the graph separates. Two categorical variables given categorical ones are
compared by tables within strata, whose statistic has a mean and variance that are known exactly; all other pairs by
the covariances of what regressions on the separating variables leave.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.data import Dataset, encode, validate
from mdcm.graph import ADMG
from mdcm.schema import Schema
from mdcm.variables import listing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.variables import Variable

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["Check", "Independence", "check", "implied_independences"]

COLUMNS = (
    "dataset", "x", "y", "given", "test", "statistic", "dof", "p", "log10_p", "adjusted_p", "effect", "rejected",
)  # fmt: skip

_SHOWN = 10
# fewer rows than this show nothing, neither in a stratum (where the variance has no formula) nor in all
_STRATUM_ROWS = 4
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
_TINY = 1e-300


@dataclass(frozen=True)
class Independence:
    """A statement that a graph implies: x and y are independent given the variables in ``given``.

    Attributes:
        x: Name of the variable that is earlier in topological order.
        y: Name of the later one.
        given: Names of the separating variables, in the order of the graph's nodes.

    Example:
        >>> str(Independence("X", "Y", ("Z",)))
        'X ⊥ Y | Z'
    """

    x: str
    y: str
    given: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.x} ⊥ {self.y}" + (f" | {', '.join(self.given)}" if self.given else "")


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


def implied_independences(
    graph: ADMG, columns: Collection[str] | None = None, *, do: Collection[str] = ()
) -> Iterator[Independence]:
    """One independence per pair of observed variables that the graph separates by observed variables.

    Of the pair, y is the later in topological order. The separating set is what remains of y's Markov blanket among
    the ancestors of the pair when only those members are kept that a path from x reaches first. No member can be
    left out of it. In a DAG whose variables are all observed it consists of parents of y, so the list implies, by the
    rules of compositional graphoids, the ordered Markov property and with it every independence of the graph. Two
    variables may have no edge and yet be inseparable, by an inducing path; the graph implies no independence of them.

    Args:
        graph: The graph.
        columns: Names of the observed variables; all of them by default.
        do: Variables set by intervention. Edges into them are removed. How several were set together is the
            experimenter's choice, so pairs among them are left out, and others are conditioned on where that matters.

    Yields:
        Independences, in the order of the later and then the earlier variable.

    Raises:
        GraphError: If a name is unknown.

    Complexity:
        O(nodes + edges) among the ancestors of each pair.

    References:
        Richardson (2003), Markov properties for acyclic directed mixed graphs, section 3;
        Sadeghi & Lauritzen (2014), Markov properties for mixed graphs (compositional graphoids);
        van der Zander, Liśkiewicz & Textor (2019), Separators and adjustment sets in causal graphs.

    Example:
        >>> [str(one) for one in implied_independences(ADMG.from_string("A -> B -> C; A -> D <- C; B <-> D"))]
        ['A ⊥ C | B']
        >>> [str(one) for one in implied_independences(ADMG.from_string("X -> Z -> Y; X <-> Y"), do=["X"])]
        ['X ⊥ Y | Z']
    """
    separators = _Separators(graph, graph.nodes if columns is None else columns, do)
    for later in range(len(separators.columns)):
        for earlier in range(later):
            found = separators.independence(earlier, later)
            if found is not None:
                yield found


class _Separators:
    """Separating sets in the moral graph of a pair's ancestors, where confounders are hidden nodes.

    A set of ancestors m-separates a pair if and only if it cuts every path in that graph, and a pair that can be
    separated can be so by ancestors. The moral graph is never built: two nodes are neighbours if they belong to one
    family, which is a node with its parents and confounders.
    """

    def __init__(self, graph: ADMG, columns: Collection[str], do: Collection[str]) -> None:
        cut = graph.intervene(do)
        self.graph = graph
        observed = {graph.index(name) for name in columns}
        # in topological order, so that of two places the larger is the later variable
        self.columns = [v for v in map(graph.index, cut.topological_order()) if v in observed]
        self._observed = observed
        self._parents = [sorted(map(graph.index, cut.parents(name))) for name in graph.nodes]
        hidden = [children for _, children in cut.confounders]
        if len(do) > 1:
            hidden.append(tuple(do))
        n = len(graph.nodes)
        self._families: list[list[int]] = [[v, *parents] for v, parents in enumerate(self._parents)]
        # families that a node belongs to, by the node that each is named after
        self._member: list[list[int]] = [[v] for v in range(n)] + [[] for _ in hidden]
        for v, parents in enumerate(self._parents):
            for parent in parents:
                self._member[parent].append(v)
        for k, children in enumerate(hidden, start=n):
            for child in map(graph.index, children):
                self._families[child].append(k)
                self._member[k].append(child)

    def independence(self, earlier: int, later: int) -> Independence | None:
        """The pair at two places of ``columns``, or None if it is adjacent or cannot be separated."""
        x, y = self.columns[earlier], self.columns[later]
        if x in self._parents[y]:
            return None
        within = self._ancestors(x, y)
        blanket = self._reach(y, self._observed, within)
        if x in blanket:
            return None
        given = sorted(self._reach(x, blanket, within))
        nodes = self.graph.nodes
        return Independence(nodes[x], nodes[y], tuple(nodes[v] for v in given))

    def adjacent(self, earlier: int, later: int) -> bool:
        """Whether an edge or a confounder joins the pair."""
        x, y = self.columns[earlier], self.columns[later]
        n = len(self.graph.nodes)
        hidden = {u for u in self._families[y] if u >= n}
        return x in self._parents[y] or not hidden.isdisjoint(self._families[x])

    def _ancestors(self, x: int, y: int) -> set[int]:
        found, pending = {x, y}, [x, y]
        while pending:
            for parent in self._parents[pending.pop()]:
                if parent not in found:
                    found.add(parent)
                    pending.append(parent)
        return found

    def _reach(self, start: int, stops: Collection[int], within: set[int]) -> set[int]:
        """The stops that moral paths from the start reach first."""
        reached, seen, families, pending = set(), {start}, set(), [start]
        while pending:
            for family in self._member[pending.pop()]:
                if family not in within or family in families:
                    continue
                families.add(family)
                for v in self._families[family]:
                    if v in seen:
                        continue
                    seen.add(v)
                    if v in stops:
                        reached.add(v)
                    else:
                        pending.append(v)
        return reached


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
        self.separators = _Separators(graph, kept, dataset.do)
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
            return _table_test(self._values[one.x], self._values[one.y], strata)
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
            left = functools.partial(_centred, strata=strata, weights=self.weights)
        else:
            features = self._features(one.given, most)
            if features is None:
                return None
            fitted = features.shape[1]
            left = functools.partial(_regressed, features=features, weights=self.weights)
        residuals = [left(block) for block in columns]
        if any(not block.size or block.var() < _DETERMINED for block in residuals):
            return None
        for side, name in enumerate((one.x, one.y)):
            if self.schema[name].kind != "categorical":
                # a dependence of spread has no covariance; the wave of the residual's ranks shows it, and its mean is
                # a constant where noise is added, however the variable itself depends on what is given
                ranks = pd.Series(residuals[side][:, 0]).rank(pct=True).to_numpy()
                residuals[side] = np.hstack([residuals[side], left(np.cos(2 * np.pi * ranks)[:, None])])
        products = residuals[0].shape[1] * residuals[1].shape[1]
        if units < max(_FEWEST_UNITS, _ROWS_PER_PRODUCT * products):
            return None
        return _covariance_test(residuals[0], residuals[1], fitted, self.weights, self.groups)

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
                    single.append(_products(first, second))
        if len(given) > 1 and size < most:
            # ramps in random directions: what no sum of functions of one or two variables is
            blocks = np.hstack(leading)
            ramps = min(most - size, _MOST_RAMPS)
            rng = np.random.default_rng(len(given))
            directions = rng.normal(size=(blocks.shape[1], ramps)) / math.sqrt(len(given))
            single.append(np.maximum(blocks @ directions + rng.normal(size=ramps), 0.0))
        return np.hstack(single)


def _products(a: Floats, b: Floats) -> Floats:
    """All products of a column of ``a`` and one of ``b``, ``[n, p · q]``."""
    return np.asarray((a[:, :, None] * b[:, None, :]).reshape(len(a), -1))


def _table_test(x: Codes, y: Codes, strata: Codes) -> dict[str, Any] | None:
    """Pearson's statistic within strata, with less weight for rare levels, and its exact mean and variance.

    The statistic of a stratum of n rows is the sum of (O - E)^2 a b over the cells, where O is a cell's count, E the
    product of its margins r and c by n, a = 1 / (r + k), and b = 1 / (c + k); with k = 0 it is Pearson's by n. One row
    in a cell where next to none is expected would decide Pearson's alone, so k is the root of n by 2.
    """
    n, rows, columns, count = len(x), int(x.max()) + 1, int(y.max()) + 1, int(strata.max()) + 1
    cells, observed = np.unique((strata * rows + x) * columns + y, return_counts=True)
    row_totals = np.bincount(strata * rows + x, minlength=count * rows).reshape(count, rows)
    column_totals = np.bincount(strata * columns + y, minlength=count * columns).reshape(count, columns)
    where, row, column = cells // (rows * columns), cells // columns % rows, cells % columns
    size = row_totals.sum(axis=1).astype(np.float64)
    damping = np.sqrt(size)[:, None] / 2
    left, right = _Margin(row_totals, damping, size), _Margin(column_totals, damping, size)
    used = (size >= _STRATUM_ROWS) & (left.kinds > 1) & (right.kinds > 1)
    if not used.any():
        return None
    expected = row_totals[where, row] * column_totals[where, column] / size[where]
    information = np.bincount(where, observed * np.log(observed / expected), minlength=count)[used].sum() / n

    # (O - E)^2 over the cells that hold rows, and E^2 over all others
    weight = left.weights[where, row] * right.weights[where, column]
    differences = np.bincount(where, weight * ((observed - expected) ** 2 - expected**2), minlength=count)
    squares = (left.weights * row_totals**2).sum(axis=1) * (right.weights * column_totals**2).sum(axis=1) / size**2
    mean, variance = _permutation_moments(left, right, size, used)
    # strata count by their rows, as they do in Pearson's statistic
    statistic = float((size * (differences + squares))[used].sum())
    center, spread = float((size[used] * mean).sum()), float((size[used] ** 2 * variance).sum())
    if spread <= 1e-9 * center**2 / n:
        # every table with these margins has the same statistic
        return None
    dof = 2 * center**2 / spread
    statistic *= dof / center
    chance = ((left.kinds - 1) * (right.kinds - 1))[used].sum() / (2 * n)
    return {
        "test": "table",
        "statistic": statistic,
        "dof": dof,
        "log_p": log_gamma_tail(dof / 2, statistic / 2),
        "effect": max(0.0, float(information - chance)),
    }


class _Margin:
    """One variable's levels in every stratum, as the kernel that is a weight where two rows have the same level.

    Attributes:
        weights: Of the levels, ``[strata, levels]``.
        kinds: Number of levels that occur.
        trace: Of the kernel after centring, ``[strata]``.
        square: Sum of its squared entries.
        diagonal: Sum of its squared diagonal entries.
    """

    def __init__(self, totals: Codes, damping: Floats, size: Floats) -> None:
        self.weights: Floats = 1 / (totals + damping)
        self.kinds = (totals > 0).sum(axis=1)
        weighted, share = self.weights * totals, totals / size[:, None]
        inner = (weighted * totals).sum(axis=1) / size
        self.trace = (weighted * (1 - share)).sum(axis=1)
        self.square = inner**2 + (weighted**2 * (1 - 2 * share)).sum(axis=1)
        entries = self.weights * (1 - 2 * share) + (inner / size)[:, None]
        self.diagonal = (totals * entries**2).sum(axis=1)


def _permutation_moments(left: _Margin, right: _Margin, size: Floats, used: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and variance of the trace of the product of two centred kernels over all permutations of the rows."""
    n = size[used]
    mean = left.trace[used] * right.trace[used] / (n - 1)
    pairs, fourth = np.ones_like(n), np.ones_like(n)
    for side in (left, right):
        trace, square, diagonal = side.trace[used], side.square[used], side.diagonal[used]
        pairs *= (n - 1) * square - trace**2
        fourth *= n * (n + 1) * diagonal - (n - 1) * (trace**2 + 2 * square)
    variance = 2 * pairs / ((n - 1) ** 2 * (n + 1) * (n - 2)) + fourth / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return mean, variance


def _centred(columns: Floats, strata: Codes, weights: Floats | None) -> Floats:
    """Columns less their means within strata."""
    mass = np.bincount(strata, weights)
    sums = [
        np.bincount(strata, columns[:, j] if weights is None else columns[:, j] * weights)
        for j in range(columns.shape[1])
    ]
    return np.asarray(columns - np.stack([total / mass for total in sums], axis=1)[strata])


def _regressed(columns: Floats, features: Floats, weights: Floats | None) -> Floats:
    """Columns less their least-squares fit by the features."""
    weighted = features if weights is None else features * weights[:, None]
    gram = features.T @ weighted
    scale = 1 / np.sqrt(np.maximum(np.diag(gram), _TINY))
    inverse = np.linalg.pinv(gram * scale[:, None] * scale, rcond=1e-10, hermitian=True) * scale[:, None] * scale
    return np.asarray(columns - features @ (inverse @ (weighted.T @ columns)))


def _covariance_test(
    x: Floats, y: Floats, fitted: int, weights: Floats | None, groups: Codes | None
) -> dict[str, Any] | None:
    """Whether products of residuals have mean zero: Hotelling's statistic, over groups where rows have them."""
    n, p, q = len(x), x.shape[1], y.shape[1]
    scores = _products(x, y)
    if weights is not None:
        scores *= weights[:, None]
    if groups is not None:
        scores = np.stack([np.bincount(groups, scores[:, j]) for j in range(p * q)], axis=1)
    units = len(scores)
    mean = scores.mean(axis=0)
    # residuals are too small by what was fitted to them
    covariance = np.atleast_2d(np.cov(scores, rowvar=False)) * (n / (n - fitted))
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-9 * max(values.max(), _TINY)
    rank = int(kept.sum())
    if values.max() <= 1e-12 or units <= rank:
        return None
    squared = units * float((((mean @ vectors)[kept]) ** 2 / values[kept]).sum())
    log_p = log_f_tail(squared * (units - rank) / (rank * (units - 1)), rank, units - rank)
    both = np.hstack([x, y])
    moments = both.T @ (both if weights is None else both * weights[:, None]) / n
    inner = _log_determinant(moments[:p, :p]) + _log_determinant(moments[p:, p:]) - _log_determinant(moments)
    return {
        "test": "residuals",
        "statistic": squared,
        "dof": float(rank),
        "log_p": log_p,
        "effect": max(0.0, inner / 2 - rank / (2 * units)),
    }


def _log_determinant(matrix: Floats) -> float:
    """Of the correlations of what varies at all, so that the three determinants of one ratio fit."""
    ridge = 1e-9 * np.diag(np.maximum(np.diag(matrix), 1e-9))
    return float(np.linalg.slogdet(matrix + ridge)[1])


def log_gamma_tail(shape: float, x: float) -> float:
    """Log of P(G > x) for a gamma variable of unit scale, also where the probability underflows.

    Args:
        shape: Positive; half the degrees of freedom where x is half a χ² statistic.
        x: The value.

    References:
        Abramowitz & Stegun (1964), Handbook of Mathematical Functions, 6.5.29 and 6.5.31.

    Example:
        >>> round(log_gamma_tail(1.0, 5_000.0), 9)
        -5000.0
    """
    if x <= 0:
        return 0.0
    front = shape * math.log(x) - x - math.lgamma(shape)
    if x < shape + 1:
        term = total = 1 / shape
        k = shape
        while term > total * 1e-17:
            k += 1
            term *= x / k
            total += term
        return math.log(max(1 - math.exp(front + math.log(total)), _TINY))
    # the continued fraction by its convergents from the front (Lentz)
    b = x + 1 - shape
    c, d = 1 / _TINY, 1 / b
    fraction = d
    for k in range(1, 100_000):
        a = -k * (k - shape)
        b += 2
        d = 1 / _nonzero(a * d + b)
        c = _nonzero(b + a / c)
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(0.0, front + math.log(fraction))


def log_f_tail(x: float, upper: float, lower: float) -> float:
    """Log of P(F > x) for Fisher's F, also where the probability underflows.

    Args:
        x: The value.
        upper: Degrees of freedom of the numerator.
        lower: Degrees of freedom of the denominator.

    References:
        Abramowitz & Stegun (1964), Handbook of Mathematical Functions, 26.5.8 and 26.6.2.

    Example:
        >>> round(math.exp(log_f_tail(3.0, 2, 4)), 9)
        0.16
    """
    if x <= 0:
        return 0.0
    a, b = lower / 2, upper / 2
    inside, outside = lower / (lower + upper * x), upper * x / (lower + upper * x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(inside) + b * math.log(outside)
    if inside < (a + 1) / (a + b + 2):
        return min(0.0, front + math.log(_beta_fraction(a, b, inside) / a))
    return math.log(max(1 - math.exp(front) * _beta_fraction(b, a, outside) / b, _TINY))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (Lentz)."""
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _nonzero(1 + even * d)
        c = _nonzero(1 + even / c)
        fraction *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _nonzero(1 + odd * d)
        c = _nonzero(1 + odd / c)
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return fraction


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
