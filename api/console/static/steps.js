/* A run of steps: the stop button lets the present step end, and has the next request stop the run. */
"use strict";
(() => {
  let stopping = false;
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-stop]");
    if (!button) return;
    event.preventDefault();
    stopping = true;
    button.textContent = "Stopping…";
  });
  document.addEventListener("htmx:configRequest", (event) => {
    if (stopping && event.target.matches("[data-steps]")) event.detail.parameters.stop = "yes";
    stopping = false;
  });
})();
