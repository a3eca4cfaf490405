import math

import pytest

from ldm.data.demo import DemoValidation
from ldm.evaluation import sample_benchmark
from ldm.evaluation.benchmark import Benchmark
from ldm.evaluation.renaming import Renaming
from ldm.evaluation.task_sources import DrawnTasks
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import apply_layout
from ldm.synthetic.shapes import VOCAB
from ldm.synthetic.worlds import WORLDS
from ldm.util.errors import UserError

INDEX = 7000


@pytest.mark.parametrize("boxes, reference", [("all", "same"), ("none", "other"), ("part", "none")])
def test_a_sample_is_compared_with_its_graph_and_its_reference(monkeypatch, boxes, reference):
    """The true image in place of a sample shows all of its graph, in the style of its own scene."""
    index = INDEX + 1
    truth = DemoValidation(index + 1).picture(index)
    monkeypatch.setattr(sample_benchmark, "sample_images", lambda *arguments: [truth])
    row, image = sample_benchmark.measure_sample(
        None, DrawnTasks("shapes"), boxes, reference, index, SampleOptions(), 0
    )
    assert row["success"] and row["objects"] == row["of_objects"] and row["triples"] == row["of_triples"]
    assert image is truth
    if reference == "same":
        assert row["style"] and row["colour"] == 0 and row["towards_colour"] == pytest.approx(1)
        assert not row["wrong_style"] or row["wrong_colour"] <= 30
    elif reference == "none":
        assert "style" not in row
    else:
        assert row["colour"] > 0


def test_layout_search_is_used_where_the_job_says_so_and_the_given_graph_is_the_target(monkeypatch):
    """Samples are replaced by images that are drawn with the boxes of layout search."""
    layouts = []
    background = DemoValidation(INDEX + 1).scene(INDEX)[1]

    def draw(model, graphs, seeds, options, style):
        layouts.append(options.layout)
        graph, _ = apply_layout(graphs[0], seeds[0], options)
        return [WORLDS["shapes"].render(graph, background)]

    monkeypatch.setattr(sample_benchmark, "load_model", lambda *arguments: None)
    monkeypatch.setattr(sample_benchmark, "sample_images", draw)
    measure = sample_benchmark.prepare(DrawnTasks("shapes"), None, None, "cpu", SampleOptions(), 0)
    for job in (("none", "search", "none", INDEX), ("all", "none", "none", INDEX)):
        assert measure(job)[0]["success"]
    assert layouts == ["search", "none"]


WORDS = {
    "object": {"circle": ["zorp"], "square": ["blip"], "triangle": ["trigon"]},
    "attribute": {"red": ["ruby"]},
}


class OpenModel:
    """Keeps the graphs that its open words are given."""

    vocab = VOCAB

    def __init__(self):
        self.opened: list = []

    def open_vocabulary(self, graphs):
        self.opened += graphs


def test_words_to_embed_reach_the_model_as_they_are_and_the_image_is_judged_by_the_original_graph(monkeypatch):
    """The true image stands in for the sample: it shows the original graph, whose names no renamed graph has."""
    source, renaming, model = DrawnTasks("shapes"), Renaming(WORDS, embeds=True), OpenModel()
    asked = []

    def sample(model, graphs, seeds, options, style):
        asked.extend(graphs)
        return [source.picture(INDEX)]

    monkeypatch.setattr(sample_benchmark, "load_model", lambda *arguments: model)
    monkeypatch.setattr(sample_benchmark, "sample_images", sample)
    graphs = [renaming.rename(source.graph(INDEX), INDEX)]
    measure = sample_benchmark.prepare(source, None, None, "cpu", SampleOptions(), 0, renaming, graphs)
    assert measure(("all", "none", "none", INDEX))[0]["success"]
    assert asked == model.opened == graphs and set(asked[0].objects) <= {"zorp", "blip", "trigon"}


@pytest.mark.parametrize(
    ("layouts", "sentence"),
    [(["search"], "--layout search"), (["none"], "this model's graph encoder has no open words")],
)
def test_what_cannot_embed_words_says_so(tmp_path, layouts, sentence):
    benchmark = Benchmark("scenes", count=1, checkpoint="data/flat/adapters.safetensors", outdir=str(tmp_path))
    renaming = Renaming(WORDS, embeds=True)
    with pytest.raises(UserError, match=sentence):
        sample_benchmark.run(benchmark, SampleOptions(), 0, ["all"], layouts, ["none"], renaming)


def test_graphs_with_all_boxes_are_sampled_without_layout_search():
    assert sample_benchmark.list_kinds(["all", "none"], ["none", "search"], ["other"]) == [
        ("autoencoder", "none", "same"),
        ("all", "none", "other"),
        ("none", "none", "other"),
        ("none", "search", "other"),
    ]


def test_the_reconstruction_by_a_lossless_autoencoder_succeeds(monkeypatch):
    monkeypatch.setattr(sample_benchmark, "reconstruct", lambda model, picture: picture)
    row, _ = sample_benchmark.measure_reconstruction(None, DrawnTasks("shapes"), INDEX)
    assert row["success"] and row["style"] and row["psnr"] == math.inf


def test_a_summary_has_shares_means_and_medians():
    row = {"success": True, "objects": 2, "of_objects": 2, "triples": 0, "of_triples": 0, "style": True}
    rows = [row | {"towards_colour": value} for value in (0.0, 1.0, 5.0)]
    rows[0] |= {"success": False, "objects": 1, "style": False}
    (summary,) = sample_benchmark.summarise([("all", "none", "same", i) for i in range(3)], rows, ["colour"])
    assert (summary["boxes"], summary["layout"], summary["reference"], summary["scenes"]) == ("all", "none", "same", 3)
    assert summary["success"] == summary["all_objects"] == summary["style"] == pytest.approx(2 / 3)
    assert summary["objects"] == pytest.approx(5 / 6) and summary["triples"] is None
    assert summary["towards_colour"] == 1 and summary["colour"] is None
