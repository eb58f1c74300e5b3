"""uvicorn server with timeouts for slow clients, a graceful shutdown and several workers."""

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gtsa_kit.service.middleware import MAX_HEADER_BYTES
from gtsa_kit.service.settings import ServiceSettings

BACKLOG: Final = 2048
"""Maximum number of connections that wait to be accepted."""
UVICORN_VERSIONS: Final = ((0, 54), (0, 55))
"""First supported and first unsupported version of uvicorn, as in the `serve` extra of pyproject.toml.

uvicorn has no timeout for headers or for slow readers (github.com/Kludex/uvicorn/issues/157), so this module extends
classes that uvicorn does not document: `H11Protocol` (its attributes `conn`, `loop`, `transport` and its method
`send_400_response`), `Server.capture_signals` and `Server.handle_exit`, `Multiprocess.processes`. It is tested with
these versions only; raise the bounds together with the tests of tests/service.
"""


def check_uvicorn_version(version: str = uvicorn.__version__) -> None:
    """Check that the installed uvicorn is one that this module was tested with.

    Raises:
        RuntimeError: It is not.
    """
    first, end = UVICORN_VERSIONS
    if not first <= tuple(int(part) for part in version.split(".")[:2]) < end:
        supported = f">={first[0]}.{first[1]},<{end[0]}.{end[1]}"
        raise RuntimeError(f"uvicorn {version} is not supported; pip install 'uvicorn{supported}'")


class TimeoutH11Protocol(H11Protocol):
    """HTTP/1.1 protocol that closes the connection of a client that sends headers or reads the response too slowly."""

    header_timeout = 10.0
    """Seconds in which the request line and the headers must arrive."""
    write_timeout = 15.0
    """Seconds in which the client must read `min_write_bytes` of the response, or the rest of it."""
    min_write_bytes = 1 << 20
    """Bytes that the client must read within each `write_timeout`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the header timeout of a new connection."""
        super().connection_made(transport)
        self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Stop the header timeout once the headers are complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._start_header_timer()
        else:
            _cancel(self._header_timer)
            self._header_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        _cancel(self._header_timer)
        _cancel(self._write_timer)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the write timeout, because the client reads more slowly than the response is written."""
        super().pause_writing()
        self._start_write_timer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop the write timeout, because the client has caught up."""
        _cancel(self._write_timer)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request with 400, or close the connection if a response has already been started."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_timeout, self.transport.abort)

    def _start_write_timer(self, buffered: int) -> None:
        def check_progress() -> None:
            still_buffered = self.transport.get_write_buffer_size()
            if still_buffered > buffered - self.min_write_bytes:
                self.transport.abort()
            else:
                self._start_write_timer(still_buffered)

        self._write_timer = self.loop.call_later(self.write_timeout, check_progress)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class DrainingServer(uvicorn.Server):
    """Server that answers all accepted requests after SIGTERM or Ctrl-C and then returns normally."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; uvicorn's own method would raise the signal again at the end."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.on_stop()
            self.handle_exit(number, frame)

        if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
            yield
            return
        previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)


def build_uvicorn_config(app: Any, settings: ServiceSettings, factory: bool = False) -> uvicorn.Config:
    """Return uvicorn's configuration: no names or versions in headers, no web sockets, limited headers.

    Raises:
        RuntimeError: The installed uvicorn is not supported.
    """
    check_uvicorn_version()
    return uvicorn.Config(
        app,
        factory=factory,
        http=TimeoutH11Protocol,
        ws="none",
        loop="asyncio",
        interface="asgi3",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=settings.drain_timeout,
        backlog=BACKLOG,
        workers=settings.workers,
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 selects a free port.

    Raises:
        ValueError: The port is in use, or the address does not belong to this machine.
        OSError: The socket can't be opened for another reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = "choose another with --port, or --port 0 for any free one"
            raise ValueError(f"port {port} is in use; {hint}") from error
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            raise ValueError(f"{host} is no address of this machine; choose another --host") from error
        raise
    # Accepted connections inherit the option; asyncio sets it only on sockets that it created itself. Without it the
    # last packet of a response waits 40 ms for the client's acknowledgment of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(app: ASGIApp, settings: ServiceSettings, sock: socket.socket, on_stop: Callable[[], None]) -> None:
    """Serve in this process until SIGTERM or Ctrl-C."""
    DrainingServer(build_uvicorn_config(app, settings), on_stop).run([sock])


def serve_workers(app_factory: Callable[[], ASGIApp], settings: ServiceSettings, sock: socket.socket) -> bool:
    """Serve in `settings.workers` processes, each with its own model, until SIGTERM or Ctrl-C.

    Args:
        app_factory: Opens the artifact in a worker. It must be importable, since workers are new processes.
        settings: Settings of every worker.
        sock: Listening socket that all workers share.

    Returns:
        False if a worker could not start.
    """
    from uvicorn.supervisors import Multiprocess

    supervisor = Multiprocess(build_uvicorn_config(app_factory, settings, factory=True), [sock])
    supervisor.run()
    return all(process.exitcode != uvicorn.config.STARTUP_FAILURE for process in supervisor.processes)
