"""Arguments of commands: tables with pictures and missing values, kinds, a spec instead of graph and tables."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from command_line import call, fail, succeed

import mdcm
from mdcm.cli.spec import read_spec
from mdcm.data import names_pictures, read_pictures
from mdcm.text.advice import addressing

ROWS = 40


def save_pictures(folder, rows=ROWS, ending="png", size=(8, 6), mode="L"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for row in range(rows):
        pixels = rng.integers(0, 256, (size[1], size[0]) if mode == "L" else (size[1], size[0], 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{row}.{ending}")


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """A folder with a space in its name, where a table names pictures beside it; the current directory is elsewhere."""
    folder = tmp_path / "my data"
    save_pictures(folder / "scans")
    rng = np.random.default_rng(1)
    table = pd.DataFrame({
        "D": rng.integers(0, 2, ROWS), "I": [f"scans/{row}.png" for row in range(ROWS)],
        "A": rng.integers(0, 2, ROWS), "id": [f"p{row}" for row in range(ROWS)],
    })  # fmt: skip
    table.to_csv(folder / "t.csv", index=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


GRAPH = "D -> I -> A; D <-> A"


class TestPictures:
    def test_init_writes_a_spec_that_can_be_trained(self, scans):
        succeed("init", GRAPH, scans / "t.csv")
        loaded = read_spec("spec.yaml")
        assert loaded.variables["I"].kind == "image"
        assert "6 x 8 pixels with 1 channel" in Path("spec.yaml").read_text()
        assert loaded.load_data()[0].images["I"].shape == (ROWS, 1, 6, 8)

    def test_check_and_plan_take_them_for_pictures(self, scans):
        assert "images are not tested and count as hidden: 'I'" in call("check", GRAPH, scans / "t.csv").out
        assert succeed("plan", GRAPH, "--data", scans / "t.csv").out == succeed(
            "plan", GRAPH, "--kind", "I=image"
        ).out.replace("d1", "t.csv")
        assert call("identify", GRAPH, "P(A | do(D))", "--data", scans / "t.csv").code == 0

    @pytest.mark.parametrize(("ending", "mode"), [("JPG", "L"), ("jpeg", "RGB")])
    def test_other_endings_and_colours(self, tmp_path, monkeypatch, ending, mode):
        monkeypatch.chdir(tmp_path)
        save_pictures(tmp_path / "p", 4, ending, mode=mode)
        pd.DataFrame({"X": [0, 1, 0, 1], "P": [f"p/{row}.{ending}" for row in range(4)]}).to_csv("t.csv", index=False)
        succeed("init", "X -> P", "t.csv")
        assert read_spec("spec.yaml").load_data()[0].images["P"].shape[1] == {"L": 1, "RGB": 3}[mode]

    def test_a_spec_that_does_not_declare_them_reads_them_too(self, scans):
        (scans / "s.yaml").write_text(f"graph: {GRAPH}\ndata: [{{path: t.csv}}]\n")
        assert read_spec(scans / "s.yaml").load_data()[0].images["I"].shape == (ROWS, 1, 6, 8)

    def test_declared_otherwise_they_are_levels(self, scans):
        out = succeed("plan", GRAPH, "--data", scans / "t.csv", "--kind", "I=categorical").out
        assert out == succeed("plan", GRAPH).out.replace("d1", "t.csv")

    def test_a_file_that_is_missing_is_named_with_its_row(self, scans):
        (scans / "scans" / "7.png").unlink()
        for arguments in (["init", GRAPH], ["check", GRAPH], ["plan", GRAPH, "--data"]):
            said = fail(2, *arguments, scans / "t.csv")
            assert "column 'I', row 7 (counted from 0): 'scans/7.png': No such file" in said

    def test_many_are_read_with_a_bar(self, tmp_path, monkeypatch):
        save_pictures(tmp_path, 2)
        told = []
        monkeypatch.setattr("mdcm.progress.counted", lambda items, total, what: told.append((total, what)) or items)
        column = pd.Series(["0.png", "1.png"] * 300, name="I")
        assert len(read_pictures(column, tmp_path, progress=True)) == 600
        assert told == [(600, "reading pictures of I")]
        read_pictures(column, tmp_path)
        read_pictures(column[:20], tmp_path, progress=True)
        assert len(told) == 1

    def test_what_only_ends_like_a_picture_is_a_text(self, tmp_path):
        column = pd.Series(["cat.png", "dog.png"] * 5)
        assert not names_pictures(column, tmp_path)
        assert not names_pictures(pd.Series([1, 2]), tmp_path)
        assert not names_pictures(pd.Series([None, None], dtype=object), tmp_path)
        save_pictures(tmp_path, 1)
        assert names_pictures(pd.Series(["0.png", None, "1.png"]), tmp_path)
        assert not names_pictures(pd.Series(["0.png", "none"]), tmp_path)


@pytest.fixture
def gaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"X": rng.integers(0, 2, 60), "Z": rng.integers(0, 2, 60), "Y": rng.integers(0, 2, 60)})
    table.loc[3:5, "Z"] = np.nan
    table.to_csv("t.csv", index=False)
    return table


class TestMissingValues:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["check", "X -> Z -> Y", "t.csv"],
            ["plan", "X -> Z -> Y", "--data", "t.csv"],
            ["identify", "X -> Z -> Y", "P(Y | do(X))", "--data", "t.csv"],
        ],
    )
    def test_the_option_that_leaves_them_out_is_offered_and_works(self, gaps, arguments):
        said = fail(2, *arguments)
        assert "3 rows, the first is row 3" in said
        assert "leave such rows out with --dropna" in said
        assert "Dataset(" not in said
        assert call(*arguments, "--dropna").code == 0

    def test_python_and_a_spec_are_told_of_their_own(self, gaps):
        with pytest.raises(mdcm.DataError, match=r"with Dataset\(..., dropna=True\)"):
            mdcm.fit("X -> Z -> Y", gaps)
        Path("s.yaml").write_text("graph: X -> Z -> Y\ndata: [{path: t.csv}]\n")
        for arguments in (["check", "s.yaml"], ["plan", "s.yaml"], ["train", "s.yaml", "--out", "run"]):
            said = fail(2, *arguments)
            assert "leave such rows out with 'dropna: true'" in said
            assert "s.yaml:2:8" in said

    def test_init_leaves_them_out_whether_asked_or_not(self, gaps):
        assert succeed("init", "X -> Z -> Y", "t.csv", "--dropna", "--out", "-").out == succeed(
            "init", "X -> Z -> Y", "t.csv", "--out", "-"
        ).out  # fmt: skip

    def test_a_missing_picture_is_a_missing_value(self, scans):
        table = pd.read_csv(scans / "t.csv")
        table.loc[[2, 9], "I"] = None
        table.to_csv(scans / "t.csv", index=False)
        said = fail(2, "plan", GRAPH, "--data", scans / "t.csv")
        assert "column 'I' names no picture (2 rows, the first is row 2, counted from 0)" in said
        assert "--dropna" in said
        succeed("plan", GRAPH, "--data", scans / "t.csv", "--dropna")
        succeed("init", GRAPH, scans / "t.csv")
        assert "2 with missing values left out" in Path("spec.yaml").read_text()
        assert len(read_spec("spec.yaml").load_data()[0]) == ROWS - 2


class TestSpecInPlace:
    @pytest.fixture
    def spec(self, gaps):
        gaps.dropna().astype(int).to_csv("whole.csv", index=False)
        Path("s.yaml").write_text(
            "graph: X -> Z -> Y\ndata: [{path: whole.csv}]\nobjective: adversarial\n"
            "variables: {X: {levels: [1, 0]}, Y: {kind: continuous}}\ntrain: {max_steps: 7}\n"
        )
        return "s.yaml"

    def test_plan_check_and_identify_take_one(self, spec):
        assert "adversarial: P(X)" in succeed("plan", spec).out
        assert "likelihood: P(X)" in succeed("plan", spec, "--objective", "likelihood").out
        assert call("check", spec).out == call("check", "X -> Z -> Y", "whole.csv", "--kind", "Y=continuous").out
        assert "P(Y | do(X)) = " in succeed("identify", spec, "P(Y | do(X))").out

    def test_init_says_all_of_it(self, spec):
        succeed("init", spec, "--out", "full.yaml")
        full, short = read_spec("full.yaml"), read_spec(spec)
        assert full.load_graph() == short.load_graph()
        assert full.objective == "adversarial"
        assert full.train == short.train
        assert full.declared() == {
            "X": {"kind": "categorical", "levels": [1, 0]},
            "Z": {"kind": "categorical"},
            "Y": {"kind": "continuous"},
        }
        pd.testing.assert_frame_equal(full.load_data()[0].table, short.load_data()[0].table)

    def test_images_and_arrays_are_kept_and_lead_from_the_new_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.save("i.npy", np.zeros((4, 1, 2, 2), np.uint8))
        np.save("w.npy", np.random.default_rng(0).normal(size=(4, 3)))
        Path("s.yaml").write_text("graph: I -> W\ndata: [{images: {I: i.npy}, arrays: {W: w.npy}, name: both}]\n")
        (tmp_path / "sub").mkdir()
        succeed("init", "s.yaml", "--out", "sub/full.yaml")
        assert "not observed" not in (tmp_path / "sub" / "full.yaml").read_text()
        (dataset,) = read_spec("sub/full.yaml").load_data()
        assert (dataset.name, list(dataset.images), list(dataset.arrays)) == ("both", ["I"], ["W"])

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["check", "s.yaml", "whole.csv"], "names its data"),
            (["plan", "s.yaml", "--dropna"], "write na_values and dropna at a data set"),
            (["check", "X -> Y"], "give a graph and at least one table, or a spec.yaml"),
            (["plan", "none.yaml"], "cannot be read: No such file"),
            (["plan", "X -> Z", "--kind", "X"], "NAME=KIND is expected"),
            (["plan", "X -> Z", "--kind", "X=picture"], "a kind of categorical, continuous"),
            (["plan", "X -> Z", "--kind", "x=image"], "there is no variable 'x'; did you mean 'X'?"),
            (["check", "X -> Z", "whole.csv", "--kind", "Q=image"], "'Q' is not a node of the graph"),
            (["plan", "X -> Z", "--na", "?"], "--na and --dropna are for tables"),
        ],
    )
    def test_mistakes(self, spec, arguments, says):
        said = " ".join(fail(2, *arguments).replace("│", " ").split())
        assert says in said


class TestNotices:
    EXTRA = "note: dataset 't.csv': column 'w' is not a node of the graph, ignored\n"

    @pytest.fixture
    def extra(self, gaps):
        gaps.dropna().astype(int).assign(w=1).to_csv("t.csv", index=False)
        return gaps

    def test_columns_left_out_are_noted_once_and_not_where_it_is_quiet(self, extra):
        arguments = ["plan", "X -> Z -> Y", "--data", "t.csv"]
        assert call(*arguments).err == self.EXTRA
        assert call(*arguments, "-q").err == ""
        assert call("check", "X -> Z -> Y", "t.csv").err == self.EXTRA

    def test_commands_on_a_run_do_not_repeat_what_training_said(self, extra):
        Path("s.yaml").write_text("graph: X -> Z -> Y\ndata: [{path: t.csv}]\ntrain: {max_steps: 5}\n")
        assert self.EXTRA in succeed("train", "s.yaml", "--out", "run").err
        assert "no node" not in succeed("query", "run", "P(Y | do(X=1))").err
        assert "no node" not in succeed("report", "run", "--num-samples", "100").err

    def test_what_may_be_wrong_is_told_also_where_it_is_quiet(self, extra):
        extra.dropna().astype(int).assign(Z=[None] * 57).to_csv("u.csv", index=False)
        said = call("plan", "X -> Z -> Y", "--data", "t.csv", "--data", "u.csv", "-q").err
        assert said == "warning: dataset 'u.csv': column 'Z' has no values, so it counts as not observed\n"

    @pytest.mark.parametrize(
        "warned",
        [
            lambda: mdcm.check("X -> Y", {"X": [0, 1] * 9, "Y": [1, 0] * 9, "w": [2, 3] * 9}),
            lambda: mdcm.fit("X", {"X": [0, 1] * 9, "w": [2, 3] * 9}, config=mdcm.TrainConfig(max_steps=1)),
            lambda: mdcm.data.Schema.infer([mdcm.Dataset({"X": ["1", "2", "?"]})]),
        ],
    )
    def test_in_python_they_point_at_the_line_of_the_caller(self, warned):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            warned()
        assert [one.filename for one in told] == [__file__]


def test_advice_is_worded_for_who_reads_it():
    from mdcm.text.advice import advice

    words = ("a=True", "--a", "a: true")
    assert advice(*words) == "a=True"
    with addressing("spec"):
        assert advice(*words) == "a: true"
        assert advice("a=True", "--a") == "--a"
        with addressing("python"):
            assert advice(*words) == "a=True"
    assert advice(*words) == "a=True"
