"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""

from mdcm.training.bootstrap import resampled
from mdcm.training.config import Schedule, TrainConfig
from mdcm.training.confounder_states import choose_states, needs_draws
from mdcm.training.devices import training_device
from mdcm.training.ensemble_member import Setup
from mdcm.training.losses import Losses, Sample
from mdcm.training.objectives.problems import ComponentProblem, ConditionalProblem, Problem
from mdcm.training.rows import FitRows, HNodeRows, held_out
from mdcm.training.scheduler import Source, train
from mdcm.training.stacking import Bank, Module, tiles
from mdcm.training.trainer import Alone, Progress, Run, Trainer
from mdcm.training.verdicts import kept_with_another_seed, lacking_fits

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
