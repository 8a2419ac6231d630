"""Adversarial training: what is compared, what is trained, and how close it comes to the truth."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from critics import masks, trainer_of
from critics import train as train_all
from learning import read_out, seven_variables, voted, without_confounder

import mdcm
from mdcm.data import Dataset, Schema, Variable, encode
from mdcm.dcm import DCM
from mdcm.errors import MdcmError, PlanError
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical, Mechanism
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.planning import DatasetSpec, plan
from mdcm.scm import random_discrete
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig
from mdcm.training.objectives.comparison import Distances, compare
from mdcm.training.objectives.critic_problem import AdversarialProblem
from mdcm.training.objectives.critics import Critics
from mdcm.training.objectives.generators import gumbel_
from mdcm.training.pooled_rows import Layout, PooledRows

FIGURE_2 = "X1 -> Z1; Z3 -> Z1; Z1 -> Z2; Z1 -> X2; X1 <-> X2; Z1 <-> Z2; Z1 <-> Z3"
FRONT_DOOR = "X -> Z -> Y; X <-> Y"
BRIEF = AdversarialConfig(steps=3, checks=1)
# a higher rate than the default one suits runs this short
QUICK = AdversarialConfig(steps=500, checks=8, learning_rate=1e-3)


class Setting:
    """A graph, data sets, a plan for them and an untrained model."""

    def __init__(self, graph, datasets, *, states=4, seed=0, levels=2, hidden=32, factories=None, **options):
        graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
        # variables may be missing from every table, as hidden ones of a test are not
        sizes = levels if isinstance(levels, dict) else dict.fromkeys(graph.nodes, levels)
        self.known = known = {name: {"levels": list(range(sizes[name]))} for name in graph.nodes}
        self.states, self.method = states, options.get("method", "minimal")
        self.datasets = datasets
        self.schema = Schema.infer(datasets, known)
        self.data = {one.name: encode(one, self.schema) for one in datasets}
        specs = [
            DatasetSpec(one.name, [c for c in one.columns if c in graph.nodes], dict.fromkeys(one.do), len(one))
            for one in datasets
        ]
        self.plan = plan(graph, specs, objective="adversarial", **options)
        self.graph = graph
        self.mechanisms = {name: partial(Categorical, hidden=hidden) for name in graph.nodes} | (factories or {})
        latents = {name: states for name, _ in graph.confounders}
        self.dcm = DCM(graph, self.schema, latents, self.mechanisms, seed=seed)

    def hnode(self, *names):
        return next(one for one in self.plan.hnodes if one.variables == tuple(sorted(names)))

    def problem(self, *names, config=BRIEF, seed=0, **options):
        hnode = self.hnode(*names)
        options.setdefault("held_out", masks(hnode, self.data, seed))
        return AdversarialProblem(self.dcm, hnode, self.data, config, seed, **options)

    def fit(self, config, seed=0, **options):
        """The same model as :func:`mdcm.fit` trains it."""
        self.model = mdcm.fit(
            self.graph,
            self.datasets,
            objective="adversarial",
            method=self.method,
            variables=self.known,
            mechanisms=self.mechanisms,
            config=TrainConfig(adversarial=config, confounder_states=self.states, **options),
            seed=seed,
        )
        self.dcm = self.model.dcm
        return [record for record in self.model.history if record["event"] == "trained"]

    def weights(self):
        return {name: one.clone() for name, one in self.dcm.state_dict().items()}


def front_door(rows=4000, levels=2, **options):
    truth = random_discrete(ADMG.from_string(FRONT_DOOR), levels=levels, seed=1, latent_levels=2)
    return truth, Setting(FRONT_DOOR, [Dataset(truth.sample(rows, seed=2), name="d1")], levels=levels, **options)


def f7(levels=2, rows=20_000, **options):
    problem = seven_variables(levels)
    columns = {"D1": ["X0", "X1", "X2", "W1", "Y1"], "D2": ["X0", "X1", "X2", "W0", "W1", "Y0"]}
    datasets = [Dataset(problem.table[:rows][names], name=name) for name, names in columns.items()]
    return problem.truth, Setting(problem.graph, datasets, levels=levels, **options)


def train(problem, **options):
    (record,) = train_all([problem], **options)
    return record


def drawn(problem, given, rows):
    """Generated rows with noise of the seed 0."""
    generator = torch.Generator().manual_seed(0)
    race = gumbel_(torch.rand(rows, problem.generators.width, generator=generator))
    return problem.generators.draw(given, race, 1.0, generator).values[0]


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


class TestRows:
    def test_every_fit_has_its_own_columns_and_critic(self):
        _, setting = f7(rows=500)
        problem = setting.problem("X0", "Y0")
        (side,) = problem.sides
        assert [one.name for one in side.layout.variables] == ["W0", "W1", "X0", "X1", "X2", "Y0"]
        assert (side.generated, side.given) == (("X0", "W0", "W1", "Y0"), ("X1", "X2"))
        _, joint = f7(rows=500, method="joint")
        problem = joint.problem(*joint.graph.nodes)
        assert [len(side.layout.variables) for side in problem.sides] == [5, 6]
        # two critics, the narrower one padded, and no padded column counts in the penalty
        assert problem.critics.flat.shape[0] == 2
        assert problem.critics.columns.sum(1).tolist() == [10.0, 12.0]

    def test_generated_rows_have_the_parents_of_the_real_rows(self):
        _, setting = f7(rows=500)
        problem = setting.problem("X0", "Y0")
        (side,) = problem.sides
        batch = problem._batch(1)
        fake = problem._fake(batch, 1.0)
        for name in ("X1", "X2"):
            columns = side.layout.slices[name]
            assert torch.equal(fake[0, :, columns], batch.real[0, :, columns])
        columns = side.layout.slices["X0"]
        assert not torch.equal(fake[0, :, columns], batch.real[0, :, columns])

    def test_what_is_set_is_given_and_its_values_are_those_of_the_rows(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"X": rng.integers(0, 2, 400), "Y": rng.integers(0, 2, 400)})
        datasets = [Dataset(table, name="a"), Dataset(table, do=["X"], name="b")]
        setting = Setting("X -> Y; X <-> Y", datasets)
        problem = setting.problem("X", "Y")
        assert [(side.generated, side.given) for side in problem.sides] == [(("X", "Y"), ()), (("Y",), ("X",))]
        # in the second fit X is given, and no gradient in its columns counts
        assert problem.critics.columns.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]

    def test_a_member_that_is_not_observed_is_generated_and_not_compared(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({name: rng.integers(0, 2, 400) for name in "XYZ"})
        datasets = [Dataset(table, name="a"), Dataset(table[["X", "Z"]], name="b")]
        setting = Setting("X -> Y -> Z", datasets, method="joint")
        first, second = setting.problem("X", "Y", "Z").sides
        assert first.compared == ["X", "Y", "Z"]
        assert (second.generated, second.compared) == (("X", "Y", "Z"), ["X", "Z"])

    def test_pooled_rows_count_by_data_set_and_weight(self):
        # 30 rows of X = 0 and 10 of X = 1 and 2, of which the weight says that the latter is nine times as frequent
        first = Dataset({"X": [0] * 30}, name="a")
        second = Dataset({"X": [1] * 5 + [2] * 5}, weights=[1.0] * 5 + [9.0] * 5, name="b")
        schema = Schema([Variable("X", "categorical", (0, 1, 2))])
        encoded = [encode(one, schema) for one in (first, second)]
        rows = PooledRows.build(Layout([schema["X"]]), encoded, [np.ones(one.rows, dtype=bool) for one in encoded])
        assert rows.packed.tolist() == torch.eye(3).tolist()
        assert np.allclose(rows.weight, [30 / 40, 10 / 40 * 0.1, 10 / 40 * 0.9])
        at = rows.at((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
        assert torch.bincount(at).tolist() == [750, 25, 225]

    def test_numbers_lie_beside_levels(self):
        rng = np.random.default_rng(0)
        dataset = Dataset({"X": rng.integers(0, 2, 200), "T": rng.normal(size=200)}, name="a")
        schema = Schema.infer([dataset])
        encoded = encode(dataset, schema)
        layout = Layout([schema["T"], schema["X"]])
        rows = PooledRows.build(layout, [encoded], [np.ones(200, dtype=bool)])
        packed, values = rows.values(torch.arange(200))
        assert torch.equal(layout.pack(values), packed)
        assert sorted(values["T"].tolist()) == sorted(encoded["T"].tolist())


class TestCritics:
    def test_a_step_is_that_of_autograd_and_adam(self):
        masks = [torch.tensor([True, True, False]), torch.tensor([True, True, True, True])]
        critics = Critics(masks, hidden=8, layers=2, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        fake, real = torch.randn(2, 2, 6, 4, generator=generator)
        fake[0, :, 3] = real[0, :, 3] = 0
        share = torch.rand(2, 6, 1, generator=generator)
        for module, width in enumerate((3, 4)):
            parts = [one[module].clone().requires_grad_() for one in critics._parameters.tensors()]
            w1, w2, b1, b2, out, offset = parts

            def value(x, w1=w1, w2=w2, b1=b1, b2=b2, out=out, offset=offset):
                act = torch.nn.functional.leaky_relu
                return act(act(x @ w1.T + b1, 0.2) @ w2.T + b2, 0.2) @ out + offset

            between = torch.lerp(fake[module], real[module], share[module]).requires_grad_()
            (slope,) = torch.autograd.grad(value(between).sum(), between, create_graph=True)
            counted = torch.zeros(4)
            counted[:width] = masks[module].float()
            norm = (slope * counted).norm(dim=1)
            loss = value(fake[module]).mean() - value(real[module]).mean() + 10 * (norm - 1).square().mean()
            grads = torch.autograd.grad(loss, parts)
            optimiser = torch.optim.Adam(parts, 1e-2, (0.5, 0.9))
            for part, grad in zip(parts, grads, strict=True):
                part.grad = grad
            optimiser.step()
            parts_of = critics.state()
            found = critics.step(fake, real, share, 1e-2)[module]
            assert float(found) == pytest.approx(loss.item(), rel=1e-4)
            for ours, theirs in zip(critics._parameters.tensors(), parts, strict=True):
                # Adam's first step is the sign of the gradient, whatever its size: compared where it is not rounding
                assert torch.allclose(ours[module], theirs, atol=1e-4)
            critics.restore(parts_of)

    def test_a_one_sided_penalty_lets_a_critic_be_flat(self):
        masks = [torch.tensor([True, True])]
        losses = {}
        for one_sided in (True, False):
            critics = Critics(masks, hidden=4, penalty=10.0, one_sided=one_sided)
            # all weights are zero, and so are all gradients
            losses[one_sided] = float(critics.step(*torch.rand(2, 1, 5, 2), torch.rand(1, 5, 1), rate=1e-3))
        assert losses == {True: 0.0, False: 10.0}

    def test_without_generated_columns_is_refused(self):
        with pytest.raises(ValueError, match="generated"):
            Critics([torch.zeros(3, dtype=torch.bool)])


class TestGradients:
    def test_reach_mechanisms_and_priors_and_nothing_else(self):
        _, setting = front_door(500)
        before = setting.weights()
        train(setting.problem("X", "Y"))
        after = setting.weights()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        z = setting.dcm.position["Z"]
        frozen = {name for name in before if name.startswith(f"_modules_by_position.{z}.")}
        assert frozen
        assert not moved & frozen
        trained = {name for name, _ in setting.dcm.named_parameters()} - frozen
        assert trained <= moved
        assert any(name.startswith("priors") for name in moved)
        # parameters are left ready for whoever trains next
        assert all(one.requires_grad and one.grad is None for one in setting.dcm.parameters())

    def test_pass_through_frozen_ancestors(self):
        # with a critic that looks at Z alone, only the way X -> Z can move X
        _, setting = front_door(500)
        problem = setting.problem("X", "Y")
        (side,) = problem.sides
        value = (drawn(problem, [{}], 100)["Z"] * torch.tensor([1.0, -1.0])).sum()
        grads = torch.autograd.grad(value, list(setting.dcm.mechanism("X").parameters()))
        assert side.fit.ancestors == ("Z",)
        assert all(bool(grad.abs().sum() > 0) for grad in grads)

    def test_children_of_a_confounder_share_its_state(self):
        graph = ADMG.from_string("X <-> Y")
        table = pd.DataFrame({"X": [0, 1] * 50, "Y": [0, 1] * 50})
        setting = Setting(graph, [Dataset(table, name="d1")], states=2)
        with torch.no_grad():
            for name in "XY":
                mechanism = setting.dcm.mechanism(name)
                for parameter in mechanism.parameters():
                    parameter.zero_()
                # the first unit of the network tells the state
                mechanism.states[0][:, 0] = torch.tensor([-50.0, 50.0])
                for layer in mechanism.inner:
                    layer.weight[0, 0] = 1.0
                mechanism.out.weight[1, 0] = 10.0
                mechanism.out.bias.copy_(torch.tensor([100.0, 0.0]))
        problem = setting.problem("X", "Y")
        with torch.no_grad():
            for name in "XY":
                mechanism = setting.dcm.mechanism(name)
                mechanism.out.bias.copy_(torch.tensor([100.0, 0.0]))
            values = drawn(problem, [{}], 1000)
        assert torch.equal(values["X"], values["Y"])
        assert float(values["X"][:, 0].mean()) == pytest.approx(0.5, abs=4 * (0.25 / 1000) ** 0.5)


class TestSeeds:
    def run(self, seed, state):
        torch.manual_seed(state)
        _, setting = f7(rows=400, states=3)
        setting.fit(AdversarialConfig(steps=4, checks=2), seed)
        return setting.weights()

    def test_the_seed_fixes_every_bit_and_another_changes_them(self):
        first, again, other = self.run(0, 1), self.run(0, 2), self.run(1, 1)
        assert equal(first, again)
        assert not equal(first, other)

    def test_global_state_is_left_alone(self):
        before = torch.get_rng_state()
        _, setting = front_door(200)
        train(setting.problem("X", "Y"))
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_stopped_run_goes_on_to_the_same_bits(self):
        config = AdversarialConfig(steps=8, checks=4)
        _, whole = front_door(400)
        train(whole.problem("X", "Y", config=config))
        _, parts = front_door(400)
        saved = []

        def between(take):
            if trainer.step == 4:
                saved.append(take())

        trainer = trainer_of([parts.problem("X", "Y", config=config)], between=between, late=lambda: trainer.step == 5)
        trainer.train()
        _, fresh = front_door(400)
        again = trainer_of([fresh.problem("X", "Y", config=config)])
        again.restore(*saved[0])
        again.train()
        assert again.step == 8
        assert equal(whole.weights(), fresh.weights())


class TestJudging:
    def test_a_level_that_is_never_generated_is_named(self):
        table = pd.DataFrame({"X": [0] * 3600 + [1] * 400, "Y": [0, 1] * 2000})
        setting = Setting("X -> Y", [Dataset(table, name="d1")])
        problem = setting.problem("X")
        with torch.no_grad():
            setting.dcm.mechanism("X").out.bias.copy_(torch.tensor([1e4, -1e4]))
        problem.average = [one.detach().clone() for one in problem.parameters]
        check = problem.check()
        assert check.missing == (("X", 1),)
        # all rows are generated with X = 0, so that the distance is the held-out share of the other level
        (side,) = problem.sides
        missed = sum(w for x, w in zip(side.held.codes["X"].tolist(), side.held.weight.tolist(), strict=True) if x == 1)
        assert check.mean == pytest.approx(missed, abs=1e-6)

    def test_a_confounder_that_nothing_depends_on_is_named(self):
        _, setting = front_door(400)
        problem = setting.problem("X", "Y")
        assert problem.idle() == ()
        with torch.no_grad():
            setting.dcm.mechanism("Y").states[0].zero_()
        problem.average = [one.detach().clone() for one in problem.parameters]
        assert problem.idle() == ("U[X,Y]",)

    def test_the_distance_is_that_of_the_held_out_rows(self):
        _, setting = front_door(2000)
        problem = setting.problem("X", "Y")
        (side,) = problem.sides
        assert side.held.rows == 200
        model = read_out(setting.dcm)
        real = pd.DataFrame({name: codes.numpy() for name, codes in side.held.codes.items()})
        real = real.assign(p=side.held.weight.numpy()).groupby(["X", "Y", "Z"])["p"].sum()
        names = ["X", "Y", "Z"]
        exact = model.exact(names)
        # off by at most the distance of 20,000 generated rows to what they are drawn from: its mean, and what
        # McDiarmid's inequality adds with a probability of one in a million, as one row changes it by 1 / 20,000
        draws = 20_000
        bound = sampling_floor(exact, draws) + (np.log(1e6) / (2 * draws)) ** 0.5
        assert problem.check().mean == pytest.approx(tv_distance(real, exact), abs=bound)

    def test_patience_ends_training_and_the_best_weights_stay(self):
        _, setting = front_door(400)
        problem = setting.problem("X", "Y", config=AdversarialConfig(steps=60, checks=60, patience=4))
        distances = iter([0.5, 0.3, *[0.4] * 60])
        problem.check = lambda: Distances((next(distances),), ())
        trainer = trainer_of([problem])
        trainer.train()
        assert (trainer.kept_step, trainer.step) == ([2], 6)

    def test_continuous_columns_are_compared_by_energy(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, 6000)
        datasets = [Dataset({"X": x, "T": x + rng.normal(size=6000)}, name="d1")]
        schema = Schema.infer(datasets)
        graph = ADMG.from_string("X -> T; X <-> T")
        p = plan(graph, [DatasetSpec("d1")], objective="adversarial", kinds={"T": "implicit"})
        dcm = DCM(graph, schema, {"U[X,T]": 3}, {"T": Line})
        problem = AdversarialProblem(
            dcm,
            p.hnodes[0],
            {"d1": encode(datasets[0], schema)},
            AdversarialConfig(steps=300, checks=3, learning_rate=2e-2),
            held_out=masks(p.hnodes[0], {"d1": encode(datasets[0], schema)}),
        )
        # the best that does not depend on X: real rows, whose T are those of others
        (side,) = problem.sides
        at = torch.arange(side.held.rows)
        _, values = side.held.values(at)
        others = torch.randperm(len(at), generator=torch.Generator().manual_seed(0))
        shuffled = {"X": values["X"].argmax(1), "T": values["T"][others]}
        independent = compare(problem.sides, [shuffled], [at], {}).mean
        assert problem.check().mean > independent
        assert train(problem)["heldout"] < independent


class Line(Mechanism):
    """A user's own mechanism: a line in a categorical parent, a confounder and noise."""

    noise_size = 1

    def __init__(self, variable, parents, latents):
        super().__init__(variable, parents, latents)
        self.slope = torch.nn.Parameter(torch.zeros(parents[0].num_levels))
        self.shift = torch.nn.Parameter(torch.zeros(latents[0]))
        self.spread = torch.nn.Parameter(torch.full((), 0.1))

    def forward(self, parents, latents, noise):
        (parent,), (state,) = parents.values(), latents
        places = [
            one @ weight if one.is_floating_point() else weight[one]
            for one, weight in ((parent, self.slope), (state, self.shift))
        ]
        return sum(places) + self.spread * noise[:, 0]

    def conditional_loss(self, parents, value, generator):
        raise AssertionError("what a critic trains is not asked for a loss of its own")

    def config(self):
        return {}


class TestFailures:
    def test_a_loss_that_is_not_finite_names_hnode_fit_and_step(self):
        _, setting = front_door(300)
        problem = setting.problem("X", "Y", config=AdversarialConfig(steps=5, checks=5))
        problem.step(1), problem.step(2)
        with torch.no_grad():
            setting.dcm.mechanism("Y").out.weight.fill_(torch.nan)
        with pytest.raises(MdcmError, match=r"h-node \{X, Y\} diverged: the generator loss .*P\(X, Y, Z\).* step 3"):
            problem.step(3)

    def test_an_infinite_gradient_is_noticed(self):
        _, setting = front_door(300)
        problem = setting.problem("X", "Y")
        (parameter, *_) = setting.dcm.mechanism("Y").parameters()
        parameter.register_hook(lambda grad: grad * torch.inf)
        with pytest.raises(MdcmError, match=r"generator loss or its gradient .* step 1"):
            problem.step(1)

    def test_a_likelihood_fit_is_refused(self):
        _, setting = front_door(300)
        p = plan(setting.graph, [DatasetSpec("d1")])
        with pytest.raises(PlanError, match="likelihood"):
            AdversarialProblem(setting.dcm, p.hnodes[0], setting.data, BRIEF)

    def test_a_mechanism_without_relaxed_draws_is_refused(self):
        class Codes(Categorical):
            relaxed = Mechanism.relaxed

        truth, _ = front_door(300)
        setting = Setting(FRONT_DOOR, [Dataset(truth.sample(300), name="d1")], factories={"X": Codes})
        with pytest.raises(PlanError, match="relaxed"):
            setting.problem("X", "Y")

    def test_rates_and_temperatures_fall(self):
        config = AdversarialConfig(steps=100, temperature=(1.0, 0.2), cooling=0.5)
        assert config.schedule(1) == (1.0, 1.0)
        temperature, rate = config.schedule(51)
        assert (temperature, rate) == (pytest.approx(0.2), pytest.approx(0.02 + 0.98 / 2))
        temperatures, rates = zip(*(config.schedule(step) for step in range(1, 101)), strict=True)
        assert sorted(temperatures, reverse=True) == list(temperatures)
        assert sorted(rates, reverse=True) == list(rates)
        assert 0.02 <= rates[-1] < 0.021
        # weights of the first steps count equally, those of later ones within a window of five steps
        assert [config.averaging(step) for step in (1, 2, 50)] == [pytest.approx(x) for x in (1 / 2, 1 / 3, 1 / 5)]

    def test_settings_of_the_paper_are_those_of_section_f_1(self):
        paper = AdversarialConfig.paper()
        assert (paper.learning_rate, paper.critic_learning_rate, paper.penalty) == (5e-4, 5e-4, 10.0)
        assert (paper.batch_size, paper.hidden, paper.layers, paper.temperature) == (200, 256, 2, (1.0, 0.1))
        # the penalty of Gulrajani et al. (2017), to whom the paper leaves it, has two sides
        assert (paper.one_sided, paper.critic_steps, paper.betas) == (False, 5, (0.0, 0.9))

    def test_settings_out_of_range_are_refused(self):
        for name, value in (("steps", 0), ("temperature", (1.0, 0.0)), ("betas", (0.5, 1.0)), ("window", 1.0)):
            with pytest.raises(ValueError, match=name):
                AdversarialConfig(**{name: value})
        with pytest.raises(ValueError, match="unknown"):
            AdversarialConfig.from_json({"step": 1})
        assert AdversarialConfig.from_json(AdversarialConfig.paper().to_json()) == AdversarialConfig.paper()


def halfway(truth, other, names, **asked):
    """Half the distance of a true distribution to that of another model: what is nearer is nearer to the truth."""
    return tv_distance(truth.exact(names, **asked), other.exact(names, **asked)) / 2


class TestTruth:
    """Short runs come nearer to the truth than to any model that lacks what is to be learned.

    What lacks it is computed exactly: without the confounder of a pair, or with what was set taken as seen. Its
    distance to the truth is at most the sum of its distance to a model and the model's to the truth, so that a model
    within half of it is nearer to the truth.
    """

    def trained(self, graph, datasets, config=QUICK, **options):
        setting = Setting(graph, datasets, states=2, **options)
        records = setting.fit(config)
        assert all(record["missing"] == [] for record in records)
        return setting, read_out(setting.dcm)

    @pytest.mark.parametrize("method", ["minimal", "joint"])
    def test_front_door(self, method):
        graph = ADMG.from_string(FRONT_DOOR)
        truth = voted(graph)
        _, model = self.trained(graph, [Dataset(truth.sample(10_000, seed=2), name="d1")], method=method)
        names, naive = ["X", "Y", "Z"], without_confounder(truth, "XY")
        assert tv_distance(truth.exact(names), model.exact(names)) < halfway(truth, naive, names)
        for value in (0, 1):
            do, seen = {"X": value}, truth.exact(["Y"], given={"X": value})
            right = truth.exact(["Y"], do=do)
            assert tv_distance(right, model.exact(["Y"], do=do)) < tv_distance(right, seen) / 2

    def test_two_data_sets_of_section_d_2_1(self):
        graph = ADMG.from_string(FIGURE_2)
        truth = voted(graph)
        values = np.random.default_rng(0).integers(0, 2, 10_000)
        seen, trial = truth.sample(10_000, seed=5), truth.sample(10_000, do={"Z1": values}, seed=6)
        datasets = [Dataset(seen, name="d1"), Dataset(trial, do=["Z1"], name="d2")]
        setting, model = self.trained(graph, datasets)
        assert [len(one.fits) for one in setting.plan.hnodes] in ([1, 2], [2, 1])
        pair = ["X1", "X2"]
        assert tv_distance(truth.exact(pair), model.exact(pair)) < halfway(truth, without_confounder(truth, pair), pair)
        rest = [name for name in graph.nodes if name != "Z1"]
        for value in (0, 1):
            right = truth.exact(rest, do={"Z1": value})
            as_seen = truth.exact(rest, given={"Z1": value})
            assert tv_distance(right, model.exact(rest, do={"Z1": value})) < tv_distance(right, as_seen) / 2

    def test_seven_variables_of_section_f_7(self):
        graph = seven_variables(2).graph
        truth = voted(graph)
        columns = {"D1": ["X0", "X1", "X2", "W1", "Y1"], "D2": ["X0", "X1", "X2", "W0", "W1", "Y0"]}
        table = truth.sample(10_000, seed=7)
        datasets = [Dataset(table[names], name=name) for name, names in columns.items()]
        # after 500 steps the last pair is only just learned, and rounding decides
        _, model = self.trained(graph, datasets, replace(QUICK, steps=1000))
        for _, pair in graph.confounders:
            other, names = without_confounder(truth, pair), list(pair)
            assert tv_distance(truth.exact(names), model.exact(names)) < halfway(truth, other, names)

    @pytest.mark.parametrize("graph", [FRONT_DOOR, FIGURE_2])
    def test_what_lacks_a_confounder_differs_in_its_pair_alone(self, graph):
        truth = voted(ADMG.from_string(graph))
        for _, pair in truth.graph.confounders:
            other = without_confounder(truth, pair)
            whole = halfway(truth, other, list(truth.graph.nodes))
            assert halfway(truth, other, list(pair)) == pytest.approx(whole, abs=1e-12)
            assert whole > 0.01
            for name in truth.graph.nodes:
                assert halfway(truth, other, [name]) < 1e-12
