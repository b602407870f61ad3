"""A PSP and a vault inside the process that answer at once: what is left is our own cost."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import msgspec

from clearspan import sdk
from clearspan.platform.plugins import Plugins


class NullConfig(msgspec.Struct, frozen=True):
    """``hangs_while``: a file; while it exists no call is answered."""

    hangs_while: str = ""


class NullPsp:
    """Approves everything, 0 ms away, or hangs."""

    name: ClassVar[str] = "null"
    config_type: ClassVar[type[msgspec.Struct]] = NullConfig
    facts: ClassVar[sdk.PspFacts] = sdk.PspFacts(
        capabilities=frozenset(sdk.Capability), idempotency=sdk.Idempotency(timedelta(days=1), max_len=64)
    )

    def __init__(self, config: Any, context: sdk.PspContext) -> None:
        del context
        self._hangs_while = config.hangs_while

    async def create_intent(self, request: sdk.ChargeRequest) -> sdk.Outcome:
        """Approve."""
        if self._hangs_while and os.path.exists(self._hangs_while):  # noqa: PTH110, ASYNC240  (a microsecond; a Path takes ten)
            await asyncio.sleep(3600)
        raw = {"id": request.operation_id, "status": "approved", "amount": request.amount.amount_minor}
        return sdk.Approved(psp_ref=request.operation_id, amount=request.amount, raw=raw)

    async def continue_intent(self, request: sdk.ContinueRequest) -> sdk.Outcome:
        """Approve."""
        return sdk.Approved(psp_ref=request.psp_ref, amount=request.amount)

    async def capture(self, request: sdk.CaptureRequest) -> sdk.Outcome:
        """Approve."""
        return sdk.Approved(psp_ref=request.operation_id, amount=request.amount)

    async def cancel(self, request: sdk.CancelRequest) -> sdk.Outcome:
        """Approve."""
        return sdk.Approved(psp_ref=request.operation_id, amount=request.amount)

    async def refund(self, request: sdk.RefundRequest) -> sdk.Outcome:
        """Approve."""
        return sdk.Approved(psp_ref=request.operation_id, amount=request.amount)

    async def retrieve(self, request: sdk.RetrieveRequest) -> sdk.Outcome | sdk.NotFound:
        """Nothing is remembered."""
        del request
        return sdk.NotFound()


class NullVault:
    """Knows one card."""

    name: ClassVar[str] = "null"
    config_type: ClassVar[type[msgspec.Struct]] = NullConfig

    def __init__(self, config: Any, context: sdk.VaultContext) -> None:
        del config, context

    async def create_session(self, return_url: str) -> sdk.CaptureSession:
        """There is no page."""
        raise sdk.VaultError(f"the bench has no page for {return_url}")

    async def describe(self, token: str) -> sdk.VaultCard:
        """Always the same card."""
        return sdk.VaultCard(brand="visa", last4="4242", exp_month=12, exp_year=2040, fingerprint=token)

    def placeholder(self, token: str, field: str) -> str:
        """A text."""
        return f"{{{{{token}.{field}}}}}"

    def proxy(self, request: httpx.Request, token: str) -> httpx.Request:
        """As it is."""
        del token
        return request

    def check(self, response: httpx.Response) -> None:
        """Nothing comes through."""

    async def delete(self, token: str) -> None:
        """Nothing is kept."""


def plugins() -> Plugins:
    """Both, as if they had been loaded."""
    loaded = Plugins()
    loaded.psps["null"] = NullPsp
    loaded.plugin_of_psp["null"] = "null"
    loaded.vaults["null"] = NullVault
    loaded.plugin_of_vault["null"] = "null"
    return loaded
