"""Estimands: expressions over distributions of data sets, as text, as JSON, and evaluated on data."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mdcm import query as language
from mdcm.data.levels import as_word
from mdcm.errors import DataError, MdcmError, QueryError
from mdcm.identification.evaluation import Columns, Cost, columns, cost, evaluate, unseen_condition
from mdcm.identification.plugin import MOST_UNSEEN, Estimate, estimate_of, is_sum, with_error
from mdcm.identification.question import AnswerColumn, Symbol, as_text
from mdcm.identification.tables import SourceTables, TableSource
from mdcm.text.advice import advice, warn
from mdcm.text.limits import seeded

if TYPE_CHECKING:
    import pandas as pd

    from mdcm.identification.combination import AnyFormula

__all__ = ["Estimand", "Formula", "FormulaTerm"]

# longest text in characters; shared subexpressions are repeated at every use
_LONGEST_TEXT = 100_000
# fewest bootstrap samples, whose standard error is accurate to 13 %
_FEWEST_REPLICATES = 30
# an estimate without errors may take at most 1 / _LEAST_RATIO of the allowed work
_LEAST_RATIO = 8


@dataclass(frozen=True)
class FormulaTerm:
    """A term of a formula; operands are indices of earlier terms.

    Attributes:
        kind: Operation: P(symbols | given) under do(set) in the data of ``source``; a product (1 without operands);
            a quotient; a sum over ``symbols``; ``"any"``, an operand that is constant in ``symbols``; ``"cases"``, the
            first operand whose source has the required values; ``"equal"``, 1 if two symbols are equal, else 0.
        source: Index of the source, or -1.
        symbols: Indices of symbols.
        given: Indices of symbols; for cases the sources of the operands.
        set: Indices of symbols.
        operands: Indices of terms.
    """

    kind: Literal["probability", "product", "quotient", "sum", "any", "cases", "equal"]
    source: int
    symbols: tuple[int, ...]
    given: tuple[int, ...]
    set: tuple[int, ...]
    operands: tuple[int, ...]


class Formula:
    """An expression that equals a probability in every model of the graph.

    Args:
        query: The query.
        answer_columns: Columns of the answer.
        sources: Sources of the probabilities.
        construct: Function that computes the terms and the symbol with each index, called on first use.
        condition: Function that returns the formula of the probability of the condition, or None.
        settings: Indices of the symbols that are set in worlds.
    """

    def __init__(
        self,
        query: language.Query,
        answer_columns: Sequence[AnswerColumn],
        sources: Sequence[TableSource],
        construct: Callable[[], tuple[list[FormulaTerm], Callable[[int], Symbol]]],
        condition: Callable[[], Formula | None] = lambda: None,
        settings: Iterable[int] = (),
    ) -> None:
        self.query = query
        self.answer_columns = tuple(answer_columns)
        self.sources = tuple(sources)
        self._construct = construct
        self._construct_condition = condition
        symbols = [column.symbol for column in self.answer_columns]
        split = len(symbols) - len(query.outcomes)
        outcomes, others = symbols[split:], {*symbols[:split], *settings}
        # whether the events at all levels of the outcomes are disjoint and exhaustive
        self.is_partition = len(set(outcomes)) == len(outcomes) and others.isdisjoint(outcomes)
        self._open = frozenset(outcomes if self.is_partition else ())

    @cached_property
    def _content(self) -> tuple[tuple[FormulaTerm, ...], Callable[[int], Symbol]]:
        terms, symbol = self._construct()
        return tuple(terms), symbol

    @property
    def terms(self) -> tuple[FormulaTerm, ...]:
        """The terms; the last is the formula."""
        return self._content[0]

    def symbol(self, number: int) -> Symbol:
        """The symbol with an index."""
        return self._content[1](number)

    @cached_property
    def condition(self) -> Formula | None:
        """Formula of the probability of the condition; None without a condition or if it is not identified."""
        return self._construct_condition()

    @cached_property
    def _summed(self) -> frozenset[int]:
        return frozenset(s for term in self.terms if term.kind in {"sum", "any"} for s in term.symbols)

    def is_constant(self, s: int) -> bool:
        """Whether a symbol has a value, and no term sums over it."""
        return s not in self._summed and self.symbol(s).value is not None

    def is_fixed(self, s: int) -> bool:
        """Whether a symbol is a constant for which tables need no axis; outcomes have one, to be normalised."""
        return s not in self._open and self.is_constant(s)

    def at(self, values: Mapping[int, Any]) -> Formula:
        """The formula restricted to values of some symbols."""
        fixed = {s: replace(self.symbol(s), value=value) for s, value in values.items() if s not in self._summed}

        def construct() -> tuple[list[FormulaTerm], Callable[[int], Symbol]]:
            return list(self.terms), lambda number: fixed.get(number) or self.symbol(number)

        formula = Formula(self.query, self.answer_columns, self.sources, construct)
        formula._open = self._open.difference(fixed)
        return formula

    @property
    def used(self) -> list[TableSource]:
        """Sources whose probabilities the formula uses."""
        numbers = {s for term in self.terms for s in ((term.source,) if term.kind != "cases" else term.given) if s >= 0}
        return [self.sources[number] for number in sorted(numbers)]

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must have for the evaluation."""
        numbers = {
            s for term in self.terms if term.kind == "probability" for s in (*term.symbols, *term.given, *term.set)
        }
        return frozenset(self.symbol(s).variable for s in numbers)

    def names(self, symbols: Iterable[int]) -> list[str]:
        """Names of the variables of symbols."""
        return [self.symbol(s).variable for s in symbols]

    @property
    def labels(self) -> list[str]:
        """Names of the columns."""
        return [column.label for column in self.answer_columns]

    @property
    def answer_variables(self) -> frozenset[str]:
        """Names of the variables of the columns."""
        return frozenset(self.names(column.symbol for column in self.answer_columns))

    def cost(self, data: SourceTables) -> Cost:
        """Cost of the evaluation."""
        return cost(self, data)

    def columns(self, data: SourceTables, free: Collection[int] = ()) -> Columns:
        """Values by the columns of the answer; see :func:`mdcm.identification.evaluation.columns`."""
        if self not in data.evaluated:
            data.evaluated[self] = evaluate(self, data)
        return columns(self, data.evaluated[self], data, free)

    def reason(self, data: SourceTables, row: Mapping[str, Hashable]) -> str | None:
        """Description of the condition without rows that matters most in a row of the answer."""
        condition = unseen_condition(self, data, row)
        if condition is None:
            return None
        number, codes = condition
        source = self.sources[number]
        among = f" of {source}" if source.targets or source.shown else ""
        shown = ", ".join(f"{name}={data.levels(name)[code]}" for name, code in codes.items())
        return f"no row{among} has {shown}" if shown else f"no row{among} counts"

    # ------------------------------------------------------------------ text

    def text(self, *, latex: bool) -> str:
        """The formula as a single line."""
        return _Writer(self, latex).written()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        numbers = sorted(
            {s for term in self.terms for s in (*term.symbols, *term.set)}
            | {s for term in self.terms if term.kind != "cases" for s in term.given}
        )
        position = {number: k for k, number in enumerate(numbers)}
        symbols = []
        for number in numbers:
            symbol = self.symbol(number)
            symbols.append({"variable": symbol.variable, "value": symbol.value})
        terms = []
        for t in self.terms:
            entry: dict[str, Any] = {"kind": t.kind}
            if t.source >= 0:
                entry["source"] = {"datasets": list(self.sources[t.source].names), "do": self.sources[t.source].targets}
            for key, part in (("symbols", t.symbols), ("given", t.given), ("do", t.set)):
                if part:
                    entry[key] = list(part) if t.kind == "cases" else [position[s] for s in part]
            if t.operands:
                entry["operands"] = list(t.operands)
            terms.append(entry)
        return {"query": str(self.query), "symbols": symbols, "terms": terms}


class Estimand:
    """Expression over distributions of data sets that equals the query in every positive model of the graph.

    Attributes:
        query: The query.
    """

    def __init__(
        self,
        query: language.Expression,
        formulas: Sequence[AnyFormula],
        levels: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.query = query
        self._formulas = tuple(formulas)
        self._levels = levels or {}

    def __str__(self) -> str:
        return self._text(latex=False)

    def latex(self) -> str:
        r"""The estimand in LaTeX, for math mode.

        Raises:
            QueryError: If the text is too long.

        Example:
            >>> from mdcm.identification import identify
            >>> identify("Z -> X -> Y; Z -> Y", "P(Y | do(X))").estimand.latex()
            '\\sum_{Z} P(Z)\\, P(Y \\mid Z, X)'
        """
        return self._text(latex=True)

    def to_json(self) -> dict[str, Any]:
        """Signs and formulas as plain JSON values.

        Returns:
            ``query`` and ``formulas``; a formula has symbols and terms, whose operands are indices of earlier terms;
            the last term is the formula.
        """
        formulas = []
        for (sign, query), formula in zip(self.query.terms, self._formulas, strict=True):
            formulas.append({"sign": sign, "kind": query.kind, **formula.to_json()})
        return {"query": str(self.query), "formulas": formulas}

    def evaluate(self, data: Any, weights: Any = None) -> pd.Series[float] | float:
        """Plug-in estimate of the query: the estimand with frequencies in the data for its probabilities.

        Args:
            data: Discrete data, a column per variable; or an exact distribution, a Series of probabilities whose index
                levels are named after the variables, as :meth:`mdcm.scm.DiscreteSCM.exact` returns. If the estimand
                uses experiments: a mapping from frozensets of intervened variables (or names of data sets) to tables,
                or a list of :class:`mdcm.Dataset`.
            weights: Weight of every row of a table, or the name of its column; for a mapping a mapping with the same
                keys.

        Returns:
            Probabilities by the levels of the query's terms: interventions, conditions, outcomes; a term with a value
            has that level only. For an expectation, numbers by interventions and conditions; for a sum or a difference
            a single number. If a condition with weight has no rows, the known probabilities are normalised to sum to
            1, provided they hold at least 80 % of the weight; otherwise, and if the condition of the query has
            probability 0, the row is NaN.

        Raises:
            DataError: If a variable is missing, or a value of the query does not occur; if a single number cannot be
                estimated, since its condition has probability 0 or too much of its weight has no rows.
            QueryError: If an expectation is of a variable whose levels are not numbers.
            MdcmError: If a table would be too large.

        Warns:
            UserWarning: If a row is NaN or normalised, with the condition that has no rows.

        Complexity:
            Variable elimination: exponential in the width of the estimand, not in the number of variables.

        Example:
            >>> import pandas as pd
            >>> from mdcm.identification import identify
            >>> rows = pd.DataFrame({"X": [0, 1, 0, 1], "Y": [0, 1, 1, 1]})
            >>> identify("X -> Y", "P(Y | do(X=1))").estimand.evaluate(rows)
            X  Y
            1  0    0.0
               1    1.0
            Name: probability, dtype: float64
        """
        estimate = self._with_warnings(self.estimate(data, weights))
        return float(estimate.values.iloc[0]) if is_sum(self.query) else estimate.values

    def evaluate_with_error(
        self, data: Any, weights: Any = None, *, replicates: int = 100, seed: int = 0
    ) -> tuple[pd.Series[float], pd.Series[float]]:
        """Plug-in estimate as in :meth:`evaluate`, with standard errors from a Bayesian bootstrap over the rows.

        Rows of a group of a :class:`mdcm.Dataset` share a weight. In every sample the conditional probabilities are
        drawn with an additional row, spread over the levels, so that no error is 0 because few rows agree; weight
        without rows adds the standard deviation of a uniform distribution over its share.

        Args:
            data: As for :meth:`evaluate`; rows, not an exact distribution.
            weights: As for :meth:`evaluate`.
            replicates: Number of bootstrap samples, at least 2.
            seed: Seed.

        Returns:
            Estimates and their standard errors, with the same index; a single number each for a sum or a difference.
            Both are NaN without an estimate.

        Raises:
            DataError: As :meth:`evaluate`.
            QueryError: As :meth:`evaluate`.
            MdcmError: As :meth:`evaluate`.

        Warns:
            UserWarning: As :meth:`evaluate`.

        References:
            Rubin (1981), The Bayesian bootstrap.
        """
        estimate = self._with_warnings(self.estimate(data, weights, replicates=replicates, seed=seed))
        assert estimate.stderr is not None
        return estimate.values, estimate.stderr

    def estimate(
        self,
        data: Any,
        weights: Any = None,
        *,
        replicates: int = 0,
        seed: int = 0,
        most_unseen: float = MOST_UNSEEN,
        most_work: int | None = None,
    ) -> Estimate:
        """The plug-in estimate with its notes, without warnings.

        Args:
            data: As for :meth:`evaluate`.
            weights: As for :meth:`evaluate`.
            replicates: Number of bootstrap samples, at least 2; 0 for no standard errors.
            seed: Seed.
            most_unseen: Largest share of the weight on conditions without rows for which an estimate is made.
            most_work: Largest number of cells and rows in all bootstrap samples together. If ``replicates`` samples
                exceed it, their number is reduced, but not below 30, and the notes name no condition without rows.

        Raises:
            DataError: If a variable is missing, or a value of the query does not occur.
            QueryError: If an expectation is of a variable whose levels are not numbers.
            MdcmError: If a table would be too large, or the estimate alone takes more than an eighth of ``most_work``.
        """
        if replicates == 1 or replicates < 0:
            raise ValueError(f"a standard error needs at least 2 samples, not {replicates}")
        seed = seeded(seed)
        tables = self._tables(data, weights)
        if replicates:
            tables = tables.compressed(self._columns)
        costs = [formula.cost(tables) for formula in self._formulas]
        explains = True
        if most_work is not None:
            work = sum(formula_cost.cells + formula_cost.reads for formula_cost in costs)
            if _LEAST_RATIO * work > most_work:
                raise MdcmError(
                    f"it takes {work:,} numbers, more than the {most_work // _LEAST_RATIO:,} that are computed beside "
                    "an answer; use evaluate() of the estimand to compute it"
                )
            explains = replicates * work <= most_work
            replicates = min(replicates, max(_FEWEST_REPLICATES, most_work // work))
        for formula_cost in costs:
            formula_cost.check(max(1, replicates))
        estimate = estimate_of(self._formulas, self.query, tables, most_unseen, explains=explains)
        return with_error(estimate, self._formulas, self.query, tables, replicates, seed) if replicates else estimate

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must have for the evaluation."""
        return frozenset().union(*(formula.variables for formula in self._formulas))

    @property
    def _columns(self) -> frozenset[str]:
        """Columns that are used if present."""
        conditions = [formula.condition for formula in self._formulas]
        variables = [formula.answer_variables for formula in self._formulas]
        variables += [condition.variables for condition in conditions if condition is not None]
        return self.variables.union(*variables)

    def _tables(self, data: Any, weights: Any) -> SourceTables:
        sources = dict.fromkeys(source for formula in self._formulas for source in formula.sources)
        conditions = [formula.condition for formula in self._formulas]
        sources.update(
            dict.fromkeys(source for condition in conditions if condition is not None for source in condition.used)
        )
        used = dict.fromkeys(source for formula in self._formulas for source in formula.used)
        return SourceTables(data, tuple(sources), tuple(used), weights, self._levels)

    def _with_warnings(self, estimate: Estimate) -> Estimate:
        single = is_sum(self.query) or self.query.query.is_number
        if single and estimate.values.isna().any():
            raise DataError("; ".join(estimate.notes))
        for note in estimate.notes:
            warn(note)
        return estimate

    def _text(self, *, latex: bool) -> str:
        written: list[str] = []
        for (sign, query), formula in zip(self.query.terms, self._formulas, strict=True):
            text = formula.text(latex=latex)
            if query.kind == "E":
                variable = query.outcomes[0].variable
                name = latex_word(variable) if latex else as_word(variable)
                text = rf"\sum_{{{name}}} {name}\, {text}" if latex else f"sum_{{{name}}} {name} {text}"
            if len(self.query.terms) > 1:
                text = rf"\left[{text}\right]" if latex else f"[{text}]"
            written.append(("- " if sign < 0 else "+ " if written else "") + text)
        return " ".join(written)


class _Writer:
    """Writer of a formula as text; primes distinguish symbols with the same name."""

    def __init__(self, formula: Formula, latex: bool) -> None:
        self.formula = formula
        self.latex = latex
        self.length = 0
        # summation variables must differ from free variables of the same name
        symbols = [formula.symbol(column.symbol) for column in formula.answer_columns]
        self.outside = frozenset(self._quoted(symbol.variable) for symbol in symbols)
        self.free: dict[int, str] = {}
        names: set[str] = set()
        for column, symbol in zip(formula.answer_columns, symbols, strict=True):
            if column.symbol in self.free or symbol.value is not None:
                continue
            name = self._quoted(symbol.variable)
            while name in names:
                name += "'"
            names.add(name)
            self.free[column.symbol] = name

    def written(self) -> str:
        # terms can be nested deeper than Python's stack
        stack = [self._write(len(self.formula.terms) - 1, self.free, False)]
        result: str | None = None
        while stack:
            try:
                stack.append(stack[-1].send(result) if result is not None else next(stack[-1]))
                result = None
            except StopIteration as done:
                stack.pop()
                result = done.value
        assert result is not None
        return result

    def _name(self, s: int, env: Mapping[int, str]) -> str:
        if s in env:
            return env[s]
        symbol = self.formula.symbol(s)
        name = self._quoted(symbol.variable)
        if symbol.value is None:
            return name
        value = as_text(symbol.value)
        return f"{name}={self._quoted(value) if isinstance(symbol.value, str) else value}"

    def _quoted(self, text: str) -> str:
        return latex_word(text) if self.latex else as_word(text)

    def _write(self, i: int, env: Mapping[int, str], inside: bool) -> Generator[Any, str, str]:
        term = self.formula.terms[i]
        latex = self.latex
        if term.kind == "probability":
            text = self._probability(term, env)
            self.length += len(text)
            if self.length > _LONGEST_TEXT:
                remedy = advice("evaluate and to_json do not need it", "--json shows its terms")
                raise QueryError(f"the estimand is too long for a text; {remedy}")
            return text
        if term.kind == "equal":
            first, second = (self._name(s, env) for s in term.symbols)
            values = [self.formula.symbol(s).value for s in term.symbols]
            if None not in values:
                return "0"
            return rf"1[{first} = {second}]"
        if term.kind == "product":
            written: list[str] = []
            for k, operand in enumerate(term.operands):
                # a sum extends as far as possible, so a sum before the last factor needs brackets
                written.append((yield self._write(operand, env, inside or k + 1 < len(term.operands))))
            return (r"\, " if latex else " ").join(written) or "1"
        if term.kind == "quotient":
            top = yield self._write(term.operands[0], env, False)
            bottom = yield self._write(term.operands[1], env, False)
            return rf"\frac{{{top}}}{{{bottom}}}" if latex else f"([{top}] / [{bottom}])"
        if term.kind == "any":
            return (yield self._write(term.operands[0], env, inside))
        if term.kind == "cases":
            parts = []
            for source, operand in zip(term.given, term.operands, strict=True):
                text = yield self._write(operand, env, False)
                parts.append(f"{text} where {self.formula.sources[source]} sets it")
            body = "; ".join(parts)
            return rf"\left\{{\text{{{body}}}\right\}}" if latex else "{" + body + "}"
        bound = dict(env)
        taken = self.outside.union(env.values())
        for s in term.symbols:
            name = self._quoted(self.formula.symbol(s).variable)
            while name in taken:
                name += "'"
            bound[s] = name
            taken = taken | {name}
        names = ", ".join(self._name(s, bound) for s in term.symbols)
        body = yield self._write(term.operands[0], bound, False)
        text = f"{chr(92) if latex else ''}sum_{{{names}}} {body}"
        if not inside:
            return text
        return rf"\left[{text}\right]" if latex else f"[{text}]"

    def _probability(self, term: FormulaTerm, env: Mapping[int, str]) -> str:
        conditions = [self._name(s, env) for s in term.given]
        if term.set:
            conditions.insert(0, f"do({', '.join(self._name(s, env) for s in term.set)})")
        elif self.formula.sources[term.source].targets:
            # an experiment whose intervention does not affect this probability
            targets = self.formula.sources[term.source].targets
            conditions.insert(0, f"do({', '.join(map(self._quoted, targets))})")
        bar = (r" \mid " if self.latex else " | ") + ", ".join(conditions) if conditions else ""
        source = self.formula.sources[term.source]
        label = ""
        if source.shown:
            names = ", ".join(source.names)
            label = rf"_{{\text{{{_escaped(names)}}}}}" if self.latex else f"_{{{names}}}"
        return f"P{label}({', '.join(self._name(s, env) for s in term.symbols)}{bar})"


def latex_word(text: str) -> str:
    """A name or value for LaTeX's math mode, as text if it is more than a word."""
    escaped = _escaped(text)
    return escaped if as_word(text) == text else rf"\text{{{escaped}}}"


def _escaped(text: str) -> str:
    return re.sub(r"([_&%$#{}])", r"\\\1", text)
