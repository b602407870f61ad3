"""Requests and answers of the mandates' API."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clearspan.customers.models import Mandate
from clearspan.customers.pii import Acceptance
from clearspan.customers.schemas import CustomerId, Metadata
from clearspan.platform import ids

_TEXT = r"^[^\x00]+$"
MandateStatus = Literal["pending", "active", "suspended", "revoked"]


class MandateCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Note a customer's consent. Say what he agreed to, when, and from where: it is the evidence."""

    customer: CustomerId
    payment_method: Annotated[str, Meta(max_length=90, examples=["pm_01h455vb4pex5vsknk084sn02q"])]
    purpose: Annotated[
        Literal["recurring", "unscheduled"],
        Meta(description="recurring: fixed periods; unscheduled: whenever something is due."),
    ]
    text_version: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=100,
            pattern=_TEXT,
            description="Which text the customer agreed to; keep the text itself.",
            examples=["subscription-terms-2026-05"],
        ),
    ]
    accepted_at: Annotated[datetime | None, Meta(description="Default: now.", examples=["2026-05-03T10:15:30Z"])] = None
    accepted_ip: (
        Annotated[
            str,
            Meta(max_length=45, description="Stored encrypted, erased with the customer.", examples=["203.0.113.7"]),
        ]
        | None
    ) = None
    user_agent: (
        Annotated[
            str, Meta(min_length=1, max_length=500, pattern=_TEXT, description="Likewise.", examples=["Mozilla/5.0"])
        ]
        | None
    ) = None
    backup: Annotated[
        bool, Meta(description="The customer agreed that this method is charged when another one of his fails.")
    ] = False
    metadata: Metadata = {}

    def __post_init__(self) -> None:
        if self.accepted_ip is not None:
            try:
                ipaddress.ip_address(self.accepted_ip)
            except ValueError:
                raise ValueError("`accepted_ip` is no IPv4 or IPv6 address") from None


class MandateRevoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a consent back."""

    because: Annotated[Literal["customer", "merchant"], Meta(description="Whose wish it is.")]


class MandateOut(msgspec.Struct, frozen=True, kw_only=True):
    """A mandate: what the customer agreed to, and what the payment proved that it began with."""

    id: str
    object: Literal["mandate"]
    live: bool
    customer: str
    payment_method: str
    purpose: Literal["recurring", "unscheduled"]
    status: MandateStatus
    backup: bool
    text_version: str
    accepted_at: datetime
    first_payment: Annotated[str | None, Meta(description="The payment that activated it.")]
    authenticated: Annotated[bool, Meta(description="The customer was challenged in that payment.")]
    network_transaction_id: Annotated[
        str | None, Meta(description="The scheme's id of that payment; every later charge carries it.")
    ]
    psp_account: str | None
    suspended_because: Annotated[str | None, Meta(description="The decline code.")]
    revoked_because: Literal["customer", "merchant", "issuer", "method_detached", "customer_deleted"] | None
    metadata: dict[str, str]
    sequence: Annotated[int, Meta(description="Grows with each change; of two copies the higher one is newer.")]
    created_at: datetime
    updated_at: datetime
    activated_at: datetime | None
    revoked_at: datetime | None


class AcceptanceOut(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what the customer agreed."""

    ip: str | None
    user_agent: str | None


class MandateDetails(MandateOut, frozen=True, kw_only=True):
    """A mandate with the evidence of its acceptance; null when none was given, or after the customer was deleted."""

    acceptance: AcceptanceOut | None


class MandateList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of mandates, newest first."""

    object: Literal["list"]
    data: list[MandateOut]
    has_more: bool
    next_cursor: str | None


def mandate_out(mandate: Mandate) -> MandateOut:
    """Render the current state."""
    return MandateOut(
        id=ids.encode("man", mandate.id),
        object="mandate",
        live=mandate.live,
        customer=ids.encode("cus", mandate.customer_id),
        payment_method=ids.encode("pm", mandate.payment_method_id),
        purpose=mandate.purpose,  # type: ignore[arg-type]  # the columns' CHECKs hold the words
        status=mandate.status,  # type: ignore[arg-type]
        backup=mandate.backup,
        text_version=mandate.text_version,
        accepted_at=mandate.accepted_at,
        first_payment=ids.encode_optional("pay", mandate.payment_id),
        authenticated=mandate.authenticated,
        network_transaction_id=mandate.network_transaction_id,
        psp_account=ids.encode_optional("acct", mandate.psp_account_id),
        suspended_because=mandate.suspended_because,
        revoked_because=mandate.revoked_because,  # type: ignore[arg-type]
        metadata=mandate.metadata_,
        sequence=mandate.sequence,
        created_at=mandate.created_at,
        updated_at=mandate.updated_at,
        activated_at=mandate.activated_at,
        revoked_at=mandate.revoked_at,
    )


def mandate_details(mandate: Mandate, acceptance: Acceptance | None) -> MandateDetails:
    """The same with the evidence."""
    return MandateDetails(
        **msgspec.structs.asdict(mandate_out(mandate)),
        acceptance=None if acceptance is None else AcceptanceOut(ip=acceptance.ip, user_agent=acceptance.user_agent),
    )


def mandate_list(mandates: Sequence[Mandate], next_cursor: str | None) -> MandateList:
    """A page."""
    data = [mandate_out(mandate) for mandate in mandates]
    return MandateList(object="list", data=data, has_more=next_cursor is not None, next_cursor=next_cursor)
