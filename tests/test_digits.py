"""The bank of coloured digits, and the classifier that judges generated ones."""

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from mdcm.errors import MdcmError
from mdcm.experiments import digits as module
from mdcm.experiments.digits import COLOURS, digit_bank, train_judge
from mdcm.experiments.handwriting import Handwriting, load_handwriting


@pytest.fixture(scope="module")
def bank():
    return digit_bank(16)


@pytest.fixture(scope="module")
def judge():
    return train_judge(16, steps=300)


def sources(*classes):
    from sklearn.datasets import load_digits

    data = load_digits()
    keep = np.isin(data.target, classes)
    return data.images[keep], data.target[keep]


class TestBank:
    @pytest.mark.parametrize(("resolution", "copies"), [(8, 3), (16, 27), (24, 27), (32, 27)], ids=str)
    def test_every_digit_in_all_colours_and_shifts(self, resolution, copies):
        bank = digit_bank(resolution, (0, 1))
        _, labels = sources(0, 1)
        assert bank.images.shape == (copies * len(labels), 3, resolution, resolution)
        assert bank.images.dtype == np.uint8
        assert len(bank) == len(bank.digits) == len(bank.colours)
        for digit in (0, 1):
            for colour in range(len(COLOURS)):
                count = np.sum((bank.digits == digit) & (bank.colours == colour))
                assert count == copies // 3 * np.sum(labels == digit)

    def test_picture_is_lit_in_its_colour_only(self, bank):
        lit = bank.images.any(axis=(2, 3))
        assert np.array_equal(lit, np.eye(3, dtype=bool)[bank.colours])

    def test_nothing_is_lost_by_shifting(self, bank):
        _, labels = sources(0, 1)
        total = bank.images.astype(np.int64).sum(axis=(1, 2, 3)).reshape(27, len(labels))
        assert np.array_equal(total, np.broadcast_to(total[0], total.shape))
        edges = np.concatenate([bank.images[..., 0, :], bank.images[..., :, 0]], axis=-1)
        assert edges.any(), "shifted digits reach the margin"

    def test_pictures_of_8_pixels_are_the_real_digits(self):
        bank, (originals, labels) = digit_bank(8, (0, 1)), sources(0, 1)
        assert np.array_equal(bank.images[: len(labels), 0], np.rint(originals / 16 * 255))
        assert np.array_equal(bank.digits[: len(labels)], labels)

    def test_enlarged_pictures_resemble_their_own_originals_most(self, bank):
        originals, labels = sources(0, 1)
        unshifted = 4 * 3 * len(labels)
        inside = bank.images[unshifted : unshifted + len(labels), 0, 1:15, 1:15].reshape(len(labels), -1)
        # scipy's spline instead of torch's cubic: another formula for the same smooth enlargement
        enlarged = [zoom(digit, 14 / 8, order=3, mode="nearest", grid_mode=True).ravel() for digit in originals]
        likeness = np.corrcoef(inside, enlarged)[: len(labels), len(labels) :]
        assert np.array_equal(likeness.argmax(axis=1), np.arange(len(labels)))

    def test_classes_are_chosen(self):
        assert set(digit_bank(8, (3, 7)).digits) == {3, 7}

    def test_is_the_same_every_time(self, bank):
        assert np.array_equal(digit_bank(16).images, bank.images)

    @pytest.mark.parametrize("resolution", [0, 4, 12, 28])
    def test_resolution_is_a_multiple_of_8(self, resolution):
        with pytest.raises(ValueError, match=f"the resolution must be a multiple of 8, at least 8, not {resolution}"):
            digit_bank(resolution)

    @pytest.mark.parametrize("classes", [(), (0, 10), (-1,)], ids=str)
    def test_classes_are_digits(self, classes):
        with pytest.raises(ValueError, match="classes must be digits 0 to 9"):
            digit_bank(16, classes)

    def test_missing_scikit_learn_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(MdcmError, match=r"scikit-learn, which is not installed: pip install 'mdcm\[demo\]'"):
            digit_bank(16)


class TestJudge:
    def test_names_held_out_digits(self, judge):
        # 360 held-out digits, ten classes; five standard errors of a share of 0.9 are 0.08
        assert judge.digit_accuracy > 0.82
        assert judge.colour_accuracy > 0.999

    def test_names_real_pictures(self, judge, bank):
        digits, colours = judge.classify(bank.images)
        assert (digits == bank.digits).mean() > 0.9
        assert (colours == bank.colours).mean() > 0.999

    def test_names_digits_and_colours_only(self, judge):
        noise = np.random.default_rng(0).integers(0, 256, (500, 3, 16, 16), dtype=np.uint8)
        digits, colours = judge.classify(noise)
        assert set(digits) <= set(range(10))
        assert set(colours) <= set(range(3))

    def test_is_the_same_for_a_seed_and_leaves_other_randomness_alone(self):
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        first, again, other = (train_judge(8, steps=3, seed=seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)

    def test_never_trains_on_held_out_digits(self):
        plain = train_judge(8, steps=3)
        written = load_handwriting()
        grey, labels = written.greys, written.labels
        order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(module._SPLIT_SEED))
        held_out = order[: module._HELD_OUT]
        damaged, wrong = grey.clone(), labels.clone()
        damaged[held_out] = 1 - damaged[held_out]
        wrong[held_out] = 9 - wrong[held_out]
        other = train_judge(8, steps=3, handwriting=Handwriting(damaged, wrong, "damaged"))
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in plain.state_dict().items())
        assert other.digit_accuracy != plain.digit_accuracy
