"""Customers, what is personal about them, and their payment methods."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from clearspan.platform.orm import Scoped
from clearspan.sdk import VaultCard


class Customer(Scoped):
    """A customer; nothing in this row is personal data of ours to protect (``reference`` and ``metadata`` are the merchant's)."""

    __tablename__ = "customers"

    id: Mapped[UUID] = mapped_column("customer_id", primary_key=True)
    reference: Mapped[str | None]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    test_clock_id: Mapped[UUID | None]
    language: Mapped[str | None]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]

    def touch(self, now: datetime) -> None:
        """Note a change that a client can see."""
        self.sequence += 1
        self.updated_at = now

    def erase(self, now: datetime) -> None:
        """Keep the row, which payments refer to, and nothing that tells who it was."""
        self.reference = None
        self.metadata_ = {}
        self.deleted_at = now
        self.touch(now)


class CustomerPii(Scoped):
    """Personal data of one customer, sealed under a key of that one person; without the row it is unreadable everywhere."""

    __tablename__ = "customer_pii"

    id: Mapped[UUID] = mapped_column("customer_id", primary_key=True)
    wrapped_key: Mapped[bytes]
    body: Mapped[bytes]
    email_index: Mapped[bytes | None]


class PaymentMethod(Scoped):
    """What a payer pays with, by reference: a card in a vault, something a PSP holds, or a PSP's pages."""

    __tablename__ = "payment_methods"

    id: Mapped[UUID] = mapped_column("payment_method_id", primary_key=True)
    customer_id: Mapped[UUID | None]
    kind: Mapped[str]
    vault: Mapped[str | None]
    vault_token: Mapped[str | None]
    psp_account_id: Mapped[UUID | None]
    psp_token: Mapped[str | None]
    psp_method: Mapped[str | None]
    brand: Mapped[str | None]
    last4: Mapped[str | None]
    exp_month: Mapped[int | None]
    exp_year: Mapped[int | None]
    fingerprint: Mapped[str]
    funding: Mapped[str]
    issuer_country: Mapped[str | None]
    status: Mapped[str]
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    def take(self, card: VaultCard) -> None:
        """Note what the vault says of the card."""
        self.brand, self.last4, self.fingerprint = card.brand, card.last4, card.fingerprint
        self.exp_month, self.exp_year = card.exp_month, card.exp_year
        self.funding, self.issuer_country = card.funding, card.issuer_country

    def detach(self, now: datetime) -> bool:
        """Never charge it again; whether that is news."""
        if self.status == "detached":
            return False
        self.status = "detached"
        self.sequence += 1
        self.updated_at = now
        return True


class Mandate(Scoped):
    """A customer's consent to be charged without being present. SQL moves it on (``subscriptions/sql/collect.sql``)."""

    __tablename__ = "mandates"

    id: Mapped[UUID] = mapped_column("mandate_id", primary_key=True)
    customer_id: Mapped[UUID]
    payment_method_id: Mapped[UUID]
    purpose: Mapped[str]
    status: Mapped[str]
    backup: Mapped[bool]
    psp_account_id: Mapped[UUID | None]
    network_transaction_id: Mapped[str | None]
    payment_id: Mapped[UUID | None]
    authenticated: Mapped[bool]
    text_version: Mapped[str]
    accepted_at: Mapped[datetime]
    acceptance: Mapped[bytes | None]
    suspended_because: Mapped[str | None]
    revoked_because: Mapped[str | None]
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    sequence: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    activated_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
