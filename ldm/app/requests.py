"""What a browser asks for: an edit of a node's picture, or a picture of an empty canvas; checked before it waits in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ldm.app import graphs
from ldm.app.errors import NotNow, RequestError
from ldm.app.limits import VARIANTS
from ldm.app.option_list import check_options, check_sweep
from ldm.app.store import Node, Store
from ldm.editing.options import EditOptions, EditRequest
from ldm.editing.pipeline import variant_seeds
from ldm.graph.resolving import Wording
from ldm.graph.scene_graph import SceneGraph
from ldm.models.diffusion.latent_diffusion import LatentDiffusion
from ldm.util.options import from_mapping
from ldm.words.open_words import OpenWords


@dataclass(frozen=True)
class Sweep:
    """One edit per value of an option."""

    option: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Variant:
    """One picture of a request: the options that were given, with its seed and its value of the sweep."""

    options: dict[str, Any]
    difference: str  # from the other variants, such as 'seed 3'; empty if there are none


@dataclass(frozen=True)
class EditAsked:
    """A request, as the queue keeps it.

    Args:
        kind: edit; sample, for a canvas; attention, where the model attends to the objects of the node's graph; or clip, from the
            node's graph to the edited one.
        node: that the request starts from.
        graph: what the picture is to show.
        source_graph: what the node's picture shows, at the time of the request; None if nothing is known.
        style, mask: ids of pictures.
        options: those that the user set.
        count: number of seeds.
        attention: whether attention maps are kept.
        previews: whether previews are shown on the way.
        dropped: relations that the page sent and that boxes contradict, by ids; they are not in `graph`.
        written, written_source: the two graphs in the user's words, where these are not the names of `graph` and
            `source_graph`.
        readings: what was read as what.
    """

    kind: str
    node: int
    graph: SceneGraph
    source_graph: SceneGraph | None = None
    style: str | None = None
    mask: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    count: int = 1
    sweep: Sweep | None = None
    attention: bool = False
    previews: bool = True
    dropped: tuple[tuple[str | None, str, str | None], ...] = ()
    written: SceneGraph | None = None
    written_source: SceneGraph | None = None
    readings: tuple[str, ...] = ()

    @property
    def wordings(self) -> tuple[Wording, ...]:
        """The graphs in the user's words."""
        pairs = (self.written_source, self.source_graph), (self.written, self.graph)
        return tuple(Wording(written, named) for written, named in pairs if written and named)

    def in_own_words(self, graph: SceneGraph) -> SceneGraph:
        """A graph of the edit in the user's words."""
        return next((shown for each in self.wordings[::-1] if (shown := each.show(graph)) != graph), graph)

    @property
    def total(self) -> int:
        """The number of pictures."""
        return self.count * (len(self.sweep.values) if self.sweep else 1)

    def variants(self) -> list[Variant]:
        """All pictures of the request, in the order in which they are made."""
        seed = self.options.get("seed", EditOptions().seed)
        values = [{}] if self.sweep is None else [{self.sweep.option: value} for value in self.sweep.values]
        made = []
        for value in values:
            for number in range(self.count):
                words = [f"{name.replace('_', '-')} {number_}" for name, number_ in value.items()]
                words += [f"seed {seed + number}"] if self.count > 1 else []
                made.append(Variant({**self.options, **value, "seed": seed + number}, " ".join(words)))
        return made

    def to_json(self) -> dict:
        """For the database."""
        return {
            **vars(self),
            "graph": self.graph.to_json(),
            "source_graph": self.source_graph and self.source_graph.to_json(),
            "written": self.written and self.written.to_json(),
            "written_source": self.written_source and self.written_source.to_json(),
            "sweep": self.sweep and [self.sweep.option, list(self.sweep.values)],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EditAsked:
        """What `to_json` returned."""
        source, sweep = data["source_graph"], data["sweep"]
        restored = {
            "graph": SceneGraph.from_json(data["graph"]),
            "source_graph": source and SceneGraph.from_json(source),
            "sweep": sweep and Sweep(sweep[0], tuple(sweep[1])),
            "dropped": tuple(map(tuple, data["dropped"])),
            "readings": tuple(data.get("readings", ())),
        }
        for name in ("written", "written_source"):  # older databases lack these
            restored[name] = SceneGraph.from_json(data[name]) if data.get(name) else None
        return cls(**{**data, **restored})


def ask(
    model: LatentDiffusion,
    store: Store,
    node: Node,
    graph: Any,
    style: str | None = None,
    mask: str | None = None,
    options: Mapping[str, Any] | None = None,
    count: int = 1,
    sweep: Sweep | None = None,
    attention: bool = False,
    previews: bool = True,
    words: OpenWords | None = None,
) -> EditAsked:
    """A checked request; arguments are those of `EditAsked`, the graph as parsed JSON.

    `words` reads words that the vocabulary lacks; None refuses them.

    Raises:
        UserError: a graph, an option or a picture is not valid, or there are too many variants.
    """
    canvas, options = node.kind == "canvas", dict(options or {})
    wording = graphs.validate(graphs.from_json(graph), model, words=words)
    shown = None
    if node.graph:
        shown = graphs.validate(SceneGraph.from_json(node.graph), model, "graph of the picture", words)
    source, edited, dropped = shown and shown.named, wording.named, []
    if source and not canvas:
        edited, dropped = graphs.without_contradicted(edited, source)
        edited = graphs.without_kept_boxes(edited, source)
    check_options(canvas, options)
    if sweep is not None:
        check_sweep(canvas, sweep.option, sweep.values)
    for picture in (style, mask):
        if picture is not None:
            store.picture_size(picture)
    if style is not None and model.global_stage_model is None:
        raise RequestError("this model has no image encoder: remove the style, or use another model").coded("no_styles")
    if canvas and mask is not None:
        raise RequestError("a mask belongs to a photograph; remove it").coded("mask_on_canvas")
    kind = "sample" if canvas else "edit"
    asked = EditAsked(
        kind=kind,
        node=node.id,
        graph=edited,
        source_graph=None if canvas else source,
        style=style,
        mask=mask,
        options=options,
        count=count,
        sweep=sweep,
        attention=attention,
        previews=previews,
        dropped=tuple((edited.ids[s], predicate, edited.ids[o]) for s, predicate, o in dropped),
        written=written if (written := wording.show(edited)) != edited else None,
        written_source=shown.written if shown and not canvas and shown.written != source else None,
        readings=tuple(map(str, words.readings_of(wording.written))) if words else (),
    )
    if not 1 <= asked.total <= VARIANTS:
        error = RequestError(f"{asked.total} variants: ask for 1 to {VARIANTS}")
        raise error.coded("too_many_variants", count=asked.total, most=VARIANTS)
    if count > 1 and not canvas:
        variant_seeds(count, model, stand_in(asked), from_mapping(EditOptions, options))
    return asked


def ask_attention(model: LatentDiffusion, node: Node, words: OpenWords | None = None) -> EditAsked:
    """A request for the attention to each object of a node's graph. Raises NotNow, or GraphError."""
    if node.picture is None or node.graph is None:
        raise NotNow("there is no graph of this picture yet; draw a box around each object first").coded("no_graph_yet")
    if not model.cond_stage_model.has_layout:
        sentence = "this model's tokens do not stand for single objects, so there is no attention to each of them"
        raise NotNow(sentence).coded("no_attention")
    graph = graphs.validate(SceneGraph.from_json(node.graph), model, "graph of the picture", words).named
    return EditAsked("attention", node.id, graph, graph, attention=True, previews=False)


def stand_in(asked: EditAsked, size: tuple[int, int] = (1, 1), mask: Image.Image | None = None) -> EditRequest:
    """The request of the edit with blank pictures, for what depends on no pixels."""
    blank = Image.new("L", size)
    return EditRequest(
        blank,
        asked.graph,
        asked.source_graph,
        asked.style and Image.new("RGB", (1, 1)),
        asked.mask and (mask or blank),
    )
