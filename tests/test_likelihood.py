"""Exact likelihoods of c-components: against enumeration of all states, and the laws of merging rows."""

import dataclasses
import itertools
import math

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import c_factor_at, read_out
from strategies import admgs

from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.training.objectives.likelihood import (
    ComponentLikelihood,
    ComponentRows,
    contract,
    elimination_order,
    largest_clique,
)

EPS32 = torch.finfo(torch.float32).eps


@st.composite
def scope_lists(draw, most=6):
    """Scopes of the factors of a c-component, whose union is 0, 1, ...: any sharing, connected or not."""
    indices = draw(st.integers(1, most))
    scopes = draw(
        st.lists(st.sets(st.integers(0, indices - 1), max_size=3).map(sorted).map(tuple), min_size=1, max_size=6)
    )
    missing = set(range(indices)) - {index for scope in scopes for index in scope}
    # a latent of one variable only
    return [*scopes, *((index,) for index in sorted(missing))]


def neighbourhood(scopes):
    graph = nx.Graph()
    for scope in scopes:
        graph.add_nodes_from(scope)
        graph.add_edges_from(itertools.combinations(scope, 2))
    return graph


def fill_in(graph, node):
    return sum(not graph.has_edge(*pair) for pair in itertools.combinations(graph[node], 2))


def component(graph, states, *, members=None, seed=0, levels=2, dtype=torch.float64):
    """Likelihood of one c-component of an untrained model with priors that are not uniform."""
    graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
    sizes = {name: levels if isinstance(levels, int) else levels[name] for name in graph.nodes}
    schema = Schema([Variable(name, "categorical", tuple(range(size))) for name, size in sizes.items()])
    dcm = DCM(
        graph, schema, states if isinstance(states, dict) else {n: states for n, _ in graph.confounders}, seed=seed
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for prior in dcm.priors:
            prior.copy_(torch.randn(len(prior)))
        for parameter in dcm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    dcm.to(dtype)
    members = [node for node in dcm.order if node in (members or graph.nodes)]
    used = sorted({index for name in members for index in dcm.latents[name]})
    latents = {name: [used.index(index) for index in dcm.latents[name]] for name in members}
    likelihood = ComponentLikelihood(
        {name: dcm.mechanism(name) for name in members}, latents, [dcm.priors[index] for index in used]
    )
    return likelihood, dcm


def all_cells(dcm, names):
    sizes = [dcm.schema[name].num_levels for name in names]
    cells = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), 1)
    return pd.DataFrame(cells, columns=list(names))


def random_rows(dcm, count, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.integers(0, dcm.schema[name].num_levels, count) for name in dcm.graph.nodes})


def tensors(table):
    return {name: torch.from_numpy(table[name].to_numpy().copy()) for name in table}


def gradients(likelihood, loss):
    parameters = list(likelihood.parameters())
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def members_and_parents(likelihood):
    parents = {parent.name for mechanism in likelihood.mechanisms.values() for parent in mechanism.parents}
    return sorted({*likelihood.mechanisms, *parents})


class TestContract:
    @staticmethod
    def random_factors(scopes, sizes, rows, seed):
        generator = torch.Generator().manual_seed(seed)
        factors = [
            (scope, torch.rand(rows, *(sizes[i] for i in scope), generator=generator, dtype=torch.float64))
            for scope in scopes
        ]
        priors = [torch.rand(size, generator=generator, dtype=torch.float64) for size in sizes]
        return factors, [prior / prior.sum() for prior in priors]

    @given(scope_lists(), st.lists(st.integers(1, 4), min_size=6, max_size=6), st.integers(1, 3), st.integers(0, 99))
    @settings(max_examples=150)
    def test_equals_the_sum_over_all_joint_states(self, scopes, sizes, rows, seed):
        used = 1 + max(index for scope in scopes for index in scope)
        factors, priors = self.random_factors(scopes, sizes[:used], rows, seed)
        expected = torch.zeros(rows, dtype=torch.float64)
        for states in itertools.product(*(range(size) for size in sizes[:used])):
            weight = math.prod(float(p[s]) for p, s in zip(priors, states, strict=True))
            term = torch.full((rows,), weight, dtype=torch.float64)
            for scope, values in factors:
                term = term * values[(slice(None), *(states[index] for index in scope))]
            expected += term
        # the order is free: any permutation gives the same sum
        for order in (elimination_order(scopes), tuple(np.random.default_rng(seed).permutation(used).tolist())):
            drawn = contract(factors, priors, order)
            torch.testing.assert_close(drawn, expected.log(), rtol=0, atol=1e-12)

    @given(scope_lists(most=4), st.integers(0, 99))
    @settings(max_examples=25)
    def test_gradients_in_factors_and_priors(self, scopes, seed):
        used = 1 + max(index for scope in scopes for index in scope)
        factors, priors = self.random_factors(scopes, [2] * used, 2, seed)
        values = [value.requires_grad_() for _, value in factors]
        weights = [prior.requires_grad_() for prior in priors]

        def function(*arguments):
            given_factors = list(zip(scopes, arguments[: len(values)], strict=True))
            return contract(given_factors, arguments[len(values) :], elimination_order(scopes))

        assert torch.autograd.gradcheck(function, (*values, *weights))

    def test_a_long_chain_does_not_underflow(self):
        # 40 steps of 1e-6 each are far below the smallest float32
        scopes = [(0,), *((i, i + 1) for i in range(39)), (39,)]
        factors = [(scope, torch.full((2, *(3,) * len(scope)), 1e-6)) for scope in scopes]
        drawn = contract(factors, [torch.full((3,), 1 / 3)] * 40, elimination_order(scopes))
        torch.testing.assert_close(drawn, torch.full((2,), 41 * math.log(1e-6)), rtol=40 * EPS32, atol=0)

    def test_many_confounders_of_one_state(self):
        # more indices at once than there are letters before the one of the rows
        scopes = [tuple(range(20)), tuple(range(10, 20))]
        factors = [(scope, torch.full((3, *(1,) * len(scope)), 0.5)) for scope in scopes]
        drawn = contract(factors, [torch.ones(1)] * 20, elimination_order(scopes))
        torch.testing.assert_close(drawn, torch.full((3,), math.log(0.25)))


class TestEliminationOrder:
    @given(scope_lists())
    @settings(max_examples=200)
    def test_every_step_takes_an_index_of_least_fill(self, scopes):
        order = elimination_order(scopes)
        graph = neighbourhood(scopes)
        assert sorted(order) == sorted(graph)
        widest = max((len(scope) for scope in scopes), default=0)
        for index in order:
            assert fill_in(graph, index) == min(fill_in(graph, other) for other in graph)
            around = list(graph[index])
            widest = max(widest, len(around) + 1)
            graph.remove_node(index)
            graph.add_edges_from(itertools.combinations(around, 2))
        assert largest_clique(scopes) == widest

    @given(scope_lists(), st.randoms(use_true_random=False))
    def test_is_a_function_of_the_scopes_as_a_set(self, scopes, random):
        shuffled = [tuple(random.sample(scope, len(scope))) for scope in scopes]
        random.shuffle(shuffled)
        assert elimination_order(shuffled) == elimination_order(scopes)
        assert largest_clique(shuffled) == largest_clique(scopes)

    @pytest.mark.parametrize(
        ("scopes", "order", "clique"),
        [
            ([], (), 0),
            ([(), ()], (), 0),
            ([(0,)], (0,), 1),
            ([(0,), (0, 1), (1, 2), (2, 3), (3,)], (0, 1, 2, 3), 2),
            ([(0, 1), (0, 2), (0, 3), (0, 4)], (1, 2, 3, 0, 4), 2),
            ([(0, 1), (1, 2), (2, 3), (0, 3)], (0, 1, 2, 3), 3),
            ([(0, 1, 2), (2, 3, 4), (5,)], (5, 0, 1, 2, 3, 4), 3),
            ([pair for pair in itertools.combinations(range(5), 2)], (0, 1, 2, 3, 4), 5),
        ],
        ids=["nothing", "no confounder", "one", "chain", "star", "cycle", "two triangles", "complete"],
    )
    def test_known_graphs(self, scopes, order, clique):
        assert elimination_order(scopes) == order
        assert largest_clique(scopes) == clique

    def test_a_grid_of_three_by_three_has_width_three(self):
        grid = [((i, j), (i + di, j + dj)) for i in range(3) for j in range(3) for di, dj in ((0, 1), (1, 0))]
        scopes = [(3 * a + b, 3 * c + d) for (a, b), (c, d) in grid if c < 3 and d < 3]
        assert largest_clique(scopes) == 4

    @given(st.integers(2, 8), st.integers(0, 99))
    def test_trees_never_need_more_than_an_edge(self, size, seed):
        edges = list(nx.random_labeled_tree(size, seed=seed).edges)
        assert largest_clique(edges) == 2


class TestRows:
    GRAPH = "E -> A; A -> B; E -> B; B -> C; A <-> B; B <-> C; F -> C"

    @pytest.mark.parametrize("weighted", [False, True])
    def test_merged_rows_have_the_likelihood_of_the_rows_they_stand_for(self, weighted):
        likelihood, dcm = component(self.GRAPH, 3, members=["A", "B", "C"], levels=3)
        table = random_rows(dcm, 400)
        weight = torch.from_numpy(np.random.default_rng(1).uniform(0.1, 5, 400)) if weighted else None
        merged = ComponentRows.build(likelihood.mechanisms, tensors(table), weight)
        apart = ComponentRows.build(likelihood.mechanisms, tensors(table), weight, share=False)
        names = members_and_parents(likelihood)
        distinct = table[names].drop_duplicates()
        assert len(merged) == len(distinct) < len(apart) == len(table)
        assert merged.rows == apart.rows == 400
        assert all(merged.members[name].configs < len(merged) for name in merged.members)
        each = dict(zip(map(tuple, table[names].to_numpy().tolist()), likelihood(apart).tolist(), strict=True))
        shares = (np.ones(400) if weight is None else weight.numpy()) / (400 if weight is None else float(weight.sum()))
        expected = pd.Series(shares).groupby([table[name] for name in names]).sum()
        for row, (value, share) in enumerate(zip(likelihood(merged).tolist(), merged.weight.tolist(), strict=True)):
            seen = self.row_of(merged, row)
            cell = tuple(seen[name] for name in names)
            assert value == pytest.approx(each[cell], abs=1e-12)
            assert share == pytest.approx(expected[cell], rel=4 * EPS32)

    @staticmethod
    def row_of(rows, row):
        """Values of members and parents at one row, which all members' views must agree on."""
        seen = {}
        for name, member in rows.members.items():
            views = {parent: value[member.config[row]] for parent, value in member.parents.items()}
            for key, value in {**views, name: member.value[row]}.items():
                assert seen.setdefault(key, int(value)) == int(value)
        return seen

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_merging_changes_no_gradient(self, dtype):
        likelihood, dcm = component(self.GRAPH, 3, members=["A", "B", "C"], levels=3, dtype=dtype)
        values = tensors(random_rows(dcm, 300))
        weight = torch.from_numpy(np.random.default_rng(1).uniform(0.1, 5, 300))
        losses = [
            likelihood.loss(ComponentRows.build(likelihood.mechanisms, values, weight, share=share))
            for share in (True, False)
        ]
        # the rows' shares are float32 in both; sums over 300 rows of terms of this size
        tolerance = 300 * EPS32 if dtype == torch.float32 else 4 * EPS32
        torch.testing.assert_close(losses[0], losses[1], rtol=tolerance, atol=0)
        for merged, apart in zip(*(gradients(likelihood, loss) for loss in losses), strict=True):
            torch.testing.assert_close(merged, apart, rtol=0, atol=tolerance * max(1.0, float(apart.abs().max())))

    def test_weights_count_like_repeated_rows(self):
        likelihood, dcm = component(self.GRAPH, 2, members=["A", "B", "C"])
        table = random_rows(dcm, 40)
        times = np.random.default_rng(3).integers(1, 6, 40)
        for share in (True, False):
            weighted = ComponentRows.build(
                likelihood.mechanisms, tensors(table), torch.from_numpy(times * 0.25), share=share
            )
            repeated = ComponentRows.build(
                likelihood.mechanisms, tensors(table.loc[table.index.repeat(times)]), share=share
            )
            assert float(likelihood.loss(weighted).detach()) == pytest.approx(
                float(likelihood.loss(repeated).detach()), rel=8 * EPS32
            )

    @given(st.lists(st.integers(0, 29), min_size=1, max_size=60), st.booleans())
    @settings(max_examples=40)
    def test_selected_rows_may_repeat(self, rows, share):
        likelihood, dcm = component(self.GRAPH, 2, members=["A", "B", "C"], levels=3)
        whole = ComponentRows.build(likelihood.mechanisms, tensors(random_rows(dcm, 200)), share=share)
        chosen = torch.tensor(rows)
        picked = whole.select(chosen)
        assert len(picked) == len(rows)
        for member in picked.members.values():
            # a few rows must not cost the logits of all configurations
            assert member.configs <= max(len(rows), 27)
            assert all(len(value) == member.configs for value in member.parents.values())
        torch.testing.assert_close(likelihood(picked), likelihood(whole)[chosen], rtol=0, atol=1e-12)
        torch.testing.assert_close(picked.weight, whole.weight[chosen], rtol=0, atol=0)

    def test_loss_of_selected_rows_is_a_weighted_mean(self):
        likelihood, dcm = component(self.GRAPH, 2, members=["A", "B", "C"])
        whole = ComponentRows.build(likelihood.mechanisms, tensors(random_rows(dcm, 50)))
        part = whole.select(torch.tensor([0, 3, 3, 5]))
        expected = -(likelihood(part) * part.weight).sum() / part.weight.sum()
        torch.testing.assert_close(likelihood.loss(part), expected, rtol=4 * EPS32, atol=0)

    def test_rows_with_a_continuous_parent_are_not_merged(self):
        schema = [
            Variable("T", "continuous"),
            Variable("A", "categorical", (0, 1)),
            Variable("B", "categorical", (0, 1)),
        ]
        dcm = DCM(
            ADMG.from_string("T -> A; A <-> B; A -> B"),
            Schema(schema),
            {"U[A,B]": 3},
            {"T": lambda variable, parents, latents: dcm_of_nothing(variable, parents)},
        )
        members = {name: dcm.mechanism(name) for name in ("A", "B")}
        likelihood = ComponentLikelihood(members, {name: dcm.latents[name] for name in members}, list(dcm.priors))
        values = {"T": torch.tensor([0.5, 0.5, -1.0]), "A": torch.tensor([0, 0, 1]), "B": torch.tensor([1, 1, 0])}
        rows = ComponentRows.build(members, values)
        assert len(rows) == 3
        assert rows.members["A"].configs == 3
        assert rows.members["B"].configs == 2
        drawn = likelihood(rows).detach()
        assert float(drawn[0]) == float(drawn[1]) != float(drawn[2])
        apart = likelihood(ComponentRows.build(members, values, share=False)).detach()
        torch.testing.assert_close(drawn, apart, rtol=0, atol=16 * EPS32)

    def test_no_rows_can_be_selected(self):
        likelihood, dcm = component(self.GRAPH, 2, members=["A", "B", "C"])
        whole = ComponentRows.build(likelihood.mechanisms, tensors(random_rows(dcm, 50)))
        assert likelihood(whole.select(torch.zeros(0, dtype=torch.int64))).shape == (0,)


def dcm_of_nothing(variable, parents):
    """A mechanism for a variable that the test only conditions on."""
    from mdcm.mechanisms import Mechanism

    class Given(Mechanism):
        noise_size = 0

        def forward(self, parents, latents, noise):
            raise AssertionError("never generated")

        def conditional_loss(self, parents, value, generator):
            raise AssertionError("never trained")

        def config(self):
            return {"type": "given"}

    return Given(variable, parents)


class TestComponentLikelihood:
    @given(admgs(min_nodes=2, max_nodes=5, max_latents=1, max_bidirected=3), st.integers(1, 3), st.integers(0, 99))
    @settings(max_examples=30)
    def test_equals_enumeration_on_every_c_component(self, drawn, states, seed):
        graph = drawn.admg()
        for members in graph.c_components():
            likelihood, dcm = component(graph, states, members=members, seed=seed)
            cells = all_cells(dcm, members_and_parents(likelihood))
            rows = ComponentRows.build(likelihood.mechanisms, tensors(cells), share=False)
            value = likelihood(rows).detach()
            expected = enumerate_c_factor(dcm, sorted(members, key=graph.index), cells)
            torch.testing.assert_close(value.exp(), torch.from_numpy(expected), rtol=1e-12, atol=0)

    @given(admgs(min_nodes=2, max_nodes=5, max_latents=1, max_bidirected=3), st.integers(1, 3))
    @settings(max_examples=30)
    def test_sums_to_one_for_every_value_of_the_parents(self, drawn, states):
        graph = drawn.admg()
        for members in graph.c_components():
            likelihood, dcm = component(graph, states, members=members)
            cells = all_cells(dcm, members_and_parents(likelihood))
            rows = ComponentRows.build(likelihood.mechanisms, tensors(cells), share=False)
            outside = sorted(graph.parents(members) - set(members))
            cells["q"] = likelihood(rows).detach().exp().numpy()
            totals = cells.groupby(outside)["q"].sum().to_numpy() if outside else np.array([cells["q"].sum()])
            assert np.abs(totals - 1).max() < 1e-12

    def test_confounders_of_different_sizes_and_of_four_children(self):
        text = "L [latent]; L -> A; L -> B; L -> C; L -> D; A -> B; C -> D; A <-> D; E -> C"
        graph = ADMG.from_string(text)
        states = dict(zip([name for name, _ in graph.confounders], (5, 2), strict=True))
        likelihood, dcm = component(
            graph, states, members=["A", "B", "C", "D"], levels={**dict.fromkeys("ABCE", 2), "D": 4}
        )
        cells = all_cells(dcm, members_and_parents(likelihood))
        value = likelihood(ComponentRows.build(likelihood.mechanisms, tensors(cells), share=False)).detach()
        expected = enumerate_c_factor(dcm, ["A", "B", "C", "D"], cells)
        torch.testing.assert_close(value.exp(), torch.from_numpy(expected), rtol=1e-12, atol=0)

    def test_gradient_of_every_parameter_by_finite_differences(self):
        likelihood, dcm = component("E -> A -> B; A <-> B; B <-> C; C -> B", 2, members=["A", "B", "C"])
        rows = ComponentRows.build(likelihood.mechanisms, tensors(random_rows(dcm, 30)))
        parameters = list(likelihood.parameters())
        slopes = gradients(likelihood, likelihood.loss(rows))
        rng = np.random.default_rng(0)
        for parameter, slope in zip(parameters, slopes, strict=True):
            # all entries at once along three directions, and three entries one by one
            directions = [torch.from_numpy(rng.normal(size=tuple(parameter.shape))) for _ in range(3)]
            for _ in range(3):
                single = torch.zeros(parameter.numel(), dtype=torch.float64)
                single[rng.integers(parameter.numel())] = 1
                directions.append(single.view_as(parameter))
            for direction in directions:
                step = 1e-5
                ends = []
                for sign in (step, -step):
                    with torch.no_grad():
                        parameter.add_(direction, alpha=sign)
                        ends.append(float(likelihood.loss(rows)))
                        parameter.sub_(direction, alpha=sign)
                numeric = (ends[0] - ends[1]) / (2 * step)
                assert float((slope * direction).sum()) == pytest.approx(numeric, rel=1e-6, abs=1e-8)

    @pytest.mark.parametrize("seed", range(5))
    def test_extreme_logits_stay_finite(self, seed):
        likelihood, dcm = component(
            "E -> A -> B; A <-> B; B <-> C; C -> B",
            4,
            members=["A", "B", "C"],
            seed=seed,
            dtype=torch.float32,
            levels=3,
        )
        with torch.no_grad():
            for mechanism in likelihood.mechanisms.values():
                mechanism.out.weight.mul_(200 / mechanism.out.weight.abs().mean())
            for prior in likelihood.priors:
                prior.mul_(200)
        cells = all_cells(dcm, members_and_parents(likelihood))
        rows = ComponentRows.build(likelihood.mechanisms, tensors(cells), share=False)
        value = likelihood(rows)
        assert bool(torch.isfinite(value).all())
        slopes = gradients(likelihood, likelihood.loss(rows))
        assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
        # the logits are in the hundreds or thousands, known to so many units in the last place
        largest = max(
            float(m.table(v.parents, v.configs).detach().abs().max())
            for m, v in zip(likelihood.mechanisms.values(), rows.members.values(), strict=True)
        )
        assert largest > 200
        with np.errstate(divide="ignore"):
            expected = torch.from_numpy(np.log(enumerate_c_factor(dcm, ["A", "B", "C"], cells)))
        likely = expected > -60
        assert 0 < int(likely.sum()) < len(likely)
        torch.testing.assert_close(
            value.detach().double()[likely], expected[likely], rtol=0, atol=float(8 * EPS32 * largest)
        )

    def test_learns_from_one_loss_in_all_parameters(self):
        likelihood, dcm = component("E -> A -> B; A <-> B", 3, members=["A", "B"])
        names = [name for name, _ in dcm.named_parameters()]
        found = {id(parameter) for parameter in likelihood.parameters()}
        wanted = {id(p) for name, p in dcm.named_parameters() if not name.startswith("_modules_by_position.0")}
        assert found == wanted
        assert len(found) == len(list(likelihood.parameters())) < len(names)
        rows = ComponentRows.build(likelihood.mechanisms, tensors(random_rows(dcm, 100)))
        assert all(float(slope.abs().max()) > 0 for slope in gradients(likelihood, likelihood.loss(rows)))

    def test_a_member_without_a_density_is_refused(self):
        variable = Variable("A", "categorical", (0, 1))
        likelihood = ComponentLikelihood({"A": dcm_of_nothing(variable, ())}, {"A": ()}, [])
        rows = ComponentRows.build(likelihood.mechanisms, {"A": torch.tensor([0, 1])})
        with pytest.raises(TypeError, match=r"mechanism of 'A' .* has no density"):
            likelihood(rows)

    def test_rows_keep_what_they_were_built_from(self):
        likelihood, dcm = component("A -> B; A <-> B", 2)
        values = tensors(random_rows(dcm, 20))
        before = {name: value.clone() for name, value in values.items()}
        rows = ComponentRows.build(likelihood.mechanisms, values)
        likelihood.loss(rows).backward()
        rows.select(torch.tensor([0]))
        assert all(torch.equal(values[name], before[name]) for name in values)
        with pytest.raises(dataclasses.FrozenInstanceError):
            rows.rows = 3


def enumerate_c_factor(dcm, members, cells):
    """Q[C] by one term per joint state of all confounders, from the mechanisms' logits at that state."""
    truth = read_out(dcm)
    names = [name for name in truth.priors if any(name in truth.axes(node) for node in members)]
    total = np.zeros(len(cells))
    for states in itertools.product(*(range(len(truth.priors[name])) for name in names)):
        hidden = dict(zip(names, states, strict=True))
        term = np.full(len(cells), math.prod(truth.priors[name][state] for name, state in hidden.items()))
        for node in members:
            place = tuple(hidden[axis] if axis in hidden else cells[axis].to_numpy() for axis in truth.axes(node))
            term = term * truth.tables[node][place]
        total += term
    return total


class TestOracle:
    """The sums that the experiments rest on are themselves held against enumeration."""

    def test_c_factor_at_rows(self):
        graph = ADMG.from_string("L [latent]; L -> A; L -> B; L -> C; A -> B; B <-> D; D -> C; E -> A")
        _, dcm = component(graph, 3)
        cells = all_cells(dcm, "ABCDE")
        expected = enumerate_c_factor(dcm, ["A", "B", "C", "D"], cells)
        assert c_factor_at(read_out(dcm), ["A", "B", "C", "D"], cells) == pytest.approx(expected, rel=1e-12)
