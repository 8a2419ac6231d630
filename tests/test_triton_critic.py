"""Fused critics against their twins in float64: every kernel by itself, whole operations, and what is left to twins."""

import math
from types import MappingProxyType

import pytest
import torch
from test_reference_critic import random_critics, random_rows
from test_triton_noise import DEVICE, relative

from mdcm import kernels
from mdcm.kernels import configs
from mdcm.kernels.critic import fused as critic
from mdcm.kernels.critic import fused_layers as layers
from mdcm.kernels.critic import reference

# by the norm, for float32 kernels against float64
LIMIT = 2e-6
SLOPE = 0.2
# modules, batch, columns, units: smaller than a tile, one more than a tile, and sizes that align
SIZES = pytest.mark.parametrize(
    ("modules", "batch", "width", "units"),
    [(2, 13, 6, (33, 20)), (1, 23, 24, (64, 68)), (3, 1, 1, (1, 1)), (1, 66, 34, (66, 68))],
    ids=["ragged", "aligned", "single", "several tiles"],
)


@pytest.fixture(autouse=True)
def _conditions(monkeypatch):
    """Plain float32 products, and NaN in memory that a kernel is to fill."""
    monkeypatch.setenv("MDCM_PRECISION", "ieee")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def some(*shape, seed=0):
    return random_rows(*shape, seed=seed, dtype=torch.float32).to(DEVICE)


def critics_of(widths, modules, **kwargs):
    return random_critics(widths, modules, dtype=torch.float32, **kwargs).map(lambda one: one.to(DEVICE))


def doubled(critics):
    return critics.map(torch.Tensor.double)


def with_tile(monkeypatch, name, **sizes):
    """Let a kernel run in tiles of other sizes."""
    config = configs.Config(MappingProxyType(sizes), shared=1)
    monkeypatch.setitem(configs.SHIPPED, name, (config,) * len(configs.SHIPPED[name]))


class TestLayers:
    """Every kernel by itself, on inputs of its own."""

    @SIZES
    def test_lin_act(self, modules, batch, width, units):
        x, weight, bias = some(modules, batch, width), some(modules, units[0], width, seed=1), some(modules, units[0])
        found = layers.lin_act(x, weight, bias, SLOPE, "ieee")
        true = reference.lin_act(x.double(), weight.double(), bias.double(), SLOPE)
        assert relative(found, true) < LIMIT

    @SIZES
    @pytest.mark.parametrize("signed", [False, True])
    def test_delta(self, modules, batch, width, units, signed):
        below, hidden = some(modules, 3 * batch, units[0]), some(modules, 3 * batch, units[1], seed=1)
        out, weight = some(modules, units[1], seed=2), some(modules, units[1], units[0], seed=3)
        found = layers.delta(hidden, out, weight, below, SLOPE, "ieee", signed=signed)
        signs = _signs(batch, signed)
        upper = reference.top_delta(hidden.double(), out.double(), signs, SLOPE)
        assert relative(found, reference.delta(upper, weight.double(), below.double(), SLOPE)) < LIMIT

    @SIZES
    @pytest.mark.parametrize("chosen", ["all", "columns", "columns of each"])
    @pytest.mark.parametrize("one_sided", [False, True])
    def test_gp_norm_tangent(self, modules, batch, width, units, chosen, one_sided):
        lowest, hidden = some(modules, 3 * batch, units[0]), some(modules, 3 * batch, units[0], seed=1)
        weight = some(modules, units[0], width, seed=2) / units[0]
        columns = None
        if chosen != "all":
            shape = (width,) if chosen == "columns" else (modules, 1, width)
            columns = (some(*shape, seed=3) > -0.5).float()
        options = {"penalty": 3.0, "one_sided": one_sided}
        found = layers.gp_norm_tangent(lowest, weight, hidden, SLOPE, "ieee", columns=columns, **options)
        between = [one[:, 2 * batch :].double() for one in (lowest, hidden)]
        double = None if columns is None else columns.double()
        true = reference.gp_norm_tangent(between[0], weight.double(), between[1], SLOPE, columns=double, **options)
        for one, other in zip(found, true, strict=True):
            assert relative(one, other) < LIMIT

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12])
    def test_a_gradient_that_vanishes_has_no_penalty_gradient_and_no_nan(self, scale):
        lowest = torch.zeros(1, 3, 4, device=DEVICE)
        lowest[0, 2] = scale
        weight, hidden = torch.ones(1, 4, 5, device=DEVICE), torch.ones(1, 3, 4, device=DEVICE)
        options = {"penalty": 10.0, "columns": None, "one_sided": False}
        norm, v0, v1 = layers.gp_norm_tangent(lowest, weight, hidden, SLOPE, "ieee", **options)
        assert all(bool(torch.isfinite(one).all()) for one in (norm, v0, v1))
        # at most 2 penalty / B
        assert float(v0.norm()) <= 20.001
        if scale == 0:
            assert float(v0.abs().max() + v1.abs().max() + norm.abs().max()) == 0

    @SIZES
    @pytest.mark.parametrize("parts", [1, 3])
    def test_top_reduce(self, modules, batch, width, units, parts):
        highest, hidden = some(modules, batch, units[0]), some(modules, 3 * batch, units[1], seed=1)
        weight, out = some(modules, units[1], units[0], seed=2), some(modules, units[1], seed=3)
        norm, room = some(modules, batch, seed=4).abs(), units[1] + 3
        flat = torch.full((parts, modules, room), math.nan, device=DEVICE)
        found = flat[..., : units[1]]
        options = {"penalty": 3.0, "one_sided": False}
        loss = layers.top_reduce(highest, weight, hidden, out, norm, found, SLOPE, "ieee", **options)
        v2 = reference.tangent(highest.double(), weight.double(), hidden[:, 2 * batch :].double(), SLOPE)
        true, difference = reference.top_reduce(v2, hidden.double(), out.double(), _signs(batch, True))
        penalty = 3.0 * (norm.double() - 1).square().mean(1)
        assert relative(found.sum(0), true) < LIMIT
        assert relative(loss.sum(1), difference + penalty) < LIMIT
        assert bool(flat[..., units[1] :].isnan().all())

    @SIZES
    @pytest.mark.parametrize("parts", [1, 3])
    @pytest.mark.parametrize("top", [False, True])
    def test_wgrad(self, modules, batch, width, units, parts, top):
        deltas, out = some(modules, 3 * batch, units[1]), some(modules, units[1], seed=1)
        below, tangents = some(modules, 3 * batch, width, seed=2), some(modules, batch, width, seed=3)
        size = units[1] * width
        flat = torch.full((parts, modules, size + units[1] + 1), math.nan, device=DEVICE)
        weight = flat[..., :size].view(parts, modules, units[1], width)
        bias = flat[..., size : size + units[1]]
        layers.wgrad(deltas, out if top else None, below, tangents, weight, bias, SLOPE, "ieee")
        s = deltas.double()
        if top:
            s = reference.top_delta(s, out.double(), _signs(batch, True), SLOPE)
        true = reference.wgrad(s, below.double(), tangents.double())
        assert relative(weight.sum(0), true[0]) < LIMIT
        assert relative(bias.sum(0), true[1]) < LIMIT
        assert bool(flat[..., -1].isnan().all())


def _signs(batch, signed):
    signs = torch.ones(3 * batch, 1, dtype=torch.float64, device=DEVICE)
    if signed:
        signs[:batch] = 1 / batch
        signs[batch : 2 * batch] = -1 / batch
    return signs


def agree(found, true):
    """One critic step against another; gradients that vanish are held against the largest one."""
    assert relative(found.loss, true.loss) < LIMIT
    assert relative(found.norm, true.norm) < LIMIT
    largest = max(float(grad.norm()) for grad in true.grads.tensors())
    for one, other in zip(found.grads.tensors(), true.grads.tensors(), strict=True):
        assert one.shape == other.shape
        assert one.dtype == torch.float32
        assert float((one - other).norm()) <= LIMIT * max(float(other.norm()), 1e-3 * largest)


class TestSteps:
    @SIZES
    @pytest.mark.parametrize("parts", [1, 2])
    def test_loss_and_gradients(self, modules, batch, width, units, parts, monkeypatch):
        monkeypatch.setattr(configs, "splits", lambda *_: parts)
        critics, x = critics_of([width, *units], modules), some(modules, 3 * batch, width)
        agree(critic.critic_loss_and_grads(x, critics), reference.critic_loss_and_grads(x.double(), doubled(critics)))

    @pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
    @pytest.mark.parametrize("one_sided", [False, True])
    def test_penalised_columns_and_side(self, one_sided, activation):
        critics = critics_of([6, 12, 12], 2, activation=activation)
        critics.out.mul_(0.4)
        x = some(2, 3 * 21, 6)
        for columns in (some(6) > -0.5, (some(2, 6, seed=5) > -0.5).float()):
            options = {"columns": columns, "one_sided": one_sided, "penalty": 3.0}
            found = critic.critic_loss_and_grads(x, critics, **options)
            agree(found, reference.critic_loss_and_grads(x.double(), doubled(critics), **options))

    def test_one_critic_without_the_axis_of_modules(self):
        lone, x = critics_of([5, 8, 8], None), some(3 * 9, 5)
        agree(critic.critic_loss_and_grads(x, lone), reference.critic_loss_and_grads(x.double(), doubled(lone)))
        found = critic.values_of(x, lone, gradient=True)
        for one, other in zip(found, reference.values_of(x.double(), doubled(lone), gradient=True), strict=True):
            assert relative(one, other) < LIMIT

    def test_wide_rows(self):
        critics, x = critics_of([130, 8, 8], 2), some(2, 3 * 5, 130)
        columns = some(2, 130, seed=5) > 0
        found = critic.critic_loss_and_grads(x, critics, columns=columns)
        agree(found, reference.critic_loss_and_grads(x.double(), doubled(critics), columns=columns))

    def test_parameters_and_rows_that_do_not_lie_in_one_piece(self):
        critics, x = critics_of([6, 10, 12], 3), some(3, 3 * 7, 6)
        true = critic.critic_loss_and_grads(x, critics)
        turned = critics.map(lambda one: one.mT.contiguous().mT if one.dim() == 3 else one)
        strided = torch.cat([x, x], 2)[..., :6]
        for found, other in zip(
            critic.critic_loss_and_grads(strided, turned).grads.tensors(), true.grads.tensors(), strict=True
        ):
            assert torch.equal(found, other)

    def test_gradients_lie_as_parameters_do_with_zeros_between(self):
        critics, x = critics_of([3, 5, 7], 2), some(2, 3 * 4, 3)
        grads = critic.critic_loss_and_grads(x, critics).grads
        flat = grads.weights[0]._base
        size = kernels.critic_size([3, 5, 7])
        assert flat.shape[-1] == size
        same = kernels.critic_views(flat.reshape(-1, 2, size)[0], [3, 5, 7])
        for one, other in zip(grads.tensors(), same.tensors(), strict=True):
            assert torch.equal(one, other)
        used = sum(one[0].numel() for one in grads.tensors())
        assert int((flat == 0).sum()) >= 2 * (size - used) + 2
        assert bool(torch.isfinite(flat).all())

    def test_twice_the_same_bits_and_any_module_by_itself(self):
        # of so few rows, which are summed in one part whatever the number of modules
        critics, x = critics_of([6, 20, 20], 2), some(2, 3 * 33, 6)
        first, second = critic.critic_loss_and_grads(x, critics), critic.critic_loss_and_grads(x, critics)
        own = critic.critic_loss_and_grads(x[1], critics.map(lambda one: one[1]))
        for one, again, alone in zip(first.grads.tensors(), second.grads.tensors(), own.grads.tensors(), strict=True):
            assert torch.equal(one, again)
            assert torch.equal(one[1], alone)

    def test_tiles_change_only_the_order_of_sums(self, monkeypatch):
        critics, x = critics_of([18, 34, 33], 1), some(1, 3 * 34, 18)
        true = reference.critic_loss_and_grads(x.double(), doubled(critics))
        for name in ("lin_act", "delta", "top_reduce", "wgrad"):
            with_tile(monkeypatch, name, ROWS=16, UNITS=32, INPUTS=16)
        with_tile(monkeypatch, "gp_norm_tangent", ROWS=64, UNITS=16, INPUTS=32)
        monkeypatch.setattr(configs, "splits", lambda *_: 3)
        agree(critic.critic_loss_and_grads(x, critics), true)


class TestAutograd:
    def test_values_have_the_gradient_in_the_rows(self):
        critics, x = critics_of([5, 9, 8], 3), some(3, 10, 5)
        leaf, upstream = x.clone().requires_grad_(), some(3, 10, seed=4)
        value = critic.critic_values(leaf, critics)
        (found,) = torch.autograd.grad(value, leaf, upstream)
        true, g = reference.values_of(x.double(), doubled(critics), gradient=True)
        assert relative(value.detach(), true) < LIMIT
        assert relative(found, g * upstream[..., None].double()) < LIMIT
        assert not critic.critic_values(x, critics).requires_grad


class TestRouting:
    @pytest.mark.parametrize(
        ("widths", "options", "dtype"),
        [
            ([5, 8], {}, torch.float32),
            ([5, 8, 8, 8], {}, torch.float32),
            ([5, 8, 8], {"activation": "silu"}, torch.float32),
            ([5, 8, 8], {"layer_norm": True}, torch.float32),
            ([5, 8, 8], {}, torch.float64),
        ],
        ids=["one layer", "three layers", "smooth", "normalised", "float64"],
    )
    def test_other_critics_are_left_to_the_twin(self, widths, options, dtype):
        critics = random_critics(widths, 2, dtype=dtype, **options).map(lambda one: one.to(DEVICE))
        x = random_rows(2, 9, 5, dtype=dtype).to(DEVICE)
        found, true = critic.critic_loss_and_grads(x, critics), reference.critic_loss_and_grads(x, critics)
        assert torch.equal(found.loss, true.loss)
        assert all(torch.equal(a, b) for a, b in zip(found.grads.tensors(), true.grads.tensors(), strict=True))
        assert torch.equal(critic.critic_values(x, critics), reference.critic_values(x, critics))
        both = (form.values_of(x, critics, gradient=True) for form in (critic, reference))
        assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))

    def test_no_rows(self):
        critics = critics_of([5, 8, 8], 2)
        assert critic.critic_values(some(2, 0, 5), critics).shape == (2, 0)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": torch.zeros(8, 5)}, "three groups of equal size, not 8"),
            ({"x": torch.zeros(9, 4)}, "do not fit each other"),
            ({"penalty": -1.0}, "must not be negative"),
            ({"columns": torch.ones(4)}, "columns must be \\[5\\]"),
        ],
    )
    def test_refuses_what_the_twin_refuses(self, change, message):
        given = {"x": torch.zeros(9, 5), "params": random_critics([5, 8, 8], dtype=torch.float32)} | change
        for form in (critic, reference):
            with pytest.raises(ValueError, match=message):
                form.critic_loss_and_grads(**given)


class TestPrecision:
    def test_follows_one_rule(self, monkeypatch):
        monkeypatch.delenv("MDCM_PRECISION")
        assert configs.precision("training") == "tf32"
        assert configs.precision("inference") == "ieee"
        for asked in configs.PRECISIONS:
            monkeypatch.setenv("MDCM_PRECISION", asked)
            assert configs.precision("training") == configs.precision("inference") == asked
        monkeypatch.setenv("MDCM_PRECISION", "fp16")
        with pytest.raises(ValueError, match="MDCM_PRECISION must be auto, ieee, tf32, tf32x3, bf16, not 'fp16'"):
            configs.precision("training")

    def test_bfloat16_rounds_the_factors_of_products(self, monkeypatch):
        modules, batch, width, units = 2, 13, 6, (33, 20)
        # the interpreter cuts off where a card rounds, so that its error is about twice that of a card
        x, weight, bias = some(modules, batch, width), some(modules, units[0], width, seed=1), some(modules, units[0])
        found = layers.lin_act(x, weight, bias, SLOPE, "bf16")
        true = reference.lin_act(x.double(), weight.double(), bias.double(), SLOPE)
        assert 1e-4 < relative(found, true) < 2e-2
        critics, rows = critics_of([width, *units], modules), some(modules, 3 * batch, width, seed=2)
        true = reference.critic_loss_and_grads(rows.double(), doubled(critics))
        monkeypatch.setenv("MDCM_PRECISION", "bf16")
        assert 1e-4 < relative(critic.critic_loss_and_grads(rows, critics).norm, true.norm) < 5e-2

    def test_every_product_of_an_operation_has_it(self, monkeypatch):
        asked = []
        launch = layers.launch

        def watched(*arguments, **constants):
            asked.append(constants.get("PRECISION"))
            launch(*arguments, **constants)

        monkeypatch.setattr(layers, "launch", watched)
        critics, x = critics_of([5, 8, 8], 1), some(1, 9, 5)
        monkeypatch.setenv("MDCM_PRECISION", "tf32x3")
        critic.critic_loss_and_grads(x, critics)
        assert asked == ["tf32x3"] * 7
        monkeypatch.delenv("MDCM_PRECISION")
        asked.clear()
        critic.values_of(x, critics, gradient=False)
        critic.values_of(x, critics, gradient=True)
        assert asked == ["ieee"] * 2 + ["tf32"] * 3
