"""Data against a graph: everything testable that it implies tested, and what was found, worst first."""

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
from mdcm.checking.sources import Across, Kind, Outcome, Within, columns_of
from mdcm.data import Dataset, validate
from mdcm.graph import ADMG
from mdcm.levels import listing
from mdcm.limits import seeded
from mdcm.schema import Schema

if TYPE_CHECKING:
    import networkx as nx

    from mdcm.variables import Variable

__all__ = ["Check", "check", "statement"]

COLUMNS = (
    "dataset", "kind", "x", "y", "given", "test", "statistic", "dof", "p", "log10_p", "adjusted_p", "effect",
    "rejected", "detail",
)  # fmt: skip

_SHOWN = 10
_WORDS = {
    "independence": ("independence", "independences"),
    "instrument": ("instrumental inequality", "instrumental inequalities"),
    "invariance": ("distribution that datasets have to share", "distributions that datasets have to share"),
    "consistency": ("inequality between datasets", "inequalities between datasets"),
}


@dataclass(frozen=True)
class Check:
    """What :func:`check` found.

    Attributes:
        table: One row per test, the smallest p first: the dataset, or two; the kind, which is "independence" (of x
            and y given others), "invariance" (of y given others, in two datasets: y is independent of x, the choice
            of the dataset) or "consistency" (y is at least as frequent where x is set to a value as it is together
            with that value); the pair x and y, the names ``given``, the test ("table", "residuals", "fisher" or
            "score"), its statistic and degrees of freedom, p and its decimal logarithm (which does not underflow),
            Holm's adjusted p, the effect (conditional mutual information in nats per row, less what chance adds to
            it), whether the statement is rejected, and for inequalities the frequencies in words.
        level: The probability with which a true graph has any rejection is at most this.
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
        bad = self.rejected
        several = self.table["dataset"].nunique() > 1
        if self.implies_nothing:
            lines = [
                "nothing to test: the graph allows every distribution of these variables, so no data contradict it"
            ]
        elif not len(self.table):
            lines = ["nothing was tested: these data speak neither for the graph nor against it"]
        elif bad.empty:
            least = self.table["adjusted_p"].min()
            lines = [
                f"{self._counted()} tested, none rejected at level {self.level:g} (smallest adjusted p = {least:.2g})"
            ]
        else:
            lines = [f"{self._counted()} tested, {len(bad):,} rejected at level {self.level:g}, worst first:"]
            rows = bad.head(_SHOWN).to_dict("records")
            lines += [f"  {k}. {_sentence(row, show_dataset=several)}" for k, row in enumerate(rows, start=1)]
            if len(bad) > _SHOWN:
                lines.append(f"  ... and {len(bad) - _SHOWN:,} more")
            if len(bad) > 1:
                lines.append("one missing edge can break several: mend the first, then check again")
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
    """Tests what a graph implies on data, with Holm's correction over all tests.

    Of every dataset, one independence per pair of variables that the graph separates, and the inequality of every
    instrument. Of every two datasets, what they have to share: given what separates a variable from everything that
    either of them sets, it has one distribution in both; and where one sets more than the other, values that came along
    with a setting by themselves are at least as frequent where everybody is given that setting. The last holds whatever
    the graph is, so that a rejection says that the datasets are not of one population, or that what was done is not
    what do() stands for.

    That nothing is rejected does not prove the graph: others imply the same, and an edge too many is never noticed.
    Not tested, and named in the notes where it matters: other inequalities and the equalities between interventions
    (Verma's) that hidden causes imply; images; variables without a column; what rows are too few for.

    Categorical pairs given categorical variables: the sum over strata of Pearson's statistic, rare levels weighted
    down, with the tail of a scaled χ² distribution of the same mean and variance given the margins; both are exact,
    so sparse strata do no harm. Others: a continuous variable is replaced by its normal scores, a vector by those of
    its entries, a categorical one by indicators of its levels. Both are regressed on ``given`` in stages of bell curves
    whose widths cross-validation chooses, so that oscillations and interactions are learnt, and residuals are compared
    with those of neighbours. Products of residuals (for continuous variables also of a wave of their ranks, which shows
    spread, and products of residuals times a separating variable, which show changes of sign) have mean zero if the
    independence holds and the regressions can express the means. No test can hold its level for every shape: jumps
    along curves of two numbers, and interactions of many, need many rows to be learnt. Weights and groups of rows go
    into the regressions and into the covariance of the products, so these pairs are always tested by residuals.
    Frequencies in two datasets are compared by Fisher's exact test, with weights or groups by a score test; those of a
    continuous variable by its quarters. An instrument is tested by its values two by two, and by three
    of them by a score test, for a categorical cause.

    Args:
        graph: The graph, its text, or a networkx digraph (hidden nodes as in :meth:`ADMG.from_networkx`).
        data: One table or dataset, or several, each by itself and against each other. One under do() is tested on the
            graph without edges into its targets. Variables without a column count as hidden; so do images, which are
            not tested.
        level: Probability of any rejection at all if graph and data are right.
        variables: Kinds and levels that overrule what the columns show, as in :meth:`Schema.infer`.
        max_tests: How much is tested at most. Where there is more, it is drawn at random: a
            missing edge breaks the independences of descendants too, so that a sample finds a wrong graph without
            a guess about where.
        seed: Seed of that choice.
        progress: Whether to show on a terminal how far it is.
        dropna: Whether rows with missing values are left out rather than refused, in every dataset.

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
        https://doi.org/10.1214/19-AOS1857; Pearl (1995), On the testability of causal models with latent and
        instrumental variables.

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
    seed = seeded(seed)
    graph = ADMG.of(graph)
    datasets = validate(data, graph.nodes, unobserved=graph.nodes, dropna=dropna)
    schema = Schema.infer(datasets, variables)
    several = len(datasets) > 1
    sources: list[Within | Instruments | Across] = [Within(graph, one, schema, several=several) for one in datasets]
    inequalities = [Instruments(graph, one, schema, several=several) for one in datasets]
    sources += inequalities
    sources += [Across(graph, one, other, schema) for one, other in itertools.combinations(datasets, 2)]
    notes = _notes_on_columns(graph, schema)

    # tests of all sources under one numbering, in order unless they are too many
    ends = np.cumsum([source.count for source in sources])
    total = int(ends[-1])
    order: Iterable[int] = range(total)
    if total > max_tests:
        order = np.random.default_rng(seed).permutation(total).tolist()
    outcomes: list[Outcome] = []
    tested = 0
    if progress:
        from mdcm.progress import counted

        order = counted(order, min(total, max_tests), "testing")
    for number in order:
        if tested == max_tests:
            notes.append(f"{tested:,} tests, the most that were asked for, of pairs drawn at random from {total:,}")
            break
        k = int(np.searchsorted(ends, number, side="right"))
        outcomes.append(sources[k].outcome(number - int(ends[k]) + sources[k].count))
        tested += outcomes[-1].row is not None
    inseparable = [one.inseparable for one in outcomes if one.inseparable]
    if inseparable:
        notes.append(
            f"no set of observed variables separates {_some(inseparable, 'pair')} without an edge, so the graph "
            "implies no independence of them"
        )
    cuts = [graph.intervene(one.do).latent_projection(columns_of(one, schema), shared=True) for one in datasets]
    plain = [implies_nothing(cut, one.do) for cut, one in zip(cuts, datasets, strict=True)]
    if any(cut.confounders and not nothing for cut, nothing in zip(cuts, plain, strict=True)):
        apart = " other than an instrument's" if any(one.count for one in inequalities) else ", such as an instrument's"
        notes.append(
            f"hidden causes can imply more, which is not tested: equalities of Verma's kind, and inequalities{apart}"
        )
    untested = [one.untested for one in outcomes if one.untested]
    if untested:
        noun = "independence" if all(" ⊥ " in one for one in untested) else "statement"
        notes.append(f"too few rows, or too little variation, to test {_some(untested, noun)}")
    rows = [one.row for one in outcomes if one.row is not None]
    every = all(len(cut) == len(graph) for cut in cuts)
    nothing = not rows and not several and every and all(plain)
    return Check(_ranked(rows, level), level, tuple(notes), nothing)


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


def statement(row: Mapping[Any, Any]) -> str:
    """What a row of the table tests, in symbols.

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
    """One rejection in words."""
    x, y = row["x"], row["y"]
    given = f" given {', '.join(row['given'])}" if row["given"] else ""
    size = f"(p = {_p_text(row['log10_p'])}, {row['effect']:.2g} nats per row)"
    if row["kind"] == "consistency":
        return (
            f"{row['detail']} {size}: in one population the second cannot be smaller, whatever the graph; perhaps the "
            f"datasets are of two, or more was done in one of them than to set {x}"
        )
    where = f"in {row['dataset']}, " if show_dataset else ""
    if row["kind"] == "instrument":
        (z,) = row["given"]
        return (
            f"{where}{row['detail']} {size}: it cannot be more if {z} acts on {y} through {x} alone, as the graph "
            f"says; perhaps an edge or a hidden common cause is missing between {z} and {y}"
        )
    if row["kind"] == "invariance":
        return (
            f"the graph says {y}{given} is distributed alike in {row['dataset']}; the data say otherwise {size}: "
            "perhaps the datasets are of two populations, an edge or a hidden common cause is missing, or more was "
            "done in one of them than it says"
        )
    return (
        f"{where}the graph says {x} is independent of {y}{given}; the data say otherwise {size}: "
        f"perhaps an edge or a hidden common cause is missing between {x} and {y}"
    )


def _p_text(log10_p: float) -> str:
    """A probability in text, also where it is too small for a number."""
    if log10_p > -5:
        return f"{10**log10_p:.2g}"
    exponent = math.floor(log10_p)
    return f"{10 ** (log10_p - exponent):.1f}e{exponent}"
