"""Requests of adapters over real connections: what is sent, and what each answer means."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearspan.sdk import (
    Answer,
    CardSource,
    OutcomeUnknown,
    PspContext,
    PspMisconfigured,
    TokenSource,
    Wire,
    form,
    read,
    without_none,
)
from clearspan.sdk.testing import Exchange, ScriptedServer, nested

CARD = CardSource("tok_1", "{{tok_1.number}}", "{{tok_1.exp_month}}", "{{tok_1.exp_year}}", "{{tok_1.cvc}}")
NAMES = st.text("abcxyz_", min_size=1, max_size=6)
VALUES = st.recursive(
    st.text(min_size=1, max_size=8),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    max_leaves=8,
)


class Recorder(httpx.AsyncBaseTransport):
    """Notes which client was used, and passes on."""

    def __init__(self) -> None:
        self.tokens: list[object] = []
        self._inner = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tokens.append(request.extensions.get("vault_token"))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def call(
    server: ScriptedServer, *about: Any, make: dict[str, Any] | None = None, **more: Any
) -> tuple[Answer, Any, Any]:
    """One call of a wire; the answer, and what each of the two clients sent."""
    plain, vault = Recorder(), Recorder()
    async with httpx.AsyncClient(transport=plain) as http, httpx.AsyncClient(transport=vault) as vault_http:
        wire = Wire(
            PspContext(http, vault_http), server.url + "/", headers={"Authorization": "Bearer k"}, **(make or {})
        )
        return await wire.call(*about, **more), plain.tokens, vault.tokens


async def test_json_goes_out_without_what_is_none() -> None:
    with ScriptedServer(Exchange(200, {"id": "1"})) as server:
        answer, plain, vault = await call(server, "POST", "/v1/x", {"a": 1, "b": None, "c": [{"d": None}]}, key="k1")
    (sent,) = server.requests
    assert (answer.status, answer.body) == (200, {"id": "1"})
    assert sent.json() == {"a": 1, "c": [{}]}
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["idempotency-key"] == "k1"
    assert sent.headers["authorization"] == "Bearer k"
    assert (plain, vault) == ([None], [])


async def test_a_form_goes_out_nested() -> None:
    body = {"amount": 5, "card": {"n": "1 2"}, "expand": ["a", "b"], "on": True, "off": False, "none": None}
    with ScriptedServer(Exchange(200, {})) as server:
        await call(server, "POST", "/v1/x", body, make={"encoding": "form"})
    (sent,) = server.requests
    assert sent.headers["content-type"] == "application/x-www-form-urlencoded"
    assert sent.form() == {"amount": "5", "card": {"n": "1 2"}, "expand": ["a", "b"], "on": "true", "off": "false"}


async def test_a_card_goes_through_the_vault_and_a_token_does_not() -> None:
    with ScriptedServer(Exchange(200, {}), Exchange(200, {})) as server:
        assert (await call(server, "POST", "/a", {}, source=CARD))[1:] == ([], ["tok_1"])
        assert (await call(server, "POST", "/b", {}, source=TokenSource("cnon:x")))[1:] == ([None], [])


async def test_a_key_may_have_another_header_or_none() -> None:
    with ScriptedServer(Exchange(200, {}), Exchange(200, {})) as server:
        await call(server, "POST", "/a", {}, key="k", make={"key_header": "PayPal-Request-Id"})
        await call(server, "POST", "/b", {}, key="k", make={"key_header": None})
    first, second = server.requests
    assert first.headers["paypal-request-id"] == "k"
    assert "idempotency-key" not in second.headers


async def test_a_query_leaves_out_none_and_is_written_once() -> None:
    with ScriptedServer(Exchange(200, {})) as server:
        await call(server, "GET", "/a", query={"q": "a b&c", "n": None, "limit": 3})
    assert server.requests[0].query == {"q": "a b&c", "limit": "3"}
    assert server.requests[0].body == b""


async def test_204_is_an_answer_with_nothing_in_it() -> None:
    with ScriptedServer(Exchange(204, headers={"X-Trace": "t"})) as server:
        answer, _, _ = await call(server, "POST", "/a")
    assert (answer.status, answer.body, answer.headers["x-trace"]) == (204, {}, "t")


@pytest.mark.parametrize("status", [400, 402, 404, 422, 302])
async def test_a_status_is_unknown_unless_the_adapter_understands_it(status: int) -> None:
    with ScriptedServer(Exchange(status, {"error": 1}), Exchange(status, {"error": 1})) as server:
        with pytest.raises(OutcomeUnknown, match=str(status)):
            await call(server, "POST", "/a", {})
        answer, _, _ = await call(server, "POST", "/a", {}, make={"understood": frozenset({status})})
        assert answer.body == {"error": 1}


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_are_nobodys_outcome(status: int) -> None:
    with ScriptedServer(Exchange(status, {})) as server, pytest.raises(PspMisconfigured):
        await call(server, "POST", "/a", {}, make={"understood": frozenset({status})})


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
def test_a_form_is_read_back_as_it_was(body: dict[str, Any]) -> None:
    assert nested(form(body)) == body


@given(st.recursive(st.none() | st.integers(), lambda one: st.lists(one) | st.dictionaries(NAMES, one), max_leaves=10))
def test_no_none_is_left_under_a_name(value: Any) -> None:
    def names(found: Any) -> list[Any]:
        if isinstance(found, dict):
            return [*found.values(), *[one for inner in found.values() for one in names(inner)]]
        return [one for inner in found for one in names(inner)] if isinstance(found, list) else []

    assert None not in names(without_none(value))


def test_an_answer_that_is_not_as_documented_is_unknown() -> None:
    assert read({"a": 1}, dict[str, int]) == {"a": 1}
    with pytest.raises(OutcomeUnknown, match="not as documented"):
        read({"a": "x"}, dict[str, int])
