"""A vault without a page of its own, on a loopback port that stands for the vendor's origin: a script, frames, tokens.

The payer types into the frames. They send what was typed to their own origin, and the page gets a token.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import msgspec
from aiohttp import web

from clearspan.sdk import CapturePage, VaultCard, VaultContext, VaultScript, VaultUnavailable

SCRIPT = """
window.vendor = { mount(selector, name, label) {
  const frame = document.createElement("iframe");
  frame.src = `ORIGIN/field?name=${name}`;
  frame.title = label;
  const ready = new Promise((resolve) => frame.addEventListener("load", resolve));
  document.querySelector(selector).append(frame);
  return ready.then(() => frame);
}, async tokenise(frames) {
  const answers = frames.map((frame) => new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = ({ data }) => resolve(data);
    frame.contentWindow.postMessage("value?", "ORIGIN", [channel.port2]);
  }));
  const kept = await Promise.all(answers);
  const answer = await fetch("ORIGIN/tokens", { method: "POST", body: JSON.stringify(kept) });
  return answer.json();
} };
"""
FIELD = """<!doctype html><html lang="en"><title>field</title><input id="value" aria-label="value"><script>
addEventListener("message", async ({ data, ports }) => {
  if (data !== "value?") return;
  const value = document.getElementById("value").value;
  const answer = await fetch("/values", { method: "POST", body: value });
  ports[0].postMessage(await answer.text());
});
</script></html>"""
MODULE = """
export async function mount({ data, fields, text, style }) {
  if (!style.color) throw new Error("no style");
  const frames = [];
  for (const name of ["number", "expiry", "cvc"]) frames.push(await window.vendor.mount(fields[name], name, text[name]));
  return { submit: async () => {
    const answer = await window.vendor.tokenise(frames);
    if (answer.fail) throw new Error("the vault refused");
    return answer;
  } };
}
"""


class Config(msgspec.Struct, frozen=True):
    """Where the vendor serves."""

    url: str = ""
    script: str = "/vendor.js"
    frames: str = ""
    integrity: str = ""


class ElsewhereVault:
    """The provider."""

    name: ClassVar[str] = "elsewhere"
    config_type: ClassVar[type[msgspec.Struct]] = Config
    capture_module: ClassVar[str] = MODULE

    def __init__(self, config: Any, context: VaultContext) -> None:
        self._config: Config = config
        self._context = context
        self.away = False

    async def create_session(self, return_url: str) -> CapturePage:  # noqa: ARG002
        if self.away:
            raise VaultUnavailable("the vault is away: http://10.0.0.1/")
        url = self._config.url
        return CapturePage(
            expires_at=self._context.now() + timedelta(minutes=5),
            scripts=[VaultScript(url + self._config.script, self._config.integrity)],
            frames=[self._config.frames or url],
            connections=[url],
            data={"key": 'pk_"</script>'},
        )

    async def describe(self, token: str) -> VaultCard:
        return VaultCard("visa", "4242", 12, 2040, token)

    def placeholder(self, token: str, field: str) -> str:
        return f"{{{{{token}.{field}}}}}"

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:  # noqa: ARG002
        return request

    def check(self, response: httpx.Response) -> None:  # noqa: ARG002
        return

    async def delete(self, token: str) -> None:  # noqa: ARG002
        return


class Vendor:
    """What the vendor got."""

    def __init__(self) -> None:
        self.url = ""
        self.values: list[str] = []
        self.answers: list[dict[str, Any]] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/vendor.js", self._script)
        app.router.add_get("/field", self._field)
        app.router.add_post("/values", self._value)
        app.router.add_route("*", "/tokens", self._token)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _script(self, _: web.Request) -> web.Response:
        return web.Response(
            text=SCRIPT.replace("ORIGIN", self.url),
            content_type="text/javascript",
            headers={"Access-Control-Allow-Origin": "*"},
        )

    async def _field(self, _: web.Request) -> web.Response:
        return web.Response(text=FIELD, content_type="text/html")

    async def _value(self, request: web.Request) -> web.Response:
        self.values.append(await request.text())
        return web.Response(text=f"ref_{len(self.values)}")

    async def _token(self, request: web.Request) -> web.Response:
        headers = {"Access-Control-Allow-Origin": "*"}
        answer = self.answers.pop(0) if self.answers else {"token": "tok_elsewhere+1"}
        assert all(each.startswith("ref_") for each in json.loads(await request.text()))
        return web.json_response(answer, headers=headers)
