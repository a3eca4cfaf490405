/** Places of the graph's nodes: a map of the picture, spread so that labels do not cover one another. */

import { forceLink, forceSimulation, forceX, forceY, type SimulationNodeDatum } from "d3-force";
import { centre, type Point } from "./geometry";
import type { Graph, Triple } from "./graph";

export interface Size {
  width: number;
  height: number;
}

interface Node extends SimulationNodeDatum {
  id: string;
  size: Size;
  anchor: Point | null;
}

const GAP = 10; // pixels between two nodes
const LABELLED_GAP = 44; // above one another, if they are related: room for the label of their edge
const LETTER = 6.5; // width of a letter of a label
const LINK = 120; // pixels between the centres of related nodes, where boxes do not tell

/** Centres of the nodes in a panel, in pixels.
 *
 * @param sizes of the nodes, in pixels.
 * @param labelled whether edges have labels, for which related nodes keep a distance.
 * @param before places that stand already; they keep the picture calm while a box is dragged.
 */
export function layoutGraph(
  graph: Graph,
  panel: Size,
  sizes: ReadonlyMap<string, Size>,
  before: ReadonlyMap<string, Point> = new Map(),
  labelled = true,
): Map<string, Point> {
  const nodes: Node[] = graph.objects.map((object, i) => {
    const size = sizes.get(object.id) ?? { width: 80, height: 32 };
    const anchor = object.box && onPanel(centre(object.box), panel);
    const start = before.get(object.id) ?? anchor ?? spiral(i, panel);
    return { id: object.id, size, anchor, x: start.x, y: start.y };
  });
  const ids = new Set(nodes.map((node) => node.id));
  const links = (graph.triples ?? [])
    .filter(([s, , o]) => ids.has(s) && ids.has(o))
    .map(([source, , target]) => ({ source, target }) as { source: string; target: string });
  const gaps = gapsOf(nodes, labelled ? (graph.triples ?? []) : []);
  const simulation = forceSimulation(nodes)
    .stop()
    .alphaDecay(0)
    .alpha(0.5)
    .velocityDecay(0.5)
    .force("x", forceX<Node>((node) => node.anchor?.x ?? panel.width / 2).strength((node) => (node.anchor ? 0.6 : 0.03)))
    .force("y", forceY<Node>((node) => node.anchor?.y ?? panel.height / 2).strength((node) => (node.anchor ? 0.6 : 0.03)))
    .force(
      "link",
      forceLink<Node, { source: string | Node; target: string | Node }>(links)
        .id((node) => node.id)
        .distance(LINK)
        .strength(({ source, target }) => ((source as Node).anchor && (target as Node).anchor ? 0 : 0.2)),
    );
  for (let tick = 0; tick < (before.size ? 8 : 80); tick++) {
    simulation.tick();
    separate(nodes, gaps, panel);
  }
  for (let pass = 0; pass < (before.size ? 4 : 12); pass++) separate(nodes, gaps, panel);
  return new Map(nodes.map((node) => [node.id, { x: node.x!, y: node.y! }]));
}

/** Whether nodes of these sizes would lie so close that there is no room for what is between them. */
export function isCrowded(sizes: ReadonlyMap<string, Size>, panel: Size): boolean {
  let area = 0;
  for (const { width, height } of sizes.values()) area += (width + LABELLED_GAP) * (height + LABELLED_GAP);
  return area > 0.6 * panel.width * panel.height;
}

/** A point of the image on the panel, and back. */
export function onPanel(point: Point, panel: Size): Point {
  return { x: point.x * panel.width, y: point.y * panel.height };
}

function spiral(index: number, panel: Size): Point {
  const angle = index * 2.399963;
  const radius = 30 * Math.sqrt(index + 0.5);
  return { x: panel.width / 2 + radius * Math.cos(angle), y: panel.height / 2 + radius * Math.sin(angle) };
}

/** What each pair of nodes keeps apart, across and down: more where an edge between them has a label. */
function gapsOf(nodes: Node[], triples: readonly Triple[]): { x: Float64Array; y: Float64Array } {
  const count = nodes.length;
  const index = new Map(nodes.map((node, i) => [node.id, i]));
  const gaps = { x: new Float64Array(count * count).fill(GAP), y: new Float64Array(count * count).fill(GAP) };
  for (const [s, predicate, o] of triples) {
    const [i, j] = [index.get(s), index.get(o)];
    if (i === undefined || j === undefined) continue;
    for (const pair of [i * count + j, j * count + i]) {
      gaps.x[pair] = Math.max(gaps.x[pair]!, LETTER * predicate.length + 32);
      gaps.y[pair] = LABELLED_GAP;
    }
  }
  return gaps;
}

/** Pushes overlapping nodes apart along the axis of the smaller overlap, and all of them into the panel. */
function separate(nodes: Node[], gaps: { x: Float64Array; y: Float64Array }, panel: Size): void {
  const count = nodes.length;
  for (let i = 0; i < count; i++) {
    const a = nodes[i]!;
    for (let j = i + 1; j < count; j++) {
      const b = nodes[j]!;
      const dx = b.x! - a.x!;
      const dy = b.y! - a.y!;
      const overlapY = (a.size.height + b.size.height) / 2 + gaps.y[i * count + j]! - Math.abs(dy);
      if (overlapY <= 0) continue;
      const overlapX = (a.size.width + b.size.width) / 2 + gaps.x[i * count + j]! - Math.abs(dx);
      if (overlapX <= 0) continue;
      if (overlapX < overlapY) {
        const shift = (overlapX / 2) * (dx < 0 ? -1 : 1);
        a.x! -= shift;
        b.x! += shift;
      } else {
        const shift = (overlapY / 2) * (dy < 0 ? -1 : 1);
        a.y! -= shift;
        b.y! += shift;
      }
    }
  }
  for (const node of nodes) {
    node.x = inside(node.x!, node.size.width, panel.width);
    node.y = inside(node.y!, node.size.height, panel.height);
  }
}

function inside(value: number, size: number, room: number): number {
  const margin = size / 2 + 4;
  return room < 2 * margin ? room / 2 : Math.min(Math.max(value, margin), room - margin);
}
