"""LitServe server that does the same work as the service, for benchmarks/serving.py.

Run: .venv/bin/python benchmarks/litserved.py ARTIFACT PORT
"""

import base64
import sys

import litserve
import numpy as np
from fastapi import Response
from safetensors.numpy import save
from serving import BATCH, prepare

from gtsa_kit.export import load


class FeaturesAPI(litserve.LitAPI):  # type: ignore[misc]
    """API of one image per request and safetensors of float16. LitServe's worker processes import this class."""

    def __init__(self, artifact: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.005, enable_async=False)
        self.artifact = artifact

    def setup(self, device: str) -> None:
        """Load the model, in LitServe's worker process."""
        self.runner = load(self.artifact)

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        """Decode and preprocess the image of a JSON body."""
        return prepare(self.runner, base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Stack inputs to a batch."""
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Compute the features of a batch, or of one image."""
        features = self.runner(images if images.ndim == 4 else images[None])
        maps = features.feature_map.astype(np.float16)
        return [
            {"embedding": e, "feature_map": np.ascontiguousarray(m)}
            for e, m in zip(features.embedding.astype(np.float16), maps, strict=True)
        ]

    def unbatch(self, output: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Return the outputs, which `predict` has already split by image."""
        return output

    def encode_response(self, output: dict[str, np.ndarray]) -> Response:
        """Encode like the service with `dtype=float16&format=safetensors`."""
        return Response(save(output), media_type="application/octet-stream")


if __name__ == "__main__":
    artifact, port = sys.argv[1], int(sys.argv[2])
    print(f"LitServe on :{port}", flush=True)
    server = litserve.LitServer(FeaturesAPI(artifact), accelerator="cpu", timeout=120)
    server.run(port=port, generate_client_file=False, log_level="error")
