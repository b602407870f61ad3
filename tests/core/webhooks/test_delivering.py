"""An event reaches each endpoint that asked for it, at least once, in the order of its object, whatever the consumer does."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook
from tests.core.webhooks.conftest import Happen, Hook, NewHook, NewWorks, Works
from tests.shop import Shop, until

from clearspan.platform import clock
from clearspan.webhooks.models import DELAYS_S, RETRY_AFTER_S_MAX, read_retry_after, retry_at

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewClient, NewMerchant

Connection = asyncpg.Connection


async def test_a_payment_is_told_as_the_feed_tells_it_and_the_signature_verifies(
    new_hook: NewHook, works: Works, client: httpx.AsyncClient, settings: Any, sandboxes: None
) -> None:
    shop = await Shop.open(client, settings.plugin["psp-sandbox"]["url"])
    hook = await new_hook()
    payment = await shop.paid(1099)
    await works.run()
    received = await hook.received()
    feed = {one["id"]: one for one in (await client.get("/v1/events", params={"limit": 100})).json()["data"]}
    assert [one["type"] for one in feed.values() if one["type"].startswith("payment.")] == [
        Webhook(hook.secret).verify(one["body"], one["headers"])["type"] for one in received
    ]
    for one in received:
        event = Webhook(hook.secret).verify(one["body"], one["headers"])
        assert event == feed[one["headers"]["webhook-id"]], "rendered when it is delivered: the subject as it is now"
        assert one["headers"]["content-type"] == "application/json"
    assert event["type"] == "payment.succeeded"
    assert event["data"]["object"]["id"] == payment["id"]
    assert event["data"]["object"]["status"] == "succeeded"
    assert [one["state"] for one in await hook.log()] == ["delivered"] * len(received)


async def test_an_endpoint_gets_what_it_asks_for_from_now_on_and_nothing_else(
    new_hook: NewHook,
    happen: Happen,
    works: Works,
    merchant: Merchant,
    live_merchant: Merchant,
    other_merchant: Merchant,
) -> None:
    await happen(merchant.caller, "payment.created")
    exact = await new_hook(events=["payment.captured"])
    kind = await new_hook(events=["payment.*", "refund.succeeded"])
    everything = await new_hook(events=["*"])
    told = {
        name: await happen(merchant.caller, name)
        for name in ("payment.captured", "payment.voided", "refund.succeeded", "refund.failed", "customer.created")
    }
    for stranger in (live_merchant, other_merchant):
        await happen(stranger.caller, "payment.captured")
    await works.run()
    assert await exact.ids() == [told["payment.captured"]]
    assert set(await kind.ids()) == {told[name] for name in ("payment.captured", "payment.voided", "refund.succeeded")}
    got = await everything.ids()
    assert set(told.values()) <= set(got)
    types = [one["type"] for one in await everything.log() if one["event"] not in told.values()]
    assert types == ["webhook_endpoint.created"], "its own beginning, and nothing from before"


async def test_one_delivery_per_endpoint_and_event_however_many_relay(
    new_hook: NewHook, happen: Happen, new_works: NewWorks, merchant: Merchant
) -> None:
    hook = await new_hook()
    workers = [await new_works() for _ in range(4)]
    events = [await happen(merchant.caller) for _ in range(40)]
    await asyncio.gather(*(one.run() for one in workers))
    await asyncio.gather(*(one.run() for one in workers))
    assert sorted(await hook.ids()) == sorted(events), "nobody died, so each came once"
    assert sorted(one["event"] for one in await hook.log()) == sorted(events)


async def test_an_event_committed_late_by_an_older_transaction_is_not_stepped_over(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, urls: Any, superuser: Connection[Any]
) -> None:
    hook = await new_hook()
    slow = await asyncpg.connect(urls.superuser)
    try:
        held = slow.transaction()
        await held.start()
        event_id = clock.new_uuid()
        await slow.execute(
            "INSERT INTO journal (tenant_id, live, event_id, type, subject_type, subject_id, sequence, actor_type, actor_id,"
            " request_id, data, at) VALUES ($1, $2, $3, 'payment.created', 'payment', $3, 1, 'cli', 'tests', 'req', '{}', $4)",
            merchant.caller.scope.tenant_id,
            merchant.caller.scope.live,
            event_id,
            clock.now(),
        )
        later = await happen(merchant.caller)
        for _ in range(3):
            await works.dispatcher.step({merchant.caller.scope})
        assert await hook.ids() == [], "the later one waits for the horizon"
        await held.commit()
    finally:
        await slow.close()
    await works.run()
    assert len(await hook.ids()) == 2
    assert later in await hook.ids()


async def test_while_an_event_waits_later_ones_of_its_object_wait_and_others_go_on(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant
) -> None:
    hook = await new_hook(500, 200)
    subject = clock.new_uuid()
    first = await happen(merchant.caller, subject=subject, sequence=1)
    await works.run()
    second = await happen(merchant.caller, "payment.captured", subject=subject, sequence=2)
    third = await happen(merchant.caller, "payment.voided", subject=subject, sequence=3)
    other = await happen(merchant.caller)
    await works.run()
    assert await hook.ids() == [first, other]
    await works.later(6)
    await works.run()
    assert await hook.ids() == [first, other, first, second, third]
    assert [one["state"] for one in await hook.log()] == ["delivered"] * 4


async def test_an_event_that_is_given_up_lets_the_next_one_of_its_object_go(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant
) -> None:
    hook = await new_hook(*[500] * 10, 200)
    subject = clock.new_uuid()
    first = await happen(merchant.caller, subject=subject, sequence=1)
    second = await happen(merchant.caller, "payment.captured", subject=subject, sequence=2)
    for _ in range(10):
        await works.run()
        await works.later()
    await works.run()
    assert await hook.ids() == [first] * 10 + [second]
    assert [(one["state"], one["attempts"]) for one in await hook.log()] == [("failed", 10), ("delivered", 1)]


@pytest.mark.parametrize(
    ("how", "status", "error"),
    [
        (500, 500, None),
        (301, 301, None),
        (404, 404, None),
        ("hang", None, "timeout"),
        ("garbage", None, "connection_lost"),
        ("silent", None, "connection_lost"),
    ],
)
async def test_whatever_is_no_2xx_is_tried_again(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, how: Any, status: int | None, error: str | None
) -> None:
    hook = await new_hook(how, 200)
    event = await happen(merchant.caller)
    await works.run()
    (delivery,) = await hook.log()
    assert (delivery["state"], delivery["attempts"]) == ("pending", 1)
    assert (delivery["last_status"], delivery["last_error"]) == (status, error)
    assert delivery["next_attempt_at"] is not None
    assert (await hook.get())["failing_since"] is not None
    await works.later(6)
    await works.run()
    assert await hook.ids() == [event] * 2, "the same id at every try"
    (delivery,) = await hook.log()
    assert (delivery["state"], delivery["attempts"]) == ("delivered", 2)
    log = await hook.attempts(delivery["id"])
    assert [(one["number"], one["status"], one["error"]) for one in log] == [(1, status, error), (2, 200, None)]
    assert (await hook.get())["failing_since"] is None
    stamps = [int(one["headers"]["webhook-timestamp"]) for one in await hook.received()]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("how", ["lies", "endless"])
async def test_a_2xx_counts_whatever_becomes_of_the_rest_of_the_answer(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, how: str
) -> None:
    hook = await new_hook(how)
    await happen(merchant.caller)
    await works.run()
    (delivery,) = await hook.log()
    assert delivery["state"] == "delivered"
    (attempt,) = await hook.attempts(delivery["id"])
    assert len(attempt["answer"]) <= 1024


async def test_the_answer_is_kept_to_a_kilobyte_and_without_card_numbers(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant
) -> None:
    hook = await new_hook("card")
    await happen(merchant.caller)
    await works.run()
    (delivery,) = await hook.log()
    (attempt,) = await hook.attempts(delivery["id"])
    assert attempt["answer"] == "x" * 1016 + " 424242*", "the number begins within the kilobyte and ends after it"


async def test_410_disables_the_endpoint_at_once_and_what_waits_is_held(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, client: httpx.AsyncClient
) -> None:
    hook, watcher = await new_hook(410, 200), await new_hook(events=["webhook_endpoint.disabled"])
    subject = clock.new_uuid()
    first = await happen(merchant.caller, subject=subject)
    second = await happen(merchant.caller, subject=subject, sequence=2)
    await works.run()
    endpoint = await hook.get()
    assert (endpoint["status"], endpoint["disabled_reason"]) == ("disabled", "gone")
    assert [one["state"] for one in await hook.log()] == ["failed", "pending"]
    (told,) = await watcher.received()
    assert '"reason":"gone"' in told["body"]
    (entry,) = (await client.get("/v1/audit", params={"type": "webhook_endpoint.disabled"})).json()["data"]
    assert (entry["actor"], entry["subject"]["id"]) == ({"type": "system", "id": "webhooks"}, hook.id)
    third = await happen(merchant.caller)
    await works.later()
    await works.run()
    assert await hook.ids() == [first]
    # Enabled again, it goes on where it stopped.
    assert (await hook.patch(status="enabled")).json()["disabled_reason"] is None
    await works.run()
    again = await hook.ids()
    assert again[0] == first
    assert sorted(again[1:]) == sorted([second, third])


async def test_nothing_but_failures_for_five_days_disables_the_endpoint(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, superuser: Connection[Any]
) -> None:
    hook = await new_hook(500)
    back = (
        "UPDATE webhook_endpoints SET failing_since = failing_since - make_interval(hours => $1) WHERE tenant_id = $2"
    )
    await happen(merchant.caller)
    await works.run()
    await superuser.execute(back, 119, merchant.caller.scope.tenant_id)
    await works.later()
    await works.run()
    assert (await hook.get())["status"] == "enabled"
    await superuser.execute(back, 1, merchant.caller.scope.tenant_id)
    await works.later()
    await works.run()
    endpoint = await hook.get()
    assert (endpoint["status"], endpoint["disabled_reason"]) == ("disabled", "failing")


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_waited_for_and_no_longer_than_a_day(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, status: int
) -> None:
    hook = await new_hook([status, 3600], [status, 10_000_000], [status, "gibberish"], 200)

    async def wait_s() -> float:
        await happen(merchant.caller, subject=subject) if not await hook.log() else None
        await works.run()
        (delivery,) = await hook.log()
        (*_, attempt) = await hook.attempts(delivery["id"])
        next_at = datetime.fromisoformat(delivery["next_attempt_at"])
        return (next_at - datetime.fromisoformat(attempt["at"])).total_seconds()

    subject = clock.new_uuid()
    assert 3600 <= await wait_s() < 3605
    await works.later(3605)
    assert 86_400 <= await wait_s() < 86_405
    await works.later(86_405)
    assert 300 <= await wait_s() < 335, "the schedule"


async def test_a_slow_consumer_holds_up_nobody_else(
    new_hook: NewHook, happen: Happen, new_works: NewWorks, merchant: Merchant
) -> None:
    works = await new_works(timeout_s=20.0, endpoint_concurrency=2, concurrency=100)
    slow, quick = await new_hook("hang"), await new_hook(200)
    events = [await happen(merchant.caller) for _ in range(12)]

    async def done() -> bool | None:
        await works.dispatcher.step({merchant.caller.scope})
        return len(await quick.ids()) == len(events) or None

    await until(done)
    hanging = await slow.received()
    assert [one["open"] for one in hanging] == [True, True], "as many as one endpoint may have, and they still hang"
    for task in works.dispatcher._tasks:
        task.cancel()


async def test_a_lease_that_ran_out_is_taken_over_and_the_late_one_changes_nothing(
    new_hook: NewHook, happen: Happen, new_works: NewWorks, merchant: Merchant
) -> None:
    late = await new_works(timeout_s=20.0, lease_margin_s=-20.0, endpoint_concurrency=1)
    works = await new_works()
    hook = await new_hook("held", 500)
    event = await happen(merchant.caller)

    async def begun() -> bool | None:
        await late.dispatcher.step({merchant.caller.scope})
        return bool(await hook.received()) or None

    await until(begun)
    await works.run()
    assert await hook.ids() == [event] * 2
    taken_over = await hook.log()
    await hook.consumer.release()
    await asyncio.gather(*late.dispatcher._tasks)
    assert (await hook.received())[0]["open"] is False
    assert await hook.log() == taken_over
    (delivery,) = taken_over
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("pending", 1, 500)


async def test_a_consumer_that_moves_inside_is_not_followed(
    new_hook: NewHook,
    happen: Happen,
    works: Works,
    merchant: Merchant,
    superuser: Connection[Any],
) -> None:
    """Saved when it was public: now it is metadata."""
    hook = await new_hook()
    await superuser.execute(
        "UPDATE webhook_endpoints SET url = 'http://169.254.169.254:443/latest/meta-data/' WHERE tenant_id = $1",
        merchant.caller.scope.tenant_id,
    )
    await happen(merchant.caller)
    await works.run()
    (delivery,) = await hook.log()
    assert (delivery["state"], delivery["last_error"]) == ("pending", "address_refused")
    (attempt,) = await hook.attempts(delivery["id"])
    assert attempt["answer"] == ""


async def test_a_certificate_nobody_trusts_is_a_failure(
    new_hook: NewHook, happen: Happen, works: Works, merchant: Merchant, stranger: ssl.SSLContext
) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=stranger)
    hook = await new_hook()
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    assert (await hook.patch(url=url)).status_code == 200
    await happen(merchant.caller)
    await works.run()
    (delivery,) = await hook.log()
    assert (delivery["state"], delivery["last_error"]) == ("pending", "tls_failed")
    assert not any(heard)
    server.close()
    await server.wait_closed()


@pytest.fixture
def stranger(tmp_path: Path) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def test_deliveries_of_others_are_nobodys_business(
    new_hook: NewHook,
    happen: Happen,
    works: Works,
    merchant: Merchant,
    other_client: httpx.AsyncClient,
    live_client: httpx.AsyncClient,
) -> None:
    hook = await new_hook()
    event = await happen(merchant.caller)
    await works.run()
    (delivery,) = await hook.log()
    for stranger in (other_client, live_client):
        assert (await stranger.get(f"/v1/webhook-deliveries/{delivery['id']}")).status_code == 404
        assert (await stranger.get("/v1/webhook-deliveries", params={"event": event})).json()["data"] == []
        assert (await stranger.post(f"/v1/webhook-deliveries/{delivery['id']}/replay")).status_code == 404


def test_ten_tries_take_three_days_or_longer() -> None:
    now = clock.now()
    waits = [(at - now).total_seconds() for failures in range(1, 10) if (at := retry_at(failures, now, None))]
    assert len(waits) == 9
    assert all(low <= wait <= 1.1 * low for low, wait in zip(DELAYS_S, waits, strict=True))
    assert sum(DELAYS_S) >= 72 * 3600
    assert retry_at(10, now, None) is None
    assert retry_at(10, now, 60) is None
    assert len({retry_at(9, now, None) for _ in range(50)}) > 40, "what failed together does not come back together"


def test_a_retry_after_that_is_a_date_or_nonsense_is_read() -> None:
    now = datetime.fromisoformat("2026-11-22T10:00:00+00:00")
    assert read_retry_after("120", now) == 120
    assert read_retry_after("Sun, 22 Nov 2026 10:05:00 GMT", now) == 300
    assert read_retry_after("Sun, 22 Nov 2020 10:05:00 GMT", now) == 0
    for nonsense in (None, "", "soon", "-5", "1.5", "١٢"):
        assert read_retry_after(nonsense, now) is None
    assert (read_retry_after("9" * 500, now) or 0) > RETRY_AFTER_S_MAX
    at = retry_at(1, now, read_retry_after("9" * 500, now))
    assert at is not None
    assert (at - now).total_seconds() == RETRY_AFTER_S_MAX


@pytest.fixture
def hooks_of(new_hook: NewHook, new_client: NewClient, new_merchant: NewMerchant) -> Any:
    """Not used by itself: an endpoint of another merchant."""

    async def make() -> tuple[Merchant, Hook]:
        merchant = await new_merchant()
        return merchant, await new_hook(http=await new_client(merchant))

    return make


async def test_a_tenant_that_hangs_holds_up_no_other_tenant(
    new_hook: NewHook, hooks_of: Any, happen: Happen, new_works: NewWorks, merchant: Merchant
) -> None:
    works = await new_works(timeout_s=20.0, endpoint_concurrency=2)
    await new_hook("hang")
    other, quick = await hooks_of()
    for _ in range(6):
        await happen(merchant.caller)
    event = await happen(other.caller)

    async def done() -> bool | None:
        await works.dispatcher.step({merchant.caller.scope, other.caller.scope})
        return await quick.ids() == [event] or None

    await until(done)
    for task in works.dispatcher._tasks:
        task.cancel()
