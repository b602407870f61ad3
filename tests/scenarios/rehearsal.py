"""A PSP's simulator in its own process, as the scenario drives it: the same for every PSP plugin.

A plugin's ``tests/stage.py`` says what the simulator takes (``PSP``, ``PLUGIN``, ``account_config``, ``METHODS``, ``CAN``), and
its ``tests/simulator.py`` serves the PSP's interface and, below ``/_control``, what a test needs of it: ``next`` (a fault for the
next request that moves money), ``charges`` (the PSP's own book), ``webhooks`` (every message so far, signed), ``webhook`` (where
they would go) and ``problems`` (requests that are not as the official description says). docs/conformance.md has the details.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
from tests.conftest import free_ports
from tests.shop import NO_TLS

from clearspan.platform import clock

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


class Booked(msgspec.Struct):
    """A charge in the PSP's own book."""

    id: str
    reference: str
    amount_minor: int
    currency: str
    status: str
    captured_minor: int = 0
    refunded_minor: int = 0


class Stage:
    """What a plugin says of itself for the scenario."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location(f"stage_of_{path.parents[1].name.replace('-', '_')}", path)
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.folder = path.parent
        self.psp: str = module.PSP
        self.plugin: str = module.PLUGIN
        self.account_config = module.account_config
        self.methods: dict[str, Json] = module.METHODS
        self.can: frozenset[str] = frozenset(module.CAN)
        self.currency: str = getattr(module, "CURRENCY", "EUR")

    def __repr__(self) -> str:
        return self.psp


def stages() -> list[Stage]:
    """Of every PSP plugin in this repository."""
    return [Stage(path) for path in sorted(ROOT.glob("plugins/psp-*/tests/stage.py"))]


class Rehearsal:
    """A running simulator."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._old = 0
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(stage.folder / "simulator.py"), "--port", str(free_ports(1)[0])],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), line
        self.url = line.removeprefix("ready ").strip()
        for _ in range(200):  # some say so a moment before they listen
            with suppress(httpx.TransportError):
                httpx.get(f"{self.url}/_control/problems", trust_env=False)
                return
            self._process.poll()
            threading.Event().wait(0.05)
        raise AssertionError(f"{stage} does not listen")

    def stop(self) -> None:
        """End the process; some of its answers hang, and it keeps nothing that is worth waiting for."""
        self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    async def _control(self, method: str, what: str, body: Json | None = None) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=20, verify=NO_TLS) as http:
            answer = await http.request(method, f"{self.url}/_control/{what}", json=body)
        assert answer.status_code < 300, (what, answer.text)
        return answer.json() if answer.content else None

    async def next(self, fault: str) -> None:
        """``hang_after``, ``hang_before``, ``error_after``, ``error_before`` or ``garbage_after``: the next one meets it."""
        await self._control("POST", "next", {"fault": fault})

    async def charges(self) -> list[Booked]:
        """The PSP's own book."""
        return msgspec.convert(await self._control("GET", "charges"), list[Booked])

    async def settle(self) -> None:
        """Time passes at the PSP: what was accepted and not done yet is done, where its simulator lets things wait."""
        async with httpx.AsyncClient(trust_env=False, timeout=20, verify=NO_TLS) as http:
            await http.post(f"{self.url}/_control/settle", json={})

    async def told_where(self, url: str) -> None:
        """The address of the account's webhooks, for PSPs that sign it; what was told before is another account's affair."""
        self._old = len(await self._control("GET", "webhooks"))
        await self._control("POST", "webhook", {"url": url})

    async def webhooks(self) -> list[tuple[dict[str, str], bytes]]:
        """Every message since then."""
        told = await self._control("GET", "webhooks")
        return [(one["headers"], one["body"].encode()) for one in told[self._old :]]

    async def problems(self) -> list[str]:
        """Requests that are not as the official description says."""
        found: list[str] = await self._control("GET", "problems")
        return found

    async def browser(self, url: str, outcome: str) -> dict[str, str]:
        """What the payer does on the PSP's page; returns the parameters he comes back with."""
        address = f"{url}{'&' if urlsplit(url).query else '?'}outcome={outcome}"
        async with httpx.AsyncClient(trust_env=False, timeout=20, verify=NO_TLS) as http:
            answer = await http.get(address)
            for _ in range(5):
                place = answer.headers.get("location", "")
                if answer.status_code not in (302, 303) or not place.startswith(self.url):
                    break
                answer = await http.get(place)
        assert answer.status_code in (302, 303), answer.text
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


class Ahead:
    """A clock that is ahead; everything else is the real one's."""

    def __init__(self, real: clock.Clock, ahead_s: float) -> None:
        self._real = real
        self._ahead_s = ahead_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def now(self) -> Any:
        return self._real.now() + clock.seconds(self._ahead_s)
