"""Reading of tables and image arrays from files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.data.delimited import read_csv, refuse_wide
from mdcm.errors import DataError
from mdcm.storage.disk import as_path
from mdcm.text.limits import most_unpacked
from mdcm.text.printable import shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["file_sha256", "mask_texts", "parquet_size", "read_images", "read_table"]

# rows of a Parquet file per batch, and bytes of a number
_BATCH = 1 << 16
_NUMBER_BYTES = 8


def read_table(path: str | Path, *, na_values: Collection[str] = ()) -> pd.DataFrame:
    r"""Read a table from a CSV (UTF-8, comma), TSV or Parquet file.

    Texts are not interpreted: NA, None and null are levels like any other, spaces count, and a column of whole numbers
    that include a leading zero, such as 007, holds texts.

    Args:
        path: The file.
        na_values: Texts that mark missing values; by default only empty cells are missing.

    Raises:
        DataError: If the file is missing, damaged, not UTF-8 or of another format, repeats a column name, has a row
            with more or fewer fields than the header, or more than 100,000 columns; if a Parquet file would take far
            more memory than its size, or pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "t.csv")
        >>> _ = path.write_text("X,Y\n1,NA\n,b\n")
        >>> read_table(path).isna().sum().tolist(), read_table(path, na_values=["NA"]).isna().sum().tolist()
        ([1, 0], [1, 1])
    """
    path = as_path(path)
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".tsv", ".parquet", ".pq"}:
        hint = "; save the sheet as CSV UTF-8" if suffix in {".xls", ".xlsx", ".xlsm", ".ods"} else ""
        raise DataError(f"{path}: a table must be a .csv, .tsv or .parquet file{hint}")
    try:
        if suffix in {".parquet", ".pq"}:
            return mask_texts(_read_parquet(path), na_values)
        return read_csv(path, "\t" if suffix == ".tsv" else ",", na_values)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def mask_texts(table: pd.DataFrame, texts: Collection[str]) -> pd.DataFrame:
    """A copy of a table in which some texts count as missing values."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        return table
    changed = {}
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            changed[name] = column.cat.remove_categories([text for text in texts if text in column.cat.categories])
        elif pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
            changed[name] = column.mask(column.isin(texts))
    masked = table.copy(deep=False)
    for name, column in changed.items():
        masked[name] = column
    return masked


def read_images(path: str | Path) -> NDArray[Any]:
    """Read an array of images from an .npy file, memory-mapped read-only.

    Raises:
        DataError: If the file is missing, damaged, or holds Python objects.
    """
    path = as_path(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an .npy array of numbers that can be read: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path}: holds several arrays; save each image variable as an .npy file")
    return array


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with as_path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    with _parquet_of(path) as (pyarrow, file):
        _refuse_to_unpack(path, pyarrow.parquet, file)
        # threads are not faster, and take gigabytes for many columns
        return cast("pd.DataFrame", pyarrow.parquet.read_table(file, use_threads=False).to_pandas())


def _refuse_to_unpack(path: Path, parquet: Any, file: IO[bytes]) -> None:
    """Refuse a Parquet file that would take far more memory than its size, before memory is allocated."""
    source = parquet.ParquetFile(file)
    metadata = source.metadata
    refuse_wide(path, metadata.num_columns)
    columns = [source.schema.column(index) for index in range(metadata.num_columns)]
    limit = most_unpacked(path.stat().st_size)
    needed = least_texts = most_texts = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for index, column in enumerate(columns):
            if column.max_repetition_level:
                raise DataError(f"{path}: column {column.path!r} holds lists; a column holds one value per row")
            chunk = group.column(index)
            count, size = max(chunk.num_values, group.num_rows), chunk.total_uncompressed_size
            if column.physical_type == "BYTE_ARRAY":
                least_texts += max(size, _NUMBER_BYTES * count)
                # every row may be the longest text
                most_texts += count * size
            else:
                needed += max(size, (column.length or _NUMBER_BYTES) * count)
    if needed + least_texts > limit:
        raise DataError(_too_large(path, needed + least_texts, limit))
    if needed + most_texts <= limit:
        return
    # measure texts in dictionaries without expanding them
    names = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    source = parquet.ParquetFile(file, read_dictionary=names, metadata=metadata)
    for batch in source.iter_batches(_BATCH, columns=names):
        for array in batch.columns:
            needed += _expanded_bytes(array)
        if needed > limit:
            raise DataError(_too_large(path, needed, limit))


def _expanded_bytes(array: Any) -> int:
    """Bytes that the texts of a pyarrow column take without a dictionary."""
    import pyarrow.compute

    if not hasattr(array, "dictionary"):
        return int(array.nbytes)
    lengths = np.append(pyarrow.compute.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False), 0)
    indices = array.indices.fill_null(len(lengths) - 1).to_numpy(zero_copy_only=False)
    return int(lengths.astype(np.int64)[indices].sum()) + _NUMBER_BYTES * len(indices)


def _too_large(path: Path, needed: int, limit: int) -> str:
    return (
        f"{path}: its columns take more than {needed:,} bytes of memory, but the limit for a file of this size is "
        f"{limit:,}; save it with fewer rows or shorter texts"
    )


def parquet_size(path: str | Path) -> tuple[int, int]:
    """Number of rows and columns of a Parquet file, from its metadata.

    Raises:
        DataError: If it is damaged, or pyarrow is not installed.
        OSError: If it cannot be opened.
    """
    with _parquet_of(as_path(path)) as (pyarrow, file):
        metadata = pyarrow.parquet.read_metadata(file)
        return metadata.num_rows, metadata.num_columns


@contextmanager
def _parquet_of(path: Path) -> Iterator[tuple[Any, IO[bytes]]]:
    """Provide pyarrow and an open file; an error of pyarrow becomes a DataError of a single line."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'mdcm[parquet]'") from None
    with path.open("rb") as file:
        try:
            yield pyarrow, file
        except DataError:
            raise
        except Exception as error:
            # a damaged file can make pyarrow raise any exception, such as a MemoryError for a wrong size
            reason = shortened(" ".join(str(error).split())) or type(error).__name__
            raise DataError(f"{path}: not a Parquet file that can be read: {reason}") from None
