"""Datasets: reading, validation before training, and encoding for mechanisms."""

from mdcm.data.arrays import read_array, read_images
from mdcm.data.dataset import Dataset
from mdcm.data.encoding import Encoded, check_decodable, decode, decode_columns, encode, to_spec
from mdcm.data.outliers import limit_outliers
from mdcm.data.pictures import names_pictures, read_pictures
from mdcm.data.validation import validate
from mdcm.files import file_sha256, read_table
from mdcm.levels import Level
from mdcm.schema import Schema
from mdcm.variables import Kind, Variable

__all__ = [
    "Dataset",
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
