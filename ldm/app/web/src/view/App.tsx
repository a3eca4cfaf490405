/** The page as a whole: its phases, keys, and files that are dropped or pasted anywhere. */

import { useEffect, useState } from "preact/hooks";
import { canEdit, cancelJob, compareWithParent, runEdit } from "../actions/edits";
import { leaveComparison, removeSelected, step } from "../actions/draft";
import { openFiles } from "../actions/session";
import { dismiss } from "../actions/toasts";
import { getState, isRunning, setState, useStore } from "../store";
import { t } from "../texts";
import { Dialogs } from "./Dialogs";
import { EditBar } from "./EditBar";
import { GraphPanel } from "./GraphPanel";
import { Header } from "./Header";
import { History } from "./History";
import { Icon } from "./icons";
import { Inspector } from "./Inspector";
import { Options } from "./Options";
import { addInTheMiddle } from "./Overlay";
import { PlanCard } from "./PlanCard";
import { Stage } from "./Stage";
import { FailedPage, Start, TokenPage } from "./Start";

export function App() {
  const phase = useStore((s) => s.phase);
  const language = useStore((s) => s.language);
  useKeys();
  const over = useFiles();
  return (
    <>
      <Header />
      {phase === "start" && <Start />}
      {phase === "token" && <TokenPage />}
      {phase === "failed" && <FailedPage />}
      {phase === "loading" && <main class="start narrow" aria-busy="true" />}
      {phase === "editor" && <Editor key={language} /> /* every text anew */}
      <Dialogs />
      <Toasts />
      {over && (
        <div class="drop-veil" aria-hidden="true">
          <div>
            <Icon name="upload" size={36} />
            {t(phase === "editor" ? "dropOnEditor" : "dropHere")}
          </div>
        </div>
      )}
    </>
  );
}

const TABS = [
  ["graph", "graphTab"],
  ["change", "editTab"],
  ["history", "history"],
] as const;

function Editor() {
  const tab = useStore((s) => s.tab);
  return (
    <main class={`editor tab-${tab}`}>
      <Stage />
      <nav class="tabs" aria-label={t("parts")}>
        {TABS.map(([name, label]) => (
          <button key={name} aria-pressed={tab === name} onClick={() => setState({ tab: name })}>
            {t(label)}
          </button>
        ))}
      </nav>
      <GraphPanel />
      <aside class="side" aria-label={t("editTab")}>
        <div class="scroll" tabIndex={-1}>
          <Inspector />
          <PlanCard />
          <Options />
        </div>
        <EditBar />
      </aside>
      <History />
    </main>
  );
}

function Toasts() {
  const toasts = useStore((s) => s.toasts);
  return (
    <div class="toasts" aria-live="polite">
      {toasts.map((toast) => (
        <div key={toast.id} class={toast.kind === "error" ? "toast error" : "toast"} role={toast.kind === "error" ? "alert" : "status"}>
          <span>{toast.text}</span>
          <button class="tool small" aria-label={t("close")} onClick={() => dismiss(toast.id)}>
            <Icon name="close" size={14} />
          </button>
        </div>
      ))}
    </div>
  );
}

/** Keys that work wherever the focus is, except in fields. */
function useKeys(): void {
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      const state = getState();
      const target = event.target as HTMLElement;
      const typing = target.matches("input:not([type=range]):not([type=checkbox]), select, textarea");
      const command = event.ctrlKey || event.metaKey;
      if (state.phase !== "editor" || state.dialog) return;
      if (command && event.key === "Enter") {
        if (canEdit()) void runEdit();
      } else if (command && !typing && event.key.toLowerCase() === "z") void step(!event.shiftKey);
      else if (command && !typing && event.key.toLowerCase() === "y") void step(false);
      else if (event.key === "Escape") escape();
      else if (typing || command || event.altKey) return;
      else if (!letter(event.key.toLowerCase())) return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);
}

function letter(key: string): boolean {
  switch (key) {
    case "v":
      setState({ tool: "select" });
      return true;
    case "b":
      leaveComparison();
      setState({ tool: "box" });
      return true;
    case "m":
      leaveComparison();
      setState({ tool: "mask" });
      return true;
    case "a":
      addInTheMiddle();
      return true;
    case "c":
      if (getState().comparison) leaveComparison();
      else compareWithParent();
      return true;
    case "delete":
    case "backspace":
      if (!getState().selection) return false;
      removeSelected();
      return true;
    case "?":
      setState({ dialog: "help" });
      return true;
    default:
      return false;
  }
}

/** Leaves what is innermost. */
function escape(): void {
  const state = getState();
  if (state.prompt) setState({ prompt: null });
  else if (isRunning(state)) void cancelJob();
  else if (state.picking !== undefined) setState({ picking: undefined });
  else if (state.comparison || state.grid) leaveComparison();
  else if (state.tool !== "select") setState({ tool: "select" });
  else setState({ selection: null });
}

/** Files dropped or pasted anywhere; whether some are being dragged over the page. */
function useFiles(): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const hasFiles = (event: DragEvent) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    const able = () => ["start", "editor"].includes(getState().phase);
    const onDragOver = (event: DragEvent) => {
      if (!hasFiles(event) || !able()) return;
      event.preventDefault();
      setOver(true);
    };
    const onDragLeave = (event: DragEvent) => !event.relatedTarget && setOver(false);
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (event.defaultPrevented || !hasFiles(event)) return;
      event.preventDefault();
      if (able()) void openFiles([...(event.dataTransfer?.files ?? [])]);
    };
    const onPaste = (event: ClipboardEvent) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length || !able()) return;
      event.preventDefault();
      void openFiles(files);
    };
    document.addEventListener("dragover", onDragOver);
    document.addEventListener("dragleave", onDragLeave);
    document.addEventListener("drop", onDrop);
    document.addEventListener("paste", onPaste);
    return () => {
      document.removeEventListener("dragover", onDragOver);
      document.removeEventListener("dragleave", onDragLeave);
      document.removeEventListener("drop", onDrop);
      document.removeEventListener("paste", onPaste);
    };
  }, []);
  return over;
}
