"""Continuous variables: answers of fitted flows through a confounded front door, and exact counterfactuals."""

import math

import numpy as np
import pytest
import torch
from front_doors import FRONT_DOORS, ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import mdcm
from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.mechanisms import Flow, Mechanism
from mdcm.metrics import energy_distance
from mdcm.model import Model
from mdcm.planning import plan


class TestFrontDoor:
    """Flows fitted to 4,000 rows of a confounded front door; distances of P(Y | do(X = x)) to the truth."""

    # a linear one is always learned by TestGaussianConfounders of test_train_densities.py
    @pytest.mark.nightly
    @pytest.mark.parametrize("kind", FRONT_DOORS)
    # the verdict on what is drawn is the subject of test_verdicts.py
    @pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
    def test_most_of_the_confounding_is_gone(self, kind):
        problem = FRONT_DOORS[kind]
        model = mdcm.fit("X -> Z -> Y; X <-> Y", problem.sample(ROWS, seed=1))
        found, naive, floor = [], [], []
        for x in (-1.0, 1.0):
            truth = problem.truth(x)
            drawn = model.draw_samples(len(truth), do={"X": x}, variables=["Y"], seed=1).table["Y"].to_numpy()
            found.append(energy_distance(drawn, truth))
            naive.append(energy_distance(problem.truth(x, seen=True), truth))
            floor.append(problem.floor(x))
        # a small part of the bias, and not far from what knowing the true family would give
        assert np.mean(naive) > 0.2
        assert np.mean(found) < np.mean(naive) / 4
        assert np.mean(found) < 3 * np.mean(floor)


def model_with(graph, variables, factories, priors=()):
    """A model of mechanisms that are given rather than trained."""
    graph = mdcm.ADMG.from_string(graph)
    schema = Schema(variables)
    states = {name: len(prior) for (name, _), prior in zip(graph.confounders, priors, strict=True)}
    dcm = DCM(graph, schema, states, factories)
    for parameter, prior in zip(dcm.priors, priors, strict=True):
        parameter.data = torch.tensor(prior, dtype=torch.float64).log()
    made = plan(graph, kinds=schema.kinds)
    return Model(graph, schema, made, dcm.eval(), mdcm.TrainConfig(), seed=0, datasets=[])


class Bent(Mechanism):
    """``v = a(parents, u) + b(parents, u) e`` with functions a and b > 0 that are given."""

    noise_size, has_density = 1, True

    def __init__(self, variable, parents, latents, place, spread):
        super().__init__(variable, parents, latents)
        self.place, self.spread = place, spread

    def _parts(self, parents, latents, rows):
        values = [*(parents[parent.name].double() for parent in self.parents), *latents]
        parts = (torch.as_tensor(part(*values), dtype=torch.float64) for part in (self.place, self.spread))
        return tuple(part.expand(rows) for part in parts)

    def forward(self, parents, latents, noise):
        place, spread = self._parts(parents, latents, len(noise))
        return (place + spread * noise[:, 0]).float()

    def log_prob(self, parents, latents, value):
        return torch.distributions.Normal(*self._parts(parents, latents, len(value))).log_prob(value)

    def abduct(self, parents, latents, value, fresh):
        place, spread = self._parts(parents, latents, len(value))
        return ((value - place) / spread)[:, None].float()

    def conditional_loss(self, parents, value, generator):
        return -self.log_prob(parents, (), value)

    def config(self):
        return {"type": "tests.Bent"}


def bent(place, spread):
    return lambda variable, parents, latents: Bent(variable, parents, latents, place, spread)


def straight(slopes, spread):
    """Constructor of a flow that is ``v = slopes . parents + spread e`` exactly: all is said by the line."""

    def make(variable, parents, latents):
        flow = Flow(variable, parents, latents, hidden=max(len(slopes), 1))
        (conditioner,) = flow.conditioners
        # the flow limits the logarithm of a scale smoothly, and this undoes it
        stretch = -math.log(spread)
        raw = stretch / (1 - abs(stretch) / abs(math.log(1e-3)))
        with torch.no_grad():
            conditioner.last.weight.zero_()
            conditioner.last.bias[1] = raw
            for k, (slope, one) in enumerate(zip(slopes, flow.context.inputs, strict=True)):
                one.weight.zero_()
                one.weight[0, k] = 1
                flow.line.weight[0, k] = -slope / spread
        return flow

    return make


def numbers(low=-2.0, high=2.0):
    return st.floats(low, high, allow_nan=False, width=32).map(lambda value: round(value, 3))


@pytest.fixture(scope="module")
def linear():
    """A -> B -> C -> E, A -> C, A -> E, by flows; B counts in other units than the rest."""
    variables = [
        Variable("A", "continuous"),
        Variable("B", "continuous", mean=50.0, scale=10.0),
        Variable("C", "continuous"),
        Variable("E", "continuous"),
    ]
    factories = {
        "A": straight([], 1.5),
        "B": straight([0.8], 0.5),
        "C": straight([-0.6, 1.2], 0.7),
        "E": straight([1.1, 0.9], 2.0),
    }
    return model_with("A -> B -> C -> E; A -> C; A -> E", variables, factories)


# the verdict on what is drawn is the subject of test_verdicts.py
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestKnownCounterfactuals:
    """Abduction, action and prediction by hand, in double precision, without the library's mechanisms."""

    # noise of float32 loses 6e-8 of itself, and every function here magnifies that by less than a hundred
    TOLERANCE = 1e-4

    def by_hand(self, seen, do):
        """What ``linear`` would have given: noise of every equation from the row, and the equations again."""
        noise = {
            "A": seen["A"],
            "B": (seen["B"] - 50) / 10 - 0.8 * seen["A"],
            "C": seen["C"] - (-0.6 * seen["A"] + 1.2 * (seen["B"] - 50) / 10),
            "E": seen["E"] - (1.1 * seen["A"] + 0.9 * seen["C"]),
        }
        found = {}
        found["A"] = do.get("A", noise["A"])
        found["B"] = do.get("B", 50 + 10 * (0.8 * found["A"] + noise["B"]))
        found["C"] = do.get("C", -0.6 * found["A"] + 1.2 * (found["B"] - 50) / 10 + noise["C"])
        found["E"] = do.get("E", 1.1 * found["A"] + 0.9 * found["C"] + noise["E"])
        return found

    def test_the_flow_is_the_line_that_it_is_meant_to_be(self, linear):
        drawn = linear.draw_samples(50_000, seed=3).table
        noise = {name: value[:, 0] for name, value in linear.draw_noise(50_000, seed=3).items()}
        assert np.allclose(drawn["A"], 1.5 * noise["A"], atol=1e-5)
        assert np.allclose(drawn["B"], 50 + 10 * (0.8 * drawn["A"] + 0.5 * noise["B"]), atol=1e-4)
        assert np.allclose(drawn["C"], -0.6 * drawn["A"] + 1.2 * (drawn["B"] - 50) / 10 + 0.7 * noise["C"], atol=1e-5)
        assert np.allclose(drawn["E"], 1.1 * drawn["A"] + 0.9 * drawn["C"] + 2 * noise["E"], atol=1e-5)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_linear_flows(self, linear, data):
        row = data.draw(st.integers(0, 10_000))
        seen = linear.draw_samples(row + 1, seed=1).table.iloc[row].to_dict()
        names = data.draw(st.sets(st.sampled_from("ABCE"), min_size=1, max_size=3))
        do = {name: data.draw(numbers(40, 60) if name == "B" else numbers()) for name in sorted(names)}
        found = linear.counterfactual_samples(3, evidence=seen, do=do, seed=row).table
        # full evidence leaves nothing to chance
        assert (found == found.iloc[0]).all(axis=None)
        for name, value in self.by_hand(seen, do).items():
            scale = 10 if name == "B" else 1
            assert found[name][0] == pytest.approx(value, abs=self.TOLERANCE * scale), name

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_bent_mechanisms(self, data):
        # noise is stretched by the parents, and they meet in products
        model = model_with(
            "W -> X -> Z -> Y; W -> Y; X -> Y",
            [Variable(name, "continuous") for name in "WXZY"],
            {
                "W": bent(lambda: 0.0, lambda: 1.0),
                "X": bent(lambda w: 0.8 * w.sin(), lambda w: (0.4 * w).exp()),
                "Z": bent(lambda x: (2 * x).tanh(), lambda x: 0.3 + 0.1 * x.square()),
                "Y": bent(lambda w, x, z: w * z - x.square() / 2, lambda w, x, z: (0.3 * (x + z)).cosh()),
            },
        )
        noise = {name: data.draw(numbers()) for name in "WXZY"}

        def solve(do):
            w = do.get("W", noise["W"])
            x = do.get("X", 0.8 * math.sin(w) + math.exp(0.4 * w) * noise["X"])
            z = do.get("Z", math.tanh(2 * x) + (0.3 + 0.1 * x * x) * noise["Z"])
            y = do.get("Y", w * z - x * x / 2 + math.cosh(0.3 * (x + z)) * noise["Y"])
            return {"W": w, "X": x, "Z": z, "Y": y}

        names = data.draw(st.sets(st.sampled_from("WXZY"), min_size=1, max_size=3))
        do = {name: data.draw(numbers()) for name in sorted(names)}
        found = model.counterfactual_samples(2, evidence=solve({}), do=do).table
        for name, value in solve(do).items():
            assert found[name][0] == pytest.approx(value, abs=self.TOLERANCE, rel=self.TOLERANCE), name

    @pytest.mark.parametrize("size", [None, 3])
    def test_wild_flows_answer_as_with_the_noise_of_the_row(self, size):
        """Random splines: what the row's own noise gives under do() is what abduction from its values must find."""

        def wild(variable, parents, latents):
            flow = Flow(variable, parents, latents, hidden=32)
            with torch.no_grad():
                for conditioner in flow.conditioners:
                    conditioner.last.weight.mul_(6)
            return flow

        variables = [Variable("X", "continuous"), Variable("Z", "continuous", size=size), Variable("Y", "continuous")]
        model = model_with("X -> Z -> Y; X -> Y", variables, dict.fromkeys("XZY", wild))
        rows = 15
        noise = model.draw_noise(rows, seed=5)
        factual = model.draw_samples(rows, noise=noise, seed=5).table
        wanted = model.draw_samples(rows, noise=noise, do={"X": 0.7}, seed=5).table
        moved = 0.0
        for row in range(rows):
            cells = factual.iloc[row]
            z = cells["Z"] if size is None else cells[[f"Z[{k}]" for k in range(size)]].to_numpy()
            seen = {"X": cells["X"], "Z": z, "Y": cells["Y"]}
            found = model.counterfactual_samples(1, evidence=seen, do={"X": 0.7}).table.iloc[0]
            assert found.to_numpy() == pytest.approx(wanted.iloc[row].to_numpy(), abs=1e-4), row
            moved = max(moved, abs(found["Y"] - cells["Y"]))
        # a thousand times the tolerance: the answer is not just the row itself
        assert moved > 0.1

    def test_a_confounder_leaves_as_many_answers_as_it_has_states(self):
        """Y' = Y + slope_u (Z' - Z) for one state u or another, with the posterior of u given the whole row."""
        prior, at, slopes = [0.5, 0.3, 0.2], torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([1.0, -0.5, 2.5])
        model = model_with(
            "X -> Z -> Y; X <-> Y",
            [Variable(name, "continuous") for name in "XZY"],
            {
                "X": bent(lambda u: at[u], lambda u: 1.0),
                "Z": bent(lambda x: 0.5 * x, lambda x: 1.0),
                "Y": bent(lambda z, u: slopes[u] * z, lambda z, u: 1.0 + 0.5 * u),
            },
            [prior],
        )
        seen, x, rows = {"X": 0.2, "Z": 0.4, "Y": 0.7}, 1.7, 20_000
        posterior = np.array(prior) * norm.pdf(seen["X"], at) * norm.pdf(seen["Y"], slopes * seen["Z"], [1.0, 1.5, 2.0])
        posterior /= posterior.sum()
        drawn = model.counterfactual_samples(rows, evidence=seen, do={"X": x}).table
        z = 0.5 * x + seen["Z"] - 0.5 * seen["X"]
        assert np.abs(drawn["Z"] - z).max() < 1e-5
        exact = seen["Y"] + slopes.numpy() * (z - seen["Z"])
        distance = np.abs(drawn["Y"].to_numpy()[:, None] - exact)
        assert distance.min(1).max() < self.TOLERANCE
        shares = np.bincount(distance.argmin(1), minlength=3) / rows
        assert (np.abs(shares - posterior) <= 4.5 * np.sqrt(posterior * (1 - posterior) / rows)).all()
        # and as a query: the mean over the states
        text = f"E[Y[X={x}] | X={seen['X']}, Z={seen['Z']}, Y={seen['Y']}]"
        answer = model.query(text, rows, allow_unidentifiable=True)
        assert abs(answer.value - posterior @ exact) <= 4.5 * answer.stderr + self.TOLERANCE

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_effectiveness_consistency_and_composition(self, linear, data):
        row = data.draw(st.integers(0, 1000))
        seen = linear.draw_samples(row + 1, seed=2).table.iloc[row].to_dict()
        names = data.draw(st.sets(st.sampled_from("ABCE"), max_size=3))
        do = {name: data.draw(numbers(40, 60) if name == "B" else numbers()) for name in sorted(names)}

        def world(do):
            return linear.counterfactual_samples(2, evidence=seen, do=do).table.iloc[0].to_dict()

        other = world(do)
        for name, value in do.items():
            # effectiveness: what is set is so, up to the rounding of one number
            assert other[name] == pytest.approx(value, rel=1e-6, abs=1e-6)
        # consistency: set to what they were, variables change nothing, bit for bit
        assert world({name: seen[name] for name in do}) == world({}) == pytest.approx(seen, rel=1e-6, abs=1e-6)
        # what is set changes nothing upstream, bit for bit
        for name in seen:
            if not set(do) & linear.graph.ancestors([name]):
                assert other[name] == world({})[name]
        # composition: set to what it would have been, a variable changes nothing
        name = data.draw(st.sampled_from("ABCE"))
        if name not in do:
            assert world({**do, name: other[name]}) == pytest.approx(other, rel=1e-5, abs=1e-4)
