/** Painting where the edit may change the picture: the mask of Gradio's and ComfyUI's users. */

import { useEffect, useRef, useState } from "preact/hooks";
import { address } from "../api/client";
import { setMask } from "../actions/edits";
import { doc, useStore } from "../store";
import { t } from "../texts";
import type { Size } from "../model/layout";

interface Props extends Size {
  frame: Size;
}

const SIDE = 512; // pixels of the longer side of a mask; it is scaled to the picture and to the latents anyway

export function MaskBrush({ frame, width, height }: Props) {
  const mask = useStore((s) => doc(s)?.mask ?? null);
  const [radius, setRadius] = useState(6);
  const [erase, setErase] = useState(false);
  const canvas = useRef<HTMLCanvasElement>(null);
  const last = useRef<[number, number] | null>(null);
  const scale = SIDE / Math.max(frame.width, frame.height);
  const size = { width: Math.round(frame.width * scale), height: Math.round(frame.height * scale) };

  useEffect(() => {
    const context = canvas.current!.getContext("2d")!;
    context.clearRect(0, 0, size.width, size.height);
    if (!mask) return;
    const image = new Image();
    image.onload = () => drawMask(context, image, size);
    image.src = address(mask.url);
  }, [mask?.id]);

  function paint(event: PointerEvent): void {
    const context = canvas.current!.getContext("2d")!;
    const at: [number, number] = [(event.offsetX / width) * size.width, (event.offsetY / height) * size.height];
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.strokeStyle = "#fff";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = (2 * radius * SIDE) / 100;
    context.beginPath();
    context.moveTo(...(last.current ?? at));
    context.lineTo(...at);
    context.stroke();
    last.current = at;
  }

  async function keep(): Promise<void> {
    last.current = null;
    const blob = await asMask(canvas.current!);
    await setMask(blob);
  }

  return (
    <>
      <canvas
        ref={canvas}
        class="mask"
        width={size.width}
        height={size.height}
        aria-label={t("maskLabel")}
        role="img"
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          canvas.current!.setPointerCapture(event.pointerId);
          paint(event);
        }}
        onPointerMove={(event) => last.current && paint(event)}
        onPointerUp={() => last.current && void keep()}
      />
      <div class="mask-tools">
        <label>
          {t("brushSize")}
          <input type="range" min="1" max="25" value={radius} onInput={(event) => setRadius(Number(event.currentTarget.value))} />
        </label>
        <button aria-pressed={erase} onClick={() => setErase(!erase)}>
          {t("erase")}
        </button>
        <button disabled={!mask} onClick={() => void setMask(null)}>
          {t("clear")}
        </button>
      </div>
    </>
  );
}

/** A black and white image as strokes: white where it is white, clear where it is black. */
function drawMask(context: CanvasRenderingContext2D, image: HTMLImageElement, { width, height }: Size): void {
  context.globalCompositeOperation = "source-over";
  context.drawImage(image, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i]!;
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

function asMask(canvas: HTMLCanvasElement): Promise<Blob | null> {
  const { width, height } = canvas;
  const strokes = canvas.getContext("2d")!.getImageData(0, 0, width, height).data;
  if (!strokes.some((value, i) => i % 4 === 3 && value > 0)) return Promise.resolve(null);
  const flat = document.createElement("canvas");
  [flat.width, flat.height] = [width, height];
  const context = flat.getContext("2d")!;
  context.fillRect(0, 0, width, height);
  context.drawImage(canvas, 0, 0);
  return new Promise((resolve) => flat.toBlob(resolve, "image/png"));
}
