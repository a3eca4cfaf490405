"""Exported scenes equal those of the data set, and an interrupted export continues."""

import numpy as np
import pytest
from PIL import Image

from ldm.data.demo import DemoTrain, DemoValidation
from ldm.graph.graph_files import read_graphs
from ldm.graph.vocab import Vocab
from ldm.util.files import atomic_write


@pytest.fixture
def export_demo(load_script):
    return load_script("export_demo")


def test_exported_files_equal_the_data_set(export_demo, tmp_path):
    assert export_demo.main(["--n", "9", "--out", str(tmp_path / "out")]) == 0
    dataset, side = DemoValidation(9), 64
    assert Vocab.read(tmp_path / "out" / "vocab.json") == dataset.vocab
    graphs = read_graphs(tmp_path / "out" / "graphs.json")
    assert len(graphs) == 9
    for index, graph in enumerate(graphs):
        graph.validate(dataset.vocab)
        assert (graph.objects, graph.triples) == (dataset[index][1].objects, dataset[index][1].triples)
        with Image.open(tmp_path / "out" / graph.image) as image:
            assert (np.asarray(image) == np.asarray(dataset.picture(index))).all()
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (8 * (side + 4), 2 * (side + 4))
        first = np.asarray(sheet)[2 : side + 2, 2 : side + 2]
        assert (first == np.asarray(dataset.picture(0))).all()


def test_options_reach_the_data_set(export_demo, tmp_path):
    options = ["--split", "train", "--seed", "3", "--boxes", "none", "--image-size", "32", "--n", "2"]
    assert export_demo.main([*options, "--out", str(tmp_path)]) == 0
    dataset = DemoTrain(2, 32, seed=3, boxes="none")
    for index, graph in enumerate(read_graphs(tmp_path / "graphs.json")):
        assert not any(graph.boxes) and graph.objects == dataset[index][1].objects


def test_a_repeated_call_writes_the_missing_files_only(export_demo, tmp_path):
    arguments = ["--n", "3", "--out", str(tmp_path)]
    export_demo.main(arguments)
    written = (tmp_path / "images" / "000001.png").stat().st_mtime_ns
    (tmp_path / "images" / "000002.png").unlink()
    (tmp_path / "graphs.json").unlink()
    assert export_demo.main(arguments) == 0
    assert (tmp_path / "images" / "000002.png").exists() and (tmp_path / "graphs.json").exists()
    assert (tmp_path / "images" / "000001.png").stat().st_mtime_ns == written
    assert not list(tmp_path.rglob("*.part*"))


def test_an_interrupted_call_exits_with_130_and_continues(export_demo, tmp_path, capsys, monkeypatch):
    def interrupt(path):
        if path.name == "000001.png":
            raise KeyboardInterrupt
        return atomic_write(path)

    arguments = ["--n", "3", "--out", str(tmp_path)]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(export_demo, "atomic_write", interrupt)
        assert export_demo.main(arguments) == 130
    assert "continues" in capsys.readouterr().err
    assert not (tmp_path / "graphs.json").exists()
    assert export_demo.main(arguments) == 0 and (tmp_path / "graphs.json").exists()


@pytest.mark.parametrize("content", ["other scenes", "scenes of other code", "another file"])
def test_a_folder_with_other_content_is_not_changed(export_demo, tmp_path, capsys, monkeypatch, content):
    if content == "other scenes":
        export_demo.main(["--n", "2", "--out", str(tmp_path)])
    elif content == "scenes of other code":
        with monkeypatch.context() as other_code:
            other_code.setattr("ldm.data.demo.__file__", __file__)
            export_demo.main(["--n", "3", "--out", str(tmp_path)])
    else:
        (tmp_path / "graphs.json").write_text("mine")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert export_demo.main(["--n", "3", "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("option, value", [("--n", "0"), ("--image-size", "0"), ("--scenes", "shape")])
def test_an_invalid_option_is_named_and_nothing_is_written(export_demo, tmp_path, capsys, option, value):
    try:
        code = export_demo.main([option, value, "--out", str(tmp_path / "out")])
    except SystemExit as error:  # of argparse
        code = error.code
    assert code == 2
    message = capsys.readouterr().err
    assert option.strip("-") in message and value in message
    assert not (tmp_path / "out").exists()
