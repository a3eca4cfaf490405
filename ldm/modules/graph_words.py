"""Names that a graph encoder learns beside tables that nothing changes."""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ldm.graph.batch import GraphBatch
from ldm.graph.vocab import GAP, KINDS, Vocab
from ldm.modules.boxes import box_coverage
from ldm.modules.word_embedding import WordEmbedding
from ldm.util.errors import UserError


@runtime_checkable
class LearnsNames(Protocol):
    """A graph encoder whose tables of objects, predicates and attributes take further rows."""

    def word_tables(self) -> tuple[WordEmbedding, WordEmbedding, WordEmbedding | None]: ...

    def add_rows(self, kind: str, rows: Tensor) -> None:  # (n,D)
        """Appends rows to the table of a kind. Raises UserError if there is no such table."""
        ...


def tables_by_kind(encoder: LearnsNames) -> dict[str, WordEmbedding]:
    """The tables that there are, by the kind of their names."""
    return {kind: table for kind, table in zip(KINDS, encoder.word_tables()) if table is not None}


def table_sizes(encoder: LearnsNames) -> dict[str, int]:
    """Number of rows of each table, learned ones included."""
    return {kind: table.rows for kind, table in tables_by_kind(encoder).items()}


def tables_digest(encoder: LearnsNames) -> str:
    """16 hexadecimal digits that identify the tables without what was learned beside them."""
    digest = hashlib.sha256()
    for kind, table in tables_by_kind(encoder).items():
        digest.update(kind.encode())
        digest.update(table.weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def initial_row(encoder: LearnsNames, vocab: Vocab, kind: str, init: str | None) -> Tensor:  # -> (D,)
    """The row from which a word starts: that of a name of its kind, or the mean of all of them.

    Raises:
        GraphError: `init` is no such name.
        UserError: the encoder has no such table.
    """
    if kind not in tables_by_kind(encoder):
        raise UserError("this graph encoder ignores attributes (num_attributes: 0), and cannot learn one")
    table = tables_by_kind(encoder)[kind].weight.detach()
    if init is not None:
        find = {"object": vocab.object_id, "predicate": vocab.predicate_id, "attribute": vocab.attribute_id}[kind]
        return table[find(init)].clone()
    names = dict(zip(KINDS, (vocab.objects, vocab.predicates, vocab.attributes)))[kind]
    used = torch.tensor([id_ for id_, name in enumerate(names) if name != GAP and not name.startswith("__")])
    return table[used].mean(0)


def has_new_name(encoder: LearnsNames, graph: GraphBatch) -> Tensor:  # -> (O,) bool
    """Which objects have a learned name or attribute, or stand at an end of a learned predicate."""
    first = {kind: table.num_embeddings for kind, table in tables_by_kind(encoder).items()}
    subject, predicate, object_ = graph.triples.unbind(1)
    count = (graph.objs >= first["object"]).int()
    for end in (subject, object_):
        count = count.index_add(0, end, (predicate >= first["predicate"]).int())
    if graph.attributes is not None and "attribute" in first:
        count = count.index_add(0, graph.attributes[:, 0], (graph.attributes[:, 1] >= first["attribute"]).int())
    return count > 0


def weights_by_boxes(graph: GraphBatch, chosen: Tensor, side: int, outside: float) -> Tensor:  # (O,) -> (B,1,side,side)
    """Weights of the cells of images: 1 in the boxes of chosen objects, and `outside` elsewhere.

    Boxes are widened by half a cell on all sides, as a latent pixel depends on pixels around it. A cell that a box covers in part has a
    weight in between. An image without a chosen object that has a box has the weight 1 everywhere.

    Args:
        graph: of B images.
        chosen: (O,) bool, which objects.
        side: of the latents, in cells.
        outside: from 0 to 1.
    """
    margin, count = 0.5 / side, graph.num_images
    chosen = chosen & (graph.boxes != -1).any(1)
    wide = torch.cat([graph.boxes[:, :2] - margin, graph.boxes[:, 2:] + margin], 1)
    covered = box_coverage(wide[None], side, side)[0] * chosen[:, None]  # (O,side*side)
    image = graph.obj_to_img[:, None]
    inside = covered.new_zeros(count, side * side).scatter_reduce(0, image.expand_as(covered), covered, "amax")
    has_any = covered.new_zeros(count, 1).scatter_reduce(0, image, chosen[:, None].to(covered), "amax") > 0
    weights = torch.where(has_any, outside + (1 - outside) * inside, 1)
    return weights.unflatten(1, (1, side, side))
