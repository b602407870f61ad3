"""Balances and entries over the API: what stands where, and how it came there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.core.payments.conftest import psp_url, shop

from clearspan.ledger import service as ledger
from clearspan.ledger.service import EntryQuery
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.db import Database
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewClient, NewMerchant, Urls
    from tests.shop import Shop

__all__ = ["psp_url", "shop"]


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def paid(shop: Shop) -> dict[str, Any]:
    """A payment of 10.99, of which the PSP keeps 1.4 % and 0.25, and of which 0.99 was given back."""
    payment = await shop.paid(1099)
    refund = await shop.post(f"/v1/payments/{payment['id']}/refunds", {"amount_minor": 99})
    assert refund.status_code == 201, refund.text
    return payment


async def test_balances_sum_to_zero_and_say_what_the_psp_owes(client: httpx.AsyncClient, paid: dict[str, Any]) -> None:
    answer = await get(client, "/v1/ledger/balances")
    stands = {(one["currency"], one["account"]): one["balance_minor"] for one in answer["data"]}
    assert stands == {
        ("EUR", "captured"): -1099,
        ("EUR", "refunded"): 99,
        ("EUR", "fees"): 40,
        ("EUR", "in_transit"): 960,
    }


async def test_balances_of_a_currency_of_an_account_and_of_the_past(
    client: httpx.AsyncClient, paid: dict[str, Any]
) -> None:
    accounts = {each["id"] for each in (await get(client, "/v1/psp-accounts"))["data"]}
    (used,) = {one["psp_account"] for one in (await get(client, "/v1/ledger/entries"))["data"]}
    assert used in accounts
    assert len((await get(client, "/v1/ledger/balances", psp_account=used))["data"]) == 4
    for query in (
        {"currency": "JPY"},
        {"psp_account": (accounts - {used}).pop()},
        {"before": "2020-01-01T00:00:00Z"},
    ):
        assert (await get(client, "/v1/ledger/balances", **query))["data"] == [], query


async def test_entries_are_paged_newest_first_and_none_is_missed(
    client: httpx.AsyncClient, paid: dict[str, Any]
) -> None:
    everything = await get(client, "/v1/ledger/entries")
    assert (len(everything["data"]), everything["has_more"], everything["next_cursor"]) == (5, False, None)
    assert [one["kind"] for one in everything["data"]] == ["refund", "refund", "purchase", "purchase", "purchase"]
    assert {one["payment"] for one in everything["data"]} == {paid["id"]}
    pages, cursor = [], None
    for _ in range(5):
        page = await get(client, "/v1/ledger/entries", limit=1, **({"cursor": cursor} if cursor else {}))
        pages += page["data"]
        cursor = page["next_cursor"]
    assert pages == everything["data"]
    assert cursor is None


async def test_entries_by_payment_account_and_time(client: httpx.AsyncClient, paid: dict[str, Any], shop: Shop) -> None:
    other = await shop.paid(500)
    entries = (await get(client, "/v1/ledger/entries", payment=other["id"]))["data"]
    assert sorted((one["account"], one["amount_minor"]) for one in entries) == [
        ("captured", -500),
        ("fees", 32),
        ("in_transit", 468),
    ]
    assert len({one["transfer"] for one in entries}) == 1
    refunded = await get(client, "/v1/ledger/entries", account="refunded")
    assert [one["amount_minor"] for one in refunded["data"]] == [99]
    at = entries[0]["at"]
    assert len((await get(client, "/v1/ledger/entries", created_after=at))["data"]) == 3
    assert len((await get(client, "/v1/ledger/entries", created_before=at))["data"]) == 5


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("entries", {"cursor": "nonsense"}, 422, "invalid_request"),
        ("entries", {"cursor": "WyIyMDMwLTAxLTAxVDAwOjAwOjAwIiwiYSIsImIiXQ"}, 422, "invalid_request"),
        ("entries", {"account": "bank"}, 422, "invalid_request"),
        ("entries", {"created_after": "2030-01-01T00:00:00"}, 422, "invalid_request"),
        ("entries", {"payment": "pay_nonsense"}, 404, "invalid_id"),
        ("balances", {"currency": "euro"}, 422, "invalid_request"),
        ("balances", {"psp_account": "acct_nonsense"}, 404, "invalid_id"),
        ("balances", {"before": "2030-01-01T00:00:00"}, 422, "invalid_request"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    client: httpx.AsyncClient, path: str, query: dict[str, str], status: int, code: str
) -> None:
    answer = await client.get(f"/v1/ledger/{path}", params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_a_payment_of_somebody_else_has_no_entries(other_client: httpx.AsyncClient, paid: dict[str, Any]) -> None:
    for payment in (paid["id"], ids.encode("pay", clock.new_uuid())):
        assert (await get(other_client, "/v1/ledger/entries", payment=payment))["data"] == []


async def test_the_ledger_has_a_scope_of_its_own(new_client: NewClient, new_merchant: NewMerchant) -> None:
    for scope, status in (("ledger:read", 200), ("payments:read", 403)):
        client = await new_client(await new_merchant(scopes=frozenset({scope})))
        for path in ("balances", "entries"):
            assert (await client.get(f"/v1/ledger/{path}")).status_code == status


async def test_by_its_queries_alone_the_ledger_keeps_tenants_and_modes_apart(
    paid: dict[str, Any], merchant: Merchant, other_merchant: Merchant, urls: Urls, settings: Settings
) -> None:
    unbound = Database(urls.superuser, settings.database)
    await unbound.open()
    try:
        own = merchant.caller.scope
        assert len((await ledger.balances(unbound, own)).data) == 4
        for scope in (other_merchant.caller.scope, Scope(tenant_id=own.tenant_id, live=True)):
            assert (await ledger.balances(unbound, scope)).data == []
            assert (await ledger.entries(unbound, scope, EntryQuery(), limit=100, cursor=None)).data == []
            assert [one async for one in ledger.differences(unbound, scope)] == []
    finally:
        await unbound.close()
