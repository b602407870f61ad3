"""What a PSP said is told to the payments once: at once, after a crash, or when what it is about is known at last."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import msgspec
import pytest
from tests.core.payments.conftest import Puppet
from tests.core.psps.conftest import Office, Post, Rows, approve, approved, event, rented, webhook_id, written
from tests.shop import Json, Shop, code, new_key, until

from clearspan.payments.inbox import DELAYS_S
from clearspan.payments.jobs import JOBS
from clearspan.platform import clock, ids, sqlbundle
from clearspan.platform.context import Scope
from clearspan.sdk import Approved, Declined, DisputeNews, DisputeStatus, Hint, Money, OperationNews, OutcomeUnknown

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewMerchant


def unclear(*_: Any) -> Any:
    raise OutcomeUnknown("sent, no answer")


async def unknown(shop: Shop, puppet: Puppet) -> tuple[Json, str]:
    """A payment whose charge got no answer, and the charge's reference."""
    puppet.does = unclear
    answer = await shop.pay()
    puppet.does = approve
    assert answer.status_code == 202, answer.text
    payment = await shop.get(answer.json()["id"])
    assert payment["outcome"] == "unknown"
    return payment, payment["operations"][0]["id"]


async def charged(shop: Shop) -> tuple[Json, str]:
    """A payment that was charged, and the charge's reference."""
    payment = await shop.get(await shop.paid())
    return payment, payment["operations"][0]["id"]


async def settled(inbox: Rows) -> asyncpg.Record:
    """The only message, when nobody has anything to do with it at this moment."""

    async def ask() -> asyncpg.Record | None:
        row = await inbox.one()
        return row if row["state"] != "received" and row["lease_until"] is None else None

    return await until(ask)


async def apply(office: Office, scope: Scope) -> int:
    """The worker's job, when the sweep finds it."""
    gateway = office.gateway
    moment = clock.now()
    due = json.loads(await gateway.db.fetch_text(f"SELECT {sqlbundle.name('due_work')}($1, $2)", moment, 10_000))
    mine = {"tenant_id": str(scope.tenant_id), "live": scope.live}
    if not [one for one in due if one["job"] == "apply_webhooks" and mine.items() <= one.items()]:
        return 0
    given = {"payments": gateway.payments, "inbox": gateway.inbox, "db": gateway.db, "settings": gateway.settings}
    return await JOBS["apply_webhooks"](given | {"request_id": "req_job"}, **mine)


@pytest.fixture
async def silent(mute: Office, post: Post) -> Post:
    """The account, at a gateway that dies after each commit."""
    return Post(await mute.client(), post.account, post.secret)


@pytest.fixture
def scope(merchant: Merchant) -> Scope:
    """The merchant's."""
    return merchant.caller.scope


async def test_a_message_is_applied_right_after_its_answer(shop: Shop, post: Post, puppet: Puppet, inbox: Rows) -> None:
    payment, reference = await unknown(shop, puppet)
    assert (await post.send(event(approved(reference)))).status_code == 200
    row = await settled(inbox)
    assert (row["state"], row["due_at"], row["tries"], row["note"]) == ("applied", None, 1, None)
    assert ids.encode("pay", row["payment_id"]) == payment["id"]
    assert ids.encode("op", row["operation_id"]) == reference
    assert (await shop.get(payment))["status"] == "succeeded"
    assert puppet.verbs == ["create_intent"]
    assert await inbox.told() == []


async def test_what_a_dead_process_has_committed_is_found_by_the_sweep(
    office: Office, shop: Shop, silent: Post, puppet: Puppet, inbox: Rows, scope: Scope
) -> None:
    payment, reference = await unknown(shop, puppet)
    assert (await silent.send(event(approved(reference)))).status_code == 200
    assert (await inbox.one())["state"] == "received"
    assert (await shop.get(payment))["outcome"] == "unknown"
    assert await apply(office, scope) == 1
    assert (await inbox.one())["state"] == "applied"
    assert (await shop.get(payment))["status"] == "succeeded"
    assert await apply(office, scope) == 0


@pytest.mark.parametrize("after_telling", [False, True], ids=["before it was told", "after it was told"])
async def test_a_process_that_dies_while_it_applies_leaves_the_message_due(
    office: Office, shop: Shop, silent: Post, puppet: Puppet, inbox: Rows, scope: Scope, after_telling: bool
) -> None:
    payment, reference = await unknown(shop, puppet)
    await silent.send(event(approved(reference)))
    dying = office.gateway.inbox
    reached, told = asyncio.Event(), office.gateway.payments.tell

    async def last_words(*args: Any, **given: Any) -> Any:
        if after_telling:
            await told(*args, **given)
        reached.set()
        await asyncio.Event().wait()

    dying._payments.tell = last_words  # type: ignore[method-assign]  # this process is killed
    task = asyncio.create_task(dying.apply(scope, "req_dying", 10))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    dying._payments.tell = told  # type: ignore[method-assign]
    row = await inbox.one()
    assert (row["state"], row["tries"]) == ("received", 1)
    assert await apply(office, scope) == 0, "the lease holds"
    await inbox.set(lease_until=row["received_at"], due_at=row["received_at"])
    assert await apply(office, scope) == 1
    assert (await inbox.one())["state"] == "applied"
    found = await shop.get(payment)
    assert (found["status"], found["amounts"]["captured_minor"]) == ("succeeded", 1099)


async def test_many_duplicates_and_workers_tell_it_once(
    office: Office, mute: Office, shop: Shop, silent: Post, puppet: Puppet, inbox: Rows, scope: Scope,
    superuser: asyncpg.Connection[asyncpg.Record],
) -> None:  # fmt: skip
    payment, reference = await unknown(shop, puppet)
    body = written(event(approved(reference), event_id="evt-1"))
    for _ in range(10):
        assert (await silent.post(body)).status_code == 200
    inboxes = [office.gateway.inbox, mute.gateway.inbox]
    done = await asyncio.gather(*(inboxes[n % 2].apply(scope, "req_race", 10) for n in range(8)))
    assert sorted(done) == [0, 0, 0, 0, 0, 0, 0, 1]
    facts = await superuser.fetchval(
        "SELECT count(*) FROM facts WHERE payment_id = $1 AND source = 'webhook'", ids.decode("pay", payment["id"])
    )
    assert facts == 1
    assert (await silent.post(body)).status_code == 200
    assert await apply(office, scope) == 0
    assert [(row["seen"], row["state"]) for row in await inbox.all()] == [(11, "applied")]


async def test_what_one_worker_has_claimed_another_does_not_wait_for(
    office: Office, silent: Post, inbox: Rows, scope: Scope
) -> None:
    await silent.send(event(approved(ids.encode("op", clock.new_uuid()))))
    now = clock.now()
    document = {"tenant_id": scope.tenant_id, "live": scope.live, "now": now, "actor_type": "system", "most": 10}
    document |= {"lease_until": now + timedelta(seconds=30), "delays_s": DELAYS_S, "event_ids": []}
    claim = f"SELECT {sqlbundle.name('inbox_claim')}($1::jsonb)", msgspec.json.encode(document).decode()
    async with office.gateway.db.pool.acquire() as one, office.gateway.db.pool.acquire() as other:
        async with one.transaction():
            assert len(json.loads(await one.fetchval(*claim))) == 1
            async with other.transaction():
                await other.execute("SET LOCAL lock_timeout = '2s'")
                assert json.loads(await other.fetchval(*claim)) == []
        assert json.loads(await other.fetchval(*claim)) == []


async def test_news_of_no_interest_is_kept_and_told_to_nobody(
    office: Office, post: Post, inbox: Rows, scope: Scope
) -> None:
    assert (await post.send(event(None, type="payout.paid"))).status_code == 200
    row = await inbox.one()
    assert (row["state"], row["type"], row["due_at"]) == ("ignored", "payout.paid", None)
    assert await apply(office, scope) == 0


async def test_a_dispute_is_linked(shop: Shop, post: Post, inbox: Rows) -> None:
    payment, reference = await charged(shop)
    news = DisputeNews(
        dispute_ref="dp_1", status=DisputeStatus.NEEDS_RESPONSE, amount=Money(500, "EUR"), charge_ref=f"ref-{reference}"
    )
    assert (await post.send(event(news))).status_code == 200
    row = await settled(inbox)
    assert (row["state"], ids.encode("pay", row["payment_id"])) == ("applied", payment["id"])
    shown = (await shop.http.get(f"/v1/psp-webhooks/{webhook_id(row)}")).json()
    assert shown["dispute"].startswith("dp_")
    assert (await shop.get(payment))["amounts"]["disputed_minor"] == 500


async def test_a_dispute_in_another_currency_is_for_a_human_at_once(shop: Shop, post: Post, inbox: Rows) -> None:
    payment, reference = await charged(shop)
    status, amount = DisputeStatus.NEEDS_RESPONSE, Money(500, "USD")
    news = DisputeNews(dispute_ref="dp_1", status=status, amount=amount, charge_ref=f"ref-{reference}")
    assert (await post.send(event(news))).status_code == 200
    row = await settled(inbox)
    assert (row["state"], row["due_at"], await inbox.told()) == ("needs_attention", None, ["webhook.needs_attention"])
    assert (await shop.get(payment))["amounts"]["disputed_minor"] == 0


# -- Hints ----------------------------------------------------------------------------------------------------------------------


async def test_an_unsigned_message_moves_nothing_before_the_psp_was_asked(
    office: Office, shop: Shop, puppet: Puppet, inbox: Rows
) -> None:
    post = await rented(office, shop, puppet, psp="open-post")
    payment, reference = await unknown(shop, puppet)
    puppet.does = lambda _verb, request: Declined(code="expired_card", psp_ref=f"ref-{request.operation_id}")
    assert (await post.send(event(approved(reference)), headers={})).status_code == 200
    assert (await settled(inbox))["state"] == "applied"
    assert puppet.verbs == ["create_intent", "retrieve"]
    found = await shop.get(payment)
    assert (found["status"], found["last_error"]["code"]) == ("requires_payment_method", "expired_card")


async def test_the_same_hint_again_is_another_look(
    office: Office, shop: Shop, puppet: Puppet, inbox: Rows, scope: Scope
) -> None:
    """Classic Mollie sends the same bytes at each change: only an id."""
    post = await rented(office, shop, puppet, psp="open-post")
    payment, reference = await unknown(shop, puppet)
    body = written(event(Hint(reference=reference), event_id=""))
    puppet.does = unclear
    await post.post(body, headers={})

    async def asked() -> bool | None:
        row = await inbox.one()
        return True if row["tries"] == 1 and row["lease_until"] is None else None

    await until(asked)
    row = await inbox.one()
    assert (row["state"], row["note"][:18]) == ("received", "outcome_still_open"), (
        "the PSP gave no answer: asked again later"
    )
    await inbox.set(due_at=row["received_at"])
    puppet.does = lambda _verb, request: Declined(code="expired_card", psp_ref=f"ref-{request.operation_id}")
    assert await apply(office, scope) == 1
    assert (await inbox.one())["state"] == "applied"
    # The charge came late after all, and the PSP says so in the same words.
    puppet.does = approve
    await post.post(body, headers={})

    async def surplus() -> bool | None:
        return True if (await shop.get(payment))["operations"][0]["state"] == "surplus" else None

    await until(surplus)
    assert (await settled(inbox))["seen"] == 2


async def test_a_hint_that_comes_while_it_is_followed_is_followed_again(
    office: Office, mute: Office, shop: Shop, puppet: Puppet, inbox: Rows, scope: Scope
) -> None:
    post = await rented(mute, shop, puppet, psp="open-post")
    _, reference = await unknown(shop, puppet)
    body = written(event(Hint(reference=reference), event_id=""))

    async def meanwhile(_verb: str, request: Any) -> Any:
        assert (await post.post(body, headers={})).status_code == 200
        return Approved(psp_ref=f"ref-{request.operation_id}", amount=request.amount)

    await post.post(body, headers={})
    puppet.does = meanwhile
    assert await office.gateway.inbox.apply(scope, "req_first", 1) == 1
    row = await inbox.one()
    assert (row["state"], row["seen"]) == ("received", 2)
    puppet.does = approve
    assert await apply(office, scope) == 1
    assert (await inbox.one())["state"] == "applied"


# -- Parked ---------------------------------------------------------------------------------------------------------------------


def refunded(charge: str, amount_minor: int = 300) -> OperationNews:
    """A refund by the PSP's own hand."""
    outcome = Approved(psp_ref=f"re-{charge}", amount=Money(amount_minor, "EUR"))
    return OperationNews(kind="refund", psp_ref=f"re-{charge}", charge_ref=f"ref-{charge}", outcome=outcome)


async def test_a_message_that_matches_nothing_is_parked_and_matched_later(
    office: Office, shop: Shop, post: Post, inbox: Rows, scope: Scope, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    payment, reference = await charged(shop)
    operation = ids.decode("op", reference)
    await superuser.execute("ALTER TABLE operations DISABLE TRIGGER USER")
    try:  # As if our own record of it came later: a restore, another region.
        await superuser.execute("UPDATE operations SET psp_ref = 'hidden' WHERE operation_id = $1", operation)
        assert (await post.send(event(refunded(reference)))).status_code == 200
        row = await settled(inbox)
        assert (row["state"], row["tries"]) == ("parked", 1)
        assert row["note"]
        assert row["due_at"] > row["updated_at"]
        await superuser.execute(
            "UPDATE operations SET psp_ref = $2 WHERE operation_id = $1", operation, f"ref-{reference}"
        )
    finally:
        await superuser.execute("ALTER TABLE operations ENABLE TRIGGER USER")
    await inbox.set(due_at=row["received_at"])
    assert await apply(office, scope) == 1
    row = await inbox.one()
    assert (row["state"], row["note"]) == ("applied", None)
    assert (await shop.get(payment))["amounts"]["refunded_minor"] == 300
    assert await inbox.told() == ["webhook.parked"]


async def test_a_parked_message_is_told_again_for_55_days_and_then_shown_to_a_human(
    office: Office, post: Post, inbox: Rows, scope: Scope
) -> None:
    assert (await post.send(event(approved(ids.encode("op", clock.new_uuid()))))).status_code == 200
    row = await settled(inbox)
    waits = []
    for tries in range(1, len(DELAYS_S) + 1):
        assert (row["state"], row["tries"]) == ("parked", tries)
        waits.append(round((row["due_at"] - row["updated_at"]).total_seconds()))
        assert await apply(office, scope) == 0 or tries == 1, "not before its time"
        await inbox.set(due_at=row["received_at"])
        assert await apply(office, scope) == 1
        row = await inbox.one()
    assert waits == list(DELAYS_S)
    assert sum(DELAYS_S) > 30 * 86_400
    assert (row["state"], row["tries"], row["due_at"]) == ("needs_attention", len(DELAYS_S) + 1, None)
    assert await inbox.told() == ["webhook.parked", "webhook.needs_attention"]


async def test_a_message_at_which_every_process_dies_is_shown_to_a_human(
    office: Office, silent: Post, inbox: Rows, scope: Scope
) -> None:
    await silent.send(event(approved(ids.encode("op", clock.new_uuid()))))
    await inbox.set(cut_short=99, lease_until=clock.now() - clock.seconds(1))
    assert await apply(office, scope) == 0
    row = await inbox.one()
    assert (row["state"], row["due_at"], row["note"]) == ("needs_attention", None, "every try was cut short")
    assert await inbox.told() == ["webhook.needs_attention"]


async def test_a_message_that_raises_holds_up_no_other(
    office: Office, shop: Shop, silent: Post, puppet: Puppet, inbox: Rows, scope: Scope
) -> None:
    payment, reference = await unknown(shop, puppet)
    await silent.send(event(Hint(reference=reference), event_id="evt-1"), event(approved(reference), event_id="evt-2"))

    async def broken(*_: Any) -> Any:
        raise AssertionError("a bug")

    look_up = office.gateway.payments.look_up
    office.gateway.payments.look_up = broken  # type: ignore[method-assign, assignment]  # a bug of ours
    try:
        with pytest.raises(AssertionError):
            await apply(office, scope)
    finally:
        office.gateway.payments.look_up = look_up  # type: ignore[method-assign]
    rows = {row["event_key"]: row for row in await inbox.all()}
    assert rows["evt-2"]["state"] == "applied"
    assert (await shop.get(payment))["status"] == "succeeded"
    assert rows["evt-1"]["state"] == "received"
    assert rows["evt-1"]["due_at"] > clock.now(), "it is told again, later and later"


async def test_a_message_for_another_account_has_no_effect(
    office: Office, shop: Shop, puppet: Puppet, inbox: Rows, merchant: Merchant, new_merchant: NewMerchant, psp_url: str,
    post: Post,
) -> None:  # fmt: skip
    """Even when two accounts hold the same secret: a mistake of the operator's."""
    payment, reference = await unknown(shop, puppet)
    live = Shop(await office.client((await new_merchant(live=True, of=merchant)).key), psp_url)
    stranger = Shop(await office.client((await new_merchant()).key), psp_url)
    others = [await rented(office, shop, puppet, "second", secret=post.secret)]
    others += [await rented(office, other, puppet, secret=post.secret) for other in (live, stranger)]
    body = written(event(approved(reference)))
    for other in others:
        assert (await post.post(body, to=other.path)).status_code == 200
    await settled(inbox)
    for scope in (live, stranger):
        (shown,) = (await scope.http.get("/v1/psp-webhooks")).json()["data"]
        assert shown["payment"] is None
    found = await shop.get(payment)
    assert (found["outcome"], found["sequence"]) == ("unknown", payment["sequence"])


# -- People ---------------------------------------------------------------------------------------------------------------------


async def listed(http: httpx.AsyncClient, **filters: Any) -> Json:
    answer = await http.get("/v1/psp-webhooks", params=filters)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def test_messages_are_listed_newest_first(office: Office, shop: Shop, post: Post, puppet: Puppet) -> None:
    second = await rented(office, shop, puppet, "second")
    for number in range(3):
        assert (await post.send(event(None, event_id=f"evt-{number}"))).status_code == 200
        await clock.sleep(0.002)  # Ids are in order by the millisecond.
    assert (await second.send(event(None, event_id="evt-3"))).status_code == 200
    first = await listed(shop.http, limit=3)
    assert [one["event"] for one in first["data"]] == ["evt-3", "evt-2", "evt-1"]
    rest = await listed(shop.http, limit=3, cursor=first["next_cursor"])
    assert ([one["event"] for one in rest["data"]], rest["has_more"]) == (["evt-0"], False)
    mine = await listed(shop.http, account=post.account["id"], state="ignored")
    assert [one["event"] for one in mine["data"]] == ["evt-2", "evt-1", "evt-0"]
    assert (await listed(shop.http, state="parked"))["data"] == []
    assert code(await shop.http.get("/v1/psp-webhooks?state=lost")) == (422, "invalid_request")
    assert code(await shop.http.get("/v1/psp-webhooks?cursor=x")) == (422, "invalid_request")
    assert code(await shop.http.get("/v1/psp-webhooks?account=pay_1")) == (404, "invalid_id")


async def test_a_message_is_shown_with_what_it_says(shop: Shop, post: Post, inbox: Rows) -> None:
    reference = ids.encode("op", clock.new_uuid())
    body = written(event(approved(reference), event_id="evt-1"))
    await post.post(body)
    row = await settled(inbox)
    shown = (await shop.http.get(f"/v1/psp-webhooks/{webhook_id(row)}")).json()
    assert shown["news"]["reference"] == reference
    assert shown["body"].encode() == body
    assert (shown["state"], shown["attempts"], shown["seen"], shown["event"]) == ("parked", 1, 1, "evt-1")
    assert shown["next_attempt_at"] > shown["updated_at"]
    assert shown["psp_account"] == post.account["id"]
    (summary,) = (await listed(shop.http))["data"]
    assert summary == {name: value for name, value in shown.items() if name not in ("news", "body")}


async def test_a_human_can_have_it_told_again(
    office: Office, shop: Shop, post: Post, inbox: Rows, scope: Scope
) -> None:
    await post.send(event(approved(ids.encode("op", clock.new_uuid()))))
    row = await settled(inbox)
    await inbox.set(tries=len(DELAYS_S) + 1, state="needs_attention", due_at=None)
    key = new_key()
    answers = [await shop.post(f"/v1/psp-webhooks/{webhook_id(row)}/retry", key=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content

    async def told() -> asyncpg.Record | None:
        found = await inbox.one()
        return found if found["tries"] == 1 and found["lease_until"] is None else None

    assert (await until(told))["state"] == "parked"
    assert await inbox.told() == ["webhook.parked", "webhook.retried"]


async def test_a_human_can_dismiss_it_and_take_that_back(
    office: Office, shop: Shop, post: Post, inbox: Rows, scope: Scope
) -> None:
    await post.send(event(approved(ids.encode("op", clock.new_uuid()))))
    where = f"/v1/psp-webhooks/{webhook_id(await settled(inbox))}"
    assert code(await shop.post(f"{where}/dismiss", {})) == (422, "invalid_request")
    assert code(await shop.post(f"{where}/dismiss", {"reason": "paid with 4242424242424242"})) == (422, "pan_detected")
    done = await shop.post(f"{where}/dismiss", {"reason": "A test of the PSP's."})
    assert (done.status_code, done.json()["state"], done.json()["note"]) == (200, "dismissed", "A test of the PSP's.")
    assert code(await shop.post(f"{where}/dismiss", {"reason": "again"})) == (409, "psp_webhook_settled")
    await inbox.set(due_at=None)
    assert await apply(office, scope) == 0
    assert (await shop.post(f"{where}/retry")).status_code == 200
    assert (await settled(inbox))["state"] == "parked"
    trail = (await shop.http.get("/v1/audit", params={"subject": where.rpartition("/")[2]})).json()["data"]
    assert [entry["type"] for entry in trail] == ["webhook.retried", "webhook.dismissed", "webhook.parked"]
    assert trail[1]["data"] == {
        "psp_account_id": post.account["id"], "state_before": "parked", "reason": "A test of the PSP's.",
    }  # fmt: skip
    assert [entry["sequence"] for entry in trail] == [4, 3, 2]


async def test_what_is_done_or_just_being_done_is_not_decided_by_humans(shop: Shop, post: Post, inbox: Rows) -> None:
    await post.send(event(None))
    where = f"/v1/psp-webhooks/{webhook_id(await inbox.one())}"
    for what, body in (("retry", {}), ("dismiss", {"reason": "no use"})):
        assert code(await shop.post(f"{where}/{what}", body)) == (409, "psp_webhook_settled")
    await inbox.set(state="parked", lease_until=clock.now() + timedelta(seconds=30), news="{}")
    for what, body in (("retry", {}), ("dismiss", {"reason": "no use"})):
        busy = await shop.post(f"{where}/{what}", body)
        assert code(busy) == (409, "psp_webhook_busy")
        assert busy.headers["retry-after"] == "1"


async def test_others_see_nothing_of_it(
    office: Office, shop: Shop, post: Post, inbox: Rows, merchant: Merchant, new_merchant: NewMerchant
) -> None:
    await post.send(event(approved(ids.encode("op", clock.new_uuid()))))
    where = f"/v1/psp-webhooks/{webhook_id(await settled(inbox))}"
    for other in (await new_merchant(), await new_merchant(live=True, of=merchant)):
        http = await office.client(other.key)
        assert (await listed(http))["data"] == []
        assert code(await http.get(where)) == (404, "psp_webhook_not_found")
        assert code(await http.post(f"{where}/retry", json={})) == (404, "psp_webhook_not_found")
        assert code(await http.post(f"{where}/dismiss", json={"reason": "mine"})) == (404, "psp_webhook_not_found")
    reader = await office.client((await new_merchant(of=merchant, scopes=frozenset({"psp_webhooks:read"}))).key)
    assert (await reader.get(where)).status_code == 200
    assert code(await reader.post(f"{where}/retry", json={})) == (403, "scope_missing")
    assert (await inbox.one())["state"] == "parked"


async def test_what_waits_is_in_the_metrics(office: Office, post: Post, inbox: Rows) -> None:
    await post.send(event(approved(ids.encode("op", clock.new_uuid()))))
    await settled(inbox)
    await inbox.set(received_at=clock.now() - timedelta(days=100))
    await office.gateway.psp_webhooks.measure()
    text = office.gateway.metrics.render().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("psp_webhooks_"))
    assert float(values['psp_webhooks_waiting{state="parked"}']) >= 1
    assert float(values['psp_webhooks_oldest_seconds{state="parked"}']) >= 99 * 86_400
    assert float(values['psp_webhooks_received_total{psp="post",result="taken"}']) >= 1
