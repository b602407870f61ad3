"""Pages without a key: health, metrics and the browsable API reference.

The reference is Swagger UI, taken as static files from the package ``flask-swagger-ui`` (the kept-current one on PyPI
that carries a release with OpenAPI 3.1; Flask itself is never imported) and served from our own origin, so it works
without internet.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from clearspan.platform.db import Database
from clearspan.platform.problems import DatabaseUnavailable, DomainError, NotFound
from clearspan.platform.telemetry import Metrics
from clearspan.settings import Settings

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATIC = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Clearspan API</title>
<link rel="icon" href="/docs/static/favicon-32x32.png">
<link rel="stylesheet" href="/docs/static/swagger-ui.css">
</head>
<body>
<main id="reference"><p>Without JavaScript, read the document itself: <a href="/openapi.json">/openapi.json</a>.</p></main>
<script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/init.js"></script>
</body>
</html>
"""
_INIT = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#reference", deepLinking: true, tryItOutEnabled: true, persistAuthorization: false,
  validatorUrl: null, defaultModelsExpandDepth: 0,
});
"""


class Health(msgspec.Struct, frozen=True):
    """``ok``, or why not."""

    status: str


class NotReady(DomainError):
    """This process cannot serve now."""

    code = "not_ready"
    status = 503
    title = "The gateway is not ready"


class MetricsOff(DomainError):
    """``telemetry.metrics`` is false."""

    code = "metrics_off"
    status = 404
    title = "Metrics are switched off"
    advice = "Set telemetry.metrics = true."


class HealthController(Controller):
    """``/health`` and ``/metrics``."""

    include_in_schema = False

    @get("/health/live", opt={"scope": "public"})
    async def live(self) -> Health:
        """The process runs and its event loop turns."""
        return Health("ok")

    @get("/health/ready", opt={"scope": "public"})
    async def ready(self, db: NamedDependency[Database]) -> Health:
        """PostgreSQL answers, so requests can be served."""
        try:
            await db.fetch_text("SELECT 'ok'")
        except DatabaseUnavailable as error:
            raise NotReady("PostgreSQL does not answer.") from error
        return Health("ok")

    @get("/metrics", opt={"scope": "public"})
    async def metrics(self, metrics: NamedDependency[Metrics], settings: NamedDependency[Settings]) -> Response[bytes]:
        """Prometheus text. Keep it off the public network."""
        if not settings.telemetry.metrics:
            raise MetricsOff
        await metrics.measure()
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


class DocsController(Controller):
    """``/docs`` and ``/openapi.json``."""

    include_in_schema = False

    @get("/openapi.json", opt={"scope": "public"})
    async def document(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """The OpenAPI 3.1 document."""
        made: bytes | None = request.app.state.get("openapi_json")
        if made is None:  # It takes a quarter of a second and never changes.
            made = msgspec.json.encode(readable(request.app.openapi_schema.to_schema()))
            request.app.state["openapi_json"] = made
        return Response(made, media_type="application/json")

    @get("/docs", opt={"scope": "public"})
    async def page(self) -> Response[str]:
        """The browsable reference."""
        return Response(_PAGE, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _CSP})

    @get("/docs/init.js", opt={"scope": "public"})
    async def init(self) -> Response[str]:
        """Starts Swagger UI; a file of its own because inline scripts are forbidden."""
        return Response(_INIT, media_type="text/javascript")

    @get("/docs/static/{name:str}", opt={"scope": "public"})
    async def static(self, name: FromPath[str]) -> Response[bytes]:
        """Swagger UI's own files."""
        if name not in _STATIC:
            raise NotFound("There is no such file.")
        return Response(
            _swagger_file(name), media_type=_STATIC[name], headers={"Cache-Control": "public, max-age=86400"}
        )


def readable(document: dict[str, Any]) -> dict[str, Any]:
    """The document with collections before what is in them."""
    ordered = sorted(document["paths"].items(), key=lambda item: (item[0].split("/")[2:3], item[0].count("/"), item[0]))
    return document | {"paths": dict(ordered)}


@cache
def _swagger_file(name: str) -> bytes:
    spec = importlib.util.find_spec("flask_swagger_ui")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "dist" / name).read_bytes()
