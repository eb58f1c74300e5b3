"""Parts of a manifest: tensors, axes, the source of the weights, the build of an engine."""

from pathlib import Path

from gtsa_kit.export.layout import Layout, layout_of
from gtsa_kit.export.parity_report import ParityReport, Record


class TensorSpec(Record):
    """Name, dtype and shape of one input or output; a dimension is a number or the name of a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: Layout | None = None
    """Order of the axes of a batch of images; None for other tensors."""

    @property
    def image_layout(self) -> Layout:
        """Layout of a batch of images, from the shape where it is not given."""
        return self.layout or layout_of(self.shape)


class AxisRange(Record):
    """Allowed values of a dynamic axis. A `max` of None is no bound."""

    min: int
    max: int | None
    multiple_of: int


class SourceRecord(Record):
    """Weights that an artifact was exported from: where they lay, and how they were opened."""

    path: str = ""
    """Absolute path; "" in the metadata of an ONNX file, which is handed on without the names of folders."""
    relative: str = ""
    """Path from the artifact's folder, so that artifact and weights may move together."""
    branch: str | None = None
    """Value of --branch, and so on; None if it was not given."""
    heads: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    positions: str | None = None
    embedding: str | None = None

    def candidates(self, artifact: Path) -> list[Path]:
        """Return the paths at which the weights of an artifact may lie now."""
        return [artifact.parent / self.relative] * bool(self.relative) + [Path(self.path)] * bool(self.path)


class GraphRecord(Record):
    """ONNX graph beside an engine, from which the engine was built."""

    file: str
    sha256: str
    opset: int
    parity: ParityReport | None
    """Parity of the graph in ONNX Runtime; None for another tool's graph, which has no reference encoder."""


class EngineRecord(Record):
    """Build record of a TensorRT engine."""

    variant: str
    """"tensorrt" or "tensorrt-rtx"."""
    version: str
    """Version of the library."""
    capabilities: tuple[str, ...]
    """Compute capabilities that the engine runs on; "later" stands for future GPUs."""
    profile: tuple[tuple[int, ...], ...]
    """Minimum, optimal and maximum shape of the input; () for a graph with a fixed shape."""
    graph: GraphRecord
    parity: str
    """Comparison of the engine itself: "run", or "not run: " and the reason."""
    optimization_level: int | None
    workspace_gib: float | None
    seconds: float
    """Duration of the build."""
