import json

import pytest
import torch
from image_files import save_image
from PIL import Image

from ldm.data.demo import DemoValidation
from ldm.evaluation.image_sets import Folder, Split, match, pairs_by_graph
from ldm.util.errors import UserError
from ldm.util.images import to_tensor

DEMO = """
data:
  target: ldm.data.datamodule.DataModuleFromConfig
  params:
    batch_size: 2
    test: {target: ldm.data.demo.DemoValidation, params: {size: 5}}
"""


def save_indexed(folder, **graphs):
    """save_indexed(folder, a=3): writes a.png, a sample of graph 3, and the index."""
    for name in graphs:
        save_image(folder / f"{name}.png")
    lines = [json.dumps({"file": f"{name}.png", "graph_index": graph, "seed": 1}) for name, graph in graphs.items()]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n")
    return Folder(folder, 32)


def error_of(function) -> str:
    with pytest.raises(UserError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_of_any_mode_and_size_become_rgb_bytes_of_one_size(tmp_path):
    Image.new("L", (50, 20), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear, grey = Folder(tmp_path, 32)
    assert clear.dtype == grey.dtype == torch.uint8
    assert clear.shape == grey.shape == (3, 32, 32)
    assert (clear == 255).all() and (grey == 77).all()


def test_a_folder_has_the_first_n_images_in_the_order_of_their_names(tmp_path):
    for name in "cab":
        save_image(tmp_path / f"{name}.png")
    assert [file.name for file in Folder(tmp_path, 32, n=2).files] == ["a.png", "b.png"]


def test_hidden_files_and_files_that_are_no_images_are_ignored(tmp_path):
    for name in ("a.png", ".b.png", ".cache/c.png"):
        save_image(tmp_path / name)
    (tmp_path / "report.json").write_text("{}")
    assert [file.name for file in Folder(tmp_path, 32).files] == ["a.png"]


def test_an_index_lists_the_files_that_count_and_their_graphs(tmp_path):
    save_image(tmp_path / "drawing.png")
    samples = save_indexed(tmp_path, b=4, a=7)
    assert [file.name for file in samples.files] == ["a.png", "b.png"]
    assert samples.graphs == [7, 4]


def test_a_folder_of_unfinished_sampling_is_refused(tmp_path):
    for name in ("images/000000_00.png", "graphs/000000.png"):
        save_image(tmp_path / name)
    assert "sample.py" in error_of(lambda: Folder(tmp_path, 32))


def test_without_an_index_each_subfolder_holds_the_samples_of_one_graph(tmp_path):
    for name in ("top", "x/1", "x/2", "x/3", "y/1", "y/2", "z/1"):
        save_image(tmp_path / f"{name}.png")
    samples = Folder(tmp_path, 32)
    pairs = [[(str(samples.files[i]), str(samples.files[j])) for i, j in graph] for graph in pairs_by_graph(samples)]
    assert pairs == [
        [("x/1.png", "x/2.png"), ("x/1.png", "x/3.png"), ("x/2.png", "x/3.png")],
        [("y/1.png", "y/2.png")],
    ]


def test_a_split_returns_the_pixels_of_its_dataset_at_the_requested_size(tmp_path):
    (tmp_path / "demo.yaml").write_text(DEMO)
    split = Split(tmp_path / "demo.yaml", "test", 96)
    assert len(split) == 5
    expected = DemoValidation(5, image_size=96)[3][0]
    pixels = split[3]
    assert pixels.dtype == torch.uint8
    assert torch.equal(to_tensor(Image.fromarray(pixels.permute(1, 2, 0).numpy())), expected)


def test_files_are_matched_by_name_without_extension(tmp_path):
    for name in ("s/b.png", "s/sub/a.png", "r/sub/a.jpg", "r/0.png", "r/b.bmp"):
        save_image(tmp_path / name)
    samples, reference = Folder(tmp_path / "s", 32), Folder(tmp_path / "r", 32)
    partners = [(samples.files[i].stem, reference.files[j].name) for i, j in match(samples, reference)]
    assert partners == [("b", "b.bmp"), ("a", "a.jpg")]


def test_samples_are_matched_with_the_images_of_their_graphs_in_a_split(tmp_path):
    (tmp_path / "demo.yaml").write_text(DEMO)
    assert match(save_indexed(tmp_path, a=4, b=0, c=4), Split(tmp_path / "demo.yaml", "test", 32)) == [
        (0, 4),
        (1, 0),
        (2, 4),
    ]


def test_sets_that_cannot_be_read_or_do_not_match_are_refused(tmp_path):
    (tmp_path / "demo.yaml").write_text(DEMO)
    (tmp_path / "empty").mkdir()
    assert "no such folder" in error_of(lambda: Folder(tmp_path / "none", 32))
    assert "images" in error_of(lambda: Folder(tmp_path / "empty", 32))
    assert "none.yaml" in error_of(lambda: Split(tmp_path / "none.yaml", "test", 32))
    (tmp_path / "broken.yaml").write_text("data: {params: [}")
    assert "broken.yaml" in error_of(lambda: Split(tmp_path / "broken.yaml", "test", 32))
    assert "test" in error_of(lambda: Split(tmp_path / "demo.yaml", "train", 32))

    samples = save_indexed(tmp_path / "s", a=1, b=5)
    split = Split(tmp_path / "demo.yaml", "test", 32)
    assert "b.png" in error_of(lambda: match(samples, split))
    save_image(tmp_path / "r/a.png")
    assert "b.png" in error_of(lambda: match(samples, Folder(tmp_path / "r", 32)))
    assert "index.jsonl" in error_of(lambda: match(Folder(tmp_path / "r", 32), split))
    save_image(tmp_path / "r/a.bmp")
    assert "extension" in error_of(lambda: match(samples, Folder(tmp_path / "r", 32)))


def test_an_index_that_is_broken_or_lists_missing_files_is_refused(tmp_path):
    save_indexed(tmp_path, a=1, b=2)
    (tmp_path / "b.png").unlink()
    assert "b.png" in error_of(lambda: Folder(tmp_path, 32))
    (tmp_path / "index.jsonl").write_text('{"file": "a.png", "graph_index": 1}\n{"file": "a.p')
    assert "line 2" in error_of(lambda: Folder(tmp_path, 32))


@pytest.mark.parametrize(
    "content",
    [
        b'{"file": "\xff.png", "graph_index": 0}',
        b'{"file": "a.png", "graph_index": Infinity}',
        b"[" * 100_000,
        b'{"file": "%s.png", "graph_index": 0}' % (b"x" * 300),
    ],
)
def test_an_index_that_cannot_be_read_is_one_sentence(tmp_path, content):
    (tmp_path / "index.jsonl").write_bytes(content + b"\n")
    with pytest.raises(UserError, match=r"^[^\n]*index.jsonl[^\n]*$"):
        Folder(tmp_path, 32)
