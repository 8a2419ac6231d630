"""Causal inference with deep generative models, hidden confounders and images.

Names load on first use, so that ``import mdcm`` and everything about graphs work without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mdcm.errors import (
    CheckpointError,
    DataError,
    GraphError,
    LowSupportError,
    MdcmError,
    NotIdentifiableError,
    PlanError,
    QueryError,
    UntrainableError,
)

# loaded eagerly, since these load without torch
from mdcm.identification import Identification, identify
from mdcm.planning import DatasetSpec, Plan, plan

if TYPE_CHECKING:
    from mdcm import metrics, scm
    from mdcm.checking import Check, check
    from mdcm.data import Dataset
    from mdcm.graph import ADMG, read_graph
    from mdcm.model import Model, fit, load
    from mdcm.report import write_report
    from mdcm.sampling import Samples
    from mdcm.sampling.answers import Answer
    from mdcm.training.adversarial_config import AdversarialConfig
    from mdcm.training.config import TrainConfig

__version__ = "0.1.0"

__all__ = [
    "ADMG",
    "AdversarialConfig",
    "Answer",
    "Check",
    "CheckpointError",
    "DataError",
    "Dataset",
    "DatasetSpec",
    "GraphError",
    "Identification",
    "LowSupportError",
    "MdcmError",
    "Model",
    "NotIdentifiableError",
    "Plan",
    "PlanError",
    "QueryError",
    "Samples",
    "TrainConfig",
    "UntrainableError",
    "__version__",
    "check",
    "fit",
    "identify",
    "load",
    "metrics",
    "plan",
    "read_graph",
    "scm",
    "write_report",
]

_HOME = {
    "ADMG": "graph",
    "read_graph": "graph",
    "Answer": "sampling.answers",
    "Samples": "sampling",
    "Check": "checking",
    "check": "checking",
    "Dataset": "data",
    "AdversarialConfig": "training.adversarial_config",
    "TrainConfig": "training.config",
    "fit": "model",
    "Model": "model",
    "load": "model",
    "write_report": "report",
}
_SUBMODULES = {"metrics", "scm"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"mdcm.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"mdcm.{name}")
    raise AttributeError(f"module 'mdcm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
