import assert from "node:assert/strict";
import { test } from "node:test";
import { type Box, border, dragged, fit, HANDLES, height, hit, MIN_SIDE, moved, resized, width } from "../src/model/geometry";

/** Numbers in [0, 1) that are the same in every run (Lehmer's generator). */
function* numbers(seed = 1) {
  for (;;) yield (seed = (seed * 48271) % 2147483647) / 2147483647;
}

const random = numbers();
const next = () => random.next().value as number;

function randomBox(): Box {
  const [w, h] = [MIN_SIDE + 0.5 * next(), MIN_SIDE + 0.5 * next()];
  const [x, y] = [next() * (1 - w), next() * (1 - h)];
  return [x, y, x + w, y + h];
}

test("a moved box keeps its size and stays in the image", () => {
  for (let i = 0; i < 500; i++) {
    const box = randomBox();
    const to = moved(box, 3 * next() - 1.5, 3 * next() - 1.5);
    assert.ok(to[0] >= 0 && to[1] >= 0 && to[2] <= 1 && to[3] <= 1, `${box} -> ${to}`);
    assert.ok(Math.abs(width(to) - width(box)) < 2e-4 && Math.abs(height(to) - height(box)) < 2e-4);
  }
});

test("a resized box has its minimal side, stays in the image and keeps the opposite corner", () => {
  for (let i = 0; i < 500; i++) {
    const box = randomBox();
    for (const handle of HANDLES) {
      const to = resized(box, handle, 3 * next() - 1.5, 3 * next() - 1.5);
      assert.ok(to[0] >= 0 && to[1] >= 0 && to[2] <= 1 && to[3] <= 1);
      assert.ok(width(to) >= MIN_SIDE - 2e-4 && height(to) >= MIN_SIDE - 2e-4);
      if (!handle.includes("w")) assert.ok(Math.abs(to[0] - box[0]) < 1e-4);
      if (!handle.includes("n")) assert.ok(Math.abs(to[1] - box[1]) < 1e-4);
      if (!handle.includes("e")) assert.ok(Math.abs(to[2] - box[2]) < 1e-4);
      if (!handle.includes("s")) assert.ok(Math.abs(to[3] - box[3]) < 1e-4);
    }
  }
});

test("a drag in any direction gives the same box, and a click gives none", () => {
  const box: Box = [0.2, 0.3, 0.6, 0.9];
  for (const [x, u] of [[0.2, 0.6], [0.6, 0.2]]) {
    for (const [y, v] of [[0.3, 0.9], [0.9, 0.3]]) assert.deepEqual(dragged({ x: x!, y: y! }, { x: u!, y: v! }), box);
  }
  assert.equal(dragged({ x: 0.5, y: 0.5 }, { x: 0.51, y: 0.9 }), null);
  assert.deepEqual(dragged({ x: 0.5, y: 0.5 }, { x: 2, y: -1 }), [0.5, 0, 1, 0.5]);
});

test("under a point, the smallest box is hit", () => {
  const things = [
    { name: "large", box: [0, 0, 1, 1] as Box },
    { name: "small", box: [0.4, 0.4, 0.6, 0.6] as Box },
    { name: "placeless", box: null },
  ];
  assert.equal(hit(things, { x: 0.5, y: 0.5 })?.name, "small");
  assert.equal(hit(things, { x: 0.1, y: 0.5 })?.name, "large");
  assert.equal(hit(things.slice(1), { x: 0.1, y: 0.5 }), undefined);
});

test("an image is fitted without distortion and fills one side", () => {
  assert.deepEqual(fit({ width: 64, height: 64 }, { width: 500, height: 400 }), { width: 400, height: 400 });
  assert.deepEqual(fit({ width: 400, height: 100 }, { width: 500, height: 400 }), { width: 500, height: 125 });
});

test("an edge begins on the border of its node", () => {
  const at = { x: 10, y: 10 };
  assert.deepEqual(border(at, { x: 4, y: 2 }, { x: 100, y: 10 }), { x: 14, y: 10 });
  assert.deepEqual(border(at, { x: 4, y: 2 }, { x: 10, y: -100 }), { x: 10, y: 8 });
  assert.deepEqual(border(at, { x: 4, y: 2 }, { x: 30, y: 20 }), { x: 14, y: 12 });
  assert.deepEqual(border(at, { x: 4, y: 2 }, at), at);
});
