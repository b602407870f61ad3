"""The examination says which row is not as it was sealed, and an export convinces whoever has the key and a checkpoint."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.core.journal.trail import Trail

from clearspan.journal import examine as examination
from clearspan.journal import verifier
from clearspan.journal.examine import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence


async def tamper(trail: Trail, statement: str) -> None:
    await trail.superuser.execute(
        f"SET session_replication_role = replica; {statement}; RESET session_replication_role"
    )


async def found(trail: Trail, *held: str) -> Sequence[Finding]:
    return (await trail.examine(*held)).findings


# -- Which row ------------------------------------------------------------------------------------------------------------------


async def test_a_changed_row_is_named(trail: Trail) -> None:
    events = await trail.happen(20)
    made = await trail.seal()
    assert made is not None
    await tamper(trail, f"UPDATE journal SET data = data || '{{\"amount_minor\": 1}}' WHERE event_id = '{events[7]}'")
    (one,) = await found(trail, made.note)
    assert (one.kind, one.leaf_index) == ("row_changed", 7)
    assert one.event is not None
    assert one.event[2] == str(events[7])
    assert str(events[7]) in one.says


async def test_removed_and_inserted_rows_are_named_and_the_others_are_not(trail: Trail) -> None:
    events = await trail.happen(30)
    await trail.seal()
    await tamper(
        trail,
        f"DELETE FROM journal WHERE event_id IN ('{events[3]}', '{events[4]}', '{events[29]}');"
        " INSERT INTO journal (tenant_id, live, epoch, xid, seq, event_id, type, subject_type, subject_id, sequence, actor_type,"
        " actor_id, request_id, data, at) OVERRIDING SYSTEM VALUE SELECT tenant_id, live, epoch, xid, 0, gen_random_uuid(), type,"
        " subject_type, subject_id, sequence, actor_type, 'forged', request_id, data, at FROM journal"
        f" WHERE event_id IN ('{events[10]}')",
    )
    kinds = [(one.kind, one.leaf_index) for one in await found(trail)]
    assert kinds == [("row_missing", 3), ("row_missing", 4), ("row_missing", 29), ("row_inserted", None)]


async def test_a_row_of_another_tenant_at_the_same_place_is_not_overlooked(
    trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading in pages that begin after a place would step over it."""
    monkeypatch.setattr(examination, "BATCH", 2)
    events = await trail.happen(9)
    await trail.seal()
    for event in events:
        await tamper(
            trail,
            "INSERT INTO journal (tenant_id, live, epoch, xid, seq, event_id, type, subject_type, subject_id, sequence,"
            " actor_type, actor_id, request_id, data, at) OVERRIDING SYSTEM VALUE SELECT"
            f" '{trail.scopes[0].tenant_id}'::uuid, NOT live, epoch, xid, seq, gen_random_uuid(), type, subject_type, subject_id,"
            " sequence, actor_type, 'forged', request_id, data, at FROM journal"
            f" WHERE event_id = '{event}'",
        )
    assert [one.kind for one in await found(trail)] == ["row_inserted"] * 9


async def test_a_journal_that_is_gone_is_reported_in_bounds(trail: Trail) -> None:
    await trail.happen(150)
    made = await trail.seal()
    assert made is not None
    await tamper(trail, "DELETE FROM journal")
    findings = await found(trail, made.note)
    assert len(findings) == examination.FINDINGS_MAX
    await tamper(trail, "DELETE FROM journal_leaves; DELETE FROM journal_nodes; DELETE FROM checkpoints")
    assert {one.kind for one in await found(trail, made.note)} == {"held_longer", "held_missing"}
    assert await found(trail) == [], "an empty journal without anything held outside says nothing"


async def test_only_the_checkpoints_of_this_log_count(trail: Trail) -> None:
    await trail.happen(3)
    made = await trail.seal()
    assert made is not None
    forged = made.note.replace("\n3\n", "\n4\n")
    assert [one.kind for one in await found(trail, forged)] == ["held_invalid"]
    assert [one.kind for one in await found(trail, "nonsense")] == ["held_invalid"]


async def test_a_journal_of_any_length_is_walked_in_batches(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "BATCH", 7)
    await trail.happen(300)
    made = await trail.seal()
    assert made is not None
    report = await trail.examine(made.note)
    assert (report.rows, report.size, report.unsealed, report.findings) == (300, 300, 0, [])
    assert report.root == made.root
    await tamper(trail, "UPDATE journal_nodes SET hash = sha256(hash) WHERE level = 4 AND index = 17")
    assert [(one.kind, one.leaf_index) for one in await found(trail, made.note)] == [("node_changed", 17 * 16)]


# -- Commands -------------------------------------------------------------------------------------------------------------------


class Commands:
    """``clearspan`` in a process of its own, on a trail's database."""

    def __init__(self, trail: Trail, folder: Path) -> None:
        (folder / "data" / "secrets").mkdir(parents=True, mode=0o700)
        master = folder / "data" / "secrets" / "master.key"
        master.write_text(bytes(range(32)).hex())
        master.chmod(0o600)
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("CLEARSPAN_")} | {
            "CLEARSPAN_DATA_DIR": str(folder / "data"),
            "CLEARSPAN_DATABASE_URL": trail.urls.owner,
            "CLEARSPAN_DATABASE_APP_URL": trail.urls.app,
            "CLEARSPAN_AUDIT_ORIGIN": trail.key.name,
            "CLEARSPAN_PLUGINS_SAFE_MODE": "true",
        }
        self._folder = folder

    async def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clearspan.cli", "audit", *arguments]
        return await asyncio.to_thread(
            lambda: subprocess.run(
                command, env=self._environ, cwd=self._folder, capture_output=True, text=True, timeout=60, check=False
            )
        )


async def offline(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The verifier as an auditor has it: one copied file, without our packages."""
    copy = folder / "verify_audit.py"
    copy.write_bytes(Path(verifier.__file__).read_bytes())
    command = [sys.executable, "-I", "-S", str(copy), *arguments]
    return await asyncio.to_thread(
        lambda: subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    )


async def test_the_commands_prove_and_find(trail: Trail, tmp_path: Path) -> None:
    command = Commands(trail, tmp_path)
    key = await command("key")
    assert key.stdout == trail.key.verifier_key + "\n"
    events = await trail.happen(20)
    made = await trail.seal()
    assert made is not None
    held = tmp_path / "held.txt"
    held.write_text(made.note)
    await trail.happen(2)
    fine = await command("verify", "--checkpoint", str(held))
    assert fine.returncode == 0, fine.stderr
    assert "✓ so do yours, of 20 entries" in fine.stdout
    assert "! 2 events are not sealed yet, the oldest from 20" in fine.stdout
    await tamper(trail, f"UPDATE journal SET actor_id = 'nobody' WHERE event_id = '{events[5]}'")
    bad = await command("verify", "--checkpoint", str(held), "--json")
    assert bad.returncode == 1
    report = json.loads(bad.stdout)
    assert [one["kind"] for one in report["findings"]] == ["row_changed"]
    assert report["unsealed"] == 2
    told = await command("verify")
    assert f"✗ row_changed: event {events[5]} of tenant" in told.stdout
    held.write_text("no checkpoint")
    refused = await command("verify", "--checkpoint", str(held))
    assert refused.returncode == 2
    assert "holds no checkpoints" in refused.stderr


async def test_an_export_is_checked_without_us(trail: Trail, tmp_path: Path) -> None:
    command = Commands(trail, tmp_path)
    slug = await trail.superuser.fetchval("SELECT slug FROM tenants WHERE tenant_id = $1", trail.scopes[0].tenant_id)
    await trail.happen(21)
    first = await trail.seal()
    assert first is not None
    held, export = tmp_path / "held.txt", tmp_path / "export.jsonl"
    held.write_text(first.note)
    await trail.happen(400)
    second = await trail.seal()
    assert second is not None
    done = await command("export", "--tenant", slug, "--checkpoint", str(held))
    assert done.returncode == 0, done.stderr
    export.write_text(done.stdout)
    lines = done.stdout.splitlines()
    mine = await trail.superuser.fetchval(
        "SELECT count(*) FROM journal WHERE tenant_id = $1 AND NOT live", trail.scopes[0].tenant_id
    )
    assert len(lines) == mine + 1 > 100
    given = (str(export), "--key", trail.key.verifier_key)
    proven = await offline(tmp_path, *given, "--checkpoint", str(held))
    assert proven.returncode == 0, proven.stderr
    assert proven.stdout == f"OK: {mine} events are in tests.example/log at 421 entries, which extends yours\n"
    assert (await offline(tmp_path, *given)).returncode == 1, (
        "the proof in the head is for the checkpoint that was held"
    )

    async def refused(changed: list[str], *arguments: str) -> str:
        export.write_text("\n".join(changed) + "\n")
        answer = await offline(tmp_path, *given, *(arguments or ("--checkpoint", str(held))))
        assert answer.returncode == 1
        assert answer.stderr.startswith("NOT PROVEN: ")
        return answer.stderr

    changed = lines[5].replace('\\"amount_minor\\": ', '\\"amount_minor\\": 1')
    assert changed != lines[5]
    assert "line 6: entry" in await refused([*lines[:5], changed, *lines[6:]])
    assert "cut off" in await refused(lines[:-1])
    assert "out of order" in await refused([*lines[:2], lines[3], lines[2], *lines[4:]])
    assert "out of order" in await refused([*lines[:3], lines[2], *lines[3:-1]])
    assert "no export" in await refused(["[]"])
    assert "no export" in await refused([*lines[:3], "garbage", *lines[4:]])
    head = json.loads(lines[0])
    assert "does not continue" in await refused(
        [json.dumps(head | {"consistency": head["consistency"][1:]}), *lines[1:]]
    )
    assert "signature" in await refused(
        [json.dumps(head | {"checkpoint": second.note.replace("421", "420")}), *lines[1:]]
    )
    assert "another tenant's" in await refused([json.dumps(head | {"live": True}), *lines[1:]])
    other = json.loads(lines[1])
    assert "is not in the tree" in await refused(
        [lines[0], json.dumps(other | {"index": other["index"] + 1}), *lines[2:]]
    )


async def test_an_export_ends_with_the_last_checkpoint(trail: Trail, tmp_path: Path) -> None:
    command = Commands(trail, tmp_path)
    slug = await trail.superuser.fetchval("SELECT slug FROM tenants WHERE tenant_id = $1", trail.scopes[0].tenant_id)
    none = await command("export", "--tenant", slug)
    assert (none.returncode, none.stdout) == (2, "")
    assert "no checkpoint yet" in none.stderr
    await trail.happen(4, trail.scopes[0])
    made = await trail.seal()
    assert made is not None
    await trail.happen(4, trail.scopes[0])
    await trail.sealer.seal()
    export = tmp_path / "export.jsonl"
    export.write_text((await command("export", "--tenant", slug)).stdout)
    proven = await offline(tmp_path, str(export), "--key", trail.key.verifier_key)
    assert proven.stdout == "OK: 4 events are in tests.example/log at 4 entries\n"
