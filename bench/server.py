"""One web process for the bench: ``python -m bench.server DIR PORT DATABASE_URL``.

With ``BENCH_PSP=null`` the PSP and the vault are inside the process; with ``sandbox`` they are the simulators, over
loopback HTTP.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import uvicorn

from bench import null_psp
from clearspan.app import Gateway, create_app
from clearspan.platform import memory, plugins
from clearspan.platform.crypto import load_master_key
from clearspan.platform.telemetry import configure_logging
from clearspan.settings import DataSettings, load


def main() -> None:
    """Serve until killed."""
    home, port, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    settings = load(home / "clearspan.toml", environ={})
    settings = msgspec.structs.replace(settings, data=DataSettings(dir=str(home)))
    configure_logging("error", "json")
    loaded = null_psp.plugins() if os.environ["BENCH_PSP"] == "null" else plugins.load(settings.plugins.enabled)
    gateway = Gateway(settings, url, load_master_key(home / "master.key", create=False), loaded)
    app = create_app(gateway)
    memory.settle()  # As ``clearspan web`` does.
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main()
