"""Tenants and their keys.

Each tenant has a data key, wrapped by the installation's master key. Secrets of a tenant are sealed with it, and each sealed
value is bound to its place, so that it opens nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from clearspan.journal import service as journal
from clearspan.platform import clock, crypto, ids, sqlbundle
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.orm import violated
from clearspan.platform.problems import NotFound
from clearspan.tenants.errors import SlugTaken, TenantInvalid
from clearspan.tenants.models import Tenant

_SLUG = re.compile(r"[a-z][a-z0-9-]{1,38}[a-z0-9]")
_NAME_MAX = 200
_NAME_RULE = "A tenant's name has 1 to 200 characters, on one line."
_KEYS_MAX = 1000


class Tenants:
    """See the module's docstring.

    ``data_key``, ``seal``, ``open`` and ``derive`` may read the database: call them before a transaction begins, not inside one.
    """

    def __init__(self, db: Database, master: MasterKey) -> None:
        self._db = db
        self._master = master
        self._data_keys: OrderedDict[UUID, bytes] = OrderedDict()

    async def create(self, slug: str, name: str) -> Tenant:
        """Make a tenant, on the command line's behalf. The journal tells it in live mode.

        Raises:
            TenantInvalid: the slug or the name breaks its rule.
            SlugTaken: another tenant has the slug.
        """
        if not _SLUG.fullmatch(slug) or not 1 <= len(name) <= _NAME_MAX:
            raise TenantInvalid
        tenant_id = clock.new_uuid()
        tenant = Tenant(
            tenant_id=tenant_id,
            slug=slug,
            name=name,
            status="active",
            data_key=self._master.new_data_key(str(tenant_id)),
            created_at=clock.now(),
        )
        caller = Caller(
            scope=Scope(tenant_id=tenant_id, live=True),
            actor_type="cli",
            actor_id="cli",
            request_id=ids.encode("req", clock.new_uuid()),
            tenant=slug,
        )
        try:
            async with self._db.begin(caller.scope) as session:
                session.add(tenant)
                await session.flush()
                await journal.record(
                    session,
                    caller,
                    type="tenant.created",
                    subject_type="tenant",
                    subject_id=tenant_id,
                    sequence=1,
                    customer_id=None,
                    data={"slug": slug},
                )
        except IntegrityError as error:
            if violated(error) == "tenants_slug_key":
                raise SlugTaken from None
            raise
        return tenant

    async def rename(self, caller: Caller, name: str) -> Tenant:
        """Give the caller's tenant another name; the slug stays, as keys and addresses go by it.

        Raises:
            TenantInvalid: the name breaks its rule.
        """
        if not 1 <= len(name) <= _NAME_MAX or not name.isprintable():
            raise TenantInvalid(_NAME_RULE)
        async with self._db.begin(caller.scope) as session:
            tenant = await session.get_one(Tenant, caller.scope.tenant_id, with_for_update=True)
            changed = journal.differing({"name": tenant.name}, {"name": name})
            if changed:
                tenant.name = name
                await journal.record(
                    session,
                    caller,
                    type="tenant.renamed",
                    subject_type="tenant",
                    subject_id=tenant.tenant_id,
                    sequence=0,
                    data=changed,
                )
        return tenant

    async def get(self, tenant_id: UUID) -> Tenant:
        """One tenant.

        Raises:
            NotFound: there is none.
        """
        # The policy of tenants looks at the tenant only; a mode has to be named all the same.
        async with self._db.begin(Scope(tenant_id=tenant_id, live=False)) as session:
            tenant = await session.get(Tenant, tenant_id)
        if tenant is None:
            raise NotFound("There is no such tenant.")
        return tenant

    async def by_slug(self, slug: str) -> Tenant:
        """One tenant, for whoever does not act for one yet.

        Raises:
            NotFound: there is none.
        """
        async with self._db.begin(None) as session:
            lookup = text(f"SELECT {sqlbundle.name('tenant_by_slug')}(:slug)")
            tenant_id: UUID | None = await session.scalar(lookup, {"slug": slug})
        if tenant_id is None:
            raise NotFound(f"There is no tenant {slug!r}.")
        return await self.get(tenant_id)

    async def all(self) -> Sequence[Tenant]:
        """Every tenant by slug, for operators of the installation."""
        everything = select(Tenant).from_statement(text(f"SELECT * FROM {sqlbundle.name('tenants_all')}()"))  # noqa: S608
        async with self._db.begin(None) as session:
            return (await session.scalars(everything)).all()

    async def data_key(self, tenant_id: UUID) -> bytes:
        """The tenant's data key, unwrapped; the last thousand are remembered.

        Raises:
            NotFound: there is no such tenant.
            KeyProblem: another master key wrapped it.
        """
        known = self._data_keys.get(tenant_id)
        if known is not None:
            self._data_keys.move_to_end(tenant_id)
            return known
        tenant = await self.get(tenant_id)
        key = self._master.unwrap(tenant.data_key, str(tenant_id))
        self._data_keys[tenant_id] = key
        if len(self._data_keys) > _KEYS_MAX:
            self._data_keys.popitem(last=False)
        return key

    async def seal(self, scope: Scope, table: str, column: str, row: UUID, plain: bytes) -> bytes:
        """Encrypt a value for one place under the tenant's data key."""
        return crypto.seal(await self.data_key(scope.tenant_id), plain, place(scope, table, column, row))

    async def open(self, scope: Scope, table: str, column: str, row: UUID, sealed: bytes) -> bytes:
        """Decrypt what ``seal`` made for this place.

        Raises:
            KeyProblem: it was sealed for another place or under another key.
        """
        return crypto.open_(await self.data_key(scope.tenant_id), sealed, place(scope, table, column, row))

    async def derive(self, tenant_id: UUID, purpose: str) -> bytes:
        """32 bytes of this tenant for one purpose."""
        return hmac.digest(await self.data_key(tenant_id), f"clearspan/{purpose}".encode(), hashlib.sha256)


def place(scope: Scope, table: str, column: str, row: UUID) -> str:
    """What a sealed value is bound to."""
    return f"{scope.tenant_id}/{'live' if scope.live else 'test'}/{table}/{column}/{row}"
