"""The command `gtsa eval`, with one file for each family of evaluations."""

import typer

from gtsa_kit.cli.evaluate import ablation, curves, detect, figures, probes, segment, table, views
from gtsa_kit.cli.support.help import PlainCommand, PlainGroup

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Evaluate encoders on your own images, by the embedding and the last feature map (there is no --layers), and "
    "fine-tuned models.",
)
app.command(cls=PlainCommand)(figures.pca)
app.command(cls=PlainCommand)(figures.neighbors)
app.command(cls=PlainCommand)(figures.attention)
app.command(cls=PlainCommand)(figures.matches)
app.command(cls=PlainCommand)(probes.knn)
app.command(cls=PlainCommand)(probes.linear)
app.command(cls=PlainCommand)(segment.segment)
app.command(cls=PlainCommand)(segment.classify)
app.command(cls=PlainCommand)(detect.detect)
app.command(cls=PlainCommand)(views.sensitivity)
app.command(cls=PlainCommand)(views.correspondence)
app.command(cls=PlainCommand)(views.rotation)
app.command(cls=PlainCommand)(ablation.ablation)
app.command(cls=PlainCommand)(table.table)
app.command(cls=PlainCommand)(curves.curves)
