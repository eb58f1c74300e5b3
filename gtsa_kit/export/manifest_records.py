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
    samples: bool = False
    """True for samples as files have them, which the graph clips and normalizes."""

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


class LabelRecord(Record):
    """A class of a task; its number is its position among the labels."""

    id: int
    """Value that means the class in masks, colors as 0xRRGGBB; else the class number."""
    name: str
    color: tuple[int, int, int]
    """RGB 0 to 255."""
    aliases: tuple[int, ...] = ()
    """Further values of masks that mean the class."""


class HeadRecord(Record):
    """Head of a task model."""

    name: str
    """Kind of head, one of `models.task_spec.HEADS`."""
    layers: tuple[int, ...]
    """Blocks whose maps it takes; () for the last feature map, or the embedding."""
    final_norm: bool
    """True if these features are after the encoder's final norm."""
    pyramid: str | None
    """Strides of the maps in the head fpn; None for other heads."""
    weights_sha256: str
    """Digest of the head's weights (`models.weights.weights_digest`)."""


class TaskScoreRecord(Record):
    """Score of an artifact on labeled images, beside that of the float32 model."""

    metric: str
    """"mIoU", "top-1", "AP" (of boxes) or "mask AP", in percent."""
    source: float
    artifact: float
    drop: float
    """`source` minus `artifact`, in points."""
    max_drop: float
    """Largest drop that passes."""
    images: int
    """Number of labeled images."""
    data: str
    """Name of the labeled data, for display."""
    passed: bool


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
