"""The billing pages in the operator's language: whole sentences with their values, and forms that say what is wrong."""

from __future__ import annotations

import pytest
from tests.admin.billing import failing, page_of, said
from tests.admin.conftest import NewPerson, Person
from tests.conftest import Merchant
from tests.shop import Shop

from clearspan.app import Gateway


async def speaking(person: Person, gateway: Gateway, locale: str) -> Person:
    """The same person, with another language."""
    operator = await gateway.operators.get(person.operator.operator_id)
    await gateway.operators.change(operator, locale=locale)
    return person


@pytest.mark.parametrize(
    ("locale", "board", "invoice", "wrong"),
    [
        ("de_DE", ("Gefährdet", "Der nächste Einzug ist am", "Versuch 1 von"), "Wie es weitergeht", "Schreiben Sie einen Betrag"),
        ("fr_FR", ("À risque", "Le prochain débit est dû le", "tentative 1 sur"), "La suite", "Écrivez un montant"),
        ("es_ES", ("En riesgo", "El próximo cobro vence el", "intento 1 de"), "Qué sigue", "Escriba un importe"),
    ],
)  # fmt: skip
async def test_pages_speak_the_operators_language(
    people: NewPerson,
    shop: Shop,
    gateway: Gateway,
    merchant: Merchant,
    locale: str,
    board: tuple[str, ...],
    invoice: str,
    wrong: str,
) -> None:
    person = await speaking(await people("finance"), gateway, locale)
    one, failed = await failing(shop, gateway, merchant.caller.scope)
    text = said(await page_of(person, "/dunning"))
    for words in board:
        assert words in text
    assert invoice in said(await page_of(person, f"/invoices/{failed['id']}"))
    refused = await person.post(
        f"/invoices/{failed['id']}/credit", amount="1,234.50", reason="x", settled_by="reduction"
    )
    assert wrong in refused.text
    for path in (f"/customers/{one['customer']}", f"/subscriptions/{one['id']}", f"/subscriptions/{one['id']}/change",
                 f"/subscriptions/{one['id']}/cancel", "/dunning/plans/clearspan", "/plans", "/plans/new", "/customers",
                 f"/customers/{one['customer']}/delete", f"/customers/{one['customer']}/mandates/{one['mandate']}"):  # fmt: skip
        await page_of(person, path)
