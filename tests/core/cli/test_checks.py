"""``clearspan check`` and ``clearspan ledger check``: silent on what agrees, exit code 1 and a table on what does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.conftest import connected
from tests.core.cli.test_mistakes import Run, refused, run
from tests.factories import insert, rows

from clearspan.platform import ids
from clearspan.platform.context import Scope
from clearspan.platform.crypto import MasterKey
from clearspan.platform.db import Database
from clearspan.settings import Settings
from clearspan.tenants.service import Tenants

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Urls

__all__ = ["run"]


class Installation(msgspec.Struct, frozen=True):
    """A database with the tenants ``tidy``, which has nothing, and ``untidy``, whose payment came from nowhere.

    Attributes:
        settings: what names it on the command line.
        payment: public id of the payment.
        refund: public id of its refund, of which there is no fact and no event.
    """

    settings: dict[str, str]
    payment: str
    refund: str


@pytest.fixture(scope="module")
def made(databases: Callable[[], Urls], settings: Settings, master: MasterKey) -> tuple[Urls, dict[str, str]]:
    urls = databases()

    async def fill() -> dict[str, str]:
        db = Database(urls.app, settings.database)
        await db.open()
        try:
            tenants = Tenants(db, master)
            await tenants.create("tidy", "Tidy")
            untidy = await tenants.create("untidy", "Untidy")
        finally:
            await db.close()
        found = {}
        async with connected(urls.superuser) as connection, connection.transaction():
            for table, row in rows(Scope(tenant_id=untidy.tenant_id, live=True)):
                await insert(connection, table, row)
                found |= {f"{table}.{row.get('kind')}": row}
            await connection.execute("UPDATE payment_intents SET refunded_minor = 98")
        return {
            "payment": ids.encode("pay", found["operations.refund"]["payment_id"]),
            "refund": ids.encode("op", found["operations.refund"]["operation_id"]),
        }

    return urls, asyncio.run(fill())


@pytest.fixture
def installation(made: tuple[Urls, dict[str, str]], tmp_path: Path, master: MasterKey) -> Installation:
    key = tmp_path / "master.key"
    key.write_text(master._secret.hex() + "\n")
    key.chmod(0o600)
    urls, found = made
    place = {"database_url": urls.owner, "database_app_url": urls.app, "security_master_key_file": str(key)}
    return Installation(place, **found)


BOTH = pytest.mark.parametrize("command", [("check",), ("ledger", "check")], ids=" ".join)


@BOTH
def test_books_that_agree_are_told_in_one_line(run: Run, installation: Installation, command: tuple[str, ...]) -> None:
    answer = run(*command, "--tenant", "tidy", **installation.settings)
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    assert answer.stderr.startswith("No differences. Looked at: ")


@BOTH
def test_books_that_agree_in_json(run: Run, installation: Installation, command: tuple[str, ...]) -> None:
    answer = run(*command, "--tenant", "tidy", "--json", **installation.settings)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert (document["ok"], document["total"], document["differences"]) == (True, 0, [])


def test_a_check_names_everything_that_does_not_follow(run: Run, installation: Installation) -> None:
    answer = run("check", **installation.settings)
    assert answer.returncode == 1, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0].split() == ["TENANT", "MODE", "KIND", "PAYMENT", "ID", "EXPECTED", "FOUND", "WHAT"]
    assert all(line.startswith("untidy  live  ") for line in lines[1:])
    refunded = next(line for line in lines if "refunded_minor does not follow" in line)
    assert installation.payment in refunded
    state = next(line for line in lines if "the state does not follow from the facts" in line)
    assert installation.refund in state
    assert f"{len(lines) - 1} differences. Looked at: 1 payments, 2 operations" in answer.stderr
    assert "docs/runbooks/ledger-difference.md" in answer.stderr


def test_a_check_of_the_ledger_names_accounts_and_amounts(run: Run, installation: Installation) -> None:
    answer = run("ledger", "check", "--json", **installation.settings)
    assert answer.returncode == 1, answer.stderr
    document = json.loads(answer.stdout)
    assert document["looked_at"] == {"ledger payments": 1, "ledger entries": 3}
    assert {(one["account"], one["expected"], one["found"]) for one in document["differences"]} == {
        ("refunded", 98, 99),
        ("in_transit", 1001, 1000),
    }
    assert {(one["tenant"], one["live"], one["payment"]) for one in document["differences"]} == {
        ("untidy", True, installation.payment)
    }
    table = run("ledger", "check", "--tenant", "untidy", **installation.settings)
    assert table.returncode == 1
    assert len(table.stdout.splitlines()) == 3
    assert "2 differences. Looked at: 3 entries, 1 payments." in table.stderr


@BOTH
def test_a_tenant_that_is_not_there(run: Run, installation: Installation, command: tuple[str, ...]) -> None:
    refused(run(*command, "--tenant", "nobody-here", **installation.settings), "There is no tenant 'nobody-here'")
