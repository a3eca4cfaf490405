/** Drawing, moving and resizing boxes on the picture by pointer and touch. */

import type { RefObject } from "preact";
import { useRef, useState } from "preact/hooks";
import { setBox, showLive } from "../actions/draft";
import * as geo from "../model/geometry";
import type { Box, Handle, Point } from "../model/geometry";
import { changeObject } from "../model/graph";
import { doc, getState, selectedObject, setState, shownGraph } from "../store";
import type { Frame } from "./boxes";
import { useFrame } from "./hooks";

type Drag =
  | { kind: "draw"; from: Point }
  | { kind: "box"; id: string; handle: Handle | null; from: Point; box: Box; moved: boolean };

const THRESHOLD = 3; // pixels that a pointer moves before a click is a drag

/** The handlers of the picture's pointer events, and the box that is being drawn. */
export function useBoxDrags(svg: RefObject<SVGSVGElement | null>, { width, height }: Frame) {
  const [drawn, setDrawn] = useState<Box | null>(null);
  const drag = useRef<Drag | null>(null);
  const pointOf = (event: PointerEvent): Point => shareOf(svg.current!, event);

  const follow = useFrame<Point>((point) => {
    const now = drag.current;
    if (now?.kind === "draw") setDrawn(geo.dragged(now.from, point));
    else if (now?.kind === "box" && now.moved) {
      const { draft } = doc(getState())!;
      showLive(changeObject(draft, now.id, { box: draggedBox(now, point) }));
    } else hover(objectAt(point));
  });

  function onPointerDown(event: PointerEvent): void {
    if (event.button !== 0) return;
    const from = pointOf(event);
    setState({ prompt: null });
    drag.current = getState().tool === "box" ? { kind: "draw", from } : grabbed(svg.current!, event.target as Element, from);
    if (drag.current) svg.current!.setPointerCapture(event.pointerId);
  }

  function onPointerMove(event: PointerEvent): void {
    const point = pointOf(event);
    const now = drag.current;
    if (now?.kind === "box" && !now.moved) {
      const distance = Math.hypot((point.x - now.from.x) * width, (point.y - now.from.y) * height);
      if (distance < THRESHOLD) return;
      now.moved = true;
    }
    follow(point);
  }

  function onPointerUp(event: PointerEvent): void {
    const now = drag.current;
    drag.current = null;
    if (!now) return;
    const point = pointOf(event);
    if (now.kind === "draw") {
      setDrawn(null);
      const box = geo.dragged(now.from, point);
      if (box) setState({ prompt: { kind: "name", box } });
      else select(objectAt(point));
    } else if (now.moved) setBox(now.id, draggedBox(now, point));
    else {
      const smaller = objectAt(point); // a click into the selected box selects what lies in it
      if (smaller && smaller !== now.id) select(smaller);
    }
  }

  function onPointerCancel(): void {
    drag.current = null;
    setDrawn(null);
    showLive(null);
  }

  const onPointerLeave = () => !drag.current && hover(null);
  return { drawn, handlers: { onPointerDown, onPointerMove, onPointerUp, onPointerCancel, onPointerLeave } };
}

/** Where a pointer is, in shares of the picture's size. */
function shareOf(svg: SVGSVGElement, event: PointerEvent): Point {
  const frame = svg.getBoundingClientRect();
  return { x: (event.clientX - frame.left) / frame.width, y: (event.clientY - frame.top) / frame.height };
}

const objectAt = (point: Point): string | null => geo.hit(shownGraph(getState()).objects, point)?.id ?? null;

const select = (id: string | null) => setState({ selection: id === null ? null : { kind: "object", id } });

function hover(id: string | null): void {
  if (id !== getState().hover) setState({ hover: id });
}

/** Selects and focuses what is under the pointer: the selected box where it is, else the smallest one. */
function grabbed(svg: SVGSVGElement, target: Element, from: Point): Drag | null {
  const handle = target.getAttribute("data-handle") as Handle | null;
  const { objects } = shownGraph(getState());
  const chosen = objects.find((object) => object.id === selectedObject(getState()));
  const under = handle || (chosen?.box && geo.contains(chosen.box, from)) ? chosen : geo.hit(objects, from);
  select(under?.id ?? null);
  if (!under?.box) {
    (document.activeElement as HTMLElement | null)?.blur();
    return null;
  }
  svg.querySelector<SVGElement>(`[data-id="${CSS.escape(under.id)}"]`)?.focus({ preventScroll: true });
  return { kind: "box", id: under.id, handle, from, box: under.box, moved: false };
}

function draggedBox(drag: Extract<Drag, { kind: "box" }>, point: Point): Box {
  const [dx, dy] = [point.x - drag.from.x, point.y - drag.from.y];
  return drag.handle ? geo.resized(drag.box, drag.handle, dx, dy) : geo.moved(drag.box, dx, dy);
}
