"""Random numbers by address: published answers, a twin in plain integers, and the laws that sampling relies on."""

import importlib
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import chi_square, critical_chi_square

from mdcm import kernels
from mdcm.kernels.critic import reference as critic_reference
from mdcm.kernels.noise import reference

WORDS = st.integers(0, 2**32 - 1)
# two-sided normal quantile, and its likes below, for tests that a correct generator fails once in 10,000 seeds
Z = 3.891
STREAMS = {name: getattr(kernels, name) for name in kernels.__all__ if name.startswith("STREAM_")}


def philox_integers(counter, key):
    """Philox4x32-10 as its authors define it, in Python's integers of any size."""
    c, k = list(counter), list(key)
    for round_ in range(10):
        if round_:
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
    return tuple(c)


def word_at(seed, row, site, stream, index, step=0):
    """The word that the documentation promises at one address."""
    counter = (row, site, step, (stream << 28) | (index // 4))
    return philox_integers(counter, (seed % 2**32, seed >> 32))[index % 4]


def words(seed=0, rows=4096, site=3, stream=kernels.STREAM_EXOGENOUS, count=8, step=0):
    return kernels.random_words(seed, torch.arange(rows), site, stream, count, step=step)


def kolmogorov_smirnov(sample, cdf):
    """Root of n times the largest distance between the empirical and the true distribution function."""
    ordered = sample.double().flatten().sort().values
    true = cdf(ordered)
    place = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    gap = torch.maximum(place[1:] - true, true - place[:-1]).max()
    return float(gap) * math.sqrt(len(ordered))


# 2 exp(-2 x^2) = 1e-4
KS_LIMIT = math.sqrt(math.log(2e4) / 2)


class TestPhilox:
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
        counter, key, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
        drawn = kernels.philox4x32(tuple(torch.tensor([word]) for word in counter), tuple(key))
        assert [int(word) for word in drawn] == answer
        assert list(philox_integers(counter, key)) == answer

    @given(st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=8), st.tuples(WORDS, WORDS))
    def test_equals_the_integer_twin(self, counters, key):
        columns = tuple(torch.tensor(column) for column in zip(*counters, strict=True))
        drawn = torch.stack(kernels.philox4x32(columns, key), 1)
        assert drawn.tolist() == [list(philox_integers(counter, key)) for counter in counters]

    def test_is_a_bijection_of_the_counter(self):
        # 65,536 distinct counters must give as many distinct outputs, whatever the key
        n = torch.arange(2**16)
        zero = torch.zeros_like(n)
        drawn = torch.stack(kernels.philox4x32((n, zero, zero, zero), (7, 9)), 1)
        assert len(torch.unique(drawn, dim=0)) == len(n)


class TestAddresses:
    @given(
        seed=st.integers(0, 2**64 - 1),
        rows=st.lists(WORDS, min_size=1, max_size=5),
        site=WORDS,
        stream=st.sampled_from(sorted(STREAMS.values())),
        step=WORDS,
        count=st.integers(1, 9),
    )
    def test_a_word_is_a_function_of_its_address(self, seed, rows, site, stream, step, count):
        drawn = kernels.random_words(seed, torch.tensor(rows), site, stream, count, step=step)
        assert drawn.tolist() == [
            [word_at(seed, row, site, stream, index, step) for index in range(count)] for row in rows
        ]

    @given(st.lists(st.integers(0, 999), max_size=20), st.integers(0, 8))
    def test_a_row_is_the_same_in_any_set_of_rows(self, rows, count):
        chosen = torch.tensor(rows, dtype=torch.int64)
        whole = words(rows=1000)
        drawn = kernels.random_words(0, chosen, 3, kernels.STREAM_EXOGENOUS, count)
        assert drawn.shape == (len(rows), count)
        assert torch.equal(drawn, whole[chosen, :count])

    @pytest.mark.parametrize("tile", [1, 3, 63, 100, 4096])
    @pytest.mark.parametrize("noise", ["uniform_noise", "gumbel_noise", "normal_noise"])
    def test_any_tiling_gives_the_same_numbers(self, noise, tile):
        def drawn(rows):
            if noise == "uniform_noise":
                return kernels.uniform_noise(5, rows, 2, kernels.STREAM_CONFOUNDER, 5)
            return getattr(kernels, noise)(5, rows, 2, 5)

        rows = torch.arange(301)
        assert torch.equal(torch.cat([drawn(part) for part in rows.split(tile)]), drawn(rows))

    def test_a_longer_draw_begins_with_the_shorter_one(self):
        rows = torch.arange(50)
        for noise in (kernels.gumbel_noise, kernels.normal_noise):
            whole = noise(1, rows, 4, 10)
            for count in range(10):
                assert torch.equal(noise(1, rows, 4, count), whole[:, :count])

    def test_streams_are_distinct_and_fit_their_four_bits(self):
        assert len(set(STREAMS.values())) == len(STREAMS) == 5
        assert all(0 < stream < 16 for stream in STREAMS.values())

    def test_other_addresses_give_unrelated_words(self):
        drawn = {
            "base": words(),
            "seed + 1": words(seed=1),
            "seed in the high word": words(seed=2**32),
            "site": words(site=4),
            "stream": words(stream=kernels.STREAM_CONFOUNDER),
            "step": words(step=1),
            "rows shifted by one": words(rows=4097)[1:],
            "words shifted by a group": words(count=12)[:, 4:],
        }
        n = drawn["base"].numel()
        # a word is equal by chance once in 2^32, and each of 32 bits with probability one half
        limit = Z * math.sqrt(32 * n) / 2
        for (one, a), (other, b) in itertools.combinations(drawn.items(), 2):
            assert int((a == b).sum()) == 0, (one, other)
            differing = sum(int(((a ^ b) >> bit & 1).sum()) for bit in range(32))
            assert abs(differing - 16 * n) < limit, (one, other)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"site": -1}, "site -1 and step 0 must be in"),
            ({"site": 2**32}, "must be in"),
            ({"step": -1}, "site 3 and step -1 must be in"),
            ({"step": 2**32}, "must be in"),
            ({"count": -1}, "words per row, not -1"),
            ({"count": 2**30 + 1}, "at most 2\\^30 words per row"),
            ({"stream": 16}, "stream 16 must be in"),
            ({"stream": -1}, "stream -1 must be in"),
        ],
    )
    def test_an_address_out_of_range_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            words(rows=1, **change)


class TestDistributions:
    def test_bytes_are_uniform(self):
        drawn = words(seed=11, rows=16_384, count=4)
        for shift in (0, 8, 16, 24):
            counts = torch.bincount((drawn >> shift & 255).flatten(), minlength=256)
            assert chi_square(counts, np.full(256, 1 / 256)) < critical_chi_square(255)

    def test_uniform(self):
        drawn = kernels.uniform_noise(12, torch.arange(50_000), 0, kernels.STREAM_BATCH, 4)
        assert drawn.dtype == torch.float64
        assert kolmogorov_smirnov(drawn, lambda x: x) < KS_LIMIT

    def test_gumbel(self):
        drawn = kernels.gumbel_noise(13, torch.arange(50_000), 0, 4)
        assert drawn.dtype == torch.float32
        assert kolmogorov_smirnov(drawn, lambda x: torch.exp(-torch.exp(-x))) < KS_LIMIT

    def test_normal(self):
        drawn = kernels.normal_noise(14, torch.arange(50_000), 0, 4)
        assert drawn.dtype == torch.float32
        assert kolmogorov_smirnov(drawn, torch.special.ndtr) < KS_LIMIT

    @pytest.mark.parametrize("noise", [kernels.gumbel_noise, kernels.normal_noise])
    def test_columns_and_neighbouring_rows_are_independent(self, noise):
        n = 50_000
        drawn = noise(15, torch.arange(n), 1, 5).double()
        # radius and angle of one pair are shared by two columns: squares would show it
        features = torch.cat([drawn, drawn.square(), drawn[torch.arange(n).roll(1)]], 1)
        correlation = torch.corrcoef(features.T)
        off = correlation[:5, 5:].clone()
        off[:, :5].fill_diagonal_(0)
        limit = 4.5 / math.sqrt(n)  # 1e-4 over all pairs at once
        assert float(off.abs().max()) < limit
        assert float((correlation[:5, :5] - torch.eye(5)).abs().max()) < limit

    def test_the_winner_of_a_gumbel_race_follows_the_softmax(self):
        logits = torch.tensor([2.0, 0.0, -1.0, -6.0, 1.0])
        noise = kernels.gumbel_noise(16, torch.arange(200_000), 7, 5)
        counts = torch.bincount((logits + noise).argmax(1), minlength=5)
        assert chi_square(counts, logits.double().softmax(0).numpy()) < critical_chi_square(4)

    @pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 2, 2**32 - 1])
    def test_the_most_extreme_words_stay_in_range(self, word, monkeypatch):
        def constant(seed, rows, site, stream, count, *, step=0):
            return torch.full((len(rows), count), word)

        monkeypatch.setattr(reference, "random_words", constant)
        rows = torch.arange(2)
        uniform = reference.uniform_noise(0, rows, 0, 1, 3)
        assert bool(((uniform > 0) & (uniform < 1)).all())
        gumbel = reference.gumbel_noise(0, rows, 0, 3)
        assert bool(((gumbel > -2.82) & (gumbel < 22.88)).all())
        normal = reference.normal_noise(0, rows, 0, 3)
        assert bool((normal.abs() < 6.77).all())

    def test_the_fastest_clocks_of_a_race_are_told_apart(self, monkeypatch):
        # numbers made from float32 uniforms end at 16.64, with ties among the rarest winners
        monkeypatch.setattr(reference, "random_words", lambda *address, step=0: torch.arange(64)[None])
        gumbel = reference.gumbel_noise(0, torch.arange(1), 0, 64)[0]
        assert float(gumbel[-1]) > 17.9
        assert bool((gumbel.diff() < 0).all())

    def test_no_rows_and_no_words(self):
        none = torch.arange(0)
        assert kernels.gumbel_noise(0, none, 0, 3).shape == (0, 3)
        assert kernels.normal_noise(0, none, 0, 3).shape == (0, 3)
        assert kernels.normal_noise(0, torch.arange(4), 0, 0).shape == (4, 0)
        assert kernels.uniform_noise(0, torch.arange(4), 0, 1, 0).shape == (4, 0)


class TestSeededRows:
    def test_every_number_is_that_at_its_address(self):
        seeds, sites, step = torch.tensor([5, 5, 2**62 + 3, -1]), torch.tensor([0, 9, 2**32 - 1, 2]), 77
        found = kernels.seeded_uniform(seeds, sites, torch.tensor(step), 10)
        for row, (seed, site) in enumerate(zip(seeds.tolist(), sites.tolist(), strict=True)):
            own = [word_at(seed % 2**64, 0, site, kernels.STREAM_BATCH, index, step) for index in range(10)]
            assert found[row].tolist() == [(word >> 8) * 2.0**-24 for word in own]

    def test_fewer_numbers_are_the_first_of_more(self):
        seeds, sites, step = torch.arange(3), torch.arange(3), torch.tensor(1)
        more = kernels.seeded_uniform(seeds, sites, step, 9)
        assert torch.equal(kernels.seeded_uniform(seeds, sites, step, 2), more[:, :2])


class TestDispatch:
    """The one rule that picks a form of an operation."""

    ROWS = (torch.zeros(1, 2, 3), kernels.critic_views(torch.zeros(1, kernels.critic_size([3, 4])), [3, 4]))

    @pytest.mark.parametrize("asked", [None, "auto", "reference"])
    def test_the_twin_runs_where_nothing_else_is(self, asked, monkeypatch):
        if asked is None:
            monkeypatch.delenv("MDCM_KERNELS", raising=False)
        else:
            monkeypatch.setenv("MDCM_KERNELS", asked)
        assert torch.equal(kernels.critic_values(*self.ROWS), torch.zeros(1, 2))
        assert torch.equal(kernels.critic_values(x=self.ROWS[0], params=self.ROWS[1]), torch.zeros(1, 2))

    def test_a_form_that_does_not_exist_is_an_error(self, monkeypatch):
        monkeypatch.setenv("MDCM_KERNELS", "triton")
        monkeypatch.setattr(kernels, "_FUSED", {})
        with pytest.raises(ValueError, match="critic_values has no Triton form: unset MDCM_KERNELS"):
            kernels.critic_values(*self.ROWS)
        monkeypatch.delenv("MDCM_KERNELS")
        assert kernels._form(critic_reference.critic_values, on_cuda=True) is critic_reference.critic_values

    def test_an_unknown_form_is_an_error(self, monkeypatch):
        monkeypatch.setenv("MDCM_KERNELS", "cuda")
        with pytest.raises(ValueError, match="auto, reference or triton, not 'cuda'"):
            kernels.critic_values(*self.ROWS)

    def test_a_fused_form_runs_when_asked_for_and_only_then_on_the_cpu(self, monkeypatch):
        monkeypatch.setattr(kernels, "_FUSED", {"critic_values": lambda *given: "fused"})
        monkeypatch.setattr(kernels, "_installed", lambda: True)
        monkeypatch.setattr(kernels, "_interpreted", lambda: True)
        monkeypatch.setenv("MDCM_KERNELS", "triton")
        assert kernels.critic_values(*self.ROWS) == "fused"
        monkeypatch.delenv("MDCM_KERNELS")
        assert torch.equal(kernels.critic_values(*self.ROWS), torch.zeros(1, 2))
        assert kernels._form(critic_reference.critic_values, on_cuda=True)() == "fused"
        monkeypatch.setenv("MDCM_KERNELS", "reference")
        assert kernels._form(critic_reference.critic_values, on_cuda=True) is critic_reference.critic_values

    def test_without_triton_the_twin_runs_unless_triton_is_asked_for(self, monkeypatch):
        monkeypatch.setattr(kernels, "_installed", lambda: False)
        assert kernels._form(critic_reference.critic_values, on_cuda=True) is critic_reference.critic_values
        monkeypatch.setenv("MDCM_KERNELS", "triton")
        with pytest.raises(ImportError, match="needs Triton: pip install triton, or unset MDCM_KERNELS"):
            kernels.critic_values(*self.ROWS)

    def test_without_a_device_and_without_the_interpreter_the_call_says_what_to_do(self, monkeypatch):
        monkeypatch.setattr(kernels, "_installed", lambda: True)
        monkeypatch.setattr(kernels, "_interpreted", lambda: False)
        monkeypatch.setenv("MDCM_KERNELS", "triton")
        with pytest.raises(RuntimeError, match="critic_values are on the CPU: move them to a CUDA device, unset"):
            kernels.critic_values(*self.ROWS)
        assert callable(kernels._form(critic_reference.critic_values, on_cuda=True))

    def test_noise_is_left_alone(self, monkeypatch):
        monkeypatch.setenv("MDCM_KERNELS", "triton")
        assert kernels.gumbel_noise(0, torch.arange(2), 0, 3).shape == (2, 3)

    def test_every_public_name_is_defined_and_every_operation_has_both_forms(self):
        operations = {name for name in kernels.__all__ if hasattr(getattr(kernels, name), "__wrapped__")}
        operations -= {"remembering"}
        assert operations == set(kernels._FUSED)
        for module, names in kernels._MODULES.items():
            twins = importlib.import_module(f"mdcm.kernels.{module}.reference")
            for name in names:
                assert getattr(kernels, name).__wrapped__ is getattr(twins, name)

    def test_every_fused_form_takes_what_its_twin_takes(self):
        pytest.importorskip("triton", reason="Triton is not installed: there are no fused forms to look at")
        for module, names in kernels._MODULES.items():
            fused, twins = (importlib.import_module(f"mdcm.kernels.{module}.{form}") for form in ("fused", "reference"))
            for name in names:
                assert inspect.signature(getattr(fused, name)) == inspect.signature(getattr(twins, name))


class TestRemembered:
    def test_noise_is_that_of_its_address(self):
        memory = {}
        addresses = [
            (seed, rows, site, stream, count)
            for seed in (0, 2**40)
            # the same number of rows, and the same first and last one
            for rows in (torch.arange(5), torch.arange(5) + 3, torch.tensor([0, 1, 1, 3, 4]), torch.arange(7))
            for site in (0, 3)
            for stream in (kernels.STREAM_GUMBEL, kernels.STREAM_CONFOUNDER)
            for count in (1, 5)
        ]
        plain = [kernels.uniform_noise(*one) for one in addresses]
        with kernels.remembering(memory):
            for _ in range(2):
                for one, expected in zip(addresses, plain, strict=True):
                    found = kernels.uniform_noise(*one)
                    assert torch.equal(found, expected)
                    # what is done with it is not remembered
                    found.zero_()
                    assert torch.equal(kernels.gumbel_noise(*one[:3], one[4]), _gumbel_of(one))
        assert len(memory) > 0
        assert kernels.uniform_noise(0, torch.arange(5), 9, 1, 1).shape == (5, 1)
        assert not any(key[1] == 9 for key in memory)

    def test_no_more_is_remembered_than_fits(self):
        memory = {}
        with kernels.remembering(memory):
            for site in range(2000):
                kernels.uniform_noise(0, torch.arange(2), site, 1, 1)
            kernels.uniform_noise(0, torch.arange(5000), 0, 2, 1)
        assert len(memory) <= 512
        assert not any(key[2] == 2 for key in memory)


def _gumbel_of(address):
    seed, rows, site, _, count = address
    words = kernels.uniform_noise(seed, rows, site, kernels.STREAM_GUMBEL, count)
    return torch.log(-torch.log1p(-words.clamp_max(1 - 2.0**-24))).neg_().float()
