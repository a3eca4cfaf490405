/** The menu of what can be taken along: picture, graph, panel, record, and the command that repeats the edit. */

import { useEffect, useRef, useState } from "preact/hooks";
import { attempt, toast } from "../actions/toasts";
import { address, text } from "../api/client";
import { toJson } from "../model/graph";
import { currentNode, doc, getState, useStore } from "../store";
import { t, type TextKey } from "../texts";
import { Icon } from "./icons";

const FILES: [string, TextKey, boolean][] = [
  ["picture.png", "exportPicture", false],
  ["graph.json", "exportGraph", false],
  ["panel.png", "exportPanel", true],
  ["record.json", "exportRecord", true],
  ["export.zip", "exportAll", true],
];

export function ExportMenu() {
  const node = useStore(currentNode);
  const [open, setOpen] = useState(false);
  const menu = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (!open) return;
    menu.current?.querySelector<HTMLElement>("a, button")?.focus();
    const close = (event: Event) => {
      if (!menu.current?.parentElement?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", close);
    return () => document.removeEventListener("pointerdown", close);
  }, [open]);

  const edited = node?.kind === "edit" || node?.kind === "sample";
  return (
    <div class="menu-anchor" onKeyDown={(event) => event.key === "Escape" && setOpen(false)}>
      <button class="tool wide" title={t("exportTitle")} aria-label={t("export")} aria-expanded={open} onClick={() => setOpen(!open)}>
        <Icon name="download" /> <span>{t("export")}</span>
      </button>
      {open && node && (
        <div class="popover menu" ref={menu} onClick={() => setOpen(false)}>
          {FILES.filter(([name, , ofEdits]) => (edited || !ofEdits) && (name !== "picture.png" || node.image) && (name !== "graph.json" || node.graph)).map(
            ([name, label]) => (
              <a key={name} class="item" href={address(`api/nodes/${node.id}/${name}`)} download="">
                {t(label)} <span class="quiet">{name}</span>
              </a>
            ),
          )}
          <button class="item" onClick={saveDraft}>
            {t("saveGraph")} <span class="quiet">graph.json</span>
          </button>
          {edited && (
            <button class="item" onClick={() => void copyCommand(node.id)}>
              {t("copyCommand")} <span class="quiet">command.txt</span>
            </button>
          )}
        </div>
      )}
    </div>
  );
}

/** Saves the graph as it is on the screen, which may be unfinished. */
function saveDraft(): void {
  const at = doc(getState());
  if (!at) return;
  const url = URL.createObjectURL(new Blob([`${JSON.stringify(toJson(at.draft), null, 2)}\n`], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: "graph.json" });
  link.click();
  URL.revokeObjectURL(url);
}

async function copyCommand(node: number): Promise<void> {
  const command = await attempt(() => text(`api/nodes/${node}/command.txt`));
  if (!command) return;
  try {
    await navigator.clipboard.writeText(command.trim());
    toast(t("commandCopied"));
  } catch {
    toast(command.trim());
  }
}
