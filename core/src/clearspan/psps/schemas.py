"""Requests and answers of the PSP accounts API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta

from clearspan.platform import ids
from clearspan.platform.gate import WEBHOOKS

Config = Annotated[
    dict[str, Any],
    Meta(
        max_length=50,
        description="The adapter's settings; sealed on arrival and never shown again.",
        examples=[{"url": "http://127.0.0.1:8081", "api_key": "sk_sandbox_alpha"}],
    ),
]
Priority = Annotated[int, Meta(ge=0, le=10_000, description="Lower is tried first.", examples=[10])]


class PspAccountCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Add an account at a PSP."""

    psp: Annotated[str, Meta(min_length=1, max_length=40, description="The adapter's name.", examples=["sandbox"])]
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}(?!\s)$", examples=["alpha"])]
    config: Config
    priority: Priority = 100


class PspAccountUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change an account; what is left out stays."""

    priority: Priority | None = None
    status: Literal["enabled", "disabled"] | None = None
    config: Config | None = None


class PspAccountOut(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP account, without its settings."""

    id: str
    object: Literal["psp_account"]
    live: bool
    psp: str
    name: str
    priority: int
    status: Literal["enabled", "disabled"]
    config_version: int
    webhook_url: Annotated[
        str | None,
        Meta(
            description="Where the PSP sends its messages about this account: enter it in the PSP's dashboard. Null while"
            " server.public_url is not known.",
            examples=["https://pay.example.com/webhooks/whk_mfrggzdfmztwq2lkmfrggzdfmztwq2lk"],
        ),
    ]
    sequence: int
    created_at: datetime
    updated_at: datetime
    health: Annotated[
        dict[str, Literal["closed", "open", "half_open"]],
        Meta(
            description="By kind of call, as the answering process sees it: closed (calls are made), open (they are not), "
            "half_open (one tries). Each process counts for itself.",
            examples=[{"charge": "closed", "refund": "open"}],
        ),
    ] = {}
    problem: Annotated[
        str | None,
        Meta(
            description="What the PSP said when it last refused these settings, as the answering process saw it; null while it"
            " takes them, or nobody has asked.",
        ),
    ] = None

    @classmethod
    def of(cls, row: Any, public_url: str) -> PspAccountOut:
        """From the columns of ``psp_accounts`` and ``server.public_url``."""
        return cls(
            id=ids.encode("acct", row.psp_account_id),
            object="psp_account",
            live=row.live,
            psp=row.psp,
            name=row.name,
            priority=row.priority,
            status=row.status,
            config_version=row.config_version,
            webhook_url=webhook_url(public_url, row.webhook_token),
            sequence=row.sequence,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


CheckStatus = Literal["ok", "misconfigured", "unreachable", "unclear", "not_supported"]


class PspAccountCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a PSP says about an account's settings."""

    object: Literal["psp_account_check"]
    psp_account: str
    status: Annotated[
        CheckStatus,
        Meta(
            description="`ok`: the PSP takes them. `misconfigured`: it answered and does not. `unreachable`: nothing was sent."
            " `unclear`: no answer that says anything. `not_supported`: the plugin cannot ask."
        ),
    ]
    message: str


class PspAccountList(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts of a mode."""

    object: Literal["list"]
    data: list[PspAccountOut]


def webhook_url(public_url: str, token: str) -> str | None:
    """An account's webhook address, or ``None`` while nobody knows this installation's."""
    return f"{public_url}{WEBHOOKS}/{token}" if public_url else None


WebhookState = Literal["received", "applied", "parked", "ignored", "needs_attention", "dismissed"]


class PspWebhookDismiss(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close a message that nobody needs."""

    reason: Annotated[
        str,
        Meta(min_length=3, max_length=500, description="For those who come after you.", examples=["Test of the PSP"]),
    ]


class PspWebhookOut(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP's message, or one event of it."""

    id: Annotated[str, Meta(examples=["whi_01h455vb4pex5vsknk084sn02q"])]
    object: Literal["psp_webhook"] = "psp_webhook"
    live: bool
    psp_account: str
    event: Annotated[str, Meta(description="The PSP's id of the event, or a hash where it has none.")]
    type: Annotated[str, Meta(description="The PSP's word.")]
    state: WebhookState
    note: Annotated[str | None, Meta(description="Why it is parked, needs attention or was dismissed.")]
    attempts: Annotated[int, Meta(description="How often it was told to the payments.")]
    seen: Annotated[int, Meta(description="How often the PSP sent it.")]
    next_attempt_at: datetime | None
    payment: str | None
    operation: str | None
    dispute: str | None
    sequence: int
    received_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Any) -> Self:
        """From the columns of ``webhook_inbox``."""
        return cls(**_columns(row))


class PspWebhookDetail(PspWebhookOut, frozen=True, kw_only=True):
    """The same with what it says."""

    news: Annotated[dict[str, Any] | None, Meta(description="What the adapter read; null when it concerns no payment.")]
    body: Annotated[
        str | None,
        Meta(description="The message, card numbers masked; null when another event of the message keeps it."),
    ]

    @classmethod
    def with_body(cls, row: Any, body: bytes | None) -> Self:
        """From the columns and the body in plain."""
        text = None if body is None else body.decode("utf-8", "backslashreplace")
        return cls(**_columns(row), news=row.news, body=text)


class PspWebhookList(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, newest first."""

    object: Literal["list"] = "list"
    data: list[PspWebhookOut]
    next_cursor: str | None
    has_more: bool


def _columns(row: Any) -> dict[str, Any]:
    return {
        "id": ids.encode("whi", row.inbox_id),
        "live": row.live,
        "psp_account": ids.encode("acct", row.psp_account_id),
        "event": row.event_key,
        "type": row.type,
        "state": row.state,
        "note": row.note,
        "attempts": row.tries,
        "seen": row.seen,
        "next_attempt_at": row.due_at,
        "payment": ids.encode_optional("pay", row.payment_id),
        "operation": ids.encode_optional("op", row.operation_id),
        "dispute": ids.encode_optional("dp", row.dispute_id),
        "sequence": row.sequence,
        "received_at": row.received_at,
        "updated_at": row.updated_at,
    }
