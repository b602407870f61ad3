"""Home shows the day in figures, what waits for somebody, and the newest payments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.admin.conftest import NewPerson
from tests.conftest import Merchant
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.reports import service


@pytest.fixture(autouse=True)
async def at_once(gateway: Gateway) -> AsyncIterator[None]:
    """Answers are not kept between tests."""
    gateway.reports._kept.clear()
    yield
    gateway.reports._kept.clear()


async def test_the_day_is_counted_per_currency_and_never_across(people: NewPerson, shop: Shop) -> None:
    await shop.paid(1000, currency="EUR")
    await shop.paid(2000, currency="EUR")
    await shop.paid(700, currency="JPY")
    await shop.pay(500, "tok_decline_insufficient_funds")
    page = (await (await people("support")).get("/")).text
    assert "€30.00" in page
    assert "¥700" in page
    assert "75.0%" in page, "three of four"
    assert "€37" not in page
    assert "insufficient funds" in page


@pytest.mark.parametrize("role", ["owner", "finance", "support", "developer", "auditor"])
async def test_every_role_that_may_see_payments_sees_home(people: NewPerson, role: str) -> None:
    person = await people(role)
    for path in ("/", "/now", "/newest"):
        assert (await person.get(path)).status_code == 200, path


async def test_before_the_first_payment_home_says_what_will_be_there(people: NewPerson) -> None:
    page = (await (await people()).get("/")).text
    for words in ("No payments yet", "No PSP account yet", "Nothing waits for you", "Nothing was captured"):
        assert words in page


async def wait_for_somebody(superuser: asyncpg.Connection[Any], scope: Scope) -> None:
    """A dispute to answer, an approval, a parked message and a failed notice, as other parts of the gateway leave them."""
    now = clock.now()
    payment, operation, account = await superuser.fetchrow(  # type: ignore[misc]
        "SELECT payment_id, operation_id, psp_account_id FROM operations WHERE tenant_id = $1 LIMIT 1", scope.tenant_id
    )
    async with superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        given = (scope.tenant_id, scope.live, clock.new_uuid(), payment)
        await superuser.execute(
            "INSERT INTO disputes (tenant_id, live, dispute_id, payment_id, operation_id, psp_account_id, psp_ref, status,"
            " amount_minor, currency, evidence_due_at, opened_at, updated_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, 'dp_1', 'needs_response', 100, 'EUR', $7, $8, $8)",
            *given, operation, account, now + timedelta(days=3), now,
        )  # fmt: skip
        await superuser.execute(
            "INSERT INTO approvals (tenant_id, live, approval_id, kind, subject_id, request, amount_minor, currency, reason,"
            " asked_by, asked_at, expires_at) VALUES ($1, $2, $3, 'refund', $4, '{}', 100, 'EUR', 'high', 'opr_1', $5, $6)",
            *given, now, now + timedelta(days=7),
        )  # fmt: skip
        await superuser.execute(
            "INSERT INTO webhook_inbox (tenant_id, live, inbox_id, psp_account_id, event_key, type, body_hash, state,"
            " received_at, updated_at) VALUES ($1, $2, $3, $4, 'e', 'charge.updated', 'x', 'parked', $5, $5)",
            *given[:3], account, now - timedelta(hours=2),
        )  # fmt: skip
        await superuser.execute(
            "INSERT INTO notices (tenant_id, live, notice_id, kind, customer_id, dedupe, state, created_at, updated_at)"
            " VALUES ($1, $2, $3, 'receipt', $3, 'd', 'failed', $4, $4)",
            *given[:3], now,
        )  # fmt: skip


async def test_what_waits_for_somebody_leads_to_where_it_is_worked_on(
    people: NewPerson, shop: Shop, merchant: Merchant, superuser: asyncpg.Connection[Any]
) -> None:
    unclear = (await shop.pay(900, metadata={"sandbox_fault": "F4 status=502 booked=true"})).json()
    assert unclear["outcome"] == "unknown", unclear
    await wait_for_somebody(superuser, merchant.caller.scope)
    page = (await (await people("finance")).get("/")).text
    for name, path in {
        "unknown": "/work?queue=unknown",
        "disputes_to_answer": "/disputes",
        "approvals": "/approvals",
        "parked": "/work?queue=webhooks",
        "notices": "/work?queue=notices",
    }.items():
        assert f'<a id="needs-{name}" href="/admin{path}">' in page, name
    assert "The oldest: 2 hours ago." in page
    assert "1 unknown" in page, "neither a success nor a failure"


async def test_somebody_who_may_not_decide_sees_that_it_waits_but_no_way_to_it(
    people: NewPerson, shop: Shop, merchant: Merchant, superuser: asyncpg.Connection[Any]
) -> None:
    await shop.paid()
    await wait_for_somebody(superuser, merchant.caller.scope)
    page = (await (await people("support")).get("/")).text
    assert "Requests that wait for a second person" in page
    assert 'id="needs-approvals"' not in page, "the menu leads to their own requests"


async def test_what_somebody_else_wrote_is_text(people: NewPerson, shop: Shop) -> None:
    await shop.paid(reference="<script>alert(1)</script>")
    page = (await (await people()).get("/")).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


async def test_another_tenants_payments_are_not_there(people: NewPerson, shop: Shop, other_merchant: Merchant) -> None:
    payment = await shop.paid(123_456)
    stranger = await people("owner", of=other_merchant)
    for path in ("/", "/now", "/newest"):
        page = (await stranger.get(path)).text
        assert payment["id"] not in page
        assert "1,234.56" not in page


async def test_a_part_for_another_tenant_or_mode_is_refused(people: NewPerson, merchant: Merchant) -> None:
    person = await people()
    slug = merchant.caller.tenant
    for path in ("/now", "/newest", "/live"):
        answer = await person.get(f"{path}?of={slug}.live")
        assert answer.status_code == 409, path
        assert "looks_elsewhere" in answer.text
    assert (await person.get(f"/now?of={slug}.test")).status_code == 200


async def test_what_a_page_asks_by_itself_keeps_no_session_open(
    people: NewPerson, superuser: asyncpg.Connection[Any]
) -> None:
    person = await people()
    before = clock.now() - timedelta(minutes=10)

    async def seen_at() -> Any:
        return await superuser.fetchval(
            "SELECT seen_at FROM operator_sessions WHERE session_id = $1", person.session.session_id
        )

    await superuser.execute(
        "UPDATE operator_sessions SET seen_at = $2 WHERE session_id = $1", person.session.session_id, before
    )
    for path in ("/now", "/newest"):
        await person.get(path)
    assert await seen_at() == before
    await person.get("/")
    assert await seen_at() > before


async def test_without_a_session_scripts_get_401_and_no_redirect(people: NewPerson) -> None:
    person = await people()
    person.http.cookies.clear()
    for path in ("/live", "/newest"):
        answer = await person.get(path, Accept="text/event-stream")
        assert answer.status_code == 401, path
        assert answer.json()["code"] == "sign_in_required"
        assert answer.headers["cache-control"] == "no-store"
    assert service.KEEP_S < 5, "the pages ask again after five seconds"
