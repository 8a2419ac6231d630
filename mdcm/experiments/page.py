"""The report of an experiment: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mdcm.experiments.charts import draw_chart, draw_picture
from mdcm.experiments.records import Bar, Findings, Photo, Table

__all__ = ["render_page"]

# tables of more columns take the whole width
_NARROW = 5
_STYLE = """
:root { color-scheme: light dark;
  --paper: #f5f4f0; --surface: #ffffff; --ink: #1c2430; --ink-soft: #55606e; --line: #dcdcd5; --accent: #0f5c8c;
  --met: #1f7a4d; --met-soft: #dff0e6; --missed: #b3361e; --missed-soft: #f9e2dc; --open: #6b6f76; --open-soft: #ececea;
  --hidden: #b4461f; --asked: #0b6e4f; --floor: #7d5ba6; --box: #f2f6fa; --inner: #f6b49b; --outer: #fde6d8;
  --series-1: #0f6fb0; --series-2: #d0681c; --series-3: #2b8a5b; --series-4: #b03a6f; --series-5: #8a7413;
  --series-6: #6a5acd; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12161c; --surface: #1b212a; --ink: #e8eaed; --ink-soft: #a4afbc; --line: #353d49; --accent: #74bdea;
  --met: #62cc93; --met-soft: #173626; --missed: #ff9078; --missed-soft: #43211b; --open: #a7adb6; --open-soft: #2a313b;
  --hidden: #f2936c; --asked: #5fd3a5; --floor: #bb9be6; --box: #232c38; --inner: #7a3620; --outer: #47291d;
  --series-1: #5cb3f0; --series-2: #f4a261; --series-3: #5fcf97; --series-4: #ee84b1; --series-5: #d9c24a;
  --series-6: #a99cf5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
header, main, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; padding-bottom: .5rem; }
.kicker { margin: 0; color: var(--ink-soft); font-size: .85rem; letter-spacing: .04em; }
h1 { margin: .15rem 0 .6rem; font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.15; letter-spacing: -.015em; }
h2 { margin: 2.4rem 0 .8rem; font-size: 1.25rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; }
p { margin: .4rem 0; max-width: 68ch; }
.verdict { display: inline-block; margin: .6rem 0 .4rem; padding: .35rem .9rem; border-radius: 2rem; font-weight: 600; }
.met { color: var(--met); } .missed { color: var(--missed); } .open { color: var(--open); }
.verdict.met { background: var(--met-soft); } .verdict.missed { background: var(--missed-soft); }
.verdict.open { background: var(--open-soft); }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: .8rem;
  padding: 1rem 1.1rem; margin: 0; min-width: 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.wide { grid-column: 1 / -1; }
.bars { display: grid; gap: 1rem 2.5rem; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); margin: 0; list-style: none; }
.bar { display: grid; align-content: start; grid-template-columns: 1fr auto; gap: .1rem 1rem; align-items: baseline; }
.bar .what { font-weight: 550; overflow-wrap: anywhere; }
.bar .state { font-weight: 600; white-space: nowrap; }
.bar .numbers, .bar .note { color: var(--ink-soft); font-size: .87rem; grid-column: 1 / -1; }
.track { grid-column: 1 / -1; position: relative; height: .6rem; border-radius: .3rem; background: var(--open-soft); }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: .3rem; background: currentColor; }
.limit { position: absolute; top: -.2rem; bottom: -.2rem; width: .16rem; background: var(--ink); border-radius: .1rem; }
figure svg { width: 100%; height: auto; display: block; }
figure.chart svg { max-width: 38rem !important; min-width: 18rem !important; margin: 0 auto; }
figcaption { font-weight: 600; margin-bottom: .6rem; }
svg text { font-family: inherit; }
.scroll { overflow-x: auto; }
.photo { grid-column: 1 / -1; } .photo img { display: block; max-width: 100%; min-width: 420px; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .36rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--ink-soft); font-weight: 600; vertical-align: bottom; }
thead th { white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { color: var(--ink); font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
.small { color: var(--ink-soft); font-size: .87rem; }
.notes { padding-left: 1.1rem; max-width: 75ch; } .notes li { margin: .35rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: 0; font-size: .92rem; }
dt { color: var(--ink-soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { padding-top: 1.5rem; padding-bottom: 3rem; }
@media print { body { background: none; } .card { break-inside: avoid; } }
"""


def render_page(record: Mapping[str, Any], findings: Findings) -> str:
    """The page.

    Args:
        record: What metrics.json says of the run: names, seeds, machine, versions, times.
        findings: What the experiment found.

    Returns:
        An HTML document without references to anything outside of it.

    Raises:
        MdcmError: If there are charts to draw and matplotlib is not installed.
    """
    section = f"Section {record['section']} of Rahman & Kocaoglu (2024)" if record["section"] else "Not in the paper"
    size = "fast size: smaller than what the numbers are asked of" if record["size"] == "fast" else "full size"
    head = (
        f'<p class="kicker">{escape(section)} · {escape(size)}</p>\n<h1>{escape(record["title"])}</h1>\n'
        f"{_verdict(findings.bars)}\n<p>{escape(record['summary'])}</p>"
    )
    parts = [_section("Asked and reached", _bars(findings.bars))] if findings.bars else []
    if findings.charts:
        figures = "\n".join(
            _figure(chart.title, draw_chart(chart, f"c{k}"), "chart") for k, chart in enumerate(findings.charts)
        )
        parts.append(_section("In pictures", f'<div class="grid">{figures}</div>'))
    if findings.pictures:
        drawn = "\n".join(
            _figure(one.title, draw_picture(one, f"p{k}"), "drawing") for k, one in enumerate(findings.pictures)
        )
        parts.append(_section("Graph and plan", f'<div class="grid">{drawn}</div>'))
    if findings.photos:
        shown = "\n".join(_figure(one.title, _photo(one), "photo") for one in findings.photos)
        parts.append(_section("What it makes", f'<div class="grid">{shown}</div>'))
    if findings.tables:
        tables = "\n".join(_table(table, f"t{k}") for k, table in enumerate(findings.tables))
        parts.append(_section("In numbers", f'<div class="grid">{tables}</div>'))
    paper = f"<p>{escape(record['paper'])}</p>" if record["paper"] else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in findings.notes)
    if paper or notes:
        parts.append(
            _section("The paper, and what to know", paper + (f'<ul class="notes">{notes}</ul>' if notes else ""))
        )
    parts.append(_section("How it was run", _run(record)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(record['title'])} · mdcm experiment {escape(record['experiment'])}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n{head}\n</header>\n<main>\n"
        + "\n".join(parts)
        + f'\n</main>\n<footer class="small">mdcm {escape(record["versions"]["mdcm"])} · {escape(record["command"])} · '
        f"{escape(record['started'])}</footer>\n</body>\n</html>\n"
    )


def number(value: float | str | int | None) -> str:
    """A number as it is shown: four significant digits, whole numbers as they are."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    # what rounds to zero is no zero
    return f"{value:.4f}" if abs(value) >= 5e-5 else f"{value:.2g}"


def verdict(bars: Sequence[Bar]) -> tuple[str, str]:
    """Class and sentence: how many of the bars that are judged are met."""
    judged = [bar for bar in bars if bar.judged]
    missed = sum(not bar.met for bar in judged)
    if not judged:
        return "open", "Nothing is judged at this size"
    if missed:
        return "missed", f"{missed} of {len(judged)} missed"
    return "met", f"All {len(judged)} reached" if len(judged) > 1 else "Reached"


def _verdict(bars: Sequence[Bar]) -> str:
    kind, text = verdict(bars)
    return f'<p class="verdict {kind}">{escape(text)}</p>'


def _bars(bars: Sequence[Bar]) -> str:
    items = []
    for bar in bars:
        kind = "open" if not bar.judged else "met" if bar.met else "missed"
        state = {"met": "✓ reached", "missed": "✗ missed", "open": "not judged"}[kind]
        # the limit stands at 70 % of the track, and what is beyond the track's end is cut off
        scale = 0.7 / bar.limit if bar.limit > 0 else 0.0
        width = 100 * min(1.0, bar.value * scale) if bar.value == bar.value and scale else 0.0
        track = (
            f'<span class="track" aria-hidden="true"><span class="fill {kind}" style="width:{width:.1f}%"></span>'
            '<span class="limit" style="left:70%"></span></span>'
            if scale
            else ""
        )
        asked = "at most" if bar.relation == "<=" else "at least"
        note = f'<span class="note">{escape(bar.note)}</span>' if bar.note else ""
        items.append(
            f'<li class="bar"><span class="what">{escape(bar.what)}</span><span class="state {kind}">{state}</span>'
            f'{track}<span class="numbers">{number(bar.value)}, asked for {asked} {number(bar.limit)} '
            f"({escape(bar.unit)})</span>{note}</li>"
        )
    return f'<div class="card"><ul class="bars">{"".join(items)}</ul></div>'


def _figure(title: str, svg: str, kind: str) -> str:
    label = escape(title)
    return (
        f'<figure class="card {kind}"><figcaption>{label}</figcaption><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{label}">{svg}</div></figure>'
    )


def _photo(photo: Photo) -> str:
    encoded = base64.b64encode(photo.png).decode("ascii")
    return f'<img src="data:image/png;base64,{encoded}" alt="{escape(photo.says)}">'


def _table(table: Table, name: str) -> str:
    head = "".join(f'<th scope="col">{escape(str(column).strip())}</th>' for column in table.columns)
    columns = [_cells([row[k] for row in table.rows]) for k in range(len(table.columns))]
    rows = ""
    for first, *rest in zip(*columns, strict=True):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        rows += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    note = f'<p class="small">{escape(table.note)}</p>' if table.note else ""
    width = " wide" if len(table.columns) > _NARROW else ""
    # the title stands outside of what is scrolled, or it would be cut off on a phone
    return (
        f'<div class="card{width}"><h3 id="{name}">{escape(table.title)}</h3><div class="scroll" tabindex="0" '
        f'role="region" aria-labelledby="{name}"><table aria-labelledby="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _cells(values: Sequence[str | float | int | None]) -> list[str]:
    """A column as text: fractions with as many places as the others."""
    floats = [value for value in values if isinstance(value, float)]
    if any(not value.is_integer() for value in floats) and max(map(abs, floats)) < 1_000:
        places = 4 if max(map(abs, floats)) <= 1 else 2
        return [f"{value:.{places}f}" if isinstance(value, float) else number(value) for value in values]
    return [number(value) for value in values]


def _run(record: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, record["seeds"]))
    facts = {
        "Command": record["command"],
        "Seeds": seeds,
        "Compared": ", ".join(record["methods"]) or "nothing is trained",
        "Machine": ", ".join(f"{name} {value}" for name, value in record["machine"].items()),
        "Versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items()),
        "Time": f"{number(float(record['seconds']))} s",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    stages = Table("Time of each stage", ["stage", "seconds"], [[k, v] for k, v in record["stages"].items()])
    return f'<div class="grid"><div class="card"><h3>Run</h3><dl>{listed}</dl></div>{_table(stages, "stages")}</div>'


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"
