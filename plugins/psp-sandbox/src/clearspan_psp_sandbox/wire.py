"""How an answer goes out: whole, as a stream that a fault makes strange, or not at all."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from clearspan_psp_sandbox.desk import Reply
from clearspan_psp_sandbox.faults import Cut

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` that lets ``close`` reset the connection instead of ending it."""


class Stream(msgspec.Struct, frozen=True):
    """An answer that comes in pieces.

    Attributes:
        chunks: ends, goes on without end, or raises ``Cut``.
    """

    status: int
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]


async def put(reply: Reply, send: Send) -> None:
    """A whole answer."""
    status, body, headers = reply
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def stream(answer: Stream, send: Send) -> None:
    """Piece by piece, as long as somebody listens."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    async for chunk in answer.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if getattr(getattr(send, "__self__", None), "disconnected", False):
            return
    await send({"type": "http.response.body", "body": b""})


async def cut(fault: Cut, receive: Receive, send: Send, *, reset: bool) -> None:
    """End the connection without (the rest of) an answer.

    ASGI has no word for this, so it reaches for the transport of uvicorn's request cycle, whose method ``send`` is. In process
    there is none, and the caller gets the fault itself.

    Args:
        reset: with a TCP reset, which throws away what is not delivered yet; else after it.

    Raises:
        Cut: there is no connection.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise fault
    if reset:
        # Through a duplicate of the descriptor: uvloop does not hand out its own socket.
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    else:
        transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass
