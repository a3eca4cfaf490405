/** The page of a vote: two pictures side by side, and which is better. It never learns which model made which. */

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import * as api from "../api/client";
import { remember, remembered } from "../memory";
import { type Ballot, choiceOf, type Choice, choose, done, next, open, type Pair, type Side, undo } from "./ballot";
import "./votes.css";

const LABELS: Record<Choice, string> = { left: "left", tie: "no difference", right: "right" };
const KEYS: Record<Choice, string> = { left: "1", tie: "2", right: "3" };

function Page() {
  const [rater, setRater] = useState(remembered("rater") ?? "");
  const [ballot, setBallot] = useState<Ballot | null>(null);
  const [sending, setSending] = useState(false);
  const [failure, setFailure] = useState(takeToken() ? "" : "The token is missing; open the address that the server printed.");

  /** Does what the server has to agree to first; the page then says why not, and stays as it was. */
  async function send(work: () => Promise<Ballot>): Promise<void> {
    if (sending) return;
    setSending(true);
    try {
      setBallot(await work());
      setFailure("");
    } catch (error) {
      setFailure(error instanceof Error && error.message ? error.message : "The server does not answer. Is it still running?");
    }
    setSending(false);
  }

  function begin(): void {
    remember("rater", rater);
    void send(async () => open((await api.votePairs(rater)).pairs));
  }

  function vote(choice: Choice): void {
    const pair = ballot && next(ballot);
    if (!ballot || !pair) return;
    void send(async () => {
      await api.castVote({ rater, pair: pair.pair, choice });
      return choose(ballot, pair.pair, choice);
    });
  }

  function back(): void {
    const before = ballot && undo(ballot);
    if (!before) return;
    void send(async () => {
      await api.castVote({ rater, pair: before.pair, choice: null });
      return before.ballot;
    });
  }

  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const choice = choiceOf(event.key);
      if (choice && !event.ctrlKey && !event.metaKey && !event.altKey && !event.repeat) vote(choice);
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  });

  return (
    <main class="vote">
      <h1>Which picture is better?</h1>
      {failure && <p role="alert">{failure}</p>}
      {ballot ? (
        <Shown ballot={ballot} sending={sending} vote={vote} back={back} />
      ) : (
        <form onSubmit={(event) => (event.preventDefault(), begin())}>
          <label>
            Your name or initials <input value={rater} maxLength={60} required onInput={(event) => setRater(event.currentTarget.value)} />
          </label>
          <button class="primary" disabled={sending}>
            Begin
          </button>
        </form>
      )}
    </main>
  );
}

interface ShownProps {
  ballot: Ballot;
  sending: boolean;
  vote: (choice: Choice) => void;
  back: () => void;
}

function Shown({ ballot, sending, vote, back }: ShownProps) {
  const pair = next(ballot);
  return (
    <>
      {pair ? <Pictures pair={pair} /> : <p class="asked">Thank you. All your votes are kept; you can close this page.</p>}
      <div class="choices">
        {pair &&
          (["left", "tie", "right"] as const).map((choice) => (
            <button key={choice} class="primary" disabled={sending} aria-keyshortcuts={KEYS[choice]} onClick={() => vote(choice)}>
              {LABELS[choice]} ({KEYS[choice]})
            </button>
          ))}
        <button disabled={sending || !ballot.cast.length} onClick={back}>
          undo
        </button>
      </div>
      <p class="quiet" role="status">
        {done(ballot)} of {ballot.pairs.length}
      </p>
    </>
  );
}

function Pictures({ pair }: { pair: Pair }) {
  const source = (side: Side) => api.address(`api/pairs/${pair.pair}/${side}.png`);
  return (
    <>
      <p class="asked">{pair.asked}</p>
      {pair.photograph && (
        <figure class="before">
          <img key={pair.pair} src={source("photograph")} alt="photograph before the edit" />
          <figcaption>before</figcaption>
        </figure>
      )}
      <div class="sides">
        {(["left", "right"] as const).map((side) => (
          <img key={`${pair.pair} ${side}`} src={source(side)} alt={`${side} picture`} />
        ))}
      </div>
    </>
  );
}

/** Takes the token from the address, or the one of before; says whether there is one. */
function takeToken(): boolean {
  const url = new URL(location.href);
  const given = url.searchParams.get("token");
  if (given) {
    remember("vote-token", given);
    url.searchParams.delete("token");
    history.replaceState(null, "", url);
  }
  const token = given ?? remembered("vote-token");
  api.setToken(token ?? "");
  return token !== null;
}

render(<Page />, document.getElementById("app")!);
