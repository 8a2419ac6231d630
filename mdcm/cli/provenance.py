"""Origin of the training data, recorded so that they can be read again safely.

A run directory may come from anyone, and the files that it names may be chosen to do harm. A file is therefore read
again only if it lies below the parent directory of the run, no link leads to it, it is a regular file, and it has the
recorded size and checksum. All other files are read only if the user names them.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdcm.cli.spec import Spec, read_spec
from mdcm.data.tables import parquet_size
from mdcm.errors import DataError
from mdcm.storage.disk import Folder
from mdcm.text.printable import quoted

if TYPE_CHECKING:
    from mdcm.data import Dataset

__all__ = ["note_origin", "read_again"]

# bytes of tables that are read into memory unasked, and of one picture; arrays are mapped
_MOST_OF_TABLES = 1 << 27
_MOST_OF_A_PICTURE = 1 << 26
_MOST_OF_AN_ARRAY = 1 << 40
# cells of Parquet files, whose bytes say little about them
_MOST_CELLS = 20_000_000
_PARQUET = {".parquet", ".pq"}
_TABLES = {".csv", ".tsv", *_PARQUET}


def note_origin(spec: Spec, run: Path) -> dict[str, Any]:
    """What a run says of the files that it was trained on.

    Args:
        spec: The spec, read from a file.
        run: The run directory, which need not exist yet.

    Returns:
        Plain JSON values: the path of the spec, and size and checksum of every regular file below the parent directory
        of the run, by its relative path.
    """
    root = _root(run)
    assert spec.file is not None
    files: dict[str, Any] = {}
    for path in [spec.file, *spec.files()]:
        # resolve links, so that the recorded path contains none
        name = _relative(root, path.parent.resolve() / path.name)
        if name is not None:
            try:
                size, checksum = _look(root, name, _MOST_OF_AN_ARRAY)
            except OSError:
                # a link, or another file that would not be read again
                continue
            files[name] = {"bytes": size, "sha256": checksum}
    return {"spec": os.path.relpath(spec.file, root.path), "files": files}


def read_again(run: Path, origin: Mapping[str, Any]) -> list[Dataset]:
    """Read the data sets of a training from the files recorded in its run.

    Args:
        run: The run directory.
        origin: The record of :func:`note_origin`, not trusted.

    Raises:
        DataError: If a file must not be read without the user's request, has changed, or cannot be used.
    """
    root = _root(run)
    noted = origin.get("files")
    if not isinstance(noted, Mapping):
        raise DataError("the run does not say what they were")
    name = origin.get("spec")
    _verify(root, name, noted)
    spec = read_spec(root.path / str(name))
    tables = 0
    for path in spec.files():
        size = _verify(root, _relative(root, path), noted, path)
        if path.suffix.lower() in _TABLES:
            tables += size
            if tables > _MOST_OF_TABLES:
                raise DataError(f"{path}: tables of more than {_MOST_OF_TABLES:,} bytes are not read unasked")
            if path.suffix.lower() in _PARQUET:
                _refuse_many_cells(path)

    def guard(path: Path) -> None:
        """Refuse a picture outside the directory of the data; its content is compared with the training later."""
        _open(root, _relative(root, path), path, _MOST_OF_A_PICTURE)

    return spec.load_data(guard=guard)


def _root(run: Path) -> Folder:
    return Folder(run.resolve().parent)


def _relative(root: Folder, path: Path) -> str | None:
    """Path relative to the root, without "..", or None if it is not below the root."""
    if "\0" in str(path):
        return None
    # links are not resolved: opening a path with a link fails
    whole = Path(os.path.normpath(root.path / path))
    return whole.relative_to(root.path).as_posix() if root.path in whole.parents else None


def _look(root: Folder, name: str, limit: int) -> tuple[int, str]:
    """Size and checksum of a regular file below the root."""
    *folders, last = name.split("/")
    folder = Folder(root.path, tuple(folders))
    with folder.open(last) as stream:
        size = folder.size(last, stream, limit)
        return size, hashlib.file_digest(stream, "sha256").hexdigest()


def _open(root: Folder, name: str | None, path: Path, limit: int) -> None:
    """Refuse a path unless it is a regular file below the root, not larger than the limit."""
    if name is None:
        raise DataError(f"{path} does not lie below {root.path}, where the run is")
    *folders, last = name.split("/")
    folder = Folder(root.path, tuple(folders))
    try:
        with folder.open(last) as stream:
            folder.size(last, stream, limit)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _verify(root: Folder, name: object, noted: Mapping[str, Any], path: Path | None = None) -> int:
    """Refuse a file that differs from its record; return its size."""
    shown = path if path is not None else name
    if not isinstance(name, str) or "\0" in name or _relative(root, Path(name)) != name:
        where = quoted(str(shown))
        raise DataError(f"{where} does not lie below {root.path}, where the run is")
    entry = noted.get(name)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("bytes"), int):
        raise DataError(f"{root.path / name} is not a file that the run notes")
    try:
        size, checksum = _look(root, name, entry["bytes"])
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DataError(f"{root.path / name} is not as it was") from None
        raise DataError(f"{root.path / name}: {error.strerror or error}") from None
    if (size, checksum) != (entry["bytes"], entry.get("sha256")):
        raise DataError(f"{root.path / name} is not as it was")
    return size


def _refuse_many_cells(path: Path) -> None:
    """Refuse a Parquet file with too many cells; a few bytes can hold very many."""
    rows, columns = parquet_size(path)
    if rows * columns > _MOST_CELLS:
        raise DataError(f"{path}: tables of more than {_MOST_CELLS:,} cells are not read unasked")
