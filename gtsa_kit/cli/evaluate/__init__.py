"""gtsa eval: one file a family of evaluations."""

import typer

from gtsa_kit.cli.evaluate import ablation, pictures, probes, segment, views

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Look at what an encoder has learnt, on your own data."
)
app.command()(pictures.pca)
app.command()(pictures.neighbors)
app.command()(pictures.attention)
app.command()(pictures.matches)
app.command()(probes.knn)
app.command()(probes.linear)
app.command()(segment.segment)
app.command()(views.sensitivity)
app.command()(views.correspondence)
app.command()(views.rotation)
app.command()(ablation.ablation)
