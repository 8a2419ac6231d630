"""Bytes as every kind of text that mdcm reads: a value comes back, or an error of mdcm, and nothing else.

    python tests/fuzz/parsers.py TARGET [libFuzzer options] [CORPUS]

TARGET is one of arrows, bif, dot, gml, graphml, plan, query, spec, run, checkpoint, table, parquet, npy, picture. Runs
and checkpoints are whole ones in which the bytes change something, with the checksums that the change asks for.

Needs atheris: pip install
atheris; it follows what is covered only where mdcm is installed, and not where that leads back to its source.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mdcm"]):
    import mdcm
    import mdcm.cli.spec
    import mdcm.graph.formats
    import mdcm.query
    from mdcm.data import read_array, read_pictures
    from mdcm.data import tables as files
    from mdcm.planning import Plan

import pandas as pd

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
import mutants

warnings.simplefilter("ignore")
SCRATCH = Path(tempfile.mkdtemp())


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape" if data[:1] == b"\xff" else "replace")


def graph(parse):
    def target(data: bytes) -> None:
        record = parse(text(data))
        made = mdcm.ADMG.from_string(text(data)) if parse is mdcm.graph.formats.parse_arrows else None
        if made is not None:
            # what was read is written so that it is read again
            assert mdcm.ADMG.from_string(made.to_string()) == made
        del record

    return target


def read_query(data: bytes) -> None:
    asked = mdcm.query.parse(text(data))
    assert str(mdcm.query.parse(str(asked))) == str(asked)


def read_plan(data: bytes) -> None:
    Plan.from_json(text(data))


def read_spec(data: bytes) -> None:
    file = SCRATCH / "spec.yaml"
    file.write_bytes(data)
    spec = mdcm.cli.spec.read_spec(file)
    spec.declared()


def read_run(data: bytes) -> None:
    mutants.use(SCRATCH / "run", mutants.mutated_run(data, SCRATCH / "run"))


def read_checkpoint(data: bytes) -> None:
    kind = mutants.mutated_checkpoint(data, SCRATCH / "unfinished")
    mutants.resume(kind, SCRATCH / "unfinished")


def read_table(suffix):
    def target(data: bytes) -> None:
        file = SCRATCH / f"table{suffix}"
        file.write_bytes(data)
        mdcm.Dataset(files.read_table(file))

    return target


def read_npy(data: bytes) -> None:
    """An .npy or IDX file, by its first bytes."""
    file = SCRATCH / "array.npy"
    file.write_bytes(data)
    array = read_array(file)
    assert array.nbytes <= 1 << 20


def read_picture(data: bytes) -> None:
    file = SCRATCH / "picture.png"
    file.write_bytes(data)
    read_pictures(pd.Series([file.name], name="I"), SCRATCH)


TARGETS = {
    "arrows": graph(mdcm.graph.formats.parse_arrows),
    "dot": graph(mdcm.graph.formats.parse_dot),
    "gml": graph(mdcm.graph.formats.parse_gml),
    "graphml": graph(mdcm.graph.formats.parse_graphml),
    "plan": read_plan,
    "query": read_query,
    "spec": read_spec,
    "run": read_run,
    "checkpoint": read_checkpoint,
    "table": read_table(".csv"),
    "parquet": read_table(".parquet"),
    "npy": read_npy,
    "picture": read_picture,
    "bif": graph(mdcm.graph.formats.parse_bif),
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: parsers.py TARGET [libFuzzer options] [CORPUS]; targets are {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        with contextlib.suppress(mdcm.MdcmError):
            target(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
