"""Identification of queries: translation of queries and data sets to the compiled core, and of its results back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from mdcm import _core
from mdcm import query as language
from mdcm.errors import GraphError, PlanError, QueryError
from mdcm.graph import ADMG
from mdcm.identification.estimand import Estimand, Formula, FormulaTerm
from mdcm.identification.picture import draw
from mdcm.identification.question import Question, Symbol, as_text
from mdcm.identification.reduction import Reduction, Rules
from mdcm.identification.tables import TableSource
from mdcm.identification.witness import Hedge, InconsistentFactor, UnknownFactor, Witness, roots_of
from mdcm.planning import DatasetSpec, Kind
from mdcm.planning.pooling import Domain, checked, domains_of, pooled

if TYPE_CHECKING:
    from mdcm.identification.combination import AnyFormula

__all__ = ["Identification", "identify"]

# largest number of candidates for helpful experiments, the nearest to the obstacle
_MOST_TARGETS = 40
_OBSTACLES = {
    "inside": "sets {} by do(), a variable of the c-factor",
    "columns": "does not observe {}",
    "values": "does not set all values of {} that are needed",
    "combinations": "does not set all combinations of values of {} that are needed",
    "hedge": "does not separate it from the rest of {{{}}}",
}

Experiment = Mapping[str, Iterable[Any] | None] | Iterable[str]


@dataclass(frozen=True)
class Identification:
    """Whether a query is identifiable, with the estimand or the reason.

    Attributes:
        query: The query.
        identifiable: True; False; or None if undecided: without an estimand, but with a rule or a data set that does
            not observe all variables, for which the search is incomplete.
        estimand: Expression for the answer, if identifiable.
        witness: Reason why the query is not identified, if it is not.
    """

    query: language.Expression
    identifiable: bool | None
    estimand: Estimand | None
    witness: Witness | None
    graph: ADMG = field(repr=False, compare=False)
    _data: _Data = field(repr=False, compare=False)
    rules: Rules = field(default_factory=dict, repr=False, compare=False)

    @property
    def _query_text(self) -> str:
        ruled = [term.variable for query in self.query.queries for term in query.do if term.variable in self.rules]
        if not ruled:
            return str(self.query)
        return f"{self.query} with {', '.join(dict.fromkeys(ruled))} set by a rule"

    def __str__(self) -> str:
        if self.estimand is not None:
            try:
                return f"{self._query_text} = {self.estimand}"
            except QueryError as error:
                return f"{self._query_text} is identifiable; {error}"
        decision = "not identifiable" if self.identifiable is False else "not shown to be identifiable"
        return f"{decision} from {self._data.description}: {self.witness}"

    @cached_property
    def experiments(self) -> tuple[tuple[str, ...], ...]:
        """The smallest experiments that would make the query identifiable, each with all variables observed.

        Single targets, or pairs if no single target helps, set to all values; experiments on variables outside the
        query come first. Empty if the query is identifiable or no such experiment helps. Computed on first access from
        the members of the witness, in large graphs from the nearest 40.
        """
        if self.estimand is not None or (isinstance(self.witness, InconsistentFactor) and not self._data.levels):
            return ()
        return tuple(_helpful_experiments(self.query, self.graph, self._data, self.rules))

    def explain(self) -> str:
        """The decision with its reason and the experiments that would help, as text."""
        if self.estimand is not None:
            return str(self)
        assert self.witness is not None
        lines = [f"{self._query_text} is {self}.", self.witness.explain()]
        if self.experiments:
            alternatives = " or ".join(" and ".join(targets) for targets in self.experiments)
            lines.append(f"It would be identifiable with an experiment that sets {alternatives} to all values.")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; an estimand that is too long has no text, or only the reason."""
        return {
            "query": str(self.query),
            "identifiable": self.identifiable,
            "estimand": None if self.estimand is None else _estimand_json(self.estimand),
            "witness": None if self.witness is None else {"text": str(self.witness), **self.witness.to_json()},
            "experiments": [list(targets) for targets in self.experiments],
        }

    def to_svg(self) -> str:
        """Drawing of the graph with the variables of the query and the two c-forests of a hedge marked.

        Returns:
            A self-contained SVG document.
        """
        return draw(self.graph, self.query, self.witness)


def _estimand_json(estimand: Estimand) -> dict[str, Any]:
    try:
        content = estimand.to_json()
    except QueryError as error:
        return {"text": None, "reason": str(error)}
    try:
        return {"text": str(estimand), **content}
    except QueryError:
        return {"text": None, **content}


def identify(
    graph: ADMG | str,
    query: str | language.Expression,
    *,
    experiments: Iterable[Experiment] | None = None,
    datasets: Sequence[DatasetSpec] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    levels: Mapping[str, Sequence[Any]] | None = None,
    rules: Rules | None = None,
) -> Identification:
    """Decide whether data determine the answer to a query, with an estimand or the reason.

    The query is factorised into c-factors over the variables in their worlds, and each c-factor must be a function of
    the distribution of some data set, at the values that it sets. If columns are missing, the decision is made in the
    latent projection of the graph onto the observed columns.

    Args:
        graph: The graph, or its arrow text.
        query: A query of any layer, such as ``P(Y | do(X), Z)``, ``P(Y[X=1] | X=0, Y=1)``,
            ``P(Y[X=1, M[X=0]])``, ``E[Y | do(X=1)] - E[Y | do(X=0)]``; a sum is identifiable if its terms are. An event
            without a value must be determined at every level.
        experiments: Experiments available besides P(V), with all variables observed: for each the names of the
            variables that were set to every value, or a mapping from names to the values set.
        datasets: Available data sets with their columns and values; P(V) is then not assumed.
        kinds: Kind of each variable, categorical by default.
        levels: All levels of variables; by default, for intervened variables, the values set in the data sets, if there
            are two or more. Known levels permit subtraction: P(Y[X=1], X=0) is P(Y | do(X=1)) - P(Y, X=1) if X has two
            levels.
        rules: For do() terms without a value that are set to a function of the natural value: the value set for each
            level, or None if unknown. The query is then counterfactual, and identified if all P(Y[X=f(x)], X=x) are.

    Returns:
        The decision: sound; complete if every data set observes all variables and sets every value, for variables of
        any number of levels and without rules.

    Raises:
        QueryError: If the text is malformed, names an unknown variable, or its conditions contradict each other.
        PlanError: If the data sets are malformed.

    Complexity:
        O(n (n + edges)) per data set and world at worst, usually O(n + edges). The estimand is computed on first use.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects; Shpitser & Pearl (2006, 2007);
        Huang & Valtorta (2006) for completeness; Lee, Correa & Bareinboim (2019), General identifiability with
        arbitrary surrogate experiments; Lee & Bareinboim (2020), Causal effect identifiability under
        partial-observability; Correa, Lee & Bareinboim (2021), Nested counterfactual identification from arbitrary
        surrogate experiments.

    Example:
        >>> print(identify("D -> I -> A; D <-> A", "P(A | do(D))"))
        P(A | do(D)) = sum_{I} P(I | D) sum_{D'} P(D') P(A | D', I)
        >>> print(identify("X -> Y; X <-> Y", "P(Y | do(X))"))
        not identifiable from P(V): F' = {Y} inside F = {X, Y}
        >>> print(identify("X -> Z -> Y; X <-> Z; X <-> Y", "P(Y | do(X))", experiments=[["X"]]))
        P(Y | do(X)) = P(Y | do(X))
        >>> print(identify("X -> Y", "P(Y[X=1]=1 | X=0)"))
        P(Y[X=1]=1 | X=0) = P(Y=1 | X=1)
    """
    graph = ADMG.of(graph)
    expression = language.parse(query) if isinstance(query, str) else query
    if not all(name in graph for name in expression.variables):
        # raises an error that suggests similar names, which takes time linear in the graph
        expression.check(graph.nodes, dict(graph.latents))
    data = _Data.of(graph, experiments, datasets, kinds or {}, levels or {})
    rules = rules or {}
    formulas: list[AnyFormula] = []
    for single_query in expression.queries:
        result = _formula_of(graph, data, expression, single_query, rules)
        if isinstance(result, _Attempt):
            ruled = any(term.variable in rules for term in single_query.do)
            verdict = None if data.is_partial or ruled else False
            return Identification(expression, verdict, None, result.witness(), graph, data, rules)
        formulas.append(result)
    return Identification(expression, True, Estimand(expression, formulas, data.levels), None, graph, data, rules)


def _formula_of(
    graph: ADMG, data: _Data, expression: language.Expression, query: language.Query, rules: Rules
) -> AnyFormula | _Attempt:
    """A formula for a query, or the failed attempt with the reason."""
    query, order = _split_rules(graph, query, rules)
    reduction = Reduction(partial(_direct_or_none, graph, data), data.levels)
    if order:
        formula = reduction.ruled(query, rules, order)
        if formula is None:
            missing = reduction.missing or query
            result = _direct(graph, data, language.Expression(((1, missing),)), missing)
            if not isinstance(result, _Attempt):
                raise QueryError(f"{expression}: the rule has too many combinations of levels to be decided")
            return result
        return formula
    result = _direct(graph, data, expression, query)
    if isinstance(result, _Attempt) and data.levels:
        return reduction.formula(query) or result
    return result


def _split_rules(graph: ADMG, query: language.Query, rules: Rules) -> tuple[language.Query, list[str]]:
    """The query with constant rules as values, and the variables of the other rules in topological order."""
    settings, order = [], set()
    for term in query.do:
        if term.value is None and term.variable in rules:
            rule = rules[term.variable]
            values_set = None if rule is None else set(rule.values())
            if values_set is not None and len(values_set) == 1:
                term = replace(term, value=values_set.pop())
            else:
                order.add(term.variable)
        settings.append(term)
    names = [name for name in graph.topological_order() if name in order] if order else []
    return replace(query, do=tuple(settings)), names


def _direct(graph: ADMG, data: _Data, expression: language.Expression, query: language.Query) -> Formula | _Attempt:
    """Formula of a query by factorisation into c-factors, or the failed attempt on the whole graph."""
    failed: _Attempt | None = None
    for view in _views(graph, data, query):
        attempt = _Attempt(expression, query, view)
        if attempt.core.verdict == "yes":
            return attempt.formula(partial(_condition, graph, data, query))
        # the reason is that of the first attempt
        failed = failed or attempt
    assert failed is not None
    return failed


def _direct_or_none(graph: ADMG, data: _Data, query: language.Query) -> Formula | None:
    """Formula of a query by factorisation into c-factors, or None."""
    try:
        result = _direct(graph, data, language.Expression(((1, query),)), query)
    except QueryError:
        return None
    return None if isinstance(result, _Attempt) else result


def _condition(graph: ADMG, data: _Data, query: language.Query) -> Formula | None:
    """Formula of the probability of the condition, if there is a condition and it is identified."""
    return _direct_or_none(graph, data, language.Query("P", query.given, query.do)) if query.given else None


@dataclass(frozen=True)
class _Data:
    """Available data sets; ``named`` if the user named them."""

    specs: tuple[DatasetSpec, ...]
    named: bool
    kinds: Mapping[str, Kind]
    levels: Mapping[str, Sequence[Any]]
    is_partial: bool
    description: str

    @classmethod
    def of(
        cls,
        graph: ADMG,
        experiments: Iterable[Experiment] | None,
        datasets: Sequence[DatasetSpec] | None,
        kinds: Mapping[str, Kind],
        levels: Mapping[str, Sequence[Any]],
    ) -> _Data:
        if isinstance(experiments, str):
            raise PlanError(f"experiments is the text {experiments!r}; it takes lists of names, as in [['X']]")
        named_specs = () if datasets is None else checked(graph, datasets)
        specs = list(named_specs or (DatasetSpec("P(V)"),))
        for number, experiment in enumerate(experiments or ()):
            if isinstance(experiment, str):
                raise PlanError(f"experiments holds the text {experiment!r}; it takes lists of names, as in [['X']]")
            targets = dict(experiment) if isinstance(experiment, Mapping) else dict.fromkeys(experiment)
            for target in targets:
                try:
                    graph.index(target)
                except GraphError as error:
                    raise PlanError(f"experiments: {error}") from None
            specs.append(DatasetSpec(f"experiment {number + 1}", None, targets))
        is_partial = any(s.columns is not None and not {*s.columns, *s.do}.issuperset(graph.nodes) for s in specs)
        if named_specs:
            description = ", ".join(spec.name for spec in named_specs)
        else:
            description = " and ".join(["P(V)", *(_intervention(spec) for spec in specs[1:])])
        return cls(tuple(specs), bool(named_specs), kinds, levels, is_partial, description)

    def with_experiment(self, targets: Sequence[str]) -> _Data:
        return replace(self, specs=(*self.specs, DatasetSpec("further", None, targets)))


def _intervention(spec: DatasetSpec) -> str:
    settings = []
    for name, values in spec.do.items():
        settings.append(name if values is None else f"{name}={'/'.join(map(as_text, values))}")
    return f"do({', '.join(settings)})"


@dataclass(frozen=True)
class _View:
    """The graph projected onto some variables, with the data sets whose targets are among them."""

    graph: ADMG
    groups: list[_core.DatasetGroup]
    sources: tuple[TableSource, ...]
    specs: tuple[DatasetSpec, ...]
    members: tuple[tuple[int, ...], ...]
    domains: Mapping[str, Domain]

    @classmethod
    def of(cls, graph: ADMG, data: _Data) -> _View:
        specs = tuple(spec for spec in data.specs if all(target in graph for target in spec.do))
        levels = {name: values for name, values in data.levels.items() if name in graph}
        kinds = {name: kind for name, kind in data.kinds.items() if name in graph}
        groups, members = pooled(graph, specs, kinds, levels)
        shown = data.named and len(data.specs) > 1
        sources = []
        for group in members:
            names = tuple(specs[j].name for j in group)
            targets = tuple(sorted(specs[group[0]].do))
            sources.append(TableSource(names, targets, shown))
        domains = domains_of(specs, kinds, levels)
        return cls(graph, groups, tuple(sources), specs, tuple(map(tuple, members)), domains)


def _views(graph: ADMG, data: _Data, query: language.Query) -> Iterator[_View]:
    """The graph and, if columns are missing, its projections in which the query may be identified."""
    yield _View.of(graph, data)
    if not data.is_partial:
        return
    events = {term.variable for term in (*query.outcomes, *query.given)}
    # intervened variables that are not ancestors of the events stay nodes even if not observed
    idle = {term.variable for term in query.walk()} - graph.ancestors(events)
    needed = {term.variable for term in query.walk()} - idle
    known = [
        frozenset(graph.nodes if spec.columns is None else {*spec.columns, *spec.do}).intersection(graph.nodes)
        for spec in data.specs
    ]
    seen = {frozenset(graph.nodes)}
    unions = [frozenset().union(*part) for part in itertools.combinations(dict.fromkeys(known), 2)]
    for columns in (frozenset().union(*known), *known, *unions):
        if columns in seen or not needed <= columns:
            continue
        seen.add(columns)
        projected = graph.latent_projection([v for v in graph.nodes if v in columns or v in idle])
        yield _View.of(projected, data)


class _Attempt:
    """Identification of a query in a view."""

    def __init__(
        self, expression: language.Expression, query: language.Query, view: _View, *, all_failures: bool = False
    ) -> None:
        self.expression = expression
        self.query = query
        self.view = view
        self.question = Question.of(query, view.graph, view.domains)
        question = self.question
        self.core = _core.Identification(
            view.graph.compiled, view.groups, question.values, question.worlds, question.atoms, all_failures
        )
        if self.core.verdict == "impossible":
            raise expression.error("the conditions contradict each other", query.given[0] if query.given else query)

    def formula(self, condition: Callable[[], Formula | None] = lambda: None) -> Formula:
        settings = {symbol for world in self.question.worlds for _, symbol, _ in world if symbol >= 0}
        return Formula(self.query, self.question.answer_columns, self.view.sources, self._terms, condition, settings)

    def _terms(self) -> tuple[list[FormulaTerm], Callable[[int], Symbol]]:
        try:
            terms = self.core.terms()
        except _core.ExpressionTooLarge as error:
            raise QueryError(f"{error}, too many to construct it") from None
        formula_terms = [
            FormulaTerm(kind, source, tuple(symbols), tuple(given), tuple(set_), tuple(operands))  # type: ignore[arg-type]
            for kind, source, symbols, given, set_, operands in terms
        ]
        nodes = self.view.graph.nodes
        known = len(nodes) + len(self.question.values)
        # additional values of a node that the decision required
        additional = [Symbol(nodes[v]) for v in self.core.symbols[len(self.question.values) :]]

        def symbol(number: int) -> Symbol:
            return self.question.symbol(number) if number < known else additional[number - known]

        return formula_terms, symbol

    def witness(self) -> Witness:
        factor, obstacles, conflict = self.core.failures[0]
        graph = self.view.graph
        if conflict is not None:
            return self._inconsistent(conflict)
        names = tuple(sorted(graph.nodes[v] for v in factor))
        reasons = []
        hedge: tuple[str, ...] = ()
        for source, (kind, nodes) in zip(self.view.sources, obstacles, strict=True):
            involved = tuple(sorted(graph.nodes[v] for v in nodes))
            if kind == "hedge" and not hedge:
                hedge = involved
            label = ", ".join(source.names) if source.shown else str(source)
            if kind == "values" and len(involved) > 1:
                kind = "combinations"
            reasons.append(f"{label} {_OBSTACLES[kind].format(', '.join(involved))}")
        shown_reasons = tuple(reasons) if len(reasons) > 1 or not hedge else ()
        if hedge:
            return Hedge(names, hedge, roots_of(graph, names), shown_reasons)
        parents = tuple(sorted(graph.parents(names) - set(names)))
        return UnknownFactor(names, parents, shown_reasons)

    def _inconsistent(self, conflict: tuple[int, int, int, list[tuple[int, list[int]]]]) -> InconsistentFactor:
        variable, _, _, members = conflict
        nodes = self.view.graph.nodes
        known = len(nodes) + len(self.question.values)
        additional = self.core.symbols[len(self.question.values) :]
        free: dict[str, list[int]] = {}

        def symbol(number: int) -> Symbol:
            return self.question.symbol(number) if number < known else Symbol(nodes[additional[number - known]])

        def setting(number: int) -> str:
            value = symbol(number)
            if value.value is not None:
                return str(language.Term(value.variable, value.value))
            # primes distinguish values of a variable that need not be equal
            numbers = free.setdefault(value.variable, [])
            if number not in numbers:
                numbers.append(number)
            return str(language.Term(value.variable)) + "'" * numbers.index(number)

        events = []
        for value, parents in members:
            world = f"[{', '.join(map(setting, parents))}]" if parents else ""
            event = symbol(value)
            name = str(language.Term(event.variable))
            suffix = "" if event.value is None else str(language.Term(event.variable, event.value))[len(name) :]
            events.append(name + world + suffix)
        return InconsistentFactor(tuple(events), nodes[variable])


def _helpful_experiments(
    expression: language.Expression, graph: ADMG, data: _Data, rules: Rules
) -> Iterator[tuple[str, ...]]:
    base = _View.of(graph, data)
    outcomes = {term.variable for query in expression.queries for term in query.outcomes}
    query_variables = {t.variable for q in expression.queries for term in q.walk() for t in term.walk()}
    candidates_by_distance: dict[str, None] = {}
    for query in expression.queries:
        for factor, obstacles, conflict in _Attempt(expression, query, base, all_failures=True).core.failures:
            if conflict is not None:
                # settings of the worlds, since subtraction may help if levels are known
                candidates_by_distance.update(
                    dict.fromkeys(v for v in sorted(query_variables - outcomes) if data.levels)
                )
                continue
            members = [v for kind, nodes in obstacles if kind == "hedge" for v in nodes if v not in factor]
            parents = graph.parents([graph.nodes[v] for v in factor])
            candidates_by_distance.update(dict.fromkeys(graph.nodes[v] for v in members if graph.nodes[v] in parents))
            candidates_by_distance.update(dict.fromkeys(graph.nodes[v] for v in members))
            candidates_by_distance.update(dict.fromkeys(sorted(parents - {graph.nodes[v] for v in factor})))

    def helps(targets: Sequence[str]) -> bool:
        extended = data.with_experiment(targets)
        results = (_formula_of(graph, extended, expression, query, rules) for query in expression.queries)
        return not any(isinstance(result, _Attempt) for result in results)

    candidates = [name for name in candidates_by_distance if name not in outcomes][:_MOST_TARGETS]
    candidates.sort(key=lambda name: name in query_variables)
    experiments: list[tuple[str, ...]] = [(name,) for name in candidates if helps([name])]
    if not experiments:
        experiments = [pair for pair in itertools.combinations(candidates, 2) if helps(pair)]
    yield from experiments
