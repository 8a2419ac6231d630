"""The X-ray experiment: its known truth, the stand-in generator, and the layout of the real data."""

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

import mdcm
from mdcm import DataError
from mdcm.data import Dataset
from mdcm.experiments.command import run_experiment
from mdcm.experiments.covidx import labelled
from mdcm.experiments.xrays import CLASSES, Chest, StandIn, read_covidx

ROWS = 200_000


@pytest.fixture(scope="module")
def chest():
    return Chest(16)


def opacity(images, chest):
    """Read off the pictures: the mean brightness of the lungs, as floats in [-1, 1]."""
    inside = chest.painter.lungs.numpy()
    pixels = images[:, 0] if images.dtype != np.uint8 else images[:, 0] / 127.5 - 1
    mean = ((pixels - chest.painter.base.numpy()) * inside).sum((1, 2)) / inside.sum()
    return mean / 0.14


class TestChest:
    def test_effect_is_that_of_its_definition(self, chest):
        """By quadrature, with the numbers written out."""

        def sick(c):
            def integrand(s):
                logit = 0.9 * s + np.array([-1.8, 0.4])
                return norm.pdf(s - 0.7 * c) * (np.array([0.45, 0.25]) @ (1 / (1 + np.exp(-logit))) + 0.30)

            return quad(integrand, -8, 9)[0]

        assert chest.effect() == pytest.approx(sick(1) - sick(0), abs=1e-4)
        assert 0.05 < chest.effect() < 0.08

    def test_rows_have_the_joint_distribution(self, chest):
        table = chest.sample(ROWS, seed=3).table
        shares = np.bincount(2 * table["C"] + table["N"], minlength=4) / ROWS
        right = chest.joint().ravel()
        assert (np.abs(shares - right) <= 4.5 * np.sqrt(right * (1 - right) / ROWS)).all()
        assert shares[2] == 0, "nobody has COVID without pneumonia"

    def test_pictures_show_the_opacity_and_nothing_else_of_it(self, chest):
        rays = chest.sample(4000, seed=4)
        seen = opacity(rays.images, chest)
        c = rays.table["C"].to_numpy()
        for level, at in ((0, 0.0), (1, 0.7)):
            own = seen[c == level]
            assert own.mean() == pytest.approx(at, abs=4.5 / np.sqrt(len(own)))
            assert own.std() == pytest.approx(1, abs=4.5 / np.sqrt(2 * len(own)))
        # every picture may occur with both
        assert np.percentile(seen[c == 0], 90) > np.percentile(seen[c == 1], 10)

    def test_generator_has_the_pictures_of_each_class(self, chest):
        rays = chest.sample(40_000, seed=5)
        seen, n = opacity(rays.images, chest), 20_000
        rows = {"covid": rays.table["C"] == 1, "normal": rays.table["N"] == 0}
        rows["pneumonia"] = ~rows["covid"] & ~rows["normal"]
        generator = StandIn(chest)
        for label, name in enumerate(CLASSES):
            noise = torch.randn(n, generator.noise_size, generator=torch.Generator().manual_seed(label))
            own, real = opacity(generator(torch.full((n,), label), noise).numpy(), chest), seen[rows[name]]
            error = 4.5 * np.sqrt(real.var() / len(real) + own.var() / n)
            assert own.mean() == pytest.approx(real.mean(), abs=error), name
            assert own.std() == pytest.approx(real.std(), rel=4.5 * np.sqrt(0.5 / len(real) + 0.5 / n)), name

    def test_told_c_alone_it_has_the_pictures_given_c(self, chest):
        rays = chest.sample(40_000, seed=6)
        share = float(rays.table["N"][rays.table["C"] == 0].mean())
        variable = mdcm.data.Variable("X", "image", shape=(1, 16, 16))
        parent = mdcm.data.Variable("C", "categorical", levels=(0, 1))
        mechanism = labelled(StandIn(chest), share)(variable, [parent])
        noise = torch.randn(20_000, mechanism.noise_size, generator=torch.Generator().manual_seed(0))
        for c, at in ((0, 0.0), (1, 0.7)):
            own = opacity(mechanism({"C": torch.full((20_000,), c)}, (), noise).numpy(), chest)
            assert own.mean() == pytest.approx(at, abs=4.5 / np.sqrt(20_000) + 0.01)


def write_picture(path, side, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """The layout of COVIDx: a list, and pictures of many sizes."""
    (tmp_path / "train").mkdir()
    lines = []
    for row in range(60):
        label = ("normal", "pneumonia", "COVID-19")[row % 3]
        write_picture(tmp_path / "train" / f"{row}.png", 20 + row % 7, row)
        lines.append(f"p{row} {row}.png {label} somewhere")
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    return tmp_path


class TestFolder:
    def test_read(self, folder):
        rays = read_covidx(folder, 16)
        assert rays.images.shape == (60, 1, 16, 16)
        assert rays.images.dtype == np.uint8
        assert rays.table.iloc[:3].to_numpy().tolist() == [[0, 0], [0, 1], [1, 1]]
        # scaled, not cut
        own = np.asarray(PIL.Image.open(folder / "train" / "0.png"))
        assert rays.images[0].mean() == pytest.approx(own.mean(), abs=5)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("p1 1.png", r"train.txt, line 61: 'p1 1.png' is not 'patient file class source'"),
            ("p1 1.png negative rsna", r"line 61: the class 'negative' .* other lines do \(.*line 1\)"),
            (
                "p1 1.png flu rsna",
                r"line 61: the class is 'flu'; it must be normal, pneumonia or COVID-19, or positive or",
            ),
            ("p1 none.png normal rsna", r"line 61: there is no picture .*none.png"),
            ("p1 bad.png normal rsna", r"'bad.png': not a readable PNG or JPEG picture"),
        ],
    )
    def test_bad_lines(self, folder, line, message):
        (folder / "train" / "bad.png").write_text("no picture")
        text = (folder / "train.txt").read_text().rstrip("\n")
        (folder / "train.txt").write_text(f"{text}\n{line}\n")
        with pytest.raises(DataError, match=message):
            read_covidx(folder, 16)

    @pytest.mark.parametrize("words", [("negative", "positive"), ("Negative", "COVID-19"), ("negative", "negative")])
    def test_lists_of_two_classes_leave_pneumonia_open(self, folder, words):
        lines = [f"p{row} {row}.png {words[row % 2]} rsna" for row in range(6)]
        (folder / "train.txt").write_text("\n".join(lines))
        table = read_covidx(folder, 16).table
        positive = [int(words[row % 2] in {"positive", "COVID-19"}) for row in range(6)]
        assert table["C"].tolist() == positive
        assert table["N"].notna().tolist() == [bool(c) for c in positive]
        with pytest.raises(DataError, match="does not say which of the negative have pneumonia"):
            run_experiment("covidx", folder / "out", fast=True, data=folder, mechanisms=["X=test_covidx:given"])

    def test_no_list(self, tmp_path):
        with pytest.raises(DataError, match=r"train.txt: No such file or directory; it has to hold lines"):
            read_covidx(tmp_path)
        (tmp_path / "train.txt").write_text("\n")
        with pytest.raises(DataError, match="lists no pictures"):
            read_covidx(tmp_path)

    # a small generator that was trained for seconds
    @pytest.mark.filterwarnings("ignore:a pretrained mechanism does not draw what the data hold")
    def test_experiment_on_it(self, folder, tmp_path_factory):
        out = tmp_path_factory.mktemp("covidx")
        record = run_experiment(
            "covidx", out, fast=True, data=folder, methods=["auto"], mechanisms=["X=test_covidx:given"]
        )
        assert record["command"] == (
            "mdcm experiment covidx --fast --data DIR --mechanism X=test_covidx:given --method auto"
        )
        assert record["criteria"] == [], "nothing is known of the truth"
        (effect,) = (row for row in record["results"] if row["quantity"] == "effect of C on N")
        assert -1 <= effect["value"] <= 1
        assert not any("stand-in" in note for note in record["notes"])


def given():
    """A generator that somebody brings along."""
    return labelled(StandIn(Chest(16)), 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X", "write NAME=module:factory"),
        ("X=module", "write NAME=module:factory"),
        ("Q=test_covidx:given", "takes mechanisms of X"),
        ("X=no_such_module:f", "No module named 'no_such_module'"),
        ("X=test_covidx:nothing", "has no attribute 'nothing'"),
    ],
)
def test_bad_mechanisms(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        run_experiment("covidx", tmp_path / "run", fast=True, mechanisms=[text])
    assert not (tmp_path / "run").exists()


def test_effect_is_recovered(chest):
    """A short training on many rows: the confounding is gone."""
    rays = chest.sample(6000, seed=0)
    share = float(rays.table["N"][rays.table["C"] == 0].mean())
    data = Dataset(rays.table, images={"X": rays.images})
    model = mdcm.fit(
        "C -> X -> N; C <-> N", data, mechanisms={"X": labelled(StandIn(chest), share)},
        config=mdcm.TrainConfig(max_steps=250),
    )  # fmt: skip
    answer = model.query("P(N=1 | do(C=1)) - P(N=1 | do(C=0))", 20_000, allow_low_support=True)
    joint = chest.joint()
    naive = joint[1, 1] / joint[1].sum() - joint[0, 1] / joint[0].sum()
    # by 6,000 rows the effect itself is known to about 0.012; the naive one is ten times as large
    assert answer.value == pytest.approx(chest.effect(), abs=0.05)
    assert naive > 0.6
