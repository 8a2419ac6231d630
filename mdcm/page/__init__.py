"""HTML reports: charts, tables and pictures on one self-contained page."""

from mdcm.page.charts import NO_CHARTS, can_draw
from mdcm.page.html import charts, document, facts, number, photos, pictures, section, table
from mdcm.page.records import Chart, Line, Photo, Picture, Table

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
