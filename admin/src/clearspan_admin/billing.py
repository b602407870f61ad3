"""What the pages about customers, subscriptions, invoices and dunning share.

Words for codes, amounts as people type them, and how a refused form says what is wrong with which field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from litestar import Response

from clearspan.customers.service import Customers
from clearspan.journal.checking import Trail
from clearspan.journal.schemas import AuditEntry
from clearspan.journal.service import AuditQuery
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.rebills.dunning import DunningPlans
from clearspan.rebills.plans import BUILT_IN
from clearspan.rebills.schemas import RebillOut
from clearspan.sdk import CURRENCIES
from clearspan_admin import web
from clearspan_admin.shown import Shown
from clearspan_admin.web import Http
from clearspan_admin.words import mark

T = TypeVar("T")
EXPIRES_SOON: Final = timedelta(days=60)
ROWS: Final = 25
"""Of a list."""

# -- Words ----------------------------------------------------------------------------------------------------------------------

REASONS: Final[Mapping[str, str]] = {
    "consent_revoked": mark("The cardholder took back the consent to be charged."),
    "card_stopped": mark("The issuer or the scheme forbids further charges to this card."),
    "sanctions": mark("The issuer points to sanctions: a person has to look at this customer."),
    "fraud": mark("The decline speaks of fraud."),
    "cap_reached": mark("The card has been tried as often as is allowed for now."),
    "cap_for_ever": mark("Cards of this country are not retried by themselves."),
    "outcome_unknown": mark("The outcome of the last charge is not known yet."),
    "payment_in_progress": mark("The customer is paying, or another charge is under way."),
    "subscription_ended": mark("The subscription has ended."),
    "invoice_closed": mark("The invoice is not open any more."),
    "nothing_due": mark("Nothing is left to be paid."),
    "amount_changed": mark("The amount changed after the first try: it has to be settled by hand."),
    "payment_closed": mark("The invoice's payment was canceled or has expired."),
    "plan_over": mark("The last day of the dunning plan has come."),
    "issuer_time": mark("The issuer said when to try again."),
    "data_wanted": mark("The issuer or the PSP wants other card data or another card."),
    "needs_customer": mark("Only the customer can put this right."),
    "authentication": mark("The issuer wants the customer to authenticate."),
    "no_method": mark("There is no payment method that can be charged."),
    "no_mandate": mark("There is no active mandate to charge on."),
    "technical": mark("A technical decline: the same may work soon."),
    "soft": mark("The same may work on another day."),
    "payday": mark("There was not enough money: the next payday is a better day."),
    "generic": mark("The issuer gives no reason: another day and time of day."),
    "restricted": mark("The card is restricted: one more try, not more."),
    "unmapped": mark("Nobody knows this decline code: it is never retried by itself."),
    "tries_used_up": mark("All tries of the dunning plan are used up."),
    "duplicate": mark("The PSP believes it has seen this payment: its messages are waited for."),
    "duplicate_unresolved": mark("The PSP believes it has seen this payment and nothing more was heard: a person has to look."),
    "configuration": mark("The PSP refused the merchant's account, not the customer: it rests until somebody looks."),
    "no_account": mark("No PSP account can take this charge."),
    "not_sent": mark("The last try never reached the PSP; it does not count."),
    "backup": mark("The customer agreed to the use of another stored payment method."),
    "first_try": mark("The first charge of the invoice."),
    "new_method": mark("There is another payment method since the last try."),
    "asked_for": mark("Somebody asked for a charge now."),
    "released": mark("Somebody released the invoice for collection."),
    "refused": mark("The charge was refused before it was sent."),
}  # fmt: skip
"""Reason of a decision (``rebills.models.REASONS``) -> sentence."""

DECLINED: Final[Mapping[str, str]] = {
    "insufficient_funds": mark("Not enough money on the account."),
    "limit_exceeded": mark("A limit of amount or number of payments is reached."),
    "do_not_honor": mark("The issuer refuses without a reason."),
    "generic_decline": mark("The issuer or PSP refuses in general words."),
    "issuer_unavailable": mark("The issuer could not be reached."),
    "processing_error": mark("An error on the way, and certainly nothing was charged."),
    "authentication_required": mark("The issuer wants the payer to authenticate."),
    "expired_card": mark("The card has expired."),
    "invalid_number": mark("There is no such card."),
    "invalid_cvc": mark("The security code is wrong."),
    "avs_mismatch": mark("The address does not match."),
    "lost_card": mark("The card was reported lost."),
    "stolen_card": mark("The card was reported stolen."),
    "pickup_card": mark("The issuer wants the card back."),
    "closed_account": mark("The account is closed."),
    "no_such_issuer": mark("No issuer for this number."),
    "not_permitted": mark("This kind of payment is not allowed with this card or account."),
    "restricted_card": mark("The card is restricted, for instance by country."),
    "blocked_by_holder": mark("The cardholder blocked such payments."),
    "suspected_fraud": mark("The issuer suspects fraud."),
    "psp_risk_blocked": mark("The PSP's own risk check refused."),
    "consent_revoked": mark("The cardholder stopped this merchant's recurring payments."),
    "invalid_merchant": mark("The PSP or scheme does not accept the merchant account."),
    "invalid_currency": mark("The account does not take this currency."),
    "invalid_amount": mark("The amount is outside what the account takes."),
    "duplicate": mark("The PSP believes it has seen this payment: looked up, never charged again."),
    "unmapped": mark("A code that no table knows yet: final, never retried by itself."),
    "action_expired": mark("The payer did not authenticate in time."),
    "psp_misconfigured": mark("The PSP refuses the account's settings."),
}
"""Decline code (``clearspan.sdk.DECLINES``) -> sentence."""

KINDS: Final[Mapping[str, str]] = {
    "soft": mark("Soft: may work another day"),
    "technical": mark("Technical"),
    "generic": mark("Without a reason"),
    "needs_change": mark("The customer has to act"),
    "hard": mark("Final"),
    "fraud": mark("Fraud"),
    "consent": mark("Consent withdrawn"),
    "configuration": mark("Our configuration"),
}
"""``DeclineClass`` -> how a filter names it."""

EVENTS: Final[Mapping[str, str]] = {
    "customer.created": mark("Customer created"),
    "customer.updated": mark("Customer changed: %(changed)s"),
    "customer.deleted": mark("Customer deleted, with all personal data"),
    "payment_method.created": mark("Payment method stored"),
    "payment_method.detached": mark("Payment method detached"),
    "mandate.created": mark("Consent noted"),
    "mandate.activated": mark("Mandate active: a payment of the customer's proved it"),
    "mandate.not_activated": mark("Mandate still pending: the first payment was not authenticated"),
    "mandate.suspended": mark("Mandate suspended after a final decline"),
    "mandate.revoked": mark("Mandate revoked"),
    "subscription.created": mark("Subscribed"),
    "subscription.activated": mark("Subscription active"),
    "subscription.updated": mark("Subscription changed: %(changed)s"),
    "subscription.changed": mark("Items changed"),
    "subscription.past_due": mark("Past due: a charge was declined"),
    "subscription.recovered": mark("Recovered: what was past due is paid"),
    "subscription.paused": mark("Paused"),
    "subscription.resumed": mark("Resumed"),
    "subscription.canceled": mark("Canceled"),
    "subscription.unpaid": mark("Marked unpaid"),
    "subscription.incomplete_expired": mark("Expired: the first payment did not come in time"),
    "invoice.created": mark("Draft made"),
    "invoice.opened": mark("Invoice %(number)s opened"),
    "invoice.payment_failed": mark("A charge was declined: %(code)s"),
    "invoice.paid": mark("Invoice paid"),
    "invoice.voided": mark("Invoice voided"),
    "invoice.marked_uncollectible": mark("Marked uncollectible"),
    "credit_note.created": mark("Credit note made"),
    "rebill.decided": mark("Decided what is done about it"),
    "rebill.stopped": mark("Collection stopped"),
    "rebill.exhausted": mark("The dunning plan is used up"),
    "rebill.released": mark("Released for collection"),
    "payment.created": mark("Payment created"),
    "payment.succeeded": mark("Payment succeeded"),
}

ACTORS: Final[Mapping[str, str]] = {
    "api_key": mark("API key"),
    "operator": mark("Operator"),
    "system": mark("Clearspan"),
    "cli": mark("Command line"),
    "psp": mark("PSP"),
}
UNITS: Final[Mapping[str, str]] = {
    "day": mark("day"),
    "week": mark("week"),
    "month": mark("month"),
    "year": mark("year"),
}
BRANDS: Final[Mapping[str, str]] = {
    "visa": "Visa",
    "mastercard": "Mastercard",
    "amex": "American Express",
    "discover": "Discover",
    "diners": "Diners Club",
    "jcb": "JCB",
    "unionpay": "UnionPay",
}


def words_for() -> dict[str, Any]:
    """What ``billing/parts.html`` needs in its context."""
    return {
        "reasons": REASONS, "declined": DECLINED, "actors": ACTORS, "units": UNITS, "brands": BRANDS, "at_home": at_home,
        "expiry": expiry, "events": EVENTS, "per_period": per_period,
    }  # fmt: skip


def show(request: Http, template: str, **context: Any) -> Response[bytes]:
    """``web.page`` with those words; the status is that of a refusal, when there is one to show."""
    problem = context.get("problem")
    status = problem.status if isinstance(problem, DomainError) else 422 if context.get("wrong") else 200
    wrong = {field: web.say(request, message) for field, message in (context.get("wrong") or {}).items()}
    return web.page(request, template, status=status, **(words_for() | {"problem": None} | context | {"wrong": wrong}))


def at_home(shown: Shown, at: datetime, zone: str) -> str:
    """A moment as it is in another zone; nothing when it reads the same there."""
    there = Shown(shown.locale, zone).minute(at)
    return "" if there == shown.minute(at) else there


def per_period(subscription: Any) -> int:
    """What a whole period of it costs before discount and tax on top, in the smallest unit."""
    return sum(item.quantity * item.unit_amount_minor for item in subscription.items)


def expiry(card: Any) -> str:
    """``expired``, ``soon`` or nothing: a card is good to the end of its month."""
    year, month = (card.exp_year + 1, 1) if card.exp_month == 12 else (card.exp_year, card.exp_month + 1)
    ends = datetime(year, month, 1, tzinfo=clock.now().tzinfo)
    left = ends - clock.now()
    return "expired" if left <= timedelta(0) else "soon" if left <= EXPIRES_SOON else ""


# -- Lists ----------------------------------------------------------------------------------------------------------------------


def place_of(query: str) -> str | None:
    """The page of what an id names, for search fields; ``None`` when it is no id of these pages."""
    for prefix, path in (
        ("cus", "/customers/"),
        ("sub", "/subscriptions/"),
        ("inv", "/invoices/"),
        ("pay", "/payments/"),
    ):
        if query.startswith(f"{prefix}_"):
            try:
                ids.decode(prefix, query)
            except ids.InvalidId:
                return None
            return path + query
    return None


async def names_of(request: Http, customers: Customers, rows: Sequence[Any]) -> dict[str, str]:
    """Name, else e-mail, else reference of the customers of some rows, by public id; nothing for who may not read them."""
    if "customers:read" not in web.who(request).scopes:
        return {}
    wanted = {ids.decode("cus", row.customer) for row in rows}
    found = await customers.people(web.caller_of(request).scope, wanted)
    return {one.id: one.name or one.email or one.reference or "" for one in found.values()}


async def final_action_of(plans: DunningPlans, scope: Scope, rebill: RebillOut) -> str:
    """What the dunning plan of a rebill does on its last day."""
    if rebill.plan is None or rebill.plan.id is None:
        return BUILT_IN.final_action
    found = await plans.get(scope, ids.decode("dun", rebill.plan.id), rebill.plan.version)
    return found.plan.final_action


async def history_of(request: Http, trail: Trail, *, subject: str = "", customer: str = "") -> list[AuditEntry] | None:
    """The newest entries about something; ``None`` for who may read neither the events nor the trail."""
    if not web.who(request).scopes & {"audit:read", "events:read"}:
        return None
    query = AuditQuery(subject=subject or None, customer=customer or None)
    found = (await trail.search(web.caller_of(request).scope, query, limit=40)).data
    # What the calls to a PSP went through stands with their payment.
    return [entry for entry in found if entry.subject.type != "operation"][:20]


# -- Forms ----------------------------------------------------------------------------------------------------------------------


class Wrong(Exception):
    """A form holds what cannot be taken: field -> what is wrong with it, in English, to be translated where it is shown."""

    def __init__(self, **fields: str) -> None:
        super().__init__(", ".join(fields))
        self.fields = fields


_AT = re.compile(r"^(?P<said>.*?) - at `\$\.(?P<field>\w+)")


def body_of(kind: Callable[..., T], document: Mapping[str, Any], messages: Mapping[str, str]) -> T:
    """A form as the request of the API, which checks it.

    Args:
        kind: the request's struct.
        document: what was typed.
        messages: field -> what to say when it is wrong, instead of the checker's own words.

    Raises:
        Wrong.
    """
    try:
        return msgspec.convert(document, kind)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        field = found["field"] if found else next(iter(document), "")
        raise Wrong(**{field: messages.get(field) or (found["said"] if found else str(error))}) from None


def wrong_of(error: InvalidRequest) -> dict[str, str]:
    """Fields and messages of a refusal that names fields; nothing when it names none."""
    found: dict[str, str] = {}
    for one in error.fields.get("errors", ()):
        found[str(one["path"]).rpartition(".")[2]] = str(one["message"])
    return found


AMOUNT_WRONG: Final = mark("Write an amount such as 12.50, without thousands separators.")


def minor_of(text: str, currency: str) -> int | None:
    """``12.50`` or ``12,50`` in the smallest unit; ``None`` when it is no amount of this currency.

    A separator of thousands is not taken: nobody should have to guess what ``1.234`` was meant to be.
    """
    digits = CURRENCIES.get(currency)
    found = re.fullmatch(r"(\d{1,12})(?:[.,](\d+))?", text.strip(), re.ASCII)
    if digits is None or found is None or len(found[2] or "") > digits:
        return None
    try:
        return int(Decimal(f"{found[1]}.{found[2] or 0}").scaleb(digits))
    except InvalidOperation:
        return None


def major_of(amount_minor: int, currency: str) -> str:
    """As ``minor_of`` reads it."""
    digits = CURRENCIES.get(currency, 2)
    return f"{Decimal(amount_minor).scaleb(-digits):.{digits}f}"


def whole(text: str) -> int | None:
    """A whole number, or ``None``."""
    return int(text) if re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII) else None


def day_of(text: str, zone: str) -> datetime | None:
    """The beginning of a day, in the operator's zone; ``None`` when it is no date."""
    try:
        return datetime.combine(date.fromisoformat(text), time(), tzinfo=ZoneInfo(zone))
    except ValueError:
        return None


METADATA_WRONG: Final = mark("Write one name = value per line; names of up to 40 characters, values of up to 500.")


def metadata_of(text: str) -> dict[str, str]:
    """Lines of ``name = value``.

    Raises:
        Wrong: a line is none.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip() or len(name.strip()) > 40 or len(value.strip()) > 500:
            raise Wrong(metadata=METADATA_WRONG)
        found[name.strip()] = value.strip()
    return found


def metadata_text(metadata: Mapping[str, str]) -> str:
    """As ``metadata_of`` reads it."""
    return "\n".join(f"{name} = {value}" for name, value in metadata.items())


def uuid_of(prefix: str, text: str) -> UUID | None:
    """The id in a filter, or ``None``."""
    try:
        return ids.decode(prefix, text)
    except ids.InvalidId:
        return None
