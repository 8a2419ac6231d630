"""The report of an experiment as a self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mdcm.experiments.records import Criterion, Findings
from mdcm.report.page import Table, charts, document, facts, number, photos, pictures, section, table
from mdcm.text.printable import escaped

__all__ = ["render_page", "verdict"]


def render_page(record: Mapping[str, Any], findings: Findings) -> str:
    """Render the report.

    Args:
        record: Content of metrics.json: names, seeds, machine, versions, times.
        findings: Results of the experiment.

    Returns:
        An HTML document without external references.
    """
    where = f"Section {record['section']} of Rahman & Kocaoglu (2024)" if record["section"] else "Not in the paper"
    size = "fast size: smaller than the limits are for" if record["size"] == "fast" else "full size"
    head = (
        f'<p class="kicker">{escaped(where)} · {escaped(size)}</p>\n<h1>{escaped(record["title"])}</h1>\n'
        f"{_verdict(findings.criteria)}\n<p>{escaped(record['summary'])}</p>"
    )
    parts = [section("Limits and results", _criteria(findings.criteria))] if findings.criteria else []
    if findings.charts:
        parts.append(section("In pictures", charts(findings.charts)))
    if findings.pictures:
        parts.append(section("Graph and plan", pictures(findings.pictures)))
    if findings.photos:
        parts.append(section("Generated images", photos(findings.photos)))
    if findings.tables:
        tables = "\n".join(table(shown, f"t{k}") for k, shown in enumerate(findings.tables))
        parts.append(section("In numbers", f'<div class="grid">{tables}</div>'))
    paper = f"<p>{escaped(record['paper'])}</p>" if record["paper"] else ""
    notes = "".join(f"<li>{escaped(note)}</li>" for note in findings.notes)
    if paper or notes:
        parts.append(section("The paper, and remarks", paper + (f'<ul class="notes">{notes}</ul>' if notes else "")))
    parts.append(section("How it was run", _run(record)))
    title = f"{record['title']} · mdcm experiment {record['experiment']}"
    return document(
        title, head, parts, f"mdcm {record['versions']['mdcm']} · {record['command']} · {record['started']}"
    )


def verdict(criteria: Sequence[Criterion]) -> tuple[str, str]:
    """CSS class and sentence about the number of judged limits that are met."""
    judged = [criterion for criterion in criteria if criterion.judged]
    missed = sum(not criterion.met for criterion in judged)
    if not judged:
        return "open", "Nothing is judged at this size"
    if missed:
        return "missed", f"{missed} of {len(judged)} missed"
    return "met", f"All {len(judged)} reached" if len(judged) > 1 else "Reached"


def _verdict(criteria: Sequence[Criterion]) -> str:
    kind, text = verdict(criteria)
    return f'<p class="verdict {kind}">{escaped(text)}</p>'


def _criteria(criteria: Sequence[Criterion]) -> str:
    items = []
    for criterion in criteria:
        kind = "open" if not criterion.judged else "met" if criterion.met else "missed"
        state = {"met": "✓ reached", "missed": "✗ missed", "open": "not judged"}[kind]
        # the limit is at 70 % of the track; longer bars are cut off
        scale = 0.7 / criterion.limit if criterion.limit > 0 else 0.0
        width = 100 * min(1.0, criterion.value * scale) if criterion.value == criterion.value and scale else 0.0
        track = (
            f'<span class="track" aria-hidden="true"><span class="fill {kind}" style="width:{width:.1f}%"></span>'
            '<span class="limit" style="left:70%"></span></span>'
            if scale
            else ""
        )
        bound = "at most" if criterion.relation == "<=" else "at least"
        note = f'<span class="note">{escaped(criterion.note)}</span>' if criterion.note else ""
        items.append(
            f'<li class="bar"><span class="what">{escaped(criterion.what)}</span>'
            f'<span class="state {kind}">{state}</span>'
            f'{track}<span class="numbers">{number(criterion.value)}, limit {bound} {number(criterion.limit)} '
            f"({escaped(criterion.unit)})</span>{note}</li>"
        )
    return f'<div class="card"><ul class="bars">{"".join(items)}</ul></div>'


def _run(record: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, record["seeds"]))
    given = {
        "Command": record["command"],
        "Seeds": seeds,
        "Compared": ", ".join(record["methods"]) or "nothing is trained",
        "Machine": ", ".join(f"{name} {value}" for name, value in record["machine"].items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items()),
        "Time": f"{number(float(record['seconds']))} s",
    }
    stages = Table("Time of each stage", ["stage", "seconds"], [[k, v] for k, v in record["stages"].items()])
    return f'<div class="grid">{facts("Run", given)}{table(stages, "stages")}</div>'
