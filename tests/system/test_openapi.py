"""The OpenAPI document is valid and complete, and nothing that Schemathesis makes of it is answered with a server error."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import schemathesis
from tests.shop import Json, Shop, web

from clearspan.platform.crypto import MasterKey
from clearspan.platform.problems import catalogue
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls

ROOT = Path(__file__).parent.parent.parent
METHODS = ("get", "post", "put", "patch", "delete")
MONEY = re.compile(r"/v1/payments(/\{payment_id\}/(confirm|continue|capture|cancel|refunds))?")
EXAMPLES = "10"
"""How many requests Schemathesis makes up for each operation in its longest phase."""


@pytest.fixture
async def document(anonymous: httpx.AsyncClient) -> Json:
    """As anybody may read it."""
    answer = await anonymous.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: Json = answer.json()
    return found


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Method, path and operation."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


async def test_the_document_is_valid_openapi_3_1(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(document).validate()
    assert len(list(operations(document))) > 30


async def test_every_operation_says_what_it_does(document: Json) -> None:
    named = set()
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert 8 < len(operation["summary"]) < 100, where
        assert operation["summary"][-1] not in ".;", where
        assert len(operation["description"]) >= len(operation["summary"]), where
        assert operation["tags"], where
        named.add(operation["operationId"])
        for parameter in operation.get("parameters", []):
            assert parameter["in"] in ("path", "query", "header"), where
    assert len(named) == len(list(operations(document))), "each has an id of its own"


async def test_every_operation_documents_how_it_refuses(document: Json) -> None:
    known = {kind.code: kind.status for kind in catalogue()}
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        answers = operation["responses"]
        assert {"401", "403", "422"} <= answers.keys(), where
        if "{" in path:
            assert "404" in answers, where
        if "requestBody" in operation:
            assert {"400", "413"} <= answers.keys(), where
        for status, answer in answers.items():
            if status < "300":
                continue
            (content,) = answer["content"].items()
            assert content[0] == "application/problem+json", where
            assert content[1]["schema"] == {"$ref": "#/components/schemas/Problem"}
            codes = re.findall(r"`([a-z_]+)`:", answer["description"])
            assert codes, where
            assert {known[code] for code in codes} == {int(status)}, where


async def test_every_call_that_can_move_money_documents_its_key_and_that_it_may_be_undecided(document: Json) -> None:
    money = [
        operation for method, path, operation in operations(document) if method == "post" and MONEY.fullmatch(path)
    ]
    assert len(money) == 6
    for operation in money:
        (header,) = [one for one in operation["parameters"] if one["in"] == "header"]
        assert header["name"] == "Idempotency-Key"
        assert "202" in operation["responses"]
        done = operation["responses"].get("200") or operation["responses"]["201"]
        assert (
            done["content"]["application/json"]["schema"]
            == (operation["responses"]["202"]["content"]["application/json"]["schema"])
        )
        assert {"409", "503"} <= operation["responses"].keys()


async def test_every_field_of_every_body_has_an_example_or_a_choice(document: Json) -> None:
    schemas = document["components"]["schemas"]
    bodies = [operation["requestBody"] for _, _, operation in operations(document) if "requestBody" in operation]
    assert len(bodies) > 10
    for body in bodies:
        schema = schemas[body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items():
            given = field.get("examples") or field.get("enum") or "$ref" in str(field)
            assert given or field.get("type") == "boolean", (schema["title"], name)


async def test_the_reference_page_and_its_files_are_there(anonymous: httpx.AsyncClient) -> None:
    page = await anonymous.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(linked) >= 5
    for path in linked:
        assert (await anonymous.get(path)).status_code == 200, path


@pytest.fixture
async def served(
    urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, sandboxes: None, tmp_path: Path
) -> AsyncIterator[tuple[str, Shop]]:
    """A gateway in a process of its own, and a shop with something in it."""
    async with (
        web(urls.app, settings, master, tmp_path) as running,
        httpx.AsyncClient(
            base_url=running.urls[0], headers={"Authorization": f"Bearer {merchant.key}"}, trust_env=False
        ) as http,
    ):
        shop = await Shop.open(http, settings.plugin["psp-sandbox"]["url"])
        await shop.paid()
        yield running.urls[0], shop


async def test_nothing_made_of_the_document_ends_in_a_server_error(
    served: tuple[str, Shop], merchant: Merchant, tmp_path: Path
) -> None:
    """The stream is left out because it does not end, and revoking because it ends the key that asks."""
    url, shop = served
    ready, paid = await shop.ready(), await shop.paid()
    refund = (await shop.act(paid, "refunds", {"amount_minor": 1})).json()
    customer = (await shop.post("/v1/customers", {})).json()["id"]
    real = {
        "payment_id": ready["id"],
        "refund_id": refund["id"],
        "payment_method": ready["payment_method"],
        "method_id": ready["payment_method"],
        "customer": customer,
        "customer_id": customer,
        "account_id": paid["psp"]["account_id"],
        "psp_account": "alpha",
        "psp": "sandbox",
        "token": "tok_visa",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json",
        "--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES,
        "--generation-deterministic", "--no-color",
        "--header", f"Authorization: Bearer {merchant.key}", "--request-timeout", "30",
        "--exclude-path", "/v1/events/stream", "--exclude-path", "/v1/api-keys/{key_id}",
        "--suppress-health-check", "all", "--warnings", "off",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
        env=os.environ
        | {"SCHEMATHESIS_HOOKS": "tests.system.real_ids", "REAL_IDS": json.dumps(real), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-6000:]
    tested = re.search(r"Tested: (\d+)", said.decode())
    assert tested, said.decode()[-2000:]
    assert int(tested[1]) > 25, "the key was good to the end, and the operations were reached"
    made = (await shop.http.get("/v1/payments", params={"limit": 100})).json()["data"]
    assert len(made) > 10, "some of it was good"
