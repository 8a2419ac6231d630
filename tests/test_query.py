"""The query language: round trips over random trees, garbage, and where the caret stands."""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mdcm.errors import QueryError
from mdcm.query import Expression, Query, Term, parse

NAMES = [
    "X",
    "Y",
    "Z",
    "W1",
    "M",
    "do",
    "P",
    "Größe",
    "変数",
    "my var",
    "it's",
    'say "hi"',
    "a\\b",
    "1",
    "Sepal.Length",
]
names = st.sampled_from(NAMES)
values = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["yes", "no", "a b", "1", "007", "1e5", "-1", "", "it's", "\\", "do", "ja/nein", "é"]),
)


@st.composite
def worlds(draw, owner, depth=0):
    """Settings of a world for ``owner``, some of them nested."""
    settings_ = []
    for name in draw(st.lists(names.filter(lambda name: name != owner), min_size=1, max_size=3, unique=True)):
        if depth < 3 and draw(st.booleans()):
            settings_.append(Term(name, None, draw(worlds(name, depth + 1))))
        else:
            settings_.append(Term(name, draw(values)))
    return tuple(settings_)


@st.composite
def queries(draw, scalar=False):
    """Queries whose variables all differ, so that no role can contradict another."""
    pool = draw(st.permutations(NAMES))
    kind = draw(st.sampled_from("PE"))
    number = 1 if kind == "E" else draw(st.integers(1, 3))
    optional = values if scalar else st.one_of(st.none(), values)
    counterfactual = draw(st.booleans())

    def term(name, valued=True):
        world = draw(worlds(name)) if counterfactual and draw(st.booleans()) else ()
        return Term(name, draw(optional) if valued else None, world)

    outcomes = tuple(term(name, valued=kind == "P") for name in pool[:number])
    given_ = tuple(term(name) for name in pool[number : number + draw(st.integers(0, 3))])
    do = ()
    if not any(one.world for one in outcomes + given_):
        do = tuple(Term(name, draw(optional)) for name in pool[8 : 8 + draw(st.integers(0, 2))])
    return Query(kind, outcomes, do, given_)


@st.composite
def expressions(draw):
    if draw(st.booleans()):
        return Expression(((1, draw(queries())),))
    signed = st.tuples(st.sampled_from([1, -1]), queries(scalar=True))
    return Expression(tuple(draw(st.lists(signed, min_size=1, max_size=3))))


@settings(deadline=None, max_examples=400)
@given(expressions())
def test_parse_inverts_str(expression):
    assert parse(str(expression)) == expression
    assert str(parse(str(expression))) == str(expression)


@settings(deadline=None, max_examples=400)
@given(expressions(), st.data())
def test_parse_does_not_mind_white_space_between_tokens(expression, data):
    spaced = str(expression)
    for place in sorted(data.draw(st.lists(st.integers(0, len(spaced)), max_size=5)), reverse=True):
        # outside quotes, and not inside a word or number
        before, after = spaced[:place], spaced[place:]
        if before.count("'") or not after or after[0] not in "()[]|=,":
            continue
        spaced = f"{before} \t{after}"
    assert parse(f"  {spaced}\n") == expression


def parsed_or_refused(text):
    try:
        return parse(text)
    except QueryError as error:
        return error


FRAGMENTS = [
    "P(",
    "E[",
    ")",
    "]",
    "[",
    "(",
    "|",
    ",",
    "=",
    "-",
    "+",
    "do(",
    "X",
    "Y",
    "Y[X=1]",
    "1",
    "'",
    '"',
    " ",
    "\\",
    "٣",
    "é",
]


@settings(deadline=None, max_examples=1500)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join)))
@example("P(" * 5000)
@example("P(Y" + "[M" * 5000)
@example("P(Y=" + "9" * 5000 + ")")
@example("P(Y=1e999)")
@example("P('")
@example("P('\\")
def test_parse_of_anything_raises_nothing_but_query_errors(text):
    result = parsed_or_refused(text)
    if isinstance(result, QueryError):
        assert result.position is not None
        assert 0 <= result.position <= len(text)
        assert result.length >= 1
    else:
        assert parse(str(result)) == result


@settings(deadline=None, max_examples=300)
@given(expressions(), st.data())
def test_parse_of_a_damaged_query_raises_nothing_but_query_errors(expression, data):
    text = str(expression)
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:place] + data.draw(st.sampled_from(["", *string.punctuation, " ", "X"])) + text[place + 1 :]
    result = parsed_or_refused(damaged)
    assert isinstance(result, QueryError) or parse(str(result)) == result


def test_parse_reads_every_part_of_a_conditional_effect():
    ((sign, query),) = parse("P(Y1, Y2=no | do(X=1, W=0.5), Z=-2)").terms
    assert sign == 1
    assert query == Query(
        "P",
        (Term("Y1"), Term("Y2", "no")),
        (Term("X", 1), Term("W", 0.5)),
        (Term("Z", -2),),
    )
    assert query.layer == 2
    assert not query.is_number


@pytest.mark.parametrize(
    ("text", "layer", "is_number"),
    [
        ("P(Y)", 1, False),
        ("P(Y=1 | Z=0)", 1, True),
        ("P(Y=1 | Z)", 1, False),
        ("P(A | do(D))", 2, False),
        ("E[Y | do(X=1)]", 2, True),
        ("E[Y | do(X)]", 2, False),
        ("P(Y[X=1]=1 | X=0, Y=1)", 3, True),
        ("P(Y | X[Z=1]=0)", 3, False),
    ],
)
def test_queries_know_their_layer_and_form(text, layer, is_number):
    query = parse(text).query
    assert (query.layer, query.is_number) == (layer, is_number)


def test_nested_worlds_are_kept():
    (outcome,) = parse("P(Y[X=1, M[X=0]])").query.outcomes
    assert outcome == Term("Y", None, (Term("X", 1), Term("M", None, (Term("X", 0),))))
    assert [term.variable for term in outcome.walk()] == ["Y", "X", "M", "X"]


def test_sums_have_signs_and_expectations_are_linear():
    expression = parse("-E[Y | do(X=1)] + E[Y[X=1] - Y[X=0] | X=0] - P(Y=1)")
    assert [sign for sign, _ in expression.terms] == [-1, 1, -1, -1]
    assert str(expression) == "-E[Y | do(X=1)] + E[Y[X=1] | X=0] - E[Y[X=0] | X=0] - P(Y=1)"
    assert expression.variables == ("Y", "X")
    with pytest.raises(QueryError, match="one query"):
        _ = expression.query


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("P(Y|do(X=1),do(W=0))", "P(Y | do(X=1, W=0))"),
        ("P(Y|Z=1,do(X=1))", "P(Y | do(X=1), Z=1)"),
        ("E(Y)", "E[Y]"),
        ("P(\"a b\"='c d')", "P('a b'='c d')"),
        ("P(Y=−1)", "P(Y=-1)"),
        ("P(Y=+1)", "P(Y=1)"),
        ("P(Y=1.50)", "P(Y=1.5)"),
    ],
)
def test_other_spellings_mean_the_same(text, same):
    assert str(parse(text)) == same


def test_values_that_look_like_numbers_are_numbers_unless_quoted_or_labels():
    (query,) = parse("P(A=1, B='1', C=007, D=2.5, E=x1, F=1e3)").queries
    assert [term.value for term in query.outcomes] == [1, "1", "007", 2.5, "x1", 1000.0]
    assert isinstance(query.outcomes[0].value, int)


@pytest.mark.parametrize(
    ("text", "under", "message"),
    [
        ("", "", "empty"),
        ("   ", " ", "empty"),
        ("P(Y", "(", "never closed"),
        ("P(Y | do(X=1)", "(", "never closed"),
        ("P(Y[X=1", "[", "never closed"),
        ("P(Y))", ")", "the end is expected"),
        ("P(Y]", "]", "not ']'"),
        ("P()", ")", "a name is expected"),
        ("P(Y,)", ")", "a name is expected"),
        ("P(Y | )", ")", "a name is expected"),
        ("P(Y | do())", ")", "a name is expected"),
        ("P(Y=)", ")", "a value is expected"),
        ("P(Y=-)", ")", "a number is expected"),
        ("P(1)", "1", "quote it"),
        ("P('')", "''", "cannot be empty"),
        ("Q(Y)", "Q", "'P(' or 'E['"),
        ("P Y", "Y", "'(' is expected"),
        ("P(Y) P(Z)", "P", "the end is expected"),
        ("P(Y) +", "", "ends where"),
        ("P(Y; Z)", ";", "quoted"),
        ("P(Y='a b)", "'", "never closed"),
        ("P(Y | do(X=1, X=1))", "X", "sets 'X' twice"),
        ("P(Y | do(X=1), do(X=0))", "X", "sets 'X' twice"),
        ("P(Y | do(X=1), X=0)", "X", "contradict each other: X=1 and X=0"),
        ("P(Y | Z=1, Z=0)", "Z", "conditioned on twice"),
        ("P(Y, Y)", "Y", "outcome twice"),
        ("P(Y | Y=1)", "Y", "outcome and cannot"),
        ("P(X | do(X=1))", "X", "set by do()"),
        ("E[Y, Z]", ",", "one outcome"),
        ("E[Y=1]", "1", "not of an event"),
        ("P(Y[X])", "X", "needs a value"),
        ("P(Y[M[X=1]=2])", "2", "nested variable"),
        ("P(Y[X=1, X=0])", "X", "set twice"),
        ("P(Y[Y=1])", "Y", "own world"),
        ("P(Y | do(X[Z=1]=1))", "X", "actual world"),
        ("P(Y[X=1] | do(W=0))", "W", "cannot be mixed"),
        ("P(Y[X=1, W=0], Y[W=0, X=1])", "Y", "outcome twice"),
        ("E[Y | do(X)] - E[Y]", "X", "needs a value"),
        ("P(Y) - P(Y=1)", "Y", "needs a value"),
        ("P(Y=1e999)", "1e999", "too large"),
    ],
)
def test_mistakes_are_refused_with_a_caret_under_the_place(text, under, message):
    with pytest.raises(QueryError) as caught:
        parse(text)
    error = caught.value
    assert message in str(error)
    assert text[error.position : error.position + error.length] == under
    *_, shown, caret = str(error).split("\n")
    assert shown == "  " + text
    assert caret == "  " + " " * error.position + "^" * error.length


def test_the_caret_stands_under_the_last_of_two_roles():
    with pytest.raises(QueryError) as caught:
        parse("P(Y | do(X=1), X=0)")
    assert caught.value.position == 15


def test_do_and_an_equal_condition_agree():
    assert parse("P(Y | do(X=1), X=1)").query.given == (Term("X", 1),)


def test_the_same_variable_in_two_worlds_is_no_contradiction():
    query = parse("P(Y[X=1]=1, Y[X=0]=0 | X=0, Y=1)").query
    assert [term.value for term in query.outcomes] == [1, 0]


def test_check_names_the_unknown_variable_and_the_nearest_known_one():
    expression = parse("P(Dose | do(Drag=1))")
    with pytest.raises(QueryError, match="no variable 'Drag'; did you mean 'Drug'") as caught:
        expression.check(["Dose", "Drug"])
    assert caught.value.position == 12
    assert caught.value.length == 4
    expression.check(["Dose", "Drag"])
    with pytest.raises(QueryError, match="there are 'A', 'B'"):
        parse("P(Y[X[Q=1]])").check(["A", "B"])


def test_check_looks_into_nested_worlds():
    with pytest.raises(QueryError, match="no variable 'Q'") as caught:
        parse("P(Y[M[Q=0]])").check(["Y", "M"])
    assert caught.value.position == 6


def test_errors_of_later_stages_point_at_a_value():
    expression = parse("P(Y | do(Drug=always))")
    error = expression.error("no such level", expression.query.do[0], value=True)
    assert (error.position, error.length) == (14, 6)
    built = Expression(((1, Query("P", (Term("Y", 2),))),))
    assert "Y=2" in str(built.error("no such level", built.query.outcomes[0]))


def test_parse_refuses_what_is_no_text():
    with pytest.raises(QueryError, match="not int"):
        parse(3)
