"""Content of a page as plain data: charts, tables, drawings and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Chart", "Line", "Photo", "Picture", "Table"]


@dataclass(frozen=True)
class Line:
    """Series of a chart.

    Attributes:
        label: Name in the legend.
        x: Positions, numbers or (in a bar chart) names.
        y: Values.
        dashed: Whether to draw it dashed, as a reference.
    """

    label: str
    x: Sequence[float | str]
    y: Sequence[float]
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart as data.

    Attributes:
        title: Title.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        lines: The series.
        alt: Text alternative of the chart.
        levels: Horizontal reference lines by label.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        kind: Lines, or groups of bars.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    alt: str
    levels: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    kind: Literal["lines", "bars"] = "lines"


@dataclass(frozen=True)
class Table:
    """A table as data; numbers stay numbers.

    Attributes:
        title: Title.
        columns: Names of the columns; the first column holds the names of the rows.
        rows: Cells.
        note: Explanation of the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes:
        title: Title.
        svg: An SVG document.
        alt: Text alternative of the drawing.
    """

    title: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Photo:
    """Raster pictures, such as a grid of generated images.

    Attributes:
        title: Title.
        png: A PNG file.
        alt: Text alternative of the pictures.
    """

    title: str
    png: bytes
    alt: str
