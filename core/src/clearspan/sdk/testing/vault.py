"""What every vault provider must do, as tests to inherit. Nothing here needs the vault or an account.

```python
class TestSafe(VaultConformance):
    provider = SafeVault
    token = "tok_1"
    scenarios = {
        "session": Script(Exchange(201, {"id": "ses_1", ...})),
        "described": Script(Exchange(200, {"brand": "visa", "last4": "4242", ...})),
        "unknown": Script(Exchange(404, {...})),
        "deleted": Script(Exchange(204)),
        "deleted_unknown": Script(Exchange(404)),
    }
    own_errors = [(Exchange(502, headers={"X-Safe-Error": "unreachable"}), sdk.PspUnavailable), ...]

    def config(self, url: str) -> dict[str, Any]:
        return {"api_key": "key_long_and_unmistakable", "url": url}
```
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import pytest

import clearspan.sdk as sdk
from clearspan.sdk.testing.openapi import CARD, Description
from clearspan.sdk.testing.psp import Script
from clearspan.sdk.testing.server import FAULTS, Exchange, Request, ScriptedServer
from clearspan.sdk.testing.transport import Patient, awaited, logged, run
from clearspan.sdk.testing.webhooks import NOW

DEMANDED = ("session", "described", "unknown", "deleted", "deleted_unknown")
FIELDS = ("number", "exp_month", "exp_year", "cvc")
_VERBS = {"session": "create_session", "described": "describe", "deleted": "delete", "connected": "check_connection"}
_TARGET = "https://api.psp.example/v1/charges?expand=all&x=%7B1%7D"
_HOSTILE = "tok/../../admin?key=1#x"


@dataclasses.dataclass
class VaultPlay:
    """What happened in one run: what came out, what was sent, what was logged."""

    outcome: Any = None
    error: BaseException | None = None
    sent: list[Request] = dataclasses.field(default_factory=list)
    lines: list[str] = dataclasses.field(default_factory=list)
    provider: Any = None

    def told(self) -> str:
        """For a failed assertion."""
        said = repr(self.outcome) if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return said[:600] + "".join(f"\n  sent {one.method} {one.target}" for one in self.sent)


class VaultConformance:
    """Inherit it in a plugin's tests, as ``Test...``, and declare what is true of the vault.

    Attributes:
        provider: the class.
        description: the vault's own, or ``None``.
        scenarios: ``session``, ``described``, ``unknown`` (describe of a token that the vault does not know), ``deleted``,
            ``deleted_unknown``, and ``connected`` when it has ``check_connection`` -> ``Script``. Texts
            ``<token>`` and ``<url>`` in them are filled in.
        prelude: answers that any run may need first, each with its ``path``.
        token: as the vault makes them; ``other_token`` is another one.
        silent: verbs that make no call, so that nothing can go wrong on the way.
        own_errors: the vault's own answers to a request that went through it, and what each means: ``PspUnavailable`` (it could
            not reach the PSP), ``PspMisconfigured`` (it refused), ``OutcomeUnknown`` (it sent and got no clear answer).
        psp_answers: answers of a PSP as they come through the vault: never the vault's own.
    """

    provider: ClassVar[type[Any]]
    description: ClassVar[Description | None] = None
    scenarios: ClassVar[Mapping[str, Script]] = {}
    prelude: ClassVar[Sequence[Exchange]] = ()
    token: ClassVar[str] = "tok_conformance"  # noqa: S105  (no secret)
    other_token: ClassVar[str] = "tok_other"  # noqa: S105  (likewise)
    silent: ClassVar[frozenset[str]] = frozenset()
    own_errors: ClassVar[Sequence[tuple[Exchange, type[Exception]]]] = ()
    psp_answers: ClassVar[Sequence[Exchange]] = tuple(
        Exchange(status, {"id": "ch_1", "error": {"code": "x"}})
        for status in (200, 201, 400, 401, 402, 403, 404, 422, 429, 500, 502)
    )

    def config(self, url: str) -> Mapping[str, Any]:
        """The settings, with the vault at ``url``."""
        raise NotImplementedError

    def target(self, proxied: httpx.Request) -> str:
        """Where the vault will send a proxied request. By default the header or the query that holds an address of ``https``;
        the request's own address, when it was not rewritten."""
        for value in [*proxied.headers.values(), *proxied.url.params.values()]:
            if value.startswith("https://"):
                return value
        return str(proxied.url)

    # The tests.

    def test_the_class_is_complete(self) -> None:
        missing = [name for name in DEMANDED if name not in self.scenarios]
        assert self._checks() == ("connected" in self.scenarios), (
            "check_connection and the scenario connected belong together"
        )
        assert not missing, f"scenarios that are missing: {', '.join(missing)}"
        kinds = {kind for _, kind in self.own_errors}
        assert kinds <= {sdk.PspUnavailable, sdk.PspMisconfigured, sdk.OutcomeUnknown}
        assert sdk.PspMisconfigured in kinds, "own_errors must say how the vault refuses (unknown token, wrong key)"

    def test_verbs_do_nothing_before_they_are_awaited(self) -> None:
        for verb in ("create_session", "describe", "delete", *(["check_connection"] if self._checks() else [])):
            assert inspect.iscoroutinefunction(getattr(self.provider, verb)), f"{verb} is no async def"
        for helper in ("placeholder", "proxy", "check"):
            assert not inspect.iscoroutinefunction(getattr(self.provider, helper)), f"{helper} does no I/O: a plain def"

    def test_the_settings_have_a_secret(self) -> None:
        assert self._secrets(), "no field is a sdk.Secret"
        msgspec.convert(dict(self.config("http://127.0.0.1:9")), self.provider.config_type)

    def test_a_session_is_opened(self) -> None:
        play = self.play("session")
        assert play.error is None, play.told()
        expires_at = play.outcome.expires_at
        assert expires_at.utcoffset() is not None, "expires_at must know its time zone"
        if isinstance(play.outcome, sdk.CaptureSession):
            assert urlsplit(play.outcome.url).scheme in ("http", "https"), play.told()
            assert urlsplit(play.outcome.url).netloc

    def test_a_card_is_described_and_never_shown(self) -> None:
        play = self.play("described")
        assert play.error is None, play.told()
        card = play.outcome
        assert isinstance(card, sdk.VaultCard)
        assert card.brand == card.brand.lower() != ""
        assert len(card.last4) == 4
        assert card.last4.isdigit()
        assert 1 <= card.exp_month <= 12
        assert 2000 <= card.exp_year <= 2100
        assert card.fingerprint
        assert CARD["number"] not in repr(card)
        assert card.funding in ("credit", "debit", "prepaid", "unknown")
        assert card.issuer_country is None or (len(card.issuer_country) == 2 and card.issuer_country.isupper())

    def test_an_unknown_token_is_told_from_an_unreachable_vault(self) -> None:
        play = self.play("unknown", verb="describe")
        assert isinstance(play.error, sdk.VaultError), play.told()
        assert not isinstance(play.error, sdk.VaultUnavailable), play.told()

    def test_deleting_is_final_and_deleting_again_is_no_error(self) -> None:
        for name in ("deleted", "deleted_unknown"):
            play = self.play(name, verb="delete")
            assert play.error is None, f"{name}: {play.told()}"
            assert any(
                one.method == "DELETE" or self.token in one.target or self.token in one.body.decode()
                for one in play.sent
            )

    def test_a_check_of_the_connection_believes_no_refusal(self) -> None:
        for fault in ("", "wrong_credentials", "forbidden", "html_200") if self._checks() else ():
            play = self.play("connected", fault=fault)
            kind = sdk.VaultUnavailable if fault else type(None)
            assert isinstance(play.error, kind), f"{fault}\n{play.told()}"

    def test_requests_are_as_the_vault_describes_them(self, scenario: str) -> None:
        if self.description is None:
            return
        play = self.play(scenario)
        errors = []
        for one in play.sent:
            if one.answered is not None and not one.answered.described:
                continue
            errors += self.description.request_errors(one.method, one.target, one.headers, one.body)
            if one.answered is not None:
                answer = one.answered
                errors += self.description.response_errors(one.method, one.target, answer.status, answer.content())
        assert not errors, "\n".join(errors)

    def test_a_token_cannot_leave_its_place(self, verb: str) -> None:
        """A token comes from a client: it must not become another path or a query."""
        play = self.play(next(name for name, one in _VERBS.items() if one == verb), token=_HOSTILE)
        for one in play.sent:
            assert "/../" not in one.target, one.target
            assert "key=1" not in urlsplit(one.target).query, one.target

    def test_a_fault_says_nothing_of_the_token(self, scenario: str, fault: str) -> None:
        if self._verb(scenario) == "create_session" and fault == "empty_200":
            return
        for at in range(len(self.scenarios[scenario].exchanges)):
            play = self.play(scenario, fault=fault, at=at)
            told = f"{FAULTS[fault]}\n{play.told()}"
            if self._verb(scenario) in ("describe", "check_connection"):
                assert isinstance(play.error, sdk.VaultUnavailable | TimeoutError), told
            elif self._verb(scenario) == "delete" and fault in _DONE_ANYWAY:
                assert play.error is None or isinstance(play.error, sdk.VaultError), told
            else:
                assert isinstance(play.error, sdk.VaultError | TimeoutError), told

    def test_a_vault_that_is_not_there_is_unavailable(self, verb: str) -> None:
        name = next(name for name, one in _VERBS.items() if one == verb)
        play = self.play(name, url="http://127.0.0.1:1")
        assert isinstance(play.error, sdk.VaultUnavailable), play.told()

    def test_cancellation_passes_through(self, verb: str) -> None:
        name = next(name for name, one in _VERBS.items() if one == verb)
        play = self.play(name, fault="hang", cancel=True)
        assert isinstance(play.error, asyncio.CancelledError), play.told()

    def test_placeholders_are_texts_of_their_own(self) -> None:
        provider = self._made()
        words = {field: provider.placeholder(self.token, field) for field in FIELDS}
        assert len(set(words.values())) == len(FIELDS), words
        assert words == {field: provider.placeholder(self.token, field) for field in FIELDS}
        for word in words.values():
            assert json.dumps(word) == f'"{word}"', (
                f"{word} changes when it is written as JSON, and the vault misses it"
            )
        others = {provider.placeholder(self.other_token, field) for field in FIELDS}
        assert not others & set(words.values()), "another token's placeholders are the same"

    def test_a_proxied_request_is_the_same_request(self, body: bytes, kind: str) -> None:
        request = self._psp_request(body, kind)
        before = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        provider = self._made()
        proxied = provider.proxy(request, self.token)
        assert proxied.method == request.method
        assert run(_whole(proxied)) == body
        lost = {name for name, value in before.items() if value not in proxied.headers.get_list(name)}
        assert not lost, f"headers that do not reach the PSP: {', '.join(sorted(lost))}"
        assert self.target(proxied) == _TARGET
        assert proxied.extensions.get("timeout") == request.extensions.get("timeout"), "the time budget is lost"
        if str(proxied.url) == _TARGET:
            assert hasattr(provider, "tunnel"), (
                "the request is not addressed to the vault, and there is no tunnel to it"
            )

    def test_the_vaults_own_errors_are_told_from_the_psps(self) -> None:
        provider = self._made()
        for exchange, kind in self.own_errors:
            with pytest.raises(kind) as caught:
                provider.check(self._response(exchange))
            self._assert_silent(f"{caught.value}")
        for exchange in self.psp_answers:
            provider.check(self._response(exchange))

    def test_a_faulty_vault_never_says_that_nothing_was_sent(self) -> None:
        """A bare 5xx may be the PSP's own or come from before the vault: it must not pass as ``PspUnavailable``."""
        provider = self._made()
        for status in (500, 502, 503, 504):
            with contextlib.suppress(sdk.OutcomeUnknown):
                provider.check(self._response(Exchange(status)))

    def test_nothing_secret_gets_out(self, scenario: str) -> None:
        for fault in ("", *FAULTS):
            if fault in _NOT_MET | {"hang", "slow_drip"}:
                continue
            play = self.play(scenario, fault=fault)
            for text in [*play.lines, repr(play.provider), repr(play.outcome)]:
                self._assert_silent(text)
            error = play.error
            while error is not None:
                self._assert_silent(f"{error} {error!r}")
                error = error.__cause__ or error.__context__

    # How they are run.

    def play(self, scenario: str, **how: Any) -> VaultPlay:
        """Run a scenario; see ``_play``."""
        return run(self._play(scenario, **how))

    async def _play(
        self,
        scenario: str,
        *,
        verb: str = "",
        token: str = "",
        fault: str = "",
        at: int = 0,
        url: str = "",
        cancel: bool = False,
    ) -> VaultPlay:
        prelude = [dataclasses.replace(one, prepares=True, repeats=True) for one in self.prelude]
        stuck = asyncio.Event()
        loop = asyncio.get_running_loop()
        with ScriptedServer(fault=fault, at=at + len(prelude)) as server:
            server.on_stuck = lambda: loop.call_soon_threadsafe(stuck.set)
            address = url or server.url
            answers = [self._filled(one, address) for one in (*prelude, *self.scenarios[scenario].exchanges)]
            server.load(answers)
            play = VaultPlay()
            with logged(play.lines):
                silence = stuck if fault == "hang" and not cancel else None
                async with httpx.AsyncClient(transport=Patient(stuck=silence), timeout=20, trust_env=False) as http:
                    play.provider = self._made(address, http)
                    call = self._call(play.provider, verb or self._verb(scenario), token or self.token)
                    try:
                        play.outcome = await awaited(call, stuck, impatient=cancel or fault == "slow_drip")
                    except asyncio.CancelledError as error:
                        play.error = error if cancel else TimeoutError()
                    except Exception as error:  # noqa: BLE001  (whatever it is, it is judged)
                        play.error = error
            play.sent = server.requests
        return play

    def _verb(self, scenario: str) -> str:
        usual = {
            "session": "create_session",
            "deleted": "delete",
            "deleted_unknown": "delete",
            "connected": "check_connection",
        }
        return self.scenarios[scenario].verb or usual.get(scenario, "describe")

    def _call(self, provider: Any, verb: str, token: str) -> Awaitable[Any]:
        if verb == "create_session":
            return provider.create_session("https://shop.example/return?card=1")  # type: ignore[no-any-return]
        if verb == "check_connection":
            return provider.check_connection()  # type: ignore[no-any-return]
        return getattr(provider, verb)(token)  # type: ignore[no-any-return]

    def _checks(self) -> bool:
        return hasattr(self.provider, "check_connection")

    def _made(self, url: str = "http://127.0.0.1:9", http: httpx.AsyncClient | None = None) -> Any:
        settings = msgspec.convert(dict(self.config(url)), self.provider.config_type)
        known: dict[str, Any] = {"http": http or httpx.AsyncClient(trust_env=False, verify=False), "now": lambda: NOW}  # noqa: S501  (unused)
        taken = {one.name for one in msgspec.structs.fields(sdk.VaultContext)}
        return self.provider(settings, sdk.VaultContext(**{name: one for name, one in known.items() if name in taken}))

    def _filled(self, exchange: Exchange, url: str) -> Exchange:
        def fill(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {fill(name): fill(one) for name, one in value.items()}
            if isinstance(value, list | tuple):
                return [fill(one) for one in value]
            return value.replace("<token>", self.token).replace("<url>", url) if isinstance(value, str) else value

        return dataclasses.replace(
            exchange,
            body=exchange.body if isinstance(exchange.body, bytes) else fill(exchange.body),
            headers=fill(exchange.headers),
            path=fill(exchange.path).replace(self.token, quote(self.token, safe="")),
        )

    def _psp_request(self, body: bytes, kind: str) -> httpx.Request:
        return httpx.Request(
            "POST",
            _TARGET,
            content=body,
            headers={
                "Authorization": "Bearer sk_test_psp",
                "Idempotency-Key": "key-1",
                "Content-Type": kind,
                "X-Psp-Version": "2026-01-01",
                "Accept-Encoding": "gzip",
            },
            extensions={"timeout": {"read": 5}, "vault_token": self.token},
        )

    def _response(self, exchange: Exchange) -> httpx.Response:
        headers = {"content-type": "application/json"} | dict(exchange.headers)
        request = httpx.Request("POST", _TARGET)
        return httpx.Response(exchange.status, content=exchange.content(), headers=headers, request=request)

    def _secrets(self) -> list[str]:
        config = self.config("http://127.0.0.1:9")
        found = []
        for field in msgspec.inspect.type_info(self.provider.config_type).fields:  # type: ignore[attr-defined]
            kind = field.type
            if (
                isinstance(kind, msgspec.inspect.Metadata)
                and (kind.extra or {}).get("secret")
                and config.get(field.name)
            ):
                found.append(str(config[field.name]))
        return found

    def _assert_silent(self, text: str) -> None:
        shown = [word for word in [*self._secrets(), CARD["number"]] if word in text]
        assert not shown, f"a secret is shown: {text[:60]}…"

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The tests' parameters, from what the class declares."""
        placeholders = {field: self._made().placeholder(self.token, field) for field in FIELDS}
        values: dict[str, Sequence[Any]] = {
            "scenario": list(self.scenarios),
            "verb": sorted(
                set(_VERBS.values()) - self.silent - ({"check_connection"} if not self._checks() else set())
            ),
            "fault": [one for one in FAULTS if one not in _NOT_MET],
        }
        for name, ones in values.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, ones)
        if "kind" in metafunc.fixturenames:
            bodies = [
                (json.dumps({"card": placeholders, "name": "Zoë €"}).encode(), "application/json"),
                (quote(placeholders["number"]).encode(), "application/x-www-form-urlencoded"),
                (b"\x00\xff" + placeholders["number"].encode(), "application/octet-stream"),
            ]
            metafunc.parametrize(("body", "kind"), bodies, ids=["json", "form", "bytes"])


_NOT_MET = frozenset({"empty_object", "not_a_number", "duplicate_keys", "huge_body", "endless_chunks", "gzip_bomb"})
"""Faults that the core's client keeps from a provider, or that decide nothing about money."""
_DONE_ANYWAY = frozenset({"html_200", "empty_200", "truncated_json", "json_list", "json_null", "not_utf8"})
"""Deletes that answered 200, whatever they said."""


async def _whole(request: httpx.Request) -> bytes:
    return b"".join([chunk async for chunk in request.stream])  # type: ignore[union-attr]
