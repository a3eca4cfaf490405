/** The other pictures that an edit may take: a style, and a mask. */

import { useRef, useState } from "preact/hooks";
import { setMask, setStyle } from "../actions/edits";
import { thumbnail } from "../api/client";
import type { Picture } from "../api/types";
import { doc, setState, useStore } from "../store";
import { t } from "../texts";
import { Icon } from "./icons";

export function Sources() {
  const style = useStore((s) => doc(s)?.style ?? null);
  const mask = useStore((s) => doc(s)?.mask ?? null);
  const styles = useStore((s) => !!s.app?.model.styles);
  return (
    <div class="sources">
      {styles && <Source picture={style} label={t("style")} hint={t("styleHint")} onFile={(file) => void setStyle(file)} />}
      <Source picture={mask} label={t("mask")} hint={t("maskHint")} onFile={(file) => void setMask(file)} onPaint={() => setState({ tool: "mask", comparison: null, grid: false })} />
    </div>
  );
}

interface Props {
  picture: Picture | null;
  label: string;
  hint: string;
  onFile(file: Blob | null): void;
  onPaint?(): void;
}

function Source({ picture, label, hint, onFile, onPaint }: Props) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div
      class={`source${over ? " over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        event.stopPropagation();
        setOver(false);
        const file = event.dataTransfer?.files[0];
        if (file) onFile(file);
      }}
    >
      {picture ? <img src={thumbnail(picture, 64)} alt="" /> : <Icon name={onPaint ? "brush" : "image"} />}
      <div>
        <strong>{label}</strong>
        <span>{picture ? `${picture.width} × ${picture.height}` : hint}</span>
      </div>
      {picture ? (
        <button class="tool small" aria-label={t("removeThis", { name: label })} onClick={() => onFile(null)}>
          <Icon name="close" size={16} />
        </button>
      ) : (
        <>
          {onPaint && (
            <button class="link" onClick={onPaint}>
              {t("paint")}
            </button>
          )}
          <button class="link" onClick={() => input.current?.click()} aria-label={t("chooseFor", { name: label })}>
            {t("choose")}
          </button>
        </>
      )}
      <input
        ref={input}
        type="file"
        accept="image/*"
        hidden
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          if (file) onFile(file);
          event.currentTarget.value = "";
        }}
      />
    </div>
  );
}
