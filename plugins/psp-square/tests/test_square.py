"""The adapter against the simulator of Square, over real connections."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import clearspan.sdk as sdk
from clearspan_psp_square import answers, settlements
from clearspan_psp_square.refusals import REFUSALS, UNKNOWN
from clearspan_psp_square.settings import LIVE_URL, TEST_URL, SquareConfig

if TYPE_CHECKING:
    from .conftest import Stage

SPEC = Path(__file__).parent / "spec" / "api.subset.json"
PART = sdk.Money(5000, "EUR")
FIRST = sdk.StoredCredential(initiator="customer", purpose="unscheduled", first=True, mandate="mandate_1")
KEYS = {"webhook_signature_key": "square_signature_key", "notification_url": "https://gateway.test/webhooks/square"}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("declined", "generic_decline"),
        ("insufficient-funds", "insufficient_funds"),
        ("rejected-cvv", "invalid_cvc"),
        ("rejected-postalcode", "avs_mismatch"),
        ("rejected-expiration", "expired_card"),
        ("already-used", "generic_decline"),
        ("requires-verification", "authentication_required"),
    ],
)
async def test_a_refusal_is_a_decline_with_its_code_and_its_payment(stage: Stage, end: str, code: str) -> None:
    outcome = await stage.psp.create_intent(stage.charge(f"cnon:card-nonce-{end}"))
    assert isinstance(outcome, sdk.Declined)
    assert outcome.code == code
    assert outcome.psp_ref == (await stage.control("GET", "charges"))[0]["id"]


async def test_a_verification_token_goes_with_its_nonce(stage: Stage) -> None:
    await stage.paid(source=sdk.TokenSource(token="cnon:card-nonce-requires-verification|verf:abc"))


@pytest.mark.parametrize("token", ["CASH", "EXTERNAL", "bnon:account", "cus_1", ""])
async def test_what_would_only_be_written_down_is_not_sent(stage: Stage, token: str) -> None:
    with pytest.raises(sdk.NotSupported):
        await stage.psp.create_intent(stage.charge(token))
    assert await stage.control("GET", "charges") == []


async def test_a_first_payment_keeps_the_card_for_later_ones(stage: Stage) -> None:
    paid = await stage.paid(credential=FIRST, customer="cus_1")
    assert paid.stored_token is not None
    assert paid.stored_token.startswith("ccof:")
    later = await stage.paid(source=sdk.TokenSource(token=paid.stored_token, stored=True), customer_present=False)
    assert later.psp_ref != paid.psp_ref
    assert later.stored_token is None


async def test_a_card_that_is_not_kept_leaves_the_payment_as_it_is(stage: Stage) -> None:
    async def broken(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v2/cards":
            raise httpx.ReadError("reset")
        return await stage.http.send(
            stage.http.build_request(request.method, request.url, content=request.content, headers=request.headers)
        )

    async with httpx.AsyncClient(transport=httpx.MockTransport(broken)) as http:
        outcome = await stage.adapter(http).create_intent(stage.charge(credential=FIRST))
    assert isinstance(outcome, sdk.Approved)
    assert outcome.stored_token is None
    assert "ReadError" in outcome.raw["card_not_kept"]


async def test_a_whole_capture_changes_no_amount(stage: Stage) -> None:
    held = await stage.paid(capture=False)
    outcome = await stage.psp.capture(stage.capture(held))
    assert isinstance(outcome, sdk.Approved)
    assert outcome.psp_ref == f"{held.psp_ref}/capture"
    kinds = [json.loads(one["body"])["type"] for one in await stage.control("GET", "webhooks")]
    assert kinds == ["payment.created", "payment.updated"]


async def test_a_part_is_captured_once_and_the_rest_released(stage: Stage) -> None:
    held = await stage.paid(capture=False)
    asked = stage.capture(held, PART)
    outcome = await stage.psp.capture(asked)
    assert isinstance(outcome, sdk.Approved)
    assert outcome.amount == PART
    (row,) = await stage.control("GET", "charges")
    assert (row["status"], row["captured_minor"], row["amount_minor"]) == ("captured", 5000, 12347)
    again = await stage.psp.capture(stage.capture(held, PART))
    assert isinstance(again, sdk.Declined)
    found = await stage.psp.retrieve(stage.lookup(asked, "capture", charge_ref=held.psp_ref))
    assert isinstance(found, sdk.Approved)


async def test_an_authorisation_is_canceled_and_a_purchase_is_not(stage: Stage) -> None:
    held, paid = await stage.paid(capture=False), await stage.paid()
    done = await stage.psp.cancel(sdk.CancelRequest("op_v", "kv", held.amount, held.psp_ref))
    assert isinstance(done, sdk.Approved)
    assert done.psp_ref == f"{held.psp_ref}/void"
    refused = await stage.psp.cancel(sdk.CancelRequest("op_w", "kw", paid.amount, paid.psp_ref))
    assert isinstance(refused, sdk.Declined)
    assert refused.raw_code == "BAD_REQUEST"


async def test_refunds_are_pending_until_square_says_more(stage: Stage) -> None:
    paid = await stage.paid()
    asked = stage.refund(paid, PART, "too late")
    outcome = await stage.psp.refund(asked)
    assert isinstance(outcome, sdk.Pending)
    await stage.control("POST", "refund", {"id": outcome.psp_ref, "status": "COMPLETED"})
    for known in (outcome.psp_ref, None):
        found = await stage.psp.retrieve(stage.lookup(asked, "refund", psp_ref=known, charge_ref=paid.psp_ref))
        assert isinstance(found, sdk.Approved)
        assert (found.psp_ref, found.amount) == (outcome.psp_ref, PART)
    too_much = await stage.psp.refund(stage.refund(paid))
    assert isinstance(too_much, sdk.Declined)
    assert too_much.code == "invalid_amount"


async def test_a_refund_that_fails_is_declined(stage: Stage) -> None:
    paid = await stage.paid()
    asked = stage.refund(paid)
    outcome = await stage.psp.refund(asked)
    assert isinstance(outcome, sdk.Pending)
    await stage.control("POST", "refund", {"id": outcome.psp_ref, "status": "FAILED"})
    assert isinstance(await stage.psp.retrieve(stage.lookup(asked, "refund")), sdk.Declined)


@pytest.mark.parametrize("fault", ["error_after", "garbage_after"])
async def test_an_unclear_answer_is_unknown_and_found_by_our_reference_on_any_page(stage: Stage, fault: str) -> None:
    for _ in range(4):
        await stage.paid()
    asked = stage.charge()
    await stage.control("POST", "next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await stage.psp.create_intent(asked)
    found = await stage.psp.retrieve(stage.lookup(asked, "purchase"))
    assert isinstance(found, sdk.Approved)
    assert found.amount == asked.amount


async def test_what_was_never_booked_is_not_found(stage: Stage) -> None:
    asked = stage.charge()
    await stage.control("POST", "next", {"fault": "error_before"})
    with pytest.raises(sdk.OutcomeUnknown):
        await stage.psp.create_intent(asked)
    assert isinstance(await stage.psp.retrieve(stage.lookup(asked, "purchase")), sdk.NotFound)


async def test_the_same_key_is_one_payment_and_another_payload_under_it_is_unknown(stage: Stage) -> None:
    asked = stage.charge()
    first, second = await stage.psp.create_intent(asked), await stage.psp.create_intent(asked)
    assert first == second
    with pytest.raises(sdk.OutcomeUnknown, match="IDEMPOTENCY_KEY_REUSED"):
        await stage.psp.create_intent(stage.charge(key=asked.key))
    assert len(await stage.control("GET", "charges")) == 1


async def test_wrong_credentials_a_wrong_currency_and_a_strange_charge_are_settings(stage: Stage) -> None:
    with pytest.raises(sdk.PspMisconfigured):
        await stage.adapter(access_token="wrong").check_account()
    with pytest.raises(sdk.PspMisconfigured, match=r"amount_money\.currency"):
        await stage.psp.create_intent(stage.charge(amount=sdk.Money(100, "USD")))
    with pytest.raises(sdk.PspMisconfigured, match="NOT_FOUND"):
        await stage.psp.cancel(sdk.CancelRequest("op_v", "kv", PART, "none"))
    await stage.psp.check_account()


async def test_messages_say_what_happened(stage: Stage) -> None:
    psp = stage.adapter(**KEYS)
    held = await stage.paid(capture=False)
    await stage.psp.cancel(sdk.CancelRequest("op_v", "kv", held.amount, held.psp_ref))
    paid = await stage.paid()
    asked = stage.refund(paid, PART)
    refund = await stage.psp.refund(asked)
    await stage.control("POST", "refund", {"id": refund.psp_ref, "status": "COMPLETED"})
    await stage.control("POST", "dispute", {"payment": paid.psp_ref, "state": "EVIDENCE_REQUIRED"})
    await stage.control("POST", "dispute", {"payment": paid.psp_ref, "state": "LOST"})
    events = await stage.messages(psp)
    assert len({one.event_id for one in events}) == len(events)
    hint, void, charge, pending, back, disputed, lost = [one.news for one in events]
    assert isinstance(hint, sdk.Hint)
    assert (hint.kind, hint.psp_ref) == ("charge", held.psp_ref)
    assert isinstance(void, sdk.OperationNews)
    assert (void.kind, void.psp_ref, void.charge_ref) == ("void", f"{held.psp_ref}/void", held.psp_ref)
    assert isinstance(charge, sdk.OperationNews)
    assert (charge.reference, charge.amount) == ("op_test0002", paid.amount)
    assert isinstance(pending, sdk.OperationNews)
    assert isinstance(pending.outcome, sdk.Pending)
    assert isinstance(back, sdk.OperationNews)
    assert (back.kind, back.reference, back.amount) == ("refund", asked.operation_id, PART)
    assert isinstance(disputed, sdk.DisputeNews)
    assert isinstance(lost, sdk.DisputeNews)
    assert [disputed.status, lost.status] == [sdk.DisputeStatus.NEEDS_RESPONSE, sdk.DisputeStatus.LOST]
    assert [one.sequence for one in events[-2:]] == [1, 2]


async def test_messages_about_another_location_say_nothing(stage: Stage) -> None:
    await stage.paid()
    (event,) = await stage.messages(stage.adapter(**KEYS, location_id="LEUR0000OTHER"))
    assert event.news is None


async def test_a_message_is_checked_with_the_address_it_came_to(stage: Stage) -> None:
    await stage.paid()
    (one,) = await stage.control("GET", "webhooks")
    psp = stage.adapter(webhook_signature_key=KEYS["webhook_signature_key"])
    for url, believed in (
        (KEYS["notification_url"], True),
        ("https://gateway.test/webhooks/other", False),
        ("", False),
    ):
        delivery = sdk.WebhookDelivery(
            headers=one["headers"], body=one["body"].encode(), query={}, received_at=datetime.now(UTC), url=url
        )
        if believed:
            assert await psp.verify_webhook(delivery)
        else:
            with pytest.raises(sdk.WebhookRejected):
                await psp.verify_webhook(delivery)


async def test_what_was_done_in_a_span_of_time_is_listed(stage: Stage) -> None:
    paid = await stage.paid()
    await stage.psp.refund(stage.refund(paid, PART))
    now = datetime.now(UTC)
    kinds = [one.kind for one in await stage.psp.activity(now - timedelta(minutes=1), now + timedelta(minutes=1))]
    assert kinds == ["charge", "refund"]


async def test_a_payout_is_the_sum_of_its_entries_on_any_page(stage: Stage) -> None:
    paid = [await stage.paid() for _ in range(5)]
    refund = await stage.psp.refund(stage.refund(paid[0], PART))
    await stage.control("POST", "settle")
    made = await stage.control("POST", "payout")
    now = datetime.now(UTC)
    lines = await stage.psp.fetch_settlements(now - timedelta(minutes=1), now + timedelta(minutes=1))
    *entries, payout = lines
    assert [one.kind for one in entries] == [sdk.SettlementKind.CHARGE] * 5 + [sdk.SettlementKind.REFUND]
    assert [one.psp_ref for one in entries] == [one.psp_ref for one in (*paid, refund)]
    assert [(one.gross, one.fee) for one in (entries[0], entries[-1])] == [
        (sdk.Money(12347, "EUR"), sdk.Money(-246, "EUR")),
        (sdk.Money(-5000, "EUR"), sdk.Money(100, "EUR")),
    ]
    assert {one.batch for one in lines} == {made["id"]}
    assert payout.kind is sdk.SettlementKind.PAYOUT
    assert payout.net == sdk.Money(-made["amount_money"]["amount"], "EUR")
    assert sum(one.net.amount_minor for one in lines) == 0
    assert len({one.line_ref for one in lines}) == 7
    assert not await stage.psp.fetch_settlements(now - timedelta(days=2), now - timedelta(days=1))
    assert not await stage.adapter(location_id="LGBP0000MAIN2").fetch_settlements(now - timedelta(days=1), now)


def entry(**fields: Any) -> dict[str, Any]:
    """As ListPayoutEntries shows one."""
    own = {"id": "poe_1", "payout_id": "po_1", "type": "CHARGE"}
    own |= {f"{name}_amount_money": {"amount": 0, "currency": "EUR"} for name in ("gross", "fee", "net")}
    return own | fields


def test_entries_are_told_apart_and_have_to_add_up() -> None:
    for kind, gross, expected in (
        ("OPEN_DISPUTE", -100, "dispute"), ("DISPUTE", 100, "dispute_reversed"), ("TAX_ON_FEE", -3, "fee"),
        ("RETURNED_PAYOUT", 500, "payout"), ("RESERVE_HOLD", -7, "adjustment"), ("SOMETHING_NEW", 1, "adjustment"),
    ):  # fmt: skip
        told = {"amount": gross, "currency": "EUR"}
        raw = entry(type=kind, gross_amount_money=told, net_amount_money=told, type_dispute_details={"payment_id": "p"})
        found = settlements.line(raw)
        assert (found.kind, found.net.amount_minor, found.psp_ref) == (expected, gross, "p"), kind
    for wrong in (
        {"net_amount_money": {"amount": 1, "currency": "EUR"}},
        {"fee_amount_money": {"amount": 0, "currency": "USD"}},
        {"gross_amount_money": {"amount": 0}},
        {"gross_amount_money": None},
        {"type": None},
    ):
        with pytest.raises(sdk.OutcomeUnknown):
            settlements.line(entry(**wrong))


def test_every_kind_of_entry_is_one_that_square_knows() -> None:
    known = set(json.loads(SPEC.read_text())["components"]["schemas"]["ActivityType"]["enum"])
    assert settlements._KINDS.keys() <= known
    assert {one for one in known if "FEE" in one.split("_")} - settlements._KINDS.keys() == {
        "APP_FEE_REFUND",
        "APP_FEE_REVENUE",
    }


def test_every_refusal_square_documents_is_decided() -> None:
    described = json.loads(SPEC.read_text())["components"]["schemas"]["ErrorCode"]["x-enum-elements"]
    category = {one["name"]: one["error-category"] for one in described}
    refusals = {name for name, kind in category.items() if kind in ("PAYMENT_METHOD_ERROR", "REFUND_ERROR")}
    assert refusals <= REFUSALS.rows.keys() | UNKNOWN
    assert REFUSALS.rows.keys() <= category.keys()
    assert not REFUSALS.rows.keys() & UNKNOWN


def test_every_documented_example_is_read() -> None:
    readers: dict[str, Any] = {"payment": answers.Payment, "refund": answers.Refund, "dispute": answers.Dispute}
    readers |= {"payout": settlements.Payout, "payout_entrie": settlements.Entry}
    read = 0
    for name, schema in json.loads(SPEC.read_text())["components"]["schemas"].items():
        body = schema.get("example", {}) if name.endswith("Response") else {}
        for what, kind in readers.items():
            for raw in [body[what]] if what in body else body.get(f"{what}s", []):
                sdk.read(raw, kind)
                read += 1
    assert read >= 12


def test_test_and_live_mode_have_their_hosts() -> None:
    config = SquareConfig(access_token="EAAA", location_id="L1")
    assert (config.host(True), config.host(False)) == (LIVE_URL, TEST_URL)
    assert SquareConfig(access_token="EAAA", location_id="L1", notification_url="http://x").problem(True)
    assert not config.problem(True)
