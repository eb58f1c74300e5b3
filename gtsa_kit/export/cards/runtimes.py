"""Oldest ONNX Runtime and Triton that open an ONNX file, by its opset and IR version."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

OPSET_RUNTIMES: Final = {18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23"}
"""First ONNX Runtime with an opset, by its compatibility table; 20 to 23 were tried with 1.20 to 1.23."""
IR_RUNTIMES: Final = {8: "1.14", 9: "1.16", 10: "1.18", 11: "1.23"}
"""First ONNX Runtime with an IR version, likewise."""
TRITON_RELEASES: Final = {
    "1.14": "23.03",
    "1.15": "23.05",
    "1.16": "23.09",
    "1.17": "24.03",
    "1.18": "24.05",
    "1.21": "25.03",
    "1.23": "25.08",
}
"""First release of Triton whose build script takes an ONNX Runtime or a later one."""


@dataclass(frozen=True)
class MinimumVersions:
    """Oldest runtimes that open a file."""

    opset: int
    ir_version: int
    onnxruntime: str
    """First version of ONNX Runtime; "" for an opset or IR version later than the tables."""
    triton: str
    """First release of Triton; "" likewise."""

    def sentence(self) -> str:
        """Return the versions as a sentence."""
        needs = f"opset {self.opset}, IR version {self.ir_version}"
        if not self.onnxruntime:
            return f"{needs}: later than the versions that gtsa-kit knows; the ONNX Runtime that checked it is below"
        return f"ONNX Runtime {self.onnxruntime} or later, Triton {self.triton} or later ({needs})"


def minimum_versions(path: Path) -> MinimumVersions:
    """Return the oldest runtimes that open an ONNX file; weights outside of the file are not read."""
    model = onnx.load(str(path), load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    runtimes = OPSET_RUNTIMES.get(opset), IR_RUNTIMES.get(max(8, model.ir_version))
    if None in runtimes:
        return MinimumVersions(opset, model.ir_version, "", "")
    oldest = max((version for version in runtimes if version), key=lambda version: int(version.partition(".")[2]))
    return MinimumVersions(opset, model.ir_version, oldest, TRITON_RELEASES[oldest])
