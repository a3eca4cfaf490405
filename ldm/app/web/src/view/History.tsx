/** The tree of edits: every picture that was made, each a place to go on from. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { deleteNode, goToNode, pick } from "../actions/edits";
import { leaveComparison } from "../actions/draft";
import { compare, thumbnail } from "../api/client";
import type { Comparison, SceneNode } from "../api/types";
import { treePlaces } from "../model/tree";
import { fromJson } from "../model/graph";
import { currentNode, getState, nodeOf, numberOf, setState, useStore } from "../store";
import { serverWords, t } from "../texts";
import { Icon } from "./icons";
import { differenceWords, VerdictDot } from "./Variants";
import { attempt } from "../actions/toasts";
import { words } from "./sentences";

const CELL = { width: 92, height: 88 };
const THUMB = 64;

export function History() {
  const all = useStore((s) => s.session?.nodes ?? NONE);
  const current = useStore((s) => s.line?.present.node);
  const picking = useStore((s) => s.picking);
  const comparison = useStore((s) => s.comparison);
  const scroller = useRef<HTMLDivElement>(null);
  const shown = useMemo(() => withoutHiddenVariants(all, current), [all, current]);
  const nodes = shown.nodes;
  const places = treePlaces(nodes);
  const size = [...places.values()].reduce(
    (room, { column, lane }) => ({ columns: Math.max(room.columns, column + 1), lanes: Math.max(room.lanes, lane + 1) }),
    { columns: 1, lanes: 1 },
  );

  useEffect(() => {
    scroller.current?.querySelector('[aria-current="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [current, nodes.length]);

  return (
    <section class="history" aria-label={t("history")}>
      <HistoryTools count={all.length} />
      <div class="tree" ref={scroller}>
        <div class="canvas" style={{ width: `${size.columns * CELL.width}px`, height: `${size.lanes * CELL.height}px` }}>
          <svg width={size.columns * CELL.width} height={size.lanes * CELL.height} aria-hidden="true">
            {nodes.map((node) => {
              const [from, to] = [node.parent === null ? undefined : places.get(node.parent), places.get(node.id)];
              return from && to ? <path key={node.id} d={branch(from, to)} /> : null;
            })}
          </svg>
          {nodes.map((node) => {
            const { column, lane } = places.get(node.id)!;
            const marked = picking === node.id || comparison?.before === node.id || comparison?.after === node.id;
            return (
              <div key={node.id} class={`tree-node${marked ? " marked" : ""}`} style={{ left: `${column * CELL.width}px`, top: `${lane * CELL.height}px` }}>
                <button
                  aria-current={node.id === current}
                  aria-label={nodeWords(node)}
                  title={nodeWords(node)}
                  onClick={() => (picking === undefined ? void goToNode(node.id) : pick(node.id))}
                >
                  {node.image ? <img src={thumbnail(node.image, 2 * THUMB)} alt="" loading="lazy" /> : <Icon name="graph" size={24} />}
                  {shown.hidden.has(node.id) && <i class="more">{`+${shown.hidden.get(node.id)}`}</i>}
                  {node.draft && <i class="unfinished" title={t("unfinished")} />}
                  {node.verdict && <VerdictDot passed={node.verdict.passed} />}
                </button>
                <span>{caption(node)}</span>
              </div>
            );
          })}
        </div>
      </div>
    </section>
  );
}

const NONE: SceneNode[] = [];

/** The variants of one request in one place: those that are current or have children, else the first; and how many are hidden. */
function withoutHiddenVariants(all: SceneNode[], current: number | undefined) {
  const parents = new Set(all.map((node) => node.parent));
  const matters = (node: SceneNode) => node.id === current || parents.has(node.id);
  const hidden = new Map<number, number>();
  const nodes = all.filter((node) => {
    if (node.job === null || matters(node)) return true;
    const siblings = all.filter((other) => other.job === node.job);
    return !siblings.some(matters) && siblings[0] === node;
  });
  for (const node of nodes) {
    if (node.job === null || nodes.find((other) => other.job === node.job) !== node) continue;
    const more = all.filter((other) => other.job === node.job).length - nodes.filter((other) => other.job === node.job).length;
    if (more) hidden.set(node.id, more);
  }
  return { nodes, hidden };
}

type Place = { column: number; lane: number };

function branch(from: Place, to: Place): string {
  const [x0, y0] = [from.column * CELL.width + THUMB + 4, from.lane * CELL.height + THUMB / 2 + 4];
  const [x1, y1] = [to.column * CELL.width + 4, to.lane * CELL.height + THUMB / 2 + 4];
  const middle = (x0 + x1) / 2;
  return `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`;
}

function caption(node: SceneNode): string {
  if (node.kind === "photograph") return t("photograph");
  if (node.kind === "canvas") return t("canvas");
  return node.difference ? differenceWords(node.difference) : `#${numberOf(node)}`;
}

function nodeWords(node: SceneNode): string {
  const difference = node.difference && differenceWords(node.difference);
  return [`#${numberOf(node)}`, difference, doneWords(node).join("; ")].filter(Boolean).join(" – ");
}

/** What made a picture. */
function doneWords(node: SceneNode): string[] {
  if (node.kind === "photograph" || node.kind === "canvas") return [t(node.kind)];
  if (node.kind === "sample") return [t("doSample")];
  const before = nodeOf(getState(), node.parent)?.graph;
  if (!node.operations || !node.graph || !before) return (node.sentences ?? []).map((sentence) => serverWords(sentence));
  const done = words(node.operations, fromJson(before), fromJson(node.graph));
  return [...done, ...(node.style ? [t("doStyle")] : [])];
}

function HistoryTools({ count }: { count: number }) {
  const picking = useStore((s) => s.picking);
  const comparison = useStore((s) => s.comparison);
  const node = useStore(currentNode);
  const pictures = useStore((s) => (s.session?.nodes ?? NONE).filter((other) => other.image).length);
  return (
    <div class="tools">
      <h2>
        {t("history")} <span class="count">{count}</span>
      </h2>
      <div class="group">
        {pictures > 1 && (
          <button
            class="tool wide"
            aria-pressed={picking !== undefined}
            onClick={() => {
              leaveComparison();
              setState({ picking: picking === undefined ? null : undefined });
            }}
          >
            <Icon name="split" size={16} /> <span>{t("compareTwo")}</span>
          </button>
        )}
        {node && node.parent !== null && (
          <button class="tool wide" onClick={() => confirmDelete(node)} title={t("deleteNodeTitle")}>
            <Icon name="trash" size={16} /> <span>{t("deleteNode")}</span>
          </button>
        )}
      </div>
      {picking !== undefined && <p class="quiet" role="status">{t(picking === null ? "pickFirst" : "pickSecond")}</p>}
      {comparison && <ComparisonWords {...comparison} />}
    </div>
  );
}

function confirmDelete(node: SceneNode): void {
  if (window.confirm(t("deleteNodeSure", { id: numberOf(node) }))) void deleteNode(node.id);
}

function comparedWords({ operations }: Comparison, before: number, after: number): string[] {
  const [source, target] = [nodeOf(getState(), before)?.graph, nodeOf(getState(), after)?.graph];
  if (!operations || !source || !target) return [];
  return operations.length ? words(operations, fromJson(source), fromJson(target)) : [t("sameGraphs")];
}

/** What differs between the two pictures under the slider, in words. */
function ComparisonWords({ before, after }: { before: number; after: number }) {
  const shown = useRef<HTMLParagraphElement>(null);
  useEffect(() => {
    let stale = false;
    void attempt(() => compare(before, after)).then((found) => {
      if (stale || !found || !shown.current) return;
      const share = found.changed_share === null ? "" : t("changedShare", { percent: (100 * found.changed_share).toFixed(1) });
      shown.current.textContent = [...comparedWords(found, before, after), share].filter(Boolean).join(" · ");
      shown.current.title = shown.current.textContent;
    });
    return () => void (stale = true);
  }, [before, after]);
  return <p class="quiet words" ref={shown} role="status" />;
}

