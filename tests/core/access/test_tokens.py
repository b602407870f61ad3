"""An access token is one that this installation made, a moment ago, as it is; nothing that looks like one opens anything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from clearspan.access.tokens import AccessTokenInvalid, AccessTokens
from clearspan.platform import clock, ids
from clearspan.platform.crypto import MasterKey

if TYPE_CHECKING:
    from tests.conftest import Merchant

URL = "https://pay.example"
Json = dict[str, Any]


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(document: Any) -> str:
    return base64url(json.dumps(document).encode())


def opened(text: str) -> tuple[Json, Json]:
    """Header and claims, unverified."""
    head, body, _ = text.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(one + "==")) for one in (head, body))  # type: ignore[return-value]


def signed(header: Json, claims: Any, key: Ed25519PrivateKey) -> str:
    """A JWS by hand, so that no library can refuse to make it."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{base64url(key.sign(text.encode()))}"


def of(issuer: AccessTokens, **fields: Any) -> str:
    given = {"subject": "key_x", "tenant": "acme", "live": False, "scopes": frozenset({"payments:read"})} | fields
    return issuer.issue(**given)


@pytest.fixture(scope="module")
def tokens() -> AccessTokens:
    return AccessTokens(MasterKey(bytes(range(32))), URL, 900)


def private(tokens: AccessTokens) -> Ed25519PrivateKey:
    return tokens._private


def test_a_token_says_what_it_was_made_for_and_what_rfc_9068_wants(tokens: AccessTokens) -> None:
    text = of(tokens, subject="opr_x", live=True, session="ses_x", scopes=frozenset({"b:write", "a:read"}))
    header, claims = opened(text)
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": tokens.kid}
    assert claims.keys() == {
        "iss", "aud", "sub", "client_id", "exp", "iat", "jti", "tenant", "live", "scope", "sid"
    }  # fmt: skip
    read = tokens.read(text)
    assert (read.iss, read.aud, read.sub, read.scope, read.live) == (URL, f"{URL}/v1", "opr_x", "a:read b:write", True)
    assert read.exp - read.iat == 900


def test_whoever_has_the_published_key_can_check_a_token(tokens: AccessTokens) -> None:
    (key,) = tokens.jwks()["keys"]
    assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}, "and nothing private"
    claims = jwt.decode(of(tokens), jwt.PyJWK(key), ["EdDSA"], audience=f"{URL}/v1", issuer=URL)
    assert claims["sub"] == "key_x"


def test_every_process_of_an_installation_has_the_same_key_and_another_installation_another(
    tokens: AccessTokens,
) -> None:
    twin = AccessTokens(MasterKey(bytes(range(32))), URL, 900)
    other = AccessTokens(MasterKey(bytes(32)), URL, 900)
    assert twin.read(of(tokens)).tenant == "acme"
    for stranger in (other, AccessTokens(MasterKey(bytes(range(32))), "https://other.example", 900)):
        with pytest.raises(AccessTokenInvalid):
            tokens.read(of(stranger))


Forge = Callable[[AccessTokens], str]


def with_header(**changes: Any) -> Forge:
    """Really signed by us, with another header: none of these may be looked at."""

    def forge(tokens: AccessTokens) -> str:
        header, claims = opened(of(tokens))
        return signed(
            {key: value for key, value in (header | changes).items() if value is not None}, claims, private(tokens)
        )

    return forge


def with_claims(**changes: Any) -> Forge:
    """Really signed by us, with other claims."""

    def forge(tokens: AccessTokens) -> str:
        header, claims = opened(of(tokens))
        return signed(
            header, {key: value for key, value in (claims | changes).items() if value is not ...}, private(tokens)
        )

    return forge


def by_own_key(**header: Any) -> Forge:
    """Signed by an attacker's Ed25519 key, whose public half the header brings along."""

    def forge(tokens: AccessTokens) -> str:
        key = Ed25519PrivateKey.generate()
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key().public_bytes_raw())}
        usual, claims = opened(of(tokens))
        made = {name: jwk if value == "JWK" else value for name, value in (usual | header).items()}
        return signed(made, claims, key)

    return forge


def with_alg_none(alg: str, signature: str) -> Forge:
    return lambda tokens: (
        f"{part({'alg': alg, 'typ': 'at+jwt', 'kid': tokens.kid})}.{of(tokens).split('.')[1]}.{signature}"
    )


def by_hmac(alg: str, secret: Callable[[AccessTokens], bytes]) -> Forge:
    """The public key taken for a shared secret."""

    def forge(tokens: AccessTokens) -> str:
        text = f"{part({'alg': alg, 'typ': 'at+jwt', 'kid': tokens.kid})}.{of(tokens).split('.')[1]}"
        kind = getattr(hashlib, f"sha{alg[2:]}")
        return f"{text}.{base64url(hmac.digest(secret(tokens), text.encode(), kind))}"

    return forge


def by_library(alg: str, key: Any) -> Forge:
    return lambda tokens: jwt.encode(opened(of(tokens))[1], key, alg, headers={"typ": "at+jwt", "kid": tokens.kid})


def pem(tokens: AccessTokens) -> bytes:
    return private(tokens).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def raw(tokens: AccessTokens) -> bytes:
    return private(tokens).public_key().public_bytes_raw()


def tampered(which: int, change: Callable[[str], str]) -> Forge:
    def forge(tokens: AccessTokens) -> str:
        parts = of(tokens).split(".")
        parts[which] = change(parts[which])
        return ".".join(parts)

    return forge


RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
NOW = 1_000_000
FORGED: dict[str, Forge] = {
    "alg none": with_alg_none("none", ""),
    "alg None, some signature": with_alg_none("None", "AAAA"),
    "alg nOnE": with_alg_none("nOnE", ""),
    "alg empty": with_alg_none("", ""),
    "HS256 with the public key, PEM": by_hmac("HS256", pem),
    "HS256 with the public key, raw": by_hmac("HS256", raw),
    "HS512 with the public key, raw": by_hmac("HS512", raw),
    "HS256 with nothing": by_hmac("HS256", lambda _: b""),
    "RS256": by_library("RS256", RSA),
    "PS256": by_library("PS256", RSA),
    "ES256": by_library("ES256", EC),
    "an RSA key, called EdDSA": lambda tokens: ".".join(
        [part({"alg": "EdDSA", "typ": "at+jwt", "kid": tokens.kid}), *by_library("RS256", RSA)(tokens).split(".")[1:]]
    ),
    "ours, called RS256": with_header(alg="RS256"),
    "ours, called Ed25519": with_header(alg="Ed25519"),
    "ours, alg as a list": with_header(alg=["EdDSA"]),
    "another's key": by_own_key(),
    "jwk": by_own_key(jwk="JWK"),
    "jwk, and no kid": by_own_key(jwk="JWK", kid=""),
    "jku": by_own_key(jku="https://evil.example/jwks.json"),
    "x5u": by_own_key(x5u="https://evil.example/cert.pem"),
    "x5c": by_own_key(x5c=["MIIB"]),
    "kid as a path": by_own_key(kid="../../../../dev/null"),
    "kid as SQL": by_own_key(kid="x' UNION SELECT 'AAAA"),
    "kid as an object": by_own_key(kid={"a": 1}),
    "ours with jwk beside": with_header(jwk={"kty": "OKP"}),
    "ours with jku beside": with_header(jku="https://evil.example"),
    "ours with crit": with_header(crit=["exp"], exp=1),
    "ours, b64 false": with_header(b64=False, crit=["b64"]),
    "ours with another kid": with_header(kid="other"),
    "ours without kid": with_header(kid=None),
    "ours, typ JWT": with_header(typ="JWT"),
    "ours, typ of an ID token": with_header(typ="id+jwt"),
    "ours without typ": with_header(typ=None),
    "another aud": with_claims(aud="https://other.example/v1"),
    "aud as a list": with_claims(aud=[f"{URL}/v1"]),
    "no aud": with_claims(aud=...),
    "another iss": with_claims(iss="https://evil.example"),
    "iss with a slash": with_claims(iss=f"{URL}/"),
    "no iss": with_claims(iss=...),
    "no exp": with_claims(exp=...),
    "exp as text": with_claims(exp="9999999999"),
    "exp as a fraction": with_claims(exp=9999999999.5),
    "expired": with_claims(exp=NOW),
    "exp null": with_claims(exp=None),
    "made in the future": with_claims(iat=9_999_999_000, exp=9_999_999_999),
    "no tenant": with_claims(tenant=...),
    "live as text": with_claims(live="true"),
    "scope as a list": with_claims(scope=["payments:read"]),
    "a claim more": with_claims(admin=True),
    "not an object": lambda tokens: signed(opened(of(tokens))[0], [1], private(tokens)),
    "nested deeply": lambda _: f"{base64url(b'{' + b'[' * 3000)}.e30.AAAA",
    "payload changed": tampered(1, lambda text: part(opened(f"e30.{text}.x")[1] | {"live": True})),
    "signature cut": tampered(2, lambda text: text[:-4]),
    "signature empty": tampered(2, lambda _: ""),
    "signature of zeros": tampered(2, lambda _: base64url(bytes(64))),
    "two parts": lambda tokens: of(tokens).rpartition(".")[0],
    "five parts, as if encrypted": lambda tokens: f"{of(tokens)}.AAAA.AAAA",
    "JSON serialization": lambda tokens: json.dumps({"payload": of(tokens)}),
    "very long": lambda tokens: of(tokens, scopes=frozenset(f"scope{number}:read" for number in range(500))),
    "nothing but dots": lambda _: "eyJ..",
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_nothing_else_is_a_token(tokens: AccessTokens, forge: Forge) -> None:
    with pytest.raises(AccessTokenInvalid):
        tokens.read(forge(tokens))


def test_a_token_works_to_its_end_and_a_few_seconds_of_leeway(tokens: AccessTokens) -> None:
    now = int(clock.now().timestamp())
    assert tokens.read(with_claims(exp=now - 3)(tokens)).exp == now - 3
    with pytest.raises(AccessTokenInvalid):
        tokens.read(with_claims(exp=now - 7)(tokens))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_character_changed_makes_it_worthless_and_nothing_crashes(
    tokens: AccessTokens, data: st.DataObject
) -> None:
    text = of(tokens)
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(max_codepoint=300))
    changed = text[:place] + character + text[place + 1 :]
    try:
        same = tokens.read(changed)
    except AccessTokenInvalid:
        return
    # The last character of a base64url part may have bits that mean nothing.
    assert same == tokens.read(text)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300))
def test_any_text_is_refused_and_nothing_crashes(tokens: AccessTokens, text: str) -> None:
    for each in (text, f"eyJ{text}", f"eyJ.{text}.x"):
        with pytest.raises(AccessTokenInvalid):
            tokens.read(each)


@pytest.mark.parametrize(
    "name", ["alg none", "HS256 with the public key, raw", "jwk", "another aud", "expired", "two parts"]
)
async def test_a_forged_token_opens_no_route(
    anonymous: httpx.AsyncClient, merchant: Merchant, master: MasterKey, name: str
) -> None:
    assert merchant.caller.key_id is not None
    ours = AccessTokens(master, "http://127.0.0.1:8080", 900)
    real = of(ours, subject=ids.encode("key", merchant.caller.key_id), tenant=merchant.caller.tenant)
    answer = await anonymous.get("/v1/tenant", headers={"Authorization": f"Bearer {real}"})
    assert answer.status_code == 200, answer.text
    answer = await anonymous.get("/v1/tenant", headers={"Authorization": f"Bearer {FORGED[name](ours)}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "access_token_invalid")
    assert answer.headers["www-authenticate"] == 'Bearer realm="clearspan", error="invalid_token"'
