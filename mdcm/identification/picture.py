"""Drawing of the graph with the query's variables and the witness marked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from mdcm import query as language
from mdcm.graph import ADMG
from mdcm.identification.witness import Hedge, InconsistentFactor, UnknownFactor, Witness
from mdcm.text.printable import escaped

__all__ = ["draw"]

_INK = "#1f2933"
_EDGE = "#5b6b7b"
_HIDDEN = "#b4461f"
_FILLS = {"inner": "#f6b49b", "outer": "#fde6d8", "": "#ffffff"}
_ROLES = {"do": "set by do()", "given": "condition", "outcome": "outcome"}
_ROW, _GAP, _HEIGHT, _MARGIN = 78.0, 42.0, 30.0, 24.0
_CHAR = 7.4
_HEAD = 7.0


def draw(graph: ADMG, query: language.Expression | None = None, witness: Witness | None = None) -> str:
    """Draw a graph as an SVG document: directed edges as arrows, confounders as dashed arcs, a column for each depth.

    Args:
        graph: The graph.
        query: Query whose variables get a frame: double for interventions, bold for outcomes, dashed for conditions.
        witness: Witness whose sets are filled.
    """
    roles: dict[str, str] = {}
    for single in () if query is None else query.queries:
        for terms, role in ((single.given, "given"), (single.do, "do"), (single.outcomes, "outcome")):
            for term in terms:
                roles[term.variable] = role
                for setting in term.world:
                    roles.setdefault(setting.variable, "do")
    fills = _fills(witness)
    boxes = _boxes(graph)
    width = max((x + w for x, _, w in boxes.values()), default=0.0) + _MARGIN
    bottom = max((y for _, y, _ in boxes.values()), default=0.0) + _HEIGHT
    legend = _legend(roles, witness)
    longest = max((len(line) for _, line in legend), default=0)
    width = max(width, 2 * _MARGIN + 26 + 5.9 * longest)
    lifted = _MARGIN + 34.0
    height = bottom + lifted + _MARGIN + 18.0 * len(legend)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="13" '
        f'role="img"><title>{escaped(str(graph if query is None else query))}</title>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        f'<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="{_HEAD}" markerHeight="{_HEAD}" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{_EDGE}"/></marker>'
        f'<marker id="hidden" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="{_HEAD}" markerHeight="{_HEAD}" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{_HIDDEN}"/></marker>'
        f'<marker id="hidden-start" viewBox="0 0 8 8" refX="0" refY="4" markerWidth="{_HEAD}" '
        f'markerHeight="{_HEAD}" orient="auto"><path d="M8,0 L0,4 L8,8 z" fill="{_HIDDEN}"/></marker></defs>',
        f'<g transform="translate(0,{lifted:.0f})">',
    ]
    for tail, head in graph.directed:
        parts.append(_arrow(tail, head, boxes))
    for first, second in _pairs(graph):
        parts.append(_arc(first, second, boxes))
    for name, (x, y, w) in boxes.items():
        parts.append(_node(name, x, y, w, fills.get(name, ""), roles.get(name, "")))
    for k, (swatch, line) in enumerate(legend):
        y = bottom + _MARGIN + 18.0 * k
        parts.append(swatch.format(x=_MARGIN, y=y - 9))
        parts.append(f'<text x="{_MARGIN + 26:.0f}" y="{y:.0f}" font-size="11" fill="{_INK}">{escaped(line)}</text>')
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def _fills(witness: Witness | None) -> dict[str, str]:
    if isinstance(witness, Hedge):
        return {**dict.fromkeys(witness.outer, "outer"), **dict.fromkeys(witness.inner, "inner")}
    if isinstance(witness, UnknownFactor):
        return {**dict.fromkeys(witness.parents, "outer"), **dict.fromkeys(witness.variables, "inner")}
    if isinstance(witness, InconsistentFactor):
        names = (re.split(r"[\[=]", event)[0].strip("'") for event in witness.events)
        return {**dict.fromkeys(names, "outer"), witness.variable: "inner"}
    return {}


def _legend(roles: Mapping[str, str], witness: Witness | None) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []

    def box(fill: str, frame: str) -> str:
        return f'<rect x="{{x:.0f}}" y="{{y:.0f}}" width="18" height="11" rx="3" fill="{fill}" {frame}/>'

    thin = f'stroke="{_INK}"'
    if isinstance(witness, Hedge):
        cut = [v for v in witness.outer if v not in witness.inner]
        lines.append((box(_FILLS["inner"], thin), f"F' = {{{', '.join(witness.inner)}}}, the c-forest inside"))
        lines.append((box(_FILLS["outer"], thin), f"F without F': {', '.join(cut)}; hidden causes connect F"))
    elif isinstance(witness, UnknownFactor):
        lines.append((box(_FILLS["inner"], thin), f"{witness}: no data set determines it"))
    elif witness is not None:
        lines.append((box(_FILLS["inner"], thin), f"{witness.variable} needs two different values in {witness}"))
    for role in dict.fromkeys(roles.values()):
        lines.append((box("#ffffff", _frame(role)), _ROLES[role]))
    return lines


def _frame(role: str) -> str:
    if role == "do":
        return f'stroke="{_INK}" stroke-width="3.2" stroke-opacity="0.85"'
    if role == "outcome":
        return 'stroke="#0b6e4f" stroke-width="2.4"'
    if role == "given":
        return f'stroke="{_INK}" stroke-width="1.6" stroke-dasharray="4 3"'
    return f'stroke="{_INK}"'


def _boxes(graph: ADMG) -> dict[str, tuple[float, float, float]]:
    """Left, top and width of every node: columns by the longest directed path, staggered so that arcs are visible."""
    depth: dict[str, int] = {}
    for name in graph.topological_order():
        depth[name] = 1 + max((depth[p] for p in graph.parents(name)), default=-1)
    columns: dict[int, list[str]] = {}
    for name in graph.topological_order():
        columns.setdefault(depth[name], []).append(name)
    rows: dict[str, float] = {}
    boxes: dict[str, tuple[float, float, float]] = {}
    x = _MARGIN
    for k in sorted(columns):
        members = columns[k]
        # sort by the parents' rows, so that fewer arrows cross
        members.sort(key=lambda name: sum(rows[p] for p in graph.parents(name)) / max(len(graph.parents(name)), 1))
        w = max(_CHAR * len(name) for name in members) + 22
        for row, name in enumerate(members):
            rows[name] = row + 0.42 * (k % 2)
            boxes[name] = (x, rows[name] * _ROW, w)
        x += w + 2 * _GAP
    return boxes


def _pairs(graph: ADMG) -> list[tuple[str, str]]:
    pairs = list(graph.bidirected)
    for _, children in graph.latents:
        # a latent with many children as a chain of arcs, which is the same c-component
        pairs += list(itertools.pairwise(children))
    return pairs


def _arrow(tail: str, head: str, boxes: Mapping[str, tuple[float, float, float]]) -> str:
    x0, y0, w0 = boxes[tail]
    x1, y1, _ = boxes[head]
    start = (x0 + w0, y0 + _HEIGHT / 2)
    end = (x1, y1 + _HEIGHT / 2)
    # curve around other columns
    far = end[0] - start[0] > 2 * _GAP + 1
    lift = 0.28 * (end[0] - start[0]) if far and abs(y1 - y0) < _ROW / 2 else 0.0
    bend = (end[0] - start[0]) / 2
    return (
        f'<path d="M{start[0]:.1f},{start[1]:.1f} C{start[0] + bend:.1f},{start[1] + lift:.1f} '
        f'{end[0] - bend:.1f},{end[1] + lift:.1f} {end[0]:.1f},{end[1]:.1f}" fill="none" stroke="{_EDGE}" '
        f'stroke-width="1.5" marker-end="url(#head)"><title>{escaped(tail)} → {escaped(head)}</title></path>'
    )


def _arc(first: str, second: str, boxes: Mapping[str, tuple[float, float, float]]) -> str:
    (x0, y0, w0), (x1, y1, w1) = sorted((boxes[first], boxes[second]))
    start, end = (x0 + w0 / 2, y0), (x1 + w1 / 2, y1)
    if abs(start[0] - end[0]) < 1:
        # boxes in the same column: an arc to the left
        left = min(x0, x1) - 26
        start, end = (x0, y0 + _HEIGHT / 2), (x1, y1 + _HEIGHT / 2)
        middle = f"C{left:.1f},{start[1]:.1f} {left:.1f},{end[1]:.1f}"
    else:
        top = min(y0, y1) - 24 - 0.12 * abs(end[0] - start[0])
        top = max(top, -_MARGIN - 40)
        middle = f"C{start[0] + 8:.1f},{top:.1f} {end[0] - 8:.1f},{top:.1f}"
    return (
        f'<path d="M{start[0]:.1f},{start[1]:.1f} {middle} {end[0]:.1f},{end[1]:.1f}" fill="none" stroke="{_HIDDEN}" '
        f'stroke-width="1.4" stroke-dasharray="5 4" marker-start="url(#hidden-start)" marker-end="url(#hidden)">'
        f"<title>{escaped(first)} ↔ {escaped(second)}</title></path>"
    )


def _node(name: str, x: float, y: float, w: float, fill: str, role: str) -> str:
    tip = f"<title>{escaped(name)}{f': {_ROLES[role]}' if role else ''}</title>"
    return (
        f'<g>{tip}<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{_HEIGHT:.0f}" rx="6" '
        f'fill="{_FILLS[fill]}" {_frame(role)}/>'
        f'<text x="{x + w / 2:.1f}" y="{y + 20:.1f}" text-anchor="middle" fill="{_INK}">{escaped(name)}</text></g>'
    )
