"""Queries of all three layers asked of a model: summed up exactly, or answered by drawing the worlds they are about."""

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
from mdcm.advice import advice, warn
from mdcm.answers import Answer, shown_date
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
from mdcm.variables import days

if TYPE_CHECKING:
    from torch import Tensor

    from mdcm.dcm import DCM
    from mdcm.identify import Identification

__all__ = ["Answering"]

# of the tables in answers, besides the variables
_COLUMNS = ("probability", "mean", "stderr", "low", "high")
# combinations of a table that are warned of one by one
_MOST_WARNINGS = 6

# a term of a query, its value as people see it, and as mechanisms take it
_Chosen = tuple[language.Term, Any, Setting]
# what is set and what is given in a row of an answer
_Case = tuple[tuple[_Chosen, ...], tuple[_Chosen, ...]]


class Answering:
    """A query about a model: what it asks of the model, and the answer from draws.

    Args:
        dcm: The model.
        expression: The query.
        do: Values of terms of do() that have none in the text: a list of values, one value, or a function of the
            natural value.
        num_samples: Draws per combination of what is set and given.
        seed: Seed of the draws.
        support: What is known of the training data, or None.

    Raises:
        QueryError: With a caret under the place, if the query does not fit the model.
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
        self._warned: list[str] = []
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
            for one in listed[name]:
                encode_setting(variable, one, 1)
        return listed

    def _check(self, query: language.Query) -> None:
        for term in query.walk():
            variable = self.schema[term.variable]
            if term in query.do and term.variable in self._do:
                continue
            is_outcome = any(term is one for one in query.outcomes)
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
        # worlds and evidence that cannot be, before anything is drawn
        network = Network(self.dcm)
        do = next(self._settings(query.do))
        given = next(self._combinations(query.given))
        targets = [self._node(network, term, do) for term in query.outcomes]
        self._evidence(network, given, do, targets)

    def answer(self, found: Identification, *, allow_low_support: bool = False) -> Answer:
        """The answer.

        Args:
            found: How the query is identified.
            allow_low_support: Whether to answer all the same where training rows are few.

        Raises:
            LowSupportError: If the evidence is too improbable, or too many draws rest on few training rows.
        """
        value: float | None
        error: float | None
        (sign, query), *others = self.expression.terms
        if others or sign < 0 or (query.kind == "E" and query.is_number):
            table, value, error = self._number(allow_low_support)
        else:
            table, value, error = self._table(query, allow_low_support)
        if self._warned:
            more = f"\n(and {len(self._warned) - _MOST_WARNINGS} more)" if len(self._warned) > _MOST_WARNINGS else ""
            warn("\n".join(self._warned[:_MOST_WARNINGS]) + more)
        basis = Basis.weakest(self._bases, self._support.total) if self._support is not None else None
        return Answer(
            str(self.expression),
            table,
            value,
            error,
            float(self._ess),
            found,
            None if basis is None else basis.rows,
            None if basis is None else basis.unseen,
            None if basis is None else basis.total,
            origin=self._origin(),
        )

    def _origin(self) -> str | None:
        """Origin of the dates that the answer is: where terms are expectations of dates that count once in all."""
        queries = self.expression.queries
        origins = {self.schema[query.outcomes[0].variable].origin if query.kind == "E" else None for query in queries}
        if len(origins) > 1 or sum(sign for sign, _ in self.expression.terms) != 1:
            return None
        return origins.pop()

    def _bases_of(self, query: language.Query, cases: Sequence[_Case]) -> Sequence[Basis | None]:
        """What the answer in each case rests on, where one computation tells it for all of them."""
        if self._support is None or len(cases) == 1:
            return [None] * len(cases)
        bases: list[Basis | None] = []
        for start in range(0, len(cases), MOST_CASES):
            some = cases[start : start + MOST_CASES]
            together = self._together(query, some)
            found = None if together is None else self._support.bases(*together, len(some), self.seed)
            bases += [None] * len(some) if found is None else found
        return bases

    def _judge(
        self,
        network: Network,
        targets: Sequence[int],
        evidence: Mapping[int, Tensor],
        allowed: bool,
        where: str = "",
        basis: Basis | None = None,
    ) -> None:
        """Refuse or warn where training rows are few.

        Queries that neither set nor condition rest on the rows as they came.
        """
        if self._support is None:
            return
        if basis is None:
            basis = self._support.basis(network, targets, evidence, num_samples=self.num_samples, seed=self.seed)
        asked = any(query.layer > 1 or query.given for query in self.expression.queries)
        said = f"{self.expression}{where}: {basis}"
        if asked and basis.is_refused and not allowed:
            raise LowSupportError(
                said,
                rows=basis.rows,
                unseen=basis.unseen,
                remedy=advice("allow_low_support=True answers all the same", "--low-support answers all the same"),
            )
        self._bases.append(basis)
        if asked and basis.is_low and not allowed:
            self._warned.append(said)

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
            except LowSupportError as low:
                if len(cells) == 1:
                    raise
                # what can be answered is; the others have no number
                refused.append(low)
                rows = self._cell(query, do, given, None, None, "")
            records += rows
        if len(refused) == len(cells):
            raise refused[0]
        if refused:
            self._warned.insert(0, f"{len(refused)} of {len(cells)} combinations are not answered (NaN)")
            self._warned[1:1] = map(str, refused)
        table = pd.DataFrame.from_records(records)
        if len(table) != 1:
            return table, None, None
        value, error = (float(number) for number in table.iloc[0, -2:])
        return table, value, error

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
        """Rows of a table for one combination of what is set and given; without numbers where ``allowed`` is None."""
        settings = {term.variable: encoded for term, _, encoded in do}
        network = Network(self.dcm)
        targets = [self._node(network, term, settings) for term in query.outcomes]
        drawn = None
        if allowed is not None:
            evidence = self._evidence(network, given, settings, targets)
            drawn = self._draw(network, targets, evidence, given) if summed is None else _possible(summed, given)
            self._judge(network, targets, evidence, allowed, where, basis)
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
        for terms in self._alike():
            # the same rows have the same noise in every term, so errors of the terms cancel row by row
            network = Network(self.dcm)
            nodes, steps = [], []
            _, first = terms[0]
            given = next(self._combinations(first.given))
            for _, query in terms:
                do = next(self._settings(query.do))
                nodes.append([self._node(network, term, do) for term in query.outcomes])
                steps.append(self._step(query))
            flat = [one for some in nodes for one in some]
            evidence = self._evidence(network, given, next(self._settings(first.do)), flat)
            exact = self._exact_terms([query for _, query in terms])
            if exact is not None:
                self._judge(network, flat, evidence, allowed)
                value += sum(sign * number for (sign, _), number in zip(terms, exact, strict=True))
                continue
            drawn = self._draw(network, flat, evidence, given)
            self._judge(network, flat, evidence, allowed)
            total: Tensor | None = None
            place = 0
            for (sign, query), some in zip(terms, nodes, strict=True):
                values = drawn.values[place : place + len(some)]
                place += len(some)
                if query.kind == "E":
                    numbers = self._numbers(query.outcomes[0], values[0])
                else:
                    chosen = next(self._combinations(query.outcomes))
                    agree = [
                        torch.eq(one, _tensor(encoded)) for one, (_, _, encoded) in zip(values, chosen, strict=True)
                    ]
                    numbers = torch.stack(agree).all(0).double()
                total = sign * numbers if total is None else total + sign * numbers
            assert total is not None
            mean, spread = drawn.mean(total, min(steps))
            value += mean
            variance += spread
        error = math.sqrt(variance)
        return pd.DataFrame({"value": [value], "stderr": [error]}), value, error

    def _together(
        self, query: language.Query, cases: Sequence[_Case]
    ) -> tuple[Network, list[int], dict[int, Tensor]] | None:
        """All cases as one question: its nodes, those asked for, and what is seen, with one value for each case.

        None where what is set is a function of the natural value, which may be a random one.
        """
        network = Network(self.dcm)
        settings: dict[str, Setting] = {}
        for place, term in enumerate(query.do):
            settings[term.variable] = _stacked([do[place][2] for do, _ in cases])
        if not all(isinstance(setting, torch.Tensor) for setting in settings.values()):
            return None
        targets = [self._node(network, term, settings) for term in query.outcomes]
        given = [
            (term, None, _stacked([given[place][2] for _, given in cases])) for place, term in enumerate(query.given)
        ]
        return network, targets, self._evidence(network, given, settings, targets)

    def _exactly(self, query: language.Query, cases: Sequence[_Case]) -> list[_Drawn] | None:
        """Distributions of the outcomes in all cases, from one elimination; None where they must be drawn."""
        together, rows = self._together(query, cases), len(cases)
        if together is None:
            return None
        network, targets, evidence = together
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
        """Numbers of terms whose values are all given; None where one of them must be drawn."""
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

    def _alike(self) -> list[list[tuple[int, language.Query]]]:
        """Terms of the sum by what they are conditioned on, which is all that decides their rows."""
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
            for place, node in enumerate(targets):
                values[place].append(block.values[node])
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
        # the actual world first, and then worlds as they come in the text
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
        """All combinations of values that a list of terms stands for."""
        columns: list[list[_Chosen]] = []
        for term in terms:
            variable = self.schema[term.variable]
            if term.value is not None:
                values: list[Any] = [self._level(term)]
            elif term.variable in self._do:
                values = self._do[term.variable]
            else:
                values = list(variable.levels or ())
            columns.append([(term, _shown(one, variable.origin), encode_setting(variable, one, 1)) for one in values])
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
                f"the levels of {term.variable!r} are no numbers, so it has no expectation", term
            )
        return torch.tensor([float(level) for level in levels], dtype=torch.float64)

    def _numbers(self, term: language.Term, values: Tensor) -> Tensor:
        if self.schema[term.variable].kind == "categorical":
            return self._numeric_levels(term)[values]
        return torch.from_numpy(self.schema[term.variable].restore(values.numpy()))

    def _step(self, query: language.Query) -> float:
        """Smallest difference between two values that a row can have; 0 where there is none."""
        if query.kind == "P":
            return 1.0
        if self.schema[query.outcomes[0].variable].kind != "categorical":
            return 0.0
        levels = self._numeric_levels(query.outcomes[0]).sort().values
        return float(levels.diff().min()) if len(levels) > 1 else 0.0


@dataclass(frozen=True)
class _Drawn:
    """Values of the outcomes row by row, and the rows' weights where they differ.

    Where ``exact`` holds the rows are all combinations of levels, and their weights are probabilities; ``possible``
    is whether what is given is possible then.
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

        It is the variance after one more row a step above the mean and one a step below it: where values are few and
        most rows agree, all rows of a small sample may, and their own variance would claim certainty.
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
        """Share of the rows whose values are those, and its standard error."""
        agree = (
            torch.stack([one == _tensor(code) for one, code in zip(self.values, codes, strict=True)]).all(0).double()
        )
        share, variance = self.mean(agree, 0.0)
        if self.exact:
            return share, 0.0
        # Laplace-smoothed inside the root, so that a share of 0 or 1 does not claim certainty
        smooth = (share * self.ess + 1) / (self.ess + 2)
        error = math.sqrt(smooth * (1 - smooth) / self.ess)
        return share, error if self.weight is None else max(error, math.sqrt(variance))


def _shown(value: Any, origin: str | None) -> Any:
    """A value in a table of answers: functions by their names, days since an origin as dates."""
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if origin is not None and not isinstance(value, np.ndarray):
        return shown_date(days(value, origin), origin)
    return value


def _possible(summed: _Drawn, given: Sequence[_Chosen]) -> _Drawn:
    """An exact distribution, if there is one.

    Raises:
        LowSupportError: If what is given has probability zero.
    """
    if not summed.possible:
        raise LowSupportError(f"{_words(given)} has probability zero in the model", ess=0.0, probability=0.0)
    return summed


def _words(given: Sequence[_Chosen]) -> str:
    """Evidence as people write it."""
    return ", ".join(f"{term.label}={value!r}" for term, value, _ in given)


def _stacked(settings: Sequence[Setting]) -> Setting:
    """One setting for all cases, or one row for each of them."""
    first = settings[0]
    if not isinstance(first, torch.Tensor) or all(setting is first for setting in settings):
        return first
    return torch.cat([_tensor(setting) for setting in settings])


def _tensor(setting: Setting) -> Tensor:
    assert isinstance(setting, torch.Tensor)
    return setting
