"""What an operator gets wrong is told in one message on stderr with exit code 2, never in a traceback."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from tests.conftest import free_ports

from clearspan.platform import schema
from clearspan.platform.crypto import MasterKey

if TYPE_CHECKING:
    Merchant = Any
    Urls = Any


class Run(Protocol):
    """Runs ``clearspan`` in a directory of its own; keyword arguments are settings, as environment variables."""

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]: ...


_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["clearspan.worker", "clearspan.commands.up", "clearspan.commands.web", "clearspan.commands.doctor"]
)
_COMMAND = """
import os, sys
os.chdir(folder)
os.environ.clear()
os.environ.update(environ)
for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
from clearspan.cli import main
sys.exit(main(arguments))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A process each, forked from one that has imported everything: most of these commands end before they did anything."""

    def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CLEARSPAN_")}
        environ["CLEARSPAN_DATA_DIR"] = str(tmp_path / "data")
        environ |= {f"CLEARSPAN_{name.upper()}": value for name, value in settings.items()}
        given = {"folder": str(tmp_path), "environ": environ, "arguments": list(arguments)}
        process = _FORKED.Process(target=exec, args=(_COMMAND, given))
        process.start()
        process.join(60)
        code = process.exitcode
        process.kill()
        process.join()
        process.close()
        assert code is not None, f"clearspan {' '.join(arguments)} does not end"
        said = [(tmp_path / name).read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, code, *said)

    return command


@pytest.fixture
def database(tmp_path: Path, urls: Urls, master: MasterKey) -> dict[str, str]:
    """Settings that name the session's migrated database and its master key."""
    key = tmp_path / "master.key"
    key.write_text(master._secret.hex() + "\n")
    key.chmod(0o600)
    return {"database_url": urls.owner, "database_app_url": urls.app, "security_master_key_file": str(key)}


def refused(run: subprocess.CompletedProcess[str], *words: str) -> None:
    """One message that has all the words, and nothing else."""
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.startswith("clearspan: "), run.stderr
    for word in words:
        assert word in run.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("command", ["up", "web", "worker", "migrate", "settings", "demo"])
def test_a_setting_that_does_not_exist(run: Run, command: str) -> None:
    refused(
        run(command, server_prot="1"), "CLEARSPAN_SERVER_PROT is not a setting; the nearest is CLEARSPAN_SERVER_PORT"
    )


def test_a_settings_file_that_cannot_be_read(run: Run) -> None:
    refused(run("settings", "--config", "nowhere.toml"), "nowhere.toml: cannot be read")
    refused(run("--config", "nowhere.toml", "settings"), "nowhere.toml: cannot be read")


@pytest.mark.parametrize("command", ["up", "web"])
def test_a_port_that_is_in_use(run: Run, command: str, taken_port: int) -> None:
    answer = run(command, server_port=str(taken_port))
    refused(answer, f"Port {taken_port} of 127.0.0.1 is in use", "CLEARSPAN_SERVER_PORT")


def test_a_simulators_port_that_is_in_use(run: Run, taken_port: int) -> None:
    (free_port,) = free_ports(1)
    answer = run(
        "up",
        server_port="0",
        plugin_psp_sandbox_url=f"http://127.0.0.1:{free_port}",
        plugin_vault_sandbox_url=f"http://127.0.0.1:{taken_port}",
    )
    refused(answer, f"vault-sandbox cannot listen on 127.0.0.1:{taken_port}", "plugin.vault-sandbox.url")


def test_a_host_that_is_not_this_machine(run: Run) -> None:
    refused(run("web", server_host="203.0.113.1"), "Cannot listen on 203.0.113.1", "server.host")


@pytest.mark.parametrize("command", ["up", "worker", "migrate"])
def test_a_data_directory_that_cannot_be_written(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    answer = run(command, data_dir=str(tmp_path / "file" / "data"), server_port="0")
    refused(answer, f"The data directory {tmp_path / 'file' / 'data'} cannot be written to", "data.dir")


def test_a_plugin_that_is_not_installed(run: Run) -> None:
    answer = run("up", server_port="0", plugins_enabled='{"psp-sandbx": ""}')
    refused(answer, "'psp-sandbx', which is not installed. Did you mean 'psp-sandbox'?")


def test_a_master_key_that_is_missing(run: Run) -> None:
    refused(run("tenant", "list"), "there is no master key at", "clearspan up")


def test_a_master_key_that_others_can_read(run: Run, database: dict[str, str]) -> None:
    Path(database["security_master_key_file"]).chmod(0o644)
    refused(run("tenant", "list", **database), "can be read by others: chmod 600")


@pytest.mark.usefixtures("merchant")
@pytest.mark.parametrize("command", [["migrate"], ["web"], ["worker"], ["tenant", "list"]], ids=" ".join)
def test_a_master_key_of_another_installation(run: Run, database: dict[str, str], command: list[str]) -> None:
    Path(database["security_master_key_file"]).write_text("0f" * 32)
    answer = run(*command, **database, server_port="0")
    refused(answer, "is not the one this database was made with. Restore that one")


@pytest.mark.parametrize("command", ["web", "worker", "migrate"])
def test_a_database_that_does_not_answer(run: Run, database: dict[str, str], taken_port: int, command: str) -> None:
    dead = f"postgresql://someone:secret-word@127.0.0.1:{free_ports(1)[0]}/nothing"
    answer = run(command, **database | {"database_url": dead, "database_app_url": dead}, server_port="0")
    refused(answer, "PostgreSQL at postgresql://someone@127.0.0.1:", "cannot be reached", "database.url")
    assert "secret-word" not in answer.stderr


def test_a_password_that_is_wrong(run: Run, database: dict[str, str], urls: Urls) -> None:
    wrong = schema.derive_app_url(urls.app, urls.app.partition("//")[2].partition(":")[0], "not-this-one")
    answer = run("tenant", "list", **database | {"database_app_url": wrong})
    refused(answer, "password authentication failed", "database.app_url")


@pytest.mark.parametrize("command", ["web", "worker"])
def test_a_database_that_was_not_migrated(run: Run, database: dict[str, str], superuser_url: str, command: str) -> None:
    answer = run(
        command, **database | {"database_url": superuser_url, "database_app_url": superuser_url}, server_port="0"
    )
    refused(answer, "The database is empty: run 'clearspan migrate'")


def test_a_migration_without_an_owner(run: Run, database: dict[str, str]) -> None:
    del database["database_url"]
    refused(run("migrate", **database), "set database.url to the URL of the role that owns the database")


def test_a_tenant_that_does_not_exist(run: Run, database: dict[str, str]) -> None:
    refused(run("key", "create", "--tenant", "nobody-here", **database), "There is no tenant 'nobody-here'")


def test_a_slug_that_is_taken(run: Run, database: dict[str, str], merchant: Merchant) -> None:
    refused(run("tenant", "create", merchant.caller.tenant, **database), "Choose another slug")


def test_a_slug_that_is_none(run: Run, database: dict[str, str]) -> None:
    refused(run("tenant", "create", "No Slug", **database), "A slug has 3 to 40 lower-case letters")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--scope", "payments:steal", "There is no scope payments:steal. There are: payments:read"),
        ("--expires-days", "0", "--expires-days is a number from 1 to"),
    ],
)
def test_a_key_that_cannot_be_made(run: Run, option: str, value: str, words: str) -> None:
    refused(run("key", "create", "--tenant", "demo", option, value), words)


def test_a_demo_without_a_gateway(run: Run) -> None:
    answer = run("demo", "--url", f"http://127.0.0.1:{free_ports(1)[0]}", "--key", "csk_test_none")
    refused(answer, "No gateway answers at")


def test_a_demo_without_a_key(run: Run) -> None:
    refused(run("demo", "--url", "http://127.0.0.1:1"), "make one with 'clearspan key create --tenant demo'")


def test_no_command_at_all_is_answered_with_the_usage(run: Run) -> None:
    answer = run()
    assert answer.returncode == 2
    assert "usage: clearspan" in answer.stderr


def test_the_version_goes_to_stdout(run: Run) -> None:
    answer = run("--version")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert re.fullmatch(r"clearspan \d+\.\d+\.\d+\n", answer.stdout)


def test_help_imports_none_of_the_gateway() -> None:
    code = (
        "import sys\nfrom clearspan.cli import main\n"
        "try:\n    main(['up', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'litestar', 'sqlalchemy', 'asyncpg', 'saq', 'httpx', 'rich'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_settings_in_effect_are_shown_without_secrets(run: Run) -> None:
    answer = run(
        "settings",
        database_url="postgresql://owner:secret-word@db/x",
        plugin_psp_sandbox_api_key="secret-word",
        server_port="9000",
    )
    assert answer.returncode == 0, answer.stderr
    assert "secret-word" not in answer.stdout
    lines = answer.stdout.splitlines()
    assert 'url = "***"' in lines
    assert "port = 9000" in lines
    assert 'api_key = "***"' in lines


def test_the_doctor_says_what_to_do(run: Run, taken_port: int, database: dict[str, str]) -> None:
    answer = run(
        "doctor",
        "--production",
        **database | {"redis_url": f"redis://127.0.0.1:{free_ports(1)[0]}/0"},
        server_port=str(taken_port),
        log_level="debug",
    )
    assert answer.returncode == 1, answer.stdout
    lines = answer.stdout.splitlines()
    failed = {
        line.partition(":")[0] if "production" not in line else line.rsplit(":", 1)[0]
        for line in lines
        if line[0] == "✗"
    }
    assert {"✗ port", "✗ Redis"} < failed
    assert {word for word in lines if word.startswith("✗ production")} == {
        "✗ production: simulators: psp-sandbox, vault-sandbox",
        f"✗ production: public address: http://127.0.0.1:{taken_port}",
        "✗ production: log level: debug",
    }
    assert "✓ row security: forced on all" in answer.stdout
    assert "✓ application's role: " in answer.stdout
    for line, after in itertools.pairwise(lines):
        assert line[0] != "✗" or after.startswith("    "), f"no remedy for {line}"


def test_the_doctor_sees_a_role_that_row_security_does_not_bind(
    run: Run, database: dict[str, str], urls: Urls, databases: Callable[[], Urls]
) -> None:
    answer = run("doctor", **database | {"database_app_url": urls.superuser, "redis_url": "redis://127.0.0.1:1/0"})
    assert answer.returncode == 1
    assert "is a superuser and may bypass row security and owns tables" in answer.stdout
