/** Operations as sentences in the page's language. */

import type { Operation } from "../api/types";
import { centre, height, width } from "../model/geometry";
import { between, describe, find, type Graph, type SceneObject } from "../model/graph";
import { t, type TextKey } from "../texts";

/** What fills a place of a sentence: an object by its name, what is new, or other words. */
export type Part = { object: SceneObject } | { fresh: string } | string;

/** A sentence with what fills its places. */
export interface Sentence {
  key: TextKey;
  parts: Record<string, Part>;
}

/** The sentence of an operation; null where the graphs do not have its objects. */
export function sentenceOf(operation: Operation, source: Graph, target: Graph): Sentence | null {
  const { kind, object, other } = operation;
  const [before, after] = [find(source, object), find(target, object)];
  const it = before ?? after;
  if (!it) return null;
  const a = { object: it };
  const end = other === undefined ? undefined : (find(target, other) ?? find(source, other));
  switch (kind) {
    case "replace":
      return after ? { key: "doReplace", parts: { a, b: { object: after } } } : null;
    case "remove":
      return { key: "doRemove", parts: { a } };
    case "add":
      return { key: "doAdd", parts: { a: { object: after ?? it } } };
    case "move":
      return { key: "doMove", parts: { a, way: moveWords(operation) } };
    case "resize":
      return { key: "doResize", parts: { a, way: resizeWords(operation) } };
    case "attribute":
      return attributeSentence(it, after);
    default:
      return end ? relationSentence(operation, source, target, it, end) : null;
  }
}

/** Operations in plain words. */
export function words(operations: readonly Operation[], source: Graph, target: Graph): string[] {
  return operations.map((operation) => {
    const sentence = sentenceOf(operation, source, target);
    if (!sentence) return operation.text;
    const plain = Object.entries(sentence.parts).map(([place, part]) => [place, plainPart(part)]);
    return t(sentence.key, Object.fromEntries(plain));
  });
}

function plainPart(part: Part): string {
  if (typeof part === "string") return part;
  return "object" in part ? describe(part.object) : part.fresh;
}

function attributeSentence(before: SceneObject, after: SceneObject | undefined): Sentence | null {
  const lost = (before.attributes ?? []).filter((word) => !after?.attributes?.includes(word)).join(", ");
  const gained = (after?.attributes ?? []).filter((word) => !before.attributes?.includes(word)).join(", ");
  const a = { object: before };
  if (!lost && !gained) return null;
  if (!gained) return { key: "doLose", parts: { a, old: lost } };
  return { key: lost ? "doSwap" : "doGain", parts: { a, new: { fresh: gained }, old: lost } };
}

function relationSentence({ kind, object }: Operation, source: Graph, target: Graph, it: SceneObject, end: SceneObject): Sentence | null {
  const [old, now] = [between(source, object, end.id), between(target, object, end.id)];
  const lost = old.filter((predicate) => !now.includes(predicate)).join(", ");
  const gained = now.filter((predicate) => !old.includes(predicate)).join(", ");
  const [a, b] = [{ object: it }, { object: end }];
  if (kind === "remove_relation") return { key: "doUnrelate", parts: { a, b, old: lost } };
  if (!gained) return null;
  return { key: lost ? "doRelateAnew" : "doRelate", parts: { a, b, new: { fresh: gained }, old: lost } };
}

function moveWords({ boxes }: Operation): string {
  const [from, to] = [boxes[0], boxes.at(-1)];
  return from && to ? direction(centre(to).x - centre(from).x, centre(to).y - centre(from).y) : "";
}

/** "left by 0.20 and up by 0.10". */
export function direction(dx: number, dy: number): string {
  return and([signed(dx, "left", "right"), signed(dy, "up", "down")]);
}

function resizeWords({ boxes }: Operation): string {
  const [from, to] = [boxes[0], boxes.at(-1)];
  if (!from || !to) return "";
  return and([signed(width(to) - width(from), "narrower", "wider"), signed(height(to) - height(from), "lower", "taller")]);
}

function signed(change: number, less: TextKey, more: TextKey): string {
  return Math.abs(change) < 0.0015 ? "" : t(change < 0 ? less : more, { by: Math.abs(change).toFixed(2) });
}

const and = (parts: string[]) => parts.filter(Boolean).join(t("and"));
