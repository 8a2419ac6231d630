"""Estimands: expressions over what data show, as text, as JSON, and evaluated on data."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mdcm import query as language
from mdcm.errors import QueryError
from mdcm.factors import Factor, contract
from mdcm.identify.question import Asked, Symbol, as_text
from mdcm.identify.tables import Source, Tables

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Estimand", "Formula", "Term"]

# far more characters than anybody reads; shared subexpressions are written out wherever they are used
_LONGEST_TEXT = 100_000

Factors = list[Factor]


@dataclass(frozen=True)
class Term:
    """One term of a formula; operands are numbers of earlier terms.

    Attributes:
        kind: What it is: P(symbols | given) under do(set) in the data of ``source``; a product (1 without operands);
            a quotient; a sum over ``symbols``; ``"any"``, an operand that is the same at all values of ``symbols``;
            ``"cases"``, the first operand whose source has the values needed; ``"equal"``, 1 where two symbols agree.
        source: Number of the source, or -1.
        symbols: Numbers of symbols.
        given: Numbers of symbols; for cases the sources of the operands.
        set: Numbers of symbols.
        operands: Numbers of terms.
    """

    kind: Literal["probability", "product", "quotient", "sum", "any", "cases", "equal"]
    source: int
    symbols: tuple[int, ...]
    given: tuple[int, ...]
    set: tuple[int, ...]
    operands: tuple[int, ...]


class Formula:
    """An expression that equals one probability in every model of the graph.

    Args:
        query: The query.
        asked: Columns of the answer.
        sources: What the probabilities are of.
        find: Computes terms and symbols when they are first needed.
    """

    def __init__(
        self,
        query: language.Query,
        asked: Sequence[Asked],
        sources: Sequence[Source],
        find: Callable[[], tuple[list[Term], Callable[[int], Symbol]]],
    ) -> None:
        self.query = query
        self.asked = tuple(asked)
        self.sources = tuple(sources)
        self._find = find

    @cached_property
    def _content(self) -> tuple[tuple[Term, ...], Callable[[int], Symbol]]:
        terms, symbol = self._find()
        return tuple(terms), symbol

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms; the last one is the formula."""
        return self._content[0]

    def symbol(self, number: int) -> Symbol:
        """The symbol of a number in a term."""
        return self._content[1](number)

    @property
    def used(self) -> set[int]:
        """Numbers of the sources that probabilities are of."""
        return {term.source for term in self.terms if term.source >= 0}

    # ------------------------------------------------------------------ text

    def text(self, *, latex: bool) -> str:
        """The formula in one line."""
        return _Writer(self, latex).written()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        numbers = sorted(
            {s for term in self.terms for s in (*term.symbols, *term.set)}
            | {s for term in self.terms if term.kind != "cases" for s in term.given}
        )
        place = {number: k for k, number in enumerate(numbers)}
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
                    entry[key] = list(part) if t.kind == "cases" else [place[s] for s in part]
            if t.operands:
                entry["operands"] = list(t.operands)
            terms.append(entry)
        return {"query": str(self.query), "symbols": symbols, "terms": terms}

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, data: Tables) -> tuple[NDArray[np.float64], list[list[Any]]]:
        """Probabilities with one axis per column of the answer, and the levels of every axis."""
        values: list[Factors] = []
        for term in self.terms:
            values.append(self._value(term, [values[i] for i in term.operands], data))
        last = values[-1]
        axes = list(dict.fromkeys(column.symbol for column in self.asked))
        levels: dict[int, list[Any]] = {}
        codes: dict[int, int] = {}
        for s in dict.fromkeys([*axes, *_scope(last)]):
            symbol = self.symbol(s)
            if symbol.value is not None and not data.has(symbol.variable):
                # what makes no difference need not be in the data
                levels[s], codes[s] = [symbol.value], 0
                continue
            levels[s] = data.levels(symbol.variable)
            if symbol.value is not None:
                codes[s] = data.code(symbol.variable, symbol.value, as_text)
        last = [_sliced(factor, codes) for factor in last]
        free = [s for s in axes if s not in codes]
        scope = _scope(last)
        last += [Factor((s,), np.ones(len(levels[s]))) for s in free if s not in scope]
        joint = _dense(last, free)
        # one axis per column: a symbol may stand in two of them, and those with a value have one level
        shape, kept = [], []
        for column in self.asked:
            if column.symbol in codes:
                kept.append([levels[column.symbol][codes[column.symbol]]])
            else:
                kept.append(list(levels[column.symbol]))
            shape.append(len(kept[-1]))
        # columns are in the order of the axes, and each free symbol is asked for once
        return joint.reshape(shape), kept

    def _value(self, term: Term, operands: list[Factors], data: Tables) -> Factors:
        if term.kind == "probability":
            parts = (term.given, term.symbols, term.set)
            table = data.conditional(term.source, *map(self._names, parts))
            return [Factor((*term.set, *term.given, *term.symbols), table)]
        if term.kind == "product":
            return [factor for operand in operands for factor in operand]
        if term.kind == "sum":
            kept = [s for s in _scope(operands[0]) if s not in term.symbols]
            missing = [s for s in term.symbols if s not in _scope(operands[0])]
            scale = math.prod(len(data.levels(self.symbol(s).variable)) for s in missing)
            return [Factor(tuple(kept), scale * _dense(operands[0], kept))]
        if term.kind == "any":
            kept = [s for s in _scope(operands[0]) if s not in term.symbols]
            # equal at all values, but in data only about: all of them have a say
            weight = Factor(term.symbols, data.conditional(term.source, (), self._names(term.symbols)))
            return [Factor(tuple(kept), _dense([*operands[0], weight], kept))]
        if term.kind == "cases":
            return [self._cases(term, operands, data)]
        if term.kind == "equal":
            size = len(data.levels(self.symbol(term.symbols[0]).variable))
            return [Factor(term.symbols, np.eye(size))]
        scope = _scope([*operands[0], *operands[1]])
        return [Factor(tuple(scope), _ratio(operands[0], operands[1], scope))]

    def _names(self, symbols: Sequence[int]) -> list[str]:
        return [self.symbol(s).variable for s in symbols]

    def _cases(self, term: Term, operands: list[Factors], data: Tables) -> Factor:
        scope = _scope([factor for operand in operands for factor in operand])
        shape = [len(data.levels(self.symbol(s).variable)) for s in scope]
        result = np.zeros(shape)
        open_ = np.ones(shape, dtype=bool)
        for source, operand in zip(term.given, operands, strict=True):
            targets = self.sources[source].targets
            own = [s for s in _scope(operand) if self.symbol(s).variable in targets]
            present = _spread(data.counts(source, self._names(own)) > 0, own, scope, shape)
            value = _spread(_dense(operand, _scope(operand)), _scope(operand), scope, shape)
            take = open_ & present
            result[take] = value[take]
            open_ &= ~present
        return Factor(tuple(scope), result)


class Estimand:
    """An expression over what data show that equals the query in every model of the graph with positive probabilities.

    Attributes:
        query: What it answers.
    """

    def __init__(
        self,
        query: language.Expression,
        formulas: Sequence[Formula],
        levels: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.query = query
        self._formulas = tuple(formulas)
        self._levels = levels or {}

    def __str__(self) -> str:
        return self._text(latex=False)

    def latex(self) -> str:
        r"""The estimand in LaTeX, to be set in math mode.

        Raises:
            QueryError: If it is too long to be read by anybody.

        Example:
            >>> from mdcm.identify import identify
            >>> identify("Z -> X -> Y; Z -> Y", "P(Y | do(X))").estimand.latex()
            '\\sum_{Z} P(Z)\\, P(Y \\mid Z, X)'
        """
        return self._text(latex=True)

    def to_json(self) -> dict[str, Any]:
        """Signs and formulas as plain JSON values.

        Returns:
            ``query`` and ``formulas``; a formula has symbols and terms, whose operands are numbers of earlier terms,
            the last term being the formula.
        """
        formulas = []
        for (sign, query), formula in zip(self.query.terms, self._formulas, strict=True):
            formulas.append({"sign": sign, "kind": query.kind, **formula.to_json()})
        return {"query": str(self.query), "formulas": formulas}

    def evaluate(self, data: Any, weights: Any = None) -> pd.Series[float] | float:
        """Plug-in estimate of the query: every probability in the estimand replaced by the data's.

        Args:
            data: Discrete data, a column per variable; or an exact distribution, a Series of probabilities whose index
                levels are named after the variables, as :meth:`mdcm.scm.DiscreteSCM.exact` returns. Where the
                estimand uses experiments: a mapping from frozensets of intervened variables (or names of data sets)
                to tables, or a list of :class:`mdcm.Dataset`.
            weights: Weight of every row of a table; for a mapping a mapping with the same keys.

        Returns:
            Probabilities by the levels of the query's terms: those set, those given, the outcomes; a term with a value
            has that level only. For an expectation numbers by those set and given; for a sum or a difference one
            number.

        Raises:
            DataError: If a variable is missing, or a value of the query does not occur.
            QueryError: If an expectation is of a variable whose levels are no numbers.

        Complexity:
            By variable elimination: exponential in the width of the estimand, not in the number of variables.

        Example:
            >>> import pandas as pd
            >>> from mdcm.identify import identify
            >>> rows = pd.DataFrame({"X": [0, 1, 0, 1], "Y": [0, 1, 1, 1]})
            >>> identify("X -> Y", "P(Y | do(X=1))").estimand.evaluate(rows)
            X  Y
            1  0    0.0
               1    1.0
            Name: probability, dtype: float64
        """
        tables = self.tables(data, weights)
        result = self.evaluate_tables(tables)
        if tables.empty:
            warnings.warn(
                f"{tables.empty} combinations of conditions have no row; what is conditioned on them counts as 0",
                UserWarning,
                stacklevel=2,
            )
        return result

    @property
    def variables(self) -> frozenset[str]:
        """Names of the variables that data must hold to evaluate it."""
        return frozenset(
            formula.symbol(s).variable
            for formula in self._formulas
            for term in formula.terms
            if term.kind == "probability"
            for s in (*term.symbols, *term.given, *term.set)
        )

    def evaluate_with_error(
        self, data: Any, weights: Any = None, *, replicates: int = 100, seed: int = 0
    ) -> tuple[pd.Series[float], pd.Series[float]]:
        """As :meth:`evaluate`, with standard errors from a bootstrap over the rows.

        Args:
            data: As for :meth:`evaluate`; rows, not an exact distribution.
            weights: As for :meth:`evaluate`.
            replicates: Number of bootstrap samples, at least 2.
            seed: Seed.

        Returns:
            Estimates and their standard errors, with one index; one number each for a sum or a difference.

        References:
            Efron (1979), Bootstrap methods: another look at the jackknife.
        """
        import pandas as pd

        tables = self.tables(data, weights)
        estimate = self.evaluate_tables(tables)
        series = pd.Series([estimate]) if isinstance(estimate, float) else estimate
        drawn = []
        for sample in tables.resampled(self.variables, replicates, seed):
            value = self.evaluate_tables(sample)
            drawn.append(np.atleast_1d(np.asarray(value, dtype=np.float64)))
        spread = np.std(drawn, axis=0, ddof=1)
        return series, pd.Series(spread, index=series.index, name="stderr")

    def tables(self, data: Any, weights: Any = None) -> Tables:
        """The tables that the estimand needs, found in ``data``; see :meth:`evaluate`."""
        used = set().union(*(formula.used for formula in self._formulas)) or {0}
        return Tables(data, self._formulas[0].sources, used, weights, self._levels)

    def evaluate_tables(self, tables: Tables) -> pd.Series[float] | float:
        """As :meth:`evaluate`, without a warning, from tables that :meth:`tables` found."""
        parts = [self._series(formula, tables) for formula in self._formulas]
        (sign, _), *others = self.query.terms
        if others or sign < 0:
            signs = [sign for sign, _ in self.query.terms]
            return float(sum(sign * float(part.iloc[0]) for sign, part in zip(signs, parts, strict=True)))
        return parts[0]

    def _series(self, formula: Formula, tables: Tables) -> pd.Series[float]:
        import pandas as pd

        array, levels = formula.evaluate(tables)
        labels = [column.label for column in formula.asked]
        name = "probability"
        if formula.query.kind == "E":
            try:
                numbers = np.array(levels[-1], dtype=np.float64)
            except (TypeError, ValueError):
                outcome = formula.query.outcomes[0].variable
                raise QueryError(f"the levels of {outcome!r} are no numbers, so it has no expectation") from None
            array, levels, labels, name = array @ numbers, levels[:-1], labels[:-1], "expectation"
        if not labels:
            return pd.Series([float(array)], name=name)
        index = pd.MultiIndex.from_product(levels, names=labels)
        return pd.Series(array.ravel(), index=index, name=name)

    def _text(self, *, latex: bool) -> str:
        written: list[str] = []
        for (sign, query), formula in zip(self.query.terms, self._formulas, strict=True):
            text = formula.text(latex=latex)
            if query.kind == "E":
                name = _escaped(query.outcomes[0].variable) if latex else query.outcomes[0].variable
                text = rf"\sum_{{{name}}} {name}\, {text}" if latex else f"sum_{{{name}}} {name} {text}"
            if len(self.query.terms) > 1:
                text = rf"\left[{text}\right]" if latex else f"[{text}]"
            written.append(("- " if sign < 0 else "+ " if written else "") + text)
        return " ".join(written)


class _Writer:
    """Writes a formula: shared terms wherever they stand, symbols with primes where one name has two meanings."""

    def __init__(self, formula: Formula, latex: bool) -> None:
        self.formula = formula
        self.latex = latex
        self.length = 0
        # what is summed over is another variable than one of that name outside
        self.outside = frozenset(formula.symbol(column.symbol).variable for column in formula.asked)
        self.free: dict[int, str] = {}
        names: set[str] = set()
        for column in formula.asked:
            symbol = formula.symbol(column.symbol)
            if column.symbol in self.free or symbol.value is not None:
                continue
            name = symbol.variable
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
            return _escaped(env[s]) if self.latex else env[s]
        symbol = self.formula.symbol(s)
        text = symbol.variable if symbol.value is None else f"{symbol.variable}={as_text(symbol.value)}"
        return _escaped(text) if self.latex else text

    def _write(self, i: int, env: Mapping[int, str], inside: bool) -> Generator[Any, str, str]:
        term = self.formula.terms[i]
        latex = self.latex
        if term.kind == "probability":
            text = self._probability(term, env)
            self.length += len(text)
            if self.length > _LONGEST_TEXT:
                raise QueryError("the estimand is too long to be written; evaluate and to_json take it as it is")
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
                # a sum reaches as far as it can, so one that is not the last factor stands in brackets
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
            name = self.formula.symbol(s).variable
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

    def _probability(self, term: Term, env: Mapping[int, str]) -> str:
        conditions = [self._name(s, env) for s in term.given]
        if term.set:
            conditions.insert(0, f"do({', '.join(self._name(s, env) for s in term.set)})")
        elif self.formula.sources[term.source].targets:
            # an experiment whose intervention makes no difference here
            conditions.insert(0, f"do({', '.join(self.formula.sources[term.source].targets)})")
        bar = (r" \mid " if self.latex else " | ") + ", ".join(conditions) if conditions else ""
        source = self.formula.sources[term.source]
        label = ""
        if source.shown:
            names = ", ".join(source.names)
            label = rf"_{{\text{{{_escaped(names)}}}}}" if self.latex else f"_{{{names}}}"
        return f"P{label}({', '.join(self._name(s, env) for s in term.symbols)}{bar})"


def _escaped(text: str) -> str:
    return re.sub(r"([_&%$#{}])", r"\\\1", text)


def _scope(factors: Sequence[Factor]) -> list[int]:
    return list(dict.fromkeys(v for factor in factors for v in factor.variables))  # type: ignore[misc]


def _dense(factors: Sequence[Factor], keep: Sequence[int]) -> NDArray[np.float64]:
    if not factors:
        return np.ones(())
    table, log_scale = contract(factors, keep)
    return np.asarray(table * math.exp(log_scale))


def _sliced(factor: Factor, codes: Mapping[int, int]) -> Factor:
    place = tuple(codes[s] if s in codes else slice(None) for s in factor.variables)  # type: ignore[index]
    return Factor(tuple(s for s in factor.variables if s not in codes), factor.table[place])


def _spread(array: NDArray[Any], names: Sequence[int], scope: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    """The array over all of ``scope``, constant in what it does not depend on."""
    order = sorted(range(len(names)), key=lambda i: scope.index(names[i]))
    kept = [size if s in names else 1 for s, size in zip(scope, shape, strict=True)]
    return np.broadcast_to(array.transpose(order).reshape(kept), shape)


def _ratio(top: Factors, bottom: Factors, scope: Sequence[int]) -> NDArray[np.float64]:
    above, under = _scope(top), _scope(bottom)
    numerator, denominator = _dense(top, above), _dense(bottom, under)
    sizes = dict(zip([*above, *under], [*numerator.shape, *denominator.shape], strict=True))
    shape = [sizes[s] for s in scope]
    a, b = _spread(numerator, above, scope, shape), _spread(denominator, under, scope, shape)
    ratio: NDArray[np.float64] = np.divide(a, b, out=np.zeros(shape), where=b > 0)
    return ratio
