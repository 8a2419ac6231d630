"""The command ``mdcm``: each command from end to end, where its output goes, and its exit codes."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call, ending, fail, process, succeed

import mdcm
from mdcm import LowSupportError, NotIdentifiableError, UntrainableError
from mdcm.progress import bars
from mdcm.scm import random_discrete

FRONT_DOOR = "X -> Z -> Y; X <-> Y"
COMMANDS = [
    "plan", "check", "identify", "train", "query", "sample", "report", "demo", "experiment", "doctor", "init",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table, a spec and the run that was trained by it."""
    path = tmp_path_factory.mktemp("work")
    graph = mdcm.ADMG.from_string(FRONT_DOOR)
    random_discrete(graph, levels=2, seed=1).sample(500, seed=0).to_csv(path / "obs.csv", index=False)
    (path / "spec.yaml").write_text(
        f'graph: "{FRONT_DOOR}"\ndata:\n  - {{path: obs.csv}}\ntrain: {{seed: 3, max_steps: 40}}\n'
    )
    succeed("train", path / "spec.yaml", "--out", path / "run")
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run with an image among its variables, under a name that leads elsewhere."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    np.save(path / "i.npy", rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8))
    pd.DataFrame({"D": [0, 1] * 20, "x": rng.normal(size=40).round(2)}).to_csv(path / "table.csv", index=False)
    (path / "spec.yaml").write_text(
        'graph: D -> "../I/2"\ndata:\n  - {path: table.csv, images: {"../I/2": i.npy}}\n'
        "train: {max_steps: 1, batch_size: 2, holdout: 0}\n"
    )
    result = succeed("train", path / "spec.yaml", "--out", path / "a" / "run")
    assert "note: dataset 'table.csv': column 'x' is not a node of the graph, ignored\n" in result.err
    return path


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_every_command_shows_an_example(self, command, flag):
        result = succeed(command, flag)
        assert re.search(rf"^  Examples?:\n    mdcm {command}\b", result.out, re.MULTILINE)
        assert result.err == ""

    def test_names_every_command_with_a_whole_sentence(self):
        out = succeed("--help").out
        for command in COMMANDS:
            assert re.search(rf"^  {command} +[A-Z][^.]*\.$", out, re.MULTILINE), command

    def test_examples_of_plan_work(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        examples = re.findall(r"^    mdcm (plan .*)$", succeed("plan", "-h").out, re.MULTILINE)
        assert examples
        for example in examples:
            succeed(*shlex.split(example))

    @pytest.mark.parametrize("command", ["query", "sample"])
    def test_examples_of_commands_on_runs_work(self, folder, tmp_path, monkeypatch, command):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "run").symlink_to(folder / "run")
        for example in re.findall(rf"^    mdcm ({command} .*)$", succeed(command, "-h").out, re.MULTILINE):
            # the run of this file has other names
            renamed = re.sub(r"\bA\b", "Y", re.sub(r"\bD\b", "X", example))
            succeed(*shlex.split(renamed))

    def test_version(self):
        assert succeed("--version").out == f"mdcm {mdcm.__version__}\n"

    def test_is_quick_because_it_loads_little(self):
        program = (
            "import sys\nfrom mdcm.cli.app import main\n"
            "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
            "slow = ('torch', 'pandas', 'safetensors', 'pydantic', 'rich', 'ruamel')\n"
            "print([name for name in slow if name in sys.modules], file=sys.stderr)"
        )
        assert process(python=("-c", program)).err == "[]\n"


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["plam", "X -> Y"], "No such command 'plam'. Did you mean 'plan'?"),
            (["plan"], "Missing argument"),
            (["plan", "X -> Y", "--metod", "paper"], "No such option: --metod"),
            (["identify", "X -> Y", "P(Y)", "Z"], "unexpected extra argument"),
            (["train", "spec.yaml"], "Missing option '--out'"),
            (["query", "run", "P(Y)", "--num-samples", "many"], "Invalid value for '--num-samples'"),
            (["query", "run", "P(Y)", "--num-samples", "1"], "Invalid value for '--num-samples'"),
            (["sample", "run", "--out", "x.csv", "--seed", "-1"], "Invalid value for '--seed'"),
            (["plan", "X -> Y", "--json", "-", "--svg", "-"], "only one of --json, --svg and --dot can go to stdout"),
            (["plan", "X -> Y", "--objective", "gan"], "objective is 'gan'; it must be one of 'auto'"),
            (["plan", "X -> Y", "--method", "best"], "method is 'best'; it must be one of 'minimal'"),
        ],
    )
    def test_slips_are_answered_on_stderr_with_2(self, arguments, message):
        assert message in fail(2, *arguments)

    def test_nothing_is_answered_with_help(self):
        result = call()
        assert result.code == 2
        assert "Usage: mdcm" in result.out + result.err


class TestIdentify:
    def test_prints_the_estimand(self):
        result = succeed("identify", "D -> I -> A; D <-> A", "P(A | do(D))")
        assert result.out == "P(A | do(D)) = sum_{I} P(I | D) sum_{D'} P(D') P(A | D', I)\n"
        assert r"\sum_{D'}" in succeed("identify", "D -> I -> A; D <-> A", "P(A | do(D))", "--latex").out
        content = json.loads(succeed("identify", "X -> Y", "P(Y | do(X=1))", "--json").out)
        assert content["identifiable"]
        assert content["estimand"]["text"] == "P(Y | X=1)"

    def test_what_is_not_determined_is_a_no_with_the_reason(self):
        error = fail(1, "identify", "X -> Y; X <-> Y", "P(Y | do(X))")
        assert error.startswith("P(Y | do(X)) is not identifiable from P(V): F' = {Y} inside F = {X, Y}.\n")
        assert "Two models with the same distribution of the data disagree on the answer." in error
        assert error.endswith("It would be identifiable with an experiment that sets X to all values.\n")
        content = json.loads(call("identify", "X -> Y; X <-> Y", "P(Y | do(X))", "--json").out)
        assert (content["identifiable"], content["estimand"], content["experiments"]) == (False, None, [["X"]])
        assert (content["witness"]["inner"], content["witness"]["outer"]) == (["Y"], ["X", "Y"])

    def test_experiments_and_the_values_that_they_set(self):
        bow = ("identify", "X -> Y; X <-> Y", "P(Y | do(X=1))", "--experiment")
        assert succeed(*bow, "X").out == "P(Y | do(X=1)) = P(Y | do(X=1))\n"
        succeed(*bow, "X=1")
        assert "do(X) does not set all values of X that are needed" in fail(1, *bow, "X=0")
        assert "names are expected" in fail(2, *bow, "X=")
        assert "'Q'" in fail(2, *bow, "Q")

    def test_columns_and_values_of_files(self, tmp_path):
        rng = np.random.default_rng(0)
        pd.DataFrame(rng.integers(0, 3, (60, 4)), columns=["PKA", "Mek", "Erk", "Akt"]).to_csv(tmp_path / "seen.csv")
        pd.DataFrame({"PKA": [2] * 30, "Mek": rng.integers(0, 3, 30)}).to_csv(tmp_path / "set.csv", index=False)
        graph = "PKA -> Mek; PKA -> Erk; PKA -> Akt; Mek -> Erk; Erk -> Akt; PKA <-> Mek"
        data = ("--data", tmp_path / "seen.csv", "--data", f"{tmp_path / 'set.csv'}:do=PKA")
        out = succeed("identify", graph, "P(Akt | do(PKA=2))", *data).out
        assert "P_{set.csv}(Mek | do(PKA=2))" in out
        error = fail(1, "identify", graph, "P(Akt | do(PKA=0))", *data)
        assert "set.csv does not set all values of PKA that are needed" in error

    def test_draws_the_reason(self, tmp_path):
        error = fail(1, "identify", "X -> Y; X <-> Y", "P(Y | do(X))", "--svg", tmp_path / "why.svg")
        assert f"wrote {tmp_path / 'why.svg'}" in error
        assert "the c-forest inside" in "".join(ET.parse(tmp_path / "why.svg").getroot().itertext())
        assert succeed("identify", "X -> Y", "P(Y | do(X))", "--svg", "-").out.startswith("<svg")

    def test_slips_point_at_the_place(self):
        error = fail(2, "identify", "X -> Y", "P(Q | do(X))")
        assert error.endswith("  P(Q | do(X))\n    ^\n")


class TestPlan:
    def test_prints_the_plan(self):
        result = succeed("plan", "D -> I -> A; D <-> A", "--objective", "adversarial")
        assert result.out == str(mdcm.plan("D -> I -> A; D <-> A", objective="adversarial")) + "\n"
        assert result.err == ""

    def test_reads_a_file(self, tmp_path):
        (tmp_path / "g.txt").write_text("X -> Y\nX <-> Y\n")
        assert succeed("plan", tmp_path / "g.txt").out == succeed("plan", "X -> Y; X <-> Y").out

    def test_writes_json_and_a_picture(self, tmp_path):
        result = succeed("plan", FRONT_DOOR, "--json", tmp_path / "p.json", "--svg", tmp_path / "p.svg")
        expected = mdcm.plan(FRONT_DOOR)
        assert mdcm.Plan.from_json((tmp_path / "p.json").read_text()) == expected
        assert ET.parse(tmp_path / "p.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert result.out == str(expected) + "\n"
        assert result.err == f"wrote {tmp_path / 'p.json'}\nwrote {tmp_path / 'p.svg'}\n"

    def test_a_dash_means_stdout_and_nothing_else_there(self, tmp_path):
        result = succeed("plan", FRONT_DOOR, "--json", "-")
        assert mdcm.Plan.from_json(result.out) == mdcm.plan(FRONT_DOOR)
        result = succeed("plan", 'A -> "<&>"', "--svg", "-")
        assert "<&>" in "".join(ET.fromstring(result.out).itertext())

    def test_plans_for_observations_and_experiments_together(self, tmp_path):
        pd.DataFrame({"D": [0, 1, 0, 1], "I": [0, 0, 1, 1], "A": [1, 0, 1, 1]}).to_csv(tmp_path / "o.csv", index=False)
        pd.DataFrame({"D": [0, 1, 1], "A": [1, 0, 1], "I": [1, 0, 0]}).to_csv(tmp_path / "e.csv", index=False)
        pd.DataFrame({"I": [0, 0], "A": [1, 0], "D": [1, 0]}).to_csv(tmp_path / "half.csv", index=False)
        data = [part for name in ("o.csv", "e.csv:do=D", "half.csv:do=I") for part in ("--data", tmp_path / name)]
        result = succeed(
            "plan", "D -> I -> A; D <-> A", "--objective", "adversarial", *data, "--dot", tmp_path / "p.dot"
        )
        assert "adversarial: P(A | I, do(D)) from e.csv\n" in result.out
        # do(I) sets one of the two levels that the data have, so it teaches nothing alone
        assert "adversarial: P(A, D, I) from o.csv\n" in result.out
        assert (tmp_path / "p.dot").read_text().startswith("digraph plan {")
        joint = succeed("plan", "D -> I -> A; D <-> A", "--method", "joint", *data).out
        assert "adversarial: P(A, D | I, do(I)) from half.csv" in joint

    def test_what_no_data_can_teach_is_a_no(self, tmp_path):
        pd.DataFrame({"D": [0, 1], "A": [1, 0]}).to_csv(tmp_path / "e.csv", index=False)
        error = fail(1, "plan", "D -> A; D <-> A", "--data", f"{tmp_path / 'e.csv'}:do=D")
        assert error == "error: no dataset can teach {A, D}: e.csv sets D by do(), which is inside it\n"

    def test_takes_kinds_and_names_from_the_data(self, tmp_path):
        rng = np.random.default_rng(0)
        pd.DataFrame({"X": [0, 1] * 50, "Y": rng.normal(size=100), "extra": 1}).to_csv(tmp_path / "a.csv", index=False)
        result = succeed("plan", "X -> Y", "--data", tmp_path / "a.csv", "--json", "-")
        assert result.err == "note: dataset 'a.csv': column 'extra' is not a node of the graph, ignored\n"
        (spec,) = mdcm.Plan.from_json(result.out).datasets
        assert (spec.name, spec.columns, spec.rows) == ("a.csv", ("X", "Y"), 100)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("{}/a.csv:do=Q", "dataset 'a.csv': do=['Q'], but there is no column 'Q'"),
            ("{}/a.csv:do=", "a name is missing after do=, as in "),
            ("{}/a.csv:do=X,,Y", "a name is missing after do="),
            ("{}/a.csv:X", "there is no such file, and after a colon do=X,Y is expected"),
            ("{}/none.csv", "none.csv: No such file or directory"),
        ],
    )
    def test_experiments(self, tmp_path, option, message):
        pd.DataFrame({"X": [0, 1], "Y": [1, 0]}).to_csv(tmp_path / "a.csv", index=False)
        assert message in fail(2, "plan", "X -> Y", "--data", option.format(tmp_path))

    def test_a_file_may_have_a_colon_in_its_name(self, tmp_path):
        pd.DataFrame({"X": [0, 1], "Y": [1, 0]}).to_csv(tmp_path / "a:do=X.csv", index=False)
        assert "from a:do=X.csv" in succeed("plan", "X -> Y", "--data", tmp_path / "a:do=X.csv").out

    def test_does_not_load_torch(self, folder):
        program = (
            "import sys\nfrom mdcm.cli.app import main\n"
            "try:\n    main(sys.argv[1:])\nexcept SystemExit as ended:\n    assert not ended.code\n"
            "print('torch' in sys.modules, file=sys.stderr)"
        )
        for more in ((), ("--data", str(folder / "obs.csv"))):
            result = process("plan", FRONT_DOOR, *more, python=("-c", program))
            assert result.err == "False\n"
            assert "likelihood: P(Z | X)" in result.out


class TestCheck:
    CHAIN = "X -> Z -> Y"

    @pytest.fixture
    def tables(self, tmp_path):
        truth = random_discrete(mdcm.ADMG.from_string("X -> Z -> Y; X -> Y"), levels=2, seed=3)
        truth.sample(2_000, seed=0).to_csv(tmp_path / "a.csv", index=False)
        truth.sample(2_000, do={"Z": np.arange(2_000) % 2}, seed=1).to_csv(tmp_path / "b.csv", index=False)
        return tmp_path

    def test_says_which_pair_is_dependent_and_answers_no(self, tables):
        result = call("check", self.CHAIN, tables / "a.csv")
        assert (result.code, result.err) == (1, "")
        first, second = result.out.splitlines()
        assert first == "1 independence tested, 1 rejected at level 0.05, worst first:"
        assert second.startswith("  1. by the graph, X is independent of Y given Z; the data contradict this (p = ")

    def test_says_that_nothing_is_rejected(self, tables):
        result = call("check", "X -> Z -> Y; X -> Y", tables / "b.csv:do=Z")
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("1 independence tested, none rejected at level 0.05 (smallest adjusted p = ")

    def test_prints_json_and_takes_experiments(self, tables):
        result = call("check", self.CHAIN, tables / "a.csv", f"{tables}/b.csv:do=Z", "--json", "--max-tests", "9")
        content = json.loads(result.out)
        assert (result.code, content["level"], content["tests"], content["notes"]) == (1, 0.05, 7, [])
        rows = {(row["kind"], row["x"], row["y"], *row["given"]): row["rejected"] for row in content["table"]}
        # the arrow from X to Y is missing, which hardly shows in P(Y | Z)
        assert rows == {
            ("independence", "X", "Y", "Z"): True,
            ("independence", "X", "Y"): True,
            ("independence", "X", "Z"): False,
            ("invariance", "dataset", "X"): False,
            ("invariance", "dataset", "Y", "Z"): False,
            ("consistency", "Z", "X"): False,
            ("consistency", "Z", "Y"): False,
        }
        assert {row["dataset"] for row in content["table"]} == {"a.csv", "b.csv", "a.csv, b.csv"}
        assert content["rejected"] == sum(rows.values())
        assert call("check", self.CHAIN, tables / "a.csv", "--level", "1e-300").code == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["X -> Z -> Y", "{}/none.csv"], "none.csv: No such file or directory"),
            (["X -> Z -> Y", "{}/a.csv:do=Q"], "dataset 'a.csv': do=['Q'], but there is no column 'Q'"),
            (["X -> Z -> Y", "{}/a.csv:do="], "error: {}/a.csv:do=: a name is missing after do=, as in "),
            (["X -> X", "{}/a.csv"], "joins a node to itself"),
            (["X -> Z -> Y"], "give a graph and at least one table, or a spec.yaml"),
            (["X -> Z -> Y", "{}/a.csv", "--level", "2"], "--level must lie between 0 and 1"),
            (["X -> Z -> Y", "{}/a.csv", "--max-tests", "0"], "Invalid value for '--max-tests'"),
        ],
    )
    def test_slips(self, tables, arguments, message):
        assert message.format(tables) in fail(2, "check", *(text.format(tables) for text in arguments))


class TestTrain:
    def test_says_what_it_trained(self, folder, tmp_path):
        result = succeed("train", folder / "spec.yaml", "--out", tmp_path / "run")
        lines = result.out.splitlines()
        assert "  0: {X, Y}" in lines
        assert "       likelihood: P(X, Y | Z) from obs.csv" in lines
        for hnode in (r"\{X, Y\}", r"\{Z\}"):
            pattern = rf"trained {hnode}: \d+ steps, [\d.]+ s, held-out loss \d\.\d{{4}}"
            assert any(re.fullmatch(pattern, line) for line in lines)
        # no bars where there is no terminal
        assert result.err == f"saved {tmp_path / 'run'}\n"
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
            "metrics.jsonl",
            "model.json",
            "weights.safetensors",
        ]

    def test_trains_what_fit_trains(self, folder):
        config = mdcm.TrainConfig(max_steps=40)
        model = mdcm.fit(FRONT_DOOR, pd.read_csv(folder / "obs.csv"), config=config, seed=3)
        loaded = mdcm.load(folder / "run")
        assert (loaded.seed, loaded.config) == (3, config)
        for name, tensor in model.dcm.state_dict().items():
            assert torch.equal(tensor, loaded.dcm.state_dict()[name])

    def test_the_seed_of_the_command_comes_first(self, folder, tmp_path):
        succeed("train", folder / "spec.yaml", "--out", tmp_path / "run", "--seed", 4)
        assert mdcm.load(tmp_path / "run").seed == 4

    def test_refuses_a_place_that_is_taken_before_it_trains(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("mdcm.model.fit", None)
        (tmp_path / "notes.txt").write_text("keep me")
        message = fail(2, "train", folder / "spec.yaml", "--out", tmp_path)
        assert "is not a run directory: it holds 'notes.txt'" in message
        assert (tmp_path / "notes.txt").read_text() == "keep me"

    def test_names_the_place_in_the_spec(self, folder, tmp_path):
        (tmp_path / "s.yaml").write_text("graph: X -> Y\ndata:\n  - {path: a.csv}\ntrain: {max_step: 5}\n")
        message = fail(2, "train", tmp_path / "s.yaml", "--out", tmp_path / "run")
        assert message.startswith(f"error: {tmp_path}/s.yaml:4:9: train.max_step: unknown entry")
        assert "did you mean 'max_steps'" in message
        assert "No such file" in fail(2, "train", tmp_path / "none.yaml", "--out", tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert "there is no device 'tpu'" in fail(
            2, "train", folder / "spec.yaml", "--out", tmp_path / "run", "--device", "tpu"
        )


class TestQuery:
    @pytest.mark.parametrize("text", ["P(Y | do(X))", "E[Y | do(X=1)] - E[Y | do(X=0)]", "P(Y=1 | do(X=0), Z=1)"])
    def test_answers_as_the_model_does(self, folder, text):
        model = mdcm.load(folder / "run")
        model.attach(pd.read_csv(folder / "obs.csv"))
        answer = model.query(text, 2000, seed=6)
        options = (folder / "run", text, "--num-samples", 2000, "--seed", 6)
        result = succeed("query", *options)
        assert (result.out, result.err) == (f"{answer}\n", "")
        content = json.loads(succeed("query", *options, "--json").out)
        assert content["query"] == answer.query
        assert (content["value"], content["stderr"]) == (answer.value, answer.stderr)
        # infinitely many draws have no number in JSON
        assert (content["exact"], content["ess"]) == (answer.exact, None if answer.exact else answer.ess)
        assert content["identification"] == json.loads(json.dumps(answer.identification.to_json()))
        assert (content["rows"], content["unseen"], content["note"]) == (answer.rows, answer.unseen, answer.note)
        pd.testing.assert_frame_equal(pd.DataFrame(content["table"]), answer.table)

    def test_data_that_have_changed_are_not_compared_with(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "copy")
        with (tmp_path / "copy" / "obs.csv").open("a") as file:
            file.write("0,0,0\n")
        result = succeed("query", tmp_path / "copy" / "run", "P(Y | do(X))", "--num-samples", 100)
        assert "no plug-in estimate is shown, because the training data cannot be read again" in result.err
        assert "plug-in" not in result.out

    def test_what_is_not_determined_is_a_no_unless_anyway(self, tmp_path):
        pd.DataFrame({"X": [0, 1] * 40, "Y": [0, 1, 1, 1] * 20}).to_csv(tmp_path / "bow.csv", index=False)
        (tmp_path / "bow.yaml").write_text(
            'graph: "X -> Y; X <-> Y"\ndata:\n  - {path: bow.csv}\ntrain: {max_steps: 5}\n'
        )
        succeed("train", tmp_path / "bow.yaml", "--out", tmp_path / "run")
        error = fail(1, "query", tmp_path / "run", "P(Y | do(X))")
        assert "F' = {Y} inside F = {X, Y}" in error
        out = succeed("query", tmp_path / "run", "P(Y | do(X))", "--anyway", "--num-samples", 100).out
        assert "not determined by the graph and the data" in out

    def test_a_slip_in_the_query_is_shown_before_the_run_is_looked_for(self, tmp_path):
        message = fail(2, "query", tmp_path / "none", "P(Y | do(X=1)")
        assert message == "error: this '(' is never closed\n  P(Y | do(X=1)\n   ^\n"

    def test_what_would_have_been(self, folder):
        text = "P(Y[X=1] | X=0, Z=1)"
        out = succeed("query", folder / "run", text, "--num-samples", 2000, "--anyway").out
        model = mdcm.load(folder / "run")
        expected = model.query(text, 2000, allow_unidentifiable=True)
        assert all(f"{share:.4f}" in out for share in expected.table["probability"])
        assert "Y[X=1]" in out

    def test_too_little_support_is_a_no(self, tmp_path):
        pd.DataFrame({"X": [0, 1] * 100, "Y": [0, 0, 1, 1] * 50}).to_csv(tmp_path / "rare.csv", index=False)
        (tmp_path / "rare.yaml").write_text(
            'graph: "X -> Y"\ndata: [{path: rare.csv}]\nvariables: {X: {kind: categorical, levels: [0, 1, 2]}}\n'
            "train: {max_steps: 5}\n"
        )
        succeed("train", tmp_path / "rare.yaml", "--out", tmp_path / "run")
        asked = ("query", tmp_path / "run", "P(Y | do(X=2))", "--num-samples", 40)
        message = fail(1, *asked)
        assert message.startswith("error: P(Y | do(X=2)): no row of the training data has X=2")
        # the shell is told of the shell's option
        assert message.endswith("; --low-support answers all the same\n")
        for option in ("--low-support", "--anyway"):
            content = json.loads(succeed(*asked, option, "--json").out)
            assert (content["rows"], content["unseen"], content["support"]) == (0.0, 1.0, 1.0)
        some = succeed("query", tmp_path / "run", "P(Y | do(X))", "--num-samples", 40, "--json")
        assert "no row of the training data has X=2" in some.err
        assert "--low-support" in some.err
        assert [row["probability"] is None for row in json.loads(some.out)["table"]] == [False] * 4 + [True] * 2


class TestSample:
    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_writes_what_the_model_draws(self, folder, tmp_path, suffix):
        file = tmp_path / f"s.{suffix}"
        options = ["--do", "X=0", "--given", "Z=0", "--num-samples", 200, "--seed", 5]
        result = succeed("sample", folder / "run", "--out", file, *options)
        table = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
        expected = mdcm.load(folder / "run").draw_unjudged(200, do={"X": 0}, given={"Z": 0}, seed=5).table
        pd.testing.assert_frame_equal(table, expected)
        assert (result.out, result.err) == ("", f"wrote {file} (200 rows)\n")

    @pytest.mark.parametrize("suffix", ["csv", "parquet"])
    def test_writes_block_by_block_what_would_have_been(self, folder, tmp_path, suffix):
        file = tmp_path / f"s.{suffix}"
        options = ["--do", "X=1", "--evidence", "X=0", "--evidence", "Y=1", "--num-samples", 9000]
        result = succeed("sample", folder / "run", "--out", file, *options)
        table = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
        expected = mdcm.load(folder / "run").draw_unjudged(9000, evidence={"X": 0, "Y": 1}, do={"X": 1})
        pd.testing.assert_frame_equal(table, expected.table)
        said, wrote = result.err.splitlines()
        assert said.startswith("warning: P(Z[X=1], Y[X=1] | X=0, Y=1) is not determined by the graph and the data")
        assert (result.out, wrote) == ("", f"wrote {file} (9,000 rows)")

    def test_says_when_rows_are_worth_less(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr("mdcm.sampling.draws._DRAWS_PER_SAMPLE", 0.25)
        options = ["--evidence", "Z=1", "--do", "X=1", "--given", "Y=0", "--num-samples", 20_000]
        result = succeed("sample", folder / "run", "--out", tmp_path / "s.csv", *options)
        model = mdcm.load(folder / "run")
        drawn = model.draw_unjudged(20_000, evidence={"Z": 1}, do={"X": 1}, given={"Y": 0})
        assert len(pd.read_csv(tmp_path / "s.csv")) == len(drawn) == 20_000
        assert 100 < drawn.ess < 20_000
        assert f"warning: the 20,000 rows are worth only {drawn.ess:,.0f} independent ones" in result.err

    def test_images_stay_beside_the_table_whatever_their_name(self, pictures, tmp_path):
        out = tmp_path / "deep" / "er"
        out.mkdir(parents=True)
        succeed("sample", pictures / "a" / "run", "--out", out / "s.csv", "--num-samples", 5, "--do", "D=1")
        assert [path.name for path in tmp_path.iterdir()] == ["deep"]
        assert [path.name for path in out.parent.iterdir()] == ["er"]
        (array,) = out.glob("s.*.npy")
        drawn = mdcm.load(pictures / "a" / "run").draw_unjudged(5, do={"D": 1})
        np.testing.assert_array_equal(np.load(array), drawn.images["../I/2"])
        assert pd.read_csv(out / "s.csv")["D"].tolist() == [1] * 5

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--do", "X"], "--do X: NAME=VALUE is expected, as in --do X=1"),
            (["--do", "=1"], "--do =1: NAME=VALUE is expected"),
            (["--do", "W=1"], "--do W=1: there is no variable 'W'; the model has 'X', 'Z', 'Y'"),
            (["--given", "X=2"], "--given X=2: variable 'X' has no level 2; its levels are 0, 1"),
            (["--do", "X=1", "--do", "X=0"], "--do X=0: 'X' has two values"),
            (["--do", "X=1", "--given", "X=1"], "'X' is set by do() and cannot be conditioned on as well"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, folder, tmp_path, options, message):
        error = fail(2, "sample", folder / "run", "--out", tmp_path / "s.csv", *options)
        assert error.startswith(f"error: {message}")
        assert not any(tmp_path.iterdir())

    def test_refuses_to_set_an_image(self, pictures, tmp_path):
        message = fail(2, "sample", pictures / "a" / "run", "--out", tmp_path / "s.csv", "--do", "../I/2=x.png")
        assert "'../I/2' is an image; set it in Python, with draw_samples(do=...)" in message

    def test_refuses_files_that_cannot_be_written_before_it_draws(self, tmp_path, monkeypatch):
        for out, message in [
            (tmp_path / "s.xlsx", "the table is written as .csv or .parquet"),
            (tmp_path / "no" / "s.csv", f"the directory {tmp_path}/no does not exist"),
        ]:
            assert message in fail(2, "sample", tmp_path / "none", "--out", out)
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        message = fail(2, "sample", tmp_path / "none", "--out", tmp_path / "s.parquet")
        assert "writing Parquet needs pyarrow: pip install 'mdcm[parquet]', or write a .csv" in message

    def test_a_name_may_hold_an_equals_sign(self, tmp_path):
        table = pd.DataFrame({"a=b": [0, 1] * 20, "Y": ["p=q", "r"] * 20})
        mdcm.fit('"a=b" -> Y', table, config=mdcm.TrainConfig(max_steps=1), out=tmp_path / "run")
        succeed("sample", tmp_path / "run", "--out", tmp_path / "s.csv", "--do", "a=b = 1", "--do", "Y=p=q")
        drawn = pd.read_csv(tmp_path / "s.csv")
        assert (set(drawn["a=b"]), set(drawn["Y"])) == ({1}, {"p=q"})


class TestDemo:
    def test_prints_what_the_experiment_found(self, tmp_path, monkeypatch):
        from mdcm.experiments import demo

        asked = []

        def run(out, *, seed, resume, force, progress):
            asked.append((out, seed, resume, force, progress))
            return "result"

        monkeypatch.setattr(demo, "run", run)
        monkeypatch.setattr(demo, "render", lambda result: f"the {result}")
        assert succeed("demo", "--out", tmp_path, "--seed", 2).out == "the result\n"
        succeed("demo", "--force")
        succeed("demo", "--resume")
        assert asked == [
            (tmp_path, 2, False, False, True),
            (Path("mdcm-demo"), 0, False, True, True),
            (Path("mdcm-demo"), 0, True, False, True),
        ]
        assert "give one of them" in fail(2, "demo", "--resume", "--force")

    @pytest.mark.parametrize(("module", "package"), [("PIL", "pillow"), ("sklearn", "scikit-learn")])
    def test_says_what_it_needs(self, monkeypatch, module, package):
        monkeypatch.setitem(sys.modules, module, None)
        assert fail(2, "demo") == f"error: the demo needs {package}: pip install 'mdcm[demo]'\n"


class TestEndings:
    """What goes wrong below a command, and the exit code that tells."""

    def ends_with(self, monkeypatch, error):
        def broken(*args, **kwargs):
            raise error

        monkeypatch.setattr(sys.modules["mdcm.planning"], "plan", broken)
        return call("plan", "X -> Y")

    @pytest.mark.parametrize("kind", [NotIdentifiableError, UntrainableError, LowSupportError])
    def test_no_is_1(self, monkeypatch, kind):
        result = self.ends_with(monkeypatch, kind("it cannot be known"))
        assert (result.code, result.out, result.err) == (1, "", "error: it cannot be known\n")

    def test_an_interrupt_is_130(self, monkeypatch):
        result = self.ends_with(monkeypatch, KeyboardInterrupt())
        assert (result.code, result.out, result.err) == (130, "", "interrupted\n")

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (mdcm.GraphError("no graph"), "error: no graph\n"),
            (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied\n"),
            (OSError("strange"), "error: strange\n"),
            (MemoryError(), "error: out of memory\n"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
    )
    def test_anything_of_this_world_is_2(self, monkeypatch, error, message):
        result = self.ends_with(monkeypatch, error)
        assert (result.code, result.out, result.err) == (2, "", message)

    @pytest.mark.parametrize(
        "error", [ZeroDivisionError("by\nzero"), RecursionError("x" * 1000), EOFError(), KeyError(3)], ids=repr
    )
    def test_a_mistake_of_ours_is_3_and_says_where_the_traceback_is(self, monkeypatch, tmp_path, error):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        result = self.ends_with(monkeypatch, error)
        (file,) = tmp_path.iterdir()
        assert (result.code, result.out) == (3, "")
        assert result.err.startswith(f"error: unexpected, a bug in mdcm: {type(error).__name__}")
        assert result.err.endswith(f"; the traceback is in {file}\n")
        assert len(result.err) < 600
        assert result.err.count("\n") == 1
        assert f"{type(error).__name__}" in file.read_text().splitlines()[-1 if "\n" not in str(error) else -2]

    def test_a_traceback_that_cannot_be_written_is_said_to_be_lost(self, monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        result = self.ends_with(monkeypatch, ZeroDivisionError("zero"))
        assert result.code == 3
        assert "ZeroDivisionError: zero; the traceback could not be written (No such file or directory)" in result.err

    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        file = tmp_path / "p.json"
        file.write_text("old")

        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        result = call("plan", "X -> Y", "--json", file)
        assert (result.code, result.err) == (2, f"error: {file}: No space left on device\n")
        assert file.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["p.json"]

    def test_leaves_the_interpreter_as_it_was(self):
        import warnings

        before = sys.excepthook, warnings.showwarning, warnings.filters[:], signal.getsignal(signal.SIGPIPE)
        call("plan", "X -> Y")
        assert before == (sys.excepthook, warnings.showwarning, warnings.filters[:], signal.getsignal(signal.SIGPIPE))


class TestProcess:
    """What only a process of its own can show."""

    def test_a_reader_that_leaves_ends_it_quietly(self):
        arguments = [sys.executable, "-m", "mdcm.cli", "plan", "X -> Y"]
        with ending(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as started:
            started.stdout.close()
            assert started.wait(60) == 141
            assert started.stderr.read() == b""

    def test_letters_that_a_terminal_lacks(self):
        result = process("plan", "Größe -> 變數", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
        assert result.code == 0
        assert r"P(\u8b8a\u6578 | Gr\xf6\xdfe)" in result.out

    @pytest.mark.usefixtures("ctrl_c")
    def test_an_interrupted_training_ends_with_130_and_can_be_started_again(self, folder, tmp_path):
        text = (folder / "spec.yaml").read_text().replace("obs.csv", str(folder / "obs.csv"))
        (tmp_path / "spec.yaml").write_text(text.replace("max_steps: 40", "max_steps: 10000000, holdout: 0"))
        # what takes long to load is loaded first, so that the signal arrives in the training
        program = (
            "import sys, torch, mdcm.model\nfrom mdcm.cli.app import main\n"
            "torch.optim.AdamW([torch.zeros(1, requires_grad=True)])\nmain(sys.argv[1:])"
        )
        started = subprocess.Popen(
            [sys.executable, "-c", program, "train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with ending(started):
            while not (tmp_path / "run").exists():
                assert started.poll() is None
                time.sleep(0.05)
            time.sleep(0.5)
            started.send_signal(signal.SIGINT)
            out, err = started.communicate(timeout=60)
        # at most what is needed to go on, and then how to
        left = {entry.name for entry in (tmp_path / "run").iterdir()}
        assert left <= {"checkpoints"}
        saved = f"what was done is saved in {tmp_path / 'run'}, and the same command with --resume goes on"
        hint = saved if left else "nothing was saved"
        assert (started.returncode, out, err) == (130, "", f"interrupted; {hint}\n")
        if left:
            message = fail(2, "train", folder / "spec.yaml", "--out", tmp_path / "run")
            assert "holds a training that was not finished: --resume goes on with it, --force begins anew" in message
        succeed("train", folder / "spec.yaml", "--out", tmp_path / "run", "--force")


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgress:
    def test_bars_are_shown_on_a_terminal_only(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        for stream in (Terminal(), io.StringIO()):
            with bars(stream) as told:
                told.start(("X", "Y"), 50)
                told.step(("X", "Y"), 20)
                told.finish(("X", "Y"))
            shown = stream.getvalue()
            if stream.isatty():
                # it ended before its last step, and is full all the same
                assert "training {X, Y}" in shown
                assert "20/20" in shown
            else:
                assert shown == ""

    def test_many_h_nodes_keep_a_few_bars(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        with bars(stream) as told:
            for number in range(100):
                hnode = tuple(f"variable{number}.{member}" for member in range(9))
                told.start(hnode, 1)
                told.finish(hnode)
            last = told._display.tasks
        assert len(last) == 8
        assert all(len(task.description) < 40 and task.description.endswith("…} (9)") for task in last)
        assert last[-1].description.startswith("{variable99.0")
