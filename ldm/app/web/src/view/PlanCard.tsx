/** What an edit would do, said while the graph is changed. */

import type { ComponentChildren } from "preact";
import { discardDraft } from "../actions/draft";
import type { Operation, Plan } from "../api/types";
import { centre, height, width } from "../model/geometry";
import { between, EMPTY, find, fromJson, type Graph, type SceneObject } from "../model/graph";
import { doc, isCanvas, useStore } from "../store";
import { pieces, t, type TextKey } from "../texts";
import { Icon } from "./icons";
import { ObjectName } from "./Inspector";

export function PlanCard() {
  const state = useStore((s) => s.plan);
  const source = useStore((s) => doc(s)?.source ?? null);
  const mode = useStore((s) => s.mode);
  const canvas = useStore(isCanvas);
  const plan = state.status === "ready" || state.status === "stale" ? state.plan : null;
  return (
    <section class={`plan card ${state.status}`} aria-live="polite" aria-busy={state.status === "stale"}>
      <div class="title-row">
        <h2>{t("whatWillBeDone")}</h2>
        {(plan || state.status === "error") && !canvas && (
          <button class="link" onClick={discardDraft}>
            {t("discard")}
          </button>
        )}
      </div>
      {state.status === "error" && (
        <p class="problem">
          <Icon name="warning" size={16} /> <span>{state.message}</span>
        </p>
      )}
      {state.status === "none" && <p class="quiet">{t(mode === "describe" && !canvas ? "describing" : canvas ? "canvasPlan" : "nothingToDo")}</p>}
      {plan && <PlanWords plan={plan} source={source ?? EMPTY} canvas={canvas} />}
    </section>
  );
}

function PlanWords({ plan, source, canvas }: { plan: Plan; source: Graph; canvas: boolean }) {
  const target = fromJson(plan.graph);
  const operations = plan.operations.filter(({ kind, object, other }) => {
    const byPlace = kind === "move" && plan.placed.some((place) => place.object === object);
    const byDrop = kind === "remove_relation" && plan.dropped?.some(([s, , o]) => s === object && o === other);
    return !byPlace && !byDrop; // said below as a chosen place, and as relations that are left out
  });
  return (
    <>
      {operations.length > 0 && (
        <ul class="sentences">
          {operations.map((operation, index) => (
            <li key={index}>
              <Sentence operation={operation} source={source} target={target} />
            </li>
          ))}
        </ul>
      )}
      {operations.length === 0 && !plan.placed.length && (
        <ul class="sentences">
          {plan.sentences.map((sentence) => (
            <li key={sentence}>{sentence}</li>
          ))}
        </ul>
      )}
      {plan.placed.map(({ object, box, before }) => {
        const thing = find(target, object);
        if (!thing) return null;
        const key: TextKey = before ? "placedMoves" : "placedNew";
        const way = before ? direction(centre(box).x - centre(before).x, centre(box).y - centre(before).y) : "";
        return (
          <p class="chosen" key={object}>
            {filled(key, { a: <ObjectName object={thing} />, way })}
          </p>
        );
      })}
      {(plan.dropped ?? []).length > 0 && <p class="quiet">{t("droppedRelations", { count: plan.dropped!.length })}</p>}
      <p class="quiet figures">
        {!canvas && (plan.everywhere ? t("everywhere") : plan.region_share !== null ? t("regionShare", { percent: shareWords(plan.region_share) }) : plan.region_note)}
        {plan.seconds !== null && <span>{t("aboutSeconds", { seconds: secondsWords(plan.seconds) })}</span>}
      </p>
    </>
  );
}

const shareWords = (share: number) => (share < 0.01 ? "< 1" : String(Math.round(100 * share)));
const secondsWords = (seconds: number) => (seconds < 10 ? seconds.toFixed(1) : String(Math.round(seconds)));

/** A text whose places are filled with elements. */
function filled(key: TextKey, values: Record<string, ComponentChildren>): ComponentChildren {
  return pieces(key).map(({ text, place }) => (place ? values[place] : text));
}

interface SentenceProps {
  operation: Operation;
  source: Graph;
  target: Graph;
}

function Sentence({ operation, source, target }: SentenceProps): ComponentChildren {
  const { kind, object, other } = operation;
  const [before, after] = [find(source, object), find(target, object)];
  const a = before ?? after;
  if (!a) return operation.text;
  const name = <ObjectName object={a} />;
  const end = other === undefined ? undefined : (find(target, other) ?? find(source, other));
  switch (kind) {
    case "replace":
      return after ? filled("doReplace", { a: name, b: <ObjectName object={after} /> }) : operation.text;
    case "remove":
      return filled("doRemove", { a: name });
    case "add":
      return filled("doAdd", { a: <ObjectName object={after ?? a} /> });
    case "move":
      return filled("doMove", { a: name, way: moveWords(operation) });
    case "resize":
      return filled("doResize", { a: name, way: resizeWords(operation) });
    case "attribute":
      return attributeSentence(a, after, name) ?? operation.text;
    default:
      return end ? relationSentence(operation, source, target, name, end) : operation.text;
  }
}

function attributeSentence(before: SceneObject, after: SceneObject | undefined, name: ComponentChildren): ComponentChildren {
  const lost = (before.attributes ?? []).filter((word) => !after?.attributes?.includes(word)).join(", ");
  const gained = (after?.attributes ?? []).filter((word) => !before.attributes?.includes(word)).join(", ");
  if (!lost && !gained) return null;
  if (!gained) return filled("doLose", { a: name, old: lost });
  return filled(lost ? "doSwap" : "doGain", { a: name, new: <b>{gained}</b>, old: lost });
}

function relationSentence({ kind, object, text }: Operation, source: Graph, target: Graph, a: ComponentChildren, end: SceneObject) {
  const [old, now] = [between(source, object, end.id), between(target, object, end.id)];
  const lost = old.filter((predicate) => !now.includes(predicate)).join(", ");
  const gained = now.filter((predicate) => !old.includes(predicate)).join(", ");
  const b = <ObjectName object={end} />;
  if (kind === "remove_relation") return filled("doUnrelate", { a, b, old: lost });
  if (!gained) return text;
  return filled(lost ? "doRelateAnew" : "doRelate", { a, b, new: <b>{gained}</b>, old: lost });
}

function moveWords({ boxes }: Operation): string {
  const [from, to] = [boxes[0], boxes.at(-1)];
  return from && to ? direction(centre(to).x - centre(from).x, centre(to).y - centre(from).y) : "";
}

function direction(dx: number, dy: number): string {
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
