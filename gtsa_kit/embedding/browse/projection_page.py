"""HTML page of a projection: one file that opens offline and loads nothing from a network."""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtsa_kit.embedding.browse.folders import MAX_FOLDERS, group_by_folder
from gtsa_kit.embedding.browse.projection import Projection
from gtsa_kit.embedding.browse.thumbnails import SourceImages
from gtsa_kit.embedding.browse.vectors import ImageRow
from gtsa_kit.figures import PALETTE
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
) -> list[str]:
    """Write the page atomically, and return the problem of each row's image, "" if it is shown.

    It embeds thumbnails of evenly sampled images. For the other images it holds links relative to `out`, which work
    as long as the page and the images stay where they are.

    Args:
        projection: Points to draw.
        images: Opens the images. Those that are missing, or changed since they were embedded, are listed by name only.
        out: An .html file; its folder is created if it is missing.
        title: Title of the page.
        thumbnails: Number of embedded thumbnails.
        on_progress: Called with (thumbnails done, total thumbnails).
    """
    rows = projection.rows
    pictures, problems = _pictures(rows, images, out, thumbnails, on_progress)
    folders, folder_of = group_by_folder([row.path for row in rows])
    content = {
        "names": [row.path for row in rows],
        "sizes": [[row.width, row.height] for row in rows],
        "pictures": pictures,
        "problems": {index: problem for index, problem in enumerate(problems) if problem},
        "points": _encode_array(projection.points, "<f4"),
        "neighbors": _encode_array(projection.neighbors, "<i4"),
        "cosines": _encode_array(projection.cosines, "<f4"),
        "neighbors_per_point": int(projection.neighbors.shape[1]),
        "folders": folders,
        "folder_of": folder_of.tolist(),
        "colors_used": min(len(folders), MAX_FOLDERS),
        "palette": PALETTE,
        "note": _note(projection),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, _render(content, title))
    return problems


def _pictures(
    rows: Sequence[ImageRow], images: SourceImages, out: Path, thumbnails: int, on_progress: Callable[[int, int], None]
) -> tuple[list[str | None], list[str]]:
    """Return the source of each row's image in the page, None without one, and its problem, "" if there is none."""
    pictures: list[str | None] = [None] * len(rows)
    problems = [""] * len(rows)
    inside = np.unique(np.linspace(0, len(rows) - 1, min(thumbnails, len(rows))).round().astype(int)).tolist()
    outside = sorted(set(range(len(rows))) - set(inside))
    for index, (link, problem) in zip(outside, images.links((rows[i] for i in outside), out), strict=True):
        pictures[index], problems[index] = link, problem
    small = images.thumbnails((rows[i] for i in inside), THUMBNAIL_SIDE)
    for done, (index, thumbnail) in enumerate(zip(inside, small, strict=True), 1):
        pictures[index] = None if thumbnail.image is None else _data_uri(thumbnail.image)
        problems[index] = thumbnail.problem
        on_progress(done, len(inside))
    return pictures, problems


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
    invalid = len(projection.invalid)
    if count + invalid < projection.total:
        note += f", evenly sampled from {projection.total:,}"
    if invalid:
        note += f"; {invalid:,} without a direction left out"
    return note
