"""Signing in with a password and a second factor, staying oneself, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import argon2
import asyncpg
import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from tests.admin.conftest import NewPerson, Person
from tests.conftest import BASE_URL, Merchant, Urls, lifespan

from clearspan.access import signing as signing_module
from clearspan.access.sessions import Operator
from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings
from clearspan_admin import web

PASSWORD = "three blind mice and a cat"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
OTHER_PASSWORD = "four deaf dogs and a parrot"


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are answered at once; one test looks at how long they take."""
    monkeypatch.setattr(signing_module, "FAILURE_S", 0.0)


class Later(clock.SystemClock):
    """The time of this machine, moved."""

    def __init__(self, by: timedelta) -> None:
        super().__init__()
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


@contextmanager
def later(**by: float) -> Iterator[None]:
    """So much later."""
    real = clock.use(clock.SystemClock())
    clock.use(Later(timedelta(**by)))
    try:
        yield
    finally:
        clock.use(real)


class Browser:
    """A browser that nobody has signed in with yet.

    Attributes:
        http: with a cookie jar.
        last: the last answer.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.last = httpx.Response(0)

    async def get(self, path: str) -> httpx.Response:
        self.last = await self.http.get(f"/admin{path}")
        return self.last

    async def send(self, path: str, **fields: Any) -> httpx.Response:
        """The last page's form: its hidden fields, and what is typed."""
        hidden = dict(re.findall(r'<input type="hidden" name="([\w-]+)" value="([^"]*)"', self.last.text))
        self.last = await self.http.post(f"/admin{path}", data=hidden | fields)
        return self.last

    async def sign_in(self, email: str, password: str = PASSWORD, next: str = "") -> httpx.Response:  # noqa: A002
        """As far as the password goes."""
        await self.get(f"/sign-in?next={next}")
        return await self.send("/sign-in", email=email, password=password)


@pytest.fixture
async def browser(new_browser: Callable[[], Browser]) -> Browser:
    return new_browser()


@pytest.fixture
async def new_browser(app: AsgiApp) -> AsyncIterator[Callable[[], Browser]]:
    opened: list[httpx.AsyncClient] = []

    def new() -> Browser:
        opened.append(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),  # type: ignore[arg-type]
                base_url=BASE_URL,
                headers={"Origin": BASE_URL, "Sec-Fetch-Site": "same-origin"},
            )
        )
        return Browser(opened[-1])

    yield new
    for http in opened:
        await http.aclose()


class Someone(msgspec.Struct, frozen=True):
    """Somebody with a password, and perhaps an authenticator."""

    operator: Operator
    secret: bytes = b""

    def code(self, *, steps: int = 0) -> str:
        """What their authenticator shows."""
        return totp(self.secret, steps=steps)


def totp(secret: bytes, *, steps: int = 0) -> str:
    """The code of now, or some steps before or after."""
    now = int(clock.now().timestamp()) + 30 * steps
    return TOTP(secret, 6, SHA1(), 30).generate(now).decode()  # noqa: S303


async def far_from_the_next_step(least_s: float = 8) -> None:
    """A code of the step before is good until this step ends: wait for the next one when that is near."""
    left = 30 - clock.now().timestamp() % 30
    if left < least_s:
        await asyncio.sleep(left)


async def someone(gateway: Gateway, merchant: Merchant, role: str = "support", *, codes: bool = False) -> Someone:
    """A member with ``PASSWORD``; with ``codes`` an authenticator as well."""
    operator = await gateway.operators.create(f"{role}-{clock.random_bytes(4).hex()}@example.com", role.title())
    await gateway.operators.join(merchant.caller, operator.operator_id, role)
    hashed = await gateway.signing._passwords.hashed(PASSWORD)
    operator = await gateway.operators.change(
        await gateway.operators.get(operator.operator_id), password_hash=hashed, password_at=clock.now()
    )
    if not codes:
        return Someone(operator)
    secret, _ = await gateway.signing.offer_second_factor(operator)
    session = await gateway.sessions.open(operator, method="password", strong=True, ip="", agent="")
    signed = await gateway.sessions.find(session.token)
    assert signed is not None
    raw = base64.b32decode(secret)
    await far_from_the_next_step(2)
    await gateway.signing.set_second_factor(signed, totp(raw, steps=-1), "req_tests")
    await gateway.sessions.end(operator.operator_id, why="signed_out")
    return Someone(await gateway.operators.get(operator.operator_id), raw)


async def events(superuser: Connection, operator: Operator) -> list[str]:
    """What the journal tells about somebody."""
    rows = await superuser.fetch(
        "SELECT type FROM journal WHERE subject_id = $1 ORDER BY at, event_id", operator.operator_id
    )
    return [row[0] for row in rows]


# -- Password -------------------------------------------------------------------------------------------------------------------


async def test_the_password_opens_a_session_that_scripts_and_other_sites_cannot_use(
    gateway: Gateway, merchant: Merchant, browser: Browser, superuser: Connection
) -> None:
    who = await someone(gateway, merchant)
    answer = await browser.sign_in(who.operator.email.upper(), next="/%3Fa%3D1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/admin/?a=1"
    cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith("clearspan="))
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert (await browser.get("/")).status_code == 200
    assert "operator.signed_in" in await events(superuser, who.operator)


async def test_a_wrong_password_and_an_unknown_address_are_told_the_same(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser], superuser: Connection
) -> None:
    who = await someone(gateway, merchant)
    disabled = await someone(gateway, merchant)
    await gateway.signing.disable(disabled.operator, "req_tests", by="cli")
    said = set()
    for email, password in (
        (who.operator.email, "not this one at all"),
        ("nobody-here@example.com", PASSWORD),
        (disabled.operator.email, PASSWORD),
        ("", ""),
    ):
        answer = await new_browser().sign_in(email, password)
        assert answer.status_code == 401
        assert not any(each.startswith("clearspan=") for each in answer.headers.get_list("set-cookie"))
        said.add(re.sub(r'(nonce|value)="[^"]*"|"X-CSRF-Token": "[^"]*"', "", answer.text))
    assert len(said) == 1
    assert (await events(superuser, who.operator))[-1] == "operator.sign_in_failed"


async def test_a_hash_of_other_parameters_is_made_anew_when_its_password_comes(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant)
    old = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    await gateway.operators.change(who.operator, password_hash=old)
    assert (await browser.sign_in(who.operator.email)).status_code == 303
    now = (await gateway.operators.get(who.operator.operator_id)).password_hash
    assert now is not None
    assert now.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


async def test_the_page_speaks_the_browsers_language(browser: Browser) -> None:
    for asked, said in (
        ("de-AT,de;q=0.9", "Passwort"),
        ("fr", "Mot de passe"),
        ("es", "Contraseña"),
        ("pt", "Password"),
    ):
        answer = await browser.http.get("/admin/sign-in", headers={"Accept-Language": asked})
        assert f"{said}</label>" in answer.text


async def test_no_failure_is_answered_faster_than_the_others(
    gateway: Gateway, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_module, "FAILURE_S", 0.6)
    began = clock.monotonic()
    await browser.sign_in("nobody-at-all@example.com", "x")
    assert clock.monotonic() - began >= 0.6


async def test_a_cookie_from_before_is_not_taken_over(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who, planted = await someone(gateway, merchant), "ab" * 32
    browser = new_browser()
    browser.http.cookies.set("clearspan", planted, domain="gateway.test")
    await browser.sign_in(who.operator.email)
    first = browser.http.cookies.get("clearspan")
    assert first not in (None, planted)
    assert await gateway.sessions.find(planted) is None
    # Whoever signs in again gets another one, and the one before has ended.
    page = await browser.get("/profile")
    assert page.status_code == 200
    assert first is not None
    other = new_browser()
    other.http.cookies.set("clearspan", first, domain="gateway.test")
    with later(hours=1):
        answer = await other.sign_in(who.operator.email)
        assert answer.status_code == 303
    assert await gateway.sessions.find(first) is None


@pytest.mark.parametrize(
    "foreign",
    ["//evil.example", "/\\evil.example", "https://evil.example", "%2F%2Fevil.example", "/%2Fevil.example", "/%5Cevil.example",
     "/../../v1/payments", "javascript:alert(1)", "/x\r\nSet-Cookie: a=b", "/x\0", "evil", "/%252Fevil.example", "/sign-out"],
)  # fmt: skip
def test_next_leads_to_our_own_pages_only(foreign: str) -> None:
    assert web.own_path(foreign) == "/"


def test_next_keeps_a_page_of_ours() -> None:
    assert web.own_path("/payments?q=a%2Fb&status=failed") == "/payments?q=a%2Fb&status=failed"


# -- Limits ---------------------------------------------------------------------------------------------------------------------


async def test_after_too_many_failures_even_the_right_password_waits(
    gateway: Gateway, merchant: Merchant, browser: Browser, superuser: Connection
) -> None:
    who = await someone(gateway, merchant)
    limit = gateway.settings.access.sign_in_tries_max
    for _ in range(limit):
        assert (await browser.sign_in(who.operator.email, "wrong again")).status_code == 401
    answer = await browser.sign_in(who.operator.email)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 15 * 60 + 1
    assert "Try again in 15 min." in answer.text
    assert (await events(superuser, who.operator)).count("operator.locked_out") == 1
    for _ in range(limit):
        await browser.sign_in("nobody-knows@example.com", "wrong again")
    assert (await browser.sign_in("nobody-knows@example.com")).status_code == 429, "and it tells nothing"
    with later(minutes=16):
        assert (await browser.sign_in(who.operator.email)).status_code == 303
    await superuser.execute("DELETE FROM sign_in_tries")


async def test_an_address_that_fails_everywhere_waits_too(gateway: Gateway, superuser: Connection) -> None:
    limit = gateway.settings.access.sign_in_tries_max * 10
    for _ in range(limit):
        await gateway.signing._try(f"{clock.random_bytes(4).hex()}@example.com", "192.0.2.7")
    with pytest.raises(signing_module.TooManyTries):
        await gateway.signing._try("someone-else@example.com", "192.0.2.7")
    await gateway.signing._try("someone-else@example.com", "192.0.2.8")
    await superuser.execute("DELETE FROM sign_in_tries")


# -- The second factor ----------------------------------------------------------------------------------------------------------


async def test_a_code_follows_the_password_and_works_once(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who = await someone(gateway, merchant, "finance", codes=True)
    code = who.code()
    first, second = new_browser(), new_browser()
    for browser in (first, second):
        answer = await browser.sign_in(who.operator.email)
        assert answer.status_code == 200
        assert "clearspan" not in browser.http.cookies, "there is no session yet"
    assert (await first.send("/sign-in/code", code=code)).status_code == 303
    assert (await first.get("/")).status_code == 200
    assert (await second.send("/sign-in/code", code=code)).status_code == 401
    assert (await second.send("/sign-in/code", code=who.code(steps=1))).status_code == 303, "one step of skew"


async def test_codes_further_off_are_wrong_and_count(gateway: Gateway, merchant: Merchant, browser: Browser) -> None:
    who = await someone(gateway, merchant, codes=True)
    for attempt in range(gateway.settings.access.sign_in_tries_max):
        await browser.sign_in(who.operator.email)
        answer = await browser.send("/sign-in/code", code=who.code(steps=3 + attempt))
        assert answer.status_code == 401, attempt
    assert (await browser.sign_in(who.operator.email)).status_code == 429, "right passwords do not begin the count anew"


async def test_the_step_between_belongs_to_one_browser_and_ends_soon(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who = await someone(gateway, merchant, codes=True)
    mine, other = new_browser(), new_browser()
    await mine.sign_in(who.operator.email)
    step = re.search(r'name="step" value="([^"]+)"', mine.last.text)
    assert step is not None
    await other.get("/sign-in")
    answer = await other.send("/sign-in/code", step=step[1], code=who.code())
    assert answer.status_code == 401
    assert "Begin again with your password" in answer.text
    with later(minutes=6):
        assert (await mine.send("/sign-in/code", code=who.code())).status_code == 401


async def test_a_recovery_code_works_once(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who = await someone(gateway, merchant, codes=True)
    session = await gateway.sessions.open(who.operator, method="password", strong=True, ip="", agent="")
    signed = await gateway.sessions.find(session.token)
    assert signed is not None
    codes = await gateway.signing.renew_recovery_codes(signed, "req_tests")
    assert len(set(codes)) == 10
    for expected in (303, 401):
        browser = new_browser()
        await browser.sign_in(who.operator.email)
        assert (await browser.send("/sign-in/code", code=codes[0].upper())).status_code == expected
    assert len((await gateway.operators.get(who.operator.operator_id)).recovery_codes) == 9


async def test_an_owner_sets_one_up_before_anything_else_opens(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant, "owner")
    await browser.sign_in(who.operator.email)
    answer = await browser.get("/")
    assert answer.status_code == 303
    assert urlsplit(answer.headers["location"]).path == "/admin/profile/second-factor"
    page = await browser.get("/profile/second-factor")
    shown = re.search(r"<code>([A-Z2-7 ]+)</code>", page.text)
    assert shown is not None
    assert '<path d="M' in page.text
    secret = base64.b32decode(shown[1].replace(" ", ""))
    assert (await browser.get("/profile/second-factor")).text.count(shown[1]), "loading again shows the same key"
    assert (await browser.send("/profile/second-factor", code="000000")).status_code == 401
    answer = await browser.send("/profile/second-factor", code=totp(secret))
    assert answer.status_code == 200
    assert len(re.findall(r"<li><code>[a-z2-9]{5}-[a-z2-9]{5}</code>", answer.text)) == 10
    assert (await browser.get("/")).status_code == 200


async def test_strong_roles_keep_their_second_factor_and_others_may_remove_it(people: NewPerson) -> None:
    owner, support = await people("owner"), await people("support")
    answer = await owner.post("/profile/second-factor/remove", page="/profile")
    assert answer.status_code == 409
    assert (await support.post("/profile/second-factor/remove", page="/profile")).status_code == 303


# -- Confirming, and what came too late -----------------------------------------------------------------------------------------


async def weak(gateway: Gateway, person: Person) -> None:
    """Their factor was given some time ago."""
    await gateway.db.call(
        "operator_session_change",
        {"session_id": person.session.session_id, "set": {"strong_at": clock.now() - timedelta(hours=1)}},
    )


async def test_what_needs_a_factor_asks_and_goes_on_with_everything_typed(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant, codes=True)
    await browser.sign_in(who.operator.email)
    await browser.send("/sign-in/code", code=who.code())
    with later(minutes=12):
        await browser.get("/profile")
        answer = await browser.http.post(
            "/admin/profile/recovery-codes", data=_hidden(browser.last.text) | {"note": "typed <b>"}
        )
        assert answer.status_code == 403
        assert "Confirm that it is you" in answer.text
        browser.last = answer
        assert (await browser.send("/confirm", code="123456")).status_code == 401
        answer = await browser.send("/confirm", code=who.code())
        assert answer.status_code == 200
        assert "typed &lt;b&gt;" in answer.text
        answer = await browser.send("/profile/recovery-codes")
        assert answer.status_code == 200
        assert "recovery codes" in answer.text


async def test_a_form_that_waits_for_a_code_outlives_the_session_too(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant, codes=True)
    await browser.sign_in(who.operator.email)
    await browser.send("/sign-in/code", code=who.code())
    with later(minutes=12):
        await browser.get("/profile")
        browser.last = await browser.http.post("/admin/profile/recovery-codes", data=_hidden(browser.last.text))
        assert browser.last.status_code == 403
    with later(minutes=50):
        answer = await browser.send("/confirm", code=who.code())
        assert answer.status_code == 401
        await browser.send("/sign-in", email=who.operator.email, password=PASSWORD)
        answer = await browser.send("/sign-in/code", code=who.code())
        assert "/profile/recovery-codes" in answer.text
        assert (await browser.send("/profile/recovery-codes")).status_code == 200


async def test_without_a_second_factor_the_password_confirms(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant)
    await browser.sign_in(who.operator.email)
    with later(minutes=12):
        answer = await browser.get("/profile/password")
        assert answer.headers["location"] == "/admin/confirm?next=%2Fprofile%2Fpassword"
        await browser.get("/confirm?next=/profile/password")
        assert (await browser.send("/confirm", password="wrong")).status_code == 401
        answer = await browser.send("/confirm", password=PASSWORD)
        assert answer.headers["location"] == "/admin/profile/password"


async def test_a_form_sent_after_the_session_ended_goes_on_once_after_signing_in(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant)
    await browser.sign_in(who.operator.email)
    page = await browser.get("/profile")
    typed = {"name": "Ada & Söhne", "locale": "de_AT", "timezone": "Europe/Vienna", "theme": "dark", "key": "k" * 32}
    with later(minutes=31):
        browser.last = await browser.http.post(
            "/admin/profile", data=_hidden(page.text) | typed | {"password": "not to be kept"}
        )
        assert browser.last.status_code == 401
        assert "What you typed is kept" in browser.last.text
        answer = await browser.send("/sign-in", email=who.operator.email, password=PASSWORD)
        assert answer.status_code == 200
        assert "not to be kept" not in answer.text
        assert dict(re.findall(r'name="([\w-]+)" value="([^"]*)"', answer.text))["key"] == "k" * 32
        assert re.search(r'<input id="password" name="password" type="password" value=""', answer.text)
        assert (await gateway.operators.get(who.operator.operator_id)).name == "Support", "nothing was done yet"
        assert (await browser.send("/profile", **typed)).status_code == 303
    assert (await gateway.operators.get(who.operator.operator_id)).name == "Ada & Söhne"


async def test_anothers_form_is_dropped(gateway: Gateway, merchant: Merchant, browser: Browser) -> None:
    who, other = await someone(gateway, merchant), await someone(gateway, merchant)
    await browser.sign_in(who.operator.email)
    page = await browser.get("/profile")
    with later(minutes=31):
        browser.last = await browser.http.post("/admin/profile", data=_hidden(page.text) | {"name": "Typed"})
        answer = await browser.send("/sign-in", email=other.operator.email, password=PASSWORD)
        assert answer.status_code == 303
        assert "Typed" not in (await browser.get("/")).text


async def test_a_form_of_another_site_is_not_carried_on(gateway: Gateway, merchant: Merchant, browser: Browser) -> None:
    who = await someone(gateway, merchant)
    await browser.sign_in(who.operator.email)
    hidden = _hidden((await browser.get("/profile")).text)
    with later(minutes=31):
        for data, headers in (
            ({"name": "Evil"}, {}),
            (hidden | {"name": "Evil"}, {"Origin": "https://evil.example"}),
            (hidden | {"name": "Evil"}, {"Sec-Fetch-Site": "cross-site"}),
        ):
            answer = await browser.http.post("/admin/profile", data=data, headers=headers)
            assert answer.status_code == 401
            assert 'name="carried"' not in answer.text


async def test_a_page_from_before_signing_in_again_offers_its_form_once_more(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant)
    await browser.sign_in(who.operator.email)
    old = _hidden((await browser.get("/profile")).text)
    typed = {"name": "Typed before", "locale": "de_AT", "timezone": "UTC", "theme": "auto"}
    with later(minutes=31):
        await browser.sign_in(who.operator.email)  # In another tab.
        browser.last = await browser.http.post("/admin/profile", data=old | typed)
        assert browser.last.status_code == 409
        assert "Nothing was done yet" in browser.last.text
        assert (await gateway.operators.get(who.operator.operator_id)).name == "Support"
        elsewhere = await browser.http.post("/admin/profile", data=old | typed, headers={"Sec-Fetch-Site": "same-site"})
        assert elsewhere.status_code == 403
        assert (await browser.send("/profile")).status_code == 303
    assert (await gateway.operators.get(who.operator.operator_id)).name == "Typed before"


async def test_a_page_opened_in_the_other_mode_acts_no_more(people: NewPerson) -> None:
    person = await people("support")
    old = _hidden((await person.get("/profile")).text)
    await person.post("/look-at", "/", mode="live")
    answer = await person.http.post("/admin/profile", data=old | {"name": "x"})
    assert answer.status_code == 409
    assert "form_stale" in answer.text
    assert (await person.http.post("/admin/look-at", data=old | {"mode": "test"})).status_code == 303


async def test_over_https_the_cookie_is_bound_to_host_and_https_and_links_keep_the_prefix(
    urls: Urls, cockpit_settings: Settings, master: MasterKey, merchant: Merchant
) -> None:
    server = msgspec.structs.replace(cockpit_settings.server, public_url="https://gateway.test/gateway")
    settings = msgspec.structs.replace(cockpit_settings, server=server)
    gateway = Gateway(settings, urls.app, master, plugins.load(settings.plugins.enabled))
    application = create_app(gateway)
    async with (
        lifespan(application),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=application),  # type: ignore[arg-type]
            base_url="https://gateway.test",
            headers={"Origin": "https://gateway.test", "Sec-Fetch-Site": "same-origin"},
        ) as http,
    ):
        who, browser = await someone(gateway, merchant), Browser(http)
        answer = await browser.sign_in(who.operator.email, next="/profile")
        assert answer.headers["location"] == "/gateway/admin/profile"
        (cookie,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith("__Host-clearspan=")]
        assert {"secure", "httponly", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
        assert "domain=" not in cookie.lower()
        url = await gateway.signing.invite(merchant.caller, "owner", "over-https@example.com", "support")
        assert url.startswith("https://gateway.test/gateway/admin/link/")


async def test_many_tries_at_once_do_not_pass_the_limit_together(gateway: Gateway) -> None:
    limit, account = gateway.settings.access.sign_in_tries_max, f"{clock.random_bytes(4).hex()}@example.com"
    tries = [gateway.signing._try(account, "192.0.2.9") for _ in range(2 * limit)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(not isinstance(end, Exception) for end in ends) == limit


async def test_htmx_is_sent_to_sign_in_and_back_to_the_page(browser: Browser) -> None:
    answer = await browser.http.get(
        "/admin/", headers={"HX-Request": "true", "HX-Current-URL": f"{BASE_URL}/admin/payments?q=x"}
    )
    assert parse_qs(urlsplit(answer.headers["hx-redirect"]).query) == {"next": ["/payments?q=x"]}


def _hidden(text: str) -> dict[str, str]:
    return {"csrf": re.findall(r'name="csrf" value="([^"]+)"', text)[-1]}


# -- Staying and leaving --------------------------------------------------------------------------------------------------------


async def test_a_session_ends_when_idle_and_when_too_old(
    gateway: Gateway, merchant: Merchant, browser: Browser
) -> None:
    who = await someone(gateway, merchant)
    await browser.sign_in(who.operator.email)
    with later(minutes=29):
        assert (await browser.get("/")).status_code == 200
    with later(minutes=58):
        assert (await browser.get("/")).status_code == 200, "it was seen half an hour ago"
    with later(minutes=89):
        assert (await browser.get("/")).status_code == 303
    busy = [25 * times for times in range(3, 32)]
    open_until = 0
    for minutes in busy:
        with later(minutes=minutes):
            if (await browser.get("/")).status_code == 200:
                open_until = minutes
    assert 12 * 60 - 25 <= open_until < 12 * 60, "twelve hours, however busy"


async def test_signing_out_and_ending_others(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who = await someone(gateway, merchant)
    first, second, third = new_browser(), new_browser(), new_browser()
    for browser in (first, second, third):
        browser.http.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
        await browser.sign_in(who.operator.email)
    page = await first.get("/profile")
    assert page.text.count("Firefox, Linux") == 3
    one = re.findall(r'action="/admin(/profile/sessions/[0-9a-f-]+/end)"', page.text)
    assert len(one) == 2
    await first.send(one[0])
    assert sorted([(await second.get("/")).status_code, (await third.get("/")).status_code]) == [200, 303]
    await first.get("/profile")
    await first.send("/profile/sessions/end-others")
    assert {(await second.get("/")).status_code, (await third.get("/")).status_code} == {303}
    await first.get("/profile")
    cookie = first.http.cookies["clearspan"]
    answer = await first.send("/sign-out")
    assert answer.headers["location"] == "/admin/sign-in"
    assert await gateway.sessions.find(cookie) is None


async def test_nobody_ends_anothers_session(people: NewPerson) -> None:
    mine, theirs = await people("owner"), await people("support")
    await mine.post(f"/profile/sessions/{theirs.session.session_id}/end", page="/profile")
    assert (await theirs.get("/")).status_code == 200


async def test_whoever_is_disabled_is_out_at_once(gateway: Gateway, people: NewPerson) -> None:
    person = await people("support")
    assert (await person.get("/")).status_code == 200
    await gateway.signing.disable(person.operator, "req_tests", by="cli")
    assert (await person.get("/")).status_code == 303


async def test_another_password_ends_every_other_session(
    gateway: Gateway, merchant: Merchant, new_browser: Callable[[], Browser]
) -> None:
    who = await someone(gateway, merchant)
    here, there = new_browser(), new_browser()
    for browser in (here, there):
        await browser.sign_in(who.operator.email)
    await here.get("/profile/password")
    assert (await here.send("/profile/password", password="password1234", again="password1234")).status_code == 422
    await here.get("/profile/password")
    assert (await here.send("/profile/password", password=OTHER_PASSWORD, again=PASSWORD)).status_code == 422
    assert (await here.send("/profile/password", password=OTHER_PASSWORD, again=OTHER_PASSWORD)).status_code == 303
    assert (await here.get("/")).status_code == 200
    assert (await there.get("/")).status_code == 303
    assert (await there.sign_in(who.operator.email, OTHER_PASSWORD)).status_code == 303


async def test_the_profile_is_kept_and_shown(gateway: Gateway, people: NewPerson) -> None:
    person = await people("support")
    typed = {"name": "<b>Zoë</b>", "locale": "de_CH", "timezone": "Europe/Zurich", "theme": "dark"}
    assert (await person.post("/profile", **typed)).status_code == 303
    page = (await person.get("/profile")).text
    assert '<html lang="de" data-theme="dark">' in page
    assert "&lt;b&gt;Zoë&lt;/b&gt;" in page
    for wrong in ({"timezone": "Mars/Base"}, {"locale": "xx"}, {"theme": "pink"}, {"name": " "}):
        answer = await person.post("/profile", **(typed | wrong))
        assert answer.status_code == 422, wrong
