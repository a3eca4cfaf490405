"""Files of graph words: written, read, renamed, and refused."""

import pytest
import safetensors.torch
import torch

from ldm.checkpoints.errors import CheckpointError
from ldm.checkpoints.graph_word_files import (
    GraphWord,
    collect_graph_words,
    holds_graph_words,
    read_graph_words,
    write_graph_words,
)
from ldm.checkpoints.word_files import write_words

ZORP = GraphWord("object", torch.arange(4.0), "abc")


def test_words_are_read_as_they_were_written(tmp_path):
    words = {"zorp": ZORP, "next to/beside": GraphWord("predicate", torch.ones(4), "abc")}
    found = read_graph_words(write_graph_words(tmp_path / "w.safetensors", words))
    assert found.keys() == words.keys()
    for name, word in words.items():
        assert (found[name].kind, found[name].encoder) == (word.kind, "abc") and torch.equal(found[name].row, word.row)


def test_files_of_text_encoders_words_are_told_apart_and_keep_their_renames(tmp_path):
    graph, text = tmp_path / "graph.safetensors", tmp_path / "text.safetensors"
    write_graph_words(graph, {"zorp": ZORP})
    write_words(text, {"<my-cat>": [torch.randn(1, 4)]})
    assert holds_graph_words(graph) and not holds_graph_words(text) and not holds_graph_words(tmp_path / "none")
    found = collect_graph_words([text, graph], {"zorp": "blip", "<my-cat>": "<cat>"})
    assert found.words.keys() == {"blip"} and found.others == [text] and found.renames == {"<my-cat>": "<cat>"}


def test_two_words_of_one_name_ask_for_a_new_one_of_one_file(tmp_path):
    a, b = (write_graph_words(tmp_path / name, {"zorp": ZORP}) for name in ("a.safetensors", "b.safetensors"))
    with pytest.raises(CheckpointError, match="the word 'zorp' is in .*a.safetensors too; give one of them a new name"):
        collect_graph_words([a, b])
    assert collect_graph_words([a, b], {f"{b}/zorp": "blip"}).words.keys() == {"zorp", "blip"}


@pytest.mark.parametrize(
    "tensors",
    [
        {"zorp": torch.zeros(4)},
        {"thing/zorp": torch.zeros(4)},
        {"object/zorp": torch.zeros(1, 4)},
        {"object/zorp": torch.full((4,), torch.nan)},
        {"object/zorp": torch.zeros(4), "attribute/zorp": torch.zeros(4)},
        {},
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, tensors):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(tensors, path, {"graph_words": '{"encoder": "abc"}'})
    with pytest.raises(CheckpointError, match="damaged"):
        read_graph_words(path)


def test_words_of_two_encoders_are_not_one_file(tmp_path):
    with pytest.raises(CheckpointError, match="2 graph encoders"):
        write_graph_words(tmp_path / "w.safetensors", {"a": ZORP, "b": ZORP._replace(encoder="other")})
