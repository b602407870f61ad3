"""What customers are written: made when it is sent, of what is true then.

A notice is claimed under a lease, rendered, handed to the mail server and marked. A crash in between sends it again, with
the same Message-ID, by which mail programs show it once.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cache
from importlib import resources
from typing import Any
from uuid import UUID

import jinja2
import msgspec
import structlog
from sqlalchemy import ColumnElement

from clearspan.customers.service import Customers
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.platform.problems import NotFound
from clearspan.rebills.mail import Mailer, MailNotSent, new_message
from clearspan.rebills.notices_models import NoticeRow, NoticeRows
from clearspan.rebills.notices_schemas import NoticeFilters, NoticeList, notice_out
from clearspan.settings import MailSettings
from clearspan.subscriptions import languages
from clearspan.subscriptions.documents import Documents, Party, clean
from clearspan.subscriptions.invoices import Invoices
from clearspan.subscriptions.invoices_schemas import CreditNoteOut, InvoiceOut

log = structlog.get_logger("clearspan.notices")
BATCH = 10
BATCHES = 100
"""One job sends so many batches at most; what is left is due in the next sweep."""
LEASE_MARGIN_S = 60
POSTPONED = timedelta(hours=1)
RETRY = timedelta(minutes=2)
"""Before the second try; each further one waits three times as long, a day at most."""
RETRY_MAX = timedelta(days=1)
_ASKING = frozenset({"payment_failed", "reminder", "action_needed", "pre_debit"})
"""They ask for a payment, so they are wrong as soon as there is nothing to pay."""
_ATTACHED = frozenset({"invoice", "receipt"})
KINDS = (
    "invoice", "receipt", "payment_failed", "reminder", "action_needed", "card_expiring", "trial_ending", "pre_debit",
    "subscription_canceled", "credit_note",
)  # fmt: skip


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed row."""

    notice_id: UUID
    kind: str
    customer_id: UUID
    subscription_id: UUID | None
    invoice_id: UUID | None
    credit_note_id: UUID | None
    dedupe: str
    tries: int


class _Subscription(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    payment_method_id: UUID | None
    trial_end_at: datetime | None
    current_period_end: datetime
    ended_at: datetime | None
    what: str | None


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    subscription: _Subscription | None
    retry_at: datetime | None


class Dropped(Exception):
    """It is not to be sent any more; ``str()`` is the reason, a word."""


class Postponed(Exception):
    """What it would say is not known yet; ``str()`` is the reason, a word."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The words of a mail."""

    subject: str
    text: str
    html: str


class Notices:
    """Sends what is due."""

    def __init__(
        self,
        db: Database,
        invoices: Invoices,
        documents: Documents,
        customers: Customers,
        mailer: Mailer,
        settings: MailSettings,
    ) -> None:
        self._db = db
        self._invoices = invoices
        self._documents = documents
        self._customers = customers
        self._mailer = mailer
        self._settings = settings

    async def list(self, scope: Scope, filters: NoticeFilters, limit: int, cursor: str | None) -> NoticeList:
        """Mails to customers, newest first: sent, waiting, given up, or not sent and why.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        conditions: Sequence[ColumnElement[bool]] = [
            *([] if filters.invoice_id is None else [NoticeRow.invoice_id == filters.invoice_id]),
            *([] if filters.customer_id is None else [NoticeRow.customer_id == filters.customer_id]),
            *([] if filters.state is None else [NoticeRow.state == filters.state]),
        ]
        async with self._db.begin(scope) as session:
            page = await NoticeRows(session).page(scope, *conditions, limit=limit, cursor=cursor)
        data = [notice_out(row) for row in page.rows]
        return NoticeList(object="list", data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)

    async def send(
        self, scope: Scope, request_id: str, *, at: datetime | None = None, test_clock_id: UUID | None = None
    ) -> int:
        """Send every notice that is due.

        Args:
            scope: whose.
            request_id: of the run, for the log.
            at: the moment to send for; default now. A test clock's own time with ``test_clock_id``.
            test_clock_id: only what hangs on this clock; default: only what hangs on none.

        Returns:
            how many were looked at.
        """
        done = 0
        for _ in range(BATCHES):
            now = at or clock.now()
            lease = clock.new_uuid()
            document = {
                "tenant_id": scope.tenant_id,
                "live": scope.live,
                "at": now,
                "most": BATCH,
                "test_clock_id": test_clock_id,
                "lease_token": lease,
                "lease_until": now + timedelta(seconds=self._settings.timeout_s + LEASE_MARGIN_S),
            }
            claimed = msgspec.json.decode(await self._db.call("notices_claim", document), type=list[Notice])
            await asyncio.gather(*(self._one(scope, notice, lease, now, request_id) for notice in claimed))
            done += len(claimed)
            if len(claimed) < BATCH:
                break
        return done

    async def _one(self, scope: Scope, notice: Notice, lease: UUID, at: datetime, request_id: str) -> None:
        became: dict[str, Any] = {"state": "sent"}
        try:
            self._check_tries(notice)
            message = await self.message(scope, notice, at)
            await self._mailer.send(message, ids.encode("ntc", notice.notice_id))
        except Dropped as reason:
            became = {"state": "dropped", "error": str(reason)}
        except Postponed as reason:
            became = {"state": "queued", "error": str(reason), "due_at": at + POSTPONED, "postponed": True}
        except MailNotSent as error:
            wait = min(RETRY * 3 ** (notice.tries - 1), RETRY_MAX)
            last = notice.tries >= self._settings.tries_max
            became = {"state": "failed" if last else "queued", "error": str(error), "due_at": at + wait}
            log.warning(
                "mail not sent",
                notice=ids.encode("ntc", notice.notice_id),
                tries=notice.tries,
                error=str(error),
                last=last,
            )
        place = {"tenant_id": scope.tenant_id, "live": scope.live, "notice_id": notice.notice_id, "lease_token": lease}
        await self._db.call("notice_done", place | {"at": at} | became)
        log.info("notice", kind=notice.kind, state=became["state"], request_id=request_id)

    def _check_tries(self, notice: Notice) -> None:
        if notice.tries > self._settings.tries_max:  # Every try before ended with its process, or in a bug.
            raise MailNotSent("given up")

    async def message(self, scope: Scope, notice: Notice, at: datetime) -> EmailMessage:
        """The mail as it would be sent now.

        Raises:
            Dropped, Postponed.
        """
        party = await self._documents.party(scope, notice.customer_id, notice.subscription_id)
        if party.customer.deleted_at is not None:
            raise Dropped("customer_deleted")
        if not party.mails:
            raise Dropped("mails_off")
        if party.customer.email is None:
            raise Dropped("no_email")
        try:
            recipient = Address(display_name=clean(party.customer.name or "", 100), addr_spec=party.customer.email)
        except (HeaderParseError, ValueError, IndexError):
            raise Dropped("address_invalid") from None
        invoice = None if notice.invoice_id is None else await self._invoices.get(scope, notice.invoice_id)
        note = (
            None
            if notice.credit_note_id is None
            else await self._invoices.get_credit_note(scope, notice.credit_note_id)
        )
        _still_true(notice.kind, invoice)
        facts = await self._facts(scope, notice)
        if notice.kind in ("trial_ending", "card_expiring") and (
            facts.subscription is None or facts.subscription.status in ("canceled", "incomplete_expired")
        ):
            raise Dropped("subscription_ended")
        if (
            notice.kind == "card_expiring"
            and str(facts.subscription and facts.subscription.payment_method_id) not in notice.dedupe
        ):
            raise Dropped("card_changed")
        values = await self._values(scope, party, invoice, note, facts, at)
        written = write(notice.kind, party.language, values, live=scope.live)
        message = new_message(party.customer.email)
        domain = self._settings.sender.rpartition("@")[2]
        message["Message-ID"] = f"<{ids.encode('ntc', notice.notice_id)}@{domain}>"
        message["Date"] = format_datetime(clock.now())
        message["From"] = Address(display_name=party.seller.name[:100], addr_spec=self._settings.sender)
        message["To"] = recipient
        if party.seller.email is not None and re.fullmatch(
            r"[\w.+-]{1,64}@[\w.-]{1,190}", party.seller.email, re.ASCII
        ):
            message["Reply-To"] = party.seller.email
        message["Subject"] = written.subject
        message["Auto-Submitted"] = "auto-generated"
        message["Content-Language"] = party.language
        message.set_content(written.text)
        message.add_alternative(written.html, subtype="html")
        if notice.kind in _ATTACHED and notice.invoice_id is not None:
            _attach(message, *await self._documents.invoice(scope, notice.invoice_id))
        if notice.kind == "credit_note" and notice.credit_note_id is not None:
            _attach(message, *await self._documents.credit_note(scope, notice.credit_note_id))
        return message

    async def _facts(self, scope: Scope, notice: Notice) -> _Facts:
        document = {
            "tenant_id": scope.tenant_id,
            "live": scope.live,
            "subscription_id": notice.subscription_id,
            "invoice_id": notice.invoice_id,
        }
        return msgspec.json.decode(await self._db.call("notice_facts", document), type=_Facts)

    async def _values(
        self,
        scope: Scope,
        party: Party,
        invoice: InvoiceOut | None,
        note: CreditNoteOut | None,
        facts: _Facts,
        at: datetime,
    ) -> dict[str, Any]:
        language = party.language

        def date(moment: datetime | None) -> str | None:
            return None if moment is None else languages.date(moment, language, party.zone)

        values: dict[str, Any] = {
            "seller": party.seller.name,
            "name": clean(party.customer.name, 100) if party.customer.name else None,
            "footer": " · ".join([party.seller.name, *party.seller.address, *([party.seller.email or ""])]).strip(" ·"),
            "soon": date(at),
            "retry_at": date(facts.retry_at) if facts.retry_at is not None and facts.retry_at > at else None,
        }
        values |= dict.fromkeys(
            ("number", "left", "due", "url", "card", "card_expiry", "what", "trial_end", "period_end", "ended")
        )
        values |= dict.fromkeys(("credit_number", "credit_amount", "settled"))
        if invoice is not None:
            values |= {
                "number": clean(invoice.number or "", 60),
                "due": languages.money(invoice.due_minor, invoice.currency, language),
                "left": languages.money(invoice.left_minor, invoice.currency, language) if invoice.left_minor else None,
                "url": invoice.pay_url,
            }
        if note is not None:
            values |= {
                "credit_number": clean(note.number, 60),
                "credit_amount": languages.money(note.amount_minor, note.currency, language),
                "settled": languages.words(language, "document")[note.settled_by],
            }
        subscription = facts.subscription
        if subscription is not None:
            values |= {
                "what": clean(subscription.what or ""),
                "trial_end": date(subscription.trial_end_at),
                "period_end": date(subscription.current_period_end),
                "ended": date(subscription.ended_at),
            }
            if subscription.payment_method_id is not None:
                try:
                    card = (await self._customers.get_method(scope, subscription.payment_method_id)).card
                except NotFound:
                    return values
                if card is None:
                    return values
                values |= {
                    "card": f"{card.brand.title()} •••• {card.last4}",
                    "card_expiry": f"{card.exp_month:02}/{card.exp_year}",
                }
        return values


def _still_true(kind: str, invoice: InvoiceOut | None) -> None:
    """Whether there is still a reason to write; raises ``Dropped`` or ``Postponed`` when not."""
    if invoice is None:
        return
    if kind == "invoice" and invoice.status in ("draft", "void"):
        raise Dropped(f"invoice_{invoice.status}")
    if kind in _ASKING:
        if invoice.left_minor <= 0:
            raise Dropped(f"invoice_{invoice.status}")
        if invoice.payment_locked:  # Nobody knows whether there is anything left to pay.
            raise Postponed("payment_under_way")


def write(kind: str, language: str, values: Mapping[str, Any], *, live: bool) -> Written:
    """Subject, text and HTML of a kind of notice; whatever ``values`` hold is text, never markup.

    Args:
        values: amounts, dates and names as they are to be read; ``url`` is where the button leads.
    """
    said = _texts(language)
    layout, own = said["layout"], said[kind]
    plain, marked = _environments()

    def line(source: str) -> str:
        return plain.from_string(source).render(values)

    subject = clean(line(own["subject"]).replace("\n", " "), 250)
    button = line(own["button"]) if "button" in own and values["url"] is not None and values["left"] else None
    shown = {
        "language": language,
        "subject": subject,
        "greeting": line(layout["greeting"] if values["name"] else layout["greeting_nameless"]),
        "paragraphs": [line(paragraph) for paragraph in own["body"]],
        "button": button,
        "url": values["url"],
        "farewell": layout["farewell"],
        "seller": values["seller"],
        "footer": values["footer"],
        "test": None if live else layout["test"],
    }
    return Written(
        subject=subject,
        text=plain.get_template("mail.txt").render(shown),
        html=marked.get_template("mail.html").render(shown),
    )


@cache
def _texts(language: str) -> dict[str, Any]:
    text = resources.files("clearspan.rebills").joinpath("texts", f"{language}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _environments() -> tuple[jinja2.Environment, jinja2.Environment]:
    """One for plain text and one that escapes; both fail on a name that is not there."""
    loader = jinja2.PackageLoader("clearspan.rebills")
    plain = jinja2.Environment(
        loader=loader,
        autoescape=False,  # noqa: S701  (plain text has nothing to escape)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    marked = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return plain, marked


def _attach(message: EmailMessage, name: str, content: bytes) -> None:
    message.add_attachment(content, maintype="application", subtype="pdf", filename=f"{name}.pdf")
