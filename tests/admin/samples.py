"""Every route of the cockpit, and an object for each of their parameters: what the tests that visit all pages go by.

A new page needs nothing here unless its path has a parameter of a new name: then ``SAMPLES`` says what it names.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import asyncpg
import httpx
import msgspec
from tests.conftest import Merchant
from tests.system import test_isolation

from clearspan.access.guard import ANY, PUBLIC
from clearspan.app import Gateway
from clearspan.platform import clock, ids
from clearspan.platform.gate import AsgiApp
from clearspan.settings import Settings

PREFIX: Final = "/admin"
SAMPLES: Final[Mapping[str, str]] = {
    "path": "=no-such-page",
    "psp": "=sandbox",
    "vault": "=sandbox",
    "plugin": "=psp-sandbox",
    "/admin/settings/plugins/{name}": "=psp-sandbox",
    "session_id": "=01a20793-4a68-7737-aae6-9bb1ed754d30",
    "member_id": "operator_id",
    "note_id": "credit_note_id",
    "/admin/dunning/plans/{plan_id}": "dunning_plan_id",
}
"""Parameter of a path to what it names: a parameter of the API's routes, or ``=text``, which means the same in every tenant.

A parameter that is called as in the API (``payment_id``), or as there without ``_id``, needs no line. One that means something
else below one path is given with the path up to it.
"""
NO_SAMPLE: Final[Mapping[str, str]] = {
    "/admin/invoices/{invoice_id}/credit-notes/{note_id}/pdf": "a note of this very invoice; test_invoices.py",
    "/admin/settings/people/invite/{invitation}/withdraw": "an invitation is not in the API; test_settings_people.py",
    "/admin/link/{token}": "a secret that opens once; the tests of signing in",
    "/admin/oidc/start": "leads to a provider; the tests of OpenID Connect",
    "/admin/oidc/callback": "is where a provider leads back to; the tests of OpenID Connect",
    "/admin/work/runs/{run_id}": "a run over many is not in the API; the tests of the queues",
    "/admin/work/runs/{run_id}/cancel": "the same",
}
"""Routes that these tests cannot visit, with the reason and the test that does."""
TEST_MODE_ONLY: Final = frozenset({"clock_id", "clock"})
"""Parameters that name what does not exist in live mode."""
BOTH_MODES: Final = frozenset({"operator_id"})
"""Parameters that name what a tenant has once for both modes."""


class Page(msgspec.Struct, frozen=True, order=True):
    """A method of a path of the cockpit.

    Attributes:
        template: ``/admin/payments/{payment_id}``.
        scope: what a role needs, or ``public`` or ``any``.
        session: whether it is for people who are signed in.
        step_up: whether it asks for a second factor given a moment ago.
        names: the parameters in the path.
    """

    template: str
    method: str
    scope: str
    session: bool
    step_up: bool
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    def allows(self, scopes: frozenset[str]) -> bool:
        """Whether somebody with these scopes may."""
        return self.scope in (ANY, PUBLIC) or self.scope in scopes

    def path(self, objects: Mapping[str, str]) -> str:
        """The address, with the parameters filled in."""
        return self.template.format(**{name: sample(self.meaning(name), objects, str(self)) for name in self.names})

    def meaning(self, name: str) -> str:
        """What a parameter of this path names: see ``SAMPLES``."""
        upto, brace, _ = self.template.partition(f"{{{name}}}")
        return SAMPLES.get(upto + brace, SAMPLES.get(name, name))

    def names_something(self, *, own_tenant: bool, live: bool) -> bool:
        """Whether a parameter names what others must not see: people of the own tenant, or of another one.

        Args:
            own_tenant: they look from the tenant's other mode, where its people are the same.
            live: what is named belongs to live mode.
        """
        meant = {meaning for name in self.names if not (meaning := self.meaning(name)).startswith("=")}
        if own_tenant:
            meant -= BOTH_MODES
        return bool(meant) and not (live and meant & TEST_MODE_ONLY)


def sample(means: str, objects: Mapping[str, str], where: str) -> str:
    """What stands for a parameter."""
    if means.startswith("="):
        return means[1:]
    found = objects.get(means) or objects.get(f"{means}_id")
    assert found is not None, (
        f"{where}: nothing is known that {{{means}}} could name. Say it in SAMPLES of tests/admin/samples.py (and make one in"
        " made_over_the_api and made_in_sql of tests/system/test_isolation.py when the API has none), or in NO_SAMPLE why not."
    )
    return found


def pages_of(application: AsgiApp, *methods: str) -> list[Page]:
    """Every route of the cockpit that answers to these methods and can be visited; static files are none."""
    return sorted(
        Page(
            template=route.path_format,
            method=method,
            scope=handler.opt["scope"],
            session=bool(handler.opt.get("session")),
            step_up=bool(handler.opt.get("step_up")),
            names=tuple(route.path_parameters),
        )
        for route in application._app.routes  # type: ignore[attr-defined]  # the gate's inside
        if (route.path_format + "/").startswith(f"{PREFIX}/") and not route.path_format.startswith(f"{PREFIX}/static/")
        for handler in getattr(route, "route_handlers", [])
        for method in handler.http_methods - {"OPTIONS"}
        if method in methods and route.path_format not in NO_SAMPLE
    )


async def made(
    client: httpx.AsyncClient, settings: Settings, merchant: Merchant, superuser: Any, gateway: Gateway
) -> dict[str, str]:
    """One object of each kind in the merchant's tenant, by the parameter that names it."""
    objects = await test_isolation.made_over_the_api(client, settings, merchant.caller.scope, superuser)
    await test_isolation.sealed(gateway)
    return objects | await _people(gateway, merchant) | await _approval(merchant, superuser, objects["payment_id"])


async def made_live(
    merchant: Merchant, superuser: asyncpg.Connection[asyncpg.Record], gateway: Gateway
) -> dict[str, str]:
    """The same for live mode, without a PSP."""
    objects = await test_isolation.made_in_sql(merchant.caller.scope, superuser)
    await test_isolation.sealed(gateway)
    return objects | await _people(gateway, merchant) | await _approval(merchant, superuser, objects["payment_id"])


async def _approval(merchant: Merchant, superuser: Any, payment_id: str) -> dict[str, str]:
    """A refund that waits for a second person; there are none in the API."""
    scope, approval, now = merchant.caller.scope, clock.new_uuid(), clock.now()
    payment = ids.decode("pay", payment_id)
    await superuser.execute(
        "INSERT INTO approvals (tenant_id, live, approval_id, kind, subject_id, request, amount_minor, currency, reason,"
        " asked_by, asked_at, expires_at) VALUES ($1, $2, $3, 'refund', $4, '{}', 1, 'EUR', 'promised', 'opr_1', $5, $6)"
        " ON CONFLICT DO NOTHING",
        *(scope.tenant_id, scope.live, approval, payment, now, now + timedelta(days=7)),
    )
    found = "SELECT approval_id FROM approvals WHERE tenant_id = $1 AND live = $2 AND subject_id = $3"
    approval = await superuser.fetchval(found, scope.tenant_id, scope.live, payment)
    return {"approval_id": ids.encode("apv", approval)}


async def _people(gateway: Gateway, merchant: Merchant) -> dict[str, str]:
    operator = await gateway.operators.create(f"member-{clock.random_bytes(4).hex()}@example.com", "Grace Hopper")
    await gateway.operators.join(merchant.caller, operator.operator_id, "support")
    return {"operator_id": operator.public_id}


def new_key() -> str:
    """What a form carries to act once."""
    return ids.letters(clock.random_bytes(16))


def glance(app: AsgiApp) -> AsgiApp:
    """The application, but a stream that does not end is left as soon as it has begun."""

    async def glanced(scope: Any, receive: Any, send: Any) -> None:
        left = asyncio.Event()

        async def once(message: Any) -> None:
            await send(message)
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            if message["type"] == "http.response.start" and kind.startswith(b"text/event-stream"):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                left.set()
                await asyncio.Event().wait()

        serving = asyncio.create_task(app(scope, receive, once))  # type: ignore[arg-type]
        leaving = asyncio.create_task(left.wait())
        await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if left.is_set():
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        else:
            await serving

    return glanced


def nobody(objects: Mapping[str, str]) -> dict[str, str]:
    """Ids of the same kinds that nothing has."""
    return {name: ids.encode(text.rpartition("_")[0], clock.new_uuid()) for name, text in objects.items()}
