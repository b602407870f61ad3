"""The hooks (pluggy). Each is called once, at start, and only hands over typed objects; money never goes through a hook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pluggy

from clearspan.sdk.psp import PspAdapter
from clearspan.sdk.vault import VaultProvider

hookspec = pluggy.HookspecMarker("clearspan")
hookimpl = pluggy.HookimplMarker("clearspan")


class RouteSet(msgspec.Struct, frozen=True):
    """Litestar route handlers of a plugin; each declares its scope in ``opt={"scope": ...}`` or the start is refused.

    Attributes:
        path: where they are mounted, e.g. ``/admin``.
        handlers: Litestar route handlers or controllers.
    """

    path: str
    handlers: Sequence[Any]


class Companion(msgspec.Struct, frozen=True):
    """A process that ``clearspan up`` starts beside the gateway (the sandbox PSP, a local vault).

    Attributes:
        name: shown in the logs.
        argv: arguments after the Python interpreter, e.g. ``("-m", "clearspan_psp_sandbox.simulator", "--port", "8081")``.
        ready_url: answers 200 once it is up.
    """

    name: str
    argv: Sequence[str]
    ready_url: str


class Hooks:
    """What a plugin's module may implement; decorate with ``hookimpl``. The name of each hook starts with ``clearspan_``."""

    @hookspec
    def clearspan_psps(self) -> Sequence[type[PspAdapter]]:  # type: ignore[empty-body]
        """PSP adapters."""

    @hookspec
    def clearspan_vaults(self) -> Sequence[type[VaultProvider]]:  # type: ignore[empty-body]
        """Vault providers."""

    @hookspec
    def clearspan_routes(self) -> Sequence[RouteSet]:  # type: ignore[empty-body]
        """Route handlers with declared scopes."""

    @hookspec
    def clearspan_companions(self, config: dict[str, Any], data_dir: str) -> Sequence[Companion]:  # type: ignore[empty-body]
        """Processes for ``clearspan up``; ``config`` is the operator's table ``[plugin.<name>]``, all plugins' by name."""
