"""The conformance kit finds what it is there for: the sandbox's adapter, broken in one place, fails the test named for it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import clearspan.sdk as sdk
from clearspan.sdk.testing import PspConformance
from clearspan_psp_sandbox import SandboxPsp, answers

ROOT = Path(__file__).parents[4]


def _honest() -> type[PspConformance]:
    """The sandbox's own conformance class."""
    file = ROOT / "plugins/psp-sandbox/tests/test_conformance.py"
    spec = importlib.util.spec_from_file_location("sandbox_conformance", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[PspConformance] = module.TestSandboxPsp
    return found


HONEST = _honest()
HONEST.__test__ = False  # type: ignore[attr-defined]  (it is tested at home)


class _Parameters:
    """Collects what a class generates for a test, as pytest's ``Metafunc`` does."""

    def __init__(self, test: Callable[..., None]) -> None:
        self.fixturenames = test.__code__.co_varnames[1 : test.__code__.co_argcount]
        self.calls: list[dict[str, Any]] = [{}]

    def parametrize(self, name: str, values: Sequence[Any], ids: object = None) -> None:  # noqa: ARG002  (as pytest calls it)
        self.calls = [{**call, name: value} for call in self.calls for value in values]


def complaints(adapter: type[Any], test: str) -> Iterator[str]:
    """What a test of the kit finds at an adapter, one after the other."""
    suite: Any = type("Suite", (HONEST,), {"adapter": adapter, "__test__": False})()
    method = getattr(suite, test)
    parameters = _Parameters(method.__func__)
    suite.pytest_generate_tests(parameters)
    assert parameters.calls, f"{test} has nothing to run on"
    for call in parameters.calls:
        try:
            method(**call)
        except (AssertionError, pytest.fail.Exception) as error:
            yield f"{call}: {error}"


class TimeoutIsADecline(SandboxPsp):
    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        try:
            return await super().create_intent(request)
        except sdk.OutcomeUnknown:
            return sdk.Declined(code="issuer_unavailable", raw_code="timeout")


class RateLimitIsADecline(SandboxPsp):
    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        try:
            return await super().refund(request)
        except sdk.OutcomeUnknown as error:
            if "429" in str(error):
                return sdk.Declined(code="processing_error", raw_code="429")
            raise


class ServerErrorIsSuccess(SandboxPsp):
    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        try:
            return await super().capture(request)
        except sdk.OutcomeUnknown as error:
            if "answered 50" in str(error):
                return sdk.Approved(psp_ref=f"{request.charge_ref}/capture", amount=request.amount)
            raise


class RefusedConnectionIsUnknown(SandboxPsp):
    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        try:
            return await super().cancel(request)
        except sdk.PspUnavailable as error:
            raise sdk.OutcomeUnknown("no answer") from error


class WrongCredentialsAreADecline(SandboxPsp):
    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        try:
            return await super().create_intent(request)
        except sdk.PspMisconfigured:
            return sdk.Declined(code="invalid_merchant", raw_code="401")


class NewKeyOnRetry(SandboxPsp):
    tries = 0

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        self.tries += 1
        return await super().create_intent(replace(request, key=f"{request.key[:50]}-{self.tries}"))


class RandomKey(SandboxPsp):
    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        return await super().refund(replace(request, key=uuid.uuid4().hex))


class KeyNotSent(SandboxPsp):
    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        return await super().capture(replace(request, key=""))


class KeyTooLong(SandboxPsp):
    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        return await super().create_intent(replace(request, key=f"{request.key}-charge"))


class ExponentIgnored(SandboxPsp):
    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        units = sdk.to_units(request.amount, 2) if request.amount.currency != "BHD" else request.amount.amount_minor
        return await super().create_intent(replace(request, amount=sdk.Money(units, request.amount.currency)))


class ReferenceNotSent(SandboxPsp):
    async def _call(self, method: str, path: str, body: Any = None, key: str = "", token: str = "") -> dict[str, Any]:
        if isinstance(body, dict) and "reference" in body:
            body = {**body, "reference": "order 1"}
        return await super()._call(method, path, body, key, token)


class AnotherAmountBelieved(SandboxPsp):
    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        outcome = await super().create_intent(request)
        return replace(outcome, amount=request.amount) if isinstance(outcome, sdk.Approved) else outcome


class AnotherOperationBelieved(SandboxPsp):
    def _outcome(self, raw: dict[str, Any], *about: Any, **more: Any) -> sdk.Outcome:
        return super()._outcome({**raw, "reference": about[1]}, *about, **more)


class UnknownStatusApproved(SandboxPsp):
    def _outcome(self, raw: dict[str, Any], *about: Any, **more: Any) -> sdk.Outcome:
        known = raw.get("status") in ("succeeded", "declined", "pending", "requires_action", "canceled", "expired")
        return super()._outcome(raw if known else {**raw, "status": "succeeded"}, *about, **more)


class UnknownStatusPending(SandboxPsp):
    def _outcome(self, raw: dict[str, Any], *about: Any, **more: Any) -> sdk.Outcome:
        known = raw.get("status") in ("succeeded", "declined", "pending", "requires_action", "canceled", "expired")
        return super()._outcome(raw if known else {**raw, "status": "pending"}, *about, **more)


class UnknownCodeGuessed(SandboxPsp):
    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        outcome = await super().create_intent(request)
        if isinstance(outcome, sdk.Declined) and outcome.code == "unmapped":
            return replace(outcome, code="do_not_honor")
        return outcome


class StrangeFieldIsABug(SandboxPsp):
    def _outcome(self, raw: dict[str, Any], *about: Any, **more: Any) -> sdk.Outcome:
        return super()._outcome({**raw, "currency": raw["currency"].upper()}, *about, **more)


class SecretInAnError(SandboxPsp):
    async def _call(self, method: str, path: str, body: Any = None, key: str = "", token: str = "") -> dict[str, Any]:
        try:
            return await super()._call(method, path, body, key, token)
        except sdk.PspMisconfigured as error:
            raise sdk.PspMisconfigured(f"{error} (key {self._config.api_key})") from error


class RequestsAreLogged(SandboxPsp):
    async def _call(self, method: str, path: str, body: Any = None, key: str = "", token: str = "") -> dict[str, Any]:
        logging.getLogger("sandbox").debug("%s %s %s", method, path, body)
        return await super()._call(method, path, body, key, token)


class ShowsItsSettings(SandboxPsp):
    def __repr__(self) -> str:
        return f"SandboxPsp({self._config})"


class CardsPastTheVault(SandboxPsp):
    async def _call(self, method: str, path: str, body: Any = None, key: str = "", token: str = "") -> dict[str, Any]:
        assert token is not None
        return await super()._call(method, path, body, key)


class FieldNobodyDescribes(SandboxPsp):
    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        return await self._follow_up(request, "refund", {"amount": request.amount.amount_minor, "note": "x"})


class WorksBeforeItIsAwaited(SandboxPsp):
    def refund(self, request: sdk.RefundRequest) -> Any:
        return super().refund(request)


class SwallowsCancellation(SandboxPsp):
    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        try:
            return await super().capture(request)
        except asyncio.CancelledError:
            raise sdk.OutcomeUnknown("cancelled") from None


class _Checks(SandboxPsp):
    """Checks a signature in its own way."""

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        given = delivery.headers.get("sandbox-signature", "")
        time, _, rest = given.partition(",")
        self.check(time.removeprefix("t="), [one.removeprefix("v1=") for one in rest.split(",")], delivery)
        event = answers.event(delivery.body)
        self.compare(event)
        news = answers.news(event.data, event.data.get("account", ""), self._pages)
        return [sdk.WebhookEvent(event_id=event.id, type=event.type, news=news, sequence=event.sequence)]

    def signed(self, delivery: sdk.WebhookDelivery) -> bytes:
        return delivery.body

    def check(self, time: str, given: list[str], delivery: sdk.WebhookDelivery) -> None:
        expected = sdk.hmac_hex(self._secret.encode(), time.encode() + b"." + self.signed(delivery))
        if not any(sdk.same(one, expected) for one in given):
            raise sdk.WebhookRejected("wrong")
        self.check_time(time, delivery.received_at)

    def check_time(self, time: str, now: datetime) -> None:
        sdk.check_time(int(time), now)

    def compare(self, event: answers.Event) -> None:
        if event.account != self._config.account:
            raise sdk.WebhookRejected("another account's")


class SignedOverJsonWrittenAgain(_Checks):
    def signed(self, delivery: sdk.WebhookDelivery) -> bytes:
        try:
            return msgspec.json.encode(json.loads(delivery.body))
        except ValueError:
            return delivery.body


class TimeNotCompared(_Checks):
    def check_time(self, *_: object) -> None:
        return


class AnySignatureGoes(_Checks):
    def check(self, time: str, given: list[str], delivery: sdk.WebhookDelivery) -> None:
        if len(given[0]) != 64:
            raise sdk.WebhookRejected("wrong")
        self.check_time(time, delivery.received_at)


class FirstSignatureOnly(_Checks):
    def check(self, time: str, given: list[str], delivery: sdk.WebhookDelivery) -> None:
        super().check(time, given[:1], delivery)


class NotSignedIsGoodToo(_Checks):
    def check(self, time: str, given: list[str], delivery: sdk.WebhookDelivery) -> None:
        if delivery.headers:
            super().check(time, given, delivery)


class NotReadableIsABug(_Checks):
    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        json.loads(delivery.body)["id"]
        return await super().verify_webhook(delivery)


class NoNewsTwice(_Checks):
    count = 0

    async def verify_webhook(self, delivery: sdk.WebhookDelivery) -> Sequence[sdk.WebhookEvent]:
        return [replace(one, event_id=uuid.uuid4().hex) for one in await super().verify_webhook(delivery)]


MUTANTS: list[tuple[type[Any], str]] = [
    (TimeoutIsADecline, "test_a_fault_is_never_an_outcome"),
    (RateLimitIsADecline, "test_a_fault_is_never_an_outcome"),
    (ServerErrorIsSuccess, "test_a_fault_is_never_an_outcome"),
    (WrongCredentialsAreADecline, "test_a_fault_is_never_an_outcome"),
    (RefusedConnectionIsUnknown, "test_a_refused_connection_is_not_sent"),
    (RefusedConnectionIsUnknown, "test_a_broken_tls_handshake_is_not_sent"),
    (NewKeyOnRetry, "test_a_repeated_request_is_the_same_and_has_the_same_key"),
    (RandomKey, "test_a_repeated_request_is_the_same_and_has_the_same_key"),
    (KeyNotSent, "test_the_key_is_sent_and_fits"),
    (KeyTooLong, "test_the_key_is_sent_and_fits"),
    (KeyTooLong, "test_requests_are_as_the_provider_describes_them"),
    (ExponentIgnored, "test_amounts_go_out_as_the_psp_wants_them"),
    (ReferenceNotSent, "test_our_reference_is_sent"),
    (AnotherAmountBelieved, "test_another_amount_is_never_believed"),
    (AnotherAmountBelieved, "test_another_currency_is_never_believed"),
    (AnotherOperationBelieved, "test_another_operations_answer_is_never_believed"),
    (UnknownStatusApproved, "test_an_undocumented_status_is_unknown"),
    (UnknownStatusPending, "test_an_undocumented_status_is_unknown"),
    (UnknownCodeGuessed, "test_an_unknown_refusal_is_final_and_unmapped"),
    (StrangeFieldIsABug, "test_a_strange_field_is_no_bug_and_no_lie"),
    (SecretInAnError, "test_nothing_secret_gets_out"),
    (RequestsAreLogged, "test_nothing_secret_gets_out"),
    (ShowsItsSettings, "test_nothing_secret_gets_out"),
    (CardsPastTheVault, "test_card_data_goes_through_the_vault_only"),
    (FieldNobodyDescribes, "test_requests_are_as_the_provider_describes_them"),
    (WorksBeforeItIsAwaited, "test_verbs_do_nothing_before_they_are_awaited"),
    (SwallowsCancellation, "test_cancellation_passes_through"),
    (SignedOverJsonWrittenAgain, "test_a_forged_message_is_refused"),
    (TimeNotCompared, "test_a_forged_message_is_refused"),
    (AnySignatureGoes, "test_a_forged_message_is_refused"),
    (NotSignedIsGoodToo, "test_a_forged_message_is_refused"),
    (FirstSignatureOnly, "test_one_good_signature_of_two_is_enough"),
    (NotReadableIsABug, "test_a_signed_message_that_is_none_is_no_bug"),
    (NoNewsTwice, "test_a_signed_message_is_believed_whenever_it_comes"),
]


@pytest.mark.parametrize(("mutant", "test"), MUTANTS, ids=[f"{mutant.__name__}-{test}" for mutant, test in MUTANTS])
def test_a_broken_adapter_fails_the_test_that_is_named_for_it(mutant: type[Any], test: str) -> None:
    assert next(complaints(mutant, test), None)


@pytest.mark.parametrize("test", sorted({test for _, test in MUTANTS}))
def test_the_honest_adapter_passes_the_same_test(test: str) -> None:
    assert list(complaints(SandboxPsp, test)) == []


def test_the_checks_of_the_mutants_are_sound_where_they_are_not_broken() -> None:
    for test in ("test_a_forged_message_is_refused", "test_one_good_signature_of_two_is_enough"):
        assert list(complaints(_Checks, test)) == []
