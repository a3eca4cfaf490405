"""Attention control of an edit: tokens with the same meaning in the source graph and in the edited graph."""

from ldm.editing.attention import common_tokens
from ldm.graph.batch import encode
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.vocab import Vocab
from ldm.modules.nsg_encoder import NSGEncoder


def test_common_tokens_are_those_with_the_same_meaning_in_both_graphs():
    vocab = Vocab(("__image__", "cat", "dog", "hat"), ("__in_image__", "near", "on"), ("red",))
    boxes = [(0.0, 0, 0.3, 0.3), (0.5, 0, 0.8, 0.3), None]
    source = SceneGraph(["cat", "dog", "hat"], boxes, (), [(2, "on", 0), (0, "near", 1), (1, "near", 0)])
    # The dog moves, the hat is listed first, a red cat is new.
    target = SceneGraph(
        ["hat", "cat", "dog", "cat"],
        [None, boxes[0], (0.5, 0.5, 0.8, 0.8), None],
        [(), (), (), ("red",)],
        [(1, "near", 2), (0, "on", 1), (3, "near", 1)],
    )
    encoder = NSGEncoder(4, 3, 1, dim=8, depth=1, heads=2, max_tokens=20, init="random")
    layouts = [encoder.layout(encode([graph], vocab)) for graph in (source, target)]
    common = common_tokens(source, target, layouts, style=True)
    # Source tokens: cat dog hat image | 3 triples | __in_image__ of cat dog hat. Target tokens: hat cat dog cat image |
    # 3 triples | __in_image__ of hat cat dog cat. Then padding up to 20, and the style.
    assert common.tolist() == [2, 0, -1, -1, 3, -1, 4, -1, 9, 7, -1, -1] + [-1] * 8 + [20]
    assert common_tokens(source, target, layouts, style=False)[-1] == -1
    same = common_tokens(source, source, layouts[:1] * 2, style=True)
    assert same.tolist() == list(range(10)) + [-1] * 10 + [20]
