"""Mails to customers reach a real SMTP server, once for each reason, in their language, and never for nothing."""

from __future__ import annotations

import asyncio
import email
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from tests.conftest import Merchant, free_ports
from tests.core.invoices.billing import act, customer, look, opened, subscribed
from tests.core.invoices.paying import pay_by_card
from tests.factories import insert
from tests.shop import Shop

from clearspan.app import Gateway
from clearspan.platform import clock, ids
from clearspan.rebills.mail import Mailer
from clearspan.rebills.notices import KINDS, Notices, write
from clearspan.settings import MailSettings, Secret
from clearspan.subscriptions.languages import LANGUAGES, words

Connection = asyncpg.Connection


class Postbox:
    """What an SMTP server took, and what it is to answer.

    Attributes:
        answers: to DATA, in order; then it takes everything.
    """

    def __init__(self) -> None:
        self.taken: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.answers: list[str] = []
        (self.port,) = free_ports(1)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: ARG002, N802  (aiosmtpd's)
        if self.answers:
            return self.answers.pop(0)
        message = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.taken.append(message)
        self.recipients.append(envelope.rcpt_tos)
        return "250 OK"


@pytest.fixture
def postbox() -> Iterator[Postbox]:
    """A server in a thread of its own."""
    handler = Postbox()
    server = Controller(handler, hostname="127.0.0.1", port=handler.port)
    server.start()
    yield handler
    server.stop()


class Post:
    """The sending of one merchant's notices."""

    def __init__(self, gateway: Gateway, merchant: Merchant, settings: MailSettings, folder: Path) -> None:
        mailer = Mailer(settings, folder)
        self.notices = Notices(gateway.db, gateway.invoices, gateway.documents, gateway.customers, mailer, settings)
        self.scope = merchant.caller.scope

    async def send(self, **later: float) -> int:
        """What is due so much later than now."""
        return await self.notices.send(self.scope, "req_mail", at=clock.now() + timedelta(**later))


@pytest.fixture
async def post(gateway: Gateway, app: Any, merchant: Merchant, postbox: Postbox, tmp_path: Path) -> AsyncIterator[Post]:
    """By SMTP."""
    url = Secret(f"smtp://127.0.0.1:{postbox.port}")
    settings = msgspec.structs.replace(gateway.settings.mail, url=url, sender="billing@shop.example", timeout_s=5.0)
    return Post(gateway, merchant, msgspec.structs.replace(settings, tries_max=3), tmp_path)


async def listed(shop: Shop, **params: Any) -> list[dict[str, Any]]:
    answer = await shop.http.get("/v1/notices", params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def sent_invoice(shop: Shop, **fields: Any) -> dict[str, Any]:
    made = await opened(shop, customer=await customer(shop, **fields))
    assert (await act(shop, made, "send")).status_code == 202
    return made


async def queue(connection: Connection, invoice_id: str, kind: str, **fields: Any) -> UUID:
    row = await connection.fetchrow("SELECT * FROM invoices WHERE invoice_id = $1", ids.decode("inv", invoice_id))
    now = clock.now()
    notice_id = clock.new_uuid()
    columns = ("tenant_id", "live", "customer_id", "subscription_id", "invoice_id")
    values = {name: row[name] for name in columns} | {"notice_id": notice_id, "kind": kind, "dedupe": str(notice_id)}
    await insert(connection, "notices", values | {"due_at": now, "created_at": now, "updated_at": now} | fields)
    return notice_id


def parts(message: EmailMessage) -> tuple[str, str, list[Any]]:
    plain, marked = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert marked is not None
    return plain.get_content(), marked.get_content(), list(message.iter_attachments())


async def test_an_invoice_is_mailed_with_its_document_and_the_link_to_pay(
    shop: Shop, post: Post, postbox: Postbox
) -> None:
    made = await sent_invoice(shop, language="de", name="Łukasz Жуковский", email="lukasz@example.com")
    assert await post.send() == 1
    (message,) = postbox.taken
    assert message["Subject"] == "Rechnung INV-000001 von " + message["From"].addresses[0].display_name
    assert message["From"].addresses[0].addr_spec == "billing@shop.example"
    assert postbox.recipients == [["lukasz@example.com"]]
    assert message["To"].addresses[0].display_name == "Łukasz Жуковский"
    plain, marked, attachments = parts(message)
    assert "12,00\u00a0€" in plain
    assert made["pay_url"] in plain
    assert f'href="{made["pay_url"]}"' in marked
    assert [each.get_filename() for each in attachments] == ["INV-000001.pdf"]
    assert attachments[0].get_content().startswith(b"%PDF")
    (notice,) = await listed(shop, invoice=made["id"])
    assert (notice["state"], notice["tries"], notice["due_at"]) == ("sent", 1, None)
    assert message["Message-ID"] == f"<{notice['id']}@shop.example>"
    assert await post.send(days=30) == 0


async def test_what_could_not_be_sent_is_tried_again_ever_later_and_then_given_up(
    shop: Shop, post: Post, postbox: Postbox
) -> None:
    made = await sent_invoice(shop)
    postbox.answers = ["451 later", "554 no", "451 later"]
    assert await post.send() == 1
    (notice,) = await listed(shop)
    assert (notice["state"], notice["error"], notice["tries"]) == ("queued", "server answered 451", 1)
    assert await post.send(minutes=1) == 0
    assert await post.send(minutes=3) == 1
    assert await post.send(minutes=8) == 0
    assert await post.send(minutes=10) == 1
    (notice,) = await listed(shop, invoice=made["id"], state="failed")
    assert (notice["tries"], notice["due_at"]) == (3, None)
    assert postbox.taken == []


async def test_a_sender_that_died_is_followed_by_one_with_the_same_message_id(
    shop: Shop, post: Post, postbox: Postbox, superuser: Connection
) -> None:
    made = await sent_invoice(shop)
    await post.send()
    # As if it had died after the server took the mail: the lease runs out.
    await superuser.execute(
        "UPDATE notices SET state = 'queued', sent_at = NULL, due_at = created_at, lease_token = gen_random_uuid()"
        " WHERE invoice_id = $1",
        ids.decode("inv", made["id"]),
    )
    await post.send()
    assert len(postbox.taken) == 2
    assert postbox.taken[0]["Message-ID"] == postbox.taken[1]["Message-ID"]


async def test_two_workers_send_each_notice_once_and_do_not_wait_for_each_other(
    shop: Shop, post: Post, postbox: Postbox, superuser: Connection
) -> None:
    made = await opened(shop)
    held, *_ = [await queue(superuser, made["id"], "reminder") for _ in range(6)]
    async with superuser.transaction():  # Another worker is about to claim this one.
        await superuser.execute("SELECT FROM notices WHERE notice_id = $1 FOR UPDATE", held)
        async with asyncio.timeout(20):
            await asyncio.gather(*(post.send() for _ in range(4)))
        assert len(postbox.taken) == 5
    assert await post.send() == 1
    assert len({message["Message-ID"] for message in postbox.taken}) == 6


@pytest.mark.parametrize("reason", ["no_email", "customer_deleted", "mails_off"])
async def test_nothing_is_sent_to_those_who_are_gone_or_have_no_address(
    shop: Shop, post: Post, postbox: Postbox, merchant: Merchant, superuser: Connection, reason: str
) -> None:
    made = await sent_invoice(shop, **({"email": None} if reason == "no_email" else {}))
    if reason == "customer_deleted":
        await shop.http.delete(f"/v1/customers/{made['customer']}")
    if reason == "mails_off":
        await superuser.execute(
            "UPDATE billing_settings SET mails = false WHERE tenant_id = $1", merchant.caller.scope.tenant_id
        )
    await post.send()
    (notice,) = await listed(shop, customer=made["customer"])
    assert (notice["state"], notice["error"]) == ("dropped", reason)
    assert postbox.taken == []


async def test_nobody_is_asked_for_what_is_paid_or_void_or_perhaps_paid(
    shop: Shop, post: Post, postbox: Postbox, superuser: Connection
) -> None:
    locked, void, paid = await opened(shop), await opened(shop), await opened(shop)
    await pay_by_card(shop, paid)
    await act(shop, void, "void")
    for made in (locked, void, paid):
        await queue(superuser, made["id"], "reminder")
    await superuser.execute(
        "UPDATE invoices SET payment_locked = true WHERE invoice_id = $1", ids.decode("inv", locked["id"])
    )
    await post.send()
    became = {each["invoice"]: each for each in await listed(shop) if each["kind"] == "reminder"}
    assert (became[void["id"]]["state"], became[void["id"]]["error"]) == ("dropped", "invoice_void")
    assert (became[paid["id"]]["state"], became[paid["id"]]["error"]) == ("dropped", "invoice_paid")
    waiting = became[locked["id"]]
    assert (waiting["state"], waiting["error"], waiting["tries"]) == ("queued", "payment_under_way", 0)
    assert [message["Subject"].split()[0] for message in postbox.taken] == ["Receipt"]


async def test_a_payment_is_followed_by_a_receipt(shop: Shop, post: Post, postbox: Postbox) -> None:
    made = await opened(shop)
    await pay_by_card(shop, made)
    await post.send()
    (message,) = postbox.taken
    assert message["Subject"].startswith("Receipt for invoice INV-000001")
    assert "€12.00 is paid" in parts(message)[0]
    assert "/pay/" not in parts(message)[1]


async def test_text_of_customers_is_text_and_never_markup_or_a_header(shop: Shop, post: Post, postbox: Postbox) -> None:
    name = "Eve <script>alert(1)</script> {{ seller }}\r\nBcc: all@example.com"
    await sent_invoice(shop, name=name)
    await post.send()
    (message,) = postbox.taken
    assert message["Bcc"] is None
    assert postbox.recipients == [["ada@example.com"]]
    plain, marked, _ = parts(message)
    assert "<script>" not in marked
    assert "&lt;script&gt;" in marked
    assert "{{ seller }}" in plain
    assert "\n" not in str(message["To"].addresses[0].display_name)


async def test_what_a_subscription_needs_is_written_of_its_card_and_plan(
    shop: Shop, post: Post, postbox: Postbox, merchant: Merchant, superuser: Connection
) -> None:
    who = await customer(shop, language="fr")
    card = ids.decode("pm", await shop.card("tok_visa", customer=who))
    _, invoice_id = await subscribed(superuser, merchant.caller.scope, who, payment_method_id=card)
    await superuser.execute("UPDATE rebills SET state = 'due' WHERE invoice_id = $1", ids.decode("inv", invoice_id))
    await queue(superuser, invoice_id, "payment_failed")
    await queue(superuser, invoice_id, "card_expiring", dedupe=f"card_expiring:{card}:2040-12")
    await queue(superuser, invoice_id, "card_expiring", dedupe="card_expiring:another card:2026-12")
    assert await post.send() == 3
    failed, expiring = sorted(postbox.taken, key=lambda each: "expire" in each["Subject"])
    assert "9,00\u00a0€" in parts(failed)[0]
    assert "Visa •••• 4242" in parts(failed)[0]
    assert "Nous réessaierons le" in parts(failed)[0]
    assert "Basic" in parts(expiring)[0]


async def test_a_test_clocks_mails_go_out_at_its_time_and_only_then(
    shop: Shop, post: Post, postbox: Postbox, merchant: Merchant, superuser: Connection
) -> None:
    scope = merchant.caller.scope
    now = clock.now()
    test_clock_id = clock.new_uuid()
    place = {"tenant_id": scope.tenant_id, "live": False, "created_at": now, "updated_at": now}
    await insert(
        superuser,
        "test_clocks",
        place | {"test_clock_id": test_clock_id, "name": "c", "now_at": now + timedelta(days=400)},
    )
    made = await opened(shop)
    await queue(superuser, made["id"], "reminder", test_clock_id=test_clock_id, due_at=now + timedelta(days=399))
    assert await post.send(days=500) == 0
    early = await post.notices.send(scope, "req", at=now + timedelta(days=398), test_clock_id=test_clock_id)
    late = await post.notices.send(scope, "req", at=now + timedelta(days=400), test_clock_id=test_clock_id)
    assert (early, late, len(postbox.taken)) == (0, 1, 1)


async def test_without_a_server_mails_become_files(
    gateway: Gateway, app: Any, merchant: Merchant, shop: Shop, tmp_path: Path
) -> None:
    post = Post(gateway, merchant, gateway.settings.mail, tmp_path)
    made = await sent_invoice(shop)
    await post.send()
    (notice,) = await listed(shop, invoice=made["id"])
    (path,) = (tmp_path / "outbox").iterdir()
    assert path.name == f"{notice['id']}.eml"
    message = email.message_from_bytes(path.read_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    assert made["pay_url"] in parts(message)[0]


@pytest.mark.filterwarnings("ignore")  # Of the server, about being so careless.
async def test_a_password_is_not_sent_in_the_clear(
    gateway: Gateway, app: Any, merchant: Merchant, shop: Shop, tmp_path: Path
) -> None:
    """The server has no STARTTLS and would take the password all the same."""
    given: list[Any] = []

    def authenticator(*seen: Any) -> AuthResult:
        given.append(seen)
        return AuthResult(success=True)

    (port,) = free_ports(1)
    server = Controller(
        Postbox(),
        hostname="127.0.0.1",
        port=port,
        authenticator=authenticator,
        auth_require_tls=False,
        auth_required=True,
    )
    server.start()
    try:
        url = Secret(f"smtp://user:secret@127.0.0.1:{port}")
        post = Post(gateway, merchant, msgspec.structs.replace(gateway.settings.mail, url=url), tmp_path)
        await sent_invoice(shop)
        await post.send()
    finally:
        server.stop()
    (notice,) = await listed(shop)
    assert (notice["state"], given) == ("queued", [])
    assert "secret" not in notice["error"]


async def test_a_server_that_is_away_is_no_reason_to_lose_a_mail(
    gateway: Gateway, app: Any, merchant: Merchant, shop: Shop, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(gateway.settings.mail, url=Secret("smtp://127.0.0.1:9"))
    post = Post(gateway, merchant, settings, tmp_path)
    made = await sent_invoice(shop)
    await post.send()
    assert [each["state"] for each in await listed(shop, invoice=made["id"])] == ["queued"]
    assert (await look(shop, made))["status"] == "open"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_words_in_every_language(kind: str, language: str) -> None:
    names = ["number", "left", "due", "url", "card", "card_expiry", "what", "trial_end", "period_end", "ended"]
    names += ["credit_number", "credit_amount", "settled"]
    names += ["retry_at", "soon", "seller", "name", "footer"]
    values = {name: f"<{name}>" for name in names}
    full = write(kind, language, values, live=False)
    assert full.subject
    assert "<seller>" in full.text
    assert not any(f"<{name}>" in full.html for name in names)
    assert "&lt;seller&gt;" in full.html
    empty = write(kind, language, values | dict.fromkeys(names) | {"seller": "S", "footer": ""}, live=True)
    assert "<number>" not in empty.text


@pytest.mark.parametrize("table", ["document", "pay"])
def test_every_language_has_the_same_words(table: str) -> None:
    for language in LANGUAGES:
        assert words(language, table).keys() == words("en", table).keys()
        for key, said in words(language, table).items():
            assert said.count("{") == words("en", table)[key].count("{"), (language, key)


@pytest.mark.parametrize("params", [{"state": "lost"}, {"kind": "receipt"}])
async def test_an_unknown_filter_of_notices_is_refused(shop: Shop, params: dict[str, str]) -> None:
    answer = await shop.http.get("/v1/notices", params=params)
    assert answer.json()["code"] == "invalid_request", answer.text
