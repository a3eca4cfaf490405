"""A few pictures with their scene graphs, from which a trained model learns names that its vocabulary lacks."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from ldm.checkpoints import shipped
from ldm.checkpoints.own_files import read_own_vocab
from ldm.data.personalized import find_pictures
from ldm.data.shifts import shift_within
from ldm.data.values import require_count, require_share
from ldm.graph.graph_files import read_graph
from ldm.graph.new_names import NewName, read_new_names, with_new_names
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.util.errors import UserError
from ldm.util.files import read_text
from ldm.util.images import find_image_errors, read_image, resize_square, to_tensor

PLACE = "data.params.train.params"


class AnnotatedPictures(Dataset):
    """Pictures with graphs: beside each NAME.png (or another picture) a NAME.json of a format that `--sg` reads; boxes are optional.

    Args:
        data_root: folder of both.
        image_size: side of the squares that the model reads, in pixels.
        vocabulary: the trained model, whose names the graphs use: a checkpoint of a run, or exported adapters.
        words: the names that the graphs use beside these, a list of {word, kind, init}, as in model.params.words.
        sizes: rows of the graph encoder's tables by kind, if these are more than the vocabulary has names.
        repeats: how often an epoch shows each picture.
        shift: whether pictures whose objects all have boxes are shown at random shifts (`ldm.data.shifts`), so that words are learned apart
            from their places. Pictures of `prior_root` are not shifted.
        prior_root: folder that scripts/sample.py wrote with the trained model, for prior preservation (DreamBooth, Ruiz et al.
            2208.12242): its pictures replace some of the others, so that the model stays as it was.
        prior_share: share of the training pictures that they replace.
        seed: of the choice between them, and of shifts; trainer.py sets it.

    Raises:
        UserError: a file is missing or damaged, a graph has an unknown name, or none uses a word.
    """

    def __init__(
        self,
        data_root: str,
        image_size: int,
        vocabulary: str,
        words: list[dict],
        sizes: dict[str, int] | None = None,
        repeats: int = 100,
        prior_root: str | None = None,
        prior_share: float = 0.5,
        seed: int = 0,
        shift: bool = False,
    ):
        self.root, self.image_size = Path(data_root).expanduser(), require_count(f"{PLACE}.image_size", image_size)
        if not self.root.is_dir():
            self.root = shipped.find_in_checkout(self.root)
        self.repeats = require_count(f"{PLACE}.repeats", repeats)
        new = read_new_names(words, f"{PLACE}.words")
        known = read_own_vocab(shipped.find_in_checkout(vocabulary))
        self.vocab = with_new_names(known, new, f"{PLACE}.words", sizes)
        self.pictures = _pictures(self.root)
        self.graphs = [read_graph(path.with_suffix(".json"), path) for path in self.pictures]
        for path, graph in zip(self.pictures, self.graphs):
            graph.validate(self.vocab, f"{path.with_suffix('.json')}")
        _refuse_unused(new, self.graphs, self.root)
        self.prior = _samples(Path(prior_root).expanduser(), self.vocab) if prior_root else []
        self.prior_share, self.seed, self.epoch = require_share(f"{PLACE}.prior_share", prior_share), seed, 0
        self.shift = shift

    def __len__(self) -> int:
        return len(self.pictures) * self.repeats

    def __getitem__(self, index: int) -> tuple[Tensor, SceneGraph]:  # (3,S,S) in [-1,1]
        number = index % len(self.pictures)
        path, graph = self.pictures[number], self.graphs[number]
        chance = random.Random(f"annotated/{self.seed}/{self.epoch}/{index}")
        if is_prior := bool(self.prior) and chance.random() < self.prior_share:
            path, graph = chance.choice(self.prior)
        image = to_tensor(resize_square(read_image(path, upright=True), self.image_size))
        return shift_within(image, graph, chance) if self.shift and not is_prior else (image, graph)

    def check(self) -> Iterator[str]:
        """Reads all pictures and yields each problem as 'where: what'."""
        yield from find_image_errors([*self.pictures, *(path for path, _ in self.prior)])


def _pictures(root: Path) -> list[Path]:
    """The pictures of a folder. Raises UserError for a folder without any, and for pictures without a graph."""
    found = find_pictures(root)
    for path in found:
        if not path.with_suffix(".json").is_file():
            raise UserError(
                f"{path}: has no scene graph; write it to {path.with_suffix('.json').name} beside the picture"
            )
    return found


def _samples(root: Path, vocab: Vocab) -> list[tuple[Path, SceneGraph]]:
    """Pictures and graphs of a folder of scripts/sample.py. Raises UserError."""
    index = root / "index.jsonl"
    if not index.is_file():
        raise UserError(
            f"{root}: has no index.jsonl; name a folder that scripts/sample.py wrote in data.params.train.params.prior_root"
        )
    found = []
    for number, line in enumerate(read_text(index).splitlines(), 1):
        try:
            record = json.loads(line)
            path, graph = root / record["file"], SceneGraph.from_json(record["graph"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{index}, line {number}: no picture of a graph ({error}); sample the folder again"
            ) from None
        found.append((path, graph.validate(vocab, f"{index}, line {number}")))
    if not found:
        raise UserError(f"{index}: is empty; sample pictures into it with scripts/sample.py")
    return found


def _refuse_unused(new: list[NewName], graphs: list[SceneGraph], root: Path) -> None:
    used: Mapping[str, set[str]] = {
        "object": {name for graph in graphs for name in graph.objects},
        "predicate": {name for graph in graphs for _, name, _ in graph.known_triples},
        "attribute": {name for graph in graphs for names in graph.known_attributes for name in names},
    }
    for name, kind, _ in new:
        if name not in used[kind]:
            raise UserError(
                f"{root}: no graph has the {kind} {name!r}, which is to be learned; write it into the graphs, or remove the word"
            )
