"""What stands on a page, as plain data: charts, tables, drawings and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Chart", "Line", "Photo", "Picture", "Table"]


@dataclass(frozen=True)
class Line:
    """One series of a chart.

    Attributes:
        label: Name in the legend.
        x: Positions, numbers or (in a bar chart) names.
        y: Values.
        dashed: Whether it is drawn dashed, as references are.
    """

    label: str
    x: Sequence[float | str]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart as data.

    Attributes:
        title: What is shown.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        lines: The series.
        says: The chart in words, for those who cannot see it.
        levels: Horizontal reference lines by label.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        kind: Lines, or groups of bars.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    says: str
    levels: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    kind: Literal["lines", "bars"] = "lines"


@dataclass(frozen=True)
class Table:
    """A table as data; numbers stay numbers.

    Attributes:
        title: What is shown.
        columns: Names of the columns; the first one holds the names of the rows.
        rows: Cells.
        note: What one has to know to read it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes:
        title: What is shown.
        svg: An SVG document.
        says: The picture in words.
    """

    title: str
    svg: str
    says: str


@dataclass(frozen=True)
class Photo:
    """Pictures of pixels, such as a grid of generated ones.

    Attributes:
        title: What is shown.
        png: A PNG file.
        says: The pictures in words.
    """

    title: str
    png: bytes
    says: str
