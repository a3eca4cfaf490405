/** Boxes in pixels of the picture as it is shown. */

import * as geo from "../model/geometry";
import type { Box } from "../model/geometry";

/** The picture's size on the screen. */
export interface Frame {
  width: number;
  height: number;
}

export function pixels(box: Box, width: number, height: number) {
  return { x: box[0] * width, y: box[1] * height, width: geo.width(box) * width, height: geo.height(box) * height };
}
