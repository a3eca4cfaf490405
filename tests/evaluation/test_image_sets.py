import json

import pytest
import torch
from PIL import Image

from ldm.data.demo import DemoValidation
from ldm.evaluation.image_sets import Folder, ImageSetError, Split, match, of_one_graph
from ldm.util.images import to_tensor

DEMO = """
data:
  target: ldm.data.datamodule.DataModuleFromConfig
  params:
    batch_size: 2
    test: {target: ldm.data.demo.DemoValidation, params: {size: 5}}
"""


def paint(path, colour=(10, 20, 30), size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


def index(folder, **graphs):
    """index(folder, a=3): a.png shows graph 3."""
    for name in graphs:
        paint(folder / f"{name}.png")
    lines = [json.dumps({"file": f"{name}.png", "graph_index": graph, "seed": 1}) for name, graph in graphs.items()]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n")
    return Folder(folder, 32)


def complaint(call) -> str:
    with pytest.raises(ImageSetError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_image_of_any_mode_and_size_becomes_rgb_bytes_of_the_size_asked_for(tmp_path):
    Image.new("L", (50, 20), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear, grey = Folder(tmp_path, 32)
    assert clear.dtype == grey.dtype == torch.uint8
    assert clear.shape == grey.shape == (3, 32, 32)
    assert (clear == 255).all() and (grey == 77).all()


def test_images_come_in_the_order_of_their_names_the_first_n_of_them(tmp_path):
    for name in "cab":
        paint(tmp_path / f"{name}.png")
    assert [file.name for file in Folder(tmp_path, 32, n=2).files] == ["a.png", "b.png"]


def test_files_that_are_hidden_or_no_images_are_passed_over(tmp_path):
    for name in ("a.png", ".b.png", ".cache/c.png"):
        paint(tmp_path / name)
    (tmp_path / "report.json").write_text("{}")
    assert [file.name for file in Folder(tmp_path, 32).files] == ["a.png"]


def test_where_there_is_an_index_only_its_files_count_and_it_says_whose_they_are(tmp_path):
    paint(tmp_path / "drawing.png")
    samples = index(tmp_path, b=4, a=7)
    assert [file.name for file in samples.files] == ["a.png", "b.png"]
    assert samples.graphs == [7, 4]


def test_a_folder_that_is_still_being_sampled_into_is_not_measured(tmp_path):
    for name in ("images/000000_00.png", "graphs/000000.png"):
        paint(tmp_path / name)
    assert "run sample.py again" in complaint(lambda: Folder(tmp_path, 32))


def test_without_an_index_samples_of_one_graph_lie_in_one_subfolder(tmp_path):
    for name in ("top", "x/1", "x/2", "x/3", "y/1", "y/2", "z/1"):
        paint(tmp_path / f"{name}.png")
    samples = Folder(tmp_path, 32)
    pairs = [[(str(samples.files[i]), str(samples.files[j])) for i, j in graph] for graph in of_one_graph(samples)]
    assert pairs == [
        [("x/1.png", "x/2.png"), ("x/1.png", "x/3.png"), ("x/2.png", "x/3.png")],
        [("y/1.png", "y/2.png")],
    ]


def test_a_split_gives_the_very_pixels_of_its_dataset_at_the_size_asked_for(tmp_path):
    (tmp_path / "demo.yaml").write_text(DEMO)
    split = Split(tmp_path / "demo.yaml", "test", 96)
    assert len(split) == 5
    expected = DemoValidation(5, image_size=96)[3][0]
    pixels = split[3]
    assert pixels.dtype == torch.uint8
    assert torch.equal(to_tensor(Image.fromarray(pixels.permute(1, 2, 0).numpy())), expected)


def test_files_are_matched_by_name_whatever_their_ending_and_order(tmp_path):
    for name in ("s/b.png", "s/sub/a.png", "r/sub/a.jpg", "r/0.png", "r/b.bmp"):
        paint(tmp_path / name)
    samples, reference = Folder(tmp_path / "s", 32), Folder(tmp_path / "r", 32)
    partners = [(samples.files[i].stem, reference.files[j].name) for i, j in match(samples, reference)]
    assert partners == [("b", "b.bmp"), ("a", "a.jpg")]


def test_a_sample_is_matched_with_the_image_of_its_graph_in_a_split(tmp_path):
    (tmp_path / "demo.yaml").write_text(DEMO)
    assert match(index(tmp_path, a=4, b=0, c=4), Split(tmp_path / "demo.yaml", "test", 32)) == [(0, 4), (1, 0), (2, 4)]


def test_sets_that_cannot_be_read_or_do_not_belong_together_are_said_in_a_sentence(tmp_path):
    (tmp_path / "demo.yaml").write_text(DEMO)
    (tmp_path / "empty").mkdir()
    assert "no such folder" in complaint(lambda: Folder(tmp_path / "none", 32))
    assert "no image" in complaint(lambda: Folder(tmp_path / "empty", 32))
    assert "none.yaml" in complaint(lambda: Split(tmp_path / "none.yaml", "test", 32))
    (tmp_path / "broken.yaml").write_text("data: {params: [}")
    assert "cannot be read" in complaint(lambda: Split(tmp_path / "broken.yaml", "test", 32))
    assert "its splits are test" in complaint(lambda: Split(tmp_path / "demo.yaml", "train", 32))

    samples = index(tmp_path / "s", a=1, b=5)
    split = Split(tmp_path / "demo.yaml", "test", 32)
    assert "1 of 2 samples, b.png the first" in complaint(lambda: match(samples, split))
    paint(tmp_path / "r/a.png")
    assert "1 of 2 samples, b.png the first" in complaint(lambda: match(samples, Folder(tmp_path / "r", 32)))
    assert "index.jsonl" in complaint(lambda: match(Folder(tmp_path / "r", 32), split))
    paint(tmp_path / "r/a.bmp")
    assert "ending alone" in complaint(lambda: match(samples, Folder(tmp_path / "r", 32)))


def test_an_index_that_is_broken_or_ahead_of_its_files_is_said(tmp_path):
    index(tmp_path, a=1, b=2)
    (tmp_path / "b.png").unlink()
    assert "1 of its 2 files are not there, b.png" in complaint(lambda: Folder(tmp_path, 32))
    (tmp_path / "index.jsonl").write_text('{"file": "a.png", "graph_index": 1}\n{"file": "a.p')
    assert "line 2" in complaint(lambda: Folder(tmp_path, 32))
