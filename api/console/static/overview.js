/* The chart of rates: uPlot in place of the server's SVG, with the same series. */
"use strict";
(() => {
  const NAMES = ["accepted", "sent", "failed"];
  const rates = document.getElementById("rates");
  const chart = document.getElementById("chart");
  const readout = document.getElementById("readout");
  let plot = null;

  function columns() {
    const series = JSON.parse(rates.querySelector("data").value);
    return [series.at, ...NAMES.map((name) => series[name])];
  }

  function colour(selector) {
    return getComputedStyle(document.querySelector(selector)).color;
  }

  function format(rate) {
    return rate == null ? "—" : rate >= 100 ? rate.toFixed(0) : rate.toFixed(2).replace(/\.?0+$/, "");
  }

  function describe(drawn) {
    const index = drawn.cursor.idx;
    readout.textContent = index == null
      ? "Point at the chart to read its values."
      : `${new Date(drawn.data[0][index] * 1000).toISOString().slice(11, 19)} UTC: `
        + NAMES.map((name, each) => `${name} ${format(drawn.data[each + 1][index])}/s`).join(", ");
  }

  function options() {
    const text = colour("#readout");
    const axis = { stroke: text, grid: { stroke: colour("#chart"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    return {
      width: chart.clientWidth,
      height: 220,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      legend: { show: false },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_plot, _low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [{ ...axis, values: "{HH}:{mm}", size: 28 }, { ...axis, size: 56 }],
      series: [{}, ...NAMES.map((name) => ({ label: name, width: 1.75, stroke: colour(`[data-series=${name}]`), points: { show: false } }))],
      hooks: { setCursor: [describe] },
    };
  }

  function draw() {
    const data = columns();
    const isEmpty = data[0].length < 2;
    const svg = rates.querySelector("svg");
    chart.hidden = readout.hidden = isEmpty;
    rates.classList.toggle("replaced", !isEmpty && svg !== null);
    if (isEmpty) {
      plot?.destroy();
      plot = null;
    } else if (plot) {
      plot.setData(data);
    } else {
      plot = new uPlot(options(), data, chart);
      describe(plot);
    }
  }

  function redraw() {
    plot?.destroy();
    plot = null;
    draw();
  }

  draw();
  rates.addEventListener("htmx:sseMessage", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => {
    if (plot && chart.clientWidth) plot.setSize({ width: chart.clientWidth, height: 220 });
  }).observe(chart);
})();
