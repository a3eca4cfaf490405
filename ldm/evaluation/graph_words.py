"""How well a name was learned by a graph encoder, judged by the exact checker of a drawn world.

Held-out scenes that contain the thing are sampled three times from the same noise: asked for by the learned word, by the names and
attributes that the vocabulary had before, and by the thing's bare name, from which the word may have started. Scenes without the thing
are sampled with and without the word in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from ldm import plots
from ldm.data.demo import DemoValidation
from ldm.evaluation.report import Column, percentage, save_picture, success_share, summary_table, write_report
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.sampling.options import SampleOptions
from ldm.sampling.sample import derive_seed, sample_images
from ldm.synthetic.checker import Verdict, check
from ldm.synthetic.things import Thing
from ldm.synthetic.worlds import find_world
from ldm.util.errors import UserError
from ldm.util.files import atomic_write

ASKED = ("word", "description", "bare name")  # how the thing is asked for
COLUMNS = (
    Column("words", "words"),
    Column("asked by", "asked"),
    Column("pictures as before", "same"),
    Column("scenes", "scenes", "d"),
    percentage("the thing is right % (95 %)", "thing", "thing_95"),
    percentage("other objects right %", "others"),
    percentage("whole scene right %", "success"),
)
MEASURES = {
    "thing": "share of scenes in which the thing is recognised at its box, with all that the word means. thing_95 is Wilson's 95 % interval",
    "others": "share of the other objects that are recognised with their attributes and boxes",
    "success": "the image shows all of the graph and nothing else",
    "same": "pictures that are equal to those of the model without the word, in every pixel",
}
SEEN = 6  # scenes on the sheet of pictures

LoadModel = Callable[[Sequence[str]], LatentDiffusion]  # of files of words


class GraphWordBenchmark:
    """Scenes with and without a thing.

    Args:
        means: what the word means, such as "small red striped triangle".
        scenes: name of a world that is drawn.
        count: number of scenes of either kind.
        first: number of the first held-out scene that is looked at.
        boxes: which objects have a box in the graph: all, none or part.
        seed: of the noise.
        options: of sampling.
    """

    def __init__(
        self,
        means: str,
        scenes: str,
        count: int,
        first: int = 0,
        boxes: str = "all",
        seed: int = 0,
        options: SampleOptions = SampleOptions(),
    ):
        self.scenes, self.seed, self.options = scenes, seed, options
        self.thing = Thing.of(means, find_world(scenes))
        self.data = DemoValidation(2**31, scenes=scenes, boxes=boxes)
        self.with_thing = list(islice(self._numbers(first, 1), count))
        self.without = list(islice(self._numbers(first, 0), count))
        self.samples: dict[tuple[str, str], list[Image.Image]] = {}

    def run(self, load: LoadModel, files: Sequence[str]) -> list[dict]:
        """Measures the model without words, and with each of the files alone.

        Raises:
            UserError: a file does not have exactly one object's name.
        """
        plain = load([])
        rows = [self._row("none", asked, self._sample(plain, asked)) for asked in ASKED[1:]]
        before = self._sample_without(plain)
        rows.append(self._row_without("none", before, before))
        for file in files:
            model = load([file])
            rows.append(self._row(file, ASKED[0], self._sample(model, ASKED[0], _only_word(plain, model, file)), file))
            rows.append(self._row_without(file, self._sample_without(model), before))
        return rows

    def sheet(self) -> Image.Image:
        """The first scenes as they are, and as they were sampled."""
        panels = []
        for place, number in enumerate(self.with_thing[:SEEN]):
            shown = [("true image", self.data.picture(number))]
            names = [f"{asked} {n}" if asked == ASKED[0] else asked for n, (_, asked) in enumerate(self.samples, 1)]
            shown += [(name, images[place]) for name, images in zip(names, self.samples.values())]
            panels.append(plots.panel(shown, height=128))
        return plots.grid(panels, columns=1)

    def _numbers(self, first: int, things: int) -> Iterator[int]:
        number = first
        while True:
            if len(self.thing.found_in(self.data.scene(number)[0])) == things:
                yield number
            number += 1

    def _sample(self, model: LatentDiffusion, asked: str, word: str = "") -> list[tuple[SceneGraph, Image.Image]]:
        made = []
        for number in self.with_thing:
            graph = self.data[number][1]
            name = {"word": word, "bare name": self.thing.name}.get(asked)
            made.append((graph, self._image(model, number, graph if name is None else self.thing.called(name, graph))))
        return made

    def _sample_without(self, model: LatentDiffusion) -> list[tuple[SceneGraph, Image.Image]]:
        graphs = {number: self.data[number][1] for number in self.without}
        return [(graph, self._image(model, number, graph)) for number, graph in graphs.items()]

    def _image(self, model: LatentDiffusion, number: int, graph: SceneGraph) -> Image.Image:
        return sample_images(model, [graph], [derive_seed(self.seed, number, 0)], self.options)[0]

    def _row(self, file: str, asked: str, made: list[tuple[SceneGraph, Image.Image]], name: str = "none") -> dict:
        self.samples[name, asked] = [image for _, image in made[:SEEN]]
        verdicts = [check(graph, image, self.scenes) for graph, image in made]
        things = [verdict.objects[self.thing.found_in(graph)[0]] for verdict, (graph, _) in zip(verdicts, made)]
        share = success_share([{"success": right} for right in things])
        return {
            "words": file,
            "asked": asked,
            "scenes": len(made),
            "thing": share["success"],
            "thing_95": share["success_95"],
            "others": _others(verdicts, things),
            "success": sum(verdict.passed for verdict in verdicts) / len(verdicts),
            "same": None,
        }

    def _row_without(self, file: str, made: list[tuple[SceneGraph, Image.Image]], before: list) -> dict:
        verdicts = [check(graph, image, self.scenes) for graph, image in made]
        same = sum(ImageChops.difference(image, old).getbbox() is None for (_, image), (_, old) in zip(made, before))
        return {
            "words": file,
            "asked": "scenes without it",
            "scenes": len(made),
            "thing": None,
            "thing_95": None,
            "others": _others(verdicts, []),
            "success": sum(verdict.passed for verdict in verdicts) / len(verdicts),
            "same": f"{same} of {len(made)}",
        }


def _others(verdicts: Sequence[Verdict], things: Sequence[bool]) -> float:
    """The share of the objects besides the things that are right."""
    return (sum(sum(verdict.objects) for verdict in verdicts) - sum(things)) / (
        sum(len(verdict.objects) for verdict in verdicts) - len(things)
    )


def _only_word(plain: LatentDiffusion, model: LatentDiffusion, file: str) -> str:
    """The name that a file gave a model. Raises UserError if it is none or several."""
    assert plain.vocab is not None and model.vocab is not None
    new = sorted(model.vocab.ids[0].keys() - plain.vocab.ids[0].keys())
    if len(new) != 1:
        raise UserError(f"{file}: has {len(new)} names of objects, and one is measured at a time; name a file of one")
    return new[0]


def table(rows: Sequence[dict]) -> str:
    """The rows in Markdown."""
    return summary_table(COLUMNS, [{**row, "words": Path(row["words"]).name} for row in rows])


def write(folder: Path, benchmark: GraphWordBenchmark, rows: Sequence[dict], arguments: Mapping[str, Any]) -> None:
    """Writes report.json, table.md and sheet.png."""
    write_report(folder / "report.json", {"measures": MEASURES, "results": list(rows)}, arguments)
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(table(rows), encoding="utf-8")
    save_picture(benchmark.sheet(), folder / "sheet.png")
