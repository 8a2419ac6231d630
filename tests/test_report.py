"""Reports of trained models: what they say, that they need nothing else, and how a browser shows them."""

import importlib.util
import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from command_line import call, fail, succeed
from pages import Page, look

import mdcm
from mdcm.report import compare


@pytest.fixture
def without(monkeypatch):
    """A function that lets modules seem not to be installed."""
    real = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else real(name))

    return hide


DOOR = "X -> Z; Z -> Y; X <-> Y; Y -> C"
BRIEF = mdcm.TrainConfig(max_steps=150)


def table(rows=800, seed=0):
    truth = mdcm.scm.random_discrete(mdcm.ADMG.from_string("X -> Z; Z -> Y; X <-> Y"), levels=2, seed=3)
    drawn = truth.sample(rows, seed=seed)
    return drawn.assign(C=drawn.Y + np.random.default_rng(seed).normal(size=rows))


@pytest.fixture(scope="module")
def model():
    return mdcm.fit(DOOR, mdcm.Dataset(table(), name="seen"), config=BRIEF, ensemble=2)


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    asked = ["P(Y | do(X))", "E[C | do(X=1)] - E[C | do(X=0)]", "P(Y=1, Y[X=1]=1 | X=0)"]
    return mdcm.write_report(model, file, queries=asked, num_samples=2_000)


class TestPage:
    def test_it_is_whole_accessible_and_needs_nothing_else(self, page):
        text = page.read_text()
        found = Page(text)
        assert (found.faults, found.open, found.outside) == ([], [], [])
        assert not re.search(r"https?://|@import|<script", text)
        assert len(text) < 1_000_000
        assert len(found.ids) == len(set(found.ids))
        assert len(found.of("h1")) == 1
        assert all(one.get("role") == "img" and one.get("aria-label") for one in found.of("svg"))
        assert all(one.get("scope") in {"row", "col"} for one in found.of("th"))

    def test_it_shows_all_that_was_promised(self, page):
        text = page.read_text()
        for title in (
            "What to know first", "Answers", "Graph and plan", "What was fitted, beside the data",
            "What the graph implies, in the data", "Training", "Samples", "Data and settings",
        ):  # fmt: skip
            assert f"<h2>{title}</h2>" in text
        assert "sum_{Z} P(Z | X)" in text, "the estimand"
        assert "Not determined" in text
        assert "90 % interval" in text
        assert "data.csv" not in text

    def test_a_browser_shows_it(self, page, tmp_path):
        # why not, graph, plan, fits, training
        assert look(page, tmp_path) == 5

    def test_names_and_titles_are_escaped(self, tmp_path):
        nasty = '<b onclick="x">&'
        graph = mdcm.ADMG(nodes=[nasty, "Y"], directed=[(nasty, "Y")])
        data = pd.DataFrame({nasty: [0, 1] * 30, "Y": ["<i>", "&", "<i>"] * 20})
        fitted = mdcm.fit(graph, data, config=mdcm.TrainConfig(max_steps=5))
        text = mdcm.write_report(fitted, tmp_path / "r.html", title=nasty).read_text()
        assert "<b onclick" not in text
        assert "<i>" not in text
        assert Page(text).faults == []

    def test_without_data_records_and_queries_it_says_so(self, model, tmp_path):
        model.save(tmp_path / "run")
        loaded = mdcm.load(tmp_path / "run")
        loaded.history = []
        text = mdcm.write_report(loaded, tmp_path / "r.html").read_text()
        assert "The training data are not available" in text
        assert "There is no record of the training" in text
        assert "<h2>Answers</h2>" not in text

    def test_images_are_shown_beside_the_datas(self, tmp_path):
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8)
        data = mdcm.Dataset({"D": [0, 1] * 30, "E": [0, 1, 1] * 20}, images={"I": images}, name="seen")
        fitted = mdcm.fit("D -> I; D -> E", data, config=mdcm.TrainConfig(max_steps=3))
        text = mdcm.write_report(fitted, tmp_path / "r.html", queries=["P(E | do(D=1))"]).read_text()
        (picture,) = Page(text).of("img")
        assert "data: seen; model; model, do(D=1)" in picture["alt"]

    def test_pictures_that_are_not_determined_are_said_to_be(self, tmp_path):
        """The query beside them is determined, and what the picture would be is not: D <-> I."""
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
        data = mdcm.Dataset({"D": [0, 1] * 30, "E": [0, 1, 1] * 20}, images={"I": images}, name="seen")
        fitted = mdcm.fit("D -> I; D <-> I; D -> E", data, config=mdcm.TrainConfig(max_steps=2))
        text = mdcm.write_report(fitted, tmp_path / "r.html", queries=["P(E | do(D=1))"]).read_text()
        (picture,) = Page(text).of("img")
        assert "model, do(D=1), see the warnings" in picture["alt"]
        assert "Pictures of I under do(D=1): P(I | do(D=1)) is not determined by the graph and the data" in text

    def test_a_large_graph_is_described_and_not_drawn(self, tmp_path):
        names = [f"V{place}" for place in range(80)]
        graph = mdcm.ADMG(nodes=names, directed=list(itertools.pairwise(names)))
        data = mdcm.scm.random_discrete(graph, levels=2, seed=0).sample(300, seed=0)
        fitted = mdcm.fit(graph, data, config=mdcm.TrainConfig(max_steps=3))
        text = mdcm.write_report(fitted, tmp_path / "r.html").read_text()
        assert "more than can be drawn" in text
        assert len(text) < 1_000_000

    def test_bad_queries_write_nothing(self, model, tmp_path):
        for text in ("P(Y | do(X)", "P(Q)"):
            with pytest.raises(mdcm.QueryError):
                mdcm.write_report(model, tmp_path / "r.html", queries=[text])
        assert not list(tmp_path.iterdir())


class TestComparison:
    def test_a_right_model_is_at_its_floor(self, model):
        """The model's own draws as data: of what is compared the mean ratio is one, up to chance."""
        drawn = model.draw_samples(2_000, seed=5).table
        found = compare(model, [mdcm.Dataset(drawn, name="seen")], seed=1)
        ratios = [one.ratio for one in found]
        # a distance of few cells varies by about three quarters of its mean, and there are as many as distributions
        assert np.mean(ratios) == pytest.approx(1, abs=3 * 0.75 / np.sqrt(len(ratios)))
        assert {("X", "Z", "Y"), ("X", "Y"), ("X", "Z"), ("Z", "Y"), ("Y", "C")} <= {one.variables for one in found}

    def test_a_wrong_one_is_far_off(self, model):
        drawn = model.draw_samples(2_000, seed=5).table
        wrong = drawn.assign(Z=1 - drawn["Z"])
        found = compare(model, [mdcm.Dataset(wrong, name="seen")])
        assert "Z" in found[0].variables
        assert found[0].ratio > 3

    def test_what_is_set_is_set_row_by_row(self, model):
        """Under do(X) the share of X is the experimenter's, and no fault of the model."""
        drawn = model.draw_samples(2_000, do={"X": (np.arange(2_000) % 10 == 0).astype(int)}, seed=2).table
        found = compare(model, [mdcm.Dataset(drawn, do=["X"], name="trial")], seed=3)
        assert all(set(one.variables) != {"X"} for one in found)
        assert max(one.ratio for one in found) < 3


class TestCommand:
    def test_from_a_table_to_a_page(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        table(400).to_csv("data.csv", index=False)
        table(300, seed=1).to_csv("fresh.csv", index=False)
        succeed("init", DOOR, "data.csv")
        spec = (tmp_path / "spec.yaml").read_text()
        (tmp_path / "spec.yaml").write_text(spec.replace("  seed: 0", "  seed: 0\n  max_steps: 40"))
        succeed("train", "spec.yaml", "--out", "run")
        done = succeed("report", "run", "--query", "P(Y | do(X=1))", "--num-samples", 1_000)
        assert done.err.splitlines()[-1] == "wrote run/report.html"
        assert "the training data" in (tmp_path / "run" / "report.html").read_text()
        # a page beside it does not make the run a stranger's
        assert mdcm.load("run").graph.nodes
        quiet = call("report", "run", "--data", "fresh.csv", "--out", "other.html", "-q")
        assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
        assert "draws of the model and held-out data" in (tmp_path / "other.html").read_text()

    def test_slips(self, tmp_path):
        assert "^" in fail(2, "report", tmp_path / "run", "--query", "P(Y")
        assert "does not exist" in fail(2, "report", tmp_path / "run")


def test_warnings_of_queries_stand_on_the_page(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = mdcm.write_report(model, tmp_path / "r.html", queries=["P(Y | do(X), Z=1)"], num_samples=500)
    assert file.exists()


class TestWithoutExtras:
    """The page is written without matplotlib and pillow too, and says once what is left out."""

    def test_charts(self, model, tmp_path, without):
        without("matplotlib")
        with pytest.warns(UserWarning, match=r"charts are left out.*pip install 'mdcm\[report\]'") as told:
            file = mdcm.write_report(model, tmp_path / "r.html", num_samples=100)
        assert len([one for one in told if "left out" in str(one.message)]) == 1
        text = file.read_text()
        found = Page(text)
        assert (found.faults, found.open) == ([], [])
        assert "Charts are left out, because matplotlib is not installed" in text
        assert "<h2>What was fitted, beside the data</h2>" in text

    def test_pictures(self, tmp_path, without):
        images = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
        data = mdcm.Dataset({"X": [0, 1] * 20}, images={"I": images})
        fitted = mdcm.fit("X -> I", data, config=mdcm.TrainConfig(max_steps=2))
        without("PIL", "matplotlib")
        with pytest.warns(UserWarning, match=r"charts are left out.*, and pictures are left out.*'mdcm\[images\]'"):
            file = mdcm.write_report(fitted, tmp_path / "r.html", num_samples=100)
        assert "Pictures are left out, because pillow is not installed" in file.read_text()

    def test_nothing_is_said_where_nothing_is_left_out(self, tmp_path, without):
        fitted = mdcm.fit("X", {"X": [0, 1] * 20}, config=mdcm.TrainConfig(max_steps=2))
        without("PIL")
        mdcm.write_report(fitted, tmp_path / "r.html", num_samples=100)
