"""Addressed noise inside kernels against its twin: the same words bit for bit, and numbers made of them to rounding.

Kernels run on the GPU where there is one, else in Triton's interpreter; see conftest.py.
"""

import math

import pytest
import torch
from learning import chi_square, critical_chi_square
from test_kernels import KS_LIMIT, kolmogorov_smirnov

from mdcm.kernels import reference, reference_noise

pytest.importorskip("triton", reason="Triton is not installed: there are no fused forms to test")

import triton.language as tl

from mdcm.kernels import noise, rng
from mdcm.kernels.launch import jit

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SEED = 0x9E3779B97F4A7C15
# of float32; the twin's noise is made in float64 and rounded once
EPS = 2.0**-23


def relative(found, true):
    """Distance by the norm of the truth."""
    return float((found.double().cpu() - true.double().cpu()).norm() / true.double().norm().clamp_min(1e-300))


@jit
def _philox(counter, key, found, N: tl.constexpr):
    place = tl.arange(0, N)
    words = rng.philox4x32(
        tl.load(counter + place).to(tl.uint32),
        tl.load(counter + N + place).to(tl.uint32),
        tl.load(counter + 2 * N + place).to(tl.uint32),
        tl.load(counter + 3 * N + place).to(tl.uint32),
        tl.load(key).to(tl.uint32),
        tl.load(key + 1).to(tl.uint32),
    )
    for word in tl.static_range(4):
        tl.store(found + word * N + place, words[word].to(tl.int64))


@jit
def _words(state, rows, sites, found, first, STREAM: tl.constexpr, PAIRS: tl.constexpr, LEVELS: tl.constexpr):
    pair, level = tl.arange(0, PAIRS), tl.arange(0, LEVELS)
    row, site = tl.load(rows + pair), tl.load(sites + pair)
    words = rng.packed_words(state, row, site, STREAM, PAIRS, LEVELS)
    tl.store(found + pair[:, None] * LEVELS + level[None, :], words.to(tl.int64))
    tl.store(first + pair, rng.first_word(state, row, site, STREAM).to(tl.int64))


@jit
def _numbers(words, uniform, exponential, gumbel, even, odd, N: tl.constexpr):
    place = tl.program_id(0) * N + tl.arange(0, N)
    word = tl.load(words + place).to(tl.uint32)
    tl.store(uniform + place, rng.uniform(word))
    tl.store(exponential + place, rng.exponential(word))
    tl.store(gumbel + place, rng.gumbel(word))
    # the pair of a word and of the one with its bits turned over
    cosine, sine = rng.normal_pair(word, word ^ 0xFFFFFFFF)
    tl.store(even + place, cosine)
    tl.store(odd + place, sine)


def numbers(words, size=4096):
    """Uniform, exponential, Gumbel and two normal numbers of words, whose number is a multiple of the size."""
    words = words.to(DEVICE)
    found = [torch.full(words.shape, math.nan, device=DEVICE) for _ in range(5)]
    _numbers[(len(words) // size,)](words, *found, N=size, enable_fp_fusion=False)
    return found


EDGES = [0, 1, 2, 127, 128, 2**8, 2**24, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2**8, 2**32 - 129, 2**32 - 2, 2**32 - 1]


def some_words(count=4096):
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 2**32, (count,), generator=generator)
    words[: len(EDGES)] = torch.tensor(EDGES)
    # both tails, down to the last words
    tail = 2 ** torch.linspace(0, 31, 200, dtype=torch.float64)
    words[100:300] = tail.long()
    words[300:500] = 2**32 - 1 - tail.long()
    return words


class TestWords:
    @pytest.mark.parametrize(
        ("counter", "key", "answer"),
        [
            ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
            ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
            ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
        ],
        ids=["zeros", "ones", "digits of pi"],
    )
    def test_known_answers(self, counter, key, answer):
        counter, key = (
            torch.tensor([int(word, 16) for word in text.split()], device=DEVICE) for text in (counter, key)
        )
        found = torch.zeros(4, dtype=torch.int64, device=DEVICE)
        _philox[(1,)](counter, key, found, N=1)
        assert [f"{word:08x}" for word in found.tolist()] == answer.split()

    def test_any_counter_and_key(self):
        generator = torch.Generator().manual_seed(0)
        counter, key = (torch.randint(0, 2**32, shape, generator=generator) for shape in ((4, 64), (2,)))
        found = torch.zeros(4, 64, dtype=torch.int64, device=DEVICE)
        _philox[(1,)](counter.to(DEVICE), key.to(DEVICE), found, N=64)
        assert torch.equal(found.cpu(), torch.stack(reference.philox4x32(tuple(counter), tuple(key))))

    @pytest.mark.parametrize("stream", range(1, 7))
    def test_an_address_has_the_word_of_the_twin(self, stream):
        generator = torch.Generator().manual_seed(stream)
        rows, sites = torch.randint(0, 2**32, (2, 8), generator=generator)
        state = reference.rng_state(SEED, 2**32 - stream)
        found = torch.zeros(8, 16, dtype=torch.int64, device=DEVICE)
        first = torch.zeros(8, dtype=torch.int64, device=DEVICE)
        given = [one.to(DEVICE) for one in (state, rows, sites)]
        _words[(1,)](*given, found, first, STREAM=stream, PAIRS=8, LEVELS=16)
        for pair in range(8):
            true = reference.random_words(SEED, rows[pair, None], int(sites[pair]), stream, 16, step=2**32 - stream)
            assert torch.equal(found[pair].cpu(), true[0])
        assert torch.equal(first, found[:, 0])


class TestNumbers:
    def test_uniform_is_the_rounded_number_of_the_twin(self):
        words = some_words()
        assert torch.equal(numbers(words)[0].cpu(), reference_noise._uniform(words).float())

    def test_exponential_is_right_to_the_last_places_at_both_ends(self):
        words = some_words()
        true = -torch.log1p(-reference_noise._uniform(words).clamp_max(1 - 2.0**-24))
        error = (numbers(words)[1].cpu().double() / true - 1).abs()
        assert float(error.max()) < 4 * EPS

    def test_gumbel_is_that_of_the_twin_to_rounding(self):
        words = some_words()
        found, true = numbers(words)[2].cpu(), reference_noise._gumbel(reference_noise._uniform(words))
        # an error of E in the last places, and one of the result
        assert float(((found - true).abs() / (1 + true.abs())).max()) < 4 * EPS
        assert bool(((found > -2.82) & (found < 22.88)).all())

    def test_normal_is_that_of_the_twin_to_rounding(self):
        words = some_words()
        flipped = words ^ 0xFFFFFFFF
        pair = [reference_noise._uniform(one).float().double().clamp(2.0**-33, 1.0) for one in (words, flipped)]
        radius, angle = (-2 * pair[0].log()).sqrt(), 2 * math.pi * pair[1]
        for found, true in zip(numbers(words)[3:], (radius * angle.cos(), radius * angle.sin()), strict=True):
            # the angle is rounded before its cosine is taken
            assert float(((found.cpu() - true).abs() / (1 + radius)).max()) < 8 * EPS

    def test_distributions(self):
        words = torch.randint(0, 2**32, (2**16,), generator=torch.Generator().manual_seed(1))
        uniform, exponential, gumbel, even, odd = (one.cpu() for one in numbers(words, 2**16))
        assert chi_square(torch.bincount((uniform * 64).long().clamp_max(63)), [1 / 64] * 64) < critical_chi_square(63)
        assert kolmogorov_smirnov(uniform, lambda x: x) < KS_LIMIT
        assert kolmogorov_smirnov(exponential, lambda x: -torch.expm1(-x)) < KS_LIMIT
        assert kolmogorov_smirnov(gumbel, lambda x: torch.exp(-torch.exp(-x))) < KS_LIMIT
        # radius and angle come from one word here, so each is looked at by itself
        assert kolmogorov_smirnov(even.square() + odd.square(), lambda x: -torch.expm1(-x / 2)) < KS_LIMIT


class TestSeededRows:
    @pytest.mark.parametrize("count", [1, 3, 4, 600, 1024, 1025, 2500])
    def test_are_those_of_the_twin_bit_for_bit(self, count):
        seeds = torch.tensor([0, 7, 7, 2**63 - 1, -5], device=DEVICE)
        sites = torch.tensor([0, 0, 1, 2**32 - 1, 3], device=DEVICE)
        step = torch.tensor(2**32 - 1, device=DEVICE)
        found = noise.seeded_uniform(seeds, sites, step, count)
        assert found.dtype == torch.float32
        assert torch.equal(found, reference.seeded_uniform(seeds, sites, step, count))

    def test_no_rows_and_no_numbers(self):
        none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
        one, step = torch.zeros(1, dtype=torch.int64, device=DEVICE), torch.tensor(1, device=DEVICE)
        assert noise.seeded_uniform(none, none, step, 5).shape == (0, 5)
        assert noise.seeded_uniform(one, one, step, 0).shape == (1, 0)

    def test_refuses_what_the_twin_refuses(self):
        seeds, step = torch.zeros(2, dtype=torch.int64, device=DEVICE), torch.tensor(1, device=DEVICE)
        for bad in ((seeds, seeds[:1], step, 4), (seeds, seeds, seeds, 4), (seeds.int(), seeds, step, 4)):
            for form in (noise, reference):
                with pytest.raises(ValueError, match="must be"):
                    form.seeded_uniform(*bad)
