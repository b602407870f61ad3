"""What a PSP pays out is told line by line, asked of its API or read from its report, and nothing is made of what is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import httpx
import pytest
from tests.conftest import Merchant, Urls
from tests.core.payments.conftest import Puppet, PuppetPsp, gateway, with_puppets
from tests.shop import Json, Shop, code

from clearspan.platform.crypto import MasterKey
from clearspan.sdk import Money, OutcomeUnknown, SettlementKind, SettlementLine
from clearspan.settings import Settings


class PayingPsp(PuppetPsp):
    """A puppet that tells its settlements."""

    name: ClassVar[str] = "paying"

    async def fetch_settlements(self, since: datetime, until: datetime) -> Sequence[SettlementLine]:
        """What the puppet says."""
        found: Sequence[SettlementLine] = await self._puppet.act("fetch_settlements", (since, until))
        return found

    def read_settlements(self, report: bytes) -> Sequence[SettlementLine]:
        """A line of gross and fee each."""
        lines = []
        for number, row in enumerate(report.decode().splitlines(), 1):
            gross, _, fee = row.partition(",")
            lines.append(line(f"l{number}", int(gross), int(fee)))
        return lines


def line(
    name: str, gross: int, fee: int = 0, kind: SettlementKind = SettlementKind.CHARGE, **more: Any
) -> SettlementLine:
    euro = lambda minor: Money(minor, "EUR")  # noqa: E731
    return SettlementLine(kind=kind, line_ref=name, gross=euro(gross), fee=euro(fee), net=euro(gross + fee), **more)


@pytest.fixture(scope="module")
async def paying(
    urls: Urls, settings: Settings, master: MasterKey
) -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    """A gateway that knows ``PayingPsp``."""
    loaded = with_puppets(settings)
    loaded.psps["paying"] = PayingPsp
    loaded.plugin_of_psp["paying"] = "puppet"
    async with gateway(urls.app, settings, master, loaded) as clients:
        yield clients


@pytest.fixture
async def account(paying: Callable[[str], httpx.AsyncClient], merchant: Merchant, puppet: Puppet) -> tuple[Shop, Json]:
    """A merchant with an account at the puppet."""
    shop = Shop(paying(merchant.key), "http://127.0.0.1:1")
    return shop, await shop.add_account("main", 1, psp="paying", config={"name": puppet.name})


async def test_lines_and_their_sums_by_currency_without_payouts(account: tuple[Shop, Json], puppet: Puppet) -> None:
    shop, made = account
    told = [
        line(
            "l1", 1099, -46, psp_ref="ch_1", reference="op_1", batch="po_1", booked_at=datetime(2026, 5, 1, tzinfo=UTC)
        ),
        line("l2", -300, 0, SettlementKind.REFUND),
        line("l3", -753, 0, SettlementKind.PAYOUT),
    ]
    puppet.does = lambda *_: told
    span = {"since": "2026-05-01T00:00:00Z", "until": "2026-05-31T00:00:00+02:00"}
    answer = await shop.http.get(f"/v1/psp-accounts/{made['id']}/settlements", params=span)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [one["kind"] for one in found["lines"]] == ["charge", "refund", "payout"]
    first = found["lines"][0]
    assert (first["operation"], first["psp_reference"], first["batch"], first["net_minor"]) == (
        "op_1",
        "ch_1",
        "po_1",
        1053,
    )
    assert found["totals"] == [{"currency": "EUR", "lines": 2, "gross_minor": 799, "fee_minor": -46, "net_minor": 753}]
    assert puppet.calls[0][1] == (datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 30, 22, tzinfo=UTC))
    assert (await shop.http.get(f"/v1/psp-accounts/{made['id']}/settlements")).status_code == 200


async def test_a_report_is_read_and_one_that_is_none_is_refused_in_words(account: tuple[Shop, Json]) -> None:
    shop, made = account
    path = f"/v1/psp-accounts/{made['id']}/settlements/read"
    answer = await shop.http.post(path, content=b"1000,-30\n-200,0\n", headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["totals"][0]["net_minor"] == 770
    refused = await shop.http.post(path, content=b"date;amount\n", headers={"Content-Type": "text/csv"})
    assert code(refused) == (422, "settlement_unreadable")
    assert "as documented" in refused.json()["detail"]


async def test_a_psp_that_does_not_answer_and_one_that_has_none(account: tuple[Shop, Json], puppet: Puppet) -> None:
    def lost(*_: Any) -> Any:
        raise OutcomeUnknown("reset")

    shop, made = account
    puppet.does = lost
    answer = await shop.http.get(f"/v1/psp-accounts/{made['id']}/settlements")
    assert code(answer) == (503, "settlements_unavailable")
    none = await shop.add_account("other", 2, psp="puppet", config={"name": puppet.name})
    for method, path in (("GET", "settlements"), ("POST", "settlements/read")):
        answer = await shop.http.request(method, f"/v1/psp-accounts/{none['id']}/{path}")
        assert code(answer) == (422, "settlements_not_supported")


@pytest.mark.parametrize(
    "span",
    [
        {"since": "2026-05-02T00:00:00Z", "until": "2026-05-02T00:00:00Z"},
        {"since": "2026-01-01T00:00:00Z", "until": "2026-05-02T00:00:00Z"},
        {"since": "yesterday"},
    ],
)
async def test_a_span_that_makes_no_sense_is_refused(account: tuple[Shop, Json], span: Json, puppet: Puppet) -> None:
    shop, made = account
    answer = await shop.http.get(f"/v1/psp-accounts/{made['id']}/settlements", params=span)
    assert code(answer) == (422, "invalid_request")
    assert puppet.calls == []
