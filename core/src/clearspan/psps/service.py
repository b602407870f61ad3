"""PSP accounts: which accounts a tenant has, and an open adapter for each.

An adapter instance belongs to one account and one version of its settings and has its own HTTP pool, so a PSP that
hangs only exhausts its own connections.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from clearspan.journal import service as journal
from clearspan.platform import clock, crypto, ids, outbound
from clearspan.platform.addresses import Guard as AddressGuard
from clearspan.platform.context import Caller, Scope, system
from clearspan.platform.db import Database
from clearspan.platform.idempotency import Answer, IdempotencyKey, once
from clearspan.platform.orm import violated
from clearspan.platform.pan import mask_pan
from clearspan.platform.plugins import Plugins
from clearspan.platform.problems import DatabaseUnavailable, DomainError
from clearspan.platform.telemetry import Metrics
from clearspan.psps import settings as account_settings
from clearspan.psps.breaker import GROUPS, CallRefused, Change, Circuit, Guard, State
from clearspan.psps.calls import Observation, observe
from clearspan.psps.schemas import (
    CheckStatus,
    PspAccountCheck,
    PspAccountCreate,
    PspAccountOut,
    PspAccountUpdate,
    webhook_url,
)
from clearspan.psps.settings import Credentials
from clearspan.routing.service import Candidate
from clearspan.sdk import (
    Capability,
    CardSource,
    FormField,
    Money,
    NotFound,
    NotSupported,
    Outcome,
    OutcomeUnknown,
    PspAdapter,
    PspContext,
    PspFacts,
    PspMisconfigured,
    PspUnavailable,
    RedirectSource,
    Source,
    SourceKind,
    TokenSource,
    form_fields,
)
from clearspan.settings import Settings
from clearspan.tenants.service import Tenants
from clearspan.vaults.service import Vaults

log = structlog.get_logger("clearspan.psps")
CACHE_S = 5.0
FOLLOW_UPS = frozenset(
    {
        Capability.PARTIAL_CAPTURE,
        Capability.MULTIPLE_CAPTURE,
        Capability.VOID,
        Capability.REFUND,
        Capability.PARTIAL_REFUND,
    }
)
"""What may be asked of a charge that was made."""
_COLUMNS = (
    "psp_account_id, live, psp, name, priority, status, config_version, webhook_token, sequence, created_at, updated_at"
)
_EVENTS = {Change.OPENED: "psp_account.circuit_opened", Change.CLOSED: "psp_account.circuit_closed"}
_LEVELS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


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
    """What is charged, by reference; ``kind`` as ``SourceKind``."""

    kind: str = "card"
    vault: str | None = None
    vault_token: str | None = None
    network_transaction_id: str | None = None
    psp_token: str | None = None
    psp_method: str | None = None
    stored_token: str | None = None


class SendingCredential(msgspec.Struct, frozen=True):
    """The mandate of a charge, as it was when the charge was reserved."""

    mandate_id: UUID
    purpose: str
    first: bool
    network_transaction_id: str | None = None


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """What SQL hands over for sending an operation.

    Attributes:
        webhook_token: of the account's webhook address.
        recovering: the gateway finds out about it by itself; such calls pass an open circuit now and then.
    """

    account_id: UUID
    psp: str
    account: str
    config_version: int
    config: str
    method: SendingMethod | None = None
    credential: SendingCredential | None = None
    charge_ref: str | None = None
    webhook_token: str | None = None
    recovering: bool = False


class OpenPsp(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter, ready for one operation."""

    adapter: PspAdapter
    facts: PspFacts
    name: str
    account_id: UUID
    charged: Source | None
    timeout_s: float
    metrics: Metrics
    guard: Guard
    credentials: Credentials
    recovering: bool

    def key(self, stored: str) -> str:
        """The stored key, cut to what the PSP takes."""
        return stored[: self.facts.idempotency.max_len]

    def source(self) -> Source:
        """What a charge is paid with."""
        assert self.charged is not None, "a charge has a payment method"
        return self.charged

    async def observe(
        self, call: Coroutine[Any, Any, Outcome | NotFound], asked: Money, verb: str, source: str = "response"
    ) -> Observation:
        """Await a verb within its budget. A call that the account's guard refuses has not begun: nothing was sent."""
        try:
            admitted = self.guard.begin(verb, recovering=self.recovering or source == "lookup")
        except CallRefused as refused:
            call.close()
            account, group = ids.encode("acct", self.account_id), GROUPS.get(verb, verb)
            self.metrics.psp_calls_rejected.labels(self.name, account, group, refused.code).inc()
            return Observation(observed="not_sent", source=source, code=refused.code, message=str(refused))
        failed, retry_after_s = None, None
        try:
            observation = await observe(
                call,
                asked=asked,
                psp=self.name,
                verb=verb,
                timeout_s=self.timeout_s,
                metrics=self.metrics,
                source=source,
            )
            failed, retry_after_s = observation.failed, observation.retry_after_s
            if observation.code == "psp_misconfigured":
                self.credentials.refused(verb, observation.message or "")
            elif observation.observed not in ("unknown", "not_sent"):
                self.credentials.taken(verb)
            return observation
        finally:
            self.guard.end(admitted, failed, retry_after_s)


class KnownSettings(msgspec.Struct, frozen=True):
    """What a form may show of an account's settings.

    Attributes:
        values: those that are no secrets, by name.
        secrets: names of the secrets that are set.
    """

    values: dict[str, Any]
    secrets: frozenset[str]


class PspAccounts:
    """The accounts of all tenants, and the adapters of those in use."""

    def __init__(
        self,
        db: Database,
        tenants: Tenants,
        plugins: Plugins,
        vaults: Vaults,
        settings: Settings,
        metrics: Metrics,
        addresses: AddressGuard,
    ) -> None:
        self._db = db
        self._tenants = tenants
        self._plugins = plugins
        self._vaults = vaults
        self._settings = settings.payments
        self._rotation_overlap = timedelta(hours=settings.psps.webhook_rotation_overlap_h)
        self._public_url = settings.server.public_url
        self._rules = settings.psps
        self._metrics = metrics
        self._guards: dict[UUID, Guard] = {}
        self._credentials: dict[UUID, Credentials] = {}
        self.renewed: list[Callable[[Scope, UUID], Awaitable[None]]] = []
        """Asked to try an account again, whose settings were changed or found to work."""
        self._telling: set[asyncio.Task[None]] = set()
        self._addresses = addresses
        self._adapters: dict[tuple[UUID, int, str | None], tuple[PspAdapter, PspContext]] = {}
        self._making = asyncio.Lock()
        self._known: dict[Scope, tuple[float, list[PspAccountOut]]] = {}

    # -- configuration --------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, key: IdempotencyKey | None, body: PspAccountCreate) -> Answer:
        """Add an account; its settings are checked against the adapter's and sealed.

        Raises:
            UnknownPsp, InvalidRequest, AccountNameTaken.
        """
        self._check_config(caller.scope, body.psp, body.config)
        account_id, now = clock.new_uuid(), clock.now()
        sealed = await self._seal(caller.scope, account_id, body.config)

        async def work(session: Any) -> Answer:
            row = (
                await session.execute(
                    text(
                        "INSERT INTO psp_accounts (tenant_id, live, psp_account_id, psp, name, priority, config, webhook_token,"  # noqa: S608
                        " created_at, updated_at)"
                        f" VALUES (:tenant, :live, :id, :psp, :name, :priority, :config, :token, :now, :now) RETURNING {_COLUMNS}"
                    ),
                    {
                        "tenant": caller.scope.tenant_id,
                        "live": caller.scope.live,
                        "id": account_id,
                        "psp": body.psp,
                        "name": body.name,
                        "priority": body.priority,
                        "config": sealed,
                        "token": _new_token(),
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
                data={"psp": body.psp, "name": body.name, "settings": sorted(body.config)},
            )
            return Answer(201, msgspec.json.encode(PspAccountOut.of(row, self._public_url)))

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
            return [self._with_health(PspAccountOut.of(row, self._public_url)) for row in rows]

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

        Webhooks signed with the secret of the former settings are believed for ``psps.webhook_rotation_overlap_h`` more.

        Raises:
            AccountNotFound, InvalidRequest.
        """
        account = await self.get(caller.scope, account_id)
        identity = ids.decode("acct", account_id)
        sealed, settings = None, None
        if body.config is not None:
            self._check_config(caller.scope, account.psp, body.config)
            sealed = await self._seal(caller.scope, identity, body.config)
            before = msgspec.json.decode(await self._plain(caller.scope, identity))
            settings = account_settings.changed_names(before, body.config)
        now = clock.now()
        async with self._db.begin(caller.scope) as session:
            row = (
                await session.execute(
                    text(
                        "UPDATE psp_accounts SET priority = COALESCE(:priority, priority), status = COALESCE(:status, status),"  # noqa: S608
                        " config = COALESCE(:config, config), updated_at = :now, sequence = sequence + 1,"
                        " config_version = config_version + CASE WHEN CAST(:config AS bytea) IS NULL THEN 0 ELSE 1 END,"
                        " previous_config = CASE WHEN CAST(:config AS bytea) IS NULL THEN previous_config ELSE config END,"
                        " previous_until = CASE WHEN CAST(:config AS bytea) IS NULL THEN previous_until"
                        " ELSE CAST(:until AS timestamptz) END"
                        f" WHERE tenant_id = :tenant AND live = :live AND psp_account_id = :id RETURNING {_COLUMNS}"
                    ),
                    {
                        "priority": body.priority,
                        "status": body.status,
                        "config": sealed,
                        "until": now + self._rotation_overlap,
                        "now": now,
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
                data={"changed": changed, "status": row.status, "priority": row.priority}
                | journal.differing(
                    {"priority": account.priority, "status": account.status},
                    {"priority": row.priority, "status": row.status},
                )
                | ({} if settings is None else {"settings": settings}),
            )
        self._known.pop(caller.scope, None)
        if body.config is not None:
            await self._renew(caller.scope, identity)
        return self._with_health(PspAccountOut.of(row, self._public_url))

    async def known_settings(self, scope: Scope, account_id: str) -> KnownSettings:
        """An account's settings without its secrets, for the form that changes them.

        Raises:
            AccountNotFound, UnknownPsp.
        """
        account = await self.get(scope, account_id)
        fields = self._fields(account.psp)
        stored = msgspec.json.decode(await self._plain(scope, ids.decode("acct", account_id)))
        # By what the plugin says now: a setting that it does not know (any more) may be a secret.
        shown = {one.name: stored[one.name] for one in fields if one.type != "secret" and one.name in stored}
        return KnownSettings(
            shown, frozenset(one.name for one in fields if one.type == "secret" and stored.get(one.name))
        )

    async def revise(
        self, caller: Caller, account_id: str, given: Mapping[str, Any], keep: Collection[str], priority: int
    ) -> PspAccountOut:
        """``update`` for whoever does not know the secrets: those named in ``keep`` stay as they are.

        What is equal to what is stored is no change: the same version, and no second signing secret.

        Args:
            caller: who changes it.
            account_id: which account.
            given: the settings, all but those kept.
            keep: names of settings that stay.
            priority: lower is tried first.

        Raises:
            AccountNotFound, UnknownPsp, InvalidRequest.
        """
        account = await self.get(caller.scope, account_id)
        self._fields(account.psp)
        before = msgspec.json.decode(await self._plain(caller.scope, ids.decode("acct", account_id)))
        config = dict(given) | {name: before[name] for name in keep if name in before}
        return await self.update(
            caller,
            account_id,
            PspAccountUpdate(
                priority=priority if priority != account.priority else None,
                config=config if config != before else None,
            ),
        )

    def _fields(self, psp: str) -> list[FormField]:
        kind = self._plugins.psps.get(psp)
        if kind is None:
            raise UnknownPsp(
                f"The plugin that brings '{psp}' is not enabled; enable it to change the account's settings."
            )
        return form_fields(kind.config_type)

    async def check(self, scope: Scope, account_id: str) -> PspAccountCheck:
        """Ask the PSP whether it takes an account's settings; moves nothing, and passes an open circuit.

        Raises:
            AccountNotFound, UnknownPsp.
        """
        psp = await self.opened(scope, account_id)
        status, message = await self._asked(psp)
        if status == "ok":
            psp.credentials.renewed()
            await self._renew(scope, psp.account_id)
        elif status == "misconfigured":
            psp.credentials.refused("check_account", message)
        return PspAccountCheck(
            object="psp_account_check", psp_account=account_id, status=status, message=mask_pan(message)[:500]
        )

    async def opened(self, scope: Scope, account_id: str) -> OpenPsp:
        """The adapter of an account, for what is no payment.

        Raises:
            AccountNotFound, UnknownPsp.
        """
        account = await self.get(scope, account_id)
        identity = ids.decode("acct", account_id)
        sending = Sending(
            account_id=identity,
            psp=account.psp,
            account=account.name,
            config_version=account.config_version,
            config=base64.b64encode(await self._sealed(scope, identity)).decode(),
        )
        return await self.open(scope, sending)

    async def _asked(self, psp: OpenPsp) -> tuple[CheckStatus, str]:
        ask = getattr(psp.adapter, "check_account", None)
        if ask is None:
            return "not_supported", "The plugin cannot ask its PSP; the next payment will show."
        try:
            async with asyncio.timeout(psp.timeout_s):
                await ask()
        except PspMisconfigured as error:
            return "misconfigured", f"The PSP does not take these settings: {error}"
        except PspUnavailable as error:
            return "unreachable", f"Nothing was sent: {error}"
        except NotSupported as error:
            return "not_supported", str(error) or "The plugin cannot ask its PSP."
        except OutcomeUnknown as error:
            return "unclear", f"No clear answer came: {error}"
        except TimeoutError:
            return "unclear", f"No answer came within {psp.timeout_s:g} seconds."
        except Exception as error:  # A plugin's bug says nothing about the settings.
            log.exception("adapter raised", psp=psp.name, verb="check_account")
            return "unclear", f"The plugin failed ({type(error).__name__}); the gateway's log says where."
        return "ok", "The PSP takes these settings."

    async def _renew(self, scope: Scope, account_id: UUID) -> None:
        if account_id in self._credentials:
            self._credentials[account_id].renewed()
        for tell in self.renewed:
            await tell(scope, account_id)

    def webhook_url(self, sending: Sending) -> str | None:
        """Where the account's webhooks go; ``None`` when nobody knows this installation's address."""
        return self.webhook_address(sending.webhook_token) if sending.webhook_token is not None else None

    def webhook_address(self, token: str) -> str | None:
        """The address that ends in this token; ``None`` when nobody knows this installation's."""
        return webhook_url(self._public_url, token)

    def lacking(self) -> dict[str, list[str]]:
        """PSP -> what cannot be done with its charges, where there is something."""
        missing = {
            name: sorted(one.value for one in FOLLOW_UPS - kind.facts.capabilities)
            for name, kind in self._plugins.psps.items()
        }
        return {name: capabilities for name, capabilities in missing.items() if capabilities}

    def webhook_answer(self, psp: str) -> str:
        """The body that a PSP wants of our 200; empty when it does not care."""
        kind = self._plugins.psps.get(psp)
        return kind.facts.webhook.answer if kind is not None else ""

    # -- use ------------------------------------------------------------------------------------------------------

    async def candidates(self, scope: Scope, *, fresh: bool = False) -> list[Candidate]:
        """Enabled accounts whose plugin is loaded; at most ``CACHE_S`` old (reserving checks again under the transaction)."""
        if fresh:
            self._known.pop(scope, None)
        found = []
        for one in await self._remembered(scope):
            if one.status == "enabled" and one.psp in self._plugins.psps:
                account_id = ids.decode("acct", one.id)
                guard = self._guards.get(account_id)
                available = guard is None or guard.circuit("create_intent").offers()
                facts = self._plugins.psps[one.psp].facts
                found.append(Candidate(account_id, one.name, one.psp, one.priority, facts, available))
        return found

    def looks_at_once(self, most: int) -> dict[UUID, int]:
        """Account -> how many operations recovery may ask about at once, where it is less than ``most``."""
        allowed = {account_id: guard.looks_at_once(most) for account_id, guard in self._guards.items()}
        return {account_id: count for account_id, count in allowed.items() if count < most}

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
            account_id=sending.account_id,
            charged=self._source(sending.method),
            timeout_s=self._settings.psp_timeout_s,
            metrics=self._metrics,
            guard=self._guard(scope, sending),
            credentials=self._credentials_of(scope, sending),
            recovering=sending.recovering,
        )

    async def close(self) -> None:
        """Close every HTTP pool, and finish telling what happened."""
        await asyncio.gather(*self._telling, return_exceptions=True)
        for _, context in self._adapters.values():
            await context.http.aclose()
            await context.vault_http.aclose()
        self._adapters.clear()

    def _guard(self, scope: Scope, sending: Sending) -> Guard:
        guard = self._guards.get(sending.account_id)
        if guard is None:

            def changed(group: str, circuit: Circuit, change: Change | None) -> None:
                account = ids.encode("acct", sending.account_id)
                self._metrics.psp_circuit_state.labels(sending.psp, account, group).set(_LEVELS[circuit.state])
                if change is not None:
                    told: dict[str, Any] = {"psp": sending.psp, "name": sending.account, "verb": group}
                    if change is Change.OPENED:
                        told |= {"failed": circuit.failures, "calls": circuit.calls}
                    log.warning("circuit", change=change.value, account=account, **told)
                    self._tell_soon(scope, sending.account_id, _EVENTS[change], told)

            guard = self._guards[sending.account_id] = Guard(self._rules, changed)
        return guard

    def _credentials_of(self, scope: Scope, sending: Sending) -> Credentials:
        credentials = self._credentials.get(sending.account_id)
        if credentials is None:
            account = ids.encode("acct", sending.account_id)
            gauge = self._metrics.psp_account_misconfigured.labels(sending.psp, account)
            gauge.set(0)

            def changed(words: str, news: bool) -> None:
                gauge.set(1 if words else 0)
                if news:
                    told = {"psp": sending.psp, "name": sending.account, "code": "psp_misconfigured"}
                    log.error("the PSP does not take the account's settings", account=account, said=words, **told)
                    self._tell_soon(scope, sending.account_id, "psp_account.misconfigured", told)

            credentials = self._credentials[sending.account_id] = Credentials(changed)
        return credentials

    def _tell_soon(self, scope: Scope, account_id: UUID, event: str, told: dict[str, Any]) -> None:
        task = asyncio.create_task(self._tell(scope, account_id, event, told))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, scope: Scope, account_id: UUID, event: str, told: dict[str, Any]) -> None:
        """Journal what became of an account; nobody's payment waits for it."""
        request_id = structlog.contextvars.get_contextvars().get("request_id") or ids.encode("req", clock.new_uuid())
        try:
            async with self._db.begin(scope) as session:
                sequence = await session.scalar(
                    text(
                        "SELECT sequence FROM psp_accounts WHERE tenant_id = :tenant AND live = :live AND psp_account_id = :id"
                    ),
                    {"tenant": scope.tenant_id, "live": scope.live, "id": account_id},
                )
                await journal.record(
                    session,
                    system(scope, "psps", request_id),
                    type=event,
                    subject_type="psp_account",
                    subject_id=account_id,
                    sequence=sequence,
                    data=told,
                )
        except DatabaseUnavailable:
            log.warning("a PSP account's change is not in the journal: the database is away", **told)

    def seen(self, account_id: UUID) -> tuple[dict[str, str], str | None]:
        """How an account does, as this process alone has seen it: each group's circuit, and why the PSP refuses its settings."""
        guard = self._guards.get(account_id)
        health = guard.health() if guard is not None else dict.fromkeys(GROUPS.values(), State.CLOSED)
        credentials = self._credentials.get(account_id)
        return {group: state.value for group, state in health.items()}, credentials.problem if credentials else None

    def _with_health(self, account: PspAccountOut) -> PspAccountOut:
        health, problem = self.seen(ids.decode("acct", account.id))
        return msgspec.structs.replace(account, health=health, problem=problem)

    async def _make(
        self, scope: Scope, sending: Sending, kind: type[PspAdapter], vault: str | None
    ) -> tuple[PspAdapter, PspContext]:
        key = await self._tenants.data_key(scope.tenant_id)
        plain = crypto.open_(key, base64.b64decode(sending.config), _place(scope, sending.account_id))
        connect, total = self._settings.psp_connect_timeout_s, self._settings.psp_timeout_s
        provider = self._vaults.get(vault) if vault is not None else None
        context = PspContext(
            http=outbound.client(connect, total, guard=self._addresses),
            vault_http=outbound.client(connect, total, vault=provider, guard=self._addresses),
            live=scope.live,
            now=clock.now,
        )
        return account_settings.make(kind, plain, context), context

    def _source(self, method: SendingMethod | None) -> Source | None:
        if method is None:
            return None
        if method.kind == SourceKind.REDIRECT and method.stored_token is None:
            return RedirectSource(method.psp_method)
        if method.kind != SourceKind.CARD:
            token = method.stored_token or method.psp_token
            assert token is not None, "the constraint of payment_methods"
            return TokenSource(token, stored=method.stored_token is not None)
        assert method.vault is not None
        assert method.vault_token is not None
        vault = self._vaults.get(method.vault)
        return CardSource(
            token=method.vault_token,
            number=vault.placeholder(method.vault_token, "number"),
            exp_month=vault.placeholder(method.vault_token, "exp_month"),
            exp_year=vault.placeholder(method.vault_token, "exp_year"),
            cvc=vault.placeholder(method.vault_token, "cvc"),
            network_transaction_id=method.network_transaction_id,
            stored_token=method.stored_token,
        )

    async def _remembered(self, scope: Scope) -> list[PspAccountOut]:
        known = self._known.get(scope)
        if known is not None and known[0] > clock.monotonic():
            return known[1]
        accounts = await self.all(scope)
        self._known[scope] = (clock.monotonic() + CACHE_S, accounts)
        return accounts

    def _check_config(self, scope: Scope, psp: str, config: Mapping[str, Any]) -> None:
        kind = self._plugins.psps.get(psp)
        if kind is None:
            known = ", ".join(sorted(self._plugins.psps)) or "none"
            raise UnknownPsp(f"No enabled plugin brings a PSP named '{psp}'. There are: {known}.")
        account_settings.check(kind, config, live=scope.live)

    async def _sealed(self, scope: Scope, account_id: UUID) -> bytes:
        async with self._db.begin(scope) as session:
            found: bytes = await session.scalar(
                text(
                    "SELECT config FROM psp_accounts WHERE tenant_id = :tenant AND live = :live AND psp_account_id = :id"
                ),
                {"tenant": scope.tenant_id, "live": scope.live, "id": account_id},
            )
        return found

    async def _plain(self, scope: Scope, account_id: UUID) -> bytes:
        sealed = await self._sealed(scope, account_id)
        key = await self._tenants.data_key(scope.tenant_id)
        return crypto.open_(key, sealed, _place(scope, account_id))

    async def _seal(self, scope: Scope, account_id: UUID, config: Mapping[str, Any]) -> bytes:
        key = await self._tenants.data_key(scope.tenant_id)
        return crypto.seal(key, msgspec.json.encode(dict(config)), _place(scope, account_id))


def _new_token() -> str:
    """The unguessable part of an account's webhook address: 160 bits."""
    return "whk_" + base64.b32encode(clock.random_bytes(20)).decode().lower()


def _place(scope: Scope, account_id: UUID) -> str:
    return f"{scope.tenant_id}/{'live' if scope.live else 'test'}/psp_accounts/config/{account_id}"
