"""What people read: advice in their own words, names that cannot be taken for something else, dates that are dates."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import call, fail, succeed

import mdcm
from mdcm.data import Schema
from mdcm.data.levels import as_word
from mdcm.planning import plan
from mdcm.query import parse
from mdcm.storage.checkpoints import Checkpoints
from mdcm.storage.run_directory import Folder
from mdcm.text.advice import addressing

GRAPH = "Dose -> Relief; Age -> Dose; Age -> Relief"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "Dose": rng.choice(["low", "high"], 90), "Age": rng.integers(0, 3, 90), "Relief": rng.normal(size=90).round(3),
        "Visit": pd.date_range("2024-01-01", periods=90).strftime("%Y-%m-%d"), "Site": "Rome",
        "Fee": [f"${1000 + k:,}.00" for k in range(90)],
        "Grade": ["n/a" if k % 9 == 0 else str(k % 4) for k in range(90)],
    })  # fmt: skip
    table.to_csv("t.csv", index=False)
    (tmp_path / "g.txt").write_text(GRAPH)
    return tmp_path


class TestSwappedAndWrongFiles:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["check", "t.csv", "g.txt"], "t.csv is a table, but a graph is expected here; give the graph first"),
            (["init", "data.parquet", "g.txt"], "data.parquet is a table, but a graph is expected here"),
            (["plan", "Book.XLSX"], "Book.XLSX is a table"),
            (
                ["identify", "P(Relief | do(Dose))", "g.txt"],
                "is a query, and the graph comes first: mdcm identify GRAPH",
            ),
            (["query", "E[Relief]", "run"], "is a query, and the run comes first: mdcm query RUN QUERY"),
            (["plan", "P(Relief)"], "is a query, but a graph is expected here"),
            (["plan", "."], "is a directory, not a graph"),
            (["init", "g.txt", "book.xlsx"], "save the sheet as CSV UTF-8"),
            (["train", "g.txt", "--out", "run"], "g.txt: no spec, which is a mapping"),
            (["init", "my age -> x", "t.csv"], "put a name of several words in double quotes"),
        ],
    )
    def test_the_right_order_is_named(self, folder, arguments, says):
        assert says in " ".join(fail(2, *arguments).split())

    def test_plan_takes_tables_where_check_and_init_do(self, folder):
        assert succeed("plan", "g.txt", "t.csv", "-q").out == succeed("plan", "g.txt", "--data", "t.csv", "-q").out


class TestColumns:
    """Columns that look like something else: each reader is told of what they can do where they are."""

    DATES = "they are dates: declare it with kind 'continuous' ({})"
    FEES = "they are amounts such as '$1,000.00': convert them"

    def test_dates_as_texts(self, folder):
        assert self.DATES.format("--kind Visit=continuous") in fail(2, "init", "Visit -> Dose", "t.csv")
        succeed("init", "Visit -> Dose", "t.csv", "--kind", "Visit=continuous")
        assert "Visit: {kind: continuous}" in (folder / "spec.yaml").read_text()
        (folder / "s.yaml").write_text("graph: Visit -> Dose\ndata: [{path: t.csv}]\n")
        assert self.DATES.format("'Visit: {kind: continuous}' under variables") in fail(2, "plan", "s.yaml")
        with pytest.raises(mdcm.DataError) as told:
            mdcm.fit("Visit", pd.read_csv("t.csv")[["Visit"]])
        assert self.DATES.format("variables={'Visit': {'kind': 'continuous'}}") in str(told.value)

    def test_names_that_the_shell_would_take_apart_are_quoted(self):
        texts = {"my name": [f"n{k}" for k in range(60)]}
        with addressing("shell"), pytest.raises(mdcm.DataError, match="--kind 'my name=categorical'"):
            Schema.infer([mdcm.Dataset(texts)])

    def test_amounts(self, folder):
        assert self.FEES in fail(2, "init", "Fee -> Dose", "t.csv")

    def test_a_word_among_numbers_is_told_by_init_too(self, folder):
        said = succeed("init", "Grade -> Dose", "t.csv").err
        assert "warning: column 'Grade'" in said
        assert "pass --na n/a" in said
        assert "na_values=" not in said
        assert "warning" not in succeed("init", "Grade -> Dose", "t.csv", "--na", "n/a", "--force").err

    def test_one_level(self, folder):
        assert "nothing is learned about other values" in succeed("init", "Site -> Dose", "t.csv").err
        assert "1 level in 90 rows: Rome" in (folder / "spec.yaml").read_text()


class TestQueries:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("P(Relief | do Dose)", "do needs brackets, as in do(Dose)"),
            ("P(Relief | Age, do 'Dose')", "as in do('Dose')"),
            ("P(Relief > 2)", "a query has no inequalities"),
            ("P(Dose | Age ≤ 3)", "a query has no inequalities"),
            ("What is the effect of Dose?", "a query begins with P( or E["),
            ("Dose & Relief", "a query begins with P( or E["),
        ],
    )
    def test_slips(self, text, says):
        with pytest.raises(mdcm.QueryError) as told:
            parse(text)
        assert says in str(told.value)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("P(Relief | do(Dose=medium))", "variable 'Dose' has no level 'medium'; its levels are 'high', 'low'"),
            ("P(Relief | do(Dose=High))", "did you mean 'high'?"),
            ("P(Relief | Age=seven)", "variable 'Age' has no level 'seven'"),
            ("P(Relief=much)", "'much' is not a number"),
            ("E[Dose]", "the levels of 'Dose' are not numbers"),
            ("P(Relief[Dose=x] | Dose=low)", "no level 'x'"),
        ],
    )
    def test_identify_knows_the_levels_of_the_data(self, folder, text, says):
        assert says in fail(2, "identify", GRAPH, text, "--data", "t.csv", "-q")
        assert call("identify", GRAPH, text).code in {0, 1}

    def test_a_number_is_asked_for_by_its_expectation(self):
        model = mdcm.fit("X", {"X": np.linspace(0, 1, 40)}, config=mdcm.TrainConfig(max_steps=1))
        for text in ("P(X)", "P(X=0.5)"):
            with pytest.raises(mdcm.QueryError, match="ask for its expectation, or bin it"):
                model.query(text)


class TestNamesInFormulas:
    """A name that is more than a word stands in quotes, so that a=b is a variable or a value but never both."""

    GRAPH = mdcm.ADMG(["a=b", "M", "c d"], [("a=b", "M"), ("M", "c d")], [("a=b", "c d")])

    def test_estimand(self):
        found = mdcm.identify(self.GRAPH, "P('c d' | do('a=b'='x, y'))")
        text = str(found)
        assert text.startswith("P('c d' | do('a=b'='x, y')) = ")
        assert "P(M | 'a=b'='x, y')" in text
        assert "sum_{M}" in text
        assert "sum_{'a=b'}" in text or "sum_{'a=b'''}" in text or "P('c d' | 'a=b'" in text
        latex = found.estimand.latex()
        assert r"\text{a=b}=\text{x, y}" in latex
        assert "'a=b'" not in latex

    def test_expectation_and_experiments(self):
        found = mdcm.identify("X -> 'y z'".replace("'", '"'), "E['y z' | do(X=1)]")
        assert "sum_{'y z'} 'y z' P('y z' | X=1)" in str(found)
        graph = mdcm.ADMG(["p|q", "Y"], [("p|q", "Y")], [("p|q", "Y")])
        assert "do('p|q')" in str(mdcm.identify(graph, "P(Y | do('p|q'))", experiments=[["p|q"]]))

    def test_plan(self):
        assert "likelihood: P('a=b', 'c d' | M)" in str(mdcm.plan(self.GRAPH))
        assert "{'a=b', 'c d'}" in str(mdcm.plan(self.GRAPH))

    def test_words_stay_as_they_are(self):
        for word in ("age", "v1.2", "größe", "7"):
            assert as_word(word) == (word if word != "7" else "'7'")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    arm = rng.integers(0, 2, 200)
    day = pd.Timestamp("2024-06-01") + pd.to_timedelta(20 * arm + rng.normal(4, 2, 200), unit="D")
    return mdcm.fit("Arm -> Day", {"Arm": arm, "Day": day}, config=mdcm.TrainConfig(max_steps=150), seed=0)


class TestDates:
    def test_an_expectation_is_a_date(self, model):
        answer = model.query("E[Day | do(Arm=1)]", 2_000)
        assert answer.value == pytest.approx((pd.Timestamp("2024-06-25") - pd.Timestamp("1970-01-01")).days, abs=4)
        shown = str(answer)
        assert "2024-06-2" in shown
        assert " days from drawing" in shown
        assert f"{answer.value:.4f}" not in shown

    def test_a_table_holds_dates(self, model):
        answer = model.query("E[Day | do(Arm)]", 2_000)
        assert answer.shown()["mean"].str.startswith("2024-06").all()
        assert "± drawing, days" in str(answer)

    def test_a_difference_is_in_days(self, model):
        answer = model.query("E[Day | do(Arm=1)] - E[Day | do(Arm=0)]", 2_000)
        assert answer.value == pytest.approx(20, abs=4)
        assert f"{answer.value:.4f}" in str(answer)

    def test_a_date_that_is_set_or_given_is_shown_as_one(self, model):
        answer = model.query("P(Arm | Day='2024-06-24')", 500, allow_low_support=True)
        assert set(answer.table["Day"]) == {"2024-06-24"}
        with_time = model.query("P(Arm | do(Day='2024-06-04 12:30'))", 500, allow_low_support=True)
        assert set(with_time.table["Day"]) == {"2024-06-04 12:30"}
        json.dumps(answer.table.to_dict("records"))

    def test_a_number_is_none(self):
        numbers = mdcm.fit("X", {"X": np.linspace(0, 1, 40)}, config=mdcm.TrainConfig(max_steps=1))
        assert numbers.query("E[X]", 50).origin is None


class TestOwnLoss:
    """What is trained by a loss of its own, such as a rectified flow, is not called adversarial."""

    @pytest.mark.parametrize("kind", ["image", "implicit"])
    def test_alone_and_without_confounders(self, kind):
        made = plan("D -> I -> A; D <-> A", kinds={"I": kind})
        assert "conditional loss: P(I | D) from d1" in str(made)
        assert "adversarial" not in str(made)
        assert "adversarial" not in made.to_svg() + made.to_dot()
        assert mdcm.Plan.from_json(made.to_json()) == made
        assert [fit.objective for hnode in made.hnodes for fit in hnode.fits if "I" in fit.variables] == ["conditional"]

    def test_what_needs_a_critic_is_adversarial_still(self):
        assert "adversarial: P(I | D)" in str(plan("D -> I", objective="adversarial", kinds={"I": "image"}))
        assert "adversarial: P(A, I" in str(plan("D -> I -> A; I <-> A", kinds={"I": "image"}))
        assert "adversarial" in str(plan("D -> I -> A; D <-> A", kinds={"A": "image"}))
        assert "conditional" not in str(plan("D -> I -> A; D <-> A"))

    @pytest.mark.parametrize("method", ["minimal", "paper"])
    def test_it_is_trained_so(self, method):
        pictures = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
        data = mdcm.Dataset({"D": [0, 1] * 15}, images={"I": pictures})
        model = mdcm.fit("D -> I", data, method=method, config=mdcm.TrainConfig(max_steps=2, holdout=0))
        assert "conditional loss: P(I | D)" in str(model.plan)
        assert model.dcm.mechanism("I").config()["type"] == "rectified_flow"

    def test_help_lists_commands_in_the_order_of_their_use(self):
        out = succeed("--help").out
        places = [out.index(f"\n  {name} ") for name in ("doctor", "init", "plan", "check", "train", "query", "report")]
        assert places == sorted(places)


class TestPython:
    """Slips of the first hour in Python; each message says what to do."""

    @pytest.mark.parametrize(
        ("slip", "error", "says"),
        [
            (lambda d: mdcm.fit(d, "X -> Y"), mdcm.GraphError, "not DataFrame; give it first"),
            (lambda d: mdcm.check(d, "X -> Y"), mdcm.GraphError, "not DataFrame; give it first"),
            (lambda d: mdcm.fit(None, d), mdcm.GraphError, "not NoneType"),
            (lambda d: mdcm.fit("X -> Y", "t.csv"), mdcm.DataError, "mdcm.data.read_table reads a file"),
            (lambda d: mdcm.Dataset(Path("t.csv")), mdcm.DataError, "mdcm.data.read_table reads a file"),
            (lambda d: mdcm.fit("g.txt", d), mdcm.GraphError, "mdcm.read_graph reads it"),
            (lambda d: mdcm.identify("g.txt", "P(X)"), mdcm.GraphError, "mdcm.read_graph reads it"),
            (lambda d: mdcm.read_graph("t.csv"), mdcm.GraphError, "t.csv is a table, but a graph is expected"),
            (lambda d: mdcm.fit("", d), mdcm.DataError, "the graph has no variable"),
            (lambda d: mdcm.check(" ; # nothing", d), mdcm.DataError, "the graph has no variable"),
            (lambda d: mdcm.fit("X -> Y", {"X": 1, "Y": 2}), mdcm.DataError, "as in {'X': [1, ...]}"),
            (lambda d: mdcm.fit("X -> Y", [{"X": "a", "Y": "b"}]), mdcm.DataError, "as in {'X': ['a', ...]}"),
            (lambda d: mdcm.fit("X -> Y", d, config={"max_steps": 3}), mdcm.PlanError, "mdcm.TrainConfig(max_steps="),
            (lambda d: mdcm.Dataset(d, images={"I": ["a.png"] * 40}), mdcm.DataError, "mdcm.data.read_pictures makes"),
            (lambda d: mdcm.Dataset(images={"I": pd.Series(["a", "b"])}), mdcm.DataError, "mdcm.data.read_pictures"),
            (
                lambda d: mdcm.fit("P", {"P": [f"{k}.JPG" for k in range(60)]}), mdcm.DataError,
                "they are names of picture files: mdcm.data.read_pictures",
            ),
        ],
    )  # fmt: skip
    def test_slips(self, folder, slip, error, says):
        with pytest.raises(error) as told:
            slip(pd.DataFrame({"X": [0, 1] * 20, "Y": [1, 0] * 20}))
        assert says in str(told.value)

    @pytest.mark.parametrize(
        ("slip", "says"),
        [
            (lambda m: m.draw_samples(2, do="X=1"), "do must be values by variable, as in do={'X': 1}, not 'X=1'"),
            (lambda m: m.draw_samples(2, given=["X"]), "given must be values by variable"),
            (lambda m: m.counterfactual_samples(2, evidence="X", do={}), "evidence must be values by variable"),
            (lambda m: m.draw_samples(2, do={"x": 1}), "there is no variable 'x'; did you mean 'X'?"),
            (lambda m: m.draw_samples(2, given={"Z": 1}), "there is no variable 'Z'; the model has 'X', 'Y'"),
            (lambda m: m.draw_samples(2, variables=["y"]), "did you mean 'Y'?"),
        ],
    )
    def test_slips_with_a_model(self, small, slip, says):
        with pytest.raises(mdcm.QueryError) as told:
            slip(small)
        assert says in str(told.value)

    def test_a_page_takes_one_query_as_text(self, small, tmp_path):
        file = mdcm.write_report(small, tmp_path / "r.html", queries="P(Y | do(X=1))", num_samples=100)
        assert "P(Y | do(X=1))" in file.read_text()


@pytest.fixture(scope="module")
def small():
    return mdcm.fit("X -> Y", {"X": [0, 1] * 20, "Y": [1, 0] * 10 + [0, 1] * 10}, config=mdcm.TrainConfig(max_steps=2))


class TestLatentsAndLookalikes:
    """Columns and terms of latents, names that are nearly a column's, and options that cannot work."""

    @pytest.mark.parametrize("latent", ["Age", "Site"])
    def test_the_column_of_a_latent_is_not_used(self, folder, latent):
        graph = f"{latent} [latent]; {latent} -> Dose; {latent} -> Relief; Dose -> Relief"
        told = " ".join(call("check", graph, "t.csv").err.split())
        assert f"'{latent}' is latent; its column is not used" in told
        assert latent not in told.partition("are not nodes of the graph")[0].rpartition("columns")[2]
        with pytest.warns(UserWarning, match=f"'{latent}' is latent; its column is not used"):
            mdcm.check(graph, pd.read_csv("t.csv")[["Dose", "Relief", latent]])
        succeed("init", graph, "t.csv", "-q")
        assert f"declared latent in the graph: {latent}" in Path("spec.yaml").read_text()

    @pytest.mark.parametrize("query", ["P(Relief | do(Dose), U)", "P(U | do(Dose))", "P(Relief[U=1] | Dose=0)"])
    def test_a_query_is_about_observed_variables(self, query):
        graph = mdcm.ADMG.from_string("U [latent]; U -> Dose; U -> Relief; Dose -> Relief")
        with pytest.raises(mdcm.QueryError, match="'U' is declared latent; a query is about observed variables"):
            mdcm.identify(graph, query)
        assert "'U' is declared latent" in fail(2, "identify", graph.to_string(), query)

    @pytest.mark.parametrize(("node", "column"), [("Doze", "Dose"), ("age", "Age")])
    def test_a_node_that_is_nearly_a_column(self, folder, node, column):
        graph = f"{node} -> Relief"
        told = " ".join(call("check", graph, "t.csv").err.split())
        assert f"variable '{node}' of the graph has no column; did you mean '{column}'" in told

    def test_arguments_are_checked_before_files(self, folder):
        Path("spec.yaml").write_text("mine")
        assert "exists already" not in fail(2, "init", "t.csv")
        assert "exists already" in fail(2, "init", "g.txt", "t.csv")
        assert Path("spec.yaml").read_text() == "mine"

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0"])
    def test_a_device_is_refused_before_data_are_read(self, folder, device):
        Path("spec.yaml").write_text("graph: Dose -> Relief\ndata: [{path: missing.csv}]\n")
        assert f"there is no device '{device}'" in fail(2, "train", "spec.yaml", "--out", "run", "--device", device)

    @pytest.mark.parametrize(
        "query", ["P(Relief=yes | do(my dose=1))", "P(my relief)", "P(Relief=very good)", "E[my relief]"]
    )
    def test_names_of_several_words(self, query):
        with pytest.raises(mdcm.QueryError, match="put a name or a value of several words in quotes"):
            parse(query)

    @pytest.mark.parametrize(("command", "rest"), [("plan", []), ("identify", ["P(Relief | do(Dose))"])])
    @pytest.mark.parametrize("name", ["p.png", "plan.pdf"])
    def test_a_picture_is_an_svg(self, folder, command, rest, name):
        assert "the picture is written as .svg" in " ".join(fail(2, command, "g.txt", *rest, "--svg", name).split())
        assert not Path(name).exists()

    def test_levels_with_commas_are_quoted(self, folder):
        pd.DataFrame({"A": ["small, thin", "large"] * 20, "B": ["x", "y"] * 20}).to_csv("levels.csv", index=False)
        succeed("init", "A -> B", "levels.csv", "-q")
        assert "2 levels in 40 rows: large, 'small, thin'" in Path("spec.yaml").read_text()

    def test_many_different_texts_are_an_identifier(self, folder):
        texts = [f"text {k}" for k in range(400)]
        with pytest.raises(mdcm.DataError, match="400 different strings, in 400 rows: it seems to be an identifier"):
            mdcm.fit("A -> B", {"A": texts, "B": [0, 1] * 200})
        with pytest.raises(mdcm.DataError, match="400 different strings, more than the 256"):
            mdcm.fit("A -> B", {"A": texts * 3, "B": [0, 1] * 600})

    @pytest.mark.parametrize("command", [["query", "run", "P(Dose)"], ["sample", "run", "--out", "rows.csv"]])
    def test_an_unfinished_run_names_the_command_that_continues_it(self, folder, command):
        Checkpoints(Folder(folder, ("run",)), "training", 60).write({}, {})
        told = " ".join(fail(2, *command).split())
        assert "its training was not finished, mdcm train SPEC --out run --resume continues it" in told
        with pytest.raises(mdcm.CheckpointError, match="was not finished, fit with resume=True continues it"):
            mdcm.load("run")
