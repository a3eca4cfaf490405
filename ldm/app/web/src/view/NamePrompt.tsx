/** The field that asks for the name of a box that was just drawn. */

import { addObject } from "../actions/draft";
import { setState, useStore } from "../store";
import { t } from "../texts";
import { Combobox } from "./Combobox";

const WIDTH = 220;

export function NamePrompt({ width, height }: { width: number; height: number }) {
  const prompt = useStore((s) => s.prompt);
  if (prompt?.kind !== "name") return null;
  const box = prompt.box ?? [0.375, 0.375, 0.625, 0.625];
  const [x0, , x1, y1] = box;
  const left = Math.max(0, Math.min(((x0 + x1) / 2) * width - WIDTH / 2, width - WIDTH));
  const below = y1 * height + 8;
  const top = below + 150 > height ? Math.max(8, box[1] * height + 8) : below;
  return (
    <>
      <svg class="overlay quiet" viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
        <rect class="drawn" x={x0 * width} y={box[1] * height} width={(x1 - x0) * width} height={(y1 - box[1]) * height} />
      </svg>
      <div class="popover" style={{ left: `${left}px`, top: `${top}px`, width: `${WIDTH}px` }}>
        <Combobox
          kind="object"
          label={t("nameOfBox")}
          placeholder={t("whatIsIt")}
          autofocus
          onChoose={(name) => addObject(name, prompt.box)}
          onCancel={() => setState({ prompt: null })}
        />
      </div>
    </>
  );
}
