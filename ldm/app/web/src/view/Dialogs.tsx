/** The dialogs over the page: opening something else, and help with the keys. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { setState, useStore } from "../store";
import { t, type TextKey } from "../texts";
import { Icon } from "./icons";
import { OpenChoices } from "./Start";

export function Dialogs() {
  const dialog = useStore((s) => s.dialog);
  const clip = useStore((s) => s.clip);
  if (dialog === "open") {
    return (
      <Dialog title={t("open")}>
        <OpenChoices />
      </Dialog>
    );
  }
  if (dialog === "help") {
    return (
      <Dialog title={t("help")}>
        <Help />
      </Dialog>
    );
  }
  if (dialog === "clip" && clip) {
    return (
      <Dialog title={t("clip")}>
        <img class="clip" src={clip.image} width={clip.width} height={clip.height} alt={t("clipAlt", { frames: clip.frames })} />
        <a class="clip-link" href={clip.image} download="clip.webp">
          {t("clipSave")}
        </a>
      </Dialog>
    );
  }
  return null;
}

function Dialog({ title, children }: { title: string; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const close = () => setState({ dialog: null });
  return (
    <dialog ref={dialog} aria-label={title} onClose={close} onClick={(event) => event.target === dialog.current && close()}>
      <div class="dialog-body">
        <div class="title-row">
          <h2>{title}</h2>
          <button class="tool" aria-label={t("close")} onClick={close}>
            <Icon name="close" />
          </button>
        </div>
        {children}
      </div>
    </dialog>
  );
}

const KEYS: [string, TextKey][] = [
  ["V · B · M", "keyTools"],
  ["A", "keyAdd"],
  ["Tab", "keyTab"],
  ["← ↑ → ↓", "keyMove"],
  ["Shift + ← ↑ → ↓", "keyResize"],
  ["Alt + ← ↑ → ↓", "keyFar"],
  ["Enter", "keyName"],
  ["R", "keyRelate"],
  ["Del", "keyDelete"],
  ["Ctrl + Enter", "keyEdit"],
  ["Esc", "keyEscape"],
  ["Ctrl + Z · Ctrl + Shift + Z", "keyUndo"],
  ["C", "keyCompare"],
  ["Ctrl + V", "keyPaste"],
];

function Help() {
  return (
    <div class="help-text">
      <ol>
        {(["helpOpen", "helpDescribe", "helpChange", "helpEdit", "helpHistory"] as TextKey[]).map((key) => (
          <li key={key}>{t(key)}</li>
        ))}
      </ol>
      <h3>{t("keys")}</h3>
      <dl>
        {KEYS.map(([keys, what]) => (
          <div key={keys}>
            <dt>
              {keys.split(" · ").map((combination) => (
                <kbd key={combination}>{combination}</kbd>
              ))}
            </dt>
            <dd>{t(what)}</dd>
          </div>
        ))}
      </dl>
      <p class="quiet">
        <a href="static/LICENSES.txt" target="_blank" rel="noreferrer">
          {t("licences")}
        </a>
      </p>
    </div>
  );
}
