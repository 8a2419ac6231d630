"""Validation of data sets before training."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.data.dataset import Dataset, blocks
from mdcm.data.levels import listing, plain
from mdcm.data.variables import floats, missing_value_remedy, refuse, storage, suggestion
from mdcm.errors import DataError
from mdcm.text.advice import Notice, warn
from mdcm.text.limits import flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["validate"]


def validate(
    data: pd.DataFrame | Mapping[str, Any] | Dataset | Sequence[Dataset | pd.DataFrame],
    nodes: Sequence[str],
    *,
    unobserved: Collection[str] = (),
    latents: Collection[str] = (),
    dropna: bool = False,
) -> tuple[Dataset, ...]:
    """Validate datasets for a model: assign names, drop extra columns, refuse or drop missing values.

    Args:
        data: One table or dataset, or several.
        nodes: Names of the graph's nodes.
        unobserved: Nodes that need not be in any dataset, because their mechanism is given.
        latents: Names of the graph's latents, whose columns are not used.
        dropna: Whether rows with missing values are left out of all datasets; a dataset can also have this set itself.

    Returns:
        Datasets with the columns that are nodes. Datasets without a name are called d1, d2, ... by position. Columns
        without any value are dropped, as not observed, and columns ``W[0]``, ``W[1]``, ... become the vector W.

    Raises:
        DataError: If a node is in no dataset; if values are missing or infinite; if a target is not a node; if two
            datasets have the same name.

    Warns:
        UserWarning: If a column is not a node, has no values, or is constant in a dataset; if a node without a column
            has a name like that of a column.

    Example:
        >>> first = Dataset({"X": [0, 1, 1], "Y": [2, 2, 1]})
        >>> second = Dataset({"X": [1, 1], "Y": [1, 2]}, do="X", name="trial")
        >>> [dataset.name for dataset in validate([first, second], ["X", "Y"])]
        ['d1', 'trial']
    """
    if isinstance(data, pd.DataFrame | Dataset | Mapping):
        data = [cast("Dataset | pd.DataFrame", data)]
    if not isinstance(data, list | tuple) or not data:
        kind = "an empty list" if isinstance(data, list | tuple) else type(data).__name__
        hint = "; mdcm.data.read_table reads a file" if isinstance(data, str | os.PathLike) else ""
        raise DataError(f"data must be a DataFrame, a Dataset or a list of them, not {kind}{hint}")
    if not nodes:
        raise DataError("the graph has no variable, so there is nothing to learn; write edges such as 'X -> Y'")
    flag("dropna", dropna)
    datasets = [item if isinstance(item, Dataset) else Dataset(item) for item in data]
    if dropna:
        datasets = [item.leaving_out() for item in datasets]
    names = [dataset.name or f"d{k}" for k, dataset in enumerate(datasets, start=1)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{names.count(name)} datasets are called {name!r}; give each its own name", dataset=name)
    checked = tuple(
        _validated(dataset.gathered(nodes), name, nodes, latents) for dataset, name in zip(datasets, names, strict=True)
    )

    observed = {column for dataset in checked for column in dataset.columns}
    for node in nodes:
        if node in observed:
            continue
        others = [column for dataset in datasets for column in dataset.columns if column not in nodes]
        if node not in unobserved:
            raise DataError(
                f"variable {node!r} of the graph is not a column of any dataset ({listing(names)})"
                f"{suggestion(node, others)}",
                dataset=names[0] if len(names) == 1 else None,
                column=node,
            )
        if similar := suggestion(node, others):
            warn(f"variable {node!r} of the graph has no column{similar}")
    _check_variation(checked)
    return checked


def _validated(dataset: Dataset, name: str, nodes: Sequence[str], latents: Collection[str]) -> Dataset:
    label = f"dataset {name!r}"
    for target in dataset.do:
        if target not in nodes:
            raise DataError(
                f"{label}: do={list(dataset.do)}, but {target!r} is not a node of the graph{suggestion(target, nodes)}",
                dataset=name,
                column=target,
            )
    used = [column for column in dataset.columns if column in nodes]
    extra = [column for column in dataset.columns if column not in nodes and column not in dataset._helpers]
    if not used:
        raise DataError(
            f"{label} has none of the graph's variables: its columns are {listing(dataset.columns)}, "
            f"the graph has {listing(nodes)}",
            dataset=name,
        )
    hidden = [column for column in extra if column in latents]
    extra = [column for column in extra if column not in latents]
    if hidden:
        verb = "are latent; their columns are" if len(hidden) > 1 else "is latent; its column is"
        warn(f"{label}: {listing(hidden)} {verb} not used", Notice)
    if extra:
        plural = "columns" if len(extra) > 1 else "column"
        verb = "are not nodes" if len(extra) > 1 else "is not a node"
        warn(f"{label}: {plural} {listing(extra)} {verb} of the graph, ignored", Notice)

    missing = dataset.table[[column for column in used if column in dataset.table.columns]].isna()
    for column, array in dataset.arrays.items():
        if column in used and np.issubdtype(array.dtype, np.floating):
            missing[column] = np.concatenate([np.isnan(block).any(axis=1) for _, block in blocks(array)])
    empty = [column for column in missing.columns if missing[column].all()]
    for column in empty:
        if column in dataset.do:
            raise DataError(
                f"{label}: column {column!r} is a target of the intervention, but has no values; "
                "fill in the values that were set",
                dataset=name,
                column=column,
            )
        warn(f"{label}: column {column!r} has no values, so it counts as not observed")
    used = [column for column in used if column not in empty]
    if not used:
        raise DataError(f"{label}: no variable of the graph has any values", dataset=name)
    missing = missing.drop(columns=empty)
    incomplete = missing.to_numpy(dtype=bool).any(axis=1)
    if not dataset.dropna and incomplete.any():
        column = next(column for column in missing.columns if missing[column].any())
        refuse(
            missing[column],
            f"{label}: column {column!r} has missing values",
            name,
            column,
            remedy=missing_value_remedy(),
            rows=dataset.rows,
        )
    if dataset.groups is not None:
        incomplete |= dataset.groups < 0
    if dataset.weights is not None:
        incomplete |= np.isnan(dataset.weights)
    if incomplete.all():
        raise DataError(f"{label}: every row has missing values, so leaving such rows out leaves none", dataset=name)
    kept = dataset.restricted(name, used, np.asarray(~incomplete) if incomplete.any() else None)
    for column in used:
        infinite: NDArray[np.bool_] | None = None
        if column in kept.arrays:
            infinite = np.concatenate([np.isinf(block).any(axis=1) for _, block in blocks(kept.arrays[column])])
        elif column in kept.table.columns and storage(kept.table[column], label, name, kept.rows) == "float":
            infinite = np.isinf(floats(kept.table[column]))
        if infinite is not None:
            message = f"{label}: column {column!r} has infinite values"
            refuse(infinite, message, name, column, rows=kept.rows)
    return kept


def _check_variation(datasets: Sequence[Dataset]) -> None:
    """Warn about columns that are constant in some datasets only; the schema warns about those constant in all."""
    constant: dict[str, list[tuple[Dataset, Any]]] = {}
    varies = {target for dataset in datasets for target in dataset.do}
    for dataset in datasets:
        for column, values in dataset.table.items():
            name = str(column)
            if name in dataset.do:
                continue
            if values.nunique() == 1:
                constant.setdefault(name, []).append((dataset, values.iloc[0]))
            else:
                varies.add(name)
    for name, occurrences in constant.items():
        if name not in varies:
            continue
        for dataset, value in occurrences:
            warn(f"{dataset.label}: column {name!r} is constant ({plain(value)!r})")
