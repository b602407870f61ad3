"""Forms that are filled in: read into structs, with what is wrong beside its field, and shown again as they were typed.

A secret is never shown again, neither what is stored nor what was just typed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from clearspan.platform.problems import InvalidRequest
from clearspan.psps.catalogue import SettingOut
from clearspan_admin.web import Form, Http, say

T = TypeVar("T")
_PLACE = re.compile(r" - at `\$\.([a-z_0-9.]+)[^`]*`$")
_MISSING = re.compile(r"required field `([a-z_0-9]+)`")


def name_of(field: SettingOut) -> str:
    """The form's name of a plugin's setting: it meets no field of ours, and says which are never carried along."""
    return f"{'secret' if field.type == 'secret' else 'config'}-{field.name}"


class Filled(msgspec.Struct, kw_only=True):
    """A plugin's settings as they came from a form.

    Attributes:
        values: to be stored.
        keep: secrets that stay as they are.
        typed: to be shown again; no secrets.
        errors: by field; under "" what belongs to none.
        secrets_typed: whether some secret has to be typed again.
    """

    values: dict[str, Any] = {}
    keep: set[str] = set()
    typed: dict[str, Any] = {}
    errors: dict[str, str] = {}
    secrets_typed: bool = False


def settings_of(request: Http, form: Form, fields: Sequence[SettingOut], stored: Collection[str] = ()) -> Filled:
    """Read the settings of a plugin.

    Args:
        request: for the language of what is wrong.
        form: what was sent.
        fields: of the plugin's settings.
        stored: names of the secrets that are set.
    """
    filled = Filled()
    for field in fields:
        name = name_of(field)
        text = form.text(name)
        if field.type == "boolean":
            filled.values[field.name] = filled.typed[field.name] = form.has(name)
            continue
        if field.type == "secret":
            filled.secrets_typed = filled.secrets_typed or bool(text)
            if not text and field.name in stored and not form.has(f"clear-{field.name}"):
                filled.keep.add(field.name)
                continue
        else:
            filled.typed[field.name] = text
        if text:
            filled.values[field.name] = _number(text) if field.type == "integer" else text
        elif field.required:
            filled.errors[field.name] = say(request, "This is needed.")
    return filled


def _number(text: str) -> int | str:
    """Text that is no number is left to the plugin's struct to complain about."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def refusal(error: InvalidRequest, names: Collection[str]) -> dict[str, str]:
    """What a service refused, by field; under "" what belongs to none of ``names``."""
    found: dict[str, str] = {}
    for one in error.fields.get("errors", []):
        words = str(one.get("message", ""))
        place = _PLACE.search(words) or _MISSING.search(words)
        name = place[1].rstrip(".") if place else str(one.get("path", "")).removeprefix("$.").partition(".")[0]
        found.setdefault(name if name in names else "", _PLACE.sub("", words))
    return found or {"": error.detail}


def struct_of(kind: type[T], values: Mapping[str, Any]) -> tuple[T | None, dict[str, str]]:
    """A request of the API from plain values, or what is wrong with them by field: ``seller_name`` for one inside another."""
    try:
        return msgspec.convert(dict(values), kind), {}
    except msgspec.ValidationError as error:
        words = str(error)
        place = _PLACE.search(words) or _MISSING.search(words)
        return None, {place[1].rstrip(".").replace(".", "_") if place else "": _PLACE.sub("", words)}
