"""A PSP that signs its messages, and the gateways that receive them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
import httpx
import msgspec
import pytest
from tests.conftest import BASE_URL, lifespan
from tests.core.payments.conftest import Puppet, PuppetPsp, approve, with_puppets
from tests.shop import Json, Shop

from clearspan.app import Gateway, create_app
from clearspan.platform import clock, ids
from clearspan.platform.crypto import MasterKey
from clearspan.platform.plugins import Plugins
from clearspan.sdk import (
    Approved,
    Money,
    News,
    OperationNews,
    PspFacts,
    WebhookDelivery,
    WebhookEvent,
    WebhookFacts,
    WebhookRejected,
)
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls

__all__ = ["approve"]
TOLERANCE_S = 300


class PostConfig(msgspec.Struct, frozen=True):
    """Which puppet charges, and the secret that signs."""

    name: str
    secret: str


class Written(msgspec.Struct, frozen=True):
    """A message's body: events as the gateway knows them, so that reading it is no work."""

    events: list[WebhookEvent]
    odd: bool = False


class PostPsp(PuppetPsp):
    """Signs ``<time>.<body>`` with HMAC-SHA-256: ``post-signature: t=1764,v1=<hex>``, several v1 while secrets rotate."""

    name: ClassVar[str] = "post"
    config_type: ClassVar[type[msgspec.Struct]] = PostConfig
    facts: ClassVar[PspFacts] = msgspec.structs.replace(
        PuppetPsp.facts, webhook=WebhookFacts(signature="hmac-sha256", id_field="id", sequence_field="sequence")
    )

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self._secret: str = config.secret

    async def verify_webhook(self, delivery: WebhookDelivery) -> Sequence[WebhookEvent]:
        """See ``PspAdapter``. A body that calls itself odd is read as the puppet says."""
        given = [part.partition("=") for part in delivery.headers.get("post-signature", "").split(",")]
        times = [text for name, _, text in given if name.strip() == "t"]
        if len(times) != 1 or abs(delivery.received_at.timestamp() - int(times[0])) > TOLERANCE_S:
            raise WebhookRejected("no time, or too far away")
        right = signature(self._secret, int(times[0]), delivery.body)
        if not any(hmac.compare_digest(right, text) for name, _, text in given if name.strip() == "v1"):
            raise WebhookRejected("no signature fits")
        if b'"odd":true' in delivery.body:
            events: Sequence[WebhookEvent] = await self._puppet.act("verify_webhook", delivery)
            return events
        return msgspec.json.decode(delivery.body, type=Written).events


class OpenPostPsp(PostPsp):
    """The same without signatures."""

    name: ClassVar[str] = "open-post"
    facts: ClassVar[PspFacts] = PuppetPsp.facts

    async def verify_webhook(self, delivery: WebhookDelivery) -> Sequence[WebhookEvent]:
        """Whatever comes."""
        return msgspec.json.decode(delivery.body, type=Written).events


def signature(secret: str, at: int, body: bytes) -> str:
    """Over the raw bytes."""
    return hmac.digest(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hex()


def event(news: News | None = None, *, event_id: str | None = None, **fields: Any) -> WebhookEvent:
    """An event, of its own unless it has an id."""
    given = {"type": "charge.updated"} | fields
    return WebhookEvent(event_id=f"evt-{clock.new_uuid()}" if event_id is None else event_id, news=news, **given)


def approved(
    reference: str | None, amount_minor: int = 1099, *, psp_ref: str | None = None, **fields: Any
) -> OperationNews:
    """A charge took effect."""
    ref = psp_ref or f"ref-{reference}"
    outcome = Approved(psp_ref=ref, amount=Money(amount_minor, "EUR"), raw=fields.pop("raw", {}))
    return OperationNews(kind="charge", reference=reference, psp_ref=ref, outcome=outcome, **fields)


def with_post(settings: Settings) -> Plugins:
    """The plugins of the tests, and those above."""
    loaded = with_puppets(settings)
    for kind in (PostPsp, OpenPostPsp):
        loaded.psps[kind.name] = kind
        loaded.plugin_of_psp[kind.name] = kind.name
    return loaded


class Office:
    """A gateway of the test's own.

    Attributes:
        gateway: its services.
    """

    def __init__(self, gateway: Gateway, application: Any, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self._application = application
        self._stack = stack

    async def client(self, key: str | None = None) -> httpx.AsyncClient:
        """With an API key, or without."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(app=self._application)
        return await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers)
        )


async def opened(url: str, settings: Settings, master: MasterKey, stack: AsyncExitStack) -> Office:
    """A gateway between start and stop."""
    gateway = Gateway(settings, url, master, with_post(settings))
    application = create_app(gateway)
    await stack.enter_async_context(lifespan(application))
    return Office(gateway, application, stack)


@pytest.fixture(scope="session")
async def office(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Office]:
    """Receives, and applies at once."""
    async with AsyncExitStack() as stack:
        yield await opened(urls.app, settings, master, stack)


@pytest.fixture(scope="session")
async def mute(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Office]:
    """Receives, and never applies: as if it died right after each commit."""
    async with AsyncExitStack() as stack:
        made = await opened(urls.app, settings, master, stack)
        made.gateway.psp_webhooks.wake = lambda _scope, _request_id: None
        yield made


class Post:
    """A merchant's account at the PSP, as the PSP sees it.

    Attributes:
        secret: what it signs with.
        account: the account as the API shows it.
    """

    def __init__(self, http: httpx.AsyncClient, account: Json, secret: str) -> None:
        self._http = http
        self.account = account
        self.secret = secret

    @property
    def path(self) -> str:
        """Where the messages go."""
        url: str = self.account["webhook_url"]
        return url.removeprefix("http://127.0.0.1:8080")

    def headers(self, body: bytes, *, secret: str | None = None, shift_s: int = 0, second: str | None = None) -> Json:
        """What makes the body believable; ``second`` is another signature beside it."""
        at = int(clock.now().timestamp()) + shift_s
        signatures = [second] if second is not None else []
        signatures.append(signature(secret or self.secret, at, body))
        return {"post-signature": ",".join([f"t={at}", *(f"v1={one}" for one in signatures)])}

    async def post(
        self, body: bytes, *, to: str | None = None, headers: Json | None = None, **how: Any
    ) -> httpx.Response:
        """These bytes."""
        given = {"content-type": "application/json"} | (self.headers(body, **how) if headers is None else headers)
        return await self._http.post(to or self.path, content=body, headers=given)

    async def send(self, *events: WebhookEvent, **how: Any) -> httpx.Response:
        """These events in one message."""
        return await self.post(written(*events), **how)


def written(*events: WebhookEvent, **extra: Any) -> bytes:
    """The body of a message."""
    return msgspec.json.encode({"events": list(events)} | extra)


async def rented(
    office: Office, shop: Shop, puppet: Puppet, name: str = "post", psp: str = "post", secret: str = ""
) -> Post:
    """An account of the shop at the PSP."""
    secret = secret or f"whsec_{clock.random_bytes(12).hex()}"
    account = await shop.add_account(name, 1, psp=psp, config={"name": puppet.name, "secret": secret})
    return Post(await office.client(), account, secret)


@pytest.fixture
def psp_url(settings: Settings, sandboxes: None) -> str:
    """Where the running simulator is."""
    url: str = settings.plugin["psp-sandbox"]["url"]
    return url


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    """What charges for the account."""
    made = Puppet()
    yield made
    del Puppet.strings[made.name]


@pytest.fixture
async def shop(office: Office, merchant: Merchant, psp_url: str) -> Shop:
    """A fresh merchant behind ``office``."""
    return Shop(await office.client(merchant.key), psp_url)


@pytest.fixture
async def post(office: Office, shop: Shop, puppet: Puppet) -> Post:
    """The merchant's only account."""
    return await rented(office, shop, puppet)


class Rows:
    """The inbox as it lies in the database."""

    def __init__(self, superuser: asyncpg.Connection[asyncpg.Record], merchant: Merchant) -> None:
        self._superuser = superuser
        self._scope = merchant.caller.scope

    async def all(self) -> list[asyncpg.Record]:
        """Of the merchant, oldest first."""
        return await self._superuser.fetch(
            "SELECT * FROM webhook_inbox WHERE tenant_id = $1 AND live = $2 ORDER BY inbox_id",
            self._scope.tenant_id,
            self._scope.live,
        )

    async def one(self) -> asyncpg.Record:
        """The only one."""
        (row,) = await self.all()
        return row

    async def set(self, **columns: Any) -> None:
        """Change all of them."""
        for name, value in columns.items():
            await self._superuser.execute(
                f"UPDATE webhook_inbox SET {name} = $3 WHERE tenant_id = $1 AND live = $2",
                self._scope.tenant_id,
                self._scope.live,
                value,
            )

    async def told(self) -> list[str]:
        """The types of the journal's entries about messages."""
        rows = await self._superuser.fetch(
            "SELECT type FROM journal WHERE tenant_id = $1 AND live = $2 AND subject_type = 'webhook' ORDER BY xid, seq",
            self._scope.tenant_id,
            self._scope.live,
        )
        return [row["type"] for row in rows]


@pytest.fixture
async def inbox(superuser: asyncpg.Connection[asyncpg.Record], merchant: Merchant) -> Rows:
    """The merchant's messages."""
    return Rows(superuser, merchant)


def webhook_id(row: asyncpg.Record) -> str:
    """Its public id."""
    return ids.encode("whi", row["inbox_id"])
