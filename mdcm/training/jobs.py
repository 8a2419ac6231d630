"""Jobs of a training: what a worker receives and returns, and a check that it sees the shared directory."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mdcm.errors import MdcmError
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import CHECKPOINTS, PROOF

if TYPE_CHECKING:
    from torch import Tensor

    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.training.ensemble_member import TrainingContext

__all__ = [
    "Job",
    "JobResult",
    "ModelState",
    "SharedInputs",
    "Task",
    "TrainingData",
    "check_shared_directory",
    "shared_marker",
]


@dataclass(frozen=True)
class TrainingData:
    """Data and seed of one model.

    Attributes:
        data: Data sets by name.
        seed: Seed of initial weights, splits and batches.
        init: A trained model and its history: h-nodes of the same fingerprint keep its weights.
    """

    data: Mapping[str, Encoded]
    seed: int = 0
    init: tuple[DCM, Sequence[Mapping[str, Any]]] | None = None


@dataclass(frozen=True)
class Job:
    """H-nodes that are trained together.

    Attributes:
        kind: "single" for one h-node trained by itself, "stack" for stacked discrete h-nodes, "critics" for stacked
            h-nodes trained against critics, "critic" for one of those trained by itself.
        units: The h-nodes, ascending: index of the ensemble member times the number of h-nodes, plus the index of the
            h-node in the plan.
    """

    kind: Literal["single", "stack", "critics", "critic"]
    units: tuple[int, ...]


@dataclass(frozen=True)
class SharedInputs:
    """Inputs of all jobs of a training: the context, data by ensemble member, and the number of members."""

    context: TrainingContext
    data: Mapping[int, TrainingData]
    total: int


@dataclass(frozen=True)
class ModelState:
    """Learned state of one model: states of its confounders, weights, encoders, and growths of every h-node."""

    states: dict[str, int]
    weights: dict[str, Tensor]
    encoders: dict[str, Any]
    growths: list[int]
    loss_before_growth: list[float | None]


@dataclass(frozen=True)
class Task:
    """A job for a worker.

    Attributes:
        job: The job.
        states: State of every model of the job, by ensemble member.
        files: Folder of the job's checkpoints, or None.
        fingerprint: Fingerprint of the job, for its checkpoints.
        seconds: Time limit, or None.
        marker: Name of the file by :func:`shared_marker`, or None.
    """

    job: Job
    states: dict[int, ModelState]
    files: Folder | None
    fingerprint: str
    seconds: float | None
    marker: str | None


@dataclass(frozen=True)
class JobResult:
    """Result of a job: units whose confounders must grow, records, and the state of every model."""

    grown: tuple[int, ...]
    records: list[dict[str, Any]]
    states: dict[int, ModelState]


@contextmanager
def shared_marker(run: Folder) -> Iterator[str]:
    """Keep a file with a secret beside the checkpoints of a run, by which workers recognise the directory.

    Yields:
        Its name, for :func:`check_shared_directory`.

    Raises:
        OSError: If it cannot be written.
    """
    folder = run / CHECKPOINTS
    folder.make()
    secret = secrets.token_hex(16)
    name = f"shared-{secret}"
    with folder.replacing(name) as stream:
        stream.write(secret.encode())
    try:
        yield name
    finally:
        with suppress(OSError):
            folder.remove(name)
            folder.remove_if_empty()


def check_shared_directory(files: Folder, marker: str) -> None:
    """Refuse to write checkpoints in a directory that the main process does not see.

    Args:
        files: Folder of the checkpoints, beside the marker.
        marker: Name from :func:`shared_marker`.

    Raises:
        MdcmError: If the marker is not there.
    """
    folder = Folder(files.root, files.parts[:-1])
    try:
        content = folder.read(marker, 100).decode(errors="replace")
    except OSError:
        content = ""
    match = PROOF.fullmatch(marker)
    if match is None or match[1] != content:
        raise MdcmError(
            f"the worker on {platform.node()} does not see {folder.path}, where the checkpoints of this training go: "
            "save the run in a directory that all machines of the cluster share"
        )
