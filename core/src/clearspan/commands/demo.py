"""``clearspan demo``: a day of a shop, through the public API only, ending with our books compared to the provider's.

Against a running gateway: the one ``clearspan up`` runs here, one named by ``--url`` and ``--key``, or one started for it. Every
call could be made by a merchant's developer; the payer's part of 3-D Secure is played by sending the simulator's form.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from clearspan.commands.children import Child, own_command
from clearspan.platform import clock, plugins
from clearspan.platform.plugins import Plugins
from clearspan.platform.runtime import OperatorError, prepare_data_dir, published, run_dir
from clearspan.platform.telemetry import configure_logging
from clearspan.sdk import format_amount
from clearspan.settings import Settings

START_S = 60
AT_ONCE = 4
EVENTS_S = 10
SHOPPERS = ("Ada", "Grace", "Katherine", "Radia", "Barbara", "Frances")
APPROVED = (
    *("tok_visa", "tok_mastercard", "tok_visa_debit", "tok_visa_de", "tok_mastercard_debit", "tok_discover"),
    *("tok_jcb", "tok_visa_gb", "tok_3ds_frictionless"),
)
PRICES = ((1099, "EUR"), (2500, "USD"), (4999, "EUR"), (500, "JPY"), (12900, "GBP"), (799, "EUR"), (3550, "CHF"))
DECLINES = {
    "tok_decline_insufficient_funds": "insufficient_funds",
    "tok_decline_do_not_honor": "do_not_honor",
    "tok_decline_expired_card": "expired_card",
    "tok_decline_invalid_cvc": "invalid_cvc",
    "tok_decline_lost_card": "lost_card",
    "tok_decline_suspected_fraud": "suspected_fraud",
    "tok_decline_limit_exceeded": "limit_exceeded",
    "tok_3ds_failed": "authentication_required",
}
"""Well-known token of the sandbox vault -> our code."""

Payment = dict[str, Any]
Money = tuple[int, str]


class Unexpected(Exception):
    """The gateway answered something else than the day expects."""


def run(
    settings: Settings, config: Path | None, *, url: str | None, key: str | None, subscribers: int | None = None
) -> int:
    """Play the day, or with ``subscribers`` the year of ``demo_year``; 1 when something did not go as it should.

    Raises:
        OperatorError: no gateway, or no key.
    """
    configure_logging("warning", "console")
    console = Console(highlight=False)
    try:
        return asyncio.run(_play(settings, config, url, key, subscribers, console))
    except Unexpected as error:
        console.print(f"[red]✗[/] {error}", markup=True, soft_wrap=True)
        return 1


async def _play(
    settings: Settings, config: Path | None, url: str | None, key: str | None, subscribers: int | None, console: Console
) -> int:
    from clearspan.commands.demo_year import Service

    loaded = plugins.load(settings.plugins.enabled)
    async with AsyncExitStack() as stack:
        if url is None:
            url = await stack.enter_async_context(_running(settings, config, console))
        headers = {"Authorization": f"Bearer {key or _first_key(settings)}"}
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False)
        api = await stack.enter_async_context(client)
        shop = Shop(api, console) if subscribers is None else Service(api, console, subscribers)
        await shop.check()
        await shop.play()
        payments = await shop.all_payments()
        books = await _books(settings, loaded, {one["psp"]["account"] for one in payments if one["psp"]})
        return _report(console, shop, payments, books)


# -- Which gateway --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _running(settings: Settings, config: Path | None, console: Console) -> AsyncIterator[str]:
    """The URL of the gateway of this machine, started when none runs."""
    prepare_data_dir(settings)
    found = published(settings.data_dir)
    if found is not None and found.url:
        yield found.url
        return
    console.print("No gateway runs here: starting one for the time of the demo.")
    child = Child("clearspan up", own_command(config, safe_mode=False, command=["up"]), os.environ, quiet=True)
    child.start()
    try:
        for _ in range(START_S * 10):
            await clock.sleep(0.1)
            found = published(settings.data_dir)
            if found is not None and found.url:
                break
            if not child.alive:
                raise OperatorError("'clearspan up' ended while it started: run it by itself to see why.")
        else:
            raise OperatorError(f"'clearspan up' is not ready after {START_S} s: run it by itself to see why.")
        yield found.url
    finally:
        await child.stop(settings.server.drain_timeout_s + 10)


def _first_key(settings: Settings) -> str:
    path = run_dir(settings) / "first-key"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise OperatorError(
            f"There is no key in {path}: make one with 'clearspan key create --tenant demo' and give it with --key."
        ) from error


# -- The day --------------------------------------------------------------------------------------------------------------------


class Shop:
    """A merchant's backend.

    Args:
        api: of the gateway, with a key.
        console: where progress goes.
    """

    def __init__(self, api: httpx.AsyncClient, console: Console) -> None:
        self._api = api
        self._console = console
        self._run = clock.random_bytes(4).hex()
        self._methods: dict[str, dict[str, str]] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._charged: list[Payment] = []
        self._seen: set[str] = set()
        self.events: Counter[str] = Counter()
        self.rows: list[tuple[str, int, str, str]] = []

    async def check(self) -> None:
        """The gateway answers, and the key is a test key."""
        try:
            answer = await self._api.get("/v1/tenant")
        except httpx.TransportError as error:
            raise OperatorError(
                f"No gateway answers at {self._api.base_url}: start one with 'clearspan up', or correct --url."
            ) from error
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise OperatorError(
                "The gateway refuses the key: make one with 'clearspan key create --tenant demo', give it with --key."
            )
        tenant = answer.raise_for_status().json()
        if tenant["live"]:
            raise OperatorError("This is a live key: the demo plays with test keys only.")
        self._console.print(f"Tenant [bold]{tenant['slug']}[/] at {self._api.base_url}, run {self._run}", markup=True)

    async def play(self) -> None:
        """The day, while the live stream is listened to."""
        async with self.listening():
            await self.day()
            await self.wait_for_events()

    async def day(self) -> None:
        """Everything, in the order of a day."""
        await self._open_shop()
        await self._sales()
        await self._declines()
        await self._challenges()
        await self._authorisations()
        await self._changes_of_mind()
        await self._refunds()
        await self._repetition()

    async def _open_shop(self) -> None:
        async def customer(name: str) -> str:
            body = {"name": name, "email": f"{name.lower()}.{self._run}@example.com", "metadata": {"demo": self._run}}
            return str((await self._call("POST", "/v1/customers", 201, body))["id"])

        customers = await self._together(customer(name) for name in SHOPPERS)
        tokens = [*APPROVED, *DECLINES, "tok_3ds_challenge"]

        async def method(index: int, token: str) -> None:
            body = {"token": token, "customer": customers[index % len(customers)]}
            made = await self._call("POST", "/v1/payment-methods", 201, body)
            self._methods[token] = {"payment_method": made["id"], "customer": made["customer"]}

        await self._together(method(index, token) for index, token in enumerate(tokens))
        self._done("customers", len(customers), "made, personal data encrypted")
        self._done("payment methods", len(tokens), "tokens of the vault; no card number here")

    async def _sales(self) -> None:
        async def sale(index: int) -> Payment:
            amount, currency = PRICES[index % len(PRICES)]
            # The second account is asked for now and then; the others go by priority.
            asked = {"psp_account": "beta"} if index % 6 == 5 else {}
            return await self._pay(APPROVED[index % len(APPROVED)], amount + index, currency, "succeeded", **asked)

        self._charged = await self._together(sale(index) for index in range(26))
        self._done("sales", len(self._charged), "charged at once", _amounts(self._charged))

    async def _declines(self) -> None:
        async def declined(token: str, code: str) -> None:
            payment = await self._pay(token, 1999, "EUR", "requires_payment_method")
            self._expect(payment["last_error"]["code"] == code, f"{token} was declined with {payment['last_error']}")

        await self._together(declined(token, code) for token, code in DECLINES.items())
        self._done(
            "declines", len(DECLINES), ", ".join(sorted(set(DECLINES.values()))), len(DECLINES) * [(1999, "EUR")]
        )

    async def _challenges(self) -> None:
        async def challenge(result: str, status: str) -> None:
            return_url = "https://shop.example/return"
            payment = await self._pay("tok_3ds_challenge", 8900, "EUR", "requires_action", return_url=return_url)
            async with httpx.AsyncClient(trust_env=False, timeout=30) as payer:
                answer = await payer.post(payment["next_action"]["url"], data={"result": result})
            self._expect(
                answer.status_code == httpx.codes.SEE_OTHER, f"the challenge page answered {answer.status_code}"
            )
            params = dict(httpx.URL(answer.headers["location"]).params)
            payment = await self._step(payment, "continue", 200, {"params": params})
            self._expect(payment["status"] == status, f"after the challenge it is {payment['status']}, not {status}")

        await self._together(
            [*(challenge("approve", "succeeded") for _ in range(4)), challenge("fail", "requires_payment_method")]
        )
        self._done("3-D Secure challenges", 5, "4 approved by the payer, 1 failed", 4 * [(8900, "EUR")])

    async def _authorisations(self) -> None:
        payments: list[Payment] = []

        async def authorised(amount: int) -> Payment:
            payments.append(await self._pay("tok_visa", amount, "EUR", "requires_capture", capture_method="manual"))
            return payments[-1]

        async def whole() -> None:
            payment = await self._step(await authorised(15000), "capture", 200)
            self._expect(payment["status"] == "succeeded", f"captured whole it is {payment['status']}")

        async def part() -> None:
            payment = await self._step(await authorised(20000), "capture", 200, {"amount_minor": 12500, "final": True})
            amounts = payment["amounts"]
            self._expect(
                (amounts["captured_minor"], amounts["capturable_minor"]) == (12500, 0), f"captured in part: {amounts}"
            )

        async def parts() -> None:
            payment = await authorised(30000)
            for amount in (10000, 5000):
                payment = await self._step(payment, "capture", 200, {"amount_minor": amount})
            problem = await self._step(payment, "capture", 422, {"amount_minor": 15001})
            self._expect(problem["code"] == "amount_above_capturable", f"too much to capture: {problem['code']}")

        async def released() -> None:
            payment = await self._step(await authorised(7500), "cancel", 200, {"reason": "out of stock"})
            self._expect(payment["status"] == "canceled", f"released it is {payment['status']}")

        await self._together([whole(), whole(), part(), part(), parts(), released(), released()])
        result = "2 captured whole, 2 in part, 1 in two parts, 2 released"
        self._done("authorisations", 7, result, _amounts(payments))

    async def _changes_of_mind(self) -> None:
        async def change() -> None:
            body = {"amount_minor": 4200, "currency": "EUR", "metadata": {"demo": self._run}}
            payment = await self._call("POST", "/v1/payments", 201, body)
            payment = await self._step(payment, "cancel", 200, {"reason": "customer changed their mind"})
            self._expect(payment["status"] == "canceled", f"canceled it is {payment['status']}")

        await self._together(change() for _ in range(3))
        self._done("canceled before payment", 3, "nothing was sent to a provider")

    async def _refunds(self) -> None:
        refunds: list[Payment] = []

        async def refunded(payment: Payment, body: dict[str, Any]) -> None:
            refund = await self._step(payment, "refunds", 201, body)
            self._expect(refund["status"] == "succeeded", f"a refund is {refund['status']}")
            refunds.append(refund)

        async def part(payment: Payment) -> None:
            half = payment["amount_minor"] // 2
            for _ in range(2):
                await refunded(payment, {"amount_minor": half // 2})
            problem = await self._step(payment, "refunds", 422, {"amount_minor": payment["amount_minor"]})
            self._expect(problem["code"] == "amount_above_refundable", f"too much to refund: {problem['code']}")

        whole = [refunded(payment, {"reason": "returned goods"}) for payment in self._charged[:4]]
        await self._together([*whole, *map(part, self._charged[4:8])])
        result = "4 whole, 8 in part; 4 that asked for too much refused"
        self._done("refunds", len(refunds), result, _amounts(refunds))

    async def _repetition(self) -> None:
        body = {"amount_minor": 6100, "currency": "EUR", "confirm": True, "metadata": {"demo": self._run}}
        body |= self._methods["tok_visa"]
        headers = {"Idempotency-Key": f"demo-{self._run}-repeated"}
        answers = [await self._api.post("/v1/payments", json=body, headers=headers) for _ in range(3)]
        first = answers[0]
        self._expect(first.status_code == httpx.codes.CREATED, f"a payment answered {first.status_code}: {first.text}")
        self._expect(
            all((one.status_code, one.content) == (first.status_code, first.content) for one in answers),
            "a repeated request was answered with other bytes",
        )
        self._charged.append(first.json())
        self._done("repeated request", 3, "one charge, three times the same bytes", _amounts([first.json()]))

    # -- events ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Count what the live stream tells while the block lasts."""
        opened = asyncio.Event()
        listener = asyncio.create_task(self._listen(opened))
        try:
            await asyncio.wait({listener, asyncio.create_task(opened.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if listener.done():
                await listener
            yield
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self, opened: asyncio.Event) -> None:
        last = ""
        while True:  # The stream may be closed at any time; the event's id says where to go on.
            with suppress(httpx.TransportError):
                headers = {"Last-Event-ID": last} if last else {}
                async with self._api.stream("GET", "/v1/events/stream", headers=headers) as stream:
                    self._expect(
                        stream.status_code == httpx.codes.OK, f"the event stream answered {stream.status_code}"
                    )
                    async for line in stream.aiter_lines():
                        opened.set()
                        name, _, value = line.partition(": ")
                        if name == "id":
                            last = value
                        elif name == "data":
                            event = json.loads(value)
                            self.events[event["type"]] += 1
                            self._seen.add(event["subject"]["id"])
            await clock.sleep(0.2)

    async def wait_for_events(self) -> None:
        """Return when the stream has told of every payment of the day."""
        wanted = {payment["id"] for payment in await self.all_payments()}
        for _ in range(EVENTS_S * 10):
            if wanted <= self._seen:
                return
            await clock.sleep(0.1)
        raise Unexpected(f"the event stream did not tell of {len(wanted - self._seen)} payments")

    async def all_payments(self) -> list[Payment]:
        """The day's payments as the API lists them."""
        found: list[Payment] = []
        query: dict[str, Any] = {"metadata[demo]": self._run, "limit": 50}
        while True:
            page = await self._call("GET", "/v1/payments", 200, query=query)
            found += page["data"]
            if not page["has_more"]:
                return found
            query["cursor"] = page["next_cursor"]

    # -- pieces ---------------------------------------------------------------------------------------------------

    async def _pay(self, token: str, amount_minor: int, currency: str, status: str, **more: Any) -> Payment:
        body = {
            "amount_minor": amount_minor,
            "currency": currency,
            "confirm": True,
            "metadata": {"demo": self._run},
        }
        payment = await self._call("POST", "/v1/payments", 201, body | self._methods[token] | more)
        self._expect(payment["status"] == status, f"{token}: {payment['id']} is {payment['status']}, not {status}")
        return payment

    async def _step(self, payment: Payment, what: str, status: int, body: dict[str, Any] | None = None) -> Payment:
        return await self._call("POST", f"/v1/payments/{payment['id']}/{what}", status, body or {})

    async def _call(
        self,
        method: str,
        path: str,
        status: int,
        body: dict[str, Any] | None = None,
        query: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        headers = {"Idempotency-Key": str(clock.new_uuid())} if method == "POST" else {}
        try:
            async with self._places:
                answer = await self._api.request(method, path, json=body, params=query, headers=headers)
        except httpx.TransportError as error:
            raise Unexpected(f"{method} {path} got no answer: {type(error).__name__}") from error
        if answer.status_code != status:
            raise Unexpected(f"{method} {path} answered {answer.status_code} instead of {status}: {answer.text[:300]}")
        found: dict[str, Any] = answer.json()
        return found

    async def _together(self, calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Unexpected(otherwise)

    def _done(self, what: str, count: int, result: str, amounts: Iterable[Money] = ()) -> None:
        self.rows.append((what, count, _summed(amounts), result))
        self._console.print(f"[green]✓[/] {count:>3} {what}: {result}", markup=True, soft_wrap=True)


def _amounts(objects: Iterable[Payment]) -> list[Money]:
    return [(one["amount_minor"], one["currency"]) for one in objects]


def _summed(amounts: Iterable[Money]) -> str:
    totals: Counter[str] = Counter()
    for amount_minor, currency in amounts:
        totals[currency] += amount_minor
    return ", ".join(format_amount(total, currency) for currency, total in sorted(totals.items()))


# -- The books ------------------------------------------------------------------------------------------------------------------


async def _books(settings: Settings, loaded: Plugins, accounts: set[str]) -> dict[str, list[dict[str, Any]]]:
    """What the simulator wrote down, by account name.

    Raises:
        OperatorError: there is no simulator to ask.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for psp, adapter in loaded.psps.items():
        declared = getattr(adapter, "test_accounts", {})
        url = settings.plugin.get(loaded.plugin_of_psp[psp], {}).get("url", "")
        for name in accounts & declared.keys():
            headers = {"Authorization": f"Bearer {declared[name]['api_key']}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=30) as simulator:
                try:
                    answer = (await simulator.get("/v1/book")).raise_for_status()
                except httpx.HTTPError as error:
                    raise OperatorError(f"The simulator's book at {url} cannot be read: {error}.") from error
                found[name] = answer.json()["operations"]
    missing = accounts - found.keys()
    if missing:
        raise OperatorError(
            f"Whose book has the account {', '.join(sorted(missing))}? The demo needs the simulator's accounts."
        )
    return found


def differences(payments: list[Payment], books: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What our list and the provider's books do not agree about; a sentence each."""
    found = []
    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in (row for book in books.values() for row in book):
        rows_of.setdefault(row["reference"], []).append(row)
    for payment in payments:
        written = [row for operation in payment["operations"] for row in rows_of.get(operation["id"], [])]
        charges = [row for row in written if row["kind"] == "charge" and row["status"] == "succeeded"]
        amounts = payment["amounts"]
        ours = (payment["currency"], amounts["captured_minor"], amounts["refunded_minor"], amounts["voided_minor"])
        theirs = [
            (row["currency"], row.get("captured", 0), row.get("refunded", 0), row.get("voided", 0)) for row in charges
        ]
        nothing = ours[1:] == (0, 0, 0) and not theirs
        if not nothing and theirs != [ours]:
            found.append(f"{payment['id']}: we say {ours}, the provider says {theirs}")
        for operation in payment["operations"]:
            same = [row["status"] for row in written if row["reference"] == operation["id"]]
            if (operation["state"] == "succeeded") != (same == ["succeeded"]):
                found.append(f"{operation['id']}: we say {operation['state']}, the provider says {same}")
    return found


def _report(console: Console, shop: Shop, payments: list[Payment], books: dict[str, list[dict[str, Any]]]) -> int:
    day = Table("What", "Count", "Amount", "Result", title="The day")
    for what, count, amount, result in shop.rows:
        day.add_row(what, str(count), amount, result)
    for kind, count in sorted(shop.events.items()):
        day.add_row(f"event {kind}", str(count), "", "from the live stream")
    if shop.rows:
        console.print(day)

    totals: dict[str, Counter[str]] = {}
    for payment in payments:
        ours = totals.setdefault(payment["currency"], Counter())
        ours["payments"] += 1
        for name in ("captured", "refunded", "voided"):
            ours[name] += payment["amounts"][f"{name}_minor"]
    references = {operation["id"] for payment in payments for operation in payment["operations"]}
    for row in (row for book in books.values() for row in book):
        if row["kind"] == "charge" and row["status"] == "succeeded" and row["reference"] in references:
            theirs = totals[row["currency"]]
            for name in ("captured", "refunded", "voided"):
                theirs[f"book {name}"] += row.get(name, 0)
    money = Table("Currency", "Payments", "Captured", "Refunded", "Released", "The provider's book", title="The money")
    for currency, sums in sorted(totals.items()):
        shown = [format_amount(sums[name], currency) for name in ("captured", "refunded", "voided")]
        agrees = all(sums[name] == sums[f"book {name}"] for name in ("captured", "refunded", "voided"))
        money.add_row(currency, str(sums["payments"]), *shown, "agrees" if agrees else "DIFFERS")
    console.print(money)

    found = differences(payments, books)
    for difference in found:
        console.print(f"[red]✗[/] {difference}", markup=True, soft_wrap=True)
    if found:
        return 1
    operations = sum(len(payment["operations"]) for payment in payments)
    console.print(
        f"[green]✓[/] {len(payments)} payments, {operations} operations: our books and the provider's agree.",
        markup=True,
    )
    return 0
