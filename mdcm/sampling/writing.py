"""Writing of samples to files block by block, with only one block in memory."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from mdcm.data.levels import plain
from mdcm.errors import DataError
from mdcm.storage.disk import as_path
from mdcm.storage.run_directory import replacing

if TYPE_CHECKING:
    import pandas as pd

    from mdcm.sampling.samples import Samples

__all__ = ["Written", "write_samples"]


# first characters of cells that spreadsheets evaluate, including full-width forms
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Written:
    """Result of writing.

    Attributes:
        paths: The table, then the images.
        ess: Effective sample size of all rows.
    """

    paths: tuple[Path, ...]
    ess: float


def write_samples(
    path: str | Path, blocks: Iterable[Samples], num_samples: int, *, spreadsheet: bool = False
) -> Written:
    """Write blocks of rows to a table, and every image variable to an .npy file beside it.

    Args:
        path: A .csv or .parquet file; files are written completely or not at all.
        blocks: The rows.
        num_samples: Total number of rows.
        spreadsheet: Whether to prefix texts of a .csv file (including column names) that a spreadsheet would evaluate
            as formulas with an apostrophe, so that it shows them as text. Off by default, since other programs read
            the apostrophe as part of the text; numbers stay numbers.

    Raises:
        DataError: If the file has another suffix, or is Parquet and pyarrow is not installed.
        OSError: If a file cannot be written.
    """
    path = as_path(path)
    if path.suffix not in {".csv", ".parquet"}:
        raise DataError(f"{path}: the table is written as .csv or .parquet")
    ess = 0.0
    paths = {"": path}
    images: dict[str, IO[bytes]] = {}
    # files are closed and renamed in reverse order, so that the table is complete last
    with ExitStack() as stack:
        stream = stack.enter_context(replacing(path))
        append = _csv(stream, spreadsheet) if path.suffix == ".csv" else _parquet(stream, path, stack)
        for block in blocks:
            ess += block.ess
            append(_writable(block.table))
            for name, array in block.images.items():
                if name not in images:
                    paths[name] = _beside(path, name)
                    images[name] = stack.enter_context(replacing(paths[name]))
                    header = {"descr": "|u1", "fortran_order": False, "shape": (num_samples, *array.shape[1:])}
                    np.lib.format.write_array_header_1_0(images[name], header)
                images[name].write(np.ascontiguousarray(array).tobytes())
    return Written(tuple(paths.values()), ess)


def _writable(table: pd.DataFrame) -> pd.DataFrame:
    """Convert intervals, periods and durations to their texts in queries, which every format can hold."""
    import pandas as pd

    texts: dict[str, Any] = {}
    for name, column in table.items():
        categorical = isinstance(column.dtype, pd.CategoricalDtype)
        dtype = column.cat.categories.dtype if categorical else column.dtype
        if isinstance(dtype, pd.IntervalDtype | pd.PeriodDtype) or (categorical and getattr(dtype, "kind", "") == "m"):
            texts[str(name)] = column.cat.rename_categories(plain) if categorical else column.map(plain)
    return table.assign(**texts) if texts else table


def _beside(path: Path, name: str) -> Path:
    # a name may contain any character, even a slash, and must not lead to another directory
    safe = re.sub(r"[^\w. -]", lambda match: quote(match[0], safe="", errors="backslashreplace"), name)
    return path.with_name(f"{path.stem}.{safe}.npy")


def _shown_as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """Prefix texts that a spreadsheet would evaluate as formulas."""
    import pandas as pd

    changed = {}
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            changed[name] = column.cat.rename_categories(_shown_as_text)
        elif pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
            changed[name] = column.map(_shown_as_text)
    return table.assign(**{str(name): column for name, column in changed.items()}).rename(columns=_shown_as_text)


def _holds_returns(table: pd.DataFrame) -> bool:
    import pandas as pd

    texts: list[Any] = [*table.columns]
    for _, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            texts += [*column.cat.categories]
        elif pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype):
            texts += [*column.unique()]
    return any(isinstance(text, str) and "\r" in text for text in texts)


def _csv(stream: IO[bytes], spreadsheet: bool) -> Callable[[pd.DataFrame], None]:
    first = True

    def append(table: pd.DataFrame) -> None:
        nonlocal first
        if spreadsheet:
            table = _without_formulas(table)
        # readers take a carriage return for the end of a line, but pandas does not always quote it
        quoting: Any = csv.QUOTE_NONNUMERIC if _holds_returns(table) else csv.QUOTE_MINIMAL
        table.to_csv(stream, index=False, header=first, quoting=quoting)
        first = False

    return append


def _parquet(stream: IO[bytes], path: Path, stack: ExitStack) -> Callable[[pd.DataFrame], None]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: writing Parquet needs pyarrow: pip install 'mdcm[parquet]', or write a .csv"
        ) from None
    writer: Any = None

    def append(table: pd.DataFrame) -> None:
        nonlocal writer
        try:
            rows = pyarrow.Table.from_pandas(table, preserve_index=False)
        except pyarrow.ArrowException as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: Parquet cannot hold these columns: {reason}; write a .csv") from None
        if writer is None:
            writer = stack.enter_context(pyarrow.parquet.ParquetWriter(stream, rows.schema))
        writer.write_table(rows)

    return append
