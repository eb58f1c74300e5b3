// Arithmetic on feature maps: no page, no network. A map is {values, dim, height, width}: (dim, height, width) float32.

// The arrays of a safetensors file by name, and its account.
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = entry.data_offsets;
    // The slice is a copy, so that it begins where floats may.
    arrays[name] = { values: new Float32Array(buffer.slice(8 + length + begin, 8 + length + end)), shape: entry.shape };
  }
  return { arrays, about: JSON.parse(header.__metadata__.about) };
}

// Cells as rows: one Float32Array(dim) each.
export function rowsOf(map) {
  const cells = map.height * map.width;
  const rows = Array.from({ length: cells }, () => new Float32Array(map.dim));
  for (let d = 0; d < map.dim; d++) for (let c = 0; c < cells; c++) rows[c][d] = map.values[d * cells + c];
  return rows;
}

const dot = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] * b[i]; return sum; };

// Mean, first three principal axes, and the range that is shown of each, of rows.
export function principalAxes(rows) {
  const dim = rows[0].length, mean = new Float64Array(dim);
  for (const row of rows) for (let i = 0; i < dim; i++) mean[i] += row[i] / rows.length;
  const centered = rows.map((row) => Float64Array.from(row, (value, i) => value - mean[i]));
  const axes = [];
  for (let k = 0; k < 3; k++) {
    let axis = Float64Array.from({ length: dim }, (_, i) => Math.sin(1 + i * (k + 1.7)));
    for (let step = 0; step < 60; step++) axis = unit(iterate(centered, axis, axes));
    axes.push(axis);
  }
  const ranges = axes.map((axis) => {
    const scores = centered.map((row) => dot(row, axis)).sort((a, b) => a - b);
    return [scores[Math.floor(0.02 * (scores.length - 1))], scores[Math.ceil(0.98 * (scores.length - 1))]];
  });
  return { mean, axes, ranges };
}

// One step of the power method on the covariance, away from the axes that are found.
function iterate(centered, axis, found) {
  const next = new Float64Array(axis.length);
  for (const row of centered) {
    const score = dot(row, axis);
    for (let i = 0; i < next.length; i++) next[i] += score * row[i];
  }
  for (const other of found) {
    const shared = dot(next, other);
    for (let i = 0; i < next.length; i++) next[i] -= shared * other[i];
  }
  return next;
}

function unit(vector) {
  const norm = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((value) => value / norm);
}

// Red, green, blue, 0 to 255, of each cell.
export function colorsOf(map, basis) {
  return rowsOf(map).map((row) => basis.axes.map((axis, k) => {
    let score = 0;
    for (let i = 0; i < row.length; i++) score += (row[i] - basis.mean[i]) * axis[i];
    const [low, high] = basis.ranges[k];
    return Math.round(255 * Math.min(1, Math.max(0, (score - low) / Math.max(high - low, 1e-12))));
  }));
}

export function vectorAt(map, row, column) {
  const cells = map.height * map.width;
  return Float32Array.from({ length: map.dim }, (_, d) => map.values[d * cells + row * map.width + column]);
}

// Cosines of a vector with every cell.
export function cosines(map, vector) {
  const cells = map.height * map.width, products = new Float64Array(cells), squares = new Float64Array(cells);
  for (let d = 0; d < map.dim; d++) {
    for (let c = 0; c < cells; c++) {
      const value = map.values[d * cells + c];
      products[c] += value * vector[d];
      squares[c] += value * value;
    }
  }
  const norm = Math.sqrt(dot(vector, vector));
  return products.map((product, c) => product / Math.max(norm * Math.sqrt(squares[c]), 1e-12));
}

// The map turned by quarter turns to the left.
export function turned(map, turns) {
  let { values, height, width } = map;
  for (let k = 0; k < ((turns % 4) + 4) % 4; k++) {
    const next = new Float32Array(values.length), cells = height * width;
    for (let d = 0; d < map.dim; d++) {
      for (let row = 0; row < width; row++) {
        for (let column = 0; column < height; column++) {
          next[d * cells + row * height + column] = values[d * cells + column * width + (width - 1 - row)];
        }
      }
    }
    values = next;
    [height, width] = [width, height];
  }
  return { values, dim: map.dim, height, width };
}

// Mean cosine of two maps of one shape, cell by cell.
export function agreement(a, b) {
  const rowsA = rowsOf(a), rowsB = rowsOf(b);
  let sum = 0;
  rowsA.forEach((row, i) => {
    sum += dot(row, rowsB[i]) / Math.max(Math.sqrt(dot(row, row) * dot(rowsB[i], rowsB[i])), 1e-12);
  });
  return sum / rowsA.length;
}

// Dark blue over magenta to light yellow, for 0 to 1.
const STOPS = [[13, 8, 60], [86, 20, 125], [175, 45, 110], [240, 105, 60], [252, 245, 150]];
export function heat(share) {
  const place = Math.min(1, Math.max(0, share)) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2), part = place - low;
  return STOPS[low].map((value, i) => Math.round(value + part * (STOPS[low + 1][i] - value)));
}
