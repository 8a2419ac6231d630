"""Run directories: trained models on disk, replaced atomically.

A run holds ``weights.safetensors``, ``metrics.jsonl`` and ``model.json``, which has everything else and the checksums
of the other two and of its own content. New weights and metrics are first written beside the old ones, under names
that contain their checksums; renaming ``model.json`` replaces the run, and only then do they get their usual names. A
reader takes the version of each file with the right checksum, so a writer may be killed at any moment. Loading executes
nothing: it reads JSON and safetensors only. During a training, ``checkpoints/`` holds its state, and ``metrics.jsonl``
grows by a line per record; the metrics of an older run are first kept under a name that contains their checksum.

The directory is not trusted: no link in it is followed, only regular files are opened, and the size of every file read
is limited. Only files with the names defined here are removed, and only with the content that belongs to the name where
a user could have chosen the same name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mdcm.errors import CheckpointError
from mdcm.storage import disk
from mdcm.storage.disk import Folder, as_path, is_temporary
from mdcm.text.advice import advice, warn
from mdcm.text.printable import quoted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHECKPOINT",
    "CHECKPOINTS",
    "ENSEMBLE",
    "FORMAT_VERSION",
    "JOB",
    "MODEL",
    "MOST_WEIGHTS",
    "PROOF",
    "REPORT",
    "WEIGHTS",
    "Journal",
    "checkpoint_names",
    "has_checkpoints",
    "is_finished",
    "is_unfinished",
    "locked",
    "read_run",
    "refuse_taken",
    "remove_checkpoints",
    "replacing",
    "reserve",
    "write_run",
]

FORMAT_VERSION = 1
MODEL = "model.json"
WEIGHTS = "weights.safetensors"
# default file of `mdcm report`
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
# directory for the checkpoints of an ensemble while it is trained
ENSEMBLE = "ensemble"
# a number, and the start of the checksum
CHECKPOINT = re.compile(r"(\d{8})-([0-9a-f]{16})\.safetensors")
# directory for the checkpoints of a job that runs elsewhere
JOB = re.compile(r"job-\d{5,}")
# a file by which workers recognize the directory; its content is part of its name
PROOF = re.compile(r"shared-([0-9a-f]{32})")
# largest size of weights or of a checkpoint
MOST_WEIGHTS = 1 << 34
_LOCK = ".lock"
_METRICS = "metrics.jsonl"
_STAGED = re.compile(rf"\.(?:{re.escape(WEIGHTS)}|{re.escape(_METRICS)})\.([0-9a-f]{{16}})\.next")
_OWNER = re.compile(rb"process \d+ on [^\n]*\n")
# largest size of model.json in bytes and in values; models of 2,000 variables have a tenth
_MOST_DESCRIPTION = 1 << 25
_MOST_VALUES = 2_000_000
# largest size of metrics.jsonl; only its last records are read, at most so many records and bytes
_MOST_METRICS = 1 << 28
_LAST_RECORDS = 200_000
_LAST_BYTES = 1 << 25


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Stream to a file that is replaced atomically; links are followed except in run directories.

    Args:
        path: The file.

    Yields:
        A binary stream.

    Raises:
        OSError: If it cannot be written; the old file is then unchanged.
    """
    with disk.replacing(path, follow=not is_finished(Path(path).parent)) as stream:
        yield stream


def reserve(path: str | Path) -> Path:
    """Check that a run can be written here, before the training.

    Args:
        path: Directory, created if it does not exist.

    Returns:
        The directory.

    Raises:
        CheckpointError: If the path is a file or a link, holds other things than a run of this format version, links
            or directories of the names of a run's files, or cannot be written.
    """
    directory = as_path(path, CheckpointError)
    try:
        if directory.is_symlink():
            raise CheckpointError(
                f"{directory} is a symbolic link; give the directory that it leads to, or another one, to save the run "
                "in",
                path=str(directory),
            )
        if directory.exists() and not directory.is_dir():
            raise CheckpointError(f"{directory} is a file; give a directory to save the run in", path=str(directory))
        folder = Folder(directory)
        _refuse_strange(folder)
        if folder.kind(MODEL) is not None:
            # raises if model.json cannot be read, because it may belong to something else
            _described(folder, "; nothing was written, give another directory")
        elif directory.is_dir():
            strangers = [name for name in folder.names() if not _is_ours(name)]
            if strangers:
                raise CheckpointError(
                    f"{directory} is not a run directory: it holds {strangers[0]!r} and no {MODEL}; nothing was "
                    "written, give another directory",
                    path=str(directory),
                )
        directory.mkdir(parents=True, exist_ok=True)
        folder.probe()
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CheckpointError(f"no run can be saved in {directory}: {reason}", path=str(directory)) from error
    return directory


def _refuse_strange(folder: Folder) -> None:
    """Refuse a directory in which a file or subdirectory of a run is of the wrong kind."""
    for where, names, kind in (
        (folder, (MODEL, WEIGHTS, _METRICS, _LOCK), "file"),
        (folder, (CHECKPOINTS, ENSEMBLE), "directory"),
        (folder / ENSEMBLE, (CHECKPOINTS,), "directory"),
    ):
        for name in names:
            present = where.kind(name)
            if present not in {None, kind}:
                what = {"link": "a symbolic link", "special": "no file", "file": "a file", "directory": "a directory"}
                raise CheckpointError(
                    f"{where.path / name} is {what[str(present)]} and must be a {kind}; nothing was written, remove it "
                    "or give another directory",
                    path=str(where.path / name),
                )


def is_finished(path: str | Path) -> bool:
    """Whether a directory holds a run whose training is finished."""
    return Folder(Path(path)).kind(MODEL) is not None


def checkpoint_names(path: str | Path | Folder) -> list[str]:
    """Relative paths of the checkpoints of a training and of its jobs, without those of an ensemble."""
    folder = Folder.of(path)
    try:
        paths: list[str] = []
        for name in (folder / CHECKPOINTS).names():
            if CHECKPOINT.fullmatch(name):
                paths.append(f"{CHECKPOINTS}/{name}")
            elif JOB.fullmatch(name):
                paths += [f"{CHECKPOINTS}/{name}/{path}" for path in checkpoint_names(folder / CHECKPOINTS / name)]
    except OSError:
        # a link or a file, which writing there reports
        return []
    return paths


def has_checkpoints(path: str | Path | Folder) -> bool:
    """Whether a directory holds checkpoints of a training or of its jobs, without those of an ensemble."""
    return bool(checkpoint_names(path))


def is_unfinished(path: str | Path) -> bool:
    """Whether a directory holds checkpoints of an unfinished training, and no run."""
    folder = Folder.of(path)
    return not is_finished(path) and (has_checkpoints(folder) or has_checkpoints(folder / ENSEMBLE))


def refuse_taken(path: str | Path) -> None:
    """Refuse a directory in which a run or an unfinished training would be replaced.

    Raises:
        CheckpointError: If it holds either.
    """
    resume, force = advice("resume=True", "--resume"), advice("force=True", "--force")
    other = advice("or give another directory", "or --out names another directory")
    what = None
    if is_finished(path):
        what = f"a finished run: {resume} loads or completes it, {force} replaces it"
    elif is_unfinished(path):
        what = f"a training that was not finished: {resume} goes on with it, {force} begins anew"
    if what is not None:
        raise CheckpointError(f"{path} holds {what}, {other}", path=str(path))


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Lock a run directory against other writers while the block runs.

    The lock is one of the operating system on a file in the directory, and ends with the process. Without support for
    such locks the block runs without one.

    Args:
        path: Directory, created if it does not exist.

    Raises:
        CheckpointError: If another process, or another training in this process, holds the lock, or the lock file was
            written by another program.

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
    folder = Folder.of(directory)
    while True:
        try:
            stream = folder.open_or_make(_LOCK)
        except OSError as error:
            reason = f"{_LOCK}: {error.strerror or error}"
            raise CheckpointError(f"no run can be saved in {directory}: {reason}", path=str(directory)) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = stream.read(100).decode(errors="replace").strip()
                raise CheckpointError(
                    f"{directory} is being written by {owner or 'another process'}; wait until it has ended, or give "
                    "another directory",
                    path=str(directory),
                ) from None
            except OSError:
                # the file system has no locks
                yield
                folder.remove(_LOCK)
                return
            if not folder.is_open(_LOCK, stream):
                # the former holder has removed the file, and another process may have created a new one
                continue
            content = stream.read(1_000)
            if content and _OWNER.fullmatch(content) is None:
                raise CheckpointError(
                    f"{directory / _LOCK} is a file that mdcm did not write; nothing was written, remove it or give "
                    "another directory",
                    path=str(directory / _LOCK),
                )
            stream.truncate(0)
            stream.seek(0)
            stream.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            stream.flush()
            try:
                yield
            finally:
                if folder.is_open(_LOCK, stream):
                    folder.remove(_LOCK)
            return


def write_run(
    path: str | Path,
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metrics: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Write a run directory, replacing an older run atomically; the report of an older run is removed.

    Args:
        path: Directory, created if it does not exist.
        description: Plain JSON values; the format version and the checksums of the other files are added.
        weights: Tensors by name.
        metrics: One plain JSON record per line of metrics.jsonl.

    Raises:
        CheckpointError: If the path is a file, or a directory that holds anything but a run.
        OSError: If it cannot be written; an older run is then unchanged.
    """
    from safetensors.torch import save

    folder = Folder.of(reserve(path))
    replaced = _weights_of(folder)
    lines = "".join(json.dumps(record) + "\n" for record in metrics)
    contents = {
        WEIGHTS: save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}),
        _METRICS: lines.encode(),
    }
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    # the checksum is of the values as read: JSON turns tuples into lists and keys into strings
    plain = json.loads(json.dumps({"format": FORMAT_VERSION, **description}))
    plain["sha256"] = {**checksums, MODEL: _digest(plain)}
    # ASCII, because a name may contain surrogates, which UTF-8 cannot encode
    encoded = json.dumps(plain, indent=1).encode("ascii")
    for name, content in contents.items():
        with _naming(folder, name), folder.replacing(_staged(name, checksums[name])) as stream:
            stream.write(content)
    folder.flush()
    with folder.replacing(MODEL) as stream:
        stream.write(encoded)
    folder.flush()
    for name, checksum in checksums.items():
        folder.rename(_staged(name, checksum), name)
    if replaced is not None and replaced != checksums[WEIGHTS]:
        # the report is about the old weights
        folder.remove(REPORT)
    _remove_staged(folder)


@contextmanager
def _naming(folder: Folder, name: str) -> Iterator[None]:
    """Name the final file in an error about a file that will be renamed to it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder.path / name)) from error


def _remove_staged(folder: Folder) -> None:
    """Remove files that a killed writer has left, recognized by name and content."""
    for name in folder.names():
        match = _STAGED.fullmatch(name)
        if match is not None:
            with suppress(OSError):
                with folder.open(name) as stream:
                    checksum = hashlib.file_digest(stream, "sha256").hexdigest()
                if checksum.startswith(match[1]):
                    folder.remove(name)
    folder.tidy()


def _weights_of(folder: Folder) -> str | None:
    """Checksum of the weights of the run in a directory; None if there is no run."""
    with suppress(CheckpointError, FileNotFoundError):
        checksums = _described(folder).get("sha256")
        return str(checksums.get(WEIGHTS)) if isinstance(checksums, dict) else None
    return None


class Journal:
    """Writer of the ``metrics.jsonl`` of a running training; every record is flushed to the file.

    The first record starts a new file. Metrics of an older run are kept until the new run replaces it; those of an
    unfinished training are replaced. Close it, or use it as a context.

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
        self._folder = Folder.of(path)
        self._stream: IO[bytes] | None = None

    @property
    def file(self) -> Path:
        """Path of the file."""
        return self._folder.path / _METRICS

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            OSError: If it cannot be written.
        """
        if self._stream is None:
            self._keep_older()
            with self._folder.replacing(_METRICS):
                pass
            self._stream = self._folder.append(_METRICS)
        self._stream.write(json.dumps(record).encode() + b"\n")
        self._stream.flush()

    def _keep_older(self) -> None:
        """Copy the metrics of an older run to the name that contains their checksum."""
        if self._folder.kind(MODEL) == "file":
            with suppress(FileNotFoundError):
                content = self._folder.read(_METRICS, _MOST_METRICS)
                aside = _staged(_METRICS, hashlib.sha256(content).hexdigest())
                with _naming(self._folder, _METRICS), self._folder.replacing(aside) as stream:
                    stream.write(content)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_run(
    path: str | Path, largest: Callable[[Mapping[str, Any]], int] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], list[dict[str, Any]]]:
    """Read a run directory.

    Args:
        path: The directory.
        largest: Returns the largest allowed size of the weights for a description, in bytes, before they are read;
            16 GiB by default.

    Returns:
        The description, the weights by name, and the metrics records; of very many only the last, with a warning.

    Raises:
        CheckpointError: If a file is missing, damaged, from another format version, belongs to another run, is not a
            regular file, or is too large.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    directory = as_path(path, CheckpointError)
    try:
        mode = directory.stat().st_mode
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise CheckpointError(f"run directory {directory} {what}", path=str(directory)) from None
    if not stat.S_ISDIR(mode):
        raise CheckpointError(f"run directory {directory} is a file, not a run directory", path=str(directory))
    folder, model = Folder(directory), directory / MODEL
    if folder.kind(MODEL) is None:
        hint = ""
        if is_unfinished(directory):
            resume = advice("fit with resume=True", f"mdcm train SPEC --out {directory} --resume")
            hint = f"; its training was not finished, {resume} continues it"
        raise CheckpointError(f"{model} is missing{hint}", path=str(model))
    description = _described(folder)
    checksums = description.pop("sha256", None)
    if not isinstance(checksums, dict):
        raise CheckpointError(f"{model} is damaged: it holds no checksums", path=str(model))
    try:
        intact = checksums.get(MODEL) == _digest(description)
    except RecursionError:
        intact = False
    if not intact:
        raise CheckpointError(f"{model} is damaged: its content does not have its checksum", path=str(model))
    most = MOST_WEIGHTS if largest is None else min(largest(description), MOST_WEIGHTS)
    try:
        content = _verified(folder, WEIGHTS, checksums, most)
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EFBIG:
            what_to_do = f"that is more than the model in {MODEL} takes; restore the file, or train the model again"
            raise CheckpointError(f"{error}: {what_to_do}", path=error.path) from None
        raise
    try:
        weights = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        where = directory / WEIGHTS
        raise CheckpointError(f"{where} cannot be read: {error}", path=str(where)) from None
    return description, weights, _records(_verified(folder, _METRICS, checksums, _MOST_METRICS), directory / _METRICS)


def _records(content: bytes, where: Path) -> list[dict[str, Any]]:
    """Parse the last records of metrics, one per line."""
    total = content.count(b"\n") + bool(content and not content.endswith(b"\n"))
    lines = content[-_LAST_BYTES:].splitlines()
    if len(content) > _LAST_BYTES:
        # the first line is incomplete
        lines = lines[1:]
    lines = lines[-_LAST_RECORDS:]
    if len(lines) < total:
        warn(
            f"{where} holds {total:,} records, of which the last {len(lines):,} are read: what training said before is "
            "not shown"
        )
    _refuse_many(lines, where)
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            # raises with the reason
            record = _object(line, f"line {total - len(lines) + len(records) + 1} of {where}", where)
        records.append(record)
    return records


def remove_checkpoints(path: str | Path | Folder) -> None:
    """Remove the checkpoints of a run whose training is finished or restarted; other files are kept.

    Raises:
        OSError: If they cannot be removed.
    """
    directory = Folder.of(path) / CHECKPOINTS
    for name in directory.names():
        proof = PROOF.fullmatch(name)
        if CHECKPOINT.fullmatch(name) or (proof is not None and _holds(directory, name, proof[1].encode())):
            directory.remove(name)
        elif JOB.fullmatch(name) and directory.kind(name) == "directory":
            # checkpoints of jobs on other machines are in subdirectories
            remove_checkpoints(directory / name)
            (directory / name).remove_if_empty()
    directory.tidy()
    directory.remove_if_empty()
    above = Folder.of(path)
    if above.path.name == ENSEMBLE and above.parts:
        above.remove_if_empty()


def _holds(folder: Folder, name: str, content: bytes) -> bool:
    with suppress(OSError):
        return folder.read(name, len(content)) == content
    return False


def _described(folder: Folder, what_to_do: str = "") -> dict[str, Any]:
    """Read model.json; refuse other format versions."""
    model = folder.path / MODEL
    content = _read(folder, MODEL, _MOST_DESCRIPTION)
    _refuse_many([content], model)
    description = _object(content, str(model), model, what_to_do)
    version = description.get("format")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{model} has format version {quoted(version)}; this version of mdcm reads {FORMAT_VERSION}{what_to_do}",
            path=str(model),
        )
    return description


def _digest(description: Mapping[str, Any]) -> str:
    """Checksum of JSON values, independent of their order and formatting."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode("ascii")).hexdigest()


def _verified(folder: Folder, name: str, checksums: Mapping[str, Any], limit: int) -> bytes:
    """Read the version of a file with the right checksum: under its usual name, or not yet renamed."""
    path, checksum = folder.path / name, checksums.get(name)
    if not isinstance(checksum, str) or re.fullmatch("[0-9a-f]{64}", checksum) is None:
        model = folder.path / MODEL
        raise CheckpointError(f"{model} is damaged: it holds no checksum of {name}", path=str(model))
    # the first name again, because a writer may have renamed the second to it in between
    for candidate in (name, _staged(name, checksum), name):
        with suppress(FileNotFoundError):
            content = _read(folder, candidate, limit)
            if hashlib.sha256(content).hexdigest() == checksum:
                return content
    if folder.kind(name) is None:
        raise CheckpointError(f"{path} is missing", path=str(path))
    raise CheckpointError(
        f"{path} is damaged or belongs to another run: its checksum is not the one in {MODEL}", path=str(path)
    )


def _read(folder: Folder, name: str, limit: int) -> bytes:
    path = folder.path / name
    try:
        return folder.read(name, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error


def _refuse_many(parts: Iterable[bytes], where: Path) -> None:
    """Refuse JSON texts with so many values that parsing takes too much memory."""
    values = sum(part.count(mark) for part in parts for mark in (b",", b"[", b"{"))
    if values > _MOST_VALUES:
        raise CheckpointError(
            f"{where} cannot be read: it holds {values:,} values, and no more than {_MOST_VALUES:,} are read",
            path=str(where),
        )


def _object(content: bytes, where: str, path: Path, what_to_do: str = "") -> dict[str, Any]:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where} is damaged: it is not JSON{what_to_do}", path=str(path)) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is damaged: it holds no JSON object{what_to_do}", path=str(path))
    return value


def _staged(name: str, checksum: str) -> str:
    return f".{name}.{checksum[:16]}.next"


def _is_ours(name: str) -> bool:
    """Whether a writer killed before its first model.json may have left a file of this name."""
    ours = {WEIGHTS, _METRICS, CHECKPOINTS, ENSEMBLE, _LOCK}
    return name in ours or is_temporary(name) or _STAGED.fullmatch(name) is not None
