"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""

from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.bootstrap import resampled
from mdcm.training.config import Schedule, TrainConfig
from mdcm.training.confounders import choose_states, needs_draws
from mdcm.training.devices import training_device
from mdcm.training.ensemble_member import TrainingContext
from mdcm.training.fit_warnings import kept_weights_warning, poor_fit_warnings
from mdcm.training.jobs import TrainingData
from mdcm.training.losses import HeldOutLosses, HeldOutSample
from mdcm.training.objectives.loss import LossObjective
from mdcm.training.objectives.problems import ComponentProblem, ConditionalProblem, Problem, SingleProblem
from mdcm.training.rows import FitRows, fit_rows, held_out, held_out_rows
from mdcm.training.scheduler import train
from mdcm.training.stacking import DiscreteModule, ModuleStack, StackLoad
from mdcm.training.trainer import Progress, Run, Trainer

__all__ = [
    "AdversarialConfig",
    "ComponentProblem",
    "ConditionalProblem",
    "DiscreteModule",
    "FitRows",
    "HeldOutLosses",
    "HeldOutSample",
    "LossObjective",
    "ModuleStack",
    "Problem",
    "Progress",
    "Run",
    "Schedule",
    "SingleProblem",
    "StackLoad",
    "TrainConfig",
    "Trainer",
    "TrainingContext",
    "TrainingData",
    "choose_states",
    "fit_rows",
    "held_out",
    "held_out_rows",
    "kept_weights_warning",
    "needs_draws",
    "poor_fit_warnings",
    "resampled",
    "train",
    "training_device",
]
