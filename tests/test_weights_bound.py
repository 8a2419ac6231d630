"""What is read of the weights of a run is bounded by what model.json describes, before any of it is read."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load, save

import mdcm
from mdcm import CheckpointError
from mdcm.model import files
from mdcm.storage import run_directory
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import MODEL, WEIGHTS
from mdcm.training.adversarial_config import AdversarialConfig

BRIEF = mdcm.TrainConfig(max_steps=3)
CRITICS = mdcm.TrainConfig(max_steps=2, adversarial=AdversarialConfig(checks=1, hidden=8, batch_size=16))
MIB = 1 << 20


def table(rows=60):
    rng = np.random.default_rng(0)
    discrete = {name: rng.integers(0, 3, rows) for name in "ABC"}
    return pd.DataFrame({**discrete, "N": rng.normal(size=rows)})


@pytest.fixture
def run(tmp_path):
    mdcm.fit("A -> B -> C; A <-> C", table()[["A", "B", "C"]], config=BRIEF, out=tmp_path / "run", ensemble=2)
    return tmp_path / "run"


def rewritten(run, content):
    """Other weights, with their checksum in model.json, and that of model.json itself."""
    (run / WEIGHTS).write_bytes(content)
    description = json.loads((run / MODEL).read_text())
    checksums = description.pop("sha256")
    checksums[WEIGHTS] = hashlib.sha256(content).hexdigest()
    checksums[MODEL] = run_directory._digest(description)
    (run / MODEL).write_text(json.dumps({**description, "sha256": checksums}))


@pytest.fixture
def reads(monkeypatch):
    """Bytes that are read, by the name of the file."""
    found = {}
    read = Folder.read

    def counted(self, name, limit):
        content = read(self, name, limit)
        found[name] = found.get(name, 0) + len(content)
        return content

    monkeypatch.setattr(Folder, "read", counted)
    return found


def padded(run, size):
    weights = load((run / WEIGHTS).read_bytes())
    return save({**weights, "padding": torch.zeros(size, dtype=torch.uint8)})


class TestRefused:
    @pytest.mark.parametrize("how", ["a tensor", "its end"])
    def test_a_padded_file(self, run, reads, how):
        content = padded(run, 4 * MIB) if how == "a tensor" else (run / WEIGHTS).read_bytes() + bytes(4 * MIB)
        rewritten(run, content)
        with pytest.raises(CheckpointError, match=r"has .* bytes, and no more than .* are read") as caught:
            mdcm.load(run)
        assert WEIGHTS not in reads
        assert str(run / WEIGHTS) in str(caught.value)
        assert str(caught.value).endswith(
            "that is more than the model in model.json takes; restore the file, or train the model again"
        )
        assert caught.value.path == str(run / WEIGHTS)

    @pytest.mark.parametrize("what", ["the length of the header", "the shape of a tensor", "the end of a tensor"])
    def test_a_header_that_claims_more(self, run, what):
        content = (run / WEIGHTS).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        name = next(key for key in header if key != "__metadata__")
        if what == "the shape of a tensor":
            header[name]["shape"] = [1 << 40]
        if what == "the end of a tensor":
            header[name]["data_offsets"][1] = 1 << 40
        encoded = json.dumps(header).encode()
        claimed = 1 << 60 if what == "the length of the header" else len(encoded)
        rewritten(run, claimed.to_bytes(8, "little") + encoded + content[8 + length :])
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            mdcm.load(run)
        assert caught.value.path == str(run / WEIGHTS)

    def test_a_description_that_describes_no_model_allows_next_to_nothing(self, run, reads):
        description = json.loads((run / MODEL).read_text())
        del description["sha256"], description["format"]
        description["architecture"]["mechanisms"]["A"]["hidden"] = "32"
        assert files._bytes_described(description, {}) <= MIB
        rewritten(run, padded(run, 4 * MIB))
        whole = json.loads((run / MODEL).read_text())
        whole["architecture"]["mechanisms"]["A"]["hidden"] = "32"
        checksums = whole.pop("sha256")
        checksums[MODEL] = run_directory._digest(whole)
        (run / MODEL).write_text(json.dumps({**whole, "sha256": checksums}))
        with pytest.raises(CheckpointError):
            mdcm.load(run)
        assert WEIGHTS not in reads

    def test_sizes_without_end_take_no_memory(self, run):
        description = json.loads((run / MODEL).read_text())
        for key, value in (("hidden", 10**9), ("hidden", 10**30), ("layers", 10**9)):
            description["architecture"]["mechanisms"]["A"][key] = value
            assert files._bytes_described(description, {}) <= 1 << 34


class TestAllowed:
    """Whatever a training saves is read again, and the bound is not far above it."""

    @pytest.mark.parametrize(
        ("graph", "options"),
        [
            ("A -> B -> C; A <-> C", {"config": BRIEF}),
            ("A -> B -> C; A <-> C", {"config": BRIEF, "ensemble": 3}),
            # long enough for tables and for confounders that gain states
            ("A -> B; A -> C; B <-> C", {"config": mdcm.TrainConfig(max_steps=60)}),
            ("A -> N; N -> C; A <-> C", {"config": BRIEF}),
            ("A -> N -> C; N <-> C", {"config": CRITICS, "objective": "adversarial"}),
        ],
        ids=["levels", "ensemble", "tables", "numbers", "critics"],
    )
    def test_what_was_saved(self, tmp_path, graph, options):
        columns = sorted(set(graph) & set("ABCN"))
        mdcm.fit(graph, table(300)[columns], out=tmp_path / "run", **options)
        description = json.loads((tmp_path / "run" / MODEL).read_text())
        del description["sha256"]
        size = (tmp_path / "run" / WEIGHTS).stat().st_size
        most = files._bytes_described(description, {})
        assert size <= most
        assert mdcm.load(tmp_path / "run").dcm.state_dict().keys()
        # without counts of rows, of which there may be many, it is next to the size
        del description["support"]
        assert files._bytes_described(description, {}) <= size + 2 * MIB

    def test_with_pictures(self, tmp_path):
        rng = np.random.default_rng(0)
        data = mdcm.Dataset(
            {"A": rng.integers(0, 2, 64), "C": rng.integers(0, 2, 64)},
            images={"I": rng.integers(0, 255, (64, 1, 8, 8)).astype(np.uint8)},
        )
        mdcm.fit("A -> I -> C; A <-> C", data, config=BRIEF, out=tmp_path / "run")
        description = json.loads((tmp_path / "run" / MODEL).read_text())
        del description["sha256"]
        size = (tmp_path / "run" / WEIGHTS).stat().st_size
        assert size <= files._bytes_described(description, {}) <= 2 * size + 16 * MIB
        mdcm.load(tmp_path / "run")
