"""The Asia network with two variables hidden, section F.5."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import Any

import numpy as np

from mdcm.data import Dataset
from mdcm.errors import LowSupportError
from mdcm.experiments.discrete import DiscreteProblem, Size
from mdcm.experiments.estimates import Sample
from mdcm.experiments.records import Experiment, ExperimentRequest, Findings, Result, hold
from mdcm.experiments.study import study
from mdcm.graph import ADMG
from mdcm.model import Model, fit
from mdcm.scm import DiscreteSCM
from mdcm.training.config import TrainConfig

__all__ = ["EXPERIMENT", "network"]

_NODES = ("asia", "tub", "lung", "either", "xray", "dysp")
_ARROWS = "asia -> tub -> either; lung -> either; either -> xray; either -> dysp; lung <-> dysp"
_LEVELS = ("no", "yes")
_NOISE = 0.02
_EFFECTS = ("P(dysp | do(lung))", "P(dysp | do(either))")

_FULL = Size(rows=20_000, steps=6_000, repeats=20)
_FAST = Size(rows=5_000, steps=30, repeats=5, lengths=(10, 80))


def network(noise: float = _NOISE) -> DiscreteSCM:
    """The Asia network without smoke and bronc, exactly: smoke is the confounder of lung and dysp, bronc summed out.

    Args:
        noise: Probability that either is the opposite of "lung or tub"; zero in the network as published, and then
            P(dysp | do(either)) is not determined by what can be observed.

    References:
        Lauritzen & Spiegelhalter (1988), Local computations with probabilities on graphical structures and their
        application to expert systems.

    Example:
        >>> network().exact("tub", given={"asia": "yes"}).round(9).tolist()
        [0.95, 0.05]
    """
    graph = ADMG.from_string("; ".join([*_NODES, _ARROWS]))

    def yes(*probabilities: float) -> list[list[float]]:
        return [[1 - p, p] for p in probabilities]

    # smoke: no, yes
    bronc = np.array([0.3, 0.6])
    # either: no, yes; bronc: no, yes
    dysp = np.array([[0.1, 0.8], [0.7, 0.9]])
    by_smoke = dysp[:, :1] * (1 - bronc) + dysp[:, 1:] * bronc
    tables: dict[str, Any] = {
        "asia": [0.99, 0.01],
        "tub": yes(0.01, 0.05),
        "lung": yes(0.01, 0.1),
        "either": [yes(noise, 1 - noise), yes(1 - noise, 1 - noise)],
        "xray": yes(0.05, 0.98),
        "dysp": np.stack([1 - by_smoke, by_smoke], axis=-1),
    }
    (confounder, _), *_ = graph.confounders
    return DiscreteSCM(graph, tables, {confounder: [0.5, 0.5]}, levels=dict.fromkeys(_NODES, _LEVELS))


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    problem = DiscreteProblem("asia", network(), (Sample("d1", _NODES, size.rows),), _EFFECTS, size)
    findings = study(problem, request)
    request.stages.expect(1)
    with request.stages.stage("the network as published"):
        findings.extend(_published(size.rows, request.seeds[0]))
    findings.notes.append(
        f"either is 'lung or tub', and with probability {_NOISE} the opposite. Without that, no row shows lung = yes "
        "with either = no, and P(dysp | do(either)) is not determined by the data."
    )
    return findings


def _published(rows: int, seed: int) -> Findings:
    """Check that the model warns of the missing support of do(either) in the published network."""
    graph = network(0.0).graph
    table = network(0.0).sample(rows, seed=seed)
    variables = {name: {"levels": list(_LEVELS)} for name in _NODES}
    # a short training: only the warning matters
    model = fit(graph, Dataset(table, name="d1"), variables=variables, config=TrainConfig(max_steps=60), seed=seed)
    messages = {query: _support_message(model, query, seed) for query in (_EFFECTS[1], "P(lung, dysp | do(either))")}
    note = "no row has lung = yes with either = no, which the answer has to state"
    results = [
        Result("asia, the network as published", "auto", seed, "Warnings", query, float(bool(text)))
        for query, text in messages.items()
    ]
    return Findings(
        results=results,
        criteria=hold(results, messages, {"first": 1.0}, relation=">=", unit="warnings", note=note),
        notes=[f"Of the network as published: {text or f'{query} is answered without a warning'}."
               for query, text in messages.items()],
    )  # fmt: skip


def _support_message(model: Model, query: str, seed: int) -> str:
    """Message of a model about the support of an answer, from a warning or an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.query(query, 20_000, seed=seed)
        except LowSupportError as error:
            return str(error)
    return "; ".join(str(warning.message) for warning in caught)


EXPERIMENT = Experiment(
    name="asia",
    title="Asia, with smoking hidden",
    section="F.5",
    summary="Six of the eight variables of the Asia network, with smoke and bronc hidden, so that lung and dysp have a "
    "hidden common cause. The effect of lung on dysp goes through the front door of either, that of either is "
    "confounded through lung and tub.",
    paper="Curves of the fitted distributions and of both effects that fall towards zero; no numbers.",
    sizes={"full": asdict(_FULL), "fast": asdict(_FAST)},
    run=_run,
    methods=("auto", "adversarial", "joint"),
)
