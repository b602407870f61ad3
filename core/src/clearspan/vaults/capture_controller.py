"""``/capture/{sealed}``: the page on which a payer types a card into fields of the vault's.

The page is ours, the fields are frames of the vault's origin. Its policy names the vault's origins and nothing else, and a new
nonce each time; nothing of it leads back here but the page itself and two scripts.
"""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from markupsafe import Markup

from clearspan.access.guard import PUBLIC
from clearspan.platform import clock
from clearspan.platform.locales import accepted
from clearspan.platform.problems import NotFound
from clearspan.sdk import CapturePage
from clearspan.vaults.errors import VaultUnavailable
from clearspan.vaults.links import Captured, CaptureLinks
from clearspan.vaults.service import PAGE_SCRIPT, Vaults, script_name

PATIENCE_MS = 25_000
"""How long the page waits for the vault's script and for a token."""
_STYLE = resources.files("clearspan.platform").joinpath("payer.css").read_text(encoding="utf-8")
_ASSET_LASTS = "public, max-age=31536000, immutable"


class CaptureController(Controller):
    """The capture page, and its scripts."""

    path = "/capture"
    include_in_schema = False

    @get("/{sealed:str}", opt={"scope": PUBLIC})
    async def show(
        self,
        request: Request[Any, Any, Any],
        sealed: FromPath[str],
        capture_links: NamedDependency[CaptureLinks],
        vaults: NamedDependency[Vaults],
    ) -> Response[str]:
        """The page, or why there is none."""
        language = accepted(request.headers.get("accept-language", ""))
        captured = capture_links.read(sealed)
        if captured is None:
            return _said(language, 404, "unknown_title", "unknown", live=True)
        live = captured.scope.live
        if captured.expires_at <= clock.now():
            return _said(language, 410, "expired_title", "expired_link", live=live)
        try:
            page = await vaults.page(captured)
        except VaultUnavailable:
            return _said(language, 503, "unavailable_title", "unavailable", live=live, retry=True)
        return _page(language, captured, page, vaults.module_of(captured.vault))

    @get("/assets/{name:str}", opt={"scope": PUBLIC})
    async def asset(self, name: FromPath[str], vaults: NamedDependency[Vaults]) -> Response[str]:
        """A script; its name is a digest of it."""
        text = vaults.scripts.get(name)
        if text is None:
            raise NotFound("There is no such script. Load the page again.")
        return Response(text, media_type="text/javascript", headers={"Cache-Control": _ASSET_LASTS})


@cache
def _words(language: str) -> Mapping[str, str]:
    text = resources.files("clearspan.vaults").joinpath("texts", f"{language}.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("clearspan.vaults"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _page(language: str, captured: Captured, page: CapturePage, module: str) -> Response[str]:
    said = _words(language)
    told = {
        "return_url": captured.return_url,
        "expires_ms": int(page.expires_at.timestamp() * 1000),
        "patience_ms": PATIENCE_MS,
        "scripts": page.scripts,
        "module": f"/capture/assets/{module}",
        "data": page.data,
        "text": dict(said),
    }
    shown = {"title": said["title"], "told": msgspec.json.encode(told).decode(), "script": script_name(PAGE_SCRIPT)}
    return _html(language, 200, page=page, live=captured.scope.live, **shown)


def _said(language: str, status: int, title: str, text: str, *, live: bool, retry: bool = False) -> Response[str]:
    said = _words(language)
    return _html(language, status, live=live, title=said[title], text=said[text], alert=True, retry=retry)


_NOTHING: Mapping[str, Any] = {"text": None, "alert": False, "told": None, "script": None, "retry": False}


def _html(language: str, status: int, *, page: CapturePage | None = None, **shown: Any) -> Response[str]:
    nonce = base64.b64encode(clock.random_bytes(16)).decode()
    body = (
        _templates()
        .get_template("capture.html")
        .render(
            language=language,
            said=_words(language),
            style=Markup(_STYLE),  # noqa: S704  (our own file)
            nonce=nonce,
            **(dict(_NOTHING) | shown),
        )
    )
    headers = {
        "Content-Security-Policy": policy(nonce, page),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
    }
    return Response(body, status_code=status, media_type="text/html", headers=headers)


def policy(nonce: str, page: CapturePage | None) -> str:
    """What the page may load. The vault's script may bring others of its origin, so the origin stands beside the nonce."""
    directives = ["default-src 'none'", f"style-src 'nonce-{nonce}'"]
    if page is not None:
        origins = sorted({f"{(url := urlsplit(script.url)).scheme}://{url.netloc}" for script in page.scripts})
        directives.append(f"script-src 'nonce-{nonce}' {' '.join(origins)}")
        directives += [f"frame-src {' '.join(page.frames)}"] if page.frames else []
        directives += [f"connect-src {' '.join(page.connections)}"] if page.connections else []
    return "; ".join([*directives, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
