"""Settings as forms, and refusal tables that cannot lie about our codes."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from clearspan.sdk import FormField, Host, OptionalSecret, RefusalTable, Secret, form_fields


class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings.

    Attributes:
        region: where the account
            lives.
        merchant: overridden by the field's own words.
    """

    api_key: Secret
    old_key: OptionalSecret = ""
    merchant: Annotated[str, Meta(title="Merchant account", description="See the dashboard.")]
    region: Literal["eu", "us"] = "eu"
    retries: int | None = None
    strict: bool = True
    url: Host = ""


def test_each_field_becomes_a_field_of_the_form() -> None:
    fields = {one.name: one for one in form_fields(AcmeConfig)}
    assert list(fields) == ["api_key", "old_key", "merchant", "region", "retries", "strict", "url"]
    assert fields["api_key"] == FormField(name="api_key", title="Api key", type="secret", required=True)
    assert (fields["old_key"].type, fields["old_key"].required, fields["old_key"].default) == ("secret", False, None)
    assert (fields["merchant"].title, fields["merchant"].description) == ("Merchant account", "See the dashboard.")
    assert (fields["region"].type, list(fields["region"].choices), fields["region"].default) == (
        "choice",
        ["eu", "us"],
        "eu",
    )
    assert fields["region"].description == "where the account lives."
    assert (fields["retries"].type, fields["retries"].required) == ("integer", False)
    assert (fields["strict"].type, fields["strict"].default) == ("boolean", True)
    assert fields["url"].title == "API address"


def test_a_field_that_no_form_can_show_is_told() -> None:
    class Odd(msgspec.Struct):
        hosts: list[str]

    with pytest.raises(TypeError, match=r"Odd\.hosts"):
        form_fields(Odd)


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8080", "https://api.example/v1"])
def test_an_address_is_taken(url: str) -> None:
    assert msgspec.convert(url, Host) == url


@pytest.mark.parametrize(
    "url", ["api.example", "ftp://x", "https://x?y=1", "https://x#y", "https:// x", "javascript:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(url, Host)


def test_a_code_without_a_row_is_unmapped() -> None:
    table = RefusalTable({"51": "insufficient_funds"}, source="https://acme.example/codes", as_of=date(2026, 11, 1))
    assert table.code("51") == "insufficient_funds"
    assert table.code("52") == table.code("") == table.code(None) == "unmapped"


def test_a_row_that_maps_to_no_code_of_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="no_money"):
        RefusalTable({"51": "no_money"}, source="x", as_of=date(2026, 11, 1))
