"""The loader: only what is listed, each in its range; two claims stop the start; a broken plugin is left out and reported."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clearspan.platform.plugins import PluginError, installed, load

PSP = """
import msgspec
from clearspan import sdk

class Config(msgspec.Struct, frozen=True):
    api_key: sdk.Secret

class Psp:
    name = "{psp}"
    config_type = Config
    facts = sdk.PspFacts(capabilities=frozenset())

    def __init__(self, config, context):
        pass

    async def create_intent(self, request):
        raise sdk.NotSupported

    continue_intent = capture = cancel = refund = retrieve = verify_webhook = create_intent

@sdk.hookimpl
def clearspan_psps():
    return [Psp]
"""
HOOK = "from clearspan import sdk\n\n@sdk.hookimpl\ndef clearspan_psps():\n    "

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one entry point on the path, as pip would."""
    before = set(sys.modules)

    def make(name: str, source: str, *, version: str = "1.0", distribution: str = "") -> None:
        distribution = distribution or f"clearspan_{name.replace('-', '_')}"
        site = tmp_path / distribution
        module = f"{distribution}_module"
        info = site / f"{distribution}-{version}.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[clearspan]\n{name} = {module}\n")
        monkeypatch.syspath_prepend(str(site))

    yield make
    for name in set(sys.modules) - before:
        if name.endswith("_module"):
            del sys.modules[name]


def test_only_what_is_listed_is_loaded(install: Install) -> None:
    install("psp-one", PSP.format(psp="one"))
    install("psp-two", PSP.format(psp="two"))
    plugins = load({"psp-one": ">=1,<2"})
    assert list(plugins.psps) == ["one"]
    assert [(one.name, one.version, one.problem) for one in plugins.loaded] == [("psp-one", "1.0", "")]
    assert plugins.plugin_of_psp == {"one": "psp-one"}


def test_a_missing_plugin_stops_the_start_and_the_nearest_is_named(install: Install) -> None:
    install("psp-acme", PSP.format(psp="acme"))
    with pytest.raises(PluginError, match=r"'psp-acmee', which is not installed\. Did you mean 'psp-acme'\?"):
        load({"psp-acmee": ""})


def test_a_version_out_of_range_stops_the_start(install: Install) -> None:
    install("psp-acme", PSP.format(psp="acme"), version="2.1")
    with pytest.raises(PluginError, match=r"2\.1, but the settings want '>=1,<2'"):
        load({"psp-acme": ">=1,<2"})


def test_two_distributions_that_claim_one_name_stop_the_start(install: Install) -> None:
    install("psp-acme", PSP.format(psp="acme"), distribution="clearspan_acme")
    install("psp-acme", PSP.format(psp="acme"), distribution="clearspan_evil")
    with pytest.raises(PluginError, match="Two distributions claim the plugin name 'psp-acme'"):
        load({"psp-acme": ""})


def test_two_plugins_that_bring_one_psp_stop_the_start(install: Install) -> None:
    install("psp-one", PSP.format(psp="same"))
    install("psp-two", PSP.format(psp="same"))
    with pytest.raises(PluginError, match="both bring a PSP named 'same'"):
        load({"psp-one": "", "psp-two": ""})


def test_a_hook_that_does_not_exist_stops_the_start(install: Install) -> None:
    install("psp-typo", "from clearspan import sdk\n\n@sdk.hookimpl\ndef clearspan_pspss():\n    return []\n")
    with pytest.raises(PluginError, match="clearspan_pspss"):
        load({"psp-typo": ""})


BROKEN = {
    "missing dependency": ("import no_such_library\n", "No module named 'no_such_library'. Install what it depends on"),
    "newer contract": ("from clearspan.sdk import Teleporter\n", "It was made for another SDK than"),
    "crash at import": ("raise RuntimeError('boom')\n", "RuntimeError: boom"),
    "exit at import": ("import sys\nsys.exit(3)\n", "it tried to end the process (SystemExit: 3)"),
    "hang at import": ("import threading\nthreading.Event().wait(3)\n", "it did not come back within 0.4 seconds"),
    "crash in a hook": (HOOK + "raise ValueError('bad')\n", "ValueError: bad"),
    "exit in a hook": (HOOK + "raise SystemExit\n", "it tried to end the process"),
    "hang in a hook": (HOOK + "import threading; threading.Event().wait(3)\n", "it did not come back within"),
    "nothing": (HOOK + "return None\n", "clearspan_psps returned a NoneType, must return a list"),
    "a text": (HOOK + "return 'acme'\n", "clearspan_psps returned a str, must return a list"),
    "async": (HOOK.replace("def ", "async def ") + "return []\n", "clearspan_psps is async; hooks are plain functions"),
    "an instance": (PSP.format(psp="x").replace("[Psp]", "[Psp(1, 2)]"), "must be a class: hand over the class itself"),
    "newer sdk": ("requires_sdk = '>=99'\n" + PSP.format(psp="x"), "it needs SDK >=99, and this Clearspan has"),
    "unreadable range": ("requires_sdk = 'new'\n" + PSP.format(psp="x"), "requires_sdk is 'new'; write a version range"),
    "no verb": (PSP.format(psp="x").replace(" = refund", ""), "Psp.refund: missing"),
    "plain verb": (PSP.format(psp="x").replace("async def", "def"), "Psp.capture: must be an async def"),
    "other arguments": (PSP.format(psp="x").replace("request)", "request, key)"), "Psp.cancel: must take 1 argument"),
    "no facts": (PSP.format(psp="x").replace("facts =", "fact ="), "Psp.facts: missing, must be a PspFacts"),
    "wrong facts": (PSP.format(psp="x").replace("=frozenset()", "={'teleport'}"), "Invalid enum value 'teleport'"),
    "no settings": (PSP.format(psp="x").replace("config_type", "config"), "Psp.config_type: missing, must be a msgspec.Struct"),
    "no form": (PSP.format(psp="x").replace("sdk.Secret", "bytes"), "Psp.config_type: Config.api_key: a form cannot show"),
    "bad name": (PSP.format(psp="Acme Pay"), "Psp.name: is 'Acme Pay', must be up to 40 lower-case letters"),
    "no context": (PSP.format(psp="x").replace(", context", ""), "Psp.__init__: must take (config, context)"),
    "activity by time": (
        PSP.format(psp="x").replace("frozenset()", "frozenset(), lookup=sdk.Lookup(by_time=True)"),
        "Psp.activity: missing",
    ),
    "routes": (HOOK.replace("psps", "routes") + "return [dict]\n", "is a type, must be a RouteSet"),
    "vault": (
        (HOOK + "return [int]\n").replace("psps", "vaults"),
        "int.name: is None",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_reported_and_the_others_run(install: Install, source: str, problem: str) -> None:
    install("psp-broken", source)
    install("psp-fine", PSP.format(psp="fine"))
    plugins = load({"psp-broken": "", "psp-fine": ""}, time_s=0.4 if "wait" in source else 30)
    assert list(plugins.psps) == ["fine"]
    report = {one.name: one.problem for one in plugins.loaded}
    assert report["psp-fine"] == ""
    assert problem in report["psp-broken"]


def test_a_plugin_for_this_sdk_is_loaded(install: Install) -> None:
    install("psp-acme", "requires_sdk = '>=1.3,<2'\n" + PSP.format(psp="acme"))
    plugins = load({"psp-acme": "<2"})
    assert plugins.provides("psp-acme") == ["psp acme"]
    assert [(one.problem, one.wanted) for one in plugins.loaded] == [("", "<2")]


def test_what_is_installed_is_known_without_running_any_of_it(install: Install) -> None:
    install("psp-acme", "raise SystemExit\n")
    assert installed()["psp-acme"].value == "clearspan_psp_acme_module"


def test_companions_of_a_hook_that_fails_are_left_out(install: Install) -> None:
    for name, code in (("fine", "return [sdk.Companion('one', ('-m', 'x'), 'http://x')]"), ("bad", "return [1]"),
                       ("worse", "raise SystemExit"), ("slow", "import threading; threading.Event().wait(3)")):  # fmt: skip
        hook = f"@sdk.hookimpl\ndef clearspan_companions(config, data_dir):\n    {code}\n"
        install(f"psp-{name}", PSP.format(psp=name) + hook)
    plugins = load({"psp-bad": "", "psp-worse": "", "psp-slow": "", "psp-fine": ""})
    assert [one.name for one in plugins.companions({}, "", time_s=0.4)] == ["one"]
    assert plugins.provides("psp-fine") == ["psp fine", "companions"]


def test_safe_mode_loads_nothing(install: Install) -> None:
    install("psp-one", PSP.format(psp="one"))
    plugins = load({"psp-one": ""}, safe_mode=True)
    assert (plugins.psps, plugins.loaded) == ({}, [])


def test_our_own_plugins_load_from_their_entry_points() -> None:
    plugins = load({"psp-sandbox": "", "vault-sandbox": "", "admin": ""})
    assert [one.problem for one in plugins.loaded] == ["", "", ""]
    assert (list(plugins.psps), list(plugins.vaults)) == (["sandbox"], ["sandbox"])
    assert [routes.path for routes in plugins.routes] == ["/admin"]
    installed = {point.name for point in importlib.metadata.entry_points(group="clearspan")}
    assert {"psp-sandbox", "vault-sandbox", "admin"} <= installed
