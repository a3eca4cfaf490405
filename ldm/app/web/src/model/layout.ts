/** Places of the graph's nodes: a map of the picture, spread so that labels do not cover one another. */

import { forceLink, forceSimulation, forceX, forceY, type SimulationNodeDatum } from "d3-force";
import { centre, type Point } from "./geometry";
import type { Graph } from "./graph";

export interface Size {
  width: number;
  height: number;
}

interface Node extends SimulationNodeDatum {
  id: string;
  size: Size;
  anchor: Point | null;
}

const GAP = 14; // pixels between two nodes
const LINK = 120; // pixels between the centres of related nodes, where boxes do not tell

/** Centres of the nodes in a panel, in pixels.
 *
 * @param sizes of the nodes, in pixels.
 * @param before places that stand already; they keep the picture calm while a box is dragged.
 */
export function layoutGraph(
  graph: Graph,
  panel: Size,
  sizes: ReadonlyMap<string, Size>,
  before: ReadonlyMap<string, Point> = new Map(),
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
    .map(([source, , target]) => ({ source, target }));
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
  for (let tick = 0; tick < (before.size ? 24 : 80); tick++) {
    simulation.tick();
    separate(nodes, panel);
  }
  for (let pass = 0; pass < 12; pass++) separate(nodes, panel);
  return new Map(nodes.map((node) => [node.id, { x: node.x!, y: node.y! }]));
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

/** Pushes overlapping nodes apart along the axis of the smaller overlap, and all of them into the panel. */
function separate(nodes: Node[], panel: Size): void {
  for (let i = 0; i < nodes.length; i++) {
    for (let j = i + 1; j < nodes.length; j++) {
      const a = nodes[i]!;
      const b = nodes[j]!;
      const dx = b.x! - a.x!;
      const dy = b.y! - a.y!;
      const overlapX = (a.size.width + b.size.width) / 2 + GAP - Math.abs(dx);
      const overlapY = (a.size.height + b.size.height) / 2 + GAP - Math.abs(dy);
      if (overlapX <= 0 || overlapY <= 0) continue;
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
