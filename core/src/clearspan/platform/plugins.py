"""Loading plugins: entry points in group ``clearspan``, only those the operator lists, each within its version range.

What the loader refuses (``PluginError``, the start stops): two distributions that claim one entry-point name, two plugins
that hand over the same PSP or vault name, a listed plugin that is not installed or not in its range, a hook we do not know.
What it *isolates* (reported, left out, the rest runs): a plugin that fails to import or whose hook raises. Entry points are scanned here
and not by pluggy, which silently skips a second claim on a name and lets one broken plugin abort all.
"""  # noqa: E501

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import pluggy
import structlog
from packaging.specifiers import SpecifierSet

from clearspan.sdk import Companion, Hooks, PspAdapter, RouteSet, VaultProvider

GROUP = "clearspan"
log = structlog.get_logger("clearspan.plugins")
T = TypeVar("T")


class PluginError(Exception):
    """The plugins cannot be used as they are listed; ``str()`` says which and what to do."""


class LoadedPlugin(msgspec.Struct, frozen=True):
    """One plugin that was asked for.

    Attributes:
        name: the entry point's.
        distribution, version: where it comes from.
        problem: why it was left out, or empty.
    """

    name: str
    distribution: str
    version: str
    problem: str = ""


class Plugins:
    """What the loaded plugins handed over. Read-only after ``load``."""

    def __init__(self) -> None:
        self.loaded: list[LoadedPlugin] = []
        self.psps: dict[str, type[PspAdapter]] = {}
        self.vaults: dict[str, type[VaultProvider]] = {}
        self.routes: list[RouteSet] = []
        self.plugin_of_psp: dict[str, str] = {}
        self.plugin_of_vault: dict[str, str] = {}
        self._modules: list[tuple[str, Any]] = []

    def companions(self, tables: Mapping[str, Mapping[str, Any]], data_dir: str) -> list[Companion]:
        """Processes that plugins want beside ``clearspan up``."""
        found: list[Companion] = []
        for _, module in self._modules:
            hook = getattr(module, "clearspan_companions", None)
            if hook is not None:
                found += hook(config=dict(tables), data_dir=data_dir)
        return found


def load(
    enabled: Mapping[str, str],
    *,
    safe_mode: bool = False,
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
) -> Plugins:
    """Load what is listed.

    Args:
        enabled: entry-point name -> version range (PEP 440), ``plugins.enabled`` of the settings.
        safe_mode: load nothing.
        entry_points: instead of those installed.

    Raises:
        PluginError: see the module's docstring.
    """
    plugins = Plugins()
    if safe_mode:
        return plugins
    installed: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points:
        other = installed.setdefault(point.name, point)
        if other.value != point.value or _distribution(other) != _distribution(point):
            raise PluginError(
                f"Two distributions claim the plugin name '{point.name}': {_distribution(other)[0]} and"
                f" {_distribution(point)[0]}. Uninstall one of them."
            )
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    for name, wanted in enabled.items():
        if name not in installed:
            near = difflib.get_close_matches(name, installed, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Installed: {', '.join(sorted(installed)) or 'none'}."
            raise PluginError(
                f"The settings enable the plugin '{name}', which is not installed.{hint}"
                " Install it or take it out of plugins.enabled."
            )
        _load_one(plugins, manager, installed[name], wanted)
    return plugins


def _load_one(
    plugins: Plugins, manager: pluggy.PluginManager, point: importlib.metadata.EntryPoint, wanted: str
) -> None:
    distribution, version = _distribution(point)
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        raise PluginError(
            f"The plugin '{point.name}' is installed as {distribution} {version}, but the settings want '{wanted}'."
            " Install a version in the range or change plugins.enabled."
        )
    try:
        module = point.load()
        manager.register(module, name=point.name)
        manager.check_pending()
        psps = _collect(module, "clearspan_psps")
        vaults = _collect(module, "clearspan_vaults")
        routes = _collect(module, "clearspan_routes")
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"The plugin '{point.name}' implements a hook that does not exist or fits badly: {error}"
        ) from error
    except Exception as error:  # One of the three edges: a broken plugin must not take the gateway down.
        log.exception("plugin left out", plugin=point.name)
        problem = f"{type(error).__name__}: {error}"
        plugins.loaded.append(LoadedPlugin(point.name, distribution, version, problem=problem))
        return
    _claim(plugins.psps, plugins.plugin_of_psp, psps, point.name, "PSP")
    _claim(plugins.vaults, plugins.plugin_of_vault, vaults, point.name, "vault")
    plugins.routes += routes
    plugins._modules.append((point.name, module))  # noqa: SLF001
    plugins.loaded.append(LoadedPlugin(point.name, distribution, version))


def _collect(module: Any, hook: str) -> Sequence[Any]:
    function = getattr(module, hook, None)
    if function is None:
        return ()
    handed = function()
    if inspect.isawaitable(handed):
        raise TypeError(f"{hook} is async; hooks are plain functions")
    return tuple(handed)


def _claim(kinds: dict[str, type[T]], owners: dict[str, str], found: Sequence[type[T]], plugin: str, what: str) -> None:
    for kind in found:
        name: str = kind.name  # type: ignore[attr-defined]
        if name in kinds:
            raise PluginError(
                f"The plugins '{owners[name]}' and '{plugin}' both bring a {what} named '{name}'. Disable one."
            )
        kinds[name] = kind
        owners[name] = plugin


def _distribution(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return (point.value, "0")
    return (point.dist.name, point.dist.version)
