"""No tenant and no mode ever sees, changes or even notices another's rows: by the catalogue, by raw SQL and over every route.

These tests are generated: from the tables there are and from the routes there are. A new table or route is tested without a line
here, or fails until ``tests/factories.py`` has a row for it or ``OBJECTS`` an object.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import httpx
import msgspec
import pytest
from sqlalchemy import text
from tests.conftest import NewClient, Route, lifespan, routes_of
from tests.core.journal.trail import settle
from tests.factories import billing_rows, insert, membership_row, rows, tenant_row

from clearspan.app import create_app
from clearspan.journal.seal import Sealer
from clearspan.platform import clock, ids
from clearspan.platform.context import Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.problems import DomainError
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import NewMerchant, Urls

    from clearspan.app import Gateway
    from clearspan.platform.gate import AsgiApp

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

VERSION_TABLE = "clearspan_version"
KEYS_WITHOUT_TENANT = {"tenants_slug_key"}
"""The directory by which a tenant is found."""
DOORS = {
    "tenant_by_slug", "tenants_all", "api_keys_by_prefix", "due_work", "journal_tail", "inbox_account", "inbox_backlog",
    "webhook_work",
}  # fmt: skip
"""Every function that sees all tenants. Whoever adds one here has read what it gives to whom."""
DOORS |= {"seal_next", "seal_append", "checkpoint_add", "push_next", "push_done"}
"""The sealer's: one tree over the journal of all tenants. Only seal_next gives rows, and only the worker calls it."""
DOORS |= {"audit_nodes", "audit_state", "audit_checkpoints"}
"""Hashes, the tree's size and what was signed: the same for everybody, and nothing of a row."""
DOORS |= {"plugins_seen", "plugins_history"}
"""Which plugins ran: names and versions, nothing of a tenant's."""
DOORS |= {"api_key_by_id", "operator_session_open", "oauth_refresh_add", "oauth_refresh_use", "oauth_session_end"}
"""What stands behind an access token: each takes an id that only a signed token tells, or the hash of a refresh token, and gives
that one key, yes or no, or that one session's ids and scopes."""
DOORS |= {
    "operator_find", "operator_add", "operator_change", "operator_totp_use", "operator_recovery_use", "operators_count",
    "operators_of_tenant", "operator_session_add", "operator_session_find", "operator_session_change", "operator_sessions_end",
    "operator_sessions_of", "operator_link_add", "operator_link_find", "sign_in_try",
    "sign_in_done", "operator_session_owner", "operator_invitations", "operator_invitation_end",
}  # fmt: skip
"""What signs people in: each takes what one step knows (an address, a hash, an id) and gives that one person, never a list; but
operators_of_tenant and operator_invitations, which list members and open invitations of the tenant that is entered."""
INSTALLATION_WIDE = ("plugin_log", "journal_leaves", "journal_nodes", "checkpoints", "checkpoint_pushes")
INSTALLATION_WIDE += ("operators", "operator_sessions", "operator_links", "sign_in_tries", "oauth_refresh_tokens")
"""People, who may be members of many tenants; the log of plugins, which run for all tenants; the tables of that tree. There is
one, as a checkpoint covers whatever is in it: neither table nor key is cut by tenant. In return the application has no right on
them but to read a tenant's own leaves."""

TABLES = f"""
    SELECT c.oid, c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'live') AS has_mode
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND c.relname <> ALL ('{{{",".join((VERSION_TABLE, *INSTALLATION_WIDE))}}}')
    ORDER BY c.relname
"""


# -- The catalogue --------------------------------------------------------------------------------------------------------------


async def test_row_security_is_forced_on_every_table(superuser: Connection) -> None:
    tables = await superuser.fetch(TABLES)
    assert len(tables) >= 11
    assert [table["name"] for table in tables if not (table["enabled"] and table["forced"])] == []


async def test_on_the_tables_of_the_tree_the_application_may_read_own_leaves_and_nothing_else(
    superuser: Connection, urls: Urls
) -> None:
    app = role_of(urls.app)
    for name in INSTALLATION_WIDE:
        table = await superuser.fetchrow(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = $1", name
        )
        assert table is not None, name
        assert list(table.values()) == [True, True], name
        given = {
            verb
            for verb in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
            if await superuser.fetchval("SELECT has_table_privilege($1, $2, $3)", app, name, verb)
        }
        assert given == ({"SELECT"} if name == "journal_leaves" else set()), name
        policies = await superuser.fetch(
            "SELECT pg_get_expr(polqual, polrelid) AS qual FROM pg_policy WHERE polrelid = $1::regclass"
            " AND (0 = ANY(polroles) OR $2::regrole = ANY(polroles))",
            *(name, app),
        )
        own = ["((tenant_id = app_tenant()) AND (live = app_live()))"] if name == "journal_leaves" else []
        assert [policy["qual"] for policy in policies] == own, name


async def test_of_the_leaves_each_tenant_and_mode_sees_its_own(world: World, gateway: Gateway, app: AsgiApp) -> None:
    await sealed(gateway)
    for scope in world.stored:
        async with world.db.pool.acquire() as connection, connection.transaction():
            await enter(connection, scope)
            leaves = await connection.fetch("SELECT tenant_id, live FROM journal_leaves")
        assert [(leaf["tenant_id"], leaf["live"]) for leaf in leaves] == [(scope.tenant_id, scope.live)]
    assert await world.db.pool.fetchval("SELECT count(*) FROM journal_leaves") == 0


async def sealed(gateway: Gateway) -> None:
    """Everything that happened is in the tree, and signed, as the worker does it."""
    await settle(gateway.db)
    settings = msgspec.structs.replace(gateway.settings.audit, checkpoint_interval_s=0)
    sealer = Sealer(gateway.db, gateway.proofs, gateway.audit_key, settings)
    await sealer.seal()
    await sealer.sign()


async def test_every_policy_that_binds_the_application_names_tenant_and_mode(superuser: Connection, urls: Urls) -> None:
    for table in await superuser.fetch(TABLES):
        policies = await superuser.fetch(
            "SELECT polname, polcmd, polpermissive, pg_get_expr(polqual, polrelid) AS qual,"
            " pg_get_expr(polwithcheck, polrelid) AS checked FROM pg_policy"
            " WHERE polrelid = $1 AND (0 = ANY(polroles) OR $2::regrole = ANY(polroles))",
            table["oid"],
            role_of(urls.app),
        )
        assert policies, f"{table['name']} has no policy"
        for policy in policies:
            expected = "(tenant_id = app_tenant())"
            if table["has_mode"]:
                expected = f"({expected} AND (live = app_live()))"
            assert policy["qual"] == expected, table["name"]
            # Without a check of its own, a policy's condition holds for what is written as well.
            assert policy["checked"] in (None, expected), table["name"]


async def test_every_unique_key_starts_with_tenant_and_mode(superuser: Connection) -> None:
    for table in await superuser.fetch(TABLES):
        keys = await superuser.fetch(
            "SELECT i.indexrelid::regclass::text AS name, array_agg(a.attname::text ORDER BY k.place) AS columns"
            " FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(number, place), pg_attribute a"
            " WHERE i.indrelid = $1 AND i.indisunique AND a.attrelid = i.indrelid AND a.attnum = k.number GROUP BY 1",
            table["oid"],
        )
        assert keys, f"{table['name']} has no primary key"
        start = ["tenant_id", "live"] if table["has_mode"] else ["tenant_id"]
        wrong = {key["name"] for key in keys if key["columns"][: len(start)] != start}
        assert wrong <= KEYS_WITHOUT_TENANT, table["name"]


async def test_every_foreign_key_starts_with_tenant_and_mode_on_both_sides(superuser: Connection) -> None:
    keys = await superuser.fetch(
        "SELECT c.conname, c.conrelid::regclass::text AS source, c.confrelid::regclass::text AS target,"
        " (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.conkey) WITH ORDINALITY AS k(number, place)"
        "  JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS here,"
        " (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.confkey) WITH ORDINALITY AS k(number, place)"
        "  JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number) AS there"
        " FROM pg_constraint c WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace"
    )
    assert len(keys) >= 18
    for key in keys:
        if key["source"] in INSTALLATION_WIDE:
            continue
        start = ["tenant_id"] if key["target"] == "tenants" else ["tenant_id", "live"]
        for columns in (key["here"], key["there"]):
            assert columns[: len(start)] == start, f"{key['source']}.{key['conname']}"


async def test_the_application_owns_nothing_and_cannot_bypass_row_security(superuser: Connection, urls: Urls) -> None:
    app = role_of(urls.app)
    role = await superuser.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", app)
    assert role is not None
    for power in ("rolsuper", "rolbypassrls", "rolcreatedb", "rolcreaterole", "rolreplication"):
        assert role[power] is False, power
    owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1::regrole AND deptype = 'o'"
    assert await superuser.fetchval(owned, app) == 0
    assert await superuser.fetchval("SELECT count(*) FROM pg_auth_members WHERE member = $1::regrole", app) == 0
    assert await superuser.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", app) is False
    for table in await superuser.fetch(TABLES):
        truncate = "SELECT has_table_privilege($1, $2::oid, 'TRUNCATE') OR has_table_privilege($1, $2::oid, 'TRIGGER')"
        assert await superuser.fetchval(truncate, app, table["oid"]) is False, table["name"]


async def test_only_reviewed_functions_see_all_tenants(superuser: Connection) -> None:
    functions = await superuser.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
    )
    assert {re.sub(r"_[0-9a-f]{8}$", "", function["proname"]) for function in functions} == DOORS
    for function in functions:
        assert "search_path=public, pg_temp" in (function["proconfig"] or ()), function["proname"]


# -- Raw SQL as the application -------------------------------------------------------------------------------------------------


class World(msgspec.Struct, frozen=True):
    """Rows in every table for two tenants in both modes, and the application's own connections to them.

    Attributes:
        db: one connection for each of the two doors, so that whatever one user leaves behind the next one finds.
        stored: what was inserted.
    """

    db: Database
    stored: dict[Scope, list[tuple[str, dict[str, Any]]]]

    async def execute(self, scope: Scope, statement: str, *arguments: Any) -> None:
        """One statement in a transaction of its own."""
        async with self.db.pool.acquire() as connection, connection.transaction():
            await enter(connection, scope)
            await connection.execute(statement, *arguments)

    async def insert(self, scope: Scope, table: str, row: Any) -> None:
        """One row, whosever it says it is."""
        async with self.db.pool.acquire() as connection, connection.transaction():
            await enter(connection, scope)
            await insert(connection, table, row)


@pytest.fixture(scope="module")
async def world(urls: Urls, settings: Settings, master: MasterKey) -> Any:
    """See ``World``."""
    narrow = msgspec.structs.replace(settings.database, pool_size=1, orm_pool_size=1)
    db = Database(urls.app, narrow)
    await db.open()
    stored: dict[Scope, list[tuple[str, dict[str, Any]]]] = {}
    for _ in range(2):
        tenant = tenant_row(master)
        for live in (False, True):
            scope = Scope(tenant_id=tenant["tenant_id"], live=live)
            async with db.pool.acquire() as connection, connection.transaction():
                await enter(connection, scope)
                if not live:
                    await insert(connection, "tenants", tenant)
                    await insert(connection, "memberships", membership_row(scope.tenant_id))
                stored[scope] = [(table, dict(row)) for table, row in rows(scope)]
                for table, row in stored[scope]:
                    await insert(connection, table, row)
    yield World(db, stored)
    await db.close()


async def test_every_table_has_rows_to_be_kept_apart(world: World, superuser: Connection) -> None:
    names = {table["name"] for table in await superuser.fetch(TABLES)}
    for scope, stored in world.stored.items():
        without = {"tenants", "memberships"} | ({"test_clocks"} if scope.live else set())
        assert {table for table, _ in stored} == names - without


async def test_a_select_without_a_condition_gives_own_rows_only(world: World, superuser: Connection) -> None:
    for table in await superuser.fetch(TABLES):
        for scope, stored in world.stored.items():
            async with world.db.pool.acquire() as connection, connection.transaction():
                await enter(connection, scope)
                seen = await connection.fetch(f"SELECT * FROM {table['name']}")
            own = sum(name == table["name"] for name, _ in stored) if table["has_mode"] else 1
            assert len(seen) == own, table["name"]
            assert {row["tenant_id"] for row in seen} == ({scope.tenant_id} if own else set()), table["name"]
            if table["has_mode"] and own:
                assert {row["live"] for row in seen} == {scope.live}, table["name"]


async def test_without_a_tenant_or_a_mode_there_are_no_rows(world: World, superuser: Connection) -> None:
    scope = next(iter(world.stored))
    settings = [
        {},
        {"app.tenant": str(scope.tenant_id)},
        {"app.live": "t"},
        {"app.tenant": "", "app.live": ""},
        {"app.system": "on"},
    ]
    for table in await superuser.fetch(TABLES):
        for given in settings:
            if not table["has_mode"] and "app.live" not in given and given.get("app.tenant"):
                continue  # A tenant has no mode.
            async with world.db.pool.acquire() as connection, connection.transaction():
                for name, value in given.items():
                    await connection.execute("SELECT set_config($1, $2, true)", name, value)
                seen = await connection.fetchval(f"SELECT count(*) FROM {table['name']}")
                assert seen == 0, f"{table['name']} with {given}"


async def test_nothing_is_left_on_a_connection_after_an_error(world: World, superuser: Connection) -> None:
    tables = [table["name"] for table in await superuser.fetch(TABLES)]
    everything = " + ".join(f"(SELECT count(*) FROM {name})" for name in tables)

    async def visible() -> tuple[int, int]:
        async with world.db.begin(None) as session:
            by_session = (await session.execute(text(f"SELECT {everything}"))).scalar_one()
        return by_session, await world.db.pool.fetchval(f"SELECT {everything}")

    async def look_and_fail(scope: Scope) -> None:
        async with world.db.begin(scope) as session:
            assert (await session.execute(text(f"SELECT {everything}"))).scalar_one() > len(tables)
            raise ZeroDivisionError

    for scope in world.stored:
        document = {
            "tenant_id": scope.tenant_id,
            "live": scope.live,
            "now": clock.now(),
            "actor_type": "api_key",
            "key_id": scope.tenant_id,
        }
        with pytest.raises(DomainError):
            await world.db.call("payment_close", document)
        assert await visible() == (0, 0)
        with pytest.raises(ZeroDivisionError):
            await look_and_fail(scope)
        assert await visible() == (0, 0)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await world.execute(scope, "SELECT 1 / 0")
        assert await visible() == (0, 0)


async def test_rows_of_others_can_be_neither_written_nor_taken_over(
    world: World, urls: Urls, superuser: Connection
) -> None:
    app = role_of(urls.app)
    for scope in world.stored:
        for stranger in world.stored:
            if stranger == scope:
                continue
            for table, row in rows(stranger):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                    await world.insert(scope, table, row)
                own = any(name == table for name, _ in world.stored[scope])
                if own and await superuser.fetchval("SELECT has_table_privilege($1, $2, 'UPDATE')", app, table):
                    taken = f"UPDATE {table} SET tenant_id = $1, live = $2"
                    with pytest.raises(asyncpg.PostgresError, match=r"row-level security|does not change"):
                        await world.execute(scope, taken, stranger.tenant_id, stranger.live)


async def test_a_change_without_a_condition_touches_own_rows_only(
    world: World, urls: Urls, superuser: Connection
) -> None:
    app = role_of(urls.app)
    for table in await superuser.fetch(TABLES):
        for verb, statement in (("UPDATE", "UPDATE {} SET tenant_id = tenant_id"), ("DELETE", "DELETE FROM {}")):
            if not await superuser.fetchval("SELECT has_table_privilege($1, $2::oid, $3)", app, table["oid"], verb):
                continue
            for scope, stored in world.stored.items():
                async with world.db.pool.acquire() as connection:
                    undone = connection.transaction()
                    await undone.start()
                    await enter(connection, scope)
                    done = await connection.execute(statement.format(table["name"]))
                    await undone.rollback()
                own = sum(name == table["name"] for name, _ in stored) if table["has_mode"] else 1
                assert done == f"{verb} {own}", table["name"]


async def test_a_row_cannot_point_at_another_tenants_or_modes_row(world: World) -> None:
    """Constraint checks see past row security, so a key without the tenant would tell that a foreign row exists."""
    for scope in world.stored:
        for stranger in world.stored:
            if stranger == scope:
                continue
            customer = next(row["customer_id"] for table, row in world.stored[stranger] if table == "customers")
            method = next(dict(row) for table, row in rows(scope) if table == "payment_methods") | {
                "customer_id": customer
            }
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await world.insert(scope, "payment_methods", method)


def role_of(url: str) -> str:
    return url.split("//")[1].split(":", maxsplit=1)[0]


async def enter(connection: Any, scope: Scope) -> None:
    await connection.execute(
        "SELECT set_config('app.tenant', $1, true), set_config('app.live', $2, true)",
        str(scope.tenant_id),
        "t" if scope.live else "f",
    )


# -- Every route ----------------------------------------------------------------------------------------------------------------

OBJECTS = {
    "payment_id": "pay",
    "refund_id": "re",
    "operation_id": "op",
    "dispute_id": "dp",
    "customer_id": "cus",
    "method_id": "pm",
    "account_id": "acct",
    "event_id": "evt",
    "webhook_id": "whi",
    "key_id": "key",
    "endpoint_id": "we",
    "delivery_id": "wd",
    "invoice_id": "inv",
    "dunning_plan_id": "dun",
    "credit_note_id": "cn",
    "mandate_id": "man",
    "clock_id": "tc",
    "plan_id": "plan",
    "coupon_id": "cpn",
    "subscription_id": "sub",
    "operator_id": "opr",
}
"""What a parameter in a path names, with its prefix."""
OF_BOTH_MODES = {"operator_id"}
"""What belongs to a tenant and to neither of its modes: to the key of the other mode it is not a stranger's."""
LIVE_KEYS_ONLY = {"/v1/operators/{operator_id}"}
"""What a key of test mode may read and not change."""
NAME_NO_OBJECT = {"/docs/static/{name}", "/openapi/{path}", "/webhooks/{token}"}
NAME_NO_OBJECT |= {f"/pay/{{token}}{path}" for path in ("", "/card", "/return", "/pdf")}
NAME_NO_OBJECT |= {"/capture/{sealed}", "/capture/assets/{name}"}
"""Public paths with a parameter that is no id: the same for everybody, or a secret (tests/core/psps/test_receiving.py,
tests/core/invoices/test_pay_page.py)."""
ASKS_THE_PSP = {"/v1/psp-accounts/{account_id}/settlements"}
"""What the sandbox has not; tests/core/psps/test_settlements.py asks as the owner."""
BODIES: dict[str, Any] = {
    "/v1/mandates/{mandate_id}/revoke": {"because": "merchant"},
    "/v1/operators/{operator_id}": {"role": "support"},
    "/v1/mandates/{mandate_id}/verify": {"return_url": "https://shop.example/thanks"},
    "/v1/test-clocks/{clock_id}/advance": {"to": "2027-06-01T00:00:00Z"},
    "/v1/psp-webhooks/{webhook_id}/dismiss": {"reason": "a test of the PSP's"},
    "/v1/rebills/{invoice_id}/stop": {"reason": "asked by phone"},
    "/v1/dunning-plans/{dunning_plan_id}/versions": {"plan": {}},
    "/v1/invoices/{invoice_id}/credit-notes": {"amount_minor": 1, "settled_by": "reduction", "reason": "late"},
    "/v1/payments/{payment_id}/release-surplus": {"reason": "seen on the statement"},
    "/v1/subscriptions/{subscription_id}/preview": {"items": [{"plan": "plan_01h455vb4pex5vsknk084sn02q"}]},
    "/v1/subscriptions/{subscription_id}/change": {"items": [{"plan": "plan_01h455vb4pex5vsknk084sn02q"}]},
    "/v1/payments/{payment_id}/operations/{operation_id}/decision": {
        "outcome": "declined",
        "reason": "seen on the statement",
    },
}
"""What a POST needs to be read at all; the others take an empty object."""
TEST_MODE_ONLY = {"clock_id"}
"""What does not exist in live mode."""
ENDLESS = {"/v1/events/stream"}
"""Lists that do not end."""


async def made_over_the_api(
    client: httpx.AsyncClient, settings: Settings, scope: Scope, superuser: Connection
) -> dict[str, str]:
    """One object of each kind, in the mode of the client's key; what only a PSP can cause is made in SQL."""

    async def post(path: str, body: dict[str, Any]) -> str:
        answer = await client.post(path, json=body, headers={"Idempotency-Key": clock.new_uuid().hex})
        assert answer.status_code in (200, 201), f"{path}: {answer.text}"
        return str(answer.json()["id"])

    config = {"url": settings.plugin["psp-sandbox"]["url"], "api_key": "sk_sandbox_alpha"}
    account = await post("/v1/psp-accounts", {"psp": "sandbox", "name": "alpha", "config": config})
    customer = await post("/v1/customers", {"name": "Ada", "email": "ada@example.com"})
    method = await post("/v1/payment-methods", {"token": "tok_visa", "customer": customer})
    charge = {"amount_minor": 1099, "currency": "EUR", "payment_method": method, "customer": customer, "confirm": True}
    payment = await post("/v1/payments", charge)
    refund = await post(f"/v1/payments/{payment}/refunds", {"amount_minor": 99})
    lines = [{"description": "Hour", "unit_amount_minor": 1200}]
    invoice = await post("/v1/invoices", {"customer": customer, "currency": "EUR", "lines": lines})
    await post(f"/v1/invoices/{invoice}/open", {})
    note = {"amount_minor": 100, "settled_by": "reduction", "reason": "late"}
    credit_note = await post(f"/v1/invoices/{invoice}/credit-notes", note)
    agreed = {"customer": customer, "payment_method": method, "purpose": "recurring", "text_version": "2026-01"}
    mandate = await post("/v1/mandates", agreed)
    test_clock = await post("/v1/test-clocks", {"name": "A year", "now_at": "2027-01-01T00:00:00Z"})
    key = await post("/v1/api-keys", {"name": "second", "scopes": ["payments:read"]})
    operation = (await client.get(f"/v1/payments/{payment}")).json()["operations"][0]["id"]
    dispute = next(row for table, row in rows(scope) if table == "disputes") | {
        "payment_id": ids.decode("pay", payment),
        "operation_id": ids.decode("op", operation),
        "psp_account_id": ids.decode("acct", account),
    }
    await insert(superuser, "disputes", dispute)
    message = next(row for table, row in rows(scope) if table == "webhook_inbox") | {
        "psp_account_id": ids.decode("acct", account)
    }
    await insert(superuser, "webhook_inbox", message)
    plan = await post("/v1/plans", {"name": "Basic", "amounts": {"EUR": 900}, "interval": {"unit": "month"}})
    coupon = await post("/v1/coupons", {"code": "SPRING", "name": "Spring", "percent_bp": 1000, "duration": "once"})
    subscription = await post("/v1/subscriptions", {"customer": customer, "items": [{"plan": plan}]})
    events = (await client.get("/v1/events")).json()["data"]
    nobody = {"url": "http://127.0.0.1:9/hook", "events": ["payment.*"]}
    endpoint = await post("/v1/webhook-endpoints", nobody)
    delivery = await post(f"/v1/webhook-endpoints/{endpoint}/test", {})
    dunning_plan = await post("/v1/dunning-plans", {"name": "Patient"})
    invoice = await invoice_in_sql(superuser, scope, customer, method, account, payment, operation)
    return {
        "invoice_id": invoice,
        "dunning_plan_id": dunning_plan,
        "payment_id": payment,
        "refund_id": refund,
        "operation_id": operation,
        "dispute_id": ids.encode("dp", dispute["dispute_id"]),
        "customer_id": customer,
        "method_id": method,
        "account_id": account,
        "webhook_id": ids.encode("whi", message["inbox_id"]),
        "event_id": events[0]["id"],
        "key_id": key,
        "endpoint_id": endpoint,
        "delivery_id": delivery,
        "credit_note_id": credit_note,
        "mandate_id": mandate,
        "clock_id": test_clock,
        "plan_id": plan,
        "coupon_id": coupon,
        "subscription_id": subscription,
        "operator_id": await operator_in_sql(superuser, scope),
    }


async def operator_in_sql(superuser: Connection, scope: Scope) -> str:
    """A member of the tenant; returns their id."""
    membership = membership_row(scope.tenant_id)
    person = {"operator_id": membership["operator_id"], "name": "Ada", "created_at": clock.now()}
    await insert(superuser, "operators", person | {"email": f"{membership['operator_id'].hex}@example.com"})
    await insert(superuser, "memberships", membership)
    return ids.encode("opr", membership["operator_id"])


async def invoice_in_sql(
    superuser: Connection, scope: Scope, customer: str, method: str, account: str, payment: str, operation: str
) -> str:
    """An invoice of a subscription with its rebill; returns its id."""
    names = [(customer, "cus"), (method, "pm"), (account, "acct"), (payment, "pay"), (operation, "op")]
    made: dict[str, Any] = {}
    for table, row in billing_rows(scope, *(ids.decode(prefix, name) for name, prefix in names)):
        if table in ("mandates", "plans", "subscriptions", "subscription_items", "invoices", "rebills", "rebill_tries"):
            await insert(superuser, table, {"tenant_id": scope.tenant_id, "live": scope.live, **row})
            made |= row
    return ids.encode("inv", made["invoice_id"])


async def made_in_sql(scope: Scope, superuser: Connection) -> dict[str, str]:
    """The same, without a PSP."""
    found: dict[str, Any] = {}
    async with superuser.transaction():
        for table, row in rows(scope):
            if table != "customer_pii":  # What it would hold is not really sealed.
                await insert(superuser, table, row)
            found |= {f"{table}.{column}": value for column, value in row.items()}
    return {
        "payment_id": ids.encode("pay", found["payment_intents.payment_id"]),
        "refund_id": ids.encode("re", found["operations.operation_id"]),  # The last one.
        "operation_id": ids.encode("op", found["operations.operation_id"]),
        "dispute_id": ids.encode("dp", found["disputes.dispute_id"]),
        "customer_id": ids.encode("cus", found["customers.customer_id"]),
        "method_id": ids.encode("pm", found["payment_methods.payment_method_id"]),
        "account_id": ids.encode("acct", found["psp_accounts.psp_account_id"]),
        "webhook_id": ids.encode("whi", found["webhook_inbox.inbox_id"]),
        "event_id": ids.encode("evt", found["journal.event_id"]),
        "key_id": ids.encode("key", found["api_keys.key_id"]),
        "invoice_id": ids.encode("inv", found["invoices.invoice_id"]),
        "dunning_plan_id": ids.encode("dun", found["dunning_plans.dunning_plan_id"]),
        "endpoint_id": ids.encode("we", found["webhook_endpoints.webhook_endpoint_id"]),
        "delivery_id": ids.encode("wd", found["webhook_deliveries.delivery_id"]),
        "credit_note_id": ids.encode("cn", found["credit_notes.credit_note_id"]),
        "mandate_id": ids.encode("man", found["mandates.mandate_id"]),
        "plan_id": ids.encode("plan", found["plans.plan_id"]),
        "coupon_id": ids.encode("cpn", found["coupons.coupon_id"]),
        "subscription_id": ids.encode("sub", found["subscriptions.subscription_id"]),
        "operator_id": await operator_in_sql(superuser, scope),
    }


async def ask(client: httpx.AsyncClient, route: Route, objects: dict[str, str]) -> httpx.Response:
    headers = {"Idempotency-Key": clock.new_uuid().hex, "Content-Type": "application/json"}
    body = None if route.method == "GET" else msgspec.json.encode(BODIES.get(route.template, {}))
    return await client.request(route.method, route.template.format(**objects), headers=headers, content=body)


@pytest.fixture(params=["both walls", "queries alone"])
async def walls(
    request: pytest.FixtureRequest, app: AsgiApp, gateway: Gateway, urls: Urls, master: MasterKey
) -> AsyncIterator[AsgiApp]:
    """The application as it is; and connected as a superuser, whom row security does not bind: queries name the tenant too."""
    if request.param == "both walls":
        yield app
        return
    application = create_app(type(gateway)(gateway.settings, urls.superuser, master, gateway.plugins))
    async with lifespan(application):
        yield application


class Neighbour(msgspec.Struct, frozen=True):
    """A tenant in one mode, with one object of each kind, and the clients of everybody else."""

    client: httpx.AsyncClient
    objects: dict[str, str]
    strangers: list[httpx.AsyncClient]
    """The first one is the same tenant in the other mode."""

    def strangers_to(self, names: Collection[str]) -> list[httpx.AsyncClient]:
        """Those to whom objects of these names do not exist."""
        return self.strangers[1:] if OF_BOTH_MODES & set(names) else self.strangers


@pytest.fixture
async def neighbours(
    walls: AsgiApp,
    app: AsgiApp,
    gateway: Gateway,
    new_merchant: NewMerchant,
    settings: Settings,
    superuser: Connection,
    sandboxes: None,
) -> AsyncIterator[list[Neighbour]]:
    """Test mode of one tenant, with objects made over the API, and its live mode, with objects made in SQL."""
    async with AsyncExitStack() as stack:
        new_client = NewClient(walls, stack)
        test = await new_merchant()
        live = await new_merchant(live=True, of=test)
        other = await new_merchant()
        other_live = await new_merchant(live=True, of=other)
        clients = [await new_client(each) for each in (test, live, other, other_live)]
        found = [
            Neighbour(
                clients[0], await made_over_the_api(clients[0], settings, test.caller.scope, superuser), clients[1:]
            ),
            Neighbour(clients[1], await made_in_sql(live.caller.scope, superuser), [clients[0], *clients[2:]]),
        ]
        await sealed(gateway)
        yield found


async def test_on_every_route_the_ids_of_others_do_not_exist(walls: AsgiApp, neighbours: list[Neighbour]) -> None:
    nobody = {name: ids.encode(prefix, clock.new_uuid()) for name, prefix in OBJECTS.items()}
    routes = [route for route in routes_of(walls) if route.names and route.template not in NAME_NO_OBJECT]
    assert len(routes) >= 18
    wrong = []
    for route in routes:
        assert set(route.names) <= OBJECTS.keys(), f"{route.template}: say in OBJECTS what it names, and make one"
        for neighbour in neighbours:
            if not set(route.names) <= neighbour.objects.keys():
                assert set(route.names) - neighbour.objects.keys() <= TEST_MODE_ONLY
                continue
            for stranger in neighbour.strangers_to(route.names):
                answer = await ask(stranger, route, neighbour.objects)
                unknown = await ask(stranger, route, nobody)
                if answer.status_code != 404 or not answer.json()["code"].endswith("not_found"):
                    wrong.append(f"{route}: a stranger got {answer.status_code} {answer.text}")
                elif alike(answer) != alike(unknown):
                    wrong.append(f"{route}: {alike(answer)} differs from {alike(unknown)} for an id of nobody")
            if route.method == "GET" and route.template not in ASKS_THE_PSP:
                own = await ask(neighbour.client, route, neighbour.objects)
                if own.status_code != 200:
                    wrong.append(f"{route}: the owner got {own.status_code} {own.text}")
    assert wrong == []
    # The owner, last, as this changes and deletes: had a path been wrong above, it would be here as well.
    for route in routes:
        if route.method != "GET":
            answer = await ask(neighbours[0].client, route, neighbours[0].objects)
            if route.template in LIVE_KEYS_ONLY:
                assert (answer.status_code, answer.json()["code"]) == (403, "live_key_required"), route
                continue
            assert answer.status_code in (200, 201, 202, 409, 422), f"{route}: {answer.text}"


async def test_no_list_shows_what_belongs_to_others(walls: AsgiApp, neighbours: list[Neighbour]) -> None:
    lists = [route for route in routes_of(walls) if route.method == "GET" and not route.names]
    lists = [route for route in lists if route.template.startswith("/v1/") and route.template not in ENDLESS]
    assert len(lists) >= 9
    for neighbour in neighbours:
        mine = set(neighbour.objects.values())
        shown = ""
        for route in lists:
            shown += (await ask(neighbour.client, route, {})).text
            for stranger in neighbour.strangers:
                text = (await ask(stranger, route, {})).text
                hidden = {one for name, one in neighbour.objects.items() if stranger in neighbour.strangers_to([name])}
                assert [each for each in hidden if each in text] == [], route
        assert [each for each in mine if each not in shown] == [], "the owner finds everything in some list"


def alike(answer: httpx.Response) -> dict[str, Any]:
    """An answer without what differs from request to request."""
    return {"headers": set(answer.headers)} | {
        name: value for name, value in answer.json().items() if name not in ("request_id", "detail")
    }
