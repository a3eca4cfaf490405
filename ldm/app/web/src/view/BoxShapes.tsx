/** What is drawn over the picture: boxes with their handles, what was removed, where things come from, and the region. */

import { removeSelected, restoreObject, setBox } from "../actions/draft";
import * as geo from "../model/geometry";
import type { Box, Handle } from "../model/geometry";
import { describe, type SceneObject } from "../model/graph";
import { setState } from "../store";
import { t } from "../texts";
import { type Frame, pixels } from "./boxes";
import { focusName, hueOf } from "./hooks";
import { memo } from "./memo";

const STEP = 0.01;

interface ShapeProps extends Frame {
  object: SceneObject;
  box: Box;
  selected: boolean;
  hovered: boolean;
  changed: boolean;
  labelX: number | undefined; // undefined without a label; four numbers, since the view is drawn again for another value
  labelY: number | undefined;
  labelWidth: number | undefined;
  labelText: string | undefined;
}

export const BoxShape = memo(({ object, box, selected, hovered, changed, width, height, ...label }: ShapeProps) => {
  const rect = pixels(box, width, height);

  return (
    <g
      class={`box${selected ? " selected" : ""}${hovered ? " hovered" : ""}${changed ? " changed" : ""}`}
      style={{ "--hue": hueOf(object.id) }}
      data-id={object.id}
      tabindex={0}
      role="button"
      aria-pressed={selected}
      aria-label={t("boxLabel", { name: describe(object), x: percent(geo.centre(box).x), y: percent(geo.centre(box).y) })}
      onFocus={() => setState({ selection: { kind: "object", id: object.id } })}
      onKeyDown={(event) => onBoxKey(event, object.id, box)}
    >
      <rect class="halo" {...rect} />
      <rect class="outline" {...rect} />
      {label.labelX !== undefined && (
        <g class="label">
          <rect x={label.labelX} y={label.labelY} width={label.labelWidth} height={20} rx="4" />
          <text x={label.labelX + 7} y={label.labelY! + 14}>
            {label.labelText}
          </text>
        </g>
      )}
      {selected && geo.HANDLES.map((handle) => <HandleShape key={handle} handle={handle} rect={rect} />)}
    </g>
  );
});

/** Arrow keys move a box, with Shift resize it; Delete removes its object, Enter goes to its name. */
function onBoxKey(event: KeyboardEvent, id: string, box: Box): void {
  if (event.ctrlKey || event.metaKey) return;
  const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (direction) {
    event.preventDefault();
    const [dx, dy] = direction.map((value) => value * STEP * (event.altKey ? 5 : 1)) as [number, number];
    const to = event.shiftKey ? geo.resized(box, "se", dx, dy) : geo.moved(box, dx, dy);
    setBox(id, to, `${event.shiftKey ? "resize" : "move"} ${id}`);
  } else if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    removeSelected();
  } else if (event.key === "Enter") {
    event.preventDefault();
    focusName();
  } else return;
  event.stopPropagation();
}

const percent = (share: number) => Math.round(100 * share);

function HandleShape({ handle, rect }: { handle: Handle; rect: ReturnType<typeof pixels> }) {
  const x = rect.x + (handle.includes("w") ? 0 : handle.includes("e") ? rect.width : rect.width / 2);
  const y = rect.y + (handle.includes("n") ? 0 : handle.includes("s") ? rect.height : rect.height / 2);
  if (handle.length === 1 && (handle === "n" || handle === "s" ? rect.width : rect.height) < 56) return null;
  return (
    <g class={`handle handle-${handle}`}>
      <rect class="grip" x={x - 4} y={y - 4} width="8" height="8" rx="2" />
      <circle class="reach" data-handle={handle} cx={x} cy={y} r="11" />
    </g>
  );
}

/** Where an edit will change the picture. */
export function Region({ png, width, height }: Frame & { png: string }) {
  return (
    <g class="region" aria-hidden="true">
      <defs>
        <pattern id="hatching" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect class="hatching-ground" width="8" height="8" />
          <rect class="hatching-line" width="2" height="8" />
        </pattern>
        <mask id="region-mask" maskUnits="userSpaceOnUse" x="0" y="0" width={width} height={height}>
          <image href={png} x="0" y="0" width={width} height={height} preserveAspectRatio="none" />
        </mask>
      </defs>
      <rect width={width} height={height} fill="url(#hatching)" mask="url(#region-mask)" />
    </g>
  );
}

export function RemovedBox({ object, box, width, height }: Frame & { object: SceneObject; box: Box }) {
  const { x, y, width: w, height: h } = pixels(box, width, height);
  return (
    <g
      class="removed"
      style={{ "--hue": hueOf(object.id) }}
      tabindex={0}
      role="button"
      aria-label={t("bringBack", { name: describe(object) })}
      onKeyDown={(event) => event.key === "Enter" && restoreObject(object.id)}
      onDblClick={() => restoreObject(object.id)}
    >
      <title>{t("bringBack", { name: describe(object) })}</title>
      <rect {...{ x, y }} width={w} height={h} />
      <path d={`M${x} ${y}l${w} ${h}M${x + w} ${y}l${-w} ${h}`} />
    </g>
  );
}

/** From where a box came. */
export function Way({ before, after, width, height }: Frame & { before: Box; after: Box }) {
  const [from, to] = [geo.centre(before), geo.centre(after)];
  const far = Math.hypot((to.x - from.x) * width, (to.y - from.y) * height) > 14;
  return (
    <g class="way" aria-hidden="true">
      <rect {...pixels(before, width, height)} />
      {far && <path d={`M${from.x * width} ${from.y * height}L${to.x * width} ${to.y * height}`} marker-end="url(#way-end)" />}
      <defs>
        <marker id="way-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
          <path d="M1 1l6 3-6 3" />
        </marker>
      </defs>
    </g>
  );
}

/** Where a thing would go that was given no place. */
export function Ghost({ id, box, before, width, height }: Frame & { id: string; box: Box; before: Box | null }) {
  return (
    <g class="ghost" style={{ "--hue": hueOf(id) }} aria-hidden="true">
      {before && <Way before={before} after={box} {...{ width, height }} />}
      <rect {...pixels(box, width, height)} />
    </g>
  );
}
