// Predictions of tasks: masks in the colors of their labels, detections, and legends.
import { readDetections } from "./detections.js";
import { readSafetensors } from "./features.js";

// Request the prediction of a head for an image file; returns {classes, mask}, where mask is a canvas or null, or for a
// detector {objects, width, height}, with all objects from its lowest score on.
export async function fetchPrediction(name, { task, labels, lowest, masks }, body, requireOk) {
  const parameters = new URLSearchParams({ head: name, format: task === "segment" ? "safetensors" : "json" });
  if (task === "detect") Object.entries({ threshold: lowest, masks }).forEach(([key, value]) => parameters.set(key, value));
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await requireOk(await fetch(`v1/${task}?${parameters}`, { method: "POST", body, headers }));
  if (task === "detect") return readDetections(await response.json(), labels);
  if (task !== "segment") return { classes: (await response.json()).classes, mask: null };
  const { arrays, metadata } = readSafetensors(await response.arrayBuffer());
  return { classes: metadata.classes, mask: paintMask(arrays.mask, metadata.classes) };
}

// Return a canvas of the mask's size with the color of each pixel's class.
function paintMask({ values, shape: [height, width] }, classes) {
  const colors = new Uint32Array(256);
  for (const { number, color: [red, green, blue] } of classes) {
    colors[number] = new Uint32Array(Uint8Array.of(red, green, blue, 255).buffer)[0];
  }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[values[i]];
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Draw a mask over the image on a canvas.
export function drawMask(context, prediction, opacity) {
  if (!prediction.mask) return;
  context.save();
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = false;
  context.drawImage(prediction.mask, 0, 0, context.canvas.width, context.canvas.height);
  context.restore();
}

// Fill a list with classes: swatch, name, and share of the pixels, number of objects, or probability.
export function showLegend(list, classes) {
  list.hidden = !classes;
  list.replaceChildren(...(classes ?? []).map((one) => {
    const item = document.createElement("li");
    if (one.color) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.backgroundColor = `rgb(${one.color.join(" ")})`;
      item.append(swatch);
    }
    item.append(`${one.name} ${one.count ?? `${(100 * (one.share ?? one.probability)).toFixed(1)}%`}`);
    return item;
  }));
}
