"""A PSP's message is believed only with its account's signature, is committed before it is answered, and is kept once."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import msgspec
import pytest
from tests.conftest import connected
from tests.core.payments.conftest import Puppet
from tests.core.psps.conftest import Office, Post, Rows, approved, event, opened, rented, signature, webhook_id, written
from tests.shop import Shop, code

from clearspan.platform import clock, ids
from clearspan.platform.crypto import MasterKey
from clearspan.platform.pan import find_pan
from clearspan.sdk import DisputeNews, DisputeStatus, Hint, Money, News, OutcomeUnknown
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewMerchant, Urls

PAN = "4000056655665556"
"""A published test number that no fixture uses."""


def op() -> str:
    """The id of an operation that nobody has."""
    return ids.encode("op", clock.new_uuid())


async def test_a_message_is_kept_before_it_is_answered(
    mute: Office, post: Post, inbox: Rows, merchant: Merchant
) -> None:
    there = Post(await mute.client(), post.account, post.secret)
    news = approved(op(), raw={"id": "ch_1", "note": "all of it"})
    answer = await there.send(event(news, event_id="evt-1", sequence=7))
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert {"set-cookie", "location"}.isdisjoint(answer.headers)
    row = await inbox.one()
    assert (row["state"], row["event_key"], row["type"]) == ("received", "evt-1", "charge.updated")
    assert (row["psp_sequence"], row["seen"], row["tries"]) == (7, 1, 0)
    assert row["due_at"] == row["received_at"]
    assert json.loads(row["news"])["outcome"]["raw"] == {"id": "ch_1", "note": "all of it"}
    sealed = await mute.gateway.tenants.open(
        merchant.caller.scope, "webhook_inbox", "body", row["inbox_id"], row["body"]
    )
    assert json.loads(sealed)["events"][0]["event_id"] == "evt-1"
    assert b"evt-1" not in row["body"]


async def test_one_message_with_several_events_is_several_rows(mute: Office, post: Post, inbox: Rows) -> None:
    there = Post(await mute.client(), post.account, post.secret)
    twice = event(approved(op()), event_id="evt-a")
    body = written(twice, event(None, event_id="evt-b"), event(approved(op()), event_id=""), twice)
    assert (await there.post(body)).status_code == 200
    rows = {row["event_key"]: row["state"] for row in await inbox.all()}
    assert {key: state for key, state in rows.items() if key.startswith("evt")} == {
        "evt-a": "received",
        "evt-b": "ignored",
    }
    assert list(rows.values()).count("received") == 3
    assert (await there.post(body)).status_code == 200
    assert [(row["seen"]) for row in await inbox.all()] == [2, 2, 2, 2]


async def test_a_message_without_events_is_kept_too(post: Post, inbox: Rows) -> None:
    assert (await post.send()).status_code == 200
    assert [(row["type"], row["state"], row["due_at"]) for row in await inbox.all()] == [("empty", "ignored", None)]


# -- Signatures (W4) ------------------------------------------------------------------------------------------------------------


def wrong(post: Post, body: bytes) -> dict[str, Any]:
    return {"headers": post.headers(body, secret="whsec_wrong")}


def missing(post: Post, body: bytes) -> dict[str, Any]:
    return {"headers": {}}


def old(post: Post, body: bytes) -> dict[str, Any]:
    return {"headers": post.headers(body, shift_s=-3600)}


def future(post: Post, body: bytes) -> dict[str, Any]:
    return {"headers": post.headers(body, shift_s=3600)}


def of_another_body(post: Post, body: bytes) -> dict[str, Any]:
    return {"headers": post.headers(body + b" ")}


def of_the_same_json_in_other_bytes(post: Post, body: bytes) -> dict[str, Any]:
    return {"headers": post.headers(json.dumps(json.loads(body)).encode())}


def with_its_time_moved(post: Post, body: bytes) -> dict[str, Any]:
    at = int(clock.now().timestamp())
    return {"headers": {"post-signature": f"t={at},v1={signature(post.secret, at - 3600, body)}"}}


@pytest.mark.parametrize(
    "forged", [wrong, missing, old, future, of_another_body, of_the_same_json_in_other_bytes, with_its_time_moved]
)
async def test_a_message_that_is_not_rightly_signed_changes_nothing(
    post: Post, inbox: Rows, forged: Callable[[Post, bytes], dict[str, Any]], office: Office
) -> None:
    body = written(event(approved(op())))
    before = office.gateway.metrics.psp_webhooks_received.labels("post", "rejected")._value.get()
    answer = await post.post(body, **forged(post, body))
    assert code(answer) == (401, "webhook_rejected")
    assert answer.headers["www-authenticate"].startswith("Signature")
    assert await inbox.all() == []
    assert office.gateway.metrics.psp_webhooks_received.labels("post", "rejected")._value.get() == before + 1


async def test_of_two_signatures_one_has_to_hold(post: Post, inbox: Rows) -> None:
    assert (await post.send(event(approved(op())), second="00" * 32)).status_code == 200
    assert len(await inbox.all()) == 1
    refused = await post.send(event(approved(op())), second="00" * 32, secret="whsec_wrong")
    assert code(refused) == (401, "webhook_rejected")


async def test_the_log_says_why_a_message_was_rejected_and_nothing_of_what_it_said(
    post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    await post.send(event(approved(op(), raw={"secret": "canary-7f3a"})), secret="whsec_wrong")
    said = capsys.readouterr()
    assert "no signature fits" in said.out
    for secret in ("canary-7f3a", post.secret, "whsec_wrong", post.path):
        assert secret not in said.out + said.err


# -- Rotation -------------------------------------------------------------------------------------------------------------------


async def rotate(shop: Shop, post: Post, puppet: Puppet, secret: str) -> None:
    body = {"config": {"name": puppet.name, "secret": secret}}
    answer = await shop.http.patch(f"/v1/psp-accounts/{post.account['id']}", json=body)
    assert (answer.status_code, answer.json()["webhook_url"]) == (200, post.account["webhook_url"])


async def test_while_a_secret_rotates_the_old_one_is_believed_too(
    shop: Shop, post: Post, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    await rotate(shop, post, puppet, "whsec_new")
    for secret in (post.secret, "whsec_new"):
        assert (await post.send(event(approved(op())), secret=secret)).status_code == 200
    account = ids.decode("acct", post.account["id"])
    until = await superuser.fetchval("SELECT previous_until FROM psp_accounts WHERE psp_account_id = $1", account)
    assert timedelta(hours=71) < until - clock.now() <= timedelta(hours=72)
    await superuser.execute(
        "UPDATE psp_accounts SET previous_until = $2 WHERE psp_account_id = $1", account, clock.now()
    )
    assert code(await post.send(event(approved(op())))) == (401, "webhook_rejected")
    assert (await post.send(event(approved(op())), secret="whsec_new")).status_code == 200


async def test_a_second_rotation_ends_the_first_secret(shop: Shop, post: Post, puppet: Puppet) -> None:
    await rotate(shop, post, puppet, "whsec_second")
    await rotate(shop, post, puppet, "whsec_third")
    told = {
        secret: (await post.send(event(approved(op())), secret=secret)).status_code
        for secret in (post.secret, "whsec_second", "whsec_third")
    }
    assert told == {post.secret: 401, "whsec_second": 200, "whsec_third": 200}


async def test_other_changes_of_an_account_keep_its_secrets(
    shop: Shop, post: Post, puppet: Puppet, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    await rotate(shop, post, puppet, "whsec_new")
    until = "SELECT previous_until FROM psp_accounts WHERE psp_account_id = $1", ids.decode("acct", post.account["id"])
    before = await superuser.fetchval(*until)
    changed = await shop.http.patch(
        f"/v1/psp-accounts/{post.account['id']}", json={"priority": 5, "status": "disabled"}
    )
    assert changed.status_code == 200
    assert await superuser.fetchval(*until) == before, "the overlap is not prolonged"
    # Disabled: no new charges, but what was charged still has its messages.
    for secret in (post.secret, "whsec_new"):
        assert (await post.send(event(approved(op())), secret=secret)).status_code == 200


# -- Addresses (W5) -------------------------------------------------------------------------------------------------------------


async def test_a_valid_message_is_nothing_at_another_address(
    office: Office, post: Post, shop: Shop, puppet: Puppet, merchant: Merchant, new_merchant: NewMerchant, psp_url: str,
    superuser: asyncpg.Connection[asyncpg.Record],
) -> None:  # fmt: skip
    live = await new_merchant(live=True, of=merchant)
    stranger = await new_merchant()
    others = [await rented(office, shop, puppet, "second")]
    others += [
        await rented(office, Shop(await office.client(other.key), psp_url), puppet) for other in (live, stranger)
    ]
    body = written(event(approved(op())))
    before = await superuser.fetchval("SELECT count(*) FROM webhook_inbox")
    for other in others:
        assert code(await post.post(body, to=other.path)) == (401, "webhook_rejected")
    for path in ("/webhooks/whk_nobody", f"{post.path}x", post.path[:-1], "/webhooks/" + "a" * 500):
        assert code(await post.post(body, to=path)) == (404, "webhook_address_unknown")
    assert await superuser.fetchval("SELECT count(*) FROM webhook_inbox") == before


async def test_an_address_is_long_and_of_its_own(post: Post, shop: Shop, puppet: Puppet, office: Office) -> None:
    other = await rented(office, shop, puppet, "second")
    assert other.path != post.path
    token = post.path.rpartition("/")[2]
    assert token.startswith("whk_")
    assert len(base64.b32decode(token.removeprefix("whk_").upper())) == 20
    listed = (await shop.http.get("/v1/psp-accounts")).json()["data"]
    assert {one["webhook_url"] for one in listed} == {post.account["webhook_url"], other.account["webhook_url"]}


async def test_only_post_is_answered_and_an_api_key_opens_nothing(post: Post, shop: Shop) -> None:
    assert (await shop.http.get(post.path)).status_code == 405
    answer = await shop.http.post(post.path, content=written(event(approved(op()))))
    assert code(answer) == (401, "webhook_rejected")


# -- Duplicates (W1) ------------------------------------------------------------------------------------------------------------


async def test_a_hundred_duplicates_at_once_are_one_row(post: Post, inbox: Rows) -> None:
    body = written(event(approved(op()), event_id="evt-1"), event(approved(op()), event_id="evt-2"))
    turned = written(*reversed(msgspec.json.decode(body)["events"]))
    answers = await asyncio.gather(*(post.post(turned if n % 2 else body) for n in range(100)))
    told = Counter(answer.status_code for answer in answers)
    assert set(told) <= {200, 503}, "503: more at once than there are connections, so it comes again"
    rows = await inbox.all()
    assert [row["event_key"] for row in sorted(rows, key=lambda row: row["event_key"])] == ["evt-1", "evt-2"]
    assert {row["seen"] for row in rows} == {told[200]}


async def test_without_an_id_the_bytes_tell_duplicates(post: Post, inbox: Rows) -> None:
    body = written(event(approved(op()), event_id=""))
    for _ in range(2):
        assert (await post.post(body)).status_code == 200
    assert (await post.post(written(event(approved(op()), event_id="")))).status_code == 200
    assert [row["seen"] for row in await inbox.all()] == [2, 1]


async def test_the_same_id_at_two_accounts_is_two_messages(
    office: Office, post: Post, shop: Shop, puppet: Puppet, inbox: Rows
) -> None:
    other = await rented(office, shop, puppet, "second")
    for account in (post, other):
        assert (await account.send(event(approved(op()), event_id="evt-1"))).status_code == 200
    assert [row["event_key"] for row in await inbox.all()] == ["evt-1", "evt-1"]


# -- Sizes and card numbers -----------------------------------------------------------------------------------------------------


async def test_a_message_of_a_hundred_megabytes_is_refused_early(post: Post, settings: Settings) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1600):
            taken += 1
            yield b"x" * 65_536

    answer = await post._http.post(post.path, content=endless())
    assert code(answer) == (413, "body_too_large")
    assert taken * 65_536 <= settings.psps.webhook_body_max_kb * 1024 + 2 * 65_536
    taken = 0
    answer = await post._http.post(post.path, content=endless(), headers={"content-length": str(1600 * 65_536)})
    assert code(answer) == (413, "body_too_large")
    assert taken == 0


async def test_a_message_may_be_larger_than_a_request(post: Post, settings: Settings, inbox: Rows) -> None:
    body = written(event(approved(op())), padding="x" * (settings.server.body_max_kb * 1024 * 2))
    assert (await post.post(body)).status_code == 200
    assert len(await inbox.all()) == 1


@pytest.mark.parametrize(
    ("content", "extra"),
    [
        ("application/json", {"card": PAN, "cvc": "123"}),
        (
            "application/json",
            {"card": int(PAN), "nested": [{"note": f"paid with {PAN[:4]} {PAN[4:8]} {PAN[8:12]} {PAN[12:]}"}]},
        ),
        ("application/json", {"inner": json.dumps({"number": PAN, "cvv": "987"})}),
        ("text/plain", {"card": base64.b64encode(f"card={PAN}".encode()).decode()}),
    ],
    ids=["fields", "number and text", "JSON in a string", "base64"],
)
async def test_a_card_number_is_let_in_and_masked_before_it_is_stored(
    post: Post, shop: Shop, inbox: Rows, content: str, extra: dict[str, Any]
) -> None:
    """Refused, it would come again for ever."""
    news = approved(op(), raw=extra | {"said": f"card {PAN} was charged"})
    body = written(event(news, type=f"charge {PAN}"), **extra)
    headers = post.headers(body) | {"content-type": content, "x-card": PAN}
    assert (await post.post(body, to=f"{post.path}?card={PAN}", headers=headers)).status_code == 200
    row = await inbox.one()
    shown = (await shop.http.get(f"/v1/psp-webhooks/{webhook_id(row)}")).text
    stored = " ".join(str(value) for value in row.values()) + shown
    assert PAN not in stored
    assert base64.b64encode(f"card={PAN}".encode()).decode() not in stored
    assert '"123"' not in stored
    assert re.search(r"cvv\W+987", stored) is None
    assert find_pan(row["news"].encode()) is None
    assert find_pan(json.loads(shown)["body"].encode()) is None
    assert "400005******5556" in stored


async def test_a_message_without_card_data_is_kept_to_the_byte(post: Post, shop: Shop, inbox: Rows) -> None:
    body = b" " + written(event(approved(op())), odd_spaces="\u00a0ok") + b"\n"
    assert (await post.post(body)).status_code == 200
    shown = (await shop.http.get(f"/v1/psp-webhooks/{webhook_id(await inbox.one())}")).json()
    assert shown["body"].encode() == body


# -- What cannot be read --------------------------------------------------------------------------------------------------------

ODD = b'{"events":[],"odd":true,"n":%d}'


async def hang(*_: Any) -> Any:
    await clock.sleep(60)


def fail(error: Exception) -> Callable[[str, Any], Any]:
    def does(verb: str, request: Any) -> Any:
        raise error

    return does


def give(found: Any) -> Callable[[str, Any], Any]:
    return lambda _verb, _request: found


@pytest.fixture(scope="module")
async def hasty(urls: Urls, settings: Settings, master: MasterKey) -> AsyncIterator[Office]:
    """Gives an adapter a fifth of a second."""
    rules = msgspec.structs.replace(settings.psps, webhook_verify_timeout_s=0.2)
    async with AsyncExitStack() as stack:
        yield await opened(urls.app, msgspec.structs.replace(settings, psps=rules), master, stack)


@pytest.mark.parametrize(
    "does",
    [
        fail(RuntimeError("the plugin quotes canary-7f3a")),
        fail(KeyError("canary-7f3a")),
        hang,
        give(None),
        give([{"event_id": "x"}]),
        give([event(approved(None), event_id=7)]),  # type: ignore[arg-type]
        give([event("news")]),  # type: ignore[arg-type]
        give([event(approved(None), sequence=2**70)]),
        give([event(msgspec.structs.replace(approved(None), outcome=None))]),
    ],
    ids=["raises", "KeyError", "hangs", "None", "dicts", "id", "news", "sequence", "outcome"],
)
async def test_a_plugins_fault_makes_the_psp_send_again(
    hasty: Office, post: Post, inbox: Rows, puppet: Puppet, does: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Post(await hasty.client(), post.account, post.secret)
    puppet.does = does
    assert code(await there.post(ODD % 1)) == (503, "webhook_not_taken")
    assert await inbox.all() == []
    puppet.does = give([event(approved(op()))])
    assert (await there.post(ODD % 1)).status_code == 200, "the plugin was repaired"
    said = capsys.readouterr()
    assert "adapter raised" in said.out
    assert "canary-7f3a" not in said.out + said.err
    assert len(await inbox.all()) == 1


@pytest.mark.parametrize(
    "does",
    [
        fail(OutcomeUnknown(f"no such event type, card {PAN}")),
        give([event(approved(op(), psp_ref="x" * 501))]),
        give([event(approved(op(), psp_ref="nul\0"))]),
        give([event(None)] * 501),
    ],
    ids=["says so", "long reference", "NUL", "too many"],
)
async def test_a_signed_message_that_nobody_can_read_is_kept_for_a_human(
    post: Post, shop: Shop, puppet: Puppet, inbox: Rows, does: Any
) -> None:
    puppet.does = does
    for _ in range(2):
        assert (await post.post(ODD % 2)).status_code == 200
    row = await inbox.one()
    assert (row["state"], row["type"], row["news"], row["seen"]) == ("needs_attention", "unreadable", None, 2)
    assert row["note"]
    assert PAN not in row["note"]
    assert row["due_at"] is None
    assert await inbox.told() == ["webhook.needs_attention"]
    shown = (await shop.http.get(f"/v1/psp-webhooks/{webhook_id(row)}")).json()
    assert shown["body"].encode() == ODD % 2
    assert code(await shop.post(f"/v1/psp-webhooks/{webhook_id(row)}/retry")) == (409, "psp_webhook_unreadable")


async def test_text_that_the_database_cannot_hold_is_kept_readable(post: Post, puppet: Puppet, inbox: Rows) -> None:
    puppet.does = give(
        [event(approved(op(), raw={"a\0b": "c\0d", "lone": "\ud800"}), type="nul\0 \ud800", event_id="e\ud800")]
    )
    assert (await post.post(ODD % 3)).status_code == 200
    row = await inbox.one()
    assert (row["event_key"], row["type"]) == ("e?", "nul\ufffd ?")


async def test_a_psp_whose_plugin_is_gone_sends_again(
    urls: Urls, settings: Settings, master: MasterKey, post: Post, inbox: Rows
) -> None:
    async with AsyncExitStack() as stack:
        office = await opened(urls.app, settings, master, stack)
        del office.gateway.plugins.psps["post"]
        there = Post(await office.client(), post.account, post.secret)
        assert code(await there.send(event(approved(op())))) == (503, "webhook_not_taken")
    assert await inbox.all() == []


async def test_the_adapter_gets_the_message_as_it_came(post: Post, puppet: Puppet) -> None:
    puppet.does = give([])
    body = ODD % 4
    headers = [*post.headers(body).items(), ("X-Twice", "one"), ("x-twice", "two"), ("Authorization", "Basic abc")]
    answer = await post._http.post(f"{post.path}?b=2&a=%C3%A9&c=", content=body, headers=headers)
    assert answer.status_code == 200
    (verb, delivery) = puppet.calls[-1]
    assert (verb, delivery.body, delivery.query) == ("verify_webhook", body, {"b": "2", "a": "\u00e9", "c": ""})
    assert delivery.headers["x-twice"] == "one, two"
    assert delivery.headers["authorization"] == "Basic abc"
    assert delivery.received_at.utcoffset() == timedelta(0)


async def test_an_empty_body_reaches_the_adapter_empty(post: Post) -> None:
    """The gate makes {} of nothing elsewhere, and that would have another signature."""
    empty = await post.post(b"")
    assert code(empty) == (503, "webhook_not_taken"), "signed, and no JSON: this adapter's fault"
    braces = await post.post(b"", headers=post.headers(b"{}"))
    assert code(braces) == (401, "webhook_rejected")


# -- Unsigned messages ----------------------------------------------------------------------------------------------------------


async def test_an_unsigned_message_is_a_hint_whatever_it_says(
    office: Office, shop: Shop, puppet: Puppet, inbox: Rows
) -> None:
    post = await rented(office, shop, puppet, psp="open-post")
    reference = op()
    dispute = DisputeNews(
        dispute_ref="dp_1", status=DisputeStatus.LOST, amount=Money(500, "EUR"), charge_ref="ch_1", reference=reference
    )
    given: list[News] = [approved(reference), dispute, Hint(psp_ref="ch_2")]
    events = [event(news, event_id=f"evt-{number}") for number, news in enumerate(given)]
    assert (await post.send(*events, headers={})).status_code == 200
    rows = sorted(await inbox.all(), key=lambda row: str(row["event_key"]))
    assert [json.loads(row["news"]) for row in rows] == [
        {"type": "hint", "kind": "charge", "reference": reference, "psp_ref": f"ref-{reference}"},
        {"type": "hint", "kind": "charge", "reference": reference, "psp_ref": "ch_1"},
        {"type": "hint", "psp_ref": "ch_2"},
    ]


# -- The database ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_urls(databases: Callable[[], Urls]) -> Urls:
    """A database that may be cut off."""
    return databases()


@pytest.fixture
async def alone(
    own_urls: Urls, settings: Settings, master: MasterKey, psp_url: str, puppet: Puppet
) -> AsyncIterator[tuple[Post, Urls]]:
    """An account in a database of its own."""
    from tests.conftest import ALL_SCOPES

    from clearspan.access.guard import Authenticator
    from clearspan.access.service import ApiKeys
    from clearspan.platform.context import Caller, Scope
    from clearspan.tenants.service import Tenants

    async with AsyncExitStack() as stack:
        office = await opened(own_urls.app, settings, master, stack)
        office.gateway.psp_webhooks.wake = lambda _scope, _request_id: None
        tenant = (await Tenants(office.gateway.db, master).create("alone", "Alone")).tenant_id
        caller = Caller(scope=Scope(tenant, live=False), actor_type="cli", actor_id="tests", request_id="req_tests")
        pepper = master.derive("api-key-pepper")
        keys = ApiKeys(
            office.gateway.db, pepper, settings.access, Authenticator(office.gateway.db, pepper, settings.access)
        )
        _, secret = await keys.create(caller, "tests", ALL_SCOPES, None)
        yield await rented(office, Shop(await office.client(secret), psp_url), puppet), own_urls


THROW_OUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1"),
        ("SET default_transaction_read_only = on", "RESET default_transaction_read_only"),
    ],
    ids=["away", "read only"],
)
async def test_without_a_row_there_is_no_200(alone: tuple[Post, Urls], breaks: str, mends: str) -> None:
    post, urls = alone
    body = written(event(approved(op()), event_id="evt-1"))
    async with connected(urls.superuser) as superuser:
        await superuser.execute("SET default_transaction_read_only = off")
        name = await superuser.fetchval("SELECT current_database()")
        for prepared in (False, True):  # Before and after the process knows the account.
            await superuser.execute(f'ALTER DATABASE "{name}" {breaks}')
            await superuser.execute(THROW_OUT, name)
            answers = [await post.post(body) for _ in range(3)]
            assert {code(answer) for answer in answers} == {(503, "database_unavailable")}
            assert await superuser.fetchval("SELECT count(*) FROM webhook_inbox") == int(prepared)
            await superuser.execute(f'ALTER DATABASE "{name}" {mends}')
            await superuser.execute(THROW_OUT, name)
            assert await _insist(post, body) == 200
        assert [tuple(row) for row in await superuser.fetch("SELECT event_key, seen FROM webhook_inbox")] == [
            ("evt-1", 2)
        ]


async def _insist(post: Post, body: bytes) -> int:
    """As a PSP does; the first connections are those that were thrown out."""
    answers: list[httpx.Response] = []
    while len(answers) < 20 and (not answers or answers[-1].status_code == 503):
        answers.append(await post.post(body))
    return answers[-1].status_code
