"""Columns of texts: warnings about texts that look like other types, and rejection of identifiers and free text."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.data.variables import are_dates
from mdcm.errors import DataError
from mdcm.text.advice import advice, warn

if TYPE_CHECKING:
    from mdcm.data.dataset import Dataset

__all__ = ["FEW_LEVELS", "refuse_identifiers", "warn_about_texts"]

# largest number of levels of a categorical variable about which no warning is given
FEW_LEVELS = 20
# a column of strings with more distinct values holds identifiers or free text, and is not a variable
_MAX_STRINGS = 256
# nor is a column with at least this number of distinct values that are this share of the rows
_FEWEST_NAMES = 50
_DISTINCT_SHARE = 0.9
# share of the distinct texts that determines which type a column was meant to have
_MOSTLY = 0.5
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]|$)")
_SIGN = r"(?:[$€£¥₹]|[A-Z]{3})"
_AMOUNT = re.compile(
    rf"\s*[-+(]?\s*(?:{_SIGN}\s*)?[-+]?(?:\d{{1,3}}(?:[,.' ]\d{{3}})+|\d+)(?:[.,]\d+)?\s*(?:{_SIGN}|%)?\)?\s*"
)


def warn_about_texts(name: str, dataset: Dataset, column: pd.Series[Any]) -> None:
    """Warn about levels that are texts but look like numbers, dates or amounts."""
    texts = pd.Series(column.unique(), dtype=object)
    numeric = pd.to_numeric(texts, errors="coerce").notna()
    message = ""
    if len(texts) > 2 and numeric.any() and numeric.mean() > _MOSTLY and not numeric.all():
        word = texts[~numeric].iloc[0]
        message = (
            f"holds numbers and texts such as {word!r}, so every value is treated as a text; if {word!r} marks a "
            f"missing value, {missing(word)}"
        )
    elif len(texts) > FEW_LEVELS and texts.str.match(_DATE).all() and are_dates(texts):
        message = (
            f"holds {len(texts)} dates as texts, each a level without an order; declare it "
            f"{declared(name, 'continuous')} to count in days; draws are dates again"
        )
    elif len(texts) > FEW_LEVELS and not numeric.any() and texts.map(_is_amount).mean() > _MOSTLY:
        message = (
            f"holds {len(texts)} texts such as {texts.iloc[0]!r}, each a level without an order; to use them as "
            "numbers, convert them first: no currency signs, no thousands separators, and a decimal point"
        )
    if message:
        warn(f"column {name!r} of {dataset.label} {message}")


def declared(name: str, kind: str) -> str:
    """Instruction to declare the kind of a variable, for a message."""
    declaration = advice(
        f"variables={{{name!r}: {{'kind': {kind!r}}}}}",
        f"--kind {shlex.quote(f'{name}={kind}')}",
        f"'{name}: {{kind: {kind}}}' under variables",
    )
    return f"with kind {kind!r} ({declaration})"


def missing(word: str) -> str:
    """Instruction to mark a text as a missing value, for a message."""
    return advice(
        f"read the table with na_values=[{word!r}]",
        f"pass --na {shlex.quote(word)}",
        f"write 'na_values: [{word}]' for the data set",
    )


def _is_amount(text: str) -> bool:
    """Whether a text is a number with a currency, a per cent sign, thousands separators or a decimal comma."""
    return _AMOUNT.fullmatch(text) is not None


def _is_picture(text: object) -> bool:
    return isinstance(text, str) and text.lower().endswith((".png", ".jpg", ".jpeg"))


def refuse_identifiers(name: str, dataset: Dataset, column: pd.Series[Any]) -> None:
    """Refuse strings that look like identifiers or free text: too many distinct values, or nearly all distinct."""
    distinct = column.nunique()
    if distinct >= _FEWEST_NAMES and distinct > _DISTINCT_SHARE * len(column):
        reason = f"in {len(column):,} rows: it seems to be an identifier"
    elif distinct > _MAX_STRINGS:
        reason = f"more than the {_MAX_STRINGS} that a categorical variable may have by default"
    else:
        return
    numeric = pd.to_numeric(column.astype(object), errors="coerce").notna()
    if column.astype(object).map(_is_picture).all():
        remedy = "they are names of picture files: " + advice(
            "mdcm.data.read_pictures makes arrays of them, which Dataset takes as images",
            "the first of them do not exist; names are relative to the table",
        )
    elif column.astype(object).map(_is_amount).mean() > _MOSTLY and not numeric.any():
        remedy = (
            f"they are amounts such as {column.iloc[0]!r}: convert them to numbers, without currency signs and "
            "thousands separators"
        )
    elif are_dates(column):
        remedy = f"they are dates: declare it {declared(name, 'continuous')}"
    elif numeric.mean() > 0.5:
        row = int(np.flatnonzero(~numeric)[0]) if not numeric.all() else None
        text = "all are numbers" if row is None else f"most are numbers, but row {row} holds {column.iloc[row]!r}"
        remedy = f"{text}: convert them"
    else:
        remedy = "group rare ones, convert them to numbers"
    raise DataError(
        f"column {name!r} of {dataset.label} has {distinct:,} different strings, {reason}; {remedy}, "
        f"leave {name!r} out of the graph, or declare it {declared(name, 'categorical')}",
        dataset=dataset.name,
        column=name,
    )
