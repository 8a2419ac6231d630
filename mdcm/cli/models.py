"""Commands about models: train, query, sample, report."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdcm.cli.console import command, complain, is_quiet, note, one_thread, show, show_json
from mdcm.cli.inputs import DropnaOption, NaOption, entries_of, is_spec, refuse_query
from mdcm.cli.interruptions import saying_what_is_saved
from mdcm.errors import MdcmError
from mdcm.text.advice import addressing
from mdcm.text.limits import LARGEST_SEED, MOST, MOST_SAMPLES

if TYPE_CHECKING:
    from mdcm.data import Dataset
    from mdcm.model import Model

__all__ = ["query", "report", "sample", "train"]

AnywayOption = Annotated[
    bool,
    typer.Option("--anyway", help="answer even if the graph and the data do not determine it, or no row shows it"),
]
LowSupportOption = Annotated[
    bool, typer.Option("--low-support", help="answer even where no training row shows what it rests on")
]


@command(
    "mdcm train spec.yaml --out run",
    "mdcm train spec.yaml --out run --ensemble 20",
    "mdcm train spec.yaml --out run --resume",
)
def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="what to train on what", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="RUN", help="directory for the trained model", show_default=False)],
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="seed, instead of the one in the spec", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1")] = "auto",
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster of processes or machines")] = "local",
    ensemble: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST["ensemble"],
            metavar="K",
            help="models to train besides, for intervals of answers",
            show_default=False,
        ),
    ] = None,
    seeds_only: Annotated[
        bool, typer.Option("--seeds-only", help="they differ by their seeds, and not by the weights of rows")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint in RUN, if there is one")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="replace the run in RUN, finished or not, and what belongs to it")
    ] = False,
) -> None:
    """Train a model and save it as a run directory.

    Checkpoints are written there meanwhile; after Ctrl-C, or when it was killed, --resume goes on.
    """
    from mdcm.cli.spec import read_spec
    from mdcm.storage.run_directory import refuse_taken, reserve

    if resume and force:
        raise typer.BadParameter("--resume goes on with what is in RUN, and --force replaces it: give one of them")
    if device not in {"auto", "cpu"}:
        # before data are read
        from mdcm.training.devices import check_device

        check_device(device)
    if not resume and not force:
        refuse_taken(out)
    with saying_what_is_saved(out, force=force):
        loaded = read_spec(spec)
        members = loaded.train.ensemble if ensemble is None else ensemble
        if members == 1:
            raise typer.BadParameter("an ensemble has at least 2 members")
        graph = loaded.load_graph()
        datasets = loaded.load_data(progress=not is_quiet())
        reserve(out)

        from mdcm.cli.provenance import note_origin
        from mdcm.model import fit

        one_thread()
        with addressing("spec"):
            model = fit(
                graph,
                datasets,
                objective=loaded.objective,
                method=loaded.method,
                variables=loaded.declared() or None,
                config=loaded.train.config(),
                out=out,
                resume=resume,
                force=force,
                device=device,
                engine=engine,
                seed=loaded.train.seed if seed is None else seed,
                ensemble=members,
                resample=not seeds_only,
                progress=not is_quiet(),
                origin=note_origin(loaded, out),
            )
    show(str(model.plan))
    for record in model.history:
        if record["event"] == "trained":
            heldout = "" if record["heldout"] is None else f", held-out loss {record['heldout']:.4f}"
            hnode = ", ".join(record["hnode"])
            show(f"trained {{{hnode}}}: {record['steps']} steps, {record['seconds']:.1f} s{heldout}")
    note(f"saved {out}")


@command(
    'mdcm query run "P(A | do(D=0))"',
    'mdcm query run "P(A[D=0] | D=1)"',
    'mdcm query run "E[Y | do(X=1)] - E[Y | do(X=0)]" --json',
)
def query(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model", show_default=False)],
    text: Annotated[str, typer.Argument(metavar="QUERY", help="the query, such as P(Y | do(X=1))", show_default=False)],
    num_samples: Annotated[
        int, typer.Option(min=2, max=MOST_SAMPLES, help="draws per combination of levels")
    ] = 100_000,
    anyway: AnywayOption = False,
    low_support: LowSupportOption = False,
    level: Annotated[
        float, typer.Option(help="probability with which an interval covers, where there is an ensemble")
    ] = 0.9,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="seed of the draws")] = 0,
    device: Annotated[str, typer.Option(help="where mechanisms draw that make or read images: cpu or cuda")] = "cpu",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:do=X,Y]|SPEC.yaml",
            help="the training data, for the plug-in estimate, where they are not beside the run any more",
            show_default=False,
        ),
    ] = None,
    na: NaOption = None,
    dropna: DropnaOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Answer a causal query of any layer with a trained model.

    The exit code is 1 if the graph and the data do not determine the answer, or too few data or draws stand behind it.
    """
    from mdcm.query import parse

    if not 0 < level < 1:
        raise typer.BadParameter("--level must lie between 0 and 1")
    refuse_query(str(run), "the run", "mdcm query RUN QUERY")
    # check the syntax before torch is loaded
    parse(text)

    from mdcm.model import load

    one_thread()
    model = load(run)
    if data is None:
        _attach(model, run, "--data names them")
    else:
        model.attach(_named(model, data, na=na, dropna=dropna))
    answer = model.to(device).query(
        text,
        num_samples,
        allow_unidentifiable=anyway,
        allow_low_support=low_support or anyway,
        level=level,
        seed=seed,
    )
    if not as_json:
        show(str(answer))
        return
    content = {
        "query": answer.query,
        "determined": answer.identification.identifiable,
        "value": answer.value,
        "stderr": answer.stderr,
        "stderr_of": "drawing",
        "low": answer.low,
        "high": answer.high,
        "level": answer.level,
        "exact": answer.exact,
        "ess": None if answer.exact else answer.ess,
        "rows": answer.rows,
        "unseen": answer.unseen,
        "support": answer.support,
        "identification": answer.identification.to_json(),
        "note": answer.note,
        "table": answer.table.to_dict("records"),
        "plug_in": None if answer.plug_in is None else answer.plug_in.to_dict("records"),
        "plug_in_note": answer.plug_in_note,
    }
    show_json(content)


def _named(model: Model, data: list[str], *, na: list[str] | None, dropna: bool) -> list[Dataset]:
    """Load the data that the options name: tables or a spec."""
    from mdcm.cli.spec import Spec, read_spec

    if len(data) == 1 and is_spec(data[0]):
        return read_spec(data[0]).load_data(is_checked=False, progress=not is_quiet())
    entries = entries_of(data, "--data ", na=na, dropna=dropna)
    spec = Spec.of_arguments(model.graph.to_string(), entries, model.schema.kinds)
    return spec.load_data(is_checked=False, progress=not is_quiet())


def _attach(model: Model, run: Path, remedy: str) -> None:
    """Attach the data recorded in the run to the model, if they are unchanged."""
    from mdcm.cli.provenance import read_again

    if model.origin is None:
        return
    try:
        with warnings.catch_warnings():
            # the training gave these warnings already
            warnings.simplefilter("ignore", UserWarning)
            model.attach(read_again(run, model.origin))
    except (MdcmError, OSError) as error:
        note(f"no plug-in estimate is shown, because the training data cannot be read again: {error}; {remedy}")


@command(
    "mdcm sample run --do D=1 --num-samples 1000 --out samples.csv",
    "mdcm sample run --do X=0 --given Z=1 --out samples.parquet",
    "mdcm sample run --evidence X=1 --evidence Y=0 --do X=0 --out others.csv",
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
    num_samples: Annotated[int, typer.Option(min=1, max=MOST_SAMPLES, help="rows")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="seed of the draws")] = 0,
    device: Annotated[str, typer.Option(help="where mechanisms draw that make or read images: cpu or cuda")] = "cpu",
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster of processes or machines")] = "local",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="write nothing if what is drawn is not determined, or hardly a row shows it"),
    ] = False,
    spreadsheet: Annotated[
        bool,
        typer.Option(
            "--spreadsheet", help="in a .csv, put ' before texts that a spreadsheet would compute, such as =1+1"
        ),
    ] = False,
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
            raise DataError(
                f"{out}: writing Parquet needs pyarrow: pip install 'mdcm[parquet]', or write a .csv"
            ) from None

    from mdcm.engines import engine_of

    runner = engine_of(engine)

    from mdcm.cli.options import assignments
    from mdcm.model import load
    from mdcm.sampling import write_samples

    one_thread()
    model = load(run)
    blocks = model.to(device).stream_samples(
        num_samples,
        do=assignments(do, model.schema, "--do"),
        given=assignments(given, model.schema, "--given"),
        evidence=None if evidence is None else assignments(evidence, model.schema, "--evidence"),
        seed=seed,
        engine=runner,
        strict=strict,
    )
    written = write_samples(out, blocks, num_samples, spreadsheet=spreadsheet)
    for path in written.paths:
        note(f"wrote {path} ({num_samples:,} rows)" if path == out else f"wrote {path}")
    if written.ess < 0.999 * num_samples:
        complain(f"warning: the {num_samples:,} rows are worth only {written.ess:,.0f} independent ones")


@command(
    'mdcm report run --query "P(A | do(D=0))"',
    "mdcm report run --data fresh.csv --out report.html",
)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a trained model", show_default=False)],
    query: Annotated[
        list[str] | None, typer.Option(metavar="QUERY", help="what to ask, perhaps several times", show_default=False)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:do=X,Y]",
            help="data that training has not seen, to compare with instead of the training data",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="RUN/report.html by default", show_default=False)
    ] = None,
    num_samples: Annotated[int, typer.Option(min=2, max=MOST_SAMPLES, help="draws per answer")] = 100_000,
    anyway: AnywayOption = False,
    low_support: LowSupportOption = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="seed of all draws")] = 0,
    na: NaOption = None,
    dropna: DropnaOption = False,
) -> None:
    """Write a page about a trained model and its answers.

    It shows what was learned and how well. The model is compared with its training data where the spec that it was
    trained by still leads to them.
    """
    from mdcm.query import parse

    for text in query or []:
        parse(text)

    from mdcm.model import load
    from mdcm.report import write_report

    one_thread()
    model = load(run)
    compared = None
    if data is not None:
        compared = _named(model, data, na=na, dropna=dropna)
    _attach(model, run, "--data names data to compare with")
    target = run / "report.html" if out is None else out
    write_report(
        model,
        target,
        queries=query or (),
        data=compared,
        num_samples=num_samples,
        seed=seed,
        allow_unidentifiable=anyway,
        allow_low_support=anyway or low_support,
        progress=not is_quiet(),
    )
    note(f"wrote {target}")
