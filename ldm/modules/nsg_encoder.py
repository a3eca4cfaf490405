"""A scene graph as a set of tokens: one per object and one per triple, which a transformer lets see each other."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.checkpoints.loading import REST_OF_STAGE_1, load_part
from ldm.graph.batch import GraphBatch
from ldm.modules.conditioning import Conditioning
from ldm.modules.word_embedding import WordEmbedding

FREQUENCIES = 8  # the finest one has a wavelength of 1/64 of the image
TWINS = 16  # so many objects of one name are told apart within an image


class TokenLayout(NamedTuple):
    """Which of the N tokens of its image stands for what; -1 where it did not fit.

    object_token (O,) long    of each object of the batch
    triple_token (T,) long    of each triple of the batch
    mask         (B,N) bool   True where a token stands for something
    """

    object_token: Tensor
    triple_token: Tensor
    mask: Tensor


class NSGEncoder(nn.Module):
    """Objects come first among an image's tokens, then triples, `__in_image__` triples last, otherwise in the graph's
    order. What is beyond `max_tokens` is dropped: `__in_image__` triples from the last on, then other triples from
    the last on, then objects from the last on (`__image__` is an image's last object).

    An object is the sum of its name, its attributes, its box or a learned "no box", and its number among the objects
    of the same name: without it, triples could not say which of two sheep without boxes they are about. So the order
    of objects matters only among namesakes, and the order of triples not at all. With `num_attributes` 0, attributes
    are not read. What its triples say is added to an object before the transformer, as a graph network's first layer
    would (sg2im, Johnson et al. 2018, section 3), so that which of two overlapping objects is in front need not be found by
    attention.

    ckpt_path: a checkpoint of ldm.models.pretraining or of a LatentDiffusion with this encoder. init: 'random' where a
    frozen encoder is meant to have none. Raises CheckpointError for weights that do not fit.
    """

    def __init__(
        self,
        num_objs: int,
        num_preds: int,
        num_attributes: int = 0,
        dim: int = 512,
        depth: int = 4,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        max_tokens: int = 64,
        dropout: float = 0.0,
        ckpt_path: str | None = None,
        init: str | None = None,
    ):
        super().__init__()
        if init not in (None, "random"):
            raise ValueError(f"NSGEncoder: init is 'random' or left out, not {init!r}")
        self.num_objs, self.num_preds = num_objs, num_preds
        self.dim, self.max_tokens, self.max_objects = dim, max_tokens, max_tokens - 1
        self.longest = max_tokens  # graph so far, so that a warning is given only when it is exceeded
        self.name = WordEmbedding(num_objs, dim, "num_objs")
        self.twin = nn.Embedding(TWINS, dim)
        self.attribute = WordEmbedding(num_attributes, dim, "num_attributes") if num_attributes else None
        self.box = nn.Sequential(nn.Linear(6 * 2 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.no_box = nn.Parameter(torch.empty(dim))
        self.predicate = WordEmbedding(num_preds, dim, "num_preds")
        self.relation = nn.Linear(3 * dim, dim)  # its bias is what triples have in common and objects lack
        self.told_subject, self.told_object = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        layer = nn.TransformerEncoderLayer(
            dim, heads, int(mlp_ratio * dim), dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        for name, parameter in self.named_parameters():
            # Every table and matrix, so that no part of a sum outweighs the others and no two layers are alike.
            if "norm" not in name:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=0.02)
        self.weights_from = f"random (init: {init})" if init else None
        if ckpt_path is not None:
            load_part(self, ckpt_path, "cond_stage", ignore=REST_OF_STAGE_1)

    def forward(self, graph: GraphBatch) -> Conditioning:  # tokens (B,max_tokens,dim), no style
        """Also takes sg2im's five tensors, without attributes."""
        graph = GraphBatch(*graph)
        layout = self.layout(graph)
        objects = self.objects(graph)
        subject, predicate, object_ = graph.triples.unbind(1)
        predicate = self.predicate(predicate)
        triples = self.relation(torch.cat([objects[subject], predicate, objects[object_]], dim=1))
        said = F.gelu(triples) * (layout.triple_token >= 0)[:, None]  # what is dropped says nothing
        objects = _add_rows(objects, subject, self.told_subject(said))
        objects = _add_rows(objects, object_, self.told_object(said))

        slot = torch.cat([layout.object_token, layout.triple_token])
        image = torch.cat([graph.obj_to_img, graph.triple_to_img])
        tokens = _place(torch.cat([objects, triples]), image, slot, layout.mask.shape, 0.0)
        boxes = _place(graph.boxes, graph.obj_to_img, layout.object_token, layout.mask.shape, -1.0)

        padded = ~layout.mask
        padded[:, 0] = False  # taken wherever there is an object; in an image without any, keeps attention finite
        tokens = self.transformer(self.norm(tokens), src_key_padding_mask=padded)
        return Conditioning(tokens * layout.mask[..., None], layout.mask, boxes)

    def objects(self, graph: GraphBatch) -> Tensor:  # -> (O,dim)
        """What is known of each object, before the transformer."""
        twin = _rank_within(graph.obj_to_img * self.name.num_embeddings + graph.objs).clamp(max=TWINS - 1)
        boxed = (graph.boxes[:, :1] >= 0).to(self.no_box.dtype)
        box = self.box(_fourier(graph.boxes).to(self.no_box.dtype))
        # Multiplied rather than indexed: every parameter has a gradient, whatever the graph has and has not.
        place = boxed * box + (1 - boxed) * self.no_box
        features = self.name(graph.objs) + self.twin(twin) + place
        if self.attribute is None:
            return features
        pairs = graph.triples.new_empty(0, 2) if graph.attributes is None else graph.attributes
        return _add_rows(features, pairs[:, 0], self.attribute(pairs[:, 1]))

    def layout(self, graph: GraphBatch) -> TokenLayout:
        """The token of each object and triple. Warns of a graph with more than fit, and then only of larger ones."""
        count = len(graph.objs)
        image = torch.cat([graph.obj_to_img, graph.triple_to_img])
        kind = torch.cat([torch.zeros_like(graph.objs), 1 + (graph.triples[:, 1] == 0).long()])
        slot = _rank_within(image, kind)
        longest = int(slot.max()) + 1
        if longest > self.longest:
            self.longest = longest
            warnings.warn(
                f"a graph has {longest} objects and triples; the {longest - self.max_tokens} that do not fit in "
                f"max_tokens={self.max_tokens} are dropped, __in_image__ triples first",
                stacklevel=2,
            )
        slot = torch.where(slot < self.max_tokens, slot, -1)
        shape = graph.num_images, self.max_tokens
        mask = _place(torch.ones_like(slot, dtype=torch.bool), image, slot, shape, False)
        return TokenLayout(slot[:count], slot[count:], mask)


def _add_rows(table: Tensor, index: Tensor, rows: Tensor) -> Tensor:  # (O,D), (M,), (M,D) -> (O,D)
    """As index_add, but deterministic on a GPU."""
    return table.index_put((index,), rows.to(table.dtype), accumulate=True)


def _rank_within(group: Tensor, priority: Tensor | None = None) -> Tensor:  # (M,), (M,) of 0 to 2 -> (M,) long
    """How many of its own group come before each element, by priority and then by position."""
    order = torch.argsort(group if priority is None else group * 3 + priority, stable=True)
    group = group[order]
    first = torch.searchsorted(group, group)
    return torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device) - first)


def _place(values: Tensor, image: Tensor, slot: Tensor, shape: tuple[int, int], empty) -> Tensor:
    """(M,...) to (B,N,...): each value to its slot of its image, nowhere at slot -1, `empty` in between."""
    images, slots = shape
    row = torch.where(slot < 0, images * slots, image * slots + slot)  # one more row takes what has no slot
    rows = values.new_full((images * slots + 1, *values.shape[1:]), empty).index_copy(0, row, values)
    return rows[:-1].unflatten(0, (images, slots))


def _fourier(boxes: Tensor) -> Tensor:  # (O,4) -> (O,96)
    """Sines and cosines of x0 y0 x1 y1, width and height (NeRF eq. 4), so that small shifts of a box show."""
    numbers = torch.cat([boxes, boxes[:, 2:] - boxes[:, :2]], dim=1)
    angles = numbers[..., None] * math.pi * 2.0 ** torch.arange(FREQUENCIES, device=boxes.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
