/** The relations of the graph as arrows with a label each. */

import { removeSelected } from "../actions/draft";
import { border, type Point } from "../model/geometry";
import { describe, find, type Graph, sameTriple, type Triple, tripleKey } from "../model/graph";
import type { Size } from "../model/layout";
import { getState, setState, useStore } from "../store";
import { t } from "../texts";
import { FONT, hueOf, textWidth } from "./hooks";

interface Props {
  graph: Graph;
  source: Graph | null;
  places: ReadonlyMap<string, Point>;
  sizes: ReadonlyMap<string, Size>;
  panel: Size;
  quiet: boolean; // labels only where something is selected, hovered or new
}

interface Edge {
  triple: Triple;
  path: string;
  label: Point;
  width: number;
  state: "same" | "new" | "gone" | "dropped";
}

const LABEL_HEIGHT = 20;
const LABEL_FONT = `500 11.5px ${FONT}`;
const BEND = 16; // pixels by which two opposite edges keep apart

export function Edges({ graph, source, places, sizes, panel, quiet }: Props) {
  const selection = useStore((s) => s.selection);
  const hover = useStore((s) => s.hover);
  const dropped = useStore((s) => (s.plan.status === "ready" || s.plan.status === "stale" ? s.plan.plan?.dropped : undefined)) ?? [];
  const edges = routed(withStates(graph, source, dropped), places, sizes, panel);
  const chosen = selection?.kind === "object" ? selection.id : null;
  return (
    <g class="edges">
      <defs>
        <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
          <path d="M1 1l6 3-6 3" />
        </marker>
      </defs>
      {edges.map((edge) => (
        <EdgeShape
          key={tripleKey(edge.triple) + edge.state}
          edge={edge}
          name={edgeWords(graph, source, edge.triple)}
          selected={selection?.kind === "triple" && sameTriple(selection.triple, edge.triple)}
          quiet={quiet}
          near={[chosen, hover].some((id) => id !== null && (edge.triple[0] === id || edge.triple[2] === id))}
        />
      ))}
    </g>
  );
}

function edgeWords(graph: Graph, source: Graph | null, [s, predicate, o]: Triple): string {
  const name = (id: string) => {
    const object = find(graph, id) ?? (source && find(source, id));
    return object ? describe(object) : "";
  };
  return `${name(s)} ${predicate} ${name(o)}`;
}

/** All relations of the draft, and those of the source graph that it has no longer. */
function withStates(graph: Graph, source: Graph | null, dropped: Triple[]): [Triple, Edge["state"]][] {
  const before = source?.triples ?? [];
  const known = (triple: Triple) => before.some((other) => sameTriple(other, triple));
  const now = (graph.triples ?? []).map((triple): [Triple, Edge["state"]] => {
    if (dropped.some((other) => sameTriple(other, triple))) return [triple, "dropped"];
    return [triple, !source || known(triple) ? "same" : "new"];
  });
  const gone = before
    .filter((triple) => !(graph.triples ?? []).some((other) => sameTriple(other, triple)))
    .filter(([s, , o]) => find(graph, s) && find(graph, o))
    .filter(([s, , o]) => !(graph.triples ?? []).some((other) => other[0] === s && other[2] === o));
  return [...now, ...gone.map((triple): [Triple, Edge["state"]] => [triple, "gone"])];
}

/** Paths from border to border, bent where there are several between two nodes, and labels that cover little. */
function routed(triples: [Triple, Edge["state"]][], places: Props["places"], sizes: Props["sizes"], panel: Size): Edge[] {
  const taken: [Point, Size][] = [...places].map(([id, place]) => [place, sizes.get(id) ?? { width: 80, height: 34 }]);
  const pairs = new Map<string, number>();
  const edges: Edge[] = [];
  for (const [triple, state] of triples) {
    const [subject, predicate, object] = triple;
    const [from, to] = [places.get(subject), places.get(object)];
    if (!from || !to) continue;
    const pair = [subject, object].sort().join("\u0000");
    const several = triples.filter(([[s, , o]]) => [s, o].sort().join("\u0000") === pair).length > 1;
    const number = pairs.get(pair) ?? 0;
    pairs.set(pair, number + 1);
    const bend = several ? BEND * (1 + Math.floor(number / 2)) * (subject < object ? 1 : -1) * (number % 2 && subject < object ? -1 : 1) : 0;
    const middle = bent(from, to, bend);
    const start = border(from, half(sizes.get(subject)), middle);
    const end = border(to, half(sizes.get(object)), middle);
    const control = { x: 2 * middle.x - (start.x + end.x) / 2, y: 2 * middle.y - (start.y + end.y) / 2 };
    const width = textWidth(predicate, LABEL_FONT) + 14;
    const label = labelPlace(start, control, end, { width, height: LABEL_HEIGHT }, taken, panel);
    taken.push([label, { width, height: LABEL_HEIGHT }]);
    edges.push({ triple, state, width, label, path: `M${xy(start)}Q${xy(control)} ${xy(end)}` });
  }
  return edges;
}

const xy = ({ x, y }: Point) => `${x.toFixed(1)} ${y.toFixed(1)}`;
const half = (size: Size | undefined): Point => ({ x: (size?.width ?? 80) / 2 + 3, y: (size?.height ?? 34) / 2 + 3 });

function bent(from: Point, to: Point, bend: number): Point {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [nx, ny] = [(to.y - from.y) / length, (from.x - to.x) / length];
  return { x: (from.x + to.x) / 2 + bend * nx, y: (from.y + to.y) / 2 + bend * ny };
}

function labelPlace(start: Point, control: Point, end: Point, size: Size, taken: [Point, Size][], panel: Size): Point {
  let best = { place: start, cost: Infinity };
  for (const share of [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74]) {
    const [a, b, c] = [(1 - share) ** 2, 2 * share * (1 - share), share ** 2];
    const x = a * start.x + b * control.x + c * end.x;
    const y = a * start.y + b * control.y + c * end.y;
    const place = {
      x: Math.min(Math.max(x, size.width / 2 + 2), Math.max(panel.width - size.width / 2 - 2, size.width / 2 + 2)),
      y: Math.min(Math.max(y, size.height / 2 + 2), Math.max(panel.height - size.height / 2 - 2, size.height / 2 + 2)),
    };
    const cost = taken.reduce((sum, [other, room]) => sum + overlap(place, size, other, room), Math.abs(share - 0.5));
    if (cost < best.cost) best = { place, cost };
  }
  return best.place;
}

function overlap(a: Point, aSize: Size, b: Point, bSize: Size): number {
  const x = (aSize.width + bSize.width) / 2 - Math.abs(a.x - b.x);
  const y = (aSize.height + bSize.height) / 2 - Math.abs(a.y - b.y);
  return x > 0 && y > 0 ? x * y : 0;
}

interface EdgeProps {
  edge: Edge;
  name: string;
  selected: boolean;
  near: boolean;
  quiet: boolean;
}

function EdgeShape({ edge, name, selected, near, quiet }: EdgeProps) {
  const { triple, path, label, width, state } = edge;
  const select = () => setState({ selection: { kind: "triple", triple } });

  function onKeyDown(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") ask();
    else if (event.key === "Delete" || event.key === "Backspace") {
      select();
      removeSelected();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function ask(): void {
    if (state === "gone") return;
    select();
    const [subject, , object] = triple;
    const { prompt } = getState();
    const open = prompt?.kind === "predicate" && prompt.subject === subject && prompt.object === object;
    setState({ prompt: open ? null : { kind: "predicate", subject, object, x: label.x, y: label.y + 14 } });
  }

  return (
    <g class={`edge ${state}${selected ? " selected" : ""}${near ? " near" : ""}`} style={{ "--hue": hueOf(triple[0]) }}>
      <path d={path} marker-end="url(#arrow)" onClick={ask} />
      <g
        class={quiet && !near && !selected && state === "same" ? "hidden-label" : ""}
        tabindex={state === "gone" ? -1 : 0}
        role="button"
        aria-pressed={selected}
        aria-label={t("edgeLabel", { name })}
        onClick={ask}
        onKeyDown={onKeyDown}
        transform={`translate(${label.x.toFixed(1)} ${label.y.toFixed(1)})`}
      >
        <rect class="touch" x={-width / 2 - 4} y="-16" width={width + 8} height="32" />
        <rect class="pill" x={-width / 2} y={-LABEL_HEIGHT / 2} width={width} height={LABEL_HEIGHT} rx="10" />
        <text y="4">{triple[1]}</text>
      </g>
    </g>
  );
}
