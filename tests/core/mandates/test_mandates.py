"""What a customer agreed to: noted, activated by a payment of his, suspended by declines, taken back."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
from tests.conftest import Merchant
from tests.core.payments.conftest import Puppet, Recovery, approve, later
from tests.factories import billing_rows, insert
from tests.shop import Json, Shop, code, succeeded, until

from clearspan.app import Gateway
from clearspan.payments import check
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.sdk import ActionRequired, Approved, Authentication, Declined, NotFound, OutcomeUnknown, RedirectAction

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def refusing(decline: str, advice: str | None = None) -> Any:
    """A PSP that takes what customers do and refuses what merchants do."""

    def does(verb: str, request: Any) -> Any:
        if verb == "create_intent" and not request.customer_present:
            return Declined(code=decline, raw_code="x", advice=advice, psp_ref=f"ref-{request.operation_id}")
        return approve(verb, request)

    return does


async def events(shop: Shop, kind: str) -> list[Json]:
    """Events whose type begins so, oldest first."""
    found: list[Json] = []
    cursor: str | None = None
    for _ in range(50):
        answer = (await shop.http.get("/v1/events", params={"after": cursor} if cursor else None)).json()
        found += answer["data"]
        if not answer["has_more"]:
            break
        cursor = answer["next_cursor"]
    return [one for one in found if one["type"].startswith(kind)]


# -- Consent --------------------------------------------------------------------------------------------------------------------


async def test_a_consent_is_noted_with_its_evidence(shop: Shop) -> None:
    agreed = (clock.now() - timedelta(minutes=3)).isoformat()
    made = await shop.mandate(
        purpose="recurring",
        accepted_at=agreed,
        accepted_ip="203.0.113.7",
        user_agent="Mozilla/5.0",
        backup=True,
        metadata={"page": "checkout"},
    )
    found = await shop.mandate_of(made)
    assert found == made | {"acceptance": {"ip": "203.0.113.7", "user_agent": "Mozilla/5.0"}}
    assert (found["status"], found["purpose"], found["backup"]) == ("pending", "recurring", True)
    assert (found["text_version"], found["metadata"]) == ("terms-2026-01", {"page": "checkout"})
    assert msgspec.convert(found["accepted_at"], type=type(clock.now())).isoformat() == agreed
    assert "203.0.113.7" not in str(made), "only who may read the mandate sees it"


async def test_where_and_with_what_somebody_agreed_is_sealed_and_goes_with_the_customer(
    shop: Shop, superuser: Connection
) -> None:
    mandate = await shop.mandate(accepted_ip="203.0.113.77", user_agent="Lynx/2.9")
    row = await superuser.fetchrow("SELECT * FROM mandates WHERE mandate_id = $1", ids.decode("man", mandate["id"]))
    assert row is not None
    assert b"203.0.113.77" not in row["acceptance"]
    kept = await superuser.fetch("SELECT body FROM idempotency_keys WHERE tenant_id = $1", row["tenant_id"])
    told = await superuser.fetch("SELECT data::text FROM journal WHERE tenant_id = $1", row["tenant_id"])
    assert not [one for one in (*kept, *told) if "203.0.113.77" in str(one) or "Lynx" in str(one)]
    await shop.http.delete(f"/v1/customers/{mandate['customer']}")
    found = await shop.mandate_of(mandate)
    assert (found["acceptance"], found["status"], found["revoked_because"]) == (None, "revoked", "customer_deleted")
    assert await superuser.fetchval("SELECT acceptance FROM mandates WHERE mandate_id = $1", row["mandate_id"]) is None


async def test_mandates_are_found_by_customer_method_and_status(shop: Shop) -> None:
    one, two = await shop.mandate(), await shop.mandate()
    await shop.post(f"/v1/mandates/{two['id']}/revoke", {"because": "customer"})

    async def found(**filters: str) -> list[str]:
        return [each["id"] for each in (await shop.http.get("/v1/mandates", params=filters)).json()["data"]]

    assert await found() == [two["id"], one["id"]]
    assert await found(customer=one["customer"]) == [one["id"]]
    assert await found(payment_method=two["payment_method"]) == [two["id"]]
    assert await found(status="pending") == [one["id"]]
    assert await found(status="revoked", customer=one["customer"]) == []


async def test_a_mandate_needs_a_payment_method_of_its_customer(shop: Shop, other_shop: Shop) -> None:
    mine = await shop.customer()
    others = await shop.card("tok_visa", customer=await shop.customer())
    gone = await shop.card("tok_visa", customer=mine)
    await shop.post(f"/v1/payment-methods/{gone}/detach")
    body = {"customer": mine, "purpose": "recurring", "text_version": "1"}

    async def asked(shop: Shop, **more: Any) -> tuple[int, str]:
        return code(await shop.post("/v1/mandates", body | more))

    assert await asked(shop, payment_method=others) == (422, "mandate_method_mismatch")
    assert await asked(shop, payment_method=await shop.card()) == (422, "mandate_method_mismatch")
    assert await asked(shop, payment_method=gone) == (409, "mandate_method_detached")
    assert await asked(other_shop, payment_method=others) == (404, "not_found")
    mandate = {"payment_method": await shop.card("tok_visa", customer=mine)}
    assert await asked(shop, **mandate, accepted_ip="300.1.1.1") == (422, "invalid_request")
    ahead = (clock.now() + timedelta(hours=1)).isoformat()
    assert await asked(shop, **mandate, accepted_at=ahead) == (422, "invalid_request")


# -- The first payment ----------------------------------------------------------------------------------------------------------


async def test_the_first_payment_of_the_customer_activates_it(shop: Shop) -> None:
    mandate = await shop.mandate("tok_visa")
    payment = await shop.first_payment(mandate)
    found = await shop.mandate_of(mandate)
    assert (payment["mandate"], payment["status"]) == (mandate["id"], "succeeded")
    assert (found["status"], found["first_payment"]) == ("active", payment["id"])
    assert found["psp_account"] == payment["psp"]["account_id"]
    assert found["network_transaction_id"] == (await shop.charged(payment))[0]["network_transaction_id"]
    assert found["activated_at"]
    assert [one["type"] for one in await events(shop, "mandate.")] == ["mandate.created", "mandate.activated"]
    assert (await events(shop, "mandate."))[-1]["data"]["object"]["status"] == "active"
    later_on = await shop.rebill(mandate)
    assert (later_on.status_code, later_on.json()["status"]) == (201, "succeeded")


async def test_no_card_of_the_eea_is_charged_without_its_holder_before_he_was_challenged(shop: Shop) -> None:
    mandate = await shop.mandate("tok_visa_de")
    assert code(await shop.rebill(mandate)) == (409, "mandate_not_active")
    failed = await shop.first_payment(mandate, result="fail")
    assert failed["last_error"]["code"] == "authentication_required"
    assert (await shop.mandate_of(mandate))["status"] == "pending"
    payment = await shop.first_payment(mandate)
    assert payment["status"] == "succeeded"
    found = await shop.mandate_of(mandate)
    assert (found["status"], found["authenticated"]) == ("active", True)
    assert (await shop.rebill(mandate)).json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("token", "said", "status"),
    [
        ("tok_visa_de", None, "pending"),
        ("tok_visa_de", Authentication(challenged=False, version="2.2.0"), "pending"),
        ("tok_visa_de", Authentication(challenged=True, version="2.2.0", eci="05", ds_transaction_id="ds-1"), "active"),
        ("tok_visa", None, "active"),
    ],
    ids=["EEA, nothing said", "EEA, let through", "EEA, challenged", "US"],
)
async def test_whether_the_first_payment_was_authenticated_decides(
    theatre: Shop, puppet: Puppet, token: str, said: Authentication | None, status: str
) -> None:
    puppet.does = lambda verb, request: msgspec.structs.replace(approve(verb, request), authentication=said)
    mandate = await theatre.mandate(token)
    payment = await theatre.first_payment(mandate)
    assert payment["status"] == "succeeded", "the money is the merchant's in any case"
    found = await theatre.mandate_of(mandate)
    assert (found["status"], found["authenticated"]) == (status, bool(said and said.challenged))
    told = [one["type"] for one in await events(theatre, "mandate.")][-1]
    assert told == ("mandate.activated" if status == "active" else "mandate.not_activated")
    (charge,) = (await theatre.get(payment))["operations"]
    kept = charge["observations"][0].get("authentication")
    assert kept == (None if said is None else msgspec.to_builtins(said))


async def test_what_a_psp_says_of_an_authentication_counts_more_than_that_it_asked_for_one(
    theatre: Shop, puppet: Puppet
) -> None:
    def does(verb: str, request: Any) -> Any:
        if verb == "create_intent":
            return ActionRequired(psp_ref="ref", action=RedirectAction("https://bank.example/"))
        return Approved(psp_ref="ref", amount=request.amount, authentication=Authentication(challenged=False))

    puppet.does = does
    mandate = await theatre.mandate("tok_visa_fr")
    answer = await theatre.create(500, confirm=True, **_of(mandate))
    await theatre.act(answer.json(), "continue")
    assert (await theatre.mandate_of(mandate))["status"] == "pending"


async def test_the_psp_is_told_about_the_mandate(theatre: Shop, puppet: Puppet) -> None:
    def does(verb: str, request: Any) -> Any:
        return msgspec.structs.replace(approve(verb, request), network_transaction_id=f"nti-{len(puppet.calls)}")

    puppet.does = does
    mandate = await theatre.mandate(purpose="recurring")
    await theatre.first_payment(mandate)
    await theatre.rebill(mandate)
    await theatre.first_payment(mandate)
    await theatre.pay()
    said = [request.credential for _, request in puppet.calls]
    assert [(one.initiator, one.first, one.network_transaction_id) for one in said[:3]] == [
        ("customer", True, None),
        ("merchant", False, "nti-1"),
        ("customer", False, "nti-1"),
    ]
    assert {(one.mandate, one.purpose) for one in said[:3]} == {(mandate["id"], "recurring")}
    assert said[3] is None


async def test_a_charge_that_is_sent_again_says_the_same_about_its_mandate(
    keyed: Shop, puppet: Puppet, recover: Recovery
) -> None:
    """Another payment activates the mandate in between: the bytes under one key stay the same."""
    shop = keyed
    mandate = await shop.mandate()

    def lost(_: str, __: Any) -> Any:
        raise OutcomeUnknown("no answer")

    puppet.does = lost
    first = await shop.create(500, confirm=True, **_of(mandate))
    assert first.json()["outcome"] == "unknown"
    puppet.does = approve
    await shop.first_payment(mandate)
    assert (await shop.mandate_of(mandate))["status"] == "active"

    def nothing(verb: str, request: Any) -> Any:
        return NotFound() if verb == "retrieve" else approve(verb, request)

    puppet.does = nothing
    with later(seconds=5):
        assert await recover.run() == 1
    sent = [request for verb, request in puppet.calls if verb == "create_intent"]
    assert sent[0] == sent[-1]
    assert sent[0].credential.first


def _of(mandate: Json) -> Json:
    return {
        "mandate": mandate["id"],
        "customer": mandate["customer"],
        "payment_method": mandate["payment_method"],
        "return_url": "https://shop.example/thanks",
    }


async def test_a_payment_names_a_mandate_of_its_own_customer_and_method(shop: Shop, other_shop: Shop) -> None:
    mandate = await shop.mandate()
    other = await shop.card("tok_mastercard", customer=mandate["customer"])
    wrong = _of(mandate) | {"payment_method": other}
    assert code(await shop.create(500, confirm=True, **wrong)) == (409, "mandate_not_active")
    assert code(await shop.create(500, **wrong)) == (409, "mandate_not_active")
    stranger = {"payment_method": await other_shop.card(), "mandate": mandate["id"], "confirm": True}
    assert code(await other_shop.create(500, **stranger)) == (409, "mandate_missing")
    waiting = await shop.create(500, **_of(mandate))
    assert code(await shop.act(waiting.json(), "confirm", {"payment_method": other})) == (409, "mandate_not_active")
    assert await shop.book() == []


async def test_a_merchant_charges_where_the_first_payment_was_made(shop: Shop) -> None:
    mandate = await shop.consented(psp_account="beta")
    assert (await shop.rebill(mandate)).json()["psp"]["account"] == "beta"
    accounts = (await shop.http.get("/v1/psp-accounts")).json()["data"]
    beta = next(one["id"] for one in accounts if one["name"] == "beta")
    await shop.http.patch(f"/v1/psp-accounts/{beta}", json={"status": "disabled"})
    assert (await shop.rebill(mandate)).json()["psp"]["account"] == "alpha", "the scheme's reference holds anywhere"


async def test_a_merchant_finds_the_mandate_by_the_payment_method(shop: Shop) -> None:
    mandate = await shop.consented()
    fields = {"payment_method": mandate["payment_method"], "customer": mandate["customer"]}
    answer = await shop.create(700, confirm=True, customer_present=False, **fields)
    assert answer.json()["status"] == "succeeded"
    assert code(await shop.create(700, confirm=True, customer_present=False, payment_method=await shop.card())) == (
        409,
        "mandate_missing",
    )


# -- Verification without a charge ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["tok_visa", "tok_visa_fr"])
async def test_a_verification_activates_without_charging(
    shop: Shop, gateway: Gateway, merchant: Merchant, token: str
) -> None:
    mandate = await shop.mandate(token)
    answer = await shop.post(f"/v1/mandates/{mandate['id']}/verify", {"return_url": "https://shop.example/thanks"})
    assert answer.status_code == 201, answer.text
    payment = await shop.challenged(answer.json())
    assert (payment["status"], payment["amount_minor"], payment["mandate"]) == ("succeeded", 0, mandate["id"])
    found = await shop.mandate_of(mandate)
    assert (found["status"], found["first_payment"]) == ("active", payment["id"])
    (charge,) = succeeded(await shop.book())
    assert (charge["amount"], charge.get("captured", 0)) == (0, 0)
    assert code(await shop.act(payment, "capture"))[1] == "payment_not_capturable"
    assert code(await shop.act(payment, "refunds"))[1] == "payment_not_refundable"
    assert code(await shop.act(payment, "cancel"))[1] == "payment_not_cancelable"
    assert (await shop.rebill(mandate)).json()["status"] == "succeeded"
    await agrees(gateway, merchant)


async def agrees(gateway: Gateway, merchant: Merchant) -> None:
    """``clearspan check`` finds nothing, in payments and in the ledger."""
    looked = Counter[str]()
    found = [one async for one in check.differences(gateway.db, merchant.caller.scope, looked)]
    assert found == []
    assert looked["payments"] > 0


async def test_a_verification_that_waits_for_the_customer_can_be_given_up(
    shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    mandate = await shop.mandate("tok_visa_de")
    answer = await shop.post(f"/v1/mandates/{mandate['id']}/verify", {"return_url": "https://shop.example/thanks"})
    assert answer.json()["status"] == "requires_action"
    given_up = await shop.act(answer.json(), "cancel")
    assert (given_up.status_code, given_up.json()["status"]) == (200, "canceled")
    assert (await shop.mandate_of(mandate))["status"] == "pending"
    await agrees(gateway, merchant)


async def test_a_verification_whose_outcome_was_unknown_is_recovered(
    keyed: Shop, puppet: Puppet, recover: Recovery, gateway: Gateway, merchant: Merchant
) -> None:
    mandate = await keyed.mandate()

    def lost(_: str, __: Any) -> Any:
        raise OutcomeUnknown("no answer")

    puppet.does = lost
    answer = await keyed.post(f"/v1/mandates/{mandate['id']}/verify", {"return_url": "https://shop.example/"})
    assert (answer.status_code, answer.json()["outcome"]) == (202, "unknown")
    cancel = await keyed.act(answer.json(), "cancel")
    assert cancel.status_code == 202
    puppet.does = approve
    with later(seconds=5):
        await recover.run()
        await recover.unwind()
    assert (await keyed.get(answer.json()))["status"] == "succeeded", "nothing was charged: nothing to give back"
    assert (await keyed.mandate_of(mandate))["status"] == "active"
    await agrees(gateway, merchant)


async def test_a_payment_of_nothing_is_no_payment(shop: Shop) -> None:
    assert code(await shop.create(0, capture_method="manual"))[1] == "invalid_request"


# -- Suspended and back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decline", ["expired_card", "lost_card", "closed_account"])
async def test_a_decline_for_good_suspends_and_a_payment_of_the_customers_brings_it_back(
    theatre: Shop, puppet: Puppet, decline: str
) -> None:
    mandate = await theatre.consented()
    puppet.does = refusing(decline)
    await theatre.rebill(mandate)
    found = await theatre.mandate_of(mandate)
    assert (found["status"], found["suspended_because"]) == ("suspended", decline)
    sent = len(puppet.calls)
    assert code(await theatre.rebill(mandate)) == (409, "mandate_not_active")
    assert len(puppet.calls) == sent, "nothing goes out on a suspended mandate"
    payment = await theatre.first_payment(mandate)
    found = await theatre.mandate_of(mandate)
    assert (found["status"], found["suspended_because"], found["first_payment"]) == ("active", None, payment["id"])
    assert [one["type"] for one in await events(theatre, "mandate.")] == [
        "mandate.created",
        "mandate.activated",
        "mandate.suspended",
        "mandate.activated",
    ]


@pytest.mark.parametrize("decline", ["insufficient_funds", "do_not_honor", "issuer_unavailable", "unmapped"])
async def test_other_declines_leave_it_active(theatre: Shop, puppet: Puppet, decline: str) -> None:
    mandate = await theatre.consented()
    puppet.does = refusing(decline)
    await theatre.rebill(mandate)
    assert (await theatre.mandate_of(mandate))["status"] == "active"


async def test_a_decline_of_what_the_customer_tried_suspends_nothing(theatre: Shop, puppet: Puppet) -> None:
    mandate = await theatre.consented()
    puppet.does = lambda _, request: Declined(code="lost_card", psp_ref=f"ref-{request.operation_id}")
    await theatre.first_payment(mandate)
    assert (await theatre.mandate_of(mandate))["status"] == "active"


# -- Revoked --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("because", ["customer", "merchant"])
async def test_a_revoked_mandate_is_not_charged_again(shop: Shop, because: str) -> None:
    mandate = await shop.consented()
    revoked = await shop.post(f"/v1/mandates/{mandate['id']}/revoke", {"because": because})
    assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
    assert revoked.json()["revoked_because"] == because
    again = await shop.post(f"/v1/mandates/{mandate['id']}/revoke", {"because": "customer"})
    assert again.json() == revoked.json(), "a second one changes nothing"
    assert code(await shop.rebill(mandate)) == (409, "mandate_not_active")
    assert code(await shop.create(500, confirm=True, **_of(mandate))) == (409, "mandate_not_active")
    verify = await shop.post(f"/v1/mandates/{mandate['id']}/verify", {"return_url": "https://shop.example/"})
    assert code(verify) == (409, "mandate_not_active")
    assert len(await events(shop, "mandate.revoked")) == 1


async def test_detaching_the_payment_method_revokes_its_mandates(shop: Shop) -> None:
    mandate = await shop.consented()
    await shop.post(f"/v1/payment-methods/{mandate['payment_method']}/detach")
    found = await shop.mandate_of(mandate)
    assert (found["status"], found["revoked_because"]) == ("revoked", "method_detached")


async def test_a_card_whose_holder_revoked_his_consent_is_never_tried_again(shop: Shop) -> None:
    """The simulator's issuer revokes at the third rebill (stop code R1, advice 21)."""
    mandate = await shop.consented("tok_revokes_third")
    assert [(await shop.rebill(mandate, 700 + n)).json()["status"] for n in range(2)] == ["succeeded"] * 2
    third = (await shop.rebill(mandate, 702)).json()
    assert third["last_error"]["code"] == "consent_revoked"
    found = await shop.mandate_of(mandate)
    assert (found["status"], found["revoked_because"]) == ("revoked", "issuer")
    assert code(await shop.rebill(mandate, 703)) == (409, "mandate_not_active")


async def test_advice_21_revokes_whatever_the_code(theatre: Shop, puppet: Puppet) -> None:
    mandate = await theatre.consented()
    puppet.does = refusing("do_not_honor", advice="21")
    await theatre.rebill(mandate)
    assert (await theatre.mandate_of(mandate))["revoked_because"] == "issuer"


async def test_a_revocation_stops_in_one_transaction_what_rests_on_the_mandate(
    shop: Shop, superuser: Connection
) -> None:
    mandate = await shop.consented()
    subscription = await subscribed(superuser, mandate)
    await shop.post(f"/v1/mandates/{mandate['id']}/revoke", {"because": "customer"})
    row = await superuser.fetchrow("SELECT * FROM subscriptions WHERE subscription_id = $1", subscription)
    assert row is not None
    assert (row["status"], row["mandate_id"]) == ("paused", None)
    rebill = await superuser.fetchrow("SELECT * FROM rebills WHERE subscription_id = $1", subscription)
    assert rebill is not None
    assert (rebill["state"], rebill["stopped_because"], rebill["next_at"]) == ("stopped", "mandate_revoked", None)
    notices = await superuser.fetch("SELECT kind, state FROM notices WHERE subscription_id = $1", subscription)
    assert {one["kind"]: one["state"] for one in notices} == {"reminder": "dropped", "invoice": "queued"}


async def subscribed(superuser: Connection, mandate: Json) -> UUID:
    """A subscription with an unpaid invoice that rests on a mandate, made in SQL."""
    place = await superuser.fetchrow(
        "SELECT tenant_id, live, psp_account_id, payment_id, operation_id FROM mandates WHERE mandate_id = $1",
        ids.decode("man", mandate["id"]),
    )
    assert place is not None
    scope = Scope(tenant_id=place["tenant_id"], live=place["live"])
    customer, method = ids.decode("cus", mandate["customer"]), ids.decode("pm", mandate["payment_method"])
    made = billing_rows(scope, customer, method, place["psp_account_id"], place["payment_id"], place["operation_id"])
    found: UUID | None = None
    for table, row in made:
        if table not in ("plans", "subscriptions", "invoices", "rebills", "notices"):
            continue
        changed = {"tenant_id": scope.tenant_id, "live": scope.live, **row}
        if table == "subscriptions":
            found = row["subscription_id"]
            changed |= {"mandate_id": ids.decode("man", mandate["id"])}
        if table == "rebills":
            changed |= {"state": "due", "next_at": clock.now()}
        if table == "notices":
            changed |= {"state": "queued", "due_at": clock.now(), "sent_at": None, "subscription_id": found}
            for kind in ("reminder", "invoice"):
                more = {"kind": kind, "notice_id": clock.new_uuid(), "dedupe": kind}
                await insert(superuser, table, changed | more)
            continue
        await insert(superuser, table, changed)
    assert found is not None
    return found


# -- What the database itself holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", "suspended", "revoked", "none", "of another method"])
async def test_no_merchant_initiated_charge_is_stored_without_an_active_mandate(
    shop: Shop, gateway: Gateway, merchant: Merchant, superuser: Connection, status: str
) -> None:
    mandate = await shop.consented()
    payment = ids.decode("pay", mandate["first_payment"])
    other = (await shop.consented())["id"] if status == "of another method" else None
    if status in ("pending", "suspended"):
        change = f"UPDATE mandates SET status = '{status}' WHERE mandate_id = $1"
        await superuser.execute(change, ids.decode("man", mandate["id"]))
    elif status == "revoked":
        await shop.post(f"/v1/mandates/{mandate['id']}/revoke", {"because": "customer"})
    named = None if status == "none" else ids.decode("man", other or mandate["id"])
    async with gateway.db.pool.acquire() as connection, connection.transaction():
        scope = merchant.caller.scope
        await connection.execute(
            "SELECT set_config('app.tenant', $1, true), set_config('app.live', 'f', true)", str(scope.tenant_id)
        )
        with pytest.raises(asyncpg.PostgresError, match="no active mandate") as refused:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO operations (tenant_id, live, operation_id, payment_id, kind, state, amount_minor, currency,"
                    " psp_account_id, payment_method_id, psp_key, created_at, sent_at, updated_at, merchant_initiated,"
                    " mandate_id)"
                    " SELECT tenant_id, live, $2, payment_id, kind, 'declined', amount_minor, currency, psp_account_id,"
                    " payment_method_id, $3, created_at, sent_at, updated_at, true, $4 FROM operations WHERE payment_id = $1",
                    payment,
                    clock.new_uuid(),
                    clock.new_uuid().hex,
                    named,
                )
    assert refused.value.sqlstate == "CS903"


async def test_not_even_without_triggers_is_one_stored_that_names_no_mandate(shop: Shop, superuser: Connection) -> None:
    payment = await shop.paid()
    undone = superuser.transaction()
    await undone.start()
    await superuser.execute("SET LOCAL session_replication_role = replica")
    with pytest.raises(asyncpg.CheckViolationError, match="merchant_initiated_has_mandate"):
        await superuser.execute(
            "UPDATE operations SET merchant_initiated = true WHERE payment_id = $1", ids.decode("pay", payment["id"])
        )
    await undone.rollback()


async def test_no_charge_is_reserved_after_a_revocation_was_committed(
    theatre: Shop, puppet: Puppet, superuser: Connection
) -> None:
    mandate = await theatre.consented()

    async def charge(number: int) -> httpx.Response:
        await clock.sleep(0.004 * (number % 10))
        return await theatre.rebill(mandate, 1000 + number)

    async def revoke() -> httpx.Response:
        await clock.sleep(0.015)
        return await theatre.post(f"/v1/mandates/{mandate['id']}/revoke", {"because": "customer"})

    revoked, *answers = await asyncio.gather(revoke(), *(charge(number) for number in range(50)))
    assert revoked.status_code == 200
    taken = [one for one in answers if one.status_code == 201]
    refused = [code(one) for one in answers if one.status_code != 201]
    assert (409, "mandate_not_active") in refused, "some came after it"
    # So many undecided charges of one card at once may reach what its scheme allows, too.
    assert set(refused) <= {(409, "mandate_not_active"), (409, "retry_cap_reached")}
    # A reservation writes its entry while it holds the mandate, and so does the revocation: their order is that of the journal.
    told = await superuser.fetch(
        "SELECT j.type FROM journal j LEFT JOIN operations o ON o.tenant_id = j.tenant_id AND o.operation_id = j.subject_id"
        " WHERE j.tenant_id = (SELECT tenant_id FROM mandates WHERE mandate_id = $1)"
        " AND (j.type = 'mandate.revoked' OR (j.type = 'operation.submitted' AND o.merchant_initiated)) ORDER BY j.epoch, j.seq",
        ids.decode("man", mandate["id"]),
    )
    assert [one["type"] for one in told] == ["operation.submitted"] * len(taken) + ["mandate.revoked"]
    sent = [request for verb, request in puppet.calls if verb == "create_intent" and not request.customer_present]
    assert len(sent) == len(taken), "what was refused was not sent"


async def test_a_charge_waits_for_a_revocation_that_is_being_committed(
    theatre: Shop, puppet: Puppet, superuser: Connection
) -> None:
    """The race above at its narrowest, without luck."""
    mandate = await theatre.consented()
    sent = len(puppet.calls)
    revoking = superuser.transaction()
    await revoking.start()
    await superuser.execute(
        "UPDATE mandates SET status = 'revoked', revoked_at = created_at, revoked_because = 'customer' WHERE mandate_id = $1",
        ids.decode("man", mandate["id"]),
    )
    charge = asyncio.create_task(theatre.rebill(mandate))

    async def waits_or_ended() -> bool | None:
        waiting = await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        )
        return True if waiting or charge.done() else None

    await until(waits_or_ended)
    assert not charge.done(), "it may not be reserved while nobody knows whether the mandate still holds"
    await revoking.commit()
    assert code(await charge) == (409, "mandate_not_active")
    assert len(puppet.calls) == sent
