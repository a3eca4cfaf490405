import assert from "node:assert/strict";
import { test } from "node:test";
import { fromJson } from "../src/model/graph";
import { layoutGraph, type Size } from "../src/model/layout";
import { begin, LIMIT, record, redo, undo } from "../src/model/timeline";
import { treePlaces } from "../src/model/tree";

test("undo returns every earlier value in turn, and redo every later one", () => {
  let line = begin(0);
  for (let value = 1; value <= 5; value++) line = record(line, value);
  for (let value = 4; value >= 0; value--) assert.equal((line = undo(line)).present, value);
  assert.equal(undo(line), line);
  for (let value = 1; value <= 5; value++) assert.equal((line = redo(line)).present, value);
  assert.equal(redo(line), line);
});

test("a step after undo replaces what was undone", () => {
  const line = record(undo(record(record(begin("a"), "b"), "c")), "d");
  assert.deepEqual([line.past, line.present, line.future], [["a", "b"], "d", []]);
});

test("the parts of one gesture are one step", () => {
  let line = begin(0);
  for (const value of [1, 2, 3]) line = record(line, value, "nudge");
  line = record(line, 4, "other");
  assert.deepEqual([line.past, line.present], [[0, 3], 4]);
  assert.equal(undo(undo(line)).present, 0);
});

test("undo remembers a limited number of steps", () => {
  let line = begin(0);
  for (let value = 1; value <= 3 * LIMIT; value++) line = record(line, value);
  assert.equal(line.past.length, LIMIT);
});

test("in a history, branches have lanes of their own and generations columns", () => {
  const items = [["a", null], ["b", "a"], ["c", "a"], ["d", "b"], ["e", "b"], ["f", "c"], ["x", "gone"]] as const;
  const places = treePlaces(items.map(([id, parent]) => ({ id, parent })));
  assert.deepEqual(Object.fromEntries([...places].map(([id, { column, lane }]) => [id, [column, lane]])), {
    a: [0, 0], b: [1, 0], d: [2, 0], e: [2, 1], c: [1, 2], f: [2, 2], x: [0, 3],
  });
});

const PANEL = { width: 480, height: 480 };

test("nodes of a graph do not cover one another and lie within the panel", () => {
  const count = 16;
  const boxes = Array.from({ length: count }, (_, i) => {
    const [x, y] = [0.05 + (i % 4) * 0.22, 0.4 + Math.floor(i / 4) * 0.05];
    return [x, y, x + 0.2, y + 0.2];
  });
  const graph = fromJson({ objects: Array.from({ length: count }, (_, i) => `thing ${i}`), boxes });
  const sizes = new Map<string, Size>(graph.objects.map((object) => [object.id, { width: 84, height: 34 }]));
  const places = [...layoutGraph(graph, PANEL, sizes).values()];
  for (const [i, a] of places.entries()) {
    assert.ok(a.x >= 42 && a.x <= 438 && a.y >= 17 && a.y <= 463);
    for (const b of places.slice(i + 1)) assert.ok(Math.abs(a.x - b.x) > 80 || Math.abs(a.y - b.y) > 30);
  }
});

test("a graph that has room is a map of the picture", () => {
  const graph = fromJson({ objects: ["a", "b"], boxes: [[0.1, 0.1, 0.3, 0.3], [0.7, 0.6, 0.9, 0.8]], relationships: [[0, "above", 1]] });
  const places = layoutGraph(graph, PANEL, new Map());
  for (const [id, x, y] of [["o1", 96, 96], ["o2", 384, 336]] as const) {
    assert.ok(Math.hypot(places.get(id)!.x - x, places.get(id)!.y - y) < 6);
  }
});

test("nodes without a box find a place, the same in every call", () => {
  const graph = fromJson({ objects: ["a", "b", "c"], relationships: [[0, "on", 1]] });
  const places = layoutGraph(graph, PANEL, new Map());
  assert.deepEqual(places, layoutGraph(graph, PANEL, new Map()));
  for (const place of places.values()) assert.ok(Number.isFinite(place.x) && Number.isFinite(place.y));
});
