"""Laws of what is saved and loaded: everything comes back, and what is damaged is refused."""

import io
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from fitted import BRIEF, FRONT_DOOR, GaussianLine, front_door, front_door_table, same, tangled
from torch import nn

import mdcm
import mdcm.mechanisms
from mdcm import (
    ADMG,
    CheckpointError,
    Dataset,
    PlanError,
    TrainConfig,
)
from mdcm.storage.run_directory import MODEL, WEIGHTS


@pytest.fixture(scope="module")
def table():
    return front_door_table()


@pytest.fixture(scope="module")
def model(table):
    return front_door(table)


@pytest.fixture(scope="module")
def tangle():
    return tangled()


class TestSaving:
    def test_everything_comes_back(self, model, tmp_path):
        model.save(tmp_path / "run")
        loaded = mdcm.load(tmp_path / "run")
        same(model.draw_samples(5000, seed=2), loaded.draw_samples(5000, seed=2))
        same(
            model.draw_samples(50, do={"X": 1}, given={"Z": "low"}),
            loaded.draw_samples(50, do={"X": 1}, given={"Z": "low"}),
        )
        for text in ("P(Y | do(X))", "E[Y | do(X=1)] - E[Y | do(X=0)]", "P(Y | Z=high)"):
            one, other = model.query(text, 1000), loaded.query(text, 1000)
            pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
            assert (one.note, one.value, one.stderr, one.ess) == (other.note, other.value, other.stderr, other.ess)
        assert loaded.graph == model.graph
        assert loaded.graph.nodes == model.graph.nodes
        assert dict(loaded.schema) == dict(model.schema)
        assert loaded.plan == model.plan
        assert loaded.config == model.config
        assert (loaded.seed, loaded.datasets, loaded.history) == (model.seed, model.datasets, model.history)
        assert not loaded.dcm.training

    def test_saving_what_was_loaded_writes_the_same_files(self, model, tangle, tmp_path):
        for name, one in {"plain": model, "tangle": tangle}.items():
            one.save(tmp_path / name)
            mdcm.load(tmp_path / name).save(tmp_path / f"{name} again")
            for file in (tmp_path / name).iterdir():
                assert (tmp_path / f"{name} again" / file.name).read_bytes() == file.read_bytes()

    def test_fit_saves_what_it_returns(self, table, tmp_path):
        model = mdcm.fit(FRONT_DOOR, table, config=BRIEF, out=tmp_path / "a" / "run")
        same(model.draw_samples(100), mdcm.load(tmp_path / "a" / "run").draw_samples(100))
        description = json.loads((tmp_path / "a" / "run" / MODEL).read_text())
        assert description["versions"]["mdcm"] == mdcm.__version__
        (dataset,) = description["datasets"]
        assert (dataset["name"], dataset["rows"], dataset["columns"]) == ("d1", 1000, ["X", "Z", "Y"])

    def test_data_are_known_by_their_values_and_not_by_their_file(self, table):
        digests = []
        shuffled = table[["Y", "X", "Z"]]
        text = io.StringIO(table.to_csv(index=False))
        for data in (table, shuffled, pd.read_csv(text), table.iloc[::-1]):
            digests.append(mdcm.fit(FRONT_DOOR, data, config=BRIEF).datasets[0]["sha256"])
        assert digests[0] == digests[1] == digests[2] != digests[3]

    def test_odd_names(self, tmp_path):
        names = [
            "../../up",
            "two words",
            "Größe",
            "變數",
            "a.b",
            'say "hi"',
            "it's",
            "a->b",
            "1",
            "new\nline",
        ]
        rng = np.random.default_rng(0)
        data = pd.DataFrame({name: rng.integers(0, 2, 60) for name in names})
        latents = {"../L": names[:3], "U.\n": names[3:5]}
        graph = ADMG(names, directed=list(itertools.pairwise(names)), latents=latents)
        model = mdcm.fit(graph, data, config=BRIEF)
        model.save(tmp_path / "x" / "run")
        loaded = mdcm.load(tmp_path / "x" / "run")
        assert loaded.graph == graph
        same(model.draw_samples(100), loaded.draw_samples(100))
        assert loaded.query("P('../../up' | do('it\\'s'=1, \"say \\\"hi\\\"\"=0))", 100).table.columns[-3] == "../../up"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["x"]
        assert sorted(file.name for file in (tmp_path / "x").iterdir()) == ["run"]

    def test_a_mechanism_of_the_users_own_is_needed_again(self, tmp_path):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, 400)
        data = pd.DataFrame({"X": x, "Y": 3.0 * x - 1 + 0.5 * rng.normal(size=400)})
        own = {"Y": GaussianLine}
        model = mdcm.fit(
            "X -> Y", data, mechanisms=own, config=TrainConfig(max_steps=800, learning_rate=0.05), out=tmp_path / "run"
        )
        # the effect of X is 3; its error is that of two means, and what 800 steps leave
        answer = model.query("E[Y | do(X=1)] - E[Y | do(X=0)]", 1000)
        assert answer.value == pytest.approx(3.0, abs=4 * 0.5 * math.sqrt(2 / 200) + 0.02)
        match = (
            r"model.json: the mechanism of 'Y' is of the type 'tests.GaussianLine'.*pass it as mechanisms=\{'Y': ...\}"
        )
        with pytest.raises(CheckpointError, match=match):
            mdcm.load(tmp_path / "run")
        same(model.draw_samples(50, seed=3), mdcm.load(tmp_path / "run", mechanisms=own).draw_samples(50, seed=3))
        with pytest.raises(PlanError, match="mechanisms: 'Q' is not a node of the graph"):
            mdcm.load(tmp_path / "run", mechanisms={**own, "Q": GaussianLine})

        class Wider(GaussianLine):
            def __init__(self, variable, parents, latents=()):
                super().__init__(variable, parents, latents)
                self.line = nn.Linear(7, 1)

        with pytest.raises(CheckpointError, match=r"weights.safetensors does not fit model.json: .*size mismatch for"):
            mdcm.load(tmp_path / "run", mechanisms={"Y": Wider})

    def test_with_images(self, tmp_path):
        rng = np.random.default_rng(0)
        images = {"I": rng.random((40, 3, 8, 8)), "J": rng.integers(0, 256, (40, 1, 16, 8), dtype=np.uint8)}
        data = Dataset({"D": rng.integers(0, 2, 40), "A": rng.integers(0, 2, 40)}, images=images)
        config = TrainConfig(max_steps=1, batch_size=4, holdout=0)
        model = mdcm.fit("D -> I -> J; I -> A; J -> A; D <-> A", data, config=config, out=tmp_path / "run")
        same(model.draw_samples(20), mdcm.load(tmp_path / "run").draw_samples(20))


def planned(change):
    """A change of the plan, which is text of its own in a description."""

    def changed(description):
        plan = json.loads(description["plan"])
        change(plan)
        description["plan"] = json.dumps(plan)

    return changed


# what loads in parts, and would fail once it is used
FORGED = [
    (lambda d: d["variables"][0].update(dtype="no such type"), "'X': its values cannot be of the type 'no such type'"),
    (lambda d: d["variables"][0].update(dtype="bool", levels=[0, 1, 2]), "the type 'bool'|does not fit"),
    (lambda d: d["variables"][1].update(dtype="float32"), "'Z': its values cannot be of the type 'float32'"),
    (lambda d: d["variables"][2].update(dtype="complex128"), "'Y': its values cannot be of the type 'complex128'"),
    (lambda d: d["variables"][2].update(dtype="str"), "'Y': its values cannot be of the type 'str'"),
    (lambda d: d["variables"][0].update(dtype=["int64"]), r"variables\[0\]\.dtype must be a text"),
    (lambda d: d["variables"][0].update(levels=[[0], 1]), r"variables\[0\]\.levels\[0\] must be true or false or"),
    (lambda d: d["variables"][0].update(colour="red"), r"variables\[0\]\.'colour' is not a known field"),
    (lambda d: d["variables"][2].update(mean=float("nan")), r"variables\[2\]\.mean must be a finite number"),
    (lambda d: d["datasets"][0].update(rows="many"), r"datasets\[0\]\.rows must be a whole number"),
    (lambda d: d["datasets"][0].update(name=3), r"datasets\[0\]\.name must be a text"),
    (lambda d: d["datasets"][0].pop("sha256"), r"'datasets\[0\]\.sha256' is missing"),
    (lambda d: d["datasets"].append(d["datasets"][0]), "its plan is for other data sets"),
    (lambda d: d["support"]["datasets"][0].update(rows=1.5), r"support\.datasets\[0\]\.rows must be a whole number"),
    (
        lambda d: d.update(ensemble={"resampled": "yes", "architectures": []}),
        r"ensemble\.resampled must be true or false",
    ),
    (lambda d: d.update(ensemble={"resampled": True, "architectures": [7]}), r"architectures\[0\] must be a mapping"),
    (lambda d: d.update(versions={"torch": 2}), r"versions\['torch'\] must be a text"),
    (lambda d: d.update(extra=1), "'extra' is not a known field"),
    (lambda d: d["config"].update(refit="no"), "refit must be true or false"),
    (lambda d: d["config"].update(learning_rate="fast"), "learning_rate must be a number"),
    (lambda d: d["config"].update(adversarial={"betas": "ab"}), "adversarial: betas must be two numbers"),
    (planned(lambda p: p["hnodes"][0].update(variables=["Q"])), "fit of variables or data sets that are not"),
    (planned(lambda p: p["hnodes"][0]["fits"][0].update(datasets=["other"])), "data sets that are not the plan's"),
    (planned(lambda p: p["hnodes"][0]["fits"][0].update(objective="magic")), "the objective 'magic'"),
    (planned(lambda p: p["hnodes"][0].update(level="0")), r"hnodes\[0\]\.level must be a whole number"),
    (planned(lambda p: p["datasets"][0].update(rows=[])), r"datasets\[0\]\.rows must be a whole number"),
    (planned(lambda p: p.update(method="mine")), "its method is 'mine'"),
    (planned(lambda p: p.update(edges=[[0, 99]])), "an edge joins h-nodes that it does not have"),
    (planned(lambda p: p["hnodes"].append(p["hnodes"][0])), "has no variables, or one of an earlier h-node"),
]


class TestDamagedModels:
    """Descriptions that are whole, with the right checksum, and describe nothing that can be built."""

    @pytest.fixture
    def run(self, model, tmp_path):
        model.save(tmp_path / "run")
        return tmp_path / "run"

    def refuse(self, run, change, match, file=MODEL):
        from mdcm.storage import run_directory as rundir

        description, weights, history = rundir.read_run(run)
        change(description, weights)
        description.pop("format", None)
        rundir.write_run(run, description, weights, history)
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(CheckpointError, match=match) as caught:
            mdcm.load(run)
        assert caught.value.path == str(run / file)
        assert str(run / file) in str(caught.value)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    @pytest.mark.parametrize(
        "key", ["graph", "variables", "plan", "config", "architecture", "seed", "datasets"], ids=str
    )
    def test_missing_entries(self, run, key):
        self.refuse(run, lambda description, _: description.pop(key), f"does not describe a model: '{key}' is missing")

    @pytest.mark.parametrize("value", [None, 7, 1.5, "text", [], [1], {}, {"a": {"b": 1}}], ids=repr)
    @pytest.mark.parametrize("key", ["graph", "variables", "plan", "config", "architecture", "seed", "datasets"])
    def test_values_of_another_type(self, run, key, value):
        if (key, value) in [("seed", 7), ("datasets", []), ("datasets", {}), ("config", {})]:
            # values that these entries may have
            return
        self.refuse(run, lambda description, _: description.update({key: value}), "does not describe a model")

    @pytest.mark.parametrize("value", [10**9, 10**30, 1e300, 3, 0, -1, True, None, "32", [32], {"a": 1}], ids=repr)
    @pytest.mark.parametrize("key", ["hidden", "layers"])
    def test_other_sizes_take_no_memory(self, run, key, value):
        def change(description, _):
            description["architecture"]["mechanisms"]["Y"][key] = value

        fits = "does not fit model.json: "
        if value in (10**9, 10**30, 1e300):
            self.refuse(run, change, fits + "that describes a larger model", WEIGHTS)
        elif value == 3:
            self.refuse(run, change, fits + "_modules_by_position.2..* must be torch.float32", WEIGHTS)
        elif (key, value) == ("layers", True):
            self.refuse(run, change, fits + ".*Unexpected key", WEIGHTS)
        else:
            self.refuse(run, change, "does not describe a model: ")

    @pytest.mark.parametrize("value", [10**12, 5, -5, 0, None, "4", [4]], ids=repr)
    def test_other_numbers_of_states(self, run, value):
        def change(description, _):
            description["architecture"]["states"]["U[X,Y]"] = value

        if value in (10**12, 5):
            self.refuse(run, change, "does not fit model.json: ", WEIGHTS)
        else:
            self.refuse(run, change, r"does not describe a model: architecture\.states\['U\[X,Y\]'\] must be a whole")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda d: d["graph"]["directed"].append(["Y", "X"]), "the directed edges have a cycle"),
            (lambda d: d["graph"]["nodes"].append("X"), "the node 'X' is given twice"),
            (lambda d: d["graph"]["nodes"].append("W"), "its plan is for another graph"),
            (lambda d: d["variables"].pop(), "'Y' is missing"),
            (lambda d: d["variables"][0].update(kind="picture"), "kind is 'picture'; it must be one of"),
            (lambda d: d["variables"][0].update(levels=[]), "levels must be distinct and non-empty"),
            (lambda d: d["architecture"]["mechanisms"].pop("Z"), "'Z' is missing"),
            (
                lambda d: d["architecture"]["mechanisms"]["Z"].update(type="os.system"),
                "the type 'os.system', which mdcm",
            ),
            (lambda d: d["architecture"]["mechanisms"]["Z"].update(type="rectified_flow"), "unexpected keyword"),
            (lambda d: d["architecture"]["mechanisms"]["Z"].update(variable="X"), "multiple values for"),
            (lambda d: d["architecture"]["mechanisms"]["Z"].update({"../up": 1}), "unexpected keyword"),
            (lambda d: d.update(plan="[" * 100_000), "nested too deeply"),
            (lambda d: d["config"].update(max_steps=-1), "max_steps must be"),
            *FORGED,
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_describes_no_model(self, run, change, match):
        self.refuse(run, lambda description, _: change(description), match)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda w: w.pop("priors.0"), r"priors.0 must be torch.float32 \[\d+\], but is nothing"),
            (lambda w: w.update({"priors.0": w["priors.0"][:-1]}), "priors.0 must be"),
            (lambda w: w.update({"priors.0": w["priors.0"].double()}), r"but is torch.float64 \[\d+\]"),
            (lambda w: w.update({"__class__": torch.ones(1)}), "Unexpected key"),
        ],
        ids=["missing", "shorter", "of another type", "one more"],
    )
    def test_weights_that_do_not_fit(self, run, change, match):
        self.refuse(run, lambda _, weights: change(weights), "does not fit model.json: .*" + match, WEIGHTS)


def test_loading_takes_time_in_proportion_to_the_columns(tmp_path, monkeypatch):
    names = [f"v{k}" for k in range(60)]
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.integers(0, 2, 40) for name in names})
    graph = ADMG(names, directed=list(itertools.pairwise(names)))
    model = mdcm.fit(graph, table, config=TrainConfig(max_steps=1), out=tmp_path / "run")
    counts = {"parents": 0, "mechanisms": 0}
    parents, build = ADMG.parents, mdcm.mechanisms.Categorical.__init__

    def counted(self, name):
        counts["parents"] += 1
        return parents(self, name)

    def built(self, *args, **kwargs):
        counts["mechanisms"] += 1
        build(self, *args, **kwargs)

    monkeypatch.setattr(ADMG, "parents", counted)
    monkeypatch.setattr(mdcm.mechanisms.Categorical, "__init__", built)
    loaded = mdcm.load(tmp_path / "run")
    # every mechanism is made once, one of each shape before that, and no node is asked for by every other
    assert counts["mechanisms"] <= len(names) + 3
    assert counts["parents"] <= 10 * len(names)
    monkeypatch.undo()
    same(model.draw_samples(5), loaded.draw_samples(5))
