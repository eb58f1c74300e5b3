"""Runner of exported heads: outputs of an encoder to logits, so that several heads share one encoder."""

from pathlib import Path
from typing import Any

import numpy as np

from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.onnx_sessions import open_session
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP, layer_output
from gtsa_kit.models.outputs import Features


class HeadRunner:
    """Opened head; any thread may call it."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open an ONNX file of a head in ONNX Runtime on the CPU.

        Args:
            path: The file.
            threads: Threads of one call.

        Raises:
            ValueError: The file is no exported head.
        """
        self.manifest: Manifest = open_manifest(path).manifest
        if self.manifest.kind != "head":
            raise ValueError(f"{path} is no head; export one with: gtsa export RUN --format onnx --part head")
        self.inputs = tuple(spec.name for spec in self.manifest.inputs)
        """Names of the encoder's outputs that the head takes."""
        self._session: Any = open_session(str(path), path, threads)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose maps the head takes."""
        return tuple(sorted(set(self.manifest.head.layers))) if self.manifest.head else ()

    def check_encoder(self, encoder: Manifest) -> None:
        """Raise `ValueError` unless an encoder has the weights and the outputs that the head was trained on."""
        if encoder.weights_sha256 != self.manifest.weights_sha256:
            raise ValueError(
                f"the head was trained on an encoder with other weights (sha256 {self.manifest.weights_sha256[:12]}, "
                f"not {encoder.weights_sha256[:12]}); serve that encoder, or fine-tune on this one"
            )
        if missing := [name for name in self.inputs if name not in {spec.name for spec in encoder.outputs}]:
            layers = ",".join(map(str, self.layers))
            raise ValueError(f"the encoder has no output {missing[0]}; export it with --layers {layers}")

    def __call__(self, features: Features) -> np.ndarray:
        """Compute logits of a batch: (B, K) of classes, or (B, K, h, w) of pixels at the features' resolution.

        Raises:
            ValueError: The features lack a map that the head takes.
        """
        named = {EMBEDDING: features.embedding, FEATURE_MAP: features.feature_map, CLASS_TOKEN: features.class_token}
        named |= {layer_output(layer): values for layer, values in features.layers.items()}
        if missing := [name for name in self.inputs if named.get(name) is None]:
            raise ValueError(f"the features have no {missing[0]}; open the encoder with the layers {self.layers}")
        arrays = {name: np.ascontiguousarray(named[name], np.float32) for name in self.inputs}
        logits: np.ndarray = self._session.run(None, arrays)[0]
        return logits
