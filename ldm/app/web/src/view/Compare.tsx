/** Two pictures under a slider: the first on its left, the second on its right. */

import { useRef, useState } from "preact/hooks";
import { address } from "../api/client";
import type { Picture } from "../api/types";
import { t } from "../texts";
import { useFrame } from "./hooks";

interface Props {
  before: Picture;
  after: Picture;
  labels: [string, string];
  sharp: boolean;
}

export function Compare({ before, after, labels, sharp }: Props) {
  const [share, setShare] = useState(50);
  const frame = useRef<HTMLDivElement>(null);
  const dragging = useRef(false);
  const follow = useFrame<number>((x) => {
    const { left, width } = frame.current!.getBoundingClientRect();
    setShare(Math.min(Math.max((100 * (x - left)) / width, 0), 100));
  });

  function onPointerDown(event: PointerEvent): void {
    dragging.current = true;
    frame.current!.setPointerCapture(event.pointerId);
    follow(event.clientX);
  }

  return (
    <div
      ref={frame}
      class={`compare${sharp ? " sharp" : ""}`}
      style={{ "--share": `${share}%` }}
      onPointerDown={onPointerDown}
      onPointerMove={(event) => dragging.current && follow(event.clientX)}
      onPointerUp={() => (dragging.current = false)}
      onPointerCancel={() => (dragging.current = false)}
    >
      <img src={address(after.url)} alt={labels[1]} draggable={false} />
      <img class="first" src={address(before.url)} alt={labels[0]} draggable={false} />
      <span class="caption left" aria-hidden="true">{labels[0]}</span>
      <span class="caption right" aria-hidden="true">{labels[1]}</span>
      <div class="divider" aria-hidden="true" />
      <input
        type="range"
        min="0"
        max="100"
        step="1"
        value={Math.round(share)}
        aria-label={t("sliderLabel", { before: labels[0], after: labels[1] })}
        onInput={(event) => setShare(Number(event.currentTarget.value))}
      />
    </div>
  );
}
