"""Files of tables, arrays and pictures: what is read back, what stays on disk, and what hostile ones are told."""

import gzip
import hashlib
import math
import pickle
import re
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mdcm.data import file_sha256, read_array, read_images, read_pictures, read_table
from mdcm.errors import DataError

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
MEBIBYTE = 1 << 20


def idx(array, shape=None):
    """An array as MNIST's files hold it; under another shape, if one is given."""
    shape = array.shape if shape is None else shape
    header = bytes([0, 0, CODES[array.dtype.name], len(shape)]) + b"".join(struct.pack(">I", size) for size in shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def npy(text, version=b"\x01\x00", content=b""):
    """An .npy file with this header."""
    header = text.encode("latin-1")
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + content


def refused(match, function, path, *args):
    """The DataError of a call, which must match, name the file, and have taken no memory worth mentioning."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=match) as caught:
            function(path, *args)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    return caught.value


class TestArrays:
    @settings(deadline=None, max_examples=60)
    @given(
        st.sampled_from(sorted(CODES)),
        st.lists(st.integers(0, 4), min_size=1, max_size=4),
        st.integers(0, 99),
        st.booleans(),
    )
    def test_idx_is_read_back(self, tmp_path_factory, name, shape, seed, packed):
        array = np.random.default_rng(seed).integers(0, 100, shape).astype(name)
        path = tmp_path_factory.mktemp("idx") / "file"
        path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
        back = read_array(path)
        assert (back.shape, back.dtype.name) == (array.shape, array.dtype.name)
        np.testing.assert_array_equal(back, array)

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_npy_is_read_back_whatever_its_name(self, tmp_path, order):
        array = np.asarray(np.arange(24.0).reshape(4, 6), order=order)
        np.save(tmp_path / "a.npy", array)
        (tmp_path / "a.npy").rename(tmp_path / "a.array")
        back = read_array(tmp_path / "a.array")
        np.testing.assert_array_equal(back, array)
        assert isinstance(back, np.memmap)

    def test_what_is_not_packed_stays_on_disk_and_cannot_be_written(self, tmp_path):
        (tmp_path / "images").write_bytes(idx(np.zeros((4, 2, 3), dtype=np.uint8)))
        back = read_array(tmp_path / "images")
        assert isinstance(back, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 1

    def test_pictures_of_idx_get_the_channel_that_it_does_not_know(self, tmp_path):
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        (tmp_path / "images").write_bytes(idx(array))
        assert read_images(tmp_path / "images").shape == (2, 1, 3, 4)
        np.save(tmp_path / "images.npy", array)
        assert read_images(tmp_path / "images.npy").shape == (2, 3, 4)

    def test_an_empty_npy_array_is_read(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((0, 3)))
        assert read_array(tmp_path / "a.npy").shape == (0, 3)


class TestTables:
    table = pd.DataFrame({"X": [0, 1], "Größe": ["a", "b"]})

    def test_tables_are_read_back(self, tmp_path):
        self.table.to_csv(tmp_path / "t.csv", index=False)
        self.table.to_csv(tmp_path / "bom.CSV", index=False, encoding="utf-8-sig")
        self.table.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
        self.table.to_parquet(tmp_path / "t.parquet")
        for name in ["t.csv", "bom.CSV", "t.tsv", "t.parquet"]:
            read = read_table(tmp_path / name)
            assert list(read.columns) == ["X", "Größe"], name
            assert read.to_numpy().tolist() == self.table.to_numpy().tolist(), name

    @settings(deadline=None, max_examples=80)
    @given(
        st.lists(
            st.lists(st.text(st.sampled_from("a0 ,;\t\"'\n"), min_size=1, max_size=4), min_size=2, max_size=2),
            max_size=6,
        )
    )
    def test_cells_are_what_was_written(self, tmp_path_factory, rows):
        path = tmp_path_factory.mktemp("cells") / "t.csv"
        rows = [["x", "y"], *rows]
        pd.DataFrame(rows, columns=["X", "Y"]).to_csv(path, index=False)
        read = read_table(path)
        expected = pd.DataFrame(rows, columns=["X", "Y"])
        assert read.astype(object).to_numpy().tolist() == expected.to_numpy().tolist()

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.sampled_from([1, 3, 1 << 20]))
    def test_rows_of_other_lengths_are_always_told(self, tmp_path_factory, lengths, block):
        path = tmp_path_factory.mktemp("rows") / "t.csv"
        path.write_text("X,Y\n" + "".join(",".join("1" * fields) + "\n" for fields in lengths))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mdcm.data.delimited._BLOCK", block)
            wrong = next((line for line, fields in enumerate(lengths, start=2) if fields != 2), None)
            if wrong is None:
                assert len(read_table(path)) == len(lengths)
                return
            with pytest.raises(DataError, match=f"line {wrong} has"):
                read_table(path)

    @pytest.mark.parametrize(("text", "codes"), [("X,Y\n0,1\n0,-1e-05\n", False), ("X,Y\n0,1\n01,2\n", True)])
    @pytest.mark.parametrize("block", [4, 1 << 20])
    def test_a_second_pass_is_made_only_where_a_number_begins_with_a_zero(
        self, tmp_path, monkeypatch, text, codes, block
    ):
        (tmp_path / "t.csv").write_text(text)
        monkeypatch.setattr("mdcm.data.delimited._BLOCK", block)
        passes = []
        real = pd.read_csv
        monkeypatch.setattr(pd, "read_csv", lambda *args, **kwargs: passes.append(args) or real(*args, **kwargs))
        assert read_table(tmp_path / "t.csv")["X"].tolist() == (["0", "01"] if codes else [0, 0])
        assert len(passes) == 1 + codes

    def test_byte_order_marks_are_no_part_of_a_name(self, tmp_path):
        for name, content in [
            ("one.csv", "\ufeffX,Y\n1,2\n"),
            ("two.csv", "\ufeff\ufeffX,Y\n1,2\n"),
            ("t.tsv", "\ufeffX\tY\n1\t2\n"),
        ]:
            (tmp_path / name).write_text(content, encoding="utf-8")
            assert list(read_table(tmp_path / name).columns) == ["X", "Y"], name

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("t.csv", "X,Größe\n1,2\n".encode("latin-1"), "byte 4 is not UTF-8"),
            ("t.csv", b"X,Y,X\n1,2,3\n", "2 columns are called 'X'"),
            ("t.csv", b"", "is empty"),
            ("t.csv", b"X;Y\n1;2\n", "separated by ';'"),
            ("t.csv", b"X,Y\n1,2\n1,2,3\n", "line 3 has 3 fields, but the header has 2"),
            ("t.csv", b"X,Y\n1,1,0\n", "line 2 has 3 fields.*name that column in the header"),
            ("t.csv", b"X,Y\n1,2,\n1,2,\n", "line 2 has 3 fields"),
            ("t.csv", b"X,Y\n\n1,2\n\n3\n", "line 5 has 1 field, but the header has 2"),
            ("t.csv", b"X,Y,Z\r\n1,2,3\r\n1,2\r\n", "line 3 has 2 fields, but the header has 3"),
            ("t.csv", b"X,Y\r1,2\r3\r", "line 3 has 1 field"),
            (
                "t.csv",
                b'X,Y\n1,"a,b"\n2,"c\nd",3\n',
                "the row in lines 3 to 4 has 3 fields.*is a quote in line 3 unclosed",
            ),
            ("t.csv", b'X,Y\n1,"a\n2,b\n', "quote that is opened in line 2 is never closed"),
            ("t.csv", b'X,Y\n1,"a"b\n', "line 2: a closing quote is followed by other text"),
            ("t.csv", b"X,,\n1,2,3\n", "2 columns have no name"),
            ("t.csv", b"X\tY\n1\t2\n", "separated by tabs; save it as .tsv"),
            ("t.csv", b'"X";"Y"\n1;2\n', "separated by ';'"),
            ("t.csv", b"X|Y\n1|2\n", "separated by '|'"),
            ("t.csv", b"X  Y\n1  2.5\n3 4\n", "separated by spaces; save the file with ','"),
            ("t.tsv", b"X,Y\n1,2\n", "separated by ','; save it as .csv"),
            ("t.tsv", b"X\tY\n1\t2\t3\n", "line 2 has 3 fields"),
            ("t.csv", "X,Y\n1,2\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
            ("t.csv", "X,Y\n1,2\n".encode("utf-16-le"), "holds a NUL"),
            ("t.csv", b"X,Y\n" + b"1,2\n" * 99_999 + "1,ß\n".encode("cp1252"), r"is not UTF-8 \(line 100001\)"),
            ("t.parquet", b"PAR1 no", "not a Parquet file"),
            ("t.xlsx", b"", "must be a .csv"),
        ],
    )
    def test_tables_that_cannot_be_read_say_why(self, tmp_path, name, content, message):
        path = tmp_path / name
        path.write_bytes(content)
        refused(message, read_table, path)

    def test_missing_files_are_named(self, tmp_path):
        for function, name in [
            (read_table, "no.csv"),
            (read_table, "no.parquet"),
            (read_images, "no.npy"),
            (file_sha256, "no"),
        ]:
            error = refused("No such file", function, tmp_path / name)
            assert name in str(error)

    def test_parquet_without_pyarrow_says_how_to_get_it(self, tmp_path, monkeypatch):
        self.table.to_parquet(tmp_path / "t.parquet")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        refused(r"pip install 'mdcm\[parquet\]'", read_table, tmp_path / "t.parquet")

    def test_image_files_that_cannot_be_read_say_why(self, tmp_path):
        np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        refused("not an .npy array", read_images, tmp_path / "objects.npy")
        np.save(tmp_path / "cut.npy", np.zeros((4, 3), dtype=np.uint8))
        content = (tmp_path / "cut.npy").read_bytes()
        (tmp_path / "cut.npy").write_bytes(content[:-10])
        refused("truncated", read_images, tmp_path / "cut.npy")
        (tmp_path / "empty.npy").write_bytes(b"")
        refused("not an .npy array", read_images, tmp_path / "empty.npy")
        np.savez(tmp_path / "several.npz", a=np.zeros(3))
        refused("several arrays", read_images, tmp_path / "several.npz")

    def test_file_sha256_is_that_of_the_bytes(self, tmp_path):
        (tmp_path / "f").write_bytes(b"abc" * 100_000)
        assert file_sha256(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()
        assert re.fullmatch("[0-9a-f]{64}", file_sha256(tmp_path / "f"))


LABELS = np.arange(100, dtype=np.uint8)
BOMB = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"

BAD = {
    "nothing": (b"", "neither an .npy array nor an IDX file"),
    "text": (b"X,Y\n1,2\n", "neither an .npy array nor an IDX file"),
    "pickle": (pickle.dumps([1, 2]), "neither an .npy array nor an IDX file"),
    "unknown type": (b"\0\0\x0a\x01" + bytes(8), "neither an .npy array nor an IDX file"),
    "no dimension": (b"\0\0\x08\0" + bytes(8), "declares 0 dimensions"),
    "255 dimensions": (b"\0\0\x08\xff" + bytes(2000), "declares 255 dimensions"),
    "ends in its header": (b"\0\0\x08\x03\0\0", "ends inside its header"),
    "truncated": (idx(LABELS)[:-1], r"is truncated or damaged: .* \[100\] values of uint8, 100 bytes, but 99 follow"),
    "too long": (idx(LABELS) + b"x", "is damaged: .* 100 bytes, but 101 follow"),
    "absurd": (idx(LABELS, [2**32 - 1] * 8), r"truncated or damaged: .* but 100 follow"),
    "absurd and packed": (gzip.compress(idx(LABELS, [2**32 - 1] * 3)), "unpack such a large file with gunzip"),
    "large and packed": (gzip.compress(idx(LABELS, [2**26])), "truncated or damaged: .* but 100 follow"),
    "packed and truncated": (gzip.compress(idx(LABELS))[:-12], "its gzip stream has no end"),
    "packed and damaged": (gzip.compress(idx(LABELS))[:10] + b"\xff" * 40, "is damaged: "),
    "packed and longer": (gzip.compress(idx(LABELS) + bytes(10**6)), "is damaged: .* but 101 follow"),
    "packed text": (gzip.compress(b"X,Y\n1,2\n"), "not an IDX file: it starts with 58 2c 59 0a"),
    "npy absurd": (npy(BOMB % f"({2**62}, {2**62})", content=bytes(99)), "but 99 follow"),
    "npy overflow to nothing": (npy(BOMB % f"({2**32}, {2**32})", content=bytes(99)), "but 99 follow"),
    "npy large": (npy(BOMB % f"({2**40},)", content=bytes(99)), "1,099,511,627,776 bytes, but 99 follow"),
    "npy negative": (npy(BOMB % "(-3, -33)", content=bytes(99)), r"declares the shape \[-3, -33\]"),
    "npy objects": (npy((BOMB % "(1,)").replace("|u1", "|O"), content=pickle.dumps([1])), "holds Python objects"),
    "npy records": (
        npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }\n", content=bytes(4)),
        "rec",
    ),
    "npy nested": (npy("(" * 5000), "not an .npy array of numbers"),
    "npy code": (npy("__import__('os').system('touch owned')\n"), "not an .npy array of numbers"),
    "npy long header": (npy("x", b"\x02\x00")[:8] + struct.pack("<I", 2**32 - 1) + b"x", "header is 4,294,967,295 by"),
    "npy version": (npy(BOMB % "(1,)", b"\x09\x00"), "an unknown version"),
    "npy cut in its header": (npy(BOMB % "(1,)")[:9], "an unknown version, or is incomplete"),
    "npy cut": (npy(BOMB % "(100,)", content=bytes(99)), "is truncated or damaged"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("function", [read_array, read_images])
def test_bad_files_are_told_what_is_wrong_and_take_no_memory(tmp_path, function, content, message):
    (tmp_path / "file").write_bytes(content)
    refused(message, function, tmp_path / "file")


def test_files_that_cannot_be_opened(tmp_path):
    refused("No such file", read_array, tmp_path / "none")
    refused("Is a directory", read_array, tmp_path)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_damage_is_an_array_or_an_error(tmp_path_factory, data):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path_factory.mktemp("damage") / "file"
    np.save(path.with_suffix(".npy"), array)
    whole = data.draw(st.sampled_from([idx(array), gzip.compress(idx(array)), path.with_suffix(".npy").read_bytes()]))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        back = read_array(path)
    except DataError as error:
        told = str(error)
    else:
        told = str(path)
        assert math.prod(back.shape) * back.dtype.itemsize <= len(content)
    assert str(path) in told


class TestPictures:
    @pytest.fixture
    def names(self, tmp_path):
        self.pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)
        for row, array in enumerate(self.pixels):
            Image.fromarray(array).save(tmp_path / f"{row}.png")
        return pd.Series([f"{row}.png" for row in range(3)], name="I")

    def test_png_is_read_back(self, tmp_path, names):
        back = read_pictures(names, tmp_path)
        assert (back.dtype, back.shape) == (np.uint8, (3, 3, 8, 6))
        np.testing.assert_array_equal(back, np.moveaxis(self.pixels, 3, 1))

    def test_jpeg_is_read_nearly(self, tmp_path):
        Image.new("RGB", (6, 8), (200, 100, 50)).save(tmp_path / "a.jpg", quality=95)
        back = read_pictures(pd.Series(["a.jpg"], name="I"), tmp_path)
        assert np.abs(back[0].astype(int) - np.array([200, 100, 50])[:, None, None]).max() < 8

    def test_many_are_kept_on_disk(self, tmp_path, names, monkeypatch):
        monkeypatch.setattr("mdcm.data.pictures._MOST_IN_MEMORY", 100)
        back = read_pictures(names, tmp_path)
        assert isinstance(back, np.memmap)
        np.testing.assert_array_equal(back, np.moveaxis(self.pixels, 3, 1))

    def test_a_full_disk_is_said(self, tmp_path, names, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("mdcm.data.pictures._MOST_IN_MEMORY", 100)
        monkeypatch.setattr("os.posix_fallocate", full)
        with pytest.raises(DataError, match=r"take 432 bytes, for which .* has no room .*; set TMPDIR"):
            read_pictures(names, tmp_path)

    def test_a_picture_that_claims_to_be_huge_is_not_decoded(self, tmp_path):
        Image.new("1", (8, 6)).save(tmp_path / "a.png")
        content = bytearray((tmp_path / "a.png").read_bytes())
        content[16:24] = struct.pack(">II", 60_000, 60_000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"column 'I', row 0 .*'a.png' is too large"):
            read_pictures(pd.Series(["a.png"], name="I"), tmp_path)

    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_any_damage_is_a_picture_or_an_error(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("damage")
        kind = data.draw(st.sampled_from(["png", "jpeg"]))
        Image.fromarray(np.arange(144, dtype=np.uint8).reshape(8, 6, 3)).save(folder / "a", format=kind)
        content = bytearray((folder / "a").read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        (folder / "a").write_bytes(content[: data.draw(st.integers(1, len(content)))])
        try:
            back = read_pictures(pd.Series(["a"], name="I"), folder, (3, 8, 6))
        except DataError as error:
            place = (error.column, error.row)
        else:
            place = ("I", 0)
            assert back.shape == (1, 3, 8, 6)
        assert place == ("I", 0)
