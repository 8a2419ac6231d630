"""Addressed noise inside kernels against its twin: the same words, and the same numbers, bit for bit.

Kernels run on the GPU where there is one, else in Triton's interpreter; see conftest.py.
"""

import pytest
import torch

from mdcm.kernels.noise import reference

pytest.importorskip("triton", reason="Triton is not installed: there are no fused forms to test")

import triton.language as tl

from mdcm.kernels.launch import jit
from mdcm.kernels.noise import fused as noise

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def relative(found, true):
    """Distance by the norm of the truth."""
    return float((found.double().cpu() - true.double().cpu()).norm() / true.double().norm().clamp_min(1e-300))


@jit
def _philox(counter, key, found, N: tl.constexpr):
    place = tl.arange(0, N)
    words = noise._philox4x32(
        tl.load(counter + place).to(tl.uint32),
        tl.load(counter + N + place).to(tl.uint32),
        tl.load(counter + 2 * N + place).to(tl.uint32),
        tl.load(counter + 3 * N + place).to(tl.uint32),
        tl.load(key).to(tl.uint32),
        tl.load(key + 1).to(tl.uint32),
    )
    for word in tl.static_range(4):
        tl.store(found + word * N + place, words[word].to(tl.int64))


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


class TestSeededRows:
    @pytest.mark.parametrize("count", [1, 3, 4, 1024, 1025])
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
