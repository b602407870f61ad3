"""The token endpoint gives programs and people what their key or role allows, for a few minutes, and takes it back."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.conftest import BASE_URL
from tests.core.access.persons import PASSWORD, TRIES_MAX, Door, code_of, person

from clearspan.access.keys import SCOPES, new_key
from clearspan.access.roles import ROLES
from clearspan.platform import clock, ids

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewMerchant

    from clearspan.access.service import ApiKeys
    from clearspan.access.sessions import Operator
    from clearspan.app import Gateway
    from clearspan.platform.gate import AsgiApp

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def door(gateway: Gateway, app: AsgiApp) -> Door:
    """Checks passwords; the limits begin anew with each test."""
    gateway.oauth.people = Door(gateway.operators)
    gateway.authenticator.forget()
    return gateway.oauth.people


@pytest.fixture
async def web(app: AsgiApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE_URL) as http:  # type: ignore[arg-type]
        yield http


@pytest.fixture
async def finance(gateway: Gateway, app: AsgiApp, merchant: Merchant) -> Operator:
    return await person(gateway.operators, merchant.caller, "finance")


def key_id(merchant: Merchant) -> str:
    assert merchant.caller.key_id is not None
    return ids.encode("key", merchant.caller.key_id)


def by_key(merchant: Merchant, **more: str) -> dict[str, str]:
    return {"grant_type": "client_credentials", "client_id": key_id(merchant), "client_secret": merchant.key} | more


def by_person(operator: Operator, **more: str) -> dict[str, str]:
    code = code_of(operator) if operator.totp_secret else ""
    return {"grant_type": "password", "username": operator.email, "password": PASSWORD, "otp": code} | more


def again(given: Json, **more: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "refresh_token": given["refresh_token"]} | more


async def ask(web: httpx.AsyncClient, form: dict[str, str], **headers: str) -> Json:
    """A grant that is given."""
    answer = await web.post("/oauth/token", data=form, headers=headers)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    given: Json = answer.json()
    assert given["token_type"] == "Bearer"
    return given


async def refused(
    web: httpx.AsyncClient, form: dict[str, str], status: int, error: str, **headers: str
) -> httpx.Response:
    """A grant that is not: as RFC 6749, 5.2."""
    answer = await web.post("/oauth/token", data=form, headers=headers)
    assert (answer.status_code, answer.json().get("error")) == (status, error), answer.text
    assert answer.json().keys() == {"error", "error_description"}
    assert (answer.headers["cache-control"], answer.headers["content-type"]) == ("no-store", "application/json")
    return answer


async def reads(web: httpx.AsyncClient, given: Json, path: str = "/v1/payments") -> int:
    return (await web.get(path, headers=bearer(given))).status_code


def bearer(given: Json) -> dict[str, str]:
    return {"Authorization": f"Bearer {given['access_token']}"}


# -- Client credentials ---------------------------------------------------------------------------------------------------------


async def test_a_key_gets_a_token_with_its_own_scopes(web: httpx.AsyncClient, new_merchant: NewMerchant) -> None:
    merchant = await new_merchant(scopes=frozenset({"payments:read", "customers:read"}))
    given = await ask(web, by_key(merchant))
    assert given.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (given["scope"], given["expires_in"]) == ("customers:read payments:read", 900)
    assert await reads(web, given) == 200
    assert (await reads(web, given, "/v1/invoices"), await reads(web, given, "/v1/tenant")) == (403, 200)


async def test_the_secret_may_come_in_the_header(web: httpx.AsyncClient, merchant: Merchant) -> None:
    basic = base64.b64encode(f"{key_id(merchant).replace('_', '%5F')}:{merchant.key}".encode()).decode()
    given = await ask(web, {"grant_type": "client_credentials"}, Authorization=f"Basic {basic}")
    assert await reads(web, given) == 200
    both = by_key(merchant)
    await refused(web, both, 400, "invalid_request", Authorization=f"Basic {basic}")
    other = {"grant_type": "client_credentials", "client_id": "key_other"}
    await refused(web, other, 400, "invalid_request", Authorization=f"Basic {basic}")


async def test_scope_narrows_and_never_widens(web: httpx.AsyncClient, new_merchant: NewMerchant) -> None:
    merchant = await new_merchant(scopes=frozenset({"payments:read", "payments:write"}))
    given = await ask(web, by_key(merchant, scope="payments:read"))
    assert given["scope"] == "payments:read"
    answer = await web.post("/v1/payments", json={}, headers=bearer(given) | {"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    for scope in ("payments:read ledger:read", "no:such", "*", "payments:read  payments:write", 'payments:read "'):
        await refused(web, by_key(merchant, scope=scope), 400, "invalid_scope")


async def test_a_token_makes_no_key_with_more_scopes_than_itself(web: httpx.AsyncClient, merchant: Merchant) -> None:
    given = await ask(web, by_key(merchant, scope="api_keys:write payments:read"))
    body = {"name": "more", "scopes": ["payments:write"]}
    answer = await web.post("/v1/api-keys", json=body, headers=bearer(given))
    assert (answer.status_code, answer.json()["code"]) == (403, "api_key_scopes_exceeded")
    body = {"name": "less", "scopes": ["payments:read"]}
    assert (await web.post("/v1/api-keys", json=body, headers=bearer(given))).status_code == 201


@pytest.mark.parametrize(
    "change",
    [
        {"client_secret": new_key(live=False).text},
        {"client_secret": "nonsense"},
        {"client_secret": ""},
        {"client_id": "key_01h455vb4pex5vsknk084sn02q"},
        {"client_id": ""},
        {"client_id": "x" * 3000},
    ],
    ids=["another key", "no key", "no secret", "another id", "no id", "a long id"],
)
async def test_a_client_that_is_not_one_is_refused(
    web: httpx.AsyncClient, merchant: Merchant, change: dict[str, str]
) -> None:
    answer = await refused(web, by_key(merchant) | change, 401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic")


async def test_another_keys_id_with_ones_own_secret_is_refused(
    web: httpx.AsyncClient, merchant: Merchant, other_merchant: Merchant
) -> None:
    await refused(web, by_key(merchant) | {"client_id": key_id(other_merchant)}, 401, "invalid_client")


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode(), "Basic /w=="]
)
async def test_a_header_that_is_no_basic_authentication_is_refused(web: httpx.AsyncClient, header: str) -> None:
    await refused(web, {"grant_type": "client_credentials"}, 401, "invalid_client", Authorization=header)


async def test_with_the_key_its_tokens_end(
    web: httpx.AsyncClient, merchant: Merchant, new_merchant: NewMerchant, gateway: Gateway
) -> None:
    revoked = await new_merchant(of=merchant)
    given = await ask(web, by_key(revoked))
    assert await reads(web, given) == 200
    assert revoked.caller.key_id is not None
    await gateway.api_keys.revoke(merchant.caller, revoked.caller.key_id)
    answer = await web.get("/v1/payments", headers=bearer(given))
    assert (answer.status_code, answer.json()["code"]) == (401, "access_token_invalid")
    await refused(web, by_key(revoked), 401, "invalid_client")


async def test_a_key_revoked_elsewhere_moves_no_money_at_once(
    web: httpx.AsyncClient, merchant: Merchant, new_merchant: NewMerchant, api_keys: ApiKeys
) -> None:
    """This process remembers the key for some seconds; the money path asks in its own transaction."""
    revoked = await new_merchant(of=merchant)
    given = await ask(web, by_key(revoked))
    assert await reads(web, given) == 200
    assert revoked.caller.key_id is not None
    await api_keys.revoke(merchant.caller, revoked.caller.key_id)  # Of another process: it has its own memory.
    assert await reads(web, given) == 200
    assert await pays(web, given) == (401, "api_key_invalid")


async def test_a_token_ends_with_its_expiring_key(web: httpx.AsyncClient, new_merchant: NewMerchant) -> None:
    merchant = await new_merchant(expires_at=clock.now() + timedelta(seconds=90))
    assert 60 < (await ask(web, by_key(merchant)))["expires_in"] <= 90


async def test_a_suspended_tenants_tokens_end(
    web: httpx.AsyncClient, merchant: Merchant, gateway: Gateway, superuser: Any
) -> None:
    given = await ask(web, by_key(merchant))
    await superuser.execute(
        "UPDATE tenants SET status = 'suspended' WHERE tenant_id = $1", merchant.caller.scope.tenant_id
    )
    gateway.authenticator.forget()
    assert await reads(web, given) == 401


async def pays(web: httpx.AsyncClient, given: Json) -> tuple[int, str | None]:
    body = {"amount_minor": 100, "currency": "EUR"}
    headers = bearer(given) | {"Idempotency-Key": clock.new_uuid().hex}
    answer = await web.post("/v1/payments", json=body, headers=headers)
    return answer.status_code, answer.json().get("code")


async def test_a_test_token_never_sees_live(
    web: httpx.AsyncClient, merchant: Merchant, live_merchant: Merchant, other_merchant: Merchant
) -> None:
    test, live, other = [await ask(web, by_key(one)) for one in (merchant, live_merchant, other_merchant)]
    made = await web.post("/v1/customers", json={"name": "Ada"}, headers=bearer(live))
    assert made.status_code == 201, made.text
    path = f"/v1/customers/{made.json()['id']}"
    assert [await reads(web, one, path) for one in (live, test, other)] == [200, 404, 404]
    assert (await web.get("/v1/customers", headers=bearer(test))).json()["data"] == []


# -- Passwords ------------------------------------------------------------------------------------------------------------------


async def test_a_person_gets_their_roles_scopes_in_a_session_that_can_be_seen(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway
) -> None:
    given = await ask(web, by_person(finance), **{"User-Agent": "report script"})
    assert given.keys() == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert set(given["scope"].split()) == ROLES["finance"]
    assert await reads(web, given) == 200
    assert await reads(web, given, "/v1/api-keys") == 200
    (session,) = await gateway.sessions.of_operator(finance.operator_id)
    assert (session.method, session.live, session.agent) == ("token", False, "report script")


async def test_a_token_opens_no_page_of_the_cockpit(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway
) -> None:
    given = await ask(web, by_person(finance))
    for text in (given["access_token"], given["refresh_token"], given["refresh_token"].removeprefix("csr_")):
        assert await gateway.sessions.find(text) is None


async def test_what_a_person_does_by_token_is_theirs_in_the_audit_trail(
    web: httpx.AsyncClient, finance: Operator
) -> None:
    given = await ask(web, by_person(finance))
    made = await web.post("/v1/customers", json={"name": "Ada"}, headers=bearer(given))
    assert made.status_code == 201, made.text
    entries = (await web.get("/v1/audit", headers=bearer(given))).json()["data"]
    actors = [entry["actor"] for entry in entries if entry["type"] == "customer.created"]
    assert actors == [{"type": "operator", "id": finance.public_id}]


@pytest.mark.parametrize(
    "change",
    [
        {"password": "wrong"},
        {"otp": "000000"},
        {"otp": ""},
        {"username": "nobody@example.com"},
        {"tenant": "no-such-tenant"},
    ],
    ids=["password", "code", "no code", "address", "tenant"],
)
async def test_who_is_not_who_they_say_gets_nothing(
    web: httpx.AsyncClient, finance: Operator, change: dict[str, str], gateway: Gateway
) -> None:
    await refused(web, by_person(finance) | change, 400, "invalid_grant")
    assert await gateway.sessions.of_operator(finance.operator_id) == []


async def test_password_code_and_address_are_refused_in_the_same_words(
    web: httpx.AsyncClient, finance: Operator
) -> None:
    changes = [{"password": "wrong"}, {"otp": "000000"}, {"otp": ""}, {"username": "nobody@example.com"}]
    said = {(await refused(web, by_person(finance) | change, 400, "invalid_grant")).text for change in changes}
    assert len(said) == 1


async def test_guessing_is_limited(web: httpx.AsyncClient, finance: Operator) -> None:
    for _ in range(TRIES_MAX):
        await refused(web, by_person(finance, password="guess"), 400, "invalid_grant")
    answer = await refused(web, by_person(finance), 429, "invalid_grant")
    assert answer.headers["retry-after"] == "900"


async def test_a_role_that_needs_a_second_factor_gets_nothing_without(
    web: httpx.AsyncClient, gateway: Gateway, merchant: Merchant
) -> None:
    bare = await person(gateway.operators, merchant.caller, "owner", second_factor=False)
    await refused(web, by_person(bare), 400, "invalid_grant")
    assert await gateway.sessions.of_operator(bare.operator_id) == []
    auditor = await person(gateway.operators, merchant.caller, "auditor", second_factor=False)
    assert await reads(web, await ask(web, by_person(auditor))) == 200


async def test_a_member_of_several_tenants_names_one_and_stays_in_it(
    web: httpx.AsyncClient, finance: Operator, merchant: Merchant, other_merchant: Merchant, gateway: Gateway
) -> None:
    await gateway.operators.join(other_merchant.caller, finance.operator_id, "auditor")
    await refused(web, by_person(finance), 400, "invalid_request")
    given = await ask(web, by_person(finance, tenant=other_merchant.caller.tenant))
    assert set(given["scope"].split()) == ROLES["auditor"]
    assert (await web.get("/v1/tenant", headers=bearer(given))).json()["slug"] == other_merchant.caller.tenant
    # Out of that tenant, the token does not fall back to the other one.
    await gateway.operators.leave(other_merchant.caller, finance.operator_id, own_role="owner")
    gateway.authenticator.forget()
    assert await reads(web, given) == 401
    await refused(web, again(given), 400, "invalid_grant")


async def test_live_is_asked_for_and_kept(web: httpx.AsyncClient, finance: Operator, live_merchant: Merchant) -> None:
    test, live = await ask(web, by_person(finance)), await ask(web, by_person(finance, live="true"))
    made = await web.post("/v1/customers", json={"name": "Ada"}, headers=bearer(live))
    path = f"/v1/customers/{made.json()['id']}"
    assert [await reads(web, one, path) for one in (live, test)] == [200, 404]
    assert await reads(web, await ask(web, again(test)), path) == 404
    await refused(web, again(test, live="true") | {"live": "yes"}, 400, "invalid_grant")
    await refused(web, by_person(finance, live="yes"), 400, "invalid_request")


async def test_another_role_counts_at_once_for_all_that_writes(
    web: httpx.AsyncClient, finance: Operator, merchant: Merchant, gateway: Gateway
) -> None:
    given = await ask(web, by_person(finance))
    assert (await pays(web, given))[0] == 201
    await gateway.operators.change_role(merchant.caller, finance.operator_id, "auditor", own_role="owner")
    assert await pays(web, given) == (403, "scope_missing")
    assert set((await ask(web, again(given)))["scope"].split()) == ROLES["auditor"] & ROLES["finance"]


async def test_with_the_session_its_tokens_end(web: httpx.AsyncClient, finance: Operator, gateway: Gateway) -> None:
    given = await ask(web, by_person(finance))
    assert (await pays(web, given))[0] == 201
    await gateway.sessions.end(finance.operator_id, why="revoked")
    assert await pays(web, given) == (401, "access_token_invalid")
    gateway.authenticator.forget()
    assert await reads(web, given) == 401
    await refused(web, again(given), 400, "invalid_grant")


async def test_money_asks_about_the_session_in_its_own_transaction(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it ended between the guard's look and the payment."""
    given = await ask(web, by_person(finance))
    find = gateway.sessions.find_by_id

    async def and_then_it_ends(session_id: Any) -> Any:
        signed = await find(session_id)
        await gateway.sessions.end(finance.operator_id, why="revoked")
        return signed

    monkeypatch.setattr(gateway.sessions, "find_by_id", and_then_it_ends)
    assert await pays(web, given) == (401, "access_token_invalid")


async def test_a_disabled_person_has_no_token_any_more(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway
) -> None:
    given = await ask(web, by_person(finance))
    await gateway.operators.change(await gateway.operators.get(finance.operator_id), status="disabled")
    gateway.authenticator.forget()
    assert await reads(web, given) == 401
    await refused(web, again(given), 400, "invalid_grant")


async def test_what_needs_a_fresh_factor_in_the_cockpit_needs_one_here(
    web: httpx.AsyncClient, gateway: Gateway, merchant: Merchant, superuser: Any
) -> None:
    owner = await person(gateway.operators, merchant.caller, "owner")
    given = await ask(web, by_person(owner))
    body = {"name": "mine", "scopes": ["payments:read"]}
    assert (await web.post("/v1/api-keys", json=body, headers=bearer(given))).status_code == 201
    await superuser.execute(
        "UPDATE operator_sessions SET strong_at = strong_at - interval '1 hour' WHERE operator_id = $1",
        owner.operator_id,
    )
    for token in (given, await ask(web, again(given))):
        answer = await web.post("/v1/api-keys", json=body, headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert "too long ago" in answer.json()["detail"]
        assert await reads(web, token, "/v1/api-keys") == 200


async def test_a_person_makes_no_key_above_their_role(
    web: httpx.AsyncClient, gateway: Gateway, merchant: Merchant
) -> None:
    developer = await person(gateway.operators, merchant.caller, "developer", second_factor=False)
    given = await ask(web, by_person(developer))
    for scopes, status in ((["payments:write"], 403), (sorted(SCOPES), 403), (["payments:read"], 201)):
        answer = await web.post("/v1/api-keys", json={"name": "k", "scopes": scopes}, headers=bearer(given))
        assert answer.status_code == status, answer.text


# -- Refreshing -----------------------------------------------------------------------------------------------------------------


async def test_a_refresh_token_is_exchanged_for_the_next(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway
) -> None:
    given = await ask(web, by_person(finance, scope="payments:read payments:write"))
    for _ in range(3):
        following = await ask(web, again(given))
        assert following["refresh_token"] != given["refresh_token"]
        assert following["scope"] == "payments:read payments:write"
        assert await reads(web, following) == 200
        given = following
    assert len(await gateway.sessions.of_operator(finance.operator_id)) == 1


async def test_a_used_refresh_token_ends_the_whole_family(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway, merchant: Merchant, superuser: Any
) -> None:
    first = await ask(web, by_person(finance))
    second = await ask(web, again(first))
    bystander = await ask(web, by_person(finance))
    await refused(web, again(first), 400, "invalid_grant")
    await refused(web, again(second), 400, "invalid_grant")
    assert [await reads(web, one) for one in (first, second, bystander)] == [401, 401, 200]
    types = await superuser.fetch(
        "SELECT type FROM journal WHERE tenant_id = $1 AND subject_type = 'operator'", merchant.caller.scope.tenant_id
    )
    assert [row["type"] for row in types].count("operator.token_reused") == 1


async def test_of_refreshes_at_once_one_is_exchanged_and_then_nobody_keeps_anything(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway, superuser: Any
) -> None:
    """The winner may learn of the end already in its own answer, if the others were quick."""
    given = await ask(web, by_person(finance))
    answers = await asyncio.gather(*(web.post("/oauth/token", data=again(given)) for _ in range(8)))
    assert [answer.status_code for answer in answers].count(400) >= 7
    count = "SELECT count(*) FROM oauth_refresh_tokens JOIN operator_sessions USING (session_id) WHERE operator_id = $1"
    assert await superuser.fetchval(count, finance.operator_id) == 2, "the first one and a single successor"
    assert await superuser.fetchval(f"{count} AND used_at IS NULL", finance.operator_id) == 1
    assert await gateway.sessions.of_operator(finance.operator_id) == []


async def test_a_refresh_may_narrow_one_access_token_and_never_widen(web: httpx.AsyncClient, finance: Operator) -> None:
    given = await ask(web, by_person(finance, scope="payments:read customers:read"))
    await refused(web, again(given, scope="payments:read ledger:read"), 400, "invalid_scope")
    narrow = await ask(web, again(given, scope="payments:read"))
    assert narrow["scope"] == "payments:read"
    assert (await ask(web, again(narrow)))["scope"] == "customers:read payments:read"


@pytest.mark.parametrize(
    "text", ["", "csr_", "csr_" + "0" * 64, "csr_" + "Z" * 64, "é" * 20, "eyJhbGciOiJub25lIn0.e30."]
)
async def test_what_is_no_refresh_token_is_refused(web: httpx.AsyncClient, text: str) -> None:
    error = "invalid_grant" if text else "invalid_request"
    await refused(web, {"grant_type": "refresh_token", "refresh_token": text}, 400, error)


async def test_an_idle_or_old_session_is_not_refreshed(
    web: httpx.AsyncClient, finance: Operator, superuser: Any
) -> None:
    for change in ("seen_at = seen_at - interval '1 day'", "expires_at = now()"):
        given = await ask(web, by_person(finance))
        await superuser.execute(f"UPDATE operator_sessions SET {change} WHERE operator_id = $1", finance.operator_id)
        await refused(web, again(given), 400, "invalid_grant")


async def test_the_database_holds_no_token(web: httpx.AsyncClient, finance: Operator, superuser: Any) -> None:
    given = await ask(web, by_person(finance))
    rows = await superuser.fetch("SELECT t::text AS row FROM oauth_refresh_tokens t")
    rows += await superuser.fetch("SELECT s::text AS row FROM operator_sessions s")
    secret = given["refresh_token"].removeprefix("csr_")
    assert rows
    assert not [row for row in rows if secret in row["row"] or given["access_token"] in row["row"]]


# -- Revoking -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["refresh_token", "access_token"])
async def test_a_persons_token_can_be_revoked(web: httpx.AsyncClient, finance: Operator, which: str) -> None:
    given = await ask(web, by_person(finance))
    for _ in range(2):
        answer = await web.post("/oauth/revoke", data={"token": given[which], "token_type_hint": "access_token"})
        assert answer.status_code == 200, answer.text
    assert await reads(web, given) == 401
    await refused(web, again(given), 400, "invalid_grant")


async def test_revoking_what_is_none_is_no_error_and_a_keys_token_is_revoked_with_the_key(
    web: httpx.AsyncClient, merchant: Merchant
) -> None:
    for text in ("nonsense", "csr_" + "0" * 64, "eyJ.e30.x"):
        assert (await web.post("/oauth/revoke", data={"token": text})).status_code == 200
    given = await ask(web, by_key(merchant))
    answer = await web.post("/oauth/revoke", data={"token": given["access_token"]})
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_token_type")
    assert (await web.post("/oauth/revoke", data={})).json()["error"] == "invalid_request"


# -- The request ----------------------------------------------------------------------------------------------------------------


async def test_a_secret_in_the_url_is_refused(web: httpx.AsyncClient, merchant: Merchant, finance: Operator) -> None:
    answer = await web.post("/oauth/token", params=by_key(merchant), data={"grant_type": "client_credentials"})
    assert (answer.status_code, answer.json()["code"]) == (400, "api_key_in_url")
    answer = await web.post("/oauth/token", params=by_person(finance), data={"grant_type": "password"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_requests_that_are_no_form_are_refused(web: httpx.AsyncClient, merchant: Merchant) -> None:
    form = "application/x-www-form-urlencoded"
    bodies = [
        ('{"grant_type": "client_credentials"}', "application/json"),
        ("grant_type=client_credentials&grant_type=password", form),
        ("scope=payments:read", form),
        ("grant_type=", form),
        ("grant_type=%ff", form),
        ("grant_type=password&username=a%00&password=b", form),
        ("&".join(f"a{number}=1" for number in range(60)), form),
    ]
    for body, kind in bodies:
        answer = await web.post("/oauth/token", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), body
    for grant in ("authorization_code", "urn:ietf:params:oauth:grant-type:device_code", "x" * 500):
        await refused(web, by_key(merchant, grant_type=grant), 400, "unsupported_grant_type")


async def test_a_card_number_in_the_form_is_refused_as_everywhere(web: httpx.AsyncClient) -> None:
    form = {"grant_type": "password", "username": "4242 4242 4242 4242", "password": "x"}
    assert (await web.post("/oauth/token", data=form)).json()["code"] == "pan_detected"


async def test_the_other_grants_take_no_client_secret(
    web: httpx.AsyncClient, merchant: Merchant, finance: Operator
) -> None:
    await refused(web, by_person(finance, client_secret=merchant.key), 401, "invalid_client")
    assert await ask(web, by_person(finance, client_id="my-script"))


async def test_without_passwords_there_is_only_the_grant_of_keys(
    web: httpx.AsyncClient, finance: Operator, gateway: Gateway
) -> None:
    gateway.oauth.people = None
    await refused(web, by_person(finance), 400, "unsupported_grant_type")
    assert (await web.get("/.well-known/oauth-authorization-server")).json()["grant_types_supported"] == [
        "client_credentials"
    ]


async def test_the_metadata_is_what_rfc_8414_wants(web: httpx.AsyncClient) -> None:
    found = (await web.get("/.well-known/oauth-authorization-server")).json()
    assert found["issuer"] == "http://127.0.0.1:8080"
    assert found["token_endpoint"] == f"{found['issuer']}/oauth/token"
    assert found["response_types_supported"] == []
    assert set(found["scopes_supported"]) == set(SCOPES)
    assert len((await web.get("/.well-known/jwks.json")).json()["keys"]) == 1
