"""Training against critics from problems made by hand: what :func:`mdcm.fit` does within a level."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdcm.training.objectives.adversarial import AdversarialObjective
from mdcm.training.rows import held_out_rows
from mdcm.training.trainer import Run, Trainer


@dataclass
class Watched(Run):
    """A run that asks whether time is over."""

    over: Any = None

    @property
    def late(self):
        return self.over is not None and self.over()


@dataclass
class Recorder:
    """Keeps all records."""

    records: list = field(default_factory=list)

    def __call__(self, record):
        self.records.append(record)

    def trained(self):
        return [record for record in self.records if record["event"] == "trained"]


def trainer_of(problems, *, stacked=False, progress=None, log=None, late=None, between=None, on_validation=None):
    """A trainer of h-nodes side by side; ``late`` is asked after every step, ``between`` after those but the last."""
    run = Watched(progress, log or Recorder(), None, between, on_validation, late)
    objective = AdversarialObjective(problems, stacked=stacked)
    return Trainer(objective, [problem.hnode.variables for problem in problems], run)


def train(problems, **options):
    """Records of the trained h-nodes."""
    log = options.setdefault("log", Recorder())
    trainer_of(problems, **options).train()
    return [record for record in getattr(log, "records", []) if record["event"] == "trained"]


def masks(hnode, data, seed=0, share=0.1):
    """Held-out rows by data set, none where there are too few."""
    held = held_out_rows(hnode, data, share, seed)
    names = {name for fit in hnode.fits for name in fit.datasets}
    return {name: np.zeros(data[name].rows, bool) for name in names} if held is None else held
