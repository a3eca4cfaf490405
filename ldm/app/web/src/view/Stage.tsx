/** The picture with its boxes, or two pictures under a slider, or the way of an edit that runs. */

import { useRef } from "preact/hooks";
import { address } from "../api/client";
import { compareWithParent, toggleAttention, variantsOf } from "../actions/edits";
import { leaveComparison, setMode } from "../actions/draft";
import { readPicture } from "../actions/session";
import { fit } from "../model/geometry";
import { currentNode, doc, frameOf, isCanvas, nodeOf, selectedObject, setState, shownGraph, type Tool, useStore } from "../store";
import { t } from "../texts";
import { Compare } from "./Compare";
import { useSize } from "./hooks";
import { Icon, type IconName } from "./icons";
import { MaskBrush } from "./MaskBrush";
import { NamePrompt } from "./NamePrompt";
import { addInTheMiddle, Overlay } from "./Overlay";
import { Progress } from "./Progress";
import { SweepGrid, VariantStrip } from "./Variants";

const SHARP = 3; // pictures that are enlarged more than this show their pixels

export function Stage() {
  const node = useStore(currentNode);
  const comparison = useStore((s) => s.comparison);
  const before = useStore((s) => nodeOf(s, s.comparison?.before));
  const after = useStore((s) => nodeOf(s, s.comparison?.after));
  const grid = useStore((s) => s.grid);
  const preview = useStore((s) => s.preview);
  const tool = useStore((s) => s.tool);
  const attention = useStore((s) => s.attention);
  const room = useRef<HTMLDivElement>(null);
  const space = useSize(room);
  const image = comparison ? (after?.image ?? null) : (node?.image ?? null);
  const frame = image ?? frameOf(node);
  const size = fit(frame, { width: Math.max(space.width, 1), height: Math.max(space.height, 1) });
  const sharp = size.width / frame.width >= SHARP;
  const pictures = before?.image && after?.image ? { before: before.image, after: after.image } : null;
  return (
    <section class="stage" aria-label={t("picture")}>
      <StageTools />
      <div class="room" ref={room}>
        {grid ? (
          <SweepGrid />
        ) : (
          <div class={`frame${sharp ? " sharp" : ""}`} style={{ width: `${size.width}px`, height: `${size.height}px` }}>
            {comparison && pictures ? (
              <Compare {...pictures} labels={comparisonLabels(comparison, node?.id)} sharp={sharp} key={`${comparison.before} ${comparison.after}`} />
            ) : (
              <>
                {preview ? (
                  <img src={preview.image} alt={t("previewAlt")} />
                ) : image ? (
                  <img src={address(image.url)} alt={t("pictureAlt")} draggable={false} />
                ) : (
                  <div class="blank" />
                )}
                {attention && !preview && <Heat />}
                {!preview && <Overlay width={size.width} height={size.height} />}
                {tool === "mask" && <MaskBrush frame={frame} width={size.width} height={size.height} />}
                {!preview && <Hint />}
              </>
            )}
            <NamePrompt width={size.width} height={size.height} />
            <Progress />
          </div>
        )}
      </div>
      <VariantStrip />
    </section>
  );
}

function comparisonLabels({ before, after }: { before: number; after: number }, current: number | undefined): [string, string] {
  return after === current ? [t("before"), t("after")] : [`#${before}`, `#${after}`];
}

const TOOLS: [Tool, IconName, "toolSelect" | "toolBox" | "toolMask", string][] = [
  ["select", "select", "toolSelect", "V"],
  ["box", "box", "toolBox", "B"],
  ["mask", "brush", "toolMask", "M"],
];

function StageTools() {
  const node = useStore(currentNode);
  const parent = useStore((s) => nodeOf(s, currentNode(s)?.parent));
  const tool = useStore((s) => s.tool);
  const grid = useStore((s) => s.grid);
  const comparison = useStore((s) => s.comparison);
  const attention = useStore((s) => s.attention);
  const canAttend = useStore((s) => !!s.app?.model.attention);
  const canvas = useStore(isCanvas);
  const sweep = node?.sweep && variantsOf(node).length > 1;
  return (
    <div class="tools" role="toolbar" aria-label={t("tools")}>
      <div class="group">
        {TOOLS.map(([name, icon, label, key]) =>
          name === "mask" && canvas ? null : (
            <button
              key={name}
              class="tool"
              aria-pressed={tool === name}
              title={`${t(label)} (${key})`}
              aria-label={t(label)}
              onClick={() => {
                leaveComparison();
                setState({ tool: name });
              }}
            >
              <Icon name={icon} />
            </button>
          ),
        )}
        <button class="tool" title={t("addObjectTitle")} aria-label={t("addObject")} onClick={addInTheMiddle}>
          <Icon name="plus" />
        </button>
      </div>
      <div class="group">
        {parent?.image && node?.image && (
          <button
            class="tool wide"
            aria-pressed={comparison !== null}
            title={t("beforeAfterTitle")}
            onClick={() => (comparison ? leaveComparison() : compareWithParent())}
          >
            <Icon name="split" /> <span>{t("beforeAfter")}</span>
          </button>
        )}
        {sweep && (
          <button class="tool wide" aria-pressed={grid} onClick={() => setState({ grid: !grid, comparison: null })}>
            <Icon name="grid" /> <span>{t("grid")}</span>
          </button>
        )}
        {canAttend && node?.image && node.graph && (
          <button class="tool wide" aria-pressed={attention} title={t("attentionTitle")} onClick={() => void toggleAttention()}>
            <Icon name="eye" /> <span>{t("attention")}</span>
          </button>
        )}
      </div>
    </div>
  );
}

/** Where the model attends to the object under the pointer, or to the selected one. */
function Heat() {
  const maps = useStore((s) => currentNode(s)?.attention ?? null);
  const shown = useStore((s) => s.hover ?? selectedObject(s));
  const picture = useStore((s) => currentNode(s)?.image ?? null);
  const map = maps?.find((other) => other.object === shown);
  if (map && picture) {
    const mask = `url("${address(map.image.url)}")`;
    return (
      <>
        <div class="dimmed" />
        <img class="heat" src={address(picture.url)} style={{ maskImage: mask }} alt={t("attentionAlt")} />
      </>
    );
  }
  return maps?.length ? <p class="stage-note">{t("attentionHint")}</p> : null;
}

/** What to do where there is nothing yet. */
function Hint() {
  const mode = useStore((s) => s.mode);
  const empty = useStore((s) => !shownGraph(s).objects.length && !doc(s)?.source);
  const prompt = useStore((s) => s.prompt);
  const tool = useStore((s) => s.tool);
  const reader = useStore((s) => s.app?.reader ?? null);
  const readerNote = useStore((s) => s.app?.reader_note ?? "");
  const canvas = useStore(isCanvas);
  const busy = useStore((s) => s.busy);
  if (!empty || prompt || tool !== "select") return null;
  return (
    <div class="hint">
      <h2>{t(canvas ? "canvasEmpty" : "nothingKnown")}</h2>
      <p>{t(canvas ? "canvasEmptyHow" : "nothingKnownHow")}</p>
      <div class="row">
        {!canvas && reader && (
          <button class="primary" disabled={busy !== null} onClick={() => void readPicture()}>
            <Icon name="scan" /> {t("readGraph")}
          </button>
        )}
        <button
          onClick={() => {
            if (!canvas && mode !== "describe") setMode("describe");
            setState({ tool: "box" });
          }}
        >
          <Icon name="box" /> {t("drawBox")}
        </button>
      </div>
      {!canvas && !reader && <p class="small">{readerNote || t("noReader")}</p>}
    </div>
  );
}

