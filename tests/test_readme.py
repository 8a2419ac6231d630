"""README's program prints what README says, and its numbers and comparisons are those of the committed runs."""

import copy
import importlib.util
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
TABLE = README.parent / "bench" / "table.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("table", TABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(table):
    return copy.deepcopy(table.read())


def test_readme_program_prints_its_output(tmp_path):
    match = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert match is not None, "README has no program followed by its output"
    program, output = match.groups()
    assert len(program.strip().splitlines()) <= 15
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_numbers_are_those_of_the_committed_runs():
    done = subprocess.run([sys.executable, str(TABLE), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestCritics:
    """What the methods that are shown beside `auto` reach of its bars."""

    def test_counts_of_asia_are_those_of_the_definition(self, table, runs):
        run = runs["asia"]
        problem = run["numbers"]["problem"]
        for method in ("auto", "adversarial", "joint", "joint, equal time"):
            own = [one for one in problem["outcomes"] if one["method"] == method]
            (floor,) = {one["fitted"]["d1: P(6 variables)"]["floor"] for one in own}
            reached = statistics.mean(one["fitted"]["d1: P(6 variables)"]["tvd"] for one in own) <= floor
            for query, limit in problem["estimation_floors"].items():
                answers = [one["answered"][query] for one in own]
                reached += (answers[0] <= 1.5 * limit) + (statistics.mean(answers) <= 1.2 * limit)
            assert table.held_to(run, method) == (reached, 5)

    @pytest.mark.parametrize("name", ["asia", "covidx", "frontdoor", "mnist2", "sachs", "synthetic"])
    def test_auto_reaches_what_its_run_says(self, table, runs, name):
        bars = [bar for bar in runs[name]["bars"] if bar["what"].startswith("auto, ")]
        assert table.held_to(runs[name], "auto") == (sum(bar["met"] for bar in bars), len(bars))

    @pytest.mark.parametrize(("name", "what"), [("asia", 1), ("frontdoor", 5), ("synthetic", 0), ("covidx", 0)])
    def test_a_bar_that_is_not_that_of_its_trainings_is_noticed(self, table, runs, name, what):
        runs[name]["bars"][what]["value"] += 1e-6
        with pytest.raises(SystemExit, match="by its trainings"):
            list(table.rows(runs))

    def test_only_synthetic_judges_them(self, table, runs):
        assert "critics are judged in `synthetic` alone" in table.judged_critics(runs)
        for bar in runs["asia"]["bars"][:1]:
            runs["asia"]["bars"].append({**bar, "what": "adversarial, worst data set"})
        assert "critics are judged in `asia` and `synthetic` alone" in table.judged_critics(runs)


class TestWords:
    def test_joint_training_is_ahead_where_its_answers_are_nearer(self, table, runs):
        said = table.joint_ahead(runs)
        ahead, behind = said.split("Module by module is nearer in ")
        assert re.findall(r"`(\w+)` \(", ahead) == ["asia", "mnist2", "sachs"]
        assert re.findall(r"`(\w+)` \(", behind) == ["frontdoor"]
        assert "12,000 steps against 6,000" in ahead

    def test_it_follows_the_numbers(self, table, runs):
        for one in runs["asia"]["numbers"]["problem"]["outcomes"]:
            if one["method"] == "joint":
                one["answered"] = dict.fromkeys(one["answered"], 0.5)
        ahead, behind = table.joint_ahead(runs).split("Module by module is nearer in ")
        assert "asia" not in ahead
        assert "`asia` (0.5000 against 0.0265, 3 seeds)" in behind

    def test_pixels_are_named(self, table, runs):
        assert "at 16 × 16 `frontdoor` and `mnist2`; at 32 × 32 `covidx`" in table.resolutions(runs)
        runs["mnist2"]["settings"]["resolution"] = 32
        assert "at 16 × 16 `frontdoor`; at 32 × 32 " in table.resolutions(runs)

    def test_how_much_farther_than_the_best_fit(self, table, runs):
        run = runs["large"]
        assert "5 % at 20, 7 % at 50, 7 % at 100, 7 % at 200 and 8 % at 500" in table.behind_best(run)
        for one in run["numbers"]["runs"]:
            one["tvd"]["auto"] *= 2
        assert "110 % at 20" in table.behind_best(run)
        for one in run["numbers"]["runs"]:
            one["tvd"]["auto"] *= 0.4
        with pytest.raises(SystemExit, match="as near as the best fit"):
            table.behind_best(run)

    def test_a_bar_that_is_missed_anew_must_be_explained(self, table, runs):
        table.missed(runs)
        runs["asia"]["bars"][0]["met"] = False
        with pytest.raises(SystemExit, match="say here why"):
            table.missed(runs)

    @pytest.mark.parametrize(
        ("rmse", "says"),
        [
            ({"probability": 1.0, "difference": 1.0}, "In both the model is nearer"),
            ({"probability": 1.0, "difference": 0.0}, "Each is nearer"),
            ({"probability": 0.0, "difference": 0.0}, "In both the plug-in estimate is nearer"),
        ],
    )
    def test_coverage_stands_beside_that_of_the_plug_in(self, table, tmp_path, monkeypatch, rmse, says):
        run = json.loads((table.RESULTS / "coverage.json").read_text())
        for row in run["table"]:
            if row["intervals"] == "frequencies":
                row["rmse"] = rmse[row["answer"]]
        (tmp_path / "coverage.json").write_text(json.dumps(run))
        monkeypatch.setattr(table, "RESULTS", tmp_path)
        assert says in table.coverage()
