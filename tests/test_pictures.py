"""Grids of images: their size, and every pixel where it belongs."""

import io
import sys

import numpy as np
import pytest

from mdcm.errors import MdcmError
from mdcm.report.image_grid import grid_png


def opened(png):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))


def images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize(
    ("counts", "columns", "scale", "width", "height"),
    [
        ({"a": 6}, 3, 2, 16 + 3 * 18 - 2, 14 + 22 + 2 * 18),
        ({"a": 7, "b": 1}, 3, 1, 16 + 3 * 10 - 2, 14 + 22 + 3 * 10 + 22 + 10),
        ({"a": 2, "empty": 0}, 4, 3, 16 + 4 * 26 - 2, 14 + 22 + 26 + 22),
        ({"a": 1}, 1, None, 16 + 48, 14 + 22 + 50),
    ],
    ids=str,
)
def test_grid_has_the_size_it_says(counts, columns, scale, width, height):
    grid = opened(grid_png({name: images(n, 3, 8, 8) for name, n in counts.items()}, columns=columns, scale=scale))
    # a label that is longer than the row of images widens the picture
    assert grid.shape[0] == height
    assert grid.shape[1] == width or max(map(len, counts)) > 4
    assert grid.shape[1] >= width


def test_grid_shows_every_image_pixel_by_pixel():
    shown = images(5, 3, 8, 16)
    grid = opened(grid_png({"x": shown}, columns=3, scale=2))
    for i, image in enumerate(shown):
        top, left = 8 + 22 + i // 3 * 18, 8 + i % 3 * 34
        tile = grid[top : top + 16, left : left + 32]
        assert np.array_equal(tile, image.transpose(1, 2, 0).repeat(2, axis=0).repeat(2, axis=1))
    # the sixth place is empty
    assert (grid[8 + 22 + 18 : 8 + 22 + 34, 8 + 68 : 8 + 100] == 255).all()


def test_grid_shows_grey_images():
    shown = images(1, 1, 8, 8)
    grid = opened(grid_png({"x": shown}, columns=1, scale=1))
    assert np.array_equal(grid[30:38, 8:16], np.repeat(shown[0].transpose(1, 2, 0), 3, axis=2))


def test_grid_writes_labels():
    blank = {"a label": np.full((1, 3, 8, 8), 255, dtype=np.uint8)}
    assert (opened(grid_png(blank)) < 128).any()


@pytest.mark.parametrize(
    ("sections", "options", "message"),
    [
        ({}, {}, "images must all have the same shape, not none"),
        ({"a": images(0, 3, 8, 8)}, {}, "images must all have the same shape"),
        ({"a": images(1, 3, 8, 8), "b": images(1, 1, 8, 8)}, {}, "images must all have the same shape"),
        ({"a": images(1, 2, 8, 8)}, {}, r"not \[n, 2, 8, 8\]"),
        ({"a": images(1, 8, 8)}, {}, r"not \[n, 8, 8\]"),
        ({"a": np.zeros((1, 3, 8, 8))}, {}, "images must be uint8"),
        ({"a": images(1, 3, 8, 8)}, {"columns": 0}, "columns and scale must be at least 1, not 0"),
    ],
    ids=str,
)
def test_grid_refuses(sections, options, message):
    with pytest.raises(ValueError, match=message):
        grid_png(sections, **options)


def test_missing_pillow_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MdcmError, match=r"needs pillow, which is not installed: pip install 'mdcm\[images\]'"):
        grid_png({"a": images(1, 3, 8, 8)})
