/** The page's state: one value that is replaced, never changed, and the hook by which views follow parts of it. */

import { useEffect, useReducer, useRef } from "preact/hooks";
import type { Connection } from "./api/events";
import type { AppInfo, Clip, Example, Job, OptionLists, OptionValue, Picture, Plan, SceneNode, Session, SessionSummary, Vocabulary } from "./api/types";
import type { Box } from "./model/geometry";
import { EMPTY, fromJson, type Graph, type Triple } from "./model/graph";
import type { Timeline } from "./model/timeline";
import type { Language } from "./texts";

/** What undo and redo go through. */
export interface Doc {
  node: number;
  source: Graph | null; // what the node's picture shows; null if nothing is known
  draft: Graph; // what it should show
  style: Picture | null;
  mask: Picture | null;
}

export type Mode = "describe" | "change";
export type Tool = "select" | "box" | "mask";
export type Selection = { kind: "object"; id: string } | { kind: "triple"; triple: Triple } | null;

/** A question that floats over the picture or the graph until it is answered. */
export type Prompt =
  | { kind: "name"; box: Box | null }
  | { kind: "predicate"; subject: string; object: string; x: number; y: number }
  | null;

export type PlanState =
  | { status: "none" }
  | { status: "stale"; plan: Plan | null }
  | { status: "ready"; plan: Plan }
  | { status: "error"; message: string };

export interface Preview {
  job: number;
  variant: number;
  image: string;
}

export interface Toast {
  id: number;
  kind: "info" | "error";
  text: string;
}

export interface SweepInput {
  option: string;
  values: string;
}

export interface State {
  phase: "loading" | "token" | "start" | "editor" | "failed";
  failure: string;
  language: Language;
  theme: "system" | "light" | "dark";

  app: AppInfo | null;
  optionLists: OptionLists;
  vocabulary: Vocabulary;
  examples: Example[];
  sessions: SessionSummary[];

  session: Session | null;
  connection: Connection;
  line: Timeline<Doc> | null;
  live: Graph | null; // the draft with the drag under way applied
  mode: Mode;
  tool: Tool;
  selection: Selection;
  hover: string | null;
  prompt: Prompt;
  plan: PlanState;

  options: Record<string, OptionValue>;
  variants: number;
  sweep: SweepInput | null;
  job: Job | null;
  ownJob: number | null; // the edit that this page asked for last; its result is compared at once
  ownDraft: Graph | null; // what it was asked to carry out
  preview: Preview | null;

  comparison: { before: number; after: number } | null; // nodes on the two sides of the slider
  picking: number | null | undefined; // nodes to compare are being chosen: the first one, or null before it
  grid: boolean;
  attention: boolean;
  busy: string | null; // what the page waits for, in words
  dialog: "open" | "help" | "export" | "clip" | null;
  clip: Clip | null; // that the dialog plays
  tab: "graph" | "change" | "history"; // on a phone
  toasts: Toast[];
}

let state: State = {
  phase: "loading",
  failure: "",
  language: "en",
  theme: "system",
  app: null,
  optionLists: { edit: [], sample: [] },
  vocabulary: { objects: [], predicates: [], attributes: [], attribute_groups: [], converse: {}, spatial: [] },
  examples: [],
  sessions: [],
  session: null,
  connection: "connecting",
  line: null,
  live: null,
  mode: "change",
  tool: "select",
  selection: null,
  hover: null,
  prompt: null,
  plan: { status: "none" },
  options: {},
  variants: 1,
  sweep: null,
  job: null,
  ownJob: null,
  ownDraft: null,
  preview: null,
  comparison: null,
  picking: undefined,
  grid: false,
  attention: false,
  busy: null,
  dialog: null,
  clip: null,
  tab: "graph",
  toasts: [],
};

const listeners = new Set<() => void>();

export const getState = (): State => state;

export function setState(change: Partial<State>): void {
  state = { ...state, ...change };
  for (const listener of listeners) listener();
}

/** A part of the state; the view is drawn again when it is another value. */
export function useStore<T>(select: (state: State) => T): T {
  const [, drawAgain] = useReducer((count: number, _: void) => count + 1, 0);
  const latest = useRef({ select, value: undefined as T });
  latest.current = { select, value: select(state) };
  useEffect(() => {
    const listener = () => {
      if (!Object.is(latest.current.select(state), latest.current.value)) drawAgain();
    };
    listeners.add(listener);
    listener();
    return () => void listeners.delete(listener);
  }, []);
  return latest.current.value;
}

// What follows from the state ---------------------------------------------------------------------------------------------

export const doc = (s: State): Doc | null => s.line?.present ?? null;
export const shownGraph = (s: State): Graph => s.live ?? s.line?.present.draft ?? EMPTY;
export const nodeOf = (s: State, id: number | null | undefined): SceneNode | null =>
  s.session?.nodes.find((node) => node.id === id) ?? null;
/** The number of a picture in its session; the photograph is 0. */
export function numberOf(node: SceneNode): number {
  return (state.session?.nodes ?? []).filter((other) => other.id < node.id).length;
}

export const currentNode = (s: State): SceneNode | null => nodeOf(s, s.line?.present.node);
export const isCanvas = (s: State): boolean => currentNode(s)?.kind === "canvas";
export const isRunning = (s: State): boolean => s.job?.state === "queued" || s.job?.state === "running";
export const selectedObject = (s: State): string | null => (s.selection?.kind === "object" ? s.selection.id : null);

/** Width and height of the current picture or canvas. */
export function frameOf(node: SceneNode | null): { width: number; height: number } {
  return node?.image ?? node?.size ?? { width: 1, height: 1 };
}

/** The state in which a node is opened. */
export function openedDoc(node: SceneNode): Doc {
  const source = node.graph && fromJson(node.graph);
  return { node: node.id, source, draft: node.draft ? fromJson(node.draft) : (source ?? EMPTY), style: null, mask: null };
}
