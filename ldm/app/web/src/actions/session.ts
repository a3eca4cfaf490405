/** Opening photographs, graphs and sessions, and following what the server says about them. */

import * as api from "../api/client";
import { type Events, watch } from "../api/events";
import type { Job, ReadGraphs, ServerEvent, Session } from "../api/types";
import { fromJson, type Graph } from "../model/graph";
import { begin, record } from "../model/timeline";
import { type Doc, doc, getState, isCanvas, nodeOf, openedDoc, setState } from "../store";
import { exampleTitle, remember, remembered, serverWords, t } from "../texts";
import { changeDoc, dropSavedDraft, hasUnsaved, markSaved, replan, setSource } from "./draft";
import { attempt, toast, wordsOf } from "./toasts";

let events: Events | null = null;

/** Takes the token from the address, and loads what does not change. */
export async function start(): Promise<void> {
  const url = new URL(location.href);
  const given = url.searchParams.get("token");
  if (given) {
    remember("token", given);
    url.searchParams.delete("token");
    history.replaceState(null, "", url);
  }
  const token = given ?? remembered("token");
  if (!token) return setState({ phase: "token" });
  api.setToken(token);
  await load();
}

export async function load(): Promise<void> {
  try {
    const [app, optionLists, vocabulary, examples, sessions] = await Promise.all([
      api.app(),
      api.options(),
      api.vocabulary(),
      api.examples(),
      api.sessions(),
    ]);
    setState({ app, optionLists, vocabulary, examples: examples.examples, sessions: sessions.sessions });
    const wanted = location.hash.match(/^#([0-9a-f]+)$/)?.[1];
    if (wanted && sessions.sessions.some((session) => session.id === wanted)) openSession(await api.session(wanted));
    else {
      setState({ phase: "start" });
      if (wanted) {
        history.replaceState(null, "", location.pathname);
        toast(serverWords("", "no_session"), "error");
      }
    }
  } catch (error) {
    const refused = error instanceof api.ApiError && (error.status === 401 || error.status === 403);
    setState(refused ? { phase: "token", failure: wordsOf(error) } : { phase: "failed", failure: wordsOf(error) });
  }
}

export function openSession(session: Session): void {
  events?.close();
  const node = session.nodes.find((other) => other.id === session.current)!;
  const opened = openedDoc(node);
  markSaved(opened);
  history.replaceState(null, "", `#${session.id}`);
  setState({
    phase: "editor",
    session,
    line: begin(opened),
    live: null,
    selection: null,
    hover: null,
    prompt: null,
    plan: { status: "none" },
    options: {},
    sweep: null,
    variants: 1,
    job: session.jobs.at(-1) ?? null,
    preview: null,
    comparison: null,
    picking: undefined,
    grid: false,
    attention: false,
    dialog: null,
    tool: "select",
    mode: defaultMode(opened, node.kind === "canvas"),
  });
  document.title = `${session.title} – ${t("appName")}`;
  events = watch(session.id, onEvent, (connection) => setState(connection === "refused" ? { phase: "token" } : { connection }));
  replan();
}

function defaultMode(opened: Doc, canvas: boolean): "describe" | "change" {
  return canvas || opened.source ? "change" : "describe";
}

export function closeSession(): void {
  events?.close();
  events = null;
  history.replaceState(null, "", location.pathname);
  document.title = t("appName");
  setState({ phase: "start", session: null, line: null, job: null, dialog: null });
  void attempt(async () => setState({ sessions: (await api.sessions()).sessions }));
}

// What the server says -----------------------------------------------------------------------------------------------------

function onEvent(event: ServerEvent): void {
  const state = getState();
  switch (event.type) {
    case "hello":
      if (wasInterrupted(event.session)) toast(t("interrupted"), "error");
      setState({ job: event.session.jobs.at(-1) ?? null, preview: null });
      return adopt(event.session);
    case "session":
      return adopt(event.session);
    case "job":
      return onJob(event.job);
    case "progress":
      if (state.job?.id === event.job) {
        const { job, type, ...progress } = event;
        setState({ job: { ...state.job, ...progress, state: "running", place: 0 } });
      }
      return;
    case "preview":
      if (state.job?.id === event.job) setState({ preview: { job: event.job, variant: event.variant, image: event.image } });
      return;
    case "clip":
      if (state.ownJob === event.job) {
        const { type, job, ...clip } = event;
        setState({ clip, dialog: "clip", ownJob: null });
      }
      return;
    case "node":
      if (state.session) {
        const nodes = [...state.session.nodes.filter((node) => node.id !== event.node.id), event.node];
        setState({ session: { ...state.session, nodes }, preview: null });
      }
      return;
    case "deleted":
      toast(t("sessionDeleted"));
      return closeSession();
  }
}

/** Whether an edit ran when the connection was lost, and neither runs now nor has made a picture. */
function wasInterrupted({ jobs, nodes }: Session): boolean {
  const { job, session } = getState();
  if (job?.state !== "running" || job.kind === "attention" || job.kind === "clip" || session?.id !== job.session) return false;
  return !jobs.some((other) => other.id === job.id) && !nodes.some((node) => node.job === job.id);
}

function onJob(job: Job): void {
  const { job: known } = getState();
  const ended = job.state === "done" || job.state === "cancelled" || job.state === "failed";
  if (ended && known && known.id !== job.id) return; // a later one is shown already
  setState(ended ? { job: null, preview: null } : { job });
  if (job.state === "failed" && job.error) toast(serverWords(job.error, job.error_code, job.error_values), "error");
  if (job.state === "cancelled") toast(t("cancelled"));
}

/** Takes over the server's session. Where its current node is another one, that is a step that can be undone. */
export function adopt(session: Session): void {
  const state = getState();
  if (state.session?.id !== session.id || !state.line) return;
  const here = state.line.present;
  const current = session.nodes.find((node) => node.id === session.current)!;
  setState({ session });
  if (here.node !== session.current) {
    const made = current.job !== null && current.job === state.ownJob && nodeOf(state, here.node)?.image;
    const opened = openedDoc(current);
    markSaved(opened);
    if (made && here.draft === state.ownDraft) void attempt(() => dropSavedDraft(here)); // it is carried out
    setState({
      line: record(state.line, opened),
      live: null,
      prompt: null,
      selection: stillThere(opened.draft) ? state.selection : null,
      mode: defaultMode(opened, current.kind === "canvas"),
      ownJob: null,
      grid: made ? !!current.sweep : false,
      comparison: made && !current.sweep ? { before: here.node, after: current.id } : null,
    });
    replan();
  } else if (current.graph && JSON.stringify(current.graph) !== JSON.stringify(state.session.nodes.find((n) => n.id === current.id)?.graph)) {
    takeSource(fromJson(current.graph));
  }
}

/** The graph of the picture was changed by another browser. */
function takeSource(source: Graph): void {
  const { line } = getState();
  if (!line || hasUnsaved() || JSON.stringify(line.present.source) === JSON.stringify(source)) return;
  const untouched = JSON.stringify(line.present.source) === JSON.stringify(line.present.draft);
  const next = { ...line.present, source, draft: untouched ? source : line.present.draft };
  markSaved(next);
  setState({ line: { ...line, present: next } });
  replan();
}

function stillThere(graph: Graph): boolean {
  const { selection } = getState();
  return selection?.kind === "object" && graph.objects.some((object) => object.id === selection.id);
}

// What a person opens ------------------------------------------------------------------------------------------------------

export async function openExample(id: string): Promise<void> {
  const example = getState().examples.find((other) => other.id === id);
  const title = example ? exampleTitle(example) : t("example");
  const session = await attempt(() => api.createSession({ example: id, title }), t("opening"));
  if (session) openSession(session);
}

export async function openCanvas(graph?: Graph): Promise<void> {
  const side = getState().app?.model.image_size ?? 256;
  const session = await attempt(() => api.createSession({ canvas: { width: side, height: side }, title: t("canvas") }), t("opening"));
  if (!session) return;
  openSession(session);
  if (graph) changeDoc({ draft: graph });
}

export async function openStored(id: string): Promise<void> {
  const session = await attempt(() => api.session(id), t("opening"));
  if (session) openSession(session);
}

export async function openPhotograph(file: Blob, name: string): Promise<void> {
  const image = await upload(file);
  if (!image) return;
  const title = name || t("pastedPicture");
  const session = await attempt(() => api.createSession({ image: image.id, title }), t("opening"));
  if (session) openSession(session);
}

export async function upload(file: Blob) {
  const limit = getState().app?.limits.image_bytes ?? Infinity;
  if (file.size > limit) return toast(t("tooLarge", { limit: Math.round(limit / 2 ** 20) }), "error");
  return attempt(() => api.uploadImage(file), t("uploading"));
}

const isGraphFile = (file: File) => /\.json$/i.test(file.name) || file.type === "application/json";

/** Files that were dropped, pasted or chosen: a picture begins a session, a graph goes where it is missing. */
export async function openFiles(files: File[]): Promise<void> {
  const graph = files.find(isGraphFile);
  const picture = files.find((file) => file !== graph);
  if (picture) await openPhotograph(picture, picture.name);
  if (graph && (!picture || getState().phase === "editor")) await openGraphFile(graph);
}

/** A graph file says what the picture shows, if nothing does yet; else what it should show. */
export async function openGraphFile(file: File): Promise<void> {
  const editor = getState().phase === "editor";
  const describes = editor && getState().mode === "describe" && !isCanvas(getState());
  const node = editor ? doc(getState())?.node : undefined;
  const image = nodeOf(getState(), node)?.image?.id;
  const of = { ...(image && { image }), ...(node !== undefined && !describes && { node }) };
  const read = await attempt(() => api.readGraphFile(file, file.name, of), t("opening"));
  const json = read?.graphs[0];
  if (!read || !json) return;
  const graph = fromJson(json);
  if (!editor) await openCanvas(graph);
  else if (describes) setSource(graph);
  else changeDoc({ draft: graph });
  const notes = [read.note && serverWords(read.note), read.graphs.length > 1 ? t("firstOf", { count: read.graphs.length }) : "", unknownWords(read)];
  const said = notes.filter(Boolean).join(" ");
  if (said) toast(said, read.unknown.length ? "error" : "info");
}

function unknownWords({ unknown_names }: ReadGraphs): string {
  const names = unknown_names.slice(0, 5).map((name) => `“${name.length > 40 ? `${name.slice(0, 40)}…` : name}”`);
  return names.length ? t("unknownNames", { names: names.join(", ") + (unknown_names.length > names.length ? ", …" : "") }) : "";
}

/** Fills in what the picture shows, by the world's checker or a detector. */
export async function readPicture(): Promise<void> {
  const state = getState();
  const at = doc(state)?.node;
  if (!state.session || at === undefined) return;
  const read = await attempt(() => api.readPicture(state.session!.id, at), t("reading"));
  if (!read) return;
  if (read.graph) setSource(fromJson(read.graph), "change");
  else toast(t("nothingRead"));
}
