/** Where the names of the boxes stand on the picture. */

import { describe, type SceneObject } from "../model/graph";
import { pixels } from "./boxes";
import { FONT, shortened, textWidth } from "./hooks";

const CROWDED = 14; // with more objects, only the labels of the selected and the hovered are shown
const NARROW = 420; // pixels; on a smaller picture, labels have the name alone
const LABEL_FONT = `600 12px ${FONT}`;

interface Label {
  x: number;
  y: number;
  width: number;
  text: string;
}

/** Labels above their boxes, else within; each takes the first place that covers no other label. */
export function placeLabels(objects: SceneObject[], selected: string | null, hover: string | null, width: number, height: number) {
  const placed = new Map<string, Label>();
  const order = [...objects].sort((a, b) => Number(b.id === selected) - Number(a.id === selected));
  for (const object of order) {
    if (!object.box || (objects.length > CROWDED && object.id !== selected && object.id !== hover)) continue;
    const { x, y, width: w, height: h } = pixels(object.box, width, height);
    const text = width < NARROW ? object.name : describe(object);
    const shown = shortened(text, width - 14, LABEL_FONT);
    const long = textWidth(shown, LABEL_FONT) + 14;
    const left = Math.min(Math.max(0, x), width - long);
    const places = [[left, y - 22], [left, y + h + 2], [left, y + 2], [Math.max(0, x + w - long), y - 22], [left, y + h - 22]];
    const free = places.find(([a, b]) => b! >= 0 && b! + 20 <= height && ![...placed.values()].some((p) => covers(p, a!, b!, long)));
    const [px, py] = free ?? places[2]!;
    placed.set(object.id, { x: px!, y: py!, width: long, text: shown });
  }
  return placed;
}

function covers(label: Label, x: number, y: number, long: number): boolean {
  return x < label.x + label.width && label.x < x + long && Math.abs(y - label.y) < 20;
}
