"""Answers of the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Account = Literal[
    "authorized",
    "payer_commitment",
    "released",
    "in_transit",
    "captured",
    "refunded",
    "disputed",
    "returned",
    "surplus",
    "fees",
]


class BalanceOut(msgspec.Struct, frozen=True, kw_only=True):
    """What stands on an account."""

    object: Literal["balance"] = "balance"
    currency: Annotated[str, Meta(examples=["EUR"])]
    account: Account
    balance_minor: Annotated[
        int, Meta(description="Signed: debits are positive, credits negative. All accounts of a currency sum to zero.")
    ]


class BalanceList(msgspec.Struct, frozen=True, kw_only=True):
    """Every account that has entries, by currency and name."""

    object: Literal["list"] = "list"
    data: list[BalanceOut]


class EntryOut(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a transfer. Entries never change."""

    object: Literal["ledger_entry"] = "ledger_entry"
    transfer: Annotated[
        str,
        Meta(
            description="The same for all entries of a transfer, which sum to zero.",
            examples=["trf_01h455vb4pex5vsknk084sn02q"],
        ),
    ]
    at: datetime
    account: Account
    amount_minor: Annotated[int, Meta(description="Signed: debits are positive, credits negative.", examples=[-1099])]
    currency: Annotated[str, Meta(examples=["EUR"])]
    kind: Annotated[
        str,
        Meta(
            description="What caused it: authorize, purchase, capture, void, refund, reversal, surplus, dispute, fee or opening.",
            examples=["purchase"],
        ),
    ]
    payment: Annotated[str, Meta(examples=["pay_01h455vb4pex5vsknk084sn02q"])]
    operation: str | None
    dispute: str | None
    psp_account: Annotated[str | None, Meta(description="The PSP account it happened at: who owes what is in transit.")]


class EntryList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries, newest first."""

    object: Literal["list"] = "list"
    data: list[EntryOut]
    next_cursor: str | None
    has_more: bool
