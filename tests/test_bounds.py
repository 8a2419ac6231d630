"""Input that asks for too much, and text that a terminal would obey: refused in words and soon, or made harmless.

Whoever reads a file of somebody else must not hang, run out of memory, or be shown a megabyte of it.
"""

import csv
import gzip
import html
import io
import json
import resource
import subprocess
import sys
import time
import zipfile
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import mdcm
from mdcm import ADMG, GraphError, MdcmError, PlanError, QueryError, TrainConfig, progress
from mdcm.cli import console
from mdcm.cli.spec import SpecError, read_spec
from mdcm.data.variables import Variable
from mdcm.graph.formats import parse_bif, parse_dot
from mdcm.graph.formats.records import Lines
from mdcm.report.charts import draw_chart
from mdcm.report.page import Chart, Line, Table, table
from mdcm.sampling import write_samples
from mdcm.sampling.samples import Samples
from mdcm.text.documents import parse_json
from mdcm.text.limits import MOST, RANGES
from mdcm.text.printable import escaped, printable, quoted, shortened
from mdcm.training.adversarial_config import AdversarialConfig

# CPU seconds, many times what is needed; what was bounded took minutes, or never came back
SOON = 5.0
# the longest message, in characters
LONGEST = 5000
HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "title of the window": "\x1b]0;owned\x07",
    "one byte for two": "\x9b31m",
    "right to left": "\u202egnp.exe",
    "isolated": "\u2066a\u2069",
    "no width": "a\u200bb\ufeff",
    "new line": "a\u2028b",
    "half a pair": "a\ud800",
    "tag": "a\U000e0041",
    "bell and back": "a\x07\x08",
}
OBEYED = set("\x1b\x9b\x07\x08\u202e\u2066\u2069\u200b\ufeff\u2028\ud800\U000e0041")


def refused(kind, match, function, *args, **kwargs):
    """The error of a call, which must come soon and be short."""
    start = time.process_time()
    with pytest.raises(kind, match=match) as caught:
        function(*args, **kwargs)
    assert time.process_time() - start < SOON
    assert len(str(caught.value)) < LONGEST
    return caught.value


def in_little_memory(match, function, *args):
    """A call that is refused soon, with at most as many bytes more as the smallest limit of what is unpacked."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(MdcmError, match, function, *args)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 1 << 29


class TestShown:
    @pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
    def test_nothing_is_left_that_is_obeyed(self, text):
        for shown in (printable(text), escaped(text), str(MdcmError(text)), str(GraphError(text, line=1))):
            assert not OBEYED & set(shown)
            assert shown.isprintable()
        assert printable(printable(text)) == printable(text)

    @pytest.mark.parametrize("text", ["größe", "變數", "قيمة", "a\\x1b", "a b\u00a0c", "e\u0301", "🙂", "→ ↔ ≤"])
    def test_letters_of_all_scripts_stay(self, text):
        assert printable(text) == text
        assert html.unescape(escaped(text)) == text

    def test_lines_stay_where_they_are_meant(self):
        assert printable("a\n\tb\r\n") == "a\n\tb\\r\n"
        assert printable("a\n\tb", lines=False) == "a\\n\\tb"

    @pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
    def test_bars_show_names_and_do_not_obey_them(self, name, monkeypatch):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(progress, "Console", lambda **_: Console(file=stream, force_terminal=True, width=200))
        with progress.bars(stream) as shown:
            for hnode in ((name,), (name, "a\nb"), (f"[red]{name}[/nothing]",)):
                shown.start(hnode, 2)
                shown.step(hnode, 1)
                shown.finish(hnode)
        monkeypatch.setattr("sys.stderr", stream)
        assert list(progress.counted([1], 1, f"testing [/nothing]{name}")) == [1]
        stages = progress.Stages(shown=True)
        with stages.open(), stages.stage(name):
            pass
        written = stream.getvalue()
        # rich's own commands begin so as well
        assert name not in written
        assert not (OBEYED - {"\x1b"}) & set(written)
        for own in ("]0;owned", "31mred"):
            assert f"\x1b{own}" not in written
            assert f"\x1b[{own}" not in written

    @pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
    def test_commands_and_pages(self, name, capsys):
        console.show(name)
        console.complain(name)
        out, err = capsys.readouterr()
        chart = Chart(name, name, name, [Line(name, [name, "b"], [1.0, 2.0])], name, kind="bars")
        page = table(Table(name, [name], [[name]], note=name), "two") + draw_chart(chart, "one")
        plan = mdcm.plan(ADMG([name, "Y"], [(name, "Y")])).to_dot()
        for text in (out, err, page):
            assert not OBEYED & set(text)
        assert name in plan

    def test_signs_of_dollars_are_no_formula(self):
        chart = Chart("a", "cost in $", "$^", [Line("$\\frac{$", ["$x_$", "$$"], [1.0, 2.0])], "a", kind="bars")
        assert "$x_$" in draw_chart(chart, "one")

    def test_errors_of_usage_are_safe_as_well(self, capsys):
        from command_line import fail

        for arguments in (["plan", "--\x1b[31m"], ["plan", "A -> B", "\x1b[31mextra"], ["\x1b[31mplan"], ["--\u202e"]):
            assert not OBEYED & set(fail(2, *arguments))


class TestSpreadsheets:
    TEXTS = ("=1+1", "+1", "-x", "@sum", "\tx", "\r=1", "＝1", "a=b", " =1", "ok")

    def written(self, tmp_path, **options):
        table = pd.DataFrame({"=cmd": self.TEXTS, "n": [-1.5, *range(1, 10)]})
        table["c"] = pd.Categorical(self.TEXTS)
        table["i"] = np.arange(-5, 5)
        blocks = [Samples(table[:5], {}, None, 5.0, None), Samples(table[5:], {}, None, 5.0, None)]
        write_samples(tmp_path / "a.csv", blocks, 10, **options)
        with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
            return table, list(csv.reader(file))

    def test_a_spreadsheet_computes_nothing(self, tmp_path):
        table, (names, *rows) = self.written(tmp_path, spreadsheet=True)
        assert names == ["'=cmd", "n", "c", "i"]
        expected = [f"'{text}" for text in self.TEXTS[:7]] + list(self.TEXTS[7:])
        assert [row[0] for row in rows] == expected
        assert [row[2] for row in rows] == expected
        assert [float(row[1]) for row in rows] == table["n"].tolist()
        assert [int(row[3]) for row in rows] == table["i"].tolist()

    def test_by_default_texts_are_what_they_are(self, tmp_path):
        table, (names, *rows) = self.written(tmp_path)
        assert names == ["=cmd", "n", "c", "i"]
        assert [row[0] for row in rows] == table["=cmd"].tolist()
        back = mdcm.data.read_table(tmp_path / "a.csv")
        assert back["c"].tolist() == back["=cmd"].tolist() == list(self.TEXTS)


class TestParquet:
    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data[: len(data) // 2],
            lambda data: b"PAR1" + bytes(40) + b"PAR1",
            lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
        ],
        ids=["half", "zeros", "length"],
    )
    def test_damaged(self, change, tmp_path):
        file = tmp_path / "a.parquet"
        pd.DataFrame({"X": [0, 1], "Y": ["a", "b"]}).to_parquet(file)
        file.write_bytes(change(file.read_bytes()))
        refused(MdcmError, "not a Parquet file that can be read", mdcm.data.read_table, file)

    @pytest.mark.parametrize("kind", ["equal numbers", "repeated text", "one long text", "levels"])
    def test_a_small_file_of_many_values(self, kind, tmp_path):
        import pyarrow
        import pyarrow.parquet

        file = tmp_path / "a.parquet"
        zeros = np.zeros(10**6, np.int32)
        column, options = {
            "equal numbers": (np.zeros(2 * 10**7, np.int8), {}),
            "repeated text": (pyarrow.DictionaryArray.from_arrays(zeros, ["x" * 10**5]), {"store_schema": False}),
            "levels": (pyarrow.DictionaryArray.from_arrays(zeros, ["x" * 10**5]), {"compression": "gzip"}),
            "one long text": (["x" * (1 << 28)], {"use_dictionary": False, "write_statistics": False}),
        }[kind]
        pyarrow.parquet.write_table(pyarrow.table({"X": column}), file, **{"compression": "zstd", **options})
        assert file.stat().st_size < 200_000
        in_little_memory(
            "take more than .* the limit for a file of this size is 134,217,728", mdcm.data.read_table, file
        )

    def test_lists(self, tmp_path):
        file = tmp_path / "a.parquet"
        pd.DataFrame({"X": [[0, 1], [2]]}).to_parquet(file)
        refused(MdcmError, "column 'X.*' holds lists; a column holds one value per row", mdcm.data.read_table, file)

    def test_texts_and_numbers_of_many_rows_are_read(self, tmp_path):
        file = tmp_path / "a.parquet"
        rng = np.random.default_rng(0)
        texts = np.array(["a" * 300, None, "ä", ""], dtype=object)[rng.integers(4, size=200_000)]
        table = pd.DataFrame({"X": texts, "Y": rng.random(200_000), "Z": pd.Categorical(texts)})
        table.to_parquet(file, row_group_size=70_000)
        pd.testing.assert_frame_equal(mdcm.data.read_table(file), pd.read_parquet(file))


class TestColumns:
    @pytest.mark.parametrize("head", ["{}", '"a,b",{}', '"a\nb",{}', "\ufeff{}"], ids=range(4))
    def test_a_header_of_a_million_names(self, head, tmp_path):
        file = tmp_path / "a.csv"
        file.write_text(head.format(",".join(f"column{i}" for i in range(10**6))) + "\n", encoding="utf-8")
        in_little_memory("has 1,000,00. columns, more than the limit of 100,000", mdcm.data.read_table, file)

    def test_a_line_without_end(self, tmp_path):
        (tmp_path / "a.tsv").write_bytes(b"x" * (1 << 25))
        refused(
            MdcmError, "its first line, .*, has more than 16,777,216 char", mdcm.data.read_table, tmp_path / "a.tsv"
        )

    def test_parquet(self, tmp_path, monkeypatch):
        file = tmp_path / "a.parquet"
        pd.DataFrame(np.zeros((1, 11)), columns=list("abcdefghijk")).to_parquet(file)
        monkeypatch.setattr("mdcm.data.delimited.MOST_COLUMNS", 10)
        refused(MdcmError, "has 11 columns, more than the limit of 10", mdcm.data.read_table, file)

    def test_parquet_of_many_columns_takes_memory_as_the_columns_do(self, tmp_path):
        pd.DataFrame(np.zeros((1, 10_000)), columns=[f"c{i}" for i in range(10_000)]).to_parquet(tmp_path / "a.parquet")
        code = (
            "import resource, sys, mdcm.data.tables\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10;"
            "import pyarrow.parquet; before = peak(); table = mdcm.data.tables.read_table(sys.argv[1]);"
            "print(table.shape[1], peak() - before)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "a.parquet")]
        columns, megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(columns) == 10_000
        assert int(megabytes) < 400

    def test_from_the_shell(self, tmp_path):
        from command_line import fail

        (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(100_001)) + "\n")
        for arguments in (["check", "c1 -> c2", tmp_path / "a.csv"], ["plan", "c1 -> c2", "--data", tmp_path / "a.csv"],
                          ["init", "c1 -> c2", tmp_path / "a.csv"]):  # fmt: skip
            assert "has 100,001 columns, more than the limit of 100,000" in fail(2, *arguments)


class TestArrays:
    def npy(self, shape, held, kind="<f8"):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
        return stream.getvalue() + held

    @pytest.mark.parametrize("read", [mdcm.data.read_array, mdcm.data.read_images])
    def test_npy_and_npz(self, read, tmp_path):
        file = tmp_path / "a.npy"
        file.write_bytes(self.npy((10**11,), bytes(100)))
        in_little_memory("header declares .100000000000. values", read, file)
        file.write_bytes(self.npy((10**40, 10**40), bytes(100)))
        in_little_memory("is truncated or damaged", read, file)
        for name in ("a.npz", "b.npy"):
            for content in (self.npy((10**11,), b""), self.npy((1 << 27,), bytes(1 << 27), "|u1")):
                with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as packed:
                    packed.writestr("a.npy", content)
                in_little_memory("holds several arrays", read, tmp_path / name)
        np.save(file, np.array([{}, 1], dtype=object), allow_pickle=True)
        in_little_memory("Python objects, which would have to be executed", read, file)

    def test_idx_packed_by_gzip(self, tmp_path):
        file = tmp_path / "a.gz"
        head = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (1 << 18, 32, 32))
        file.write_bytes(gzip.compress(head + bytes(1 << 28), 6))
        assert file.stat().st_size < 1 << 19
        in_little_memory("268,435,456 bytes; unpack such a large", mdcm.data.read_array, file)


class TestPictures:
    def test_a_small_file_of_many_pixels(self, tmp_path):
        picture = pytest.importorskip("PIL.Image").new("RGBA", (6_000, 6_000))
        picture.save(tmp_path / "a.png")
        names = pd.Series(["a.png"], name="I")
        in_little_memory("6,000 x 6,000 pixels take 144,000,000 bytes", mdcm.data.read_pictures, names, tmp_path)

    def test_one_picture_many_times(self, tmp_path):
        pytest.importorskip("PIL.Image").new("L", (3_000, 3_000)).save(tmp_path / "a.png")
        names = pd.Series(["a.png"] * 1000, name="I")
        in_little_memory("its 1,000 pictures take 9,000,000,000 bytes", mdcm.data.read_pictures, names, tmp_path)
        assert mdcm.data.read_pictures(names[:3], tmp_path).shape == (3, 1, 3_000, 3_000)


class TestMessages:
    def test_values_are_cut(self):
        assert quoted("x" * 10**6) == "'" + "x" * 59 + "..."
        assert quoted(10**5000) == "a number of about 5,001 digits"
        assert quoted([10**5000]) == "a list that cannot be shown"
        assert len(shortened("x" * 10**6)) < LONGEST
        assert shortened(shortened("x" * 10**6)) == shortened("x" * 10**6)

    def test_no_error_repeats_a_megabyte(self, tmp_path):
        long = "x" * 10**6
        refused(GraphError, "to itself", ADMG.from_string, f'"{long}" -> "{long}"')
        refused(GraphError, "the position 'x+", parse_dot, f'dag {{ a [pos="{long}"] }}')
        refused(MdcmError, "no data set|no .*node", mdcm.plan, ADMG(["a"]), kinds={long: "image"})
        refused(MdcmError, "level", Variable("X", "categorical", (0, 1)).code, long)
        refused(QueryError, "at most 100,000 characters", mdcm.query.parse, f"P({long})")
        refused(MdcmError, "cannot be read", mdcm.read_graph, tmp_path / f"{long[:200]}.dag")
        error = refused(QueryError, "is expected", mdcm.query.parse, f"P({'x' * 40000} y{'z' * 40000})")
        text, caret = str(error).split("\n")[1:]
        assert text[caret.index("^")] == "y"

    def test_a_caret_stands_under_what_is_wrong_whatever_the_text_holds(self):
        for text in ("P(Y | do(X=1) y)", "P('\x1b[31m' | do(X=1) y)", "P('\u202e' y)", "P('a\tb\n' y)"):
            shown, caret = str(refused(QueryError, "expected|missing", mdcm.query.parse, text)).split("\n")[1:]
            assert shown[caret.index("^")] == "y"


class TestGraphs:
    def test_products_of_groups_are_bounded(self):
        left, right = (" ".join(f"{side}{i}" for i in range(1001)) for side in "vw")
        for text in (f"{{{left}}} -> {{{right}}}", f"{{{left}}} <-> {{{right}}}", f"a -> {{{left}}} <- {{{right}}}"):
            refused(GraphError, "these groups make more than 1,000,000 edges", ADMG.from_string, f"dag {{ {text} }}")
        groups = " -> ".join(f"{{{' '.join(f'v{k}_{i}' for i in range(300))}}}" for k in range(20))
        refused(GraphError, "more than 1,000,000 edges", ADMG.from_string, f"digraph {{ {groups} }}")
        assert len(parse_dot("dag { {a b c} -> {d e} }").directed) == 6

    @pytest.mark.parametrize(
        "text",
        [
            "network n {" + "/* " * 300_000,
            "network n " + "{" * 10**6,
            "network n {" + "{}" * 500_000,
            "network n {" + '"a\\' * 300_000,
            "network n {" + '"a" "' * 200_000,
            "property " + '"a\\" ' * 200_000,
            "property " + '"' * 10**6,
            "property " + "/" * 10**6,
            ";" * 10**6,
            "variable " + "a/" * 500_000 + "*",
            "variable A { } probability ( A | " + ", ".join(f"p{i}" for i in range(100_000)) + ") { }",
            "/**/" * 250_000,
        ],
        ids=range(12),
    )
    def test_no_bif_of_a_megabyte_takes_long(self, text):
        start = time.process_time()
        with pytest.raises(GraphError):
            parse_bif(text)
        assert time.process_time() - start < 1

    def test_blocks_and_properties_of_bif_are_still_read_over(self):
        body = 'type discrete [2] { a, b }; property p = "{ not } /* this" ; { { x } } /* { */ // {\n a/b'
        text = f'property "a;b" /* ; */ x // ;\n y ; variable A {{ {body} }} probability (A) {{ {body} }}'
        assert parse_bif(text).nodes == ("A",)

    def test_what_is_unpacked_is_bounded(self, tmp_path):
        file = tmp_path / "a.bif.gz"
        file.write_bytes(gzip.compress(b"{" * (1 << 26) + b"{", 1))
        refused(GraphError, "larger than 64 MiB when unpacked", mdcm.read_graph, file)
        with (tmp_path / "a.dag").open("wb") as stream:
            stream.truncate((1 << 26) + 1)
        refused(GraphError, "larger than 64 MiB", mdcm.read_graph, tmp_path / "a.dag")

    def test_locations_are_right_in_any_order(self):
        text = "ab\n\ncd\r\ne" * 50
        starts = [0, *(i + 1 for i, letter in enumerate(text) if letter == "\n")]
        rng, lines = np.random.default_rng(0), Lines(text)
        for at in rng.integers(0, len(text) + 1, 500).tolist():
            line = int(np.searchsorted(starts, at, side="right"))
            assert lines.location(at) == (line, at - starts[line - 1] + 1)


HEAD = 'graph: "X -> Y"\ndata: [{path: a.csv}]\n'
SPECS = {
    "aliases of lists": ("".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)), "aliases"),
    "aliases of mappings": ("".join(f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}\n" for i in range(1, 40)), "aliases"),
    "many entries": (f"a: [{'x,' * 100_000}]\n", "more than 25,000 entries"),
    "many documents of one": ("- x\n" * 30_000, "no valid YAML|more than 25,000 entries"),
    "deep lists": ("a: " + "[" * 50_000, "nested more than 40 deep"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(300)), "nested more than 40 deep"),
    "deep and short": ("- " * 50_000, "no valid YAML|nested more than 40 deep"),
    "a long word": (f"objective: {'x' * 10**6}\n", "objective: an objective is one of"),
    "a long key": (f"? {'x' * 10**6}\n: 1\n", "unknown entry"),
    "digits": (f"train: {{seed: {'9' * 10_000}}}\n", "a whole number of thousands of digits"),
    "base sixty": (f"train: {{seed: {'9:' * 2000}9}}\n", "train.seed must be"),
}


class TestSpecs:
    @pytest.mark.parametrize(("text", "message"), SPECS.values(), ids=SPECS.keys())
    def test_bombs(self, text, message, tmp_path):
        first = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" if "*a0" in text else ""
        yaml = "%YAML 1.1\n---\n" if "9:9" in text else ""
        (tmp_path / "spec.yaml").write_text(yaml + HEAD + first + text)
        refused(SpecError, message, read_spec, tmp_path / "spec.yaml")

    def test_a_few_aliases_are_welcome(self, tmp_path):
        text = 'graph: "X -> Y"\ndata:\n- &d {path: a.csv}\n- {<<: *d, do: [X]}\n- *d\n'
        (tmp_path / "spec.yaml").write_text(text)
        assert [(one.path, one.do) for one in read_spec(tmp_path / "spec.yaml").data] == [
            ("a.csv", []), ("a.csv", ["X"]), ("a.csv", []),
        ]  # fmt: skip

    def test_an_endless_spec(self, tmp_path):
        with (tmp_path / "spec.yaml").open("wb") as stream:
            stream.truncate(1 << 23)
        refused(SpecError, "more than 4,194,304 characters", read_spec, tmp_path / "spec.yaml")

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            *((f"train: {{{name}: {value}}}", f"{name} must be (a whole number from . to|at most) {MOST[name]:,}, not")
              for name in ("max_steps", "batch_size", "confounder_states", "draws", "checks", "patience", "ensemble")
              for value in (10_000_000_000, 10**30)),
            *((f"train: {{adversarial: {{{name}: 100000000000}}}}", f"adversarial: {name} must be a whole number from")
              for name in ("hidden", "layers", "critic_steps", "encoder_steps", "batch_size", "steps")),
            ("train: {seed: 1e30}", "train.seed must be"),
            ("train: {adversarial: {decay: perhaps}}", "adversarial: decay must be true or false"),
            ("train: {adversarial: {betas: 3}}", "adversarial: betas must be two numbers"),
            ("variables: {X: {shape: [3, 100000, 100000]}}", "an image has at most 100,000,000 numbers"),
            ("variables: {X: {size: 1e12}}", "size must be at most 1,000,000"),
        ],
    )  # fmt: skip
    def test_sizes(self, entry, message, tmp_path):
        (tmp_path / "spec.yaml").write_text(f"{HEAD}{entry}\n")
        error = refused(SpecError, message, read_spec, tmp_path / "spec.yaml")
        assert error.line == 3

    def test_complaints_are_counted_and_not_all_told(self, tmp_path):
        (tmp_path / "spec.yaml").write_text(HEAD + "".join(f"x{i}: 1\n" for i in range(5000)))
        assert str(refused(SpecError, "unknown entry", read_spec, tmp_path / "spec.yaml")).endswith("and 4,990 more")


class TestSettings:
    @pytest.mark.parametrize("name", sorted({"max_steps", "batch_size", "confounder_states", "draws", "patience"}))
    @pytest.mark.parametrize("value", [10**12, 10**5000, True, "many", 1.5, float("nan")], ids=range(6))
    def test_counts(self, name, value):
        refused(ValueError, f"^{name} must be", TrainConfig, **{name: value})

    @pytest.mark.parametrize("name", ["learning_rate", "max_minutes", "holdout", "checkpoint_seconds"])
    @pytest.mark.parametrize("value", ["fast", [1], float("nan"), float("inf"), True])
    def test_numbers(self, name, value):
        refused(ValueError, f"^{name} must", TrainConfig, **{name: value})

    @pytest.mark.parametrize("name", sorted(RANGES))
    @pytest.mark.parametrize("value", [1e30, -1.0, 1e300, float("inf"), float("nan"), "fast", True])
    def test_numbers_have_a_range_which_the_message_states(self, name, value):
        kinds = [kind for kind in (TrainConfig, AdversarialConfig) if name in {one.name for one in fields(kind)}]
        given = (value, 0.1) if name == "temperature" else value
        how, _, most = RANGES[name]
        for kind in kinds:
            said = f"^{name} must be a number {how} .*{most:,.0f}, not"
            refused(ValueError, said, kind, **{name: given})
            with pytest.raises(ValueError, match=f"{name} must be a number"):
                kind.from_json({**kind().to_json(), name: list(given) if name == "temperature" else value})
        assert kinds

    @pytest.mark.parametrize("name", ["window", "cooling"])
    def test_shares(self, name):
        for value in (-0.1, 1.5, 1e30):
            refused(
                ValueError, f"{name} must be a number from 0 to (below )?1, not", AdversarialConfig, **{name: value}
            )

    def test_what_is_in_range_is_computed_with(self):
        table = pd.DataFrame({"X": [0, 1] * 50, "Y": [0.5, 1.5] * 50})
        for rate in (1e-12, 10):
            mdcm.fit("X -> Y", table, config=TrainConfig(max_steps=3, learning_rate=rate))

    def test_critics_of_too_many_weights(self):
        refused(ValueError, "make a critic of 429,496,729,600 weights", AdversarialConfig, hidden=65_536, layers=100)

    @pytest.mark.parametrize("seed", [-1, 2**63, 10**30, 1.5, "a", True, None])
    def test_seeds(self, seed, tmp_path):
        table = pd.DataFrame({"X": [0, 1] * 50, "Y": [0, 1] * 50})
        model = mdcm.fit("X -> Y", table, config=TrainConfig(max_steps=1), seed=np.int64(3))
        assert type(model.seed) is int
        for call, given in (
            (mdcm.fit, ("X -> Y", table)), (model.query, ("P(Y | do(X=0))",)), (model.draw_samples, (3,)),
            (mdcm.check, ("X -> Y", table)),
        ):  # fmt: skip
            refused(ValueError, "^seed must be a whole number from 0 to", call, *given, seed=seed)
        truth = mdcm.scm.random_discrete(mdcm.ADMG(["X"]))
        refused(ValueError, "^seed must be", mdcm.scm.random_discrete, truth.graph, seed=seed)
        refused(ValueError, "^seed must be", truth.sample, 5, seed=seed)
        refused(ValueError, "^seed must be", mdcm.write_report, model, tmp_path / "r.html", seed=seed)

    @pytest.mark.parametrize("members", [-1, 1, 10**9, 1.5, "a", True, None])
    def test_ensembles(self, members):
        table = pd.DataFrame({"X": [0, 1] * 50, "Y": [0, 1] * 50})
        refused(ValueError, "at least 2 members and at most 10,000", mdcm.fit, "X -> Y", table, ensemble=members)

    def test_truth_values(self):
        refused(ValueError, "refit must be true or false", TrainConfig, refit="no")
        refused(ValueError, "decay must be true or false", AdversarialConfig, decay=1)

    def test_states_for_which_memory_is_not_enough(self):
        from mdcm.data import Schema
        from mdcm.training.confounders import choose_states

        graph = ADMG.from_string("A <-> B; B <-> C; A <-> C")
        schema = Schema([Variable(name, "categorical", (0, 1)) for name in graph.nodes])
        plain = dict.fromkeys(graph.nodes, 1)
        refused(PlanError, "the table of 'A' would have 20,000,000,000 numbers", choose_states, graph, schema, plain,
                100_000)  # fmt: skip
        refused(PlanError, "combinations of states; the limit is 4,194,304", choose_states, graph, schema, plain, 2_000)
        assert set(choose_states(graph, schema, plain, 64).values()) == {64}

    def test_images_and_vectors(self):
        refused(MdcmError, "at most 100,000,000 numbers", Variable, "I", "image", shape=(3, 10**5, 10**5))
        refused(MdcmError, "at most 100,000,000 numbers", Variable, "I", "image", shape=(10**5000, 1, 1))
        refused(
            MdcmError, "size must be a whole number from 1 to 1,000,000, not", Variable, "V", "continuous", size=10**9
        )


class TestJson:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[" * 10**5, "nested too deeply"),
            ('{"a":' * 10**5, "nested too deeply"),
            ("9" * 10**5, "a whole number of thousands of digits"),
            ('{"a": [-' + "9" * 10**5 + "]}", "a whole number of thousands of digits"),
            (b"\xff", "not UTF-8"),
            ("{", "not JSON"),
        ],
    )
    def test_bombs(self, text, message):
        refused(ValueError, message, parse_json, text)
        if isinstance(text, str):
            refused(PlanError, "the plan is not JSON", mdcm.Plan.from_json, text)

    def test_values_come_back(self):
        value = {"a": [1, 2.5, None, "x", True]}
        assert parse_json(json.dumps(value)) == value
