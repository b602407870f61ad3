"""The published contract: everything a plugin may import, and nothing else of Clearspan.

A plugin is a distribution with an entry point in group ``clearspan``. It declares facts, builds requests and reads answers;
the core owns timeouts, retries, keys, tracing and redaction. This package imports msgspec, httpx and pluggy only.
"""

from clearspan.sdk.declines import DECLINES, Decline, DeclineClass
from clearspan.sdk.errors import (
    OutcomeUnknown,
    PspError,
    PspMisconfigured,
    PspUnavailable,
    VaultError,
    VaultUnavailable,
)
from clearspan.sdk.hookspecs import Companion, Hooks, RouteSet, hookimpl, hookspec
from clearspan.sdk.http import send
from clearspan.sdk.money import CURRENCIES, Money, UnknownCurrency, exponent, format_amount
from clearspan.sdk.psp import (
    ActionRequired,
    Approved,
    CancelRequest,
    Capability,
    CaptureRequest,
    CardSource,
    ChargeRequest,
    ContinueRequest,
    Declined,
    Idempotency,
    Lookup,
    NotFound,
    Outcome,
    Pending,
    PspAdapter,
    PspContext,
    PspFacts,
    RedirectAction,
    RefundRequest,
    RetrieveRequest,
    WebhookFacts,
)
from clearspan.sdk.vault import CaptureSession, VaultCard, VaultContext, VaultProvider

API_VERSION = "1.0"
"""The version of this contract, semantic: a plugin that needs a newer one says so in its requirements."""

__all__ = [
    "API_VERSION",
    "CURRENCIES",
    "DECLINES",
    "ActionRequired",
    "Approved",
    "CancelRequest",
    "Capability",
    "CaptureRequest",
    "CaptureSession",
    "CardSource",
    "ChargeRequest",
    "Companion",
    "ContinueRequest",
    "Decline",
    "DeclineClass",
    "Declined",
    "Hooks",
    "Idempotency",
    "Lookup",
    "Money",
    "NotFound",
    "Outcome",
    "OutcomeUnknown",
    "Pending",
    "PspAdapter",
    "PspContext",
    "PspError",
    "PspFacts",
    "PspMisconfigured",
    "PspUnavailable",
    "RedirectAction",
    "RefundRequest",
    "RetrieveRequest",
    "RouteSet",
    "UnknownCurrency",
    "VaultCard",
    "VaultContext",
    "VaultError",
    "VaultProvider",
    "VaultUnavailable",
    "WebhookFacts",
    "exponent",
    "format_amount",
    "hookimpl",
    "hookspec",
    "send",
]
