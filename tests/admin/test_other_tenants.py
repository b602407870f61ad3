"""Every page that names something: what belongs to another tenant, or to the other mode, is not there.

A form of a stranger is answered as if the id were nobody's, whatever the form holds, and the owner's journal stays as it was.
"""

from __future__ import annotations

import asyncpg
import httpx
import pytest
from tests.admin import samples
from tests.admin.conftest import NewPerson
from tests.admin.test_role_matrix import TOKEN, events
from tests.conftest import Merchant, NewMerchant

from clearspan.app import Gateway
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings


@pytest.fixture
async def owned(
    merchant: Merchant,
    live_merchant: Merchant,
    client: httpx.AsyncClient,
    settings: Settings,
    superuser: asyncpg.Connection[asyncpg.Record],
    gateway: Gateway,
    sandboxes: None,
) -> list[tuple[Merchant, dict[str, str]]]:
    """A tenant's two modes with an object of each kind."""
    return [
        (merchant, await samples.made(client, settings, merchant, superuser, gateway)),
        (live_merchant, await samples.made_live(live_merchant, superuser, gateway)),
    ]


async def test_what_belongs_to_others_is_not_there(
    owned: list[tuple[Merchant, dict[str, str]]],
    other_merchant: Merchant,
    new_merchant: NewMerchant,
    people: NewPerson,
    app: AsgiApp,
    superuser: asyncpg.Connection[asyncpg.Record],
) -> None:
    (test, live) = (merchant for merchant, _ in owned)
    other_live = await new_merchant(live=True, of=other_merchant)
    wrong = []
    tried = 0
    for merchant, objects in owned:
        nobody = samples.nobody(objects)
        for stranger in (other_merchant, other_live, live if merchant is test else test):
            own_tenant = stranger.caller.tenant == merchant.caller.tenant
            person = await people("owner", of=stranger)
            person.http._transport = httpx.ASGITransport(app=samples.glance(app))  # type: ignore[arg-type]
            token = TOKEN.search((await person.get("/style-guide")).text)
            assert token is not None
            before = await events(superuser, merchant)
            for page in samples.pages_of(app, "GET", "POST"):
                if not page.session or not page.names_something(own_tenant=own_tenant, live=merchant is live):
                    continue
                tried += 1
                form = {"csrf": token[1], "key": samples.new_key()}
                answers = [
                    await person.http.request(page.method, page.path(ids), data=form if page.method == "POST" else None)
                    for ids in (objects, nobody)
                ]
                theirs, nobodys = (answer.status_code for answer in answers)
                if theirs != nobodys or (page.method == "GET" and theirs != 404):
                    wrong.append(f"{page}: {theirs} for what is theirs, {nobodys} for what is nobody's")
                elif any(text in answers[0].text for text in ("Ada", "ada@example.com")) and not own_tenant:
                    wrong.append(f"{page}: shows a name")
            if not own_tenant and await events(superuser, merchant) != before:
                wrong.append("something happened at the owner's")
    assert not wrong, "\n".join(wrong)
