"""States of confounders: twice as many where held-out rows gain by them, and only there."""

import numpy as np
import pytest
import torch
from kill_sweep import same
from learning import copies_of_one_coin, read_out

import mdcm
from mdcm import TrainConfig
from mdcm.data import Schema, encode, validate
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.scm import DiscreteSCM
from mdcm.storage.checkpoints import Checkpoints
from mdcm.training import confounder_growth as growth
from mdcm.training.confounders import may_double
from mdcm.training.rows import fit_rows
from mdcm.training.stacking import DiscreteModule, ModuleStack

# two latents of four children, trained as one: the first has far more states than a child has levels, the other two
GRAPH = ADMG.from_string("L [latent]; M [latent]; L -> A; L -> B; L -> C; L -> D; M -> E; M -> F; M -> G; M -> H")
FIRST, SECOND = list("ABCD"), list("EFGH")
ROWS = 8000


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    states, sharpness = {"L": 24, "M": 2}, {"L": 0.1, "M": 1.0}
    tables = {
        child: rng.dirichlet(np.full(3, sharpness[name]), size=states[name])
        for name, children in GRAPH.confounders
        for child in children
    }
    return DiscreteSCM(GRAPH, tables, {name: rng.dirichlet(np.full(count, 5.0)) for name, count in states.items()})


@pytest.fixture(scope="module")
def table(truth):
    return truth.sample(ROWS, seed=1)


@pytest.fixture(scope="module")
def grown(table):
    return mdcm.fit(GRAPH, table)


def events(model):
    return [(record["event"], "".join(record["hnode"])) for record in model.history if record["event"] != "check"]


class TestDoubling:
    def test_many_states_are_found_and_two_are_left_alone(self, truth, table, grown):
        assert grown.dcm.states == {"L": 16, "M": 8}
        assert events(grown) == [("grown", "ABCD"), ("trained", "EFGH"), ("trained", "ABCD")]
        learned = read_out(grown.dcm)
        for names in (FIRST, SECOND):
            exact = truth.exact(names)
            assert tv_distance(exact, learned.exact(names)) <= 1.2 * sampling_floor(exact, ROWS)
        records = {record["event"]: record for record in grown.history if record["hnode"] == FIRST}
        assert records["trained"]["heldout"] < records["grown"]["heldout"]
        assert records["trained"]["states"] == {"L": 16}

    def test_the_number_that_the_user_gives_stays(self, truth, table):
        with pytest.warns(UserWarning, match=r"explain held-out rows better than the fit does.*\{A, B, C, D\}"):
            model = mdcm.fit(GRAPH, table, config=TrainConfig(confounder_states=8))
        assert model.dcm.states == {"L": 8, "M": 8}
        # which is too small here
        exact = truth.exact(FIRST)
        assert tv_distance(exact, read_out(model.dcm).exact(FIRST)) > 2 * sampling_floor(exact, ROWS)

    def test_a_training_that_was_cut_short_says_nothing_about_states(self, table):
        model = mdcm.fit(GRAPH, table, config=TrainConfig(max_steps=30))
        assert model.dcm.states == {"L": 8, "M": 8}

    def test_alone_as_in_a_stack(self, table, grown):
        graph = ADMG.from_string("L [latent]; L -> A; L -> B; L -> C; L -> D")
        alone = mdcm.fit(graph, table[FIRST], config=TrainConfig(batch_modules=False))
        assert alone.dcm.states == {"L": grown.dcm.states["L"]}
        exact = [read_out(model.dcm).exact(FIRST) for model in (alone, grown)]
        # sums in another order, over some hundred steps
        assert tv_distance(*exact) < 1e-3

    def test_frequencies_that_are_met_are_not_asked_for_more(self, monkeypatch):
        problem = copies_of_one_coin()
        # nothing is tried
        monkeypatch.delattr(growth, "_continued")
        assert mdcm.fit(problem.graph, problem.table).dcm.states == {"L": 8}

    def test_memory_has_the_last_word(self):
        pair = ADMG.from_string("A <-> B")
        one = {"A": 1, "B": 1}
        assert may_double(pair, ["A", "B"], one, {"U[A,B]": 128})
        assert not may_double(pair, ["A", "B"], one, {"U[A,B]": 129})
        # 512 configurations leave room for 64 states of one confounder
        assert may_double(pair, ["A", "B"], {"A": 512, "B": 1}, {"U[A,B]": 32})
        assert not may_double(pair, ["A", "B"], {"A": 512, "B": 1}, {"U[A,B]": 33})
        # 1024 joint states of two confounders that meet
        chain = ADMG.from_string("A <-> B <-> C")
        assert may_double(chain, chain.nodes, one | {"C": 1}, {"U[A,B]": 16, "U[B,C]": 8})
        assert not may_double(chain, chain.nodes, one | {"C": 1}, {"U[A,B]": 17, "U[B,C]": 8})


def test_states_split_in_two_equal_halves_are_the_same_model(monkeypatch, table):
    datasets = validate([table], GRAPH.nodes)
    schema = Schema.infer(datasets, order=GRAPH.nodes)
    dcm = DCM(GRAPH, schema, {"L": 5, "M": 5})
    plan = mdcm.plan(GRAPH)
    data = {"d1": encode(datasets[0], schema)}
    modules = []
    for hnode in plan.hnodes:
        if len(hnode.variables) == 4:
            members = [node for node in dcm.order if node in hnode.variables]
            modules.append(DiscreteModule(dcm, members, fit_rows(dcm, hnode, data)))
    stack = ModuleStack(modules, TrainConfig())
    with torch.no_grad():
        before = stack.row_losses()
    weights = [one.detach() for one in stack.parameters]
    monkeypatch.setattr(growth, "_APART", 0.0)
    stack.parameters = growth._split(stack, weights, [0, 1])
    assert [one.shape[1] for one in stack.parameters[-1:]] == [10]
    with torch.no_grad():
        after = stack.row_losses()
    for one, two in zip(before, after, strict=True):
        assert torch.allclose(one, two, rtol=0, atol=20 * torch.finfo(torch.float32).eps * float(one.abs().max()))


class _Stop(Exception):
    pass


class TestResume:
    def stopped(self, monkeypatch, table, out, after):
        steps = 0

        def between(self, snapshot):
            nonlocal steps
            steps += 1
            if steps == after:
                self.write(*snapshot())
                raise _Stop

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "between", between)
            with pytest.raises(_Stop):
                mdcm.fit(GRAPH, table, out=out)

    # in the training of both, and in that of the one that has grown
    @pytest.mark.parametrize("after", [300, 700])
    def test_killed_at_any_moment_with_the_same_bits(self, monkeypatch, tmp_path, table, grown, after):
        self.stopped(monkeypatch, table, tmp_path, after)
        found = mdcm.fit(GRAPH, table, out=tmp_path, resume=True)
        assert found.dcm.states == grown.dcm.states
        assert same(grown.dcm.state_dict(), found.dcm.state_dict())
        timeless = [
            [{key: value for key, value in record.items() if key != "seconds"} for record in model.history]
            for model in (grown, found)
        ]
        assert timeless[0] == timeless[1]
        assert same(found.dcm.state_dict(), mdcm.load(tmp_path).dcm.state_dict())


def test_a_model_that_has_grown_is_begun_from(table, grown):
    with pytest.warns(UserWarning, match="keep the weights that seed 0 gave them"):
        again = mdcm.fit(GRAPH, table, init=grown, seed=5)
    assert all(record.get("kept") for record in again.history if record["event"] == "trained")
    assert again.dcm.states == grown.dcm.states
    assert same(grown.dcm.state_dict(), again.dcm.state_dict())
