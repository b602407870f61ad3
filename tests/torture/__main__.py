"""``python -m tests.torture sim|mutants|...``: see docs/reliability.md."""

from __future__ import annotations

import argparse
import os
import sys

from tests.torture import chaos, processes


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


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
    sim.add_argument("--spare", type=_numbers, default=[], help="leave these seeds out: 3,7,11")
    bugs = commands.add_parser("mutants", help="put bugs into a copy of the code; each must make a run fail")
    bugs.add_argument("names", nargs="*", help="only those whose name holds one of these words")
    bugs.add_argument("--seeds", type=int, default=600, help="after so many a mutant has survived (default 600)")
    bugs.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    processes.add_commands(commands)
    chaos.add_commands(commands)
    given = parser.parse_args()
    if "run" in given:
        done: int = given.run(given)
        return done
    if given.command == "mutants":
        from tests.torture import mutants

        return mutants.main(given.names, given.seeds, given.jobs)
    from tests.torture import sim as runs

    return runs.main(given.first, given.seeds, given.jobs, replay=given.seed, patience=given.patience, spared=given.spare)


if __name__ == "__main__":
    sys.exit(main())
