/* The charts of a report as PNG: the server's SVG, drawn on a canvas at three times its size. */
"use strict";
(() => {
  const SCALE = 3;

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function draw(path, name) {
    const image = new Image();
    image.src = path;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth * SCALE;
    canvas.height = image.naturalHeight * SCALE;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(blob, name), "image/png");
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-png]");
    if (!button) return;
    const text = button.textContent;
    draw(button.dataset.png, button.dataset.name).then(
      () => { button.textContent = text; },
      () => { button.textContent = "PNG failed"; },
    );
  });
})();
