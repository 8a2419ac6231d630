"""Run directories from others: nothing outside is opened or changed, nothing hangs, and what is not ours stays."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import ending

import mdcm
from mdcm import CheckpointError
from mdcm.storage import run_directory as rundir
from mdcm.storage.checkpoints import Checkpoints
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import (
    CHECKPOINTS,
    ENSEMBLE,
    MODEL,
    REPORT,
    WEIGHTS,
    Journal,
    locked,
    read_run,
    reserve,
    write_run,
)

METRICS = "metrics.jsonl"
LOCK = ".lock"
GRAPH = mdcm.ADMG.from_string("X -> Y")
DATA = mdcm.scm.random_discrete(GRAPH, levels=2, seed=0).sample(100, seed=0)
BRIEF = mdcm.TrainConfig(max_steps=3)
SECRET = b"years of work\n"


def write(path, seed=0):
    write_run(path, {"seed": seed}, {"w": torch.full((3,), float(seed))}, [{"event": "check"}])


def listing(path):
    """Every name below a directory and what it stands for; contents of files."""
    found = {}
    for entry in sorted(Path(path).rglob("*")):
        is_file = entry.is_file() and not entry.is_symlink()
        found[str(entry.relative_to(path))] = entry.read_bytes() if is_file else entry.lstat().st_mode
    return found


@pytest.fixture
def victim(tmp_path):
    """A file and a directory outside of the run, which must stay as they are."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.tex").write_bytes(SECRET)
    (outside / "folder").mkdir()
    (outside / "folder" / "00000001-0123456789abcdef.safetensors").write_bytes(SECRET)
    (outside / "folder" / f".mdcm-1-{'0' * 16}.tmp").write_bytes(SECRET)
    before = listing(outside)
    yield outside
    assert listing(outside) == before


def plant(kind, where, victim):
    """Put something where a file or directory of a run should be."""
    if kind == "link to a file":
        where.symlink_to(victim / "thesis.tex")
    elif kind == "link to a directory":
        where.symlink_to(victim / "folder")
    elif kind == "link to nothing":
        where.symlink_to(victim / "new")
    elif kind == "link to a device":
        where.symlink_to("/dev/zero")
    elif kind == "link to itself":
        where.symlink_to(where)
    elif kind == "pipe":
        os.mkfifo(where)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(where.parent):
            made.bind(where.name)
    elif kind == "directory":
        where.mkdir()
    elif kind == "file":
        where.write_bytes(SECRET)
    elif kind == "other name of a file":
        where.hardlink_to(victim / "thesis.tex")


LINKS = ["link to a file", "link to a directory", "link to nothing", "link to a device", "link to itself"]
SPECIAL = [*LINKS, "pipe", "socket"]


@contextlib.contextmanager
def quickly(seconds=2.0):
    """At most so long on a core of one's own, and less than a gigabyte more than before."""

    def stuck(number, frame):
        raise TimeoutError("it waits for something")

    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    former = signal.signal(signal.SIGALRM, stuck)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    assert time.process_time() - began < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


class TestWriting:
    @pytest.mark.parametrize("name", [LOCK, METRICS, MODEL, WEIGHTS])
    @pytest.mark.parametrize("kind", [*SPECIAL, "directory"])
    def test_nothing_is_written_through_a_name_of_a_run(self, tmp_path, victim, name, kind):
        run = tmp_path / "run"
        write(run, 1)
        (run / name).unlink(missing_ok=True)
        plant(kind, run / name, victim)
        before = listing(run)
        with quickly():
            for attempt in (reserve, lambda path: write(path, 2), lambda path: locked(path).__enter__()):
                with pytest.raises(CheckpointError, match="must be a file; nothing was written") as caught:
                    attempt(run)
                assert caught.value.path == str(run / name)
        assert listing(run) == before

    @pytest.mark.parametrize("name", [CHECKPOINTS, ENSEMBLE, f"{ENSEMBLE}/{CHECKPOINTS}"])
    @pytest.mark.parametrize("kind", [*SPECIAL, "file"])
    def test_directories_of_checkpoints_lead_nowhere_else(self, tmp_path, victim, name, kind):
        run = tmp_path / "run"
        (run / name).parent.mkdir(parents=True)
        plant(kind, run / name, victim)
        before = listing(run)
        with quickly(), pytest.raises(CheckpointError, match="must be a directory; nothing was written"):
            mdcm.fit(GRAPH, DATA, config=BRIEF, out=run, force=True)
        assert listing(run) == before

    def test_a_lock_that_is_another_name_of_a_file_is_refused(self, tmp_path, victim):
        (tmp_path / "run").mkdir()
        plant("other name of a file", tmp_path / "run" / LOCK, victim)
        with pytest.raises(CheckpointError, match="has another name too"), locked(tmp_path / "run"):
            pass

    def test_a_lock_that_holds_something_else_is_refused(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / LOCK).write_bytes(SECRET)
        with pytest.raises(CheckpointError, match="did not write"), locked(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK).read_bytes() == SECRET
        # one that a killed process left is taken over
        (tmp_path / "run" / LOCK).write_bytes(b"process 12 on elsewhere\n")
        with locked(tmp_path / "run"):
            pass
        assert listing(tmp_path / "run") == {}

    def test_metrics_that_are_another_name_of_a_file_are_replaced_and_not_written_to(self, tmp_path, victim):
        plant("other name of a file", tmp_path / METRICS, victim)
        with Journal(tmp_path) as journal:
            journal.write({"event": "check"})
        assert (tmp_path / METRICS).read_text() == '{"event": "check"}\n'

    def test_a_link_that_comes_after_the_look_is_not_followed(self, tmp_path, victim):
        """Planted between the time that a directory was looked at and the time that it is written to."""
        reserve(tmp_path / "run")
        plant("link to a file", tmp_path / "run" / METRICS, victim)
        with Journal(tmp_path / "run") as journal, pytest.raises(OSError, match="symbolic link") as caught:
            journal.write({"event": "check"})
        assert caught.value.filename == str(tmp_path / "run" / METRICS)
        checkpoints = Checkpoints(tmp_path / "run", "one", 60)
        plant("link to a directory", tmp_path / "run" / CHECKPOINTS, victim)
        for attempt in (checkpoints.read, lambda: checkpoints.write({}, {}), checkpoints.clear):
            with pytest.raises((OSError, CheckpointError), match="symbolic link"):
                attempt()

    def test_a_job_that_is_a_link_is_not_gone_into(self, tmp_path, victim):
        write(tmp_path / "run")
        (tmp_path / "run" / CHECKPOINTS).mkdir()
        plant("link to a directory", tmp_path / "run" / CHECKPOINTS / "job-00001", victim)
        rundir.remove_checkpoints(tmp_path / "run")
        assert not rundir.has_checkpoints(tmp_path / "run")

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_a_page_is_not_written_through_a_link(self, tmp_path, victim, kind):
        write(tmp_path / "run")
        plant(kind, tmp_path / "run" / REPORT, victim)
        before = listing(tmp_path / "run")
        what = "symbolic link" if "link" in kind else "not a regular file"
        with (
            quickly(),
            pytest.raises(OSError, match=what) as caught,
            rundir.replacing(tmp_path / "run" / REPORT) as stream,
        ):
            stream.write(b"page")
        assert caught.value.filename == str(tmp_path / "run" / REPORT)
        assert listing(tmp_path / "run") == before

    def test_a_run_directory_that_is_a_link_is_read_and_not_written(self, tmp_path):
        write(tmp_path / "run", 1)
        (tmp_path / "link").symlink_to(tmp_path / "run")
        (tmp_path / "nowhere").symlink_to(tmp_path / "none")
        before = listing(tmp_path / "run")
        assert read_run(tmp_path / "link")[0]["seed"] == 1
        for name in ("link", "nowhere"):
            with pytest.raises(CheckpointError, match="is a symbolic link; give the directory that it leads to"):
                write(tmp_path / name, 2)
        assert listing(tmp_path / "run") == before
        # a link on the way was made by whoever gives the path
        (tmp_path / "disk").mkdir()
        (tmp_path / "work").symlink_to(tmp_path / "disk")
        write(tmp_path / "work" / "run", 3)
        assert read_run(tmp_path / "disk" / "run")[0]["seed"] == 3


class TestReading:
    @pytest.mark.parametrize("name", [MODEL, WEIGHTS, METRICS])
    @pytest.mark.parametrize("kind", SPECIAL)
    def test_nothing_but_regular_files_is_read(self, tmp_path, victim, name, kind):
        run = tmp_path / "run"
        write(run)
        (run / name).unlink()
        plant(kind, run / name, victim)
        with quickly(), pytest.raises(CheckpointError, match="cannot be read: it is") as caught:
            read_run(run)
        assert caught.value.path == str(run / name)

    def test_not_even_the_right_file_by_way_of_a_link(self, tmp_path):
        write(tmp_path / "run")
        (tmp_path / "run" / WEIGHTS).rename(tmp_path / "w")
        (tmp_path / "run" / WEIGHTS).symlink_to(tmp_path / "w")
        with pytest.raises(CheckpointError, match="symbolic link"):
            read_run(tmp_path / "run")

    @pytest.mark.parametrize("kind", ["pipe", "link to a device", "directory"])
    def test_what_takes_the_place_of_a_file_between_look_and_opening(self, tmp_path, victim, monkeypatch, kind):
        run, os_open = tmp_path / "run", os.open
        write(run)

        def swapping(path, flags, *args, **kwargs):
            if path == WEIGHTS and (run / WEIGHTS).is_file() and not (run / WEIGHTS).is_symlink():
                (run / WEIGHTS).unlink()
                plant(kind, run / WEIGHTS, victim)
            return os_open(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", swapping)
        with quickly(), pytest.raises(CheckpointError, match="cannot be read"):
            read_run(run)

    @pytest.mark.parametrize("name", [MODEL, WEIGHTS, METRICS])
    @pytest.mark.parametrize("size", [1 << 33, 1 << 40])
    def test_files_of_holes(self, tmp_path, name, size):
        """A few bytes on the sender's disk, and more than fits on the reader's."""
        write(tmp_path)
        os.truncate(tmp_path / name, size)
        with quickly(), pytest.raises(CheckpointError, match=r"cannot be read: it has .* bytes"):
            read_run(tmp_path)

    def test_checkpoints_of_holes_and_links(self, tmp_path, victim):
        folder = tmp_path / CHECKPOINTS
        folder.mkdir()
        (folder / f"00000002-{'0' * 16}.safetensors").touch()
        os.truncate(folder / f"00000002-{'0' * 16}.safetensors", 1 << 36)
        with quickly(), pytest.raises(CheckpointError, match="cannot be read: it has"):
            Checkpoints(tmp_path, "one", 60).read()
        for number, kind in enumerate(SPECIAL, start=3):
            plant(kind, folder / f"{number:08}-{'0' * 16}.safetensors", victim)
            with quickly(), pytest.raises(CheckpointError, match="cannot be read: it is"):
                Checkpoints(tmp_path, "one", 60).read()

    @pytest.mark.parametrize("text", ["[" + "[]," * 2_100_000 + "[]]", '{"a":[' + "{}," * 2_100_000 + "{}]}"])
    def test_descriptions_of_very_many_values(self, tmp_path, text):
        write(tmp_path)
        (tmp_path / MODEL).write_text(text)
        with quickly(), pytest.raises(CheckpointError, match="no more than 2,000,000 are read"):
            read_run(tmp_path)

    def test_of_very_many_records_the_last_are_read(self, tmp_path):
        lines = "".join(f'{{"event": "check", "step": {step}}}\n' for step in range(1_500_000))
        self.replace_metrics(tmp_path, lines.encode())
        with pytest.warns(UserWarning, match="holds 1,500,000 records, of which the last 200,000 are read"), quickly():
            records = read_run(tmp_path)[2]
        assert [records[0]["step"], records[-1]["step"]] == [1_300_000, 1_499_999]

    def test_of_very_long_records_the_last_are_read(self, tmp_path):
        lines = b'{"event": "' + b"x" * (3 << 23) + b'"}\n'
        self.replace_metrics(tmp_path, lines * 2 + b'{"event": "last"}\n')
        with pytest.warns(UserWarning, match="holds 3 records, of which the last 2 are read"), quickly():
            assert read_run(tmp_path)[2][-1] == {"event": "last"}
        self.replace_metrics(tmp_path, b'{"a": [' + b"[]," * 2_100_000 + b"[]]}\n")
        with quickly(), pytest.raises(CheckpointError, match="no more than 2,000,000 are read"):
            read_run(tmp_path)

    def replace_metrics(self, path, content):
        """Other metrics with the right checksum: what a hostile writer would do."""
        write(path)
        (path / METRICS).write_bytes(content)
        description = json.loads((path / MODEL).read_text())
        description["sha256"][METRICS] = rundir.hashlib.sha256(content).hexdigest()
        (path / MODEL).write_text(json.dumps(description))


FOREIGN = [
    ".notes.tmp", "draft.tmp", ".x.next", "weights.safetensors.next", ".weights.safetensors.next",
    ".mdcm-1-0.tmp", ".mdcm.tmp", f".{METRICS}.0123.next", "thesis.tex", "report.pdf",
]  # fmt: skip


class TestWhatIsNotOurs:
    @pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_bytes(SECRET)], ids=["directory", "file"])
    def test_stays_when_a_model_is_saved_and_trained(self, tmp_path, make):
        run = tmp_path / "run"
        mdcm.fit(GRAPH, DATA, config=BRIEF, out=run)
        for name in FOREIGN:
            make(run / name)
        (run / CHECKPOINTS).mkdir()
        foreign = ["notes.txt", "00000001.safetensors", "00000001-0123456789abcdeg.safetensors", "job-1", "job-00001x"]
        for name in foreign:
            make(run / CHECKPOINTS / name)
        before = {name: value for name, value in listing(run).items() if Path(name).name in {*FOREIGN, *foreign}}
        config = mdcm.TrainConfig(max_steps=3, checkpoint_seconds=0)
        model = mdcm.fit(GRAPH, DATA, config=config, out=run, force=True, seed=1)
        model.save(run)
        assert {name: listing(run).get(name) for name in before} == before
        expected = {*FOREIGN, CHECKPOINTS, METRICS, MODEL, WEIGHTS}
        assert {entry.name for entry in run.iterdir()} == expected
        assert {entry.name for entry in (run / CHECKPOINTS).iterdir()} == set(foreign)
        # and a finished run with such things in it is a finished run
        assert mdcm.fit(GRAPH, DATA, config=config, out=run, resume=True, seed=1).seed == 1

    def test_staged_files_are_known_by_their_content(self, tmp_path):
        write(tmp_path)
        digest = rundir.hashlib.sha256(b"left").hexdigest()[:16]
        (tmp_path / f".{WEIGHTS}.{digest}.next").write_bytes(b"left")
        (tmp_path / f".{METRICS}.{digest}.next").write_bytes(SECRET)
        write(tmp_path, 1)
        assert sorted(listing(tmp_path)) == [f".{METRICS}.{digest}.next", METRICS, MODEL, WEIGHTS]

    @pytest.mark.parametrize("kind", [*LINKS, "directory", "pipe"])
    def test_a_page_about_other_weights_goes_and_what_only_has_its_name_stays(self, tmp_path, victim, kind):
        run = tmp_path / "run"
        write(run)
        plant(kind, run / REPORT, victim)
        with quickly():
            write(run, 1)
        assert os.path.lexists(run / REPORT)

    def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(self, tmp_path):
        program = (
            "import sys, time; from mdcm.storage.run_directory import replacing\n"
            "with replacing(sys.argv[1]) as stream:\n    stream.write(b'x' * 100_000)\n    stream.flush()\n"
            "    print('held', flush=True)\n    time.sleep(60)"
        )
        arguments = [sys.executable, "-c", program, str(tmp_path / "rows.csv")]
        with ending(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)) as writer:
            assert writer.stdout.readline() == "held\n"
            (temporary,) = tmp_path.iterdir()
            assert str(writer.pid) in temporary.name
            with rundir.replacing(tmp_path / "other.csv"):
                pass
            assert temporary.exists()
        # killed
        assert temporary.exists()
        with rundir.replacing(tmp_path / "other.csv"):
            pass
        assert [entry.name for entry in tmp_path.iterdir()] == ["other.csv"]

    @pytest.mark.parametrize("kind", ["directory", "pipe", "link to a file", "link to nothing"])
    def test_what_only_has_the_name_of_a_temporary_file_stays(self, tmp_path, victim, kind):
        folder = tmp_path / "run"
        folder.mkdir()
        name = f".mdcm-1-{'0' * 16}.tmp"
        plant(kind, folder / name, victim)
        with quickly():
            write(folder)
        assert name in {entry.name for entry in folder.iterdir()}


class TestUnfinished:
    @pytest.mark.parametrize(
        "where", [CHECKPOINTS, f"{ENSEMBLE}/{CHECKPOINTS}", f"{CHECKPOINTS}/job-00001/{CHECKPOINTS}"]
    )
    def test_is_not_begun_anew_unless_that_is_wanted(self, tmp_path, where):
        folder = Folder(tmp_path, ("run", *Path(where).parts[:-1]))
        Checkpoints(folder, "another", 60).write({}, {})
        before = listing(tmp_path)
        with pytest.raises(CheckpointError, match="was not finished: resume=True goes on with it, force=True begins"):
            mdcm.fit(GRAPH, DATA, config=BRIEF, out=tmp_path / "run")
        assert listing(tmp_path) == before
        mdcm.fit(GRAPH, DATA, config=BRIEF, out=tmp_path / "run", force=True)
        assert sorted(listing(tmp_path / "run")) == [METRICS, MODEL, WEIGHTS]

    def test_a_directory_without_a_checkpoint_is_begun(self, tmp_path):
        (tmp_path / "run" / CHECKPOINTS).mkdir(parents=True)
        (tmp_path / "run" / METRICS).write_text("{}\n")
        mdcm.fit(GRAPH, DATA, config=BRIEF, out=tmp_path / "run")
        assert sorted(listing(tmp_path / "run")) == [METRICS, MODEL, WEIGHTS]
