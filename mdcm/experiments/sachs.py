"""Four proteins from a full table and one that shows a single protein under an intervention: section F.6."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.checking import check, statement
from mdcm.data import Dataset
from mdcm.errors import DataError
from mdcm.experiments.discrete import STATED, DiscreteProblem, Size, train_tables
from mdcm.experiments.estimates import Sample, answer_distance, estimand_of, estimation_errors, plug_in, read_out
from mdcm.experiments.methods import Trained
from mdcm.experiments.records import ANSWERS, Criterion, Experiment, ExperimentRequest, Findings, Result, hold, select
from mdcm.experiments.study import Measured, StudyProblem, graph_picture, study
from mdcm.experiments.summaries import bar_chart
from mdcm.graph import ADMG
from mdcm.metrics import tv_distance
from mdcm.scm import random_discrete
from mdcm.storage.disk import as_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EXPERIMENT", "best_fit", "read_cells"]

FILE = "sachs.2005.continuous.discrete.experimental.mixed.maximum.2.txt"

_NODES = ("PKA", "Mek", "Erk", "Akt")
_LEVELS = dict.fromkeys(_NODES, range(3))
_ARROWS = "PKA -> Mek; PKA -> Erk; PKA -> Akt; Mek -> Erk; Erk -> Akt; PKA <-> Mek"
_TOP = 2
_CONDITIONS = ("cd3_cd28", "icam2", "aktinhib", "g0076", "psitect", "u0126", "ly", "pma", "b2camp")
_OBSERVED, _ACTIVATED = "cd3_cd28", "b2camp"
_ROWS = {"D1": 853, "D2": 707}
_FEWEST = 50
_QUERIES = tuple(f"P({names} | do(PKA={_TOP}))" for names in ("Mek", "Erk", "Akt", "Mek, Erk, Akt"))
_BOOTSTRAPS = 500
# iterations of EM, and the largest change at which it has converged
_ROUNDS, _STILL = 100_000, 1e-13
_BEST, _CELLS = "best fit of the graph", "Answers against the activated cells"
_MODEL_SEED = 5

_FULL = Size(rows=_ROWS["D1"], steps=12_000, repeats=20)
_FAST = Size(rows=_ROWS["D1"], steps=30, repeats=5, lengths=(10, 80))


def _graph() -> ADMG:
    return ADMG.from_string("; ".join([*_NODES, _ARROWS]))


def _samples(rows: int, activated: int) -> tuple[Sample, ...]:
    return Sample("D1", _NODES, rows), Sample("D2", ("PKA", "Mek"), activated, {"PKA": (_TOP,)})


def read_cells(directory: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Observed and activated cells of a directory, as terciles of the observed ones: 0, 1, 2.

    Args:
        directory: Directory of the file of all rows, with a column per perturbation.

    Returns:
        Columns PKA, Mek, Erk and Akt of the rows under general stimulation alone, and of those whose PKA was
        activated.

    Raises:
        DataError: If the file is missing, damaged, or of another content.
    """
    path = as_path(directory) / FILE
    if not path.is_file():
        raise DataError(f"{directory}: there is no file {FILE}")
    try:
        table = pd.read_csv(path, sep="\t", encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: no table that can be read: {str(error).strip()}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    proteins = [name.lower() for name in _NODES]
    for name in (*proteins, *_CONDITIONS):
        if name not in table.columns:
            raise DataError(f"{path}: column {name!r} is missing", column=name)
        values = pd.to_numeric(table[name], errors="coerce")
        wrong = ~np.isfinite(values.to_numpy(dtype=np.float64))
        if name in _CONDITIONS:
            wrong |= ~values.isin([0, 1]).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{path}: column {name!r} holds {table[name].iloc[row]!r} in row {row}; {int(wrong.sum()):,} of "
                f"{len(table):,} rows are not {'0 or 1' if name in _CONDITIONS else 'a number'}",
                column=name,
            )
        table[name] = values
    only = table[list(_CONDITIONS)].sum(axis=1) == 1
    parts = {name: table.loc[only & (table[name] == 1), proteins] for name in (_OBSERVED, _ACTIVATED)}
    for name, part in parts.items():
        if len(part) < _FEWEST:
            raise DataError(f"{path}: {len(part)} rows have {name} = 1 alone, and at least {_FEWEST} are needed")
    cuts = parts[_OBSERVED].quantile([1 / 3, 2 / 3])
    for protein in proteins:
        low, high = cuts[protein]
        if not low < high:
            raise DataError(f"{path}: column {protein!r} has no terciles: both are {low:g}", column=protein)
    coded = [
        pd.DataFrame({
            name: np.searchsorted(cuts[protein], part[protein], side="left")
            for name, protein in zip(_NODES, proteins, strict=True)
        })
        for part in parts.values()
    ]  # fmt: skip
    return coded[0], coded[1]


def best_fit(observed: pd.DataFrame, activated: pd.DataFrame) -> NDArray[np.float64]:
    """P(Mek, Erk, Akt | do(PKA = 2)) of the maximum-likelihood model of the graph, given both tables.

    It differs from the plug-in estimate if no model has the observed frequencies. Under do(PKA = 2), cells with PKA = 2
    anyway keep their Mek, with the frequency in D1, and Mek of the other cells is free. EM estimates which cells of D2
    are of either kind; P(Erk | PKA, Mek) and P(Akt | PKA, Erk) are frequencies.

    Args:
        observed: Levels of all four proteins.
        activated: Levels of Mek of the cells with activated PKA.

    Returns:
        Probabilities ``[Mek, Erk, Akt]``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> table = pd.DataFrame({name: rng.integers(0, 3, 900) for name in ("PKA", "Mek", "Erk", "Akt")})
        >>> bool(np.isclose(best_fit(table, table[["Mek"]]).sum(), 1))
        True
    """
    pka, mek, erk, akt = (observed[name].to_numpy() for name in _NODES)
    had = np.bincount(mek[pka == _TOP], minlength=3).astype(np.float64)
    rest = len(observed) - had.sum()
    shown = np.bincount(activated["Mek"], minlength=3).astype(np.float64)
    kept, moved = had / len(observed), np.full(3, rest / len(observed) / 3)
    for _ in range(_ROUNDS):
        before = kept, moved
        total = kept + moved
        share = np.divide(kept, total, out=np.zeros(3), where=total > 0)
        counts, others = had + shown * share, shown * (1 - share)
        kept = counts / (len(observed) + shown.sum())
        moved = (rest + others.sum()) * others / max(others.sum(), 1.0) / (len(observed) + shown.sum())
        if max(np.abs(before[0] - kept).max(), np.abs(before[1] - moved).max()) < _STILL:
            break
    erk_given = pd.crosstab(mek[pka == _TOP], erk[pka == _TOP], normalize="index")
    akt_given = pd.crosstab(erk[pka == _TOP], akt[pka == _TOP], normalize="index")
    filled = [
        table.reindex(index=range(3), columns=range(3), fill_value=0.0).to_numpy() for table in (erk_given, akt_given)
    ]
    return np.asarray((kept + moved)[:, None, None] * filled[0][:, :, None] * filled[1][None])


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    if request.data is not None:
        with request.stages.stage("reading data"):
            observed, activated = read_cells(request.data)
        return study(_Cells(observed, activated, size), request)
    truth = random_discrete(_graph(), 3, _MODEL_SEED)
    samples = _samples(_ROWS["D1"], _ROWS["D2"])
    findings = study(DiscreteProblem("sachs", truth, samples, _QUERIES, size, fitted=False), request)
    findings.notes.insert(
        0, "No data were given: the rows are drawn from a random model of the same graph, in the numbers of the real "
        "ones. Nothing here is about proteins.",
    )  # fmt: skip
    return findings


class _Cells(StudyProblem):
    """Real cells, without a known truth: answers are compared with other estimates from the same rows.

    Args:
        observed: Levels of the observed cells.
        activated: Levels of the cells with activated PKA.
        size: Size of the study.
    """

    experiment = "sachs"

    def __init__(self, observed: pd.DataFrame, activated: pd.DataFrame, size: Size) -> None:
        self.observed, self.activated, self.size, self.steps = observed, activated, size, size.steps
        self.samples = _samples(len(observed), len(activated))
        shown = pd.DataFrame({"PKA": _TOP, "Mek": activated["Mek"]})
        self.data = [Dataset(observed, name="D1"), Dataset(shown, do=["PKA"], name="D2")]
        self.estimates: dict[str, NDArray[np.float64]] = {}
        joint = best_fit(observed, activated)
        self.best = {query: _marginal(joint, query) for query in _QUERIES}
        self.floors: dict[str, float] = {}

    def draw(self, _seed: int) -> list[Dataset]:
        """The data, the same for every seed."""
        return self.data

    def train(
        self, method: str, data: Sequence[Dataset], seed: int, *, rate: float = 1.0, length: int | None = None
    ) -> Trained:
        """Train by a method."""
        with warnings.catch_warnings():
            # the warning that D2 sets PKA to a single level is expected here
            warnings.simplefilter("ignore", UserWarning)
            return train_tables(method, _graph(), data, _LEVELS, seed, rate=rate, length=length, steps=self.steps)

    def references(self, seeds: Sequence[int]) -> Iterator[Result]:
        """The plug-in estimate of Eq. 58 and the best fit of the graph.

        Floors are of fresh data sets drawn from the model fitted at the first seed, since the true one is unknown.
        """
        fitted = read_out(self.train("auto", self.data, seeds[0]).model.dcm)
        errors = estimation_errors(fitted, _QUERIES, self.samples, self.size.repeats)
        self.floors = dict(zip(_QUERIES, errors.mean(axis=0).tolist(), strict=True))
        self.estimates = {query: plug_in(estimand_of(fitted, query, self.data), self.data) for query in _QUERIES}
        for source, answers in (("plug-in estimate", self.estimates), (_BEST, self.best)):
            for measured in self._compared(answers):
                yield Result(self.experiment, source, None, *measured)
        beyond = _beyond(self.observed, self.estimates[_QUERIES[0]])
        yield Result(self.experiment, "any model", None, _CELLS, "least distance from the Mek of D2", beyond)

    def measure(self, _method: str, trained: Trained, _seed: int) -> Iterator[Measured]:
        """Distances of the answers to the estimate, the best fit and the activated cells."""
        model = read_out(trained.model.dcm)
        yield from self._compared({
            query: np.asarray(model.answer(query), dtype=np.float64).ravel() for query in _QUERIES
        })  # fmt: skip

    def _compared(self, answers: Mapping[str, NDArray[np.float64]]) -> Iterator[Measured]:
        for query, answer in answers.items():
            for name, other in (("to the plug-in", self.estimates), ("to the best fit of the graph", self.best)):
                yield ANSWERS, f"{query}, {name}", answer_distance(other[query], answer), self.floors[query]
        for query, (distance, low, high) in _held_out(self.activated, answers).items():
            yield _CELLS, f"{query}, to the cells", distance
            yield _CELLS, f"{query}, to the cells, 2.5 %", low
            yield _CELLS, f"{query}, to the cells, 97.5 %", high

    def criteria(self, results: Sequence[Result], *, full: bool) -> list[Criterion]:
        """Limits of the distances to both estimates, at the first seed, judged in both sizes."""
        names = [f"{query}, {to}" for to in ("to the plug-in", "to the best fit of the graph") for query in _QUERIES]
        return hold(results, names, {"first": STATED}, floor="estimation floor")

    def findings(self, results: Sequence[Result]) -> Findings:
        """Captions, a chart of the answers, the graph, and what was found in the data."""
        contradictions = [_described_test(row) for row in check(_graph(), self.data).rejected.to_dict("records")]
        high = float((self.activated["PKA"] == _TOP).mean())
        observed, other = self.samples
        beyond = select(results, method="any model")[0].value
        specs = [dataset.spec(_NODES) for dataset in self.data]
        return Findings(
            captions={
                ANSWERS: "TVD. The plug-in estimate is Eq. 58 with frequencies of the same data, the best fit of the "
                "graph the likeliest model of all, found by EM. The floor is by fresh data sets drawn from the fitted "
                "model, since the true one is unknown.",
                _CELLS: f"TVD, with the quantiles of a bootstrap of the {other.rows:,} cells. No limit: Erk and Akt of "
                f"these cells were not trained on, and only {high:.0%} of them have PKA at its top level.",
            },
            charts=[bar_chart("Distance of the answers to other estimates", results)],
            pictures=[graph_picture(_graph(), _QUERIES[0], datasets=specs, levels=_LEVELS)],
            notes=[
                f"D1 is {observed.rows:,} cells under general stimulation, D2 {other.rows:,} whose PKA was activated, "
                "of which only Mek is used. PKA of D2 is taken as set to its top level, which is an idealisation: "
                f"measured, it is there in {high:.0%} of them.",
                "Levels are the terciles of D1.",
                f"In every model of this graph P(Mek = m | do(PKA = {_TOP})) is at least P(PKA = {_TOP}, Mek = m), "
                "because cells that had that value anyway are among those that are set to it. The two tables break "
                f"that: a model that fits D1 stays at least {beyond:.3f} away from the Mek of D2, whatever trains it. "
                f"mdcm check finds it: {'; '.join(contradictions) or 'nothing is rejected'}.",
            ],
        )


def _names(query: str) -> list[str]:
    return query[2 : query.index(" |")].split(", ")


def _marginal(joint: NDArray[np.float64], query: str) -> NDArray[np.float64]:
    """Marginal of P(Mek, Erk, Akt | do(PKA)) for a query."""
    kept = _names(query)
    gone = tuple(axis for axis, name in enumerate(_NODES[1:]) if name not in kept)
    return np.asarray(joint.sum(axis=gone)).ravel()


def _described_test(row: Mapping[Any, Any]) -> str:
    return f"{row['detail'] or statement(row)} (adjusted p = {row['adjusted_p']:.1g})"


def _beyond(observed: pd.DataFrame, estimate: NDArray[np.float64]) -> float:
    """Smallest distance of a model with the observed P(PKA, Mek) to an estimate of P(Mek | do(PKA))."""
    least = [float(((observed["PKA"] == _TOP) & (observed["Mek"] == m)).mean()) for m in range(3)]
    return float(np.clip(np.array(least) - estimate, 0, None).sum())


def _held_out(
    activated: pd.DataFrame, answers: Mapping[str, NDArray[np.float64]]
) -> dict[str, tuple[float, float, float]]:
    """Distance of each answer to the activated cells, whose Erk and Akt are held out, with a 95 % interval."""
    rng = np.random.default_rng(0)
    distances = {}
    for query, answer in answers.items():
        names = _names(query)
        code = np.ravel_multi_index([activated[name].to_numpy() for name in names], (3,) * len(names))
        cells = 3 ** len(names)
        shares = np.bincount(code, minlength=cells) / len(code)
        again = rng.multinomial(len(code), shares, size=_BOOTSTRAPS) / len(code)
        low, high = np.quantile(np.abs(again - answer).sum(axis=1) / 2, [0.025, 0.975])
        distances[query] = tv_distance(shares, answer), float(low), float(high)
    return distances


EXPERIMENT = Experiment(
    name="sachs",
    title="Proteins, half of them seen under an intervention",
    section="F.6, Figure 27",
    summary="PKA, Mek, Erk and Akt, of which PKA and Mek share a hidden cause. Observations alone do not determine "
    "what setting PKA does; with a table that shows Mek under do(PKA = 2) they do, for Erk and Akt as well.",
    paper="Curves of the distributions that fall with training, as low as those of joint training or lower; no "
    "numbers.",
    sizes={"full": asdict(_FULL), "fast": asdict(_FAST)},
    run=_run,
    methods=("auto", "adversarial", "joint"),
    data=f"the file {FILE}",
)
