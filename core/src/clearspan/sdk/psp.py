"""PSP adapters: declarations and translations.

An adapter says what its PSP can do (``PspFacts``), turns a request struct into HTTP and reads the answer into an ``Outcome``.
It never retries, never invents a key and never guesses: an undocumented answer is ``OutcomeUnknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Protocol

import httpx
import msgspec

from clearspan.sdk.errors import NotSupported
from clearspan.sdk.money import Money


class Capability(StrEnum):
    """What a PSP account can do; the core refuses the rest before anything is sent."""

    PURCHASE = "purchase"
    AUTHORIZE = "authorize"
    PARTIAL_CAPTURE = "partial_capture"
    MULTIPLE_CAPTURE = "multiple_capture"
    VOID = "void"
    REFUND = "refund"
    PARTIAL_REFUND = "partial_refund"
    THREE_DS = "three_ds"
    MERCHANT_INITIATED = "merchant_initiated"
    VERIFY = "verify"


class SourceKind(StrEnum):
    """Where the money of a charge may come from."""

    CARD = "card"
    """A card in the vault, which fills it in on the way to the PSP (``CardSource``)."""
    TOKEN = "token"  # noqa: S105
    """Something the PSP itself holds: a card on file, or what its own fields in the browser made (``TokenSource``)."""
    REDIRECT = "redirect"
    """Whatever the payer chooses on the PSP's pages: a wallet, a bank (``RedirectSource``)."""


class Idempotency(msgspec.Struct, frozen=True):
    """How the PSP treats a repeated key. The defaults are the most cautious.

    Attributes:
        window: how long the PSP remembers a key; zero means it has none.
        replays_errors: a 4xx/5xx is replayed for the same key instead of being executed again.
        scope: who shares a key space, in the provider's words.
        max_len: longest key the PSP takes, in characters.
        payload_check: the PSP refuses another payload under the same key.
    """

    window: timedelta = timedelta(0)
    replays_errors: bool = False
    scope: str = "unknown"
    max_len: int = 32
    payload_check: bool = False


class Lookup(msgspec.Struct, frozen=True):
    """How an operation can be found again.

    Attributes:
        by_reference: by the merchant reference we send (the operation's id).
        by_psp_ref: by the PSP's id of the operation, once it is known. Without this and ``by_reference`` the PSP is never asked
            (``retrieve`` is not called): webhooks and the same idempotency key tell what became of an operation.
        by_key: by the idempotency key.
        by_time: ``activity`` lists what was done in a span of time.
        lag_max: the longest time a finished operation stays invisible to a lookup.
    """

    by_reference: bool = False
    by_key: bool = False
    by_time: bool = False
    by_psp_ref: bool = True
    lag_max: timedelta = timedelta(hours=24)


class WebhookFacts(msgspec.Struct, frozen=True):
    """How the PSP calls us back.

    Attributes:
        signature: scheme in the provider's words, or ``none``: an unsigned message is a hint and triggers a lookup.
        id_field: where the event's id is, or empty.
        sequence_field: where the event's order is, or empty.
        retry_days: how long the PSP repeats an unanswered message.
        answer: the body of our 200, where the PSP wants a certain one.
    """

    signature: str = "none"
    id_field: str = ""
    sequence_field: str = ""
    retry_days: int = 0
    answer: str = ""


class PspFacts(msgspec.Struct, frozen=True):
    """What is true of a PSP, with its sources in the adapter's docstring. A missing fact takes the most cautious value.

    Attributes:
        capabilities: what the PSP can do.
        currencies: ISO 4217 codes, or empty for all.
        idempotency: see there.
        lookup: see there.
        webhook: see there.
        max_late_effect: the longest time after which a request we sent may still take effect.
        void_window: how long an authorisation can be voided.
        sources: what a charge may be paid with.
        methods: for ``SourceKind.REDIRECT``: the PSP's words for what may be asked for by name; empty: none can.
    """

    capabilities: frozenset[Capability]
    currencies: frozenset[str] = frozenset()
    idempotency: Idempotency = Idempotency()
    lookup: Lookup = Lookup()
    webhook: WebhookFacts = WebhookFacts()
    max_late_effect: timedelta = timedelta(days=7)
    void_window: timedelta = timedelta(days=7)
    sources: frozenset[SourceKind] = frozenset({SourceKind.CARD})
    methods: frozenset[str] = frozenset()


class CardSource(msgspec.Struct, frozen=True):
    """A card in the vault. The four texts are placeholders which the vault fills in on the way to the PSP.

    Attributes:
        token: the vault's token.
        number, exp_month, exp_year, cvc: placeholders, never values. The vault fills in ``MM`` and ``YYYY``.
        network_transaction_id: of the first, customer-initiated payment, when there was one.
        stored_token: what this very PSP account keeps of the card (``Approved.stored_token``), when it does.
    """

    token: str
    number: str
    exp_month: str
    exp_year: str
    cvc: str
    network_transaction_id: str | None = None
    stored_token: str | None = None


class TokenSource(msgspec.Struct, frozen=True):
    """Something the PSP holds for this very account.

    Attributes:
        token: the PSP's reference: what its own fields in the browser made, or what an earlier answer gave as
            ``Approved.stored_token``. Its form is the adapter's affair.
        stored: the token comes from ``Approved.stored_token``.
    """

    token: str
    stored: bool = False


class RedirectSource(msgspec.Struct, frozen=True):
    """Nothing yet: the payer goes to the PSP's pages.

    Attributes:
        method: one of ``PspFacts.methods``, or ``None`` to let him choose there.
    """

    method: str | None = None


Source = CardSource | TokenSource | RedirectSource


class Browser(msgspec.Struct, frozen=True, kw_only=True):
    """The payer's browser as the merchant saw it. PSPs hand it to the issuer for 3-D Secure. Personal data: never log it.

    Attributes:
        ip_address: as text.
        user_agent, accept_header: the request headers of his browser.
        language: BCP 47.
        colour_depth, screen_width, screen_height: bits and pixels.
        timezone_offset_min: minutes from his local time to UTC, as JavaScript's ``getTimezoneOffset``.
    """

    ip_address: str | None = None
    user_agent: str | None = None
    accept_header: str | None = None
    language: str | None = None
    colour_depth: int | None = None
    screen_width: int | None = None
    screen_height: int | None = None
    timezone_offset_min: int | None = None


class StoredCredential(msgspec.Struct, frozen=True, kw_only=True):
    """The customer's consent that a card is kept and charged again (the schemes' stored credential framework).

    Attributes:
        initiator: ``customer`` when he is present, ``merchant`` when he is not.
        purpose: ``recurring`` (fixed periods) or ``unscheduled`` (whenever it is due).
        first: this payment establishes the agreement. Send it so that the PSP asks for a challenge where the law wants one.
            The answer's ``network_transaction_id`` is what later charges rest on.
        mandate: our id of the agreement.
        network_transaction_id: of the payment that established it, on every later one; ``None`` when that PSP gave none.
    """

    initiator: str
    purpose: str
    first: bool
    mandate: str
    network_transaction_id: str | None = None


class ChargeRequest(msgspec.Struct, frozen=True):
    """Authorise or purchase.

    Attributes:
        operation_id: our reference; send it so that ``retrieve`` can find the operation without the PSP's id.
        key: the idempotency key, at most ``Idempotency.max_len`` characters; the same for every try of one operation.
        amount: what to charge; zero (with ``Capability.VERIFY`` only, never to be captured) asks whether the card is good.
        capture: ``True`` for a purchase, ``False`` for an authorisation to be captured later.
        source: what is charged, by reference; of a kind that ``PspFacts.sources`` names.
        customer_present: ``False`` for a merchant-initiated payment.
        return_url: where the payer comes back to after an action.
        webhook_url: where this account's webhooks go, for PSPs that take the address with each request.
        description: for the PSP's own pages; no personal data.
        metadata: short strings for the PSP's records; no personal data.
        credential: the mandate that the charge rests on or establishes, when there is one.
        customer: our id of the customer, for PSPs that group stored credentials by payer.
        browser: the payer's, when the merchant told it; ``None`` also on every later sending of the same operation.
    """

    operation_id: str
    key: str
    amount: Money
    capture: bool
    source: Source
    customer_present: bool = True
    return_url: str | None = None
    webhook_url: str | None = None
    description: str | None = None
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    credential: StoredCredential | None = None
    customer: str | None = None
    browser: Browser | None = None

    def card(self) -> CardSource:
        """The source, for a PSP that takes cards only.

        Raises:
            NotSupported: it is none.
        """
        if not isinstance(self.source, CardSource):
            raise NotSupported("this PSP takes cards from the vault only")
        return self.source


class ContinueRequest(msgspec.Struct, frozen=True):
    """Go on after the payer's action (3DS challenge, redirect).

    Attributes:
        operation_id, key, amount, capture: of the charge that asked for the action.
        psp_ref: the PSP's id of that charge; empty when ``ActionRequired`` gave none.
        params: what came back with the payer (query parameters), possibly empty.
    """

    operation_id: str
    key: str
    amount: Money
    capture: bool
    psp_ref: str
    params: Mapping[str, str] = msgspec.field(default_factory=dict)


class CaptureRequest(msgspec.Struct, frozen=True):
    """Take (part of) an authorised amount; ``final`` releases the rest."""

    operation_id: str
    key: str
    amount: Money
    charge_ref: str
    final: bool


class CancelRequest(msgspec.Struct, frozen=True):
    """Release what is not captured (void), or give up a charge that waits for the payer.

    Attributes:
        charge_ref: the PSP's id of the charge; empty for one that waits and whose ``ActionRequired`` gave none.
        charge_operation_id: our reference of the charge.
    """

    operation_id: str
    key: str
    amount: Money
    charge_ref: str
    charge_operation_id: str = ""


class RefundRequest(msgspec.Struct, frozen=True):
    """Give back (part of) what was captured."""

    operation_id: str
    key: str
    amount: Money
    charge_ref: str
    reason: str | None = None


class RetrieveRequest(msgspec.Struct, frozen=True):
    """Find an operation: by the PSP's id when known, else by our reference.

    Attributes:
        kind: ``authorize``, ``purchase``, ``capture``, ``void`` or ``refund``.
        amount: what the operation asked for.
        psp_ref: the PSP's id of this operation, when it is known.
        charge_ref: the PSP's id of the charge it belongs to (captures, voids, refunds).
        created_at: when the operation was reserved, aware UTC: nothing about it at the PSP is older.
    """

    operation_id: str
    key: str
    kind: str
    amount: Money
    psp_ref: str | None = None
    charge_ref: str | None = None
    created_at: datetime | None = None


class RedirectAction(msgspec.Struct, frozen=True):
    """Send the payer's browser to ``url``; it comes back to the request's ``return_url``."""

    url: str


class Authentication(msgspec.Struct, frozen=True, kw_only=True):
    """How the payer was authenticated (3-D Secure). There is no field for the CAVV: it is never stored and never logged.

    Attributes:
        challenged: the payer had to prove who he is; ``False`` when the issuer let him pass without.
        version: of the protocol.
        eci: the electronic commerce indicator.
        ds_transaction_id: the directory server's id of the authentication.
    """

    challenged: bool
    version: str | None = None
    eci: str | None = None
    ds_transaction_id: str | None = None


class Approved(msgspec.Struct, frozen=True, kw_only=True, tag="approved"):
    """The PSP says the operation took effect.

    Attributes:
        psp_ref: the PSP's id of *this* operation, of no other one of the account. Where the PSP gives a capture or void no id of
            its own, ``charge_ref/capture`` and ``charge_ref/void``.
        amount: what the PSP says it did; the core compares it with what was asked and treats a difference as unknown.
        network_transaction_id: for later merchant-initiated payments, when given.
        fee: what the PSP keeps for this operation, when it says so; not negative.
        authentication: of charges, when the PSP says how the payer was authenticated.
        stored_token: what this PSP account takes as ``TokenSource`` for later charges, when it keeps something for us.
        raw: the answer; the core masks it before it is stored.
    """

    psp_ref: str
    amount: Money
    network_transaction_id: str | None = None
    fee: Money | None = None
    authentication: Authentication | None = None
    stored_token: str | None = None
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Declined(msgspec.Struct, frozen=True, kw_only=True, tag="declined"):
    """The issuer or the PSP said no, finally.

    Attributes:
        code: one of the gateway's normalised codes (docs/declines.md); ``unmapped`` when the table has no row.
        raw_code: the PSP's own code.
        advice: the scheme's or PSP's advice code, when given.
        network_code: the scheme's response code, when given.
        message: the PSP's words for operators; never shown to the payer.
        psp_ref: the PSP's id, when it made one.
        raw: the answer.
    """

    code: str
    raw_code: str = ""
    advice: str | None = None
    network_code: str | None = None
    message: str | None = None
    psp_ref: str | None = None
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class ActionRequired(msgspec.Struct, frozen=True, kw_only=True, tag="action_required"):
    """The payer must act first.

    Attributes:
        psp_ref: the PSP's id of the charge; ``None`` when it gives the lasting one only after the action.
        action: where the payer goes.
        expires_at: aware UTC, or ``None`` for the core's default.
        raw: the answer.
    """

    psp_ref: str | None
    action: RedirectAction
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Pending(msgspec.Struct, frozen=True, kw_only=True, tag="pending"):
    """Accepted; the result comes later by webhook or lookup."""

    psp_ref: str
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class NotFound(msgspec.Struct, frozen=True, kw_only=True):
    """Only from ``retrieve``: the PSP knows no such operation. Not a proof that nothing will happen."""

    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


Outcome = Approved | Declined | ActionRequired | Pending


class WebhookDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it came in.

    Attributes:
        headers: names in lower case; of a repeated header the values joined by ``, ``.
        body: the raw bytes that a signature speaks for.
        query: parameters of the URL.
        received_at: aware UTC, by the database's clock.
        url: the account's webhook address as it is told to people and PSPs, for PSPs that sign it too; empty when this
            installation does not know its own address.
    """

    headers: Mapping[str, str]
    body: bytes
    query: Mapping[str, str]
    received_at: datetime
    url: str = ""


class OperationNews(msgspec.Struct, frozen=True, kw_only=True, tag="operation"):
    """What a PSP says, unasked or in a list, about one operation.

    Attributes:
        kind: ``charge``, ``capture``, ``void`` or ``refund``.
        reference: the operation's id as we sent it, when the message holds it.
        psp_ref: the PSP's id of the operation.
        charge_ref: the PSP's id of the charge it belongs to (captures, voids, refunds).
        outcome: how it stands.
        amount: what it was for; ``None`` when the message does not say.
        capture: of charges: ``False`` for an authorisation; ``None`` when the message does not say.
        at: when the PSP did it, aware UTC, when it says so.
        metadata: of charges: what was sent with the charge, as far as the message holds it.
    """

    kind: str
    outcome: Outcome
    reference: str | None = None
    psp_ref: str | None = None
    charge_ref: str | None = None
    amount: Money | None = None
    capture: bool | None = None
    at: datetime | None = None
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)


class DisputeStatus(StrEnum):
    """Where a dispute stands. Stripe's eight statuses map one to one; ``returned`` is a bank's return without a dispute."""

    INQUIRY = "inquiry"
    INQUIRY_CLOSED = "inquiry_closed"
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    WON = "won"
    LOST = "lost"
    ACCEPTED = "accepted"
    EXPIRED = "expired"
    PRE_ARBITRATION = "pre_arbitration"
    PREVENTED = "prevented"
    RETURNED = "returned"


class DisputeNews(msgspec.Struct, frozen=True, kw_only=True, tag="dispute"):
    """What a PSP says about a dispute, or about a direct debit that a bank gave back (``returned``).

    Attributes:
        dispute_ref: the PSP's id of the dispute.
        status: where it stands.
        amount: what is disputed.
        charge_ref: the PSP's id of the charge.
        reference: our id of the charge, when the message holds it.
        reason: the PSP's word for why.
        network_code: the scheme's reason code.
        evidence_due_at: until when the PSP takes evidence, aware UTC.
        raw: the message.
    """

    dispute_ref: str
    status: DisputeStatus
    amount: Money
    charge_ref: str | None = None
    reference: str | None = None
    reason: str | None = None
    network_code: str | None = None
    evidence_due_at: datetime | None = None
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Hint(msgspec.Struct, frozen=True, kw_only=True, tag="hint"):
    """Something happened to an operation; the core looks it up. All that an unsigned or bare message may be.

    Attributes:
        kind: ``charge``, ``capture``, ``void`` or ``refund``, when the message says it.
        reference: our id of the operation, when the message holds it.
        psp_ref: the PSP's id of it.
    """

    kind: str | None = None
    reference: str | None = None
    psp_ref: str | None = None


News = OperationNews | DisputeNews | Hint


class WebhookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a message.

    Attributes:
        event_id: the PSP's id of the event, the same whenever it is sent again; empty when it has none.
        type: the PSP's word for it.
        news: what it says; ``None`` when it is of no interest to a payment.
        sequence: the PSP's own order of events about this object, when it declares one.
    """

    event_id: str
    type: str
    news: News | None
    sequence: int | None = None


class PspContext(msgspec.Struct, frozen=True):
    """What the core hands to an adapter.

    Attributes:
        http: for calls without card data.
        vault_http: the same, but a request whose extensions carry ``vault_token`` goes through the vault, which replaces the
            placeholders of ``CardSource``. ``Wire.call`` does it; by hand: ``request.extensions["vault_token"] = source.token``.
        live: the account is one of live mode: choose the PSP's host by it.
        now: the time, aware UTC; never ask the system's clock.
    """

    http: httpx.AsyncClient
    vault_http: httpx.AsyncClient
    live: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


class PspAdapter(Protocol):
    """One PSP. An instance belongs to one PSP account: it holds that account's settings and HTTP pool.

    Every verb raises ``PspUnavailable``, ``OutcomeUnknown`` or ``PspMisconfigured`` as ``clearspan.sdk.errors`` defines them;
    whatever else is raised counts as unknown.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[msgspec.Struct]]
    facts: ClassVar[PspFacts]

    def __init__(self, config: Any, context: PspContext) -> None:
        """Keep both; no I/O here."""
        ...

    async def create_intent(self, request: ChargeRequest) -> Outcome:
        """Authorise or purchase."""
        ...

    async def continue_intent(self, request: ContinueRequest) -> Outcome:
        """Go on after the payer's action."""
        ...

    async def capture(self, request: CaptureRequest) -> Outcome:
        """Capture."""
        ...

    async def cancel(self, request: CancelRequest) -> Outcome:
        """Void."""
        ...

    async def refund(self, request: RefundRequest) -> Outcome:
        """Refund."""
        ...

    async def retrieve(self, request: RetrieveRequest) -> Outcome | NotFound:
        """Look an operation up."""
        ...

    async def verify_webhook(self, delivery: WebhookDelivery) -> Sequence[WebhookEvent]:
        """Check a message's signature over its raw bytes, in constant time, and read it.

        Raises:
            WebhookRejected: the signature is missing, wrong, too old or of another account.
            OutcomeUnknown: it is signed, and not readable: the core keeps it for a human.
        """
        ...

    async def activity(self, since: datetime, until: datetime) -> Sequence[News]:
        """Everything the PSP did for this account in a span of time, oldest first; called when ``Lookup.by_time`` says so."""
        ...


class SettlementKind(StrEnum):
    """What a line of a settlement is about."""

    CHARGE = "charge"
    REFUND = "refund"
    DISPUTE = "dispute"
    DISPUTE_REVERSED = "dispute_reversed"
    FEE = "fee"
    PAYOUT = "payout"
    ADJUSTMENT = "adjustment"


class SettlementLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what a PSP pays out. Amounts are signed as seen from the merchant: a refund is negative, a fee too.

    Attributes:
        kind: what it is about; ``adjustment`` for whatever the adapter has no word for.
        line_ref: the PSP's id of the line, the same whenever it is read again.
        gross, fee, net: ``gross + fee = net``, all in the currency of the settlement.
        psp_ref: the PSP's id of the charge or refund.
        reference: our operation's id, when the line holds it.
        batch: the PSP's id of the payout or report.
        booked_at: aware UTC.
        raw: the line.
    """

    kind: SettlementKind
    line_ref: str
    gross: Money
    fee: Money
    net: Money
    psp_ref: str | None = None
    reference: str | None = None
    batch: str | None = None
    booked_at: datetime | None = None
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class ChecksAccount(Protocol):
    """An adapter that can tell whether an account's settings work. Optional: implement the method and nothing else."""

    async def check_account(self) -> None:
        """Make a call that moves nothing.

        Raises:
            PspMisconfigured: the PSP does not take the credentials.
            PspUnavailable, OutcomeUnknown: it could not be asked.
        """
        ...


class FetchesSettlements(Protocol):
    """An adapter whose PSP lists its settlements by API. Optional."""

    async def fetch_settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:
        """What was booked in a span of time, oldest first."""
        ...


class ReadsSettlements(Protocol):
    """An adapter whose PSP publishes settlement reports as files. Optional."""

    def read_settlements(self, report: bytes) -> Sequence[SettlementLine]:
        """The lines of one report.

        Raises:
            ValueError: it is none, or not as documented; the message says where.
        """
        ...
