"""Which PSPs the enabled plugins bring, and what their accounts are set up with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from clearspan.platform.plugins import Plugins
from clearspan.sdk import FormField, PspAdapter, form_fields

_OPTIONAL = {"check_account": "check", "fetch_settlements": "settlements", "read_settlements": "settlement_files"}


class SettingOut(msgspec.Struct, frozen=True, kw_only=True):
    """One field of the form for an account's settings."""

    name: Annotated[str, Meta(description="The key in `config`.", examples=["api_key"])]
    title: str
    description: str
    type: Literal["text", "secret", "integer", "boolean", "choice"]
    required: bool
    default: Annotated[str | int | bool | None, Meta(description="What holds when it is left out; never a secret.")]
    choices: list[str]

    @classmethod
    def of(cls, field: FormField) -> SettingOut:
        """From the SDK's."""
        return msgspec.convert(msgspec.structs.asdict(field), cls)


class PspOut(msgspec.Struct, frozen=True, kw_only=True):
    """A PSP that accounts can be added for."""

    object: Literal["psp"]
    name: Annotated[str, Meta(description="`psp` of an account.", examples=["sandbox"])]
    plugin: Annotated[str, Meta(examples=["psp-sandbox"])]
    distribution: str
    version: str
    capabilities: list[str]
    sources: Annotated[list[str], Meta(description="What a charge may be paid with.", examples=[["card"]])]
    methods: Annotated[list[str], Meta(description="Ways to pay that a redirect may name; empty: none.")]
    currencies: Annotated[list[str], Meta(description="ISO 4217; empty: all.")]
    does: Annotated[list[str], Meta(description="What else it can: `check`, `settlements`, `settlement_files`.")]
    settings: Annotated[list[SettingOut], Meta(description="The form for `config`, in its order.")]


class PspList(msgspec.Struct, frozen=True, kw_only=True):
    """All PSPs of the enabled plugins."""

    object: Literal["list"]
    data: list[PspOut]


def psps(plugins: Plugins) -> PspList:
    """By name."""
    return PspList(object="list", data=[_psp(plugins, name) for name in sorted(plugins.psps)])


def _psp(plugins: Plugins, name: str) -> PspOut:
    kind, plugin = plugins.psps[name], plugins.plugin_of_psp[name]
    loaded = next((one for one in plugins.loaded if one.name == plugin), None)
    return PspOut(
        object="psp",
        name=name,
        plugin=plugin,
        distribution=loaded.distribution if loaded else "",
        version=loaded.version if loaded else "",
        settings=[SettingOut.of(field) for field in form_fields(kind.config_type)],
        **described(kind),
    )


def described(kind: type[PspAdapter]) -> dict[str, Any]:
    """An adapter's facts as lists of words, each sorted."""
    facts = kind.facts
    return {
        "capabilities": sorted(facts.capabilities),
        "sources": sorted(facts.sources),
        "methods": sorted(facts.methods),
        "currencies": sorted(facts.currencies),
        "does": sorted(word for verb, word in _OPTIONAL.items() if hasattr(kind, verb)),
    }
