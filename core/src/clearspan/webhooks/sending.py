"""One try: the event as it is now, signed, posted to where the guard lets us, and what came back. No database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import aiohttp
import httpx
import msgspec

from clearspan.platform import addresses, clock, outbound
from clearspan.platform.addresses import Guard
from clearspan.platform.pan import mask_pan
from clearspan.settings import WebhookSettings
from clearspan.webhooks.models import read_retry_after

CONNECT_TIMEOUT_S = 3.0
KEEPALIVE_S = 4.0
"""Below the five seconds after which Node.js and uvicorn close an idle connection: ours is not sent into a closing one."""
ANSWER_MAX = 1024
_READ_MAX = ANSWER_MAX + 64
"""A card number that begins within the kept kilobyte is read to its end, so that it is seen and masked."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What a try came to.

    Attributes:
        status: of the answer, ``None`` when there was none.
        error: why there was none.
        answer: its first kilobyte, card numbers masked.
        retry_after_s: as the consumer asked.
    """

    at: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    answer: str = ""
    retry_after_s: int | None = None

    @property
    def delivered(self) -> bool:
        """Only a 2xx says that the consumer has it; a redirect does not."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """The HTTP client of webhooks.

    Args:
        guard: where it may connect to.
        settings: time and parallelism.

    Attributes:
        guard: the same.
    """

    def __init__(self, guard: Guard, settings: WebhookSettings) -> None:
        self.guard = guard
        self._http = outbound.client(
            min(CONNECT_TIMEOUT_S, settings.timeout_s),
            settings.timeout_s,
            guard=guard,
            connections_max=settings.concurrency,
            keepalive_s=KEEPALIVE_S,
        )

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
        """Send once. Never raises for what the other side does."""
        at, began = clock.now(), clock.monotonic()
        status, error, retry_after_s, answer = None, None, None, bytearray()
        request = self._http.build_request(
            "POST",
            url,
            content=body,
            headers={
                "content-type": "application/json",
                "user-agent": "Clearspan-Webhooks/1.0",
                # The kilobyte is kept as it comes.
                "accept-encoding": "identity",
                **headers,
            },
        )
        try:
            response = await self._http.send(request, stream=True)
            status = response.status_code
            retry_after_s = read_retry_after(response.headers.get("retry-after"), at)
            try:
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) >= _READ_MAX:
                        break
            finally:
                await response.aclose()
        except httpx.TransportError as failure:
            # With a status the consumer has spoken; the rest of its answer is for people only.
            error = None if status is not None else _why(failure)
        return Exchange(
            at=at,
            duration_ms=round((clock.monotonic() - began) * 1000),
            status=status,
            error=error,
            answer=_kept(bytes(answer)),
            retry_after_s=retry_after_s,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _why(error: httpx.TransportError) -> str:
    if addresses.refusal(error) is not None:
        return "address_refused"
    if isinstance(error.__cause__, aiohttp.ClientSSLError):
        return "tls_failed"
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)):
        return "connect_failed"
    return "timeout" if isinstance(error, httpx.TimeoutException) else "connection_lost"


def _kept(answer: bytes) -> str:
    """Masked before it is cut. PostgreSQL stores no NUL."""
    return mask_pan(answer[:_READ_MAX].decode("utf-8", "replace"))[:ANSWER_MAX].replace("\0", "\ufffd")
