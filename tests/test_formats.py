"""Graph files: the suffix names the format, and messages name the file."""

import gzip

import pytest
from graph_texts import EXAMPLES, READERS, SPRINKLER, WRITERS, message_of

from mdcm.errors import GraphError
from mdcm.graph import ADMG, read_graph
from mdcm.graph.formats import (
    parse_arrows,
    parse_bif,
    parse_dot,
    read_record,
)


@pytest.mark.parametrize("suffix", ["txt", "admg", "dag", "dagitty", "dot", "gv", "gml", "graphml", "GML"])
def test_read_graph_goes_by_the_suffix_and_hides(tmp_path, suffix):
    graph = ADMG.from_string("Ω -> H -> B; H -> C; C <-> Ω; U [latent]; U -> B; U -> C; U -> Ω")
    write = {"dagitty": ADMG.to_dagitty, "gv": ADMG.to_dot, "GML": ADMG.to_gml, "txt": ADMG.to_dot, **WRITERS}
    path = tmp_path / f"graph.{suffix}"
    path.write_text(write.get(suffix, ADMG.to_string)(graph), encoding="utf-8")
    assert read_graph(path) == graph
    hidden = read_graph(path, hide="H")
    assert hidden == graph.latent_projection(["Ω", "B", "C"], shared=True)
    assert read_graph(path, hide=["H", "U"]) == hidden
    assert message_of(read_graph, path, ["HH"]) == f"{path}: the graph has no node 'HH' to hide; did you mean 'H'?"


def test_read_graph_reads_bif_packed_or_not(tmp_path):
    plain, packed = tmp_path / "net.bif", tmp_path / "net.BIF.gz"
    plain.write_text(SPRINKLER.replace("\n", "\r\n"), encoding="utf-8", newline="")
    packed.write_bytes(gzip.compress(SPRINKLER.encode()))
    family = ["sprinkler", "wet-grass"]
    expected = ADMG(family, [("sprinkler", "wet-grass")], latents={"rain": family})
    assert read_graph(plain, hide=["rain"]) == read_graph(packed, hide=["rain"]) == expected
    for data in (b"network", packed.read_bytes()[:-9]):
        packed.write_bytes(data)
        start = f"{packed}: the graph cannot be read: it is not a gzip file: "
        assert message_of(read_graph, packed).startswith(start)


def test_read_graph_says_file_line_and_column_of_any_format(tmp_path):
    for suffix, text, place in (("dag", "A -> B\nB --  C", (2, 3)), ("gml", "graph [\n(", (2, 1))):
        path = tmp_path / f"bad.{suffix}"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(GraphError) as caught:
            read_graph(path)
        assert str(caught.value).startswith(f"{path}: line {place[0]}, column {place[1]}: ")
        assert (caught.value.line, caught.value.column) == place


def test_dagitty_files_keep_their_bidirected_edges_and_positions():
    record = read_record(EXAMPLES / "M-bias.txt")
    assert record.bidirected == (("D", "Z"), ("E", "Z"))
    assert record.positions == {"D": (1.0, 1.0), "E": (-2.0, 1.0), "Z": (-0.5, 0.5)}
    graph = read_graph(EXAMPLES / "M-bias.txt")
    assert parse_dot(graph.to_dagitty(record.positions)).positions == record.positions


@pytest.mark.parametrize("suffix", ["txt", "dag", "dot", "gml", "graphml", "bif"])
def test_byte_order_marks_of_files_and_texts_are_no_part_of_a_name(tmp_path, suffix):
    graph = ADMG.from_string("X -> Y -> Z")
    write = {"dagitty": ADMG.to_dagitty, **WRITERS}
    text = write[suffix](graph) if suffix in write else graph.to_string()
    if suffix == "bif":
        blocks = [
            f"variable {name} {{}} probability ({name}{given_}) {{}}"
            for name, given_ in [("X", ""), ("Y", " | X"), ("Z", " | Y")]
        ]
        text = " ".join(blocks)
    (tmp_path / f"g.{suffix}").write_text("\ufeff\ufeff" * (suffix not in {"gml", "graphml"}) + text, encoding="utf-8")
    assert read_graph(tmp_path / f"g.{suffix}") == graph
    reader = {**READERS, "bif": parse_bif, "txt": parse_arrows}[suffix]
    assert reader("\ufeff" + text).nodes == graph.nodes
