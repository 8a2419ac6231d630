"""Draws held against the data: what is alike passes, and what differs is told with its size."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import mdcm
from mdcm.errors import MdcmError
from mdcm.mechanisms import Pretrained
from mdcm.training.fidelity import compare_draws

FEW = mdcm.TrainConfig(max_steps=5)
N = 2000


def generator(seed=0):
    return np.random.default_rng(seed)


def worst(*arguments):
    """The largest difference over what is allowed, and its words."""
    what, size = max(compare_draws(*arguments), key=lambda one: one[1])
    return size, what


class TestNumbers:
    @pytest.mark.parametrize("seed", range(20))
    def test_draws_of_the_same_distribution_pass(self, seed):
        rng = generator(seed)
        x, again = rng.standard_t(3, N), rng.standard_t(3, N)
        y, drawn = np.sin(x) + rng.normal(size=N), np.sin(again) + rng.normal(size=N)
        side, other = (x > 0).astype(int), (again > 0).astype(int)
        assert worst({"": y}, {"": drawn}, [("X", {"": x}, {"": again}), ("S", side, other)])[0] < 1

    @pytest.mark.parametrize(
        "change",
        [
            lambda y, rng: y + 0.4,
            lambda y, rng: 1.5 * y,
            lambda y, rng: np.where(rng.random(len(y)) < 0.1, 30.0, y),
            lambda y, rng: np.where(rng.random(len(y)) < 0.3, 0.0, y),
            lambda y, rng: np.exp(y) - 1.5,
        ],
        ids=["shift", "spread", "far", "atom", "skew"],
    )
    @pytest.mark.parametrize("swapped", [False, True])
    def test_another_distribution_is_told(self, change, swapped):
        rng = generator()
        real, made = rng.normal(size=N), change(rng.normal(size=N), rng)
        size, what = worst({"": made}, {"": real}, []) if swapped else worst({"": real}, {"": made}, [])
        assert size > 1
        assert "Kolmogorov-Smirnov" in what

    def test_so_is_one_at_a_level_that_others_make_up_for(self):
        rng = generator()
        side, y = rng.integers(0, 2, N), rng.normal(size=N)
        drawn = np.where(side == 0, -1, 1) * np.abs(rng.normal(size=N))
        assert worst({"": y}, {"": drawn}, [])[0] < 1
        told = [what for what, size in compare_draws({"": y}, {"": drawn}, [("S", side, side)]) if size > 1]
        assert any("at level 0 of 'S'" in what for what in told)
        assert any("at level 1 of 'S'" in what for what in told)

    def test_a_wave_that_is_drawn_too_wide(self):
        """A parabola sees nothing of it."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 2000))
        y = np.sin(3 * x)
        y[0] += 0.3 * rng.normal(size=2000)
        y[1] = np.where(rng.random(2000) < 0.7, y[1] + 0.3 * rng.normal(size=2000), rng.permutation(y[1]))
        found = compare_draws({"": y[0]}, {"": y[1]}, [("X", {"": x[0]}, {"": x[1]})])
        assert max(size for what, size in found if "vary by" in what) > 1
        same = np.sin(3 * x[1]) + 0.3 * rng.normal(size=2000)
        assert max(size for _, size in compare_draws({"": y[0]}, {"": same}, [("X", {"": x[0]}, {"": x[1]})])) < 1

    def test_strong_dependence_that_is_drawn_too_weak(self):
        def pair(rho, seed):
            first, second = generator(seed).normal(size=(2, N))
            return first, rho * first + math.sqrt(1 - rho**2) * second

        (x, y), (again, drawn) = pair(0.999, 0), pair(0.93, 1)
        size, what = worst({"": y}, {"": drawn}, [("X", {"": x}, {"": again})])
        # .37 and .045 of a spread
        assert size > 2
        assert "given 'X' the draws vary by 0.3" in what
        assert "vary by 0.04" in what
        # scales and skews of the variables do not matter
        assert worst({"": np.exp(y)}, {"": np.exp(drawn)}, [("X", {"": x**3}, {"": again**3})])[0] == pytest.approx(
            size
        )

    @pytest.mark.parametrize("curved", [lambda x: x**2, np.abs, np.cos], ids=["square", "absolute", "cosine"])
    def test_a_dependence_without_correlation(self, curved):
        rng = generator()
        x = rng.normal(size=N)
        y = curved(x) + 0.3 * rng.normal(size=N)
        size, _ = worst({"": y}, {"": rng.permutation(y)}, [("X", {"": x}, {"": x})])
        assert size > 1


class TestLevels:
    @pytest.mark.parametrize("seed", range(20))
    def test_draws_of_the_same_probabilities_pass(self, seed):
        rng = generator(seed)
        x = rng.normal(size=N)
        p = 1 / (1 + np.exp(-3 * x))
        real, made = ((rng.random(N) < p).astype(int) for _ in range(2))
        assert worst(real, made, [("X", {"": x}, {"": x})])[0] < 1

    def test_other_probabilities_are_told(self):
        rng = generator()
        size, what = worst(rng.integers(0, 3, N), rng.choice(3, N, p=[0.5, 0.25, 0.25]), [])
        assert size > 1
        assert what.startswith("level 0 has 0.")

    def test_so_is_a_dependence_on_a_number(self):
        rng = generator()
        x = rng.normal(size=N)
        real = (rng.random(N) < 1 / (1 + np.exp(-3 * x))).astype(int)
        size, what = worst(real, rng.permutation(real), [("X", {"": x}, {"": x})])
        assert size > 1
        assert "'X'" in what


class TestPretrained:
    """What was given is taken as it is, and told where the data are otherwise; what is no number is an error."""

    def data(self, seed=0, n=1000):
        rng = generator(seed)
        x = rng.integers(0, 2, n)
        return pd.DataFrame(
            {"X": x, "W": 10 + 3 * rng.normal(size=n) + 5 * x, "L": (rng.random(n) < 0.2 + 0.6 * x).astype(int)}
        )

    def fit(self, **mechanisms):
        return mdcm.fit("X -> W; X -> L", self.data(), mechanisms=mechanisms, config=FEW)

    def test_right_ones_pass(self):
        self.fit(
            W=Pretrained(lambda parents, noise: 10 + 3 * noise[:, 0] + 5 * parents["X"][:, 1], noise_size=1),
            L=Pretrained(lambda p: torch.log(torch.tensor([[0.8, 0.2], [0.2, 0.8]]))[p["X"].argmax(1)], logits=True),
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda parents, noise: 3 * noise[:, 0] + 5 * parents["X"][:, 1],
            lambda parents, noise: 10 + 3 * noise[:, 0] + 5 * parents["X"][:, 0],
            lambda parents, noise: 12.5 + 3.9 * noise[:, 0],
            lambda parents, noise: 10 + 5 * parents["X"][:, 1] + 0 * noise[:, 0],
        ],
        ids=["units", "levels swapped", "no dependence", "no noise"],
    )
    def test_numbers_that_are_not_those_of_the_data(self, wrong):
        with pytest.warns(UserWarning, match=r"pretrained mechanism does not draw .*'W': .*draws"):
            model = self.fit(W=Pretrained(wrong, noise_size=1))
        records = [record for record in model.history if record["event"] == "misfit"]
        assert [(record["variable"], record["hnode"]) for record in records] == [("W", ["W"])]

    @pytest.mark.parametrize("table", [[[0.2, 0.8], [0.8, 0.2]], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]])
    def test_levels_that_are_not_those_of_the_data(self, table):
        given = Pretrained(lambda p: torch.log(torch.tensor(table))[p["X"].argmax(1)], logits=True)
        with pytest.warns(UserWarning, match=r"pretrained mechanism does not draw .*'L': .*draws"):
            self.fit(L=given)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("rows", [1, 1000])
    def test_what_is_no_number_is_an_error(self, value, rows):
        def broken(parents, noise):
            drawn = 10 + 3 * noise[:, 0]
            drawn[:rows] = value
            return drawn

        with pytest.raises(MdcmError, match="mechanism of 'W' gave values that are not finite"):
            self.fit(W=Pretrained(broken, noise_size=1))

    def test_pictures_by_their_brightness(self):
        rng = generator()
        shade = rng.integers(0, 2, 200)
        pictures = (60 + 100 * shade[:, None, None, None] + rng.integers(0, 40, (200, 1, 8, 8))).astype(np.uint8)
        data = mdcm.Dataset({"X": shade}, images={"I": pictures})

        def painter(order):
            def paint(parents, noise):
                light = torch.tensor([60.0, 160.0])[list(order)][parents["X"].argmax(1)]
                return (light[:, None] + 39 * torch.special.ndtr(noise)).view(-1, 1, 8, 8) / 127.5 - 1

            return Pretrained(paint, noise_size=64)

        mdcm.fit("X -> I", data, mechanisms={"I": painter((0, 1))}, config=FEW)
        with pytest.warns(UserWarning, match="'I': .*draws"):
            mdcm.fit("X -> I", data, mechanisms={"I": painter((1, 0))}, config=FEW)


class TestTraining:
    def test_zeros_among_numbers_are_told_and_smooth_numbers_are_not(self):
        rng = generator()
        smooth = rng.normal(size=400)
        dose = np.where(rng.random(400) < 0.6, 0.0, np.exp(rng.normal(size=400)))
        assert mdcm.fit("D", {"D": smooth}).history
        with pytest.warns(UserWarning, match=r"model does not draw what the data hold: 'D': .* apart .*recurs"):
            model = mdcm.fit("D", {"D": dose})
        assert [one["variable"] for one in model.history if one["event"] == "misfit"] == ["D"]

    def test_a_training_that_was_cut_short_is_not_judged(self):
        dose = np.where(np.arange(400) % 3, 0.0, np.linspace(1, 2, 400))
        assert not [one for one in mdcm.fit("D", {"D": dose}, config=FEW).history if one["event"] == "misfit"]
