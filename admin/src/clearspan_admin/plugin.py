"""The operator's cockpit, a plugin like any other: for now one page at ``/admin`` that says where things are until it comes.

The page holds no data and needs no key. Its policy allows its own style by hash and nothing else, no script at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from litestar import Response, get

from clearspan.sdk import RouteSet, hookimpl

_STYLE = files(__package__).joinpath("page.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Cockpit · Clearspan</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Clearspan</h1>
<p class="lead">The gateway runs. Its cockpit comes with a later release.</p>
<p>Until then, everything is in the API:</p>
<dl>
<div><dt><a href="/docs">API reference</a></dt><dd>Every call, to read and to try out.</dd></div>
<div><dt><code>GET /v1/payments</code></dt><dd>Payments with what the provider said and who did what.</dd></div>
<div><dt><code>GET /v1/audit</code></dt><dd>The audit trail, to search.</dd></div>
<div><dt><code>GET /v1/events/stream</code></dt><dd>What happens, while it happens.</dd></div>
<div><dt><a href="/health/ready">Health</a></dt><dd>Whether this process can serve.</dd></div>
</dl>
</main>
</body>
</html>
"""


@get("/", opt={"scope": "public"}, include_in_schema=False)
async def page() -> Response[str]:
    """The page."""
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(_PAGE, media_type="text/html; charset=utf-8", headers=headers)


@hookimpl
def clearspan_routes() -> Sequence[RouteSet]:
    """The page."""
    return [RouteSet(path="/admin", handlers=[page])]
