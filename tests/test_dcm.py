"""The model before any training: one noise per confounder, generation under do(), and seeds."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import chi_square, critical_chi_square, read_out
from strategies import admgs

from mdcm import kernels
from mdcm.data import Schema, Variable
from mdcm.dcm import DCM, derived_seed, one_thread
from mdcm.errors import PlanError
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical, from_config

ROWS = torch.arange(100_000)


def untrained(graph, states=3, levels=2, seed=3, strong=True):
    """A model with random weights and, where ``strong``, with effects and priors far from uniform."""
    graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
    schema = Schema([Variable(name, "categorical", tuple(range(levels))) for name in graph.nodes])
    dcm = DCM(graph, schema, {name: states for name, _ in graph.confounders}, seed=seed)
    if strong:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for prior in dcm.priors:
                prior.copy_(torch.randn(len(prior), generator=generator))
            for name in graph.nodes:
                weight = dcm.mechanism(name).out.weight
                weight.copy_(4 * torch.randn(weight.shape, generator=generator))
    return dcm


def counts(values, names, levels=2):
    table = np.zeros((levels,) * len(names))
    np.add.at(table, tuple(values[name].numpy() for name in names), 1)
    return table


def agrees(values, exact, names):
    """Whether the frequencies are those of an exact distribution, at the level of 1e-4."""
    return chi_square(counts(values, names).ravel(), exact.to_numpy()) < critical_chi_square(2 ** len(names) - 1)


class TestConfounders:
    @pytest.mark.parametrize(
        ("graph", "names"),
        [("A <-> B", "AB"), ("L [latent]; L -> A; L -> B; L -> C; L -> D", "ABCD")],
        ids=["two children", "four children"],
    )
    def test_children_read_one_noise(self, graph, names):
        dcm = untrained(graph)
        exact = read_out(dcm).exact(list(names))
        margins = [read_out(dcm).exact(name).to_numpy() for name in names]
        product = np.einsum(",".join("abcd"[: len(names)]), *margins).ravel()
        # a model whose children read noise of their own would have the product
        assert np.abs(product - exact.to_numpy()).sum() / 2 > 0.05
        assert agrees(dcm.generate(ROWS, seed=1), exact, names)

    def test_every_pair_of_children_shares_it_and_nobody_else(self):
        dcm = untrained("L [latent]; L -> A; L -> B; L -> C; C <-> D; E")
        values = dcm.generate(ROWS, seed=2)
        for pair in itertools.combinations("ABCDE", 2):
            exact = read_out(dcm).exact(list(pair))
            assert agrees(values, exact, pair), pair
            apart = np.outer(*(read_out(dcm).exact(name).to_numpy() for name in pair)).ravel()
            distance = np.abs(apart - exact.to_numpy()).sum() / 2
            assert (distance > 0.01) == (set(pair) <= set("ABC") or pair == ("C", "D")), pair

    def test_a_state_is_a_function_of_seed_row_and_confounder(self):
        dcm = untrained("A <-> B; B <-> C", states=5)
        states = dcm.confounder_states(0, ROWS, 7)
        assert torch.equal(dcm.confounder_states(0, ROWS[500:700], 7), states[500:700])
        for other in (dcm.confounder_states(0, ROWS, 8), dcm.confounder_states(0, ROWS + 1, 7)):
            # independent draws agree as often as two draws from the prior do
            share = float((dcm.priors[0].detach().double().softmax(0) ** 2).sum())
            limit = 4 * np.sqrt(share * (1 - share) / len(ROWS))
            assert abs(float((other == states).double().mean()) - share) < limit
        second = dcm.confounder_states(1, ROWS, 7)
        joint = counts({"a": states, "b": second}, "ab", 5).ravel()
        exact = np.outer(*(prior.detach().double().softmax(0).numpy() for prior in dcm.priors)).ravel()
        assert chi_square(joint, exact) < critical_chi_square(24)

    def test_states_follow_the_prior_and_impossible_ones_never_occur(self):
        dcm = untrained("A <-> B", states=4)
        with torch.no_grad():
            dcm.priors[0].copy_(torch.tensor([-200.0, 0.5, -200.0, 1.5]))
        found = torch.bincount(dcm.confounder_states(0, ROWS, 3), minlength=4)
        assert found[0] == found[2] == 0
        assert chi_square(found[[1, 3]], torch.tensor([0.5, 1.5]).softmax(0).double()) < critical_chi_square(1)

    def test_the_largest_uniform_number_still_has_a_state(self, monkeypatch):
        dcm = untrained("A <-> B", states=7)
        monkeypatch.setattr(kernels, "uniform_noise", lambda *address: torch.full((3, 1), 1 - 2.0**-33).double())
        assert dcm.confounder_states(0, torch.arange(3), 0).tolist() == [6, 6, 6]


class TestGenerate:
    GRAPH = "X -> M -> Y; X -> Y; X <-> Y; M <-> Z; Z -> Y"

    def test_without_do_it_is_the_joint(self):
        dcm = untrained(self.GRAPH)
        values = dcm.generate(ROWS, seed=4)
        assert list(values) == list(dcm.order)
        assert all(value.dtype == torch.int64 for value in values.values())
        assert agrees(values, read_out(dcm).exact(list("XMYZ")), "XMYZ")

    @pytest.mark.parametrize("do", [{"X": 1}, {"M": 0}, {"M": 1, "Z": 0}])
    def test_under_do_it_is_the_truncated_product(self, do):
        dcm = untrained(self.GRAPH)
        fixed = {name: torch.full((len(ROWS),), level) for name, level in do.items()}
        values = dcm.generate(ROWS, 5, fixed)
        free = [name for name in "XMYZ" if name not in do]
        assert agrees(values, read_out(dcm).exact(free, do=do), free)
        assert all(bool((values[name] == level).all()) for name, level in do.items())
        # seeing is not doing here, and the test would notice the difference
        seen = read_out(dcm).exact(free, given=do).to_numpy()
        assert np.abs(seen - read_out(dcm).exact(free, do=do).to_numpy()).sum() / 2 > 0.01

    def test_one_value_per_row(self):
        dcm = untrained(self.GRAPH)
        level = torch.arange(4096) % 2
        mixed = dcm.generate(torch.arange(4096), 6, {"X": level})
        for code in (0, 1):
            pure = dcm.generate(torch.arange(4096), 6, {"X": torch.full((4096,), code)})
            assert all(torch.equal(mixed[name][level == code], pure[name][level == code]) for name in "XMYZ")

    def test_setting_what_would_have_been_changes_nothing(self):
        dcm = untrained(self.GRAPH)
        natural = dcm.generate(ROWS[:5000], 7)
        for names in ("X", "M", "XZ", "XMYZ"):
            fixed = {name: natural[name] for name in names}
            again = dcm.generate(ROWS[:5000], 7, fixed)
            assert all(torch.equal(again[name], natural[name]) for name in "XMYZ")

    def test_do_changes_descendants_only(self):
        dcm = untrained(self.GRAPH)
        natural = dcm.generate(ROWS[:5000], 8)
        changed = dcm.generate(ROWS[:5000], 8, {"M": 1 - natural["M"]})
        assert torch.equal(changed["X"], natural["X"])
        assert torch.equal(changed["Z"], natural["Z"])
        assert not torch.equal(changed["Y"], natural["Y"])

    def test_a_mechanism_that_is_overwritten_or_not_needed_is_not_evaluated(self):
        dcm = untrained("A -> X -> Y; X -> W; A <-> Y")
        evaluated = []
        for name in dcm.graph.nodes:
            dcm.mechanism(name).register_forward_hook(lambda *_, name=name: evaluated.append(name))
        rows = torch.arange(10)
        values = dcm.generate(rows, 0, {"X": torch.zeros(10, dtype=torch.int64)}, ["Y"])
        assert evaluated == ["Y"]
        assert set(values) == {"X", "Y"}

    @given(admgs(min_nodes=1, max_nodes=6, max_latents=1, max_bidirected=2), st.data())
    @settings(max_examples=60)
    def test_needed_is_the_ancestors_in_the_mutilated_graph(self, drawn, data):
        graph = drawn.admg()
        nodes = st.sets(st.sampled_from(graph.nodes))
        targets, do = data.draw(nodes), data.draw(nodes)
        dcm = untrained(graph, states=2, strong=False)
        wanted = dcm.needed(targets, do)
        assert wanted == graph.intervene(do).ancestors(targets)
        rows = torch.arange(64)
        whole = dcm.generate(rows, 9, {name: torch.ones(64, dtype=torch.int64) for name in do})
        part = dcm.generate(rows, 9, {name: torch.ones(64, dtype=torch.int64) for name in do}, targets)
        assert set(part) == wanted
        assert list(part) == [name for name in dcm.order if name in wanted]
        assert all(torch.equal(part[name], whole[name]) for name in part)

    @pytest.mark.parametrize("block", [10, 63, 1024])
    def test_rows_do_not_depend_on_their_block(self, block):
        dcm = untrained(self.GRAPH, states=4, levels=3)
        rows = torch.arange(2000, 3025)
        whole = dcm.generate(rows, 10)
        parts = [dcm.generate(part, 10) for part in rows.split(block)]
        for name in dcm.order:
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])

    def test_other_seeds_and_rows_give_other_values(self):
        dcm = untrained("A; B; C; D; E; F; G; H")
        drawn = [dcm.generate(ROWS[:200], 0), dcm.generate(ROWS[:200], 1), dcm.generate(ROWS[:200] + 200, 0)]
        tables = [torch.stack(list(values.values()), 1) for values in drawn]
        for a, b in itertools.combinations(tables, 2):
            # 1,600 pairs of independent coins
            assert 0.3 < float((a == b).double().mean()) < 0.8

    def test_leaves_gradients_and_random_state_alone(self):
        dcm = untrained(self.GRAPH)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        values = dcm.generate(ROWS[:10], 0)
        assert torch.equal(torch.get_rng_state(), before)
        assert not any(value.requires_grad for value in values.values())


class TestSeeds:
    def test_derived_seeds_are_stable_and_in_range(self):
        # written into run directories by way of every weight, so they must never change
        assert derived_seed(0, "initial", 3) == 5326278719056369721
        drawn = {derived_seed(seed, use, number) for seed in range(20) for use in "abc" for number in range(50)}
        assert len(drawn) == 20 * 3 * 50
        assert all(0 <= value < 2**63 for value in drawn)
        # as many below the middle as above it, within 4 standard errors
        assert abs(sum(value < 2**62 for value in drawn) - 1500) < 4 * np.sqrt(3000) / 2

    def test_initial_weights_depend_on_the_seed_alone(self):
        def weights(seed, state):
            torch.manual_seed(state)
            return untrained("A -> B; A <-> B", seed=seed, strong=False).state_dict()

        first = weights(3, 0)
        again = weights(3, 12345)
        other = weights(4, 0)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)

    def test_the_global_random_state_is_left_untouched(self):
        torch.manual_seed(17)
        expected = torch.rand(3)
        torch.manual_seed(17)
        untrained("A -> B; A <-> B", strong=False)
        assert torch.equal(torch.rand(3), expected)

    def test_no_two_mechanisms_start_alike(self):
        dcm = untrained("A; B; C", strong=False)
        weights = [dcm.mechanism(name).out.weight for name in "ABC"]
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))

    def test_a_further_variable_changes_no_other_start(self):
        small, large = untrained("A -> B", strong=False), untrained("A -> B; B -> C", strong=False)
        for name in "AB":
            for a, b in zip(small.mechanism(name).parameters(), large.mechanism(name).parameters(), strict=True):
                assert torch.equal(a, b)


class TestConstruction:
    def test_names_may_hold_any_character(self):
        names = ["a.b", "Ω", "x y", "0"]
        graph = ADMG(names, [("a.b", "Ω")], [("x y", "0")])
        dcm = untrained(graph)
        assert set(dcm.mechanisms) == set(names)
        assert dcm.parents("Ω") == ["a.b"]
        assert set(dcm.generate(torch.arange(3), 0)) == set(names)

    def test_what_a_mechanism_is_told(self):
        seen = {}

        def factory(variable, parents, latents):
            seen[variable.name] = ([parent.name for parent in parents], list(latents))
            return Categorical(variable, parents, latents, hidden=4, layers=1)

        graph = ADMG.from_string("C; B; A; B -> A; C -> A; A <-> B; A <-> C")
        schema = Schema([Variable(name, "categorical", (0, 1)) for name in "CBA"])
        states = dict(zip([name for name, _ in graph.confounders], (2, 5), strict=True))
        dcm = DCM(graph, schema, states, {"A": factory})
        # parents in the order of the nodes, confounders in the order of the graph's
        assert seen == {"A": (["C", "B"], [2, 5])}
        assert dcm.mechanism("A").hidden == 4
        assert dcm.latents == {"C": (1,), "B": (0,), "A": (0, 1)}

    def test_architecture_rebuilds_the_same_model(self):
        dcm = untrained("A -> B; A <-> B", states=5)
        described = dcm.architecture()
        factories = {name: from_config(config) for name, config in described["mechanisms"].items()}
        again = DCM(dcm.graph, dcm.schema, described["states"], factories, seed=99)
        again.load_state_dict(dcm.state_dict())
        drawn, same = dcm.generate(ROWS[:1000], 0), again.generate(ROWS[:1000], 0)
        assert all(torch.equal(drawn[name], same[name]) for name in drawn)

    def test_every_kind_has_a_mechanism(self):
        image = {"shape": (1, 8, 8)}
        kinds = {"A": ("categorical", {"levels": (0, 1)}), "B": ("continuous", {}), "C": ("continuous", {"size": 3})}
        kinds |= {"D": ("implicit", {}), "E": ("image", image), "F": ("image", image)}
        schema = Schema([Variable(name, kind, **more) for name, (kind, more) in kinds.items()])
        graph = ADMG.from_string("A -> B -> C -> D -> E -> F; F <-> A")
        dcm = DCM(graph, schema, {name: 3 for name, _ in graph.confounders})
        chosen = {name: type(mechanism).__name__ for name, mechanism in dcm.mechanisms.items()}
        assert chosen == {
            "A": "Categorical",
            "B": "Flow",
            "C": "Flow",
            "D": "Implicit",
            "E": "RectifiedFlow",
            "F": "ImageGenerator",
        }
        drawn = dcm.generate(torch.arange(5), seed=0)
        assert [tuple(drawn[name].shape) for name in "ABCDEF"] == [(5,), (5,), (5, 3), (5,), (5, 1, 8, 8), (5, 1, 8, 8)]

    def test_a_factory_must_make_a_mechanism(self):
        schema = Schema([Variable("A", "categorical", (0, 1))])
        with pytest.raises(PlanError, match="the factory of 'A' returns a Linear, not a Mechanism"):
            DCM(ADMG.from_string("A"), schema, {}, {"A": lambda *_: torch.nn.Linear(1, 1)})

    def test_one_thread_is_given_back_after_an_error_too(self):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 2
            with pytest.raises(ZeroDivisionError), one_thread():
                1 / 0  # noqa: B018
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)


def test_the_table_of_a_mechanism_is_what_it_draws_from():
    # log_prob, the table of all states and the race must be one distribution
    dcm = untrained("A -> B; A <-> B", states=2, levels=3)
    mechanism = dcm.mechanism("B")
    cells = pd.DataFrame([(a, u) for a in range(3) for u in range(2)], columns=["A", "u"])
    parents = {"A": torch.from_numpy(cells["A"].to_numpy().copy())}
    state = torch.from_numpy(cells["u"].to_numpy().copy())
    with torch.no_grad():
        table = mechanism.table({"A": torch.arange(3)}, 3).reshape(6, 3)
        for code in range(3):
            each = mechanism.log_prob(parents, [state], torch.full((6,), code))
            torch.testing.assert_close(each, table[:, code], rtol=0, atol=1e-5)
        for cell in range(6):
            n = 20_000
            row = torch.full((n,), cell)
            noise = kernels.gumbel_noise(21, torch.arange(n), cell, 3)
            drawn = mechanism({"A": parents["A"][row]}, [state[row]], noise)
            found = torch.bincount(drawn, minlength=3)
            assert chi_square(found, table[cell].double().exp()) < critical_chi_square(2)
