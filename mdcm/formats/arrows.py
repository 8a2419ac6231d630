"""Arrow text: chains of names and arrows, as people write them in mail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mdcm.formats.records import GraphRecord, Place, error_at

__all__ = ["format_arrows", "parse_arrows"]

_ARROWS = {"->": "->", "<-": "<-", "<->": "<->", "→": "->", "←": "<-", "↔": "<->"}
_BARE = r"[^\s;,\"#<>\[\]{}→←↔-](?:[^\s;,\"#<>\[\]{}→←↔-]|-(?=[^\s;,\"#<>\[\]{}→←↔-]))*"
_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\r\f\v]+|\#[^\n]*)
  | (?P<end>[;\n])
  | (?P<arrow><->|->|<-|→|←|↔)(?!>)
  | (?P<latent>\[\s*latent\s*\])
  | (?P<quoted>"(?:[^"\\\n]|\\["\\n])+")
  | (?P<bare>{_BARE})
    """,
    re.VERBOSE,
)
_WRONG = re.compile(r"[^\w\s]+|\S")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    place: Place


@dataclass(slots=True)
class _Reader:
    """Collects the statements of one text."""

    names: dict[str, None] = field(default_factory=dict)
    latents: dict[str, None] = field(default_factory=dict)
    directed: list[tuple[str, str]] = field(default_factory=list)
    bidirected: list[tuple[str, str]] = field(default_factory=list)
    directed_places: list[Place] = field(default_factory=list)
    bidirected_places: list[Place] = field(default_factory=list)

    def statement(self, tokens: Sequence[_Token]) -> None:
        """Reads ``name arrow name arrow name``, each name with an optional ``[latent]``."""
        left: str | None = None
        arrow: _Token | None = None
        for token in tokens:
            if token.kind == "latent":
                if left is None or arrow is not None:
                    raise error_at("[latent] must follow a name", token.place)
                self.latents[left] = None
            elif token.kind == "arrow":
                if left is None:
                    raise error_at(f"a name is missing before {token.text!r}", token.place)
                if arrow is not None:
                    raise error_at(f"a name is missing between {arrow.text!r} and {token.text!r}", token.place)
                arrow = token
            else:
                if left is not None and arrow is None:
                    message = f"an arrow (->, <- or <->) or ';' is missing between {left!r} and {token.text!r}"
                    raise error_at(message, token.place)
                self.names[token.text] = None
                if left is not None and arrow is not None:
                    self._edge(left, arrow, token.text)
                left, arrow = token.text, None
        if arrow is not None:
            raise error_at(f"a name is missing after {arrow.text!r}", arrow.place)

    def _edge(self, left: str, arrow: _Token, right: str) -> None:
        kind = _ARROWS[arrow.text]
        if kind == "<->":
            self.bidirected.append((left, right))
            self.bidirected_places.append(arrow.place)
        else:
            self.directed.append((left, right) if kind == "->" else (right, left))
            self.directed_places.append(arrow.place)

    def record(self) -> GraphRecord:
        return GraphRecord(
            nodes=tuple(name for name in self.names if name not in self.latents),
            directed=tuple(self.directed),
            bidirected=tuple(self.bidirected),
            latents=tuple(self.latents),
            directed_places=tuple(self.directed_places),
            bidirected_places=tuple(self.bidirected_places),
        )


def parse_arrows(text: str) -> GraphRecord:
    """Reads arrow text: chains of names and arrows, one per line or separated by ``;``.

    ``->``, ``<-`` and ``<->`` (or →, ←, ↔) may be mixed in a chain. A bare name declares an isolated node,
    ``U [latent]`` a latent, ``#`` starts a comment. Names with spaces, arrows or punctuation are written in double
    quotes.

    Args:
        text: The text.

    Returns:
        The record, names in order of first appearance.

    Raises:
        GraphError: If the text cannot be read, with line and column.

    Example:
        >>> parse_arrows("D -> I -> A; D <-> A").directed
        (('D', 'I'), ('I', 'A'))
    """
    reader = _Reader()
    statement: list[_Token] = []
    line, line_start, at = 1, 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        place = (line, at - line_start + 1)
        if match is None:
            raise error_at(_explain(text, at), place)
        kind = str(match.lastgroup)
        if kind == "end":
            reader.statement(statement)
            statement.clear()
            if match.group() == "\n":
                line, line_start = line + 1, match.end()
        elif kind == "quoted":
            name = re.sub(r"\\.", lambda escape: _UNESCAPED[escape.group()], match.group()[1:-1])
            if not name.strip():
                raise error_at("a name is empty", place)
            statement.append(_Token("name", name, place))
        elif kind == "bare":
            statement.append(_Token("name", match.group(), place))
        elif kind != "space":
            statement.append(_Token(kind, match.group(), place))
        at = match.end()
    reader.statement(statement)
    return reader.record()


def _explain(text: str, at: int) -> str:
    if text[at] == '"':
        return "a name is empty" if text.startswith('""', at) else "a quoted name does not end on this line"
    if text[at] == ",":
        return "unexpected ','; separate statements by ';' or a new line"
    match = _WRONG.match(text, at)
    found = match.group() if match else text[at]
    return f"unexpected {found!r}; edges are written ->, <- or <->, other names in double quotes"


def _quoted(name: str) -> str:
    if re.fullmatch(_BARE, name):
        return name
    return '"' + "".join(_ESCAPES.get(letter, letter) for letter in name) + '"'


def _chains(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Joins each edge to the one before it where that one ends at its start."""
    chains: list[list[str]] = []
    for left, right in edges:
        if chains and chains[-1][-1] == left:
            chains[-1].append(right)
        else:
            chains.append([left, right])
    return chains


def format_arrows(record: GraphRecord, separator: str = "; ") -> str:
    r"""Writes arrow text that :func:`parse_arrows` reads back into the same names and edges, in the same order.

    Args:
        record: The record.
        separator: What stands between statements, for example ``"; "`` or ``"\n"``.

    Returns:
        The text.

    Example:
        >>> format_arrows(GraphRecord(("D", "I", "A"), (("D", "I"), ("I", "A")), (("D", "A"),)))
        'D -> I -> A; D <-> A'
    """
    chains = [("->", chain) for chain in _chains(record.directed)]
    chains += [("<->", chain) for chain in _chains(record.bidirected)]
    edges = [f" {arrow} ".join(map(_quoted, chain)) for arrow, chain in chains]
    latents = set(record.latents)
    seen = tuple(dict.fromkeys(name for _, chain in chains for name in chain if name not in latents))
    declared = [f"{_quoted(name)} [latent]" for name in record.latents]
    if seen == record.nodes[: len(seen)]:
        statements = declared + edges + [_quoted(name) for name in record.nodes[len(seen) :]]
    else:
        # names first: reading back would otherwise order them by the edges that use them
        statements = declared + [_quoted(name) for name in record.nodes] + edges
    return separator.join(statements)
