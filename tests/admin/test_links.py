"""One-time links: the first owner, invitations, new passwords. Each works once, for whom it was made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from tests.admin.conftest import NewPerson
from tests.admin.test_signing import (
    OTHER_PASSWORD,
    PASSWORD,
    Browser,
    Connection,
    events,
    later,
    new_browser,
    someone,
)
from tests.conftest import BASE_URL, Merchant, Urls

from clearspan.access.errors import LinkGone, MemberAlready, OperatorShared, RoleTooHigh
from clearspan.app import Gateway
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.problems import DomainError
from clearspan.settings import Settings

__all__ = ["new_browser"]


@pytest.fixture(scope="module")
def empty_urls(databases: Callable[[], Urls]) -> Urls:
    """A database of its own."""
    return databases()


@pytest.fixture(scope="module")
async def empty(empty_urls: Urls, cockpit_settings: Settings, master: MasterKey) -> AsyncIterator[Gateway]:
    """A gateway that nobody and nothing is in yet."""
    loaded = plugins.load(cockpit_settings.plugins.enabled)
    server = msgspec.structs.replace(cockpit_settings.server, public_url=BASE_URL)
    settings = msgspec.structs.replace(cockpit_settings, server=server)
    gateway = Gateway(settings, empty_urls.app, master, loaded)
    await gateway.open()
    yield gateway
    await gateway.close()


def path_of(url: str) -> str:
    return url.partition("/admin")[2]


def email() -> str:
    return f"new-{clock.random_bytes(4).hex()}@example.com"


async def test_of_two_first_owners_at_once_one_wins_and_the_link_is_made_while_nobody_is_there(empty: Gateway) -> None:
    signing = empty.signing
    older, newer = await signing.first_owner_link(), await signing.first_owner_link()
    assert older is not None
    assert newer is not None
    with pytest.raises(LinkGone):
        await signing.link(older[-64:])

    async def take(name: str) -> str:
        try:
            operator = await signing.take_first_owner(
                newer[-64:],
                email=f"{name}@example.com",
                name=name,
                password=PASSWORD,
                tenant_name="Bäckerei Öhlmann",
                locale="de",
                request_id="req_tests",
            )
        except DomainError as refusal:
            return refusal.code
        assert [(one.slug, one.role) for one in operator.memberships] == [("backerei-ohlmann", "owner")]
        return "owner"

    assert sorted(await asyncio.gather(take("ada"), take("bob"))) == ["link_gone", "owner"]
    assert await empty.operators.count() == 1
    assert await signing.first_owner_link() is None
    with pytest.raises(LinkGone):
        await signing.link(newer[-64:])


async def test_somebody_new_follows_an_invitation(
    gateway: Gateway, people: NewPerson, merchant: Merchant, new_browser: Callable[[], Browser], superuser: Connection
) -> None:
    owner, address = await people("owner"), email()
    url = await gateway.signing.invite(merchant.caller, "owner", f" {address.upper()} ", "support")
    assert [(one.email, one.role) for one in await gateway.signing.invitations(merchant.caller.scope)] == [
        (address, "support")
    ]
    first, second = new_browser(), new_browser()
    for browser in (first, second):
        assert address in (await browser.get(path_of(url))).text
    weak = {"name": "Eve", "password": "Password2024!", "again": "Password2024!"}
    answer = await first.send(path_of(url), **weak)
    assert answer.status_code == 422
    assert "Many people use this password" in answer.text
    typed = {"name": "Eve <i>", "password": PASSWORD, "again": PASSWORD}
    answer = await first.send(path_of(url), **typed)
    assert answer.status_code == 303, answer.text
    assert (await first.get("/")).status_code == 200
    assert (await second.send(path_of(url), **typed)).status_code == 410
    assert await gateway.signing.invitations(merchant.caller.scope) == []
    joined = await gateway.operators.find(email=address)
    assert joined is not None
    assert await events(superuser, joined) == ["operator.invited", "operator.joined", "operator.signed_in"]
    assert (await owner.get("/")).status_code == 200


async def test_somebody_of_another_tenant_signs_in_and_joins(
    gateway: Gateway, merchant: Merchant, other_merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who, other = await someone(gateway, other_merchant), await someone(gateway, other_merchant)
    url = await gateway.signing.invite(merchant.caller, "owner", who.operator.email, "finance")
    browser = new_browser()
    page = await browser.get(path_of(url))
    assert "Sign in with that address first" in page.text
    assert 'type="password"' not in page.text
    await browser.sign_in(other.operator.email, next=path_of(url))
    assert "another address" in (await browser.get(path_of(url))).text
    browser = new_browser()
    answer = await browser.sign_in(who.operator.email, next=path_of(url))
    assert answer.headers["location"] == f"/admin{path_of(url)}"
    await browser.get(path_of(url))
    assert (await browser.send(path_of(url))).status_code == 303
    joined = await gateway.operators.get(who.operator.operator_id)
    assert {one.role for one in joined.memberships} == {"support", "finance"}
    with pytest.raises(MemberAlready):
        await gateway.signing.invite(merchant.caller, "owner", who.operator.email, "support")


async def test_somebody_without_a_tenant_joins_too(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    await someone(gateway, merchant, "owner")
    who = await someone(gateway, merchant)
    await gateway.operators.leave(merchant.caller, who.operator.operator_id, own_role="owner")
    browser = new_browser()
    await browser.sign_in(who.operator.email)
    assert (await browser.get("/")).status_code == 403
    url = await gateway.signing.invite(merchant.caller, "owner", who.operator.email, "support")
    await browser.sign_in(who.operator.email, next=path_of(url))
    await browser.get(path_of(url))
    assert (await browser.send(path_of(url))).status_code == 303
    assert (await browser.get("/")).status_code == 200


async def test_an_invitation_is_worth_what_its_maker_may_still_do(
    gateway: Gateway, people: NewPerson, merchant: Merchant
) -> None:
    await people("owner")
    admin = await people("admin")
    caller = msgspec.structs.replace(merchant.caller, actor_type="operator", actor_id=admin.operator.public_id)
    with pytest.raises(RoleTooHigh):
        await gateway.signing.invite(caller, "admin", email(), "owner")
    kept = await gateway.signing.invite(caller, "admin", email(), "support")
    withdrawn = await gateway.signing.invite(caller, "admin", email(), "support")
    newest = (await gateway.signing.invitations(caller.scope))[0]
    await gateway.signing.withdraw(caller, newest.link_id)
    with pytest.raises(LinkGone):
        await gateway.signing.link(withdrawn[-64:])
    with pytest.raises(DomainError, match="no such open invitation"):
        await gateway.signing.withdraw(caller, newest.link_id)
    await gateway.signing.link(kept[-64:])
    await gateway.operators.leave(merchant.caller, admin.operator.operator_id, own_role="owner")
    with pytest.raises(LinkGone):
        await gateway.signing.link(kept[-64:])


async def test_a_new_password_ends_every_session_and_keeps_the_second_factor(
    gateway: Gateway, merchant: Merchant, other_merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who = await someone(gateway, merchant, codes=True)
    with pytest.raises(RoleTooHigh):
        await gateway.signing.reset_link(merchant.caller, "support", who.operator.operator_id)
    with pytest.raises(DomainError, match="no such member"):
        await gateway.signing.reset_link(other_merchant.caller, "owner", who.operator.operator_id)
    older = await gateway.signing.reset_link(merchant.caller, "owner", who.operator.operator_id)
    url = await gateway.signing.reset_link(merchant.caller, "owner", who.operator.operator_id)
    session = await gateway.sessions.open(who.operator, method="password", strong=True, ip="", agent="")
    browser = new_browser()
    assert (await browser.get(path_of(older))).status_code == 410
    await browser.get(path_of(url))
    answer = await browser.send(path_of(url), password=OTHER_PASSWORD, again=OTHER_PASSWORD)
    assert answer.headers["location"] == "/admin/sign-in"
    assert await gateway.sessions.find(session.token) is None
    answer = await browser.sign_in(who.operator.email, OTHER_PASSWORD)
    assert "Your code" in answer.text
    assert (await browser.send("/sign-in/code", code=who.code())).status_code == 303
    await gateway.operators.join(other_merchant.caller, who.operator.operator_id, "support")
    with pytest.raises(OperatorShared):
        await gateway.signing.reset_link(merchant.caller, "owner", who.operator.operator_id)


async def test_links_expire_and_made_up_ones_are_nothing(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    url = await gateway.signing.invite(merchant.caller, "owner", email(), "support")
    browser = new_browser()
    with later(hours=73):
        assert (await browser.get(path_of(url))).status_code == 410
    for made_up in ("0" * 64, "abc", "x" * 64):
        answer = await browser.get(f"/link/{made_up}")
        assert answer.status_code == 410
        assert "does not work any more" in answer.text
