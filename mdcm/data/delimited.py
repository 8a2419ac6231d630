"""Text tables: fields by separators, checked line by line before anything is made of them."""

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
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# what stands before the first digit of a number without a sign
_BEFORE = np.frombuffer(b',\t"\r\n ', dtype=np.uint8)
_CODE = r"0\d+"
# of one field; csv has a limit of its own, which is smaller
_LONGEST = 1 << 24
_BLOCK = 1 << 20


def read_csv(path: Path, separator: str, na_values: Collection[str] = ()) -> pd.DataFrame:
    """Table of a text file in UTF-8 whose first line names the columns.

    Args:
        path: The file.
        separator: What stands between fields.
        na_values: Texts that mean that a value is missing, besides the empty one.

    Raises:
        DataError: If the file is empty or no UTF-8 text, is separated by something else, names a column twice, or has
            a row with more or fewer fields than the header or a quote that is never closed; with the line.
        OSError: If it cannot be read.

    Complexity:
        Two passes over the file; the first holds one row.
    """
    try:
        has_codes = _check(path, separator)
        missing = ["", *na_values]
        table = pd.read_csv(
            path,
            sep=separator,
            encoding="utf-8",
            keep_default_na=False,
            na_values=missing,
            # one type for a whole column
            low_memory=False,
        )
        if has_codes:
            table = _with_codes(table, path, separator, missing)
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path, error)) from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty") from None
    except (pd.errors.ParserError, csv.Error) as error:
        raise DataError(f"{path}: {str(error).strip()}") from None
    table.columns = pd.Index([str(column).removeprefix("\ufeff") for column in table.columns], dtype=object)
    return table


def _check(path: Path, separator: str) -> bool:
    """Refuse lines that pandas would shift, cut or fill; whether a whole number may begin with a zero."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        first, second = file.readline(_LONGEST).removeprefix("\ufeff"), file.readline(_LONGEST)
    if len(first) == _LONGEST and not first.endswith("\n"):
        raise DataError(f"{path}: its first line, which names the columns, has more than {_LONGEST:,} characters")
    # a separator within quotes separates nothing
    refuse_wide(path, first.count(separator) + 1 if '"' not in first else _fields_of(first, separator))
    _check_separator(path, separator, first)
    words = len(first.split())
    if separator not in first and 1 < words == len(second.split()) and all(map(_is_number, second.split())):
        raise DataError(f"{path}: columns seem to be separated by spaces; save the file with ','")
    if "\0" in first:
        raise DataError(
            f"{path} is not text in UTF-8: line 1 holds a NUL byte, as UTF-16 and binary files do; save it as UTF-8 "
            "(in Excel: CSV UTF-8)"
        )
    fields = first.count(separator) + 1
    regular, padded = _scan(path, separator, fields)
    if regular and first.strip():
        _check_header(path, first.rstrip("\r\n").split(separator), 1)
    else:
        _check_rows(path, separator)
    return padded


def _scan(path: Path, separator: str, fields: int) -> tuple[bool, bool]:
    """Whether no line holds a quote and all have that many fields, and whether a digit may follow a leading zero."""
    mark, regular, padded, rest = ord(separator), True, False, b""
    with path.open("rb") as file:
        while regular or not padded:
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
            letters = np.frombuffer(content, dtype=np.uint8)
            zeros = np.flatnonzero(letters[1:-1] == ord("0")) + 1
            digits = zeros[(letters[zeros + 1] >= ord("0")) & (letters[zeros + 1] <= ord("9"))]
            # a block begins with a line
            first = content[:1] == b"0" and content[1:2].isdigit()
            padded = padded or first or bool(np.isin(letters[digits - 1], _BEFORE).any())
            regular = regular and b'"' not in content and content.count(b"\r") == content.count(b"\r\n")
            if regular:
                ends = np.flatnonzero(letters == ord("\n"))
                counts = np.diff(np.searchsorted(np.flatnonzero(letters == mark), ends), prepend=0)
                # a line that holds nothing is no row
                lengths = np.diff(ends, prepend=-1) - 1 - (letters[np.maximum(ends - 1, 0)] == ord("\r"))
                regular = bool(((counts == fields - 1) | (lengths <= 0)).all())
    return regular, padded


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
                    # a line that holds nothing
                    continue
                if header is None:
                    header = row
                    _check_header(path, row, start)
                elif len(row) != len(header):
                    raise DataError(_ragged(path, start, end, len(row), len(header)))
    finally:
        csv.field_size_limit(limit)


def refuse_wide(path: Path, columns: int) -> None:
    """Refuse a table of more columns than one is read with, before memory is taken for them.

    Raises:
        DataError: If it has more.
    """
    if columns > MOST_COLUMNS:
        raise DataError(
            f"{path} has {columns:,} columns, and no more than {MOST_COLUMNS:,} are read; save those that the graph "
            "names, or give numbers that belong together as one array in an .npy file"
        )


def _check_header(path: Path, names: list[str], line: int) -> None:
    refuse_wide(path, len(names))
    column, times = Counter(name.removeprefix("\ufeff") for name in names).most_common(1)[0]
    if times > 1:
        # pandas would rename the second of two equal columns instead of refusing it
        what = f"{times} columns are called {column!r}" if column else f"{times} columns have no name"
        raise DataError(f"{path}: {what} (line {line}); rename or remove all but one", column=column)


def _check_separator(path: Path, separator: str, first: str) -> None:
    """Refuse a header that only another separator takes apart."""
    if _fields_of(first, separator) > 1:
        return
    likely = max(_SEPARATORS, key=lambda mark: _fields_of(first, mark))
    if _fields_of(first, likely) > 1:
        how = "save it as .tsv" if likely == "\t" else "save it as .csv" if likely == "," else "save the file with ','"
        raise DataError(f"{path}: columns seem to be separated by {_SEPARATORS[likely]}; {how}")


def _fields_of(line: str, mark: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=mark), []))
    except csv.Error:
        return 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ragged(path: Path, start: int, end: int, fields: int, wanted: int) -> str:
    where = f"line {start}" if end == start else f"the row in lines {start} to {end}"
    message = f"{path}: {where} has {_fields(fields)}, but the header has {wanted}"
    if end > start:
        return f"{message}; is a quote in line {start} not closed, or has a cell of several lines one field too many?"
    advice = (
        "a cell that holds a separator must be quoted" if fields > wanted else "write a separator for an empty cell"
    )
    if fields == wanted + 1 and start == 2:
        advice += "; if rows begin with a name or number of their own, name that column in the header"
    return f"{message}; {advice}"


def _fields(count: int) -> str:
    return f"{count} field" + ("s" if count > 1 else "")


def _misquoted(path: Path, start: int, end: int, reason: str) -> str:
    if "unexpected end of data" in reason:
        return f"{path}: a quote that is opened in line {start} is never closed"
    if "expected after" in reason:
        where = f"line {start}" if end <= start else f"lines {start} to {end}"
        return f"{path}: {where}: a closing quote is followed by other text; a quote within a cell is doubled"
    return f"{path}: line {start}: {reason}"


def _not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    with path.open("rb") as file:
        start = file.read(2)
        if start in _WIDE:
            return f"{path} is UTF-16 text; save it as UTF-8 (in Excel: CSV UTF-8)"
        file.seek(0)
        # the error counts within a piece of the file
        at, line = 0, 0
        for number, text in enumerate(file, start=1):
            try:
                text.decode()
            except UnicodeDecodeError as wrong:
                at, line = at + wrong.start, number
                break
            at += len(text)
    return (
        f"{path}: byte {at} is not UTF-8 (line {line}); save the file as UTF-8 and read it again, or convert it, as "
        "with iconv -f latin1 -t utf-8"
    )


def _with_codes(table: pd.DataFrame, path: Path, separator: str, missing: list[str]) -> pd.DataFrame:
    """Columns of whole numbers of which one begins with a zero, as the texts that they are: 01 and 1 are two levels."""
    numbers = [column for column in table.columns if pd.api.types.is_numeric_dtype(table[column])]
    texts = pd.read_csv(
        path, sep=separator, encoding="utf-8", keep_default_na=False, na_values=missing, dtype=str, usecols=numbers
    )
    for column in numbers:
        if texts[column].str.strip().str.fullmatch(_CODE).any():
            table[column] = texts[column]
    return table
