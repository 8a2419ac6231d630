"""Picture files named in a column of a table."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.data.variables import missing_value_remedy, refuse
from mdcm.errors import DataError
from mdcm.storage.disk import as_path
from mdcm.text.limits import most_unpacked

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["names_pictures", "read_pictures"]

# accepted formats; pillow starts external programs for some other formats
_FORMATS = ("PNG", "JPEG")
# pillow's pixel format by number of channels, and number of channels by pixel format if it is not 3
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CHANNELS = {"1": 1, "L": 1, "RGBA": 4}
# largest size of pixels held in memory; more are held in an anonymous file
_MOST_IN_MEMORY = 1 << 30
# suffixes of picture files
_ENDINGS = (".png", ".jpg", ".jpeg")
# number of names that are checked for an existing file
_MOST_CHECKED = 64
# fewest pictures for which progress is shown
_MANY = 500


def names_pictures(column: pd.Series[Any], folder: str | Path) -> bool:
    """Whether a column holds names of pictures: every value has such a suffix, and any of the first 64 is a file.

    Args:
        column: The column; missing values are ignored.
        folder: Folder of the table; names are relative to it.

    Example:
        >>> import pandas as pd
        >>> names_pictures(pd.Series(["a.png", "b.png"]), tempfile.mkdtemp())
        False
    """
    present = column.dropna()
    if not len(present) or not all(isinstance(name, str) and name.lower().endswith(_ENDINGS) for name in present):
        return False
    return any(_is_file(Path(folder) / name) for name in present.head(_MOST_CHECKED))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # not a valid file name
    except (OSError, ValueError):
        return False


def read_pictures(
    names: pd.Series[Any],
    folder: str | Path,
    shape: tuple[int, int, int] | None = None,
    *,
    scale: bool = False,
    progress: bool = False,
) -> NDArray[np.uint8]:
    """Read the images named in a column.

    Args:
        names: Paths of PNG or JPEG files, relative to the folder; not empty.
        folder: Folder of the table.
        shape: Channels (1, 3 or 4), height and width; by default those of the first picture.
        scale: Whether to scale pictures to this height and width, regardless of their proportions.
        progress: Whether to show progress on a terminal.

    Returns:
        Pixels, uint8 ``[n, c, h, w]``; memory-mapped from a temporary file if they take more than 1 GiB.

    Raises:
        DataError: If pillow is not installed, a name is missing, or a file is not a picture or has another size.

    Example:
        >>> import pandas as pd, PIL.Image
        >>> folder = tempfile.mkdtemp()
        >>> PIL.Image.new("L", (6, 8)).save(Path(folder, "a.png"))
        >>> read_pictures(pd.Series(["a.png"], name="I"), folder).shape
        (1, 1, 8, 6)
    """
    column = str(names.name)
    try:
        import PIL.Image
    except ImportError:
        raise DataError(
            f"column {column!r} holds the names of pictures; reading them needs pillow: pip install 'mdcm[images]'",
            column=column,
        ) from None
    folder = as_path(folder)
    refuse(names.isna(), f"column {column!r} names no picture", None, column, remedy=missing_value_remedy())
    pictures: NDArray[np.uint8] | None = None
    files: Iterable[Any] = names
    if progress and len(names) >= _MANY:
        from mdcm.progress import counted

        files = counted(names, len(names), f"reading pictures of {column}")
    for row, file in enumerate(files):
        where = f"column {column!r}, row {row} (counted from 0): {file!r}"
        if not isinstance(file, str):
            raise DataError(f"{where} is not a file name", column=column, row=row, count=1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
                path = folder / file
                with PIL.Image.open(path, formats=_FORMATS) as picture:
                    _refuse_to_unpack(picture, path.stat().st_size)
                    pixels = _pixels(picture, shape, scale=scale)
        except _UnusableError as error:
            raise DataError(f"{where} {error}", column=column, row=row, count=1) from None
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
            raise DataError(f"{where} is too large: {error}", column=column, row=row, count=1) from None
        except MemoryError:
            raise
        # a damaged file can make pillow raise almost any exception
        except Exception as error:
            reason = (isinstance(error, OSError) and error.strerror) or "not a readable PNG or JPEG picture"
            raise DataError(f"{where}: {reason}", column=column, row=row, count=1) from error
        if pictures is None:
            shape = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
            _refuse_repeated(names, folder, math.prod(shape))
            pictures = _store((len(names), *shape), column)
        pictures[row] = pixels
    if pictures is None:
        raise DataError(f"column {column!r} has no rows, so there are no pictures to read", column=column)
    return pictures


def _refuse_to_unpack(picture: Image, size: int) -> None:
    """Refuse a picture with far more pixels than the size of its file can hold, before they are decoded."""
    needed, limit = picture.height * picture.width * len(picture.getbands()), most_unpacked(size)
    if needed > limit:
        raise _UnusableError(
            f"is too large: its {picture.height:,} x {picture.width:,} pixels take {needed:,} bytes, but the limit for "
            f"a file of {size:,} bytes is {limit:,}; save it with fewer pixels"
        )


def _refuse_repeated(names: pd.Series[Any], folder: Path, size: int) -> None:
    """Refuse a column that repeats a few files so often that their pixels would fill the memory or the disk."""
    total = 0
    for name in names.unique():
        # missing files are refused when they are read
        with suppress(OSError, ValueError, TypeError):
            total += (folder / name).stat().st_size
    needed, limit = len(names) * size, most_unpacked(total)
    if needed > limit:
        raise DataError(
            f"column {names.name!r}: its {len(names):,} pictures take {needed:,} bytes, but the limit for files of "
            f"{total:,} bytes is {limit:,}; save smaller pictures, or fewer rows",
            column=str(names.name),
        )


def _store(shape: tuple[int, ...], column: str) -> NDArray[np.uint8]:
    needed = math.prod(shape)
    if needed <= _MOST_IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            # reserve the space now: writing to a mapped file on a full disk would kill the process
            os.posix_fallocate(file.fileno(), 0, needed)
            return np.memmap(file, np.uint8, "r+", 0, shape)
    except OSError as error:
        raise DataError(
            f"column {column!r}: its pictures take {needed:,} bytes, for which {tempfile.gettempdir()} has no room "
            f"({error.strerror}); set TMPDIR to a larger disk",
            column=column,
        ) from None


class _UnusableError(Exception):
    pass


def _pixels(picture: Image, shape: tuple[int, int, int] | None, *, scale: bool = False) -> NDArray[np.uint8]:
    """Pixels ``[c, h, w]`` of a picture; another shape than ``shape`` is refused, or scaled to it."""
    channels = _CHANNELS.get(picture.mode, 3) if shape is None else shape[0]
    if shape is not None and (picture.height, picture.width) != shape[1:] and not scale:
        # never scale unless requested
        raise _UnusableError(f"is {picture.height} x {picture.width} pixels, not {shape[1]} x {shape[2]}")
    if channels not in _MODES or picture.mode.startswith(("I", "F")):
        raise _UnusableError(f"has the pixel format {picture.mode!r}, which does not fit {channels} channels of 8 bits")
    converted = picture.convert(_MODES[channels])
    if shape is not None and (picture.height, picture.width) != shape[1:]:
        import PIL.Image

        converted = converted.resize((shape[2], shape[1]), PIL.Image.Resampling.BOX)
    pixels = np.asarray(converted)
    return np.moveaxis(pixels.reshape(converted.height, converted.width, channels), 2, 0)
