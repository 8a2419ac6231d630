"""How a command ends: signals, closed and full streams, damaged and odd input, and what is left on the disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from command_line import call, ending, fail, succeed

import mdcm
from mdcm.cli.console import show_json
from mdcm.progress import Stages, bars, counted, is_terminal
from mdcm.storage import run_directory as rundir
from mdcm.storage.disk import Folder

DATA = pd.DataFrame({"X": [0, 1] * 200, "Y": [0, 1, 1, 1] * 100})
MDCM = (sys.executable, "-m", "mdcm.cli")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("endings")
    mdcm.fit("X -> Y", DATA, config=mdcm.TrainConfig(max_steps=3), out=folder / "run")
    return folder / "run"


class TestSignals:
    @pytest.mark.usefixtures("ctrl_c")
    @pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
    def test_a_command_that_is_told_to_end_leaves_nothing_half_written(self, run, tmp_path, name, code):
        arguments = [*MDCM, "sample", str(run), "--out", str(tmp_path / "s.csv"), "--num-samples", "1000000000"]
        with ending(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as started:
            while not any(entry.stat().st_size for entry in tmp_path.iterdir()):
                assert started.poll() is None
                time.sleep(0.05)
            started.send_signal(getattr(signal, name))
            out, err = started.communicate(timeout=60)
        assert (started.returncode, out) == (code, "")
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []

    def test_what_a_killed_command_left_is_removed_by_the_next(self, run, tmp_path):
        arguments = [*MDCM, "sample", str(run), "--out", str(tmp_path / "s.csv"), "--num-samples", "1000000000"]
        with ending(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as started:
            while not any(entry.stat().st_size for entry in tmp_path.iterdir()):
                assert started.poll() is None
                time.sleep(0.05)
        assert len(list(tmp_path.iterdir())) == 1
        (tmp_path / ".0a1b2c3d.tmp").write_text("somebody else's")
        succeed("sample", run, "--out", tmp_path / "t.csv", "--num-samples", 10)
        assert {entry.name for entry in tmp_path.iterdir()} == {"t.csv", ".0a1b2c3d.tmp"}


class TestStreams:
    @pytest.mark.parametrize(
        ("redirection", "code", "says"),
        [
            (">&-", 2, "standard output: it is closed"),
            (">/dev/full", 2, "standard output: No space left on device"),
            ("2>&-", 0, ""),
            ("2>/dev/full", 0, ""),
            ("<&- >&- 2>&-", 2, ""),
            ("| head -c 0", 141, ""),
        ],
    )
    def test_closed_and_full(self, redirection, code, says):
        script = f'{sys.executable} -m mdcm.cli plan "X -> Y" {redirection}; exit ${{PIPESTATUS[0]}}'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr

    def test_errors_keep_their_code_where_nobody_hears_them(self):
        for redirection in ("2>&-", "2>/dev/full"):
            script = f'{sys.executable} -m mdcm.cli plan "X -> X" {redirection}'
            assert subprocess.run(["bash", "-c", script], check=False, capture_output=True).returncode == 2

    @pytest.mark.parametrize("stream", [None, "closed"])
    def test_training_goes_on_without_standard_error(self, monkeypatch, tmp_path, stream):
        if stream == "closed":
            stream = (tmp_path / "s").open("w")
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        assert not is_terminal(stream)
        mdcm.fit("X -> Y", DATA, config=mdcm.TrainConfig(max_steps=2), progress=True)
        with bars(stream) as told:
            told.start(("X",), 2)
            told.finish(("X",))
        assert not Stages(True)._shown
        assert list(counted([1, 2], 2, "counting")) == [1, 2]


class TestJson:
    def test_what_json_has_no_number_for(self, capsys):
        show_json({
            "a": float("inf"), "b": [-float("inf"), float("nan"), np.float32(0.5), np.int8(3), np.bool_(True)],
            1: pd.Timestamp("2020-01-02"), "c": pd.Interval(0, 1), "d": (None, "x"),
        })  # fmt: skip
        assert json.loads(capsys.readouterr().out) == {
            "a": "Infinity", "b": ["-Infinity", None, 0.5, 3, True], "1": "2020-01-02", "c": "(0, 1]", "d": [None, "x"],
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["value", "low"])
    def test_an_answer_of_infinite_numbers(self, run, monkeypatch, name):
        answer = mdcm.load(run).query("E[Y | do(X=1)]")
        object.__setattr__(answer, name, float("inf"))
        monkeypatch.setattr("mdcm.model.Model.query", lambda *given, **named: answer)
        content = json.loads(succeed("query", run, "E[Y | do(X=1)]", "--json").out)
        assert content[name] == "Infinity"

    def test_levels_that_are_dates(self, tmp_path):
        days = pd.date_range("2020-01-01", periods=2).strftime("%Y-%m-%d")
        table = pd.DataFrame({"D": list(days) * 60, "Y": [0, 1, 1, 1] * 30})
        kinds = {"D": {"kind": "categorical"}}
        mdcm.fit("D -> Y", table, variables=kinds, config=mdcm.TrainConfig(max_steps=2), out=tmp_path / "run")
        content = json.loads(succeed("query", tmp_path / "run", "P(Y | do(D))", "--json").out)
        assert {row["D"] for row in content["table"]} == set(days)


HUGE = "1" + "0" * 23


class TestOddInput:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("query", "RUN", "P(Y | do(X))", "--num-samples", HUGE),
            ("query", "RUN", "P(Y | do(X))", "--num-samples", "1e23"),
            ("query", "RUN", "P(Y | do(X))", "--seed", HUGE),
            ("query", "RUN", "P(Y | do(X))", "--level", "nan"),
            ("sample", "RUN", "--out", "FOLDER/s.csv", "--num-samples", HUGE),
            ("sample", "RUN", "--out", "FOLDER/s.csv", "--seed", HUGE),
            ("sample", "RUN", "--out", "FOLDER/\0.csv"),
            ("report", "RUN", "--num-samples", HUGE, "--out", "FOLDER/r.html"),
            ("report", "RUN", "--out", "FOLDER/\0.html"),
            ("train", "SPEC", "--out", "FOLDER/run", "--seed", HUGE),
            ("train", "SPEC", "--out", "FOLDER/run", "--ensemble", HUGE),
            ("train", "SPEC", "--out", "FOLDER/r\0n"),
            ("train", "S\0PEC", "--out", "FOLDER/run"),
            ("query", "R\0N", "P(Y | do(X))"),
            ("check", "X -> Y", "FOLDER/\0.csv"),
            ("check", "X -> Y", "FOLDER/\0.parquet"),
            ("plan", "FOLDER/\0.txt"),
            ("plan", "X -> Y", "--json", "FOLDER/\0"),
            ("demo", "--out", "FOLDER/\0", "--seed", HUGE),
            ("experiment", "complexity", "--fast", "--out", "FOLDER/\0"),
        ],
        ids=lambda arguments: " ".join(arguments[:1] + arguments[-2:]).replace("\0", "NUL"),
    )
    def test_numbers_and_paths_that_cannot_be(self, run, tmp_path, arguments):
        DATA.to_csv(tmp_path / "d.csv", index=False)
        (tmp_path / "spec.yaml").write_text("graph: X -> Y\ndata: [{path: d.csv}]\ntrain: {max_steps: 2}\n")
        given = [
            text.replace("RUN", str(run)).replace("SPEC", str(tmp_path / "spec.yaml")).replace("FOLDER", str(tmp_path))
            for text in arguments
        ]
        result = call(*given)
        assert result.code == 2, result
        assert len(result.err) < 2_000
        assert {entry.name for entry in tmp_path.iterdir()} == {"d.csv", "spec.yaml"}

    @pytest.mark.parametrize("where", ["path", "images", "arrays", "graph"])
    def test_a_nul_in_a_spec(self, tmp_path, where):
        entries = {
            "path": 'data: [{path: "a\\0.csv"}]', "images": 'data: [{images: {Y: "a\\0.npy"}}]',
            "arrays": 'data: [{arrays: {Y: "a\\0.npy"}}]', "graph": "data: [{path: d.csv}]",
        }  # fmt: skip
        graph = '"g\\0.txt"' if where == "graph" else "X -> Y"
        (tmp_path / "spec.yaml").write_text(f"graph: {graph}\n{entries[where]}\n")
        fail(2, "train", tmp_path / "spec.yaml", "--out", tmp_path / "run")


class TestReadOnly:
    """A disk that cannot be written is told of by the name of the file that was wanted."""

    @pytest.fixture
    def read_only(self, monkeypatch):
        os_open = os.open

        def refusing(path, flags, *args, **kwargs):
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return os_open(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refusing)

    @pytest.mark.usefixtures("read_only")
    def test_names_the_file_that_was_wanted(self, run, tmp_path):
        for arguments, name in [
            (("plan", "X -> Y", "--json", tmp_path / "p.json"), "p.json"),
            (("sample", run, "--out", tmp_path / "s.csv", "--num-samples", 5), "s.csv"),
            (("sample", run, "--out", tmp_path / "s.parquet", "--num-samples", 5), "s.parquet"),
        ]:
            result = call(*arguments)
            assert (result.code, result.err) == (2, f"error: {tmp_path / name}: Read-only file system\n")

    @pytest.mark.usefixtures("read_only")
    def test_a_run_names_its_directory_and_its_files(self, run, tmp_path):
        with pytest.raises(mdcm.CheckpointError, match=f"no run can be saved in {tmp_path}/run: Read-only file system"):
            mdcm.fit("X -> Y", DATA, config=mdcm.TrainConfig(max_steps=2), out=tmp_path / "run")
        with pytest.raises(OSError, match="Read-only") as caught, Folder(run).replacing(rundir.WEIGHTS):
            pass
        assert caught.value.filename == str(run / rundir.WEIGHTS)

    def test_an_error_about_another_file_keeps_its_name(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught, rundir.replacing(tmp_path / "a"):
            (tmp_path / "other").read_bytes()
        assert caught.value.filename == str(tmp_path / "other")
        with (
            pytest.raises(OSError, match="full") as caught,
            rundir.replacing(tmp_path / "a"),
            rundir.replacing(tmp_path / "b"),
        ):
            raise OSError(errno.ENOSPC, "full")
        assert caught.value.filename == str(tmp_path / "b")


def test_help_names_the_codes():
    text = " ".join(call("--help").out.split())
    for words in ("1 the answer is no", "2 bad usage or bad input", "3 unexpected error", "141 the reader"):
        assert words in text
