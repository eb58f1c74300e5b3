import { agreement, colorsOf, cosines, heat, principalAxes, readSafetensors, rowsOf, turned, vectorAt } from "./features.js";

const PATCH = 16, LONGEST = 1024, SHORTEST = 512, SIZES = [224, 336, 448, 672, 896];
const NAMES = ["First", "Second"];
const byId = (id) => document.getElementById(id);
const slots = [...document.querySelectorAll(".slot")].map((room, index) => ({
  index, room,
  canvas: room.querySelector("canvas"), stage: room.querySelector(".stage"), facts: room.querySelector(".facts"),
  image: null, name: "", turn: 0, map: null, upright: null, asked: 0,
}));
let basis = null, point = null, ranges = null;

const mode = () => document.querySelector("input[name=mode]:checked").value;
const say = (text, bad = false) => { byId("status").textContent = text; byId("status").classList.toggle("bad", bad); };

// What the model takes

async function begin() {
  const model = await (await checked(await fetch("/v1/model"))).json();
  byId("model").textContent = `${model.id}, ${model.format}`;
  const { inputs, outputs, axes } = model.manifest;
  const fixed = inputs[0].shape.filter((length) => typeof length === "number" && length > 3);
  const at = (axis, index) => axes[axis] ?? { min: fixed[index], max: fixed[index] };
  ranges = { height: at("height", 0), width: at("width", fixed.length - 1), largest: model.limits.max_size };
  const maps = outputs.map((output) => output.name).filter((name) => name.startsWith("feature_map"));
  byId("layer").replaceChildren(...maps.map((name) => new Option(name === "feature_map" ? "last" : name.slice(12), name)));
  const sizes = SIZES.filter((size) => size <= model.limits.max_size && size <= (ranges.height.max ?? size));
  const offered = ranges.height.min === ranges.height.max ? [ranges.height.min] : sizes;
  byId("size").replaceChildren(...offered.map((size) => new Option(`${size} pixels`, size)));
  byId("size").value = offered.includes(448) ? 448 : offered[0];
  await showSamples();
}

async function checked(response) {
  if (response.ok) return response;
  let message = `the service answered ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* not ours */ }
  throw new Error(message);
}

// Height and width of the input for an image: its shape, as near as the model takes it.
function inputSize(width, height) {
  const scale = Number(byId("size").value) / Math.max(width, height);
  const fit = (length, range) => {
    const near = Math.max(PATCH, Math.round((length * scale) / PATCH) * PATCH);
    return Math.max(range.min, Math.min(near, range.max ?? near, ranges.largest));
  };
  return [fit(height, ranges.height), fit(width, ranges.width)];
}

// Images

async function take(slot, blob, name) {
  try {
    slot.image = await createImageBitmap(blob);
  } catch {
    return say(`${name}: this browser can't show it as an image`, true);
  }
  Object.assign(slot, { name, turn: 0, map: null, upright: null });
  point = null;
  await compute([slot], true);
}

// Features of some slots; a new basis unless only the turn is new.
async function compute(some, fresh) {
  const ready = some.filter((slot) => slot.image);
  if (!ready.length) return;
  say("Computing");
  const asked = ready.map((slot) => (slot.asked += 1));
  ready.forEach((slot) => { sized(slot); slot.stage.classList.add("busy"); });
  try {
    const found = await Promise.all(ready.map((slot) => features(slot)));
    ready.forEach((slot, i) => {
      if (slot.asked !== asked[i]) return; // another image or turn has come meanwhile
      slot.map = found[i];
      if (slot.turn % 4 === 0) slot.upright = found[i];
      slot.stage.classList.remove("busy");
    });
    if (fresh || !basis) basis = principalAxes(slots.filter((slot) => slot.map).flatMap((slot) => rowsOf(slot.map)));
    say(point ? "" : "Click a point, or focus an image and use the arrow keys.");
  } catch (error) {
    ready.forEach((slot) => slot.stage.classList.remove("busy"));
    say(error.message, true);
  }
  draw();
}

async function asFile(slot) {
  const plain = document.createElement("canvas");
  [plain.width, plain.height] = turnedSides(slot, Math.min(1, LONGEST / longSide(slot)));
  drawImage(plain.getContext("2d"), slot);
  return new Promise((resolve) => plain.toBlob(resolve, "image/png"));
}

async function request(slot, query) {
  const [height, width] = inputSize(slot.canvas.width, slot.canvas.height);
  const all = new URLSearchParams({ size: `${height}x${width}`, dtype: "float32", ...query });
  const body = await asFile(slot);
  return checked(await fetch(`/v1/features?${all}`, { method: "POST", body, headers: { "Content-Type": "image/png" } }));
}

async function features(slot) {
  const layer = byId("layer").value;
  const { arrays } = readSafetensors(await (await request(slot, { outputs: layer, format: "safetensors" })).arrayBuffer());
  const [dim, height, width] = arrays[layer].shape;
  return { values: arrays[layer].values, dim, height, width };
}

const longSide = (slot) => Math.max(slot.image.width, slot.image.height);

// Width and height of the image as it is turned.
function turnedSides(slot, scale) {
  const sides = [slot.image.width, slot.image.height].map((side) => Math.max(1, Math.round(side * scale)));
  return slot.turn % 2 ? sides.reverse() : sides;
}

function sized(slot) {
  const scale = Math.min(Math.max(1, SHORTEST / longSide(slot)), LONGEST / longSide(slot)); // small ones are shown larger
  [slot.canvas.width, slot.canvas.height] = turnedSides(slot, scale);
  slot.canvas.hidden = false;
  slot.room.querySelector(".drop").hidden = true;
  slot.room.querySelectorAll("button").forEach((button) => { button.disabled = false; });
  drawImage(slot.canvas.getContext("2d"), slot);
}

// Drawing

function drawImage(context, slot) {
  const { width, height } = context.canvas;
  context.save();
  context.translate(width / 2, height / 2);
  context.rotate((-slot.turn * Math.PI) / 2);
  const [w, h] = slot.turn % 2 ? [height, width] : [width, height];
  context.imageSmoothingQuality = "high";
  context.drawImage(slot.image, -w / 2, -h / 2, w, h);
  context.restore();
}

function draw() {
  const shown = slots.filter((slot) => slot.map);
  let vector = null, low = 0, all = new Map();
  if (point && slots[point.slot].map) {
    vector = vectorAt(slots[point.slot].map, point.row, point.column);
    shown.forEach((slot) => all.set(slot, cosines(slot.map, vector)));
    low = Math.min(...[...all.values()].map((values) => Math.min(...values)));
  }
  for (const slot of shown) {
    const context = slot.canvas.getContext("2d");
    drawImage(context, slot);
    if (mode() === "colors" && basis) cover(slot, colorsOf(slot.map, basis));
    if (mode() === "similarity" && vector) {
      cover(slot, Array.from(all.get(slot), (value) => heat((value - low) / Math.max(1 - low, 1e-6))));
    }
    if (mode() === "similarity" && vector) marks(slot, all.get(slot));
    slot.facts.textContent = facts(slot);
    slot.canvas.setAttribute("aria-label", `${NAMES[slot.index]} image: ${slot.name}. ${facts(slot)}`);
  }
  if (vector && mode() === "similarity") announce(all);
}

function cover(slot, colors) {
  const { width, height } = slot.map, small = document.createElement("canvas");
  [small.width, small.height] = [width, height];
  const image = new ImageData(width, height);
  colors.forEach((color, cell) => image.data.set([...color, 255], 4 * cell));
  small.getContext("2d").putImageData(image, 0, 0);
  const context = slot.canvas.getContext("2d");
  context.save();
  context.globalAlpha = Number(byId("strength").value) / 100;
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, slot.canvas.width, slot.canvas.height);
  context.restore();
}

// The point that was chosen, or the cell that is most like it.
function marks(slot, values) {
  const best = values.indexOf(Math.max(...values));
  const chosen = slot.index === point.slot;
  const cell = chosen ? [point.column, point.row] : [best % slot.map.width, Math.floor(best / slot.map.width)];
  const context = slot.canvas.getContext("2d");
  const w = slot.canvas.width / slot.map.width, h = slot.canvas.height / slot.map.height;
  for (const [color, line] of [["#000", 6], ["#fff", 3]]) {
    context.strokeStyle = color;
    context.lineWidth = (line * slot.canvas.width) / Math.max(300, slot.canvas.clientWidth);
    context.setLineDash(chosen ? [] : [w / 3, w / 6]);
    context.strokeRect(cell[0] * w, cell[1] * h, w, h);
  }
}

function facts(slot) {
  const parts = [`${slot.map.height} x ${slot.map.width} cells of ${slot.map.dim}`];
  if (slot.turn % 4) {
    parts.push(`turned ${90 * slot.turn}° left`);
    if (slot.upright) {
      const back = turned(slot.map, 4 - slot.turn);
      if (back.height === slot.upright.height && back.width === slot.upright.width) {
        parts.push(`cosine with the upright features ${agreement(back, slot.upright).toFixed(3)}`);
      }
    }
  }
  return parts.join(", ");
}

function announce(all) {
  const other = slots[1 - point.slot];
  const here = `Row ${point.row + 1}, column ${point.column + 1} of the ${NAMES[point.slot].toLowerCase()} image.`;
  if (!all.has(other)) return say(here);
  const values = all.get(other), best = values.indexOf(Math.max(...values));
  const where = `row ${Math.floor(best / other.map.width) + 1}, column ${(best % other.map.width) + 1}`;
  say(`${here} Most like it in the other: ${where}, cosine ${values[best].toFixed(3)}.`);
}

// What people do

function choose(slot, row, column) {
  if (!slot.map) return;
  const within = (value, most) => Math.max(0, Math.min(most - 1, value));
  point = { slot: slot.index, row: within(row, slot.map.height), column: within(column, slot.map.width) };
  document.querySelector("input[value=similarity]").checked = true;
  draw();
}

function turn(slot, by) {
  slot.turn = (slot.turn + by + 4) % 4;
  point = null;
  if (mode() === "similarity") document.querySelector("input[value=colors]").checked = true;
  compute([slot], false);
}

async function save(slot, kind) {
  try {
    const content = kind === "npz"
      ? await (await request(slot, { outputs: `embedding,${byId("layer").value}`, format: "npz" })).blob()
      : await new Promise((resolve) => slot.canvas.toBlob(resolve, "image/png"));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `${slot.name.replace(/\.[^.]*$/, "") || "image"}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    say(error.message, true);
  }
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
function move(slot, event) {
  if (event.key === "Escape") {
    point = null;
    document.querySelector("input[value=colors]").checked = true;
    return draw();
  }
  if (!STEPS[event.key] || !slot.map) return undefined;
  event.preventDefault();
  const here = point?.slot === slot.index ? point : null;
  const from = here ?? { row: slot.map.height >> 1, column: slot.map.width >> 1 };
  const step = here ? STEPS[event.key] : [0, 0];
  return choose(slot, from.row + step[0], from.column + step[1]);
}

for (const slot of slots) {
  slot.canvas.addEventListener("click", (event) => {
    if (!slot.map) return;
    const box = slot.canvas.getBoundingClientRect();
    const share = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    choose(slot, Math.floor(share[0] * slot.map.height), Math.floor(share[1] * slot.map.width));
  });
  slot.canvas.addEventListener("keydown", (event) => move(slot, event));
  slot.room.addEventListener("dragover", (event) => { event.preventDefault(); slot.stage.classList.add("over"); });
  slot.room.addEventListener("dragleave", () => slot.stage.classList.remove("over"));
  slot.room.addEventListener("drop", (event) => {
    event.preventDefault();
    slot.stage.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) take(slot, file, file.name);
  });
  slot.room.querySelectorAll("input[type=file]").forEach((input) => input.addEventListener("change", () => {
    if (input.files[0]) take(slot, input.files[0], input.files[0].name);
    input.value = "";
  }));
  slot.room.querySelectorAll("[data-turn]").forEach((button) => {
    button.addEventListener("click", () => turn(slot, Number(button.dataset.turn)));
  });
  slot.room.querySelectorAll("[data-save]").forEach((button) => {
    button.addEventListener("click", () => save(slot, button.dataset.save));
  });
}
// A file dropped beside the places would replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
byId("controls").addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", () => {
  if (input.value === "similarity" && !point) say("Click a point, or focus an image and use the arrow keys.");
  draw();
}));
byId("strength").addEventListener("input", draw);
for (const id of ["layer", "size"]) {
  byId(id).addEventListener("change", () => { point = null; basis = null; slots.forEach((s) => { s.upright = null; }); compute(slots, true); });
}

async function showSamples() {
  const names = await (await checked(await fetch("/samples"))).json();
  byId("samples-room").hidden = !names.length;
  byId("samples").replaceChildren(...names.map((name, index) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.dataset.sample = index;
    Object.assign(image, { src: `/samples/${index}`, alt: name, loading: "lazy" });
    button.append(image);
    button.addEventListener("click", () => pick(slots[Number(byId("target").value)], index, name));
    return button;
  }));
  await Promise.all(names.slice(0, 2).map((name, index) => (slots[index].image ? null : pick(slots[index], index, name))));
}

async function pick(slot, index, name) {
  try {
    await take(slot, await (await checked(await fetch(`/samples/${index}`))).blob(), name);
  } catch (error) {
    say(error.message, true);
  }
}

begin().catch((error) => say(error.message, true));
