"""Fused rows, optimiser and generator layer against their twins, and a whole training with and without kernels."""

import subprocess
import sys

import pytest
import torch
from test_reference_gumbel import address
from test_reference_training import randn, state
from test_triton_noise import DEVICE, relative

from mdcm import kernels
from mdcm.kernels import adam, batch, generator, reference

# by the norm, for float32 kernels against float64
LIMIT = 2e-6


@pytest.fixture(autouse=True)
def _conditions(monkeypatch):
    """Plain float32 products, and NaN in memory that a kernel is to fill."""
    monkeypatch.setenv("MDCM_PRECISION", "ieee")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on_device(*args, **kwargs):
    return kernels.NoiseAddress(*(one.to(DEVICE) for one in address(*args, **kwargs)))


def some(*shape, seed=0):
    return randn(*shape, seed=seed, dtype=torch.float32).to(DEVICE)


def some_codes(sizes, *shape, dtype=torch.uint8):
    generator_ = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(0, size, shape, generator=generator_) for size in sizes], -1).to(DEVICE, dtype)


class TestCriticRows:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    @pytest.mark.parametrize("modules", [None, 3])
    @pytest.mark.parametrize("padding", [0, 2, 30])
    def test_are_those_of_the_twin_bit_for_bit(self, padding, modules, dtype):
        packing = kernels.Packing([2, 3, 1, 40], device=DEVICE)
        lead = () if modules is None else (modules,)
        codes, fake = some_codes(packing.sizes, *lead, 50, dtype=dtype), some(*lead, 37, packing.width + padding)
        place = on_device(37, seed=2**63 + 5, step=9, modules=modules, first=2**32 - 99)
        found, true = (form.interp_gather(codes, fake, packing, place) for form in (batch, reference))
        if DEVICE.type == "cpu":
            assert torch.equal(found, true)
        else:
            # the point between is rounded once where a device multiplies and adds in one instruction
            assert torch.equal(found[..., :74, :], true[..., :74, :])
            assert relative(found, true) < LIMIT

    def test_codes_that_all_modules_share_are_not_copied(self, monkeypatch):
        packing, shared = kernels.Packing([2, 3], device=DEVICE), some_codes([2, 3], 20)
        given = []
        launch = batch.launch
        monkeypatch.setattr(batch, "launch", lambda *args, **kwargs: (given.append(args[3]), launch(*args, **kwargs)))
        place, fake = on_device(6, modules=4), some(4, 6, 5)
        found = batch.interp_gather(shared.expand(4, 20, 2), fake, packing, place)
        assert given[0].data_ptr() == shared.data_ptr()
        assert relative(found, reference.interp_gather(shared.expand(4, 20, 2), fake, packing, place)) < LIMIT

    def test_other_types_and_no_rows_are_left_to_the_twin(self):
        packing, codes = kernels.Packing([2, 3], device=DEVICE), some_codes([2, 3], 20)
        for fake in (some(6, 5).double(), some(0, 5)):
            place = on_device(len(fake))
            found, true = (form.interp_gather(codes, fake, packing, place) for form in (batch, reference))
            assert torch.equal(found, true)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fake": torch.zeros(4, 4)}, "fake rows must be"),
            ({"codes": torch.zeros(9, 3, dtype=torch.uint8)}, "codes must be"),
            ({"codes": torch.zeros(0, 2, dtype=torch.uint8)}, "population 0 must be in"),
            ({"address": address(3)}, "the address is of \\[3\\] rows"),
            ({"address": address(4, 2)}, "sites \\[..., 1\\]"),
        ],
    )
    def test_refuses_what_the_twin_refuses(self, change, message):
        given = {
            "codes": torch.zeros(9, 2, dtype=torch.uint8),
            "fake": torch.zeros(4, 5),
            "packing": kernels.Packing([2, 3]),
            "address": address(4),
        }
        with pytest.raises(ValueError, match=message):
            batch.interp_gather(**(given | change))


class TestAdam:
    @pytest.mark.parametrize("betas", [(0.5, 0.9), (0.0, 0.9), (0.9, 0.999)])
    @pytest.mark.parametrize("size", [11, 1500, 2048])
    def test_is_the_adam_of_the_twin(self, size, betas):
        ours = {name: tensor.to(DEVICE) for name, tensor in state(3, size, dtype=torch.float32).items()}
        ours["steps"] += torch.tensor([0, 7, 10**6], device=DEVICE)
        true = {name: one.double() if one.is_floating_point() else one.clone() for name, one in ours.items()}
        for step in range(4):
            # gradients of very different size, and exact zeros
            grads = some(3, size, seed=step) * torch.logspace(-8, 3, size, device=DEVICE)
            grads[:, 3] = 0
            adam.adam_flat(grads=grads, **ours, betas=betas)
            reference.adam_flat(grads=grads.double(), **true, betas=betas)
        assert torch.equal(ours["steps"], true["steps"])
        for name in ("params", "first", "second"):
            assert relative(ours[name], true[name]) < LIMIT

    def test_a_module_that_is_not_active_keeps_its_bits(self):
        ours = {name: tensor.to(DEVICE) for name, tensor in state(3, 11, dtype=torch.float32).items()}
        ours["active"] = torch.tensor([True, False, True], device=DEVICE)
        before = {name: tensor.clone() for name, tensor in ours.items()}
        grads = some(3, 11)
        grads[1] = torch.nan
        adam.adam_flat(grads=grads, **ours)
        for name in ("params", "first", "second", "steps"):
            assert torch.equal(ours[name][1], before[name][1])
            assert not torch.equal(ours[name][0], before[name][0])
            assert bool(torch.isfinite(ours[name]).all())

    def test_partial_gradients_are_added_up(self):
        whole, parts = (
            {name: tensor.to(DEVICE) for name, tensor in state(3, 1100, dtype=torch.float32).items()} for _ in range(2)
        )
        grads = some(5, 3, 1100)
        adam.adam_flat(grads=grads.double().sum(0).float(), **whole)
        adam.adam_flat(grads=grads, **parts)
        # the first step has the sign of the gradient alone, so the moments are looked at
        assert relative(parts["first"], whole["first"]) < LIMIT
        assert relative(parts["second"], whole["second"]) < LIMIT

    def test_other_types_and_views_are_left_to_the_twin(self):
        for dtype, strided in ((torch.float64, False), (torch.float32, True)):
            ours, true = (
                {name: tensor.to(DEVICE) for name, tensor in state(3, 11, dtype=dtype).items()} for _ in range(2)
            )
            if strided:
                for given in (ours, true):
                    given["params"] = torch.cat([given["params"]] * 2, 1)[:, :11]
            grads = some(3, 11).to(dtype)
            adam.adam_flat(grads=grads, **ours)
            reference.adam_flat(grads=grads, **true)
            assert all(torch.equal(ours[name], true[name]) for name in ours)

    def test_refuses_what_the_twin_refuses(self):
        with pytest.raises(ValueError, match="must be \\[M, P\\]"):
            adam.adam_flat(grads=torch.zeros(3, 10), **state(dtype=torch.float32))


class TestGeneratorLayer:
    @pytest.mark.parametrize(
        ("modules", "rows", "inputs", "units"),
        [(2, 7, 5, 20), (1, 33, 64, 32), (3, 2, 1, 1), (1, 200, 12, 40)],
        ids=["ragged", "aligned", "single", "several tiles"],
    )
    def test_forward_and_backward_against_the_twin(self, modules, rows, inputs, units):
        x, weight = some(modules, rows, inputs), some(modules, units, inputs, seed=1)
        # views of one buffer, as an optimiser has them
        gain, shift, mean, var = some(modules, 4 * units, seed=2).add_(2).split(units, 1)
        double = [one.double() for one in (x, weight, gain, shift, mean, var)]
        found = generator.lin_bn_relu_fwd(x, weight, gain, shift, mean, var)
        true = reference.lin_bn_relu_fwd(*double)
        for one, other in zip((*found, mean, var), (*true, *double[4:]), strict=True):
            assert relative(one, other) < LIMIT
        upstream = some(modules, rows, units, seed=3)
        # from the same forward pass: of two rows all but rounding cancels
        kept = [one.double() for one in (upstream, *found, gain)]
        scale = float((gain * found[2]).abs().max() * upstream.abs().max())
        for one, other in zip(generator.bn_relu_bwd(upstream, *found, gain), reference.bn_relu_bwd(*kept), strict=True):
            assert float((one - other).norm()) <= LIMIT * max(float(other.norm()), scale)

    def test_larger_batches_and_other_types_are_left_to_the_twin(self):
        for rows, dtype in ((257, torch.float32), (5, torch.float64)):
            given = [randn(*shape, dtype=dtype).to(DEVICE) for shape in ((1, rows, 3), (1, 4, 3), (1, 4), (1, 4))]
            statistics = [torch.ones(1, 4, dtype=dtype, device=DEVICE) for _ in range(4)]
            found = generator.lin_bn_relu_fwd(*given, *statistics[:2])
            true = reference.lin_bn_relu_fwd(*given, *statistics[2:])
            assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))
            assert torch.equal(statistics[0], statistics[2])
            upstream = torch.ones_like(found[0])
            back = [form.bn_relu_bwd(upstream, *found, given[2]) for form in (generator, reference)]
            assert all(torch.equal(a, b) for a, b in zip(*back, strict=True))

    def test_a_single_row_has_no_variance(self):
        one = torch.ones(1, 2)
        with pytest.raises(ValueError, match="at least 2 rows, not 1"):
            generator.lin_bn_relu_fwd(torch.ones(1, 1, 3), torch.ones(1, 2, 3), one, one, one.clone(), one.clone())


# ---- a whole training


class _Layer(torch.autograd.Function):
    """The hidden layer of the generator."""

    @staticmethod
    def forward(ctx, x, weight, gain, shift, mean, var):
        output, unit, inverse = kernels.lin_bn_relu_fwd(x, weight, gain, shift, mean, var)
        ctx.save_for_backward(x, gain, output, unit, inverse)
        return output

    @staticmethod
    def backward(ctx, grad):
        x, gain, output, unit, inverse = ctx.saved_tensors
        before, in_gain, in_shift = kernels.bn_relu_bwd(grad, output, unit, inverse, gain)
        return None, torch.bmm(before.mT, x), in_gain, in_shift, None, None


class Training:
    """Small GANs trained together by the public operations alone, without a step that waits for the device.

    Adam's eps is large: with a small one it takes a full step in the direction of what is only rounding.

    Args:
        dtype: Type of all numbers.
        modules: Number of GANs.
        rows: Rows of a batch.
        hidden: Units of each hidden layer, of both networks.
        sizes: Levels of each variable.
    """

    def __init__(self, dtype, modules=2, rows=24, hidden=16, sizes=(2, 3)):
        self.packing = kernels.Packing(sizes, device=DEVICE)
        cells = torch.tensor([[0] * len(sizes), [size - 1 for size in sizes], [1] * len(sizes)], dtype=torch.uint8)
        self.codes = cells[[0, 1, 2, 1]].to(DEVICE).expand(modules, 4, len(sizes))
        self.widths = [self.packing.width, hidden, hidden]
        options = {"dtype": dtype, "device": DEVICE}
        self.parts = [hidden * 4, hidden, hidden, self.packing.width * hidden]
        flat = [
            0.3 * randn(modules, size, seed=place, dtype=torch.float32)
            for place, size in enumerate([kernels.critic_size(self.widths), sum(self.parts)])
        ]
        self.flat_critics, self.flat_generators = (one.to(**options) for one in flat)
        self.critics = kernels.critic_views(self.flat_critics, self.widths)
        self.optimisers = [
            {
                "first": torch.zeros_like(one),
                "second": torch.zeros_like(one),
                "steps": torch.zeros(modules, dtype=torch.int64, device=DEVICE),
                "lr": torch.full((modules,), 1e-2, **options),
                "active": torch.ones(modules, dtype=torch.bool, device=DEVICE),
                "eps": 1e-3,
            }
            for one in (self.flat_critics, self.flat_generators)
        ]
        self.statistics = torch.zeros(modules, hidden, **options), torch.ones(modules, hidden, **options)
        self.latent = randn(modules, rows, 4, seed=9, dtype=torch.float32).to(**options)
        self.rng, self.tau = kernels.rng_state(3, device=DEVICE), torch.tensor(0.7, **options)
        variables = torch.arange(len(sizes) * modules, device=DEVICE).reshape(modules, -1)
        self.place = kernels.NoiseAddress(self.rng, torch.arange(rows, device=DEVICE), variables)
        self.numbers = self.place._replace(sites=torch.arange(modules, device=DEVICE)[:, None])

    def generate(self, flat):
        weight, gain, shift, last = flat.split(self.parts, 1)
        modules, hidden = gain.shape
        layer = _Layer.apply(self.latent, weight.view(modules, hidden, 4), gain + 1, shift, *self.statistics)
        logits = torch.bmm(layer, last.view(modules, -1, hidden).mT)
        return kernels.gumbel_softmax(logits, self.packing, self.tau, self.place)[0]

    def step(self):
        """One step of all critics and one of all generators; the loss of the critics before it."""
        self.rng[1] += 1
        with torch.no_grad():
            fake = self.generate(self.flat_generators)
        x = kernels.interp_gather(self.codes, fake, self.packing, self.numbers)
        found = kernels.critic_loss_and_grads(x, self.critics)
        grads = torch.zeros_like(self.flat_critics)
        for view, grad in zip(kernels.critic_views(grads, self.widths).tensors(), found.grads.tensors(), strict=True):
            view.copy_(grad)
        kernels.adam_flat(self.flat_critics, grads, **self.optimisers[0])
        leaf = self.flat_generators.detach().requires_grad_()
        values = kernels.critic_values(self.generate(leaf), self.critics)
        (grad,) = torch.autograd.grad(-values.mean(1).sum(), leaf)
        kernels.adam_flat(self.flat_generators, grad, **self.optimisers[1])
        return found.loss

    def losses(self, steps):
        return torch.stack([self.step() for _ in range(steps)]).double()

    def state(self):
        """All that a step changes."""
        moving = [one[name] for one in self.optimisers for name in ("first", "second", "steps")]
        return [self.flat_critics, self.flat_generators, *self.statistics, self.rng, *moving]


def test_training_follows_the_same_curve_with_and_without_kernels(monkeypatch):
    monkeypatch.setenv("MDCM_KERNELS", "reference")
    exact, twin = Training(torch.float64).losses(20), Training(torch.float32).losses(20)
    monkeypatch.setenv("MDCM_KERNELS", "triton")
    fused = Training(torch.float32).losses(20)
    # it learns, so that there is something to follow
    assert float(exact[0].mean() - exact[-1].mean()) > 1
    # float32 without kernels says what to expect of rounding with them, from one in the last place of the first loss on
    expected = (twin - exact).abs().cummax(0).values.clamp_min(float(exact[0].max()) * 2.0**-23)
    assert bool(((fused - exact).abs() <= 8 * expected).all())


# ---- importing


def test_importing_kernels_and_the_twins_do_not_import_triton():
    program = (
        "import sys, torch\n"
        "from mdcm import kernels\n"
        "critic = kernels.critic_views(torch.ones(kernels.critic_size([2, 3])), [2, 3])\n"
        "kernels.critic_loss_and_grads(torch.ones(3, 2), critic)\n"
        "print('triton' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
