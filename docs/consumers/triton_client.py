"""Ask a Triton server for the features of images.

    python triton_client.py encoder photos/1.jpg photos/2.jpg --url localhost:8001
    python triton_client.py encoder photos/1.jpg --manifest models/encoder/1/model.onnx.json

The second is for a model that takes normalized floats: mean and std are in the manifest. Needs tritonclient[grpc],
numpy and Pillow.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import np_to_triton_dtype

SIZE = 224


def read(path, height, width):
    """(H, W, 3) bytes, RGB."""
    image = Image.open(path).convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def make_input(pixels, config, manifest=None):
    """The request's tensor for (N, H, W, 3) bytes, as the model's configuration wants it."""
    wanted = config.input[0]
    if wanted.data_type == triton.model_config_pb2.TYPE_FP32:
        mean, std = (np.float32(manifest["preprocessing"][name]) for name in ("mean", "std"))
        normalized = (pixels.astype(np.float32) / 255 - mean) / std
        pixels = np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))
    tensor = triton.InferInput(wanted.name, list(pixels.shape), np_to_triton_dtype(pixels.dtype))
    tensor.set_data_from_numpy(pixels)
    return tensor


def size_of(config):
    """Height and width that the model takes; -1 is any multiple of 16."""
    wanted = config.input[0]
    dims = [length for length in wanted.dims[0 if config.max_batch_size else 1 :] if length != 3]
    return [SIZE if length == -1 else length for length in dims]


def features(client, model, paths, manifest=None):
    """`embedding` (N, D), `feature_map` (N, D, H/16, W/16) and what else the model gives, by name."""
    config = client.get_model_config(model).config
    pixels = np.stack([read(path, *size_of(config)) for path in paths])
    result = client.infer(model, [make_input(pixels, config, manifest)])
    return {output.name: result.as_numpy(output.name) for output in config.output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--manifest", type=Path)
    asked = parser.parse_args()
    said = json.loads(asked.manifest.read_text(encoding="utf-8")) if asked.manifest else None
    with triton.InferenceServerClient(asked.url) as server:
        for name, values in features(server, asked.model, asked.paths, said).items():
            print(name, list(values.shape), *(f"{value:.4f}" for value in values.flat[:4]))
