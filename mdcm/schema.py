"""The variables of a model, and how their kinds and levels are read off the data."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

import numpy as np

from mdcm.errors import DataError
from mdcm.variables import Kind, Level, Variable, floats, listing, plain, refuse, sorted_levels, storage, suggestion

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Observed", "Schema"]

# a column of whole numbers is categorical up to FEW levels, or up to SEVERAL if each occurs often
_FEW_LEVELS = 20
_SEVERAL_LEVELS = 64
_OFTEN = 50
# a column of strings with more distinct values than this is a name or free text, not a variable
_MAX_STRINGS = 256


class Observed(Protocol):
    """The parts of a dataset from which a schema is inferred."""

    name: str | None
    table: pd.DataFrame
    images: dict[str, NDArray[Any]]
    do: tuple[str, ...]

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
        """Kind of every variable by name, as the planner takes it."""
        return {name: variable.kind for name, variable in self.items()}

    @property
    def levels(self) -> dict[str, tuple[Level, ...]]:
        """Levels of every categorical variable by name, as the planner takes them."""
        return {name: variable.levels for name, variable in self.items() if variable.levels is not None}

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
        """Schema that :meth:`to_json` described."""
        return cls(Variable.from_json(value) for value in values)

    @classmethod
    def infer(
        cls,
        datasets: Sequence[Observed],
        variables: Mapping[str, Variable | Mapping[str, Any]] | None = None,
        *,
        order: Sequence[str] | None = None,
    ) -> Schema:
        """Kinds and levels that the columns of all datasets show, unless they are declared.

        Booleans, strings, pandas categoricals and whole numbers with few distinct values are categorical; other
        numbers and dates (in days) are continuous; image arrays are images. Levels are united over the datasets, in
        declared order for pandas categoricals and sorted otherwise.

        Args:
            datasets: The datasets.
            variables: Declarations by name that overrule what is inferred: a :class:`Variable`, or a mapping with
                some of the keys "kind", "levels" and "shape".
            order: Names in the order of the schema; by default that of the columns, then that of the declarations.

        Raises:
            DataError: If a column's values do not fit its kind, differ in type between datasets, or are strings
                with too many distinct values; if images differ in shape; if a declaration is wrong.

        Warns:
            UserWarning: If a level occurs in one dataset only, or a declared one in none.
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
    unknown = sorted(set(value) - {"kind", "levels", "shape", "dtype"})
    if unknown:
        raise DataError(
            f"variables: {name!r} has the unknown key {unknown[0]!r}; known are kind, levels and shape", column=name
        )
    if "levels" in value and value.get("kind", "categorical") != "categorical":
        raise DataError(f"variables: {name!r} is declared {value['kind']} and has levels", column=name)
    if value.get("kind", "image") not in get_args(Kind):
        raise DataError(
            f"variables: {name!r} has kind {value['kind']!r}, which is none of {', '.join(get_args(Kind))}", column=name
        )
    return value


def _infer(name: str, datasets: Sequence[Observed], declared: Mapping[str, Any]) -> Variable:
    kind: Kind | None = declared.get("kind")
    if kind is None and "levels" in declared:
        kind = "categorical"
    if not datasets:
        # a variable without data, whose mechanism is given: only what is declared is known
        if kind is None:
            raise DataError(f"variable {name!r} is in no dataset; declare its kind in variables", column=name)
        return Variable(name, kind, declared.get("levels"), declared.get("shape"), declared.get("dtype"))
    with_images = [dataset for dataset in datasets if name in dataset.images]
    if with_images:
        return _infer_image(name, datasets, with_images, kind, declared)
    if kind == "image":
        raise DataError(
            f"variable {name!r} is declared an image, but dataset {datasets[0].name!r} holds a column: pass the "
            f"arrays as images={{{name!r}: array}}",
            dataset=datasets[0].name,
            column=name,
        )

    columns = [dataset.table[name] for dataset in datasets]
    storages = [storage(column, dataset.label, dataset.name) for column, dataset in zip(columns, datasets, strict=True)]
    _check_same_type(name, datasets, columns, storages)
    if kind is None:
        kind = _inferred_kind(name, datasets, columns, storages)
    if kind == "categorical":
        return _infer_categorical(name, datasets, columns, storages, declared)
    for dataset, found in zip(datasets, storages, strict=True):
        if found in {"str", "category"}:
            raise DataError(
                f"variable {name!r} is declared {kind}, but column {name!r} of {dataset.label} holds "
                f"{'strings' if found == 'str' else 'categories'}",
                dataset=dataset.name,
                column=name,
            )
    return Variable(name, kind, dtype="datetime64[ns]" if storages[0] == "dates" else None)


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
    for column, found in zip(columns, storages, strict=True):
        if found != "category":
            types.append(words[found])
            continue
        # the type of the categories counts: a categorical of strings fits a column of strings
        levels = {type(plain(level)) for level in column.cat.categories}
        types.append(words["bool" if levels == {bool} else "str" if str in levels else "float"])
    for dataset, words_found in zip(datasets, types, strict=True):
        if words_found != types[0]:
            raise DataError(
                f"column {name!r} holds {types[0]} in {datasets[0].label} and {words_found} in {dataset.label}; "
                "convert one of them",
                dataset=dataset.name,
                column=name,
            )


def _inferred_kind(
    name: str, datasets: Sequence[Observed], columns: Sequence[pd.Series[Any]], storages: Sequence[str]
) -> Kind:
    if set(storages) <= {"bool", "category"}:
        return "categorical"
    if set(storages) <= {"str", "category"}:
        for dataset, column in zip(datasets, columns, strict=True):
            distinct = column.nunique()
            if distinct > _MAX_STRINGS:
                raise DataError(
                    f"column {name!r} of {dataset.label} has {distinct:,} different strings, more than the "
                    f"{_MAX_STRINGS} that a categorical variable may have unasked: group rare ones, convert them to "
                    f"numbers, leave {name!r} out of the graph, or declare it with kind 'categorical'",
                    dataset=dataset.name,
                    column=name,
                )
        return "categorical"
    if "dates" in storages:
        return "continuous"
    numbers, counts = np.unique(np.concatenate([floats(column) for column in columns]), return_counts=True)
    if not np.equal(numbers, np.floor(numbers)).all():
        return "continuous"
    few = len(numbers) <= _FEW_LEVELS or (len(numbers) <= _SEVERAL_LEVELS and counts.min() >= _OFTEN)
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
    if "dates" in storages:
        raise DataError(
            f"variable {name!r} holds dates and cannot be categorical; convert them to strings", column=name
        )
    present = [{plain(value) for value in column.unique()} for column in columns]
    if "levels" in declared:
        levels = [plain(level) for level in declared["levels"]]
    else:
        levels = []
        for column, storage in zip(columns, storages, strict=True):
            if storage == "category":
                levels += [plain(level) for level in column.cat.categories if plain(level) not in levels]
        new = set().union(*present) - set(levels)
        # booleans and whole numbers sort among themselves; strings as text
        levels += sorted_levels(new)
    variable = Variable(name, "categorical", tuple(levels), dtype=dtype)
    known = set(levels)
    for dataset, column, values in zip(datasets, columns, present, strict=True):
        if values - known:
            bad = ~column.map(plain).isin(levels)
            value = plain(column[bad].iloc[0])
            refuse(
                bad, f"{dataset.label}: {variable.unknown_level(value)}; column {name!r} holds it", dataset.name, name
            )
    _warn_about_levels(variable, datasets, present)
    return variable


def _common_dtype(columns: Sequence[pd.Series[Any]], storages: Sequence[str]) -> str | None:
    dtypes = {str(column.dtype) for column in columns}
    if set(storages) == {"category"}:
        return "ordered" if all(column.cat.ordered for column in columns) else "category"
    return dtypes.pop() if len(dtypes) == 1 else None


def _warn_about_levels(variable: Variable, datasets: Sequence[Observed], present: Sequence[set[Level]]) -> None:
    levels = cast("tuple[Level, ...]", variable.levels)
    never = [level for level in levels if not any(level in values for values in present)]
    if never:
        warnings.warn(
            f"variable {variable.name!r}: {_levels_phrase(never)} in no row of any dataset: nothing is learned there",
            stacklevel=2,
        )
    # where a variable was set by intervention, some levels are missing by design
    natural = [
        (dataset, values) for dataset, values in zip(datasets, present, strict=True) if variable.name not in dataset.do
    ]
    if len(natural) < 2:
        return
    for dataset, values in natural:
        others = set().union(*(other for another, other in natural if another is not dataset))
        alone = [level for level in levels if level in values and level not in others]
        if alone:
            warnings.warn(f"variable {variable.name!r}: {_levels_phrase(alone)} in {dataset.label} only", stacklevel=2)


def _levels_phrase(levels: Sequence[Level]) -> str:
    return f"level {levels[0]!r} occurs" if len(levels) == 1 else f"levels {listing(levels)} occur"
