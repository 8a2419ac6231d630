"""Graph text and files: readers that return plain records, and writers that take them.

A record holds names and edges as written, with their line and column, unchecked: :class:`mdcm.graph.ADMG` checks
whether the edges make an ADMG and uses lines and columns in its messages.

| format | module | read and written through |
|---|---|---|
| arrow text | `arrows` | |
| dagitty, DOT | `dot` | |
| GML, GraphML | `interchange` | networkx |
| BIF (read only) | `bif` | |
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mdcm.errors import GraphError
from mdcm.graph.formats.arrows import format_arrows, parse_arrows
from mdcm.graph.formats.bif import parse_bif
from mdcm.graph.formats.dot import format_dagitty, format_dot, is_dot, parse_dot
from mdcm.graph.formats.interchange import (
    format_gml,
    format_graphml,
    from_networkx,
    parse_gml,
    parse_graphml,
    to_networkx,
)
from mdcm.graph.formats.records import GraphRecord, Location

__all__ = [
    "GraphRecord",
    "Location",
    "format_arrows",
    "format_dagitty",
    "format_dot",
    "format_gml",
    "format_graphml",
    "from_networkx",
    "is_dot",
    "parse_arrows",
    "parse_bif",
    "parse_dot",
    "parse_gml",
    "parse_graphml",
    "parse_text",
    "read_record",
    "to_networkx",
]


def parse_text(text: str) -> GraphRecord:
    """Read arrow text, or dagitty or DOT text if it begins with ``dag {``, ``digraph {`` or the like.

    A byte-order mark counts as a space.

    Args:
        text: The text.

    Returns:
        The record.

    Raises:
        GraphError: If the text cannot be read, with line and column.
    """
    return parse_dot(text) if is_dot(text) else parse_arrows(text)


# largest size of a file, packed and unpacked
_MAX_BYTES = 1 << 26


def _unpacked(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise GraphError(f"the graph cannot be read: it is larger than {_MAX_BYTES >> 20} MiB when unpacked")
    return content


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise GraphError(f"the graph cannot be read: it is larger than {_MAX_BYTES >> 20} MiB")
    return content


_READERS: dict[str, Callable[[str], GraphRecord]] = {
    ".dag": partial(parse_dot, bare=True),
    ".dagitty": partial(parse_dot, bare=True),
    ".dot": parse_dot,
    ".gv": parse_dot,
    ".gml": parse_gml,
    ".graphml": parse_graphml,
    ".bif": parse_bif,
}


def read_record(path: Path) -> GraphRecord:
    """Read a graph file in the format of its suffix.

    Args:
        path: The file, UTF-8: ``.dag`` or ``.dagitty``, ``.dot`` or ``.gv``, ``.gml``, ``.graphml``, ``.bif`` or
            ``.bif.gz``; with any other suffix, arrow text, dagitty or DOT, recognized by its content.

    Returns:
        The record, with the positions of the nodes if the file has them.

    Raises:
        GraphError: If the file cannot be read, with line and column if they are known.
    """
    packed = path.name.lower().endswith(".bif.gz")
    try:
        data = _read(path)
        text = (_unpacked(data) if packed else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraphError("the graph cannot be read: it is not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or f"it is not a gzip file: {error}"
        raise GraphError(f"the graph cannot be read: {reason}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return parse_bif(text) if packed else _READERS.get(path.suffix.lower(), parse_text)(text)
