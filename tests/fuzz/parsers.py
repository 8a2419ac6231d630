"""Bytes as every kind of text that mdcm reads: a value comes back, or an error of mdcm, and nothing else.

    python tests/fuzz/parsers.py TARGET [libFuzzer options] [CORPUS]

TARGET is one of arrows, dot, gml, graphml, plan, query, spec, run, checkpoint, table. Needs atheris: pip install
atheris; it follows what is covered only where mdcm is installed, and not where that leads back to its source.
"""

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mdcm"]):
    import mdcm
    import mdcm.formats
    import mdcm.query
    import mdcm.spec
    from mdcm import files
    from mdcm.plan import Plan
    from mdcm.train.checkpoints import Checkpoints

warnings.simplefilter("ignore")
SCRATCH = Path(tempfile.mkdtemp())


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape" if data[:1] == b"\xff" else "replace")


def graph(parse):
    def target(data: bytes) -> None:
        record = parse(text(data))
        made = mdcm.ADMG.from_string(text(data)) if parse is mdcm.formats.parse_arrows else None
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
    spec = mdcm.spec.read_spec(file)
    spec.declared()


def read_run(data: bytes) -> None:
    """A model.json, with the checksum that it asks for."""
    (SCRATCH / "model.json").write_bytes(data)
    (SCRATCH / "weights.safetensors").write_bytes(data[len(data) // 2 :])
    mdcm.load(SCRATCH)


def read_checkpoint(data: bytes) -> None:
    import hashlib

    folder = SCRATCH / "checkpoints"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"00000001-{hashlib.sha256(data).hexdigest()[:16]}.safetensors").write_bytes(data)
    Checkpoints(SCRATCH, "one", 60).read()


def read_table(data: bytes) -> None:
    file = SCRATCH / "table.csv"
    file.write_bytes(data)
    table = files.read_table(file)
    mdcm.Dataset(table)


TARGETS = {
    "arrows": graph(mdcm.formats.parse_arrows),
    "dot": graph(mdcm.formats.parse_dot),
    "gml": graph(mdcm.formats.parse_gml),
    "graphml": graph(mdcm.formats.parse_graphml),
    "plan": read_plan,
    "query": read_query,
    "spec": read_spec,
    "run": read_run,
    "checkpoint": read_checkpoint,
    "table": read_table,
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
