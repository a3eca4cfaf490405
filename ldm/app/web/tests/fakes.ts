/** A server and a browser that are not there: what was asked, and answers in turn. */

import type { SceneNode, ServerEvent, Session } from "../src/api/types";
import type { GraphJson } from "../src/model/graph";

export interface Request {
  method: string;
  path: string;
  body: unknown;
}

export const requests: Request[] = [];
export let socket: { onmessage?: (event: { data: string }) => void; onopen?: () => void; onclose?: (event: { code: number }) => void } = {};

let answers: ((request: Request) => unknown) | null = null;

/** Sets what the server answers from now on; undefined stands for an empty object. */
export function answer(by: (request: Request) => unknown): void {
  answers = by;
}

export function tell(event: ServerEvent): void {
  socket.onmessage!({ data: JSON.stringify(event) });
}

/** Waits until nothing is left to do for so many milliseconds. */
export const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

class FakeSocket {
  constructor() {
    socket = this as typeof socket;
  }
  close(): void {}
}

async function fakeFetch(path: string, init: { method: string; body: string | null }) {
  const request = { method: init.method, path, body: init.body === null ? null : JSON.parse(init.body) };
  requests.push(request);
  const data = answers?.(request) ?? {};
  const status = (data as { status?: number }).status ?? 200;
  return { ok: status < 300, status, statusText: "", text: async () => JSON.stringify(data) };
}

Object.assign(globalThis, {
  window: globalThis,
  fetch: fakeFetch,
  WebSocket: FakeSocket,
  document: { title: "", baseURI: "http://127.0.0.1:1/", documentElement: { dataset: {}, lang: "" } },
  location: { hash: "", pathname: "/" },
  history: { replaceState() {} },
});
Object.defineProperty(globalThis, "setInterval", { value: () => 0 }); // no pings that keep the process alive

export const PICTURE = { id: "a".repeat(32), url: "api/images/a.png", width: 64, height: 64 };

export const GRAPH: GraphJson = {
  objects: ["square", "triangle"],
  relationships: [[1, "above", 0]],
  boxes: [[0.1, 0.7, 0.3, 0.9], [0.1, 0.1, 0.3, 0.3]],
  attributes: [["red"], []],
  ids: ["o1", "o2"],
};

export function node(id: number, change: Partial<SceneNode> = {}): SceneNode {
  return {
    id,
    session: "s",
    parent: null,
    kind: "photograph",
    created: "",
    image: PICTURE,
    graph: GRAPH,
    draft: null,
    job: null,
    difference: null,
    sentences: null,
    operations: null,
    options: null,
    n: null,
    sweep: null,
    style: null,
    mask: null,
    region: null,
    region_share: null,
    attention: null,
    verdict: null,
    seconds: null,
    ...change,
  };
}

export function session(nodes: SceneNode[], current: number): Session {
  return { id: "s", title: "", created: "", updated: "", current, can_undo: false, can_redo: false, nodes, jobs: [] };
}
