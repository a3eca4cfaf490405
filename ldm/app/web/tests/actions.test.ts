import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { answer, GRAPH, node, requests, session, tell, wait } from "./fakes";
import * as draft from "../src/actions/draft";
import { goToNode, runEdit, sweepValues } from "../src/actions/edits";
import { adopt, openSession } from "../src/actions/session";
import { changeObject, fromJson } from "../src/model/graph";
import { doc, getState } from "../src/store";
import { serverWords } from "../src/texts";

const SETTLED = 600; // milliseconds, longer than changes are collected before they are saved and planned
const PLAN = { sentences: [], operations: [], graph: GRAPH, placed: [], nothing: false, everywhere: false, region: null, options: {} };

const sent = (method: string, part: string) => requests.filter((request) => request.method === method && request.path.includes(part));
const box = () => doc(getState())!.draft.objects[0]!.box;

beforeEach(() => {
  answer((request) => (request.path.endsWith("/plan") ? PLAN : undefined));
  openSession(session([node(1)], 1));
  requests.length = 0;
});

test("a changed graph is kept as a draft and planned, and the picture's own graph stays", async () => {
  draft.setBox("o1", [0.5, 0.7, 0.7, 0.9]);
  await wait(SETTLED);
  assert.equal(sent("PUT", "/draft").length, 1);
  assert.equal(sent("PUT", "/graph").length, 0);
  const [plan] = sent("POST", "/plan");
  assert.deepEqual((plan!.body as { graph: typeof GRAPH }).graph.boxes![0], [0.5, 0.7, 0.7, 0.9]);
  assert.equal(getState().plan.status, "ready");
  assert.deepEqual(doc(getState())!.source, fromJson(GRAPH));
});

test("describing changes what the picture shows, and plans nothing", async () => {
  draft.setMode("describe");
  draft.addObject("circle", [0.5, 0.5, 0.7, 0.7]);
  await wait(SETTLED);
  const [kept] = sent("PUT", "/graph");
  assert.deepEqual((kept!.body as { graph: typeof GRAPH }).graph.objects, ["square", "triangle", "circle"]);
  assert.equal(sent("POST", "/plan").length, 0);
  assert.deepEqual(doc(getState())!.source, doc(getState())!.draft);
});

test("many changes in a row are saved once", async () => {
  for (let step = 0; step < 20; step++) draft.setBox("o1", [0.1 + step / 100, 0.7, 0.3 + step / 100, 0.9], "keys o1");
  await wait(SETTLED);
  assert.equal(sent("PUT", "/draft").length, 1);
  assert.equal(getState().line!.past.length, 1);
});

test("undo takes back the change and plans nothing; redo brings it again", async () => {
  draft.setBox("o1", [0.5, 0.7, 0.7, 0.9]);
  await draft.step(true);
  assert.deepEqual(box(), GRAPH.boxes![0]);
  await wait(SETTLED);
  assert.equal(getState().plan.status, "none");
  await draft.step(false);
  assert.deepEqual(box(), [0.5, 0.7, 0.7, 0.9]);
});

test("the result of an edit becomes the current picture, and undo leads back to the change", async () => {
  draft.setBox("o1", [0.5, 0.7, 0.7, 0.9]);
  const made = node(2, { parent: 1, kind: "edit", job: 7, graph: { ...GRAPH, boxes: [[0.5, 0.7, 0.7, 0.9], GRAPH.boxes![1]!] } });
  adopt(session([node(1), made], 2));
  assert.equal(doc(getState())!.node, 2);
  assert.deepEqual(doc(getState())!.source, doc(getState())!.draft);
  await draft.step(true);
  assert.equal(doc(getState())!.node, 1);
  assert.deepEqual(box(), [0.5, 0.7, 0.7, 0.9]);
  assert.deepEqual(sent("POST", "/current").at(-1)!.body, { node: 1 });
});

test("an echo of an earlier state does not take back what was changed since", () => {
  draft.setMode("describe");
  draft.addObject("circle", [0.5, 0.5, 0.7, 0.7]);
  tell({ type: "session", session: session([node(1, { graph: { ...GRAPH, objects: ["square", "square"] } })], 1) });
  assert.equal(doc(getState())!.source!.objects.length, 3);
});

test("what another browser says of the picture is taken over where nothing is unsaved", () => {
  tell({ type: "session", session: session([node(1, { graph: { ...GRAPH, objects: ["circle", "triangle"] } })], 1) });
  assert.equal(doc(getState())!.source!.objects[0]!.name, "circle");
  assert.equal(doc(getState())!.draft.objects[0]!.name, "circle");
});

test("an object that is brought back has its relations and its place in the list again", () => {
  draft.setBox("o2", [0.2, 0.1, 0.4, 0.3]);
  draft.changeGraph((graph) => changeObject(graph, "o2", { name: "circle" }));
  const before = doc(getState())!.draft;
  draft.changeGraph(() => ({ objects: before.objects.slice(1), triples: [] }));
  draft.restoreObject("o1");
  assert.deepEqual(doc(getState())!.draft.objects.map((object) => object.name), ["square", "circle"]);
  assert.deepEqual(doc(getState())!.draft.triples, [["o2", "above", "o1"]]);
});

test("a refused plan is shown in the server's words", async () => {
  answer((request) => (request.path.endsWith("/plan") ? { status: 400, error: "objects[0]: 'squar' is unknown" } : undefined));
  draft.changeGraph((graph) => changeObject(graph, "o1", { name: "squar" }));
  await wait(SETTLED);
  assert.deepEqual(getState().plan, { status: "error", message: "objects[0]: 'squar' is unknown" });
});

test("going to another node is a step, and keeps the change that was left", async () => {
  const both = [node(1), node(2, { parent: 1 })];
  answer((request) => (request.path.endsWith("/current") ? session(both, (request.body as { node: number }).node) : undefined));
  adopt(session(both, 1));
  draft.setBox("o1", [0.5, 0.7, 0.7, 0.9]);
  await goToNode(2);
  assert.deepEqual((sent("PUT", "nodes/1/draft")[0]!.body as { graph: typeof GRAPH }).graph.boxes![0], [0.5, 0.7, 0.7, 0.9]);
  assert.equal(doc(getState())!.node, 2);
  await draft.step(true);
  assert.equal(doc(getState())!.node, 1);
});

test("values of a sweep are numbers in any common notation", () => {
  assert.deepEqual(sweepValues("1, 3;5  0.5"), [1, 3, 5, 0.5]);
  assert.equal(sweepValues("1, x"), null);
  assert.equal(sweepValues(" "), null);
});

test("Edit that is pressed again before the server has answered asks once", async () => {
  draft.setBox("o1", [0.5, 0.7, 0.7, 0.9]);
  await wait(SETTLED);
  await Promise.all([runEdit(), runEdit(), runEdit()]);
  assert.equal(sent("POST", "/edits").length, 1);
});

test("a refusal is said by its code, and in the server's words where the code is new", () => {
  assert.equal(serverWords("x", "unknown_object", { name: "squar", similar: "square" }), "The model does not know the object “squar”. Did you mean square?");
  assert.equal(serverWords("x", "too_many_pixels", { pixels: 24000000, side: 12000 }).includes("24,000,000"), true);
  assert.equal(serverWords("something new", "of_a_later_server", {}), "something new");
});
