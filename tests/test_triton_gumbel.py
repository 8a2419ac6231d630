"""Fused Gumbel races against their twins in float64: draws, gradients, and the laws of both."""

import pytest
import torch
from learning import chi_square, critical_chi_square
from test_reference_gumbel import gumbels, levels, random_logits, winners
from test_triton_noise import DEVICE, relative

from mdcm import kernels
from mdcm.kernels import configs
from mdcm.kernels.gumbel import fused as gumbel
from mdcm.kernels.gumbel import reference

# by the norm, for float32 kernels against float64
LIMIT = 2e-6
RAGGED = [2, 3, 7, 2, 12, 1, 33]


@pytest.fixture(autouse=True)
def _poisoned():
    """Memory that a kernel is to fill holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def pack(sizes):
    return kernels.Packing(sizes, device=DEVICE)


def case(sizes, rows, modules):
    """A packing, its logits and their noise: of a single race a close one, whose gradient does not vanish."""
    packing = pack(sizes)
    shape = (rows, packing.width) if modules is None else (modules, rows, packing.width)
    logits, noise = random_logits(*shape, seed=5, dtype=torch.float32), gumbels(*shape, dtype=torch.float32)
    return packing, logits.to(DEVICE), noise.to(DEVICE)


def with_tiles(monkeypatch, elements):
    """Let every race run in tiles of another size."""
    for name in ("gumbel_st_fwd", "gumbel_st_bwd"):
        tiles = [
            configs._config(4, 1, 8, fusion=False, PAIRS=max(1, elements // size), LEVELS=size) for size in (4, 16, 64)
        ]
        monkeypatch.setitem(configs.SHIPPED, name, tuple(tiles))


SHAPES = pytest.mark.parametrize(
    ("sizes", "rows", "modules"),
    # the tiles of a variable of 100 levels have eight pairs: one is full and one is not
    [(RAGGED, 17, None), ([3], 1, 1), ([5, 5, 5], 45, 2), ([100, 2], 13, 2)],
    ids=["ragged", "a single race", "stacked", "many levels"],
)


class TestDraws:
    @SHAPES
    def test_draws_and_gradients_are_those_of_the_twin(self, sizes, rows, modules):
        packing, logits, noise = case(sizes, rows, modules)
        double, clocks = logits.double(), noise.double()
        hard = gumbel.gumbel_st_fwd(logits, packing, 0.5, noise)
        assert torch.equal(hard.double(), reference.gumbel_st_fwd(double, packing, 0.5, clocks))
        upstream = random_logits(*logits.shape, seed=1, dtype=torch.float32).to(DEVICE)
        for tau in (0.1, 3.0):
            drawn = gumbel.gumbel_st_fwd(logits, packing, tau, noise, hard=False)
            assert relative(drawn, reference.gumbel_st_fwd(double, packing, tau, clocks, hard=False)) < LIMIT
            found = gumbel.gumbel_st_bwd(logits, upstream, packing, tau, noise)
            true = reference.gumbel_st_bwd(double, upstream.double(), packing, tau, clocks)
            assert relative(found, true) < LIMIT

    @pytest.mark.parametrize("hard", [True, False])
    def test_differentiable_once_at_the_temperature_of_the_draw(self, hard):
        packing, logits, noise = case([2, 3, 7], 11, 2)
        tau, leaf = torch.tensor(0.7, device=DEVICE), logits.clone().requires_grad_()
        upstream = random_logits(*logits.shape, seed=1, dtype=torch.float32).to(DEVICE)
        drawn = gumbel.gumbel_softmax(leaf, packing, tau, noise, hard=hard)
        # what lies on the device moves on before the backward pass
        tau.fill_(0.1)
        (found,) = torch.autograd.grad(drawn, leaf, upstream)
        true = reference.gumbel_st_bwd(logits.double(), upstream.double(), packing, 0.7, noise.double())
        assert relative(found, true) < LIMIT

    def test_any_tile_any_split_of_the_batch_and_wide_counts_give_the_same_bits(self, monkeypatch):
        packing, logits, noise = case(RAGGED, 13, None)
        whole = gumbel.gumbel_softmax(logits, packing, 0.3, noise, hard=False)
        parts = [
            gumbel.gumbel_softmax(one, packing, 0.3, own, hard=False)
            for one, own in zip(logits.split(8), noise.split(8), strict=True)
        ]
        assert torch.equal(whole, torch.cat(parts))
        with monkeypatch.context() as patched:
            with_tiles(patched, 256)
            assert torch.equal(whole, gumbel.gumbel_softmax(logits, packing, 0.3, noise, hard=False))
        # pairs counted in 64 bits
        launch = gumbel.launch
        monkeypatch.setattr(gumbel, "launch", lambda *args, **kwargs: launch(*args, **(kwargs | {"WIDE": True})))
        assert torch.equal(whole, gumbel.gumbel_softmax(logits, packing, 0.3, noise, hard=False))

    def test_strided_logits_and_noise(self):
        packing, logits, noise = case([3, 4], 6, 2)
        true = gumbel.gumbel_softmax(logits, packing, 0.3, noise, hard=False)
        wide = torch.cat([logits, logits], -1)[..., : packing.width]
        turned = noise.mT.contiguous().mT
        assert torch.equal(gumbel.gumbel_softmax(wide, packing, 0.3, turned, hard=False), true)

    def test_levels_that_cannot_occur_and_extreme_logits(self):
        packing = pack([4, 2])
        logits = torch.tensor([[1e4, -1e4, 0.0, -torch.inf, -torch.inf, 3.0]], device=DEVICE)
        noise = gumbels(1, 6, dtype=torch.float32).to(DEVICE)
        for hard in (True, False):
            leaf = logits.clone().requires_grad_()
            drawn = gumbel.gumbel_softmax(leaf, packing, 0.1, noise, hard=hard)
            (found,) = torch.autograd.grad(drawn, leaf, torch.ones_like(drawn).cumsum(-1))
            assert winners(packing, drawn).tolist() == [[0, 1]]
            assert bool(torch.isfinite(drawn).all())
            assert bool(torch.isfinite(found).all())
            assert float(found[0, 3].abs() + found[0, 4].abs()) == 0

    def test_hard_draws_follow_the_softmax(self, monkeypatch):
        # one large tile: the interpreter counts programs, not elements
        with_tiles(monkeypatch, 2**18)
        packing, n = pack([5, 3]), 40_000
        logits = torch.tensor([2.0, 0.0, -1.0, -6.0, 1.0, 0.0, 0.5, -2.0], device=DEVICE)
        noise = gumbels(n, 8, seed=3, dtype=torch.float32).to(DEVICE)
        drawn = gumbel.gumbel_softmax(logits.expand(n, 8), packing, 0.1, noise).cpu()
        for one, logit in zip(levels(packing, drawn), levels(packing, logits.double().cpu()), strict=True):
            assert chi_square(one.sum(0).long(), logit.softmax(0).numpy()) < critical_chi_square(len(logit) - 1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logits": torch.zeros(4, 6)}, "logits must be floating point"),
            ({"tau": 0.0}, "temperature 0.0 must be positive"),
            ({"tau": torch.tensor(1.0, requires_grad=True)}, "constants here: detach"),
            ({"noise": torch.zeros(3, 5)}, "must have the shape of the logits"),
        ],
    )
    def test_refuses_what_the_twin_refuses(self, change, message):
        given = {
            "logits": torch.zeros(4, 5),
            "packing": kernels.Packing([2, 3]),
            "tau": 1.0,
            "noise": torch.zeros(4, 5),
        }
        for form in (gumbel.gumbel_softmax, reference.gumbel_softmax):
            with pytest.raises(ValueError, match=message):
                form(**(given | change))

    def test_what_the_kernels_do_not_cover_is_left_to_the_twin(self):
        for sizes, rows, dtype in (([2, 3], 5, torch.float64), ([2, 3], 0, torch.float32), ([1025], 2, torch.float32)):
            packing, logits, noise = case(sizes, rows, None)
            found, true = (one.gumbel_softmax(logits.to(dtype), packing, 0.5, noise) for one in (gumbel, reference))
            assert torch.equal(found, true)
