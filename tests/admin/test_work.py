"""Work queues: what waits for people is seen, retried one by one and in bulk, by those who may and by nobody else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import expect
from tests.admin.conftest import NewPerson, Served, Tabs, picture
from tests.conftest import Merchant, NewMerchant
from tests.core.desk.stuck import failed_mails, parked
from tests.factories import Connection, insert
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.platform import clock, ids
from clearspan.platform.embedded_redis import EmbeddedRedis

HOSTILE = '<script>alert("x")</script>{{ 7*7 }}'
WHY = "the mail server was away"


async def unknown_payment(shop: Shop) -> dict[str, Any]:
    """A payment that the PSP has booked, and that the gateway knows nothing of: charge and lookups went wrong."""
    async with shop.psp("alpha") as psp:
        for verb, times in (("charge", 1), ("lookup", 3)):
            script = {"fault": "F4", "verb": verb, "times": times, "options": {"status": 503, "booked": True}}
            (await psp.post("/v1/faults/scripts", json=script)).raise_for_status()
        payment: dict[str, Any] = (await shop.pay(psp_account=await account_of(shop))).json()
        assert payment["status"] == "processing", payment
        (await psp.put("/v1/faults", json={})).raise_for_status()
    return payment


async def account_of(shop: Shop, name: str = "alpha") -> str:
    """Its public id."""
    accounts = (await shop.http.get("/v1/psp-accounts")).json()["data"]
    found: str = next(one["id"] for one in accounts if one["name"] == name)
    return found


async def drained(gateway: Gateway, merchant: Merchant) -> None:
    """Bulk runs are worked off, as the worker would."""
    await gateway.desk.work(merchant.caller.scope, "req_worker")


def counted(text: str, queue: str) -> str:
    """What a tab says."""
    found = re.search(rf'queue={queue}"[^>]*>[^<]*<span class="count[^"]*">([^<]*)</span>', text)
    assert found is not None, text[:2000]
    return found[1]


async def test_an_unknown_charge_is_looked_up_at_the_psp_and_not_charged_again(people: NewPerson, shop: Shop) -> None:
    payment = await unknown_payment(shop)
    person = await people("support")
    page = await person.get("/work")
    assert page.status_code == 200, page.text
    assert f"/payments/{payment['id']}" in page.text
    assert counted(page.text, "unknown") == "1"
    operation = (await shop.get(payment))["operations"][0]["id"]
    done = await person.post("/work/act", "/work", queue="unknown", item=operation)
    assert done.status_code == 303, done.text
    after = await person.get("/work")
    assert "The PSP was asked" in after.text
    assert counted(after.text, "unknown") == "0"
    assert (await shop.get(payment))["status"] == "succeeded"
    assert len(await shop.charged(payment)) == 1
    audit = await shop.http.get("/v1/audit", params={"type": "operation.lookup_requested"})
    assert audit.json()["data"][0]["actor"]["id"] == person.operator.public_id
    # What is known needs nobody.
    again = await person.post("/work/act", "/", key="k-1", queue="unknown", item=operation)
    assert again.status_code == 409
    assert "It waits for nobody any more" in again.text


async def test_a_message_is_retried_and_dismissed_with_a_reason_and_shown_as_text(
    people: NewPerson, shop: Shop, superuser: Connection, merchant: Merchant
) -> None:
    account = ids.decode("acct", await account_of(shop))
    await parked(superuser, merchant.caller, 2, account, note=HOSTILE, type="charge.<b>odd</b>")
    await parked(superuser, merchant.caller, 1, account, state="needs_attention", news=None)
    person = await people("finance")
    page = (await person.get("/work?queue=webhooks")).text
    assert counted(page, "webhooks") == "3"
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>odd" not in page
    assert "unreadable: look at it" in page
    first = re.findall(r'name="item" value="(whi_\w+)"', page)[0]
    detail = await person.get(f"/work/messages/{first}")
    assert detail.status_code == 200, detail.text
    assert "<script>alert" not in detail.text
    refused = await person.post("/work/act", f"/work/messages/{first}", queue="webhooks", item=first, action="dismiss")
    assert refused.status_code == 422
    assert "Say why" in refused.text
    done = await person.post(
        "/work/act", f"/work/messages/{first}", queue="webhooks", item=first, action="dismiss", reason="not ours"
    )
    assert done.status_code == 303, done.text
    assert counted((await person.get("/work?queue=webhooks")).text, "webhooks") == "2"
    told = await superuser.fetchrow(
        "SELECT state, note FROM webhook_inbox WHERE inbox_id = $1", ids.decode("whi", first)
    )
    assert told is not None
    assert list(told.values()) == ["dismissed", "not ours"]


async def test_all_that_match_are_retried_in_the_background_with_progress(
    people: NewPerson, gateway: Gateway, superuser: Connection, merchant: Merchant
) -> None:
    await failed_mails(superuser, merchant.caller, 1_200, error=HOSTILE)
    person = await people("finance")
    page = (await person.get("/work?queue=notices")).text
    assert counted(page, "notices") == "1,000+"
    assert "All 1,000+ that match this filter" in page
    assert "<script>alert" not in page
    begun = await person.post(
        "/work/bulk", "/work?queue=notices", queue="notices", which="all", reason=WHY, action="retry"
    )
    assert begun.status_code == 303, begun.text
    where = begun.headers["location"].removeprefix("/admin")
    waiting = await person.get(where)
    assert "Waits for a worker" in waiting.text
    assert "1,200" in waiting.text
    assert WHY in waiting.text
    # The page may be closed: nothing of the run hangs on it.
    await drained(gateway, merchant)
    through = await person.get(where, **{"HX-Request": "true"})
    assert "Through." in through.text
    assert "hx-get" not in through.text, "what is over is not asked for again"
    assert "<html" not in through.text
    assert counted((await person.get("/work?queue=notices")).text, "notices") == "0"


async def test_only_the_selected_rows_are_retried(
    people: NewPerson, gateway: Gateway, superuser: Connection, merchant: Merchant
) -> None:
    await failed_mails(superuser, merchant.caller, 3)
    person = await people("support")
    page = (await person.get("/work?queue=notices")).text
    items = re.findall(r'name="item" value="(ntc_\w+)"', page)
    chosen = sorted(set(items))[:2]
    begun = await person.post(
        "/work/bulk", "/work?queue=notices", queue="notices", which="selected", reason=WHY, action="retry", item=chosen
    )
    assert begun.status_code == 303, begun.text
    second = await person.post("/work/bulk", "/work?queue=notices", queue="notices", which="all", reason=WHY)
    assert second.status_code == 409
    assert "Another bulk run" in second.text
    await drained(gateway, merchant)
    states = await superuser.fetch(
        "SELECT notice_id, state FROM notices WHERE tenant_id = $1", merchant.caller.scope.tenant_id
    )
    assert {ids.encode("ntc", row["notice_id"]) for row in states if row["state"] == "queued"} == set(chosen)


async def test_a_forgotten_reason_or_selection_is_said_and_what_was_typed_stays(
    people: NewPerson, superuser: Connection, merchant: Merchant
) -> None:
    await failed_mails(superuser, merchant.caller, 2)
    person = await people("finance")
    none = await person.post("/work/bulk", "/work?queue=notices", queue="notices", which="selected", reason="my words")
    assert none.status_code == 422
    assert "Select 1 to" in none.text
    assert 'value="my words"' in none.text
    silent = await person.post("/work/bulk", "/work?queue=notices", queue="notices", which="all")
    assert silent.status_code == 422
    assert "Say why" in silent.text
    assert re.search(r'value="all" checked', silent.text)


async def test_a_run_is_canceled(
    people: NewPerson, gateway: Gateway, superuser: Connection, merchant: Merchant
) -> None:
    await failed_mails(superuser, merchant.caller, 2)
    person = await people("finance")
    begun = await person.post("/work/bulk", "/work?queue=notices", queue="notices", which="all", reason=WHY)
    where = begun.headers["location"].removeprefix("/admin")
    assert (await person.post(f"{where}/cancel", where)).status_code == 303
    page = (await person.get(where)).text
    assert "Canceled. What it had done stays done." in page
    await drained(gateway, merchant)
    assert counted((await person.get("/work?queue=notices")).text, "notices") == "2"
    assert (await person.post(f"{where}/cancel", "/work?queue=notices")).status_code == 409


@pytest.mark.parametrize(
    ("role", "queue", "may"),
    [
        ("auditor", "notices", False),
        ("developer", "notices", False),
        ("support", "notices", True),
        ("support", "webhooks", False),
        ("developer", "webhooks", True),
        ("finance", "deliveries", False),
    ],
)
async def test_a_role_acts_on_what_its_scopes_allow(
    people: NewPerson, superuser: Connection, merchant: Merchant, shop: Shop, role: str, queue: str, may: bool
) -> None:
    await failed_mails(superuser, merchant.caller, 1)
    await parked(superuser, merchant.caller, 1, ids.decode("acct", await account_of(shop)))
    person = await people(role)
    page = await person.get(f"/work?queue={queue}")
    assert page.status_code == 200, page.text
    assert ('id="many"' in page.text) is may
    answer = await person.post("/work/bulk", "/", key="k-1", queue=queue, which="all", reason=WHY)
    assert answer.status_code == (303 if may else 403)


async def test_a_queue_that_a_role_may_not_see_is_not_in_its_tabs(people: NewPerson) -> None:
    person = await people("developer")
    page = (await person.get("/work")).text
    assert "queue=rebills" not in page
    assert (await person.get("/work?queue=rebills")).status_code == 403


async def test_what_is_anothers_does_not_exist(
    people: NewPerson, superuser: Connection, merchant: Merchant, new_merchant: NewMerchant, gateway: Gateway
) -> None:
    await failed_mails(superuser, merchant.caller, 1)
    mine, stranger = await people("finance"), await people("finance", of=await new_merchant())
    begun = await mine.post("/work/bulk", "/work?queue=notices", queue="notices", which="all", reason=WHY)
    where = begun.headers["location"].removeprefix("/admin")
    assert (await stranger.get(where)).status_code == 404
    assert (await stranger.post(f"{where}/cancel", "/")).status_code == 404
    item = ids.encode("ntc", await superuser.fetchval(
        "SELECT notice_id FROM notices WHERE tenant_id = $1", merchant.caller.scope.tenant_id
    ))  # fmt: skip
    assert (await stranger.post("/work/act", "/", key="k-1", queue="notices", item=item)).status_code == 404
    assert (await stranger.get("/work?queue=notices")).text.count(item) == 0
    assert (await stranger.get(f"/work/messages/{ids.encode('whi', clock.new_uuid())}")).status_code == 404
    assert (await stranger.get(f"/work/deliveries/{ids.encode('wd', clock.new_uuid())}")).status_code == 404
    await gateway.desk.cancel(merchant.caller, where.rpartition("/")[2])


@pytest.mark.parametrize(
    "path",
    [
        "/work?queue=nonsense",
        "/work?queue=notices&state=nonsense",
        "/work?queue=unknown&account=nonsense",
        "/work?queue=deliveries&endpoint=acct_01h455vb4pex5vsknk084sn02q",
        "/work?queue=notices&after=%3Cb%3E",
        "/work/runs/nonsense",
    ],
)
async def test_a_senseless_filter_is_refused(people: NewPerson, path: str) -> None:
    answer = await (await people("owner")).get(path)
    assert answer.status_code == 404, answer.text
    assert "<h1" in answer.text


async def test_a_filter_narrows_page_and_run(
    people: NewPerson, superuser: Connection, merchant: Merchant, gateway: Gateway
) -> None:
    await failed_mails(superuser, merchant.caller, 2)
    await superuser.execute(
        "UPDATE notices SET state = 'dropped', error = 'no_email'"
        " WHERE notice_id = (SELECT max(notice_id::text)::uuid FROM notices WHERE tenant_id = $1)",
        merchant.caller.scope.tenant_id,
    )
    person = await people("finance")
    page = (await person.get("/work?queue=notices&state=undeliverable")).text
    assert len(set(re.findall(r'name="item" value="(ntc_\w+)"', page))) == 1
    assert "Nothing matches the filter" in (await person.get("/work?queue=notices&kind=reminder")).text
    await person.post(
        "/work/bulk", "/work?queue=notices&state=undeliverable", queue="notices", which="all", state="undeliverable", reason=WHY
    )  # fmt: skip
    await drained(gateway, merchant)
    assert counted((await person.get("/work?queue=notices")).text, "notices") == "1"


async def test_a_rebill_whose_account_is_refused_is_in_the_queue_and_a_held_invoice_is_released(
    people: NewPerson, superuser: Connection, merchant: Merchant
) -> None:
    from tests.factories import rows

    scope = merchant.caller.scope
    for table, row in rows(scope):
        if table not in (
            "ledger_entries",
            "journal",
            "api_keys",
            "webhook_endpoints",
            "webhook_deliveries",
            "webhook_attempts",
        ):
            await insert(superuser, table, row)
    person = await people("finance")
    assert (await person.get("/work?queue=rebills")).status_code == 200
    await superuser.execute(
        "UPDATE invoices SET collection = 'held' WHERE tenant_id = $1 AND live = $2", scope.tenant_id, scope.live
    )
    page = (await person.get("/work?queue=rebills&state=held")).text
    assert "Held" in page
    assert "F-000001" in page
    await superuser.execute(
        "SET session_replication_role = replica"
    )  # as if its period had been missed: no rebill was made
    for table in ("rebill_tries", "rebills"):
        await superuser.execute(f"DELETE FROM {table} WHERE tenant_id = $1", scope.tenant_id)
    await superuser.execute("SET session_replication_role = origin")
    invoice = await superuser.fetchval("SELECT invoice_id FROM invoices WHERE tenant_id = $1", scope.tenant_id)
    item = ids.encode("inv", invoice)
    assert item in (await person.get("/work?queue=rebills")).text
    released = await person.post("/work/act", "/work?queue=rebills", queue="rebills", item=item)
    assert released.status_code == 303, released.text
    # Its account is refused by the PSP: it rests, until somebody says that it may be asked again.
    account = await superuser.fetchval(
        "UPDATE rebill_pace SET blocked_until = now() + interval '1 hour', blocked_because = 'psp_credentials_invalid'"
        " WHERE tenant_id = $1 RETURNING psp_account_id",
        scope.tenant_id,
    )
    await superuser.execute(
        "UPDATE rebills SET psp_account_id = $2, next_at = now() + interval '1 day' WHERE tenant_id = $1",
        scope.tenant_id,
        account,
    )
    page = (await person.get("/work?queue=rebills&state=blocked")).text
    assert item in page
    assert "psp_credentials_invalid" in page
    retried = await person.post("/work/act", "/work?queue=rebills", queue="rebills", item=item)
    assert retried.status_code == 303, retried.text
    row = await superuser.fetchrow(
        "SELECT b.blocked_until, r.state, r.next_at <= now() + interval '5 seconds' AS soon FROM rebill_pace b JOIN rebills r"
        " USING (tenant_id, live, psp_account_id) WHERE b.tenant_id = $1",
        scope.tenant_id,
    )
    assert row is not None
    assert list(row.values()) == [None, "due", True]
    await superuser.execute(
        "UPDATE rebills SET state = 'stopped', next_at = NULL WHERE tenant_id = $1", scope.tenant_id
    )


async def test_without_redis_the_page_of_jobs_says_so(people: NewPerson) -> None:
    page = await (await people("developer")).get("/work?queue=jobs")
    assert page.status_code == 200
    assert "cannot be seen from here" in page.text
    assert "sweeps do the work" in page.text


async def test_syncs_are_honestly_empty(people: NewPerson) -> None:
    assert "No connector is installed" in (await (await people("auditor")).get("/work?queue=syncs")).text


@pytest.fixture
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Redis of the test's own."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


async def test_jobs_of_ones_own_tenant_are_seen_retried_and_aborted(
    people: NewPerson,
    gateway: Gateway,
    merchant: Merchant,
    new_merchant: NewMerchant,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saq import Job, Status

    from clearspan.platform.queue import Doorbell

    monkeypatch.setattr(gateway.job_queue, "_url", redis_url)
    other, bell = await new_merchant(), Doorbell(redis_url)
    for one, job in ((merchant, "send_notices"), (merchant, "collect_invoices"), (other, "recover_operations")):
        scope = one.caller.scope
        given = {"tenant_id": str(scope.tenant_id), "live": scope.live}
        await bell.ring(job, key=f"{job}:{scope.tenant_id}", **given)
    failing = await bell.queue.job(f"clearspan:send_notices:{merchant.caller.scope.tenant_id}")
    assert isinstance(failing, Job)
    await failing.finish(Status.FAILED, error=f"Traceback\n  {HOSTILE}")
    await bell.queue.redis.lrem(bell.queue._queued, 0, failing.id)  # as a worker would have taken it
    developer = await people("developer")
    page = (await developer.get("/work?queue=jobs")).text
    assert "send_notices" in page
    assert "collect_invoices" in page
    assert "recover_operations" not in page
    assert "<script>alert" not in page
    assert "no worker serves the queue" in page
    done = await developer.post("/work/jobs", "/work?queue=jobs", job="", action="retry", reason=WHY)
    assert done.status_code == 303, done.text
    await failing.refresh()
    assert failing.status is Status.QUEUED
    key = f"clearspan:collect_invoices:{merchant.caller.scope.tenant_id}"
    assert (await developer.post("/work/jobs", "/work?queue=jobs", job=key, action="abort")).status_code == 303
    aborted = await bell.queue.job(key)
    assert aborted is None or aborted.status is Status.ABORTED
    theirs = f"clearspan:recover_operations:{other.caller.scope.tenant_id}"
    assert (await developer.post("/work/jobs", "/work?queue=jobs", job=theirs, action="abort")).status_code == 404
    silent = await developer.post("/work/jobs", "/work?queue=jobs", job="", action="retry")
    assert silent.status_code == 422
    support = await people("support")
    assert (await support.post("/work/jobs", "/", job=key, action="retry")).status_code == 403
    await bell.close()


@pytest.fixture
async def working(served: Served) -> AsyncIterator[None]:
    """Somebody works off bulk runs, a bit slower than this machine could."""

    async def run() -> None:
        while True:
            held = await served.gateway.desk.claim(served.merchant.caller.scope)
            while held is not None and await served.gateway.desk.step(served.merchant.caller.scope, held, "req_worker"):
                await clock.sleep(0.1)
            await clock.sleep(0.1)

    task = asyncio.create_task(run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_in_a_browser_all_are_selected_retried_and_watched_to_the_end(
    tabs: Tabs, served: Served, superuser: Connection, working: None
) -> None:
    await failed_mails(superuser, served.merchant.caller, 700)
    page = await tabs.open("finance")
    await page.goto(f"{served.url}/admin/work?queue=notices")
    await page.get_by_label("Select all rows of this page").check()
    assert await page.locator("input[name=item]:checked").count() == 50
    await picture(page, "work-queue")
    await page.get_by_label("All 700 that match this filter").check()
    await page.get_by_label("Why").fill(WHY)
    await page.get_by_role("button", name="Send again").first.click()
    await page.locator("#confirm button[value=yes]").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Bulk run")
    await picture(page, "work-run")
    await expect(page.get_by_text("Through.")).to_be_visible(timeout=20_000)
    await expect(page.locator(".stat.good .stat-value")).to_have_text("700")
    await picture(page, "work-run-done")
    dark = await tabs.open("finance", dark=True, width=390)
    await failed_mails(superuser, served.merchant.caller, 3)
    account = ids.decode("acct", await account_of(served.shop))
    await parked(superuser, served.merchant.caller, 3, account)
    await dark.goto(f"{served.url}/admin/work?queue=webhooks")
    await picture(dark, "work-queue-phone-dark")
    await dark.goto(f"{served.url}/admin/work?queue=jobs")
    await picture(dark, "work-jobs-phone-dark")
