"""What happens to a tool in the wild: signals, full disks, other processes, hostile names, wide tables."""

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import ending, fail, succeed

import mdcm
from mdcm.storage.checkpoints import Checkpoints
from mdcm.storage.run_directory import locked, reserve

DOOR = mdcm.ADMG.from_string("X -> Z; Z -> Y; X <-> Y")
DATA = mdcm.scm.random_discrete(DOOR, levels=2, seed=0).sample(300, seed=0)
BRIEF = mdcm.TrainConfig(max_steps=30, checkpoint_seconds=0)


def same(one, other):
    mine, theirs = one.dcm.state_dict(), other.dcm.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def resident():
    """Bytes of memory that this process has by now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class TestLongSessions:
    def grown(self, work, warm, times):
        """Bytes that Python holds, and that the process has, more after so many times than before."""
        # traced from the start: what free lists hold is old memory, which would count as new when it is used again
        tracemalloc.start()
        for _ in range(warm):
            work()
        gc.collect()
        before = resident()
        first = tracemalloc.get_traced_memory()[0]
        for _ in range(times):
            work()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - first
        tracemalloc.stop()
        return held, resident() - before

    def test_graphs_plans_and_identification_hold_nothing(self):
        def work():
            graph = mdcm.ADMG.from_string("X -> Z; Z -> Y; X <-> Y; W -> X; W <-> Z")
            mdcm.plan(graph, objective="adversarial").to_json()
            mdcm.identify(graph, "P(Y | do(X))")
            graph.m_separated(["X"], ["Y"], given=["Z"])

        held, resident_more = self.grown(work, 100, 1_000)
        # an object kept each time would be at least 50 bytes, an array of the C++ core a page in so many times
        assert held < 1_000 * 50
        assert resident_more < 4 << 20

    def test_queries_of_a_model_hold_nothing(self, tmp_path):
        mdcm.fit(DOOR, DATA, config=BRIEF).save(tmp_path / "run")
        model = mdcm.load(tmp_path / "run")

        def work():
            model.query("P(Y=1 | do(X=1))", 64)

        # the interpreter's and numpy's free lists fill during the first few hundred
        held, resident_more = self.grown(work, 400, 500)
        assert held < 500 * 50
        assert resident_more < 8 << 20


class TestSignals:
    @contextlib.contextmanager
    def started(self, tmp_path):
        DATA.to_csv(tmp_path / "data.csv", index=False)
        (tmp_path / "spec.yaml").write_text(
            "graph: 'X -> Z; Z -> Y; X <-> Y'\ndata:\n- {path: data.csv}\n"
            "train: {max_steps: 10000000, holdout: 0, checkpoint_seconds: 0.2}\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "mdcm.cli", "train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        with ending(process):
            while not list((tmp_path / "run").glob("checkpoints/*.safetensors")):
                assert process.poll() is None
                time.sleep(0.05)
            yield process

    def test_sigterm_saves_and_ends_with_143(self, tmp_path):
        with self.started(tmp_path) as process:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (143, "")
        saved = f"what was done is saved in {tmp_path / 'run'}, and the same command with --resume goes on"
        assert err == f"terminated; {saved}\n"
        (newest,) = (tmp_path / "run" / "checkpoints").iterdir()
        assert newest.suffix == ".safetensors"
        assert not (tmp_path / "run" / ".lock").exists()

    @pytest.mark.usefixtures("ctrl_c")
    def test_a_second_ctrl_c_does_not_wait_for_the_step(self, tmp_path):
        state = {"done": 3, "elapsed": 1.0, "history": [], "job": None, "encoders": [], "halved": False}
        with Checkpoints(tmp_path, "one", 60) as checkpoints:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            del checkpoints
        with Checkpoints(tmp_path, "one", 60) as checkpoints:
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                checkpoints.between(lambda: (state, {"w": torch.ones(2)}))
        assert Checkpoints(tmp_path, "one", 60).read()[0] == state

    def test_handlers_of_the_program_are_called_and_come_back(self, tmp_path):
        heard = []

        def mine(number, frame):
            heard.append(number)
            raise SystemExit(5)

        before = signal.signal(signal.SIGTERM, mine)
        try:
            with Checkpoints(tmp_path, "one", 60) as checkpoints:
                os.kill(os.getpid(), signal.SIGTERM)
                with pytest.raises(SystemExit, match="5"):
                    checkpoints.between(lambda: ({}, {}))
            assert signal.getsignal(signal.SIGTERM) is mine
        finally:
            signal.signal(signal.SIGTERM, before)
        assert heard == [signal.SIGTERM]


class TestDisks:
    def test_full_while_training_leaves_the_last_checkpoint(self, tmp_path, monkeypatch):
        expected = mdcm.fit(DOOR, DATA, config=BRIEF)
        write, count = Checkpoints.write, []
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def full(self, header, tensors):
            count.append(1)
            if len(count) == 9:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
            write(self, header, tensors)

        monkeypatch.setattr(Checkpoints, "write", full)
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "checkpoints" in caught.value.filename
        names = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
        assert [name[:8] for name in names] == ["00000008"]
        assert same(mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "run", resume=True), expected)

    def test_full_while_saving_leaves_the_older_run(self, tmp_path):
        older = mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "run")
        newer = mdcm.fit(DOOR, DATA, config=BRIEF, seed=1)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                newer.save(tmp_path / "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert same(mdcm.load(tmp_path / "run"), older)

    def test_a_directory_that_cannot_be_written_is_found_out_first(self, tmp_path):
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)
        tmp_path.chmod(0o755)
        child = os.fork()
        if child == 0:
            code = 9
            try:
                if os.getuid() == 0:
                    # permissions do not bind root
                    os.setuid(65534)
                reserve(folder / "run")
            except mdcm.CheckpointError as error:
                # or the way there is barred for that user
                code = 0 if "Permission denied" in str(error) else 8
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        (tmp_path / "file").write_text("mine")
        with pytest.raises(mdcm.CheckpointError, match="Not a directory"):
            mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "file" / "run")


class TestTwoProcesses:
    def test_the_second_is_told_who_the_first_is(self, tmp_path):
        program = (
            "import sys, time; from mdcm.storage.run_directory import locked\n"
            "with locked(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
        )
        arguments = [sys.executable, "-c", program, str(tmp_path / "run")]
        with ending(subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)) as first:
            assert first.stdout.readline() == "held\n"
            with pytest.raises(mdcm.CheckpointError, match=f"is being written by process {first.pid} on .*; wait"):
                mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "run")
        # a process that was killed holds nothing
        model = mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "run")
        assert same(mdcm.load(tmp_path / "run"), model)
        assert not (tmp_path / "run" / ".lock").exists()

    def test_a_lock_ends_with_its_block_also_where_that_fails(self, tmp_path):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
            raise ZeroDivisionError
        with locked(tmp_path / "run"), pytest.raises(mdcm.CheckpointError, match="is being written"):
            mdcm.fit(DOOR, DATA, config=BRIEF, out=tmp_path / "run")


HOSTILE = [
    "a\nb", "tab\there", "it's", '"quoted"', "../../etc/passwd", "🙂", "P(Y | do(X))", "x" * 10_000, "->", "<->",
    "; rm -rf", "${HOME}", "%s", "\x1b[31m", "a,b", "=1+1", "{}", "None", "nan", "名前", "é", "#", "\\", "<script>",
]  # fmt: skip


class TestNames:
    @pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
    # the verdict on what is drawn is the subject of test_verdicts.py
    @pytest.mark.filterwarnings(
        "ignore:(?s).* (is not determined|is not shown|the answer rests|of the answer|no row of)"
    )
    def test_a_name_and_a_level_may_hold_anything(self, name, tmp_path):
        graph = mdcm.ADMG(nodes=[name, "Y"], directed=[(name, "Y")], bidirected=[(name, "Y")])
        table = pd.DataFrame({name: [name, "other"] * 40, "Y": [0, 1, 1, 1] * 20})
        data = mdcm.Dataset(table, name=name)
        assert mdcm.plan(graph).graph == graph
        assert mdcm.Plan.from_json(mdcm.plan(graph).to_json()) == mdcm.plan(graph)
        model = mdcm.fit(graph, data, config=mdcm.TrainConfig(max_steps=3), out=tmp_path / "run")
        loaded = mdcm.load(tmp_path / "run")
        assert same(loaded, model)
        drawn = loaded.draw_samples(10, do={name: name})
        assert set(drawn.table[name]) == {name}
        drawn.table.to_csv(tmp_path / "drawn.csv", index=False)
        assert mdcm.data.tables.read_table(tmp_path / "drawn.csv")[name if name != "" else 0].notna().all() or name in {
            "None",
            "nan",
        }
        text = mdcm.write_report(loaded, tmp_path / "report.html").read_text()
        assert "<script>" not in text
        assert {path.name for path in tmp_path.iterdir()} == {"run", "drawn.csv", "report.html"}


class TestTables:
    def test_a_hundred_thousand_columns(self, tmp_path):
        names = [f"c{place}" for place in range(100_000)]
        rows = np.arange(8)[:, None] + np.arange(100_000)
        table = pd.DataFrame(rows % 2, columns=names)
        table.to_csv(tmp_path / "wide.csv", index=False)
        read = mdcm.data.tables.read_table(tmp_path / "wide.csv")
        tracemalloc.start()
        with pytest.warns(UserWarning, match="not nodes of the graph"):
            model = mdcm.fit("c5 -> c70000", read, config=mdcm.TrainConfig(max_steps=2))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert model.schema["c70000"].levels == (0, 1)
        # a few copies of the table and of its names, and nothing that grows with their square
        assert peak < 5 * (rows.nbytes + 100_000 * 100)

    def test_a_level_of_one_row_can_be_asked_for_with_a_warning(self):
        table = pd.DataFrame({"X": ["rare"] + ["often", "other"] * 100, "Y": [0] + [0, 1] * 100})
        model = mdcm.fit("X -> Y", table, config=BRIEF)
        with pytest.warns(UserWarning, match="rests on about 1 of 201 rows"):
            answer = model.query("P(Y | do(X=rare))", 500)
        assert answer.rows == 1
        assert answer.table["probability"].sum() == pytest.approx(1)

    @pytest.mark.parametrize(
        ("column", "says"),
        [
            ([0.5, float("inf"), 1.5, 2.5] * 10, "finite"),
            ([0.5, None, 1.5, 2.5] * 10, "missing"),
            ([0.5, "a", 1.5, 2.5] * 10, "'Y'"),
            ([0.5] * 40, "constant in all datasets"),
        ],
    )
    def test_what_cannot_be_learned_from_is_named(self, column, says):
        table = pd.DataFrame({"X": [0, 1] * 20, "Y": pd.Series(column, dtype=object).infer_objects()})
        with pytest.raises(mdcm.DataError, match=says):
            mdcm.fit("X -> Y", table, config=BRIEF)

    def test_files_in_a_run_directory_that_are_not_ours_stay(self, tmp_path):
        DATA.to_csv(tmp_path / "data.csv", index=False)
        (tmp_path / "spec.yaml").write_text(
            "graph: 'X -> Z; Z -> Y; X <-> Y'\ndata:\n- {path: data.csv}\ntrain: {max_steps: 5}\n"
        )
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("mine")
        assert "is not a run directory" in fail(2, "train", tmp_path / "spec.yaml", "--out", tmp_path / "thesis")
        assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
        succeed("train", tmp_path / "spec.yaml", "--out", tmp_path / "run")
