"""spec.yaml: description of a training run, checked before the run starts, with error messages that name the line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.parser import RoundTripParser

from mdcm.data import (
    Dataset,
    Kind,
    Schema,
    names_pictures,
    read_array,
    read_images,
    read_pictures,
    read_table,
    validate,
)
from mdcm.data.levels import listing
from mdcm.data.variables import suggestion
from mdcm.errors import DataError, MdcmError
from mdcm.graph import ADMG
from mdcm.planning import Method, Objective
from mdcm.storage.disk import as_path
from mdcm.text.advice import addressing
from mdcm.text.limits import LARGEST_SEED, MOST, MOST_PIXELS
from mdcm.text.printable import quoted
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from pydantic_core import ErrorDetails


__all__ = ["DataEntry", "Spec", "SpecError", "TrainEntry", "VariableEntry", "dataset_names", "read_spec"]

# keys and list indices that lead to an entry of the document
KeyPath = tuple[str | int, ...]

# room for the largest graphs and their variables; a spec of the maximal size is read in 2 s
_MOST_CHARACTERS = 1 << 22
_MOST_EVENTS = 25_000
_DEEPEST = 40
# largest number of values after aliases are expanded
_MOST_VALUES = 100_000
_MOST_PROBLEMS = 10

_EXPECTED = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "string_type": "must be text",
}

_NO_PATH = "no_path"


class SpecError(MdcmError, ValueError):
    """A spec.yaml cannot be used.

    Attributes:
        path: The file.
        line: Line of the problem, from 1; None if it concerns the whole file.
        column: Column in that line, from 1.
    """

    def __init__(self, message: str, *, path: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.line = line
        self.column = column


def _names(value: Any) -> Any:
    # a single name may be given without a list
    return [value] if isinstance(value, str) else value


def _levels(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(level, bool | int | float | str) for level in value):
        raise ValueError("levels are a list of texts, numbers, or true and false")
    if not value or len(set(value)) < len(value):
        raise ValueError("levels must be distinct, and at least one")
    return value


def _shape(value: Any) -> Any:
    if not isinstance(value, list) or len(value) != 3 or not all(type(size) is int and size > 0 for size in value):
        raise ValueError("a shape is three whole numbers, [channels, height, width]")
    if math.prod(value) > MOST_PIXELS:
        raise ValueError(f"an image has at most {MOST_PIXELS:,} numbers")
    return value


def _objective(value: Any) -> Any:
    words = list(value.values()) if isinstance(value, dict) else [value]
    if not all(word in get_args(Objective) for word in words):
        raise ValueError(f"an objective is one of {', '.join(get_args(Objective))}, for all variables or by variable")
    return value


class _Parser(RoundTripParser):
    """YAML parser that limits the number and the nesting of entries."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._events = self._depth = 0

    def get_event(self) -> Any:
        """Next event; raise if there are too many."""
        event = super().get_event()
        self._events += 1
        self._depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if self._events > _MOST_EVENTS:
            raise _TooLargeError(f"it has more than {_MOST_EVENTS:,} entries", event.start_mark)
        if self._depth > _DEEPEST:
            raise _TooLargeError(f"its entries are nested more than {_DEEPEST} deep", event.start_mark)
        return event


class _TooLargeError(Exception):
    def __init__(self, reason: str, mark: Any = None) -> None:
        super().__init__(reason)
        self.position = (None, None) if mark is None else (mark.line + 1, mark.column + 1)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataEntry(_Entry):
    """One data set of a spec.

    Attributes:
        path: Table: .csv, .tsv or .parquet; optional if there are images or arrays.
        do: Names of the variables that were set by intervention.
        images: Files of image arrays by variable: .npy, or IDX, which may be compressed by gzip.
        arrays: Files of numbers by variable, of the same formats: ``[n]`` is a column, ``[n, size]`` a vector.
        name: Name in messages and in the plan; that of the file by default.
        groups: Column with the group of every row.
        weights: Column with the weight of every row.
        channels_last: Whether the image arrays are ``[n, h, w, c]``.
        dropna: Whether to drop rows with missing values instead of refusing them.
        na_values: Texts in the table that stand for a missing value, besides an empty cell.
    """

    path: str | None = None
    do: Annotated[list[str], BeforeValidator(_names)] = Field(default_factory=list)
    images: dict[str, str] = Field(default_factory=dict)
    arrays: dict[str, str] = Field(default_factory=dict)
    name: str | None = None
    groups: str | None = None
    weights: str | None = None
    channels_last: bool = False
    dropna: bool = False
    na_values: Annotated[list[str], BeforeValidator(_names)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _holds_something(self) -> DataEntry:
        if self.path == "" or (self.path is None and not self.images and not self.arrays):
            raise PydanticCustomError(_NO_PATH, "path")
        return self

    @property
    def file(self) -> str:
        """The table, or the first of the other files."""
        return self.path or [*self.images.values(), *self.arrays.values()][0]


class VariableEntry(_Entry):
    """Declared properties of a variable, which override the inferred ones.

    Attributes:
        kind: Kind of the variable.
        levels: Levels of a categorical variable, in the order wanted.
        shape: Channels, height and width of an image.
        size: Number of entries of a vector.
    """

    kind: Kind | None = None
    levels: Annotated[list[bool | int | float | str] | None, BeforeValidator(_levels)] = None
    shape: Annotated[tuple[int, int, int] | None, BeforeValidator(_shape)] = None
    size: int | None = Field(default=None, ge=1, le=MOST["size"])

    @model_validator(mode="after")
    def _agrees(self) -> VariableEntry:
        if self.levels is not None and self.kind not in {None, "categorical"}:
            raise ValueError(f"a variable that is {self.kind} has no levels")
        if self.shape is not None and self.kind not in {None, "image"}:
            raise ValueError(f"a variable that is {self.kind} has no shape")
        if self.size is not None and self.kind not in {None, "continuous", "implicit"}:
            raise ValueError(f"a variable that is {self.kind} has no size")
        return self


class _TrainEntry(_Entry):
    """Settings of the training: seed, size of the ensemble, and the settings of :class:`mdcm.TrainConfig`.

    Attributes:
        seed: Seed of everything random.
        ensemble: Number of models of the ensemble for intervals of answers; none by default.
    """

    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    ensemble: int = Field(default=0, ge=0, le=MOST["ensemble"])

    def config(self) -> TrainConfig:
        """The settings without seed and ensemble.

        Raises:
            ValueError: If a setting is out of range.
        """
        return TrainConfig.from_json(self.model_dump(exclude={"seed", "ensemble"}))


if TYPE_CHECKING:
    TrainEntry = _TrainEntry
else:
    _TYPES = get_type_hints(TrainConfig) | {"adversarial": dict[str, Any] | None}
    TrainEntry = create_model(
        "TrainEntry",
        __base__=_TrainEntry,
        **{entry.name: (_TYPES[entry.name], entry.default) for entry in fields(TrainConfig)},
    )


@dataclass(frozen=True)
class _Origin:
    """Source of a spec: a file, or arguments of a command, which have no lines."""

    path: Path | None
    raw: Any = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Directory that paths are relative to."""
        return Path() if self.path is None else self.path.parent

    def position(self, keys: KeyPath) -> tuple[int | None, int | None]:
        """Line and column of an entry, or of the innermost one around it that exists."""
        line = column = None
        node: Any = self.raw
        for part in keys:
            try:
                marks = node.lc
                if isinstance(node, dict):
                    key = next(key for key in node if str(key) == str(part))
                    line, column = marks.key(key)
                    node = node[key]
                else:
                    line, column = marks.item(part)
                    node = node[part]
            except (AttributeError, KeyError, IndexError, TypeError, StopIteration):
                break
        return (None, None) if line is None or column is None else (line + 1, column + 1)

    def where(self, keys: KeyPath) -> str:
        line, column = self.position(keys)
        return str(self.path) if line is None else f"{self.path}:{line}:{column}"

    def error(self, message: str, keys: KeyPath) -> SpecError:
        line, column = self.position(keys)
        where = "" if self.path is None else f"{self.where(keys)}: "
        return SpecError(f"{where}{message}", path=str(self.path or ""), line=line, column=column)

    @contextmanager
    def naming(self, *keys: str | int) -> Iterator[None]:
        """Begin the message of an error with the file, line and column of an entry."""
        if self.path is None:
            yield
            return
        try:
            yield
        except MdcmError as error:
            error.args = (f"{self.where(keys)}: {error}",)
            raise


class Spec(_Entry):
    """A training run: a graph, data, and settings.

    Made by :func:`read_spec` from a file, or by :meth:`of_arguments` from the arguments of a command.

    Attributes:
        graph: Text of the graph, or path of a file.
        data: Data sets.
        variables: Declared properties, by variable.
        objective: Objective of the plan, for all variables or by variable.
        method: Method of the plan.
        train: Settings of the training.
    """

    graph: str
    data: list[DataEntry] = Field(min_length=1)
    variables: dict[str, VariableEntry] = Field(default_factory=dict)
    objective: Annotated[Objective | dict[str, Objective], BeforeValidator(_objective)] = "auto"
    method: Method = "minimal"
    train: TrainEntry = Field(default_factory=TrainEntry)

    _origin: _Origin = PrivateAttr(default_factory=lambda: _Origin(Path("spec.yaml")))

    @classmethod
    def of_arguments(cls, graph: str, data: Sequence[DataEntry], kinds: Mapping[str, Kind] | None = None) -> Spec:
        """Make a spec of a graph and tables; paths are relative to the current directory.

        Args:
            graph: Text of the graph, or path of its file.
            data: The data sets, at least one.
            kinds: Kinds that override the inferred ones, by variable.
        """
        spec = cls(
            graph=graph,
            data=list(data),
            variables={name: VariableEntry(kind=kind) for name, kind in (kinds or {}).items()},
        )
        spec._origin = _Origin(None)
        return spec

    @property
    def folder(self) -> Path:
        """Directory that paths are relative to."""
        return self._origin.folder

    @property
    def graph_file(self) -> Path | None:
        """File of the graph; None if the spec holds its text."""
        # longer than any path: the operating system would raise an error
        if len(self.graph) >= 1000 or "\0" in self.graph:
            return None
        file = self.folder / self.graph
        return file if file.is_file() else None

    def load_graph(self) -> ADMG:
        """Read the graph from its text, or from the file that it names, relative to the spec.

        Raises:
            GraphError: If it is not an ADMG.
            SpecError: If a name in ``variables`` or ``objective`` is not a node of the graph.
        """
        origin = self._origin
        with origin.naming("graph"):
            file = self.graph_file
            graph = ADMG.parse_or_read(self.graph if file is None else str(file))
        sections: dict[str, Iterable[str]] = {"variables": self.variables}
        if not isinstance(self.objective, str):
            sections["objective"] = self.objective
        for section, names in sections.items():
            for name in names:
                if name not in graph:
                    hint = suggestion(name, graph.nodes) or f"; its nodes are {listing(graph.nodes)}"
                    what = f"{section}: " if origin.path is not None else ""
                    raise origin.error(f"{what}{name!r} is not a node of the graph{hint}", (section, name))
        return graph

    @property
    def file(self) -> Path | None:
        """File that the spec was read from, or None."""
        return self._origin.path

    def files(self) -> list[Path]:
        """All files that the spec names, without the pictures named in tables."""
        named = [file for entry in self.data for file in (entry.path, *entry.images.values(), *entry.arrays.values())]
        graph = self.graph_file
        return ([] if graph is None else [graph]) + [self.folder / file for file in named if file is not None]

    def load_tables(self) -> list[pd.DataFrame | None]:
        """Read the table of every data set, paths relative to the spec; None for a data set without one.

        Raises:
            DataError: With file, line and column of the spec, if a file cannot be read.
        """
        tables: list[pd.DataFrame | None] = []
        for index, entry in enumerate(self.data):
            if entry.path is None:
                tables.append(None)
                continue
            with self._origin.naming("data", index, "path"):
                tables.append(read_table(self._origin.folder / entry.path, na_values=entry.na_values))
        return tables

    def load_data(
        self,
        tables: Sequence[pd.DataFrame | None] | None = None,
        *,
        is_checked: bool = True,
        unobserved: Collection[str] = (),
        progress: bool = False,
        guard: Callable[[Path], None] | None = None,
    ) -> list[Dataset]:
        """Read the data sets, paths relative to the spec, and check them against the graph and each other.

        A column of file names is read as images if the variable is declared an image, or if nothing is declared and
        the names are those of existing pictures; their paths are relative to the table.

        Args:
            tables: Result of :meth:`load_tables`, if that was called before.
            is_checked: Whether to refuse data that :func:`mdcm.fit` would refuse, with their position in the file.
            unobserved: Variables that may be missing from all data sets.
            progress: Whether to show on a terminal how many pictures are read.
            guard: Called with the path of every picture before it is opened; it may raise.

        Raises:
            DataError: With file, line and column of the spec, if a file cannot be read or a table cannot be used.
            GraphError: If the graph is not an ADMG.
            SpecError: As :meth:`load_graph`.
        """
        graph = self.load_graph()
        names = dataset_names([entry.file for entry in self.data])
        tables = self.load_tables() if tables is None else tables
        with addressing("spec") if self._origin.path is not None else nullcontext():
            datasets = [
                self._load(index, table, graph.nodes, self.data[index].name or names[index], progress, guard)
                for index, table in enumerate(tables)
            ]
            if is_checked:
                self._check(datasets, graph.nodes, unobserved)
        return datasets

    def _load(
        self,
        index: int,
        table: pd.DataFrame | None,
        nodes: Sequence[str],
        label: str | None,
        progress: bool,
        guard: Callable[[Path], None] | None,
    ) -> Dataset:
        naming, base, entry = self._origin.naming, self._origin.folder, self.data[index]
        images: dict[str, Any] = {}
        for name, file in entry.images.items():
            with naming("data", index, "images", name):
                images[name] = read_images(base / file)
        arrays: dict[str, Any] = {}
        for name, file in entry.arrays.items():
            with naming("data", index, "arrays", name):
                arrays[name] = read_array(base / file)
        rows: NDArray[np.int64] | None = None
        if table is not None and entry.path is not None:
            table = table.copy(deep=False)
            folder = (base / entry.path).parent
            for name in nodes:
                if name not in table.columns or name in images or not self._is_picture(name, table[name], folder):
                    continue
                with naming("data", index, "path"):
                    files = table.pop(name)
                    if entry.dropna and files.isna().any():
                        kept = files.notna().to_numpy()
                        files, table = files[kept], table[kept]
                        rows = np.flatnonzero(kept) if rows is None else rows[kept]
                        images = {key: array[kept] for key, array in images.items()}
                        arrays = {key: array[kept] for key, array in arrays.items()}
                    if guard is not None:
                        for file in files.unique():
                            guard(folder / str(file))
                    shape = self.variables[name].shape if name in self.variables else None
                    pictures = read_pictures(files, folder, shape, progress=progress)
                    images[name] = np.moveaxis(pictures, 1, 3) if entry.channels_last else pictures
        with self._naming_entry(index):
            dataset = Dataset(
                table if table is not None and len(table.columns) else None,
                do=entry.do,
                images=images or None,
                arrays=arrays or None,
                groups=entry.groups,
                weights=entry.weights,
                name=label,
                channels_last=entry.channels_last,
                dropna=entry.dropna,
                na_values=entry.na_values,
            )
        dataset.rows = rows
        return dataset

    def _is_picture(self, name: str, column: pd.Series[Any], folder: Path) -> bool:
        """Whether a column holds names of pictures: as declared, or as inferred if nothing is declared."""
        declared = self.variables.get(name)
        if declared is not None and (declared.kind is not None or declared.levels is not None):
            return declared.kind == "image"
        return (declared is not None and declared.shape is not None) or names_pictures(column, folder)

    def _check(self, datasets: Sequence[Dataset], nodes: Sequence[str], unobserved: Collection[str]) -> None:
        """Refuse data that :func:`mdcm.fit` would refuse, with their position in the file."""
        labels = [dataset.name or f"d{number}" for number, dataset in enumerate(datasets, start=1)]
        try:
            with warnings.catch_warnings():
                # the same warnings are given when the model is fitted
                warnings.simplefilter("ignore", UserWarning)
                checked = validate(datasets, nodes, unobserved=unobserved)
                Schema.infer(checked, self.declared())
        except DataError as error:
            if error.dataset in labels:
                with self._naming_entry(labels.index(error.dataset)):
                    raise
            with self._origin.naming(*(("variables", error.column) if error.column in self.variables else ("data",))):
                raise

    @contextmanager
    def _naming_entry(self, index: int) -> Iterator[None]:
        """Begin the message of an error with the position of the entry that mentions its column."""
        entry = self.data[index]
        try:
            yield
        except DataError as error:
            keys: KeyPath = ("data", index)
            named: dict[str, Iterable[str]] = {"images": entry.images, "arrays": entry.arrays, "do": entry.do}
            named |= {"groups": [entry.groups or ""], "weights": [entry.weights or ""]}
            for key, columns in named.items():
                if error.column is not None and error.column in columns:
                    keys = (*keys, key, error.column) if key in {"images", "arrays"} else (*keys, key)
                    break
            with self._origin.naming(*keys):
                raise

    def declared(self) -> dict[str, dict[str, Any]]:
        """The argument ``variables`` of :func:`mdcm.fit`."""
        return {name: entry.model_dump(exclude_none=True) for name, entry in self.variables.items()}


def dataset_names(paths: Sequence[str]) -> list[str | None]:
    """Names of data sets read from files: the names of the files, or None if two are equal.

    Example:
        >>> dataset_names(["data/observed.csv", "data/trial.csv"])
        ['observed.csv', 'trial.csv']
    """
    names = [Path(path).name for path in paths]
    return [*names] if len(set(names)) == len(names) else [None] * len(names)


def read_spec(path: str | Path) -> Spec:
    """Read and check a spec.yaml.

    Args:
        path: The file, UTF-8.

    Returns:
        The spec; the graph and the data that it names are not read yet.

    Raises:
        SpecError: With file, line and column, if the file is not YAML, or an entry is unknown, missing or of another
            type.
    """
    file = as_path(path, lambda message: SpecError(message, path=str(path)))
    origin = _Origin(file)
    try:
        with file.open(encoding="utf-8-sig") as stream:
            text = stream.read(_MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise origin.error(f"the spec cannot be read: {reason}", ()) from None
    if len(text) > _MOST_CHARACTERS:
        raise origin.error(f"the spec cannot be read: it has more than {_MOST_CHARACTERS:,} characters", ())
    reader = YAML(typ="rt")
    reader.Parser = _Parser
    try:
        raw = reader.load(text)
        plain = _plain(raw, iter(range(_MOST_VALUES)))
    except _TooLargeError as error:
        line, column = error.position
        where = origin.path if line is None else f"{origin.path}:{line}:{column}"
        raise SpecError(f"{where}: the spec is too large: {error}", path=str(path), line=line, column=column) from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (None, None) if mark is None else (mark.line + 1, mark.column + 1)
        where = file if mark is None else f"{file}:{line}:{column}"
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{where}: no valid YAML: {reason}", path=str(path), line=line, column=column) from None
    except RecursionError:
        raise origin.error("the entries are nested too deeply", ()) from None
    except Exception as error:
        # for example a key that is itself a mapping with a list in it
        reason = " ".join(str(error).split()) or type(error).__name__
        if "integer string conversion" in reason:
            # Python's message names a setting of the interpreter
            reason = "it holds a whole number of thousands of digits"
        raise origin.error(f"no valid YAML: {reason}", ()) from None
    if not isinstance(plain, dict):
        raise origin.error(
            "no spec, which is a mapping with the entries 'graph' and 'data'; mdcm init writes one for a graph and "
            "tables",
            (),
        )
    origin = _Origin(file, raw)
    try:
        spec = Spec.model_validate(plain)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
        problems.sort(key=lambda problem: origin.position(problem[0])[0] or 0)
        first = origin.error(problems[0][1], problems[0][0])
        others = [f"{origin.where(keys)}: {message}" for keys, message in problems[1:_MOST_PROBLEMS]]
        if len(problems) > _MOST_PROBLEMS:
            others.append(f"and {len(problems) - _MOST_PROBLEMS:,} more")
        raise SpecError(
            "\n".join([str(first), *others]), path=str(path), line=first.line, column=first.column
        ) from None
    spec._origin = origin
    try:
        spec.train.config()
    except ValueError as error:
        # the message starts with the name of the setting
        raise origin.error(f"train: {error}", ("train", str(error).split()[0].rstrip(":"))) from None
    return spec


def _plain(value: Any, left: Iterator[int]) -> Any:
    """Plain values without ruamel's formatting; raise if there are more than ``left``."""
    if next(left, None) is None:
        raise _TooLargeError(f"with its aliases written out it has more than {_MOST_VALUES:,} values")
    if isinstance(value, dict):
        return {str(key): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, left) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _problem(detail: ErrorDetails) -> tuple[KeyPath, str]:
    """Position and message of a problem, in terms of the file rather than of Python."""
    keys: KeyPath = tuple(detail["loc"])
    name = ".".join(str(part) for part in keys)
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        known = _entries(keys[:-1])
        hint = suggestion(str(keys[-1]), known)
        return keys, f"{name}: unknown entry; known are {', '.join(known)}{hint}"
    if kind == _NO_PATH:
        return keys, f"the entry '{name}.path' is missing (or images, or arrays)"
    if kind == "missing":
        return keys[:-1], f"the entry {name!r} is missing"
    if kind == "model_type":
        return keys, f"{name} must be a mapping with entries such as {', '.join(_entries(keys))}, not {quoted(given)}"
    if kind == "too_short":
        return keys, f"{name} must not be empty"
    if kind == "greater_than_equal":
        return keys, f"{name} must be at least {detail['ctx']['ge']}, not {quoted(given)}"
    if kind == "less_than_equal":
        return keys, f"{name} must be at most {detail['ctx']['le']:,}, not {quoted(given)}"
    if kind == "literal_error":
        return keys, f"{name} must be {detail['ctx']['expected']}, not {quoted(given)}"
    if kind == "value_error":
        return keys, f"{name}: {detail['msg'].removeprefix('Value error, ')}; it is {quoted(given)}"
    return keys, f"{name} {_EXPECTED.get(kind, detail['msg'])}, not {quoted(given)}"


def _entries(keys: Sequence[str | int]) -> list[str]:
    """Names of the entries that a mapping may have."""
    models: dict[str, type[BaseModel]] = {"data": DataEntry, "variables": VariableEntry, "train": TrainEntry}
    return list((models[str(keys[0])] if keys else Spec).model_fields)
