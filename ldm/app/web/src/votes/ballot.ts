/** What the page of a vote knows: whose pairs, which one is shown, and what was chosen before. */

export type Choice = "left" | "tie" | "right";
export type Side = "left" | "right" | "photograph";

const KEYS = new Map<string, Choice>([
  ["1", "left"],
  ["2", "tie"],
  ["3", "right"],
]);

export interface Pair {
  pair: string;
  asked: string;
  photograph: boolean;
  choice: Choice | null;
}

export interface Ballot {
  pairs: Pair[];
  /** Pairs voted on since the page was opened, the last one at the end; undo takes them back one by one. */
  cast: string[];
}

export const open = (pairs: Pair[]): Ballot => ({ pairs, cast: [] });

/** The first pair, in the rater's own order, without a vote. */
export const next = (ballot: Ballot): Pair | undefined => ballot.pairs.find((pair) => pair.choice === null);

export const done = (ballot: Ballot): number => ballot.pairs.filter((pair) => pair.choice !== null).length;

export function choose(ballot: Ballot, name: string, choice: Choice): Ballot {
  return { pairs: withChoice(ballot.pairs, name, choice), cast: [...ballot.cast, name] };
}

/** The last vote taken back, and whose it was; nothing where none was cast since the page was opened. */
export function undo(ballot: Ballot): { ballot: Ballot; pair: string } | null {
  const pair = ballot.cast.at(-1);
  if (pair === undefined) return null;
  return { ballot: { pairs: withChoice(ballot.pairs, pair, null), cast: ballot.cast.slice(0, -1) }, pair };
}

/** The choice that a key stands for. */
export const choiceOf = (key: string): Choice | undefined => KEYS.get(key);

function withChoice(pairs: Pair[], name: string, choice: Choice | null): Pair[] {
  return pairs.map((pair) => (pair.pair === name ? { ...pair, choice } : pair));
}
