"""Checkpoints of a training: its complete state, written between two steps, to resume it after an interruption.

One safetensors file holds the weights and the state of the current job, and everything else as metadata. It is written
under a temporary name and renamed, and its name contains its checksum, so that there is an intact one at any moment. A
fingerprint of graph, plan, data and settings identifies the training.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from mdcm.errors import CheckpointError
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import CHECKPOINT, CHECKPOINTS, MOST_WEIGHTS, remove_checkpoints
from mdcm.text.advice import advice
from mdcm.text.documents import flag, listed, mapping, number, optional, parse_json, record, text, whole
from mdcm.text.printable import quoted

__all__ = ["Checkpoints", "Snapshot"]

_FORMAT = "mdcm-checkpoint 3"

# sent by a user, by a system that shuts down, and by a terminal that is closed
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))

_RECORD = record({"event": text, "hnode": listed(text)}, open_ended=True)
# written by the training; the content of a job is that of its trainer
_STATE = record(
    {
        "done": whole(), "elapsed": number(0), "history": listed(_RECORD), "job": optional(mapping()),
        "encoders": listed(mapping(mapping())), "halved": flag,
    },
    {"grown": listed(whole())},
)  # fmt: skip

Snapshot = tuple[dict[str, Any], dict[str, Tensor]]


class Checkpoints:
    """Checkpoints of a run; a context in which Ctrl-C, SIGTERM and SIGHUP take effect after the current step.

    Args:
        run: The run directory.
        fingerprint: Fingerprint of the training.
        seconds: Time between two checkpoints; 0 writes one after every step.

    Attributes:
        source: The file that was read, or None.

    Raises:
        CheckpointError: If there is a checkpoint of another training, or a damaged one.
    """

    def __init__(self, run: str | Path | Folder, fingerprint: str, seconds: float) -> None:
        self.run = Folder.of(run)
        self.directory = self.run / CHECKPOINTS
        self.fingerprint = fingerprint
        self.seconds = seconds
        self.source: Path | None = None
        self._number = max((int(name[:8]) for name in self._names()), default=0)
        self._last = time.perf_counter()
        self._noted: int | None = None
        self._former: dict[int, Any] = {}

    def _names(self) -> list[str]:
        """Names of checkpoints, the latest last; other files are ignored."""
        try:
            return [name for name in self.directory.names() if CHECKPOINT.fullmatch(name)]
        except OSError as error:
            raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}", path=error.filename) from None

    def read(self) -> Snapshot | None:
        """Read the latest checkpoint; None if there is none.

        Raises:
            CheckpointError: If it is damaged, or belongs to another training.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        names = self._names()
        if not names:
            return None
        path = self.directory.path / names[-1]
        try:
            content = self.directory.read(names[-1], MOST_WEIGHTS)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None
        if hashlib.sha256(content).hexdigest()[:16] != path.stem[9:]:
            raise CheckpointError(
                f"{path} is damaged: its checksum is not the one in its name; "
                f"{advice('force=True', '--force')} trains from the beginning",
                path=str(path),
            )
        try:
            length = int.from_bytes(content[:8], "little")
            header = parse_json(parse_json(content[8 : 8 + length])["__metadata__"]["mdcm"])
            tensors = load(content)
            if not isinstance(header, dict):
                raise ValueError("its header is not a mapping")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}", path=str(path)) from None
        if header.get("format") != _FORMAT:
            form = quoted(header.get("format"))
            raise CheckpointError(f"{path} is of the format {form}, not {_FORMAT!r}", path=str(path))
        if header.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{path} belongs to another training: the graph, the plan, the data, the settings or the seed differ; "
                f"{advice('force=True instead of resume=True', '--force instead of --resume')} begins anew",
                path=str(path),
            )
        try:
            _STATE(header.get("state"), "state")
            for key, tensor in tensors.items():
                if key.startswith("model.") and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise ValueError(f"{key} holds numbers that are not finite")
        except ValueError as error:
            raise CheckpointError(f"{path} is not a checkpoint of a training: {error}", path=str(path)) from None
        self.source = path
        return header["state"], tensors

    def write(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint, then remove older ones.

        Raises:
            OSError: If it cannot be written; the older one is then unchanged.
        """
        from safetensors.torch import save

        state = json.dumps({"format": _FORMAT, "fingerprint": self.fingerprint, "state": header})
        # copies, because tensors share memory and the format allows no aliases
        content = save(
            {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            },
            metadata={"mdcm": state},
        )
        self.directory.make()
        self._number += 1
        name = f"{self._number:08}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        older = [other for other in self._names() if other != name]
        with self.directory.replacing(name) as stream:
            stream.write(content)
        for other in older:
            self.directory.remove(other)
        self._last = time.perf_counter()

    def clear(self) -> None:
        """Remove all checkpoints, when the training is finished or restarted."""
        remove_checkpoints(self.run)

    def between(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write a checkpoint between two steps, if one is due or a signal has arrived.

        Raises:
            KeyboardInterrupt: If the user pressed Ctrl-C; a checkpoint is saved.
            SystemExit: If the process received SIGTERM or SIGHUP and has no handler for it; a checkpoint is saved.
        """
        if self._noted is not None or time.perf_counter() - self._last >= self.seconds:
            self.write(*snapshot())
        if self._noted is not None:
            self._obey(self._noted, None)

    def end(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write a checkpoint after the last step, if a signal has arrived.

        Raises:
            KeyboardInterrupt: As :meth:`between`.
            SystemExit: As :meth:`between`.
        """
        if self._noted is not None:
            self.between(snapshot)

    def __enter__(self) -> Checkpoints:
        # only the main thread receives signals and can set handlers
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                former = signal.getsignal(number)
                # an ignored signal stays ignored
                if callable(former) or (number != signal.SIGINT and former == signal.SIG_DFL):
                    self._former[number] = former
                    signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            # the second signal does not wait for the step
            self._obey(number, frame)
        self._noted = number

    def _obey(self, number: int, frame: FrameType | None) -> None:
        former = self._former[number]
        if callable(former):
            former(number, frame)
        # exit code of the shell for a process ended by a signal
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for code, former in self._former.items():
            signal.signal(code, former)
        self._former.clear()
