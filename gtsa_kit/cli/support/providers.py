"""Options of ONNX Runtime's providers, shared by all commands that run a file, and `open_runner`, which uses them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from gtsa_kit.export.runtime.runner import Runner

PANEL = "ONNX Runtime (for .onnx files)"

ProviderOption = Annotated[
    str,
    typer.Option(
        help="auto (cuda if there is a GPU that it can use, else cpu), cpu, cuda, tensorrt or tensorrt-rtx.",
        rich_help_panel=PANEL,
    ),
]
EngineCacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the engines of tensorrt and tensorrt-rtx, which are otherwise built at each start.",
        metavar="DIR",
        rich_help_panel=PANEL,
    ),
]
FallbackOption = Annotated[
    bool,
    typer.Option(
        "--fallback",
        help="If the provider can't run here, use cuda, else cpu, with a warning. Without it that is an error.",
        rich_help_panel=PANEL,
    ),
]


def open_runner(
    path: Path, device: str, provider: str, engine_cache: Path | None, fallback: bool, console: "Console"
) -> "Runner":
    """Open a file with `load`, and print warnings of fallbacks."""
    from gtsa_kit.export import load

    with print_fallback_warnings(console):
        return load(path, device, provider, engine_cache, fallback)


@contextmanager
def print_fallback_warnings(console: "Console") -> Iterator[None]:
    """Print each `FallbackWarning` that is raised inside the context as one line."""
    from gtsa_kit.export.runtime.providers import FallbackWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, FallbackWarning):
            console.print(f"warning: {warning.message}", soft_wrap=True, markup=False)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
