"""The official SDK (basistheory 3.0.0) does against the simulator what it does against Basis Theory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import basistheory
import pytest
from basistheory.api import sessions_api, tokens_api
from basistheory.exceptions import ForbiddenException, NotFoundException, UnauthorizedException
from basistheory.model.authorize_session_request import AuthorizeSessionRequest
from basistheory.model.create_token_request import CreateTokenRequest

CARD = {"number": "4242424242424242", "expiration_month": 3, "expiration_year": 2031, "cvc": "737"}


@pytest.fixture
def sim(simulator: Any) -> Iterator[Any]:
    """The simulator; whatever was sent to it is as the published description says."""
    started = simulator("vault-basis-theory")
    yield started
    assert started.problems == []


def client(sim: Any, key: str) -> basistheory.ApiClient:
    return basistheory.ApiClient(configuration=basistheory.Configuration(host=sim.url, api_key=key))


def create(api: tokens_api.TokensApi) -> Any:
    return api.create(create_token_request=CreateTokenRequest(type="card", data=CARD))


def test_a_card_is_created_read_without_its_number_and_deleted(sim: Any) -> None:
    tokens = tokens_api.TokensApi(client(sim, "key_private"))
    made = create(tokens)
    read = tokens.get_by_id(id=made.id)
    assert (read.type, read.data["number"], read.data["expiration_month"]) == ("card", "XXXXXXXXXXXX4242", 3)
    assert read.fingerprint == create(tokens).fingerprint
    assert read.enrichments.card_details.last4 == "4242"
    assert read.enrichments.bin_details.card_brand == "VISA"
    tokens.delete(id=made.id)
    with pytest.raises(NotFoundException):
        tokens.get_by_id(id=made.id)


def test_a_session_is_made_with_the_public_key_authorised_with_the_private_one_and_may_create(sim: Any) -> None:
    session = sessions_api.SessionsApi(client(sim, "key_public")).create()
    payer = tokens_api.TokensApi(client(sim, session.session_key))
    with pytest.raises(ForbiddenException):
        create(payer)
    request = AuthorizeSessionRequest(nonce=session.nonce, permissions=["token:create"])
    sessions_api.SessionsApi(client(sim, "key_private")).authorize(authorize_session_request=request)
    made = create(payer)
    with pytest.raises(ForbiddenException):
        payer.get_by_id(id=made.id)


def test_a_wrong_key_is_refused(sim: Any) -> None:
    with pytest.raises(UnauthorizedException):
        tokens_api.TokensApi(client(sim, "key_wrong")).get_by_id(id="815029c2-29ec-4fc2-8cd4-99feb3ee582c")
