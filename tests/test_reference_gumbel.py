"""Gumbel draws, their gradient and their posterior: laws, autograd, and statistics with derived limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import chi_square, critical_chi_square
from test_kernels import KS_LIMIT, kolmogorov_smirnov

from mdcm import kernels
from mdcm.kernels import reference

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32)


def address(rows=7, variables=1, *, seed=0, step=0, modules=None, first=0):
    sites = torch.arange(variables * (modules or 1)) + 10
    return kernels.NoiseAddress(
        kernels.rng_state(seed, step),
        torch.arange(first, first + rows),
        sites if modules is None else sites.reshape(modules, variables),
    )


def random_logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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
        logits = random_logits(*shape, seed=seed)
        place = address(rows, len(sizes), seed=seed, modules=modules)
        drawn, level, noise = kernels.gumbel_softmax(logits, packing, 0.5, place)
        assert level.dtype == torch.int32
        assert torch.equal(noise, kernels.packed_gumbel_noise(place, packing).double())
        assert torch.equal(level.long(), winners(packing, logits + noise))
        assert torch.equal(level.long(), winners(packing, drawn))
        # exactly one-hot, to the last bit
        assert bool(((drawn == 0) | (drawn == 1)).all())
        assert all(bool((one.sum(-1) == 1).all()) for one in levels(packing, drawn))

    @given(sizes=SIZES, seed=SEEDS, tau=st.floats(0.05, 10))
    def test_a_soft_draw_is_the_softmax_of_each_variable(self, sizes, seed, tau):
        packing = kernels.Packing(sizes)
        logits = random_logits(5, packing.width, seed=seed)
        drawn, level, noise = kernels.gumbel_softmax(logits, packing, tau, address(5, len(sizes)), hard=False)
        true = [(one / tau).softmax(-1) for one in levels(packing, logits + noise)]
        assert torch.allclose(drawn, torch.cat(true, -1), rtol=1e-13, atol=0)
        assert torch.equal(level.long(), winners(packing, drawn))

    @given(sizes=SIZES, seed=SEEDS, tau=st.floats(0.05, 10), hard=st.booleans())
    def test_gradient_against_autograd(self, sizes, seed, tau, hard):
        packing = kernels.Packing(sizes)
        logits = random_logits(2, 5, packing.width, seed=seed).requires_grad_()
        upstream = random_logits(2, 5, packing.width, seed=seed + 1)
        drawn, _, noise = kernels.gumbel_softmax(logits, packing, tau, address(5, len(sizes), modules=2), hard=hard)
        (found,) = torch.autograd.grad(drawn, logits, upstream)
        soft = torch.cat([(one / tau).softmax(-1) for one in levels(packing, logits + noise)], -1)
        (true,) = torch.autograd.grad(soft, logits, upstream)
        # the gradient is a difference of terms of size |upstream| / tau
        assert float((found - true).abs().max()) <= 1e-13 * max(1.0, 1 / tau) * float(upstream.abs().max())

    def test_straight_through_gradient_is_the_soft_one_bit_for_bit(self):
        packing = kernels.Packing([2, 3, 64, 2, 5, 17, 4])
        upstream = random_logits(33, packing.width, seed=1)
        found = []
        for hard in (True, False):
            logits = random_logits(33, packing.width).requires_grad_()
            drawn, _, _ = kernels.gumbel_softmax(logits, packing, 0.25, address(33, 7), hard=hard)
            found += torch.autograd.grad(drawn, logits, upstream)
        assert torch.equal(*found)

    def test_gradcheck(self):
        packing = kernels.Packing([2, 3, 2])
        noise = random_logits(3, 7, seed=2)

        def soft(logits):
            return kernels.gumbel_softmax(logits, packing, 0.7, noise=noise, hard=False)[0]

        assert torch.autograd.gradcheck(soft, random_logits(3, 7, scale=1.0).requires_grad_())

    @pytest.mark.parametrize("hard", [True, False])
    def test_recorded_noise_replays_the_draw(self, hard):
        packing = kernels.Packing([2, 5])
        logits = random_logits(9, 7, dtype=torch.float32)
        first = kernels.gumbel_softmax(logits, packing, 0.3, address(9, 2), hard=hard)
        again = kernels.gumbel_softmax(logits, packing, 0.3, noise=first[2], hard=hard)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        backward = [
            reference.gumbel_st_bwd(logits, logits, packing, 0.3, place, noise=noise)
            for place, noise in ((address(9, 2), None), (None, first[2]))
        ]
        assert torch.equal(*backward)

    @pytest.mark.parametrize("tile", [1, 3, 63, 100])
    def test_a_row_is_the_same_in_any_batch(self, tile):
        packing = kernels.Packing([3, 3, 2])
        logits = random_logits(130, 8, dtype=torch.float32)
        drawn, _, _ = kernels.gumbel_softmax(logits, packing, 0.5, address(130, 3, seed=5, step=9))
        parts = [
            kernels.gumbel_softmax(part, packing, 0.5, address(len(part), 3, seed=5, step=9, first=place * tile))[0]
            for place, part in enumerate(logits.split(tile))
        ]
        assert torch.equal(torch.cat(parts), drawn)

    def test_stacked_is_the_loop_over_modules(self):
        packing = kernels.Packing([3, 2, 3])
        logits, place = random_logits(4, 6, 8), address(6, 3, modules=4)
        together = kernels.gumbel_softmax(logits, packing, 0.5, place, hard=False)
        for module in range(4):
            own = place._replace(sites=place.sites[module])
            apart = kernels.gumbel_softmax(logits[module], packing, 0.5, own, hard=False)
            assert all(torch.equal(a[module], b) for a, b in zip(together, apart, strict=True))

    def test_a_temperature_on_the_device_may_fall_before_the_backward_pass(self):
        packing, tau = kernels.Packing([3]), torch.tensor(0.5, dtype=torch.float64)
        logits = random_logits(4, 3).requires_grad_()
        drawn, _, _ = kernels.gumbel_softmax(logits, packing, tau, address(4))
        upstream = random_logits(4, 3, seed=3)
        true = reference.gumbel_st_bwd(logits.detach(), upstream, packing, 0.5, address(4))
        tau.fill_(0.1)
        (found,) = torch.autograd.grad(drawn, logits, upstream)
        assert torch.equal(found, true)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_levels_that_cannot_occur_and_extreme_logits(self, dtype):
        packing = kernels.Packing([4, 2])
        logits = torch.tensor([[1e4, -1e4, 0.0, -math.inf, -math.inf, 3.0]], dtype=dtype).requires_grad_()
        for hard in (True, False):
            drawn, level, _ = kernels.gumbel_softmax(logits, packing, 0.1, address(1, 2), hard=hard)
            (found,) = torch.autograd.grad(drawn, logits, torch.ones_like(drawn).cumsum(-1))
            assert level.tolist() == [[0, 1]]
            assert bool(torch.isfinite(drawn).all())
            assert bool(torch.isfinite(found).all())
            assert float(found[0, 3].abs() + found[0, 4].abs()) == 0

    def test_hard_draws_follow_the_softmax(self):
        packing = kernels.Packing([5, 3])
        logits = torch.tensor([2.0, 0.0, -1.0, -6.0, 1.0, 0.0, 0.5, -2.0])
        n = 100_000
        _, level, _ = kernels.gumbel_softmax(logits.expand(n, 8), packing, 0.1, address(n, 2, seed=3))
        for place, logit in enumerate(levels(packing, logits.double())):
            counts = torch.bincount(level[:, place], minlength=len(logit))
            assert chi_square(counts, logit.softmax(0).numpy()) < critical_chi_square(len(logit) - 1)


class TestPosterior:
    @given(
        sizes=SIZES,
        seed=SEEDS,
        scale=st.sampled_from([0.0, 1.0, 10.0, 40.0, 1e4, 1e30]),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        modules=st.sampled_from([None, 2]),
    )
    def test_the_winner_is_what_was_observed(self, sizes, seed, scale, dtype, modules):
        packing, rows = kernels.Packing(sizes), 40
        shape = (rows,) if modules is None else (modules, rows)
        logits = random_logits(*shape, packing.width, seed=seed, scale=scale, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        observed = torch.stack([torch.randint(-1, size, shape, generator=generator) for size in sizes], -1)
        place = address(rows, len(sizes), seed=seed, modules=modules)
        noise, log_weight = kernels.gumbel_posterior(logits, observed, packing, place)
        prior = kernels.packed_gumbel_noise(place, packing).to(dtype)
        assert noise.dtype == dtype
        assert bool(torch.isfinite(noise).all())
        won = winners(packing, logits + noise)
        assert torch.equal(torch.where(observed < 0, won, observed), won)
        parts = zip(*(levels(packing, one) for one in (logits, noise, prior)), strict=True)
        for variable, (logit, posterior, free) in enumerate(parts):
            seen = observed[..., variable]
            assert torch.equal(posterior[seen < 0], free[seen < 0])
            log_p = logit.log_softmax(-1).gather(-1, seen.clamp_min(0)[..., None])[..., 0]
            assert torch.equal(log_weight[..., variable], log_p.masked_fill(seen < 0, 0.0))

    def test_ties_are_broken_even_in_float32(self):
        # a million close races: without the repair some of them end in a tie or the wrong way
        packing, rows = kernels.Packing([6]), 160_000
        logits = random_logits(rows, 6, scale=40.0, dtype=torch.float32)
        observed = torch.randint(0, 6, (rows, 1), generator=torch.Generator().manual_seed(0))
        noise, _ = kernels.gumbel_posterior(logits, observed, packing, address(rows))
        scores = logits + noise
        own = scores.gather(1, observed)
        assert bool((scores.scatter(1, observed, -math.inf) < own).all())

    @pytest.mark.parametrize("level", [0, 1, 2, 3])
    def test_equals_the_truncated_gumbels_of_the_literature(self, level):
        # the largest score is a Gumbel at logsumexp(l), and the others are Gumbels cut off there
        logits = torch.tensor([0.5, -1.0, 1.3, 0.1], dtype=torch.float64)
        n, packing = 500, kernels.Packing([4])
        place = address(n)
        noise, _ = kernels.gumbel_posterior(logits.expand(n, 4), torch.full((n, 1), level), packing, place)
        shared = kernels.packed_gumbel_noise(place, kernels.Packing([1]), stream=kernels.STREAM_POSTERIOR).double()
        largest = logits.logsumexp(0) + shared
        free = logits + kernels.packed_gumbel_noise(place, packing).double()
        true = -torch.logaddexp(-largest, -free)
        true[:, level] = largest[:, 0]
        assert torch.allclose(logits + noise, true, rtol=0, atol=1e-13)

    def test_mixed_over_levels_it_is_the_prior(self):
        n = 60_000
        logits = torch.tensor([0.5, -1.0, 1.3, -2.5], dtype=torch.float64)
        packing = kernels.Packing([4])
        # the levels come from other noise than the posterior's
        _, observed, _ = kernels.gumbel_softmax(logits.expand(n, 4), packing, 1.0, address(n, seed=1))
        noise, _ = kernels.gumbel_posterior(logits.expand(n, 4), observed, packing, address(n, seed=2))
        for column in noise.T:
            assert kolmogorov_smirnov(column, lambda x: torch.exp(-torch.exp(-x))) < KS_LIMIT
        # six correlations, at 1e-4 for all of them together
        correlation = torch.corrcoef(noise.T) - torch.eye(4)
        assert float(correlation.abs().max()) < 4.4 / math.sqrt(n)

    @pytest.mark.parametrize("level", [0, 1, 3])
    def test_equals_rejection(self, level):
        n = 200_000
        logits = torch.tensor([0.5, -1.0, 1.3, -1.5], dtype=torch.float64)
        other = torch.tensor([-0.5, -1.6, 1.0, -2.5], dtype=torch.float64)
        packing = kernels.Packing([4])
        prior = kernels.packed_gumbel_noise(address(n, seed=8), packing).double()
        kept = prior[(logits + prior).argmax(1) == level]
        drawn, _ = kernels.gumbel_posterior(
            logits.expand(len(kept), 4), torch.full((len(kept), 1), level), packing, address(len(kept), seed=9)
        )
        # two samples of n rows: the distance is that of one sample of n / 2
        for one, two in zip(kept.T, drawn.T, strict=True):
            both = torch.cat([one, two]).sort().values
            gap = [torch.searchsorted(side.sort().values, both, right=True) / len(side) for side in (one, two)]
            assert float((gap[0] - gap[1]).abs().max()) * math.sqrt(len(kept) / 2) < KS_LIMIT
        # a counterfactual: the same noise under other logits
        counts = [torch.bincount((other + noise).argmax(1), minlength=4).double() for noise in (kept, drawn)]
        expected = (counts[0] + counts[1]) / 2
        enough = expected >= 5
        statistic = sum(float(((one - expected) ** 2 / expected)[enough].sum()) for one in counts)
        assert statistic < critical_chi_square(int(enough.sum()) - 1)

    def test_a_level_that_cannot_occur_keeps_its_prior_noise(self):
        packing, place = kernels.Packing([3]), address(50)
        logits = torch.tensor([0.0, -math.inf, 1.0]).expand(50, 3)
        noise, log_weight = kernels.gumbel_posterior(logits, torch.zeros(50, 1, dtype=torch.int64), packing, place)
        prior = kernels.packed_gumbel_noise(place, packing)
        assert torch.allclose(noise[:, 1], prior[:, 1], rtol=1e-6)
        assert bool(torch.isfinite(noise).all())
        assert float(log_weight.max()) == pytest.approx(-math.log1p(math.e), rel=1e-6)

    def test_likelihood_weighting_with_posterior_noise_answers_a_counterfactual(self):
        # P(Y_{x=1} | x=0, y=2) of x -> y by abduction, against the exact answer from many rejection draws
        n = 200_000
        packing = kernels.Packing([4])
        under = torch.tensor([[0.0, 1.0, 0.5, -1.0], [1.0, 0.0, -0.5, 0.5]], dtype=torch.float64)
        prior = kernels.packed_gumbel_noise(address(n, seed=20), packing).double()
        accepted = (under[0] + prior).argmax(1) == 2
        oracle = torch.bincount((under[1] + prior[accepted]).argmax(1), minlength=4) / accepted.sum()
        m = 40_000
        noise, weight = kernels.gumbel_posterior(
            under[0].expand(m, 4), torch.full((m, 1), 2), packing, address(m, seed=21)
        )
        found = torch.bincount((under[1] + noise).argmax(1), minlength=4) / m
        error = (oracle * (1 - oracle) * (1 / accepted.sum() + 1 / m)).sqrt().clamp_min(1e-9)
        assert bool(((found - oracle).abs() < 4.2 * error).all())
        assert float(weight[0].exp()) == pytest.approx(float(under[0].softmax(0)[2]))

    @pytest.mark.parametrize(
        ("observed", "message"),
        [
            (torch.tensor([[0, 3]]), "neither -1 nor a level"),
            (torch.tensor([[2, 0]]), "neither -1 nor a level"),
            (torch.tensor([[-2, 0]]), "neither -1 nor a level"),
            (torch.tensor([[0.0, 1.0]]), "must be integers \\[1, 2\\]"),
            (torch.tensor([[0]]), "must be integers \\[1, 2\\]"),
            (torch.tensor([[0, 2]]), "probability zero"),
        ],
    )
    def test_evidence_that_cannot_be(self, observed, message):
        logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, -math.inf]])
        with pytest.raises(ValueError, match=message):
            kernels.gumbel_posterior(logits, observed, kernels.Packing([2, 3]), address(1, 2))


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logits": torch.zeros(4, 6)}, "logits must be floating point \\[..., B, 5\\]"),
            ({"logits": torch.zeros(5)}, "logits must be"),
            ({"logits": torch.zeros(4, 5, dtype=torch.int64)}, "logits must be"),
            ({"tau": 0.0}, "temperature 0.0 must be positive"),
            ({"tau": -1.0}, "must be positive"),
            ({"tau": math.nan}, "must be positive"),
            ({"tau": torch.tensor(1.0, requires_grad=True)}, "constants here: detach"),
            ({"address": None}, "either an address or recorded noise"),
            ({"noise": torch.zeros(4, 5)}, "either an address or recorded noise"),
            ({"address": None, "noise": torch.zeros(3, 5)}, "must have the shape of the logits"),
            ({"address": None, "noise": torch.zeros(4, 5, requires_grad=True)}, "constants here: detach"),
            ({"address": address(3, 2)}, "must have the shape of the logits"),
            ({"address": address(4, 3)}, "sites \\[..., 2\\]"),
        ],
    )
    def test_refused(self, change, message):
        given = {"logits": torch.zeros(4, 5), "packing": kernels.Packing([2, 3]), "tau": 1.0, "address": address(4, 2)}
        with pytest.raises(ValueError, match=message):
            kernels.gumbel_softmax(**(given | change))

    def test_a_second_derivative_is_refused(self):
        logits = torch.zeros(2, 3, requires_grad=True)
        drawn, _, _ = kernels.gumbel_softmax(logits, kernels.Packing([3]), 1.0, address(2), hard=False)
        (g,) = torch.autograd.grad(drawn[:, 0].sum(), logits, torch.ones(()), create_graph=True)
        with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
            g.square().sum().backward()


class TestCriticRows:
    @given(sizes=SIZES, rows=st.integers(1, 9), population=st.integers(1, 50), padding=st.integers(0, 3), seed=SEEDS)
    def test_rows_lie_where_the_index_says(self, sizes, rows, population, padding, seed):
        packing, place = kernels.Packing(sizes), address(rows, seed=seed)
        rng = np.random.default_rng(seed)
        codes = torch.from_numpy(np.stack([rng.integers(0, size, population) for size in sizes], 1).astype(np.uint8))
        fake = random_logits(rows, packing.width + padding, seed=seed)
        found, real, between = kernels.interp_gather(codes, fake, packing, place).split(rows)
        drawn = kernels.batch_index(place, population)
        assert bool(((drawn >= 0) & (drawn < population)).all())
        assert torch.equal(found, fake)
        assert torch.equal(winners(packing, real[:, : packing.width]), codes[drawn].long())
        assert bool((real.sum(1) == len(sizes)).all())
        eps = (between - fake).sum(1) / (real - fake).sum(1)
        assert torch.allclose(between, eps[:, None] * real + (1 - eps[:, None]) * fake, rtol=1e-9, atol=1e-9)

    def test_stacked_modules_draw_apart(self):
        packing, place = kernels.Packing([2, 3]), address(6, 1, modules=4)
        codes = torch.zeros(4, 100, 2, dtype=torch.uint8)
        codes[..., 1] = torch.arange(100) % 3
        fake = random_logits(4, 6, 5)
        together = kernels.interp_gather(codes, fake, packing, place)
        assert len({tuple(one.tolist()) for one in kernels.batch_index(place, 100)}) == 4
        for module in range(4):
            own = place._replace(sites=place.sites[module])
            assert torch.equal(together[module], kernels.interp_gather(codes[module], fake[module], packing, own))

    def test_rows_and_points_are_uniform(self):
        n, place = 50_000, address(50_000, seed=4)
        counts = torch.bincount(kernels.batch_index(place, 7), minlength=7)
        assert chi_square(counts, np.full(7, 1 / 7)) < critical_chi_square(6)
        codes = torch.zeros(1, 1, dtype=torch.uint8)
        fake = torch.zeros(n, 1, dtype=torch.float64)
        eps = kernels.interp_gather(codes, fake, kernels.Packing([1]), place)[2 * n :]
        assert kolmogorov_smirnov(eps, lambda x: x) < KS_LIMIT
        # the share of the real row, which is one here
        words = kernels.random_words(4, torch.arange(n), 10, kernels.STREAM_INTERPOLATION, 1)
        assert torch.equal(eps, (words >> 8).double() / 2**24)
        correlation = torch.corrcoef(torch.stack([eps[:, 0], kernels.batch_index(place, 1000).double()]))
        assert abs(float(correlation[0, 1])) < 3.9 / math.sqrt(n)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fake": torch.zeros(4, 4)}, "fake rows must be"),
            ({"codes": torch.zeros(9, 3, dtype=torch.uint8)}, "codes must be"),
            ({"codes": torch.zeros(2, 9, 2, dtype=torch.uint8)}, "codes must be"),
            ({"codes": torch.zeros(0, 2, dtype=torch.uint8)}, "population 0 must be in"),
            ({"address": address(3)}, "the address is of \\[3\\] rows"),
            ({"address": address(4, 2)}, "sites \\[..., 1\\]"),
        ],
    )
    def test_refused(self, change, message):
        given = {
            "codes": torch.zeros(9, 2, dtype=torch.uint8),
            "fake": torch.zeros(4, 5),
            "packing": kernels.Packing([2, 3]),
            "address": address(4),
        }
        with pytest.raises(ValueError, match=message):
            kernels.interp_gather(**(given | change))
