"""First steps: what there is to work with, and drafts of spec.yaml."""

import importlib.metadata
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import call, fail, process, succeed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mdcm
from mdcm.cli import doctor
from mdcm.cli.doctor import diagnose
from mdcm.cli.spec import DataEntry, Spec, read_spec
from mdcm.cli.spec_template import draft_spec
from mdcm.data import Schema

ROOT = Path(__file__).parent.parent


class TestDoctor:
    def test_all_is_well_where_the_tests_run(self):
        done = succeed("doctor")
        assert done.out.splitlines()[-1] == "all that is needed is there"
        assert importlib.metadata.version("torch") in done.out

    def test_json(self):
        found = json.loads(succeed("doctor", "--json").out)
        assert {one["topic"] for one in found} == {"versions", "core", "devices", "kernels", "extras", "files"}
        assert [one.to_json() for one in diagnose()] == found

    def test_a_missing_extra_is_a_note_with_the_command_that_gets_it(self, monkeypatch):
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
        done = succeed("doctor")
        (line,) = [line for line in done.out.splitlines() if "mdcm[report]" in line]
        assert line.startswith("- report")
        assert "pip install 'mdcm[report]'" in line

    def test_a_missing_package_is_broken(self, monkeypatch):
        real = importlib.metadata.version

        def version(name):
            if name == "zuko":
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        done = call("doctor")
        assert done.code == 1
        assert "! zuko" in done.out
        assert "pip install zuko" in done.out

    @pytest.mark.parametrize(
        ("asked", "state", "says"),
        [("reference", "ok", "MDCM_KERNELS=reference"), ("fast", "broken", "auto, reference")],
    )
    def test_kernels_are_explained(self, monkeypatch, asked, state, says):
        monkeypatch.setenv("MDCM_KERNELS", asked)
        first = next(one for one in diagnose() if one.topic == "kernels")
        assert first.state == state
        assert says in first.value + first.advice


class TestExtras:
    """What an extra installs is what doctor looks for, and the first page of the docs says what each is for."""

    EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    FOR_USERS = EXTRAS.keys() - {"all", "bench", "docs", "fuzz", "lint", "test"}

    def test_doctor_looks_for_what_they_install(self):
        looked_for = {name: set(modules) for name, (modules, _) in doctor._EXTRAS.items()}
        assert looked_for == {
            name: {re.match(r"[\w-]+", one)[0] for one in self.EXTRAS[name]} for name in self.FOR_USERS
        }

    def test_documentation_announces_them_with_what_they_are_for(self):
        page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
        assert rows.keys() == self.FOR_USERS
        for name in self.FOR_USERS - {"diffusers", "ray"}:
            for package in self.EXTRAS[name]:
                assert re.match(r"[\w-]+", package)[0] in rows[name], (name, package)

    def test_all_is_all_of_them(self):
        (all_of_them,) = self.EXTRAS["all"]
        assert set(re.findall(r"\w+", all_of_them)[1:]) == self.FOR_USERS


names = st.sampled_from(["X", "Y", "age [years]", "naïve", "a b", "k: #", "yes", "1", "'", '"q"', "名"])
columns = st.sampled_from(["levels", "texts", "booleans", "numbers", "gaps"])


def column(kind, rows, generator):
    if kind == "texts":
        return pd.Series(generator.choice(["no", "yes: #", "null", "'"], rows)).astype(object)
    if kind == "booleans":
        return pd.Series(generator.integers(0, 2, rows).astype(bool))
    values = pd.Series(generator.normal(size=rows) if kind == "numbers" else generator.integers(0, 3, rows))
    return values.where(generator.random(rows) > 0.1) if kind == "gaps" else values


class TestInit:
    @settings(deadline=None, max_examples=40)
    @given(data=st.data(), seed=st.integers(0, 1000))
    def test_a_draft_says_what_fit_would_infer(self, data, seed, tmp_path_factory):
        folder = tmp_path_factory.mktemp("draft")
        generator = np.random.default_rng(seed)
        chosen = data.draw(st.lists(names, min_size=2, max_size=4, unique=True))
        kinds = [data.draw(columns) for _ in chosen]
        rows = 60
        table = pd.DataFrame({name: column(kind, rows, generator) for name, kind in zip(chosen, kinds, strict=True)})
        graph = mdcm.ADMG(nodes=chosen, directed=list(itertools.pairwise(chosen)))
        table.to_csv(folder / "data.csv", index=False)
        read = mdcm.data.tables.read_table(folder / "data.csv")
        # a constant column is refused by everything
        assume(all(read[name].nunique() > 1 for name in read))
        given_ = Spec.of_arguments(graph.to_string(), [DataEntry(path=str(folder / "data.csv"))])
        (folder / "spec.yaml").write_text(draft_spec(given_, folder / "spec.yaml"), encoding="utf-8")
        spec = read_spec(folder / "spec.yaml")
        assert spec.load_graph() == graph
        loaded = spec.load_data()
        inferred = Schema.infer(mdcm.data.validate(loaded, graph.nodes), order=graph.nodes)
        assert {name: one["kind"] for name, one in spec.declared().items()} == inferred.kinds

    def test_it_says_what_it_found(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        pd.DataFrame({"X": [0, 1, 1, None], "Y": [0.5, 1.5, 2.25, 3], "id": [1, 2, 3, 4]}).to_csv("a.csv", index=False)
        pd.DataFrame({"X": [0, 1], "Z": ["n", "y"]}).to_csv("b.csv", index=False)
        done = succeed("init", "X -> Y; X -> Z", "a.csv", "b.csv:do=X")
        text = (tmp_path / "spec.yaml").read_text()
        assert "not in the graph: id" in text
        assert "not observed: Z" in text
        assert "do: [X]" in text
        assert "1 with missing values left out" in text
        assert "next: mdcm train spec.yaml" in done.err
        assert len(read_spec("spec.yaml").load_data()) == 2

    def test_nothing_is_replaced_unless_asked(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        pd.DataFrame({"X": [0, 1], "Y": [1, 0]}).to_csv("a.csv", index=False)
        (tmp_path / "spec.yaml").write_text("mine")
        assert "exists already" in fail(2, "init", "X -> Y", "a.csv")
        assert (tmp_path / "spec.yaml").read_text() == "mine"
        succeed("init", "X -> Y", "a.csv", "--force")
        assert (tmp_path / "spec.yaml").read_text() != "mine"
        assert succeed("init", "X -> Y", "a.csv", "--out", "-").out == (tmp_path / "spec.yaml").read_text()

    def test_paths_are_relative_to_the_spec(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "specs").mkdir()
        (tmp_path / "g.txt").write_text("X -> Y")
        pd.DataFrame({"X": [0, 1], "Y": [1, 0]}).to_csv("a.csv", index=False)
        succeed("init", "g.txt", "a.csv", "--out", "specs/s.yaml")
        text = (tmp_path / "specs" / "s.yaml").read_text()
        assert "graph: ../g.txt" in text
        assert "path: ../a.csv" in text
        assert len(read_spec("specs/s.yaml").load_data()) == 1

    def test_a_variable_without_data_is_named(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        pd.DataFrame({"X": [0, 1], "Y": [1, 0]}).to_csv("a.csv", index=False)
        assert "'Z'" in fail(2, "init", "X -> Y -> Z", "a.csv")
        assert not (tmp_path / "spec.yaml").exists()


class TestQuietAndCompletion:
    def test_quiet_leaves_results_and_errors(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        loud = call("plan", "X -> Y", "--svg", "a.svg")
        quiet = call("plan", "X -> Y", "--svg", "a.svg", "--quiet")
        assert loud.err == "wrote a.svg\n"
        assert (quiet.out, quiet.err) == (loud.out, "")
        assert "error" in fail(2, "plan", "X -> X", "--quiet")
        # and the next command is not quiet
        assert call("plan", "X -> Y", "--svg", "a.svg").err == "wrote a.svg\n"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_can_be_had(self, shell):
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from mdcm.cli.app import main; sys.argv[0] = 'mdcm'; main()"],
            env={"_MDCM_COMPLETE": f"source_{shell}", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "_MDCM_COMPLETE" in done.stdout

    def test_commands_are_completed(self):
        program = "import sys; from mdcm.cli.app import main; sys.argv[0] = 'mdcm'; main()"
        done = process(python=("-c", program), _MDCM_COMPLETE="complete_bash", COMP_WORDS="mdcm re", COMP_CWORD="1")
        assert done.out.split() == ["report"]
