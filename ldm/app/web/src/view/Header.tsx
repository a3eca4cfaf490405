/** The bar at the top: what is open, the two modes, undo, export, language and theme. */

import { canRedo, canUndo, replan, setMode, step } from "../actions/draft";
import { rename } from "../actions/edits";
import { closeSession, readPicture } from "../actions/session";
import { currentNode, isCanvas, setState, useStore } from "../store";
import { chooseLanguage, chooseTheme, type Language, t } from "../texts";
import { ExportMenu } from "./Export";
import { Icon, Mark } from "./icons";

export function Header() {
  const editor = useStore((s) => s.phase === "editor");
  return (
    <header class="top">
      <button class="home" onClick={() => editor && closeSession()} aria-label={t("appName")} title={t("home")}>
        <Mark />
        <span>{t("appName")}</span>
      </button>
      {editor && <Title />}
      {editor && <Modes />}
      <div class="spacer" />
      {editor && <Steps />}
      <Settings />
    </header>
  );
}

function Title() {
  const title = useStore((s) => s.session?.title ?? "");
  const id = useStore((s) => s.session?.id);
  const connection = useStore((s) => s.connection);
  return (
    <div class="document">
      <input
        key={id}
        aria-label={t("title")}
        value={title}
        onChange={(event) => void rename(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Enter" && event.currentTarget.blur()}
      />
      {connection === "lost" && (
        <span class="lost" role="status">
          {t("reconnecting")}
        </span>
      )}
    </div>
  );
}

function Modes() {
  const mode = useStore((s) => s.mode);
  const canvas = useStore(isCanvas);
  const reader = useStore((s) => s.app?.reader ?? null);
  const node = useStore(currentNode);
  const busy = useStore((s) => s.busy);
  if (canvas) return null;
  return (
    <>
      <div class="segments modes" role="group" aria-label={t("mode")}>
        <button aria-pressed={mode === "describe"} title={t("describeTitle")} onClick={() => setMode("describe")}>
          {t("describe")}
        </button>
        <button aria-pressed={mode === "change"} title={t("changeTitle")} onClick={() => setMode("change")}>
          {t("change")}
        </button>
      </div>
      {reader && node?.image && (
        <button class="tool wide" disabled={busy !== null} onClick={() => void readPicture()} title={t("readGraphTitle")}>
          <Icon name="scan" /> <span>{t("readGraph")}</span>
        </button>
      )}
    </>
  );
}

function Steps() {
  const undoable = useStore(canUndo);
  const redoable = useStore(canRedo);
  return (
    <div class="group">
      <button class="tool" disabled={!undoable} aria-label={t("undo")} title={`${t("undo")} (Ctrl+Z)`} onClick={() => void step(true)}>
        <Icon name="undo" />
      </button>
      <button class="tool" disabled={!redoable} aria-label={t("redo")} title={`${t("redo")} (Ctrl+Shift+Z)`} onClick={() => void step(false)}>
        <Icon name="redo" />
      </button>
      <ExportMenu />
      <button class="tool wide not-on-phone" aria-label={t("open")} title={t("openTitle")} onClick={() => setState({ dialog: "open" })}>
        <Icon name="upload" /> <span>{t("open")}</span>
      </button>
    </div>
  );
}

/** The page in a language; the plan, which may be a sentence of the server, is said anew. */
function speak(language: Language): void {
  chooseLanguage(language);
  replan();
}

const NEXT_THEME = { system: "light", light: "dark", dark: "system" } as const;

function Settings() {
  const theme = useStore((s) => s.theme);
  const language = useStore((s) => s.language);
  const editor = useStore((s) => s.phase === "editor");
  return (
    <div class={`group${editor ? " not-on-phone" : ""}`}>
      <button class="tool" aria-label={t("themeIs", { theme: t(theme) })} title={t("themeIs", { theme: t(theme) })} onClick={() => chooseTheme(NEXT_THEME[theme])}>
        <Icon name={theme === "dark" ? "moon" : "sun"} />
      </button>
      <button class="tool language" lang={language === "en" ? "ko" : "en"} aria-label={language === "en" ? "한국어로 보기" : "Show in English"} onClick={() => speak(language === "en" ? "ko" : "en")}>
        {language === "en" ? "KO" : "EN"}
      </button>
      <button class="tool" aria-label={t("help")} title={`${t("help")} (?)`} onClick={() => setState({ dialog: "help" })}>
        <Icon name="help" />
      </button>
    </div>
  );
}
