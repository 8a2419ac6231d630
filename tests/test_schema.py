"""Schemas: what is inferred of columns, and how values become numbers and come back."""

import datetime
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import infer, pixels, refused

from mdcm.data import (
    Dataset,
    Encoded,
    Schema,
    Variable,
    decode,
    decode_columns,
    encode,
    to_spec,
    validate,
)
from mdcm.errors import UntrainableError
from mdcm.planning import DatasetSpec, plan


class TestInference:
    @pytest.mark.parametrize(
        ("values", "levels"),
        [
            ([True, False, True], (False, True)),
            (["b", "a", "b"], ("a", "b")),
            ([3, 1, 2], (1, 2, 3)),
            ([0.0, 2.0, 1.0], (0, 1, 2)),
            (pd.Series([2, 0, 1], dtype="Int8"), (0, 1, 2)),
            (pd.Series([True, False, False], dtype="boolean"), (False, True)),
            (pd.Series(["b", "a", "b"], dtype="string"), ("a", "b")),
            (pd.Series([1, 0, 1], dtype=object), (0, 1)),
            (pd.Categorical(["lo", "hi", "lo"], categories=["lo", "hi"]), ("lo", "hi")),
            (pd.Categorical(["lo", "hi", "lo"], categories=["lo", "hi"], ordered=True), ("lo", "hi")),
        ],
        ids=["bool", "str", "int", "whole-float", "Int8", "boolean", "string", "object", "category", "ordered"],
    )
    def test_categorical_columns_come_back_as_they_were(self, values, levels):
        table = pd.DataFrame({"X": values})
        dataset = Dataset(table)
        schema = Schema.infer([dataset])
        assert schema["X"].kind == "categorical"
        assert schema["X"].levels == levels
        assert [type(level) for level in schema["X"].levels] == [type(level) for level in levels]
        codes = encode(dataset, schema)["X"]
        assert codes.dtype == np.int64
        assert [levels[code] for code in codes] == list(table["X"])
        pd.testing.assert_series_equal(decode(schema["X"], codes), table["X"])

    def test_intervals_of_pandas_cut_become_their_text_in_order(self):
        column = pd.cut(pd.Series([0.1, 9.0, 5.0]), [0, 2, 6, 10])
        assert infer(column).levels == ("(0, 2]", "(2, 6]", "(6, 10]")

    @pytest.mark.parametrize(
        "values",
        [[0.5, 1.0, 2.0], list(range(21)), pd.Series([0.5, 1.5], dtype="Float32")],
        ids=["float", "int", "Float32"],
    )
    def test_other_numbers_are_continuous(self, values):
        dataset = Dataset({"X": values})
        schema = Schema.infer([dataset])
        numbers = np.array(values, dtype=float)
        variable = schema["X"]
        assert (variable.kind, variable.levels, variable.span) == ("continuous", None, (numbers.min(), numbers.max()))
        assert (variable.mean, variable.scale) == (pytest.approx(numbers.mean()), pytest.approx(numbers.std()))
        encoded = encode(dataset, schema)["X"]
        assert encoded.dtype == np.float32
        assert encoded == pytest.approx((numbers - numbers.mean()) / numbers.std(), abs=1e-6)
        pd.testing.assert_series_equal(decode(variable, encoded), dataset.table["X"], rtol=1e-6)

    @pytest.mark.parametrize(("repeats", "kind"), [(50, "categorical"), (49, "continuous")])
    def test_several_whole_numbers_are_levels_if_each_is_frequent(self, repeats, kind):
        assert infer(list(range(30)) * repeats).kind == kind

    def test_dates_are_days_and_come_back_as_dates(self):
        dates = pd.Series(pd.to_datetime(["1970-01-02 00:00", "2020-03-01 12:00"]).astype("datetime64[ns]"), name="X")
        dataset = Dataset({"X": dates})
        schema = Schema.infer([dataset])
        assert schema["X"].kind == "continuous"
        assert (schema["X"].origin, schema["X"].mean, schema["X"].span) == ("1970-01-01", 9161.75, (1.0, 18322.5))
        encoded = encode(dataset, schema)["X"]
        assert encoded.tolist() == [-1.0, 1.0]
        pd.testing.assert_series_equal(decode(schema["X"], encoded), dates)
        assert schema.code("X", datetime.date(1970, 1, 2)) == -1.0
        assert schema.code("X", 18322.5) == 1.0
        assert schema.parse("X", "1970-01-03") == 2.0
        refused("'soon' is not a date", schema.parse, "X", "soon")
        zoned = Dataset({"X": dates.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")})
        assert encode(zoned, schema)["X"].tolist() == [-1.0, 1.0]
        own = Schema.infer([zoned])
        pd.testing.assert_series_equal(decode(own["X"], encode(zoned, own)["X"]), zoned.table["X"])

    def test_days_are_counted_from_the_origin_that_is_declared(self):
        dataset = Dataset({"X": pd.to_datetime(["2020-01-01", "2020-01-03"])})
        schema = Schema.infer([dataset], {"X": {"origin": "2020-01-01"}})
        assert schema["X"].span == (0.0, 2.0)
        assert decode(schema["X"], encode(dataset, schema)["X"]).tolist() == dataset.table["X"].tolist()
        refused("origin must be a date", Variable, "X", "continuous", origin="soon")

    def test_text_is_dates_where_it_is_declared_continuous(self):
        """A CSV file has no other way to hold them."""
        dataset = Dataset({"X": ["2020-03-01", "2020-03-02T12:00", "2020-03-05"]}, do="X")
        assert infer(["2020-03-01", "2020-03-02"]).kind == "categorical"
        schema = Schema.infer([dataset], {"X": {"kind": "continuous"}})
        assert schema["X"].span == (18322.0, 18326.0)
        drawn = decode(schema["X"], encode(dataset, schema)["X"])
        assert abs(drawn[0] - pd.Timestamp("2020-03-01")) < pd.Timedelta(seconds=1)
        assert to_spec(dataset, schema).do == {"X": (18322.0, 18323.5, 18326.0)}
        other = Dataset({"X": ["2020-03-01", "later"]}, name="d")
        refused("holds strings", Schema.infer, [other], {"X": {"kind": "continuous"}})
        refused("does not hold dates", encode, other, schema)

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "Int64", "float32", "Float64", "float64"])
    def test_numbers_come_back_in_their_type(self, dtype):
        table = pd.DataFrame({"X": pd.Series(range(100), dtype=dtype)})
        schema = Schema.infer([Dataset(table)])
        assert schema["X"].kind == "continuous"
        drawn = decode(schema["X"], encode(Dataset(table), schema)["X"])
        pd.testing.assert_series_equal(drawn, table["X"], rtol=1e-6, atol=1e-5)
        # a draw may lie beyond what the type holds
        if "nt" in dtype:
            assert decode(schema["X"], np.array([1e30, -1e30])).dtype == dtype

    @pytest.mark.parametrize(
        ("values", "dtype", "levels"),
        [
            ([1, 2, 1], "int64[pyarrow]", (1, 2)),
            ([True, False, True], "bool[pyarrow]", (False, True)),
            (["a", "b", "a"], "string[pyarrow]", ("a", "b")),
            ([1.5, 2.0, 3.25], "double[pyarrow]", None),
            (["2020-01-01", "2020-01-03", "2020-01-04"], "timestamp[us][pyarrow]", None),
        ],
    )
    def test_columns_of_arrow_come_back_as_those_of_pandas(self, values, dtype, levels):
        """A model must not need pyarrow where it is loaded."""
        column = pd.Series(pd.to_datetime(values) if "timestamp" in dtype else values).astype(dtype)
        dataset = Dataset({"X": column})
        schema = Schema.infer(validate(dataset, ["X"]))
        assert schema["X"].levels == levels
        assert "pyarrow" not in str(schema["X"].dtype)
        drawn = decode(schema["X"], encode(dataset, schema)["X"])
        if levels is not None:
            assert drawn.tolist() == values
        elif "timestamp" in dtype:
            assert ((drawn - pd.Series(pd.to_datetime(values))).abs() < pd.Timedelta(seconds=1)).all()
        else:
            assert drawn.tolist() == pytest.approx(values)

    def test_mean_and_scale_are_those_of_the_observational_rows(self):
        seen = Dataset({"X": np.arange(30.0), "Y": np.linspace(0, 1, 30)}, name="a")
        more = Dataset({"X": np.arange(30.0) + 60.0, "Y": np.linspace(0, 1, 30)}, name="b")
        trial = Dataset({"X": [0.5, 2e6], "Y": [5.5, 6.5]}, do="X", name="c")
        schema = Schema.infer([seen, more, trial])
        pooled = np.concatenate([np.arange(30.0), np.arange(30.0) + 60.0])
        assert (schema["X"].mean, schema["X"].scale) == (pytest.approx(pooled.mean()), pytest.approx(pooled.std()))
        assert schema["X"].span == (0.0, 2e6)
        assert schema["Y"].mean == pytest.approx(0.5)
        assert schema.levels == {"X": (0.0, 2e6), "Y": (0.0, 6.5)}
        assert Schema.infer([trial])["X"].mean == 1e6 + 0.25

    @pytest.mark.parametrize("values", [[1e300, -1e300, 3e299], [1e-300, 2e-300, 3.5e-300], [1e9 + 0.5, 1e9, 1e9 + 1]])
    def test_numbers_of_any_size_are_standardised(self, values):
        dataset = Dataset({"X": values})
        schema = Schema.infer([dataset], {"X": {"kind": "continuous"}})
        encoded = encode(dataset, schema)["X"]
        assert encoded.mean() == pytest.approx(0, abs=1e-6)
        assert encoded.std() == pytest.approx(1, rel=1e-5)
        assert decode(schema["X"], encoded).tolist() == pytest.approx(values, rel=1e-6)

    def test_what_was_set_to_one_number_has_the_scale_one(self):
        schema = Schema.infer([Dataset({"X": [0.5, 0.5]}, do="X")])
        assert (schema["X"].mean, schema["X"].scale) == (0.5, 1.0)

    def test_orders_of_categories_are_merged(self):
        def dataset(levels, name):
            return Dataset({"X": pd.Categorical(levels, categories=levels, ordered=True)}, do="X", name=name)

        schema = Schema.infer([dataset(["low", "high"], "a"), dataset(["low", "mid", "high"], "b")])
        assert (schema["X"].levels, schema["X"].dtype) == (("low", "mid", "high"), "ordered")
        error = refused(
            "'low', 'high' in dataset 'a' contradicts 'high', 'low' in dataset 'b'",
            Schema.infer,
            [dataset(["low", "high"], "a"), dataset(["high", "low"], "b")],
        )
        assert (error.dataset, error.column) == ("b", "X")

    def test_levels_are_united_over_data_sets(self):
        first, second = Dataset({"X": [0, 2]}), Dataset({"X": [1, 2]}, do="X")
        assert Schema.infer([first, second])["X"].levels == (0, 1, 2)

    def test_declared_categories_keep_their_order_and_new_levels_follow(self):
        first = Dataset({"X": pd.Categorical(["b", "c"], categories=["c", "b"])})
        second = Dataset({"X": ["a", "b"]}, do="X")
        assert Schema.infer([first, second])["X"].levels == ("c", "b", "a")

    def test_whole_floats_and_integers_are_the_same_levels(self):
        first, second = Dataset({"X": [0, 1]}), Dataset({"X": [0.0, 1.0]})
        schema = Schema.infer([first, second])
        assert schema["X"].levels == (0, 1)
        assert encode(second, schema)["X"].tolist() == [0, 1]

    def test_kinds_levels_and_order_can_be_declared(self):
        dataset = Dataset({"X": [0, 1, 1], "Y": ["no", "yes", "no"], "Z": [1.5, 2.5, 3.5]})
        schema = Schema.infer(
            [dataset],
            {"X": {"kind": "continuous"}, "Y": {"levels": ["yes", "no"]}, "Z": Variable("Z", "implicit")},
            order=["Z", "Y", "X"],
        )
        assert list(schema) == ["Z", "Y", "X"]
        assert schema.kinds == {"Z": "implicit", "Y": "categorical", "X": "continuous"}
        assert schema["Y"].levels == ("yes", "no")
        assert encode(dataset, schema)["Y"].tolist() == [1, 0, 1]

    def test_a_variable_without_data_is_known_by_its_declaration(self):
        schema = Schema.infer([Dataset({"X": [0, 1]})], {"I": {"kind": "image", "shape": [3, 8, 8]}})
        assert schema["I"] == Variable("I", "image", shape=(3, 8, 8))
        refused("'U' is in no dataset", Schema.infer, [Dataset({"X": [0, 1]})], order=["X", "U"])

    def test_a_schema_survives_json(self):
        dataset = Dataset(
            {
                "A": [True, False],
                "B": ["x", "y"],
                "C": [1, 2],
                "D": [0.5, 1.7],
                "E": pd.Categorical(["u", "v"]),
                "T": pd.to_datetime(["2020-01-01", "2020-01-05"]),
            },
            images={"I": pixels(2)},
            arrays={"W": [[0.1, 2], [0.3, 7]]},
        )
        schema = Schema.infer([dataset])
        again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
        assert list(again.items()) == list(schema.items())
        assert [type(level) for level in again["A"].levels] == [bool, bool]

    @pytest.mark.parametrize(
        ("declaration", "message"),
        [
            ({"Q": {"kind": "continuous"}}, "no variable 'Q'"),
            ({"X": {"kind": "nominal"}}, "'nominal'"),
            ({"X": {"level": [0, 1]}}, "unknown key 'level'"),
            ({"X": "categorical"}, "by a mapping"),
            ({"X": {"kind": "continuous", "levels": [0, 1]}}, "has levels"),
            ({"X": {"kind": "image"}}, "images="),
            ({"X": {"levels": []}}, "non-empty"),
            ({"X": {"levels": [0, 1, 1.0]}}, "distinct"),
            ({"S": {"kind": "continuous"}}, "holds strings"),
        ],
    )
    def test_wrong_declarations_are_refused(self, declaration, message):
        dataset = Dataset({"X": [0, 1], "S": ["a", "b"]})
        refused(message, Schema.infer, [dataset], declaration, order=["X", "S"])

    def test_levels_of_different_types_name_both_data_sets(self):
        first = Dataset({"X": [0, 1]}, name="trial")
        second = Dataset({"X": ["0", "1"]}, name="registry")
        error = refused("numbers in dataset 'trial' and strings in dataset 'registry'", Schema.infer, [first, second])
        assert (error.dataset, error.column, error.row, error.count) == ("registry", "X", 0, 2)
        # where some text is a number after all, the rest is to blame
        second = Dataset({"X": ["0", "1", "n/a", "1", "?"]}, name="registry")
        error = refused("such as 'n/a' .*first is row 2.*convert", Schema.infer, [first, second])
        assert (error.row, error.count) == (2, 2)
        third = Dataset({"X": [True, False]}, name="flags")
        assert refused("numbers in .* and booleans in", Schema.infer, [first, third]).count == 2

    def test_mixed_columns_are_refused(self):
        mixed = pd.Series([1, 2, "a", 3, "b"], dtype=object)
        error = refused("int and str", Schema.infer, [Dataset({"X": mixed}, name="d")])
        assert (error.dataset, error.column, error.row, error.count) == ("d", "X", 2, 2)
        lists = Dataset({"X": pd.Series([[1], [2]], dtype=object)}, name="d")
        assert refused("holds list values", Schema.infer, [lists]).count == 2
        refused("total_seconds", infer, pd.to_timedelta(["1D", "2D"]))

    def test_strings_with_many_values_say_what_to_do_and_may_be_declared(self):
        dataset = Dataset({"X": [f"patient {i}" for i in range(300)]}, name="d")
        error = refused("300 different strings.*group rare.*declare", Schema.infer, [dataset])
        assert (error.dataset, error.column) == ("d", "X")
        assert Schema.infer([dataset], {"X": {"kind": "categorical"}})["X"].num_levels == 300

    def test_strings_that_are_nearly_all_distinct_are_an_identifier(self):
        names = [f"patient {i}" for i in range(60)]
        refused("60 different strings, in 62 rows: it seems to be an identifier", infer, [*names, *names[:2]])
        assert infer(names * 2).num_levels == 60
        assert infer(names[:40]).num_levels == 40
        refused("most are numbers, but row 1 holds 'none': convert", infer, ["0.5", "none", *map(str, range(300))])
        days = pd.date_range("2020-01-01", periods=300).strftime("%Y-%m-%d")
        refused("they are dates: declare it with kind 'continuous'", infer, list(days))

    def test_a_value_outside_declared_levels_names_the_first_row_and_their_number(self):
        dataset = Dataset({"X": ["no", "yes", "perhaps", "perhaps"]}, name="d")
        error = refused("no level 'perhaps'.*'no', 'yes'", Schema.infer, [dataset], {"X": {"levels": ["no", "yes"]}})
        assert (error.dataset, error.column, error.row, error.count) == ("d", "X", 2, 2)

    def test_a_level_in_one_data_set_only_is_a_warning_unless_it_was_set(self):
        first, second = Dataset({"X": [0, 1, 2]}, name="a"), Dataset({"X": [0, 1, 1]}, name="b")
        with pytest.warns(UserWarning, match="'X': level 2 occurs in dataset 'a' only"):
            Schema.infer([first, second])
        Schema.infer([first, Dataset({"X": [0, 0]}, do="X")])

    def test_a_declared_level_without_rows_is_a_warning(self):
        with pytest.warns(UserWarning, match="'X': level 2 occurs in no row"):
            infer([0, 1], X={"levels": [0, 1, 2]})

    def test_images_of_different_shapes_are_refused(self):
        first = Dataset(images={"I": pixels()}, name="a")
        second = Dataset(images={"I": pixels(h=7)}, name="b")
        error = refused(r"'I' of dataset 'b' has shape \[3, 7, 6\].*\[3, 5, 6\]", Schema.infer, [first, second])
        assert (error.dataset, error.column) == ("b", "I")
        refused("as declared", Schema.infer, [first], {"I": {"shape": [1, 5, 6]}})
        refused("images in dataset 'a' and a column", Schema.infer, [first, Dataset({"I": [1, 2]}, name="c")])
        refused("declared categorical, but holds images", Schema.infer, [first], {"I": {"kind": "categorical"}})


class TestCodes:
    schema = Schema(
        [
            Variable("N", "categorical", (0, 1, 2)),
            Variable("B", "categorical", (False, True)),
            Variable("S", "categorical", ("low", "high", "1")),
            Variable("C", "continuous"),
            Variable("I", "image", shape=(1, 2, 2)),
        ]
    )

    @pytest.mark.parametrize(
        ("name", "value", "code"),
        [
            ("N", 1, 1),
            ("N", 2.0, 2),
            ("N", np.int8(1), 1),
            ("N", np.float32(0), 0),
            ("B", True, 1),
            ("B", np.False_, 0),
            ("B", 1, 1),
            ("S", "high", 1),
            ("S", np.str_("low"), 0),
            ("C", 1, 1.0),
            ("C", np.float64(0.5), 0.5),
        ],
    )
    def test_code_of_a_value(self, name, value, code):
        assert self.schema.code(name, value) == code

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("N", "1", 1),
            ("N", "1.0", 1),
            ("N", 2, 2),
            ("B", "true", True),
            ("B", "False", False),
            ("B", "1", True),
            ("S", "1", "1"),
            ("S", 1, "1"),
            ("C", "-2.5", -2.5),
            ("C", 3, 3.0),
        ],
    )
    def test_parse_of_what_was_typed(self, name, text, value):
        parsed = self.schema.parse(name, text)
        assert parsed == value
        assert type(parsed) is type(value)

    @pytest.mark.parametrize("method", ["code", "parse"])
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("N", 3, "'N' has no level 3; its levels are 0, 1, 2"),
            ("S", "hihg", "no level 'hihg'.*did you mean 'high'"),
            ("C", "warm", "'C' is continuous: 'warm' is not a number"),
            ("C", float("nan"), "not finite"),
            ("I", 0, r"is an image: give an array of shape \(1, 2, 2\)"),
            ("M", 0, "no variable 'M'"),
        ],
    )
    def test_values_that_a_variable_cannot_take(self, method, name, value, message):
        error = refused(message, getattr(self.schema, method), name, value)
        assert error.column == name

    def test_text_that_reads_as_a_number_names_it(self):
        assert (self.schema.code("N", "1"), self.schema.code("S", 1)) == (
            self.schema.code("N", 1),
            self.schema.code("S", "1"),
        )

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=4)), min_size=1, max_size=6, unique=True))
    def test_codes_invert_levels(self, levels):
        variable = Variable("X", "categorical", tuple(levels))
        assert [variable.code(level) for level in levels] == list(range(len(levels)))
        assert decode(variable, np.arange(len(levels))).tolist() == levels
        assert Variable.from_json(json.loads(json.dumps(variable.to_json()))) == variable

    def test_variables_must_make_sense(self):
        refused("needs its levels", Variable, "X", "categorical")
        refused("has no levels", Variable, "X", "continuous", (0, 1))
        refused("needs its shape", Variable, "I", "image")
        refused("has no shape", Variable, "X", "continuous", None, (1, 2, 3))
        refused("channels, height, width", Variable, "I", "image", None, (3, 0, 8))
        refused("must be one of", Variable, "X", "ordinal")
        refused("has no mean", Variable, "X", "categorical", (0, 1), mean=0.5)
        refused("has no size", Variable, "I", "image", None, (1, 2, 2), size=3)
        refused("size must be", Variable, "X", "continuous", size=0)
        refused("scale must be positive", Variable, "X", "continuous", scale=0.0)
        refused("mean must be a finite number", Variable, "X", "continuous", mean=float("nan"))
        refused("mean must be 3 finite numbers", Variable, "X", "continuous", mean=(1.0, 2.0), size=3)
        refused("span must be", Variable, "X", "continuous", span=(2, 1))
        refused("is a vector: give an array", Variable("W", "continuous", size=2).code, 1.0)
        refused("declared twice", Schema, [Variable("X", "continuous")] * 2)
        with pytest.raises(TypeError, match="is an image"):
            decode(self.schema["I"], np.zeros(1))
        with pytest.raises(TypeError, match="has no levels"):
            _ = self.schema["C"].num_levels

    def test_encode_refuses_what_the_schema_does_not_know(self):
        dataset = Dataset({"N": [0, 1, 7, 7], "C": [0.0, 1e300, 1.0, 2.0]}, name="d")
        error = refused("no level 7", encode, dataset, {"N": self.schema["N"]})
        assert (error.dataset, error.column, error.row, error.count) == ("d", "N", 2, 2)
        # the schema of another table, whose numbers have another scale
        error = refused("not finite in float32", encode, dataset, {"C": self.schema["C"]})
        assert (error.row, error.count) == (1, 1)
        refused("missing values", encode, Dataset({"N": [0, None]}), self.schema)
        refused("must be an image array", encode, Dataset({"I": [0, 1]}), self.schema)
        refused("must be a column", encode, Dataset(images={"N": pixels()}), self.schema)
        refused("has shape", encode, Dataset(images={"I": pixels()}), self.schema)


def tables():
    """Tables of every type of column that people have, with 30 to 60 rows."""

    def column(rows):
        def of(values):
            return st.lists(values, min_size=rows, max_size=rows)

        return st.one_of(
            of(st.integers(-3, 3)),
            of(st.integers(-(2**20), 2**20)),
            of(st.integers(-(2**20), 2**20)).map(lambda values: pd.array(values, dtype="Int64")),
            of(st.booleans()),
            of(st.booleans()).map(lambda values: pd.array(values, dtype="boolean")),
            of(st.sampled_from(["", "a", "é", "0", "True"])),
            of(st.sampled_from(["x", "y"])).map(lambda values: pd.array(values, dtype="string")),
            of(st.sampled_from("cab")).map(lambda values: pd.Categorical(values, categories=[*"cab"], ordered=True)),
            of(st.sampled_from([3, 1, 2])).map(lambda values: pd.Categorical(values, categories=[3, 1, 2])),
            of(st.sampled_from([0.0, 1.0, -2.0])),
            of(st.floats(-1e6, 1e6, allow_subnormal=False)),
            of(st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2050, 1, 1))).map(
                lambda values: pd.Series(values).astype("datetime64[us]").dt.floor("D")
            ),
        )

    return st.integers(30, 60).flatmap(
        lambda rows: st.lists(column(rows), min_size=1, max_size=4).map(
            lambda columns: pd.DataFrame({f"V{place}": pd.Series(values) for place, values in enumerate(columns)})
        )
    )


class TestRoundTrips:
    @settings(deadline=None, max_examples=60)
    @given(tables())
    def test_encode_then_decode_gives_the_table_back(self, table):
        dataset = Dataset(table)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            inferred = Schema.infer([dataset])
        schema = Schema.from_json(json.loads(json.dumps(inferred.to_json())))
        assert list(schema.items()) == list(inferred.items())
        encoded = encode(dataset, schema)
        for name, variable in schema.items():
            back = decode(variable, encoded[name])
            if variable.levels is not None:
                pd.testing.assert_series_equal(back, table[name])
            elif variable.origin is not None:
                assert back.dtype == table[name].dtype
                assert ((back - table[name]).abs() < pd.Timedelta(hours=1)).all()
            else:
                assert back.dtype == table[name].dtype
                size = float(np.abs(np.asarray(table[name], dtype=float)).max())
                assert np.asarray(back, dtype=float) == pytest.approx(
                    np.asarray(table[name], dtype=float), abs=1e-6 * size + 1e-9
                )

    @settings(deadline=None, max_examples=60)
    @given(
        st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(2**-20, 2**20, width=32), st.floats(-9, 9)
    )
    def test_restore_inverts_standardise(self, mean, scale, value):
        variable = Variable("X", "continuous", mean=mean, scale=scale)
        number = mean + scale * value
        restored = variable.restore(variable.standardise([number]))[0]
        assert restored == pytest.approx(number, abs=1e-5 * scale + 1e-9 * abs(number))
        assert Variable.from_json(json.loads(json.dumps(variable.to_json()))) == variable


class TestVectors:
    array = np.arange(40.0).reshape(20, 2) ** 1.5
    table = pd.DataFrame({"X": [0, 1] * 10})

    def test_arrays_are_standardised_entry_by_entry(self):
        dataset = Dataset(self.table, arrays={"W": self.array})
        assert dataset.columns == ("X", "W")
        schema = Schema.infer(validate(dataset, ["X", "W"]))
        assert (schema["W"].kind, schema["W"].size) == ("continuous", 2)
        encoded = encode(dataset, schema)["W"]
        assert (encoded.dtype, encoded.shape) == (np.float32, (20, 2))
        assert encoded.mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
        assert encoded.std(axis=0) == pytest.approx([1, 1], rel=1e-5)
        columns = decode_columns(schema["W"], encoded)
        assert list(columns) == ["W[0]", "W[1]"]
        assert np.column_stack(list(columns.values())) == pytest.approx(self.array, rel=1e-5, abs=1e-4)
        with pytest.raises(TypeError, match="is a vector"):
            decode(schema["W"], encoded)

    def test_numbered_columns_are_a_vector_of_a_node(self):
        table = self.table.assign(**{"W[1]": self.array[:, 1], "W[0]": self.array[:, 0]})
        (dataset,) = validate(Dataset(table, do="W", name="d"), ["W", "X"])
        assert dataset.columns == ("X", "W")
        assert (dataset.arrays["W"] == self.array).all()
        assert dataset.spec(["X", "W"]).do == {"W": None}
        # a node of that very name is a column like any other
        assert validate(table, ["W[0]", "W[1]", "X"])[0].columns == ("X", "W[1]", "W[0]")
        gap = self.table.assign(**{"W[0]": 1.5, "W[2]": self.array[:, 0]})
        assert refused("none is called 'W\\[1\\]'", validate, gap, ["W", "X"]).column == "W[1]"
        refused("does not hold numbers", validate, self.table.assign(**{"W[0]": "a"}), ["W", "X"])

    def test_one_number_per_row_is_a_column(self):
        dataset = Dataset(self.table, arrays={"L": np.array([3, 4] * 10, dtype=">i4")})
        assert (dataset.table["L"].tolist(), dataset.arrays) == ([3, 4] * 10, {})
        assert infer(dataset.table["L"]).levels == (3, 4)

    def test_bad_arrays_are_refused(self):
        refused("has 3 rows, but there are 20", Dataset, self.table, arrays={"W": np.zeros((3, 2))})
        refused("'X' is both a column", Dataset, self.table, arrays={"X": self.array})
        refused("both a vector and an image", Dataset, arrays={"W": self.array}, images={"W": pixels(20)})
        refused("pass pictures as images", Dataset, self.table, arrays={"W": np.zeros((20, 2, 2))})
        refused("a vector holds real numbers", Dataset, self.table, arrays={"W": np.full((20, 2), "a")})
        broken = self.array.copy()
        broken[[4, 6], 1] = np.nan
        dataset = Dataset(self.table, arrays={"W": broken}, name="d")
        error = refused("'W' has missing values.*dropna", validate, dataset, ["X", "W"])
        assert (error.dataset, error.column, error.row, error.count) == ("d", "W", 4, 2)
        (kept,) = validate(Dataset(self.table, arrays={"W": broken}, dropna=True), ["X", "W"])
        assert (kept.arrays["W"] == np.delete(self.array, [4, 6], axis=0)).all()
        broken[4, 1] = broken[6, 1] = np.inf
        assert refused("infinite", validate, Dataset(self.table, arrays={"W": broken}), ["X", "W"]).row == 4
        with pytest.warns(UserWarning, match="'W' has no values"):
            validate(Dataset(self.table, arrays={"W": broken * np.nan}), ["X", "W"], unobserved=["W"])
        parts = [Dataset(arrays={"W": self.array}, name="a"), Dataset(arrays={"W": self.array[:, :1]}, name="b")]
        assert refused("has 1 numbers per row, not 2 as in dataset 'a'", Schema.infer, parts).dataset == "b"
        refused("vectors in .* and a column in", Schema.infer, [parts[0], Dataset({"W": [1, 2]}, name="c")])
        refused("declared categorical, but holds vectors", Schema.infer, parts[:1], {"W": {"kind": "categorical"}})


class TestEncoded:
    def test_holds_what_a_trainer_loops_over(self):
        table = {"X": [0, 1, 1, 0], "Y": [0.5, 1.5, 2.5, 3.5], "p": [*"uvuv"], "w": [1, 2, 3, 4]}
        dataset = Dataset(table, do="X", images={"I": pixels()}, groups="p", weights="w", name="trial")
        datasets = validate(dataset, ["X", "Y", "I"])
        schema = Schema.infer(datasets)
        encoded = encode(datasets[0], schema)
        assert isinstance(encoded, Encoded)
        assert (encoded.name, encoded.rows, encoded.do) == ("trial", 4, ("X",))
        assert (encoded.columns, len(encoded), sorted(encoded)) == (("X", "Y", "I"), 3, ["I", "X", "Y"])
        assert {name: str(array.dtype) for name, array in encoded.items()} == {
            "X": "int64",
            "Y": "float32",
            "I": "uint8",
        }
        assert (encoded.weights.tolist(), encoded.groups.tolist()) == ([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1])
        assert "trial" in repr(encoded)
        plain = encode(Dataset({"X": [0, 1]}), schema)
        assert (plain.name, plain.weights, plain.groups, plain.do) == ("d1", None, None, ())


class TestToSpec:
    schema = Schema(
        [
            Variable("X", "categorical", ("no", "yes", "maybe")),
            Variable("Y", "continuous"),
            Variable("I", "image", shape=(3, 5, 6)),
        ]
    )

    def test_says_what_was_set_in_terms_of_the_schema(self):
        table = {"X": ["yes", "no", "yes", "no"], "Y": [2.5, 0.5, 2.5, 1.5], "extra": [1, 2, 3, 4]}
        dataset = Dataset(table, do=["X", "Y", "I"], images={"I": pixels()}, name="trial")
        assert to_spec(dataset, self.schema) == DatasetSpec(
            "trial",
            columns=["X", "Y", "I"],
            do={"X": ["no", "yes"], "Y": [0.5, 1.5, 2.5], "I": None},
            rows=4,
            combinations=[("no", 0.5, None), ("no", 1.5, None), ("yes", 2.5, None)],
        )

    def test_of_many_numbers_some_stand_for_all(self):
        numbers = np.random.default_rng(0).normal(size=5000)
        values = to_spec(Dataset({"Y": numbers}, do="Y"), self.schema).do["Y"]
        assert len(values) == 256
        assert (values[0], values[-1]) == (numbers.min(), numbers.max())
        assert list(values) == sorted(values)

    def test_the_planner_sees_whether_they_reach_as_far_as_the_data(self):
        rng = np.random.default_rng(0)
        seen = Dataset({"X": rng.normal(size=200)}, name="seen")

        def made(width):
            trial = Dataset({"X": np.linspace(-width, width, 50), "Y": rng.normal(size=50)}, do="X", name="trial")
            datasets = validate([seen, trial], ["X", "Y"])
            schema = Schema.infer(datasets)
            specs = [to_spec(dataset, schema) for dataset in datasets]
            return plan("X -> Y", specs, kinds=schema.kinds, levels=schema.levels)

        assert ("trial",) in {fit.datasets for hnode in made(9.0).hnodes for fit in hnode.fits}
        with pytest.raises(UntrainableError, match="Y"):
            made(0.1)

    def test_refuses_what_the_schema_does_not_know(self):
        dataset = Dataset({"X": ["no", "perhaps"]}, do="X", name="d")
        assert refused("dataset 'd': variable 'X' has no level 'perhaps'", to_spec, dataset, self.schema).column == "X"
        refused("'Q' is not a variable of the schema", to_spec, Dataset({"Q": [1]}, do="Q"), self.schema)
