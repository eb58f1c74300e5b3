"""The command `gtsa eval`, with one file for each family of evaluations."""

import typer

from gtsa_kit.cli.evaluate import ablation, figures, probes, segment, views

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Evaluate encoders on your own images.")
app.command()(figures.pca)
app.command()(figures.neighbors)
app.command()(figures.attention)
app.command()(figures.matches)
app.command()(probes.knn)
app.command()(probes.linear)
app.command()(segment.segment)
app.command()(views.sensitivity)
app.command()(views.correspondence)
app.command()(views.rotation)
app.command()(ablation.ablation)
