"""Frames and clips of FOD-A's VOC copy."""

import pytest
from fod_files import write_fod, write_frame

from ldm.data.fod.voc import FODError, join_clips, read_frames

BOX = (100, 90, 160, 150)


def test_frames_have_the_boxes_light_and_weather_of_their_annotations(tmp_path):
    write_frame(tmp_path, 3, [("Bolt", BOX), ("Wire", (10, 20, 40, 60))], light="dark", weather="wet")
    (frame,) = read_frames(tmp_path)
    assert frame.things == (("Bolt", BOX), ("Wire", (10, 20, 40, 60)))
    assert (frame.light, frame.weather, frame.size, frame.path.name) == ("dark", "wet", (300, 300), "000003.jpg")


def test_a_clip_ends_where_things_light_or_weather_change(tmp_path):
    assert [len(clip.frames) for clip in join_clips(read_frames(write_fod(tmp_path, 2)))] == [2] * 6
    frames = [("Bolt",), ("Bolt", "Wire"), ("Wire",), ("Bolt",)]
    for number, names in enumerate(frames):
        write_frame(tmp_path / "b", number, [(name, BOX) for name in names], light="dim" if number < 3 else "dark")
    assert [len(clip.frames) for clip in join_clips(read_frames(tmp_path / "b"))] == [3, 1]


@pytest.mark.parametrize(
    "ground, light",
    [("sand", "bright"), ("plaster", "bright"), ("floor", "bright"), ("concrete", "dim"), ("concrete", "dark")],
)
def test_the_ground_is_known_by_light_and_colour(tmp_path, ground, light):
    write_frame(tmp_path, 0, [("Bolt", BOX)], ground, light)
    (clip,) = join_clips(read_frames(tmp_path))
    assert clip.look == (ground, light, "dry")


@pytest.mark.parametrize("row", ["films/a/000000.PNG,1,2", "films\\a\\000000.PNG,Wet,Dark"])
def test_light_and_weather_may_come_from_the_table(tmp_path, row):
    write_frame(tmp_path, 0, [("Bolt", BOX)], stated=False)
    table = tmp_path / "conditions.csv"
    table.write_text(f"File,Weather,Light\n{row}\n")
    (frame,) = read_frames(tmp_path, table)
    assert (frame.light, frame.weather) == ("dark", "wet")


def test_attributes_of_the_annotation_tool_are_read(tmp_path):
    write_frame(tmp_path, 0, [("Bolt", BOX)], stated=False)
    path = tmp_path / "Annotations/000000.xml"
    attributes = "".join(
        f"<attribute><name>{name}</name><value>{value}</value></attribute>"
        for name, value in (("Light", "Dim"), ("Weather", "Wet"))
    )
    path.write_text(path.read_text().replace("</object>", f"{attributes}</object>"))
    (frame,) = read_frames(tmp_path)
    assert (frame.light, frame.weather) == ("dim", "wet")


def damage(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda root: damage(root / "Annotations/000000.xml", "<light>Dim</light>", ""),
            "light is not given.*--conditions",
        ),
        (lambda root: damage(root / "Annotations/000000.xml", "Dry", "Snow"), "weather is snow, none of dry, wet"),
        (lambda root: damage(root / "Annotations/000000.xml", "</annotation>", ""), "not an annotation of Pascal VOC"),
        (lambda root: damage(root / "Annotations/000000.xml", "<xmax>160</xmax>", ""), "without bndbox/xmax"),
        (lambda root: damage(root / "Annotations/000000.xml", "<xmax>160</xmax>", "<xmax>99</xmax>"), "is empty"),
        (lambda root: (root / "JPEGImages/000000.jpg").unlink(), "picture is missing; unpack"),
        (lambda root: (root / "Annotations/000000.xml").unlink(), "has no Annotations"),
    ],
)
def test_what_is_damaged_or_missing_is_an_error_of_one_sentence(tmp_path, change, message):
    write_frame(tmp_path, 0, [("Bolt", BOX)])
    change(tmp_path)
    with pytest.raises(FODError, match=message) as error:
        read_frames(tmp_path)
    assert "\n" not in str(error.value)


def test_a_broken_table_is_an_error(tmp_path):
    write_frame(tmp_path, 0, [("Bolt", BOX)])
    (tmp_path / "t.csv").write_text("Name,Weather\n0,1\n")
    with pytest.raises(FODError, match="not a table with the columns File, Weather and Light"):
        read_frames(tmp_path, tmp_path / "t.csv")
