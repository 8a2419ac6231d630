"""Data sets as arguments of the compiled algorithms: pooled by targets and columns, with values as codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdcm import _core
from mdcm.errors import GraphError, PlanError
from mdcm.graph import ADMG
from mdcm.planning.records import DatasetSpec, Kind

__all__ = ["MIN_VALUES", "Domain", "checked", "domains_of", "pooled"]

# smallest number of distinct values of a continuous variable that can count as all of them
MIN_VALUES = 20


def checked(graph: ADMG, datasets: Sequence[DatasetSpec] | None) -> tuple[DatasetSpec, ...]:
    """Check datasets and return them; for None, return a single observational dataset of all variables.

    Raises:
        PlanError: If the list is empty, two datasets have the same name, or a target is not a node.
    """
    specs = (DatasetSpec("d1"),) if datasets is None else tuple(datasets)
    if not specs:
        raise PlanError("datasets is empty; give at least one, or None for observational data of all variables")
    seen: set[str] = set()
    for spec in specs:
        if not isinstance(spec, DatasetSpec):
            raise PlanError(f"datasets holds {spec!r}; it takes DatasetSpec objects")
        if spec.name in seen:
            raise PlanError(f"two datasets are called {spec.name!r}; give each its own name")
        seen.add(spec.name)
        for target in spec.do:
            if target not in graph:
                close = difflib.get_close_matches(target[:200], graph.nodes, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise PlanError(f"dataset {spec.name!r} has do({target}), which is not a node of the graph{hint}")
    return specs


def pooled(
    graph: ADMG, specs: Sequence[DatasetSpec], kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> tuple[list[_core.DatasetGroup], list[list[int]]]:
    """Group datasets with the same targets and columns; return the groups and the indices of their datasets."""
    for name in levels:
        try:
            graph.index(name)
        except GraphError as error:
            raise GraphError(f"levels: {error}") from None
    # None if all nodes are columns: building the set of all nodes costs more than a small query on a large graph
    members_of: dict[tuple[frozenset[str], frozenset[str] | None], list[int]] = {}
    for j, spec in enumerate(specs):
        known = None if spec.columns is None else frozenset(v for v in (*spec.columns, *spec.do) if v in graph)
        if known is not None and len(known) == len(graph):
            known = None
        members_of.setdefault((frozenset(spec.do), known), []).append(j)
    domains = domains_of(specs, kinds, levels)
    groups: list[_core.DatasetGroup] = []
    for (do, columns), members in members_of.items():
        targets = sorted(do, key=graph.index)
        covered = {name for name in targets if _spans(name, [specs[j] for j in members], kinds, levels)}
        boxes = []
        for j in members:
            boxes += _boxes(specs[j], targets, covered, domains)
        rows = [specs[j].rows for j in members]
        total = -1 if None in rows else sum(row for row in rows if row is not None)
        flags = None
        if columns is not None:
            flags = np.fromiter((name in columns for name in graph.nodes), dtype=np.uint8, count=len(graph))
        groups.append(
            {
                "targets": [graph.index(name) for name in targets],
                "columns": flags,
                "domain": [domains[name].size for name in targets],
                "boxes": boxes,
                "rows": total,
            }
        )
    return groups, list(members_of.values())


def _boxes(
    spec: DatasetSpec, targets: Sequence[str], covered: set[str], domains: Mapping[str, Domain]
) -> list[list[list[int]]]:
    """Products of levels in a data set: a list of levels per target, where an empty list means all levels."""

    def codes(name: str, values: Iterable[Any] | None) -> list[int]:
        return [] if spec.covers or name in covered or values is None else domains[name].codes(values)

    if spec.combinations is None or spec.covers:
        return [[codes(name, spec.do[name]) for name in targets]]
    positions = [list(spec.do).index(name) for name in targets]
    boxes: dict[tuple[frozenset[int], ...], None] = {}
    for combination in spec.combinations:
        values = [None if combination[k] is None else (combination[k],) for k in positions]
        boxes[tuple(frozenset(codes(*pair)) for pair in zip(targets, values, strict=True))] = None
    # unite products that differ in a single target
    for k in range(len(targets)):
        merged: dict[tuple[frozenset[int], ...], frozenset[int]] = {}
        for box in boxes:
            rest = (*box[:k], *box[k + 1 :])
            before = merged.get(rest, box[k])
            merged[rest] = before | box[k] if before and box[k] else frozenset()
        boxes = {(*rest[:k], levels, *rest[k:]): None for rest, levels in merged.items()}
    return [[sorted(levels) for levels in box] for box in boxes]


@dataclass(frozen=True)
class Domain:
    """Levels of a variable that is intervened on.

    Attributes:
        size: Number of levels; 0 if only a data set with every value covers the variable.
        order: The known levels.
    """

    size: int
    order: tuple[Any, ...]

    def codes(self, values: Iterable[Any]) -> list[int]:
        """Codes of values; ``size`` for a value that is not a level."""
        # unknown values get an extra code, because an empty list would mean every level
        return [self.order.index(value) if value in self.order else self.size for value in values]


def domains_of(
    specs: Sequence[DatasetSpec], kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> dict[str, Domain]:
    """Levels of every variable set in any data set, from ``levels`` or from the values set."""
    set_values: dict[str, dict[Any, None]] = {}
    for spec in specs:
        for name, values in spec.do.items():
            set_values.setdefault(name, {}).update(dict.fromkeys(values or ()))
    domains = {}
    for name, values_set in set_values.items():
        finite = kinds.get(name, "categorical") == "categorical"
        order = tuple(levels[name]) if finite and name in levels else tuple(values_set)
        # a single value does not show that there are no others
        size = len(order) if finite and (name in levels or len(order) > 1) else 0
        domains[name] = Domain(size, order)
    return domains


def _spans(
    name: str, specs: Sequence[DatasetSpec], kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> bool:
    """Whether the values of a continuous variable set in datasets count as all of them."""
    if kinds.get(name, "categorical") != "continuous":
        return False
    values = {value for spec in specs for value in spec.do[name] or ()}
    if len(values) < MIN_VALUES:
        return False
    low, high = (min(levels[name]), max(levels[name])) if levels.get(name) else (min(values), max(values))
    return bool(min(values) <= low and max(values) >= high)
