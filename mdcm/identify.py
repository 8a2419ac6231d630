"""Identification: whether graph and P(V) determine an interventional distribution, by which estimand, or why not."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mdcm import query as language
from mdcm.errors import DataError, QueryError
from mdcm.factors import Factor, contract
from mdcm.graph import ADMG

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Estimand", "Hedge", "Identification", "identify"]

# far more characters than anybody reads; shared subexpressions are written out wherever they are used
_LONGEST_TEXT = 100_000


@dataclass(frozen=True)
class _Term:
    kind: Literal["probability", "product", "quotient", "sum"]
    nodes: tuple[str, ...]
    given: tuple[str, ...]
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Hedge:
    """Why a distribution is not identifiable: two sets of variables that confounders hold together.

    Every member of either set is an ancestor of ``inner``'s roots by directed edges inside the set. The interventions
    cut into ``outer`` and not into ``inner``, so two models can agree on all that is seen and disagree on the answer.

    Attributes:
        inner: The smaller set, sorted.
        outer: The larger set, sorted.

    References:
        Shpitser & Pearl (2006), Identification of joint interventional distributions, Theorem 4.
    """

    inner: tuple[str, ...]
    outer: tuple[str, ...]

    def explain(self) -> str:
        """The reason in words."""
        held = ", ".join(self.outer)
        cut = ", ".join(v for v in self.outer if v not in self.inner)
        return (
            f"Hidden confounders hold {held} together, and all of them act on {', '.join(self.inner)}: what {cut} "
            f"would do if it were set cannot be told from what its confounders do. Two models that agree on "
            f"everything that is seen disagree on the answer."
        )

    def __str__(self) -> str:
        return f"F' = {{{', '.join(self.inner)}}} inside F = {{{', '.join(self.outer)}}}"


class Estimand:
    """An expression over P(V) that equals the query in every model of the graph with a positive P(V).

    Attributes:
        query: What it answers.
    """

    def __init__(self, query: language.Query, terms: Sequence[_Term]) -> None:
        self.query = query
        self._terms = tuple(terms)

    def __str__(self) -> str:
        return self._text(latex=False)

    def latex(self) -> str:
        r"""The estimand in LaTeX, to be set in math mode.

        Raises:
            QueryError: If it is too long to be read by anybody.

        Example:
            >>> identify("Z -> X -> Y; Z -> Y", "P(Y | do(X))").estimand.latex()
            '\\sum_{Z} P(Z)\\, P(Y \\mid Z, X)'
        """
        return self._text(latex=True)

    def to_json(self) -> dict[str, Any]:
        """Terms as plain JSON values: operands are numbers of earlier terms, and the last term is the estimand."""
        terms = [
            {"kind": t.kind, "nodes": list(t.nodes), "given": list(t.given), "operands": list(t.operands)}
            for t in self._terms
        ]
        return {"query": str(self.query), "terms": terms}

    def evaluate(
        self, table: pd.DataFrame | pd.Series[float], weights: Sequence[float] | None = None
    ) -> pd.Series[float]:
        """Plug-in estimate of the query: every probability in the estimand replaced by the data's.

        Args:
            table: Discrete data, a column per variable; or an exact distribution, a Series of probabilities whose
                index levels are named after the variables, as :meth:`mdcm.scm.DiscreteSCM.exact` returns.
            weights: Weight of every row of a table.

        Returns:
            Probabilities by the levels of the query's variables: those set, those given, the outcomes. A variable with
            a value in the query keeps that value only.

        Raises:
            DataError: If a variable is missing, or a value of the query does not occur.

        Complexity:
            By variable elimination: exponential in the width of the estimand, not in the number of variables.

        Example:
            >>> import pandas as pd
            >>> rows = pd.DataFrame({"X": [0, 1, 0, 1], "Y": [0, 1, 1, 1]})
            >>> identify("X -> Y", "P(Y | do(X=1))").estimand.evaluate(rows)
            X  Y
            1  0    0.0
               1    1.0
            Name: probability, dtype: float64
        """
        data = _Table(table, weights)
        values: list[list[Factor]] = []
        for term in self._terms:
            operands = [values[i] for i in term.operands]
            if term.kind == "probability":
                values.append([data.conditional(term.nodes, term.given)])
            elif term.kind == "product":
                values.append([factor for operand in operands for factor in operand])
            elif term.kind == "sum":
                scope = _scope(operands[0])
                kept = tuple(v for v in scope if v not in term.nodes)
                values.append([Factor(kept, _dense(operands[0], kept))])
            else:
                scope = _scope([*operands[0], *operands[1]])
                values.append([Factor(tuple(scope), _ratio(operands[0], operands[1], scope))])
        if data.empty:
            warnings.warn(
                f"{data.empty} combinations of conditions have no row; what is conditioned on them counts as 0",
                UserWarning,
                stacklevel=2,
            )
        return self._selected(values[-1], data)

    def _selected(self, value: Sequence[Factor], data: _Table) -> pd.Series[float]:
        import pandas as pd

        asked = (*self.query.do, *self.query.given, *self.query.outcomes)
        names = [term.variable for term in asked]
        scope = _scope(value)
        extra = [str(v) for v in scope if v not in names]
        if extra:
            # the estimand is the same at every value of these; data say so only about, and all of them have a say
            value = [*value, data.conditional(extra, ())]
        missing = [Factor((name,), np.ones(len(data.levels(name)))) for name in names if name not in scope]
        joint = _dense([*value, *missing], names)
        kept = []
        for axis, term in enumerate(asked):
            levels = data.levels(term.variable)
            if term.value is None:
                kept.append(list(levels))
                continue
            # a value typed on a command line is text, whatever the levels are
            alike = [i for i, level in enumerate(levels) if level == term.value or str(level) == str(term.value)]
            if not alike:
                shown = ", ".join(map(str, levels[:10]))
                raise DataError(
                    f"{term.variable}={term.value} does not occur; its levels are {shown}", column=term.variable
                )
            code = alike[0]
            joint = joint.take([code], axis=axis)
            kept.append([levels[code]])
        index = pd.MultiIndex.from_product(kept, names=names)
        return pd.Series(joint.ravel(), index=index, name="probability")

    def _text(self, *, latex: bool) -> str:
        free = frozenset(term.variable for term in self.query.walk())
        length = 0

        def name(v: str, env: Mapping[str, str]) -> str:
            plain = env.get(v, v)
            return re.sub(r"([_&%$#{}])", r"\\\1", plain) if latex else plain

        def write(i: int, env: Mapping[str, str], inside: bool) -> str:
            nonlocal length
            term = self._terms[i]
            if term.kind == "probability":
                bar = r" \mid " if latex else " | "
                given = bar + ", ".join(name(v, env) for v in term.given) if term.given else ""
                text = f"P({', '.join(name(v, env) for v in term.nodes)}{given})"
                length += len(text)
                if length > _LONGEST_TEXT:
                    raise QueryError("the estimand is too long to be written; evaluate and to_json take it as it is")
                return text
            if term.kind == "product":
                last = len(term.operands) - 1
                # a sum reaches as far as it can, so one that is not the last factor stands in brackets
                factors = [write(operand, env, k < last) for k, operand in enumerate(term.operands)]
                return (r"\, " if latex else " ").join(factors) or "1"
            if term.kind == "quotient":
                top, bottom = (write(operand, env, False) for operand in term.operands)
                return rf"\frac{{{top}}}{{{bottom}}}" if latex else f"([{top}] / [{bottom}])"
            # what is summed over is another variable than one of that name outside, and gets primes
            inner = dict(env)
            taken = free.union(env.values())
            for v in term.nodes:
                inner[v] = v
                while inner[v] in taken:
                    inner[v] += "'"
            names = ", ".join(name(v, inner) for v in term.nodes)
            text = f"{chr(92) if latex else ''}sum_{{{names}}} {write(term.operands[0], inner, False)}"
            if not inside:
                return text
            return rf"\left[{text}\right]" if latex else f"[{text}]"

        return write(len(self._terms) - 1, {}, False)


@dataclass(frozen=True)
class Identification:
    """Whether a query is determined, and the evidence.

    Attributes:
        identifiable: True or False.
        estimand: An expression for it, where it is identifiable.
        witness: A hedge, where it is not.
    """

    identifiable: bool
    estimand: Estimand | None
    witness: Hedge | None

    def __str__(self) -> str:
        if self.estimand is not None:
            return f"{self.estimand.query} = {self.estimand}"
        return f"not identifiable from P(V): {self.witness}"


def identify(graph: ADMG | str, query: str | language.Expression) -> Identification:
    """Decides whether P(V) determines an interventional distribution, and gives an estimand or a hedge.

    Args:
        graph: The graph, or its arrow text.
        query: ``P(Y | do(X))`` or ``P(Y | do(X), Z)``; values are allowed and do not matter for the decision.

    Returns:
        The decision, which is sound and complete.

    Raises:
        QueryError: If the text is malformed, names an unknown variable, or is no such query.

    Complexity:
        O(n (n + edges)) at worst for the decision.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects; Shpitser & Pearl (2006),
        Identification of conditional interventional distributions (IDC); Huang & Valtorta (2006) for completeness.

    Example:
        >>> print(identify("D -> I -> A; D <-> A", "P(A | do(D))"))
        P(A | do(D)) = sum_{I} P(I | D) sum_{D'} P(D') P(A | D', I)
        >>> print(identify("X -> Y; X <-> Y", "P(Y | do(X))"))
        not identifiable from P(V): F' = {Y} inside F = {X, Y}
    """
    graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
    expression = language.parse(query) if isinstance(query, str) else query
    expression.check(graph.nodes)
    asked = expression.query
    if asked.kind != "P" or asked.layer == 3:
        raise expression.error("identification takes P(outcomes | do(...), conditions) in one world", asked)
    y = [term.variable for term in asked.outcomes]
    x = [term.variable for term in asked.do]
    z = [term.variable for term in asked.given]
    # IDC: a condition that could as well be set is set
    moved = True
    while moved:
        moved = False
        for name in z:
            rest = [other for other in z if other != name]
            if graph.rule2(y, [name], x, rest):
                x, z, moved = [*x, name], rest, True
                break
    found, hedge = graph.compiled.identify([graph.index(v) for v in (*y, *z)], [graph.index(v) for v in x])
    if found is None:
        assert hedge is not None
        inner, outer = (tuple(sorted(graph.nodes[v] for v in part.tolist())) for part in hedge)
        return Identification(False, None, Hedge(inner, outer))
    names = graph.nodes
    terms = [
        _Term(kind, tuple(names[v] for v in nodes), tuple(names[v] for v in given), tuple(operands))  # type: ignore[arg-type]
        for kind, nodes, given, operands in found
    ]
    if z:
        joint = len(terms) - 1
        terms.append(_Term("sum", tuple(sorted(y, key=graph.index)), (), (joint,)))
        terms.append(_Term("quotient", (), (), (joint, joint + 1)))
    return Identification(True, Estimand(asked, terms), None)


class _Table:
    """Conditional probabilities of discrete data or of an exact distribution."""

    def __init__(self, table: pd.DataFrame | pd.Series[float], weights: Sequence[float] | None) -> None:
        import pandas as pd

        self.empty = 0
        if isinstance(table, pd.Series):
            frame = table.index.to_frame(index=False)
            frame.columns = pd.Index([str(name) for name in table.index.names])
            self._weights = table.to_numpy(dtype=np.float64)
        else:
            frame = table
            self._weights = np.ones(len(frame)) if weights is None else np.asarray(weights, dtype=np.float64)
        if len(self._weights) != len(frame) or not len(frame) or not (self._weights >= 0).all():
            raise DataError("weights must be one non-negative number per row, and there must be a row")
        self._frame = frame
        self._codes: dict[str, tuple[NDArray[np.intp], list[Hashable]]] = {}

    def _coded(self, name: str) -> tuple[NDArray[np.intp], list[Hashable]]:
        if name not in self._codes:
            import pandas as pd

            if name not in self._frame:
                raise DataError(f"the data have no column {name!r}, which the estimand needs", column=name)
            codes, levels = pd.factorize(self._frame[name], sort=True)
            if (codes < 0).any():
                raise DataError(f"column {name!r} has missing values", column=name, row=int((codes < 0).argmax()))
            self._codes[name] = codes, list(levels)
        return self._codes[name]

    def levels(self, name: str) -> list[Hashable]:
        return self._coded(name)[1]

    def conditional(self, nodes: Sequence[str], given: Sequence[str]) -> Factor:
        scope = (*given, *nodes)
        shape = [len(self.levels(name)) for name in scope]
        place = np.zeros(len(self._weights), dtype=np.int64)
        for name, size in zip(scope, shape, strict=True):
            place = place * size + self._coded(name)[0]
        counts = np.bincount(place, weights=self._weights, minlength=math.prod(shape)).reshape(shape)
        total = counts.sum(axis=tuple(range(len(given), len(scope))), keepdims=True)
        self.empty += int((total == 0).sum())
        return Factor(scope, np.divide(counts, total, out=np.zeros_like(counts), where=total > 0))


def _scope(factors: Sequence[Factor]) -> list[Hashable]:
    return list(dict.fromkeys(v for factor in factors for v in factor.variables))


def _dense(factors: Sequence[Factor], keep: Sequence[Hashable]) -> NDArray[np.float64]:
    if not factors:
        return np.ones(())
    table, log_scale = contract(factors, keep)
    return np.asarray(table * math.exp(log_scale))


def _ratio(top: Sequence[Factor], bottom: Sequence[Factor], scope: Sequence[Hashable]) -> NDArray[np.float64]:
    above = _scope(top)
    under = _scope(bottom)
    numerator, denominator = (_dense(part, names) for part, names in ((top, above), (bottom, under)))
    sizes = dict(zip([*above, *under], [*numerator.shape, *denominator.shape], strict=True))
    shape = [sizes[v] for v in scope]

    def spread(array: NDArray[np.float64], names: Sequence[Hashable]) -> NDArray[np.float64]:
        order = sorted(range(len(names)), key=lambda i: scope.index(names[i]))
        return np.broadcast_to(array.transpose(order).reshape([sizes[v] if v in names else 1 for v in scope]), shape)

    a, b = spread(numerator, above), spread(denominator, under)
    return np.divide(a, b, out=np.zeros(shape), where=b > 0)
