"""The page on which people vote: HTML without anything from the network. `PLACE` is where the pairs go."""

PLACE = "/*PAIRS*/[]"
TEMPLATE = r"""<!doctype html>
<meta charset="utf-8">
<title>Which picture is better?</title>
<style>
  body { font-family: sans-serif; max-width: 70em; margin: 1em auto; text-align: center; color: #222; background: #fff; }
  figure { display: inline-block; margin: .5em; }
  img { height: min(45vh, 30em); image-rendering: auto; background: #eee; }
  button { font-size: 1.1em; margin: .3em; padding: .4em 1em; }
  .before img { height: 18vh; }
  footer { margin-top: 1em; color: #666; }
</style>
<h1>Which picture is better?</h1>
<p><label>Your name or initials: <input id="rater"></label></p>
<p id="asked"></p>
<figure class="before" id="before" hidden><img alt="photograph before the edit"><figcaption>before</figcaption></figure>
<div>
  <figure><img id="left" alt="left picture"></figure>
  <figure><img id="right" alt="right picture"></figure>
</div>
<p>
  <button data-choice="left">left (1)</button>
  <button data-choice="tie">no difference (2)</button>
  <button data-choice="right">right (3)</button>
</p>
<p><button id="back">undo</button> <button id="save">save my votes</button></p>
<footer id="state"></footer>
<script>
const pairs = /*PAIRS*/[];
const field = id => document.getElementById(id);
const store = "votes/" + location.pathname;
let votes = JSON.parse(localStorage.getItem(store) || "[]");
field("rater").value = localStorage.getItem(store + "/rater") || "";

function hash(text) {
  let value = 2166136261;
  for (const letter of text) value = Math.imul(value ^ letter.codePointAt(0), 16777619) >>> 0;
  return value;
}
function order() {  // another order for each person, the same after a reload
  const rater = field("rater").value;
  return [...pairs].sort((a, b) => hash(rater + a.pair) - hash(rater + b.pair));
}
function next() {
  const done = new Set(votes.map(vote => vote.pair));
  return order().find(pair => !done.has(pair.pair));
}
function show() {
  const pair = next();
  field("state").textContent = votes.length + " of " + pairs.length;
  field("asked").textContent = pair ? pair.asked : "Thank you. Please save your votes and send the file.";
  for (const side of ["left", "right"]) { field(side).hidden = !pair; if (pair) field(side).src = pair[side]; }
  field("before").hidden = !(pair && pair.photograph);
  if (pair && pair.photograph) field("before").querySelector("img").src = pair.photograph;
}
function vote(choice) {
  const pair = next();
  if (!field("rater").value.trim()) { field("rater").focus(); return; }
  if (pair) votes.push({pair: pair.pair, choice: choice, rater: field("rater").value.trim()});
  keep();
}
function keep() {
  localStorage.setItem(store, JSON.stringify(votes));
  localStorage.setItem(store + "/rater", field("rater").value);
  show();
}
for (const button of document.querySelectorAll("[data-choice]")) button.onclick = () => vote(button.dataset.choice);
document.addEventListener("keydown", event => {
  const choice = {1: "left", 2: "tie", 3: "right"}[event.key];
  if (choice && event.target !== field("rater")) vote(choice);
});
field("back").onclick = () => { votes.pop(); keep(); };
field("rater").onchange = () => { votes = votes.map(vote => ({...vote, rater: field("rater").value.trim()})); keep(); };
field("save").onclick = () => {
  const link = document.createElement("a");
  const text = votes.map(vote => JSON.stringify(vote) + "\n").join("");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "votes-" + field("rater").value.replace(/\W+/g, "_") + ".jsonl";
  link.click();
};
show();
</script>
"""
