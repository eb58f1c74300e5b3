"""Datasets with objects, written in COCO's, YOLO's and Pascal VOC's formats."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("bolt", "nut", "washer")
"""Classes, by class number."""


@dataclass
class DrawnImage:
    """An image with rectangles of whole pixels, each an object."""

    name: str
    width: int
    height: int
    objects: list[tuple[int, tuple[int, int, int, int]]] = field(default_factory=list)
    """Class number and x0, y0, x1, y1 of each object."""


def draw_images(count: int = 4, seed: int = 0, prefix: str = "") -> list[DrawnImage]:
    """Return images of 32 to 64 pixels with up to three objects of at least 6 pixels each; the last has none."""
    rng, images = np.random.default_rng(seed), []
    for i in range(count):
        width, height = (int(side) for side in rng.integers(32, 64, 2))
        image = DrawnImage(f"{prefix}{i}.png", width, height)
        for k in range(0 if i == count - 1 else 1 + i % 3):
            w, h = (int(side) for side in rng.integers(6, 20, 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            image.objects.append(((i + k) % len(NAMES), (x, y, x + w, y + h)))
        images.append(image)
    return images


def save_images(folder: Path, images: Sequence[DrawnImage]) -> None:
    """Write the images, gray with a color for each class."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        pixels = np.full((image.height, image.width, 3), 90, np.uint8)
        for number, (x0, y0, x1, y1) in image.objects:
            pixels[y0:y1, x0:x1] = (255, 40, 40) if number == 0 else (40, 255, 40) if number == 1 else (40, 40, 255)
        Image.fromarray(pixels).save(folder / image.name)


def coco_content(images: Sequence[DrawnImage], masks: bool = True) -> dict[str, Any]:
    """Return what COCO's file of the images holds; ids of images count from 100, of categories 1, 3, 5."""
    annotations: list[dict[str, Any]] = []
    for i, image in enumerate(images):
        for number, (x0, y0, x1, y1) in image.objects:
            item = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            item |= {"id": len(annotations) + 1, "image_id": 100 + i, "category_id": 1 + 2 * number}
            annotations.append(item | ({"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]} if masks else {}))
    listed = [{"id": 100 + i, "file_name": x.name, "width": x.width, "height": x.height} for i, x in enumerate(images)]
    categories = [{"id": 1 + 2 * number, "name": name} for number, name in enumerate(NAMES)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, images: Sequence[DrawnImage], masks: bool = True, **changes: Any) -> Path:
    """Write images and `labels.json`, with other top-level lists in `changes`; return the JSON file."""
    save_images(folder / "images", images)
    file = folder / "labels.json"
    file.write_text(json.dumps(coco_content(images, masks) | changes))
    return file


def write_yolo(folder: Path, images: Sequence[DrawnImage], polygons: bool = True, split: str = "") -> Path:
    """Write `images/`, `labels/` and `classes.txt`; return the folder."""
    save_images(folder / "images" / split, images)
    (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for image in images:
        lines = []
        for number, (x0, y0, x1, y1) in image.objects:
            values = [x0, y0, x1, y0, x1, y1, x0, y1] if polygons else [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
            shares = [value / (image.height if i % 2 else image.width) for i, value in enumerate(values)]
            lines.append(" ".join([str(number), *(repr(share) for share in shares)]))
        if lines:
            (folder / "labels" / split / f"{Path(image.name).stem}.txt").write_text("\n".join(lines))
    return folder


def voc_text(image: DrawnImage) -> str:
    """Return what VOC's file of an image holds: pixels counted from 1, the last ones included."""
    objects = [
        f"<object><name>{NAMES[number]}</name><difficult>0</difficult><bndbox><xmin>{x0 + 1}</xmin>"
        f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for number, (x0, y0, x1, y1) in image.objects
    ]
    size = f"<size><width>{image.width}</width><height>{image.height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{image.name}</filename>{size}{''.join(objects)}</annotation>"


def write_voc(folder: Path, images: Sequence[DrawnImage]) -> Path:
    """Write `JPEGImages/` and `Annotations/`; return the folder."""
    save_images(folder / "JPEGImages", images)
    (folder / "Annotations").mkdir(exist_ok=True)
    for image in images:
        (folder / "Annotations" / f"{Path(image.name).stem}.xml").write_text(voc_text(image))
    return folder
