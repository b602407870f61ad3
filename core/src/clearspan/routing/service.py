"""Which PSP account takes a charge, and why. Today: the one that is asked for, else the first by priority that can do it
and whose calls do not fail; and after a decline that another account may not share, the next one (``may_fail_over``).

Rules, splits and success rates build on the same call; whatever decides, the reason is stored with the operation.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import msgspec

from clearspan.platform import ids
from clearspan.platform.problems import DomainError
from clearspan.sdk import DECLINES, Capability, DeclineClass, PspFacts, SourceKind


class NoRoute(DomainError):
    """No enabled PSP account can take this charge."""

    code = "no_psp_account"
    status = 422
    title = "No PSP account can take this payment"
    advice = "Create or enable a PSP account (POST /v1/psp-accounts) that supports the currency and the capture method."


class Candidate(msgspec.Struct, frozen=True):
    """An enabled account.

    Attributes:
        account_id, name, psp: of the account.
        priority: lower is tried first.
        facts: what its PSP can do.
        available: whether a charge would go out; not when too many of the latest ones failed.
    """

    account_id: UUID
    name: str
    psp: str
    priority: int
    facts: PspFacts
    available: bool = True


class Choice(msgspec.Struct, frozen=True):
    """The account, with the reason in words that can be shown."""

    candidate: Candidate
    reason: dict[str, str]


def choose(
    candidates: list[Candidate],
    *,
    currency: str,
    capture_method: str,
    wanted: str | None,
    verifies: bool = False,
    by_merchant: bool = False,
    source: SourceKind | None = SourceKind.CARD,
    method: str | None = None,
    tried: Collection[UUID] = (),
) -> Choice:
    """Pick one: the first that fits and is available, else the first that fits.

    Args:
        candidates: the tenant's enabled accounts of one mode.
        currency: ISO 4217.
        capture_method: ``automatic`` or ``manual``.
        wanted: an account's name or public id that the client asks for, or ``None``.
        verifies: the charge is an authorisation of nothing.
        by_merchant: the customer is not present.
        source: what it is paid with; ``None``: not known yet, any will do.
        method: with a redirect, the PSP's word for what the payer wants.
        tried: accounts that had their turn.

    Raises:
        NoRoute: none fits; ``rejected`` says why for each.
    """
    needed = [Capability.AUTHORIZE if capture_method == "manual" else Capability.PURCHASE]
    needed += [Capability.VERIFY] if verifies else []
    needed += [Capability.MERCHANT_INITIATED] if by_merchant else []
    rejected: list[dict[str, str]] = []
    fitting: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda one: (one.priority, one.name)):
        if wanted is not None and wanted not in (candidate.name, ids.encode("acct", candidate.account_id)):
            rejected.append({"account": candidate.name, "because": "another account was asked for"})
        elif candidate.account_id in tried:
            rejected.append({"account": candidate.name, "because": "it was tried"})
        elif source is not None and source not in candidate.facts.sources:
            takes = ", ".join(sorted(candidate.facts.sources))
            rejected.append(
                {"account": candidate.name, "because": f"{candidate.psp} takes no {source.value}, only: {takes}"}
            )
        elif method is not None and method not in candidate.facts.methods:
            known = ", ".join(sorted(candidate.facts.methods)) or "none by name"
            rejected.append(
                {"account": candidate.name, "because": f"{candidate.psp} has no method {method}, only: {known}"}
            )
        elif candidate.facts.currencies and currency not in candidate.facts.currencies:
            rejected.append({"account": candidate.name, "because": f"{candidate.psp} does not take {currency}"})
        elif missing := [one.value for one in needed if one not in candidate.facts.capabilities]:
            rejected.append({"account": candidate.name, "because": f"{candidate.psp} cannot {missing[0]}"})
        else:
            fitting.append(candidate)
    if not fitting:
        raise NoRoute(rejected=rejected)
    chosen = next((one for one in fitting if one.available), fitting[0])
    reason = {
        "rule": "failover" if tried else "asked_for" if wanted is not None else "priority",
        "account": chosen.name,
        "priority": str(chosen.priority),
    }
    passed_over = [one.name for one in fitting[: fitting.index(chosen)]]
    if passed_over:
        reason["passed_over"] = f"{', '.join(passed_over)}: circuit open"
    return Choice(chosen, reason)


_ANOTHER_MAY_ACCEPT = frozenset({DeclineClass.TECHNICAL, DeclineClass.GENERIC, DeclineClass.CONFIGURATION})
_NEVER = frozenset({"duplicate", "unmapped"})


def may_fail_over(observed: str, code: str | None) -> bool:
    """Whether a charge that ended so may be made at another account: nothing was sent, or it was declined for a reason that lies
    between the PSP and the issuer. Never after an unknown outcome: the money may be on its way. What the card or its holder is
    the reason for would be the same everywhere, and a second refusal harms the merchant's standing with the schemes."""
    if observed == "not_sent":
        return True
    return (
        observed == "declined"
        and code in DECLINES
        and code not in _NEVER
        and DECLINES[code].kind in _ANOTHER_MAY_ACCEPT
    )
