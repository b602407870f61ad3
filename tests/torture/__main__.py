"""``python -m tests.torture sim|shuffles|mutants|kill|chaos|schedulers|rebilling|change|all``: see docs/reliability.md."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.torture import chaos, processes, rebilling, schedulers


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    jobs = max(1, (os.cpu_count() or 2) // 2)
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture", description="Break everything, then check that no money moved twice."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sim = commands.add_parser("sim", help="seeded runs in one process under a virtual clock")
    sim.add_argument("--seeds", type=int, default=2000, help="how many (default 2000)")
    sim.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default 0)")
    sim.add_argument("--seed", type=int, help="replay this one and show all of it")
    sim.add_argument("--jobs", type=int, default=jobs, help="processes")
    sim.add_argument("--patience", type=int, default=5, help="stop after so many failures")
    sim.add_argument("--spare", type=_numbers, default=[], help="leave these seeds out: 3,7,11")
    tales = commands.add_parser("shuffles", help="what a PSP says, told in every order: one state at the end")
    tales.add_argument("--count", type=int, default=10_000, help="tellings in all (default 10000)")
    tales.add_argument("--seed", type=int, default=1)
    bugs = commands.add_parser("mutants", help="put bugs into a copy of the code; each must make a run fail")
    bugs.add_argument("names", nargs="*", help="only those whose name holds one of these words")
    bugs.add_argument("--seeds", type=int, default=600, help="after so many a mutant has survived (default 600)")
    bugs.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    processes.add_commands(commands)
    chaos.add_commands(commands)
    schedulers.add_commands(commands)
    rebilling.add_commands(commands)
    change = commands.add_parser("change", help="what every change must pass: seeded runs and kills")
    change.add_argument("--seeds", type=int, default=2000, help="runs (default 2000)")
    change.add_argument("--kills", type=int, default=500, help="kills (default 500)")
    change.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    everything = commands.add_parser("all", help="all of them, in the size for every change")
    everything.add_argument("--seeds", type=int, default=2000, help="runs (default 2000)")
    everything.add_argument("--count", type=int, default=3000, help="tellings (default 3000)")
    everything.add_argument("--jobs", type=int, default=jobs, help="processes")
    return parser


def main() -> int:
    """Parse and run."""
    from tests.torture import mutants, shuffles, sim

    given = _parser().parse_args()
    match given.command:
        case "kill" | "chaos" | "schedulers" | "rebilling":
            return int(given.run(given))
        case "sim":
            return sim.main(
                given.first, given.seeds, given.jobs, replay=given.seed, patience=given.patience, spared=given.spare
            )
        case "shuffles":
            return shuffles.main(given.count, given.seed)
        case "mutants":
            return mutants.main(given.names, given.seeds, given.jobs)
        case "change":
            # The same seed for every change; `kill` by itself takes a new one each time. Beside the seeds: it waits much.
            command = [sys.executable, "-m", "tests.torture", "kill", "--kills", str(given.kills), "--seed", "1"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as kills:
                try:
                    seeds = sim.main(0, given.seeds, given.jobs)
                    said, _ = kills.communicate()
                finally:
                    kills.kill()
            print(said, end="")
            return max(seeds, kills.returncode)
        case _:
            ends = [
                sim.main(0, given.seeds, given.jobs),
                shuffles.main(given.count, 1),
                mutants.main([], mutants.SEEDS_MAX, given.jobs),
                *(int(one.run(one)) for one in map(_parser().parse_args, (["kill"], ["chaos"]))),
            ]
            return max(ends)


if __name__ == "__main__":
    sys.exit(main())
