/** Running edits, and going through what they made. */

import * as api from "../api/client";
import type { EditRequest, OptionSpec, OptionValue, Picture, SceneNode, Sweep } from "../api/types";
import { openedDoc, currentNode, doc, getState, isCanvas, isRunning, nodeOf, setState } from "../store";
import { record } from "../model/timeline";
import { t } from "../texts";
import { changeDoc, hasChange, markSaved, planRequest, replan, save } from "./draft";
import { upload } from "./session";
import { attempt, toast } from "./toasts";

export const optionSpecs = (): OptionSpec[] => getState().optionLists[isCanvas(getState()) ? "sample" : "edit"];

/** Sets an option; undefined takes it back to its default. */
export function setOption(name: string, value: OptionValue | undefined): void {
  const options = { ...getState().options };
  if (value === undefined) delete options[name];
  else options[name] = value;
  setState({ options });
  replan();
}

/** The values of a sweep as they were typed, separated by commas or spaces; null if one of them is no number. */
export function sweepValues(text: string): number[] | null {
  const values = text.split(/[\s,;]+/).filter(Boolean).map(Number);
  return values.length && values.every(Number.isFinite) ? values : null;
}

/** Whether there is something to do and nothing in its way. */
export function canEdit(): boolean {
  const state = getState();
  const planned = state.plan.status === "ready" || (state.plan.status === "stale" && state.plan.plan !== null);
  return hasChange() && planned && !isRunning(state);
}

let asking = false; // an edit was asked for, and the server has not answered yet

export async function runEdit(): Promise<void> {
  const state = getState();
  if (asking || !canEdit()) return;
  const body = planRequest() as EditRequest | null;
  if (!state.session || !body) return;
  if (state.variants > 1) body.n = state.variants;
  if (state.sweep) {
    const values = sweepValues(state.sweep.values);
    if (!values) return toast(t("sweepInvalid"), "error");
    body.sweep = { option: state.sweep.option, values } satisfies Sweep;
  }
  body.previews = true;
  setState({ comparison: null, grid: false, preview: null });
  asking = true;
  const job = await attempt(async () => {
    await save();
    return api.edit(state.session!.id, body);
  });
  asking = false;
  if (job) setState({ job: getState().job?.id === job.id ? getState().job : job, ownJob: job.id, ownDraft: doc(state)!.draft });
}

/** Whether a clip can be made of what the graph changes. */
export const canPlay = (): boolean => !!getState().app?.model.clips && !isCanvas(getState()) && !!doc(getState())?.source;

/** Asks for the clip from the picture to what the graph says. */
export async function runClip(): Promise<void> {
  const state = getState();
  const body = planRequest();
  if (asking || !canEdit() || !state.session || !body) return;
  asking = true;
  const job = await attempt(() => api.clip(state.session!.id, body));
  asking = false;
  if (job) setState({ job: getState().job?.id === job.id ? getState().job : job, ownJob: job.id });
}

export async function cancelJob(): Promise<void> {
  const { job } = getState();
  if (job) await attempt(() => api.cancel(job.id));
}

/** Goes to a node of the history, as a step that can be undone.
 *
 * @param compared whether it is shown beside the picture before it.
 */
export async function goToNode(id: number, compared = false): Promise<void> {
  const state = getState();
  const node = nodeOf(state, id);
  if (!state.session || !state.line || !node || state.line.present.node === id) return;
  await attempt(save);
  const opened = openedDoc(node);
  markSaved(opened);
  setState({
    line: record(state.line, opened),
    live: null,
    prompt: null,
    selection: null,
    comparison: compared && node.parent !== null && nodeOf(state, node.parent)?.image ? { before: node.parent, after: id } : null,
    mode: node.kind === "canvas" || node.graph ? "change" : "describe",
  });
  replan();
  await attempt(async () => setState({ session: await api.goTo(state.session!.id, id) }));
}

export async function deleteNode(id: number): Promise<void> {
  await attempt(() => api.deleteNode(id));
}

export function variantsOf(node: SceneNode | null): SceneNode[] {
  if (!node || node.job === null) return [];
  return (getState().session?.nodes ?? []).filter((other) => other.job === node.job).sort((a, b) => a.id - b.id);
}

export function compareWithParent(): void {
  const node = currentNode(getState());
  const parent = nodeOf(getState(), node?.parent);
  if (node?.image && parent?.image) setState({ comparison: { before: parent.id, after: node.id }, grid: false });
}

/** Two clicks on nodes of the history choose the pictures to compare. */
export function pick(id: number): void {
  const { picking } = getState();
  if (picking === null) setState({ picking: id });
  else if (picking !== undefined && picking !== id) {
    setState({ comparison: { before: picking, after: id }, picking: undefined, grid: false });
  }
}

/** Shows attention maps, and asks for them where the node has none yet. */
export async function toggleAttention(): Promise<void> {
  const state = getState();
  const node = currentNode(state);
  setState({ attention: !state.attention, comparison: null, grid: false });
  if (state.attention || !node || node.attention?.length || !state.session) return;
  const job = await attempt(() => api.attention(state.session!.id, node.id));
  if (job) setState({ job });
  else setState({ attention: false });
}

export async function setStyle(file: Blob | null): Promise<void> {
  await setPicture("style", file);
}

export async function setMask(file: Blob | null): Promise<void> {
  await setPicture("mask", file);
}

async function setPicture(field: "style" | "mask", file: Blob | null): Promise<void> {
  if (!doc(getState())) return;
  if (!file) return changeDoc({ [field]: null });
  const picture: Picture | undefined | void = await upload(file);
  if (picture) changeDoc({ [field]: picture });
}

export async function rename(title: string): Promise<void> {
  const { session } = getState();
  if (session && title.trim() && title !== session.title) await attempt(() => api.renameSession(session.id, title.trim()));
}

export async function removeSession(id: string): Promise<void> {
  await attempt(() => api.deleteSession(id));
  await attempt(async () => setState({ sessions: (await api.sessions()).sessions }));
}
