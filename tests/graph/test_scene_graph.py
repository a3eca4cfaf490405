"""Scene graphs: what is read is what was written, what is wrong is named, and numbers give the names back."""

import json
import os
import pickle
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldm.graph.batch import Batch, GraphBatch, collate, decode, encode
from ldm.graph.scene_graph import SceneGraph, Vocab, read_graphs, write_graphs
from ldm.graph.validation import GraphError

repeatable = settings(
    derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

VOCAB = Vocab(
    ("__image__", "sheep", "grass", "sky", "horse"),
    ("__in_image__", "on", "above", "has"),
    ("white", "brown"),
)
GRAPH = SceneGraph(
    objects=("sheep", "grass", "sky"),
    boxes=((0.25, 0.5, 0.5, 0.75), None, (0.0, 0.0, 1.0, 0.5)),
    attributes=(("white",), (), ("brown", "white")),
    triples=((0, "on", 1), (2, "above", 1)),
    ids=("dolly", None, None),
    image="sheep.png",
)

# Any text that a name may be, and boxes on a grid that float32 knows exactly.
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
edges = st.lists(st.integers(0, 1024), min_size=2, max_size=2, unique=True).map(lambda x: sorted(v / 1024 for v in x))
boxes = st.tuples(edges, edges).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


@st.composite
def graphs(draw, objects=names, predicates=names, attributes=names):
    count = draw(st.integers(1, 6))
    each = lambda values: draw(st.lists(values, min_size=count, max_size=count))  # noqa: E731
    index = st.integers(0, count - 1)
    triples = st.tuples(index, predicates, index).filter(lambda triple: triple[0] != triple[2])
    return SceneGraph(
        each(objects),
        each(st.none() | boxes),
        each(st.lists(attributes, max_size=2)),
        draw(st.lists(triples, max_size=6)) if count > 1 else (),
        [draw(st.none() | st.just(f"id {i}")) for i in range(count)],
        draw(st.none() | names),
    )


known_graphs = graphs(*(st.sampled_from(x) for x in (VOCAB.objects[1:], VOCAB.predicates[1:], VOCAB.attributes)))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


# reading and writing


@repeatable
@given(graphs())
def test_a_graph_comes_back_from_its_json(graph):
    assert SceneGraph.from_json(graph.to_json()) == graph
    assert SceneGraph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


@repeatable
@given(st.lists(graphs(), min_size=1, max_size=3))
def test_graphs_come_back_from_their_file(tmp_path, graphs):
    write_graphs(tmp_path / "graphs.json", graphs)
    assert read_graphs(tmp_path / "graphs.json") == graphs
    assert os.listdir(tmp_path) == ["graphs.json"]


def test_a_graph_is_written_in_the_form_that_sg2im_reads(tmp_path):
    write_graphs(tmp_path / "one.json", [SceneGraph(("sheep", "grass"), triples=((0, "on", 1),))])
    assert json.loads((tmp_path / "one.json").read_text()) == {
        "objects": ["sheep", "grass"],
        "relationships": [[0, "on", 1]],
    }
    write_graphs(tmp_path / "two.json", [GRAPH, GRAPH])
    one, two = json.loads((tmp_path / "two.json").read_text())
    assert one == two == {
        "objects": ["sheep", "grass", "sky"],
        "relationships": [[0, "on", 1], [2, "above", 1]],
        "boxes": [[0.25, 0.5, 0.5, 0.75], None, [0.0, 0.0, 1.0, 0.5]],
        "attributes": [["white"], [], ["brown", "white"]],
        "ids": ["dolly", None, None],
        "image": "sheep.png",
    }


def test_null_and_a_missing_key_both_mean_not_known():
    bare = SceneGraph(("sheep",))
    assert bare == SceneGraph(("sheep",), (None,), ((),), (), (None,), None)
    unknown = dict.fromkeys(("relationships", "boxes", "attributes", "ids", "image"))
    assert SceneGraph.from_json({"objects": ["sheep"], **unknown}) == bare
    assert SceneGraph.from_json({"objects": ["sheep"], "attributes": [None], "boxes": [None], "ids": [None]}) == bare


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "graph.json"
    write_graphs(path, [GRAPH])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(GraphError, match="graph.json: cannot be written .No space left on device.; check the folder"):
        write_graphs(path, [SceneGraph(("sky",))])
    assert read_graphs(path) == [GRAPH]
    assert os.listdir(tmp_path) == ["graph.json"]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "graph.json").write_text('{"objects": ["sheep"]}', encoding="utf-8-sig")
    assert read_graphs(tmp_path / "graph.json") == [SceneGraph(("sheep",))]


# what published files hold


def test_published_graphs_are_read_and_their_self_relations_dropped_with_a_warning(realdata):
    folder = realdata / "scene_graphs" / "google_sg2im"
    with pytest.warns(UserWarning) as found:
        vg = read_graphs(folder / "figure_5_vg.json")
    assert [str(w.message) for w in found] == [
        f"{folder}/figure_5_vg.json: graph 3, relationships[0, 1, 2, 3]: dropped, "
        "as a relation of an object with itself says nothing"
    ]
    assert len(vg) == 8 and len(vg[3].triples) == 4
    assert vg[0].triples.count((3, "eating", 4)) == 2  # repeated triples are kept
    vocab = Vocab.read(realdata / "vg_preprocessed_vocab" / "vocab.json")
    vg += read_graphs(folder / "figure_6_sheep.json") + read_graphs(folder / "figure_6_street.json")
    assert len(vg) == 8 + 7 + 7
    assert decode(encode(vg, vocab), vocab) == vg


def test_the_image_object_that_sg2im_adds_is_dropped_without_a_word():
    data = {
        "objects": ["sheep", "__image__", "grass"],
        "relationships": [[0, "__in_image__", 1], [0, "on", 2], [2, "__in_image__", 1]],
        "boxes": [[0, 0, 0.5, 0.5], [0, 0, 1, 1], None],
        "attributes": [["white"], [], []],
        "ids": ["a", "whole", "b"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = SceneGraph.from_json(data)
    assert graph == SceneGraph(
        ("sheep", "grass"), ((0, 0, 0.5, 0.5), None), (("white",), ()), ((0, "on", 1),), ("a", "b")
    )


def test_another_relation_with_the_image_is_dropped_with_a_warning():
    data = {"objects": ["sheep", "__image__", "sky"], "relationships": [[0, "on", 1], [0, "__in_image__", 2]]}
    with pytest.warns(UserWarning, match=r"^here, relationships\[0, 1\]: dropped, as __in_image__ is the one relation"):
        assert SceneGraph.from_json(data, "here").triples == ()


# what is wrong


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"objects": None}, "objects: give a list of names, not None"),
        ({"objects": []}, "objects: the graph is empty; give at least one object"),
        ({"objects": ["__image__"]}, "objects: the graph is empty; give at least one object"),
        ({"objects": "sheep"}, "objects: give a list of names, not 'sheep'"),
        ({"objects": ["sheep", 7]}, "objects[1]: give a printable text, not 7"),
        ({"objects": ["sheep", " "]}, "objects[1]: give a printable text, not ' '"),
        ({"objects": ["sheep", "\ud800"]}, "objects[1]: give a printable text, not '\\ud800'"),
        ({"relationships": [[0, "on"]]},
         "relationships[0]: give subject, predicate and object, such as [0, \"on\", 1], not [0, 'on']"),
        ({"relationships": ["0 on 1"]}, "relationships[0]: give [0, \"on\", 1], not '0 on 1'"),
        ({"relationships": [[0, "on", 1], [0, "on", 2]]},
         "relationships[1]: there is no object 2; give an index from 0 to 1"),
        ({"relationships": [[-1, "on", 0]]}, "relationships[0]: there is no object -1; give an index from 0 to 1"),
        ({"relationships": [[False, "on", True]]},
         "relationships[0]: give objects by their index, a whole number, not False"),
        ({"relationships": [[0, "on", 1.0]]}, "relationships[0]: give objects by their index, a whole number, not 1.0"),
        ({"relationships": [[0, 1, 1]]}, "relationships[0]: give a printable text, not 1"),
        ({"boxes": [None]}, "boxes: 1 entries for 2 objects; give one each, null where unknown"),
        ({"boxes": [[0, 0, 1], None]}, "boxes[0]: give four numbers x0, y0, x1, y1, not [0, 0, 1]"),
        ({"boxes": [[0, 0, 1, True], None]}, "boxes[0]: give numbers, not True"),
        ({"boxes": [[0, 0, 1, "1"], None]}, "boxes[0]: give numbers, not '1'"),
        ({"boxes": [None, [0, 0, 200, 100]]},
         "boxes[1]: 200 is outside of the image; give fractions of its size, 0 to 1"),
        ({"boxes": [None, [0, 0, 1, float("nan")]]},
         "boxes[1]: nan is outside of the image; give fractions of its size, 0 to 1"),
        ({"boxes": [None, [float("-inf"), 0, 1, 1]]},
         "boxes[1]: -inf is outside of the image; give fractions of its size, 0 to 1"),
        ({"boxes": [[0.5, 0, 0.25, 1], None]},
         "boxes[0]: [0.5, 0, 0.25, 1] is reversed or has no area; give x0 < x1 and y0 < y1"),
        ({"boxes": [[0.5, 0, 0.5, 1], None]},
         "boxes[0]: [0.5, 0, 0.5, 1] is reversed or has no area; give x0 < x1 and y0 < y1"),
        ({"attributes": ["white", None]}, "attributes[0]: give a list of names such as [\"red\"], not 'white'"),
        ({"attributes": [["white", 3], None]}, "attributes[0]: give a printable text, not 3"),
        ({"ids": ["a", "a"]}, "ids[1]: another object has the id 'a'; give each its own, or null"),
        ({"ids": [1, 2]}, "ids[0]: give a printable text, not 1"),
        ({"image": 3}, "image: give a printable text, not 3"),
    ],
)
def test_an_error_names_the_place_and_the_remedy(change, sentence):
    with pytest.raises(GraphError) as error:
        SceneGraph.from_json({"objects": ["sheep", "grass"], **change}, "x.json: graph 3")
    assert str(error.value) == f"x.json: graph 3, {sentence}"


def test_a_key_that_is_unknown_is_named_with_the_nearest():
    with pytest.raises(GraphError, match="^graph: unknown key 'boxs'; did you mean 'boxes'[?]$"):
        SceneGraph.from_json({"objects": ["sheep"], "boxs": []})
    with pytest.raises(GraphError, match="^graph: unknown key 'zzz'; choose from objects, boxes, attributes, rel"):
        SceneGraph.from_json({"objects": ["sheep"], "zzz": []})
    with pytest.raises(GraphError, match='^graph: the key "objects" is missing; list the names'):
        SceneGraph.from_json({"relationships": []})
    with pytest.raises(GraphError, match='^graph: a graph is written {"objects": .*}, not 3$'):
        SceneGraph.from_json(3)


def test_a_graph_made_in_python_has_no_self_relation_and_no_image_object():
    for objects, triple, sentence in (
        (("sheep", "grass"), (1, "on", 1), "object 1 cannot relate to itself"),
        (("sheep", "grass"), (0, "__in_image__", 1), "__in_image__ is added by encode; leave it out"),
        (("sheep", "__image__"), (0, "on", 1), "objects.1.: __image__ is added by encode; leave it out"),
    ):
        with pytest.raises(GraphError, match=sentence):
            SceneGraph(objects, triples=(triple,))


def test_a_number_too_large_to_print_is_still_one_sentence():
    huge = 10**5000
    with pytest.raises(GraphError, match=r"^relationships\[0\]: there is no object a int too large to print"):
        SceneGraph(("sheep",), triples=((0, "on", huge),))
    with pytest.raises(GraphError, match="outside of the image"):
        SceneGraph(("sheep",), ((0, 0, huge, 1),))


def test_a_box_is_moved_back_by_a_rounding_error_and_no_more():
    assert SceneGraph(("sheep",), ((-1e-9, 0, 1 + 1e-9, 1),)).boxes == ((0.0, 0.0, 1.0, 1.0),)
    with pytest.raises(GraphError, match="outside"):
        SceneGraph(("sheep",), ((0, 0, 1.001, 1),))


def test_a_name_outside_of_the_vocabulary_comes_with_the_nearest():
    for graph, sentence in (
        (SceneGraph(("sky", "sheap")), "objects[1]: object 'sheap' is not in the vocabulary; did you mean 'sheep'?"),
        (SceneGraph(("sky", "sheep"), triples=((0, "abov", 1),)),
         "relationships[0]: predicate 'abov' is not in the vocabulary; did you mean 'above'?"),
        (SceneGraph(("sky",), attributes=(("White",),)),
         "attributes[0]: attribute 'White' is not in the vocabulary; did you mean 'white'?"),
        (SceneGraph(("zzz",)),
         "objects[0]: object 'zzz' is not in the vocabulary; choose from sheep, grass, sky, horse"),
    ):
        with pytest.raises(GraphError) as error:
            graph.validate(VOCAB, "x.json: graph")
        assert str(error.value) == f"x.json: graph, {sentence}"
        with pytest.raises(GraphError) as error:
            encode([GRAPH, graph], VOCAB)
        assert str(error.value) == f"graph 1, {sentence}"


def test_more_objects_than_fit_are_an_error():
    GRAPH.validate(VOCAB, max_objects=3)
    with pytest.raises(GraphError, match="^here: 3 objects do not fit in 2; leave some out$"):
        GRAPH.validate(VOCAB, "here", max_objects=2)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "line 1, column 1: this is not JSON (Expecting value); mend it there"),
        (b'{"objects": ["sheep"],}', "line 1, column 23: this is not JSON"),
        (b'{"objects": ["sheep"]}\n{"objects": ["sky"]}',
         "line 2, column 1: something follows the end; remove it, or put graphs in one list"),
        (b'{"objects": ["sh\xe9ep"]}', "byte 16 is not UTF-8; save the file as UTF-8 text"),
        (b'{"objects": ["sheep"], "objects": []}', "the key 'objects' occurs twice in one object; keep one of them"),
        (b"[" * 100_000, "lists are nested too deeply for a graph; check the brackets"),
        (b'{"objects": ["sheep"], "image": ' + b"9" * 5000 + b"}", "a whole number has thousands of digits"),
        (b"[]", "the list holds no graph; write at least one"),
        (b'[{"objects": ["sheep"]}, 7]', 'graph 1: a graph is written {"objects": [...], ...}, not 7'),
        (b'{"objects": ["sheep"], "boxes": [[0, 0, 1, NaN]]}', "graph, boxes[0]: nan is outside of the image"),
    ],
)
def test_a_file_that_holds_no_graph_is_an_error_that_names_the_file(tmp_path, content, sentence):
    path = tmp_path / "graph.json"
    path.write_bytes(content)
    with pytest.raises(GraphError) as error:
        read_graphs(path)
    assert str(error.value).startswith(f"{path}: {sentence}")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path, "\0"):
        with pytest.raises(GraphError, match="cannot be read .*; check the path"):
            read_graphs(path)
    with pytest.raises(GraphError, match="there is no graph to write"):
        write_graphs(tmp_path / "none.json", [])


def read_or_complain(read, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(*arguments)
        except GraphError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            return None


@repeatable
@given(st.fixed_dictionaries({}, optional={key: anything for key in GRAPH.to_json()}) | anything)
def test_any_json_is_a_graph_or_a_graph_error(data):
    graph = read_or_complain(SceneGraph.from_json, data)
    assert graph is None or isinstance(graph, SceneGraph)


@repeatable
@given(st.fixed_dictionaries({key: anything for key in VOCAB.to_json()}) | anything)
def test_any_json_is_a_vocabulary_or_a_graph_error(data):
    read_or_complain(Vocab.from_json, data)
    data = VOCAB.to_json() | (data if isinstance(data, dict) else {"object_idx_to_name": ["__image__", data]})
    vocab = read_or_complain(Vocab.from_json, data)
    assert vocab is None or Vocab.from_json(vocab.to_json()) == vocab


@repeatable
@given(st.sampled_from(sorted(GRAPH.to_json())), st.integers(0, 2), st.integers(0, 3), anything)
def test_anything_in_one_place_of_a_good_graph_is_a_graph_or_a_graph_error(key, outer, inner, value):
    data = GRAPH.to_json()
    if isinstance(data[key], list) and outer < len(data[key]):
        if isinstance(data[key][outer], list) and inner < len(data[key][outer]):
            data[key][outer][inner] = value
        else:
            data[key][outer] = value
    else:
        data[key] = value
    graph = read_or_complain(SceneGraph.from_json, data)
    assert graph is None or SceneGraph.from_json(graph.to_json()) == graph


@repeatable
@given(st.lists(anything, min_size=6, max_size=6))
def test_any_python_value_is_a_graph_or_a_graph_error(values):
    read_or_complain(SceneGraph, *values)
    read_or_complain(SceneGraph, ("sheep", "sky"), *values[1:])
    read_or_complain(SceneGraph, ("sheep",), torch.rand(40, 4))


@repeatable
@given(st.binary(max_size=40), st.integers(0, 200))
def test_any_bytes_are_a_graph_or_a_graph_error(tmp_path, noise, place):
    text = json.dumps(GRAPH.to_json()).encode()
    for content in (noise, text[:place] + noise + text[place:], text[:place] + noise):
        (tmp_path / "graph.json").write_bytes(content)
        read_or_complain(read_graphs, tmp_path / "graph.json")
        read_or_complain(Vocab.read, tmp_path / "graph.json")


# vocabularies


def test_the_published_vocabulary_is_read_and_written_as_it_was(realdata, tmp_path):
    path = realdata / "vg_preprocessed_vocab" / "vocab.json"
    vocab = Vocab.read(path)
    assert (len(vocab.objects), len(vocab.predicates), len(vocab.attributes)) == (179, 46, 80)
    assert (vocab.object_id("__image__"), vocab.predicate_id("__in_image__"), vocab.attribute_id("white")) == (0, 0, 0)
    vocab.write(tmp_path / "vocab.json")
    assert Vocab.read(tmp_path / "vocab.json") == vocab
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads(path.read_text())


def test_a_vocabulary_may_lack_attributes_and_hold_ids_for_nothing_as_coco_does():
    predicates = ["__in_image__", "left of", "right of", "above", "below", "inside", "surrounding"]
    objects = ["__image__", "person", "NONE", "car", "NONE"]
    vocab = Vocab.from_json({"object_idx_to_name": objects, "pred_idx_to_name": predicates})
    assert vocab.object_id("car") == 3 and vocab.predicate_id("surrounding") == 6
    assert Vocab.from_json(vocab.to_json()) == vocab
    assert vocab.to_json()["object_name_to_idx"] == {"__image__": 0, "person": 1, "car": 3}
    with pytest.raises(GraphError, match="object 'NONE' is not in the vocabulary"):
        vocab.object_id("NONE")
    with pytest.raises(GraphError, match="the vocabulary has no attributes; leave 'red' out"):
        SceneGraph(("car",), attributes=(("red",),)).validate(vocab)


def test_a_vocabulary_that_is_none_says_why(tmp_path):
    tables = {"object_idx_to_name": ["__image__", "sky"], "pred_idx_to_name": ["__in_image__", "on"]}
    for change, sentence in (
        ({"object_idx_to_name": ["sky"]}, "the vocabulary's objects begin with ['sky']; put __image__ first"),
        ({"pred_idx_to_name": []}, "the vocabulary's predicates begin with []; put __in_image__ first"),
        ({"object_idx_to_name": ["__image__", "sky", "sky"]},
         "the vocabulary's objects have 'sky' twice; leave one out"),
        ({"attribute_idx_to_name": [3]}, "the vocabulary's attributes are [3]; give a list of names"),
    ):
        (tmp_path / "vocab.json").write_text(json.dumps(tables | change))
        with pytest.raises(GraphError) as error:
            Vocab.read(tmp_path / "vocab.json")
        assert str(error.value) == f"{tmp_path}/vocab.json: {sentence}"
    with pytest.raises(GraphError, match='^vocabulary: give the lists "object_idx_to_name" and "pred_idx_to_name"'):
        Vocab.from_json({"objects": ["sky"]})


# batches


def test_two_graphs_become_the_numbers_worked_out_by_hand():
    batch = encode([GRAPH, SceneGraph(("horse",), attributes=(("brown",),))], VOCAB)
    assert batch.objs.tolist() == [1, 2, 3, 0, 4, 0]
    assert batch.boxes.tolist() == [
        [0.25, 0.5, 0.5, 0.75],
        [-1.0, -1.0, -1.0, -1.0],
        [0.0, 0.0, 1.0, 0.5],
        [0.0, 0.0, 1.0, 1.0],
        [-1.0, -1.0, -1.0, -1.0],
        [0.0, 0.0, 1.0, 1.0],
    ]
    assert batch.triples.tolist() == [[0, 1, 1], [2, 2, 1], [0, 0, 3], [1, 0, 3], [2, 0, 3], [4, 0, 5]]
    assert batch.obj_to_img.tolist() == [0, 0, 0, 0, 1, 1]
    assert batch.triple_to_img.tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.attributes.tolist() == [[0, 0], [2, 1], [2, 0], [4, 1]]
    assert batch.num_images == 2
    assert {x.dtype for x in batch} == {torch.long, torch.float32}


@repeatable
@given(st.lists(known_graphs, max_size=4))
def test_numbers_give_the_names_back(graphs):
    batch = encode(graphs, VOCAB)
    plain = [SceneGraph(g.objects, g.boxes, g.attributes, g.triples) for g in graphs]
    assert decode(batch, VOCAB) == plain
    assert batch.num_images == len(graphs)
    bare = [SceneGraph(g.objects, g.boxes, triples=g.triples) for g in graphs]
    assert decode(batch._replace(attributes=None), VOCAB) == bare


@repeatable
@given(st.lists(known_graphs, min_size=1, max_size=4))
def test_every_image_ends_with_its_image_object_which_holds_all_others(graphs):
    batch = encode(graphs, VOCAB)
    for image, graph in enumerate(graphs):
        own = (batch.obj_to_img == image).nonzero().flatten().tolist()
        assert batch.objs[own].tolist().index(0) == len(own) - 1 == len(graph.objects)
        triples = batch.triples[batch.triple_to_img == image]
        assert triples[triples[:, 1] == 0].tolist() == [[o, 0, own[-1]] for o in own[:-1]]
        assert set(triples[:, [0, 2]].flatten().tolist()) <= set(own)


def test_decoding_leaves_out_self_relations_of_published_batches():
    batch = encode([GRAPH], VOCAB)
    selves = torch.tensor([[1, 3, 1]])
    batch = batch._replace(
        triples=torch.cat([batch.triples, selves]), triple_to_img=torch.cat([batch.triple_to_img, torch.tensor([0])])
    )
    assert decode(batch, VOCAB)[0].triples == GRAPH.triples


def test_a_batch_unpacks_as_six_and_keeps_the_attributes():
    images = [torch.full((3, 2, 2), float(i)) for i in range(2)]
    batch = collate([(image, GRAPH) for image in images], VOCAB)
    image, objs, boxes, triples, obj_to_img, triple_to_img = batch
    assert torch.equal(image, torch.stack(images)) and image is batch.image
    assert (objs, boxes, triples, obj_to_img, triple_to_img) == batch.graph[:5]
    assert batch.graph.attributes.tolist() == [[0, 0], [2, 1], [2, 0], [4, 0], [6, 1], [6, 0]]
    assert Batch.of(batch) is batch
    six = Batch.of(tuple(batch))
    assert six.graph.attributes is None and all(x is y for x, y in zip(six, batch))


def test_a_batch_survives_pickling_moving_and_the_loader():
    batch = collate([(torch.rand(3, 2, 2), GRAPH)] * 2, VOCAB)
    loader = torch.utils.data.DataLoader(
        [(batch.image[0], GRAPH), (batch.image[1], GRAPH)], 2, num_workers=1, collate_fn=Collate()
    )
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu", non_blocking=True), next(iter(loader))):
        assert type(other) is Batch and type(other.graph) is GraphBatch and len(other) == 6
        assert all(torch.equal(x, y) for x, y in zip(other, batch))
        assert torch.equal(other.graph.attributes, batch.graph.attributes)
    moved = batch.to("meta")
    assert {x.device.type for x in (*moved, *moved.graph)} == {"meta"}
    assert Batch.of(tuple(batch)).to("meta").graph.attributes is None


class Collate:
    def __call__(self, samples):
        return collate(samples, VOCAB)


def test_a_graph_survives_pickling_and_can_be_a_key():
    assert {pickle.loads(pickle.dumps(GRAPH)): 1}[GRAPH] == 1
    assert pickle.loads(pickle.dumps(VOCAB)).object_id("horse") == 4


def test_an_image_is_its_own_reference_unless_the_data_has_another():
    graph = SceneGraph(("a",), boxes=((0, 0, 1, 1),))
    vocab = Vocab(("__image__", "a"), ("__in_image__",))
    image, other = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    alone = collate([(image, graph), (image, graph)], vocab)
    assert alone.reference is alone.image
    both = collate([(image, graph, other), (image, graph, other)], vocab)
    for batch in (both, both.to("cpu"), pickle.loads(pickle.dumps(both))):
        assert len(batch) == 6 and (batch.image == 0).all() and (batch.reference == 1).all()
    moved = pickle.loads(pickle.dumps(alone))
    assert moved.reference is moved.image
