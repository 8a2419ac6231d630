"""Tables in the place of networks: expectation-maximisation, the choice, what is stored, and what is told of a fit."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from kill_sweep import same
from learning import maximum_likelihood, read_out
from test_train_stacks import LEVELS, PAIRS, made

import mdcm
from mdcm.data import Schema, Variable, encode, validate
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical
from mdcm.scm import DiscreteSCM, random_discrete
from mdcm.storage.checkpoints import Checkpoints
from mdcm.training.config import TrainConfig
from mdcm.training.expectation import ComponentTables, TableStack
from mdcm.training.fit_warnings import poor_fit_warnings
from mdcm.training.rows import fit_rows
from mdcm.training.stacking import DiscreteModule, ModuleStack
from mdcm.training.table_fitting import TableFitter, frequencies


def modules_of(graph, table, states, levels):
    """Modules of all h-nodes of a plan, and the model they belong to."""
    datasets = validate([table], graph.nodes)
    variables = {name: Variable(name, "categorical", tuple(range(levels))) for name in graph.nodes}
    schema = Schema.infer(datasets, variables, order=graph.nodes)
    dcm = DCM(graph, schema, {name: states for name, _ in graph.confounders})
    data = {"d1": encode(datasets[0], schema)}
    return dcm, [
        DiscreteModule(dcm, [node for node in dcm.order if node in hnode.variables], fit_rows(dcm, hnode, data))
        for hnode in mdcm.plan(graph).hnodes
    ]


def random_start(module, seed):
    rng = np.random.default_rng(seed)
    tables = []
    for mechanism in module.mechanisms:
        combinations = math.prod(parent.num_levels for parent in mechanism.parents)
        drawn = rng.dirichlet(np.ones(mechanism.levels), size=(combinations, *mechanism.latents))
        tables.append(torch.from_numpy(np.moveaxis(drawn, -1, 1).copy()))
    priors = tuple(torch.full((len(prior),), 1 / len(prior), dtype=torch.float64) for prior in module.priors)
    return ComponentTables(tuple(tables), priors)


def fitted(modules, seed=0, strength=1e-9):
    starts = [random_start(module, seed) for module in modules]
    return TableStack(modules, [None] * len(modules), starts, [one.tables for one in starts], [strength] * len(modules))


def log_likelihood(scm, table):
    joint = scm.exact(list(scm.graph.nodes)).to_numpy().reshape([len(scm.levels[n]) for n in scm.graph.nodes])
    return float(np.log(joint[tuple(table[name].to_numpy() for name in scm.graph.nodes)]).sum())


BOW = ADMG.from_string("X -> Z -> Y; X <-> Y")
CHAIN = ADMG.from_string("A -> B -> C; A <-> B; B <-> C")


class TestCalibration:
    """Margins are those of the rows, and what the states of a confounder do to a variable stays."""

    def calibrated(self, graph, levels=3, states=4, pseudo=1e-9, rows=400):
        table = random_discrete(graph, levels=levels, seed=7).sample(rows, seed=7)
        _, modules = modules_of(graph, table, states, levels)
        (module,) = [one for one in modules if any(one.latents)]
        tables = fitted([module], seed=4, strength=pseudo)
        before = tables.position
        tables.calibrate()
        return tables, before

    @pytest.mark.parametrize(
        "text",
        ["X -> Z -> Y; X <-> Y", "A -> B -> C; A <-> B; B <-> C", "A -> C; B -> C; L [latent]; L -> A; L -> B; L -> C"],
        ids=["front door", "chain", "two parents"],
    )
    def test_expected_margins_are_those_that_are_predicted(self, text):
        tables, before = self.calibrated(ADMG.from_string(text))

        def errors(position):
            _, counts = tables._counts(position)
            found = []
            for table, expected in zip(position, counts[: len(tables.levels)], strict=False):
                states = tuple(range(3, table.dim()))
                found.append(float((expected.sum(2, keepdim=True) * table - expected).sum(states).abs().max()))
            return found

        # in counts, of 400 rows: a tenth of a standard error of a probability of a half
        assert max(errors(tables.position)) < 1 < 5 < max(errors(before))

    @pytest.mark.parametrize("pseudo", [1e-9, 10.0])
    def test_ratios_between_states_are_as_before(self, pseudo):
        tables, before = self.calibrated(CHAIN, pseudo=pseudo)
        for old, new in zip(before[:3], tables.position[:3], strict=True):
            change = (new.log() - old.log()).flatten(3)
            # a factor of level and parents, and one that makes each column a distribution
            change = change - change[..., :1]
            torch.testing.assert_close(change, change[:, :, :1].expand_as(change), rtol=0, atol=1e-9)

    def test_held_back_for_ever_it_keeps_what_parents_do(self):
        tables, before = self.calibrated(CHAIN, pseudo=math.inf)
        for old, new in zip(before[1:3], tables.position[1:3], strict=True):
            change = (new.log() - old.log()).flatten(3)
            change = change - change[:, :, :1]
            torch.testing.assert_close(change, change[:, :1, :, :1].expand_as(change), rtol=0, atol=1e-9)
        _, counts = tables._counts(tables.position)
        expected = counts[1]
        predicted = expected.sum(2, keepdim=True) * tables.position[1]
        torch.testing.assert_close(predicted.sum((1, 3, 4)), expected.sum((1, 3, 4)), rtol=0, atol=0.1)

    def test_together_as_alone_whatever_the_padding(self):
        _, modules, _ = made(PAIRS, LEVELS)
        pairs = [module for module in modules if len(module.members) == 2]
        together = fitted(pairs, strength=1.0).calibrate()
        for module, stacked in zip(pairs, together, strict=True):
            (alone,) = fitted([module], strength=1.0).calibrate()
            for one, two in zip((*stacked.tables, *stacked.priors), (*alone.tables, *alone.priors), strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


class TestExpectation:
    @pytest.mark.parametrize("graph", [BOW, CHAIN], ids=["front door", "chain"])
    def test_the_maximum_is_that_of_plain_steps_taken_for_long(self, graph):
        table = random_discrete(graph, levels=3, seed=3).sample(2_000, seed=3)
        dcm, modules = modules_of(graph, table, 3, 3)
        for module in modules:
            fitted([module], seed=1).run()[0].store(module)
        ours = log_likelihood(read_out(dcm), table)
        plain = max(
            log_likelihood(maximum_likelihood(graph, table, 3, seed=seed, tolerance=1e-7), table) for seed in (0, 1)
        )
        # local optima may differ, by less than rows can tell
        assert ours > plain - 1.0

    def test_one_step_is_the_share_of_expected_counts(self):
        table = random_discrete(BOW, levels=2, seed=1).sample(200, seed=1)
        _, modules = modules_of(BOW, table, 2, 2)
        (module,) = [one for one in modules if len(one.members) == 2]
        tables = fitted([module], seed=2, strength=0.7)
        start = tables.position
        _, after = tables._step(start)
        x, y, prior = (one[0].numpy() for one in start)
        expected = [np.zeros_like(one) for one in (x, y, prior)]
        for a, b, c in table[["X", "Z", "Y"]].to_numpy():
            posterior = prior * x[0, a] * y[b, c]
            posterior = posterior / posterior.sum()
            for u in range(2):
                expected[0][0, a, u] += posterior[u]
                expected[1][b, c, u] += posterior[u]
                expected[2][u] += posterior[u]
        for own, drawn, counts in zip((x, y), after[:2], expected[:2], strict=True):
            wanted = counts + 0.7 * own
            np.testing.assert_allclose(drawn[0].numpy(), wanted / wanted.sum(1, keepdims=True), rtol=1e-9)
        np.testing.assert_allclose(after[2][0].numpy(), expected[2] / 200, rtol=1e-9)

    def test_no_cycle_lowers_what_is_maximised(self, monkeypatch):
        table = random_discrete(CHAIN, levels=3, seed=5).sample(500, seed=5)
        _, (module,) = modules_of(CHAIN, table, 4, 3)
        tables = fitted([module], seed=3, strength=0.5)
        values = []
        plain = TableStack._step
        monkeypatch.setattr(TableStack, "_step", lambda self, at: values.append(plain(self, at)[0]) or plain(self, at))
        tables.run()
        cycles = torch.cat(values[::3])
        assert len(cycles) > 5
        # sums of some thousand nats
        assert float(cycles.diff().min()) > -1e-9 * float(cycles.abs().max())

    def test_together_as_alone_whatever_the_padding(self):
        _, modules, _ = made(PAIRS, LEVELS)
        pairs = [module for module in modules if len(module.members) == 2]
        assert len({module.sizes for module in pairs}) == 3
        together = fitted(pairs, strength=0.5).run()
        for module, stacked in zip(pairs, together, strict=True):
            (alone,) = fitted([module], strength=0.5).run()
            for one, two in zip((*stacked.tables, *stacked.priors), (*alone.tables, *alone.priors), strict=True):
                # sums in another order, over some hundred steps
                torch.testing.assert_close(one, two, rtol=0, atol=1e-6)

    def test_rows_are_cut_into_chunks_without_a_trace(self, monkeypatch):
        _, modules, _ = made(PAIRS, LEVELS)
        pairs = [module for module in modules if len(module.members) == 2]
        whole = fitted(pairs)._step(fitted(pairs).position)
        monkeypatch.setattr("mdcm.training.expectation._CHUNK", 60)
        parts = fitted(pairs)
        assert parts.parts[0][4] < parts.parts[0][2]
        for one, two in zip(whole[1], parts._step(parts.position)[1], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def mechanism(latents=(3,), table=None):
    levels = Variable("Y", "categorical", ("a", "b"))
    parents = [Variable("P", "categorical", (0, 1)), Variable("Q", "categorical", (0, 1, 2))]
    made = Categorical(levels, parents, latents)
    if table is not None:
        made.set_table(table)
    return made


class TestMechanism:
    @pytest.mark.parametrize("latents", [(), (3,), (2, 40, 8)])
    def test_every_way_to_ask_gives_the_table(self, latents):
        torch.manual_seed(0)
        sizes = (2, 3, *latents)
        wanted = torch.randn(*sizes, 2).mul(8).log_softmax(-1)
        own = mechanism(latents, wanted.flatten(0, -2))
        rows = 50
        parents = {"P": torch.randint(2, (rows,)), "Q": torch.randint(3, (rows,))}
        states = [torch.randint(size, (rows,)) for size in latents]
        value = torch.randint(2, (rows,))
        right = wanted[(parents["P"], parents["Q"], *states)]
        with torch.no_grad():
            torch.testing.assert_close(own.logits(parents, states, rows).log_softmax(-1), right, rtol=0, atol=1e-5)
            torch.testing.assert_close(own.table(parents, rows), wanted[parents["P"], parents["Q"]], rtol=0, atol=1e-5)
            code = value[:, None]
            torch.testing.assert_close(
                own.log_prob(parents, states, value), right.gather(-1, code)[:, 0], rtol=0, atol=1e-5
            )
            at = own.log_table(parents, value)[(torch.arange(rows), *states)]
            torch.testing.assert_close(at, right.gather(-1, code)[:, 0], rtol=0, atol=1e-5)
            hot = {name: torch.nn.functional.one_hot(code, 2 + (name == "Q")).float() for name, code in parents.items()}
            relaxed_states = [
                torch.nn.functional.one_hot(state, size).float() for state, size in zip(states, latents, strict=True)
            ]
            noise = torch.zeros(rows, 2)
            assert torch.equal(own.relaxed(hot, relaxed_states, noise, 1.0).argmax(1), right.argmax(1))

    def test_weights_with_and_without_a_table_are_read_in_either(self):
        full, plain = mechanism(table=torch.randn(18, 2).log_softmax(-1)), mechanism()
        networks = {key: one.clone() for key, one in plain.state_dict().items()}
        plain.load_state_dict(full.state_dict())
        assert torch.equal(plain.offsets, full.offsets)
        full.load_state_dict(networks)
        assert full.offsets.shape == (0, 2)
        assert full.config() == {"type": "categorical", "hidden": 32, "layers": 2}
        assert plain.config()["table"] is True
        with pytest.raises(RuntimeError, match="offsets"):
            plain.load_state_dict({**networks, "offsets": torch.zeros(17, 2)})

    def test_what_is_prepared_for_training_is_a_network(self):
        full = mechanism(table=torch.zeros(18, 2))
        full.prepare(
            {"P": torch.zeros(4, dtype=torch.int64), "Q": torch.zeros(4, dtype=torch.int64)}, torch.zeros(4).long()
        )
        assert full.offsets.shape == (0, 2)


def noisy_copies(noise, levels=3, states=3):
    """A confounded chain of functions that err in a share of the rows."""
    rng = np.random.default_rng(7)

    def table(*shape):
        return np.eye(levels)[rng.integers(levels, size=shape)] * (1 - noise) + noise / levels

    tables = {"A": table(states), "B": table(levels, states, states), "C": table(levels, states)}
    return DiscreteSCM(CHAIN, tables, {name: rng.dirichlet(np.full(states, 3.0)) for name, _ in CHAIN.confounders})


def binary_table(probabilities):
    return DiscreteSCM(ADMG.from_string("A -> Y; B -> Y"), {"A": [0.5, 0.5], "B": [0.9, 0.1], "Y": probabilities}, {})


class TestLargeTables:
    """Of so many rows nothing but their frequencies, or the model's own maximum of likelihood, is good enough."""

    @pytest.mark.parametrize("noise", [0.02, 0.001], ids=["two percent", "a thousandth"])
    def test_a_confounded_chain_is_nearer_to_its_maximum_than_the_truth_is(self, noise):
        truth = noisy_copies(noise)
        table = truth.sample(100_000, seed=1)
        learned = read_out(mdcm.fit(CHAIN, table).dcm)
        best = maximum_likelihood(CHAIN, table, 3, seed=0, tolerance=1e-7)
        ours, right, most = (log_likelihood(one, table) for one in (learned, truth, best))
        # half of what is free, by Wilks: the networks alone are a few hundred nats below
        assert 0 < most - right < 26
        assert most - ours < (most - right) / 2

    @pytest.mark.parametrize(
        "probabilities", [[[[1, 0], [0, 1]], [[0, 1], [1, 0]]], [[[0.999, 0.001], [0.5, 0.5]], [[0.01, 0.99], [0, 1]]]]
    )
    def test_an_unconfounded_table_has_its_frequencies(self, probabilities):
        table = binary_table(probabilities).sample(50_000, seed=2)
        learned = read_out(mdcm.fit("A -> Y; B -> Y", table).dcm).tables["Y"]
        for a, b in itertools.product(range(2), repeat=2):
            own = table.query("A == @a and B == @b")["Y"]
            # half a pseudo-count, or, where a network is preferred, less than rows can tell: a standard error's fourth
            error = math.sqrt(max(own.mean() * (1 - own.mean()), 1 / len(own)) / len(own))
            assert learned[a, b, 1] == pytest.approx(own.mean(), abs=error / 4 + 1 / len(own))


class TestFewerStates:
    """A confounder of fewer states than the fit begins with leaves less to chance, which is found where rows tell."""

    @pytest.mark.parametrize(
        ("text", "levels", "states"),
        [
            ("X -> Z -> Y; X <-> Y", 4, 2),
            ("L [latent]; L -> A; L -> B; L -> C; A -> C", 4, 2),
            ("A -> B -> C; A <-> B; B <-> C", 3, 2),
            ("X -> Z -> Y; X <-> Y", 4, 8),
        ],
        ids=["front door", "three of one cause", "chain", "as many as there are"],
    )
    def test_a_fit_is_as_near_the_truth_as_one_that_knows_their_number(self, text, levels, states):
        graph = ADMG.from_string(text)
        truth = random_discrete(graph, levels=levels, latent_levels=states, seed=1, concentration=0.5, smoothing=0.02)
        table = truth.sample(20_000, seed=1)
        nodes = list(graph.nodes)
        best = max(
            (maximum_likelihood(graph, table, states, levels=levels, seed=seed) for seed in range(4)),
            key=lambda scm: log_likelihood(scm, table),
        )
        model = mdcm.fit(graph, table)
        right, ours, known = (scm.exact(nodes).to_numpy() for scm in (truth, read_out(model.dcm), best))
        distances = [np.abs(right - other).sum() / 2 for other in (ours, known)]
        assert distances[0] < 1.1 * distances[1]


def test_frequencies_are_those_of_the_rows():
    table = random_discrete(CHAIN, levels=2, seed=4).sample(300, seed=4)
    _, (module,) = modules_of(CHAIN, table, 2, 2)
    (part,) = module.parts
    (share,), number = module.weights(None)
    logs, free = frequencies(module, part.fit, share * number)
    counts = table.value_counts()
    # the plain product of conditionals of all earlier variables is the frequency of the row
    inverse = dict(zip(map(tuple, table[list("ABC")].to_numpy()), part.inverse, strict=True))
    for row, place in inverse.items():
        assert math.exp(logs[place]) == pytest.approx(counts[row] / 300)
    assert free == 7


class TestWhatIsTold:
    # as many levels as states would have to be: with two states, three copies of one cause cannot agree
    def copies(self, text, rows=2_000, seed=0):
        graph = ADMG.from_string(text)
        rng = np.random.default_rng(seed)
        table = np.eye(4) * 0.9 + 0.025
        tables = {}
        for node in graph.nodes:
            hidden = any(node in children for _, children in graph.confounders)
            parents = len(graph.parents(node))
            tables[node] = (
                np.broadcast_to(table, (*(4,) * parents, 4, 4)) if hidden else np.full((*(4,) * parents, 4), 0.25)
            )
        truth = DiscreteSCM(graph, tables, {name: rng.dirichlet(np.full(4, 20.0)) for name, _ in graph.confounders})
        return graph, truth.sample(rows, seed=seed)

    @pytest.mark.parametrize(
        "text",
        ["L [latent]; L -> A; L -> B; L -> C", "Z; Z -> A; A <-> B", "A <-> B; B -> C"],
        ids=["three", "pair", "late"],
    )
    def test_too_few_states_are_told_once_and_recorded(self, text):
        graph, table = self.copies(text)
        with pytest.warns(UserWarning, match=r"explain held-out rows better than the fit does.*\{A, B") as caught:
            model = mdcm.fit(graph, table, config=TrainConfig(confounder_states=2))
        assert len(caught) == 1
        (record,) = [one for one in model.history if one["event"] == "trained" and len(one["hnode"]) > 1]
        mean, error = record["behind_frequencies"]
        assert mean > 2 * error > 0
        assert len(poor_fit_warnings(model.history)) == 1

    def test_a_good_fit_says_nothing(self):
        graph, table = self.copies("L [latent]; L -> A; L -> B; L -> C; A -> D")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = mdcm.fit(graph, table)
        assert all(len(one["behind_frequencies"]) == 2 for one in model.history if one["event"] == "trained")

    def test_a_fit_that_was_cut_short_is_what_was_asked_for(self):
        graph, table = self.copies("A <-> B", rows=1_000)
        model = mdcm.fit(graph, table, config=TrainConfig(max_steps=5))
        assert poor_fit_warnings(model.history) == []

    def test_of_many_h_nodes_chance_alone_is_not_told(self):
        def record(name, mean):
            return {"event": "trained", "hnode": [name], "behind_frequencies": [mean, 0.01], "heldout_rows": 1000}

        # 2.5 standard errors: told of one, not of one among a hundred
        assert len(poor_fit_warnings([record("A", 0.025)])) == 1
        assert poor_fit_warnings([record("A", 0.025), *(record(f"V{i}", 0.0) for i in range(99))]) == []
        (text,) = poor_fit_warnings([record(f"V{i}", 0.1 + i / 100) for i in range(8)])
        assert "{V7} by 0.17 ± 0.01" in text
        assert "and 3 more" in text
        # sharply measured, and still less than a likelihood ratio of e
        assert poor_fit_warnings([{**record("A", 0.0005), "behind_frequencies": [0.0005, 1e-6]}]) == []


class TestSeedOfWeightsThatAreKept:
    table = random_discrete(BOW, levels=2, seed=0).sample(300, seed=0)
    config = TrainConfig(max_steps=5)

    @pytest.fixture
    def first(self):
        return mdcm.fit(BOW, self.table, config=self.config)

    def test_another_seed_is_told_to_have_no_effect(self, first):
        with pytest.warns(UserWarning, match=r"init: .*\{X, Y\}.* keep the weights that seed 0 gave them.*seed=3"):
            again = mdcm.fit(BOW, self.table, config=self.config, init=first, seed=3)
        assert same(first.dcm.state_dict(), again.dcm.state_dict())

    def test_the_same_seed_needs_no_word(self, first):
        mdcm.fit(BOW, self.table, config=self.config, init=first)

    def test_only_what_is_kept_is_named(self, first):
        changed = self.table.assign(Y=1 - self.table["Y"])
        with pytest.warns(UserWarning, match=r"init: \{Z\} keep") as caught:
            mdcm.fit(BOW, changed, config=self.config, init=first, seed=1)
        assert "Y" not in str(caught[0].message)

    def test_weights_of_which_none_is_kept_are_new(self, first):
        other = random_discrete(BOW, levels=2, seed=9).sample(250, seed=9)
        mdcm.fit(BOW, other, config=self.config, init=first, seed=1)


class _Stop(Exception):
    pass


# tables for some h-nodes, and networks that are preferred for others, trained in one bank
MIXED = ADMG.from_string("X -> Z -> Y; X <-> Y; W -> V; W <-> V")


@pytest.fixture(scope="module")
def mixed_rows():
    return random_discrete(MIXED, levels=4, seed=3).sample(400, seed=3)


@pytest.fixture(scope="module")
def mixed(mixed_rows):
    return mdcm.fit(MIXED, mixed_rows)


class TestResumeAndReload:
    # in the training of networks, and in that of those which stay networks while others have their tables
    @pytest.mark.parametrize("after", [200, 500, 900])
    def test_killed_at_any_moment_with_the_same_bits(self, monkeypatch, tmp_path, mixed_rows, mixed, after):
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
                mdcm.fit(MIXED, mixed_rows, out=tmp_path)
        found = mdcm.fit(MIXED, mixed_rows, out=tmp_path, resume=True)
        assert same(mixed.dcm.state_dict(), found.dcm.state_dict())
        assert same(found.dcm.state_dict(), mdcm.load(tmp_path).dcm.state_dict())

    def test_some_have_tables_and_some_have_not(self, mixed):
        kinds = {record["pseudo_counts"] is None for record in mixed.history if record["event"] == "trained"}
        assert kinds == {True, False}

    def test_a_network_that_is_stopped_early_has_the_margins_of_its_rows(self, mixed_rows, mixed):
        (record,) = [one for one in mixed.history if one["event"] == "trained" and one["pseudo_counts"] is None]
        assert record["steps"] < 400
        learned = read_out(mixed.dcm)
        for name in record["hnode"]:
            shares = mixed_rows[name].value_counts(normalize=True).sort_index()
            # a fifth of the largest standard error
            np.testing.assert_allclose(learned.exact([name]).to_numpy(), shares.to_numpy(), rtol=0, atol=0.005)

    def test_alone_as_in_a_stack(self, mixed_rows, mixed):
        alone = mdcm.fit(MIXED, mixed_rows, config=TrainConfig(batch_modules=False))
        names = list(MIXED.nodes)
        first, second = (read_out(model.dcm).exact(names).to_numpy() for model in (mixed, alone))
        # sums in another order, over some hundred steps
        assert np.abs(first - second).sum() / 2 < 1e-3


def test_nothing_held_out_leaves_networks():
    table = random_discrete(BOW, levels=2, seed=0).sample(150, seed=0)
    model = mdcm.fit(BOW, table)
    assert not any(len(mechanism.offsets) for mechanism in model.dcm.mechanisms.values())


def test_a_table_too_large_leaves_a_network(monkeypatch):
    monkeypatch.setattr("mdcm.training.stacking._MOST_ENTRIES", 3)
    table = random_discrete(BOW, levels=2, seed=0).sample(400, seed=0)
    _, modules = modules_of(BOW, table, 2, 2)
    assert not any(module.has_tables for module in modules)
    masks = [torch.arange(400) < 40 for _ in modules]
    weights = [parameter.detach() for parameter in ModuleStack(modules[:1], TrainConfig()).parameters]
    assert TableFitter(modules[:1], masks[:1], [0], lambda given: given).choose(weights) == [None]


class TestAColumnOfOneValue:
    """It is kept with its level, and what does not need another one is answered."""

    @pytest.mark.parametrize(
        "text", ["X -> Y; X -> S; S -> Y", "X -> S; S <-> Y; X -> Y", "S -> X; X -> Y; S -> Y"],
        ids=["between", "confounded", "before"],
    )  # fmt: skip
    @pytest.mark.parametrize("value", ["only", 7])
    def test_answers_are_those_without_it(self, text, value):
        table = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=1).sample(2_000, seed=1)
        with pytest.warns(UserWarning, match="column 'S' is .* in every row"):
            model = mdcm.fit(text, table.assign(S=value))
        own = table.loc[table["X"] == 1, "Y"]
        answer = model.query("P(Y=1 | do(X=1))", 20_000)
        error = math.hypot(answer.stderr, own.std() / math.sqrt(len(own)) / 4)
        assert answer.value == pytest.approx(own.mean(), abs=4 * error)
        assert set(model.draw_samples(10, do={"X": 1}).table["S"]) == {value}
        with pytest.raises(mdcm.QueryError, match="no level"):
            model.query("P(Y | do(S=8))")
