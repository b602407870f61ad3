"""``clearspan plugins``: what is there, one looked at from a safe distance, a new one begun."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog
from tests.core.platform.test_plugins import PSP, Install, install

from clearspan.cli import main
from clearspan.commands import plugin_probe
from clearspan.platform.crypto import MasterKey

if TYPE_CHECKING:
    from tests.conftest import Urls

__all__ = ["install"]
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command here, with these plugins enabled; answers code, stdout and stderr."""
    for name in [name for name in os.environ if name.startswith("CLEARSPAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("clearspan.commands.plugins.configure_logging", lambda *_: None)
    monkeypatch.setattr("clearspan.commands.start.configure_logging", lambda *_: None)
    # What is looked at in a process of its own is found there too.
    sites = os.pathsep.join(str(tmp_path / f"clearspan_psp_{name}") for name in ("acme", "broken", "hangs", "exits"))
    monkeypatch.setenv("PYTHONPATH", sites + os.pathsep + os.environ.get("PYTHONPATH", ""))

    def run(*arguments: str, enabled: dict[str, str] | None = None, **tables: dict[str, str]) -> tuple[int, str, str]:
        text = "[plugins.enabled]\n" + "".join(f'{name} = "{wanted}"\n' for name, wanted in (enabled or {}).items())
        text += f'[data]\ndir = "{tmp_path / "data"}"\n'
        for table, values in tables.items():
            text += f"[{table}]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items())
        (tmp_path / "clearspan.toml").write_text(text)
        with structlog.testing.capture_logs():  # In a process of its own, the log goes to stderr.
            code = main(["--config", str(tmp_path / "clearspan.toml"), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def listed(out: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in msgspec.json.decode(out)["data"]}


def test_the_list_tells_what_runs_what_does_not_and_why(install: Install, ask: Ask) -> None:
    install("psp-acme", PSP.format(psp="acme"))
    install("psp-broken", "raise RuntimeError('boom')\n")
    enabled = {"psp-acme": "<2", "psp-broken": "", "psp-gone": ">=3"}
    code, out, _ = ask("plugins", "list", "--json", enabled=enabled)
    assert code == 1
    found = listed(out)
    assert (found["psp-acme"]["state"], found["psp-acme"]["brings"]) == ("enabled", ["psp acme"])
    assert (found["psp-broken"]["state"], found["psp-broken"]["problem"]) == ("left out", "RuntimeError: boom")
    assert (found["psp-gone"]["state"], found["psp-gone"]["allowed"]) == ("missing", ">=3")
    assert found["psp-sandbox"]["state"] == "not enabled"
    code, out, err = ask("plugins", "list", enabled=enabled)
    assert out.splitlines()[0].split() == ["NAME", "STATE", "VERSION", "ALLOWED", "BRINGS"]
    assert "psp-broken: RuntimeError: boom" in err


def test_a_plugin_out_of_its_range_is_refused_and_nothing_of_it_runs(install: Install, ask: Ask) -> None:
    install("psp-acme", "raise SystemExit\n", version="3.0")
    code, out, _ = ask("plugins", "list", "--json", enabled={"psp-acme": "<2"})
    assert (code, listed(out)["psp-acme"]["state"]) == (1, "refused")
    code, out, _ = ask("plugins", "list", "--json")
    assert (code, listed(out)["psp-acme"]["state"]) == (0, "not enabled")
    code, out, _ = ask("--safe-mode", "plugins", "list", "--json", enabled={"psp-acme": ""})
    assert (code, listed(out)["psp-acme"]["state"]) == (0, "safe mode")


def test_a_plugin_that_breaks_is_examined_without_breaking_anything(
    install: Install, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("psp-exits", "import os\nos._exit(7)\n")
    install("psp-broken", PSP.format(psp="broken").replace(" = refund", ""))
    code, out, _ = ask("plugins", "check", "psp-exits")
    assert (code, "it ended the process with code 7" in out) == (1, True)
    code, out, _ = ask("plugins", "check", "psp-broken", "--json")
    assert code == 1
    assert "Psp.refund: missing" in msgspec.json.decode(out)["findings"][0]
    install("psp-hangs", "import threading\nthreading.Event().wait(60)\n")
    assert "did not come back within 0.3 seconds" in plugin_probe.probe("psp-hangs", time_s=0.3).problem
    code, _, err = ask("plugins", "check", "psp-nope")
    assert (code, "No plugin 'psp-nope' is installed" in err) == (2, True)


def test_a_check_remarks_what_is_allowed_and_doubtful_and_finds_foreign_imports(install: Install, ask: Ask) -> None:
    source = PSP.format(psp="acme").replace("sdk.Secret", "str")
    install("psp-acme", "import clearspan.platform.ids\n" + source)
    code, out, _ = ask("plugins", "check", "psp-acme", enabled={"psp-acme": ">=2"})
    assert code == 1
    assert "imports clearspan.platform.ids; only clearspan.sdk is promised to stay" in out
    assert "version 1.0 is outside of what the settings allow, '>=2'" in out
    for words in ("requires_sdk: not said", "neither purchase nor authorize", "no signature", "annotated sdk.Secret"):
        assert words in out


async def test_history_and_account_come_from_the_running_installation(
    install: Install, ask: Ask, urls: Urls, master: MasterKey, merchant: Any, tmp_path: Path, sandboxes: None
) -> None:
    key = tmp_path / "master.key"
    key.write_text(master._secret.hex() + "\n")
    key.chmod(0o600)
    tables = {"database": {"url": urls.owner, "app_url": urls.app}, "security": {"master_key_file": str(key)}}
    code, out, _ = await asyncio.to_thread(ask, "plugins", "info", "psp-sandbox", "--json", **tables)
    history = msgspec.json.decode(out)["history"]  # Other tests on this database may have told of it.
    assert (code, {one["name"] for one in history} - {"psp-sandbox"}) == (0, set())
    given = ("plugins", "check", "psp-sandbox", "--tenant", merchant.caller.tenant, "--account", "nobody")
    code, _, err = await asyncio.to_thread(ask, *given, enabled={"psp-sandbox": ""}, **tables)
    assert (code, "has no PSP account 'nobody' of this plugin in test mode" in err) == (2, True)
    code, _, err = await asyncio.to_thread(ask, "plugins", "check", "psp-sandbox", "--account", "a")
    assert (code, "belong together" in err) == (2, True)


def test_info_tells_facts_settings_and_that_nothing_runs(ask: Ask) -> None:
    code, out, _ = ask("plugins", "info", "psp-sandbox", enabled={"psp-sandbox": ">=0.1"})
    assert code == 0
    for words in ("versions allowed: >=0.1", "remembered for 1 day", "api_key             secret", "does not run"):
        assert words in out


@pytest.mark.parametrize("kind", ["psp", "vault"])
def test_a_new_package_is_loaded_and_does_nothing_yet(
    kind: str, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    code, out, _ = ask("plugins", "new", kind, "acme-pay", "--directory", str(folder))
    assert (code, "is written" in out) == (0, True)
    texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if "@NAME@" in text or "@CLASS@" in text]
    info = folder / "src" / f"clearspan_{kind}_acme_pay-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: clearspan-{kind}-acme-pay\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[clearspan]\n{kind}-acme-pay = clearspan_{kind}_acme_pay\n")
    monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'src'}{os.pathsep}{os.environ['PYTHONPATH']}")
    code, out, _ = ask("plugins", "check", f"{kind}-acme-pay")
    assert (code, f"keeps to the contract: {kind} acme_pay" in out) == (0, True), out
    code, _, err = ask("plugins", "new", kind, "acme-pay", "--directory", str(folder))
    assert (code, "is not empty" in err) == (2, True)
    code, _, err = ask("plugins", "new", kind, "../x")
    assert (code, "cannot be a plugin's name" in err) == (2, True)
