"""Directories without links, and files that are replaced atomically.

A run directory from somebody else may contain links to files of the reader, endless pipes, devices, and sparse files of
any length. A :class:`Folder` follows no link below its root, opens only regular files, checks the opened file rather
than its name, and reads at most a given number of bytes. New files are first written under a temporary name and locked
by their writer; a temporary file without a lock was left by a dead process, and the next writer removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Literal

from mdcm.errors import DataError, MdcmError
from mdcm.text.printable import quoted

__all__ = ["Folder", "Kind", "as_path", "is_temporary", "replacing"]

Kind = Literal["file", "directory", "link", "special"]

_TEMPORARY = re.compile(r"\.mdcm-\d+-[0-9a-f]{16}\.tmp")
_LINK = "it is a symbolic link, and no link in such a directory is followed"
_SPECIAL = "it is not a regular file"
# do not follow a link, wait for the other end of a pipe, or pass the descriptor to child processes
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
# without it names are joined to paths
_RELATIVE = os.open in os.supports_dir_fd
# a file larger than this is refused if less than this share of it is data rather than holes
_LARGE = 1 << 26
_LEAST_DATA = 0.25
_MOST_EXTENTS = 1_000


def as_path(path: object, error: Callable[[str], MdcmError] = DataError) -> Path:
    r"""Convert an argument to a path, if a file or directory of that name is possible.

    Args:
        path: Text, or a path.
        error: Constructor of the error.

    Raises:
        MdcmError: That error, if the argument is of another type, empty, too long, or has a NUL or characters that
            the system cannot encode.

    Example:
        >>> as_path("a/b.csv").name
        'b.csv'
        >>> as_path("a\0b")
        Traceback (most recent call last):
            ...
        mdcm.errors.DataError: 'a\x00b' is not a path: it holds a NUL
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise error(f"a path is needed, a text or a pathlib.Path, not {quoted(path)}")
    text = os.fspath(path)
    reason = None
    if not text:
        reason = "it is empty"
    elif "\0" in text:
        reason = "it holds a NUL"
    else:
        try:
            os.lstat(text)
        except UnicodeEncodeError:
            reason = "the system cannot encode one of its characters"
        except OSError as failure:
            if failure.errno == errno.ENAMETOOLONG:
                reason = f"it, or a name in it, is too long for the system; it has {len(text):,} characters"
    if reason is not None:
        raise error(f"{quoted(text)} is not a path: {reason}")
    return Path(text)


@dataclass(frozen=True)
class Folder:
    """A directory in which no link is followed and only regular files are opened.

    Args:
        root: A directory; links in its own path are followed, because the user named it.
        parts: Names of nested directories below the root.

    Example:
        >>> import tempfile
        >>> folder = Folder(Path(tempfile.mkdtemp()))
        >>> with folder.replacing("answer.txt") as stream:
        ...     _ = stream.write(b"42")
        >>> folder.read("answer.txt", 100), folder.names()
        (b'42', ['answer.txt'])
    """

    root: Path
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: str | Path | Folder) -> Folder:
        """Folder of a path, made absolute; a folder is returned unchanged."""
        return path if isinstance(path, Folder) else cls(Path(path).absolute())

    def __truediv__(self, name: str) -> Folder:
        """Subdirectory of that name."""
        return Folder(self.root, (*self.parts, name))

    @property
    def path(self) -> Path:
        """Path of the directory."""
        return self.root.joinpath(*self.parts)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int | None]:
        """Handle of the directory; None if the system cannot open files relative to a handle."""
        _refuse_nul(self.path)
        if not _RELATIVE:
            for depth in range(len(self.parts) + 1):
                self._look(Folder(self.root, self.parts[:depth]), make)
            yield None
            return
        try:
            handle = os.open(self.root, os.O_RDONLY | _DIRECTORY)
        except OSError as error:
            raise _named(error, self.root) from None
        try:
            for depth, part in enumerate(self.parts):
                below = Folder(self.root, self.parts[: depth + 1]).path
                try:
                    if make:
                        with suppress(FileExistsError):
                            os.mkdir(part, dir_fd=handle)
                    deeper = os.open(part, os.O_RDONLY | _DIRECTORY | _SAFELY, dir_fd=handle)
                except OSError as error:
                    raise _named(_plainly(error, part, handle), below) from None
                os.close(handle)
                handle = deeper
            yield handle
        finally:
            os.close(handle)

    @staticmethod
    def _look(folder: Folder, make: bool) -> None:
        if make and folder.parts:
            folder.path.mkdir(exist_ok=True)
        mode = (folder.path.lstat() if folder.parts else folder.path.stat()).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, _LINK, str(folder.path))
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder.path))

    def _at(self, handle: int | None, name: str) -> str:
        """Path of a name, relative to the handle if there is one."""
        if "\0" in name or not name or {"/", os.sep} & set(name) or name in {".", ".."}:
            raise OSError(errno.EINVAL, f"not a file name: {name!r}", str(self.path))
        return name if handle is not None else str(self.path / name)

    # ------------------------------------------------------------------ looking

    def kind(self, name: str) -> Kind | None:
        """Kind of the entry of that name; None if there is no such entry or directory."""
        with suppress(FileNotFoundError), self._opened() as handle:
            return _kind(os.stat(self._at(handle, name), dir_fd=handle, follow_symlinks=False).st_mode)
        return None

    def names(self) -> list[str]:
        """Names of all entries, sorted; empty if the directory does not exist."""
        with (
            suppress(FileNotFoundError),
            self._opened() as handle,
            os.scandir(self.path if handle is None else handle) as entries,
        ):
            return sorted(entry.name for entry in entries)
        return []

    # ------------------------------------------------------------------ reading

    def open(self, name: str) -> BufferedReader:
        """Open a regular file for reading; the caller closes it.

        Raises:
            OSError: If it does not exist, is a link, a directory, a pipe or a device, or may not be read.
        """
        with self._opened() as handle:
            return os.fdopen(self._open(handle, name, os.O_RDONLY), "rb")

    def _open(self, handle: int | None, name: str, flags: int) -> int:
        where = self.path / name
        at = self._at(handle, name)
        try:
            opened = os.open(at, flags | _SAFELY | _BINARY, 0o666, dir_fd=handle)
        except OSError as error:
            raise _named(_plainly(error, at, handle), where) from None
        try:
            kind = _kind(os.fstat(opened).st_mode)
            if kind == "directory":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(where))
            if kind != "file":
                raise OSError(errno.EINVAL, _SPECIAL, str(where))
        except OSError:
            os.close(opened)
            raise
        return opened

    def read(self, name: str, limit: int) -> bytes:
        """Read a whole regular file.

        Args:
            name: Name of the file.
            limit: Largest size in bytes.

        Raises:
            OSError: As :meth:`open`; or if it is larger, or consists almost entirely of holes.
        """
        with self.open(name) as stream:
            size = self.size(name, stream, limit)
            # one byte more, to notice that it has grown
            content = stream.read(min(size, limit) + 1)
        if len(content) > size:
            raise OSError(errno.EAGAIN, "it is being written", str(self.path / name))
        return content

    def size(self, name: str, stream: IO[bytes], limit: int) -> int:
        """Size of an open file in bytes.

        Raises:
            OSError: If it is larger than the limit, or consists almost entirely of holes.
        """
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            reason = f"it has {size:,} bytes, and no more than {limit:,} are read"
            raise OSError(errno.EFBIG, reason, str(self.path / name))
        if size > _LARGE and _data(stream.fileno(), size) < _LEAST_DATA * size:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, most of them holes", str(self.path / name))
        return size

    # ------------------------------------------------------------------ writing

    def make(self) -> None:
        """Create the directory and its parents below the root, unless they exist.

        Raises:
            OSError: If it cannot be created, or a name is that of a link or a file.
        """
        with self._opened(make=True):
            pass

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """Stream to a file that is replaced atomically: written under a temporary name, flushed to disk, then renamed.

        Yields:
            A binary stream.

        Raises:
            OSError: If it cannot be written, or the name is that of a link, a directory, a pipe or a device; the old
                file is then unchanged.
        """
        where = self.path / name
        temporary = ""
        try:
            with self._opened() as handle:
                self._refuse_others(handle, name)
                self._tidy(handle)
                opened, temporary = self._create(handle)
                try:
                    with os.fdopen(opened, "wb") as stream:
                        yield stream
                        stream.flush()
                        os.fsync(stream.fileno())
                        if handle is not None:
                            # while it is locked, so that nobody removes it as left over
                            os.replace(temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
                    if handle is None:
                        # a system without such handles cannot rename open files, and has no such locks
                        (self.path / temporary).replace(where)
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(self._at(handle, temporary), dir_fd=handle)
        except OSError as error:
            # the message names the file, not its temporary name
            name_in_error = error.filename
            if (
                name_in_error is None
                or str(name_in_error) == str(self.path)
                or is_temporary(Path(str(name_in_error)).name)
            ):
                raise _named(error, where) from error
            raise

    def append(self, name: str) -> IO[bytes]:
        """Open a regular file for appending; the caller closes it.

        Raises:
            OSError: As :meth:`open`, or if the file has another hard link, which may be somebody else's file.
        """
        with self._opened() as handle:
            opened = self._open(handle, name, os.O_WRONLY | os.O_APPEND)
            self._refuse_shared(opened, name)
            return os.fdopen(opened, "ab")

    def open_or_make(self, name: str) -> IO[bytes]:
        """Open a regular file for reading and writing; create it empty if it does not exist.

        Raises:
            OSError: As :meth:`append`.
        """
        with self._opened() as handle:
            opened = self._open(handle, name, os.O_RDWR | os.O_CREAT)
            self._refuse_shared(opened, name)
            return os.fdopen(opened, "r+b")

    def _refuse_shared(self, opened: int, name: str) -> None:
        # writing would change the file under all its names
        if os.fstat(opened).st_nlink > 1:
            os.close(opened)
            raise OSError(errno.EMLINK, "it is a file that has another name too", str(self.path / name))

    def rename(self, name: str, new: str) -> None:
        """Rename a regular file, replacing a regular file of the new name.

        Raises:
            OSError: If it cannot be renamed, or the new name is that of a link, a directory, a pipe or a device.
        """
        with self._opened() as handle:
            self._refuse_others(handle, new)
            try:
                os.replace(self._at(handle, name), self._at(handle, new), src_dir_fd=handle, dst_dir_fd=handle)
            except OSError as error:
                raise _named(error, self.path / new) from error

    def is_open(self, name: str, stream: IO[bytes]) -> bool:
        """Whether a name is still that of an opened file."""
        with suppress(FileNotFoundError), self._opened() as handle:
            status = os.stat(self._at(handle, name), dir_fd=handle, follow_symlinks=False)
            return os.path.samestat(os.fstat(stream.fileno()), status)
        return False

    def remove(self, name: str) -> None:
        """Remove a regular file, if there is one of that name."""
        if self.kind(name) == "file":
            with suppress(FileNotFoundError), self._opened() as handle:
                os.unlink(self._at(handle, name), dir_fd=handle)

    def remove_if_empty(self) -> None:
        """Remove this directory below the root, if it is empty."""
        with suppress(OSError), Folder(self.root, self.parts[:-1])._opened() as handle:
            name = self.parts[-1]
            os.rmdir(str(self.path) if handle is None else name, dir_fd=handle)

    def probe(self) -> None:
        """Check that files can be written here.

        Raises:
            OSError: If they cannot.
        """
        with self._opened() as handle:
            try:
                opened, name = self._create(handle)
                os.close(opened)
                os.unlink(self._at(handle, name), dir_fd=handle)
            except OSError as error:
                raise _named(error, self.path) from error

    def flush(self) -> None:
        """Flush renames to disk, as far as the system can."""
        with suppress(OSError), self._opened() as handle:
            if handle is not None:
                os.fsync(handle)

    def tidy(self) -> None:
        """Remove temporary files left by dead processes."""
        with suppress(FileNotFoundError), self._opened() as handle:
            self._tidy(handle)

    def _tidy(self, handle: int | None) -> None:
        with os.scandir(self.path if handle is None else handle) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if _TEMPORARY.fullmatch(name):
                # keep a file that is locked or cannot be opened
                with suppress(OSError):
                    opened = self._open(handle, name, os.O_RDWR)
                    try:
                        if _lock(opened):
                            os.unlink(self._at(handle, name), dir_fd=handle)
                    finally:
                        os.close(opened)

    def _create(self, handle: int | None) -> tuple[int, str]:
        """Create and lock a new temporary file; return its descriptor and name."""
        while True:
            name = f".mdcm-{os.getpid()}-{secrets.token_hex(8)}.tmp"
            opened = self._open(handle, name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            _lock(opened)
            if os.fstat(opened).st_nlink:
                return opened, name
            # another process removed it between creating and locking it
            os.close(opened)

    def _refuse_others(self, handle: int | None, name: str) -> None:
        """Raise unless a name is free or that of a regular file."""
        with suppress(FileNotFoundError):
            kind = _kind(os.stat(self._at(handle, name), dir_fd=handle, follow_symlinks=False).st_mode)
            if kind == "directory":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path / name))
            if kind != "file":
                code, reason = (errno.ELOOP, _LINK) if kind == "link" else (errno.EINVAL, _SPECIAL)
                raise OSError(code, reason, str(self.path / name))


@contextmanager
def replacing(path: str | Path, *, follow: bool = True) -> Iterator[IO[bytes]]:
    """Stream to a file that is replaced atomically.

    Args:
        path: The file. A device or pipe, which cannot be renamed, is written directly.
        follow: Whether to follow a link and replace the file it leads to; otherwise links and devices are refused.

    Yields:
        A binary stream.

    Raises:
        OSError: If it cannot be written; the old file is then unchanged.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "answer.txt")
        >>> with replacing(file) as stream:
        ...     _ = stream.write(b"42")
        >>> file.read_bytes()
        b'42'
    """
    path = Path(path)
    _refuse_nul(path)
    # renaming over /dev/stdout would replace the device by a file
    if follow and (path.parts[:2] == ("/", "dev") or (path.exists() and not path.is_file())):
        with path.open("wb") as stream:
            yield stream
        return
    if follow:
        try:
            path = path.resolve()
        except (OSError, RuntimeError) as error:
            # links in a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    with Folder(path.parent).replacing(path.name) as stream:
        yield stream


def _refuse_nul(path: Path) -> None:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a path holds no NUL", str(path))


def is_temporary(name: str) -> bool:
    """Whether a name is that of a temporary file."""
    return _TEMPORARY.fullmatch(name) is not None


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "special"


def _named(error: OSError, path: Path) -> OSError:
    """The same error, for another path."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _plainly(error: OSError, name: str, handle: int | None) -> OSError:
    """A plain error for a link, a pipe or a socket that was not opened; other errors unchanged."""
    with suppress(OSError):
        kind = _kind(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode)
        if kind == "link" and error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}:
            return OSError(errno.ELOOP, _LINK)
        if kind == "special" and error.errno == errno.ENXIO:
            return OSError(errno.EINVAL, _SPECIAL)
    return error


def _data(opened: int, size: int) -> int:
    """Bytes of a file that are data rather than holes, as far as the file system reports."""
    if not hasattr(os, "SEEK_DATA"):
        return size
    total = end = 0
    try:
        for _ in range(_MOST_EXTENTS):
            start = os.lseek(opened, end, os.SEEK_DATA)
            end = os.lseek(opened, start, os.SEEK_HOLE)
            total += end - start
            if end >= size:
                break
    except OSError as error:
        # ENXIO: only a hole follows; otherwise the file system does not report holes
        if error.errno != errno.ENXIO:
            total = size
    finally:
        os.lseek(opened, 0, os.SEEK_SET)
    return total


def _lock(opened: int) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock, or there are no locks."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
