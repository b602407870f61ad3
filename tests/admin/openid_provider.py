"""An OpenID provider that can be told to lie: ``python openid_provider.py PORT``.

The protocol (clients, redirect URIs, codes, PKCE, ID tokens) is Authlib's; what it says can be twisted by ``POST /control``:

    user        claims of who signs in, ``sub`` among them
    deny        the person says no
    claims      changed in the ID token, ``null`` takes one away
    header      changed in its header
    sign        ``other`` (a key that is not published), ``hmac`` (the public key as a secret), ``none``, ``tampered``, ``short``
    rotate      another key, published under another kid
    discovery   changed in the discovery document
    userinfo    what the userinfo endpoint says instead
    status      {path: status} to answer with instead
    callback    parameters added to the redirect back
"""

# Authlib wants to know that there is no TLS before it is imported, and names the arguments.
# ruff: noqa: ARG002, E402

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
import warnings
from typing import Any

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
warnings.simplefilter("ignore")

import flask
import jwt
from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from werkzeug.serving import make_server

PORT = int(sys.argv[1])
ISSUER = f"http://127.0.0.1:{PORT}"
CLIENT, SECRET = "clearspan", "s:e c/r+e%t"
SHORT = rsa.generate_private_key(65537, 1024)  # noqa: S505  (that is the point)
OTHER = rsa.generate_private_key(65537, 2048)


class State:
    """Everything that changes."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.kid = "first"
        self.twist: dict[str, Any] = {}
        self.codes: dict[str, Code] = {}
        self.tokens: dict[str, Token] = {}
        self.nonces: set[str] = set()
        self.asked: dict[str, int] = {}
        self.redirects: list[str] = []


class Client(ClientMixin):
    def get_client_id(self) -> str:
        return CLIENT

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    @property
    def redirect_uri(self) -> str:
        return state.redirects[0]

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in state.redirects

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == state.twist.get("auth_method", "client_secret_basic")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Code(AuthorizationCodeMixin):
    def __init__(self, user: dict[str, Any], query: dict[str, str]) -> None:
        self.user, self.query = user, query
        self.code_challenge = query.get("code_challenge")
        self.code_challenge_method = query.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        return self.query["redirect_uri"]

    def get_scope(self) -> str:
        return self.query["scope"]

    def get_nonce(self) -> str | None:
        return self.query.get("nonce")

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> str | None:
        return self.user.get("acr")

    def get_amr(self) -> list[str] | None:
        return self.user.get("amr")


class Token(TokenMixin):
    def __init__(self, user: dict[str, Any]) -> None:
        self.user = user

    def get_scope(self) -> str:
        return "openid email profile"

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


class Grant(AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]

    def save_authorization_code(self, code: str, request: Any) -> None:
        state.codes[code] = Code(request.user, dict(flask.request.args))

    def query_authorization_code(self, code: str, client: Any) -> Code | None:
        return state.codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        state.codes = {text: code for text, code in state.codes.items() if code is not authorization_code}

    def authenticate_user(self, authorization_code: Code) -> dict[str, Any]:
        return authorization_code.user


class IdToken(OpenIDCode):
    def exists_nonce(self, nonce: str, request: Any) -> bool:
        seen = nonce in state.nonces
        state.nonces.add(nonce)
        return seen

    def resolve_client_private_key(self, client: Any) -> Any:
        return state.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def get_client_claims(self, client: Any) -> dict[str, Any]:
        return {"iss": ISSUER, "aud": CLIENT}

    def get_encode_header(self, client: Any) -> dict[str, Any]:
        return {"alg": "RS256", "kid": state.kid}

    def generate_user_info(self, user: dict[str, Any], scope: str) -> dict[str, Any]:
        return {name: value for name, value in user.items() if name not in ("acr", "amr")}

    def encode_id_token(self, token: Any, request: Any) -> str:
        return twisted(super().encode_id_token(token, request))


class Validator(BearerTokenValidator):
    def authenticate_token(self, token_string: str) -> Token | None:
        return state.tokens.get(token_string)


def twisted(text: str) -> str:
    """The ID token as it is to be: Authlib's own when nothing is asked for."""
    twist = state.twist
    if not any(name in twist for name in ("claims", "header", "sign")):
        return text
    claims = jwt.decode(text, options={"verify_signature": False})
    claims = {name: value for name, value in (claims | twist.get("claims", {})).items() if value is not None}
    header = {
        name: value for name, value in ({"kid": state.kid} | twist.get("header", {})).items() if value is not None
    }
    public = state.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    match twist.get("sign"):
        case "none":
            return jwt.encode(claims, None, "none", headers=header)
        case "hmac":
            parts = ".".join(encoded(part) for part in ({"typ": "JWT", "alg": "HS256"} | header, claims))
            return f"{parts}.{base64url(hmac.digest(public, parts.encode(), hashlib.sha256))}"
        case "other":
            return jwt.encode(claims, OTHER, "RS256", headers=header)
        case "short":
            return jwt.encode(claims, SHORT, "RS256", headers=header)
        case "tampered":
            head, _, signature = jwt.encode(claims, state.key, "RS256", headers=header).split(".")
            return f"{head}.{encoded(claims | {'email': 'root@example.com'})}.{signature}"
    return jwt.encode(claims, state.key, "RS256", headers=header)


def encoded(document: Any) -> str:
    return base64url(json.dumps(document).encode())


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


state = State()
app = flask.Flask(__name__)
app.secret_key = os.urandom(16)
protected = ResourceProtector()
protected.register_token_validator(Validator())


def save_token(token: dict[str, Any], request: Any) -> None:
    state.tokens[token["access_token"]] = Token(request.user)


authorization = AuthorizationServer(
    app, query_client=lambda name: Client() if name == CLIENT else None, save_token=save_token
)
authorization.register_grant(Grant, [IdToken(require_nonce=True), CodeChallenge(required=True)])


@app.before_request
def count() -> Any:
    path = flask.request.path
    state.asked[path] = state.asked.get(path, 0) + 1
    status = state.twist.get("status", {}).get(path)
    if isinstance(status, str):
        return flask.redirect(status)
    return flask.Response("{}", status) if status else None


@app.get("/.well-known/openid-configuration")
def discovery() -> Any:
    found = {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": f"{ISSUER}/token",
        "userinfo_endpoint": f"{ISSUER}/userinfo",
        "jwks_uri": f"{ISSUER}/jwks",
        "response_types_supported": ["code"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    }
    return flask.jsonify(found | state.twist.get("discovery", {}))


@app.get("/jwks")
def jwks() -> Any:
    key = SHORT if state.twist.get("sign") == "short" else state.key
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    mine = jwk | {"kid": state.kid, "use": "sig", "alg": "RS256"}
    return flask.jsonify({"keys": [mine, {"kty": "oct", "k": "AAAA", "kid": "secret"}]})


@app.get("/authorize")
def authorize() -> Any:
    user = None if state.twist.get("deny") else state.twist.get("user")
    answer = authorization.create_authorization_response(grant_user=user)
    extra = state.twist.get("callback")
    if extra and "Location" in answer.headers:
        answer.headers["Location"] += "".join(f"&{name}={value}" for name, value in extra.items())
    return answer


@app.post("/token")
def token() -> Any:
    return authorization.create_token_response()


@app.get("/userinfo")
@protected()
def userinfo() -> Any:
    held = flask.request.headers["Authorization"].partition(" ")[2]
    return flask.jsonify(state.twist.get("userinfo", state.tokens[held].user))


@app.post("/control")
def control() -> Any:
    asked = flask.request.get_json()
    state.redirects = asked.pop("redirects", state.redirects)
    if asked.pop("rotate", False):
        state.key, state.kid = rsa.generate_private_key(65537, 2048), os.urandom(4).hex()
    state.twist = asked
    return {"asked": state.asked}


if __name__ == "__main__":
    make_server("127.0.0.1", PORT, app, threaded=True).serve_forever()
