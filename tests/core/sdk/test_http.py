"""What counts as an answer."""

from __future__ import annotations

import httpx
import pytest

from clearspan import sdk


async def sent(status: int, body: bytes) -> sdk.Answer:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    async with httpx.AsyncClient(transport=transport) as http:
        return await sdk.send(http, http.build_request("POST", "https://psp.example/v1"))


@pytest.mark.parametrize("status", [202, 204])
async def test_accepted_and_no_content_may_say_no_more(status: int) -> None:
    answer = await sent(status, b"")
    assert (answer.status, answer.body) == (status, {})


@pytest.mark.parametrize(("status", "body"), [(200, b""), (201, b""), (202, b"<html>"), (202, b"[]")])
async def test_other_answers_are_objects_or_unknown(status: int, body: bytes) -> None:
    with pytest.raises(sdk.OutcomeUnknown):
        await sent(status, body)
