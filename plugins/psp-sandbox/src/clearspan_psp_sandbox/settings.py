"""The settings of an account at the sandbox PSP, and the process that ``clearspan up`` starts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from clearspan.sdk import Companion, OptionalSecret, Secret, hookimpl


class SandboxPspConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings.

    Attributes:
        url: where this gateway reaches the simulator.
        api_key: ``sk_sandbox_`` and the account: ``alpha``, ``beta`` or a name of your own.
        public_url: where payers' browsers reach the simulator; empty: ``url``.
        webhook_secret: what signs the account's messages; empty: ``whsec_sandbox_`` and the account.
    """

    url: str = "http://127.0.0.1:8081"
    api_key: Secret = "sk_sandbox_alpha"
    public_url: str = ""
    webhook_secret: OptionalSecret = ""

    @property
    def account(self) -> str:
        """The account's name at the simulator."""
        return self.api_key.removeprefix("sk_sandbox_")


requires_sdk = ">=1.3,<2"
TEST_ACCOUNTS = {name: {"api_key": f"sk_sandbox_{name}"} for name in ("alpha", "beta")}
"""What a new tenant's test mode gets: account name -> settings."""


@hookimpl
def clearspan_companions(config: dict[str, Any], data_dir: str) -> Sequence[Companion]:
    """The simulator's process, unless the settings name one on another machine."""
    url = msgspec.convert(config.get("psp-sandbox", {}), SandboxPspConfig).url
    address = urlsplit(url)
    if address.hostname not in ("127.0.0.1", "localhost", "::1"):
        return []
    argv = ["-m", "clearspan_psp_sandbox.simulator", "--host", address.hostname, "--port", str(address.port or 80)]
    argv += ["--data-dir", f"{data_dir}/psp-sandbox"]
    return [Companion(name="psp-sandbox", argv=argv, ready_url=f"{url.rstrip('/')}/health")]
