"""Laws of the spline flow: a density, its draws, its inverse, and what it can learn in a few seconds."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from learning import chi_square, critical_chi_square

import mdcm
from mdcm.data import Variable
from mdcm.mechanisms import Flow
from mdcm.metrics import energy_distance

X = Variable("x", "continuous")
SIDE = Variable("side", "categorical", levels=("left", "right"))


def wild(size=None, parents=(X,), latents=(), seed=0, strength=1.0, **options):
    """A flow with random weights, strong enough that its densities have several modes and are skewed."""
    torch.manual_seed(seed)
    flow = Flow(Variable("y", "continuous", size=size), parents, latents, hidden=32, **options)
    with torch.no_grad():
        for conditioner in flow.conditioners:
            conditioner.last.weight.mul_(20 * strength)
        flow.center.copy_(torch.linspace(-0.5, 0.7, flow.size))
        flow.spread.copy_(torch.linspace(0.5, 1.5, flow.size))
    return flow


def at(x, n):
    return {"x": torch.full((n,), float(x))}


def draws(flow, parents, n, latents=(), seed=0):
    noise = torch.randn(n, flow.noise_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return flow(parents, latents, noise), noise


class TestDensity:
    @pytest.mark.parametrize("x", [-2.0, 0.0, 1.5])
    def test_integrates_to_one(self, x):
        flow = wild()
        with torch.no_grad():
            # beyond the spline the density is normal, and 25 of its standard deviations are inside the grid
            made, _ = draws(flow, at(x, 2000), 2000)
            low, high = float(made.min()) - 8, float(made.max()) + 8
            grid = torch.linspace(low, high, 200_001)
            density = flow.log_prob(at(x, len(grid)), (), grid).double().exp()
        # the trapezoidal rule errs by the square of the spacing; rounding in float32 is about 1e-6 of the density
        assert float(torch.trapezoid(density, grid.double())) == pytest.approx(1, abs=1e-4)

    def test_of_a_vector_integrates_to_one(self):
        flow = wild(size=2, strength=0.3)
        with torch.no_grad():
            made, _ = draws(flow, at(0.5, 2000), 2000)
            middle, reach = made.median(0).values, (made - made.median(0).values).abs().max() + 3
            axis = torch.linspace(-float(reach), float(reach), 401)
            grid = torch.cartesian_prod(axis, axis) + middle
            density = torch.cat([flow.log_prob(at(0.5, len(p)), (), p).double().exp() for p in grid.split(50_000)])
        total = torch.trapezoid(torch.trapezoid(density.view(401, 401), dx=float(axis[1] - axis[0])), axis.double())
        assert float(total) == pytest.approx(1, abs=5e-3)

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_a_histogram_of_draws(self, seed):
        flow, n = wild(parents=[X, SIDE], seed=seed), 100_000
        parents = {**at(0.7, n), "side": torch.ones(n, dtype=torch.int64)}
        made, _ = draws(flow, parents, n, seed=seed)
        edges = torch.from_numpy(np.quantile(made.numpy(), np.linspace(0, 1, 41)[1:-1])).float()
        fine = torch.cat([torch.linspace(a, b, 201) for a, b in itertools.pairwise(edges.tolist())])
        with torch.no_grad():
            alike = {**at(0.7, len(fine)), "side": torch.ones(len(fine), dtype=torch.int64)}
            density = flow.log_prob(alike, (), fine).double().exp().view(-1, 201)
        inside = torch.trapezoid(density, fine.double().view(-1, 201)).numpy()
        # other draws than those that set the edges
        again, _ = draws(flow, parents, n, seed=seed + 100)
        counts = np.histogram(again.numpy(), edges.numpy())[0]
        rest = n - counts.sum()
        statistic = chi_square(np.append(counts, rest), np.append(inside, 1 - inside.sum()))
        assert statistic < critical_chi_square(len(counts))

    def test_counts_the_units_of_the_value(self):
        flow, wide = wild(), wild()
        with torch.no_grad():
            wide.center.mul_(3).add_(1)
            wide.spread.mul_(3)
        value = torch.linspace(-2, 2, 50)
        found = wide.log_prob(at(1, 50), (), 3 * value + 1)
        assert torch.allclose(found, flow.log_prob(at(1, 50), (), value) - math.log(3), atol=1e-5)

    def test_entries_see_only_entries_before_them(self):
        flow = wild(size=5, transforms=1)
        value = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            jacobian = torch.autograd.functional.jacobian(lambda v: flow.abduct(at(0, 1), (), v, v)[0], value)[:, 0]
        assert torch.equal(jacobian.triu(1), torch.zeros(5, 5))
        assert (jacobian.tril().abs() > 1e-6).sum() == 15

    def test_of_a_long_vector_is_its_jacobian(self):
        # more entries than are generated one after another
        flow = wild(size=20, strength=0.3)
        assert flow.passes == 2
        value, noise = draws(flow, at(0, 1), 1)
        jacobian = torch.autograd.functional.jacobian(
            lambda v: flow.abduct(at(0, 1), (), v.view(1, -1), v)[0].double(), value[0].double()
        )
        normal = torch.distributions.Normal(0, 1).log_prob(noise).sum()
        wanted = float(normal) + float(torch.linalg.slogdet(jacobian)[1])
        with torch.no_grad():
            assert float(flow.log_prob(at(0, 1), (), value)) == pytest.approx(wanted, abs=1e-3)

    def test_far_away_it_is_low_and_finite(self):
        flow = wild()
        with torch.no_grad():
            far = flow.log_prob(at(0, 4), (), torch.tensor([-1e6, -1e3, 1e3, 1e6]))
        assert far.isfinite().all()
        assert (far < -1000).all()

    def test_gradient_reaches_everything(self):
        flow = wild(size=3, parents=[X, SIDE], latents=(4,))
        x, side = torch.randn(20, requires_grad=True), torch.nn.functional.one_hot(torch.arange(20) % 2, 2).float()
        side.requires_grad_()
        value = torch.randn(20, 3, requires_grad=True)
        flow.log_table({"x": x, "side": side}, value).sum().backward()
        for name, tensor in [*flow.named_parameters(), ("x", x), ("side", side), ("value", value)]:
            assert tensor.grad is not None, name
            assert tensor.grad.isfinite().all(), name
            assert tensor.grad.any(), name


class TestInverse:
    @pytest.mark.parametrize("size", [None, 1, 3, 20])
    @pytest.mark.parametrize("seed", range(3))
    def test_abduction_inverts_generation(self, size, seed):
        flow = wild(size=size, latents=(3,), seed=seed, strength=0.3)
        n = 2000
        generator = torch.Generator().manual_seed(seed)
        parents = {"x": torch.randn(n, generator=generator)}
        latents = [torch.randint(3, (n,), generator=generator)]
        value, noise = draws(flow, parents, n, latents, seed)
        with torch.no_grad():
            found = flow.abduct(parents, latents, value, torch.zeros_like(noise))
            again = flow(parents, latents, found)
        assert found.shape == noise.shape
        assert found.dtype == torch.float32
        # float32 keeps 24 bits of a value, and the noise changes faster than it by at most the slope
        assert float((again - value).abs().max()) < 1e-4
        assert float((found - noise).abs().quantile(0.99)) < 1e-4

    def test_needs_no_randomness(self):
        flow = wild()
        assert flow.can_abduct
        value = torch.tensor([0.3])
        one, other = (flow.abduct(at(1, 1), (), value, torch.full((1, 1), fresh)) for fresh in (0.0, 5.0))
        assert torch.equal(one, other)

    def test_a_larger_noise_is_a_larger_value(self):
        flow = wild()
        with torch.no_grad():
            made = flow(at(0.3, 4001), (), torch.linspace(-8, 8, 4001)[:, None])
        assert (made.diff() > 0).all()


def swiss(n, seed):
    """Two branches that cross, of a width that grows along them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    side = rng.choice([-1.0, 1.0], n)
    return x, np.sin(2 * x) + 0.6 * side * (1 + 0.5 * x) + 0.2 * rng.normal(size=n)


def trained(flow, parents, value, steps=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    flow.prepare(parents, value)
    options = flow.training_defaults(len(value))
    steps = steps or options["steps"]
    optimiser = torch.optim.AdamW(flow.parameters(), options["learning_rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(value), (options["batch_size"],), generator=generator)
        loss = flow.conditional_loss({k: v[rows] for k, v in parents.items()}, value[rows], generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return flow


class TestLearning:
    def test_a_nonlinear_conditional_in_a_few_seconds(self):
        n = 10_000
        x, y = swiss(n, seed=0)
        torch.manual_seed(0)
        began = time.process_time()
        flow = trained(
            Flow(Variable("y", "continuous"), [X]),
            {"x": torch.from_numpy(x).float()},
            torch.from_numpy(y).float(),
        )
        assert time.process_time() - began < 60
        new_x, _ = swiss(4000, seed=1)
        made, _ = draws(flow, {"x": torch.from_numpy(new_x).float()}, 4000)
        model = np.stack([new_x, made.numpy()], 1)
        # what independent samples of the truth are apart by chance, and what an independent y would be
        fresh = [np.stack(swiss(4000, seed), 1) for seed in range(2, 5)]
        floor = [energy_distance(fresh[0], other) for other in fresh[1:]]
        shuffled = np.stack([new_x, np.random.default_rng(0).permutation(swiss(4000, 1)[1])], 1)
        found = np.mean([energy_distance(model, other) for other in fresh])
        assert found < 1.5 * np.mean(floor)
        assert energy_distance(shuffled, fresh[0]) > 4 * np.mean(floor)

    def test_dependence_within_a_vector(self):
        # a ring: neither coordinate says where the other one is, but for two values
        rng = np.random.default_rng(0)
        angle, n = rng.uniform(0, 2 * math.pi, 12_000), 8000
        ring = (np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.normal(size=(12_000, 2))).astype(np.float32)
        torch.manual_seed(0)
        flow = trained(Flow(Variable("y", "continuous", size=2), ()), {}, torch.from_numpy(ring[:n]), steps=250)
        made, _ = draws(flow, {}, 2000)
        floor = energy_distance(ring[n : n + 2000], ring[n + 2000 :])
        assert energy_distance(made.numpy(), ring[n : n + 2000]) < 2 * floor
        radius = made.norm(dim=1)
        assert float(((radius > 0.6) & (radius < 1.4)).float().mean()) > 0.9

    def test_its_likelihood_is_close_to_the_truth(self):
        # a linear Gaussian is where a straight transformation is exact
        rng = np.random.default_rng(0)
        x = torch.from_numpy(rng.normal(size=5000)).float()
        y = torch.from_numpy(3 * x.numpy() + 0.1 * rng.normal(size=5000)).float()
        torch.manual_seed(0)
        flow = trained(Flow(Variable("y", "continuous"), [X]), {"x": x}, y, steps=400)
        x = torch.from_numpy(rng.normal(size=5000)).float()
        noise = torch.from_numpy(rng.normal(size=5000)).float()
        with torch.no_grad():
            found = float(flow.log_prob({"x": x}, (), 3 * x + 0.1 * noise).mean())
        truth = float(torch.distributions.Normal(0, 0.1).log_prob(0.1 * noise).mean())
        assert truth - 0.1 < found < truth + 0.01

    def test_through_fit_an_intervention_is_answered(self):
        # Z confounds X and Y, and is seen
        rng = np.random.default_rng(0)
        n = 4000
        z = rng.normal(size=n)
        x = np.where(rng.random(n) < 1 / (1 + np.exp(-2 * z)), 1, 0)
        y = 100 + 10 * (1.0 * x + z + 0.5 * rng.normal(size=n))
        model = mdcm.fit("Z -> X -> Y; Z -> Y", {"X": x, "Y": y, "Z": z}, config=mdcm.TrainConfig(max_steps=400))
        one, other = (model.draw_samples(8000, do={"X": level}, seed=0).table["Y"] for level in (1, 0))
        # the effect is 10; rows that only happen to have X = 1 differ by about 22 from the others
        assert y[x == 1].mean() - y[x == 0].mean() > 18
        assert one.mean() - other.mean() == pytest.approx(10, abs=1.0)
        assert one.mean() == pytest.approx(110, abs=1.0)
        assert one.std() == pytest.approx(math.sqrt(125), rel=0.1)


class TestStart:
    def test_what_is_not_confounded_starts_as_its_linear_regression(self):
        rng = np.random.default_rng(0)
        x, level = rng.normal(3, 2, 2000), rng.integers(0, 3, 2000)
        y = 5 + 0.7 * x + np.array([-1.0, 0.5, 2.0])[level] + 0.4 * rng.normal(size=2000)
        parents = [Variable("x", "continuous"), Variable("g", "categorical", levels=("a", "b", "c"))]
        torch.manual_seed(0)
        flow = Flow(Variable("y", "continuous"), parents)
        with torch.no_grad():
            for conditioner in flow.conditioners:
                conditioner.last.weight.zero_()
        given = {"x": torch.from_numpy(x).float(), "g": torch.from_numpy(level)}
        flow.prepare(given, torch.from_numpy(y).float())
        design = np.stack([x, *(level == k for k in range(3))], 1)
        slopes = np.linalg.lstsq(design, y, rcond=None)[0]
        with torch.no_grad():
            centre = flow(given, (), torch.zeros(2000, 1)).numpy()
            above = flow(given, (), torch.ones(2000, 1)).numpy()
        # three coefficients of at most 2, each shrunk by a ridge of one row among the 650 or more of a level
        assert centre == pytest.approx(design @ slopes, abs=3 * 2 / 650)
        assert above - centre == pytest.approx(np.full(2000, (y - design @ slopes).std()), abs=2e-3)

    @pytest.mark.parametrize("states", [2, 8, 32])
    def test_one_confounder_may_nearly_determine_it(self, states):
        torch.manual_seed(0)
        flow = Flow(Variable("y", "continuous"), [], [states])
        with torch.no_grad():
            for conditioner in flow.conditioners:
                conditioner.last.weight.zero_()
        assert flow.follow(0)
        every = [torch.arange(states).repeat_interleave(2)]
        with torch.no_grad():
            made = flow({}, every, torch.tensor([-1.0, 1.0]).repeat(states)[:, None]).view(states, 2)
        places, left = made.mean(1), made.diff(dim=1) / 2
        # all in all a variance of 1, of which one part in 1 + states is not the confounder's
        assert left.numpy() == pytest.approx(np.full((states, 1), (1 + states) ** -0.5), rel=1e-4)
        assert float(places.square().mean()) == pytest.approx(1 - 1 / (1 + states), rel=1e-4)
        assert (places.diff() > 0).all()

    def test_a_vector_has_no_such_start(self):
        assert not Flow(Variable("y", "continuous", size=2), [], [4]).follow(0)

    def test_the_line_does_not_decay(self):
        flow = Flow(Variable("y", "continuous"), [X], [4])
        spared = {name for name, one in flow.named_parameters() if all(one is not d for d in flow.decaying())}
        assert "line.weight" in spared
        assert all(name.endswith("bias") for name in spared - {"line.weight"})
