"""Reading of request bodies with limits on their size, memory and time; gzip is unpacked as it arrives."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request

from gtsa_kit.service.admission import Reservation
from gtsa_kit.service.errors import APIError, invalid_parameter, too_large, unsupported_media_type

GZIP: Final = ("gzip", "x-gzip")
_PIECE: Final = 1 << 20
"""Bytes that are unpacked at a time; other requests run in between."""


async def read_body(request: Request, reservation: Reservation, limit: int, timeout: float) -> bytes:
    """Read the whole body and count its bytes in `reservation` as they arrive.

    Args:
        request: Request whose body has not been read.
        reservation: Capacity that the request holds.
        limit: Maximum size, bytes; of a body in gzip, its unpacked size.
        timeout: Seconds in which the body must arrive.

    Raises:
        APIError: 413 if the declared or actual size exceeds `limit`, 408 after `timeout`, 415 for another content
            encoding, 422 if the gzip is damaged.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", *GZIP):
        raise unsupported_media_type("send the body in gzip, or without a content encoding", "content-encoding")
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdecimal():
        raise APIError(400, "bad_request", "Content-Length is not a number", "content-length")
    if int(declared) > limit:
        raise too_large("the body", limit)
    stream = _unpack(request.stream()) if encoding in GZIP else request.stream()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            async for chunk in stream:
                size += len(chunk)
                if size > limit:
                    raise too_large("the body", limit)
                reservation.acquire(size=len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        raise APIError(408, "timeout", f"the body did not arrive within {timeout:g} s") from error
    return b"".join(filter(None, chunks))  # `join` does not copy a single chunk


async def _unpack(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the content of a gzip stream, of one or several members, in pieces of at most `_PIECE` bytes."""
    unpacker = _new_unpacker()
    begun = False
    async for packed in stream:
        while packed:
            if unpacker.eof:
                unpacker, begun = _new_unpacker(), False
            try:
                piece = unpacker.decompress(packed, _PIECE)
            except zlib.error as error:
                raise invalid_parameter("body", "is not valid gzip") from error
            begun = True
            packed = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            yield piece
            await asyncio.sleep(0)
    if begun and not unpacker.eof:
        raise invalid_parameter("body", "ends within its gzip data")


def _new_unpacker() -> "zlib._Decompress":
    return zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with the header and the checksum of gzip
