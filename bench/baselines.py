"""What the library is measured against: the same quantities, computed in the direct way."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from learning import maximum_likelihood
from torch import Tensor

from mdcm.graph import ADMG
from mdcm.mechanisms import Mechanism
from mdcm.scm import DiscreteSCM
from mdcm.training.objectives.likelihood import ComponentRows

__all__ = ["exact_maximum_likelihood", "rows_apart", "sequential_normal"]


def rows_apart(mechanisms: Mapping[str, Mechanism], values: Mapping[str, Tensor]) -> ComponentRows:
    """Every row with logits of its own, as a network is usually evaluated."""
    return ComponentRows.build(mechanisms, values, share=False)


def exact_maximum_likelihood(graph: ADMG, table: pd.DataFrame) -> DiscreteSCM:
    """The plug-in estimate that knows the graph: counting, and expectation-maximisation with the true state numbers."""
    return maximum_likelihood(graph, table, states=4, tolerance=1e-7)


def sequential_normal(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """torch's own normal numbers, which depend on how many were drawn before."""
    return torch.randn(rows, count, generator=generator)
