"""``clearspan audit``: the public key, examining the whole trail, and exports that are checked without us."""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

import msgspec

from clearspan.app import Gateway
from clearspan.commands.start import with_gateway
from clearspan.journal.canonical import canonical
from clearspan.journal.checkpoint import SigningKey
from clearspan.journal.errors import CheckpointNotFound
from clearspan.journal.examine import FINDINGS_MAX, Report, examine
from clearspan.journal.verifier import Wrong
from clearspan.platform import clock
from clearspan.platform.context import Scope
from clearspan.platform.crypto import load_master_key
from clearspan.platform.runtime import OperatorError, Runtime, connect, opened, require_schema
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import Settings


def key(settings: Settings) -> int:
    """Print the verifier key alone."""
    print(SigningKey.of(load_master_key(settings.master_key_path, create=False), settings.audit.origin).verifier_key)
    return 0


def verify(settings: Settings, *, checkpoint: Path | None, held_key: str | None, as_json: bool) -> int:
    """Examine everything; 1 when something was found.

    Raises:
        OperatorError: no owner's connection, or the file cannot be read.
    """
    configure_logging("warning", "console")
    held = notes_in(checkpoint) if checkpoint is not None else []

    async def work(runtime: Runtime) -> Report:
        await require_schema(runtime)
        if not runtime.owner_url:
            raise OperatorError("Set database.url: only the owner of the tables can see the rows of all tenants.")
        signer = SigningKey.of(runtime.master, settings.audit.origin)
        connection = await connect(runtime.owner_url)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute("SELECT set_config('app.system', 'on', true)")
                return await examine(connection, signer, held, held_key or "")
        finally:
            await connection.close()

    with opened(settings) as runtime:
        report = asyncio.run(work(runtime))
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _tell(report, held=bool(held))
    return 1 if report.findings else 0


def notes_in(path: Path) -> list[str]:
    """The checkpoints in a file: one, or as many as a push appended, with a blank line between them.

    Raises:
        OperatorError: it cannot be read, or holds none.
    """
    try:
        blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} cannot be read: {error}") from error
    if len(blocks) < 2 or len(blocks) % 2:
        raise OperatorError(f"{path} holds no checkpoints: a checkpoint is a text, a blank line and a signature.")
    return [f"{text}\n\n{signature}\n" for text, signature in zip(blocks[::2], blocks[1::2], strict=True)]


def _tell(report: Report, *, held: bool) -> None:
    for finding in report.findings:
        print(f"✗ {finding.kind}: {finding.says}")
    if len(report.findings) >= FINDINGS_MAX:
        print(f"✗ stopped after {FINDINGS_MAX} findings")
    elif not report.findings:
        print(f"✓ {report.size} sealed events are as they were sealed, root {report.root}")
        print(f"✓ {report.checkpoints} stored checkpoints agree")
        if held:
            print(f"✓ so do yours, of {', '.join(map(str, report.held))} entries")
        else:
            print(
                "! compared with no checkpoint from outside: whoever changed all of it would not be found (--checkpoint)"
            )
    if report.unsealed:
        since = f", the oldest from {report.oldest_unsealed_at:%Y-%m-%d %H:%M:%S}Z" if report.oldest_unsealed_at else ""
        print(f"! {report.unsealed} events are not sealed yet{since}")


def export(settings: Settings, slug: str, *, live: bool, checkpoint: Path | None) -> int:
    """Print the events of a tenant with their proofs, a JSON object per line, up to the last checkpoint.

    Raises:
        OperatorError: the file cannot be used.
        CheckpointNotFound: nothing was signed yet.
    """
    held = notes_in(checkpoint)[-1] if checkpoint is not None else None

    async def work(gateway: Gateway) -> int:
        tenant = await gateway.tenants.by_slug(slug)
        scope = Scope(tenant_id=tenant.tenant_id, live=live)
        proofs = gateway.proofs
        last = (await proofs.state()).checkpoint
        if last is None:
            raise CheckpointNotFound
        size = last.size
        try:
            since = gateway.audit_key.open(held).size if held is not None else size
        except Wrong as error:
            raise OperatorError(f"{checkpoint} holds no checkpoint of this log: {error}.") from error
        if since > size:
            raise OperatorError(
                f"Your checkpoint has {since} entries, the last one here {size}: run 'clearspan audit verify'."
            )
        entries = 0
        async for _ in proofs.rows(scope, size):
            entries += 1
        _line(
            {"tenant_id": str(scope.tenant_id), "live": live, "entries": entries, "exported_at": clock.now()}
            | {"verifier_key": gateway.audit_key.verifier_key, "checkpoint": last.note}
            | {"consistency": _base64(await proofs.consistency(since, size))}
        )
        async for sealed in proofs.rows(scope, size):
            assert sealed.index is not None
            entry = canonical(sealed.row)
            proof = await proofs.inclusion(sealed.index, size)
            _line({"index": sealed.index, "leaf": entry.decode(), "proof": _base64(proof)})
        return 0

    return with_gateway(settings, work)


def _line(document: object) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")


def _base64(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(one).decode() for one in hashes]
