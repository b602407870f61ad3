"""What an operator can set: one frozen struct per table of the TOML.

``default.toml`` beside this module holds every default and says what each setting means; the structs hold types and
bounds. ``load`` puts the sources together and reports every mistake of all of them at once.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, inspect
from packaging.specifiers import SpecifierSet

CONFIG_VARIABLE = "CLEARSPAN_CONFIG"
_PREFIX = "CLEARSPAN_"
_PLUGIN_PREFIX = "CLEARSPAN_PLUGIN_"
_LOCAL_FILE = Path("clearspan.toml")
_SHOWN_MAX = 80


class SettingsError(Exception):
    """The settings cannot be used: ``problems`` holds a sentence per mistake, each with its source, none with a secret."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(("The settings cannot be used:", *(f"- {problem}" for problem in self.problems))))


class Secret:
    """Text that only ``reveal()`` shows, so that no log, trace or error does by accident; false when empty.

    Not a ``str``: an encoder that does not know it fails instead of writing it out.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "***"


class PluginTable(dict[str, Any]):
    """One plugin's own settings. Any of them may be a secret, so it shows its keys only."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{key!r}: ***" for key in self) + "}"


class _Rule(Struct, frozen=True):
    """A bound that ``Meta`` cannot express; ``holds`` gives false or raises ``ValueError`` for what it refuses."""

    says: str
    holds: Callable[[Any], bool]


def _is_public_url(text: str) -> bool:
    url = urlsplit(text)
    plain = not (url.query or url.fragment or "@" in url.netloc or re.search(r"\s", text))
    return not text or (url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and plain)


def _is_issuer(text: str) -> bool:
    url = urlsplit(text)
    local = url.hostname in {"127.0.0.1", "::1", "localhost"}
    return _is_public_url(text) and (not text or url.scheme == "https" or local)


def _are_networks(texts: tuple[str, ...]) -> bool:
    for text in texts:
        ipaddress.ip_network(text)
    return True


def _are_places(texts: tuple[str, ...]) -> bool:
    found = [re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([1-9][0-9]{0,4}|\*)", text) for text in texts]
    return all(match is not None and (match[2] == "*" or int(match[2]) < 65536) for match in found)


def _are_version_ranges(ranges: dict[str, str]) -> bool:
    for text in ranges.values():
        SpecifierSet(text)
    return all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in ranges)


def _begins(*schemes: str) -> Callable[[Secret], bool]:
    return lambda secret: not secret or secret.reveal().startswith(tuple(f"{scheme}://" for scheme in schemes))


def _is_log_name(text: str) -> bool:
    return not re.search(r"[\s+\x00-\x1f\x7f]", text)


def _are_push_targets(targets: tuple[str, ...]) -> bool:
    for target in targets:
        url = urlsplit(target)
        local = url.hostname in {"127.0.0.1", "::1", "localhost"}
        if target.startswith("/"):
            continue
        if not url.hostname or "@" in url.netloc or not (url.scheme == "https" or (url.scheme == "http" and local)):
            return False
    return len(set(targets)) == len(targets)


Port = Annotated[int, Meta(ge=0, le=65535)]
NonEmpty = Annotated[str, Meta(min_length=1)]
PublicUrl = Annotated[str, _Rule("http or https URL without credentials or query, or empty", _is_public_url)]
Issuer = Annotated[
    str, _Rule("https URL without credentials or query (http on this machine only), or empty", _is_issuer)
]
AnySecret = Annotated[Secret, _Rule("secret text, or empty", lambda _: True)]
OidcScopes = Annotated[
    tuple[str, ...],
    _Rule(
        'list of scopes with "openid" among them',
        lambda scopes: "openid" in scopes and all(re.fullmatch(r"[!#-\[\]-~]+", one) for one in scopes),
    ),
]
MailDomains = Annotated[
    tuple[str, ...],
    _Rule(
        'list of domains in lower case, such as ["example.com"]',
        lambda domains: all(re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", one) for one in domains),
    ),
]
Networks = Annotated[tuple[str, ...], _Rule('list of networks such as "10.0.0.0/8"', _are_networks)]
LogName = Annotated[str, _Rule("name without white space and +, or empty", _is_log_name)]
PushTargets = Annotated[
    tuple[str, ...], _Rule("list of absolute paths and https URLs without credentials", _are_push_targets)
]
Places = Annotated[tuple[str, ...], _Rule('list of host:port or host:*, such as ["127.0.0.1:9999"]', _are_places)]
Ports = Annotated[
    tuple[int, ...], _Rule("list of port numbers, such as [443]", lambda ports: all(0 < one < 65536 for one in ports))
]
DatabaseUrl = Annotated[Secret, _Rule("secret postgresql:// URL, or empty", _begins("postgresql", "postgres"))]
MailUrl = Annotated[Secret, _Rule("secret smtp:// or smtps:// URL, or empty", _begins("smtp", "smtps"))]
RedisUrl = Annotated[
    Secret, _Rule("secret redis://, rediss:// or unix:// URL, or empty", _begins("redis", "rediss", "unix"))
]
# It is written into statements that take no parameters, such as GRANT.
RoleName = Annotated[
    str,
    _Rule(
        "lower case name of letters, digits and _, at most 63 long",
        lambda name: re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) is not None,
    ),
]
VersionRanges = Annotated[
    dict[str, str], _Rule('table of plugin name = version range, such as psp-acme = ">=1.2,<2"', _are_version_ranges)
]


class _Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the TOML. No field has a default here: ``default.toml`` is where defaults are."""


class ServerSettings(_Table, frozen=True):
    """``[server]``."""

    host: NonEmpty
    port: Port
    public_url: PublicUrl
    body_max_kb: Annotated[int, Meta(ge=1, le=65536)]
    trusted_proxies: Networks
    drain_timeout_s: Annotated[int, Meta(ge=0, le=3600)]
    sse_streams_max: Annotated[int, Meta(ge=0, le=100_000)]
    sse_streams_per_person_max: Annotated[int, Meta(ge=1, le=1000)]


class DataSettings(_Table, frozen=True):
    """``[data]``."""

    dir: NonEmpty


class DatabaseSettings(_Table, frozen=True):
    """``[database]``."""

    url: DatabaseUrl
    app_url: DatabaseUrl
    app_role: RoleName
    port: Port
    pool_size: Annotated[int, Meta(ge=1, le=500)]
    orm_pool_size: Annotated[int, Meta(ge=1, le=500)]
    connect_timeout_s: Annotated[int, Meta(ge=1, le=120)]
    statement_timeout_ms: Annotated[int, Meta(ge=100, le=3_600_000)]


class RedisSettings(_Table, frozen=True):
    """``[redis]``."""

    url: RedisUrl
    port: Port


class WorkerSettings(_Table, frozen=True):
    """``[worker]``."""

    concurrency: Annotated[int, Meta(ge=1, le=1000)]
    sweep_interval_s: Annotated[int, Meta(ge=1, le=300)]
    sweep_batch: Annotated[int, Meta(ge=1, le=10_000)]


class PaymentSettings(_Table, frozen=True):
    """``[payments]``."""

    wait_budget_s: Annotated[float, Meta(ge=0.1, le=120)]
    psp_connect_timeout_s: Annotated[float, Meta(ge=0.1, le=60)]
    psp_timeout_s: Annotated[float, Meta(ge=0.1, le=300)]
    intent_ttl_h: Annotated[int, Meta(ge=1, le=8760)]
    action_ttl_min: Annotated[int, Meta(ge=1, le=43_200)]
    amount_max_minor: Annotated[int, Meta(ge=1, le=10**12)]
    quarantine_h: Annotated[int, Meta(ge=1, le=8760)]
    surplus: Literal["return", "hold"]
    second_person_above_minor: Annotated[int, Meta(ge=0, le=10**12)]
    refund_second_person_above_minor: Annotated[int, Meta(ge=0, le=10**12)]
    refund_step_up_above_minor: Annotated[int, Meta(ge=0, le=10**12)]


class MandateSettings(_Table, frozen=True):
    """``[mandates]``."""

    authentication: Literal["eea", "always", "never"]


class RebillSettings(_Table, frozen=True):
    """``[rebills]``."""

    plan_batch: Annotated[int, Meta(ge=1, le=10_000)]
    charges_max: Annotated[int, Meta(ge=1, le=1000)]
    rate_per_account_s: Annotated[float, Meta(ge=0.01, le=10_000)]
    lease_s: Annotated[int, Meta(ge=5, le=3600)]
    incomplete_ttl_h: Annotated[int, Meta(ge=1, le=8760)]


class MailSettings(_Table, frozen=True):
    """``[mail]``."""

    url: MailUrl
    sender: Annotated[str, Meta(min_length=3, max_length=254, pattern=r"^[^\s@<>]+@[^\s@<>]+$")]
    timeout_s: Annotated[float, Meta(ge=0.1, le=300)]
    tries_max: Annotated[int, Meta(ge=1, le=50)]


class PspSettings(_Table, frozen=True):
    """``[psps]``."""

    webhook_body_max_kb: Annotated[int, Meta(ge=1, le=65536)]
    webhook_verify_timeout_s: Annotated[float, Meta(ge=0.1, le=60)]
    webhook_rotation_overlap_h: Annotated[int, Meta(ge=0, le=8760)]
    calls_max: Annotated[int, Meta(ge=1, le=10_000)]
    breaker_window_s: Annotated[float, Meta(ge=1, le=3600)]
    breaker_sample: Annotated[int, Meta(ge=1, le=10_000)]
    breaker_calls_min: Annotated[int, Meta(ge=1, le=10_000)]
    breaker_failure_share: Annotated[float, Meta(ge=0.01, le=1)]
    breaker_open_s: Annotated[float, Meta(ge=0.1, le=3600)]
    breaker_probes: Annotated[int, Meta(ge=1, le=100)]
    breaker_recovery_probe_s: Annotated[float, Meta(ge=0.1, le=3600)]


class OutboundSettings(_Table, frozen=True):
    """``[outbound]``."""

    allow_internal: Places
    ports: Ports


class WebhookSettings(_Table, frozen=True):
    """``[webhooks]``."""

    timeout_s: Annotated[float, Meta(ge=0.1, le=60)]
    concurrency: Annotated[int, Meta(ge=1, le=1000)]
    endpoint_concurrency: Annotated[int, Meta(ge=1, le=100)]
    disable_after_h: Annotated[int, Meta(ge=1, le=8760)]
    retention_days: Annotated[int, Meta(ge=1, le=3650)]


class IdempotencySettings(_Table, frozen=True):
    """``[idempotency]``."""

    replay_days: Annotated[int, Meta(ge=1, le=3650)]
    lease_s: Annotated[int, Meta(ge=1, le=3600)]


class AccessSettings(_Table, frozen=True):
    """``[access]``."""

    key_cache_s: Annotated[float, Meta(ge=0, le=300)]
    key_rotation_overlap_h: Annotated[int, Meta(ge=0, le=8760)]
    session_idle_min: Annotated[int, Meta(ge=1, le=1440)]
    session_max_h: Annotated[int, Meta(ge=1, le=168)]
    step_up_min: Annotated[int, Meta(ge=1, le=60)]
    sign_in_tries_max: Annotated[int, Meta(ge=3, le=100)]
    token_ttl_min: Annotated[int, Meta(ge=1, le=15)]


class OidcSettings(_Table, frozen=True):
    """``[oidc]``."""

    issuer: Issuer
    client_id: str
    client_secret: AnySecret
    scopes: OidcScopes
    label: Annotated[str, Meta(min_length=1, max_length=80)]
    allowed_domains: MailDomains
    provision_role: Literal["", "admin", "finance", "support", "developer", "auditor"]
    provision_tenant: str
    require: bool


class EventSettings(_Table, frozen=True):
    """``[events]``."""

    poll_ms: Annotated[int, Meta(ge=10, le=60_000)]
    page_max: Annotated[int, Meta(ge=1, le=1000)]
    keepalive_s: Annotated[int, Meta(ge=1, le=300)]
    stream_backlog_max: Annotated[int, Meta(ge=1, le=100_000)]


class AuditSettings(_Table, frozen=True):
    """``[audit]``."""

    origin: LogName
    seal_interval_s: Annotated[float, Meta(ge=0.05, le=60)]
    checkpoint_interval_s: Annotated[int, Meta(ge=1, le=86_400)]
    push_to: PushTargets


class PluginsSettings(_Table, frozen=True):
    """``[plugins]``."""

    safe_mode: bool
    enabled: VersionRanges


class SecuritySettings(_Table, frozen=True):
    """``[security]``."""

    master_key_file: str
    max_header_kb: Annotated[int, Meta(ge=1, le=1024)]


class LogSettings(_Table, frozen=True):
    """``[log]``."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["json", "console"]


class TelemetrySettings(_Table, frozen=True):
    """``[telemetry]``."""

    metrics: bool
    worker_port: Port


class SandboxSettings(_Table, frozen=True):
    """``[sandbox]``."""

    companions: bool


class Settings(_Table, frozen=True):
    """All settings. ``plugin`` maps a plugin's name to its own table; what comes from the environment is text there."""

    server: ServerSettings
    data: DataSettings
    database: DatabaseSettings
    redis: RedisSettings
    worker: WorkerSettings
    payments: PaymentSettings
    mandates: MandateSettings
    rebills: RebillSettings
    mail: MailSettings
    psps: PspSettings
    outbound: OutboundSettings
    webhooks: WebhookSettings
    idempotency: IdempotencySettings
    access: AccessSettings
    oidc: OidcSettings
    events: EventSettings
    audit: AuditSettings
    plugins: PluginsSettings
    plugin: dict[str, dict[str, Any]]
    security: SecuritySettings
    log: LogSettings
    telemetry: TelemetrySettings
    sandbox: SandboxSettings

    @property
    def data_dir(self) -> Path:
        """``data.dir``, absolute."""
        return Path(self.data.dir).expanduser().absolute()

    @property
    def master_key_path(self) -> Path:
        """``security.master_key_file``, or where the generated key lies, absolute."""
        if self.security.master_key_file:
            return Path(self.security.master_key_file).expanduser().absolute()
        return self.data_dir / "secrets" / "master.key"


_STRUCTS: dict[str, type[_Table]] = {name: hint for name, hint in get_type_hints(Settings).items() if name != "plugin"}
# Table -> key -> type with its bounds, as annotated above.
FIELDS: dict[str, dict[str, Any]] = {
    table: get_type_hints(struct, include_extras=True) for table, struct in _STRUCTS.items()
}


def variable(table: str, key: str) -> str:
    """The environment variable of a setting."""
    return f"{_PREFIX}{table}_{key}".replace("-", "_").upper()


_VARIABLES = {variable(table, key): (table, key) for table, keys in FIELDS.items() for key in keys}
_NAMES = [f"{table}.{key}" for table, keys in FIELDS.items() for key in keys]


def default_text() -> str:
    """``default.toml`` as it is shipped."""
    return resources.files("clearspan").joinpath("default.toml").read_text(encoding="utf-8")


def describe(hint: object) -> str:
    """What a setting of this type may be, for people: ``integer from 0 to 65535``."""
    for rule in _rules(hint):
        return rule.says
    match inspect.type_info(hint):
        case inspect.IntType(ge=low, le=high):
            return f"integer from {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"number from {low} to {high}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return " or ".join(json.dumps(value) for value in get_args(hint))
        case inspect.StrType(min_length=length):
            return "text, not empty" if length else "text"
        case unknown:
            raise AssertionError(f"no words for {unknown}")


def load(config_file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Put ``default.toml``, one file and the environment together; later sources win.

    Args:
        config_file: else the file that ``CLEARSPAN_CONFIG`` names, else ``clearspan.toml`` in the working directory when
            there is one.
        environ: variables ``CLEARSPAN_<TABLE>_<KEY>``; lists are separated by commas or a TOML or JSON array, tables
            are TOML inline tables or JSON objects.

    Raises:
        SettingsError: a source cannot be read, names no setting, or holds a value of the wrong type or out of bounds;
            everything found in all sources at once.
    """
    layers = _Layers()
    layers.add_document(tomllib.loads(default_text()), "default.toml")
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    if config_file is None and _LOCAL_FILE.exists():
        config_file = _LOCAL_FILE
    if config_file is not None:
        layers.add_file(config_file)
    layers.add_environment(environ)
    return layers.settings()


class _Layers:
    """The settings while sources are laid over each other, and every mistake met on the way."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {table: {} for table in FIELDS}
        self._plugin: dict[str, PluginTable] = {}
        self._problems: list[str] = []
        self._plugins_known = True

    def add_file(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            self._unreadable(f"{path}: cannot be read: {error.strerror}")
            return
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            self._unreadable(f"{path}: not UTF-8 (at line {line})")
            return
        try:
            document = tomllib.loads(text)
        except ValueError as error:
            end = f"at line {max(1, len(text.splitlines()))}, the end of the file"
            self._unreadable(f"{path}: not TOML: {error}".replace("at end of document", end))
            return
        self.add_document(document, str(path))

    def _unreadable(self, problem: str) -> None:
        self._problems.append(problem)
        # The file may have named plugins, so whose a variable is cannot be told any more.
        self._plugins_known = False

    def add_document(self, document: dict[str, Any], source: str) -> None:
        for table, content in document.items():
            if table == "plugin":
                self._add_plugin_tables(content, source)
            elif table not in FIELDS:
                known = _nearest(table, [*FIELDS, "plugin"])
                self._problems.append(f"{source}: [{table}] is not a table of settings; the nearest is [{known}]")
            elif not isinstance(content, dict):
                self._problems.append(f"{source}: {table} must be a table of settings")
            else:
                for key, value in content.items():
                    if key in FIELDS[table]:
                        self._put(table, key, value, f"{source}: {table}.{key}", value)
                    else:
                        known = _nearest(f"{table}.{key}", _NAMES)
                        self._problems.append(f"{source}: {table}.{key} is not a setting; the nearest is {known}")

    def _add_plugin_tables(self, content: object, source: str) -> None:
        if not isinstance(content, dict):
            self._problems.append(f"{source}: plugin must hold one table per plugin")
            return
        for name, table in content.items():
            if isinstance(table, dict):
                self._plugin.setdefault(name, PluginTable()).update(table)
            else:
                self._problems.append(f"{source}: plugin.{name} must be a table, the settings of that plugin")

    def add_environment(self, environ: Mapping[str, str]) -> None:
        # plugins.enabled first: it says which plugins a CLEARSPAN_PLUGIN_ variable can belong to.
        for name in sorted(environ, key=lambda name: (name.startswith(_PLUGIN_PREFIX), name)):
            text = environ[name]
            if name in _VARIABLES:
                table, key = _VARIABLES[name]
                try:
                    value = _parsed(text, FIELDS[table][key])
                except ValueError:
                    value = text  # No such field takes text, so it is refused below.
                self._put(table, key, value, name, text)
            elif name.startswith(_PLUGIN_PREFIX):
                if self._plugins_known:
                    self._add_plugin_variable(name, text)
            elif name.startswith(_PREFIX) and name != CONFIG_VARIABLE:
                known = _nearest(name, [*_VARIABLES, CONFIG_VARIABLE])
                self._problems.append(f"{name} is not a setting; the nearest is {known}")

    def _add_plugin_variable(self, variable_name: str, text: str) -> None:
        plugins = self._plugin.keys() | self._values["plugins"]["enabled"].keys()
        prefixes = {variable(f"plugin_{plugin}", ""): plugin for plugin in plugins}
        # The longest prefix: of plugins `psp` and `psp-acme`, CLEARSPAN_PLUGIN_PSP_ACME_KEY is the second one's.
        for prefix in sorted(prefixes, key=len, reverse=True):
            if variable_name.startswith(prefix) and variable_name != prefix:
                key = variable_name.removeprefix(prefix).lower()
                self._plugin.setdefault(prefixes[prefix], PluginTable())[key] = text
                return
        known = _nearest(variable_name, [*_VARIABLES, *(f"{prefix}<KEY>" for prefix in sorted(prefixes))])
        self._problems.append(
            f"{variable_name} belongs to no plugin in plugins.enabled or [plugin.<name>]; the nearest is {known}"
        )

    def _put(self, table: str, key: str, value: object, source: str, written: object) -> None:
        """Take a value in; ``written`` is what the operator wrote for it."""
        hint = FIELDS[table][key]
        try:
            self._values[table][key] = _checked(value, hint)
        except ValueError:
            secret = isinstance(inspect.type_info(hint), inspect.CustomType)
            got = "***" if secret else _shown(written)
            self._problems.append(f"{source}: got {got}, expected {describe(hint)}")

    def settings(self) -> Settings:
        """Raises ``SettingsError`` when anything was wrong."""
        if not self._problems:
            self._check_together()
        if self._problems:
            raise SettingsError(self._problems)
        server = self._values["server"]
        server["public_url"] = (server["public_url"] or _origin(server["host"], server["port"])).rstrip("/")
        tables: dict[str, Any] = {table: struct(**self._values[table]) for table, struct in _STRUCTS.items()}
        return Settings(**tables, plugin=dict(self._plugin))

    def _check_together(self) -> None:
        payments, lease_s = self._values["payments"], self._values["idempotency"]["lease_s"]
        connect_s, total_s = payments["psp_connect_timeout_s"], payments["psp_timeout_s"]
        if connect_s > total_s:
            self._problems.append(
                f"payments.psp_connect_timeout_s: got {connect_s}, expected at most payments.psp_timeout_s, {total_s}"
            )
        sample, calls_min = self._values["psps"]["breaker_sample"], self._values["psps"]["breaker_calls_min"]
        if calls_min > sample:
            self._problems.append(
                f"psps.breaker_calls_min: got {calls_min}, expected at most psps.breaker_sample, {sample}"
            )
        oidc = self._values["oidc"]
        if oidc["issuer"] and not oidc["client_id"]:
            self._problems.append("oidc.client_id: got none, expected the id that the provider of oidc.issuer gave")
        if oidc["require"] and not oidc["issuer"]:
            self._problems.append("oidc.require: got true, expected false without oidc.issuer: nobody could sign in")
        if bool(oidc["provision_role"]) != bool(oidc["provision_tenant"]):
            self._problems.append("oidc.provision_role and oidc.provision_tenant: give both or neither")
        if lease_s <= total_s:
            self._problems.append(
                f"idempotency.lease_s: got {lease_s}, expected more than payments.psp_timeout_s, {total_s}"
            )


def _rules(hint: object) -> list[_Rule]:
    return [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, _Rule)]


def _checked(value: object, hint: object) -> object:
    """The value as the struct wants it; ``ValueError`` for a wrong type or a bound not kept."""
    checked = msgspec.convert(value, hint, dec_hook=_secret)
    if not all(rule.holds(checked) for rule in _rules(hint)):
        raise ValueError
    return checked


def _secret(kind: type, value: object) -> Secret:
    assert kind is Secret
    if not isinstance(value, str):
        raise TypeError
    return Secret(value)


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _parsed(text: str, hint: object) -> object:
    """A variable's text as a value that TOML could have given; ``ValueError`` when it cannot be one."""
    match inspect.type_info(hint):
        case inspect.IntType():
            return int(text)
        case inspect.FloatType():
            return float(text)
        case inspect.BoolType():
            return _BOOLEANS.get(text.lower(), text)
        case inspect.VarTupleType(item_type=inspect.IntType()) if not text.lstrip().startswith("["):
            return [int(part) for part in text.split(",") if part.strip()]
        case inspect.VarTupleType() if not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        case inspect.VarTupleType() | inspect.DictType():
            return _literal(text)
        case _:
            return text


def _literal(text: str) -> object:
    """A JSON value, or a TOML value on one line."""
    try:
        return json.loads(text)
    except ValueError:
        # One line only: a second one could be a key of its own.
        return tomllib.loads(f"value = {' '.join(text.splitlines())}")["value"]


def _shown(value: object) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"


def _nearest(name: str, known: Iterable[str]) -> str:
    by_upper = {each.upper(): each for each in known}
    return by_upper[get_close_matches(name.upper(), by_upper, n=1, cutoff=0)[0]]


def _origin(host: str, port: int) -> str:
    """``http://host:port``; empty for port 0, which is not known before the server listens."""
    if not port:
        return ""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
