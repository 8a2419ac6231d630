"""Charts, tables and pictures on a self-contained HTML page."""

from mdcm.report.charts import NO_CHARTS, can_draw
from mdcm.report.figures import Chart, Line, Photo, Picture, Table
from mdcm.report.html import charts, document, facts, number, photos, pictures, section, table

__all__ = [
    "NO_CHARTS",
    "Chart",
    "Line",
    "Photo",
    "Picture",
    "Table",
    "can_draw",
    "charts",
    "document",
    "facts",
    "number",
    "photos",
    "pictures",
    "section",
    "table",
]
