"""The chart of accounts, and what a payment's totals say of it. No I/O.

``expected`` is the specification; the SQL in ``ledger/sql`` posts its differences, and property tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

ACCOUNTS: Mapping[str, str] = {
    "authorized": "Held at PSPs on payers' cards and not yet taken: what could still be captured.",
    "payer_commitment": "Counterpart of what is held, as far as it was not taken: what payers agreed to, and it was not needed.",
    "released": "Of that, what was let go: voided authorisations and the rest after a final capture.",
    "in_transit": "What PSPs owe: taken, and not given back, withheld, kept as a fee or paid out.",
    "captured": "What was taken from payers: the revenue side.",
    "refunded": "What was given back to payers.",
    "disputed": "What PSPs withhold because payers dispute it.",
    "returned": "What banks took back (direct debits).",
    "surplus": "What arrived although it had been given up, and has to be given back.",
    "fees": "What PSPs keep for their work.",
}
"""Each account with what it holds. Debits are positive, credits negative; all together are zero in every currency."""


class Totals(Protocol):
    """What a payment stands at, minor units of one currency; ``payments.models.Payment`` is one."""

    @property
    def capture_method(self) -> str: ...
    @property
    def authorized_minor(self) -> int: ...
    @property
    def captured_minor(self) -> int: ...
    @property
    def voided_minor(self) -> int: ...
    @property
    def refunded_minor(self) -> int: ...
    @property
    def disputed_minor(self) -> int: ...
    @property
    def returned_minor(self) -> int: ...
    @property
    def surplus_minor(self) -> int: ...


def expected(totals: Totals, fee_minor: int) -> dict[str, int]:
    """The balance of each account that the payment has one on: minor units, debits positive."""
    # A surplus authorisation is only held by the PSP, a surplus purchase was taken.
    held, taken = (totals.surplus_minor, 0) if totals.capture_method == "manual" else (0, totals.surplus_minor)
    balances = {
        "authorized": totals.authorized_minor - totals.captured_minor - totals.voided_minor + held,
        "payer_commitment": totals.captured_minor - totals.authorized_minor,
        "released": totals.voided_minor,
        "in_transit": totals.captured_minor
        - totals.refunded_minor
        - totals.disputed_minor
        - totals.returned_minor
        - fee_minor
        + taken,
        "captured": -totals.captured_minor,
        "refunded": totals.refunded_minor,
        "disputed": totals.disputed_minor,
        "returned": totals.returned_minor,
        "surplus": -totals.surplus_minor,
        "fees": fee_minor,
    }
    return {account: balance for account, balance in balances.items() if balance}
