"""Commands about graphs: what is learned apart from what, whether data fit, and whether they determine an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mdcm.commands.console import command, complain, is_quiet, show, write

if TYPE_CHECKING:
    from mdcm.data import Dataset
    from mdcm.identify import Identification
    from mdcm.plan import Method, Objective

__all__ = ["NaOption", "check", "datasets_of", "identify", "path_and_targets", "plan"]

NaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--na", metavar="TEXT", help="text in a table that means missing, as an empty cell does", show_default=False
    ),
]


@command('mdcm plan "D -> I -> A; D <-> A" --objective adversarial --svg plan.svg')
def plan(
    graph: Annotated[str, typer.Argument(metavar="GRAPH", help="graph file, or the text itself", show_default=False)],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:do=X,Y]", help="table, perhaps of an experiment that set X and Y", show_default=False
        ),
    ] = None,
    objective: Annotated[str, typer.Option(help="auto, adversarial or likelihood")] = "auto",
    method: Annotated[str, typer.Option(help="minimal, paper or joint")] = "minimal",
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="F", help="write the plan as JSON, to stdout for -")
    ] = None,
    svg: Annotated[str | None, typer.Option(metavar="F", help="draw the plan, to stdout for -")] = None,
    dot: Annotated[str | None, typer.Option(metavar="F", help="write it for Graphviz, to stdout for -")] = None,
    na: NaOption = None,
) -> None:
    """Show what is trained together, in which order, on which data."""
    from mdcm.graph import ADMG
    from mdcm.plan import plan as make_plan

    if [json_file, svg, dot].count("-") > 1:
        raise typer.BadParameter("only one of --json, --svg and --dot can go to stdout")
    admg = ADMG.parse_or_read(graph)
    specs, kinds, levels = None, None, None
    if data:
        from mdcm.data import Schema, to_spec, validate

        datasets = validate(datasets_of(data, na=na), admg.nodes)
        schema = Schema.infer(datasets)
        kinds, levels = schema.kinds, schema.levels
        specs = [to_spec(dataset, schema) for dataset in datasets]
    # what is not among the words that the types list is refused by the planner
    objective_, method_ = cast("Objective", objective), cast("Method", method)
    made = make_plan(admg, specs, objective=objective_, method=method_, kinds=kinds, levels=levels)
    if "-" not in {json_file, svg, dot}:
        show(str(made))
    if json_file is not None:
        write(json_file, made.to_json(indent=1))
    if svg is not None:
        write(svg, made.to_svg())
    if dot is not None:
        write(dot, made.to_dot())


@command('mdcm check "D -> I -> A; D <-> A" data.csv', "mdcm check graph.txt a.csv b.csv:do=D --json")
def check(
    graph: Annotated[str, typer.Argument(metavar="GRAPH", help="graph file, or the text itself", show_default=False)],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:do=X,Y]...", help="table, perhaps of an experiment that set X and Y", show_default=False
        ),
    ],
    level: Annotated[float, typer.Option(help="probability of any rejection if the graph is right")] = 0.05,
    max_tests: Annotated[int, typer.Option(min=1, help="tests at most; beyond, pairs are drawn at random")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    na: NaOption = None,
) -> None:
    """Test what a graph implies on data, the worst first.

    The exit code is 1 if any is rejected.
    """
    from mdcm.checking import check as check_graph
    from mdcm.graph import ADMG

    if not 0 < level < 1:
        raise typer.BadParameter("--level must lie between 0 and 1")
    admg = ADMG.parse_or_read(graph)
    found = check_graph(admg, datasets_of(data, "", na), level=level, max_tests=max_tests, progress=not is_quiet())
    show(json.dumps(found.to_json(), indent=1, allow_nan=False) if as_json else str(found))
    if len(found.rejected):
        raise typer.Exit(1)


@command(
    'mdcm identify "D -> I -> A; D <-> A" "P(A | do(D))" --latex',
    'mdcm identify "X -> Y; X <-> Y" "P(Y | do(X=1))" --experiment X=1',
)
def identify(
    graph: Annotated[str, typer.Argument(metavar="GRAPH", help="graph file, or the text itself", show_default=False)],
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
) -> None:
    """Decide whether data determine the answer to a query, and how.

    The exit code is 1 if they do not.
    """
    from mdcm.graph import ADMG
    from mdcm.identify import identify as decide
    from mdcm.options import targets
    from mdcm.query import parse

    admg = ADMG.parse_or_read(graph)
    query = parse(text)
    query.check(admg.nodes)
    specs, kinds, levels = None, None, None
    if data:
        from mdcm.data import Schema, to_spec, validate

        datasets = validate(datasets_of(data, na=na), admg.nodes)
        schema = Schema.infer(datasets)
        kinds, levels = schema.kinds, schema.levels
        specs = [to_spec(dataset, schema) for dataset in datasets]
    experiments = [targets(option) for option in experiment or []]
    found = decide(admg, query, experiments=experiments, datasets=specs, kinds=kinds, levels=levels)
    if svg is not None:
        write(svg, found.to_svg())
    if as_json:
        show(json.dumps(found.to_json(), indent=1, allow_nan=False))
    elif found.estimand is not None:
        if svg != "-":
            show(_latex(found) if latex else str(found))
    else:
        complain(found.explain())
    if not found.identifiable:
        raise typer.Exit(1)


def _latex(found: Identification) -> str:
    from mdcm.errors import QueryError

    assert found.estimand is not None
    try:
        return found.estimand.latex()
    except QueryError:
        # says that it is identifiable, and why there is no formula
        return str(found)


def datasets_of(options: list[str], flag: str = "--data ", na: list[str] | None = None) -> list[Dataset]:
    """Data sets of options, or of arguments, ``FILE[:do=X,Y]``, and the texts that mean that a value is missing."""
    from mdcm.data import Dataset, read_table
    from mdcm.spec import dataset_names

    parts = [path_and_targets(option, flag) for option in options]
    names = dataset_names([path for path, _ in parts])
    tables = [read_table(path, na_values=na or ()) for path, _ in parts]
    return [Dataset(table, do=do, name=name) for table, (_, do), name in zip(tables, parts, names, strict=True)]


def path_and_targets(option: str, flag: str) -> tuple[str, list[str]]:
    """File and targets of ``FILE[:do=X,Y]``.

    Raises:
        DataError: If it is malformed.
    """
    from mdcm.errors import DataError

    path, separator, targets = option.rpartition(":do=")
    if Path(option).exists():
        return option, []
    if not separator:
        if ":" in Path(option).name:
            raise DataError(f"{flag}{option}: there is no such file, and after a colon do=X,Y is expected")
        return option, []
    do = [name.strip() for name in targets.split(",")]
    if not all(do):
        raise DataError(f"{flag}{option}: a name is missing after do=, as in {path}:do=X,Y")
    return path, do
