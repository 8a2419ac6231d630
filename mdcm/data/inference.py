"""The variables of a model, and inference of their kinds and levels from data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from mdcm.data.dataset import blocks
from mdcm.data.levels import Level, aligned, level_type, listing, plain, sorted_levels
from mdcm.data.text_columns import FEW_LEVELS, refuse_identifiers, warn_about_texts
from mdcm.data.variables import EPOCH, Kind, Variable, are_dates, floats, refuse, storage, suggestion
from mdcm.errors import DataError
from mdcm.text.advice import warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.dataset import Dataset
    from mdcm.data.variables import Storage

__all__ = ["Schema"]

# a column of whole numbers is categorical up to FEW_LEVELS, or up to _SEVERAL_LEVELS if each occurs _OFTEN
_SEVERAL_LEVELS = 64
_OFTEN = 50
_DECLARED = ("kind", "levels", "shape", "dtype", "origin", "mean", "scale", "span", "size", "level_type")


@dataclass(frozen=True)
class _Column:
    """The column of a variable in a dataset.

    Attributes:
        dataset: The dataset.
        values: Values without missing ones.
        storage: Type of the values.
    """

    dataset: Dataset
    values: pd.Series[Any]
    storage: Storage

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> _Column:
        column = dataset.table[name]
        return cls(dataset, column.dropna(), storage(column, dataset.label, dataset.name, dataset.rows))

    @property
    def holds_dates(self) -> bool:
        """Whether the values are dates, or texts that are all dates."""
        return self.storage == "dates" or (self.storage == "str" and are_dates(self.values))


class Schema(Mapping[str, Variable]):
    """The variables of a model by name, in a fixed order.

    Args:
        variables: The variables; their names must differ.

    Example:
        >>> schema = Schema([Variable("D", "categorical", (0, 1)), Variable("A", "categorical", ("x", "y"))])
        >>> schema["A"].levels, schema.code("A", "y")
        (('x', 'y'), 1)
    """

    def __init__(self, variables: Iterable[Variable]) -> None:
        self._variables: dict[str, Variable] = {}
        for variable in variables:
            if variable.name in self._variables:
                raise DataError(f"variable {variable.name!r} is declared twice", column=variable.name)
            self._variables[variable.name] = variable

    def __getitem__(self, name: str) -> Variable:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return f"Schema({list(self._variables.values())!r})"

    @property
    def kinds(self) -> dict[str, Kind]:
        """Kind of each variable by name, for the planner."""
        return {name: variable.kind for name, variable in self.items()}

    @property
    def levels(self) -> dict[str, tuple[Level, ...]]:
        """Levels of categorical variables and spans of real variables by name, for the planner."""
        values = {
            name: variable.span if variable.levels is None else variable.levels for name, variable in self.items()
        }
        return {name: value for name, value in values.items() if value is not None}

    def code(self, name: str, value: Any) -> int | float:
        """:meth:`Variable.code` of the variable ``name``.

        Raises:
            DataError: If there is no such variable, or it cannot take the value.
        """
        return self._named(name).code(value)

    def parse(self, name: str, value: str | float) -> Level:
        """:meth:`Variable.parse` of the variable ``name``.

        Raises:
            DataError: If there is no such variable, or it cannot take the value.
        """
        return self._named(name).parse(value)

    def _named(self, name: str) -> Variable:
        if name not in self._variables:
            raise DataError(f"there is no variable {name!r}{suggestion(name, list(self))}", column=name)
        return self._variables[name]

    def to_json(self) -> list[dict[str, Any]]:
        """Plain JSON values from which :meth:`from_json` builds the same schema."""
        return [variable.to_json() for variable in self.values()]

    @classmethod
    def from_json(cls, values: Iterable[Mapping[str, Any]]) -> Schema:
        """Build a schema from values of :meth:`to_json`."""
        return cls(Variable.from_json(value) for value in values)

    @classmethod
    def infer(
        cls,
        datasets: Sequence[Dataset],
        variables: Mapping[str, Variable | Mapping[str, Any]] | None = None,
        *,
        order: Sequence[str] | None = None,
    ) -> Schema:
        """Infer kinds and levels from the columns of all datasets, unless they are declared.

        Booleans, strings, pandas categoricals and whole numbers with few distinct values are categorical; other
        numbers, dates (in days) and vectors are continuous; image arrays are images. Levels are the union over the
        datasets, in declared order for pandas categoricals and sorted otherwise. Mean and scale of a continuous
        variable are computed from all rows of the observational datasets; if there are none, of the datasets that do
        not set it; else of all. Its span covers all datasets. Strings that are ISO 8601 dates are dates if the
        variable is declared continuous.

        Args:
            datasets: The datasets.
            variables: Declarations by name that override inference: a :class:`Variable`, or a mapping with some of
                its attributes, such as "kind", "levels" and "shape".
            order: Order of the variables; by default that of the columns, then that of the declarations.

        Raises:
            DataError: If a column's values do not fit its kind, differ in type between datasets, or are strings
                with too many distinct values; if images or vectors differ in shape; if a declaration is invalid.

        Warns:
            UserWarning: If a level occurs in a single dataset only, or a declared level in no dataset.
        """
        declared = {name: _declaration(name, value) for name, value in (variables or {}).items()}
        sources: dict[str, list[Dataset]] = {}
        for dataset in datasets:
            for name in dataset.columns:
                sources.setdefault(name, []).append(dataset)
        if order is None:
            order = [*sources, *(name for name in declared if name not in sources)]
        for name in declared:
            if name not in order:
                raise DataError(f"variables: there is no variable {name!r}{suggestion(name, order)}", column=name)
        return cls(_infer(name, sources.get(name, []), declared.get(name, {})) for name in order)


def _declaration(name: str, value: Variable | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(value, Variable):
        value = {key: entry for key, entry in value.to_json().items() if entry is not None and key != "name"}
    if not isinstance(value, Mapping):
        raise DataError(f"variables: {name!r} must be declared by a mapping, not {value!r}", column=name)
    unknown = sorted(set(value) - set(_DECLARED))
    if unknown:
        raise DataError(
            f"variables: {name!r} has the unknown key {unknown[0]!r}; known are kind, levels, shape and size",
            column=name,
        )
    if "levels" in value and value.get("kind", "categorical") != "categorical":
        raise DataError(f"variables: {name!r} is declared {value['kind']} and has levels", column=name)
    if value.get("kind", "image") not in get_args(Kind):
        raise DataError(
            f"variables: {name!r} has kind {value['kind']!r}; it must be one of {', '.join(get_args(Kind))}",
            column=name,
        )
    return value


def _infer(name: str, datasets: Sequence[Dataset], declared: Mapping[str, Any]) -> Variable:
    kind: Kind | None = declared.get("kind")
    if kind is None and "levels" in declared:
        kind = "categorical"
    if not datasets:
        # a variable without data has a given mechanism, and only its declaration is known
        if kind is None:
            raise DataError(f"variable {name!r} is in no dataset; declare its kind in variables", column=name)
        return Variable.from_json({**declared, "name": name, "kind": kind})
    if any(name in dataset.images for dataset in datasets):
        return _infer_image(name, kind, datasets, declared)
    if any(name in dataset.arrays for dataset in datasets):
        return _infer_vector(name, kind, datasets, declared)
    if kind == "image":
        raise DataError(
            f"variable {name!r} is declared an image, but {datasets[0].label} holds a column: pass the arrays as "
            f"images={{{name!r}: array}}; mdcm.data.read_pictures makes them of file names",
            dataset=datasets[0].name,
            column=name,
        )

    columns = [_Column.of(dataset, name) for dataset in datasets]
    is_date = kind in ("continuous", "implicit") and all(column.holds_dates for column in columns)
    if not is_date:
        _check_same_type(name, columns)
    if kind is None:
        kind = _inferred_kind(name, columns)
    if kind == "categorical":
        return _infer_categorical(name, columns, declared)
    return _infer_real(name, kind, columns, declared)


def _infer_real(name: str, kind: Kind, columns: Sequence[_Column], declared: Mapping[str, Any]) -> Variable:
    origin = declared.get("origin")
    if origin is None and columns[0].holds_dates:
        origin = EPOCH
    for column in columns:
        is_text = column.storage == "str" and (origin is None or not are_dates(column.values))
        if is_text or column.storage in {"category", "levels"}:
            contents = {"str": "strings", "category": "categories"}.get(column.storage, "intervals or periods")
            raise DataError(
                f"variable {name!r} is declared {kind}, but column {name!r} of {column.dataset.label} holds {contents}",
                dataset=column.dataset.name,
                column=name,
            )
    dtypes = {str(column.values.dtype) for column in columns}
    # a type that needs no further packages and can hold real numbers
    has_numbers = {column.storage for column in columns} <= {"int", "float", "dates"}
    dtype = dtypes.pop() if len(dtypes) == 1 and has_numbers else None
    if dtype is not None and (dtype == "object" or "pyarrow" in dtype):
        dtype = None
    datasets, numbers = [column.dataset for column in columns], [floats(column.values, origin) for column in columns]
    if not all(len(values) for values in numbers):
        raise DataError(f"variable {name!r}: a column has no values; validate the datasets first", column=name)
    for dataset, values in zip(datasets, numbers, strict=True):
        infinite = np.isinf(values)
        refuse(infinite, f"{dataset.label}: column {name!r} has infinite values", dataset.name, name, rows=dataset.rows)
    span = (float(min(values.min() for values in numbers)), float(max(values.max() for values in numbers)))
    if span[0] == span[1] and not any(name in dataset.do for dataset in datasets):
        # a single level is a valid categorical variable, but a constant number has no scale
        raise DataError(
            f"column {name!r} is {span[0]:g} in every row of {datasets[0].label}, and constant in all datasets: "
            "nothing can be learned about it; leave it out of the graph, or declare it categorical",
            dataset=datasets[0].name,
            column=name,
        )
    mean, scale = _mean_and_scale(_natural(name, datasets, numbers))
    inferred = {"dtype": dtype, "origin": origin, "mean": float(mean), "scale": float(scale), "span": span}
    return Variable.from_json({**inferred, **declared, "name": name, "kind": kind})


def _infer_image(name: str, kind: Kind | None, datasets: Sequence[Dataset], declared: Mapping[str, Any]) -> Variable:
    if kind not in {None, "image"}:
        raise DataError(f"variable {name!r} is declared {kind}, but holds images", column=name)
    images = [dataset.images.get(name) for dataset in datasets]
    return Variable(name, "image", shape=_common_shape(name, "images", datasets, images, declared.get("shape")))


def _infer_vector(name: str, kind: Kind | None, datasets: Sequence[Dataset], declared: Mapping[str, Any]) -> Variable:
    kind = kind or "continuous"
    if kind not in ("continuous", "implicit"):
        raise DataError(f"variable {name!r} is declared {kind}, but holds vectors of numbers", column=name)
    vectors = [dataset.arrays.get(name) for dataset in datasets]
    declared_shape = (int(declared["size"]),) if declared.get("size") else None
    (size,) = _common_shape(name, "vectors", datasets, vectors, declared_shape)
    mean, scale = _mean_and_scale(_natural(name, datasets, [dataset.arrays[name] for dataset in datasets]))
    inferred = {"mean": tuple(mean.tolist()), "scale": tuple(scale.tolist())}
    return Variable.from_json({**inferred, **declared, "name": name, "kind": kind, "size": size})


def _common_shape(
    name: str,
    contents: Literal["images", "vectors"],
    datasets: Sequence[Dataset],
    arrays: Sequence[NDArray[Any] | None],
    declared: Sequence[int] | None,
) -> tuple[Any, ...]:
    """Shape of a row of an image or vector variable, which must be the same in all datasets and as declared.

    Args:
        name: Name of the variable.
        contents: Its contents, for messages.
        datasets: The datasets.
        arrays: Array of the variable in each dataset; None if it is a column.
        declared: Declared shape.
    """
    pairs = list(zip(datasets, arrays, strict=True))
    first, first_array = next((dataset, array) for dataset, array in pairs if array is not None)
    for dataset, array in pairs:
        if array is None:
            raise DataError(
                f"variable {name!r} holds {contents} in {first.label} and a column in {dataset.label}",
                dataset=dataset.name,
                column=name,
            )
    shape = first_array.shape[1:] if declared is None else tuple(declared)
    for dataset, array in pairs:
        if array is None or array.shape[1:] == shape:
            continue
        if contents == "images":
            difference = f"shape {list(array.shape[1:])} (channels, height, width), not {list(shape)}"
        else:
            difference = f"{array.shape[1]} numbers per row, not {shape[0]}"
        raise DataError(
            f"{'image' if contents == 'images' else 'array'} {name!r} of {dataset.label} has {difference} as "
            f"{'in ' + first.label if declared is None else 'declared'}",
            dataset=dataset.name,
            column=name,
        )
    return shape


def _natural(name: str, datasets: Sequence[Dataset], values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Values of the observational datasets; else of datasets that do not set the variable; else of all."""
    pairs = list(zip(datasets, values, strict=True))
    observational = [array for dataset, array in pairs if not dataset.do]
    return observational or [array for dataset, array in pairs if name not in dataset.do] or list(values)


def _mean_and_scale(parts: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the rows of all parts, per entry; a deviation of 0 becomes 1.

    Parts may be memory-mapped; they are read twice, in blocks.
    """
    low = np.minimum.reduce([block.min(axis=0) for block in _float_blocks(parts)])
    high = np.maximum.reduce([block.max(axis=0) for block in _float_blocks(parts)])
    # scaled to [-1, 1], so that squares neither overflow nor underflow
    centre, half = low / 2 + high / 2, high / 2 - low / 2
    unit = np.where(half > 0, half, 1.0)
    total, squares, rows = np.zeros_like(centre), np.zeros_like(centre), 0
    for block in _float_blocks(parts):
        scaled = (block - centre) / unit
        total, squares, rows = total + scaled.sum(axis=0), squares + np.square(scaled).sum(axis=0), rows + len(block)
    mean = total / rows
    scale = unit * np.sqrt(np.maximum(squares / rows - mean**2, 0.0))
    return centre + unit * mean, np.where(scale > 0, scale, 1.0)


def _float_blocks(arrays: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float64]]:
    for array in arrays:
        for _, block in blocks(array):
            yield np.asarray(block, dtype=np.float64)


def _check_same_type(name: str, columns: Sequence[_Column]) -> None:
    """Refuse a column whose type differs between datasets, such as strings and numbers."""
    nouns = {"bool": "booleans", "int": "numbers", "float": "numbers", "str": "strings", "dates": "dates"}
    types = []
    for column in columns:
        if column.storage != "category":
            # intervals and periods are identified by their texts
            types.append(nouns.get(column.storage, "strings"))
            continue
        # the type of the categories decides: a categorical of strings is compatible with a column of strings
        levels = {type(plain(level)) for level in column.values.cat.categories}
        types.append(nouns["bool" if levels == {bool} else "str" if str in levels else "float"])
    first = columns[0].dataset
    for column, column_type in zip(columns, types, strict=True):
        if column_type == types[0]:
            continue
        # rows with missing values count in messages, as in the user's data
        dataset, values = column.dataset, column.dataset.table[name]
        bad = values.notna()
        if types[0] == "numbers" and column_type == "strings":
            # report a text that is not a number, if any
            not_numeric = pd.to_numeric(values.astype(object), errors="coerce").isna() & bad
            bad = not_numeric if not_numeric.any() else bad
        value = plain(values[bad].iloc[0])
        refuse(
            bad,
            f"column {name!r} holds {types[0]} in {first.label} and {column_type} in {dataset.label}, "
            f"such as {value!r}",
            dataset.name,
            name,
            remedy="; convert either",
            rows=dataset.rows,
        )


def _inferred_kind(name: str, columns: Sequence[_Column]) -> Kind:
    storages = {column.storage for column in columns}
    if storages <= {"bool", "category"}:
        return "categorical"
    if storages <= {"str", "category", "levels"}:
        for column in columns:
            if not isinstance(column.values.dtype, pd.CategoricalDtype):
                refuse_identifiers(name, column.dataset, column.values)
            if column.storage == "str":
                warn_about_texts(name, column.dataset, column.values)
        return "categorical"
    if "dates" in storages:
        return "continuous"
    numbers, counts = np.unique(np.concatenate([floats(column.values) for column in columns]), return_counts=True)
    if not np.equal(numbers, np.floor(numbers)).all():
        return "continuous"
    few = len(numbers) <= FEW_LEVELS or (len(numbers) <= _SEVERAL_LEVELS and counts.min() >= _OFTEN)
    return "categorical" if few else "continuous"


def _infer_categorical(name: str, columns: Sequence[_Column], declared: Mapping[str, Any]) -> Variable:
    dtype = declared.get("dtype")
    if dtype is None:
        dtype = _common_dtype(columns)
    originals: dict[Level, Any] = {}
    present: list[set[Level]] = []
    for column in columns:
        observed = {plain(value): value for value in column.values.unique()}
        present.append(set(observed))
        # pandas distinguishes categories such as 1 and 1.0, but a query cannot
        categories = list(column.values.cat.categories) if column.storage == "category" else []
        texts = [plain(value) for value in categories]
        if len(set(texts)) < len(texts):
            repeated = next(text for text in texts if texts.count(text) > 1)
            raise DataError(
                f"column {name!r} of {column.dataset.label} has several categories that read {repeated!r}; rename the "
                "duplicates",
                dataset=column.dataset.name,
                column=name,
            )
        originals |= dict(zip(texts, categories, strict=True)) | observed
    type_of_levels = declared.get("level_type") or level_type(originals.values())
    if "levels" in declared:
        levels = aligned(declared["levels"], originals, type_of_levels)
    else:
        orders = [
            (column.dataset, [plain(level) for level in column.values.cat.categories])
            for column in columns
            if column.storage == "category"
        ]
        union = dict.fromkeys(level for _, order in orders for level in order)
        levels = _merged(name, orders) if dtype == "ordered" else list(union)
        new = set().union(*present) - set(levels)
        # plain levels sort as numbers and texts; dates and intervals sort by their original values
        levels += sorted_levels(new) if type_of_levels is None else sorted(new, key=originals.__getitem__)
    variable = Variable(name, "categorical", tuple(levels), dtype=dtype, level_type=type_of_levels)
    known = set(levels)
    for dataset, values in zip((column.dataset for column in columns), present, strict=True):
        if values - known:
            series = dataset.table[name].astype(object)
            bad = series.notna() & ~series.map(plain, na_action="ignore").isin(levels)
            value = plain(series[bad].iloc[0])
            message = f"{dataset.label}: {variable.unknown_level(value)}; column {name!r} holds it"
            refuse(bad, message, dataset.name, name, rows=dataset.rows)
    _warn_about_levels(variable, [column.dataset for column in columns], present)
    return variable


def _merged(name: str, orders: Sequence[tuple[Dataset, Sequence[Level]]]) -> list[Level]:
    """A common order of the levels of ordered categoricals; ties follow the first of ``orders``."""
    merged: list[Level] = []
    remaining = [(dataset, list(order)) for dataset, order in orders]
    while any(order for _, order in remaining):
        later = {level for _, order in remaining for level in order[1:]}
        lowest = next((order[0] for _, order in remaining if order and order[0] not in later), None)
        if lowest is None:
            (first, first_order), (second, second_order), *_ = [part for part in remaining if part[1]]
            raise DataError(
                f"column {name!r}: the order of its categories {listing(first_order)} in {first.label} contradicts "
                f"{listing(second_order)} in {second.label}; declare the levels in a common order",
                dataset=second.name,
                column=name,
            )
        merged.append(lowest)
        remaining = [(dataset, [level for level in order if level != lowest]) for dataset, order in remaining]
    return merged


def _common_dtype(columns: Sequence[_Column]) -> str | None:
    storages = {column.storage for column in columns}
    if storages == {"category"}:
        return "ordered" if all(column.values.cat.ordered for column in columns) else "category"
    # dates, intervals and periods are restored from the type of the levels, and a type that needs further packages may
    # not exist where the model is loaded
    if not {"dates", "levels"}.isdisjoint(storages):
        return None
    dtypes = {str(column.values.dtype) for column in columns}
    return dtypes.pop() if len(dtypes) == 1 and "pyarrow" not in next(iter(dtypes)) else None


def _warn_about_levels(variable: Variable, datasets: Sequence[Dataset], present: Sequence[set[Level]]) -> None:
    levels = cast("tuple[Level, ...]", variable.levels)
    absent = [level for level in levels if not any(level in values for values in present)]
    if absent:
        warn(f"variable {variable.name!r}: {_levels_phrase(absent)} in no row of any dataset: nothing is learned there")
    elif len(levels) == 1 and not any(variable.name in dataset.do for dataset in datasets):
        warn(
            f"column {variable.name!r} is {levels[0]!r} in every row of {datasets[0].label}, and constant in all "
            "datasets: nothing is learned about other values, and only queries that do not need them can be answered"
        )
    # levels can be missing by design in datasets that set the variable
    natural = [
        (dataset, values) for dataset, values in zip(datasets, present, strict=True) if variable.name not in dataset.do
    ]
    if len(natural) < 2:
        return
    for dataset, values in natural:
        elsewhere = set().union(*(other_values for other, other_values in natural if other is not dataset))
        unique = [level for level in levels if level in values and level not in elsewhere]
        if unique:
            warn(f"variable {variable.name!r}: {_levels_phrase(unique)} in {dataset.label} only")


def _levels_phrase(levels: Sequence[Level]) -> str:
    return f"level {levels[0]!r} occurs" if len(levels) == 1 else f"levels {listing(levels)} occur"
