"""A real browser, driven by its own protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PATIENCE = 600
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def found() -> str:
    """The browser: the one ``CLEARSPAN_TEST_BROWSER`` names, one on PATH, or, as root on Debian, one installed for the purpose.

    Without any the test is skipped, and says so.
    """
    named = os.environ.get("CLEARSPAN_TEST_BROWSER")
    path = named or _on_path() or _installed()
    if path is None:
        pytest.skip("no Chromium: install one, or name it with CLEARSPAN_TEST_BROWSER")
    return path


def _on_path() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _installed() -> str | None:
    """Only root can, and only where there is apt."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return None
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [apt, "--quiet", *arguments],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=180,
                check=False,
            )
    return _on_path()


class Page:
    """One tab.

    Attributes:
        complaints: what the browser logged as an error: violations of the policy, mostly.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Until the connection ends."""
        async for message in self._socket:
            said = message.json()
            if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(said["params"]["entry"]["text"])
            answer = self._answers.pop(said.get("id", 0), None)
            if answer is not None and not answer.done():
                answer.set_result(said)

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """One command."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        said = await asyncio.wait_for(self._answers[number], 60)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = await self.do("Runtime.evaluate", expression=script, returnByValue=True)
        return said["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true, over whatever pages come."""
        for _ in range(PATIENCE):
            with suppress(AssertionError):  # Between two pages there is nothing to ask.
                if await self.run(f"document.readyState === 'complete' && !!({script})"):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{script} stays false at {await self.run('location.href')}")

    async def screenshot(self, path: Path, width: int, height: int = 800, *, dark: bool = False) -> None:
        """Of the page at a width."""
        await self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.do("Emulation.setEmulatedMedia", features=scheme)
        path.write_bytes(base64.b64decode((await self.do("Page.captureScreenshot", format="png"))["data"]))


@asynccontextmanager
async def browsing(browser: str, folder: Path) -> AsyncIterator[Page]:
    """A tab of a fresh browser."""
    process = await asyncio.create_subprocess_exec(
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        told = folder / "DevToolsActivePort"
        for _ in range(PATIENCE):
            if told.exists() and told.read_text().strip():
                break
            await asyncio.sleep(0.05)
        port = told.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(each for each in await answer.json() if each["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await page.do(f"{domain}.enable")
                yield page
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        process.terminate()
        await process.wait()
