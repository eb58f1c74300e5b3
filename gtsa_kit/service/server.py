"""uvicorn, with an end to its patience and a clean one to its work."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gtsa_kit.service.middleware import HEADER_BYTES
from gtsa_kit.service.settings import Settings

BACKLOG = 2048


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that lets clients go which send no whole headers, or do not take what they asked for."""

    header_seconds = 10.0
    """For first line and headers."""
    write_seconds = 15.0
    """In which `write_bytes` of an answer must be taken, or all of it."""
    write_bytes = 1 << 20

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: asyncio.TimerHandle | None = None
        self._write_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client; its headers are due."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Some of a request, which may be less than its headers."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._expect_headers()
        else:
            _cancel(self._headers_due)
            self._headers_due = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        _cancel(self._headers_due)
        _cancel(self._write_due)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More of an answer is waiting than the connection takes at once."""
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has taken it."""
        _cancel(self._write_due)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Say so, unless an answer is under way already: then nothing sound can follow it."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _watch_writing(self, before: int) -> None:
        def look() -> None:
            now = self.transport.get_write_buffer_size()
            if now > before - self.write_bytes:
                self.transport.abort()
            else:
                self._watch_writing(now)

        self._write_due = self.loop.call_later(self.write_seconds, look)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class DrainingServer(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C when what was accepted has been answered, and returns: that is no failure."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own would raise the signal again at the end."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.on_stop()
            self.handle_exit(number, frame)

        if threading.current_thread() is not threading.main_thread():  # signals come to the main thread only
            yield
            return
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def configure(app: Any, settings: Settings, factory: bool = False) -> uvicorn.Config:
    """Uvicorn's settings: no names or versions in headers, no web sockets, bounded headers."""
    return uvicorn.Config(
        app,
        factory=factory,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        interface="asgi3",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=settings.drain_seconds,
        backlog=BACKLOG,
        workers=settings.workers,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        OSError: The address is taken, or is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # What is accepted inherits it; asyncio sets it only where it made the socket. Without it the last piece of an
    # answer waits 40 ms for the client's acknowledgement of the first.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(app: ASGIApp, settings: Settings, sock: socket.socket, on_stop: Callable[[], None]) -> None:
    """Serve in this process until SIGTERM or Ctrl-C."""
    DrainingServer(configure(app, settings), on_stop).run([sock])


def serve_workers(make: Callable[[], ASGIApp], settings: Settings, sock: socket.socket) -> bool:
    """Serve in `settings.workers` processes, each with a model of its own, until SIGTERM or Ctrl-C.

    Args:
        make: Opens the artifact in a worker; importable, since workers are fresh processes.
        settings: Of all of them.
        sock: Shared by all.

    Returns:
        False if a worker could not start.
    """
    from uvicorn.supervisors import Multiprocess

    supervisor = Multiprocess(configure(make, settings, factory=True), [sock])
    supervisor.run()
    return all(process.exitcode != uvicorn.config.STARTUP_FAILURE for process in supervisor.processes)
