"""Answering queries of all three layers from a model: by exact summation, or by sampling the worlds of the query."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mdcm import query as language
from mdcm.data.variables import days
from mdcm.errors import DataError, LowSupportError, QueryError
from mdcm.sampling import (
    MOST_CASES,
    Basis,
    Draws,
    EvidenceError,
    Network,
    Setting,
    Support,
    check_evidence,
    encode_setting,
    encode_values,
    event_probability,
    known,
    posterior,
)
from mdcm.sampling.answers import Answer, shown_date
from mdcm.text.advice import advice, warn

if TYPE_CHECKING:
    from torch import Tensor

    from mdcm.dcm import DCM
    from mdcm.identification import Identification

__all__ = ["Answering"]

# columns of answers besides the variables
_COLUMNS = ("probability", "mean", "stderr", "low", "high")
# largest number of separate warnings about the rows of an answer
_MOST_WARNINGS = 6

# a term of a query, its value in the user's form, and its encoded value
_Chosen = tuple[language.Term, Any, Setting]
# interventions and evidence of a row of an answer
_Case = tuple[tuple[_Chosen, ...], tuple[_Chosen, ...]]


class Answering:
    """A query about a model, checked against its variables, and the computation of its answer.

    Args:
        dcm: The model.
        expression: The query.
        do: Values of do() terms without a value in the text: a list of values, one value, or a function of the natural
            value.
        num_samples: Draws per combination of interventions and evidence.
        seed: Seed of the draws.
        support: Summary of the training data, or None.

    Raises:
        QueryError: With a caret under the position, if the query does not fit the model.
    """

    def __init__(
        self,
        dcm: DCM,
        expression: language.Expression,
        *,
        do: Mapping[str, Any] | None = None,
        num_samples: int,
        seed: int,
        support: Support | None = None,
    ) -> None:
        self.dcm = dcm
        self.schema = dcm.schema
        self.expression = expression
        self.num_samples = num_samples
        self.seed = seed
        self._support = support
        self._bases: list[Basis] = []
        self._warnings: list[str] = []
        self._ess = math.inf
        self._do = self._listed(do or {})
        for query in expression.queries:
            self._check(query)

    def _listed(self, do: Mapping[str, Any]) -> dict[str, list[Any]]:
        open_terms = {term.variable for query in self.expression.queries for term in query.do if term.value is None}
        listed = {}
        for name, value in do.items():
            variable = known(self.schema, name)
            if name not in open_terms:
                raise QueryError(f"do={{{name!r}: ...}}: the query has no do({name}) without a value")
            if variable.kind == "image" or variable.size is not None:
                listed[name] = [value]
            elif isinstance(value, list | tuple | np.ndarray | pd.Series | range):
                listed[name] = list(value)
            else:
                listed[name] = [value]
            if not listed[name]:
                raise DataError(f"do({name}): the list of values is empty", column=name)
            for entry in listed[name]:
                encode_setting(variable, entry, 1)
        return listed

    def _check(self, query: language.Query) -> None:
        for term in query.walk():
            variable = self.schema[term.variable]
            if term in query.do and term.variable in self._do:
                continue
            is_outcome = any(term is outcome for outcome in query.outcomes)
            nested = term.value is None and not is_outcome and term not in (*query.do, *query.given)
            if variable.kind == "image" or variable.size is not None:
                if nested:
                    continue
                what = "an image" if variable.kind == "image" else "a vector"
                how = advice("use draw_samples to see it or to set it", "mdcm sample draws it")
                raise self.expression.error(f"{term.variable!r} is {what}; {how}", term)
            if term.value is not None:
                self._level(term)
            if variable.kind == "categorical":
                if is_outcome and query.kind == "E":
                    self._numeric_levels(term)
            elif term.value is None and not nested and not (is_outcome and query.kind == "E"):
                remedy = "ask for its expectation, or bin it" if is_outcome else "give it a value, or bin it"
                raise self.expression.error(f"{term.variable!r} is {variable.kind}: {remedy}", term)
            elif is_outcome and query.kind == "P":
                raise self.expression.error(
                    f"{term.variable!r} is {variable.kind}: ask for its expectation, or bin it", term
                )
        set_names = {term.variable for term in query.do}
        for term in query.given:
            if term.variable in set_names:
                raise self.expression.error(
                    f"{term.variable!r} is set by do() and cannot be conditioned on as well", term
                )
        # check worlds and evidence before sampling
        network = Network(self.dcm)
        do = next(self._settings(query.do))
        given = next(self._combinations(query.given))
        targets = [self._node(network, term, do) for term in query.outcomes]
        self._evidence(network, given, do, targets)

    def answer(self, identification: Identification, *, allow_low_support: bool = False) -> Answer:
        """Compute the answer.

        Args:
            identification: Identification of the query.
            allow_low_support: Whether to answer even if training rows are few.

        Raises:
            LowSupportError: If the evidence is too improbable, or too much of the weight has few training rows.
        """
        value: float | None
        error: float | None
        (sign, query), *others = self.expression.terms
        if others or sign < 0 or (query.kind == "E" and query.is_number):
            table, value, error = self._number(allow_low_support)
        else:
            table, value, error = self._table(query, allow_low_support)
        if self._warnings:
            more = (
                f"\n(and {len(self._warnings) - _MOST_WARNINGS} more)" if len(self._warnings) > _MOST_WARNINGS else ""
            )
            warn("\n".join(self._warnings[:_MOST_WARNINGS]) + more)
        basis = Basis.weakest(self._bases, self._support.total) if self._support is not None else None
        return Answer(
            str(self.expression),
            table,
            value,
            error,
            float(self._ess),
            identification,
            None if basis is None else basis.rows,
            None if basis is None else basis.unseen,
            None if basis is None else basis.total,
            origin=self._origin(),
        )

    def _origin(self) -> str | None:
        """Origin of the answer's dates, if all terms are expectations of dates and their signs sum to 1."""
        queries = self.expression.queries
        origins = {self.schema[query.outcomes[0].variable].origin if query.kind == "E" else None for query in queries}
        if len(origins) > 1 or sum(sign for sign, _ in self.expression.terms) != 1:
            return None
        return origins.pop()

    def _bases_of(self, query: language.Query, cases: Sequence[_Case]) -> Sequence[Basis | None]:
        """Basis of the answer in each case, from one computation for all cases; None where it is not available."""
        if self._support is None or len(cases) == 1:
            return [None] * len(cases)
        bases: list[Basis | None] = []
        for start in range(0, len(cases), MOST_CASES):
            batch = cases[start : start + MOST_CASES]
            merged = self._merged(query, batch)
            result = None if merged is None else self._support.bases(*merged, len(batch), self.seed)
            bases += [None] * len(batch) if result is None else result
        return bases

    def _check_support(
        self,
        network: Network,
        targets: Sequence[int],
        evidence: Mapping[int, Tensor],
        allowed: bool,
        where: str = "",
        basis: Basis | None = None,
    ) -> None:
        """Refuse or warn if training rows are few.

        Queries without interventions and evidence are about the distribution of the rows itself and always pass.
        """
        if self._support is None:
            return
        if basis is None:
            basis = self._support.basis(network, targets, evidence, num_samples=self.num_samples, seed=self.seed)
        conditional = any(query.layer > 1 or query.given for query in self.expression.queries)
        message = f"{self.expression}{where}: {basis}"
        if conditional and basis.is_refused and not allowed:
            raise LowSupportError(
                message,
                rows=basis.rows,
                unseen=basis.unseen,
                remedy=advice("allow_low_support=True answers all the same", "--low-support answers all the same"),
            )
        self._bases.append(basis)
        if conditional and basis.is_low and not allowed:
            self._warnings.append(message)

    def _table(self, query: language.Query, allowed: bool) -> tuple[pd.DataFrame, float | None, float | None]:
        for term in query.walk():
            if term.variable in _COLUMNS:
                raise self.expression.error(
                    f"the answer has a column {term.variable!r} of its own; rename the variable", term
                )
        cells = [(do, given) for do in self._combinations(query.do) for given in self._combinations(query.given)]
        records: list[dict[str, Any]] = []
        refused: list[LowSupportError] = []
        exact: Sequence[_Drawn | None] = self._exactly(query, cells) or [None] * len(cells)
        for (do, given), summed, basis in zip(cells, exact, self._bases_of(query, cells), strict=True):
            where = ", ".join(f"{term.label}={value}" for term, value, _ in (*do, *given) if term.value is None)
            try:
                rows = self._cell(query, do, given, summed, allowed, f" at {where}" if where else "", basis)
            except LowSupportError as error:
                if len(cells) == 1:
                    raise
                # the other combinations are answered, this one is NaN
                refused.append(error)
                rows = self._cell(query, do, given, None, None, "")
            records += rows
        if len(refused) == len(cells):
            raise refused[0]
        if refused:
            self._warnings.insert(0, f"{len(refused)} of {len(cells)} combinations are not answered (NaN)")
            self._warnings[1:1] = map(str, refused)
        table = pd.DataFrame.from_records(records)
        if len(table) != 1:
            return table, None, None
        value, stderr = (float(number) for number in table.iloc[0, -2:])
        return table, value, stderr

    def _cell(
        self,
        query: language.Query,
        do: Sequence[_Chosen],
        given: Sequence[_Chosen],
        summed: _Drawn | None,
        allowed: bool | None,
        where: str,
        basis: Basis | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of a table for one combination of interventions and evidence; NaN if ``allowed`` is None."""
        settings = {term.variable: encoded for term, _, encoded in do}
        network = Network(self.dcm)
        targets = [self._node(network, term, settings) for term in query.outcomes]
        drawn = None
        if allowed is not None:
            evidence = self._evidence(network, given, settings, targets)
            drawn = self._draw(network, targets, evidence, given) if summed is None else _possible(summed, given)
            self._check_support(network, targets, evidence, allowed, where, basis)
        shown = {term.label: value for term, value, _ in (*do, *given)}
        shown = {name: value for name, value in shown.items() if not isinstance(value, np.ndarray)}
        if query.kind == "E":
            mean = variance = math.nan
            if drawn is not None:
                mean, variance = drawn.mean(self._numbers(query.outcomes[0], drawn.values[0]), self._step(query))
            return [{**shown, "mean": mean, "stderr": math.sqrt(variance)}]
        records = []
        for outcome in self._combinations(query.outcomes):
            share = error = math.nan
            if drawn is not None:
                share, error = drawn.share([encoded for _, _, encoded in outcome])
            labels = {term.label: value for term, value, _ in outcome}
            records.append({**shown, **labels, "probability": share, "stderr": error})
        return records

    def _number(self, allowed: bool) -> tuple[pd.DataFrame, float, float]:
        value = variance = 0.0
        for terms in self._terms_by_evidence():
            # common random numbers: a row has the same noise in all terms, so that their errors cancel
            network = Network(self.dcm)
            nodes, steps = [], []
            _, first = terms[0]
            given = next(self._combinations(first.given))
            for _, query in terms:
                do = next(self._settings(query.do))
                nodes.append([self._node(network, term, do) for term in query.outcomes])
                steps.append(self._step(query))
            flat = [node for term_nodes in nodes for node in term_nodes]
            evidence = self._evidence(network, given, next(self._settings(first.do)), flat)
            exact = self._exact_terms([query for _, query in terms])
            if exact is not None:
                self._check_support(network, flat, evidence, allowed)
                value += sum(sign * number for (sign, _), number in zip(terms, exact, strict=True))
                continue
            drawn = self._draw(network, flat, evidence, given)
            self._check_support(network, flat, evidence, allowed)
            total: Tensor | None = None
            start = 0
            for (sign, query), term_nodes in zip(terms, nodes, strict=True):
                values = drawn.values[start : start + len(term_nodes)]
                start += len(term_nodes)
                if query.kind == "E":
                    numbers = self._numbers(query.outcomes[0], values[0])
                else:
                    chosen = next(self._combinations(query.outcomes))
                    agree = [
                        torch.eq(column, _tensor(encoded))
                        for column, (_, _, encoded) in zip(values, chosen, strict=True)
                    ]
                    numbers = torch.stack(agree).all(0).double()
                total = sign * numbers if total is None else total + sign * numbers
            assert total is not None
            mean, spread = drawn.mean(total, min(steps))
            value += mean
            variance += spread
        error = math.sqrt(variance)
        return pd.DataFrame({"value": [value], "stderr": [error]}), value, error

    def _merged(
        self, query: language.Query, cases: Sequence[_Case]
    ) -> tuple[Network, list[int], dict[int, Tensor]] | None:
        """All cases in one network: the network, targets, and evidence, with one value for each case.

        None if an intervention is a function of the natural value, since the function may be random.
        """
        network = Network(self.dcm)
        settings: dict[str, Setting] = {}
        for position, term in enumerate(query.do):
            settings[term.variable] = _stacked([do[position][2] for do, _ in cases])
        if not all(isinstance(setting, torch.Tensor) for setting in settings.values()):
            return None
        targets = [self._node(network, term, settings) for term in query.outcomes]
        given = [
            (term, None, _stacked([given[position][2] for _, given in cases]))
            for position, term in enumerate(query.given)
        ]
        return network, targets, self._evidence(network, given, settings, targets)

    def _exactly(self, query: language.Query, cases: Sequence[_Case]) -> list[_Drawn] | None:
        """Distributions of the outcomes in all cases, from one elimination; None if they must be sampled."""
        merged, rows = self._merged(query, cases), len(cases)
        if merged is None:
            return None
        network, targets, evidence = merged
        result = posterior(network, targets, evidence, rows)
        codes: list[Tensor] = []
        if result is None and all(term.value is not None for term in query.outcomes):
            codes = [_tensor(encoded) for _, _, encoded in next(self._combinations(query.outcomes))]
            result = event_probability(network, dict(zip(targets, codes, strict=True)), evidence, rows)
        if result is None:
            return None
        if codes:
            values = codes
        else:
            levels = torch.cartesian_prod(*map(torch.arange, result.table.shape[1:])).reshape(-1, len(targets))
            values = list(levels.T)
        return [
            _Drawn(values, weight, exact=True, possible=log_total > -math.inf)
            for weight, log_total in zip(result.table.view(rows, -1), result.log_evidence.tolist(), strict=True)
        ]

    def _exact_terms(self, queries: Sequence[language.Query]) -> list[float] | None:
        """Exact values of terms; None if one of them must be sampled."""
        numbers = []
        for query in queries:
            cases = list(product(self._combinations(query.do), self._combinations(query.given)))
            exact = self._exactly(query, cases)
            if exact is None:
                return None
            summed = _possible(exact[0], cases[0][1])
            if query.kind == "E":
                number, _ = summed.mean(self._numbers(query.outcomes[0], summed.values[0]), 0.0)
            else:
                number, _ = summed.share([encoded for _, _, encoded in next(self._combinations(query.outcomes))])
            numbers.append(number)
        return numbers

    def _terms_by_evidence(self) -> list[list[tuple[int, language.Query]]]:
        """Terms of the sum grouped by their evidence, which determines their rows."""
        groups: dict[object, list[tuple[int, language.Query]]] = {}
        for sign, query in self.expression.terms:
            key = (frozenset(map(str, query.given)), frozenset(map(str, query.do)) if query.given else frozenset())
            groups.setdefault(key, []).append((sign, query))
        return list(groups.values())

    def _draw(
        self, network: Network, targets: Sequence[int], evidence: Mapping[int, Tensor], given: Sequence[_Chosen]
    ) -> _Drawn:
        draws = Draws(
            network, targets, evidence, self.num_samples, self.seed, resample=False, shown=lambda: _words(given)
        )
        values: list[list[Tensor]] = [[] for _ in targets]
        weights: list[Tensor] = []
        for block in draws:
            for index, node in enumerate(targets):
                values[index].append(block.values[node])
            if block.weight is not None:
                weights.append(block.weight)
        drawn = _Drawn([torch.cat(parts) for parts in values], torch.cat(weights) if weights else None)
        self._ess = min(self._ess, drawn.ess)
        return drawn

    def _evidence(
        self, network: Network, given: Sequence[_Chosen], do: Mapping[str, Setting], targets: Sequence[int]
    ) -> dict[int, Tensor]:
        evidence: dict[int, Tensor] = {}
        terms: dict[int, language.Term] = {}
        # the actual world first, then the other worlds in the order of the text
        for term, _, encoded in sorted(given, key=lambda chosen: len(chosen[0].world) > 0):
            node = self._node(network, term, do)
            seen = _tensor(encoded)
            if not torch.equal(evidence.setdefault(node, seen), seen):
                raise self.expression.error("the conditions contradict each other", term)
            terms.setdefault(node, term)
        try:
            check_evidence(network, evidence, targets)
        except EvidenceError as error:
            raise self.expression.error(str(error), terms[error.node]) from None
        return evidence

    def _node(self, network: Network, term: language.Term, do: Mapping[str, Setting]) -> int:
        settings = dict(do)
        for setting in term.world:
            if setting.value is None:
                settings[setting.variable] = self._node(network, setting, do)
            else:
                settings[setting.variable] = encode_values(self.schema[setting.variable], self._level(setting))
        return network.world(settings)[term.variable]

    def _combinations(self, terms: Sequence[language.Term]) -> Iterator[tuple[_Chosen, ...]]:
        """All combinations of the values of a list of terms."""
        columns: list[list[_Chosen]] = []
        for term in terms:
            variable = self.schema[term.variable]
            if term.value is not None:
                values: list[Any] = [self._level(term)]
            elif term.variable in self._do:
                values = self._do[term.variable]
            else:
                values = list(variable.levels or ())
            columns.append(
                [(term, _shown(value, variable.origin), encode_setting(variable, value, 1)) for value in values]
            )
        return product(*columns)

    def _settings(self, terms: Sequence[language.Term]) -> Iterator[dict[str, Setting]]:
        for chosen in self._combinations(terms):
            yield {term.variable: encoded for term, _, encoded in chosen}

    def _level(self, term: language.Term) -> Any:
        variable = self.schema[term.variable]
        assert term.value is not None
        try:
            level = variable.parse(term.value)
            variable.code(level)
        except DataError as error:
            raise self.expression.error(str(error), term, value=True) from None
        return level

    def _numeric_levels(self, term: language.Term) -> Tensor:
        levels = self.schema[term.variable].levels or ()
        if not all(isinstance(level, int | float) for level in levels):
            raise self.expression.error(
                f"the levels of {term.variable!r} are not numbers, so it has no expectation", term
            )
        return torch.tensor([float(level) for level in levels], dtype=torch.float64)

    def _numbers(self, term: language.Term, values: Tensor) -> Tensor:
        if self.schema[term.variable].kind == "categorical":
            return self._numeric_levels(term)[values]
        return torch.from_numpy(self.schema[term.variable].restore(values.numpy()))

    def _step(self, query: language.Query) -> float:
        """Smallest difference between two possible values of a row; 0 for continuous values."""
        if query.kind == "P":
            return 1.0
        if self.schema[query.outcomes[0].variable].kind != "categorical":
            return 0.0
        levels = self._numeric_levels(query.outcomes[0]).sort().values
        return float(levels.diff().min()) if len(levels) > 1 else 0.0


@dataclass(frozen=True)
class _Drawn:
    """Values of the outcomes by row, with the weights of the rows if they differ.

    If ``exact``, the rows are all combinations of levels, their weights are probabilities, and ``possible`` is whether
    the evidence has positive probability.
    """

    values: Sequence[Tensor]
    weight: Tensor | None
    exact: bool = False
    possible: bool = True

    @property
    def ess(self) -> float:
        if self.exact:
            return math.inf
        if self.weight is None:
            return float(len(self.values[0]))
        return float(self.weight.sum()) ** 2 / float(self.weight.square().sum())

    def mean(self, numbers: Tensor, step: float) -> tuple[float, float]:
        """Mean over the rows and the variance of that mean.

        The variance includes one pseudo-row a step above the mean and one a step below, so that it is not 0 if all
        rows of a small sample have the same value.
        """
        if self.exact:
            assert self.weight is not None
            return float((self.weight * numbers).sum()), 0.0
        if self.weight is None:
            mean, rows = float(numbers.mean()), len(numbers)
            squares = float((numbers - mean).square().sum())
            return mean, (squares + 2 * step**2) / (rows + 2) / rows
        mean = float((self.weight * numbers).sum() / self.weight.sum())
        spread = self.weight.square() * (numbers - mean).square()
        squares = float(spread.sum() / self.weight.square().sum()) * self.ess
        return mean, (squares + 2 * step**2) / (self.ess + 2) / self.ess

    def share(self, codes: Sequence[Setting]) -> tuple[float, float]:
        """Share of the rows with the given values, and its standard error."""
        equal = [value == _tensor(code) for value, code in zip(self.values, codes, strict=True)]
        agree = torch.stack(equal).all(0).double()
        share, variance = self.mean(agree, 0.0)
        if self.exact:
            return share, 0.0
        # Laplace-smoothed inside the root, so that a share of 0 or 1 does not claim certainty
        smooth = (share * self.ess + 1) / (self.ess + 2)
        error = math.sqrt(smooth * (1 - smooth) / self.ess)
        return share, error if self.weight is None else max(error, math.sqrt(variance))


def _shown(value: Any, origin: str | None) -> Any:
    """A value in the table of an answer: the name of a function, the date for a number of days."""
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if origin is not None and not isinstance(value, np.ndarray):
        return shown_date(days(value, origin), origin)
    return value


def _possible(summed: _Drawn, given: Sequence[_Chosen]) -> _Drawn:
    """An exact distribution, checked for evidence of probability zero.

    Raises:
        LowSupportError: If the evidence has probability zero.
    """
    if not summed.possible:
        raise LowSupportError(f"{_words(given)} has probability zero in the model", ess=0.0, probability=0.0)
    return summed


def _words(given: Sequence[_Chosen]) -> str:
    """Evidence as text."""
    return ", ".join(f"{term.label}={value!r}" for term, value, _ in given)


def _stacked(settings: Sequence[Setting]) -> Setting:
    """A setting common to all cases, or one row for each."""
    first = settings[0]
    if not isinstance(first, torch.Tensor) or all(setting is first for setting in settings):
        return first
    return torch.cat([_tensor(setting) for setting in settings])


def _tensor(setting: Setting) -> Tensor:
    assert isinstance(setting, torch.Tensor)
    return setting
