"""What a plan says of itself in its first bytes, read without TensorRT and without a GPU.

Both variants begin with a tag, the version of the serialization (0) and, at byte 24, the four numbers of the library's
version. TensorRT-RTX also holds the length of the whole plan and a bit for each compute capability.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gtsa_kit.export.manifest import TensorSpec

Name = Literal["tensorrt", "tensorrt-rtx"]
FOREIGN_GRAPH: Final = "graph of another tool"
"""Architecture name in the manifest of an engine that was built from the ONNX file of another tool."""
AND_LATER: Final = "later"
TAGS: Final[dict[bytes, Name]] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
SHORTEST: Final = {"tensorrt": 28, "tensorrt-rtx": 64}
LENGTH_AT, VERSION_AT, CAPABILITIES_AT = 16, 24, 32
CAPABILITIES: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""By bit, from the lowest; a higher bit is for GPUs to come."""
MOST_APART: Final = 256
"""Bytes between the shapes of one profile, at most."""


@dataclass(frozen=True)
class EngineHeader:
    """The head of a plan."""

    variant: Name
    version: str
    capabilities: tuple[str, ...]
    """What it runs on, "later" for GPUs to come; () of TensorRT, whose plans do not say."""
    length: int | None
    """Bytes that the plan should have; None of TensorRT, whose plans do not say."""


def read_header(path: Path) -> EngineHeader:
    """Read the head of an engine file.

    Raises:
        ValueError: Not a plan of either variant, cut off, or of a form that is not known here.
    """
    with open(path, "rb") as file:
        head = file.read(max(SHORTEST.values()))
    return parse_header(head, path.stat().st_size, path)


def parse_header(head: bytes, size: int, path: Path) -> EngineHeader:
    """The first 64 bytes of a file of `size` bytes; see `read_header`."""
    variant = TAGS.get(head[:4])
    if variant is None or len(head) < SHORTEST[variant]:
        raise ValueError(f"{path} is not a TensorRT engine, or only the beginning of one; export it or copy it again")
    (serialization,) = struct.unpack_from("<I", head, 4)
    if serialization != 0:
        raise ValueError(f"{path} is a {variant} engine of a form that is not known here ({serialization})")
    version = ".".join(str(number) for number in head[VERSION_AT : VERSION_AT + 4])
    if variant == "tensorrt":
        return EngineHeader(variant, version, (), None)
    (length,) = struct.unpack_from("<Q", head, LENGTH_AT)
    (bits,) = struct.unpack_from("<I", head, CAPABILITIES_AT)
    if size != length:
        raise ValueError(f"{path} holds {size:,} bytes, and its header says {length:,}; export it or copy it again")
    named = tuple(name for bit, name in enumerate(CAPABILITIES) if bits >> bit & 1)
    later = (AND_LATER,) if bits >> len(CAPABILITIES) else ()
    return EngineHeader(variant, version, named + later, length)


def missing_from_engine(
    plan: bytes, tensors: tuple[TensorSpec, ...], profile: tuple[tuple[int, ...], ...]
) -> list[str]:
    """What a manifest says that is not to be found in a plan: names of tensors, and the shapes of the profile.

    A plan can be deserialized on a GPU only, but its names are plain text and the three shapes of a profile are whole
    numbers of 64 bits at equal distances, so another profile or another name shows.
    """
    missing = [spec.name for spec in tensors if spec.name.encode() not in plan]
    if profile and not _holds_profile(plan, profile):
        missing.append("profile " + " / ".join("x".join(map(str, shape)) for shape in profile))
    return missing


def _holds_profile(plan: bytes, profile: tuple[tuple[int, ...], ...]) -> bool:
    smallest, usual, largest = (struct.pack(f"<{len(shape)}q", *shape) for shape in profile)
    start = plan.find(smallest)
    while start >= 0:
        second = plan.find(usual, start + len(smallest), start + MOST_APART)
        if second >= 0 and plan.startswith(largest, 2 * second - start):
            return True
        start = plan.find(smallest, start + 1)
    return False
