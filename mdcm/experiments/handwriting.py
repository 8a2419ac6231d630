"""Handwritten digits as grey pictures, enlarged, thinned, thickened, shifted and coloured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdcm.data import read_array
from mdcm.errors import DataError, MdcmError
from mdcm.storage.disk import as_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "COLOURS",
    "STROKES",
    "DigitPainter",
    "Handwriting",
    "enlarge",
    "load_handwriting",
    "paint",
    "restroke",
    "shifts",
]

COLOURS = ("red", "green", "blue")
STROKES = ("thin", "thick")

_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
# enough for variety, and few enough for memory in all variants
_MOST = 6000
# factor by which pictures are enlarged to change strokes, and size of the square in pixels
_FINE, _SQUARE = 4, 5


@dataclass(frozen=True)
class Handwriting:
    """Real handwritten digits.

    Attributes:
        greys: Pictures in [0, 1], float32 ``[n, s, s]``.
        labels: Their digits, int64 ``[n]``.
        source: Name of their source.
    """

    greys: Tensor
    labels: Tensor
    source: str

    def __len__(self) -> int:
        return len(self.labels)


def load_handwriting(directory: str | Path | None = None) -> Handwriting:
    """Load the digits of scikit-learn, or those of the MNIST files in a directory.

    Args:
        directory: Directory of ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, perhaps with ``.gz``; the
            first 6,000 digits are used. By default the 1,797 digits of 8 x 8 pixels of Alpaydin & Kaynak (1998).

    Raises:
        DataError: If a file is missing or is not an IDX file, or the two have different lengths.
        MdcmError: If scikit-learn is needed and not installed.

    Example:
        >>> len(load_handwriting())
        1797
    """
    if directory is not None:
        return _read_mnist(as_path(directory))
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MdcmError(
            "the handwritten digits come with scikit-learn, which is not installed: pip install 'mdcm[demo]'"
        ) from error
    data = load_digits()
    greys = torch.tensor(data.images / 16.0, dtype=torch.float32)
    return Handwriting(greys, torch.tensor(data.target, dtype=torch.int64), "scikit-learn's handwritten digits")


def _read_mnist(directory: Path) -> Handwriting:
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; it has to hold {_IMAGES} and {_LABELS}")
    images, labels = (_read_idx(directory, name) for name in (_IMAGES, _LABELS))
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        raise DataError(f"{directory / _IMAGES}: square grey pictures are needed, not {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{directory}: {len(images)} pictures and {labels.size} labels do not belong together")
    if labels.size == 0 or not np.isin(labels, np.arange(10)).all():
        raise DataError(f"{directory / _LABELS}: labels must be digits 0 to 9, and there must be some")
    greys = torch.from_numpy(images[:_MOST].astype(np.float32) / 255)
    return Handwriting(greys, torch.from_numpy(labels[:_MOST].astype(np.int64)), f"MNIST, {len(greys):,} digits")


def _read_idx(directory: Path, name: str) -> NDArray[np.generic]:
    for file in (directory / name, directory / f"{name}.gz"):
        if file.exists():
            return read_array(file)
    raise DataError(f"{directory} holds neither {name} nor {name}.gz")


def enlarge(greys: Tensor, resolution: int) -> Tensor:
    """Resize pictures, with a margin as wide as the largest shift, ``[n, s, s]`` -> ``[n, r, r]``.

    Raises:
        ValueError: If the resolution is not a multiple of 8.
    """
    margin = _margin(resolution)
    large = _resize(greys, resolution - 2 * margin)
    return F.pad(large, (margin,) * 4)


def _margin(resolution: int) -> int:
    if resolution < 8 or resolution % 8:
        raise ValueError(f"the resolution must be a multiple of 8, at least 8, not {resolution}")
    return resolution // 16


def _resize(greys: Tensor, size: int) -> Tensor:
    if size >= greys.shape[-1]:
        resized = F.interpolate(greys[:, None], size=(size, size), mode="bicubic", align_corners=False)
    else:
        resized = F.interpolate(greys[:, None], size=(size, size), mode="area")
    return resized.clamp(0, 1)[:, 0]


def restroke(greys: Tensor, resolution: int) -> Tensor:
    """Make thin and thick versions, ``[n, s, s]`` -> ``[2, n, r, r]`` in the order of :data:`STROKES`.

    Grey-scale erosion and dilation by a square in pictures four times as large, after Castro et al. (2019).
    """
    margin = _margin(resolution)
    size = resolution - 2 * margin
    fine = _resize(greys, _FINE * size)[:, None]
    grown = F.max_pool2d(fine, _SQUARE, 1, _SQUARE // 2)
    shrunk = -F.max_pool2d(-fine, _SQUARE, 1, _SQUARE // 2)
    both = torch.stack([shrunk, grown])[:, :, 0]
    return F.pad(F.avg_pool2d(both, _FINE), (margin,) * 4)


def shifts(resolution: int) -> list[tuple[int, int]]:
    """Shifts down and to the right by up to one sixteenth of the picture."""
    step = resolution // 16
    steps = (-step, 0, step) if step else (0,)
    return [(down, right) for down in steps for right in steps]


def paint(greys: Tensor, colours: Tensor) -> Tensor:
    """Colour each row: ``[n, r, r]`` and ``[n]`` -> ``[n, 3, r, r]``."""
    return greys[:, None] * torch.eye(3)[colours][:, :, None, None]


class DigitPainter:
    """Generator of pictures of digits with given strokes and colours.

    Args:
        handwriting: Handwriting of the digits.
        resolution: Height and width of the pictures, a multiple of 8.

    Raises:
        ValueError: If the resolution is not a multiple of 8.
        DataError: If a digit is missing in the handwriting.

    Example:
        >>> painter = DigitPainter(load_handwriting(), 16)
        >>> painter(np.array([7, 2]), np.array([0, 2]), np.array([0, 1]), seed=0).shape
        (2, 3, 16, 16)
    """

    def __init__(self, handwriting: Handwriting, resolution: int = 16) -> None:
        missing = sorted(set(range(10)) - set(handwriting.labels.tolist()))
        if missing:
            raise DataError(f"{handwriting.source}: no picture of the digits {', '.join(map(str, missing))}")
        self.resolution = resolution
        self.greys = restroke(handwriting.greys, resolution)
        self.moves = shifts(resolution)
        self._rows = [(handwriting.labels == digit).nonzero().squeeze(1) for digit in range(10)]

    def __call__(
        self, digits: NDArray[np.int64], colours: NDArray[np.int64], strokes: NDArray[np.int64], seed: int
    ) -> NDArray[np.uint8]:
        """Draw pictures of digits with random handwriting and shifts, uint8 ``[n, 3, r, r]``.

        Args:
            digits: From 0 to 9, ``[n]``.
            colours: Indices into :data:`COLOURS`, ``[n]``.
            strokes: Indices into :data:`STROKES`, ``[n]``.
            seed: Seed of the draws.
        """
        rng = np.random.default_rng(seed)
        places, at = rng.random(len(digits)), rng.integers(len(self.moves), size=len(digits))
        images = np.zeros((len(digits), 3, self.resolution, self.resolution), dtype=np.uint8)
        for digit in range(10):
            for move, (down, right) in enumerate(self.moves):
                rows = np.flatnonzero((digits == digit) & (at == move))
                exemplars = self._rows[digit]
                chosen = exemplars[torch.from_numpy((places[rows] * len(exemplars)).astype(np.int64))]
                grey = torch.roll(self.greys[torch.from_numpy(strokes[rows]), chosen], (down, right), dims=(1, 2))
                painted = paint(grey, torch.from_numpy(colours[rows]))
                images[rows] = (painted * 255).round().to(torch.uint8).numpy()
        return images
