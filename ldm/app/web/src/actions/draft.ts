/** Changes of the graph: recorded for undo, kept on the server, and planned while they are made. */

import * as api from "../api/client";
import type { PlanRequest } from "../api/types";
import type { Box } from "../model/geometry";
import * as g from "../model/graph";
import { record, redo, undo } from "../model/timeline";
import { type Doc, doc, getState, isCanvas, type Mode, setState, shownGraph } from "../store";
import { t } from "../texts";
import { attempt, wordsOf } from "./toasts";

const SAVE_DELAY = 350; // milliseconds without a change
const PLAN_DELAY = 90;

/** What the server has of each node, by identity of the values. */
const saved = new Map<number, { source: g.Graph | null; draft: g.Graph }>();

export function markSaved({ node, source, draft }: Doc): void {
  saved.set(node, { source, draft });
}

export function changeDoc(change: Partial<Doc>, gesture: string | null = null): void {
  const { line } = getState();
  if (!line) return;
  setState({ line: record(line, { ...line.present, ...change }, gesture), live: null });
  replan();
}

/** Applies a change to the graph that is being edited: in mode "describe" to both graphs, so that nothing is planned. */
export function changeGraph(change: (graph: g.Graph) => g.Graph, gesture: string | null = null): void {
  const state = getState();
  const at = doc(state);
  if (!at) return;
  const next: Partial<Doc> = { draft: change(at.draft) };
  if (describes(state.mode)) next.source = change(at.source ?? g.EMPTY);
  leaveComparison();
  changeDoc(next, gesture);
}

const describes = (mode: Mode) => mode === "describe" && !isCanvas(getState());

/** Replaces what the picture shows. The draft begins anew from it. */
export function setSource(source: g.Graph, mode: Mode = "describe"): void {
  leaveComparison();
  setState({ mode, selection: null });
  changeDoc({ source, draft: source });
}

/** A drag under way: shown and planned, not recorded. */
export function showLive(live: g.Graph | null): void {
  setState({ live });
  if (live && !describes(getState().mode)) planSoon(180);
}

export function setMode(mode: Mode): void {
  leaveComparison();
  setState({ mode });
}

export function leaveComparison(): void {
  if (getState().comparison || getState().grid) setState({ comparison: null, grid: false });
}

// Objects and relations ----------------------------------------------------------------------------------------------------

export function addObject(name: string, box: Box | null): void {
  const at = doc(getState());
  if (!at) return;
  const taken = [...at.draft.objects, ...(at.source?.objects ?? [])].map((object) => object.id);
  const id = g.freeId(taken);
  changeGraph((graph) => g.addObject(graph, { id, name, box, attributes: [] }));
  const tool = describes(getState().mode) ? getState().tool : "select"; // who describes draws one box after the other
  setState({ selection: { kind: "object", id }, tool, prompt: null });
}

export function removeSelected(): void {
  const { selection } = getState();
  if (selection?.kind === "object") changeGraph((graph) => g.removeObject(graph, selection.id));
  else if (selection?.kind === "triple") changeGraph((graph) => g.removeTriple(graph, selection.triple));
  setState({ selection: null });
}

/** Brings back an object that was removed from the draft, with its relations to what is there. */
export function restoreObject(id: string): void {
  const source = doc(getState())?.source;
  const object = source && g.find(source, id);
  if (!source || !object) return;
  changeGraph((graph) => {
    const place = source.objects.filter((other) => other.id === id || g.find(graph, other.id)).findIndex((o) => o.id === id);
    const objects = [...graph.objects.slice(0, place), object, ...graph.objects.slice(place)];
    const back = (source.triples ?? []).filter(
      ([s, , o]) => (s === id || o === id) && objects.some((x) => x.id === s) && objects.some((x) => x.id === o),
    );
    return { objects, triples: [...(graph.triples ?? []), ...back] };
  });
  setState({ selection: { kind: "object", id } });
}

export function setBox(id: string, box: Box | null, gesture: string | null = null): void {
  changeGraph((graph) => g.changeObject(graph, id, { box }), gesture);
}

export function relate(subject: string, predicate: string | null, object: string): void {
  changeGraph((graph) => g.relate(graph, subject, predicate, object));
  setState({
    prompt: null,
    selection: predicate === null ? { kind: "object", id: subject } : { kind: "triple", triple: [subject, predicate, object] },
  });
}

/** Takes the draft back to what the picture shows. */
export function discardDraft(): void {
  const at = doc(getState());
  if (at) changeDoc({ draft: at.source ?? g.EMPTY, style: null, mask: null });
  setState({ selection: null });
}

// Undo ---------------------------------------------------------------------------------------------------------------------

export const canUndo = (): boolean => !!getState().line?.past.length || !!getState().session?.can_undo;
export const canRedo = (): boolean => !!getState().line?.future.length || !!getState().session?.can_redo;

/** One step back or on: in the changes of this visit, and beyond them in the tree that the server keeps. */
export async function step(back: boolean): Promise<void> {
  const { line, session } = getState();
  if (!line || !session) return;
  const next = back ? undo(line) : redo(line);
  if (next !== line) {
    const known = session.nodes.some((node) => node.id === next.present.node);
    setState({ line: next, live: null, selection: null, prompt: null, comparison: null, grid: false });
    if (known && next.present.node !== line.present.node) {
      await attempt(async () => setState({ session: await api.goTo(session.id, next.present.node) }));
    }
    replan();
  } else if (back ? session.can_undo : session.can_redo) {
    await attempt(() => (back ? api.undo(session.id) : api.redo(session.id))); // the session event brings the node
  }
}

// Saving and planning ------------------------------------------------------------------------------------------------------

let saveTimer = 0;
let planTimer = 0;
let planning: AbortController | null = null;
let saving: Promise<void> = Promise.resolve();

/** After every change: keep it, and say what an edit would do. */
export function replan(): void {
  window.clearTimeout(saveTimer);
  saveTimer = window.setTimeout(() => void attempt(save), SAVE_DELAY);
  planSoon(PLAN_DELAY);
}

function planSoon(delay: number): void {
  const { plan } = getState();
  if (plan.status === "ready") setState({ plan: { status: "stale", plan: plan.plan } });
  if (planTimer && delay > PLAN_DELAY) return; // during a drag: at this pace, not only after it
  window.clearTimeout(planTimer);
  planTimer = window.setTimeout(() => {
    planTimer = 0;
    void makePlan();
  }, delay);
}

/** Sends what the server does not have yet, one request after the other. */
export function save(): Promise<void> {
  saving = saving.catch(() => undefined).then(send);
  return saving;
}

async function send(): Promise<void> {
  const at = doc(getState());
  if (!at) return;
  const known = saved.get(at.node);
  if (known?.source !== at.source && !isCanvas(getState())) {
    await api.setNodeGraph(at.node, at.source && at.source.objects.length ? g.toJson(at.source) : null);
    saved.set(at.node, { source: at.source, draft: at.source ?? g.EMPTY });
  }
  if (saved.get(at.node)?.draft !== at.draft) {
    const unchanged = at.source && g.sameGraph(at.source, at.draft);
    await sendDraft(at.node, unchanged || !at.draft.objects.length ? null : g.toJson(at.draft));
    saved.set(at.node, { source: at.source, draft: at.draft });
  }
}

/** The server forgets an unfinished graph; undo still knows it, and then it is saved again. */
export async function dropSavedDraft({ node, source }: Doc): Promise<void> {
  saved.set(node, { source, draft: source ?? g.EMPTY });
  await sendDraft(node, null);
}

async function sendDraft(id: number, draft: g.GraphJson | null): Promise<void> {
  await api.setNodeDraft(id, draft);
  const { session } = getState();
  if (!session) return;
  const nodes = session.nodes.map((node) => (node.id === id ? { ...node, draft } : node));
  setState({ session: { ...session, nodes } });
}

/** Whether there are changes that the server does not have yet. */
export function hasUnsaved(): boolean {
  const at = doc(getState());
  const known = at && saved.get(at.node);
  return !!at && (known?.source !== at.source || known?.draft !== at.draft);
}

/** Whether there is anything to plan. */
export function hasChange(): boolean {
  const at = doc(getState());
  if (!at) return false;
  if (at.style) return true;
  const graph = shownGraph(getState());
  return at.source ? !g.sameGraph(at.source, graph) : graph.objects.length > 0;
}

export function planRequest(): PlanRequest | null {
  const at = doc(getState());
  if (!at) return null;
  const { options } = getState();
  const request: PlanRequest = { node: at.node, graph: g.toJson(shownGraph(getState())), options };
  if (at.style) request.style = at.style.id;
  if (at.mask) request.mask = at.mask.id;
  return request;
}

async function makePlan(): Promise<void> {
  const state = getState();
  planning?.abort();
  if (!hasChange() || describes(state.mode)) return setState({ plan: { status: "none" } });
  if (!shownGraph(state).objects.length) return setState({ plan: { status: "error", message: t("emptyGraph") } });
  planning = new AbortController();
  const { signal } = planning;
  try {
    if (!state.live) await save();
    const plan = await api.plan(state.session!.id, planRequest()!, signal);
    if (!signal.aborted) setState({ plan: plan.nothing ? { status: "none" } : { status: "ready", plan } });
  } catch (error) {
    if (!signal.aborted) setState({ plan: { status: "error", message: wordsOf(error) } });
  }
}
