"""The audit trail in the cockpit: found, told in sentences, with what differs; proven, and loudly not proven after tampering."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import msgspec
import pytest
from tests.admin.conftest import NewPerson, Person, Served, Tabs, picture, signed_in
from tests.conftest import Merchant, NewMerchant, Urls, connected, lifespan
from tests.core.journal.test_event_types import documented
from tests.core.journal.trail import settle
from tests.shop import Shop

from clearspan.access.operators import record
from clearspan.app import Gateway, create_app
from clearspan.journal.seal import Sealer
from clearspan.platform import clock, ids, plugins
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings
from clearspan_admin import telling

HOSTILE = '<img src=x onerror="alert(1)">'


async def seal(gateway: Gateway) -> None:
    """Everything that happened is in the tree, and signed, as the worker does it."""
    await settle(gateway.db)
    settings = msgspec.structs.replace(gateway.settings.audit, checkpoint_interval_s=0)
    sealer = Sealer(gateway.db, gateway.proofs, gateway.audit_key, settings)
    await sealer.seal()
    await sealer.sign()


def test_every_type_of_event_is_told_in_a_sentence() -> None:
    types = documented()
    assert len(types) > 150
    assert types == set(telling.TYPES)


def text_of(html: str) -> str:
    """What a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html.split("<main", 1)[1]))


# -- Searching ------------------------------------------------------------------------------------------------------------------


async def test_it_says_who_did_what_to_what_and_shows_what_differs(people: NewPerson, gateway: Gateway) -> None:
    admin, auditor = await people("owner"), await people("auditor")
    caller = web_caller(admin, live=True)
    await gateway.operators.change_role(caller, auditor.operator.operator_id, "support", own_role="owner")
    page = (await admin.get("/audit?mode=live&type=operator.role_changed")).text
    assert "Owner Test changed the role of Auditor Test" in text_of(page)
    assert re.search(r"<del>auditor</del>.*<ins>support</ins>", page, re.DOTALL)
    assert "before:" in page
    assert "after:" in page
    assert "other mode" in page, "people's entries are in live mode, and one is looking from test mode"
    assert "changed the role" not in (await admin.get("/audit")).text


def web_caller(person: Person, *, live: bool) -> Caller:
    """Somebody, as services see them."""
    one = person.operator.memberships[0]
    return Caller(
        scope=Scope(tenant_id=one.tenant_id, live=live),
        actor_type="operator",
        actor_id=person.operator.public_id,
        request_id="req_audit",
    )


async def test_changed_settings_of_a_psp_account_are_named_and_never_shown(people: NewPerson, shop: Shop) -> None:
    accounts = (await shop.http.get("/v1/psp-accounts")).json()["data"]
    account = next(one for one in accounts if one["name"] == "alpha")
    config = {"url": shop.psp_url, "api_key": "sk_sandbox_very_secret_value"}
    answer = await shop.http.patch(f"/v1/psp-accounts/{account['id']}", json={"priority": 77, "config": config})
    assert answer.status_code == 200, answer.text
    page = (await (await people("developer")).get(f"/audit?subject={account['id']}")).text
    assert re.search(r"<del>10</del>.*<ins>77</ins>", page, re.DOTALL)
    assert "api_key" in page
    assert "very_secret" not in page


async def test_changed_plans_endpoints_and_billing_settings_have_a_before_and_an_after(
    people: NewPerson, shop: Shop
) -> None:
    plan = await shop.post("/v1/plans", {"name": "Old", "amounts": {"EUR": 900}, "interval": {"unit": "month"}})
    assert plan.status_code == 201, plan.text
    await shop.http.patch(f"/v1/plans/{plan.json()['id']}", json={"name": HOSTILE})
    endpoint = await shop.post(
        "/v1/webhook-endpoints", {"url": "https://127.0.0.1/hook?token=secret-in-url", "events": ["*"]}
    )
    assert endpoint.status_code == 201, endpoint.text
    await shop.http.patch(
        f"/v1/webhook-endpoints/{endpoint.json()['id']}", json={"events": ["payment.*"], "status": "disabled"}
    )
    person = await people("owner")
    page = (await person.get(f"/audit?subject={plan.json()['id']}")).text
    assert "<del>Old</del>" in page
    assert HOSTILE not in page
    assert "&lt;img src=x" in page
    page = (await person.get(f"/audit?subject={endpoint.json()['id']}")).text
    assert re.search(r"<del>\*</del>.*<ins>payment\.\*</ins>", page, re.DOTALL)
    assert re.search(r"<del>enabled</del>.*<ins>disabled</ins>", page, re.DOTALL)
    assert "secret-in-url" not in page


async def test_every_filter_narrows(people: NewPerson, shop: Shop) -> None:
    customer = await shop.customer(email="ada@example.com")
    payment = await shop.paid()
    person = await people("auditor")
    entries = (await shop.http.get("/v1/audit", params={"subject": payment["id"]})).json()["data"]
    for query, inside, outside in (
        (f"customer={customer}", customer, payment["id"]),
        (f"subject={payment['id']}", payment["id"], customer),
        ("subject_type=customer", customer, payment["id"]),
        ("type=customer.created", customer, payment["id"]),
        (f"request_id={entries[0]['request_id']}", payment["id"], customer),
        (f"actor={entries[-1]['actor']['id']}&subject={payment['id']}", payment["id"], customer),
        ("after=2020-01-01", customer, "nothing-like-this"),
    ):
        page = await person.get(f"/audit?{query}")
        assert page.status_code == 200, page.text
        listed = page.text.split('class="trail"', 1)[1]
        assert inside in listed, query
        assert outside not in listed, query
    assert "No entry matches" in (await person.get("/audit?before=2020-01-01")).text
    for nonsense in ("subject=nonsense", "customer=pay_1", "after=yesterday", "cursor=nonsense"):
        answer = await person.get(f"/audit?{nonsense}")
        assert answer.status_code == 422, nonsense
        assert 'class="alert bad"' in answer.text


async def test_a_day_is_a_day_of_the_persons_own_zone(people: NewPerson, gateway: Gateway) -> None:
    person = await people("auditor")
    await gateway.operators.change(person.operator, timezone="Pacific/Kiritimati")  # 14 hours ahead of UTC
    today = clock.now().date()
    own = (clock.now() + clock.seconds(14 * 3600)).date()
    found = await person.get(f"/audit?mode=live&after={own}&before={own}")
    listed = "operator.joined" in found.text
    assert listed or own == today
    assert "operator.joined" not in (await person.get(f"/audit?mode=live&before={own.replace(year=2025)}")).text


async def test_a_long_trail_has_pages(people: NewPerson, gateway: Gateway, merchant: Merchant) -> None:
    async with gateway.db.begin(merchant.caller.scope) as session:
        for number in range(60):
            await record(session, merchant.caller, "operator.joined", clock.new_uuid(), number, {"role": "auditor"})
    person = await people("auditor")
    first = (await person.get("/audit?type=operator.joined")).text
    assert first.count('class="trail-line"') == 50
    following = re.search(r'rel="next" href="/admin([^"]+)"', first)
    assert following is not None
    second = (await person.get(following[1].replace("&amp;", "&"))).text
    assert second.count('class="trail-line"') == 10


async def test_who_may_not_and_what_is_anothers(
    people: NewPerson, new_merchant: NewMerchant, merchant: Merchant, shop: Shop
) -> None:
    support = await people("support")
    for path in ("/audit", "/audit/checkpoint.txt", "/audit/entries/evt_01h455vb4pex5vsknk084sn02q"):
        assert (await support.get(path)).status_code == 403, path
    assert (await support.post("/audit/verify", "/")).status_code == 403
    entry = (await shop.http.get("/v1/audit")).json()["data"][0]["id"]
    stranger = await people("auditor", of=await new_merchant())
    for path in (f"/audit/entries/{entry}", f"/audit/entries/{entry}/proof.jsonl", "/audit/entries/nonsense"):
        assert (await stranger.get(path)).status_code == 404, path


# -- Proving --------------------------------------------------------------------------------------------------------------------


class Log:
    """A gateway on a database of its own, whose trail may be tampered with."""

    def __init__(
        self, gateway: Gateway, person: Person, merchant: Merchant, sql: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        self.gateway = gateway
        self.person = person
        self.merchant = merchant
        self.sql = sql

    async def happen(self, count: int) -> None:
        """So many events of the merchant's."""
        async with self.gateway.db.begin(self.merchant.caller.scope) as session:
            for number in range(count):
                await record(
                    session, self.merchant.caller, "operator.joined", clock.new_uuid(), number, {"role": "auditor"}
                )

    async def verify(self) -> str:
        """What the page says."""
        answer = await self.person.post("/audit/verify", "/audit")
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def empty(databases: Callable[[], Urls]) -> Urls:
    """A database of its own."""
    return databases()


@pytest.fixture
async def log(empty: Urls, cockpit_settings: Settings, master: MasterKey) -> AsyncIterator[Log]:
    """With a person and thirty events, sealed."""
    import httpx
    from tests.conftest import BASE_URL

    gateway = Gateway(cockpit_settings, empty.app, master, plugins.load(cockpit_settings.plugins.enabled))
    application = create_app(gateway)
    async with lifespan(application), connected(empty.superuser) as sql:
        tenant = await gateway.tenants.create("acme", "Acme")
        caller = Caller(
            scope=Scope(tenant_id=tenant.tenant_id, live=False),
            actor_type="cli",
            actor_id="tests",
            request_id="req_tests",
            tenant="acme",
        )
        merchant = Merchant(caller, "")
        operator, session = await signed_in(gateway, merchant, "auditor")
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=application),  # type: ignore[arg-type]
            base_url=BASE_URL,
            cookies={gateway.sessions.cookie: session.token},
            headers={"Origin": BASE_URL, "Sec-Fetch-Site": "same-origin"},
        ) as http:
            made = Log(gateway, Person(operator, session, http), merchant, sql)
            await made.happen(30)
            await seal(gateway)
            await sql.execute("SET session_replication_role = replica")  # no trigger refuses
            yield made


async def test_an_untouched_trail_is_verified_and_remembered(log: Log) -> None:
    text = await log.verify()
    assert "Verified: the trail is what was signed." in text
    assert "All 30 signed entries" in text
    assert "the first checkpoint that you see" in text
    await log.happen(10)
    lagging = await log.verify()
    assert "they are all still there" in lagging
    await seal(log.gateway)
    text = await log.verify()
    assert "All 40 signed entries" in text
    assert re.search(r"You saw \d+ entries; they are all still there", text)


async def test_one_entry_is_proven_and_the_download_convinces_the_offline_verifier(log: Log, tmp_path: Path) -> None:
    page = (await log.person.get("/audit")).text
    event = re.findall(r"/audit/entries/(evt_\w+)", page)[0]
    entry = (await log.person.get(f"/audit/entries/{event}")).text
    assert "Proven: this entry is" in entry
    held = (await log.person.get("/audit/checkpoint.txt")).text
    await log.verify()
    await log.happen(5)
    await seal(log.gateway)
    for name, path in (("v.py", "/audit/verifier.py"), ("e.jsonl", f"/audit/entries/{event}/proof.jsonl")):
        answer = await log.person.get(path)
        assert answer.status_code == 200
        assert "attachment" in answer.headers["content-disposition"]
        (tmp_path / name).write_bytes(answer.content)
    (tmp_path / "held.txt").write_text(held)
    key = log.gateway.audit_key.verifier_key
    run = subprocess.run(
        [sys.executable, tmp_path / "v.py", tmp_path / "e.jsonl", "--key", key, "--checkpoint", tmp_path / "held.txt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "which extends yours" in run.stdout


OF_ENTRY = "WHERE tenant_id = $1 AND live = $2 AND sequence = 7"
EVERYWHERE = "WHERE $1::uuid IS NOT NULL AND $2::boolean IS NOT NULL"
CHANGE_LEAF = (
    "UPDATE journal_leaves SET hash = sha256('x') WHERE leaf_index ="
    " (SELECT min(leaf_index) + 7 FROM journal_leaves WHERE tenant_id = $1 AND live = $2)"
)
INSERT = (
    "INSERT INTO journal OVERRIDING SYSTEM VALUE SELECT (j).* FROM (SELECT jsonb_populate_record(j, jsonb_build_object("
    f"'event_id', gen_random_uuid(), 'seq', 1)) AS j FROM journal j {OF_ENTRY}) AS x"
)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (f"UPDATE journal SET data = '{{}}' {OF_ENTRY}", "it was changed"),
        (f"DELETE FROM journal {OF_ENTRY}", "it was deleted"),
        (INSERT, "was put in below"),
        (CHANGE_LEAF, "not the one that was signed"),
        (f"UPDATE checkpoints SET root = sha256('x') {EVERYWHERE}", "not signed by"),
        (f"UPDATE checkpoints SET created_at = created_at - interval '1 day' {EVERYWHERE}", "its time was changed"),
        (f"UPDATE checkpoints SET note = replace(note, '— ', '— x') {EVERYWHERE}", "not signed by"),
    ],
    ids=["changed", "deleted", "inserted", "leaf", "root", "time", "signature"],
)
async def test_tampering_is_impossible_to_miss(log: Log, statement: str, says: str) -> None:
    before = (await log.gateway.operators.get(log.person.operator.operator_id)).preferences
    scope = log.merchant.caller.scope
    done = await log.sql.execute(statement, scope.tenant_id, scope.live)
    assert not done.endswith(" 0"), done
    text = await log.verify()
    assert "NOT PROVEN: the trail is not what was signed" in text
    assert 'role="alert"' in text
    assert says in text_of(text)
    assert "clearspan audit verify --checkpoint" in text
    assert "Verified:" not in text
    after = (await log.gateway.operators.get(log.person.operator.operator_id)).preferences
    assert after == before, "what does not hold is not remembered as seen"


async def test_a_tail_cut_off_is_found_by_what_the_person_saw(log: Log) -> None:
    assert "Verified" in await log.verify()
    await log.happen(10)
    await seal(log.gateway)
    assert "Verified" in await log.verify()
    await log.sql.execute("DELETE FROM checkpoints WHERE number = (SELECT max(number) FROM checkpoints)")
    await log.sql.execute("DELETE FROM journal_leaves WHERE leaf_index >= (SELECT max(size) FROM checkpoints)")
    await log.sql.execute("DELETE FROM journal WHERE event_id NOT IN (SELECT event_id FROM journal_leaves)")
    text = await log.verify()
    assert "entries were cut off since" in text_of(text)
    await log.sql.execute("DELETE FROM checkpoints")
    assert "NOT PROVEN" in await log.verify()


async def test_one_changed_entry_says_so_on_its_own_page(log: Log) -> None:
    scope = log.merchant.caller.scope
    event = await log.sql.fetchval(
        "UPDATE journal SET actor_id = 'somebody else' WHERE tenant_id = $1 AND live = $2 AND sequence = 7 RETURNING event_id",
        scope.tenant_id, scope.live,
    )  # fmt: skip
    page = (await log.person.get(f"/audit/entries/{ids.encode('evt', event)}")).text
    assert "NOT PROVEN" in page


async def test_before_anything_is_signed_it_says_that_nothing_can_be_verified(log: Log) -> None:
    for table in ("checkpoints", "journal_nodes", "journal_leaves"):
        await log.sql.execute(f"DELETE FROM {table}")
    assert "Nothing is signed yet" in await log.verify()
    assert "Nothing is signed yet" in (await log.person.get("/audit")).text


async def test_in_a_browser(tabs: Tabs, served: Served) -> None:
    payment = await served.shop.paid()
    await seal(served.gateway)
    page = await tabs.open("finance")
    await page.goto(f"{served.url}/admin/audit")
    await picture(page, "audit")
    await page.get_by_role("button", name="Verify now").click()
    await page.get_by_text("Verified: the trail is what was signed.").wait_for()
    await picture(page, "audit-verified")
    phone = await tabs.open("auditor", dark=True, width=390)
    await phone.goto(f"{served.url}/admin/audit?subject={payment['id']}")
    await picture(phone, "audit-phone-dark")
    await phone.get_by_role("link", name="Details and proof").first.click()
    await phone.get_by_text("Proven: this entry is").wait_for()
    await picture(phone, "audit-entry-phone-dark")


async def test_sentences_are_told_in_the_persons_own_language(people: NewPerson, gateway: Gateway) -> None:
    person = await people("auditor")
    await gateway.operators.change(person.operator, locale="de")
    assert "hat Auditor Test zum Mitglied gemacht" in text_of((await person.get("/audit?mode=live")).text)
    assert "Jetzt verifizieren" in (await person.get("/audit")).text
