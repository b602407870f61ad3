"""Every role on every route of the cockpit, for real: who may is let in, who may not is refused and changes nothing.

docs/roles.md says who may; here it is tried. The routes are found, so a new page is tried without a line here.
"""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import httpx
import pytest
from tests.admin import samples
from tests.admin.conftest import NewPerson, Person
from tests.conftest import BASE_URL, Merchant

from clearspan.access.roles import ROLES
from clearspan.app import Gateway
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings

TOKEN = re.compile(r'name="csrf" value="([^"]+)"')
REFUSED = "role_forbids"
CONFIRMING = ("/admin/confirm", "/admin/profile/second-factor")
"""Answer 401 to a wrong code, whoever sends it."""
GOES_NOWHERE = ("/admin/look-at", "/admin/sign-out")
"""Buttons of the shell that have nothing to go on with after signing in."""


class Walker:
    """Somebody who goes everywhere and sends empty forms; signed out on the way, they sign in again."""

    def __init__(self, people: NewPerson, app: AsgiApp, gateway: Gateway, role: str) -> None:
        self._people, self._app, self._gateway, self._role = people, app, gateway, role
        self._person: Person | None = None
        self._token: tuple[Person | None, str] = None, ""

    async def signed_in(self) -> Person:
        """They themselves, with an open session."""
        if self._person is None or await self._gateway.sessions.find(self._person.session.token) is None:
            self._person = await self._people(self._role)
            self._person.http._transport = httpx.ASGITransport(app=samples.glance(self._app))  # type: ignore[arg-type]
        return self._person

    async def ask(self, page: samples.Page, path: str) -> httpx.Response:
        """Open a page, or send it a form with a right token and nothing else."""
        person = await self.signed_in()
        if page.method == "GET":
            return await person.http.get(path)
        if self._token[0] is not person:
            token = TOKEN.search((await person.get("/profile")).text)
            assert token is not None
            self._token = person, token[1]
        return await person.http.post(path, data={"csrf": self._token[1], "key": samples.new_key()})


async def events(superuser: asyncpg.Connection[asyncpg.Record], merchant: Merchant) -> Any:
    """How much has happened in a tenant."""
    return await superuser.fetchval(
        "SELECT count(*) FROM journal WHERE tenant_id = $1", merchant.caller.scope.tenant_id
    )


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_opens_what_its_scopes_open_and_nothing_else(
    role: str,
    people: NewPerson,
    app: AsgiApp,
    gateway: Gateway,
    merchant: Merchant,
    client: httpx.AsyncClient,
    settings: Settings,
    superuser: asyncpg.Connection[asyncpg.Record],
    sandboxes: None,
) -> None:
    objects = await samples.made(client, settings, merchant, superuser, gateway)
    walker = Walker(people, app, gateway, role)
    wrong = []
    pages = [page for page in samples.pages_of(app, "GET", "POST") if page.session]
    # First what is forbidden: what is allowed changes things.
    for page in sorted(pages, key=lambda page: (page.allows(ROLES[role]), page)):
        path = page.path(objects)
        await walker.signed_in()
        before = await events(superuser, merchant)
        answer = await walker.ask(page, path)
        if page.allows(ROLES[role]):
            to_sign_in = "/sign-in" in answer.headers.get("location", "") and "sign-out" not in path
            if page.template in CONFIRMING and answer.status_code == 401:
                continue
            if answer.status_code in (401, 405) or answer.status_code >= 500 or REFUSED in answer.text or to_sign_in:
                wrong.append(f"{page}: {role} may, and got {answer.status_code} {answer.text[:300]}")
        elif answer.status_code != 403 or REFUSED not in answer.text:
            wrong.append(f"{page}: {role} may not, and got {answer.status_code} {answer.text[:300]}")
        elif await events(superuser, merchant) != before and page.method == "POST":
            wrong.append(f"{page}: {role} may not, and something happened")
    assert not wrong, "\n".join(wrong)
    assert len(pages) >= 4


async def test_whoever_is_not_signed_in_is_sent_to_sign_in(app: AsgiApp) -> None:
    nobody = {
        name: "x_01h455vb4pex5vsknk084sn02q" for page in samples.pages_of(app, "GET", "POST") for name in page.names
    }
    nobody["session_id"] = "01a20793-4a68-7737-aae6-9bb1ed754d30"
    wrong = []
    transport = httpx.ASGITransport(app=samples.glance(app))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as http:
        for page in samples.pages_of(app, "GET", "POST"):
            if not page.session:
                continue
            answer = await http.request(page.method, page.template.format(**nobody))
            if page.method == "POST" and answer.status_code == 303 and page.template in GOES_NOWHERE:
                continue
            if page.method == "POST" and answer.status_code != 401:
                wrong.append(f"{page}: {answer.status_code}")
            elif page.method == "GET" and answer.status_code != 401:  # What is no page of its own says only that.
                to_sign_in = answer.headers.get("location", "").partition("?")[0] == f"{samples.PREFIX}/sign-in"
                if answer.status_code != 303 or not to_sign_in:
                    wrong.append(f"{page}: {answer.status_code} {answer.headers.get('location')}")
    assert not wrong, "\n".join(wrong)
