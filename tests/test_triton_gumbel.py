"""Fused Gumbel races against their twins in float64: draws, gradients, posteriors, and the laws of both."""

import math

import pytest
import torch
from learning import chi_square, critical_chi_square
from test_kernels import KS_LIMIT, kolmogorov_smirnov
from test_reference_gumbel import address, levels, winners
from test_triton_noise import DEVICE, relative

from mdcm import kernels
from mdcm.kernels import configs, gumbel, reference

# by the norm, for float32 kernels against float64
LIMIT = 2e-6
RAGGED = [2, 3, 7, 2, 12, 1, 33]


@pytest.fixture(autouse=True)
def _poisoned():
    """Memory that a kernel is to fill holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def random_logits(*shape, seed=0, scale=2.0):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(DEVICE)


def at(*args, **kwargs):
    """An address on the device of the tests."""
    return kernels.NoiseAddress(*(one.to(DEVICE) for one in address(*args, **kwargs)))


def pack(sizes):
    return kernels.Packing(sizes, device=DEVICE)


def case(sizes, rows, modules, *, seed=0, scale=2.0):
    packing = pack(sizes)
    shape = (rows, packing.width) if modules is None else (modules, rows, packing.width)
    place = at(rows, len(sizes), seed=seed + 2**63, step=7, modules=modules, first=2**32 - 100)
    return packing, random_logits(*shape, seed=seed, scale=scale), place


def some_levels(packing, shape, seed=0, *, lowest=0):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randint(lowest, size, shape, generator=generator) for size in packing.sizes]
    return torch.stack(parts, -1).to(DEVICE)


def with_tiles(monkeypatch, elements):
    """Let every race run in tiles of another size."""
    for name in ("gumbel_st_fwd", "gumbel_st_bwd", "gumbel_posterior"):
        small = [
            configs._config(4, 1, 8, fusion=False, PAIRS=max(1, elements // levels), LEVELS=levels)
            for levels in (4, 16, 64)
        ]
        monkeypatch.setitem(configs.SHIPPED, name, tuple(small))


SHAPES = pytest.mark.parametrize(
    ("sizes", "rows", "modules"),
    [(RAGGED, 37, None), ([3], 1, 1), ([5, 5, 5], 19, 3), ([100, 2], 13, 2)],
    ids=["ragged", "a single race", "stacked", "many levels"],
)


class TestDraws:
    @SHAPES
    def test_hard_draws_are_those_of_the_twin(self, sizes, rows, modules):
        packing, logits, place = case(sizes, rows, modules)
        drawn, level, noise = gumbel.gumbel_softmax(logits, packing, 0.5, place)
        true, true_level, true_noise = reference.gumbel_softmax(logits.double(), packing, 0.5, place)
        assert level.dtype == torch.int32
        assert torch.equal(level, true_level)
        assert torch.equal(drawn.double(), true)
        assert relative(noise, true_noise) < LIMIT

    @SHAPES
    @pytest.mark.parametrize("tau", [0.1, 3.0])
    def test_soft_draws_and_gradients_against_the_twin(self, sizes, rows, modules, tau):
        packing, logits, place = case(sizes, rows, modules)
        drawn, level, _ = gumbel.gumbel_st_fwd(logits, packing, tau, place, hard=False)
        # a small temperature magnifies the rounding of l + G, so the twin is given the same noise
        noise = gumbel.gumbel_st_fwd(logits, packing, tau, place)[2].double()
        true, true_level, _ = reference.gumbel_st_fwd(logits.double(), packing, tau, noise=noise, hard=False)
        upstream = random_logits(*logits.shape, seed=1)
        found = gumbel.gumbel_st_bwd(logits, upstream, packing, tau, place)
        gradient = reference.gumbel_st_bwd(logits.double(), upstream.double(), packing, tau, noise=noise)
        assert torch.equal(level, true_level)
        assert relative(drawn, true) < LIMIT
        if packing.width > len(packing):
            assert relative(found, gradient) < LIMIT

    @pytest.mark.parametrize("hard", [True, False])
    def test_differentiable_once_with_the_noise_made_again(self, hard):
        packing, logits, place = case(RAGGED, 11, 2)
        state, tau = place.rng.clone(), torch.tensor(0.7, device=DEVICE)
        upstream, leaf = random_logits(*logits.shape, seed=1), logits.clone().requires_grad_()
        drawn, level, noise = gumbel.gumbel_softmax(leaf, packing, tau, place._replace(rng=state), hard=hard)
        # what lies on the device moves on before the backward pass
        state.add_(1)
        tau.fill_(0.1)
        (found,) = torch.autograd.grad(drawn, leaf, upstream)
        true = reference.gumbel_st_bwd(logits.double(), upstream.double(), packing, 0.7, noise=noise.double())
        assert relative(found, true) < LIMIT
        assert not level.requires_grad
        assert not noise.requires_grad

    def test_recorded_noise_replays_the_draw(self):
        packing, logits, place = case(RAGGED, 11, None)
        first = gumbel.gumbel_softmax(logits, packing, 0.3, place, hard=False)
        again = gumbel.gumbel_softmax(logits, packing, 0.3, noise=first[2], hard=False)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        upstream = random_logits(*logits.shape, seed=1)
        kept = gumbel.gumbel_st_bwd(logits, upstream, packing, 0.3, noise=first[2])
        assert torch.equal(kept, gumbel.gumbel_st_bwd(logits, upstream, packing, 0.3, place))

    def test_any_tile_and_any_split_of_the_batch_give_the_same_bits(self, monkeypatch):
        packing, logits, place = case(RAGGED, 29, None)
        whole = gumbel.gumbel_softmax(logits, packing, 0.3, place, hard=False)
        parts = [
            gumbel.gumbel_softmax(one, packing, 0.3, place._replace(rows=rows), hard=False)
            for one, rows in zip(logits.split(12), place.rows.split(12), strict=True)
        ]
        for found, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(found, torch.cat(pieces))
        with_tiles(monkeypatch, 256)
        smaller = gumbel.gumbel_softmax(logits, packing, 0.3, place, hard=False)
        for found, other in zip(whole, smaller, strict=True):
            assert torch.equal(found, other)

    def test_pairs_counted_in_64_bits_give_the_same_bits(self, monkeypatch):
        packing, logits, place = case(RAGGED, 9, 2)
        true = gumbel.gumbel_softmax(logits, packing, 0.3, place)
        launch = gumbel.launch
        monkeypatch.setattr(gumbel, "launch", lambda *args, **kwargs: launch(*args, **(kwargs | {"WIDE": True})))
        found = gumbel.gumbel_softmax(logits, packing, 0.3, place)
        assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))

    def test_rows_of_each_module_and_strided_logits(self):
        packing, logits, place = case([3, 4], 6, 4)
        rows = torch.arange(24, device=DEVICE).reshape(4, 6) * 3
        wide = torch.cat([logits, logits], -1)[..., : packing.width]
        together = gumbel.gumbel_softmax(wide, packing, 0.3, place._replace(rows=rows))
        for module in range(4):
            own = kernels.NoiseAddress(place.rng, rows[module], place.sites[module])
            apart = gumbel.gumbel_softmax(logits[module], packing, 0.3, own)
            assert all(torch.equal(a[module], b) for a, b in zip(together, apart, strict=True))

    def test_levels_that_cannot_occur_and_extreme_logits(self):
        packing = pack([4, 2])
        logits = torch.tensor([[1e4, -1e4, 0.0, -math.inf, -math.inf, 3.0]], device=DEVICE)
        for hard in (True, False):
            leaf = logits.clone().requires_grad_()
            drawn, level, _ = gumbel.gumbel_softmax(leaf, packing, 0.1, at(1, 2), hard=hard)
            (found,) = torch.autograd.grad(drawn, leaf, torch.ones_like(drawn).cumsum(-1))
            assert level.tolist() == [[0, 1]]
            assert bool(torch.isfinite(drawn).all())
            assert bool(torch.isfinite(found).all())
            assert float(found[0, 3].abs() + found[0, 4].abs()) == 0

    def test_hard_draws_follow_the_softmax(self, monkeypatch):
        # one large tile: the interpreter counts programs, not elements
        with_tiles(monkeypatch, 2**18)
        packing = pack([5, 3])
        logits = torch.tensor([2.0, 0.0, -1.0, -6.0, 1.0, 0.0, 0.5, -2.0], device=DEVICE)
        n = 40_000
        _, level, _ = gumbel.gumbel_softmax(logits.expand(n, 8), packing, 0.1, at(n, 2, seed=3))
        for place, logit in enumerate(levels(packing, logits.double().cpu())):
            counts = torch.bincount(level[:, place].cpu(), minlength=len(logit))
            assert chi_square(counts, logit.softmax(0).numpy()) < critical_chi_square(len(logit) - 1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logits": torch.zeros(4, 6)}, "logits must be floating point"),
            ({"tau": 0.0}, "temperature 0.0 must be positive"),
            ({"tau": torch.tensor(1.0, requires_grad=True)}, "constants here: detach"),
            ({"address": None}, "either an address or recorded noise"),
            ({"address": address(3, 2)}, "must have the shape of the logits"),
            ({"address": address(4, 3)}, "sites \\[..., 2\\]"),
        ],
    )
    def test_refuses_what_the_twin_refuses(self, change, message):
        given = {"logits": torch.zeros(4, 5), "packing": kernels.Packing([2, 3]), "tau": 1.0, "address": address(4, 2)}
        for form in (gumbel.gumbel_softmax, reference.gumbel_softmax):
            with pytest.raises(ValueError, match=message):
                form(**(given | change))

    def test_what_the_kernels_do_not_cover_is_left_to_the_twin(self):
        for sizes, rows, dtype in (([2, 3], 5, torch.float64), ([2, 3], 0, torch.float32), ([1025], 2, torch.float32)):
            packing = pack(sizes)
            logits, place = random_logits(rows, packing.width).to(dtype), at(rows, len(sizes))
            found, true = (one.gumbel_softmax(logits, packing, 0.5, place) for one in (gumbel, reference))
            assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))


class TestPosterior:
    @SHAPES
    def test_against_the_twin(self, sizes, rows, modules):
        packing, logits, place = case(sizes, rows, modules)
        observed = some_levels(packing, logits.shape[:-1], lowest=-1)
        noise, log_weight = gumbel.gumbel_posterior(logits, observed, packing, place)
        true, true_weight = reference.gumbel_posterior(logits.double(), observed, packing, place)
        assert relative(noise, true) < LIMIT
        assert relative(log_weight, true_weight) < LIMIT

    @pytest.mark.parametrize("scale", [0.0, 1.0, 40.0, 1e4, 1e30])
    def test_the_winner_is_what_was_observed(self, scale):
        packing, logits, place = case(RAGGED, 40, 2, scale=scale)
        observed = some_levels(packing, (2, 40), lowest=-1)
        noise, _ = gumbel.gumbel_posterior(logits, observed, packing, place)
        _, level, prior = gumbel.gumbel_softmax(logits, packing, 1.0, place)
        assert bool(torch.isfinite(noise).all())
        won = winners(packing, logits + noise)
        assert torch.equal(torch.where(observed < 0, won, observed), won)
        # replayed, recorded noise gives the evidence back; what was not observed keeps its prior noise bit for bit
        again = gumbel.gumbel_softmax(logits, packing, 1.0, noise=noise)[1]
        assert torch.equal(again.long(), torch.where(observed < 0, level.long(), observed))
        free = torch.cat([(observed[..., v, None] < 0).expand(2, 40, k) for v, k in enumerate(packing.sizes)], -1)
        assert torch.equal(noise[free], prior[free])

    def test_ties_are_broken(self, monkeypatch):
        # close races under large logits: without the repair some of them end in a tie or the wrong way
        with_tiles(monkeypatch, 2**18)
        packing, rows = pack([6]), 160_000
        logits = random_logits(rows, 6, scale=40.0)
        observed = some_levels(packing, (rows,))
        noise, _ = gumbel.gumbel_posterior(logits, observed, packing, at(rows))
        scores = logits + noise
        own = scores.gather(1, observed)
        assert bool((scores.scatter(1, observed, -math.inf) < own).all())

    def test_mixed_over_levels_it_is_the_prior(self, monkeypatch):
        with_tiles(monkeypatch, 2**18)
        n = 40_000
        logits, packing = torch.tensor([0.5, -1.0, 1.3, -2.5], device=DEVICE).expand(n, 4), pack([4])
        # the levels come from other noise than the posterior's
        _, observed, _ = gumbel.gumbel_softmax(logits, packing, 1.0, at(n, seed=1))
        noise = gumbel.gumbel_posterior(logits, observed, packing, at(n, seed=2))[0].cpu()
        for column in noise.T:
            assert kolmogorov_smirnov(column, lambda x: torch.exp(-torch.exp(-x))) < KS_LIMIT
        # six correlations, at 1e-4 for all of them together
        assert float((torch.corrcoef(noise.T) - torch.eye(4)).abs().max()) < 4.4 / math.sqrt(n)

    @pytest.mark.parametrize(
        ("observed", "message"),
        [
            (torch.tensor([[0, 3]]), "neither -1 nor a level"),
            (torch.tensor([[-2, 0]]), "neither -1 nor a level"),
            (torch.tensor([[0.0, 1.0]]), "must be integers \\[1, 2\\]"),
            (torch.tensor([[0, 2]]), "probability zero"),
        ],
    )
    def test_evidence_that_cannot_be(self, observed, message):
        logits = torch.tensor([[0.0, 1.0, 0.0, 0.0, -math.inf]], device=DEVICE)
        with pytest.raises(ValueError, match=message):
            gumbel.gumbel_posterior(logits, observed.to(DEVICE), pack([2, 3]), at(1, 2))

    def test_other_types_are_left_to_the_twin(self):
        packing, logits, place = case([3, 2], 5, None)
        observed = some_levels(packing, (5,))
        found, true = (one.gumbel_posterior(logits.double(), observed, packing, place) for one in (gumbel, reference))
        assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))
