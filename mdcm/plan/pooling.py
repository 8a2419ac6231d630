"""Data sets as the compiled algorithms take them: pooled by targets and columns, values as numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdcm import _core
from mdcm.errors import GraphError, PlanError
from mdcm.graph import ADMG
from mdcm.plan.records import DatasetSpec, Kind

__all__ = ["FEWEST_VALUES", "Domain", "checked", "domains_of", "pooled"]

# so many distinct values of a continuous variable can stand for all of them
FEWEST_VALUES = 20


def checked(graph: ADMG, datasets: Sequence[DatasetSpec] | None) -> tuple[DatasetSpec, ...]:
    """The datasets, one observational one of all variables if there is None.

    Raises:
        PlanError: If there is none, two have one name, or one sets what is no node.
    """
    specs = (DatasetSpec("d1"),) if datasets is None else tuple(datasets)
    if not specs:
        raise PlanError("there is no dataset to plan for")
    seen: set[str] = set()
    for spec in specs:
        if not isinstance(spec, DatasetSpec):
            raise PlanError(f"datasets holds {spec!r}; it takes DatasetSpec objects")
        if spec.name in seen:
            raise PlanError(f"two datasets are called {spec.name!r}; give each a name of its own")
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
    """Datasets pooled by targets and columns, and the indices of the datasets in every group."""
    for name in levels:
        try:
            graph.index(name)
        except GraphError as error:
            raise GraphError(f"levels: {error}") from None
    # None where every node is known; the set of all nodes costs more than a small question to a large graph
    found: dict[tuple[frozenset[str], frozenset[str] | None], list[int]] = {}
    for j, spec in enumerate(specs):
        known = None if spec.columns is None else frozenset(v for v in (*spec.columns, *spec.do) if v in graph)
        if known is not None and len(known) == len(graph):
            known = None
        found.setdefault((frozenset(spec.do), known), []).append(j)
    domains = domains_of(specs, kinds, levels)
    groups: list[_core.DatasetGroup] = []
    for (do, columns), members in found.items():
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
    return groups, list(found.values())


def _boxes(
    spec: DatasetSpec, targets: Sequence[str], covered: set[str], domains: Mapping[str, Domain]
) -> list[list[list[int]]]:
    """Products of levels that a data set has, a list of levels for every target; an empty one stands for all."""

    def codes(name: str, values: Iterable[Any] | None) -> list[int]:
        return [] if spec.covers or name in covered or values is None else domains[name].codes(values)

    if spec.combinations is None or spec.covers:
        return [[codes(name, spec.do[name]) for name in targets]]
    places = [list(spec.do).index(name) for name in targets]
    boxes: dict[tuple[frozenset[int], ...], None] = {}
    for combination in spec.combinations:
        values = [None if combination[place] is None else (combination[place],) for place in places]
        boxes[tuple(frozenset(codes(*pair)) for pair in zip(targets, values, strict=True))] = None
    # those that differ in one target alone are one product
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
    """The levels of a variable that is intervened on.

    Attributes:
        size: Their number; 0 where only a data set that sets every value covers the variable.
        order: The levels known.
    """

    size: int
    order: tuple[Any, ...]

    def codes(self, values: Iterable[Any]) -> list[int]:
        """Numbers of values; ``size`` for one that is no level."""
        # a value that is no level stands for none of them, and a list must not become empty: that means every level
        return [self.order.index(value) if value in self.order else self.size for value in values]


def domains_of(
    specs: Sequence[DatasetSpec], kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> dict[str, Domain]:
    """Levels of every variable that some data set sets, from ``levels`` or from the values set."""
    set_values: dict[str, dict[Any, None]] = {}
    for spec in specs:
        for name, values in spec.do.items():
            set_values.setdefault(name, {}).update(dict.fromkeys(values or ()))
    domains = {}
    for name, found in set_values.items():
        finite = kinds.get(name, "categorical") == "categorical"
        order = tuple(levels[name]) if finite and name in levels else tuple(found)
        # one value alone is no reason to believe that there are no others
        size = len(order) if finite and (name in levels or len(order) > 1) else 0
        domains[name] = Domain(size, order)
    return domains


def _spans(
    name: str, specs: Sequence[DatasetSpec], kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> bool:
    """Whether the values that datasets set of a continuous variable stand for all of them."""
    if kinds.get(name, "categorical") != "continuous":
        return False
    values = {value for spec in specs for value in spec.do[name] or ()}
    if len(values) < FEWEST_VALUES:
        return False
    low, high = (min(levels[name]), max(levels[name])) if levels.get(name) else (min(values), max(values))
    return bool(min(values) <= low and max(values) >= high)
