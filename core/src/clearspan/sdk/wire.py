"""Requests of one PSP account, and what its answers are made of: the part that adapters share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from clearspan.sdk.errors import OutcomeUnknown
from clearspan.sdk.http import Answer, send
from clearspan.sdk.psp import CardSource, PspContext, Source

T = TypeVar("T")
UNDERSTOOD = frozenset({200, 201, 202, 204})


class Wire:
    """The calls of one account.

    Args:
        context: as the core hands it over.
        url: where the PSP's API begins.
        headers: of every request: credentials, the API's version.
        encoding: of bodies: ``json``, or ``form`` with nested names (``a[b][0]=c``).
        key_header: carries the idempotency key, where the PSP takes it in a header.
        understood: statuses besides 200, 201, 202 and 204 whose answers the adapter reads. Any other one is unknown.
    """

    def __init__(
        self,
        context: PspContext,
        url: str,
        *,
        headers: Mapping[str, str],
        encoding: Literal["json", "form"] = "json",
        key_header: str | None = "Idempotency-Key",
        understood: frozenset[int] = frozenset(),
    ) -> None:
        self._context = context
        self._url = url.rstrip("/")
        self._headers = dict(headers)
        self._encoding = encoding
        self._key_header = key_header
        self._understood = UNDERSTOOD | understood

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str = "",
        source: Source | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send once.

        Args:
            body: names whose value is ``None`` are left out, at any depth.
            key: the idempotency key.
            source: when it is a card in the vault, the request goes through the vault.
            query: of the address; ``None`` is left out.
            headers: of this request only.

        Raises:
            PspUnavailable, PspMisconfigured, OutcomeUnknown: as ``send``, and unknown for a status that is not understood.
        """
        sent = self._headers | dict(headers or {})
        if key and self._key_header is not None:
            sent[self._key_header] = key
        address = self._url + path + (f"?{form(query)}" if query else "")
        content = None
        if body is not None and self._encoding == "form":
            content = form(body).encode()
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        elif body is not None:
            content = msgspec.json.encode(without_none(body))
            sent["Content-Type"] = "application/json"
        through_vault = isinstance(source, CardSource)
        http = self._context.vault_http if through_vault else self._context.http
        extensions = {"vault_token": source.token} if isinstance(source, CardSource) else {}
        request = http.build_request(method, address, content=content, headers=sent, extensions=extensions)
        answer = await send(http, request)
        if answer.status not in self._understood:
            raise OutcomeUnknown(f"sent, the PSP answered {answer.status}")
        return answer


def form(body: Mapping[str, Any]) -> str:
    """``application/x-www-form-urlencoded`` with nested names: ``{"a": {"b": ["c"]}}`` is ``a[b][0]=c``. ``None`` is left out."""
    return urlencode(list(_flat(body)))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}[{key}]" if name else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, one in enumerate(value):
            yield from _flat(one, f"{name}[{index}]")
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif value is not None:
        yield name, str(value)


def without_none(value: Any) -> Any:
    """The same without names whose value is ``None``, at any depth."""
    if isinstance(value, Mapping):
        return {name: without_none(one) for name, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [without_none(one) for one in value]
    return value


def read(raw: object, kind: type[T]) -> T:
    """An answer as documented.

    Raises:
        OutcomeUnknown: it is not.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise OutcomeUnknown(f"the answer is not as documented: {error}") from error
