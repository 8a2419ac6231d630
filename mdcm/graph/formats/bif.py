"""BIF, the interchange format of Bayesian networks: the structure, without the probability tables."""

from __future__ import annotations

import re
from typing import NoReturn

from mdcm.errors import GraphError
from mdcm.graph.formats.records import GraphRecord, Lines, Location, error_at

__all__ = ["parse_bif"]

# tokens are skipped individually: a possessive repeated group would be shorter, but is faulty in supported versions of
# Python
_COMMENT = r"//[^\n]*|/\*(?s:.)*?\*/"
_SPACE = re.compile(rf"[\s\ufeff]+|{_COMMENT}")
_BETWEEN = re.compile(r"[;\s]+")
_NAME = re.compile(r'"((?:[^"\\\n]|\\.)*)"|([^\s"{}()\[\],;|/\ufeff]+(?:/(?![/*])[^\s"{}()\[\],;|/\ufeff]*)*)')
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
# text of a skipped block that neither opens nor closes anything, and the content of a property
_FILLER = re.compile(rf'[^"{{}}/]+|{_QUOTED}|{_COMMENT}|/(?![/*])')
_PROPERTY = re.compile(rf'[^";/]+|{_QUOTED}|{_COMMENT}|/(?![/*])')
_MAX_DEPTH = 100
_MAX_SHOWN = 20


class _Reader:
    """Reader of a text, with the offset of the next token."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines = Lines(text)
        self.variables: dict[str, int] = {}
        self.parents: dict[str, list[tuple[str, int]]] = {}
        self.children: dict[str, int] = {}

    def location(self, at: int) -> Location:
        return self.lines.location(at)

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        raise error_at(message, self.location(self.at if at is None else at))

    def next_text(self) -> str:
        rest = self.text[self.at : self.at + _MAX_SHOWN]
        return repr(rest.split("\n")[0]) if rest else "the end of the text"

    def skip(self, token: re.Pattern[str]) -> None:
        """Skip all tokens of a kind at the current offset."""
        while match := token.match(self.text, self.at):
            self.at = match.end()

    def space(self) -> None:
        self.skip(_SPACE)
        if self.text.startswith("/*", self.at):
            self.fail("a comment does not end")

    def accept(self, mark: str) -> bool:
        self.space()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def expect(self, mark: str, where: str) -> None:
        if not self.accept(mark):
            self.fail(f"{mark!r} is expected {where}, not {self.next_text()}")

    def name(self, what: str) -> tuple[str, int]:
        """A word or quoted text, and its offset."""
        self.space()
        match = _NAME.match(self.text, self.at)
        if match is None:
            message = f"{what} is expected, not {self.next_text()}"
            self.fail("a quoted name does not end on this line" if self.text.startswith('"', self.at) else message)
        at, self.at = self.at, match.end()
        name = match[2] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1])
        if not name.strip():
            self.fail("a name is empty", at)
        return name, at

    def block(self, what: str) -> None:
        """Skip ``{ ... }`` with nested blocks."""
        self.expect("{", f"after {what}")
        opening, depth = self.at - 1, 1
        while depth:
            self.skip(_FILLER)
            if self.at == len(self.text):
                self.fail("this '{' is not closed", opening)
            mark = self.text[self.at]
            if mark == '"':
                self.fail("a quoted text does not end on this line")
            if mark == "/":
                self.fail("a comment does not end")
            depth += 1 if mark == "{" else -1
            if depth > _MAX_DEPTH:
                self.fail(f"blocks are nested more than {_MAX_DEPTH} deep")
            self.at += 1

    def network(self) -> None:
        while True:
            self.space()
            if self.at == len(self.text):
                return
            if self.text[self.at] == ";":
                self.skip(_BETWEEN)
                continue
            keyword, at = self.name("network, variable or probability")
            if keyword == "variable":
                self.variable()
            elif keyword == "probability":
                self.probability()
            elif keyword in {"network", "property"}:
                self.preamble(keyword)
            else:
                self.fail(
                    f"{keyword[:_MAX_SHOWN]!r} is not a BIF keyword; network, variable or probability is expected", at
                )

    def preamble(self, keyword: str) -> None:
        """Skip ``network NAME { ... }`` and ``property ... ;``, which do not affect the structure."""
        if keyword == "property":
            self.space()
            self.skip(_PROPERTY)
            if self.text.startswith('"', self.at):
                self.fail("a quoted text does not end on this line")
            if not self.accept(";"):
                self.fail("';' is missing after a property")
            return
        self.space()
        if not self.text.startswith("{", self.at):
            self.name("the name of the network")
        self.block("the name of the network")

    def variable(self) -> None:
        name, at = self.name("the name of a variable")
        if name in self.variables:
            self.fail(f"the variable {name!r} is declared twice", at)
        self.variables[name] = at
        self.block(f"the variable {name!r}")

    def probability(self) -> None:
        self.expect("(", "after probability")
        child, at = self.name("the name of a variable")
        if child in self.parents:
            self.fail(f"the probabilities of {child!r} are given twice", at)
        parents = self.parents[child] = []
        self.children[child] = at
        if self.accept("|"):
            known = set[str]()
            while not parents or self.accept(","):
                parent, parent_at = self.name("the name of a parent")
                if parent in known:
                    self.fail(f"{parent!r} is given twice as a parent of {child!r}", parent_at)
                known.add(parent)
                parents.append((parent, parent_at))
        self.expect(")", f"after the parents of {child!r}" if parents else f"or '|' after {child!r}")
        self.block(f"the parents of {child!r}")

    def record(self) -> GraphRecord:
        if not self.variables:
            raise GraphError("this BIF declares no variable")
        edges, locations = [], []
        for child, parents in self.parents.items():
            for name, at in [(child, self.children[child]), *parents]:
                if name not in self.variables:
                    self.fail(f"{name!r} is not declared as a variable", at)
            for parent, at in parents:
                edges.append((parent, child))
                locations.append(self.location(at))
        for name, at in self.variables.items():
            if name not in self.parents:
                self.fail(f"the probabilities of {name!r} are missing; they name its parents", at)
        return GraphRecord(tuple(self.variables), tuple(edges), directed_locations=tuple(locations))


def parse_bif(text: str) -> GraphRecord:
    """Read the structure of a Bayesian network in BIF, without its probability tables.

    Args:
        text: The text.

    Returns:
        The record: variables in order of declaration, and an edge from every parent, with the line and column of the
        parent's name.

    Raises:
        GraphError: If the text cannot be read, a variable is declared twice or not at all, or has no probabilities,
            with line and column.

    Complexity:
        O(text) time.

    References:
        Cozman (1996), The Interchange Format for Bayesian Networks.

    Example:
        >>> variables = "variable A { type discrete [2] {a, b}; } variable B { type discrete [2] {a, b}; }"
        >>> parse_bif(f"network n {{}} {variables} probability (A) {{ table 1, 0; }} probability (B | A) {{}}").directed
        (('A', 'B'),)
    """
    reader = _Reader(text)
    reader.network()
    return reader.record()
