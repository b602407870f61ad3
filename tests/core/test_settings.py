"""Settings come from the default, one file and the environment, and every mistake is named with its source."""

import pickle
import tomllib
from pathlib import Path

import pytest

from clearspan.docs_gen import configuration
from clearspan.settings import FIELDS, Secret, Settings, SettingsError, default_text, describe, load, variable

ROOT = Path(__file__).parents[2]
PASSWORD = "correct-horse"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, so that no clearspan.toml of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def file(directory: Path, text: str, name: str = "given.toml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(config_file: Path | None = None, **environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(config_file, environ)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


# Sources


def test_without_any_source_the_defaults_hold() -> None:
    settings = load(environ={})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings.payments.psp_timeout_s == 25.0
    assert settings.plugins.enabled == {"psp-sandbox": ">=0.1", "vault-sandbox": ">=0.1", "admin": ">=0.1"}
    assert settings.plugin["vault-sandbox"] == {"url": "http://127.0.0.1:8082"}
    assert not settings.database.url
    assert settings.log.level == "info"


def test_every_default_reaches_its_field_unchanged() -> None:
    settings = load(environ={"CLEARSPAN_SERVER_PUBLIC_URL": "https://pay.example"})
    for table, content in tomllib.loads(default_text()).items():
        for key, value in content.items():
            got = settings.plugin[key] if table == "plugin" else getattr(getattr(settings, table), key)
            if (table, key) != ("server", "public_url"):
                assert (
                    got.reveal() if isinstance(got, Secret) else list(got) if isinstance(got, tuple) else got
                ) == value


def test_the_file_overrides_the_default_and_leaves_the_rest(tmp_path: Path) -> None:
    settings = load(file(tmp_path, "[server]\nport = 9000\n[payments]\npsp_timeout_s = 20\n"), {})
    assert settings.server.port == 9000
    assert settings.server.body_max_kb == 256
    assert settings.payments.psp_timeout_s == 20.0
    assert isinstance(settings.payments.psp_timeout_s, float)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "[server]\nport = 9000\nhost = '127.0.0.2'\n")
    settings = load(path, {"CLEARSPAN_SERVER_PORT": "9001", "HOME": "/nowhere"})
    assert (settings.server.port, settings.server.host) == (9001, "127.0.0.2")


def test_the_argument_goes_before_the_variable_and_the_variable_before_the_working_directory(tmp_path: Path) -> None:
    file(tmp_path, "[server]\nport = 1001\n", "clearspan.toml")
    named = file(tmp_path, "[server]\nport = 1002\n", "named.toml")
    given = file(tmp_path, "[server]\nport = 1003\n")
    assert load(environ={}).server.port == 1001
    assert load(environ={"CLEARSPAN_CONFIG": ""}).server.port == 1001
    assert load(environ={"CLEARSPAN_CONFIG": str(named)}).server.port == 1002
    assert load(given, {"CLEARSPAN_CONFIG": str(named)}).server.port == 1003


def test_without_an_argument_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARSPAN_SERVER_PORT", "9002")
    assert load().server.port == 9002


def test_a_table_of_plugins_replaces_the_default_one(tmp_path: Path) -> None:
    settings = load(file(tmp_path, '[plugins.enabled]\nadmin = ""\n'), {})
    assert settings.plugins.enabled == {"admin": ""}
    assert settings.plugins.safe_mode is False


def test_a_plugins_own_keys_are_added_to_its_defaults(tmp_path: Path) -> None:
    path = file(tmp_path, "[plugin.psp-sandbox]\nseed = 7\n[plugin.psp-acme]\nregions = ['eu']\n")
    settings = load(path, {})
    assert settings.plugin["psp-sandbox"] == {"url": "http://127.0.0.1:8081", "seed": 7}
    assert settings.plugin["psp-acme"] == {"regions": ["eu"]}


# Values in the environment


@pytest.mark.parametrize(
    ("name", "text", "table", "key", "value"),
    [
        ("CLEARSPAN_WORKER_CONCURRENCY", "25", "worker", "concurrency", 25),
        ("CLEARSPAN_ACCESS_KEY_CACHE_S", "0.5", "access", "key_cache_s", 0.5),
        ("CLEARSPAN_ACCESS_KEY_CACHE_S", "2", "access", "key_cache_s", 2.0),
        ("CLEARSPAN_TELEMETRY_METRICS", "false", "telemetry", "metrics", False),
        ("CLEARSPAN_TELEMETRY_METRICS", "0", "telemetry", "metrics", False),
        ("CLEARSPAN_PLUGINS_SAFE_MODE", "True", "plugins", "safe_mode", True),
        ("CLEARSPAN_PLUGINS_SAFE_MODE", "1", "plugins", "safe_mode", True),
        ("CLEARSPAN_LOG_FORMAT", "console", "log", "format", "console"),
        ("CLEARSPAN_DATABASE_APP_ROLE", "gate", "database", "app_role", "gate"),
        ("CLEARSPAN_DATABASE_URL", "postgresql://o:p@db/x", "database", "url", Secret("postgresql://o:p@db/x")),
        ("CLEARSPAN_REDIS_URL", "rediss://r:6379/1", "redis", "url", Secret("rediss://r:6379/1")),
        ("CLEARSPAN_SERVER_TRUSTED_PROXIES", "", "server", "trusted_proxies", ()),
        (
            "CLEARSPAN_SERVER_TRUSTED_PROXIES",
            "10.0.0.0/8, fd00::/8",
            "server",
            "trusted_proxies",
            ("10.0.0.0/8", "fd00::/8"),
        ),
        ("CLEARSPAN_SERVER_TRUSTED_PROXIES", '["10.0.0.0\\/8"]', "server", "trusted_proxies", ("10.0.0.0/8",)),
        ("CLEARSPAN_SERVER_TRUSTED_PROXIES", "['10.0.0.0/8',]", "server", "trusted_proxies", ("10.0.0.0/8",)),
        ("CLEARSPAN_PLUGINS_ENABLED", '{ psp-acme = ">=1,<2" }', "plugins", "enabled", {"psp-acme": ">=1,<2"}),
        ("CLEARSPAN_PLUGINS_ENABLED", '{"psp-acme": "~=1.4"}', "plugins", "enabled", {"psp-acme": "~=1.4"}),
    ],
)
def test_a_variable_is_read_as_the_type_of_its_field(name: str, text: str, table: str, key: str, value: object) -> None:
    got = getattr(getattr(load(environ={name: text}), table), key)
    assert got == value
    assert type(got) is type(value)


def test_a_plugins_variable_is_text_under_the_plugins_name(tmp_path: Path) -> None:
    path = file(tmp_path, "[plugin.psp-sandbox]\nurl = 'http://file'\n")
    settings = load(path, {"CLEARSPAN_PLUGIN_PSP_SANDBOX_URL": "http://env", "CLEARSPAN_PLUGIN_ADMIN_PAGE_SIZE": "50"})
    assert settings.plugin["psp-sandbox"] == {"url": "http://env"}
    assert settings.plugin["admin"] == {"page_size": "50"}


def test_a_plugins_variable_belongs_to_the_longest_name_that_fits() -> None:
    enabled = '{ psp = "", psp-acme = "" }'
    environ = {
        "CLEARSPAN_PLUGIN_PSP_ACME_KEY": "a",
        "CLEARSPAN_PLUGIN_PSP_KEY": "b",
        "CLEARSPAN_PLUGINS_ENABLED": enabled,
    }
    settings = load(environ=environ)
    assert settings.plugin["psp-acme"] == {"key": "a"}
    assert settings.plugin["psp"] == {"key": "b"}


# Mistakes


def test_an_unknown_setting_in_the_file_names_the_file_and_the_nearest(tmp_path: Path) -> None:
    path = file(tmp_path, "[server]\nprot = 1\npool_size = 3\n[databse]\nurl = ''\n")
    assert problems(path) == (
        f"{path}: server.prot is not a setting; the nearest is server.port",
        f"{path}: server.pool_size is not a setting; the nearest is database.pool_size",
        f"{path}: [databse] is not a table of settings; the nearest is [database]",
    )


def test_an_unknown_variable_names_the_nearest() -> None:
    assert problems(CLEARSPAN_SERVER_PROT="1", CLEARSPAN_CONFG="x", CLEARSPAN_log_level="debug") == (
        "CLEARSPAN_CONFG is not a setting; the nearest is CLEARSPAN_CONFIG",
        "CLEARSPAN_SERVER_PROT is not a setting; the nearest is CLEARSPAN_SERVER_PORT",
        "CLEARSPAN_log_level is not a setting; the nearest is CLEARSPAN_LOG_LEVEL",
    )


def test_a_variable_of_no_plugin_names_the_nearest() -> None:
    ending = "belongs to no plugin in plugins.enabled or [plugin.<name>]; the nearest is"
    assert problems(
        CLEARSPAN_PLUGIN_PSP_SANBOX_KEY="1", CLEARSPAN_PLUGIN_SAFE_MODE="1", CLEARSPAN_PLUGIN_VAULT_SANDBOX_="1"
    ) == (
        f"CLEARSPAN_PLUGIN_PSP_SANBOX_KEY {ending} CLEARSPAN_PLUGIN_PSP_SANDBOX_<KEY>",
        f"CLEARSPAN_PLUGIN_SAFE_MODE {ending} CLEARSPAN_PLUGINS_SAFE_MODE",
        f"CLEARSPAN_PLUGIN_VAULT_SANDBOX_ {ending} CLEARSPAN_PLUGIN_VAULT_SANDBOX_<KEY>",
    )


@pytest.mark.parametrize(
    ("line", "got", "expected"),
    [
        ("server.port = '80'", '"80"', "integer from 0 to 65535"),
        ("server.port = 80.0", "80.0", "integer from 0 to 65535"),
        ("server.port = true", "true", "integer from 0 to 65535"),
        ("server.port = 65536", "65536", "integer from 0 to 65535"),
        ("server.port = -1", "-1", "integer from 0 to 65535"),
        ("server.host = ''", '""', "text, not empty"),
        ("worker.concurrency = 0", "0", "integer from 1 to 1000"),
        ("payments.psp_timeout_s = 'long'", '"long"', "number from 0.1 to 300"),
        ("payments.psp_timeout_s = nan", "NaN", "number from 0.1 to 300"),
        ("payments.psp_timeout_s = inf", "Infinity", "number from 0.1 to 300"),
        ("payments.amount_max_minor = 1000000000001", "1000000000001", "integer from 1 to 1000000000000"),
        ("telemetry.metrics = 1", "1", "true or false"),
        ("log.level = 'loud'", '"loud"', '"debug" or "info" or "warning" or "error"'),
        ("log.format = 1979-05-27", '"1979-05-27"', '"json" or "console"'),
        ("server.trusted_proxies = '10.0.0.0/8'", '"10.0.0.0/8"', 'list of networks such as "10.0.0.0/8"'),
        ("server.trusted_proxies = ['10.0.0.1/8']", '["10.0.0.1/8"]', 'list of networks such as "10.0.0.0/8"'),
        ("server.public_url = 'pay.example'", '"pay.example"', describe(FIELDS["server"]["public_url"])),
        ("server.public_url = 'https://u@e'", '"https://u@e"', describe(FIELDS["server"]["public_url"])),
        ("database.app_role = 'a; drop'", '"a; drop"', describe(FIELDS["database"]["app_role"])),
        ("plugins.enabled.admin = 'newest'", '{"admin": "newest"}', describe(FIELDS["plugins"]["enabled"])),
        ("plugins.enabled.Admin_x = ''", '{"Admin_x": ""}', describe(FIELDS["plugins"]["enabled"])),
    ],
)
def test_a_wrong_value_in_the_file_names_key_got_and_expected(
    tmp_path: Path, line: str, got: str, expected: str
) -> None:
    path = file(tmp_path, line)
    key = "plugins.enabled" if line.startswith("plugins") else line.split(" = ", maxsplit=1)[0]
    assert problems(path) == (f"{path}: {key}: got {got}, expected {expected}",)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("CLEARSPAN_SERVER_PORT", "http", "integer from 0 to 65535"),
        ("CLEARSPAN_SERVER_PORT", "65536", "integer from 0 to 65535"),
        ("CLEARSPAN_SERVER_PORT", "", "integer from 0 to 65535"),
        ("CLEARSPAN_PAYMENTS_WAIT_BUDGET_S", "nan", "number from 0.1 to 120"),
        ("CLEARSPAN_TELEMETRY_METRICS", "yes", "true or false"),
        ("CLEARSPAN_LOG_LEVEL", "INFO", '"debug" or "info" or "warning" or "error"'),
        ("CLEARSPAN_SERVER_TRUSTED_PROXIES", "[", 'list of networks such as "10.0.0.0/8"'),
        ("CLEARSPAN_SERVER_TRUSTED_PROXIES", "proxy.local", 'list of networks such as "10.0.0.0/8"'),
        ("CLEARSPAN_PLUGINS_ENABLED", "admin", describe(FIELDS["plugins"]["enabled"])),
        ("CLEARSPAN_PLUGINS_ENABLED", "['admin']", describe(FIELDS["plugins"]["enabled"])),
    ],
)
def test_a_wrong_value_in_the_environment_names_variable_got_and_expected(name: str, text: str, expected: str) -> None:
    assert problems(None, **{name: text}) == (f'{name}: got "{text}", expected {expected}',)


def test_a_second_line_in_a_variable_is_refused_and_not_dropped() -> None:
    (problem,) = problems(CLEARSPAN_PLUGINS_ENABLED='{ admin = "" }\npsp-acme = ""')
    assert problem.startswith("CLEARSPAN_PLUGINS_ENABLED: got ")


def test_a_long_value_is_cut_in_the_message() -> None:
    (problem,) = problems(CLEARSPAN_SERVER_PORT="9" * 5000)
    assert len(problem) < 200


def test_something_else_where_a_table_belongs_is_named_without_its_content(tmp_path: Path) -> None:
    path = file(tmp_path, f"server = '{PASSWORD}'\nplugin.psp-acme = '{PASSWORD}'\n")
    assert problems(path) == (
        f"{path}: server must be a table of settings",
        f"{path}: plugin.psp-acme must be a table, the settings of that plugin",
    )
    path = file(tmp_path, "plugin = 1\n")
    assert problems(path) == (f"{path}: plugin must hold one table per plugin",)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[server]\nport = \n", "line 2"),
        ("[server]\nport = 1\nport = 2\n", "line 3"),
        ("[server]\nhost = '''\nopen\n", "line 3, the end of the file"),
        ("[log]\nlevel = 1999-99-99\n", "line 2"),
    ],
)
def test_broken_toml_names_the_file_and_the_line(tmp_path: Path, text: str, where: str) -> None:
    path = file(tmp_path, text)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}: not TOML: ")
    assert f"(at {where}" in problem


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert problems(missing) == (f"{missing}: cannot be read: No such file or directory",)
    assert problems(CLEARSPAN_CONFIG=str(tmp_path)) == (f"{tmp_path}: cannot be read: Is a directory",)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"[data]\ndir = 'caf\xe9'\n")
    assert problems(latin) == (f"{latin}: not UTF-8 (at line 2)",)


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = file(tmp_path, "[server]\nport = 'x'\nprot = 1\n")
    found = problems(path, CLEARSPAN_WORKER_CONCURRENCY="none", CLEARSPAN_LOG_LEVL="info")
    assert len(found) == 4


def test_broken_toml_hides_no_other_mistake_and_blames_no_plugin(tmp_path: Path) -> None:
    path = file(tmp_path, "[plugins.enabled]\npsp-acme = \n")
    found = problems(path, CLEARSPAN_SERVER_PORT="x", CLEARSPAN_PLUGIN_PSP_ACME_KEY="k")
    assert [problem.split(":")[0] for problem in found] == [str(path), "CLEARSPAN_SERVER_PORT"]


def test_a_lease_that_ends_before_the_provider_must_answer_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, "[payments]\npsp_timeout_s = 30\npsp_connect_timeout_s = 31\n")
    assert problems(path) == (
        "payments.psp_connect_timeout_s: got 31.0, expected at most payments.psp_timeout_s, 30.0",
        "idempotency.lease_s: got 30, expected more than payments.psp_timeout_s, 30.0",
    )


# Secrets


def test_no_secret_shows_in_the_settings(tmp_path: Path) -> None:
    path = file(tmp_path, f"[plugin.psp-acme]\napi_key = '{PASSWORD}'\nnested.key = '{PASSWORD}'\n")
    settings = load(
        path,
        {
            "CLEARSPAN_DATABASE_URL": f"postgresql://o:{PASSWORD}@db/x",
            "CLEARSPAN_DATABASE_APP_URL": f"postgresql://a:{PASSWORD}@db/x",
            "CLEARSPAN_REDIS_URL": f"redis://:{PASSWORD}@r",
            "CLEARSPAN_PLUGIN_PSP_SANDBOX_SECRET": PASSWORD,
        },
    )
    assert PASSWORD in settings.database.url.reveal()
    assert settings.plugin["psp-sandbox"]["secret"] == PASSWORD
    for shown in (
        repr(settings),
        str(settings),
        repr(settings.plugin),
        f"{settings.database.url} {settings.redis.url}",
    ):
        assert PASSWORD not in shown
    assert "api_key" in repr(settings)


@pytest.mark.parametrize("text", [f"mysql://o:{PASSWORD}@db/x", PASSWORD], ids=["scheme", "no-url"])
@pytest.mark.parametrize(("table", "key"), [("database", "url"), ("database", "app_url"), ("redis", "url")])
def test_no_secret_shows_in_an_error(tmp_path: Path, table: str, key: str, text: str) -> None:
    expected = describe(FIELDS[table][key])
    name = variable(table, key)
    assert problems(None, **{name: text}) == (f"{name}: got ***, expected {expected}",)
    for value in (f"'{text}'", f"['{text}']"):
        path = file(tmp_path, f"{table}.{key} = {value}\n")
        assert problems(path) == (f"{path}: {table}.{key}: got ***, expected {expected}",)


def test_no_value_shows_for_an_unknown_name(tmp_path: Path) -> None:
    path = file(tmp_path, f"[database]\nulr = '{PASSWORD}'\n[secret]\nkey = '{PASSWORD}'\n")
    found = problems(path, CLEARSPAN_DATABASE_PASSWORD=PASSWORD, CLEARSPAN_PLUGIN_NOBODY_KEY=PASSWORD)
    assert len(found) == 4
    assert not any(PASSWORD in problem for problem in found)


def test_a_secret_reveals_itself_only_when_asked_and_compares_by_its_text() -> None:
    secret = Secret(PASSWORD)
    assert (str(secret), repr(secret), f"{secret}", "%s" % secret) == ("***",) * 4  # noqa: UP031
    assert secret.reveal() == PASSWORD
    assert secret
    assert not Secret("")
    assert secret == Secret(PASSWORD) != Secret("other")
    assert hash(secret) == hash(Secret(PASSWORD))
    assert secret != PASSWORD
    assert pickle.loads(pickle.dumps(secret)) == secret  # noqa: S301


# What is derived


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"CLEARSPAN_SERVER_HOST": "::1", "CLEARSPAN_SERVER_PORT": "9000"}, "http://[::1]:9000"),
        ({"CLEARSPAN_SERVER_PORT": "0"}, ""),
        ({"CLEARSPAN_SERVER_PUBLIC_URL": "https://pay.example/"}, "https://pay.example"),
    ],
)
def test_the_public_url_is_the_listening_address_unless_it_is_set(environ: dict[str, str], url: str) -> None:
    assert load(environ=environ).server.public_url == url


def test_paths_are_absolute(tmp_path: Path) -> None:
    settings = load(environ={})
    assert settings.data_dir == tmp_path / ".clearspan"
    assert settings.master_key_path == tmp_path / ".clearspan" / "secrets" / "master.key"
    settings = load(environ={"CLEARSPAN_DATA_DIR": "/srv/gate", "CLEARSPAN_SECURITY_MASTER_KEY_FILE": "master"})
    assert settings.data_dir == Path("/srv/gate")
    assert settings.master_key_path == tmp_path / "master"


def test_settings_cannot_be_changed() -> None:
    settings: Settings = load(environ={})
    with pytest.raises(AttributeError):
        settings.server.port = 1  # type: ignore[misc]


# Documentation


def test_the_default_file_and_the_structs_know_the_same_settings() -> None:
    document = tomllib.loads(default_text())
    del document["plugin"]
    assert {table: set(content) for table, content in document.items()} == {
        table: set(keys) for table, keys in FIELDS.items()
    }


def test_every_setting_and_table_has_a_comment() -> None:
    sections = configuration.sections()
    commented = {(section.name, entry.key) for section in sections for entry in section.entries if entry.comment}
    for table, content in tomllib.loads(default_text()).items():
        for key, value in content.items():
            if isinstance(value, dict):
                assert {(f"{table}.{key}", inner) for inner in value} <= commented
            else:
                assert (table, key) in commented
    assert all(section.comment for section in sections)


def test_no_two_settings_share_a_variable() -> None:
    names = [variable(table, key) for table, keys in FIELDS.items() for key in keys]
    assert len(names) == len(set(names))
    assert not any(name.startswith("CLEARSPAN_PLUGIN_") for name in names)


def test_the_page_names_every_setting_with_its_variable() -> None:
    page = configuration.render()
    for table, keys in FIELDS.items():
        for key in keys:
            assert f"`{variable(table, key)}`" in page


def test_the_page_and_the_copy_are_up_to_date() -> None:
    """When it fails: ``python -m clearspan.docs_gen.configuration`` in the root of the repository."""
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration.render()
    assert (ROOT / "config" / "default.toml").read_text(encoding="utf-8") == default_text()


def test_the_generator_writes_both(tmp_path: Path) -> None:
    for folder in ("docs", "config"):
        (tmp_path / folder).mkdir()
    configuration.copy_default(tmp_path)
    configuration.write_page(tmp_path)
    assert (tmp_path / "config" / "default.toml").read_text(encoding="utf-8") == default_text()
    assert (tmp_path / "docs" / "configuration.md").read_text(encoding="utf-8") == configuration.render()


def test_the_files_in_config_load() -> None:
    assert load(ROOT / "config" / "default.toml", {}) == load(environ={})
    assert load(ROOT / "config" / "dev.toml", {}).log.format == "console"


# An OpenID provider


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('issuer = "http://sso.example.com"\nclient_id = "x"', "oidc.issuer"),
        ('issuer = "https://sso.example.com?x=y"\nclient_id = "x"', "oidc.issuer"),
        ('issuer = "https://sso.example.com"', "oidc.client_id"),
        ("require = true", "oidc.require"),
        ('provision_role = "support"', "oidc.provision_role"),
        ('provision_role = "owner"\nprovision_tenant = "acme"', "oidc.provision_role"),
        ('scopes = ["email"]', "oidc.scopes"),
        ('scopes = ["openid", "a b"]', "oidc.scopes"),
        ('allowed_domains = ["@example.com"]', "oidc.allowed_domains"),
        ('allowed_domains = ["Example.com"]', "oidc.allowed_domains"),
    ],
)
def test_an_openid_provider_that_would_not_do_what_is_meant_stops_the_start(
    tmp_path: Path, text: str, problem: str
) -> None:
    (said,) = problems(file(tmp_path, f"[oidc]\n{text}\n"))
    assert problem in said


def test_an_openid_provider_is_set_up_and_its_secret_is_not_shown(tmp_path: Path) -> None:
    for issuer in ("https://sso.example.com/realms/staff", "http://127.0.0.1:8180", "http://localhost:8180"):
        path = file(tmp_path, f'[oidc]\nissuer = "{issuer}"\nclient_id = "clearspan"\n')
        settings = load(path, {"CLEARSPAN_OIDC_CLIENT_SECRET": "s3cret", "CLEARSPAN_OIDC_SCOPES": "openid,email"})
        assert settings.oidc.scopes == ("openid", "email")
        assert settings.oidc.client_secret.reveal() == "s3cret"
        assert "s3cret" not in repr(settings)


def test_an_access_token_lives_a_quarter_of_an_hour_at_most(tmp_path: Path) -> None:
    (said,) = problems(file(tmp_path, "[access]\ntoken_ttl_min = 16\n"))
    assert "integer from 1 to 15" in said
