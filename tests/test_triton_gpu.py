"""What only a GPU can show: compiled kernels at realistic sizes, their precision, and replay of a captured graph.

The other tests of fused forms run on the GPU too, where there is one, on small shapes in plain float32. Errors are
taken by the norm: a pre-activation that rounds to the other side of zero changes a whole term of a sum.
"""

import numpy as np
import pytest
import torch
from test_reference_critic import random_critics
from test_reference_gumbel import gumbels, winners
from test_triton_noise import DEVICE, relative
from test_triton_training import Training

import mdcm
from mdcm import kernels
from mdcm.kernels import graphs
from mdcm.kernels.critic import fused as critic
from mdcm.kernels.critic import fused_layers as layers
from mdcm.kernels.critic import reference
from mdcm.kernels.gumbel import fused as gumbel
from mdcm.kernels.gumbel import reference as gumbel_reference
from mdcm.kernels.noise import fused as noise
from mdcm.kernels.noise import reference as noise_reference

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device: compiled kernels run nowhere else")

# modules, batch, columns, units: one critic at the batch of the fits, many at once, and rows for a long sum
SIZES = [(1, 200, 24, 256), (50, 200, 32, 64), (4, 1024, 128, 256)]
# of one product each: float32 rounds to 24 bits, tf32 factors to 11, three products of them to about 21, bfloat16 to 8
PRODUCTS = {"ieee": 2e-6, "tf32": 3e-3, "tf32x3": 2e-5, "bf16": 3e-2}
# of a whole step, with the masks that flip: emulated tf32 has up to 2.5e-2 in the gradients of biases, where rows
# nearly cancel, and float32 without kernels 3e-6; bfloat16 eight times as much as tf32
STEPS = {"ieee": 2e-5, "tf32": 6e-2, "tf32x3": 5e-4, "bf16": 0.5}
SLOPE = 0.2
# elements whose number does not fit 32 bits
MANY = 2**31


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)


def within(found, true, limit, scale=None):
    """Whether an error is small against the truth, or against the terms of which it is the sum."""
    size = max(float(true.norm()), 0.0 if scale is None else float(scale.norm()))
    return float((found - true).norm()) <= limit * size


def critics_of(widths, modules):
    return random_critics(widths, modules, dtype=torch.float32).map(lambda one: one.to(DEVICE))


@pytest.fixture(params=SIZES, ids=lambda size: "x".join(map(str, size)))
def given(request):
    """Inputs of every layer kernel, of the scale that a critic gives them."""
    modules, rows, width, hidden = request.param
    critics = critics_of([width, hidden, hidden], modules)
    x = some(modules, 3 * rows, width)
    hidden_1 = reference.lin_act(x, critics.weights[0], critics.biases[0], SLOPE)
    hidden_2 = reference.lin_act(hidden_1, critics.weights[1], critics.biases[1], SLOPE)
    signs = torch.ones(3 * rows, 1, device=DEVICE)
    signs[:rows], signs[rows : 2 * rows] = 1 / rows, -1 / rows
    return critics, x, hidden_1, hidden_2, signs


@pytest.mark.parametrize("precision", PRODUCTS)
class TestLayers:
    """Every kernel from the same inputs as its twin in float64, so that no mask can flip."""

    def test_lin_act(self, given, precision):
        critics, _, hidden, _, _ = given
        weight, bias = critics.weights[1], critics.biases[1]
        found = layers.lin_act(hidden, weight, bias, SLOPE, precision)
        true = reference.lin_act(hidden.double(), weight.double(), bias.double(), SLOPE)
        assert within(found, true, PRODUCTS[precision])

    def test_delta(self, given, precision):
        critics, _, hidden_1, hidden_2, signs = given
        found = layers.delta(hidden_2, critics.out, critics.weights[1], hidden_1, SLOPE, precision, signed=True)
        upper = reference.top_delta(hidden_2.double(), critics.out.double(), signs.double(), SLOPE)
        true = reference.delta(upper, critics.weights[1].double(), hidden_1.double(), SLOPE)
        assert within(found, true, PRODUCTS[precision])

    def test_gp_norm_tangent(self, given, precision):
        critics, _, hidden, _, _ = given
        lowest, weight, rows = some(*hidden.shape, seed=3), critics.weights[0], hidden.shape[1] // 3
        options = {"penalty": 10.0, "columns": None, "one_sided": False}
        found = layers.gp_norm_tangent(lowest, weight, hidden, SLOPE, precision, **options)
        between = [one[:, 2 * rows :].double() for one in (lowest, hidden)]
        true = reference.gp_norm_tangent(between[0], weight.double(), between[1], SLOPE, **options)
        for one, other in zip(found, true, strict=True):
            # v_1 is a product of a product
            assert within(one, other, 2 * PRODUCTS[precision])

    def test_top_reduce(self, given, precision):
        critics, _, hidden_1, hidden_2, signs = given
        modules, rows, units = hidden_1.shape[0], hidden_1.shape[1] // 3, hidden_2.shape[2]
        highest, norm = some(modules, rows, units, seed=4), some(modules, rows, seed=5).abs()
        parts = torch.full((3, modules, units), torch.nan, device=DEVICE)
        weight, out = critics.weights[1], critics.out
        options = {"penalty": 10.0, "one_sided": False}
        loss = layers.top_reduce(highest, weight, hidden_2, out, norm, parts, SLOPE, precision, **options)
        v2 = reference.tangent(highest.double(), weight.double(), hidden_2[:, 2 * rows :].double(), SLOPE)
        true, difference = reference.top_reduce(v2, hidden_2.double(), out.double(), signs.double())
        assert within(parts.sum(0), true, PRODUCTS[precision], v2.norm(dim=1))
        assert within(loss.sum(1), difference + 10 * (norm.double() - 1).square().mean(1), 2e-6)

    @pytest.mark.parametrize("top", [False, True])
    def test_wgrad(self, given, precision, top):
        critics, _, hidden_1, hidden_2, signs = given
        modules, rows, units = hidden_1.shape[0], hidden_1.shape[1] // 3, hidden_1.shape[2]
        tangents, size = some(modules, rows, units, seed=6), units * units
        flat = torch.full((2, modules, size + units), torch.nan, device=DEVICE)
        weight, bias = flat[..., :size].view(2, modules, units, units), flat[..., size:]
        out = critics.out if top else None
        layers.wgrad(hidden_2, out, hidden_1, tangents, weight, bias, SLOPE, precision)
        s = hidden_2.double()
        if top:
            s = reference.top_delta(s, critics.out.double(), signs.double(), SLOPE)
        true = reference.wgrad(s, hidden_1.double(), tangents.double())
        assert within(weight.sum(0), true[0], PRODUCTS[precision])
        assert within(bias.sum(0), true[1], 2e-6, s.norm(dim=1))


class TestSteps:
    @pytest.mark.parametrize("precision", STEPS)
    def test_a_critic_step(self, given, precision, monkeypatch):
        monkeypatch.setenv("MDCM_PRECISION", precision)
        critics, x, _, _, _ = given
        found = critic.critic_loss_and_grads(x, critics)
        true = reference.critic_loss_and_grads(x.double(), critics.map(torch.Tensor.double))
        assert relative(found.norm, true.norm) < STEPS[precision]
        for one, other in zip(found.grads.tensors()[:-1], true.grads.tensors()[:-1], strict=True):
            assert relative(one, other) < STEPS[precision]
        value, g = critic.values_of(x, critics, gradient=True)
        true_value, true_g = reference.values_of(x.double(), critics.map(torch.Tensor.double), gradient=True)
        assert relative(value, true_value) < STEPS[precision]
        assert relative(g, true_g) < STEPS[precision]

    @pytest.mark.parametrize("precision", STEPS)
    def test_twice_the_same_bits(self, given, precision, monkeypatch):
        monkeypatch.setenv("MDCM_PRECISION", precision)
        critics, x, _, _, _ = given
        first, second = (critic.critic_loss_and_grads(x, critics) for _ in range(2))
        assert torch.equal(first.loss, second.loss)
        assert all(torch.equal(a, b) for a, b in zip(first.grads.tensors(), second.grads.tensors(), strict=True))

    @pytest.mark.parametrize("sizes", [[4] * 50, [64] * 20, [2, 3, 7, 16, 33, 100, 1000]], ids=["4", "64", "ragged"])
    def test_races(self, sizes):
        packing, rows = kernels.Packing(sizes, device=DEVICE), 8192
        logits = 2 * some(rows, packing.width)
        noise_ = gumbels(rows, packing.width, dtype=torch.float32).to(DEVICE)
        double, clocks = logits.double(), noise_.double()
        drawn = gumbel.gumbel_st_fwd(logits, packing, 0.5, noise_, hard=False)
        assert relative(drawn, gumbel_reference.gumbel_st_fwd(double, packing, 0.5, clocks, hard=False)) < 2e-6
        won, true = (
            winners(packing, one) for one in (gumbel.gumbel_st_fwd(logits, packing, 0.5, noise_), double + clocks)
        )
        # sums in float32 may tie where those in float64 do not
        assert int((won != true).sum()) <= 1e-6 * won.numel() + 1
        upstream = some(rows, packing.width, seed=1)
        found = gumbel.gumbel_st_bwd(logits, upstream, packing, 0.5, noise_)
        assert relative(found, gumbel_reference.gumbel_st_bwd(double, upstream.double(), packing, 0.5, clocks)) < 2e-6

    def test_seeded_rows(self):
        seeds, sites = torch.arange(700, device=DEVICE) * 2**53, torch.arange(700, device=DEVICE)
        given = (seeds, sites, torch.tensor(3, device=DEVICE), 600)
        assert torch.equal(noise.seeded_uniform(*given), noise_reference.seeded_uniform(*given))


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_a_captured_graph_takes_the_steps_that_eager_execution_takes(precision, monkeypatch):
    monkeypatch.setenv("MDCM_PRECISION", precision)
    eager, replayed = (Training(torch.float32, modules=8, rows=64, hidden=64, sizes=(2, 3, 5)) for _ in range(2))
    start = [one.clone() for one in replayed.state()]
    # kernels must be compiled before they can be captured
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            replayed.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = replayed.step()
    for one, first in zip(replayed.state(), start, strict=True):
        one.copy_(first)
    for _ in range(100):
        true = eager.step()
        graph.replay()
        assert torch.equal(loss, true)
    for one, other in zip(replayed.state(), eager.state(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("objective", ["likelihood", "adversarial"])
def test_a_model_that_is_trained_by_graphs_follows_the_same_curve(objective, monkeypatch):
    # sums over rows that many threads add to are rounded in any order, so the curves are compared and not the bits
    rng = np.random.default_rng(0)
    u = rng.integers(0, 2, 2000)
    table = {name: (rng.random(2000) < 0.3 + 0.4 * u).astype(int) for name in "ABCD"}
    made, curves = [], []
    capture = graphs.capture

    def counted(body, device):
        made.append(device)
        return capture(body, device)

    monkeypatch.setattr(graphs, "capture", counted)
    for asked in ("auto", "off"):
        monkeypatch.setenv("MDCM_GRAPHS", asked)
        config = mdcm.TrainConfig(max_steps=100, checks=10, patience=100)
        model = mdcm.fit("A -> B; C -> D; A <-> B", table, objective=objective, config=config, device="cuda", seed=1)
        curves.append([one["loss"] for one in model.history if one["event"] == "check"])
    assert made
    assert np.allclose(*curves, rtol=0, atol=2e-2)


class TestManyElements:
    """Tensors of more elements than 32 bits can count; the end is compared with the same rows by themselves."""

    @pytest.fixture(autouse=True)
    def _room(self):
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info()[0] < 60 * 2**30:
            pytest.skip("needs 60 GiB of free memory on the device")
        yield
        torch.cuda.empty_cache()

    def test_layers(self):
        rows, units = 3 * (MANY // 256 // 3 + 1000), 256
        x, weight, bias = some(1, rows, 8), some(1, units, 8, seed=1), some(1, units, seed=2)
        hidden = layers.lin_act(x, weight, bias, SLOPE, "ieee")
        assert hidden.numel() > MANY
        tail = slice(rows - 100, rows)
        assert torch.equal(hidden[:, tail], layers.lin_act(x[:, tail].contiguous(), weight, bias, SLOPE, "ieee"))
        upper, out, middle = some(1, rows, 16, seed=3), some(1, 16, seed=4), some(1, 16, units, seed=5)
        found = layers.delta(upper, out, middle, hidden, SLOPE, "ieee", signed=False)
        ends = [one[:, tail].contiguous() for one in (upper, hidden)]
        assert torch.equal(found[:, tail], layers.delta(ends[0], out, middle, ends[1], SLOPE, "ieee", signed=False))
        del found, upper
        tangents = some(1, rows // 3, 8, seed=6)
        flat = torch.full((32, 1, units * 9), torch.nan, device=DEVICE)
        parts, sums = flat[..., : units * 8].view(32, 1, units, 8), flat[..., units * 8 :]
        layers.wgrad(hidden, None, x, tangents, parts, sums, SLOPE, "ieee")
        true = torch.zeros(units, dtype=torch.float64, device=DEVICE)
        for piece in hidden[0, : 2 * (rows // 3)].split(2**20):
            true += piece.sum(0, dtype=torch.float64)
        assert relative(sums.double().sum(0)[0], true) < 1e-4
        between = hidden[0, 2 * (rows // 3) :]
        weight_true = sum(
            (a.double().T @ b.double())
            for a, b in zip(
                [*hidden[0, : 2 * (rows // 3)].split(2**18), *between.split(2**18)],
                [*x[0, : 2 * (rows // 3)].split(2**18), *tangents[0].split(2**18)],
                strict=True,
            )
        )
        assert relative(parts.double().sum(0)[0], weight_true) < 1e-3

    def test_races(self):
        packing, rows = kernels.Packing([1, 1, 1, 1], device=DEVICE), MANY // 4 + 1000
        logits = torch.zeros(rows, 4, device=DEVICE)
        noise_ = torch.rand(rows, 4, generator=torch.Generator(DEVICE).manual_seed(1), device=DEVICE)
        tail = slice(rows - 100, rows)
        # of one level each: all the gradient there is, is in the places that were written
        drawn = gumbel.gumbel_st_fwd(logits, packing, 1.0, noise_)
        assert bool((drawn[tail] == 1).all())
        del drawn
        pairs = kernels.Packing([2, 2], device=DEVICE)
        soft = gumbel.gumbel_st_fwd(logits, pairs, 1.0, noise_, hard=False)
        assert torch.equal(soft[tail], gumbel.gumbel_st_fwd(logits[tail], pairs, 1.0, noise_[tail], hard=False))
