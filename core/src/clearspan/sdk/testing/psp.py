"""What every PSP adapter must do, as tests to inherit. Nothing here needs the PSP, an account or a database.

```python
class TestAcme(PspConformance):
    adapter = AcmePsp
    description = Description(HERE / "spec/acme.json")
    refusals = REFUSALS
    scenarios = {
        "approved": Script(Exchange(200, {"id": "ch_1", "status": "<status:paid>", "total": "<amount>", "ref": "<reference>"})),
        "declined": Script(Exchange(402, {"error": {"code": "<code:51>"}}), code="insufficient_funds"),
        ...
    }

    def config(self, url: str) -> dict[str, Any]:
        return {"api_key": "sk_test_a_long_secret", "url": url}
```

Texts like ``<amount>`` in answers are filled in for each run; see ``Said``. That is how the kit makes an answer speak of another
amount, another operation, a status that nobody documented.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus

import httpx
import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan.sdk.testing.openapi import Description
from clearspan.sdk.testing.server import (
    FAULTS,
    RETRY_AFTER_S,
    Exchange,
    Request,
    ScriptedServer,
    strange_answer,
)
from clearspan.sdk.testing.transport import Direct, Patient, awaited, logged, run
from clearspan.sdk.testing.webhooks import NOW, UNREADABLE, Delivery, SignedWebhooks

REFERENCE = "op_01kaqz3v9wexxstm8dq04s2b71"
OTHER_REFERENCE = "op_01kaqz3v9wexxstm8dq04s2b72"
CARD_TOKEN = "tok_conformance"  # noqa: S105  (no secret)
PLACEHOLDERS = {name: f"{{{{{CARD_TOKEN}.{name}}}}}" for name in ("number", "exp_month", "exp_year", "cvc")}
UNHEARD_OF = "unheard_of"
RECURRING = sdk.StoredCredential(
    initiator="customer", purpose="recurring", first=True, mandate="mdt_01kaqz3v9wexxstm8dq04s2b7a"
)
MERCHANT = sdk.StoredCredential(
    initiator="merchant",
    purpose="recurring",
    first=False,
    mandate="mdt_01kaqz3v9wexxstm8dq04s2b7a",
    network_transaction_id="483297487231504",
)
VERBS = ("create_intent", "continue_intent", "capture", "cancel", "refund", "retrieve")
_MINOR = {0: 12347, 2: 12347, 3: 12350}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What a name in ``scenarios`` stands for: a verb, what it is asked, and what must come out."""

    verb: str
    expects: tuple[type[Any], ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_DONE = (sdk.Approved, sdk.Pending)
SCENARIOS: dict[str, Scenario] = {
    "approved": Scenario("create_intent", (sdk.Approved,), {"capture": True}),
    "authorized": Scenario("create_intent", (sdk.Approved,), {"capture": False}),
    "approved_by_token": Scenario("create_intent", _DONE, {"capture": True, "source": sdk.SourceKind.TOKEN}),
    "redirected": Scenario("create_intent", (sdk.ActionRequired,), {"source": sdk.SourceKind.REDIRECT}),
    "declined": Scenario("create_intent", (sdk.Declined,)),
    "pending": Scenario("create_intent", (sdk.Pending,)),
    "action_required": Scenario("create_intent", (sdk.ActionRequired,)),
    "continued": Scenario("continue_intent", _DONE),
    "continue_declined": Scenario("continue_intent", (sdk.Declined,)),
    "first_credential": Scenario("create_intent", (*_DONE, sdk.ActionRequired), {"credential": RECURRING}),
    "merchant_initiated": Scenario("create_intent", _DONE, {"credential": MERCHANT, "customer_present": False}),
    "verified": Scenario("create_intent", (sdk.Approved,), {"capture": False, "zero": True}),
    "captured": Scenario("capture", _DONE),
    "partially_captured": Scenario("capture", _DONE, {"partial": True, "final": False}),
    "capture_declined": Scenario("capture", (sdk.Declined,)),
    "canceled": Scenario("cancel", _DONE),
    "cancel_declined": Scenario("cancel", (sdk.Declined,)),
    "refunded": Scenario("refund", _DONE),
    "partially_refunded": Scenario("refund", _DONE, {"partial": True}),
    "refund_declined": Scenario("refund", (sdk.Declined,)),
    "retrieved": Scenario("retrieve", (sdk.Approved,), {"psp_ref": True}),
    "retrieved_by_reference": Scenario("retrieve", (sdk.Approved,)),
    "not_found": Scenario("retrieve", (sdk.NotFound,)),
    "retrieved_capture": Scenario("retrieve", _DONE, {"kind": "capture", "psp_ref": True}),
    "retrieved_void": Scenario("retrieve", _DONE, {"kind": "void", "psp_ref": True}),
    "retrieved_refund": Scenario("retrieve", _DONE, {"kind": "refund", "psp_ref": True}),
}
"""Scenario -> what it is. Other names can be used with a ``Script`` that names its ``verb`` and ``expects``."""


class Script:
    """The answers of one scenario, in order.

    Args:
        exchanges: the answers.
        code: of a decline: the normalised code that must come out.
        verb, expects: for scenarios that ``SCENARIOS`` does not name; ``expects`` replaces what is expected elsewhere.
        speaks_of_amount: ``False`` when the last answer says nothing of the amount: then it cannot be compared.
        fields: of the request, instead of the usual ones (``source``, ``params``, ``charge_ref``, ``psp_ref``, ``kind`` …).
    """

    def __init__(
        self,
        *exchanges: Exchange,
        code: str = "",
        verb: str = "",
        expects: tuple[type[Any], ...] | type[Any] = (),
        speaks_of_amount: bool = True,
        **fields: Any,
    ) -> None:
        self.exchanges = exchanges
        self.code, self.verb, self.fields = code, verb, fields
        self.expects = expects if isinstance(expects, tuple) else (expects,)
        self.speaks_of_amount = speaks_of_amount


@dataclasses.dataclass(frozen=True)
class Said:
    """What the texts in answers stand for.

    ================== =======================================================================================
    ``<amount>``       the amount of the request, as ``amount_as_sent`` gives it (a number, a text, an object)
    ``<charge_amount>`` the amount of the whole charge (partial captures and refunds)
    ``<currency>``     as ``currency_as_sent`` gives it
    ``<reference>``    the operation's id
    ``<key>``          the idempotency key
    ``<charge_ref>``   the PSP's id of the charge; ``<psp_ref>`` of the operation
    ``<token>``        of the source
    ``<url>``          of the scripted server
    ``<status:paid>``  a status; the kit also tries one that nobody documented
    ``<code:51>``      a refusal code; likewise
    ``<message>``      words for people
    ================== =======================================================================================
    """

    amount: Any
    charge_amount: Any
    currency: str
    reference: str
    key: str
    charge_ref: str
    psp_ref: str
    token: str
    url: str
    status: Callable[[str], str] = str
    code: Callable[[str], str] = str
    message: str = "words for people"

    def fill(self, value: Any) -> Any:
        """With what the texts stand for."""
        if isinstance(value, Mapping):
            return {self.fill(name): self.fill(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(one) for one in value]
        if not isinstance(value, str):
            return value
        for name in ("amount", "charge_amount"):
            if value == f"<{name}>":
                return getattr(self, name)
        return _TEXT.sub(lambda found: str(self._word(found[1], found[2])), value)

    def _word(self, name: str, argument: str | None) -> Any:
        found = getattr(self, name)
        return found(argument) if argument is not None and callable(found) else found


_TEXT = re.compile(
    r"<(amount|charge_amount|currency|reference|key|charge_ref|psp_ref|token|url|message|status|code)(?::([^<>]*))?>"
)


@dataclasses.dataclass
class Play:
    """What happened in one run.

    Attributes:
        outcome: what the verb returned, if it returned.
        error: what it raised, if it raised.
        request: what it was asked.
        sent: every request, as it came.
        logged: every line.
    """

    request: Any
    outcome: Any = None
    error: BaseException | None = None
    sent: list[Request] = dataclasses.field(default_factory=list)
    logged: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    unused: list[Exchange] = dataclasses.field(default_factory=list)
    adapter: Any = None

    @property
    def moving(self) -> list[Request]:
        """The requests that may move money."""
        return [one for one in self.sent if one.answered is None or not one.answered.prepares]

    def told(self) -> str:
        """For a failed assertion."""
        said = repr(self.outcome) if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return said[:600] + "".join(f"\n  sent {one.method} {one.target}" for one in self.sent)


class PspConformance(SignedWebhooks):
    """Inherit it in a plugin's tests, as ``Test...``, and declare what is true of the PSP.

    Attributes:
        adapter: the class.
        description: the provider's own, or ``None``: then override ``request_errors`` (and ``response_errors``).
        scenarios: name -> ``Script``. Which ones are demanded follows from the facts; ``demanded`` lists them.
        prelude: answers that any run may need first (an access token): each with its ``path``; they are ``prepares`` and
            ``repeats`` without being told.
        refusals: the adapter's ``RefusalTable``, or several.
        amount: of the usual charge.
        currencies: which are tried, as far as the facts allow them; add the PSP's own exceptions.
        amounts: currency -> minor units, where the usual ones cannot be told the PSP.
        charge_ref, psp_ref: ids as the PSP makes them.
        token: what the PSP takes as ``TokenSource.token``; ``stored_token`` for merchant-initiated payments.
        method: for ``RedirectSource``.
        return_params: what the payer brings back after an action.
        unreferenced: verbs whose requests cannot carry our reference.
        unkeyed: verbs whose requests carry no idempotency key.
        hosts: where test and live mode go when the settings name no address (``url`` empty).

    About messages see ``SignedWebhooks``.
    """

    adapter: ClassVar[type[Any]]
    description: ClassVar[Description | None] = None
    scenarios: ClassVar[Mapping[str, Script]] = {}
    prelude: ClassVar[Sequence[Exchange]] = ()
    refusals: ClassVar[sdk.RefusalTable | Sequence[sdk.RefusalTable] | None] = None
    amount: ClassVar[sdk.Money] = sdk.Money(12347, "EUR")
    currencies: ClassVar[Sequence[str]] = ("EUR", "JPY", "KWD", "BHD")
    amounts: ClassVar[Mapping[str, int]] = {}
    charge_ref: ClassVar[str] = "ch_conformance"
    psp_ref: ClassVar[str] = "ch_conformance"
    token: ClassVar[str] = "psp_token_conformance"  # noqa: S105  (no secret)
    stored_token: ClassVar[str] = ""
    method: ClassVar[str | None] = None
    return_params: ClassVar[Mapping[str, str]] = {}
    unreferenced: ClassVar[frozenset[str]] = frozenset({"continue_intent"})
    unkeyed: ClassVar[frozenset[str]] = frozenset({"continue_intent"})

    hosts: ClassVar[tuple[str, str] | None] = None

    # What a plugin says.

    def config(self, url: str) -> Mapping[str, Any]:
        """The settings of an account whose PSP is at ``url``."""
        raise NotImplementedError

    def amount_as_sent(self, money: sdk.Money) -> Any:
        """The amount as the PSP must get and give it: a number, a text or an object; ``None`` when it cannot be told.

        Source: the PSP's documentation, not the adapter.
        """
        return money.amount_minor

    def currency_as_sent(self, currency: str) -> str:
        """The currency as the PSP must get and give it."""
        return currency

    def request_errors(self, request: Request) -> list[str]:
        """What is wrong with a request, by the description or whatever else judges."""
        assert self.description is not None, "declare a description or override request_errors"
        return self.description.request_errors(request.method, request.target, request.headers, request.body)

    def response_errors(self, request: Request, status: int, body: bytes) -> list[str]:
        """What is wrong with a scripted answer, likewise."""
        if self.description is None:
            return []
        return self.description.response_errors(request.method, request.target, status, body)

    # The tests.

    def test_the_class_is_complete(self) -> None:
        facts = self.adapter.facts
        assert isinstance(facts, sdk.PspFacts)
        assert re.fullmatch(r"[a-z][a-z0-9_]{1,30}", self.adapter.name)
        missing = [name for name in self.demanded() if name not in self.scenarios]
        assert not missing, f"by its facts {self.adapter.name} needs the scenarios {', '.join(missing)}"
        unknown = [name for name, one in self.scenarios.items() if name not in SCENARIOS and not one.verb]
        assert not unknown, f"scenarios nobody knows, without a verb: {', '.join(unknown)}"
        assert facts.idempotency.max_len >= 1
        wrong = facts.currencies - sdk.CURRENCIES.keys()
        assert not wrong, f"no currencies: {', '.join(sorted(wrong))}"
        if sdk.SourceKind.REDIRECT not in facts.sources:
            assert not facts.methods, "methods are for redirects"

    def test_verbs_do_nothing_before_they_are_awaited(self) -> None:
        for verb in (*VERBS, "verify_webhook", "activity"):
            assert inspect.iscoroutinefunction(getattr(self.adapter, verb)), f"{verb} is no async def"

    def test_the_settings_make_a_form(self) -> None:
        fields = sdk.form_fields(self.adapter.config_type)
        assert all(one.title for one in fields)
        assert any(one.type == "secret" for one in fields) or not fields, "no field is a sdk.Secret"
        config = self.config("http://127.0.0.1:9")
        unknown = config.keys() - {one.name for one in fields}
        assert not unknown, f"settings that are none: {', '.join(sorted(unknown))}"
        self._settings("http://127.0.0.1:9")
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**config, "no_such_setting": 1}, self.adapter.config_type)

    def test_a_scenario_ends_as_it_is_named(self, scenario: str) -> None:
        play = self.play(scenario)
        script = self.scenarios[scenario]
        assert not play.unexpected, f"requests without an answer in the script: {play.unexpected}"
        assert play.error is None, play.told()
        assert isinstance(play.outcome, self._expected(scenario)), play.told()
        assert not play.unused, f"answers nobody asked for: {play.unused}"
        if script.code:
            assert play.outcome.code == script.code, play.told()
        if isinstance(play.outcome, sdk.Declined):
            assert play.outcome.code in sdk.DECLINES, play.told()
        if isinstance(play.outcome, sdk.Approved | sdk.Pending | sdk.ActionRequired):
            lasting = play.outcome.psp_ref or (isinstance(play.outcome, sdk.ActionRequired) and "later")
            assert lasting, play.told()
            assert len(lasting) <= 500, play.told()
        if isinstance(play.outcome, sdk.Approved):
            assert play.outcome.amount == play.request.amount, play.told()
            assert play.outcome.fee is None or play.outcome.fee.amount_minor >= 0

    def test_requests_are_as_the_provider_describes_them(self, scenario: str) -> None:
        play = self.play(scenario)
        assert play.sent, "nothing was sent"
        errors = [
            f"{one.method} {one.target}: {error}"
            for one in play.sent
            if one.answered is None or one.answered.described
            for error in self.request_errors(one)
        ]
        assert not errors, "\n".join(errors)

    def test_scripted_answers_are_as_the_provider_describes_them(self, scenario: str) -> None:
        play = self.play(scenario)
        errors = [
            f"{one.method} {one.target}: {error}"
            for one in play.sent
            if one.answered is not None and one.answered.described
            for error in self.response_errors(one, one.answered.status, one.answered.content())
        ]
        assert not errors, "\n".join(errors)

    def test_card_data_goes_through_the_vault_only(self, scenario: str) -> None:
        play = self.play(scenario)
        source = getattr(play.request, "source", None)
        for one in play.sent:
            text = one.body.decode() + one.target + "".join(one.headers.values())
            holds = [
                name
                for name, word in PLACEHOLDERS.items()
                if word in text or quote_plus(word) in text or quote(word) in text
            ]
            if one.vault_token is None:
                assert not holds, f"{one.method} {one.target} holds a placeholder and does not go through the vault"
            else:
                assert one.vault_token == CARD_TOKEN
        if scenario in ("approved", "authorized") and isinstance(source, sdk.CardSource):
            through = [one for one in play.sent if one.vault_token is not None]
            assert through, "a card was charged and no request went through the vault"

    def test_a_repeated_request_is_the_same_and_has_the_same_key(self, keyed: str) -> None:
        first, again = self.play(keyed, direct=True, times=2), self.play(keyed, direct=True)
        mine = [_sent(one) for one in first.moving]
        half = len(mine) // 2
        assert mine[:half] == mine[half:], (
            f"the second try is another request: {_differences(mine[:half], mine[half:])}"
        )
        fresh = [_sent(one) for one in again.moving]
        assert mine[:half] == fresh, f"another instance sends another request: {_differences(mine[:half], fresh)}"

    def test_the_key_is_sent_and_fits(self, keyed: str) -> None:
        facts = self.adapter.facts.idempotency
        if not facts.window or self._verb(keyed) in self.unkeyed:
            return
        first, other = self.play(keyed, direct=True), self.play(keyed, direct=True, key="other")
        for one, two in zip(first.moving, other.moving, strict=True):
            if one.method == "GET":
                continue
            changed = _changed(one, two)
            assert changed, f"{one.method} {one.target}: another key makes no other request"
            long = [text for text in changed if len(text) > facts.max_len]
            assert not long, f"the facts say keys have at most {facts.max_len} characters: {long}"

    def test_our_reference_is_sent(self, keyed: str) -> None:
        if self._verb(keyed) in self.unreferenced:
            return
        play = self.play(keyed, direct=True)
        texts = [str(value) for one in play.moving for value in one.values() if not isinstance(value, Mapping)]
        texts += [value for one in play.moving for value in one.headers.values()]
        assert any(REFERENCE in text for text in texts), (
            "the operation's id is in no request: it cannot be found again without the PSP's id"
        )

    def test_amounts_go_out_as_the_psp_wants_them(self, currency: str) -> None:
        money = self._money(currency)
        for name in self._currency_scenarios():
            play = self.play(name, direct=True, money=money)
            sent = self.amount_as_sent(money)
            if sent is None:
                assert isinstance(play.error, sdk.NotSupported), f"{name}: {play.told()}"
                assert not play.moving, f"{name}: {money} cannot be told the PSP and was sent"
                continue
            assert play.error is None, f"{name}: {play.told()}"
            assert _holds(play.moving, sent), (
                f"{name}: {money} must go out as {sent!r}; sent: {[one.body.decode() for one in play.moving]}"
            )
            if self._verb(name) == "create_intent":
                word = self.currency_as_sent(currency)
                assert _holds(play.moving, word) or isinstance(sent, Mapping), (
                    f"{name}: the currency {word} is not sent"
                )
            if isinstance(play.outcome, sdk.Approved):
                assert play.outcome.amount == money, f"{name}: {play.told()}"

    def test_answers_say_what_they_are_about(self) -> None:
        silent = [name for name in self._successes() if not self._speaks(name, "<amount>")]
        silent = [name for name in silent if self.scenarios[name].speaks_of_amount]
        assert not silent, (
            f"{', '.join(silent)}: the last answer holds no <amount>: put it where the PSP says the amount; where it says none:"
            " speaks_of_amount=False"
        )

    def test_another_amount_is_never_believed(self, speaks_of_amount: str) -> None:
        asked = self._asked_money(speaks_of_amount)
        said = sdk.Money(asked.amount_minor + 100, asked.currency)
        play = self.play(speaks_of_amount, direct=True, said_money=said)
        if isinstance(play.outcome, sdk.Approved):
            assert play.outcome.amount == said, f"the PSP said {said}: {play.told()}"
        else:
            assert isinstance(play.error, sdk.OutcomeUnknown) or isinstance(play.outcome, sdk.Pending), play.told()

    def test_another_currency_is_never_believed(self, speaks_of_currency: str) -> None:
        asked = self._asked_money(speaks_of_currency)
        other = next(one for one in ("USD", "GBP", "EUR") if one != asked.currency)
        said = sdk.Money(asked.amount_minor, other)
        play = self.play(speaks_of_currency, direct=True, said_money=said)
        if isinstance(play.outcome, sdk.Approved):
            assert play.outcome.amount.currency == other, f"the PSP said {said}: {play.told()}"
        else:
            assert isinstance(play.error, sdk.OutcomeUnknown) or isinstance(play.outcome, sdk.Pending), play.told()

    def test_another_operations_answer_is_never_believed(self, speaks_of_reference: str) -> None:
        play = self.play(speaks_of_reference, direct=True, said_reference=OTHER_REFERENCE)
        assert isinstance(play.error, sdk.OutcomeUnknown) or isinstance(play.outcome, sdk.NotFound), play.told()

    def test_an_undocumented_status_is_unknown(self, scenario: str) -> None:
        script = self.scenarios[scenario]
        places = [at for at, one in enumerate(script.exchanges) if "<status:" in _text_of(one)]
        if not places:
            empty = all(one.body is None for one in script.exchanges)
            assert empty or scenario not in ("approved", "authorized"), "mark the status of the answer: <status:...>"
        for at in places:
            play = self.play(scenario, direct=True, status_at=at)
            if script.exchanges[at].prepares:
                assert isinstance(play.error, sdk.PspError), play.told()
            else:
                assert isinstance(play.error, sdk.OutcomeUnknown), f"answer {at}: {play.told()}"

    def test_refusals_have_codes_of_ours(self) -> None:
        tables = self.refusals if isinstance(self.refusals, Sequence) else [self.refusals]
        for table in tables:
            assert isinstance(table, sdk.RefusalTable), "declare refusals, the adapter's RefusalTable"
            assert table.source
            assert table.rows
            assert table.as_of.year >= 2015
            assert not set(table.rows.values()) - sdk.DECLINES.keys()
            assert table.code("a code nobody knows") == "unmapped"

    def test_an_unknown_refusal_is_final_and_unmapped(self) -> None:
        names = [
            name
            for name, script in self.scenarios.items()
            if any("<code:" in _text_of(one) for one in script.exchanges)
        ]
        assert names, "mark the refusal's code in the scenario declined: <code:...>"
        for name in names:
            play = self.play(name, direct=True, code=UNHEARD_OF)
            assert isinstance(play.outcome, sdk.Declined), f"{name}: {play.told()}"
            assert play.outcome.code == "unmapped", f"{name}: {play.told()}"
            assert UNHEARD_OF in play.outcome.raw_code, f"{name}: raw_code must be the PSP's own: {play.told()}"

    def test_a_fault_is_never_an_outcome(self, faulty: tuple[str, int], fault: str) -> None:
        scenario, at = faulty
        play = self.play(scenario, fault=fault, at=at)
        exchanges = self.scenarios[scenario].exchanges
        exchange = exchanges[at]
        if exchange.prepares and not all(one.prepares for one in exchanges[:at]):
            # The money has moved: what comes after may fail without a word, and must not make it "not sent".
            kept = play.error is None and isinstance(play.outcome, self._expected(scenario))
            assert kept or isinstance(play.error, sdk.OutcomeUnknown | TimeoutError), f"{FAULTS[fault]}\n{play.told()}"
            return
        self._judge_fault(play, fault, prepares=exchange.prepares, reads=self._verb(scenario) == "retrieve")

    def test_a_fault_before_the_request_proper_charges_nobody(self) -> None:
        for at in range(len(self.prelude)):
            for fault in FAULTS:
                play = self.play(self._first(), fault=fault, prelude_at=at)
                self._judge_fault(play, fault, prepares=True, reads=False)
                assert not play.moving, f"{fault}: {play.told()}"

    def test_a_refused_connection_is_not_sent(self, verb: str) -> None:
        play = self.play(self._of_verb(verb), url="http://127.0.0.1:1")
        assert isinstance(play.error, sdk.PspUnavailable), play.told()

    def test_a_broken_tls_handshake_is_not_sent(self, verb: str) -> None:
        play = self.play(self._of_verb(verb), tls=True)
        assert isinstance(play.error, sdk.PspUnavailable), play.told()

    def test_cancellation_passes_through(self, verb: str) -> None:
        name = self._of_verb(verb)
        for at in range(len(self.scenarios[name].exchanges)):
            play = self.play(name, fault="hang", at=at, cancel=True)
            assert isinstance(play.error, asyncio.CancelledError), play.told()

    def test_a_published_message_is_believed(self, delivery: Delivery) -> None:
        play = run(self._receive(delivery))
        assert play.error is None, play.told()
        if delivery.news is not None:
            assert [type(one.news) for one in play.outcome] == list(delivery.news), play.told()
        if self.adapter.facts.webhook.signature == "none":
            wrong = [one.news for one in play.outcome if not isinstance(one.news, sdk.Hint | None)]
            assert not wrong, f"an unsigned message may only hint: {wrong}"

    def test_a_signed_message_is_believed_whenever_it_comes(self) -> None:
        if self.adapter.facts.webhook.signature == "none":
            return
        assert self.message(), "declare webhook_body, or messages in webhooks"
        signed = self.sign(self.message(), secret=self.webhook_secret, at=NOW)
        first, again = run(self._receive(signed)), run(self._receive(signed))
        assert first.error is None, first.told()
        assert first.outcome, "the message says nothing"
        assert first.outcome == again.outcome, "the same message twice says two things"
        if self.adapter.facts.webhook.id_field:
            assert all(one.event_id for one in first.outcome), "the facts name an id_field and the event has no id"

    def test_a_forged_message_is_refused(self) -> None:
        if self.adapter.facts.webhook.signature == "none":
            return
        for what, delivery in self.forged():
            play = run(self._receive(delivery))
            assert isinstance(play.error, sdk.WebhookRejected), f"{what}: {play.told()}"

    def test_another_accounts_message_is_refused(self) -> None:
        if self.adapter.facts.webhook.signature == "none":
            return
        signed = self.sign(self.message(), secret=self.webhook_secret, at=NOW)
        play = run(self._receive(signed, foreign=True))
        assert isinstance(play.error, sdk.WebhookRejected), play.told()

    def test_one_good_signature_of_two_is_enough(self) -> None:
        for secrets in ((self.webhook_secret, self.foreign_secret), (self.foreign_secret, self.webhook_secret)):
            twice = self.sign_twice(self.message(), secrets=secrets, at=NOW)
            if twice is not None:
                play = run(self._receive(twice))
                assert play.error is None, play.told()
        neither = self.sign_twice(self.message(), secrets=("wrong_secret", self.foreign_secret), at=NOW)
        if neither is not None:
            assert isinstance(run(self._receive(neither)).error, sdk.WebhookRejected)

    def test_a_signed_message_that_is_none_is_no_bug(self) -> None:
        if self.adapter.facts.webhook.signature == "none":
            bodies = [Delivery(body) for body in UNREADABLE]
        else:
            bodies = [self.sign(body, secret=self.webhook_secret, at=NOW) for body in UNREADABLE]
        for delivery in bodies:
            play = run(self._receive(delivery))
            known = isinstance(play.error, sdk.WebhookRejected | sdk.OutcomeUnknown)
            assert play.error is None or known, f"{delivery.body[:60]!r}: {play.told()}"
            if play.error is None:
                assert not any(isinstance(one.news, sdk.OperationNews | sdk.DisputeNews) for one in play.outcome)

    def test_nothing_secret_gets_out(self, scenario: str) -> None:
        script = self.scenarios[scenario]
        plays = [self.play(scenario, direct=True)]
        for at, exchange in enumerate(script.exchanges):
            for fault in FAULTS:
                if fault not in ("huge_body", "gzip_bomb") and (answer := strange_answer(fault, exchange)) is not None:
                    plays += [self.play(scenario, direct=True, replace={at: answer})]
            for status in (400, 404, 422):
                odd = Exchange(status, {"error": {"code": UNHEARD_OF, "message": "no"}, "message": "no", "errors": []})
                plays += [self.play(scenario, direct=True, replace={at: odd})]
        hidden = set(self._secrets()) | set(PLACEHOLDERS.values())
        for play in plays:
            hidden |= {word for one in play.sent for word in one.headers.get("authorization", "").split()[1:]}
        hidden = {word for word in hidden if len(word) >= 6}
        for play in plays:
            for where, text in _texts(play):
                found = [word for word in hidden if word in text]
                assert not found, (
                    f"{where} shows {[word[:4] + '…' for word in found]}: {text[:300].replace(found[0], '…')}"
                )

    def test_documented_answers_are_no_bug(self, scenario: str) -> None:
        if self.description is None:
            return
        play = self.play(scenario, direct=True)
        asked = play.moving[-1] if play.moving else play.sent[-1]
        place = self.description.operation(asked.method, asked.target)
        last = len(self.scenarios[scenario].exchanges) - 1
        for one in self.description.examples():
            if (one.method, one.path) == (asked.method, place) and one.status and one.status.isdigit():
                met = self.play(scenario, direct=True, replace={last: Exchange(int(one.status), one.value)})
                assert met.error is None or isinstance(met.error, sdk.PspError), f"{one.name}: {met.told()}"

    def test_a_strange_field_is_no_bug_and_no_lie(self, success: str) -> None:
        exchanges = self.scenarios[success].exchanges
        last = len(exchanges) - 1
        sent = self.play(success, direct=True).sent[-1].answered
        assert sent is not None
        if not isinstance(sent.body, Mapping):
            return
        template = exchanges[last].body
        amounts = _text_of(exchanges[last]).count("<amount>")
        for path, value in list(_paths(sent.body))[:60]:
            for strange in _STRANGE:
                if type(strange) is type(value):
                    continue
                body = _with(sent.body, path, strange)
                play = self.play(success, direct=True, replace={last: Exchange(sent.status, body, path=sent.path)})
                told = f"{'/'.join(map(str, path))} = {strange!r}: {play.told()}"
                assert play.error is None or isinstance(play.error, sdk.PspError), told
                assert not isinstance(play.outcome, sdk.Declined), told
                if isinstance(play.outcome, sdk.Approved):
                    assert type(play.outcome.amount.amount_minor) is int, told
                    assert isinstance(play.outcome.psp_ref, str), told
                    assert play.outcome.psp_ref, told
                    if not callable(template) and amounts == 1 and _got(template, path) == "<amount>":
                        assert play.outcome.amount != play.request.amount, f"nothing said the amount; {told}"

    def test_test_and_live_mode_go_to_their_hosts(self) -> None:
        if self.hosts is None:
            return
        found = []
        for live in (False, True):
            server = ScriptedServer()
            http = httpx.AsyncClient(transport=Direct(server, vault=False))
            context = sdk.PspContext(http=http, vault_http=http, live=live, now=lambda: NOW)
            name = self._first()
            adapter = self.adapter(self._settings(""), context)
            request = self._request(name, self._asked_money(name), "k")

            async def ask(adapter: Any = adapter, request: Any = request) -> None:
                with contextlib.suppress(sdk.PspError):
                    await adapter.create_intent(request)

            run(ask())
            found.append("https://" + server.requests[0].headers["host"])
        assert tuple(found) == tuple(self.hosts)

    # How they are run.

    async def _receive(self, delivery: Delivery, *, foreign: bool = False) -> Play:
        """Hand a message to the adapter, or to another account's."""
        server = ScriptedServer()
        url = "http://127.0.0.1:9"
        asked = [*self.prelude, *self.webhook_exchanges]
        asked = [dataclasses.replace(one, repeats=True) for one in asked]
        server.load([*asked, *delivery.exchanges])
        play = Play(delivery)
        config = self.foreign_config(url) if foreign else self.config(url)
        settings = msgspec.convert({**config, **delivery.config}, self.adapter.config_type)
        async with httpx.AsyncClient(transport=Direct(server, vault=False)) as http:
            context = sdk.PspContext(http=http, vault_http=http, live=False, now=lambda: delivery.at)
            with logged(play.logged):
                try:
                    play.outcome = await self.adapter(settings, context).verify_webhook(delivery.told(url))
                except Exception as error:  # noqa: BLE001  (whatever it is, it is judged)
                    play.error = error
        play.sent = server.requests
        return play

    def foreign_config(self, url: str) -> Mapping[str, Any]:
        """The settings of another account, whose messages are signed with ``foreign_secret``."""
        return {
            name: self.foreign_secret if value == self.webhook_secret else value
            for name, value in self.config(url).items()
        }

    def _secrets(self) -> list[str]:
        secret = {one.name for one in sdk.form_fields(self.adapter.config_type) if one.type == "secret"}
        return [str(value) for name, value in self.config("http://127.0.0.1:9").items() if name in secret and value]

    def demanded(self) -> list[str]:
        """The scenarios that the facts ask for."""
        facts, can = self.adapter.facts, sdk.Capability
        by_capability = {
            can.PURCHASE: ["approved"],
            can.AUTHORIZE: ["authorized", "captured"],
            can.PARTIAL_CAPTURE: ["partially_captured"],
            can.VOID: ["canceled"],
            can.REFUND: ["refunded"],
            can.PARTIAL_REFUND: ["partially_refunded"],
            can.THREE_DS: ["action_required", "continued"],
            can.MERCHANT_INITIATED: ["first_credential", "merchant_initiated"],
            can.VERIFY: ["verified"],
        }
        names = ["declined"]
        if facts.lookup.by_reference or facts.lookup.by_psp_ref:
            names.append("retrieved")
        names += [name for one, wanted in by_capability.items() if one in facts.capabilities for name in wanted]
        if sdk.SourceKind.REDIRECT in facts.sources:
            names += ["redirected", "continued"]
        if sdk.SourceKind.TOKEN in facts.sources and len(facts.sources) > 1:
            names.append("approved_by_token")
        if facts.lookup.by_reference:
            names += ["retrieved_by_reference", "not_found"]
        return list(dict.fromkeys(names))

    def play(self, scenario: str, **how: Any) -> Play:
        """Run a scenario; see ``_play``."""
        return run(self._play(scenario, **how))

    async def _play(
        self,
        scenario: str,
        *,
        direct: bool = False,
        times: int = 1,
        key: str = "",
        money: sdk.Money | None = None,
        said_money: sdk.Money | None = None,
        said_reference: str = REFERENCE,
        status_at: int | None = None,
        code: str = "",
        fault: str = "",
        at: int = 0,
        prelude_at: int | None = None,
        url: str = "",
        tls: bool = False,
        cancel: bool = False,
        replace: Mapping[int, Exchange] | None = None,
        marked: int | None = None,
    ) -> Play:
        """Run a scenario once, or with ``times`` several times on one instance.

        Args:
            direct: without connections.
            key: another one.
            money: what is asked for.
            said_money, said_reference: what the answers speak of instead.
            status_at: the position of an answer with a status that nobody documented.
            code: a refusal's, in the answers.
            fault, at, prelude_at: which fault meets which answer.
            url: where the PSP is said to be.
            tls: the PSP is said to speak TLS and does not.
            cancel: cancel the verb once it waits.
            replace: position -> another answer.
            marked: the position of an answer to be found again by a header.
        """
        script = self.scenarios[scenario]
        asked = money or self._asked_money(scenario)
        request = self._request(scenario, asked, key or "k")
        prelude = [dataclasses.replace(one, prepares=True, repeats=True) for one in self.prelude]
        position = prelude_at if prelude_at is not None else at + len(prelude)
        if fault == "reset_before":
            position = await self._requests_before(scenario, at, prelude_at)
        server = ScriptedServer(fault=fault, at=position)
        stuck = asyncio.Event()
        loop = asyncio.get_running_loop()
        server.on_stuck = lambda: loop.call_soon_threadsafe(stuck.set)
        with contextlib.ExitStack() as stack:
            if not direct:
                stack.enter_context(server)
            address = url or server.url or "http://127.0.0.1:9"
            said = self._said(scenario, request, said_money or asked, said_reference, address)
            said = dataclasses.replace(said, code=(lambda _: code) if code else str)
            answers = []
            for position, one in enumerate(script.exchanges):
                mine = dataclasses.replace(said, status=lambda _: UNHEARD_OF) if position == status_at else said
                answer = (replace or {}).get(position) or _filled(one, mine)
                if position == marked:
                    answer.headers = {**answer.headers, "x-position": "here"}
                answers.append(answer)
            server.load([*(_filled(one, said) for one in prelude), *(answers * times)])
            play = Play(request)
            stack.enter_context(logged(play.logged))
            async with contextlib.AsyncExitStack() as clients:
                silence = stuck if fault == "hang" and not cancel else None
                http, vault_http = [
                    await clients.enter_async_context(
                        httpx.AsyncClient(
                            transport=Direct(server, vault=vault) if direct else Patient(vault=vault, stuck=silence),
                            timeout=20,
                            trust_env=False,
                        )
                    )
                    for vault in (False, True)
                ]
                context = sdk.PspContext(http=http, vault_http=vault_http, live=False, now=lambda: NOW)
                place = address.replace("http://", "https://") if tls else address
                play.adapter = self.adapter(self._settings(place), context)
                for _ in range(times):
                    impatient = cancel or fault == "slow_drip"
                    await self._call(play, self._verb(scenario), stuck, cancel=cancel, impatient=impatient)
            play.sent, play.unexpected, play.unused = server.requests, server.unexpected, server.unused
        return play

    async def _requests_before(self, scenario: str, at: int, prelude_at: int | None) -> int:
        """How many requests come before the one that gets a certain answer."""
        if prelude_at is not None:
            return prelude_at
        play = await self._play(scenario, direct=True, marked=at)
        found = [
            index for index, one in enumerate(play.sent) if one.answered and one.answered.headers.get("x-position")
        ]
        return found[0] if found else 0

    async def _call(self, play: Play, verb: str, stuck: asyncio.Event, *, cancel: bool, impatient: bool) -> None:
        try:
            play.outcome = await awaited(getattr(play.adapter, verb)(play.request), stuck, impatient=impatient)
        except asyncio.CancelledError as error:
            play.error = error if cancel else TimeoutError()
        except Exception as error:  # noqa: BLE001  (whatever it is, it is judged)
            play.error = error

    def _judge_fault(self, play: Play, fault: str, *, prepares: bool, reads: bool) -> None:
        told = f"{FAULTS[fault]}\n{play.told()}"
        assert play.error is not None or (
            reads and isinstance(play.outcome, sdk.NotFound) and fault == "empty_object"
        ), told
        if play.error is None:
            return
        unknown: tuple[type[BaseException], ...] = (sdk.OutcomeUnknown, TimeoutError)
        if fault == "reset_before":  # it may reach us before the connection counts as made, and then nothing was sent
            unknown += (sdk.PspUnavailable,)
        if fault in ("wrong_credentials", "forbidden"):
            assert isinstance(play.error, sdk.PspMisconfigured), told
        elif prepares or reads:
            assert isinstance(play.error, (*unknown, sdk.PspUnavailable, sdk.PspMisconfigured)), told
        else:
            assert isinstance(play.error, unknown), told
            if fault.endswith("retry_after") and isinstance(play.error, sdk.OutcomeUnknown):
                assert play.error.retry_after_s == RETRY_AFTER_S, told

    def _settings(self, url: str) -> Any:
        return msgspec.convert(dict(self.config(url)), self.adapter.config_type)

    def _verb(self, scenario: str) -> str:
        return self.scenarios[scenario].verb or SCENARIOS[scenario].verb

    def _expected(self, scenario: str) -> tuple[type[Any], ...]:
        return self.scenarios[scenario].expects or SCENARIOS[scenario].expects

    def _fields(self, scenario: str) -> dict[str, Any]:
        usual = SCENARIOS[scenario].fields if scenario in SCENARIOS else {}
        return {**usual, **self.scenarios[scenario].fields}

    def _money(self, currency: str) -> sdk.Money:
        return sdk.Money(self.amounts.get(currency, _MINOR[sdk.exponent(currency)]), currency)

    def _asked_money(self, scenario: str) -> sdk.Money:
        fields = self._fields(scenario)
        if "amount" in fields:
            return fields["amount"]  # type: ignore[no-any-return]
        if fields.get("zero"):
            return sdk.Money(0, self.amount.currency)
        if fields.get("partial"):
            return sdk.Money(self.amount.amount_minor // 1000 * 100, self.amount.currency)
        return self.amount

    def _source(self, wanted: Any) -> sdk.Source:
        if isinstance(wanted, sdk.CardSource | sdk.TokenSource | sdk.RedirectSource):
            return wanted
        sources = self.adapter.facts.sources
        kinds = [one for one in sdk.SourceKind if one in sources]
        match wanted or kinds[0]:
            case sdk.SourceKind.CARD:
                return sdk.CardSource(CARD_TOKEN, **PLACEHOLDERS)
            case sdk.SourceKind.TOKEN:
                return sdk.TokenSource(self.token)
            case _:
                return sdk.RedirectSource(self.method)

    def _request(self, scenario: str, money: sdk.Money, key: str) -> Any:
        fields, verb = self._fields(scenario), self._verb(scenario)
        key = (key * 64)[: self.adapter.facts.idempotency.max_len][:64]
        told: dict[str, Any] = {"operation_id": REFERENCE, "key": key, "amount": money}
        charge_ref = fields.get("charge_ref", self.charge_ref)
        psp_ref = fields.get("psp_ref")
        if verb == "create_intent":
            source = self._source(fields.get("source"))
            credential = fields.get("credential")
            if credential is MERCHANT and isinstance(source, sdk.CardSource):
                assert MERCHANT.network_transaction_id is not None
                source = msgspec.structs.replace(source, network_transaction_id=MERCHANT.network_transaction_id)
            elif credential is MERCHANT:
                source = sdk.TokenSource(self.stored_token or self.token, stored=True)
            return sdk.ChargeRequest(
                **told,
                capture=fields.get("capture", sdk.Capability.PURCHASE in self.adapter.facts.capabilities),
                source=source,
                customer_present=fields.get("customer_present", True),
                return_url=fields.get("return_url", "https://shop.example/return?payment=1"),
                webhook_url=fields.get("webhook_url", "https://pay.example/webhooks/w1"),
                description=fields.get("description", "Order 1"),
                metadata=fields.get("metadata", {"order": "1"}),
                credential=credential,
                customer=fields.get("customer", "cus_01kaqz3v9wexxstm8dq04s2b7c" if credential else None),
                browser=fields.get("browser"),
            )
        if verb == "continue_intent":
            return sdk.ContinueRequest(
                **told,
                capture=fields.get("capture", True),
                psp_ref=psp_ref or self.psp_ref,
                params=fields.get("params", self.return_params),
            )
        if verb == "capture":
            return sdk.CaptureRequest(**told, charge_ref=charge_ref, final=fields.get("final", True))
        if verb == "cancel":
            return sdk.CancelRequest(**told, charge_ref=charge_ref)
        if verb == "refund":
            return sdk.RefundRequest(**told, charge_ref=charge_ref, reason=fields.get("reason", "wrong size"))
        kind = fields.get("kind", "purchase")
        own = self.psp_ref if psp_ref is True else psp_ref
        return sdk.RetrieveRequest(
            **told,
            kind=kind,
            psp_ref=own or None,
            charge_ref=charge_ref if kind in ("capture", "void", "refund") else None,
            created_at=NOW - timedelta(minutes=5),
        )

    def _said(self, scenario: str, request: Any, money: sdk.Money, reference: str, url: str) -> Said:
        fields = self._fields(scenario)
        whole = money if not fields.get("partial") else sdk.Money(self.amount.amount_minor, money.currency)
        psp_ref = fields.get("psp_ref")
        return Said(
            amount=self.amount_as_sent(money),
            charge_amount=self.amount_as_sent(whole),
            currency=self.currency_as_sent(money.currency),
            reference=reference,
            key=request.key,
            charge_ref=fields.get("charge_ref", self.charge_ref),
            psp_ref=psp_ref if isinstance(psp_ref, str) else self.psp_ref,
            token=getattr(getattr(request, "source", None), "token", ""),
            url=url,
        )

    def _successes(self) -> list[str]:
        return [name for name in self.scenarios if sdk.Approved in self._expected(name)]

    def _speaks(self, scenario: str, word: str) -> bool:
        exchanges = self.scenarios[scenario].exchanges
        return word in _text_of(exchanges[-1])

    def _first(self) -> str:
        return self._of_verb("create_intent")

    def _of_verb(self, verb: str) -> str:
        names = [name for name in self.scenarios if self._verb(name) == verb]
        usual = ("approved", "authorized", "continued", "captured", "canceled", "refunded", "retrieved")
        return next((name for name in usual if name in names), names[0])

    def _currency_scenarios(self) -> list[str]:
        names = [self._first()]
        return names + [name for name in ("captured", "refunded") if name in self.scenarios]

    def __init_subclass__(cls, **more: Any) -> None:
        """A test that has nothing to try with this plugin is none of its tests: it is not collected, and so never skipped."""
        super().__init_subclass__(**more)
        if not isinstance(vars(cls).get("scenarios"), dict):
            return
        one = cls.__new__(cls)
        if not one.webhooks:
            cls.test_a_published_message_is_believed = None  # type: ignore[assignment]
        if not any(one._speaks(name, "<currency>") for name in one._successes()):  # noqa: SLF001  (itself)
            cls.test_another_currency_is_never_believed = None  # type: ignore[assignment]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The tests' parameters, from what the class declares."""
        facts = self.adapter.facts
        by_verb = {self._verb(name): name for name in self.scenarios if name in SCENARIOS or self.scenarios[name].verb}
        verbs = [verb for verb in VERBS if verb in by_verb]
        keyed = [name for name in self.scenarios if name in SCENARIOS and self._verb(name) != "retrieve"]
        keyed = [name for name in keyed if not name.endswith("declined")]
        success = self._successes()
        # One scenario of each verb, and every one that asks otherwise: with another source, for another purpose.
        met = dict.fromkeys([*map(self._of_verb, verbs), *(name for name in _OTHER_WAYS if name in self.scenarios)])
        faulty = [(name, at) for name in met for at in range(len(self.scenarios[name].exchanges))]
        values: dict[str, Sequence[Any]] = {
            "scenario": list(self.scenarios),
            "keyed": keyed,
            "success": success,
            "speaks_of_amount": [name for name in success if self._speaks(name, "<amount>")],
            "speaks_of_currency": [name for name in success if self._speaks(name, "<currency>")],
            "speaks_of_reference": [name for name in success if self._speaks(name, "<reference>")],
            "verb": verbs,
            "fault": list(FAULTS),
            "currency": [one for one in self.currencies if not facts.currencies or one in facts.currencies],
        }
        if "delivery" in metafunc.fixturenames:
            metafunc.parametrize("delivery", self.webhooks, ids=[f"message{at}" for at in range(len(self.webhooks))])
        for name, ones in values.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, ones)
        if "faulty" in metafunc.fixturenames:
            metafunc.parametrize("faulty", faulty, ids=[f"{name}-{at}" for name, at in faulty])


def _filled(exchange: Exchange, said: Said) -> Exchange:
    body = exchange.body(said) if callable(exchange.body) else exchange.body
    return dataclasses.replace(
        exchange,
        body=body if isinstance(body, bytes) else said.fill(body),
        headers=said.fill(exchange.headers),
        path=said.fill(exchange.path),
    )


def _text_of(exchange: Exchange) -> str:
    """An answer with its texts not filled in."""
    body = exchange.body
    if callable(body):
        texts = [one.name for one in dataclasses.fields(Said) if one.name not in ("status", "code")]
        marks: dict[str, Any] = {name: f"<{name}>" for name in texts}
        body = body(Said(**marks, status=lambda word: f"<status:{word}>", code=lambda word: f"<code:{word}>"))
    text = body.decode() if isinstance(body, bytes) else body if isinstance(body, str) else json.dumps(body)
    return text + json.dumps(dict(exchange.headers))


_OTHER_WAYS = ("authorized", "approved_by_token", "redirected", "first_credential", "merchant_initiated", "verified")
_STRANGE: tuple[Any, ...] = (None, 5, "strange", [], {}, ["strange"], True)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in a structure, with what is there."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield (*path, name), one
        yield from _paths(one, (*path, name))


def _got(value: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        if not isinstance(value, Mapping | list):  # an amount that is an object, filled in as a whole
            return None
        value = value[name]
    return value


def _with(value: Any, path: tuple[Any, ...], strange: Any) -> Any:
    """The structure with something else in one place."""
    if not path:
        return strange
    copied = dict(value) if isinstance(value, Mapping) else list(value)
    copied[path[0]] = _with(value[path[0]], path[1:], strange)
    return copied


def _texts(play: Play) -> Iterator[tuple[str, str]]:
    """All that operators, logs and the database get to see of a run."""
    yield from (("a log line", line) for line in play.logged)
    yield "repr(adapter)", repr(play.adapter)
    error = play.error
    while error is not None:
        yield "the error", f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    if play.outcome is not None:
        yield "the outcome", repr(play.outcome)


def _sent(request: Request) -> dict[str, Any]:
    """A request without what the connection adds."""
    headers = {name: value for name, value in request.headers.items() if name not in ("host", "connection")}
    return {"method": request.method, "target": request.target, "headers": headers, "body": request.body.decode()}


def _differences(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> str:
    """What differs, without the values of headers that may be secret."""
    if len(one) != len(two):
        return f"{len(one)} and {len(two)} requests"
    found = []
    for a, b in zip(one, two, strict=True):
        found += [f"{name}: {a[name]!r} and {b[name]!r}" for name in ("method", "target", "body") if a[name] != b[name]]
        names = a["headers"].keys() | b["headers"].keys()
        found += [f"header {name}" for name in sorted(names) if a["headers"].get(name) != b["headers"].get(name)]
    return "; ".join(found)


def _changed(one: Request, two: Request) -> list[str]:
    """The texts of a request that another one has otherwise."""
    found = [value for name, value in one.headers.items() if two.headers.get(name) != value]
    others = {str(value) for value in two.values()}
    return found + [value for value in one.values() if isinstance(value, str) and value not in others]


def _holds(requests: Sequence[Request], wanted: Any) -> bool:
    for one in requests:
        form = "form-urlencoded" in one.headers.get("content-type", "") or not one.body
        for value in one.values():
            if isinstance(wanted, Mapping) and isinstance(value, Mapping):
                if all(
                    name in value and str(value[name]) == str(part) if form else value.get(name) == part
                    for name, part in wanted.items()
                ):
                    return True
            elif (form and value == str(wanted)) or (type(value) is type(wanted) and value == wanted):
                return True
    return False


__all__ = [
    "CARD_TOKEN",
    "MERCHANT",
    "NOW",
    "OTHER_REFERENCE",
    "PLACEHOLDERS",
    "RECURRING",
    "REFERENCE",
    "SCENARIOS",
    "Play",
    "PspConformance",
    "Said",
    "Scenario",
    "Script",
    "run",
    "strange_answer",
]
