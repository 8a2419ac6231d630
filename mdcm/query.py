"""The language of causal queries: parsing to a syntax tree and printing, with the position of every error.

    expression   [-] quantity { (+ | -) quantity }
    quantity     P( outcomes [ | conditions ] )  or  E[ outcome [ | conditions ] ]
    outcomes     event { , event }                             conditions   condition { , condition }
    condition    do( event { , event } )  or  event            event        name [ world ] [ = value ]
    world        [ setting { , setting } ]                     setting      name = value  or  name world

An event without a value stands for every level. Within E the outcome may be a sum, E[Y[X=1] - Y[X=0] | X=0]. A setting
without a value is nested: Y[X=1, M[X=0]] is Y had X been 1 and M its value had X been 0. Names and values other than
plain words and numbers are quoted, 'like this' or "like this", with a backslash before a quote.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from mdcm.data.levels import NUMERAL, WORD, as_word
from mdcm.errors import QueryError

__all__ = ["Expression", "Query", "Term", "Value", "parse"]

Value = str | int | float
Span = tuple[int, int]

_CLOSING = {"(": ")", "[": "]"}
_BEGINNING = re.compile(r"\s*[-+−]?\s*[PE]\s*[(\[]")
_NO_QUERY = "a query begins with P( or E[, as in P(Y | do(X=1)) or E[Y | do(X=1)] - E[Y | do(X=0)]"
# far beyond any meaningful query, and well within Python's recursion limit
_MAX_DEPTH = 100
_MAX_LENGTH = 100_000


@dataclass(frozen=True)
class Term:
    """Variable in a query, optionally with a value and a counterfactual world.

    Attributes:
        variable: Name of the variable.
        value: Its value as typed, a number or text; None for all levels.
        world: Settings of its world, ``()`` for the actual world; a setting may itself have a world.
        span: Position and length of the name in the text.
        value_span: Position and length of the value in the text.
    """

    variable: str
    value: Value | None = None
    world: tuple[Term, ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)
    value_span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        """Name of the term's column in an answer."""
        return str(Term(self.variable, None, self.world)) if self.world else self.variable

    def walk(self) -> Iterator[Term]:
        """This term and all settings of its world, nested ones included."""
        yield self
        for setting in self.world:
            yield from setting.walk()

    def __str__(self) -> str:
        world = f"[{', '.join(map(str, self.world))}]" if self.world else ""
        return as_word(self.variable) + world + ("" if self.value is None else f"={_literal(self.value)}")


@dataclass(frozen=True)
class Query:
    """A probability or expectation.

    Attributes:
        kind: "P" for a probability, "E" for an expectation.
        outcomes: Outcomes; in an expectation a single term without a value.
        do: Interventions.
        given: Conditions.
        span: Position and length of the query in the text.
    """

    kind: Literal["P", "E"]
    outcomes: tuple[Term, ...]
    do: tuple[Term, ...] = ()
    given: tuple[Term, ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def layer(self) -> Literal[1, 2, 3]:
        """Rung of the causal hierarchy: 1 observational, 2 interventional, 3 counterfactual."""
        if any(term.world for term in (*self.outcomes, *self.given)):
            return 3
        return 2 if self.do else 1

    @property
    def is_number(self) -> bool:
        """Whether the answer is a single number rather than a table over levels."""
        terms = (*self.do, *self.given) if self.kind == "E" else (*self.outcomes, *self.do, *self.given)
        return all(term.value is not None for term in terms)

    def walk(self) -> Iterator[Term]:
        """All terms in the order of the text, nested ones included."""
        for term in (*self.outcomes, *self.do, *self.given):
            yield from term.walk()

    def __str__(self) -> str:
        conditions = [f"do({', '.join(map(str, self.do))})"] if self.do else []
        conditions += map(str, self.given)
        inside = ", ".join(map(str, self.outcomes)) + (f" | {', '.join(conditions)}" if conditions else "")
        return f"P({inside})" if self.kind == "P" else f"E[{inside}]"


@dataclass(frozen=True)
class Expression:
    """A signed sum of queries; most often a single query.

    Attributes:
        terms: Pairs of a sign, 1 or -1, and a query.
        text: The text as given.

    Example:
        >>> expression = parse("P(A|do(D=0))")
        >>> print(expression, expression.query.layer)
        P(A | do(D=0)) 2
    """

    terms: tuple[tuple[Literal[1, -1], Query], ...]
    text: str | None = field(default=None, compare=False, repr=False)

    @property
    def query(self) -> Query:
        """The query of an expression with a single term.

        Raises:
            QueryError: If there are several terms, or the sign is minus.
        """
        if len(self.terms) == 1 and self.terms[0][0] == 1:
            return self.terms[0][1]
        raise QueryError("one query is expected here, not a sum or difference", text=self.text, position=0)

    @property
    def queries(self) -> tuple[Query, ...]:
        """The queries without their signs."""
        return tuple(query for _, query in self.terms)

    @property
    def variables(self) -> tuple[str, ...]:
        """Distinct names of all variables in the order of the text."""
        return tuple(dict.fromkeys(term.variable for query in self.queries for term in query.walk()))

    def check(self, names: Collection[str], latents: Collection[str] = ()) -> None:
        """Check that all variables are among ``names``.

        Args:
            names: Names of the observed variables.
            latents: Names of latents, which a query cannot contain.

        Raises:
            QueryError: At the first unknown variable, with the nearest known name.
        """
        for query in self.queries:
            for term in query.walk():
                if term.variable in latents:
                    message = f"{term.variable!r} is declared latent; a query is about observed variables"
                    raise self.error(message, term)
                if term.variable not in names:
                    folded = [name for name in names if name.casefold() == term.variable.casefold()]
                    nearest = folded or difflib.get_close_matches(term.variable[:200], names, n=1)
                    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {_names(names)}"
                    raise self.error(f"there is no variable {term.variable!r}; {hint}", term)

    def error(self, message: str, at: Term | Query, *, value: bool = False) -> QueryError:
        """Return an error that points at a term or query of this expression.

        Args:
            message: Message of the error.
            at: The term or query.
            value: Whether to point at the term's value rather than its name.
        """
        span = at.value_span if value and isinstance(at, Term) else at.span
        if span is None or self.text is None:
            return QueryError(f"{message} (in {at})", text=None)
        return QueryError(message, text=self.text, position=span[0], length=span[1])

    def __str__(self) -> str:
        (sign, first), *others = self.terms
        parts = ["-" if sign < 0 else "", str(first)]
        parts += [f" {'-' if sign < 0 else '+'} {query}" for sign, query in others]
        return "".join(parts)


def parse(text: str) -> Expression:
    """Parse a causal query into a syntax tree.

    Args:
        text: For example ``P(Y | do(X=1), Z=2)``, ``P(Y[X=1] | X=0, Y=1)``, ``E[Y | do(X=1)] - E[Y | do(X=0)]``.

    Returns:
        The expression; parsing its ``str`` gives an equal expression.

    Raises:
        QueryError: With a caret under the position, if the text is malformed or contradicts itself.

    Example:
        >>> print(parse("E[Y[X=1] - Y[X=0] | X=0]"))
        E[Y[X=1] | X=0] - E[Y[X=0] | X=0]
    """
    if not isinstance(text, str):
        raise QueryError(f"a query is text such as 'P(Y | do(X=1))', not {type(text).__name__}")
    if len(text) > _MAX_LENGTH:
        raise QueryError(f"a query has at most {_MAX_LENGTH:,} characters, and this one {len(text):,}")
    if not text.strip():
        raise QueryError("the query is empty; an example is P(Y | do(X=1))", text=text, position=0)
    return _Parser(text).expression()


@dataclass(frozen=True)
class _Token:
    kind: Literal["word", "quoted", "number", "symbol", "end"]
    text: str
    start: int
    value: Value = ""

    @property
    def length(self) -> int:
        return max(1, len(self.text))


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        character = text[position]
        if character.isspace():
            position += 1
        elif character in "'\"":
            token = _quoted(text, position)
            yield token
            position += len(token.text)
        elif match := NUMERAL.match(text, position):
            yield _Token("number", match[0], position, _number(text, position, match[0]))
            position = match.end()
        elif match := WORD.match(text, position):
            yield _Token("word", match[0], position, match[0])
            position = match.end()
        elif character in "()[]|,=+-−":
            yield _Token("symbol", "-" if character == "−" else character, position)
            position += 1
        else:
            if not _BEGINNING.match(text):
                raise QueryError(_NO_QUERY, text=text, position=0, length=len(text))
            hint = "a name or value that contains it must be quoted"
            if character in "<>≤≥":
                hint += "; a query has no inequalities, for which the graph needs a variable that is 1 where they hold"
            raise QueryError(
                f"{character!r} has no meaning here; {hint}",
                text=text,
                position=position,
            )
    yield _Token("end", "", len(text))


def _quoted(text: str, start: int) -> _Token:
    value, position = [], start + 1
    while position < len(text) and text[position] != text[start]:
        position += text[position] == "\\"
        value.append(text[position : position + 1])
        position += 1
    if position >= len(text):
        raise QueryError("this quote is never closed", text=text, position=start)
    return _Token("quoted", text[start : position + 1], start, "".join(value))


def _number(text: str, position: int, digits: str) -> int | float:
    try:
        number = int(digits) if digits.isdigit() else float(digits)
    except ValueError:
        number = math.inf
    if not math.isfinite(number):
        raise QueryError("this number is too large", text=text, position=position, length=len(digits))
    return number


class _Parser:
    """Recursive-descent parser with a single token of lookahead."""

    def __init__(self, text: str) -> None:
        # a single line, so that the caret of an error is below the right position
        self.text = re.sub(r"\s", " ", text)
        self.tokens = list(_tokens(text))
        self.position = 0
        self.open: list[_Token] = []

    @property
    def token(self) -> _Token:
        return self.tokens[self.position]

    def at(self, *symbols: str) -> bool:
        return self.token.kind == "symbol" and self.token.text in symbols

    def advance(self) -> _Token:
        token = self.token
        self.position += token.kind != "end"
        return token

    def refuse(self, message: str, token: _Token | None = None) -> NoReturn:
        token = token or self.token
        raise QueryError(message, text=self.text, position=token.start, length=token.length)

    def unexpected(self, expected: str) -> NoReturn:
        if self.token.kind == "end":
            if self.open:
                bracket = self.open[-1]
                self.refuse(f"this {bracket.text!r} is never closed", bracket)
            self.refuse(f"the query ends where {expected} should be")
        hint = ""
        if self.token.kind == "word" and self.position and self.tokens[self.position - 1].kind == "word":
            hint = "; put a name or a value of several words in quotes"
        self.refuse(f"{expected} is expected here, not {self.token.text!r}{hint}")

    def opening(self, bracket: str) -> None:
        if not self.at(bracket):
            self.unexpected(repr(bracket))
        self.open.append(self.advance())

    def closing(self, also: str) -> None:
        bracket = self.open[-1]
        if not self.at(_CLOSING[bracket.text]):
            self.unexpected(f"{also} or {_CLOSING[bracket.text]!r}")
        self.advance()
        self.open.pop()

    def expression(self) -> Expression:
        terms: list[tuple[Literal[1, -1], Query]] = []
        sign: Literal[1, -1] = -1 if self.at("-") else 1
        if self.at("+", "-"):
            self.advance()
        while True:
            for inner, query in self.quantity():
                terms.append((1 if sign == inner else -1, query))
            if not self.at("+", "-"):
                break
            sign = 1 if self.advance().text == "+" else -1
        if self.token.kind != "end":
            self.unexpected("'+', '-' or the end")
        expression = Expression(tuple(terms), self.text)
        if len(terms) > 1 or terms[0][0] < 0:
            for query in expression.queries:
                _require_number(expression, query)
        return expression

    def quantity(self) -> list[tuple[Literal[1, -1], Query]]:
        head = self.token
        if head.kind != "word" or head.text not in {"P", "E"}:
            self.unexpected("'P(' or 'E['")
        self.advance()
        kind: Literal["P", "E"] = "P" if head.text == "P" else "E"
        # E(Y) is as common in writing as E[Y]
        self.opening("(" if kind == "P" or self.at("(") else "[")
        signed: list[tuple[Literal[1, -1], tuple[Term, ...]]]
        signed = [(1, tuple(self.events()))] if kind == "P" else self.summands()
        do: list[Term] = []
        given: list[Term] = []
        if self.at("|"):
            self.advance()
            self.conditions(do, given)
            self.closing("','")
        else:
            self.closing("',', '|'" if kind == "P" else "'|'")
        last = self.tokens[self.position - 1]
        span = (head.start, last.start + 1 - head.start)
        queries = [(sign, Query(kind, outcomes, tuple(do), tuple(given), span)) for sign, outcomes in signed]
        for _, query in queries:
            self.check_roles(query)
        return queries

    def summands(self) -> list[tuple[Literal[1, -1], tuple[Term, ...]]]:
        summands: list[tuple[Literal[1, -1], tuple[Term, ...]]] = []
        sign: Literal[1, -1] = -1 if self.at("-") else 1
        if self.at("+", "-"):
            self.advance()
        while True:
            term = self.event()
            if term.value is not None:
                self.refuse_value(
                    "an expectation is of a variable, not of an event; write P(...) for a probability", term
                )
            summands.append((sign, (term,)))
            if self.at(","):
                self.refuse("an expectation has one outcome; write a joint distribution with P(...)")
            if not self.at("+", "-"):
                return summands
            sign = 1 if self.advance().text == "+" else -1

    def events(self) -> Iterator[Term]:
        yield self.event()
        while self.at(","):
            self.advance()
            yield self.event()

    def conditions(self, do: list[Term], given: list[Term]) -> None:
        while True:
            following = self.tokens[min(self.position + 1, len(self.tokens) - 1)]
            if self.token.kind == "word" and self.token.text == "do" and following.text == "(":
                self.advance()
                self.opening("(")
                for term in self.events():
                    if term.world:
                        self.refuse_term("do() sets a variable of the actual world; remove the [...]", term)
                    do.append(term)
                self.closing("','")
            else:
                if self.token.text == "do" and following.kind in {"word", "quoted"}:
                    self.refuse(f"do needs brackets, as in do({following.text})", following)
                given.append(self.event())
            if not self.at(","):
                return
            self.advance()

    def event(self) -> Term:
        name, span = self.name()
        world = self.world(name) if self.at("[") else ()
        if not self.at("="):
            return Term(name, None, world, span)
        self.advance()
        value, value_span = self.value()
        return Term(name, value, world, span, value_span)

    def world(self, owner: str) -> tuple[Term, ...]:
        if len(self.open) > _MAX_DEPTH:
            self.refuse(f"worlds are nested more than {_MAX_DEPTH} deep")
        self.opening("[")
        settings: list[Term] = []
        while True:
            setting = self.event()
            if setting.world and setting.value is not None:
                self.refuse_value(
                    "a nested variable takes the value of its own world; remove '=' and what follows", setting
                )
            if not setting.world and setting.value is None:
                self.refuse_term(f"a world needs a value: {setting}=... or a nested {setting}[...]", setting)
            if setting.variable == owner:
                self.refuse_term(f"{owner!r} cannot be set in its own world", setting)
            if any(setting.variable == other.variable for other in settings):
                self.refuse_term(f"{setting.variable!r} is set twice in this world", setting)
            settings.append(setting)
            if not self.at(","):
                break
            self.advance()
        self.closing("','")
        return tuple(settings)

    def name(self) -> tuple[str, Span]:
        token = self.token
        if token.kind == "number":
            self.refuse("a name is expected here; quote it if it is a number", token)
        if token.kind not in {"word", "quoted"}:
            self.unexpected("a name")
        if token.value == "":
            self.refuse("a name cannot be empty", token)
        self.advance()
        return str(token.value), (token.start, token.length)

    def value(self) -> tuple[Value, Span]:
        start = self.token.start
        sign = self.advance().text if self.at("+", "-") else ""
        token = self.token
        if token.kind == "number":
            self.advance()
            number = -token.value if sign == "-" and not isinstance(token.value, str) else token.value
            return number, (start, token.start + token.length - start)
        if token.kind not in {"word", "quoted"} or sign:
            self.unexpected("a number" if sign else "a value")
        self.advance()
        return token.value, (token.start, token.length)

    def refuse_term(self, message: str, term: Term) -> NoReturn:
        raise Expression((), self.text).error(message, term)

    def refuse_value(self, message: str, term: Term) -> NoReturn:
        raise Expression((), self.text).error(message, term, value=True)

    def check_roles(self, query: Query) -> None:
        """Check that no variable has two roles that exclude or contradict each other."""
        targets: dict[str, Term] = {}
        for term in query.do:
            if term.variable in targets:
                self.refuse_term(f"do() sets {term.variable!r} twice", term)
            targets[term.variable] = term
        if targets and query.layer == 3:
            term = query.do[0]
            self.refuse_term(
                f"do() and counterfactual worlds cannot be mixed; set {term} in the worlds, as in "
                f"{as_word(query.outcomes[0].variable)}[{term}]",
                term,
            )
        outcomes: set[Hashable] = set()
        for term in query.outcomes:
            if _key(term) in outcomes:
                self.refuse_term(f"{_where(term)} is an outcome twice", term)
            if term.variable in targets:
                self.refuse_term(f"{term.variable!r} is set by do() and cannot be an outcome", term)
            outcomes.add(_key(term))
        evidence: set[Hashable] = set()
        for term in query.given:
            if _key(term) in evidence:
                self.refuse_term(f"{_where(term)} is conditioned on twice", term)
            if _key(term) in outcomes:
                self.refuse_term(f"{_where(term)} is an outcome and cannot be conditioned on as well", term)
            if term.variable in targets and term.value != targets[term.variable].value:
                self.refuse_term(
                    f"do() and the condition contradict each other: {targets[term.variable]} and {term}", term
                )
            evidence.add(_key(term))


def _require_number(expression: Expression, query: Query) -> None:
    outcomes = query.outcomes if query.kind == "P" else ()
    for term in (*outcomes, *query.do, *query.given):
        if term.value is None:
            raise expression.error(f"in a sum every term is a number, so {_where(term)} needs a value", term)


def _key(term: Term) -> Hashable:
    """Key of a term's variable and world, independent of the order of the settings."""
    return term.variable, frozenset((_key(setting), setting.value) for setting in term.world)


def _where(term: Term) -> str:
    return str(Term(term.variable, None, term.world)) if term.world else repr(term.variable)


def _literal(value: Value) -> str:
    return as_word(value) if isinstance(value, str) else str(value)


def _names(names: Sequence[str] | Collection[str], most: int = 8) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")
