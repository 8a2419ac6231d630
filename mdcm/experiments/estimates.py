"""References for discrete models: the exact truth, and the error of the best estimate from the same data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mdcm.data import Dataset
from mdcm.identification import Estimand, identify
from mdcm.mechanisms import Categorical
from mdcm.metrics import kl_divergence, sampling_floor, tv_distance
from mdcm.scm import DiscreteSCM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.dcm import DCM

__all__ = ["Sample", "answer_distance", "estimation_errors", "plug_in", "read_out"]


@dataclass(frozen=True)
class Sample:
    """A data set drawn from a true model.

    Attributes:
        name: Name of the data set.
        columns: Observed variables, the targets included.
        rows: Number of rows.
        do: Levels that each target is set to, equally often.

    Example:
        >>> from mdcm.graph import ADMG
        >>> from mdcm.scm import random_discrete
        >>> truth = random_discrete(ADMG.from_string("X -> Y"), levels=2)
        >>> Sample("d2", ("X", "Y"), 10, {"X": (1,)}).draw(truth, seed=0).table["X"].unique().tolist()
        [1]
    """

    name: str
    columns: tuple[str, ...]
    rows: int
    do: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Distribution of the rows, as text."""
        free = [name for name in self.columns if name not in self.do]
        shown = ", ".join(free) if len(free) <= 4 else f"{len(free)} variables"
        setting = ", ".join(f"{name}={values[0]}" if len(values) == 1 else name for name, values in self.do.items())
        return f"{self.name}: P({shown}{f' | do({setting})' if setting else ''})"

    def draw(self, truth: DiscreteSCM, seed: int) -> Dataset:
        """Draw the data set with a seed."""
        rng = np.random.default_rng([seed, 77])
        order = rng.permutation(self.rows)
        do = {name: np.array(values, dtype=object)[order % len(values)] for name, values in self.do.items()}
        table = truth.sample(self.rows, do=do or None, seed=seed)
        return Dataset(table[list(self.columns)], do=tuple(self.do), name=self.name)

    def exact(self, model: DiscreteSCM) -> NDArray[np.float64]:
        """Joint distribution of the settings, equally frequent, and the other columns."""
        free = [name for name in self.columns if name not in self.do]
        parts = []
        for values in itertools.product(*self.do.values()):
            do = dict(zip(self.do, values, strict=True))
            parts.append(model.exact(free, do=do or None).to_numpy(dtype=np.float64))
        return np.concatenate(parts) / len(parts)

    def compare(self, truth: DiscreteSCM, model: DiscreteSCM) -> dict[str, float]:
        """Total variation distance and divergence of the model from the truth, and the sampling floor."""
        right, modelled = self.exact(truth), self.exact(model)
        return {
            "tvd": tv_distance(right, modelled),
            "kl": kl_divergence(right, modelled),
            "floor": sampling_floor(right, self.rows),
        }


def read_out(dcm: DCM) -> DiscreteSCM:
    """Tabulate a trained model: every mechanism at every value of its parents and confounders.

    Args:
        dcm: A model whose mechanisms are all categorical.

    Returns:
        A model whose exact answers are those of ``dcm`` without sampling error.
    """
    tables, levels = {}, {}
    for node in dcm.graph.nodes:
        mechanism = dcm.mechanism(node)
        assert isinstance(mechanism, Categorical)
        sizes = [parent.num_levels for parent in mechanism.parents] + list(mechanism.latents)
        columns = [torch.from_numpy(axis.ravel()) for axis in np.indices(sizes)]
        parents = dict(zip([parent.name for parent in mechanism.parents], columns, strict=False))
        latents = columns[len(mechanism.parents) :]
        with torch.no_grad():
            logits = mechanism.logits(parents, latents, math.prod(sizes)).double()
        tables[node] = logits.softmax(-1).reshape(*sizes, -1).numpy()
        levels[node] = mechanism.variable.levels or ()
    priors = {
        name: prior.detach().double().softmax(0).numpy()
        for name, prior in zip(dcm.confounders, dcm.priors, strict=True)
    }
    return DiscreteSCM(dcm.graph, tables, priors, levels=levels)


def plug_in(estimand: Estimand, data: Sequence[Dataset]) -> NDArray[np.float64]:
    """Estimate an estimand from the frequencies in the data.

    Conditions that no row meets are left out, and the estimate is 0 if no row meets any: this is part of its error.
    """
    values = estimand.estimate(list(data), most_unseen=1.0).values
    return np.nan_to_num(np.asarray(values, dtype=np.float64).ravel())


def answer_distance(right: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Total variation distance of two tables of answers, averaged over interventions and conditions."""
    conditions = max(1, round(float(right.sum())))
    return float(np.abs(right - other).sum() / 2 / conditions)


def estimation_errors(
    truth: DiscreteSCM, queries: Sequence[str], samples: Sequence[Sample], repeats: int = 20
) -> NDArray[np.float64]:
    """Distances of plug-in estimates to the truth, on fresh data sets of the same sizes and columns.

    Their mean over the data sets is the estimation floor of a query: a method that knows only the graph cannot be
    expected to be much closer. The maximum-likelihood estimate of a c-factor without further restrictions is its
    frequencies.

    Args:
        truth: The true model.
        queries: Queries that the data determine.
        samples: The data sets.
        repeats: Number of fresh data sets of each.

    Returns:
        Array ``[repeats, queries]``.

    Raises:
        NotIdentifiableError: If the data do not determine a query.
    """
    right = [np.asarray(truth.answer(query), dtype=np.float64).ravel() for query in queries]
    errors = np.zeros((repeats, len(queries)))
    estimands: list[Estimand] = []
    for repeat in range(repeats):
        # seeds that no model is trained on
        data = [sample.draw(truth, 100_000 + 100 * repeat + index) for index, sample in enumerate(samples)]
        if not estimands:
            estimands = [estimand_of(truth, query, data) for query in queries]
        for index, estimand in enumerate(estimands):
            errors[repeat, index] = answer_distance(right[index], plug_in(estimand, data))
    return errors


def estimand_of(truth: DiscreteSCM, query: str, data: Sequence[Dataset]) -> Estimand:
    """The estimand of a query that the data determine."""
    specs = [dataset.spec(truth.graph.nodes) for dataset in data]
    result = identify(truth.graph, query, datasets=specs, levels=truth.levels)
    assert result.estimand is not None, result.explain()
    return result.estimand
