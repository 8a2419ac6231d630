"""Translation of queries for the compiled identification: worlds, and the values of variables in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdcm import query as language
from mdcm.data.levels import LevelError, position
from mdcm.graph import ADMG
from mdcm.planning.pooling import Domain

__all__ = ["AnswerColumn", "Question", "Symbol"]

# codes of the compiled core for values that are free, or not a known level
_FREE, _FOREIGN = -1, -2


@dataclass(frozen=True)
class Symbol:
    """A value of a variable in an estimand.

    Attributes:
        variable: Name of the variable.
        value: The value of a constant; None for a free or summed variable.
    """

    variable: str
    value: language.Value | None = None


@dataclass(frozen=True)
class AnswerColumn:
    """A column of the answer.

    Attributes:
        label: Name of the column.
        symbol: Index of the symbol.
        value: The value that the query fixes, or None.
    """

    label: str
    symbol: int
    value: language.Value | None


@dataclass
class Question:
    """A query in integers, for the compiled core.

    Attributes:
        graph: The graph.
        domains: Levels of the variables that data sets set.
        values: (node, level) of the additional symbols; the first symbols are the nodes, with the same indices.
        worlds: (node, symbol, other world) for the settings of every world.
        atoms: (symbol, world, whether it is a condition).
        answer_columns: Columns of the answer: interventions, conditions, outcomes.
    """

    graph: ADMG
    domains: Mapping[str, Domain]
    values: list[tuple[int, int]] = field(default_factory=list)
    worlds: list[list[tuple[int, int, int]]] = field(default_factory=list)
    atoms: list[tuple[int, int, bool]] = field(default_factory=list)
    answer_columns: list[AnswerColumn] = field(default_factory=list)
    _constants: dict[tuple[str, str | int], int] = field(default_factory=dict)
    _additional: list[Symbol] = field(default_factory=list)
    _used: set[int] = field(default_factory=set)
    _world_of: dict[tuple[tuple[int, int, int], ...], int] = field(default_factory=dict)

    @classmethod
    def of(cls, query: language.Query, graph: ADMG, domains: Mapping[str, Domain]) -> Question:
        """Translate a query.

        Args:
            query: The query; an expectation becomes the distribution of its outcome.
            graph: The graph; all variables of the query must be nodes.
            domains: Levels of the variables that data sets set.
        """
        self = cls(graph, domains)
        settings = []
        for term in query.do:
            symbol = self._symbol(term)
            settings.append((graph.index(term.variable), symbol, -1))
            self.answer_columns.append(AnswerColumn(term.label, symbol, term.value))
        actual = self._world(settings)
        for terms, is_condition in ((query.given, True), (query.outcomes, False)):
            for term in terms:
                symbol = self._symbol(term)
                world = self._world_for(term.world) if term.world else actual
                self.atoms.append((symbol, world, is_condition))
                self.answer_columns.append(AnswerColumn(term.label, symbol, term.value))
        return self

    def symbol(self, number: int) -> Symbol:
        """The symbol with an index that the query itself uses."""
        n = len(self.graph)
        return Symbol(self.graph.nodes[number]) if number < n else self._additional[number - n]

    def _symbol(self, term: language.Term) -> int:
        node = self.graph.index(term.variable)
        if term.value is None:
            if node not in self._used:
                self._used.add(node)
                return node
            return self._add(node, _FREE, Symbol(term.variable))
        order = self.domains[term.variable].order if term.variable in self.domains else ()
        try:
            code = position(order, term.value)
        except LevelError:
            code = _FOREIGN
        # an unknown level may be written as a number or a text
        key = (term.variable, as_text(term.value) if code == _FOREIGN else code)
        if key not in self._constants:
            self._constants[key] = self._add(node, code, Symbol(term.variable, term.value))
        return self._constants[key]

    def _add(self, node: int, level: int, symbol: Symbol) -> int:
        self.values.append((node, level))
        self._additional.append(symbol)
        return len(self.graph) + len(self._additional) - 1

    def _world_for(self, world: tuple[language.Term, ...]) -> int:
        settings = []
        # depth first; the query language limits the depth
        for setting in world:
            node = self.graph.index(setting.variable)
            if setting.world:
                settings.append((node, -1, self._world_for(setting.world)))
            else:
                settings.append((node, self._symbol(setting), -1))
        return self._world(settings)

    def _world(self, settings: list[tuple[int, int, int]]) -> int:
        key = tuple(sorted(settings))
        if key not in self._world_of:
            self._world_of[key] = len(self.worlds)
            self.worlds.append(list(key))
        return self._world_of[key]


def as_text(value: object) -> str:
    """A value as a user types it: 1 for 1.0."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
