"""Plugins and the tenant in the cockpit: what runs, how it bills, and nothing secret."""

from __future__ import annotations

import re

import httpx
import msgspec
import pytest
from tests.admin.billing import followed, said
from tests.admin.conftest import NewPerson
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.journal import plugins as plugin_log
from clearspan.journal.plugins import PluginDesk
from clearspan.platform.plugins import LoadedPlugin, Plugins
from clearspan.settings import Settings

BILLING = {
    "seller_name": "Ada & Sons",
    "seller_address": "1 High Street\r\nLondon\r\n",
    "seller_tax_id": "GB123456789",
    "seller_email": "billing@example.com",
    "language": "de",
    "invoice_prefix": "INV-",
    "credit_note_prefix": "CN-",
    "catch_up": "all",
    "mails": "yes",
    "dunning_plan": "",
}
FAILED = "ModuleNotFoundError: No module named '<b>acme</b>'"


async def test_plugins_are_listed_with_what_they_bring_and_no_secret_of_a_vault(
    people: NewPerson, gateway: Gateway
) -> None:
    person = await people("developer")
    listed = (await person.get("/settings/plugins")).text
    for words in ("psp sandbox", "vault sandbox", "routes /admin", "Not enabled", "psp-stripe"):
        assert words in listed, words
    secrets = [value for value in gateway.settings.plugin["vault-sandbox"].values() if isinstance(value, str)]
    assert [one for one in ["vk_sandbox", *secrets] if one and one in listed] == []


@pytest.mark.usefixtures("sandboxes")
async def test_the_connection_of_a_vault_is_tested(people: NewPerson, gateway: Gateway) -> None:
    person = await people("admin")
    page, path = "/settings/plugins", "/settings/plugins/vaults/sandbox/check"
    assert path in (await person.get(page)).text
    assert "The vault takes these settings." in said(await followed(person, await person.post(path, page)))
    provider = gateway.vaults.get("sandbox")
    config = provider._config  # type: ignore[attr-defined]
    provider._config = msgspec.structs.replace(config, api_key="wrong")  # type: ignore[attr-defined]
    try:
        told = said(await followed(person, await person.post(path, page)))
    finally:
        provider._config = config  # type: ignore[attr-defined]
    assert "The vault could not be used with these settings. the vault refused: 401" in told
    assert (await person.post("/settings/plugins/vaults/elsewhere/check", page)).status_code == 404
    assert path not in (await (await people("auditor")).get(page)).text


async def test_a_plugin_that_is_not_enabled_shows_the_lines_that_would(people: NewPerson) -> None:
    shown = (await (await people("developer")).get("/settings/plugins/psp-stripe")).text
    assert "[plugins.enabled]" in shown
    assert "psp-stripe = &#34;&gt;=0.1" in shown
    assert "psp-sandbox = " in shown, "the table replaces the one before"
    assert "psp-stripe = " not in (await (await people("developer")).get("/settings/plugins/psp-sandbox")).text
    assert (await (await people("developer")).get("/settings/plugins/nothing")).status_code == 404


async def test_the_history_of_a_plugin_is_shown(people: NewPerson, gateway: Gateway) -> None:
    await plugin_log.seen(gateway.db, gateway.plugins, "web")
    shown = (await (await people("developer")).get("/settings/plugins/psp-sandbox")).text
    assert "began to run" in shown


def test_the_desk_says_what_failed_and_what_safe_mode_leaves_out(gateway: Gateway, settings: Settings) -> None:
    broken = Plugins()
    broken.loaded.append(LoadedPlugin("acme", "acme-dist", "1.0", problem=FAILED, wanted=">=1"))
    desk = PluginDesk(gateway.db, broken, settings.plugins)
    first = desk.all()[0]
    assert (first.name, first.state, first.problem) == ("acme", "failed", FAILED)
    safe = PluginDesk(gateway.db, Plugins(), msgspec.structs.replace(settings.plugins, safe_mode=True))
    states = {one.name: one.state for one in safe.all()}
    assert states["psp-sandbox"] == "safe_mode"
    assert states["psp-stripe"] == "available"


async def test_billing_is_changed_and_the_audit_trail_tells_what(people: NewPerson, client: httpx.AsyncClient) -> None:
    person = await people()
    assert (await person.post("/settings/tenant/billing", **BILLING)).status_code == 303
    shown = (await person.get("/settings/tenant")).text
    for words in ("Ada &amp; Sons", "1 High Street", "GB123456789", "Deutsch", "INV-", "charge all"):
        assert words in shown, words
    query = {"type": "tenant.billing_settings_updated"}
    entries = (await client.get("/v1/audit", params=query)).json()["data"]
    assert entries[0]["data"]["after"]["language"] == "de"
    assert entries[0]["data"]["before"]["language"] == "en"
    assert "Ada" not in str(entries), "a seller may be a person"
    assert (await person.post("/settings/tenant/billing", **BILLING)).status_code == 303
    assert len((await client.get("/v1/audit", params=query)).json()["data"]) == len(entries), "nothing changed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seller_email", "nobody"),
        ("invoice_prefix", "<b>"),
        ("language", "tlh"),
        ("catch_up", "none"),
        ("dunning_plan", "dun_nope"),
        ("seller_address", "\n".join("123456789")),
    ],
)
async def test_what_is_wrong_stands_beside_its_field(people: NewPerson, name: str, value: str) -> None:
    person = await people("finance")
    answer = await person.post("/settings/tenant/billing", **(BILLING | {name: value}))
    assert answer.status_code == 422
    assert f'id="{name}-error"' in answer.text
    assert 'value="Ada &amp; Sons"' in answer.text
    assert "<b>" not in answer.text


async def test_the_tenant_page_tells_of_the_installation(people: NewPerson) -> None:
    shown = (await (await people("auditor")).get("/settings/tenant")).text
    assert "PostgreSQL" in shown
    assert "running" in shown
    assert "Change how you bill" not in shown
    assert (await (await people("auditor")).get("/settings/tenant/billing")).status_code == 403
    finance = await people("finance")
    assert (await finance.get("/settings/tenant/billing")).status_code == 200
    saved = await finance.post("/settings/tenant/billing", **BILLING)
    assert saved.headers["location"].endswith("/settings/tenant/billing")


@pytest.mark.parametrize(
    ("locale", "words"),
    [("de_AT", "PSP-Konten"), ("fr", "Comptes PSP"), ("es", "Cuentas de PSP")],
    ids=["de", "fr", "es"],
)
async def test_the_pages_speak_the_persons_language(
    people: NewPerson, gateway: Gateway, locale: str, words: str
) -> None:
    person = await people()
    await gateway.operators.change(person.operator, locale=locale)
    for path in ("psps", "psps/new/sandbox", "plugins", "webhooks/new", "api-keys/new", "people/roles", "tenant"):
        assert words in (await person.get(f"/settings/{path}")).text, path


async def test_a_tenant_is_renamed_and_the_trail_has_both_names(people: NewPerson, shop: Shop) -> None:
    person = await people("admin")
    before = (await shop.http.get("/v1/tenant")).json()
    page = "/settings/tenant/name"
    for wrong in ("", " " * 4, "x" * 201, "two\nlines"):
        answer = await person.post(page, page, name=wrong)
        assert (answer.status_code, "on one line" in answer.text) == (422, True), wrong
    shown = await followed(person, await person.post(page, page, name=" Ada <i>& Sons "))
    assert "Ada &lt;i&gt;&amp; Sons" in shown
    await followed(person, await person.post(page, page, name="Ada <i>& Sons"))
    assert (await shop.http.get("/v1/tenant")).json() == before | {"name": "Ada <i>& Sons"}
    (told,) = (await shop.http.get("/v1/audit", params={"type": "tenant.renamed"})).json()["data"]
    assert told["data"] == {"before": {"name": before["name"]}, "after": {"name": "Ada <i>& Sons"}}
    assert f'href="/admin{page}"' not in (await (await people("auditor")).get("/settings/tenant")).text


async def test_finance_finds_how_the_tenant_bills_in_the_menu_and_others_beside_the_tenant(people: NewPerson) -> None:
    for role, path in {"finance": "/settings/tenant/billing", "owner": "/settings/tenant"}.items():
        text = (await (await people(role)).get("/profile")).text
        menu = text[text.index("<nav") : text.index("</nav>")]
        assert re.findall(r'href="/admin(/settings/tenant[^"]*)"', menu) == [path], role
