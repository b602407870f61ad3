"""Messages of a PSP, true ones and forged ones, for ``PspConformance``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import clearspan.sdk as sdk
from clearspan.sdk.testing.server import Exchange

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""The time in every run."""


@dataclasses.dataclass(frozen=True)
class Delivery:
    """A message as it comes.

    Attributes:
        body: the raw bytes.
        headers, query: of the request; header names in any case.
        at: when it is received.
        config: settings that differ from ``config(url)``: the secret of a published vector.
        exchanges: answers to what the adapter asks to check or read it.
        news: what must come out, in order (``sdk.OperationNews`` …; ``type(None)`` for an event of no interest); ``None``:
            anything.
    """

    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    query: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at: datetime = NOW
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    exchanges: Sequence[Exchange] = ()
    news: Sequence[type[Any]] | None = None

    def told(self, url: str) -> sdk.WebhookDelivery:
        """As the core hands it over; ``<url>`` in headers is the scripted server's address."""
        return sdk.WebhookDelivery(
            headers={name.lower(): value.replace("<url>", url) for name, value in self.headers.items()},
            body=self.body,
            query=dict(self.query),
            received_at=self.at,
        )


class SignedWebhooks:
    """The part of ``PspConformance`` that a plugin fills in about messages.

    Attributes:
        webhooks: messages that must be believed as they are: published vectors, documented samples.
        webhook_body: of a message about a charge, to be signed by ``sign``; by default the first one of ``webhooks``.
        webhook_secret: what signs the messages of the account of ``config``; ``foreign_secret``: another account's.
        webhook_exchanges: answers to what the adapter asks to check or read any message (a certificate); each may be asked for
            again.
        signs_time: the signature covers a time, so that an old message can be told.
        signs_bytes: it covers the raw body. ``False`` where it covers chosen fields; ``tampered`` then says what is changed.
    """

    webhooks: ClassVar[Sequence[Delivery]] = ()
    webhook_body: ClassVar[bytes] = b""
    webhook_secret: ClassVar[str] = ""
    foreign_secret: ClassVar[str] = ""
    webhook_exchanges: ClassVar[Sequence[Exchange]] = ()
    signs_time: ClassVar[bool] = True
    signs_bytes: ClassVar[bool] = True

    def sign(self, body: bytes, *, secret: str, at: datetime) -> Delivery:
        """A message as the PSP signs it at a time. Source: the PSP's documentation, not the adapter.

        A body that cannot be signed (with signatures over fields) comes back unsigned.
        """
        raise NotImplementedError("say how the PSP signs: override sign()")

    def sign_twice(self, body: bytes, *, secrets: Sequence[str], at: datetime) -> Delivery | None:  # noqa: ARG002  (for heirs)
        """A message with a signature by each secret; ``None`` when the PSP never sends such."""
        return None

    def unsigned(self, signed: Delivery) -> Delivery:
        """The message without its signature."""
        return dataclasses.replace(signed, headers={})

    def tampered(self, signed: Delivery) -> Delivery:
        """The message with another content under the same signature: a digit more."""
        at = next((index for index, byte in enumerate(signed.body) if chr(byte).isdigit()), 0)
        return dataclasses.replace(signed, body=signed.body[: at + 1] + b"7" + signed.body[at + 1 :])

    def forged(self) -> Iterator[tuple[str, Delivery]]:
        """The messages that must be refused (W4), each with what is wrong with it."""
        body, mine, foreign = self.message(), self.webhook_secret, self.foreign_secret
        good = self.sign(body, secret=mine, at=NOW)
        other = self.sign(body, secret=foreign, at=NOW)
        yield "without a signature", self.unsigned(good)
        yield "signed with another account's secret", other
        yield "another content under the signature", self.tampered(good)
        for name in [name for name, value in good.headers.items() if other.headers.get(name) != value]:
            value = good.headers[name]
            middle = len(value) * 3 // 4
            swapped = "0" if value[middle] != "0" else "1"
            for what, wrong in (
                ("empty", ""),
                ("garbage", "garbage"),
                ("cut off", value[: len(value) // 2]),
                ("changed in one place", value[:middle] + swapped + value[middle + 1 :]),
                ("not ASCII", value[:middle] + "é" + value[middle + 1 :]),
            ):
                yield f"{name} {what}", dataclasses.replace(good, headers={**good.headers, name: wrong})
        if self.signs_bytes:
            yield "body with a space more", dataclasses.replace(good, body=body + b" ")
            for what, again in _written_again(body):
                yield f"body written again {what}", dataclasses.replace(good, body=again)
        if self.signs_time:
            hour = timedelta(hours=1)
            for what, at in (("an hour old", NOW - hour), ("an hour from the future", NOW + hour)):
                signed = self.sign(body, secret=mine, at=at)
                yield what, signed
                then, now = str(int(at.timestamp())), str(int(NOW.timestamp()))
                fresh = {name: value.replace(then, now) for name, value in signed.headers.items()}
                if fresh != dict(signed.headers):
                    yield f"{what}, made to look fresh", dataclasses.replace(signed, headers=fresh)

    def message(self) -> bytes:
        """The body that is signed."""
        return self.webhook_body or (self.webhooks[0].body if self.webhooks else b"")


UNREADABLE = (
    b"",
    b"{}",
    b"[]",
    b"[1]",
    b"null",
    b'"text"',
    b"{",
    b"\xff\xfe\x00",
    b'{"type": 5, "id": null, "data": "text"}',
    b"[" * 5_000,
)
"""Bodies that are signed and no messages."""


def _written_again(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The same JSON in other words."""
    try:
        value = json.loads(body)
    except ValueError:
        return
    ways: dict[str, bytes] = {
        "with other spaces": json.dumps(value, separators=(" ,  ", " :  ")).encode(),
        "compactly": json.dumps(value, separators=(",", ":")).encode(),
        "over lines": json.dumps(value, indent=2).encode(),
        "in another order": json.dumps(_backwards(value), separators=(",", ":")).encode(),
        "with its names sorted": json.dumps(value, sort_keys=True).encode(),
    }
    yield from ((what, again) for what, again in ways.items() if again != body)


def _backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _backwards(one) for name, one in reversed(value.items())}
    return [_backwards(one) for one in value] if isinstance(value, list) else value
