"""What a user is told who gives bad graphs, data, queries and run directories: from Python and from the command line.

Each case holds both ways to the same message: the exception of the library, and stderr of the command, which ends with
2 (or with 1 where the answer is no), prints nothing on stdout and never shows a traceback.
"""

import contextlib
import json
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import call, fail, process, succeed
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mdcm
from mdcm import (
    ADMG,
    CheckpointError,
    DataError,
    Dataset,
    DatasetSpec,
    GraphError,
    LowSupportError,
    QueryError,
    TrainConfig,
    UntrainableError,
)
from mdcm.data import Schema, validate

BRIEF = TrainConfig(max_steps=1)


def refused(kind, message, function, *args, **kwargs):
    """The exception of a call, whose message must match from its start."""
    with pytest.raises(kind) as caught:
        function(*args, **kwargs)
    assert re.match(message, str(caught.value)), str(caught.value)
    return caught.value


def told(message, *arguments, code=2):
    """Stderr of a command must be an error with this message."""
    err = fail(code, *arguments)
    assert re.search(f"error: (.*: )?{message}", err), err


GRAPHS = {
    "cycle": ("A -> B -> C -> A", r"line 1, column 13: the directed edges have a cycle: A -> B -> C -> A"),
    "cycle in lines": ("A -> B\nB -> C\nC -> B", r"line 3, column 3: the directed edges have a cycle: B -> C -> B"),
    "self-loop": ("A -> B; B -> B", "line 1, column 11: the edge B -> B joins a node to itself"),
    "bidirected self-loop": ("A <-> A", "line 1, column 3: the edge A <-> A joins a node to itself"),
    "bidirected twice": ("A <-> B; B <-> A", "line 1, column 12: the bidirected edge B <-> A is given twice"),
    "empty name": ('A -> ""', "line 1, column 6: a name is empty"),
    "blank name": ('A -> " "', "line 1, column 6: a name is empty"),
    "no name": ("A -> ; B", "line 1, column 3: a name is missing after '->'"),
    "no arrow": ("A B", "line 1, column 3: an arrow .* is missing between 'A' and 'B'"),
    "another arrow": ("A => B", "line 1, column 4: unexpected '>'; edges are written ->, <- or <->"),
    "comma": ("A -> B, -> C", "line 1, column 9: a name is missing between ',' and '->'"),
    "open quote": ('A -> "B', "line 1, column 6: a quoted name does not end on this line"),
    "latent edge": ("[latent] -> A", r"line 1, column 1: \[latent\] must follow a name"),
}


class TestGraphs:
    @pytest.mark.parametrize(("text", "message"), GRAPHS.values(), ids=GRAPHS.keys())
    def test_text(self, text, message, tmp_path):
        error = refused(GraphError, message, ADMG.from_string, text)
        assert f"line {error.line}, column {error.column}" in str(error)
        told(message, "plan", text)
        # and in a file, whose name is then part of the message
        (tmp_path / "g.txt").write_text(text)
        refused(GraphError, re.escape(f"{tmp_path}/g.txt: ") + message, mdcm.read_graph, tmp_path / "g.txt")
        told(re.escape(f"{tmp_path}/g.txt: ") + message, "plan", tmp_path / "g.txt")

    def test_text_carries_its_evidence(self):
        error = refused(GraphError, "", ADMG.from_string, "A -> B -> C -> A")
        assert (error.cycle, error.edge) == (("A", "B", "C", "A"), ("C", "A"))
        assert refused(GraphError, "", ADMG.from_string, "A -> A").edge == ("A", "A")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"nodes": ["A", "B", "A"]}, "the node 'A' is given twice"),
            ({"nodes": ["A"], "latents": {"A": ["A"]}}, "the node 'A' is given twice as a node and as a latent"),
            (
                {"nodes": ["Apple"], "directed": [("Apple", "Aple")]},
                "the edge Apple -> Aple names 'Aple', which is not a node; did you mean 'Apple'?",
            ),
            ({"nodes": ["A"], "bidirected": [("A", "B")]}, "the edge A <-> B names 'B', which is not a node"),
            ({"nodes": ["A"], "latents": {"L": ["A", "B"]}}, "the latent 'L' has the child 'B', which is not a node"),
            ({"nodes": ["A", ""]}, "node 1 has an empty name"),
            ({"nodes": ["A", " \n"]}, "node 1 has an empty name"),
            ({"nodes": ["A", 7]}, "node 1 is 7: names are text"),
            ({"nodes": "AB"}, "nodes is the text 'AB'; give a list of names"),
            ({"nodes": ["A", "B"], "directed": ["AB"]}, "directed edge 0 is 'AB': an edge is a pair of names"),
            ({"directed": [("A", "A")]}, "the edge A -> A joins a node to itself"),
            ({"directed": [("A", "B"), ("B", "A")]}, "the directed edges have a cycle: A -> B -> A"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_python(self, arguments, message):
        refused(GraphError, message, lambda: ADMG(**arguments))

    def test_files(self, tmp_path):
        refused(
            GraphError, ".*none.txt: the graph cannot be read: No such file", mdcm.read_graph, tmp_path / "none.txt"
        )
        told("there is no graph file '.*none.txt', and it is not a graph's text", "plan", tmp_path / "none.txt")
        (tmp_path / "latin.txt").write_bytes(b"Gr\xf6\xdfe -> B")
        told("the graph cannot be read: it is not UTF-8 text", "plan", tmp_path / "latin.txt")

    def test_a_process_of_its_own(self):
        result = process("plan", "A -> B -> A")
        assert result.code == 2
        assert result.out == ""
        assert result.err == "error: line 1, column 8: the directed edges have a cycle: A -> B -> A\n"

    @settings(max_examples=80)
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
    @example("--")
    @example("-")
    @example(".")
    @example("/")
    @example("\x1b[31mA")
    @example("A" * 5000)
    @example("A -> " * 3000 + "A")
    def test_any_text_is_a_graph_or_an_error(self, text):
        result = call("plan", text)
        assert result.code in {0, 2}
        assert (result.out == "") == (result.code == 2)
        assert (result.err != "") == (result.code == 2)


@pytest.fixture
def write(tmp_path):
    """Writes a table and a spec for the graph X -> Y, and returns the spec."""

    def write(table, graph="X -> Y", more="", variables=None):
        if isinstance(table, str):
            (tmp_path / "obs.csv").write_text(table)
        elif table is not None:
            table.to_csv(tmp_path / "obs.csv", index=False)
        declared = f"variables: {json.dumps(variables)}\n" if variables else ""
        spec = tmp_path / "spec.yaml"
        spec.write_text(f"graph: {graph}\ndata:\n  - {{path: obs.csv{more}}}\n{declared}train: {{max_steps: 1}}\n")
        return spec

    return write


TABLES = {
    "missing column": (
        pd.DataFrame({"X": [0, 1, 1], "Yy": [1, 0, 1]}),
        "variable 'Y' of the graph is not a column of any dataset .*; did you mean 'Yy'",
    ),
    "no column at all": (
        pd.DataFrame({"a": [0, 1], "b": [1, 0]}),
        "dataset '.*' has none of the graph's variables: its columns are 'a', 'b', the graph has 'X', 'Y'",
    ),
    "missing values": (
        pd.DataFrame({"X": [0, 1, 1, 0], "Y": [1, None, 0, None]}),
        r"dataset '.*': column 'Y' has missing values \(2 rows, the first is row 1, counted from 0\); fill them in, or "
        r"leave such rows out with (Dataset\(..., dropna=True\)|'dropna: true'|--dropna)",
    ),
    "one missing value": (
        pd.DataFrame({"X": [0, 1, 1, None], "Y": [1, 0, 0, 1]}),
        r"dataset '.*': column 'X' has missing values \(row 3, counted from 0\)",
    ),
    "infinite": (
        pd.DataFrame({"X": [0, 1, 1], "Y": [0.5, float("inf"), 1]}),
        r"dataset '.*': column 'Y' has infinite values \(row 1, counted from 0\)",
    ),
    "constant everywhere": (
        pd.DataFrame({"X": [0, 1, 1], "Y": [0.5, 0.5, 0.5]}),
        "column 'Y' is 0.5 in every row of dataset '.*', and constant in all datasets: "
        "nothing can be learned about it; leave it out of the graph, or declare it categorical",
    ),
    "no rows": (pd.DataFrame({"X": [], "Y": []}), "dataset '.*' is empty: it has no rows|the dataset is empty"),
    "names in a column": (
        pd.DataFrame({"X": [0, 1] * 150, "Y": [f"name {row}" for row in range(300)]}),
        ".* has 300 different strings, in 300 rows: it seems to be an identifier; .* it with kind",
    ),
}


class TestData:
    """The same table through ``mdcm.fit``, and through a file, a spec and ``mdcm train``."""

    @pytest.mark.parametrize(("table", "message"), TABLES.values(), ids=TABLES.keys())
    def test_tables(self, table, message, write, tmp_path):
        kind = ValueError if "mechanism" in message else DataError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            refused(kind, message, mdcm.fit, "X -> Y", table, config=BRIEF)
        spec = write(table)
        told(message, "train", spec, "--out", tmp_path / "run")
        if "mechanism" not in message:
            told(message, "plan", "X -> Y", "--data", tmp_path / "obs.csv")

    def test_tables_carry_their_evidence(self):
        table = pd.DataFrame({"X": [0, 1, 1, 0], "Y": [1, None, 0, None]})
        error = refused(DataError, "", mdcm.fit, "X -> Y", Dataset(table, name="trial"))
        assert (error.dataset, error.column, error.row, error.count) == ("trial", "Y", 1, 2)

    def test_rows_with_missing_values_are_dropped_if_asked(self, write, tmp_path):
        table = pd.DataFrame({"X": [0, 1, 1, 0] * 5, "Y": [1, None, 0, 1] * 5})
        model = mdcm.fit("X -> Y", Dataset(table, dropna=True), config=BRIEF)
        assert model.datasets[0]["rows"] == 15
        succeed("train", write(table, more=", dropna: true"), "--out", tmp_path / "run")
        assert mdcm.load(tmp_path / "run").datasets[0]["rows"] == 15

    def test_column_names_twice(self, write, tmp_path):
        table = pd.DataFrame([[0, 1, 2]], columns=["X", "Y", "X"])
        refused(
            DataError, "the dataset: 2 columns are called 'X'; rename or drop the duplicates", mdcm.fit, "X -> Y", table
        )
        told("2 columns are called 'X'", "train", write("X,Y,X\n0,1,2\n"), "--out", tmp_path / "run")

    @pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
    def test_weights(self, write, tmp_path, weight):
        table = pd.DataFrame({"X": [0, 1, 1], "Y": [1, 0, 1], "w": [1.0, weight, weight]})
        message = (
            r"(the dataset|dataset '.*'): column 'w' \(weights\) must be positive and finite "
            r"\(2 rows, the first is row 1, counted from 0\)"
        )
        error = refused(DataError, message, Dataset, table, weights="w")
        assert (error.column, error.row, error.count) == ("w", 1, 2)
        told(message, "train", write(table, more=", weights: w"), "--out", tmp_path / "run")

    def test_targets(self, write, tmp_path):
        table = pd.DataFrame({"X": [0, 1, 1], "Y": [1, 0, 1], "dose": [1, 2, 3]})
        message = r"(the dataset|dataset '.*'): do=\['Z'\], but there is no column 'Z' to read the values set from"
        assert refused(DataError, message, Dataset, table, do=["Z"]).column == "Z"
        told(message, "train", write(table, more=", do: [Z]"), "--out", tmp_path / "run")
        told(message, "plan", "X -> Y", "--data", f"{tmp_path}/obs.csv:do=Z")
        message = r"dataset '.*': do=\['dose'\], but 'dose' is not a node of the graph"
        refused(DataError, message, mdcm.fit, "X -> Y", Dataset(table, do="dose"))
        told(message, "plan", "X -> Y", "--data", f"{tmp_path}/obs.csv:do=dose")

    def test_levels_of_different_types(self, tmp_path):
        first, second = pd.DataFrame({"X": [0, 1], "Y": [0, 1]}), pd.DataFrame({"X": ["no", "yes"], "Y": [1, 0]})
        message = (
            "column 'X' holds numbers in dataset '.*' and strings in dataset '.*', such as 'no' "
            r"\(2 rows, the first is row 0, counted from 0\); convert either"
        )
        datasets = validate([Dataset(first, name="a"), Dataset(second, name="b")], ["X", "Y"])
        error = refused(DataError, message, Schema.infer, datasets)
        assert (error.dataset, error.column, error.row, error.count) == ("b", "X", 0, 2)
        first.to_csv(tmp_path / "a.csv", index=False)
        second.to_csv(tmp_path / "b.csv", index=False)
        told(message, "plan", "X -> Y", "--data", tmp_path / "a.csv", "--data", tmp_path / "b.csv")

    def test_undeclared_levels(self, write, tmp_path):
        table = pd.DataFrame({"X": ["no", "yes", "maybe"], "Y": [1, 0, 1]})
        message = (
            r"dataset '.*': variable 'X' has no level 'maybe'; its levels are 'no', 'yes'.*\(row 2, counted from 0"
        )
        declared = {"X": {"levels": ["no", "yes"]}}
        refused(DataError, message, mdcm.fit, "X -> Y", table, variables=declared)
        told(message, "train", write(table, variables=declared), "--out", tmp_path / "run")

    def test_images(self, write, tmp_path):
        table = pd.DataFrame({"X": [0, 1, 1]})
        images = np.zeros((3, 1, 8, 8), dtype=np.uint8)

        def both(array, message, declared=None):
            refused(
                DataError,
                message,
                lambda: mdcm.fit("X -> I", Dataset(table, images={"I": array}), variables=declared, config=BRIEF),
            )
            np.save(tmp_path / "i.npy", array)
            spec = write(table, "X -> I", ", images: {I: i.npy}", declared)
            told(message, "train", spec, "--out", tmp_path / "run")

        where = "(the dataset|dataset '.*'): image 'I'"
        both(images[:2], f"{where} has 2 rows, but there are 3")
        both(
            images[:, 0],
            where + r" must be an array \[n, c, h, w\], not of shape \[3, 8, 8\]; add the channel axis",
        )
        both(images.astype(np.int64), f"{where} has dtype int64; give uint8 from 0 to 255, or floats from 0 to 1")
        both(images - 0.5, f"{where}: row 0 holds -0.5; floats must lie in")
        both(
            np.zeros((3, 8, 8, 3)),
            where + r" has shape \[3, 8, 8, 3\], .* (pass channels_last=True|write 'channels_last: true' in a spec)",
        )
        message = (
            r"image 'I' of dataset '.*' has shape \[1, 8, 8\] \(channels, height, width\), not \[3, 8, 8\] as declared"
        )
        both(images, message, {"I": {"kind": "image", "shape": [3, 8, 8]}})
        both(images, "variable 'I' is declared categorical, but holds images", {"I": {"kind": "categorical"}})

    def test_arrays(self, write, tmp_path):
        table = pd.DataFrame({"X": [0, 1, 1]})

        def both(array, message):
            refused(DataError, message, lambda: validate(Dataset(table, arrays={"W": array}), ["X", "W"]))
            np.save(tmp_path / "w.npy", array)
            told(message, "train", write(table, "X -> W", ", arrays: {W: w.npy}"), "--out", tmp_path / "run")

        where = "(the dataset|dataset '.*'): array 'W'"
        both(np.zeros((2, 2)), f"{where} has 2 rows, but there are 3")
        both(np.zeros((3, 2, 2)), where + r" must have the shape \[n\] or \[n, size\], not \[3, 2, 2\]")
        both(np.full((3, 2), "a"), f"{where} has dtype <U1; a vector holds real numbers")
        both(np.array([[0, 1], [np.nan, 1], [1, 2.0]]), r"dataset '.*': column 'W' has missing values \(row 1, ")
        both(np.array([[0, 1], [np.inf, 1], [1, 2.0]]), r"dataset '.*': column 'W' has infinite values \(row 1, ")

    def test_identifiers(self, write, tmp_path):
        table = pd.DataFrame({"X": [0, 1] * 50, "Y": [f"id {row}" for row in range(100)]})
        message = "column 'Y' of dataset '.*' has 100 different strings, in 100 rows: it seems to be an identifier; "
        refused(DataError, message, mdcm.fit, "X -> Y", table)
        told(message, "train", write(table), "--out", tmp_path / "run")

    def test_images_of_two_shapes(self):
        parts = [Dataset({"X": [0, 1]}, images={"I": np.zeros((2, 1, 8, size))}, name=f"d{size}") for size in (8, 16)]
        message = r"image 'I' of dataset 'd16' has shape \[1, 8, 16\] .* not \[1, 8, 8\] as in dataset 'd8'"
        refused(DataError, message, Schema.infer, validate(parts, ["X", "I"]))

    def test_files(self, write, tmp_path):
        for content, message in [
            (b"X,Y\n0,1\n0,1,2\n", "line 3 has 3 fields, but the header has 2"),
            (b"X;Y\n0;1\n", "columns seem to be separated by ';'; save the file with ','"),
            (b"X,Y\n\xe9,1\n", "byte 4 is not UTF-8 (line 2); save the file as UTF-8"),
            (b"", "is empty"),
        ]:
            spec = write(None)
            (tmp_path / "obs.csv").write_bytes(content)
            err = fail(2, "train", spec, "--out", tmp_path / "run")
            assert err.startswith(f"error: {spec}:3:6: {tmp_path / 'obs.csv'}")
            assert message in err
        (tmp_path / "p.parquet").write_bytes(b"PAR1 and then nothing")
        told("not a Parquet file that can be read", "plan", "X -> Y", "--data", tmp_path / "p.parquet")
        (tmp_path / "i.npy").write_bytes(pickle.dumps([1, 2]))
        (tmp_path / "obs.csv").write_text("X\n0\n1\n")
        told("not an .npy array of numbers", "train", write(None, "X -> I", ", images: {I: i.npy}"), "--out", tmp_path)

    @pytest.mark.parametrize(
        ("columns", "warning"),
        [
            ({"extra": [1, 2, 3, 4] * 10}, "dataset '.*': column 'extra' is not a node of the graph, ignored"),
            (
                {"extra": [1] * 40, "more": ["x"] * 40},
                "dataset '.*': columns 'extra', 'more' are not nodes of the graph, ignored",
            ),
        ],
    )
    def test_warnings_stop_nothing(self, write, tmp_path, columns, warning):
        table = pd.DataFrame({"X": [0, 1] * 20, "Y": [0, 1, 1, 0] * 10, **columns})
        with pytest.warns(UserWarning, match=warning):
            mdcm.fit("X -> Y", table, config=BRIEF)
        result = succeed("train", write(table), "--out", tmp_path / "run")
        assert re.search(f"^note: {warning}$", result.err, re.MULTILINE)
        assert "warning" not in result.out

    def test_warnings_about_several_data_sets(self, tmp_path):
        """Of a column that is constant, holds nothing, or has a level of its own in one data set."""
        first = pd.DataFrame({"X": [0, 1, 2], "Y": [0, 1, 0], "Z": [0, 1, 1]})
        second = pd.DataFrame({"X": [0, 1, 1], "Y": [1, 1, 1], "Z": [None, None, None]})
        expected = [
            "dataset 'b.csv': column 'Z' has no values, so it counts as not observed",
            r"dataset 'b.csv': column 'Y' is constant \(1\)",
            "variable 'X': level 2 occurs in dataset 'a.csv' only",
        ]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Schema.infer(validate([Dataset(first, name="a.csv"), Dataset(second, name="b.csv")], ["X", "Y", "Z"]))
        for warning in expected:
            assert any(re.match(warning, str(record.message)) for record in caught)
        first.to_csv(tmp_path / "a.csv", index=False)
        second.to_csv(tmp_path / "b.csv", index=False)
        err = call("plan", "X -> Y -> Z", "--data", tmp_path / "a.csv", "--data", tmp_path / "b.csv").err
        for warning in expected:
            assert re.search(f"^warning: {warning}", err, re.MULTILINE), err

    def test_no_dataset_can_teach_an_h_node(self, monkeypatch):
        error = refused(
            UntrainableError,
            r"no dataset can teach \{A, B\}: d lacks the columns A, B",
            mdcm.plan,
            "C -> A; A <-> B",
            [DatasetSpec("d", columns=["C"])],
        )
        assert (error.hnode, error.missing) == (("A", "B"), {"d": "the columns A, B"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2, 200), rng.integers(0, 3, 200)
    table = pd.DataFrame({"X": x, "Y": y, "T": np.where(y > 0, "some", "none"), "R": (np.arange(200) == 7) * 1})
    mdcm.fit("X -> Y -> T; X <-> Y; R", table, config=TrainConfig(max_steps=200), out=path)
    return path


class TestQueries:
    @pytest.mark.parametrize(
        ("text", "message", "under"),
        [
            ("P(Q | do(X=1))", "there is no variable 'Q'; there are 'X', 'Y', 'T', 'R'", "Q"),
            ("P(Y | do(Xx=1))", "there is no variable 'Xx'; did you mean 'X'", "Xx"),
            ("P(Y | do(X=7))", "variable 'X' has no level 7; its levels are 0, 1", "7"),
            ("P(Y | do(X=1), T=sume)", "variable 'T' has no level 'sume'.*; did you mean 'some'", "sume"),
            ("P(Y=9)", "variable 'Y' has no level 9; its levels are 0, 1, 2", "9"),
            ("P(Y | do(X=1), X=0)", r"do\(\) and the condition contradict each other: X=1 and X=0", "X"),
            ("P(Y | do(X=1, X=0))", r"do\(\) sets 'X' twice", "X"),
            ("P(Y | T=some, T=none)", "'T' is conditioned on twice", "T"),
            ("P(Y | Y=1)", "'Y' is an outcome and cannot be conditioned on as well", "Y"),
            ("P(X | do(X=1))", r"'X' is set by do\(\) and cannot be an outcome", "X"),
            ("P(Y | do(X=1)", r"this '\(' is never closed", "("),
            ("P(Y | do(X==1))", "a value is expected here, not '='", "="),
            ("P(Y | X=1", r"this '\(' is never closed", "("),
            ("P(Y) P(X)", r"'\+', '-' or the end is expected here, not 'P'", "P"),
            ("Y | do(X=1)", ".* is expected here, not 'Y'", "Y"),
            ("P(Y ! X)", "'!' has no meaning here", "!"),
            ("P(Y | 'X=1)", "this quote is never closed", "'"),
            ("E[T | do(X=1)]", "the levels of 'T' are not numbers, so it has no expectation", "T"),
            ("P(Y[X=7] | X=0)", "variable 'X' has no level 7; its levels are 0, 1", "7"),
            ("E[T[X=1] | X=0]", "the levels of 'T' are not numbers, so it has no expectation", "T"),
            ("", "the query is empty; an example is P", None),
        ],
    )
    def test_have_a_caret_under_the_place(self, run, text, message, under):
        error = refused(QueryError, message, mdcm.load(run).query, text, 100)
        said, shown, caret = str(error).split("\n")
        assert shown == f"  {text}"
        if under is not None:
            assert text[error.position : error.position + error.length] == under
        assert caret == "  " + " " * error.position + "^" * error.length
        assert fail(2, "query", run, text) == f"error: {said}\n{shown}\n{caret}\n"

    # the verdict on what is drawn is the subject of test_verdicts.py
    @pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
    def test_evidence_that_hardly_happens_is_a_no(self, run, tmp_path, monkeypatch):
        # summed up it costs nothing, nor does it in closed form; draws in two worlds must be weighed
        assert mdcm.load(run).query("P(Y | R=1)", 200).exact
        monkeypatch.setattr("mdcm.sampling.exact._LARGEST", 0)
        assert mdcm.load(run).query("P(Y | R=1)", 200).ess == 200
        monkeypatch.setattr("mdcm.sampling.draws._FEWEST", 10**6)
        message = (
            r"4,096 draws weighted by T\[X=0\]='none', T\[X=1\]='some' have an effective sample size of only [0-9,.]+"
        )
        text = "P(Y | T[X=0]=none, T[X=1]=some)"
        error = refused(LowSupportError, message, mdcm.load(run).query, text, 200, allow_unidentifiable=True)
        assert 0 < error.ess < 4096
        assert 0 < error.probability < 1
        told(message, "query", run, text, "--num-samples", 200, "--anyway", code=1)

    @pytest.mark.parametrize(
        ("do", "given_", "kind", "message"),
        [
            ({"Q": 1}, {}, QueryError, "there is no variable 'Q'"),
            ({}, {"Q": 1}, QueryError, "there is no variable 'Q'"),
            ({"X": 5}, {}, DataError, "variable 'X' has no level '?5'?; its levels are 0, 1"),
            ({}, {"T": "non"}, DataError, "variable 'T' has no level 'non'.*did you mean 'none'"),
            ({"X": 1}, {"X": 0}, QueryError, r"'X' is set by do\(\) and cannot be conditioned on as well"),
        ],
    )
    def test_draws(self, run, tmp_path, do, given_, kind, message):
        refused(kind, message, mdcm.load(run).draw_samples, 10, do=do, given=given_)
        options = [part for name, value in do.items() for part in ("--do", f"{name}={value}")]
        options += [part for name, value in given_.items() for part in ("--given", f"{name}={value}")]
        told(message, "sample", run, "--out", tmp_path / "s.csv", *options)

    @settings(max_examples=80)
    @given(st.text(st.characters(exclude_characters="\0"), min_size=1) | st.text("PEYXdo()[]|,=+-1. '", min_size=1))
    @example("P(" * 10_000)
    @example("E[" + "Y[X=" * 500)
    @example("P(Y" * 500)
    @example("P(Y=" + "9" * 5000 + ")")
    @example("P(Y=1e999)")
    @example("P(\udcff)")
    @example("P(\x1b[31mY)")
    def test_any_text_is_a_query_or_an_error(self, run, text):
        # after a double dash even a text with a dash in front is no option
        result = call("query", "--num-samples", 2, "--", run, text)
        assert result.code in {0, 1, 2}
        assert (result.err == "") == (result.code == 0)
        if result.code == 2 and "\n" not in text and "\udcff" not in text:
            assert result.err.startswith("error: ")
            with contextlib.suppress(QueryError):
                mdcm.load(run).query(text, 2)
                raise AssertionError("the library takes what the command refused")


class TestRunDirectories:
    @pytest.fixture
    def damaged(self, run, tmp_path):
        """A copy of the run that may be spoilt."""
        path = tmp_path / "run"
        path.mkdir()
        for file in run.iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        return path

    def refuse(self, path, message, file):
        """Refused by all that read it, with the file's name; and nothing in it is touched."""
        before = {entry.name: entry.read_bytes() for entry in path.iterdir()} if path.is_dir() else None
        error = refused(CheckpointError, message, mdcm.load, path)
        assert error.path == str(file)
        assert str(file) in str(error)
        told(message, "query", path, "P(Y)")
        told(message, "sample", path, "--out", path.parent / "s.csv")
        assert not (path.parent / "s.csv").exists()
        after = {entry.name: entry.read_bytes() for entry in path.iterdir()} if path.is_dir() else None
        assert before == after

    @pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "metrics.jsonl"])
    def test_truncated(self, damaged, name):
        whole = (damaged / name).read_bytes()
        (damaged / name).write_bytes(whole[: len(whole) // 2])
        self.refuse(damaged, f".*{name} is damaged", damaged / name)

    @pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "metrics.jsonl"])
    def test_one_bit_flipped(self, damaged, name):
        whole = bytearray((damaged / name).read_bytes())
        place = whole.index(b"seed") + 7 if name == "model.json" else len(whole) // 2
        whole[place] ^= 1
        (damaged / name).write_bytes(whole)
        self.refuse(damaged, f".*{name} is damaged", damaged / name)

    @pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "metrics.jsonl"])
    def test_missing(self, damaged, name):
        (damaged / name).unlink()
        self.refuse(damaged, f".*{name} is missing", damaged / name)

    def test_none(self, tmp_path):
        self.refuse(tmp_path / "none", "run directory .*none does not exist", tmp_path / "none")
        (tmp_path / "file").write_text("x")
        self.refuse(tmp_path / "file", "run directory .*file is a file, not a run directory", tmp_path / "file")

    def test_another_format_version(self, damaged):
        model = damaged / "model.json"
        model.write_text(model.read_text().replace('"format": 1', '"format": 2', 1))
        self.refuse(damaged, ".*model.json has format version 2; this version of mdcm reads 1", model)

    def test_weights_of_another_model(self, damaged, run, tmp_path):
        mdcm.fit("X -> Y", pd.DataFrame({"X": [0, 1] * 20, "Y": [1, 0] * 20}), config=BRIEF, out=tmp_path / "other")
        (damaged / "weights.safetensors").write_bytes((tmp_path / "other" / "weights.safetensors").read_bytes())
        message = ".*weights.safetensors is damaged or belongs to another run"
        self.refuse(damaged, message, damaged / "weights.safetensors")

    @pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "metrics.jsonl"])
    def test_nothing_in_it_is_executed(self, damaged, tmp_path, name):
        (damaged / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed"), protocol=0))
        self.refuse(damaged, f".*{name} is damaged", damaged / name)
        assert not (tmp_path / "executed").exists()
        # the payload is one
        pickle.loads((damaged / name).read_bytes())
        assert (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                '{"format": 2}',
                "format version 2; this version of mdcm reads 1; nothing was written, give another directory",
            ),
            ('{"format": 1', "model.json is damaged: it is not JSON; nothing was written, give another directory"),
        ],
    )
    def test_training_does_not_write_over_what_cannot_be_read(self, write, tmp_path, content, message):
        table = pd.DataFrame({"X": [0, 1] * 20, "Y": [1, 0] * 20})
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "model.json").write_text(content)
        refused(CheckpointError, f".*{message}", mdcm.fit, "X -> Y", table, config=BRIEF, out=tmp_path / "run")
        told(f".*{message}", "train", write(table), "--out", tmp_path / "run", "--force")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.json"]
        assert (tmp_path / "run" / "model.json").read_text() == content

    def test_a_process_of_its_own(self, damaged):
        (damaged / "weights.safetensors").write_bytes(b"")
        result = process("query", damaged, "P(Y)")
        assert (result.code, result.out) == (2, "")
        assert result.err == (
            f"error: {damaged}/weights.safetensors is damaged or belongs to another run: "
            "its checksum is not the one in model.json\n"
        )


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
