/** Dragging nodes of the graph like boxes, and drawing edges from node to node. */

import type { RefObject } from "preact";
import { useState } from "preact/hooks";
import { leaveComparison, setBox, showLive } from "../actions/draft";
import * as geo from "../model/geometry";
import type { Box, Point } from "../model/geometry";
import * as g from "../model/graph";
import type { Size } from "../model/layout";
import { doc, getState, setState, shownGraph } from "../store";
import { useFrame } from "./hooks";

type Drag =
  | { kind: "node"; id: string; from: Point; box: Box | null; moved: boolean }
  | { kind: "edge"; id: string };

/** Where the nodes are. */
export interface Places {
  panel: Size;
  places: Map<string, Point>;
  sizes: Map<string, Size>;
}

const THRESHOLD = 4; // pixels that a pointer moves before a click is a drag

/** The handlers of the graph's pointer events, and the edge that is being drawn.
 *
 * @param drag what is being dragged.
 * @param where reads the places at the time of an event.
 */
export function useGraphDrags(svg: RefObject<SVGSVGElement | null>, drag: { current: GraphDrag }, where: () => Places) {
  const [edge, setEdge] = useState<{ from: string; to: Point; target: string | null } | null>(null);
  const pointOf = (event: PointerEvent): Point => {
    const frame = svg.current!.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  };

  const follow = useFrame<Point>((point) => {
    const now = drag.current;
    if (now?.kind === "edge") setEdge({ from: now.id, to: point, target: nodeAt(where(), point, now.id) });
    else if (now?.kind === "node" && now.moved && now.box) {
      showLive(g.changeObject(doc(getState())!.draft, now.id, { box: draggedBox(now.box, now.from, point, where().panel) }));
    } else if (!now) {
      const id = nodeAt(where(), point);
      if (id !== getState().hover) setState({ hover: id });
    }
  });

  function onPointerDown(event: PointerEvent): void {
    if (event.button !== 0) return;
    setState({ prompt: null });
    drag.current = grabbed(event.target as Element, pointOf(event));
    if (drag.current) svg.current!.setPointerCapture(event.pointerId);
  }

  function onPointerMove(event: PointerEvent): void {
    const point = pointOf(event);
    const now = drag.current;
    if (now?.kind === "node" && !now.moved) {
      if (Math.hypot(point.x - now.from.x, point.y - now.from.y) < THRESHOLD) return;
      now.moved = true;
    }
    follow(point);
  }

  function onPointerUp(event: PointerEvent): void {
    const now = drag.current;
    drag.current = null;
    const point = pointOf(event);
    if (now?.kind === "edge") {
      const target = nodeAt(where(), point, now.id);
      setEdge(null);
      if (target) setState({ prompt: { kind: "predicate", subject: now.id, object: target, x: point.x, y: point.y } });
    } else if (now?.kind === "node" && now.moved && now.box) setBox(now.id, draggedBox(now.box, now.from, point, where().panel));
  }

  function onPointerCancel(): void {
    drag.current = null;
    setEdge(null);
    showLive(null);
  }

  const onPointerLeave = () => !drag.current && setState({ hover: null });
  return { edge, handlers: { onPointerDown, onPointerMove, onPointerUp, onPointerCancel, onPointerLeave } };
}

export type GraphDrag = Drag | null;

/** The node at a point. */
function nodeAt({ places, sizes }: Places, point: Point, except: string | null = null): string | null {
  const found = shownGraph(getState()).objects.find(({ id }) => {
    const [place, size] = [places.get(id), sizes.get(id)];
    if (!place || !size || id === except) return false;
    return Math.abs(point.x - place.x) <= size.width / 2 + 4 && Math.abs(point.y - place.y) <= size.height / 2 + 4;
  });
  return found?.id ?? null;
}

/** Selects what is under the pointer. */
function grabbed(under: Element, from: Point): GraphDrag {
  const target = under.closest<SVGElement>("[data-port], [data-node]");
  const port = target?.getAttribute("data-port");
  const id = port ?? target?.getAttribute("data-node");
  if (!id) {
    if (!under.closest(".edge")) setState({ selection: null });
    return null;
  }
  leaveComparison();
  if (port) return { kind: "edge", id: port };
  setState({ selection: { kind: "object", id } });
  target!.focus({ preventScroll: true });
  return { kind: "node", id, from, box: g.find(shownGraph(getState()), id)?.box ?? null, moved: false };
}

function draggedBox(box: Box, from: Point, to: Point, panel: Size): Box {
  return geo.moved(box, (to.x - from.x) / panel.width, (to.y - from.y) / panel.height);
}
