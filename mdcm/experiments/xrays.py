"""X-ray-like pictures with a known truth, and the folder layout of COVIDx CXR-3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mdcm.data import read_pictures
from mdcm.errors import DataError
from mdcm.storage.disk import as_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CLASSES", "Chest", "Rays", "StandIn", "read_covidx"]

# classes of a conditional generator
CLASSES = ("covid", "normal", "pneumonia")

# classes in lists of COVIDx, and their values of C and N
_LABELS = {"covid-19": (1, 1), "covid": (1, 1), "positive": (1, 1), "pneumonia": (0, 1), "normal": (0, 0)}
# classes in a list of two, which has no pneumonia without COVID
_NEGATIVE = "negative"
_LIST = "train.txt"

# shares of people who stay well, who get pneumonia by other ways, and who get COVID
_STATES = np.array([0.45, 0.25, 0.30])
# effects of opacity and of U on the log odds of pneumonia
_SLOPE, _OFFSET = 0.9, np.array([-1.8, 0.4])
# mean opacity without and with COVID, in standard deviations: the two overlap
_OPACITY = (0.0, 0.7)
_GRID = np.linspace(-5.0, 6.0, 4001)
_TEXTURE = 16


@dataclass(frozen=True)
class Rays:
    """Rows of the observed variables.

    Attributes:
        table: Columns C (COVID) and N (pneumonia), 0 or 1; N may be missing.
        images: uint8 ``[n, 1, r, r]``.
    """

    table: pd.DataFrame
    images: NDArray[np.uint8]


class Chest:
    """The true model: U -> C -> X -> N <- U, of which U is hidden and X is a picture.

    U has the states healthy, pneumonia and COVID. The opacity of the lungs in X is normal, with a higher mean under
    COVID; N depends on the opacity and on U. COVID implies pneumonia, so that C = 1 with N = 0 does not occur, as in
    COVIDx.

    Args:
        resolution: Height and width of the pictures, a multiple of 8.

    Example:
        >>> chest = Chest()
        >>> round(chest.effect(), 3)
        0.073
    """

    def __init__(self, resolution: int = 32) -> None:
        if resolution < 8 or resolution % 8:
            raise ValueError(f"the resolution must be a multiple of 8, at least 8, not {resolution}")
        self.resolution = resolution
        self.painter = _Painter(resolution)

    def pneumonia(self, opacity: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(N = 1 | opacity, U), ``[n, 3]``."""
        odds = 1 / (1 + np.exp(-(_SLOPE * opacity[:, None] + _OFFSET)))
        return np.concatenate([odds, np.ones((len(opacity), 1))], 1)

    def do(self, c: int) -> float:
        """Probability of pneumonia had C been set to c, by integration over the opacity."""
        return float(_density(c) @ (self.pneumonia(_GRID) @ _STATES))

    def effect(self) -> float:
        """P(N = 1 | do(C = 1)) - P(N = 1 | do(C = 0))."""
        return self.do(1) - self.do(0)

    def joint(self) -> NDArray[np.float64]:
        """P(C, N), ``[2, 2]``."""
        counts = np.zeros((2, 2))
        for c, states in ((0, [0, 1]), (1, [2])):
            with_n = float(_density(c) @ (self.pneumonia(_GRID)[:, states] @ _STATES[states]))
            counts[c] = max(0.0, _STATES[states].sum() - with_n), with_n
        return counts

    def sample(self, n: int, *, seed: int = 0) -> Rays:
        """Draw n rows of the observed variables C, X and N."""
        rng = np.random.default_rng(seed)
        u = rng.choice(3, size=n, p=_STATES)
        c = (u == 2).astype(np.int64)
        opacity = rng.normal(size=n) + np.take(_OPACITY, c)
        sick = (rng.random(n) < self.pneumonia(opacity)[np.arange(n), u]).astype(np.int64)
        images = self.painter(torch.from_numpy(opacity), torch.from_numpy(rng.normal(size=(n, _TEXTURE))))
        pixels = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
        return Rays(pd.DataFrame({"C": c, "N": sick}), pixels)


def _density(c: int) -> NDArray[np.float64]:
    """Weights of the grid: opacity given C = c."""
    weight = np.exp(-0.5 * (_GRID - _OPACITY[c]) ** 2)
    return np.asarray(weight / weight.sum())


class _Painter:
    """Picture of two lungs in a bright chest: the opacity sets their brightness, the noise their texture."""

    def __init__(self, resolution: int) -> None:
        side = (np.arange(resolution) + 0.5) / resolution * 2 - 1
        down, right = np.meshgrid(side, side, indexing="ij")
        lungs = sum((((right - at) / 0.32) ** 2 + (down / 0.65) ** 2 <= 1).astype(float) for at in (-0.45, 0.45))
        ribs = 0.06 * np.cos(9 * np.pi * down + 2 * right**2)
        self.lungs = torch.tensor(np.clip(lungs, 0, 1), dtype=torch.float32)
        self.base = torch.tensor(0.35 + ribs, dtype=torch.float32) - 0.75 * self.lungs
        self.scale = resolution // 4

    def __call__(self, opacity: Tensor, texture: Tensor) -> Tensor:
        """Pictures in [-1, 1], float32 ``[n, 1, r, r]``."""
        coarse = texture.float().view(-1, 1, 4, 4)
        fine = nn.functional.interpolate(coarse, scale_factor=self.scale, mode="bilinear", align_corners=False)[:, 0]
        # the texture has mean zero over the lungs, so that their mean brightness is the opacity
        inside = self.lungs
        fine = fine - (fine * inside).sum((1, 2), keepdim=True) / inside.sum()
        brighter = 0.14 * opacity.float()[:, None, None] * inside
        return (self.base + brighter + 0.05 * fine)[:, None].clamp(-1, 1)


class StandIn(nn.Module):
    """A conditional generator of three classes in place of one trained on real X-rays.

    It is exact: pictures of each class have the distribution of :class:`Chest`.

    Args:
        chest: The true model.

    Example:
        >>> StandIn(Chest(16))(torch.tensor([0, 1, 2]), torch.zeros(3, 17)).shape
        torch.Size([3, 1, 16, 16])
    """

    def __init__(self, chest: Chest) -> None:
        super().__init__()
        self.painter = chest.painter
        sick = chest.pneumonia(_GRID)[:, :2] @ (_STATES[:2] / _STATES[:2].sum())
        by_class = [_density(1), _density(0) * (1 - sick), _density(0) * sick]
        bounds = np.stack([np.cumsum(density) / density.sum() for density in by_class])
        self.register_buffer("bounds", torch.from_numpy(bounds))
        self.bounds: Tensor

    @property
    def noise_size(self) -> int:
        """Number of normal variables of a picture: one for the opacity, the others for the texture."""
        return 1 + _TEXTURE

    def forward(self, label: Tensor, noise: Tensor) -> Tensor:
        """Pictures in [-1, 1], ``[n, 1, r, r]``, of classes ``[n]`` from normal noise ``[n, 17]``."""
        uniform = torch.special.ndtr(noise[:, 0].double())
        index = torch.searchsorted(self.bounds[label], uniform[:, None]).squeeze(1).clamp_max(len(_GRID) - 1)
        return self.painter(torch.from_numpy(_GRID)[index], noise[:, 1:])


def read_covidx(directory: str | Path, resolution: int = 32) -> Rays:
    """Read pictures and labels in the layout of COVIDx CXR-3.

    Args:
        directory: Directory of ``train.txt``, with a line "patient file class source" for every picture, and of the
            pictures in ``train/``. Classes are normal, pneumonia, and COVID-19 (or positive), in lists of three
            classes; or positive and negative, in lists of two.
        resolution: Height and width of the scaled pictures.

    Returns:
        The rows. In a list of two classes N is unknown, and missing, where C is 0.

    Raises:
        DataError: With file and line, if the list or a picture is missing or cannot be read, or a class is unknown or
            "negative" in a list of three.
    """
    listed = as_path(directory) / _LIST
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise DataError(f"{listed}: {reason}; it has to hold lines 'patient file class source'") from error
    names: list[str] = []
    labels: list[tuple[int, int | None]] = []
    negative = three = ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where, parts = f"{listed}, line {number}", line.split()
        if len(parts) < 3:
            raise DataError(f"{where}: {line!r} is not 'patient file class source'")
        name, label = parts[1], parts[2].lower()
        if label == _NEGATIVE:
            negative = negative or where
        elif label not in _LABELS:
            known = "normal, pneumonia or COVID-19, or positive or negative"
            raise DataError(f"{where}: the class is {parts[2]!r}; it must be {known}")
        elif label in {"normal", "pneumonia"}:
            three = three or where
        if negative and three:
            raise DataError(
                f"{negative}: the class 'negative' does not say whether there is pneumonia, which other lines do "
                f"({three}); take a list of three classes, or of two"
            )
        if not (Path(directory) / "train" / name).is_file():
            raise DataError(f"{where}: there is no picture {Path(directory) / 'train' / name}")
        names.append(name)
        labels.append(_LABELS.get(label, (0, None)))
    if not names:
        raise DataError(f"{listed} lists no pictures")
    table = pd.DataFrame(labels, columns=["C", "N"])
    if negative:
        table["N"] = table["N"].astype("Int64")
    images = read_pictures(
        pd.Series(names, name="X"), Path(directory) / "train", (1, resolution, resolution), scale=True
    )
    return Rays(table, images)
