"""Adversarial training to a given quality: module by module against jointly, and stacked against one at a time.

How long training must be is not known beforehand and the schedule depends on it, so every method trains anew with
budgets of steps that double, and its time is that of the first budget that suffices. Quality is the mean total
variation distance to the truth of P(child, parents) over all variables, from rows that the model draws.

Two gains, apart: the joint h-node has the same networks, the same closed-form penalty and as many steps as each h-node
of the minimal plan; and that plan's own time is compared with the one it takes when each h-node takes its steps by
itself, which gives the same weights up to rounding. The latter time is from some of the steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from learning import Problem, random_problem
from workloads import Measured

import mdcm
from mdcm.data import Dataset, Schema
from mdcm.dcm import DCM
from mdcm.mechanisms import Categorical
from mdcm.model import Model
from mdcm.planning import plan
from mdcm.training.adversarial_config import AdversarialConfig

__all__ = ["END_TO_END"]

# variables: most steps
SIZES = {5: 7680, 20: 7680, 50: 3840, 200: 1920}
FEWEST_STEPS, TIMED_STEPS = 60, 10
GOAL = 0.05
# a method that has not come so far by then is given up
SECONDS = 900.0
DRAWN, KNOWN = 200_000, 1_000_000
STATES, HIDDEN, LEVELS = 8, 64, 3

# by child
Families = dict[str, np.ndarray]


class _Side:
    """One problem and a way to train it."""

    def __init__(self, problem: Problem, method: str) -> None:
        self.problem = problem
        self.dataset = Dataset(problem.table, name="d1")
        self.schema = Schema.infer([self.dataset])
        specs = [self.dataset.spec(problem.graph.nodes)]
        self.plan = plan(problem.graph, specs, objective="adversarial", method=method)

    def train(self, config: AdversarialConfig, *, stacked: bool = True) -> tuple[DCM, float]:
        """A trained model, and CPU seconds."""
        graph = self.problem.graph
        began = time.process_time()
        model = mdcm.fit(
            graph, self.dataset, plan=self.plan, seed=0,
            mechanisms={name: partial(Categorical, hidden=HIDDEN) for name in graph.nodes},
            config=mdcm.TrainConfig(confounder_states=STATES, adversarial=config, batch_modules=stacked),
        )  # fmt: skip
        dcm = model.dcm
        return dcm, time.process_time() - began

    def distance(self, dcm: DCM, truth: Families) -> float:
        """Mean distance to the truth over the families."""
        model = Model(self.problem.graph, self.schema, self.plan, dcm, mdcm.TrainConfig(), seed=0, datasets=[])
        found = _families(self.problem, model.draw_samples(DRAWN, seed=1).table)
        return float(np.mean([np.abs(found[child] - truth[child]).sum() / 2 for child in truth]))

    def seconds_to_goal(self, most: int, truth: Families) -> tuple[float, int, float]:
        """CPU seconds of the first budget that suffices, or of the last one, its steps and its distance."""
        steps = FEWEST_STEPS
        while True:
            # nothing is judged in between: the time is that of the steps
            dcm, seconds = self.train(AdversarialConfig(steps=steps, checks=1))
            distance = self.distance(dcm, truth)
            if distance < GOAL or 2 * steps > most or 2 * seconds > SECONDS:
                return seconds, steps, distance
            steps *= 2


def _families(problem: Problem, table: pd.DataFrame) -> Families:
    """Shares of the values of every variable and its parents."""
    found = {}
    for child in problem.graph.nodes:
        family = [child, *sorted(problem.graph.parents(child))]
        code = np.zeros(len(table), dtype=np.int64)
        for name in family:
            code = LEVELS * code + table[name].to_numpy()
        found[child] = np.bincount(code, minlength=LEVELS ** len(family)) / len(table)
    return found


def _end_to_end(variables: int) -> Iterator[Measured]:
    problem = random_problem(variables, 2 * variables if variables > 5 else 6, variables // 3, seed=0)
    truth = _families(problem, problem.truth.sample(KNOWN, seed=7))
    modular, joint = _Side(problem, "minimal"), _Side(problem, "joint")
    ours, steps, distance = modular.seconds_to_goal(SIZES[variables], truth)
    # as many steps with one h-node at a time, from the time of some
    _, few = modular.train(AdversarialConfig(steps=TIMED_STEPS, checks=1), stacked=False)
    _, none = modular.train(AdversarialConfig(steps=1, checks=1), stacked=False)
    alone = (few - none) / (TIMED_STEPS - 1) * steps
    what = f"{variables} variables, {len(modular.plan.hnodes)} h-nodes, largest {modular.plan.largest}"
    reached = f"TVD {distance:.3f} after {steps} steps"
    yield Measured("end-to-end", f"stacked against one by one; {what}, {reached}", "0", "CPU s", [ours], [alone], None)
    theirs, steps, distance = joint.seconds_to_goal(SIZES[variables], truth)
    reached += f"; joint TVD {distance:.3f} after {steps} steps"
    yield Measured("end-to-end", f"modular against joint; {what}, {reached}", "0", "CPU s", [ours], [theirs], None)


END_TO_END = {f"end-to-end-{variables}": partial(_end_to_end, variables) for variables in SIZES}
