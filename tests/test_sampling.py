"""Draws given evidence against exact answers, with models whose mechanisms are known tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from exact_models import model_of
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import admgs
from torch import nn

from mdcm import ADMG, DataError, LowSupportError, QueryError
from mdcm.data import Variable
from mdcm.mechanisms import Mechanism
from mdcm.sampling import effective_size, largest_share, systematic
from mdcm.scm import DiscreteSCM, random_discrete

TANGLE = "L [latent]; A -> B -> C -> D; A -> E; F -> C; L -> B; L -> D; L -> F; E <-> D; G"
ROWS = 20_000
pytestmark = pytest.mark.usefixtures("by_drawing")


def agrees(model, scm, text, rows=ROWS, **options):
    """The answer is the exact one within four standard errors; returns it."""
    answer = model.query(text, rows, allow_unidentifiable=True, **options)
    exact = np.atleast_1d(np.asarray(scm.answer(text), dtype=float))
    found, error = (answer.table.iloc[:, k].to_numpy(dtype=float) for k in (-2, -1))
    assert (np.abs(found - exact) <= 4 * error).all(), (text, found, exact, error)
    # and the errors are small enough for that to mean something
    assert error.max() < 0.05
    return answer


@pytest.fixture(params=["exactly", "by weighting"])
def either(request, monkeypatch):
    """Both algorithms for evidence."""
    if request.param == "by weighting":
        monkeypatch.setattr("mdcm.sampling.abduction._LARGEST", 0)
    return request.param


@pytest.fixture(scope="module")
def front_door():
    scm = random_discrete(ADMG.from_string("X -> Z -> Y; X <-> Y"), levels={"X": 2, "Z": 3, "Y": 3}, seed=4)
    return scm, model_of(scm)


class TestEvidence:
    @pytest.mark.parametrize(
        ("graph", "text"),
        [
            ("X -> Z -> Y; X <-> Y", "P(X, Z | Y=1)"),
            ("X -> Z -> Y; X <-> Y", "P(X | do(Z=1), Y=0)"),
            ("X -> Z -> Y; X <-> Y", "P(Y | X, Z=0)"),
            # the posterior of {A, Y} alone would leave its prior
            ("A <-> Y; Y -> Z", "P(A, Y | Z=1)"),
            ("A <-> Y; Y -> Z", "P(A | Z=1, Y=0)"),
            ("A <-> Y; Y <-> Z; Z <-> W; A -> Z", "P(A, W | Z=1)"),
            ("A <-> Y; Y <-> Z; Z <-> W; A -> Z", "P(Y | W=0, A=1)"),
            (TANGLE, "P(A, B | D=1, E=0)"),
            (TANGLE, "P(F | do(B=1), D)"),
            (TANGLE, "P(E | do(C=0), D=1, F=0)"),
        ],
    )
    def test_gives_the_exact_conditionals(self, either, graph, text):
        scm = random_discrete(ADMG.from_string(graph), levels=2, seed=7)
        agrees(model_of(scm), scm, text)

    @pytest.mark.parametrize("text", ["P(Y | do(X))", "P(Z | do(Y=0))", "P(X, Y)", "E[Y | do(X=1)] - E[Y | do(X=0)]"])
    def test_none_gives_the_exact_answers(self, front_door, text):
        agrees(front_door[1], front_door[0], text)

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_in_any_graph(self, data):
        graph = data.draw(admgs(min_nodes=2, max_nodes=5, max_latents=1, max_bidirected=3)).admg()
        scm = random_discrete(graph, levels=2, latent_levels=3, seed=data.draw(st.integers(0, 99)), smoothing=0.3)
        names = data.draw(st.permutations(graph.nodes))
        size = data.draw(st.integers(1, len(names) - 1))
        seen = {name: data.draw(st.integers(0, 1)) for name in names[:size]}
        model = model_of(scm)
        exact = scm.exact(names[size], given=seen).to_numpy()
        drawn = model.draw_samples(4000, given=seen, variables=[names[size]]).table[names[size]]
        # one comparison in 150,000 of a right sampler fails
        assert abs((drawn == 1).mean() - exact[1]) <= 4.5 * math.sqrt(exact[0] * exact[1] / 4000)

    def test_agrees_with_rejection(self, either, front_door):
        scm, model = front_door
        seen = {"Y": 2, "Z": 1}
        natural = scm.sample(400_000, seed=1)
        kept = natural[(natural["Y"] == 2) & (natural["Z"] == 1)]["X"]
        drawn = model.draw_samples(ROWS, given=seen)
        share, rejected = (drawn.table["X"] == 1).mean(), (kept == 1).mean()
        error = math.sqrt(share * (1 - share) * (1 / drawn.ess + 1 / len(kept)))
        assert abs(share - rejected) <= 4 * error

    def test_weights_say_what_resampled_rows_do(self, front_door, monkeypatch):
        monkeypatch.setattr("mdcm.sampling.abduction._LARGEST", 0)
        scm, model = front_door
        weighted = model.draw_samples(ROWS, given={"Y": 2}, resample=False)
        equal = model.draw_samples(ROWS, given={"Y": 2})
        assert weighted.weights.sum() == pytest.approx(1)
        assert 1 / np.square(weighted.weights).sum() == pytest.approx(weighted.ess)
        assert weighted.ess >= ROWS
        assert equal.weights is None
        assert (len(equal), equal.ess) == (ROWS, ROWS)
        exact = scm.exact("X", given={"Y": 2})[1]
        for share in (weighted.weights @ (weighted.table["X"] == 1), (equal.table["X"] == 1).mean()):
            assert abs(share - exact) <= 4 * math.sqrt(exact * (1 - exact) / ROWS)

    def test_rows_are_the_same_in_any_tiles(self, monkeypatch):
        scm = random_discrete(ADMG.from_string(TANGLE), levels=2, seed=7)
        monkeypatch.setattr("mdcm.sampling.abduction._LARGEST", 0)
        drawn = []
        for cells, rows in ((1 << 23, 1 << 18), (1000, 50)):
            monkeypatch.setattr("mdcm.sampling.abduction._ROW_CELLS", cells)
            monkeypatch.setattr("mdcm.sampling.densities._MOST_ROWS", rows)
            drawn.append(model_of(scm).draw_samples(3000, given={"D": 1, "E": 0}, resample=False))
        pd.testing.assert_frame_equal(drawn[0].table, drawn[1].table, check_exact=True)
        assert drawn[0].weights == pytest.approx(drawn[1].weights, rel=1e-9)

    def test_rows_are_equal_where_all_causes_of_evidence_are_seen(self, front_door, monkeypatch):
        monkeypatch.setattr("mdcm.sampling.abduction._LARGEST", 0)
        scm, model = front_door
        drawn = model.draw_samples(ROWS, given={"X": 1, "Z": 0}, resample=False)
        assert drawn.weights is None
        assert (len(drawn), drawn.ess) == (ROWS, ROWS)
        exact = scm.exact("Y", given={"X": 1, "Z": 0}).to_numpy()
        shares = drawn.table["Y"].value_counts(normalize=True).sort_index().to_numpy()
        assert (np.abs(shares - exact) <= 4 * np.sqrt(exact * (1 - exact) / ROWS)).all()

    def test_row_i_is_the_same_however_many_are_drawn(self, front_door):
        model = front_door[1]
        whole = model.draw_samples(9000, given={"Y": 1}, seed=3).table
        for number in (1, 4096, 4097):
            part = model.draw_samples(number, given={"Y": 1}, seed=3).table
            pd.testing.assert_frame_equal(part, whole.head(number), check_exact=True)

    def test_that_is_rare_costs_nothing_in_closed_form(self):
        scm = DiscreteSCM(
            ADMG.from_string("A -> B; A <-> C; C -> B"),
            {
                "A": [[0.99, 0.01], [0.9, 0.1]],
                "C": [[0.999, 0.001], [0.95, 0.05]],
                "B": [[[0.9999, 0.0001], [0.999, 0.001]], [[0.998, 0.002], [0.5, 0.5]]],
            },
            {"U[A,C]": [0.7, 0.3]},
        )
        model = model_of(scm)
        assert scm.exact("B")[1] < 1e-3
        answer = agrees(model, scm, "P(A, C | B=1)")
        assert answer.ess == ROWS

    def test_weights_that_rest_on_few_rows_are_refused(self, monkeypatch):
        monkeypatch.setattr("mdcm.sampling.abduction._LARGEST", 0)
        rare = [[1 - 1e-5, 1e-5], [0.0, 1.0]]
        scm = DiscreteSCM(ADMG.from_string("A -> B"), {"A": [1 - 1e-4, 1e-4], "B": rare})
        with pytest.raises(
            LowSupportError, match="draws weighted by B=1 have an effective sample size of only"
        ) as caught:
            model_of(scm).draw_samples(1000, given={"B": 1})
        assert 0 < caught.value.probability < 1e-3
        with pytest.raises(LowSupportError, match="draws weighted by B=1"):
            model_of(scm).query("P(A | B=1)", 1000)

    def test_that_cannot_be_is_refused(self, either):
        scm = DiscreteSCM(ADMG.from_string("A -> B"), {"A": [0.5, 0.5], "B": [[1.0, 0.0], [1.0, 0.0]]})
        with pytest.raises(LowSupportError) as caught:
            model_of(scm).draw_samples(10, given={"B": 1})
        assert caught.value.probability == 0

    def test_probability_is_that_of_the_model(self, either, front_door):
        from mdcm.sampling import Draws, Network

        scm, model = front_door
        network = Network(model.dcm)
        world = network.world({})
        evidence = {world["Y"]: torch.tensor([1]), world["X"]: torch.tensor([0])}
        draws = Draws(network, [world["Z"]], evidence, 50_000, 0)
        exact = scm.exact(["X", "Y"])[0, 1]
        assert draws.probability == pytest.approx(exact, rel=0.02 if either == "by weighting" else 1e-6)


class Line(Mechanism):
    """y = offset + slopes · parents + scale e, as a user writes it; e is standard normal."""

    noise_size = 1
    has_density = True

    def __init__(self, variable, parents, latents, slopes, scale, shifts=None):
        super().__init__(variable, parents, latents)
        self.slopes, self.scale = slopes, scale
        self.shifts = None if shifts is None else nn.Parameter(torch.tensor(shifts), requires_grad=False)

    def mean(self, parents, latents, rows):
        total = torch.zeros(rows)
        for parent, slope in zip(self.parents, self.slopes, strict=True):
            total = total + slope * parents[parent.name].float()
        return total if self.shifts is None else total + self.shifts[latents[0]]

    def forward(self, parents, latents, noise):
        return self.mean(parents, latents, len(noise)) + self.scale * noise.squeeze(1)

    def log_prob(self, parents, latents, value):
        z = (value - self.mean(parents, latents, len(value))) / self.scale
        return -z.square() / 2 - math.log(self.scale * math.sqrt(2 * math.pi))

    def abduct(self, parents, latents, value, fresh):
        return ((value - self.mean(parents, latents, len(value))) / self.scale)[:, None]

    def conditional_loss(self, parents, value, generator):
        return -self.log_prob(parents, (), value)

    def config(self):
        return {"type": "tests.Line"}


def line(*slopes, scale=1.0, shifts=None):
    return lambda variable, parents, latents: Line(variable, parents, latents, slopes, scale, shifts)


def number(name):
    return Variable(name, "continuous")


# what the draws rest on is judged in test_verdicts
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestContinuousEvidence:
    def test_gaussian_chain(self):
        """A -> B with standard normal noise: A given B = b is normal with mean b / 2 and variance 1 / 2."""
        scm = random_discrete(ADMG.from_string("A -> B; A -> C"), levels=2, seed=0)
        names = ("A", "B", "C")
        model = model_of(scm, {"A": line(), "B": line(1.0), "C": line(2.0)}, {name: number(name) for name in names})
        drawn = model.draw_samples(ROWS, given={"B": 1.5})
        assert set(drawn.table["B"]) == {1.5}
        a, c = drawn.table["A"], drawn.table["C"]
        assert abs(a.mean() - 0.75) < 4 * math.sqrt(0.5 / ROWS)
        assert abs(a.var() - 0.5) < 4 * 0.5 * math.sqrt(2 / ROWS)
        assert abs(c.var() - 3.0) < 4 * 3.0 * math.sqrt(2 / ROWS)
        answer = model.query("E[A | B=1.5]", ROWS)
        assert abs(answer.value - 0.75) < 4 * answer.stderr
        # the noise of B is what is left of 1.5, and A would not have been otherwise
        other = model.counterfactual_samples(ROWS, evidence={"B": 1.5, "A": 1.0}, do={"A": -1.0})
        assert other.table["B"].to_numpy() == pytest.approx(-0.5, abs=1e-6)

    def test_mixture_with_a_confounder(self):
        """X <-> Y, X -> Y, with X of two levels and Y normal around a mean of the state and of X."""
        scm = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, latent_levels=2, seed=3)
        model = model_of(scm, {"Y": line(1.0, shifts=[-1.0, 2.0])}, {"Y": number("Y")})
        prior, table = scm.priors["U[X,Y]"], scm.tables["X"]
        y = 0.7
        means = np.array([[-1.0, 0.0], [2.0, 3.0]])
        joint = prior[:, None] * table * np.exp(-((y - means) ** 2) / 2)
        exact = joint.sum(0) / joint.sum()
        answer = model.query("P(X | Y=0.7)", ROWS, allow_unidentifiable=True)
        assert answer.ess == ROWS
        assert np.abs(answer.table["probability"] - exact).max() < 4 * answer.table["stderr"].max()
        # what Y would have been had X been 1: 0.7 where it was 1, and 1.7 where it was 0
        shifted = model.counterfactual_samples(ROWS, evidence={"Y": y}, do={"X": 1}).table["Y"]
        assert set(shifted.round(4)) == {0.7, 1.7}
        assert abs((shifted < 1).mean() - exact[1]) < 4 * math.sqrt(exact[0] * exact[1] / ROWS)

    def test_in_two_worlds_is_refused(self):
        scm = random_discrete(ADMG.from_string("X -> Y; Z"), levels=2, seed=0)
        model = model_of(scm, {"Y": line(1.0)}, {"Y": number("Y")})
        with pytest.raises(QueryError, match="'Y' is continuous and takes part in two worlds") as caught:
            model.query("P(Z | Y[X=0]=1, Y[X=1]=2)", 100)
        assert caught.value.position == "P(Z | Y[X=0]=1, Y[X=1]=2)".index("Y[X=1]")
        # in worlds that do not differ for it, it is seen once
        assert model.query("P(X | Y=1, Y[Z=1]=1)", 1000).ess == 1000


class Blind(Line):
    """Without a density, and perhaps without an inverse."""

    has_density = False
    log_prob = Mechanism.log_prob


class Lost(Blind):
    abduct = Mechanism.abduct


# what the draws rest on is judged in test_verdicts
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestEvidenceWithoutDensity:
    def model(self, kind):
        scm = random_discrete(ADMG.from_string("X -> Y -> Z"), levels=2, seed=0)
        return model_of(scm, {"Y": lambda *parts: kind(*parts, (1.0,), 1.0), "Z": line(1.0)},
                        {"Y": Variable("Y", "implicit"), "Z": number("Z")})  # fmt: skip

    def test_needs_all_causes(self):
        with pytest.raises(QueryError, match="'Y' is implicit and has no density, so it can be conditioned on only"):
            self.model(Blind).draw_samples(10, given={"Y": 1.0})
        drawn = self.model(Blind).draw_samples(100, given={"Y": 1.0, "X": 1})
        assert set(drawn.table["Y"]) == {1.0}
        other = self.model(Blind).counterfactual_samples(100, evidence={"Y": 1.0, "X": 1}, do={"X": 0})
        assert other.table["Y"].to_numpy() == pytest.approx(0.0, abs=1e-6)

    def test_needs_an_inverse_for_what_would_have_been(self):
        with pytest.raises(QueryError, match=r"the mechanism of 'Y' \(Lost\) cannot be inverted"):
            self.model(Lost).counterfactual_samples(10, evidence={"Y": 1.0, "X": 1}, do={"X": 0})
        assert len(self.model(Lost).draw_samples(10, given={"Y": 1.0, "X": 1})) == 10


class TestInterventions:
    def test_a_function_of_the_natural_value(self, front_door):
        scm, model = front_door
        natural = model.draw_samples(5000, seed=1).table
        flipped = model.draw_samples(5000, do={"X": lambda value: 1 - value}, seed=1).table
        assert (flipped["X"] == 1 - natural["X"]).all()
        given_values = model.draw_samples(5000, do={"X": flipped["X"]}, seed=1).table
        pd.testing.assert_frame_equal(flipped, given_values, check_exact=True)
        # sum over x of P(X = x) P(y | do(1 - x), X = x)
        exact = sum(
            scm.exact("X")[x] * scm.exact_counterfactual("Y", {"X": 1 - x}, {"X": x}).to_numpy() for x in (0, 1)
        )
        answer = model.query("P(Y | do(X))", ROWS, do={"X": lambda value: 1 - value}, allow_unidentifiable=True)
        assert (np.abs(answer.table["probability"] - exact) <= 4 * answer.table["stderr"]).all()

    def test_a_function_and_evidence_in_its_world(self, front_door):
        scm, model = front_door
        drawn = model.draw_samples(ROWS, do={"X": lambda value: 1 - value}, given={"Y": 1})
        weights = [scm.exact("X")[x] * scm.exact_counterfactual("Y", {"X": 1 - x}, {"X": x})[1] for x in (0, 1)]
        exact = weights[0] / sum(weights)
        assert abs((drawn.table["X"] == 1).mean() - exact) <= 4 * math.sqrt(exact * (1 - exact) / ROWS)

    def test_a_list_of_values_gives_a_table(self):
        scm = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=0)
        model = model_of(scm, {"X": line(), "Y": line(2.0)}, {"X": number("X"), "Y": number("Y")})
        answer = model.query("E[Y | do(X)]", 2000, do={"X": [0.0, 0.5, 1.0]})
        assert answer.table["X"].tolist() == [0.0, 0.5, 1.0]
        assert answer.table["mean"].diff().dropna().to_numpy() == pytest.approx(1.0, abs=1e-5)
        soft = model.query("E[Y | do(X)]", ROWS, do={"X": lambda value: value + 1})
        assert abs(soft.value - 2) < 4 * soft.stderr

    def test_noise_that_is_given(self, front_door):
        model = front_door[1]
        noise = model.draw_noise(6000, seed=5)
        assert {name: array.shape for name, array in noise.items()} == {
            "X": (6000, 1), "Z": (6000, 1), "Y": (6000, 1), "U[X,Y]": (6000,),
        }  # fmt: skip
        for do in (None, {"Z": 2}):
            drawn = model.draw_samples(6000, do=do, noise=noise, seed=99).table
            pd.testing.assert_frame_equal(drawn, model.draw_samples(6000, do=do, seed=5).table, check_exact=True)
        # what is left out is drawn as ever
        part = model.draw_samples(6000, noise={"U[X,Y]": noise["U[X,Y]"]}, seed=5).table
        pd.testing.assert_frame_equal(part, model.draw_samples(6000, seed=5).table, check_exact=True)

    def test_refusals(self, front_door):
        model = front_door[1]
        for kind, message, options in [
            (QueryError, "noise: there is no variable or confounder 'Q'", {"noise": {"Q": [0]}}),
            (DataError, r"noise of 'X' must be finite numbers of shape \[2, 1\]", {"noise": {"X": [0.0, 1.0]}}),
            (DataError, r"whole numbers in \[0, 4\) of shape \[2\]", {"noise": {"U[X,Y]": [0, 4]}}),
            (
                QueryError,
                "noise cannot be given together with evidence",
                {"noise": {"X": [[0], [1]]}, "given": {"Y": 0}},
            ),
            (DataError, "variable 'X' has no level 7", {"do": {"X": lambda value: 7}}),
            (DataError, "one value of 'Y' is needed, not 2", {"given": {"Y": [0, 1]}}),
        ]:
            with pytest.raises(kind, match=message):
                model.draw_samples(2, **options)
        with pytest.raises(QueryError, match=r"do=\{'Z': ...\}: the query has no do\(Z\) without a value"):
            model.query("P(Y | do(X))", 100, do={"Z": [0]})
        with pytest.raises(DataError, match="the list of values is empty"):
            model.query("P(Y | do(X))", 100, do={"X": []})


# what the draws rest on is judged in test_verdicts
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestStreams:
    @pytest.mark.parametrize(
        "options",
        [{}, {"do": {"X": 1}}, {"given": {"Y": 1}}, {"evidence": {"Y": 1}, "do": {"X": 0}},
         {"evidence": {"Y": 1}, "given": {"Y": 2}, "do": {"X": 0}}],
        ids=["observing", "doing", "seeing", "imagining", "seeing twice"],
    )  # fmt: skip
    def test_blocks_are_the_rows(self, front_door, options):
        model = front_door[1]
        blocks = list(model.stream_samples(9000, seed=2, **options))
        assert [len(block) for block in blocks] == [4096, 4096, 808]
        whole = (model.counterfactual_samples if "evidence" in options else model.draw_samples)(9000, seed=2, **options)
        joined = pd.concat([block.table for block in blocks], ignore_index=True)
        pd.testing.assert_frame_equal(joined, whole.table, check_exact=True)
        assert sum(block.ess for block in blocks) == pytest.approx(whole.ess)

    def test_errors_come_before_the_first_block(self, front_door):
        with pytest.raises(QueryError, match="there is no variable 'Q'"):
            front_door[1].stream_samples(10, do={"Q": 1})

    def test_no_more_than_a_block_is_held(self, front_door):
        stream = front_door[1].stream_samples(10**15)
        assert len(next(stream)) == len(next(stream)) == 4096


class TestWeights:
    @settings(deadline=None)
    @given(st.lists(st.floats(-30, 5), min_size=1, max_size=30), st.integers(1, 200), st.floats(0, 0.999))
    def test_systematic_draws_occur_as_often_as_they_should(self, logs, count, uniform):
        log_weight = torch.tensor(logs, dtype=torch.float64)
        drawn = systematic(log_weight, count, uniform)
        expected = log_weight.softmax(0) * count
        occurs = torch.bincount(drawn, minlength=len(logs)).double()
        assert (occurs - expected).abs().max() <= 1 + 1e-9
        assert occurs.sum() == count

    def test_equal_weights_are_worth_their_number(self):
        assert effective_size(torch.full((7,), -1000.0)) == pytest.approx(7)
        assert largest_share(torch.full((4,), 3.0)) == pytest.approx(0.25)
        assert effective_size(torch.full((3,), -math.inf)) == 0
        assert largest_share(torch.full((3,), -math.inf)) == 1
