"""The `gtsa` command. Each command imports torch and other slow libraries only when it runs."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

if __name__ != "gtsa_kit.cli":
    raise ImportError("import gtsa_kit.cli; `cli` in the root of the repository is only a link to its folder")

from gtsa_kit.cli import (
    bench,
    config,
    convert,
    demo,
    embed,
    evaluate,
    export,
    finetune,
    info,
    predict,
    serve,
    train,
    verify,
)
from gtsa_kit.cli.support.common import fail, is_first_process
from gtsa_kit.cli.support.errors import describe_failure, describe_network_error, is_network_error
from gtsa_kit.cli.support.help import PlainCommand, PlainGroup
from gtsa_kit.progress import Note

app = typer.Typer(
    name="gtsa",
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    epilog="From images to vectors:  gtsa train photos/ --out runs/x  ·  gtsa export runs/x --format onnx  ·  "
    "gtsa embed photos/ --model runs/x/encoder.onnx --out vectors/"
)
def gtsa(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    debug: bool = typer.Option(False, "--debug", help="Print tracebacks of errors (also accepted after a command)."),
) -> None:
    """Train a vision transformer on your images without labels, and bring it into production.

    Training is self-supervised (GTSA, arXiv 2304.08014). Every exported file carries a parity report.
    """


app.command("train", cls=PlainCommand)(train.train)
app.add_typer(finetune.app, name="finetune")
app.command("config", cls=PlainCommand)(config.config)
app.command("export", cls=PlainCommand)(export.export)
app.command("convert", cls=PlainCommand)(convert.convert)
app.command("verify", cls=PlainCommand)(verify.verify)
app.command("info", cls=PlainCommand)(info.info)
app.command("bench", cls=PlainCommand)(bench.bench)
app.add_typer(embed.app, name="embed")
app.command("predict", cls=PlainCommand)(predict.predict)
app.command("serve", cls=PlainCommand)(serve.serve)
app.add_typer(evaluate.app, name="eval")
app.command("demo", cls=PlainCommand)(demo.demo)


def main() -> None:
    """Run a command; errors become one line, a hint and an exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        from gtsa_kit.version import __version__

        print(f"gtsa-kit {__version__}")
        return
    debug = "--debug" in arguments
    try:
        with notes_printed():
            app(args=[argument for argument in arguments if argument != "--debug"], prog_name="gtsa")
    except KeyboardInterrupt as error:
        if debug:
            raise
        fail(f"interrupted{f': {error}' if str(error) else ''}", 130)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if debug:
            raise
        fail(describe_failure(error), 2 if isinstance(error, ValueError | ImportError) else 1)
    except Exception as error:
        if debug or not is_network_error(error):
            raise
        fail(describe_network_error(error), 1)


@contextmanager
def notes_printed() -> Iterator[None]:
    """Print each `Note` of the block as one line; warnings of Pillow are left out."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, Note):
                show(message, category, *where, **more)
            elif is_first_process():
                print(f"gtsa: {message}", file=sys.stderr)

        warnings.showwarning = show_note
        warnings.simplefilter("always", Note)
        warnings.filterwarnings("ignore", module="PIL")  # damaged metadata; unreadable images go to errors.jsonl
        yield
