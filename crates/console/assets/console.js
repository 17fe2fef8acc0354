// Keeps the page true: replaces its living part when the node sends a new one, and says so when the node falls silent.
"use strict";

const SILENT_AFTER_MS = 3500;
const RETRY_MS = 1000;

const main = document.getElementById("main");
const clock = document.getElementById("clock");
const lost = document.getElementById("lost");
const lostSeconds = document.getElementById("lost-seconds");
let heardAt = performance.now();

/** What a reader has opened and where the keyboard is, by id, so that both survive a replacement. */
function place() {
  const open = [...main.querySelectorAll("details[open]")].map((details) => details.id);
  const active = document.activeElement;
  const summary = active && active.tagName === "SUMMARY" ? active.parentElement.id : "";
  return { open, summary };
}

function replace(html) {
  const before = place();
  main.innerHTML = html;
  for (const id of before.open) {
    const details = document.getElementById(id);
    if (details) details.open = true;
  }
  const details = before.summary && document.getElementById(before.summary);
  if (details) details.querySelector("summary").focus({ preventScroll: true });
  const posture = document.getElementById("posture");
  if (posture) document.title = posture.dataset.title;
}

function heard() {
  heardAt = performance.now();
  lost.hidden = true;
  document.body.classList.remove("silent");
}

function watch() {
  const source = new EventSource("/live");
  source.addEventListener("main", (event) => {
    heard();
    replace(event.data);
  });
  source.addEventListener("beat", (event) => {
    heard();
    clock.textContent = event.data;
  });
  source.addEventListener("error", () => {
    // A browser gives up for good when it was answered with an error; this page does not.
    if (source.readyState === EventSource.CLOSED) setTimeout(watch, RETRY_MS);
  });
}

setInterval(() => {
  const silent = performance.now() - heardAt;
  if (silent < SILENT_AFTER_MS) return;
  lostSeconds.textContent = Math.floor(silent / 1000);
  lost.hidden = false;
  document.body.classList.add("silent");
  document.title = "? " + document.title.replace(/^\S+ /, "");
}, 1000);

watch();
