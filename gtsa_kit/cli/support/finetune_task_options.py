"""Options of the tasks of `gtsa finetune`, each with the settings that it gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.finetune_options import DATA, TRAINING

HEADS_BY_MASKS = {True: "mask-rcnn", False: "faster-rcnn"}
"""Head by `--masks`."""


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `gtsa finetune segment`."""

    head: Annotated[
        str | None,
        typer.Option(
            help="fpn (the paper's Semantic FPN on four blocks), linear (one 1x1 convolution) or eomt (queries in the "
            "last blocks; needs transformers to train). Default fpn.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    pyramid: Annotated[
        str | None,
        typer.Option(
            help="Strides of the head fpn: flat (all of a patch) or strided (a quarter to two patches). Default flat.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="Blocks that the head takes, such as 2,5,8,11. Default: the last of each quarter for fpn, the one "
            "before the last four for eomt, else the last map.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            help='Names and colors of classes, YAML: {0: road}, {0: {name: road, color: "#804080"}} or {road: '
            '"#804080"}; or JSON, or a CSV name,r,g,b. Default: each value in the masks is a class.',
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = None
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Void class: an index, a color (#000000) or a name; repeatable. 255 is always void. Default: none.",
            metavar="CLASS",
            rich_help_panel=DATA,
        ),
    ] = None
    mask_suffix: Annotated[
        str | None,
        typer.Option(
            help="End of the masks' names that the images' lack: _mask for a.jpg and a_mask.png. Default: none.",
            rich_help_panel=DATA,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return the settings by dotted key; None leaves one to the preset."""
        return {
            "head.name": self.head,
            "head.pyramid": self.pyramid,
            "head.layers": _blocks(self.layers),
            "data.labels": str(require(self.labels).absolute()) if self.labels else None,
            "data.ignore": self.ignore or None,
            "data.mask_suffix": self.mask_suffix,
        }


@dataclass(frozen=True)
class DetectOptions:
    """Options of `gtsa finetune detect`."""

    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the images that a JSON file names. Default: beside the file.",
            metavar="DIR",
            rich_help_panel=DATA,
        ),
    ] = None
    val: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of the validation images. Default: a part of the images of DATA, see --val-split.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = None
    masks: Annotated[
        bool | None,
        typer.Option(
            "--masks/--no-masks",
            help="Learn masks (Mask R-CNN), or boxes alone (Faster R-CNN). Default: masks if the labels have them.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    head: Annotated[
        str | None,
        typer.Option(
            help="mask-rcnn, faster-rcnn (boxes alone) or eomt (masks of queries in the last blocks; needs "
            "transformers to train). Default: as --masks says.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="Four blocks that the head takes, such as 3,5,7,11; one for eomt. Default: the last of each quarter, "
            "or the one before the last four.",
            rich_help_panel=TRAINING,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return the settings by dotted key; None leaves one to the preset.

        Raises:
            ValueError: A file does not exist, or --head and --masks contradict each other.
        """
        masks, head = self.masks, self.head
        if head and masks is not None and (head != HEADS_BY_MASKS[False]) != masks:
            raise ValueError(
                f"--head {head} and --{'' if masks else 'no-'}masks contradict each other; give one of them"
            )
        return {
            "head.name": head or (None if masks is None else HEADS_BY_MASKS[masks]),
            "head.layers": _blocks(self.layers),
            "data.images": str(require(self.images).absolute()) if self.images else None,
            "data.val": str(require(self.val).absolute()) if self.val else None,
        }


def _blocks(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ValueError(f"--layers takes numbers of blocks such as 2,5,8,11, got {text!r}")
    return [int(part) for part in text.split(",")]
