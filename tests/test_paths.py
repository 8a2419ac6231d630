"""Whatever is given as a path is read, written, or refused by an error of mdcm that says what is wrong with it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import fail

import mdcm
from mdcm import MdcmError, TrainConfig
from mdcm.cli.spec import read_spec
from mdcm.experiments.handwriting import load_handwriting
from mdcm.experiments.sachs import read_cells
from mdcm.experiments.xrays import read_covidx
from mdcm.mechanisms import Pretrained
from mdcm.sampling import write_samples
from mdcm.storage.disk import as_path

LONGEST = 5000
NO_PATHS = {
    "one long name": ("x" * 100_000, "too long for the system; it has 100,000 characters"),
    "many names": ("/".join(["a" * 100] * 1000), "too long for the system; it has 100,999 characters"),
    "NUL": ("a\0b", "holds a NUL"),
    "empty": ("", "it is empty"),
    "no letter": ("a\ud800b", "the system cannot encode one of its characters"),
    "a number": (3, "a path is needed, .*, not 3"),
    "nothing": (None, "a path is needed, .*, not None"),
    "bytes": (b"abc", "a path is needed"),
}
TABLE = pd.DataFrame({"X": [0, 1] * 20, "Y": [0, 1] * 20})


@pytest.fixture(scope="module")
def model():
    return mdcm.fit("X -> Y", TABLE, config=TrainConfig(max_steps=1))


def reading():
    return {
        "load": mdcm.load,
        "read_graph": mdcm.read_graph,
        "read_table": mdcm.data.read_table,
        "read_array": mdcm.data.read_array,
        "read_images": mdcm.data.read_images,
        "file_sha256": mdcm.data.file_sha256,
        "read_pictures": lambda path: mdcm.data.read_pictures(pd.Series(["a.png"], name="I"), path),
        "read_spec": read_spec,
        "from_diffusers": Pretrained.from_diffusers,
        "handwriting": lambda path: load_handwriting(3 if path is None else path),
        "sachs": read_cells,
        "xrays": lambda path: read_covidx(path, 8),
    }


def writing(model):
    brief = TrainConfig(max_steps=1)
    return {
        "save": model.save,
        "fit": lambda path: mdcm.fit("X -> Y", TABLE, config=brief, out=3 if path is None else path),
        "report": lambda path: mdcm.write_report(model, path),
        "samples": lambda path: write_samples(path, [model.draw_samples(2)], 2),
    }


def refused(match, call, path):
    with pytest.raises(MdcmError, match=match) as caught:
        call(path)
    assert len(str(caught.value)) < LONGEST


class TestPaths:
    @pytest.mark.parametrize(("path", "message"), NO_PATHS.values(), ids=NO_PATHS.keys())
    @pytest.mark.parametrize("name", reading())
    def test_read(self, name, path, message):
        message = message.replace("not None", "not 3") if name == "handwriting" else message
        refused(message, reading()[name], path)

    @pytest.mark.parametrize(("path", "message"), NO_PATHS.values(), ids=NO_PATHS.keys())
    @pytest.mark.parametrize("name", ["save", "fit", "report", "samples"])
    def test_write(self, name, path, message, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        message = message.replace("not None", "not 3") if name == "fit" else message
        refused(message, writing(model)[name], path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", reading())
    @pytest.mark.parametrize("kind", ["below a file", "a directory", "nowhere", "links in a circle", "a file"])
    def test_what_is_something_else(self, name, kind, tmp_path):
        (tmp_path / "file").write_bytes(np.random.default_rng(0).bytes(50))
        (tmp_path / "folder").mkdir()
        (tmp_path / "circle").symlink_to("circle")
        if (name, kind) == ("file_sha256", "a file"):
            assert len(mdcm.data.file_sha256(tmp_path / "file")) == 64
            return
        last = {"below a file": "file/x", "a directory": "folder", "nowhere": "nowhere", "links in a circle": "circle"}
        refused(".", reading()[name], tmp_path / last.get(kind, "file"))

    def test_as_path(self, tmp_path):
        assert as_path(str(tmp_path)) == as_path(tmp_path) == tmp_path
        assert as_path(tmp_path / "not" / "there") == tmp_path / "not" / "there"
        assert as_path("größe.csv") == Path("größe.csv")

    @pytest.mark.parametrize("path", ["x" * 100_000, "a" * 300 + ".csv", "a/" * 5000, ""])
    def test_shell(self, path, tmp_path):
        for arguments in (
            ["check", "X -> Y", path], ["plan", "X -> Y", "--data", path], ["query", path, "P(Y)"], ["report", path],
            ["sample", path, "--out", tmp_path / "s.csv"], ["train", f"{path}.yaml", "--out", tmp_path / "run"],
        ):  # fmt: skip
            assert len(fail(2, *arguments)) < LONGEST

    def test_no_path_at_all(self, tmp_path):
        assert "the path of a table is missing" in fail(2, "check", "X -> Y", ":do=X")
        assert "the path of a table is missing" in fail(2, "plan", "X -> Y", "--data", "")
        (tmp_path / "spec.yaml").write_text('graph: "X -> Y"\ndata: [{path: ""}]\n')
        assert "the entry 'data.0.path' is missing" in fail(2, "check", tmp_path / "spec.yaml")

    @pytest.mark.parametrize("path", ["x" * 100_000, "a" * 300, "a/" * 5000, "a\\0b"], ids=range(4))
    def test_paths_in_a_spec(self, path, tmp_path):
        TABLE.to_csv(tmp_path / "a.csv", index=False)
        for entry in (
            f'graph: "X -> Y"\ndata: [{{path: "{path}.csv"}}]',
            f'graph: "{path}.dag"\ndata: [{{path: a.csv}}]',
            f'graph: "X -> Y; Y -> I"\ndata: [{{path: a.csv, images: {{I: "{path}.npy"}}}}]',
            f'graph: "X -> Y; Y -> W"\ndata: [{{path: a.csv, arrays: {{W: "{path}.npy"}}}}]',
        ):
            (tmp_path / "spec.yaml").write_text(entry)
            assert len(fail(2, "train", tmp_path / "spec.yaml", "--out", tmp_path / "run")) < LONGEST
        assert not (tmp_path / "run").exists()
