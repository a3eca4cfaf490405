"""The GraphEncoder protocol, as both scene-graph encoders implement it."""

import pytest
import torch

from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.modules.cgip.cgip import CGIPModel
from ldm.modules.graph_encoder import GraphEncoder
from ldm.modules.nsg_encoder import NSGEncoder

VOCAB = Vocab(("__image__", "sheep", "grass"), ("__in_image__", "on"))
GRAPH = encode([SceneGraph(("sheep", "grass"), triples=((0, "on", 1),))], VOCAB)
SIZES = {"num_objs": len(VOCAB.objects), "num_preds": len(VOCAB.predicates)}


@pytest.fixture(params=["nsg", "cgip"])
def encoder(request):
    if request.param == "nsg":
        return NSGEncoder(**SIZES, dim=8, depth=1, heads=2, max_tokens=6, init="random")
    return CGIPModel(**SIZES, width=12, layers=1, embed_dim=4, init="random")


def test_both_encoders_have_all_attributes_of_the_protocol(encoder):
    assert isinstance(encoder, GraphEncoder)


def test_tokens_and_style_have_the_widths_that_the_encoder_declares(encoder):
    cond = encoder(GRAPH)
    assert cond.tokens.shape[-1] == encoder.dim
    assert (None if cond.style is None else cond.style.shape[-1]) == encoder.embedding_dim


def test_layout_exists_exactly_if_has_layout_declares_it(encoder):
    if encoder.has_layout:
        assert torch.equal(encoder.layout(GRAPH).mask, encoder(GRAPH).mask)
    else:
        with pytest.raises(NotImplementedError, match="layout"):
            encoder.layout(GRAPH)
