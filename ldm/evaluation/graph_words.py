"""How well a name was learned by a graph encoder, judged by the exact checker of a synthetic world.

A word means a thing: an object's name with attributes. Held-out scenes that contain the thing are sampled from the same noise, with graphs that
call it by the learned word; if the vocabulary has the thing's own name, also by name and attributes, and by the name alone, from which the word may
have started. Scenes without the thing are sampled by the model before and after learning. Reconstructions of true pictures by the autoencoder are
an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from ldm import plots
from ldm.data.demo import DemoValidation
from ldm.evaluation.editors import reconstruct
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

ASKED = (
    "word",
    "description",
    "bare name",
)  # what the graphs call the thing: the word, name and attributes, the name alone
WITHOUT = "scenes without it"
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

LoadModel = Callable[[], LatentDiffusion]
Made = list[tuple[SceneGraph, Image.Image]]  # what was asked for, and the picture


class GraphWordBenchmark:
    """Scenes with and without a thing.

    Args:
        means: what the word means, such as "small red striped triangle".
        scenes: name of a world whose scenes are drawn.
        number: of scenes of either kind.
        first: number of the first held-out scene that is looked at.
        boxes: which objects have a box in the graph: all, none or part.
        seed: of the noise.
        options: of sampling.
    """

    def __init__(
        self,
        means: str,
        scenes: str,
        number: int,
        first: int = 0,
        boxes: str = "all",
        seed: int = 0,
        options: SampleOptions = SampleOptions(),
    ):
        self.scenes, self.count, self.first, self.seed, self.options = scenes, number, first, seed, options
        self.thing = Thing.of(means, find_world(scenes))
        self.data = DemoValidation(2**31, scenes=scenes, boxes=boxes)
        self.with_thing: list[int] = []
        self.without: list[int] = []
        self.samples: dict[tuple[str, str], list[Image.Image]] = {}

    def run(self, plain: LatentDiffusion, learned: Mapping[str, LoadModel]) -> list[dict]:
        """Measures the model as it was, and each one that has learned a word.

        Args:
            plain: the model without words.
            learned: the others by name of their file; each is loaded when it is measured.

        Raises:
            UserError: a model has not learned exactly one object's name.
        """
        known = self._choose_scenes(plain)
        self.samples["", "true image"] = [self.data.picture(number) for number in self.with_thing[:SEEN]]
        again = [(self.data[number][1], reconstruct(plain, self.data.picture(number))) for number in self.with_thing]
        rows = [self._row("none", "autoencoder alone", again)]
        if self.thing.name in known:
            names = (None, self.thing.name)
            rows += [self._row("none", asked, self._sample(plain, name)) for asked, name in zip(ASKED[1:], names)]
        before = self._sample_without(plain)
        rows.append(self._row("none", WITHOUT, before, before))
        for file, load in learned.items():
            model = load()
            word = _only_word(known, model, file)
            rows.append(self._row(file, ASKED[0], self._sample(model, None if word == self.thing.name else word)))
            rows.append(self._row(file, WITHOUT, self._sample_without(model), before))
        return rows

    def sheet(self) -> Image.Image:
        """The first scenes as they are, and as they were sampled."""
        shown = {key: images for key, images in self.samples.items() if key[1] != WITHOUT}
        titles = [f"{asked} {n}" if asked == ASKED[0] else asked for n, (_, asked) in enumerate(shown)]
        rows = [list(zip(titles, each)) for each in zip(*shown.values())]
        return plots.grid([plots.panel(row, height=128) for row in rows], columns=1)

    def _choose_scenes(self, plain: LatentDiffusion) -> Collection[str]:
        """Finds scenes in which the thing alone may be unknown to the model; returns the names that it knows."""
        assert plain.vocab is not None
        known = plain.vocab.ids[0]
        for number in count(self.first):
            graph = self.data.scene(number)[0]
            if self.thing.is_alone_in(graph, known):
                self.with_thing.append(number)
            elif known.keys() >= set(graph.objects) and not self.thing.found_in(graph):
                self.without.append(number)
            if min(len(self.with_thing), len(self.without)) >= self.count:
                break
        del self.with_thing[self.count :], self.without[self.count :]
        return known

    def _sample(self, model: LatentDiffusion, name: str | None) -> Made:
        """Samples the scenes with the thing, which is called by a name, or described."""
        made = []
        for number in self.with_thing:
            graph = self.data[number][1]
            made.append((graph, self._image(model, number, graph if name is None else self.thing.called(name, graph))))
        return made

    def _sample_without(self, model: LatentDiffusion) -> Made:
        graphs = {number: self.data[number][1] for number in self.without}
        return [(graph, self._image(model, number, graph)) for number, graph in graphs.items()]

    def _image(self, model: LatentDiffusion, number: int, graph: SceneGraph) -> Image.Image:
        return sample_images(model, [graph], [derive_seed(self.seed, number, 0)], self.options)[0]

    def _row(self, file: str, asked: str, made: Made, before: Made | None = None) -> dict:
        """Judges pictures of graphs; `before` are those of the model without words, if these are to be compared."""
        self.samples[file, asked] = [image for _, image in made[:SEEN]]
        verdicts = [check(graph, image, self.scenes) for graph, image in made]
        found = [index for graph, _ in made for index in self.thing.found_in(graph)]
        things = [verdict.objects[index] for verdict, index in zip(verdicts, found)]
        share = success_share([{"success": right} for right in things]) if things else {}
        pairs = zip(made, before or ())
        same = sum(ImageChops.difference(image, old).getbbox() is None for (_, image), (_, old) in pairs)
        return {
            "words": file,
            "asked": asked,
            "same": None if before is None else f"{same} of {len(made)}",
            "scenes": len(made),
            "thing": share.get("success"),
            "thing_95": share.get("success_95"),
            "others": _others(verdicts, things),
            "success": sum(verdict.passed for verdict in verdicts) / len(verdicts),
        }


def _others(verdicts: Sequence[Verdict], things: Sequence[bool]) -> float:
    """The share of the objects besides the things that are right."""
    return (sum(sum(verdict.objects) for verdict in verdicts) - sum(things)) / (
        sum(len(verdict.objects) for verdict in verdicts) - len(things)
    )


def _only_word(known: Collection[str], model: LatentDiffusion, file: str) -> str:
    """The name that a model has learned. Raises UserError if it is none or several."""
    assert model.vocab is not None
    new = sorted(model.vocab.ids[0].keys() - set(known))
    if len(new) != 1:
        raise UserError(
            f"{file}: has {len(new)} new names of objects, and one is measured; name a file or a run of one"
        )
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
