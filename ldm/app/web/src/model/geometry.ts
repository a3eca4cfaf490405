/** Boxes as fractions of the image, and what a pointer or a key does to them. */

/** x0, y0, x1, y1 in [0, 1] with x0 < x1 and y0 < y1. */
export type Box = [number, number, number, number];
export type Point = { x: number; y: number };
export type Handle = "nw" | "n" | "ne" | "e" | "se" | "s" | "sw" | "w";

export const HANDLES: Handle[] = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
export const MIN_SIDE = 0.02;

const clamp = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);
const round = (value: number) => Math.round(value * 1e4) / 1e4; // short numbers in files and sentences

export const rounded = (box: Box): Box => box.map(round) as Box;

export const width = (box: Box) => box[2] - box[0];
export const height = (box: Box) => box[3] - box[1];
export const centre = (box: Box): Point => ({ x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2 });

/** The box shifted, as far as the image allows. Its size stays. */
export function moved(box: Box, dx: number, dy: number): Box {
  dx = clamp(dx, -box[0], 1 - box[2]);
  dy = clamp(dy, -box[1], 1 - box[3]);
  return rounded([box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy]);
}

/** The box with one corner or side dragged; the opposite one stays. Never smaller than MIN_SIDE. */
export function resized(box: Box, handle: Handle, dx: number, dy: number): Box {
  let [x0, y0, x1, y1] = box;
  if (handle.includes("w")) x0 = clamp(x0 + dx, 0, x1 - MIN_SIDE);
  if (handle.includes("e")) x1 = clamp(x1 + dx, x0 + MIN_SIDE, 1);
  if (handle.includes("n")) y0 = clamp(y0 + dy, 0, y1 - MIN_SIDE);
  if (handle.includes("s")) y1 = clamp(y1 + dy, y0 + MIN_SIDE, 1);
  return rounded([x0, y0, x1, y1]);
}

/** The box of a drag between two points of the image; null if it is too small to be meant. */
export function dragged(from: Point, to: Point): Box | null {
  const [x0, x1] = [from.x, to.x].map((x) => clamp(x, 0, 1)).sort((a, b) => a - b) as [number, number];
  const [y0, y1] = [from.y, to.y].map((y) => clamp(y, 0, 1)).sort((a, b) => a - b) as [number, number];
  return x1 - x0 < MIN_SIDE || y1 - y0 < MIN_SIDE ? null : rounded([x0, y0, x1, y1]);
}

export function contains(box: Box, point: Point): boolean {
  return point.x >= box[0] && point.x <= box[2] && point.y >= box[1] && point.y <= box[3];
}

export const area = (box: Box) => width(box) * height(box);

/** The smallest box under a point, since it is the one that a larger one would cover. */
export function hit<T extends { box: Box | null }>(things: T[], point: Point): T | undefined {
  return things
    .filter((thing) => thing.box && contains(thing.box, point))
    .sort((a, b) => area(a.box!) - area(b.box!))[0];
}

/** The largest size with the aspect ratio of an image that fits into a room. */
export function fit(image: { width: number; height: number }, room: { width: number; height: number }) {
  const scale = Math.min(room.width / image.width, room.height / image.height);
  return { width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)) };
}

/** Where the line from a rectangle's centre to `towards` leaves the rectangle. */
export function border(at: Point, half: { x: number; y: number }, towards: Point): Point {
  const dx = towards.x - at.x;
  const dy = towards.y - at.y;
  if (!dx && !dy) return at;
  const share = Math.min(dx ? half.x / Math.abs(dx) : Infinity, dy ? half.y / Math.abs(dy) : Infinity);
  return { x: at.x + dx * share, y: at.y + dy * share };
}
