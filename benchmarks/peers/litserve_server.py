"""LitServe on an ONNX file, in the environment of litserve.txt: litserve_server.py MODEL.onnx PORT.

It does what the service does: decode, stretch to 224, normalize, batches of up to 8, a vector as JSON.
"""

import base64
import io
import sys

import litserve
import numpy as np
import onnxruntime
from PIL import Image

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class EmbeddingAPI(litserve.LitAPI):
    """API of one image per request. LitServe's worker processes import this class."""

    def __init__(self, model):
        super().__init__(max_batch_size=8, batch_timeout=0.005)
        self.model = model

    def setup(self, device):
        """Open the file, in a worker process."""
        self.session = onnxruntime.InferenceSession(self.model, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        """Decode and preprocess an image."""
        image = Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
        pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
        return ((pixels - MEAN) / STD).transpose(2, 0, 1)

    def batch(self, inputs):
        """Stack inputs to a batch."""
        return np.stack(inputs)

    def predict(self, images):
        """Compute the vectors of a batch, or of one image."""
        name = self.session.get_inputs()[0].name
        vectors = self.session.run(["embedding"], {name: images if images.ndim == 4 else images[None]})[0]
        return vectors if images.ndim == 4 else vectors[0]

    def unbatch(self, output):
        """Return the vector of each image."""
        return list(output)

    def encode_response(self, output):
        """Return a body of numbers."""
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    model, port = sys.argv[1:]
    server = litserve.LitServer(EmbeddingAPI(model), accelerator="cpu", timeout=120)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="error")
