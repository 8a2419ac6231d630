"""Training data are read again from where a run notes them only if they are those, and lie beside the run."""

import hashlib
import json
import os
import resource
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from command_line import call, fail, succeed

import mdcm
from mdcm.storage import run_directory as rundir
from mdcm.storage.run_directory import MODEL

GRAPH = "X -> Y"
ASKED = ("P(Y | do(X))", "--num-samples", 50)
CANNOT = "no plug-in estimate is shown, because the training data cannot be read again: "
DATA = mdcm.scm.random_discrete(mdcm.ADMG.from_string(GRAPH), levels=2, seed=0).sample(1_000, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    DATA.to_csv(folder / "d.csv", index=False)
    (folder / "g.txt").write_text("X -> Y\n")
    (folder / "spec.yaml").write_text("graph: g.txt\ndata: [{path: d.csv}]\ntrain: {max_steps: 3}\n")
    succeed("train", folder / "spec.yaml", "--out", folder / "run")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "work")
    return tmp_path / "work"


def rewrite(run, origin):
    """Another origin with the right checksum: what a hostile writer would do."""
    description = json.loads((run / MODEL).read_text())
    checksums = description.pop("sha256")
    description["origin"] = origin
    description["sha256"] = {**checksums, MODEL: rundir._digest(description)}
    (run / MODEL).write_text(json.dumps(description))


def entry(path):
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def told(run):
    """What is said of the data of a run that answers all the same, within 2 s and a gigabyte."""

    def stuck(number, frame):
        raise TimeoutError("it waits for something")

    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    former = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(60)
    try:
        result = call("query", run, *ASKED)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    assert result.code == 0, result.err
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    assert "plug-in" not in result.out
    assert result.err.startswith(CANNOT), result.err
    assert result.err.endswith("; --data names them\n")
    return result.err.removeprefix(CANNOT)


def test_data_beside_the_run_are_read_and_elsewhere_named(folder, tmp_path):
    result = succeed("query", folder / "run", *ASKED)
    assert (CANNOT in result.err, "plug-in" in result.out) == (False, True)
    origin = json.loads((folder / "run" / MODEL).read_text())["origin"]
    assert origin == {"spec": "spec.yaml", "files": {n: entry(folder / n) for n in ("spec.yaml", "g.txt", "d.csv")}}
    # the run alone, elsewhere
    shutil.copytree(folder / "run", tmp_path / "elsewhere" / "run")
    assert "spec.yaml: No such file" in told(tmp_path / "elsewhere" / "run")
    for named in (folder / "d.csv", folder / "spec.yaml"):
        result = succeed("query", tmp_path / "elsewhere" / "run", *ASKED, "--data", named)
        assert (CANNOT in result.err, "plug-in" in result.out) == (False, True)
    (folder / "other.csv").write_text("X,Y\n0,1\n1,0\n")
    assert "not the data that the model was trained on" in fail(
        2, "query", folder / "run", *ASKED, "--data", folder / "other.csv"
    )


def test_a_spec_that_lies_elsewhere_is_not_read_unasked(trained, tmp_path):
    succeed("train", trained / "spec.yaml", "--out", tmp_path / "runs" / "a")
    assert "does not lie below" in told(tmp_path / "runs" / "a")


SECRET = "root:x:0:0:of somebody else\n"
OUTSIDE = ["/etc/passwd", "/dev/zero", "/dev/stdin", "../outside.yaml", "a/../../outside.yaml", "a\0b", "", ".", "..",
           "~/spec.yaml", "C:\\spec.yaml", 7, None, ["spec.yaml"]]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_names_that_lead_out_are_not_opened(folder, name, monkeypatch):
    (folder.parent / "outside.yaml").write_text(SECRET)
    known = {str(name): {"bytes": len(SECRET), "sha256": hashlib.sha256(SECRET.encode()).hexdigest()}}
    rewrite(folder / "run", {"spec": name, "files": known})
    opened, os_open = [], os.open

    def watching(path, *args, **kwargs):
        opened.append(str(path))
        return os_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", watching)
    message = told(folder / "run")
    assert "does not lie below" in message or "No such file" in message or "cannot be read" in message
    assert not any("outside" in path or path.startswith(("/etc/p", "/dev/z", "/dev/s")) for path in opened)
    assert "root:" not in message


def plant(kind, path, folder):
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "link to the same content":
        shutil.copy(folder.parent / "copy", path.with_name("copy"))
        path.symlink_to("copy")
    elif kind == "directory":
        path.mkdir()
    elif kind == "holes":
        path.touch()
        os.truncate(path, 1 << 40)


@pytest.mark.parametrize("name", ["spec.yaml", "g.txt", "d.csv"])
@pytest.mark.parametrize(
    "kind", ["pipe", "link to a device", "link to the same content", "directory", "holes", "nothing"]
)
def test_files_that_are_no_longer_what_they_were(folder, name, kind):
    shutil.copy(folder / name, folder.parent / "copy")
    plant(kind, folder / name, folder)
    message = told(folder / "run")
    assert name in message or "no graph" in message


def test_a_directory_on_the_way_that_is_a_link(folder):
    (folder / "deep").mkdir()
    (folder / "spec.yaml").rename(folder / "deep" / "spec.yaml")
    (folder / "way").symlink_to("deep")
    rewrite(folder / "run", {"spec": "way/spec.yaml", "files": {"way/spec.yaml": entry(folder / "deep/spec.yaml")}})
    assert "symbolic link" in told(folder / "run")


@pytest.mark.parametrize("path", ["/etc/passwd.csv", "../outside.csv", "run/../../outside.csv", "d2.csv"])
def test_a_spec_that_was_noted_leads_to_nothing_that_was_not(folder, path):
    (folder.parent / "outside.csv").write_text("X,Y\n0,1\n")
    DATA.to_csv(folder / "d2.csv", index=False)
    (folder / "spec.yaml").write_text(f"graph: X -> Y\ndata: [{{path: {path}}}]\n")
    files = {"spec.yaml": entry(folder / "spec.yaml"), "../outside.csv": entry(folder.parent / "outside.csv")}
    rewrite(folder / "run", {"spec": "spec.yaml", "files": files})
    message = told(folder / "run")
    assert "does not lie below" in message or "is not a file that the run notes" in message


@pytest.mark.parametrize("origin", ["../spec.yaml", {}, {"spec": "spec.yaml"}, {"files": []}, [1], 3])
def test_origins_of_another_form(folder, origin):
    rewrite(folder / "run", origin)
    if isinstance(origin, dict):
        assert told(folder / "run")
    else:
        assert "origin must be a mapping" in fail(2, "query", folder / "run", *ASKED)


def test_tables_that_are_larger_than_their_files_are_not_read_unasked(folder):
    rows = 11_000_000
    table = pd.DataFrame({"X": np.zeros(rows, np.int8), "Y": np.zeros(rows, np.int8)})
    table.to_parquet(folder / "d.parquet")
    assert (folder / "d.parquet").stat().st_size < 100_000
    (folder / "spec.yaml").write_text("graph: X -> Y\ndata: [{path: d.parquet}]\n")
    files = {name: entry(folder / name) for name in ("spec.yaml", "d.parquet")}
    rewrite(folder / "run", {"spec": "spec.yaml", "files": files})
    assert "of more than 20,000,000 cells are not read unasked" in told(folder / "run")


@pytest.mark.parametrize("kind", ["pipe", "link", "outside"])
def test_pictures_are_opened_beside_the_data_alone(folder, tmp_path, kind):
    PIL = pytest.importorskip("PIL.Image")
    for name in ("a.png", "b.png"):
        PIL.new("L", (8, 8)).save(folder / name)
    shutil.copy(folder / "b.png", tmp_path / "outside.png")
    table = pd.DataFrame({"X": [0, 1] * 4, "I": ["a.png", "../outside.png" if kind == "outside" else "b.png"] * 4})
    table.to_csv(folder / "p.csv", index=False)
    (folder / "spec.yaml").write_text(
        "graph: X -> I\ndata: [{path: p.csv}]\nvariables: {I: {kind: image}}\ntrain: {max_steps: 1, holdout: 0}\n"
    )
    files = {name: entry(folder / name) for name in ("spec.yaml", "p.csv")}
    rewrite(folder / "run", {"spec": "spec.yaml", "files": files})
    if kind == "pipe":
        (folder / "b.png").unlink()
        os.mkfifo(folder / "b.png")
    elif kind == "link":
        (folder / "b.png").unlink()
        (folder / "b.png").symlink_to(tmp_path / "outside.png")
    says = {"pipe": "not a regular file", "link": "symbolic link", "outside": "does not lie below"}
    assert says[kind] in told(folder / "run")


class TestDamagedParquet:
    """Whatever pyarrow raises of a file becomes one line and the code of bad input."""

    @pytest.mark.parametrize("place", range(0, 40, 3))
    def test_damaged_metadata(self, tmp_path, place):
        DATA.to_parquet(tmp_path / "d.parquet")
        content = bytearray((tmp_path / "d.parquet").read_bytes())
        # the footer, and where it says how long it is
        content[-8 - place] ^= 0xFF
        (tmp_path / "d.parquet").write_bytes(content)
        result = call("check", GRAPH, tmp_path / "d.parquet")
        assert result.code in {0, 1, 2}
        if result.code == 2:
            assert result.err.startswith("error: ")

    @pytest.mark.parametrize("pandas", [b"{", b"[1]", b'{"index_columns": [7]}', b"\xff", b'{"columns": 3}'])
    def test_damaged_words_of_pandas(self, tmp_path, pandas):
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"X": [0, 1], "Y": [1, 0]}).replace_schema_metadata({b"pandas": pandas})
        pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
        message = fail(2, "check", GRAPH, tmp_path / "d.parquet")
        assert "not a Parquet file that can be read" in message
