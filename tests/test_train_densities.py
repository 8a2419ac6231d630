"""Continuous children in the likelihood, and draws of the confounders where their sum is too large."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from front_doors import FRONT_DOORS, ROWS
from learning import c_factor_at, read_out

import mdcm
from mdcm import PlanError, TrainConfig
from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.mechanisms import Mechanism
from mdcm.metrics import energy_distance, sampling_floor
from mdcm.scm import random_discrete
from mdcm.training.normal_confounders import grid
from mdcm.training.objectives.problems import ComponentProblem
from mdcm.training.rows import FitRows


class Gaussian(Mechanism):
    """A normal variable, its mean linear in a binary parent and free in the state of each confounder."""

    has_density = True
    noise_size = 1

    def __init__(self, variable, parents, latents):
        super().__init__(variable, parents, latents)
        self.slope = torch.nn.Parameter(torch.zeros(len(parents)))
        self.centre = torch.nn.Parameter(torch.zeros(()))
        self.states = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(size)) for size in latents)
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def mean(self, parents, latents):
        total = self.centre + sum(self.slope[i] * parents[p.name].float() for i, p in enumerate(self.parents))
        return total + sum(weight[state] for weight, state in zip(self.states, latents, strict=True))

    def forward(self, parents, latents, noise):
        return self.mean(parents, latents) + self.log_scale.exp() * noise[:, 0]

    def log_prob(self, parents, latents, value):
        standard = (value - self.mean(parents, latents)) / self.log_scale.exp()
        return -0.5 * standard**2 - self.log_scale - 0.5 * math.log(2 * math.pi)

    def conditional_loss(self, parents, value, generator):
        return -self.log_prob(parents, (), value)

    def config(self):
        return {"type": "gaussian line"}


def mixed(rows, seed=0):
    """X -> T with X <-> T: X binary, T normal, both moved by a hidden coin."""
    rng = np.random.default_rng(seed)
    u = rng.random(rows) < 0.5
    x = (rng.random(rows) < np.where(u, 0.8, 0.2)).astype(int)
    return pd.DataFrame({"X": x, "T": 1.0 * x + 2.0 * u + 0.5 * rng.normal(size=rows)})


OWN = {"T": lambda variable, parents, latents: Gaussian(variable, parents, latents)}


def problem(table, states=3, draws=None):
    graph = ADMG.from_string("X -> T; X <-> T")
    schema = Schema([Variable("X", "categorical", (0, 1)), Variable("T", "continuous")])
    dcm = DCM(graph, schema, {"U[X,T]": states}, OWN)
    torch.manual_seed(1)
    with torch.no_grad():
        dcm.priors[0].copy_(torch.randn(states))
    values = {"X": torch.tensor(table["X"].to_numpy()), "T": torch.tensor(table["T"].to_numpy(), dtype=torch.float32)}
    fit = FitRows(("X", "T"), values, None, torch.arange(len(table)))
    return dcm, values, ComponentProblem(dcm, ["X", "T"], [fit], TrainConfig(), 0, draws)


def test_a_continuous_child_is_a_mixture_over_the_states():
    table = mixed(200)
    dcm, values, made = problem(table)
    prior = dcm.priors[0].softmax(0)
    total = torch.zeros(200)
    for state in range(3):
        states = torch.full((200,), state)
        own = dcm.mechanism("X").log_prob({}, [states], values["X"])
        other = dcm.mechanism("T").log_prob({"X": values["X"]}, [states], values["T"])
        total = total + prior[state] * (own + other).exp()
    assert float(made.loss(1).detach()) == pytest.approx(float(-total.log().mean().detach()), rel=1e-5)


def test_the_effect_on_a_confounded_continuous_variable():
    # X -> M -> T, and a hidden coin behind X and T: the effect of M on T is that given X, averaged over X
    rows = 6000
    rng = np.random.default_rng(0)
    u = rng.random(rows) < 0.5
    x = (rng.random(rows) < np.where(u, 0.9, 0.1)).astype(int)
    m = (rng.random(rows) < np.where(x, 0.9, 0.1)).astype(int)
    table = pd.DataFrame({"X": x, "M": m, "T": m + 2.0 * u + 0.5 * rng.normal(size=rows)})
    model = mdcm.fit("X -> M -> T; X <-> T", table, mechanisms=OWN)
    mean = [model.draw_samples(20_000, do={"M": value}).table["T"].mean() for value in (0, 1)]
    naive = table["T"][m == 1].mean() - table["T"][m == 0].mean()
    assert naive > 2
    # a tenth of either half of the rows carries the comparison at given X: some 500 rows of spread 1, twice
    assert abs(mean[1] - mean[0] - 1.0) < 3 * np.sqrt(2 / 500)


def test_a_confounded_variable_without_a_density_is_refused():
    class Blind(Gaussian):
        has_density = False

    with pytest.raises(PlanError, match="mechanism with log_prob"):
        mdcm.fit(
            "X -> T; X <-> T",
            mixed(100),
            mechanisms={"T": lambda v, p, s: Blind(v, p, s)},
            config=TrainConfig(max_steps=1),
        )


class TestMonteCarlo:
    def test_converges_to_the_exact_sum_from_above(self):
        table = mixed(400)
        _, _, exact = problem(table)
        wanted = float(exact.loss(1).detach())
        means = []
        for draws in (4, 64, 1024):
            _, _, made = problem(table, draws=draws)
            means.append(np.mean([float(made.loss(step).detach()) for step in range(40)]))
        # by Jensen's inequality the likelihood is too low, by O(1 / draws)
        assert means[0] > means[1] > wanted - 0.002
        assert abs(means[2] - wanted) < 0.01

    def test_the_gradient_of_the_prior_is_that_of_the_exact_sum(self):
        table = mixed(400)
        grads = []
        for draws in (None, 4096):
            dcm, _, made = problem(table, draws=draws)
            steps = 1 if draws is None else 10
            for step in range(steps):
                (made.loss(step) / steps).backward()
            grads.append(dcm.priors[0].grad.clone())
        # the error of a mean of 40,960 draws of weights of size one
        torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0.02)

    def test_is_used_where_it_is_asked_for_and_reported(self):
        graph = ADMG.from_string("A -> B; A <-> B; C")
        truth = random_discrete(graph, levels=2, seed=1)
        config = TrainConfig(confounder="monte-carlo", draws=64, max_steps=200)
        model = mdcm.fit(graph, truth.sample(4000, seed=0), config=config)
        records = {tuple(r["hnode"]): r for r in model.history if r["event"] == "trained"}
        assert records["A", "B"]["draws"] == 64
        assert "draws" not in records["C",]
        rows = pd.DataFrame(list(itertools.product(range(2), repeat=2)), columns=["A", "B"])
        joint = [c_factor_at(one, ["A", "B"], rows) for one in (truth, read_out(model.dcm))]
        assert np.abs(joint[0] - joint[1]).sum() / 2 < 0.03

    def test_a_variable_with_fourteen_confounders(self):
        star = "; ".join(f"H <-> A{i}" for i in range(14))
        rng = np.random.default_rng(0)
        table = pd.DataFrame({name: rng.integers(0, 2, 300) for name in ADMG.from_string(star).nodes})
        model = mdcm.fit(star, table, config=TrainConfig(max_steps=3, checks=1, draws=32))
        (record,) = [r for r in model.history if r["event"] == "trained"]
        assert record["draws"] == 32
        assert record["states"] == dict.fromkeys(model.dcm.confounders, 8)


class TestGaussianConfounders:
    """A confounder that is a normal number, of which every child reads a multiple."""

    CONFIG = TrainConfig(confounder="gaussian")

    def test_a_linear_front_door(self):
        problem = FRONT_DOORS["linear"]
        # a shorter training than by default, with fewer places
        config = TrainConfig(confounder="gaussian", confounder_states=16, max_steps=400)
        model = mdcm.fit("X -> Z -> Y; X <-> Y", problem.sample(ROWS, seed=2), config=config)
        places, logs = grid(16)
        assert torch.equal(model.dcm.priors[0], logs)
        for child in ("X", "Y"):
            (weight,) = model.dcm.mechanism(child).state_weights()
            direction = weight[-1] / places[-1]
            torch.testing.assert_close(weight.detach(), torch.outer(places, direction.detach()), atol=1e-5, rtol=1e-4)
        found, naive = [], []
        for x in (-1.0, 1.0):
            truth = problem.truth(x)
            drawn = model.draw_samples(20_000, do={"X": x}, variables=["Y"], seed=1).table["Y"].to_numpy()
            found.append(energy_distance(drawn, truth))
            naive.append(energy_distance(problem.truth(x, seen=True), truth))
        assert np.mean(found) < np.mean(naive) / 4

    def test_levels_that_a_number_decides(self, tmp_path):
        """A table that such a confounder makes is learned as well as by free states, with fewer numbers."""
        rng = np.random.default_rng(0)
        u = rng.normal(size=8000)
        table = pd.DataFrame({
            "A": np.digitize(u + 0.5 * rng.normal(size=8000), [-1, 0, 1]),
            "B": np.digitize(u + 0.5 * rng.normal(size=8000), [-0.5, 0.5]),
        })  # fmt: skip
        model = mdcm.fit("A <-> B", table, config=self.CONFIG, out=tmp_path / "run")
        joint = np.asarray(read_out(model.dcm).exact(["A", "B"]), dtype=float)
        right = pd.crosstab(table["A"], table["B"], normalize=True).to_numpy().ravel()
        # by the frequencies, which are themselves off by half of this
        assert np.abs(joint - right).sum() / 2 < 2 * sampling_floor(right, 8000)
        assert model.dcm.states == dict.fromkeys(model.dcm.confounders, 256)
        again = mdcm.load(tmp_path / "run")
        assert again.config.confounder == "gaussian"
        assert all(torch.equal(a, b) for a, b in zip(again.dcm.parameters(), model.dcm.parameters(), strict=True))

    def test_goes_on_after_a_kill(self, tmp_path):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"A": rng.integers(0, 3, 300), "B": rng.integers(0, 3, 300)})
        config = TrainConfig(confounder="gaussian", max_steps=30, checkpoint_seconds=0)

        class Stop:
            def start(self, *_): ...
            def finish(self, *_): ...
            def step(self, hnode, step):
                if step == 20:
                    raise KeyboardInterrupt

        whole = mdcm.fit("A <-> B", table, config=config)
        with pytest.raises(KeyboardInterrupt):
            mdcm.fit("A <-> B", table, config=config, out=tmp_path / "run", progress=Stop())
        again = mdcm.fit("A <-> B", table, config=config, out=tmp_path / "run", resume=True)
        for one, other in zip(whole.dcm.parameters(), again.dcm.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_not_against_critics(self):
        table = pd.DataFrame({"A": [0, 1] * 20, "B": [0, 1, 1, 0] * 10})
        with pytest.raises(PlanError, match="against critics, which Gaussian confounders are not"):
            mdcm.fit("A <-> B", table, config=self.CONFIG, objective="adversarial")
