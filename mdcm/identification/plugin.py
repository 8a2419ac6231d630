"""Plug-in estimates: estimands with frequencies for probabilities, their errors, and conditions without rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mdcm import query as language
from mdcm.errors import MdcmError, QueryError
from mdcm.identification.evaluation import Columns

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from mdcm.identification.combination import AnyFormula
    from mdcm.identification.tables import SourceTables

__all__ = ["MOST_UNSEEN", "Estimate", "Part", "estimate_of", "is_sum", "part_of", "with_error"]

# largest share of the weight on conditions without rows for which an estimate is made
MOST_UNSEEN = 0.2
# largest number of cells of a table over the bootstrap samples of a batch, 32 MB
_MOST_PER_BATCH = 1 << 22


@dataclass(frozen=True)
class Part:
    """Plug-in estimate of a single query.

    Attributes:
        query: The query.
        values: Probabilities or expectations, an axis for each column; NaN without an estimate.
        unseen: Share of the weight of each value on conditions without rows, from 0 to 1.
        impossible: Whether the condition of the query has probability 0.
        spread: Largest error of a value per unit of unseen weight: 1 for a probability.
        labels: Names of the axes.
        levels: Levels of the axes.
    """

    query: language.Query
    values: NDArray[np.float64]
    unseen: NDArray[np.float64]
    impossible: NDArray[np.bool_]
    spread: float
    labels: list[str]
    levels: list[list[Hashable]]

    @property
    def is_certain(self) -> bool:
        """Whether the estimate needs no note."""
        return not self.unseen.any() and not self.impossible.any()

    def series(self, values: NDArray[np.float64], name: str | None = None) -> pd.Series[float]:
        """Values as a series, indexed by the levels of the columns."""
        import pandas as pd

        name = name or ("expectation" if self.query.kind == "E" else "probability")
        if not self.labels:
            return pd.Series([float(values)], name=name)
        index = pd.MultiIndex.from_product(self.levels, names=self.labels)
        return pd.Series(values.ravel(), index=index, name=name)


@dataclass(frozen=True)
class Estimate:
    """Plug-in estimate of a query or a sum of queries.

    Attributes:
        values: Estimates by the levels of the columns; NaN if there is none.
        stderr: Their standard errors; None if not requested.
        unseen: Share of the weight of each estimate on conditions without rows.
        doubt: Largest error of each estimate due to this share.
        notes: Remarks, a sentence each.
    """

    values: pd.Series[float]
    stderr: pd.Series[float] | None
    unseen: pd.Series[float]
    doubt: pd.Series[float]
    notes: tuple[str, ...]


def part_of(formula: AnyFormula, data: SourceTables, most_unseen: float = MOST_UNSEEN) -> Part:
    """Plug-in estimate of a single query.

    If conditions with weight have no rows, the known probabilities are normalised to sum to 1, unless too much of the
    weight is unknown.

    Args:
        formula: The estimand's formula.
        data: The tables.
        most_unseen: Largest share of the weight on conditions without rows for which an estimate is made.

    Raises:
        DataError: If the tables lack a column or a level.
        MdcmError: If a table would be too large.
        QueryError: If an expectation is of a variable whose levels are not numbers.
    """
    columns = formula.columns(data)
    labels, levels, spread = formula.labels, columns.levels, 1.0
    outcomes = range(len(labels) - len(formula.query.outcomes), len(labels))
    # counted from the end: an axis of samples may come first
    axes = tuple(range(-len(outcomes), 0))
    unknown = columns.unknown
    values, unseen = columns.low, np.zeros(columns.low.shape)
    if unknown.any():
        if formula.is_partition:
            all_columns = formula.columns(data, outcomes)
            values, unseen = _renormalised(columns, all_columns, axes)
        elif not data.is_sample:
            unseen = np.where(unknown, np.minimum(columns.high - columns.low, 1.0), 0.0)
        if not data.is_sample:
            # without a partition the unknown share cannot be normalised away
            most = most_unseen if formula.is_partition else 0.0
            values = np.where(unseen > most, np.nan, values)
    impossible = np.zeros(columns.low.shape, dtype=bool)
    condition = formula.condition if formula.query.given and not data.is_sample else None
    if condition is not None and (given := _columns_if_available(condition, data)) is not None:
        impossible = np.broadcast_to(np.expand_dims(given.is_zero, axes), columns.low.shape)
        values = np.where(impossible, np.nan, values)
        unseen = np.where(impossible, 0.0, unseen)
    if formula.query.kind == "E":
        numbers = _numbers(formula, levels[-1])
        spread = float(numbers.max() - numbers.min())
        values, unseen = values @ numbers, unseen.max(axis=-1)
        impossible = np.asarray(impossible.any(axis=-1))
        labels, levels = labels[:-1], levels[:-1]
    return Part(formula.query, values, unseen, impossible, spread, labels, levels)


def _columns_if_available(formula: AnyFormula, data: SourceTables) -> Columns | None:
    """Columns of a condition; None if the data lack variables of it or its cost is too high."""
    try:
        formula.cost(data).check()
        return formula.columns(data)
    except MdcmError:
        return None


def _renormalised(
    columns: Columns, all_columns: Columns, axes: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normalise partly unknown values to the remaining probability; also return the share of unseen weight."""
    unknown = all_columns.unknown
    known = np.where(unknown, 0.0, all_columns.low).sum(axis=axes, keepdims=True)
    partly = np.where(unknown, all_columns.low, 0.0).sum(axis=axes, keepdims=True)
    remaining = 1.0 - known - partly
    width = (all_columns.high - all_columns.low).max(axis=axes, keepdims=True)
    # frequencies of several tables need not sum to 1
    missing = np.clip(np.where(remaining > 0, remaining, width), 0.0, 1.0)
    missing = np.where(unknown.any(axis=axes, keepdims=True), missing, 0.0)
    factor = np.divide(np.maximum(1.0 - known, 0.0), partly, out=np.full(partly.shape, np.nan), where=partly > 0)
    is_unknown = columns.unknown
    values = np.where(is_unknown, columns.low * factor, columns.low)
    return values, np.where(is_unknown, missing, 0.0)


def _numbers(formula: AnyFormula, levels: Sequence[Hashable]) -> NDArray[np.float64]:
    outcome = formula.query.outcomes[0].variable
    if any(isinstance(level, str) for level in levels):
        raise QueryError(f"the levels of {outcome!r} are not numbers, so it has no expectation")
    return np.array(levels, dtype=np.float64)


def notes_on(formula: AnyFormula, part: Part, data: SourceTables, explains: bool) -> list[str]:
    """Remarks on the estimate of a query, a sentence each; ``explains`` names a condition without rows."""
    notes = []
    if part.impossible.any():
        row = _row(part, int(part.impossible.argmax()))
        conditions = [
            str(term) if term.value is not None else f"{term.label}={row[term.label]}" for term in part.query.given
        ]
        settings = [f"{term.variable}={row[term.variable]}" for term in part.query.do]
        under = f" under do({', '.join(settings)})" if settings else ""
        notes.append(
            f"{part.query}: in the data the condition {', '.join(conditions)} has probability 0{under}, "
            f"so there is no estimate{_extent(part.impossible, row)}"
        )
    absent = np.isnan(part.values) & ~part.impossible
    partly = (part.unseen > 0) & ~absent
    for where, verdict in ((absent, "there is no estimate"), (partly, "the estimate is that of the rest")):
        if not where.any():
            continue
        worst = int(np.where(where, part.unseen, -1.0).argmax())
        row = _row(part, worst)
        reason = formula.reason(data, row) if explains else None
        reason = reason or "some conditions of the estimand have no row"
        share = _percent(float(part.unseen.flat[worst]))
        notes.append(f"{part.query}: {reason}, on which {share} of the weight rests; {verdict}{_extent(where, row)}")
    return notes


def _row(part: Part, index: int) -> dict[str, Hashable]:
    """Levels of the columns in the row with a flat index."""
    indices = np.unravel_index(index, part.values.shape)
    return {label: levels[k] for label, levels, k in zip(part.labels, part.levels, indices, strict=True)}


def _extent(where: NDArray[np.bool_], row: Mapping[str, Hashable]) -> str:
    """Number of affected rows of the answer, with an example, as the end of a note."""
    if where.size == 1:
        return ""
    example = ", ".join(f"{label}={level}" for label, level in row.items())
    return f" (so in {int(where.sum())} of {where.size} rows of the answer, such as {example})"


def _percent(share: float) -> str:
    if share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"


def estimate_of(
    formulas: Sequence[AnyFormula],
    expression: language.Expression,
    data: SourceTables,
    most_unseen: float = MOST_UNSEEN,
    *,
    explains: bool = True,
) -> Estimate:
    """Plug-in estimate of an expression, without standard errors.

    Args:
        formulas: Formulas of its queries.
        expression: The expression.
        data: The tables.
        most_unseen: Largest share of the weight on conditions without rows for which an estimate is made.
        explains: Whether the notes name a condition without rows, which takes many evaluations.
    """
    import pandas as pd

    parts = [part_of(formula, data, most_unseen) for formula in formulas]
    notes: list[str] = []
    for formula, part in zip(formulas, parts, strict=True):
        if not part.is_certain and not data.is_sample:
            notes += notes_on(formula, part, data, explains)
    notes = list(dict.fromkeys(notes))
    if not is_sum(expression):
        (part,) = parts
        unseen = part.series(part.unseen, "unseen")
        return Estimate(part.series(part.values), None, unseen, unseen * part.spread, tuple(notes))
    signs = [sign for sign, _ in expression.terms]
    total = sum(sign * float(part.values.ravel()[0]) for sign, part in zip(signs, parts, strict=True))
    unseen = pd.Series([max(float(part.unseen.max()) for part in parts)], name="unseen")
    doubt = pd.Series([sum(float(part.unseen.max()) * part.spread for part in parts)])
    return Estimate(pd.Series([total], name="value"), None, unseen, doubt, tuple(notes))


def with_error(
    estimate: Estimate,
    formulas: Sequence[AnyFormula],
    expression: language.Expression,
    data: SourceTables,
    replicates: int,
    seed: int,
) -> Estimate:
    """Add bootstrap standard errors to an estimate."""
    import pandas as pd

    largest = max(formula.cost(data).largest for formula in formulas)
    batch = max(1, min(replicates, _MOST_PER_BATCH // max(largest, data.num_rows)))
    drawn = np.concatenate(
        [_samples(formulas, expression, sample) for sample in data.resampled(replicates, seed, batch)]
    )
    valid = np.isfinite(drawn)
    count = valid.sum(axis=0)
    values = np.where(valid, drawn, 0.0)
    mean = values.sum(axis=0) / np.maximum(count, 1)
    squares = np.where(valid, np.square(values - mean), 0.0).sum(axis=0)
    variance = np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan)
    # unseen weight is unknown: add the variance of a uniform distribution over its share
    unseen_variance = np.square(estimate.doubt.to_numpy(dtype=np.float64)) / 12
    spread = np.where(estimate.values.isna(), np.nan, np.sqrt(variance + unseen_variance))
    notes = estimate.notes
    omitted = int(replicates - count[~estimate.values.isna().to_numpy()].min(initial=replicates))
    if omitted:
        notes = (*notes, f"{expression}: {omitted} of {replicates} bootstrap samples have no value and are left out")
    return replace(estimate, stderr=pd.Series(spread, index=estimate.values.index, name="stderr"), notes=notes)


def _samples(
    formulas: Sequence[AnyFormula], expression: language.Expression, data: SourceTables
) -> NDArray[np.float64]:
    """Values of an expression in bootstrap samples, ``[r, values]``."""
    parts = [part_of(formula, data, 1.0).values.reshape(data.replicates or 1, -1) for formula in formulas]
    if not is_sum(expression):
        return parts[0]
    signs = [sign for sign, _ in expression.terms]
    return np.asarray(sum(sign * part[:, :1] for sign, part in zip(signs, parts, strict=True)))


def is_sum(expression: language.Expression) -> bool:
    """Whether an expression is a signed sum of queries."""
    return len(expression.terms) > 1 or expression.terms[0][0] < 0
