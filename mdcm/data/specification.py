"""Specification of a data set for planning and identification: columns, interventions and size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdcm.errors import PlanError

__all__ = ["DatasetSpec"]


@dataclass(frozen=True, init=False)
class DatasetSpec:
    """Specification of a dataset for the planner: columns, interventions, size.

    Args:
        name: Name, as it appears in the plan.
        columns: Names of the observed variables; None means every variable.
        do: Variables that were set by intervention: a mapping to the values set, or names alone for every value.
        rows: Number of rows; None means unknown.
        covers: Whether the values set count as every combination of values, regardless of their number.
        combinations: Values that were set together, with a value of each target in the order of ``do``, where None
            means every value; None means that all combinations of the values listed occur.

    Attributes:
        name: Name.
        columns: Names as a tuple, or None.
        do: For each target the tuple of values set, or None for every value.
        rows: Number of rows, or None.
        covers: Whether the values set count as every combination of values.
        combinations: Distinct combinations as tuples, or None if all occur.

    Raises:
        PlanError: If the name is empty, the columns or targets are not names, rows is negative, or a combination has
            another length than ``do`` or a value that is not listed there.

    Example:
        >>> DatasetSpec("d2", columns=["PKA", "Mek"], do={"PKA": [2]}, rows=707).do
        {'PKA': (2,)}
        >>> DatasetSpec("d3", do={"A": [0, 1], "B": [0, 1]}, combinations=[(0, 0), (1, 1)]).combinations
        ((0, 0), (1, 1))
    """

    name: str
    columns: tuple[str, ...] | None
    do: dict[str, tuple[Any, ...] | None]
    rows: int | None
    covers: bool
    combinations: tuple[tuple[Any, ...], ...] | None

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        name: str,
        columns: Iterable[str] | None = None,
        do: Mapping[str, Iterable[Any] | None] | Iterable[str] = (),
        rows: int | None = None,
        *,
        covers: bool = False,
        combinations: Iterable[Sequence[Any]] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise PlanError(f"a dataset's name must be non-empty text, not {name!r}")
        if isinstance(columns, str) or isinstance(do, str):
            raise PlanError(f"dataset {name!r}: columns and do take lists of names, not a text")
        if rows is not None and rows < 0:
            raise PlanError(f"dataset {name!r}: rows is {rows}")
        values: dict[str, tuple[Any, ...] | None] = {}
        if isinstance(do, Mapping):
            for target, target_values in do.items():
                if isinstance(target_values, str):
                    raise PlanError(
                        f"dataset {name!r}: the values of do({target}) must be a list, not {target_values!r}"
                    )
                values[target] = None if target_values is None else tuple(target_values)
                if values[target] == ():
                    raise PlanError(f"dataset {name!r}: do({target}) has an empty list of values")
        else:
            values = dict.fromkeys(do)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "columns", None if columns is None else tuple(columns))
        object.__setattr__(self, "do", values)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "covers", covers)
        together = None if combinations is None else _combinations(name, values, combinations)
        object.__setattr__(self, "combinations", together)


def _combinations(
    name: str, do: Mapping[str, tuple[Any, ...] | None], combinations: Iterable[Sequence[Any]]
) -> tuple[tuple[Any, ...], ...] | None:
    """Distinct combinations of values that were set together; None if all possible combinations occur."""
    distinct = tuple(dict.fromkeys(map(tuple, combinations)))
    for combination in distinct:
        if len(combination) != len(do):
            raise PlanError(
                f"dataset {name!r}: the combination {combination!r} has {len(combination)} values for {len(do)} targets"
            )
        for (target, values), value in zip(do.items(), combination, strict=True):
            if value is not None and values is not None and value not in values:
                raise PlanError(
                    f"dataset {name!r}: a combination has {target}={value!r}, which do({target}) does not list"
                )
    if not distinct:
        raise PlanError(f"dataset {name!r}: combinations is empty")
    listed = [(None,) if values is None else values for values in do.values()]
    used = [{combination[k] for combination in distinct} for k in range(len(do))]
    # a target that counts as set to every value does not multiply the number of combinations
    counts = (1 if None in values_used else len(set(values)) for values, values_used in zip(listed, used, strict=True))
    return None if len(distinct) == math.prod(counts) else distinct
