"""Header of a serialized TensorRT engine, read without TensorRT and without a GPU.

Both variants begin with a tag, the version of the serialization format (0) and, at byte 24, the four numbers of the
library version. TensorRT-RTX also stores the length of the file and a bit for each compute capability.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gtsa_kit.export.manifest_records import TensorSpec

VariantName = Literal["tensorrt", "tensorrt-rtx"]
THIRD_PARTY_GRAPH: Final = "graph of another tool"
"""Architecture name in the manifest of an engine that was built from the ONNX file of another tool."""
LATER_GPUS: Final = "later"
"""Entry of a list of compute capabilities that stands for GPUs newer than the library."""
TAGS: Final[dict[bytes, VariantName]] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
HEADER_BYTES: Final = {"tensorrt": 28, "tensorrt-rtx": 64}
LENGTH_OFFSET, VERSION_OFFSET, CAPABILITIES_OFFSET = 16, 24, 32
CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities by bit, lowest bit first; a higher bit is for later GPUs."""
MAX_SHAPE_DISTANCE: Final = 256
"""Maximum distance between the minimum and the optimal shape of one profile, in bytes."""


@dataclass(frozen=True)
class EngineHeader:
    """Fields of an engine's header."""

    variant: VariantName
    version: str
    capabilities: tuple[str, ...]
    """Compute capabilities that the engine runs on, "later" for later GPUs; () for TensorRT, which stores none."""
    length: int | None
    """Length of the file in bytes; None for TensorRT, which does not store it."""


def read_header(path: Path) -> EngineHeader:
    """Read the header of an engine file.

    Raises:
        ValueError: The file is not an engine of either variant, is truncated, or has an unknown serialization format.
    """
    with open(path, "rb") as file:
        head = file.read(max(HEADER_BYTES.values()))
    return parse_header(head, path.stat().st_size, path)


def parse_header(head: bytes, size: int, path: Path) -> EngineHeader:
    """Parse the first 64 bytes of an engine.

    Args:
        head: First bytes of the engine.
        size: Length of the whole engine in bytes.
        path: File name for error messages.

    Raises:
        ValueError: See `read_header`.
    """
    variant = TAGS.get(head[:4])
    if variant is None or len(head) < HEADER_BYTES[variant]:
        raise ValueError(f"{path} is not a TensorRT engine, or only the beginning of one; export it or copy it again")
    (serialization,) = struct.unpack_from("<I", head, 4)
    if serialization != 0:
        raise ValueError(f"{path} is a {variant} engine in an unknown serialization format ({serialization})")
    version = ".".join(str(number) for number in head[VERSION_OFFSET : VERSION_OFFSET + 4])
    if variant == "tensorrt":
        return EngineHeader(variant, version, (), None)
    (length,) = struct.unpack_from("<Q", head, LENGTH_OFFSET)
    (bits,) = struct.unpack_from("<I", head, CAPABILITIES_OFFSET)
    if size != length:
        raise ValueError(f"{path} holds {size:,} bytes, but its header says {length:,}; export it or copy it again")
    named = tuple(name for bit, name in enumerate(CAPABILITIES) if bits >> bit & 1)
    later = (LATER_GPUS,) if bits >> len(CAPABILITIES) else ()
    return EngineHeader(variant, version, named + later, length)


def missing_from_engine(
    engine: bytes, tensors: tuple[TensorSpec, ...], profile: tuple[tuple[int, ...], ...]
) -> list[str]:
    """Return the tensor names and the profile of a manifest that a serialized engine does not contain.

    An engine can be deserialized on a GPU only. But its tensor names are plain text, and the three shapes of a profile
    are 64-bit integers at equal distances, so a wrong name or profile in a manifest is detected.

    Args:
        engine: Content of the engine file.
        tensors: Inputs and outputs in the manifest.
        profile: Minimum, optimal and maximum shape of the input; () for a fixed shape.
    """
    missing = [spec.name for spec in tensors if spec.name.encode() not in engine]
    if profile and not _holds_profile(engine, profile):
        missing.append("profile " + " / ".join("x".join(map(str, shape)) for shape in profile))
    return missing


def _holds_profile(engine: bytes, profile: tuple[tuple[int, ...], ...]) -> bool:
    min_shape, opt_shape, max_shape = (struct.pack(f"<{len(shape)}q", *shape) for shape in profile)
    start = engine.find(min_shape)
    while start >= 0:
        second = engine.find(opt_shape, start + len(min_shape), start + MAX_SHAPE_DISTANCE)
        if second >= 0 and engine.startswith(max_shape, 2 * second - start):
            return True
        start = engine.find(min_shape, start + 1)
    return False
