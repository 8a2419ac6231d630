"""A finished run is replaced only by whoever says so, and what describes it goes with it."""

import pandas as pd
import pytest
import torch
from command_line import fail, succeed

import mdcm
from mdcm.errors import CheckpointError


class TestFinished:
    TABLE = pd.DataFrame({"X": [0, 1] * 20, "Y": [0, 1, 1, 1] * 10})
    BRIEF = mdcm.TrainConfig(max_steps=2, checks=1)

    def write_spec(self, folder):
        self.TABLE.to_csv(folder / "d.csv", index=False)
        path = folder / "spec.yaml"
        path.write_text("graph: X -> Y\ndata: [{path: d.csv}]\ntrain: {max_steps: 2, checks: 1}\n")
        return path

    def content(self, run):
        return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def test_fit_does_not_replace_a_finished_run_unasked(self, tmp_path):
        run = tmp_path / "run"
        first = mdcm.fit("X -> Y", self.TABLE, config=self.BRIEF, out=run, ensemble=2)
        (run / "report.html").write_text("about the first")
        before = self.content(run)
        for seed in (0, 1):
            with pytest.raises(CheckpointError, match=r"holds a finished run: resume=True .* force=True replaces it"):
                mdcm.fit("X -> Y", self.TABLE, config=self.BRIEF, out=run, seed=seed)
        assert self.content(run) == before
        again = mdcm.fit("X -> Y", self.TABLE, config=self.BRIEF, out=run, resume=True, ensemble=2)
        mine, theirs = first.dcm.state_dict(), again.dcm.state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
        assert self.content(run) == before
        mdcm.fit("X -> Y", self.TABLE, config=self.BRIEF, out=run, seed=1, force=True)
        # the page and the ensemble are about other weights
        assert "report.html" not in self.content(run)
        assert (mdcm.load(run).seed, mdcm.load(run).members) == (1, ())

    def test_train_does_not_replace_a_finished_run_unasked(self, tmp_path):
        spec, run = self.write_spec(tmp_path), tmp_path / "run"
        succeed("train", spec, "--out", run)
        (run / "report.html").write_text("about the first")
        before = self.content(run)
        for more in ([], ["--seed", 1], ["--ensemble", 2]):
            told = fail(2, "train", spec, "--out", run, *more)
            assert "holds a finished run: --resume loads or completes it, --force replaces it" in told
        assert "give one of them" in fail(2, "train", spec, "--out", run, "--force", "--resume")
        assert self.content(run) == before
        succeed("train", spec, "--out", run, "--resume")
        assert self.content(run) == before
        succeed("train", spec, "--out", run, "--force", "--seed", 1)
        assert mdcm.load(run).seed == 1
        assert "report.html" not in self.content(run)

    def test_saving_other_weights_takes_the_page_with_it_and_the_same_ones_do_not(self, tmp_path):
        model = mdcm.fit("X -> Y", self.TABLE, config=self.BRIEF, out=tmp_path / "run")
        (tmp_path / "run" / "report.html").write_text("about it")
        model.save(tmp_path / "run")
        assert (tmp_path / "run" / "report.html").exists()
        mdcm.fit("X -> Y", self.TABLE, config=self.BRIEF, seed=1).save(tmp_path / "run")
        assert not (tmp_path / "run" / "report.html").exists()
