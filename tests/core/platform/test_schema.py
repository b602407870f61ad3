"""Bringing a database to this release: what is refused, what may be repeated, and how the journal goes on after a restore."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from tests.conftest import Urls, connected

from clearspan.platform import clock, schema, sqlbundle
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.schema import SchemaError

PASSWORD = "of-the-tests-only"


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser's URL of a server whose settings a test may spoil."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("careless") / "postgres") as server:
        yield server.superuser_url


async def set_and_reload(url: str, setting: str) -> None:
    async with connected(url) as connection:
        await connection.execute(setting)
        await connection.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_can_lose_committed_payments_is_refused(careless: str, setting: str) -> None:
    await set_and_reload(careless, f"ALTER SYSTEM SET {setting} = off")
    try:
        async with connected(careless) as connection:
            while await connection.fetchval(f"SHOW {setting}") == "on":
                await clock.sleep(0.01)
            with pytest.raises(SchemaError, match=f"{setting}=off and can lose committed payments: turn it on"):
                await schema.check_server(connection)
    finally:
        await set_and_reload(careless, f"ALTER SYSTEM RESET {setting}")


async def test_a_server_that_is_too_old_is_refused(careless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_POSTGRES", 99)  # No older server is to be had; the rule is the same.
    async with connected(careless) as connection:
        with pytest.raises(SchemaError, match=r"PostgreSQL \d+ is too old: Clearspan needs 99 or newer"):
            await schema.check_server(connection)


async def test_migrating_again_changes_nothing(databases: Callable[[], Urls]) -> None:
    urls = await asyncio.to_thread(databases)
    role = urls.app.split("//")[1].split(":")[0]
    report = await asyncio.to_thread(schema.migrate, urls.owner, app_role=role, app_password=PASSWORD)
    assert report.revision_before == report.revision
    assert report.app_url == urls.app


async def test_two_migrations_at_once_take_turns(databases: Callable[[], Urls]) -> None:
    urls = await asyncio.to_thread(databases)
    role = urls.app.split("//")[1].split(":")[0]
    reports = await asyncio.gather(
        *(asyncio.to_thread(schema.migrate, urls.owner, app_role=role, app_password=PASSWORD) for _ in range(3))
    )
    assert len({report.revision for report in reports}) == 1


async def test_every_function_of_this_release_is_there_under_its_own_name(owner: asyncpg.Connection[Any]) -> None:
    rows = await owner.fetch("SELECT proname FROM pg_proc WHERE proname LIKE '%' || $1", f"_{sqlbundle.version()}")
    names = {row["proname"] for row in rows}
    assert {
        sqlbundle.name(one) for one in ("payment_open", "operation_open", "operation_settle", "payment_list")
    } <= names


async def test_functions_of_another_release_stay_when_this_one_is_installed(databases: Callable[[], Urls]) -> None:
    urls = await asyncio.to_thread(databases)
    role = urls.app.split("//")[1].split(":")[0]
    async with connected(urls.owner) as connection:
        await connection.execute("CREATE FUNCTION payment_open_0ld0ld00(p jsonb) RETURNS jsonb LANGUAGE sql RETURN p")
        await asyncio.to_thread(schema.migrate, urls.owner, app_role=role, app_password=PASSWORD)
        assert await connection.fetchval("SELECT payment_open_0ld0ld00('{}')") == "{}"


async def test_after_a_restore_into_a_younger_cluster_the_journal_goes_on_in_a_new_epoch(
    databases: Callable[[], Urls],
) -> None:
    urls = await asyncio.to_thread(databases)
    role = urls.app.split("//")[1].split(":")[0]
    insert = (
        "INSERT INTO journal (tenant_id, live, {columns}event_id, type, subject_type, subject_id, sequence, actor_type, actor_id,"
        " request_id, data, at) VALUES ($1, false, {values}gen_random_uuid(), 'payment.created', 'payment', $1, $2, 'cli',"
        " 'test', 'req_test', '{{}}', '2026-01-01T00:00:00Z')"
    )
    tenant = clock.new_uuid()
    async with connected(urls.superuser) as connection:
        await connection.execute(
            "INSERT INTO tenants (tenant_id, slug, name, data_key, created_at) VALUES ($1, 'restored', 'R', '', now())",
            tenant,
        )
        # Written by a transaction of the old cluster, which counted further than this one.
        await connection.execute(insert.format(columns="xid, ", values="'900000000', "), tenant, 1)
        await asyncio.to_thread(schema.migrate, urls.owner, app_role=role, app_password=PASSWORD)
        await connection.execute(insert.format(columns="", values=""), tenant, 2)
        rows = await connection.fetch("SELECT epoch, sequence FROM journal ORDER BY epoch, xid, seq")
        assert [(row["epoch"], row["sequence"]) for row in rows] == [(1, 1), (2, 2)]
        await asyncio.to_thread(schema.migrate, urls.owner, app_role=role, app_password=PASSWORD)
        assert await connection.fetchval("SELECT journal_epoch()") == 2


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    url = "postgresql://owner:geheim-geheim@127.0.0.1:1/clearspan"
    with pytest.raises(SchemaError) as refusal:
        await asyncio.to_thread(schema.migrate, url, app_role="app", app_password="p")
    assert "owner@127.0.0.1:1" in str(refusal.value)
    assert "geheim" not in str(refusal.value)
