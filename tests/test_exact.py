"""Answers by exact elimination in the model, against its own tables, sums over everything, and draws."""

import gc
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from exact_models import model_of, random_model, scm_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import total_probability
from scipy import integrate
from strategies import admgs
from test_sampling import TANGLE, line, number

import mdcm
from mdcm import ADMG, LowSupportError, QueryError
from mdcm.query import Expression, Query, Term
from mdcm.sampling import densities
from mdcm.sampling.exact import common_noise
from mdcm.scm import DiscreteSCM, random_discrete

TIGHT = 1e-10


def numbers(answer):
    return answer.table.iloc[:, -2].to_numpy(dtype=float)


def asked(model, text, **options):
    return model.query(text, 2000, allow_unidentifiable=True, **options)


def equal(model, text):
    """The answer is that of the model's own tables, without an error of drawing; returns it."""
    answer = asked(model, text)
    assert answer.exact
    assert (answer.table["stderr"] == 0).all()
    assert numbers(answer) == pytest.approx(np.atleast_1d(scm_of(model).answer(text)), abs=TIGHT), text
    return answer


class TestTables:
    @pytest.mark.parametrize(
        ("graph", "text"),
        [
            ("X -> Z -> Y; X <-> Y", "P(Y | do(X))"),
            ("X -> Z -> Y; X <-> Y", "P(Y, X | do(Z))"),
            ("X -> Z -> Y; X <-> Y", "P(X | do(Z=1), Y)"),
            ("X -> Z -> Y; X <-> Y", "P(Y=2, Z | X)"),
            ("X -> Z -> Y; X <-> Y", "E[Y | do(X)]"),
            ("X -> Z -> Y; X <-> Y", "E[Y | do(X=1), Z=2]"),
            ("X -> Z -> Y; X <-> Y", "E[Y | do(X=1)] - E[Y | do(X=0)]"),
            ("X -> Z -> Y; X <-> Y", "P(Y=1 | do(X=1)) - P(Y=1 | X=1) + P(Z=0)"),
            ("X -> Z -> Y; X <-> Y", "-P(Z=1)"),
            ("X -> Z -> Y; X <-> Y", "P(X, Z, Y)"),
            (TANGLE, "P(G, E | do(C), D)"),
            (TANGLE, "P(F | do(B=1), D, E)"),
        ],
    )
    def test_are_summed(self, graph, text):
        equal(random_model(ADMG.from_string(graph), seed=3), text)

    @settings(max_examples=20)
    @given(st.data())
    def test_of_any_graph_are_summed(self, data):
        graph = data.draw(admgs(min_nodes=2, max_nodes=5, max_latents=1, max_bidirected=3)).admg()
        levels = {name: data.draw(st.integers(2, 3)) for name in graph.nodes}
        model = random_model(graph, levels, 2, seed=data.draw(st.integers(0, 99)))
        names = data.draw(st.permutations(graph.nodes))
        cuts = sorted(data.draw(st.integers(1, len(names))) for _ in range(2))

        def term(name):
            return Term(name, data.draw(st.sampled_from([None, 0, 1])))

        outcomes, do, given_ = names[: cuts[0]], names[cuts[0] : cuts[1]], names[cuts[1] :]
        query = Query("P", *(tuple(map(term, some)) for some in (outcomes, do, given_)))
        answer = equal(model, str(Expression(((1, query),))))
        # and each number is a sum over all variables and all states
        for row, found in zip(answer.table.to_dict("records"), numbers(answer), strict=True):
            pick = {name: row.get(name, term_.value) for name, term_ in zip(names, query.walk(), strict=True)}
            parts = [{name: pick[name] for name in some} for some in (outcomes, do, given_)]
            assert found == pytest.approx(total_probability(model, *parts), abs=TIGHT)

    def test_of_an_ensemble_are_summed(self):
        table = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=0).sample(500, seed=0)
        model = mdcm.fit("X -> Z -> Y; X <-> Y", table, config=mdcm.TrainConfig(max_steps=20), ensemble=3)
        # whether rows support it is another question
        model.data = ()
        text = "E[Y | do(X=1)] - E[Y | do(X=0)]"
        answer = model.query(text)
        assert answer.exact
        exact = []
        for dcm in (model.dcm, *model.members):
            model.dcm = dcm
            exact.append(scm_of(model).answer(text))
        spread = np.std(exact[1:], ddof=1)
        # half of the width of a 90 % interval of three models, by Student's t of two degrees of freedom
        assert answer.value == pytest.approx(exact[0], abs=1e-6)
        assert (answer.high - answer.low) / 2 == pytest.approx(2.919986 * spread, abs=1e-6)

    def test_need_no_seed_and_no_number_of_draws(self):
        model = random_model(ADMG.from_string(TANGLE), 2, 2)
        one, other = (model.query("P(F | do(B=1), D)", n, seed=n, allow_unidentifiable=True) for n in (2, 5000))
        pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)

    def test_with_numbers_that_are_seen(self):
        """X <-> Y, X -> Y, with Y normal around a mean of the state and of X: what was seen of it is a density."""
        scm = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, latent_levels=2, seed=3)
        model = model_of(scm, {"Y": line(1.0, shifts=[-1.0, 2.0])}, {"Y": number("Y")})
        means = np.array([[-1.0, 0.0], [2.0, 3.0]])
        joint = scm.priors["U[X,Y]"][:, None] * scm.tables["X"] * np.exp(-((0.7 - means) ** 2) / 2)
        answer = asked(model, "P(X | Y=0.7)")
        assert answer.exact
        # the mechanism computes in float32
        assert numbers(answer) == pytest.approx(joint.sum(0) / joint.sum(), abs=1e-6)
        # and numbers that are summed over are drawn
        assert not asked(model, "E[Y]").exact

    def test_are_normalised(self):
        model = random_model(ADMG.from_string(TANGLE), 3, 3)
        assert numbers(asked(model, "P(A, B, C, D, E, F, G)")).sum() == pytest.approx(1, abs=1e-14)


class TestWorlds:
    @pytest.mark.parametrize(
        ("graph", "text"),
        [
            ("X -> Y; X <-> Y", "P(Y[X=1] | X=0, Y=0)"),
            ("X -> Y; X <-> Y", "P(Y[X=0]=1, Y[X=1]=1)"),
            ("X -> Y; X <-> Y", "P(X=1 | Y[X=0]=1, Y[X=1]=1)"),
            ("X -> Y; X <-> Y", "P(Y[X=1] | X)"),
            ("X -> Z -> Y; X <-> Y", "P(Y[X=1], Y | X)"),
            ("X -> Z -> Y; X <-> Y", "P(Y[X=1]=1 | Y[X=0]=0) - P(Y[X=0]=1 | Z=1)"),
            ("X -> Z -> Y; X -> Y; X <-> Y", "P(Y[X=1, Z[X=0]] | X=0)"),
            ("X -> Z -> Y; X -> Y; Z <-> Y", "E[Y[X=1, Z[X=0]] - Y[X=0]]"),
            ("X -> Z -> Y; X -> Y; Z <-> Y", "P(Y[Z=1, X=0]=1 | Y[X=0]=0, Z[X=1]=1)"),
            ("A <-> Y; Y -> Z", "P(A[Z=1], A | Z=0)"),
            ("A <-> Y; Y -> Z", "P(Y[Z=1], Z | Y=0)"),
            (TANGLE, "P(D[A=1], E | D=0, A=0)"),
            (TANGLE, "P(F | D[B=0]=1, D[B=1]=0)"),
        ],
    )
    def test_of_two_levels_are_those_of_intervals(self, graph, text):
        """With two levels the race is the threshold of mdcm.scm: a level wins in both with the smaller probability."""
        equal(random_model(ADMG.from_string(graph), 2, 2, seed=5), text)

    @settings(max_examples=25)
    @given(st.data())
    def test_agree_with_draws(self, data):
        graph = data.draw(admgs(min_nodes=2, max_nodes=4, max_latents=1, max_bidirected=2)).admg()
        model = random_model(graph, 3, 2, seed=data.draw(st.integers(0, 99)), spread=1.0)

        def world(owner):
            others = [name for name in graph.nodes if name != owner]
            names = data.draw(st.lists(st.sampled_from(others), unique=True, max_size=2))
            return tuple(Term(name, data.draw(st.integers(0, 2))) for name in names)

        def term(value):
            name = data.draw(st.sampled_from(graph.nodes))
            return Term(name, value, world(name))

        query = Query("P", (term(1), term(None)), (), tuple(term(0) for _ in range(data.draw(st.integers(0, 1)))))
        text = str(Expression(((1, query),)))
        try:
            exact = asked(model, text)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("mdcm.sampling.exact._LARGEST", 0)
                drawn = asked(model, text)
        except (QueryError, LowSupportError):
            assume(False)
        assume(exact.exact)
        assert not drawn.exact
        assert (np.abs(numbers(exact) - numbers(drawn)) <= 4.5 * drawn.table["stderr"]).all(), text

    def test_more_than_two_of_one_noise_are_drawn(self):
        model = random_model(ADMG.from_string("X -> Y"), 3)
        assert asked(model, "P(Y[X=0]=1, Y[X=1]=1)").exact
        assert not asked(model, "P(Y[X=0]=1, Y[X=1]=1, Y[X=2]=1)").exact
        # each term of a sum has worlds of its own
        assert asked(model, "E[Y[X=0] - Y[X=1] + Y[X=2]]").exact

    def test_of_other_noise_are_drawn(self):
        """A mechanism of the user's own has another noise than the race."""
        model = model_of(random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=0))
        assert asked(model, "P(Y[X=1] | X=0)").exact
        assert not asked(model, "P(Y[X=1] | X=0, Y=1)").exact

    def test_functions_of_the_natural_value_are_drawn(self):
        model = random_model(ADMG.from_string("X -> Y"), 3)
        flipped = model.query("P(Y | do(X))", 500, do={"X": lambda x: 2 - x}, allow_unidentifiable=True)
        assert not flipped.exact
        assert model.query("P(Y | do(X))", 500, do={"X": [2, 0]}).exact


class TestCommonNoise:
    """The joint distribution of the winners of two races of one noise."""

    logits = st.lists(st.floats(-6, 6), min_size=4, max_size=4)

    @given(logits, logits)
    def test_has_the_marginals_of_both(self, one, other):
        log_p, log_q = (torch.tensor(x).double().log_softmax(0) for x in (one, other))
        joint = common_noise(log_p, log_q)
        assert (joint >= 0).all()
        assert joint.sum(1).tolist() == pytest.approx(log_p.exp().tolist(), abs=1e-14)
        assert joint.sum(0).tolist() == pytest.approx(log_q.exp().tolist(), abs=1e-14)
        assert torch.allclose(common_noise(log_q, log_p).T, joint, atol=1e-14)
        # a level does not give way to one whose odds against it have fallen
        gain = log_q - log_p
        assert (joint[gain[:, None] > gain[None, :]] == 0).all()

    @given(logits)
    def test_of_one_race_is_its_distribution(self, one):
        log_p = torch.tensor(one).double().log_softmax(0)
        assert torch.allclose(common_noise(log_p, log_p), torch.diag(log_p.exp()), atol=1e-15)

    def test_is_the_integral_over_both_times(self):
        p, q = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3])
        joint = common_noise(torch.tensor(p).log(), torch.tensor(q).log()).numpy()
        for a, b in itertools.product(range(3), repeat=2):
            if a == b:
                # all other clocks are later than both times of this level
                rates = sum(max(p[j] / p[a], q[j] / q[a]) for j in range(3) if j != a)
                exact, _ = integrate.quad(lambda e, rates=rates: math.exp(-e - e * rates), 0, np.inf)
            else:
                third = 3 - a - b

                def density(y, x, a=a, b=b, third=third):
                    possible = y * q[b] >= x * p[b] and x * p[a] >= y * q[a]
                    late = math.exp(-max(x * p[third], y * q[third]))
                    return possible * p[a] * math.exp(-p[a] * x) * q[b] * math.exp(-q[b] * y) * late

                # both times are possible between these ratios
                low, high = p[b] / q[b], p[a] / q[a]
                exact = 0.0
                if low < high:
                    exact, _ = integrate.dblquad(density, 0, 60, lambda x, r=low: r * x, lambda x, r=high: r * x)
            assert joint[a, b] == pytest.approx(exact, abs=1e-6)

    def test_of_levels_that_hardly_occur(self):
        joint = common_noise(torch.tensor([0.0, -1e4, -800.0]).double(), torch.tensor([-1e4, 0.0, -800.0]).double())
        assert joint.isfinite().all()
        assert joint[0, 1] == pytest.approx(1, abs=1e-12)


class TestSizes:
    GRAPH = "; ".join(f"P{k} -> Y" for k in range(14))

    def test_what_is_too_large_is_drawn_without_a_table(self):
        # 8 ** 15 cells, 256 TiB
        model = random_model(ADMG.from_string(self.GRAPH), 8)
        answer = model.query("P(Y=1 | P0=1)", 500)
        assert not answer.exact
        # with all but a few parents set it is small
        set_ = ", ".join(f"P{k}=1" for k in range(11))
        assert model.query(f"P(Y | do({set_}))").exact

    def test_a_joint_of_many_variables_is_not_spread_out(self):
        names = [f"V{k}" for k in range(40)]
        model = random_model(ADMG.from_string(" -> ".join(names)), 4)
        exact = model.query(f"P({', '.join(f'{name}=1' for name in names)})", 10)
        scm = scm_of(model)
        product = scm.tables["V0"][1] * math.prod(scm.tables[name][1, 1] for name in names[1:])
        assert exact.exact
        assert exact.value == pytest.approx(product, rel=1e-9)

    def test_rows_are_taken_a_few_at_a_time(self, monkeypatch):
        model = random_model(ADMG.from_string(TANGLE), 3, 3)
        whole = asked(model, "P(F, A | do(B), D, E)")
        for largest in (250, 100):
            monkeypatch.setattr("mdcm.sampling.exact._LARGEST", largest)
            part = asked(model, "P(F, A | do(B), D, E)")
            assert part.exact
            pd.testing.assert_frame_equal(part.table, whole.table, rtol=1e-12)

    def test_confounders_that_all_meet_are_weighed_by_draws(self):
        """A clique of pairwise confounders: no table holds what evidence on all its members tells of their states."""
        names = [f"V{k}" for k in range(9)]
        pairs = "; ".join(f"{a} <-> {b}" for a, b in itertools.combinations(names, 2))
        model = random_model(ADMG.from_string(f"{pairs}; V0 -> V1"), 2, 2, spread=0.3)
        seen = {name: 1 for name in names[2:]}
        drawn = model.draw_samples(300, given=seen)
        assert len(drawn) == 300
        assert (drawn.table[names[2:]] == 1).all(axis=None)


class TestImpossible:
    def test_evidence_is_refused_in_words(self):
        scm = DiscreteSCM(ADMG.from_string("A -> B; A -> C"), {"A": [0.5, 0.5], "B": [[1.0, 0.0]] * 2, "C": np.eye(2)})
        model = model_of(scm)
        for text, words in [
            ("P(A | B=1)", "B=1"),
            ("P(A | do(C=0), B=1)", "B=1"),
            ("E[A | C=1, B=1] - E[A]", "C=1, B=1"),
            ("P(B | do(A=0), C=1)", "C=1"),
        ]:
            with pytest.raises(LowSupportError, match=f"^{words} has probability zero in the model$") as caught:
                model.query(text, 100)
            assert caught.value.probability == 0

    def test_what_cannot_be_has_probability_zero(self):
        scm = DiscreteSCM(ADMG.from_string("A -> B"), {"A": [0.5, 0.5], "B": np.eye(2)})
        answer = model_of(scm).query("P(B=1 | do(A=0))", 100)
        assert (answer.value, answer.stderr, answer.exact) == (0.0, 0.0, True)


class TestText:
    def test_says_that_nothing_was_drawn(self):
        model = random_model(ADMG.from_string("X -> Y"), 2)
        single = model.query("P(Y=1 | do(X=1))")
        assert f"{single.value:.4f} (exact in the model)" in str(single)
        assert "±" not in str(single)
        table = str(model.query("P(Y | do(X))"))
        assert "exact in the model, so without sampling error" in table
        assert "stderr" not in table
        assert math.isinf(single.ess)


class TestKept:
    """Tables of mechanisms are kept from one query to the next, as long as the weights are the same."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda one: one.out.bias.data.add_(torch.tensor([2.0, 0.0])),
            lambda one: one.load_state_dict({k: v + 0.1 * torch.randn(v.shape) for k, v in one.state_dict().items()}),
            lambda one: one.set_table(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()),
            lambda one: setattr(one.out.weight, "data", one.out.weight.data + torch.randn(one.out.weight.shape)),
        ],
        ids=["in place", "loaded", "a table", "other storage"],
    )
    def test_other_weights_give_other_answers(self, change):
        model = random_model(mdcm.ADMG.from_string("X -> Y"), {"X": 2, "Y": 2}, 2, 0)
        before = model.query("P(Y | do(X))").table["probability"].tolist()
        assert model.query("P(Y | do(X))").table["probability"].tolist() == before
        mechanism = model.dcm.mechanism("Y")
        with torch.no_grad():
            change(mechanism)
        after = model.query("P(Y | do(X))").table["probability"].to_numpy()
        assert np.abs(after - before).max() > 1e-3
        table = mechanism.table({"X": torch.tensor([0, 1])}, 2).exp()
        assert np.allclose(after, table.detach().double().numpy().ravel(), atol=1e-6)

    def test_are_forgotten_with_the_mechanism(self):
        model = random_model(mdcm.ADMG.from_string("X -> Y"), {"X": 2, "Y": 2}, 2, 0)
        model.query("P(Y | do(X))")
        kept = len(densities._tables)
        del model
        gc.collect()
        assert len(densities._tables) <= kept - 1
