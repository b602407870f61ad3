"""``clearspan up`` in processes of its own: from an empty directory to payments, stopped, killed and started again.

The tests share one installation and follow its life; those that end a start make the next one themselves.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import free_ports

from clearspan.platform.runtime import published

PATIENCE_S = 60
SLOW_AMOUNT = 2002
"""The simulator books a charge of the slow card at once and answers as many seconds later as the last two digits say."""


class Installation:
    """A data directory and the ``clearspan up`` that runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        web, psp, vault = free_ports(3)
        self.url = f"http://127.0.0.1:{web}"
        self.psp_url = f"http://127.0.0.1:{psp}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CLEARSPAN_")}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Compiled once for all of these processes.
        self.environ = environ | {
            "CLEARSPAN_DATA_DIR": str(self.data),
            "CLEARSPAN_SERVER_PORT": str(web),
            "CLEARSPAN_PLUGIN_PSP_SANDBOX_URL": self.psp_url,
            "CLEARSPAN_PLUGIN_VAULT_SANDBOX_URL": f"http://127.0.0.1:{vault}",
            # A request whose process was killed can be repeated after its lease.
            "CLEARSPAN_PAYMENTS_PSP_TIMEOUT_S": "3",
            "CLEARSPAN_IDEMPOTENCY_LEASE_S": "4",
        }
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self) -> None:
        """Return when it says that it is ready."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clearspan.cli", "up"],
                cwd=self.folder,
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.said = ""
        while not self.said.endswith("\n\n") or "Stop it" not in self.said:
            line = self.process.stdout.readline()
            assert line, f"it ended with {self.process.wait()}:\n{(self.folder / 'log').read_text()[-4000:]}"
            self.said += line

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same machine."""
        return subprocess.run(
            [sys.executable, "-m", "clearspan.cli", *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def processes(self) -> dict[int, str]:
        """Every process that belongs to the installation: one that names its directory or lives in it."""
        found = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == os.getpid():
                continue
            try:
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                belongs = (
                    command,
                    (directory / "environ").read_text(errors="replace"),
                    str((directory / "cwd").readlink()),
                )
                state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z" and any(str(self.folder) in text for text in belongs):
                found[int(directory.name)] = command
        return found

    def client(self) -> httpx.Client:
        """With the first key."""
        key = (self.data / "run" / "first-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("installation"))
    yield made
    if made.process is not None:
        made.end(signal.SIGKILL)
    _wait_until(lambda: not made.processes())


@pytest.fixture
def up(installation: Installation) -> Installation:
    """Running."""
    if installation.process is None:
        installation.start()
    return installation


def _wait_until(holds: Any) -> None:
    for _ in range(PATIENCE_S * 20):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen in a minute")


def _method(client: httpx.Client, card: str = "visa") -> str:
    answer = client.post("/v1/payment-methods", json={"token": f"tok_{card}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def _pay(client: httpx.Client, method: str, amount_minor: int, key: str) -> httpx.Response:
    body = {"amount_minor": amount_minor, "currency": "EUR", "payment_method": method, "confirm": True}
    return client.post("/v1/payments", json=body, headers={"Idempotency-Key": key})


def test_an_empty_directory_becomes_a_gateway_with_a_key_that_pays(installation: Installation) -> None:
    installation.start()
    key = re.search(r"csk_test_[0-9a-z]+", installation.said)
    assert key is not None
    assert installation.url in installation.said
    assert str(installation.data) in installation.said
    kept = installation.data / "run" / "first-key"
    assert (kept.read_text().strip(), kept.stat().st_mode & 0o777) == (key[0], 0o600)
    assert installation.data.stat().st_mode & 0o777 == 0o700

    with installation.client() as client:
        assert client.get("/v1/tenant").json()["slug"] == "demo"
        accounts = client.get("/v1/psp-accounts").json()["data"]
        assert [account["name"] for account in accounts] == ["alpha", "beta"]
        answer = _pay(client, _method(client), 1099, "first")
        assert (answer.status_code, answer.json()["status"]) == (201, "succeeded")
        assert answer.json()["psp"]["account"] == "alpha"


def test_the_pages_of_a_running_gateway_are_there(up: Installation) -> None:
    with httpx.Client(base_url=up.url, trust_env=False) as browser:
        assert browser.get("/health/ready").json() == {"status": "ok"}
        assert browser.get("/docs").status_code == 200
        assert "/v1/payments" in browser.get("/openapi.json").json()["paths"]
        cockpit = browser.get("/admin", follow_redirects=True)
        assert cockpit.status_code == 200
        assert "operators link" in cockpit.text, "nobody is there yet, and the page says what to do"
        policy = cockpit.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy


def test_people_come_in_by_the_links_that_the_command_line_prints(up: Installation) -> None:
    printed = re.search(rf"{up.url}/admin/link/[a-z]{{64}}", up.said)
    assert printed is not None
    assert "There is nobody yet" in up.run("operators", "list").stdout
    newer = up.run("operators", "link").stdout.strip()
    with httpx.Client(base_url=up.url, trust_env=False) as browser:
        assert browser.get(printed[0]).status_code == 410, "a newer one replaces it"
        page = browser.get(newer)
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token is not None
        typed = {
            "email": "ada@example.com",
            "name": "Ada",
            "password": "a long enough one",
            "again": "a long enough one",
        }
        answer = browser.post(newer, data=typed | {"csrf": token[1]})
        assert answer.status_code == 303, answer.text
        assert browser.get("/admin/profile").status_code == 200
        refused = up.run("operators", "link")
        assert (refused.returncode, "There is somebody already" in refused.stderr) == (2, True)
        listed = up.run("operators", "list").stdout.splitlines()
        assert [line.split()[:3] for line in listed[1:]] == [["ada@example.com", "demo", "owner"]]
        invited = up.run("operators", "invite", "eve@example.com", "--tenant", "demo", "--role", "support")
        assert "Join Demo shop" in browser.get(invited.stdout.strip()).text
        reset = up.run("operators", "link", "ada@example.com")
        assert "A new password" in browser.get(reset.stdout.strip()).text
        assert up.run("operators", "reset-second-factor", "ada@example.com").returncode == 0
        assert up.run("operators", "disable", "ada@example.com").returncode == 0
        assert browser.get("/admin/profile").status_code == 303, "out at once"
        assert "may sign in again" in up.run("operators", "enable", "ada@example.com").stdout
    assert up.run("operators", "disable", "nobody@example.com").returncode == 2


def test_other_commands_find_the_running_one(up: Installation) -> None:
    made = up.run("tenant", "create", "acme", "--name", "Acme Ltd")
    assert (made.returncode, made.stderr) == (0, "")
    assert "alpha, beta" in made.stdout
    listed = up.run("tenant", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["SLUG", "acme", "demo"]
    key = up.run("key", "create", "--tenant", "acme", "--expires-days", "1")
    assert re.fullmatch(r"csk_test_[0-9a-z]{47}\n", key.stdout), key.stderr
    with httpx.Client(
        base_url=up.url, headers={"Authorization": f"Bearer {key.stdout.strip()}"}, trust_env=False
    ) as client:
        assert client.get("/v1/tenant").json()["name"] == "Acme Ltd"
        assert _pay(client, _method(client), 500, "acmes-first").json()["status"] == "succeeded"


def test_a_second_start_in_the_same_directory_is_refused(up: Installation) -> None:
    answer = up.run("up")
    assert answer.returncode == 2
    assert "Clearspan runs already in" in answer.stderr
    with up.client() as client:
        assert client.get("/v1/tenant").status_code == 200


def test_the_doctor_finds_nothing_wrong(up: Installation) -> None:
    answer = up.run("doctor")
    assert answer.returncode == 0, answer.stdout
    assert "✗" not in answer.stdout
    assert f"served by 'clearspan up', process {up.process and up.process.pid}" in answer.stdout
    assert "✓ psp-sandbox: " in answer.stdout


def test_a_worker_beats(up: Installation) -> None:
    _wait_until(lambda: up.run("worker", "--check").returncode == 0)


def test_the_demo_plays_its_day_and_the_books_agree(up: Installation) -> None:
    answer = up.run("demo")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "our books and the provider's agree" in " ".join(answer.stdout.split())
    assert "payment.succeeded" in answer.stdout


def test_a_queue_that_is_killed_comes_back_and_no_payment_notices(up: Installation) -> None:
    (pid,) = [pid for pid, command in up.processes().items() if "valkey-server" in command]
    before = published(up.data)
    os.kill(pid, signal.SIGKILL)
    with up.client() as client:
        assert _pay(client, _method(client), 700, "without-a-queue").json()["status"] == "succeeded"
    _wait_until(lambda: any("valkey-server" in command for one, command in up.processes().items() if one != pid))
    assert published(up.data) == before


def test_a_stop_finishes_payments_under_way_ends_streams_and_leaves_nothing(up: Installation) -> None:
    answers: list[httpx.Response] = []
    streamed: list[str] = []
    listening = threading.Event()

    def listen() -> None:
        with up.client() as client, client.stream("GET", "/v1/events/stream") as stream:
            for line in stream.iter_lines():
                streamed.append(line)
                listening.set()

    with up.client() as client:
        method = _method(client, "slow")
        paying = threading.Thread(target=lambda: answers.append(_pay(client, method, SLOW_AMOUNT, "slow")))
        listener = threading.Thread(target=listen)
        listener.start()
        assert listening.wait(PATIENCE_S)
        paying.start()
        _wait_until(lambda: _charges(up, SLOW_AMOUNT))
        assert up.end(signal.SIGTERM) == 0
        paying.join()
        listener.join()
    assert [(one.status_code, one.json()["status"]) for one in answers] == [(201, "succeeded")]
    assert "stopping" in [line for line in streamed if line][-1]
    assert up.processes() == {}
    assert published(up.data) is None


def _charges(up: Installation, amount: int) -> list[dict[str, Any]]:
    """What the provider's book has of this amount."""
    headers = {"Authorization": "Bearer sk_sandbox_alpha"}
    rows = httpx.get(f"{up.psp_url}/v1/book", headers=headers, trust_env=False).json()["operations"]
    return [row for row in rows if row["kind"] == "charge" and row["amount"] == amount]


def test_a_second_start_keeps_everything_and_shows_no_key(up: Installation) -> None:
    assert "csk_test_" not in up.said
    assert "clearspan key create --tenant demo" in up.said
    with up.client() as client:
        assert client.get("/v1/payments", params={"amount_min": 1099, "amount_max": 1099}).json()["data"]
        assert _pay(client, _method(client), 1500, "after-a-stop").json()["status"] == "succeeded"


def test_a_payment_cut_off_by_a_kill_is_charged_once_when_it_is_repeated(up: Installation) -> None:
    amount = SLOW_AMOUNT + 1000

    def pay_and_lose() -> None:
        with pytest.raises(httpx.TransportError):
            _pay(client, method, amount, "cut-off")

    with up.client() as client:
        method = _method(client, "slow")
        paying = threading.Thread(target=pay_and_lose)
        paying.start()
        _wait_until(lambda: _charges(up, amount))
        assert up.end(signal.SIGKILL) == -signal.SIGKILL
        paying.join()
    _wait_until(lambda: not up.processes())  # Nothing outlives it, though it could not say goodbye.

    up.start()
    with up.client() as client:
        _wait_until(lambda: _pay(client, method, amount, "cut-off").status_code == 201)
        again = _pay(client, method, amount, "cut-off")
    assert again.json()["status"] == "succeeded"
    assert [charge["status"] for charge in _charges(up, amount)] == ["succeeded"]
