"""Reading tables and image arrays from files."""

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

__all__ = ["file_sha256", "parquet_size", "read_images", "read_table", "without_words"]

# rows of a Parquet file that are looked at together, and bytes that a number takes
_BATCH = 1 << 16
_PLACE = 8


def read_table(path: str | Path, *, na_values: Collection[str] = ()) -> pd.DataFrame:
    r"""Table in a CSV (UTF-8, comma), TSV or Parquet file.

    Texts stay as they stand: words such as NA, None and null are levels like any other, spaces count, and a column with
    whole numbers that begin with a zero, such as 007, is one of texts.

    Args:
        path: The file.
        na_values: Texts that mean that a value is missing. An empty cell always does, and nothing else unless it is
            named here.

    Raises:
        DataError: If the file is missing, damaged, not UTF-8, of another kind, has a column name twice or a row with
            more or fewer fields than the header; if it has more than 100,000 columns, or is Parquet that takes far more
            memory than the file has bytes; or if it is Parquet and pyarrow is not installed.

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
        how = "; save the sheet as CSV UTF-8" if suffix in {".xls", ".xlsx", ".xlsm", ".ods"} else ""
        raise DataError(f"{path}: a table must be a .csv, .tsv or .parquet file{how}")
    try:
        if suffix in {".parquet", ".pq"}:
            return without_words(_read_parquet(path), na_values)
        return read_csv(path, "\t" if suffix == ".tsv" else ",", na_values)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def without_words(table: pd.DataFrame, words: Collection[str]) -> pd.DataFrame:
    """A table in which cells that hold one of some texts are missing."""
    words = [words] if isinstance(words, str) else list(words)
    if not words:
        return table
    changed = {}
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            changed[name] = column.cat.remove_categories([word for word in words if word in column.cat.categories])
        elif pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
            changed[name] = column.mask(column.isin(words))
    made = table.copy(deep=False)
    for name, column in changed.items():
        made[name] = column
    return made


def read_images(path: str | Path) -> NDArray[Any]:
    """Array of images in an .npy file, memory-mapped read-only.

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
        raise DataError(f"{path}: holds several arrays; save one image variable per .npy file")
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
        # threads are no faster, and of many columns they take gigabytes
        return cast("pd.DataFrame", pyarrow.parquet.read_table(file, use_threads=False).to_pandas())


def _refuse_to_unpack(path: Path, parquet: Any, file: IO[bytes]) -> None:
    """Refuse a Parquet file that says next to nothing in many rows, before memory is taken for them."""
    source = parquet.ParquetFile(file)
    metadata = source.metadata
    refuse_wide(path, metadata.num_columns)
    columns = [source.schema.column(place) for place in range(metadata.num_columns)]
    limit = most_unpacked(path.stat().st_size)
    numbers = texts = most = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for place, column in enumerate(columns):
            if column.max_repetition_level:
                raise DataError(f"{path}: column {column.path!r} holds lists; a column holds one value per row")
            chunk = group.column(place)
            count, held = max(chunk.num_values, group.num_rows), chunk.total_uncompressed_size
            if column.physical_type == "BYTE_ARRAY":
                texts += max(held, _PLACE * count)
                # every row may be the longest text
                most += count * held
            else:
                numbers += max(held, (column.length or _PLACE) * count)
    if numbers + texts > limit:
        raise DataError(_unpacked(path, numbers + texts, limit))
    if numbers + most <= limit:
        return
    # what a dictionary holds is counted before it is repeated
    names = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    source = parquet.ParquetFile(file, read_dictionary=names, metadata=metadata)
    for batch in source.iter_batches(_BATCH, columns=names):
        for array in batch.columns:
            numbers += _length(array)
        if numbers > limit:
            raise DataError(_unpacked(path, numbers, limit))


def _length(array: Any) -> int:
    """Bytes of all texts of a column of pyarrow, as many times as they are in it."""
    import pyarrow.compute

    if not hasattr(array, "dictionary"):
        return int(array.nbytes)
    lengths = np.append(pyarrow.compute.binary_length(array.dictionary).fill_null(0).to_numpy(zero_copy_only=False), 0)
    places = array.indices.fill_null(len(lengths) - 1).to_numpy(zero_copy_only=False)
    return int(lengths.astype(np.int64)[places].sum()) + _PLACE * len(places)


def _unpacked(path: Path, needed: int, limit: int) -> str:
    return (
        f"{path}: its columns take more than {needed:,} bytes of memory, and of a file of this size no more than "
        f"{limit:,} are read; save it with fewer rows or shorter texts"
    )


def parquet_size(path: str | Path) -> tuple[int, int]:
    """Rows and columns of a Parquet file, by what it says of itself.

    Raises:
        DataError: If it cannot be read, or pyarrow is not installed.
        OSError: Likewise.
    """
    with _parquet_of(as_path(path)) as (pyarrow, file):
        metadata = pyarrow.parquet.read_metadata(file)
        return metadata.num_rows, metadata.num_columns


@contextmanager
def _parquet_of(path: Path) -> Iterator[tuple[Any, IO[bytes]]]:
    """pyarrow, and an open file of which whatever goes wrong is said in one line."""
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
            # of a damaged file pyarrow raises nearly anything, also that it lacks the memory for a size that is wrong
            reason = shortened(" ".join(str(error).split())) or type(error).__name__
            raise DataError(f"{path}: not a Parquet file that can be read: {reason}") from None
