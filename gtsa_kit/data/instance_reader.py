"""Reading datasets of images with objects: finding which format they have."""

from pathlib import Path

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.coco_files import coco_parts
from gtsa_kit.data.coco_json import read_coco
from gtsa_kit.data.instance_build import Listing, build_dataset
from gtsa_kit.data.instances import InstanceDataset
from gtsa_kit.data.skipped import MAX_MISSING
from gtsa_kit.data.voc import read_voc, voc_files
from gtsa_kit.data.yolo import read_yolo
from gtsa_kit.data.yolo_files import yolo_files
from gtsa_kit.progress import ProgressCallback, no_progress

FORMATS_HINT = (
    "expected COCO (a JSON file with --images DIR, or a folder with annotations/*.json), YOLO (a folder with data.yaml "
    "or with images/ and labels/) or Pascal VOC (a folder with Annotations/ and JPEGImages/)"
)


def read_instance_dataset(
    data: Path,
    images: Path | None = None,
    val: Path | None = None,
    masks: bool = True,
    on_progress: ProgressCallback = no_progress,
    max_missing: float = MAX_MISSING,
    reader: ImageReader | None = None,
) -> InstanceDataset:
    """Find the format of a dataset and read it.

    Boxes and masks are those of the upright images. Labels of COCO and VOC may be for the stored pixels of images with
    an EXIF orientation; the sizes that they state tell. Those of YOLO are for upright images.

    Args:
        data: A JSON file of COCO, or a folder in a layout of COCO, YOLO or Pascal VOC.
        images: Folder of the images of COCO's files.
        val: JSON file of the validation images, beside a file of the training images.
        masks: Whether to use the masks, if there are any; otherwise boxes alone.
        on_progress: Progress callback.
        max_missing: Largest share of images, and of objects, that may be unusable.
        reader: Reader of the images; None reads 8-bit RGB.

    Raises:
        ValueError: The format is none of these, a file is malformed, or too little can be used.
    """
    listing = _read(data, images, val, masks)
    listing.reader = reader or ImageReader()
    return build_dataset(listing, max_missing, on_progress, data)


def _read(data: Path, images: Path | None, val: Path | None, masks: bool) -> Listing:
    if not data.exists():
        raise ValueError(f"{data} does not exist; {FORMATS_HINT}")
    coco = None if data.suffix.lower() in (".yaml", ".yml") else coco_parts(data, images, val)
    if coco is not None:
        listing = read_coco(coco[0], masks)
        listing.skipped += coco[1]
        return listing
    if images is not None or val is not None:
        raise ValueError(f"{data} holds no JSON file of COCO, to which --images and --val belong; {FORMATS_HINT}")
    voc = voc_files(data)
    if voc is not None:
        return read_voc(voc, masks)
    yolo = yolo_files(data)
    if yolo is None:
        raise ValueError(f"{data} holds no dataset of objects; {FORMATS_HINT}")
    return read_yolo(yolo, masks)
