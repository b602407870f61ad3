"""The image and the compose files, as far as they can be held to their word without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml

from clearspan import settings
from clearspan_psp_sandbox import SandboxPspConfig
from clearspan_vault_sandbox import SandboxVaultConfig

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
COMPOSE = {
    "production": [ROOT / "docker/compose.yaml"],
    "development": [ROOT / "docker/compose.yaml", ROOT / "docker/compose.dev.yaml"],
}
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|AUTH", re.IGNORECASE)


class Instruction(NamedTuple):
    """One instruction of the Containerfile, its lines joined."""

    name: str
    text: str


def _stages() -> list[list[Instruction]]:
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, text = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append(Instruction(name, text.strip()))
    return stages


BUILD, FINAL = _stages()


def _copies(stage: list[Instruction]) -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY from the context."""
    words = [text.split() for name, text in stage if name == "COPY" and not text.startswith("--from")]
    return [(sources, destination) for *sources, destination in words]


def _services(files: list[Path]) -> dict[str, dict[str, Any]]:
    """The services of compose files laid over each other, as far as these files need it: mappings merge, the rest wins."""
    services: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, service in yaml.safe_load(file.read_text())["services"].items():
            merged = services.setdefault(name, {})
            for key, value in service.items():
                merged[key] = merged.get(key, {}) | value if isinstance(value, dict) else value
    return services


def _interpolated(text: str, variables: dict[str, str]) -> str:
    """``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` as compose reads them; fails on a required one not set."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.group(1, 2, 3)
        if variables.get(name):
            return variables[name]
        assert operator == ":-", f"{name} is required: {rest}"
        return rest

    return re.sub(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    run = subprocess.run([TOOLS / "hadolint", ROOT / "Containerfile"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("file", COMPOSE["development"], ids=lambda file: file.name)
def test_a_compose_file_keeps_to_the_compose_specification(file: Path) -> None:
    command = [str(TOOLS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_copied_source_exists_and_reaches_the_build() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignore[0] == "*"
    for sources, _ in [*_copies(BUILD), *_copies(FINAL)]:
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignore, f"{source} is not let through by .dockerignore"


def test_the_image_runs_as_a_user_without_rights_or_a_name_to_look_up() -> None:
    users = [text for name, text in FINAL if name == "USER"]
    assert users == ["10001:10001"]
    # Nothing that runs as root follows it.
    last = FINAL.index(Instruction("USER", users[0]))
    assert not [name for name, _ in FINAL[last:] if name in {"RUN", "COPY", "ADD"}]


def test_the_image_holds_no_secret() -> None:
    for name, text in [*BUILD, *FINAL]:
        if name in {"ENV", "ARG", "LABEL"}:
            assert not SECRET.search(text), text


def test_the_image_starts_the_web_process_and_asks_for_its_health() -> None:
    final = dict(FINAL)
    assert (json.loads(final["ENTRYPOINT"]), json.loads(final["CMD"])) == (["clearspan"], ["web"])
    assert "/health/live" in final["HEALTHCHECK"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert final["EXPOSE"] == str(settings.load(environ=_image_environment()).server.port)


def _image_environment() -> dict[str, str]:
    pairs = [word.partition("=") for name, text in FINAL if name == "ENV" for word in text.split()]
    return {name: value for name, _, value in pairs if name.startswith("CLEARSPAN_")}


@pytest.mark.parametrize("files", COMPOSE.values(), ids=COMPOSE)
def test_what_compose_sets_are_settings(files: list[Path]) -> None:
    variables = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two"}
    for name, service in _services(files).items():
        texts = {key: _interpolated(value, variables) for key, value in service.get("environment", {}).items()}
        ours = {key: text for key, text in texts.items() if key.startswith("CLEARSPAN_")}
        loaded = settings.load(environ=_image_environment() | ours)
        if ours:
            assert loaded.database.url.reveal() == "postgresql://clearspan:one@postgres:5432/clearspan", name
            assert loaded.redis.url.reveal() == "redis://:two@redis:6379/0", name


def test_production_runs_without_simulators_and_development_with_both() -> None:
    enabled = {}
    for kind, files in COMPOSE.items():
        environment = _services(files)["web"]["environment"]
        enabled[kind] = set(json.loads(environment["CLEARSPAN_PLUGINS_ENABLED"]))
    assert enabled == {"production": {"admin"}, "development": {"admin", "psp-sandbox", "vault-sandbox"}}


@pytest.mark.parametrize("files", COMPOSE.values(), ids=COMPOSE)
def test_ports_are_published_on_this_machine_only(files: list[Path]) -> None:
    for name, service in _services(files).items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_production_publishes_web_alone_and_hides_database_and_queue() -> None:
    services = _services(COMPOSE["production"])
    assert [name for name, service in services.items() if "ports" in service] == ["web"]
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["backend"]
    assert yaml.safe_load(COMPOSE["production"][0].read_text())["networks"]["backend"] == {"internal": True}


def test_every_secret_in_compose_comes_from_the_environment() -> None:
    for files in COMPOSE.values():
        for service in _services(files).values():
            for key, value in service.get("environment", {}).items():
                if SECRET.search(key):
                    assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), key
                for password in re.findall(r"://\w*:([^@]*)@", value):
                    assert password.startswith("${"), key
    example = (ROOT / "docker/.env.example").read_text()
    assert re.findall(r"^(\w*PASSWORD)=(.*)$", example, re.MULTILINE) == [
        ("POSTGRES_PASSWORD", ""),
        ("REDIS_PASSWORD", ""),
    ]


@pytest.mark.parametrize("name", ["psp-sandbox", "vault-sandbox"])
def test_a_simulator_gets_the_options_it_takes_and_needs(name: str) -> None:
    service = _services(COMPOSE["development"])[name]
    module, *options = service["command"]
    assert service["entrypoint"] == ["python", "-m"]
    run = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    usage = run.stdout.partition("\n\n")[0]
    given = {option.partition("=")[0] for option in options}
    assert given <= set(re.findall(r"--[a-z-]+", usage))
    # The usage line has what may be left out in brackets.
    assert set(re.findall(r"--[a-z-]+", re.sub(r"\[[^\]]*\]", "", usage))) <= given


def test_the_simulators_settings_in_compose_are_their_plugins() -> None:
    variables = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two"}
    services = _services(COMPOSE["development"])
    environment = {key: _interpolated(text, variables) for key, text in services["web"]["environment"].items()}
    loaded = settings.load(environ=environment)
    psp = msgspec.convert(loaded.plugin["psp-sandbox"], SandboxPspConfig)
    vault = msgspec.convert(loaded.plugin["vault-sandbox"], SandboxVaultConfig)
    for name, url, public_url in [
        ("psp-sandbox", psp.url, psp.public_url),
        ("vault-sandbox", vault.url, vault.public_url),
    ]:
        (published,) = services[name]["ports"]
        assert url == f"http://{name}:{published.rpartition(':')[2]}"
        assert public_url == f"http://{published.rpartition(':')[0]}"


class Image(NamedTuple):
    """What the build stage left behind, run without an engine."""

    python: Path
    elsewhere: Path

    def run(self, *command: str) -> str:
        """The output of a command of the installation, started in an empty folder with an empty environment."""
        environment = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(self.elsewhere)}
        tool, *rest = command
        return subprocess.run(
            [self.python.parent / tool, *rest],
            capture_output=True,
            check=True,
            cwd=self.elsewhere,
            env=environment,
            text=True,
        ).stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The build stage, from what uv has in its cache; over the network only when that does not do."""
    errors = []
    for offline in (True, False):
        box = tmp_path_factory.mktemp("image")
        try:
            return _build(box, offline=offline)
        except subprocess.CalledProcessError as error:
            errors.append(f"{error.cmd}\n{error.stdout}{error.stderr}")
    pytest.fail("\n".join(errors))


def _build(box: Path, *, offline: bool) -> Image:
    """Run the RUN and COPY lines of the build stage as a script in a clean folder.

    Absolute paths lie under that folder, ``python`` is a fresh environment in the place of the base image's, and its
    ``pip`` is uv's, so that what this machine has fetched before is not fetched again.
    """
    uv = shutil.which("uv", path=f"{TOOLS}:{ROOT}/.uv/tool/bin:{os.environ['PATH']}")
    assert uv, "no uv: run `make bootstrap`"
    base, source, empty = box / "base", box / "src", box / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if re.match(r"(UV|SSL|XDG|HTTPS?|NO)_", key.upper())}
    environment |= {
        "HOME": os.environ.get("HOME", str(empty)),
        "PATH": f"{base}/bin:/usr/bin:/bin",
        "UV_OFFLINE": str(int(offline)),
        "UV_SYSTEM_CERTS": "true",
        "VIRTUAL_ENV": str(base),
    }
    if (ROOT / ".uv/cache").exists():
        environment["UV_CACHE_DIR"] = str(ROOT / ".uv/cache")

    def run(*command: str | Path, cwd: Path = empty) -> None:
        subprocess.run(command, capture_output=True, check=True, cwd=cwd, env=environment, text=True)

    run(uv, "venv", "--python", sys.executable, base)
    (base / "bin/pip").write_text(f'#!/bin/sh\nexec {uv} pip "$@"\n')
    (base / "bin/pip").chmod(0o755)
    for name, text in BUILD:
        if name == "COPY":
            *paths, destination = text.split()
            for path in paths:
                _copy(ROOT / path, source / (path if destination == "./" else destination))
        elif name == "RUN":
            run("/bin/sh", "-euc", re.sub(r"(?<!\S)/(opt|wheels)\b", rf"{box}/\1", text), cwd=source)
    return Image(box / "opt/clearspan/bin/python", empty)


def _copy(source: Path, destination: Path) -> None:
    patterns = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()]
    left_out = [pattern for pattern in patterns if pattern and pattern != "*" and pattern[0] not in "#!"]
    if source.is_dir():
        shutil.copytree(source, destination, ignore=shutil.ignore_patterns(*left_out))
    else:
        destination.parent.mkdir(exist_ok=True)
        shutil.copy2(source, destination)


def test_the_steps_of_the_image_install_a_clearspan_that_runs(image: Image) -> None:
    version = tomllib.loads((ROOT / "core/pyproject.toml").read_text())["project"]["version"]
    assert version in image.run("clearspan", "--version")


def test_the_installation_holds_every_file_of_its_packages(image: Image) -> None:
    for project in _members():
        (package,) = (project / "src").iterdir()
        location = Path(image.run("python", "-c", f"import {package.name} as p; print(p.__path__[0])").strip())
        assert location.is_relative_to(image.python.parents[1])
        ours = {file.relative_to(package) for file in package.rglob("*") if file.is_file()}
        wanted = {file for file in ours if "__pycache__" not in file.parts and not fnmatch(file.name, ".*")}
        assert sorted(wanted - {file.relative_to(location) for file in location.rglob("*")}) == []


def test_the_installation_reads_its_defaults_and_finds_its_plugins(image: Image) -> None:
    script = (
        "from importlib.metadata import entry_points; from clearspan import settings;"
        "print(settings.load(environ={}).server.port, *sorted(e.name for e in entry_points(group='clearspan')))"
    )
    projects = [tomllib.loads((project / "pyproject.toml").read_text())["project"] for project in _members()]
    plugins = [name for project in projects for name in project.get("entry-points", {}).get("clearspan", {})]
    assert image.run("python", "-c", script).split() == ["8080", *sorted(plugins)]


def test_the_installation_has_no_developer_tools(image: Image) -> None:
    script = "import importlib.util as u; print([n for n in ('pytest', 'mypy', 'uv', 'hypothesis') if u.find_spec(n)])"
    assert image.run("python", "-c", script).strip() == "[]"


def _members() -> list[Path]:
    return sorted(file.parent for file in [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")])
