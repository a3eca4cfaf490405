/** The votes of a page: which pair comes next, and what undo takes back. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { choiceOf, choose, done, next, open, type Pair, undo } from "../src/votes/ballot";

const pair = (name: string, choice: Pair["choice"] = null): Pair => ({ pair: name, asked: "", photograph: false, choice });

test("the next pair is the first without a vote", () => {
  const ballot = open([pair("a", "tie"), pair("b"), pair("c")]);
  assert.equal(next(ballot)?.pair, "b");
  assert.equal(next(choose(ballot, "b", "left"))?.pair, "c");
  assert.equal(done(ballot), 1);
});

test("undo takes back the last vote of this visit, and none of before", () => {
  const ballot = choose(choose(open([pair("a", "tie"), pair("b"), pair("c")]), "b", "left"), "c", "right");
  const first = undo(ballot)!;
  assert.equal(first.pair, "c");
  assert.equal(next(first.ballot)?.pair, "c");
  const second = undo(first.ballot)!;
  assert.equal(second.pair, "b");
  assert.equal(undo(second.ballot), null);
  assert.equal(done(second.ballot), 1);
});

test("keys stand for choices, others for none", () => {
  assert.deepEqual(["1", "2", "3", "4", "toString"].map(choiceOf), ["left", "tie", "right", undefined, undefined]);
});
