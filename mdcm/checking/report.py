"""Tests of all testable statements that a graph implies about data, with the strongest rejection first."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from mdcm.checking.independences import implies_nothing
from mdcm.checking.instruments import Instruments
from mdcm.checking.sources import Across, CheckOutcome, Kind, Within, columns_of
from mdcm.data import Dataset, validate
from mdcm.data.inference import Schema
from mdcm.data.levels import listing
from mdcm.graph import ADMG
from mdcm.text.limits import seeded

if TYPE_CHECKING:
    import networkx as nx

    from mdcm.data.variables import Variable

__all__ = ["Check", "check", "statement"]

COLUMNS = (
    "dataset", "kind", "x", "y", "given", "test", "statistic", "dof", "p", "log10_p", "adjusted_p", "effect",
    "rejected", "detail",
)  # fmt: skip

_SHOWN = 10
_WORDS = {
    "independence": ("independence", "independences"),
    "instrument": ("instrumental inequality", "instrumental inequalities"),
    "invariance": ("distribution that datasets must share", "distributions that datasets must share"),
    "consistency": ("inequality between datasets", "inequalities between datasets"),
}


@dataclass(frozen=True)
class Check:
    """Result of :func:`check`.

    Attributes:
        table: One row per test, the smallest p first: the dataset, or two; the kind, which is "independence" (of x
            and y given others), "instrument" (an inequality of the instrument ``given`` for the effect of x on y),
            "invariance" (of y given others, in two datasets: y is independent of x, the choice of the dataset) or
            "consistency" (y is at least as frequent under do(x) as together with that value of x); the pair x and y,
            the names ``given``, the test ("table", "residuals", "fisher" or "score"), its statistic and degrees of
            freedom, p and its decimal logarithm (which does not underflow), Holm's adjusted p, the effect (conditional
            mutual information in nats per row, minus its mean under independence), whether the statement is rejected,
            and for inequalities the frequencies in words.
        level: Upper bound of the probability of any rejection if the graph is true.
        notes: Sentences on what was not tested, and why.
        implies_nothing: Whether the graph allows every distribution of the variables, all of them observed.
    """

    table: pd.DataFrame
    level: float
    notes: tuple[str, ...] = ()
    implies_nothing: bool = False

    @property
    def rejected(self) -> pd.DataFrame:
        """The rows of the table that are rejected."""
        return self.table[self.table["rejected"]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: level, numbers of tests and rejections, the table's rows, notes, implies_nothing."""
        rows = [{**row, "given": list(row["given"])} for row in self.table.to_dict("records")]
        return {
            "level": self.level,
            "tests": len(rows),
            "rejected": len(self.rejected),
            "table": rows,
            "notes": list(self.notes),
            "implies_nothing": self.implies_nothing,
        }

    def __str__(self) -> str:
        rejected = self.rejected
        several = self.table["dataset"].nunique() > 1
        if self.implies_nothing:
            lines = [
                "nothing to test: the graph allows every distribution of these variables, so no data contradict it"
            ]
        elif not len(self.table):
            lines = ["nothing was tested: these data neither support nor contradict the graph"]
        elif rejected.empty:
            least = self.table["adjusted_p"].min()
            lines = [
                f"{self._counted()} tested, none rejected at level {self.level:g} (smallest adjusted p = {least:.2g})"
            ]
        else:
            lines = [f"{self._counted()} tested, {len(rejected):,} rejected at level {self.level:g}, worst first:"]
            rows = rejected.head(_SHOWN).to_dict("records")
            lines += [f"  {k}. {_sentence(row, show_dataset=several)}" for k, row in enumerate(rows, start=1)]
            if len(rejected) > _SHOWN:
                lines.append(f"  ... and {len(rejected) - _SHOWN:,} more")
            if len(rejected) > 1:
                lines.append("one missing edge can cause several rejections: correct the first, then check again")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _counted(self) -> str:
        counts = Counter(self.table["kind"])
        parts = [f"{counts[kind]:,} {_WORDS[kind][counts[kind] != 1]}" for kind in get_args(Kind) if counts[kind]]
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def check(
    graph: ADMG | str | nx.DiGraph[Any],
    data: pd.DataFrame | Mapping[str, Any] | Dataset | Sequence[Dataset | pd.DataFrame],
    *,
    level: float = 0.05,
    variables: Mapping[str, Variable | Mapping[str, Any]] | None = None,
    max_tests: int = 10_000,
    seed: int = 0,
    progress: bool = False,
    dropna: bool = False,
) -> Check:
    """Test the statements that a graph implies about data, with Holm's correction over all tests.

    For every dataset: an independence for each pair of variables that the graph separates, and the inequality of every
    instrument. For every two datasets: given variables that separate a variable from all targets of either, it has the
    same distribution in both; and if an experiment sets T in addition, P(T=t, Y=y) without it is at most
    P(Y=y | do(T=t)). The latter holds for every graph, so its rejection means that the datasets come from different
    populations, or that the experiment did more than do() describes.

    The absence of rejections does not prove the graph: other graphs imply the same statements, and no test detects a
    superfluous edge. Not tested, and named in the notes if relevant: other inequalities and the equalities between
    interventions (Verma's) that hidden causes imply; images; variables without a column; statements with too few rows.

    Categorical pairs given categorical variables: the sum over strata of Pearson's statistic with less weight for rare
    levels, compared with a scaled χ² distribution of the same mean and variance given the margins; both are exact, so
    sparse strata are harmless. Other pairs: continuous variables and the entries of vectors become normal scores,
    categorical variables become indicators of their levels. A stagewise kernel regression on ``given`` with
    cross-validated widths, which can learn oscillations and interactions, gives residuals, which are compared with
    those of neighbours. Products of residuals (for continuous variables also of a cosine of their ranks, which detects
    changes of spread, and products of residuals times a separating variable, which detect changes of sign) have mean
    zero if the independence holds and the regressions can express the means. No test can hold its level for every
    regression function: jumps along curves, and interactions of many variables, need many rows to be learnt. Weights
    and groups of rows enter the regressions and the covariance of the products, so with them all independences are
    tested by residuals. Fisher's exact test compares frequencies in two datasets, or a score test if there are weights
    or groups; a continuous variable is divided at its quartiles. An instrument of a categorical cause is tested by
    pairs of its values, and by triples with a score test.

    Args:
        graph: The graph, its text, or a networkx digraph (hidden nodes as in :meth:`ADMG.from_networkx`).
        data: A table, a dataset or several, tested individually and pairwise. A dataset under do() is tested on the
            graph without edges into its targets. Variables without a column and images count as hidden.
        level: Probability of any rejection if the graph is true and the data are valid.
        variables: Kinds and levels that override those inferred from the columns, as in :meth:`Schema.infer`.
        max_tests: Largest number of tests. If there are more, a random sample is drawn: a missing edge also breaks
            independences of its descendants, so a sample can detect it.
        seed: Seed of the sample.
        progress: Whether to show progress on a terminal.
        dropna: Whether rows with missing values are left out instead of refused, in every dataset.

    Returns:
        The tests, in order of log p. If a single edge is missing, its pair usually comes first, because pairs that
        depend only through this edge share less information.

    Raises:
        DataError: If the data cannot be used.
        GraphError: If the text is not a graph.
        ValueError: If level is not in (0, 1) or max_tests is not positive.

    Warns:
        UserWarning: If columns are ignored or constant, or a level occurs in a single dataset only.

    Complexity:
        O(rows log rows) per test of categorical variables, O(rows · coefficients²) per test by residuals; memory of
        8 bytes per pair of columns.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure;
        Kazi-Aoual, Hitier, Sabatier & Lebreton (1995), Refined approximations to permutation tests for multivariate
        inference (mean and variance of the statistic of tables);
        Shah & Peters (2020), The hardness of conditional independence testing and the generalised covariance measure,
        https://doi.org/10.1214/19-AOS1857; Pearl (1995), On the testability of causal models with latent and
        instrumental variables.

    Example:
        >>> from mdcm.scm import random_discrete
        >>> table = random_discrete(ADMG.from_string("X -> Z -> Y; X -> Y"), levels=2, seed=3).sample(2_000)
        >>> result = check("X -> Z -> Y", table)
        >>> result.rejected[["x", "y", "given"]].values.tolist()
        [['X', 'Y', ('Z',)]]
        >>> check("X -> Z -> Y; X -> Y", table).table.empty
        True
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if max_tests < 1:
        raise ValueError(f"max_tests must be positive, not {max_tests}")
    seed = seeded(seed)
    graph = ADMG.of(graph)
    datasets = validate(data, graph.nodes, unobserved=graph.nodes, latents=dict(graph.latents), dropna=dropna)
    schema = Schema.infer(datasets, variables)
    several = len(datasets) > 1
    sources: list[Within | Instruments | Across] = []
    sources += [Within(graph, dataset, schema, several=several) for dataset in datasets]
    inequalities = [Instruments(graph, dataset, schema, several=several) for dataset in datasets]
    sources += inequalities
    sources += [Across(graph, first, second, schema) for first, second in itertools.combinations(datasets, 2)]
    notes = _notes_on_columns(graph, schema)

    # tests of all sources are numbered consecutively, and drawn at random if there are too many
    ends = np.cumsum([source.count for source in sources])
    total = int(ends[-1])
    order: Iterable[int] = range(total)
    if total > max_tests:
        order = np.random.default_rng(seed).permutation(total).tolist()
    outcomes: list[CheckOutcome] = []
    tested = 0
    if progress:
        from mdcm.progress import counted

        order = counted(order, min(total, max_tests), "testing")
    for number in order:
        if tested == max_tests:
            notes.append(f"{tested:,} tests (max_tests), of pairs drawn at random from {total:,}")
            break
        k = int(np.searchsorted(ends, number, side="right"))
        outcomes.append(sources[k].outcome(number - int(ends[k]) + sources[k].count))
        tested += outcomes[-1].row is not None
    inseparable = [outcome.inseparable for outcome in outcomes if outcome.inseparable]
    if inseparable:
        notes.append(
            f"no set of observed variables separates {_examples(inseparable, 'pair')} without an edge, so the graph "
            "implies no independence of them"
        )
    cuts = [
        graph.intervene(dataset.do).latent_projection(columns_of(dataset, schema), shared=True) for dataset in datasets
    ]
    saturated = [implies_nothing(cut, dataset.do) for cut, dataset in zip(cuts, datasets, strict=True)]
    if any(cut.confounders and not is_saturated for cut, is_saturated in zip(cuts, saturated, strict=True)):
        tested_here = any(instruments.count for instruments in inequalities)
        which = " other than an instrument's" if tested_here else ", such as an instrument's"
        notes.append(
            f"hidden causes can imply more, which is not tested: equalities of Verma's kind, and inequalities{which}"
        )
    untested = [outcome.untested for outcome in outcomes if outcome.untested]
    if untested:
        noun = "independence" if all(" ⊥ " in text for text in untested) else "statement"
        notes.append(f"too few rows, or too little variation, to test {_examples(untested, noun)}")
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    all_observed = all(len(cut) == len(graph) for cut in cuts)
    unconstrained = not rows and not several and all_observed and all(saturated)
    return Check(_ranked(rows, level), level, tuple(notes), unconstrained)


def _notes_on_columns(graph: ADMG, schema: Schema) -> list[str]:
    notes = []
    images = [name for name in schema if schema[name].kind == "image"]
    if images:
        notes.append(f"images are not tested and count as hidden: {listing(images)}")
    hidden = [name for name in graph.nodes if name not in schema]
    if hidden:
        notes.append(f"variables without a column count as hidden: {listing(hidden)}")
    return notes


def _examples(items: Sequence[str], noun: str, limit: int = 3) -> str:
    """The first few items with their noun, for a note."""
    more = f", ... ({len(items):,} in all)" if len(items) > limit else ""
    return f"the {noun}{'s' if len(items) > 1 else ''} {'; '.join(items[:limit])}{more}"


def _ranked(tests: list[dict[str, Any]], level: float) -> pd.DataFrame:
    """Table of the tests with Holm's adjusted p, the smallest p first."""
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


def statement(row: Mapping[Any, Any]) -> str:
    """The statement that a row of the table tests, in symbols.

    Example:
        >>> statement({"kind": "independence", "x": "X", "y": "Y", "given": ("Z",)})
        'X ⊥ Y | Z'
    """
    given = f" | {', '.join(row['given'])}" if len(row["given"]) else ""
    if row["kind"] == "consistency":
        return f"P({row['x']}=·, {row['y']}) ≤ P({row['y']} | do({row['x']}=·))"
    if row["kind"] == "instrument":
        return f"{row['given'][0]} → {row['x']} → {row['y']} alone"
    if row["kind"] == "invariance":
        return f"P({row['y']}{given}) is the same"
    return f"{row['x']} ⊥ {row['y']}{given}"


def _sentence(row: Mapping[Any, Any], *, show_dataset: bool) -> str:
    """A rejection in words."""
    x, y = row["x"], row["y"]
    given = f" given {', '.join(row['given'])}" if row["given"] else ""
    size = f"(p = {_p_text(row['log10_p'])}, {row['effect']:.2g} nats per row)"
    if row["kind"] == "consistency":
        return (
            f"{row['detail']} {size}: in one population the second cannot be smaller, for any graph; perhaps the "
            f"datasets come from two populations, or one of the experiments did more than set {x}"
        )
    where = f"in {row['dataset']}, " if show_dataset else ""
    if row["kind"] == "instrument":
        (z,) = row["given"]
        return (
            f"{where}{row['detail']} {size}: the bound holds if {z} acts on {y} only through {x}, as in the graph; "
            f"perhaps an edge or a hidden common cause is missing between {z} and {y}"
        )
    if row["kind"] == "invariance":
        return (
            f"by the graph, {y}{given} has the same distribution in {row['dataset']}; the data contradict this {size}: "
            "perhaps the datasets come from two populations, an edge or a hidden common cause is missing, or an "
            "experiment did more than set its targets"
        )
    return (
        f"{where}by the graph, {x} is independent of {y}{given}; the data contradict this {size}: "
        f"perhaps an edge or a hidden common cause is missing between {x} and {y}"
    )


def _p_text(log10_p: float) -> str:
    """A probability as text, even if it underflows."""
    if log10_p > -5:
        return f"{10**log10_p:.2g}"
    exponent = math.floor(log10_p)
    return f"{10 ** (log10_p - exponent):.1f}e{exponent}"
