// Arithmetic on feature maps, without access to the page or the network.
// A map is {values, dim, height, width}; values is a Float32Array of the shape (dim, height, width).

// Return the arrays of a safetensors file by name, and their metadata.
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = entry.data_offsets;
    // Copy the bytes, because a Float32Array must be aligned to 4 bytes.
    const bytes = buffer.slice(8 + length + begin, 8 + length + end);
    arrays[name] = { values: entry.dtype === "U8" ? new Uint8Array(bytes) : new Float32Array(bytes), shape: entry.shape };
  }
  return { arrays, metadata: JSON.parse(header.__metadata__.metadata) };
}

// Return one Float32Array(dim) per patch, in row-major order.
export function patchVectors(map) {
  const patches = map.height * map.width;
  const rows = Array.from({ length: patches }, () => new Float32Array(map.dim));
  for (let d = 0; d < map.dim; d++) for (let p = 0; p < patches; p++) rows[p][d] = map.values[d * patches + p];
  return rows;
}

const dot = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] * b[i]; return sum; };

// Return the mean of the rows, their first three principal axes, and the displayed range of each axis (2% to 98%).
export function principalAxes(rows) {
  const dim = rows[0].length, mean = new Float64Array(dim);
  for (const row of rows) for (let i = 0; i < dim; i++) mean[i] += row[i] / rows.length;
  const centered = rows.map((row) => Float64Array.from(row, (value, i) => value - mean[i]));
  const axes = [];
  for (let k = 0; k < 3; k++) {
    let axis = Float64Array.from({ length: dim }, (_, i) => Math.sin(1 + i * (k + 1.7)));
    for (let step = 0; step < 60; step++) axis = normalize(powerStep(centered, axis, axes));
    axes.push(axis);
  }
  const ranges = axes.map((axis) => {
    const scores = centered.map((row) => dot(row, axis)).sort((a, b) => a - b);
    return [scores[Math.floor(0.02 * (scores.length - 1))], scores[Math.ceil(0.98 * (scores.length - 1))]];
  });
  return { mean, axes, ranges };
}

// One step of the power method on the covariance matrix, orthogonal to the axes that are already known.
function powerStep(centered, axis, known) {
  const next = new Float64Array(axis.length);
  for (const row of centered) {
    const score = dot(row, axis);
    for (let i = 0; i < next.length; i++) next[i] += score * row[i];
  }
  for (const other of known) {
    const shared = dot(next, other);
    for (let i = 0; i < next.length; i++) next[i] -= shared * other[i];
  }
  return next;
}

function normalize(vector) {
  const norm = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((value) => value / norm);
}

// Return red, green and blue (0 to 255) of each patch: its scores on the three axes of the basis.
export function patchColors(map, basis) {
  return patchVectors(map).map((row) => basis.axes.map((axis, k) => {
    let score = 0;
    for (let i = 0; i < row.length; i++) score += (row[i] - basis.mean[i]) * axis[i];
    const [low, high] = basis.ranges[k];
    return Math.round(255 * Math.min(1, Math.max(0, (score - low) / Math.max(high - low, 1e-12))));
  }));
}

// Return the features of one patch.
export function vectorAt(map, row, column) {
  const patches = map.height * map.width;
  return Float32Array.from({ length: map.dim }, (_, d) => map.values[d * patches + row * map.width + column]);
}

// Return the cosine similarity of a vector with every patch.
export function cosineSimilarities(map, vector) {
  const patches = map.height * map.width, products = new Float64Array(patches), squares = new Float64Array(patches);
  for (let d = 0; d < map.dim; d++) {
    for (let p = 0; p < patches; p++) {
      const value = map.values[d * patches + p];
      products[p] += value * vector[d];
      squares[p] += value * value;
    }
  }
  const norm = Math.sqrt(dot(vector, vector));
  return products.map((product, p) => product / Math.max(norm * Math.sqrt(squares[p]), 1e-12));
}

// Rotate a map counterclockwise by k times 90 degrees.
export function rot90(map, k) {
  let { values, height, width } = map;
  for (let i = 0; i < ((k % 4) + 4) % 4; i++) {
    const next = new Float32Array(values.length), patches = height * width;
    for (let d = 0; d < map.dim; d++) {
      for (let row = 0; row < width; row++) {
        for (let column = 0; column < height; column++) {
          next[d * patches + row * height + column] = values[d * patches + column * width + (width - 1 - row)];
        }
      }
    }
    values = next;
    [height, width] = [width, height];
  }
  return { values, dim: map.dim, height, width };
}

// Return the mean cosine similarity of corresponding patches of two maps of one shape.
export function meanCosine(a, b) {
  const rowsA = patchVectors(a), rowsB = patchVectors(b);
  let sum = 0;
  rowsA.forEach((row, i) => {
    sum += dot(row, rowsB[i]) / Math.max(Math.sqrt(dot(row, row) * dot(rowsB[i], rowsB[i])), 1e-12);
  });
  return sum / rowsA.length;
}

// Color map for values from 0 to 1: dark blue, magenta, light yellow.
const COLOR_STOPS = [[13, 8, 60], [86, 20, 125], [175, 45, 110], [240, 105, 60], [252, 245, 150]];
export function heatColor(value) {
  const position = Math.min(1, Math.max(0, value)) * (COLOR_STOPS.length - 1);
  const low = Math.min(Math.floor(position), COLOR_STOPS.length - 2), fraction = position - low;
  return COLOR_STOPS[low].map((channel, i) => Math.round(channel + fraction * (COLOR_STOPS[low + 1][i] - channel)));
}
