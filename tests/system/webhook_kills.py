"""``python -m tests.system.webhook_kills --kills 2000``: the ordeal of ``test_webhook_kills`` at any size, with its figures."""

from __future__ import annotations

import argparse
import os
import sys

import pytest

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=2000)
    os.environ["CLEARSPAN_WEBHOOK_KILLS"] = str(parser.parse_args().kills)
    sys.exit(pytest.main(["-q", "-s", "tests/system/test_webhook_kills.py"]))
