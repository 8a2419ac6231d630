"""H-nodes stepped as one: the weights that each has alone, each until it is finished, whoever else is in the stack."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from test_adversarial import Setting, equal
from test_adversarial import f7 as seven

import mdcm
from mdcm.data import Dataset
from mdcm.errors import MdcmError
from mdcm.mechanisms import Categorical, Mechanism
from mdcm.training.objectives.adversarial import AdversarialConfig, AdversarialTraining, Check, fit_adversarial
from mdcm.training.objectives.critics import Critics
from mdcm.training.objectives.tiles import Size, tiles

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
            outcomes.append(fit_adversarial(one.dcm, one.plan, one.data, config, 5, batch_modules=together))
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
        assert [one.check for one in together] == [one.check for one in apart]

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
            AdversarialTraining([every[place] for place in order], stacked=True).train()
            found.append({id(one): [p.detach().clone() for p in one.parameters] for one in every})
            found[-1] = [found[-1][id(every[place])] for place in (1, 2)]
        for other in found[1:]:
            for own, weights in zip(found[0], other, strict=True):
                assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(own, weights, strict=True))

    def test_frozen_mechanisms_keep_every_bit(self):
        setting = f7(3)
        before = setting.weights()
        AdversarialTraining(problems(setting, level=1), stacked=True).train()
        positions = [setting.dcm.position[name] for name in ("W0", "W1")]
        frozen = [name for name in before if name.startswith(tuple(f"_modules_by_position.{p}." for p in positions))]
        assert frozen
        assert all(torch.equal(before[name], one) for name, one in setting.weights().items() if name in frozen)
        assert all(one.requires_grad and one.grad is None for one in setting.dcm.parameters())


class TestEnds:
    def stopping(self, setting, at):
        """Problems that stop improving after so many looks each."""
        every = problems(setting, AdversarialConfig(steps=24, batch_size=8, checks=24, patience=2), level=0)
        for problem, last in zip(every, at, strict=True):
            looks = iter([*np.linspace(0.5, 0.2, last), *[0.6] * 40])
            problem.check = lambda looks=looks: Check((next(looks),), ())
        return every

    def test_each_is_finished_by_itself_and_the_rest_is_packed_anew(self, double):
        weights, steps, sizes = [], [], []
        for stacked in (True, False):
            setting = three()
            at = [2, 3, 12]
            training = AdversarialTraining(self.stopping(setting, at), stacked=stacked)
            told = Told()
            records = []
            outcomes = training.train(
                progress=told, log=records.append, late=lambda t=training: sizes.append(len(t.packed))
            )
            steps.append([one.steps for one in outcomes])
            weights.append(setting.weights())
            assert [one.done for one in training.problems] == [last + 2 for last in at]
            assert [r["hnode"] for r in records if r["event"] == "trained"] == [
                list(one.hnode.variables) for one in training.problems
            ]
            assert set(told.started) == {one.hnode.variables for one in training.problems}
            assert told.finished == [one.hnode.variables for one in training.problems]
            assert steps[-1] == at
        assert furthest(*weights) < 1e-9
        assert len(set(sizes)) > 2

    def test_time_ends_all_of_them(self):
        setting = three()
        training = AdversarialTraining(problems(setting, level=0), stacked=True)
        outcomes = training.train(late=lambda: training.problems[0].done == 3)
        assert [one.done for one in training.problems] == [3] * len(outcomes)
        assert not training.alive

    @pytest.mark.parametrize("stacked", [True, False])
    def test_looks_see_the_best_weights_so_far_and_change_nothing(self, stacked):
        plain, looked = three(), three()
        AdversarialTraining(self.stopping(plain, [2, 3, 12]), stacked=stacked).train()
        training = AdversarialTraining(self.stopping(looked, [2, 3, 12]), stacked=stacked)
        seen = []

        def look():
            shown = [[one.detach().clone() for one in problem.parameters] for problem in training.problems]
            assert all(equal_weights(own, problem.kept) for own, problem in zip(shown, training.problems, strict=True))
            seen.append(shown)

        training.train(look=look)
        assert equal(plain.weights(), looked.weights())
        # the last that goes on does so to step 14
        assert len(seen) == 14
        assert not equal_weights(seen[0][2], seen[-1][2])

    @pytest.mark.parametrize("stop", [3, 5, 10, 12])
    def test_a_stopped_stack_goes_on_to_the_same_bits(self, stop):
        # before and after an h-node is finished, and after the rest was packed anew
        whole = three()
        at = [2, 8, 12]
        AdversarialTraining(self.stopping(whole, at), stacked=True).train()
        parts = three()
        training = AdversarialTraining(self.stopping(parts, at), stacked=True)
        saved = []

        def late():
            done = max(one.done for one in training.problems)
            if done == stop:
                saved.append((training.state(), parts.weights()))
            return done == stop + 1

        training.train(late=late)
        fresh = three()
        fresh.dcm.load_state_dict(saved[0][1])
        again = AdversarialTraining(self.stopping(fresh, at), stacked=True)
        again.restore(saved[0][0])
        for problem, looks in zip(again.problems, at, strict=True):
            # the looks that were taken already
            rest = iter([*np.linspace(0.5, 0.2, looks), *[0.6] * 40][problem.done :])
            problem.check = lambda rest=rest: Check((next(rest),), ())
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
        return setting, AdversarialTraining(every, stacked=True)

    def test_a_loss_that_is_not_finite_names_its_h_node_fit_and_step(self):
        setting, training = self.training()
        bad = training.problems[1]

        def spoil():
            if bad.done == 2:
                training.stack._own[1][-1].views[0].fill_(torch.nan)
            return False

        names = ", ".join(bad.hnode.variables)
        with pytest.raises(MdcmError, match=rf"h-node \{{{names}\}} diverged: the .* step 3"):
            training.train(late=spoil)
        # whoever reads the model finds the best weights of all of them
        for problem in training.problems:
            assert problem.kept_step == 2
            assert all(torch.equal(a, b) for a, b in zip(problem.parameters, problem.kept, strict=True))
        assert all(bool(one.isfinite().all()) for one in setting.dcm.parameters())

    def test_an_infinite_critic_names_its_h_node(self):
        _, training = self.training()
        bad = training.problems[0]

        def spoil():
            if bad.done == 1:
                training.stack.critics.flat[0].fill_(torch.inf)
            return False

        names = ", ".join(bad.hnode.variables)
        with pytest.raises(MdcmError, match=rf"h-node \{{{names}\}} diverged: the critic .* step 2"):
            training.train(late=spoil)


class TestTiles:
    def sizes(self, setting):
        return [Size.of(setting.dcm, hnode, setting.data) for hnode in setting.plan.hnodes]

    def test_what_is_no_plain_categorical_mechanism_is_trained_alone(self):
        class Own(Categorical):
            pass

        plain = self.sizes(three())
        assert None not in plain
        own = three(factories={"D": Own})
        assert [one is None for one in self.sizes(own)] == ["D" in str(one.fits) for one in own.plan.hnodes]
        wide = three(factories={"D": partial(Categorical, hidden=48)})
        mixed = [one.variables for one, size in zip(wide.plan.hnodes, self.sizes(wide), strict=True) if size is None]
        assert mixed == [("C", "E")]
        assert tiles([None, None], CONFIG) == [[0], [1]]

    def test_tiles_are_of_one_shape_and_not_too_large(self):
        small, large, other = Size((32, 2), 6, 1, 1), Size((32, 2), 600, 1, 4), Size((16, 2), 6, 1, 1)
        assert sorted(tiles([small, other, large, small, other], CONFIG)) == [[0, 3], [1, 4], [2]]
        found = tiles([small] * 1000, AdversarialConfig(batch_size=200))
        assert sorted(place for tile in found for place in tile) == list(range(1000))
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
        joined.part(parts)
        for part, state in zip(parts, before, strict=True):
            assert equal(part.state(), state)

    def test_one_that_is_not_active_keeps_every_bit(self):
        masks = [torch.tensor([True, True]), torch.tensor([True, True])]
        critics = Critics(masks, hidden=8, generator=torch.Generator().manual_seed(0))
        critics.active[1] = False
        before = critics.state()
        generator = torch.Generator().manual_seed(1)
        critics.step(*torch.rand(2, 2, 4, 2, generator=generator), torch.rand(2, 4, 1, generator=generator), rate=1e-2)
        after = critics.state()
        assert all(torch.equal(before[name][1], after[name][1]) for name in before)
        assert not torch.equal(before["flat"][0], after["flat"][0])


def test_a_mechanism_without_relaxed_draws_generates_where_it_is_not_trained():
    class Codes(Categorical):
        relaxed = Mechanism.relaxed

    setting = three(factories={"D": Codes})
    hnode = setting.hnode("C", "E")
    assert Size.of(setting.dcm, hnode, setting.data) is None
    AdversarialTraining([setting.problem("C", "E", config=CONFIG)]).train()
