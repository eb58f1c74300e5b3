"""Options for ONNX Runtime's providers, which every command has that runs a file, and the opening with them."""

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
        help="auto (cuda where there is a GPU that it can use, else cpu), cpu, cuda, tensorrt or tensorrt-rtx.",
        rich_help_panel=PANEL,
    ),
]
EngineCacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the engines of tensorrt and tensorrt-rtx, which else are built each time.",
        metavar="DIR",
        rich_help_panel=PANEL,
    ),
]
FallbackOption = Annotated[
    bool,
    typer.Option(
        "--fallback",
        help="Where the provider can't run, take cuda, else cpu, and say so. Without it that is an error.",
        rich_help_panel=PANEL,
    ),
]


def open_runner(
    path: Path, device: str, provider: str, engine_cache: Path | None, fallback: bool, shown: "Console"
) -> "Runner":
    """`load`, showing what was passed over on the way."""
    from gtsa_kit.export import load

    with fallbacks_shown(shown):
        return load(path, device, provider, engine_cache, fallback)


@contextmanager
def fallbacks_shown(shown: "Console") -> Iterator[None]:
    """Within it, what is passed over when a file is opened is told as one line each."""
    from gtsa_kit.export.runtime.providers import FallbackWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, FallbackWarning):
            shown.print(f"warning: {warning.message}", soft_wrap=True, markup=False)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
