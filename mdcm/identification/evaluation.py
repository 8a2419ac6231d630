"""Evaluation of formulas on tables, as intervals if conditions have no rows.

A conditional probability whose condition has no rows is unknown, between 0 and 1. Every formula is a sum of products of
probabilities and of quotients of such sums, so its bounds follow from those of its parts, and the two bounds differ
exactly where unknown probabilities have weight. A quotient of zeros is unknown as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mdcm.elimination import Factor, check_size, contract, eliminate, elimination
from mdcm.errors import MdcmError
from mdcm.identification.question import as_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.identification.estimand import Formula, FormulaTerm
    from mdcm.identification.tables import SourceTables

__all__ = ["ROUNDING", "SAMPLES", "Bounds", "Columns", "Cost", "columns", "cost", "evaluate", "unseen_condition"]

# largest number of cells of a table, 128 MB, and of all tables of a formula
_LARGEST = 1 << 24
_MOST_CELLS = 1 << 26
# largest number of cells computed and rows read, about ten seconds
_MOST_WORK = 1 << 32
# symbol of the axis of bootstrap samples
SAMPLES = -1
# relative width below which an interval counts as a known value
ROUNDING = 1e-9
# largest number of axes of a numpy array
_MOST_COLUMNS = 64
# limits of the search for conditions without rows: terms tried, and cells of the formula
_MOST_TERMS = 64
_MOST_SEARCHED = 1 << 20


class Product(NamedTuple):
    """Product of factors and the exponential of a scale, since hundreds of probabilities would underflow."""

    factors: tuple[Factor, ...]
    scale: float = 0.0

    def scope(self) -> list[int]:
        """All variables."""
        return list(dict.fromkeys(v for factor in self.factors for v in factor.variables))  # type: ignore[misc]

    def dense(self, keep: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        """Table over ``keep``, and the logarithm of its scale."""
        if not self.factors:
            return np.ones(()), self.scale
        table, scale = contract(self.factors, keep, largest=_LARGEST)
        return table, scale + self.scale

    def sliced(self, codes: Mapping[int, int]) -> Product:
        """Slice at codes of some variables."""
        return Product(tuple(_sliced(factor, codes) for factor in self.factors), self.scale)


@dataclass(frozen=True)
class Bounds:
    """Lower and upper bound of a term; ``high`` is None if they are equal."""

    low: Product
    high: Product | None = None

    @property
    def upper(self) -> Product:
        """The upper bound."""
        return self.low if self.high is None else self.high

    def scope(self) -> list[int]:
        """All variables."""
        return self.low.scope()

    def sliced(self, codes: Mapping[int, int]) -> Bounds:
        """Slice at codes of some variables."""
        return Bounds(self.low.sliced(codes), None if self.high is None else self.high.sliced(codes))


class Cost(NamedTuple):
    """Cost of evaluating a formula.

    Attributes:
        largest: Cells of the largest table.
        cells: Cells of all tables.
        reads: Rows counted for all tables.
    """

    largest: int
    cells: int
    reads: int

    def check(self, times: int = 1) -> None:
        """Refuse an evaluation that takes too much memory or time.

        Raises:
            MdcmError: If a limit is exceeded.
        """
        check_size(self.largest, _LARGEST)
        if self.cells > _MOST_CELLS or (self.cells + self.reads) * times > _MOST_WORK:
            often = f", {times} times" if times > 1 else ""
            raise MdcmError(
                f"the estimand needs {self.cells:,} numbers from {self.reads:,} rows{often}, which takes too long: too "
                "many variables depend on each other"
            )


def cost(formula: Formula, data: SourceTables) -> Cost:
    """Cost of evaluating a formula, computed without tables."""
    sizes = _Sizes(formula, data)
    scopes: list[list[tuple[Hashable, ...]]] = []
    scope_list: list[tuple[Hashable, ...]]
    largest, cells, reads = 1, 1, 0

    def add_table(scope: Sequence[Hashable]) -> None:
        nonlocal largest, cells
        size = math.prod(sizes[s] for s in scope)
        largest, cells = max(largest, size), cells + size

    for term in formula.terms:
        operands = [scopes[i] for i in term.operands]
        if term.kind == "probability":
            add_table(
                [s for s in (*term.set, *term.given, *term.symbols) if s in term.symbols or not formula.is_fixed(s)]
            )
            scope_list = [tuple(s for s in (*term.set, *term.given, *term.symbols) if not formula.is_fixed(s))]
            reads += data.num_rows
        elif term.kind == "product":
            scope_list = [scope for operand in operands for scope in operand]
        elif term.kind == "equal":
            constant = all(map(formula.is_constant, term.symbols))
            scope_list = [() if constant else tuple(s for s in term.symbols if not formula.is_fixed(s))]
        elif term.kind in {"sum", "any"}:
            inside = [*operands[0], *([tuple(term.symbols)] if term.kind == "any" else [])]
            present = dict.fromkeys(s for scope in inside for s in scope)
            steps = elimination(inside, [s for s in present if s not in term.symbols], sizes)
            largest, cells = max(largest, steps.largest), cells + steps.cells
            scope_list = list(steps.scopes)
        else:
            scope_list = [tuple(dict.fromkeys(s for operand in operands for scope in operand for s in scope))]
            add_table(scope_list[0])
            for operand in operands:
                add_table(tuple({s for scope in operand for s in scope}))
        scopes.append(scope_list)
    answer = {column.symbol for column in formula.answer_columns}
    constants = {s for s in answer if formula.symbol(s).value is not None}
    last = [tuple(s for s in scope if s not in constants) for scope in scopes[-1]]
    remaining = {s for scope in last for s in scope}
    steps = elimination(last, [s for s in answer if s in remaining], sizes)
    add_table([s for s in answer - constants if s in sizes])
    return Cost(max(largest, steps.largest), cells + steps.cells, reads)


class _Sizes(dict[Hashable, int]):
    """Number of levels of each symbol, computed on first use."""

    def __init__(self, formula: Formula, data: SourceTables) -> None:
        super().__init__()
        self._formula, self._data = formula, data

    def __missing__(self, s: Hashable) -> int:
        assert isinstance(s, int)
        self[s] = len(self._data.levels(self._formula.symbol(s).variable))
        return self[s]

    def __contains__(self, s: object) -> bool:
        return isinstance(s, int) and self._data.has(self._formula.symbol(s).variable)


def evaluate(
    formula: Formula,
    data: SourceTables,
    fill: Mapping[int, NDArray[np.float64]] | None = None,
    known: dict[int, Bounds] | None = None,
) -> Bounds:
    """Bounds of a formula, as factors over its symbols.

    Args:
        formula: The formula.
        data: The tables.
        fill: Upper bounds of the unknown cells by term; 1 by default.
        known: Known values by term, to which those of the other terms are added.

    Raises:
        DataError: If the tables lack a column.
        MdcmError: If a table would be too large.
    """
    symbols_of: list[set[int]] = []
    last_use = {i: number for number, term in enumerate(formula.terms) for i in term.operands}
    values: dict[int, Bounds] = {}
    for number, term in enumerate(formula.terms):
        high = None if fill is None else fill.get(number)
        # symbols of the operands, including constants, which have no axes
        inside = [symbols_of[i] for i in term.operands]
        term_symbols = {*term.set, *term.given, *term.symbols} if term.kind in {"probability", "equal"} else set()
        symbols_of.append(term_symbols.union(*inside))
        operands = [values[i] for i in term.operands]
        values[number] = (
            known[number]
            if known is not None and number in known
            else _cases(formula, term, operands, inside, data)
            if term.kind == "cases"
            else _value(formula, term, operands, data, high)
        )
        if known is not None:
            known[number] = values[number]
        for i in set(term.operands):
            if last_use[i] == number:
                del values[i]
    return values[len(formula.terms) - 1]


def _value(
    formula: Formula, term: FormulaTerm, operands: list[Bounds], data: SourceTables, fill: NDArray[np.float64] | None
) -> Bounds:
    if term.kind == "probability":
        scope, table, _ = _conditional(formula, term, data)
        unknown = np.isnan(table)
        if not unknown.any():
            return Bounds(Product((Factor(scope, table),)))
        low = np.where(unknown, 0.0, table)
        high = np.where(unknown, 1.0 if fill is None else fill, table)
        return Bounds(Product((Factor(scope, low),)), Product((Factor(scope, high),)))
    if term.kind == "product":
        exact = all(operand.high is None for operand in operands)
        low_product = _joined([operand.low for operand in operands])
        return Bounds(low_product, None if exact else _joined([operand.upper for operand in operands]))
    if term.kind == "sum":
        missing = [s for s in term.symbols if s not in operands[0].scope()]
        scale = sum(math.log(len(data.levels(formula.symbol(s).variable))) for s in missing)
        return _both(operands[0], lambda product: _summed(product, term.symbols, scale))
    if term.kind == "any":
        names = formula.names(term.symbols)
        weight = _factor(term.symbols, data.conditional(formula.sources[term.source], (), names), data)
        return _any(operands[0], term.symbols, weight)
    if term.kind == "equal":
        if all(map(formula.is_constant, term.symbols)):
            first, second = (formula.symbol(s).value for s in term.symbols)
            return Bounds(Product((Factor((), np.array(float(as_text(first) == as_text(second)))),)))
        size = len(data.levels(formula.symbol(term.symbols[0]).variable))
        codes = _codes(formula, term.symbols, data)
        return Bounds(Product((_sliced(Factor(term.symbols, np.eye(size)), codes),)))
    return _quotient(operands[0], operands[1])


def _codes(formula: Formula, symbols: Iterable[int], data: SourceTables) -> dict[int, int]:
    """Codes of the fixed symbols."""
    fixed = {s: formula.symbol(s) for s in symbols if formula.is_fixed(s)}
    return {s: data.code(symbol.variable, symbol.value) for s, symbol in fixed.items()}


def _conditional(
    formula: Formula, term: FormulaTerm, data: SourceTables
) -> tuple[tuple[int, ...], NDArray[np.float64], dict[int, int]]:
    """A probability at its fixed symbols: symbols of its axes, table, and codes of the fixed symbols."""
    codes = _codes(formula, (*term.set, *term.given, *term.symbols), data)
    intervened, given = ([s for s in part if s not in codes] for part in (term.set, term.given))
    at = {formula.symbol(s).variable: codes[s] for s in (*term.set, *term.given) if s in codes}
    table = data.conditional(
        formula.sources[term.source], formula.names(given), formula.names(term.symbols), formula.names(intervened), at
    )
    factor = _sliced(_factor((*intervened, *given, *term.symbols), table, data), codes)
    return factor.variables, factor.table, codes  # type: ignore[return-value]


def _factor(symbols: tuple[int, ...], table: NDArray[np.float64], data: SourceTables) -> Factor:
    return Factor((SAMPLES, *symbols) if data.is_sample else symbols, table)


def _both(value: Bounds, change: Callable[[Product], Product]) -> Bounds:
    return Bounds(change(value.low), None if value.high is None else change(value.high))


def _joined(products: Sequence[Product]) -> Product:
    return Product(
        tuple(factor for product in products for factor in product.factors), sum(product.scale for product in products)
    )


def _summed(product: Product, symbols: Sequence[int], scale: float) -> Product:
    present = product.scope()
    factors, logarithm = eliminate(product.factors, [s for s in symbols if s in present], largest=_LARGEST)
    return Product(tuple(factors), product.scale + logarithm + scale)


def _any(operand: Bounds, symbols: Sequence[int], weight: Factor) -> Bounds:
    """Weighted mean over symbols on which the operand does not depend, up to sampling error."""
    if operand.high is None:
        return Bounds(_summed(_joined([operand.low, Product((weight,))]), symbols, 0.0))
    remaining = [s for s in operand.scope() if s not in symbols]
    scope = [*remaining, *symbols]
    low, high = (_table(product, scope) for product in (operand.low, operand.high))
    shares = _spread(weight.table, list(weight.variables), scope, low.shape)  # type: ignore[arg-type]
    axes = tuple(range(len(remaining), len(scope)))
    known = np.where(_is_known(low, high), shares, 0.0)
    total = known.sum(axis=axes)
    average = np.divide((known * low).sum(axis=axes), total, out=np.zeros(total.shape), where=total > 0)
    results = []
    for table in (low, high):
        value = np.where(total > 0, average, (shares * table).sum(axis=axes))
        results.append(Product((Factor(tuple(remaining), value),)))
    return Bounds(*results)


def _cases(
    formula: Formula, term: FormulaTerm, operands: list[Bounds], inside: list[set[int]], data: SourceTables
) -> Bounds:
    scope = list(dict.fromkeys(s for operand in operands for s in operand.scope()))
    shape = [data.replicates or 1 if s == SAMPLES else len(data.levels(formula.symbol(s).variable)) for s in scope]
    check_size(math.prod(shape), _LARGEST)
    low, high, open_ = np.zeros(shape), np.ones(shape), np.ones(shape, dtype=bool)
    for number, operand, symbols in zip(term.given, operands, inside, strict=True):
        source, axes = formula.sources[number], operand.scope()
        codes = _codes(formula, [s for s in symbols if formula.symbol(s).variable in source.targets], data)
        set_here = [s for s in axes if s != SAMPLES and formula.symbol(s).variable in source.targets]
        at = {formula.symbol(s).variable: code for s, code in codes.items()}
        present = _spread(data.has_rows(source, formula.names(set_here), at), set_here, scope, shape)
        selected = open_ & present
        for result, product in ((low, operand.low), (high, operand.upper)):
            result[selected] = _spread(_table(product, axes), axes, scope, shape)[selected]
        open_ &= ~present
    return _bounds(scope, low, high)


def _quotient(top: Bounds, bottom: Bounds) -> Bounds:
    above, below = top.scope(), bottom.scope()
    scope = list(dict.fromkeys([*above, *below]))
    (a, a_scale), (b, b_scale) = top.low.dense(above), bottom.low.dense(below)
    sizes = dict(zip([*above, *below], [*a.shape, *b.shape], strict=True))
    shape = [sizes[s] for s in scope]
    check_size(math.prod(shape), _LARGEST)
    c, c_scale = (a, a_scale) if top.high is None else top.high.dense(above)
    d, d_scale = (b, b_scale) if bottom.high is None else bottom.high.dense(below)
    a, c = (_spread(table, above, scope, shape) for table in (a, c))
    b, d = (_spread(table, below, scope, shape) for table in (b, d))
    low = np.divide(a, d, out=np.zeros(shape), where=d > 0) * _exp(a_scale - d_scale)
    # with a denominator of 0 the quotient is unknown, at most a probability
    high = np.divide(c, b, out=np.full(shape, math.inf), where=b > 0)
    high = np.where(b > 0, np.minimum(high * _exp(c_scale - b_scale), np.maximum(low, 1.0)), 1.0)
    return _bounds(scope, low, high)


def _bounds(scope: Sequence[int], low: NDArray[np.float64], high: NDArray[np.float64]) -> Bounds:
    below = Product((Factor(tuple(scope), low),))
    return Bounds(below, None if _is_known(low, high).all() else Product((Factor(tuple(scope), high),)))


def _is_known(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = high <= low * (1 + ROUNDING)
    return known


def _table(product: Product, scope: Sequence[int]) -> NDArray[np.float64]:
    table, scale = product.dense(scope)
    return np.asarray(table * _exp(scale))


def _exp(logarithm: float) -> float:
    # cap at the range of floats, which only ratios to tiny denominators exceed
    return math.exp(min(logarithm, 700.0))


def _sliced(factor: Factor, codes: Mapping[int, int]) -> Factor:
    index = tuple(codes[s] if s in codes else slice(None) for s in factor.variables)  # type: ignore[index]
    return Factor(tuple(s for s in factor.variables if s not in codes), factor.table[index])


def _spread(array: NDArray[Any], names: Sequence[int], scope: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    """Broadcast an array with axes ``names`` to ``scope``."""
    order = sorted(range(len(names)), key=lambda i: scope.index(names[i]))
    sizes = [size if s in names else 1 for s, size in zip(scope, shape, strict=True)]
    return np.broadcast_to(array.transpose(order).reshape(sizes), shape)


@dataclass(frozen=True)
class Columns:
    """Values of a formula with an axis for each column of its answer.

    Attributes:
        low: Lower bounds.
        high: Upper bounds; the same array if nothing is unknown.
        is_zero: Whether the upper bound is exactly 0, rather than an underflow.
        levels: Levels of every axis.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    is_zero: NDArray[np.bool_]
    levels: list[list[Hashable]]

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Mask of the values that the data do not determine."""
        return np.zeros(self.low.shape, dtype=bool) if self.high is self.low else ~_is_known(self.low, self.high)


def columns(formula: Formula, bounds: Bounds, data: SourceTables, free: Collection[int] = ()) -> Columns:
    """Values of a formula by the columns of its answer, preceded by an axis of bootstrap samples if there are any.

    Args:
        formula: The formula.
        bounds: Result of :func:`evaluate`.
        data: The tables.
        free: Indices of columns that get all levels although the query has a value for them.
    """
    open_ = {formula.answer_columns[column].symbol for column in free}
    levels: dict[int, list[Hashable]] = {}
    codes: dict[int, int] = {}
    scope = bounds.scope()
    symbols = [column.symbol for column in formula.answer_columns]
    for s in dict.fromkeys([*symbols, *scope]):
        if s == SAMPLES:
            continue
        symbol = formula.symbol(s)
        if s not in scope and not data.has(symbol.variable):
            # a variable without influence need not be in the data
            levels[s], codes[s] = ["any" if symbol.value is None else symbol.value], 0
            continue
        levels[s] = data.levels(symbol.variable)
        if symbol.value is not None and s not in open_:
            codes[s] = data.code(symbol.variable, symbol.value)
    axes = [s for s in dict.fromkeys(symbols) if s not in codes]
    column_levels = [[levels[s][codes[s]]] if s in codes else levels[s] for s in symbols]
    shape = [len(values) for values in column_levels]
    sizes = {s: len(levels[s]) for s in axes}
    if data.replicates is not None:
        axes, shape, sizes = [SAMPLES, *axes], [data.replicates, *shape], {**sizes, SAMPLES: data.replicates}
    check_size(math.prod(shape), _LARGEST)
    if len(shape) > _MOST_COLUMNS:
        raise MdcmError(f"an answer of {len(shape)} columns is too wide for a table")

    def array(product: Product) -> tuple[NDArray[np.float64], float]:
        product = product.sliced(codes)
        present = product.scope()
        ones = [Factor((s,), np.ones(sizes[s])) for s in axes if s not in present]
        # columns are in the order of the axes, and every free symbol occurs once
        table, scale = Product((*product.factors, *ones), product.scale).dense(axes)
        return table.reshape(shape), scale

    table, scale = array(bounds.upper)
    high = table * _exp(scale)
    low = high
    if bounds.high is not None:
        below, scale = array(bounds.low)
        low = below * _exp(scale)
    return Columns(low, high, table == 0, column_levels)


def unseen_condition(
    formula: Formula, data: SourceTables, row: Mapping[str, Hashable]
) -> tuple[int, dict[str, int]] | None:
    """Condition without rows that matters most in a row of the answer: source and codes by variable.

    Unknown cells matter if their removal reduces the upper bound; the search bisects the unknown cells of a term.
    """
    if cost(formula, data).cells > _MOST_SEARCHED:
        return None
    codes = {}
    for column in formula.answer_columns:
        variable = formula.symbol(column.symbol).variable
        if data.has(variable) and column.label in row:
            codes[column.symbol] = data.levels(variable).index(row[column.label])
    # restrict the formula to that row
    formula = formula.at({s: data.levels(formula.symbol(s).variable)[code] for s, code in codes.items()})
    values: dict[int, Bounds] = {}
    for s in evaluate(formula, data, known=values).scope():
        symbol = formula.symbol(s)
        codes.setdefault(s, 0 if symbol.value is None else data.code(symbol.variable, symbol.value))

    def upper_bound(fill: Mapping[int, NDArray[np.float64]]) -> float:
        changed = set(fill)
        for number, term in enumerate(formula.terms):
            if not changed.isdisjoint(term.operands):
                changed.add(number)
        unchanged = {number: value for number, value in values.items() if number not in changed}
        return float(_table(evaluate(formula, data, fill, unchanged).upper.sliced(codes), []))

    bound = upper_bound({})
    best: tuple[float, int] | None = None
    tried = 0
    for number, term in enumerate(formula.terms):
        if term.kind != "probability":
            continue
        _, table, _ = _conditional(formula, term, data)
        if not np.isnan(table).any():
            continue
        tried += 1
        if tried > _MOST_TERMS:
            break
        drop = bound - upper_bound({number: np.zeros(table.shape)})
        if drop > (0.0 if best is None else best[0]) + ROUNDING * bound:
            best = (drop, number)
    if best is None:
        return None
    _, number = best
    term = formula.terms[number]
    scope, table, fixed = _conditional(formula, term, data)
    axes = [s for s in scope if s not in term.symbols]
    conditions = np.isnan(table).reshape(*table.shape[: len(axes)], -1)[..., 0]
    cells = np.argwhere(conditions)
    while len(cells) > 1:
        halves = [cells[: len(cells) // 2], cells[len(cells) // 2 :]]
        drops = []
        for half in halves:
            fill = np.ones(table.shape)
            fill[tuple(half.T)] = 0.0
            drops.append(bound - upper_bound({number: fill}))
        cells = halves[int(np.argmax(drops))]
    condition = dict(zip(axes, cells[0].tolist(), strict=True)) | fixed
    return term.source, {formula.symbol(s).variable: condition[s] for s in (*term.set, *term.given)}
