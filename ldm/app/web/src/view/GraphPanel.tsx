/** The scene graph beside the picture, as a map of it: nodes are dragged like boxes, edges drawn from node to node. */

import { useMemo, useRef } from "preact/hooks";
import type { Point } from "../model/geometry";
import * as g from "../model/graph";
import { isCrowded, layoutGraph, type Size } from "../model/layout";
import { doc, isCanvas, selectedObject, shownGraph, useStore } from "../store";
import { t } from "../texts";
import { Edges } from "./Edges";
import { type GraphDrag, useGraphDrags } from "./graphDrags";
import { focusName, useSize } from "./hooks";
import { nodeSize, NodeShape, smallSize } from "./NodeShape";
import { PredicatePrompt } from "./PredicatePrompt";

export function GraphPanel() {
  const graph = useStore(shownGraph);
  const canvas = useStore(isCanvas);
  const known = useStore((s) => doc(s)?.source ?? null);
  const source = canvas ? null : known;
  const selected = useStore(selectedObject);
  const room = useRef<HTMLDivElement>(null);
  const svg = useRef<SVGSVGElement>(null);
  const panel = useSize(room);
  const drag = useRef<GraphDrag>(null);
  const removed = source ? g.removedObjects(source, graph) : [];
  const everything = removed.length ? { ...graph, objects: [...graph.objects, ...removed] } : graph;
  const { places, sizes, crowded } = usePlaces(everything, panel, drag);
  const { edge, handlers } = useGraphDrags(svg, drag, () => ({ panel, places, sizes }));
  return (
    <section class="graph" aria-label={t("sceneGraph")}>
      <GraphHead />
      <div class="room" ref={room}>
        <svg
          ref={svg}
          class={edge ? "drawing" : ""}
          width={panel.width}
          height={panel.height}
          role="group"
          aria-label={t("sceneGraph")}
          onMouseDown={(event) => event.preventDefault()}
          onDblClick={() => selected !== null && focusName()}
          {...handlers}
        >
          <Edges graph={graph} source={source} places={places} sizes={sizes} panel={panel} quiet={crowded} />
          {edge && <NewEdge from={places.get(edge.from)} to={edge.target ? places.get(edge.target) : edge.to} />}
          <Nodes {...{ objects: everything.objects, removed, source, selected, places, sizes, crowded }} target={edge?.target ?? null} />
        </svg>
        {!graph.objects.length && !removed.length && <p class="empty">{t("graphEmpty")}</p>}
        <PredicatePrompt panel={panel} />
      </div>
    </section>
  );
}

/** Where the nodes are, and their sizes; while one is dragged, the others stay where they were. */
function usePlaces(everything: g.Graph, panel: Size, drag: { current: GraphDrag }) {
  const before = useRef<Map<string, Point>>(new Map());
  const full = useMemo(() => new Map(everything.objects.map((object) => [object.id, nodeSize(object)])), [everything]);
  const crowded = isCrowded(full, panel);
  const sizes = useMemo(
    () => (crowded ? new Map(everything.objects.map((object) => [object.id, smallSize(object)])) : full),
    [full, crowded],
  );
  const places = useMemo(() => {
    if (!panel.width) return new Map<string, Point>();
    const known = drag.current ? before.current : new Map<string, Point>();
    return (before.current = layoutGraph(everything, panel, sizes, known, !crowded));
  }, [everything, sizes, crowded, panel.width, panel.height]);
  return { places, sizes, crowded };
}

interface NodesProps {
  objects: readonly g.SceneObject[];
  removed: readonly g.SceneObject[];
  source: g.Graph | null;
  selected: string | null;
  target: string | null; // of the edge that is being drawn
  places: Map<string, Point>;
  sizes: Map<string, Size>;
  crowded: boolean;
}

function Nodes({ objects, removed, source, selected, target, places, sizes, crowded }: NodesProps) {
  const hover = useStore((s) => s.hover);
  return (
    <>
      {objects.map((object) => {
        const place = places.get(object.id);
        if (!place) return null;
        const gone = removed.includes(object);
        return (
          <NodeShape
            key={gone ? `${object.id} gone` : object.id} // another element: Chromium keeps the line through its name
            object={object}
            x={Math.round(place.x)}
            y={Math.round(place.y)}
            width={sizes.get(object.id)!.width}
            height={sizes.get(object.id)!.height}
            small={crowded}
            change={gone ? "gone" : source ? g.objectChange(source, object) : "same"}
            selected={object.id === selected}
            hovered={object.id === hover || target === object.id}
          />
        );
      })}
    </>
  );
}

function GraphHead() {
  const mode = useStore((s) => s.mode);
  const canvas = useStore(isCanvas);
  const nothing = useStore((s) => !shownGraph(s).objects.length);
  return (
    <div class="tools">
      <h2>{t(canvas || mode === "change" ? "graphOfEdit" : "graphOfPicture")}</h2>
      {!nothing && <span class="quiet">{t("dragToRelate")}</span>}
    </div>
  );
}

function NewEdge({ from, to }: { from: Point | undefined; to: Point | undefined }) {
  return from && to ? <path class="new-edge" d={`M${from.x} ${from.y}L${to.x} ${to.y}`} /> : null;
}
