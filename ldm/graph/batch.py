"""Batches of scene graphs as tensors, in sg2im's layout, with the images that they describe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.util.moving import mover


class GraphSizes(NamedTuple):
    """Numbers that would have to be read from a GPU, for which the CPU would wait until the GPU has computed all before.

    Attributes:
        images: number of images.
        tokens: largest number of objects and triples of an image.
    """

    images: int
    tokens: int


class _GraphTensors(NamedTuple):
    objs: Tensor
    boxes: Tensor
    triples: Tensor
    obj_to_img: Tensor
    triple_to_img: Tensor
    attributes: Tensor | None = None


class GraphBatch(_GraphTensors):
    """Scene graphs as tensors, concatenated over the images of a batch.

    The last object of every image is `__image__`, whose box is 0 0 1 1; every other object has an `__in_image__` triple
    to it.

    Attributes:
        objs: (O,) long, object ids.
        boxes: (O,4) float, x0 y0 x1 y1 in [0,1]; four times -1 for an object without a box.
        triples: (T,3) long: index of the subject in `objs`, predicate id, index of the object in `objs`.
        obj_to_img: (O,) long, ascending: index of the image to which an object belongs.
        triple_to_img: (T,) long, ascending: index of the image to which a triple belongs.
        attributes: (K,2) long, pairs of an index in `objs` and an attribute id; None if the data has no attributes.
        sizes: what `encode` counted; None where it has to be read from the tensors. No element of the tuple.
    """

    sizes: GraphSizes | None = None

    @classmethod
    def of(cls, graph: GraphBatch | Sequence[Tensor]) -> GraphBatch:
        """Converts sg2im's five tensors; returns a GraphBatch unchanged."""
        return graph if isinstance(graph, cls) else cls(*graph)

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> GraphBatch:
        """Moves the tensors; see `Batch.to`."""
        return self._map(mover(device, non_blocking))

    @property
    def num_images(self) -> int:
        if self.sizes is not None:
            return self.sizes.images
        return int(self.obj_to_img[-1]) + 1 if len(self.obj_to_img) else 0

    def with_boxes(self, boxes: Tensor) -> GraphBatch:  # (O,4)
        """The same graphs with other boxes; it keeps `sizes`, which `_replace` would lose."""
        moved = self._replace(boxes=boxes)
        moved.sizes = self.sizes
        return moved

    def _map(self, function: Callable[[Tensor], Tensor]) -> GraphBatch:
        moved = GraphBatch(*(x if x is None else function(x) for x in self))
        moved.sizes = self.sizes
        return moved


def encode(graphs: Sequence[SceneGraph], vocab: Vocab) -> GraphBatch:
    """Converts names to ids and adds the `__image__` objects and `__in_image__` triples.

    Unknown attributes and triples are treated as if there were none.

    Raises:
        GraphError: a name is not in the vocabulary.
    """
    objs, boxes, triples, attributes, obj_to_img, triple_to_img = [], [], [], [], [], []
    object_ids, predicate_ids, attribute_ids = vocab.ids
    for index, graph in enumerate(graphs):
        start, end = len(objs), len(objs) + len(graph.objects)
        try:
            objs += [object_ids[name] for name in graph.objects]
            triples += [(start + s, predicate_ids[name], start + o) for s, name, o in graph.known_triples]
            attributes += [
                (start + i, attribute_ids[name]) for i, names in enumerate(graph.known_attributes) for name in names
            ]
        except KeyError:
            graph.validate(vocab, f"graph {index}")
            raise
        objs.append(0)
        boxes += [(-1.0,) * 4 if box is None else box for box in graph.boxes]
        boxes.append((0.0, 0.0, 1.0, 1.0))
        triples += [(o, 0, end) for o in range(start, end)]
        obj_to_img += [index] * (end + 1 - start)
        triple_to_img += [index] * (len(triples) - len(triple_to_img))
    tokens = (Counter(obj_to_img) + Counter(triple_to_img)).values()
    batch = GraphBatch(
        torch.tensor(objs, dtype=torch.long),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(triples, dtype=torch.long).view(-1, 3),
        torch.tensor(obj_to_img, dtype=torch.long),
        torch.tensor(triple_to_img, dtype=torch.long),
        torch.tensor(attributes, dtype=torch.long).view(-1, 2),
    )
    batch.sizes = GraphSizes(len(graphs), max(tokens, default=0))
    return batch


def decode(batch: GraphBatch, vocab: Vocab) -> list[SceneGraph]:
    """Inverse of `encode`, except for `ids`, `image` and what was unknown, which a GraphBatch does not hold.

    Attributes are unknown if the batch or the vocabulary has none. Self-relations, which published data sets contain, are dropped.
    """
    objects, boxes, attributes, triples = ([[] for _ in range(batch.num_images)] for _ in range(4))
    positions = []  # per object of the batch: its image, and its index in that image's graph (None for __image__)
    for obj, box, image in zip(batch.objs.tolist(), batch.boxes.tolist(), batch.obj_to_img.tolist()):
        positions.append((image, len(objects[image]) if obj else None))
        if obj:
            objects[image].append(vocab.objects[obj])
            boxes[image].append(None if box[0] < 0 else box)
            attributes[image].append([])
    for subject, predicate, object_ in batch.triples.tolist():
        (image, s), (_, o) = positions[subject], positions[object_]
        if predicate and s is not None and o is not None and s != o:
            triples[image].append((s, vocab.predicates[predicate], o))
    for obj, attribute in batch.attributes.tolist() if batch.attributes is not None else ():
        image, index = positions[obj]
        attributes[image][index].append(vocab.attributes[attribute])
    if batch.attributes is None or not vocab.attributes:
        attributes = [None] * batch.num_images
    return [SceneGraph(*fields) for fields in zip(objects, boxes, attributes, triples)]


class Latents(NamedTuple):
    """Outputs of the frozen encoders, from a latent cache.

    Attributes:
        z: (B,4,h,w) latents of the autoencoder, before scaling.
        style: (B,E) embeddings of the image encoder; None for a model without one.
        text: (B,M,D) tokens of the captions from the text encoder; None for a model without one.
        text_vector: (B,A) what an SDXL's U-Net reads beside them, or None.
    """

    z: Tensor
    style: Tensor | None = None
    text: Tensor | None = None
    text_vector: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Images with their scene graphs.

    Unpacks to sg2im's six tensors: `image, objs, boxes, triples, obj_to_img, triple_to_img = batch`. It is no tuple:
    torch's DistributedDataParallel would rebuild a tuple from these six and lose the other fields.

    Attributes:
        image: (B,3,H,W) in [-1,1]; None for a batch from a latent cache.
        graph: the graphs, with their attributes.
        reference: (B,3,H,W), the images that define the style; by default `image`.
        latents: cached latents; None for a batch of images.
        text_ids: (B,77) long, tokens of a caption of each graph (`ldm.data.captions`); None for batches without captions.
    """

    image: Tensor | None
    graph: GraphBatch
    reference: Tensor | None = None
    latents: Latents | None = None
    text_ids: Tensor | None = None

    def __post_init__(self):
        if self.reference is None:
            object.__setattr__(self, "reference", self.image)

    @classmethod
    def of(cls, batch: Batch | Sequence[Tensor]) -> Batch:
        """Converts sg2im's six tensors to a Batch without attributes; returns a Batch unchanged."""
        return batch if isinstance(batch, cls) else cls(batch[0], GraphBatch(*batch[1:6]))

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter((self.image, *self.graph[:5]))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int | slice) -> Any:
        return tuple(self)[index]

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Batch:
        """Moves the tensors.

        Args:
            non_blocking: whether to go on before they have arrived, which pinned memory makes possible; by default on a
                GPU, for which Lightning, too, leaves the argument out.
        """
        return self._map(mover(device, non_blocking))

    def pin_memory(self) -> Batch:
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        def apply(x: Tensor | None) -> Tensor | None:
            return None if x is None else function(x)

        image = apply(self.image)
        return Batch(
            image,
            self.graph._map(function),
            image if self.reference is self.image else apply(self.reference),
            None if self.latents is None else Latents(*map(apply, self.latents)),
            apply(self.text_ids),
        )


def collate(samples: Sequence[tuple], vocab: Vocab) -> Batch:
    """Collates samples of a data set.

    Args:
        samples: (image, graph) or (image, graph, style reference), images (3,H,W). A latent cache has `Latents` of one
            image in place of the image.
        vocab: vocabulary of the graphs.

    Raises:
        GraphError: a name is not in the vocabulary.
    """
    images, graphs, *references = zip(*samples)
    graph = encode(graphs, vocab)
    if isinstance(images[0], Latents):
        columns = (None if column[0] is None else torch.stack(column) for column in zip(*images))
        return Batch(None, graph, latents=Latents(*columns))
    return Batch(torch.stack(images), graph, *map(torch.stack, references))
