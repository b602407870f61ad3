"""Signing in at an OpenID provider: the authorization code flow of OpenID Connect Core 1.0, with PKCE, state and nonce.

The protocol is here and not in a library (Authlib was the candidate): what is left of it once PyJWT checks signatures is short,
every request has to go through our guarded client (``platform.outbound``) and every moment through our clock, and libraries bring
a web framework's session with them. So Authlib can be the judge instead: the tests' providers are built on it.

- **One browser, one flow.** State, nonce and PKCE verifier are random and go through the browser in one sealed cookie, good for
  ten minutes; the callback takes it away. The provider's answer counts only in the browser that asked.
- **The ID token** is checked by OpenID Connect Core 3.1.3.7: asymmetric algorithms only, keys only from the provider's own
  ``jwks_uri`` (never from the token), issuer, audience, authorised party, times, nonce, and ``at_hash`` when it is there.
- **Who that is**: whoever was linked to (issuer, subject); the first time the operator with the same e-mail address, if the
  provider says that it checked the address; else, where ``oidc.provision_role`` allows it, somebody new. An address never moves
  a link: an operator with another identity at the provider is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx
import jwt
import msgspec
import structlog

from clearspan.access.errors import EmailTaken, NoTenant, OperatorChanged
from clearspan.access.operators import Operators
from clearspan.access.sessions import NewSession, Operator, Sessions, Signed
from clearspan.platform import clock, crypto, outbound
from clearspan.platform.addresses import AddressRefused, Guard, place_of, refusal
from clearspan.platform.context import Caller, Scope
from clearspan.platform.crypto import KeyProblem, MasterKey
from clearspan.platform.problems import DomainError, NotFound
from clearspan.settings import OidcSettings, Settings
from clearspan.tenants.service import Tenants

CALLBACK: Final = "/admin/oidc/callback"
FLOW_S: Final = 600
"""How long somebody may take at the provider."""
LEEWAY_S: Final = 60
"""The provider's clock may differ from ours by so much."""
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_HASHES: Final = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
_KEPT_S: Final = 3600.0
_AGAIN_S: Final = 30.0
"""An unknown ``kid`` has the keys fetched again, but not more often than this."""
_ANSWER_MAX: Final = 512 * 1024
_TOKEN_MAX: Final = 64 * 1024
_WORD: Final = re.compile(r"[^A-Za-z0-9:/._+#?=&-]")
_URL: Final = re.compile(r"[\x21-\x7e]{1,2048}")
_MICROSOFT: Final = frozenset(
    {"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"}
)
log = structlog.get_logger("clearspan.oidc")


class OidcOff(DomainError):
    """No OpenID provider is set up."""

    code = "oidc_off"
    status = 404
    title = "There is no sign-in at a provider here"
    advice = "Sign in with a password, or have [oidc] set up."


class OidcDenied(DomainError):
    """The provider, or the person at it, said no."""

    code = "oidc_denied"
    status = 403
    title = "The provider did not sign you in"
    advice = "You refused, or may not use this application there. Try again, or ask whoever runs the provider."


class OidcStateMismatch(DomainError):
    """The answer belongs to no sign-in that this browser began."""

    code = "oidc_state_mismatch"
    status = 400
    title = "This sign-in was not begun here, or too long ago"
    advice = "Begin again. If it happens again, the browser may refuse our cookie."


class OidcRefused(DomainError):
    """What the provider answered does not prove anything; the log says why."""

    code = "oidc_refused"
    status = 502
    title = "The provider's answer cannot be trusted"
    advice = "Try again. If it happens again, whoever runs Clearspan finds the reason in the log, by the request id."


class OidcUnavailable(DomainError):
    """The provider cannot be reached."""

    code = "oidc_unavailable"
    status = 503
    title = "The provider cannot be reached"
    advice = "Try again in a moment."


class OidcUnknownPerson(DomainError):
    """The provider knows them, and nobody here does."""

    code = "oidc_unknown_person"
    status = 403
    title = "You may not sign in here"
    advice = "The provider knows you, but there is no operator with your verified e-mail address. Ask to be invited."


class Flow(msgspec.Struct, frozen=True):
    """A sign-in under way, as the sealed cookie holds it.

    Attributes:
        state, nonce, verifier: random.
        next: where to go afterwards, below the cockpit.
        again: whether the person was to show again who they are.
        ends_at: seconds since 1970.
    """

    state: str
    nonce: str
    verifier: str
    next: str
    again: bool
    ends_at: float


class Begun(msgspec.Struct, frozen=True):
    """Where to send the browser, and the cookie that it keeps meanwhile."""

    url: str
    cookie: str


class SignedIn(msgspec.Struct, frozen=True):
    """A session opened, and where to go."""

    operator: Operator
    session: NewSession
    next: str


class _Provider(msgspec.Struct, frozen=True):
    """What we use of the discovery document (OpenID Connect Discovery 1.0, 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str = ""


class Identity(msgspec.Struct, frozen=True):
    """Claims of an ID token that was checked. Types as OpenID Connect Core has them; anything else is refused."""

    iss: str
    sub: str
    aud: str | tuple[str, ...]
    exp: int | float
    iat: int | float
    nonce: str = ""
    azp: str | None = None
    at_hash: str | None = None
    auth_time: int | float | None = None
    acr: str | None = None
    amr: tuple[str, ...] = ()
    email: str | None = None
    email_verified: Any = None
    xms_edov: Any = None
    name: str | None = None


class _Person(msgspec.Struct, frozen=True):
    """What the userinfo endpoint adds."""

    sub: str
    email: str | None = None
    email_verified: Any = None
    name: str | None = None


class OpenId:
    """See the module's docstring.

    Args:
        settings: of this installation.
        master: seals the cookie.
        sessions, operators, tenants: who may sign in, where.
    """

    def __init__(
        self, settings: Settings, master: MasterKey, sessions: Sessions, operators: Operators, tenants: Tenants
    ) -> None:
        self._settings: OidcSettings = settings.oidc
        self._redirect_uri = f"{settings.server.public_url}{CALLBACK}"
        self._key = master.derive("oidc-flow")
        self._sessions = sessions
        self._operators = operators
        self._tenants = tenants
        # The operator of the installation names the issuer, so its host may be an internal one. What its document names may not.
        own = [place_of(self._settings.issuer)] if self._settings.issuer else []
        self._guard = Guard([*settings.outbound.allow_internal, *own], settings.outbound.ports)
        self._http = outbound.client(3.0, 10.0, guard=self._guard, connections_max=10)
        self._provider: tuple[float, _Provider] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._keys_at = -_AGAIN_S

    @property
    def on(self) -> bool:
        """Whether there is a provider."""
        return bool(self._settings.issuer)

    @property
    def label(self) -> str:
        """What the button says."""
        return self._settings.label

    async def close(self) -> None:
        """Give connections back."""
        await self._http.aclose()

    # -- The flow ---------------------------------------------------------------------------------------------------------------

    async def begin(self, next_path: str, *, again: bool = False) -> Begun:
        """Where to send somebody.

        Args:
            next_path: where to go afterwards, below the cockpit; what is no such path becomes its home.
            again: they are to show again who they are, also when the provider knows them.

        Raises:
            OidcOff, OidcUnavailable, OidcRefused.
        """
        provider = await self._discovered()
        flow = Flow(
            state=_random(),
            nonce=_random(),
            verifier=_random(),
            next=own_path(next_path),
            again=again,
            ends_at=clock.now().timestamp() + FLOW_S,
        )
        challenge = _base64url(hashlib.sha256(flow.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": flow.state,
            "nonce": flow.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        } | ({"prompt": "login", "max_age": "0"} if again else {})
        mark = "&" if "?" in provider.authorization_endpoint else "?"
        sealed = crypto.seal(self._key, msgspec.json.encode(flow), "oidc/flow")
        return Begun(f"{provider.authorization_endpoint}{mark}{urlencode(query)}", _base64url(sealed))

    async def finish(
        self,
        query: Mapping[str, str],
        cookie: str,
        *,
        ip: str,
        agent: str,
        request_id: str,
        previous: Signed | None = None,
    ) -> SignedIn:
        """Take the provider's answer, and open a session.

        Args:
            query: the callback's parameters.
            cookie: what ``begin`` gave.
            ip, agent, request_id: of the request.
            previous: this browser's session before: it ends, and the same person goes on in the tenant and mode of it.

        Raises:
            OidcOff, OidcStateMismatch, OidcDenied, OidcRefused, OidcUnavailable, OidcUnknownPerson, NoTenant.
        """
        if not self.on:
            raise OidcOff
        flow = self._opened(cookie)
        if flow is None or not hmac.compare_digest(
            flow.state.encode(), query.get("state", "").encode(errors="replace")
        ):
            raise OidcStateMismatch
        provider = await self._discovered()
        said = query.get("iss")
        # RFC 9207: the answer of another provider, brought here.
        if said != self._settings.issuer and (
            said is not None or provider.authorization_response_iss_parameter_supported
        ):
            raise _refused("the answer names another issuer")
        if "error" in query:
            log.warning("oidc_denied", error=_word(query["error"]))
            raise OidcDenied
        if not query.get("code"):
            raise _refused("the answer has no code")
        tokens = await self._exchanged(provider, query["code"], flow.verifier)
        identity = await self._checked(provider, tokens, flow)
        identity = await self._completed(provider, tokens, identity)
        operator = await self._operator(identity, request_id)
        same = previous if previous is not None and previous.operator.operator_id == operator.operator_id else None
        session = await self._sessions.open(
            operator,
            method="oidc",
            strong=True,
            ip=ip,
            agent=agent,
            tenant_id=same.membership.tenant_id if same else None,
            live=same.session.live if same else False,
        )
        if previous is not None:
            ended = previous.session.session_id
            await self._sessions.end(previous.operator.operator_id, why="signed_out", session_id=ended)
        data = {"method": "oidc", "issuer": self._settings.issuer} | _how(identity)
        await self._operators.tell(operator, "operator.signed_in", request_id, data)
        return SignedIn(operator, session, flow.next)

    def _opened(self, cookie: str) -> Flow | None:
        try:
            plain = crypto.open_(self._key, base64.urlsafe_b64decode(cookie + "=="), "oidc/flow")
        except (KeyProblem, ValueError):
            return None
        flow = msgspec.json.decode(plain, type=Flow)
        return flow if flow.ends_at > clock.now().timestamp() else None

    # -- The provider -----------------------------------------------------------------------------------------------------------

    async def _discovered(self) -> _Provider:
        if not self.on:
            raise OidcOff
        if self._provider is not None and self._provider[0] > clock.monotonic():
            return self._provider[1]
        issuer = self._settings.issuer
        body = await self._fetch("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            provider = msgspec.json.decode(body, type=_Provider)
        except msgspec.DecodeError as error:
            raise _refused(f"the discovery document: {error}") from None
        if provider.issuer != issuer:
            # Discovery 4.3: letter by letter. One document for many issuers, as Entra's "common", is no issuer's.
            raise _refused(
                "the discovery document is another issuer's; oidc.issuer has to be letter by letter what it says"
            )
        named = (
            provider.authorization_endpoint,
            provider.token_endpoint,
            provider.jwks_uri,
            provider.userinfo_endpoint,
        )
        for url in filter(None, named):
            await self._check_place(url)
        self._provider = (clock.monotonic() + _KEPT_S, provider)
        return provider

    async def _check_place(self, url: str) -> None:
        """By https, or on a place that the operator of the installation named."""
        try:
            if urlsplit(url).scheme != "https" or not _URL.fullmatch(url):
                await self._guard.check_url(url)
        except (AddressRefused, ValueError) as error:
            raise _refused(f"the discovery document names an address that cannot be used: {error}") from None

    async def _exchanged(self, provider: _Provider, code: str, verifier: str) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        client_id, secret = self._settings.client_id, self._settings.client_secret.reveal()
        known = provider.token_endpoint_auth_methods_supported
        if secret and ("client_secret_basic" in known or "client_secret_post" not in known):
            pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": client_id} | ({"client_secret": secret} if secret else {})
        body = await self._fetch("POST", provider.token_endpoint, data=form, headers=headers)
        try:
            return msgspec.json.decode(body, type=_Tokens)
        except msgspec.DecodeError:
            raise _refused("the token endpoint gave no ID token") from None

    async def _completed(self, provider: _Provider, tokens: _Tokens, identity: Identity) -> Identity:
        """With the e-mail address from the userinfo endpoint, where the ID token has none."""
        if identity.email is not None or not provider.userinfo_endpoint or not tokens.access_token:
            return identity
        if await self._operators.find_by_identity(identity.iss, identity.sub) is not None:
            return identity  # It is known who that is.
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        body = await self._fetch("GET", provider.userinfo_endpoint, headers=headers)
        try:
            person = msgspec.json.decode(body, type=_Person)
        except msgspec.DecodeError:
            raise _refused("the userinfo endpoint's answer cannot be read") from None
        if person.sub != identity.sub:
            # Core 5.3.2: else one person's ID token could take another one's address.
            raise _refused("the userinfo endpoint speaks of somebody else")
        return msgspec.structs.replace(
            identity,
            email=person.email,
            email_verified=person.email_verified,
            name=identity.name or person.name,
        )

    async def _fetch(self, method: str, url: str, **more: Any) -> bytes:
        """A bounded answer with status 200."""
        body = bytearray()
        try:
            headers = {"Accept": "application/json"} | more.pop("headers", {})
            async with self._http.stream(method, url, headers=headers, **more) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _ANSWER_MAX:
                        raise _refused("an answer is too large")
        except httpx.UnsupportedProtocol:
            raise _refused("an address cannot be used") from None
        except httpx.HTTPError as error:
            closed = refusal(error)
            if closed is not None:
                raise _refused(f"an address is refused: {closed.reason}") from None
            log.warning("oidc_unreachable", host=urlsplit(url).hostname, error=type(error).__name__)
            raise OidcUnavailable from None
        if response.status_code >= 500 or response.status_code == 429:
            log.warning("oidc_unreachable", host=urlsplit(url).hostname, status=response.status_code)
            raise OidcUnavailable
        if response.status_code != 200:
            raise _refused(f"{urlsplit(url).path} answered {response.status_code}", error=_error_of(bytes(body)))
        return bytes(body)

    # -- The ID token -----------------------------------------------------------------------------------------------------------

    async def _checked(self, provider: _Provider, tokens: _Tokens, flow: Flow) -> Identity:
        text = tokens.id_token
        if len(text) > _TOKEN_MAX:
            raise _refused("the ID token is too long")
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _refused("the ID token cannot be read") from None
        algorithm = header.get("alg")
        if (
            not isinstance(algorithm, str)
            or algorithm not in ALGORITHMS
            or algorithm not in provider.id_token_signing_alg_values_supported
        ):
            raise _refused("the ID token is signed in a way that is not accepted", algorithm=_word(str(algorithm)))
        key = await self._key_of(provider, header.get("kid"), algorithm)
        try:
            found = jwt.PyJWS(algorithms=[algorithm], options={"enforce_minimum_key_length": True}).decode_complete(
                text, key=key, algorithms=[algorithm]
            )
            identity = msgspec.json.decode(found["payload"], type=Identity)
        except jwt.PyJWTError as error:
            raise _refused(f"the ID token's signature: {type(error).__name__}") from None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise _refused(f"the ID token's claims: {error}") from None
        wrong = self._wrong(identity, flow)
        if wrong is None and identity.at_hash is not None and tokens.access_token:
            digest = _HASHES.get(algorithm[-3:], hashlib.sha512)(tokens.access_token.encode()).digest()
            if not hmac.compare_digest(_base64url(digest[: len(digest) // 2]).encode(), identity.at_hash.encode()):
                wrong = "at_hash"
        if wrong is not None:
            raise _refused(f"the ID token's {wrong} is not what it must be")
        return identity

    def _wrong(self, identity: Identity, flow: Flow) -> str | None:
        """Which claim is (OpenID Connect Core, 3.1.3.7)."""
        now, client_id = clock.now().timestamp(), self._settings.client_id
        audience = (identity.aud,) if isinstance(identity.aud, str) else identity.aud
        if identity.iss != self._settings.issuer:
            return "iss"
        if not 1 <= len(identity.sub) <= 255:
            return "sub"
        if client_id not in audience:
            return "aud"
        if identity.azp != client_id and (identity.azp is not None or len(audience) > 1):
            return "azp"
        if identity.exp <= now - LEEWAY_S:
            return "exp"
        if not now - FLOW_S - LEEWAY_S <= identity.iat <= now + LEEWAY_S:
            return "iat"
        if not hmac.compare_digest(identity.nonce.encode(), flow.nonce.encode()):
            return "nonce"
        if flow.again and (identity.auth_time is None or identity.auth_time < flow.ends_at - FLOW_S - LEEWAY_S):
            return "auth_time"
        return None

    async def _key_of(self, provider: _Provider, kid: Any, algorithm: str) -> jwt.PyJWK:
        """The provider's key for this token. An unknown one has all of them fetched again: the provider may have changed them."""
        for attempt in range(2):
            until, keys = self._keys
            if until <= clock.monotonic() or (attempt and clock.monotonic() - self._keys_at >= _AGAIN_S):
                keys = await self._fetched_keys(provider)
            fitting = [
                key
                for key in keys
                if (kid is None or key.get("kid") == kid)
                and key.get("use", "sig") == "sig"
                and key.get("alg", algorithm) == algorithm
                and _family(algorithm) == key.get("kty")
            ]
            if len(fitting) == 1:
                try:
                    return jwt.PyJWK(fitting[0], algorithm)
                except jwt.PyJWTError as error:
                    raise _refused(f"the provider's key: {type(error).__name__}") from None
        raise _refused("the ID token is signed by no key, or no single key, of the provider")

    async def _fetched_keys(self, provider: _Provider) -> list[dict[str, Any]]:
        self._keys_at = clock.monotonic()
        try:
            document = msgspec.json.decode(await self._fetch("GET", provider.jwks_uri), type=dict[str, Any])
            keys = msgspec.convert(document.get("keys"), list[dict[str, Any]])
        except msgspec.DecodeError:
            raise _refused("the provider's keys cannot be read") from None
        self._keys = (clock.monotonic() + _KEPT_S, keys)
        return keys

    # -- Who that is ------------------------------------------------------------------------------------------------------------

    async def _operator(self, identity: Identity, request_id: str) -> Operator:
        operator = await self._operators.find_by_identity(identity.iss, identity.sub)
        email = operator.email if operator is not None else _vouched_for(identity)
        domains = self._settings.allowed_domains
        if domains and email.rpartition("@")[2] not in domains:
            raise _unknown("the domain of the address is not allowed")
        if operator is None:
            operator = await self._operators.find(email=email)
            if operator is None:
                operator = await self._provisioned(email, identity.name or email, request_id)
            if operator.oidc_subject is not None:
                raise _unknown("the operator is linked to another identity")
            if operator.status == "active":
                operator = await self._linked(operator, identity, request_id)
        if operator.status != "active":
            raise _unknown("the operator is disabled")
        if not operator.memberships:
            raise NoTenant
        return operator

    async def _linked(self, operator: Operator, identity: Identity, request_id: str) -> Operator:
        try:
            operator = await self._operators.change(operator, oidc_issuer=identity.iss, oidc_subject=identity.sub)
        except OperatorChanged:
            raise OidcRefused("Something else changed at the same moment. Try again.") from None
        await self._operators.tell(operator, "operator.identity_linked", request_id, {"issuer": identity.iss})
        return operator

    async def _provisioned(self, email: str, name: str, request_id: str) -> Operator:
        role, slug = self._settings.provision_role, self._settings.provision_tenant
        if not role:
            raise _unknown("there is no such operator")
        try:
            tenant = await self._tenants.by_slug(slug)
        except NotFound:
            log.error("oidc_no_tenant", tenant=slug)  # noqa: TRY400  (the setting is wrong, not the code)
            raise _unknown("oidc.provision_tenant does not exist") from None
        try:
            operator = await self._operators.create(email, " ".join(name.split())[:200] or email)
        except EmailTaken:
            raise OidcRefused("Something else changed at the same moment. Try again.") from None
        scope = Scope(tenant_id=tenant.tenant_id, live=True)
        caller = Caller(scope=scope, actor_type="system", actor_id="oidc", request_id=request_id, tenant=tenant.slug)
        await self._operators.join(caller, operator.operator_id, role)
        return await self._operators.get(operator.operator_id)


def own_path(text: str) -> str:
    """A path of ours to go on at, never an address elsewhere."""
    if re.fullmatch(r"/(?![/\\])[\x21-\x7e]{0,2000}", text) and "\\" not in text:
        return text
    return "/"


def _vouched_for(identity: Identity) -> str:
    """The e-mail address, for which the provider must vouch.

    By ``email_verified``, or by Entra's optional claim ``xms_edov`` ("email domain owner verified"), which it has instead
    (https://learn.microsoft.com/entra/identity-platform/migrate-off-email-claim-authorization, 2026-11).

    Raises:
        OidcUnknownPerson: it does not.
    """
    email = (identity.email or "").strip().lower()
    microsoft = identity.email_verified is None and urlsplit(identity.iss).hostname in _MICROSOFT
    if email and (identity.email_verified is True or (microsoft and identity.xms_edov in (True, 1, "1", "true"))):
        return email
    raise _unknown("the provider did not say that it verified the e-mail address")


def _how(identity: Identity) -> dict[str, Any]:
    """How the provider says that it knew the person: codes, cut to a bound, as they are written into the journal."""
    said: dict[str, Any] = {}
    if identity.acr:
        said["acr"] = _word(identity.acr)
    if identity.amr:
        said["amr"] = [_word(one) for one in identity.amr[:10]]
    return said


def _family(algorithm: str) -> str:
    return {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}[algorithm[:2]]


def _refused(why: str, **fields: Any) -> OidcRefused:
    log.warning("oidc_refused", why=why, **fields)
    return OidcRefused()


def _unknown(why: str) -> OidcUnknownPerson:
    log.warning("oidc_unknown_person", why=why)
    return OidcUnknownPerson()


def _error_of(body: bytes) -> str:
    """The code of an OAuth error, for the log."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ""
    return _word(str(found.get("error", ""))) if isinstance(found, dict) else ""


def _word(text: str) -> str:
    return _WORD.sub("", text)[:100]


def _random() -> str:
    return _base64url(clock.random_bytes(32))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
