"""Arguments that several commands share: a graph and tables, or a spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

if TYPE_CHECKING:
    from mdcm.cli.spec import DataEntry, Spec

__all__ = [
    "DataArguments",
    "DropnaOption",
    "GraphArgument",
    "KindOption",
    "NaOption",
    "entries_of",
    "is_spec",
    "kinds_of",
    "path_and_targets",
    "refuse_query",
    "spec_of",
]

GraphArgument = Annotated[
    str,
    typer.Argument(
        metavar="GRAPH|SPEC.yaml", help="graph file or text, or a spec instead of graph and tables", show_default=False
    ),
]
DataArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE[:do=X,Y]", help="table, perhaps of an experiment that set X and Y", show_default=False
    ),
]
NaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--na", metavar="TEXT", help="text in a table that means missing, as an empty cell does", show_default=False
    ),
]
DropnaOption = Annotated[bool, typer.Option("--dropna", help="leave out rows with missing values")]
KindOption = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="NAME=KIND",
        help="categorical, continuous, implicit or image, rather than what the column looks like",
        show_default=False,
    ),
]


def refuse_query(text: str, before: str, usage: str) -> None:
    """Refuse a query given where ``before`` is expected.

    Raises:
        BadParameter: If the text is a query.
    """
    if re.match(r"\s*[PE]\s*[(\[]", text):
        raise typer.BadParameter(f"{text!r} is a query, and {before} comes first: {usage}")


def is_spec(text: str) -> bool:
    """Whether a graph argument is a spec: the path of a YAML file."""
    return text.lower().endswith((".yaml", ".yml")) and "\n" not in text


def spec_of(
    graph: str,
    data: Sequence[str] | None,
    *,
    na: Sequence[str] | None = None,
    dropna: bool = False,
    kinds: Sequence[str] | None = None,
) -> Spec:
    """Read the spec, or make one of a graph and tables.

    Raises:
        BadParameter: If neither tables nor a spec are given, or a spec together with tables or their options.
        DataError: If an option is malformed.
        SpecError: If the spec cannot be used.
    """
    from mdcm.cli.spec import Spec, read_spec

    if is_spec(graph):
        if data:
            raise typer.BadParameter(f"{graph} is a spec, which names its data: give a graph and tables, or a spec")
        if na or dropna or kinds:
            raise typer.BadParameter(
                f"--na, --dropna and --kind are for tables; in {graph}, write na_values and dropna at a data set, and "
                "the kind at a variable"
            )
        return read_spec(graph)
    if not data:
        raise typer.BadParameter("give a graph and at least one table, or a spec.yaml that names them")
    return Spec.of_arguments(graph, entries_of(data, na=na, dropna=dropna), kinds_of(kinds))


def entries_of(
    options: Sequence[str], flag: str = "", *, na: Sequence[str] | None = None, dropna: bool = False
) -> list[DataEntry]:
    """Parse data sets given as options or arguments ``FILE[:do=X,Y]``."""
    from mdcm.cli.spec import DataEntry

    parts = [path_and_targets(option, flag) for option in options]
    return [DataEntry(path=path, do=do, na_values=list(na or ()), dropna=dropna) for path, do in parts]


def kinds_of(options: Sequence[str] | None) -> dict[str, Any]:
    """Parse kinds of variables given as options ``NAME=KIND``.

    Raises:
        DataError: If an option is malformed, or its kind is unknown.
    """
    from mdcm.data import Kind
    from mdcm.errors import DataError

    known = get_args(Kind)
    kinds: dict[str, str] = {}
    for option in options or []:
        name, sign, kind = option.rpartition("=")
        if not sign or not name.strip() or kind.strip() not in known:
            raise DataError(f"--kind {option}: NAME=KIND is expected, with a kind of {', '.join(known)}")
        if name.strip() in kinds:
            raise DataError(f"--kind {option}: {name.strip()!r} has two kinds")
        kinds[name.strip()] = kind.strip()
    return cast("dict[str, Any]", kinds)


def path_and_targets(option: str, flag: str) -> tuple[str, list[str]]:
    """Split ``FILE[:do=X,Y]`` into the file and the targets.

    Raises:
        DataError: If it is malformed.
    """
    from mdcm.errors import DataError

    path, separator, targets = option.rpartition(":do=")
    if not option or (separator and not path):
        raise DataError(f"{flag}{option}: the path of a table is missing")
    # text that cannot be a path raises
    with suppress(OSError, ValueError):
        if Path(option).exists():
            return option, []
    if not separator:
        if ":" in Path(option).name:
            raise DataError(f"{flag}{option}: there is no such file, and after a colon do=X,Y is expected")
        return option, []
    do = [name.strip() for name in targets.split(",")]
    if not all(do):
        raise DataError(f"{flag}{option}: a name is missing after do=, as in {path}:do=X,Y")
    return path, do
