"""A graph, its vocabulary and hypothesis strategies, shared by the tests of ldm.graph."""

import warnings

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import GraphError
from ldm.graph.vocab import Vocab

repeatable = settings(
    derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

VOCAB = Vocab(
    ("__image__", "sheep", "grass", "sky", "horse"),
    ("__in_image__", "on", "above", "has"),
    ("white", "brown"),
)
GRAPH = SceneGraph(
    objects=("sheep", "grass", "sky"),
    boxes=((0.25, 0.5, 0.5, 0.75), None, (0.0, 0.0, 1.0, 0.5)),
    attributes=(("white",), (), ("brown", "white")),
    triples=((0, "on", 1), (2, "above", 1)),
    ids=("dolly", None, None),
    image="sheep.png",
)

# Any text that a name may be, and boxes on a grid that float32 represents exactly.
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
edges = st.lists(st.integers(0, 1024), min_size=2, max_size=2, unique=True).map(lambda x: sorted(v / 1024 for v in x))
boxes = st.tuples(edges, edges).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


@st.composite
def graphs(draw, objects=names, predicates=names, attributes=names):
    count = draw(st.integers(1, 6))
    index = st.integers(0, count - 1)
    triples = st.tuples(index, predicates, index).filter(lambda triple: triple[0] != triple[2])

    def draw_per_object(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    return SceneGraph(
        draw_per_object(objects),
        draw_per_object(st.none() | boxes),
        draw_per_object(st.none() | st.lists(attributes, max_size=2)),
        draw(st.none() | st.lists(triples, max_size=6)) if count > 1 else (),
        [draw(st.none() | st.just(f"id {i}")) for i in range(count)],
        draw(st.none() | names),
    )


graphs_in_vocab = graphs(*(st.sampled_from(x) for x in (VOCAB.objects[1:], VOCAB.predicates[1:], VOCAB.attributes)))
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def with_nothing_unknown(graph):
    """The graph as `decode` returns it after `encode`, to which what is unknown is not there."""
    return SceneGraph(graph.objects, graph.boxes, graph.known_attributes, graph.known_triples)


def result_or_none(function, *arguments):
    """The function's result, or None after a GraphError, whose message must be one short line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function(*arguments)
        except GraphError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            return None
