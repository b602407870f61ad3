"""Loading plugins: entry points in group ``clearspan``, only those the operator lists, each within its version range.

What the loader refuses (``PluginError``, the start stops): two distributions that claim one entry-point name, two plugins
that hand over the same PSP or vault name, a listed plugin that is not installed or not in its range, a hook we do not know.
What it *isolates* (reported, left out, the rest runs): a plugin that fails to import, exits or does not come back in time,
needs another SDK, whose hook raises, or that hands over something the contract does not describe. Entry points are scanned here
and not by pluggy, which silently skips a second claim on a name and lets one broken plugin abort all.

Whatever runs a plugin's own code at start runs in a thread of its own: one that hangs cannot be ended, but left behind.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import pluggy
import structlog
from packaging.specifiers import SpecifierSet

from clearspan.platform import contract
from clearspan.sdk import API_VERSION, Companion, Hooks, PspAdapter, RouteSet, VaultProvider

GROUP = "clearspan"
TIME_S = 30.0
"""What a plugin gets for its import and its hooks together."""
log = structlog.get_logger("clearspan.plugins")
T = TypeVar("T")


class PluginError(Exception):
    """The plugins cannot be used as they are listed; ``str()`` says which and what to do."""


class LeftOut(Exception):
    """One plugin cannot be used; ``str()`` says why. The others can."""


class LoadedPlugin(msgspec.Struct, frozen=True):
    """One plugin that was asked for.

    Attributes:
        name: the entry point's.
        distribution, version: where it comes from.
        problem: why it was left out, or empty.
        wanted: the versions that the settings allow.
    """

    name: str
    distribution: str
    version: str
    problem: str = ""
    wanted: str = ""


class Plugins:
    """What the loaded plugins handed over. Read-only after ``load``.

    Attributes:
        loaded: every plugin that was asked for, those that were left out too.
    """

    def __init__(self) -> None:
        self.loaded: list[LoadedPlugin] = []
        self.psps: dict[str, type[PspAdapter]] = {}
        self.vaults: dict[str, type[VaultProvider]] = {}
        self.routes: list[RouteSet] = []
        self.plugin_of_psp: dict[str, str] = {}
        self.plugin_of_vault: dict[str, str] = {}
        self._modules: dict[str, Any] = {}
        self._paths: dict[str, list[str]] = {}

    def _take(self, name: str, handed: _Handed) -> None:
        self._modules[name] = handed.module
        self.routes += handed.routes
        self._paths[name] = [one.path for one in handed.routes]

    def companions(
        self, tables: Mapping[str, Mapping[str, Any]], data_dir: str, *, time_s: float = TIME_S
    ) -> list[Companion]:
        """Processes that plugins want beside ``clearspan up``; those of a hook that fails are missing, and it is logged."""
        found: list[Companion] = []
        for name, module in self._modules.items():
            hook = getattr(module, "clearspan_companions", None)
            if hook is None:
                continue
            try:
                handed = _in_time(lambda hook=hook: hook(config=dict(tables), data_dir=data_dir), time_s)  # type: ignore[misc]
                found += _all_of(handed, "clearspan_companions", _no_companion)
            except LeftOut as error:
                log.warning("the companions of a plugin are left out", plugin=name, problem=str(error))
        return found

    def provides(self, plugin: str) -> list[str]:
        """What a plugin brings, in words: ``psp acme``, ``vault acme``, ``routes /admin``."""
        psps = [f"psp {name}" for name, owner in self.plugin_of_psp.items() if owner == plugin]
        vaults = [f"vault {name}" for name, owner in self.plugin_of_vault.items() if owner == plugin]
        routes = [f"routes {path}" for path in self._paths.get(plugin, ())]
        companions = ["companions"] if hasattr(self._modules.get(plugin), "clearspan_companions") else []
        return psps + vaults + routes + companions


def installed(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
) -> dict[str, importlib.metadata.EntryPoint]:
    """The plugins that are installed, by name; nothing of them has run.

    Raises:
        PluginError: two distributions claim one name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points:
        other = found.setdefault(point.name, point)
        if other.value != point.value or distribution_of(other) != distribution_of(point):
            raise PluginError(
                f"Two distributions claim the plugin name '{point.name}': {distribution_of(other)[0]} and"
                f" {distribution_of(point)[0]}. Uninstall one of them."
            )
    return found


def load(
    enabled: Mapping[str, str],
    *,
    safe_mode: bool = False,
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    time_s: float = TIME_S,
) -> Plugins:
    """Load what is listed.

    Args:
        enabled: entry-point name -> version range (PEP 440), ``plugins.enabled`` of the settings.
        safe_mode: load nothing.
        entry_points: instead of those installed.
        time_s: what each plugin gets.

    Raises:
        PluginError: see the module's docstring.
    """
    plugins = Plugins()
    if safe_mode:
        return plugins
    points = installed(entry_points)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    for name, wanted in enabled.items():
        if name not in points:
            near = difflib.get_close_matches(name, points, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Installed: {', '.join(sorted(points)) or 'none'}."
            raise PluginError(
                f"The settings enable the plugin '{name}', which is not installed.{hint}"
                " Install it or take it out of plugins.enabled."
            )
        _load_one(plugins, manager, points[name], wanted, time_s)
    return plugins


class _Handed(msgspec.Struct, frozen=True):
    """What one plugin's hooks handed over."""

    module: Any
    psps: Sequence[Any]
    vaults: Sequence[Any]
    routes: Sequence[Any]


def _load_one(
    plugins: Plugins, manager: pluggy.PluginManager, point: importlib.metadata.EntryPoint, wanted: str, time_s: float
) -> None:
    distribution, version = distribution_of(point)
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        raise PluginError(
            f"The plugin '{point.name}' is installed as {distribution} {version}, but the settings want '{wanted}'."
            " Install a version in the range or change plugins.enabled."
        )
    try:
        handed = _in_time(lambda: _hand_over(manager, point), time_s)
    except LeftOut as error:
        log.warning("plugin left out", plugin=point.name, problem=str(error))
        plugins.loaded.append(LoadedPlugin(point.name, distribution, version, problem=str(error), wanted=wanted))
        return
    _claim(plugins.psps, plugins.plugin_of_psp, handed.psps, point.name, "PSP")
    _claim(plugins.vaults, plugins.plugin_of_vault, handed.vaults, point.name, "vault")
    plugins._take(point.name, handed)  # noqa: SLF001
    plugins.loaded.append(LoadedPlugin(point.name, distribution, version, wanted=wanted))


def _hand_over(manager: pluggy.PluginManager, point: importlib.metadata.EntryPoint) -> _Handed:
    """Import a plugin and call its hooks.

    Raises:
        PluginError: it implements a hook that does not exist.
        LeftOut: it does not keep to the contract.
    """
    module = point.load()
    if problem := contract.sdk_problem(module):
        raise LeftOut(problem)
    try:
        manager.register(module, name=point.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"The plugin '{point.name}' implements a hook that does not exist or fits badly: {error}"
        ) from error
    return _Handed(
        module,
        _collect(module, "clearspan_psps", contract.psp_problems),
        _collect(module, "clearspan_vaults", contract.vault_problems),
        _collect(module, "clearspan_routes", contract.route_problems),
    )


def _in_time(work: Callable[[], T], time_s: float) -> T:
    """Run a plugin's code in a thread of its own, for so long at most.

    Raises:
        PluginError: as ``work`` does.
        LeftOut: it raised something else, wanted to end the process, or did not come back.
    """
    ended: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:  # noqa: BLE001  (One of the three edges: SystemExit is a plugin's fault like any other.)
            raised.append(error)

    thread = threading.Thread(target=run, name="plugin", daemon=True)
    thread.start()
    thread.join(time_s)
    if ended:
        return ended[0]
    if not raised:
        raise LeftOut(
            f"it did not come back within {time_s:g} seconds; what it was doing goes on until this process ends"
        )
    (error,) = raised
    if isinstance(error, PluginError | LeftOut):
        raise error
    log.error("a plugin raised", exc_info=error)
    raise LeftOut(_in_words(error)) from error


def _in_words(error: BaseException) -> str:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        return f"it tried to end the process ({words})"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("clearspan"):
        return f"{words}. Install what it depends on: 'pip check' names what is missing"
    if isinstance(error, ImportError) and (error.name or "").startswith("clearspan.sdk"):
        return (
            f"{words}. It was made for another SDK than {API_VERSION}: install a version of the plugin for this one,"
            " or another Clearspan"
        )
    return words


def _collect(module: Any, hook: str, problems: Callable[[Any], list[str]]) -> Sequence[Any]:
    function = getattr(module, hook, None)
    return () if function is None else _all_of(function(), hook, problems)


def _all_of(handed: Any, hook: str, problems: Callable[[Any], list[str]]) -> Sequence[Any]:
    """What a hook answered, checked.

    Raises:
        LeftOut: with all that is wrong.
    """
    if inspect.isawaitable(handed):
        if inspect.iscoroutine(handed):
            handed.close()
        raise LeftOut(f"{hook} is async; hooks are plain functions")
    if isinstance(handed, str | bytes | Mapping) or not isinstance(handed, Iterable):
        raise LeftOut(f"{hook} returned a {type(handed).__name__}, must return a list")
    found = tuple(handed)
    wrong = [f"{getattr(one, '__name__', type(one).__name__)}.{problem}" for one in found for problem in problems(one)]
    if wrong:
        raise LeftOut(f"{hook} hands over what does not fulfil the contract: {'; '.join(wrong)}")
    return found


def _no_companion(one: Any) -> list[str]:
    return [] if isinstance(one, Companion) else ["must be a Companion"]


def _claim(kinds: dict[str, type[T]], owners: dict[str, str], found: Sequence[type[T]], plugin: str, what: str) -> None:
    for kind in found:
        name: str = kind.name  # type: ignore[attr-defined]
        if name in kinds:
            raise PluginError(
                f"The plugins '{owners[name]}' and '{plugin}' both bring a {what} named '{name}'. Disable one."
            )
        kinds[name] = kind
        owners[name] = plugin


def distribution_of(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """The distribution that an entry point comes from, and its version."""
    if point.dist is None:
        return (point.value, "0")
    return (point.dist.name, point.dist.version)
