"""What the adapter says when no clear answer comes: "not sent" only when nothing was sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from clearspan.sdk import (
    Approved,
    CaptureRequest,
    ChargeRequest,
    Money,
    OutcomeUnknown,
    PspContext,
    PspMisconfigured,
    PspUnavailable,
    RetrieveRequest,
)
from clearspan_psp_sandbox import SandboxPsp, SandboxPspConfig

if TYPE_CHECKING:
    from conftest import Eventually, OpenShop, Running, Shop


def lookup(request: ChargeRequest) -> RetrieveRequest:
    return RetrieveRequest(request.operation_id, request.key, "purchase", request.amount)


async def test_a_stopped_simulator_is_unavailable_directly_and_through_the_vault(
    own_simulator: Running, open_shop: OpenShop
) -> None:
    shop = open_shop(psp=own_simulator)
    charge = await shop.psp.create_intent(shop.request(capture=False))
    assert isinstance(charge, Approved)
    own_simulator.kill()
    with pytest.raises(PspUnavailable, match="not sent"):
        await shop.psp.capture(CaptureRequest("c", "c", Money(1, "EUR"), charge.psp_ref, final=False))
    with pytest.raises(PspUnavailable, match="the vault could not reach the PSP"):
        await shop.psp.create_intent(shop.request())


async def test_a_stopped_vault_means_nothing_was_sent(own_vault: Running, open_shop: OpenShop) -> None:
    shop = open_shop(vault=own_vault)
    own_vault.kill()
    with pytest.raises(PspUnavailable):
        await shop.psp.create_intent(shop.request())


async def test_a_late_answer_is_unknown_and_the_charge_is_booked(open_shop: OpenShop) -> None:
    shop = open_shop(timeout_s=0.5)
    request = shop.request("tok_slow", 1002)
    with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
        await shop.psp.create_intent(request)
    assert isinstance(await shop.psp.retrieve(lookup(request)), Approved)


async def test_a_late_answer_to_the_vault_is_unknown(own_vault: Running, open_shop: OpenShop) -> None:
    shop = open_shop(vault=own_vault)
    request = shop.request("tok_slow", 1002)
    with pytest.raises(OutcomeUnknown, match="target_timeout"):
        await shop.psp.create_intent(request)
    assert isinstance(await shop.psp.retrieve(lookup(request)), Approved)


async def test_a_simulator_killed_while_it_answers_leaves_the_outcome_unknown(
    own_simulator: Running, open_shop: OpenShop, eventually: Eventually
) -> None:
    shop = open_shop(psp=own_simulator)
    request = shop.request("tok_slow", 1030)
    charge = asyncio.create_task(shop.psp.create_intent(request))

    async def booked() -> bool | None:
        return isinstance(await shop.psp.retrieve(lookup(request)), Approved) or None

    await eventually(booked)
    own_simulator.kill()
    with pytest.raises(OutcomeUnknown, match="target_broken"):
        await charge
    own_simulator.start()
    assert isinstance(await shop.psp.retrieve(lookup(request)), Approved)
    again = await shop.psp.create_intent(request)  # the same key: the answer is replayed, at once
    assert isinstance(again, Approved)


async def test_an_unknown_token_sends_nothing(shop: Shop) -> None:
    request = shop.request("tok_forgotten")
    with pytest.raises(PspMisconfigured, match="does not know the card's token"):
        await shop.psp.create_intent(request)
    assert not isinstance(await shop.psp.retrieve(lookup(request)), Approved)


async def test_a_wrong_api_key_is_the_operators_matter(open_shop: OpenShop, simulator: Running) -> None:
    shop = open_shop()
    wrong = SandboxPsp(
        SandboxPspConfig(url=simulator.url, api_key="sk_live_alpha"),
        PspContext(http=shop.http, vault_http=shop.vault_http),
    )
    with pytest.raises(PspMisconfigured, match="401"):
        await wrong.create_intent(shop.request())


ANSWER = (
    b'{"id":"ch_x","kind":"charge","account":"alpha","reference":"op","status":"succeeded","amount":1,'
    b'"currency":"EUR","created_at":"2026-01-01T00:00:00Z"}'
)


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (200, b"<html>", OutcomeUnknown),
        (200, b"{}", OutcomeUnknown),
        (200, b'{"error":{"code":"news"}}', OutcomeUnknown),
        (422, b'{"error":{"code":"news"}}', OutcomeUnknown),
        (418, b"{}", OutcomeUnknown),
        (500, b"{}", OutcomeUnknown),
        (400, b'{"error":{"code":"invalid_request"}}', PspMisconfigured),
        (200, ANSWER.replace(b'"op"', b'"another"'), OutcomeUnknown),
        (200, ANSWER.replace(b'"succeeded"', b'"shiny"'), OutcomeUnknown),
        (200, ANSWER.replace(b":1,", b':"1",'), OutcomeUnknown),
    ],
)
async def test_an_undocumented_answer_is_never_guessed(status: int, content: bytes, error: type[Exception]) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
    async with httpx.AsyncClient(transport=transport) as http:
        psp = SandboxPsp(SandboxPspConfig(), PspContext(http=http, vault_http=http))
        with pytest.raises(error):
            await psp.capture(CaptureRequest("op", "key", Money(1, "EUR"), "ch_x", final=False))


async def test_a_malformed_lookup_is_not_taken_for_not_found() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"items": []}))
    async with httpx.AsyncClient(transport=transport) as http:
        psp = SandboxPsp(SandboxPspConfig(), PspContext(http=http, vault_http=http))
        with pytest.raises(OutcomeUnknown):
            await psp.retrieve(RetrieveRequest("op", "key", "purchase", Money(1, "EUR")))
