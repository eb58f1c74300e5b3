"""Choice of the model for `gtsa embed --fast`. Imports what writes int8 files only when it runs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.embedding.options import EmbedOptions

if TYPE_CHECKING:
    from rich.console import Console

    from gtsa_kit.export import Runner


def open_fast(
    folder: str, model: Path, out: Path, options: EmbedOptions, runner: "Runner", console: "Console"
) -> tuple[Path, "Runner", EmbedOptions]:
    """Return the path, runner and options of the int8 file of a model, or those of the model; print which, and why."""
    from gtsa_kit.cli.support.opening import open_runner
    from gtsa_kit.embedding.fast import FastModel, choose_fast_model, model_of_job

    def on_step(line: str) -> None:
        console.print(f"--fast: {line}", soft_wrap=True)

    def open_file(path: Path) -> "Runner":
        return open_runner(path, file_options.load, console)

    file_options = replace(options, load=options.load.with_facts())
    begun_with = model_of_job(out, model) if options.resume else None
    if begun_with:
        opened = runner if begun_with == model else open_file(begun_with)
        chosen = FastModel(begun_with, opened, f"{begun_with.name}, with which the job began")
    else:
        chosen = choose_fast_model(folder, model, options, runner, open_file, on_step)
    on_step(chosen.about)
    return chosen.path, chosen.runner, options if chosen.path == model else file_options
