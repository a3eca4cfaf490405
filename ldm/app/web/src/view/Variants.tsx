/** The variants of one edit: in a strip below the picture, or as the grid of a sweep. */

import { thumbnail } from "../api/client";
import type { SceneNode } from "../api/types";
import { goToNode, pick, variantsOf } from "../actions/edits";
import { currentNode, getState, numberOf, setState, useStore } from "../store";
import { optionLabel, t } from "../texts";

export function VariantStrip() {
  const node = useStore(currentNode);
  const count = useStore((s) => s.session?.nodes.length ?? 0); // draws again when one is done
  const grid = useStore((s) => s.grid);
  const variants = count ? variantsOf(node) : [];
  if (variants.length < 2 || grid) return null;
  return (
    <div class="variants" role="group" aria-label={t("variants")}>
      {variants.map((variant) => (
        <Variant key={variant.id} variant={variant} current={variant.id === node!.id} height={112} />
      ))}
    </div>
  );
}

function Variant({ variant, current, height }: { variant: SceneNode; current: boolean; height: number }) {
  const label = variant.difference ? differenceWords(variant.difference) : `#${numberOf(variant)}`;
  return (
    <button class="variant" aria-current={current} title={label} onClick={() => void choose(variant.id)}>
      {variant.image && <img src={thumbnail(variant.image, height)} class={variant.image.height < height ? "sharp" : ""} alt="" />}
      <span>
        {label}
        {variant.verdict && <VerdictDot passed={variant.verdict.passed} />}
      </span>
    </button>
  );
}

async function choose(id: number): Promise<void> {
  if (getState().picking !== undefined) return pick(id);
  const compared = getState().comparison !== null;
  setState({ grid: false });
  await goToNode(id, compared);
}

/** What the checker of the world says of a picture. */
export function VerdictDot({ passed }: { passed: boolean }) {
  const words = t(passed ? "checkerPassed" : "checkerFailed");
  return <i class={`verdict ${passed ? "passed" : "failed"}`} role="img" aria-label={words} title={words} />;
}

/** "graph-scale 3 seed 1" in the page's language. */
export function differenceWords(difference: string): string {
  return difference.replace(/([a-z][a-z_-]*) (\S+)/g, (_, name: string, value: string) => `${optionLabel(name.replaceAll("-", "_"))} ${value}`);
}

export function SweepGrid() {
  const node = useStore(currentNode);
  const count = useStore((s) => s.session?.nodes.length ?? 0);
  const variants = count ? variantsOf(node) : [];
  const columns = Math.max(node?.n ?? 1, 1);
  const values = node?.sweep?.values ?? [];
  const rows = values.map((value, row) => ({ value, cells: variants.slice(row * columns, (row + 1) * columns) }));
  const name = node?.sweep ? optionLabel(node.sweep.option) : "";
  const single = columns === 1;
  return (
    <div class="sweep-grid" role="group" aria-label={t("sweepOf", { name })}>
      <h2>{t("sweepOf", { name })}</h2>
      <div class={single ? "cells" : "cells rows"} style={{ "--columns": columns }}>
        {rows.map(({ value, cells }) => (
          <div class="sweep-row" key={value}>
            {!single && <strong>{value}</strong>}
            {cells.map((cell) => (
              <button class="variant" key={cell.id} aria-current={cell.id === node!.id} onClick={() => void choose(cell.id)}>
                {cell.image && <img src={thumbnail(cell.image, 256)} class={cell.image.width < 128 ? "sharp" : ""} alt="" />}
                <span>
                  {single ? value : `${t("seed")} ${String(cell.options?.used.seed ?? "")}`}
                  {cell.verdict && <VerdictDot passed={cell.verdict.passed} />}
                </span>
              </button>
            ))}
          </div>
        ))}
      </div>
    </div>
  );
}
