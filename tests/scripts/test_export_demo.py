"""Exported scenes are the data set's, and can be read back by what reads anybody's."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.data.demo import DemoTrain, DemoValidation
from ldm.graph.scene_graph import Vocab, read_graphs

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export_demo.py"
spec = importlib.util.spec_from_file_location("export_demo", SCRIPT)
export_demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(export_demo)


@pytest.mark.parametrize("scenes, side", [("shapes", 64), ("hard", 128)])
def test_what_is_written_is_what_the_data_set_gives(tmp_path, scenes, side):
    assert export_demo.main(["--scenes", scenes, "--n", "9", "--out", str(tmp_path / "out")]) == 0
    dataset = DemoValidation(9, scenes=scenes)
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


def test_options_reach_the_data_set(tmp_path):
    options = ["--split", "train", "--seed", "3", "--boxes", "none", "--image-size", "32", "--n", "2"]
    assert export_demo.main([*options, "--out", str(tmp_path)]) == 0
    dataset = DemoTrain(2, 32, seed=3, boxes="none")
    for index, graph in enumerate(read_graphs(tmp_path / "graphs.json")):
        assert not any(graph.boxes) and graph.objects == dataset[index][1].objects


def test_a_call_that_was_cut_off_goes_on(tmp_path):
    arguments = ["--n", "3", "--out", str(tmp_path)]
    export_demo.main(arguments)
    kept = (tmp_path / "images" / "000001.png").stat().st_mtime_ns
    (tmp_path / "images" / "000002.png").unlink()
    (tmp_path / "graphs.json").unlink()
    assert export_demo.main(arguments) == 0
    assert (tmp_path / "images" / "000002.png").exists() and (tmp_path / "graphs.json").exists()
    assert (tmp_path / "images" / "000001.png").stat().st_mtime_ns == kept
    assert not list(tmp_path.rglob("*.part"))


def test_a_call_that_is_interrupted_says_so_and_goes_on(tmp_path, capsys, monkeypatch):
    arguments, put = ["--n", "3", "--out", str(tmp_path)], export_demo.put

    def stop(path, write):
        if path.name == "000001.png":
            raise KeyboardInterrupt
        put(path, write)

    monkeypatch.setattr(export_demo, "put", stop)
    assert export_demo.main(arguments) == 130
    assert capsys.readouterr().err.endswith("export_demo.py: stopped; the same command goes on\n")
    monkeypatch.setattr(export_demo, "put", put)
    assert export_demo.main(arguments) == 0


@pytest.mark.parametrize("before", ["other scenes", "scenes that other code drew", "something else"])
def test_what_is_there_is_not_overwritten(tmp_path, capsys, monkeypatch, before):
    if before == "other scenes":
        export_demo.main(["--n", "2", "--out", str(tmp_path)])
    elif before == "scenes that other code drew":
        with monkeypatch.context() as then:
            then.setattr("ldm.synthetic.shapes.__file__", __file__)
            export_demo.main(["--n", "3", "--out", str(tmp_path)])
    else:
        (tmp_path / "graphs.json").write_text("mine")
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert export_demo.main(["--n", "3", "--out", str(tmp_path)]) == 2
    assert "holds something else already; name a new folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("option", ["--n", "--image-size"])
def test_a_number_that_is_none_is_refused_in_a_sentence(tmp_path, capsys, option):
    assert export_demo.main([option, "0", "--out", str(tmp_path / "out")]) == 2
    assert f"{option} 0: give a number from 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
