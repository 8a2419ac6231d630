"""Datasets: what they hold, how they fit together, and what each kind of bad input is told."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from tables import pixels, refused

import mdcm
from mdcm.data import (
    Dataset,
    Schema,
    encode,
    read_images,
    validate,
)
from mdcm.planning import DatasetSpec


class TestDataset:
    def test_parts_are_kept_under_their_names(self):
        table = pd.DataFrame({"D": [0, 1, 1, 0], "p": ["u", "v", "u", "v"], "w": [1, 2, 3, 4]}, index=[9, 8, 7, 6])
        dataset = Dataset(table, do=["D"], images={"I": pixels()}, groups="p", weights="w", name="trial")
        assert len(dataset) == 4
        assert dataset.columns == ("D", "p", "w", "I")
        assert dataset.do == ("D",)
        assert dataset.groups.tolist() == [0, 1, 0, 1]
        assert dataset.weights.tolist() == [1.0, 2.0, 3.0, 4.0]
        assert list(dataset.table.index) == [0, 1, 2, 3]
        assert list(table.index) == [9, 8, 7, 6]
        assert "trial" in repr(dataset)

    def test_groups_and_weights_may_be_arrays(self):
        dataset = Dataset({"X": [0, 1, 0]}, groups=["a", "b", "a"], weights=[0.5, 1, 2])
        assert dataset.groups.tolist() == [0, 1, 0]
        assert dataset.weights.tolist() == [0.5, 1, 2]

    @pytest.mark.parametrize("order", ["channels first", "channels last"])
    def test_uint8_images_are_passed_through_without_a_copy(self, order):
        array = pixels()
        given_ = array if order == "channels first" else np.ascontiguousarray(np.moveaxis(array, 1, 3))
        dataset = Dataset(images={"I": given_}, channels_last=order == "channels last")
        schema = Schema.infer([dataset])
        assert schema["I"].shape == (3, 5, 6)
        encoded = encode(dataset, schema)["I"]
        assert np.shares_memory(encoded, given_)
        assert (encoded == array).all()

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_float_images_round_to_the_nearest_byte(self, dtype):
        array = pixels(c=1)
        dataset = Dataset(images={"I": (array / 255).astype(dtype)})
        encoded = encode(dataset, Schema.infer([dataset]))["I"]
        assert encoded.dtype == np.uint8
        assert (encoded == array).all()

    def test_memory_mapped_images_stay_on_disk(self, tmp_path):
        np.save(tmp_path / "I.npy", pixels())
        array = read_images(tmp_path / "I.npy")
        assert isinstance(array, np.memmap)
        dataset = Dataset(images={"I": array})
        assert np.shares_memory(encode(dataset, Schema.infer([dataset]))["I"], array)

    def test_large_float_images_are_read_in_blocks(self, monkeypatch):
        monkeypatch.setattr("mdcm.data.dataset.BLOCK_BYTES", 1000)
        array = pixels(n=50) / 255
        dataset = Dataset(images={"I": array})
        assert (encode(dataset, Schema.infer([dataset]))["I"] == pixels(n=50)).all()
        array[41, 0, 0, 0] = np.nan
        assert refused("row 41 holds nan", Dataset, images={"I": array}).row == 41

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "is empty: give a table"),
            ({"table": pd.DataFrame({"X": []})}, "it has no rows"),
            ({"table": [1, 2]}, "must be a pandas DataFrame, not list"),
            ({"table": {"X": [1, 2], "Y": [1]}}, "do not make a table"),
            ({"table": pd.DataFrame([[1, 2]], columns=["X", "X"])}, "2 columns are called 'X'"),
            ({"table": pd.DataFrame([[1, 2]], columns=[1, "1"])}, "2 columns are called '1'"),
            ({"table": pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")]))}, "several levels"),
            ({"table": {"Dose": [1, 2]}, "do": ["dose"]}, "no column 'dose'.*did you mean 'Dose'"),
            ({"table": {"X": [1, 2]}, "do": {"X": 1}}, "do takes the names"),
            ({"table": {"X": [1, 2]}, "do": ["X", "X"]}, "twice"),
            ({"table": {"X": [1, 2]}, "weights": "w"}, "weights='w' is not a column"),
            ({"table": {"X": [1, 2]}, "groups": [1]}, "groups has 1 values for 2 rows"),
            ({"table": {"X": [1, 2]}, "weights": ["a", "b"]}, "weights must be numbers"),
            ({"table": {"X": [1, 2]}, "images": {"I": pixels(3)}}, "'I' has 3 rows, but there are 2"),
            ({"table": {"I": [1, 2, 3, 4]}, "images": {"I": pixels()}}, "both a column"),
            ({"images": {"I": pixels()[:, 0]}}, r"shape \[4, 5, 6\]; add the channel axis"),
            ({"images": {"I": np.moveaxis(pixels(), 1, 3)}}, "channels_last=True"),
            ({"images": {"I": pixels().astype(np.int64)}}, "dtype int64"),
            ({"images": {"I": pixels().astype(np.float32)}}, "must lie in"),
            ({"images": {"I": np.zeros((2, 0, 4, 4), np.uint8)}}, "must be an array"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, arguments, message):
        error = refused(message, Dataset, **arguments, name="trial")
        assert error.dataset == "trial"
        assert "trial" in str(error)

    @pytest.mark.parametrize("weights", [[1, 0, -1, 2], [1, np.nan, 1, np.inf]])
    def test_weights_that_are_not_positive_name_the_first_row_and_their_number(self, weights):
        table = {"X": [1, 2, 3, 4], "w": weights}
        error = refused("'w'.*positive and finite.*2 rows, the first is row 1", Dataset, table, weights="w", name="d")
        assert (error.dataset, error.column, error.row, error.count) == ("d", "w", 1, 2)

    def test_missing_groups_are_refused(self):
        error = refused("groups", Dataset, {"X": [1, 2], "p": ["a", None]}, groups="p")
        assert (error.column, error.row, error.count) == ("p", 1, 1)

    def test_the_plan_hears_of_columns_targets_values_and_rows(self):
        table = {
            "X": [2, 0, 2, 0],
            "Y": [1, 0, 1, 0],
            "T": pd.to_datetime(["1970-01-03", "1970-01-02"] * 2),
            "Q": [0] * 4,
        }
        spec = Dataset(table, do=["X", "T", "I"], images={"I": pixels()}, name="trial").spec(["I", "X", "Y", "T"])
        values = {"X": [0, 2], "T": [1.0, 2.0], "I": None}
        together = [(0, 1.0, None), (2, 2.0, None)]
        assert spec == DatasetSpec("trial", columns=["X", "Y", "T", "I"], do=values, rows=4, combinations=together)


class TestValidate:
    nodes = ("X", "Y", "Z")
    table = pd.DataFrame({"X": [0, 1, 1, 0], "Y": [0, 1, 0, 1], "Z": [0.5, 1.5, 2.5, 3.5]})

    def test_one_table_becomes_one_named_data_set(self):
        (dataset,) = validate(self.table, self.nodes)
        assert dataset.name == "d1"
        assert dataset.columns == ("X", "Y", "Z")

    def test_names_are_given_by_place(self):
        named = validate([self.table, Dataset(self.table, name="mine"), Dataset(self.table)], self.nodes)
        assert [dataset.name for dataset in named] == ["d1", "mine", "d3"]
        refused(
            "2 datasets are called 'd2'", validate, [Dataset(self.table, name="d2"), Dataset(self.table)], self.nodes
        )

    def test_missing_column_names_the_nearest_one(self):
        table = self.table.rename(columns={"Z": "Zz"})
        with pytest.warns(UserWarning, match="'Zz' is not a node"):
            error = refused("'Z' of the graph is not a column of any dataset.*'Zz'", validate, table, self.nodes)
        assert (error.dataset, error.column) == ("d1", "Z")
        assert validate(self.table[["X", "Y"]], self.nodes, unobserved=["Z"])[0].columns == ("X", "Y")

    def test_columns_may_be_spread_over_data_sets(self):
        datasets = validate([self.table[["X", "Y"]], self.table[["Z"]]], self.nodes)
        assert [dataset.columns for dataset in datasets] == [("X", "Y"), ("Z",)]

    def test_missing_values_name_column_first_row_and_their_number(self):
        table = self.table.assign(Y=[0, None, None, 1])
        error = refused(
            r"'Y' has missing values \(2 rows, the first is row 1, counted from 0\).*dropna=True",
            validate,
            Dataset(table, name="trial"),
            self.nodes,
        )
        assert (error.dataset, error.column, error.row, error.count) == ("trial", "Y", 1, 2)

    def test_dropna_leaves_out_rows_everywhere(self):
        table = self.table.assign(Y=[0, None, 1, 1], extra=[None] * 4, w=[1, 2, 3, 4], p=list("abcd"))
        dataset = Dataset(table, images={"I": pixels()}, weights="w", groups="p", dropna=True)
        with pytest.warns(UserWarning, match="'extra'"):
            (kept,) = validate(dataset, (*self.nodes, "I"))
        assert kept.table["Y"].tolist() == [0, 1, 1]
        assert kept.weights.tolist() == [1, 3, 4]
        assert kept.groups.tolist() == [0, 2, 3]
        assert (kept.images["I"] == pixels()[[0, 2, 3]]).all()
        assert kept.rows.tolist() == [0, 2, 3]
        # and what is wrong with a row that is left is told by its number in the table that was given
        error = refused("no level 1", Schema.infer, [kept], {"Y": {"levels": [0]}})
        assert (error.row, error.count) == (2, 2)
        none = Dataset({"X": [0, None], "Y": [None, 1]}, dropna=True)
        refused("leaves none", validate, none, ("X", "Y"))

    def test_a_column_without_values_counts_as_not_observed(self):
        empty = Dataset(self.table.assign(Z=np.nan), name="a")
        with pytest.warns(UserWarning, match="dataset 'a': column 'Z' has no values"):
            first, _ = validate([empty, self.table], self.nodes)
        assert first.columns == ("X", "Y")
        target = Dataset(self.table.assign(X=np.nan), do="X")
        refused("target of the intervention, but has no values", validate, target, self.nodes)

    def test_extra_columns_are_ignored_with_one_warning(self):
        table = self.table.assign(a=1, b=2, w=1.0)
        with pytest.warns(UserWarning, match="columns 'a', 'b' are not nodes") as caught:
            (dataset,) = validate(Dataset(table, weights="w"), self.nodes)
        assert len(caught) == 1
        assert dataset.columns == self.nodes
        refused("none of the graph's variables", validate, self.table, ("A", "B"))

    def test_dropna_leaves_out_rows_without_weight_or_group(self):
        table = self.table.assign(w=[1, 2, None, 4], p=["a", "b", "c", None])
        (kept,) = validate(Dataset(table, weights="w", groups="p", dropna=True), self.nodes)
        assert (kept.rows.tolist(), kept.weights.tolist(), kept.groups.tolist()) == ([0, 1], [1.0, 2.0], [0, 1])
        refused("'w'.*positive and finite", Dataset, table, weights="w")
        refused("'p' .groups. is missing.*dropna=True", Dataset, table, groups="p")
        refused("positive", Dataset, table.assign(w=[1, 2, -3, 4]), weights="w", dropna=True)

    def test_a_data_set_without_any_value_is_refused(self):
        with pytest.warns(UserWarning, match="has no values"):
            refused("no variable of the graph has any values", validate, {"X": [None, None]}, self.nodes)

    def test_targets_must_be_nodes(self):
        table = self.table.assign(Q=1)
        refused("'Q' is not a node of the graph", validate, Dataset(table, do="Q"), self.nodes)

    def test_infinite_values_are_refused(self):
        table = self.table.assign(Z=[0.5, np.inf, -np.inf, 1])
        error = refused("'Z' has infinite values", validate, table, self.nodes)
        assert (error.column, error.row, error.count) == ("Z", 1, 2)

    def test_a_constant_column_warns_where_another_data_set_varies(self):
        constant = self.table.assign(Y=1)
        with pytest.warns(UserWarning, match=r"dataset 'd1': column 'Y' is constant \(1\)"):
            validate([constant, self.table], self.nodes)

    @pytest.mark.parametrize(
        ("value", "declared", "levels"),
        [
            (1, {}, (1,)),
            ("no", {}, ("no",)),
            (True, {}, (True,)),
            (0.5, {"kind": "categorical"}, (0.5,)),
            # other levels are known, though no row has them
            ("no", {"levels": ["no", "yes"]}, ("no", "yes")),
        ],
    )
    def test_a_level_that_never_varies_is_kept(self, value, declared, levels):
        datasets = validate(self.table.assign(Y=value), self.nodes)
        with pytest.warns(UserWarning, match="nothing is learned") as caught:
            schema = Schema.infer(datasets, {"Y": declared}, order=self.nodes)
        assert len(caught) == 1
        assert schema["Y"].levels == levels

    @pytest.mark.parametrize(
        ("value", "declared"), [(0.5, {}), (2.0, {"kind": "continuous"}), (2, {"kind": "continuous"})]
    )
    def test_a_number_that_never_varies_is_refused(self, value, declared):
        datasets = validate(self.table.assign(Y=value), self.nodes)
        error = refused("'Y' is .* in every row.*constant in all datasets", Schema.infer, datasets, {"Y": declared})
        assert (error.dataset, error.column) == ("d1", "Y")

    def test_what_was_set_may_be_constant(self):
        validate(Dataset(self.table.assign(X=1), do="X"), self.nodes)
        with pytest.warns(UserWarning, match="'X' is constant"):
            validate([self.table.assign(X=0), Dataset(self.table.assign(X=1), do="X")], self.nodes)

    @pytest.mark.parametrize("data", [[], "table.csv", 3, None, np.zeros((2, 2))])
    def test_other_things_are_no_data(self, data):
        refused("data must be", validate, data, self.nodes)

    def test_good_data_gives_no_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Schema.infer(validate([self.table, Dataset(self.table, do="X")], self.nodes))


class TestRowsWithMissingValues:
    TABLE = pd.DataFrame({"X": [0, 1, None, 1] * 25, "Y": [0, 1, 1, None] * 25})
    WHOLE = TABLE.dropna().astype(int).reset_index(drop=True)
    BRIEF = mdcm.TrainConfig(max_steps=3)

    @pytest.mark.parametrize("given", [TABLE, Dataset(TABLE), {"X": TABLE["X"], "Y": TABLE["Y"]}], ids=range(3))
    def test_fit_leaves_them_out_as_a_dataset_does(self, given):
        own = mdcm.fit("X -> Y", Dataset(self.TABLE, dropna=True), config=self.BRIEF)
        model = mdcm.fit("X -> Y", given, config=self.BRIEF, dropna=True)
        assert len(model.data[0]) == len(self.WHOLE)
        assert all(torch.equal(a, b) for a, b in zip(model.dcm.parameters(), own.dcm.parameters(), strict=True))
        model.data = ()
        model.attach(given, dropna=True)
        assert len(model.data[0]) == len(self.WHOLE)

    def test_what_was_given_is_as_it_was(self):
        given = Dataset(self.TABLE)
        mdcm.fit("X -> Y", given, config=self.BRIEF, dropna=True)
        assert not given.dropna
        refused("dropna=True", mdcm.fit, "X -> Y", given, config=self.BRIEF)

    def test_check_and_report(self, tmp_path):
        graph = "X; Y"
        both = [mdcm.check(graph, table, dropna=True).table for table in (self.TABLE, self.WHOLE)]
        pd.testing.assert_frame_equal(*both)
        model = mdcm.fit("X -> Y", self.WHOLE, config=self.BRIEF)
        text = mdcm.write_report(model, tmp_path / "r.html", data=self.TABLE, dropna=True).read_text()
        assert "50 rows" in text
        refused("dropna=True", mdcm.check, graph, self.TABLE)

    def test_it_is_true_or_false(self):
        with pytest.raises(ValueError, match="dropna must be true or false, not 'any'"):
            mdcm.fit("X -> Y", self.TABLE, dropna="any")
