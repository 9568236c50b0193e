"""`python -m tests.fuzz`: the long run on a private service; exit code 1 if a check fails."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from dev.databases import create_database, drop_database
from infra.postgres import migration
from tests.fuzz.run import SETTINGS, fuzz
from tests.support import services as found
from tests.support.services import drop_namespace, unique
from tests.support.stack import running


async def _run(examples: int, seed: int) -> int:
    services, namespace = found.find(), unique("fuzz")
    database = create_database(services.database, namespace)
    try:
        migration.migrate(database, namespace)
        with tempfile.TemporaryDirectory(prefix="posthaste-fuzz-") as folder:
            async with running(services, database, namespace, Path(folder), **SETTINGS) as stack:  # type: ignore[arg-type]
                done = await fuzz(stack, "--max-examples", str(examples), "--seed", str(seed))
                print(done.stdout, done.stderr, sep="\n")
                failed = stack.processes["api"].output().count("request.failed")
                print(f"fuzz: seed {seed}, {examples} examples an operation; {failed} defects in the API's log")
                return int(done.returncode != 0 or failed > 0)
    finally:
        drop_database(services.database, namespace)
        await drop_namespace(services.amqp, namespace, ["sandbox"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="random requests for each operation and phase")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    options = parser.parse_args()
    return asyncio.run(_run(options.examples, options.seed))


if __name__ == "__main__":
    sys.exit(main())
