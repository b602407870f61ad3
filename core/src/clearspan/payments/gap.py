"""After a restore: what the PSPs did in a span of time, compared with what we have, and taken in where we have nothing.

A restored database has lost its last minutes, the PSPs have not. For every account whose adapter can list its
activity, each operation of the span is matched with ours: what agrees is counted, what moved on is told as news, and
what we do not have is taken in, under the operation id and the payment id that were sent with it. So a client that
repeats its request with the same key meets the very payment it made, and no second charge. Operations whose outcome
is open here are looked up at once, whether the PSP can list or not.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from uuid import UUID, uuid5

import msgspec

from clearspan.payments import news as news_of_psps
from clearspan.payments.service import Payments
from clearspan.platform import ids
from clearspan.platform.context import Scope, system
from clearspan.platform.problems import DomainError
from clearspan.psps.service import PspAccounts, Sending
from clearspan.sdk import DisputeNews, Hint, Money, News, PspError

MARGIN = timedelta(minutes=5)
"""Clocks differ: so much earlier and later is asked for."""
MOST = 1_000_000
"""Open operations looked up in one go."""
_SENDING = msgspec.json.Decoder(Sending)


class Found(msgspec.Struct, kw_only=True):
    """What was found about one account.

    Attributes:
        account, psp: its name and its PSP's.
        listed: operations that the PSP names; ``None`` when it cannot list them.
        agreed: as we have them.
        changed: had moved on at the PSP.
        adopted: only the PSP knew them; they are ours now.
        unmatched: the PSP's references that could not be taken in.
        open_: operations whose outcome was open here and that were looked up.
        problem: why the PSP could not be asked, or empty.
    """

    account: str
    psp: str
    listed: int | None = None
    agreed: int = 0
    changed: int = 0
    adopted: int = 0
    unmatched: list[str] = []
    open_: int = 0
    problem: str = ""


async def recover_gap(
    payments: Payments, psps: PspAccounts, scope: Scope, request_id: str, since: datetime, until: datetime
) -> list[Found]:
    """Compare and take in, account by account.

    Args:
        payments, psps: the services.
        scope: one tenant and mode.
        request_id: of this run, for the journal.
        since, until: aware UTC.
    """
    caller = system(scope, "recover", request_id)
    found = []
    for account in await psps.all(scope):
        account_id = ids.decode("acct", account.id)
        one = Found(account=account.name, psp=account.psp)
        found.append(one)
        try:
            one.open_ = int(await payments.ask("operations_awaken", caller, {"psp_account_id": account_id}) or 0)
            sending = await payments.ask("account_sending", caller, {"psp_account_id": account_id})
            assert sending is not None
            psp = await psps.open(scope, _SENDING.decode(sending))
            if not psp.facts.lookup.by_time:
                one.problem = "this PSP cannot list what it did; only what is open here was looked up"
                continue
            async with asyncio.timeout(psp.timeout_s * 4):
                listed = await psp.adapter.activity(since - MARGIN, until + MARGIN)
        except (PspError, TimeoutError) as error:
            one.problem = str(error) or type(error).__name__
            continue
        except DomainError as error:
            one.problem = error.detail
            continue
        one.listed = len(listed)
        for news in listed:
            await _compare(payments, scope, request_id, account_id, news, one)
    await payments.recover(scope, request_id, MOST)
    return found


async def _compare(payments: Payments, scope: Scope, request_id: str, account_id: UUID, news: News, one: Found) -> None:
    caller = system(scope, "recover", request_id)
    said = msgspec.json.encode(news, enc_hook=str, order="deterministic").decode()
    fact_id = uuid5(account_id, f"gap {said}")
    known = None
    if not isinstance(news, DisputeNews):
        known = await news_of_psps.match(payments, caller, account_id, news)
        if known is not None and not isinstance(news, Hint):
            operation = known.operation
            assert operation is not None
            seen = news_of_psps.observed(news, Money(operation.amount_minor, operation.currency)).observed
            # A surplus is a success that came late, a reversed refund one that failed late.
            if seen == operation.state or (seen, operation.state) in (
                ("succeeded", "surplus"),
                ("declined", "reversed"),
            ):
                one.agreed += 1
                return
    try:
        told = await payments.tell(scope, request_id, account_id=account_id, news=news, fact_id=fact_id, adopt=True)
    except DomainError as error:
        one.unmatched.append(f"{_reference(news)}: {error.detail}")
        return
    if told is None:
        if not isinstance(news, (DisputeNews, Hint)) and news_of_psps.came_to_nothing(news):
            one.agreed += 1  # Declined there, unknown here: no money, nothing to take in.
        else:
            one.unmatched.append(_reference(news))
    elif known is None and not isinstance(news, DisputeNews):
        one.adopted += 1
    else:
        one.changed += 1


def _reference(news: News) -> str:
    if isinstance(news, DisputeNews):
        return news.dispute_ref
    if isinstance(news, Hint):
        return news.psp_ref or news.reference or "?"
    return news.psp_ref or news.outcome.psp_ref or news.reference or "?"
