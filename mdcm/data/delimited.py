"""Text tables with separated fields, checked line by line before they are parsed."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from mdcm.errors import DataError
from mdcm.text.limits import MOST_COLUMNS

__all__ = ["read_csv", "refuse_wide"]

_SEPARATORS = {",": "','", "\t": "tabs", ";": "';'", "|": "'|'"}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# characters that can precede the first digit of an unsigned number
_BEFORE_NUMBER = np.frombuffer(b',\t"\r\n ', dtype=np.uint8)
_ZERO_PADDED = r"0\d+"
# largest number of characters of a field; the default limit of csv is smaller
_LONGEST = 1 << 24
_BLOCK = 1 << 20


def read_csv(path: Path, separator: str, na_values: Collection[str] = ()) -> pd.DataFrame:
    """Read a table from a text file in UTF-8 whose first line names the columns.

    Args:
        path: The file.
        separator: Separator of fields.
        na_values: Texts that mark missing values, besides the empty text.

    Raises:
        DataError: If the file is empty or not UTF-8 text, has another separator, repeats a column name, or has a row
            with more or fewer fields than the header or an unclosed quote; the message names the line.
        OSError: If it cannot be read.

    Complexity:
        Two passes over the file; the first reads blocks of 1 MiB.
    """
    try:
        has_zero_padded = _check(path, separator)
        missing = ["", *na_values]
        table = pd.read_csv(
            path,
            sep=separator,
            encoding="utf-8",
            keep_default_na=False,
            na_values=missing,
            # infer the type of a column from all rows
            low_memory=False,
        )
        if has_zero_padded:
            table = _with_zero_padded(table, path, separator, missing)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty") from None
    except (pd.errors.ParserError, csv.Error) as error:
        raise DataError(f"{path}: {str(error).strip()}") from None
    table.columns = pd.Index([str(column).removeprefix("\ufeff") for column in table.columns], dtype=object)
    return table


def _check(path: Path, separator: str) -> bool:
    """Refuse lines that pandas would shift, truncate or pad; return whether a number may begin with a zero."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header, row = file.readline(_LONGEST).removeprefix("\ufeff"), file.readline(_LONGEST)
    if len(header) == _LONGEST and not header.endswith("\n"):
        raise DataError(f"{path}: its first line, which names the columns, has more than {_LONGEST:,} characters")
    # separators within quotes do not count
    refuse_wide(path, header.count(separator) + 1 if '"' not in header else _count_fields(header, separator))
    _check_separator(path, separator, header)
    words = len(header.split())
    if separator not in header and 1 < words == len(row.split()) and all(map(_is_number, row.split())):
        raise DataError(f"{path}: columns seem to be separated by spaces; save the file with ','")
    if "\0" in header:
        raise DataError(
            f"{path} is not text in UTF-8: line 1 holds a NUL byte, as UTF-16 and binary files do; save it as UTF-8 "
            "(in Excel: CSV UTF-8)"
        )
    is_regular, has_zero_padded = _scan(path, separator, header.count(separator) + 1)
    if is_regular and header.strip():
        _check_header(path, header.rstrip("\r\n").split(separator), 1)
    else:
        _check_rows(path, separator)
    return has_zero_padded


def _scan(path: Path, separator: str, fields: int) -> tuple[bool, bool]:
    """Whether all lines have ``fields`` fields and no quotes, and whether a number may begin with a zero."""
    is_regular, has_zero_padded, rest = True, False, b""
    with path.open("rb") as file:
        while is_regular or not has_zero_padded:
            block = file.read(_BLOCK)
            if not block and not rest:
                break
            content = rest + block
            cut = content.rfind(b"\n") + 1 if block else len(content)
            content, rest = content[:cut], content[cut:]
            if len(rest) > _LONGEST:
                return False, True
            if not content:
                continue
            if not content.endswith(b"\n"):
                content += b"\n"
            characters = np.frombuffer(content, dtype=np.uint8)
            zeros = np.flatnonzero(characters[1:-1] == ord("0")) + 1
            before_digit = zeros[(characters[zeros + 1] >= ord("0")) & (characters[zeros + 1] <= ord("9"))]
            # a block starts at the beginning of a line
            starts_padded = content[:1] == b"0" and content[1:2].isdigit()
            has_zero_padded = (
                has_zero_padded or starts_padded or bool(np.isin(characters[before_digit - 1], _BEFORE_NUMBER).any())
            )
            is_regular = is_regular and b'"' not in content and content.count(b"\r") == content.count(b"\r\n")
            if is_regular:
                ends = np.flatnonzero(characters == ord("\n"))
                separators = np.flatnonzero(characters == ord(separator))
                counts = np.diff(np.searchsorted(separators, ends), prepend=0)
                # empty lines are not rows
                lengths = np.diff(ends, prepend=-1) - 1 - (characters[np.maximum(ends - 1, 0)] == ord("\r"))
                is_regular = bool(((counts == fields - 1) | (lengths <= 0)).all())
    return is_regular, has_zero_padded


def _check_rows(path: Path, separator: str) -> None:
    header: list[str] | None = None
    limit = csv.field_size_limit(_LONGEST)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            end = 0
            while True:
                start = end + 1
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    raise DataError(_misquoted(path, start, reader.line_num, str(error))) from None
                end = reader.line_num
                if row is None:
                    return
                if not row:
                    # an empty line
                    continue
                if header is None:
                    header = row
                    _check_header(path, row, start)
                elif len(row) != len(header):
                    raise DataError(_ragged(path, start, end, len(row), len(header)))
    finally:
        csv.field_size_limit(limit)


def refuse_wide(path: Path, columns: int) -> None:
    """Refuse a table with too many columns, before memory is allocated for them.

    Raises:
        DataError: If it has more than 100,000 columns.
    """
    if columns > MOST_COLUMNS:
        raise DataError(
            f"{path} has {columns:,} columns, more than the limit of {MOST_COLUMNS:,}; save only those that the graph "
            "names, or save a vector as an array in an .npy file"
        )


def _check_header(path: Path, names: list[str], line: int) -> None:
    refuse_wide(path, len(names))
    column, times = Counter(name.removeprefix("\ufeff") for name in names).most_common(1)[0]
    if times > 1:
        # pandas would rename the second of two equal columns instead of refusing it
        problem = f"{times} columns are called {column!r}" if column else f"{times} columns have no name"
        raise DataError(f"{path}: {problem} (line {line}); rename or remove the duplicates", column=column)


def _check_separator(path: Path, separator: str, header: str) -> None:
    """Refuse a header that only another separator splits."""
    if _count_fields(header, separator) > 1:
        return
    likely = max(_SEPARATORS, key=lambda candidate: _count_fields(header, candidate))
    if _count_fields(header, likely) > 1:
        remedies = {"\t": "save it as .tsv", ",": "save it as .csv"}
        remedy = remedies.get(likely, "save the file with ','")
        raise DataError(f"{path}: columns seem to be separated by {_SEPARATORS[likely]}; {remedy}")


def _count_fields(line: str, separator: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:
        return 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ragged(path: Path, start: int, end: int, fields: int, expected: int) -> str:
    """Message about a row with more or fewer fields than the header."""
    where = f"line {start}" if end == start else f"the row in lines {start} to {end}"
    message = f"{path}: {where} has {fields} field{'s' if fields > 1 else ''}, but the header has {expected}"
    if end > start:
        return f"{message}; is a quote in line {start} unclosed, or a separator within a cell unquoted?"
    advice = (
        "a cell that holds a separator must be quoted" if fields > expected else "write a separator for an empty cell"
    )
    if fields == expected + 1 and start == 2:
        advice += "; if rows begin with a row name or number, name that column in the header"
    return f"{message}; {advice}"


def _misquoted(path: Path, start: int, end: int, reason: str) -> str:
    """Message about an error of csv in a quoted field."""
    if "unexpected end of data" in reason:
        return f"{path}: a quote that is opened in line {start} is never closed"
    if "expected after" in reason:
        where = f"line {start}" if end <= start else f"lines {start} to {end}"
        return f"{path}: {where}: a closing quote is followed by other text; a quote within a cell is doubled"
    return f"{path}: line {start}: {reason}"


def _not_utf8(path: Path) -> str:
    """Message about the first byte of a file that is not UTF-8."""
    with path.open("rb") as file:
        if file.read(2) in _UTF16_MARKS:
            return f"{path} is UTF-16 text; save it as UTF-8 (in Excel: CSV UTF-8)"
        file.seek(0)
        # an error raised while pandas reads has a position within a chunk, so locate it again
        position, line = 0, 0
        for number, text in enumerate(file, start=1):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                position, line = position + error.start, number
                break
            position += len(text)
    return (
        f"{path}: byte {position} is not UTF-8 (line {line}); save the file as UTF-8 and read it again, or convert it, "
        "as with iconv -f latin1 -t utf-8"
    )


def _with_zero_padded(table: pd.DataFrame, path: Path, separator: str, missing: list[str]) -> pd.DataFrame:
    """The table with texts in columns of whole numbers that hold a leading zero: 01 and 1 are different levels."""
    numbers = [column for column in table.columns if pd.api.types.is_numeric_dtype(table[column])]
    texts = pd.read_csv(
        path, sep=separator, encoding="utf-8", keep_default_na=False, na_values=missing, dtype=str, usecols=numbers
    )
    for column in numbers:
        if texts[column].str.strip().str.fullmatch(_ZERO_PADDED).any():
            table[column] = texts[column]
    return table
