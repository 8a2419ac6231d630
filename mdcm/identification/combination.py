"""Composite formulas: signed sums over the levels of a variable, ratios of such sums, and cases by level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mdcm import query as language
from mdcm.errors import DataError, QueryError
from mdcm.identification.evaluation import ROUNDING, Columns, Cost

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

    from mdcm.identification.estimand import Formula
    from mdcm.identification.tables import SourceTables, TableSource

__all__ = ["AnyFormula", "CaseFormula", "Combination", "RuleMixture", "SignedFormula"]


class AnyFormula(Protocol):
    """Interface of the formula of a single query in an estimand."""

    query: language.Query

    @property
    def labels(self) -> list[str]:
        """Names of the columns of the answer."""

    @property
    def is_partition(self) -> bool:
        """Whether the events at all levels of the outcomes are disjoint and exhaustive."""

    @property
    def condition(self) -> AnyFormula | None:
        """Formula of the probability of the condition; None without a condition or if it is not identified."""

    @property
    def sources(self) -> Sequence[TableSource]:
        """All sources."""

    @property
    def used(self) -> list[TableSource]:
        """Sources whose probabilities the formula uses."""

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must have for the evaluation."""

    @property
    def answer_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""

    def cost(self, data: SourceTables) -> Cost:
        """Cost of the evaluation."""

    def columns(self, data: SourceTables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identification.evaluation.columns`."""

    def reason(self, data: SourceTables, row: Mapping[str, Hashable]) -> str | None:
        """Description of the condition without rows that matters most in a row of the answer."""

    def text(self, *, latex: bool) -> str:
        """The formula as a single line."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""


@dataclass(frozen=True)
class SignedFormula:
    """Formula of a probability with a sign.

    Attributes:
        sign: 1 or -1.
        formula: The formula.
        positions: Index of the formula's column for every column of the answer; -1 if it has no such column.
    """

    sign: int
    formula: Formula
    positions: tuple[int, ...]

    @classmethod
    def of(cls, sign: int, formula: Formula, terms: Sequence[language.Term | None]) -> SignedFormula:
        """Match the columns of a formula with ``terms``, the columns of the answer; None for a column it lacks."""
        columns = (*formula.query.do, *formula.query.given, *formula.query.outcomes)
        positions = tuple(-1 if term is None or term not in columns else columns.index(term) for term in terms)
        return cls(sign, formula, positions)


class Combination:
    """A signed sum of probabilities, divided by that of the condition if there is a condition.

    Args:
        query: The query, all of whose settings have values.
        top: P(outcomes, given).
        bottom: P(given), or None without a condition.
        exhaustive: Levels of the variables that are summed over, which must be all of their levels.
    """

    def __init__(
        self,
        query: language.Query,
        top: Sequence[SignedFormula],
        bottom: Sequence[SignedFormula] | None,
        exhaustive: Mapping[str, Sequence[Any]],
    ) -> None:
        self.query = query
        self.top = tuple(top)
        self.bottom = None if bottom is None else tuple(bottom)
        self.exhaustive = dict(exhaustive)
        self._terms = (*query.do, *query.given, *query.outcomes)
        outcomes = range(len(self._terms) - len(query.outcomes), len(self._terms))
        # every probability must have all outcome columns, so that the sum over outcomes is that of the condition
        self.is_partition = all(
            part.formula.is_partition and all(part.positions[column] >= 0 for column in outcomes) for part in self.top
        )

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [term.label for term in self._terms]

    @property
    def parts(self) -> list[Formula]:
        """Formulas of all probabilities."""
        return [part.formula for part in (*self.top, *(self.bottom or ()))]

    @cached_property
    def condition(self) -> Combination | None:
        """The probability of the condition."""
        if self.bottom is None:
            return None
        count = len(self.query.do) + len(self.query.given)
        bottom = [SignedFormula(part.sign, part.formula, part.positions[:count]) for part in self.bottom]
        return Combination(language.Query("P", self.query.given, self.query.do), bottom, None, self.exhaustive)

    @property
    def sources(self) -> list[TableSource]:
        """All sources."""
        return list(dict.fromkeys(source for part in self.parts for source in part.sources))

    @property
    def used(self) -> list[TableSource]:
        """Sources whose probabilities the formula uses."""
        return list(dict.fromkeys(source for part in self.parts for source in part.used))

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must have for the evaluation."""
        return frozenset().union(*(part.variables for part in self.parts))

    @property
    def answer_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""
        return frozenset(term.variable for term in self._terms).union(self.exhaustive)

    def cost(self, data: SourceTables) -> Cost:
        """Cost of the evaluation."""
        costs = [part.cost(data) for part in self.parts]
        return Cost(
            max(cost.largest for cost in costs), sum(cost.cells for cost in costs), sum(cost.reads for cost in costs)
        )

    def columns(self, data: SourceTables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identification.evaluation.columns`.

        Raises:
            DataError: If a variable has levels that the sums do not include.
        """
        for name, known in self.exhaustive.items():
            unknown = data.levels(name)[len(known) :]
            if unknown:
                raise DataError(
                    f"{name!r} has the level {unknown[0]!r}, but the query is identified only if its levels are "
                    f"{', '.join(map(str, known))}",
                    column=name,
                )
        levels: list[list[Hashable]] = []
        for column, term in enumerate(self._terms):
            if not data.has(term.variable):
                levels.append(["any" if term.value is None else term.value])
            elif term.value is None or column in free:
                levels.append(data.levels(term.variable))
            else:
                levels.append([data.levels(term.variable)[data.code(term.variable, term.value)]])
        shape = [len(values) for values in levels]
        low, high = self._sum(self.top, data, free, shape)
        is_zero = high <= 0
        if self.bottom is not None:
            bottom_low, bottom_high = self._sum(self.bottom, data, free, shape)
            low = np.divide(low, bottom_high, out=np.zeros(low.shape), where=bottom_high > 0)
            high = np.divide(high, bottom_low, out=np.ones(high.shape), where=bottom_low > 0)
            high = np.where(bottom_low > 0, np.minimum(high, np.maximum(low, 1.0)), 1.0)
        return Columns(low, high, is_zero, levels)

    def _sum(
        self, signed: Sequence[SignedFormula], data: SourceTables, free: Collection[int], shape: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        samples = [] if data.replicates is None else [data.replicates]
        low, high, size = (np.zeros([*samples, *shape]) for _ in range(3))
        for part in signed:
            free_columns = [part.positions[column] for column in free if part.positions[column] >= 0]
            values = part.formula.columns(data, free_columns)
            least, most = (_aligned(table, part.positions, len(samples)) for table in (values.low, values.high))
            low = low + (least if part.sign > 0 else -most)
            high = high + (most if part.sign > 0 else -least)
            size = size + most
        # differences of equal numbers are 0 up to rounding errors
        rounding = size * ROUNDING
        return np.where(np.abs(low) <= rounding, 0.0, low), np.where(np.abs(high) <= rounding, 0.0, high)

    def reason(self, data: SourceTables, row: Mapping[str, Hashable]) -> str | None:
        """Description of a condition without rows that matters in a row of the answer."""
        return next((reason for part in self.parts if (reason := part.reason(data, row)) is not None), None)

    def text(self, *, latex: bool) -> str:
        """The formula as a single line."""
        top = _written(self.top, latex)
        if self.bottom is None:
            return top
        bottom = _written(self.bottom, latex)
        return rf"\frac{{{top}}}{{{bottom}}}" if latex else f"([{top}] / [{bottom}])"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        content: dict[str, Any] = {"query": str(self.query)}
        for key, signed in (("numerator", self.top), ("denominator", self.bottom)):
            if signed is not None:
                content[key] = [{"sign": part.sign, **part.formula.to_json()} for part in signed]
        return content


class CaseFormula:
    """A formula for every level of a variable of the query.

    Args:
        query: The query.
        position: Position of the variable's column in the answer.
        levels: The levels.
        formulas: The formula at each level.
    """

    def __init__(
        self, query: language.Query, position: int, levels: Sequence[Any], formulas: Sequence[AnyFormula]
    ) -> None:
        self.query = query
        self.position = position
        self.levels = tuple(levels)
        self.formulas = tuple(formulas)
        self._terms = (*query.do, *query.given, *query.outcomes)
        is_condition = position < len(query.do) + len(query.given)
        self.is_partition = is_condition and all(formula.is_partition for formula in formulas)

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [term.label for term in self._terms]

    @cached_property
    def condition(self) -> CaseFormula | None:
        """The probability of the condition, if it is identified at every level."""
        conditions = [formula.condition for formula in self.formulas]
        if not self.query.given or None in conditions:
            return None
        if self.position >= len(self.query.do) + len(self.query.given):
            return None
        query = language.Query("P", self.query.given, self.query.do)
        return CaseFormula(query, self.position, self.levels, [part for part in conditions if part is not None])

    @property
    def sources(self) -> list[TableSource]:
        """All sources."""
        return list(dict.fromkeys(source for formula in self.formulas for source in formula.sources))

    @property
    def used(self) -> list[TableSource]:
        """Sources whose probabilities the formula uses."""
        return list(dict.fromkeys(source for formula in self.formulas for source in formula.used))

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must have for the evaluation."""
        return frozenset().union(*(formula.variables for formula in self.formulas))

    @property
    def answer_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""
        return frozenset().union(*(formula.answer_variables for formula in self.formulas))

    def cost(self, data: SourceTables) -> Cost:
        """Cost of the evaluation."""
        costs = [formula.cost(data) for formula in self.formulas]
        return Cost(
            max(cost.largest for cost in costs), sum(cost.cells for cost in costs), sum(cost.reads for cost in costs)
        )

    def columns(self, data: SourceTables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identification.evaluation.columns`.

        Raises:
            DataError: If the variable has more levels.
        """
        name = self._terms[self.position].variable
        known = data.levels(name)
        if len(known) > len(self.levels):
            raise DataError(
                f"{name!r} has the level {known[len(self.levels)]!r}, for which the estimand has no formula",
                column=name,
            )
        pieces = [formula.columns(data, free) for formula in self.formulas]
        # counted from the end: an axis of samples may come first
        axis = self.position - len(self._terms)
        low = np.concatenate([piece.low for piece in pieces], axis=axis)
        high = np.concatenate([piece.high for piece in pieces], axis=axis)
        is_zero = np.concatenate([piece.is_zero for piece in pieces], axis=axis)
        levels = [list(values) for values in pieces[0].levels]
        levels[self.position] = [level for piece in pieces for level in piece.levels[self.position]]
        return Columns(low, high, is_zero, levels)

    def reason(self, data: SourceTables, row: Mapping[str, Hashable]) -> str | None:
        """Description of a condition without rows that matters in a row of the answer."""
        label = self.labels[self.position]
        variable = self._terms[self.position].variable
        for level, formula in zip(self.levels, self.formulas, strict=True):
            if label not in row or data.code(variable, level) == data.levels(variable).index(row[label]):
                return formula.reason(data, row)
        return None

    def text(self, *, latex: bool) -> str:
        """The formula as a single line, with a case for each level."""
        term = self._terms[self.position]
        cases = [
            f"{formula.text(latex=latex)} at {language.Term(term.variable, level, term.world)}"
            for level, formula in zip(self.levels, self.formulas, strict=True)
        ]
        body = "; ".join(cases)
        return rf"\left\{{\text{{{body}}}\right\}}" if latex else "{" + body + "}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        cases = [
            {"level": level, **formula.to_json()} for level, formula in zip(self.levels, self.formulas, strict=True)
        ]
        return {"query": str(self.query), "variable": self._terms[self.position].variable, "cases": cases}


def _aligned(table: NDArray[np.float64], positions: Sequence[int], before: int) -> NDArray[np.float64]:
    """Align a table after its first ``before`` axes with the columns of the answer; absent columns have size 1."""
    axes = [before + column for column in positions if column >= 0]
    aligned = table.squeeze(tuple(k for k in range(before, table.ndim) if k not in axes))
    ordered = sorted(axes)
    aligned = aligned.transpose([*range(before), *(before + ordered.index(axis) for axis in axes)])
    sizes = iter(aligned.shape[before:])
    return aligned.reshape([*aligned.shape[:before], *(next(sizes) if column >= 0 else 1 for column in positions)])


class RuleMixture:
    """Mixture of terms by an unknown rule: identified, but without values.

    Args:
        query: The query.
        example: Formula of an example term.
    """

    is_partition = False
    condition: Combination | None = None

    def __init__(self, query: language.Query, example: Combination) -> None:
        self.query = query
        self._example = example
        self.sources: list[TableSource] = example.sources
        self.used: list[TableSource] = example.used
        self.variables: frozenset[str] = example.variables
        self.answer_variables: frozenset[str] = example.answer_variables

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [term.label for term in (*self.query.do, *self.query.given, *self.query.outcomes)]

    def cost(self, data: SourceTables) -> Cost:
        """Refuse the evaluation.

        Raises:
            QueryError: Always.
        """
        raise QueryError(f"{self.query}: the rule is not a table of levels, so its estimand cannot be evaluated")

    def columns(self, data: SourceTables, free: Collection[int] = ()) -> Columns:
        """Refuse the evaluation.

        Raises:
            QueryError: Always.
        """
        raise QueryError(f"{self.query}: the rule is not a table of levels, so its estimand cannot be evaluated")

    def reason(self, data: SourceTables, row: Mapping[str, Hashable]) -> str | None:
        """None."""
        return None

    def text(self, *, latex: bool) -> str:
        """The mixture as a single line."""
        body = self._example.text(latex=latex)
        return (
            rf"\text{{a mixture by the rule of terms such as }} {body}" if latex else f"mixture by the rule of {body}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"query": str(self.query), "mixture": self._example.to_json()}


def _written(signed: Sequence[SignedFormula], latex: bool) -> str:
    if len(signed) == 1 and signed[0].sign > 0:
        return signed[0].formula.text(latex=latex)
    parts: list[str] = []
    for part in signed:
        body = part.formula.text(latex=latex)
        body = rf"\left[{body}\right]" if latex else f"[{body}]"
        parts.append(("- " if part.sign < 0 else "+ " if parts else "") + body)
    return " ".join(parts)
