/* A page with a live part: its state in words, and a button that pauses it. */
"use strict";
(() => {
  const part = document.getElementById("live");
  const controls = document.querySelector("[data-live]");
  if (!part || !controls) return;
  const state = controls.querySelector("[data-live-state]");
  const button = controls.querySelector("[data-live-pause]");
  let paused = false;
  let connection = "Connecting…";

  function show(text) {
    connection = text ?? connection;
    const shown = paused ? "Paused" : connection;
    if (state.textContent !== shown) state.textContent = shown;
    controls.dataset.live = shown === "Live" ? "on" : "off";
  }

  controls.hidden = false;
  show();
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
    show();
  });
  part.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (paused) event.preventDefault();
  });
  part.addEventListener("htmx:sseOpen", () => show("Live"));
  part.addEventListener("htmx:sseError", () => show("Reconnecting…"));
  part.addEventListener("htmx:sseClose", (event) => {
    if (event.detail.type !== "message") return;
    button.hidden = true;
    paused = false;
    show(part.dataset.ended ?? "Signed out. Reload the page.");
  });
})();
