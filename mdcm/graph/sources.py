"""Telling graph texts, graph files and inputs given by mistake apart."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdcm.errors import GraphError
from mdcm.graph.edges import suggestion
from mdcm.graph.formats import GraphRecord, is_dot
from mdcm.text.printable import shortened

__all__ = ["hide_nodes", "in_file", "refuse_path", "refuse_table", "text_or_file"]

# inputs that are often given instead of a graph by mistake
_TABLES = {".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".xls", ".npy"}
_QUERY = re.compile(r"\s*[PE]\s*[(\[]")
_FILE = re.compile(r"[^\n\0>;]{1,1000}\.\w{1,8}")


def text_or_file(argument: str) -> str | Path:
    """Return the graph argument of a command line as the path of an existing file or as text; read - from stdin."""
    if argument == "-":
        text = sys.stdin.read()
        if not text.strip():
            raise GraphError("standard input is empty; write a graph such as 'X -> Y; X <-> Y'")
        return text
    if any(mark in argument for mark in ("->", "<-", ";", "\n", "→", "←", "↔")) or is_dot(argument):
        return argument
    path = Path(argument)
    refuse_table(path)
    if _QUERY.match(argument):
        raise GraphError(f"{argument!r} is a query, but a graph is expected here; give the graph first")
    if argument.strip() and path.is_dir():
        raise GraphError(f"{argument} is a directory, not a graph; name a file in it")
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise GraphError(f"there is no graph file {argument!r}, and it is not a graph's text: no edges")
    return argument


def refuse_path(text: str) -> None:
    """Refuse the path of a file where a graph's text is expected."""
    if _FILE.fullmatch(text) and Path(text).is_file():
        raise GraphError(f"{text!r} is the path of a file, not a graph's text; mdcm.read_graph reads it")


def refuse_table(path: Path) -> None:
    """Refuse a table of data where a graph is expected."""
    if path.suffix.lower() in _TABLES:
        raise GraphError(
            f"{path} is a table, but a graph is expected here; give the graph first, as text such as 'X -> Y; X <-> Y' "
            "or as the path of its file"
        )


def hide_nodes(record: GraphRecord, names: str | Iterable[str]) -> GraphRecord:
    """The record with the given names declared latent."""
    hide = dict.fromkeys((names,) if isinstance(names, str) else names)
    known = dict.fromkeys((*record.nodes, *record.latents))
    for name in hide:
        if name not in known:
            raise GraphError(f"the graph has no node {name!r} to hide{suggestion(name, known)}")
    return dataclasses.replace(
        record,
        nodes=tuple(name for name in record.nodes if name not in hide),
        latents=record.latents + tuple(name for name in record.nodes if name in hide),
    )


@contextlib.contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Begin the message of a GraphError with the path of the file."""
    try:
        yield
    except GraphError as error:
        error.args = (shortened(f"{path}: {error}"),)
        raise
