"""Commands that run the demo and the experiments of the paper."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from mdcm.cli.console import command, is_quiet, note, one_thread, show, show_json
from mdcm.cli.interruptions import saying_nothing_is_saved, saying_what_is_saved
from mdcm.errors import MdcmError
from mdcm.text.limits import LARGEST_SEED

__all__ = ["demo", "experiment"]


@command("mdcm demo --out mdcm-demo", "mdcm demo --out mdcm-demo --force")
def demo(
    out: Annotated[Path, typer.Option(metavar="RUN", help="where pictures and the model go")] = Path("mdcm-demo"),
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="seed of everything random")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the training in RUN")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace what an earlier demo left in RUN")] = False,
) -> None:
    """Run the front-door experiment on real handwritten digits.

    It takes a few minutes on two cores.
    """
    for module, package in (("PIL", "pillow"), ("sklearn", "scikit-learn")):
        if importlib.util.find_spec(module) is None:
            raise MdcmError(f"the demo needs {package}: pip install 'mdcm[demo]'")

    from mdcm.experiments import demo as front_door

    if resume and force:
        raise typer.BadParameter("--resume goes on with what is in RUN, and --force replaces it: give one of them")
    one_thread()
    with saying_what_is_saved(out / "model", force=force):
        result = front_door.run(out, seed=seed, resume=resume, force=force, progress=not is_quiet())
    show(front_door.render(result))


@command(
    "mdcm experiment complexity --out run",
    "mdcm experiment asia --fast --json",
    "mdcm experiment sachs --data ~/sachs --method auto",
)
def experiment(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="asia, complexity, covidx, frontdoor, large, mnist2, sachs, synthetic"),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="where metrics.json and report.html go", show_default=False)
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="a small run, in well under a minute")] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="real data, for sachs and covidx", show_default=False),
    ] = None,
    mechanism: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODULE:FACTORY", help="a mechanism of your own, for X of covidx", show_default=False
        ),
    ] = None,
    mnist: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="directory of the MNIST files, for mnist2", show_default=False),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="auto, adversarial, joint or joint-rep; all that it compares by default", show_default=False),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="height and width of the pictures, for frontdoor", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what is in metrics.json")] = False,
) -> None:
    """Run an experiment of the paper and compare it with the truth.

    The exit code is 1 if a result misses its limit.
    """
    from mdcm.experiments.command import render, run_experiment

    one_thread()
    out = Path(f"mdcm-{name}") if out is None else out
    with saying_nothing_is_saved():
        record = run_experiment(
            name,
            out,
            fast=fast,
            data=data,
            mnist=mnist,
            mechanisms=mechanism or (),
            methods=method or (),
            resolution=resolution,
            progress=not is_quiet(),
        )
    if as_json:
        show_json(record)
    else:
        show(render(record))
    note(f"wrote {out / 'metrics.json'} and {out / 'report.html'}")
    if not record["met"]:
        raise typer.Exit(1)
