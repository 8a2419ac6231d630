"""Drafts of spec.yaml: what a table and a graph say already, with comments for whoever goes on from there."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from mdcm.data import Dataset, Schema, validate
from mdcm.graph import ADMG
from mdcm.text.advice import Notice

if TYPE_CHECKING:
    from mdcm.cli.spec import DataEntry, Spec, VariableEntry
    from mdcm.data.variables import Variable

__all__ = ["draft_spec", "relative"]

_MOST_NAMED = 8
_MOST_LEVELS = 12

# where comments stand at most
_COLUMN = 60


@dataclass(frozen=True)
class _Source:
    """A data set that a draft is about: what its spec says of it, its table as it was read, and what is made of it."""

    entry: DataEntry
    table: pd.DataFrame | None
    dataset: Dataset


def draft_spec(spec: Spec, target: str | Path = "spec.yaml", *, progress: bool = False) -> str:
    """A commented spec.yaml that says all of what a spec leaves to be inferred, as it can be trained.

    Kinds are those that :func:`mdcm.fit` would infer, written out so that they can be seen and changed. Data sets with
    missing values get ``dropna: true``, with a comment that says how many rows that leaves out.

    Args:
        spec: What was given, such as by :meth:`Spec.of_arguments`.
        target: Where the draft will be, which its paths are relative to.
        progress: Whether to show on a terminal how many pictures are read.

    Returns:
        The text of the spec.

    Raises:
        DataError: If the data cannot be used, such as where a variable of the graph is in no table.
        GraphError: If the graph cannot be read.

    Example:
        >>> import os, tempfile
        >>> from mdcm.cli.spec import DataEntry, Spec
        >>> path = Path(tempfile.mkdtemp(), "data.csv")
        >>> pd.DataFrame({"X": [0, 1, 1], "Y": [0.5, 1.5, 2.25]}).to_csv(path, index=False)
        >>> print(draft_spec(Spec.of_arguments("X -> Y", [DataEntry(path=str(path))])))  # doctest: +ELLIPSIS
        # What is trained on what...
        graph: X -> Y
        ...
    """
    graph, tables = spec.load_graph(), spec.load_tables()
    for entry, table in zip(spec.data, tables, strict=True):
        entry.dropna = entry.dropna or (table is not None and bool(_incomplete(table, graph).any()))
    loaded = spec.load_data(tables, is_checked=False, progress=progress)
    sources = [_Source(*parts) for parts in zip(spec.data, tables, loaded, strict=True)]
    with warnings.catch_warnings():
        # what is left out stands in the comments
        warnings.simplefilter("ignore", Notice)
        schema = Schema.infer(validate(loaded, graph.nodes), spec.declared(), order=graph.nodes)
    draft = CommentedMap()
    file = spec.graph_file
    draft["graph"] = graph.to_string() if file is None else relative(file, target)
    draft["data"] = _data(sources, graph, spec.folder, target)
    variables, comments = CommentedMap(), {}
    for name in graph.nodes:
        variables[name], comments[name] = _variable(schema[name], spec.variables.get(name), sources)
    # comments in one column, where that is near
    widest = max((len(line) for line in _written(variables).splitlines()), default=0)
    for name, comment in comments.items():
        variables.yaml_add_eol_comment(comment, name, column=min(widest, _COLUMN) + 4)
    draft["variables"] = variables
    for key, value in spec.model_dump(include={"objective", "method"}, exclude_defaults=True).items():
        draft[key] = value
    train = CommentedMap({"seed": spec.train.seed, **spec.train.model_dump(exclude_defaults=True)})
    train.yaml_set_comment_before_after_key(
        "seed",
        before="ensemble: 20            # models to train besides, for intervals of answers\n"
        "max_minutes: 30         # stop after that\n"
        "checkpoint_seconds: 60  # how often a run that is killed can be resumed from",
        indent=2,
    )
    draft["train"] = train
    draft.yaml_set_start_comment(
        "What is trained on what; `mdcm train` reads it. Only graph and data are needed: all else is what\n"
        "would be inferred, and can be changed. Paths are relative to this file.\n"
    )
    draft.yaml_set_comment_before_after_key("graph", before="\nX -> Y is a cause, X <-> Y a hidden common cause")
    draft.yaml_set_comment_before_after_key("data", before="\ndo: [X] on a table of an experiment that set X")
    draft.yaml_set_comment_before_after_key(
        "variables",
        before="\nkinds: categorical, continuous (has a density), implicit (has none), image.\n"
        "levels: [low, high] puts levels in an order of your own.",
    )
    draft.yaml_set_comment_before_after_key("train", before="\nsettings of the training")
    return _written(draft)


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


def _incomplete(table: pd.DataFrame, graph: ADMG) -> pd.Series[bool]:
    """Whether each row lacks a value that the graph needs; a column without any value counts as not observed."""
    used = [column for column in table.columns if str(column) in graph and not table[column].isna().all()]
    return table[used].isna().any(axis=1)


def _data(sources: Sequence[_Source], graph: ADMG, folder: Path, target: str | Path) -> CommentedSeq:
    entries = CommentedSeq()
    for source in sources:
        said = source.entry.model_dump(exclude_defaults=True)
        if "path" in said:
            said["path"] = relative(folder / said["path"], target)
        for key in {"images", "arrays"} & said.keys():
            said[key] = {name: relative(folder / file, target) for name, file in said[key].items()}
        entry = CommentedMap({key: _flow(value) if isinstance(value, list) else value for key, value in said.items()})
        table = source.table
        columns = [*source.dataset.images, *source.dataset.arrays]
        rows = len(source.dataset)
        if table is not None:
            columns, rows = [*map(str, table.columns), *columns], len(table)
            lost = int(_incomplete(table, graph).sum())
            if lost:
                entry.yaml_add_eol_comment(f"{lost:,} with missing values left out", "dropna")
            empty = [str(name) for name in table.columns if table[name].isna().all()]
            columns = [name for name in columns if name not in empty or name not in graph]
        comments = [f"{rows:,} rows"]
        helpers = {source.entry.groups, source.entry.weights}
        strangers = [
            name for name in columns if name not in graph and name not in helpers and not _is_part(name, graph)
        ]
        if strangers:
            comments.append(f"not in the graph: {_some(strangers)}")
        missing = [name for name in graph.nodes if name not in columns and f"{name}[0]" not in columns]
        if missing:
            comments.append(f"not observed: {_some(missing)}")
        entry.yaml_add_eol_comment("; ".join(comments), next(iter(entry)))
        entries.append(entry)
    return entries


def _is_part(name: str, graph: ADMG) -> bool:
    """Whether a column is an entry of a vector, as W[0] is of W."""
    found = re.fullmatch(r"(.*)\[\d+\]", name, flags=re.DOTALL)
    return found is not None and found[1] in graph


def _variable(
    variable: Variable, declared: VariableEntry | None, sources: Sequence[_Source]
) -> tuple[CommentedMap, str]:
    entry = CommentedMap(kind=variable.kind)
    if declared is not None:
        own = declared.model_dump(exclude_none=True)
        entry.update({key: _flow(value) if isinstance(value, list | tuple) else value for key, value in own.items()})
    entry.fa.set_flow_style()
    name = variable.name
    tables = [source.dataset.table for source in sources]
    rows = sum(int(table[name].notna().sum()) for table in tables if name in table.columns)
    rows += sum(len(one.dataset) for one in sources if name in one.dataset.images or name in one.dataset.arrays)
    if variable.levels is not None:
        shown = ", ".join(str(level) for level in variable.levels[:_MOST_LEVELS])
        more = ", ..." if len(variable.levels) > _MOST_LEVELS else ""
        plural = "levels" if len(variable.levels) > 1 else "level"
        return entry, _line(f"{len(variable.levels)} {plural} in {rows:,} rows: {shown}{more}")
    if variable.shape is not None:
        channels, height, width = variable.shape
        return entry, f"{height} x {width} pixels with {channels} channel{'s' * (channels > 1)}, in {rows:,} rows"
    if variable.span is not None and variable.origin is None:
        return entry, f"{variable.span[0]:.6g} to {variable.span[1]:.6g} in {rows:,} rows"
    if variable.origin is not None:
        return entry, f"dates, as days since {variable.origin}, in {rows:,} rows"
    return entry, f"{rows:,} rows"


def _flow(names: Sequence[Any]) -> CommentedSeq:
    entries = CommentedSeq(list(names))
    entries.fa.set_flow_style()
    return entries


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return _line(", ".join(names[:_MOST_NAMED]) + more)


def _line(text: str) -> str:
    # a comment ends with the line, whatever a name or level holds
    return "".join(character if character.isprintable() else "?" for character in text)
