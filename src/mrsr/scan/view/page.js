// The page's own code: NiiVue draws, this links several of its canvases and the controls.
const given = JSON.parse(document.getElementById("content").textContent);
const at = (id) => document.getElementById(id);
const short = (value) => Number(value.toPrecision(4)).toString();
// no difference is black; blue below zero, red above: dark and bright ends differ for all eyes
const DIFFERENCE = {
  R: [90, 0, 0, 220, 255], G: [220, 90, 0, 50, 230], B: [255, 230, 0, 30, 120],
  A: [255, 255, 255, 255, 255], I: [0, 64, 128, 192, 255],
};
const OPTIONS = {
  sliceType: 3, multiplanarLayout: 3, multiplanarShowRender: 0, multiplanarEqualSize: true,
  backColor: [0, 0, 0, 1], fontColor: [0.85, 0.85, 0.85, 1], crosshairColor: [1, 0.84, 0.3, 0.7],
  crosshairWidth: 1, crosshairWidthUnit: "mm", crosshairGap: 6, dragAndDropEnabled: false, isNearestInterpolation: true,
  logLevel: "warn",
};

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let n = 0; n < raw.length; n++) found[n] = raw.charCodeAt(n);
  return found.buffer;
}

async function viewer(box, entry, label, more = {}) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  box.append(canvas);
  const made = new globalThis.Niivue({ ...OPTIONS, ...more });
  await made.attachToCanvas(canvas, false);
  await made.loadFromArrayBuffer(bytes(entry.data), "scan.nii.gz");
  entry.data = "";
  made.onLocationChange = told;
  return made;
}

const scans = [];
const boxes = [];
let difference = null;
let pairs = [];
let shown = -1; // number of the difference on the page

const all = () => (difference ? [...scans, difference] : scans);
const base = () => scans[given.finest];

function window_(low, high) {
  const span = (given.window.most - given.window.least) / 1000 || 1;
  if (high - low < span) high = low + span;
  for (const one of scans) {
    one.volumes[0].cal_min = low;
    one.volumes[0].cal_max = high;
    one.updateGLVolume();
  }
  at("low").value = low;
  at("high").value = high;
  at("low-value").textContent = short(low);
  at("high-value").textContent = short(high);
}

function limit(value) {
  const volume = difference.volumes[0];
  volume.cal_min = -value;
  volume.cal_max = value;
  difference.updateGLVolume();
  at("limit").value = value;
  at("limit-value").textContent = short(value);
}

// move the cross of every viewer to a place in millimetres
function place(mm) {
  for (const one of all()) {
    one.scene.crosshairPos = one.mm2frac(mm);
    one.drawScene();
  }
  readings(mm);
}

// a viewer says that its cross moved; NiiVue has told the others already
function told(where) {
  if (where.mm) readings(where.mm);
}

function readings(mm) {
  const fraction = base().mm2frac(mm);
  ["x", "y", "z"].forEach((axis, n) => {
    at(axis).value = fraction[n];
    at(`${axis}-mm`).textContent = `${mm[n].toFixed(1)} mm`;
  });
  const point = centre(mm);
  all().forEach((one, n) => {
    at("values").rows[n].cells[1].textContent = short(sample(one.volumes[0], point));
  });
}

// the centre of the finest scan's voxel at a place: there the difference is what it says
function centre(mm) {
  const size = base().volumes[0].dimsRAS.slice(1, 4);
  const inside = Array.from(base().mm2frac(mm)).map((part, axis) => {
    const voxel = Math.min(Math.max(Math.floor(part * size[axis]), 0), size[axis] - 1);
    return (voxel + 0.5) / size[axis];
  });
  return Array.from(base().frac2mm(inside)).slice(0, 3);
}

// linear interpolation, the outermost voxels continued: as the differences are made
function sample(volume, mm) {
  const last = volume.dimsRAS.slice(1, 4).map((size) => size - 1);
  const voxel = Array.from(volume.mm2vox(mm, true)).map((value, axis) => {
    const near = Math.round(value);
    const exact = Math.abs(value - near) < 1e-3 ? near : value;
    return Math.min(Math.max(exact, 0), last[axis]);
  });
  const low = voxel.map(Math.floor);
  let sum = 0;
  for (let corner = 0; corner < 8; corner++) {
    let weight = 1;
    const place = low.map((start, axis) => {
      const up = (corner >> axis) & 1;
      weight *= up ? voxel[axis] - start : 1 - (voxel[axis] - start);
      return Math.min(start + up, last[axis]);
    });
    if (weight > 0) sum += weight * volume.getValue(...place);
  }
  return sum;
}

function row(parent, name) {
  const line = parent.insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(head);
  line.insertCell();
}

async function choose() {
  const left = Number(at("left").value);
  const right = Number(at("right").value);
  boxes.forEach((box, n) => {
    box.classList.toggle("left", n === left);
    box.classList.toggle("right", n === right);
  });
  const wanted = pairs.findIndex((one) => one.first === Math.min(left, right) && one.second === Math.max(left, right));
  if (wanted === shown || wanted < 0) return;
  const entry = pairs[wanted];
  const label = `Difference ${entry.name} in three planes`;
  if (difference) {
    difference.removeVolume(difference.volumes[0]);
    await difference.loadFromArrayBuffer(bytes(entry.data), "scan.nii.gz");
    difference.canvas.setAttribute("aria-label", label);
  } else {
    difference = await viewer(at("difference"), { ...entry }, label, { isColorbar: true });
    difference.addColormap("difference", DIFFERENCE);
    row(at("values"), "");
  }
  shown = wanted;
  difference.volumes[0].colormap = "difference";
  at("difference-name").textContent = `Difference: ${entry.name}`;
  at("difference-note").textContent =
    `Mean size ${short(entry.mean)}, largest ${short(entry.largest)}; ${entry.note}.`;
  at("values").rows[scans.length].cells[0].textContent = entry.name;
  Object.assign(at("limit"), { min: entry.most / 200, max: entry.most, step: entry.most / 200 });
  limit(entry.limit);
  all().forEach((one) => one.broadcastTo(all().filter((other) => other !== one), { "2d": true, "3d": false }));
  place(Array.from(base().frac2mm(base().scene.crosshairPos)).slice(0, 3));
}

function controls() {
  for (const side of ["left", "right"]) {
    given.scans.forEach((scan, n) => at(side).add(new Option(scan.name, n)));
    at(side).addEventListener("change", () => {
      const other = at(side === "left" ? "right" : "left");
      if (other.value === at(side).value) {
        other.value = given.scans.findIndex((_, n) => String(n) !== at(side).value);
      }
      choose();
    });
  }
  at("right").value = given.scans.length - 1;
  at("pick").hidden = given.scans.length < 3;
  for (const id of ["low", "high"]) {
    const { least, most } = given.window;
    Object.assign(at(id), { min: least, max: most, step: (most - least) / 500 || 1 });
    at(id).addEventListener("input", () => window_(Number(at("low").value), Number(at("high").value)));
  }
  at("limit").addEventListener("input", () => limit(Number(at("limit").value)));
  at("wipe").addEventListener("input", wipe);
  at("smooth").addEventListener("change", () => all().forEach((one) => one.setInterpolation(!at("smooth").checked)));
  document.getElementsByName("layout").forEach((one) => one.addEventListener("change", () => {
    at("compare").dataset.layout = one.value;
    all().forEach((other) => other.resizeListener());
  }));
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  const size = base().volumes[0].dimsRAS;
  ["x", "y", "z"].forEach((axis, n) => {
    at(axis).step = 1 / size[n + 1];
    at(axis).addEventListener("input", () => {
      const fraction = ["x", "y", "z"].map((name) => Number(at(name).value));
      place(Array.from(base().frac2mm(fraction)).slice(0, 3));
    });
  });
}

function wipe() {
  const name = (side) => given.scans[Number(at(side).value)].name;
  at("stage").style.setProperty("--wipe", `${at("wipe").value}%`);
  at("wipe").setAttribute("aria-valuetext", `${at("wipe").value} % ${name("left")}, the rest ${name("right")}`);
}

async function start() {
  if (!document.createElement("canvas").getContext("webgl2")) {
    throw new Error("this browser has no WebGL 2, which NiiVue draws with; use another, or turn it on");
  }
  for (const scan of given.scans) {
    const box = document.createElement("div");
    box.className = "view";
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = scan.name;
    box.append(name);
    at("stage").append(box);
    boxes.push(box);
    row(at("values"), scan.name);
    scans.push(await viewer(box, scan, `${scan.name} in three planes`));
    const line = document.createElement("li");
    line.textContent = [scan.name, scan.grid, scan.note].filter(Boolean).join("; ");
    at("files").append(line);
  }
  pairs = given.differences;
  controls();
  for (const one of scans) one.onIntensityChange = (volume) => window_(volume.cal_min, volume.cal_max);
  window_(given.window.low, given.window.high);
  await choose();
  wipe();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  at("trouble").hidden = false;
  at("trouble").textContent = `The page cannot be shown: ${error.message}`;
  document.documentElement.dataset.ready = "no";
  console.error(error);
});
