"""An atlas as one HTML file that opens offline and asks no network for anything."""

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

from gtsa_kit.embedding.browse.projection import Atlas
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.files import write_text

MOST_THUMBNAILS = 2_000
"""About 5 KB each: 10 MB in all."""

SIDE = 128
"""Pixels of a thumbnail."""


def write_page(
    atlas: Atlas,
    images: SourceImages,
    out: Path,
    title: str,
    thumbnails: int = MOST_THUMBNAILS,
    on_done: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Write the page, all at once.

    Of `thumbnails` images, evenly spread, a small picture goes into the file; of the others a link relative to
    `out`, which works while page and images stay where they are.

    Args:
        atlas: What to show.
        images: Opens them; those that are missing are shown by name.
        out: An .html file; its folder is made if missing.
        title: Of the page.
        thumbnails: 0 and more.
        on_done: Told (thumbnails made, of how many).
    """
    names = [row.path for row in atlas.rows]
    inside = np.unique(np.linspace(0, len(names) - 1, min(thumbnails, len(names))).round().astype(int)).tolist()
    pictures: list[str | None] = [images.link(name, out) for name in names]
    small = images.thumbnails((names[i] for i in inside), SIDE)
    for done, (index, image) in enumerate(zip(inside, small, strict=True), 1):
        pictures[index] = None if image is None else _data_uri(image)
        on_done(done, len(inside))
    content = {
        "names": names,
        "sizes": [[row.width, row.height] for row in atlas.rows],
        "pictures": pictures,
        "points": _packed(atlas.points, "<f4"),
        "near": _packed(atlas.near, "<i4"),
        "cosines": _packed(atlas.cosines, "<f4"),
        "each": int(atlas.near.shape[1]),
        "note": _note(atlas),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _page(content, title))


def _page(content: dict[str, Any], title: str) -> str:
    """The template with its parts put in, in one pass: what was put in is not looked at again."""
    folder = files("gtsa_kit.embedding.browse") / "page"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = {
        "title": html.escape(title),
        "policy": f"default-src 'none'; img-src data: file: 'self'; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "content": _inert(content),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], (folder / "page.html").read_text(encoding="utf-8"))


def _inert(content: dict[str, Any]) -> str:
    """JSON in which no name can end the element that it stands in."""
    text = json.dumps(content, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    """A source expression of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _packed(values: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode()


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _note(atlas: Atlas) -> str:
    shown = len(atlas.rows)
    note = f"{shown:,} images"
    if shown + atlas.unsound < atlas.total:
        note += f", evenly spread over {atlas.total:,}"
    if atlas.unsound:
        note += f"; {atlas.unsound:,} without a direction left out"
    return note
