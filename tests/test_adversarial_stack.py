"""H-nodes stepped as one: the weights that each has alone, each until it is finished, whoever else is in the stack."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from critics import Recorder, train, trainer_of
from test_adversarial import Setting, equal
from test_adversarial import f7 as seven

import mdcm
from mdcm.data import Dataset
from mdcm.errors import MdcmError
from mdcm.mechanisms import Categorical, Mechanism
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.grouping import group
from mdcm.training.objectives.comparison import Distances
from mdcm.training.objectives.critic_load import MOST_CRITIC_WORK, CriticLoad
from mdcm.training.objectives.critics import Critics

CONFIG = AdversarialConfig(steps=12, batch_size=16, checks=3)
# three h-nodes at one level, of 1, 2 and 3 variables; the widest has an ancestor of its own, trained before
THREE = "A -> B; C -> D; D -> E; C <-> E; B <-> F; F <-> G"


@pytest.fixture
def double():
    """Double precision, in which a race that two levels nearly tie is not decided by rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def three(rows=300, **options):
    rng = np.random.default_rng(0)
    # levels of different variables differ in number, so that all that is stacked has to be padded
    levels = {name: 2 + place % 2 for place, name in enumerate("ABCDEFG")}
    table = pd.DataFrame({name: rng.integers(0, size, rows) for name, size in levels.items()})
    trial = pd.DataFrame({name: rng.integers(0, 2, rows) for name in "FG"})
    datasets = [Dataset(table, name="a"), Dataset(trial, do=["F"], name="b")]
    return Setting(THREE, datasets, levels=levels, **options)


def roots(rows=300):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"A": rng.integers(0, 2, rows), "B": rng.integers(0, 3, rows)})
    return Setting("A; B", [Dataset(table, name="a")], levels={"A": 2, "B": 3})


def f7(levels, **options):
    return seven(levels, rows=500, **options)[1]


def problems(setting, config=CONFIG, level=None):
    level = setting.plan.levels[-1] if level is None else setting.plan.levels[level]
    hnodes = [setting.plan.hnodes[place] for place in level]
    return [setting.problem(*one.variables, config=config, seed=place) for place, one in enumerate(hnodes)]


def furthest(first, second):
    return max(float((first[name] - second[name]).abs().amax()) for name in first if first[name].numel())


class TestEquality:
    def both(self, setting, config=CONFIG):
        found, outcomes = [], []
        for together in (True, False):
            one = setting()
            outcomes.append(one.fit(config, 5, batch_modules=together))
            found.append(one.weights())
        return furthest(*found), *outcomes

    @pytest.mark.parametrize(
        "setting",
        [
            pytest.param(three, id="mixed sizes and do"),
            pytest.param(roots, id="nothing to read"),
            pytest.param(partial(f7, 3), id="ancestors"),
            pytest.param(partial(f7, 2, method="joint"), id="two fits"),
            pytest.param(partial(three, method="joint", hidden=16), id="three fits"),
        ],
    )
    def test_weights_are_those_of_one_h_node_after_another(self, setting, double):
        difference, together, apart = self.both(setting)
        # twelve steps of Adam whose gradients differ by rounding
        assert difference < 1e-9
        assert [(one["distances"], one["missing"]) for one in together] == [
            (one["distances"], one["missing"]) for one in apart
        ]

    def test_in_single_precision_too(self):
        # Adam divides by the size of a gradient, so that one that is nothing but rounding moves a weight by a step
        difference, *_ = self.both(three, AdversarialConfig(steps=2, batch_size=16))
        assert difference < 2 * 2 * 5e-4

    def test_the_place_in_the_stack_changes_nothing(self, double):
        found = []
        for order in ([0, 1, 2], [2, 0, 1], [1, 2]):
            setting = three()
            every = problems(setting, level=0)
            assert len(every) > 2
            train([every[place] for place in order], stacked=True)
            found.append({id(one): [p.detach().clone() for p in one.parameters] for one in every})
            found[-1] = [found[-1][id(every[place])] for place in (1, 2)]
        for other in found[1:]:
            for own, weights in zip(found[0], other, strict=True):
                assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(own, weights, strict=True))

    def test_frozen_mechanisms_keep_every_bit(self):
        setting = f7(3)
        before = setting.weights()
        train(problems(setting, level=1), stacked=True)
        positions = [setting.dcm.position[name] for name in ("W0", "W1")]
        frozen = [name for name in before if name.startswith(tuple(f"_modules_by_position.{p}." for p in positions))]
        assert frozen
        assert all(torch.equal(before[name], one) for name, one in setting.weights().items() if name in frozen)
        assert all(one.requires_grad and one.grad is None for one in setting.dcm.parameters())


class TestEnds:
    def stopping(self, setting, at):
        """Problems that stop improving after so many validations each."""
        every = problems(setting, AdversarialConfig(steps=24, batch_size=8, checks=24, patience=2), level=0)
        for problem, last in zip(every, at, strict=True):
            distances = iter([*np.linspace(0.5, 0.2, last), *[0.6] * 40])
            problem.check = lambda p=problem, d=distances: Distances((next(d),) * len(p.sides), ())
        return every

    def test_each_is_finished_by_itself_and_the_rest_is_packed_anew(self, double):
        weights, steps, sizes = [], [], []
        for stacked in (True, False):
            setting = three()
            at = [2, 3, 12]
            every = self.stopping(setting, at)
            told, records = Told(), Recorder()
            trainer = trainer_of(every, stacked=stacked, progress=told, log=records)
            trainer.run.over = lambda t=trainer: bool(sizes.append(len(t.objective.packed)))
            trainer.train()
            steps.append(trainer.kept_step)
            weights.append(setting.weights())
            checks = [record for record in records.records if record["event"] == "check"]
            ends = [max(r["step"] for r in checks if tuple(r["hnode"]) == p.hnode.variables) for p in every]
            assert ends == [last + 2 for last in at]
            name = tuple(name for problem in every for name in problem.hnode.variables)
            assert (told.started, told.finished) == ({name: 24}, [name])
            assert [record["hnode"] for record in records.trained()] == [list(p.hnode.variables) for p in every]
            assert steps[-1] == at
        assert furthest(*weights) < 1e-9
        assert len(set(sizes)) > 2

    def test_time_ends_all_of_them(self):
        setting = three()
        trainer = trainer_of(problems(setting, level=0), stacked=True, late=lambda: trainer.step == 3)
        trainer.train()
        assert (trainer.step, trainer.alive) == (3, [])

    @pytest.mark.parametrize("stacked", [True, False])
    def test_validations_show_the_best_weights_so_far_and_change_nothing(self, stacked):
        plain, watched = three(), three()
        train(self.stopping(plain, [2, 3, 12]), stacked=stacked)
        every = self.stopping(watched, [2, 3, 12])
        seen = []

        def on_validation():
            shown = [[one.detach().clone() for one in problem.parameters] for problem in every]
            assert all(equal_weights(own, problem.kept) for own, problem in zip(shown, every, strict=True))
            seen.append(shown)

        train(every, stacked=stacked, on_validation=on_validation)
        assert equal(plain.weights(), watched.weights())
        # the last that goes on does so to step 14
        assert len(seen) == 14
        assert not equal_weights(seen[0][2], seen[-1][2])

    @pytest.mark.parametrize("stop", [3, 5, 10, 12])
    def test_a_stopped_stack_goes_on_to_the_same_bits(self, stop):
        # before and after an h-node is finished, and after the rest was packed anew
        whole = three()
        at = [2, 8, 12]
        train(self.stopping(whole, at), stacked=True)
        parts = three()
        saved = []

        def between(take):
            if trainer.step == stop:
                saved.append((take(), parts.weights()))

        trainer = trainer_of(
            self.stopping(parts, at), stacked=True, between=between, late=lambda: trainer.step == stop + 1
        )
        trainer.train()
        fresh = three()
        ((snapshot, weights),) = saved
        fresh.dcm.load_state_dict(weights)
        every = self.stopping(fresh, at)
        again = trainer_of(every, stacked=True)
        again.restore(*snapshot)
        for problem, validations in zip(every, at, strict=True):
            # those that were taken already
            rest = iter([*np.linspace(0.5, 0.2, validations), *[0.6] * 40][stop:])
            problem.check = lambda p=problem, rest=rest: Distances((next(rest),) * len(p.sides), ())
        again.train()
        assert equal(whole.weights(), fresh.weights())


def equal_weights(left, right):
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


class Told:
    def __init__(self):
        self.started, self.finished, self.steps = {}, [], []

    def start(self, hnode, steps):
        self.started[hnode] = steps

    def step(self, hnode, step):
        assert hnode in self.started
        self.steps.append((hnode, step))

    def finish(self, hnode):
        self.finished.append(hnode)


class TestFailures:
    def training(self):
        setting = three()
        every = problems(setting, AdversarialConfig(steps=6, batch_size=8, checks=6), level=0)
        return setting, trainer_of(every, stacked=True)

    def test_a_loss_that_is_not_finite_names_its_h_node_fit_and_step(self):
        _, trainer = self.training()
        bad = trainer.objective.problems[1]

        def spoil():
            if trainer.step == 2:
                trainer.objective.stack._trained[1][-1].views[0].fill_(torch.nan)
            return False

        trainer.run.over = spoil
        names = ", ".join(bad.hnode.variables)
        with pytest.raises(MdcmError, match=rf"h-node \{{{names}\}} diverged: the .* step 3"):
            trainer.train()
        assert trainer.kept_step == [2] * 3
        assert all(bool(one.isfinite().all()) for problem in trainer.objective.problems for one in problem.kept)

    def test_an_infinite_critic_names_its_h_node(self):
        _, trainer = self.training()
        bad = trainer.objective.problems[0]

        def spoil():
            if trainer.step == 1:
                trainer.objective.stack.critics.flat[0].fill_(torch.inf)
            return False

        trainer.run.over = spoil
        names = ", ".join(bad.hnode.variables)
        with pytest.raises(MdcmError, match=rf"h-node \{{{names}\}} diverged: the critic .* step 2"):
            trainer.train()


class TestLoads:
    def loads(self, setting):
        return [CriticLoad.of(setting.dcm, hnode, setting.data, CONFIG) for hnode in setting.plan.hnodes]

    def test_what_is_no_plain_categorical_mechanism_is_trained_alone(self):
        class Own(Categorical):
            pass

        plain = self.loads(three())
        assert None not in plain
        own = three(factories={"D": Own})
        assert [one is None for one in self.loads(own)] == ["D" in str(one.fits) for one in own.plan.hnodes]
        wide = three(factories={"D": partial(Categorical, hidden=48)})
        mixed = [one.variables for one, size in zip(wide.plan.hnodes, self.loads(wide), strict=True) if size is None]
        assert mixed == [("C", "E")]
        assert group([None, None]) == [[0], [1]]

    def test_stacks_are_of_one_shape_and_not_too_large(self):
        config = AdversarialConfig(batch_size=200)
        small, large, other = (
            CriticLoad((hidden, 2), width, 1, slots, config)
            for hidden, width, slots in ((32, 6, 1), (32, 900, 4), (16, 6, 1))
        )
        assert sorted(group([small, other, large, small, other], MOST_CRITIC_WORK)) == [[0, 3], [1, 4], [2]]
        found = group([small] * 1000, MOST_CRITIC_WORK)
        assert sorted(index for stack in found for index in stack) == list(range(1000))
        assert 5 < len(found[0]) < 50

    def test_a_model_is_the_same_with_and_without(self, double):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({name: rng.integers(0, 3, 300) for name in "ABCD"})
        found = []
        for batch in (True, False):
            config = mdcm.TrainConfig(batch_modules=batch, adversarial=CONFIG)
            model = mdcm.fit("A -> B; C -> D; A <-> B", table, objective="adversarial", config=config, seed=3)
            found.append(model.dcm.state_dict())
            records = [one for one in model.history if one["event"] == "trained"]
            assert {tuple(one["hnode"]) for one in records} == {("A", "B"), ("C",), ("D",)}
            json.dumps(model.history)
        assert furthest(*found) < 1e-9


class TestCritics:
    def test_joined_and_parted_keep_every_bit(self):
        masks = [[torch.tensor([True, True])], [torch.tensor([True] * 5), torch.tensor([False, True, True])]]
        parts = [
            Critics(one, hidden=8, layers=2, generator=torch.Generator().manual_seed(seed))
            for seed, one in enumerate(masks)
        ]
        for part in parts:
            rows = torch.rand(2, len(part.generated), 4, part.width)
            part.step(*rows, torch.rand(len(part.generated), 4, 1), rate=1e-2)
        before = [part.state() for part in parts]
        joined = Critics.joined(parts)
        assert joined.width == 5
        joined.split(parts)
        for part, state in zip(parts, before, strict=True):
            assert equal(part.state(), state)

    def test_one_that_is_released_keeps_every_bit(self):
        masks = [torch.tensor([True, True]), torch.tensor([True, True])]
        critics = Critics(masks, hidden=8, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)

        def step():
            rows, share = torch.rand(2, 2, 4, 2, generator=generator), torch.rand(2, 4, 1, generator=generator)
            critics.step(*rows, share, rate=1e-2)

        step()
        before = critics.state()["flat"]
        critics.release(1)
        step()
        after = critics.state()["flat"]
        assert torch.equal(before[1], after[1])
        assert not torch.equal(before[0], after[0])


def test_a_mechanism_without_relaxed_draws_generates_where_it_is_not_trained():
    class Codes(Categorical):
        relaxed = Mechanism.relaxed

    setting = three(factories={"D": Codes})
    hnode = setting.hnode("C", "E")
    assert CriticLoad.of(setting.dcm, hnode, setting.data, CONFIG) is None
    train([setting.problem("C", "E", config=CONFIG)])
