"""Reading tables and image arrays from files."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["file_sha256", "read_images", "read_table"]


def read_table(path: str | Path) -> pd.DataFrame:
    """Table in a CSV (UTF-8, comma), TSV or Parquet file.

    Raises:
        DataError: If the file is missing, damaged, not UTF-8, of another kind, has a column name twice, or if it is
            Parquet and pyarrow is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".tsv", ".parquet", ".pq"}:
        raise DataError(f"{path}: a table must be a .csv, .tsv or .parquet file")
    try:
        return (
            _read_parquet(path) if suffix in {".parquet", ".pq"} else _read_csv(path, "\t" if suffix == ".tsv" else ",")
        )
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def read_images(path: str | Path) -> NDArray[Any]:
    """Array of images in an .npy file, memory-mapped read-only.

    Raises:
        DataError: If the file is missing, damaged, or holds Python objects.
    """
    path = Path(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an .npy array of numbers that can be read: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: holds several arrays; save one image variable per .npy file")
    return array


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _read_csv(path: Path, separator: str) -> pd.DataFrame:
    try:
        # pandas would rename the second of two equal columns instead of refusing it
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file, delimiter=separator), [])
        column, times = Counter(header).most_common(1)[0] if header else ("", 1)
        if times > 1:
            raise DataError(f"{path}: {times} columns are called {column!r}", column=column)
        if len(header) == 1 and ";" in header[0]:
            raise DataError(f"{path}: columns seem to be separated by ';'; save the file with ','")
        return pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 and read it again") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty") from None
    except (pd.errors.ParserError, csv.Error) as error:
        raise DataError(f"{path}: {str(error).strip()}") from None


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with path.open("rb") as file:
            return cast("pd.DataFrame", pyarrow.parquet.read_table(file).to_pandas())
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from None
