"""Random horizontal flips that mirror the scene graph too: boxes move to the other side, "left of" becomes "right of"."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from ldm.data.protocols import GraphDataset
from ldm.data.wrapping import DatasetWrapper
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab

OPPOSITE_SIDE = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
SIDE_PATTERN = re.compile(rf"\b({'|'.join(OPPOSITE_SIDE)})\b")


@runtime_checkable
class StoresFlippedImages(Protocol):
    """Data set whose images cannot be flipped as arrays, such as latents, and that stores the flipped ones."""

    def flipped_image(self, index: int) -> Any: ...


class RandomFlipDataset(DatasetWrapper):
    """The samples of a data set, some of them mirrored; the choice depends on (seed, epoch, index) only.

    An image is left as it is if the vocabulary lacks a word that its mirrored graph needs.

    Args:
        dataset: samples are (image (3,S,S), SceneGraph, optional style reference (3,S,S)).
        probability: of a flip, from 0 to 1.
        seed: of the random choice.
    """

    def __init__(self, dataset: GraphDataset, probability: float, seed: int = 0):
        super().__init__(dataset)
        self.probability, self.seed = probability, seed
        self._stored = dataset if isinstance(dataset, StoresFlippedImages) else None

    def __getitem__(self, index: int) -> tuple:
        image, graph, *reference = self.dataset[index]
        flip = random.Random(f"flip/{self.seed}/{self.epoch}/{index}").random() < self.probability
        if not (flip and (flipped_graph := mirror_graph(graph, self.vocab))):
            return image, graph, *reference
        if self._stored is not None:
            return self._stored.flipped_image(index), flipped_graph
        return image.flip(-1), flipped_graph, *(each.flip(-1) for each in reference)


def mirror_graph(graph: SceneGraph, vocab: Vocab) -> SceneGraph | None:
    """Returns the graph of the horizontally flipped image, or None if the vocabulary lacks a word that it needs."""
    objects, predicates, attributes = vocab.ids
    flipped = mirror_words(graph)
    in_vocabulary = (
        all(name in objects for name in flipped.objects)
        and all(name in predicates for _, name, _ in flipped.known_triples)
        and all(name in attributes for names in flipped.known_attributes for name in names)
    )
    return flipped if in_vocabulary else None


def mirror_words(graph: SceneGraph) -> SceneGraph:
    """Returns the graph of the horizontally flipped image in words that a vocabulary may lack."""
    return replace(
        graph,
        objects=tuple(swap_sides(name) for name in graph.objects),
        boxes=tuple(None if box is None else (1 - box[2], box[1], 1 - box[0], box[3]) for box in graph.boxes),
        attributes=tuple(names and tuple(swap_sides(name) for name in names) for names in graph.attributes),
        triples=graph.triples and tuple((s, swap_sides(name), o) for s, name, o in graph.triples),
    )


def swap_sides(name: str) -> str:
    """A text about the horizontally flipped image: left and right change places."""
    return SIDE_PATTERN.sub(lambda match: OPPOSITE_SIDE[match[0]], name)
