"""Check that data sets match those that a plan was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mdcm.errors import PlanError
from mdcm.planning.pooling import MIN_VALUES
from mdcm.planning.records import DatasetSpec, Kind, Plan

__all__ = ["check_datasets"]


def check_datasets(
    plan: Plan,
    datasets: Sequence[DatasetSpec],
    *,
    kinds: Mapping[str, Kind],
    levels: Mapping[str, Sequence[Any]],
) -> None:
    """Raise PlanError if data sets differ from those of a plan in name, targets, values set or columns.

    The data sets of a plan determine what is identifiable, so observational data must not pass for an experiment, nor
    an experiment at a single value for an experiment at all values.

    Args:
        plan: The plan.
        datasets: The data sets to check.
        kinds: Kind of each variable, categorical by default.
        levels: Levels of categorical variables.

    Raises:
        PlanError: At the first difference, naming both sides.

    Example:
        >>> from mdcm.graph import ADMG
        >>> from mdcm.planning import plan
        >>> p = plan(ADMG.from_string("X -> Y; X <-> Y"), [DatasetSpec("seen"), DatasetSpec("trial", do=["X"])])
        >>> check_datasets(p, [DatasetSpec("seen"), DatasetSpec("trial")], kinds={}, levels={})
        Traceback (most recent call last):
            ...
        mdcm.errors.PlanError: the plan has do(X) in data set 'trial', but the data set at hand sets nothing
    """
    actual = {spec.name: spec for spec in datasets}
    planned = {spec.name: spec for spec in plan.datasets}
    for name in planned:
        if name not in actual:
            raise PlanError(f"the plan is for a data set {name!r}, which is not among {_shown(actual)}")
    for name in actual:
        if name not in planned:
            raise PlanError(f"data set {name!r} is not among the plan's, {_shown(planned)}; make a new plan with it")
    for name, spec in planned.items():
        _check_targets(name, spec, actual[name], kinds, levels)
        _check_columns(name, spec, actual[name], plan.graph.nodes)


def _check_targets(
    name: str, planned: DatasetSpec, actual: DatasetSpec, kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> None:
    if set(planned.do) != set(actual.do):
        raise PlanError(
            f"the plan has {_intervention(planned)} in data set {name!r}, "
            f"but the data set at hand sets {', '.join(sorted(actual.do)) or 'nothing'}"
        )
    for target, planned_values in planned.do.items():
        values = actual.do[target]
        if all(_is_every(target, side, kinds, levels) for side in (planned_values, values)):
            continue
        if planned_values is not None and values is not None and set(planned_values) == set(values):
            continue
        raise PlanError(
            f"the plan has do({target}) at {_listed(planned_values)} in data set {name!r}, "
            f"but the data set at hand sets {target} to {_listed(values)}"
        )
    if planned.covers or actual.covers:
        return
    combinations_of = [_combinations(spec) for spec in (planned, actual)]
    if combinations_of[0] != combinations_of[1]:
        counts = [
            "every combination of these values" if combinations is None else f"{len(combinations)} combinations of them"
            for combinations in combinations_of
        ]
        raise PlanError(
            f"the plan has {_intervention(planned)} at {counts[0]} in data set {name!r}, but the data set at hand "
            f"has {counts[1] if counts[0] != counts[1] else 'others'}; make a new plan with it"
        )


def _combinations(spec: DatasetSpec) -> set[frozenset[tuple[str, Any]]] | None:
    """Combinations of values set together, in any order of targets; None if all combinations occur."""
    if spec.combinations is None:
        return None
    return {frozenset(zip(spec.do, combination, strict=True)) for combination in spec.combinations}


def _check_columns(name: str, planned: DatasetSpec, actual: DatasetSpec, nodes: Iterable[str]) -> None:
    variables = set(nodes)

    def columns(spec: DatasetSpec) -> set[str]:
        return variables if spec.columns is None else variables & {*spec.columns, *spec.do}

    missing, extra = columns(planned) - columns(actual), columns(actual) - columns(planned)
    if missing:
        raise PlanError(
            f"the plan has {_shown(sorted(missing))} among the columns of data set {name!r}, "
            "which the data set at hand does not observe"
        )
    if extra:
        raise PlanError(
            f"the data set {name!r} at hand observes {_shown(sorted(extra))}, which the plan does not have among "
            "its columns; leave the columns out, or make a new plan"
        )


def _is_every(
    target: str, values: Sequence[Any] | None, kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> bool:
    """Whether values count as all that a variable can take."""
    if values is None:
        return True
    if kinds.get(target, "categorical") == "categorical":
        return target in levels and set(levels[target]) <= set(values)
    return len(set(values)) >= MIN_VALUES


def _intervention(spec: DatasetSpec) -> str:
    return f"do({', '.join(sorted(spec.do))})" if spec.do else "no intervention"


def _listed(values: Sequence[Any] | None) -> str:
    return "every value" if values is None else _shown(values)


def _shown(values: Iterable[Any]) -> str:
    shown = [repr(value) for value in values]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
