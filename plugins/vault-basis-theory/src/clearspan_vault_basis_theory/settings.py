"""Settings of the Basis Theory vault."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clearspan.sdk import Host, Secret

HOSTS = {"production": "https://api.basistheory.com", "test": "https://api.test.basistheory.com"}
"""By kind of tenant: https://developers.basistheory.com/docs/api/test-tenants (read 2026-11)."""
ELEMENTS_HOST = "https://js.basistheory.com"
ELEMENTS_VERSION = "2.14.0"
ELEMENTS_INTEGRITY = "sha384-AaBRzRzj4lFZRk7tbQNayxM9u/49aYMamgWByTRTOMic/cRw9u5Zdy+PL55JgYdM"
"""Of the loader of that version: https://github.com/Basis-Theory/web-elements/blob/master/sri.json (of 2026-07-21)."""


class BasisTheoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings."""

    private_key: Annotated[
        Secret,
        Meta(
            title="Private application key",
            description="With token:create, token:read (transform: mask), token:delete and token:use or proxy:invoke on /pci/.",
        ),
    ]
    public_key: Annotated[
        str,
        Meta(
            title="Public application key",
            description="Opens the payers' sessions; needs no permission of its own.",
            min_length=1,
        ),
    ]
    tenant: Annotated[
        Literal["test", "production"],
        Meta(title="Kind of tenant", description="A test tenant must never hold a real card."),
    ] = "test"
    url: Host = ""
    elements_url: Annotated[
        Host,
        Meta(title="Web Elements", description="Where the fields come from; leave it empty for Basis Theory's own."),
    ] = ""
    elements_version: Annotated[
        str,
        Meta(
            title="Version of Web Elements",
            description="Fixed; with another one give its integrity too.",
            pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$",
        ),
    ] = ELEMENTS_VERSION
    elements_integrity: Annotated[
        str,
        Meta(
            title="Integrity of Web Elements",
            description="As published in sri.json for the version; empty: not checked.",
        ),
    ] = ELEMENTS_INTEGRITY
