"""Arrow text: chains of names and arrows, such as ``D -> I -> A; D <-> A``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mdcm.graph.formats.records import MOST_EDGES, GraphRecord, Location, error_at
from mdcm.text.printable import quoted

__all__ = ["format_arrows", "parse_arrows"]

_ARROWS = {"->": "->", "<-": "<-", "<->": "<->", "→": "->", "←": "<-", "↔": "<->"}
_LETTER = r"[^\s\ufeff;,\"#<>\[\]{}→←↔-]"
_BARE = rf"{_LETTER}(?:{_LETTER}|-(?={_LETTER}))*"
_TOKEN = re.compile(
    rf"""
    (?P<space>[ \t\r\f\v\ufeff]+|\#[^\n]*)
  | (?P<comma>,)
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
    location: Location


@dataclass(slots=True)
class _Reader:
    """Reader of the statements of a text."""

    names: dict[str, None] = field(default_factory=dict)
    latents: dict[str, None] = field(default_factory=dict)
    directed: list[tuple[str, str]] = field(default_factory=list)
    bidirected: list[tuple[str, str]] = field(default_factory=list)
    directed_locations: list[Location] = field(default_factory=list)
    bidirected_locations: list[Location] = field(default_factory=list)

    def statement(self, tokens: Sequence[_Token]) -> None:
        """Read ``names arrow names arrow names``: names are separated by commas, and may have ``[latent]``."""
        left: list[str] = []
        right: list[str] = []
        arrow: _Token | None = None
        last: _Token | None = None
        for token in tokens:
            if token.kind == "latent":
                if last is None or last.kind != "name":
                    raise error_at("[latent] must follow a name", token.location)
                unmarked = [name for name in right[:-1] if name not in self.latents]
                if unmarked:
                    message = (
                        f"[latent] after {right[-1]!r} may be meant for {unmarked[0]!r} too; write it after each name"
                    )
                    raise error_at(message, token.location)
                self.latents[last.text] = None
            elif token.kind == "comma":
                if last is None or last.kind not in {"name", "latent"}:
                    raise error_at("a name is missing before ','", token.location)
            elif token.kind == "arrow":
                if last is None or last.kind == "comma":
                    where = "before" if last is None else "between ',' and"
                    raise error_at(f"a name is missing {where} {token.text!r}", token.location)
                if last.kind == "arrow":
                    raise error_at(f"a name is missing between {last.text!r} and {token.text!r}", token.location)
                self._edges(left, arrow, right)
                left, right, arrow = right, [], token
            else:
                if last is not None and last.kind in {"name", "latent"}:
                    between = f"{quoted(right[-1])} and {quoted(token.text)}"
                    message = (
                        f"an arrow (->, <- or <->), ',' or ';' is missing between {between}; put a name of several "
                        "words in double quotes"
                    )
                    raise error_at(message, token.location)
                self.names[token.text] = None
                right.append(token.text)
            last = token
        if last is not None and last.kind in {"arrow", "comma"}:
            raise error_at(f"a name is missing after {last.text!r}", last.location)
        self._edges(left, arrow, right)

    def _edges(self, left: Sequence[str], arrow: _Token | None, right: Sequence[str]) -> None:
        """Add an edge from every name on the left to every name on the right."""
        if arrow is None:
            return
        if len(self.directed) + len(self.bidirected) + len(left) * len(right) > MOST_EDGES:
            raise error_at(f"these lists make more than {MOST_EDGES:,} edges", arrow.location)
        kind = _ARROWS[arrow.text]
        for a, b in itertools.product(left, right):
            if kind == "<->":
                self.bidirected.append((a, b))
                self.bidirected_locations.append(arrow.location)
            else:
                self.directed.append((a, b) if kind == "->" else (b, a))
                self.directed_locations.append(arrow.location)

    def record(self) -> GraphRecord:
        return GraphRecord(
            nodes=tuple(name for name in self.names if name not in self.latents),
            directed=tuple(self.directed),
            bidirected=tuple(self.bidirected),
            latents=tuple(self.latents),
            directed_locations=tuple(self.directed_locations),
            bidirected_locations=tuple(self.bidirected_locations),
        )


def parse_arrows(text: str) -> GraphRecord:
    """Read arrow text: chains of names and arrows, separated by line breaks or ``;``.

    ``->``, ``<-`` and ``<->`` (or →, ←, ↔) may be mixed in a chain. A list may replace a name, as in ``U -> A, B`` or
    ``A, B <- U``: every name in it has the edge. A bare name declares an isolated node, ``U [latent]`` a latent,
    ``#`` starts a comment. Names with spaces, arrows or punctuation are written in double quotes.

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
        location = (line, at - line_start + 1)
        if match is None:
            raise error_at(_explain(text, at), location)
        kind = str(match.lastgroup)
        if kind == "end":
            reader.statement(statement)
            statement.clear()
            if match.group() == "\n":
                line, line_start = line + 1, match.end()
        elif kind == "quoted":
            name = re.sub(r"\\.", lambda escape: _UNESCAPED[escape.group()], match.group()[1:-1])
            if not name.strip():
                raise error_at("a name is empty", location)
            statement.append(_Token("name", name, location))
        elif kind == "bare":
            statement.append(_Token("name", match.group(), location))
        elif kind != "space":
            statement.append(_Token(kind, match.group(), location))
        at = match.end()
    reader.statement(statement)
    return reader.record()


def _explain(text: str, at: int) -> str:
    if text[at] == '"':
        return "a name is empty" if text.startswith('""', at) else "a quoted name does not end on this line"
    match = _WRONG.match(text, at)
    unexpected = match.group() if match else text[at]
    return f"unexpected {unexpected!r}; edges are written ->, <- or <->; names with other signs need double quotes"


def _quoted(name: str) -> str:
    if re.fullmatch(_BARE, name):
        return name
    return '"' + "".join(_ESCAPES.get(letter, letter) for letter in name) + '"'


def _chains(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Join edges to chains: an edge that starts at the end of the last chain continues it."""
    chains: list[list[str]] = []
    for left, right in edges:
        if chains and chains[-1][-1] == left:
            chains[-1].append(right)
        else:
            chains.append([left, right])
    return chains


def format_arrows(record: GraphRecord, separator: str = "; ") -> str:
    r"""Write arrow text that :func:`parse_arrows` reads back into the same names and edges, in the same order.

    Args:
        record: The record.
        separator: Text between statements, for example ``"; "`` or ``"\n"``.

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
        # names first, because the reader orders names by first appearance
        statements = declared + [_quoted(name) for name in record.nodes] + edges
    return separator.join(statements)
