"""``clearspan demo --year``: a year of a small software service, in minutes, on a test clock and through the public API only.

Subscribers join over the year, most pay without trouble. Some cards have too little money at the first try, some expire, some are
lost, some holders take their consent back, some customers leave. The gateway bills, retries, reminds and gives up by itself; at
the end its books are compared with the provider's, and the recovery report says what the retries brought.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from clearspan.commands.demo import Shop, Unexpected
from clearspan.platform import clock
from clearspan.sdk import format_amount

BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
MONTHS = 12
FIRST_SHARE = 0.4
"""Of the subscribers, so many are there from the beginning; the others join evenly over the year."""
KINDS = (
    # (share in thousandths, token, what it is)
    (760, "tok_visa", "pays"),
    (60, "tok_mastercard", "pays"),
    (60, "tok_rebill_recovers", "too little money on the first two tries of each month"),
    (30, "tok_advice_25", "the issuer says: in a day"),
    (20, "tok_advice_02", "the issuer says: later"),
    (30, "tok_expires", "the card expires"),
    (20, "tok_advice_03", "the issuer says: never again"),
    (20, "tok_revokes_third", "the holder takes the consent back"),
)
LEAVE_BP = 150
"""Of the subscribers, so many basis points leave by themselves each month."""
POLL_S = 0.25
MONTH_MAX_S = 900
PAGE = 100
Json = dict[str, Any]


class Service(Shop):
    """The service's backend: a year of it."""

    def __init__(self, api: httpx.AsyncClient, console: Console, subscribers: int) -> None:
        super().__init__(api, console)
        self._count = subscribers
        self._joined: list[Json] = []
        self._left: set[str] = set()
        self._plans: list[str] = []
        self._clock = ""
        self._customers: set[str] = set()
        self._payments: list[Json] = []
        self.kinds: Counter[str] = Counter()

    async def play(self) -> None:
        """Everything, month by month, and what came of it."""
        began = clock.now()
        await self._year()
        for table in await self.summary():
            self._console.print(table)
        self._payments = await self.pages("/v1/payments", created_after=_text(began))

    async def all_payments(self) -> list[Json]:
        """Those of the year's subscribers."""
        return [one for one in self._payments if one["customer"] in self._customers]

    async def _year(self) -> None:
        made = await self._call("POST", "/v1/test-clocks", 201, {"name": f"demo {self._run}", "now_at": _text(BEGINS)})
        self._clock = made["id"]
        month = {"unit": "month"}
        for name, amount, interval in (
            ("Solo", 900, month),
            ("Team", 2900, month),
            ("Team, a year", 29000, {"unit": "year"}),
        ):
            body = {"name": name, "amounts": {"EUR": amount}, "interval": interval, "metadata": {"demo": self._run}}
            self._plans.append((await self._call("POST", "/v1/plans", 201, body))["id"])
        coupon = {
            "code": f"HELLO-{self._run}",
            "name": "Welcome",
            "percent_bp": 2000,
            "duration": "repeating",
            "periods": 3,
        }
        await self._call("POST", "/v1/coupons", 201, coupon)
        first = round(self._count * FIRST_SHARE)
        for number in range(MONTHS):
            new = first if number == 0 else round((self._count - len(self._joined)) / (MONTHS - number))
            await self._together(self._join(len(self._joined) + index) for index in range(new))
            leaving = await self._leave() if number else 0
            until = _month(number + 1)
            await self._advance(until)
            self._console.print(
                f"[green]✓[/] {until:%Y-%m}: {new} joined, {leaving} left, {len(self._joined)} in all",
                markup=True,
                soft_wrap=True,
            )

    async def _join(self, index: int) -> None:
        token = _kind(index * 618 % 1000)  # spreads the kinds evenly over the year
        self.kinds[token] += 1
        person = f"{self._run}{index:x}"
        body: Json = {"name": f"Subscriber {index + 1}", "email": f"{person}@example.com", "test_clock": self._clock}
        customer = (await self._call("POST", "/v1/customers", 201, body | {"metadata": {"demo": self._run}}))["id"]
        self._customers.add(customer)
        card = {"token": f"{token}__{person}", "customer": customer}
        method = (await self._call("POST", "/v1/payment-methods", 201, card))["id"]
        body = {
            "customer": customer,
            "items": [{"plan": self._plans[0 if index % 10 < 6 else 1 if index % 10 < 9 else 2]}],
            "payment_method": method,
            "mandate": {"text_version": "demo-1"},
            "time_zone": "Europe/Berlin",
            "return_url": "https://service.example/welcome",
            "metadata": {"demo": self._run},
        }
        if index % 5 == 0:
            body["coupon"] = f"HELLO-{self._run}"
        if index % 7 == 0:
            body["trial_days"] = 14
        made = await self._call("POST", "/v1/subscriptions", 201, body)
        self._expect(made["status"] in ("active", "trialing"), f"{token}: a new subscription is {made['status']}")
        self._joined.append(made)

    async def _leave(self) -> int:
        here = [one for one in self._joined if one["id"] not in self._left]
        going = [one for index, one in enumerate(here) if (index * 7919) % 10_000 < LEAVE_BP]

        async def go(one: Json) -> None:
            self._left.add(one["id"])
            path = f"/v1/subscriptions/{one['id']}"
            now = await self._call("GET", path, 200)
            if now["status"] in ("canceled", "incomplete_expired"):
                return
            await self._call("POST", f"{path}/cancel", 200, {"at": "period_end", "reason": "moved on"})

        await self._together(go(one) for one in going)
        return len(going)

    async def _advance(self, to: datetime) -> None:
        path = f"/v1/test-clocks/{self._clock}"
        await self._call("POST", f"{path}/advance", 202, {"to": _text(to)})
        for _ in range(round(MONTH_MAX_S / POLL_S)):
            await clock.sleep(POLL_S)
            found = await self._call("GET", path, 200)
            if found["status"] == "ready":
                return
        raise Unexpected(f"the test clock does not arrive at {to:%Y-%m-%d}: it stands at {found['now_at']}")

    async def pages(self, path: str, **query: Any) -> list[Json]:
        """Everything a list holds."""
        found: list[Json] = []
        query |= {"limit": PAGE}
        while True:
            page = await self._call("GET", path, 200, query=query)
            found += page["data"]
            if not page["has_more"]:
                return found
            query["cursor"] = page["next_cursor"]

    async def summary(self) -> list[Table]:
        """What the year brought."""
        mine = {one["id"] for one in self._joined}
        subscriptions = [one for one in await self.pages("/v1/subscriptions") if one["id"] in mine]
        invoices = [one for one in await self.pages("/v1/invoices") if one["subscription"] in mine]
        recovery = await self._call(
            "GET", "/v1/rebills/recovery", 200, query={"since": _text(BEGINS), "until": _text(_month(MONTHS + 1))}
        )
        return [
            _counted("Subscribers at the end", Counter(one["status"] for one in subscriptions)),
            _counted("Invoices", Counter(one["status"] for one in invoices), invoices),
            _recovered(recovery),
        ]


def _kind(place: int) -> str:
    for share, token, _ in KINDS:
        place -= share
        if place < 0:
            return token
    raise AssertionError("the shares add up to a thousand")


def _counted(title: str, counts: Counter[str], rows: list[Json] | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("status")
    table.add_column("number", justify="right")
    if rows is not None:
        table.add_column("amount", justify="right")
    for status, count in counts.most_common():
        cells = [status, str(count)]
        if rows is not None:
            total = sum(one["total_minor"] for one in rows if one["status"] == status)
            cells.append(format_amount(total, "EUR"))
        table.add_row(*cells)
    return table


def _recovered(recovery: Json) -> Table:
    table = Table(title="Declined at first, and what became of it", title_justify="left", box=None)
    for name in ("group", "failed", "recovered", "open", "amount recovered"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for one in recovery["groups"]:
        table.add_row(
            one["group"], str(one["failed"]), f"{one['recovered']} ({one['recovered_bp'] / 100:.1f} %)", str(one["open"]),
            format_amount(one["recovered_minor"], one["currency"]),
        )  # fmt: skip
    for one in recovery["by_try"]:
        table.add_row(f"{one['group']}, try {one['try']}", str(one["tries"]), str(one["recovered"]), "", "")
    return table


def _month(number: int) -> datetime:
    year, month = divmod(BEGINS.month - 1 + number, 12)
    return BEGINS.replace(year=BEGINS.year + year, month=month + 1)


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
