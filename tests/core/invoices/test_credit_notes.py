"""Credit notes take back what an invoice asked for, never more, and in the way that fits."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.conftest import Merchant
from tests.core.invoices.billing import act, customer, look, opened, subscribed
from tests.core.invoices.paying import pay_by_card
from tests.shop import Shop, code

from clearspan.platform import ids

Connection = asyncpg.Connection


def note(amount_minor: int, settled_by: str = "refund", **fields: Any) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "settled_by": settled_by, "reason": "Two days of outage"} | fields


async def test_a_refund_gives_the_money_back_once_and_says_how_it_goes(shop: Shop) -> None:
    made = await opened(shop)
    await pay_by_card(shop, made)
    first = await act(shop, made, "credit-notes", note(500, tax_minor=0), key="back-once")
    assert first.status_code == 201, first.text
    given = first.json()
    assert (given["number"], given["refund_status"], given["amount_minor"]) == ("CN-000001", "succeeded", 500)
    assert (await act(shop, made, "credit-notes", note(500, tax_minor=0), key="back-once")).content == first.content
    booked = [one for one in await shop.book() if one["kind"] == "refund"]
    assert [one["amount_minor"] if "amount_minor" in one else one["amount"] for one in booked] == [500]
    assert (await shop.http.get(f"/v1/refunds/{given['refund']}")).json()["status"] == "succeeded"
    now = await look(shop, made)
    assert (now["status"], now["credited_minor"]) == ("paid", 500)
    assert [each["id"] for each in now["credit_notes"]] == [given["id"]]
    assert (await shop.http.get(f"/v1/credit-notes/{given['id']}")).json() == given
    assert (await shop.http.get("/v1/credit-notes", params={"invoice": made["id"]})).json()["data"] == [given]


async def test_never_more_than_the_invoice_even_at_once(shop: Shop) -> None:
    made = await opened(shop, 1000)
    await pay_by_card(shop, made)
    answers = await asyncio.gather(*(act(shop, made, "credit-notes", note(400)) for _ in range(5)))
    done = [answer for answer in answers if answer.status_code in (201, 202)]
    assert len(done) == 2, [answer.text for answer in answers]
    assert sorted(answer.json()["number"] for answer in done) == ["CN-000001", "CN-000002"]
    assert (await look(shop, made))["credited_minor"] == 800
    refused = await act(shop, made, "credit-notes", note(201))
    assert refused.status_code == 422, refused.text
    assert refused.json()["code"] in ("credit_note_above_invoice", "amount_above_refundable")
    assert (await act(shop, made, "credit-notes", note(200))).json()["number"] == "CN-000003"


async def test_numbers_beyond_six_digits_are_printed_whole(
    shop: Shop, merchant: Merchant, superuser: Connection
) -> None:
    made = await opened(shop)
    await superuser.execute(
        "UPDATE billing_settings SET invoice_next = 1000000, credit_note_next = 1234567 WHERE tenant_id = $1 AND NOT live",
        merchant.caller.scope.tenant_id,
    )
    assert (await opened(shop))["number"] == "INV-1000000"
    await pay_by_card(shop, made)
    assert (await act(shop, made, "credit-notes", note(1, tax_minor=0))).json()["number"] == "CN-1234567"


async def test_a_reduction_fits_only_before_somebody_tried_to_pay(shop: Shop) -> None:
    made = await opened(shop, 1000)
    assert code(await act(shop, made, "credit-notes", note(1001, "reduction"))) == (422, "credit_note_above_invoice")
    assert code(await act(shop, made, "credit-notes", note(1))) == (409, "credit_note_not_possible")
    assert (await act(shop, made, "credit-notes", note(300, "reduction"))).status_code == 201
    assert (await look(shop, made))["left_minor"] == 700
    assert await pay_by_card(shop, made, "tok_decline_do_not_honor") == "declined"
    refused = await act(shop, made, "credit-notes", note(100, "reduction"))
    assert (code(refused), refused.json()["because"]) == ((409, "credit_note_not_possible"), "payment_exists")
    await pay_by_card(shop, made)
    charges = [one for one in await shop.book() if one["kind"] == "charge" and one["status"] == "succeeded"]
    assert [one["amount_minor"] if "amount_minor" in one else one["amount"] for one in charges] == [700]
    refused = await act(shop, made, "credit-notes", note(100, "reduction"))
    assert refused.json()["because"] == "already_paid"


async def test_an_invoice_reduced_to_nothing_is_paid(shop: Shop, merchant: Merchant, superuser: Connection) -> None:
    _, invoice_id = await subscribed(superuser, merchant.caller.scope, await customer(shop))
    made = {"id": invoice_id}
    assert (await act(shop, made, "credit-notes", note(900, "reduction"))).status_code == 201
    now = await look(shop, made)
    assert (now["status"], now["left_minor"], now["pay_url"]) == ("paid", 0, None)
    state = "SELECT state FROM rebills WHERE invoice_id = $1"
    assert await superuser.fetchval(state, ids.decode("inv", invoice_id)) == "settled"


async def test_a_credit_is_used_up_by_the_subscription(shop: Shop, merchant: Merchant, superuser: Connection) -> None:
    subscription_id, invoice_id = await subscribed(superuser, merchant.caller.scope, await customer(shop))
    await pay_by_card(shop, {"id": invoice_id})
    made = await act(shop, {"id": invoice_id}, "credit-notes", note(400, "credit"))
    assert (made.status_code, made.json()["refund"]) == (201, None)
    credit = "SELECT credit_minor FROM subscriptions WHERE subscription_id = $1"
    assert await superuser.fetchval(credit, subscription_id) == 400
    assert code(await act(shop, {"id": invoice_id}, "credit-notes", note(501, "credit"))) == (
        422,
        "credit_note_above_invoice",
    )
    one_off = await opened(shop)
    await pay_by_card(shop, one_off)
    refused = await act(shop, one_off, "credit-notes", note(1, "credit"))
    assert refused.json()["because"] == "no_subscription"


async def test_the_tax_taken_back_is_never_more_than_the_tax(shop: Shop) -> None:
    line = {"description": "Hour", "unit_amount_minor": 1190, "tax": {"name": "VAT", "rate_bp": 1900}}
    made = await opened(shop, lines=[line])
    assert (await act(shop, made, "credit-notes", note(595, "reduction", tax_minor=95))).status_code == 201
    refused = await act(shop, made, "credit-notes", note(500, "reduction", tax_minor=96))
    assert (code(refused), refused.json()["creditable_tax_minor"]) == ((422, "credit_note_above_invoice"), 95)


@pytest.mark.parametrize(
    "change",
    [{"amount_minor": 0}, {"amount_minor": -5}, {"settled_by": "gift"}, {"reason": ""}, {"tax_minor": 2_000}, {"x": 1}],
    ids=str,
)
async def test_bad_credit_notes_are_refused(shop: Shop, change: dict[str, Any]) -> None:
    made = await opened(shop)
    answer = await act(shop, made, "credit-notes", note(100, "reduction") | change)
    assert answer.status_code in (400, 422), answer.text
    assert (await look(shop, made))["credited_minor"] == 0


async def test_without_a_key_nothing_is_credited(shop: Shop) -> None:
    made = await opened(shop)
    answer = await shop.http.post(f"/v1/invoices/{made['id']}/credit-notes", json=note(100, "reduction"))
    assert code(answer) == (400, "idempotency_key_missing")


async def test_a_draft_and_a_void_invoice_have_nothing_to_take_back(shop: Shop) -> None:
    made = await opened(shop)
    await act(shop, made, "void")
    assert code(await act(shop, made, "credit-notes", note(1, "reduction"))) == (409, "invoice_not_in_status")


async def test_a_credit_note_is_told_and_mailed_once(shop: Shop, superuser: Connection) -> None:
    made = await opened(shop)
    given = (await act(shop, made, "credit-notes", note(1, "reduction"))).json()
    events = (await shop.http.get("/v1/events", params={"limit": 100})).json()["data"]
    mine = [event for event in events if event["type"] == "credit_note.created"]
    assert [(event["subject"]["id"], event["data"]["object"]) for event in mine] == [(given["id"], given)]
    assert mine[0]["data"]["invoice_id"] == made["id"]
    count = "SELECT count(*) FROM notices WHERE credit_note_id = $1"
    assert await superuser.fetchval(count, ids.decode("cn", given["id"])) == 1
