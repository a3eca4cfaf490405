/** The list of predicates that floats where an edge was drawn or clicked. */

import { useEffect, useRef } from "preact/hooks";
import { relate } from "../actions/draft";
import { between, describe, find } from "../model/graph";
import type { Size } from "../model/layout";
import { setState, shownGraph, useStore } from "../store";
import { t } from "../texts";
import { Combobox } from "./Combobox";
import { Icon } from "./icons";

const WIDTH = 216;
const LISTED = 16; // with more predicates, they are searched instead

export function PredicatePrompt({ panel }: { panel: Size }) {
  const prompt = useStore((s) => s.prompt);
  const graph = useStore(shownGraph);
  const predicates = useStore((s) => s.vocabulary.predicates);
  const list = useRef<HTMLDivElement>(null);
  const open = prompt?.kind === "predicate";

  useEffect(() => {
    if (!open || predicates.length > LISTED) return;
    const current = list.current?.querySelector<HTMLElement>('[aria-pressed="true"]') ?? list.current?.querySelector("button");
    current?.focus();
  }, [open]);
  if (!open) return null;

  const { subject, object, x, y } = prompt;
  const [from, to] = [find(graph, subject), find(graph, object)];
  if (!from || !to) return null;
  const now = between(graph, subject, object);
  const height = predicates.length > LISTED ? 280 : 84 + 32 * predicates.length;
  const left = Math.min(Math.max(x - WIDTH / 2, 4), Math.max(panel.width - WIDTH - 4, 4));
  const top = Math.min(Math.max(y + 6, 4), Math.max(panel.height - height, 4));

  function onKeyDown(event: KeyboardEvent): void {
    event.stopPropagation();
    if (event.key === "Escape") return setState({ prompt: null });
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...list.current!.querySelectorAll<HTMLElement>("button")];
    const at = buttons.indexOf(document.activeElement as HTMLElement);
    buttons[(at + step + buttons.length) % buttons.length]?.focus();
  }

  return (
    <div class="popover predicates" role="dialog" aria-label={t("chooseRelation")} onKeyDown={onKeyDown} style={{ left: `${left}px`, top: `${top}px`, width: `${WIDTH}px` }}>
      <p class="ends">
        <b>{describe(from)}</b> … <b>{describe(to)}</b>
      </p>
      {predicates.length > LISTED ? (
        <Combobox
          kind="predicate"
          label={t("relation")}
          value={now[0] ?? ""}
          placeholder={t("relation")}
          autofocus
          onChoose={(name) => relate(subject, name, object)}
          onCancel={() => setState({ prompt: null })}
        />
      ) : (
        <div ref={list} role="group" aria-label={t("relation")}>
          {predicates.map((predicate) => (
            <button key={predicate} class="item" aria-pressed={now.includes(predicate)} onClick={() => relate(subject, predicate, object)}>
              {predicate}
              {now.includes(predicate) && <Icon name="check" size={16} />}
            </button>
          ))}
        </div>
      )}
      {now.length > 0 && (
        <button class="item danger" onClick={() => relate(subject, null, object)}>
          {t("removeRelation")}
        </button>
      )}
    </div>
  );
}
