"""Request the features of images from a Triton server.

    python triton_client.py encoder photos/1.jpg photos/2.jpg --url localhost:8001
    python triton_client.py encoder photos/1.jpg --manifest models/encoder/1/model.onnx.json

The second form is for a model that takes normalized float32: mean and std are in the manifest. Needs
tritonclient[grpc], numpy and Pillow.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import np_to_triton_dtype

DEFAULT_SIDE = 224


def read_image(path, height, width):
    """Read an image as (height, width, 3) uint8, RGB."""
    image = Image.open(path).convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def make_input(pixels, config, manifest=None):
    """Build the request's tensor from (N, H, W, 3) uint8, in the dtype and layout of the model's configuration."""
    expected = config.input[0]
    if expected.data_type == triton.model_config_pb2.TYPE_FP32:
        mean, std = (np.float32(manifest["preprocessing"][name]) for name in ("mean", "std"))
        normalized = (pixels.astype(np.float32) / 255 - mean) / std
        pixels = np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))
    tensor = triton.InferInput(expected.name, list(pixels.shape), np_to_triton_dtype(pixels.dtype))
    tensor.set_data_from_numpy(pixels)
    return tensor


def input_size(config):
    """Return the height and width of the model's input; a dynamic axis (-1) accepts any multiple of the patch size."""
    dims = [length for length in config.input[0].dims[0 if config.max_batch_size else 1 :] if length != 3]
    return [DEFAULT_SIDE if length == -1 else length for length in dims]


def features(client, model, paths, manifest=None):
    """Return the outputs by name: `embedding` (N, D), `feature_map` (N, D, h, w), and maps of other layers."""
    config = client.get_model_config(model).config
    pixels = np.stack([read_image(path, *input_size(config)) for path in paths])
    result = client.infer(model, [make_input(pixels, config, manifest)])
    return {output.name: result.as_numpy(output.name) for output in config.output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--manifest", type=Path)
    args = parser.parse_args()
    manifest = json.loads(args.manifest.read_text(encoding="utf-8")) if args.manifest else None
    with triton.InferenceServerClient(args.url) as client:
        for name, values in features(client, args.model, args.paths, manifest).items():
            print(name, list(values.shape), *(f"{value:.4f}" for value in values.flat[:4]))
