"""Bugs that we put into the code on purpose: the bench is worth something only if it finds them.

Each mutant is applied to a copy of the sources and must make seeded runs fail. A mutant whose text is not found exactly once
is an error: the code has moved on and the mutant must follow it. Seeds that fail without any mutant do not count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from tests.torture import sim

ROOT = Path(__file__).parents[2]
SOURCES = ("core/src", "plugins/psp-sandbox/src", "plugins/vault-sandbox/src")
SEEDS_MAX = 600
"""A mutant that lives so long has survived."""
_PAYMENTS = "core/src/clearspan/payments/sql/payments.sql"
_NEWS = "core/src/clearspan/payments/sql/news.sql"
_RECOVERY = "core/src/clearspan/payments/sql/recovery.sql"
_SERVICE = "core/src/clearspan/payments/service.py"
_RULES = "core/src/clearspan/payments/recovery.py"
_CALLS = "core/src/clearspan/psps/calls.py"
_TELL = "core/src/clearspan/payments/news.py"
_TABLES = "core/src/clearspan/migrations/sql/0001_foundation.sql"


class Edit(msgspec.Struct, frozen=True):
    """``old`` occurs once in ``path`` and becomes ``new``."""

    path: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True):
    """A bug."""

    name: str
    edits: tuple[Edit, ...]


def _bug(name: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, tuple(Edit(*one) for one in edits))


MUTANTS: tuple[Mutant, ...] = (
    _bug(
        "a retry gets a new key",
        (
            _SERVICE,
            "again = await self._send(caller, opened)",
            "again = await self._send(caller, msgspec.structs.replace(opened, operation=msgspec.structs.replace(operation,"
            " psp_key=ids.psp_key(operation.operation_id, 1, KEY_LENGTH))))",
        ),
    ),
    _bug(
        "nothing found means not charged",
        (
            _RULES,
            "if facts.lookup.by_reference and now - operation.sent_at > facts.max_late_effect + facts.lookup.lag_max:",
            "if facts.lookup.by_reference:",
        ),
        (_RULES, "if may_resend(operation, facts, now) and still_wanted(payment, operation, now):", "if False:"),
    ),
    _bug(
        "not charged before the longest late effect has passed",
        (_RULES, "> facts.max_late_effect + facts.lookup.lag_max:", "> timedelta(seconds=5):"),
    ),
    _bug(
        "an unclear answer is a decline",
        (
            _CALLS,
            '_undecided("unknown", "psp_answer_unclear", error, source)',
            '_undecided("declined", "psp_answer_unclear", error, source)',
        ),
    ),
    _bug(
        "an unclear answer is not sent",
        (
            _CALLS,
            '_undecided("unknown", "psp_answer_unclear", error, source)',
            '_undecided("not_sent", "psp_answer_unclear", error, source)',
        ),
    ),
    _bug(
        "an operation is reserved without the lock",
        (
            _PAYMENTS,
            "payment_id = (p->>'payment_id')::uuid FOR UPDATE;\n    IF pay.payment_id IS NULL THEN\n"
            "        PERFORM refuse_{{v}}('payment_not_found');\n    END IF;\n    before := pay.status;\n    detail",
            "payment_id = (p->>'payment_id')::uuid;\n    IF pay.payment_id IS NULL THEN\n"
            "        PERFORM refuse_{{v}}('payment_not_found');\n    END IF;\n    before := pay.status;\n    detail",
        ),
    ),
    _bug(
        "an outcome is settled without the lock",
        (
            _PAYMENTS,
            "payment_id = (p->>'payment_id')::uuid FOR UPDATE;\n    SELECT * INTO op FROM operations\n",
            "payment_id = (p->>'payment_id')::uuid;\n    SELECT * INTO op FROM operations\n",
        ),
    ),
    _bug(
        "a second charge while the first is open, and no index that forbids it",
        (_PAYMENTS, "ELSIF pay.outcome = 'unknown' THEN", "ELSIF false THEN"),
        (
            _PAYMENTS,
            "ELSIF pay.status = 'processing' THEN\n        PERFORM refuse_{{v}}('payment_in_progress', detail);\n    END IF;\n\n",
            "END IF;\n",
        ),
        (
            _PAYMENTS,
            "IF pay.status NOT IN ('requires_payment_method', 'requires_confirmation') THEN",
            "IF pay.status = 'succeeded' THEN",
        ),
        (_TABLES, "CREATE UNIQUE INDEX one_charge_per_payment", "CREATE INDEX one_charge_per_payment"),
    ),
    _bug(
        "sent before it is reserved",
        (
            _PAYMENTS,
            "-- p->'operation': {want: charge|capture|void|refund",
            "CREATE OR REPLACE FUNCTION payment_open_dry_{{v}}(p jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$\n"
            "DECLARE\n    r jsonb;\nBEGIN\n    BEGIN\n        r := payment_open_{{v}}(p);\n"
            "        RAISE EXCEPTION USING ERRCODE = 'CS999';\n    EXCEPTION WHEN SQLSTATE 'CS999' THEN\n"
            "        NULL;\n    END;\n"
            "    RETURN r;\nEND $$;\n\n-- p->'operation': {want: charge|capture|void|refund",
        ),
        (
            _SERVICE,
            'opened = await self._open_charge(caller, "payment_open", document, given, wish)\n'
            "        if opened.payment is not None and",
            'opened = await self._open(caller, "payment_open_dry" if confirm else "payment_open", document)\n'
            "        if opened.payment is not None and",
        ),
        (
            _SERVICE,
            "        return await self._run(\n"
            "            caller,\n"
            "            key,\n"
            "            opened,\n"
            "            self._render_payment(caller.scope, 201),\n"
            "            partial(self._send, browser=wish.browser),\n"
            "            wish,\n"
            "        )",
            "        async def send_first(caller: Caller, opened: Opened) -> Observation:\n"
            "            seen = await self._send(caller, opened)\n"
            '            await self._db.call("payment_open", document)\n'
            "            return seen\n\n"
            "        return await self._run(caller, key, opened, self._render_payment(caller.scope, 201), send_first)",
        ),
    ),
    _bug(
        "nobody looks after a gateway that died",
        (
            _PAYMENTS,
            "(o->>'lease_until')::timestamptz,\n        (o->>'lease_until')::timestamptz, (p->>'now')",
            "(o->>'lease_until')::timestamptz,\n        NULL, (p->>'now')",
        ),
    ),
    _bug(
        "an unknown outcome is not looked at again",
        (
            _PAYMENTS,
            "WHEN after IN ('pending', 'unknown', 'needs_review') THEN COALESCE((p->>'sweep_at')::timestamptz, sweep_at)",
            "WHEN after IN ('pending', 'needs_review') THEN COALESCE((p->>'sweep_at')::timestamptz, sweep_at)",
        ),
    ),
    _bug(
        "another payload under a key is accepted",
        (_PAYMENTS, "IF held.request_hash <> decode(k->>'request_hash', 'hex') THEN", "IF false THEN"),
    ),
    _bug(
        "an answer that was kept is replaced",
        (_PAYMENTS, "AND key_hash = hash AND state = 'in_flight';", "AND key_hash = hash;"),
    ),
    _bug(
        "an answer is given that was not kept",
        (_SERVICE, "if answer is not None and settled.kept:", "if answer is not None:"),
    ),
    _bug(
        "the answer after the wait is not kept",
        (
            _SERVICE,
            "return await self._keep(caller, key, Answer(202, answer.body))\n        except",
            "return Answer(202, answer.body)\n        except",
        ),
    ),
    _bug(
        "another amount is believed",
        (_CALLS, "matches = outcome.amount == asked", "matches = outcome.amount.currency == asked.currency"),
    ),
    _bug(
        "another currency is believed",
        (_CALLS, "matches = outcome.amount == asked", "matches = outcome.amount.amount_minor == asked.amount_minor"),
    ),
    _bug(
        "a retry sends another amount",
        (
            _SERVICE,
            "again = await self._send(caller, opened)",
            "again = await self._send(caller, msgspec.structs.replace(opened, operation=msgspec.structs.replace(operation,"
            " amount_minor=operation.amount_minor + 1)))",
        ),
    ),
    _bug(
        "a lookup that was not sent speaks for the operation",
        (
            _SERVICE,
            'if found.observed in ("not_found", "not_sent", "unknown"):\n            limit',
            'if found.observed in ("not_found", "unknown"):\n            limit',
        ),
    ),
    _bug(
        "more is refunded than was captured",
        (
            _PAYMENTS,
            "IF COALESCE(asked, left_minor) > left_minor OR (left_minor = 0 AND pay.status <> 'requires_action') THEN",
            "IF want <> 'refund' AND (COALESCE(asked, left_minor) > left_minor OR left_minor = 0) THEN",
        ),
    ),
    _bug(
        "what is being captured can be captured again",
        (
            _PAYMENTS,
            "        ELSE\n            left_minor := pay.authorized_minor - pay.captured_minor - pay.capture_pending_minor"
            " - pay.voided_minor;",
            "        ELSE\n            left_minor := pay.authorized_minor - pay.captured_minor - pay.voided_minor;",
        ),
    ),
    _bug(
        "refunds under way are not counted",
        (
            _PAYMENTS,
            "left_minor := greatest(0, pay.captured_minor - pay.refunded_minor - pay.refund_pending_minor",
            "left_minor := greatest(0, pay.captured_minor - pay.refunded_minor",
        ),
    ),
    _bug(
        "an event is missing",
        (
            _PAYMENTS,
            "BEGIN\n    INSERT INTO journal (",
            "BEGIN\n    IF event_type = 'payment.captured' THEN\n        RETURN;\n    END IF;\n    INSERT INTO journal (",
        ),
    ),
    _bug(
        "an event is told twice",
        (
            _PAYMENTS,
            "BEGIN\n    INSERT INTO journal (",
            "BEGIN\n    IF event_type = 'payment.captured' THEN\n        INSERT INTO journal (tenant_id, live, event_id, type,"
            " subject_type,"
            " subject_id, sequence, customer_id, actor_type, actor_id, request_id, data, at) VALUES ((p->>'tenant_id')::uuid,"
            " (p->>'live')::boolean, gen_random_uuid(), event_type, subject, subject_id, subject_sequence, customer,"
            " p->>'actor_type',"
            " p->>'actor_id', p->>'request_id', told, (p->>'now')::timestamptz);\n    END IF;\n    INSERT INTO journal (",
        ),
    ),
    _bug(
        "a late success is ignored",
        (_PAYMENTS, "             THEN 'surplus'\n", "             THEN op.state\n"),
    ),
    _bug(
        "a surplus is kept",
        (_PAYMENTS, "IF NOT (with_surplus AND p.surplus_minor > 0)", "IF true"),
    ),
    _bug(
        "a cancellation of an open outcome is forgotten",
        (_PAYMENTS, "AND NOT (p.cancel_requested_at IS NOT NULL AND (p.status", "AND NOT (false AND (p.status"),
    ),
    _bug(
        "a message that contradicts is believed",
        (_TELL, "if contradicts and not older and", "if False and"),
    ),
    _bug(
        "a tenant's worker takes another tenant's operations",
        (
            _RECOVERY,
            "WHERE o.tenant_id = tenant AND o.live = is_live AND o.psp_account_id = a.psp_account_id",
            "WHERE o.psp_account_id = a.psp_account_id",
        ),
        (
            _RECOVERY,
            "WHERE a.tenant_id = tenant AND a.live = is_live\n        ORDER BY due",
            "ORDER BY due",
        ),
        (
            _TABLES,
            "EXECUTE format('CREATE POLICY of_tenant ON %I USING (tenant_id = app_tenant() AND live = app_live())', name);",
            "EXECUTE format('CREATE POLICY of_tenant ON %I USING (true)', name);",
        ),
    ),
    _bug(
        "the card number is kept in the metadata",
        (
            "plugins/psp-sandbox/src/clearspan_psp_sandbox/bank.py",
            "if request.card and request.card.number.encode() in msgspec.json.encode(charge):",
            "charge = replace(charge, description=request.card.number if request.card else None)\n        if False:",
        ),
        (_CALLS, "encoded = msgspec.json.encode(mask_pans_in(dict(raw)))", "encoded = msgspec.json.encode(dict(raw))"),
    ),
)


def apply(mutant: Mutant, folder: Path) -> str:
    """Copy the sources to ``folder`` and put the bug in; gives what is wrong with the mutant, or nothing."""
    for source in SOURCES:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits:
        path = folder / edit.path
        text = path.read_text()
        if text.count(edit.old) != 1:
            return f"{edit.path} holds its text {text.count(edit.old)} times: {edit.old[:60]!r}"
        path.write_text(text.replace(edit.old, edit.new))
    return ""


class Verdict(msgspec.Struct):
    """What became of a mutant: the seeds it took, and the violation that told; or why it lives."""

    mutant: str
    seeds: int = 0
    told: str = ""
    alive: str = ""
    seconds: float = 0.0


def hunt(mutant: Mutant, url: str, seeds: int, spared: Sequence[int]) -> Verdict:
    """Run seeds against the mutant until one fails."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clearspan-mutant-") as folder:
        wrong = apply(mutant, Path(folder))
        if wrong:
            return Verdict(mutant.name, alive=wrong)
        code, output = _run(Path(folder), url, seeds, spared)
    failed = re.search(r"^seed (\d+) .*\n  (\w+: .*)$", output, re.MULTILINE)
    runs = re.search(r"^(\d+) runs in", output, re.MULTILINE)
    verdict = Verdict(mutant.name, seconds=time.monotonic() - began)
    if failed is None or runs is None:
        verdict.alive = f"survived {runs[1]} seeds" if code == 0 and runs else f"the bench broke: {output[-400:]}"
        return verdict
    verdict.seeds, verdict.told = int(runs[1]), failed[2]
    return verdict


def _run(folder: Path, url: str, seeds: int, spared: Sequence[int]) -> tuple[int, str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(folder / source) for source in SOURCES),
        sim.DATABASE_URL: url,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    argv = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.torture",
        "sim",
        "--seeds",
        str(seeds),
        "--jobs",
        "1",
        "--patience",
        "1",
    ]
    argv += ["--spare", ",".join(map(str, spared))] if spared else []
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    return done.returncode, done.stdout + done.stderr


def main(names: Sequence[str], seeds: int, jobs: int) -> int:
    """Hunt all mutants, or those whose name holds one of ``names``. Returns the exit code."""
    chosen = [one for one in MUTANTS if not names or any(name in one.name for name in names)]
    with sim.postgres() as url:
        spared = sim.failing(url, min(seeds, 200), jobs)
        if spared:
            print(f"without any mutant {len(spared)} seeds fail: {spared}; they do not count")
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            verdicts = []
            for verdict in pool.map(lambda one: hunt(one, url, seeds, spared), chosen):
                verdicts.append(verdict)
                outcome = (
                    f"SURVIVED: {verdict.alive}" if verdict.alive else f"{verdict.seeds:4} seeds  {verdict.told[:110]}"
                )
                print(f"{verdict.mutant:72} {outcome}", flush=True)
    alive = [one for one in verdicts if one.alive]
    print(
        f"{len(verdicts) - len(alive)} of {len(verdicts)} mutants caught, {sum(one.seconds for one in verdicts):.0f} s of work"
    )
    return 1 if alive else 0
