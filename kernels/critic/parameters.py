"""Parameters of critics: what they are, and how they lie in the one flat buffer that an optimiser updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "CriticParameters",
    "check_critics",
    "critic_size",
    "critic_views",
]

ACTIVATIONS = ("leaky_relu", "relu", "silu", "softplus", "tanh")
# elements; a tensor of float32 in a flat buffer begins at a multiple of 16 bytes
_ALIGNMENT = 4


@dataclass(frozen=True)
class CriticParameters:
    """Parameters of M critics of equal shape with L hidden layers, or their gradients.

    Attributes:
        weights: ``[M, H_l, H_{l-1}]`` for every hidden layer; H_0 is the number of input columns D.
        biases: ``[M, H_l]``.
        out: ``[M, H_L]``, the w of the last layer.
        offset: ``[M]``, its c.
        gains: ``[M, H_l]`` of layer normalisation, empty without it.
        shifts: ``[M, H_l]``, likewise.
        activation: leaky_relu, relu, silu, softplus or tanh.
        slope: Slope of leaky_relu below zero, not negative.

    One critic alone has all of these without the axis M. Batch normalisation is not offered: there a row's value
    depends on the other rows, so that the gradient of the sum is not that of any row.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    out: Tensor
    offset: Tensor
    gains: tuple[Tensor, ...] = ()
    shifts: tuple[Tensor, ...] = ()
    activation: str = "leaky_relu"
    slope: float = 0.2

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors: weights, biases, out, offset, gains, shifts."""
        return (*self.weights, *self.biases, self.out, self.offset, *self.gains, *self.shifts)

    def with_tensors(self, tensors: Sequence[Tensor]) -> CriticParameters:
        """The same kind of critic with other tensors, in the order of :meth:`tensors`."""
        depth = len(self.weights)
        rest = tensors[2 * depth + 2 :]
        return replace(
            self,
            weights=tuple(tensors[:depth]),
            biases=tuple(tensors[depth : 2 * depth]),
            out=tensors[2 * depth],
            offset=tensors[2 * depth + 1],
            gains=tuple(rest[: len(rest) // 2]),
            shifts=tuple(rest[len(rest) // 2 :]),
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> CriticParameters:
        """The same kind of critic with a function of every tensor."""
        return self.with_tensors([function(one) for one in self.tensors()])


def _shapes(widths: Sequence[int], layer_norm: bool) -> list[tuple[int, ...]]:
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be those of the input and of at least one hidden layer, not {list(widths)}")
    hidden = list(widths[1:])
    per_unit = [(width,) for width in hidden]
    weights = list(zip(hidden, widths[:-1], strict=True))
    return [*weights, *per_unit, (hidden[-1],), (), *(per_unit * 2 if layer_norm else [])]


def _room(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT


def critic_size(widths: Sequence[int], *, layer_norm: bool = False) -> int:
    """Elements of the flat buffer of one critic; each tensor begins at a multiple of four.

    Args:
        widths: Number of input columns, then of units of each hidden layer.
        layer_norm: Whether layers are normalised.

    Raises:
        ValueError: If there is no hidden layer, or one without units.

    Example:
        >>> critic_size([3, 5])  # 15, 5, 5 and 1, each rounded up
        36
    """
    return sum(_room(shape) for shape in _shapes(widths, layer_norm))


def critic_views(
    flat: Tensor,
    widths: Sequence[int],
    *,
    layer_norm: bool = False,
    activation: str = "leaky_relu",
    slope: float = 0.2,
) -> CriticParameters:
    """Critics whose tensors are views of one flat buffer, which an optimiser updates as a whole.

    Args:
        flat: ``[M, P]`` or ``[P]``, P from :func:`critic_size`.
        widths: Number of input columns, then of units of each hidden layer.
        layer_norm: Whether layers are normalised.
        activation: As in :class:`CriticParameters`.
        slope: As in :class:`CriticParameters`.

    Raises:
        ValueError: If the buffer is of another size.

    Example:
        >>> critics = critic_views(torch.zeros(7, critic_size([3, 5, 4])), [3, 5, 4])
        >>> [tuple(weight.shape) for weight in critics.weights]
        [(7, 5, 3), (7, 4, 5)]
    """
    shapes = _shapes(widths, layer_norm)
    rooms = [_room(shape) for shape in shapes]
    if flat.shape[-1] != sum(rooms):
        raise ValueError(f"critics of widths {list(widths)} need {sum(rooms)} elements each, not {flat.shape[-1]}")
    views = [
        part[..., : math.prod(shape)].view((*flat.shape[:-1], *shape))
        for part, shape in zip(torch.split(flat, rooms, -1), shapes, strict=True)
    ]
    depth = len(widths) - 1
    empty = CriticParameters((flat,) * depth, (flat,) * depth, flat, flat, activation=activation, slope=slope)
    return empty.with_tensors(views)


def check_critics(x: Tensor, params: CriticParameters) -> tuple[Tensor, CriticParameters, bool]:
    """Rows and critics with the axis of modules, and whether they came with it.

    Raises:
        ValueError: If shapes or types do not fit each other.
    """
    if params.activation not in ACTIVATIONS or params.slope < 0:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)} with a slope of at least 0, "
            f"not {params.activation!r} with {params.slope}"
        )
    stacked = params.out.dim() == 2
    if not stacked:
        x, params = x[None], params.map(lambda one: one[None])
    modules, depth = params.offset.shape[0], len(params.weights)
    widths = [x.shape[-1], *(weight.shape[1] for weight in params.weights)]
    expected = [(modules, *shape) for shape in _shapes(widths, bool(params.gains))]
    if x.dim() != 3 or x.shape[0] != modules or [tuple(one.shape) for one in params.tensors()] != expected:
        raise ValueError(
            f"{modules} critics with weights {[list(weight.shape) for weight in params.weights]} and {depth} biases, "
            f"and rows {list(x.shape)}, do not fit each other"
        )
    if any(one.dtype != x.dtype for one in params.tensors()):
        raise ValueError(f"rows of {x.dtype} and critics of {params.out.dtype} must be of one type")
    return x, params, stacked
