"""The same work as the service's behind LitServe, for benchmarks/serving.py: its threads decode, its loop batches.

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


class Features(litserve.LitAPI):  # type: ignore[misc]
    """One image a request; answers are safetensors of float16. Its processes are spawned, so it stands in a module."""

    def __init__(self, artifact: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=0.005, enable_async=False)
        self.artifact = artifact

    def setup(self, device: str) -> None:
        """In LitServe's own process."""
        self.runner = load(self.artifact)

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        """Of JSON: LitServe hands no raw bodies on."""
        return prepare(self.runner, base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """(B, ...)."""
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Of a batch, or of one image."""
        found = self.runner(images if images.ndim == 4 else images[None])
        maps = found.feature_map.astype(np.float16)
        return [
            {"embedding": e, "feature_map": np.ascontiguousarray(m)}
            for e, m in zip(found.embedding.astype(np.float16), maps, strict=True)
        ]

    def unbatch(self, output: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """They are apart already."""
        return output

    def encode_response(self, output: dict[str, np.ndarray]) -> Response:
        """What `dtype=float16&format=safetensors` gives."""
        return Response(save(output), media_type="application/octet-stream")


if __name__ == "__main__":
    artifact, port = sys.argv[1], int(sys.argv[2])
    print(f"LitServe on :{port}", flush=True)
    server = litserve.LitServer(Features(artifact), accelerator="cpu", timeout=120)
    server.run(port=port, generate_client_file=False, log_level="error")
