"""Drafts of spec.yaml: what a table and a graph say already, with comments for whoever goes on from there."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from mdcm.data import Dataset, Schema, validate
from mdcm.graph import ADMG
from mdcm.variables import Variable

__all__ = ["Source", "draft_spec", "relative"]

_MOST_NAMED = 8
_MOST_LEVELS = 12

# where comments stand at most
_COLUMN = 60


@dataclass(frozen=True)
class Source:
    """A table that a draft is about.

    Attributes:
        path: The file, as it is to stand in the spec.
        table: What is in it.
        do: Names of the variables that it sets.
        na_values: Texts that were read as missing values.
    """

    path: str
    table: pd.DataFrame
    do: Sequence[str] = ()
    na_values: Sequence[str] = ()


def draft_spec(graph: ADMG, sources: Sequence[Source], *, graph_text: str | None = None) -> str:
    """A commented spec.yaml for a graph and tables, as it can be trained.

    Kinds are those that :func:`mdcm.fit` would infer, written out so that they can be seen and changed. Tables with
    missing values get ``dropna: true``, with a comment that says how many rows that leaves out.

    Args:
        graph: The graph.
        sources: The tables.
        graph_text: How the graph is to stand in the spec, such as the path of its file; its text by default.

    Returns:
        The text of the spec.

    Raises:
        DataError: If the tables cannot be used, such as where a variable of the graph is in none of them.

    Example:
        >>> table = pd.DataFrame({"X": [0, 1, 1], "Y": [0.5, 1.5, 2.25]})
        >>> print(draft_spec(ADMG.from_string("X -> Y"), [Source("data.csv", table)]))  # doctest: +ELLIPSIS
        # What is trained on what...
        graph: X -> Y
        ...
    """
    datasets = [
        Dataset(source.table, do=source.do, name=f"table {place}, {source.path}", dropna=_incomplete(source, graph))
        for place, source in enumerate(sources, start=1)
    ]
    with warnings.catch_warnings():
        # what they warn of stands in the comments
        warnings.simplefilter("ignore", UserWarning)
        schema = Schema.infer(validate(datasets, graph.nodes), order=graph.nodes)
    spec = CommentedMap()
    spec["graph"] = graph.to_string() if graph_text is None else graph_text
    spec["data"] = _data(sources, graph)
    variables, comments = CommentedMap(), {}
    for name in graph.nodes:
        variables[name], comments[name] = _variable(schema[name], sources)
    # comments in one column, where that is near
    widest = max((len(line) for line in _written(variables).splitlines()), default=0)
    for name, comment in comments.items():
        variables.yaml_add_eol_comment(comment, name, column=min(widest, _COLUMN) + 4)
    spec["variables"] = variables
    train = CommentedMap(seed=0)
    train.yaml_set_comment_before_after_key(
        "seed",
        before="ensemble: 20            # models to train besides, for intervals of answers\n"
        "max_minutes: 30         # stop after that\n"
        "checkpoint_seconds: 60  # how often a run that is killed can be resumed from",
        indent=2,
    )
    spec["train"] = train
    spec.yaml_set_start_comment(
        "What is trained on what; `mdcm train` reads it. Only graph and data are needed: all else is what\n"
        "would be inferred, and can be changed. Paths are relative to this file.\n"
    )
    spec.yaml_set_comment_before_after_key("graph", before="\nX -> Y is a cause, X <-> Y a hidden common cause")
    spec.yaml_set_comment_before_after_key("data", before="\ndo: [X] on a table of an experiment that set X")
    spec.yaml_set_comment_before_after_key(
        "variables",
        before="\nkinds: categorical, continuous (has a density), implicit (has none), image.\n"
        "levels: [low, high] puts levels in an order of your own.",
    )
    spec.yaml_set_comment_before_after_key("train", before="\nsettings of the training")
    return _written(spec)


def _written(content: CommentedMap) -> str:
    stream = io.StringIO()
    writer = YAML()
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.width = 4096
    writer.allow_unicode = True
    writer.dump(content, stream)
    return stream.getvalue()


def relative(path: str | Path, spec: str | Path) -> str:
    """A path as it stands in a spec: relative to the spec's directory."""
    return os.path.relpath(Path(path).resolve(), Path(spec).resolve().parent)


def _incomplete(source: Source, graph: ADMG) -> bool:
    used = [column for column in source.table.columns if str(column) in graph and not source.table[column].isna().all()]
    return bool(source.table[used].isna().any(axis=None)) if used else False


def _data(sources: Sequence[Source], graph: ADMG) -> CommentedSeq:
    entries = CommentedSeq()
    for source in sources:
        entry = CommentedMap(path=source.path)
        columns = [str(column) for column in source.table.columns]
        rows = len(source.table)
        comments = [f"{rows:,} rows"]
        if source.do:
            entry["do"] = _flow(list(source.do))
        if source.na_values:
            entry["na_values"] = _flow(list(source.na_values))
        if _incomplete(source, graph):
            used = [column for column in source.table.columns if str(column) in graph]
            lost = int(source.table[used].dropna(axis=1, how="all").isna().any(axis=1).sum())
            entry["dropna"] = True
            entry.yaml_add_eol_comment(f"{lost:,} with missing values left out", "dropna")
        strangers = [column for column in columns if column not in graph]
        if strangers:
            comments.append(f"not in the graph: {_some(strangers)}")
        missing = [name for name in graph.nodes if name not in columns or bool(source.table[name].isna().all())]
        if missing:
            comments.append(f"not observed: {_some(missing)}")
        entry.yaml_add_eol_comment("; ".join(comments), "path")
        entries.append(entry)
    return entries


def _variable(variable: Variable, sources: Sequence[Source]) -> tuple[CommentedMap, str]:
    entry = CommentedMap(kind=variable.kind)
    entry.fa.set_flow_style()
    columns = [source.table[variable.name] for source in sources if variable.name in source.table.columns]
    rows = sum(int(column.notna().sum()) for column in columns)
    if variable.levels is not None:
        shown = ", ".join(str(level) for level in variable.levels[:_MOST_LEVELS])
        more = ", ..." if len(variable.levels) > _MOST_LEVELS else ""
        return entry, _line(f"{len(variable.levels)} levels in {rows:,} rows: {shown}{more}")
    if variable.span is not None and variable.origin is None:
        return entry, f"{variable.span[0]:.6g} to {variable.span[1]:.6g} in {rows:,} rows"
    if variable.origin is not None:
        return entry, f"dates, as days since {variable.origin}, in {rows:,} rows"
    return entry, f"{rows:,} rows"


def _flow(names: list[str]) -> CommentedSeq:
    entries = CommentedSeq(names)
    entries.fa.set_flow_style()
    return entries


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return _line(", ".join(names[:_MOST_NAMED]) + more)


def _line(text: str) -> str:
    # a comment ends with the line, whatever a name or level holds
    return "".join(character if character.isprintable() else "?" for character in text)
