"""Jobs of a training, and what goes to a worker that runs one and comes back from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.storage.disk import Folder
    from mdcm.training.ensemble_member import Setup

__all__ = ["Job", "Outcome", "Shared", "Source", "State", "Task"]


@dataclass(frozen=True)
class Source:
    """What one model is learned from.

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
    """H-nodes that are trained as one.

    Attributes:
        kind: An h-node alone, a bank of small ones, or problems against critics, which are stepped as one or alone.
        units: Which ones: number of the member times the number of h-nodes, plus the place in the plan; ascending.
    """

    kind: Literal["alone", "bank", "critics", "critic"]
    units: tuple[int, ...]


@dataclass(frozen=True)
class Shared:
    """What all jobs of a training need: setup, sources by member, and the number of members."""

    setup: Setup
    sources: Mapping[int, Source]
    total: int


@dataclass(frozen=True)
class State:
    """What a model has learned: states of its confounders, weights, encoders, and how often h-nodes have grown."""

    states: dict[str, int]
    weights: dict[str, Tensor]
    encoders: dict[str, Any]
    doubled: list[int]
    former: list[float | None]


@dataclass(frozen=True)
class Task:
    """A job, its models, where its checkpoints go and belong, the seconds that it has, and a proof of that place."""

    job: Job
    states: dict[int, State]
    files: Folder | None
    fingerprint: str
    seconds: float | None
    proof: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of a job: units that need more states, records, and the models as they are now."""

    grown: tuple[int, ...]
    records: list[dict[str, Any]]
    states: dict[int, State]
