"""Data: variables and their levels, tables and images, validation before training, and encoding for mechanisms.

Names load on first use, so that levels and specifications of data sets load without pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdcm.data.arrays import read_array, read_images
    from mdcm.data.dataset import Dataset
    from mdcm.data.encoding import Encoded, check_decodable, decode, decode_columns, encode, to_spec
    from mdcm.data.inference import Schema
    from mdcm.data.levels import Level
    from mdcm.data.outliers import limit_outliers
    from mdcm.data.pictures import names_pictures, read_pictures
    from mdcm.data.specification import DatasetSpec
    from mdcm.data.tables import file_sha256, read_table
    from mdcm.data.validation import validate
    from mdcm.data.variables import Kind, Variable

__all__ = [
    "Dataset",
    "DatasetSpec",
    "Encoded",
    "Kind",
    "Level",
    "Schema",
    "Variable",
    "check_decodable",
    "decode",
    "decode_columns",
    "encode",
    "file_sha256",
    "limit_outliers",
    "names_pictures",
    "read_array",
    "read_images",
    "read_pictures",
    "read_table",
    "to_spec",
    "validate",
]

_EXPORTS = {
    "arrays": ("read_array", "read_images"),
    "dataset": ("Dataset",),
    "encoding": ("Encoded", "check_decodable", "decode", "decode_columns", "encode", "to_spec"),
    "inference": ("Schema",),
    "levels": ("Level",),
    "outliers": ("limit_outliers",),
    "pictures": ("names_pictures", "read_pictures"),
    "specification": ("DatasetSpec",),
    "tables": ("file_sha256", "read_table"),
    "validation": ("validate",),
    "variables": ("Kind", "Variable"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"mdcm.data.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mdcm.data' has no attribute {name!r}")
