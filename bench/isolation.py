"""Does a PSP that hangs slow another one? Two accounts under steady load; one PSP answers, then it hangs at every call.

A round measures B answering, hanging, and answering once more: the two that should be equal tell how much the machine alone
makes differ. Each phase has a fresh process with empty breakers, warmed and with fresh statistics, and the order changes from
round to round. Meanwhile PostgreSQL is asked every 100 ms what the application's connections do. What is reported is account
A's latency as a ratio to B answering.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import sys
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import msgspec

SETTINGS = "[payments]\npsp_timeout_s = 5.0\nwait_budget_s = 4.0\n"
"""Shorter than the defaults, so that a phase of seconds sees calls hang, time out, and the circuit open."""
SAMPLE_S = 0.1
PHASES = ("answers", "hangs", "answers again")
_SEEN = """
SELECT count(*) FILTER (WHERE state = 'active') AS active,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS sleeping,
       coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
                FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float8 AS slept_s
FROM pg_stat_activity WHERE datname = 'bench' AND application_name = 'clearspan'
"""


class Stand(Protocol):
    """The bench, as far as it is needed here."""

    key: str
    hang_file: Path

    def server(self) -> AbstractContextManager[str]: ...

    @property
    def card(self) -> str: ...


class Phase(msgspec.Struct):
    """What was seen: the healthy account's latencies, what became of both accounts' payments, and the connections' states."""

    ms: list[float] = []
    others: Counter[str] = msgspec.field(default_factory=Counter)
    own: Counter[str] = msgspec.field(default_factory=Counter)
    active: list[int] = []
    sleeping: list[float] = []

    def quantile(self, share: float) -> float:
        """Of the latencies, in milliseconds."""
        return sorted(self.ms)[int(len(self.ms) * share)]


async def measure(stand: Stand, superuser_url: str, rounds: int, seconds: int, per_s: int) -> dict[str, list[Phase]]:
    """Every phase ``rounds`` times."""
    found: dict[str, list[Phase]] = {name: [] for name in PHASES}
    for number in range(rounds):
        for name in [*PHASES[number % 3 :], *PHASES[: number % 3]]:
            with stand.server() as url:
                await _load(stand, url, superuser_url, 3, per_s)  # warm
                await _analyze(superuser_url)
                if name == "hangs":
                    stand.hang_file.touch()
                try:
                    found[name].append(await _load(stand, url, superuser_url, seconds, per_s))
                finally:
                    stand.hang_file.unlink(missing_ok=True)
    return found


async def _load(stand: Stand, url: str, superuser_url: str, seconds: int, per_s: int) -> Phase:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.paced", url, stand.key, stand.card, str(seconds), f"alpha={per_s}", f"beta={per_s}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    phase = Phase()
    watching = asyncio.create_task(_watch(superuser_url, phase))
    try:
        output, _ = await process.communicate()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert process.returncode == 0, "the load failed"
    told: dict[str, Any] = json.loads(output)
    phase.ms = told["alpha"]["ms"]
    phase.own, phase.others = Counter(told["alpha"]["outcomes"]), Counter(told["beta"]["outcomes"])
    return phase


async def _analyze(url: str) -> None:
    """As in an installation that is in use; plans made on empty tables are others."""
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


async def _watch(url: str, phase: Phase) -> None:
    connection = await asyncpg.connect(url)
    try:
        while True:
            row = await connection.fetchrow(_SEEN)
            assert row is not None
            phase.active.append(row["active"])
            if row["sleeping"]:
                phase.sleeping.append(row["slept_s"])
            await asyncio.sleep(SAMPLE_S)
    finally:
        await connection.close()


def table(found: dict[str, list[Phase]], connections: int, rounds: int, seconds: int, per_s: int) -> str:
    """For docs/performance.md."""
    how = (
        f'`make bench ARGS="--only p21 --rounds {rounds} --p21-seconds {seconds} --p21-rate {per_s}"`, Python'
        f" {platform.python_version()}, {os.cpu_count()} cores shared by load, gateway and PostgreSQL 18. Two accounts,"
        f" {per_s} payments per second each, begun at fixed times; medians of {rounds} rounds. Calls get 5 s."
    )
    head = (
        f"| account A while B's PSP | per s | p50 ms | p99 ms | connections busy of {connections}: mean / most |"
        " seen idle in transaction | A's payments | B's payments |"
    )
    lines = [how, "", head, "|---|---|---|---|---|---|---|---|"]
    for words, phases in found.items():
        busy = [count for phase in phases for count in phase.active]
        slept = [one for phase in phases for one in phase.sleeping]
        lines.append(
            f"| {words} | {statistics.median(len(phase.ms) / seconds for phase in phases):.0f} |"
            f" {_median(phases, 0.5):.1f} | {_median(phases, 0.99):.1f} | {statistics.mean(busy):.1f} / {max(busy)} |"
            f" {len(slept)} of {len(busy)}, at most {1000 * max(slept, default=0):.0f} ms |"
            f" {_became([phase.own for phase in phases])} | {_became([phase.others for phase in phases])} |"
        )
    for name in PHASES[1:]:
        pairs = list(zip(found["answers"], found[name], strict=True))
        p50, p99 = (statistics.median(b.quantile(q) / a.quantile(q) for a, b in pairs) for q in (0.5, 0.99))
        lines.append(f"| ratio, {name} to answers | | **{p50:.2f}** | **{p99:.2f}** | | | | |")
    return "\n".join(lines)


def _became(outcomes: list[Counter[str]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sum(outcomes, Counter[str]()).most_common())


def _median(phases: list[Phase], share: float) -> float:
    return statistics.median(phase.quantile(share) for phase in phases)
