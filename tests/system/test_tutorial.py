"""docs/writing-a-plugin.md, followed to the letter: what it says works, and pays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.conftest import _wait_until_ready, free_ports
from tests.shop import Shop, gateway, with_payments

from clearspan.commands.plugin_new import write
from clearspan.platform import plugins
from clearspan.platform.crypto import MasterKey
from clearspan.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Merchant, Urls

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the tutorial, at its end, and installed as ``pip install -e`` does."""
    folder = write("psp", "acme", tmp_path_factory.mktemp("tutorial") / "psp-acme")
    for path, text in FILES.items():
        assert path.startswith("tests/simulator") or (folder / path).exists(), f"'plugins new' writes no {path}"
        (folder / path).write_text(text, encoding="utf-8")
    info = folder / "src" / "clearspan_psp_acme-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clearspan-psp-acme\nVersion: 0.1.0\n")
    points = re.search(r"\[project\.entry-points\.clearspan\]\n(.*)\n", (folder / "pyproject.toml").read_text())
    assert points
    (info / "entry_points.txt").write_text("[clearspan]\n" + points[1].replace('"', "") + "\n")
    return folder


@pytest.fixture(scope="module")
def on_path(package: Path) -> Iterator[Path]:
    sys.path.insert(0, str(package / "src"))
    yield package
    sys.path.remove(str(package / "src"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "clearspan_psp_acme"]:
        del sys.modules[name]


def command(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(package / "src"), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CLEARSPAN_", "PYTEST"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=package,
        env=environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_adapter_is_as_short_as_is_said() -> None:
    assert len(FILES) == 7
    assert len([line for line in FILES["src/clearspan_psp_acme/__init__.py"].splitlines() if line.strip()]) <= 160


def test_its_own_tests_pass(package: Path) -> None:
    done = command(package, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_commands_show_it(package: Path) -> None:
    tables = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (package / "clearspan.toml").write_text(tables[0], encoding="utf-8")
    shown = command(package, "-m", "clearspan.cli", "plugins", "list", "--json")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (line,) = [one for one in msgspec.json.decode(shown.stdout)["data"] if one["name"] == "psp-acme"]
    assert (line["state"], line["version"], line["brings"]) == ("enabled", "0.1.0", ["psp acme"])
    checked = command(package, "-m", "clearspan.cli", "plugins", "check", "psp-acme")
    assert (checked.returncode, checked.stdout) == (0, "psp-acme 0.1.0 keeps to the contract: psp acme.\n")
    told = command(package, "-m", "clearspan.cli", "plugins", "info", "psp-acme").stdout
    for words in ("remembered for 1 day", "EUR, JPY, USD", "API key. Dashboard, Developers, API keys."):
        assert words in told


@pytest.fixture
def simulator(package: Path) -> Iterator[str]:
    script = package / "tests" / "simulator.py"
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.kill()


@pytest.fixture
async def shop(
    on_path: Path, simulator: str, urls: Urls, settings: Settings, master: MasterKey, merchant: Merchant, vault: str
) -> AsyncIterator[Shop]:
    """A merchant whose only account is at Acme Pay."""
    enabled = {"psp-acme": ">=0.1,<1", "vault-sandbox": ""}
    loaded = plugins.load(enabled)
    assert [one.problem for one in loaded.loaded] == ["", ""]
    tables = {"vault-sandbox": {"url": vault}}
    listed = msgspec.structs.replace(settings.plugins, enabled=enabled)
    own = msgspec.structs.replace(with_payments(settings, wait_budget_s=60), plugins=listed, plugin=tables)
    async with gateway(urls.app, own, master, loaded) as clients:
        made = Shop(clients(merchant.key), simulator)
        await made.add_account("acme", 1, psp="acme", config={"api_key": "ak_test_1", "url": simulator})
        yield made


@pytest.fixture
def vault(tmp_path: Path, simulator: str) -> Iterator[str]:
    """A vault simulator that may send to Acme Pay."""
    (port,) = free_ports(1)
    table = {"url": f"http://127.0.0.1:{port}", "allow": [simulator]}
    found = plugins.load({"vault-sandbox": ""}).companions({"vault-sandbox": table}, str(tmp_path))
    log = tmp_path / "vault.log"
    with log.open("wb") as output, subprocess.Popen([sys.executable, *found[0].argv], stdout=output) as process:
        _wait_until_ready(process, found[0].ready_url, log)
        yield str(table["url"])
        process.kill()


async def test_the_gateway_pays_with_it(shop: Shop) -> None:
    (account,) = (await shop.http.get("/v1/psp-accounts")).json()["data"]
    checked = (await shop.http.post(f"/v1/psp-accounts/{account['id']}/check")).json()
    assert checked["status"] == "ok", checked
    paid = (await shop.pay(4200)).json()
    assert (paid["status"], paid["psp"]["account_id"]) == ("succeeded", account["id"])
    refunded = await shop.act(paid, "refunds", {"amount_minor": 1200})
    assert refunded.json()["status"] == "succeeded"
    declined = (await shop.pay(4200, "tok_decline_insufficient_funds")).json()
    assert declined["last_error"]["code"] == "insufficient_funds"
    wrong = await shop.http.post(
        "/v1/psp-accounts", json={"psp": "acme", "name": "x", "config": {"api_key": "ak_live_1"}}
    )
    assert "begins with ak_test_" in wrong.json()["detail"]
