// What works without this file works without JavaScript. It adds two things: buttons that copy a
// command, and a warning when the page has not been updated for a while.
"use strict";

const OUTDATED_MS = 30000;

document.documentElement.classList.toggle("copies", Boolean(navigator.clipboard));

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), 2000);
});

// The time is that of this browser: its clock need not agree with the server's.
let read = null;
let since = performance.now();

function watch() {
  const live = document.getElementById("live");
  if (!live) return;
  if (live.dataset.read !== read) {
    read = live.dataset.read;
    since = performance.now();
  }
  document.getElementById("outdated").hidden = performance.now() - since < OUTDATED_MS;
}

watch();
setInterval(watch, 1000);
