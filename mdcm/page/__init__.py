"""Reports for people: charts, tables and pictures on one HTML page that needs nothing else."""

from mdcm.page.html import charts, document, facts, number, photos, pictures, section, table
from mdcm.page.records import Chart, Line, Photo, Picture, Table

__all__ = [
    "Chart",
    "Line",
    "Photo",
    "Picture",
    "Table",
    "charts",
    "document",
    "facts",
    "number",
    "photos",
    "pictures",
    "section",
    "table",
]
