"""The decision: a query and data sets in names to the compiled identification, and back."""

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
from mdcm.identify.estimand import Estimand, Formula, Term
from mdcm.identify.picture import draw
from mdcm.identify.question import Question, Symbol, as_text
from mdcm.identify.reduction import Reduction, Rules
from mdcm.identify.tables import Source
from mdcm.identify.witness import Hedge, InconsistentFactor, UnknownFactor, Witness, roots_of
from mdcm.plan import DatasetSpec, Kind
from mdcm.plan.pooling import Domain, checked, domains_of, pooled

if TYPE_CHECKING:
    from mdcm.identify.combination import AnyFormula

__all__ = ["Identification", "identify"]

# helpful experiments are looked for among so many variables, the nearest to the trouble
_MOST_TARGETS = 40
_WORDS = {
    "inside": "sets {} by do(), which is part of it",
    "columns": "does not observe {}",
    "values": "does not set all values of {} that are needed",
    "combinations": "does not set all combinations of values of {} that are needed",
    "hedge": "cannot tell it apart from the rest of {{{}}}",
}

Experiment = Mapping[str, Iterable[Any] | None] | Iterable[str]


@dataclass(frozen=True)
class Identification:
    """Whether a query is determined, and the evidence.

    Attributes:
        query: The query.
        identifiable: True; False; or None where some data set does not observe all variables and no way was found to
            answer from what is observed, which does not show that there is none.
        estimand: An expression for the answer, where it is identifiable.
        witness: What is not determined, where it is not.
    """

    query: language.Expression
    identifiable: bool | None
    estimand: Estimand | None
    witness: Witness | None
    graph: ADMG = field(repr=False, compare=False)
    _data: _Data = field(repr=False, compare=False)
    rules: Rules = field(default_factory=dict, repr=False, compare=False)

    @property
    def _asked(self) -> str:
        ruled = [term.variable for query in self.query.queries for term in query.do if term.variable in self.rules]
        if not ruled:
            return str(self.query)
        return f"{self.query} with {', '.join(dict.fromkeys(ruled))} set by a rule"

    def __str__(self) -> str:
        if self.estimand is not None:
            try:
                return f"{self._asked} = {self.estimand}"
            except QueryError as error:
                return f"{self._asked} is identifiable; {error}"
        no = "not identifiable" if self.identifiable is False else "not shown to be identifiable"
        return f"{no} from {self._data.words}: {self.witness}"

    @cached_property
    def experiments(self) -> tuple[tuple[str, ...], ...]:
        """The smallest experiments that would make the query identifiable, each with all variables observed.

        Single targets, and only if there is none pairs; at all values; those that set none of the query's own
        variables first. Empty where the query is identifiable, or nothing of the kind helps. Looked for when first
        asked, by trying: among the members of the witness, the nearest ones in large graphs.
        """
        if self.estimand is not None or (isinstance(self.witness, InconsistentFactor) and not self._data.levels):
            return ()
        return tuple(_helpful(self.query, self.graph, self._data, self.rules))

    def explain(self) -> str:
        """The decision with its reason, and which experiments would help, in words."""
        if self.estimand is not None:
            return str(self)
        assert self.witness is not None
        lines = [f"{self._asked} is {self}.", self.witness.explain()]
        if self.experiments:
            listed = " or ".join(" and ".join(targets) for targets in self.experiments)
            lines.append(f"It would be identifiable with an experiment that sets {listed} to all values.")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; an estimand that is too long has no text, or nothing but the reason."""
        return {
            "query": str(self.query),
            "identifiable": self.identifiable,
            "estimand": None if self.estimand is None else _estimand_json(self.estimand),
            "witness": None if self.witness is None else {"text": str(self.witness), **self.witness.to_json()},
            "experiments": [list(targets) for targets in self.experiments],
        }

    def to_svg(self) -> str:
        """The graph as a picture, with what is asked, and the two c-forests of a hedge marked.

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
    """Decides whether data determine the answer to a query, and gives an estimand or the reason why not.

    The query becomes a product of c-factors over the variables in their worlds, and each c-factor must be a function
    of the distribution of some data set, at the values that it sets. Where columns are missing, what the rest shows
    is read off the graph projected onto the columns.

    Args:
        graph: The graph, or its arrow text.
        query: A query of any layer, such as ``P(Y | do(X), Z)``, ``P(Y[X=1] | X=0, Y=1)``,
            ``P(Y[X=1, M[X=0]])``, ``E[Y | do(X=1)] - E[Y | do(X=0)]``; a sum is identifiable if its terms are. An event
            without a value must be determined at every level.
        experiments: Interventions that were observed besides P(V), with all variables: for each the names of what was
            set to every value, or a mapping from names to the values set.
        datasets: What was observed instead, with columns and values; P(V) is then not taken for granted.
        kinds: Kind of each variable, categorical unless said.
        levels: All levels of variables; by default, of those that are set, the values that the data sets set, if there
            are two or more. Where they are known, what all but one level add up to is known as well: P(Y[X=1], X=0) is
            P(Y | do(X=1)) - P(Y, X=1) if X has two.
        rules: For terms of do() without a value that are set to a function of the value that the variable would have
            had: what each level becomes, or None where that is not known. The query is then the counterfactual one of
            what the variables would have been, and is determined if all P(Y[X=f(x)], X=x) are.

    Returns:
        The decision: sound; complete if every data set observes all variables and sets every value, for variables of
        any number of levels and without rules.

    Raises:
        QueryError: If the text is malformed, names an unknown variable, or conditions on what contradicts itself.
        PlanError: If the data sets are malformed.

    Complexity:
        O(n (n + edges)) per data set and world at worst, most often O(n + edges). The estimand is computed when it is
        first used.

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
        # says which one, at a cost that grows with the graph
        expression.check(graph.nodes)
    data = _Data.of(graph, experiments, datasets, kinds or {}, levels or {})
    rules = rules or {}
    formulas: list[AnyFormula] = []
    for asked in expression.queries:
        found = _answered(graph, data, expression, asked, rules)
        if isinstance(found, _Attempt):
            ruled = any(term.variable in rules for term in asked.do)
            verdict = None if data.is_partial or ruled else False
            return Identification(expression, verdict, None, found.witness(), graph, data, rules)
        formulas.append(found)
    return Identification(expression, True, Estimand(expression, formulas, data.levels), None, graph, data, rules)


def _answered(
    graph: ADMG, data: _Data, expression: language.Expression, asked: language.Query, rules: Rules
) -> AnyFormula | _Attempt:
    """A formula for a query, or the attempt whose failure is the reason that there is none."""
    asked, order = _ruled(graph, asked, rules)

    def direct(query: language.Query) -> Formula | None:
        try:
            found = _direct(graph, data, language.Expression(((1, query),)), query)
        except QueryError:
            return None
        return None if isinstance(found, _Attempt) else found

    reduction = Reduction(direct, data.levels)
    if order:
        formula = reduction.ruled(asked, rules, order)
        if formula is None:
            missing = reduction.missing or asked
            found = _direct(graph, data, language.Expression(((1, missing),)), missing)
            if not isinstance(found, _Attempt):
                raise QueryError(f"{expression}: the rule has too many combinations of levels to be decided")
            return found
        return formula
    found = _direct(graph, data, expression, asked)
    if isinstance(found, _Attempt) and data.levels:
        return reduction.formula(asked) or found
    return found


def _ruled(graph: ADMG, asked: language.Query, rules: Rules) -> tuple[language.Query, list[str]]:
    """The query with the constants that rules come to, and the variables of the other rules in topological order."""
    settings, order = [], set()
    for term in asked.do:
        if term.value is None and term.variable in rules:
            rule = rules[term.variable]
            becomes = None if rule is None else set(rule.values())
            if becomes is not None and len(becomes) == 1:
                term = replace(term, value=becomes.pop())
            else:
                order.add(term.variable)
        settings.append(term)
    names = [name for name in graph.topological_order() if name in order] if order else []
    return replace(asked, do=tuple(settings)), names


def _direct(graph: ADMG, data: _Data, expression: language.Expression, asked: language.Query) -> Formula | _Attempt:
    """The formula of a query that is a product of c-factors which data show, or the attempt on the graph itself."""
    failed: _Attempt | None = None
    for view in _views(graph, data, asked):
        attempt = _Attempt(expression, asked, view)
        if attempt.core.verdict == "yes":
            return attempt.formula(partial(_condition, graph, data, asked))
        # what the first one lacks is the reason that is given
        failed = failed or attempt
    assert failed is not None
    return failed


def _condition(graph: ADMG, data: _Data, asked: language.Query) -> Formula | None:
    """The probability of what is given, where it is determined."""
    if not asked.given:
        return None
    query = language.Query("P", asked.given, asked.do)
    try:
        found = _direct(graph, data, language.Expression(((1, query),)), query)
    except QueryError:
        return None
    return None if isinstance(found, _Attempt) else found


@dataclass(frozen=True)
class _Data:
    """Data sets as they were given, and whether they have names that anybody knows."""

    specs: tuple[DatasetSpec, ...]
    named: bool
    kinds: Mapping[str, Kind]
    levels: Mapping[str, Sequence[Any]]
    is_partial: bool
    words: str

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
            raise PlanError(f"experiments holds several interventions, as in [[{experiments!r}]], not one text")
        given = () if datasets is None else checked(graph, datasets)
        specs = list(given or (DatasetSpec("P(V)"),))
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
        partial = any(s.columns is not None and not {*s.columns, *s.do}.issuperset(graph.nodes) for s in specs)
        named = bool(given)
        if named:
            words = ", ".join(spec.name for spec in given)
        else:
            words = " and ".join(["P(V)", *(_intervention(spec) for spec in specs[1:])])
        return cls(tuple(specs), named, kinds, levels, partial, words)

    def with_experiment(self, targets: Sequence[str]) -> _Data:
        more = DatasetSpec("further", None, targets)
        return _Data((*self.specs, more), self.named, self.kinds, self.levels, self.is_partial, self.words)


def _intervention(spec: DatasetSpec) -> str:
    listed = []
    for name, values in spec.do.items():
        listed.append(name if values is None else f"{name}={'/'.join(map(as_text, values))}")
    return f"do({', '.join(listed)})"


@dataclass(frozen=True)
class _View:
    """The graph projected onto some variables, and the data sets that speak of them."""

    graph: ADMG
    groups: list[_core.DatasetGroup]
    sources: tuple[Source, ...]
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
            sources.append(Source(names, targets, shown))
        domains = domains_of(specs, kinds, levels)
        return cls(graph, groups, tuple(sources), specs, tuple(map(tuple, members)), domains)


def _views(graph: ADMG, data: _Data, asked: language.Query) -> Iterator[_View]:
    """The graph, and where columns are missing its projections that a query could be answered in."""
    yield _View.of(graph, data)
    if not data.is_partial:
        return
    events = {term.variable for term in (*asked.outcomes, *asked.given)}
    # what is set and changes nothing that is asked about stays a node, whoever observes it
    idle = {term.variable for term in asked.walk()} - graph.ancestors(events)
    needed = {term.variable for term in asked.walk()} - idle
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
    """One query asked of one view."""

    def __init__(
        self, expression: language.Expression, query: language.Query, view: _View, *, every: bool = False
    ) -> None:
        self.expression = expression
        self.query = query
        self.view = view
        self.question = Question.of(query, view.graph, view.domains)
        q = self.question
        self.core = _core.Identification(view.graph.compiled, view.groups, q.values, q.worlds, q.atoms, every)
        if self.core.verdict == "impossible":
            raise expression.error("the conditions contradict each other", query.given[0] if query.given else query)

    def formula(self, condition: Callable[[], Formula | None] = lambda: None) -> Formula:
        q = self.question
        settings = {symbol for world in q.worlds for _, symbol, _ in world if symbol >= 0}
        return Formula(self.query, q.asked, self.view.sources, self._terms, condition, settings)

    def _terms(self) -> tuple[list[Term], Callable[[int], Symbol]]:
        try:
            found = self.core.terms()
        except _core.ExpressionTooLarge as error:
            raise QueryError(f"{error}, too many to be put together") from None
        terms = [
            Term(kind, source, tuple(symbols), tuple(given), tuple(done), tuple(operands))  # type: ignore[arg-type]
            for kind, source, symbols, given, done, operands in found
        ]
        nodes = self.view.graph.nodes
        known = len(nodes) + len(self.question.values)
        # further values of a node that the decision needed
        further = [Symbol(nodes[v]) for v in self.core.symbols[len(self.question.values) :]]

        def symbol(number: int) -> Symbol:
            return self.question.symbol(number) if number < known else further[number - known]

        return terms, symbol

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
            who = ", ".join(source.names) if source.shown else str(source)
            if kind == "values" and len(involved) > 1:
                kind = "combinations"
            reasons.append(f"{who} {_WORDS[kind].format(', '.join(involved))}")
        said = tuple(reasons) if len(reasons) > 1 or not hedge else ()
        if hedge:
            return Hedge(names, hedge, roots_of(graph, names), said)
        parents = tuple(sorted(graph.parents(names) - set(names)))
        return UnknownFactor(names, parents, said)

    def _inconsistent(self, conflict: tuple[int, int, int, list[tuple[int, list[int]]]]) -> InconsistentFactor:
        variable, _, _, members = conflict
        nodes = self.view.graph.nodes
        known = len(nodes) + len(self.question.values)
        further = self.core.symbols[len(self.question.values) :]

        free: dict[str, list[int]] = {}

        def symbol(number: int) -> Symbol:
            return self.question.symbol(number) if number < known else Symbol(nodes[further[number - known]])

        def setting(number: int) -> str:
            one = symbol(number)
            if one.value is not None:
                return str(language.Term(one.variable, one.value))
            # values of one variable that need not be the same are told apart by primes
            others = free.setdefault(one.variable, [])
            if number not in others:
                others.append(number)
            return str(language.Term(one.variable)) + "'" * others.index(number)

        events = []
        for value, parents in members:
            world = f"[{', '.join(map(setting, parents))}]" if parents else ""
            name, one = str(language.Term(symbol(value).variable)), symbol(value)
            shown = "" if one.value is None else str(language.Term(one.variable, one.value))[len(name) :]
            events.append(name + world + shown)
        return InconsistentFactor(tuple(events), nodes[variable])


def _helpful(expression: language.Expression, graph: ADMG, data: _Data, rules: Rules) -> Iterator[tuple[str, ...]]:
    base = _View.of(graph, data)
    outcomes = {term.variable for query in expression.queries for term in query.outcomes}
    own = {t.variable for q in expression.queries for term in q.walk() for t in term.walk()}
    near: dict[str, None] = {}
    for query in expression.queries:
        for factor, obstacles, conflict in _Attempt(expression, query, base, every=True).core.failures:
            if conflict is not None:
                # the worlds' own settings, where levels are known and subtraction may help
                near.update(dict.fromkeys(v for v in sorted(own - outcomes) if data.levels))
                continue
            around = [v for kind, nodes in obstacles if kind == "hedge" for v in nodes if v not in factor]
            parents = graph.parents([graph.nodes[v] for v in factor])
            near.update(dict.fromkeys(graph.nodes[v] for v in around if graph.nodes[v] in parents))
            near.update(dict.fromkeys(graph.nodes[v] for v in around))
            near.update(dict.fromkeys(sorted(parents - {graph.nodes[v] for v in factor})))

    def helps(targets: Sequence[str]) -> bool:
        more = data.with_experiment(targets)
        answers = (_answered(graph, more, expression, query, rules) for query in expression.queries)
        return not any(isinstance(answer, _Attempt) for answer in answers)

    candidates = [name for name in near if name not in outcomes][:_MOST_TARGETS]
    candidates.sort(key=lambda name: name in own)
    found: list[tuple[str, ...]] = [(name,) for name in candidates if helps([name])]
    if not found:
        found = [pair for pair in itertools.combinations(candidates, 2) if helps(pair)]
    yield from found
