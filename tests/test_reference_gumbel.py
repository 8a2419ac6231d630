"""Gumbel draws and their gradient: laws, autograd, and statistics with derived limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import chi_square, critical_chi_square

from mdcm import kernels
from mdcm.kernels.gumbel import reference

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32)


def random_logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gumbels(*shape, seed=0, dtype=torch.float64):
    noise = kernels.gumbel_noise(seed, torch.arange(math.prod(shape[:-1])), 0, shape[-1])
    return noise.to(dtype).reshape(shape)


def levels(packing, packed):
    """The columns of each variable."""
    return packed.split(list(packing.sizes), -1)


def winners(packing, scores):
    return torch.stack([one.argmax(-1) for one in levels(packing, scores)], -1)


class TestDraws:
    @given(sizes=SIZES, seed=SEEDS, rows=st.integers(1, 9), modules=st.sampled_from([None, 1, 3]))
    def test_a_hard_draw_is_the_winner_of_the_race(self, sizes, seed, rows, modules):
        packing = kernels.Packing(sizes)
        shape = (rows, packing.width) if modules is None else (modules, rows, packing.width)
        logits, noise = random_logits(*shape, seed=seed), gumbels(*shape, seed=seed)
        drawn = kernels.gumbel_softmax(logits, packing, 0.5, noise)
        assert torch.equal(winners(packing, drawn), winners(packing, logits + noise))
        # exactly one-hot, to the last bit
        assert bool(((drawn == 0) | (drawn == 1)).all())
        assert all(bool((one.sum(-1) == 1).all()) for one in levels(packing, drawn))

    @given(sizes=SIZES, seed=SEEDS, tau=st.floats(0.05, 10))
    def test_a_soft_draw_is_the_softmax_of_each_variable(self, sizes, seed, tau):
        packing = kernels.Packing(sizes)
        logits, noise = random_logits(5, packing.width, seed=seed), gumbels(5, packing.width)
        drawn = kernels.gumbel_softmax(logits, packing, tau, noise, hard=False)
        true = [(one / tau).softmax(-1) for one in levels(packing, logits + noise)]
        assert torch.allclose(drawn, torch.cat(true, -1), rtol=1e-13, atol=0)

    @given(sizes=SIZES, seed=SEEDS, tau=st.floats(0.05, 10), hard=st.booleans())
    def test_gradient_against_autograd(self, sizes, seed, tau, hard):
        packing = kernels.Packing(sizes)
        logits = random_logits(2, 5, packing.width, seed=seed).requires_grad_()
        noise, upstream = gumbels(2, 5, packing.width), random_logits(2, 5, packing.width, seed=seed + 1)
        (found,) = torch.autograd.grad(kernels.gumbel_softmax(logits, packing, tau, noise, hard=hard), logits, upstream)
        soft = torch.cat([(one / tau).softmax(-1) for one in levels(packing, logits + noise)], -1)
        (true,) = torch.autograd.grad(soft, logits, upstream)
        # the gradient is a difference of terms of size |upstream| / tau
        assert float((found - true).abs().max()) <= 1e-13 * max(1.0, 1 / tau) * float(upstream.abs().max())

    def test_straight_through_gradient_is_the_soft_one_bit_for_bit(self):
        packing = kernels.Packing([2, 3, 64, 2, 5, 17, 4])
        noise, upstream = gumbels(33, packing.width), random_logits(33, packing.width, seed=1)
        found = []
        for hard in (True, False):
            logits = random_logits(33, packing.width).requires_grad_()
            drawn = kernels.gumbel_softmax(logits, packing, 0.25, noise, hard=hard)
            found += torch.autograd.grad(drawn, logits, upstream)
        assert torch.equal(*found)

    def test_gradcheck(self):
        packing = kernels.Packing([2, 3, 2])
        noise = random_logits(3, 7, seed=2)

        def soft(logits):
            return kernels.gumbel_softmax(logits, packing, 0.7, noise, hard=False)

        assert torch.autograd.gradcheck(soft, random_logits(3, 7, scale=1.0).requires_grad_())

    @pytest.mark.parametrize("tile", [1, 3, 63, 100])
    def test_a_row_is_the_same_in_any_batch(self, tile):
        packing = kernels.Packing([3, 3, 2])
        logits, noise = (make(130, 8, dtype=torch.float32) for make in (random_logits, gumbels))
        drawn = kernels.gumbel_softmax(logits, packing, 0.5, noise, hard=False)
        parts = [
            kernels.gumbel_softmax(one, packing, 0.5, own, hard=False)
            for one, own in zip(logits.split(tile), noise.split(tile), strict=True)
        ]
        assert torch.equal(torch.cat(parts), drawn)

    def test_stacked_is_the_loop_over_modules(self):
        packing = kernels.Packing([3, 2, 3])
        logits, noise = random_logits(4, 6, 8), gumbels(4, 6, 8)
        together = kernels.gumbel_softmax(logits, packing, 0.5, noise, hard=False)
        for module in range(4):
            apart = kernels.gumbel_softmax(logits[module], packing, 0.5, noise[module], hard=False)
            assert torch.equal(together[module], apart)

    def test_a_temperature_on_the_device_may_fall_before_the_backward_pass(self):
        packing, tau = kernels.Packing([3]), torch.tensor(0.5, dtype=torch.float64)
        logits, noise = random_logits(4, 3).requires_grad_(), gumbels(4, 3)
        drawn = kernels.gumbel_softmax(logits, packing, tau, noise)
        upstream = random_logits(4, 3, seed=3)
        true = reference.gumbel_st_bwd(logits.detach(), upstream, packing, 0.5, noise)
        tau.fill_(0.1)
        (found,) = torch.autograd.grad(drawn, logits, upstream)
        assert torch.equal(found, true)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_levels_that_cannot_occur_and_extreme_logits(self, dtype):
        packing = kernels.Packing([4, 2])
        logits = torch.tensor([[1e4, -1e4, 0.0, -math.inf, -math.inf, 3.0]], dtype=dtype).requires_grad_()
        for hard in (True, False):
            drawn = kernels.gumbel_softmax(logits, packing, 0.1, gumbels(1, 6), hard=hard)
            (found,) = torch.autograd.grad(drawn, logits, torch.ones_like(drawn).cumsum(-1))
            assert winners(packing, drawn).tolist() == [[0, 1]]
            assert bool(torch.isfinite(drawn).all())
            assert bool(torch.isfinite(found).all())
            assert float(found[0, 3].abs() + found[0, 4].abs()) == 0

    def test_hard_draws_follow_the_softmax(self):
        packing = kernels.Packing([5, 3])
        logits = torch.tensor([2.0, 0.0, -1.0, -6.0, 1.0, 0.0, 0.5, -2.0])
        n = 100_000
        drawn = kernels.gumbel_softmax(logits.expand(n, 8), packing, 0.1, gumbels(n, 8, seed=3, dtype=torch.float32))
        for one, logit in zip(levels(packing, drawn), levels(packing, logits.double()), strict=True):
            assert chi_square(one.sum(0).long(), logit.softmax(0).numpy()) < critical_chi_square(len(logit) - 1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logits": torch.zeros(4, 6)}, "logits must be floating point \\[..., B, 5\\]"),
            ({"logits": torch.zeros(5)}, "logits must be floating point"),
            ({"logits": torch.zeros(4, 5, dtype=torch.int64)}, "not torch.int64"),
            ({"tau": 0.0}, "temperature 0.0 must be positive"),
            ({"tau": -1.0}, "temperature -1.0 must be positive"),
            ({"tau": math.nan}, "temperature nan must be positive"),
            ({"tau": torch.tensor(1.0, requires_grad=True)}, "constants here: detach"),
            ({"noise": torch.zeros(4, 5, requires_grad=True)}, "constants here: detach"),
            ({"noise": torch.zeros(3, 5)}, "must have the shape of the logits"),
        ],
    )
    def test_refused(self, change, message):
        given = {
            "logits": torch.zeros(4, 5),
            "packing": kernels.Packing([2, 3]),
            "tau": 1.0,
            "noise": torch.zeros(4, 5),
        }
        with pytest.raises(ValueError, match=message):
            kernels.gumbel_softmax(**(given | change))

    def test_a_second_derivative_is_refused(self):
        logits = torch.zeros(2, 3, requires_grad=True)
        drawn = kernels.gumbel_softmax(logits, kernels.Packing([3]), 1.0, torch.zeros(2, 3), hard=False)
        (g,) = torch.autograd.grad(drawn[:, 0].sum(), logits, torch.ones(()), create_graph=True)
        with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
            g.square().sum().backward()

    @pytest.mark.parametrize("sizes", [[], [2, 0]])
    def test_a_packing_of_nothing(self, sizes):
        with pytest.raises(ValueError, match="at least one"):
            kernels.Packing(sizes)
