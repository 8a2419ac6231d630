"""DOT and dagitty text.

dagitty's language is DOT with more arrows and its own attributes, so one reader serves both. networkx reads DOT
through pydot, which is not sufficient here: it loses the nodes of subgraphs and the default attributes, takes a port
for a part of the name, and has no line numbers.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np

from mdcm.graph.formats.records import MOST_EDGES, GraphRecord, Lines, Location, error_at, is_hidden
from mdcm.text.printable import quoted

__all__ = ["format_dagitty", "format_dot", "is_dot", "parse_dot"]

Attributes = dict[str, str | bool]

_SPACE = r"[\s\ufeff]|\#[^\n]*|//[^\n]*|(?>/\*.*?\*/)"
_LETTER = r"(?:[\w.]|[^\x00-\x7f\s\ufeff→←↔])"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(
    rf"""
    (?P<space>(?:{_SPACE})+)
  | (?P<undirected>@-@|@->|<-@|@--|--@|--)
  | (?P<arrow><->|->|<-)
  | (?P<mark>[\[\]{{}}=;,:+])
  | (?P<quoted>{_QUOTED})
  | (?P<name>-?(?:\.\d+|\d+(?:\.\d*)?)(?!{_LETTER}|-{_LETTER})|{_LETTER}+(?:-{_LETTER}+)*)
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = ("dag", "digraph", "graph", "mag", "pdag", "pag")
_OPENING = re.compile(
    rf"\A\ufeff?(?:{_SPACE})*+(?:strict\b(?:{_SPACE})*+)?(?:{'|'.join(_KINDS)})\b"
    rf"(?:{_SPACE})*+(?:{_QUOTED}|{_LETTER}++)?(?:{_SPACE})*+\{{",
    re.IGNORECASE | re.DOTALL,
)
_KEYWORDS = {"node", "edge", "graph", "digraph", "subgraph", "strict"}
_DEFAULTS = {"node", "edge", "graph"}
# attributes of nodes only
_HIDDEN_ATTRIBUTES = {"latent", "unobserved", "observed"}
_NODE_ATTRIBUTES = {*_HIDDEN_ATTRIBUTES, "exposure", "outcome", "adjusted", "selected", "pos"}
_SHORT = {"l": "latent", "u": "latent", "s": "selected"}
_POSITION = re.compile(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*,\s*([-+]?[\d.]+(?:e[-+]?\d+)?)", re.IGNORECASE)
_REVERSED = {"->": "<-", "<-": "->", "<->": "<->"}
_BRACKET = re.compile("[<>]")
_MAX_DEPTH = 100


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(slots=True)
class _Scope:
    """Default attributes of nodes and edges that follow in a group."""

    node: Attributes = field(default_factory=dict)
    edge: Attributes = field(default_factory=dict)
    depth: int = 0


class _Text:
    """Tokens of a text, with lookahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = Lines(text)
        self._tokens = list(self._scan())
        self._next = 0

    def _scan(self) -> Iterator[_Token]:
        at, last = 0, ""
        while at < len(self.text):
            # only a value may be HTML: elsewhere < begins an arrow
            if last == "=" and self.text[at] == "<":
                token = _Token("name", self._html(at), at)
            else:
                match = _TOKEN.match(self.text, at)
                if match is None:
                    self.fail(_explain(self.text, at), at)
                kind = str(match.lastgroup)
                token = _Token(match.group() if kind == "mark" else kind, match.group(), at)
            at += len(token.text)
            if token.kind != "space":
                last = token.kind
                yield token
        yield _Token("end", "the end of the text", len(self.text))

    def _html(self, at: int) -> str:
        depth, end = 0, at
        while end == at or depth > 0:
            match = _BRACKET.search(self.text, end)
            if match is None:
                self.fail("a value in <...> does not end", at)
            depth += 1 if match.group() == "<" else -1
            end = match.end()
        return self.text[at:end]

    def fail(self, message: str, at: int) -> NoReturn:
        raise error_at(message, self.location(at))

    def location(self, at: int) -> Location:
        return self._lines.location(at)

    def peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)]

    def take(self) -> _Token:
        token = self.peek()
        self._next += 1
        return token

    def accept(self, *kinds: str) -> _Token | None:
        return self.take() if self.peek().kind in kinds else None

    def accept_word(self, *words: str) -> _Token | None:
        """Take an opening keyword, in any case: no other name is allowed there."""
        token = self.peek()
        return self.take() if token.kind == "name" and token.text.lower() in words else None


class _Reader:
    """Read statements and collect nodes, edges and attributes."""

    def __init__(self, text: str) -> None:
        self.tokens = _Text(text)
        # dagitty: keywords are lower-case and may be names; None for DOT, whose keywords may not be names
        self.defaults: dict[str, _Token | None] | None = {"graph": None, "node": None}
        self.hidden: dict[str, bool] = {}
        self.positions: dict[str, tuple[float, float]] = {}
        self.directed: list[tuple[str, str]] = []
        self.bidirected: list[tuple[str, str]] = []
        self.directed_locations: list[Location] = []
        self.bidirected_locations: list[Location] = []

    def graph(self) -> None:
        """Read ``dag { ... }`` or ``digraph name { ... }``."""
        tokens = self.tokens
        tokens.accept_word("strict")
        kind = tokens.accept_word(*_KINDS)
        if kind is None:
            token = tokens.peek()
            tokens.fail(f"expected dag {{ ... }} or digraph {{ ... }}, not {_shown(token)}", token.at)
        word = kind.text.lower()
        if word in {"mag", "pdag", "pag"}:
            tokens.fail(f"a {word} represents many causal graphs; give one of them, as dag {{ ... }}", kind.at)
        if word != "dag":
            self.defaults = None
        tokens.accept("name", "quoted")
        opening = tokens.take()
        if opening.kind != "{":
            tokens.fail(f"expected '{{' after {kind.text!r}, not {_shown(opening)}", opening.at)
        self.statements(_Scope(), opening)
        rest = tokens.peek()
        if rest.kind != "end":
            tokens.fail(f"unexpected {_shown(rest)} after the closing '}}'; a text holds one graph", rest.at)

    def statements(self, scope: _Scope, opening: _Token | None) -> dict[str, None]:
        """Read up to the closing brace, or to the end if no brace was opened; return the names used."""
        tokens, used = self.tokens, dict[str, None]()
        while True:
            token = tokens.peek()
            if token.kind == "end":
                if opening is not None:
                    tokens.fail("this '{' is not closed", opening.at)
                return used
            if token.kind == "}" and opening is not None:
                tokens.take()
                return used
            if token.kind == ";":
                tokens.take()
            elif token.kind in {"name", "quoted"} and tokens.peek(1).kind == "=":
                # a drawing option, such as dagitty's bb
                tokens.take()
                tokens.take()
                self._value("=")
            elif self._sets_defaults(token):
                tokens.take()
                word = token.text.lower()
                attributes = self._attributes()
                if self.defaults is not None and word == "graph" and not _NODE_ATTRIBUTES.isdisjoint(attributes):
                    # these are attributes of a node, so "graph" is the name of a node
                    used[token.text] = None
                    self._declare(token.text, scope, token.at)
                    self._node(token.text, attributes, token.at)
                    continue
                if self.defaults is None and word != "node" and not _HIDDEN_ATTRIBUTES.isdisjoint(attributes):
                    tokens.fail(f"{token.text!r} is a keyword of DOT; write a node of that name in quotes", token.at)
                {"node": scope.node, "edge": scope.edge}.get(word, {}).update(attributes)
                if self.defaults is not None:
                    self._defaults_or_name(token)
            else:
                used |= self._chain(scope)

    def _sets_defaults(self, token: _Token) -> bool:
        """Whether the next statement is ``node [...]`` or the like, not a node of that name."""
        if token.kind != "name" or self.tokens.peek(1).kind != "[":
            return False
        return token.text.lower() in _DEFAULTS if self.defaults is None else token.text in self.defaults

    def _defaults_or_name(self, token: _Token) -> None:
        """Raise GraphError if a dagitty keyword both sets defaults and names a node."""
        assert self.defaults is not None
        at = self.defaults[token.text] = self.defaults[token.text] or token
        if token.text in self.hidden:
            message = (
                f"'{token.text} [...]' sets defaults, and {token.text!r} is a node as well; write the node in quotes"
            )
            self.tokens.fail(message, at.at)

    def _declare(self, name: str, scope: _Scope, at: int) -> None:
        if name not in self.hidden:
            self.hidden[name] = self._says_hidden(scope.node, at) or False

    def _chain(self, scope: _Scope) -> dict[str, None]:
        """Read ``A -> {B C} <-> D [attributes]``, or a single name or group."""
        tokens = self.tokens
        first = tokens.peek()
        ends, arrows = [self._end(scope, None)], list[_Token]()
        while token := tokens.accept("arrow", "undirected"):
            if token.kind == "undirected":
                message = f"{token.text!r} is an edge without a direction; a causal graph has ->, <- and <-> only"
                tokens.fail(message, token.at)
            arrows.append(token)
            ends.append(self._end(scope, token))
        brackets = tokens.peek()
        attributes = self._attributes()
        if arrows:
            direction = str(attributes.get("dir", scope.edge.get("dir", "forward"))).lower()
            for (left, right), arrow in zip(itertools.pairwise(ends), arrows, strict=True):
                if len(self.directed) + len(self.bidirected) + len(left) * len(right) > MOST_EDGES:
                    tokens.fail(f"these groups make more than {MOST_EDGES:,} edges", arrow.at)
                for pair in itertools.product(left, right):
                    self._edge(pair, arrow, direction)
        elif first.kind in {"name", "quoted"} and len(ends[0]) == 1:
            self._node(next(iter(ends[0])), attributes, brackets.at)
        elif attributes:
            tokens.fail("attributes follow a name or an edge, not a group", brackets.at)
        return dict.fromkeys(itertools.chain.from_iterable(ends))

    def _end(self, scope: _Scope, arrow: _Token | None) -> dict[str, None]:
        """Read a name or a group."""
        tokens = self.tokens
        token = tokens.take()
        word = token.text.lower() if self.defaults is None else token.text
        if token.kind == "name" and word == "subgraph" and tokens.peek().kind in {"{", "name", "quoted"}:
            tokens.accept("name", "quoted")
            token = tokens.take()
        if token.kind == "{":
            if scope.depth == _MAX_DEPTH:
                tokens.fail(f"groups are nested more than {_MAX_DEPTH} deep", token.at)
            inner = replace(scope, node=dict(scope.node), edge=dict(scope.edge), depth=scope.depth + 1)
            return self.statements(inner, token)
        if token.kind not in {"name", "quoted"}:
            if arrow is not None:
                tokens.fail(f"a name is missing after {arrow.text!r}", arrow.at)
            if token.kind in {"arrow", "undirected"}:
                tokens.fail(f"a name is missing before {token.text!r}", token.at)
            tokens.fail(f"unexpected {_shown(token)}; a statement begins with a name", token.at)
        name = self._text(token)
        if not name.strip():
            tokens.fail("a name is empty", token.at)
        # a port only affects the drawing of an edge
        while tokens.accept(":"):
            tokens.accept("name", "quoted")
        if token.kind == "name" and self.defaults is None and word in _KEYWORDS:
            tokens.fail(
                f"{token.text!r} is a keyword of DOT, in any case; write a node of that name in quotes", token.at
            )
        self._declare(name, scope, token.at)
        if token.kind == "name" and self.defaults is not None and self.defaults.get(name) is not None:
            self._defaults_or_name(token)
        return {name: None}

    def _node(self, name: str, attributes: Attributes, at: int) -> None:
        hidden = self._says_hidden(attributes, at)
        if hidden is not None:
            self.hidden[name] = hidden
        if attributes.get("selected") is True:
            message = f"{name!r} is marked as selected: data that depend on a selection have no ADMG; remove the mark"
            self.tokens.fail(message, at)
        if "pos" in attributes:
            match = _POSITION.match(str(attributes["pos"]))
            try:
                x, y = map(float, match.groups() if match else ("", ""))
            except ValueError:
                x = y = math.nan
            if not (math.isfinite(x) and math.isfinite(y)):
                self.tokens.fail(f'the position {quoted(attributes["pos"])} is not of the form "x,y"', at)
            self.positions[name] = (x, y)

    def _says_hidden(self, attributes: Attributes, at: int) -> bool | None:
        try:
            return is_hidden(attributes)
        except ValueError as error:
            self.tokens.fail(str(error), at)

    def _edge(self, pair: tuple[str, str], arrow: _Token, direction: str) -> None:
        kind = arrow.text
        if direction == "both":
            kind = "<->"
        elif direction == "back":
            kind = _REVERSED[kind]
        elif direction != "forward":
            message = f"the edge has dir={direction}; write dir=forward, dir=back, or dir=both for a hidden confounder"
            self.tokens.fail(message, arrow.at)
        location = self.tokens.location(arrow.at)
        if kind == "<->":
            self.bidirected.append(pair)
            self.bidirected_locations.append(location)
        else:
            self.directed.append(pair if kind == "->" else pair[::-1])
            self.directed_locations.append(location)

    def _attributes(self) -> Attributes:
        """Read any number of ``[key=value, flag]``."""
        tokens, attributes = self.tokens, Attributes()
        while opening := tokens.accept("["):
            while not tokens.accept("]"):
                key = tokens.accept("name", "quoted")
                if key is None:
                    token = tokens.peek()
                    if token.kind == "end":
                        tokens.fail("this '[' is not closed", opening.at)
                    tokens.fail(f"unexpected {_shown(token)} among attributes; write [key=value, flag]", token.at)
                name = self._text(key).lower()
                if tokens.accept("="):
                    attributes[name] = self._value(name)
                else:
                    attributes[_SHORT.get(name, name)] = True
                tokens.accept(",", ";")
        return attributes

    def _value(self, key: str) -> str:
        token = self.tokens.take()
        if token.kind not in {"name", "quoted"}:
            self.tokens.fail(f"a value is missing after {key!r}, before {_shown(token)}", token.at)
        return self._text(token)

    def _text(self, token: _Token) -> str:
        """A name or value without its quotes; strings joined by ``+`` are concatenated."""
        parts = [_unquoted(token)]
        while token.kind == "quoted" and self.tokens.peek().kind == "+" and self.tokens.peek(1).kind == "quoted":
            self.tokens.take()
            parts.append(_unquoted(self.tokens.take()))
        return "".join(parts)

    def record(self) -> GraphRecord:
        return GraphRecord(
            nodes=tuple(name for name, hidden in self.hidden.items() if not hidden),
            directed=tuple(self.directed),
            bidirected=tuple(self.bidirected),
            latents=tuple(name for name, hidden in self.hidden.items() if hidden),
            directed_locations=tuple(self.directed_locations),
            bidirected_locations=tuple(self.bidirected_locations),
            positions=self.positions,
        )


def _explain(text: str, at: int) -> str:
    if text[at] == '"':
        return "a quoted name does not end"
    if text.startswith("/*", at):
        return "a comment does not end"
    return f"unexpected {text[at]!r}; edges are written ->, <- or <->; names with other signs need double quotes"


def _shown(token: _Token) -> str:
    return token.text if token.kind == "end" else quoted(token.text)


def _unquoted(token: _Token) -> str:
    if token.kind != "quoted":
        return token.text
    # a backslash before any other character is literal, as in labels
    return re.sub(r'\\(["\\\n])', lambda match: match.group(1).strip("\n"), token.text[1:-1])


def is_dot(text: str) -> bool:
    """Whether a text is DOT or dagitty text: it begins with ``dag {``, ``digraph name {`` or the like.

    Args:
        text: The text.

    Returns:
        True or False; False for any arrow text.

    Example:
        >>> is_dot("dag { X -> Y }"), is_dot("X -> Y")
        (True, False)
    """
    return _OPENING.match(text) is not None


def parse_dot(text: str, *, bare: bool = False) -> GraphRecord:
    """Read DOT or dagitty text.

    ``->``, ``<-`` and ``<->`` may be mixed in a chain, and a group ``{A B}`` may replace a name. In DOT, the
    attribute ``dir=both`` makes an edge bidirected and ``dir=back`` reverses it. A node is hidden by ``[latent]`` or
    ``[unobserved]`` (with or without ``=yes``, ``=true`` or ``=1``) or ``[observed=no]``, never by its style:
    ``style=dashed`` has no effect. ``pos`` is kept; all other attributes, including exposure and outcome, are ignored.
    The words node, edge, graph, digraph, subgraph and strict are keywords of DOT in any case, so a node of such a name
    must be quoted; in dagitty text only ``node [...]``, ``graph [...]`` and ``subgraph`` are, in lower case.

    Args:
        text: The text.
        bare: Whether the ``dag { }`` around the statements may be left out, as dagitty allows.

    Returns:
        The record, names in order of first appearance.

    Raises:
        GraphError: If the text cannot be read, with line and column.

    References:
        Gansner & North (2000), An open graph visualization system and its applications to software engineering;
        Textor et al. (2016), Robust causal inference using directed acyclic graphs: the R package 'dagitty',
        https://doi.org/10.1093/ije/dyw341

    Example:
        >>> record = parse_dot('dag { X [exposure,pos="0,1"] U [latent] U -> {X Y} X -> Y X <-> Y }')
        >>> record.directed, record.bidirected, record.latents
        ((('U', 'X'), ('U', 'Y'), ('X', 'Y')), (('X', 'Y'),), ('U',))
        >>> record.positions
        {'X': (0.0, 1.0)}
    """
    reader = _Reader(text)
    if bare and not is_dot(text):
        reader.statements(_Scope(), None)
    else:
        reader.graph()
    return reader.record()


def _quoted(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in _KEYWORDS:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _decimal(number: float) -> str:
    """Shortest decimal text of a number that reads back exactly, without an exponent, which dagitty cannot read."""
    return np.format_float_positional(number, trim="0")


def _format(record: GraphRecord, opening: str, hidden: str, arrow: str, confounded: str) -> str:
    """Write a statement per line: names with their attributes, then edges."""
    lines = [opening]
    for names, mark in ((record.nodes, ""), (record.latents, hidden)):
        for name in names:
            attributes = [mark] if mark else []
            if name in record.positions:
                x, y = record.positions[name]
                attributes.append(f'pos="{_decimal(x)},{_decimal(y)}"')
            lines.append(f"  {_quoted(name)}" + (f" [{', '.join(attributes)}]" if attributes else ""))
    lines += [f"  {_quoted(a)} -> {_quoted(b)}" for a, b in record.directed]
    lines += [f"  {_quoted(a)} {arrow} {_quoted(b)}{confounded}" for a, b in record.bidirected]
    return "\n".join([*lines, "}", ""])


def format_dagitty(record: GraphRecord) -> str:
    """Write dagitty text that :func:`parse_dot` reads back into the same names, edges and positions.

    Args:
        record: The record.

    Returns:
        The text, one statement per line.

    Example:
        >>> print(format_dagitty(GraphRecord(("X", "Y"), (("X", "Y"),), (("X", "Y"),))), end="")
        dag {
          X
          Y
          X -> Y
          X <-> Y
        }
    """
    return _format(record, "dag {", "latent", "<->", "")


def format_dot(record: GraphRecord) -> str:
    """Write DOT that :func:`parse_dot` reads back into the same names, edges and positions.

    Hidden nodes and bidirected edges are drawn dashed; the attributes ``latent=true`` and ``dir=both`` mark them.

    Args:
        record: The record.

    Returns:
        The text, one statement per line.

    Example:
        >>> print(format_dot(GraphRecord(("X", "Y"), (("X", "Y"),), (("X", "Y"),))), end="")
        digraph {
          X
          Y
          X -> Y
          X -> Y [dir=both, style=dashed]
        }
    """
    return _format(record, "digraph {", "latent=true, style=dashed", "->", " [dir=both, style=dashed]")
