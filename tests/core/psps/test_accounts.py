"""A PSP account's settings: checked before they are kept, sealed, asked about at the PSP, and never shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import asyncpg
import httpx
import msgspec
import pytest
from msgspec import Meta
from tests.core.payments.conftest import Puppet, PuppetPsp, approve, with_puppets
from tests.shop import Json, Shop, gateway, until, with_payments

from clearspan import sdk
from clearspan.platform import ids
from clearspan.platform.crypto import MasterKey
from clearspan.platform.plugins import LoadedPlugin
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewMerchant, Urls

SECRET = "rk_test_do-not-show-this-one"


class PickyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings whose key tells its mode.

    Attributes:
        name: which puppet.
        merchant: as the dashboard shows it.
    """

    name: str
    api_key: Annotated[sdk.Secret, Meta(title="API key")]
    merchant: str = "main"
    url: sdk.Host = ""

    def problem(self, live: bool) -> str:
        if self.api_key == "crash":
            raise RuntimeError(self.api_key)
        return "" if live == ("live" in self.api_key) else f"api_key: take the {'live' if live else 'test'} key"


class Picky(PuppetPsp):
    """A puppet that can be asked."""

    name: ClassVar[str] = "picky"
    config_type: ClassVar[type[msgspec.Struct]] = PickyConfig

    async def check_account(self) -> None:
        await self._puppet.act("check_account", None)


@pytest.fixture(scope="module")
async def stage(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Any]:
    loaded = with_puppets(settings)
    loaded.psps["picky"] = Picky
    loaded.plugin_of_psp["picky"] = "psp-picky"
    loaded.loaded.append(LoadedPlugin("psp-picky", "clearspan-psp-picky", "2.1"))
    async with gateway(urls.app, with_payments(settings, wait_budget_s=60), master, loaded) as clients:
        yield clients


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    made = Puppet()
    yield made
    del Puppet.strings[made.name]


@pytest.fixture
def http(stage: Any, merchant: Merchant) -> httpx.AsyncClient:
    client: httpx.AsyncClient = stage(merchant.key)
    return client


@pytest.fixture
async def account(http: httpx.AsyncClient, puppet: Puppet) -> Json:
    answer = await add(http, puppet)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def add(http: httpx.AsyncClient, puppet: Puppet, **config: Any) -> httpx.Response:
    body = {"psp": "picky", "name": "alpha", "config": {"name": puppet.name, "api_key": SECRET} | config}
    return await http.post("/v1/psp-accounts", json=body)


async def journal(http: httpx.AsyncClient, kind: str) -> list[Json]:
    found: list[Json] = (await http.get("/v1/audit", params={"type": kind})).json()["data"]
    return found


# -- Settings -------------------------------------------------------------------------------------------------------------------


async def test_a_live_key_is_refused_in_test_mode_and_a_test_key_in_live_mode(
    stage: Any, new_merchant: NewMerchant, merchant: Merchant, puppet: Puppet
) -> None:
    live = await new_merchant(live=True, of=merchant)
    for client, key, words in (
        (stage(merchant.key), "rk_live", "take the test key"),
        (stage(live.key), SECRET, "the live key"),
    ):
        refused = await add(client, puppet, api_key=key)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
        assert words in refused.json()["detail"]
        assert key not in refused.text
    made = await add(stage(live.key), puppet, api_key="rk_live")
    assert made.status_code == 201
    changed = await stage(live.key).patch(
        f"/v1/psp-accounts/{made.json()['id']}", json={"config": {"name": puppet.name, "api_key": SECRET}}
    )
    assert "take the live key" in changed.json()["detail"]


async def test_a_check_of_settings_that_crashes_refuses_without_quoting_them(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    refused = await add(http, puppet, api_key="crash")
    assert refused.status_code == 422
    assert "could not check" in refused.json()["detail"]
    assert "crash" not in refused.text


async def test_settings_are_sealed_in_the_database_and_shown_nowhere(
    http: httpx.AsyncClient, account: Json, puppet: Puppet, superuser: asyncpg.Connection[Any]
) -> None:
    config = {"name": puppet.name, "api_key": SECRET + "2"}
    await http.patch(f"/v1/psp-accounts/{account['id']}", json={"config": config})
    dumped = b""
    for table in ("psp_accounts", "journal", "idempotency_keys"):
        rows = await superuser.fetch(f"SELECT t::text AS row, convert_to(t::text, 'UTF8') AS bytes FROM {table} AS t")
        dumped += b"".join(row["bytes"] for row in rows)
    sealed = await superuser.fetch("SELECT config, previous_config FROM psp_accounts")
    dumped += b"".join(row["config"] + (row["previous_config"] or b"") for row in sealed)
    assert account["id"].startswith("acct_")
    assert str(ids.decode("acct", account["id"])).encode() in dumped
    for secret in (SECRET, SECRET.encode().hex(), puppet.name):
        assert secret.encode() not in dumped
    for path in (f"/v1/psp-accounts/{account['id']}", "/v1/psp-accounts", "/v1/audit", "/v1/events", "/v1/psps"):
        assert SECRET not in (await http.get(path)).text


async def test_the_journal_names_the_settings_that_changed_and_never_their_values(
    http: httpx.AsyncClient, account: Json, puppet: Puppet
) -> None:
    (created,) = await journal(http, "psp_account.created")
    assert created["data"] == {"psp": "picky", "name": "alpha", "settings": ["api_key", "name"]}
    changes = [
        {"api_key": SECRET, "merchant": "second"},
        {"api_key": "rk_other", "merchant": "second"},
        {"api_key": "rk_other"},
    ]
    for config in changes:
        await http.patch(f"/v1/psp-accounts/{account['id']}", json={"config": {"name": puppet.name} | config})
    await http.patch(f"/v1/psp-accounts/{account['id']}", json={"priority": 7})
    told = [one["data"].get("settings") for one in await journal(http, "psp_account.updated")]
    assert told == [None, ["merchant"], ["api_key"], ["merchant"]]


async def test_settings_that_no_longer_fit_send_nothing_and_say_so(
    stage: Any, merchant: Merchant, account: Json, puppet: Puppet, settings: Settings, sandboxes: None,
    superuser: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As after an update of a plugin that asks for more."""

    class Stricter(msgspec.Struct, frozen=True):
        name: str
        region: str

    monkeypatch.setattr(Picky, "config_type", Stricter)
    shop = Shop(stage(merchant.key), settings.plugin["psp-sandbox"]["url"])
    answer = (await shop.pay()).json()
    assert (answer["status"], answer["last_error"]["code"]) == ("requires_confirmation", "psp_misconfigured")
    shown = (await shop.http.get(f"/v1/psp-accounts/{account['id']}")).json()
    assert shown["problem"] == "its settings do not fit the plugin any more: Object missing required field `region`"
    assert puppet.calls == []


# -- What there is --------------------------------------------------------------------------------------------------------------


async def test_the_psps_of_enabled_plugins_are_listed_with_their_forms(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/psps")
    assert answer.status_code == 200, answer.text
    found = {one["name"]: one for one in answer.json()["data"]}
    assert {"picky", "puppet", "sandbox"} <= set(found)
    assert list(found) == sorted(found)
    picky = found["picky"]
    assert (picky["plugin"], picky["distribution"], picky["version"]) == ("psp-picky", "clearspan-psp-picky", "2.1")
    assert (picky["sources"], picky["methods"], picky["currencies"], picky["does"]) == (["card"], [], [], ["check"])
    assert "partial_refund" in picky["capabilities"]
    fields = {one["name"]: one for one in picky["settings"]}
    assert list(fields) == ["name", "api_key", "merchant", "url"]
    assert fields["api_key"] == {
        "name": "api_key", "title": "API key", "description": "", "type": "secret", "required": True, "default": None,
        "choices": [],
    }  # fmt: skip
    assert (fields["merchant"]["default"], fields["merchant"]["description"]) == ("main", "as the dashboard shows it.")


async def test_a_key_without_the_scope_sees_no_psps(stage: Any, new_merchant: NewMerchant, account: Json) -> None:
    client = stage((await new_merchant(scopes=frozenset({"payments:read"}))).key)
    assert (await client.get("/v1/psps")).status_code == 403
    reader = stage((await new_merchant(scopes=frozenset({"psp_accounts:read"}))).key)
    assert (await reader.post(f"/v1/psp-accounts/{account['id']}/check")).status_code == 403


# -- Asking the PSP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (None, "ok", "takes these settings"),
        (sdk.PspMisconfigured("the API key is unknown"), "misconfigured", "the API key is unknown"),
        (sdk.PspUnavailable("connection refused"), "unreachable", "connection refused"),
        (sdk.OutcomeUnknown("the PSP answered 502"), "unclear", "502"),
        (sdk.NotSupported("no such call"), "not_supported", "no such call"),
        (KeyError(SECRET), "unclear", "The plugin failed (KeyError)"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else None,
)
async def test_an_account_is_checked_at_its_psp(
    http: httpx.AsyncClient, account: Json, puppet: Puppet, raised: Exception | None, status: str, words: str
) -> None:
    def act(_: str, __: Any) -> None:
        if raised is not None:
            raise raised

    puppet.does = act
    answer = await http.post(f"/v1/psp-accounts/{account['id']}/check")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["object"], told["psp_account"], told["status"]) == ("psp_account_check", account["id"], status)
    assert words in told["message"]
    assert SECRET not in answer.text
    assert puppet.verbs == ["check_account"]
    after = (await http.get(f"/v1/psp-accounts/{account['id']}")).json()
    assert (after["problem"] is not None) == (status == "misconfigured")


async def test_a_check_that_does_not_come_back_is_unclear(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, account: Json, puppet: Puppet
) -> None:
    async def hang(_: str, __: Any) -> None:
        await asyncio.Event().wait()

    puppet.does = hang
    loaded = with_puppets(settings)
    loaded.psps["picky"] = Picky
    short = with_payments(settings, psp_timeout_s=0.1)
    async with gateway(urls.app, short, master, loaded) as clients:
        told = (await clients(merchant.key).post(f"/v1/psp-accounts/{account['id']}/check")).json()
    assert (told["status"], "0.1 seconds" in told["message"]) == ("unclear", True)


async def test_a_plugin_that_cannot_ask_says_so(http: httpx.AsyncClient, puppet: Puppet) -> None:
    made = await http.post("/v1/psp-accounts", json={"psp": "puppet", "name": "p", "config": {"name": puppet.name}})
    told = (await http.post(f"/v1/psp-accounts/{made.json()['id']}/check")).json()
    assert (told["status"], puppet.calls) == ("not_supported", [])


# -- Wrong credentials ----------------------------------------------------------------------------------------------------------


async def test_wrong_credentials_are_told_once_until_they_change(
    http: httpx.AsyncClient, stage: Any, account: Json, puppet: Puppet, settings: Settings, sandboxes: None
) -> None:
    def refuse(_: str, __: Any) -> None:
        raise sdk.PspMisconfigured("the API key was revoked")

    shop = Shop(http, settings.plugin["psp-sandbox"]["url"])
    puppet.does = refuse
    for _ in range(3):
        assert (await shop.pay()).json()["last_error"]["code"] == "psp_misconfigured"
    seen = (await http.get(f"/v1/psp-accounts/{account['id']}")).json()
    assert seen["problem"] == "the API key was revoked"
    assert set(seen["health"].values()) == {"closed"}, "the PSP itself is well"
    await until_told(http, 1)
    (told,) = await journal(http, "psp_account.misconfigured")
    assert told["subject"]["id"] == account["id"]
    assert told["data"] == {"psp": "picky", "name": "alpha", "code": "psp_misconfigured"}
    await http.patch(f"/v1/psp-accounts/{account['id']}", json={"config": {"name": puppet.name, "api_key": "rk_new"}})
    assert (await http.get(f"/v1/psp-accounts/{account['id']}")).json()["problem"] is None
    await shop.pay()
    await until_told(http, 2)
    puppet.does = approve
    assert (await shop.pay()).json()["status"] == "succeeded"
    assert (await http.get(f"/v1/psp-accounts/{account['id']}")).json()["problem"] is None


async def until_told(http: httpx.AsyncClient, times: int) -> None:
    async def told() -> int | None:
        found = len(await journal(http, "psp_account.misconfigured"))
        return found if found >= times else None

    assert await until(told) == times
