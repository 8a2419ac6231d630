"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""

from mdcm.train.bank import Bank, Module, tiles
from mdcm.train.config import Schedule, TrainConfig
from mdcm.train.devices import training_device
from mdcm.train.loop import Alone, Progress, Run, Trainer
from mdcm.train.problems import ComponentProblem, ConditionalProblem, Losses, Problem
from mdcm.train.rows import FitRows, HNodeRows, held_out
from mdcm.train.run import train
from mdcm.train.states import choose_states, needs_draws

__all__ = [
    "Alone",
    "Bank",
    "ComponentProblem",
    "ConditionalProblem",
    "FitRows",
    "HNodeRows",
    "Losses",
    "Module",
    "Problem",
    "Progress",
    "Run",
    "Schedule",
    "TrainConfig",
    "Trainer",
    "choose_states",
    "held_out",
    "needs_draws",
    "tiles",
    "train",
    "training_device",
]
