/** Short messages, and failures of requests in words. */

import { ApiError } from "../api/client";
import { getState, setState } from "../store";
import { serverWords, t } from "../texts";

let next = 1;

export function toast(text: string, kind: "info" | "error" = "info"): void {
  const id = next++;
  setState({ toasts: [...getState().toasts.filter((other) => other.text !== text), { id, kind, text }].slice(-3) });
  window.setTimeout(() => dismiss(id), kind === "error" ? 12_000 : 5_000);
}

export function dismiss(id: number): void {
  setState({ toasts: getState().toasts.filter((other) => other.id !== id) });
}

export function wordsOf(error: unknown): string {
  if (error instanceof ApiError) return error.status === 0 ? t("serverGone") : serverWords(error.message, error.code, error.values);
  return error instanceof Error ? error.message : String(error);
}

/** Runs a request; a failure is shown, and the result is then undefined. */
export async function attempt<T>(work: () => Promise<T>, busy: string | null = null): Promise<T | undefined> {
  if (busy) setState({ busy });
  try {
    return await work();
  } catch (error) {
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) setState({ phase: "token" });
    else toast(wordsOf(error), "error");
    return undefined;
  } finally {
    if (busy) setState({ busy: null });
  }
}
