"""How a worker shows that it is alive: a file in ``run`` that it writes every few seconds.

A file and not a port: it needs no address, no key and no second server, and a container's health check can ask with the program
that is in the image anyway (``clearspan worker --check``). The host's name is part of the file's, because containers may share a
data directory and each numbers its processes from one.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from clearspan.platform import clock
from clearspan.settings import Settings

EVERY_S = 5
LATE_S = 30
FORGOTTEN_S = 86_400


def path(settings: Settings) -> Path:
    """This process's file."""
    return (settings.data_dir / "run") / f"worker-{socket.gethostname()}-{os.getpid()}"


def beat(settings: Settings, said: str) -> None:
    """Say that this worker lives, and in a few words how it is."""
    path(settings).write_text(f"{said}\n", encoding="utf-8")


def end(settings: Settings) -> None:
    """Take the file away, and those that killed workers left a day ago."""
    path(settings).unlink(missing_ok=True)
    for other in (settings.data_dir / "run").glob("worker-*"):
        if (_age_s(other) or 0) > FORGOTTEN_S:
            other.unlink(missing_ok=True)


def check(settings: Settings) -> int:
    """0 when a worker of this host was heard of within half a minute, else 1.

    A worker whose database or queue is away is alive: starting it again would not bring them back.
    """
    mine = (settings.data_dir / "run").glob(f"worker-{socket.gethostname()}-*")
    ages = {file: age for file in mine if (age := _age_s(file)) is not None}
    if not ages:
        sys.stderr.write("No worker of this host has been heard of.\n")
        return 1
    newest = min(ages, key=lambda file: ages[file])
    sys.stdout.write(f"{newest.name}: {ages[newest]:.0f} s ago, {newest.read_text(encoding='utf-8').strip()}\n")
    return 0 if ages[newest] <= LATE_S else 1


def _age_s(file: Path) -> float | None:
    try:
        # The file's time is the host's, and so is the clock of a process that never met the database.
        return clock.now().timestamp() - file.stat().st_mtime
    except FileNotFoundError:
        return None
