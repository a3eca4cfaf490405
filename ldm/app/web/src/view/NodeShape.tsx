/** A node of the graph: an object with its attributes, and the dot from which edges are drawn. */

import { removeSelected, restoreObject } from "../actions/draft";
import * as g from "../model/graph";
import type { Size } from "../model/layout";
import { setState } from "../store";
import { t } from "../texts";
import { focusName, FONT, hueOf, shortened, textWidth } from "./hooks";
import { memo } from "./memo";

const NODE_HEIGHT = { plain: 34, attributes: 48, small: 28 };
const MAX_WIDTH = 200;

export function nodeSize(object: g.SceneObject): Size {
  const words = object.attributes ?? [];
  const name = nameWidth(object);
  const below = textWidth(words.join(" "), `400 11px ${FONT}`) + 36;
  return {
    width: Math.round(Math.min(Math.max(name, words.length ? below : 0, 64), MAX_WIDTH)),
    height: words.length ? NODE_HEIGHT.attributes : NODE_HEIGHT.plain,
  };
}

const nameWidth = (object: g.SceneObject) => textWidth(object.name, `600 13px ${FONT}`) + 44;

/** The size of a node without its attributes, for graphs of many objects. */
export function smallSize(object: g.SceneObject): Size {
  return { width: Math.round(Math.min(nameWidth(object), MAX_WIDTH)), height: NODE_HEIGHT.small };
}

interface NodeProps {
  object: g.SceneObject;
  x: number;
  y: number;
  width: number;
  height: number;
  small: boolean;
  change: g.ObjectChange | "gone";
  selected: boolean;
  hovered: boolean;
}

export const NodeShape = memo(({ object, x, y, width, height, small, change, selected, hovered }: NodeProps) => {
  const words = small ? [] : (object.attributes ?? []);
  const gone = change === "gone";

  const name = g.describe(object);
  return (
    <g
      class={`node ${change}${selected ? " selected" : ""}${hovered ? " hovered" : ""}`}
      style={{ "--hue": hueOf(object.id) }}
      transform={`translate(${x} ${y})`}
    >
      <g
        data-node={gone ? undefined : object.id}
        tabindex={0}
        role="button"
        aria-pressed={selected}
        aria-label={gone ? t("bringBack", { name }) : t("nodeLabel", { name, change: change === "same" ? "" : t(change) })}
        onFocus={() => !gone && setState({ selection: { kind: "object", id: object.id } })}
        onKeyDown={(event) => onNodeKey(event, object.id, gone)}
        onClick={() => gone && restoreObject(object.id)}
      >
        <rect class={`body ${change}`} x={-width / 2} y={-height / 2} width={width} height={height} rx="9" />
        {(change === "changed" || change === "new") && <circle class="mark-changed" cx={-width / 2 + 3} cy={-height / 2 + 3} r="6" />}
        <circle class="dot" cx={-width / 2 + 15} cy={words.length ? -8 : 0} r="4.5" />
        <text class="name" x={-width / 2 + 26} y={words.length ? -3.5 : 4.5}>
          {shortened(object.name, width - 40, `600 13px ${FONT}`)}
        </text>
        {words.length > 0 && (
          <text class="attributes" x={-width / 2 + 26} y="13">
            {shortened(words.join(" "), width - 32, `400 11px ${FONT}`)}
          </text>
        )}
      </g>
      {!gone && (
        <g class="port" data-port={object.id}>
          <circle class="reach" cx={width / 2} cy="0" r="13" />
          <circle class="knob" cx={width / 2} cy="0" r="5.5" />
        </g>
      )}
    </g>
  );
});

/** Delete removes an object, Enter goes to its name or brings it back, R relates it. */
function onNodeKey(event: KeyboardEvent, id: string, gone: boolean): void {
  if (event.ctrlKey || event.metaKey) return;
  if (gone && event.key === "Enter") restoreObject(id);
  else if (event.key === "Delete" || event.key === "Backspace") removeSelected();
  else if (event.key === "Enter") focusName();
  else if (event.key.toLowerCase() === "r") document.querySelector<HTMLElement>(".relate select")?.focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
}
