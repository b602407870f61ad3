"""The README's first payment works as printed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.conftest import free_ports

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- readme:begin -->(.*)<!-- readme:end -->", re.DOTALL)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the address answers 200; fails with the log when the process ends first."""
    for _ in range(600):
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    pytest.fail(f"{url} does not get ready:\n{log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """``clearspan up`` in an empty directory, on free ports."""
    home = tmp_path_factory.mktemp("newcomer")
    port, psp, vault = free_ports(3)
    (home / "clearspan.toml").write_text(
        f'[server]\nport = {port}\n[plugin.psp-sandbox]\nurl = "http://127.0.0.1:{psp}"\n'
        f'[plugin.vault-sandbox]\nurl = "http://127.0.0.1:{vault}"\n'
    )
    with (home / "log").open("wb") as log:
        command = [str(Path(sys.executable).with_name("clearspan")), "up"]
        process = subprocess.Popen(command, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health/ready", home / "log")
        yield home, port
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, (home / "log").read_text()


def test_the_lines_of_the_readme_take_a_payment_from_creation_to_refund(running: tuple[Path, int]) -> None:
    home, port = running
    block = BLOCK.search((ROOT / "README.md").read_text())
    assert block is not None
    script = "\n".join(SHELL.findall(block[1])).replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    assert str(port) in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    key = (home / ".clearspan/run/first-key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}"}
    listed = httpx.get(
        f"http://127.0.0.1:{port}/v1/payments", params={"reference": "order-1042"}, headers=headers, trust_env=False
    )
    payment = listed.json()["data"][0]
    assert payment["status"] == "partially_captured"
    assert payment["amounts"]["captured_minor"] == 800
    assert payment["amounts"]["voided_minor"] == 299
    assert payment["amounts"]["refunded_minor"] == 300
    assert [one["kind"] for one in payment["operations"]] == ["authorize", "capture", "refund"]
    # What the reader saw: the audit trail of the payment, and its events on the live stream.
    assert '"object":"audit_entry"' in done.stdout
    streamed = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("data: {")]
    assert {"payment.authorized", "payment.captured", "refund.succeeded"} <= {event["type"] for event in streamed}
