"""Refunds by people above a limit: asked for by one, allowed by another, made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.admin.conftest import NewPerson, Person, Tabs, picture
from tests.admin.test_payment_page import refund, said
from tests.conftest import lifespan
from tests.core.payments.conftest import later
from tests.shop import Json, Shop, succeeded

from clearspan.app import Gateway, create_app
from clearspan.payments import errors
from clearspan.payments.jobs import expire_approvals
from clearspan.payments.schemas import RefundCreate
from clearspan.platform import clock, plugins
from clearspan.platform.idempotency import read_key

if TYPE_CHECKING:
    import httpx
    from tests.conftest import Merchant, Urls

    from clearspan.platform.crypto import MasterKey
    from clearspan.platform.gate import AsgiApp
    from clearspan.settings import Settings


@pytest.fixture(scope="module")
def gateway(urls: Urls, cockpit_settings: Settings, master: MasterKey) -> Gateway:
    """One person may give back 50.00 of a payment."""
    payments = msgspec.structs.replace(cockpit_settings.payments, refund_second_person_above_minor=5000)
    settings = msgspec.structs.replace(cockpit_settings, payments=payments)
    return Gateway(settings, urls.app, master, plugins.load(settings.plugins.enabled))


@pytest.fixture(scope="module")
async def app(gateway: Gateway) -> AsyncIterator[AsgiApp]:
    """The application around it."""
    application = create_app(gateway)
    async with lifespan(application):
        yield application


async def asked(person: Person, payment: Json, amount: str = "50.01", reason: str = "promised on the telephone") -> str:
    """A request for a second person; its id."""
    answer = await refund(person, payment, amount, reason=reason)
    assert "Your request waits for approval" in await said(person, answer)
    page = (await person.get("/approvals")).text
    return page.partition('href="/admin/approvals/apv_')[2].partition('"')[0]


async def refunded(shop: Shop, payment: Json) -> int:
    found: int = (await shop.get(payment))["amounts"]["refunded_minor"]
    return found


async def test_one_asks_another_allows_and_it_is_refunded_once(people: NewPerson, shop: Shop) -> None:
    support, finance = await people("support"), await people("finance")
    payment = await shop.paid(20_000)
    identity = await asked(support, payment, "150.00")
    assert await refunded(shop, payment) == 0
    path = f"/approvals/apv_{identity}"
    page = (await finance.get(path)).text
    for words in ("Refund €150.00", "promised on the telephone", support.operator.name, "Approve and refund €150.00"):
        assert words in page, words
    assert "waits for a second person" in (await finance.get(f"/payments/{payment['id']}")).text
    answer = await finance.post(f"{path}/approve", path, reason="I called the customer")
    assert "Approved, and €150.00 refunded." in await said(finance, answer)
    await finance.post(f"{path}/approve", f"/payments/{payment['id']}/cancel", reason="again")
    assert await refunded(shop, payment) == 15_000
    assert len(succeeded(await shop.book(), "refund")) == 1
    story = (await finance.get(f"/payments/{payment['id']}")).text
    assert "A second person was asked for" in story
    assert "Approved by a second person" in story
    assert "I called the customer" in story
    decided = (await finance.get("/approvals?show=decided")).text
    assert identity in decided
    events = (await shop.http.get("/v1/audit", params={"limit": 50})).json()["data"]
    kinds = {event["type"]: event for event in events if event["type"].startswith(("approval.", "refund.created"))}
    assert kinds["approval.asked"]["actor"]["id"] == support.operator.public_id
    assert kinds["approval.approved"]["actor"]["id"] == finance.operator.public_id
    assert kinds["refund.created"]["actor"]["id"] == finance.operator.public_id


async def test_small_refunds_need_nobody_but_do_not_add_up_to_a_large_one(people: NewPerson, shop: Shop) -> None:
    ada, bob = await people("support"), await people("finance")
    payment = await shop.paid(20_000)
    await shop.act(payment, "refunds", {"amount_minor": 6000})  # API keys are not held by the limit
    assert "Refunded €30.00." in await said(ada, await refund(ada, payment, "30.00"))
    assert "Refunded €20.00." in await said(bob, await refund(bob, payment, "20.00"))
    answer = await refund(ada, payment, "0.01", reason="one more cent")
    assert "second person" in await said(ada, answer)
    assert await refunded(shop, payment) == 11_000


async def test_two_small_refunds_at_once_stay_below_the_limit_too(people: NewPerson, shop: Shop) -> None:
    ada, bob = await people("support"), await people("support")
    payment = await shop.paid(20_000)
    answers = await asyncio.gather(*(refund(one, payment, "30.00", reason="goodwill") for one in (ada, bob)))
    texts = [await said(one, answer) for one, answer in zip((ada, bob), answers, strict=True)]
    assert sorted("Refunded" in text for text in texts) == [False, True]
    assert await refunded(shop, payment) == 3000


async def test_a_request_needs_a_reason_and_there_is_one_per_payment(people: NewPerson, shop: Shop) -> None:
    support = await people("support")
    payment = await shop.paid(20_000)
    answer = await refund(support, payment, "60.00")
    assert (answer.status_code, "Say why" in answer.text) == (422, True)
    await asked(support, payment)
    answer = await refund(support, payment, "60.00", reason="another one")
    assert (answer.status_code, "waits for approval already" in answer.text) == (422, True)
    answer = await refund(support, payment, "60.00", reason="x" * 201)
    assert answer.status_code == 422


async def test_a_double_click_asks_once(people: NewPerson, shop: Shop) -> None:
    support = await people("support")
    payment = await shop.paid(20_000)
    for _ in range(2):
        assert "Your request waits" in await said(
            support, await refund(support, payment, "60.00", reason="twice", key="same")
        )
    assert (await support.get("/approvals")).text.count('href="/admin/approvals/apv_') == 1


async def test_who_asked_cannot_allow_it_but_take_it_back(people: NewPerson, shop: Shop) -> None:
    finance = await people("finance")
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(finance, payment)}"
    page = (await finance.get(path)).text
    assert "Approve and refund" not in page
    for what in ("approve", "reject"):
        answer = await finance.post(f"{path}/{what}", path, reason="because I can")
        assert (answer.status_code, "Somebody else must decide" in answer.text) == (422, True), what
    assert "withdrawn" in await said(finance, await finance.post(f"{path}/withdraw", path))
    assert await refunded(shop, payment) == 0
    await asked(finance, payment)


@pytest.mark.parametrize("role", ["support", "developer", "auditor"])
async def test_who_may_not_decide_sees_no_button_and_is_refused(people: NewPerson, shop: Shop, role: str) -> None:
    other, person = await people("support"), await people(role)
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(other, payment)}"
    page = await person.get(path)
    assert (page.status_code, "Approve and refund" in page.text) == (200, False)
    for what in ("approve", "reject"):
        assert (await person.post(f"{path}/{what}", "/payments", reason="no right", key="k")).status_code == 403
    assert (await person.post(f"{path}/withdraw", "/payments", key="k")).status_code in (403, 409)
    assert await refunded(shop, payment) == 0


async def test_allowing_needs_a_factor_given_a_moment_ago(people: NewPerson, shop: Shop, gateway: Gateway) -> None:
    support, finance = await people("support"), await people("finance")
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(support, payment)}"
    with later(hours=0.4):
        answer = await finance.post(f"{path}/approve", path, reason="late")
    assert answer.status_code in (303, 403)
    assert await refunded(shop, payment) == 0


async def test_a_rejection_needs_a_reason_and_refunds_nothing(people: NewPerson, shop: Shop) -> None:
    support, finance = await people("support"), await people("admin")
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(support, payment)}"
    assert (await finance.post(f"{path}/reject", path)).status_code == 422
    assert "Rejected" in await said(finance, await finance.post(f"{path}/reject", path, reason="<b>not</b> our fault"))
    page = (await support.get(path)).text
    assert "&lt;b&gt;not&lt;/b&gt; our fault" in page
    other = await people("finance")
    answer = await other.post(f"{path}/approve", f"/payments/{payment['id']}/cancel", reason="too late")
    assert "rejected it already" in await said(other, answer)
    assert await refunded(shop, payment) == 0


async def test_two_who_allow_at_once_refund_once_and_the_second_is_told(people: NewPerson, shop: Shop) -> None:
    support, ada, bob = await people("support"), await people("finance"), await people("owner")
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(support, payment, '100')}"
    answers = await asyncio.gather(*(one.post(f"{path}/approve", path, reason="yes") for one in (ada, bob)))
    pairs = zip((ada, bob), answers, strict=True)
    texts = [await said(one, answer) if answer.status_code == 303 else answer.text for one, answer in pairs]
    assert sum("Approved, and €100.00 refunded." in text for text in texts) == 1, texts
    assert await refunded(shop, payment) == 10_000
    assert len(succeeded(await shop.book(), "refund")) == 1


async def test_allowing_and_rejecting_at_once_is_one_of_both(people: NewPerson, shop: Shop) -> None:
    support, ada, bob = await people("support"), await people("finance"), await people("owner")
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(support, payment, '100')}"
    await asyncio.gather(ada.post(f"{path}/approve", path, reason="yes"), bob.post(f"{path}/reject", path, reason="no"))
    status = (await support.get(path)).text
    assert await refunded(shop, payment) == (10_000 if "Approved" in status else 0)


async def test_a_payment_that_changed_meanwhile_is_told_and_the_request_stays(people: NewPerson, shop: Shop) -> None:
    support, finance = await people("support"), await people("finance")
    payment = await shop.paid(20_000)
    path = f"/approvals/apv_{await asked(support, payment, '150')}"
    await shop.act(payment, "refunds", {"amount_minor": 10_000})
    assert "less is left than was asked for" in (await finance.get(path)).text
    answer = await finance.post(f"{path}/approve", path, reason="anyway")
    assert (answer.status_code, "Left: €100.00" in answer.text) == (422, True)
    assert await refunded(shop, payment) == 10_000
    assert "Rejected" in await said(finance, await finance.post(f"{path}/reject", path, reason="changed"))


async def test_a_request_expires_after_seven_days(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    support, finance = await people("support"), await people("finance")
    payment = await shop.paid(20_000)
    identity = f"apv_{await asked(support, payment)}"
    scope, caller = merchant.caller.scope, finance.session
    assert caller
    approver = msgspec.structs.replace(
        merchant.caller, actor_type="operator", actor_id=finance.operator.public_id, key_id=None
    )
    with later(hours=24 * 7 + 1):
        with pytest.raises(errors.ApprovalDecided) as refused:
            await gateway.approvals.approve(approver, identity)
        assert refused.value.fields == {"approval_status": "expired"}
        with pytest.raises(errors.ApprovalDecided):
            await gateway.approvals.reject(approver, identity, "too late")
        context: dict[str, Any] = {"db": gateway.db, "settings": gateway.settings, "request_id": "req_test"}
        await expire_approvals(context, tenant_id=str(scope.tenant_id), live=False)
        found = await gateway.approvals.get(scope, identity)
        assert (found.status, found.decided_by) == ("expired", None)
        assert await expire_approvals(context, tenant_id=str(scope.tenant_id), live=False) == 0
    assert await refunded(shop, payment) == 0
    assert "expired" in (await support.get(f"/approvals/{identity}")).text.lower()
    events = [entry["type"] for entry in (await shop.http.get("/v1/audit", params={"limit": 20})).json()["data"]]
    assert events.count("approval.expired") == 1
    await asked(support, payment)


async def test_the_limit_holds_where_the_refund_is_reserved(
    people: NewPerson, shop: Shop, gateway: Gateway, merchant: Merchant
) -> None:
    """Whichever way a person comes: a page of another area, a token for the API, a credit note."""
    person = await people("owner")
    payment = await shop.paid(20_000)
    caller = msgspec.structs.replace(
        merchant.caller, actor_type="operator", actor_id=person.operator.public_id, key_id=None
    )
    key = read_key(clock.random_bytes(8).hex(), route="POST /elsewhere", path="/", body=b"")
    with pytest.raises(errors.ApprovalRequired):
        await gateway.payments.refund(caller, key, payment["id"], RefundCreate(amount_minor=5001))
    with pytest.raises(errors.ApprovalRequired):
        await gateway.payments.refund(caller, key, payment["id"], RefundCreate())
    assert await refunded(shop, payment) == 0


async def test_another_tenants_requests_are_not_there(
    people: NewPerson, shop: Shop, other_client: httpx.AsyncClient, other_merchant: Merchant, psp_url: str
) -> None:
    theirs = await people("support", of=other_merchant)
    payment = await (await Shop.open(other_client, psp_url)).paid(20_000)
    identity = f"apv_{await asked(theirs, payment)}"
    person = await people("owner")
    assert (await person.get(f"/approvals/{identity}")).status_code == 404
    assert identity not in (await person.get("/approvals")).text
    for what in ("approve", "reject", "withdraw"):
        assert (
            await person.post(f"/approvals/{identity}/{what}", "/payments", reason="mine", key="k")
        ).status_code == 404
    assert (await person.get("/approvals/apv_nonsense")).status_code == 404


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 390)])
async def test_approvals_in_a_browser(tabs: Tabs, dark: bool, width: int) -> None:
    served = tabs._served
    payment = await served.shop.paid(500_000, reference="order-7")
    page = await tabs.open("support")
    await page.goto(f"{served.url}/admin/payments/{payment['id']}/refund")
    await page.locator("#amount").fill("4,000.00")
    await page.locator("#reason").fill("Lost in the post")
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_text("a second person decides").wait_for()
    await page.get_by_role("button", name="Refund €4,000.00").click()
    await page.get_by_text("Your request waits for approval").wait_for()
    other = await tabs.open("finance", dark=dark, width=width)
    await other.goto(f"{served.url}/admin/approvals")
    await picture(other, f"approvals-{width}{'-dark' if dark else ''}")
    await other.locator("tbody tr a").first.click()
    await picture(other, f"approval-{width}{'-dark' if dark else ''}")
    await other.get_by_role("button", name="Approve").click()
    await other.get_by_text("Approved, and €4,000.00 refunded.").wait_for()
