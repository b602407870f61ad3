"""docs/events.md lists every type of event that the sources can write, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import asyncpg

from clearspan.journal.schemas import SUBJECTS
from clearspan.payments.models import CHARGES, TRANSITIONS, PaymentStatus

DOCUMENT = Path(__file__).parents[3] / "docs" / "events.md"
NOUNS = [*SUBJECTS, "incident"]
TYPE = re.compile(rf"(?:{'|'.join(NOUNS)})\.[a-z_]+")
CORE = Path(str(resources.files("clearspan")))


def documented() -> set[str]:
    """The first column of the table of types."""
    return set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", DOCUMENT.read_text(), re.MULTILINE))


def in_python() -> Iterator[str]:
    """Literals of the domain modules."""
    others = (
        "access/operators.py",
        "access/signing.py",
        "access/oauth.py",
        "access/oidc.py",
        "customers/mandates.py",
        "desk/job_queue.py",
        "rebills/clocks.py",
        "rebills/dunning.py",
        "subscriptions/catalogue.py",
        "subscriptions/invoices.py",
    )
    for path in (*CORE.rglob("service.py"), *(CORE / one for one in others)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and TYPE.fullmatch(node.value):
                yield node.value


def in_sql() -> Iterator[str]:
    """Literals of the SQL functions."""
    for path in CORE.rglob("sql/*.sql"):
        yield from (found[1:-1] for found in re.findall(rf"'{TYPE.pattern}'", path.read_text()))


async def computed(owner: asyncpg.Connection[asyncpg.Record]) -> set[str]:
    """What payments.sql puts together from an operation's kind and state: its own expressions, asked with every value."""
    source = (CORE / "payments" / "sql" / "payments.sql").read_text()
    settled = re.search(
        r"\(p->'event_ids'->>0\)::uuid, (CASE op\.kind\s+WHEN 'refund' THEN 'refund\.'.*? END END),", source, re.DOTALL
    )
    closed = re.search(r"\(p->'event_ids'->>0\)::uuid, ('payment\.' \|\| pay\.status)", source)
    assert settled is not None
    assert closed is not None
    after = sorted({state for states in TRANSITIONS.values() for state in states} - {"submitted"})
    types = await owner.fetch(
        f"SELECT DISTINCT {settled[1]} FROM unnest($1::text[]) AS op (kind), unnest($2::text[]) AS of_state (after),"
        " unnest($3::text[]) AS pay (status), unnest(ARRAY['succeeded', 'surplus']) AS of_parent (parent_state)"
        " WHERE after <> 'reversed' OR kind = 'refund'",
        [*CHARGES, "capture", "void", "refund"],
        after,
        list(PaymentStatus),
    )
    types += await owner.fetch(f"SELECT {closed[1]} FROM unnest(ARRAY['canceled', 'expired']) AS pay (status)")
    return {row[0] for row in types}


async def test_the_table_of_types_is_what_the_sources_write(owner: asyncpg.Connection[asyncpg.Record]) -> None:
    written = {*in_python(), *in_sql(), *await computed(owner)}
    assert {"customer.created", "operation.submitted", "payment.capture_failed"} <= written, "the sources were read"
    assert documented() == written
