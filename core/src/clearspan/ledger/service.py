"""Reading the ledger, and comparing it with itself and with the payments. Posting is SQL, inside the payment's transaction."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from clearspan.ledger.schemas import Account, BalanceList, BalanceOut, EntryList, EntryOut
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import InvalidRequest

PAYMENTS_AT_ONCE = 1_000
ENTRIES_AT_ONCE = 10_000
CHECK_S = 8.0
CHECK_MAX = 50


class EntryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries; ``None`` means any.

    Attributes:
        payment: its public id.
        account: one of ``models.ACCOUNTS``.
        created_after: at this moment or later.
        created_before: before this moment.
    """

    payment: str | None = None
    account: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class LedgerDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Something in the ledger that must not be.

    Attributes:
        kind: ``balance`` (an account of a payment is not what the payment's totals say), ``transfer_not_zero``,
            ``payment_missing`` (entries of a payment that is not there in their currency) or ``sum_not_zero`` (a whole currency).
        expected, found: signed minor units of ``currency``.
    """

    kind: str
    currency: str
    expected: int
    found: int
    account: str | None = None
    payment_id: UUID | None = None
    transfer_id: UUID | None = None


class _Entry(msgspec.Struct, frozen=True):
    """A row as it is."""

    at: datetime
    transfer_id: UUID
    account: Account
    amount_minor: int
    currency: str
    kind: str
    payment_id: UUID
    operation_id: UUID | None
    dispute_id: UUID | None
    psp_account_id: UUID | None

    def out(self) -> EntryOut:
        return EntryOut(
            transfer=ids.encode("trf", self.transfer_id),
            at=self.at,
            account=self.account,
            amount_minor=self.amount_minor,
            currency=self.currency,
            kind=self.kind,
            payment=ids.encode("pay", self.payment_id),
            operation=ids.encode_optional("op", self.operation_id),
            dispute=ids.encode_optional("dp", self.dispute_id),
            psp_account=ids.encode_optional("acct", self.psp_account_id),
        )


class _WrongBalance(msgspec.Struct, frozen=True):
    payment_id: UUID
    currency: str
    account: str
    expected: int
    found: int


class _WrongTransfer(msgspec.Struct, frozen=True):
    transfer_id: UUID
    payment_id: UUID
    currency: str
    kind: str
    found: int


class _Payments(msgspec.Struct, frozen=True):
    looked: int
    next: tuple[str, UUID] | None
    differences: list[_WrongBalance]


class _Transfers(msgspec.Struct, frozen=True):
    looked: int
    next: tuple[str, UUID] | None
    sums: list[BalanceOut]
    differences: list[_WrongTransfer]


_BALANCES = msgspec.json.Decoder(list[BalanceOut])
_ENTRIES = msgspec.json.Decoder(list[_Entry])
_PAYMENTS = msgspec.json.Decoder(_Payments)
_TRANSFERS = msgspec.json.Decoder(_Transfers)


async def balances(
    db: Database,
    scope: Scope,
    *,
    currency: str | None = None,
    psp_account: str | None = None,
    before: datetime | None = None,
) -> BalanceList:
    """Sums of entries by currency and account.

    Args:
        psp_account: public id; only what happened there.
        before: only entries before this moment: the balances as they stood.

    Raises:
        InvalidId: ``psp_account`` is no id.
    """
    document = _place(scope) | {"currency": currency, "before": before}
    if psp_account is not None:
        document["psp_account_id"] = ids.decode("acct", psp_account)
    return BalanceList(data=_BALANCES.decode(await db.call("ledger_balances", document)))


async def entries(db: Database, scope: Scope, query: EntryQuery, *, limit: int, cursor: str | None) -> EntryList:
    """A page, newest first.

    Raises:
        InvalidId: ``query.payment`` is no id.
        InvalidRequest: the cursor is none of ours.
    """
    document = _place(scope) | {
        "account": query.account,
        "created_after": query.created_after,
        "created_before": query.created_before,
        "limit": limit + 1,
    }
    if query.payment is not None:
        document["payment_id"] = ids.decode("pay", query.payment)
    if cursor is not None:
        document["place"] = _read_cursor(cursor)
    page = _ENTRIES.decode(await db.call("ledger_page", document))
    more = len(page) > limit
    return EntryList(
        data=[entry.out() for entry in page[:limit]],
        next_cursor=_write_cursor(page[limit - 1]) if more else None,
        has_more=more,
    )


async def differences(
    db: Database, scope: Scope, looked: Counter[str] | None = None
) -> AsyncIterator[LedgerDifference]:
    """Everything in a tenant's ledger of one mode that does not agree, in batches and with bounded memory.

    Each batch is compared under one snapshot, so payments that go on meanwhile make no differences.

    Args:
        looked: counts ``ledger payments`` and ``ledger entries`` that were looked at.
    """
    counted = Counter[str]() if looked is None else looked
    after: tuple[str, UUID] | None = None
    while True:
        document = _place(scope) | {"limit": PAYMENTS_AT_ONCE, "after": after}
        payments = _PAYMENTS.decode(await db.call("ledger_check_payments", document))
        counted["ledger payments"] += payments.looked
        for wrong in payments.differences:
            yield LedgerDifference(
                kind="balance",
                currency=wrong.currency,
                expected=wrong.expected,
                found=wrong.found,
                account=wrong.account,
                payment_id=wrong.payment_id,
            )
        after = payments.next
        if after is None:
            break
    sums = Counter[str]()
    while True:
        document = _place(scope) | {"limit": ENTRIES_AT_ONCE, "after": after}
        transfers = _TRANSFERS.decode(await db.call("ledger_check_transfers", document))
        counted["ledger entries"] += transfers.looked
        for balance in transfers.sums:
            sums[balance.currency] += balance.balance_minor
        for odd in transfers.differences:
            yield LedgerDifference(
                kind=odd.kind,
                currency=odd.currency,
                expected=0,
                found=odd.found,
                payment_id=odd.payment_id,
                transfer_id=odd.transfer_id,
            )
        after = transfers.next
        if after is None:
            break
    for currency, total in sums.items():
        if total:
            yield LedgerDifference(kind="sum_not_zero", currency=currency, expected=0, found=total)


class LedgerCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    Attributes:
        differences: the first ones.
        payments, entries: how many were looked at.
        complete: whether all were; else the time was up, or there were so many differences that more would tell nothing.
    """

    differences: list[LedgerDifference]
    payments: int
    entries: int
    complete: bool


class Ledger:
    """The same as an object, for pages.

    Args:
        db: the database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def balances(
        self, scope: Scope, *, psp_account: str | None = None, before: datetime | None = None
    ) -> BalanceList:
        """See ``balances``."""
        return await balances(self._db, scope, psp_account=psp_account, before=before)

    async def entries(self, scope: Scope, query: EntryQuery, *, limit: int, cursor: str | None) -> EntryList:
        """See ``entries``."""
        return await entries(self._db, scope, query, limit=limit, cursor=cursor)

    async def check(self, scope: Scope) -> LedgerCheck:
        """Compare the ledger with itself and with the payments, for ``CHECK_S`` at most."""
        looked = Counter[str]()
        found: list[LedgerDifference] = []
        complete = True
        try:
            async with asyncio.timeout(CHECK_S):
                async for one in differences(self._db, scope, looked):
                    found.append(one)
                    if len(found) >= CHECK_MAX:
                        complete = False
                        break
        except TimeoutError:
            complete = False
        return LedgerCheck(
            differences=found,
            payments=looked["ledger payments"],
            entries=looked["ledger entries"],
            complete=complete,
        )


def _place(scope: Scope) -> dict[str, Any]:
    return {"tenant_id": scope.tenant_id, "live": scope.live}


_Place = tuple[Annotated[datetime, Meta(tz=True)], UUID, Annotated[str, Meta(max_length=40, pattern=r"^[a-z_]+$")]]


def _write_cursor(entry: _Entry) -> str:
    """The opaque text that continues a list after this entry."""
    place = msgspec.json.encode((entry.at, entry.transfer_id, entry.account))
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _read_cursor(cursor: str) -> _Place:
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        place: _Place = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=_Place)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        message = "This is no cursor of a list: take next_cursor from the page before, unchanged."
        raise InvalidRequest(message, errors=[{"path": "cursor", "message": message}]) from None
    return place
