"""A moment the caller names reaches the database in UTC, or the caller is told why not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import httpx
import pytest

from clearspan.platform.moments import in_utc
from clearspan.platform.problems import InvalidRequest

FAR_EAST = timezone(timedelta(hours=17, minutes=17))


def test_an_offset_no_database_takes_becomes_utc() -> None:
    moment = in_utc("before", datetime(149, 12, 12, 1, 9, 19, tzinfo=FAR_EAST))
    assert moment == datetime(149, 12, 11, 7, 52, 19, tzinfo=UTC)
    assert moment.utcoffset() == timedelta(0)
    assert in_utc("before", None) is None


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None), "before needs a time zone"),
        (datetime(1, 1, 1, tzinfo=FAR_EAST), "before is no moment between the years 1 and 9999"),
        (
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
            "before is no moment between the years 1 and 9999",
        ),
    ],
)
def test_what_cannot_be_utc_is_refused_by_name(moment: datetime, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        in_utc("before", moment)
    assert [error["path"] for error in refused.value.fields["errors"]] == ["before"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/payments?created_before=",
        "/v1/customers?created_before=",
        "/v1/audit?created_before=",
        "/v1/ledger/entries?created_before=",
        "/v1/ledger/balances?before=",
    ],
)
async def test_lists_take_every_offset(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path + "0149-12-12T01:09:19%2B17:17")).status_code == 200
    refused = await client.get(path + "9999-12-31T23:59:59-01:00")
    assert refused.status_code == 422
    assert "9999" in refused.json()["detail"]
