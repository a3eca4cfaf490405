import assert from "node:assert/strict";
import { test } from "node:test";
import * as g from "../src/model/graph";

const FILE: g.GraphJson = {
  objects: ["square", "triangle", "square"],
  relationships: [[1, "above", 0], [2, "right of", 0]],
  boxes: [[0.1, 0.7, 0.3, 1], null, [0.5, 0.6, 0.7, 0.8]],
  attributes: [["small"], null, []],
};

test("a graph that is read and written says the same, with ids added", () => {
  const written = g.toJson(g.fromJson(FILE));
  assert.deepEqual(written, { ...FILE, ids: ["o1", "o2", "o3"] });
  assert.deepEqual(g.toJson(g.fromJson(written)), written);
});

test("ids of a file are kept, and new ones differ from them", () => {
  const graph = g.fromJson({ objects: ["a", "b"], ids: [null, "o1"] });
  assert.deepEqual(graph.objects.map((object) => object.id), ["o2", "o1"]);
});

test("unknown and empty attributes and relations stay apart", () => {
  const unknown = g.fromJson({ objects: ["a"] });
  assert.equal(unknown.triples, null);
  assert.equal(unknown.objects[0]!.attributes, null);
  const none = g.fromJson({ objects: ["a"], attributes: [], relationships: [] });
  assert.deepEqual(none.triples, []);
  assert.deepEqual(none.objects[0]!.attributes, []);
  assert.deepEqual(g.toJson(none), { objects: ["a"], relationships: [], attributes: [[]], ids: ["o1"] });
});

test("a removed object takes its relations along, and no others", () => {
  const graph = g.removeObject(g.fromJson(FILE), "o2");
  assert.deepEqual(graph.triples, [["o3", "right of", "o1"]]);
  assert.deepEqual(graph.objects.map((object) => object.id), ["o1", "o3"]);
});

test("an attribute takes the place of one of its group", () => {
  const groups = [["red", "blue"], ["small", "large"]];
  let graph: g.Graph = { objects: [{ id: "a", name: "ball", box: null, attributes: ["small", "red", "shiny"] }], triples: [] };
  graph = g.addAttribute(graph, "a", "blue", groups);
  assert.deepEqual(graph.objects[0]!.attributes, ["small", "blue", "shiny"]);
  graph = g.addAttribute(graph, "a", "striped", groups);
  assert.deepEqual(graph.objects[0]!.attributes, ["small", "blue", "shiny", "striped"]);
  graph = g.removeAttribute(graph, "a", "small");
  assert.deepEqual(graph.objects[0]!.attributes, ["blue", "shiny", "striped"]);
});

test("two objects have one relation in each direction", () => {
  let graph = g.fromJson(FILE);
  graph = g.relate(graph, "o2", "below", "o1");
  assert.deepEqual(graph.triples, [["o2", "below", "o1"], ["o3", "right of", "o1"]]);
  graph = g.relate(graph, "o1", "left of", "o2");
  assert.equal(graph.triples!.length, 3);
  graph = g.relate(graph, "o2", null, "o1");
  assert.deepEqual(g.between(graph, "o2", "o1"), []);
  assert.deepEqual(g.relate(graph, "o1", "above", "o1"), graph);
});

test("graphs that differ in order alone are the same, and others are not", () => {
  const graph = g.fromJson({ ...FILE, attributes: [["small", "red"], null, []] });
  const turned: g.Graph = {
    objects: [...graph.objects].reverse().map((object) => ({ ...object, attributes: object.attributes && [...object.attributes].reverse() })),
    triples: [...graph.triples!].reverse(),
  };
  assert.ok(g.sameGraph(graph, turned));
  assert.ok(!g.sameGraph(graph, g.removeTriple(graph, graph.triples![0]!)));
  assert.ok(!g.sameGraph(graph, g.changeObject(graph, "o2", { attributes: [] })));
});

test("no change touches the graph that it is made from", () => {
  const graph = g.fromJson(FILE);
  const before = JSON.stringify(graph);
  g.addAttribute(g.relate(g.removeObject(graph, "o1"), "o2", "behind", "o3"), "o3", "red");
  g.changeObject(graph, "o1", { name: "circle" });
  assert.equal(JSON.stringify(graph), before);
});

test("what became of an object is told by its id", () => {
  const source = g.fromJson(FILE);
  let draft = g.changeObject(source, "o1", { name: "circle" });
  draft = g.addObject(g.removeObject(draft, "o2"), { id: "o9", name: "circle", box: null, attributes: [] });
  assert.deepEqual(draft.objects.map((object) => g.objectChange(source, object)), ["changed", "same", "new"]);
  assert.deepEqual(g.removedObjects(source, draft).map((object) => object.id), ["o2"]);
});
