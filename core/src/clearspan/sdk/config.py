"""Settings of plugins: msgspec structs that the gateway checks, seals and renders as forms.

```python
class AcmeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    api_key: Secret
    merchant: Annotated[str, Meta(title="Merchant account", description="As shown at the top of Acme's dashboard.")]
    url: Host = ""

    def problem(self, live: bool) -> str: ...   # optional: what is wrong with these settings in this mode, or ""
```
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Secret = Annotated[str, Meta(min_length=1, extra={"secret": True})]
"""A text that is never shown again."""
OptionalSecret = Annotated[str, Meta(extra={"secret": True})]
"""The same, where nothing is an answer too."""
Host = Annotated[
    str,
    Meta(
        pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$",
        title="API address",
        description="Leave empty for the PSP's own; for a simulator or a proxy.",
    ),
]
"""An address that replaces the PSP's own."""


class FormField(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a form.

    Attributes:
        name: in the settings.
        title, description: for people.
        type: ``text``, ``secret``, ``integer``, ``boolean`` or ``choice``.
        required: there is no default.
        default: what holds when it is left out; never a secret.
        choices: of ``choice``.
    """

    name: str
    title: str
    type: str
    required: bool
    description: str = ""
    default: Any = None
    choices: Sequence[str] = ()


def form_fields(config_type: type[msgspec.Struct]) -> list[FormField]:
    """The form of a settings struct, in the order of its fields. Descriptions come from ``Meta``, else from the docstring's
    ``Attributes``.

    Raises:
        TypeError: a field has a type that no form can show.
    """
    told = _attributes(inspect.getdoc(config_type) or "")
    hints = typing.get_type_hints(config_type, include_extras=True)
    found = []
    for field in msgspec.structs.fields(config_type):
        base, extra, title, description = _unwrapped(hints[field.name])
        choices: Sequence[str] = ()
        if extra.get("secret"):
            kind = "secret"
        elif typing.get_origin(base) is typing.Literal:
            kind, choices = "choice", [str(one) for one in typing.get_args(base)]
        elif base in (str, int, bool):
            kind = {str: "text", int: "integer", bool: "boolean"}[base]
        else:
            raise TypeError(f"{config_type.__name__}.{field.name}: a form cannot show {base}")
        required = field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT
        default = None if required or kind == "secret" or field.default is msgspec.NODEFAULT else field.default
        found.append(
            FormField(
                name=field.name,
                title=title or field.name.replace("_", " ").capitalize(),
                type=kind,
                required=required,
                description=description or told.get(field.name, ""),
                default=default,
                choices=choices,
            )
        )
    return found


def _unwrapped(hint: Any) -> tuple[Any, dict[str, Any], str, str]:
    """The plain type, and what ``Meta`` says of it."""
    extra: dict[str, Any] = {}
    title = description = ""
    while True:
        if typing.get_origin(hint) is Annotated:
            for meta in hint.__metadata__:
                if isinstance(meta, Meta):
                    extra |= meta.extra or {}
                    title, description = title or meta.title or "", description or meta.description or ""
            hint = hint.__origin__
        elif typing.get_origin(hint) in (typing.Union, types.UnionType) and len(arms := _arms(hint)) == 1:
            hint = arms[0]
        else:
            return hint, extra, title, description


def _arms(hint: Any) -> list[Any]:
    """What a union allows besides nothing."""
    return [one for one in typing.get_args(hint) if one is not type(None)]


def _attributes(docstring: str) -> dict[str, str]:
    """Field -> its words in a docstring's ``Attributes`` section."""
    found: dict[str, str] = {}
    name = ""
    _, _, section = docstring.partition("Attributes:\n")
    for line in section.splitlines():
        head, colon, words = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            name = head
            found[name] = words
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
