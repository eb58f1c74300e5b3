"""Opening of models by all commands, with the options they share and the notes they print."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gtsa_kit.export.open_options import ImportOptions, LoadOptions
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.providers import FallbackWarning
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.source_facts import facts_of_own, is_exported_file, takes_import_options
from gtsa_kit.export.spec import SUFFIX

if TYPE_CHECKING:
    from gtsa_kit.export.source import Source


def open_runner(path: Path, options: LoadOptions, console: Console) -> Runner:
    """Open a model with `load`, and print warnings of fallbacks and what was assumed for weights of another tool."""
    with print_fallback_warnings(console):
        runner = load(path, **options.arguments())
    print_note(path, runner.note, console)
    return runner


def open_encoder(path: Path, options: ImportOptions, console: Console) -> "Source":
    """Open the float32 encoder or task model of a source, and print what was assumed about its weights."""
    from gtsa_kit.export.reference import open_exportable

    source = open_exportable(path, options)
    print_note(path, source.note, console)
    return source


def print_note(path: Path | str, note: str, console: Console) -> None:
    """Print the note about weights, if there is one; those about runs begin with the path."""
    if note:
        console.print(note if note.startswith(str(path)) else f"{path}: {note}", soft_wrap=True)


def options_by_file(paths: Sequence[Path], options: LoadOptions) -> dict[Path, LoadOptions]:
    """Return the options for each of several models, without those that it does not take.

    Options of ONNX Runtime are for .onnx files, facts of an import for weights of other tools.

    Raises:
        ValueError: An option is given that none of the models takes.
    """
    runs_onnx = {path: is_exported_file(path) and path.suffix == SUFFIX["onnx"] for path in paths}
    imports = {path: bool(options.import_options.given) and takes_import_options(path) for path in paths}
    taken = {name for path in paths for name in facts_of_own(path)}
    taken |= set(options.import_options.given) if any(imports.values()) else set()
    unused = () if any(runs_onnx.values()) else options.provider_options
    unused += tuple(f"--{name}" for name in options.import_options.given if name not in taken)
    if unused:
        raise ValueError(f"none of the models takes {', '.join(unused)}; omit {'it' if len(unused) == 1 else 'them'}")
    result = {}
    for path in paths:
        own = options if runs_onnx[path] else options.without_provider()
        result[path] = own if imports[path] else own.with_facts(*facts_of_own(path))
    return result


def runner_opener(paths: Sequence[Path], options: LoadOptions, console: Console) -> Callable[[Path], Runner]:
    """Return a function that opens each of several models as a runner, with the options that it takes."""
    by_file = options_by_file(paths, options)
    return lambda path: open_runner(path, by_file[path], console)


def encoder_opener(paths: Sequence[Path], options: ImportOptions, console: Console) -> Callable[[Path], "Source"]:
    """Return a function that opens the encoder of each of several models, with the options that it takes."""
    by_file = options_by_file(paths, LoadOptions(import_options=options))
    return lambda path: open_encoder(path, by_file[path].import_options, console)


@contextmanager
def print_fallback_warnings(console: Console) -> Iterator[None]:
    """Print each `FallbackWarning` that is raised inside the context as one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FallbackWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, FallbackWarning):
            console.print(f"warning: {warning.message}", soft_wrap=True)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
