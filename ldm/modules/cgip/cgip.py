"""SGDiff's scene-graph encoder: graph convolution over objects and triples, under its published keys (2211.11138)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.checkpoints.loading import REST_OF_STAGE_1, load_part, read_state_dict
from ldm.graph.batch import GraphBatch
from ldm.modules.conditioning import Conditioning
from ldm.modules.word_embedding import WordEmbedding


class CGIPModel(nn.Module):
    """A token per triple, and a style per image; attributes and boxes are not read.

    num_objs, num_preds   sizes of the vocabulary (a published table has one object more, which nothing uses)
    width, embed_dim      of the convolution's hidden layers, of an object
    layers                convolutions after the first
    ckpt_path             SGDiff's sip_*.pt, a whole SGDiff checkpoint, or one of ldm.models.pretraining
    ignore_keys           beginnings of keys to leave
    max_sample_per_img    token slots; of more triples, the first ones get one, but all take part in the convolution
    attend_to_padding     whether empty slots count as tokens. SGDiff's U-Net was trained with them: a zero becomes the
                          bias of its context_local_mlp and takes its share of the attention. False hides them
    init                  "random": no weights are meant to be loaded

    Raises CheckpointError for weights that do not fit, ValueError for an unknown init.
    """

    def __init__(
        self,
        num_objs: int,
        num_preds: int,
        width: int,
        layers: int,
        embed_dim: int,
        ckpt_path: str | Path | None = None,
        ignore_keys: Sequence[str] = (),
        max_sample_per_img: int = 15,
        attend_to_padding: bool = True,
        init: str | None = None,
    ):
        super().__init__()
        if init not in (None, "random"):
            raise ValueError(f"CGIPModel: init is 'random' or left out, not {init!r}")
        self.num_objs, self.num_preds = num_objs, num_preds
        self.dim, self.max_tokens, self.embedding_dim = 3 * embed_dim, max_sample_per_img, embed_dim
        self.max_objects = None  # tokens are triples
        self.attend_to_padding = attend_to_padding
        self.obj_embeddings = WordEmbedding(num_objs + 1, embed_dim, "num_objs")
        self.pred_embeddings = WordEmbedding(num_preds, embed_dim, "num_preds")
        self.graph_conv = GraphTripleConv(embed_dim, width)
        convolutions = nn.ModuleList(GraphTripleConv(embed_dim, width) for _ in range(layers))
        self.graph_net = nn.ModuleDict({"gconvs": convolutions})
        self.graph_projection = nn.Linear(2 * embed_dim, embed_dim)
        # The temperature of the published training has its place among the keys; nothing here reads or trains it.
        self.register_buffer("logit_scale", torch.tensor(math.log(1 / 0.07)))

        self.weights_from = "random (init: random)" if init else None
        if ckpt_path is not None:
            state = read_state_dict(ckpt_path, "cond_stage")
            state = {key.removeprefix("module."): value for key, value in state.items()}  # of DistributedDataParallel
            load_part(self, state, "cond_stage", ours=("^logit_scale$",), ignore=(*ignore_keys, *REST_OF_STAGE_1))
            self.weights_from = str(ckpt_path)

    def forward(self, graph: GraphBatch) -> Conditioning:  # tokens (B,max_tokens,3E), style (B,E)
        """Also takes sg2im's five tensors."""
        graph = GraphBatch(*graph)
        subject, predicate, object_ = graph.triples.unbind(1)
        objects = self.obj_embeddings(graph.objs)
        predicates = self.pred_embeddings(predicate)
        for convolution in (self.graph_conv, *self.graph_net["gconvs"]):
            objects, predicates = convolution(objects, predicates, subject, object_)

        images = graph.num_images
        pooled = [mean_of(objects, graph.obj_to_img, images), mean_of(predicates, graph.triple_to_img, images)]
        tokens, mask = self.slots(torch.cat([objects[subject], predicates, objects[object_]], dim=1), graph)
        style = self.graph_projection(torch.cat(pooled, dim=1))
        return Conditioning(tokens, mask | self.attend_to_padding, tokens.new_full((*mask.shape, 4), -1.0), style)

    def slots(self, triples: Tensor, graph: GraphBatch) -> tuple[Tensor, Tensor]:  # (T,D) -> (B,N,D), (B,N)
        """Each image's first triples, zeros after them, and True where there is one."""
        count = torch.bincount(graph.triple_to_img, minlength=graph.num_images)[:, None]
        slot = torch.arange(self.max_tokens, device=triples.device)
        mask = slot < count
        row = torch.where(mask, count.cumsum(0) - count + slot, len(triples))
        return F.pad(triples, (0, 0, 0, 1))[row], mask  # the row of zeros after the last triple fills empty slots


class GraphTripleConv(nn.Module):
    """One convolution: each triple sees its subject, predicate and object, and each object then is the mean of what
    its triples say of it (Johnson et al. 2018, section 3)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.sizes = hidden, dim, hidden
        self.net1 = nn.Sequential(nn.Linear(3 * dim, hidden), nn.ReLU(), nn.Linear(hidden, sum(self.sizes)), nn.ReLU())
        self.net2 = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.ReLU())
        for linear in (self.net1[0], self.net1[2], self.net2[0], self.net2[2]):
            # As sg2im does. Under torch's own numbers, all graphs look alike after six convolutions (cosine 0.999999).
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")

    def forward(self, objects: Tensor, predicates: Tensor, subject: Tensor, object_: Tensor) -> tuple[Tensor, Tensor]:
        # (O,D), (T,D), (T,), (T,) -> (O,D), (T,D)
        triples = self.net1(torch.cat([objects[subject], predicates, objects[object_]], dim=1))
        of_subject, predicates, of_object = triples.split(self.sizes, dim=1)
        said = mean_of(torch.cat([of_subject, of_object]), torch.cat([subject, object_]), len(objects))
        return self.net2(said), predicates


def mean_of(values: Tensor, group: Tensor, groups: int) -> Tensor:  # (M,D), (M,) -> (groups,D)
    """The mean of each group, zero of an empty one."""
    total = values.new_zeros(groups, values.shape[1]).scatter_add(0, group[:, None].expand_as(values), values)
    return total / torch.bincount(group, minlength=groups).clamp(min=1)[:, None]
