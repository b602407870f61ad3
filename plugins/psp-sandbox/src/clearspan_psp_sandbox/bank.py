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

from clearspan_psp_sandbox import cards, disputes
from clearspan_psp_sandbox.cards import Card, Refusal
from clearspan_psp_sandbox.disputes import Dispute

Kind = Literal["charge", "capture", "void", "refund"]
Status = Literal["succeeded", "declined", "pending", "requires_action", "canceled", "expired", "failed"]

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
# A return address's host and port go into a page's policy, the whole of it into a header.
_ReturnUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#][!-~]*)?$", max_length=2000
    ),
]
HookUrl = Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]{1,2000}$")]
_Digits = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}$")]


CLOCK_KEY = "clearspan_clock"
"""A charge's metadata may hold the time of its customer's test clock (ISO 8601)."""


class CardIn(msgspec.Struct, forbid_unknown_fields=True):
    """A card as it is sent; numbers may be numbers or digits."""

    number: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12,19}$")]
    exp_month: _Digits | int
    exp_year: _Digits | int
    cvc: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{3,4})?$")] | None = None


class StoredCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The agreement that a charge rests on or, ``first``, begins."""

    initiator: Literal["customer", "merchant"]
    purpose: Literal["recurring", "unscheduled"]
    mandate: Text
    first: bool = False
    network_transaction_id: Text | None = None


class ChargeIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/charges``. Without ``card``, ``network_transaction_id`` names the charge whose card is meant.

    An ``amount`` of 0, which is never captured, asks whether the card is good.
    """

    reference: Text
    amount: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    capture: bool = True
    card: CardIn | None = None
    network_transaction_id: Text | None = None
    customer_present: bool = True
    stored_credential: StoredCredential | None = None
    return_url: _ReturnUrl | None = None
    webhook_url: HookUrl | None = None
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
        capture, captured, voided, refunded, disputed and what follows: of charges only; ``disputed`` is what disputes and returns
            hold or have taken.
        eci, ds_transaction_id: of an authenticated payer.
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
    disputed: int = 0
    card: CardOut | None = None
    customer_present: bool | None = None
    stored_credential: StoredCredential | None = None
    network_transaction_id: str | None = None
    three_ds: ThreeDs | None = None
    eci: str | None = None
    ds_transaction_id: str | None = None
    challenge_path: str | None = None
    return_url: str | None = None
    webhook_url: str | None = None
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
    """All accounts' operations and disputes.

    Args:
        seed: ids are a function of it and of how many operations there are.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._operations: dict[str, Operation] = {}
        self._by_reference: dict[tuple[str, str], list[str]] = {}
        self._by_network_id: dict[tuple[str, str], str] = {}
        self._proved: set[tuple[CardOut | None, str]] = set()
        self._rebills: dict[_Agreement, list[str]] = {}
        self._first_at: dict[_Agreement, datetime] = {}
        self._reserved: set[str] = set()
        self._changes: dict[str, Change] = {}
        self._disputes: dict[str, Dispute] = {}

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

    def last_change(self, operation_id: str) -> Change:
        """How an operation came to be as it is."""
        return self._changes[operation_id]

    def pending(self) -> Iterator[Operation]:
        """Every account's pending operations."""
        return (operation for operation in self._operations.values() if operation.status == "pending")

    def between(self, account: str, since: float, until: float) -> list[Operation]:
        """What was made or changed in a span of time, oldest first, in its present state."""
        made_or_changed = ((one, (one.created_at.timestamp(), self._changes[one.id].at)) for one in self.book(account))
        return [one for one, times in made_or_changed if any(since <= time <= until for time in times)]

    def dispute_book(self, account: str) -> Iterator[Dispute]:
        """Every dispute and return of an account in its present state, oldest first."""
        return (dispute for dispute in self._disputes.values() if dispute.account == account)

    def apply(self, operation: Operation, at: float) -> list[Operation]:
        """Make an operation, or its new state, true; gives every operation whose status that changed."""
        before = self._operations.get(operation.id)
        self._operations[operation.id] = operation
        self._changes[operation.id] = Change(at, before)
        self._reserved.discard(operation.id)
        if before is None:
            self._by_reference.setdefault((operation.account, operation.reference), []).append(operation.id)
        if operation.network_transaction_id:
            self._by_network_id[operation.account, operation.network_transaction_id] = operation.id
        if operation.kind == "charge":
            self._note(operation, new=before is None)
        if operation.charge and self._count(self._operations[operation.charge], before, operation, at):
            return [operation, self._operations[operation.charge]]
        return [operation]

    def apply_dispute(self, dispute: Dispute) -> None:
        """Make a dispute, or its new state, true."""
        before = self._disputes.get(dispute.id)
        self._disputes[dispute.id] = dispute
        charge = self._operations[dispute.charge]
        held = charge.disputed + _held(dispute) - (_held(before) if before else 0)
        self._operations[charge.id] = replace(charge, disputed=held)

    def reserve(self, operation: Operation) -> None:
        """Keep the id of an operation that will be applied later for it."""
        self._reserved.add(operation.id)

    def settle(self, operation_id: str, now: float) -> Operation | None:
        """A pending operation in its final state when its time has come; the caller applies it."""
        operation = self._operations[operation_id]
        if operation.status != "pending" or operation.settles_at is None or operation.settles_at > now:
            return None
        if operation.settles_as == "succeeded":
            settled = replace(operation, status="succeeded")
            return _approved(settled) if operation.kind == "charge" else settled
        return declined(operation, "insufficient_funds" if operation.kind == "charge" else "follow_up_refused")

    def charge(self, account: str, request: ChargeIn, now: float) -> Operation:
        """Authorise or purchase.

        Raises:
            RuleBroken: not_a_test_card, unknown_network_transaction, card_number_outside_card, amount_zero.
        """
        card = self._card(account, request)
        if request.amount == 0 and request.capture:
            raise RuleBroken(422, "amount_zero", "Nothing can be authorised, not captured: send `capture` false.")
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
            stored_credential=request.stored_credential,
            return_url=request.return_url,
            webhook_url=request.webhook_url,
            description=request.description,
            metadata=request.metadata,
        )
        if request.card and request.card.number.encode() in msgspec.json.encode(charge):
            raise RuleBroken(
                400, "card_number_outside_card", "The card number stands in another field too; nothing was kept."
            )
        if reason := self._refusal(card, charge, request, now):
            no = declined(charge, reason)
            advised = card.rebill_advice and reason == card.rebill_refusal and not request.customer_present
            return replace(no, advice=card.rebill_advice) if advised else no
        begins = request.stored_credential is not None and request.stored_credential.first
        authentication = card.authentication or ("challenge" if card.eea and begins else "")
        if authentication and request.customer_present:
            if authentication == "failed":
                failed = replace(charge, three_ds=ThreeDs("frictionless", "failed"))
                return declined(failed, "authentication_failed")
            if authentication == "challenge":
                waiting = replace(charge, status="requires_action", challenge_path=f"/challenge/{charge.id}")
                return replace(waiting, three_ds=ThreeDs("challenge", "pending"))
            charge = self._authenticated(charge, "frictionless")
        return self._authorise(charge, now)

    def authenticate(self, charge: Operation, *, approved: bool) -> Operation:
        """Note what the payer did on the challenge page; the first answer counts."""
        if charge.status != "requires_action" or charge.three_ds is None or charge.three_ds.result != "pending":
            return charge
        if approved:
            return self._authenticated(charge, "challenge")
        return replace(charge, three_ds=ThreeDs("challenge", "failed"))

    def resume(self, charge: Operation, now: float) -> Operation:
        """Go on after the challenge; without an answer of the payer, and at the end, nothing changes."""
        if charge.status != "requires_action" or charge.three_ds is None or charge.three_ds.result == "pending":
            return charge
        if charge.three_ds.result == "failed":
            return declined(charge, "authentication_failed")
        card = self._card_of(charge)
        return declined(charge, card.after_challenge) if card.after_challenge else self._authorise(charge, now)

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

    def approve(self, charge: Operation) -> Operation:
        """The issuer takes its no back: a declined, canceled or undecided charge succeeds after all.

        Raises:
            RuleBroken: event_impossible.
        """
        if charge.status in ("succeeded", "expired"):
            raise RuleBroken(422, "event_impossible", f"The charge is {charge.status}.")
        said = {"code": None, "message": None, "network_code": None, "advice": None, "challenge_path": None}
        network_id = charge.network_transaction_id or self._letters("nti", charge.id)
        return _approved(replace(charge, **said, network_transaction_id=network_id))

    def expire(self, charge: Operation) -> Operation:
        """The issuer lets an authorisation lapse, or the payer's time for the challenge is over.

        Raises:
            RuleBroken: event_impossible.
        """
        if charge.status == "requires_action":
            return replace(declined(charge, "challenge_expired"), status="expired")
        if charge.open_amount == 0:
            raise RuleBroken(422, "event_impossible", "Nothing of this charge is authorised and not captured.")
        status: Status = charge.status if charge.captured else "expired"
        return replace(charge, status=status, voided=charge.voided + charge.open_amount)

    def fail_refund(self, account: str, refund_id: str) -> Operation:
        """The payer's bank sends a refund back.

        Raises:
            RuleBroken: refund_not_found, event_impossible.
        """
        refund = self._operations.get(refund_id)
        if refund is None or refund.account != account or refund.kind != "refund":
            raise RuleBroken(404, "refund_not_found", "This account has no such refund.")
        if refund.status not in ("succeeded", "pending"):
            raise RuleBroken(422, "event_impossible", f"The refund is {refund.status}.")
        return replace(declined(refund, "refund_returned"), status="failed")

    def dispute(self, charge: Operation, status: disputes.Status, amount: int | None, now: float) -> Dispute:
        """Open a dispute, or with the status ``returned`` take the payment back.

        Raises:
            RuleBroken: event_impossible, amount_exceeds_charge.
        """
        if charge.status != "succeeded":
            raise RuleBroken(422, "event_impossible", f"The charge is {charge.status}.")
        if (amount or 0) > charge.amount:
            raise RuleBroken(422, "amount_exceeds_charge", f"The charge is of {charge.amount}.")
        returned = status == "returned"
        due = datetime.fromtimestamp(now + disputes.EVIDENCE_S, UTC)
        return Dispute(
            id=self._letters("rt" if returned else "dp", f"{charge.account}/{len(self._disputes)}"),
            kind="return" if returned else "dispute",
            account=charge.account,
            charge=charge.id,
            reference=charge.reference,
            status=status,
            amount=amount or charge.captured or charge.amount,
            currency=charge.currency,
            created_at=datetime.fromtimestamp(now, UTC),
            reason="account_closed" if returned else "fraudulent",
            network_code="AC04" if returned else "10.4",  # ISO 20022 return reason; Visa dispute condition
            evidence_due_at=None if returned else due,
        )

    def redispute(self, account: str, dispute_id: str, status: disputes.Status) -> Dispute:
        """A dispute in another status; no order is enforced, so that contradictions can be rehearsed.

        Raises:
            RuleBroken: dispute_not_found.
        """
        dispute = self._disputes.get(dispute_id)
        if dispute is None or dispute.account != account:
            raise RuleBroken(404, "dispute_not_found", "This account has no such dispute.")
        return replace(dispute, status=status)

    def dated(self, promised: Operation, now: float) -> Operation:
        """A charge that was decided earlier and happens now."""
        late = replace(promised, created_at=datetime.fromtimestamp(now, UTC))
        return _pending(late, now) if late.status == "pending" else late

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

    def _authenticated(self, charge: Operation, flow: str) -> Operation:
        # Fully authenticated: 05 at Visa, 02 at Mastercard (EMV 3-D Secure, electronic commerce indicator).
        eci = "02" if charge.card and charge.card.brand == "mastercard" else "05"
        ds = self._letters("ds", charge.id)
        return replace(charge, three_ds=ThreeDs(flow, "authenticated"), eci=eci, ds_transaction_id=ds)

    def _note(self, charge: Operation, *, new: bool) -> None:
        """Remember what later charges of the same agreement are judged by."""
        agreement = _agreement(charge)
        if new and not charge.customer_present:
            self._rebills.setdefault(agreement, []).append(charge.id)
        if charge.status == "succeeded":
            self._first_at.setdefault(agreement, _when(charge))
            if charge.customer_present and charge.ds_transaction_id and charge.network_transaction_id:
                self._proved.add((charge.card, charge.network_transaction_id))

    def _refusal(self, card: Card, charge: Operation, request: ChargeIn, now: float) -> str:
        """Key of ``cards.REFUSALS``, or empty."""
        if card.refusal:
            return card.refusal
        first_at = self._first_at.get(_agreement(charge))
        if CLOCK_KEY in charge.metadata:
            now = _when(charge).timestamp()
        worn_out = card.valid_s and first_at is not None and now >= first_at.timestamp() + card.valid_s
        if worn_out or (request.card and _expired(request.card, now)):
            return "expired_card"
        if charge.account == "beta" and card.brand == "amex":
            return "brand_not_accepted"
        if request.customer_present:
            return ""
        if card.authentication == "challenge" and not request.network_transaction_id:
            return "authentication_required"
        if card.eea and (charge.card, request.network_transaction_id or "") not in self._proved:
            return "authentication_required"
        return self._rebill_refusal(card, charge)

    def _rebill_refusal(self, card: Card, charge: Operation) -> str:
        earlier = [self._operations[one] for one in self._rebills.get(_agreement(charge), ())]
        if card.rebills and sum(one.status == "succeeded" for one in earlier) < card.rebills:
            return ""
        if card.rebill_declines:
            same = [one.status for one in earlier if (one.amount, one.currency) == (charge.amount, charge.currency)]
            since = same[::-1].index("succeeded") if "succeeded" in same else len(same)
            if same[len(same) - since :].count("declined") >= card.rebill_declines:
                return ""
        return card.rebill_refusal

    def _card_of(self, charge: Operation) -> Card:
        """The row is found by brand and last four digits: the book holds no number (a test says that they are unique)."""
        return BY_TRACE[charge.card] if charge.card else cards.CARDS[0]

    def _authorise(self, charge: Operation, now: float) -> Operation:
        if reason := cards.DECLINED_AMOUNTS.get(charge.amount):
            return declined(charge, reason)
        if charge.account == "beta" and charge.amount == cards.BETA_DECLINED_AMOUNT:
            return declined(charge, "do_not_honor")
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
        return declined(child, "follow_up_refused") if amount == cards.FOLLOW_UP_REFUSED_AMOUNT else child

    def _count(self, charge: Operation, before: Operation | None, after: Operation, at: float) -> bool:
        """Carry a capture, void or refund over to its charge's totals; whether that changes the charge's status."""
        if charge.status == "requires_action" and after.kind == "void" and after.status == "succeeded":
            given_up = replace(declined(charge, "abandoned"), status="canceled")
            self._operations[charge.id] = given_up
            self._changes[charge.id] = Change(at, charge)
            return True
        grown = _counted(after) - (_counted(before) if before else 0)
        totals = {"voided": charge.voided + (after.released if before is None else 0)}
        if after.kind == "capture":
            totals["captured"] = charge.captured + grown
        elif after.kind == "refund":
            totals["refunded"] = charge.refunded + grown
        self._operations[charge.id] = replace(charge, **totals)
        return False

    def _id(self, prefix: str, account: str) -> str:
        return self._letters(prefix, f"{account}/{len(self._operations) + len(self._reserved)}")

    def _letters(self, prefix: str, name: str) -> str:
        """Letters only, so that no id can look like a card number."""
        return f"{prefix}_{letters(f'{self._seed}/{prefix}/{name}')}"


class Change(msgspec.Struct, frozen=True):
    """When an operation became as it is, and what it was before, if it was."""

    at: float
    before: Operation | None


def letters(name: str) -> str:
    """A name's hash without a digit, so that no id can look like a card number."""
    return hashlib.blake2b(name.encode(), digest_size=10).hexdigest().translate(_HEX_TO_LETTERS)


_Agreement = tuple[str, CardOut | None, str]


def _when(charge: Operation) -> datetime:
    """Of a customer who lives by a test clock, the clock's time; else the simulator's."""
    try:
        told = datetime.fromisoformat(charge.metadata[CLOCK_KEY])
    except (KeyError, ValueError):
        return charge.created_at
    return told if told.tzinfo is not None else charge.created_at


def _agreement(charge: Operation) -> _Agreement:
    """Account, card and mandate; charges without a mandate belong together."""
    return charge.account, charge.card, charge.stored_credential.mandate if charge.stored_credential else ""


BY_TRACE = {CardOut(card.brand, card.number[-4:]): card for card in cards.CARDS}
_HEX_TO_LETTERS = str.maketrans("0123456789", "ghijkmnpqr")


def _expired(card: CardIn, now: float) -> bool:
    today = datetime.fromtimestamp(now, UTC)
    return (int(card.exp_year), int(card.exp_month)) < (today.year, today.month)


def _approved(charge: Operation) -> Operation:
    captured = charge.amount if charge.capture else 0
    fixed = cards.FEES.get(charge.account, cards.FEES["alpha"]).fixed
    return replace(charge, status="succeeded", captured=captured, fee=fixed + _variable_fee(charge.account, captured))


def declined(operation: Operation, reason: str) -> Operation:
    """With a no instead; ``reason`` is a key of ``cards.REFUSALS``."""
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


def _held(dispute: Dispute) -> int:
    return dispute.amount if dispute.status in disputes.TAKES_MONEY else 0


def _variable_fee(account: str, amount: int) -> int:
    """Rounded half up."""
    return (amount * cards.FEES.get(account, cards.FEES["alpha"]).basis_points + 5_000) // 10_000


def _must_be_authorized(charge: Operation) -> None:
    if charge.status == "expired":
        raise RuleBroken(422, "authorization_expired", "The authorisation has lapsed.")
    if charge.status != "succeeded":
        raise RuleBroken(422, "charge_not_authorized", f"The charge is {charge.status}.")


def _closed(charge: Operation) -> RuleBroken:
    if charge.captured:
        return RuleBroken(422, "already_captured", "Nothing is left: the charge is captured.")
    return RuleBroken(422, "charge_voided", "The charge is voided.")
