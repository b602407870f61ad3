"""What is not known stays unknown, and what was not sent says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan.sdk import Money
from clearspan_psp_stripe import StripeConfig, StripePsp


@pytest.mark.parametrize("fault", ["hang_after", "error_after", "garbage_after"])
async def test_a_charge_without_an_answer_is_unknown_and_found(open_shop: Callable[..., Any], fault: str) -> None:
    shop = open_shop(timeout_s=0.15)
    request = shop.request()
    await shop.control("next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await shop.psp.create_intent(request)
    found = await shop.psp.retrieve(shop.retrieve(request, "purchase"))
    assert isinstance(found, sdk.Approved)
    assert found.amount == request.amount


@pytest.mark.parametrize("fault", ["hang_before", "error_before"])
async def test_a_charge_that_was_never_made_is_sent_again_under_its_key(
    open_shop: Callable[..., Any], fault: str
) -> None:
    shop = open_shop(timeout_s=0.15)
    request = shop.request()
    await shop.control("next", {"fault": fault})
    with pytest.raises(sdk.OutcomeUnknown):
        await shop.psp.create_intent(request)
    assert isinstance(await shop.psp.retrieve(shop.retrieve(request, "purchase")), sdk.NotFound)
    first = await shop.approved(request)
    assert (await shop.approved(request)).psp_ref == first.psp_ref


@pytest.mark.parametrize("verb", ["capture", "void", "refund"])
async def test_a_follow_up_without_an_answer_is_unknown_and_found(open_shop: Callable[..., Any], verb: str) -> None:
    shop = open_shop(timeout_s=0.15)
    charge = await shop.approved(shop.request(capture=verb == "refund"))
    name, amount = f"op_lost_{verb}", Money(1099, "EUR")
    requests: dict[str, Any] = {
        "capture": sdk.CaptureRequest(name, f"key_{name}", amount, charge.psp_ref, final=True),
        "void": sdk.CancelRequest(name, f"key_{name}", amount, charge.psp_ref),
        "refund": sdk.RefundRequest(name, f"key_{name}", amount, charge.psp_ref),
    }
    verbs = {"capture": shop.psp.capture, "void": shop.psp.cancel, "refund": shop.psp.refund}
    await shop.control("next", {"fault": "hang_after"})
    with pytest.raises(sdk.OutcomeUnknown):
        await verbs[verb](requests[verb])
    found = await shop.psp.retrieve(shop.retrieve(requests[verb], verb))
    assert isinstance(found, sdk.Approved)
    assert found.amount == amount


@pytest.mark.parametrize("path", ["/v1/payment_methods", "/v1/customers"])
@pytest.mark.parametrize("fault", ["error_before", "hang_after"])
async def test_what_cannot_charge_leaves_nothing_unknown(open_shop: Callable[..., Any], path: str, fault: str) -> None:
    shop = open_shop(timeout_s=0.15)
    first = sdk.StoredCredential(initiator="customer", purpose="unscheduled", first=True, mandate="mdt_1")
    request = shop.request(credential=first, customer="cust_1")
    await shop.control("next", {"fault": fault, "path": path})
    with pytest.raises(sdk.PspUnavailable, match="nothing was charged"):
        await shop.psp.create_intent(request)
    assert not [one for one in await shop.control("charges") if one["reference"] == request.operation_id]
    await shop.approved(request)


async def test_a_key_with_another_payload_leaves_the_outcome_unknown(shop: Any) -> None:
    request = shop.request(source=sdk.TokenSource("pm_card_visa"))
    await shop.approved(request)
    with pytest.raises(sdk.OutcomeUnknown, match="key"):
        await shop.psp.create_intent(msgspec.structs.replace(request, amount=Money(5, "EUR")))


@pytest.mark.parametrize("key", ["wrong", "rk_test_forbidden"])
async def test_wrong_credentials_are_a_matter_for_the_operator(open_shop: Callable[..., Any], key: str) -> None:
    shop = open_shop(key=key)
    with pytest.raises(sdk.PspMisconfigured):
        await shop.psp.check_account()
    with pytest.raises(sdk.PspMisconfigured):
        await shop.psp.create_intent(shop.request())


async def test_good_credentials_are_found_good(shop: Any) -> None:
    await shop.psp.check_account()


async def test_nobody_there_means_nothing_sent(open_shop: Callable[..., Any]) -> None:
    shop = open_shop()
    config = StripeConfig(api_key="sk_test_simulator", url="http://127.0.0.1:1")
    psp = StripePsp(config, sdk.PspContext(http=shop.http, vault_http=shop.http))
    with pytest.raises(sdk.PspUnavailable):
        await psp.create_intent(shop.request())
    with pytest.raises(sdk.PspUnavailable):
        await psp.capture(sdk.CaptureRequest("op", "key", Money(1, "EUR"), "pi_1", final=True))


async def test_a_refused_request_names_the_field(shop: Any) -> None:
    with pytest.raises(sdk.PspMisconfigured, match="payment_intent"):
        await shop.psp.refund(sdk.RefundRequest("op_x1", "key_x1", Money(1, "EUR"), "pi_unknown"))
    with pytest.raises(sdk.PspMisconfigured, match="field intent"):
        await shop.psp.capture(sdk.CaptureRequest("op_x2", "key_x2", Money(1, "EUR"), "pi_unknown", final=True))


async def test_what_stripe_does_not_know_is_not_found(shop: Any) -> None:
    for kind, ref in (("purchase", "pi_unknown"), ("refund", "re_unknown"), ("authorize", "seti_unknown")):
        request = shop.retrieve(shop.request(), kind, psp_ref=ref)
        assert isinstance(await shop.psp.retrieve(request), sdk.NotFound)


async def test_a_charge_is_found_behind_the_first_page(shop: Any) -> None:
    wanted = shop.request()
    await shop.approved(wanted)
    headers = {"Authorization": "Bearer sk_test_simulator"}
    for _ in range(101):
        fields = {"amount": "1", "currency": "eur"}
        assert (await shop.api.post("/v1/payment_intents", data=fields, headers=headers)).status_code == 200
    assert isinstance(await shop.psp.retrieve(shop.retrieve(wanted, "purchase")), sdk.Approved)
    other = shop.retrieve(wanted, "purchase", created_at=datetime.now(UTC) - timedelta(days=3))
    assert isinstance(await shop.psp.retrieve(other), sdk.NotFound)


async def test_two_live_charges_with_one_reference_are_not_believed(shop: Any) -> None:
    request = shop.request()
    await shop.approved(request)
    await shop.approved(msgspec.structs.replace(request, key=f"{request.key}_again"))
    with pytest.raises(sdk.OutcomeUnknown, match="2 objects"):
        await shop.psp.retrieve(shop.retrieve(request, "purchase"))


async def test_a_capture_whose_charge_is_not_known_is_not_looked_for(shop: Any) -> None:
    request = shop.retrieve(shop.request(), "capture")
    with pytest.raises(sdk.OutcomeUnknown):
        await shop.psp.retrieve(request)


async def test_live_and_test_mode_share_a_host() -> None:
    asked: list[str] = []

    async def take(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url.host))
        return httpx.Response(200, json={"object": "list", "data": [], "has_more": False, "url": ""})

    async with httpx.AsyncClient(transport=httpx.MockTransport(take)) as http:
        for live in (True, False):
            await StripePsp(StripeConfig(api_key="sk_x"), sdk.PspContext(http, http, live=live)).check_account()
    assert asked == ["api.stripe.com"] * 2


@pytest.mark.parametrize(
    ("key", "live", "good"),
    [
        ("sk_test_1", False, True),
        ("rk_live_1", True, True),
        ("sk_live_1", False, False),
        ("sk_test_1", True, False),
        ("pk_test_1", False, False),
    ],
)
def test_a_key_of_the_other_mode_is_a_problem(key: str, live: bool, good: bool) -> None:
    assert (StripeConfig(api_key=key).problem(live) == "") is good
    assert StripeConfig(api_key=key, webhook_secret="secret").problem(live) != ""
