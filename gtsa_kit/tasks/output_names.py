"""Names of output files for the names of images: one for each, below the output folder, the same in every run."""

import hashlib
import re
from collections.abc import Set
from typing import Final

MAX_COMPONENT_BYTES: Final = 200
"""Longest name of a file or folder before it is shortened; file systems take 255 bytes, suffixes included."""
_ESCAPED: Final = re.compile(r"%(?=[0-9A-Fa-f]{2}|~)|[\x00-\x1f\\:*?\"<>|]")
"""Characters that Windows does not take in names, and percent signs that would look like an escape."""
_OUTPUT_SUFFIX: Final = re.compile(r"\.(?=(png|jpg)$)")


def output_name(name: str, suffix: str, repeated: Set[str], index: int) -> str:
    """Return the relative path of an output file, with "/" between folders.

    The name of the image is kept whole, so that a/b.jpg and a/b.png become a/b.jpg.png and a/b.png.png. What would lead
    out of the folder, or can't be part of a name, is percent-encoded.

    Args:
        name: Name of the image in its source.
        suffix: Suffix to add, such as ".png".
        repeated: Names that several images of the source have.
        index: Index of the image in its source, which tells those of a repeated name apart.
    """
    *folders, file = name.split("/")
    parts = [_OUTPUT_SUFFIX.sub("%2E", _component(folder)) for folder in folders]
    own = _component(file) + (f"%~{index}" if name in repeated else "")
    return "/".join([*parts, own + suffix])


def _component(text: str) -> str:
    """Return a part of a path that is a plain name on every system."""
    if text in ("", ".", ".."):
        return "%" + "%2E" * len(text)
    encoded = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)
    content = encoded.encode("utf-8", "surrogatepass")
    if len(content) <= MAX_COMPONENT_BYTES:
        return encoded
    digest = hashlib.sha256(content).hexdigest()[:16]
    return content[: MAX_COMPONENT_BYTES - 20].decode("utf-8", "ignore") + f"%~{digest}"
