"""A journal of its own with a sealer, for tests of the proof: they need the whole tree, which all tenants of a database share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import msgspec
from tests.factories import insert, tenant_row

from clearspan.journal.checkpoint import Checkpoint, SigningKey
from clearspan.journal.examine import Report, examine
from clearspan.journal.proofs import Proofs
from clearspan.journal.seal import Sealer
from clearspan.journal.service import record
from clearspan.platform import clock
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.telemetry import Metrics
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Urls

PATIENCE_S = 20


class Trail:
    """One database, two tenants in two modes, and the parts that prove what happened in it."""

    def __init__(self, urls: Urls, settings: Settings, master: MasterKey) -> None:
        self.urls = urls
        self.settings = msgspec.structs.replace(settings.audit, checkpoint_interval_s=0)
        self.db = Database(urls.app, settings.database)
        self.metrics = Metrics()
        self.key = SigningKey.of(master, "tests.example/log")
        self.proofs = Proofs(self.db, self.key, self.metrics, ())
        self.sealer = self.new_sealer()
        self.master = master
        self.scopes: list[Scope] = []
        self.superuser: asyncpg.Connection[asyncpg.Record]

    def new_sealer(self) -> Sealer:
        """As another worker would have it."""
        return Sealer(self.db, self.proofs, self.key, self.settings)

    async def happen(
        self, count: int = 1, scope: Scope | None = None, data: dict[str, Any] | None = None
    ) -> list[UUID]:
        """Events in transactions of a few, one after the other; below the horizon when it returns."""
        made: list[UUID] = []
        while len(made) < count:
            where = scope or self.scopes[len(made) % len(self.scopes)]
            async with self.db.begin(where) as session:
                for _ in range(min(3, count - len(made))):
                    caller = Caller(scope=where, actor_type="cli", actor_id="tests", request_id="req_tests")
                    body = {"amount_minor": len(made), "code": "é"} if data is None else data
                    made.append(
                        await record(session, caller, type="payment.captured", subject_type="payment",
                                     subject_id=clock.new_uuid(), sequence=1, data=body)
                    )  # fmt: skip
        await settle(self.db)
        return made

    async def seal(self) -> Checkpoint | None:
        """Seal all there is, and sign."""
        await self.sealer.seal()
        return await self.sealer.sign()

    async def examine(self, *held: str) -> Report:
        """As ``clearspan audit verify`` does, but as a superuser."""
        async with self.superuser.transaction(isolation="repeatable_read", readonly=True):
            return await examine(self.superuser, self.key, held)


@asynccontextmanager
async def new_trail(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Trail]:
    """On an empty database."""
    trail = Trail(urls, settings, master)
    await trail.db.open()
    trail.superuser = await asyncpg.connect(trail.urls.superuser, server_settings={"timezone": "UTC"})
    try:
        for _ in range(2):
            tenant = tenant_row(master)
            await insert(trail.superuser, "tenants", tenant)
            trail.scopes += [Scope(tenant_id=tenant["tenant_id"], live=live) for live in (False, True)]
        yield trail
    finally:
        await trail.superuser.close()
        await trail.db.close()


async def settle(db: Database) -> None:
    """Wait until everything committed so far is below the horizon."""
    async with asyncio.timeout(PATIENCE_S):
        mine = int(await db.fetch_text("SELECT pg_current_xact_id()::text"))
        while int(await db.fetch_text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")) <= mine:
            await clock.sleep(0.005)
