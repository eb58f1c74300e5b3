"""Options that the evaluation commands share."""

from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[Path] | None,
    typer.Argument(help="Run folders, weights or exported files to compare.", metavar="MODEL..."),
]
Random = Annotated[
    list[str] | None,
    typer.Option(
        "--random", help="Add random weights of this architecture; repeatable. Default: none.", metavar="ARCH"
    ),
]
Images = Annotated[Path, typer.Option(help="Images: a folder, or a text file of paths.", metavar="FOLDER")]
Out = Annotated[Path, typer.Option(help="Folder for the report and its figure.", metavar="DIR")]
Size = Annotated[
    int | None, typer.Option(min=16, help="Side of the square input, in pixels. Default: the model's own size.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of repetitions, with seeds 0, 1, ...")]
