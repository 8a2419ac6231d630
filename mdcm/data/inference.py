"""The variables of a model, and inference of their kinds and levels from data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

import numpy as np
import pandas as pd

from mdcm.data.levels import Level, aligned, level_type, listing, plain, sorted_levels
from mdcm.data.text_columns import FEW_LEVELS, explain_text, refuse_names
from mdcm.data.variables import EPOCH, Kind, Variable, are_dates, floats, refuse, storage, suggestion
from mdcm.errors import DataError
from mdcm.text.advice import warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.variables import Storage

__all__ = ["Observed", "Schema"]

# a column of whole numbers is categorical up to FEW_LEVELS, or up to _SEVERAL_LEVELS if each occurs _OFTEN
_SEVERAL_LEVELS = 64
_OFTEN = 50
_BLOCK_BYTES = 1 << 24
_DECLARED = ("kind", "levels", "shape", "dtype", "origin", "mean", "scale", "span", "size", "level_type")


class Observed(Protocol):
    """The parts of a dataset from which a schema is inferred."""

    name: str | None
    table: pd.DataFrame
    images: dict[str, NDArray[Any]]
    arrays: dict[str, NDArray[Any]]
    do: tuple[str, ...]
    rows: NDArray[np.int64] | None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns and images."""

    @property
    def label(self) -> str:
        """The dataset in words, for messages."""


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
        """Levels of each categorical variable and span of each real one by name, for the planner."""
        values = {
            name: variable.span if variable.levels is None else variable.levels for name, variable in self.items()
        }
        return {name: value for name, value in values.items() if value is not None}

    def code(self, name: str, value: Any) -> int | float:
        """:meth:`Variable.code` of the variable called ``name``.

        Raises:
            DataError: If there is no such variable, or it cannot take the value.
        """
        return self._named(name).code(value)

    def parse(self, name: str, value: str | float) -> Level:
        """:meth:`Variable.parse` of the variable called ``name``.

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
        datasets: Sequence[Observed],
        variables: Mapping[str, Variable | Mapping[str, Any]] | None = None,
        *,
        order: Sequence[str] | None = None,
    ) -> Schema:
        """Infer kinds and levels from the columns of all datasets, unless they are declared.

        Booleans, strings, pandas categoricals and whole numbers with few distinct values are categorical; other
        numbers, dates (in days) and vectors are continuous; image arrays are images. Levels are united over the
        datasets, in declared order for pandas categoricals and sorted otherwise. Mean, scale and span of a continuous
        variable are computed from all rows of the observational datasets; if there are none, of the datasets that do
        not set it; else of all. Strings that are ISO 8601 dates are dates if the variable is declared continuous.

        Args:
            datasets: The datasets.
            variables: Declarations by name that override inference: a :class:`Variable`, or a mapping with some of
                its attributes, such as "kind", "levels" and "shape".
            order: Order of the variables; by default that of the columns, then that of the declarations.

        Raises:
            DataError: If a column's values do not fit its kind, differ in type between datasets, or are strings
                with too many distinct values; if images differ in shape; if a declaration is wrong.

        Warns:
            UserWarning: If a level occurs in only one dataset, or a declared level in none.
        """
        declared = {name: _declaration(name, value) for name, value in (variables or {}).items()}
        sources: dict[str, list[Observed]] = {}
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


def _infer(name: str, datasets: Sequence[Observed], declared: Mapping[str, Any]) -> Variable:
    kind: Kind | None = declared.get("kind")
    if kind is None and "levels" in declared:
        kind = "categorical"
    if not datasets:
        # a variable without data has a given mechanism, and only its declaration is known
        if kind is None:
            raise DataError(f"variable {name!r} is in no dataset; declare its kind in variables", column=name)
        return Variable.from_json({**declared, "name": name, "kind": kind})
    with_images = [dataset for dataset in datasets if name in dataset.images]
    if with_images:
        return _infer_image(name, datasets, with_images, kind, declared)
    with_arrays = [dataset for dataset in datasets if name in dataset.arrays]
    if with_arrays:
        return _infer_vector(name, datasets, with_arrays, kind, declared)
    if kind == "image":
        raise DataError(
            f"variable {name!r} is declared an image, but {datasets[0].label} holds a column: pass the arrays as "
            f"images={{{name!r}: array}}; mdcm.data.read_pictures makes them of file names",
            dataset=datasets[0].name,
            column=name,
        )

    columns = [dataset.table[name].dropna() for dataset in datasets]
    # messages count rows with missing values too, as the user does
    whole = [dataset.table[name] for dataset in datasets]
    storages = [
        storage(column, dataset.label, dataset.name, dataset.rows)
        for column, dataset in zip(whole, datasets, strict=True)
    ]
    dates = kind in ("continuous", "implicit") and all(
        stored == "dates" or (stored == "str" and are_dates(column))
        for stored, column in zip(storages, columns, strict=True)
    )
    if not dates:
        _check_same_type(name, datasets, whole, storages)
    if kind is None:
        kind = _inferred_kind(name, datasets, columns, storages)
    if kind == "categorical":
        return _infer_categorical(name, datasets, columns, storages, declared)
    return _infer_real(name, kind, datasets, columns, storages, declared)


def _infer_real(
    name: str,
    kind: Kind,
    datasets: Sequence[Observed],
    columns: Sequence[pd.Series[Any]],
    storages: Sequence[Storage],
    declared: Mapping[str, Any],
) -> Variable:
    origin = declared.get("origin")
    if origin is None and (storages[0] == "dates" or (storages[0] == "str" and are_dates(columns[0]))):
        origin = EPOCH
    for dataset, column, stored in zip(datasets, columns, storages, strict=True):
        if stored in {"category", "levels"} or (stored == "str" and (origin is None or not are_dates(column))):
            held = {"str": "strings", "category": "categories"}.get(stored, "intervals or periods")
            raise DataError(
                f"variable {name!r} is declared {kind}, but column {name!r} of {dataset.label} holds {held}",
                dataset=dataset.name,
                column=name,
            )
    dtypes = {str(column.dtype) for column in columns}
    # a type that needs no further packages and can hold real numbers
    dtype = dtypes.pop() if len(dtypes) == 1 and set(storages) <= {"int", "float", "dates"} else None
    if dtype is not None and (dtype == "object" or "pyarrow" in dtype):
        dtype = None
    numbers = [floats(column, origin) for column in columns]
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
    mean, scale = _measure(_natural(name, datasets, numbers))
    inferred = {"dtype": dtype, "origin": origin, "mean": float(mean), "scale": float(scale), "span": span}
    return Variable.from_json({**inferred, **declared, "name": name, "kind": kind})


def _infer_vector(
    name: str,
    datasets: Sequence[Observed],
    with_arrays: Sequence[Observed],
    kind: Kind | None,
    declared: Mapping[str, Any],
) -> Variable:
    kind = kind or "continuous"
    if kind not in ("continuous", "implicit"):
        raise DataError(f"variable {name!r} is declared {kind}, but holds vectors of numbers", column=name)
    for dataset in datasets:
        if name not in dataset.arrays:
            raise DataError(
                f"variable {name!r} holds vectors in {with_arrays[0].label} and a column in {dataset.label}",
                dataset=dataset.name,
                column=name,
            )
    first = with_arrays[0]
    size = int(declared.get("size") or first.arrays[name].shape[1])
    for dataset in with_arrays:
        own_size = dataset.arrays[name].shape[1]
        if own_size != size:
            raise DataError(
                f"array {name!r} of {dataset.label} has {own_size} numbers per row, not {size} as "
                f"{'declared' if declared.get('size') else 'in ' + first.label}",
                dataset=dataset.name,
                column=name,
            )
    mean, scale = _measure(_natural(name, datasets, [dataset.arrays[name] for dataset in datasets]))
    inferred = {"mean": tuple(mean.tolist()), "scale": tuple(scale.tolist())}
    return Variable.from_json({**inferred, **declared, "name": name, "kind": kind, "size": size})


def _natural(name: str, datasets: Sequence[Observed], values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Values of the observational datasets; else of datasets that do not set the variable; else of all."""
    pairs = list(zip(datasets, values, strict=True))
    for chosen in (
        [value for dataset, value in pairs if not dataset.do],
        [value for dataset, value in pairs if name not in dataset.do],
    ):
        if chosen:
            return chosen
    return [*values]


def _measure(parts: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the rows of all parts, per entry; a deviation of 0 becomes 1.

    Parts may be memory-mapped, and are read in pieces, twice.
    """
    low = np.minimum.reduce([block.min(axis=0) for part in parts for block in _blocks(part)])
    high = np.maximum.reduce([block.max(axis=0) for part in parts for block in _blocks(part)])
    # scaled to [-1, 1], so that squares neither overflow nor underflow
    centre, half = low / 2 + high / 2, high / 2 - low / 2
    unit = np.where(half > 0, half, 1.0)
    total, squares, rows = np.zeros_like(centre), np.zeros_like(centre), 0
    for part in parts:
        for block in _blocks(part):
            small = (block - centre) / unit
            total, squares, rows = total + small.sum(axis=0), squares + np.square(small).sum(axis=0), rows + len(block)
    mean = total / rows
    scale = unit * np.sqrt(np.maximum(squares / rows - mean**2, 0.0))
    return centre + unit * mean, np.where(scale > 0, scale, 1.0)


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield np.asarray(array[start : start + step], dtype=np.float64)


def _infer_image(
    name: str,
    datasets: Sequence[Observed],
    with_images: Sequence[Observed],
    kind: Kind | None,
    declared: Mapping[str, Any],
) -> Variable:
    if kind not in {None, "image"}:
        raise DataError(f"variable {name!r} is declared {kind}, but holds images", column=name)
    for dataset in datasets:
        if name not in dataset.images:
            raise DataError(
                f"variable {name!r} holds images in {with_images[0].label} and a column in {dataset.label}",
                dataset=dataset.name,
                column=name,
            )
    shape = tuple(declared.get("shape", with_images[0].images[name].shape[1:]))
    for dataset in with_images:
        if dataset.images[name].shape[1:] != shape:
            raise DataError(
                f"image {name!r} of {dataset.label} has shape {list(dataset.images[name].shape[1:])} "
                f"(channels, height, width), not {list(shape)} as "
                f"{'declared' if 'shape' in declared else 'in ' + with_images[0].label}",
                dataset=dataset.name,
                column=name,
            )
    return Variable(name, "image", shape=shape)


def _check_same_type(
    name: str, datasets: Sequence[Observed], columns: Sequence[pd.Series[Any]], storages: Sequence[str]
) -> None:
    """Refuse a column that holds, say, strings in one dataset and numbers in another."""
    words = {"bool": "booleans", "int": "numbers", "float": "numbers", "str": "strings", "dates": "dates"}
    types = []
    for column, stored in zip(columns, storages, strict=True):
        if stored != "category":
            # intervals and periods are identified by their texts
            types.append(words.get(stored, "strings"))
            continue
        # the type of the categories decides: a categorical of strings is compatible with a column of strings
        levels = {type(plain(level)) for level in column.cat.categories}
        types.append(words["bool" if levels == {bool} else "str" if str in levels else "float"])
    for dataset, column, type_here in zip(datasets, columns, types, strict=True):
        if type_here != types[0]:
            bad = column.notna()
            if types[0] == "numbers" and type_here == "strings":
                # if some values are numbers, report one of the others
                words_only = pd.to_numeric(column.astype(object), errors="coerce").isna() & bad
                bad = words_only if words_only.any() else bad
            value = plain(column[bad].iloc[0])
            refuse(
                bad,
                f"column {name!r} holds {types[0]} in {datasets[0].label} and {type_here} in {dataset.label}, "
                f"such as {value!r}",
                dataset.name,
                name,
                remedy="; convert one of them",
                rows=dataset.rows,
            )


def _inferred_kind(
    name: str, datasets: Sequence[Observed], columns: Sequence[pd.Series[Any]], storages: Sequence[str]
) -> Kind:
    if set(storages) <= {"bool", "category"}:
        return "categorical"
    if set(storages) <= {"str", "category", "levels"}:
        for dataset, column, stored in zip(datasets, columns, storages, strict=True):
            if not isinstance(column.dtype, pd.CategoricalDtype):
                refuse_names(name, dataset, column)
            if stored == "str":
                explain_text(name, dataset, column)
        return "categorical"
    if "dates" in storages:
        return "continuous"
    numbers, counts = np.unique(np.concatenate([floats(column) for column in columns]), return_counts=True)
    if not np.equal(numbers, np.floor(numbers)).all():
        return "continuous"
    few = len(numbers) <= FEW_LEVELS or (len(numbers) <= _SEVERAL_LEVELS and counts.min() >= _OFTEN)
    return "categorical" if few else "continuous"


def _infer_categorical(
    name: str,
    datasets: Sequence[Observed],
    columns: Sequence[pd.Series[Any]],
    storages: Sequence[str],
    declared: Mapping[str, Any],
) -> Variable:
    dtype = declared.get("dtype")
    if dtype is None:
        dtype = _common_dtype(columns, storages)
    originals: dict[Level, Any] = {}
    present: list[set[Level]] = []
    for dataset, column, stored in zip(datasets, columns, storages, strict=True):
        shown = {plain(value): value for value in column.unique()}
        present.append(set(shown))
        # pandas distinguishes categories such as 1 and 1.0, but a query cannot
        categories = list(column.cat.categories) if stored == "category" else []
        texts = [plain(value) for value in categories]
        if len(set(texts)) < len(texts):
            repeated = next(text for text in texts if texts.count(text) > 1)
            raise DataError(
                f"column {name!r} of {dataset.label} has several categories that read {repeated!r}; rename all but one",
                dataset=dataset.name,
                column=name,
            )
        originals |= dict(zip(texts, categories, strict=True)) | shown
    type_of_levels = declared.get("level_type") or level_type(originals.values())
    if "levels" in declared:
        levels = aligned(declared["levels"], originals, type_of_levels)
    else:
        ordered = dtype == "ordered"
        orders = [
            (dataset, [plain(level) for level in column.cat.categories])
            for dataset, column, stored in zip(datasets, columns, storages, strict=True)
            if stored == "category"
        ]
        united = dict.fromkeys(level for _, order in orders for level in order)
        levels = _merged(name, orders) if ordered else list(united)
        new = set().union(*present) - set(levels)
        # plain levels sort as numbers and texts; dates and intervals sort by their original values
        levels += sorted_levels(new) if type_of_levels is None else sorted(new, key=originals.__getitem__)
    variable = Variable(name, "categorical", tuple(levels), dtype=dtype, level_type=type_of_levels)
    known = set(levels)
    for dataset, values in zip(datasets, present, strict=True):
        if values - known:
            column = dataset.table[name].astype(object)
            bad = column.notna() & ~column.map(plain, na_action="ignore").isin(levels)
            value = plain(column[bad].iloc[0])
            message = f"{dataset.label}: {variable.unknown_level(value)}; column {name!r} holds it"
            refuse(bad, message, dataset.name, name, rows=dataset.rows)
    _warn_about_levels(variable, datasets, present)
    return variable


def _merged(name: str, orders: Sequence[tuple[Observed, Sequence[Level]]]) -> list[Level]:
    """A common order of the levels of ordered categoricals; ties follow the first of the given orders."""
    merged: list[Level] = []
    left = [(dataset, list(order)) for dataset, order in orders]
    while any(order for _, order in left):
        later = {level for _, order in left for level in order[1:]}
        lowest = next((order[0] for _, order in left if order and order[0] not in later), None)
        if lowest is None:
            (first, first_order), (second, second_order), *_ = [part for part in left if part[1]]
            raise DataError(
                f"column {name!r}: the order of its categories {listing(first_order)} in {first.label} contradicts "
                f"{listing(second_order)} in {second.label}; declare the levels in one order",
                dataset=second.name,
                column=name,
            )
        merged.append(lowest)
        left = [(dataset, [level for level in order if level != lowest]) for dataset, order in left]
    return merged


def _common_dtype(columns: Sequence[pd.Series[Any]], storages: Sequence[str]) -> str | None:
    dtypes = {str(column.dtype) for column in columns}
    if set(storages) == {"category"}:
        return "ordered" if all(column.cat.ordered for column in columns) else "category"
    # dates, intervals and periods are restored from the type of the levels, and a type that needs further packages may
    # not exist where the model is loaded
    if not {"dates", "levels"}.isdisjoint(storages):
        return None
    return dtypes.pop() if len(dtypes) == 1 and "pyarrow" not in next(iter(dtypes)) else None


def _warn_about_levels(variable: Variable, datasets: Sequence[Observed], present: Sequence[set[Level]]) -> None:
    levels = cast("tuple[Level, ...]", variable.levels)
    never = [level for level in levels if not any(level in values for values in present)]
    if never:
        warn(f"variable {variable.name!r}: {_levels_phrase(never)} in no row of any dataset: nothing is learned there")
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
        others = set().union(*(other for another, other in natural if another is not dataset))
        alone = [level for level in levels if level in values and level not in others]
        if alone:
            warn(f"variable {variable.name!r}: {_levels_phrase(alone)} in {dataset.label} only")


def _levels_phrase(levels: Sequence[Level]) -> str:
    return f"level {levels[0]!r} occurs" if len(levels) == 1 else f"levels {listing(levels)} occur"
