"""Scene graphs as numbers: batches of tensors, in the layout of sg2im."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldm.graph.scene_graph import SceneGraph, Vocab


class GraphBatch(NamedTuple):
    """Graphs as numbers, one after the other. Each has an `__image__` object, its last, whose box is 0 0 1 1, and an
    `__in_image__` triple to it from every other object.

    objs          (O,) long     object ids
    boxes         (O,4) float   x0 y0 x1 y1 in [0,1], -1 throughout where an object has none
    triples       (T,3) long    subject, predicate id, object; subject and object index into objs
    obj_to_img    (O,) long     ascending
    triple_to_img (T,) long     ascending
    attributes    (K,2) long    pairs: index into objs, attribute id; None where there are none
    """

    objs: Tensor
    boxes: Tensor
    triples: Tensor
    obj_to_img: Tensor
    triple_to_img: Tensor
    attributes: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GraphBatch:
        return GraphBatch(*(x if x is None else x.to(device, non_blocking=non_blocking) for x in self))

    @property
    def num_images(self) -> int:
        return int(self.obj_to_img[-1]) + 1 if len(self.obj_to_img) else 0


def encode(graphs: Sequence[SceneGraph], vocab: Vocab) -> GraphBatch:
    """Names to numbers, with `__image__` and `__in_image__` added. Raises a GraphError for an unknown name."""
    objs, boxes, triples, attributes, obj_to_img, triple_to_img = [], [], [], [], [], []
    objects, predicates, names = vocab.ids
    for index, graph in enumerate(graphs):
        start, end = len(objs), len(objs) + len(graph.objects)
        try:
            objs += [objects[name] for name in graph.objects]
            triples += [(start + s, predicates[name], start + o) for s, name, o in graph.triples]
            attributes += [(start + i, names[name]) for i, own in enumerate(graph.attributes) for name in own]
        except KeyError:
            graph.validate(vocab, f"graph {index}")
            raise
        objs.append(0)
        boxes += [(-1.0,) * 4 if box is None else box for box in graph.boxes]
        boxes.append((0.0, 0.0, 1.0, 1.0))
        triples += [(o, 0, end) for o in range(start, end)]
        obj_to_img += [index] * (end + 1 - start)
        triple_to_img += [index] * (len(triples) - len(triple_to_img))
    return GraphBatch(
        torch.tensor(objs, dtype=torch.long),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(triples, dtype=torch.long).view(-1, 3),
        torch.tensor(obj_to_img, dtype=torch.long),
        torch.tensor(triple_to_img, dtype=torch.long),
        torch.tensor(attributes, dtype=torch.long).view(-1, 2),
    )


def decode(batch: GraphBatch, vocab: Vocab) -> list[SceneGraph]:
    """Numbers back to names, without `__image__`, `__in_image__` and self-relations: what encode was given, but for
    ids and image."""
    objects, boxes, attributes, triples = ([[] for _ in range(batch.num_images)] for _ in range(4))
    place = []  # of each object of the batch: its image, and its index there
    for obj, box, image in zip(batch.objs.tolist(), batch.boxes.tolist(), batch.obj_to_img.tolist()):
        place.append((image, len(objects[image]) if obj else None))
        if obj:
            objects[image].append(vocab.objects[obj])
            boxes[image].append(None if box[0] < 0 else box)
            attributes[image].append([])
    for subject, predicate, object_ in batch.triples.tolist():
        (image, s), (_, o) = place[subject], place[object_]
        if predicate and s is not None and o is not None and s != o:
            triples[image].append((s, vocab.predicates[predicate], o))
    for obj, attribute in batch.attributes.tolist() if batch.attributes is not None else ():
        image, index = place[obj]
        attributes[image][index].append(vocab.attributes[attribute])
    return [SceneGraph(*fields) for fields in zip(objects, boxes, attributes, triples)]


class Latents(NamedTuple):
    """What the frozen encoders made of images, in place of the images: `z` (B,4,h,w) of the first stage, not scaled,
    and `style` (B,E) of the image encoder, None where there is no such encoder."""

    z: Tensor
    style: Tensor | None = None


class Batch(tuple):
    """Images and their graphs: sg2im's (image, objs, boxes, triples, obj_to_img, triple_to_img) that also knows
    `.image` (B,3,H,W) in [-1,1] and `.graph`, where the attributes are. `.reference` (B,3,H,W) shows each image's
    style: where the data has no other picture of that style, it is the image itself. Where the data is a cache, there
    are `.latents`, and image and reference are None."""

    image: Tensor | None
    graph: GraphBatch
    reference: Tensor | None
    latents: Latents | None

    def __new__(
        cls, image: Tensor | None, graph: GraphBatch, reference: Tensor | None = None, latents: Latents | None = None
    ) -> Batch:
        self = super().__new__(cls, (image, *graph[:5]))
        self.image, self.graph, self.latents = image, graph, latents
        self.reference = image if reference is None else reference
        return self

    @classmethod
    def of(cls, six: Sequence[Tensor]) -> Batch:
        """A Batch as it is, or sg2im's six tensors as a Batch without attributes."""
        return six if isinstance(six, cls) else cls(six[0], GraphBatch(*six[1:6]))

    def __reduce__(self):
        return Batch, (self.image, self.graph, None if self.reference is self.image else self.reference, self.latents)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def changed(part: Any) -> Any:
            if isinstance(part, tuple):
                return type(part)(*map(changed, part))
            return None if part is None else change(part)

        return Batch(*map(changed, self.__reduce__()[1]))


def collate(samples: Sequence[tuple], vocab: Vocab) -> Batch:
    """Samples (image (3,H,W), graph) of a dataset, or (image, graph, reference (3,H,W)), to a Batch; with Latents of
    one image in place of the image, to a Batch of those."""
    images, graphs, *references = zip(*samples)
    graph = encode(graphs, vocab)
    if isinstance(images[0], Latents):
        z, style = zip(*images)
        return Batch(None, graph, latents=Latents(torch.stack(z), None if style[0] is None else torch.stack(style)))
    return Batch(torch.stack(images), graph, *map(torch.stack, references))
