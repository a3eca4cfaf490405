"""Scene-graph encoder: one token per object and one per triple, related to each other by a transformer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.checkpoints.loading import PRETRAINING_PREFIXES, load_part
from ldm.graph.batch import GraphBatch
from ldm.graph.vocab import KINDS, Vocab
from ldm.modules.conditioning import Conditioning
from ldm.modules.graph_encoder import TokenLayout
from ldm.modules.word_embedding import WordEmbedding
from ldm.modules.word_encoder import MeaningEmbedding, MeaningOptions, bind_tables
from ldm.util.errors import UserError
from ldm.words.sentence_encoder import SentenceEncoder

FREQUENCIES = 8  # of the box embedding; the highest one has a wavelength of 1/64 of the image
MAX_SAME_NAME = 16  # objects with the same name that an image's encoding distinguishes


class NSGEncoder(nn.Module):
    """Encodes scene graphs as cross-attention tokens; a `GraphEncoder`.

    An object's embedding is the sum of the embeddings of its name, its attributes, its box (Fourier features; a learned
    vector without a box) and its index among the image's objects with the same name. Without this index, triples could not
    tell apart two sheep without boxes. Before the transformer, each triple adds a message to its subject and to its object,
    like the first layer of a graph network (sg2im, Johnson et al. 2018, section 3); this spares the transformer from finding
    by attention which of two overlapping objects is in front.

    The tokens of an image are its objects, its triples, and its `__in_image__` triples, each in the graph's order. Tokens
    beyond `max_tokens` are dropped from the end of this list. The order of triples does not affect the result, and the order of
    objects only among those with the same name.

    Args:
        num_objs: Number of object names in the vocabulary.
        num_preds: Number of predicates in the vocabulary.
        num_attributes: Number of attributes in the vocabulary; 0 to ignore attributes.
        dim: D, width of the tokens.
        depth: Number of transformer layers.
        heads: Attention heads.
        mlp_ratio: Width of the feed-forward layers as a multiple of dim.
        max_tokens: N, number of tokens per image, including padding.
        dropout: Dropout in the transformer.
        ckpt_path: Checkpoint with the weights: of `ldm.models.pretraining` or of a LatentDiffusion with this encoder.
        init: "random" for a frozen encoder whose weights are meant to be random.
        open_words: true, or a mapping of `MeaningOptions`, to add to each name a learned projection of what it means, which
            is zero at the start; words that the vocabulary lacks have it alone. Needs the extra `words`.

    Raises:
        CheckpointError: if the weights do not fit.
        ValueError: for an unknown `init`.
    """

    has_layout = True
    embedding_dim: int | None = None  # the encoder computes no style

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
        open_words: bool | Mapping[str, float] | None = None,
    ):
        super().__init__()
        if init not in (None, "random"):
            raise ValueError(f"NSGEncoder: init must be 'random' or left out, not {init!r}")
        self.num_objs, self.num_preds = num_objs, num_preds
        self.dim, self.heads, self.max_tokens, self.max_objects = dim, heads, max_tokens, max_tokens - 1
        self.largest_graph = max_tokens  # in tokens; a warning is given only for an even larger graph
        self.open_words = MeaningOptions.of(open_words)
        self.name = self._table(num_objs, "num_objs")
        self.twin = nn.Embedding(MAX_SAME_NAME, dim)
        self.attribute = self._table(num_attributes, "num_attributes") if num_attributes else None
        self.box = nn.Sequential(nn.Linear(6 * 2 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.no_box = nn.Parameter(torch.empty(dim))
        self.predicate = self._table(num_preds, "num_preds")
        self.relation = nn.Linear(3 * dim, dim)  # its bias marks a token as a triple
        self.told_subject, self.told_object = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        layer = nn.TransformerEncoderLayer(
            dim, heads, int(mlp_ratio * dim), dropout, activation=_exact_gelu, batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        for name, parameter in self.named_parameters():
            # The same scale for all embeddings, so that no term of the sum dominates. This also initialises the transformer
            # layers independently; nn.TransformerEncoder makes them copies of one layer.
            if "norm" not in name:
                starts_at_zero = name.endswith(("bias", "meaning.weight"))
                nn.init.zeros_(parameter) if starts_at_zero else nn.init.normal_(parameter, std=0.02)
        self.weights_from = f"random (init: {init})" if init else None
        if ckpt_path is not None:
            load_part(self, ckpt_path, "cond_stage", ignore=PRETRAINING_PREFIXES)

    def forward(self, graph: GraphBatch) -> Conditioning:  # tokens (B,max_tokens,dim), no style
        """Encodes a batch of graphs. Also accepts the tuple of sg2im's five tensors, which has no attributes."""
        graph = GraphBatch.of(graph)
        layout = self.layout(graph)
        objects = self.objects(graph)
        subject, predicate, object_ = graph.triples.unbind(1)
        predicate = self.predicate(predicate)
        triples = self.relation(torch.cat([objects[subject], predicate, objects[object_]], dim=1))
        messages = F.gelu(triples) * (layout.triple_token >= 0)[:, None]  # dropped triples send none
        objects = _add_rows(objects, subject, self.told_subject(messages))
        objects = _add_rows(objects, object_, self.told_object(messages))

        slot = torch.cat([layout.object_token, layout.triple_token])
        image = torch.cat([graph.obj_to_img, graph.triple_to_img])
        shape = graph.num_images, self.max_tokens
        tokens = _place(torch.cat([objects, triples]), image, slot, shape, 0.0)
        boxes = _place(graph.boxes, graph.obj_to_img, layout.object_token, shape, -1.0)

        padded = ~layout.mask
        padded[:, 0] = False  # a real token in every image with objects; without any, keeps the softmax finite
        tokens = self.norm(tokens)
        # As attention's mask, since torch imports its symbolic shapes and sympy to check a padding mask: 0.3 s.
        mask = tokens.new_zeros(len(padded), 1, 1, self.max_tokens).masked_fill(padded[:, None, None], float("-inf"))
        mask = mask.expand(-1, self.heads, self.max_tokens, -1).flatten(0, 1)
        tokens = self.transformer(tokens, mask=mask, is_causal=False)
        return Conditioning(tokens * layout.mask[..., None], layout.mask, boxes)

    def objects(self, graph: GraphBatch) -> Tensor:  # -> (O,dim)
        """Returns the embedding of each object without its triples."""
        twin = _rank_within(graph.obj_to_img * self.name.words + graph.objs).clamp(max=MAX_SAME_NAME - 1)
        boxed = (graph.boxes[:, :1] >= 0).to(self.no_box.dtype)
        box = self.box(_fourier(graph.boxes).to(self.no_box.dtype))
        # Multiplication instead of indexing gives every parameter a gradient, whether or not the graph has boxes.
        place = boxed * box + (1 - boxed) * self.no_box
        features = self.name(graph.objs) + self.twin(twin) + place
        if self.attribute is None:
            return features
        pairs = graph.triples.new_empty(0, 2) if graph.attributes is None else graph.attributes
        return _add_rows(features, pairs[:, 0], self.attribute(pairs[:, 1]))

    def _table(self, size: int, option: str) -> WordEmbedding:
        if self.open_words is None:
            return WordEmbedding(size, self.dim, option)
        return MeaningEmbedding(size, self.dim, option, self.open_words)

    def bind_words(self, vocab: Vocab, encoder: SentenceEncoder | None = None) -> None:
        """Takes the meanings of a vocabulary's names, which may be more than the tables have rows; nothing without open words.

        Args:
            encoder: of sentences; by default the installed one.

        Raises:
            UserError: there is no encoder.
        """
        if self.open_words is not None:
            bind_tables(self.word_tables(), vocab, encoder)

    def word_tables(self) -> tuple[WordEmbedding, WordEmbedding, WordEmbedding | None]:
        """The embeddings of object names, of predicates and of attributes."""
        return self.name, self.predicate, self.attribute

    def add_rows(self, kind: str, rows: Tensor) -> None:  # (n,dim)
        """Appends rows to the table of objects, predicates or attributes, for names with the next ids.

        Raises:
            UserError: the encoder ignores attributes.
        """
        table = dict(zip(KINDS, self.word_tables()))[kind]
        if table is None:
            raise UserError("this graph encoder ignores attributes (num_attributes: 0), and cannot learn one")
        table.add_rows(rows)
        self.num_objs, self.num_preds = self.name.rows, self.predicate.rows

    def layout(self, graph: GraphBatch) -> TokenLayout:
        """Returns the token index of each object and triple; warns if some do not fit in `max_tokens`."""
        count = len(graph.objs)
        image = torch.cat([graph.obj_to_img, graph.triple_to_img])
        kind = torch.cat([torch.zeros_like(graph.objs), 1 + (graph.triples[:, 1] == 0).long()])
        slot = _rank_within(image, kind)
        largest = graph.sizes.tokens if graph.sizes is not None else int(slot.max()) + 1
        if largest > self.largest_graph:
            self.largest_graph = largest
            warnings.warn(
                f"a graph has {largest} objects and triples, but max_tokens is {self.max_tokens}: the last "
                f"{largest - self.max_tokens} are dropped, __in_image__ triples first; increase max_tokens to keep them",
                stacklevel=2,
            )
        slot = torch.where(slot < self.max_tokens, slot, -1)
        shape = graph.num_images, self.max_tokens
        mask = _place(torch.ones_like(slot, dtype=torch.bool), image, slot, shape, False)
        return TokenLayout(slot[:count], slot[count:], mask)


def _exact_gelu(x: Tensor) -> Tensor:
    """GELU, as a function that torch does not know: its fused layer, for evaluation, approximates F.gelu on a GPU by tanh."""
    return F.gelu(x)


def _add_rows(table: Tensor, index: Tensor, rows: Tensor) -> Tensor:  # (O,D), (M,), (M,D) -> (O,D)
    """Like index_add, but deterministic on a GPU."""
    return table.index_put((index,), rows.to(table.dtype), accumulate=True)


def _rank_within(group: Tensor, priority: Tensor | None = None) -> Tensor:  # (M,), (M,) of 0 to 2 -> (M,) long
    """Rank of each element within its group, by priority and then by position."""
    order = torch.argsort(group if priority is None else group * 3 + priority, stable=True)
    group = group[order]
    first = torch.searchsorted(group, group)
    return torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device) - first)


def _place(values: Tensor, image: Tensor, slot: Tensor, shape: tuple[int, int], empty) -> Tensor:
    """Scatters values (M,...) to the slots of their images (B,N,...), with `empty` elsewhere; slot -1 drops a value."""
    images, slots = shape
    row = torch.where(slot < 0, images * slots, image * slots + slot)  # dropped values go to one more row
    rows = values.new_full((images * slots + 1, *values.shape[1:]), empty).index_copy(0, row, values)
    return rows[:-1].unflatten(0, (images, slots))


def _fourier(boxes: Tensor) -> Tensor:  # (O,4) -> (O,96)
    """Sines and cosines of x0, y0, x1, y1, width and height (NeRF eq. 4), which resolve small shifts of a box."""
    numbers = torch.cat([boxes, boxes[:, 2:] - boxes[:, :2]], dim=1)
    angles = numbers[..., None] * math.pi * 2.0 ** torch.arange(FREQUENCIES, device=boxes.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
