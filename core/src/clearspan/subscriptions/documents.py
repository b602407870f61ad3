"""Invoices and credit notes as PDF: A4, in the customer's language.

Typeset by typst from one template that takes data and no markup, with the fonts that come inside its wheel (Libertinus,
SIL Open Font License 1.1): Latin, Greek and Cyrillic are there, nothing of the machine is read. The document is made
from the row whenever it is asked for; an open invoice does not change, so neither does what its PDF asks for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import typst
from sqlalchemy import text

from clearspan.customers.schemas import CustomerOut
from clearspan.customers.service import Customers
from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.subscriptions import languages
from clearspan.subscriptions.invoices import Invoices
from clearspan.subscriptions.invoices_errors import InvoiceWithoutDocument
from clearspan.subscriptions.invoices_schemas import CreditNoteOut, InvoiceOut
from clearspan.tenants.service import Tenants

_UNSEEN = re.compile("[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Control characters, and those that turn the direction of a text: a name could show another amount with them."""
NAME_MAX = 300
_UNBROKEN = re.compile(r"[^\s\u200b]{22}(?=[^\s\u200b]{8})")


class Seller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends invoices, as ``billing_settings.seller`` has it."""

    name: str
    address: list[str]
    tax_id: str | None = None
    email: str | None = None


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """What a document or a mail needs besides the invoice.

    Attributes:
        language: the customer's, else the tenant's.
        zone: of the subscription; dates are written in it.
        mails: whether the tenant wants customers to be written to.
    """

    seller: Seller
    customer: CustomerOut
    language: str
    zone: ZoneInfo
    mails: bool


class Documents:
    """Makes the PDFs of a tenant in one mode."""

    def __init__(self, db: Database, tenants: Tenants, customers: Customers, invoices: Invoices) -> None:
        self._db = db
        self._tenants = tenants
        self._customers = customers
        self._invoices = invoices
        self._setting = asyncio.Semaphore(2)  # A long invoice takes a core for a moment: never all of them.

    async def party(self, scope: Scope, customer_id: UUID, subscription_id: UUID | None) -> Party:
        """Seller, customer and language."""
        async with self._db.begin(scope) as session:
            place = {"tenant": scope.tenant_id, "live": scope.live, "subscription": subscription_id}
            own = (
                await session.execute(
                    text(
                        "SELECT seller, language, mails FROM billing_settings WHERE tenant_id = :tenant AND live = :live"
                    ),
                    place,
                )
            ).one_or_none()
            zone = await session.scalar(
                text(
                    "SELECT time_zone FROM subscriptions"
                    " WHERE tenant_id = :tenant AND live = :live AND subscription_id = :subscription"
                ),
                place,
            )
        customer = await self._customers.get(scope, customer_id)
        seller = _seller(dict(own.seller) if own is not None else {}, (await self._tenants.get(scope.tenant_id)).name)
        return Party(
            seller=seller,
            customer=customer,
            language=customer.language or (own.language if own is not None else "en"),
            zone=ZoneInfo(zone or "UTC"),
            mails=own is None or own.mails,
        )

    async def invoice(self, scope: Scope, invoice_id: UUID) -> tuple[str, bytes]:
        """File name and content.

        Raises:
            NotFound: no such invoice.
            InvoiceWithoutDocument: it is a draft.
        """
        invoice = await self._invoices.get(scope, invoice_id)
        if invoice.number is None:
            raise InvoiceWithoutDocument(invoice_status=invoice.status)
        party = await self.party(scope, ids.decode("cus", invoice.customer), _subscription(invoice))
        return file_name(invoice.number), await self._set(_invoice(invoice, party))

    async def credit_note(self, scope: Scope, note_id: UUID) -> tuple[str, bytes]:
        """File name and content.

        Raises:
            NotFound: no such credit note.
        """
        note = await self._invoices.get_credit_note(scope, note_id)
        invoice = await self._invoices.get(scope, ids.decode("inv", note.invoice))
        party = await self.party(scope, ids.decode("cus", invoice.customer), _subscription(invoice))
        return file_name(note.number), await self._set(_credit_note(note, invoice, party))

    async def _set(self, data: dict[str, Any]) -> bytes:
        async with self._setting:
            return await asyncio.to_thread(render, data)


def render(data: dict[str, Any]) -> bytes:
    """Typeset; takes some milliseconds to a second of CPU, outside Python's lock."""
    made: bytes = typst.compile(
        _template(),
        sys_inputs={"data": msgspec.json.encode(_broken(data)).decode()},
        ignore_system_fonts=True,
        timestamp=datetime(2000, 1, 1, tzinfo=UTC),  # The same document gives the same bytes.
    )
    return made


def _broken(value: Any) -> Any:
    """The same with a place to break after every so many letters without a space, so that no word leaves the page."""
    match value:
        case str() if not value.startswith(("http://", "https://")):
            return _UNBROKEN.sub("\\g<0>\u200b", value)
        case list():
            return [_broken(each) for each in value]
        case dict():
            return {name: _broken(each) for name, each in value.items()}
    return value


@cache
def _template() -> bytes:
    return resources.files("clearspan.subscriptions").joinpath("templates", "document.typ").read_bytes()


def clean(said: str, most: int = NAME_MAX) -> str:
    """What people typed, fit to be printed on a line: bounded, and without characters that are not seen."""
    said = _UNSEEN.sub("", re.sub(r"\s+", " ", said)).strip()
    return said if len(said) <= most else f"{said[: most - 1]}…"


def file_name(number: str) -> str:
    """A number as the name of a file; prefixes are the tenant's own text."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", number)[:60] or "document"


def customer_lines(customer: CustomerOut, language: str) -> list[str]:
    """Name and address as they stand on a letter; of a deleted customer the id."""
    address = customer.address
    found: list[str | None] = [customer.name]
    if address is not None:
        city = " ".join(part for part in (address.postal_code, address.city) if part)
        found += [address.line1, address.line2, city, address.state, languages.country(address.country, language)]
    elif customer.email is not None:
        found.append(customer.email)
    return [clean(part) for part in found if part] or [customer.id]


def _seller(given: dict[str, Any], name: str) -> Seller:
    address = given.get("address") or given.get("address_lines") or []
    rows = address.splitlines() if isinstance(address, str) else [str(each) for each in address]
    return Seller(
        name=clean(str(given.get("name") or name)),
        address=[clean(row) for row in rows if row.strip()][:8],
        tax_id=clean(str(given["tax_id"])) if given.get("tax_id") else None,
        email=clean(str(given["email"])) if given.get("email") else None,
    )


def _subscription(invoice: InvoiceOut) -> UUID | None:
    return None if invoice.subscription is None else ids.decode("sub", invoice.subscription)


def _frame(party: Party, live: bool) -> dict[str, Any]:
    said = languages.words(party.language, "document")
    seller = party.seller
    more = [f"{said['tax_id']}: {seller.tax_id}"] if seller.tax_id else []
    return {
        "language": party.language,
        "seller": {"name": seller.name, "lines": [*seller.address, *([seller.email] if seller.email else []), *more]},
        "customer": customer_lines(party.customer, party.language),
        "to": said["to"],
        "page": said["page"],
        "footer": [seller.name, *more],
        "note": None if live else said["test"],
    }


def _invoice(invoice: InvoiceOut, party: Party) -> dict[str, Any]:
    language = party.language
    said = languages.words(language, "document")

    def money(minor: int) -> str:
        return languages.money(minor, invoice.currency, language)

    def date(moment: datetime) -> str:
        return languages.date(moment, language, party.zone)

    facts = [{"name": said["number"], "value": clean(invoice.number or "")}]
    facts.append({"name": said["date"], "value": date(invoice.opened_at or invoice.created_at)})
    if invoice.period_end > invoice.period_start:
        facts.append({"name": said["period"], "value": f"{date(invoice.period_start)} –\n{date(invoice.period_end)}"})
    if invoice.paid_at is not None:
        facts.append({"name": said["paid_on"], "value": date(invoice.paid_at)})
    taxed = any(line.tax_minor or line.tax_name for line in invoice.lines)
    rows = []
    for line in invoice.lines:
        rate = "" if line.tax_rate_bp is None else languages.percent(line.tax_rate_bp, language)
        cells = [languages.number(line.quantity, language), money(line.unit_amount_minor)]
        cells += [rate or (money(line.tax_minor) if line.tax_minor else "–")] if taxed else []
        notes = []
        if line.discount_minor:
            notes.append(f"{said['discount']}: {money(-line.discount_minor)}")
        if line.kind == "proration" and line.period_start and line.period_end:
            notes.append(f"{date(line.period_start)} – {date(line.period_end)}")
        rows.append(
            {
                "name": clean(line.description, 500),
                "note": "  ·  ".join(notes) or None,
                "cells": [*cells, money(line.amount_minor)],
            }
        )
    sums: list[tuple[str, int, bool]] = []
    added = [tax for tax in invoice.taxes if not tax.inclusive]
    if invoice.discount_minor or added:
        sums.append((said["subtotal"], invoice.subtotal_minor, False))
    if invoice.discount_minor:
        sums.append((said["discount"], -invoice.discount_minor, False))
    sums += [
        (said["tax_added"].format(name=_tax(tax.name, tax.rate_bp, language)), tax.tax_minor, False) for tax in added
    ]
    sums.append((said["total"], invoice.total_minor, True))
    sums += [
        (said["tax_included"].format(name=_tax(tax.name, tax.rate_bp, language)), tax.tax_minor, False)
        for tax in invoice.taxes
        if tax.inclusive
    ]
    if invoice.credit_used_minor:
        sums.append((said["credit_used"], -invoice.credit_used_minor, False))
    if invoice.credited_minor:
        sums.append((said["credited"], -invoice.credited_minor, False))
    if invoice.status in ("open", "uncollectible"):
        if invoice.left_minor != invoice.total_minor:
            sums.append((said["due"], invoice.left_minor, True))
    elif invoice.status == "paid":
        sums.append((said["paid"], invoice.due_minor - _reduced(invoice), False))
    return _frame(party, invoice.live) | {
        "title": f"{said['invoice']} {clean(invoice.number or '')}",
        "heading": said["receipt"] if invoice.status == "paid" else said["invoice"],
        "facts": facts,
        "description": None if invoice.description is None else clean(invoice.description, 500),
        "table": {
            "heads": [
                said["description"],
                said["quantity"],
                said["unit"],
                *([said["tax"]] if taxed else []),
                said["amount"],
            ],
            "wide": [True, False, False, *([False] if taxed else []), False],
            "rows": rows,
        },
        "sums": _sums(sums, money),
        "paragraphs": [said["void"]] if invoice.status == "void" else [],
        "pay_url": None if invoice.pay_url is None else {"url": invoice.pay_url, "name": said["pay_here"]},
    }


def _credit_note(note: CreditNoteOut, invoice: InvoiceOut, party: Party) -> dict[str, Any]:
    language = party.language
    said = languages.words(language, "document")

    def money(minor: int) -> str:
        return languages.money(minor, note.currency, language)

    sums = [(said["credited_amount"], note.amount_minor, True)]
    if note.tax_minor:
        sums.append((said["tax_in_it"], note.tax_minor, False))
    return _frame(party, note.live) | {
        "title": f"{said['credit_note']} {clean(note.number)}",
        "heading": said["credit_note"],
        "facts": [
            {"name": said["number"], "value": clean(note.number)},
            {"name": said["date"], "value": languages.date(note.created_at, language, party.zone)},
            {"name": said["of_invoice"], "value": clean(invoice.number or "")},
        ],
        "description": f"{said['reason']}: {clean(note.reason, 500)}",
        "table": None,
        "sums": _sums(sums, money),
        "paragraphs": [said[note.settled_by]],
        "pay_url": None,
    }


def _sums(sums: Sequence[tuple[str, int, bool]], money: Any) -> list[dict[str, Any]]:
    return [{"name": name, "value": money(minor), "strong": strong} for name, minor, strong in sums]


def _reduced(invoice: InvoiceOut) -> int:
    return sum(note.amount_minor for note in invoice.credit_notes if note.settled_by == "reduction")


def _tax(name: str | None, rate_bp: int | None, language: str) -> str:
    said = clean(name) if name else languages.words(language, "document")["tax_unnamed"]
    rate = "" if rate_bp is None else languages.percent(rate_bp, language)
    return said if not rate or any(letter.isdigit() for letter in said) else f"{said} {rate}"
