"""How an answer's bytes reach the client: whole, or as a fault wants them.

ASGI cannot send half a body or reset a connection, so these write to uvicorn's transport, which `lore.demo.server`
puts into the scope.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from lore.demo.answers import Answer
from lore.demo.model import Json

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Wire:
    """The way back to the client."""

    receive: Receive
    send: Send
    transport: asyncio.Transport

    async def whole(self, answer: Answer) -> None:
        """Send the answer as it is."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        if answer.status not in (204, 304):
            headers.append((b"Content-Length", str(len(answer.body)).encode()))
        await self.send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": answer.body})

    def raw(self, data: bytes) -> None:
        """Write bytes past uvicorn."""
        self.transport.write(data)

    async def gone(self) -> None:
        """Wait for the connection's end; uvicorn would else answer 500 after what was written past it."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def reset(self) -> None:
        """End the connection by RST: what was not sent yet is thrown away."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


Delivery = Callable[[Wire, Answer, Json], Awaitable[None]]


def head(answer: Answer, *, framing: str) -> bytes:
    """Return status line and headers as bytes; `framing` is the header that says how long the body is."""
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return ("\r\n".join([*lines, framing]) + "\r\n\r\n").encode("latin-1")


def length(answer: Answer) -> str:
    """Return the framing of a whole body."""
    return f"Content-Length: {len(answer.body)}"


async def reset(wire: Wire, answer: Answer, options: Json) -> None:
    """RST. Option `at`: `request` (nothing was answered, default), `headers` (they were) or `body` (half of it)."""
    at = options.get("at", "request")
    if at != "request":
        wire.raw(head(answer, framing=length(answer)))
        if at == "body":
            wire.raw(answer.body[: len(answer.body) // 2])
        await _drained(wire)
    wire.reset()


async def truncated(wire: Wire, answer: Answer, options: Json) -> None:
    """Close before the body's end.

    Options: `cut`: bytes sent (default half); `chunked`: without its last chunk, not short of its Content-Length.
    """
    cut = int(options.get("cut", len(answer.body) // 2))
    part = answer.body[: min(cut, len(answer.body) - 1)]
    if options.get("chunked"):
        wire.raw(head(answer, framing="Transfer-Encoding: chunked") + b"%x\r\n%b\r\n" % (len(part), part))
    else:
        wire.raw(head(answer, framing=length(answer)) + part)
    wire.transport.close()


async def closed(wire: Wire, answer: Answer, options: Json) -> None:
    """FIN without any answer, as a keep-alive connection ends that was idle for too long."""
    wire.transport.close()


async def slow_drip(wire: Wire, answer: Answer, options: Json) -> None:
    """Send slowly.

    Options: `bytes_per_s` (default 100); `stall_s`: wait so long `at` `headers` (before them) or `body` (after them,
    default).
    """
    stall = float(options.get("stall_s", 0))
    if options.get("at") == "headers":
        await _pause(wire, stall)
    wire.raw(head(answer, framing=length(answer)))
    if options.get("at", "body") == "body":
        await _pause(wire, stall)
    # Ten sips a second, so that the rate is what was asked for and no timer is shorter than the loop's grain.
    sip = max(int(options.get("bytes_per_s", 100)) // 10, 1)
    for start in range(0, len(answer.body), sip):
        if wire.transport.is_closing():
            return
        wire.raw(answer.body[start : start + sip])
        await asyncio.sleep(0.1)
    wire.transport.close()


async def big_body(wire: Wire, answer: Answer, options: Json) -> None:
    """Stream `mb` megabytes (default 50) of one JSON list, chunked, in pieces of 1 MB."""
    wire.raw(head(answer, framing="Transfer-Encoding: chunked"))
    piece = b'{"id":0,"title":"' + b"x" * (1_000_000 - 20) + b'"},'
    chunks = [b"[", *([piece] * int(options.get("mb", 50))), b"{}]"]
    for chunk in chunks:
        if wire.transport.is_closing():
            return
        wire.raw(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await _drained(wire)
    wire.raw(b"0\r\n\r\n")
    wire.transport.close()


async def _pause(wire: Wire, seconds: float) -> None:
    """Wait, but not for a client that has gone, so that no stalled answer outlives its connection."""
    for _ in range(round(seconds * 20)):
        if wire.transport.is_closing():
            return
        await asyncio.sleep(0.05)


async def _drained(wire: Wire) -> None:
    while wire.transport.get_write_buffer_size() and not wire.transport.is_closing():
        await asyncio.sleep(0.001)


DELIVERIES: dict[str, Delivery] = {
    "reset": reset,
    "truncated": truncated,
    "closed": closed,
    "slow_drip": slow_drip,
    "big_body": big_body,
}
