"""`python -m tests.mutants [FILE…]`: plants bugs into the SQL of our modules, one at a time. Lists what no test noticed.

A run without bugs records which test executes which statement. Each mutant then runs in a fork of this process,
against the tests of its own statement alone, until the first one fails.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from tests.mutants.forks import Coverage, cover, create_database, drop_database, survives
from tests.mutants.source import Planted, planted

ROOM = Path("infra/postgres")
MODULES = ["ledger", "dead_letters", "retention", "sweep", "outbox", "providers"]
FILES = [ROOM / f"{name}.py" for name in MODULES] + sorted((ROOM / "transitions").glob("[a-z]*.py"))


def _covering(mutant: Planted, coverage: Coverage) -> list[str]:
    """The tests that execute the mutant's statement, the fastest first."""
    tests = [test for test, executed in coverage.statements.items() if any(map(mutant.covered_by, executed))]
    return sorted(tests, key=lambda test: coverage.seconds[test])


def _judge(mutant: Planted, coverage: Coverage, free: "Queue[str]", folder: str) -> str:
    tests = _covering(mutant, coverage)
    database = free.get()
    try:
        verdict = survives(mutant, tests, database, folder) if tests else "no test"
    finally:
        free.put(database)
    if verdict != "caught":
        print(f"{verdict}: {mutant.path}:{mutant.line}: {mutant.change} ({len(tests)} tests)", flush=True)
    return verdict


def _all(found: list[Planted], workers: int, folder: str) -> Counter[str]:
    """The verdicts of all mutants, by `workers` at a time, each with a database of its own."""
    names = [create_database(folder) for _ in range(workers)]
    free: Queue[str] = Queue()
    for name in names:
        free.put(name)
    try:
        coverage = cover(names[0], folder)
        print(f"mutants: {len(found)}, {len(coverage.seconds)} tests", flush=True)
        with ThreadPoolExecutor(workers) as pool:
            return Counter(pool.map(lambda mutant: _judge(mutant, coverage, free, folder), found))
    finally:
        for name in names:
            drop_database(name, folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    options = parser.parse_args()
    started = time.monotonic()
    found = [mutant for path in options.files for mutant in planted(path)]
    with tempfile.TemporaryDirectory(prefix="posthaste-mutants-") as folder:
        verdicts = _all(found, options.jobs, folder)
    print(f"mutants: {dict(verdicts)} in {time.monotonic() - started:.0f} s; the survivors are judged in docs/testing.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
