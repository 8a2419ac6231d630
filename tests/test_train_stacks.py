"""Banks: modules trained together get what each gets alone, whatever they are padded to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learning import random_problem

import mdcm
from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.scm import random_discrete
from mdcm.training.config import TrainConfig
from mdcm.training.grouping import MOST_WORK, group
from mdcm.training.objectives.problems import ComponentProblem
from mdcm.training.rows import FitRows
from mdcm.training.stacking import DiscreteModule, ModuleStack, StackLoad


def made(text, levels, rows=300, seed=0):
    """Modules and single problems of the c-components of a graph, with priors that are not uniform."""
    graph = ADMG.from_string(text)
    sizes = {name: levels if isinstance(levels, int) else levels[name] for name in graph.nodes}
    table = random_discrete(graph, levels=sizes, seed=seed).sample(rows, seed=seed)
    schema = Schema([Variable(name, "categorical", tuple(range(size))) for name, size in sizes.items()])
    dcm = DCM(graph, schema, {name: 3 for name, _ in graph.confounders}, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for prior in dcm.priors:
            prior.copy_(torch.randn(len(prior)))
    modules, problems = [], []
    for component in graph.c_components():
        members = [node for node in dcm.order if node in component]
        needed = {*members, *(parent for node in members for parent in dcm.parents(node))}
        values = {name: torch.tensor(table[name].to_numpy()) for name in needed}
        # a second fit of the last member alone, as under do() on the others, with weights
        half = {name: value[: rows // 2] for name, value in values.items()}
        weight = torch.from_numpy(np.random.default_rng(seed).uniform(0.5, 2, rows // 2))
        fits = [
            FitRows(tuple(members), values, None, torch.arange(rows)),
            FitRows(tuple(members[-1:]), half, weight, rows + torch.arange(rows // 2)),
        ]
        modules.append(DiscreteModule(dcm, members, fits))
        problems.append(ComponentProblem(dcm, members, fits, TrainConfig(), 0))
    return dcm, modules, problems


PAIRS = "P; Q; R; P -> A; Q -> A; A -> B; A <-> B; Q -> C; C <-> D; R -> E; P -> E; Q -> E; E <-> F; E -> F"
LEVELS = {"P": 2, "Q": 3, "R": 4, "A": 3, "B": 3, "C": 3, "D": 3, "E": 3, "F": 3}


def test_losses_and_gradients_are_those_of_each_alone():
    dcm, modules, problems = made(PAIRS, LEVELS)
    pairs = [place for place, module in enumerate(modules) if len(module.members) == 2]
    assert len(pairs) == 3
    assert len({modules[place].shape for place in pairs}) == 1
    assert len({modules[place].sizes for place in pairs}) == 3
    module_stack = ModuleStack([modules[place] for place in pairs], TrainConfig())
    rng = np.random.default_rng(0)
    rows = [None, *(torch.from_numpy(np.flatnonzero(rng.random(450) < 0.7)) for _ in pairs[1:])]
    module_stack.set_training(rows)
    losses = module_stack.losses(1)
    losses.sum().backward()
    for m, place in enumerate(pairs):
        problem = problems[place]
        problem.train_on(rows[m])
        dcm.zero_grad()
        alone = problem.loss(1)
        alone.backward()
        # sums over some hundred rows of terms of size one
        assert float(losses[m].detach()) == pytest.approx(float(alone.detach()), rel=1e-5)
        module = modules[place]
        stacked = iter(module_stack.parameters)
        for mechanism, latents in zip(module.mechanisms, module.latents, strict=True):
            own = [next(stacked) for _ in range(2 + len(latents) + 2 * mechanism.layers)]
            wanted = (
                torch.cat([one.weight.grad for one in mechanism.inputs]) if mechanism.inputs else torch.zeros(0, 32)
            )
            torch.testing.assert_close(own[0].grad[m, : len(wanted)], wanted, rtol=1e-4, atol=1e-6)
            # padding is not moved
            assert not own[0].grad[m, len(wanted) :].any()
            inner = [one for layer in mechanism.inner for one in (layer.weight, layer.bias)]
            for grad, parameter in zip(
                own[1:], [mechanism.bias, *mechanism.states, *inner, mechanism.out.weight, mechanism.out.bias],
                strict=True,
            ):  # fmt: skip
                torch.testing.assert_close(grad.grad[m], parameter.grad, rtol=1e-4, atol=1e-6)
        for grad, prior in zip(stacked, module.priors, strict=True):
            torch.testing.assert_close(grad.grad[m], prior.grad, rtol=1e-4, atol=1e-6)


def test_held_out_losses_are_those_of_each_alone():
    _, modules, problems = made(PAIRS, LEVELS)
    module_stack = ModuleStack([module for module in modules if len(module.members) == 2], TrainConfig())
    held = torch.arange(0, 450, 3)
    module_stack.set_validation([held] * 3)
    found = module_stack.validate()
    alone = [problem for problem in problems if len(problem.mechanisms) == 2]
    for losses, problem in zip(found, alone, strict=True):
        problem.validate_on(held)
        wanted = problem.evaluate()
        assert losses.mean == pytest.approx(wanted.mean, rel=1e-5)
        assert losses.sample.rows == wanted.sample.rows
        # the last fit's rows have weights
        assert losses.above(losses.loss / 2) == pytest.approx(wanted.above(wanted.loss / 2), rel=1e-5)


def test_what_a_bank_stores_is_what_it_was_given():
    dcm, modules, _ = made(PAIRS, LEVELS)
    module_stack = ModuleStack([module for module in modules if len(module.members) == 2], TrainConfig())
    before = {name: tensor.clone() for name, tensor in dcm.state_dict().items()}
    module_stack.store([parameter.detach() for parameter in module_stack.parameters])
    assert all(torch.equal(before[name], tensor) for name, tensor in dcm.state_dict().items())


def test_narrowed_banks_have_the_losses_of_those_that_are_left():
    _, modules, _ = made(PAIRS, LEVELS)
    module_stack = ModuleStack([module for module in modules if len(module.members) == 2], TrainConfig())
    module_stack.set_training([None] * 3)
    whole = module_stack.losses(1).detach()
    module_stack.narrow([1])
    module_stack.set_training([None])
    torch.testing.assert_close(module_stack.losses(1).detach(), whole[1:2], rtol=1e-5, atol=0)


def test_training_together_gives_the_weights_of_training_alone():
    problem = random_problem(12, 16, 4, seed=3, rows=1500)
    models = [
        mdcm.fit(
            problem.graph,
            problem.table,
            config=TrainConfig(max_steps=40, checks=4, batch_modules=together, holdout=0.0),
        )
        for together in (True, False)
    ]
    weights = [model.dcm.state_dict() for model in models]
    for name, tensor in weights[0].items():
        # forty steps of Adam, whose step is a ratio: rounding of a small gradient moves a weight by a share of a step
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=2e-3)


def loads(modules):
    return [StackLoad(module, module.sizes) for module in modules]


class TestGroups:
    def test_every_module_is_in_one_stack_of_its_shape(self):
        _, modules, _ = made(PAIRS, LEVELS)
        stacks = group(loads(modules))
        assert sorted(index for stack in stacks for index in stack) == list(range(len(modules)))
        for stack in stacks:
            assert len({modules[index].shape for index in stack}) == 1
        # three roots of other numbers of levels have a shape each
        assert sorted(len(stack) for stack in stacks) == [1, 1, 1, 3]

    @staticmethod
    def as_written_down(modules):
        """The rule, with what a stack would need taken together anew for every module."""
        by_shape = {}
        for index, module in enumerate(modules):
            by_shape.setdefault(module.shape, []).append(index)
        stacks = []
        for indices in by_shape.values():
            stack = []
            work = {index: modules[index].cost_at(modules[index].sizes) for index in indices}
            for index in sorted(indices, key=lambda index: (work[index], modules[index].sizes, index)):
                both = [modules[one] for one in [*stack, index]]
                wider = [tuple(map(max, zip(*one, strict=True))) for one in zip(*(m.sizes for m in both), strict=True)]
                padded, own = modules[index].cost_at(wider) * len(both), sum(work[one] for one in [*stack, index])
                if stack and (padded > MOST_WORK or padded > max(1.5 * own, MOST_WORK / 8)):
                    stacks.append(stack)
                    stack = []
                stack.append(index)
            stacks.append(stack)
        return stacks

    def test_stacks_are_those_of_the_rule_and_their_time_grows_as_the_modules(self, monkeypatch):
        rng = np.random.default_rng(0)
        joined, seen = StackLoad.stacked, []
        monkeypatch.setattr(StackLoad, "stacked", lambda self, other: (seen.append(1), joined(self, other))[1])
        for most in (3, 400, 40_000):
            modules = [
                SimpleNamespace(
                    shape=int(rng.integers(2)),
                    sizes=tuple(tuple(row) for row in rng.integers(1, most, (2, 2)).tolist()),
                    cost_at=lambda sizes: int(np.prod(np.asarray(sizes, dtype=object))),
                )
                for _ in range(300)
            ]
            assert group(loads(modules)) == self.as_written_down(modules)
        # two at a time, however many there are in a stack
        assert len(seen) <= 900

    def test_large_modules_stay_alone(self):
        _, modules, _ = made(PAIRS, LEVELS)
        assert all(len(stack) == 1 for stack in group(loads(modules), most_work=1))
