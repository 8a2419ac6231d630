"""Boxes in columns with labelled arrows between them, as SVG and as Graphviz text."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from mdcm.text.printable import escaped

__all__ = ["Arrow", "Box", "Diagram"]

_CHAR = 6.7  # width of a character at 11 px, in px; sans-serif fonts are narrower on average
_LINE = 15
_PAD = 8
_GAP = 18
_LANE = 150
_SUB_LANE = 26
_WRAP = 36
_INK = "#1f2933"
_EDGE = "#5b6b7b"


@dataclass(frozen=True)
class Box:
    """One box.

    Attributes:
        title: Text in bold.
        notes: Further lines, smaller.
        column: Column, from 0.
        tip: Text shown on hovering.
    """

    title: str
    notes: tuple[str, ...]
    column: int
    tip: str = ""


@dataclass(frozen=True, order=True)
class Arrow:
    """An arrow from one box to another.

    Attributes:
        source: Index of the box where it starts.
        target: Index of the box where it ends.
        label: Text beside it.
    """

    source: int
    target: int
    label: str = ""


@dataclass(frozen=True)
class _Placed:
    x: float
    y: float
    width: float
    height: float
    title: list[str]
    notes: list[str]


@dataclass(frozen=True)
class Diagram:
    """Boxes in columns from left to right, and arrows between them.

    Attributes:
        boxes: The boxes.
        arrows: The arrows, by indices into ``boxes``.
    """

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    def to_dot(self) -> str:
        """Write Graphviz text.

        Returns:
            A digraph, boxes of one column on one rank.
        """
        lines = ["digraph plan {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
        for i, box in enumerate(self.boxes):
            text = "\\n".join(_dot(part) for part in (box.title, *box.notes))
            lines.append(f'  h{i} [label="{text}"];')
        for k in range(max((box.column for box in self.boxes), default=-1) + 1):
            rank = " ".join(f"h{i};" for i, box in enumerate(self.boxes) if box.column == k)
            lines.append(f"  {{ rank=same; {rank} }}")
        for arrow in self.arrows:
            lines.append(f'  h{arrow.source} -> h{arrow.target} [label="{_dot(arrow.label)}"];')
        return "\n".join([*lines, "}"]) + "\n"

    def to_svg(self) -> str:
        """Draw the diagram.

        Returns:
            A self-contained SVG document; hovering over a box or an arrow shows its text.
        """
        placed, width, height = self._place()
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="11">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{_EDGE}"/></marker></defs>',
        ]
        labels = []
        for arrow, landing in zip(self.arrows, self._landings(placed), strict=True):
            path, label = self._draw_arrow(arrow, placed, landing)
            parts.append(path)
            labels.append(label)
        for box, area in zip(self.boxes, placed, strict=True):
            parts.append(_draw_box(box, area))
        return "\n".join([*parts, *labels, "</svg>"]) + "\n"

    def _place(self) -> tuple[list[_Placed], float, float]:
        columns = self._columns()
        # aim for a picture slightly wider than high: full columns continue in a further one
        tall = max(8, math.ceil(1.5 * math.sqrt(len(self.boxes))))
        placed: dict[int, _Placed] = {}
        x, bottom = float(_GAP), 0.0
        for number, column in enumerate(columns):
            for start in range(0, len(column), tall):
                lane = column[start : start + tall]
                y, widest = float(_GAP), 0.0
                for i in lane:
                    area = self._size(i, x, y)
                    placed[i] = area
                    y += area.height + _GAP
                    widest = max(widest, area.width)
                bottom = max(bottom, y)
                x += widest + (_SUB_LANE if start + tall < len(column) else 0)
            x += _LANE if number + 1 < len(columns) else 0
        return [placed[i] for i in range(len(self.boxes))], x + _GAP, max(bottom, 2.0 * _GAP)

    def _columns(self) -> list[list[int]]:
        """Boxes by column; sources come last in the first column and targets first, so that arrows are short."""
        columns: list[list[int]] = [[] for _ in range(max((box.column for box in self.boxes), default=-1) + 1)]
        for i, box in enumerate(self.boxes):
            columns[box.column].append(i)
        joined = {i for arrow in self.arrows for i in (arrow.source, arrow.target)}
        for number, column in enumerate(columns):
            alone = [i for i in column if i not in joined]
            meeting = [i for i in column if i in joined]
            columns[number] = meeting + alone if number else alone + meeting
        return columns

    def _landings(self, placed: list[_Placed]) -> list[float]:
        """Height at which each arrow meets its target: spread over its side, in the order of the sources."""
        arriving: dict[int, list[int]] = {}
        for k, arrow in enumerate(self.arrows):
            arriving.setdefault(arrow.target, []).append(k)
        landings = [0.0] * len(self.arrows)
        for target, group in arriving.items():
            area = placed[target]
            group.sort(key=lambda k: placed[self.arrows[k].source].y)
            for rank, k in enumerate(group):
                landings[k] = area.y + area.height * (rank + 1) / (len(group) + 1)
        return landings

    def _size(self, i: int, x: float, y: float) -> _Placed:
        box = self.boxes[i]
        title = textwrap.wrap(box.title, _WRAP) or [""]
        notes = [line for note in box.notes for line in textwrap.wrap(note, _WRAP + 8)]
        widest = max([1.1 * len(line) for line in title] + [0.9 * len(line) for line in notes])
        text = 2 * _PAD + _LINE * (len(title) + len(notes)) - 3
        height = max(text, 12.0 * (1 + sum(arrow.target == i for arrow in self.arrows)))
        return _Placed(x, y, widest * _CHAR + 2 * _PAD, height, title, notes)

    def _draw_arrow(self, arrow: Arrow, placed: list[_Placed], landing: float) -> tuple[str, str]:
        start, end = placed[arrow.source], placed[arrow.target]
        x0, y0 = start.x + start.width, start.y + start.height / 2
        bend = max(30.0, (end.x - x0) / 2)
        curve = (
            f"M{x0:.1f},{y0:.1f} C{x0 + bend:.1f},{y0:.1f} {end.x - bend:.1f},{landing:.1f} {end.x:.1f},{landing:.1f}"
        )
        tip = f"{self.boxes[arrow.source].title} → {self.boxes[arrow.target].title}: {arrow.label}"
        path = (
            f'<path d="{curve}" fill="none" stroke="{_EDGE}" stroke-width="1.2" marker-end="url(#tip)">'
            f"<title>{escaped(tip)}</title></path>"
        )
        text = arrow.label if len(arrow.label) <= _WRAP else arrow.label[: _WRAP - 1] + "…"
        label = (
            f'<text x="{end.x - 12:.1f}" y="{landing - 2:.1f}" text-anchor="end" font-size="9" fill="{_INK}" '
            f'stroke="#ffffff" stroke-width="3" paint-order="stroke">{escaped(text)}'
            f"<title>{escaped(tip)}</title></text>"
        )
        return path, label


def _draw_box(box: Box, area: _Placed) -> str:
    parts = [
        f"<g><title>{escaped(box.tip)}</title>"
        f'<rect x="{area.x:.1f}" y="{area.y:.1f}" width="{area.width:.1f}" height="{area.height:.1f}" rx="5" '
        f'fill="#f4f7fb" stroke="{_INK}"/>'
    ]
    y = area.y + _PAD + 10
    for style, lines in (('font-weight="bold"', area.title), ('font-size="9.5"', area.notes)):
        for line in lines:
            parts.append(f'<text x="{area.x + _PAD:.1f}" y="{y:.1f}" {style} fill="{_INK}">{escaped(line)}</text>')
            y += _LINE
    return "".join([*parts, "</g>"])


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
