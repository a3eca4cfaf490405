/** The first page: open a photograph, an example, an earlier session, or an empty canvas. */

import { useEffect, useRef, useState } from "preact/hooks";
import { removeSession } from "../actions/edits";
import { load, openCanvas, openExample, openFiles, openStored } from "../actions/session";
import { address, setToken, thumbnail } from "../api/client";
import type { SessionSummary } from "../api/types";
import { setState, useStore } from "../store";
import { exampleTitle, remember, t } from "../texts";
import { Icon, Mark } from "./icons";

export function Start() {
  return (
    <main class="start">
      <div class="welcome">
        <h1>{t("welcome")}</h1>
        <p>{t("welcomeHow")}</p>
      </div>
      <OpenChoices />
    </main>
  );
}

export function OpenChoices() {
  const examples = useStore((s) => s.examples);
  const sessions = useStore((s) => s.sessions);
  const model = useStore((s) => s.app?.model);
  const busy = useStore((s) => s.busy);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div class="choices">
      <button class="drop" disabled={busy !== null} onClick={() => input.current?.click()}>
        <Icon name="upload" size={28} />
        <strong>{busy ?? t("dropHere")}</strong>
        <span>{t("dropHow")}</span>
      </button>
      <input
        ref={input}
        type="file"
        accept="image/*,.json"
        multiple
        hidden
        onChange={(event) => {
          void openFiles([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
      <section>
        <h2>{t("examples")}</h2>
        <div class="cards">
          {examples.map((example) => (
            <button key={example.id} class="tile" disabled={busy !== null} onClick={() => void openExample(example.id)}>
              <img src={address(example.image.url)} alt="" class={example.image.width < 200 ? "sharp" : ""} />
              <strong>{exampleTitle(example)}</strong>
              <span>{t("objectCount", { count: example.objects })}</span>
            </button>
          ))}
          <button class="tile canvas" disabled={busy !== null} onClick={() => void openCanvas()}>
            <span class="blank">
              <Icon name="graph" size={30} />
            </span>
            <strong>{t("emptyCanvas")}</strong>
            <span>{t("emptyCanvasHow")}</span>
          </button>
        </div>
      </section>
      {sessions.length > 0 && (
        <section>
          <h2>{t("recent")}</h2>
          <ul class="sessions">
            {sessions.map((session) => (
              <StoredSession key={session.id} session={session} />
            ))}
          </ul>
        </section>
      )}
      {model && (
        <p class="model quiet">
          {t("modelIs", { name: model.name, size: model.image_size, device: model.device })}
        </p>
      )}
    </div>
  );
}

function StoredSession({ session }: { session: SessionSummary }) {
  const language = useStore((s) => s.language);
  const when = new Date(session.updated).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
  return (
    <li>
      <button onClick={() => void openStored(session.id)}>
        {session.image ? <img src={thumbnail(session.image, 80)} alt="" /> : <span class="blank"><Icon name="graph" /></span>}
        <strong>{session.title}</strong>
        <span>
          {t("editCount", { count: session.edits })} · {when}
        </span>
      </button>
      <button
        class="tool small"
        aria-label={t("removeThis", { name: session.title })}
        onClick={() => window.confirm(t("deleteSessionSure", { title: session.title })) && void removeSession(session.id)}
      >
        <Icon name="trash" size={16} />
      </button>
    </li>
  );
}

/** Asks for the token where the address has none, or a wrong one. */
export function TokenPage() {
  const failure = useStore((s) => s.failure);
  const [value, setValue] = useState("");
  return (
    <main class="start narrow">
      <form
        class="card token"
        onSubmit={(event) => {
          event.preventDefault();
          const token = /[?&]token=([^&\s]+)/.exec(value)?.[1] ?? value.trim();
          setToken(token);
          remember("token", token);
          setState({ phase: "loading", failure: "" });
          void load();
        }}
      >
        <Mark />
        <h1>{t("tokenNeeded")}</h1>
        <p>{t("tokenHow")}</p>
        <input type="password" aria-label={t("token")} autocomplete="off" value={value} onInput={(event) => setValue(event.currentTarget.value)} placeholder={t("token")} />
        {failure && <p class="field-error" role="alert">{failure}</p>}
        <button class="primary" disabled={!value.trim()}>
          {t("open")}
        </button>
      </form>
    </main>
  );
}

/** The server does not answer. Tries again by itself. */
export function FailedPage() {
  const failure = useStore((s) => s.failure);
  useEffect(() => {
    const timer = window.setInterval(() => void load(), 3000);
    return () => window.clearInterval(timer);
  }, []);
  return (
    <main class="start narrow">
      <div class="card token" role="alert">
        <Mark />
        <h1>{t("noServer")}</h1>
        <p>{failure}</p>
        <p class="quiet">{t("noServerHow")}</p>
      </div>
    </main>
  );
}
