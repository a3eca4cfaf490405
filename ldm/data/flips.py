"""Mirror images, whose graphs are mirrored too: boxes change sides, and what was left of something is right of it."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from torch.utils.data import Dataset

from ldm.data.wrapping import Wrapping
from ldm.graph.scene_graph import SceneGraph, Vocab

OTHER_SIDE = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
SIDES = re.compile(rf"\b({'|'.join(OTHER_SIDE)})\b")


class Flipping(Wrapping):
    """The samples of `dataset`, a `share` of them mirrored, whose draws depend on (seed, epoch, index) alone.

    An image whose graph cannot be mirrored in the vocabulary's words stays as it is. A dataset that has mirror images
    of its own gives them by `mirrored_image(index)`.
    """

    def __init__(self, dataset: Dataset, share: float, seed: int = 0):
        super().__init__(dataset)
        self.share, self.seed = share, seed

    def __getitem__(self, index: int) -> tuple:
        image, graph, *reference = self.dataset[index]
        drawn = random.Random(f"flip/{self.seed}/{self.epoch}/{index}").random() < self.share
        if not (drawn and (mirror := mirrored(graph, self.vocab))):
            return image, graph, *reference
        if hasattr(self.dataset, "mirrored_image"):
            return self.dataset.mirrored_image(index), mirror
        return image.flip(-1), mirror, *(other.flip(-1) for other in reference)


def mirrored(graph: SceneGraph, vocab: Vocab) -> SceneGraph | None:
    """The graph of the mirror image; None where the vocabulary lacks a word for the other side."""
    objects, predicates, attributes = vocab.ids
    mirror = replace(
        graph,
        objects=tuple(_other_side(name) for name in graph.objects),
        boxes=tuple(None if box is None else (1 - box[2], box[1], 1 - box[0], box[3]) for box in graph.boxes),
        attributes=tuple(tuple(_other_side(name) for name in names) for names in graph.attributes),
        triples=tuple((s, _other_side(name), o) for s, name, o in graph.triples),
    )
    known = (
        all(name in objects for name in mirror.objects)
        and all(name in predicates for _, name, _ in mirror.triples)
        and all(name in attributes for names in mirror.attributes for name in names)
    )
    return mirror if known else None


def _other_side(name: str) -> str:
    return SIDES.sub(lambda found: OTHER_SIDE[found[0]], name)
