"""Documents: what a PDF says, read back by another library."""

from __future__ import annotations

import io
import re
from typing import Any

import asyncpg
import pytest
from pypdf import PdfReader
from tests.conftest import Merchant
from tests.core.invoices.billing import act, customer, draft, opened
from tests.core.invoices.paying import pay_by_card
from tests.shop import Shop, code

Connection = asyncpg.Connection


async def pdf(shop: Shop, what: str, thing: dict[str, Any]) -> PdfReader:
    answer = await shop.http.get(f"/v1/{what}/{thing['id']}/pdf")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == f'inline; filename="{thing["number"]}.pdf"'
    return PdfReader(io.BytesIO(answer.content))


def read(document: PdfReader) -> str:
    return re.sub(r"[ \u00a0\u202f]+", " ", "\n".join(page.extract_text() for page in document.pages))


async def test_names_in_latin_greek_and_cyrillic_are_set_and_can_be_read_back(shop: Shop) -> None:
    name = "Łukasz Żółć Αλέξανδρος Ωμέγα Жуковский Сергей İğş Ñandú"
    address = {"line1": "Straße 1", "postal_code": "10115", "city": "Köln", "country": "DE"}
    made = await opened(shop, customer=await customer(shop, name=name, address=address, language="de"))
    document = await pdf(shop, "invoices", made)
    said = read(document)
    for part in (
        *name.split(),
        "Straße 1",
        "10115 Köln",
        "Deutschland",
        "Rechnung",
        "INV-000001",
        "12,00 €",
        "Testmodus",
    ):
        assert part in said, (part, said)
    sides = [float(side) for side in document.pages[0].mediabox[2:]]
    assert sides == pytest.approx([595.28, 841.89], abs=0.1)
    fonts = {
        font["/DescendantFonts"][0]["/FontDescriptor"].get_object().keys() & {"/FontFile", "/FontFile2", "/FontFile3"}
        and font["/BaseFont"]
        for font in (each.get_object() for each in document.pages[0]["/Resources"]["/Font"].values())
    }
    assert fonts, "no font"
    assert all("Libertinus" in str(font) for font in fonts), fonts


@pytest.mark.parametrize(
    ("language", "title", "due"),
    [
        ("en", "Invoice", "€1,234.50"),
        ("de", "Rechnung", "1.234,50 €"),
        ("fr", "Facture", "1 234,50 €"),
        ("es", "Factura", "1234,50 €"),
    ],
)
async def test_amounts_and_words_are_the_customers(shop: Shop, language: str, title: str, due: str) -> None:
    made = await opened(shop, 123_450, customer=await customer(shop, language=language))
    said = read(await pdf(shop, "invoices", made))
    assert title in said
    assert due in said.replace("1.234,50", "1234,50") or due in said


async def test_two_hundred_lines_break_into_pages_with_their_heads_and_numbers(shop: Shop) -> None:
    lines = [{"description": f"Position number {n}", "unit_amount_minor": 100 + n} for n in range(200)]
    made = await opened(shop, lines=lines)
    document = await pdf(shop, "invoices", made)
    pages = [page.extract_text() for page in document.pages]
    assert 4 <= len(pages) <= 12
    assert all("Description" in page for page in pages[:-1])
    assert all(f"Page {n} of {len(pages)}" in page for n, page in enumerate(pages, 1))
    found = [int(n) for page in pages for n in re.findall(r"Position number (\d+)", page)]
    assert found == list(range(200))
    assert f"€{made['due_minor'] / 100:,.2f}" in pages[-1]


async def test_taxes_are_listed_by_name_and_rate(shop: Shop) -> None:
    lines = [
        {"description": "A", "unit_amount_minor": 11_900, "tax": {"name": "VAT", "rate_bp": 1900}},
        {"description": "B", "unit_amount_minor": 10_000, "tax": {"name": "Levy", "rate_bp": 725, "inclusive": False}},
    ]
    said = read(await pdf(shop, "invoices", await opened(shop, lines=lines)))
    for part in ("Subtotal", "€219.00", "Levy 7.25%", "€7.25", "VAT 19% included", "€19.00", "Total", "€226.25"):
        assert part in said, (part, said)


async def test_markup_and_what_is_not_seen_cannot_change_a_document(
    shop: Shop, merchant: Merchant, superuser: Connection
) -> None:
    name = '#panic("x") $x$ *b* `c` @a <l> \\ \u202e00,1'
    made = await opened(
        shop, customer=await customer(shop, name=name), lines=[{"description": "#sys.inputs", "unit_amount_minor": 1}]
    )
    said = read(await pdf(shop, "invoices", made))
    assert '#panic("x") $x$ *b* `c` @a <l>' in said.replace("“", '"').replace("”", '"')
    assert "#sys.inputs" in said
    assert "\u202e" not in said


async def test_ten_thousand_characters_are_cut_and_long_words_stay_on_the_page(
    shop: Shop, merchant: Merchant, superuser: Connection
) -> None:
    made = await opened(shop, lines=[{"description": "W" * 500, "unit_amount_minor": 1}])
    await superuser.execute(
        "UPDATE billing_settings SET seller = jsonb_build_object('name', repeat('Name ', 2000), 'address', '[]'::jsonb)"
        " WHERE tenant_id = $1",
        merchant.caller.scope.tenant_id,
    )
    document = await pdf(shop, "invoices", made)
    assert len(document.pages) <= 2
    width = float(document.pages[0].mediabox[2])
    ends: list[float] = []

    def note(text: str, _: Any, matrix: list[float], __: Any, size: float) -> None:
        ends.append(matrix[4] + len(text.strip()) * size * 0.1)

    for page in document.pages:
        page.extract_text(visitor_text=note)
    assert max(ends) < width
    assert max(len(line) for line in read(document).splitlines() if "WWW" in line) < 60
    assert "…" in read(document)


async def test_a_paid_invoice_and_a_credit_note_say_so(shop: Shop) -> None:
    made = await opened(shop)
    assert "/pay/" in str((await pdf(shop, "invoices", made)).pages[0].get("/Annots", [{}])[0])
    await pay_by_card(shop, made)
    said = read(await pdf(shop, "invoices", made))
    assert "Paid invoice" in said
    note = {"amount_minor": 400, "settled_by": "refund", "reason": "Two days of outage"}
    given = (await act(shop, made, "credit-notes", note)).json()
    said = read(await pdf(shop, "credit-notes", given))
    for part in ("Credit note", "CN-000001", "INV-000001", "€4.00", "Two days of outage", "returned to the card"):
        assert part in said, (part, said)


async def test_the_same_document_is_the_same_bytes(shop: Shop) -> None:
    made = await opened(shop)
    first, second = [(await shop.http.get(f"/v1/invoices/{made['id']}/pdf")).content for _ in range(2)]
    assert first == second


async def test_a_draft_has_no_document(shop: Shop) -> None:
    made = await draft(shop)
    assert code(await shop.http.get(f"/v1/invoices/{made['id']}/pdf")) == (409, "invoice_is_draft")


async def test_money_without_and_with_three_decimals(shop: Shop) -> None:
    yen = await opened(shop, 1200, currency="JPY")
    dinar = await opened(shop, 1200, currency="KWD")
    assert "1,200" in read(await pdf(shop, "invoices", yen))
    assert "1.200" in read(await pdf(shop, "invoices", dinar))
