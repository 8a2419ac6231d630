"""Directories in which a name leads nowhere else, and files that are written whole or not at all.

Whoever sends a run directory decides what lies in it: links to files of the reader, pipes that never end, devices,
files of a length that no disk holds. A :class:`Folder` follows no link below its root, opens regular files alone, looks
at what it has opened rather than at what was there before, and reads no more than it was told to. What is written goes
to a temporary file first, which is locked while its writer lives; one that nobody locks is of a process that is dead,
and whoever writes there next removes it.
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
_SPECIAL = "it is no regular file"
# opening must neither follow the last name, nor wait for the other end of a pipe, nor reach a program that is started
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
# elsewhere names are joined to paths
_RELATIVE = os.open in os.supports_dir_fd
# a file that is larger, of which less than this share is data and not holes, was made to be large
_LARGE = 1 << 26
_LEAST_DATA = 0.25
_MOST_EXTENTS = 1_000


def as_path(path: object, error: Callable[[str], MdcmError] = DataError) -> Path:
    r"""What a user gives as a path, if there can be a file or directory of that name.

    Args:
        path: Text, or a path.
        error: What makes the error of its message.

    Raises:
        MdcmError: That error, if it is something else, empty, holds a NUL or what the system has no letters for, or
            is longer than the system takes.

    Example:
        >>> as_path("a/b.csv").name
        'b.csv'
        >>> as_path("a\0b")
        Traceback (most recent call last):
            ...
        mdcm.errors.DataError: 'a\x00b' is no path: it holds a NUL
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
            reason = "it holds what is no letter to the system"
        except OSError as found:
            if found.errno == errno.ENAMETOOLONG:
                reason = f"it, or a name in it, is too long for the system; it has {len(text):,} characters"
    if reason is not None:
        raise error(f"{quoted(text)} is no path: {reason}")
    return Path(text)


@dataclass(frozen=True)
class Folder:
    """A directory below which no link is followed and nothing but regular files is opened.

    Args:
        root: Where it is; links on the way there are followed, because whoever names it may have made them.
        parts: Names of directories below the root, each in the one before.

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
        """The folder of a path, which is made absolute; a folder as it is."""
        return path if isinstance(path, Folder) else cls(Path(path).absolute())

    def __truediv__(self, name: str) -> Folder:
        """The directory of that name in this one."""
        return Folder(self.root, (*self.parts, name))

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.root.joinpath(*self.parts)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int | None]:
        """A handle of the directory; None where the system opens nothing relative to one."""
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
        """What leads to a name, relative to the handle if there is one."""
        if "\0" in name or not name or {"/", os.sep} & set(name) or name in {".", ".."}:
            raise OSError(errno.EINVAL, f"no name of a file: {name!r}", str(self.path))
        return name if handle is not None else str(self.path / name)

    # ------------------------------------------------------------------ looking

    def kind(self, name: str) -> Kind | None:
        """What a name stands for; None where there is nothing of that name, or no such directory."""
        with suppress(FileNotFoundError), self._opened() as handle:
            return _kind(os.stat(self._at(handle, name), dir_fd=handle, follow_symlinks=False).st_mode)
        return None

    def names(self) -> list[str]:
        """Everything in it, in order; nothing where it does not exist."""
        with (
            suppress(FileNotFoundError),
            self._opened() as handle,
            os.scandir(self.path if handle is None else handle) as entries,
        ):
            return sorted(entry.name for entry in entries)
        return []

    # ------------------------------------------------------------------ reading

    def open(self, name: str) -> BufferedReader:
        """A regular file, to be read; the caller closes it.

        Raises:
            OSError: If there is none, it is a link, a directory, a pipe or a device, or may not be read.
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
        """All of a regular file.

        Args:
            name: Its name.
            limit: Bytes that it may have.

        Raises:
            OSError: As :meth:`open`; if it is larger, or next to nothing but holes.
        """
        with self.open(name) as stream:
            size = self.size(name, stream, limit)
            # one more, because it may have grown since
            content = stream.read(min(size, limit) + 1)
        if len(content) > size:
            raise OSError(errno.EAGAIN, "it is being written", str(self.path / name))
        return content

    def size(self, name: str, stream: IO[bytes], limit: int) -> int:
        """Bytes of an open file.

        Raises:
            OSError: If they are more than the limit, or next to nothing but holes, which hold what no disk would.
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
        """Make it, and what leads to it below the root, where it does not exist.

        Raises:
            OSError: If it cannot be made, or a link or something else has its name.
        """
        with self._opened(make=True):
            pass

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """Stream to a file that is written whole or not at all: under a temporary name, flushed to disk, then renamed.

        Yields:
            A binary stream.

        Raises:
            OSError: If it cannot be written, or the name is that of a link, a directory, a pipe or a device; what was
                there before is untouched.
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
                            # while it is locked, so that nobody takes it for one that was left
                            os.replace(temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
                    if handle is None:
                        # a system without such handles renames no file that is open, and has no such locks
                        (self.path / temporary).replace(where)
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(self._at(handle, temporary), dir_fd=handle)
        except OSError as error:
            # the temporary name means nothing to whoever reads the message
            of = error.filename
            if of is None or str(of) == str(self.path) or is_temporary(Path(str(of)).name):
                raise _named(error, where) from error
            raise

    def append(self, name: str) -> IO[bytes]:
        """A regular file with this name alone, to write after its end; the caller closes it.

        Raises:
            OSError: As :meth:`open`, or if the file has another name, under which it may be somebody else's.
        """
        with self._opened() as handle:
            opened = self._open(handle, name, os.O_WRONLY | os.O_APPEND)
            self._refuse_shared(opened, name)
            return os.fdopen(opened, "ab")

    def open_or_make(self, name: str) -> IO[bytes]:
        """A regular file with this name alone, to be read and written; empty where there was none.

        Raises:
            OSError: As :meth:`append`.
        """
        with self._opened() as handle:
            opened = self._open(handle, name, os.O_RDWR | os.O_CREAT)
            self._refuse_shared(opened, name)
            return os.fdopen(opened, "r+b")

    def _refuse_shared(self, opened: int, name: str) -> None:
        # what is written to one name of a file is written to all of them
        if os.fstat(opened).st_nlink > 1:
            os.close(opened)
            raise OSError(errno.EMLINK, "it is a file that has another name too", str(self.path / name))

    def rename(self, name: str, new: str) -> None:
        """Give a regular file another name, in place of a regular file if there is one of that name.

        Raises:
            OSError: If that cannot be done, or the new name is that of a link, a directory, a pipe or a device.
        """
        with self._opened() as handle:
            self._refuse_others(handle, new)
            try:
                os.replace(self._at(handle, name), self._at(handle, new), src_dir_fd=handle, dst_dir_fd=handle)
            except OSError as error:
                raise _named(error, self.path / new) from error

    def is_open(self, name: str, stream: IO[bytes]) -> bool:
        """Whether a name still leads to a file that was opened."""
        with suppress(FileNotFoundError), self._opened() as handle:
            found = os.stat(self._at(handle, name), dir_fd=handle, follow_symlinks=False)
            return os.path.samestat(os.fstat(stream.fileno()), found)
        return False

    def remove(self, name: str) -> None:
        """Remove a regular file; what is none, or is not there, is left alone."""
        if self.kind(name) == "file":
            with suppress(FileNotFoundError), self._opened() as handle:
                os.unlink(self._at(handle, name), dir_fd=handle)

    def remove_if_empty(self) -> None:
        """Remove the directory, below the root, where it holds nothing."""
        with suppress(OSError), Folder(self.root, self.parts[:-1])._opened() as handle:
            name = self.parts[-1]
            os.rmdir(str(self.path) if handle is None else name, dir_fd=handle)

    def probe(self) -> None:
        """Find out whether files can be written here.

        Raises:
            OSError: If not.
        """
        with self._opened() as handle:
            try:
                opened, name = self._create(handle)
                os.close(opened)
                os.unlink(self._at(handle, name), dir_fd=handle)
            except OSError as error:
                raise _named(error, self.path) from error

    def flush(self) -> None:
        """Let renames reach the disk, as far as the system can."""
        with suppress(OSError), self._opened() as handle:
            if handle is not None:
                os.fsync(handle)

    def tidy(self) -> None:
        """Remove temporary files that processes left which are dead by now; of the living, and of others, none."""
        with suppress(FileNotFoundError), self._opened() as handle:
            self._tidy(handle)

    def _tidy(self, handle: int | None) -> None:
        with os.scandir(self.path if handle is None else handle) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            if _TEMPORARY.fullmatch(name):
                # one that may not be opened, or is locked, is left
                with suppress(OSError):
                    opened = self._open(handle, name, os.O_RDWR)
                    try:
                        if _lock(opened):
                            os.unlink(self._at(handle, name), dir_fd=handle)
                    finally:
                        os.close(opened)

    def _create(self, handle: int | None) -> tuple[int, str]:
        """A new temporary file that is locked, and its name."""
        while True:
            name = f".mdcm-{os.getpid()}-{secrets.token_hex(8)}.tmp"
            opened = self._open(handle, name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            _lock(opened)
            if os.fstat(opened).st_nlink:
                return opened, name
            # somebody who tidies up came between making and locking it
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
    """Stream to a file that somebody names, written whole or not at all.

    Args:
        path: The file. A device or pipe, which cannot be renamed, is written directly.
        follow: Whether a link is followed, so that it stays one, and what it leads to is replaced; otherwise links and
            devices are refused.

    Yields:
        A binary stream.

    Raises:
        OSError: If it cannot be written; what was there before is untouched.

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
    """Whether a name is one that a file has while it is written."""
    return _TEMPORARY.fullmatch(name) is not None


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "special"


def _named(error: OSError, path: Path) -> OSError:
    """The same error about another path."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def _plainly(error: OSError, name: str, handle: int | None) -> OSError:
    """What the system says of a link, a pipe or a socket that was not opened, in words."""
    with suppress(OSError):
        kind = _kind(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode)
        if kind == "link" and error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EMLINK}:
            return OSError(errno.ELOOP, _LINK)
        if kind == "special" and error.errno == errno.ENXIO:
            return OSError(errno.EINVAL, _SPECIAL)
    return error


def _data(opened: int, size: int) -> int:
    """Bytes of a file that are no holes, as far as the file system tells."""
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
        # nothing but a hole follows; or the file system knows of none
        if error.errno != errno.ENXIO:
            total = size
    finally:
        os.lseek(opened, 0, os.SEEK_SET)
    return total


def _lock(opened: int) -> bool:
    """Lock an open file for as long as it is open; False if another process has, or locks are unknown here."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
