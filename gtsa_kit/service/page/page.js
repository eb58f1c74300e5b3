import {
  cosineSimilarities, heatColor, meanCosine, patchColors, patchVectors, principalAxes, readSafetensors, rot90, vectorAt,
} from "./features.js";
import { countClasses, drawDetections, shownObjects } from "./detections.js";
import { drawMask, fetchPrediction, showLegend } from "./prediction.js";

const MAX_SIDE = 1024, MIN_SIDE = 512, SIZES = [224, 336, 448, 672, 896];
const NAMES = ["First", "Second"];
const byId = (id) => document.getElementById(id);
const slots = [...document.querySelectorAll(".slot")].map((section, index) => ({
  index, section,
  canvas: section.querySelector("canvas"), stage: section.querySelector(".stage"), info: section.querySelector(".info"),
  legend: section.querySelector(".legend"), image: null, file: null, name: "", rotation: 0, map: null, uprightMap: null, prediction: null, requestId: 0, loadId: 0,
}));
const FILES = "image/*,.tif,.tiff,.npy,.dcm"; // browsers can't show the last ones: the service draws them
let takesPictures = true;
let basis = null, selection = null, ranges = null, patch = 1, tasks = {}, hasFeatures = true;

const mode = () => document.querySelector("input[name=mode]:checked").value;
const setStatus = (text, isError = false) => {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
};

// Model

async function initialize() {
  const model = await (await requireOk(await fetch("v1/model"))).json();
  byId("model").textContent = `${model.id}, ${model.format}`;
  const { inputs, outputs, axes, architecture } = model.manifest;
  patch = architecture.patch;
  const { channels, dtype, colors } = model.input;
  takesPictures = channels === 3 && dtype === "uint8" && colors;
  byId("show").closest("label").hidden = takesPictures || channels < 2;
  byId("show").placeholder = model.display_channels.join(",");
  document.querySelectorAll("input[type=file]").forEach((input) => { input.accept = FILES; });
  const lengths = inputs[0].shape.slice(1), at = lengths.indexOf(channels);
  const fixed = lengths.filter((length, index) => typeof length === "number" && index !== at);
  const rangeOf = (axis, index) => axes[axis] ?? { min: fixed[index], max: fixed[index] };
  ranges = { height: rangeOf("height", 0), width: rangeOf("width", fixed.length - 1), maxSize: Math.floor(model.limits.max_size / patch) * patch };
  const maps = outputs.map((output) => output.name).filter((name) => name.startsWith("feature_map"));
  byId("layer").replaceChildren(...maps.map((name) => new Option(name === "feature_map" ? "last" : name.slice(12), name)));
  const sizes = SIZES.filter((size) => size <= model.limits.max_size && size <= (ranges.height.max ?? size));
  const available = ranges.height.min === ranges.height.max || !sizes.length
    ? [Math.min(ranges.height.max ?? ranges.maxSize, ranges.maxSize)] : sizes;
  byId("size").replaceChildren(...available.map((size) => new Option(`${size} pixels`, size)));
  byId("size").value = available.includes(448) ? 448 : available[0];
  showModes(model);
  await showSamples();
}

// Offer what the model computes: features, predictions of its heads, or both.
function showModes(model) {
  ({ tasks, features: hasFeatures } = model);
  const { score_threshold: lowest, mask_format: maskFormat } = model.manifest;
  for (const task of Object.values(tasks)) Object.assign(task, { lowest: lowest ?? 0, masks: Boolean(maskFormat) });
  byId("threshold").min = lowest ?? 0;
  byId("head").replaceChildren(...Object.keys(tasks).map((name) => new Option(name, name)));
  const predicts = byId("head").options.length > 0;
  for (const [value, shown] of [["prediction", predicts], ["colors", hasFeatures], ["similarity", hasFeatures]]) {
    document.querySelector(`input[value=${value}]`).closest("label").hidden = !shown;
  }
  if (predicts) document.querySelector("input[value=prediction]").checked = true;
  byId("head").closest("label").hidden = !predicts;
  showThreshold();
  for (const id of ["layer", "size"]) byId(id).closest("label").hidden = !hasFeatures;
  document.querySelectorAll(".help").forEach((help) => { help.hidden = help.id === "help-features" ? !hasFeatures : !predicts; });
}

// Show the threshold of scores while the chosen head detects objects.
function showThreshold() {
  byId("threshold").closest("label").hidden = tasks[byId("head").value]?.task !== "detect";
  byId("threshold-value").value = Number(byId("threshold").value).toFixed(2);
}

// True while predictions are displayed, or the model has nothing else.
const predicting = () => mode() === "prediction" || !hasFeatures;

async function requireOk(response) {
  if (response.ok) return response;
  let message = `the service answered ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* the body is not JSON of the service */ }
  throw new Error(message);
}

// Return height and width of the model's input: the aspect ratio of the image, within the ranges of the model.
function inputSize(width, height) {
  const scale = Number(byId("size").value) / Math.max(width, height);
  const fit = (length, range) => {
    const rounded = Math.max(patch, Math.round((length * scale) / patch) * patch);
    return Math.max(range.min, Math.min(rounded, range.max ?? rounded, ranges.maxSize));
  };
  return [fit(height, ranges.height), fit(width, ranges.width)];
}

// Images

// Return the picture of a file: the service draws images of other channels than RGB, and what the browser can't open.
async function openPicture(blob) {
  if (takesPictures) {
    try { return await createImageBitmap(blob); } catch { /* the service may read it */ }
  }
  const show = byId("show").value.replaceAll(" ", ""), parameters = new URLSearchParams(show && !takesPictures ? { show } : {});
  return createImageBitmap(await (await postFile(`v1/picture?${parameters}`, blob)).blob());
}

const postFile = async (path, body) => requireOk(
  await fetch(path, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } }));

// Show an image in a slot; of several that are loading, the one that was chosen last.
async function loadImage(slot, source, name) {
  const loadId = (slot.loadId += 1), blob = await source;
  let image = null, message = "";
  try { image = await openPicture(blob); } catch (error) { ({ message } = error); }
  if (slot.loadId !== loadId) return;
  if (!image) return setStatus(`${name}: ${message}`, true);
  const file = takesPictures ? null : blob;
  Object.assign(slot, { image, file, name, rotation: 0, map: null, uprightMap: null, prediction: null });
  selection = null;
  await compute([slot], true);
}

// Compute what is displayed of some slots: predictions, or features with new principal axes unless only the rotation has
// changed.
async function compute(selected, newBasis) {
  const ready = selected.filter((slot) => slot.image);
  if (!ready.length) return;
  setStatus("Computing");
  const requestIds = ready.map((slot) => (slot.requestId += 1));
  ready.forEach((slot) => { resizeCanvas(slot); slot.stage.classList.add("busy"); });
  try {
    const predicted = predicting(), results = await Promise.all(ready.map(predicted ? requestPrediction : fetchMap));
    ready.forEach((slot, i) => {
      if (slot.requestId !== requestIds[i]) return; // another image or rotation was requested in the meantime
      slot.stage.classList.remove("busy");
      if (predicted) { slot.prediction = results[i]; return; }
      slot.map = results[i];
      if (slot.rotation % 4 === 0) slot.uprightMap = results[i];
    });
    if (!predicted && (newBasis || !basis)) basis = principalAxes(slots.filter((slot) => slot.map).flatMap((slot) => patchVectors(slot.map)));
    setStatus(selection || predicted ? "" : "Click a patch, or focus an image and use the arrow keys.");
  } catch (error) {
    ready.forEach((slot) => slot.stage.classList.remove("busy"));
    setStatus(error.message, true);
  }
  draw();
}

async function encodePng(slot) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = rotatedSize(slot, Math.min(1, MAX_SIDE / longSide(slot)));
  drawImage(canvas.getContext("2d"), slot);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

async function requestFeatures(slot, query) {
  const [height, width] = inputSize(slot.canvas.width, slot.canvas.height);
  const parameters = new URLSearchParams({ size: `${height}x${width}`, dtype: "float32", ...query });
  return postFile(`v1/features?${parameters}`, slot.file ?? await encodePng(slot));
}

async function requestPrediction(slot) {
  const name = byId("head").value;
  return fetchPrediction(name, tasks[name], slot.file ?? await encodePng(slot), requireOk);
}

async function fetchMap(slot) {
  const layer = byId("layer").value;
  const { arrays } = readSafetensors(await (await requestFeatures(slot, { outputs: layer, format: "safetensors" })).arrayBuffer());
  const [dim, height, width] = arrays[layer].shape;
  return { values: arrays[layer].values, dim, height, width };
}

const longSide = (slot) => Math.max(slot.image.width, slot.image.height);

// Return width and height of the rotated image.
function rotatedSize(slot, scale) {
  const sides = [slot.image.width, slot.image.height].map((side) => Math.max(1, Math.round(side * scale)));
  return slot.rotation % 2 ? sides.reverse() : sides;
}

function resizeCanvas(slot) {
  const scale = Math.min(Math.max(1, MIN_SIDE / longSide(slot)), MAX_SIDE / longSide(slot)); // small images are enlarged
  [slot.canvas.width, slot.canvas.height] = rotatedSize(slot, scale);
  slot.canvas.hidden = false;
  slot.section.querySelector(".drop").hidden = true;
  slot.section.querySelectorAll("button").forEach((button) => { button.disabled = Boolean(slot.file && button.dataset.rotate); });
  drawImage(slot.canvas.getContext("2d"), slot);
}

// Drawing

function drawImage(context, slot) {
  const { width, height } = context.canvas;
  context.save();
  context.translate(width / 2, height / 2);
  context.rotate((-slot.rotation * Math.PI) / 2);
  const [w, h] = slot.rotation % 2 ? [height, width] : [width, height];
  context.imageSmoothingQuality = "high";
  context.drawImage(slot.image, -w / 2, -h / 2, w, h);
  context.restore();
}

function draw() {
  if (predicting()) return drawPredictions();
  slots.forEach((slot) => showLegend(slot.legend, null));
  return drawFeatures();
}

function drawPredictions() {
  for (const slot of slots.filter((one) => one.prediction)) {
    const context = slot.canvas.getContext("2d");
    drawImage(context, slot);
    const shown = mode() === "prediction", opacity = Number(byId("opacity").value) / 100;
    const { classes, text } = shown ? drawPrediction(context, slot.prediction, opacity) : { classes: null, text: "" };
    showLegend(slot.legend, classes);
    slot.info.textContent = text;
    slot.canvas.setAttribute("aria-label", `${NAMES[slot.index]} image: ${slot.name}. ${slot.info.textContent}`);
  }
}

// Draw a prediction; return the classes of the legend, and the prediction in words.
function drawPrediction(context, prediction, opacity) {
  const name = byId("head").value;
  if (prediction.objects) {
    const objects = shownObjects(prediction, Number(byId("threshold").value));
    drawDetections(context, prediction, objects, opacity);
    const best = objects.length ? `, the surest ${objects[0].label} ${objects[0].score.toFixed(2)}` : "";
    return { classes: countClasses(objects), text: `${name}: ${objects.length} ${objects.length === 1 ? "object" : "objects"}${best}` };
  }
  const { classes } = prediction;
  drawMask(context, prediction, opacity);
  const text = prediction.mask ? `${name}: ${classes.length} classes, most of it ${classes[0].name}` : `${name}: ${classes[0].name}`;
  return { classes: prediction.mask ? classes : classes.map(({ color, ...one }) => one), text };
}

function drawFeatures() {
  const computed = slots.filter((slot) => slot.map);
  let vector = null, low = 0;
  const cosines = new Map();
  if (selection && slots[selection.slot].map) {
    vector = vectorAt(slots[selection.slot].map, selection.row, selection.column);
    computed.forEach((slot) => cosines.set(slot, cosineSimilarities(slot.map, vector)));
    low = Math.min(...[...cosines.values()].map((values) => Math.min(...values)));
  }
  for (const slot of computed) {
    const context = slot.canvas.getContext("2d");
    drawImage(context, slot);
    if (mode() === "colors" && basis) drawOverlay(slot, patchColors(slot.map, basis));
    if (mode() === "similarity" && vector) {
      drawOverlay(slot, Array.from(cosines.get(slot), (value) => heatColor((value - low) / Math.max(1 - low, 1e-6))));
    }
    if (mode() === "similarity" && vector) drawMarker(slot, cosines.get(slot));
    slot.info.textContent = describe(slot);
    slot.canvas.setAttribute("aria-label", `${NAMES[slot.index]} image: ${slot.name}. ${describe(slot)}`);
  }
  if (vector && mode() === "similarity") announce(cosines);
}

// Draw one color per patch over the image.
function drawOverlay(slot, colors) {
  const { width, height } = slot.map, overlay = document.createElement("canvas");
  [overlay.width, overlay.height] = [width, height];
  const image = new ImageData(width, height);
  colors.forEach((color, patch) => image.data.set([...color, 255], 4 * patch));
  overlay.getContext("2d").putImageData(image, 0, 0);
  const context = slot.canvas.getContext("2d");
  context.save();
  context.globalAlpha = Number(byId("opacity").value) / 100;
  context.imageSmoothingEnabled = false;
  context.drawImage(overlay, 0, 0, slot.canvas.width, slot.canvas.height);
  context.restore();
}

// Outline the selected patch (solid), or the patch that is most similar to it (dashed).
function drawMarker(slot, values) {
  const best = values.indexOf(Math.max(...values));
  const isSelected = slot.index === selection.slot;
  const [column, row] = isSelected ? [selection.column, selection.row] : [best % slot.map.width, Math.floor(best / slot.map.width)];
  const context = slot.canvas.getContext("2d");
  const w = slot.canvas.width / slot.map.width, h = slot.canvas.height / slot.map.height;
  for (const [color, line] of [["#000", 6], ["#fff", 3]]) {
    context.strokeStyle = color;
    context.lineWidth = (line * slot.canvas.width) / Math.max(300, slot.canvas.clientWidth);
    context.setLineDash(isSelected ? [] : [w / 3, w / 6]);
    context.strokeRect(column * w, row * h, w, h);
  }
}

// Return the size of the map, and the similarity of the rotated features to the upright ones.
function describe(slot) {
  const parts = [`${slot.map.height} x ${slot.map.width} patches of ${slot.map.dim} dimensions`];
  if (slot.rotation % 4) {
    parts.push(`rotated ${90 * slot.rotation}° left`);
    if (slot.uprightMap) {
      const unrotated = rot90(slot.map, 4 - slot.rotation);
      if (unrotated.height === slot.uprightMap.height && unrotated.width === slot.uprightMap.width) {
        parts.push(`cosine with the upright features ${meanCosine(unrotated, slot.uprightMap).toFixed(3)}`);
      }
    }
  }
  return parts.join(", ");
}

// Report the selected patch and the most similar one of the other image in the status line.
function announce(cosines) {
  const other = slots[1 - selection.slot];
  const selected = `Row ${selection.row + 1}, column ${selection.column + 1} of the ${NAMES[selection.slot].toLowerCase()} image.`;
  if (!cosines.has(other)) return setStatus(selected);
  const values = cosines.get(other), best = values.indexOf(Math.max(...values));
  const position = `row ${Math.floor(best / other.map.width) + 1}, column ${(best % other.map.width) + 1}`;
  setStatus(`${selected} Most similar in the other image: ${position}, cosine ${values[best].toFixed(3)}.`);
}

// User input

function selectPatch(slot, row, column) {
  if (!slot.map) return;
  const clamp = (value, length) => Math.max(0, Math.min(length - 1, value));
  selection = { slot: slot.index, row: clamp(row, slot.map.height), column: clamp(column, slot.map.width) };
  document.querySelector("input[value=similarity]").checked = true;
  draw();
}

function rotate(slot, k) {
  slot.rotation = (slot.rotation + k + 4) % 4;
  selection = null;
  if (mode() === "similarity") document.querySelector("input[value=colors]").checked = true;
  Object.assign(slot, predicting() ? { map: null, uprightMap: null } : { prediction: null });
  compute([slot], false);
}

async function savedPrediction(slot) {
  const name = byId("head").value, parameters = new URLSearchParams({ head: name, format: "npz" });
  if (tasks[name].task === "detect") parameters.set("threshold", byId("threshold").value);
  return (await postFile(`v1/${tasks[name].task}?${parameters}`, slot.file ?? await encodePng(slot))).blob();
}

async function save(slot, fileFormat) {
  try {
    const content = fileFormat === "npz" && predicting() ? await savedPrediction(slot) : fileFormat === "npz"
      ? await (await requestFeatures(slot, { outputs: `embedding,${byId("layer").value}`, format: "npz" })).blob()
      : await new Promise((resolve) => slot.canvas.toBlob(resolve, "image/png"));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = `${slot.name.replace(/\.[^.]*$/, "") || "image"}.${fileFormat}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    setStatus(error.message, true);
  }
}

const ARROW_STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
function onKey(slot, event) {
  if (event.key === "Escape") {
    selection = null;
    document.querySelector("input[value=colors]").checked = true;
    return draw();
  }
  if (!ARROW_STEPS[event.key] || !slot.map) return undefined;
  event.preventDefault();
  const current = selection?.slot === slot.index ? selection : null;
  const start = current ?? { row: slot.map.height >> 1, column: slot.map.width >> 1 };
  const step = current ? ARROW_STEPS[event.key] : [0, 0];
  return selectPatch(slot, start.row + step[0], start.column + step[1]);
}

for (const slot of slots) {
  slot.canvas.addEventListener("click", (event) => {
    if (!slot.map) return;
    const box = slot.canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * slot.map.height);
    const column = Math.floor(((event.clientX - box.left) / box.width) * slot.map.width);
    selectPatch(slot, row, column);
  });
  slot.canvas.addEventListener("keydown", (event) => onKey(slot, event));
  slot.section.addEventListener("dragover", (event) => { event.preventDefault(); slot.stage.classList.add("over"); });
  slot.section.addEventListener("dragleave", () => slot.stage.classList.remove("over"));
  slot.section.addEventListener("drop", (event) => {
    event.preventDefault();
    slot.stage.classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file) loadImage(slot, file, file.name);
  });
  slot.section.querySelectorAll("input[type=file]").forEach((input) => input.addEventListener("change", () => {
    if (input.files[0]) loadImage(slot, input.files[0], input.files[0].name);
    input.value = "";
  }));
  slot.section.querySelectorAll("[data-rotate]").forEach((button) => {
    button.addEventListener("click", () => rotate(slot, Number(button.dataset.rotate)));
  });
  slot.section.querySelectorAll("[data-save]").forEach((button) => {
    button.addEventListener("click", () => save(slot, button.dataset.save));
  });
}
// A file dropped beside the image areas would otherwise replace the page.
for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
byId("controls").addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", () => {
  if (input.value === "similarity" && !selection) setStatus("Click a patch, or focus an image and use the arrow keys.");
  const missing = slots.filter((slot) => slot.image && !(predicting() ? slot.prediction : slot.map));
  if (missing.length) compute(missing, true); else draw();
}));
byId("head").addEventListener("change", () => {
  showThreshold();
  slots.forEach((slot) => { slot.prediction = null; });
  if (predicting()) compute(slots, false);
});
byId("opacity").addEventListener("input", draw);
byId("show").addEventListener("change", () => {
  if (byId("show").checkValidity()) slots.filter((slot) => slot.file).forEach((slot) => loadImage(slot, slot.file, slot.name));
});
byId("threshold").addEventListener("input", () => { showThreshold(); draw(); });
for (const id of ["layer", "size"]) {
  byId(id).addEventListener("change", () => { selection = null; basis = null; slots.forEach((s) => { s.uprightMap = null; }); compute(slots, true); });
}

async function showSamples() {
  const names = await (await requireOk(await fetch("samples"))).json();
  byId("samples-section").hidden = !names.length;
  byId("samples").replaceChildren(...names.map((name, index) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.dataset.sample = index;
    Object.assign(image, { src: `samples/${index}`, alt: name, loading: "lazy" });
    button.append(image);
    button.addEventListener("click", () => loadSample(slots[Number(byId("target").value)], index, name));
    return button;
  }));
  await Promise.all(names.slice(0, 2).map((name, index) => (slots[index].loadId ? null : loadSample(slots[index], index, name))));
}

async function loadSample(slot, index, name) {
  try {
    const path = takesPictures ? `samples/${index}` : `samples/${index}/file`;
    await loadImage(slot, fetch(path).then(requireOk).then((response) => response.blob()), name);
  } catch (error) {
    setStatus(error.message, true);
  }
}

initialize().catch((error) => setStatus(error.message, true));
