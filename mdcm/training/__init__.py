"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""

from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.bootstrap import resampled
from mdcm.training.config import Schedule, TrainConfig
from mdcm.training.confounder_states import choose_states, needs_draws
from mdcm.training.devices import training_device
from mdcm.training.ensemble_member import Setup
from mdcm.training.losses import Losses, Sample
from mdcm.training.objectives.loss import LossObjective
from mdcm.training.objectives.problems import ComponentProblem, ConditionalProblem, Problem, SingleProblem
from mdcm.training.rows import FitRows, fit_rows, held_out, held_out_rows
from mdcm.training.scheduler import Source, train
from mdcm.training.stacking import Bank, Module, StackLoad
from mdcm.training.trainer import Progress, Run, Trainer
from mdcm.training.verdicts import kept_with_another_seed, lacking_fits

__all__ = [
    "AdversarialConfig",
    "Bank",
    "ComponentProblem",
    "ConditionalProblem",
    "FitRows",
    "LossObjective",
    "Losses",
    "Module",
    "Problem",
    "Progress",
    "Run",
    "Sample",
    "Schedule",
    "Setup",
    "SingleProblem",
    "Source",
    "StackLoad",
    "TrainConfig",
    "Trainer",
    "choose_states",
    "fit_rows",
    "held_out",
    "held_out_rows",
    "kept_with_another_seed",
    "lacking_fits",
    "needs_draws",
    "resampled",
    "train",
    "training_device",
]
