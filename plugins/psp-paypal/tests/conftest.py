"""A simulator of PayPal in a process of its own, and the adapter on it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan_psp_paypal import PayPal, PayPalConfig

sys.path.insert(0, str(Path(__file__).parent))
import stage

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain http only: reading the authorities anew for each would take 20 ms."""
HERE = Path(__file__).parent


class Simulated:
    """The process and its control API."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [sys.executable, str(HERE / "simulator.py"), "--port", str(port)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[1]

    def control(self, what: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}/_control/{what}", data=data, timeout=5) as answer:  # noqa: S310
            return json.load(answer)

    def page(self, url: str, outcome: str) -> dict[str, str]:
        """The payer acts; what the shop's address gets."""
        answer = httpx.get(url, params=httpx.QueryParams(httpx.URL(url).params).set("outcome", outcome))
        assert answer.status_code == 302
        return dict(httpx.URL(answer.headers["location"]).params)


class Clock:
    """What the adapter takes for now."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, span: timedelta) -> None:
        self.at += span


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    simulated = Simulated()
    with simulated.process:
        yield simulated
        problems = simulated.control("problems")
        simulated.process.terminate()
    assert not problems, "\n".join(sorted(set(problems)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(simulator: Simulated) -> dict[str, Any]:
    return stage.account_config(simulator.url)


@pytest.fixture
async def paypal(settings: dict[str, Any], clock: Clock) -> AsyncIterator[PayPal]:
    async with httpx.AsyncClient(timeout=30, verify=NO_TLS) as http:
        yield PayPal(msgspec.convert(settings, PayPalConfig), sdk.PspContext(http=http, vault_http=http, now=clock))
