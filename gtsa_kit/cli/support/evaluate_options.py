"""Options that the evaluation commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.figures import EVALUATION_FIGURES, check_format

Models = Annotated[
    list[Path] | None,
    typer.Argument(help="Run folders, weights or exported files to compare.", metavar="MODEL"),
]
FigureFormat = Annotated[str, typer.Option(help="png (200 dpi), svg or pdf.")]
Images = Annotated[Path, typer.Option(help="Images: a folder, or a text file of paths.", metavar="FOLDER")]
Out = Annotated[Path, typer.Option(help="Folder for the report and its figure.", metavar="DIR")]
Size = Annotated[
    int | None, typer.Option(min=1, help="Side of the square input, in pixels. Default: the model's own size.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of repetitions, with seeds 0, 1, ...")]
MaxMissing = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Fail if a larger share of images and masks is missing, unreadable or without a partner."
    ),
]
MaxMissingInCSV = Annotated[
    float, typer.Option(min=0, max=1, help="Fail if a larger share of the files that a CSV lists is missing.")
]


@dataclass(frozen=True)
class BaselineOptions:
    """Options of the random weights that stand beside the models."""

    random: Annotated[
        list[str] | None,
        typer.Option(
            "--random", help="Add random weights of this architecture; repeatable. Default: none.", metavar="ARCH"
        ),
    ] = None
    baseline: Annotated[
        str,
        typer.Option(
            help="random: without --random, add random weights of the first model's architecture. none: add nothing."
        ),
    ] = "random"

    def __post_init__(self) -> None:
        """Raise `ValueError` for an unknown baseline."""
        if self.baseline not in ("random", "none"):
            raise ValueError(f"unknown baseline {self.baseline!r}; choose random or none")


def figure_path(out: Path, name: str, figure_format: str) -> Path:
    """Return the path of a figure; raise `ValueError` for an unknown format."""
    assert name in EVALUATION_FIGURES, "listings of images leave out these"
    check_format(figure_format)
    return out / f"{name}.{figure_format}"
