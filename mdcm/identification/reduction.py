"""Reduction of queries, including interventions by a rule, to sums over the levels of a variable.

P(E, X=0) = P(E) - P(E, X=1) if X has two levels, and likewise for more. A query that is not identified directly may
be identified as a sum of such terms: the effect of treatment on the untreated,
P(Y[X=1], X=0) = P(Y | do(X=1)) - P(Y, X=1), if the effect itself is identified. A rule that sets X to f(X) is a
counterfactual quantity, the sum over the levels x of P(Y[X=f(x)], X=x) (Pearl 2009, section 4.2). Sound, not complete.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdcm import query as language
from mdcm.identification.combination import CaseFormula, Combination, RuleMixture, SignedFormula
from mdcm.identification.question import as_text

if TYPE_CHECKING:
    from mdcm.identification.combination import AnyFormula
    from mdcm.identification.estimand import Formula

__all__ = ["Reduction", "Rules"]

# largest numbers, per query, of probabilities tried and of combinations of natural levels
_MOST_TRIED = 256
_MOST_COMBINATIONS = 1024
# variables with more levels are not summed over
_MOST_LEVELS = 32
# largest depth of nested subtractions
_DEEPEST = 3

# value set for each level of a variable; None if unknown
Rules = Mapping[str, "Mapping[Any, Any] | None"]
# signs and formulas, and the variables that are summed over
_SignedSum = tuple[tuple[tuple[int, "Formula"], ...], frozenset[str]]


class Reduction:
    """Search for identified probabilities whose signed sum answers a query.

    Args:
        direct: Function that returns the formula of a query that is identified directly, or None.
        levels: All levels of the variables with known levels.

    Attributes:
        missing: First required probability that is not identified, or None.
    """

    def __init__(self, direct: Callable[[language.Query], Formula | None], levels: Mapping[str, Sequence[Any]]) -> None:
        self._direct = direct
        self._levels = {name: tuple(values) for name, values in levels.items()}
        self._known: dict[tuple[frozenset[language.Term], int], _SignedSum | None] = {}
        self._tried = 0
        self.missing: language.Query | None = None

    def formula(self, query: language.Query) -> AnyFormula | None:
        """A formula for a query that is not identified directly, or None."""
        terms = (*query.do, *query.given, *query.outcomes)
        if all(term.value is not None for term in query.do):
            columns: list[language.Term | None] = [None] * len(query.do)
            columns += [_in_world(term, query.do) for term in (*query.given, *query.outcomes)]
            combination = self._combination(query, [((), columns)])
            if combination is not None:
                return combination
        for column, term in enumerate(terms):
            # the formula may depend on the level if the variable is set or occurs in another term
            if term.value is None and self._few(term.variable) and self._occurs_again(term, terms, query.do):
                return self._cases(query, column, term)
        return None

    def ruled(self, query: language.Query, rules: Rules, order: Sequence[str]) -> AnyFormula | None:
        """A formula for a query with settings that are functions of natural values, or None.

        Args:
            query: The query; a do() term with neither a value nor a rule stands for every level.
            rules: Value that is set for each natural level, by variable of do().
            order: Variables with rules, in topological order.
        """
        for column, term in enumerate(query.do):
            if term.value is None and term.variable not in rules:
                if not self._few(term.variable):
                    return None
                cases = [self.ruled(_at(query, term, level), rules, order) for level in self._levels[term.variable]]
                formulas = [case for case in cases if case is not None]
                if len(formulas) < len(cases):
                    return None
                return CaseFormula(query, column, self._levels[term.variable], formulas)
        known = all(rules[name] is not None for name in order)
        combinations = list(self._combinations(query, rules, order))
        if len(combinations) > _MOST_COMBINATIONS:
            return None
        if known:
            return self._combination(query, combinations, frozenset(order))
        # for an unknown rule, every pair of a natural value and a value that is set must be identified
        terms = [self._combination(query, [combination], frozenset(order)) for combination in combinations]
        if None in terms or not terms:
            return None
        assert terms[0] is not None
        return RuleMixture(query, terms[0])

    def _combinations(
        self, query: language.Query, rules: Rules, order: Sequence[str]
    ) -> list[tuple[tuple[language.Term, ...], list[language.Term | None]]]:
        """For all natural values: their events, and the columns of the answer in the world of the rule's values."""
        choices: list[list[tuple[Any, Any]]] = []
        for name in order:
            rule = rules[name]
            if rule is not None:
                choices.append(list(rule.items()))
            elif self._few(name) and len(self._levels[name]) ** 2 <= _MOST_COMBINATIONS:
                choices.append(list(itertools.product(self._levels[name], repeat=2)))
            else:
                # without known levels, two placeholders that differ and two that are equal
                choices.append([("natural", "set"), ("natural", "natural")])
        if math.prod(map(len, choices)) > _MOST_COMBINATIONS:
            return [((), [])] * (_MOST_COMBINATIONS + 1)
        combinations = []
        for pairs in itertools.product(*choices):
            settings = [term for term in query.do if term.value is not None]
            events = []
            for name, (natural, value_set) in zip(order, pairs, strict=True):
                events.append(language.Term(name, natural, tuple(settings)))
                settings.append(language.Term(name, value_set))
            columns = [_in_world(term, settings) for term in (*query.given, *query.outcomes)]
            combinations.append((tuple(events), [*[None] * len(query.do), *columns]))
        return combinations

    def _few(self, name: str) -> bool:
        return 1 <= len(self._levels.get(name, ())) <= _MOST_LEVELS

    def _occurs_again(self, term: language.Term, terms: Sequence[language.Term], do: Sequence[language.Term]) -> bool:
        others = {setting.variable for other in terms for setting in other.walk() if setting is not other}
        others.update(other.variable for other in terms if other is not term)
        return term in do or term.variable in others

    def _cases(self, query: language.Query, column: int, term: language.Term) -> CaseFormula | None:
        levels = self._levels[term.variable]
        formulas: list[AnyFormula] = []
        for level in levels:
            query_at_level = _at(query, term, level)
            formula = self._direct(query_at_level) or self.formula(query_at_level)
            if formula is None:
                return None
            formulas.append(formula)
        return CaseFormula(query, column, levels, formulas)

    def _combination(
        self,
        query: language.Query,
        combinations: Sequence[tuple[tuple[language.Term, ...], Sequence[language.Term | None]]],
        summed: frozenset[str] = frozenset(),
    ) -> Combination | None:
        """Sum over combinations of disjoint events, each joined with the columns of the answer."""
        top: list[SignedFormula] = []
        bottom: list[SignedFormula] = []
        for events, columns in combinations:
            present = [term for term in columns if term is not None]
            given = [term for term in columns[len(query.do) : len(query.do) + len(query.given)] if term is not None]
            for part, terms in ((top, present), (bottom, given)):
                if part is bottom and not query.given:
                    continue
                signed_sum = self._joint([*events, *terms], _DEEPEST)
                if signed_sum is None:
                    self.missing = self.missing or language.Query("P", tuple(dict.fromkeys([*events, *terms])))
                    return None
                part += [SignedFormula.of(sign, formula, columns) for sign, formula in signed_sum[0]]
                summed |= signed_sum[1]
        exhaustive = {name: self._levels[name] for name in sorted(summed) if name in self._levels}
        return Combination(query, top, bottom if query.given else None, exhaustive)

    def _joint(self, events: Sequence[language.Term], depth: int) -> _SignedSum | None:
        """Signed formulas whose sum is the joint probability of all events, or None."""
        unique = tuple(dict.fromkeys(events))
        key = (frozenset(unique), depth)
        if key in self._known:
            return self._known[key]
        if self._tried >= _MOST_TRIED:
            return None
        self._tried += 1
        formula = self._direct(language.Query("P", unique))
        result: _SignedSum | None = None
        if formula is not None:
            result = ((1, formula),), frozenset()
        elif depth:
            candidates = (self._without(unique, event, depth) for event in unique)
            result = next((candidate for candidate in candidates if candidate is not None), None)
        self._known[key] = result
        return result

    def _without(self, events: Sequence[language.Term], event: language.Term, depth: int) -> _SignedSum | None:
        """Joint probability of the other events, minus that with each other level of the variable of ``event``."""
        rest = [other for other in events if other != event]
        if not rest or event.value is None or not self._few(event.variable):
            return None
        levels = self._levels[event.variable]
        others = [level for level in levels if as_text(level) != as_text(event.value)]
        marginal = self._joint(rest, depth - 1) if len(others) == len(levels) - 1 else None
        if marginal is None:
            return None
        terms, summed = list(marginal[0]), marginal[1] | {event.variable}
        for level in others:
            part = self._joint([*rest, replace(event, value=level)], depth - 1)
            if part is None:
                return None
            terms += [(-sign, formula) for sign, formula in part[0]]
            summed |= part[1]
        return tuple(terms), summed


def _in_world(term: language.Term, do: Sequence[language.Term]) -> language.Term:
    """A term in the world of do(), unless it specifies a world."""
    return replace(term, world=tuple(do)) if do and not term.world else term


def _at(query: language.Query, term: language.Term, level: Any) -> language.Query:
    """The query with a level as the value of a term."""

    def substituted(terms: Sequence[language.Term]) -> tuple[language.Term, ...]:
        return tuple(replace(other, value=level) if other is term else other for other in terms)

    return replace(
        query, do=substituted(query.do), given=substituted(query.given), outcomes=substituted(query.outcomes)
    )
