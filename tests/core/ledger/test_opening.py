"""Payments from before the ledger open it with what they stand at, and the owner that migrates is no superuser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from advanced_alchemy.alembic.commands import AlembicCommands
from advanced_alchemy.extensions.litestar import AlembicAsyncConfig, SQLAlchemyAsyncConfig
from tests.conftest import PASSWORD, connected
from tests.factories import Row, insert, tenant_row

from clearspan import migrations
from clearspan.ledger import service as ledger
from clearspan.platform import clock, schema
from clearspan.platform.context import Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Urls


def role_of(url: str) -> str:
    return (urlsplit(url).username or "").strip()


@pytest.fixture
async def old(urls: Urls) -> AsyncIterator[Urls]:
    """A database as the first release left it."""
    name = f"cs_old_{clock.random_bytes(4).hex()}"
    async with connected(urls.superuser) as connection:
        await connection.execute(f"CREATE DATABASE {name} OWNER {role_of(urls.owner)}")
    made = type(urls)(
        *(urlunsplit(urlsplit(url)._replace(path=f"/{name}")) for url in (urls.superuser, urls.owner, urls.app))
    )

    def upgrade() -> None:
        token = migrations.app_role.set(role_of(urls.app))
        script = AlembicAsyncConfig(
            script_location=str(next(iter(migrations.__path__))), version_table_name=schema.VERSION_TABLE
        )
        config = SQLAlchemyAsyncConfig(
            connection_string=made.owner.replace("postgresql://", "postgresql+asyncpg://", 1), alembic_config=script
        )
        AlembicCommands(sqlalchemy_config=config).upgrade("0001")
        migrations.app_role.reset(token)

    await asyncio.to_thread(upgrade)
    yield made
    async with connected(urls.superuser) as connection:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def payment(scope: Scope, account: Any, **totals: Any) -> Row:
    now = clock.now()
    return {
        "tenant_id": scope.tenant_id,
        "live": scope.live,
        "payment_id": clock.new_uuid(),
        "amount_minor": 1000,
        "currency": "EUR",
        "capture_method": "automatic",
        "customer_present": True,
        "psp_account_id": account,
        "created_at": now,
        "updated_at": now,
        "expires_at": now,
        "status": "succeeded",
    } | totals


async def test_what_was_there_opens_the_ledger_and_agrees_with_it(
    old: Urls, master: MasterKey, settings: Settings
) -> None:
    scopes: list[Scope] = []
    async with connected(old.superuser) as connection:
        for _ in range(2):
            tenant = tenant_row(master)
            await insert(connection, "tenants", tenant)
            for live in (False, True):
                scope = Scope(tenant_id=tenant["tenant_id"], live=live)
                scopes.append(scope)
                place = {"tenant_id": scope.tenant_id, "live": live}
                now, account = clock.now(), clock.new_uuid()
                fields = {"psp": "p", "name": "a", "config": b"", "created_at": now, "updated_at": now}
                await insert(connection, "psp_accounts", place | {"psp_account_id": account} | fields)
                taken = {"authorized_minor": 1000, "captured_minor": 700, "voided_minor": 300, "refunded_minor": 50}
                for totals in (
                    {"status": "requires_confirmation"},
                    {"authorized_minor": 1000, "captured_minor": 1000, "currency": "USD"},
                    {"authorized_minor": 1000, "capture_method": "manual", "status": "requires_capture"},
                    taken | {"capture_method": "manual", "status": "partially_captured"},
                    {"surplus_minor": 1000, "status": "requires_payment_method"},
                    {"surplus_minor": 1000, "status": "requires_payment_method", "capture_method": "manual"},
                ):
                    row = payment(scope, account, **totals)
                    await insert(connection, "payment_intents", row)
                    if "surplus_minor" in totals:
                        late = clock.new_uuid()
                        kind = "authorize" if row["capture_method"] == "manual" else "purchase"
                        given = {
                            "payment_id": row["payment_id"],
                            "operation_id": late,
                            "kind": kind,
                            "state": "surplus",
                        }
                        moments = dict.fromkeys(("created_at", "sent_at", "decided_at", "updated_at"), now)
                        money = {
                            "amount_minor": 1000,
                            "currency": "EUR",
                            "psp_account_id": account,
                            "psp_key": late.hex,
                        }
                        await insert(connection, "operations", place | given | money | moments)

    await asyncio.to_thread(schema.migrate, old.owner, app_role=role_of(old.app), app_password=PASSWORD)

    db = Database(old.app, settings.database)
    await db.open()
    try:
        for scope in scopes:
            assert [one async for one in ledger.differences(db, scope)] == []
            found = (await ledger.balances(db, scope)).data
            assert {(one.currency, one.account): one.balance_minor for one in found} == {
                ("USD", "captured"): -1000,
                ("USD", "in_transit"): 1000,
                ("EUR", "authorized"): 1000 + 1000,
                ("EUR", "payer_commitment"): -1000 - 300,
                ("EUR", "released"): 300,
                ("EUR", "in_transit"): 650 + 1000,
                ("EUR", "captured"): -700,
                ("EUR", "refunded"): 50,
                ("EUR", "surplus"): -2000,
            }
    finally:
        await db.close()
