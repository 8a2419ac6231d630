"""Level text: one rule for what a value given by a user means, wherever it is given."""

import datetime
import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from command_line import fail, succeed
from fitted import BRIEF
from hypothesis import given, settings
from hypothesis import strategies as st

import mdcm
from mdcm.cli.options import assignments, targets
from mdcm.data import Dataset, Schema, Variable, decode, encode, read_table, to_spec
from mdcm.data.levels import LevelError, aligned, level_type, plain, position, revived
from mdcm.errors import DataError, MdcmError, QueryError
from mdcm.query import parse

TEXTS = st.text(max_size=6)
NUMBERS = st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False))


class TestRule:
    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.one_of(TEXTS, NUMBERS), min_size=1, max_size=6, unique_by=plain))
    def test_every_level_names_itself_and_nothing_else(self, levels):
        assert [position(levels, level) for level in levels] == list(range(len(levels)))

    @settings(deadline=None, max_examples=100)
    @given(st.lists(NUMBERS, min_size=1, max_size=6, unique_by=plain))
    def test_numbers_are_known_by_their_text_and_back(self, numbers):
        texts = [str(number) for number in numbers]
        assert [position(numbers, text) for text in texts] == list(range(len(numbers)))
        assert [position(texts, number) for number in numbers] == list(range(len(numbers)))

    @pytest.mark.parametrize(
        ("levels", "value", "index"),
        [
            (["a", "a "], "a ", 1),
            ([" a", "a"], "a", 1),
            (["a", "A"], "A", 1),
            (["", "x"], "", 0),
            ([0, 1], "1", 1),
            ([0, 1], " 1 ", 1),
            ([0, 1], "1e0", 1),
            ([0.5, 1.5], "+1.50", 1),
            (["0", "1"], 1, 1),
            (["0", "1.0"], np.int8(1), 1),
            (["01", "02"], 2, 1),
            (["01", "1"], "1", 1),
            ([False, True], "TRUE", 1),
            ([False, True], np.bool_(True), 1),
            (["false", "true"], True, 1),
            ([1, "1"], "1", 1),
            ([1, "1"], 1, 0),
            ([2**60, 2**60 + 1], str(2**60 + 1), 1),
            ([np.float32(0.1), np.float32(0.2)], 0.2, 1),
            ([Decimal("0.5"), Decimal(2)], "2", 1),
            ([Fraction(1, 2), Fraction(2, 1)], 0.5, 0),
        ],
    )
    def test_what_is_meant(self, levels, value, index):
        assert position(levels, value) == index

    @pytest.mark.parametrize(
        ("levels", "value", "message"),
        [
            (["a "], "a", r"no level 'a'; its levels are 'a '; did you mean 'a '\? \(spaces count\)"),
            (["Private"], " Private", r"did you mean 'Private'\? \(spaces count\)"),
            (["a"], "A", r"did you mean 'a'\?"),
            ([0, 1], "one", r"no level 'one' \(text\); its levels are the numbers 0, 1"),
            (["no", "yes"], 1, r"no level 1 \(number\); its levels are the texts 'no', 'yes'"),
            ([False, True], 2, r"no level 2 \(number\); its levels are the truth values False, True"),
            ([0, 1], "2", r"no level 2; its levels are 0, 1$"),
            (["1", "01"], 1, r"the number 1 can mean '1', '01'; give the level itself, which is quoted in a query"),
            (["1.0", "1"], 1.0, "can mean"),
            (["true", "True"], True, "the truth value True can mean"),
            ([0, 1], "nan", r"\(text\)"),
            ([0, 10], "1_0", r"\(text\)"),
            ([0, 1], "١", r"\(text\)"),
            ([0, 1], None, "no level 'None'"),
        ],
    )
    def test_what_cannot_be_meant_is_told_with_both_types(self, levels, value, message):
        with pytest.raises(LevelError, match=message) as caught:
            position(levels, value)
        assert "did you mean" not in str(caught.value) or repr(value) not in str(caught.value).rpartition("mean")[2]

    def test_long_texts_are_cut(self):
        with pytest.raises(LevelError) as caught:
            position(["x" * 10**6], "y" * 10**6)
        assert len(str(caught.value)) < 1000

    def test_declared_levels_have_the_type_of_the_data(self):
        assert aligned([1, 2.5, "NA"], ["1", "2.50"]) == ["1", "2.50", "NA"]
        assert aligned(["2", "1", "x"], [1, 2]) == [2, 1, "x"]
        assert aligned([True, False], ["true", "false"]) == ["true", "false"]


ODD = ["a", "a ", " a", "a, b", "it's", "None", "NA", "1", "01"]


@pytest.fixture(scope="module")
def odd_file(tmp_path_factory):
    """Rows in which every odd level has a Y of its own."""
    path = tmp_path_factory.mktemp("odd") / "rows.csv"
    pd.DataFrame({"X": ODD * 20, "Y": [place % 3 for place in range(len(ODD))] * 20}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def odd(odd_file, tmp_path_factory):
    """A run of X -> Y that is trained on them, through the shell."""
    out = tmp_path_factory.mktemp("run")
    spec = out / "spec.yaml"
    spec.write_text(f"graph: X -> Y\ndata: [{{path: {odd_file}}}]\ntrain: {{max_steps: 2, checks: 1}}\n")
    succeed("train", spec, "--out", out / "run", "-q")
    return out / "run"


class TestEverywhere:
    @pytest.mark.parametrize("level", ODD)
    # the verdict on what is drawn is the subject of test_verdicts.py
    @pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
    def test_a_level_is_what_it_says_in_every_place(self, odd, tmp_path, level):
        model = mdcm.load(odd)
        assert set(model.schema["X"].levels) == set(ODD)
        quoted = "'" + level.replace("'", "\\'") + "'"
        answer = model.query(f"P(Y | do(X={quoted}))", num_samples=50, allow_low_support=True)
        assert set(answer.table["X"]) == {level}
        assert set(model.draw_samples(5, do={"X": level}).table["X"]) == {level}
        assert set(model.draw_samples(5, do={"X": [level] * 5}).table["X"]) == {level}
        assert set(model.draw_samples(5, given={"X": level}).table["X"]) == {level}
        assert set(model.counterfactual_samples(5, evidence={"X": level}, do={}).table["X"]) == {level}
        for option in (f"X={level}", f"X={quoted}", f"X ={level}"):
            for flag in ("--do", "--given"):
                succeed("sample", odd, flag, option, "--num-samples", 3, "--out", tmp_path / "s.csv", "-q")
                assert set(read_table(tmp_path / "s.csv")["X"].astype(str)) in ({level}, {str(plain(level))})

    def test_what_is_no_level_as_it_stands_is_refused_in_every_place(self, odd, tmp_path):
        model = mdcm.load(odd)
        for refused in (
            lambda: model.query("P(Y | do(X=' a '))", allow_low_support=True),
            lambda: model.draw_samples(5, do={"X": " a "}),
            lambda: model.draw_samples(5, given={"X": " a "}),
            lambda: model.counterfactual_samples(5, evidence={"X": " a "}, do={"Y": 0}),
        ):
            with pytest.raises(MdcmError, match=r"no level . a .*spaces count"):
                refused()
        for flag in ("--do", "--given", "--evidence"):
            told = fail(2, "sample", odd, flag, "X= a ", "--num-samples", 3, "--out", tmp_path / "s.csv")
            assert "no level ' a '" in told

    def test_a_number_that_several_texts_read_as_is_not_guessed(self, odd):
        with pytest.raises(MdcmError, match=r"can mean '01', '1'|can mean '1', '01'"):
            mdcm.load(odd).draw_samples(5, do={"X": 1})

    # a brief training
    @pytest.mark.filterwarnings("ignore:.* standard errors apart")
    def test_numbers_are_given_as_texts_and_texts_as_numbers(self):
        table = pd.DataFrame({"X": ["0", "1"] * 20, "Y": [0, 1] * 20})
        model = mdcm.fit("X -> Y", table, config=BRIEF)
        assert set(model.draw_samples(3, do={"X": 1, "Y": "1"}).table.itertuples(index=False, name=None)) == {("1", 1)}
        assert model.query("P(Y='1' | do(X=1))", 20, allow_low_support=True).table.iloc[0].tolist()[:2] == ["1", 1]
        with pytest.raises(QueryError, match=r"no level 'one' \(text\); its levels are the numbers 0, 1"):
            model.query("P(Y=one | do(X=1))")

    def test_estimands_and_plans_know_levels_by_the_same_rule(self):
        graph = mdcm.ADMG.from_string("X -> Y; X <-> Y")
        spec = mdcm.DatasetSpec("d", do={"X": ["01", "1 "]})
        for value, answer in [("'01'", True), ("'1 '", True), ("'1'", None), ("'1  '", False)]:
            found = mdcm.identify(graph, f"P(Y | do(X={value}))", datasets=[mdcm.DatasetSpec("o"), spec])
            assert (found.identifiable or False) is (answer or False), value
        scm = mdcm.scm.random_discrete(mdcm.ADMG.from_string("X -> Y"), levels=2, seed=0)
        assert scm.exact("Y", do={"X": "1"}).equals(scm.exact("Y", do={"X": 1}))

    def test_options_keep_values_as_they_stand(self):
        schema = Schema([Variable("a=b", "categorical", ("x", " x", "'q'")), Variable(" N", "categorical", (1, 2))])
        assert assignments(["a=b= x"], schema, "--do") == {"a=b": " x"}
        assert assignments(["a=b='x'"], schema, "--do") == {"a=b": "x"}
        assert assignments(["a=b='q'"], schema, "--do") == {"a=b": "'q'"}
        assert assignments([" N=2"], schema, "--do") == {" N": 2}
        assert targets("X= a,Z='b, c',Z=d,W") == {"X": [" a"], "Z": ["b, c", "d"], "W": None}
        for wrong in ("X,", ",X", "X=", "=1"):
            with pytest.raises(QueryError, match="names are expected"):
                targets(wrong)

    def test_levels_of_a_spec_are_those_of_the_table(self, tmp_path):
        (tmp_path / "d.csv").write_text("X,Y\n1,0\nNA,1\n2,1\n1,1\n")
        (tmp_path / "s.yaml").write_text(
            "graph: X -> Y\ndata: [{path: d.csv}]\nvariables: {X: {levels: [2, 1, NA]}, Y: {levels: ['1', '0']}}\n"
        )
        spec = mdcm.cli.spec.read_spec(tmp_path / "s.yaml")
        schema = Schema.infer(spec.load_data(), spec.declared())
        assert (schema["X"].levels, schema["Y"].levels) == (("2", "1", "NA"), (1, 0))


DAYS = pd.to_datetime(["2020-01-01 00:00", "2020-02-01 00:00", "2020-03-01 12:30"])
OBJECTS = {
    "cut": pd.cut(pd.Series([1, 4, 4, 9]), [0, 2, 5, 10]),
    "qcut": pd.qcut(pd.Series([1.5, 4, 4.25, 9, 12]), 2),
    "cut of dates": pd.cut(pd.Series(DAYS[[0, 1, 2, 1]]), 2),
    "intervals": pd.Series(pd.arrays.IntervalArray.from_breaks([0, 2, 10, 20])[[1, 0, 2, 1]]),
    "dates": pd.Series(DAYS[[1, 0, 2, 1]]),
    "dates in a zone": pd.Series(DAYS[[1, 0, 2, 1]].tz_localize("Europe/Paris")),
    "category of dates": pd.Series(pd.Categorical(DAYS[[1, 0, 2, 1]])),
    "objects that are dates": pd.Series([datetime.date(2020, 1, 2), datetime.date(2020, 1, 1)], dtype=object),
    "periods": pd.Series(pd.period_range("2020-01", periods=3, freq="M")[[1, 0, 2, 1]]),
    "category of periods": pd.Series(pd.Categorical(pd.period_range("2020-01", periods=3, freq="M"))),
    "category of durations": pd.Series(pd.Categorical(pd.to_timedelta([2, 1], unit="h"))),
    "decimals": pd.Series([Decimal("0.5"), Decimal(2), Decimal(2)], dtype=object),
    "truth values": pd.Series([True, False, True], dtype=object),
    "category of numbers": pd.Series(pd.Categorical([2.5, 1.0, 1.0])),
    "float32": pd.Series(np.array([0.1, 0.2, 0.1], dtype=np.float32)),
}


class TestObjects:
    @pytest.mark.parametrize("column", OBJECTS.values(), ids=OBJECTS)
    def test_one_coding_that_comes_back_saved_or_not(self, column):
        dataset = Dataset({"X": column, "Y": range(len(column))}, do="X", name="d")
        variable = Schema.infer([dataset], {"X": {"kind": "categorical"}})["X"]
        again = Variable.from_json(json.loads(json.dumps(variable.to_json())))
        assert again == variable
        codes = encode(dataset, {"X": again})["X"]
        back = decode(again, codes)
        assert back.tolist() == column.tolist() or back.astype(column.dtype).tolist() == column.tolist()
        for value, code in zip(column, codes, strict=True):
            text = str(value)
            assert [again.code(given_) for given_ in (value, plain(value), text)] == [code] * 3
            # what the table shows can be typed
            quoted = parse(f"P(Y | do(X='{text}'))").query.do[0].value
            assert again.parse(quoted) == again.levels[code]
        assert to_spec(dataset, {"X": again}).do == {"X": tuple(again.levels)}

    def test_order_is_that_of_what_levels_are(self):
        schema = Schema.infer([Dataset({"X": OBJECTS["intervals"]})])
        assert schema["X"].levels == ("(0, 2]", "(2, 10]", "(10, 20]")

    def test_equal_intervals_are_one_level_in_all_data_sets(self):
        first = Dataset({"X": pd.cut(pd.Series([1, 3]), [0, 2, 4])}, name="a")
        second = Dataset({"X": pd.cut(pd.Series([1.0, 3.0]), [0.0, 2.0, 4.0])}, name="b")
        assert Schema.infer([first, second])["X"].levels == ("(0, 2]", "(2, 4]")

    def test_categories_that_read_alike_are_refused(self):
        class Shade:
            def __str__(self):
                return "red"

        column = pd.Series(pd.Categorical.from_codes([0, 1], categories=pd.Index([Shade(), Shade()], dtype=object)))
        with pytest.raises(DataError, match="several categories that read 'red'"):
            Schema.infer([Dataset({"X": column})])

    def test_a_type_that_its_levels_do_not_fit_is_refused(self):
        with pytest.raises(DataError, match="not values of the type"):
            Variable("X", "categorical", ("a",), level_type="datetime64[us]")

    def test_models_of_intervals_answer_draw_and_write_them(self, tmp_path):
        rng = np.random.default_rng(0)
        age = rng.integers(20, 80, 400)
        table = pd.DataFrame({"A": pd.cut(age, [0, 40, 60, 100]), "Y": (rng.random(400) < age / 100).astype(int)})
        mdcm.fit("A -> Y", table, config=BRIEF, out=tmp_path / "run")
        model = mdcm.load(tmp_path / "run")
        drawn = model.draw_samples(50, do={"A": pd.Interval(40, 60)})
        assert drawn.table["A"].dtype == table["A"].dtype
        assert model.query("P(Y | do(A='(40, 60]'))", 50).table["A"].unique().tolist() == ["(40, 60]"]
        for name in ("s.csv", "s.parquet"):
            succeed(
                "sample", tmp_path / "run", "--do", "A=(40, 60]", "--out", tmp_path / name, "--num-samples", 5, "-q"
            )
            assert set(read_table(tmp_path / name)["A"].astype(str)) == {"(40, 60]"}

    def test_types_are_read_back(self):
        assert level_type(["a"]) is None
        assert level_type([1, 2]) is None
        assert revived(["2020-01"], "period[M]")[0] == pd.Period("2020-01", "M")


class TestReading:
    def test_only_empty_cells_are_missing(self, tmp_path):
        words = ["None", "NA", "null", "n/a", "nan", "NaN", "NULL", "#N/A", "<NA>", "-"]
        (tmp_path / "t.csv").write_text("X,Y\n" + "".join(f"{word},1\n" for word in words) + ",1\n")
        read = read_table(tmp_path / "t.csv")
        assert read["X"].tolist()[:-1] == words
        assert read["X"].isna().sum() == 1
        assert read_table(tmp_path / "t.csv", na_values=["NA", "null"])["X"].isna().sum() == 3
        read.to_parquet(tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet", na_values=["NA", "null"])["X"].isna().sum() == 3

    def test_a_treatment_arm_called_none_stays(self, tmp_path):
        (tmp_path / "t.csv").write_text("T,Y\n" + "None,0\nDrug,1\nNone,1\nBoth,0\n" * 5)
        spec = succeed("init", "T -> Y", tmp_path / "t.csv", "--out", "-").out
        assert "dropna" not in spec
        assert "3 levels in 20 rows: Both, Drug, None" in spec
        spec = succeed("init", "T -> Y", tmp_path / "t.csv", "--out", "-", "--na", "None").out
        assert "na_values: [None]" in spec or "na_values: ['None']" in spec
        assert "dropna: true" in spec

    def test_spec_and_options_name_what_is_missing(self, tmp_path):
        (tmp_path / "t.csv").write_text("X,Y\n" + "0.5,1\nNA,0\n1.5,1\n2.25,0\n" * 9)
        (tmp_path / "s.yaml").write_text("graph: X -> Y\ndata: [{path: t.csv, na_values: NA, dropna: true}]\n")
        (dataset,) = mdcm.cli.spec.read_spec(tmp_path / "s.yaml").load_data()
        assert Schema.infer([dataset])["X"].kind == "categorical" or dataset.table["X"].isna().sum() == 9
        assert "row 1" in fail(2, "plan", "X -> Y", "--data", tmp_path / "t.csv", "--na", "NA")

    @pytest.mark.parametrize("make", [list, lambda values: pd.Series(values, dtype="string"), pd.Categorical])
    def test_words_of_a_table_may_mean_missing(self, make):
        dataset = Dataset({"X": make(["a", "NA", "b", None, "?"]), "Y": range(5)}, na_values=["NA", "?"], dropna=True)
        assert dataset.table["X"].isna().tolist() == [False, True, False, True, True]
        assert Schema.infer([dataset])["X"].levels == ("a", "b")

    def test_words_among_numbers_are_told_once(self):
        table = {"X": ["1", "2", "NA", "3"] * 5, "Y": [0, 1] * 10}
        with pytest.warns(
            UserWarning, match=r"texts such as 'NA', so every value is treated as a text.*na_values=\['NA'\]"
        ):
            assert Schema.infer([Dataset(table)])["X"].levels == ("1", "2", "3", "NA")

    def test_dates_and_amounts_as_texts_are_told_once(self):
        days = [str(day.date()) for day in pd.date_range("2020-01-01", periods=30)] * 3
        with pytest.warns(UserWarning, match="holds 30 dates as texts.*kind 'continuous'"):
            Schema.infer([Dataset({"X": days})])
        amounts = [f"${1000 + 7 * place:,}.50" for place in range(30)] * 3
        with pytest.warns(UserWarning, match=r"holds 30 texts such as '\$1,000.50'"):
            Schema.infer([Dataset({"X": amounts})])
        with pytest.raises(DataError, match=r"amounts such as '€1.000,00'"):
            Schema.infer([Dataset({"X": [f"€1.{place:03},00" for place in range(300)]})])

    def test_leading_zeros_belong_to_a_text(self, tmp_path):
        (tmp_path / "t.csv").write_text("X,Y\n01,1\n1,2\n10,3\n")
        assert read_table(tmp_path / "t.csv")["X"].tolist() == ["01", "1", "10"]
        (tmp_path / "t.csv").write_text('X,Y\n"007",0.5\n010,-0.05\n,1e-05\n')
        assert read_table(tmp_path / "t.csv")["X"].tolist()[:2] == ["007", "010"]
        assert read_table(tmp_path / "t.csv")["Y"].tolist() == [0.5, -0.05, 1e-05]
