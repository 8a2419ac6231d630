"""Counterfactuals against exact answers, and the laws that they obey exactly."""

import functools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from exact_models import TableMechanism, model_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import admgs
from test_sampling import TANGLE, agrees

import mdcm
from mdcm import ADMG, LowSupportError, QueryError
from mdcm.data import Variable
from mdcm.mechanisms import Categorical
from mdcm.query import Expression, Query, Term
from mdcm.scm import random_discrete

ROWS = 20_000
pytestmark = pytest.mark.usefixtures("by_drawing")


@pytest.fixture(params=["exactly", "by weighting"])
def either(request, monkeypatch):
    """Both algorithms for evidence."""
    if request.param == "by weighting":
        monkeypatch.setattr("mdcm.sampling.abduction._LARGEST", 0)
    return request.param


# what the draws rest on is judged in test_verdicts
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestExactAnswers:
    @pytest.mark.parametrize(
        ("graph", "text"),
        [
            ("X -> Y; X <-> Y", "P(Y[X=1] | X=0, Y=0)"),
            ("X -> Y; X <-> Y", "P(Y[X=0]=1, Y[X=1]=1)"),
            ("X -> Y; X <-> Y", "P(X=1 | Y[X=0]=1, Y[X=1]=1)"),
            ("X -> Z -> Y; X <-> Y", "P(Y[X=1] | X=0, Y=1)"),
            ("X -> Z -> Y; X <-> Y", "P(Y[X=0]=1, Y[X=1]=0 | Z=1)"),
            ("X -> Z -> Y; X <-> Y", "P(X | Y[X=0]=1, Z=0)"),
            ("X -> Z -> Y; X -> Y; X <-> Y", "P(Y[X=1, Z[X=0]] | X=0)"),
            ("X -> Z -> Y; X -> Y; Z <-> Y", "E[Y[X=1, Z[X=0]] - Y[X=0]]"),
            ("X -> Z -> Y; X -> Y; Z <-> Y", "P(X | Y[X=1, Z[X=0]]=1, Y=0)"),
            ("X -> Z -> Y; X -> Y; Z <-> Y", "P(Y[Z=1, X=0]=1 | Y[X=0]=0, Z[X=1]=1)"),
            ("X -> Z -> Y; X <-> Y", "P(Y[X=1]=1 | Y[X=0]=0, Z=1) - P(Y[X=0]=1 | Z=1)"),
            ("X -> Y; X <-> Y", "E[Y[X=1] - Y[X=0] | X=0]"),
            ("A <-> Y; Y -> Z", "P(A[Z=1] | Z=0)"),
            (TANGLE, "P(D[A=1], E | D=0, A=0)"),
            (TANGLE, "P(G, C[B=1] | D=0, E=1)"),
            (TANGLE, "P(F | D[B=0]=1, D[B=1]=0)"),
        ],
    )
    def test_agree(self, either, graph, text):
        scm = random_discrete(ADMG.from_string(graph), levels=2, seed=11)
        agrees(model_of(scm), scm, text)

    def test_a_product_of_densities_would_be_wrong(self):
        """Evidence in a second world weighs 0 or 1, since its noise has been decided in the first."""
        scm = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, seed=5)
        model = model_of(scm)
        joint = scm.answer("P(Y[X=0]=1, Y[X=1]=1)")
        product = scm.answer("P(Y[X=0]=1)") * scm.answer("P(Y[X=1]=1)")
        assert abs(joint - product) > 0.05
        agrees(model, scm, "P(Y[X=0]=1, Y[X=1]=1)")
        agrees(model, scm, "P(Y[X=1]=1 | Y[X=0]=1)")

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_in_any_graph(self, data):
        graph = data.draw(admgs(min_nodes=2, max_nodes=5, max_latents=1, max_bidirected=3)).admg()
        scm = random_discrete(graph, levels=2, latent_levels=3, seed=data.draw(st.integers(0, 99)), smoothing=0.3)
        names = data.draw(st.permutations(graph.nodes))
        seen = {name: data.draw(st.integers(0, 1)) for name in names[: data.draw(st.integers(1, len(names)))]}
        target, cause = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        do = {cause: data.draw(st.integers(0, 1))}
        exact = scm.exact_counterfactual(target, do, seen).to_numpy()
        drawn = model_of(scm).counterfactual_samples(4000, evidence=seen, do=do, variables=[target]).table[target]
        share = (drawn == 1).mean()
        if min(exact) < 1e-9:
            assert share == exact[1].round()
        else:
            assert abs(share - exact[1]) <= 4.5 * math.sqrt(exact[0] * exact[1] / 4000)

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_any_question(self, data):
        graph = data.draw(admgs(min_nodes=2, max_nodes=4, max_latents=1, max_bidirected=3)).admg()
        scm = random_discrete(graph, levels=2, latent_levels=3, seed=data.draw(st.integers(0, 99)), smoothing=0.4)

        def setting(name, depth):
            if depth and data.draw(st.booleans()):
                return Term(name, None, world(name, depth - 1, least=1))
            return Term(name, data.draw(st.integers(0, 1)))

        def world(owner, depth, least=0):
            others = [name for name in graph.nodes if name != owner]
            names = data.draw(st.lists(st.sampled_from(others), unique=True, min_size=least, max_size=2))
            return tuple(setting(name, depth) for name in names)

        def term(value):
            name = data.draw(st.sampled_from(graph.nodes))
            return Term(name, value, world(name, 1))

        given_ = tuple(term(data.draw(st.integers(0, 1))) for _ in range(data.draw(st.integers(1, 2))))
        query = Query("P", (term(1),), (), given_)
        text = str(Expression(((1, query),)))
        try:
            exact = scm.answer(text)
        except QueryError:
            # the terms contradict each other
            assume(False)
        try:
            answer = model_of(scm).query(text, 2000, allow_unidentifiable=True)
        except LowSupportError:
            # or hardly occur together
            assert scm.answer(str(Expression(((1, Query("P", given_)),)))) < 0.05
            assume(False)
        if min(exact, 1 - exact) < 1e-9:
            assert answer.value == round(exact)
        else:
            assert abs(answer.value - exact) <= 4.5 * answer.stderr, text

    def test_what_is_known_of_the_other_world(self, either):
        scm = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=2)
        drawn = model_of(scm).counterfactual_samples(ROWS, evidence={"Y": 0}, do={"X": 1}, given={"Y": 1})
        assert set(drawn.table["Y"]) == {1}
        exact = scm.answer("P(Z[X=1]=1 | Y=0, Y[X=1]=1)")
        assert abs((drawn.table["Z"] == 1).mean() - exact) <= 4 * math.sqrt(exact * (1 - exact) / drawn.ess)


@functools.cache
def trained(graph):
    """A model with random networks for mechanisms, which no law may depend on."""
    data = random_discrete(ADMG.from_string(graph), levels=3, seed=0).sample(60, seed=0)
    return mdcm.fit(graph, data, config=mdcm.TrainConfig(max_steps=2, checks=1))


# what the draws rest on is judged in test_verdicts
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestLaws:
    GRAPHS = ("X -> Z -> Y; X <-> Y", "A -> B -> C; A -> C; A <-> B; B <-> C", "A <-> B; B -> C; C <-> D; A -> D")

    @pytest.mark.parametrize("largest", [1 << 22, 0], ids=["exactly", "by weighting"])
    @settings(max_examples=20, deadline=None)
    @given(st.data())
    def test_effectiveness_consistency_and_composition(self, largest, data):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mdcm.sampling.abduction._LARGEST", largest)
            self.check_laws(data)

    def check_laws(self, data):
        model = data.draw(st.sampled_from([trained(graph) for graph in self.GRAPHS]))
        names = list(model.graph.nodes)
        seen = {name: data.draw(st.integers(0, 2)) for name in data.draw(st.sets(st.sampled_from(names), min_size=1))}
        do = {name: data.draw(st.integers(0, 2)) for name in data.draw(st.sets(st.sampled_from(names)))}
        rows, seed = 500, data.draw(st.integers(0, 9))
        factual = model.counterfactual_samples(rows, evidence=seen, seed=seed).table
        other = model.counterfactual_samples(rows, evidence=seen, do=do, seed=seed).table
        assert all((factual[name] == value).all() for name, value in seen.items())
        # effectiveness: what is set is so
        assert all((other[name] == value).all() for name, value in do.items())
        # consistency: where what is set was so anyway, nothing changes
        same = (factual[list(do)] == pd.Series(do)).all(axis=1) if do else pd.Series(True, index=factual.index)
        pd.testing.assert_frame_equal(factual[same], other[same], check_exact=True)
        # what is set changes nothing upstream
        above = [name for name in names if not set(do) & model.graph.ancestors([name])]
        pd.testing.assert_frame_equal(factual[above], other[above], check_exact=True)
        # composition: setting a variable to what it would have been changes nothing
        name = data.draw(st.sampled_from(names))
        for level in range(3):
            if name not in do:
                further = model.counterfactual_samples(rows, evidence=seen, do={**do, name: level}, seed=seed).table
                rows_of_level = other[name] == level
                pd.testing.assert_frame_equal(other[rows_of_level], further[rows_of_level], check_exact=True)

    def test_laws_hold_in_one_query(self):
        model = trained(self.GRAPHS[0])
        for text, value in [
            ("P(Y[X=1]=2 | X=1, Y=2)", 1.0),
            ("P(Y[X=1, Z[X=1]]=1, Y[X=1]=1) - P(Y[X=1]=1)", 0.0),
            ("P(Y[X=1, Z=2]=1 | Z[X=1]=2, Y[X=1]=0)", 0.0),
        ]:
            answer = model.query(text, 2000, allow_unidentifiable=True, allow_low_support=True)
            assert answer.value == value

    def test_evidence_alone_is_conditioning(self):
        model = trained(self.GRAPHS[1])
        seen = {"C": 1, "A": 0}
        pd.testing.assert_frame_equal(
            model.counterfactual_samples(3000, evidence=seen, seed=4).table,
            model.draw_samples(3000, given=seen, seed=4).table,
            check_exact=True,
        )

    def test_gumbel_worlds_agree_with_rejection(self):
        """The oracle of the paper: draw both worlds with the same noise, keep the rows that agree with the evidence."""
        model = trained(self.GRAPHS[0])
        rows = 200_000
        actual, other = (model.draw_samples(rows, do=do, seed=8).table for do in (None, {"X": 2}))
        kept = other[(actual["Y"] == 1) & (actual["X"] == 0)]
        drawn = model.counterfactual_samples(rows, evidence={"Y": 1, "X": 0}, do={"X": 2}).table
        for level in range(3):
            share, rejected = (drawn["Y"] == level).mean(), (kept["Y"] == level).mean()
            error = math.sqrt(share * (1 - share) * (1 / rows + 1 / len(kept)))
            assert abs(share - rejected) <= 4 * error


class TestAbductionOfCategories:
    @pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
    def test_gives_the_value_back(self, spread):
        variable = Variable("V", "categorical", levels=tuple(range(5)))
        parent = Variable("P", "categorical", levels=(0, 1, 2))
        torch.manual_seed(0)
        mechanism = Categorical(variable, [parent], (4,))
        with torch.no_grad():
            mechanism.out.weight.mul_(spread)
            parents, latents = {"P": torch.randint(3, (20_000,))}, [torch.randint(4, (20_000,))]
            fresh = -torch.empty(20_000, 5).exponential_().log()
            value = torch.randint(5, (20_000,))
            noise = mechanism.abduct(parents, latents, value, fresh)
            assert torch.equal(mechanism(parents, latents, noise), value)
            assert noise.isfinite().all()

    def test_of_drawn_values_is_the_prior(self):
        """Noise given the value that other noise gave has the distribution of noise."""
        variable = Variable("V", "categorical", levels=(0, 1, 2))
        torch.manual_seed(1)
        mechanism = Categorical(variable, [])
        rows = 100_000
        with torch.no_grad():
            first, fresh = (-torch.empty(rows, 3).exponential_().log() for _ in range(2))
            value = mechanism({}, [], first)
            noise = mechanism.abduct({}, [], value, fresh).double()
        # uniform if Gumbel, and independent: means, variances and correlations of exp(-exp(-g))
        uniform = (-(-noise).exp()).exp().numpy()
        assert np.abs(uniform.mean(0) - 0.5).max() < 4 * math.sqrt(1 / 12 / rows)
        assert np.abs(uniform.var(0) - 1 / 12).max() < 4 * math.sqrt(1 / 180 / rows)
        assert np.abs(np.corrcoef(uniform.T) - np.eye(3)).max() < 4 / math.sqrt(rows)
        # and with the value it occurs as often as by rejection
        for level in range(3):
            rejected = first[value == level][:, 0].double()
            own = noise[value.numpy() == level][:, 0]
            error = math.sqrt(2 * float(own.var()) / len(own))
            assert abs(float(own.mean() - rejected.mean())) < 4 * error

    def test_tables_of_the_tests_invert_too(self):
        scm = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=4, seed=1)
        mechanism = model_of(scm).dcm.mechanism("Y")
        assert isinstance(mechanism, TableMechanism)
        parents, latents = {"X": torch.randint(4, (5000,))}, [torch.randint(4, (5000,))]
        value, fresh = torch.randint(4, (5000,)), torch.randn(5000, 1)
        assert torch.equal(mechanism(parents, latents, mechanism.abduct(parents, latents, value, fresh)), value)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    table = {"D": rng.integers(0, 2, 60), "A": rng.integers(0, 2, 60)}
    data = mdcm.Dataset(table, images={"I": rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)})
    config = mdcm.TrainConfig(max_steps=2, batch_size=8, holdout=0)
    model = mdcm.fit("D -> I -> A; D <-> A", data, config=config)
    # so few steps leave pictures without causes
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.dcm.mechanism("I").parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


# what the draws rest on is judged in test_verdicts
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestPictures:
    def test_are_the_same_where_nothing_changes(self, pictures):
        seen = {"D": 1, "A": 0}
        factual = pictures.counterfactual_samples(70, evidence=seen)
        same = pictures.counterfactual_samples(70, evidence=seen, do={"D": 1})
        other = pictures.counterfactual_samples(70, evidence=seen, do={"D": 0})
        assert (factual.table["A"] == 0).all()
        pd.testing.assert_frame_equal(factual.table, same.table, check_exact=True)
        np.testing.assert_array_equal(factual.images["I"], same.images["I"])
        assert (factual.images["I"] != other.images["I"]).any(axis=(1, 2, 3)).all()

    def test_are_evidence_where_their_causes_are(self, pictures):
        picture = np.full((1, 8, 8), 100, dtype=np.uint8)
        drawn = pictures.draw_samples(50, given={"I": picture, "D": 1})
        assert (drawn.images["I"] == 100).all()
        with pytest.raises(QueryError, match="'I' is image and has no density"):
            pictures.draw_samples(50, given={"I": picture})


def test_frequencies_stand_beside_the_answer():
    """The effect of treatment on the treated through a front door, by the model and by the estimand."""
    scm = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=2)
    model = model_of(scm)
    model.data = (mdcm.Dataset(scm.sample(50_000, seed=0), name="d1"),)
    answer = model.query("P(Y[X=1] | X)", ROWS)
    assert list(answer.table) == ["X", "Y[X=1]", "probability", "stderr"]
    assert answer.identification.identifiable
    assert answer.plug_in["difference"].abs().max() < 4
    assert answer.plug_in["stderr"].max() < 0.02
    assert answer.support == 0


def test_refusals():
    scm = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels=2, seed=2)
    model = model_of(scm)
    for message, options in [
        ("there is no variable 'Q'", {"evidence": {"Q": 1}}),
        ("'X' cannot have two values", {"evidence": {"X": 1}, "do": {"Z": 1}, "given": {"X": 0}}),
        ("'X' is set by do\\(\\) and cannot be conditioned on", {"evidence": {}, "do": {"X": 1}, "given": {"X": 0}}),
        ("one value per row cannot be combined", {"evidence": {"Y": 1}, "do": {"X": [0, 1]}}),
    ]:
        with pytest.raises(QueryError, match=message):
            model.counterfactual_samples(2, **options)
