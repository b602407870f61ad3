"""Many seeded runs, in several processes of this machine, with a verdict and figures at the end."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.torture import database, scenario
from tests.torture.scenario import Outcome
from tests.torture.world import log_into

from clearspan.platform import plugins
from clearspan.platform.embedded_postgres import EmbeddedPostgres
from clearspan.platform.plugins import Plugins
from clearspan.settings import Settings, load

DATABASE_URL = "CLEARSPAN_TEST_DATABASE_URL"


def parts() -> tuple[Settings, Plugins]:
    """The default settings with both sandboxes, and the plugins; nothing of this machine's configuration."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "clearspan.toml"
        empty.touch()
        defaults = load(empty, environ={})
    enabled = msgspec.structs.replace(defaults.plugins, enabled={"psp-sandbox": "", "vault-sandbox": ""})
    settings = msgspec.structs.replace(defaults, plugins=enabled)
    return settings, plugins.load(settings.plugins.enabled)


@contextmanager
def postgres() -> Iterator[str]:
    """A superuser's URL: the server that is named in the environment, or one of our own."""
    given = os.environ.get(DATABASE_URL)
    if given:
        yield given
        return
    with (
        tempfile.TemporaryDirectory(prefix="clearspan-torture-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres") as server,
    ):
        yield server.superuser_url


@contextmanager
def database_of(superuser_url: str, name: str) -> Iterator[database.Server]:
    """A database of its own, and connections to it."""
    urls = database.prepare(superuser_url, name)
    log_into(lambda _: None)
    try:
        with database.Server(urls) as server:
            yield server
    finally:
        database.drop(superuser_url, name)


@contextmanager
def bench(superuser_url: str, name: str) -> Iterator[Callable[..., Outcome]]:
    """A database of its own; gives what runs a seed: ``play(seed, show=None)``."""
    urls = database.prepare(superuser_url, name)
    try:
        settings, loaded = parts()
        with database.Server(urls) as server:

            def play(seed: int, show: Callable[[str], None] | None = None) -> Outcome:
                log_into(show or (lambda _: None))
                return scenario.run(seed, server, settings, loaded, show)

            yield play
    finally:
        database.drop(superuser_url, name)


class Tally:
    """Sums over many runs."""

    def __init__(self) -> None:
        self.failed: list[Outcome] = []
        self.counts: Counter[str] = Counter()
        self.virtual_s = 0.0
        self.convergence_s: list[float] = []
        self._began = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.counts["runs"] += 1
        for name in ("payments", "operations", "answers", "kills", "faults", "calls", "overlaps", "steps"):
            self.counts[name] += getattr(outcome, name)
        self.counts[f"profile {outcome.profile}"] += 1
        self.virtual_s += outcome.virtual_s
        self.convergence_s += outcome.convergence_s
        if outcome.violations:
            self.failed.append(outcome)

    def report(self) -> str:
        """For people."""
        seconds = time.monotonic() - self._began
        found = sorted(self.convergence_s)
        at: Callable[[float], float] = lambda share: (
            found[min(len(found) - 1, int(len(found) * share))] if found else 0.0
        )
        counts = self.counts
        return "\n".join(
            (
                f"{counts['runs']} runs in {seconds:.0f} s ({counts['runs'] / seconds:.1f}/s), {len(self.failed)} failed",
                f"  {self.virtual_s / 86_400:.1f} virtual days, {self.virtual_s / 60 / seconds:.0f} virtual hours a minute",
                f"  {counts['payments']} payments, {counts['operations']} operations, {counts['answers']} answers,"
                f" {counts['kills']} kills, {counts['faults']} faults outside, {counts['calls']} database calls"
                f" ({counts['overlaps']} pairs overlapped), {counts['steps']} steps",
                f"  open when the faults stopped: {len(found)}; found out after {at(0.5):.1f} s (half), {at(0.99):.1f} s (99 %),"
                f" {at(1.0):.1f} s (all)",
            )
        )


def failing(superuser_url: str, count: int, jobs: int) -> list[int]:
    """The seeds among the first ``count`` that fail."""
    outcomes = _outcomes(superuser_url, f"torture_{os.getpid()}", range(count), jobs)
    return sorted(one.seed for one in outcomes if one.violations)


def main(
    first: int, count: int, jobs: int, *, replay: int | None = None, patience: int = 5, spared: Sequence[int] = ()
) -> int:
    """Run seeds but for ``spared``; prints what failed with the command that repeats it. Returns the exit code."""
    with postgres() as url:
        name = f"torture_{os.getpid()}"
        if replay is not None:
            with bench(url, name) as play:
                outcome = play(replay, print)
            print(f"trace {outcome.digest}, profile {outcome.profile}, {outcome.virtual_s:.0f} virtual seconds")
            for violation in outcome.violations:
                print(f"  {violation}")
            return 1 if outcome.violations else 0
        tally = Tally()
        for outcome in _outcomes(url, name, [seed for seed in range(first, first + count) if seed not in spared], jobs):
            tally.add(outcome)
            if outcome.violations:
                print(
                    f"seed {outcome.seed} ({outcome.profile}) failed; python -m tests.torture sim --seed {outcome.seed}"
                )
                for violation in outcome.violations[:8]:
                    print(f"  {violation}")
                sys.stdout.flush()
                if len(tally.failed) >= patience:
                    print(f"{patience} seeds failed, that is enough")
                    break
        print(tally.report())
        return 1 if tally.failed else 0


def _outcomes(url: str, name: str, seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """Of all seeds; in their order when one process runs them."""
    if jobs == 1:
        with bench(url, name) as play:
            for seed in seeds:
                yield play(seed)
        return
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for seed in seeds:
        todo.put(seed)
    for _ in range(jobs):
        todo.put(None)
    workers = [
        context.Process(target=_work, args=(url, f"{name}_{index}", todo, done), daemon=True) for index in range(jobs)
    ]
    for worker in workers:
        worker.start()
    try:
        alive = jobs
        while alive:
            came = done.get()
            if came is None:
                alive -= 1
            elif isinstance(came, str):
                raise RuntimeError(came)
            else:
                yield msgspec.json.decode(came, type=Outcome)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(url: str, name: str, todo: multiprocessing.Queue, done: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    seed = None
    try:
        with bench(url, name) as play:
            while (seed := todo.get()) is not None:
                done.put(msgspec.json.encode(play(seed)))
        done.put(None)
    except BaseException as error:
        done.put(f"seed {seed}: {type(error).__name__}: {error}")
        raise
