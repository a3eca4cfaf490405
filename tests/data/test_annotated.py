"""A few pictures with graphs, as data."""

import json

import pytest
from paths import ROOT
from PIL import Image

from ldm.data.annotated import AnnotatedPictures
from ldm.models.export import export_adapters
from ldm.synthetic.checker import check
from ldm.synthetic.shapes import VOCAB
from ldm.synthetic.things import Thing
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import UserError
from ldm.util.images import read_image

WORDS = [{"word": "zorp"}]


@pytest.fixture
def folder(checkpoint, tmp_path):
    export_adapters(checkpoint, tmp_path / "model.safetensors")
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (48, 40), (10 * number, 0, 0)).save(tmp_path / f"pictures/{number}.png")
        (tmp_path / f"pictures/{number}.json").write_text(json.dumps({"objects": ["zorp", "circle"]}))
    return tmp_path


def pictures(folder, **params) -> AnnotatedPictures:
    return AnnotatedPictures(str(folder / "pictures"), 32, str(folder / "model.safetensors"), WORDS, **params)


def test_pictures_come_with_their_graphs_in_the_models_names_and_the_new_ones(folder):
    data = pictures(folder, repeats=3)
    assert len(data) == 6 and data.vocab == VOCAB.extended({"object": ["zorp"]})
    image, graph = data[3]
    assert image.shape == (3, 32, 32) and graph.objects == ("zorp", "circle") and graph.boxes == (None, None)
    assert data[3][0].equal(data[1][0]) and not data[3][0].equal(data[2][0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "pictures/1.json").unlink(), "1.png: has no scene graph; write it to 1.json"),
        (lambda folder: (folder / "pictures/1.json").write_text('{"objects": ["blip"]}'), "1.json.*'blip' is not in"),
        (
            lambda folder: [p.write_text('{"objects": ["circle"]}') for p in (folder / "pictures").glob("*.json")],
            "no graph has",
        ),
        (lambda folder: [p.unlink() for p in (folder / "pictures").glob("*.png")], "contains no pictures"),
        (lambda folder: (folder / "model.safetensors").unlink(), "there is no such file; name a checkpoint"),
        (lambda folder: (folder / "model.safetensors").write_text("x"), "holds no vocabulary"),
    ],
)
def test_what_is_wrong_in_the_folder_is_one_sentence(folder, change, sentence):
    change(folder)
    with pytest.raises(UserError, match=sentence):
        pictures(folder)


def test_prior_pictures_stand_in_the_place_of_their_share_by_seed_epoch_and_index(folder):
    (folder / "prior/images").mkdir(parents=True)
    Image.new("RGB", (32, 32), (255, 255, 255)).save(folder / "prior/images/0.png")
    (folder / "prior/index.jsonl").write_text(
        json.dumps({"file": "images/0.png", "graph": {"objects": ["square"]}}) + "\n"
    )

    def drawn(seed=0, epoch=0, share=0.25):
        data = pictures(folder, repeats=100, prior_root=str(folder / "prior"), prior_share=share, seed=seed)
        data.epoch = epoch
        return [data[index][1].objects == ("square",) for index in range(200)]

    assert drawn() == drawn() and drawn() != drawn(seed=1) and drawn() != drawn(epoch=1)
    assert 0.15 < sum(drawn()) / 200 < 0.35 and not any(drawn(share=0)) and all(drawn(share=1))


def test_shifted_pictures_depend_on_seed_epoch_and_index_and_those_of_the_prior_are_not_shifted(folder):
    for path in (folder / "pictures").glob("*.json"):
        path.write_text(json.dumps({"objects": ["zorp"], "boxes": [[0.25, 0.25, 0.5, 0.5]]}))
    (folder / "prior").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "prior/0.png")
    prior = {"objects": ["square"], "boxes": [[0.25, 0.25, 0.5, 0.5]]}
    (folder / "prior/index.jsonl").write_text(json.dumps({"file": "0.png", "graph": prior}) + "\n")

    def drawn(seed=0, epoch=0, shift=True):
        data = pictures(folder, prior_root=str(folder / "prior"), prior_share=0.5, seed=seed, shift=shift)
        data.epoch = epoch
        graphs = [data[index][1] for index in range(60)]
        return [[graph.boxes for graph in graphs if name in graph.objects] for name in ("zorp", "square")]

    still, moved = drawn(shift=False), drawn()
    assert len({*map(tuple, still[0])}) == 1 and len({*map(tuple, moved[0])}) > 20
    assert moved == drawn() and moved != drawn(seed=1) and moved != drawn(epoch=1)
    assert moved[1] == still[1] and len(moved[0]) == len(still[0])  # the same pictures are of the prior


@pytest.mark.parametrize(
    "index", [None, "", "x", '{"file": "0.png"}', '{"file": "0.png", "graph": {"objects": ["blip"]}}']
)
def test_a_prior_folder_that_sample_py_did_not_write_is_one_sentence(folder, index):
    (folder / "prior").mkdir()
    if index is not None:
        (folder / "prior/index.jsonl").write_text(index)
    with pytest.raises(UserError, match="index.jsonl"):
        pictures(folder, prior_root=str(folder / "prior"))


def test_the_shipped_pictures_show_what_their_graphs_say_of_a_small_red_striped_triangle():
    thing = Thing.of("small red striped triangle", WORLDS["shapes"])
    found = sorted((ROOT / "data/flat/words").glob("*.png"))
    assert len(found) == 4
    data = AnnotatedPictures(
        str(ROOT / "data/flat/words"), 64, str(ROOT / "data/flat/adapters.safetensors"), [{"word": "zorp"}]
    )
    for path, graph in zip(found, data.graphs):
        index = graph.objects.index("zorp")
        objects = [thing.name if name == "zorp" else name for name in graph.objects]
        attributes = [thing.attributes if i == index else names for i, names in enumerate(graph.attributes)]
        meant = type(graph)(objects, graph.boxes, attributes, graph.triples)
        assert check(meant, read_image(path)).passed
