"""The detector of things in rendered scenes: maps that are exactly right decode to the scene, and its file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ldm.synthetic.rendered.decoding import decode, detect, mirror
from ldm.synthetic.rendered.detector import (
    CELLS,
    FIELDS,
    LAYERS,
    SIDE,
    STYLE,
    Detector,
    Maps,
    load_detector,
    save_detector,
    split_fields,
)
from ldm.synthetic.rendered.pictures import read_scenes
from ldm.synthetic.rendered.records import Record
from ldm.synthetic.rendered.scenes import Camera, Scene, Style
from ldm.synthetic.rendered.targets import detector_loss, encode, to_tensors
from ldm.synthetic.rendered.things import Thing
from ldm.synthetic.rendered.vocabulary import TABLE
from ldm.util.errors import UserError

SCENES = Path(__file__).parents[2] / "data" / "rendered"
CAMERA = Camera((0.0, -5.0, 2.0), (0.0, 0.0, 0.5), 46.0, 5.0, 0.9)
STYLE_WORDS = Style("oak", "navy", "studio", "left")
BOWL = Thing("bowl", "large", None, "wood", 0.2, 0.5)
APPLE = Thing("apple", "small", "red", None, 0.2, 0.5, 0.1, support=0, relation="inside")


@pytest.fixture(scope="module")
def records():
    return read_scenes(SCENES)[0]


def record_of(*things: Thing, boxes) -> Record:
    return Record("0.webp", Scene(0, things, CAMERA, STYLE_WORDS), boxes, boxes, (1.0,) * len(things), None)


def described(found) -> list[tuple]:
    """What was found, in an order that does not depend on the detector."""
    kinds = [thing.kind for thing in found.things]
    return sorted(
        (thing.kind, *thing.words, thing.relation or "", "" if thing.support is None else kinds[thing.support])
        for thing in found.things
    )


def described_truth(record: Record) -> list[tuple]:
    things = record.scene.things
    return sorted(
        (thing.kind, *thing.words, thing.relation or "", "" if thing.support is None else things[thing.support].kind)
        for thing in things
    )


def test_exact_maps_decode_to_the_scene(records):
    for record, found in zip(records, decode(encode(to_tensors(records)))):
        assert described(found) == described_truth(record)
        assert found.style == record.scene.style
        boxes = sorted(thing.box for thing in found.things)
        assert torch.allclose(torch.tensor(boxes), torch.tensor(sorted(record.boxes)), atol=1e-5)


def test_a_thing_and_the_bowl_around_its_centre_are_two_things():
    record = record_of(BOWL, APPLE, boxes=((0.3, 0.4, 0.6, 0.6), (0.4, 0.45, 0.5, 0.55)))
    (found,) = decode(encode(to_tensors([record])))
    assert described(found) == [("apple", "small", "red", "inside", "bowl"), ("bowl", "large", "wood", "", "")]


def test_a_thing_in_no_bowl_stands_on_the_floor():
    far = BOWL._replace(x=-1.2)
    record = record_of(far, APPLE, boxes=((0.1, 0.4, 0.3, 0.6), (0.4, 0.45, 0.5, 0.55)))
    (found,) = decode(encode(to_tensors([record])))
    assert [(thing.kind, thing.relation, thing.support) for thing in found.things] == [
        ("bowl", None, None),
        ("apple", None, None),
    ]


def test_two_peaks_with_one_box_and_kind_are_one_thing():
    record = record_of(
        BOWL, APPLE._replace(support=None, relation=None), boxes=((0.1, 0.4, 0.3, 0.6), (0.4, 0.45, 0.5, 0.55))
    )
    scenes = to_tensors([record])
    maps, twin = encode(scenes), encode(scenes._replace(layers=torch.where(scenes.layers == 0, 1, -1)))
    maps.things[:, 1] = twin.things[:, 1]  # the same things with a support
    assert [thing.kind for thing in decode(maps)[0].things] == ["bowl", "apple"]


def test_the_words_of_a_thing_are_those_that_its_kind_can_have():
    record = record_of(APPLE._replace(support=None, relation=None), boxes=((0.4, 0.45, 0.5, 0.55),))
    maps = encode(to_tensors([record]))
    split_fields(maps.things, 2)["material"][:, :, 3] += 3  # a little metal, which no apple is made of
    assert described(decode(maps)[0]) == [("apple", "small", "red", "", "")]


def test_mirrored_maps_are_the_maps_of_mirrored_scenes(records):
    scenes = to_tensors(records)
    mirrored = scenes.mirrored(torch.ones(len(records), dtype=torch.bool))
    for a, b, record in zip(decode(mirror(encode(scenes))), decode(encode(mirrored)), records):
        assert described(a) == described(b) == described_truth(record)
        assert a.style == b.style and a.style.side != record.scene.style.side
        for one, other in zip(a.things, b.things):
            assert one.box == pytest.approx(other.box, abs=1e-5)
            assert one.position == pytest.approx(other.position, abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(scenes.mirrored(torch.zeros(len(records), dtype=torch.bool)), scenes))


def test_exact_maps_have_less_loss_than_others(records):
    scenes = to_tensors(records)
    exact = encode(scenes, certainty=20.0)
    fields = split_fields(exact.things, 2)  # the cells beside a centre learn the same as the centre
    for name in ("box", "position"):
        fields[name].zero_()
    losses = detector_loss(exact, scenes)
    assert losses["heat"] < 1.0 and all(losses[part] < 1e-6 for part in STYLE)
    other = encode(scenes.select(torch.tensor([1, 2, 3, 0])), certainty=20.0)
    for name, loss in detector_loss(other, scenes).items():
        assert name in ("relation", "side", "box", "position") or loss > losses[name]


def test_every_parameter_learns(records):
    detector = Detector(0.25)
    scenes = to_tensors(records)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # residual branches begin at zero
    sum(detector_loss(detector(torch.rand(len(records), 3, 128, 128)), scenes).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in detector.parameters())


def test_a_picture_and_its_mirror_image_show_the_same():
    torch.manual_seed(0)
    detector, picture = Detector(0.25).eval(), torch.rand(1, 3, 128, 128)
    probabilities, mirrored = (detect(detector, image)[0].probabilities for image in (picture, picture.flip(-1)))
    assert probabilities["floor"] == pytest.approx(mirrored["floor"])
    assert probabilities["side"] == pytest.approx(mirrored["side"][::-1])


class EvenDetector(torch.nn.Module):
    """Says the same of a cell wherever it is and in whichever mirror image: functions of its mean colours."""

    vocabulary = TABLE

    def forward(self, pictures: torch.Tensor) -> Maps:
        red, green, blue = F.avg_pool2d(pictures, SIDE // CELLS)[:, None].unbind(2)  # (B,1,CELLS,CELLS)
        things = red.new_zeros(len(pictures), LAYERS, sum(FIELDS.values()), CELLS, CELLS)
        fields = split_fields(things, 2)
        fields["heat"][:] = 20 * red[:, None] - 10
        fields["kind"][:, :, 3] = 5 * blue
        fields["size"][:, :, 1] = green - 0.5
        fields["box"][:] = torch.stack([-green, -blue, green, blue], 2)
        fields["position"][:, :, 1] = green
        return Maps(things, pictures.mean((2, 3)).new_zeros(len(pictures), sum(map(len, STYLE.values()))))


def test_all_views_of_a_picture_agree_if_the_detector_does_not_depend_on_the_place():
    torch.manual_seed(0)
    pictures = torch.zeros(3, 3, SIDE, SIDE)
    pictures[:, :, 16:-16, 16:-16] = torch.rand(3, 3, 24, 24).repeat_interleave(4, 2).repeat_interleave(4, 3)
    detector = EvenDetector()
    for found, plain in zip(detect(detector, pictures), decode(detector(pictures))):
        assert found.style == plain.style and len(found.things) == len(plain.things) > 2
        for one, other in zip(found.things, plain.things):
            assert (one.kind, one.size, one.relation, one.support) == (
                other.kind,
                other.size,
                other.relation,
                other.support,
            )
            assert (*one.box, *one.position, one.certainty) == pytest.approx(
                (*other.box, *other.position, other.certainty), abs=1e-5
            )


def test_the_weights_are_small_and_come_back_from_their_file(tmp_path):
    detector = Detector().eval()
    assert sum(parameter.numel() for parameter in detector.parameters()) <= 2_000_000
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.copy_(parameter.half())
    path = tmp_path / "checker.safetensors"
    save_detector(detector, path)
    assert path.stat().st_size <= 4_000_000
    picture = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        maps, loaded = detector(picture), load_detector(path).eval()(picture)
    assert maps.things.shape == (1, 2, 38, CELLS, CELLS)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(maps, loaded))


def test_weights_that_are_missing_or_broken_are_an_error_in_one_sentence(tmp_path):
    path = tmp_path / "checker.safetensors"
    with pytest.raises(UserError, match="missing; train them with scripts/train_checker.py"):
        load_detector(path)
    for write in (
        lambda: path.write_bytes(b"no weights"),
        lambda: save_file({"x": torch.zeros(1)}, path, {"width": "0.25"}),
        lambda: save_file({"x": torch.zeros(1)}, path),
    ):
        write()
        with pytest.raises(UserError, match="not the weights of the checker") as error:
            load_detector(path)
        assert "\n" not in str(error.value)
