"""The data sets of rendered scenes, on four pictures: one of seed 362 in the first shard, three in the second.

Pictures 502 and 775 have the same floor, wall and light; 521 has others.
"""

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_vg import encoders_of
from PIL import Image
from tiny import tiny_model

from ldm.data.cache import CachedDataset, CacheError
from ldm.data.cache_writing import write_cache
from ldm.data.datamodule import DataModuleFromConfig
from ldm.data.doctor import find_problems
from ldm.data.flips import RandomFlipDataset
from ldm.data.protocols import HasStyleReferences, SceneGraphDataset, SeededDataset
from ldm.data.rendered import RenderedTrain, RenderedValidation
from ldm.synthetic.rendered.records import RenderedError, read_records
from ldm.util.errors import ConfigError
from ldm.util.images import ImageError
from ldm.util.trust import read_untrusted

ROOT = Path(__file__).parent / "rendered"
INDEX = "shard-00001/scenes.jsonl"


@pytest.fixture
def copied(tmp_path):
    """A copy of the folder, to be damaged."""
    shutil.copytree(ROOT, tmp_path / "scenes")
    return tmp_path / "scenes"


def lines(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / INDEX).read_text().splitlines()]


def write_lines(root: Path, records: list[dict]) -> None:
    (root / INDEX).write_text("".join(json.dumps(record) + "\n" for record in records))


def names(graph) -> Counter:
    return Counter((name, *sorted(words)) for name, words in zip(graph.objects, graph.attributes))


# Pictures and graphs --------------------------------------------------------------------------------------------------


def test_the_first_shard_is_held_out_for_validation():
    assert RenderedValidation(ROOT).image_names() == ["shard-00000/000362.webp"]
    train = [f"shard-00001/000{seed}.webp" for seed in (502, 521, 775)]
    assert RenderedTrain(ROOT).image_names() == train
    everything = ["shard-00000/000362.webp", *train]
    assert RenderedTrain(ROOT, held_out=0).image_names() == everything
    assert RenderedValidation(ROOT, held_out=0).image_names() == everything


def test_an_item_is_the_picture_of_the_file_and_its_graph():
    image, graph = RenderedTrain(ROOT)[1]
    assert image.shape == (3, 128, 128) and image.dtype == torch.float32
    file = np.asarray(Image.open(ROOT / "shard-00001/000521.webp").convert("RGB"))
    assert np.array_equal(((image + 1) * 127.5).round().numpy().transpose(1, 2, 0), file)
    assert names(graph) == names(RenderedTrain(ROOT).complete_graph(1))
    assert RenderedTrain(ROOT, image_size=64)[1][0].shape == (3, 64, 64)


def test_the_complete_graph_says_what_the_index_says():
    for number, record in enumerate(lines(ROOT)):
        graph = RenderedTrain(ROOT).complete_graph(number)
        things = record["scene"]["things"]
        assert graph.objects == tuple(thing["kind"] for thing in things)
        assert graph.boxes == tuple(tuple(box) for box in record["boxes"])  # none of them reaches beyond the picture
        supported = {(i, thing["relation"], thing["support"]) for i, thing in enumerate(things) if thing["relation"]}
        assert supported == {triple for triple in graph.known_triples if triple[1] in ("on", "inside")}
        for words, thing in zip(graph.attributes, things):
            assert set(words) == {thing["size"], thing["colour"], thing["material"]} - {None}


def test_boxes_that_reach_beyond_the_picture_are_cut_at_its_edge(copied):
    records = lines(copied)
    records[0]["boxes"][0] = [-0.1, 0.2, 0.5, 1.2]
    write_lines(copied, records)
    assert RenderedTrain(copied).complete_graph(0).boxes[0] == (0, 0.2, 0.5, 1)


def test_things_on_and_inside_others_keep_their_triple_in_every_epoch():
    train = RenderedTrain(ROOT)
    for train.epoch in range(20):
        assert [sum(p in ("on", "inside") for _, p, _ in train.graph(index).known_triples) for index in range(3)] == [
            1,
            1,
            1,
        ]


@pytest.mark.parametrize("boxes, share", [("all", 1), ("none", 0)])
def test_as_many_objects_as_configured_have_a_box(boxes, share):
    train = RenderedTrain(ROOT, boxes=boxes)
    for index in range(3):
        graph = train.graph(index)
        assert sum(box is not None for box in graph.boxes) == share * len(graph.objects)


def test_training_graphs_depend_on_seed_and_epoch_and_validation_graphs_do_not():
    train = RenderedTrain(ROOT)
    first = [train.graph(index) for index in range(3)]
    assert first == [RenderedTrain(ROOT).graph(index) for index in range(3)]
    assert first != [RenderedTrain(ROOT, seed=1).graph(index) for index in range(3)]
    train.epoch = 1
    assert first != [train.graph(index) for index in range(3)]
    validation = RenderedValidation(ROOT, held_out=0, seed=5)
    validation.epoch = 7
    same = RenderedValidation(ROOT, held_out=0)
    assert [validation.graph(index) for index in range(4)] == [same.graph(index) for index in range(4)]


def test_every_graph_is_in_the_vocabulary_which_has_the_reserved_names_first():
    train = RenderedTrain(ROOT, held_out=0)
    assert (train.vocab.objects[0], train.vocab.predicates[0]) == ("__image__", "__in_image__")
    for index in range(4):
        train.complete_graph(index).validate(train.vocab)


def test_pictures_of_edits_are_left_out(copied):
    records = lines(copied)
    records[1]["edit"] = {"operation": "move", "source": "000502.webp"}
    write_lines(copied, records)
    assert [Path(name).stem for name in RenderedTrain(copied).image_names()] == ["000502", "000775"]
    assert [record.edit is None for record in read_records(copied / "shard-00001")] == [True, False, True]


def test_max_samples_takes_the_first_pictures():
    assert RenderedTrain(ROOT, max_samples=2).image_names() == RenderedTrain(ROOT).image_names()[:2]
    with pytest.raises(IndexError):
        RenderedTrain(ROOT, max_samples=2)[2]


# Style references -----------------------------------------------------------------------------------------------------


def test_the_reference_is_another_picture_of_the_same_style_or_the_picture_itself():
    train = RenderedTrain(ROOT, reference=True)
    for train.epoch in range(5):
        assert [train.style_reference(index) for index in range(3)] == [2, 1, 0]
    images = [train[index][0] for index in range(3)]
    assert torch.equal(train[0][2], images[2]) and torch.equal(train[1][2], images[1])
    assert RenderedTrain(ROOT).style_reference(0) == 0


def test_all_pictures_of_a_style_are_drawn_as_reference_equally_often(copied):
    records = lines(copied)
    for record in records:
        record["scene"]["style"] = records[0]["scene"]["style"]
    write_lines(copied, [*records, *records])
    train, drawn = RenderedTrain(copied, reference=True), Counter()
    for train.epoch in range(1000):
        drawn[train.style_reference(2)] += 1
    assert drawn.keys() == {0, 1, 3, 4, 5}
    assert all(150 < count < 250 for count in drawn.values())  # 200 expected, standard deviation 13


def test_a_flipped_picture_has_a_flipped_reference_so_that_the_lamp_is_on_the_same_side_in_both():
    train = RenderedTrain(ROOT, reference=True)
    image, graph, reference = RandomFlipDataset(train, 1.0)[0]
    plain_image, plain_graph, plain_reference = train[0]
    assert torch.equal(image, plain_image.flip(-1)) and torch.equal(reference, plain_reference.flip(-1))
    swapped = {"left of": "right of", "right of": "left of"}
    assert graph.triples == tuple((s, swapped.get(p, p), o) for s, p, o in plain_graph.triples)


# Latent cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tiny_model()


@pytest.fixture(scope="module")
def cache(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("cache")
    write_cache(RenderedTrain(ROOT, image_size=32), folder / "train", *encoders_of(model), shard_size=2)
    return folder


def test_a_cache_gives_the_same_latents_graphs_and_styles_of_references(cache, model):
    train = RenderedTrain(ROOT, image_size=32, reference=True)
    cached = CachedDataset(train, cache / "train")
    for index in range(3):
        image, graph, reference = train[index]
        latents, same_graph = cached[index]
        assert graph == same_graph
        torch.testing.assert_close(
            latents.style.float(), model.global_stage_model(reference[None])[0], atol=2e-3, rtol=0
        )
        flipped = cached.flipped_image(index).style.float()
        expected = model.global_stage_model(reference.flip(-1)[None])[0]
        torch.testing.assert_close(flipped, expected, atol=2e-3, rtol=0)


def test_without_references_the_style_is_the_pictures_own(cache, model):
    train = RenderedTrain(ROOT, image_size=32)
    style = CachedDataset(train, cache / "train")[0][0].style.float()
    torch.testing.assert_close(style, model.global_stage_model(train[0][0][None])[0], atol=2e-3, rtol=0)


def test_training_on_a_cache_needs_no_picture(cache, copied):
    for picture in copied.glob("*/*.webp"):
        picture.unlink()
    params = {"root": str(copied), "image_size": 32, "reference": True}
    module = DataModuleFromConfig(
        3, {"target": "ldm.data.rendered.RenderedTrain", "params": params}, num_workers=0, cache=str(cache), flip=0.5
    )
    module.setup()
    (batch,) = module.train_dataloader()
    assert batch.latents.z.shape == (3, 4, 8, 8) and batch.image is None


def test_a_cache_without_one_of_the_pictures_is_stale(cache):
    with pytest.raises(CacheError, match="000362"):
        CachedDataset(RenderedTrain(ROOT, image_size=32, held_out=0), cache / "train")


# Checks and errors ----------------------------------------------------------------------------------------------------


def test_the_data_sets_have_the_complete_interface_and_are_trusted():
    for cls in (RenderedTrain, RenderedValidation):
        dataset = pickle.loads(pickle.dumps(cls(ROOT)))
        assert isinstance(dataset, SceneGraphDataset) and isinstance(dataset, SeededDataset)
        assert isinstance(dataset, HasStyleReferences)
        read_untrusted({"data": {"params": {"train": {"target": f"ldm.data.rendered.{cls.__name__}"}}}}, "a file")


def test_the_summary_counts_things_triples_and_styles():
    graphs = [RenderedTrain(ROOT).complete_graph(index) for index in range(3)]
    things, triples = (sum(len(getattr(graph, name)) for graph in graphs) for name in ("objects", "triples"))
    assert things == 2 + 2 + 3
    assert RenderedTrain(ROOT).summary() == f"{things} objects, {triples} relations, 2 styles"


def test_a_missing_or_broken_picture_is_reported_by_name(copied):
    assert find_problems(RenderedTrain(copied)) == []
    (copied / "shard-00001/000521.webp").unlink()
    (copied / "shard-00001/000775.webp").write_bytes(b"RIFF")
    missing, broken = find_problems(RenderedTrain(copied))
    assert "000521.webp: there is no such file" in missing and "000775.webp: broken" in broken
    with pytest.raises(ImageError, match=r"000521\.webp: there is no such file"):
        RenderedTrain(copied)[1]


def test_a_missing_folder_and_one_without_complete_shard_are_errors_that_name_the_command(copied):
    with pytest.raises(RenderedError, match=r"nowhere is not a folder.*render_scenes\.py"):
        RenderedTrain(copied / "nowhere")
    (copied / INDEX).unlink()
    with pytest.raises(RenderedError, match="1 complete shard, and held_out is 1"):
        RenderedTrain(copied)
    (copied / "shard-00000/scenes.jsonl").unlink()
    with pytest.raises(RenderedError, match="no complete shard"):
        RenderedValidation(copied)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda record: record.pop("scene"), "KeyError: 'scene'"),
        (lambda record: record["scene"]["things"][0].update(kind="unicorn"), "unknown kind"),
        (lambda record: record["scene"]["things"][0].update(colour="plaid"), "unknown kind, size, colour"),
        (lambda record: record["scene"]["things"][0].update(wings=2), "wings"),
        (lambda record: record["scene"]["things"][1].update(support=7), "relation"),
        (lambda record: record["scene"]["things"][0].update(x=float("nan")), "2 numbers"),
        (lambda record: record["scene"].update(things=[]), "without things"),
        (lambda record: record["scene"]["style"].update(floor=["oak"]), "without things or style"),
        (lambda record: record["boxes"].pop(), "1 values for 2 things"),
        (lambda record: record["boxes"][0].pop(), "4 numbers"),
        (lambda record: record["boxes"].__setitem__(0, [0.5, 0.5, 0.2, 0.6]), "a box that is reversed"),
        (lambda record: record.update(file="../../etc/passwd"), "the name of a picture"),
        (lambda record: record.update(edit="move"), "an edit is move"),
        (lambda record: record["scene"]["camera"].update(target=record["scene"]["camera"]["location"]), "camera"),
    ],
)
def test_a_damaged_line_is_one_sentence_with_its_number(copied, change, reason):
    records = lines(copied)
    change(records[1])
    write_lines(copied, records)
    with pytest.raises(RenderedError, match=rf"scenes\.jsonl: line 2 is damaged \(.*{reason}") as error:
        RenderedTrain(copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100000])
def test_a_line_that_is_no_record_is_one_sentence(copied, line):
    (copied / INDEX).write_bytes(line + b"\n")
    with pytest.raises(RenderedError, match=r"line 1 is damaged"):
        RenderedTrain(copied)


@pytest.mark.parametrize(
    "option, value", [("image_size", 0), ("max_samples", -1), ("held_out", 0.5), ("boxes", "some")]
)
def test_an_impossible_option_is_an_error_that_names_it(option, value):
    with pytest.raises(ConfigError, match=f"RenderedTrain: {option} is {value!r}"):
        RenderedTrain(ROOT, **{option: value})
