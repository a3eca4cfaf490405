/** The scene graph beside the picture, as a map of it: nodes are dragged like boxes, edges drawn from node to node. */

import { useMemo, useRef, useState } from "preact/hooks";
import { leaveComparison, removeSelected, restoreObject, setBox, showLive } from "../actions/draft";
import * as geo from "../model/geometry";
import type { Box, Point } from "../model/geometry";
import * as g from "../model/graph";
import { isCrowded, layoutGraph, type Size } from "../model/layout";
import { doc, getState, isCanvas, selectedObject, setState, shownGraph, useStore } from "../store";
import { t } from "../texts";
import { Edges } from "./Edges";
import { focusName, FONT, hueOf, textWidth, useFrame, useSize } from "./hooks";
import { memo } from "./memo";
import { PredicatePrompt } from "./PredicatePrompt";

const NODE_HEIGHT = { plain: 34, attributes: 48, small: 28 };
const MAX_WIDTH = 200;

type Drag =
  | { kind: "node"; id: string; from: Point; box: Box | null; moved: boolean }
  | { kind: "edge"; id: string };

function nodeSize(object: g.SceneObject): Size {
  const words = object.attributes ?? [];
  const name = nameWidth(object);
  const below = textWidth(words.join(" "), `400 11px ${FONT}`) + 36;
  return {
    width: Math.round(Math.min(Math.max(name, words.length ? below : 0, 64), MAX_WIDTH)),
    height: words.length ? NODE_HEIGHT.attributes : NODE_HEIGHT.plain,
  };
}

const nameWidth = (object: g.SceneObject) => textWidth(object.name, `600 13px ${FONT}`) + 44;

/** The size of a node without its attributes, for graphs of many objects. */
function smallSize(object: g.SceneObject): Size {
  return { width: Math.round(Math.min(nameWidth(object), MAX_WIDTH)), height: NODE_HEIGHT.small };
}

export function GraphPanel() {
  const graph = useStore(shownGraph);
  const source = useStore((s) => doc(s)?.source ?? null);
  const selected = useStore(selectedObject);
  const hover = useStore((s) => s.hover);
  const canvas = useStore(isCanvas);
  const [edge, setEdge] = useState<{ from: string; to: Point; target: string | null } | null>(null);
  const room = useRef<HTMLDivElement>(null);
  const svg = useRef<SVGSVGElement>(null);
  const panel = useSize(room);
  const drag = useRef<Drag | null>(null);
  const before = useRef<Map<string, Point>>(new Map());

  const removed = source && !canvas ? g.removedObjects(source, graph) : [];
  const everything = removed.length ? { ...graph, objects: [...graph.objects, ...removed] } : graph;
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

  const pointOf = (event: PointerEvent): Point => {
    const frame = svg.current!.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  };
  const nodeAt = (point: Point, except: string | null = null): string | null => {
    const found = graph.objects.find(({ id }) => {
      const [place, size] = [places.get(id), sizes.get(id)];
      if (!place || !size || id === except) return false;
      return Math.abs(point.x - place.x) <= size.width / 2 + 4 && Math.abs(point.y - place.y) <= size.height / 2 + 4;
    });
    return found?.id ?? null;
  };

  const follow = useFrame<Point>((point) => {
    const now = drag.current;
    if (now?.kind === "edge") setEdge({ from: now.id, to: point, target: nodeAt(point, now.id) });
    else if (now?.kind === "node" && now.moved && now.box) {
      showLive(g.changeObject(doc(getState())!.draft, now.id, { box: draggedBox(now.box, now.from, point, panel) }));
    } else if (!now) {
      const id = nodeAt(point);
      if (id !== getState().hover) setState({ hover: id });
    }
  });

  function onPointerDown(event: PointerEvent): void {
    if (event.button !== 0) return;
    const from = pointOf(event);
    const target = (event.target as Element).closest<SVGElement>("[data-port], [data-node]");
    setState({ prompt: null });
    const port = target?.getAttribute("data-port");
    const id = port ?? target?.getAttribute("data-node");
    if (!id) {
      if (!(event.target as Element).closest(".edge")) setState({ selection: null });
      return;
    }
    leaveComparison();
    if (port) drag.current = { kind: "edge", id: port };
    else {
      setState({ selection: { kind: "object", id } });
      target!.focus({ preventScroll: true });
      drag.current = { kind: "node", id, from, box: g.find(graph, id)?.box ?? null, moved: false };
    }
    svg.current!.setPointerCapture(event.pointerId);
  }

  function onPointerMove(event: PointerEvent): void {
    const point = pointOf(event);
    const now = drag.current;
    if (now?.kind === "node" && !now.moved) {
      if (Math.hypot(point.x - now.from.x, point.y - now.from.y) < 4) return;
      now.moved = true;
    }
    follow(point);
  }

  function onPointerUp(event: PointerEvent): void {
    const now = drag.current;
    drag.current = null;
    const point = pointOf(event);
    if (now?.kind === "edge") {
      const target = nodeAt(point, now.id);
      setEdge(null);
      if (target) setState({ prompt: { kind: "predicate", subject: now.id, object: target, x: point.x, y: point.y } });
    } else if (now?.kind === "node" && now.moved && now.box) setBox(now.id, draggedBox(now.box, now.from, point, panel));
  }

  function cancelDrag(): void {
    drag.current = null;
    setEdge(null);
    showLive(null);
  }

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
          onPointerDown={onPointerDown}
          onPointerMove={onPointerMove}
          onPointerUp={onPointerUp}
          onPointerCancel={cancelDrag}
          onDblClick={() => selected !== null && focusName()}
          onPointerLeave={() => !drag.current && setState({ hover: null })}
        >
          <Edges graph={graph} source={canvas ? null : source} places={places} sizes={sizes} panel={panel} quiet={crowded} />
          {edge && <NewEdge from={places.get(edge.from)} to={edge.target ? places.get(edge.target) : edge.to} />}
          {everything.objects.map((object) => {
            const place = places.get(object.id);
            if (!place) return null;
            const gone = removed.includes(object);
            const change = gone ? "gone" : source && !canvas ? g.objectChange(source, object) : "same";
            return (
              <NodeShape
                key={object.id}
                object={object}
                x={Math.round(place.x)}
                y={Math.round(place.y)}
                width={sizes.get(object.id)!.width}
                height={sizes.get(object.id)!.height}
                small={crowded}
                change={change}
                selected={object.id === selected}
                hovered={object.id === hover || edge?.target === object.id}
              />
            );
          })}
        </svg>
        {!graph.objects.length && !removed.length && <p class="empty">{t("graphEmpty")}</p>}
        <PredicatePrompt panel={panel} />
      </div>
    </section>
  );
}

function draggedBox(box: Box, from: Point, to: Point, panel: Size): Box {
  return geo.moved(box, (to.x - from.x) / panel.width, (to.y - from.y) / panel.height);
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

interface NodeProps {
  object: g.SceneObject;
  x: number;
  y: number;
  width: number;
  height: number;
  small: boolean;
  change: g.ObjectChange | "gone";
  selected: boolean;
  hovered: boolean;
}

const NodeShape = memo(({ object, x, y, width, height, small, change, selected, hovered }: NodeProps) => {
  const words = small ? [] : (object.attributes ?? []);
  const gone = change === "gone";

  function onKeyDown(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey) return;
    if (gone && event.key === "Enter") restoreObject(object.id);
    else if (event.key === "Delete" || event.key === "Backspace") removeSelected();
    else if (event.key === "Enter") focusName();
    else if (event.key.toLowerCase() === "r") document.querySelector<HTMLElement>(".relate select")?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  const name = g.describe(object);
  return (
    <g
      class={`node ${change}${selected ? " selected" : ""}${hovered ? " hovered" : ""}`}
      style={{ "--hue": hueOf(object.id) }}
      transform={`translate(${x} ${y})`}
    >
      <g
        data-node={gone ? undefined : object.id}
        tabindex={0}
        role="button"
        aria-pressed={selected}
        aria-label={gone ? t("bringBack", { name }) : t("nodeLabel", { name, change: change === "same" ? "" : t(change) })}
        onFocus={() => !gone && setState({ selection: { kind: "object", id: object.id } })}
        onKeyDown={onKeyDown}
        onClick={() => gone && restoreObject(object.id)}
      >
        <rect class={`body ${change}`} x={-width / 2} y={-height / 2} width={width} height={height} rx="9" />
        {(change === "changed" || change === "new") && <circle class="mark-changed" cx={-width / 2 + 3} cy={-height / 2 + 3} r="6" />}
        <circle class="dot" cx={-width / 2 + 15} cy={words.length ? -8 : 0} r="4.5" />
        <text class="name" x={-width / 2 + 26} y={words.length ? -3.5 : 4.5}>
          {shortened(object.name, width - 40, `600 13px ${FONT}`)}
        </text>
        {words.length > 0 && (
          <text class="attributes" x={-width / 2 + 26} y="13">
            {shortened(words.join(" "), width - 32, `400 11px ${FONT}`)}
          </text>
        )}
      </g>
      {!gone && (
        <g class="port" data-port={object.id}>
          <circle class="reach" cx={width / 2} cy="0" r="13" />
          <circle class="knob" cx={width / 2} cy="0" r="5.5" />
        </g>
      )}
    </g>
  );
});

function shortened(text: string, room: number, font: string): string {
  if (textWidth(text, font) <= room) return text;
  let end = text.length;
  while (end > 1 && textWidth(`${text.slice(0, end)}…`, font) > room) end--;
  return `${text.slice(0, end)}…`;
}

