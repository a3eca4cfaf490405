/** What an edit would do, said while the graph is changed. */

import type { ComponentChildren } from "preact";
import { discardDraft } from "../actions/draft";
import type { Operation, Plan } from "../api/types";
import { centre } from "../model/geometry";
import { EMPTY, find, fromJson, type Graph } from "../model/graph";
import { doc, isCanvas, useStore } from "../store";
import { pieces, serverWords, t, type TextKey } from "../texts";
import { Icon } from "./icons";
import { ObjectName } from "./Inspector";
import { direction, type Part, sentenceOf } from "./sentences";

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
          <li>{t(canvas ? "doSample" : source.objects.length ? "doStyle" : "unknownBefore")}</li>
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
        {!canvas && <span>{regionWords(plan)}</span>}
        {plan.seconds !== null && <span>{t("aboutSeconds", { seconds: secondsWords(plan.seconds) })}</span>}
      </p>
    </>
  );
}

function regionWords(plan: Plan): string {
  if (plan.everywhere) return t("everywhere");
  if (plan.region_share !== null) return t("regionShare", { percent: shareWords(plan.region_share) });
  return serverWords(plan.region_note, plan.region_code);
}

const shareWords = (share: number) => (share < 0.01 ? "< 1" : String(Math.round(100 * share)));
const secondsWords = (seconds: number) => (seconds < 10 ? seconds.toFixed(1) : String(Math.round(seconds)));

/** A text whose places are filled with elements. */
function filled(key: TextKey, values: Record<string, ComponentChildren>): ComponentChildren {
  return pieces(key).map(({ text, place }) => (place ? values[place] : text));
}

function Sentence({ operation, source, target }: { operation: Operation; source: Graph; target: Graph }): ComponentChildren {
  const sentence = sentenceOf(operation, source, target);
  if (!sentence) return operation.text;
  return filled(sentence.key, Object.fromEntries(Object.entries(sentence.parts).map(([place, part]) => [place, shownPart(part)])));
}

function shownPart(part: Part): ComponentChildren {
  if (typeof part === "string") return part;
  return "object" in part ? <ObjectName object={part.object} /> : <b>{part.fresh}</b>;
}
