"""spec.yaml: what it says is what is trained, and every slip is answered with file, line and column."""

import dataclasses
import gzip
import inspect
import re
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mdcm.cli.spec import DataEntry, SpecError, TrainEntry, dataset_names, read_spec
from mdcm.data import Dataset, Schema, validate
from mdcm.errors import DataError, GraphError, MdcmError
from mdcm.training.config import TrainConfig


@pytest.fixture
def write(tmp_path):
    """Writes a spec beside a small table and returns its path."""
    pd.DataFrame({"X": [0, 1, 1, 0], "Y": [1.5, 0.5, 2.5, 1.0]}).to_csv(tmp_path / "obs.csv", index=False)

    def write(text):
        path = tmp_path / "spec.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def refused(path, place, message, load=lambda spec: (spec.load_graph(), spec.load_data())):
    """The error of reading and loading a spec; it must start with the place and then match the message."""
    with pytest.raises(MdcmError) as caught:
        load(read_spec(path))
    where = f"{path}:{place}: " if place else f"{path}: "
    assert str(caught.value).startswith(where)
    assert re.match(message, str(caught.value)[len(where) :]), str(caught.value)
    return caught.value


def test_only_graph_and_data_are_required(write):
    spec = read_spec(write("graph: X -> Y\ndata:\n  - {path: obs.csv}\n"))
    assert spec.load_graph().directed == (("X", "Y"),)
    (dataset,) = spec.load_data()
    assert dataset.columns == ("X", "Y")
    assert (dataset.name, dataset.do, len(dataset)) == ("obs.csv", (), 4)
    assert (spec.objective, spec.method, spec.declared(), spec.train.seed) == ("auto", "minimal", {}, 0)
    assert spec.train.config() == TrainConfig()


def test_everything_that_can_be_said_arrives(write, tmp_path):
    pd.DataFrame(
        {"X": ["yes", "no", None, "no"], "Y": [1, 2, 3, 3], "w": [1.0, 2.0, 3.0, 4.0], "patient": [1, 1, 2, 2]}
    ).to_csv(tmp_path / "trial.tsv", sep="\t", index=False)
    np.save(tmp_path / "pictures.npy", np.zeros((4, 8, 6, 3), dtype=np.uint8))
    (tmp_path / "graph.txt").write_text("X -> I -> Y\nX <-> Y")
    spec = read_spec(
        write("""\
            graph: graph.txt
            data:
              - path: trial.tsv
                do: X
                images: {I: pictures.npy}
                channels_last: true
                name: trial
                groups: patient
                weights: w
                dropna: yes
            variables:
              X: {kind: categorical, levels: [no, yes]}
              I: {kind: image, shape: [3, 8, 6]}
              Y: {levels: [3, 2, 1]}
            objective: {X: likelihood}
            method: minimal
            train: {seed: 5, max_steps: 20, batch_size: 7, learning_rate: 0.1, holdout: 0, refit: false}
            """)
    )
    graph = spec.load_graph()
    assert (graph.directed, graph.bidirected) == ((("X", "I"), ("I", "Y")), (("X", "Y"),))
    (dataset,) = spec.load_data()
    assert (dataset.name, dataset.do, dataset.dropna) == ("trial", ("X",), True)
    assert dataset.images["I"].shape == (4, 3, 8, 6)
    assert dataset.weights.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert dataset.groups.tolist() == [0, 0, 1, 1]
    schema = Schema.infer(validate([dataset], graph.nodes), spec.declared(), order=graph.nodes)
    # as YAML 1.2 has it, an unquoted no is a word
    assert schema["X"].levels == ("no", "yes")
    assert schema["Y"].levels == (3, 2, 1)
    assert schema["I"].shape == (3, 8, 6)
    assert spec.objective == {"X": "likelihood"}
    assert spec.train.seed == 5
    assert spec.train.config() == TrainConfig(max_steps=20, batch_size=7, learning_rate=0.1, holdout=0.0, refit=False)


def test_the_graph_may_stand_in_lines_of_its_own(write):
    spec = read_spec(write("graph: |\n  X -> Y\n  X <-> Y  # confounded\ndata: [{path: obs.csv}]\n"))
    assert spec.load_graph().bidirected == (("X", "Y"),)


def test_train_entry_has_the_settings_of_train_config():
    settings = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    entries = {
        name: entry.default for name, entry in TrainEntry.model_fields.items() if name not in {"seed", "ensemble"}
    }
    assert entries == settings


def test_data_entry_has_the_settings_of_dataset():
    parameters = set(inspect.signature(Dataset).parameters) - {"table"}
    assert set(DataEntry.model_fields) - {"path"} == parameters


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/obs.csv", "b/trial.csv"], ["obs.csv", "trial.csv"]),
        (["a/obs.csv", "b/obs.csv"], [None, None]),
    ],
)
def test_data_sets_are_called_after_their_files_where_that_tells_them_apart(paths, names):
    assert dataset_names(paths) == names


GRAPH_AND_DATA = "graph: X -> Y\ndata: [{path: obs.csv}]\n"

SLIPS = {
    "no mapping": ("- graph", None, "no spec, which is a mapping with the entries 'graph' and 'data'"),
    "empty": ("", None, "no spec, which is a mapping with the entries 'graph' and 'data'"),
    "no graph": ("data: [{path: obs.csv}]", None, "the entry 'graph' is missing"),
    "no data": ("graph: X -> Y", None, "the entry 'data' is missing"),
    "empty data": ("graph: X -> Y\ndata: []", "2:1", "data must not be empty"),
    "unclosed": ("graph: X -> Y\ndata: [", "2:8", "no valid YAML: "),
    "tab": ("graph: X -> Y\n\tdata: 1", "2:1", r"no valid YAML: found character '\\t'"),
    "twice": ("graph: X\ngraph: Y", "2:1", 'no valid YAML: found duplicate key "graph"'),
    "two documents": ("graph: X\n---\ngraph: Y", "2:1", "no valid YAML: but found another document"),
    "control character": ("graph: X\0", None, "no valid YAML: unacceptable character"),
    "too deep": ("graph: " + "[" * 600, "1:47", "the spec is too large: its entries are nested more than 40 deep"),
    "unknown entry": (
        "graf: X -> Y\ndata: [{path: obs.csv}]",
        None,
        "the entry 'graph' is missing\n.*spec.yaml:1:1: graf: unknown entry; known are .*; did you mean 'graph'",
    ),
    "unknown setting": (
        GRAPH_AND_DATA + "train:\n  max_step: 3",
        "4:3",
        "train.max_step: unknown entry; known are seed, ensemble, max_steps, .*; did you mean 'max_steps'",
    ),
    "unknown part of a data set": (
        "graph: X -> Y\ndata:\n  - path: obs.csv\n    DO: [X]",
        "4:5",
        "data.0.DO: unknown entry; known are path, do, images",
    ),
    "unknown part of a variable": (
        GRAPH_AND_DATA + "variables: {X: {levles: [0, 1]}}",
        "3:17",
        "variables.X.levles: unknown entry; known are kind, levels, shape, size; did you mean 'levels'",
    ),
    "no path": ("graph: X -> Y\ndata:\n  - {do: [X]}", "3:5", "the entry 'data.0.path' is missing"),
    "data set as text": (
        "graph: X -> Y\ndata:\n  - obs.csv",
        "3:5",
        "data.0 must be a mapping with entries such as path, do, .*, not 'obs.csv'",
    ),
    "data as text": ("graph: X -> Y\ndata: obs.csv", "2:1", "data must be a list, not 'obs.csv'"),
    "graph as list": ("graph: [X, Y]\ndata: [{path: obs.csv}]", "1:1", "graph must be text, not "),
    "whole number": (GRAPH_AND_DATA + "train: {max_steps: many}", "3:9", "train.max_steps must be a whole number"),
    "fraction": (GRAPH_AND_DATA + "train: {max_steps: 1.5}", "3:9", "train.max_steps must be a whole number, not 1.5"),
    "number": (GRAPH_AND_DATA + "train: {holdout: half}", "3:9", "train.holdout must be a number, not 'half'"),
    "truth": (GRAPH_AND_DATA + "train: {refit: perhaps}", "3:9", "train.refit must be true or false, not 'perhaps'"),
    "seed": (GRAPH_AND_DATA + "train: {seed: -1}", "3:9", "train.seed must be at least 0, not -1"),
    "out of range": (
        GRAPH_AND_DATA + "train:\n  seed: 1\n  max_steps: 0",
        "5:3",
        "train: max_steps must be a whole number from 1 to 1,000,000,000, not 0",
    ),
    "infinite": (
        GRAPH_AND_DATA + "train: {learning_rate: .inf}",
        "3:9",
        "train: learning_rate must be a number above 0 and at most 10, not inf",
    ),
    "kind": (
        GRAPH_AND_DATA + "variables:\n  X: {kind: nominal}",
        "4:7",
        "variables.X.kind must be 'categorical', 'continuous', 'implicit' or 'image', not 'nominal'",
    ),
    "levels of a number": (
        GRAPH_AND_DATA + "variables:\n  X: {kind: continuous, levels: [0, 1]}",
        "4:3",
        "variables.X: a variable that is continuous has no levels",
    ),
    "shape of a category": (
        GRAPH_AND_DATA + "variables:\n  X: {kind: categorical, shape: [1, 8, 8]}",
        "4:3",
        "variables.X: a variable that is categorical has no shape",
    ),
    "level of another type": (
        GRAPH_AND_DATA + "variables:\n  X: {levels: [2020-01-01]}",
        "4:7",
        "variables.X.levels: levels are a list of texts, numbers, or true and false",
    ),
    "level twice": (GRAPH_AND_DATA + "variables:\n  X: {levels: [1, 1.0]}", "4:7", ".*levels must be distinct"),
    "short shape": (
        GRAPH_AND_DATA + "variables:\n  X: {shape: [8, 8]}",
        "4:7",
        r"variables.X.shape: a shape is three whole numbers, \[channels, height, width\]; it is \[8, 8\]",
    ),
    "objective": (
        GRAPH_AND_DATA + "objective: likelyhood",
        "3:1",
        "objective: an objective is one of auto, adversarial, likelihood, for all variables or by variable",
    ),
    "objective of a variable": (GRAPH_AND_DATA + "objective: {X: gan}", "3:1", "objective: an objective is one of"),
    "method": (
        GRAPH_AND_DATA + "method: fastest",
        "3:1",
        "method must be 'minimal', 'paper' or 'joint', not 'fastest'",
    ),
    "unknown variable": (
        GRAPH_AND_DATA + "variables:\n  Y: {kind: continuous}\n  Z: {kind: continuous}",
        "5:3",
        "variables: 'Z' is not a node of the graph; its nodes are 'X', 'Y'",
    ),
    "unknown variable with an objective": (
        GRAPH_AND_DATA + "objective: {Q: auto}",
        "3:13",
        "objective: 'Q' is not a node of the graph",
    ),
    "graph text": (
        'graph: "X -> -> Y"\ndata: [{path: obs.csv}]',
        "1:1",
        "line 1, column 6: a name is missing between '->' and '->'",
    ),
    "cycle": ("graph: |\n  X -> Y\n  Y -> X\ndata: [{path: obs.csv}]", "1:1", "line 2, column 3: .* a cycle"),
    "graph file": ("graph: graphs/g.txt\ndata: [{path: obs.csv}]", "1:1", "there is no graph file 'graphs/g.txt'"),
    "data file": ("graph: X -> Y\ndata:\n- do: []\n  path: none.csv", "4:3", ".*none.csv: No such file or directory"),
    "data file of another kind": ("graph: X -> Y\ndata: [{path: spec.yaml}]", "2:9", ".*a table must be a .csv"),
    "image file": (
        "graph: X -> I\ndata: [{path: obs.csv, images: {I: none.npy}}]",
        "2:33",
        ".*none.npy: No such file",
    ),
    "target": (
        "graph: X -> Y\ndata: [{path: obs.csv, do: [Z]}]",
        "2:24",
        r"dataset 'obs.csv': do=\['Z'\], but there is no column 'Z'",
    ),
    "weights": (
        "graph: X -> Y\ndata: [{path: obs.csv, weights: w}]",
        "2:24",
        "dataset 'obs.csv': weights='w' is not a column",
    ),
    "array file": ("graph: X -> W\ndata: [{path: obs.csv, arrays: {W: obs.csv}}]", "2:33", ".*neither an .npy array"),
    "groups": (
        "graph: X -> Y\ndata: [{path: obs.csv, groups: g}]",
        "2:24",
        "dataset 'obs.csv': groups='g' is not a column",
    ),
    "column of no data set": (
        "graph: X -> Y -> Q\ndata:\n- path: obs.csv",
        "3:3",
        "variable 'Q' of the graph is",
    ),
    "level that is not declared": (
        GRAPH_AND_DATA + "variables: {X: {levels: [0, 2]}}",
        "2:8",
        r"dataset 'obs.csv': variable 'X' has no level 1; its levels are 0, 2; .*\(2 rows, the first is row 1",
    ),
    "variable without data": (
        "graph: X -> Y\ndata:\n- {path: obs.csv}\n- {path: other.csv}",
        "4:4",
        ".*other.csv: No such file",
    ),
    "size": (GRAPH_AND_DATA + "variables: {X: {size: 0}}", "3:17", "variables.X.size must be at least 1, not 0"),
    "size of a category": (
        GRAPH_AND_DATA + "variables: {X: {kind: categorical, size: 2}}",
        "3:13",
        "variables.X: a variable that is categorical has no size",
    ),
    "image column without pictures": (
        GRAPH_AND_DATA + "variables: {X: {kind: image}}",
        "2:9",
        r"column 'X', row 0 \(counted from 0\): 0 is not a file name",
    ),
}


@pytest.mark.parametrize(("text", "place", "message"), SLIPS.values(), ids=SLIPS.keys())
def test_slips_are_answered_with_their_place(write, text, place, message):
    error = refused(write(text), place, message)
    if isinstance(error, SpecError):
        line, column = (None, None) if place is None else map(int, place.split(":"))
        assert (error.path.endswith("spec.yaml"), error.line, error.column) == (True, line, column)


def test_all_slips_are_named_at_once_in_the_order_of_the_file(write):
    error = refused(
        write("graph: X -> Y\ntrain: {max_steps: x}\nvariables: {X: {kind: y}}\ndata: [{path: obs.csv, d: 1}]\n"),
        "2:9",
        "train.max_steps must be a whole number",
    )
    places = re.findall(r"spec\.yaml:(\d+:\d+): ", str(error))
    assert places == ["2:9", "3:17", "4:24"]


def test_errors_keep_their_kind_and_evidence(write):
    error = refused(write("graph: X -> X\ndata: [{path: obs.csv}]"), "1:1", "line 1, column 3")
    assert isinstance(error, GraphError)
    assert (error.edge, error.line) == (("X", "X"), 1)
    error = refused(write("graph: X -> Y\ndata: [{path: obs.csv, do: Z}]"), "2:24", "dataset")
    assert isinstance(error, DataError)
    assert error.column == "Z"


def test_a_spec_that_cannot_be_read(tmp_path):
    refused(tmp_path / "none.yaml", None, "the spec cannot be read: No such file or directory")
    refused(tmp_path, None, "the spec cannot be read: Is a directory")
    (tmp_path / "spec.yaml").write_bytes(b"graph: \xff\xfe")
    refused(tmp_path / "spec.yaml", None, "the spec cannot be read: it is not UTF-8 text")


def test_a_tag_makes_no_object(write, tmp_path):
    text = f"graph: !!python/object/apply:os.system [touch {tmp_path}/owned]\ndata: [{{path: obs.csv}}]\n"
    refused(write(text), "1:1", "graph must be text")
    assert not (tmp_path / "owned").exists()


def test_a_data_set_may_be_arrays_alone(write, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    header = bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6])
    (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pictures.tobytes()))
    (tmp_path / "labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 4, 7, 2, 7, 1]))
    np.save(tmp_path / "w.npy", np.arange(8.0).reshape(4, 2))
    spec = read_spec(
        write("""\
            graph: D -> I; D -> W
            data:
              - images: {I: images-idx3-ubyte.gz}
                arrays: {D: labels-idx1-ubyte, W: w.npy}
            variables: {W: {size: 2}}
            """)
    )
    (dataset,) = spec.load_data()
    assert (dataset.name, dataset.columns) == ("images-idx3-ubyte.gz", ("D", "W", "I"))
    assert dataset.table["D"].tolist() == [7, 2, 7, 1]
    np.testing.assert_array_equal(dataset.images["I"][:, 0], pictures)


def test_mistakes_in_the_second_data_set_are_placed_there(write, tmp_path):
    (tmp_path / "b.csv").write_text("X,Y\n0,1.5\nyes,2.5\n1,3.5\n")
    error = refused(
        write("graph: X -> Y\ndata:\n  - path: obs.csv\n  - path: b.csv\n    name: second\n"),
        "4:5",
        r"column 'X' holds numbers in dataset 'obs.csv' and strings in dataset 'second', such as 'yes' \(row 1, ",
    )
    assert (error.dataset, error.column, error.row, error.count) == ("second", "X", 1, 1)
    (tmp_path / "b.csv").write_text("X,Y\n0,1.5\n,2.5\n1,3.5\n")
    text = "graph: X -> Y\ndata:\n  - path: obs.csv\n  - path: b.csv\n    do: X\n"
    refused(write(text), "5:5", r"dataset 'b.csv': column 'X' has missing values \(row 1, counted from 0\)")
    datasets = read_spec(write(text + "    dropna: true\n")).load_data()
    assert [dataset.name for dataset in datasets] == ["obs.csv", "b.csv"]


class TestPictures:
    """Columns of file names, relative to the table."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "tables" / "pictures").mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
        for row, array in enumerate(pixels):
            Image.fromarray(array).save(tmp_path / "tables" / "pictures" / f"{row}.png")
        self.pixels = np.moveaxis(pixels, 3, 1)
        self.table = pd.DataFrame({"X": [0, 1, 1], "I": [f"pictures/{row}.png" for row in range(3)]})
        return tmp_path / "tables"

    def spec(self, folder, declared="{kind: image}", more=""):
        self.table.to_csv(folder / "obs.csv", index=False)
        path = folder.parent / "spec.yaml"
        path.write_text(f"graph: X -> I\ndata:\n  - {{path: tables/obs.csv{more}}}\nvariables:\n  I: {declared}\n")
        return path

    @pytest.mark.parametrize("declared", ["{kind: image}", "{shape: [3, 8, 6]}"])
    @pytest.mark.parametrize("more", ["", ", channels_last: true"])
    def test_become_images(self, folder, declared, more):
        (dataset,) = read_spec(self.spec(folder, declared, more)).load_data()
        assert dataset.columns == ("X", "I")
        np.testing.assert_array_equal(dataset.images["I"], self.pixels)
        assert dataset.table["X"].tolist() == [0, 1, 1]

    def test_are_grey_if_that_is_declared(self, folder):
        (dataset,) = read_spec(self.spec(folder, "{kind: image, shape: [1, 8, 6]}")).load_data()
        grey = np.asarray(Image.open(folder / "pictures" / "2.png").convert("L"))
        np.testing.assert_array_equal(dataset.images["I"][2, 0], grey)

    def test_are_grey_if_they_are_grey(self, folder):
        for row in range(3):
            Image.open(folder / "pictures" / f"{row}.png").convert("L").save(folder / "pictures" / f"{row}.png")
        (dataset,) = read_spec(self.spec(folder)).load_data()
        assert dataset.images["I"].shape == (3, 1, 8, 6)

    def test_alone_make_a_data_set(self, folder):
        self.table = self.table[["I"]]
        path = self.spec(folder)
        path.write_text(path.read_text().replace("X -> I", "I"))
        (dataset,) = read_spec(path).load_data()
        assert dataset.columns == ("I",)
        assert len(dataset) == 3

    def test_in_an_odd_format_are_not_opened(self, folder):
        Image.new("RGB", (6, 8)).save(folder / "pictures" / "1.png", format="GIF")
        refused(self.spec(folder), "3:6", "column 'I', row 1 .*: not a readable PNG or JPEG picture")

    def test_missing_names_are_refused_or_dropped(self, folder):
        self.table.loc[1, "I"] = None
        refused(self.spec(folder), "3:6", r"column 'I' names no picture \(row 1, counted from 0\)")
        (dataset,) = read_spec(self.spec(folder, more=", dropna: true")).load_data()
        np.testing.assert_array_equal(dataset.images["I"], self.pixels[[0, 2]])
        assert dataset.table["X"].tolist() == [0, 1]

    def test_a_missing_file(self, folder):
        self.table.loc[2, "I"] = "pictures/x.png"
        error = refused(self.spec(folder), "3:6", "column 'I', row 2 .*: 'pictures/x.png': No such file")
        assert (error.column, error.row) == ("I", 2)

    def test_a_file_that_is_no_picture(self, folder):
        (folder / "pictures" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
        refused(self.spec(folder), "3:6", "column 'I', row 1 .*: not a readable PNG or JPEG picture")

    def test_another_size(self, folder):
        Image.new("RGB", (7, 8)).save(folder / "pictures" / "1.png")
        refused(self.spec(folder), "3:6", "column 'I', row 1 .* is 8 x 7 pixels, not 8 x 6")
        refused(
            self.spec(folder, "{kind: image, shape: [3, 16, 16]}"), "3:6", ".*row 0 .* is 8 x 6 pixels, not 16 x 16"
        )

    def test_another_pixel_format(self, folder):
        Image.fromarray(np.zeros((8, 6), dtype=np.uint16)).save(folder / "pictures" / "0.png")
        refused(self.spec(folder), "3:6", "column 'I', row 0 .* has the pixel format 'I;16', which does not fit")

    def test_need_pillow(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        refused(self.spec(folder), "3:6", r"column 'I' .* needs pillow: pip install 'mdcm\[images\]'")


def test_a_key_that_nothing_can_look_up(write):
    with pytest.raises(SpecError, match="no valid YAML"):
        read_spec(write("graph: X -> Y\n? {path(: a.csv, do: [X]}\ndata: [{path: a.csv}]\n"))
