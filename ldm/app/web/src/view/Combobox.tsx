/** A field for a name, with completion and spelling by the server's resolver (ARIA combobox with a list). */

import { useEffect, useId, useRef, useState } from "preact/hooks";
import { resolve } from "../api/client";
import type { Resolution, WordKind } from "../api/types";
import { t } from "../texts";

interface Props {
  kind: WordKind;
  label: string;
  value?: string;
  placeholder?: string;
  autofocus?: boolean;
  exclude?: readonly string[];
  onChoose(name: string): void;
  onCancel?(): void;
}

const cache = new Map<string, Resolution>();

export function Combobox({ kind, label, value = "", placeholder, autofocus, exclude = [], onChoose, onCancel }: Props) {
  const [text, setText] = useState(value);
  const [active, setActive] = useState(-1);
  const [open, setOpen] = useState(false);
  const found = useResolution(kind, text, value, open);
  const input = useRef<HTMLInputElement>(null);
  const list = useId();
  const names = (found?.suggestions ?? []).filter(({ name }) => !exclude.includes(name));
  const unknown = open && found !== null && found.text === text && text.trim() !== "" && !names.length && !found.name;

  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (autofocus) {
      input.current?.focus();
      input.current?.select();
    }
  }, []);
  function choose(name: string): void {
    setOpen(false);
    setActive(-1);
    setText(value);
    if (name && name !== value) onChoose(name);
    else onCancel?.();
  }

  /** Enter takes what is marked, what was typed if it is a name, or what was probably meant. */
  async function accept(): Promise<void> {
    if (active >= 0 && names[active]) return choose(names[active].name);
    if (!text.trim()) return onCancel?.();
    const answer = found?.text === text && text !== value ? found : await resolve(kind, text).catch(() => null);
    choose(answer?.name ?? answer?.suggestions.find(({ name }) => !exclude.includes(name))?.name ?? text.trim());
  }

  function onKeyDown(event: KeyboardEvent): void {
    event.stopPropagation();
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      setOpen(true);
      setActive(names.length ? (active + step + names.length) % names.length : -1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      void accept();
    } else if (event.key === "Escape") {
      setOpen(false);
      setText(value);
      onCancel?.();
    }
  }

  return (
    <div class="combobox">
      <input
        ref={input}
        type="text"
        role="combobox"
        aria-label={label}
        aria-expanded={open && names.length > 0}
        aria-controls={list}
        aria-autocomplete="list"
        aria-activedescendant={active >= 0 ? `${list}-${active}` : undefined}
        autocomplete="off"
        autocapitalize="off"
        spellcheck={false}
        placeholder={placeholder}
        value={text}
        onFocus={() => setOpen(true)}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setActive(-1);
          setOpen(true);
        }}
        onKeyDown={onKeyDown}
        onBlur={() => {
          setOpen(false);
          setText(value);
        }}
      />
      <Suggestions {...{ list, label, names, active }} hidden={!open || !names.length} onChoose={choose} />
      {unknown && <p class="field-error" role="status">{t("unknownName")}</p>}
    </div>
  );
}

/** What the server makes of the text, while the list is open. */
function useResolution(kind: WordKind, text: string, value: string, open: boolean): Resolution | null {
  const [found, setFound] = useState<Resolution | null>(null);
  useEffect(() => {
    if (!open) return;
    const asked = text === value ? "" : text; // the name that stands offers all others
    const key = `${kind}\u0000${asked}`;
    const known = cache.get(key);
    if (known) return setFound({ ...known, text });
    const controller = new AbortController();
    const timer = window.setTimeout(() => {
      resolve(kind, asked, controller.signal)
        .then((answer) => {
          cache.set(key, answer);
          setFound({ ...answer, text });
        })
        .catch(() => undefined);
    }, 40);
    return () => {
      window.clearTimeout(timer);
      controller.abort();
    };
  }, [text, open, kind]);
  return found;
}

interface SuggestionsProps {
  list: string;
  label: string;
  names: readonly { name: string; note: string }[];
  active: number;
  hidden: boolean;
  onChoose(name: string): void;
}

function Suggestions({ list, label, names, active, hidden, onChoose }: SuggestionsProps) {
  return (
    <ul id={list} role="listbox" aria-label={label} class="suggestions" hidden={hidden}>
      {names.map(({ name, note }, index) => (
        <li
          key={name}
          id={`${list}-${index}`}
          role="option"
          aria-selected={index === active}
          onPointerDown={(event) => event.preventDefault()}
          onClick={() => onChoose(name)}
        >
          {name}
          {note && <span class="note">{note}</span>}
        </li>
      ))}
    </ul>
  );
}
