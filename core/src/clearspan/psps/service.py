"""PSP accounts: which accounts a tenant has, and an open adapter for each.

An adapter instance belongs to one account and one version of its settings and has its own HTTP pool, so a PSP that
hangs only exhausts its own connections.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Mapping
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from clearspan.journal import service as journal
from clearspan.platform import clock, crypto, ids, outbound
from clearspan.platform.addresses import Guard
from clearspan.platform.context import Caller, Scope
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.orm import violated
from clearspan.platform.plugins import Plugins
from clearspan.platform.problems import DomainError, InvalidRequest
from clearspan.platform.telemetry import Metrics
from clearspan.psps.calls import Observation, observe
from clearspan.psps.schemas import PspAccountCreate, PspAccountOut, PspAccountUpdate
from clearspan.routing.service import Candidate
from clearspan.sdk import CardSource, Money, NotFound, Outcome, PspAdapter, PspContext, PspFacts
from clearspan.settings import PaymentSettings
from clearspan.tenants.service import Tenants
from clearspan.vaults.service import Vaults

log = structlog.get_logger("clearspan.psps")
CACHE_S = 5.0
_COLUMNS = "psp_account_id, live, psp, name, priority, status, config_version, sequence, created_at, updated_at"


class AccountNotFound(DomainError):
    """No such PSP account of this tenant in this mode."""

    code = "psp_account_not_found"
    status = 404
    title = "No such PSP account"
    advice = "Check the id, and that the key is of the same tenant and mode (test or live)."


class UnknownPsp(DomainError):
    """No loaded plugin brings this PSP."""

    code = "unknown_psp"
    status = 422
    title = "No enabled plugin brings this PSP"


class AccountNameTaken(DomainError):
    """The name is in use in this mode."""

    code = "psp_account_name_taken"
    status = 409
    title = "There is a PSP account of this name"
    advice = "Choose another name, or change the existing account."


class SendingMethod(msgspec.Struct, frozen=True):
    """The card to charge, by reference."""

    vault: str
    vault_token: str
    network_transaction_id: str | None = None


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """What SQL hands over for sending an operation."""

    account_id: UUID
    psp: str
    account: str
    config_version: int
    config: str
    method: SendingMethod | None = None
    charge_ref: str | None = None
    webhook_token: str | None = None


class OpenPsp(msgspec.Struct, frozen=True):
    """An adapter, ready for one operation."""

    adapter: PspAdapter
    facts: PspFacts
    name: str
    card: CardSource | None
    timeout_s: float
    metrics: Metrics

    def key(self, stored: str) -> str:
        """The stored key, cut to what the PSP takes."""
        return stored[: self.facts.idempotency.max_len]

    def source(self) -> CardSource:
        """The card of a charge."""
        assert self.card is not None, "a charge has a payment method"
        return self.card

    async def observe(
        self, call: Awaitable[Outcome | NotFound], asked: Money, verb: str, source: str = "response"
    ) -> Observation:
        """Await a verb within its budget."""
        return await observe(
            call, asked=asked, psp=self.name, verb=verb, timeout_s=self.timeout_s, metrics=self.metrics, source=source
        )


class PspAccounts:
    """The accounts of all tenants, and the adapters of those in use."""

    def __init__(
        self,
        db: Database,
        tenants: Tenants,
        plugins: Plugins,
        vaults: Vaults,
        settings: PaymentSettings,
        metrics: Metrics,
        guard: Guard,
    ) -> None:
        self._db = db
        self._tenants = tenants
        self._plugins = plugins
        self._vaults = vaults
        self._settings = settings
        self._metrics = metrics
        self._guard = guard
        self._adapters: dict[tuple[UUID, int, str | None], tuple[PspAdapter, PspContext]] = {}
        self._making = asyncio.Lock()
        self._known: dict[Scope, tuple[float, list[PspAccountOut]]] = {}

    # -- configuration --------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: PspAccountCreate) -> Answer:
        """Add an account; its settings are checked against the adapter's and sealed.

        Raises:
            UnknownPsp, InvalidRequest, AccountNameTaken.
        """
        self._check_config(body.psp, body.config)
        account_id, now = clock.new_uuid(), clock.now()
        sealed = await self._seal(caller.scope, account_id, body.config)

        async def work(session: Any) -> Answer:
            row = (
                await session.execute(
                    text(
                        "INSERT INTO psp_accounts (tenant_id, live, psp_account_id, psp, name, priority, config, created_at,"  # noqa: S608
                        f" updated_at) VALUES (:tenant, :live, :id, :psp, :name, :priority, :config, :now, :now) RETURNING {_COLUMNS}"  # noqa: E501
                    ),
                    {
                        "tenant": caller.scope.tenant_id,
                        "live": caller.scope.live,
                        "id": account_id,
                        "psp": body.psp,
                        "name": body.name,
                        "priority": body.priority,
                        "config": sealed,
                        "now": now,
                    },
                )
            ).one()
            await journal.record(
                session,
                caller,
                type="psp_account.created",
                subject_type="psp_account",
                subject_id=account_id,
                sequence=1,
                data={"psp": body.psp, "name": body.name},
            )
            return Answer(201, msgspec.json.encode(PspAccountOut.of(row)))

        try:
            answer = await once(self._db, caller.scope, key, work)
        except IntegrityError as error:
            if violated(error) == "psp_accounts_tenant_id_live_name_key":
                raise AccountNameTaken from error
            raise
        self._known.pop(caller.scope, None)
        return answer

    async def all(self, scope: Scope) -> list[PspAccountOut]:
        """All accounts of one mode, by priority."""
        async with self._db.begin(scope) as session:
            rows = await session.execute(
                text(
                    f"SELECT {_COLUMNS} FROM psp_accounts WHERE tenant_id = :tenant AND live = :live ORDER BY priority, name"  # noqa: S608
                ),
                {"tenant": scope.tenant_id, "live": scope.live},
            )
            return [PspAccountOut.of(row) for row in rows]

    async def get(self, scope: Scope, account_id: str) -> PspAccountOut:
        """One account.

        Raises:
            AccountNotFound.
        """
        for account in await self.all(scope):
            if account.id == account_id:
                return account
        raise AccountNotFound

    async def update(self, caller: Caller, account_id: str, body: PspAccountUpdate) -> PspAccountOut:
        """Change priority, status or settings.

        Raises:
            AccountNotFound, InvalidRequest.
        """
        account = await self.get(caller.scope, account_id)
        identity = ids.decode("acct", account_id)
        sealed = None
        if body.config is not None:
            self._check_config(account.psp, body.config)
            sealed = await self._seal(caller.scope, identity, body.config)
        async with self._db.begin(caller.scope) as session:
            row = (
                await session.execute(
                    text(
                        "UPDATE psp_accounts SET priority = COALESCE(:priority, priority), status = COALESCE(:status, status),"  # noqa: S608
                        " config = COALESCE(:config, config), updated_at = :now, sequence = sequence + 1,"
                        " config_version = config_version + CASE WHEN CAST(:config AS bytea) IS NULL THEN 0 ELSE 1 END"
                        f" WHERE tenant_id = :tenant AND live = :live AND psp_account_id = :id RETURNING {_COLUMNS}"
                    ),
                    {
                        "priority": body.priority,
                        "status": body.status,
                        "config": sealed,
                        "now": clock.now(),
                        "tenant": caller.scope.tenant_id,
                        "live": caller.scope.live,
                        "id": identity,
                    },
                )
            ).one()
            changed = [name for name in ("priority", "status", "config") if getattr(body, name) is not None]
            await journal.record(
                session,
                caller,
                type="psp_account.updated",
                subject_type="psp_account",
                subject_id=identity,
                sequence=row.sequence,
                data={"changed": changed, "status": row.status, "priority": row.priority},
            )
        self._known.pop(caller.scope, None)
        return PspAccountOut.of(row)

    # -- use ------------------------------------------------------------------------------------------------------

    async def candidates(self, scope: Scope, *, fresh: bool = False) -> list[Candidate]:
        """Enabled accounts whose plugin is loaded; at most ``CACHE_S`` old (reserving checks again under the transaction)."""
        if fresh:
            self._known.pop(scope, None)
        return [
            Candidate(ids.decode("acct", one.id), one.name, one.psp, one.priority, self._plugins.psps[one.psp].facts)
            for one in await self._remembered(scope)
            if one.status == "enabled" and one.psp in self._plugins.psps
        ]

    async def names(
        self, scope: Scope, needed: UUID | None = None, *, fresh: bool = False
    ) -> dict[UUID, tuple[str, str]]:
        """Account id -> (PSP, account name); asks again when ``fresh``, or when ``needed`` is not among those remembered."""
        names = {ids.decode("acct", one.id): (one.psp, one.name) for one in await self._remembered(scope)}
        if fresh or (needed is not None and needed not in names):
            self._known.pop(scope, None)
            names = {ids.decode("acct", one.id): (one.psp, one.name) for one in await self._remembered(scope)}
        return names

    async def open(self, scope: Scope, sending: Sending) -> OpenPsp:
        """The adapter of an account with its settings and the card's placeholders.

        Raises:
            UnknownPsp: the plugin is not loaded any more.
        """
        kind = self._plugins.psps.get(sending.psp)
        if kind is None:
            raise UnknownPsp(f"The plugin that brings '{sending.psp}' is not enabled; enable it to go on.")
        vault = sending.method.vault if sending.method is not None else None
        place = (sending.account_id, sending.config_version, vault)
        known = self._adapters.get(place)
        if known is None:
            async with self._making:  # One adapter per account: a second one would leave a pool nobody closes.
                known = self._adapters.get(place) or await self._make(scope, sending, kind, vault)
                self._adapters[place] = known
        return OpenPsp(
            adapter=known[0],
            facts=kind.facts,
            name=sending.psp,
            card=self._card(sending.method),
            timeout_s=self._settings.psp_timeout_s,
            metrics=self._metrics,
        )

    async def close(self) -> None:
        """Close every HTTP pool."""
        for _, context in self._adapters.values():
            await context.http.aclose()
            await context.vault_http.aclose()
        self._adapters.clear()

    async def _make(
        self, scope: Scope, sending: Sending, kind: type[PspAdapter], vault: str | None
    ) -> tuple[PspAdapter, PspContext]:
        key = await self._tenants.data_key(scope.tenant_id)
        plain = crypto.open_(key, base64.b64decode(sending.config), _place(scope, sending.account_id))
        config = msgspec.json.decode(plain, type=kind.config_type, strict=False)
        connect, total = self._settings.psp_connect_timeout_s, self._settings.psp_timeout_s
        provider = self._vaults.get(vault) if vault is not None else None
        context = PspContext(
            http=outbound.client(connect, total, guard=self._guard),
            vault_http=outbound.client(connect, total, vault=provider, guard=self._guard),
        )
        return kind(config, context), context

    def _card(self, method: SendingMethod | None) -> CardSource | None:
        if method is None:
            return None
        vault = self._vaults.get(method.vault)
        return CardSource(
            token=method.vault_token,
            number=vault.placeholder(method.vault_token, "number"),
            exp_month=vault.placeholder(method.vault_token, "exp_month"),
            exp_year=vault.placeholder(method.vault_token, "exp_year"),
            cvc=vault.placeholder(method.vault_token, "cvc"),
            network_transaction_id=method.network_transaction_id,
        )

    async def _remembered(self, scope: Scope) -> list[PspAccountOut]:
        known = self._known.get(scope)
        if known is not None and known[0] > clock.monotonic():
            return known[1]
        accounts = await self.all(scope)
        self._known[scope] = (clock.monotonic() + CACHE_S, accounts)
        return accounts

    def _check_config(self, psp: str, config: Mapping[str, Any]) -> None:
        kind = self._plugins.psps.get(psp)
        if kind is None:
            known = ", ".join(sorted(self._plugins.psps)) or "none"
            raise UnknownPsp(f"No enabled plugin brings a PSP named '{psp}'. There are: {known}.")
        try:
            msgspec.convert(dict(config), type=kind.config_type, strict=True)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"config: {error}", errors=[{"path": "$.config", "message": str(error)}]) from None

    async def _seal(self, scope: Scope, account_id: UUID, config: Mapping[str, Any]) -> bytes:
        key = await self._tenants.data_key(scope.tenant_id)
        return crypto.seal(key, msgspec.json.encode(dict(config)), _place(scope, account_id))


def _place(scope: Scope, account_id: UUID) -> str:
    return f"{scope.tenant_id}/{'live' if scope.live else 'test'}/psp_accounts/config/{account_id}"
