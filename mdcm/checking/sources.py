"""Numbered tests of the statements that a graph implies for a dataset or a pair of datasets."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mdcm.checking.independences import Separators
from mdcm.checking.rows import EncodedRows
from mdcm.checking.statistics import FEWEST_UNITS, excess_test, score_test
from mdcm.data import Dataset, decode, encode
from mdcm.data.variables import Variable
from mdcm.graph import ADMG

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.inference import Schema

    Codes = NDArray[np.int64]

__all__ = ["Across", "CheckOutcome", "Kind", "Within", "columns_of", "levels_of", "regimes"]

Kind = Literal["independence", "instrument", "invariance", "consistency"]

# largest number of settings of an experiment that are compared, and quantiles that divide numbers into levels
_MOST_SETTINGS = 20
_QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class CheckOutcome:
    """Outcome of a test: a row of the table, or the reason for its absence.

    Attributes:
        row: Kind, names and statistics; the logarithm of p as ``log_p``.
        inseparable: The pair, if no edge joins it but no set separates it.
        untested: The statement, if the rows are not sufficient to test it.
    """

    row: dict[str, Any] | None = None
    inseparable: str = ""
    untested: str = ""


class Within:
    """Independences that a graph implies for a dataset, for each pair of columns.

    Args:
        graph: The graph.
        dataset: The rows; edges into its targets are removed from the graph.
        schema: Kinds and levels.
        several: Whether there are several datasets, so that messages name this dataset.
    """

    def __init__(self, graph: ADMG, dataset: Dataset, schema: Schema, *, several: bool) -> None:
        self._name, self._where = str(dataset.name), f" in {dataset.name}" if several else ""
        kept = columns_of(dataset, schema)
        self._separators = Separators(graph, kept, dataset.do)
        variables = {name: schema[name] for name in kept}
        self._rows = EncodedRows(encode(dataset, variables), variables, dataset.weights, dataset.groups)
        self.count = len(kept) * (len(kept) - 1) // 2

    def outcome(self, number: int) -> CheckOutcome:
        """Run test ``number``, from 0 to ``count - 1``."""
        earlier, later = _pair(number)
        independence = self._separators.independence(earlier, later)
        if independence is None:
            if self._separators.adjacent(earlier, later):
                return CheckOutcome()
            nodes, columns = self._separators.graph.nodes, self._separators.columns
            return CheckOutcome(inseparable=f"{nodes[columns[earlier]]} and {nodes[columns[later]]}{self._where}")
        result = self._rows.test(independence)
        if result is None:
            return CheckOutcome(untested=f"{independence}{self._where}")
        names = {"dataset": self._name, "x": independence.x, "y": independence.y, "given": independence.given}
        return CheckOutcome({"kind": "independence", **names, **result, "detail": ""})


def regimes(graph: ADMG, first: Sequence[str], second: Sequence[str]) -> tuple[ADMG, str]:
    """The graph of the pooled rows of two datasets, with a regime indicator: a node for the choice of the dataset.

    A variable that is separated from this node given others has the same conditional distribution in both datasets.
    The node has an arrow to every target of either dataset, because the datasets differ in whether and how they set it.
    Only targets of both datasets lose their parents. The joint choice of several targets opens no path that the
    arrows from the node do not open.

    Args:
        graph: The graph.
        first: Targets of the first dataset.
        second: Targets of the second.

    Returns:
        The graph, and the name of the node, which comes first in the graph.

    References:
        Dawid (2002), Influence diagrams for causal modelling and inference (regime indicators);
        Mooij, Magliacane & Claassen (2020), Joint causal inference from multiple contexts.

    Example:
        >>> both, name = regimes(ADMG.from_string("X -> Z -> Y; X <-> Y"), [], ["X"])
        >>> both.to_string()
        'dataset -> X -> Z -> Y; X <-> Y'
        >>> both.m_separated(name, "Z", given="X")
        True
    """
    name = "dataset"
    taken = {*graph.nodes, *(latent for latent, _ in graph.latents)}
    while name in taken:
        name += "_"
    cut = graph.intervene([target for target in first if target in second])
    targets = [node for node in graph.nodes if node in first or node in second]
    arrows = [*((name, target) for target in targets), *cut.directed]
    return ADMG([name, *graph.nodes], arrows, cut.bidirected, cut.latents), name


class Across:
    """Statements about two datasets, for any way in which their targets differ.

    Invariance: given variables that separate it from the regime indicator, a variable has the same distribution in
    both datasets. Consistency, if the targets of a dataset include those of the other and more: a unit whose natural
    value is T=t has the same outcome under do(T=t), so P(T=t, Y=y) is at most P(Y=y | do(T=t)) in every graph.

    Args:
        graph: The graph.
        first: First dataset.
        second: Second dataset.
        schema: Kinds and levels.

    References:
        Pearl (2009), Causality, 7.3.1 (composition and consistency).
    """

    def __init__(self, graph: ADMG, first: Dataset, second: Dataset, schema: Schema) -> None:
        self._graph, self._schema = graph, schema
        # the dataset with fewer targets comes first
        self._datasets = (first, second) if len(first.do) <= len(second.do) else (second, first)
        self._label = f"{first.name}, {second.name}"
        less, more = self._datasets
        shared = set(columns_of(less, schema)) & set(columns_of(more, schema))
        self._columns = [name for name in graph.nodes if name in shared]
        self._free = [name for name in self._columns if name not in less.do and name not in more.do]
        self._set = [name for name in more.do if name not in less.do]
        comparable = (
            len(self._set) > 0
            and set(less.do) <= set(more.do)
            and all(name in shared and schema[name].kind == "categorical" for name in more.do)
        )
        self._compared = [name for name in self._free if schema[name].size is None] if comparable else []
        self.count = len(self._free) + len(self._compared)

    def outcome(self, number: int) -> CheckOutcome:
        """Run test ``number``, from 0 to ``count - 1``."""
        if number < len(self._free):
            return self._invariance(self._free[number])
        return self._consistency(self._compared[number - len(self._free)])

    # ---- invariance

    @functools.cached_property
    def _separators(self) -> tuple[Separators, str]:
        graph, name = regimes(self._graph, self._datasets[0].do, self._datasets[1].do)
        return Separators(graph, [name, *self._columns], ()), name

    @functools.cached_property
    def _rows(self) -> EncodedRows:
        _, name = self._separators
        variables = {column: self._schema[column] for column in self._columns}
        parts = [encode(dataset, variables) for dataset in self._datasets]
        values = {column: np.concatenate([part[column] for part in parts]) for column in variables}
        values[name] = np.repeat([0, 1], [len(dataset) for dataset in self._datasets])
        weights = None
        if any(dataset.weights is not None for dataset in self._datasets):
            weights = np.concatenate([_weights(dataset) for dataset in self._datasets])
        groups = None
        if any(dataset.groups is not None for dataset in self._datasets):
            first, second = (_groups(dataset) for dataset in self._datasets)
            groups = np.concatenate([first, second + int(first.max()) + 1])
        return EncodedRows(values, {**variables, name: Variable(name, "categorical", levels=(0, 1))}, weights, groups)

    def _invariance(self, y: str) -> CheckOutcome:
        separators, name = self._separators
        nodes = separators.graph.nodes
        position = separators.columns.index(nodes.index(y))
        indicator = separators.columns.index(nodes.index(name))
        independence = separators.independence(min(indicator, position), max(indicator, position))
        if independence is None:
            return CheckOutcome()
        result = self._rows.test(independence)
        if result is None:
            return CheckOutcome(untested=f"{independence} of {self._label}")
        names = {"dataset": self._label, "x": name, "y": y, "given": independence.given}
        return CheckOutcome({"kind": "invariance", **names, **result, "detail": ""})

    # ---- consistency

    def _consistency(self, y: str) -> CheckOutcome:
        variable = self._schema[y]
        encoded = [encode(dataset, {y: variable})[y] for dataset in self._datasets]
        (observational, experimental), labels = levels_of(variable, encoded)
        best: tuple[float, dict[str, Any]] | None = None
        for arm in self._arms:
            for level, text in enumerate(labels):
                shares, test = arm.compare(observational == level, experimental == level)
                if best is None or test["log_p"] < best[0]:
                    best = (test["log_p"], {**test, "detail": self._detail(y, text, arm.setting, shares)})
        if best is None:
            return CheckOutcome(untested=f"{y} of {self._label}, under the targets that only one of them sets")
        log_p, row = best
        names = {"dataset": self._label, "x": ", ".join(self._set), "y": y, "given": ()}
        # Bonferroni's correction for the choice of the smallest p
        log_p += math.log(len(self._arms) * len(labels))
        return CheckOutcome({"kind": "consistency", **names, **row, "log_p": min(0.0, log_p)})

    @functools.cached_property
    def _arms(self) -> list[_Arm]:
        """Settings of the second dataset for which both have enough rows, the most frequent first."""
        targets = {name: self._schema[name] for name in self._datasets[1].do}
        less, more = (encode(dataset, targets) for dataset in self._datasets)
        values, counts = np.unique(np.stack([more[name] for name in targets], axis=1), axis=0, return_counts=True)
        arms = []
        for k in np.argsort(-counts, kind="stable")[:_MOST_SETTINGS]:
            setting = dict(zip(targets, values[k].tolist(), strict=True))
            common = _all((less[name] == value for name, value in setting.items() if name not in self._set), less.rows)
            natural = _all((less[name] == setting[name] for name in self._set), less.rows)
            assigned = _all((more[name] == value for name, value in setting.items()), more.rows)
            sides = [_Side(dataset, rows) for dataset, rows in zip(self._datasets, (common, assigned), strict=True)]
            if min(side.units for side in sides) >= FEWEST_UNITS:
                arms.append(_Arm(setting, natural, *sides))
        return arms

    def _detail(self, y: str, text: str, setting: Mapping[str, int], shares: tuple[float, float]) -> str:
        less, more = self._datasets
        named = {name: f"{name}={(self._schema[name].levels or ())[code]}" for name, code in setting.items()}
        natural = ", ".join(named[name] for name in self._set)
        common = [named[name] for name in named if name not in self._set]
        before = f" | do({', '.join(common)})" if common else ""
        after = f" | do({', '.join(named.values())})"
        return (
            f"P({natural}, {text}{before}) = {shares[0]:.3f} in {less.name}, "
            f"P({text}{after}) = {shares[1]:.3f} in {more.name}"
        )


class _Side:
    """Some rows of a dataset, with their weights and groups."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.bool_]) -> None:
        self.rows = np.flatnonzero(rows)
        self.plain = dataset.weights is None and dataset.groups is None
        self.weights = _weights(dataset)[self.rows]
        self.groups = np.unique(_groups(dataset)[self.rows], return_inverse=True)[1]
        self.units = int(self.groups.max(initial=-1)) + 1


@dataclass(frozen=True)
class _Arm:
    """A setting of an experiment, and the comparable rows of the other dataset.

    Attributes:
        setting: Codes of the targets.
        natural: Rows of the other dataset whose natural values are those of the setting.
        less: Rows of the other dataset with the setting of the common targets.
        more: Rows of the experiment with the setting.
    """

    setting: Mapping[str, int]
    natural: NDArray[np.bool_]
    less: _Side
    more: _Side

    def compare(
        self, observational: NDArray[np.bool_], experimental: NDArray[np.bool_]
    ) -> tuple[tuple[float, float], dict[str, Any]]:
        """Share of rows with the setting and the event, share of the event under the setting, and their test."""
        hits = (self.natural & observational)[self.less.rows], experimental[self.more.rows]
        sides = (self.less, self.more)
        shares = [float(np.average(events, weights=side.weights)) for events, side in zip(hits, sides, strict=True)]
        if all(side.plain for side in sides):
            test = excess_test(int(hits[0].sum()), len(hits[0]), int(hits[1].sum()), len(hits[1]))
        else:
            test = score_test(*((events, side.weights, side.groups) for events, side in zip(hits, sides, strict=True)))
        return (shares[0], shares[1]), test


def _all(conditions: Iterable[NDArray[np.bool_]], rows: int) -> NDArray[np.bool_]:
    """Conjunction of boolean columns of a given length."""
    result = np.ones(rows, dtype=np.bool_)
    for condition in conditions:
        result &= condition
    return result


def columns_of(dataset: Dataset, schema: Schema) -> list[str]:
    """Columns that can be tested: all but images."""
    return [name for name in dataset.columns if schema[name].kind != "image"]


def levels_of(variable: Variable, values: Sequence[NDArray[Any]]) -> tuple[list[Codes], list[str]]:
    """Codes of a variable in each dataset, and labels; numbers are divided at the quartiles of the last dataset."""
    name = variable.name
    if variable.kind == "categorical":
        return list(values), [f"{name}={level}" for level in variable.levels or ()]
    cuts = np.unique(np.quantile(values[-1], _QUARTILES))
    shown = [f"{cut:.3g}" if isinstance(cut, float) else str(cut) for cut in decode(variable, cuts)]
    texts = [f"{name}≤{shown[0]}", *(f"{a}<{name}≤{b}" for a, b in itertools.pairwise(shown)), f"{name}>{shown[-1]}"]
    return [np.searchsorted(cuts, column, side="left") for column in values], texts


def _weights(dataset: Dataset) -> NDArray[np.float64]:
    if dataset.weights is None:
        return np.ones(len(dataset))
    return np.asarray(dataset.weights / dataset.weights.mean())


def _groups(dataset: Dataset) -> Codes:
    return np.arange(len(dataset)) if dataset.groups is None else dataset.groups


def _pair(number: int) -> tuple[int, int]:
    """Pair (earlier, later) with index ``number`` in the order (0, 1), (0, 2), (1, 2), (0, 3), ..."""
    later = (1 + math.isqrt(8 * number + 1)) // 2
    return number - later * (later - 1) // 2, later
