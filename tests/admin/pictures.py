"""``python -m tests.admin.pictures [name ...]``: the pictures of docs/operators.md, taken of a gateway with believable data.

Runs as a test does, with PostgreSQL, simulators and Chromium, and writes ``docs/pictures/<name>.png``. A page that does not exist
(yet) is left out and named.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec
from playwright.async_api import Page
from tests.admin import believable, png
from tests.admin.conftest import Served, Tabs
from tests.conftest import NewMerchant
from tests.shop import Shop

from clearspan.tenants.service import Tenants

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
SIZE_MAX: Final = 120_000
ASKED: Final = "CLEARSPAN_TEST_PICTURES_ASKED"


class Picture(msgspec.Struct, frozen=True):
    """What to take.

    Attributes:
        path: below the cockpit; names of parameters are filled in, and of payments by what became of them.
        dark: in the dark scheme.
        phone: at the width of one.
        keys: pressed before, as a person would.
        opens: pressed before: a button, by its accessible name.
    """

    path: str
    dark: bool = False
    phone: bool = False
    keys: tuple[str, ...] = ()
    opens: str = ""


PICTURES: Final[Mapping[str, Picture]] = {
    "home": Picture("/"),
    "home-dark": Picture("/", dark=True),
    "home-phone": Picture("/", phone=True),
    "menu-phone": Picture("/", phone=True, opens="Menu"),
    "commands": Picture("/", keys=("Control+k",)),
    "keyboard": Picture("/", keys=("?",)),
    "statuses": Picture("/style-guide"),
    "sign-in": Picture("/sign-in"),
    "profile": Picture("/profile"),
    "payments": Picture("/payments"),
    "payments-phone": Picture("/payments", phone=True),
    "payment": Picture("/payments/{refunded}"),
    "payment-dark": Picture("/payments/{refunded}", dark=True),
    "payment-phone": Picture("/payments/{refunded}", phone=True),
    "payment-declined": Picture("/payments/{declined}"),
    "payment-unknown": Picture("/payments/{unknown}"),
    "disputes": Picture("/disputes"),
    "customers": Picture("/customers"),
    "customer": Picture("/customers/{customer_id}"),
    "subscriptions": Picture("/subscriptions"),
    "subscription": Picture("/subscriptions/{subscription_id}"),
    "invoices": Picture("/invoices"),
    "invoice": Picture("/invoices/{invoice_id}"),
    "dunning": Picture("/dunning"),
    "dunning-plan": Picture("/dunning/plans/{dunning_plan_id}"),
    "plans": Picture("/plans"),
    "work": Picture("/work"),
    "approvals": Picture("/approvals"),
    "ledger": Picture("/ledger"),
    "audit": Picture("/audit"),
    "settings-psps": Picture("/settings/psps"),
    "settings-plugins": Picture("/settings/plugins"),
    "settings-webhooks": Picture("/settings/webhooks"),
    "settings-api-keys": Picture("/settings/api-keys"),
    "settings-people": Picture("/settings/people"),
    "settings-tenant": Picture("/settings/tenant"),
}


async def take_pictures(served: Served, tabs: Tabs, tenants: Tenants, new_merchant: NewMerchant, psp_url: str) -> None:
    """All, or those that ``ASKED`` names."""
    merchant = await believable.open_shop(tenants, new_merchant)
    headers = {"Authorization": f"Bearer {merchant.key}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, trust_env=False) as http:
        shop = await Shop.open(http, psp_url)
        demo = await believable.fill(shop)
        await believable.declining(shop, served.gateway, merchant.caller.scope, demo)
    session = await believable.owner(served.gateway, merchant)
    cookie = {"name": served.gateway.sessions.cookie, "value": session.token, "url": served.url}
    left_out, heavy = [], []
    FOLDER.mkdir(exist_ok=True)
    opened: dict[tuple[bool, bool, bool], Page] = {}
    for name, picture in PICTURES.items():
        if ASKED in os.environ and name not in os.environ[ASKED].split(","):
            continue
        known = name != "sign-in"
        shape = (picture.dark, picture.phone, known)
        if shape not in opened:
            opened[shape] = await tabs.open(None, dark=picture.dark, width=390 if picture.phone else 1280)
            if known:
                await opened[shape].context.add_cookies([cookie])  # type: ignore[list-item]
        page = opened[shape]
        await page.set_viewport_size({"width": 390, "height": 780} if picture.phone else {"width": 1280, "height": 800})
        answer = await page.goto(f"{served.url}/admin{picture.path.format(**demo.objects, **demo.payments)}")
        if answer is None or answer.status != 200:
            left_out.append(name)
            tabs.complaints.clear()
            continue
        if picture.opens:
            await page.get_by_role("button", name=picture.opens, exact=True).click()
        for keys in picture.keys:
            await page.keyboard.press(keys)
        await page.wait_for_function("!document.querySelector('.htmx-request')")
        content = png.smaller(await page.screenshot(animations="disabled", caret="hide"))
        (FOLDER / f"{name}.png").write_bytes(content)
        if len(content) > SIZE_MAX:
            heavy.append(f"{name}: {len(content)} bytes")
    sys.stdout.write(f"left out, as there is no such page: {', '.join(left_out) or 'none'}\n")
    assert heavy == []


def main(names: list[str]) -> int:
    """Returns the exit code."""
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        sys.stderr.write(f"There is no picture {', '.join(unknown)}; there are {', '.join(PICTURES)}.\n")
        return 2
    if names:
        os.environ[ASKED] = ",".join(names)
    options = [
        "-o",
        "python_files=pictures.py",
        "-o",
        "python_functions=take_pictures",
        "-q",
        "-s",
        "--show-capture=no",
    ]
    return subprocess.call([sys.executable, "-m", "pytest", *options, str(Path(__file__))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
