"""The command ``mdcm``.

Exit codes: 0 done; 1 the answer is no (not identifiable, untrainable, too little support); 2 bad usage or bad input;
130 interrupted. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from mdcm.errors import LowSupportError, MdcmError, NotIdentifiableError, UntrainableError

if TYPE_CHECKING:
    from mdcm.data import Dataset
    from mdcm.identify import Identification
    from mdcm.model import Model
    from mdcm.plan import Method, Objective

__all__ = ["app", "main"]

_ANSWER_IS_NO = (NotIdentifiableError, UntrainableError, LowSupportError)
_INTERRUPTED = 130
_READER_LEFT = 141
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Commands(TyperGroup):
    """Turns what goes wrong in a command into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            _say("interrupted")
            raise SystemExit(_INTERRUPTED) from None
        except BrokenPipeError:
            # as in `mdcm plan ... | head`; Python would complain once more when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_READER_LEFT) from None
        except MdcmError as error:
            _say(f"error: {error}")
            raise SystemExit(1 if isinstance(error, _ANSWER_IS_NO) else 2) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _say(f"error: {where}{error.strerror or error}")
            raise SystemExit(2) from None
        except MemoryError:
            _say("error: out of memory")
            raise SystemExit(2) from None
        return result


app = typer.Typer(
    cls=_Commands,
    help="Causal answers from deep generative models, with hidden confounders and images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _example(*lines: str) -> str:
    # the mark keeps the lines as they are; a command that is wrapped cannot be copied
    return "\b\n" + "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def _printable(text: str) -> str:
    # a name in somebody else's file may hold what a terminal obeys
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _out(text: str) -> None:
    sys.stdout.write(_printable(text if text.endswith("\n") else text + "\n"))


def _say(text: str) -> None:
    sys.stderr.write(_printable(text + "\n"))


def _write(target: str, text: str) -> None:
    """Write a result to a file, or to stdout for "-"."""
    if target == "-":
        _out(text)
        return
    from mdcm.rundir import replacing

    with replacing(target) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    _say(f"wrote {target}")


def _version(wanted: bool) -> None:
    if wanted:
        from mdcm import __version__

        _out(f"mdcm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Causal answers from deep generative models, with hidden confounders and images."""


@app.command(epilog=_example('mdcm plan "D -> I -> A; D <-> A" --objective adversarial --svg plan.svg'))
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
) -> None:
    """Show what is trained together, in which order, on which data."""
    from mdcm.graph import ADMG
    from mdcm.plan import plan as make_plan

    if [json_file, svg, dot].count("-") > 1:
        raise typer.BadParameter("only one of --json, --svg and --dot can go to stdout")
    admg = ADMG.parse_or_read(graph)
    specs, kinds, levels = None, None, None
    if data:
        from mdcm.data import Schema, validate

        datasets = validate(_datasets(data), admg.nodes)
        schema = Schema.infer(datasets)
        kinds, levels = schema.kinds, schema.levels
        specs = [dataset.spec(admg.nodes) for dataset in datasets]
    # what is not among the words that the types list is refused by the planner
    objective_, method_ = cast("Objective", objective), cast("Method", method)
    made = make_plan(admg, specs, objective=objective_, method=method_, kinds=kinds, levels=levels)
    if "-" not in {json_file, svg, dot}:
        _out(str(made))
    if json_file is not None:
        _write(json_file, made.to_json(indent=1))
    if svg is not None:
        _write(svg, made.to_svg())
    if dot is not None:
        _write(dot, made.to_dot())


@app.command(
    epilog=_example('mdcm check "D -> I -> A; D <-> A" data.csv', "mdcm check graph.txt a.csv b.csv:do=D --json")
)
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
) -> None:
    """Test the independences that a graph implies, worst first.

    The exit code is 1 if any is rejected.
    """
    from mdcm.check import check as check_graph
    from mdcm.graph import ADMG

    if not 0 < level < 1:
        raise typer.BadParameter("--level must lie between 0 and 1")
    admg = ADMG.parse_or_read(graph)
    found = check_graph(admg, _datasets(data, ""), level=level, max_tests=max_tests)
    _out(json.dumps(found.to_json(), indent=1, allow_nan=False) if as_json else str(found))
    if len(found.rejected):
        raise typer.Exit(1)


@app.command(
    epilog=_example(
        'mdcm identify "D -> I -> A; D <-> A" "P(A | do(D))" --latex',
        'mdcm identify "X -> Y; X <-> Y" "P(Y | do(X=1))" --experiment X=1',
    )
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
        from mdcm.data import Schema, validate

        datasets = validate(_datasets(data), admg.nodes)
        schema = Schema.infer(datasets)
        kinds, levels = schema.kinds, schema.levels
        specs = [dataset.spec(admg.nodes) for dataset in datasets]
    experiments = [targets(option) for option in experiment or []]
    found = decide(admg, query, experiments=experiments, datasets=specs, kinds=kinds, levels=levels)
    if svg is not None:
        _write(svg, found.to_svg())
    if as_json:
        _out(json.dumps(found.to_json(), indent=1, allow_nan=False))
    elif found.estimand is not None:
        if svg != "-":
            _out(_latex(found) if latex else str(found))
    else:
        _say(found.explain())
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


def _datasets(options: list[str], flag: str = "--data ") -> list[Dataset]:
    """Data sets of options, or of arguments, ``FILE[:do=X,Y]``."""
    from mdcm.data import Dataset, read_table
    from mdcm.spec import dataset_names

    parts = [_path_and_targets(option, flag) for option in options]
    names = dataset_names([path for path, _ in parts])
    return [Dataset(read_table(path), do=do, name=name) for (path, do), name in zip(parts, names, strict=True)]


def _path_and_targets(option: str, flag: str) -> tuple[str, list[str]]:
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


@app.command(
    epilog=_example(
        "mdcm train spec.yaml --out run",
        "mdcm train spec.yaml --out run --ensemble 20",
        "mdcm train spec.yaml --out run --resume",
    )
)
def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="what to train on what", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="RUN", help="directory for the trained model", show_default=False)],
    seed: Annotated[
        int | None, typer.Option(min=0, help="seed, instead of the one in the spec", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")] = "auto",
    ensemble: Annotated[
        int | None,
        typer.Option(min=0, metavar="K", help="models to train besides, for intervals of answers", show_default=False),
    ] = None,
    seeds_only: Annotated[
        bool, typer.Option("--seeds-only", help="they differ by their seeds, and not by the weights of rows")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint in RUN, if there is one")] = False,
) -> None:
    """Train a model and save it as a run directory.

    Checkpoints are written there meanwhile; after Ctrl-C, or when it was killed, --resume goes on.
    """
    from mdcm.rundir import CHECKPOINTS, ENSEMBLE, reserve
    from mdcm.spec import read_spec

    loaded = read_spec(spec)
    members = loaded.train.ensemble if ensemble is None else ensemble
    if members == 1:
        raise typer.BadParameter("an ensemble has at least 2 members")
    graph = loaded.load_graph()
    datasets = loaded.load_data()
    reserve(out)

    from mdcm.model import fit

    _one_thread()
    try:
        model = fit(
            graph,
            datasets,
            objective=loaded.objective,
            method=loaded.method,
            variables=loaded.declared() or None,
            config=loaded.train.config(),
            out=out,
            resume=resume,
            device=device,
            seed=loaded.train.seed if seed is None else seed,
            ensemble=members,
            resample=not seeds_only,
            progress=True,
            origin=os.path.relpath(spec.resolve(), out.resolve()),
        )
    except (KeyboardInterrupt, SystemExit):
        if (out / CHECKPOINTS).is_dir() or (out / ENSEMBLE).is_dir():
            _say(f"what was done is in {out}; the same command with --resume goes on")
        raise
    _out(str(model.plan))
    for record in model.history:
        if record["event"] == "trained":
            heldout = "" if record["heldout"] is None else f", held-out loss {record['heldout']:.4f}"
            hnode = ", ".join(record["hnode"])
            _out(f"trained {{{hnode}}}: {record['steps']} steps, {record['seconds']:.1f} s{heldout}")
    _say(f"saved {out}")


@app.command(
    epilog=_example(
        'mdcm query run "P(A | do(D=0))"',
        'mdcm query run "P(A[D=0] | D=1)"',
        'mdcm query run "E[Y | do(X=1)] - E[Y | do(X=0)]" --json',
    )
)
def query(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model", show_default=False)],
    text: Annotated[str, typer.Argument(metavar="QUERY", help="what is asked", show_default=False)],
    num_samples: Annotated[int, typer.Option(min=2, help="draws per combination of levels")] = 100_000,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="answer even if the graph and the data do not determine it")
    ] = False,
    low_support: Annotated[
        bool, typer.Option("--low-support", help="answer even if it rests on combinations with few training rows")
    ] = False,
    level: Annotated[
        float, typer.Option(help="probability with which an interval covers, where there is an ensemble")
    ] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draws")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Answer a causal query of any layer with a trained model.

    The exit code is 1 if the graph and the data do not determine the answer, or too few data or draws stand behind it.
    """
    from mdcm.query import parse

    if not 0 < level < 1:
        raise typer.BadParameter("--level must lie between 0 and 1")
    # a slip of the pen is answered before torch is loaded
    parse(text)

    from mdcm.model import load

    _one_thread()
    model = load(run)
    _attach(model, run)
    answer = model.query(
        text, num_samples, allow_unidentifiable=anyway, allow_low_support=low_support, level=level, seed=seed
    )
    if not as_json:
        _out(str(answer))
        return
    content = {
        "query": answer.query,
        "value": answer.value,
        "stderr": answer.stderr,
        "low": answer.low,
        "high": answer.high,
        "level": answer.level,
        "ess": answer.ess,
        "support": answer.support,
        "identification": answer.identification.to_json(),
        "note": answer.note,
        "table": answer.table.to_dict("records"),
        "plug_in": None if answer.plug_in is None else answer.plug_in.to_dict("records"),
    }
    _out(json.dumps(content, indent=1, allow_nan=False))


def _attach(model: Model, run: Path) -> None:
    """Gives a model the data that its spec names, if they are still there and the same."""
    from mdcm.spec import read_spec

    if model.origin is None:
        return
    try:
        model.attach(read_spec(run / model.origin).load_data())
    except (MdcmError, OSError) as error:
        _say(f"no plug-in estimate is shown, because the training data cannot be read again: {error}")


@app.command(
    epilog=_example(
        "mdcm sample run --do D=1 --num-samples 1000 --out samples.csv",
        "mdcm sample run --do X=0 --given Z=1 --out samples.parquet",
        "mdcm sample run --evidence X=1 --evidence Y=0 --do X=0 --out others.csv",
    )
)
def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model", show_default=False)],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help=".csv or .parquet; images go beside it as .npy", show_default=False)
    ],
    do: Annotated[list[str] | None, typer.Option(metavar="X=1", help="set a variable", show_default=False)] = None,
    given: Annotated[
        list[str] | None, typer.Option(metavar="Z=0", help="condition on a variable", show_default=False)
    ] = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X=0",
            help="condition on what was seen before anything was set: what would have been",
            show_default=False,
        ),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="rows")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draws")] = 0,
) -> None:
    """Draw rows from a trained model, in this world or another.

    Rows are written as they are drawn, so that the disk alone limits their number.
    """
    from mdcm.errors import DataError

    if out.suffix not in {".csv", ".parquet"}:
        raise DataError(f"{out}: the table is written as .csv or .parquet")
    if not out.parent.is_dir():
        raise DataError(f"{out}: the directory {out.parent} does not exist")
    if out.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise DataError(f"{out}: writing Parquet needs pyarrow; install it, or write a .csv") from None

    from mdcm.model import load
    from mdcm.options import assignments
    from mdcm.sampling import write_samples

    _one_thread()
    model = load(run)
    blocks = model.stream_samples(
        num_samples,
        do=assignments(do, model.schema, "--do"),
        given=assignments(given, model.schema, "--given"),
        evidence=None if evidence is None else assignments(evidence, model.schema, "--evidence"),
        seed=seed,
    )
    written = write_samples(out, blocks, num_samples)
    for path in written.paths:
        _say(f"wrote {path} ({num_samples:,} rows)" if path == out else f"wrote {path}")
    if written.ess < 0.999 * num_samples:
        _say(f"warning: the {num_samples:,} rows are worth only {written.ess:,.0f} independent ones")


@app.command(epilog=_example("mdcm demo --out mdcm-demo"))
def demo(
    out: Annotated[Path, typer.Option(metavar="RUN", help="where pictures and the model go")] = Path("mdcm-demo"),
    seed: Annotated[int, typer.Option(min=0, help="seed of everything random")] = 0,
) -> None:
    """Run the front-door experiment on real handwritten digits.

    It takes a few minutes on two cores.
    """
    for module, package in (("PIL", "pillow"), ("sklearn", "scikit-learn")):
        if importlib.util.find_spec(module) is None:
            raise MdcmError(f"the demo needs {package}: pip install 'mdcm[demo]'")

    from mdcm.experiments import demo as front_door

    _one_thread()
    result = front_door.run(out, seed=seed, progress=True)
    _out(front_door.render(result))


@app.command(
    epilog=_example(
        "mdcm experiment complexity --out run",
        "mdcm experiment asia --fast --json",
        "mdcm experiment sachs --data ~/sachs --method auto",
    )
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
    as_json: Annotated[bool, typer.Option("--json", help="print what is in metrics.json")] = False,
) -> None:
    """Run an experiment of the paper and compare it with the truth.

    The exit code is 1 if a number misses what is asked of it.
    """
    from mdcm.experiments.command import render, run_experiment

    _one_thread()
    out = Path(f"mdcm-{name}") if out is None else out
    record = run_experiment(
        name, out, fast=fast, data=data, mnist=mnist, mechanisms=mechanism or (), methods=method or (), progress=True
    )
    _out(json.dumps(record, indent=1, allow_nan=False) if as_json else render(record))
    _say(f"wrote {out / 'metrics.json'} and {out / 'report.html'}")
    if not record["met"]:
        raise typer.Exit(1)


def _one_thread() -> None:
    import torch

    # networks this small run slower on several threads; OMP_NUM_THREADS overrides it
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")


@functools.cache
def _command() -> Any:
    # not app(), which would put an exception hook of its own into the interpreter
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with 0, 1, 2 or 130.

    Args:
        arguments: What follows ``mdcm`` on the command line; by default what this program was started with.

    Raises:
        SystemExit: Always, with the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a terminal that lacks a letter is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        _command()(args=arguments, prog_name="mdcm")


if __name__ == "__main__":
    main()
