"use strict";
// Players, on every page: one at a time, all equally loud, and another column goes on where this one is.
const players = [...document.querySelectorAll("audio")];
let heard = null; // the player that was started last

const rowOf = (player) => player.closest("tbody, .voices");
const lengthOf = (player) => player.duration || Number(player.dataset.seconds);

function follow(player) { // to the same share of the text as `heard`, if that is of the same row and not at its end
  if (!heard || heard === player || heard.ended || rowOf(heard) !== rowOf(player)) return false;
  player.currentTime = (heard.currentTime / lengthOf(heard)) * lengthOf(player);
  return true;
}

function matchLoudness(on) { // volumes, not Web Audio: that may not read audio beside a page from file://
  for (const player of players) player.volume = on ? Number(player.dataset.volume) : 1;
}

document.addEventListener("play", (event) => {
  const player = event.target;
  if (heard && !heard.paused) follow(player); // started by its own button while another one ran
  for (const other of players) if (other !== player) other.pause();
  heard = player;
  document.querySelectorAll(".cell.playing").forEach((cell) => cell.classList.remove("playing"));
  player.closest(".cell").classList.add("playing");
}, true);

document.addEventListener("error", ({ target }) => {
  if (target.error?.code !== MediaError.MEDIA_ERR_NETWORK || !target.currentTime) return;
  target.load(); // Chromium cannot seek in some FLAC files of a second or so: from the start, then
  target.play().catch(() => {});
}, true);

matchLoudness(true);
