"""A plain HTTP/1.1 client: many requests at little cost, and requests that no library would send."""

import asyncio
import re
import socket
from collections.abc import Sequence

# A path, a trace, a module, a version, an address in memory.
LEAKS = re.compile(
    rb"/(usr|home|tmp|root|work|opt)/|Traceback|\.py\b|site-packages|0x[0-9a-f]{6}|pillow|PIL|uvicorn|starlette|fastapi|"
    rb"pydantic|torch|numpy|onnx|libtiff|[0-9]+\.[0-9]+\.[0-9]+",
    re.IGNORECASE,
)


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """The bytes of a request; underscores in names of headers stand for dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if "Content_Length" not in headers and "Transfer_Encoding" not in headers and (body or method == "POST"):
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes
) -> tuple[int, dict[str, str], bytes]:
    """One request on an open connection: status, headers in lower case, body."""
    writer.write(content)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


async def ask_many(port: int, requests: Sequence[bytes], at_a_time: int) -> list[tuple[int, dict[str, str], bytes]]:
    """All of them, over `at_a_time` connections that stay open; answers in the order of the requests."""
    answers: dict[int, tuple[int, dict[str, str], bytes]] = {}
    todo = iter(enumerate(requests))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i, content in todo:
            answers[i] = await ask(reader, writer, content)
            if answers[i][1].get("connection") == "close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(work() for _ in range(at_a_time)))
    return [answers[i] for i in range(len(requests))]


def raw(port: int, content: bytes, seconds: float = 10.0) -> bytes:
    """Everything that comes back until the service closes, or is silent for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(content)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def status_of(answer: bytes) -> int:
    """Of a raw answer; 0 if there was none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
