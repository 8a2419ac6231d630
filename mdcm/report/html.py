"""Self-contained HTML pages: no network access, light and dark, for small and large screens."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from mdcm.report.charts import NO_CHARTS, can_draw, draw_chart, draw_picture, drawn_width
from mdcm.report.figures import Chart, Photo, Picture, Table
from mdcm.text.printable import escaped

__all__ = ["charts", "document", "facts", "number", "photos", "pictures", "section", "table"]

# largest number of columns of a table of half the page's width
_NARROW = 5
# largest width in pixels of a drawing that fits half the page without scrolling
_CARD = 640
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
.after { margin-top: 1rem; }
figcaption { font-weight: 600; margin-bottom: .6rem; }
svg text { font-family: inherit; }
.scroll { overflow-x: auto; }
.photo, .wide { grid-column: 1 / -1; }
.photo img { display: block; max-width: 100%; min-width: 420px; border-radius: 6px; }
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


def document(title: str, head: str, parts: Sequence[str], foot: str) -> str:
    """A whole page.

    Args:
        title: Title of the window, plain text.
        head: HTML above all sections.
        parts: HTML of the sections.
        foot: Plain text below them.

    Returns:
        An HTML document without external references.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n{head}\n</header>\n<main>\n"
        + "\n".join(parts)
        + f'\n</main>\n<footer class="small">{escaped(foot)}</footer>\n</body>\n</html>\n'
    )


def section(title: str, content: str) -> str:
    """A section of HTML under a title."""
    return f"<section>\n<h2>{escaped(title)}</h2>\n{content}\n</section>"


def charts(items: Sequence[Chart], prefix: str = "c") -> str:
    """Charts side by side, or a sentence if matplotlib is not installed.

    Args:
        items: The charts.
        prefix: Prefix of identifiers, which must be unique in a page.
    """
    if not can_draw():
        return f'<p class="small">{escaped(NO_CHARTS[0].upper() + NO_CHARTS[1:])}.</p>'
    figures = "\n".join(
        _figure(chart.title, draw_chart(chart, f"{prefix}{k}"), "chart") for k, chart in enumerate(items)
    )
    return f'<div class="grid">{figures}</div>'


def pictures(items: Sequence[Picture], prefix: str = "p") -> str:
    """Drawings side by side, wide ones in separate rows, with prefixed identifiers."""
    figures = []
    for k, picture in enumerate(items):
        kind = "drawing wide" if drawn_width(picture) > _CARD else "drawing"
        figures.append(_figure(picture.title, draw_picture(picture, f"{prefix}{k}"), kind))
    html = "\n".join(figures)
    return f'<div class="grid">{html}</div>'


def photos(items: Sequence[Photo]) -> str:
    """Raster pictures in rows."""
    figures = "\n".join(_figure(photo.title, _photo(photo), "photo") for photo in items)
    return f'<div class="grid">{figures}</div>'


def number(value: float | str | int | None) -> str:
    """Format a number, rounded unless it is whole."""
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
    # a small number is not shown as zero
    return f"{value:.4f}" if abs(value) >= 5e-5 else f"{value:.2g}"


def table(data: Table, name: str) -> str:
    """A table in a box with its title, which has the identifier ``name``."""
    head = "".join(f'<th scope="col">{escaped(str(column).strip())}</th>' for column in data.columns)
    columns = [_cells([row[k] for row in data.rows]) for k in range(len(data.columns))]
    rows = ""
    for first, *rest in zip(*columns, strict=True):
        cells = "".join(f"<td>{escaped(cell)}</td>" for cell in rest)
        rows += f'<tr><th scope="row">{escaped(first)}</th>{cells}</tr>'
    note = f'<p class="small">{escaped(data.note)}</p>' if data.note else ""
    width = " wide" if len(data.columns) > _NARROW else ""
    # the title does not scroll with the table, which would cut it off on a small screen
    return (
        f'<div class="card{width}"><h3 id="{name}">{escaped(data.title)}</h3><div class="scroll" tabindex="0" '
        f'role="region" aria-labelledby="{name}"><table aria-labelledby="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _cells(values: Sequence[str | float | int | None]) -> list[str]:
    """Format a column, with the same number of decimals in all fractions."""
    floats = [value for value in values if isinstance(value, float)]
    if any(not value.is_integer() for value in floats) and max(map(abs, floats)) < 1_000:
        decimals = 4 if max(map(abs, floats)) <= 1 else 2
        return [f"{value:.{decimals}f}" if isinstance(value, float) else number(value) for value in values]
    return [number(value) for value in values]


def _figure(title: str, svg: str, kind: str) -> str:
    label = escaped(title)
    return (
        f'<figure class="card {kind}"><figcaption>{label}</figcaption><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{label}">{svg}</div></figure>'
    )


def _photo(photo: Photo) -> str:
    encoded = base64.b64encode(photo.png).decode("ascii")
    return f'<img src="data:image/png;base64,{encoded}" alt="{escaped(photo.alt)}">'


def facts(title: str, values: Mapping[str, Any]) -> str:
    """Names and values in a box with a title."""
    entries = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(str(value))}</dd>" for name, value in values.items())
    return f'<div class="card"><h3>{escaped(title)}</h3><dl>{entries}</dl></div>'
