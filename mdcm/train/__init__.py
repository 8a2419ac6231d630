"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""

from mdcm.train.bank import Bank, Module, tiles
from mdcm.train.config import Schedule, TrainConfig
from mdcm.train.devices import training_device
from mdcm.train.loop import Alone, Progress, Run, Trainer
from mdcm.train.losses import Losses, Sample
from mdcm.train.member import Setup
from mdcm.train.problems import ComponentProblem, ConditionalProblem, Problem
from mdcm.train.resampling import resampled
from mdcm.train.rows import FitRows, HNodeRows, held_out
from mdcm.train.run import Source, train
from mdcm.train.states import choose_states, needs_draws
from mdcm.train.verdicts import kept_with_another_seed, lacking_fits

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
    "Sample",
    "Schedule",
    "Setup",
    "Source",
    "TrainConfig",
    "Trainer",
    "choose_states",
    "held_out",
    "kept_with_another_seed",
    "lacking_fits",
    "needs_draws",
    "resampled",
    "tiles",
    "train",
    "training_device",
]
