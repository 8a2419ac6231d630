"""Encoding of the user's interventions, evidence and noise for the mechanisms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdcm.data import decode
from mdcm.data.levels import listing
from mdcm.data.variables import as_array, suggestion
from mdcm.errors import DataError, QueryError
from mdcm.mechanisms import float_pixels
from mdcm.sampling.samples import shown_images

if TYPE_CHECKING:
    from mdcm.data import Schema, Variable

__all__ = [
    "Rule",
    "Setting",
    "encode_evidence",
    "encode_noise",
    "encode_setting",
    "encode_values",
    "exact_numbers",
    "known",
]

Rule = Callable[[Tensor], Tensor]
# one value or one per row; a function of the natural value; or a node of a network, for nested worlds
Setting = Tensor | Rule | int
# largest standardised number; its square is far from overflow in float32
_MOST = 1e12


def known(schema: Schema, name: str) -> Variable:
    """Variable with a given name.

    Raises:
        QueryError: If there is no such variable.
    """
    if name not in schema:
        hint = suggestion(name, list(schema)) or f"; the model has {listing(schema)}"
        raise QueryError(f"there is no variable {name!r}{hint}")
    return schema[name]


def encode_values(variable: Variable, value: Any, what: str = "do") -> Tensor:
    """Encode values of a variable for the mechanisms.

    Args:
        variable: The variable.
        value: One level or number; an array with one per row; for a vector ``[size]`` or one per row; for an image one
            picture ``[c, h, w]`` or one per row, uint8 or floats in [0, 1].
        what: Role of the value in messages.

    Returns:
        A tensor with one row, or with as many rows as the array; images stay uint8.

    Raises:
        DataError: If a value is not a level or not finite, or an array has a wrong shape.
    """
    name = variable.name
    if variable.kind == "image":
        return _encode_image(variable, value, what)
    if variable.size is not None:
        array = np.asarray(as_array(value), dtype=np.float64)
        array = array[None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] != variable.size or not len(array) or not np.isfinite(array).all():
            raise DataError(
                f"{what}({name}): finite numbers of shape [{variable.size}] or [n, {variable.size}] are needed, "
                f"not {np.shape(value)}",
                column=name,
            )
        return _computable(variable, torch.from_numpy(variable.standardise(array)), value, what)
    value = _as_column(value)
    if isinstance(value, pd.Series):
        try:
            column = value
            codes = {level: variable.code(level) for level in column.unique()}
        except DataError:
            raise
        except (TypeError, ValueError):
            raise DataError(f"{what}({name}): a value, or one per row, is needed, not {value!r}", column=name) from None
        if not len(column):
            raise DataError(f"{what}({name}): the array of values is empty", column=name)
        encoded = column.map(codes).to_numpy()
    else:
        encoded = np.array([variable.code(value)])
    if variable.kind == "categorical":
        return torch.from_numpy(encoded.astype(np.int64))
    with np.errstate(over="ignore"):
        numbers = torch.from_numpy(encoded.astype(np.float32))
    return _computable(variable, numbers, value, what)


def _computable(variable: Variable, numbers: Tensor, value: Any, what: str) -> Tensor:
    """Check that standardised numbers are so small that squares and sums do not overflow in float32."""
    bad = ~(numbers.abs() < _MOST)
    if bool(bad.any()):
        shown = np.asarray(value, dtype=np.float64).reshape(-1, *bad.shape[1:]) if variable.origin is None else None
        worst = repr(value) if shown is None else f"{shown[bad.numpy()][0]:g}"
        raise DataError(
            f"{what}({variable.name}): {worst} is too large to compute with, more than {_MOST:g} times the spread of "
            f"{variable.name!r} in the training data",
            column=variable.name,
        )
    return numbers


def _as_column(value: Any) -> Any:
    """A single value unchanged; a list, an array, an index or a tensor as a column of values by row."""
    value = as_array(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value.item()
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        # pandas cannot compare values of another byte order
        value = value.astype(value.dtype.newbyteorder("="))
    if isinstance(value, np.ndarray) and value.ndim > 1:
        # a column of arrays, which are not equal to any level or number
        value = list(value)
    if isinstance(value, np.ndarray | list | tuple | range | pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(value)
    return value


def exact_numbers(schema: Schema, values: Mapping[str, Any]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Numbers given by the user, by continuous variable, in its units; functions are skipped.

    Raises:
        DataError: If a value is not a number.
    """
    numbers = {}
    for name, value in values.items():
        variable = schema[name]
        if variable.levels is None and variable.kind != "image" and variable.size is None and not callable(value):
            column = _as_column(value)
            distinct = column.unique() if isinstance(column, pd.Series) else [column]
            numbers[name] = np.array([variable.number(number) for number in distinct], dtype=np.float64)
    return numbers


def _encode_image(variable: Variable, value: Any, what: str) -> Tensor:
    array = np.asarray(as_array(value))
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[1:] != variable.shape:
        raise DataError(
            f"{what}({variable.name}): an array of shape {variable.shape} or [n, ...] is needed, not {np.shape(value)}",
            column=variable.name,
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating) or not ((array >= 0) & (array <= 1)).all():
        raise DataError(f"{what}({variable.name}): pixels must be uint8, or floats in [0, 1]", column=variable.name)
    return torch.from_numpy(np.rint(array * 255).astype(np.uint8))


def encode_setting(variable: Variable, value: Any, num_samples: int) -> Tensor | Rule:
    """A value of do(), as :func:`encode_values` takes it, or a function of the natural value.

    Args:
        variable: The variable that is set.
        value: A value, an array with one per row, or a function from the natural value of the variable in a row to
            the value that is set.
        num_samples: Number of rows.

    Returns:
        A tensor with one or ``num_samples`` rows, or the function on tensors.

    Raises:
        DataError: If a value is invalid, or an array has a wrong number of rows.
    """
    if not callable(value):
        encoded = encode_values(variable, value)
        if len(encoded) not in (1, num_samples):
            raise DataError(
                f"do({variable.name}): {len(encoded)} values were given for {num_samples} rows", column=variable.name
            )
        return encoded

    def rule(natural: Tensor) -> Tensor:
        shown: list[Any]
        if variable.kind == "image":
            shown = list(shown_images(natural))
        elif variable.size is not None:
            shown = list(variable.restore(natural.numpy()))
        else:
            shown = decode(variable, natural.numpy()).tolist()
        changed = [value(entry) for entry in shown]
        stacked = np.stack([np.asarray(image) for image in changed]) if variable.kind == "image" else changed
        return float_pixels(encode_values(variable, stacked))

    return rule


def encode_evidence(schema: Schema, given: Mapping[str, Any], do: Mapping[str, Any]) -> dict[str, Tensor]:
    """Encode observed values, one row each.

    Raises:
        QueryError: If a variable is unknown or set by do().
        DataError: If a value is invalid.
    """
    evidence = {}
    for name, value in given.items():
        variable = known(schema, name)
        if name in do:
            raise QueryError(f"{name!r} is set by do() and cannot be conditioned on as well")
        encoded = encode_values(variable, value, "evidence ")
        if len(encoded) != 1:
            raise DataError(f"evidence: one value of {name!r} is needed, not {len(encoded)}", column=name)
        evidence[name] = encoded
    return evidence


def encode_noise(
    sizes: Mapping[str, int], states: Mapping[str, int], noise: Mapping[str, Any], num_samples: int
) -> dict[str, Tensor]:
    """Encode noise of the user: float32 ``[n, size]`` by variable, int64 states ``[n]`` by confounder.

    Args:
        sizes: Size of the own noise per row, by variable.
        states: Number of states, by confounder.
        noise: Noise of the user.
        num_samples: Number of rows.

    Raises:
        QueryError: If a name is neither a variable nor a confounder.
        DataError: If an array has a wrong shape, a state does not exist, or a number is not finite.
    """
    encoded = {}
    for name, value in noise.items():
        array = np.asarray(value)
        if name in sizes:
            # a number beyond the range of float32 would become infinite
            limit = np.finfo(np.float32).max
            if array.shape != (num_samples, sizes[name]) or not (np.abs(array) <= limit).all():
                raise DataError(
                    f"noise of {name!r} must be finite numbers of shape [{num_samples}, {sizes[name]}], "
                    f"not {array.shape}",
                    column=name,
                )
            encoded[name] = torch.from_numpy(np.array(array, dtype=np.float32))
        elif name in states:
            whole = np.issubdtype(array.dtype, np.integer) and array.shape == (num_samples,)
            if not whole or not ((array >= 0) & (array < states[name])).all():
                raise DataError(
                    f"noise of the confounder {name!r} must be whole numbers in [0, {states[name]}) of shape "
                    f"[{num_samples}]",
                    column=name,
                )
            encoded[name] = torch.from_numpy(array.astype(np.int64))
        else:
            names = ", ".join(map(repr, (*sizes, *states)))
            raise QueryError(f"noise: there is no variable or confounder {name!r}; there are {names}")
    return encoded
