/** Requests to the server. Errors carry the server's own sentence. */

import type * as t from "./types";
import type { GraphJson } from "../model/graph";
import type { Choice, Pair } from "../votes/ballot";

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code = "",
    readonly values: Record<string, string | number> = {},
  ) {
    super(message);
  }
}

let token = "";

export function setToken(value: string): void {
  token = value;
}

/** The address of a picture or a download, which cannot send a header. */
export function address(path: string, query: Record<string, string | number> = {}): string {
  const parameters = new URLSearchParams({ ...stringified(query), token });
  return `${path}?${parameters}`;
}

/** A small copy of a picture, for strips and trees. */
export function thumbnail(picture: { id: string }, height: number): string {
  return address(`api/images/${picture.id}.webp`, { height });
}

export function eventsAddress(session: string): string {
  const url = new URL(address("api/events", { session }), document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

type Query = Record<string, string | number | undefined>;

function stringified(query: Query): Record<string, string> {
  const given = Object.entries(query).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given.map(([name, value]) => [name, String(value)]));
}

async function request<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { Authorization: `Bearer ${token}` };
  const raw = body instanceof Blob;
  if (body !== undefined && !raw) headers["Content-Type"] = "application/json";
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers,
      signal: signal ?? null,
      body: body === undefined ? null : raw ? (body as Blob) : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("", 0); // the server does not answer; the page has its own words for that
  }
  const text = await answer.text();
  let data: unknown = null;
  try {
    data = JSON.parse(text);
  } catch {
    if (answer.ok) return text as T;
  }
  if (answer.ok) return data as T;
  const told = data as { error?: string; code?: string; values?: Record<string, string | number> } | null;
  throw new ApiError(told?.error ?? `${answer.status} ${answer.statusText}`, answer.status, told?.code, told?.values);
}

const get = <T>(path: string, signal?: AbortSignal) => request<T>("GET", path, undefined, signal);
const post = <T>(path: string, body: unknown = {}, signal?: AbortSignal) => request<T>("POST", path, body, signal);
const query = (path: string, parameters: Query) => `${path}?${new URLSearchParams(stringified(parameters))}`;

export const app = () => get<t.AppInfo>("api/app");
export const options = () => get<t.OptionLists>("api/options");
export const vocabulary = () => get<t.Vocabulary>("api/vocabulary");
export const examples = () => get<{ examples: t.Example[] }>("api/examples");
export const resolve = (kind: t.WordKind, text: string, signal?: AbortSignal) =>
  get<t.Resolution>(query("api/resolve", { kind, text, limit: 8 }), signal);

export const uploadImage = (file: Blob) => post<t.Picture>("api/images", file);
/** @param of the picture that the graph describes, or the node whose edited graph it is. */
export const readGraphFile = (file: Blob, name: string, of: { image?: string; node?: number }) =>
  post<t.ReadGraphs>(query("api/graphs", { name, ...of }), file);

export const sessions = () => get<{ sessions: t.SessionSummary[] }>("api/sessions");
export const session = (id: string) => get<t.Session>(`api/sessions/${id}`);
export const createSession = (
  body:
    | { image: string; title?: string; graph?: GraphJson }
    | { example: string; title?: string }
    | { canvas: { width: number; height: number }; graph?: GraphJson; title?: string },
) => post<t.Session>("api/sessions", body);
export const renameSession = (id: string, title: string) => request<t.Session>("PATCH", `api/sessions/${id}`, { title });
export const deleteSession = (id: string) => request<unknown>("DELETE", `api/sessions/${id}`);

export const goTo = (id: string, node: number) => post<t.Session>(`api/sessions/${id}/current`, { node });
export const undo = (id: string) => post<t.Session>(`api/sessions/${id}/undo`);
export const redo = (id: string) => post<t.Session>(`api/sessions/${id}/redo`);
export const setNodeGraph = (node: number, graph: GraphJson | null) =>
  request<t.Session>("PUT", `api/nodes/${node}/graph`, { graph });
export const setNodeDraft = (node: number, graph: GraphJson | null) =>
  request<unknown>("PUT", `api/nodes/${node}/draft`, { graph });
export const deleteNode = (node: number) => request<t.Session>("DELETE", `api/nodes/${node}`);
export const compare = (a: number, b: number) => get<t.Comparison>(`api/nodes/${a}/compare/${b}`);
export const readPicture = (id: string, node: number) =>
  post<{ graph: GraphJson | null; note: string }>(`api/sessions/${id}/read`, { node });

export const plan = (id: string, body: t.PlanRequest, signal?: AbortSignal) =>
  post<t.Plan>(`api/sessions/${id}/plan`, body, signal);
export const edit = (id: string, body: t.EditRequest) => post<t.Job>(`api/sessions/${id}/edits`, body);
export const attention = (id: string, node: number) => post<t.Job>(`api/sessions/${id}/attention`, { node });
export const clip = (id: string, body: t.PlanRequest) => post<t.Job>(`api/sessions/${id}/clip`, body);
export const cancel = (job: number) => request<t.Job>("DELETE", `api/jobs/${job}`);
export const text = (path: string) => get<string>(path);

/** The pairs of a vote, in the rater's own order. */
export const votePairs = (rater: string) => get<{ pairs: Pair[] }>(query("api/pairs", { rater }));
export const castVote = (body: { rater: string; pair: string; choice: Choice | null }) => post<unknown>("api/votes", body);
