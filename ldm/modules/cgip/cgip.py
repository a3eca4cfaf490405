"""SGDiff's scene-graph encoder with its published keys: graph convolutions over objects and triples (Yang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.checkpoints.loading import PRETRAINING_PREFIXES, load_part, read_state_dict
from ldm.graph.batch import GraphBatch
from ldm.modules.conditioning import Conditioning
from ldm.modules.graph_encoder import TokenLayout
from ldm.modules.word_embedding import WordEmbedding


class CGIPModel(nn.Module):
    """Encodes scene graphs as one token per triple and one style per image; a `GraphEncoder`.

    The masked contrastive pretraining (SIP) and this encoder are from SGDiff (Yang et al. 2022, arXiv 2211.11138). Attributes and
    boxes are ignored.

    Args:
        num_objs: Number of object names in the vocabulary. (The published table has one unused row more.)
        num_preds: Number of predicates in the vocabulary.
        width: Width of the hidden layers of the graph convolutions.
        layers: Number of graph convolutions after the first one.
        embed_dim: E, width of an object and of the style; tokens are 3 E wide (subject, predicate, object).
        ckpt_path: SGDiff's sip_*.pt, a complete SGDiff checkpoint, or a checkpoint of `ldm.models.pretraining`.
        ignore_keys: Prefixes of checkpoint keys to ignore.
        max_sample_per_img: N, number of tokens per image, including padding. Of more triples, the first N become tokens, but
            all take part in the convolutions.
        attend_to_padding: Whether padding counts as tokens. SGDiff's U-Net was trained with True: its context_local_mlp
            maps the padding to its bias, which takes part in attention.
        init: "random" for an encoder whose weights are meant to be random.

    Raises:
        CheckpointError: if the weights do not fit.
        ValueError: for an unknown `init`.
    """

    has_layout = False  # each token mixes two objects and a predicate

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
            raise ValueError(f"CGIPModel: init must be 'random' or left out, not {init!r}")
        self.num_objs, self.num_preds = num_objs, num_preds
        self.dim, self.max_tokens, self.embedding_dim = 3 * embed_dim, max_sample_per_img, embed_dim
        self.max_objects = None  # objects take no tokens
        self.attend_to_padding = attend_to_padding
        self.obj_embeddings = WordEmbedding(num_objs + 1, embed_dim, "num_objs")
        self.pred_embeddings = WordEmbedding(num_preds, embed_dim, "num_preds")
        self.graph_conv = GraphTripleConv(embed_dim, width)
        convolutions = nn.ModuleList(GraphTripleConv(embed_dim, width) for _ in range(layers))
        self.graph_net = nn.ModuleDict({"gconvs": convolutions})  # the published keys
        self.graph_projection = nn.Linear(2 * embed_dim, embed_dim)
        # The temperature of the published contrastive loss; only there because the published weights have this key.
        self.register_buffer("logit_scale", torch.tensor(math.log(1 / 0.07)))

        self.weights_from = "random (init: random)" if init else None
        if ckpt_path is not None:
            state = read_state_dict(ckpt_path, "cond_stage")
            state = {key.removeprefix("module."): value for key, value in state.items()}  # of DistributedDataParallel
            ignore = (*ignore_keys, *PRETRAINING_PREFIXES)
            load_part(self, state, "cond_stage", optional=("^logit_scale$",), ignore=ignore, name=str(ckpt_path))

    def forward(self, graph: GraphBatch) -> Conditioning:  # tokens (B,max_tokens,3E), style (B,E)
        """Encodes a batch of graphs. Also accepts the tuple of sg2im's five tensors."""
        graph = GraphBatch.of(graph)
        subject, predicate, object_ = graph.triples.unbind(1)
        objects = self.obj_embeddings(graph.objs)
        predicates = self.pred_embeddings(predicate)
        for convolution in (self.graph_conv, *self.graph_net["gconvs"].children()):
            objects, predicates = convolution(objects, predicates, subject, object_)

        images = graph.num_images
        pooled = [group_mean(objects, graph.obj_to_img, images), group_mean(predicates, graph.triple_to_img, images)]
        tokens, mask = self._tokens(torch.cat([objects[subject], predicates, objects[object_]], dim=1), graph)
        style = self.graph_projection(torch.cat(pooled, dim=1))
        return Conditioning(tokens, mask | self.attend_to_padding, tokens.new_full((*mask.shape, 4), -1.0), style)

    def layout(self, graph: GraphBatch) -> TokenLayout:
        """Not available: tokens do not represent single objects."""
        raise NotImplementedError("CGIPModel has no token layout, since each of its tokens represents a whole triple")

    def _tokens(self, triples: Tensor, graph: GraphBatch) -> tuple[Tensor, Tensor]:  # (T,D) -> (B,N,D), (B,N)
        """The first N triples of each image, padded with zeros, and their mask."""
        images = torch.arange(graph.num_images, device=triples.device)
        first, end = (torch.searchsorted(graph.triple_to_img, images, right=right)[:, None] for right in (False, True))
        row = first + torch.arange(self.max_tokens, device=triples.device)
        mask = row < end
        row = torch.where(mask, row, len(triples))
        return F.pad(triples, (0, 0, 0, 1))[row], mask  # padding reads the row of zeros after the last triple


class GraphTripleConv(nn.Module):
    """Graph convolution of sg2im (Johnson et al. 2018, section 3).

    An MLP of each triple's subject, predicate and object gives a new predicate and a message to each of the two objects; an
    object becomes an MLP of the mean of its messages.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.sizes = hidden, dim, hidden
        self.net1 = nn.Sequential(nn.Linear(3 * dim, hidden), nn.ReLU(), nn.Linear(hidden, sum(self.sizes)), nn.ReLU())
        self.net2 = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim), nn.ReLU())
        for layer in (*self.net1, *self.net2):
            if isinstance(layer, nn.Linear):
                # As in sg2im. With torch's default, six convolutions make all graphs look the same (cosine 0.999999).
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, objects: Tensor, predicates: Tensor, subject: Tensor, object_: Tensor) -> tuple[Tensor, Tensor]:
        # (O,D), (T,D), (T,), (T,) -> (O,D), (T,D)
        triples = self.net1(torch.cat([objects[subject], predicates, objects[object_]], dim=1))
        of_subject, predicates, of_object = triples.split(self.sizes, dim=1)
        messages = group_mean(torch.cat([of_subject, of_object]), torch.cat([subject, object_]), len(objects))
        return self.net2(messages), predicates


def group_mean(values: Tensor, group: Tensor, groups: int) -> Tensor:  # (M,D), (M,) -> (groups,D)
    """Returns the mean of each group's values, zero for an empty group."""
    total = values.new_zeros(groups, values.shape[1]).scatter_add(0, group[:, None].expand_as(values), values)
    counts = group.new_zeros(groups).index_add(0, group, torch.ones_like(group))  # not bincount: a GPU would wait
    return total / counts.clamp(min=1)[:, None]
