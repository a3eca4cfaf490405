"""Vocab: sg2im's vocab.json is read and written unchanged, and an invalid one is a GraphError that says why."""

import json
import pickle
from dataclasses import replace

import pytest
from graph_examples import VOCAB, any_json, repeatable, result_or_none
from hypothesis import given
from hypothesis import strategies as st

from ldm.graph.batch import decode, encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.graph.vocab import OpenVocab, Vocab


def test_the_published_vocabulary_is_read_and_written_unchanged(realdata, tmp_path):
    path = realdata / "vg_preprocessed_vocab" / "vocab.json"
    vocab = Vocab.read(path)
    assert (len(vocab.objects), len(vocab.predicates), len(vocab.attributes)) == (179, 46, 80)
    assert (vocab.object_id("__image__"), vocab.predicate_id("__in_image__"), vocab.attribute_id("white")) == (0, 0, 0)
    vocab.write(tmp_path / "vocab.json")
    assert Vocab.read(tmp_path / "vocab.json") == vocab
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads(path.read_text())


def test_a_vocabulary_can_be_pickled():
    assert pickle.loads(pickle.dumps(VOCAB)).object_id("horse") == 4


def test_a_vocabulary_may_lack_attributes_and_have_unused_ids_as_in_coco():
    predicates = ["__in_image__", "left of", "right of", "above", "below", "inside", "surrounding"]
    objects = ["__image__", "person", "NONE", "car", "NONE"]
    vocab = Vocab.from_json({"object_idx_to_name": objects, "pred_idx_to_name": predicates})
    assert vocab.object_id("car") == 3 and vocab.predicate_id("surrounding") == 6
    assert Vocab.from_json(vocab.to_json()) == vocab
    assert vocab.to_json()["object_name_to_idx"] == {"__image__": 0, "person": 1, "car": 3}
    with pytest.raises(GraphError, match="'NONE'"):
        vocab.object_id("NONE")
    with pytest.raises(GraphError, match="no attributes"):
        SceneGraph(("car",), attributes=(("red",),)).validate(vocab)


@pytest.mark.parametrize(
    "change, table, word",
    [
        ({"object_idx_to_name": ["sky"]}, "objects", "__image__ first"),
        ({"pred_idx_to_name": []}, "predicates", "__in_image__ first"),
        ({"object_idx_to_name": ["__image__", "sky", "sky"]}, "objects", "'sky' twice"),
        ({"attribute_idx_to_name": [3]}, "attributes", r"\[3\]"),
    ],
)
def test_an_invalid_table_is_an_error_that_names_file_and_table(tmp_path, change, table, word):
    tables = {"object_idx_to_name": ["__image__", "sky"], "pred_idx_to_name": ["__in_image__", "on"]}
    (tmp_path / "vocab.json").write_text(json.dumps(tables | change))
    with pytest.raises(GraphError, match=f"^{tmp_path}/vocab.json: .*{table}.*{word}"):
        Vocab.read(tmp_path / "vocab.json")


def test_a_missing_table_is_an_error():
    with pytest.raises(GraphError, match="^vocabulary: .*object_idx_to_name"):
        Vocab.from_json({"objects": ["sky"]})


@repeatable
@given(st.fixed_dictionaries({key: any_json for key in VOCAB.to_json()}) | any_json)
def test_any_json_gives_a_vocabulary_or_a_graph_error(data):
    result_or_none(Vocab.from_json, data)
    data = VOCAB.to_json() | (data if isinstance(data, dict) else {"object_idx_to_name": ["__image__", data]})
    vocab = result_or_none(Vocab.from_json, data)
    assert vocab is None or Vocab.from_json(vocab.to_json()) == vocab


def test_an_open_vocabulary_takes_any_name_and_gives_it_back():
    vocab = OpenVocab()
    graph = SceneGraph(
        ("빨간 여우", "NONE", "fox"), attributes=((), ("very red",), ("very red",)), triples=((0, "jumping over", 2),)
    )
    assert decode(encode([graph], vocab), vocab) == [replace(graph, boxes=(None,) * 3)]
    assert vocab.objects == ("__image__", "빨간 여우", "NONE", "fox")
    assert vocab.predicates == ("__in_image__", "jumping over") and vocab.attributes == ("very red",)
    assert vocab.object_id("fox") == 3 and vocab.object_id("hat") == 4
    graph.validate(vocab)
