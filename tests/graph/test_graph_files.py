"""Files of graphs: what is read is what was written, and a malformed file is a GraphError that names it."""

import json
import os

import pytest
from graph_examples import GRAPH, graphs, repeatable, result_or_none, with_nothing_unknown
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.batch import decode, encode
from ldm.graph.graph_files import read_graph, read_graphs, write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.graph.vocab import Vocab


@repeatable
@given(st.lists(graphs(), min_size=1, max_size=3))
def test_read_graphs_returns_what_write_graphs_wrote(tmp_path, graphs):
    write_graphs(tmp_path / "graphs.json", graphs)
    assert read_graphs(tmp_path / "graphs.json") == graphs
    assert os.listdir(tmp_path) == ["graphs.json"]


def test_a_file_has_the_form_that_sg2im_reads(tmp_path):
    write_graphs(tmp_path / "one.json", [SceneGraph(("sheep", "grass"), triples=((0, "on", 1),))])
    assert json.loads((tmp_path / "one.json").read_text()) == {
        "objects": ["sheep", "grass"],
        "relationships": [[0, "on", 1]],
    }
    write_graphs(tmp_path / "two.json", [GRAPH, GRAPH])
    one, two = json.loads((tmp_path / "two.json").read_text())
    assert one == two
    assert one == {
        "objects": ["sheep", "grass", "sky"],
        "relationships": [[0, "on", 1], [2, "above", 1]],
        "boxes": [[0.25, 0.5, 0.5, 0.75], None, [0.0, 0.0, 1.0, 0.5]],
        "attributes": [["white"], [], ["brown", "white"]],
        "ids": ["dolly", None, None],
        "image": "sheep.png",
    }


def test_read_graph_reads_a_file_of_exactly_one_graph(tmp_path):
    write_graphs(tmp_path / "one.json", [GRAPH])
    assert read_graph(tmp_path / "one.json") == GRAPH
    write_graphs(tmp_path / "two.json", [GRAPH, GRAPH])
    with pytest.raises(GraphError, match="two.json: holds 2 graphs"):
        read_graph(tmp_path / "two.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "graph.json"
    write_graphs(path, [GRAPH])
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(GraphError, match="graph.json: .*No space"):
        write_graphs(path, [SceneGraph(("sky",))])
    assert read_graphs(path) == [GRAPH]
    assert os.listdir(tmp_path) == ["graph.json"]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "graph.json").write_text('{"objects": ["sheep"]}', encoding="utf-8-sig")
    assert read_graphs(tmp_path / "graph.json") == [SceneGraph(("sheep",))]


def test_published_graphs_are_read_and_a_warning_names_dropped_self_relations(realdata):
    folder = realdata / "scene_graphs" / "google_sg2im"
    with pytest.warns(UserWarning) as caught:
        vg = read_graphs(folder / "figure_5_vg.json")
    (warning,) = caught
    assert str(warning.message).startswith(f"{folder}/figure_5_vg.json: graph 3, relationships[0, 1, 2, 3]: dropped")
    assert len(vg) == 8 and len(vg[3].triples) == 4
    assert vg[0].triples.count((3, "eating", 4)) == 2  # repeated triples are kept
    vocab = Vocab.read(realdata / "vg_preprocessed_vocab" / "vocab.json")
    vg += read_graphs(folder / "figure_6_sheep.json") + read_graphs(folder / "figure_6_street.json")
    assert len(vg) == 8 + 7 + 7
    assert decode(encode(vg, vocab), vocab) == [with_nothing_unknown(graph) for graph in vg]


@pytest.mark.parametrize(
    "content, place, word",
    [
        (b"", "line 1, column 1", "JSON"),
        (b'{"objects": ["sheep"],}', "line 1, column 23", "JSON"),
        (b'{"objects": ["sheep"]}\n{"objects": ["sky"]}', "line 2, column 1", "one list"),
        (b'{"objects": ["sh\xe9ep"]}', "byte 16", "UTF-8"),
        (b'{"objects": ["sheep"], "objects": []}', "the key 'objects'", "twice"),
        (b"[" * 100_000, "lists", "nested"),
        (b'{"objects": ["sheep"], "image": ' + b"9" * 5000 + b"}", "an integer", "digits"),
        (b"[]", "the list", "empty"),
        (b'[{"objects": ["sheep"]}, 7]', "graph 1", "not 7"),
        (b'{"objects": ["sheep"], "boxes": [[0, 0, 1, NaN]]}', "graph, boxes[0]", "outside"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_file_and_place(tmp_path, content, place, word):
    path = tmp_path / "graph.json"
    path.write_bytes(content)
    with pytest.raises(GraphError) as error:
        read_graphs(path)
    start = f"{path}: {place}"
    assert str(error.value).startswith(start) and word in str(error.value)[len(start) :]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path, "\0"):
        with pytest.raises(GraphError, match="cannot be read"):
            read_graphs(path)


def test_the_path_of_a_photograph_may_be_bytes_that_are_no_text(tmp_path):
    graph = SceneGraph(("caf\u00e9",), image=os.fsdecode(b"caf\xe9.png"))
    write_graphs(tmp_path / "graph.json", [graph])
    assert read_graph(tmp_path / "graph.json") == graph
    assert '"caf\u00e9"' in (tmp_path / "graph.json").read_text(encoding="utf-8")


def test_writing_no_graph_is_an_error(tmp_path):
    with pytest.raises(GraphError, match="no graph"):
        write_graphs(tmp_path / "none.json", [])


@repeatable
@given(st.binary(max_size=40), st.integers(0, 200))
def test_any_bytes_give_graphs_or_a_graph_error(tmp_path, noise, place):
    text = json.dumps(GRAPH.to_json()).encode()
    for content in (noise, text[:place] + noise + text[place:], text[:place] + noise):
        (tmp_path / "graph.json").write_bytes(content)
        result_or_none(read_graphs, tmp_path / "graph.json")
        result_or_none(Vocab.read, tmp_path / "graph.json")
