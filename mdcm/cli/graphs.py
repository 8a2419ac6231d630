"""Commands about graphs: training plans, tests of a graph against data, and identification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mdcm.cli.console import command, complain, is_quiet, show, show_json, write
from mdcm.cli.inputs import (
    DataArguments,
    DropnaOption,
    GraphArgument,
    KindOption,
    NaOption,
    is_spec,
    kinds_of,
    refuse_query,
    spec_of,
)

if TYPE_CHECKING:
    from mdcm.cli.spec import Spec
    from mdcm.data import Kind, Level, Schema
    from mdcm.graph import ADMG
    from mdcm.identification import Identification
    from mdcm.planning import DatasetSpec, Method, Objective
    from mdcm.query import Expression

__all__ = ["check", "identify", "plan"]


@command(
    'mdcm plan "D -> I -> A; D <-> A" --objective adversarial --svg plan.svg',
    'mdcm plan "D -> I -> A; D <-> A" --kind I=image',
)
def plan(
    graph: GraphArgument,
    tables: DataArguments = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:do=X,Y]", help="a table too, as the argument is one", show_default=False),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="auto (the default), adversarial or likelihood", show_default=False)
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="minimal (the default), paper or joint", show_default=False)
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="F", help="write the plan as JSON, to stdout for -")
    ] = None,
    svg: Annotated[str | None, typer.Option(metavar="F", help="draw the plan, to stdout for -")] = None,
    dot: Annotated[str | None, typer.Option(metavar="F", help="write it for Graphviz, to stdout for -")] = None,
    na: NaOption = None,
    dropna: DropnaOption = False,
    kind: KindOption = None,
) -> None:
    """Show what is trained together, in which order, on which data."""
    from mdcm.planning import plan as make_plan

    if [json_file, svg, dot].count("-") > 1:
        raise typer.BadParameter("only one of --json, --svg and --dot can go to stdout")
    _check_svg(svg)
    admg, seen, spec = _graph_and_data(graph, [*(tables or []), *(data or [])], na, dropna, kind)
    # the planner refuses other words
    made = make_plan(
        admg,
        seen.specs,
        objective=cast("Objective", objective or ("auto" if spec is None else spec.objective)),
        method=cast("Method", method or ("minimal" if spec is None else spec.method)),
        kinds=seen.kinds,
        levels=seen.levels,
    )
    if "-" not in {json_file, svg, dot}:
        show(str(made))
    if json_file is not None:
        write(json_file, made.to_json(indent=1))
    if svg is not None:
        write(svg, made.to_svg())
    if dot is not None:
        write(dot, made.to_dot())


@command(
    'mdcm check "D -> I -> A; D <-> A" data.csv',
    "mdcm check graph.txt a.csv b.csv:do=D --json",
    "mdcm check spec.yaml",
)
def check(
    graph: GraphArgument,
    data: DataArguments = None,
    level: Annotated[float, typer.Option(help="probability of any rejection if the graph is right")] = 0.05,
    max_tests: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="tests at most; beyond, pairs are drawn at random")
    ] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    na: NaOption = None,
    dropna: DropnaOption = False,
    kind: KindOption = None,
) -> None:
    """Test what a graph implies on data, the worst first.

    The exit code is 1 if any is rejected.
    """
    from mdcm.checking import check as check_graph

    if not 0 < level < 1:
        raise typer.BadParameter("--level must lie between 0 and 1")
    spec = spec_of(graph, data, na=na, dropna=dropna, kinds=kind)
    admg = spec.load_graph()
    result = check_graph(
        admg,
        spec.load_data(is_checked=is_spec(graph), unobserved=admg.nodes, progress=not is_quiet()),
        level=level,
        variables=spec.declared(),
        max_tests=max_tests,
        progress=not is_quiet(),
    )
    if as_json:
        show_json(result.to_json())
    else:
        show(str(result))
    if len(result.rejected):
        raise typer.Exit(1)


@command(
    'mdcm identify "D -> I -> A; D <-> A" "P(A | do(D))" --latex',
    'mdcm identify "X -> Y; X <-> Y" "P(Y | do(X=1))" --experiment X=1',
)
def identify(
    graph: GraphArgument,
    text: Annotated[str, typer.Argument(metavar="QUERY", help="P(Y | do(X), Z), P(Y[X=1] | X=0)", show_default=False)],
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Z=1",
            help="an experiment besides observations: what it sets, perhaps to one value",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:do=X,Y]",
            help="what was observed instead; columns and values are read from it",
            show_default=False,
        ),
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="print the estimand in LaTeX")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    svg: Annotated[str | None, typer.Option(metavar="F", help="draw the graph and why, to stdout for -")] = None,
    na: NaOption = None,
    dropna: DropnaOption = False,
    kind: KindOption = None,
) -> None:
    """Decide whether data determine the answer to a query, and how.

    The exit code is 1 if they do not.
    """
    from mdcm.cli.options import targets
    from mdcm.identification import identify as decide
    from mdcm.query import parse

    _check_svg(svg)
    refuse_query(graph, "the graph", "mdcm identify GRAPH QUERY")
    query = parse(text)
    admg, seen, _ = _graph_and_data(graph, data, na, dropna, kind)
    query.check(admg.nodes, dict(admg.latents))
    if seen.schema is not None:
        _check_values(query, seen.schema)
    experiments = [targets(option) for option in experiment or []]
    result = decide(admg, query, experiments=experiments, datasets=seen.specs, kinds=seen.kinds, levels=seen.levels)
    if svg is not None:
        write(svg, result.to_svg())
    if as_json:
        show_json(result.to_json())
    elif result.estimand is not None:
        if svg != "-":
            show(_latex(result) if latex else str(result))
    else:
        complain(result.explain())
    if not result.identifiable:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Seen:
    """Descriptions of data for the planner: columns, targets, kinds and levels; None if the user names no data."""

    specs: list[DatasetSpec] | None = None
    kinds: Mapping[str, Kind] | None = None
    levels: Mapping[str, tuple[Level, ...]] | None = None
    schema: Schema | None = None


def _graph_and_data(
    graph: str, data: list[str] | None, na: list[str] | None, dropna: bool, kind: list[str] | None
) -> tuple[ADMG, _Seen, Spec | None]:
    """Read the graph, the descriptions of the data, and the spec; without data the last two are empty and None."""
    if not data and not is_spec(graph):
        from mdcm.data.variables import suggestion
        from mdcm.errors import DataError
        from mdcm.graph import ADMG

        if na or dropna:
            raise typer.BadParameter("--na and --dropna are for tables, which --data names")
        admg, kinds = ADMG.parse_or_read(graph), kinds_of(kind)
        for name in kinds:
            if name not in admg:
                raise DataError(f"--kind {name}: there is no variable {name!r}{suggestion(name, admg.nodes)}")
        return admg, _Seen(kinds=kinds or None), None
    from mdcm.data import Schema, to_spec, validate

    spec = spec_of(graph, data, na=na, dropna=dropna, kinds=kind)
    admg = spec.load_graph()
    datasets = validate(spec.load_data(is_checked=is_spec(graph), progress=not is_quiet()), admg.nodes)
    schema = Schema.infer(datasets, spec.declared())
    specs = [to_spec(dataset, schema) for dataset in datasets]
    return admg, _Seen(specs, schema.kinds, schema.levels, schema), spec


def _check_values(query: Expression, schema: Schema) -> None:
    """Refuse values that are not levels of the data's variables, and expectations of variables without numbers."""
    from mdcm.errors import DataError

    for part in query.queries:
        for term in part.walk():
            if term.value is not None and schema[term.variable].kind != "image" and schema[term.variable].size is None:
                try:
                    schema.parse(term.variable, term.value)
                except DataError as error:
                    raise query.error(str(error), term, value=True) from None
        outcome = schema[part.outcomes[0].variable]
        if part.kind == "E" and outcome.kind == "image":
            raise query.error(f"{outcome.name!r} is an image, which has no expectation", part.outcomes[0])
        if part.kind == "E" and any(isinstance(level, str) for level in outcome.levels or ()):
            raise query.error(
                f"the levels of {outcome.name!r} are not numbers, so it has no expectation", part.outcomes[0]
            )


def _latex(result: Identification) -> str:
    from mdcm.errors import QueryError

    assert result.estimand is not None
    try:
        return result.estimand.latex()
    except QueryError:
        # the text says that it is identifiable, and why its formula is missing
        return str(result)


def _check_svg(target: str | None) -> None:
    """Refuse to write a picture to a file of another type."""
    if target is not None and target != "-" and Path(target).suffix.lower() not in {"", ".svg"}:
        raise typer.BadParameter(f"--svg {target}: the picture is written as .svg")
