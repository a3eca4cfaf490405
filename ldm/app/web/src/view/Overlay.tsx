/** The boxes over the picture: drawn, selected, moved and resized by pointer, touch and keys. */

import { useRef, useState } from "preact/hooks";
import { removeSelected, restoreObject, setBox, showLive } from "../actions/draft";
import * as geo from "../model/geometry";
import type { Box, Handle, Point } from "../model/geometry";
import { changeObject, describe, find, objectChange, removedObjects, type SceneObject } from "../model/graph";
import { doc, selectedObject, setState, getState, shownGraph, useStore } from "../store";
import { t } from "../texts";
import { focusName, FONT, hueOf, textWidth, useFrame } from "./hooks";
import { memo } from "./memo";

interface Props {
  width: number;
  height: number;
}

type Drag =
  | { kind: "draw"; from: Point }
  | { kind: "box"; id: string; handle: Handle | null; from: Point; box: Box; moved: boolean };

const THRESHOLD = 3; // pixels that a pointer moves before a click is a drag
const STEP = 0.01;
const CROWDED = 14; // with more objects, only the labels of the selected and the hovered are shown
const NARROW = 420; // pixels; on a smaller picture, labels have the name alone
const LABEL_FONT = `600 12px ${FONT}`;

export function Overlay({ width, height }: Props) {
  const graph = useStore(shownGraph);
  const source = useStore((s) => doc(s)?.source ?? null);
  const plan = useStore((s) => (s.plan.status === "ready" || s.plan.status === "stale" ? s.plan.plan : null));
  const selected = useStore(selectedObject);
  const hover = useStore((s) => s.hover);
  const tool = useStore((s) => s.tool);
  const [drawn, setDrawn] = useState<Box | null>(null);
  const drag = useRef<Drag | null>(null);
  const svg = useRef<SVGSVGElement>(null);

  const pointOf = (event: PointerEvent): Point => {
    const frame = svg.current!.getBoundingClientRect();
    return { x: (event.clientX - frame.left) / frame.width, y: (event.clientY - frame.top) / frame.height };
  };

  const follow = useFrame<Point>((point) => {
    const now = drag.current;
    if (now?.kind === "draw") setDrawn(geo.dragged(now.from, point));
    else if (now?.kind === "box" && now.moved) {
      const { draft } = doc(getState())!;
      showLive(changeObject(draft, now.id, { box: draggedBox(now, point) }));
    } else {
      const id = geo.hit(shownGraph(getState()).objects, point)?.id ?? null;
      if (id !== getState().hover) setState({ hover: id });
    }
  });

  function onPointerDown(event: PointerEvent): void {
    if (event.button !== 0) return;
    const from = pointOf(event);
    const handle = (event.target as Element).getAttribute("data-handle") as Handle | null;
    setState({ prompt: null });
    if (tool === "box") drag.current = { kind: "draw", from };
    else {
      const chosen = graph.objects.find((object) => object.id === selected);
      const under = handle || (chosen?.box && geo.contains(chosen.box, from)) ? chosen : geo.hit(graph.objects, from);
      setState({ selection: under ? { kind: "object", id: under.id } : null });
      const focused = document.activeElement as HTMLElement | null;
      if (!under?.box) return focused?.blur();
      svg.current!.querySelector<SVGElement>(`[data-id="${CSS.escape(under.id)}"]`)?.focus({ preventScroll: true });
      drag.current = { kind: "box", id: under.id, handle, from, box: under.box, moved: false };
    }
    svg.current!.setPointerCapture(event.pointerId);
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
      else selectAt(point);
    } else if (now.moved) setBox(now.id, draggedBox(now, point));
    else {
      const smaller = geo.hit(graph.objects, point); // a click into the selected box selects what lies in it
      if (smaller && smaller.id !== now.id) setState({ selection: { kind: "object", id: smaller.id } });
    }
  }

  function selectAt(point: Point): void {
    const under = geo.hit(graph.objects, point);
    setState({ selection: under ? { kind: "object", id: under.id } : null });
  }

  function onPointerCancel(): void {
    drag.current = null;
    setDrawn(null);
    showLive(null);
  }

  const removed = source ? removedObjects(source, graph) : [];
  const labels = placeLabels(graph.objects, selected, hover, width, height);
  return (
    <svg
      ref={svg}
      class={`overlay tool-${tool}`}
      viewBox={`0 0 ${width} ${height}`}
      role="group"
      aria-label={t("boxesOnPicture")}
      onMouseDown={(event) => event.preventDefault() /* the focus goes to what was hit, not to what lies on top */}
      onPointerDown={onPointerDown}
      onPointerMove={onPointerMove}
      onPointerUp={onPointerUp}
      onPointerCancel={onPointerCancel}
      onDblClick={() => selected !== null && focusName()}
      onPointerLeave={() => !drag.current && setState({ hover: null })}
    >
      {plan?.region && <Region png={plan.region.png} width={width} height={height} />}
      {removed.map((object) => object.box && <RemovedBox key={object.id} object={object} box={object.box} {...{ width, height }} />)}
      {graph.objects.map((object) => {
        const before = source && find(source, object.id)?.box;
        const placed = plan?.placed.find((place) => place.object === object.id);
        return (
          <g key={object.id}>
            {before && object.box && before.some((value, i) => value !== object.box![i]) && (
              <Way before={before} after={object.box} {...{ width, height }} />
            )}
            {placed && <Ghost id={object.id} box={placed.box} before={placed.before} {...{ width, height }} />}
          </g>
        );
      })}
      {[...graph.objects].sort(largestFirst).map((object) =>
        object.box ? (
          <BoxShape
            key={object.id}
            object={object}
            box={object.box}
            selected={object.id === selected}
            hovered={object.id === hover}
            changed={source !== null && objectChange(source, object) !== "same"}
            labelX={labels.get(object.id)?.x}
            labelY={labels.get(object.id)?.y}
            labelWidth={labels.get(object.id)?.width}
            labelText={labels.get(object.id)?.text}
            {...{ width, height }}
          />
        ) : null,
      )}
      {drawn && <rect class="drawn" {...pixels(drawn, width, height)} />}
    </svg>
  );
}

function draggedBox(drag: Extract<Drag, { kind: "box" }>, point: Point): Box {
  const [dx, dy] = [point.x - drag.from.x, point.y - drag.from.y];
  return drag.handle ? geo.resized(drag.box, drag.handle, dx, dy) : geo.moved(drag.box, dx, dy);
}

const largestFirst = (a: SceneObject, b: SceneObject) => (b.box ? geo.area(b.box) : 0) - (a.box ? geo.area(a.box) : 0);

function pixels(box: Box, width: number, height: number) {
  return { x: box[0] * width, y: box[1] * height, width: geo.width(box) * width, height: geo.height(box) * height };
}

interface ShapeProps extends Props {
  object: SceneObject;
  box: Box;
  selected: boolean;
  hovered: boolean;
  changed: boolean;
  labelX: number | undefined; // undefined without a label
  labelY: number | undefined;
  labelWidth: number | undefined;
  labelText: string | undefined;
}

const BoxShape = memo(({ object, box, selected, hovered, changed, width, height, ...label }: ShapeProps) => {
  const rect = pixels(box, width, height);

  function onKeyDown(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey) return;
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (direction) {
      event.preventDefault();
      const [dx, dy] = direction.map((value) => value * STEP * (event.altKey ? 5 : 1)) as [number, number];
      const to = event.shiftKey ? geo.resized(box, "se", dx, dy) : geo.moved(box, dx, dy);
      setBox(object.id, to, `${event.shiftKey ? "resize" : "move"} ${object.id}`);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      removeSelected();
    } else if (event.key === "Enter") {
      event.preventDefault();
      focusName();
    } else return;
    event.stopPropagation();
  }

  return (
    <g
      class={`box${selected ? " selected" : ""}${hovered ? " hovered" : ""}${changed ? " changed" : ""}`}
      style={{ "--hue": hueOf(object.id) }}
      data-id={object.id}
      tabindex={0}
      role="button"
      aria-pressed={selected}
      aria-label={t("boxLabel", { name: describe(object), x: percent(geo.centre(box).x), y: percent(geo.centre(box).y) })}
      onFocus={() => setState({ selection: { kind: "object", id: object.id } })}
      onKeyDown={onKeyDown}
    >
      <rect class="halo" {...rect} />
      <rect class="outline" {...rect} />
      {label.labelX !== undefined && (
        <g class="label">
          <rect x={label.labelX} y={label.labelY} width={label.labelWidth} height={20} rx="4" />
          <text x={label.labelX + 7} y={label.labelY! + 14}>
            {label.labelText}
          </text>
        </g>
      )}
      {selected && geo.HANDLES.map((handle) => <HandleShape key={handle} handle={handle} rect={rect} />)}
    </g>
  );
});

const percent = (share: number) => Math.round(100 * share);

function HandleShape({ handle, rect }: { handle: Handle; rect: ReturnType<typeof pixels> }) {
  const x = rect.x + (handle.includes("w") ? 0 : handle.includes("e") ? rect.width : rect.width / 2);
  const y = rect.y + (handle.includes("n") ? 0 : handle.includes("s") ? rect.height : rect.height / 2);
  if (handle.length === 1 && (handle === "n" || handle === "s" ? rect.width : rect.height) < 56) return null;
  return (
    <g class={`handle handle-${handle}`}>
      <rect class="grip" x={x - 4} y={y - 4} width="8" height="8" rx="2" />
      <circle class="reach" data-handle={handle} cx={x} cy={y} r="11" />
    </g>
  );
}

/** Where an edit will change the picture. */
function Region({ png, width, height }: Props & { png: string }) {
  return (
    <g class="region" aria-hidden="true">
      <defs>
        <pattern id="hatching" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect class="hatching-ground" width="8" height="8" />
          <rect class="hatching-line" width="2" height="8" />
        </pattern>
        <mask id="region-mask" maskUnits="userSpaceOnUse" x="0" y="0" width={width} height={height}>
          <image href={png} x="0" y="0" width={width} height={height} preserveAspectRatio="none" />
        </mask>
      </defs>
      <rect width={width} height={height} fill="url(#hatching)" mask="url(#region-mask)" />
    </g>
  );
}

function RemovedBox({ object, box, width, height }: Props & { object: SceneObject; box: Box }) {
  const { x, y, width: w, height: h } = pixels(box, width, height);
  return (
    <g
      class="removed"
      style={{ "--hue": hueOf(object.id) }}
      tabindex={0}
      role="button"
      aria-label={t("bringBack", { name: describe(object) })}
      onKeyDown={(event) => event.key === "Enter" && restoreObject(object.id)}
      onDblClick={() => restoreObject(object.id)}
    >
      <title>{t("bringBack", { name: describe(object) })}</title>
      <rect {...{ x, y }} width={w} height={h} />
      <path d={`M${x} ${y}l${w} ${h}M${x + w} ${y}l${-w} ${h}`} />
    </g>
  );
}

/** From where a box came. */
function Way({ before, after, width, height }: Props & { before: Box; after: Box }) {
  const [from, to] = [geo.centre(before), geo.centre(after)];
  const far = Math.hypot((to.x - from.x) * width, (to.y - from.y) * height) > 14;
  return (
    <g class="way" aria-hidden="true">
      <rect {...pixels(before, width, height)} />
      {far && <path d={`M${from.x * width} ${from.y * height}L${to.x * width} ${to.y * height}`} marker-end="url(#way-end)" />}
      <defs>
        <marker id="way-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
          <path d="M1 1l6 3-6 3" />
        </marker>
      </defs>
    </g>
  );
}

/** Where a thing would go that was given no place. */
function Ghost({ id, box, before, width, height }: Props & { id: string; box: Box; before: Box | null }) {
  return (
    <g class="ghost" style={{ "--hue": hueOf(id) }} aria-hidden="true">
      {before && <Way before={before} after={box} {...{ width, height }} />}
      <rect {...pixels(box, width, height)} />
    </g>
  );
}

interface Label {
  x: number;
  y: number;
  width: number;
  text: string;
}

/** Labels above their boxes, else within; each takes the first place that covers no other label. */
function placeLabels(objects: SceneObject[], selected: string | null, hover: string | null, width: number, height: number) {
  const placed = new Map<string, Label>();
  const order = [...objects].sort((a, b) => Number(b.id === selected) - Number(a.id === selected));
  for (const object of order) {
    if (!object.box || (objects.length > CROWDED && object.id !== selected && object.id !== hover)) continue;
    const { x, y, width: w, height: h } = pixels(object.box, width, height);
    const text = width < NARROW ? object.name : describe(object);
    const long = Math.min(textWidth(text, LABEL_FONT) + 14, width);
    const left = Math.min(Math.max(0, x), width - long);
    const places = [[left, y - 22], [left, y + h + 2], [left, y + 2], [Math.max(0, x + w - long), y - 22], [left, y + h - 22]];
    const free = places.find(([a, b]) => b! >= 0 && b! + 20 <= height && ![...placed.values()].some((p) => covers(p, a!, b!, long)));
    const [px, py] = free ?? places[2]!;
    placed.set(object.id, { x: px!, y: py!, width: long, text });
  }
  return placed;
}

function covers(label: Label, x: number, y: number, long: number): boolean {
  return x < label.x + label.width && label.x < x + long && Math.abs(y - label.y) < 20;
}

/** Adds a box in the middle, for those who draw none. */
export function addInTheMiddle(): void {
  setState({ prompt: { kind: "name", box: [0.375, 0.375, 0.625, 0.625] } });
}
