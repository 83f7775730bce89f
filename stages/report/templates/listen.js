// The listening tables of a family's page: ratings and verdicts, blind mode, keys.
const listen = document.getElementById("listen");
const family = listen.dataset.family;
const rows = [...listen.querySelectorAll("tbody.prompt")];
const entries = [...listen.querySelectorAll("[data-sha256]")]; // what one may judge: takes, and checkpoints
const takes = entries.filter((entry) => entry.dataset.prompt);
const element = (id) => document.getElementById(id);
const isBlind = () => document.body.classList.contains("blind");
let current = 0; // row
let last = null; // the cell that was played last: what a rating key rates

// --- what the listener said, kept in this browser -------------------------------------------------------------------
const shelf = "verdicts/" + family;
let kept = { rater: "", shuffle: newSeed(), verdicts: {} };
try {
  kept = { ...kept, ...JSON.parse(localStorage.getItem(shelf)) };
} catch { /* no storage, or not ours: start afresh */ }

function newSeed() {
  return 1 + Math.floor(Math.random() * 9999);
}

function keep() {
  try {
    localStorage.setItem(shelf, JSON.stringify(kept));
  } catch {
    say("This browser keeps nothing for local pages: save before you close.");
  }
}

function say(text) {
  element("progress").textContent = text;
}

const fieldOf = (entry) => (entry.dataset.prompt ? "rating" : "verdict");
const keyOf = ({ dataset }) => (dataset.prompt ? [dataset.checkpoint, dataset.prompt, dataset.seed].join("/") : dataset.checkpoint);

function verdictOn(entry) {
  const verdict = kept.verdicts[keyOf(entry)];
  return verdict && verdict.sha256 === entry.dataset.sha256 ? verdict : null; // else for audio made anew since
}

function change(entry, values) {
  const { checkpoint, prompt, sha256, seed } = entry.dataset;
  const where = prompt ? { checkpoint, prompt, seed: Number(seed), blind: isBlind() } : { checkpoint };
  const verdict = { [fieldOf(entry)]: null, note: "", ...verdictOn(entry), ...values, ...where, sha256 };
  if (verdict[fieldOf(entry)] || verdict.note) kept.verdicts[keyOf(entry)] = verdict;
  else delete kept.verdicts[keyOf(entry)];
  show(entry);
  progress();
  keep();
}

function choose(entry, choice) { // the same again takes it back
  change(entry, { [fieldOf(entry)]: verdictOn(entry)?.[fieldOf(entry)] === choice ? null : choice });
}

function show(entry) {
  const verdict = verdictOn(entry) || { note: "" };
  for (const button of entry.querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === verdict[fieldOf(entry)]));
  }
  const note = entry.querySelector("textarea");
  if (note.value !== verdict.note) note.value = verdict.note;
  if (verdict.note) openNote(entry, true);
}

function openNote(entry, open) {
  entry.querySelector("textarea").hidden = !open;
  entry.querySelector(".note").setAttribute("aria-expanded", String(open));
}

function progress() {
  const rated = takes.filter((cell) => verdictOn(cell)?.rating);
  say(`${rated.length} of ${takes.length} rated`);
  for (const count of listen.querySelectorAll("[data-ratings-of]")) {
    const given = rated.filter((cell) => cell.dataset.checkpoint === count.dataset.ratingsOf).map((cell) => verdictOn(cell).rating);
    const counts = ["good", "acceptable", "bad"].map((rating) => [given.filter((one) => one === rating).length, rating]);
    count.textContent = counts.filter(([number]) => number).map((pair) => pair.join(" ")).join(", ") || "none yet";
  }
}

for (const entry of entries) {
  show(entry);
  entry.querySelector(".rating").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.choice) return choose(entry, button.dataset.choice);
    openNote(entry, entry.querySelector("textarea").hidden);
    entry.querySelector("textarea").focus();
  });
  entry.querySelector("textarea").addEventListener("input", (event) => change(entry, { note: event.target.value }));
}

listen.addEventListener("click", (event) => {
  const cell = event.target.closest(".number")?.closest(".cell");
  if (!cell) return;
  go(rows.indexOf(cell.closest("tbody")));
  play([...cell.parentNode.children].indexOf(cell));
});

listen.addEventListener("play", (event) => {
  last = event.target.closest(".cell");
  go(rows.indexOf(last.closest("tbody")));
}, true);

element("rater").value = kept.rater;
element("rater").addEventListener("input", (event) => {
  kept.rater = event.target.value.trim();
  keep();
});

element("save").addEventListener("click", () => {
  if (!/[\p{L}\p{N}]/u.test(kept.rater)) {
    say("Whose verdicts are these? Write your name, then save.");
    return element("rater").focus();
  }
  const given = (some) => some.map(verdictOn).filter(Boolean);
  const checkpoints = given(entries.filter((entry) => !entry.dataset.prompt));
  const { rater, shuffle } = kept;
  const text = JSON.stringify({ family, rater, shuffle, verdicts: given(takes), checkpoints }, null, 1) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `verdicts-${family}-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`Saved. In the repository: make verdict FILE=${link.download}`);
});

// --- blind: no names, no figures, every row in an order of its own ---------------------------------------------------
function randomFrom(seed) { // mulberry32
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function arrange() {
  const blind = isBlind();
  rows.forEach((row, index) => {
    const line = row.querySelector(".cells");
    const inOrder = [...line.children].sort((a, b) => a.dataset.column - b.dataset.column);
    const random = randomFrom(kept.shuffle * 1000 + index);
    const place = new Map(inOrder.map((cell) => [cell, cell.dataset.sha256 ? random() : 2])); // empty ones last
    const order = blind ? [...inOrder].sort((a, b) => place.get(a) - place.get(b)) : inOrder;
    order.forEach((cell, position) => {
      const name = `${blind ? "" : `${cell.dataset.checkpoint}, `}column ${position + 1}, row ${index + 1}`;
      const number = cell.querySelector(".number, kbd");
      number.textContent = position + 1;
      if (number.matches("button")) number.setAttribute("aria-label", `Play or pause ${name}`);
      cell.querySelector("audio")?.setAttribute("aria-label", name);
      cell.querySelector(".rating")?.setAttribute("aria-label", `Your rating of ${name}`);
      if (line.children[position] !== cell) line.insertBefore(cell, line.children[position]);
    });
  });
  element("blind").setAttribute("aria-pressed", String(blind));
  element("shuffle").hidden = !blind;
  element("seed").textContent = kept.shuffle;
}

function toggleBlind() {
  heard?.pause();
  heard = last = null;
  document.querySelectorAll(".cell.playing").forEach((cell) => cell.classList.remove("playing"));
  document.body.classList.toggle("blind");
  keep(); // with the seed, so that the order is the same after a reload
  arrange();
  go(current);
}

element("blind").addEventListener("click", toggleBlind);
element("reshuffle").addEventListener("click", () => {
  kept.shuffle = newSeed();
  keep();
  arrange();
});

// --- playing, and keys -----------------------------------------------------------------------------------------------
function go(index) {
  current = Math.max(0, Math.min(rows.length - 1, index));
  rows.forEach((row, at) => {
    row.classList.toggle("current", at === current);
    row.querySelector("th").setAttribute("aria-current", String(at === current));
  });
}

function goAndShow(index) {
  go(index);
  rows[current].querySelector("th").focus({ preventScroll: true }); // Tab goes on from here
  rows[current].scrollIntoView({ block: "nearest" });
}

function play(position) {
  const player = rows[current]?.querySelectorAll(".cell")[position]?.querySelector("audio");
  if (!player) return;
  if (!player.paused) return player.pause();
  if (player !== heard && !follow(player)) player.currentTime = 0; // the one heard last goes on where it was
  heard?.pause();
  player.closest(".cell").scrollIntoView({ block: "nearest", inline: "nearest" });
  player.play().catch(() => {}); // another key paused it before it began
}

function step(by) { // to the next column that can be played, or the one before
  const cells = [...rows[current].querySelectorAll(".cell")];
  let position = cells.indexOf(last);
  if (position < 0 && by < 0) position = cells.length;
  do position += by;
  while (cells[position] && !cells[position].querySelector("audio"));
  play(position);
}

function fromTheStart() {
  if (!heard) return;
  heard.currentTime = 0;
  heard.play().catch(() => {});
}

function pressed(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  return on;
}

function toggleLoop() {
  const on = pressed(element("loop"));
  for (const player of players) player.loop = on;
}

const toggleLoudness = () => matchLoudness(pressed(element("loudness")));
const showKeys = () => element("keys").showModal();
element("loop").addEventListener("click", toggleLoop);
element("loudness").addEventListener("click", toggleLoudness);
element("help").addEventListener("click", showKeys);

const rate = (rating) => last && choose(last, rating);
const keys = {
  ArrowDown: () => goAndShow(current + 1),
  ArrowUp: () => goAndShow(current - 1),
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  s: fromTheStart,
  l: toggleLoop,
  m: toggleLoudness,
  g: () => rate("good"),
  a: () => rate("acceptable"),
  x: () => rate("bad"),
  b: toggleBlind,
  "?": showKeys,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
  if (event.target.matches("textarea, input, .scroll")) return;
  if (/^[1-9]$/.test(event.key)) play(Number(event.key) - 1);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

go(0);
progress();
arrange();
