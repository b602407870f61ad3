"""What is kept of a message holds no card data, whatever shape the message has, and is read back as it was."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs

import msgspec
import pytest
from tests.core.psps.conftest import event

from clearspan.platform.pan import find_pan
from clearspan.psps.messages import EVENTS_MAX, WITHHELD, kept, masked_body, read_news, unreadable
from clearspan.sdk import (
    ActionRequired,
    Approved,
    Declined,
    DisputeNews,
    DisputeStatus,
    Hint,
    Money,
    News,
    OperationNews,
    Outcome,
    OutcomeUnknown,
    Pending,
    RedirectAction,
)

PAN = "4000056655665556"
FORM = "application/x-www-form-urlencoded; charset=utf-8"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
OUTCOMES: list[Outcome] = [
    Approved(
        psp_ref="ch_1", amount=Money(1099, "EUR"), fee=Money(30, "EUR"), network_transaction_id="n", raw={"a": [1]}
    ),
    Declined(code="expired_card", raw_code="54", advice="1", network_code="54", message="no", psp_ref="ch_1"),
    ActionRequired(psp_ref="ch_1", action=RedirectAction("https://psp.test/?a=b"), expires_at=NOW),
    Pending(psp_ref="ch_1"),
]
NEWS: list[News] = [
    *(
        OperationNews(
            kind="charge", outcome=outcome, reference="op_1", psp_ref="ch_1", charge_ref="ch_0", amount=Money(1, "JPY"),
            capture=False, at=NOW, metadata={"clearspan_payment": "pay_01h455vb4pex5vsknk084sn02q"},
        )
        for outcome in OUTCOMES
    ),
    DisputeNews(
        dispute_ref="dp_1", status=DisputeStatus.NEEDS_RESPONSE, amount=Money(500, "EUR"), charge_ref="ch_1",
        reference="op_1", reason="fraud", network_code="10.4", evidence_due_at=NOW, raw={"a": "b"},
    ),
    Hint(kind="refund", reference="op_1", psp_ref="re_1"),
]  # fmt: skip


@pytest.mark.parametrize("news", NEWS, ids=lambda news: type(getattr(news, "outcome", news)).__name__)
def test_news_is_read_back_as_it_was(news: News) -> None:
    (one,) = kept([event(news, event_id="evt-1")], b"{}", signed=True)
    assert one.news is not None
    stored = msgspec.json.encode(one)
    assert read_news(msgspec.json.encode(msgspec.json.decode(stored)["news"])) == news


@pytest.mark.parametrize("news", NEWS, ids=lambda news: type(getattr(news, "outcome", news)).__name__)
def test_of_an_unsigned_message_only_a_hint_is_left(news: News) -> None:
    (one,) = kept([event(news, event_id="evt-1")], b"{}", signed=False)
    assert one.news is not None
    assert isinstance(read_news(one.news), Hint)


def test_words_and_raw_answers_are_masked_and_references_are_not() -> None:
    outcome = Declined(code="unmapped", message=f"card {PAN}", psp_ref=PAN, raw={"number": PAN, "cvc": "123"})
    news = OperationNews(kind="charge", outcome=outcome, psp_ref=PAN, metadata={"note": PAN})
    (one,) = kept([event(news, event_id=PAN, type=PAN)], b"{}", signed=True)
    assert one.news is not None
    found = read_news(one.news)
    assert isinstance(found, OperationNews)
    assert isinstance(found.outcome, Declined)
    masked = "400005******5556"
    assert (found.outcome.message, one.type, found.metadata) == (f"card {masked}", masked, {"note": masked})
    assert found.outcome.raw == {"number": masked, "cvc": "***"}
    assert (found.psp_ref, found.outcome.psp_ref) == (PAN, PAN), "a PSP may count in 16 digits"
    assert PAN not in one.event_key


def test_an_event_keeps_its_key_when_it_is_sent_again_and_no_two_share_one() -> None:
    events = [event(None, event_id=key) for key in ("a", "", "", "a", "x" * 300, "nul\0", "a#2")]
    first, second = (kept(events, b"body", signed=True) for _ in range(2))
    assert [one.event_key for one in first] == [one.event_key for one in second]
    assert len({one.event_key for one in first}) == len(events)
    assert all(len(one.event_key) <= 210 for one in first)
    assert kept([event(None, event_id="")], b"other", signed=True)[0].event_key != first[1].event_key


def test_too_many_events_are_no_message() -> None:
    with pytest.raises(OutcomeUnknown):
        kept([event(None)] * (EVENTS_MAX + 1), b"{}", signed=True)


def test_what_cannot_be_read_has_another_key_than_what_can() -> None:
    """So that a newer plugin's reading of the same message is news."""
    lost = unreadable(b"body", OutcomeUnknown(f"what is {PAN}"))
    assert lost.event_key != kept([event(None, event_id="")], b"body", signed=True)[0].event_key
    assert lost.note == "what is 400005******5556"


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (json.dumps({"card": {"number": PAN, "cvc": "123"}}).encode(), "application/json"),
        (f'{{"number": {PAN}}}'.encode(), "application/json"),
        (f'{{"a": 1, "number": {PAN}'.encode(), "application/json"),
        (f"number={PAN[:4]}+{PAN[4:8]}+{PAN[8:12]}+{PAN[12:]}&cvc=123&keep=%C3%A9".encode(), FORM),
        (f"<card><number>{PAN}</number></card>".encode(), "text/xml"),
        (json.dumps({"note": PAN}).encode("utf-16"), "application/json"),
        (b"\xff\xfe card " + PAN.encode() + b" \xff", "application/octet-stream"),
        (b"[" * 100_000 + PAN.encode(), "application/json"),
    ],
    ids=["JSON", "number", "broken JSON", "form", "XML", "UTF-16", "bytes", "deep"],
)
def test_no_body_keeps_card_data(body: bytes, content: str) -> None:
    assert find_pan(body, content="form" if content == FORM else "json") is not None
    masked = masked_body(body, content)
    assert find_pan(masked) is None
    assert find_pan(masked, content="form") is None
    assert PAN.encode() not in masked
    if content == FORM:
        assert parse_qs(masked.decode())["keep"] == ["\u00e9"]
    if content == "application/json" and body.startswith(b'{"card'):
        assert json.loads(masked) == {"card": {"number": "400005******5556", "cvc": "***"}}


def test_what_cannot_be_masked_is_withheld() -> None:
    body = b'"cvv": "123" and no JSON'
    assert find_pan(body) is not None
    assert masked_body(body, "text/plain") == WITHHELD


@pytest.mark.parametrize("body", [b"", b"{}", b'{"a": 1.10}', b"\xff\x00", b"id=tr_1"])
def test_a_body_without_card_data_stays_as_it_is(body: bytes) -> None:
    assert masked_body(body, "application/json") == body
