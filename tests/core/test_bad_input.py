"""Whatever is sent wrongly is refused with a status, a code and words that help, and a card number leaves no trace anywhere."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
import structlog
from tests.shop import Shop, code, new_key

from clearspan.platform.telemetry import configure_logging
from clearspan.settings import Settings

PAN = "4000056655665556"
"""A published test number that no fixture uses."""
METHOD = "pm_01h455vb4pex5vsknk084sn02q"


@pytest.fixture
async def shop(client: httpx.AsyncClient, settings: Settings, sandboxes: None) -> Shop:
    """A fresh merchant."""
    return await Shop.open(client, settings.plugin["psp-sandbox"]["url"])


def body(**fields: str) -> str:
    """``POST /v1/payments`` in JSON, with fields given in JSON."""
    given = {"amount_minor": "1099", "currency": '"EUR"'} | fields
    return "{" + ",".join(f'"{name}":{value}' for name, value in given.items()) + "}"


BODIES: list[tuple[str, str, int, str, str]] = [
    # name, body, status, code, in the detail
    *(
        (f"amount {text[:30]}", body(amount_minor=text), 422, "invalid_request", "$.amount_minor")
        for text in (
            '"1099"', "10.99", "1099.0", "1e3", "1E+3", "true", "null", "[1099]", '{"value":1099}', '""', "0", "-1",
            "1000000000001", "9223372036854775808", "1" + "0" * 40, "0.1e1", '"1e3"', '"0x10"',
        )
    ),
    ("amount -0", body(amount_minor="-0"), 422, "invalid_request", "$.amount_minor"),
    ("amount with a leading zero", body(amount_minor="010"), 400, "malformed_json", "JSON"),
    ("amount NaN", body(amount_minor="NaN"), 400, "malformed_json", "JSON"),
    ("amount Infinity", body(amount_minor="Infinity"), 400, "malformed_json", "JSON"),
    ("amount in hex", body(amount_minor="0x10"), 422, "invalid_request", "$.amount_minor"),
    ("amount with a plus", body(amount_minor="+1"), 400, "malformed_json", "JSON"),
    ("no amount", '{"currency":"EUR"}', 422, "invalid_request", "amount_minor"),
    ("no currency", '{"amount_minor":1}', 422, "invalid_request", "currency"),
    ("unknown currency", body(currency='"XXQ"'), 422, "unknown_currency", "ISO 4217"),
    *(
        (f"currency {text}", body(currency=text), 422, "invalid_request", "$.currency")
        for text in ('"eur"', '"EU"', '"EURO"', '""', "978", "null", '"EU\\u0052\\n"', '"ЕUR"', '"E\\u0000R"')
    ),
    ("unknown field", body(amount="1"), 422, "invalid_request", "`amount`"),
    ("misspelt field", body(curency='"EUR"'), 422, "invalid_request", "`curency`"),
    ("capture method", body(capture_method='"later"'), 422, "invalid_request", "$.capture_method"),
    ("confirm in text", body(confirm='"true"'), 422, "invalid_request", "$.confirm"),
    ("confirm as a number", body(confirm="1"), 422, "invalid_request", "$.confirm"),
    ("an empty reference", body(reference='""'), 422, "invalid_request", "$.reference"),
    ("a long reference", body(reference=json.dumps("r" * 201)), 422, "invalid_request", "$.reference"),
    ("a long description", body(description=json.dumps("d" * 501)), 422, "invalid_request", "$.description"),
    *(
        (f"return_url {text[:30]}", body(return_url=text), 422, "invalid_request", "$.return_url")
        for text in (
            '"shop.example"', '"ftp://shop.example/"', '"javascript:alert(1)"', '"https://shop.example/ x"',
            '"https://shop.example/\\n"', '"https://shop.example/\\r\\nSet-Cookie: a=b"', '""', "1", '"https://shop.example/\\u000f"',
            '"https://shöp.example/"', '"https://shop.example/ü"', '"https://u:p@shop.example/"', '"https://"',
            json.dumps("https://shop.example/" + "x" * 2000),
        )
    ),
    ("metadata as a list", body(metadata="[]"), 422, "invalid_request", "$.metadata"),
    ("a number in metadata", body(metadata='{"a":1}'), 422, "invalid_request", "$.metadata[...]"),
    ("metadata in metadata", body(metadata='{"a":{"b":"c"}}'), 422, "invalid_request", "$.metadata[...]"),
    ("an empty name in metadata", body(metadata='{"":"x"}'), 422, "invalid_request", "$.metadata"),
    ("a long name in metadata", body(metadata=json.dumps({"k" * 41: "x"})), 422, "invalid_request", "$.metadata"),
    ("a long value in metadata", body(metadata=json.dumps({"k": "x" * 501})), 422, "invalid_request", "$.metadata"),
    (
        "much metadata", body(metadata=json.dumps({f"k{n}": "" for n in range(51)})), 422, "invalid_request",
        "$.metadata",
    ),
    ("a NUL in a text", body(description='"a\\u0000b"'), 422, "invalid_request", "NUL"),
    ("a NUL in a name", body(metadata='{"a\\u0000b":"c"}'), 422, "invalid_request", "NUL"),
    ("a method that is no id", body(payment_method='"4"'), 404, "payment_method_not_found", "POST /v1/payment-methods"),
    ("a method that is a customer", body(payment_method='"cus_01h455vb4pex5vsknk084sn02q"'), 404,
     "payment_method_not_found", "POST /v1/payment-methods"),
    ("a method that is not there", body(payment_method=f'"{METHOD}"'), 404, "payment_method_not_found", "same tenant"),
    ("a method with a NUL", body(payment_method='"pm_\\u0000"'), 422, "invalid_request", "NUL"),
    ("a customer that is no id", body(customer='"ada"'), 404, "customer_not_found", "same tenant"),
    ("a customer that is not there", body(customer='"cus_01h455vb4pex5vsknk084sn02q"'), 404, "customer_not_found",
     "same tenant"),
    ("nothing", "", 422, "invalid_request", "amount_minor"),
    ("white space", "  \n", 400, "malformed_json", "JSON"),
    ("an array", "[]", 422, "invalid_request", "object"),
    ("an array of payments", "[" + body() + "]", 422, "invalid_request", "object"),
    ("a text", '"EUR"', 422, "invalid_request", "object"),
    ("a number", "7", 422, "invalid_request", "object"),
    ("null", "null", 422, "invalid_request", "object"),
    ("no JSON", "amount_minor=1&currency=EUR", 400, "malformed_json", "JSON"),
    ("half a JSON", body()[:-1], 400, "malformed_json", "JSON"),
    ("two of them", body() + body(), 400, "malformed_json", "JSON"),
    ("a comma too many", body()[:-1] + ",}", 400, "malformed_json", "JSON"),
    ("single quotes", body().replace('"', "'"), 400, "malformed_json", "JSON"),
    ("a comment", "/* */" + body(), 400, "malformed_json", "JSON"),
    ("a byte order mark", "\ufeff" + body(), 400, "malformed_json", "JSON"),
    ("a lone surrogate", body(description='"\\ud800"'), 400, "malformed_json", "JSON"),
    ("a line break in a text", body(description='"a\nb"'), 400, "malformed_json", "JSON"),
    ("arrays without a bottom", "[" * 100_000, 422, "invalid_request", "object"),
    ("objects without a bottom", '{"a":' * 40_000, 422, "invalid_request", "`a`"),
    ("metadata without a bottom", body(metadata='{"a":' * 30_000 + "1" + "}" * 30_000), 422, "invalid_request",
     "$.metadata"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "status", "problem", "said"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES]
)
async def test_a_wrong_body_is_refused_and_the_place_is_named(
    shop: Shop, content: str, status: int, problem: str, said: str
) -> None:
    refused = await shop.post("/v1/payments", content.encode())
    assert code(refused) == (status, problem)
    assert said in refused.json()["detail"]
    assert (await shop.http.get("/v1/payments")).json()["data"] == []


@pytest.mark.parametrize(
    "content",
    [b'{"amount_minor":1,"currency":"EU\xff"}', b"\xff\xfe\x00", body().encode("utf-16"), body().encode("utf-32")],
    ids=["one byte", "only", "utf-16", "utf-32"],
)
async def test_a_body_that_is_not_utf_8_is_refused(shop: Shop, content: bytes) -> None:
    assert code(await shop.post("/v1/payments", content)) == (400, "malformed_json")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
async def test_json_without_a_bottom_is_refused_where_anything_may_stand(
    shop: Shop, opening: str, closing: str
) -> None:
    deep = opening * 40_000 + "1" + closing * 40_000
    content = f'{{"psp":"sandbox","name":"deep","config":{{"url":{deep}}}}}'
    refused = await shop.post("/v1/psp-accounts", content.encode())
    assert code(refused) == (400, "malformed_json")
    assert "nested" in refused.json()["detail"]


async def test_the_last_of_two_fields_of_one_name_counts_for_everybody(shop: Shop) -> None:
    """One JSON parser decides what is checked, stored and compared for idempotency."""
    twice, key = b'{"amount_minor":1,"currency":"EUR","amount_minor":2}', new_key()
    made = await shop.post("/v1/payments", twice, key)
    assert made.json()["amount_minor"] == 2
    same = await shop.post("/v1/payments", {"amount_minor": 2, "currency": "EUR"}, key)
    assert same.content == made.content


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "text/plain", "application/xml", "multipart/form-data; boundary=x", "json"],
)
async def test_another_kind_of_body_is_refused(shop: Shop, content_type: str) -> None:
    headers = {"Content-Type": content_type, "Idempotency-Key": new_key()}
    refused = await shop.http.post("/v1/payments", content=body(), headers=headers)
    assert code(refused) == (415, "unsupported_media_type")
    assert "application/json" in refused.json()["detail"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", None])
async def test_json_is_json_however_it_is_called(shop: Shop, content_type: str | None) -> None:
    headers = {"Idempotency-Key": new_key()} | ({"Content-Type": content_type} if content_type else {})
    made = await shop.http.post("/v1/payments", content=body(), headers=headers)
    assert made.status_code == 201


async def test_a_body_in_gzip_is_not_read(shop: Shop) -> None:
    import gzip

    headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = await shop.http.post("/v1/payments", content=gzip.compress(body().encode()), headers=headers)
    assert code(refused) == (400, "malformed_json")


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in pieces"])
async def test_a_body_over_the_limit_is_refused(shop: Shop, settings: Settings, declared: bool) -> None:
    size = settings.server.body_max_kb * 1024
    pieces = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal pieces
        for _ in range(size // 1024 * 4):
            pieces += 1
            yield b" " * 1024

    content: Any = b" " * (size + 1) if declared else stream()
    headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}
    refused = await shop.http.post("/v1/payments", content=content, headers=headers)
    assert code(refused) == (413, "body_too_large")
    assert refused.json()["limit_bytes"] == size
    assert str(size) in refused.json()["detail"]


async def test_a_body_of_the_limit_is_read(shop: Shop, settings: Settings) -> None:
    content = body().encode().ljust(settings.server.body_max_kb * 1024)
    assert (await shop.post("/v1/payments", content)).status_code == 201


async def test_headers_over_the_limit_are_refused(shop: Shop, settings: Settings) -> None:
    headers = {"X-Padding": "x" * (settings.security.max_header_kb * 1024)}
    assert code(await shop.http.get("/v1/payments", headers=headers)) == (431, "headers_too_large")


ROUTES = ["confirm", "continue", "capture", "cancel", "refunds"]
FIELDS: list[tuple[str, str]] = [
    ("confirm", '{"amount_minor":1}'),
    ("confirm", '{"payment_method":1}'),
    ("confirm", '{"return_url":"x"}'),
    ("continue", '{"params":[]}'),
    ("continue", '{"params":{"a":1}}'),
    ("continue", json.dumps({"params": {f"p{n}": "" for n in range(31)}})),
    ("capture", '{"amount_minor":0}'),
    ("capture", '{"amount_minor":1.0}'),
    ("capture", '{"amount_minor":"1"}'),
    ("capture", '{"final":"yes"}'),
    ("capture", '{"amount":1}'),
    ("cancel", '{"reason":1}'),
    ("cancel", json.dumps({"reason": "r" * 201})),
    ("refunds", '{"amount_minor":-1}'),
    ("refunds", '{"amount_minor":true}'),
    ("refunds", '{"metadata":{"a":null}}'),
    ("refunds", '{"reason":"a\\u0000"}'),
]


@pytest.mark.parametrize(("what", "content"), FIELDS, ids=[f"{what} {content[:40]}" for what, content in FIELDS])
async def test_a_wrong_field_of_another_call_is_refused(shop: Shop, what: str, content: str) -> None:
    payment = await shop.paid()
    before = await shop.get(payment)
    refused = await shop.post(f"/v1/payments/{payment['id']}/{what}", content.encode())
    assert code(refused) == (422, "invalid_request")
    assert await shop.get(payment) == before


@pytest.mark.parametrize("what", ROUTES)
@pytest.mark.parametrize(
    "identity", ["x", "pay_", "pay_x", "re_01h455vb4pex5vsknk084sn02q", "pay_01h455vb4pex5vsknk084sn02q", "%20"]
)
async def test_an_id_that_is_none_or_of_nobody_is_not_found(shop: Shop, what: str, identity: str) -> None:
    assert code(await shop.post(f"/v1/payments/{identity}/{what}")) == (404, "payment_not_found")
    assert code(await shop.http.get(f"/v1/payments/{identity}")) == (404, "payment_not_found")


@pytest.mark.parametrize("path", ["/v1/payments/a%00b", "/v1/payments?reference=%00", "/v1/refunds?payment=%00"])
async def test_a_nul_in_the_address_is_refused(shop: Shop, path: str) -> None:
    assert code(await shop.http.get(path)) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "status", "problem"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("DELETE", "/v1/payments", 405, "method_not_allowed"),
        ("PUT", "/v1/payments", 405, "method_not_allowed"),
        ("GET", "/v1/payments/pay_x/confirm", 405, "method_not_allowed"),
    ],
)
async def test_an_address_or_method_that_is_not_there_is_told(
    shop: Shop, method: str, path: str, status: int, problem: str
) -> None:
    refused = await shop.http.request(method, path)
    assert code(refused) == (status, problem)
    assert "/docs" in refused.json()["detail"]


# -- Keys in addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/payments?api_key={key}",
        "/v1/payments?{key}",
        "/v1/payments?a=b&key={key}",
        "/v1/payments?key={escaped}",
        "/v1/payments/{key}",
        "/v1/{escaped}/payments",
        "/health/live?token={key}",
    ],
)
@pytest.mark.parametrize("mode", ["test", "live"])
async def test_an_api_key_in_an_address_is_refused(anonymous: httpx.AsyncClient, path: str, mode: str) -> None:
    key = f"csk_{mode}_0123456789abcdef"
    refused = await anonymous.get(path.format(key=key, escaped=key.replace("_", "%5F").replace("s", "%73")))
    assert code(refused) == (400, "api_key_in_url")
    assert "rotate" in refused.json()["detail"]
    assert key not in refused.text


# -- Card numbers ---------------------------------------------------------------------------------------------------------------

SPELLED = {
    "as it is": PAN,
    "in groups": "4000 0566 5566 5556",
    "with hyphens": "4000-0566-5566-5556",
    "in Arabic digits": "".join(chr(0x660 + int(digit)) for digit in PAN),
    "in full width": "".join(chr(0xFF10 + int(digit)) for digit in PAN),
    "within words": f"card {PAN}, please",
    "in base64": base64.b64encode(PAN.encode()).decode(),
    "in a URL": f"https://shop.example/?pan={PAN}",
    "escaped for a URL": "".join(f"%{ord(digit):02x}" for digit in PAN),
    "in JSON in text": json.dumps({"number": PAN}),
}


def spelled_out(text: str) -> str:
    """JSON with every character of a text escaped."""
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'


PLACES: list[tuple[str, str, str]] = [
    # name, path, body
    *(("description " + name, "/v1/payments", body(description=json.dumps(text))) for name, text in SPELLED.items()),
    ("escaped in JSON", "/v1/payments", body(description=spelled_out(PAN))),
    ("reference", "/v1/payments", body(reference=f'"{PAN}"')),
    ("metadata", "/v1/payments", body(metadata=f'{{"card":"{PAN}"}}')),
    ("a name in metadata", "/v1/payments", body(metadata=f'{{"{PAN}":"x"}}')),
    ("return_url", "/v1/payments", body(return_url=f'"https://shop.example/{PAN}"')),
    ("payment_method", "/v1/payments", body(payment_method=f'"{PAN}"')),
    ("amount", "/v1/payments", body(amount_minor=PAN)),
    ("a field that is none", "/v1/payments", body(card=f'{{"number":"{PAN}"}}')),
    ("a field's name", "/v1/payments", body(**{PAN: "1"})),
    ("cvc", "/v1/payments", body(cvc='"123"')),
    ("cvv in metadata", "/v1/payments", body(metadata='{"cvv":"123"}')),
    ("security code deep down", "/v1/payments", body(card='{"security_code":"1234"}')),
    ("track data", "/v1/payments", body(track2=f'";{PAN}=40121010000000000?"')),
    ("no JSON", "/v1/payments", f"number={PAN}"),
    ("half a JSON", "/v1/payments", f'{{"number":"{PAN}"'),
    ("a token", "/v1/payment-methods", f'{{"token":"{PAN}"}}'),
    ("a customer's name", "/v1/customers", f'{{"name":"{PAN}"}}'),
    ("a PSP account's settings", "/v1/psp-accounts", f'{{"psp":"sandbox","name":"x","config":{{"url":"{PAN}"}}}}'),
    ("a refund's reason", "/v1/payments/pay_01h455vb4pex5vsknk084sn02q/refunds", f'{{"reason":"{PAN}"}}'),
]


@pytest.fixture
def every_log() -> Iterator[io.StringIO]:
    """What a process would write: our log and the libraries', at the finest level."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers, root.level
    structlog.reset_defaults()
    configure_logging("debug", "json")
    structlog.configure(cache_logger_on_first_use=False)
    written = io.StringIO()
    for handler in root.handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(written)
    yield written
    structlog.reset_defaults()
    structlog.configure(**before)
    root.handlers, root.level = handlers, level


async def assert_no_trace(
    superuser: asyncpg.Connection[asyncpg.Record], answer: httpx.Response, logs: io.StringIO
) -> None:
    """The number is in no row of any table, no log line and not in the answer."""
    assert PAN not in answer.text + str(answer.headers)
    written = logs.getvalue()
    assert '"event": "request"' in written, "the log is where we look"
    assert PAN not in written
    tables = await superuser.fetch(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
    )
    assert len(tables) > 10
    for table in tables:
        found = await superuser.fetchval(
            f"SELECT count(*) FROM {table['relname']} t"
            " WHERE to_jsonb(t)::text LIKE '%' || $1 || '%' OR to_jsonb(t)::text LIKE '%' || $2 || '%'",
            PAN,
            PAN.encode().hex(),  # as binary columns show it
        )
        assert found == 0, table["relname"]


@pytest.mark.parametrize(("path", "content"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
async def test_card_data_in_a_body_is_refused_and_leaves_no_trace(
    shop: Shop, superuser: asyncpg.Connection[asyncpg.Record], every_log: io.StringIO, path: str, content: str
) -> None:
    refused = await shop.post(path, content.encode())
    assert code(refused) == (422, "pan_detected")
    assert "vault" in refused.json()["detail"]
    await assert_no_trace(superuser, refused, every_log)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/v1/payments?reference={PAN}", {}),
        (f"/v1/payments?reference={quote('4000 0566 5566 5556')}", {}),
        (f"/v1/payments?metadata[card]={PAN}", {}),
        (f"/v1/payments?{PAN}=1", {}),
        (f"/v1/payments?cursor={base64.urlsafe_b64encode(PAN.encode()).decode()}", {}),
        (f"/v1/payments/{PAN}", {}),
        (f"/v1/{PAN}", {}),
        ("/v1/payments", {"Idempotency-Key": PAN}),
        ("/v1/payments", {"X-Request-Id": PAN}),
        ("/v1/payments", {"User-Agent": f"shop/{PAN}"}),
        ("/v1/payments", {"Referer": f"https://shop.example/?card={PAN}"}),
        ("/v1/payments", {"Last-Event-ID": PAN}),
        ("/health/live", {"X-Card": "4000 0566 5566 5556"}),
    ],
)
async def test_a_card_number_in_an_address_or_header_is_refused_and_leaves_no_trace(
    shop: Shop,
    superuser: asyncpg.Connection[asyncpg.Record],
    every_log: io.StringIO,
    path: str,
    headers: dict[str, str],
) -> None:
    refused = await shop.http.get(path, headers=headers)
    assert code(refused) == (422, "pan_detected")
    await assert_no_trace(superuser, refused, every_log)


async def test_a_card_number_as_a_path_parameter_of_a_post_is_refused(shop: Shop) -> None:
    for what in ROUTES:
        assert code(await shop.post(f"/v1/payments/{PAN}/{what}")) == (422, "pan_detected")


async def test_a_card_number_is_refused_before_anybody_asks_who_sends_it(anonymous: httpx.AsyncClient) -> None:
    assert code(await anonymous.post("/v1/payments", json={"number": PAN})) == (422, "pan_detected")


@pytest.mark.parametrize(
    "reference",
    [
        "order-1042", "550e8400-e29b-41d4-a716-446655440000", "2026-11-22T20:00:00.000000Z", "1732305600000",
        "GB29NWBK60161331926819", "+442079460018", "pay_01h455vb4pex5vsknk084sn02q", "4000056655665557",
    ],
)  # fmt: skip
async def test_what_only_looks_like_a_card_number_is_taken(shop: Shop, reference: str) -> None:
    made = await shop.create(reference=reference)
    assert (made.status_code, made.json()["reference"]) == (201, reference)
