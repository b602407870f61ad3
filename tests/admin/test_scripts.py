"""docs/scripts.md lists what pages load, and pages load nothing else (PCI DSS 4.0.1, requirement 6.4.3)."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from pathlib import Path

import asyncpg
import httpx
from tests.admin import samples
from tests.admin.conftest import NewPerson
from tests.conftest import Merchant

from clearspan.app import Gateway
from clearspan.docs_gen import scripts
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings
from clearspan.vaults.service import PAGE_SCRIPT

PAGE = Path(__file__).parents[2] / "docs" / "scripts.md"
SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.DOTALL)
SOURCE = re.compile(r'\bsrc="([^"]+)"')


def listed() -> set[str]:
    """The digests of the page."""
    return set(re.findall(r"`([0-9a-f]{64})`", PAGE.read_text(encoding="utf-8")))


async def test_the_cockpit_loads_what_is_listed_and_nothing_else(
    people: NewPerson,
    app: AsgiApp,
    gateway: Gateway,
    merchant: Merchant,
    client: httpx.AsyncClient,
    settings: Settings,
    superuser: asyncpg.Connection[asyncpg.Record],
    sandboxes: None,
) -> None:
    objects = await samples.made(client, settings, merchant, superuser, gateway)
    person = await people("owner")
    person.http._transport = httpx.ASGITransport(app=samples.glance(app))  # type: ignore[arg-type]
    loaded: set[str] = set()
    for page in samples.pages_of(app, "GET"):
        answer = await person.http.get(page.path(objects))
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        nonce = re.search(r"script-src 'nonce-([0-9a-f]+)';", answer.headers["content-security-policy"])
        assert nonce is not None, page
        for attributes, inline in SCRIPT.findall(answer.text):
            source = SOURCE.search(attributes)
            assert source is not None, f"{page} has a script without an address"
            assert not inline.strip(), f"{page} has an inline script"
            assert source[1].startswith("/admin/static/"), f"{page} loads {source[1]}"
            assert f'nonce="{nonce[1]}"' in attributes, f"{page}: {source[1]} has no nonce"
            loaded.add(source[1])
    digests = {hashlib.sha256((await person.http.get(source)).content).hexdigest() for source in loaded}
    assert digests == {one.sha256 for one in scripts.cockpit()}, "a script is loaded by no page, or is not listed"
    assert digests <= listed()


def test_the_capture_page_has_our_script_and_the_vaults_module() -> None:
    template = resources.files("clearspan.vaults").joinpath("templates", "capture.html").read_text("utf-8")
    assert [SOURCE.findall(attributes) for attributes, _ in SCRIPT.findall(template)] == [
        ["/capture/assets/{{ script }}"]
    ]
    assert {one.sha256 for one in scripts.capture()} <= listed()
    assert hashlib.sha256(PAGE_SCRIPT.encode()).hexdigest() in listed()


def test_the_page_on_which_invoices_are_paid_has_no_script() -> None:
    template = resources.files("clearspan.subscriptions").joinpath("templates", "pay.html").read_text("utf-8")
    assert "<script" not in template
    assert "javascript:" not in template


def test_the_list_is_what_its_generator_says() -> None:
    """When it fails: ``python -m clearspan.docs_gen``."""
    assert PAGE.read_text(encoding="utf-8") == scripts.render()
