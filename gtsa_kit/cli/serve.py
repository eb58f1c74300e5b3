"""The `gtsa serve` command."""

import json
import logging
import os
import sys
import tempfile
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gtsa_kit.cli.support.common import fail, quick_imports, require
from gtsa_kit.cli.support.options import ClassTokenOption, LayersOption, ModelOptions, with_option_groups
from gtsa_kit.cli.support.parsing import parse_heads, parse_layers

if TYPE_CHECKING:
    from gtsa_kit.service.settings import ServiceSettings


@with_option_groups
def serve(
    artifact: Annotated[
        Path,
        typer.Argument(
            help="Exported file, run folder, or .safetensors, of an encoder or a fine-tuned model.", metavar="ARTIFACT"
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 listens on the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 selects a free port.")] = 8000,
    layers: LayersOption = None,
    class_token: ClassTokenOption = False,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="Run this head on the features of the encoder: a run of gtsa finetune --freeze, or the file of its "
            "gtsa export --part head; repeatable. Default: none.",
            metavar="NAME=HEAD",
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Maximum images per batch at the artifact's own size; fewer at larger sizes. Default: two for each "
            "CPU thread, 4 to 32; on a GPU 32."
        ),
    ] = None,
    max_wait_ms: Annotated[
        float, typer.Option(help="Milliseconds that a partial batch waits for images that are being decoded.")
    ] = 5.0,
    max_pending: Annotated[
        int, typer.Option(help="Maximum images that wait for a response; above it, requests get 503.")
    ] = 256,
    max_image_mb: Annotated[
        float, typer.Option(help="Maximum size of an image file, MiB; above it, requests get 413.")
    ] = 20.0,
    max_pixels: Annotated[
        int, typer.Option(help="Maximum pixels of an image, by its header; above it, requests get 422.")
    ] = 50_000_000,
    max_size: Annotated[int, typer.Option(help="Maximum height and width of the model's input.")] = 1024,
    token: Annotated[
        str | None,
        typer.Option(help="Require this token: Authorization: Bearer TOKEN. Default: none.", envvar="GTSA_TOKEN"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of processes, each with its own model.")] = 1,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            help="Let web pages of this origin use the service; repeatable, * allows all. Default: none.",
            metavar="ORIGIN",
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path prefix under which a proxy publishes the service: /features.", metavar="PATH")
    ] = "",
    samples: Annotated[
        Path | None, typer.Option(help="Folder of sample images for the page. Default: a few installed ones.")
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            help="Channels that pictures on the page show, counted from 1: three as red, green, blue (4,3,2), or one "
            "as gray. Default: the first three. Not for 8-bit RGB.",
            metavar="CHANNELS",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one line of JSON on standard output when ready: url, model, outputs, limits."
        ),
    ] = False,
    *,
    opening: ModelOptions,
) -> None:
    """Serve features, masks, classes and detections over HTTP, with a web page that displays them.

    POST /v1/features, /v1/embeddings (for OpenAI's clients), /v1/similarity of an encoder; /v1/segment, /v1/classify,
    /v1/detect of a fine-tuned model or of heads; GET /, /docs, /health, /ready, /metrics.
    After SIGTERM or Ctrl-C the accepted requests are answered, then the service ends. There is no --size: each request
    may name one (?size=480x640).
    Images are files of the channels that the model was trained with: JPEG, PNG and others, TIFF, arrays
    (application/x-npy), DICOM; /v1/model says which.

    [bold]Examples[/bold]

      gtsa serve runs/street/encoder.onnx

      gtsa serve runs/street/encoder.onnx --head road=runs/road --head defects=runs/defects

      curl -H 'Content-Type: image/jpeg' --data-binary @1.jpg 'localhost:8000/v1/features?format=npz' > 1.npz

      curl -H 'Content-Type: image/tiff' --data-binary @scene.tif 'localhost:8000/v1/features?format=npz' > scene.npz
    """
    require(artifact)
    if samples:
        require(samples)
    heads = parse_heads(head or [])
    load_options = opening.load_options(parse_layers(layers), class_token)
    print(f"loading {artifact}", file=sys.stderr, flush=True)
    try:
        from gtsa_kit.service.server import check_uvicorn_version, listen
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'gtsa-kit[serve]'") from error
    from gtsa_kit.service.settings import ServiceSettings

    check_uvicorn_version()
    sock = listen(host, port)
    settings = ServiceSettings(
        artifact,
        load=load_options,
        heads=heads,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_pending=max_pending,
        max_image_mb=max_image_mb,
        max_pixels=max_pixels,
        max_size=max_size,
        token=token,
        workers=workers,
        cors=tuple(cors or ()),
        root_path=root_path.rstrip("/"),
        samples=samples,
        show=show,
    )
    url_host = f"[{host}]" if ":" in host else host
    _run(settings, sock, f"http://{url_host}:{sock.getsockname()[1]}", as_json)


def _run(settings: "ServiceSettings", sock: Any, url: str, as_json: bool) -> None:
    from gtsa_kit.cli.support.progress import make_console
    from gtsa_kit.service.server import serve as serve_single
    from gtsa_kit.service.server import serve_workers

    stderr = make_console()
    if "*" in settings.cors:
        stderr.print("note: every web page that a user of this network opens may use the service (--cors *)")
    if as_json:
        threading.Thread(target=_print_ready, args=(settings, sock, url), daemon=True).start()
    if settings.workers == 1:
        app, limiter, provider = create_loaded_app(settings)
        if not as_json:
            stderr.print(f"{settings.artifact.name} in {provider}, on {url}", soft_wrap=True)

        def start_draining() -> None:
            limiter.draining = True

        serve_single(app, settings, sock, start_draining)
        return
    if not as_json:
        stderr.print(f"{settings.artifact.name} in {settings.workers} processes, on {url}", soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="gtsa-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        if not serve_workers(partial(create_worker_app, settings), settings, sock):
            fail("a worker could not start", 1)


def _print_ready(settings: "ServiceSettings", sock: Any, url: str) -> None:
    """Print the line of --json once the service answers."""
    from gtsa_kit.service.readiness import describe_ready

    if (line := describe_ready(settings, sock, url)) is not None:
        print(json.dumps(line), flush=True)


def create_loaded_app(settings: "ServiceSettings") -> tuple[Any, Any, str]:
    """Load the artifact and return the application, its admission limiter and the name of the provider."""
    with quick_imports():
        from gtsa_kit.hardware import share_cores
        from gtsa_kit.service.app import create_app

    if settings.workers > 1:
        share_cores(settings.workers)
    model, heads, provider = _open_model(settings)
    silence_native_libraries()
    app, limiter = create_app(model, settings, heads)
    return app, limiter, provider


def _open_model(settings: "ServiceSettings") -> tuple[Any, Any, str]:
    """Open the artifact and its heads; return them with the name of the provider."""
    with quick_imports():
        from gtsa_kit.cli.support.opening import open_runner
        from gtsa_kit.cli.support.progress import make_console
        from gtsa_kit.extras import require as require_extra
        from gtsa_kit.tasks.heads import open_with_heads
        from gtsa_kit.tasks.predictor import as_predictor

    console, path = make_console(), settings.artifact
    runner, heads = open_with_heads(
        path, settings.load, dict(settings.heads), lambda path, options: open_runner(path, options, console)
    )
    if runner.manifest.kind == "task" or heads:
        require_extra("torch", "masks and classes")
    model = as_predictor(runner, path) if runner.manifest.kind == "task" else runner
    return model, heads, runner.provider


def silence_native_libraries() -> None:
    """Send the native standard error to /dev/null and keep Python's own `sys.stderr`, without warnings of readers.

    libtiff and others print a line for each invalid file. Clients could fill a log with them, or a pipe that nobody
    reads, which would block the decoding threads.
    """
    for reader in ("tifffile", "pydicom"):
        logging.getLogger(reader).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=reader)
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)


def create_worker_app(settings: "ServiceSettings") -> Any:
    """Return the application of one worker; if it can't be created, all workers end."""
    from uvicorn.config import STARTUP_FAILURE

    try:
        return create_loaded_app(settings)[0]
    except (ValueError, OSError) as error:
        fail(str(error), STARTUP_FAILURE)
