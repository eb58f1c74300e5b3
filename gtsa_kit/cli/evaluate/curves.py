"""The command `gtsa eval curves`."""

from pathlib import Path
from typing import Annotated

import typer

from gtsa_kit.cli.support.common import require
from gtsa_kit.cli.support.evaluate_options import FigureFormat, figure_path


def curves(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figure. Default: the run folder.", metavar="DIR")
    ] = None,
    figure_format: FigureFormat = "png",
) -> None:
    """Draw the training curves of a run anew, for example as PDF.

    The dashed lines are chance levels, collapse and the constant baseline of the region loss. A run that has learned
    something has a region loss below that baseline.

    [bold]Example[/bold]

      gtsa eval curves runs/street --out paper/ --figure-format pdf
    """
    path = figure_path(out or require(run), "curves", figure_format)
    from gtsa_kit.config import load_config
    from gtsa_kit.files import read_json_lines

    rows = read_json_lines(run / "metrics.jsonl")
    if not rows:
        raise ValueError(f"{run} holds no metrics.jsonl with steps; name the folder of a run that has begun")
    config = load_config(file=run / "config.yaml")  # the plots do not depend on the encoder
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.figures import save_figure
    from gtsa_kit.methods import make_method
    from gtsa_kit.models.encoder_spec import EncoderSpec
    from gtsa_kit.training.curves import draw_curves

    save_figure(draw_curves(rows, make_method(config, EncoderSpec.named("vit_test")).plot_groups), path)
    make_console().print(f"wrote {path}", soft_wrap=True)
