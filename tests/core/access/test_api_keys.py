"""API keys: the secret is shown once, a key gives no more than it has, and an ended key ends."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest

from clearspan.access.errors import KeyAlreadyRotated, KeyNotActive, ScopesExceeded
from clearspan.access.guard import Authenticator
from clearspan.access.keys import SCOPES, parse
from clearspan.access.schemas import ApiKeyCreate
from clearspan.access.service import ApiKeys
from clearspan.platform import clock, ids
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.platform.idempotency import IdempotencyKey, read_key
from clearspan.platform.problems import InvalidRequest, NotFound, Unauthorized
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, NewMerchant

READ = frozenset({"payments:read"})
KEYS = frozenset({"api_keys:read", "api_keys:write"})


@pytest.fixture(scope="session")
def authenticator(db: Database, master: MasterKey, settings: Settings) -> Authenticator:
    return Authenticator(db, master.derive("api-key-pepper"), settings.access)


@pytest.fixture(scope="session")
def service(db: Database, master: MasterKey, settings: Settings, authenticator: Authenticator) -> ApiKeys:
    """Keys and the authenticator of one process."""
    return ApiKeys(db, master.derive("api-key-pepper"), settings.access, authenticator)


def cli(caller: Caller) -> Caller:
    return Caller(scope=caller.scope, actor_type="cli", actor_id="cli", request_id="req_cli")


def idempotency(body: bytes = b"{}") -> IdempotencyKey:
    key = read_key(clock.random_bytes(8).hex(), route="POST /v1/api-keys", path="/v1/api-keys", body=body)
    assert key is not None
    return key


def uuid_of(public: str) -> Any:
    return ids.decode("key", public)


async def authenticates(authenticator: Authenticator, secret: str) -> bool:
    try:
        await authenticator.caller(f"Bearer {secret}", "req_test")
    except Unauthorized:
        return False
    return True


async def test_a_key_authenticates_as_its_tenant_mode_and_scopes(
    service: ApiKeys, authenticator: Authenticator, tenant: Caller
) -> None:
    for live in (False, True):
        scope = Scope(tenant_id=tenant.scope.tenant_id, live=live)
        maker = msgspec.structs.replace(cli(tenant), scope=scope)
        key, secret = await service.create(maker, "backend", READ)
        assert secret.startswith(f"csk_{'live' if live else 'test'}_")
        assert secret.startswith(key.prefix)
        caller = await authenticator.caller(f"Bearer {secret}", "req_test")
        assert (caller.scope, caller.scopes, caller.actor_id, caller.tenant) == (scope, READ, key.id, tenant.tenant)


async def test_the_database_cannot_authenticate(
    service: ApiKeys, tenant: Caller, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    _, secret = await service.create(cli(tenant), "backend", READ)
    parsed = parse(secret)
    assert parsed is not None
    dump = str(await superuser.fetch("SELECT k::text FROM api_keys k WHERE tenant_id = $1", tenant.scope.tenant_id))
    assert parsed.prefix in dump
    hidden = secret.partition(parsed.prefix)[2]
    assert hidden not in dump
    assert hidden.encode().hex() not in dump


async def test_another_pepper_knows_no_key(db: Database, settings: Settings, merchant: Merchant) -> None:
    stranger = Authenticator(db, b"another pepper", settings.access)
    assert not await authenticates(stranger, merchant.key)


async def test_a_repeated_creation_gives_the_same_key_without_its_secret(
    service: ApiKeys, tenant: Caller, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    body = ApiKeyCreate(name="backend", scopes=["payments:read"])
    key = idempotency()
    first = msgspec.json.decode((await service.issue(tenant, key, body)).body)
    second = msgspec.json.decode((await service.issue(tenant, key, body)).body)
    assert first["secret"].startswith("csk_test_")
    assert second == first | {"secret": None}
    kept = await superuser.fetch("SELECT body FROM idempotency_keys WHERE tenant_id = $1", tenant.scope.tenant_id)
    assert len(kept) == 1
    assert first["secret"].encode() not in kept[0]["body"]


async def test_a_key_cannot_make_a_stronger_one(service: ApiKeys, new_merchant: NewMerchant) -> None:
    weak = await new_merchant(scopes=KEYS | READ)
    key, _ = await service.create(weak.caller, "same", KEYS)
    assert key.scopes == sorted(KEYS)
    with pytest.raises(ScopesExceeded, match="payments:write"):
        await service.create(weak.caller, "stronger", READ | {"payments:write"})


async def test_what_a_process_remembers_of_the_maker_does_not_count(service: ApiKeys, tenant: Caller) -> None:
    key, _ = await service.create(cli(tenant), "maker", KEYS)
    boaster = msgspec.structs.replace(tenant, key_id=uuid_of(key.id), scopes=frozenset(SCOPES))
    with pytest.raises(ScopesExceeded):
        await service.create(boaster, "stronger", READ)


async def test_a_revoked_key_makes_no_key_even_while_it_is_remembered(service: ApiKeys, tenant: Caller) -> None:
    key, _ = await service.create(cli(tenant), "maker", KEYS)
    maker = msgspec.structs.replace(tenant, key_id=uuid_of(key.id), scopes=KEYS)
    await service.revoke(cli(tenant), uuid_of(key.id))
    with pytest.raises(Unauthorized):
        await service.create(maker, "too late", KEYS)


@pytest.mark.parametrize(
    ("scopes", "ends_in_s"),
    [([], None), (["payments:everything"], None), (["any"], None), (["payments:read"], 0), (["payments:read"], -1)],
)
async def test_nonsense_makes_no_key(
    service: ApiKeys, tenant: Caller, scopes: list[str], ends_in_s: int | None
) -> None:
    expires_at = None if ends_in_s is None else clock.now() + timedelta(seconds=ends_in_s)
    with pytest.raises(InvalidRequest):
        await service.create(cli(tenant), "key", scopes, expires_at)


async def test_an_expired_key_is_refused_and_shown_as_expired(
    service: ApiKeys, authenticator: Authenticator, tenant: Caller, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    key, secret = await service.create(cli(tenant), "key", READ, clock.now() + timedelta(hours=1))
    assert await authenticates(authenticator, secret)
    await superuser.execute("UPDATE api_keys SET expires_at = $1 WHERE key_id = $2", clock.now(), uuid_of(key.id))
    authenticator.forget()
    assert not await authenticates(authenticator, secret)
    assert (await service.get(tenant.scope, uuid_of(key.id))).status == "expired"


async def test_after_a_rotation_both_keys_work_until_the_overlap_ends(
    service: ApiKeys, authenticator: Authenticator, tenant: Caller, settings: Settings
) -> None:
    old, old_secret = await service.create(cli(tenant), "backend", READ)
    before = clock.now()
    new = msgspec.json.decode((await service.rotate(cli(tenant), None, uuid_of(old.id))).body)
    assert (new["name"], new["scopes"], new["rotated_from"], new["expires_at"]) == (
        "backend",
        sorted(READ),
        old.id,
        None,
    )
    assert await authenticates(authenticator, old_secret)
    assert await authenticates(authenticator, new["secret"])
    end = (await service.get(tenant.scope, uuid_of(old.id))).expires_at
    overlap = timedelta(hours=settings.access.key_rotation_overlap_h)
    assert end is not None
    assert before + overlap <= end <= clock.now() + overlap


async def test_a_rotated_key_keeps_its_lifetime_and_never_lives_longer_than_before(
    service: ApiKeys, tenant: Caller
) -> None:
    lifetime = timedelta(minutes=30)
    old, _ = await service.create(cli(tenant), "short", READ, clock.now() + lifetime)
    new = msgspec.json.decode((await service.rotate(cli(tenant), None, uuid_of(old.id))).body)
    created, ends = (datetime.fromisoformat(new[name]) for name in ("created_at", "expires_at"))
    assert abs((ends - created) - lifetime) < timedelta(seconds=5)
    assert (await service.get(tenant.scope, uuid_of(old.id))).expires_at == old.expires_at


async def test_without_an_overlap_the_old_key_ends_at_once(
    db: Database, master: MasterKey, settings: Settings, authenticator: Authenticator, tenant: Caller
) -> None:
    strict = msgspec.structs.replace(settings.access, key_rotation_overlap_h=0)
    service = ApiKeys(db, master.derive("api-key-pepper"), strict, authenticator)
    old, secret = await service.create(cli(tenant), "backend", READ)
    assert await authenticates(authenticator, secret)
    await service.rotate(cli(tenant), None, uuid_of(old.id))
    assert not await authenticates(authenticator, secret)


async def test_a_repeated_rotation_makes_one_successor(service: ApiKeys, tenant: Caller) -> None:
    old, _ = await service.create(cli(tenant), "backend", READ)
    key = idempotency()
    first = msgspec.json.decode((await service.rotate(tenant, key, uuid_of(old.id))).body)
    second = msgspec.json.decode((await service.rotate(tenant, key, uuid_of(old.id))).body)
    assert second == first | {"secret": None}
    with pytest.raises(KeyAlreadyRotated):
        await service.rotate(tenant, idempotency(), uuid_of(old.id))


async def test_a_key_cannot_take_over_a_stronger_one_by_rotating_it(
    service: ApiKeys, new_merchant: NewMerchant
) -> None:
    strong = await new_merchant()
    weak = await new_merchant(of=strong, scopes=KEYS)
    assert strong.caller.key_id is not None
    with pytest.raises(ScopesExceeded):
        await service.rotate(weak.caller, None, strong.caller.key_id)


async def test_an_ended_key_cannot_be_rotated(service: ApiKeys, tenant: Caller) -> None:
    key, _ = await service.create(cli(tenant), "key", READ)
    await service.revoke(cli(tenant), uuid_of(key.id))
    with pytest.raises(KeyNotActive):
        await service.rotate(cli(tenant), None, uuid_of(key.id))


async def test_a_revoked_key_is_refused_at_once_and_stays_revoked(
    service: ApiKeys, authenticator: Authenticator, tenant: Caller
) -> None:
    key, secret = await service.create(cli(tenant), "key", READ)
    assert await authenticates(authenticator, secret)
    revoked = await service.revoke(cli(tenant), uuid_of(key.id))
    assert revoked.status == "revoked"
    assert not await authenticates(authenticator, secret)
    assert (await service.revoke(cli(tenant), uuid_of(key.id))).revoked_at == revoked.revoked_at


async def test_every_change_is_journalled_in_order_and_without_secrets(
    service: ApiKeys, tenant: Caller, superuser: asyncpg.Connection[asyncpg.Record]
) -> None:
    old, secret = await service.create(cli(tenant), "key", READ)
    new = msgspec.json.decode((await service.rotate(cli(tenant), None, uuid_of(old.id))).body)
    await service.revoke(cli(tenant), uuid_of(old.id))
    await service.revoke(cli(tenant), uuid_of(old.id))
    entries = await superuser.fetch(
        "SELECT type, sequence, subject_id, data::text FROM journal WHERE tenant_id = $1 AND subject_id = ANY($2)"
        " ORDER BY xid, seq",
        tenant.scope.tenant_id,
        [uuid_of(old.id), uuid_of(new["id"])],
    )
    assert [(ids.encode("key", entry["subject_id"]), entry["type"], entry["sequence"]) for entry in entries] == [
        (old.id, "api_key.created", 1),
        (old.id, "api_key.rotated", 2),
        (new["id"], "api_key.created", 1),
        (old.id, "api_key.revoked", 3),
    ]
    assert secret[-39:] not in str(entries)


async def test_pages_hold_every_key_once_newest_first(service: ApiKeys, tenant: Caller) -> None:
    made = [(await service.create(cli(tenant), f"key {number}", READ))[0].id for number in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await service.list(tenant.scope, 2, cursor)
        assert len(page.data) <= 2
        seen += [key.id for key in page.data]
        assert page.has_more == (page.next_cursor is not None)
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert seen == [*reversed(made), tenant.actor_id]


@pytest.mark.parametrize("cursor", ["", "nonsense", "AAAA", "=" * 22, "é", "A" * 200, "AAAAAAAAAAAAAAAAAAAAAB"])
async def test_a_cursor_that_is_not_ours_is_refused(service: ApiKeys, tenant: Caller, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await service.list(tenant.scope, 2, cursor)


async def test_keys_of_others_do_not_exist(
    service: ApiKeys, tenant: Caller, other_tenant: Caller, live_merchant: Merchant
) -> None:
    assert tenant.key_id is not None
    for stranger in (cli(other_tenant), cli(live_merchant.caller)):
        with pytest.raises(NotFound):
            await service.get(stranger.scope, tenant.key_id)
        with pytest.raises(NotFound):
            await service.revoke(stranger, tenant.key_id)
        with pytest.raises(NotFound):
            await service.rotate(stranger, None, tenant.key_id)
        listed = await service.list(stranger.scope, 100, None)
        assert tenant.actor_id not in {key.id for key in listed.data}
