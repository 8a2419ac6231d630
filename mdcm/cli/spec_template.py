"""Drafts of spec.yaml: inferred entries written out, with comments for the user."""

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

# largest column of comments
_COLUMN = 60


@dataclass(frozen=True)
class _Source:
    """A data set of a draft: its entry in the spec, its table as read, and the data set made of both."""

    entry: DataEntry
    table: pd.DataFrame | None
    dataset: Dataset


def draft_spec(spec: Spec, target: str | Path = "spec.yaml", *, progress: bool = False) -> str:
    """Write a complete commented spec.yaml, with all entries that a spec leaves to inference.

    Kinds are those that :func:`mdcm.fit` would infer, written out so that they can be checked and changed. Data sets
    with missing values get ``dropna: true``, with the number of dropped rows in a comment.

    Args:
        spec: The spec, for example from :meth:`Spec.of_arguments`.
        target: Path of the draft; its paths are relative to its directory.
        progress: Whether to show on a terminal how many pictures are read.

    Returns:
        The text of the spec.

    Raises:
        DataError: If the data cannot be used, for example if no table has a variable of the graph.
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
        # the comments state what is dropped
        warnings.simplefilter("ignore", Notice)
        datasets = validate(loaded, graph.nodes, latents=dict(graph.latents))
        schema = Schema.infer(datasets, spec.declared(), order=graph.nodes)
    draft = CommentedMap()
    file = spec.graph_file
    draft["graph"] = graph.to_string() if file is None else relative(file, target)
    draft["data"] = _data(sources, graph, spec.folder, target)
    variables, comments = CommentedMap(), {}
    for name in graph.nodes:
        variables[name], comments[name] = _variable(schema[name], spec.variables.get(name), sources)
    # align comments in one column, unless lines are long
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
    """Path relative to the directory of a spec."""
    return os.path.relpath(Path(path).resolve(), Path(spec).resolve().parent)


def _incomplete(table: pd.DataFrame, graph: ADMG) -> pd.Series[bool]:
    """Whether each row lacks a value that the graph needs; a column without any value counts as not observed."""
    used = [column for column in table.columns if str(column) in graph and not table[column].isna().all()]
    return table[used].isna().any(axis=1)


def _data(sources: Sequence[_Source], graph: ADMG, folder: Path, target: str | Path) -> CommentedSeq:
    entries = CommentedSeq()
    for source in sources:
        given = source.entry.model_dump(exclude_defaults=True)
        if "path" in given:
            given["path"] = relative(folder / given["path"], target)
        for key in {"images", "arrays"} & given.keys():
            given[key] = {name: relative(folder / file, target) for name, file in given[key].items()}
        entry = CommentedMap({key: _flow(value) if isinstance(value, list) else value for key, value in given.items()})
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
        latents = [name for name in strangers if name in dict(graph.latents)]
        strangers = [name for name in strangers if name not in latents]
        if latents:
            comments.append(f"declared latent in the graph: {_some(latents)}")
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
    match = re.fullmatch(r"(.*)\[\d+\]", name, flags=re.DOTALL)
    return match is not None and match[1] in graph


def _variable(
    variable: Variable, declared: VariableEntry | None, sources: Sequence[_Source]
) -> tuple[CommentedMap, str]:
    entry = CommentedMap(kind=variable.kind)
    if declared is not None:
        given = declared.model_dump(exclude_none=True)
        entry.update({key: _flow(value) if isinstance(value, list | tuple) else value for key, value in given.items()})
    entry.fa.set_flow_style()
    name = variable.name
    tables = [source.dataset.table for source in sources]
    rows = sum(int(table[name].notna().sum()) for table in tables if name in table.columns)
    datasets = [source.dataset for source in sources]
    rows += sum(len(dataset) for dataset in datasets if name in dataset.images or name in dataset.arrays)
    if variable.levels is not None:
        shown = ", ".join(_level(level) for level in variable.levels[:_MOST_LEVELS])
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


def _level(level: object) -> str:
    # a text with a comma would read as two levels
    return repr(level) if isinstance(level, str) and ("," in level or not level.strip()) else str(level)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return _line(", ".join(names[:_MOST_NAMED]) + more)


def _line(text: str) -> str:
    # a line break in a name would end the comment
    return "".join(character if character.isprintable() else "?" for character in text)
