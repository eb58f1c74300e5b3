// Detections: boxes, masks, names and scores over an image.

// Return the run lengths of COCO's compressed text: groups of five bits, the lowest first; from the fourth number on each
// is the difference to the one two before.
export function readRuns(text) {
  const runs = [];
  for (let i = 0; i < text.length;) {
    let value = 0, shift = 0, bits;
    do {
      bits = text.charCodeAt(i++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16) value |= -1 << shift; // a negative number
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// Return a prediction of the page from the answer of /v1/detect; labels are those of the model by class number.
export function readDetections({ detections, width, height }, labels) {
  const objects = detections.map((one) => ({
    ...one, color: labels[one.number].color, runs: one.mask ? readRuns(one.mask.counts) : null,
  }));
  return { objects, width, height };
}

// Return the objects of a prediction from a score on, the highest score first.
export const shownObjects = (prediction, threshold) => prediction.objects.filter((one) => one.score >= threshold);

// Return the classes of objects with their numbers, for the legend.
export function countClasses(objects) {
  const counts = new Map();
  for (const { label, color } of objects) counts.set(label, { name: label, color, count: (counts.get(label)?.count ?? 0) + 1 });
  return [...counts.values()].sort((a, b) => b.count - a.count);
}

// Draw objects over the image on a canvas, those of the highest scores on top.
export function drawDetections(context, prediction, objects, opacity) {
  const { width, height } = context.canvas, order = [...objects].reverse();
  context.save();
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = false;
  context.drawImage(paintMasks(prediction, order), 0, 0, width, height);
  context.restore();
  context.save();
  context.scale(width / prediction.width, height / prediction.height);
  const pixel = (prediction.width / width) * Math.max(1, width / Math.max(300, context.canvas.clientWidth));
  for (const { box: [x0, y0, x1, y1], color } of order) {
    for (const [style, line] of [[contrast(color), 5 * pixel], [css(color), 3 * pixel]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: line });
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  }
  const size = 14 * pixel;
  Object.assign(context, { font: `${size}px system-ui, sans-serif`, textBaseline: "middle" });
  for (const { box: [x0, y0], color, label, score } of order) {
    const text = `${label} ${score.toFixed(2)}`, length = context.measureText(text).width + size / 2;
    const x = Math.max(0, Math.min(x0, prediction.width - length)), y = y0 > 1.3 * size ? y0 - 1.3 * size : y0;
    context.fillStyle = css(color);
    context.fillRect(x, y, length, 1.3 * size);
    context.fillStyle = contrast(color);
    context.fillText(text, x + size / 4, y + 0.65 * size);
  }
  context.restore();
}

// Return a canvas of the image's size with the color of the last object at each pixel.
function paintMasks({ width, height }, objects) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (const { runs, color } of objects) {
    const value = new Uint32Array(Uint8Array.of(...color, 255).buffer)[0];
    let position = 0; // down the columns
    (runs ?? []).forEach((length, i) => {
      const end = position + length;
      if (i % 2) for (let p = position; p < end; p++) pixels[(p % height) * width + Math.floor(p / height)] = value;
      position = end;
    });
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const css = (color) => `rgb(${color.join(" ")})`;

// Return black or white, whichever is easier to read on a color, by the luminance of WCAG 2.
function contrast(color) {
  const [red, green, blue] = color.map((level) => {
    const value = level / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}
