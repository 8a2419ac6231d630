"""Grids of sampled images as PNG."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.errors import MdcmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NO_PICTURES", "can_draw_pictures", "grid_png"]

NO_PICTURES = "pictures are left out, because pillow is not installed: pip install 'mdcm[images]'"

_MARGIN = 8
_GAP = 2
_LABEL = 22
_FONT = 14
_PAPER, _INK = (255, 255, 255), (31, 41, 51)
_TILE = 48


def can_draw_pictures() -> bool:
    """Whether pillow, which draws the grids, is installed."""
    return importlib.util.find_spec("PIL") is not None


def grid_png(sections: Mapping[str, NDArray[np.uint8]], *, columns: int = 16, scale: int | None = None) -> bytes:
    """Draw labelled sections of images in rows, enlarged without smoothing.

    Args:
        sections: uint8 images ``[n, c, h, w]`` by label, c = 1 (grey) or 3 (red, green, blue), all of the same shape.
        columns: Number of images per row.
        scale: Enlargement, a whole number; by default the smallest that makes an image at least 48 pixels wide.

    Returns:
        A PNG file. With w and h enlarged, it is ``16 + columns * (w + 2) - 2`` pixels wide, or more for a longer
        label, and ``14 + sum over sections of (22 + rows * (h + 2))`` high.

    Raises:
        ValueError: If there are no images, shapes differ, an array is not uint8, or columns or scale is below 1.
        MdcmError: If pillow is not installed.

    Example:
        >>> grid_png({"black": np.zeros((2, 3, 8, 8), dtype=np.uint8)}, columns=2)[1:4]
        b'PNG'
    """
    shapes = {images.shape[1:] for images in sections.values()}
    if len(shapes) != 1 or not any(len(images) for images in sections.values()):
        raise ValueError(f"images must all have the same shape, not {sorted(shapes) or 'none'}")
    (shape,) = shapes
    if len(shape) != 3 or shape[0] not in {1, 3} or min(shape) < 1:
        raise ValueError(f"images must be [n, 1, h, w] or [n, 3, h, w], not [n, {', '.join(map(str, shape))}]")
    if any(images.dtype != np.uint8 for images in sections.values()):
        raise ValueError("images must be uint8")
    _, height, width = shape
    scale = -(-_TILE // width) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ValueError(f"columns and scale must be at least 1, not {columns} and {scale}")
    draw, image_module = _pillow("ImageDraw"), _pillow("Image")
    font = _pillow("ImageFont").load_default(size=_FONT)
    tile_height, tile_width = height * scale + _GAP, width * scale + _GAP
    rows = [-(-len(images) // columns) for images in sections.values()]
    content = max([columns * tile_width - _GAP, *(int(np.ceil(font.getlength(label))) for label in sections)])
    size = (2 * _MARGIN + content, 2 * _MARGIN - _GAP + sum(_LABEL + count * tile_height for count in rows))
    canvas = image_module.new("RGB", size, _PAPER)
    pen = draw.Draw(canvas)
    top = _MARGIN
    for (label, images), count in zip(sections.items(), rows, strict=True):
        pen.text((_MARGIN, top), label, fill=_INK, font=font)
        top += _LABEL
        for i, image in enumerate(images):
            corner = (_MARGIN + i % columns * tile_width, top + i // columns * tile_height)
            canvas.paste(image_module.fromarray(_enlarged(image, scale)), corner)
        top += count * tile_height
    stream = io.BytesIO()
    canvas.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _enlarged(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError as error:
        raise MdcmError("drawing pictures needs pillow, which is not installed: pip install 'mdcm[images]'") from error
