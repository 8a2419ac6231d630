"""Charts and drawings as inline SVG, with colours from custom properties of the page (light and dark)."""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import re
from typing import Any

from mdcm.report.figures import Chart, Picture
from mdcm.text.printable import escaped, printable

__all__ = ["NO_CHARTS", "can_draw", "draw_chart", "draw_picture", "drawn_width"]

NO_CHARTS = "charts are left out, because matplotlib is not installed: pip install 'mdcm[report]'"


# placeholder colours of matplotlib, and the custom properties that replace them
_SERIES = ("#0000a1", "#0000a2", "#0000a3", "#0000a4", "#0000a5", "#0000a6")
_INK, _GRID, _FLOOR = "#0000b1", "#0000b2", "#0000b3"
_ROLES = {
    **{color: f"var(--series-{k})" for k, color in enumerate(_SERIES, start=1)},
    _INK: "var(--ink-soft)",
    _GRID: "var(--line)",
    _FLOOR: "var(--floor)",
}
# colours of the package's drawings
_DRAWING_COLORS = {
    "#1f2933": "var(--ink)",
    "#5b6b7b": "var(--ink-soft)",
    "#b4461f": "var(--hidden)",
    "#0b6e4f": "var(--asked)",
    "#ffffff": "var(--surface)",
    "#f4f7fb": "var(--box)",
    "#f6b49b": "var(--inner)",
    "#fde6d8": "var(--outer)",
}
_WIDTH = re.compile(r'\bwidth="([\d.]+)(?:pt|px)?"')
_MARKERS = "osD^vP"
_MAX_MARKERS = 12
_SIZE = (5.4, 3.5)
# total length of names up to which bars are vertical; beyond it they are horizontal, with the names above them
_VERTICAL = 60
# height of a name in bars, and of a bar in inches
_TITLE, _BAR = 1.6, 0.15


def can_draw() -> bool:
    """Whether matplotlib, which draws the charts, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_chart(chart: Chart, prefix: str) -> str:
    """Draw a chart as an ``svg`` element.

    Args:
        chart: The data.
        prefix: Prefix of all identifiers, which must be unique in a page.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    matplotlib = importlib.import_module("matplotlib")
    figure_module = importlib.import_module("matplotlib.figure")
    settings = {
        # dollar signs in names do not start formulas
        "text.parse_math": False,
        "svg.fonttype": "none", "svg.hashsalt": prefix, "font.family": "sans-serif", "font.size": 11,
        "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK,
        "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "grid.color": _GRID,
        "legend.frameon": False, "lines.linewidth": 2.0, "path.simplify_threshold": 0.5,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        horizontal = chart.kind == "bars" and sum(len(str(name)) for name in chart.lines[0].x) > _VERTICAL
        size = (_SIZE[0], _horizontal_height(chart)) if horizontal else _SIZE
        figure = figure_module.Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(axis="x" if horizontal else "y", linewidth=0.8)
        axes.set_axisbelow(True)
        if horizontal:
            _horizontal_groups(axes, chart)
        elif chart.kind == "bars":
            _groups(axes, chart)
        else:
            _lines(axes, chart)
        _levels(axes, chart, horizontal=horizontal)
        axes.set_xlabel(printable(chart.y_label if horizontal else chart.x_label))
        axes.set_ylabel(printable(chart.x_label if horizontal else chart.y_label))
        entries = len(chart.lines) + len(chart.levels)
        if entries > 1:
            figure.legend(
                loc="outside upper left", ncols=min(entries, 3), handlelength=1.6, columnspacing=1.2, fontsize=10
            )
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), prefix, chart.alt, _ROLES)


def draw_picture(picture: Picture, prefix: str) -> str:
    """Convert a drawing to an ``svg`` element with the colours of the page."""
    return _inline(picture.svg, prefix, picture.alt, _DRAWING_COLORS)


def drawn_width(picture: Picture) -> float:
    """Width of a drawing in pixels; 0 if it does not state one."""
    width = _WIDTH.search(picture.svg[: picture.svg.index(">") + 1])
    return float(width[1]) if width else 0.0


def _lines(axes: Any, chart: Chart) -> None:
    for k, line in enumerate(chart.lines):
        axes.plot(
            line.x, line.y, label=printable(line.label), color=_INK if line.dashed else _SERIES[k % len(_SERIES)],
            linestyle="--" if line.dashed else "-", markersize=5,
            # many markers would look like a thick line
            marker=_MARKERS[k % len(_MARKERS)] if len(line.x) <= _MAX_MARKERS else None,
        )  # fmt: skip
    if chart.log_x:
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    if chart.log_y and all(value > 0 for line in chart.lines for value in line.y):
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)


def _plain_ticks(axis: Any) -> None:
    """Label ticks with decimals instead of powers of ten, and minor ticks at 2 and 5."""
    ticker = importlib.import_module("matplotlib.ticker")

    def minor_label(value: float, _: int) -> str:
        return f"{value:g}" if f"{value:e}"[0] in "25" else ""

    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.FuncFormatter(minor_label))


def _groups(axes: Any, chart: Chart) -> None:
    names = list(chart.lines[0].x)
    width = 0.8 / len(chart.lines)
    for k, line in enumerate(chart.lines):
        positions = [i + (k - (len(chart.lines) - 1) / 2) * width for i in range(len(names))]
        axes.bar(positions, line.y, 0.9 * width, label=printable(line.label), color=_SERIES[k % len(_SERIES)])
    axes.set_xticks(range(len(names)), [printable(str(name)) for name in names])


def _horizontal_height(chart: Chart) -> float:
    return max(_SIZE[1], 1.2 + (len(chart.lines) + _TITLE) * len(chart.lines[0].x) * _BAR)


def _horizontal_groups(axes: Any, chart: Chart) -> None:
    """Draw horizontal bars, with each group's name above it."""
    names = list(chart.lines[0].x)
    step = len(chart.lines) + _TITLE
    for k, line in enumerate(chart.lines):
        positions = [i * step + _TITLE + k for i in range(len(names))]
        axes.barh(positions, line.y, 0.9, label=printable(line.label), color=_SERIES[k % len(_SERIES)])
    for i, name in enumerate(names):
        axes.text(0, i * step + _TITLE - 1, f" {printable(str(name))}", va="center", fontsize=10)
    axes.set_ylim(len(names) * step - 0.2, -0.4)
    axes.set_yticks([])


def _levels(axes: Any, chart: Chart, *, horizontal: bool) -> None:
    for k, (label, value) in enumerate(chart.levels.items()):
        if math.isfinite(value):
            draw = axes.axvline if horizontal else axes.axhline
            draw(value, color=_FLOOR, linewidth=1.4, linestyle=(0, (5, 2 + k)), label=printable(label))


def _inline(svg: str, prefix: str, alt: str, colors: dict[str, str]) -> str:
    """Extract the ``svg`` element, labelled, without metadata, namespaces and sizes, and with prefixed identifiers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')
    for color, role in colors.items():
        svg = svg.replace(color, role)
    # the background of the page is the background of the drawing
    svg = re.sub(r'<rect width="\d+" height="\d+" fill="var\(--surface\)"/>', "", svg, count=1)
    head, body = svg[: svg.index(">") + 1], svg[svg.index(">") + 1 :]
    width = _WIDTH.search(head)
    head = re.sub(r'\s(?:width|height|version|role)="[^"]*"', "", head)
    # at most its drawn width; on narrow screens it scrolls before its text becomes too small
    limit = f' style="max-width:{float(width[1]):.0f}px;min-width:{0.75 * float(width[1]):.0f}px"' if width else ""
    head = head[:-1] + f' role="img" aria-label="{escaped(alt)}"{limit}>'
    return _without_title(head + body).rstrip()


def _without_title(svg: str) -> str:
    # redundant with the label, and a title of the whole picture would hide the tooltips of its parts
    return re.sub(r"(<svg[^>]*>)\s*<title>.*?</title>", r"\1", svg, count=1, flags=re.DOTALL)
