"""Operators sign in at an OpenID provider; nothing that it could say wrongly, or that somebody else says, signs anybody in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs
from tests.admin.conftest import Served, Tabs, picture, signed_in
from tests.conftest import BASE_URL, Merchant, Urls, free_ports, lifespan

from clearspan.access.sessions import Operator
from clearspan.app import Gateway, create_app
from clearspan.platform import clock, plugins
from clearspan.platform.crypto import MasterKey
from clearspan.platform.gate import AsgiApp
from clearspan.settings import OidcSettings, Secret, Settings

CALLBACK = "http://127.0.0.1:8080/admin/oidc/callback"
SECRET = "s:e c/r+e%t"
Json = dict[str, Any]


class Provider:
    """The provider that lies when it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url

    def tell(self, user: Json | None = None, **twist: Any) -> Json:
        """What it does from now on; gives how often which path was asked for."""
        told = {"redirects": [CALLBACK], "user": user} | twist
        found: Json = httpx.post(f"{self.url}/control", json=told, trust_env=False).raise_for_status().json()["asked"]
        return found


def run(arguments: list[str], ready: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"AUTHLIB_INSECURE_TRANSPORT": "1"},
        )
    for _ in range(300):
        try:
            if httpx.get(ready, trust_env=False).status_code == 200:
                return process
        except httpx.TransportError:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            break
    process.terminate()
    process.wait(10)
    pytest.fail(f"{ready} does not get ready:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    program = Path(__file__).with_name("openid_provider.py")
    log = tmp_path_factory.mktemp("openid") / "log"
    process = run([str(program), str(port)], f"{url}/.well-known/openid-configuration", log)
    yield Provider(url)
    process.terminate()
    process.wait(10)


Start = Callable[..., Awaitable["Site"]]


class Site:
    """A gateway with this provider, and a browser in front of it."""

    def __init__(self, gateway: Gateway, app: AsgiApp) -> None:
        self.gateway = gateway
        self.app = app

    def browser(self) -> Browser:
        return Browser(self)


class Browser:
    """Keeps the cockpit's cookies, and goes to the provider and back."""

    def __init__(self, site: Site) -> None:
        transport = httpx.ASGITransport(app=site.app)  # type: ignore[arg-type]
        self.http = httpx.AsyncClient(transport=transport, base_url=BASE_URL)
        self.cookie = site.gateway.sessions.cookie

    async def leave(self, **query: str) -> str:
        """To the provider: its address."""
        answer = await self.http.get("/admin/oidc/start", params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def there(self, url: str) -> str:
        """What the provider sends back: the path and query of the callback."""
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(url)
        assert answer.status_code == 302, answer.text
        back = answer.headers["location"]
        assert back.startswith(f"{CALLBACK}?"), back
        return back.removeprefix("http://127.0.0.1:8080")

    async def back(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def sign_in(self, **query: str) -> httpx.Response:
        return await self.back(await self.there(await self.leave(**query)))

    @property
    def is_signed_in(self) -> bool:
        return self.cookie in self.http.cookies


def refused(answer: httpx.Response, status: int, code: str, browser: Browser) -> None:
    """A page that says why, and nobody is signed in."""
    assert (answer.status_code, f"<code>{code}</code>" in answer.text) == (status, True), answer.text
    assert "/admin/sign-in" in answer.text
    assert not browser.is_signed_in


@pytest.fixture(scope="module")
async def start(urls: Urls, cockpit_settings: Settings, master: MasterKey, provider: Provider) -> AsyncIterator[Start]:
    """``await start(require=True)``: a gateway with these settings of ``[oidc]``; the module's end stops it."""
    async with AsyncExitStack() as stack:

        async def new(url: str = "", **given: Any) -> Site:
            oidc: Json = {
                "issuer": url or provider.url,
                "client_id": "clearspan",
                "client_secret": Secret(SECRET),
                "scopes": ("openid", "email", "profile"),
                "label": "Test",
                "allowed_domains": (),
                "provision_role": "",
                "provision_tenant": "",
                "require": False,
            }
            settings = msgspec.structs.replace(cockpit_settings, oidc=OidcSettings(**oidc | given))
            gateway = Gateway(settings, urls.app, master, plugins.load(settings.plugins.enabled))
            app = create_app(gateway)
            await stack.enter_async_context(lifespan(app))
            return Site(gateway, app)

        yield new


@pytest.fixture(scope="module")
async def shared(start: Start) -> Site:
    return await start()


@pytest.fixture
def site(shared: Site) -> Site:
    """With a service that knows nothing of the provider yet."""
    openid = shared.gateway.openid
    openid._provider, openid._keys, openid._keys_at = None, (0.0, []), -1000.0
    return shared


@pytest.fixture
async def ada(site: Site, merchant: Merchant) -> Operator:
    """An owner without a second factor here: the provider is hers."""
    operator, _ = await signed_in(site.gateway, merchant, "owner", strong=False)
    await site.gateway.sessions.end(operator.operator_id, why="revoked")
    return operator


def known(operator: Operator, **more: Any) -> Json:
    """How the provider knows somebody."""
    return {
        "sub": f"s-{operator.operator_id.hex}",
        "email": operator.email.upper(),
        "email_verified": True,
        "name": "Ada <b>Lovelace</b>",
    } | more


async def linked(site: Site, operator: Operator) -> tuple[str | None, str | None]:
    found = await site.gateway.operators.get(operator.operator_id)
    return found.oidc_issuer, found.oidc_subject


async def told(superuser: Any, merchant: Merchant, type_: str) -> list[Json]:
    rows = await superuser.fetch(
        "SELECT data FROM journal WHERE tenant_id = $1 AND type = $2 ORDER BY seq",
        merchant.caller.scope.tenant_id,
        type_,
    )
    return [json.loads(row["data"]) for row in rows]


# -- Signing in -----------------------------------------------------------------------------------------------------------------


async def test_an_operator_is_recognised_by_a_verified_address_once_and_by_identity_from_then_on(
    site: Site, provider: Provider, ada: Operator, merchant: Merchant, superuser: Any
) -> None:
    provider.tell(known(ada, acr="urn:mace:incommon:iap:silver <x>", amr=["pwd", "otp\n"]))
    browser = site.browser()
    answer = await browser.sign_in(next="/payments?status=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/payments?status=failed"), answer.text
    assert (await browser.http.get("/admin/")).status_code == 200, "an owner, with no second factor but the provider's"
    (session,) = await site.gateway.sessions.of_operator(ada.operator_id)
    assert session.method == "oidc"
    assert session.strong_at is not None
    assert await linked(site, ada) == (provider.url, f"s-{ada.operator_id.hex}")
    assert await told(superuser, merchant, "operator.identity_linked") == [{"issuer": provider.url}]
    (signed,) = await told(superuser, merchant, "operator.signed_in")
    assert signed == {
        "method": "oidc",
        "issuer": provider.url,
        "acr": "urn:mace:incommon:iap:silverx",
        "amr": ["pwd", "otp"],
    }
    # Another address at the provider, unverified even: it is still she.
    provider.tell(known(ada, email="moved@example.org", email_verified=False))
    second = site.browser()
    assert (await second.sign_in()).status_code == 303
    assert len(await told(superuser, merchant, "operator.identity_linked")) == 1


async def test_the_request_says_what_it_must(site: Site, provider: Provider) -> None:
    provider.tell()
    browser = site.browser()
    url = urlsplit(await browser.leave())
    query = {name: value for name, (value,) in parse_qs(url.query).items()}
    assert query.keys() == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method"
    }  # fmt: skip
    assert (query["response_type"], query["code_challenge_method"], query["redirect_uri"]) == ("code", "S256", CALLBACK)
    assert min(len(query[name]) for name in ("state", "nonce", "code_challenge")) == 43
    cookie = next(one for one in browser.http.cookies.jar if one.name.endswith("-oidc"))
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "lax"
    assert not [name for name in ("state", "nonce") if query[name] in str(cookie.value)], "the cookie is sealed"
    again = parse_qs(urlsplit(await site.browser().leave()).query)
    assert not [name for name in ("state", "nonce", "code_challenge") if again[name] == [query[name]]]


async def test_an_unknown_address_a_disabled_person_and_one_without_tenant_get_nowhere(
    site: Site, provider: Provider, ada: Operator, merchant: Merchant
) -> None:
    provider.tell(known(ada, email="stranger@example.com"))
    browser = site.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)
    await site.gateway.operators.change(ada, status="disabled")
    provider.tell(known(ada))
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)
    lone = await site.gateway.operators.create(f"l-{clock.random_bytes(4).hex()}@example.com", "Lone")
    provider.tell(known(lone))
    refused(await browser.sign_in(), 403, "no_tenant", browser)


@pytest.mark.parametrize("verified", [False, None, "true", 1], ids=str)
async def test_an_address_that_is_not_verified_links_nobody(
    site: Site, provider: Provider, ada: Operator, verified: Any
) -> None:
    user = {name: value for name, value in known(ada, email_verified=verified).items() if value is not None}
    provider.tell(user | {"xms_edov": True})
    browser = site.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)
    assert await linked(site, ada) == (None, None)


async def test_an_address_never_moves_a_link(site: Site, provider: Provider, ada: Operator) -> None:
    provider.tell(known(ada))
    assert (await site.browser().sign_in()).status_code == 303
    provider.tell(known(ada, sub="somebody-else"))
    browser = site.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)
    assert await linked(site, ada) == (provider.url, f"s-{ada.operator_id.hex}")


async def test_the_address_may_come_from_userinfo_of_the_same_person_only(
    site: Site, provider: Provider, ada: Operator
) -> None:
    bare = {"claims": {"email": None, "email_verified": None}}
    provider.tell(known(ada), userinfo=known(ada, sub="another"), **bare)
    browser = site.browser()
    refused(await browser.sign_in(), 502, "oidc_refused", browser)
    provider.tell(known(ada), **bare)
    assert (await site.browser().sign_in()).status_code == 303


async def test_only_allowed_domains(start: Start, provider: Provider, merchant: Merchant) -> None:
    site = await start(allowed_domains=("corp.example",))
    operator, _ = await signed_in(site.gateway, merchant, "support", strong=False)
    provider.tell(known(operator))
    browser = site.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)
    inside = await site.gateway.operators.create(f"i-{clock.random_bytes(4).hex()}@corp.example", "Inside")
    await site.gateway.operators.join(merchant.caller, inside.operator_id, "support")
    provider.tell(known(inside))
    assert (await site.browser().sign_in()).status_code == 303
    narrower = await start(allowed_domains=("other.example",))
    browser = narrower.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)


async def test_somebody_new_gets_the_role_that_is_set_and_no_other(
    start: Start, provider: Provider, merchant: Merchant
) -> None:
    site = await start(provision_role="support", provision_tenant=merchant.caller.tenant)
    address = f"new-{clock.random_bytes(4).hex()}@example.com"
    provider.tell({"sub": address, "email": address, "email_verified": False, "name": "New"})
    browser = site.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)
    provider.tell(
        {
            "sub": address,
            "email": address,
            "email_verified": True,
            "name": " <script>\n New " + "x" * 300,
            "role": "owner",
        }
    )
    assert (await browser.sign_in()).status_code == 303
    found = await site.gateway.operators.find(email=address)
    assert found is not None
    assert [(one.slug, one.role) for one in found.memberships] == [(merchant.caller.tenant, "support")]
    assert found.name.startswith("<script> New x")
    assert "<script> New" not in (await browser.http.get("/admin/")).text
    astray = await start(provision_role="support", provision_tenant="no-such-tenant")
    provider.tell({"sub": "x" + address, "email": "x" + address, "email_verified": True})
    browser = astray.browser()
    refused(await browser.sign_in(), 403, "oidc_unknown_person", browser)


async def test_a_new_session_ends_the_browsers_old_one_and_keeps_its_mode(
    site: Site, provider: Provider, ada: Operator
) -> None:
    provider.tell(known(ada))
    browser = site.browser()
    await browser.sign_in()
    first = await site.gateway.sessions.find(browser.http.cookies[browser.cookie])
    assert first is not None
    await site.gateway.sessions.look_at(first, live=True)
    assert (await browser.sign_in(again="1", next="/webhooks")).headers["location"] == "/admin/webhooks"
    (session,) = await site.gateway.sessions.of_operator(ada.operator_id)
    assert session.session_id != first.session.session_id
    assert session.live


@pytest.mark.parametrize("auth_time", [None, 1_000_000], ids=["not said", "long ago"])
async def test_who_is_to_show_again_who_they_are_has_to(
    site: Site, provider: Provider, ada: Operator, auth_time: int | None
) -> None:
    provider.tell(known(ada), claims={"auth_time": auth_time})
    browser = site.browser()
    assert "prompt=login&max_age=0" in await browser.leave(again="1")
    refused(await browser.sign_in(again="1"), 502, "oidc_refused", browser)
    assert (await browser.sign_in()).status_code == 303


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "\\\\evil",
        "/a\r\nSet-Cookie: x=y",
        "javascript:alert(1)",
        "evil",
    ],
)
async def test_nobody_is_sent_elsewhere_afterwards(site: Site, provider: Provider, ada: Operator, text: str) -> None:
    provider.tell(known(ada))
    assert (await site.browser().sign_in(next=text)).headers["location"] == "/admin/"


# -- The answer -----------------------------------------------------------------------------------------------------------------


async def test_who_says_no_is_told_so(site: Site, provider: Provider) -> None:
    provider.tell(deny=True)
    browser = site.browser()
    refused(await browser.sign_in(), 403, "oidc_denied", browser)


async def test_an_answer_counts_only_in_the_browser_that_asked(site: Site, provider: Provider, ada: Operator) -> None:
    """Somebody makes a victim follow the end of their own sign-in."""
    provider.tell(known(ada))
    attacker, victim, begun = site.browser(), site.browser(), site.browser()
    back = await attacker.there(await attacker.leave())
    refused(await victim.back(back), 400, "oidc_state_mismatch", victim)
    await begun.leave()
    refused(await begun.back(back), 400, "oidc_state_mismatch", begun)
    # The cookie was good for one answer.
    refused(await begun.back(back), 400, "oidc_state_mismatch", begun)


@pytest.mark.parametrize("state", ["", "x", "é\ud800"], ids=["none", "another", "odd"])
async def test_another_state_is_refused(site: Site, provider: Provider, ada: Operator, state: str) -> None:
    provider.tell(known(ada))
    browser = site.browser()
    back = await browser.there(await browser.leave())
    head, _, _ = back.partition("&state=")
    given = "" if not state else "&state=" + "".join(f"%{byte:02x}" for byte in state.encode(errors="surrogatepass"))
    refused(await browser.back(head + given), 400, "oidc_state_mismatch", browser)


@pytest.mark.parametrize(
    "cookie", ["", "AAAA", "é", "A" * 3000, "AQ=="], ids=["none", "short", "odd", "long", "version"]
)
async def test_a_cookie_that_is_not_ours_is_refused(site: Site, provider: Provider, ada: Operator, cookie: str) -> None:
    provider.tell(known(ada))
    browser = site.browser()
    back = await browser.there(await browser.leave())
    browser.http.cookies.clear()
    header = {"Cookie": f"{browser.cookie}-oidc={cookie}".encode()}
    answer = await browser.http.get(back, headers=header)  # type: ignore[arg-type]
    refused(answer, 400, "oidc_state_mismatch", browser)


async def test_a_sign_in_begun_too_long_ago_is_refused(
    site: Site, provider: Provider, ada: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clearspan.access import oidc

    provider.tell(known(ada))
    browser = site.browser()
    with monkeypatch.context() as patched:
        patched.setattr(oidc, "FLOW_S", -1)
        url = await browser.leave()
    cookie = next(one for one in browser.http.cookies.jar if one.name.endswith("-oidc"))
    cookie.expires = None
    browser.http.cookies.jar.set_cookie(cookie)
    refused(await browser.back(await browser.there(url)), 400, "oidc_state_mismatch", browser)


async def test_a_code_works_once(site: Site, provider: Provider, ada: Operator) -> None:
    provider.tell(known(ada))
    browser = site.browser()
    back = await browser.there(await browser.leave())
    kept = dict(browser.http.cookies)
    assert (await browser.back(back)).status_code == 303
    thief = site.browser()
    thief.http.cookies.update({name: value for name, value in kept.items() if name.endswith("-oidc")})
    refused(await thief.back(back), 502, "oidc_refused", thief)


async def test_a_code_of_another_flow_fails_at_the_providers_pkce_check(
    site: Site, provider: Provider, ada: Operator
) -> None:
    """A stolen code, put into a flow of the thief's own: state and cookie fit, the verifier does not."""
    provider.tell(known(ada))
    victim, thief = site.browser(), site.browser()
    stolen = parse_qs(urlsplit(await victim.there(await victim.leave())).query)["code"][0]
    state = parse_qs(urlsplit(await thief.leave()).query)["state"][0]
    before = provider.tell(known(ada)).get("/token", 0)
    refused(await thief.back(f"/admin/oidc/callback?code={stolen}&state={state}"), 502, "oidc_refused", thief)
    assert provider.tell(known(ada))["/token"] == before + 1, "the provider was asked, and said no"


async def test_the_provider_sends_nobody_to_another_address(site: Site, provider: Provider) -> None:
    provider.tell()
    for redirect in ("https://evil.example/", CALLBACK + "/", CALLBACK + "?a=b"):
        provider.tell(redirects=[redirect])
        url = await site.browser().leave()
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 400, redirect


@pytest.mark.parametrize(
    "twist",
    [
        {"callback": {"iss": "https://evil.example"}},
        {"discovery": {"authorization_response_iss_parameter_supported": True}},
    ],
    ids=["of another issuer", "without the issuer that it promised"],
)
async def test_an_answer_of_another_provider_is_refused(
    site: Site, provider: Provider, ada: Operator, twist: Json
) -> None:
    provider.tell(known(ada), **twist)
    browser = site.browser()
    refused(await browser.sign_in(), 502, "oidc_refused", browser)


# -- The ID token ---------------------------------------------------------------------------------------------------------------

HOUR = 3600


@pytest.mark.parametrize(
    "twist",
    {
        "another nonce": {"why": "nonce", "claims": {"nonce": "another"}},
        "no nonce": {"why": "nonce", "claims": {"nonce": None}},
        "another issuer": {"why": "iss", "claims": {"iss": "https://evil.example"}},
        "issuer with a slash": {"why": "iss", "claims": {"iss": "SLASH"}},
        "another audience": {"why": "aud", "claims": {"aud": "another-client"}},
        "audience of two, no azp": {"why": "azp", "claims": {"aud": ["clearspan", "other"]}},
        "audience of two, another azp": {"why": "azp", "claims": {"aud": ["clearspan", "other"], "azp": "other"}},
        "another azp": {"why": "azp", "claims": {"azp": "other"}},
        "no audience": {"why": "`aud`", "claims": {"aud": None}},
        "expired": {"why": "exp", "claims": {"exp": 1_000_000}},
        "no exp": {"why": "`exp`", "claims": {"exp": None}},
        "exp as text": {"why": "$.exp", "claims": {"exp": "9999999999"}},
        "made long ago": {"why": "iat", "claims": {"iat": 1_000_000}},
        "made in the future": {"why": "iat", "claims": {"iat": 9_999_999_999}},
        "no iat": {"why": "`iat`", "claims": {"iat": None}},
        "empty subject": {"why": "sub", "claims": {"sub": ""}},
        "subject a number": {"why": "$.sub", "claims": {"sub": 7}},
        "long subject": {"why": "sub", "claims": {"sub": "x" * 300}},
        "at_hash of another token": {"why": "at_hash", "claims": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}},
        "alg none": {"why": "way", "sign": "none"},
        "HS256 with the public key": {"why": "way", "sign": "hmac"},
        "HS256, announced": {
            "why": "way",
            "sign": "hmac",
            "discovery": {"id_token_signing_alg_values_supported": ["HS256", "RS256"]},
        },
        "none, announced": {
            "why": "way",
            "sign": "none",
            "discovery": {"id_token_signing_alg_values_supported": ["none", "RS256"]},
        },
        "another key": {"why": "InvalidSignature", "sign": "other"},
        "another key under an unknown kid": {"why": "no key", "sign": "other", "header": {"kid": "unknown"}},
        "another key, its jku in the header": {
            "why": "InvalidSignature",
            "sign": "other",
            "header": {"jku": "https://evil.example/jwks"},
        },
        "a shared secret's kid": {"why": "way", "sign": "hmac", "header": {"kid": "secret"}},
        "tampered": {"why": "InvalidSignature", "sign": "tampered"},
        "an RSA key of 1024 bits": {"why": "InvalidKey", "sign": "short"},
        "crit": {"why": "cannot be read", "header": {"crit": ["x"], "x": 1}},
        "an algorithm that was not announced": {
            "why": "way",
            "discovery": {"id_token_signing_alg_values_supported": ["ES256"]},
        },
    }.items(),
    ids=lambda twist: twist[0],
)
async def test_an_id_token_that_is_not_exactly_right_signs_nobody_in(
    site: Site, provider: Provider, merchant: Merchant, twist: tuple[str, Json]
) -> None:
    operator, _ = await signed_in(site.gateway, merchant, "support", strong=False)
    what = json.loads(json.dumps(twist[1]).replace("SLASH", f"{provider.url}/"))
    why = what.pop("why")
    provider.tell(known(operator), **what)
    browser = site.browser()
    with capture_logs() as logs:
        refused(await browser.sign_in(), 502, "oidc_refused", browser)
    assert [why in one["why"] for one in logs if one["event"] == "oidc_refused"] == [True], logs
    assert await linked(site, operator) == (None, None)


async def test_the_providers_keys_may_change_and_are_not_fetched_at_strangers_will(
    site: Site, provider: Provider, ada: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clearspan.access import oidc

    provider.tell(known(ada))
    before = provider.tell(known(ada)).get("/jwks", 0)
    for _ in range(2):
        assert (await site.browser().sign_in()).status_code == 303
    assert provider.tell(known(ada))["/jwks"] == before + 1
    provider.tell(known(ada), header={"kid": "unknown"})
    for _ in range(3):
        browser = site.browser()
        refused(await browser.sign_in(), 502, "oidc_refused", browser)
    assert provider.tell(known(ada))["/jwks"] == before + 1, "fetched a moment ago"
    monkeypatch.setattr(oidc, "_AGAIN_S", 0.0)
    provider.tell(known(ada), rotate=True)
    assert (await site.browser().sign_in()).status_code == 303
    assert provider.tell(known(ada))["/jwks"] == before + 2


# -- The provider ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twist", "status", "code"),
    [
        ({"discovery": {"issuer": "https://evil.example"}}, 502, "oidc_refused"),
        ({"discovery": {"token_endpoint": None}}, 502, "oidc_refused"),
        ({"discovery": {"authorization_endpoint": "javascript:alert(1)"}}, 502, "oidc_refused"),
        ({"discovery": {"jwks_uri": "http://169.254.169.254/latest/meta-data"}}, 502, "oidc_refused"),
        ({"discovery": {"token_endpoint": "http://10.0.0.1/token"}}, 502, "oidc_refused"),
        ({"discovery": {"token_endpoint": "https://a.example/x\r\ny"}}, 502, "oidc_refused"),
        ({"status": {"/.well-known/openid-configuration": 404}}, 502, "oidc_refused"),
        ({"status": {"/.well-known/openid-configuration": 503}}, 503, "oidc_unavailable"),
        ({"status": {"/.well-known/openid-configuration": "https://evil.example/"}}, 502, "oidc_refused"),
    ],
    ids=["issuer", "no endpoint", "script", "metadata of a cloud", "inside", "line break", "404", "503", "redirect"],
)
async def test_a_provider_that_cannot_be_used_is_told_so_before_anybody_goes_there(
    site: Site, provider: Provider, twist: Json, status: int, code: str
) -> None:
    provider.tell(**twist)
    browser = site.browser()
    refused(await browser.http.get("/admin/oidc/start"), status, code, browser)


@pytest.mark.parametrize(
    ("path", "status"), [("/token", 500), ("/token", 400), ("/jwks", 500), ("/jwks", 200)], ids=str
)
async def test_a_provider_that_fails_half_way_signs_nobody_in(
    site: Site, provider: Provider, ada: Operator, path: str, status: int
) -> None:
    provider.tell(known(ada))
    browser = site.browser()
    back = await browser.there(await browser.leave())
    provider.tell(known(ada), status={path: status})
    code = ("oidc_unavailable", 503) if status == 500 else ("oidc_refused", 502)
    refused(await browser.back(back), code[1], code[0], browser)


async def test_an_internal_address_behind_https_is_not_reached_either(
    site: Site, provider: Provider, ada: Operator
) -> None:
    provider.tell(known(ada), discovery={"token_endpoint": "https://10.0.0.1/token"})
    browser = site.browser()
    refused(await browser.sign_in(), 502, "oidc_refused", browser)


async def test_the_secret_may_be_sent_in_the_body_where_the_provider_wants_that(
    site: Site, provider: Provider, ada: Operator
) -> None:
    ways = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    provider.tell(known(ada), discovery=ways, auth_method="client_secret_post")
    assert (await site.browser().sign_in()).status_code == 303


async def test_a_public_client_needs_no_secret(start: Start, provider: Provider, merchant: Merchant) -> None:
    site = await start(client_secret=Secret(""))
    operator, _ = await signed_in(site.gateway, merchant, "support", strong=False)
    provider.tell(known(operator), auth_method="none")
    assert (await site.browser().sign_in()).status_code == 303


async def test_a_wrong_secret_is_refused_and_stays_secret(start: Start, provider: Provider, ada: Operator) -> None:
    site = await start(client_secret=Secret("not-the-secret"))
    provider.tell(known(ada))
    browser = site.browser()
    answer = await browser.sign_in()
    refused(answer, 502, "oidc_refused", browser)
    assert "not-the-secret" not in answer.text + repr(site.gateway.settings)


async def test_without_a_provider_there_is_no_such_sign_in(app: AsgiApp, gateway: Gateway) -> None:
    assert not gateway.openid.on
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE_URL) as http:  # type: ignore[arg-type]
        for path in ("/admin/oidc/start", "/admin/oidc/callback?code=x&state=y"):
            answer = await http.get(path)
            assert (answer.status_code, "oidc_off" in answer.text) == (404, True)


@pytest.mark.parametrize(
    ("language", "said"), [("de", "nicht angemeldet"), ("fr", "ne vous a pas"), ("es", "no ha iniciado")]
)
async def test_a_refusal_speaks_the_browsers_language(site: Site, provider: Provider, language: str, said: str) -> None:
    provider.tell(deny=True)
    browser = site.browser()
    browser.http.headers["Accept-Language"] = language
    answer = await browser.sign_in()
    refused(answer, 403, "oidc_denied", browser)
    assert said in answer.text


async def test_in_a_real_browser(shared: Site, provider: Provider, tabs: Tabs, served: Served) -> None:
    """Cookies, redirects between two origins and the policy, as a browser has them."""
    operator, _ = await signed_in(served.gateway, served.merchant, "owner", strong=False)
    callback = f"{served.url}/admin/oidc/callback"
    served.gateway.openid._settings = shared.gateway.settings.oidc
    provider.tell(known(operator), redirects=[callback])
    page = await tabs.open(None)
    await page.goto(f"{served.url}/admin/oidc/start?next=/")
    assert page.url == f"{served.url}/admin/"
    assert await page.locator("h1").inner_text() == "Home"
    provider.tell(deny=True, redirects=[callback])
    for name, look in {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}.items():
        page = await tabs.open(None, **look)
        tabs.complaints.clear()
        await page.goto(f"{served.url}/admin/oidc/start")
        assert await page.locator("h1").inner_text() == "The provider did not sign you in"
        await picture(page, f"oidc-refused-{name}")
    # A browser writes every answer of 4xx to its console.
    tabs.complaints[:] = [said for said in tabs.complaints if "status of 403" not in said]


# -- A provider that we did not write -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """oidc-provider-mock: its URL."""
    (port,) = free_ports(1)
    url = f"http://localhost:{port}"
    log = tmp_path_factory.mktemp("stranger") / "log"
    arguments = ["-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "--require-registration"]
    process = run(arguments, f"{url}/.well-known/openid-configuration", log)
    yield url
    process.terminate()
    process.wait(10)


async def test_a_provider_that_we_did_not_write(stranger: str, start: Start, merchant: Merchant) -> None:
    async with httpx.AsyncClient(base_url=stranger, trust_env=False) as http:
        client = (await http.post("/oauth2/clients", json={"redirect_uris": [CALLBACK]})).raise_for_status().json()
        site = await start(
            stranger,
            client_id=client["client_id"],
            client_secret=Secret(client["client_secret"]),
            scopes=("openid", "email"),
        )
        operator, _ = await signed_in(site.gateway, merchant, "support", strong=False)
        browser = site.browser()

        async def at_the_provider(verified: bool, **form: str) -> str:
            claims = {"email": operator.email, "email_verified": verified}
            (await http.put(f"/users/{operator.email}", json=claims)).raise_for_status()
            answer = await http.post(await browser.leave(), data={"sub": operator.email} | form)
            assert answer.status_code == 302, answer.text
            back: str = answer.headers["location"]
            return back.removeprefix("http://127.0.0.1:8080")

        refused(await browser.back(await at_the_provider(verified=False)), 403, "oidc_unknown_person", browser)
        back = await at_the_provider(verified=True)
        kept = {name: value for name, value in browser.http.cookies.items() if name.endswith("-oidc")}
        assert (await browser.back(back)).status_code == 303
        assert (await browser.http.get("/admin/")).status_code == 200
        thief = site.browser()
        thief.http.cookies.update(kept)
        refused(await thief.back(back), 502, "oidc_refused", thief)


async def test_the_sign_in_page_leads_to_the_provider(site: Site) -> None:
    page = (await site.browser().http.get("/admin/sign-in?next=/payments")).text
    assert 'href="/admin/oidc/start?next=/payments"' in page
    assert 'name="password"' in page


async def test_where_the_provider_is_required_no_password_opens_anything(start: Start) -> None:
    http = (await start(require=True)).browser().http
    page = (await http.get("/admin/sign-in")).text
    assert 'href="/admin/oidc/start"' in page
    assert 'name="password"' not in page
    token = re.search(r'name="csrf" value="([^"]+)"', (await http.get("/admin/sign-in?x=1")).text)
    given = {"email": "ada@example.com", "password": "whatever it is"} | ({"csrf": token[1]} if token else {})
    assert (await http.post("/admin/sign-in", data=given)).status_code == 403
