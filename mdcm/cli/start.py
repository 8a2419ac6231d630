"""Commands for the first steps: a diagnosis of the installation, and a first spec.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdcm.cli.console import command, is_quiet, note, show, show_json
from mdcm.cli.inputs import DataArguments, DropnaOption, GraphArgument, KindOption, NaOption, spec_of
from mdcm.errors import DataError

__all__ = ["doctor", "init"]

_MARKS = {"ok": " ", "note": "-", "broken": "!"}


@command("mdcm doctor", "mdcm doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show versions, devices, kernels and extras, and problems.

    The exit code is 1 if something necessary is broken.
    """
    from mdcm.cli.doctor import diagnose

    findings = diagnose()
    if as_json:
        show_json([finding.to_json() for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        topic = ""
        for finding in findings:
            if finding.topic != topic:
                show(finding.topic)
                topic = finding.topic
            advice = f"  ({finding.advice})" if finding.advice else ""
            show(f"{_MARKS[finding.state]} {finding.name:{width}}  {finding.value}{advice}")
        broken = sum(finding.state == "broken" for finding in findings)
        show(f"{broken} broken, marked !" if broken else "all that is needed is there")
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


@command(
    'mdcm init "X -> Z -> Y; X <-> Y" observed.csv trial.csv:do=X',
    "mdcm init graph.dot data.parquet --out spec.yaml",
    "mdcm init spec.yaml --out full.yaml",
)
def init(
    graph: GraphArgument,
    data: DataArguments = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="where the spec goes, - for stdout")] = Path("spec.yaml"),
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    na: NaOption = None,
    dropna: DropnaOption = False,
    kind: KindOption = None,
) -> None:
    """Write a commented spec for a graph and tables.

    It lists the inferred kinds, levels and settings; train with it as it is, or edit it first.
    """
    from mdcm.cli.spec_template import draft_spec
    from mdcm.storage.run_directory import replacing

    stdout = str(out) == "-"
    spec = spec_of(graph, data, na=na, dropna=dropna, kinds=kind)
    if not stdout and out.exists() and not force:
        raise DataError(f"{out} exists already; --force replaces it, --out writes elsewhere")
    text = draft_spec(spec, Path("spec.yaml") if stdout else out, progress=not is_quiet())
    if stdout:
        show(text)
        return
    with replacing(out) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    note(f"wrote {out}; next: mdcm train {out} --out run")
