"""Which PSP account takes a charge, and why. Today: the one that is asked for, else the first by priority that can do it
and whose calls do not fail.

Rules, splits, success rates and failover build on the same call; whatever decides, the reason is stored with the operation.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from clearspan.platform import ids
from clearspan.platform.problems import DomainError
from clearspan.sdk import Capability, PspFacts


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
    candidates: list[Candidate], *, currency: str, capture_method: str, wanted: str | None, verifies: bool = False
) -> Choice:
    """Pick one: the first that fits and is available, else the first that fits.

    Args:
        candidates: the tenant's enabled accounts of one mode.
        currency: ISO 4217.
        capture_method: ``automatic`` or ``manual``.
        wanted: an account's name or public id that the client asks for, or ``None``.
        verifies: the charge is an authorisation of nothing.

    Raises:
        NoRoute: none fits; ``rejected`` says why for each.
    """
    needed = [Capability.AUTHORIZE if capture_method == "manual" else Capability.PURCHASE]
    needed += [Capability.VERIFY] if verifies else []
    rejected: list[dict[str, str]] = []
    fitting: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda one: (one.priority, one.name)):
        if wanted is not None and wanted not in (candidate.name, ids.encode("acct", candidate.account_id)):
            rejected.append({"account": candidate.name, "because": "another account was asked for"})
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
        "rule": "asked_for" if wanted is not None else "priority",
        "account": chosen.name,
        "priority": str(chosen.priority),
    }
    passed_over = [one.name for one in fitting[: fitting.index(chosen)]]
    if passed_over:
        reason["passed_over"] = f"{', '.join(passed_over)}: circuit open"
    return Choice(chosen, reason)
