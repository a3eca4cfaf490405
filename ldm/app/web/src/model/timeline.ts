/** Undo and redo over values that are never changed in place. */

export interface Timeline<T> {
  past: T[];
  present: T;
  future: T[];
  /** What the last step was part of, such as one object being nudged by keys; its next part replaces it. */
  gesture: string | null;
}

export const LIMIT = 200;

export function begin<T>(present: T): Timeline<T> {
  return { past: [], present, future: [], gesture: null };
}

/** Adds a step. Consecutive steps of one gesture are one step. */
export function record<T>(line: Timeline<T>, present: T, gesture: string | null = null): Timeline<T> {
  if (present === line.present) return line;
  if (gesture !== null && gesture === line.gesture) return { ...line, present, future: [] };
  return { past: [...line.past, line.present].slice(-LIMIT), present, future: [], gesture };
}

export function undo<T>(line: Timeline<T>): Timeline<T> {
  if (!line.past.length) return line;
  return { past: line.past.slice(0, -1), present: line.past.at(-1)!, future: [line.present, ...line.future], gesture: null };
}

export function redo<T>(line: Timeline<T>): Timeline<T> {
  if (!line.future.length) return line;
  return { past: [...line.past, line.present], present: line.future[0]!, future: line.future.slice(1), gesture: null };
}
