"""Whether data sets are those that a plan was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mdcm.errors import PlanError
from mdcm.plan.pooling import FEWEST_VALUES
from mdcm.plan.records import DatasetSpec, Kind, Plan

__all__ = ["check_datasets"]


def check_datasets(
    plan: Plan,
    datasets: Sequence[DatasetSpec],
    *,
    kinds: Mapping[str, Kind],
    levels: Mapping[str, Sequence[Any]],
) -> None:
    """Refuse data sets that differ from those of a plan in name, targets, values set or columns.

    What a plan claims of its data decides what counts as identifiable, so a table of passive observation must not pass
    for an experiment, nor an experiment at one value for one at all values.

    Args:
        plan: The plan.
        datasets: The data sets at hand.
        kinds: Kind of each variable, categorical unless said.
        levels: Levels of categorical variables.

    Raises:
        PlanError: At the first difference, with what the plan has and what the data have.

    Example:
        >>> from mdcm.graph import ADMG
        >>> from mdcm.plan import plan
        >>> made = plan(ADMG.from_string("X -> Y; X <-> Y"), [DatasetSpec("seen"), DatasetSpec("trial", do=["X"])])
        >>> check_datasets(made, [DatasetSpec("seen"), DatasetSpec("trial")], kinds={}, levels={})
        Traceback (most recent call last):
            ...
        mdcm.errors.PlanError: the plan has do(X) in data set 'trial', but the data set at hand sets nothing
    """
    mine = {spec.name: spec for spec in datasets}
    planned = {spec.name: spec for spec in plan.datasets}
    for name in planned:
        if name not in mine:
            raise PlanError(f"the plan is for a data set {name!r}, which is not among {_shown(mine)}")
    for name in mine:
        if name not in planned:
            raise PlanError(f"data set {name!r} is none of the plan's, which are {_shown(planned)}; plan with it anew")
    for name, spec in planned.items():
        _check_targets(name, spec, mine[name], kinds, levels)
        _check_columns(name, spec, mine[name], plan.graph.nodes)


def _check_targets(
    name: str, planned: DatasetSpec, mine: DatasetSpec, kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> None:
    if set(planned.do) != set(mine.do):
        raise PlanError(
            f"the plan has {_intervention(planned)} in data set {name!r}, "
            f"but the data set at hand sets {', '.join(sorted(mine.do)) or 'nothing'}"
        )
    for target, wanted in planned.do.items():
        values = mine.do[target]
        every = [_is_every(target, one, kinds, levels) for one in (wanted, values)]
        if all(every) or (wanted is not None and values is not None and set(wanted) == set(values)):
            continue
        raise PlanError(
            f"the plan has do({target}) at {_listed(wanted)} in data set {name!r}, "
            f"but the data set at hand sets {target} to {_listed(values)}"
        )
    if planned.covers or mine.covers:
        return
    together = [_together(spec) for spec in (planned, mine)]
    if together[0] != together[1]:
        number = [
            "every combination of these values" if one is None else f"{len(one)} combinations of them"
            for one in together
        ]
        raise PlanError(
            f"the plan has {_intervention(planned)} at {number[0]} in data set {name!r}, but the data set at hand "
            f"has {number[1] if number[0] != number[1] else 'others'}; plan with it anew"
        )


def _together(spec: DatasetSpec) -> set[frozenset[tuple[str, Any]]] | None:
    """Values that were set together, whatever the order of the targets; None where these are all combinations."""
    if spec.combinations is None:
        return None
    return {frozenset(zip(spec.do, combination, strict=True)) for combination in spec.combinations}


def _check_columns(name: str, planned: DatasetSpec, mine: DatasetSpec, nodes: Iterable[str]) -> None:
    of_graph = set(nodes)

    def columns(spec: DatasetSpec) -> set[str]:
        return of_graph if spec.columns is None else of_graph & {*spec.columns, *spec.do}

    lacking, further = columns(planned) - columns(mine), columns(mine) - columns(planned)
    if lacking:
        raise PlanError(
            f"the plan has {_shown(sorted(lacking))} among the columns of data set {name!r}, "
            "which the data set at hand does not observe"
        )
    if further:
        raise PlanError(
            f"the data set {name!r} at hand observes {_shown(sorted(further))}, which the plan does not have among "
            "its columns; leave the columns out, or plan anew"
        )


def _is_every(
    target: str, values: Sequence[Any] | None, kinds: Mapping[str, Kind], levels: Mapping[str, Sequence[Any]]
) -> bool:
    """Whether values stand for all that a variable can take."""
    if values is None:
        return True
    if kinds.get(target, "categorical") == "categorical":
        return target in levels and set(levels[target]) <= set(values)
    return len(set(values)) >= FEWEST_VALUES


def _intervention(spec: DatasetSpec) -> str:
    return f"do({', '.join(sorted(spec.do))})" if spec.do else "no intervention"


def _listed(values: Sequence[Any] | None) -> str:
    return "every value" if values is None else _shown(values)


def _shown(values: Iterable[Any]) -> str:
    shown = [repr(value) for value in values]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
