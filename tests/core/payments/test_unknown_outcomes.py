"""What the gateway says and does when it cannot know: "not sent" only with proof, "unknown" otherwise, "failed" never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import msgspec
import pytest
from tests.conftest import connected, free_ports
from tests.core.payments.conftest import Puppet, approve, with_puppets
from tests.shop import Shop, Simulator, code, gateway, new_key, state, until, with_payments

from clearspan.platform import clock
from clearspan.platform.crypto import MasterKey
from clearspan.sdk import (
    ActionRequired,
    Approved,
    Declined,
    Money,
    NotFound,
    OutcomeUnknown,
    Pending,
    PspMisconfigured,
    PspUnavailable,
    RedirectAction,
)
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls


# -- With processes that go away ------------------------------------------------------------------------------------------------


class World:
    """A gateway of the test's own with a vault and a PSP of its own."""

    def __init__(self, shop: Shop, psp: Simulator, vault: Simulator) -> None:
        self.shop = shop
        self.psp = psp
        self.vault = vault


@pytest.fixture(scope="module")
async def simulators(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Simulator, Simulator]]:
    """PSP and vault."""
    folder: Path = tmp_path_factory.mktemp("simulators")
    ports = free_ports(2)
    psp = Simulator("clearspan_psp_sandbox.simulator", ports[0], folder)
    vault = Simulator("clearspan_vault_sandbox.server", ports[1], folder)
    try:
        await asyncio.gather(psp.start(), vault.start())
        yield psp, vault
    finally:
        psp.kill()
        vault.kill()


@pytest.fixture
async def world(
    simulators: tuple[Simulator, Simulator], urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant
) -> AsyncIterator[World]:
    """Everything runs at the beginning."""
    psp, vault = simulators
    own = msgspec.structs.replace(
        settings, plugin={"psp-sandbox": {"url": psp.url}, "vault-sandbox": {"url": vault.url}}
    )
    async with gateway(urls.app, own, master) as clients:
        shop = await Shop.open(clients(merchant.key), psp.url)
        await shop.card()
        await shop.card("tok_slow")
        yield World(shop, psp, vault)


@pytest.mark.parametrize("which", ["psp", "vault"])
async def test_a_refused_connection_leaves_the_payment_to_be_confirmed_again(world: World, which: str) -> None:
    simulator = world.psp if which == "psp" else world.vault
    simulator.kill()
    try:
        answer = await world.shop.pay(1500)
        payment = answer.json()
        assert (answer.status_code, payment["status"], payment["outcome"]) == (201, "requires_confirmation", None)
        assert payment["last_error"]["code"] == "psp_unavailable"
        again = (await world.shop.act(payment, "confirm")).json()
        assert (again["status"], again["last_error"]["code"]) == ("requires_confirmation", "psp_unavailable")
    finally:
        await simulator.start()
    paid = (await world.shop.act(payment, "confirm")).json()
    assert (paid["status"], paid["last_error"]) == ("succeeded", None)
    assert len(await world.shop.charged(payment)) == 1
    states = [one["state"] for one in (await world.shop.get(payment))["operations"]]
    assert states == ["not_sent", "not_sent", "succeeded"]


@pytest.mark.parametrize("which", ["psp", "vault"])
async def test_a_connection_that_breaks_in_mid_answer_is_unknown_and_never_failed(world: World, which: str) -> None:
    """The simulator has booked the charge; the answer never comes."""
    simulator = world.psp if which == "psp" else world.vault
    key = new_key()
    charging = asyncio.create_task(world.shop.pay(1060, "tok_slow", key=key))
    await world.shop.under_way()
    simulator.kill()
    try:
        answer = await charging
        payment = answer.json()
        assert (answer.status_code, payment["status"], payment["outcome"]) == (202, "processing", "unknown")
        assert payment["last_error"] is None
    finally:
        await simulator.start()
    for what in ("confirm", "capture", "refunds", "continue"):
        assert code(await world.shop.act(payment, what)) == (409, "operation_outcome_unknown"), what
    assert (await world.shop.pay(1060, "tok_slow", key=key)).content == answer.content
    listed = await world.shop.http.get("/v1/payments", params={"status": "unknown"})
    assert [one["id"] for one in listed.json()["data"]] == [payment["id"]]
    assert (await world.shop.http.get("/v1/payments", params={"status": "failed"})).json()["data"] == []
    assert len(await world.shop.charged(payment)) == 1


async def test_a_capture_and_a_refund_that_break_are_unknown_and_hold_their_amounts(world: World) -> None:
    world.psp.kill()
    await world.psp.start()
    payment = await world.shop.paid(1000)
    world.psp.kill()
    try:
        refused = await world.shop.act(payment, "refunds", {"amount_minor": 400})
        assert (refused.status_code, refused.json()["status"]) == (201, "canceled")
        assert refused.json()["code"] == "psp_unavailable"
    finally:
        await world.psp.start()
    assert (await world.shop.get(payment))["amounts"]["refundable_minor"] == 1000
    assert (await world.shop.act(payment, "refunds")).json()["status"] == "succeeded"


# -- With a PSP that lies -------------------------------------------------------------------------------------------------------


def reference(request: Any) -> str:
    return f"ref-{request.operation_id}"


def euros(amount_minor: Any = 1099, currency: Any = "EUR") -> Money:
    """Also amounts that no honest code makes."""
    made = Money(1, "EUR")
    msgspec.structs.force_setattr(made, "amount_minor", amount_minor)
    msgspec.structs.force_setattr(made, "currency", currency)
    return made


LIES: dict[str, Callable[[Any], Any]] = {
    "raises ValueError": lambda _: _raise(ValueError("oops")),
    "raises KeyError": lambda _: _raise(KeyError("status")),
    "raises AssertionError": lambda _: _raise(AssertionError()),
    "raises TimeoutError": lambda _: _raise(TimeoutError()),
    "raises httpx.ConnectError": lambda _: _raise(httpx.ConnectError("as the last thing of many")),
    "raises ConnectionRefusedError": lambda _: _raise(ConnectionRefusedError()),
    "raises OutcomeUnknown": lambda _: _raise(OutcomeUnknown("sent, no answer")),
    "raises RecursionError": lambda _: _raise(RecursionError()),
    "returns None": lambda _: None,
    "returns text": lambda _: "approved",
    "returns a dictionary": lambda _: {"status": "approved"},
    "returns True": lambda _: True,
    "returns a class": lambda _: Approved,
    "returns NotFound": lambda _: NotFound(),
    "another amount": lambda request: Approved(psp_ref=reference(request), amount=Money(1098, "EUR")),
    "ten times the amount": lambda request: Approved(psp_ref=reference(request), amount=Money(10_990, "EUR")),
    "another currency": lambda request: Approved(psp_ref=reference(request), amount=Money(1099, "USD")),
    "an amount in floats": lambda request: Approved(psp_ref=reference(request), amount=euros(1099.0)),
    "an amount in text": lambda request: Approved(psp_ref=reference(request), amount=euros("1099")),
    "no amount": lambda request: Approved(psp_ref=reference(request), amount=None),  # type: ignore[arg-type]
    "an empty reference": lambda request: Approved(psp_ref="", amount=request.amount),
    "no reference": lambda request: Approved(psp_ref=None, amount=request.amount),  # type: ignore[arg-type]
    "a number for a reference": lambda request: Approved(psp_ref=17, amount=request.amount),  # type: ignore[arg-type]
    "a reference with a NUL": lambda request: Approved(psp_ref="a\0b", amount=request.amount),
    "a reference without an end": lambda request: Approved(psp_ref="r" * 10_000, amount=request.amount),
    "a pending without a reference": lambda _: Pending(psp_ref=""),
    "an action without an address": lambda request: ActionRequired(
        psp_ref=reference(request),
        action=None,  # type: ignore[arg-type]
    ),
    "an action at a number": lambda request: ActionRequired(
        psp_ref=reference(request),
        action=RedirectAction(4),  # type: ignore[arg-type]
    ),
    "an action that ends on Tuesday": lambda request: ActionRequired(
        psp_ref=reference(request),
        action=RedirectAction("https://psp.test/"),
        expires_at="Tuesday",  # type: ignore[arg-type]
    ),
    "a decline in bytes": lambda _: Declined(
        code="do_not_honor",
        raw_code=b"51",  # type: ignore[arg-type]
    ),
}


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize("lie", LIES)
async def test_whatever_an_adapter_does_that_is_not_clear_is_unknown(theatre: Shop, puppet: Puppet, lie: str) -> None:
    puppet.does = lambda _, request: LIES[lie](request)
    key = new_key()
    answer = await theatre.pay(key=key)
    assert answer.status_code == 202, answer.text
    payment = answer.json()
    assert (payment["status"], payment["outcome"], payment["last_error"]) == ("processing", "unknown", None)
    assert state(await theatre.get(payment)) == payment
    assert (await theatre.pay(key=key)).content == answer.content
    assert code(await theatre.act(payment, "confirm")) == (409, "operation_outcome_unknown")
    assert puppet.verbs == ["create_intent"]


STRANGE: dict[str, Callable[[Any], Any]] = {
    "a NUL in the raw answer": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, raw={"a\0": ["b\0", "\\u0000"]}
    ),
    "a raw answer that is none": lambda request: Approved(
        psp_ref=reference(request),
        amount=request.amount,
        raw=None,  # type: ignore[arg-type]
    ),
    "objects in the raw answer": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, raw={"a": object(), "b": {1, 2}}
    ),
    "times in the raw answer": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, raw={"at": clock.now(), "n": float("nan")}
    ),
    "a raw answer without a bottom": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, raw=_deep()
    ),
    "a megabyte of raw answer": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, raw={"a": "x" * 1_000_000}
    ),
    "numbers beyond all bounds": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, raw={"a": 10**400, "b": -(10**30)}
    ),
    "lone surrogates": lambda request: Approved(psp_ref=reference(request), amount=request.amount, raw={"a": "\ud800"}),
    "a network id with a NUL": lambda request: Approved(
        psp_ref=reference(request), amount=request.amount, network_transaction_id="n\0"
    ),
}


def _deep() -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(50_000):
        document = {"a": document}
    return document


@pytest.mark.parametrize("strange", STRANGE)
async def test_odd_words_around_a_clear_answer_do_not_make_it_unclear(
    theatre: Shop, puppet: Puppet, strange: str
) -> None:
    puppet.does = lambda _, request: STRANGE[strange](request)
    payment = (await theatre.pay()).json()
    assert payment["status"] == "succeeded"
    (operation,) = (await theatre.get(payment))["operations"]
    assert len(operation["observations"]) == 1


async def test_odd_words_around_a_decline_do_not_make_it_unclear(theatre: Shop, puppet: Puppet) -> None:
    puppet.does = lambda *_: Declined(
        code="no such code", raw_code="5\0", message="m\0" * 5_000, advice="\0", network_code="\0", raw={"x": "\0"}
    )
    payment = (await theatre.pay()).json()
    assert payment["status"] == "requires_payment_method"
    assert payment["last_error"]["code"] == "unmapped"
    puppet.does = approve
    assert (await theatre.act(payment, "confirm")).json()["status"] == "succeeded"


async def test_a_card_number_in_the_psp_s_words_is_masked_before_anything_keeps_it(
    theatre: Shop, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record], capsys: pytest.CaptureFixture[str]
) -> None:
    number = "4000056655665556"
    said = [
        Declined(code="do_not_honor", raw_code="05", message=f"card {number}", raw={"pan": number, "t": f"x{number}"}),
        OutcomeUnknown(f"no answer for {number}"),
    ]

    def tell(*_: Any) -> Any:
        word = said.pop(0)
        if isinstance(word, Exception):
            raise word
        return word

    puppet.does = tell
    payment = (await theatre.pay()).json()
    await theatre.act(payment, "confirm")
    shown = await theatre.http.get(f"/v1/payments/{payment['id']}")
    assert shown.json()["outcome"] == "unknown"
    assert number not in shown.text
    for table in ("facts", "operations", "payment_intents", "journal"):
        rows = await superuser.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} t")
        assert not [row for row in rows if number in row["row"]], table
    printed = capsys.readouterr()
    assert number not in printed.out + printed.err


@pytest.mark.parametrize("verb", ["create_intent", "capture", "refund"])
async def test_another_amount_than_asked_for_is_unknown_and_reported(
    theatre: Shop, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record], verb: str
) -> None:
    def lie(asked: str, request: Any) -> Any:
        amount = request.amount
        wrong = Money(amount.amount_minor + 1, amount.currency) if asked == verb else amount
        return Approved(psp_ref=reference(request), amount=wrong)

    puppet.does = lie
    payment = (await theatre.pay(1000, capture_method="manual")).json()
    if verb != "create_intent":
        answer = await theatre.act(payment, "capture", {"amount_minor": 300})
        if verb == "refund":
            answer = await theatre.act(payment, "refunds", {"amount_minor": 200})
        assert answer.status_code in (200, 202)
    shown = await theatre.get(payment)
    assert shown["operations"][-1]["state"] == "unknown"
    assert shown["operations"][-1]["observations"][0]["amount_minor"] != shown["operations"][-1]["amount_minor"]
    assert shown["amounts"]["refunded_minor"] == 0
    if verb == "create_intent":
        assert (shown["outcome"], shown["amounts"]["authorized_minor"]) == ("unknown", 0)
    assert "incident.opened" in [entry["type"] for entry in shown["audit"]]
    found = await superuser.fetchval(
        "SELECT data->>'code' FROM journal WHERE type = 'incident.opened' AND data->>'operation_id' IS NOT NULL"
        " ORDER BY xid DESC, seq DESC LIMIT 1"
    )
    assert found == "amount_mismatch"


async def test_a_reference_that_the_psp_gives_twice_is_unknown_and_reported(theatre: Shop, puppet: Puppet) -> None:
    puppet.does = lambda _, request: Approved(psp_ref="the-one", amount=request.amount)
    assert (await theatre.pay()).json()["status"] == "succeeded"
    answer = await theatre.pay()
    assert (answer.status_code, answer.json()["outcome"]) == (202, "unknown")
    shown = await theatre.get(answer.json())
    assert state(shown) == answer.json()
    assert "incident.opened" in [entry["type"] for entry in shown["audit"]]


@pytest.mark.parametrize(
    ("error", "said"),
    [(PspUnavailable("refused"), "psp_unavailable"), (PspMisconfigured("bad key"), "psp_misconfigured")],
    ids=["unavailable", "misconfigured"],
)
async def test_what_was_certainly_not_sent_may_be_sent_again(
    theatre: Shop, puppet: Puppet, error: Exception, said: str
) -> None:
    def refuse(*_: Any) -> Any:
        raise error

    puppet.does = refuse
    payment = (await theatre.pay(1000, capture_method="manual")).json()
    assert (payment["status"], payment["last_error"]["code"]) == ("requires_confirmation", said)
    puppet.does = approve
    payment = (await theatre.act(payment, "confirm")).json()
    assert payment["status"] == "requires_capture"
    puppet.does = refuse
    assert (await theatre.act(payment, "capture")).json()["amounts"]["capturable_minor"] == 1000
    assert (await theatre.act(payment, "cancel")).json()["status"] == "requires_capture"
    puppet.does = approve
    assert (await theatre.act(payment, "capture")).json()["status"] == "succeeded"
    puppet.does = refuse
    assert (await theatre.act(payment, "refunds")).json()["status"] == "canceled"
    puppet.does = approve
    assert (await theatre.act(payment, "refunds")).json()["status"] == "succeeded"


@pytest.mark.parametrize("what", ["capture", "refunds", "cancel"])
async def test_an_unknown_follow_up_holds_its_amount_and_never_counts_as_failed(
    theatre: Shop, puppet: Puppet, what: str
) -> None:
    payment = await theatre.paid(1000, capture_method="manual")
    if what == "refunds":
        await theatre.act(payment, "capture")

    def unclear(*_: Any) -> Any:
        raise OutcomeUnknown("sent, no answer")

    puppet.does = unclear
    body = {} if what == "cancel" else {"amount_minor": 600}
    answer = await theatre.act(payment, what, body)
    assert answer.status_code == (202 if what == "refunds" else 200)
    puppet.does = approve
    shown = await theatre.get(payment)
    assert shown["operations"][-1]["state"] == "unknown"
    if what == "refunds":
        assert (answer.json()["status"], shown["amounts"]["refundable_minor"]) == ("unknown", 400)
        refused = await theatre.act(payment, "refunds", {"amount_minor": 401})
        assert (code(refused), refused.json()["available_minor"]) == ((422, "amount_above_refundable"), 400)
    elif what == "capture":
        assert shown["amounts"]["capturable_minor"] == 400
        assert code(await theatre.act(payment, "capture", {"amount_minor": 401})) == (422, "amount_above_capturable")
        assert code(await theatre.act(payment, "cancel")) == (409, "payment_in_progress")
        assert code(await theatre.act(payment, "capture", {"amount_minor": 1, "final": True})) == (
            409,
            "payment_in_progress",
        )
    else:
        assert shown["status"] == "requires_capture"
        assert code(await theatre.act(payment, "cancel")) == (409, "payment_in_progress")
        assert code(await theatre.act(payment, "capture")) == (409, "payment_in_progress")


async def test_a_final_capture_waits_for_the_captures_before_it(theatre: Shop, puppet: Puppet) -> None:
    """Both at once would release what the other one is taking."""
    payment = await theatre.paid(1000, capture_method="manual")
    hold, asked = asyncio.Event(), asyncio.Event()

    async def slowly(verb: str, request: Any) -> Any:
        asked.set()
        await hold.wait()
        return approve(verb, request)

    puppet.does = slowly
    first = asyncio.create_task(theatre.act(payment, "capture", {"amount_minor": 300}))
    await asked.wait()
    puppet.does = approve
    final, key = {"amount_minor": 200, "final": True}, new_key()
    assert code(await theatre.act(payment, "capture", final, key)) == (409, "payment_in_progress")
    assert (await theatre.act(payment, "capture", {"amount_minor": 100})).status_code == 200
    hold.set()
    await first
    after = (await theatre.act(payment, "capture", final, key)).json()
    assert (after["amounts"]["captured_minor"], after["amounts"]["voided_minor"]) == (600, 400)


@pytest.mark.parametrize("outcome", ["approved", "unclear", "not sent"])
async def test_a_continuation_that_fails_leaves_no_doubt_about_what_is_known(
    theatre: Shop, puppet: Puppet, outcome: str
) -> None:
    puppet.does = lambda _, request: ActionRequired(
        psp_ref=reference(request), action=RedirectAction("https://psp.test/challenge")
    )
    payment = (await theatre.pay()).json()

    def go_on(verb: str, request: Any) -> Any:
        if outcome == "unclear":
            raise OutcomeUnknown("sent, no answer")
        if outcome == "not sent":
            raise PspUnavailable("refused")
        return Approved(psp_ref=request.psp_ref, amount=request.amount)

    puppet.does = go_on
    after = (await theatre.act(payment, "continue", {"params": {"a": "b"}})).json()
    assert puppet.calls[-1][1].params == {"a": "b"}
    expected = {
        "approved": ("succeeded", None),
        "unclear": ("processing", "unknown"),
        "not sent": ("requires_action", None),
    }
    assert (after["status"], after["outcome"]) == expected[outcome]
    assert state(await theatre.get(payment)) == after


# -- Time and the client --------------------------------------------------------------------------------------------------------


async def test_a_psp_that_hangs_leaves_the_outcome_unknown(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, puppet: Puppet, theatre: Shop
) -> None:
    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    puppet.does = hang
    short = with_payments(settings, psp_timeout_s=0.2)
    async with gateway(urls.app, short, master, with_puppets(settings)) as clients:
        hurried = Shop(clients(merchant.key), theatre.psp_url)
        answer = await hurried.pay()
        assert (answer.status_code, answer.json()["outcome"]) == (202, "unknown")
        (observation,) = (await hurried.get(answer.json()))["operations"][0]["observations"]
        assert (observation["observed"], observation["code"]) == ("unknown", "psp_timeout")


async def test_a_client_that_hangs_up_does_not_stop_the_charge(theatre: Shop, puppet: Puppet) -> None:
    hold, asked = asyncio.Event(), asyncio.Event()

    async def slowly(verb: str, request: Any) -> Any:
        asked.set()
        await hold.wait()
        return approve(verb, request)

    puppet.does = slowly
    key = new_key()
    await theatre.card()
    gone = asyncio.create_task(theatre.pay(key=key))
    await asked.wait()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    hold.set()

    async def ask() -> httpx.Response | None:
        answer = await theatre.pay(key=key)
        return answer if answer.status_code != 409 else None

    answer = await until(ask)
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert puppet.verbs == ["create_intent"]


# -- The database goes away between asking and storing --------------------------------------------------------------------------


@pytest.fixture
def own_urls(databases: Callable[[], Urls]) -> Urls:
    """A database of the test's own."""
    return databases()


@pytest.fixture
async def own(
    own_urls: Urls, settings: Settings, master: MasterKey, puppet: Puppet, psp_url: str
) -> AsyncIterator[tuple[Shop, Urls]]:
    """A gateway with a database of its own, which may be cut off."""
    from tests.conftest import ALL_SCOPES

    from clearspan.access.guard import Authenticator
    from clearspan.access.service import ApiKeys
    from clearspan.platform.context import Caller, Scope
    from clearspan.platform.db import Database
    from clearspan.tenants.service import Tenants

    db = Database(own_urls.app, settings.database)
    await db.open()
    pepper = master.derive("api-key-pepper")
    slug = f"t-{clock.random_bytes(8).hex()}"
    tenant = (await Tenants(db, master).create(slug, "Own")).tenant_id
    caller = Caller(scope=Scope(tenant, live=False), actor_type="cli", actor_id="tests", request_id="req_tests")
    keys = ApiKeys(db, pepper, settings.access, Authenticator(db, pepper, settings.access))
    _, secret = await keys.create(caller, "tests", ALL_SCOPES, None)
    await db.close()
    async with gateway(own_urls.app, settings, master, with_puppets(settings)) as clients:
        shop = Shop(clients(secret), psp_url)
        await shop.add_account("puppet", 1, psp="puppet", config={"name": puppet.name})
        await shop.card()
        yield shop, own_urls


async def cut(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Let nobody but the superuser in, and throw the others out."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", name
    )


async def mend(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')


async def test_a_database_that_is_gone_for_a_moment_loses_nothing(own: tuple[Shop, Urls], puppet: Puppet) -> None:
    shop, urls = own
    async with connected(urls.superuser) as superuser:

        async def act(verb: str, request: Any) -> Any:
            await cut(superuser)
            asyncio.get_running_loop().call_later(0.3, lambda: mending.append(asyncio.create_task(mend(superuser))))
            return approve(verb, request)

        mending: list[asyncio.Task[None]] = []
        puppet.does = act
        answer = await shop.pay()
        await asyncio.gather(*mending)
    assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
    assert puppet.verbs == ["create_intent"]


async def test_a_database_that_stays_away_is_never_told_as_nothing_sent(
    own: tuple[Shop, Urls], puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clearspan.payments import service

    monkeypatch.setattr(service, "SETTLE_TRIES", 2)
    shop, urls = own
    payment, key = await shop.ready(), new_key()
    async with connected(urls.superuser) as superuser:

        async def act(verb: str, request: Any) -> Any:
            await cut(superuser)
            return approve(verb, request)

        puppet.does = act
        answer = await shop.act(payment, "confirm", key=key)
        assert code(answer) == (503, "outcome_not_stored")
        assert "Nothing was sent" not in answer.text
        assert answer.headers["retry-after"] == "1"
        unsent = await shop.act(payment, "confirm", key=new_key())
        assert code(unsent) == (503, "database_unavailable")
        assert puppet.verbs == ["create_intent"]
        await mend(superuser)
        for table in ("idempotency_keys", "operations"):
            await superuser.execute(f"UPDATE {table} SET lease_until = created_at WHERE payment_id IS NOT NULL")
    puppet.does = approve

    async def heard() -> httpx.Response | None:
        """As a client repeats it: a connection that was cut may be met once more."""
        answer = await shop.act(payment, "confirm", key=key)
        return None if answer.status_code == 503 else answer

    again = await until(heard)
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")
    assert puppet.verbs == ["create_intent", "retrieve"]


async def test_an_outcome_that_the_database_throws_out_is_stored_at_the_next_try(
    theatre: Shop, puppet: Puppet, merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record], urls: Urls
) -> None:
    """A deadlock that somebody else makes, and whose victim the gateway is."""
    payment, tenant = await theatre.ready(), merchant.caller.scope.tenant_id
    hold, asked = asyncio.Event(), asyncio.Event()

    async def slowly(verb: str, request: Any) -> Any:
        asked.set()
        await hold.wait()
        return approve(verb, request)

    async def waiting() -> bool | None:
        found = await superuser.fetchval(
            "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND application_name = 'clearspan'"
        )
        return True if found else None

    puppet.does = slowly
    charging = asyncio.create_task(theatre.act(payment, "confirm"))
    await asked.wait()
    async with connected(urls.superuser) as rival, rival.transaction():
        await rival.execute("SET LOCAL deadlock_timeout = '1h'")  # Whoever looks first is thrown out: not this one.
        await rival.execute("SELECT FROM payment_intents WHERE tenant_id = $1 FOR UPDATE", tenant)
        hold.set()
        await until(waiting)
        await rival.execute("SELECT FROM idempotency_keys WHERE tenant_id = $1 FOR UPDATE", tenant)
    answer = await charging
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert puppet.verbs == ["create_intent"]


@pytest.mark.parametrize("what", ["continue", "cancel"])
async def test_a_repetition_and_the_call_it_overtakes_do_not_block_each_other(
    theatre: Shop,
    puppet: Puppet,
    merchant: Merchant,
    superuser: asyncpg.Connection[asyncpg.Record],
    urls: Urls,
    what: str,
) -> None:
    """One stores what the PSP said, the other continues under the same key: both want the key and the payment."""
    if what == "continue":
        puppet.does = lambda _, request: ActionRequired(
            psp_ref=reference(request), action=RedirectAction("https://psp.test/challenge")
        )
        payment = (await theatre.pay()).json()
    else:
        payment = await theatre.paid(capture_method="manual")
    hold, asked = asyncio.Event(), asyncio.Event()

    async def slowly(verb: str, request: Any) -> Any:
        asked.set()
        await hold.wait()
        psp_ref = getattr(request, "psp_ref", None) or reference(request)
        return Approved(psp_ref=psp_ref, amount=request.amount)

    puppet.does = slowly
    key = new_key()
    first = asyncio.create_task(theatre.act(payment, what, key=key))
    await asked.wait()
    tenant = merchant.caller.scope.tenant_id
    await superuser.execute("UPDATE idempotency_keys SET lease_until = created_at WHERE tenant_id = $1", tenant)
    await superuser.execute("UPDATE operations SET lease_until = created_at WHERE tenant_id = $1", tenant)

    async def waiting(count: int) -> bool | None:
        found = await superuser.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return True if found >= count else None

    async with connected(urls.superuser) as blocker:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("SELECT FROM payment_intents WHERE tenant_id = $1 FOR UPDATE", tenant)
        hold.set()
        await until(lambda: waiting(1))
        second = asyncio.create_task(theatre.act(payment, what, key=key))
        await until(lambda: waiting(2))
        await transaction.rollback()
    answers = [await first, await second]
    assert [one.status_code for one in answers] == [200, 200]
    assert answers[0].content == answers[1].content
