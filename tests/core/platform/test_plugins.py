"""The loader: only what is listed, each in its range; two claims stop the start; a broken plugin is left out and reported."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clearspan.platform.plugins import PluginError, load

PSP = """
from clearspan import sdk

class Psp:
    name = "{psp}"
    facts = sdk.PspFacts(capabilities=frozenset())

@sdk.hookimpl
def clearspan_psps():
    return [Psp]
"""

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


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise RuntimeError('boom')\n", "RuntimeError: boom"),
        (
            "from clearspan import sdk\n\n@sdk.hookimpl\ndef clearspan_psps():\n    raise ValueError('bad')\n",
            "ValueError: bad",
        ),
        ("from clearspan import sdk\n\n@sdk.hookimpl\ndef clearspan_psps():\n    return None\n", "TypeError"),
    ],
    ids=["import", "module", "hook", "nothing"],
)
def test_a_broken_plugin_is_reported_and_the_others_run(install: Install, source: str, problem: str) -> None:
    install("psp-broken", source)
    install("psp-fine", PSP.format(psp="fine"))
    plugins = load({"psp-broken": "", "psp-fine": ""})
    assert list(plugins.psps) == ["fine"]
    report = {one.name: one.problem for one in plugins.loaded}
    assert report["psp-fine"] == ""
    assert report["psp-broken"].startswith(problem)


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
