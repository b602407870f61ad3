"""``python -m tests.torture sim|mutants|...``: see docs/reliability.md."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description="Break everything, then check that no money moved twice."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sim = commands.add_parser("sim", help="seeded runs in one process under a virtual clock")
    sim.add_argument("--seeds", type=int, default=2000, help="how many (default 2000)")
    sim.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default 0)")
    sim.add_argument("--seed", type=int, help="replay this one and show all of it")
    sim.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="processes")
    sim.add_argument("--patience", type=int, default=5, help="stop after so many failures")
    given = parser.parse_args()
    from tests.torture import sim as runs

    return runs.main(given.first, given.seeds, given.jobs, replay=given.seed, patience=given.patience)


if __name__ == "__main__":
    sys.exit(main())
