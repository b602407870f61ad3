"""The simulated acquirer: charges and what may be done with them. No I/O; time comes from outside.

State is a function of the operations applied in order, so the book on disk rebuilds it. A decision is two steps: a method that
looks and returns the ``Operation``, and ``apply``, which makes it true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from clearspan_psp_sandbox import cards
from clearspan_psp_sandbox.cards import Card, Refusal

Kind = Literal["charge", "capture", "void", "refund"]
Status = Literal["succeeded", "declined", "pending", "requires_action", "canceled"]

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
# Its host and port go into a page's policy, the whole of it into a header.
_ReturnUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#][!-~]*)?$", max_length=2000
    ),
]
_Digits = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}$")]


class CardIn(msgspec.Struct, forbid_unknown_fields=True):
    """A card as it is sent; numbers may be numbers or digits."""

    number: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12,19}$")]
    exp_month: _Digits | int
    exp_year: _Digits | int
    cvc: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{3,4})?$")] | None = None


class ChargeIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/charges``. Without ``card``, ``network_transaction_id`` names the charge whose card is meant."""

    reference: Text
    amount: Amount
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    capture: bool = True
    card: CardIn | None = None
    network_transaction_id: Text | None = None
    customer_present: bool = True
    return_url: _ReturnUrl | None = None
    description: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    metadata: dict[Text, Annotated[str, msgspec.Meta(max_length=500)]] = msgspec.field(default_factory=dict)


class CaptureIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/charges/{id}/captures``; ``final`` releases the rest."""

    reference: Text
    amount: Amount
    final: bool = False


class VoidIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/charges/{id}/voids``: releases all that is not captured."""

    reference: Text


class RefundIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/charges/{id}/refunds``."""

    reference: Text
    amount: Amount
    reason: Annotated[str, msgspec.Meta(max_length=255)] | None = None


class CardOut(msgspec.Struct, frozen=True):
    """All that is kept of a card."""

    brand: str
    last4: str


class ThreeDs(msgspec.Struct, frozen=True):
    """What 3-D Secure did; ``result`` is ``pending``, ``authenticated`` or ``failed``."""

    flow: str
    result: str
    version: str = "2.2.0"


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operation, as it is booked and answered.

    Attributes:
        id, kind, account, reference, status, amount, currency, created_at: of every operation.
        charge: the charge a capture, void or refund belongs to.
        code, message, network_code, advice: why it was declined.
        fee: what the account pays for it, in minor units.
        settles_at, settles_as: when and how a pending operation ends (seconds since 1970).
        released: what a final capture or a void gives back to the payer's limit.
        capture, captured, voided, refunded and what follows: of charges only.
    """

    id: str
    kind: Kind
    account: str
    reference: str
    status: Status
    amount: int
    currency: str
    created_at: datetime
    charge: str | None = None
    code: str | None = None
    message: str | None = None
    network_code: str | None = None
    advice: str | None = None
    fee: int = 0
    settles_at: float | None = None
    settles_as: Status | None = None
    released: int = 0
    reason: str | None = None
    capture: bool | None = None
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    card: CardOut | None = None
    customer_present: bool | None = None
    network_transaction_id: str | None = None
    three_ds: ThreeDs | None = None
    challenge_path: str | None = None
    return_url: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def open_amount(self) -> int:
        """Authorised, and neither captured nor released."""
        return self.amount - self.captured - self.voided if self.status == "succeeded" else 0


class RuleBroken(Exception):
    """The request breaks a rule and nothing happened; ``code`` is stable."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Bank:
    """All accounts' operations.

    Args:
        seed: ids are a function of it and of how many operations there are.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._operations: dict[str, Operation] = {}
        self._by_reference: dict[tuple[str, str], list[str]] = {}
        self._by_network_id: dict[tuple[str, str], str] = {}
        self._waiting: set[str] = set()

    def get(self, account: str, charge_id: str) -> Operation:
        """A charge of this account.

        Raises:
            RuleBroken: 404 charge_not_found.
        """
        charge = self._operations.get(charge_id)
        if charge is None or charge.account != account or charge.kind != "charge":
            raise RuleBroken(404, "charge_not_found", "This account has no such charge.")
        return charge

    def find(self, operation_id: str) -> Operation | None:
        """Any operation of any account."""
        return self._operations.get(operation_id)

    def referenced(self, account: str, reference: str) -> list[Operation]:
        """Every operation with the merchant's reference, oldest first."""
        return [self._operations[found] for found in self._by_reference.get((account, reference), ())]

    def book(self, account: str) -> Iterator[Operation]:
        """Every operation of an account in its present state, oldest first."""
        return (operation for operation in self._operations.values() if operation.account == account)

    def apply(self, operation: Operation) -> None:
        """Make an operation, or its new state, true."""
        before = self._operations.get(operation.id)
        self._operations[operation.id] = operation
        if before is None:
            self._by_reference.setdefault((operation.account, operation.reference), []).append(operation.id)
        if operation.network_transaction_id:
            self._by_network_id[operation.account, operation.network_transaction_id] = operation.id
        if operation.settles_at is not None and operation.status == "pending":
            self._waiting.add(operation.id)
        else:
            self._waiting.discard(operation.id)
        if operation.charge:
            self._count(self._operations[operation.charge], before, operation)

    def due(self, now: float) -> list[Operation]:
        """Pending operations whose time has come, in their final state; the caller applies them."""
        return [
            self._settle(self._operations[waiting]) for waiting in sorted(self._waiting) if self._ripe(waiting, now)
        ]

    def charge(self, account: str, request: ChargeIn, now: float) -> Operation:
        """Authorise or purchase.

        Raises:
            RuleBroken: not_a_test_card, unknown_network_transaction, card_number_outside_card.
        """
        card = self._card(account, request)
        charge = Operation(
            id=self._id("ch", account),
            kind="charge",
            account=account,
            reference=request.reference,
            status="succeeded",
            amount=request.amount,
            currency=request.currency,
            created_at=datetime.fromtimestamp(now, UTC),
            capture=request.capture,
            card=CardOut(card.brand, card.number[-4:]),
            customer_present=request.customer_present,
            return_url=request.return_url,
            description=request.description,
            metadata=request.metadata,
        )
        if request.card and request.card.number.encode() in msgspec.json.encode(charge):
            raise RuleBroken(
                400, "card_number_outside_card", "The card number stands in another field too; nothing was kept."
            )
        if reason := _refusal(account, card, request, now):
            return _declined(charge, reason)
        if card.authentication and request.customer_present:
            if card.authentication == "failed":
                failed = replace(charge, three_ds=ThreeDs("frictionless", "failed"))
                return _declined(failed, "authentication_failed")
            if card.authentication == "challenge":
                waiting = replace(charge, status="requires_action", challenge_path=f"/challenge/{charge.id}")
                return replace(waiting, three_ds=ThreeDs("challenge", "pending"))
            charge = replace(charge, three_ds=ThreeDs("frictionless", "authenticated"))
        return self._authorise(charge, now)

    def authenticate(self, charge: Operation, *, approved: bool) -> Operation:
        """Note what the payer did on the challenge page; the first answer counts."""
        if charge.status != "requires_action" or charge.three_ds is None or charge.three_ds.result != "pending":
            return charge
        return replace(charge, three_ds=ThreeDs("challenge", "authenticated" if approved else "failed"))

    def resume(self, charge: Operation, now: float) -> Operation:
        """Go on after the challenge; without an answer of the payer, and at the end, nothing changes."""
        if charge.status != "requires_action" or charge.three_ds is None or charge.three_ds.result == "pending":
            return charge
        if charge.three_ds.result == "failed":
            return _declined(charge, "authentication_failed")
        card = self._card_of(charge)
        return _declined(charge, card.after_challenge) if card.after_challenge else self._authorise(charge, now)

    def capture(self, charge: Operation, request: CaptureIn, now: float) -> Operation:
        """Take an authorised amount.

        Raises:
            RuleBroken: charge_not_authorized, charge_voided, already_captured, amount_exceeds_authorized.
        """
        _must_be_authorized(charge)
        if charge.open_amount == 0:
            raise _closed(charge)
        if request.amount > charge.open_amount:
            raise RuleBroken(422, "amount_exceeds_authorized", f"Only {charge.open_amount} can be captured.")
        capture = self._child("capture", "cap", charge, request.reference, request.amount, now)
        if capture.status == "succeeded":
            released = charge.open_amount - request.amount if request.final else 0
            capture = replace(capture, released=released, fee=_variable_fee(charge.account, request.amount))
        return capture

    def void(self, charge: Operation, request: VoidIn, now: float) -> Operation:
        """Release what is not captured, or give up a charge that waits for its payer.

        Raises:
            RuleBroken: charge_not_authorized, charge_voided, already_captured.
        """
        if charge.status == "requires_action":
            return self._child("void", "void", charge, request.reference, charge.amount, now)
        _must_be_authorized(charge)
        if charge.open_amount == 0:
            raise _closed(charge)
        void = self._child("void", "void", charge, request.reference, charge.open_amount, now)
        return replace(void, released=void.amount) if void.status == "succeeded" else void

    def refund(self, charge: Operation, request: RefundIn, now: float) -> Operation:
        """Give back what was captured; a pending refund counts.

        Raises:
            RuleBroken: charge_not_captured, amount_exceeds_captured.
        """
        if charge.captured == 0:
            raise RuleBroken(422, "charge_not_captured", "Nothing of this charge is captured.")
        left = charge.captured - charge.refunded
        if request.amount > left:
            raise RuleBroken(422, "amount_exceeds_captured", f"Only {left} can be refunded.")
        refund = self._child("refund", "re", charge, request.reference, request.amount, now)
        refund = replace(refund, reason=request.reason)
        return _pending(refund, now) if request.amount in cards.PENDING_AMOUNTS else refund

    def _card(self, account: str, request: ChargeIn) -> Card:
        if request.card is not None:
            if card := cards.BY_NUMBER.get(request.card.number):
                return card
            raise RuleBroken(422, "not_a_test_card", "This is a sandbox: use a test card. Nothing was kept.")
        first = self._by_network_id.get((account, request.network_transaction_id or ""))
        if first is None:
            raise RuleBroken(
                422, "unknown_network_transaction", "Without a card, name a network transaction of this account."
            )
        return self._card_of(self._operations[first])

    def _card_of(self, charge: Operation) -> Card:
        """The row is found by brand and last four digits: the book holds no number (a test says that they are unique)."""
        return BY_TRACE[charge.card] if charge.card else cards.CARDS[0]

    def _authorise(self, charge: Operation, now: float) -> Operation:
        if reason := cards.DECLINED_AMOUNTS.get(charge.amount):
            return _declined(charge, reason)
        if charge.account == "beta" and charge.amount == cards.BETA_DECLINED_AMOUNT:
            return _declined(charge, "do_not_honor")
        identified = replace(charge, network_transaction_id=self._letters("nti", charge.id), challenge_path=None)
        if charge.amount in cards.PENDING_AMOUNTS:
            return _pending(identified, now)
        return _approved(identified)

    def _child(self, kind: Kind, prefix: str, charge: Operation, reference: str, amount: int, now: float) -> Operation:
        child = Operation(
            id=self._id(prefix, charge.account),
            kind=kind,
            account=charge.account,
            reference=reference,
            status="succeeded",
            amount=amount,
            currency=charge.currency,
            created_at=datetime.fromtimestamp(now, UTC),
            charge=charge.id,
        )
        return _declined(child, "follow_up_refused") if amount == cards.FOLLOW_UP_REFUSED_AMOUNT else child

    def _ripe(self, operation_id: str, now: float) -> bool:
        settles_at = self._operations[operation_id].settles_at
        return settles_at is not None and settles_at <= now

    def _settle(self, operation: Operation) -> Operation:
        if operation.settles_as == "succeeded":
            settled = replace(operation, status="succeeded")
            return _approved(settled) if operation.kind == "charge" else settled
        return _declined(operation, "insufficient_funds" if operation.kind == "charge" else "follow_up_refused")

    def _count(self, charge: Operation, before: Operation | None, after: Operation) -> None:
        """Carry a capture, void or refund over to its charge's totals."""
        if charge.status == "requires_action" and after.kind == "void" and after.status == "succeeded":
            self._operations[charge.id] = replace(
                _declined(charge, "abandoned"), status="canceled", challenge_path=None
            )
            return
        grown = _counted(after) - (_counted(before) if before else 0)
        totals = {"voided": charge.voided + (after.released if before is None else 0)}
        if after.kind == "capture":
            totals["captured"] = charge.captured + grown
        elif after.kind == "refund":
            totals["refunded"] = charge.refunded + grown
        self._operations[charge.id] = replace(charge, **totals)

    def _id(self, prefix: str, account: str) -> str:
        return self._letters(prefix, f"{account}/{len(self._operations)}")

    def _letters(self, prefix: str, name: str) -> str:
        """Letters only, so that no id can look like a card number."""
        digest = hashlib.blake2b(f"{self._seed}/{prefix}/{name}".encode(), digest_size=10).hexdigest()
        return f"{prefix}_{digest.translate(_HEX_TO_LETTERS)}"


BY_TRACE = {CardOut(card.brand, card.number[-4:]): card for card in cards.CARDS}
_HEX_TO_LETTERS = str.maketrans("0123456789", "ghijkmnpqr")


def _refusal(account: str, card: Card, request: ChargeIn, now: float) -> str:
    """Key of ``cards.REFUSALS``, or empty."""
    if card.refusal:
        return card.refusal
    if request.card and _expired(request.card, now):
        return "expired_card"
    if account == "beta" and card.brand == "amex":
        return "brand_not_accepted"
    if not request.customer_present:
        if card.authentication == "challenge" and not request.network_transaction_id:
            return "authentication_required"
        return card.rebill_refusal
    return ""


def _expired(card: CardIn, now: float) -> bool:
    today = datetime.fromtimestamp(now, UTC)
    return (int(card.exp_year), int(card.exp_month)) < (today.year, today.month)


def _approved(charge: Operation) -> Operation:
    captured = charge.amount if charge.capture else 0
    fixed = cards.FEES.get(charge.account, cards.FEES["alpha"]).fixed
    return replace(charge, status="succeeded", captured=captured, fee=fixed + _variable_fee(charge.account, captured))


def _declined(operation: Operation, reason: str) -> Operation:
    refusal: Refusal = cards.REFUSALS[reason]
    return replace(
        operation,
        status="declined",
        code=refusal.code,
        message=refusal.message,
        network_code=refusal.network_code,
        advice=refusal.advice,
        challenge_path=None,
    )


def _pending(operation: Operation, now: float) -> Operation:
    ends = cards.PENDING_AMOUNTS[operation.amount]
    settles_at = None if ends is None else now + cards.PENDING_S
    return replace(operation, status="pending", settles_at=settles_at, settles_as=ends)


def _counted(operation: Operation) -> int:
    """What an operation takes from its charge: a pending one holds its amount."""
    return operation.amount if operation.status in ("succeeded", "pending") else 0


def _variable_fee(account: str, amount: int) -> int:
    """Rounded half up."""
    return (amount * cards.FEES.get(account, cards.FEES["alpha"]).basis_points + 5_000) // 10_000


def _must_be_authorized(charge: Operation) -> None:
    if charge.status != "succeeded":
        raise RuleBroken(422, "charge_not_authorized", f"The charge is {charge.status}.")


def _closed(charge: Operation) -> RuleBroken:
    if charge.captured:
        return RuleBroken(422, "already_captured", "Nothing is left: the charge is captured.")
    return RuleBroken(422, "charge_voided", "The charge is voided.")
