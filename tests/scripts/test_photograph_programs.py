"""The programs that prepare photographs and train their classifier, on small synthetic folders."""

import json
import sys

import pytest
from paths import ROOT

from scripts import prepare_photographs, train_crop_classifier

sys.path += [str(ROOT / "tests/data/fod"), str(ROOT / "tests/evaluation/photographs")]
from fod_files import write_fod
from photograph_files import write_photographs


def test_preparing_says_what_there_is_and_resumes(tmp_path, capsys):
    arguments = ["--fod", str(write_fod(tmp_path / "fod", 3)), "--out", str(tmp_path / "out"), "--per-clip", "3"]
    assert prepare_photographs.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "18 frames of 6 clips"
    assert [line.split(" real")[0] for line in lines[1:3]] == ["train: 10", "val: 10"]  # 9, and one beside its edits
    assert all("mix; 4 edits" in line for line in lines[1:3])
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()}
    assert prepare_photographs.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images").iterdir()} == stamps


def test_a_folder_without_annotations_is_an_error_of_one_sentence(tmp_path, capsys):
    assert prepare_photographs.main(["--fod", str(tmp_path), "--out", str(tmp_path / "out")]) != 0
    assert "has no Annotations/*.xml; name the folder" in capsys.readouterr().err


def test_training_writes_the_classifier_and_its_confusion(tmp_path, capsys):
    for split in ("train", "val"):
        write_photographs(tmp_path, split, real=6)
    arguments = ["--data", str(tmp_path), "--epochs", "1"]
    assert train_crop_classifier.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "epoch 1 of 1: loss" in printed and "held-out crops" in printed and "% of 2" in printed
    weights = tmp_path / "weights"
    report = json.loads((weights / "crop_classifier.json").read_text())
    assert report["classes"] == ["Bolt", "Hammer", "Rock", "nothing"] and sum(map(sum, report["counts"])) > 7
    assert {path.name for path in weights.iterdir()} == {"crop_classifier.json", "crop_classifier.safetensors"}
    assert train_crop_classifier.main([*arguments, "--check-only"]) == 0
    assert capsys.readouterr().out.splitlines() == printed.splitlines()[2:]


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_checking_without_a_classifier_is_an_error_of_one_sentence(tmp_path, capsys, content):
    write_photographs(tmp_path)
    if content:
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights/crop_classifier.safetensors").write_bytes(content)
    assert train_crop_classifier.main(["--data", str(tmp_path), "--check-only"]) != 0
    assert "holds no classifier of crops" in capsys.readouterr().err
