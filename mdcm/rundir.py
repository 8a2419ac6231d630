"""Run directories: what a trained model looks like on disk, written so that no moment of it is half a run.

A run holds ``weights.safetensors``, ``metrics.jsonl`` and ``model.json``, which says everything else and has the
checksums of the other two and of what it says itself. New weights and metrics are first written beside the old ones,
under names that hold their checksums; the moment ``model.json`` is renamed into place the run is the new one, and only
then do they take their usual names. Whoever reads takes of each file the one with the right checksum, so a writer may
be killed anywhere. Loading executes nothing: JSON and safetensors only. While a model is trained, ``checkpoints/``
holds what is needed to go on, and ``metrics.jsonl`` grows by a line per record; that of an older run is first put
aside under the name that holds its checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mdcm.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHECKPOINTS",
    "ENSEMBLE",
    "FORMAT_VERSION",
    "MODEL",
    "REPORT",
    "WEIGHTS",
    "Journal",
    "is_finished",
    "locked",
    "read_run",
    "remove_checkpoints",
    "replacing",
    "reserve",
    "write_run",
]

FORMAT_VERSION = 1
MODEL = "model.json"
WEIGHTS = "weights.safetensors"
# where `mdcm report` writes by default
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
# directory for the checkpoints of an ensemble while it is trained
ENSEMBLE = "ensemble"
_LOCK = ".lock"
_METRICS = "metrics.jsonl"
_STAGED = ".next"
_TEMPORARY = ".tmp"


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Stream to a file that is written whole or not at all: under a temporary name, flushed to disk, then renamed.

    Args:
        path: The file; a device or pipe, which cannot be renamed, is written directly.

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
    # renaming over /dev/stdout would replace the device by a file
    if path.parts[:2] == ("/", "dev") or (path.exists() and not path.is_file()):
        with path.open("wb") as stream:
            yield stream
        return
    path = path.resolve()
    temporary = path.with_name(f".{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        # the temporary name means nothing to whoever reads the message
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def reserve(path: str | Path) -> Path:
    """Make sure that a run can be written here, before hours of training rather than after.

    Args:
        path: Directory, made if it does not exist.

    Returns:
        The directory.

    Raises:
        CheckpointError: If the path is a file, holds other things than a run of this format version, or cannot be
            written.
    """
    directory = Path(path)
    try:
        if directory.exists() and not directory.is_dir():
            raise CheckpointError(f"{directory} is a file; give a directory to save the run in", path=str(directory))
        if (directory / MODEL).exists():
            # what cannot be read may still matter to somebody
            _described(directory / MODEL, "; nothing was written, give another directory")
        elif directory.is_dir():
            strangers = sorted(entry.name for entry in directory.iterdir() if not _is_ours(entry.name))
            if strangers:
                raise CheckpointError(
                    f"{directory} is no run directory: it holds {strangers[0]!r} and no {MODEL}; nothing was written, "
                    "give another directory",
                    path=str(directory),
                )
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".{secrets.token_hex(4)}{_TEMPORARY}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"no run can be saved in {directory}: {reason}", path=str(directory)) from error
    return directory


def is_finished(path: str | Path) -> bool:
    """Whether a directory holds a run whose training came to its end."""
    return (Path(path) / MODEL).exists()


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep other processes from writing a run directory while the block runs.

    The lock is the operating system's, on a file in the directory, and goes with the process however that ends. On a
    file system or system without such locks the block runs all the same.

    Args:
        path: Directory, made if it does not exist.

    Raises:
        CheckpointError: If another process, or another training in this one, holds it.

    Example:
        >>> import tempfile
        >>> directory = tempfile.mkdtemp()
        >>> with locked(directory):
        ...     with locked(directory):
        ...         pass
        Traceback (most recent call last):
            ...
        mdcm.errors.CheckpointError: ...
    """
    directory = reserve(path)
    try:
        import fcntl
    except ImportError:
        yield
        return
    file = directory / _LOCK
    while True:
        with file.open("a+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                owner = stream.read(100).decode(errors="replace").strip()
                raise CheckpointError(
                    f"{directory} is being written by {owner or 'another process'}; wait until it has ended, or give "
                    "another directory",
                    path=str(directory),
                ) from None
            except OSError:
                # a file system without locks is no reason not to work
                yield
                file.unlink(missing_ok=True)
                return
            if not _is_file(file, stream):
                # whoever had the lock has removed the file, and somebody may have made another one
                continue
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            stream.flush()
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_file(path: Path, stream: IO[bytes]) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_run(
    path: str | Path,
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metrics: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a run directory; an older run in its place stays whole until the new one is, and its report goes with it.

    Args:
        path: Directory, made if it does not exist.
        description: Plain JSON values; the format version and the checksums of the other files are added.
        weights: Tensors by name.
        metrics: One plain JSON record per line of metrics.jsonl.

    Raises:
        CheckpointError: If the path is a file, or a directory with other things in it than a run.
        OSError: If it cannot be written; an older run is then as it was.
    """
    from safetensors.torch import save

    directory = reserve(path)
    replaced = _weights_of(directory)
    lines = "".join(json.dumps(record) + "\n" for record in metrics)
    contents = {
        WEIGHTS: save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}),
        _METRICS: lines.encode(),
    }
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    # as it will be read: JSON turns tuples into lists, and every key into text
    plain = json.loads(json.dumps({"format": FORMAT_VERSION, **description}))
    plain["sha256"] = {**checksums, MODEL: _digest(plain)}
    # ASCII, because a name may hold what UTF-8 cannot encode
    encoded = json.dumps(plain, indent=1).encode("ascii")
    for name, content in contents.items():
        with replacing(directory / _staged(name, checksums[name])) as stream:
            stream.write(content)
    _flush(directory)
    with replacing(directory / MODEL) as stream:
        stream.write(encoded)
    _flush(directory)
    for name, checksum in checksums.items():
        (directory / _staged(name, checksum)).replace(directory / name)
    if replaced is not None and replaced != checksums[WEIGHTS]:
        # a page about other weights
        (directory / REPORT).unlink(missing_ok=True)
    for entry in list(directory.iterdir()):
        # left of a writer that was killed
        if entry.name.endswith((_STAGED, _TEMPORARY)):
            entry.unlink(missing_ok=True)


def _weights_of(directory: Path) -> str | None:
    """Checksum of the weights of the run in a directory, if there is one."""
    with suppress(CheckpointError, FileNotFoundError):
        checksums = _described(directory / MODEL).get("sha256")
        return str(checksums.get(WEIGHTS)) if isinstance(checksums, dict) else None
    return None


class Journal:
    """The ``metrics.jsonl`` of a run that is being trained; every record is in the file once it is written.

    The file is begun anew with the first record. Metrics of an older run stay with that run, which is whole until the
    new one is; those of a training that was not finished are replaced. To be closed, or used as a context.

    Args:
        path: The run directory, which :func:`reserve` has made.

    Example:
        >>> import tempfile
        >>> with Journal(tempfile.mkdtemp()) as journal:
        ...     journal.write({"event": "check", "step": 1})
        >>> json.loads(journal.file.read_text())
        {'event': 'check', 'step': 1}
    """

    def __init__(self, path: str | Path) -> None:
        self.file = Path(path) / _METRICS
        self._stream: IO[bytes] | None = None

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            OSError: If it cannot be written.
        """
        if self._stream is None:
            self._put_aside()
            with replacing(self.file):
                pass
            self._stream = self.file.open("ab")
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()

    def _put_aside(self) -> None:
        """Let the metrics of an older run be found under the name that holds their checksum."""
        if (self.file.with_name(MODEL)).exists():
            with suppress(FileNotFoundError):
                content = self.file.read_bytes()
                aside = self.file.with_name(_staged(_METRICS, hashlib.sha256(content).hexdigest()))
                with replacing(aside) as stream:
                    stream.write(content)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_run(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, Any]]]:
    """Read a run directory.

    Args:
        path: The directory.

    Returns:
        The description, the weights by name, and the metrics records.

    Raises:
        CheckpointError: If a file is missing, damaged, from another format version, or belongs to another run.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    directory = Path(path)
    if not directory.is_dir():
        what = "is a file, not a run directory" if directory.exists() else "does not exist"
        raise CheckpointError(f"run directory {directory} {what}", path=str(directory))
    model = directory / MODEL
    if not model.exists():
        hint = "; its training was not finished, --resume goes on" if (directory / CHECKPOINTS).is_dir() else ""
        raise CheckpointError(f"{model} is missing{hint}", path=str(model))
    description = _described(model)
    checksums = description.pop("sha256", None)
    if not isinstance(checksums, dict):
        raise CheckpointError(f"{model} is damaged: it holds no checksums", path=str(model))
    try:
        intact = checksums.get(MODEL) == _digest(description)
    except RecursionError:
        intact = False
    if not intact:
        raise CheckpointError(f"{model} is damaged: its content does not have its checksum", path=str(model))
    content = _verified(directory, WEIGHTS, checksums)
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        where = directory / WEIGHTS
        raise CheckpointError(f"{where} cannot be read: {error}", path=str(where)) from None
    where = directory / _METRICS
    lines = _verified(directory, _METRICS, checksums).splitlines()
    metrics = [_object(line, f"line {number} of {where}", where) for number, line in enumerate(lines, start=1)]
    return description, weights, metrics


def remove_checkpoints(path: str | Path) -> None:
    """Remove the checkpoints of a run, whose training is finished or begins anew."""
    directory = Path(path) / CHECKPOINTS
    if directory.is_dir():
        # those of jobs that ran elsewhere are in directories of their own
        shutil.rmtree(directory)
        with suppress(OSError):
            # of an ensemble, whose directory holds nothing else
            if directory.parent.name == ENSEMBLE:
                directory.parent.rmdir()


def _described(model: Path, advice: str = "") -> dict[str, Any]:
    """What model.json says, if it is of this format version."""
    description = _object(_read(model), str(model), model, advice)
    version = description.get("format")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{model} has format version {version!r}; this version of mdcm reads {FORMAT_VERSION}{advice}",
            path=str(model),
        )
    return description


def _digest(description: Mapping[str, Any]) -> str:
    """Checksum of JSON values, whatever the order and the spaces they are written with."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode("ascii")).hexdigest()


def _verified(directory: Path, name: str, checksums: Mapping[str, Any]) -> bytes:
    """The file of that name with the right checksum, or the one that was about to take its name."""
    path, checksum = directory / name, checksums.get(name)
    if not isinstance(checksum, str) or re.fullmatch("[0-9a-f]{64}", checksum) is None:
        model = directory / MODEL
        raise CheckpointError(f"{model} is damaged: it holds no checksum of {name}", path=str(model))
    staged = directory / _staged(name, checksum)
    # the last time because a writer may rename the second to the first just after the first was read
    for candidate in (path, staged, path):
        with suppress(FileNotFoundError):
            content = _read(candidate)
            if hashlib.sha256(content).hexdigest() == checksum:
                return content
    if not path.exists():
        raise CheckpointError(f"{path} is missing", path=str(path))
    raise CheckpointError(
        f"{path} is damaged or belongs to another run: its checksum is not the one in {MODEL}", path=str(path)
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def _object(content: bytes, where: str, path: Path, advice: str = "") -> dict[str, Any]:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where} is damaged: it is no JSON text{advice}", path=str(path)) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is damaged: it holds no JSON object{advice}", path=str(path))
    return value


def _staged(name: str, checksum: str) -> str:
    return f".{name}.{checksum[:16]}{_STAGED}"


def _is_ours(name: str) -> bool:
    """Whether a file may be left of a writer that was killed before its first model.json."""
    return name.endswith((_STAGED, _TEMPORARY)) or name in {WEIGHTS, _METRICS, CHECKPOINTS, ENSEMBLE, _LOCK}


def _flush(directory: Path) -> None:
    # renames reach the disk in order only if the directory itself is flushed between them
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
