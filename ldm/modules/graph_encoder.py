"""What the diffusion model requires of a scene-graph encoder (`cond_stage_config` in a config)."""

from __future__ import annotations

import sys
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ldm.graph.batch import GraphBatch
from ldm.modules.conditioning import Conditioning


class TokenLayout(NamedTuple):
    """Which of an image's N tokens represents which object and triple.

    Attributes:
        object_token: (O,) long, the token index of each object of the batch, -1 for an object that was truncated.
        triple_token: (T,) long, the token index of each triple of the batch, -1 for a triple that was truncated.
        mask: (B,N) bool, True where a token represents an object or a triple.
    """

    object_token: Tensor
    triple_token: Tensor
    mask: Tensor


@runtime_checkable
class GraphEncoder(Protocol):
    """A module that encodes a batch of scene graphs as cross-attention tokens.

    Attributes:
        dim: D, width of the tokens.
        num_objs: Number of object names in the vocabulary.
        num_preds: Number of predicates in the vocabulary.
        max_objects: Largest number of objects in a graph, `__image__` not counted; None without a limit.
        embedding_dim: E, width of `Conditioning.style` if the encoder computes a style from the graph, otherwise None.
        weights_from: Where the weights were read from, for the loading report; None for weights yet to be loaded.
        has_layout: Whether each token represents one object or triple, so that `layout` may be called.
    """

    dim: int
    num_objs: int
    num_preds: int
    max_objects: int | None
    embedding_dim: int | None
    weights_from: str | None
    has_layout: bool

    def __call__(self, graph: GraphBatch) -> Conditioning:
        """Returns tokens (B,N,D) with their mask and boxes, and a style (B,E) or None."""
        ...

    def layout(self, graph: GraphBatch) -> TokenLayout:
        """Returns the token index of each object and triple.

        Raises:
            NotImplementedError: if `has_layout` is False.
        """
        ...


class NoGraphEncoder(nn.Module):
    """The graph encoder of a model that reads graphs as text alone: no tokens, of graphs of any size and vocabulary."""

    dim = 1
    num_objs = num_preds = sys.maxsize
    max_objects: int | None = None
    embedding_dim: int | None = None
    weights_from: str | None = "none (graphs are read as text)"
    has_layout = False

    def forward(self, graph: GraphBatch) -> Conditioning:  # tokens (B,0,1)
        return Conditioning.from_tokens(graph.boxes.new_zeros(graph.num_images, 0, self.dim))

    def layout(self, graph: GraphBatch) -> TokenLayout:
        raise NotImplementedError("there are no tokens of graphs")
