/** The button that does it, and how many variants it makes. */

import { canEdit, canPlay, runClip, runEdit } from "../actions/edits";
import { setMode } from "../actions/draft";
import { doc, isCanvas, isRunning, setState, shownGraph, useStore } from "../store";
import { t } from "../texts";

const COUNTS = [1, 2, 4, 8];

export function EditBar() {
  const mode = useStore((s) => s.mode);
  const canvas = useStore(isCanvas);
  const variants = useStore((s) => s.variants);
  const running = useStore(isRunning);
  useStore((s) => s.plan.status);
  const known = useStore((s) => !!doc(s)?.source);
  useStore(shownGraph);
  if (mode === "describe" && !canvas) {
    return (
      <div class="edit-bar">
        <button class="primary large" disabled={!known} title={known ? "" : t("describeFirst")} onClick={() => setMode("change")}>
          {t("goOnToChange")}
        </button>
      </div>
    );
  }
  const ready = canEdit();
  return (
    <div class="edit-bar">
      <div class="how-many">
        <span aria-hidden="true">{t("variants")}</span>
        <div class="segments" role="group" aria-label={t("howManyVariants")}>
          {COUNTS.map((count) => (
            <button key={count} aria-pressed={variants === count} aria-label={t("variantCount", { count })} title={t("variantCount", { count })} onClick={() => setState({ variants: count })}>
              {count}
            </button>
          ))}
        </div>
      </div>
      {canPlay() && (
        <button class="large" disabled={!ready} onClick={() => void runClip()} title={t("clipTitle")}>
          {t("clip")}
        </button>
      )}
      <button class="primary large" disabled={!ready} onClick={() => void runEdit()} title={`${t(canvas ? "makePicture" : "edit")} (Ctrl+Enter)`}>
        {t(running ? "editing_" : canvas ? "makePicture" : "edit")}
      </button>
    </div>
  );
}
