"""Commands to begin with: what there is to work with, and a first spec.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mdcm.commands.console import command, note, show
from mdcm.commands.graphs import NaOption, path_and_targets
from mdcm.errors import DataError

__all__ = ["doctor", "init"]

_MARKS = {"ok": " ", "note": "-", "broken": "!"}


@command("mdcm doctor", "mdcm doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show versions, devices, kernels and extras, and what is amiss.

    The exit code is 1 if something that is needed is broken.
    """
    from mdcm.doctor import diagnose

    found = diagnose()
    if as_json:
        show(json.dumps([one.to_json() for one in found], indent=1))
    else:
        width = max(len(one.name) for one in found)
        topic = ""
        for one in found:
            if one.topic != topic:
                show(one.topic)
                topic = one.topic
            advice = f"  ({one.advice})" if one.advice else ""
            show(f"{_MARKS[one.state]} {one.name:{width}}  {one.value}{advice}")
        broken = sum(one.state == "broken" for one in found)
        show(f"{broken} broken, marked !" if broken else "all that is needed is there")
    if any(one.state == "broken" for one in found):
        raise typer.Exit(1)


@command(
    'mdcm init "X -> Z -> Y; X <-> Y" observed.csv trial.csv:do=X',
    "mdcm init graph.dot data.parquet --out spec.yaml",
)
def init(
    graph: Annotated[str, typer.Argument(metavar="GRAPH", help="graph file, or the text itself", show_default=False)],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:do=X,Y]...", help="table, perhaps of an experiment that set X and Y", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="where the spec goes, - for stdout")] = Path("spec.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    na: NaOption = None,
) -> None:
    """Write a commented spec for a graph and tables.

    It says what was found in them, and can be trained as it is, or changed first.
    """
    from mdcm.data import read_table
    from mdcm.drafts import Source, draft_spec, relative
    from mdcm.graph import ADMG
    from mdcm.rundir import replacing

    stdout = str(out) == "-"
    if not stdout and out.exists() and not force:
        raise DataError(f"{out} exists already; --force replaces it, --out writes elsewhere")
    admg = ADMG.parse_or_read(graph)
    base = Path("spec.yaml") if stdout else out
    parts = [path_and_targets(one, "") for one in data]
    missing = na or ()
    sources = [Source(relative(path, base), read_table(path, na_values=missing), do, missing) for path, do in parts]
    file = len(graph) < 1000 and "\0" not in graph and Path(graph).is_file()
    text = draft_spec(admg, sources, graph_text=relative(graph, base) if file else None)
    if stdout:
        show(text)
        return
    with replacing(out) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    note(f"wrote {out}; next: mdcm train {out} --out run")
