/** Hooks for sizes, frames and text measures. */

import { type RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Size } from "../model/layout";

/** The inner size of an element, followed as it changes. */
export function useSize(ref: RefObject<HTMLElement | null>): Size {
  const [size, setSize] = useState<Size>({ width: 0, height: 0 });
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return;
    const measure = () => {
      const { clientWidth, clientHeight } = element;
      setSize((old) => (old.width === clientWidth && old.height === clientHeight ? old : { width: clientWidth, height: clientHeight }));
    };
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);
  return size;
}

/** Calls `work` at most once per frame, with the last argument. */
export function useFrame<T>(work: (value: T) => void): { (value: T): void; flush(): void } {
  const state = useRef<{ frame: number; value: T | undefined; work: (value: T) => void }>({ frame: 0, value: undefined, work });
  state.current.work = work;
  const schedule = useRef<{ (value: T): void; flush(): void } | null>(null);
  if (!schedule.current) {
    const run = () => {
      const { value } = state.current;
      state.current.frame = 0;
      state.current.value = undefined;
      if (value !== undefined) state.current.work(value);
    };
    const call = (value: T) => {
      state.current.value = value;
      if (!state.current.frame) state.current.frame = requestAnimationFrame(run);
    };
    schedule.current = Object.assign(call, {
      flush() {
        cancelAnimationFrame(state.current.frame);
        run();
      },
    });
  }
  useEffect(() => () => cancelAnimationFrame(state.current.frame), []);
  return schedule.current;
}

const widths = new Map<string, number>();
let context: CanvasRenderingContext2D | null = null;

/** Width of a text in pixels. */
export function textWidth(text: string, font: string): number {
  const key = `${font}\u0000${text}`;
  const known = widths.get(key);
  if (known !== undefined) return known;
  context ??= document.createElement("canvas").getContext("2d")!;
  context.font = font;
  const width = context.measureText(text).width;
  if (widths.size > 2000) widths.clear();
  widths.set(key, width);
  return width;
}

/** The text, cut off where it is longer than the room. */
export function shortened(text: string, room: number, font: string): string {
  if (textWidth(text, font) <= room) return text;
  const letters = [...text.slice(0, 200)]; // whole characters; more are in no room
  let [fits, end] = [0, letters.length];
  while (fits < end) {
    const middle = Math.ceil((fits + end) / 2);
    if (textWidth(`${letters.slice(0, middle).join("")}…`, font) <= room) fits = middle;
    else end = middle - 1;
  }
  return `${letters.slice(0, fits).join("")}…`;
}

export const FONT = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Noto Sans KR", "Malgun Gothic", sans-serif';

/** Puts the cursor into the name of the selected object. */
export function focusName(): void {
  document.querySelector<HTMLInputElement>(".inspector .title-row input")?.focus();
}

const hues = new Map<string, number>();

/** A hue for each object, a golden angle apart in the order in which they were first seen. */
export function hueOf(id: string): number {
  if (!hues.has(id)) hues.set(id, hues.size);
  return Math.round((250 + 137.508 * hues.get(id)!) % 360);
}

export function forgetHues(): void {
  hues.clear();
}
