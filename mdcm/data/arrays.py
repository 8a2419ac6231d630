"""Arrays in files beside a table: NumPy's .npy, and IDX, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mdcm.data import tables as files
from mdcm.errors import DataError
from mdcm.storage.disk import as_path
from mdcm.text.limits import most_unpacked

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_array", "read_images"]

_NPY = b"\x93NUMPY"
_GZIP = b"\x1f\x8b"
# NumPy's limit of a header
_LONGEST_HEADER = 10_000
_MOST_DIMENSIONS = 32
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# largest array unpacked into memory; a larger file must be unpacked by the user, and is then memory-mapped
_MOST_UNPACKED = 1 << 30
_CHUNK = 1 << 20


def read_array(path: str | Path) -> NDArray[Any]:
    """Read an array from an .npy file or an IDX file, memory-mapped read-only if it is not compressed.

    The content decides the format, not the name. The header is compared with the file's size before memory is
    allocated, and nothing in the file is executed.

    Args:
        path: .npy; IDX (``train-images-idx3-ubyte``); or IDX compressed by gzip. An unpacked array must not exceed
            1 GiB, nor both 128 MiB and 200 times the size of the file.

    Returns:
        The array, of the shape and type in the file.

    Raises:
        DataError: If the file is missing, truncated, damaged, of another format, or holds Python objects.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "labels-idx1-ubyte")
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        >>> read_array(path).tolist()
        [7, 2, 1]
    """
    path = as_path(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY))
            file.seek(0)
            if start.startswith(_GZIP):
                return _read_packed(path, file)
            if _is_idx(start):
                shape, dtype, offset = _idx_header(path, file)
                _check_size(path, shape, dtype, path.stat().st_size - offset, exact=True)
                return _memory_map(path, shape, dtype, offset)
            if start == _NPY:
                _check_npy(path, file)
            elif path.suffix.lower() != ".npy" and not start.startswith(b"PK"):
                raise DataError(f"{path}: neither an .npy array nor an IDX file, by its first bytes")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    return files.read_images(path)


def read_images(path: str | Path) -> NDArray[Any]:
    """Read an array of images from an .npy or IDX file, memory-mapped read-only if it is not compressed.

    Returns:
        The array of an .npy file unchanged; grey images ``[n, 1, h, w]`` from an IDX file, which has no channels.

    Raises:
        DataError: As :func:`read_array`.
    """
    array = read_array(path)
    with Path(path).open("rb") as file:
        is_npy = file.read(len(_NPY)) == _NPY
    return array[:, None] if array.ndim == 3 and not is_npy else array


def _is_idx(start: bytes) -> bool:
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES


def _idx_header(path: Path, file: IO[bytes] | gzip.GzipFile) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and length of a header: two zero bytes, type, number of dimensions, and their big-endian sizes."""
    magic = _read_exactly(path, file, 4)
    if not _is_idx(magic):
        raise DataError(f"{path}: not an IDX file: it starts with {magic.hex(' ')}")
    dimensions = magic[3]
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise DataError(f"{path}: not an IDX file: its header declares {dimensions} dimensions")
    sizes = _read_exactly(path, file, 4 * dimensions)
    shape = tuple(int.from_bytes(sizes[4 * axis : 4 * axis + 4], "big") for axis in range(dimensions))
    return shape, np.dtype(_IDX_TYPES[magic[2]]), 4 + 4 * dimensions


def _read_exactly(path: Path, file: IO[bytes] | gzip.GzipFile, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise DataError(f"{path}: the file ends inside its header")
    return content


def _check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], available: int, *, exact: bool) -> None:
    """Refuse a file whose size does not match its header, before memory is allocated."""
    # Python integers do not overflow
    needed = math.prod(shape) * dtype.itemsize
    if needed > available or (exact and needed < available):
        state = "is truncated or damaged" if needed > available else "is damaged"
        raise DataError(
            f"{path} {state}: its header declares {list(shape)} values of {dtype.name}, {needed:,} bytes, "
            f"but {available:,} follow"
        )


def _memory_map(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, "r", offset, shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: cannot be mapped into memory: {error}") from None


def _read_packed(path: Path, file: IO[bytes]) -> NDArray[Any]:
    """Read an IDX file compressed by gzip, in chunks, so that a false header allocates no memory."""
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            shape, dtype, _ = _idx_header(path, stream)
            needed = math.prod(shape) * dtype.itemsize
            if needed > min(_MOST_UNPACKED, most_unpacked(path.stat().st_size)):
                raise DataError(
                    f"{path}: its header declares {list(shape)} values of {dtype.name}, {needed:,} bytes; unpack such "
                    "a large file with gunzip, so that it is memory-mapped"
                )
            content = bytearray()
            while len(content) <= needed and (chunk := stream.read(min(_CHUNK, needed + 1 - len(content)))):
                content += chunk
    except EOFError:
        raise DataError(f"{path} is truncated: its gzip stream has no end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    _check_size(path, shape, dtype, len(content), exact=True)
    return np.frombuffer(content, dtype).reshape(shape)


def _check_npy(path: Path, file: IO[bytes]) -> None:
    """Refuse an .npy header that declares more than the file holds, or Python objects."""
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    problem = f"{path}: not an .npy array of numbers that can be read"
    start = file.read(12)
    if len(start) < 12 or start[6] not in readers:
        raise DataError(f"{problem}: its header has an unknown version, or is incomplete")
    length = int.from_bytes(start[8:10] if start[6] == 1 else start[8:12], "little")
    if length > _LONGEST_HEADER:
        raise DataError(f"{problem}: its header is {length:,} bytes long")
    file.seek(8)
    try:
        shape, _, dtype = readers[start[6]](file)
    # a hostile header can make NumPy's parser raise any exception
    except Exception as error:
        raise DataError(
            f"{problem}: {str(error).splitlines()[0][:200] if str(error) else 'its header is damaged'}"
        ) from None
    if dtype.hasobject:
        raise DataError(f"{problem}: it holds Python objects, which would have to be executed")
    if dtype.fields is not None or dtype.itemsize == 0:
        raise DataError(f"{problem}: it holds records of {dtype}; save an array of numbers")
    if len(shape) > _MOST_DIMENSIONS or any(size < 0 for size in shape):
        raise DataError(f"{problem}: its header declares the shape {list(shape)}")
    _check_size(path, shape, dtype, path.stat().st_size - file.tell(), exact=False)
