"""Tables and charts of results, the same for all experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

from mdcm.experiments.methods import Curve
from mdcm.experiments.records import ANSWERS, COST, FITTED, Result, select
from mdcm.planning import Plan
from mdcm.report.page import Chart, Line, Picture, Table, number

__all__ = ["bar_chart", "convergence", "plan_picture", "result_tables", "size_chart"]

_LONGEST_NAME = 64


def result_tables(results: Sequence[Result], captions: Mapping[str, str]) -> list[Table]:
    """One table for each group of quantities, with a row per quantity and a column per method.

    Args:
        results: The results.
        captions: Explanations of groups.
    """
    order = {FITTED: 0, ANSWERS: 1, COST: 3}
    groups = sorted(dict.fromkeys(result.group for result in results), key=lambda group: order.get(group, 2))
    return [_table(group, select(results, group=group), captions.get(group, "")) for group in groups]


def _table(group: str, results: Sequence[Result], caption: str) -> Table:
    methods = list(dict.fromkeys(result.method for result in results))
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(_name(result), []).append(result)
    with_floors = any(result.floor is not None for result in results)
    cells = [
        [
            name, *(_cell(select(own, method=method)) for method in methods),
            *([next((row.floor for row in own if row.floor is not None), None)] if with_floors else []),
        ]
        for name, own in rows.items()
    ]  # fmt: skip
    ranges = any(isinstance(cell, str) for row in cells for cell in row[1:])
    note = " ".join([*([caption] if caption else []), *(["Means, and ranges over seeds."] if ranges else [])])
    return Table(group, ["", *methods, *(["floor"] if with_floors else [])], cells, note)


def _name(result: Result) -> str:
    return f"{result.quantity}, {result.problem}" if result.problem else result.quantity


def _cell(results: Sequence[Result]) -> Any:
    values = [result.value for result in results if result.value == result.value]
    if not values:
        return None
    if min(values) == max(values):
        return values[0]
    return f"{number(mean(values))} ({number(min(values))} to {number(max(values))})"


def bar_chart(title: str, results: Sequence[Result], group: str = ANSWERS, unit: str = "TVD, mean over seeds") -> Chart:
    """Groups of bars: quantities of a group, one bar per method that has them all, and one of the floors."""
    own = select(results, group=group)
    names = list(dict.fromkeys(map(_name, own)))
    # longer names would not fit into the chart
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    lines = []
    for method in dict.fromkeys(result.method for result in own):
        values = [[row.value for row in select(own, method=method) if _name(row) == name] for name in names]
        if all(values):
            lines.append(Line(method, shown, [mean(column) for column in values]))
    floors = [next((row.floor for row in own if _name(row) == name), None) for name in names]
    if None not in floors:
        lines.append(Line("floor", shown, [floor for floor in floors if floor is not None]))
    says = "; ".join(f"{line.label} {', '.join(f'{y:.4f}' for y in line.y)}" for line in lines)
    return Chart(title, "", unit, lines, f"Groups of bars, one per quantity: {says}.", kind="bars")


def size_chart(title: str, results: Sequence[Result], quantity: str, unit: str, *, log: bool = False) -> Chart:
    """A quantity against the number of variables, which the problem is named by: means, one line per method."""
    own = select(results, quantity=quantity)
    problems = {name: int(name.split()[1]) for name in dict.fromkeys(row.experiment for row in own)}

    def means(rows: Sequence[Result]) -> list[float]:
        return [mean(row.value for row in select(rows, experiment=name)) for name in problems]

    sizes = list(problems.values())
    lines = [
        Line(method, sizes, means(select(own, method=method))) for method in dict.fromkeys(row.method for row in own)
    ]
    if all(row.floor is not None for row in own):
        floors = means([replace(row, value=row.floor or 0.0) for row in own])
        lines.append(Line("sampling floor", sizes, floors, dashed=True))
    said = "; ".join(f"{line.label} {', '.join(f'{y:.4g}' for y in line.y)}" for line in lines)
    says = f"{unit.capitalize()} at {', '.join(map(str, sizes))} variables: {said}."
    return Chart(title, "variables", f"{unit}, mean", lines, says, log_x=log and len(sizes) > 1, log_y=log)


def convergence(
    curves: Mapping[str, Curve], problem: str, floors: Mapping[str, float | None], unit: str = "TVD to the truth"
) -> list[Chart]:
    """A chart for each quantity that was measured during the training, with one line per method.

    Args:
        curves: Curves by method.
        problem: Name of the problem, for the titles.
        floors: Floors by quantity.
        unit: Unit of the quantities.
    """
    charts = []
    for quantity in dict.fromkeys(name for curve in curves.values() for _, distances in curve for name in distances):
        lines = [
            Line(method, [at for at, _ in curve], [distances[quantity] for _, distances in curve])
            for method, curve in curves.items()
            if curve
        ]
        ends = "; ".join(f"{line.label} reaches {line.y[-1]:.4f} after {line.x[-1]:.1f} s" for line in lines)
        floor = floors.get(quantity)
        levels = {} if floor is None else {"sampling floor": floor}
        said = "" if floor is None else f" Sampling floor {floor:.4f}."
        title = f"Distance of {quantity} while it is learned{f', {problem}' if problem else ''}"
        charts.append(Chart(
            title, "seconds of training", unit, lines, f"Distance against time, one line per method: {ends}.{said}",
            levels=levels, log_x=True, log_y=True,
        ))  # fmt: skip
    return charts


def plan_picture(title: str, plan: Plan) -> Picture:
    """A plan with its h-nodes in words."""
    parts = "; ".join("{" + ", ".join(hnode.variables) + "}" for hnode in plan.hnodes)
    return Picture(title, plan.to_svg(), f"{len(plan.hnodes)} h-nodes in {len(plan.levels)} levels: {parts}.")
