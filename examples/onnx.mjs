// Runs an exported encoder.onnx on one image, in Node:
//
//     node onnx.mjs encoder.onnx photo.ppm
//
// Patch size, mean, std and the type of the input come from the manifest beside the artifact, encoder.onnx.json.

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

/** Reads a binary PPM (P6) as (height, width, 3) uint8, RGB. */
function readPpm(path, patch) {
  const file = readFileSync(path);
  const whitespace = String.raw`(?:\s|#.*\n)+`;
  const header = new RegExp(`^P6${whitespace}(\\d+)${whitespace}(\\d+)${whitespace}255\\s`).exec(file.toString("latin1", 0, 1000));
  if (!header) throw new Error(`${path} is not a PPM file (P6, 8 bits)`);
  const [width, height] = [Number(header[1]), Number(header[2])];
  if (!width || !height || width % patch || height % patch) {
    throw new Error(`${path}: width and height must be multiples of ${patch}`);
  }
  const pixels = new Uint8Array(file.subarray(header[0].length, header[0].length + 3 * width * height));
  if (pixels.length < 3 * width * height) throw new Error(`${path} ends too early`);
  return { width, height, pixels };
}

/** Converts pixels to (3, height, width) float32, normalized; mean and std are for colors of 0 to 1. */
function normalized(pixels, { mean, std }) {
  const area = pixels.length / 3;
  const planes = new Float32Array(pixels.length);
  pixels.forEach((value, i) => {
    const color = i % 3;
    planes[color * area + (i - color) / 3] = (value / 255 - mean[color]) / std[color];
  });
  return planes;
}

async function main(model, photo) {
  const manifest = JSON.parse(readFileSync(`${model}.json`, "utf8"));
  const { width, height, pixels } = readPpm(photo, manifest.architecture.patch);
  const images =
    manifest.inputs[0].dtype === "uint8"
      ? new ort.Tensor("uint8", pixels, [1, height, width, 3])
      : new ort.Tensor("float32", normalized(pixels, manifest.preprocessing), [1, 3, height, width]);

  const encoder = await ort.InferenceSession.create(model);
  const { embedding, feature_map } = await encoder.run({ images }, ["embedding", "feature_map"]);

  for (const [name, tensor] of Object.entries({ images, embedding, feature_map })) {
    console.log(`${name} [${tensor.dims.join(", ")}]`);
  }
  console.log("first values", ...Array.from(embedding.data.slice(0, 8), (x) => Number(x.toPrecision(6))));
}

if (process.argv.length !== 4) {
  console.error("usage: node onnx.mjs encoder.onnx photo.ppm");
  process.exitCode = 2;
} else {
  await main(...process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
