"""``make test-providers``: prepare ``.venv-providers`` and run the judges of all plugins there, everything within bounds of time.

The virtualenv holds what ``requirements-providers.lock`` pins, and beside it, in ``tools``, the npm tools of
``providers/package-lock.json``; Node is the machine's own when it is 20 or newer, else the one of
``requirements-providers-node.lock``. Where packages come from is the affair of pip's, uv's and npm's own settings; no address
is named here. Simulators and adapters run in the product's interpreter, ``CLEARSPAN_PYTHON``, by default the one that runs this.

    make test-providers ARGS="plugins/psp-square/judges -k webhook"
    CLEARSPAN_PROVIDERS_VENV   another place for the virtualenv, so that several checkouts may share one
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
VENV = Path(os.environ.get("CLEARSPAN_PROVIDERS_VENV") or ROOT / ".venv-providers").absolute()
PYTHON = VENV / "bin" / "python"
TOOLS = VENV / "tools"
LOCK, NODE_LOCK = ROOT / "requirements-providers.lock", ROOT / "requirements-providers-node.lock"
NPM_FILES = [ROOT / "providers" / name for name in ("package.json", "package-lock.json")]
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
"""The interpreter behind this virtualenv: it may have a pip, this one need not."""
INSTALL_MAX_S = 240
JUDGES_MAX_S = 600
NODE_MIN = 20


class Failed(Exception):
    """A step did not work; the words say which."""


def run(argv: Sequence[str | Path], *, env: Mapping[str, str], limit_s: float, cwd: Path = ROOT) -> bool:
    """Whether a command ends well, and in time."""
    try:
        done = subprocess.run(argv, env=env, cwd=cwd, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        print(f"providers: {Path(argv[0]).name} did not end within {limit_s:.0f} s", file=sys.stderr)
        return False
    return done.returncode == 0


def index_environment() -> dict[str, str]:
    """The environment for uv, which knows neither pip.conf nor PIP_*: what only pip was told is passed on."""
    env = dict(os.environ)
    env |= {"UV_SYSTEM_CERTS": env.get("UV_SYSTEM_CERTS", "true"), "UV_PYTHON_DOWNLOADS": "never"}
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    env.pop("PYTHONPATH", None)
    if not os.access(os.environ.get("HOME", "/nonexistent"), os.W_OK):
        env.setdefault("UV_CACHE_DIR", str(ROOT / ".uv" / "cache"))
        env.setdefault("npm_config_cache", str(ROOT / ".uv" / "npm"))
    argv = [BASE_PYTHON, "-m", "pip", "config", "list"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout
    told = dict(re.findall(r"^[a-z]+\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    index, cert = env.get("PIP_INDEX_URL") or told.get("index-url"), env.get("PIP_CERT") or told.get("cert")
    if index and not env.get("UV_DEFAULT_INDEX") and not env.get("UV_INDEX_URL"):
        env["UV_DEFAULT_INDEX"] = index
    if cert:
        env.setdefault("SSL_CERT_FILE", cert)
    return env


def fingerprint() -> str:
    """What the virtualenv was made from, and where it is."""
    parts = [str(VENV).encode(), sys.version.encode(), *(file.read_bytes() for file in (LOCK, NODE_LOCK, *NPM_FILES))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def own_node() -> Path | None:
    """The folder of the machine's Node, when it is new enough and npm is there too."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False)
    found = re.match(r"v(\d+)\.", said.stdout)
    return Path(node).parent if found and int(found[1]) >= NODE_MIN and Path(node).parent == Path(npm).parent else None


def install(lock: Path, env: Mapping[str, str]) -> None:
    """Into the virtualenv, by hash: with uv, else with pip, which may know an index or a certificate that uv does not."""
    uv = Path(sys.executable).parent / "uv"
    tool: str | None = str(uv) if uv.exists() else shutil.which("uv")
    into = ["--require-hashes", "-r", str(lock)]
    if tool is not None:
        argv = [tool, "pip", "install", "--quiet", "--python", str(PYTHON), *into]
        if run(argv, env=env, limit_s=INSTALL_MAX_S):
            return
        print("providers: uv could not, trying pip", file=sys.stderr)
    argv = [BASE_PYTHON, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", *into]
    if not run(argv, env=env, limit_s=INSTALL_MAX_S):
        raise Failed(f"{lock.name} could not be installed")


def install_tools(node: Path, env: Mapping[str, str]) -> None:
    """The npm tools, from the lock that names versions and hashes but no address; no script of theirs runs."""
    TOOLS.mkdir(exist_ok=True)
    for file in NPM_FILES:
        shutil.copy(file, TOOLS)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--no-update-notifier"]
    path = {"PATH": f"{node}:{os.environ.get('PATH', '')}"}
    if not run([node / "npm", "ci", *quiet], env={**env, **path}, limit_s=INSTALL_MAX_S, cwd=TOOLS):
        raise Failed("the npm tools could not be installed")


def prepare() -> Path:
    """Make the virtualenv unless it is as it should be; the folder of Node."""
    made = VENV / "made.json"
    VENV.parent.mkdir(parents=True, exist_ok=True)
    with VENV.with_name(f"{VENV.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Two starts at once: the second one waits, then finds the work done.
        if made.exists():
            said = json.loads(made.read_text())
            if said["fingerprint"] == fingerprint() and Path(said["node"]).is_dir():
                return Path(said["node"])
        print(f"providers: preparing {VENV.name}", file=sys.stderr)
        env = index_environment()
        if not run([sys.executable, "-m", "venv", "--clear", "--without-pip", VENV], env=env, limit_s=60):
            raise Failed("the virtualenv could not be made")
        node = own_node()
        if node is None:
            install(NODE_LOCK, env)
            node = VENV / "bin"
        with ThreadPoolExecutor(2) as both:
            for step in [both.submit(install, LOCK, env), both.submit(install_tools, node, env)]:
                step.result()
        made.write_text(json.dumps({"fingerprint": fingerprint(), "node": str(node)}))
        return node


def main(arguments: Sequence[str]) -> int:
    """Prepare, then run pytest; its exit status."""
    began = time.monotonic()
    try:
        node = prepare()
    except Failed as failed:
        print(f"providers: {failed}; nothing was judged", file=sys.stderr)
        return 1
    ready = time.monotonic()
    options = [one for one in arguments if not (ROOT / one.split("::")[0]).exists()]
    places = [one for one in arguments if one not in options] or sorted(
        str(one) for one in ROOT.glob("plugins/*/judges")
    )
    argv = [PYTHON, "-m", "pytest", "-c", ROOT / "providers" / "pytest.ini", "--rootdir", ROOT, *options, *places]
    env = dict(os.environ) | {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CLEARSPAN_PYTHON": os.environ.get("CLEARSPAN_PYTHON") or sys.executable,
        "CLEARSPAN_NODE": str(node / "node"),
        "CLEARSPAN_TOOLS": str(TOOLS / "node_modules" / ".bin"),
    }
    ended_well = run(argv, env=env, limit_s=JUDGES_MAX_S)
    print(f"providers: prepared in {ready - began:.0f} s, judged in {time.monotonic() - ready:.0f} s", file=sys.stderr)
    return 0 if ended_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
