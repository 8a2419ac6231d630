"""Formulas put together from others: differences over the levels of a variable, their ratios, and cases by level."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mdcm import query as language
from mdcm.errors import DataError, QueryError
from mdcm.identify.evaluation import ROUNDING, Columns, Cost

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

    from mdcm.identify.estimand import Formula
    from mdcm.identify.tables import Source, Tables

__all__ = ["AnyFormula", "Combination", "Pieces", "Signed", "Unwritten"]


class AnyFormula(Protocol):
    """What an estimand needs of a formula for one query."""

    query: language.Query

    @property
    def labels(self) -> list[str]:
        """Names of the columns of its answer."""

    @property
    def is_partition(self) -> bool:
        """Whether the events at all levels of the outcomes exclude each other, and one of them happens."""

    @property
    def condition(self) -> AnyFormula | None:
        """The probability of what is given, where something is and it is determined."""

    @property
    def sources(self) -> Sequence[Source]:
        """All sources."""

    @property
    def used(self) -> list[Source]:
        """The sources that probabilities are of."""

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must hold to evaluate it."""

    @property
    def asked_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""

    def cost(self, data: Tables) -> Cost:
        """What evaluating it would cost."""

    def columns(self, data: Tables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identify.evaluation.columns`."""

    def reason(self, data: Tables, row: Mapping[str, Hashable]) -> str | None:
        """Which condition without a row matters in a row of the answer, in words."""

    def text(self, *, latex: bool) -> str:
        """The formula in one line."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""


@dataclass(frozen=True)
class Signed:
    """A probability that is added or subtracted.

    Attributes:
        sign: 1 or -1.
        formula: Its formula.
        places: For every column of the answer which column of the formula it is; -1 where it is none.
    """

    sign: int
    formula: Formula
    places: tuple[int, ...]

    @classmethod
    def of(cls, sign: int, formula: Formula, terms: Sequence[language.Term | None]) -> Signed:
        """The probability in an answer whose columns are the terms of the formula's query, None for what it lacks."""
        own = (*formula.query.do, *formula.query.given, *formula.query.outcomes)
        return cls(sign, formula, tuple(-1 if term is None or term not in own else own.index(term) for term in terms))


class Combination:
    """A sum of probabilities with signs, by another one where something is given.

    Args:
        query: The query that it answers, all of whose settings have values.
        top: P(outcomes, given).
        bottom: P(given), where something is.
        exhaustive: Levels by variable that the sums go over, which must be all.
    """

    def __init__(
        self,
        query: language.Query,
        top: Sequence[Signed],
        bottom: Sequence[Signed] | None,
        exhaustive: Mapping[str, Sequence[Any]],
    ) -> None:
        self.query = query
        self.top = tuple(top)
        self.bottom = None if bottom is None else tuple(bottom)
        self.exhaustive = dict(exhaustive)
        self._terms = (*query.do, *query.given, *query.outcomes)
        outcomes = range(len(self._terms) - len(query.outcomes), len(self._terms))
        # every probability must be about the outcomes as they are asked for, so that together they are the condition's
        self.is_partition = all(
            one.formula.is_partition and all(one.places[place] >= 0 for place in outcomes) for one in self.top
        )

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [term.label for term in self._terms]

    @property
    def parts(self) -> list[Formula]:
        """The formulas that it is made of."""
        return [one.formula for one in (*self.top, *(self.bottom or ()))]

    @cached_property
    def condition(self) -> Combination | None:
        """The probability of what is given."""
        if self.bottom is None:
            return None
        kept = len(self.query.do) + len(self.query.given)
        bottom = [Signed(one.sign, one.formula, one.places[:kept]) for one in self.bottom]
        return Combination(language.Query("P", self.query.given, self.query.do), bottom, None, self.exhaustive)

    @property
    def sources(self) -> list[Source]:
        """All sources."""
        return list(dict.fromkeys(source for part in self.parts for source in part.sources))

    @property
    def used(self) -> list[Source]:
        """The sources that probabilities are of."""
        return list(dict.fromkeys(source for part in self.parts for source in part.used))

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must hold to evaluate it."""
        return frozenset().union(*(part.variables for part in self.parts))

    @property
    def asked_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""
        return frozenset(term.variable for term in self._terms).union(self.exhaustive)

    def cost(self, data: Tables) -> Cost:
        """What evaluating it would cost."""
        costs = [part.cost(data) for part in self.parts]
        return Cost(max(one.largest for one in costs), sum(one.cells for one in costs), sum(one.reads for one in costs))

    def columns(self, data: Tables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identify.evaluation.columns`.

        Raises:
            DataError: If a variable has more levels than the sums go over.
        """
        for name, known in self.exhaustive.items():
            further = data.levels(name)[len(known) :]
            if further:
                raise DataError(
                    f"{name!r} has the level {further[0]!r}, and what is asked follows from the data only if its "
                    f"levels are {', '.join(map(str, known))}",
                    column=name,
                )
        levels: list[list[Hashable]] = []
        for place, term in enumerate(self._terms):
            if not data.has(term.variable):
                levels.append(["any" if term.value is None else term.value])
            elif term.value is None or place in free:
                levels.append(data.levels(term.variable))
            else:
                levels.append([data.levels(term.variable)[data.code(term.variable, term.value)]])
        shape = [len(values) for values in levels]
        low, high = self._sum(self.top, data, free, shape)
        is_zero = high <= 0
        if self.bottom is not None:
            below, above = self._sum(self.bottom, data, free, shape)
            low = np.divide(low, above, out=np.zeros(low.shape), where=above > 0)
            high = np.divide(high, below, out=np.ones(high.shape), where=below > 0)
            high = np.where(below > 0, np.minimum(high, np.maximum(low, 1.0)), 1.0)
        return Columns(low, high, is_zero, levels)

    def _sum(
        self, signed: Sequence[Signed], data: Tables, free: Collection[int], shape: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        samples = [] if data.replicates is None else [data.replicates]
        low, high, size = (np.zeros([*samples, *shape]) for _ in range(3))
        for one in signed:
            opened = [one.places[place] for place in free if one.places[place] >= 0]
            found = one.formula.columns(data, opened)
            down, up = (_aligned(table, one.places, len(samples)) for table in (found.low, found.high))
            low = low + (down if one.sign > 0 else -up)
            high = high + (up if one.sign > 0 else -down)
            size = size + up
        # a difference of equal numbers is no probability
        rounding = size * ROUNDING
        return np.where(np.abs(low) <= rounding, 0.0, low), np.where(np.abs(high) <= rounding, 0.0, high)

    def reason(self, data: Tables, row: Mapping[str, Hashable]) -> str | None:
        """Which condition without a row matters in a row of the answer."""
        return next((said for part in self.parts if (said := part.reason(data, row)) is not None), None)

    def text(self, *, latex: bool) -> str:
        """The formula in one line."""
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
                content[key] = [{"sign": one.sign, **one.formula.to_json()} for one in signed]
        return content


class Pieces:
    """A formula for every level of one variable of the query.

    Args:
        query: The query.
        place: Which column of the answer the levels are of.
        levels: The levels.
        formulas: The formula at each.
    """

    def __init__(
        self, query: language.Query, place: int, levels: Sequence[Any], formulas: Sequence[AnyFormula]
    ) -> None:
        self.query = query
        self.place = place
        self.levels = tuple(levels)
        self.formulas = tuple(formulas)
        self._terms = (*query.do, *query.given, *query.outcomes)
        is_condition = place < len(query.do) + len(query.given)
        self.is_partition = is_condition and all(one.is_partition for one in formulas)

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [term.label for term in self._terms]

    @cached_property
    def condition(self) -> Pieces | None:
        """The probability of what is given, where it is determined at every level."""
        found = [one.condition for one in self.formulas]
        if not self.query.given or None in found:
            return None
        if self.place >= len(self.query.do) + len(self.query.given):
            return None
        query = language.Query("P", self.query.given, self.query.do)
        return Pieces(query, self.place, self.levels, [one for one in found if one is not None])

    @property
    def sources(self) -> list[Source]:
        """All sources."""
        return list(dict.fromkeys(source for one in self.formulas for source in one.sources))

    @property
    def used(self) -> list[Source]:
        """The sources that probabilities are of."""
        return list(dict.fromkeys(source for one in self.formulas for source in one.used))

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must hold to evaluate it."""
        return frozenset().union(*(one.variables for one in self.formulas))

    @property
    def asked_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""
        return frozenset().union(*(one.asked_variables for one in self.formulas))

    def cost(self, data: Tables) -> Cost:
        """What evaluating it would cost."""
        costs = [one.cost(data) for one in self.formulas]
        return Cost(max(one.largest for one in costs), sum(one.cells for one in costs), sum(one.reads for one in costs))

    def columns(self, data: Tables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identify.evaluation.columns`.

        Raises:
            DataError: If the variable has more levels.
        """
        name = self._terms[self.place].variable
        known = data.levels(name)
        if len(known) > len(self.levels):
            raise DataError(
                f"{name!r} has the level {known[len(self.levels)]!r}, of which the estimand knows nothing", column=name
            )
        found = [one.columns(data, free) for one in self.formulas]
        # counted from the end: an axis of samples may come first
        axis = self.place - len(self._terms)
        low = np.concatenate([one.low for one in found], axis=axis)
        high = np.concatenate([one.high for one in found], axis=axis)
        is_zero = np.concatenate([one.is_zero for one in found], axis=axis)
        levels = [list(values) for values in found[0].levels]
        levels[self.place] = [level for one in found for level in one.levels[self.place]]
        return Columns(low, high, is_zero, levels)

    def reason(self, data: Tables, row: Mapping[str, Hashable]) -> str | None:
        """Which condition without a row matters in a row of the answer."""
        label = self.labels[self.place]
        for level, one in zip(self.levels, self.formulas, strict=True):
            if label not in row or data.code(self._terms[self.place].variable, level) == data.levels(
                self._terms[self.place].variable
            ).index(row[label]):
                return one.reason(data, row)
        return None

    def text(self, *, latex: bool) -> str:
        """The formula in one line, a case for each level."""
        term = self._terms[self.place]
        cases = [
            f"{one.text(latex=latex)} at {language.Term(term.variable, level, term.world)}"
            for level, one in zip(self.levels, self.formulas, strict=True)
        ]
        body = "; ".join(cases)
        return rf"\left\{{\text{{{body}}}\right\}}" if latex else "{" + body + "}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        cases = [{"level": level, **one.to_json()} for level, one in zip(self.levels, self.formulas, strict=True)]
        return {"query": str(self.query), "variable": self._terms[self.place].variable, "cases": cases}


def _aligned(table: NDArray[np.float64], places: Sequence[int], before: int) -> NDArray[np.float64]:
    """Axes in the order of the answer's columns; what is no column of it has one level, and the other way round.

    As many axes as ``before`` says come first and stay.
    """
    axes = [before + place for place in places if place >= 0]
    kept = table.squeeze(tuple(k for k in range(before, table.ndim) if k not in axes))
    left = sorted(axes)
    kept = kept.transpose([*range(before), *(before + left.index(axis) for axis in axes)])
    sizes = iter(kept.shape[before:])
    return kept.reshape([*kept.shape[:before], *(next(sizes) if place >= 0 else 1 for place in places)])


class Unwritten:
    """What is determined, but by a rule that is not known: it has no numbers.

    Args:
        query: The query.
        example: A formula of what the rule mixes.
    """

    is_partition = False
    condition: Combination | None = None

    def __init__(self, query: language.Query, example: Combination) -> None:
        self.query = query
        self._example = example
        self.sources: list[Source] = example.sources
        self.used: list[Source] = example.used
        self.variables: frozenset[str] = example.variables
        self.asked_variables: frozenset[str] = example.asked_variables

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [term.label for term in (*self.query.do, *self.query.given, *self.query.outcomes)]

    def cost(self, data: Tables) -> Cost:
        """What evaluating it would cost.

        Raises:
            QueryError: Always.
        """
        raise QueryError(f"{self.query}: the rule is no table of levels, so its estimand cannot be evaluated")

    def columns(self, data: Tables, free: Collection[int] = ()) -> Columns:
        """Values, of which there are none.

        Raises:
            QueryError: Always.
        """
        raise QueryError(f"{self.query}: the rule is no table of levels, so its estimand cannot be evaluated")

    def reason(self, data: Tables, row: Mapping[str, Hashable]) -> str | None:
        """Nothing."""
        return None

    def text(self, *, latex: bool) -> str:
        """What is mixed, in one line."""
        body = self._example.text(latex=latex)
        return (
            rf"\text{{a mixture by the rule of terms such as }} {body}" if latex else f"mixture by the rule of {body}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"query": str(self.query), "mixture": self._example.to_json()}


def _written(signed: Sequence[Signed], latex: bool) -> str:
    if len(signed) == 1 and signed[0].sign > 0:
        return signed[0].formula.text(latex=latex)
    parts: list[str] = []
    for one in signed:
        body = one.formula.text(latex=latex)
        body = rf"\left[{body}\right]" if latex else f"[{body}]"
        parts.append(("- " if one.sign < 0 else "+ " if parts else "") + body)
    return " ".join(parts)
