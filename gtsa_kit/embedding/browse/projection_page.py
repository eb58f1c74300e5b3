"""HTML page of a projection: one file that opens offline and loads nothing from a network."""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtsa_kit.embedding.browse.projection import Projection
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.files import write_text

MAX_THUMBNAILS = 2_000
"""Thumbnails in the page: about 5 KB each, 10 MB in all."""

THUMBNAIL_SIDE = 128
"""Longer side of a thumbnail in pixels."""


def write_projection_page(
    projection: Projection,
    images: SourceImages,
    out: Path,
    title: str,
    thumbnails: int = MAX_THUMBNAILS,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Write the page atomically.

    It embeds thumbnails of evenly sampled images. For the other images it holds links relative to `out`, which work
    as long as the page and the images stay where they are.

    Args:
        projection: Points to draw.
        images: Opens the images; missing ones are listed by name only.
        out: An .html file; its folder is created if it is missing.
        title: Title of the page.
        thumbnails: Number of embedded thumbnails.
        on_progress: Called with (thumbnails done, total thumbnails).
    """
    names = [row.path for row in projection.rows]
    sampled = np.unique(np.linspace(0, len(names) - 1, min(thumbnails, len(names))).round().astype(int)).tolist()
    pictures: list[str | None] = [images.link(name, out) for name in names]
    small = images.thumbnails((names[i] for i in sampled), THUMBNAIL_SIDE)
    for done, (index, image) in enumerate(zip(sampled, small, strict=True), 1):
        pictures[index] = None if image is None else _data_uri(image)
        on_progress(done, len(sampled))
    content = {
        "names": names,
        "sizes": [[row.width, row.height] for row in projection.rows],
        "pictures": pictures,
        "points": _encode_array(projection.points, "<f4"),
        "neighbors": _encode_array(projection.neighbors, "<i4"),
        "cosines": _encode_array(projection.cosines, "<f4"),
        "neighbors_per_point": int(projection.neighbors.shape[1]),
        "note": _note(projection),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _render(content, title))


def _render(content: dict[str, Any], title: str) -> str:
    """Fill the template in one pass, so that inserted text is not searched for fields again."""
    folder = files("gtsa_kit.embedding.browse") / "page"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = {
        "title": html.escape(title),
        "policy": f"default-src 'none'; img-src data: file: 'self'; style-src '{_policy_hash(style)}'; "
        f"script-src '{_policy_hash(script)}'; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "content": _json_in_html(content),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (folder / "page.html").read_text(encoding="utf-8"))


def _json_in_html(content: dict[str, Any]) -> str:
    """Return JSON in which no name can close the element around it."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy_hash(text: str) -> str:
    """Return the hash source of a content security policy that allows this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _encode_array(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _note(projection: Projection) -> str:
    count = len(projection.rows)
    note = f"{count:,} images"
    if count + projection.invalid_vectors < projection.total:
        note += f", evenly sampled from {projection.total:,}"
    if projection.invalid_vectors:
        note += f"; {projection.invalid_vectors:,} without a direction skipped"
    return note
