"""Run directories: whole at every moment, refused when damaged, and never executed."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcm.errors import CheckpointError
from mdcm.storage import run_directory as rundir
from mdcm.storage.run_directory import FORMAT_VERSION, MODEL, WEIGHTS, read_run, replacing, reserve, write_run

METRICS = "metrics.jsonl"
DESCRIPTION = {"graph": "A -> B", "states": {"U": 3}, "seed": 7, "share": 0.1}
RECORDS = [{"event": "check", "loss": 0.5}, {"event": "trained", "steps": 10}]
# names that lead elsewhere, end a line, or are no UTF-8
ODD = ["../../up", "/etc/passwd", "a\nb", "ü→", "\udcff", ""]


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "priors.0": torch.randn(3, generator=generator),
        "steps": torch.arange(4),
        "empty": torch.zeros(0, 2),
        "one": torch.tensor(1.5, dtype=torch.float64),
    }


def write(path, seed=0):
    write_run(path, {**DESCRIPTION, "seed": seed}, tensors(seed), RECORDS)


def assert_is(run, seed):
    description, weights, metrics = run
    assert description == {"format": FORMAT_VERSION, **DESCRIPTION, "seed": seed}
    assert weights.keys() == tensors().keys()
    for name, tensor in tensors(seed).items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)
    assert metrics == RECORDS


def refused(path, match, file):
    """Reading fails with a CheckpointError that names the file, and leaves every byte where it was."""
    before = contents(path)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_run(path)
    assert caught.value.path == str(file)
    assert str(file) in str(caught.value)
    assert contents(path) == before


def contents(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()} if Path(path).is_dir() else None


def rewrite(path, **changes):
    """Change a description and make its checksum right again: what a hostile writer would do."""
    description = json.loads((path / MODEL).read_text())
    checksums = description.pop("sha256")
    description |= changes
    description["sha256"] = {**checksums, MODEL: rundir._digest(description)}
    (path / MODEL).write_text(json.dumps(description))


def test_round_trip(tmp_path):
    write(tmp_path / "a" / "run")
    assert_is(read_run(tmp_path / "a" / "run"), 0)
    assert sorted(contents(tmp_path / "a" / "run")) == [METRICS, MODEL, WEIGHTS]


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_odd_names_come_back_and_lead_nowhere(tmp_path, name):
    run = tmp_path / "x" / "run"
    write_run(run, {"names": [name], name: {name: 1}}, {"w": torch.ones(1)}, [{name: name}])
    description, _, metrics = read_run(run)
    assert description["names"] == [name]
    assert description[name] == {name: 1}
    assert metrics == [{name: name}]
    assert sorted(file.name for file in tmp_path.rglob("*")) == sorted(["x", "run", METRICS, MODEL, WEIGHTS])


def test_files_have_the_rights_of_ordinary_files(tmp_path):
    (tmp_path / "ordinary").touch()
    write(tmp_path / "run")
    expected = stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "run").iterdir()} == {expected}


def test_a_new_run_takes_the_place_of_an_old_one(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    assert_is(read_run(tmp_path), 2)
    assert sorted(contents(tmp_path)) == [METRICS, MODEL, WEIGHTS]


class _Killed(BaseException):
    pass


def steps_of_writing(monkeypatch, path, die_at):
    """Write a run and die before the given file operation; the number of operations if that is never reached."""
    done = 0

    def counted(function):
        def wrapper(*args, **kwargs):
            nonlocal done
            # opening to read changes nothing
            if function is os_open and not args[1] & os.O_CREAT:
                return function(*args, **kwargs)
            if done == die_at:
                raise _Killed
            done += 1
            return function(*args, **kwargs)

        return wrapper

    os_open = os.open
    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "open"), (Path, "mkdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        # a killed process tidies nothing up
        patch.setattr(os, "unlink", lambda path, *, dir_fd=None: None)
        write(path, 2)
    return done


def test_a_writer_killed_at_any_moment_leaves_the_old_run_or_the_new_one(monkeypatch, tmp_path):
    write(tmp_path / "whole", 1)
    total = steps_of_writing(monkeypatch, tmp_path / "whole", None)
    assert total > 10
    seen = []
    for die_at in range(total):
        path = tmp_path / str(die_at)
        write(path, 1)
        with pytest.raises(_Killed):
            steps_of_writing(monkeypatch, path, die_at)
        seed = read_run(path)[0]["seed"]
        assert_is(read_run(path), seed)
        seen.append(seed)
        # and the next writer, killed again or not, is not confused by what lies about
        with pytest.raises(_Killed):
            steps_of_writing(monkeypatch, path, die_at)
        assert_is(read_run(path), read_run(path)[0]["seed"])
        write(path, 3)
        assert_is(read_run(path), 3)
        assert sorted(contents(path)) == [METRICS, MODEL, WEIGHTS]
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def test_a_first_writer_killed_at_any_moment_leaves_a_place_to_write_to(monkeypatch, tmp_path):
    total = steps_of_writing(monkeypatch, tmp_path / "whole", None)
    for die_at in range(total):
        path = tmp_path / str(die_at)
        with pytest.raises(_Killed):
            steps_of_writing(monkeypatch, path, die_at)
        write(path, 3)
        assert_is(read_run(path), 3)


def test_a_full_disk_leaves_the_old_run(monkeypatch, tmp_path):
    write(tmp_path, 1)
    before = contents(tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path, 2)
    # the file that is wanted, not the temporary one
    assert WEIGHTS in caught.value.filename
    assert contents(tmp_path) == before


class TestDamage:
    @pytest.fixture
    def run(self, tmp_path):
        write(tmp_path / "run")
        return tmp_path / "run"

    @pytest.mark.parametrize("name", [MODEL, WEIGHTS, METRICS])
    def test_truncated_at_any_length(self, run, name):
        whole = (run / name).read_bytes()
        for length in range(0, len(whole), max(1, len(whole) // 97)):
            (run / name).write_bytes(whole[:length])
            refused(run, "damaged|format version", run / name)

    @pytest.mark.parametrize("name", [MODEL, WEIGHTS, METRICS])
    def test_any_flipped_bit(self, run, name):
        whole = (run / name).read_bytes()
        expected = read_run(run)[0]
        files = {str(run / file) for file in (MODEL, WEIGHTS, METRICS)}
        unnoticed = 0
        for place in range(0, len(whole), max(1, len(whole) // 211)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << (place % 8)
            (run / name).write_bytes(flipped)
            try:
                found = read_run(run)[0]
            except CheckpointError as error:
                # a flip inside a checksum is found out at the file that does not have it
                found = error.path
            assert found == expected or found in files
            unnoticed += found == expected
        # white space may change in a JSON text, and nothing else
        spaces = sum(chr(byte).isspace() for byte in whole) if name == MODEL else 0
        assert unnoticed <= spaces

    @pytest.mark.parametrize("name", [MODEL, WEIGHTS, METRICS])
    def test_missing(self, run, name):
        (run / name).unlink()
        refused(run, "is missing", run / name)

    @pytest.mark.parametrize("name", [MODEL, WEIGHTS, METRICS])
    def test_a_directory_where_a_file_should_be(self, run, name):
        (run / name).unlink()
        (run / name).mkdir()
        with pytest.raises(CheckpointError, match="cannot be read: Is a directory") as caught:
            read_run(run)
        assert caught.value.path == str(run / name)

    @pytest.mark.parametrize("name", [WEIGHTS, METRICS])
    def test_from_another_run(self, run, tmp_path, name):
        write_run(tmp_path / "other", {"seed": 9}, tensors(9), [{"other": 1}])
        (run / name).write_bytes((tmp_path / "other" / name).read_bytes())
        refused(run, "belongs to another run", run / name)

    @pytest.mark.parametrize("version", [0, 2, "1", None, [1], 1e400])
    def test_other_format_versions(self, run, version):
        rewrite(run, format=version)
        refused(run, "format version .*; this version of mdcm reads 1", run / MODEL)

    @pytest.mark.parametrize("name", [WEIGHTS, METRICS])
    def test_right_checksum_of_a_wrong_file(self, run, name):
        content = b"\x00\xff{not json or safetensors"
        (run / name).write_bytes(content)
        description = json.loads((run / MODEL).read_text())
        description["sha256"][name] = rundir.hashlib.sha256(content).hexdigest()
        (run / MODEL).write_text(json.dumps(description))
        refused(run, "cannot be read|line 1 of .*metrics.jsonl is damaged", run / name)

    def test_no_directory_or_none_of_ours(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"run directory .*nowhere does not exist"):
            read_run(tmp_path / "nowhere")
        (tmp_path / "file").write_text("x")
        with pytest.raises(CheckpointError, match="is a file, not a run directory"):
            read_run(tmp_path / "file")
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", "model.json is missing", tmp_path / "empty" / MODEL)


HOSTILE = {
    "deep list": "[" * 200_000 + "]" * 200_000,
    "deep objects": '{"a":' * 200_000 + "1" + "}" * 200_000,
    "deep in an entry": '{"format": 1, "sha256": {}, "graph": ' + "[" * 90_000 + "]" * 90_000 + "}",
    "long number": '{"format": ' + "9" * 100_000 + "}",
    "not an object": "[1, 2]",
    "null": "null",
    "text": '"model"',
    "nothing": "",
    "binary": "\x80\x03cos\nsystem\n(S'true'\ntR.",
    "no checksums": '{"format": 1}',
    "checksums of another type": '{"format": 1, "sha256": [1]}',
    "two values": '{"format": 1}{"format": 1}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_descriptions_are_refused(tmp_path, text):
    write(tmp_path)
    (tmp_path / MODEL).write_text(text, encoding="latin-1")
    refused(tmp_path, "damaged|format version", tmp_path / MODEL)


@pytest.mark.parametrize("checksum", ["../../../etc/passwd", "a" * 63, "A" * 64, 7, None, ["a"], "0" * 64 + "\n"])
def test_a_checksum_that_is_none_names_no_file(tmp_path, checksum):
    write(tmp_path)
    description = json.loads((tmp_path / MODEL).read_text())
    description["sha256"][WEIGHTS] = checksum
    (tmp_path / MODEL).write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=f"it holds no checksum of {WEIGHTS}"):
        read_run(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text().filter(lambda name: name not in {"format", "sha256"}), json_values, max_size=4))
def test_any_description_comes_back(tmp_path_factory, description):
    path = tmp_path_factory.mktemp("run")
    write_run(path, description, {"w": torch.ones(1)})
    assert read_run(path)[0] == {"format": FORMAT_VERSION, **description}


class TestReserve:
    def test_makes_the_directory_and_leaves_it_empty(self, tmp_path):
        assert reserve(tmp_path / "a" / "b") == tmp_path / "a" / "b"
        assert contents(tmp_path / "a" / "b") == {}

    def test_accepts_a_run(self, tmp_path):
        write(tmp_path)
        before = contents(tmp_path)
        reserve(tmp_path)
        assert contents(tmp_path) == before

    def test_refuses_what_is_not_ours(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        for function in (reserve, write):
            with pytest.raises(CheckpointError, match=r"not a run directory: it holds 'thesis.tex' and no model.json"):
                function(tmp_path)
        assert contents(tmp_path) == {"thesis.tex": b"years of work"}
        with pytest.raises(CheckpointError, match="is a file; give a directory"):
            reserve(tmp_path / "thesis.tex")

    @pytest.mark.parametrize(
        ("model", "match"),
        [('{"format": 2}', "format version 2"), ("{", "it is not JSON"), ("[]", "no JSON object")],
        ids=["newer", "truncated", "foreign"],
    )
    def test_refuses_to_write_over_what_it_cannot_read(self, tmp_path, model, match):
        (tmp_path / MODEL).write_text(model)
        before = contents(tmp_path)
        for function in (reserve, write):
            with pytest.raises(CheckpointError, match=f"{match}.*; nothing was written, give another directory"):
                function(tmp_path)
        assert contents(tmp_path) == before

    def test_says_at_once_that_it_cannot_write(self, monkeypatch, tmp_path):
        def forbidden(path, flags=0, *args, **kwargs):
            if flags & os.O_CREAT or not flags:
                raise PermissionError(13, "Permission denied", str(path))
            return os_open(path, flags, *args, **kwargs)

        os_open = os.open
        monkeypatch.setattr(os, "open", forbidden)
        with pytest.raises(CheckpointError, match=r"no run can be saved in .*run: Permission denied"):
            reserve(tmp_path / "run")
        monkeypatch.setattr(Path, "mkdir", lambda self, **kwargs: forbidden(self, 0))
        with pytest.raises(CheckpointError, match="Permission denied"):
            reserve(tmp_path / "elsewhere")


class TestReplacing:
    def test_what_fails_half_way_leaves_the_old_file(self, tmp_path):
        file = tmp_path / "answer.txt"
        file.write_text("old")

        def write_half():
            with replacing(file) as stream:
                stream.write(b"new")
                raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            write_half()
        assert contents(tmp_path) == {"answer.txt": b"old"}

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "target").write_text("old")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        with replacing(tmp_path / "link") as stream:
            stream.write(b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_bytes() == b"new"

    def test_a_device_stays_a_device(self):
        with replacing("/dev/null") as stream:
            stream.write(b"gone")
        assert not Path("/dev/null").is_file()

    def test_errors_name_the_file(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "no" / "file"):
            pass
        assert caught.value.filename == str(tmp_path / "no" / "file")
        with pytest.raises(IsADirectoryError), replacing(tmp_path):
            pass
