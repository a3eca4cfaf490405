"""The checker of CLEVR's solids: a detector with other words, trained on scenes in CLEVR's look."""

import json

import pytest
import torch
from clevr_shards import SOLIDS, write_shard
from paths import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm.data.rendered import RenderedTrain
from ldm.synthetic.rendered.decoding import decode, mirror
from ldm.synthetic.rendered.detector import Detector, load_detector, save_detector, split_fields, take_over
from ldm.synthetic.rendered.pictures import find_look, read_scenes
from ldm.synthetic.rendered.records import RenderedError, read_records
from ldm.synthetic.rendered.targets import detector_loss, encode, to_tensors
from ldm.synthetic.rendered.validation import FAULTS, faults_caught, score
from ldm.synthetic.rendered.vocabulary import CLEVR, TABLE, DetectorVocabulary
from ldm.synthetic.rendered.world import ClevrWorld, reading_of
from ldm.util.errors import UserError
from scripts import train_checker


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "clevr" / "shard-00000", SOLIDS, SOLIDS[:2])
    return tmp_path / "clevr"


# Words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [TABLE, CLEVR])
def test_a_vocabulary_is_read_as_it_was_written(words):
    assert DetectorVocabulary.from_json(words.to_json()) == words


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"kinds": 1}'])
def test_what_is_no_vocabulary_is_a_value_error(text):
    with pytest.raises(ValueError, match="no vocabulary"):
        DetectorVocabulary.from_json(text)


def test_a_file_keeps_the_words_of_its_detector_and_one_without_words_is_of_things_on_a_table(tmp_path):
    save_detector(Detector(0.125, CLEVR), tmp_path / "clevr.safetensors")
    assert load_detector(tmp_path / "clevr.safetensors").vocabulary == CLEVR
    save_detector(Detector(0.125), tmp_path / "table.safetensors")
    save_file(load_file(tmp_path / "table.safetensors"), tmp_path / "old.safetensors", {"width": "0.125"})
    assert load_detector(tmp_path / "old.safetensors").vocabulary == TABLE
    with safe_open(ROOT / "data" / "demo" / "checker.safetensors", "pt") as file:
        assert "vocabulary" not in file.metadata()


def test_weights_are_taken_over_by_the_words_of_their_channels():
    torch.manual_seed(0)
    old, new = Detector(0.125), Detector(0.125, CLEVR)
    untouched = new.head[1].bias.detach().clone()
    layers, words = take_over(new, old)
    # 3 kinds, 5 colours and none, 2 materials and none, 2 sizes, 2 relations
    assert words == 3 + 5 + 2 + 2 + 2
    assert layers == len(old.state_dict()) - 4  # the last layers of things and of the style
    assert torch.equal(new.quarter[0][0].weight, old.quarter[0][0].weight)
    theirs, ours = (split_fields(each.head[1].bias.view(2, -1), 1, each.vocabulary) for each in (old, new))
    red, cyan = CLEVR.choices["colour"].index("red"), CLEVR.choices["colour"].index("cyan")
    assert torch.equal(ours["colour"][:, red], theirs["colour"][:, TABLE.choices["colour"].index("red")])
    assert torch.equal(ours["box"], theirs["box"])
    before = split_fields(untouched.view(2, -1), 1, CLEVR)
    assert torch.equal(ours["colour"][:, cyan], before["colour"][:, cyan])


def test_weights_of_another_width_are_not_taken_over():
    with pytest.raises(UserError, match=r"width 0\.25"):
        take_over(Detector(0.125, CLEVR), Detector(0.25))


# Scenes --------------------------------------------------------------------------------------------------------------


def test_scenes_in_clevrs_look_are_read_by_those_who_ask_for_them(folder):
    records = list(read_records(folder / "shard-00000", "clevr"))
    assert [len(record.scene.things) for record in records] == [3, 2] and find_look(folder) == "clevr"
    assert records[0].graph().attributes[2] == ("large", "gray", "rubber")
    for refused in (lambda: read_scenes(folder), lambda: RenderedTrain(folder, held_out=0)):
        with pytest.raises(RenderedError, match=r"ldm\.data\.clevr\.CLEVR"):
            refused()
    with pytest.raises(RenderedError, match="things on a table"):
        read_scenes(ROOT / "tests" / "data" / "rendered", "clevr")


def test_a_folder_of_both_looks_and_a_word_that_clevr_lacks_are_refused_in_one_sentence(folder):
    index = folder / "shard-00000" / "scenes.jsonl"
    index.write_text(index.read_text().replace('"gray"', '"white"'))
    with pytest.raises(RenderedError, match="line 1 is damaged"):
        read_scenes(folder, "clevr")
    (folder / "shard-00001").mkdir()
    (folder / "shard-00001" / "scenes.jsonl").touch()
    with pytest.raises(RenderedError, match="a folder of its own"):
        find_look(folder)


def test_exact_maps_are_read_as_the_scene_and_planted_faults_are_caught(folder):
    records, _ = read_scenes(folder, "clevr")
    scenes = to_tensors(records, CLEVR)
    readings = [reading_of(found) for found in decode(encode(scenes, vocabulary=CLEVR), CLEVR)]
    scores = score(records, readings, "clevr")
    assert all(value == (0 if name in ("box", "position") else 1) or value < 1e-4 for name, value in scores.items())
    assert faults_caught(records, readings, "clevr", CLEVR) == dict.fromkeys(FAULTS, 1.0)


def test_mirrored_maps_are_those_of_mirrored_scenes_whose_light_has_one_side(folder):
    records, _ = read_scenes(folder, "clevr")
    scenes = to_tensors(records, CLEVR)
    mirrored = scenes.mirrored(torch.ones(len(records), dtype=torch.bool), sides=1)
    assert torch.equal(mirrored.style, scenes.style)
    ours = decode(mirror(encode(scenes, vocabulary=CLEVR), CLEVR), CLEVR)
    for one, other in zip(ours, decode(encode(mirrored, vocabulary=CLEVR), CLEVR)):
        assert [thing[:4] for thing in one.things] == [thing[:4] for thing in other.things]
        assert [thing.box for thing in one.things] == [pytest.approx(thing.box, abs=1e-5) for thing in other.things]


def test_a_style_without_choice_costs_nothing(folder):
    scenes = to_tensors(read_scenes(folder, "clevr")[0], CLEVR)
    losses = detector_loss(Detector(0.125, CLEVR)(torch.rand(2, 3, 128, 128)), scenes, CLEVR)
    assert all(losses[part] == 0 for part in CLEVR.parts) and losses["colour"] > 0


# The program and the world -------------------------------------------------------------------------------------------


def test_the_program_trains_on_the_look_that_it_finds_and_reads_pictures_by_their_scenes_file(folder, tmp_path, capsys):
    old, out = tmp_path / "old.safetensors", tmp_path / "clevr.safetensors"
    save_detector(Detector(0.125), old)
    arguments = ["--data", str(folder), "--from", str(old), "--out", str(out), "--steps", "2", "--batch", "1"]
    more = ["--width", "0.125", "--device", "cpu", "--pictures", str(folder)]
    assert train_checker.main([*arguments, *more]) == 0
    printed = capsys.readouterr().out
    assert "the channels of 14 words that both have" in printed and f"2 pictures of {folder}, 5 objects" in printed
    assert load_detector(out).vocabulary == CLEVR
    results = json.loads(out.with_suffix(".json").read_text())
    assert results["held_out"]["pictures"] == 1 and results[f"pictures {folder}"]["objects"] == 5
    assert train_checker.main(["--check-only", "--out", str(out), "--held-out", str(folder), "--device", "cpu"]) == 0


def test_the_state_of_a_training_with_other_words_is_not_resumed(folder, tmp_path, capsys):
    out = tmp_path / "checker.safetensors"
    arguments = ["--out", str(out), "--batch", "1", "--width", "0.125", "--device", "cpu"]
    table = str(ROOT / "tests" / "data" / "rendered")
    assert train_checker.main([*arguments, "--data", table, "--steps", "1"]) == 0
    assert train_checker.main([*arguments, "--data", str(folder), "--steps", "2"]) != 0
    assert "with other words; delete it" in capsys.readouterr().err


def test_the_world_reads_no_picture_without_weights_or_with_those_of_other_words(tmp_path):
    save_detector(Detector(0.125), tmp_path / "table.safetensors")
    for world, sentence in (
        (ClevrWorld(), "--checker: .*of their own"),
        (ClevrWorld(tmp_path / "table.safetensors"), "other things than CLEVR's"),
        (ClevrWorld(tmp_path / "none.safetensors"), "are missing"),
    ):
        with pytest.raises(UserError, match=sentence):
            _ = world.detector
