"""The seven variables of section F.7, from two data sets with columns missing."""

from __future__ import annotations

from dataclasses import asdict

from mdcm.experiments.discrete import DiscreteProblem, Size
from mdcm.experiments.estimates import Sample
from mdcm.experiments.records import Experiment, ExperimentRequest, Findings
from mdcm.experiments.study import study
from mdcm.graph import ADMG
from mdcm.scm import DiscreteSCM, random_discrete

__all__ = ["EXPERIMENT", "problem", "seven_variables"]

_NODES = ("X0", "X1", "X2", "W0", "W1", "Y0", "Y1")
_ARROWS = (
    "X0 -> W0; X0 -> W1; X1 -> W1; X2 -> W1; W0 -> Y0; W1 -> Y0; W1 -> Y1; X0 <-> Y0; X1 <-> X2; X2 <-> Y1"
)  # fmt: skip
_HIDDEN = {"D1": ("W0", "Y0"), "D2": ("Y1",)}
_LEVELS = {"binary": 2, "ternary": 3}
_MODEL_SEED = 7
# limits of training against critics in five minutes
_LIMITS = {
    "binary": {"worst data set": 0.04, "all variables": 0.045, "worst answer": 0.04, "time of a training": 300.0},
    "ternary": {"worst data set": 0.07, "all variables": 0.08, "worst answer": 0.04, "time of a training": 300.0},
}

_FULL = Size(rows=20_000, steps=9_000, repeats=20)
_FAST = Size(rows=2_000, steps=10, repeats=3, lengths=(40,))


def seven_variables(levels: int) -> DiscreteSCM:
    """A random model of the graph of Figure 28 with positive probabilities.

    Args:
        levels: Levels of every variable; confounders have four states.

    Example:
        >>> [sorted(part) for part in seven_variables(2).graph.c_components()]
        [['X0', 'Y0'], ['X1', 'X2', 'Y1'], ['W0'], ['W1']]
    """
    graph = ADMG.from_string("; ".join([*_NODES, _ARROWS]))
    return random_discrete(graph, levels, _MODEL_SEED, latent_levels=4, concentration=0.7)


def problem(kind: str, size: Size) -> DiscreteProblem:
    """The problem with "binary" or "ternary" variables."""
    samples = tuple(
        Sample(name, tuple(node for node in _NODES if node not in hidden), size.rows)
        for name, hidden in _HIDDEN.items()
    )
    truth = seven_variables(_LEVELS[kind])
    return DiscreteProblem(f"synthetic, {kind}", truth, samples, ("P(Y0, Y1 | do(X0))",), size, _LIMITS[kind])


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    findings = Findings()
    for kind in _LEVELS:
        findings.extend(study(problem(kind, size), request))
    # both kinds have one graph and the same plans
    findings.pictures = findings.pictures[: len(findings.pictures) // len(_LEVELS)]
    findings.notes.append(
        "No row shows all seven variables: their joint distribution is determined through the c-factors, each of "
        "which one of the two data sets shows."
    )
    return findings


EXPERIMENT = Experiment(
    name="synthetic",
    title="Seven variables from two incomplete tables",
    section="F.7, Figure 28",
    summary="A random model of seven variables and three hidden causes. One table lacks W0 and Y0, the other Y1; from "
    "both together the model learns the distribution of all seven and the effect of X0.",
    paper="After 150 epochs, distances below 0.10 for the distributions of the tables and below 0.16 for all seven "
    "variables, trained module by module and all at once alike.",
    sizes={"full": asdict(_FULL), "fast": asdict(_FAST)},
    run=_run,
    methods=("auto", "adversarial", "joint"),
)
