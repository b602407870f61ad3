"""Tenants are found by id and slug only, and what is sealed for one opens for nobody else."""

from __future__ import annotations

import asyncpg
import pytest

from clearspan.platform import clock
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import KeyProblem, MasterKey
from clearspan.platform.db import Database
from clearspan.platform.problems import NotFound
from clearspan.tenants.errors import SlugTaken, TenantInvalid
from clearspan.tenants.service import Tenants


def fresh_slug() -> str:
    return f"t-{clock.random_bytes(8).hex()}"


async def test_a_new_tenant_is_found_by_id_and_by_slug(tenants: Tenants) -> None:
    slug = fresh_slug()
    made = await tenants.create(slug, "Café Müller")
    for found in (await tenants.get(made.tenant_id), await tenants.by_slug(slug)):
        assert (found.tenant_id, found.slug, found.name, found.status) == (
            made.tenant_id,
            slug,
            "Café Müller",
            "active",
        )
    assert made.tenant_id in {tenant.tenant_id for tenant in await tenants.all()}


async def test_the_list_has_every_tenant_by_slug(tenants: Tenants, tenant: Caller, other_tenant: Caller) -> None:
    slugs = [each.slug for each in await tenants.all()]
    assert slugs == sorted(slugs)
    assert {tenant.tenant, other_tenant.tenant} <= set(slugs)


async def test_making_a_tenant_is_journalled_without_its_name(
    tenants: Tenants, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    slug = fresh_slug()
    made = await tenants.create(slug, "Private Person")
    entries = await superuser.fetch("SELECT * FROM journal WHERE tenant_id = $1", made.tenant_id)
    assert [(entry["type"], entry["subject_id"], entry["live"], entry["actor_type"]) for entry in entries] == [
        ("tenant.created", made.tenant_id, True, "cli")
    ]
    assert "Private" not in str(entries)


@pytest.mark.parametrize(
    ("slug", "name"),
    [
        ("ab", "short"),
        ("Acme", "capitals"),
        ("1acme", "digit first"),
        ("acme-", "dash last"),
        ("a" * 41, "long"),
        ("acme shop", "space"),
        ("acme\n", "line end"),
        ("acme", ""),
        ("acme", "n" * 201),
    ],
)
async def test_a_slug_or_name_against_the_rules_is_refused(tenants: Tenants, slug: str, name: str) -> None:
    with pytest.raises(TenantInvalid):
        await tenants.create(slug, name)


async def test_a_slug_is_given_once_and_the_second_leaves_nothing(
    tenants: Tenants, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    slug = fresh_slug()
    await tenants.create(slug, "First")
    with pytest.raises(SlugTaken):
        await tenants.create(slug, "Second")
    assert await superuser.fetchval("SELECT array_agg(name) FROM tenants WHERE slug = $1", slug) == ["First"]


async def test_an_unknown_tenant_is_not_found(tenants: Tenants) -> None:
    with pytest.raises(NotFound):
        await tenants.get(clock.new_uuid())
    with pytest.raises(NotFound):
        await tenants.by_slug(fresh_slug())
    with pytest.raises(NotFound):
        await tenants.data_key(clock.new_uuid())


async def test_a_sealed_value_opens_only_in_its_place(tenants: Tenants, tenant: Caller, other_tenant: Caller) -> None:
    row, other_row = clock.new_uuid(), clock.new_uuid()
    scope, live = tenant.scope, Scope(tenant_id=tenant.scope.tenant_id, live=True)
    sealed = await tenants.seal(scope, "psp_accounts", "config", row, b"secret")
    assert b"secret" not in sealed
    assert await tenants.open(scope, "psp_accounts", "config", row, sealed) == b"secret"
    for elsewhere in (
        (scope, "psp_accounts", "config", other_row),
        (scope, "psp_accounts", "notes", row),
        (scope, "customers", "config", row),
        (live, "psp_accounts", "config", row),
        (other_tenant.scope, "psp_accounts", "config", row),
    ):
        with pytest.raises(KeyProblem):
            await tenants.open(*elsewhere, sealed)
    with pytest.raises(KeyProblem):
        await tenants.open(scope, "psp_accounts", "config", row, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(KeyProblem):
        await tenants.open(scope, "psp_accounts", "config", row, b"")


async def test_each_tenant_and_purpose_has_a_key_of_its_own(
    tenants: Tenants, tenant: Caller, other_tenant: Caller
) -> None:
    one, other = tenant.scope.tenant_id, other_tenant.scope.tenant_id
    keys = {
        await tenants.data_key(one),
        await tenants.data_key(other),
        await tenants.derive(one, "a"),
        await tenants.derive(one, "b"),
        await tenants.derive(other, "a"),
    }
    assert len(keys) == 5
    assert await tenants.derive(one, "a") == await tenants.derive(one, "a")


async def test_another_master_key_opens_no_data_key(db: Database, tenant: Caller) -> None:
    stranger = Tenants(db, MasterKey(bytes(32)))
    with pytest.raises(KeyProblem):
        await stranger.data_key(tenant.scope.tenant_id)


async def test_the_database_holds_no_data_key_in_clear(
    tenants: Tenants, tenant: Caller, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    stored = await superuser.fetchval("SELECT data_key FROM tenants WHERE tenant_id = $1", tenant.scope.tenant_id)
    assert await tenants.data_key(tenant.scope.tenant_id) not in stored


async def test_only_the_last_thousand_data_keys_are_remembered(
    db: Database, master: MasterKey, tenant: Caller, other_tenant: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearspan.tenants.service._KEYS_MAX", 1)
    small = Tenants(db, master)
    first = await small.data_key(tenant.scope.tenant_id)
    await small.data_key(other_tenant.scope.tenant_id)
    assert list(small._data_keys) == [other_tenant.scope.tenant_id]
    assert await small.data_key(tenant.scope.tenant_id) == first
