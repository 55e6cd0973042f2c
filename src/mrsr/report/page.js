"use strict";
// The page works without this file, except for the viewer, the curves and sorting.

const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function options(select, labels, chosen) {
  select.replaceChildren(...labels.map((text, value) => new Option(text, value)));
  select.value = chosen;
}

// --- tables: DataTables, imported from this page's own copy --------------------------------------

async function sortTables() {
  const text = atob(byId("tables-module").textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "text/javascript" }));
  const { default: DataTable } = await import(url);
  URL.revokeObjectURL(url);
  for (const table of document.querySelectorAll("table.sortable")) {
    new DataTable(table, {
      paging: false, searching: false, info: false, order: [], autoWidth: false,
      columnDefs: [{ targets: "number", type: "num", orderSequence: ["desc", "asc"] }],
    });
  }
  document.body.dataset.tables = "ready";
}

byId("with-paper")?.addEventListener("change", (event) => {
  document.body.classList.toggle("with-paper", event.target.checked);
});

// --- the viewer ----------------------------------------------------------------------------------

function viewer() {
  const slices = read("slices-data");
  const stage = byId("stage");
  const context = stage.getContext("2d", { willReadFrequently: true });
  const loaded = new Map();
  let centre = [0.5, 0.5];

  const slice = () => slices[byId("slice").value];
  const view = () => document.querySelector("input[name=view]:checked").value;

  async function image(entry) {
    if (!loaded.has(entry)) {
      const made = new Image();
      made.src = entry.png;
      loaded.set(entry, made.decode().then(() => made));
    }
    return loaded.get(entry);
  }

  // the part of the image that is shown: left, top, width, height in its pixels
  function part({ width, height }) {
    const zoom = Number(byId("zoom").value);
    const [w, h] = [width / zoom, height / zoom];
    const clamp = (value) => Math.min(Math.max(value, 0.5 / zoom), 1 - 0.5 / zoom);
    centre = centre.map(clamp);
    return [centre[0] * width - w / 2, centre[1] * height - h / 2, w, h];
  }

  // black to orange to white, as bright as the difference is large
  function shade(pixels, other, gain) {
    let sum = 0;
    for (let i = 0; i < pixels.length; i += 4) {
      const difference = Math.abs(pixels[i] - other[i]);
      sum += difference * difference;
      const value = Math.min(255, difference * gain);
      pixels[i] = Math.min(255, value * 2);
      pixels[i + 1] = Math.max(0, value * 1.6 - 100);
      pixels[i + 2] = Math.max(0, value * 3 - 510);
    }
    return Math.sqrt(sum / (pixels.length / 4)) / 255;
  }

  let turn = 0;
  async function draw() {
    const mine = ++turn;
    const shown = slice();
    const pair = [byId("left"), byId("right")].map((select) => shown.images[select.value]);
    const [left, right] = await Promise.all(pair.map(image));
    if (mine !== turn) return; // a later change has overtaken this one
    const width = Math.round(shown.width * 3);
    stage.width = width;
    stage.height = Math.round(width * (shown.height * shown.mm[0]) / (shown.width * shown.mm[1]));
    const at = part(shown);
    const put = (picture) => {
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, ...at, 0, 0, stage.width, stage.height);
    };
    let told = `Left: ${pair[0].label}. Right: ${pair[1].label}.`;
    if (view() === "difference") {
      put(right);
      const other = context.getImageData(0, 0, stage.width, stage.height).data;
      put(left);
      const pixels = context.getImageData(0, 0, stage.width, stage.height);
      const gain = Number(byId("gain").value);
      const rms = shade(pixels.data, other, gain);
      context.putImageData(pixels, 0, 0);
      told += ` Difference times ${gain}; root mean square ${(100 * rms).toFixed(2)} % of the`
        + " window in the part shown.";
    } else {
      const split = Math.round(stage.width * byId("divider").value / 100);
      put(left);
      context.save();
      context.beginPath();
      context.rect(split, 0, stage.width - split, stage.height);
      context.clip();
      put(right);
      context.restore();
      context.fillStyle = "#d55e00";
      context.fillRect(split - 1, 0, 3, stage.height);
    }
    byId("divider").disabled = view() === "difference";
    byId("gain").disabled = view() !== "difference";
    stage.setAttribute("aria-label", told);
    byId("told").textContent = `${told} Volume ${shown.volume}.`;
    stage.dataset.drawn = String(mine);
  }

  function rows() {
    const { images, main } = slice();
    const labels = images.map((one) => one.label);
    const [old, other] = [byId("left").value, byId("right").value];
    const kept = (value, fallback) => (value !== "" && value < labels.length ? value : fallback);
    const second = images.findIndex((one) => one.key === main);
    options(byId("left"), labels, kept(old, Math.min(1, labels.length - 1)));
    options(byId("right"), labels, kept(other, Math.max(0, second)));
    draw();
  }

  options(byId("slice"), slices.map((one) => one.name), 0);
  byId("slice").addEventListener("change", rows);
  for (const id of ["left", "right"]) byId(id).addEventListener("change", draw);
  for (const id of ["divider", "zoom", "gain"]) byId(id).addEventListener("input", draw);
  for (const radio of document.querySelectorAll("input[name=view]")) {
    radio.addEventListener("change", draw);
  }
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    from = [event.clientX, event.clientY];
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointerup", () => { from = null; });
  stage.addEventListener("pointermove", drag);
  function drag(event) {
    if (!from) return;
    const box = stage.getBoundingClientRect();
    if (Number(byId("zoom").value) > 1) {
      move((from[0] - event.clientX) / box.width, (from[1] - event.clientY) / box.height);
      from = [event.clientX, event.clientY];
    } else {
      byId("divider").value = 100 * (event.clientX - box.left) / box.width;
      draw();
    }
  }
  function move(x, y) {
    const zoom = Number(byId("zoom").value);
    centre = [centre[0] + x / zoom, centre[1] + y / zoom];
    draw();
  }
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  stage.addEventListener("keydown", (event) => {
    const step = keys[event.key];
    if (!step) return;
    event.preventDefault();
    if (Number(byId("zoom").value) > 1) move(step[0] * 0.1, step[1] * 0.1);
    else {
      byId("divider").value = Number(byId("divider").value) + 5 * step[0];
      draw();
    }
  });
  rows();
}

// --- curves --------------------------------------------------------------------------------------

function curves() {
  const trainings = read("curves-data");
  const names = { train: "training", validation: "validation", test: "test" };
  const looks = { train: ["#0072B2", "solid"], validation: ["#D55E00", "dash"],
    test: ["#009E73", "dashdot"] };
  const chosen = () => trainings[byId("training").value].metrics;

  function draw() {
    const key = Object.keys(chosen())[byId("metric").value];
    const style = getComputedStyle(document.body);
    const line = style.getPropertyValue("--line");
    const axis = { gridcolor: line, zerolinecolor: line };
    const traces = Object.entries(chosen()[key]).map(([split, { steps, values }]) => ({
      x: steps, y: values, name: names[split] ?? split, mode: "lines+markers",
      marker: { size: 4 }, line: { color: looks[split]?.[0], dash: looks[split]?.[1] },
    }));
    Plotly.react("chart", traces, {
      margin: { l: 60, r: 10, t: 40, b: 45 }, hovermode: "x unified", hoverdistance: -1,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.color }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: style.getPropertyValue("--card") },
      xaxis: { ...axis, title: { text: "step" } },
      yaxis: { ...axis, title: { text: key }, type: byId("log").checked ? "log" : "linear" },
    }, { responsive: true, displaylogo: false });
    byId("latest").textContent = "Last values: " + traces
      .map((trace) => `${trace.name} ${trace.y.at(-1)} at step ${trace.x.at(-1)}`).join(", ") + ".";
  }

  function metrics() {
    options(byId("metric"), Object.keys(chosen()), 0);
    draw();
  }

  options(byId("training"), trainings.map((one) => one.name), 0);
  byId("training").addEventListener("change", metrics);
  byId("metric").addEventListener("change", draw);
  byId("log").addEventListener("change", draw);
  dark.addEventListener("change", draw);
  metrics();
}

const dye = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", dye);
dye();
viewer();
if (byId("curves-data")) curves();
sortTables();
