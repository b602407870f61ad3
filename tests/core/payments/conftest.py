"""Ways to payments: by SQL functions only, by the API with the simulator, and by the API with a PSP that lies on demand."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import httpx
import msgspec
import pytest
from sqlalchemy import text
from tests.shop import Shop, gateway, with_payments

from clearspan.app import Gateway
from clearspan.payments.models import Dispute, Operation, Payment
from clearspan.payments.news import Told
from clearspan.payments.recovery import unwinding
from clearspan.payments.rows import Details
from clearspan.platform import clock, ids, plugins
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.plugins import Plugins
from clearspan.sdk import (
    Approved,
    CancelRequest,
    Capability,
    CaptureRequest,
    ChargeRequest,
    ContinueRequest,
    Idempotency,
    Lookup,
    News,
    NotFound,
    OutcomeUnknown,
    PspContext,
    PspFacts,
    RefundRequest,
    RetrieveRequest,
    SourceKind,
    WebhookDelivery,
)
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls


class MoneyPath:
    """Calls the functions as the service does; the test plays the PSP."""

    def __init__(self, db: Database, caller: Caller, account: UUID, method: UUID) -> None:
        self._db = db
        self._caller = caller
        self.scope = caller.scope
        self._account = account
        self._method = method

    def _document(self, now: datetime | None) -> dict[str, Any]:
        return {
            "tenant_id": self._caller.scope.tenant_id,
            "live": self._caller.scope.live,
            "now": now or clock.now(),
            "actor_type": "system",
            "actor_id": "test",
            "request_id": "req_test",
            "event_ids": [clock.new_uuid(), clock.new_uuid()],
        }

    async def open(self, amount_minor: int, *, manual: bool) -> UUID:
        """Create an intent that can be confirmed."""
        payment_id = clock.new_uuid()
        payment = {
            "payment_id": payment_id,
            "amount_minor": amount_minor,
            "currency": "EUR",
            "capture_method": "manual" if manual else "automatic",
            "customer_present": True,
            "payment_method_id": self._method,
            "expires_at": clock.now() + timedelta(days=500),
        }
        await self._db.call("payment_open", self._document(None) | {"payment": payment})
        return payment_id

    async def operate(self, payment_id: UUID, want: str, *, now: datetime | None = None, **fields: Any) -> Operation:
        """Reserve an operation."""
        operation_id = clock.new_uuid()
        operation = {
            "want": want,
            "operation_id": operation_id,
            "psp_account_id": self._account,
            "psp_key": ids.psp_key(operation_id, 0, 32),
            "lease_token": clock.new_uuid(),
            "lease_until": clock.now() + timedelta(seconds=30),
        } | fields
        answer = await self._db.call(
            "operation_open", self._document(now) | {"payment_id": payment_id, "operation": operation}
        )
        return msgspec.convert(msgspec.json.decode(answer)["operation"], Operation)

    async def settle(
        self,
        operation: Operation,
        observed: str,
        *,
        fenced: bool,
        psp_ref: str | None = None,
        source: str = "response",
        fee_minor: int | None = None,
        **more: Any,
    ) -> Operation:
        """Store an observation."""
        fact = {
            "fact_id": clock.new_uuid(),
            "source": source,
            "observed": observed,
            "psp_ref": psp_ref,
            "fee_minor": fee_minor,
            "payload_hash": "00" * 32,
            "code": "generic_decline" if observed == "declined" else None,
        }
        document = (
            self._document(None)
            | {
                "payment_id": operation.payment_id,
                "operation_id": operation.operation_id,
                "lease_token": clock.new_uuid() if fenced else operation.lease_token,
                "fact": fact,
                "next_action": {"type": "redirect", "url": "https://psp.test/"}
                if observed == "requires_action"
                else None,
                "sweep_at": clock.now(),
            }
            | more
        )
        answer = await self._db.call("operation_settle", document)
        return msgspec.convert(msgspec.json.decode(answer)["operation"], Operation)

    async def unwind(self, payment_id: UUID) -> None:
        """Reserve what gives an unwanted charge back, if there is one."""
        details = await self.read(payment_id)
        plan = unwinding(details.payment, details.operations)
        if plan is not None:
            await self.operate(
                payment_id, plan.kind, unwinds=plan.charge.operation_id, reason=plan.because, routing={"rule": "unwind"}
            )

    async def dispute(self, charge: Operation, status: str, amount_minor: int, number: int) -> None:
        """What a PSP says about a dispute."""
        document = self._document(None) | {
            "dispute_id": clock.new_uuid(),
            "psp_account_id": self._account,
            "psp_ref": f"dp-{charge.operation_id}-{number}",
            "operation_id": charge.operation_id,
            "status": status,
            "amount_minor": amount_minor,
            "currency": "EUR",
        }
        await self._db.call("dispute_apply", document)

    async def disputes(self, payment_id: UUID) -> list[Dispute]:
        """All of a payment."""
        document = self._document(None) | {"payment_id": payment_id, "limit": 100}
        return msgspec.json.decode(await self._db.call("dispute_list", document), type=list[Dispute])

    async def close(self, payment_id: UUID, want: str, *, now: datetime | None = None) -> None:
        """Cancel or expire."""
        await self._db.call("payment_close", self._document(now) | {"payment_id": payment_id, "want": want})

    async def read(self, payment_id: UUID) -> Details:
        """The payment with its operations only."""
        found = msgspec.json.decode(
            await self._db.call("payment_read", self._document(None) | {"payment_id": payment_id}), type=Details
        )
        return Details(payment=found.payment, operations=found.operations)

    async def operation(self, payment_id: UUID, operation_id: UUID) -> Operation:
        """One operation as it stands."""
        details = await self.read(payment_id)
        return next(one for one in details.operations if one.operation_id == operation_id)

    @staticmethod
    def check_amounts(payment: Payment) -> None:
        """What must hold of every payment at every moment."""
        assert payment.captured_minor + payment.capture_pending_minor + payment.voided_minor <= payment.authorized_minor
        assert payment.authorized_minor <= payment.amount_minor
        assert payment.refunded_minor + payment.refund_pending_minor + payment.returned_minor <= payment.captured_minor


@pytest.fixture
async def money(db: Database) -> MoneyPath:
    """A tenant with one account and one card, made by SQL: what they are does not matter here."""
    account, method, now = clock.new_uuid(), clock.new_uuid(), clock.now()
    scope = Scope(tenant_id=clock.new_uuid(), live=False)
    tenant = Caller(scope=scope, actor_type="system", actor_id="test", request_id="req_test")
    async with db.begin(tenant.scope) as session:
        place = {"tenant": tenant.scope.tenant_id, "live": tenant.scope.live, "now": now}
        await session.execute(
            text(
                "INSERT INTO tenants (tenant_id, slug, name, data_key, created_at)"
                " VALUES (:tenant, :slug, 'T', '', :now)"
            ),
            {"tenant": scope.tenant_id, "slug": f"t{scope.tenant_id.hex}", "now": now},
        )
        await session.execute(
            text(
                "INSERT INTO psp_accounts (tenant_id, live, psp_account_id, psp, name, config, created_at, updated_at)"
                " VALUES (:tenant, :live, :id, 'none', 'none', '', :now, :now)"
            ),
            place | {"id": account},
        )
        await session.execute(
            text(
                "INSERT INTO payment_methods (tenant_id, live, payment_method_id, vault, vault_token, brand, last4, exp_month,"
                " exp_year, fingerprint, created_at, updated_at)"
                " VALUES (:tenant, :live, :id, 'none', 'tok', 'visa', '4242', 12, 2030, 'fp', :now, :now)"
            ),
            place | {"id": method},
        )
    return MoneyPath(db, tenant, account, method)


# -- Through the API ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def psp_url(settings: Settings, sandboxes: None) -> str:
    """Where the running simulator is."""
    url: str = settings.plugin["psp-sandbox"]["url"]
    return url


@pytest.fixture
async def shop(client: httpx.AsyncClient, psp_url: str) -> Shop:
    """A fresh merchant with the PSP accounts alpha and beta."""
    return await Shop.open(client, psp_url)


@pytest.fixture
async def other_shop(other_client: httpx.AsyncClient, psp_url: str) -> Shop:
    """Another tenant."""
    return await Shop.open(other_client, psp_url)


@pytest.fixture
async def live_shop(live_client: httpx.AsyncClient, psp_url: str) -> Shop:
    """The tenant of ``shop`` in live mode."""
    return await Shop.open(live_client, psp_url)


class PuppetConfig(msgspec.Struct, frozen=True):
    """Which puppet."""

    name: str


class Puppet:
    """A PSP that does what the test says.

    Attributes:
        does: called with the verb and the request; what it returns or raises, the adapter returns or raises.
        calls: the verbs it was asked for, in order, with their requests.
    """

    strings: ClassVar[dict[str, Puppet]] = {}

    def __init__(self) -> None:
        self.name = f"p{clock.random_bytes(6).hex()}"
        self.does: Callable[[str, Any], Any] = approve
        self.calls: list[tuple[str, Any]] = []
        self.strings[self.name] = self

    @property
    def verbs(self) -> list[str]:
        """What it was asked for."""
        return [verb for verb, _ in self.calls]

    async def act(self, verb: str, request: Any) -> Any:
        """What the adapter does."""
        self.calls.append((verb, request))
        done = self.does(verb, request)
        return await done if inspect.isawaitable(done) else done


def approve(_: str, request: Any) -> Any:
    """What an honest PSP says."""
    return Approved(psp_ref=f"ref-{request.operation_id}", amount=request.amount)


class PuppetPsp:
    """See ``PspAdapter``. It has no key window, so nothing is ever sent again."""

    name: ClassVar[str] = "puppet"
    config_type: ClassVar[type[msgspec.Struct]] = PuppetConfig
    facts: ClassVar[PspFacts] = PspFacts(
        capabilities=frozenset(Capability), lookup=Lookup(by_reference=True, lag_max=timedelta(0))
    )

    def __init__(self, config: PuppetConfig, context: PspContext) -> None:  # noqa: ARG002
        self._puppet = Puppet.strings[config.name]

    async def create_intent(self, request: ChargeRequest) -> Any:
        return await self._puppet.act("create_intent", request)

    async def continue_intent(self, request: ContinueRequest) -> Any:
        return await self._puppet.act("continue_intent", request)

    async def capture(self, request: CaptureRequest) -> Any:
        return await self._puppet.act("capture", request)

    async def cancel(self, request: CancelRequest) -> Any:
        return await self._puppet.act("cancel", request)

    async def refund(self, request: RefundRequest) -> Any:
        return await self._puppet.act("refund", request)

    async def retrieve(self, request: RetrieveRequest) -> Any:
        return await self._puppet.act("retrieve", request)

    async def verify_webhook(self, delivery: WebhookDelivery) -> Any:
        return await self._puppet.act("verify_webhook", delivery)

    async def activity(self, since: datetime, until: datetime) -> Any:
        return await self._puppet.act("activity", (since, until))


class HolderPsp(PuppetPsp):
    """A puppet that takes no cards: only what it holds itself, and payers who come to its pages."""

    name: ClassVar[str] = "holder"
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        PuppetPsp.facts,
        sources=frozenset({SourceKind.TOKEN, SourceKind.REDIRECT}),
        methods=frozenset({"ideal"}),
        currencies=frozenset({"EUR"}),
    )


class FewPsp(PuppetPsp):
    """A puppet that does everything once and whole."""

    name: ClassVar[str] = "few"
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        PuppetPsp.facts,
        capabilities=frozenset({Capability.PURCHASE, Capability.AUTHORIZE, Capability.REFUND}),
    )


class OncePsp(PuppetPsp):
    """A puppet that takes one capture, of a part too, and releases the rest."""

    name: ClassVar[str] = "once"
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        PuppetPsp.facts, capabilities=frozenset(Capability) - {Capability.MULTIPLE_CAPTURE}
    )


def with_puppets(settings: Settings) -> Plugins:
    """The plugins of the tests, and one that brings the puppets."""
    loaded = plugins.load(settings.plugins.enabled)
    for kind in (PuppetPsp, HolderPsp, FewPsp, OncePsp):
        loaded.psps[kind.name] = kind
        loaded.plugin_of_psp[kind.name] = "puppet"
    return loaded


@pytest.fixture(scope="session")
async def stage(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    """A gateway that knows ``PuppetPsp`` and waits for it; makes clients of it: ``stage(api_key)``."""
    async with gateway(urls.app, with_payments(settings, wait_budget_s=60), master, with_puppets(settings)) as clients:
        yield clients


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    """The PSP of ``theatre``."""
    made = Puppet()
    yield made
    del Puppet.strings[made.name]


@pytest.fixture
async def theatre(stage: Callable[[str], httpx.AsyncClient], merchant: Merchant, puppet: Puppet, psp_url: str) -> Shop:
    """A fresh merchant whose only PSP account is at the puppet; behind the gateway ``stage``."""
    shop = Shop(stage(merchant.key), psp_url)
    await shop.add_account("puppet", 1, psp="puppet", config={"name": puppet.name})
    return shop


@pytest.fixture
def elsewhere(stage: Callable[[str], httpx.AsyncClient], merchant: Merchant, shop: Shop) -> Shop:
    """The merchant of ``shop`` behind another gateway, which has a memory of its own."""
    return shop.behind(stage(merchant.key))


@pytest.fixture
async def hasty(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, psp_url: str
) -> AsyncIterator[Shop]:
    """A fresh merchant at the simulator, behind a gateway that waits a tenth of a second and not longer."""
    async with gateway(urls.app, with_payments(settings, wait_budget_s=0.1), master) as clients:
        yield await Shop.open(clients(merchant.key), psp_url)


# -- A worker -------------------------------------------------------------------------------------------------------------------


class KeyedPsp(PuppetPsp):
    """A puppet that remembers keys for a day."""

    name: ClassVar[str] = "keyed"
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        PuppetPsp.facts, idempotency=Idempotency(timedelta(days=1), max_len=64), max_late_effect=timedelta(minutes=5)
    )


class MutePsp(PuppetPsp):
    """A puppet that cannot be asked about anything; it remembers keys for a month."""

    name: ClassVar[str] = "mute"
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        PuppetPsp.facts, idempotency=Idempotency(timedelta(days=31), max_len=64), lookup=Lookup(by_psp_ref=False)
    )


class Later:
    """A clock that is ahead; everything else is the real one's."""

    def __init__(self, real: clock.Clock, ahead: timedelta) -> None:
        self._real = real
        self._ahead = ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def now(self) -> datetime:
        return self._real.now() + self._ahead


@contextmanager
def later(**span: float) -> Iterator[None]:
    """As if so much time had passed."""
    real = clock.use(clock.SystemClock())
    clock.use(Later(real, timedelta(**span)))
    try:
        yield
    finally:
        clock.use(real)


class Recovery:
    """A worker's gateway: it shares nothing with the one that was asked but the database."""

    def __init__(self, gateway: Gateway, merchant: Merchant) -> None:
        self._gateway = gateway
        self._scope = merchant.caller.scope

    async def run(self, most: int = 100) -> int:
        """One job."""
        return await self._gateway.payments.recover(self._scope, "req_recovery", most)

    def under_way(self) -> set[asyncio.Task[Any]]:
        """The calls that wait for a PSP."""
        return set(self._gateway.payments._under_way)

    async def unwind(self, most: int = 100) -> int:
        """The job that gives back what nobody wants."""
        return await self._gateway.payments.unwind(self._scope, "req_unwind", most)

    async def hear(self, account: str, news: News, **more: Any) -> Told | None:
        """What a webhook says."""
        given: dict[str, Any] = {"fact_id": clock.new_uuid()} | more
        return await self._gateway.payments.tell(
            self._scope, "req_news", account_id=ids.decode("acct", account), news=news, **given
        )


@pytest.fixture(scope="session")
async def worker(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Gateway]:
    """A second process's services."""
    loaded = with_puppets(settings)
    for kind in (KeyedPsp, MutePsp):
        loaded.psps[kind.name] = kind
        loaded.plugin_of_psp[kind.name] = kind.name
    gateway = Gateway(settings, urls.app, master, loaded)
    await gateway.open()
    yield gateway
    await gateway.close()


@pytest.fixture
def recover(worker: Gateway, merchant: Merchant) -> Recovery:
    """Runs the recovery of the merchant's operations."""
    return Recovery(worker, merchant)


@pytest.fixture
async def keyed(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, puppet: Puppet, psp_url: str, worker: Gateway
) -> AsyncIterator[Shop]:
    """A merchant at a PSP that remembers keys, behind the worker's own services."""
    async with _behind(worker, merchant, puppet, psp_url, "keyed") as shop:
        yield shop


@pytest.fixture
async def mute(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, puppet: Puppet, psp_url: str, worker: Gateway
) -> AsyncIterator[Shop]:
    """A merchant at a PSP that cannot be asked, behind the worker's own services."""
    async with _behind(worker, merchant, puppet, psp_url, "mute") as shop:
        yield shop


@asynccontextmanager
async def _behind(worker: Gateway, merchant: Merchant, puppet: Puppet, psp_url: str, psp: str) -> AsyncIterator[Shop]:
    from tests.conftest import BASE_URL, app_of

    transport = httpx.ASGITransport(app=app_of(worker))
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as client:
        shop = Shop(client, psp_url)
        await shop.add_account(psp, 1, psp=psp, config={"name": puppet.name})
        yield shop


def unclear(*_: Any) -> Any:
    raise OutcomeUnknown("sent, no answer")


def nothing_found(verb: str, _: Any) -> Any:
    if verb == "retrieve":
        return NotFound()
    raise OutcomeUnknown("sent, no answer")


async def in_doubt(shop: Shop, puppet: Puppet, **fields: Any) -> dict[str, Any]:
    """A payment whose charge got no clear answer."""
    puppet.does = unclear
    payment: dict[str, Any] = (await shop.pay(**fields)).json()
    assert (payment["status"], payment["outcome"]) == ("processing", "unknown")
    return payment


async def status(shop: Shop, payment: dict[str, Any]) -> tuple[str, str | None]:
    found = await shop.get(payment)
    return found["status"], found["outcome"]
