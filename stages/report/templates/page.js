"use strict";
(() => {
  // One take at a time, on every page.
  document.addEventListener("play", (event) => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
    document.querySelectorAll(".cell.playing").forEach((cell) => cell.classList.remove("playing"));
    event.target.closest(".cell").classList.add("playing");
  }, true);

  const listen = document.getElementById("listen");
  if (!listen) return;

  const family = listen.dataset.family;
  const rows = [...listen.querySelectorAll("tbody.prompt")];
  const cells = [...listen.querySelectorAll(".cell[data-sha256]")];
  const element = (id) => document.getElementById(id);
  let current = 0;
  let last = null; // the cell that was played last: what a rating key rates

  // --- what the listener said, kept in this browser ---------------------------------------------------------------
  const shelf = "verdicts/" + family;
  let kept = { shuffle: 1 + Math.floor(Math.random() * 9999), verdicts: {} };
  try {
    kept = JSON.parse(localStorage.getItem(shelf)) || kept;
  } catch { /* no storage, or not ours: start afresh */ }

  const keyOf = (cell) => [cell.dataset.checkpoint, cell.dataset.prompt, cell.dataset.seed].join("/");

  function verdictOn(cell) {
    const verdict = kept.verdicts[keyOf(cell)];
    return verdict && verdict.sha256 === cell.dataset.sha256 ? verdict : null; // else for audio made anew since
  }

  function keep() {
    try {
      localStorage.setItem(shelf, JSON.stringify(kept));
    } catch {
      element("progress").textContent = "This browser keeps nothing for local pages: save before you close.";
    }
  }

  function change(cell, values) {
    const { checkpoint, prompt, sha256, seed } = cell.dataset;
    const blind = document.body.classList.contains("blind");
    const verdict = { rating: null, note: "", ...verdictOn(cell), ...values, checkpoint, prompt, sha256, seed: Number(seed), blind };
    if (verdict.rating || verdict.note) kept.verdicts[keyOf(cell)] = verdict;
    else delete kept.verdicts[keyOf(cell)];
    show(cell);
    progress();
    keep();
  }

  function show(cell) {
    const verdict = verdictOn(cell) || { rating: null, note: "" };
    for (const button of cell.querySelectorAll("[data-rating]")) {
      button.setAttribute("aria-pressed", String(button.dataset.rating === verdict.rating));
    }
    const note = cell.querySelector("textarea");
    if (note.value !== verdict.note) note.value = verdict.note;
    if (verdict.note) openNote(cell, true);
  }

  function openNote(cell, open) {
    cell.querySelector("textarea").hidden = !open;
    cell.querySelector(".note").setAttribute("aria-expanded", String(open));
  }

  function progress() {
    const rated = cells.filter((cell) => verdictOn(cell)?.rating).length;
    element("progress").textContent = `${rated} of ${cells.length} rated`;
  }

  function rate(cell, rating) {
    change(cell, { rating: verdictOn(cell)?.rating === rating ? null : rating });
  }

  for (const cell of cells) {
    show(cell);
    cell.querySelector(".rating").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.rating) return rate(cell, button.dataset.rating);
      openNote(cell, cell.querySelector("textarea").hidden);
      cell.querySelector("textarea").focus();
    });
    cell.querySelector("textarea").addEventListener("input", (event) => change(cell, { note: event.target.value }));
    cell.querySelector("audio").addEventListener("play", () => {
      last = cell;
      go(rows.indexOf(cell.closest("tbody")));
    });
  }

  element("save").addEventListener("click", () => {
    const verdicts = cells.map(verdictOn).filter(Boolean);
    const text = JSON.stringify({ family, shuffle: kept.shuffle, verdicts }, null, 1) + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `verdicts-${family}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    element("progress").textContent = `Saved: put it in the repository as reports/verdicts/${family}.json`;
  });

  // --- blind: no names, no figures, every row in an order of its own -----------------------------------------------
  function randomFrom(seed) { // mulberry32
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  function arrange() {
    const blind = document.body.classList.contains("blind");
    rows.forEach((row, index) => {
      const line = row.querySelector(".cells");
      const inOrder = [...line.children].sort((a, b) => a.dataset.column - b.dataset.column);
      const random = randomFrom(kept.shuffle * 1000 + index);
      const place = new Map(inOrder.map((cell) => [cell, cell.dataset.sha256 ? random() : 2])); // empty ones last
      const order = blind ? [...inOrder].sort((a, b) => place.get(a) - place.get(b)) : inOrder;
      order.forEach((cell, position) => {
        cell.querySelector("kbd").textContent = position + 1;
        cell.querySelector("audio")?.setAttribute("aria-label", `Player ${position + 1}, row ${index + 1}`);
        line.append(cell);
      });
    });
    element("blind").setAttribute("aria-pressed", String(blind));
    element("shuffle").hidden = !blind;
    element("seed").textContent = kept.shuffle;
  }

  function toggleBlind() {
    last = null;
    document.querySelectorAll(".cell.playing").forEach((cell) => cell.classList.remove("playing"));
    document.body.classList.toggle("blind");
    keep(); // with the seed, so that the order is the same after a reload
    arrange();
    go(current);
  }

  element("blind").addEventListener("click", toggleBlind);
  element("reshuffle").addEventListener("click", () => {
    kept.shuffle = 1 + Math.floor(Math.random() * 9999);
    keep();
    arrange();
  });

  // --- keys --------------------------------------------------------------------------------------------------------
  function go(index) {
    current = Math.max(0, Math.min(rows.length - 1, index));
    rows.forEach((row, at) => row.classList.toggle("current", at === current));
  }

  function play(position) {
    const cell = rows[current]?.querySelectorAll(".cell")[position];
    const player = cell?.querySelector("audio");
    if (!player) return;
    last = cell;
    if (!player.paused) return player.pause();
    player.currentTime = 0;
    player.play().catch(() => {}); // another key paused it before it began
  }

  const ratings = { g: "good", a: "acceptable", x: "bad" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open) return;
    if (event.target.matches("textarea, input")) return;
    if (/^[1-9]$/.test(event.key)) play(Number(event.key) - 1);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      go(current + (event.key === "ArrowDown" ? 1 : -1));
      rows[current].scrollIntoView({ block: "nearest" });
    } else if (event.key === "b") toggleBlind();
    else if (event.key === "?") element("keys").showModal();
    else if (ratings[event.key] && last) rate(last, ratings[event.key]);
    else return;
    event.preventDefault();
  });
  element("help").addEventListener("click", () => element("keys").showModal());

  go(0);
  progress();
  arrange();
})();
