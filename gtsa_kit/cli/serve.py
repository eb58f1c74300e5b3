"""gtsa serve."""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.common import fail, require

if TYPE_CHECKING:
    from gtsa_kit.service.settings import Settings


def serve(
    artifact: Annotated[
        Path, typer.Argument(help="An exported file, a run folder, or a .safetensors.", metavar="ARTIFACT")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is open to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    max_batch: Annotated[int, typer.Option(help="Images of the artifact's own size in a batch.")] = 32,
    max_wait_ms: Annotated[
        float, typer.Option(help="A batch that is not full waits so long for images on their way.")
    ] = 5.0,
    max_pending: Annotated[int, typer.Option(help="Images taken on at a time; above it, 503.")] = 256,
    max_image_mb: Annotated[float, typer.Option(help="Largest image file, MiB; above it, 413.")] = 20.0,
    max_pixels: Annotated[int, typer.Option(help="Largest image, pixels, by its header; above it, 422.")] = 50_000_000,
    max_size: Annotated[int, typer.Option(help="Largest height or width that a request may ask for.")] = 1024,
    token: Annotated[
        str | None,
        typer.Option(help="What clients must send: Authorization: Bearer TOKEN.", envvar="GTSA_TOKEN"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, each with a model of its own.")] = 1,
    samples: Annotated[
        Path | None, typer.Option(help="Images that the page offers. Default: a few that are installed.")
    ] = None,
) -> None:
    """Answer with features over HTTP, and show them on a page.

    POST /v1/features, /v1/embeddings (for OpenAI's clients), /v1/similarity; GET /, /docs, /health, /ready, /metrics.
    SIGTERM and Ctrl-C end it when what it has accepted is answered.

    [bold]Examples[/bold]

      gtsa serve runs/street/encoder.onnx

      curl -H 'Content-Type: image/jpeg' --data-binary @1.jpg 'localhost:8000/v1/features?format=npz' > 1.npz
    """
    require(artifact)
    if samples:
        require(samples)
    try:
        from gtsa_kit.service.server import listen
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'gtsa-kit[serve]'") from error
    from gtsa_kit.service.settings import Settings

    settings = Settings(
        artifact,
        device=device,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_pending=max_pending,
        max_image_mb=max_image_mb,
        max_pixels=max_pixels,
        max_size=max_size,
        token=token,
        workers=workers,
        samples=samples,
    )
    sock = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    _run(settings, sock, f"http://{shown}:{sock.getsockname()[1]}")


def _run(settings: "Settings", sock: Any, address: str) -> None:
    from gtsa_kit.cli.support.progress import console
    from gtsa_kit.service.server import serve as serve_here
    from gtsa_kit.service.server import serve_workers

    shown = console()
    if settings.workers == 1:
        app, pending, provider = open_app(settings)
        shown.print(f"{settings.artifact.name} in {provider}, on {address}", soft_wrap=True)

        def drain() -> None:
            pending.draining = True

        serve_here(app, settings, sock, drain)
        return
    shown.print(f"{settings.artifact.name} in {settings.workers} processes, on {address}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="gtsa-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        if not serve_workers(partial(worker_app, settings), settings, sock):
            fail("a worker could not start", 1)


def open_app(settings: "Settings") -> tuple[Any, Any, str]:
    """Open the artifact: the application, what it has taken on, and what computes."""
    import torch

    from gtsa_kit.export import load
    from gtsa_kit.service.app import create_app

    if settings.workers > 1:  # they share the cores
        torch.set_num_threads(max(1, torch.get_num_threads() // settings.workers))
    runner = load(settings.artifact, settings.device)
    mute_libraries()
    app, pending = create_app(runner, settings)
    return app, pending, runner.provider


def mute_libraries() -> None:
    """Leave standard error to Python.

    libtiff prints a line for each broken file: clients could fill a log with them, or a pipe that nobody reads, which
    would stop the threads that decode.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def worker_app(settings: "Settings") -> Any:
    """The application of one worker; one that can't be made ends all of them."""
    from uvicorn.config import STARTUP_FAILURE

    try:
        return open_app(settings)[0]
    except (ValueError, OSError) as error:
        fail(str(error), STARTUP_FAILURE)
