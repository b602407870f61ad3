"""``/oauth`` and what ``/.well-known`` says about it. Bodies and refusals are OAuth's own, so docs/api.md describes them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency

from clearspan.access.guard import PUBLIC
from clearspan.access.oauth import Asked, OAuth, OAuthRefused

_FIELDS_MAX = 50
_FORM = "application/x-www-form-urlencoded"
# RFC 6749, 5.1: both.
_UNKEPT = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_PUBLISHED = {"Cache-Control": "public, max-age=300"}


def _refused(_: Request[Any, Any, Any], refusal: OAuthRefused) -> Response[bytes]:
    """As RFC 6749, 5.2: whoever came with Basic is told so."""
    headers = dict(_UNKEPT)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="clearspan"'
    if refusal.retry_after_s:
        headers["Retry-After"] = str(refusal.retry_after_s)
    return _json({"error": refusal.error, "error_description": refusal.description}, headers, refusal.status)


class OAuthController(Controller):
    """The token endpoint, its revocation, and what clients find out by themselves."""

    include_in_schema = False
    exception_handlers = {OAuthRefused: _refused}

    @post("/oauth/token", opt={"scope": PUBLIC}, status_code=200)
    async def token(self, request: Request[Any, Any, Any], oauth: NamedDependency[OAuth]) -> Response[bytes]:
        """An access token (RFC 6749)."""
        return _json((await oauth.grant(await _asked(request))).document(), _UNKEPT)

    @post("/oauth/revoke", opt={"scope": PUBLIC}, status_code=200)
    async def revoke(self, request: Request[Any, Any, Any], oauth: NamedDependency[OAuth]) -> Response[bytes]:
        """End what stands behind a token (RFC 7009)."""
        await oauth.revoke(await _asked(request))
        return _json({}, _UNKEPT)

    @get("/.well-known/oauth-authorization-server", opt={"scope": PUBLIC})
    async def metadata(self, oauth: NamedDependency[OAuth]) -> Response[bytes]:
        """What there is (RFC 8414)."""
        return _json(oauth.metadata(), _PUBLISHED)

    @get("/.well-known/jwks.json", opt={"scope": PUBLIC})
    async def jwks(self, oauth: NamedDependency[OAuth]) -> Response[bytes]:
        """The key that signs access tokens (RFC 7517)."""
        return _json(oauth.jwks(), _PUBLISHED)


async def _asked(request: Request[Any, Any, Any]) -> Asked:
    """The form. A parameter in the URL is refused whatever it is: it would be a secret in a log (RFC 6749, 2.3.1).

    Raises:
        OAuthRefused: ``invalid_request``.
    """
    if request.scope["query_string"]:
        raise OAuthRefused("invalid_request", "Send parameters in the body; URLs are kept in logs.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise OAuthRefused("invalid_request", f"Send the body as {_FORM}.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict"
        )
    except ValueError:
        raise OAuthRefused("invalid_request", "The body is no form in UTF-8.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthRefused("invalid_request", "A parameter stands in the body twice.")
    if any("\0" in value for value in form.values()):
        raise OAuthRefused("invalid_request", "No parameter may hold a NUL character.")
    return Asked(
        form=form,
        authorization=request.headers.get("authorization"),
        ip=request.client.host if request.client else "",
        agent=request.headers.get("user-agent", "")[:300],
        request_id=request.scope["state"]["request_id"],
    )


def _json(document: dict[str, Any], headers: dict[str, str], status: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json", headers=headers)
