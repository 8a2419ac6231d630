"""Values that users hold: in arrays of any library, of any byte order, and given back as they were given."""

import io

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from command_line import fail, succeed
from fitted import BRIEF

import mdcm
from mdcm.data import Dataset, Schema, encode
from mdcm.errors import DataError, GraphError, QueryError


@pytest.fixture(scope="module")
def numbers():
    """X -> Y -> T of a number, a whole number and a date."""
    rng = np.random.default_rng(0)
    x = rng.normal(5, 1, 300)
    y = np.rint(100 * x + rng.normal(size=300)).astype(np.int64)
    days = pd.Timestamp("2024-05-28") + pd.to_timedelta(np.rint(y / 10), unit="D")
    table = pd.DataFrame({"X": x, "Y": y, "T": days})
    return mdcm.fit("X -> Y -> T", table, variables={"Y": {"kind": "continuous"}}, config=BRIEF)


# the verdict on what is drawn is the subject of test_verdicts.py
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
class TestGivenBack:
    def test_what_is_set_comes_back_as_it_was_given(self, numbers):
        day = pd.Timestamp("2024-06-28 13:45")
        for x, y, at in [(0.0, 500, day), (0.1, -1, "2024-05-01"), (1 / 3, 2**24 + 1, np.datetime64("2030-01-01"))]:
            drawn = numbers.draw_samples(4, do={"X": x, "Y": y, "T": at}).table
            assert drawn["X"].tolist() == [x] * 4
            assert drawn["Y"].tolist() == [y] * 4
            assert drawn["T"].tolist() == [pd.Timestamp(at)] * 4

    def test_what_is_set_row_by_row_and_what_is_seen_too(self, numbers):
        x = [0.1, 5.0, 1 / 3, 0.0]
        assert numbers.draw_samples(4, do={"X": x}).table["X"].tolist() == x
        assert numbers.draw_samples(4, given={"X": 5.1}).table["X"].tolist() == [5.1] * 4
        drawn = numbers.counterfactual_samples(4, evidence={"X": 5.1}, do={"Y": 499}).table
        assert drawn["Y"].tolist() == [499] * 4
        blocks = list(numbers.stream_samples(5000, do={"X": np.linspace(4, 6, 5000)}))
        assert np.array_equal(np.concatenate([block.table["X"] for block in blocks]), np.linspace(4, 6, 5000))

    @pytest.mark.parametrize(
        "make",
        [
            pd.Index, pd.array, torch.tensor, tuple, pd.Series, lambda v: np.array(v, dtype=">f8"),
            lambda v: np.array(v, dtype=object), lambda v: torch.tensor(v, requires_grad=True),
        ],
    )  # fmt: skip
    def test_arrays_of_any_library_are_taken(self, numbers, make):
        x = [0.5, 5.0, 0.25, 0.0]
        assert numbers.draw_samples(4, do={"X": make(x)}).table["X"].tolist() == x
        dataset = Dataset({"X": make(x), "Y": [1, 2, 3, 4]})
        assert encode(dataset, Schema.infer([dataset]))["X"].shape == (4,)
        with pytest.raises(DataError, match="2 values were given for 4 rows"):
            numbers.draw_samples(4, do={"X": make(x[:2])})

    def test_levels_in_arrays_of_any_library(self):
        table = pd.DataFrame({"X": ["a", "b"] * 20, "Y": [0, 1] * 20})
        model = mdcm.fit("X -> Y", table, config=BRIEF)
        for values in (pd.Index(["a", "b"]), pd.array(["a", "b"]), pd.Categorical(["a", "b"]), np.array(["a", "b"])):
            assert model.draw_samples(2, do={"X": values}).table["X"].tolist() == ["a", "b"]
        assert model.draw_samples(2, do={"Y": torch.tensor([1, 0])}).table["Y"].tolist() == [1, 0]
        assert model.draw_samples(2, do={"Y": range(2)}).table["Y"].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [">i4", ">f8", ">i2", "<f4", ">u2"])
def test_columns_of_another_byte_order_are_columns(dtype):
    values = np.array([1, 2, 2, 3], dtype=dtype)
    dataset = Dataset(pd.DataFrame({"X": values, "Y": [0, 1, 0, 1]}))
    assert encode(dataset, Schema.infer([dataset]))["X"].tolist() == [0, 1, 1, 2]


class TestGraphsAtTheDoor:
    TABLE = pd.DataFrame({"X": [0, 1] * 20, "Y": [0, 1, 1, 1] * 10})

    def test_networkx_digraphs_are_graphs(self):
        graph, admg = nx.DiGraph([("X", "Y")]), mdcm.ADMG.from_string("X -> Y")
        assert mdcm.fit(graph, self.TABLE, config=BRIEF).graph == admg
        assert mdcm.plan(graph) == mdcm.plan(admg)
        assert mdcm.identify(graph, "P(Y | do(X))").identifiable
        hidden = nx.DiGraph([("X", "Y"), ("U", "X"), ("U", "Y")])
        hidden.nodes["U"]["latent"] = True
        assert not mdcm.identify(hidden, "P(Y | do(X))").identifiable
        for wrong in (nx.Graph([("X", "Y")]), {"X": ["Y"]}, None):
            with pytest.raises(GraphError):
                mdcm.fit(wrong, self.TABLE)

    def test_a_graph_may_come_from_standard_input(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.StringIO("X -> Y; X <-> Y\n"))
        assert "{X, Y}" in succeed("plan", "-").out
        monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
        assert "standard input is empty" in fail(2, "plan", "-")

    @pytest.mark.parametrize("text", ["", "  ", ";", "# nothing", "dag { }"])
    def test_a_graph_without_variables_is_told(self, text):
        assert "the graph has no variable; write one such as" in fail(2, "plan", text)

    @pytest.mark.filterwarnings("ignore:dataset 'd1'. column")
    def test_names_in_another_case_are_suggested(self):
        with pytest.raises(DataError, match="did you mean 'AGE'"):
            mdcm.fit("Age -> Y", self.TABLE.rename(columns={"X": "AGE"}))
        with pytest.raises(DataError, match="did you mean ' X'"):
            mdcm.fit("X -> Y", self.TABLE.rename(columns={"X": " X"}))
        with pytest.raises(QueryError, match="did you mean 'X'"):
            mdcm.identify("X -> Y", "P(Y | do(x))")

    def test_what_answers_and_draws_are_is_at_the_top(self):
        model = mdcm.fit("X -> Y", self.TABLE, config=BRIEF)
        assert isinstance(model.query("P(Y)", 50), mdcm.Answer)
        assert isinstance(model.draw_samples(2), mdcm.Samples)
